//! The times of many calls.

use std::time::Duration;

use audit_core::time::{Clock as _, System};

/// Times, in any order.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Adds one.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Adds all of another.
    pub fn append(&mut self, times: &mut Vec<Duration>) {
        self.0.append(times);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What half of them don't exceed; zero of none.
    #[must_use]
    pub fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// What 99 of 100 don't exceed; zero of none.
    #[must_use]
    pub fn p99(&self) -> Duration {
        self.percentile(99)
    }

    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = sorted.len() * percent / 100;
        sorted.get(at).copied().unwrap_or_default()
    }
}

/// Runs out after a time.
#[derive(Debug, Clone, Copy)]
pub struct Timer {
    started_us: u64,
    lasts: Duration,
}

impl Timer {
    /// From now on.
    #[must_use]
    pub fn start(lasts: Duration) -> Self {
        Self {
            started_us: System.monotonic_micros(),
            lasts,
        }
    }

    /// Since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(System.monotonic_micros().saturating_sub(self.started_us))
    }

    /// Whether time is left.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.elapsed() < self.lasts
    }
}
