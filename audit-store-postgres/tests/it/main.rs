//! The PostgreSQL store, against a real server: `AUDIT_TEST_POSTGRES_URL` names it, as a superuser.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "in a test a panic is the report, in its helpers too, and a skip says so"
)]

mod appending;
mod conformance;
mod crash;
mod erasure;
mod faults;
mod follow;
mod hostile;
mod integrity;
mod network;
mod opening;
mod password;
mod plaintext;
mod plans;
mod processes;
mod restarts;
mod roles;
mod support;
mod tamper;
mod url;
