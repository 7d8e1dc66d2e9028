//! The SQLite store: the contract, opening, hostile files, several processes, erasure, plaintext.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a panic is the report, in its helpers too"
)]

mod conformance;
mod erasure;
mod hostile;
mod opening;
mod plaintext;
mod processes;
mod support;
mod url;
