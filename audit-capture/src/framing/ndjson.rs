//! Lines of JSON (`application/x-ndjson`): every line that isn't blank is an event.

use super::{EVENT_BYTES_MAX, Event, PENDING_LOOKS_MAX};

/// The parser: memory is bounded by [`EVENT_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct LineParser {
    line: Vec<u8>,
    cut: bool,
    /// Looks at the unfinished line so far.
    looks: u8,
    /// The last byte that was read, be it kept or not.
    last: u8,
    position: u64,
    start: u64,
}

impl LineParser {
    /// A parser at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next bytes and calls `each` for every line that they complete.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&Event<'_>)) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let ended = piece.last() == Some(&b'\n');
            let text = if ended {
                piece.get(..piece.len() - 1).unwrap_or_default()
            } else {
                piece
            };
            self.keep(text);
            self.last = *piece.last().unwrap_or(&0);
            self.position += piece.len() as u64;
            if ended {
                if let Some(event) = self.event() {
                    each(&event);
                }
                self.line.clear();
                self.cut = false;
                self.looks = 0;
                self.start = self.position;
            }
        }
    }

    /// The unfinished line, if it may be whole: a client that reads values instead of lines acts on the last brace. No
    /// more than 16 looks at one line.
    pub fn pending(&mut self) -> Option<Event<'_>> {
        if self.last != b'}' || self.looks >= PENDING_LOOKS_MAX {
            return None;
        }
        self.looks += 1;
        self.event()
    }

    /// The unfinished line.
    #[must_use]
    pub fn rest(&self) -> Option<Event<'_>> {
        self.event()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = EVENT_BYTES_MAX.saturating_sub(self.line.len());
        self.cut |= bytes.len() > room;
        let kept = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.line.extend_from_slice(kept);
    }

    fn event(&self) -> Option<Event<'_>> {
        let line = self.line.trim_ascii();
        (!line.is_empty()).then(|| Event {
            name: "".into(),
            data: String::from_utf8_lossy(line),
            oversize: self.cut,
            exception: false,
            start: self.start,
        })
    }
}
