//! The gateway's side of `audit-capture`: facts are a help to readers, and never a reason to lose or change an exchange.

use std::panic::{AssertUnwindSafe, catch_unwind};

use audit_capture::{
    Api, Outcome as CaptureOutcome, RequestFacts, RequestHead, ResponseFacts, ResponseHead,
    ResponseParser,
};
use bytes::Bytes;

use crate::recording::Outcome;

/// Bodies above this are read on a thread that may take its time.
pub(crate) const INLINE_BYTES_MAX: usize = 64 * 1024;

/// Reads a request.
pub(crate) async fn request(api: &Api, head: &RequestHead, body: &Bytes) -> Option<RequestFacts> {
    // A parser that panics on what somebody sent must not decide whether the exchange is recorded.
    if body.len() <= INLINE_BYTES_MAX {
        return catch_unwind(AssertUnwindSafe(|| {
            audit_capture::request_facts(api, head, body)
        }))
        .ok();
    }
    let (api, head, body) = (api.clone(), head.clone(), body.clone());
    tokio::task::spawn_blocking(move || audit_capture::request_facts(&api, &head, &body))
        .await
        .ok()
}

/// Reads an answer as it comes.
#[derive(Debug)]
pub(crate) struct Reader {
    /// `None` after it has panicked.
    parser: Option<ResponseParser>,
    bytes: usize,
}

/// How far an answer has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) terminal: bool,
    /// Leading bytes of the piece that stand before the event from which on bytes are held back.
    pub(crate) safe: usize,
    /// Whether what was held back of earlier pieces can go first.
    pub(crate) release: bool,
}

impl Reader {
    pub(crate) fn new(api: &Api, head: &ResponseHead, streaming: bool) -> Self {
        let parser = catch_unwind(AssertUnwindSafe(|| {
            ResponseParser::new(api, head, streaming)
        }))
        .ok();
        Self { parser, bytes: 0 }
    }

    pub(crate) fn push(&mut self, piece: &[u8]) -> Progress {
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

    pub(crate) async fn finish(self, outcome: Outcome) -> Option<ResponseFacts> {
        let parser = self.parser?;
        let outcome = match outcome {
            Outcome::Complete => CaptureOutcome::Complete,
            Outcome::CutByClient => CaptureOutcome::ClientGone,
            Outcome::CutByProvider | Outcome::Error => CaptureOutcome::UpstreamCut,
            Outcome::CutByGateway => CaptureOutcome::Stopped,
        };
        if self.bytes <= INLINE_BYTES_MAX {
            return catch_unwind(AssertUnwindSafe(move || parser.finish(outcome))).ok();
        }
        tokio::task::spawn_blocking(move || parser.finish(outcome))
            .await
            .ok()
    }
}
