//! The testkit's own tests: the reference store and the wrappers hold the contract, the samples are what they claim.

#![expect(
    clippy::unwrap_used,
    reason = "in a test a panic is the report, in its helpers too"
)]

mod faulty;
mod full_disk;
mod memory;
mod network;
mod postgres;
mod sample;
mod scan;
mod tamper;
mod time;
mod wrappers;
