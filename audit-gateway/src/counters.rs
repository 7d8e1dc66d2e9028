//! What the gateway has done so far.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts since the start, for health and for the summary at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Connections accepted.
    pub connections: u64,
    /// `llm.request` events in the log.
    pub requests: u64,
    /// `llm.response` events in the log.
    pub responses: u64,
    /// Tunnels that were opened, to hosts that are not intercepted; each is in the log.
    pub tunnels: u64,
    /// Requests refused before anything was recorded or sent.
    pub refused: u64,
    /// Requests that did not leave because the log could not be written.
    pub refused_unrecorded: u64,
    /// Records that went into the spool because the log could not be written.
    pub spooled: u64,
    /// Records that wait in the spool for the next start; counted at the end.
    pub spooled_left: u64,
    /// Records that are missing because the operator let calls go on without them; the log says which, when it can be
    /// written again.
    pub missed: u64,
    /// Answers whose record is still being tried.
    pub pending: u64,
    /// Answers whose record was given up: their requests stand in the log without an answer.
    pub unrecorded: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) responses: AtomicU64,
    pub(crate) tunnels: AtomicU64,
    pub(crate) tunnels_closed: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) refused_unrecorded: AtomicU64,
    pub(crate) spooled: AtomicU64,
    pub(crate) spooled_left: AtomicU64,
    pub(crate) missed: AtomicU64,
    pub(crate) pending: AtomicU64,
    pub(crate) unrecorded: AtomicU64,
    /// Whether the last append failed.
    pub(crate) log_failing: AtomicBool,
}

pub(crate) fn up(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn down(counter: &AtomicU64) {
    counter.fetch_sub(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn summary(&self) -> Summary {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Summary {
            connections: load(&self.connections),
            requests: load(&self.requests),
            responses: load(&self.responses),
            tunnels: load(&self.tunnels),
            refused: load(&self.refused),
            refused_unrecorded: load(&self.refused_unrecorded),
            spooled: load(&self.spooled),
            spooled_left: load(&self.spooled_left),
            missed: load(&self.missed),
            pending: load(&self.pending),
            unrecorded: load(&self.unrecorded),
        }
    }
}
