//! The SQLite store: the contract, opening, hostile files, several processes, erasure, plaintext.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a panic is the report, in its helpers too"
)]

mod appending;
mod backup;
mod conformance;
mod crash;
mod erasure;
mod faults;
mod hostile;
mod opening;
mod plaintext;
mod power_cut;
mod processes;
mod support;
mod tamper;
mod url;
