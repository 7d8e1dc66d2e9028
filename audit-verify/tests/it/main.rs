//! The verifier, tested by attacking honest logs.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails as the test does"
)]
#![expect(
    clippy::semicolon_if_nothing_returned,
    clippy::cast_possible_truncation,
    clippy::type_complexity,
    reason = "small changes in long tables, over small numbers"
)]

mod bundles;
mod evidence_bundles;
mod forgers;
mod growing;
mod honest;
mod mutations;
mod program;
mod tree;
mod world;
