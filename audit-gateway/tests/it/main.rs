//! The gateway between a raw HTTP client and upstreams that are real, recorded, or scripted to misbehave.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too, and a skipped suite says so"
)]

mod client;
mod fake;
mod gated;
mod scripted;
mod support;

mod faults;
mod fixtures;
mod guarantees;
mod hostile;
mod http2;
mod intercept;
mod log_trouble;
mod protocol;
mod redaction;
mod relay;
mod secrets;
mod stopping;
mod tls;
