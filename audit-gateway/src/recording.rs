//! What has come of an answer, as it will be recorded.

use audit_core::event::{Media, Payload};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Entries of `response.chunks`; each is about 20 bytes of JSON. Later pieces are added to the last entry.
const CHUNKS_MAX: usize = 262_144;

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The provider's answer came to its end.
    Complete,
    /// The client left.
    CutByClient,
    /// The provider's connection broke within the answer, or fell silent.
    CutByProvider,
    /// The gateway was stopped.
    CutByGateway,
    /// There is no answer of the provider.
    Error,
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::CutByClient => "cut_by_client",
            Self::CutByProvider => "cut_by_provider",
            Self::CutByGateway => "cut_by_gateway",
            Self::Error => "error",
        }
    }
}

/// The bytes of an answer as they came, up to a limit, and when.
#[derive(Debug)]
pub(crate) struct Recording {
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
    pub(crate) fn new(bytes_max: usize) -> Self {
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

    pub(crate) fn push(&mut self, bytes: &Bytes, offset_us: u64) {
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

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Payloads and attributes of the answer's body.
    pub(crate) fn finish(
        self,
        content_type: &str,
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
            payloads.push(Payload::new(
                "response.body",
                Media::of_content_type(content_type),
                self.bytes,
            ));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_the_first_bytes_the_length_and_the_hash_of_all_are_kept() {
        for cut in 0..=10 {
            let mut recording = Recording::new(5);
            let all = b"0123456789";
            recording.push(&Bytes::copy_from_slice(&all[..cut]), 7);
            recording.push(&Bytes::copy_from_slice(&all[cut..]), 9);
            let mut attributes = Map::new();
            let payloads =
                recording.finish("text/event-stream; charset=utf-8", true, &mut attributes);
            assert_eq!(payloads[0].bytes, b"01234");
            assert_eq!(payloads[0].media, Media::EventStream);
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
        recording.push(&Bytes::from_static(b"abc"), 1);
        let mut attributes = Map::new();
        let payloads = recording.finish("application/json", false, &mut attributes);
        assert_eq!(payloads.len(), 1);
        assert_eq!(payloads[0].bytes, b"abc");
        assert!(!attributes.contains_key("audit.response.body_truncated"));
    }

    #[test]
    fn a_flood_of_pieces_is_counted_in_the_last_entry() {
        let mut recording = Recording::new(0);
        for _ in 0..CHUNKS_MAX + 5 {
            recording.push(&Bytes::from_static(b"x"), 1);
        }
        assert_eq!(recording.chunks.len(), CHUNKS_MAX);
        assert_eq!(recording.chunks.last(), Some(&(1, 6)));
        assert_eq!(recording.length(), CHUNKS_MAX as u64 + 5);
    }
}
