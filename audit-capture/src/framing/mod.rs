//! How the events of a streamed answer are told apart: lines of server-sent events, lines of JSON, the items of a JSON
//! array, or frames of AWS's event stream.
//!
//! Each parser takes bytes that are cut anywhere, bounds what it keeps, and never fails on what it reads.

pub mod eventstream;
pub mod json_array;
pub mod ndjson;
pub mod sse;

use std::borrow::Cow;

use eventstream::FrameParser;
use json_array::ArrayParser;
use ndjson::LineParser;
use sse::SseParser;

/// Bytes of one event's data, and of one line; what is longer is dropped, and the event is marked `oversize`.
///
/// The longest events seen in practice carry a whole response with images as base64, a few million bytes.
pub const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Looks at an event before it is complete, so that the cost of looking doesn't grow with the number of pushes.
pub(crate) const PENDING_LOOKS_MAX: u8 = 16;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event<'p> {
    /// What the framing calls it: the `event` field of server-sent events (empty when there was none; the standard then
    /// says `message`), the type of an AWS frame; else empty.
    pub name: Cow<'p, str>,
    /// Its data; invalid UTF-8 is replaced as browsers do.
    pub data: Cow<'p, str>,
    /// The data is cut, because it was longer than [`EVENT_BYTES_MAX`].
    pub oversize: bool,
    /// The framing says that it is an error: an exception of AWS's event stream.
    pub exception: bool,
    /// Where its first byte stands in the stream. Comments and unknown fields before it count as part of it.
    pub start: u64,
}

/// The framings, by the content type that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Sse,
    Lines,
    Array,
    Frames,
}

impl Framing {
    /// What a content type, in lower case and without parameters, says of a stream.
    pub(crate) fn of(content_type: &str) -> Option<Self> {
        match content_type {
            "text/event-stream" => Some(Self::Sse),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
                Some(Self::Lines)
            }
            "application/vnd.amazon.eventstream" => Some(Self::Frames),
            _ => None,
        }
    }

    pub(crate) fn parser(self) -> Parser {
        match self {
            Self::Sse => Parser::Sse(SseParser::new()),
            Self::Lines => Parser::Lines(LineParser::new()),
            Self::Array => Parser::Array(ArrayParser::new()),
            Self::Frames => Parser::Frames(FrameParser::new()),
        }
    }
}

/// A parser of any framing.
#[derive(Debug)]
pub(crate) enum Parser {
    Sse(SseParser),
    Lines(LineParser),
    Array(ArrayParser),
    Frames(FrameParser),
}

impl Parser {
    /// Reads the next bytes and calls `each` for every event that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8], each: impl FnMut(&Event<'_>)) {
        match self {
            Self::Sse(parser) => parser.push(bytes, each),
            Self::Lines(parser) => parser.push(bytes, each),
            Self::Array(parser) => parser.push(bytes, each),
            Self::Frames(parser) => parser.push(bytes, each),
        }
    }

    /// The event that is being read, as far as a client might act on it. The items of an array are complete with their
    /// last byte, and a frame whose checksum hasn't come is nothing that a client may act on.
    pub(crate) fn pending(&mut self) -> Option<Event<'_>> {
        match self {
            Self::Sse(parser) => parser.pending(),
            Self::Lines(parser) => parser.pending(),
            Self::Array(_) | Self::Frames(_) => None,
        }
    }

    /// What was read of an event whose end hasn't come: at the end of a stream it never will.
    pub(crate) fn rest(&self) -> Option<Event<'_>> {
        match self {
            Self::Sse(parser) => parser.rest(),
            Self::Lines(parser) => parser.rest(),
            Self::Array(_) | Self::Frames(_) => None,
        }
    }

    /// Why nothing more is read.
    pub(crate) fn failure(&self) -> Option<String> {
        match self {
            Self::Sse(_) | Self::Lines(_) => None,
            Self::Array(parser) => parser.failure().map(str::to_owned),
            Self::Frames(parser) => parser.failure(),
        }
    }
}
