//! Exchanges as they pass: a client's with a provider, and a service's with its clients.

mod body;
mod client;
mod head;
#[cfg(feature = "tower")]
mod layer;
#[cfg(feature = "tower")]
mod preview;
#[cfg(feature = "tower")]
mod service;
#[cfg(feature = "reqwest")]
mod wrap;

pub use body::RecordedBody;
pub use client::ClientRecorder;
#[cfg(feature = "tower")]
pub use layer::RecordedClient;
#[cfg(feature = "tower")]
pub use service::{Caller, CountedBody, RecordedService, ServiceRecorder, Unrecorded};

use audit_capture::Outcome;

/// Any error, as `tower`'s own layers have it. What this crate says itself is an [`Error`](crate::Error) in it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How an exchange ended, and why if not well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    pub(crate) outcome: Outcome,
    pub(crate) reason: Option<&'static str>,
}

impl Ending {
    pub(crate) const COMPLETE: Self = Self {
        outcome: Outcome::Complete,
        reason: None,
    };

    pub(crate) fn new(outcome: Outcome, reason: &'static str) -> Self {
        Self {
            outcome,
            reason: Some(reason),
        }
    }
}
