//! Integration tests: key rings in files and services, and foreign vectors for the primitives.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::string_slice,
    reason = "in a test a panic is the report, in its helpers too"
)]
#![expect(clippy::print_stdout, reason = "a test that skips says so")]

mod aside;
mod ca;
mod copy;
mod faults;
mod ingest;
mod keyring;
mod log;
mod mirror;
mod primitives;
mod simulation;
mod succession;
mod vectors;
