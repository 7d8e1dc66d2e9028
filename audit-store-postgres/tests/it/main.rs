//! The PostgreSQL store, against a real server: `AUDIT_TEST_POSTGRES_URL` names it, as a superuser.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a panic is the report, in its helpers too"
)]

mod conformance;
mod support;
