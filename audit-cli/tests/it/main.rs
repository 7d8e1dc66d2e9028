//! The program as a user runs it, and what the documentation says of the crates.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a panic is the report, in its helpers too"
)]

mod architecture;
mod bundle;
mod crash;
mod demo;
mod emit;
mod engines;
mod full_disk;
mod init;
mod keyring;
mod layout_1;
mod moving;
mod object_lock;
mod power_cut;
mod read;
mod redaction;
mod serve;
mod support;
mod tamper;
mod tiering;
mod verify;
