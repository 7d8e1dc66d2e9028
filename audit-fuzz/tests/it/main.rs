//! Every corpus, run as tests: what fuzzing once found, and what it starts from.

#![expect(
    clippy::unwrap_used,
    reason = "a panic is a test's report, in helpers too"
)]

mod corpora;
mod seeds;
