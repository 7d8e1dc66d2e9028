//! An event in the making.

use std::future::{Future, IntoFuture};
use std::pin::Pin;

use audit_core::Result;
use audit_core::event::{Actor, Correlation, Event, Media, Payload};
use audit_core::log::Receipt;
use audit_core::time::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use crate::session::SessionState;
use crate::tracer::Shared;

/// An event in the making. **Nothing is recorded until it is awaited**; the answer is a receipt with index and leaf hash,
/// and the event would then survive a power cut.
///
/// What is wrong with it (a kind or a name that breaks the rules, a number that JSON can't hold exactly) is told when it is
/// awaited. `docs/events.md` lists kinds and their fields; any other kind of the form `[a-z0-9_.]{1,64}` is recorded too.
///
/// # Errors
///
/// As [`Log::append`](audit_core::log::Log::append); [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) too if the
/// session has ended.
#[derive(Debug)]
#[must_use = "nothing is recorded until it is awaited"]
pub struct Draft<'a> {
    shared: &'a Shared,
    session: Option<&'a SessionState>,
    event: Result<Event>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(shared: &'a Shared, session: Option<&'a SessionState>, kind: &str) -> Self {
        let mut event = shared.event(kind);
        if let (Ok(event), Some(session)) = (&mut event, session) {
            session.claim(event);
        }
        Self {
            shared,
            session,
            event,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Event)) -> Self {
        if let Ok(event) = &mut self.event {
            change(event);
        }
        self
    }

    /// Sets an attribute: a name of OpenTelemetry's where there is one, else one below `audit.`.
    pub fn attribute(self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.with(|event| {
            event.attributes.insert(name.into(), value.into());
        })
    }

    /// Sets a reference, by which the event can be found: `model_id`, `dataset_id`, `deployment_id` …
    pub fn reference(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(|event| {
            event.refs.insert(name.into(), value.into());
        })
    }

    /// Adds named bytes, which are recorded as they are.
    pub fn payload(self, name: impl Into<String>, media: Media, bytes: impl Into<Vec<u8>>) -> Self {
        self.with(|event| {
            event.payloads.push(Payload::new(name, media, bytes.into()));
        })
    }

    /// Who acted.
    pub fn actor(self, actor: Actor) -> Self {
        self.with(|event| event.actor = Some(actor))
    }

    /// For whom.
    pub fn on_behalf_of(self, actor: Actor) -> Self {
        self.with(|event| event.on_behalf_of = Some(actor))
    }

    /// The pseudonymous data subject.
    pub fn subject(self, subject: impl Into<String>) -> Self {
        self.with(|event| event.subject = Some(subject.into()))
    }

    /// The event that this one answers or belongs to.
    pub fn parent(self, event_id: Uuid) -> Self {
        self.with(|event| {
            event
                .correlation
                .get_or_insert_with(Correlation::default)
                .parent_event = Some(event_id);
        })
    }

    /// W3C trace context: 32 and 16 hexadecimal digits.
    pub fn trace(self, trace_id: impl Into<String>, span_id: impl Into<String>) -> Self {
        self.with(|event| {
            let correlation = event.correlation.get_or_insert_with(Correlation::default);
            correlation.trace_id = Some(trace_id.into());
            correlation.span_id = Some(span_id.into());
        })
    }

    /// When it happened, if not now. A claim: the writer's own clock stands beside it.
    pub fn at(self, time: Timestamp) -> Self {
        self.with(|event| event.time = time)
    }
}

impl<'a> IntoFuture for Draft<'a> {
    type Output = Result<Receipt>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Receipt>> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.shared.append(self.session, self.event?).await })
    }
}
