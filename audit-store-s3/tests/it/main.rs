//! The S3 store, on a real server: the contract, opening, hostile buckets, races, lost answers, erasure, static files.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a panic is the report, in its helpers too"
)]

mod conformance;
mod crash;
mod erasure;
mod faults;
mod hostile;
mod locking;
mod outcomes;
mod plaintext;
mod proxy;
mod racing;
mod requests;
mod runs;
mod static_files;
mod support;
mod tamper;
