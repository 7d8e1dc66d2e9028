//! What several tests share.

use audit_capture::{Api, Outcome, ResponseFacts, ResponseHead, ResponseParser, detect};

pub(crate) fn header(name: &str, value: &str) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_bytes().to_vec())
}

pub(crate) fn chat() -> Api {
    detect(Some("openai"), None, "POST", "/v1/chat/completions")
}

pub(crate) fn responses() -> Api {
    detect(Some("openai"), None, "POST", "/v1/responses")
}

pub(crate) fn messages() -> Api {
    detect(Some("anthropic"), None, "POST", "/v1/messages")
}

pub(crate) fn sse_head() -> ResponseHead {
    ResponseHead::new(200, vec![header("Content-Type", "text/event-stream")])
}

pub(crate) fn json_head(status: u16) -> ResponseHead {
    ResponseHead::new(status, vec![header("Content-Type", "application/json")])
}

/// The facts of a body that comes in `chunks`.
pub(crate) fn read<'c>(
    api: &Api,
    head: &ResponseHead,
    streaming: bool,
    chunks: impl IntoIterator<Item = &'c [u8]>,
) -> ResponseFacts {
    let mut parser = ResponseParser::new(api, head, streaming);
    for chunk in chunks {
        let progress = parser.push(chunk);
        assert!(progress.safe <= chunk.len());
        assert!(
            progress.release || progress.safe == 0,
            "bytes change places"
        );
    }
    parser.finish(Outcome::Complete)
}

/// A small generator, so that random cuts are the same in every run (`SplitMix64`).
pub(crate) struct Cuts(pub(crate) u64);

impl Cuts {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `bytes` in pieces of 1 to `max` bytes.
    pub(crate) fn cut<'b>(&mut self, mut bytes: &'b [u8], max: usize) -> Vec<&'b [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let size = usize::try_from(self.next() % max as u64).unwrap() + 1;
            let (piece, rest) = bytes.split_at(size.min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}
