//! Comments that keep a silent stream of events from being taken for a dead one.
//!
//! Proxies and clients give up on connections on which nothing comes for a time. Off unless the operator asks for it, since
//! these bytes are ours and not the provider's: they are never recorded as its bytes.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// A line that every reader of server-sent events passes over (HTML standard, §9.2.6), and an event without data.
pub(crate) const COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// When to send the next one.
#[derive(Debug)]
pub(crate) struct KeepAlive {
    every: Option<Duration>,
    next: Option<Instant>,
    /// The last bytes that the client got: a comment fits only between two events.
    tail: [u8; 4],
    sent: u64,
}

impl KeepAlive {
    pub(crate) fn new(every: Option<Duration>) -> Self {
        Self {
            next: every.map(|every| Instant::now() + every),
            every,
            // Before the first byte it fits too.
            tail: *b"\n\n\n\n",
            sent: 0,
        }
    }

    /// When the next one is due, if one may be sent now.
    pub(crate) fn due(&self) -> Option<Instant> {
        let between = self.tail.ends_with(b"\n\n")
            || self.tail.ends_with(b"\r\n\r\n")
            || self.tail.ends_with(b"\r\r");
        self.next.filter(|_| between)
    }

    /// These bytes go to the client.
    pub(crate) fn passed(&mut self, data: &[u8]) {
        if let Some(every) = self.every {
            for byte in data.iter().skip(data.len().saturating_sub(4)) {
                self.tail.rotate_left(1);
                self.tail[3] = *byte;
            }
            self.next = Some(Instant::now() + every);
        }
    }

    /// One was sent.
    pub(crate) fn sent(&mut self) {
        self.sent += 1;
        self.next = self.every.map(|every| Instant::now() + every);
    }

    /// How many were sent.
    pub(crate) fn count(&self) -> u64 {
        self.sent
    }
}
