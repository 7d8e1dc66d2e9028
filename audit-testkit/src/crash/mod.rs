//! Processes that die while they write, and disks that lose what wasn't synced.
//!
//! A test starts its own binary again as a process that does some [`Work`] on a log: callers append events that everybody
//! can make again ([`event`]), and each acknowledgement is a line on standard output, written behind the return of
//! `append`. A [`Victim`] is such a process as its driver sees it, to be killed at any moment; a [`Ledger`] holds what was
//! promised until then, and a [`Judge`] opens what is left, goes on with it, and compares: the verifier with all keys finds
//! nothing, every acknowledged event is there at its place, no event is there twice, nothing is there that nobody handed in.
//!
//! [`kill_and_go_on`] is the whole of it for a backend that says how it takes part ([`Mortal`]).
//!
//! A kill leaves everything that was written, synced or not. For a power cut a [`Tracer`] writes down what the processes do
//! with their files, a [`Disk`] does it again step by step, and gives the trees that a cut could leave ([`Survives`]).
//!
//! Nothing here knows of an engine: a test of a backend says how to open its store.
//! Tracing needs Linux with glibc, and a C compiler.

mod disk;
mod judge;
mod killer;
mod trace;
mod victim;
mod work;

pub use disk::{Disk, SECTOR_BYTES, Survives, Tree};
pub use judge::{Contents, Judge, Ledger};
pub use killer::{Killed, Moment, Mortal, kill_and_go_on};
pub use trace::{Call, Step, Trace, Tracer};
pub use victim::{Ended, Victim, pause};
pub use work::{Host, Work, event, place_of};
