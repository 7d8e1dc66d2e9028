//! What tests of stores and logs need: a conformance suite, a strict store in memory, faults, samples, clocks and ids
//! that repeat.
//!
//! # In scope
//!
//! - [`conformance`]: every guarantee of [`audit_core::store`], as one test each, for any backend.
//! - [`memory::MemoryStore`]: the contract in memory, which also refuses what a careful log never writes.
//! - [`forward`]: wrapping a store. [`faulty::FaultyStore`]: its calls fail on demand, before or after they took effect.
//!   [`mortal::MortalStore`]: its process dies. [`ledger::StrictStore`]: nothing is ever answered otherwise.
//! - [`fault_pairs`] and [`simulation`] (feature `simulation`): a log over any backend fails and dies at every step of the
//!   write path, systematically and at random. [`judge`]: what was acknowledged is held against what the verifier says.
//! - [`crash`]: processes that are killed while they write, and what a power cut may leave of their writes.
//! - [`network`]: a bad network between a client and a server that really runs.
//! - [`full_disk`]: a disk that is full, for a process that really runs. [`postgres`]: a server of a test's own, which it
//!   may crash.
//! - [`sample`]: batches that could come from a log. [`time`]: a clock and ids for them.
//! - [`tamper`]: what somebody can do to a log who can write to its store, for any backend; the verifier is the judge.
//! - [`evidence`]: a store as the verifier sees it.
//! - [`scan`]: looking for bytes in raw files.
//!
//! # Out of scope
//!
//! - Judging a log: that is the verifier's work (`audit-verify`), which is asked here.
//! - Anything that a program in production should link. What fails here panics with what is wrong.
//!
//! # Example
//!
//! A backend says how to make, share and reopen its store; [`conformance_tests!`] makes a test of each property.
//!
//! ```
//! use audit_testkit::conformance;
//! use audit_testkit::memory::MemoryBackend;
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! conformance::a_log_is_created_once(&MemoryBackend::default()).await;
//! # });
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod conformance;
pub mod crash;
pub mod evidence;
#[cfg(feature = "simulation")]
pub mod fault_pairs;
pub mod faulty;
pub mod forward;
pub mod full_disk;
pub mod judge;
pub mod ledger;
pub mod memory;
pub mod mortal;
pub mod network;
pub mod plaintext;
pub mod postgres;
mod preload;
pub mod processes;
pub mod sample;
pub mod scan;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod tamper;
pub mod time;
