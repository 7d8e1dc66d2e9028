//! What tests of stores and logs need: a conformance suite, a strict store in memory, faults, samples, clocks and ids
//! that repeat.
//!
//! # In scope
//!
//! - [`conformance`]: every guarantee of [`audit_core::store`], as one test each, for any backend.
//! - [`memory::MemoryStore`]: the contract in memory, which also refuses what a careful log never writes.
//! - [`faulty::FaultyStore`]: a store whose calls fail on demand, before or after they took effect.
//! - [`crash`]: processes that are killed while they write, and what a power cut may leave of their writes.
//! - [`sample`]: batches that could come from a log. [`time`]: a clock and ids for them.
//! - [`tamper`]: what somebody can do to a log who can write to its store, for any backend; the verifier is the judge.
//! - [`evidence`]: a store as the verifier sees it.
//! - [`scan`]: looking for bytes in raw files.
//!
//! # Out of scope
//!
//! - Judging a log: that is the verifier's work (`audit-verify`), here too.
//! - Anything that a program in production should link. What fails here panics with what is wrong.
//!
//! # Example
//!
//! A backend says how to make, share and reopen its store; [`conformance_tests!`] makes a test of each property.
//!
//! ```
//! use audit_testkit::conformance;
//! use audit_testkit::memory::MemoryBackend;
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! conformance::a_log_is_created_once(&MemoryBackend::default()).await;
//! # });
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod conformance;
pub mod crash;
pub mod evidence;
pub mod faulty;
pub mod memory;
pub mod sample;
pub mod scan;
pub mod tamper;
pub mod time;
