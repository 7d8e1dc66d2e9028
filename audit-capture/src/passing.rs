//! What every door keeps of an exchange while it passes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use audit_core::event::{Media, Payload};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::api::Api;
use crate::head::ResponseHead;
use crate::response::{Outcome, Progress, ResponseFacts, ResponseParser};

/// Entries of `response.chunks`; each is about 20 bytes of JSON. Later pieces are added to the last entry.
const CHUNKS_MAX: usize = 262_144;

/// Bodies up to this are read at once; a longer one takes so long that the runtime's other tasks must not wait for it.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;

/// The bytes of an answer as they came, up to a limit, and when.
#[derive(Debug)]
pub struct Recording {
    bytes: Vec<u8>,
    bytes_max: usize,
    length: u64,
    /// Of the whole answer; runs from the moment when the limit is passed.
    whole: Option<Sha256>,
    /// Microseconds since the request was sent, and bytes.
    chunks: Vec<(u64, u64)>,
    chunks_merged: bool,
    first_byte_us: Option<u64>,
}

impl Recording {
    /// Of an answer of which `bytes_max` bytes are kept.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            bytes_max,
            length: 0,
            whole: None,
            chunks: Vec::new(),
            chunks_merged: false,
            first_byte_us: None,
        }
    }

    /// A piece came, so many microseconds after the request was sent.
    pub fn push(&mut self, bytes: &[u8], offset_us: u64) {
        if bytes.is_empty() {
            return;
        }
        self.first_byte_us.get_or_insert(offset_us);
        let length = bytes.len() as u64;
        self.length += length;
        let full = self.chunks.len() >= CHUNKS_MAX;
        match self.chunks.last_mut() {
            Some((_, last)) if full => {
                *last += length;
                self.chunks_merged = true;
            }
            _ => self.chunks.push((offset_us, length)),
        }
        let room = self.bytes_max - self.bytes.len();
        if let Some(whole) = &mut self.whole {
            whole.update(bytes);
        } else if bytes.len() > room {
            let mut whole = Sha256::new();
            whole.update(&self.bytes);
            whole.update(bytes);
            self.whole = Some(whole);
            self.bytes.extend_from_slice(&bytes[..room]);
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Bytes that came.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Payloads and attributes of the answer's body; `streamed` has the pieces listed too.
    pub fn finish(
        self,
        media: Media,
        streamed: bool,
        attributes: &mut Map<String, Value>,
    ) -> Vec<Payload> {
        attributes.insert("http.response.body.size".to_owned(), json!(self.length));
        if let Some(first) = self.first_byte_us {
            attributes.insert("audit.timing.first_byte_us".to_owned(), json!(first));
        }
        if let Some(whole) = self.whole {
            let digest = audit_core::hex::Hex(whole.finalize().into());
            attributes.insert("audit.response.body_truncated".to_owned(), json!(true));
            attributes.insert(
                "audit.response.body_sha256".to_owned(),
                json!(digest.to_string()),
            );
        }
        let mut payloads = Vec::new();
        if !self.bytes.is_empty() {
            payloads.push(Payload::new("response.body", media, self.bytes));
        }
        if streamed && !self.chunks.is_empty() {
            if self.chunks_merged {
                attributes.insert("audit.response.chunks_merged".to_owned(), json!(true));
            }
            let chunks = Value::from(
                self.chunks
                    .iter()
                    .map(|(at, n)| json!([at, n]))
                    .collect::<Vec<_>>(),
            );
            payloads.push(Payload::new(
                "response.chunks",
                Media::Json,
                chunks.to_string().into_bytes(),
            ));
        }
        payloads
    }
}

/// A [`ResponseParser`] that decides nothing: one that panics on what somebody sent finds no facts, and neither loses the
/// exchange nor changes it.
#[derive(Debug)]
pub struct Reader {
    /// `None` after it has panicked.
    parser: Option<ResponseParser>,
    bytes: usize,
}

impl Reader {
    /// For one answer, as [`ResponseParser::new`].
    #[must_use]
    pub fn new(api: &Api, head: &ResponseHead, streaming: bool) -> Self {
        let parser = catch_unwind(AssertUnwindSafe(|| {
            ResponseParser::new(api, head, streaming)
        }))
        .ok();
        Self { parser, bytes: 0 }
    }

    /// The next piece.
    pub fn push(&mut self, piece: &[u8]) -> Progress {
        self.bytes = self.bytes.saturating_add(piece.len());
        let nothing = Progress {
            terminal: false,
            safe: piece.len(),
            release: true,
        };
        let Some(mut parser) = self.parser.take() else {
            return nothing;
        };
        let pushed = catch_unwind(AssertUnwindSafe(move || {
            let progress = parser.push(piece);
            (parser, progress)
        }));
        let Ok((parser, progress)) = pushed else {
            return nothing;
        };
        self.parser = Some(parser);
        Progress {
            terminal: progress.terminal,
            safe: progress.safe.min(piece.len()),
            release: progress.release,
        }
    }

    /// Whether [`finish`](Self::finish) belongs on a thread that may take its time.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.bytes > INLINE_BYTES_MAX
    }

    /// The facts, if the parser lived.
    #[must_use]
    pub fn finish(self, outcome: Outcome) -> Option<ResponseFacts> {
        let parser = self.parser?;
        catch_unwind(AssertUnwindSafe(move || parser.finish(outcome))).ok()
    }
}

/// Whether pieces of such a body are for readers who don't wait for its end.
#[must_use]
pub fn is_streamed(media: Media) -> bool {
    matches!(
        media,
        Media::EventStream | Media::NdJson | Media::AwsEventStream
    )
}

/// Trace id and parent span of a W3C `traceparent` among the headers; one that breaks the rules counts as absent, as the
/// standard says.
#[must_use]
pub fn traceparent(headers: &[(String, Vec<u8>)]) -> Option<(String, String)> {
    let mut values = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
    let value = std::str::from_utf8(&values.next()?.1).ok()?;
    if values.next().is_some() {
        return None;
    }
    let mut parts = value.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hexadecimal = |text: &str, digits: usize| {
        text.len() == digits
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |text: &str| text.bytes().all(|b| b == b'0');
    // Later versions may append fields; version 00 has exactly four.
    let good = hexadecimal(version, 2)
        && version != "ff"
        && hexadecimal(trace, 32)
        && hexadecimal(span, 16)
        && hexadecimal(flags, 2)
        && !zero(trace)
        && !zero(span)
        && (version != "00" || parts.next().is_none());
    good.then(|| (trace.to_owned(), span.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_the_first_bytes_the_length_and_the_hash_of_all_are_kept() {
        for cut in 0..=10 {
            let mut recording = Recording::new(5);
            let all = b"0123456789";
            recording.push(&all[..cut], 7);
            recording.push(&all[cut..], 9);
            let mut attributes = Map::new();
            let payloads = recording.finish(Media::EventStream, true, &mut attributes);
            assert_eq!(payloads[0].bytes, b"01234");
            assert_eq!(attributes["http.response.body.size"], json!(10));
            assert_eq!(attributes["audit.response.body_truncated"], json!(true));
            assert_eq!(
                attributes["audit.response.body_sha256"],
                json!("84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882")
            );
            let chunks: Value = serde_json::from_slice(&payloads[1].bytes).unwrap();
            let sum: u64 = chunks
                .as_array()
                .unwrap()
                .iter()
                .map(|c| c[1].as_u64().unwrap())
                .sum();
            assert_eq!(sum, 10);
        }
    }

    #[test]
    fn up_to_the_limit_nothing_is_marked() {
        let mut recording = Recording::new(3);
        recording.push(b"abc", 1);
        let mut attributes = Map::new();
        let payloads = recording.finish(Media::Json, false, &mut attributes);
        assert_eq!(payloads.len(), 1);
        assert_eq!(payloads[0].bytes, b"abc");
        assert!(!attributes.contains_key("audit.response.body_truncated"));
    }

    #[test]
    fn a_flood_of_pieces_is_counted_in_the_last_entry() {
        let mut recording = Recording::new(0);
        for _ in 0..CHUNKS_MAX + 5 {
            recording.push(b"x", 1);
        }
        assert_eq!(recording.chunks.len(), CHUNKS_MAX);
        assert_eq!(recording.chunks.last(), Some(&(1, 6)));
        assert_eq!(recording.length(), CHUNKS_MAX as u64 + 5);
    }

    #[test]
    fn a_trace_is_read_as_the_standard_says_or_not_at_all() {
        let of = |values: &[&str]| {
            let headers: Vec<_> = values
                .iter()
                .map(|v| ("Traceparent".to_owned(), v.as_bytes().to_vec()))
                .collect();
            traceparent(&headers)
        };
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let good = format!("00-{trace}-{span}-01");
        assert_eq!(of(&[&good]), Some((trace.to_owned(), span.to_owned())));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[&good, &good]), None);
        assert_eq!(of(&[&format!("{good}-x")]), None);
        assert_eq!(of(&[&good.to_uppercase()]), None);
        assert_eq!(of(&[&format!("00-{}-{span}-01", "0".repeat(32))]), None);
        assert!(of(&[&format!("01-{trace}-{span}-01-more")]).is_some());
    }
}
