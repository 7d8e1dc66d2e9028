//! Operational messages: what the operator should hear, without content and without secrets.

use std::fmt;

use uuid::Uuid;

/// How much a [`Notice`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// Something that the gateway has dealt with.
    Warning,
    /// A promise to clients or auditors is at stake until somebody acts.
    Error,
}

/// One operational message. It holds no header value, no body and no query.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// How much it matters.
    pub severity: Severity,
    /// A stable word for it, the same that clients see where clients see one.
    pub code: &'static str,
    /// What happened, in a sentence.
    pub message: String,
    /// The request that it is about: the id of its `llm.request` event, if it got that far.
    pub request: Option<Uuid>,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        if let Some(request) = self.request {
            write!(f, " (request {request})")?;
        }
        Ok(())
    }
}

/// Takes operational messages. It is called from the tasks that serve clients, so it must not block.
pub trait Reporter: Send + Sync {
    /// Takes one message.
    fn report(&self, notice: &Notice);
}

impl<F: Fn(&Notice) + Send + Sync> Reporter for F {
    fn report(&self, notice: &Notice) {
        self(notice);
    }
}
