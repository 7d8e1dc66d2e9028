//! Exchanges of a client with a provider.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use audit_capture::{
    Api, INLINE_BYTES_MAX, Outcome, Reader, Recording, RequestHead, ResponseHead, add_facts,
    credentials, detect, is_streamed, request_facts, traceparent,
};
use audit_core::event::{Correlation, Event, Guarantee, Kind, Media, Payload};
use audit_core::log::Pending;
use audit_core::{Error, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use http_body::Body;
use serde_json::{Value, json};

use super::body::{Answered, Holding, Passage, RecordedBody, Tap};
use super::{BoxError, Ending, head};
use crate::late::{Late, Making};
use crate::scope::Scope;

type Filter = dyn Fn(&Method, &Uri) -> bool + Send + Sync;

/// Records a client's exchanges: with a provider of models, or with anybody else.
///
/// [`wrap`](Self::wrap) makes a recording `reqwest` client of it (feature `reqwest`); as a `tower` layer it goes around
/// any client that is a service of `http`'s types (feature `tower`).
///
/// # What is guaranteed
///
/// - A request is sent only when its record, `llm.request` with the whole body, is durable. One that can't be recorded
///   isn't sent; the call fails, and the error has this crate's [`Error`] as its source. So `capture.guarantee` is
///   `closed`.
/// - An answer's pieces are passed on as they come. Its end (of a stream the provider's last event, else the last piece)
///   is passed on when `llm.response` is durable. If that can't be recorded, reading the body ends with an error, and the
///   record is tried again in the background.
/// - A body that is dropped, a future that is dropped, a connection that breaks and a call that fails are recorded too.
///   Who goes on doing so must keep the tracer until it is closed: a record that was handed over and could not be written
///   is told to [`on_lost_closing`](crate::Builder::on_lost_closing).
/// - Credentials in headers and in the query are not recorded, only their keyed fingerprints.
///
/// It sees what its client is given: headers, redirects and retries that a client adds by itself, below, are not in the
/// record, and neither is a call that another client makes.
#[derive(Clone)]
pub struct ClientRecorder {
    scope: Scope,
    filter: Option<Arc<Filter>>,
    request_body_bytes_max: usize,
    response_record_bytes_max: usize,
}

impl fmt::Debug for ClientRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRecorder")
            .field("session", &self.scope.session_id())
            .field("filtered", &self.filter.is_some())
            .field("request_body_bytes_max", &self.request_body_bytes_max)
            .field("response_record_bytes_max", &self.response_record_bytes_max)
            .finish_non_exhaustive()
    }
}

impl ClientRecorder {
    pub(crate) fn new(scope: Scope) -> Self {
        Self {
            scope,
            filter: None,
            request_body_bytes_max: 64 << 20,
            response_record_bytes_max: 64 << 20,
        }
    }

    /// Records only calls of which `wanted` says so; **all others are sent without a trace in the log**. Without it
    /// everything is recorded, whoever is called.
    #[must_use]
    pub fn only(mut self, wanted: impl Fn(&Method, &Uri) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(wanted));
        self
    }

    /// Bytes of a request's body, at most; a longer one is refused. 64 MiB unless said.
    #[must_use]
    pub fn request_body_bytes_max(mut self, bytes: usize) -> Self {
        self.request_body_bytes_max = bytes;
        self
    }

    /// Bytes of an answer's body that are recorded; a longer answer is passed on whole, and its record has the first
    /// bytes, the length, and the SHA-256 of all of them. 64 MiB unless said.
    #[must_use]
    pub fn response_record_bytes_max(mut self, bytes: usize) -> Self {
        self.response_record_bytes_max = bytes;
        self
    }

    pub(crate) fn wants(&self, method: &Method, uri: &Uri) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|wanted| wanted(method, uri))
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.request_body_bytes_max
    }

    /// Records a request; on return it is durable, and may be sent.
    pub(crate) async fn begin(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Begun> {
        let pairs = head::pairs(headers);
        let target = uri.path_and_query().map_or("/", |p| p.as_str());
        let named = headers.get(header::HOST).and_then(|v| v.to_str().ok());
        let authority = uri.authority().map(http::uri::Authority::as_str).or(named);
        let (host, port) = address(authority.unwrap_or_default(), uri.scheme_str());
        let api = detect(None, Some(&host), method.as_str(), target);
        let request = RequestHead::new(method.as_str(), target, pairs);

        let mut event = self.scope.event("llm.request")?;
        if let Some(capture) = &mut event.capture {
            capture.guarantee = Guarantee::Closed;
        }
        event.correlation = traceparent(&request.headers).map(|(trace_id, span_id)| Correlation {
            trace_id: Some(trace_id),
            span_id: Some(span_id),
            ..Correlation::default()
        });
        let stem = event.clone();
        let log = self.scope.log();
        let mut found = head::set_headers(&mut event, "http.request.header", log, &request.headers);
        found.extend(head::set_target(&mut event, log, target));
        let mut set = |name: &str, value: Value| event.attributes.insert(name.to_owned(), value);
        set("http.request.method", json!(method.as_str()));
        set("audit.upstream", json!(host));
        set("server.address", json!(host));
        if let Some(port) = port {
            set("server.port", json!(port));
        }
        set("audit.capture.point", json!("client"));
        set("http.request.body.size", json!(body.len()));
        if !found.is_empty() {
            set("audit.credential", Value::Array(found));
        }
        let facts = facts(&api, request, body).await;
        let streaming = facts.as_ref().is_some_and(|facts| facts.stream);
        if let Some(facts) = facts {
            add_facts(&mut event, facts.refs(), facts.attributes());
        } else {
            let why = json!("the parser failed");
            event
                .attributes
                .insert("audit.request.unparsed".to_owned(), why);
        }
        if !body.is_empty() {
            let payload = Payload::new("request.body", head::media(headers), body.to_vec());
            event.payloads.push(payload);
        }

        let pending = self.scope.submit(event).await.map_err(not_sent)?;
        // From here on the record goes on by itself; who stops waiting has an exchange that has to end in the log.
        let mut begun = Begun {
            sent_us: None,
            pending: Some(pending),
            context: Some(Context {
                scope: self.scope.clone(),
                stem,
                host,
                api,
                streaming,
                response_record_bytes_max: self.response_record_bytes_max,
            }),
        };
        if let Some(pending) = &mut begun.pending
            && let Err(error) = pending.outcome().await
        {
            begun.pending = None;
            begun.context = None;
            self.scope.handed_back();
            return Err(not_sent(error));
        }
        begun.pending = None;
        begun.sent_us = Some(self.scope.monotonic_us());
        Ok(begun)
    }
}

/// Host and port of an authority, without who asks.
fn address(authority: &str, scheme: Option<&str>) -> (String, Option<u16>) {
    let parsed: Option<http::uri::Authority> = authority.parse().ok();
    let host = parsed.as_ref().map_or("", http::uri::Authority::host);
    let given = parsed.as_ref().and_then(http::uri::Authority::port_u16);
    let port = given.or(match scheme {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    });
    (host.to_ascii_lowercase(), port)
}

/// Reads a request. A parser that panics on what somebody wrote must not decide whether the exchange is recorded.
async fn facts(api: &Api, head: RequestHead, body: &Bytes) -> Option<audit_capture::RequestFacts> {
    let (api, body) = (api.clone(), body.clone());
    let slow = body.len() > INLINE_BYTES_MAX;
    let read = move || catch_unwind(AssertUnwindSafe(|| request_facts(&api, &head, &body))).ok();
    if slow {
        tokio::task::spawn_blocking(read).await.ok().flatten()
    } else {
        read()
    }
}

fn not_sent(error: Error) -> Error {
    Error::new(
        error.kind(),
        "the request could not be recorded, so it was not sent",
    )
    .because(error)
}

/// What stays of a request while its answer is awaited.
struct Context {
    scope: Scope,
    /// The request's event, without attributes and payloads: the answer's event is made of it.
    stem: Event,
    host: String,
    api: Api,
    streaming: bool,
    response_record_bytes_max: usize,
}

impl Context {
    fn answer_stem(&self, ending: Ending) -> Event {
        let log = self.scope.log();
        let now = log.clock().now();
        let mut event = self.stem.clone();
        event.id = log.ids().uuid_v7(now);
        event.time = now;
        event.kind = Kind::new("llm.response").expect("the name follows the rule");
        event.correlation.get_or_insert_default().parent_event = Some(self.stem.id);
        let mut set = |name: &str, value| event.attributes.insert(name.to_owned(), value);
        set("audit.upstream", json!(self.host));
        set("audit.capture.point", json!("client"));
        set("audit.outcome", json!(ending.outcome.as_str()));
        if let Some(reason) = ending.reason {
            set("audit.outcome.reason", json!(reason));
            if ending.outcome != Outcome::Complete {
                set("error.type", json!(reason));
            }
        }
        event
    }
}

/// A request that is recorded and has no answer yet. If it is dropped, that is recorded.
pub(crate) struct Begun {
    /// `None` once its end was handed over.
    context: Option<Context>,
    /// Until its record is durable.
    pending: Option<Pending>,
    sent_us: Option<u64>,
}

impl Begun {
    /// There is no answer: records why, and waits for that.
    pub(crate) async fn failed(mut self, reason: &'static str) {
        let Some(context) = self.context.take() else {
            return;
        };
        let scope = context.scope.clone();
        let making = Making {
            make: Box::new(move || {
                let mut event = context.answer_stem(Ending::new(Outcome::UpstreamCut, reason));
                event
                    .attributes
                    .insert("audit.outcome".to_owned(), json!("error"));
                event
            }),
            slow: false,
        };
        // The caller gets the failure in any case; if it isn't recorded in the end, the hook is told.
        drop(Late::watched(&scope, making).await);
    }

    /// The head of an answer came, from `url` if that isn't where the request was sent.
    ///
    /// # Errors
    ///
    /// The answer has no body to wait with, and could not be recorded; or what would follow can't be.
    pub(crate) async fn answered<B>(
        mut self,
        response: Response<B>,
        url: Option<&str>,
    ) -> Result<Response<RecordedBody<B>>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.failed("switched_protocols").await;
            let what = "the server switched protocols, and what would follow can't be recorded";
            return Err(Error::invalid(what));
        }
        let (parts, body) = response.into_parts();
        let context = self.context.take().expect("it ends only by value");
        let media = head::media(&parts.headers);
        let answer = ResponseHead::new(parts.status.as_u16(), head::pairs(&parts.headers));
        let streamed = is_streamed(media);
        let announced = head::content_length(&parts.headers).or(body.size_hint().exact());
        let tap = Box::new(AnswerTap {
            reader: Mutex::new(Reader::new(&context.api, &answer, context.streaming)),
            recording: Recording::new(context.response_record_bytes_max),
            sent_us: self.sent_us.unwrap_or_default(),
            url: url.map(|url| credentials::split_query(url).0),
            context,
            answer,
            media,
        });
        if body.is_end_stream() {
            // Nobody reads such a body, so the answer waits as a whole.
            if let Some(answered) = tap.over(Ending::COMPLETE, None, false) {
                answered.await.unwrap_or_else(|e| {
                    Err(Error::unavailable("the tracer has ended").because(e))
                })?;
            }
            return Ok(Response::from_parts(parts, RecordedBody::empty()));
        }
        let holding = Holding {
            streamed,
            announced,
        };
        Ok(Response::from_parts(
            parts,
            RecordedBody::new(body, holding, tap),
        ))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(context) = self.context.take() else {
            return;
        };
        let reason = match self.sent_us {
            Some(_) => "before_response",
            None => "not_sent",
        };
        let scope = context.scope.clone();
        let making = Making {
            make: Box::new(move || context.answer_stem(Ending::new(Outcome::ClientGone, reason))),
            slow: false,
        };
        Late::left(&scope, making, self.pending.take());
    }
}

/// Gathers an answer while it is read.
struct AnswerTap {
    context: Context,
    /// Only so that the body may be shared between threads; nobody ever waits for it.
    reader: Mutex<Reader>,
    recording: Recording,
    answer: ResponseHead,
    media: Media,
    sent_us: u64,
    url: Option<String>,
}

impl AnswerTap {
    fn event(self, ending: Ending, trailers: Option<&HeaderMap>, total_us: u64) -> Event {
        let mut event = self.context.answer_stem(ending);
        let log = self.context.scope.log();
        head::set_headers(
            &mut event,
            "http.response.header",
            log,
            &self.answer.headers,
        );
        if let Some(trailers) = trailers {
            let pairs = head::pairs(trailers);
            head::set_headers(&mut event, "http.response.trailer", log, &pairs);
        }
        let mut set = |name: &str, value| event.attributes.insert(name.to_owned(), value);
        set("http.response.status_code", json!(self.answer.status));
        set("audit.timing.total_us", json!(total_us));
        if let Some(url) = self.url {
            set("audit.response.url", json!(url));
        }
        if self.answer.status >= 400 {
            // The provider's word for it says more.
            event.attributes.remove("error.type");
        }
        let streamed = is_streamed(self.media);
        let payloads = self
            .recording
            .finish(self.media, streamed, &mut event.attributes);
        let reader = self
            .reader
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(facts) = reader.finish(ending.outcome) {
            add_facts(&mut event, facts.refs(), facts.attributes());
            event
                .correlation
                .get_or_insert_default()
                .provider_request_id = facts.provider_request_id;
        } else {
            let why = json!("the parser failed");
            event
                .attributes
                .insert("audit.response.unparsed".to_owned(), why);
        }
        event.payloads = payloads;
        event
    }
}

impl Tap for AnswerTap {
    fn piece(&mut self, data: &[u8]) -> Passage {
        let now = self.context.scope.monotonic_us();
        self.recording.push(data, now.saturating_sub(self.sent_us));
        let reader = self.reader.get_mut();
        let progress = reader.unwrap_or_else(PoisonError::into_inner).push(data);
        Passage {
            terminal: progress.terminal,
            safe: progress.safe,
            release: progress.release,
        }
    }

    fn over(
        mut self: Box<Self>,
        ending: Ending,
        trailers: Option<HeaderMap>,
        left: bool,
    ) -> Answered {
        let scope = self.context.scope.clone();
        let total_us = scope.monotonic_us().saturating_sub(self.sent_us);
        let slow = self
            .reader
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .is_slow();
        let making = Making {
            make: Box::new(move || self.event(ending, trailers.as_ref(), total_us)),
            slow,
        };
        if left {
            Late::left(&scope, making, None);
            return None;
        }
        Some(Late::watched(&scope, making))
    }
}
