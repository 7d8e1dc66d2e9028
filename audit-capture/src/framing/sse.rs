//! Server-sent events, as the WHATWG HTML standard defines their parsing (§9.2.5, §9.2.6).
//!
//! Bytes may be cut anywhere: inside a UTF-8 sequence, between CR and LF, inside the byte order mark.
//! `id` and `retry` are for reconnecting, which a recorder never does, so they are read over.

use std::borrow::Cow;

use super::PENDING_LOOKS_MAX;
pub use super::{EVENT_BYTES_MAX, Event};

/// Bytes of an event's name; a longer one is cut.
pub const NAME_BYTES_MAX: usize = 256;

/// An event up to this long is looked at with every push: `data: [DONE]` and `message_stop` are this short.
const PENDING_BYTES_MAX: usize = 256;

const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];

/// The parser: memory is bounded by two times [`EVENT_BYTES_MAX`].
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each belongs to another level: line, event, look"
)]
pub struct SseParser {
    line: Vec<u8>,
    line_cut: bool,
    after_cr: bool,
    bom: Bom,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    oversize: bool,
    /// A field was completed since the last look at the pending event.
    fresh: bool,
    /// Looks at the pending event so far.
    looks: u8,
    /// Bytes read so far.
    position: u64,
    /// Where the event that is being read started.
    start: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bom {
    /// So many bytes of the mark have been seen, and held back.
    Seen(usize),
    Over,
}

impl Default for Bom {
    fn default() -> Self {
        Self::Seen(0)
    }
}

impl SseParser {
    /// A parser at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next bytes and calls `each` for every event that they complete.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&Event<'_>)) {
        let mut rest = bytes;
        while let (Bom::Seen(seen), Some((&byte, tail))) = (self.bom, rest.split_first()) {
            if Some(&byte) == BOM.get(seen) {
                rest = tail;
                self.position += 1;
                self.bom = if seen + 1 == BOM.len() {
                    Bom::Over
                } else {
                    Bom::Seen(seen + 1)
                };
            } else {
                // It was no mark after all: what was held back is the start of the first line.
                self.bom = Bom::Over;
                self.keep(BOM.get(..seen).unwrap_or_default());
            }
        }
        while !rest.is_empty() {
            if self.after_cr {
                self.after_cr = false;
                if let Some((b'\n', tail)) = rest.split_first() {
                    rest = tail;
                    self.position += 1;
                    if !self.begun() {
                        self.start = self.position;
                    }
                    continue;
                }
            }
            let Some(end) = rest.iter().position(|b| matches!(b, b'\r' | b'\n')) else {
                self.position += rest.len() as u64;
                self.keep(rest);
                return;
            };
            let (line, tail) = rest.split_at(end);
            self.keep(line);
            self.after_cr = tail.first() == Some(&b'\r');
            self.position += end as u64 + 1;
            rest = tail.get(1..).unwrap_or_default();
            self.end_of_line(&mut each);
        }
    }

    /// The event that is being read, if it has data and something to look at is new: a client that reads line by line may
    /// act on it before the blank line comes.
    ///
    /// An unfinished last line counts while the event is short. A long event is looked at only when a line of it is
    /// complete, and no more than 16 times, so that the cost of looking doesn't grow with the number of pushes.
    pub fn pending(&mut self) -> Option<Event<'_>> {
        let short = self.data.len() + self.line.len() <= PENDING_BYTES_MAX;
        if !short {
            if !self.fresh || self.looks >= PENDING_LOOKS_MAX {
                return None;
            }
            self.looks += 1;
        }
        self.fresh = false;
        self.unfinished(short)
    }

    /// What was read of an event whose blank line hasn't come: at the end of a stream it never will.
    #[must_use]
    pub fn rest(&self) -> Option<Event<'_>> {
        self.unfinished(true)
    }

    fn unfinished(&self, with_last_line: bool) -> Option<Event<'_>> {
        let mut name = Cow::Borrowed(self.name.as_slice());
        let mut data = Cow::Borrowed(self.data.as_slice());
        let mut has_data = self.has_data;
        if with_last_line && !self.line.is_empty() {
            match split_field(&self.line) {
                (b"data", value) => {
                    if has_data {
                        data.to_mut().push(b'\n');
                    }
                    data.to_mut().extend_from_slice(value);
                    has_data = true;
                }
                (b"event", value) => name = Cow::Owned(value.to_vec()),
                _ => {}
            }
        }
        has_data.then(|| Event {
            name: text(name),
            data: text(data),
            oversize: self.oversize,
            exception: false,
            start: self.start,
        })
    }

    fn begun(&self) -> bool {
        self.has_data || !self.name.is_empty() || !self.line.is_empty()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = EVENT_BYTES_MAX.saturating_sub(self.line.len());
        if bytes.len() > room {
            self.line_cut = true;
        }
        let kept = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.line.extend_from_slice(kept);
    }

    fn end_of_line(&mut self, each: &mut impl FnMut(&Event<'_>)) {
        if self.line.is_empty() {
            if self.has_data {
                each(&Event {
                    name: String::from_utf8_lossy(&self.name),
                    data: String::from_utf8_lossy(&self.data),
                    oversize: self.oversize,
                    exception: false,
                    start: self.start,
                });
            }
            self.name.clear();
            self.data.clear();
            self.has_data = false;
            self.oversize = false;
            self.looks = 0;
            self.start = self.position;
            return;
        }
        match split_field(&self.line) {
            (b"data", value) => {
                let newline = usize::from(self.has_data);
                let room = EVENT_BYTES_MAX.saturating_sub(self.data.len());
                if self.line_cut || value.len() + newline > room {
                    self.oversize = true;
                }
                if self.has_data && room > 0 {
                    self.data.push(b'\n');
                }
                let kept = value.len().min(room.saturating_sub(newline));
                self.data
                    .extend_from_slice(value.get(..kept).unwrap_or_default());
                self.has_data = true;
            }
            (b"event", value) => {
                self.name.clear();
                self.name
                    .extend_from_slice(value.get(..NAME_BYTES_MAX).unwrap_or(value));
            }
            _ => {}
        }
        self.line.clear();
        self.line_cut = false;
        self.fresh = true;
    }
}

/// Name and value of a line; a comment has the empty name.
fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|b| *b == b':') {
        Some(colon) => {
            let (name, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default();
            (name, value.strip_prefix(b" ").unwrap_or(value))
        }
        None => (line, b""),
    }
}

fn text(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}
