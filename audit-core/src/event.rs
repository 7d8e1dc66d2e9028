//! What a caller records.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::canonical;
use crate::error::{Error, Result};
use crate::time::Timestamp;

/// Bytes of the canonical content of one event.
pub const CONTENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of one payload.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of all payloads of one event together, below what one row of any engine holds.
pub const PAYLOADS_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Payloads of one event; 64 of them keep an entry far below its 65,535 bytes.
pub const PAYLOADS_MAX: usize = 64;
/// Fields of one event, payloads included.
pub const FIELDS_MAX: usize = 4096;
/// References of one event; with session, actor, behalf and subject they stay below 256 tokens.
pub const REFS_MAX: usize = 64;
/// Bytes of an id, a session, a subject or a reference.
pub const TEXT_BYTES_MAX: usize = 256;

/// What kind of thing happened: `[a-z0-9_.]{1,64}`. `docs/events.md` is the registry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Kind(String);

impl Kind {
    /// Checks the characters and the length.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), naming the value.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        check_name("kind", &text)?;
        Ok(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Kind {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Checks `[a-z0-9_.]{1,64}`.
pub(crate) fn check_name(what: &str, text: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.';
    if (1..=64).contains(&text.len()) && text.bytes().all(good) {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "{what} {:?} is not of the form [a-z0-9_.]{{1,64}}",
            text.chars().take(80).collect::<String>()
        )))
    }
}

/// `what` is only put into words for an error: this runs for every text of every event.
fn check_text(what: impl fmt::Display, text: &str) -> Result<()> {
    if (1..=TEXT_BYTES_MAX).contains(&text.len()) {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "{what} has {} bytes, allowed are 1 to {TEXT_BYTES_MAX}",
            text.len()
        )))
    }
}

/// Who acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// A name for people to read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub display_name: Option<String>,
    /// Unique and stable in the operator's directory.
    pub id: String,
    /// What sort of actor this is.
    pub kind: ActorKind,
}

impl Actor {
    /// An actor without a display name.
    #[must_use]
    pub fn new(kind: ActorKind, id: impl Into<String>) -> Self {
        Self {
            display_name: None,
            id: id.into(),
            kind,
        }
    }
}

/// The sorts of actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(
    clippy::exhaustive_enums,
    reason = "the format has these three; another is another format"
)]
pub enum ActorKind {
    /// A person.
    Human,
    /// A program that decides by a model.
    Agent,
    /// Any other program.
    Service,
}

/// The system in which the event happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemRef {
    /// Unique and stable in the operator's inventory.
    pub id: String,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
}

/// How the event hangs together with others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correlation {
    /// The event that this one answers or belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent_event: Option<Uuid>,
    /// What the provider calls the request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub provider_request_id: Option<String>,
    /// W3C trace context: 16 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub span_id: Option<String>,
    /// W3C trace context: 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace_id: Option<String>,
}

/// Which door caught the event, and what it promised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// The component that made the event.
    pub component: String,
    /// What happens to the call when the log can't be written.
    pub guarantee: Guarantee,
    /// The component's version.
    pub version: String,
}

/// What a door does when the log can't be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(
    clippy::exhaustive_enums,
    reason = "the format has these four; another is another format"
)]
pub enum Guarantee {
    /// The call is refused before it leaves.
    Closed,
    /// The call passes, and a gap record follows.
    Open,
    /// The call is kept in a local sealed spool and recorded later.
    Spool,
    /// The event was told to the log afterwards, by whoever saw it.
    None,
}

/// The media types that an entry may name in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::exhaustive_enums,
    reason = "the format has these; another is another format"
)]
pub enum Media {
    /// `application/json`
    #[serde(rename = "application/json")]
    Json,
    /// `application/octet-stream`, also for every type that is not in this list.
    #[serde(rename = "application/octet-stream")]
    Bytes,
    /// `application/vnd.amazon.eventstream`
    #[serde(rename = "application/vnd.amazon.eventstream")]
    AwsEventStream,
    /// `application/x-ndjson`
    #[serde(rename = "application/x-ndjson")]
    NdJson,
    /// `application/x-www-form-urlencoded`
    #[serde(rename = "application/x-www-form-urlencoded")]
    Form,
    /// `multipart/form-data`
    #[serde(rename = "multipart/form-data")]
    Multipart,
    /// `text/event-stream`
    #[serde(rename = "text/event-stream")]
    EventStream,
    /// `text/plain`
    #[serde(rename = "text/plain")]
    Text,
}

impl Media {
    pub(crate) const NAMES: [(Self, &'static str); 8] = [
        (Self::Json, "application/json"),
        (Self::Bytes, "application/octet-stream"),
        (Self::AwsEventStream, "application/vnd.amazon.eventstream"),
        (Self::NdJson, "application/x-ndjson"),
        (Self::Form, "application/x-www-form-urlencoded"),
        (Self::Multipart, "multipart/form-data"),
        (Self::EventStream, "text/event-stream"),
        (Self::Text, "text/plain"),
    ];

    /// The media type of a `Content-Type` header's value; [`Media::Bytes`] for what isn't in the list.
    #[must_use]
    pub fn of_content_type(value: &str) -> Self {
        let essence = value.split(';').next().unwrap_or_default().trim();
        Self::NAMES
            .iter()
            .find(|(_, name)| essence.eq_ignore_ascii_case(name))
            .map_or(Self::Bytes, |(media, _)| *media)
    }

    /// The media type of exactly this name.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let found = Self::NAMES.iter().find(|(_, n)| *n == name);
        found.map(|(media, _)| *media)
    }

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(media, _)| *media == self)
            .map_or("application/octet-stream", |(_, name)| name)
    }
}

/// Named bytes: a request body, a response body.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// `[a-z0-9_.]{1,64}`, unique in the event.
    pub name: String,
    /// What the bytes are.
    pub media: Media,
    /// The bytes, as they were.
    pub bytes: Vec<u8>,
}

impl Payload {
    /// A payload; the event checks it when it is appended.
    #[must_use]
    pub fn new(name: impl Into<String>, media: Media, bytes: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            media,
            bytes,
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The bytes are what the log exists to protect; they don't belong into debug output.
        write!(
            f,
            "Payload({}, {}, {} bytes)",
            self.name,
            self.media.as_str(),
            self.bytes.len()
        )
    }
}

/// What a caller records.
#[derive(Clone, PartialEq)]
pub struct Event {
    /// Unique; a second append of the same id is an error unless it is byte for byte the same record.
    pub id: Uuid,
    /// When it happened, as the caller claims.
    pub time: Timestamp,
    /// What happened.
    pub kind: Kind,
    /// Who acted.
    pub actor: Option<Actor>,
    /// For whom.
    pub on_behalf_of: Option<Actor>,
    /// Where.
    pub system: Option<SystemRef>,
    /// In which session.
    pub session_id: Option<String>,
    /// How it hangs together with others.
    pub correlation: Option<Correlation>,
    /// What it refers to: `model_id`, `dataset_id`, `deployment_id` …
    pub refs: BTreeMap<String, String>,
    /// The pseudonymous data subject.
    pub subject: Option<String>,
    /// Everything else; OpenTelemetry `GenAI` names where one exists.
    pub attributes: Map<String, Value>,
    /// Named bytes.
    pub payloads: Vec<Payload>,
    /// Which door caught it.
    pub capture: Option<Capture>,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Content is what the log exists to protect; it doesn't belong into debug output.
        f.debug_struct("Event")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("payloads", &self.payloads)
            .finish_non_exhaustive()
    }
}

impl Event {
    /// An event with nothing but its kind.
    #[must_use]
    pub fn new(id: Uuid, time: Timestamp, kind: Kind) -> Self {
        Self {
            id,
            time,
            kind,
            actor: None,
            on_behalf_of: None,
            system: None,
            session_id: None,
            correlation: None,
            refs: BTreeMap::new(),
            subject: None,
            attributes: Map::new(),
            payloads: Vec::new(),
            capture: None,
        }
    }

    /// Checks names, lengths and numbers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), naming field, value and bound.
    pub fn check(&self) -> Result<()> {
        for (what, actor) in [("actor", &self.actor), ("on_behalf_of", &self.on_behalf_of)] {
            if let Some(actor) = actor {
                check_text(format_args!("{what}.id"), &actor.id)?;
            }
        }
        if let Some(system) = &self.system {
            check_text("system.id", &system.id)?;
        }
        if let Some(session) = &self.session_id {
            check_text("session_id", session)?;
        }
        if let Some(subject) = &self.subject {
            check_text("subject", subject)?;
        }
        if let Some(c) = &self.correlation {
            for (what, digits, id) in [("trace_id", 32, &c.trace_id), ("span_id", 16, &c.span_id)] {
                let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if id
                    .as_ref()
                    .is_some_and(|id| id.len() != digits || !id.bytes().all(hexadecimal))
                {
                    return Err(Error::invalid(format!(
                        "correlation.{what} is not {digits} lower-case hexadecimal digits"
                    )));
                }
            }
        }
        if self.refs.len() > REFS_MAX {
            return Err(Error::invalid(format!(
                "{} refs, allowed are {REFS_MAX}",
                self.refs.len()
            )));
        }
        for (name, value) in &self.refs {
            check_name("name of a ref", name)?;
            check_text(format_args!("refs.{name}"), value)?;
        }
        for (name, value) in &self.attributes {
            check_text("name of an attribute", name)?;
            canonical::check(value, format_args!("attributes.{name}"))?;
        }
        if self.payloads.len() > PAYLOADS_MAX {
            return Err(Error::invalid(format!(
                "{} payloads, allowed are {PAYLOADS_MAX}",
                self.payloads.len()
            )));
        }
        let mut names = HashSet::new();
        for payload in &self.payloads {
            check_name("name of a payload", &payload.name)?;
            if !names.insert(&payload.name) {
                return Err(Error::invalid(format!(
                    "two payloads are called {:?}",
                    payload.name
                )));
            }
            if payload.bytes.len() > PAYLOAD_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "payload {:?} has {} bytes, allowed are {PAYLOAD_BYTES_MAX}",
                    payload.name,
                    payload.bytes.len()
                )));
            }
        }
        let bytes = self
            .payloads
            .iter()
            .fold(0_usize, |sum, p| sum.saturating_add(p.bytes.len()));
        if bytes > PAYLOADS_BYTES_MAX {
            return Err(Error::invalid(format!(
                "payloads have {bytes} bytes together, allowed are {PAYLOADS_BYTES_MAX}"
            )));
        }
        // Seven members besides attributes, refs and payloads can be a field.
        let fields = self.attributes.len() + self.refs.len() + self.payloads.len() + 7;
        if fields > FIELDS_MAX {
            return Err(Error::invalid(format!(
                "{fields} fields, allowed are {FIELDS_MAX}"
            )));
        }
        Ok(())
    }

    /// What one erasure destroys together: the data subject, else the session.
    #[must_use]
    pub fn shred_scope(&self) -> Option<String> {
        match (&self.subject, &self.session_id) {
            (Some(subject), _) => Some(format!("subject:{subject}")),
            (None, Some(session)) => Some(format!("session:{session}")),
            (None, None) => None,
        }
    }

    /// The fields and values by which the event can be found (`docs/format.md` §6).
    pub fn searchable(&self) -> impl Iterator<Item = (String, &str)> {
        [
            ("session", self.session_id.as_deref()),
            ("actor", self.actor.as_ref().map(|a| a.id.as_str())),
            ("behalf", self.on_behalf_of.as_ref().map(|a| a.id.as_str())),
            ("subject", self.subject.as_deref()),
        ]
        .into_iter()
        .filter_map(|(field, value)| Some((field.to_owned(), value?)))
        .chain(
            self.refs
                .iter()
                .map(|(name, value)| (["refs/", name].concat(), value.as_str())),
        )
    }
}

/// The content of an event: everything but its id, time, kind and payloads (`docs/format.md` §4).
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Content {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) actor: Option<Actor>,
    #[serde(skip_serializing_if = "Map::is_empty", default)]
    pub(crate) attributes: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) capture: Option<Capture>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) correlation: Option<Correlation>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) on_behalf_of: Option<Actor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(crate) refs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) system: Option<SystemRef>,
}

impl Content {
    pub(crate) fn of(event: &Event) -> Self {
        Self {
            actor: event.actor.clone(),
            attributes: event.attributes.clone(),
            capture: event.capture.clone(),
            correlation: event
                .correlation
                .clone()
                .filter(|c| *c != Correlation::default()),
            on_behalf_of: event.on_behalf_of.clone(),
            refs: event.refs.clone(),
            session_id: event.session_id.clone(),
            subject: event.subject.clone(),
            system: event.system.clone(),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content")
    }
}
