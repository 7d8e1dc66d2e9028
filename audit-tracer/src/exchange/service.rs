//! Requests that a service of one's own answers.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use audit_capture::{Outcome, traceparent};
use audit_core::Result;
use audit_core::event::{Actor, Correlation, Event, Media, Payload};
use bytes::{Buf, Bytes};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Body, Frame, SizeHint};
use serde_json::json;
use tokio::sync::oneshot;
use tower_layer::Layer;
use tower_service::Service;

use super::body::{Answered, Holding, Passage, RecordedBody, Tap};
use super::preview::preview;
use super::{BoxError, Ending, head};
use crate::late::{Late, Making};
use crate::scope::Scope;

/// Who asks, as the service knows; what is `None` is as for every event of the tracer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "callers write it with `..Default::default()`"
)]
pub struct Caller {
    /// Who acts.
    pub actor: Option<Actor>,
    /// For whom.
    pub on_behalf_of: Option<Actor>,
    /// The pseudonymous data subject.
    pub subject: Option<String>,
    /// The session that the request belongs to.
    pub session_id: Option<String>,
    /// The pattern that the path matched, such as `/patients/{id}`.
    pub route: Option<String>,
}

/// What becomes of an answer whose record can't be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unrecorded {
    /// Its end is held back until the record is durable; if that fails, it is broken off, or 503 if it has no body.
    #[default]
    BreakOff,
    /// It waits for nothing. The record is tried again; one that is given up is told to
    /// [`on_lost_closing`](crate::Builder::on_lost_closing).
    GoOn,
}

type Identify = dyn Fn(&Parts) -> Caller + Send + Sync;
type Filter = dyn Fn(&Method, &Uri) -> bool + Send + Sync;

/// A `tower` layer that records each request that a service answers: one event `http.request` with method, path, status and
/// latency, when the answer has been read to its end or was given up.
///
/// # What is guaranteed
///
/// - Nothing of a body is held in memory but what was asked for by [`previews`](Self::previews), and of an answer the last
///   piece.
/// - Whoever has read a whole answer has one that is recorded, unless [`Unrecorded::GoOn`] was asked for.
/// - Errors and panics of the service go on as they are, and are recorded; so is a client who leaves.
/// - What the service *does* isn't held back by anything: the record is made afterwards, so `capture.guarantee` is `none`.
///   To have an act recorded before it happens, [`emit`](crate::AuditSession::emit) an event in the handler.
/// - Credentials in the query are not recorded; headers are not recorded at all.
#[derive(Clone)]
pub struct ServiceRecorder {
    scope: Scope,
    settings: Arc<Settings>,
}

#[derive(Clone, Default)]
struct Settings {
    identify: Option<Arc<Identify>>,
    filter: Option<Arc<Filter>>,
    preview_bytes_max: usize,
    unrecorded: Unrecorded,
}

impl fmt::Debug for ServiceRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceRecorder")
            .field("preview_bytes_max", &self.settings.preview_bytes_max)
            .field("unrecorded", &self.settings.unrecorded)
            .finish_non_exhaustive()
    }
}

impl ServiceRecorder {
    pub(crate) fn new(scope: Scope) -> Self {
        Self {
            scope,
            settings: Arc::default(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    /// Says of each request who asks. It sees what outer layers have left in the request's extensions; the route, for
    /// instance, is there for a layer of axum's router as `MatchedPath`.
    #[must_use]
    pub fn identify(self, who: impl Fn(&Parts) -> Caller + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.identify = Some(Arc::new(who)))
    }

    /// Records only requests of which `wanted` says so; all others pass without a trace in the log.
    #[must_use]
    pub fn only(self, wanted: impl Fn(&Method, &Uri) -> bool + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.filter = Some(Arc::new(wanted)))
    }

    /// Records the first bytes of each body too, if it is text, with credentials taken out: values under names such as
    /// `password`, and words that begin as keys do. None unless said.
    ///
    /// A preview is for reading. It is not the bytes as they were, and what no name gives away stays in it; a filter in
    /// front of the log ([`Builder::ingest`](crate::Builder::ingest)) sees it too.
    #[must_use]
    pub fn previews(self, bytes_max: usize) -> Self {
        self.with(|settings| settings.preview_bytes_max = bytes_max)
    }

    /// What becomes of an answer whose record can't be written; [`Unrecorded::BreakOff`] unless said.
    #[must_use]
    pub fn on_unrecorded(self, then: Unrecorded) -> Self {
        self.with(|settings| settings.unrecorded = then)
    }
}

impl<S> Layer<S> for ServiceRecorder {
    type Service = RecordedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RecordedService {
            inner,
            recorder: self.clone(),
        }
    }
}

/// A service whose requests are recorded: see [`ServiceRecorder`].
#[derive(Debug, Clone)]
pub struct RecordedService<S> {
    inner: S,
    recorder: ServiceRecorder,
}

impl<S, B, R> Service<Request<B>> for RecordedService<S>
where
    S: Service<Request<CountedBody<B>>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send,
    B: Body,
    R: Body + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<RecordedBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let settings = &self.recorder.settings;
        let wanted = settings.filter.as_ref();
        if wanted.is_some_and(|wanted| !wanted(request.method(), request.uri())) {
            let answer = self.inner.call(request.map(CountedBody::uncounted));
            return Box::pin(async move { Ok(answer.await?.map(RecordedBody::unrecorded)) });
        }
        let (parts, body) = request.into_parts();
        let seen = Arc::new(Mutex::new(Seen::new(&parts.headers, settings)));
        let arrived = Arrived::new(&self.recorder, &parts, Arc::clone(&seen));
        let body = CountedBody {
            inner: Box::pin(body),
            seen: Some(seen),
        };
        let answer = self.inner.call(Request::from_parts(parts, body));
        Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(arrived.answered(response).await),
                Err(error) => {
                    arrived.failed().await;
                    Err(error)
                }
            }
        })
    }
}

/// What was seen of a body.
#[derive(Debug)]
struct Seen {
    length: u64,
    media: Media,
    first: Vec<u8>,
    first_bytes_max: usize,
}

impl Seen {
    fn new(headers: &HeaderMap, settings: &Settings) -> Self {
        // What is compressed is no text.
        let plain = !headers.contains_key(header::CONTENT_ENCODING);
        Self {
            length: 0,
            media: head::media(headers),
            first: Vec::new(),
            first_bytes_max: if plain { settings.preview_bytes_max } else { 0 },
        }
    }

    fn piece(&mut self, data: &[u8]) {
        self.length += data.len() as u64;
        let room = self.first_bytes_max.saturating_sub(self.first.len());
        let first = data.get(..room).unwrap_or(data);
        self.first.extend_from_slice(first);
    }

    /// Adds the size under `size`, and the preview as the payload `name`.
    fn add_to(&self, event: &mut Event, size: &str, name: &str) {
        event.attributes.insert(size.to_owned(), json!(self.length));
        if self.first.is_empty() {
            return;
        }
        if let Some(text) = preview(self.media, &self.first)
            && !text.is_empty()
        {
            event
                .payloads
                .push(Payload::new(name, Media::Text, text.into_bytes()));
        }
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request's body, whose bytes are counted as the service reads them.
pub struct CountedBody<B> {
    inner: Pin<Box<B>>,
    seen: Option<Arc<Mutex<Seen>>>,
}

impl<B> fmt::Debug for CountedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountedBody").finish_non_exhaustive()
    }
}

impl<B> CountedBody<B> {
    fn uncounted(inner: B) -> Self {
        Self {
            inner: Box::pin(inner),
            seen: None,
        }
    }
}

impl<B: Body> Body for CountedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        this.inner.as_mut().poll_frame(cx).map_ok(|frame| {
            let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
            if let (Some(seen), Some(data)) = (&this.seen, frame.data_ref()) {
                locked(seen).piece(data);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A request that has no answer yet. If it is dropped, that is recorded: the client has left, or the service panics.
struct Arrived {
    scope: Scope,
    settings: Arc<Settings>,
    /// Whoever asks reads no body.
    is_head: bool,
    /// `None` once its end was handed over, or if it can't be recorded at all.
    event: Option<Event>,
    seen: Arc<Mutex<Seen>>,
    came_us: u64,
}

impl Arrived {
    fn new(recorder: &ServiceRecorder, parts: &Parts, seen: Arc<Mutex<Seen>>) -> Self {
        let ServiceRecorder { scope, settings } = recorder;
        let caller = settings
            .identify
            .as_ref()
            .map(|who| who(parts))
            .unwrap_or_default();
        let mut event = scope
            .event("http.request")
            .expect("the name follows the rule");
        let nobody = event.clone();
        event.actor = caller.actor.or(event.actor);
        event.on_behalf_of = caller.on_behalf_of.or(event.on_behalf_of);
        event.subject = caller.subject.or(event.subject);
        event.session_id = caller.session_id.or(event.session_id);
        if let Err(error) = event.check() {
            // What a client says of itself must not decide whether its request is recorded.
            event = nobody;
            let why = json!(error.to_string());
            event
                .attributes
                .insert("audit.caller_refused".to_owned(), why);
        }
        event.correlation =
            traceparent(&head::pairs(&parts.headers)).map(|(trace_id, span_id)| Correlation {
                trace_id: Some(trace_id),
                span_id: Some(span_id),
                ..Correlation::default()
            });
        let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        head::set_target(&mut event, scope.log(), target);
        let mut set = |name: &str, value| event.attributes.insert(name.to_owned(), value);
        set("http.request.method", json!(parts.method.as_str()));
        set("audit.capture.point", json!("service"));
        if let Some(route) = caller.route {
            set("http.route", json!(route));
        }
        Self {
            scope: scope.clone(),
            settings: Arc::clone(settings),
            is_head: parts.method == Method::HEAD,
            event: Some(event),
            seen,
            came_us: scope.monotonic_us(),
        }
    }

    fn since_us(&self) -> u64 {
        self.scope.monotonic_us().saturating_sub(self.came_us)
    }

    /// Has the record made; says whether the answer has to wait for it.
    fn over(&mut self, end: End, answer: Option<&Answer>, left: bool) -> Answered {
        let mut event = self.event.take()?;
        let total_us = self.since_us();
        let mut set = |name: &str, value| event.attributes.insert(name.to_owned(), value);
        set("audit.timing.total_us", json!(total_us));
        set("audit.outcome", json!(end.outcome));
        if let Some(reason) = end.reason {
            set("audit.outcome.reason", json!(reason));
            set("error.type", json!(reason));
        }
        if let Some(answer) = answer {
            set("http.response.status_code", json!(answer.status.as_u16()));
            set("audit.timing.response_us", json!(answer.head_us));
            if end.reason.is_none() && answer.status.is_server_error() {
                set("error.type", json!(answer.status.as_str()));
            }
            answer
                .seen
                .add_to(&mut event, "http.response.body.size", "response.preview");
        }
        locked(&self.seen).add_to(&mut event, "http.request.body.size", "request.preview");
        let making = Making {
            make: Box::new(move || event),
            slow: false,
        };
        if left || self.settings.unrecorded == Unrecorded::GoOn {
            Late::unbounded(&self.scope, making);
            return None;
        }
        Some(Late::watched(&self.scope, making))
    }

    /// The service has failed, and says so itself.
    async fn failed(mut self) {
        let end = End::new("error", "service_failed");
        if let Some(answered) = self.over(end, None, false) {
            // There is no answer to hold back; if the record is lost in the end, the hook is told.
            drop(answered.await);
        }
    }

    async fn answered<R>(mut self, response: Response<R>) -> Response<RecordedBody<R>>
    where
        R: Body,
        R::Error: Into<BoxError>,
    {
        let (parts, body) = response.into_parts();
        let answer = Answer {
            status: parts.status,
            head_us: self.since_us(),
            seen: Seen::new(&parts.headers, &self.settings),
        };
        let unread = self.is_head
            || matches!(
                parts.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        if unread || body.is_end_stream() {
            if let Some(answered) = self.over(End::COMPLETE, Some(&answer), false)
                && !is_recorded(answered).await
            {
                let mut refused = Response::new(RecordedBody::empty());
                *refused.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                return refused;
            }
            // What it says of its length stays.
            return Response::from_parts(parts, RecordedBody::unrecorded(body));
        }
        let holding = Holding {
            // Pieces wait for nobody; the end does.
            streamed: true,
            announced: head::content_length(&parts.headers).or(body.size_hint().exact()),
        };
        let tap = Box::new(ServiceTap {
            arrived: self,
            answer,
        });
        Response::from_parts(parts, RecordedBody::new(body, holding, tap))
    }
}

async fn is_recorded(answered: oneshot::Receiver<Result<()>>) -> bool {
    matches!(answered.await, Ok(Ok(())))
}

impl Drop for Arrived {
    fn drop(&mut self) {
        let end = if std::thread::panicking() {
            End::new("error", "panic")
        } else {
            End::new("cut_by_client", "client_left")
        };
        drop(self.over(end, None, true));
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
struct End {
    outcome: &'static str,
    reason: Option<&'static str>,
}

impl End {
    const COMPLETE: Self = Self {
        outcome: "complete",
        reason: None,
    };

    fn new(outcome: &'static str, reason: &'static str) -> Self {
        Self {
            outcome,
            reason: Some(reason),
        }
    }
}

/// What is known of an answer.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    head_us: u64,
    seen: Seen,
}

/// Counts an answer while it is read.
struct ServiceTap {
    arrived: Arrived,
    answer: Answer,
}

impl Tap for ServiceTap {
    fn piece(&mut self, data: &[u8]) -> Passage {
        self.answer.seen.piece(data);
        Passage {
            terminal: false,
            safe: data.len(),
            release: true,
        }
    }

    fn over(mut self: Box<Self>, ending: Ending, _: Option<HeaderMap>, left: bool) -> Answered {
        let end = match ending.outcome {
            Outcome::Complete => End::COMPLETE,
            Outcome::ClientGone if std::thread::panicking() => End::new("error", "panic"),
            Outcome::ClientGone => End::new("cut_by_client", "client_left"),
            _ => End::new("error", "service_failed"),
        };
        let Self { arrived, answer } = &mut *self;
        arrived.over(end, Some(answer), left)
    }
}
