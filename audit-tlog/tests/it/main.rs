//! Integration tests: foreign vectors, other implementations as oracles, properties, and parsers under arbitrary bytes.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a panic is a test's report, and standard output where it says what it skipped; in helpers too"
)]

mod ed25519;
mod fixtures;
mod formats;
mod logs;
mod merkle;
mod oracles;
mod parsers;
mod properties;
