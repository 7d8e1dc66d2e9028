//! One exchange with a provider: recorded, sent, relayed, recorded.
//!
//! The task of the client's connection carries it on, so that a call changes no threads on its way; if the client leaves,
//! a task of its own does, so that the record isn't lost.

use std::sync::Arc;
use std::time::Duration;

use audit_capture::{Api, Reader, Recording, RequestHead, ResponseHead, add_facts, is_streamed};
use audit_core::event::{Capture, Correlation, Event, Guarantee, Kind, Media, Payload};
use audit_core::time::Timestamp;
use audit_core::{ErrorKind, with_causes};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::http::{request, response};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use uuid::Uuid;

use crate::body::{Body, Piece};
use crate::config::Upstream;
use crate::counters::up;
use crate::credentials;
use crate::facts;
use crate::front::Point;
use crate::headers::{self, AuditHeaders};
use crate::keep_alive::{self, KeepAlive};
use crate::recorder::Recorder;
use crate::recording::Outcome;
use crate::refusal::{Code, Refusal};
use crate::report::Severity;
use crate::serving::yield_to_client;
use crate::shared::{Alive, Shared};
use crate::sink::{self, Absent, Kept, Trouble};
use crate::upstream::{Answer, Failure};

/// Bytes held back after the provider's last event; a provider that sends more than that after it isn't waited for.
const HELD_BYTES_MAX: usize = 1 << 20;

/// A request that has been read.
pub(crate) struct Asked {
    pub(crate) id: Uuid,
    pub(crate) parts: request::Parts,
    /// Below the upstream's base.
    pub(crate) target: Uri,
    pub(crate) name: String,
    pub(crate) upstream: Upstream,
    pub(crate) ours: AuditHeaders,
    /// What names the session if nobody else does.
    pub(crate) connection: String,
    pub(crate) point: Point,
    /// The body, or why it isn't there.
    pub(crate) body: Result<Bytes, Refusal>,
}

impl Asked {
    /// What happens to it if it can't be recorded.
    fn guarantee(&self) -> Guarantee {
        match self.upstream.on_audit_failure {
            // Nothing is caught here that its caller would tell of afterwards.
            Guarantee::None => Guarantee::Closed,
            other => other,
        }
    }
}

/// What stays of a request while its answer is awaited.
struct Context {
    shared: Arc<Shared>,
    /// The request's event, without attributes and payloads: the answer's event is made of it.
    stem: Event,
    upstream: String,
    point: Point,
    api: Api,
    streaming: bool,
    method: Method,
    stop: watch::Receiver<bool>,
    recorder: Recorder,
    /// Whether the request's record is somewhere: without it there is none of the answer.
    recorded: bool,
}

/// How an exchange ended, and why if not well.
#[derive(Debug, Clone, Copy)]
struct Ending {
    outcome: Outcome,
    reason: Option<&'static str>,
}

impl Ending {
    const COMPLETE: Self = Self {
        outcome: Outcome::Complete,
        reason: None,
    };

    fn new(outcome: Outcome, reason: &'static str) -> Self {
        Self {
            outcome,
            reason: Some(reason),
        }
    }
}

/// Carries out one exchange; `reply` takes the head of the answer, and its loss means that the client has left.
pub(crate) async fn run(
    shared: Arc<Shared>,
    alive: Alive,
    asked: Asked,
    mut reply: oneshot::Sender<Response<Body>>,
) {
    let id = asked.id;
    let now = shared.log.clock().now();
    let head = RequestHead::new(
        asked.parts.method.as_str(),
        asked.target.path_and_query().map_or("/", |p| p.as_str()),
        headers::pairs(&asked.parts.headers),
    );
    let hint = asked.upstream.provider.as_deref().unwrap_or(&asked.name);
    let api = audit_capture::detect(
        Some(hint),
        Some(asked.upstream.host()),
        &head.method,
        &head.path_and_query,
    );
    let facts = match &asked.body {
        Ok(body) => facts::request(&api, &head, body).await,
        Err(_) => None,
    };
    let stem = stem(&shared, &asked, now);
    let mut event = stem.clone();
    event.attributes = request_attributes(&shared, &asked, &head);
    if let Some(facts) = &facts {
        add_facts(&mut event, facts.refs(), facts.attributes());
    }
    if let Ok(body) = &asked.body {
        event
            .attributes
            .insert("http.request.body.size".to_owned(), json!(body.len()));
        if !body.is_empty() {
            let media = content_media(&asked.parts.headers);
            event
                .payloads
                .push(Payload::new("request.body", media, body.to_vec()));
        }
    }
    let guarantee = asked.guarantee();
    let mut context = Context {
        stop: shared.stop.clone(),
        recorder: Recorder::new(Arc::clone(&shared), alive, id, guarantee, |c| &c.responses),
        recorded: true,
        stem,
        upstream: asked.name.clone(),
        point: asked.point,
        streaming: facts.as_ref().is_some_and(|f| f.stream),
        api,
        method: asked.parts.method.clone(),
        shared: Arc::clone(&shared),
    };

    // A crash until here leaves nothing, and nothing has left.
    let event = shared.sink.numbered(event);
    match shared.sink.take(&event, guarantee).await {
        Ok(Kept::Log) => {
            shared.log_works();
            up(&shared.counters.requests);
        }
        Ok(Kept::Spool) => shared.log_fails(),
        Ok(Kept::Nowhere) => {
            shared.log_fails();
            context.recorded = false;
        }
        Err(Trouble::Failed(error)) => {
            let refusal = match error.kind() {
                ErrorKind::Invalid => Refusal::new(
                    Code::RecordRefused,
                    "the request can't be recorded, so it was not sent",
                ),
                _ => Refusal::new(
                    Code::LogUnavailable,
                    "the audit log can't be written, so the request was not sent",
                ),
            };
            up(&shared.counters.refused_unrecorded);
            shared.log_fails();
            shared.notice(
                Severity::Error,
                refusal.code.as_str(),
                format!("request not sent: {}", with_causes(&error)),
                Some(id),
            );
            answer(reply, refusal.response(id));
            let reason = sink::reason(&error);
            shared.sink.absent(&event, Absent::Refused, reason).await;
            return;
        }
        Err(Trouble::Late(append)) => {
            up(&shared.counters.refused_unrecorded);
            shared.log_fails();
            let refusal = Refusal::new(
                Code::LogUnavailable,
                "the audit log doesn't answer, so the request was not sent",
            );
            shared.notice(
                Severity::Error,
                refusal.code.as_str(),
                "request not sent: the log doesn't answer".to_owned(),
                Some(id),
            );
            answer(reply, refusal.response(id));
            // The append may still succeed; then it is a request like any other, and has one answer.
            if append.await.is_ok() {
                up(&shared.counters.requests);
                let ending = Ending::new(Outcome::Error, "audit_log_unavailable");
                let event = shared.sink.numbered(context.bare_event(ending));
                context.recorder.until_it_lands(event).await;
            } else {
                shared
                    .sink
                    .absent(&event, Absent::Refused, "log_late")
                    .await;
            }
            return;
        }
    }
    // A crash from here on leaves a request without an answer in the log, whether or not it was sent.

    let body = match asked.body {
        Ok(body) => body,
        Err(refusal) => {
            context
                .refuse(
                    reply,
                    Ending::new(Outcome::Error, refusal.code.as_str()),
                    refusal,
                )
                .await;
            return;
        }
    };
    if reply.is_closed() {
        context
            .leave(Ending::new(Outcome::CutByClient, "not_sent"))
            .await;
        return;
    }
    if *context.stop.borrow() {
        let refusal = Refusal::new(
            Code::Stopping,
            "the gateway is being stopped, so the request was not sent",
        );
        context
            .refuse(
                reply,
                Ending::new(Outcome::CutByGateway, "gateway_stopped"),
                refusal,
            )
            .await;
        return;
    }

    let http2 = asked.parts.version == Version::HTTP_2;
    let request = forwarded(asked.parts, asked.target, &asked.upstream, body);
    let started = shared.log.clock().monotonic_micros();
    let mut stop = context.stop.clone();
    // Boxed, since hyper's future is large and this one lives as long as the exchange.
    let sent = Box::pin(timeout(
        shared.config.limits.response_head_timeout,
        shared.client.send(&asked.upstream, request, http2),
    ));
    let response = tokio::select! {
        response = sent => response,
        () = reply.closed() => {
            context.leave(Ending::new(Outcome::CutByClient, "before_response")).await;
            return;
        }
        () = stopped(&mut stop) => {
            let refusal = Refusal::new(Code::Stopping, "the gateway is being stopped");
            context.refuse(reply, Ending::new(Outcome::CutByGateway, "gateway_stopped"), refusal).await;
            return;
        }
    };
    let (refusal, ending) = match response {
        Ok(Ok(response)) if response.head.status != StatusCode::SWITCHING_PROTOCOLS => {
            Box::pin(relay(context, response, started, reply)).await;
            return;
        }
        Ok(Ok(_)) => (
            Refusal::new(
                Code::UpstreamFailed,
                "the provider switched protocols, which nobody asked for",
            ),
            Ending::new(Outcome::Error, "upstream_failed"),
        ),
        Ok(Err(Failure::ConnectTimeout)) => (
            Refusal::new(
                Code::UpstreamTimeout,
                "the provider could not be connected in time",
            ),
            Ending::new(Outcome::Error, "upstream_connect_timeout"),
        ),
        Ok(Err(Failure::Unreachable)) => (
            Refusal::new(
                Code::UpstreamUnreachable,
                "the provider could not be connected",
            ),
            Ending::new(Outcome::Error, "upstream_unreachable"),
        ),
        Ok(Err(Failure::Broken)) => (
            Refusal::new(
                Code::UpstreamFailed,
                "the provider's connection broke before its answer",
            ),
            Ending::new(Outcome::Error, "upstream_failed"),
        ),
        Err(_) => (
            Refusal::new(Code::UpstreamTimeout, "the provider did not answer in time"),
            Ending::new(Outcome::Error, "upstream_timeout"),
        ),
    };
    context.refuse(reply, ending, refusal).await;
}

/// How far the client has got.
enum Client {
    Waiting(oneshot::Sender<Response<Body>>),
    Reading(mpsc::Sender<Piece>),
}

/// Relays an answer, and releases its end when its record is durable.
async fn relay(
    context: Context,
    mut upstream: Answer,
    started: u64,
    reply: oneshot::Sender<Response<Body>>,
) {
    let shared = Arc::clone(&context.shared);
    let limits = &shared.config.limits;
    let parts = upstream.head.clone();
    let head = ResponseHead::new(parts.status.as_u16(), headers::pairs(&parts.headers));
    let mut reader = Reader::new(&context.api, &head, context.streaming);
    let mut recording = Recording::new(limits.response_record_bytes_max);
    let media = content_media(&parts.headers);
    // Pieces of these are for readers who don't wait for the end.
    let streamed = is_streamed(media);
    let announced = content_length(&parts.headers);
    let mut stop = context.stop.clone();
    let mut trailers = None;
    // A compressed or counted body has no place for a comment.
    let commented = media == Media::EventStream
        && announced.is_none()
        && !parts.headers.contains_key(CONTENT_ENCODING);
    let mut keep_alive = KeepAlive::new(limits.keep_alive_comment.filter(|_| commented));
    // What waits for the record: from the provider's last event on, or else the last piece.
    let mut held: Vec<Bytes> = Vec::new();

    let empty = upstream.is_empty() || context.method == Method::HEAD;
    let (client, ending) = if empty {
        (Client::Waiting(reply), Ending::COMPLETE)
    } else {
        // One piece waits here and one in hyper; while they do, the provider isn't read.
        let (pieces, taken) = mpsc::channel(1);
        let ending = if reply
            .send(context.client_response(&parts, Body::relayed(taken)))
            .is_err()
        {
            Ending::new(Outcome::CutByClient, "before_response")
        } else {
            let mut deadline: Option<Instant> = None;
            let mut held_bytes = 0;
            let mut silent_until = Instant::now() + limits.response_idle_timeout;
            loop {
                let comment = keep_alive.due().filter(|_| held.is_empty());
                let frame = tokio::select! {
                    frame = timeout_at(silent_until, upstream.frame()) => frame,
                    () = reached(comment) => {
                        let comment = vec![keep_alive::COMMENT];
                        let patience = limits.client_stall_timeout;
                        if let Some(ending) = forward(&pieces, comment, &mut stop, patience).await {
                            break ending;
                        }
                        keep_alive.sent();
                        continue;
                    }
                    () = pieces.closed() => break Ending::new(Outcome::CutByClient, "client_left"),
                    () = stopped(&mut stop) => break Ending::new(Outcome::CutByGateway, "gateway_stopped"),
                    () = reached(deadline) => {
                        break Ending { outcome: Outcome::Complete, reason: Some("provider_kept_open") };
                    }
                };
                let mut data = match frame {
                    Ok(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => data,
                        Err(frame) => {
                            trailers = frame.into_trailers().ok();
                            continue;
                        }
                    },
                    Ok(None) => break Ending::COMPLETE,
                    Ok(Some(Err(_))) => {
                        break Ending::new(Outcome::CutByProvider, "upstream_reset");
                    }
                    Err(_) => break Ending::new(Outcome::CutByProvider, "upstream_idle"),
                };
                if data.is_empty() {
                    continue;
                }
                silent_until = Instant::now() + limits.response_idle_timeout;
                let now = shared.log.clock().monotonic_micros();
                recording.push(&data, now.saturating_sub(started));
                let progress = reader.push(&data);
                let mut ready = Vec::new();
                if deadline.is_some() {
                    held_bytes += data.len();
                    held.push(data);
                    if held_bytes > HELD_BYTES_MAX {
                        break Ending {
                            outcome: Outcome::Complete,
                            reason: Some("provider_kept_open"),
                        };
                    }
                } else if progress.terminal || !progress.release || progress.safe < data.len() {
                    // The last event, or one that is the last unless another follows.
                    if progress.release {
                        ready = std::mem::take(&mut held);
                    }
                    ready.push(data.split_to(progress.safe));
                    held.push(data);
                    held_bytes = held.iter().map(Bytes::len).sum();
                    if progress.terminal {
                        deadline = Some(Instant::now() + limits.terminal_wait);
                    } else if held_bytes > HELD_BYTES_MAX {
                        // So much doesn't follow a last event.
                        ready.append(&mut held);
                    }
                } else if announced.is_some_and(|n| recording.length() >= n) {
                    held.push(data);
                } else if streamed || announced.is_some() {
                    ready = std::mem::take(&mut held);
                    ready.push(data);
                } else {
                    ready = std::mem::replace(&mut held, vec![data]);
                }
                for data in &ready {
                    keep_alive.passed(data);
                }
                let patience = limits.client_stall_timeout;
                if let Some(ending) = forward(&pieces, ready, &mut stop, patience).await {
                    break ending;
                }
            }
        };
        (Client::Reading(pieces), ending)
    };
    // If the provider's answer is not at its end, this closes its connection.
    shared.client.keep(upstream).await;
    let total = shared
        .log
        .clock()
        .monotonic_micros()
        .saturating_sub(started);

    let mut event = context
        .response_event(
            &parts,
            ending,
            recording,
            reader,
            total,
            trailers.as_ref(),
            streamed,
        )
        .await;
    if keep_alive.count() > 0 {
        event.attributes.insert(
            "audit.response.keep_alives".to_owned(),
            json!(keep_alive.count()),
        );
    }
    if streamed {
        // What was passed on reaches the client before this thread is taken by the record.
        yield_to_client().await;
    }
    // A crash before the record is durable cuts the client's answer too: it has no end yet.
    let recorded = context.record(event).await;

    let pieces = match client {
        Client::Reading(pieces) => pieces,
        // An answer without a body waits as a whole.
        Client::Waiting(reply) => {
            let response = if recorded {
                context.client_response(&parts, Body::Empty)
            } else {
                Refusal::new(Code::LogUnavailable, "the answer could not be recorded")
                    .response(context.stem.id)
            };
            answer(reply, response);
            return;
        }
    };
    if !recorded {
        return;
    }
    // What came and is recorded is passed on, also of an answer that was cut; only a whole one gets its end.
    for data in held {
        let sent = timeout(limits.client_stall_timeout, pieces.send(Piece::Data(data)));
        if !matches!(sent.await, Ok(Ok(()))) {
            return;
        }
    }
    if ending.outcome == Outcome::Complete {
        if let Some(trailers) = trailers
            && pieces
                .send(Piece::Trailers(headers::to_client(&trailers)))
                .await
                .is_err()
        {
            return;
        }
        // Nobody is left to be told if the client has gone by now.
        drop(pieces.send(Piece::End).await);
    }
}

/// Passes pieces on; waits as long as the client takes.
async fn forward(
    pieces: &mpsc::Sender<Piece>,
    ready: Vec<Bytes>,
    stop: &mut watch::Receiver<bool>,
    patience: Duration,
) -> Option<Ending> {
    for data in ready.into_iter().filter(|d| !d.is_empty()) {
        tokio::select! {
            // In HTTP/1.1 the connection itself fails first; a stream of HTTP/2 has nothing else that ends it.
            sent = timeout(patience, pieces.send(Piece::Data(data))) => {
                match sent {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Some(Ending::new(Outcome::CutByClient, "client_left")),
                    Err(_) => return Some(Ending::new(Outcome::CutByClient, "client_stalled")),
                }
            }
            () = stopped(stop) => return Some(Ending::new(Outcome::CutByGateway, "gateway_stopped")),
        }
    }
    None
}

impl Context {
    /// Records an exchange that has no answer of a provider, then answers the client.
    async fn refuse(
        &self,
        reply: oneshot::Sender<Response<Body>>,
        ending: Ending,
        refusal: Refusal,
    ) {
        let recorded = self.record(self.bare_event(ending)).await;
        let refusal = if recorded {
            refusal
        } else {
            Refusal::new(
                Code::LogUnavailable,
                "what came of the request could not be recorded",
            )
        };
        answer(reply, refusal.response(self.stem.id));
    }

    /// Records how the exchange ended; says whether the client may have the end of its answer.
    async fn record(&self, event: Event) -> bool {
        if self.recorded {
            self.recorder.record(event).await
        } else {
            self.recorder.leave_out(event).await;
            true
        }
    }

    /// Records an exchange whose client has left.
    async fn leave(&self, ending: Ending) {
        self.record(self.bare_event(ending)).await;
    }

    /// The `llm.response` of an exchange without an answer.
    fn bare_event(&self, ending: Ending) -> Event {
        let mut event = self.response_stem();
        event.attributes = self.ending_attributes(ending);
        event
    }

    fn response_stem(&self) -> Event {
        let now = self.shared.log.clock().now();
        let mut event = self.stem.clone();
        event.id = self.shared.log.ids().uuid_v7(now);
        event.time = now;
        event.kind = Kind::new("llm.response").expect("the name follows the rule");
        event.correlation.get_or_insert_default().parent_event = Some(self.stem.id);
        event
    }

    fn ending_attributes(&self, ending: Ending) -> Map<String, Value> {
        let mut attributes = Map::new();
        attributes.insert("audit.upstream".to_owned(), json!(self.upstream));
        attributes.insert("audit.capture.point".to_owned(), json!(self.point.as_str()));
        attributes.insert("audit.outcome".to_owned(), json!(ending.outcome.as_str()));
        if let Some(reason) = ending.reason {
            attributes.insert("audit.outcome.reason".to_owned(), json!(reason));
            if ending.outcome != Outcome::Complete {
                attributes.insert("error.type".to_owned(), json!(reason));
            }
        }
        attributes
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "everything that is known of an answer comes together here, once"
    )]
    async fn response_event(
        &self,
        parts: &response::Parts,
        ending: Ending,
        recording: Recording,
        reader: Reader,
        total_us: u64,
        trailers: Option<&HeaderMap>,
        streamed: bool,
    ) -> Event {
        let log = &self.shared.log;
        let mut event = self.response_stem();
        let mut attributes = self.ending_attributes(ending);
        attributes.insert(
            "http.response.status_code".to_owned(),
            json!(parts.status.as_u16()),
        );
        attributes.insert("audit.timing.total_us".to_owned(), json!(total_us));
        let kept = credentials::headers(log, &headers::pairs(&parts.headers));
        attributes.insert(
            "http.response.header".to_owned(),
            Value::Array(kept.headers),
        );
        if let Some(trailers) = trailers {
            let kept = credentials::headers(log, &headers::pairs(trailers));
            attributes.insert(
                "http.response.trailer".to_owned(),
                Value::Array(kept.headers),
            );
        }
        if parts.status.as_u16() >= 400 {
            attributes.remove("error.type");
        }
        let payloads = recording.finish(content_media(&parts.headers), streamed, &mut attributes);
        event.attributes = attributes;
        match facts::response(reader, ending.outcome).await {
            Some(facts) => {
                add_facts(&mut event, facts.refs(), facts.attributes());
                event
                    .correlation
                    .get_or_insert_default()
                    .provider_request_id = facts.provider_request_id;
            }
            None => {
                event.attributes.insert(
                    "audit.response.unparsed".to_owned(),
                    json!("the parser failed"),
                );
            }
        }
        event.payloads = payloads;
        event
    }

    /// The head that the client gets.
    fn client_response(&self, parts: &response::Parts, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        *response.status_mut() = parts.status;
        *response.headers_mut() = headers::to_client(&parts.headers);
        if self.shared.config.event_header
            && let Ok(value) = HeaderValue::from_str(&self.stem.id.to_string())
        {
            response.headers_mut().insert("x-audit-event", value);
        }
        // The case of header names and the reason phrase as the provider wrote them.
        *response.extensions_mut() = parts.extensions.clone();
        response
    }
}

/// What the events of one exchange have in common.
fn stem(shared: &Shared, asked: &Asked, now: Timestamp) -> Event {
    let kind = Kind::new("llm.request").expect("the name follows the rule");
    let trace = headers::traceparent(&asked.parts.headers);
    let guarantee = asked.guarantee();
    let mut event = event(shared, asked.id, kind, &asked.ours, trace, guarantee);
    event.time = now;
    event
        .session_id
        .get_or_insert_with(|| asked.connection.clone());
    event
}

/// An event of what a client does: what it says of itself, and else what the operator says of all of them.
pub(crate) fn event(
    shared: &Shared,
    id: Uuid,
    kind: Kind,
    ours: &AuditHeaders,
    trace: Option<(String, String)>,
    guarantee: Guarantee,
) -> Event {
    let defaults = &shared.config.defaults;
    let mut event = Event::new(id, shared.log.clock().now(), kind);
    event.actor = ours.actor.clone().or_else(|| defaults.actor.clone());
    event.on_behalf_of = ours
        .on_behalf_of
        .clone()
        .or_else(|| defaults.on_behalf_of.clone());
    event.subject = ours.subject.clone().or_else(|| defaults.subject.clone());
    event.session_id = ours.session.clone().or_else(|| defaults.session.clone());
    event.system.clone_from(&shared.config.system);
    event.correlation = trace
        .or_else(|| defaults.trace.clone())
        .map(|(trace, span)| Correlation {
            trace_id: Some(trace),
            span_id: Some(span),
            ..Correlation::default()
        });
    event.capture = Some(Capture {
        component: "audit-gateway".to_owned(),
        guarantee,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    event
}

fn request_attributes(shared: &Shared, asked: &Asked, head: &RequestHead) -> Map<String, Value> {
    let mut kept = credentials::headers(&shared.log, &head.headers);
    let (path, query, in_query) = credentials::target(&shared.log, &head.path_and_query);
    kept.credentials.extend(in_query);
    let source = match (&asked.ours.session, &shared.config.defaults.session) {
        (Some(_), _) => "header",
        (None, Some(_)) => "gateway",
        (None, None) => "connection",
    };
    let mut attributes = Map::new();
    let mut set = |name: &str, value: Value| attributes.insert(name.to_owned(), value);
    set("http.request.method", json!(head.method));
    set("url.path", json!(path));
    if let Some(query) = query {
        set("url.query", json!(query));
    }
    set("http.request.header", Value::Array(kept.headers));
    set("audit.upstream", json!(asked.name));
    set("server.address", json!(asked.upstream.host()));
    set("server.port", json!(asked.upstream.port()));
    set("audit.session.source", json!(source));
    set("audit.capture.point", json!(asked.point.as_str()));
    let version = if asked.parts.version == Version::HTTP_2 {
        "2"
    } else {
        "1.1"
    };
    set("network.protocol.version", json!(version));
    if !kept.credentials.is_empty() {
        set("audit.credential", Value::Array(kept.credentials));
    }
    if let Err(refusal) = &asked.body {
        set("audit.request.body_refused", json!(refusal.code.as_str()));
    }
    attributes
}

/// The request as the upstream gets it: the same but for what belongs to one connection.
fn forwarded(
    parts: request::Parts,
    target: Uri,
    upstream: &Upstream,
    body: Bytes,
) -> Request<Full<Bytes>> {
    let host =
        HeaderValue::from_str(upstream.authority.as_str()).expect("an authority is a header value");
    let headers = headers::to_upstream(&parts.headers, &host, body.len());
    let mut request = Request::new(Full::new(body));
    *request.headers_mut() = headers;
    *request.method_mut() = parts.method;
    // In origin form (RFC 9112 §3.2.1): where it goes stands in the host header.
    *request.uri_mut() = target
        .into_parts()
        .path_and_query
        .map_or_else(|| Uri::from_static("/"), Uri::from);
    *request.extensions_mut() = parts.extensions;
    request
}

/// Answers a client who may have gone by now; then there is nobody to tell.
fn answer(reply: oneshot::Sender<Response<Body>>, response: Response<Body>) {
    drop(reply.send(response));
}

/// Waits until the gateway gives up its open exchanges.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The sender lives as long as the gateway; if it is gone, that is a stop too.
    drop(stop.wait_for(|stop| *stop).await);
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
}

fn content_media(headers: &HeaderMap) -> Media {
    Media::of_content_type(content_type(headers))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}
