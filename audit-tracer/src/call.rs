//! A call of a model that the service makes itself.

use std::panic::{AssertUnwindSafe, catch_unwind};

use audit_capture::{
    Api, Outcome, RequestHead, ResponseHead, ResponseParser, add_facts, credentials, detect,
    request_facts,
};
use audit_core::Result;
use audit_core::event::{Correlation, Event, Media, Payload};
use audit_core::log::Receipt;
use serde_json::json;

use crate::session::AuditSession;

/// What is asked of a model's provider.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CallRequest {
    /// What the service calls the provider: `openai`, `anthropic`, `bedrock` …, or a name of its own, if its paths are those of
    /// one that is known.
    pub provider: String,
    /// `POST`
    pub method: String,
    /// Path and query, such as `/v1/chat/completions`.
    pub target: String,
    /// What the body is.
    pub media: Media,
    /// The body, byte for byte as it is sent.
    pub body: Vec<u8>,
}

impl CallRequest {
    /// A `POST` of JSON.
    #[must_use]
    pub fn new(
        provider: impl Into<String>,
        target: impl Into<String>,
        body: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            provider: provider.into(),
            method: "POST".to_owned(),
            target: target.into(),
            media: Media::Json,
            body: body.into(),
        }
    }
}

/// What a provider answered.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CallResponse {
    /// The HTTP status.
    pub status: u16,
    /// Names and values. They say how to read the body (`content-type`, `content-encoding`) and what the provider calls the
    /// request; they are not recorded.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body, byte for byte as it came; of a stream, all of it.
    pub body: Vec<u8>,
    /// How the exchange ended.
    pub outcome: Outcome,
}

impl CallResponse {
    /// An answer that came to its end.
    #[must_use]
    pub fn new(status: u16, headers: Vec<(String, Vec<u8>)>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers,
            body: body.into(),
            outcome: Outcome::Complete,
        }
    }
}

/// A call whose request is in the log, and whose answer isn't yet.
///
/// If it is dropped, the request stays in the log without an answer, which is what happened as far as the log knows.
#[derive(Debug)]
#[must_use = "the answer has to be recorded too"]
pub struct LlmCall<'a> {
    session: &'a AuditSession,
    api: Api,
    streaming: bool,
    receipt: Receipt,
    sent_us: u64,
}

impl<'a> LlmCall<'a> {
    pub(crate) async fn begin(session: &'a AuditSession, request: CallRequest) -> Result<Self> {
        let CallRequest {
            provider,
            method,
            target,
            media,
            body,
        } = request;
        let api = detect(Some(&provider), None, &method, &target);
        let head = RequestHead::new(method, target, Vec::new());
        let mut event = session.event("llm.request")?;
        // The credentials themselves are dropped here, and wiped.
        let (target, _) = credentials::split_query(&head.path_and_query);
        let mut set = |name: &str, value| event.attributes.insert(name.to_owned(), value);
        set("audit.upstream", json!(provider));
        set("http.request.method", json!(head.method));
        match target.split_once('?') {
            Some((path, query)) => {
                set("url.path", json!(path));
                set("url.query", json!(query));
            }
            None => {
                set("url.path", json!(target));
            }
        }
        set("http.request.body.size", json!(body.len()));
        let (facts, body) = read(body, {
            let api = api.clone();
            move |body| request_facts(&api, &head, body)
        })
        .await?;
        let streaming = facts.as_ref().is_some_and(|facts| facts.stream);
        match facts {
            Some(facts) => add_facts(&mut event, facts.refs(), facts.attributes()),
            None => failed(&mut event, "audit.request.unparsed"),
        }
        if !body.is_empty() {
            event
                .payloads
                .push(Payload::new("request.body", media, body));
        }
        let receipt = session.append(event).await?;
        Ok(Self {
            session,
            api,
            streaming,
            receipt,
            sent_us: session.monotonic_us(),
        })
    }

    /// Where the request stands in the log.
    #[must_use]
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Records the answer: `llm.response`, durable on return.
    ///
    /// # Errors
    ///
    /// As [`Log::append`](audit_core::log::Log::append).
    pub async fn response(self, response: CallResponse) -> Result<Receipt> {
        let mut event = self.response_event()?;
        let head = ResponseHead::new(response.status, response.headers);
        let media = head
            .header("content-type")
            .and_then(|value| std::str::from_utf8(value).ok())
            .map_or(Media::Bytes, Media::of_content_type);
        let (body, outcome) = (response.body, response.outcome);
        event
            .attributes
            .insert("http.response.body.size".to_owned(), json!(body.len()));
        let status = head.status;
        let (facts, body) = read(body, {
            let (api, streaming) = (self.api.clone(), self.streaming);
            move |body| {
                let mut parser = ResponseParser::new(&api, &head, streaming);
                parser.push(body);
                parser.finish(outcome)
            }
        })
        .await?;
        if let Some(facts) = facts {
            add_facts(&mut event, facts.refs(), facts.attributes());
            event
                .correlation
                .get_or_insert_default()
                .provider_request_id = facts.provider_request_id;
        } else {
            let mut set = |name: &str, value| event.attributes.insert(name.to_owned(), value);
            set("http.response.status_code", json!(status));
            set("audit.outcome", json!(outcome.as_str()));
            failed(&mut event, "audit.response.unparsed");
        }
        if !body.is_empty() {
            event
                .payloads
                .push(Payload::new("response.body", media, body));
        }
        self.session.append(event).await
    }

    /// Records that there was no answer, and why, in one word: `connect`, `timeout` …
    ///
    /// # Errors
    ///
    /// As [`Log::append`](audit_core::log::Log::append).
    pub async fn failed(self, reason: &str) -> Result<Receipt> {
        let mut event = self.response_event()?;
        let mut set = |name: &str, value| event.attributes.insert(name.to_owned(), value);
        set("audit.outcome", json!("error"));
        set("audit.outcome.reason", json!(reason));
        set("error.type", json!(reason));
        self.session.append(event).await
    }

    fn response_event(&self) -> Result<Event> {
        let mut event = self.session.event("llm.response")?;
        event.correlation = Some(Correlation {
            parent_event: Some(self.receipt.event),
            ..Correlation::default()
        });
        let total = self.session.monotonic_us().saturating_sub(self.sent_us);
        let mut set = |name: &str, value| event.attributes.insert(name.to_owned(), value);
        set("audit.timing.total_us", json!(total));
        Ok(event)
    }
}

/// Reads a body on a thread that may take its time, and gives it back. A parser that panics on what somebody sent must
/// not decide whether the exchange is recorded.
async fn read<T: Send + 'static>(
    body: Vec<u8>,
    parse: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<(Option<T>, Vec<u8>)> {
    crate::create::blocking(move || {
        let parsed = catch_unwind(AssertUnwindSafe(|| parse(&body))).ok();
        Ok((parsed, body))
    })
    .await
}

fn failed(event: &mut Event, name: &str) {
    event
        .attributes
        .insert(name.to_owned(), json!("the parser failed"));
}
