//! The gateway's side of `audit-capture`: facts are a help to readers, and never a reason to lose or change an exchange.

use std::panic::{AssertUnwindSafe, catch_unwind};

use audit_capture::{
    Api, INLINE_BYTES_MAX, Outcome as CaptureOutcome, Reader, RequestFacts, RequestHead,
    ResponseFacts,
};
use bytes::Bytes;

use crate::recording::Outcome;

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

/// The facts of an answer that has ended.
pub(crate) async fn response(reader: Reader, outcome: Outcome) -> Option<ResponseFacts> {
    let outcome = match outcome {
        Outcome::Complete => CaptureOutcome::Complete,
        Outcome::CutByClient => CaptureOutcome::ClientGone,
        Outcome::CutByProvider | Outcome::Error => CaptureOutcome::UpstreamCut,
        Outcome::CutByGateway => CaptureOutcome::Stopped,
    };
    if !reader.is_slow() {
        return reader.finish(outcome);
    }
    tokio::task::spawn_blocking(move || reader.finish(outcome))
        .await
        .ok()
        .flatten()
}
