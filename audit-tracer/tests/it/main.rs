//! The facade as a service uses it: a real SQLite file, sessions, and a verdict over them.

#![expect(
    clippy::unwrap_used,
    reason = "in a test a panic is the report, in its helpers too"
)]

mod calls;
mod creating;
mod endings;
mod integrity;
mod sessions;
mod support;
