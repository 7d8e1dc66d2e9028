//! The tracer: one open log, and sessions in it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use audit_core::event::{Actor, Capture, Event, Guarantee, Kind, SystemRef};
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, Receipt, StateFile};
use audit_core::reader::LogReader;
use audit_core::{Error, Result};
use audit_tlog::Hash;
use audit_tlog::note::VerifierKey;
use audit_verify::{Policy, Verdict};
use tokio::sync::{mpsc, oneshot};

use crate::builder::Builder;
use crate::closing::{Ask, LostHook, record};
use crate::draft::Draft;
use crate::evidence::StoreEvidence;
use crate::mode::Claims;
use crate::session::{AuditSession, Ended, SessionOptions, SessionState};

/// What events and sessions have unless they say otherwise.
#[derive(Debug)]
pub(crate) struct Defaults {
    pub(crate) session_id: Option<String>,
    pub(crate) actor: Option<Actor>,
    pub(crate) on_behalf_of: Option<Actor>,
    pub(crate) system: Option<SystemRef>,
    pub(crate) subject: Option<String>,
    pub(crate) claims: Claims,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) log: Log,
    keys: Arc<KeyRing>,
    state_dir: Option<PathBuf>,
    opened: Option<Hash>,
    pub(crate) defaults: Defaults,
    pub(crate) lost: LostHook,
    pub(crate) closings: mpsc::UnboundedSender<Ask>,
    pub(crate) sessions: Mutex<Sessions>,
    #[cfg(feature = "tower")]
    pub(crate) unwatched: Arc<crate::late::Unwatched>,
}

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) open: HashMap<String, Arc<SessionState>>,
    /// No session is opened any more.
    closed: bool,
}

/// An open log for a service: sessions, events, a verdict. Clones are handles on the same log.
///
/// See the [crate's front page](crate) for an example.
///
/// # What is guaranteed
///
/// - An event that [`emit`](AuditSession::emit) has acknowledged would survive a power cut.
/// - A guard that is dropped hands the end of its session to a task of the tracer, without waiting, on any thread and also
///   outside of a runtime. The ends are recorded in the order in which guards were dropped.
/// - When [`close`](Self::close) returns without an error, the ends of all sessions are durable: those of guards that were
///   dropped before, and those of sessions that were still open, which it ends itself.
/// - If every handle and guard is dropped without `close`, what was handed over is still recorded as long as the runtime
///   runs on; nobody learns whether that worked.
/// - If the runtime, or the process, ends first, the end of the session is missing in the log: its `session.opened` stands
///   without `session.closed`, and the writer run without `writer.closed`. As far as the process still lives,
///   [`on_lost_closing`](Builder::on_lost_closing) is told.
#[derive(Debug, Clone)]
pub struct AuditTracer {
    pub(crate) shared: Arc<Shared>,
}

impl AuditTracer {
    /// Settings to make a log, or to open one.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn start(
        log: Log,
        keys: Arc<KeyRing>,
        state_dir: Option<PathBuf>,
        opened: Option<Hash>,
        defaults: Defaults,
        lost: LostHook,
    ) -> Self {
        let (closings, asked) = mpsc::unbounded_channel();
        tokio::spawn(record(log.clone(), asked));
        Self {
            shared: Arc::new(Shared {
                log,
                keys,
                state_dir,
                opened,
                defaults,
                lost,
                closings,
                sessions: Mutex::default(),
                #[cfg(feature = "tower")]
                unwatched: Arc::default(),
            }),
        }
    }

    /// Opens a session, with the builder's session id, else a new random one. See
    /// [`audit_session_with`](Self::audit_session_with).
    ///
    /// # Errors
    ///
    /// As [`audit_session_with`](Self::audit_session_with).
    pub async fn audit_session(&self) -> Result<AuditSession> {
        self.audit_session_with(SessionOptions::default()).await
    }

    /// Opens a session: `session.opened` is durable on return. The guard records `session.closed` when it is closed or
    /// dropped.
    ///
    /// An id may be used again once its session has ended; the new session's events then stand behind the end of the old.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): this tracer has an open session of that id, or a value breaks a
    /// rule. Otherwise as [`Log::append`].
    pub async fn audit_session_with(&self, options: SessionOptions) -> Result<AuditSession> {
        AuditSession::open(Arc::clone(&self.shared), options).await
    }

    /// An event outside of any session. Await the draft to record it.
    ///
    /// ```no_run
    /// # async fn example(tracer: audit_tracer::AuditTracer) -> audit_tracer::Result<()> {
    /// tracer.emit("policy.published").attribute("audit.document.id", "sop-17").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn emit(&self, kind: &str) -> Draft<'_> {
        Draft::new(&self.shared, None, kind)
    }

    /// What records a client's exchanges, outside of any session. See [`ClientRecorder`](crate::ClientRecorder).
    #[cfg(any(feature = "reqwest", feature = "tower"))]
    #[must_use]
    pub fn client_recorder(&self) -> crate::ClientRecorder {
        crate::ClientRecorder::new(crate::scope::Scope::new(Arc::clone(&self.shared), None))
    }

    /// A client whose every exchange is recorded, outside of any session: [`client_recorder`](Self::client_recorder) as it
    /// is.
    #[cfg(feature = "reqwest")]
    #[must_use]
    pub fn wrap_client(&self, client: reqwest::Client) -> reqwest_middleware::ClientWithMiddleware {
        self.client_recorder().wrap(client)
    }

    /// What records the requests that a service of one's own answers. See [`ServiceRecorder`](crate::ServiceRecorder).
    #[cfg(feature = "tower")]
    #[must_use]
    pub fn service_recorder(&self) -> crate::ServiceRecorder {
        crate::ServiceRecorder::new(crate::scope::Scope::new(Arc::clone(&self.shared), None))
    }

    /// Runs the offline verifier over the whole store, with the keys that this tracer has: the log's public key, the
    /// operator's keys for the content, the first entry's leaf hash if [`opened`](Builder::opened) was given, and what this
    /// host's publisher remembers if there is a [`state_dir`](Builder::state_dir).
    ///
    /// The answer is a verdict and not a `bool`: it lists what was checked, up to which checkpoint, and what was not.
    /// Entries that no checkpoint covers yet (a publisher signs about once a second) are counted there, and a log without
    /// any checkpoint is undecided. What it can't see is what the operator himself could hide: an auditor runs
    /// `audit-verify` elsewhere, with keys and a checkpoint that were carried away.
    ///
    /// It reads all of the log, so it takes as long as that takes, on a thread of its own.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the state file can't be read or the runtime stops.
    /// A store that can't be read is no error here: the verdict is that nothing could be decided.
    pub async fn verify_integrity(&self) -> Result<Verdict> {
        let shared = Arc::clone(&self.shared);
        let evidence = StoreEvidence::new(Arc::clone(self.reader().store()));
        crate::create::blocking(move || {
            // A memory that is there and can't be read is not the same as none: it may be what would show a rollback.
            let remembered = match &shared.state_dir {
                Some(dir) => StateFile::new(dir, shared.keys.origin()).read()?,
                None => None,
            };
            let policy = Policy {
                opened: shared.opened,
                operator: Some(&shared.keys),
                remembered: remembered.into_iter().collect(),
                ..Policy::public(shared.keys.vkey(), shared.log.clock().now())
            };
            Ok(audit_verify::verify(&evidence, &policy, &mut ()))
        })
        .await
    }

    /// A read handle that decrypts and proves.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        self.shared.log.reader()
    }

    /// The open log, for what isn't here.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.shared.log
    }

    /// The log's public key; give it to everybody who verifies.
    #[must_use]
    pub fn vkey(&self) -> VerifierKey {
        self.shared.keys.vkey()
    }

    /// Ends every session that is still open, waits until all ends are durable, ends the writer run and publishes.
    /// What comes later, through any handle or guard, is refused; an event that is on its way at that moment may still be
    /// recorded, behind the end of its session.
    ///
    /// # Errors
    ///
    /// The first error of recording the end of a session that nobody was told of, else of closing the log. Calling it again,
    /// through another handle, is no error.
    pub async fn close(self) -> Result<()> {
        let (first, open): (bool, Vec<Arc<SessionState>>) = {
            let mut sessions = self.shared.sessions();
            let first = !std::mem::replace(&mut sessions.closed, true);
            (first, sessions.open.values().map(Arc::clone).collect())
        };
        for session in open {
            session.end(&self.shared, Ended::TracerClosed);
        }
        let ends = if first {
            self.shared.answered(Ask::Finish).await
        } else {
            Ok(())
        };
        let closed = self.shared.log.clone().close().await;
        ends.and(closed)
    }
}

impl Shared {
    pub(crate) fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the id for a new session.
    pub(crate) fn register(&self, session: &Arc<SessionState>) -> Result<()> {
        let mut sessions = self.sessions();
        if sessions.closed {
            return Err(Error::unavailable("the tracer is closed"));
        }
        if sessions.open.contains_key(&session.id) {
            return Err(Error::invalid(format!(
                "session {:?} is open already in this tracer",
                session.id
            )));
        }
        sessions
            .open
            .insert(session.id.clone(), Arc::clone(session));
        Ok(())
    }

    /// Waits until the ends that were asked for so far are in the log's queue.
    pub(crate) async fn ends_are_handed_in(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Reached(answer))?;
        answered.await.map_err(|e| {
            Error::unavailable("the tracer is closed, or its runtime has ended").because(e)
        })
    }

    /// Waits until the ends that were asked for so far are durable.
    pub(crate) async fn ends_are_durable(&self) -> Result<()> {
        self.answered(Ask::Durable).await
    }

    async fn answered(&self, ask: impl FnOnce(oneshot::Sender<Result<()>>) -> Ask) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.ask(ask(answer))?;
        answered.await.map_err(|e| {
            Error::unavailable("the tracer is closed, or its runtime has ended").because(e)
        })?
    }

    fn ask(&self, ask: Ask) -> Result<()> {
        self.closings.send(ask).map_err(|e| {
            Error::unavailable("the tracer is closed, or its runtime has ended")
                .because(e.to_string())
        })
    }

    /// An event with everything that events of this tracer have in common.
    pub(crate) fn event(&self, kind: &str) -> Result<Event> {
        let log = &self.log;
        let now = log.clock().now();
        let mut event = Event::new(log.ids().uuid_v7(now), now, Kind::new(kind)?);
        event.actor.clone_from(&self.defaults.actor);
        event.on_behalf_of.clone_from(&self.defaults.on_behalf_of);
        event.system.clone_from(&self.defaults.system);
        event.subject.clone_from(&self.defaults.subject);
        event.capture = Some(Capture {
            component: "audit-tracer".to_owned(),
            // The service tells the log; nothing here can keep it from going on without.
            guarantee: Guarantee::None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        Ok(event)
    }

    pub(crate) async fn append(
        &self,
        session: Option<&SessionState>,
        event: Event,
    ) -> Result<Receipt> {
        let Some(session) = session else {
            return self.log.append(event).await;
        };
        session.check_open()?;
        let pending = self.log.submit(event).await?;
        session.handed_in();
        pending
            .durable()
            .await
            .inspect_err(|_| session.handed_back())
    }
}
