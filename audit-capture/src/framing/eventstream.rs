//! AWS's event stream (`application/vnd.amazon.eventstream`): binary frames with typed headers and two checksums.
//!
//! ```text
//! total length u32 | headers length u32 | CRC-32 of these 8 bytes | headers | payload | CRC-32 of all before
//! ```
//!
//! All numbers are big-endian. A frame counts when both checksums are right; the first that is wrong ends the reading,
//! as it does for AWS's own clients: behind it nobody knows where the next frame starts.

use std::borrow::Cow;

use flate2::Crc;

use super::Event;

/// Bytes of one frame: the format's limit of 16 MiB for the payload, and of 128 KiB for the headers.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024 + HEADERS_BYTES_MAX + OVERHEAD_BYTES;

/// Bytes of one frame's headers.
pub const HEADERS_BYTES_MAX: usize = 128 * 1024;

/// Both lengths and both checksums.
const OVERHEAD_BYTES: usize = 16;

/// Both lengths and their checksum.
const PRELUDE_BYTES: usize = 12;

/// The parser: memory is bounded by [`FRAME_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct FrameParser {
    frame: Vec<u8>,
    /// The length of the frame that is being read, once its prelude has been checked.
    total: Option<usize>,
    headers: usize,
    start: u64,
    failed: Option<(u64, &'static str)>,
}

impl FrameParser {
    /// A parser at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next bytes and calls `each` for every frame that they complete.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&Event<'_>)) {
        let mut rest = bytes;
        while self.failed.is_none() && !rest.is_empty() {
            let wanted = self.total.unwrap_or(PRELUDE_BYTES) - self.frame.len();
            let (piece, tail) = rest.split_at(wanted.min(rest.len()));
            self.frame.extend_from_slice(piece);
            rest = tail;
            if piece.len() < wanted {
                return;
            }
            let step = match self.total {
                None => self.prelude(),
                Some(_) => self.whole(&mut each),
            };
            if let Err(reason) = step {
                self.failed = Some((self.start, reason));
                self.frame = Vec::new();
            }
        }
    }

    /// Whether bytes of a frame have come that isn't whole.
    #[must_use]
    pub fn unfinished(&self) -> bool {
        !self.frame.is_empty()
    }

    /// Why nothing more is read.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failed
            .map(|(at, reason)| format!("frame at byte {at} of the event stream: {reason}"))
    }

    fn prelude(&mut self) -> Result<(), &'static str> {
        let number = |at: usize| number(&self.frame, at);
        let (Some(total), Some(headers), Some(sum)) = (number(0), number(4), number(8)) else {
            return Err("the prelude is cut");
        };
        if crc(self.frame.get(..8).unwrap_or_default()) != sum {
            return Err("the checksum of the lengths is wrong");
        }
        let (total, headers) = (total as usize, headers as usize);
        if total > FRAME_BYTES_MAX || headers > HEADERS_BYTES_MAX {
            return Err("longer than the format allows");
        }
        if headers + OVERHEAD_BYTES > total {
            return Err("shorter than its own headers");
        }
        self.total = Some(total);
        self.headers = headers;
        Ok(())
    }

    fn whole(&mut self, each: &mut impl FnMut(&Event<'_>)) -> Result<(), &'static str> {
        let end = self.frame.len() - 4;
        let (body, _) = self.frame.split_at(end);
        if Some(crc(body)) != number(&self.frame, end) {
            return Err("the checksum of the frame is wrong");
        }
        let content = body.get(PRELUDE_BYTES..).unwrap_or_default();
        let (headers, payload) = content.split_at(self.headers.min(content.len()));
        let headers = Headers::read(headers)?;
        let exception = matches!(headers.kind, Some("exception" | "error"));
        let mut data = String::from_utf8_lossy(payload);
        if data.is_empty()
            && exception
            && let Some(message) = headers.message
        {
            data = Cow::Owned(serde_json::json!({ "message": message }).to_string());
        }
        each(&Event {
            name: Cow::Borrowed(headers.name.unwrap_or_default()),
            data,
            oversize: false,
            exception,
            start: self.start,
        });
        self.start += self.frame.len() as u64;
        self.frame.clear();
        self.total = None;
        Ok(())
    }
}

/// The headers that say what a frame is.
#[derive(Debug, Default)]
struct Headers<'f> {
    kind: Option<&'f str>,
    name: Option<&'f str>,
    message: Option<&'f str>,
}

impl<'f> Headers<'f> {
    fn read(mut bytes: &'f [u8]) -> Result<Self, &'static str> {
        const WRONG: &str = "its headers can't be read";
        let take = |bytes: &mut &'f [u8], count: usize| -> Result<&'f [u8], &'static str> {
            let (taken, rest) = bytes.split_at_checked(count).ok_or(WRONG)?;
            *bytes = rest;
            Ok(taken)
        };
        let mut headers = Self::default();
        while !bytes.is_empty() {
            let length = usize::from(*take(&mut bytes, 1)?.first().ok_or(WRONG)?);
            let name = take(&mut bytes, length)?;
            let kind = *take(&mut bytes, 1)?.first().ok_or(WRONG)?;
            // Types 0 and 1 are true and false, then 1, 2, 4 and 8 bytes, bytes, text, time, UUID.
            let length = match kind {
                0 | 1 => 0,
                2 => 1,
                3 => 2,
                4 => 4,
                5 | 8 => 8,
                6 | 7 => {
                    let length = take(&mut bytes, 2)?;
                    usize::from(u16::from_be_bytes(length.try_into().ok().ok_or(WRONG)?))
                }
                9 => 16,
                _ => return Err(WRONG),
            };
            let value = take(&mut bytes, length)?;
            if kind != 7 {
                continue;
            }
            let value = core::str::from_utf8(value).ok().ok_or(WRONG)?;
            match name {
                b":message-type" => headers.kind = Some(value),
                b":event-type" | b":exception-type" | b":error-code" => headers.name = Some(value),
                b":error-message" => headers.message = Some(value),
                _ => {}
            }
        }
        Ok(headers)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
