//! Integration tests: recorded exchanges, own snapshots, and properties under arbitrary and hostile bytes.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a panic is a test's report, and standard output where it says what it skipped; in helpers too"
)]

mod credentials;
mod detection;
mod encodings;
mod fixtures;
mod framing;
mod golden;
mod hostile;
mod limits;
mod redaction;
mod sse;
mod streams;
mod support;
