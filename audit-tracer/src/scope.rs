//! In whose name exchanges are recorded: a tracer's, or one of its sessions'.

use std::sync::Arc;

use audit_core::Result;
use audit_core::event::Event;
use audit_core::log::{Log, Pending};

use crate::session::SessionState;
use crate::tracer::Shared;

/// A tracer, or one of its sessions. It doesn't keep the session open.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    shared: Arc<Shared>,
    session: Option<Arc<SessionState>>,
}

impl Scope {
    pub(crate) fn new(shared: Arc<Shared>, session: Option<Arc<SessionState>>) -> Self {
        Self { shared, session }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn log(&self) -> &Log {
        &self.shared.log
    }

    pub(crate) fn session_id(&self) -> Option<&str> {
        self.session.as_ref().map(|session| session.id.as_str())
    }

    pub(crate) fn monotonic_us(&self) -> u64 {
        self.shared.log.clock().monotonic_micros()
    }

    pub(crate) fn event(&self, kind: &str) -> Result<Event> {
        let mut event = self.shared.event(kind)?;
        if let Some(session) = &self.session {
            session.claim(&mut event);
        }
        Ok(event)
    }

    /// Hands an event in that begins something; refused once the session has ended.
    pub(crate) async fn submit(&self, event: Event) -> Result<Pending> {
        if let Some(session) = &self.session {
            session.check_open()?;
        }
        let pending = self.shared.log.submit(event).await?;
        self.handed_in();
        Ok(pending)
    }

    /// Counts an event of the session.
    pub(crate) fn handed_in(&self) {
        if let Some(session) = &self.session {
            session.handed_in();
        }
    }

    /// The log has refused one that was counted.
    pub(crate) fn handed_back(&self) {
        if let Some(session) = &self.session {
            session.handed_back();
        }
    }
}
