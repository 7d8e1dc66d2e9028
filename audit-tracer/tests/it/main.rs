//! The facade as a service uses it: a real SQLite file, sessions, and a verdict over them.

#![expect(
    clippy::unwrap_used,
    reason = "in a test a panic is the report, in its helpers too"
)]

mod calls;
#[cfg(all(feature = "reqwest", feature = "tower"))]
mod clients;
mod creating;
mod endings;
mod integrity;
#[cfg(all(feature = "reqwest", feature = "tower"))]
mod openai;
#[cfg(all(feature = "reqwest", feature = "tower"))]
mod provider;
#[cfg(all(feature = "reqwest", feature = "tower"))]
mod services;
mod sessions;
mod support;
