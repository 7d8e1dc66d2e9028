//! A JSON array whose items come one after the other, as Gemini streams without `alt=sse`.
//!
//! Items are told apart by their brackets alone; whether one is JSON is for its reader.

use super::{EVENT_BYTES_MAX, Event};

/// The parser: memory is bounded by [`EVENT_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct ArrayParser {
    state: State,
    item: Vec<u8>,
    cut: bool,
    depth: u64,
    in_text: bool,
    escaped: bool,
    position: u64,
    start: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The opening bracket hasn't come.
    #[default]
    Before,
    /// Between items.
    Between,
    /// In an item that is an object or an array.
    Item,
    /// In a number, a text or a word, which is no event.
    Scalar,
    /// After the closing bracket.
    After,
    /// It is no array.
    Wrong,
}

impl ArrayParser {
    /// A parser at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next bytes and calls `each` for every item that they complete.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&Event<'_>)) {
        for byte in bytes {
            self.byte(*byte, &mut each);
            self.position += 1;
        }
    }

    /// Whether the closing bracket has come.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.state == State::After
    }

    /// Why nothing is read.
    #[must_use]
    pub fn failure(&self) -> Option<&'static str> {
        (self.state == State::Wrong).then_some("not a JSON array")
    }

    fn byte(&mut self, byte: u8, each: &mut impl FnMut(&Event<'_>)) {
        let white = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        match self.state {
            State::Before => match byte {
                b'[' => self.state = State::Between,
                // A byte order mark.
                _ if white || matches!(byte, 0xef | 0xbb | 0xbf) => {}
                _ => self.state = State::Wrong,
            },
            State::Between => match byte {
                b'{' | b'[' => {
                    self.state = State::Item;
                    self.start = self.position;
                    self.in_item(byte, each);
                }
                b']' => self.state = State::After,
                b',' => {}
                _ if white => {}
                _ => {
                    self.state = State::Scalar;
                    self.in_text = byte == b'"';
                }
            },
            State::Item => self.in_item(byte, each),
            State::Scalar => {
                if self.in_text {
                    self.in_text = self.escaped || byte != b'"';
                    self.escaped = !self.escaped && byte == b'\\';
                } else if byte == b',' {
                    self.state = State::Between;
                } else if byte == b']' {
                    self.state = State::After;
                }
            }
            State::After | State::Wrong => {}
        }
    }

    fn in_item(&mut self, byte: u8, each: &mut impl FnMut(&Event<'_>)) {
        if self.item.len() < EVENT_BYTES_MAX {
            self.item.push(byte);
        } else {
            self.cut = true;
        }
        if self.in_text {
            self.in_text = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return;
        }
        match byte {
            b'"' => self.in_text = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        if self.depth == 0 {
            each(&Event {
                name: "".into(),
                data: String::from_utf8_lossy(&self.item),
                oversize: self.cut,
                exception: false,
                start: self.start,
            });
            self.item.clear();
            self.cut = false;
            self.state = State::Between;
        }
    }
}
