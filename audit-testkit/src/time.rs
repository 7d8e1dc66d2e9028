//! A clock that is set and ids that repeat.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use audit_core::time::{Clock, IdSource, Timestamp};

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct TestClock {
    wall_micros: AtomicI64,
    monotonic_micros: AtomicU64,
}

impl TestClock {
    /// A clock that shows `at`.
    #[must_use]
    pub fn new(at: Timestamp) -> Self {
        Self {
            wall_micros: AtomicI64::new(at.as_micros()),
            monotonic_micros: AtomicU64::new(0),
        }
    }

    /// Sets the wall clock, back too; the monotonic clock stays.
    pub fn set(&self, at: Timestamp) {
        self.wall_micros.store(at.as_micros(), Ordering::SeqCst);
    }

    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        let signed = i64::try_from(micros).unwrap_or(i64::MAX);
        self.wall_micros.fetch_add(signed, Ordering::SeqCst);
        self.monotonic_micros.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Default for TestClock {
    /// 2026-01-02T03:04:05Z.
    fn default() -> Self {
        Self::new(Timestamp::EPOCH.plus_micros(1_767_323_045_000_000))
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::EPOCH.plus_micros(self.wall_micros.load(Ordering::SeqCst))
    }

    fn monotonic_micros(&self) -> u64 {
        self.monotonic_micros.load(Ordering::SeqCst)
    }
}

/// Ids and bytes that are the same for the same seed and the same order of calls. No one must keep a secret with them.
#[derive(Debug)]
pub struct TestIds {
    state: AtomicU64,
}

/// The step of `SplitMix64`: 2⁶⁴ divided by the golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl TestIds {
    /// A source that begins at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Seeds that lie close together, or a step apart, must not give the same sequence, shifted.
        Self {
            state: AtomicU64::new(mix(seed ^ mix(STEP))),
        }
    }

    /// The next number.
    pub fn number(&self) -> u64 {
        mix(self
            .state
            .fetch_add(STEP, Ordering::SeqCst)
            .wrapping_add(STEP))
    }
}

/// The output function of `SplitMix64`.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl IdSource for TestIds {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.number().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}
