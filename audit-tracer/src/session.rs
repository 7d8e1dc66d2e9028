//! Sessions: what happened together, from an opening to an end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::event::{Actor, Correlation, Event};
use audit_core::log::Receipt;
use audit_core::{Error, ErrorKind, Result};
use serde_json::json;
use uuid::Uuid;

use crate::call::{CallRequest, LlmCall};
use crate::closing::{Ask, Closing};
use crate::draft::Draft;
use crate::tracer::Shared;

/// What a session has instead of the tracer's own; `None` leaves the tracer's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "callers write it with `..Default::default()`"
)]
pub struct SessionOptions {
    /// Its id.
    pub id: Option<String>,
    /// Who acts.
    pub actor: Option<Actor>,
    /// For whom.
    pub on_behalf_of: Option<Actor>,
    /// The pseudonymous data subject.
    pub subject: Option<String>,
}

/// How a session ended; the attribute `audit.reason` of `session.closed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By [`AuditSession::close`].
    Closed,
    /// Its guard was dropped.
    Dropped,
    /// Its guard was dropped because of a panic.
    Panicking,
    /// The tracer was closed before it.
    TracerClosed,
}

impl Ended {
    fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Dropped => "dropped",
            Self::Panicking => "panicking",
            Self::TracerClosed => "tracer_closed",
        }
    }
}

/// What a session's guard and its tracer both know.
#[derive(Debug)]
pub(crate) struct SessionState {
    pub(crate) id: String,
    options: SessionOptions,
    /// The event `session.opened`.
    opened: Uuid,
    /// Events that were handed to the log, and not given back.
    events: AtomicU64,
    phase: Mutex<Phase>,
}

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its id is taken; there is nothing to end yet.
    Registered,
    /// Its opening was handed to the log.
    Begun,
    /// Its end was handed over, or it never began.
    Ended,
}

impl SessionState {
    pub(crate) fn check_open(&self) -> Result<()> {
        if *self.phase() == Phase::Ended {
            Err(Error::unavailable(format!(
                "session {:?} has ended",
                self.id
            )))
        } else {
            Ok(())
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn handed_in(&self) {
        self.events.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn handed_back(&self) {
        self.events.fetch_sub(1, Ordering::AcqRel);
    }

    /// Makes an event one of this session.
    pub(crate) fn claim(&self, event: &mut Event) {
        event.session_id = Some(self.id.clone());
        let options = &self.options;
        if options.actor.is_some() {
            event.actor.clone_from(&options.actor);
        }
        if options.on_behalf_of.is_some() {
            event.on_behalf_of.clone_from(&options.on_behalf_of);
        }
        if options.subject.is_some() {
            event.subject.clone_from(&options.subject);
        }
    }

    /// Has the end recorded, the first time. Waits for nothing and needs no runtime.
    /// Says whether this call did it.
    pub(crate) fn end(&self, shared: &Shared, how: Ended) -> bool {
        let before = std::mem::replace(&mut *self.phase(), Phase::Ended);
        if before == Phase::Begun {
            self.record_end(shared, how);
        }
        if before != Phase::Ended {
            // Behind the end: who finds the id free again finds the end in the queue.
            shared.sessions().open.remove(&self.id);
        }
        before != Phase::Ended
    }

    /// Its opening was handed to the log.
    fn begin(&self, shared: &Shared) {
        let mut phase = self.phase();
        match *phase {
            Phase::Registered => *phase = Phase::Begun,
            // The tracer was closed meanwhile, and found nothing to end.
            Phase::Ended => self.record_end(shared, Ended::TracerClosed),
            Phase::Begun => {}
        }
    }

    fn record_end(&self, shared: &Shared, how: Ended) {
        let mut event = shared
            .event("session.closed")
            .expect("the name follows the rule");
        self.claim(&mut event);
        event.correlation = Some(Correlation {
            parent_event: Some(self.opened),
            ..Correlation::default()
        });
        let mut set = |name: &str, value| event.attributes.insert(name.to_owned(), value);
        set("audit.reason", json!(how.as_str()));
        set(
            "audit.session.events",
            json!(self.events.load(Ordering::Acquire)),
        );
        let closing = Closing::new(event, self.id.clone(), shared.lost.clone());
        // If nobody takes it any more, it comes back, and tells that it was lost when it is dropped.
        drop(shared.closings.send(Ask::Close(closing)));
    }
}

/// An open session. When it is dropped, `session.closed` is recorded: see what
/// [`AuditTracer`](crate::AuditTracer#what-is-guaranteed) guarantees of that.
///
/// To use it from several tasks, share it behind an [`Arc`]; the session ends with the last of them.
#[derive(Debug)]
#[must_use = "a session ends when its guard is dropped"]
pub struct AuditSession {
    shared: Arc<Shared>,
    state: Arc<SessionState>,
}

impl AuditSession {
    pub(crate) async fn open(shared: Arc<Shared>, options: SessionOptions) -> Result<Self> {
        let id = options
            .id
            .clone()
            .or_else(|| shared.defaults.session_id.clone())
            .unwrap_or_else(|| shared.log.ids().uuid_v4().to_string());
        let mut event = shared.event("session.opened")?;
        event.attributes = shared.defaults.claims.attributes();
        let state = Arc::new(SessionState {
            id,
            options,
            opened: event.id,
            events: AtomicU64::new(0),
            phase: Mutex::new(Phase::Registered),
        });
        state.claim(&mut event);
        event.check()?;
        shared.register(&state)?;
        // From here on there is a guard, which frees the id whatever happens.
        let session = Self { shared, state };
        // A session of the same id that just ended must not end behind the opening of this one.
        session.shared.ends_are_handed_in().await?;
        session.state.check_open()?;
        let pending = session.shared.log.submit(event).await?;
        // From here on the opening goes on by itself, so if the caller stops waiting, the end is recorded too.
        session.state.begin(&session.shared);
        if let Err(error) = pending.durable().await {
            if error.kind() != ErrorKind::Unknown {
                // The opening isn't in the log, so its end has no place there.
                *session.state.phase() = Phase::Registered;
            }
            return Err(error);
        }
        Ok(session)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.state.id
    }

    /// The id of its event `session.opened`.
    #[must_use]
    pub fn opened_event(&self) -> Uuid {
        self.state.opened
    }

    /// An event of this session. Await the draft to record it; the answer is a receipt with index and leaf hash, and the
    /// event is then durable.
    ///
    /// ```no_run
    /// # async fn example(session: audit_tracer::AuditSession) -> audit_tracer::Result<()> {
    /// let receipt = session
    ///     .emit("tool.call")
    ///     .attribute("gen_ai.tool.name", "lookup_dosage")
    ///     .payload("arguments", audit_tracer::Media::Json, br#"{"drug":"amoxicillin"}"#.to_vec())
    ///     .await?;
    /// println!("{} {}", receipt.index, receipt.leaf_hash);
    /// # Ok(())
    /// # }
    /// ```
    pub fn emit(&self, kind: &str) -> Draft<'_> {
        Draft::new(&self.shared, Some(&self.state), kind)
    }

    /// Records what is about to be asked of a model's provider, before it is sent: `llm.request`, durable on return.
    /// [`LlmCall::response`] then records what came back.
    ///
    /// The body is recorded byte for byte; what it says (the model, parameters, how many messages) is read from it as the
    /// gateway does. Credentials in the target's query are left out; headers are not recorded.
    ///
    /// # Errors
    ///
    /// As [`Log::append`](audit_core::log::Log::append). Whoever goes on and sends the request has an unrecorded call.
    pub async fn request(&self, request: CallRequest) -> Result<LlmCall<'_>> {
        LlmCall::begin(self, request).await
    }

    /// What records a client's exchanges as this session's. It doesn't keep the session open: once that has ended, calls
    /// are refused. See [`ClientRecorder`](crate::ClientRecorder).
    #[cfg(any(feature = "reqwest", feature = "tower"))]
    #[must_use]
    pub fn client_recorder(&self) -> crate::ClientRecorder {
        crate::ClientRecorder::new(crate::scope::Scope::new(
            Arc::clone(&self.shared),
            Some(Arc::clone(&self.state)),
        ))
    }

    /// A client whose every exchange is recorded as this session's: [`client_recorder`](Self::client_recorder) as it is.
    #[cfg(feature = "reqwest")]
    #[must_use]
    pub fn wrap_client(&self, client: reqwest::Client) -> reqwest_middleware::ClientWithMiddleware {
        self.client_recorder().wrap(client)
    }

    /// Ends the session; its end, and that of every session that ended before it, is durable on return. If the tracer was
    /// closed before, its end is recorded already.
    ///
    /// # Errors
    ///
    /// The first error of recording the end of a session that wasn't answered yet.
    pub async fn close(self) -> Result<()> {
        if self.state.end(&self.shared, Ended::Closed) {
            self.shared.ends_are_durable().await
        } else {
            Ok(())
        }
    }

    pub(crate) fn event(&self, kind: &str) -> Result<Event> {
        let mut event = self.shared.event(kind)?;
        self.state.claim(&mut event);
        Ok(event)
    }

    pub(crate) fn monotonic_us(&self) -> u64 {
        self.shared.log.clock().monotonic_micros()
    }

    pub(crate) async fn append(&self, event: Event) -> Result<Receipt> {
        self.shared.append(Some(&self.state), event).await
    }
}

impl Drop for AuditSession {
    fn drop(&mut self) {
        let how = if std::thread::panicking() {
            Ended::Panicking
        } else {
            Ended::Dropped
        };
        self.state.end(&self.shared, how);
    }
}
