//! The one place that every caller's event passes before anything of it is sealed.
//!
//! What a filter does is its own business (redaction is `audit-capture`'s); that no door can go round it, and that it
//! can't fail open, is this module's.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::hex::{Digest, Hex};
use crate::label::label_parts;
use crate::token::IndexKey;

/// The attribute in which a filter says what it did; nobody else writes it.
pub const REDACTION: &str = "audit.redaction";

/// The attribute with the commitments to what was changed: an object, field to digest.
pub const REDACTION_COMMITMENTS: &str = "audit.redaction.commitments";

/// Payload bytes from which a filter gets a thread that may be busy for longer.
const SLOW_BYTES: usize = 16 * 1024;

/// Changes events before they are recorded.
pub trait Ingest: fmt::Debug + Send + Sync {
    /// The event to record in place of the caller's.
    ///
    /// Id, time and kind stay. The same event gives the same outcome each time, since an append may be tried again. It
    /// may block; see [`is_slow`](Self::is_slow).
    ///
    /// # Errors
    ///
    /// Any error, and a panic, refuse the event as [`ErrorKind::Invalid`]: nothing of it is stored. Its message holds
    /// nothing of the event, since it is told to the caller and to whoever watches.
    fn ingest(&self, event: Event, keys: &IngestKeys) -> Result<Event>;

    /// Whether the event takes so long that the runtime's other tasks must not wait for it.
    fn is_slow(&self, event: &Event) -> bool {
        event.payloads.iter().map(|p| p.bytes.len()).sum::<usize>() > SLOW_BYTES
    }
}

/// What a filter may do with the log's keys.
#[derive(Debug, Clone)]
pub struct IngestKeys(IndexKey);

impl IngestKeys {
    /// With the log's index key.
    #[must_use]
    pub fn new(key: IndexKey) -> Self {
        Self(key)
    }

    /// As [`IndexKey::pseudonym`].
    #[must_use]
    pub fn pseudonym(&self, tenant: &str, what: &str, value: &[u8]) -> Hex<16> {
        self.0.pseudonym(tenant, what, value)
    }

    /// The commitment to what a field was before it was changed.
    #[must_use]
    pub fn commitment(&self, event: Uuid, field: &str, original: &[u8]) -> Digest {
        commitment(&self.0.redaction_salt(event, field), original)
    }
}

/// The commitment to an original under its salt (`docs/format.md` §13).
#[must_use]
pub fn commitment(salt: &Digest, original: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    for part in label_parts("redacted") {
        hash.update(part);
    }
    hash.update(salt.0);
    hash.update(original);
    Hex(hash.finalize().into())
}

/// Whether an attribute of this name is a filter's to write.
#[must_use]
pub fn is_reserved(attribute: &str) -> bool {
    attribute
        .strip_prefix(REDACTION)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Refuses what only a filter may say: a caller could pretend that something was redacted, or that nothing was.
///
/// # Errors
///
/// [`ErrorKind::Invalid`], naming the attribute.
pub fn check(event: &Event) -> Result<()> {
    match event.attributes.keys().find(|name| is_reserved(name)) {
        None => Ok(()),
        Some(_) => Err(Error::invalid(format!(
            "attributes {REDACTION} and {REDACTION}.… are written by the log itself"
        ))),
    }
}

/// The event that `filter` makes of `event`; nothing gets past it.
///
/// # Errors
///
/// [`ErrorKind::Invalid`]: the filter failed or made what no log takes. The message holds nothing of the event.
pub fn admit(filter: &dyn Ingest, event: Event, keys: &IngestKeys) -> Result<Event> {
    let (id, time, kind) = (event.id, event.time, event.kind.clone());
    let refused = |why: &str| Err(Error::invalid(format!("the event was not recorded: {why}")));
    // What the panic says may quote the content, so it goes nowhere.
    let Ok(filtered) = catch_unwind(AssertUnwindSafe(|| filter.ingest(event, keys))) else {
        return refused("the filter in front of the log panicked");
    };
    let filtered = match filtered {
        Ok(filtered) => filtered,
        Err(error) if error.kind() == ErrorKind::Invalid => return Err(error),
        Err(_) => return refused("the filter in front of the log failed"),
    };
    if (filtered.id, filtered.time, &filtered.kind) != (id, time, &kind) {
        return refused("the filter in front of the log made another event of it");
    }
    // Its words may quote what they are about.
    if filtered.check().is_err() {
        return refused("what the filter in front of the log leaves is no event");
    }
    Ok(filtered)
}
