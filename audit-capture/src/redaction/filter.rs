//! The filter in front of a log: what of an event passes which rules, and what the event says of it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use audit_core::canonical;
use audit_core::event::{Actor, Event, Media, PAYLOAD_BYTES_MAX, Payload, TEXT_BYTES_MAX};
use audit_core::ingest::{Ingest, IngestKeys, REDACTION, REDACTION_COMMITMENTS};
use audit_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::body::{Body, Given};
use super::detect::Place;
use super::rules::{Action, Compiled, RuleSet, compile};
use super::text::{self, Active, Failure, Marker, Tally, metadata_only, withheld};
use crate::credentials::BASE64_MARK;

/// Attribute: fields that were withheld, and why.
pub const WITHHELD: &str = "audit.redaction.withheld";

/// Attribute: payloads that are recorded without the content coding in which they came.
pub const DECODED: &str = "audit.redaction.decoded";

/// Bytes of payloads and attributes from which an event is filtered on a thread of its own.
const SLOW_BYTES: usize = 16 * 1024;

/// What becomes of a payload that the rules can't look into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Unreadable {
    /// It isn't recorded.
    #[default]
    Withhold,
    /// It is recorded as it is.
    Keep,
}

/// What becomes of session, actors and subject, by which events are searched for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Identities {
    /// They stay; no rule looks at them.
    #[default]
    Keep,
    /// Each is replaced by a keyed name, and names for people are left out.
    Pseudonymise,
}

/// Whose pseudonyms are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tenant {
    /// All events'.
    Fixed(String),
    /// Those of one system (`system.id`).
    System,
    /// Those that have the same value in this attribute.
    Attribute(String),
    /// Those whose request had the same value in this header.
    Header(String),
}

impl Default for Tenant {
    fn default() -> Self {
        Self::Fixed(String::new())
    }
}

impl Tenant {
    /// `system`, `attribute:NAME` or `header:NAME`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](audit_core::ErrorKind::Invalid) for any other text.
    pub fn parse_source(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "system" => Ok(Self::System),
            Some(("attribute", name)) if !name.is_empty() => Ok(Self::Attribute(name.to_owned())),
            Some(("header", name)) if !name.is_empty() => Ok(Self::Header(name.to_owned())),
            _ => Err(Error::invalid(format!(
                "{:?} is not `system`, `attribute:NAME` or `header:NAME`",
                text.chars().take(80).collect::<String>()
            ))),
        }
    }
}

/// Settings of a [`Redactor`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// Rule sets in order of precedence.
    pub rule_sets: Vec<RuleSet>,
    /// What becomes of payloads that can't be looked into.
    pub unreadable: Unreadable,
    /// What becomes of session, actors and subject.
    pub identities: Identities,
    /// Whose pseudonyms are the same.
    pub tenant: Tenant,
}

impl Options {
    /// These rule sets, and the defaults.
    #[must_use]
    pub fn new(rule_sets: Vec<RuleSet>) -> Self {
        Self {
            rule_sets,
            ..Self::default()
        }
    }
}

/// Redacts events before they are recorded.
#[derive(Debug)]
pub struct Redactor {
    rules: Vec<Compiled>,
    /// Name, version and digest of each set.
    sets: Vec<(String, String, String)>,
    unreadable: Unreadable,
    identities: Identities,
    tenant: Tenant,
}

impl Redactor {
    /// Compiles and checks the rules, so that what is wrong with one shows before anything is recorded.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](audit_core::ErrorKind::Invalid), naming rule set and rule.
    pub fn new(options: Options) -> Result<Self> {
        let rules = compile(&options.rule_sets)?;
        if let Tenant::Fixed(name) = &options.tenant
            && name.len() > TEXT_BYTES_MAX
        {
            return Err(Error::invalid(format!(
                "the tenant's name has {} bytes, allowed are {}",
                name.len(),
                TEXT_BYTES_MAX
            )));
        }
        let sets = options
            .rule_sets
            .into_iter()
            .map(|set| {
                let digest = set.sha256()?;
                Ok((set.name, set.version, digest))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            rules,
            sets,
            unreadable: options.unreadable,
            identities: options.identities,
            tenant: options.tenant,
        })
    }

    /// Name and version of each rule set, `NAME@VERSION`.
    pub fn rule_sets(&self) -> impl Iterator<Item = String> {
        self.sets
            .iter()
            .map(|(name, version, _)| format!("{name}@{version}"))
    }

    fn active(&self, applies: impl Fn(&Compiled) -> bool) -> Active<'_> {
        Active::new(
            self.rules
                .iter()
                .enumerate()
                .filter(|(_, rule)| applies(rule)),
        )
    }

    fn tenant_of(&self, event: &Event) -> String {
        let mut name = match &self.tenant {
            Tenant::Fixed(name) => name.clone(),
            Tenant::System => event
                .system
                .as_ref()
                .map_or_else(String::new, |s| s.id.clone()),
            Tenant::Attribute(name) => event
                .attributes
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            Tenant::Header(name) => header(event, "http.request.header", name)
                .unwrap_or_default()
                .to_owned(),
        };
        // Names beyond what a pseudonym is made of share their beginning.
        let end = (0..=TEXT_BYTES_MAX).rfind(|at| name.is_char_boundary(*at));
        name.truncate(end.unwrap_or_default());
        name
    }
}

impl Ingest for Redactor {
    fn ingest(&self, event: Event, keys: &IngestKeys) -> Result<Event> {
        let work = Work {
            redactor: self,
            marker: Marker {
                keys,
                tenant: self.tenant_of(&event),
            },
            tally: Tally::new(),
            commitments: Map::new(),
            withheld: Vec::new(),
            decoded: Vec::new(),
            event,
        };
        work.run()
    }

    fn is_slow(&self, event: &Event) -> bool {
        let encoded = ["http.request.header", "http.response.header"]
            .iter()
            .any(|attribute| header(event, attribute, "content-encoding").is_some());
        let payloads: usize = event.payloads.iter().map(|p| p.bytes.len()).sum();
        let attributes: usize = event.attributes.values().map(size).sum();
        (encoded && payloads > 0) || payloads + attributes > SLOW_BYTES
    }
}

/// Whether an attribute is one by which records are found: the numbering that shows missing ones, the id of a legal hold.
/// One UUID in some thousands looks like the number of something; if it were taken out, a hole would show where none is,
/// or a hold could not be released. Nothing else passes under these names.
fn is_numbering(name: &str, value: &Value) -> bool {
    let pairs = |items: &Vec<Value>| {
        items.iter().all(|item| {
            item.as_array()
                .is_some_and(|pair| pair.len() == 2 && pair.iter().all(Value::is_u64))
        })
    };
    match name {
        "audit.producer.id" | "audit.hold.id" => value.as_str().is_some_and(is_uuid),
        "audit.producer.number" => value.is_u64(),
        "audit.producer.absent" => value.as_array().is_some_and(pairs),
        _ => false,
    }
}

/// Whether a text is a UUID as RFC 9562 writes it, in lower case.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

/// About how many bytes a value has.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum::<usize>() + items.len(),
        Value::Object(members) => members.iter().map(|(name, v)| name.len() + size(v)).sum(),
        _ => 8,
    }
}

/// The first value of a header, of those that an attribute holds.
fn header<'e>(event: &'e Event, attribute: &str, name: &str) -> Option<&'e str> {
    headers(event, attribute).find_map(|(n, v)| n.eq_ignore_ascii_case(name).then_some(v))
}

fn headers<'e>(event: &'e Event, attribute: &str) -> impl Iterator<Item = (&'e str, &'e str)> {
    let items = event.attributes.get(attribute).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(|pair| {
        let pair = pair.as_array()?;
        Some((pair.first()?.as_str()?, pair.get(1)?.as_str()?))
    })
}

const HEADERS: [&str; 3] = [
    "http.request.header",
    "http.response.header",
    "http.response.trailer",
];

/// What is left of a text.
enum Left {
    Same,
    Text(String),
    Nothing,
}

struct Work<'r> {
    redactor: &'r Redactor,
    marker: Marker<'r>,
    tally: Tally,
    commitments: Map<String, Value>,
    withheld: Vec<(String, Failure)>,
    decoded: Vec<String>,
    event: Event,
}

impl Work<'_> {
    fn run(mut self) -> Result<Event> {
        self.payloads();
        self.attributes()?;
        self.members()?;
        self.identities()?;
        Ok(self.said())
    }

    fn commit(&mut self, field: &str, original: &[u8]) {
        let commitment = self.marker.keys.commitment(self.event.id, field, original);
        // Two attributes whose names are redacted to one name can't both be told apart by it; the first one stays.
        self.commitments
            .entry(field.to_owned())
            .or_insert_with(|| json!(commitment.to_string()));
    }

    fn count(&mut self, number: usize, label: &str) {
        *self.tally.entry((number, label.to_owned())).or_default() += 1;
    }

    // Payloads

    fn payloads(&mut self) {
        let given = std::mem::take(&mut self.event.payloads);
        let mut kept = Vec::with_capacity(given.len());
        for payload in given {
            kept.extend(self.payload(payload));
        }
        self.event.payloads = kept;
    }

    fn payload(&mut self, payload: Payload) -> Option<Payload> {
        let name = payload.name.clone();
        let redactor = self.redactor;
        let applying = || {
            redactor
                .rules
                .iter()
                .enumerate()
                .filter(|(_, rule)| rule.applies_to_payload(&name))
        };
        let pointed: Vec<(usize, &Compiled)> = applying()
            .filter(|(_, rule)| !rule.pointers.is_empty())
            .collect();
        let active = Active::new(applying().filter(|(_, rule)| rule.pointers.is_empty()));
        if (active.rules.is_empty() && pointed.is_empty()) || payload.bytes.is_empty() {
            return Some(payload);
        }
        let field = format!("payloads/{name}");
        if let Some((number, rule)) = active.whole() {
            self.count(number, &rule.name);
            self.commit(&field, &payload.bytes);
            let text = match rule.action {
                Action::MetadataOnly => Some(metadata_only(payload.bytes.len())),
                Action::Pseudonymise => {
                    let value = audit_core::hex::encode(&payload.bytes);
                    Some(self.marker.pseudonym(&rule.name, &value))
                }
                _ => self.marker.whole(rule, ""),
            };
            return text.map(|text| Payload::new(name, Media::Text, text.into_bytes()));
        }
        let of = match payload.name.as_str() {
            "request.body" => "http.request.header",
            "response.body" => "http.response.header",
            _ => "",
        };
        let codings: Vec<String> = headers(&self.event, of)
            .filter(|(name, _)| name.eq_ignore_ascii_case("content-encoding"))
            .flat_map(|(_, value)| value.split(','))
            .map(|item| item.trim().to_ascii_lowercase())
            .filter(|item| !item.is_empty())
            .collect();
        let content_type = header(&self.event, of, "content-type").map(str::to_owned);
        let given = Given {
            media: payload.media,
            bytes: &payload.bytes,
            codings: &codings,
            content_type: content_type.as_deref(),
        };
        let keep = redactor.unreadable == Unreadable::Keep;
        let marker = &self.marker;
        let read = guarded(|| {
            let mut body = Body::new(active, pointed, marker, keep);
            let changed = body.read(&given)?;
            Ok((changed, body.tally, body.withheld))
        });
        match read {
            Ok((changed, tally, parts)) => {
                for (key, count) in tally {
                    *self.tally.entry(key).or_default() += count;
                }
                for failure in parts {
                    self.withheld.push((field.clone(), failure));
                }
                let Some(changed) = changed else {
                    return Some(payload);
                };
                self.commit(&field, &payload.bytes);
                self.without_digest(&name);
                // Marks may be longer than what they stand for.
                if changed.bytes.len() > PAYLOAD_BYTES_MAX {
                    let failure = Failure::Unreadable("too_long");
                    self.withheld.push((field, failure));
                    let text = withheld(failure).into_bytes();
                    return Some(Payload::new(name, Media::Text, text));
                }
                if changed.decoded {
                    self.decoded.push(field);
                }
                Some(Payload::new(name, payload.media, changed.bytes))
            }
            Err(Failure::Unreadable(_)) if keep => Some(payload),
            Err(failure) => {
                self.commit(&field, &payload.bytes);
                self.without_digest(&name);
                self.withheld.push((field, failure));
                let text = withheld(failure).into_bytes();
                Some(Payload::new(name, Media::Text, text))
            }
        }
    }

    /// An unsalted digest of what isn't recorded would let anybody test guesses.
    fn without_digest(&mut self, payload: &str) {
        let name = "audit.response.body_sha256";
        if payload == "response.body"
            && let Some(digest) = self.event.attributes.remove(name)
            && let Ok(bytes) = canonical::to_vec(&digest)
        {
            self.commit(&format!("attributes/{name}"), &bytes);
        }
    }

    // Attributes

    fn attributes(&mut self) -> Result<()> {
        let given = std::mem::take(&mut self.event.attributes);
        let mut kept = Map::new();
        for (name, value) in given {
            if is_numbering(&name, &value) {
                kept.insert(name, value);
                continue;
            }
            let redactor = self.redactor;
            let active = redactor.active(|rule| rule.applies_to_attribute(&name));
            let original = value.clone();
            let attempt = guarded(|| self.attribute(&active, &name, value));
            let (new_name, value, changed) = match attempt {
                Ok(Some((new_name, value))) => {
                    let changed = new_name != name || value != original;
                    (new_name, value, changed)
                }
                Ok(None) => {
                    self.commit(
                        &format!("attributes/{name}"),
                        &canonical::to_vec(&original)?,
                    );
                    continue;
                }
                Err(failure) => {
                    let field = format!("attributes/{name}");
                    self.withheld.push((field, failure));
                    (name, Value::String(withheld(failure)), true)
                }
            };
            if changed {
                let original = canonical::to_vec(&original)?;
                self.commit(&format!("attributes/{new_name}"), &original);
            }
            kept.insert(new_name, value);
        }
        self.event.attributes = kept;
        Ok(())
    }

    /// Name and value of what is left of an attribute.
    fn attribute(
        &mut self,
        active: &Active<'_>,
        name: &str,
        value: Value,
    ) -> Result<Option<(String, Value)>, Failure> {
        let named = match self.text(
            &self.redactor.active(Compiled::is_everywhere_finding),
            name,
            "",
        )? {
            Left::Same => name.to_owned(),
            Left::Text(text) if text.len() <= TEXT_BYTES_MAX => text,
            _ => "[redacted]".to_owned(),
        };
        if let Some((number, rule)) = active.whole() {
            if rule.action == Action::MetadataOnly && rule.is_everywhere() {
                if is_metadata(name) {
                    return self.value(active, name, value).map(|v| Some((named, v)));
                }
                return Ok(Some((named, self.lengths(number, rule, value))));
            }
            self.count(number, &rule.name);
            let text = match &value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let mark = self.marker.whole(rule, &text);
            return Ok(mark.map(|mark| (named, Value::String(mark))));
        }
        if HEADERS.contains(&name)
            && let Value::Array(pairs) = value
        {
            let pairs = self.headers(active, pairs)?;
            return Ok(Some((named, Value::Array(pairs))));
        }
        Ok(Some((named, self.value(active, name, value)?)))
    }

    /// Numbers and truths stay, of texts only their lengths do.
    fn lengths(&mut self, number: usize, rule: &Compiled, value: Value) -> Value {
        match value {
            Value::String(text) => {
                self.count(number, &rule.name);
                Value::String(metadata_only(text.len()))
            }
            Value::Array(items) => items
                .into_iter()
                .map(|item| self.lengths(number, rule, item))
                .collect(),
            Value::Object(members) => Value::String({
                self.count(number, &rule.name);
                metadata_only(Value::Object(members).to_string().len())
            }),
            other => other,
        }
    }

    fn headers(&mut self, active: &Active<'_>, pairs: Vec<Value>) -> Result<Vec<Value>, Failure> {
        let redactor = self.redactor;
        let mut kept = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let (Some(name), Some(value)) = (
                pair.get(0).and_then(Value::as_str),
                pair.get(1).and_then(Value::as_str),
            ) else {
                kept.push(self.value(active, "", pair)?);
                continue;
            };
            let all = redactor.rules.iter().enumerate().filter(|(n, rule)| {
                rule.names_header(name) || active.rules.iter().any(|(m, _)| m == n)
            });
            let all = Active::new(all);
            if let Some((number, rule)) = all.whole() {
                self.count(number, &rule.name);
                if let Some(mark) = self.marker.whole(rule, value) {
                    kept.push(json!([name, mark]));
                }
                continue;
            }
            let name = self.shown(active, name, "")?;
            if value.starts_with(BASE64_MARK) && !all.rules.is_empty() {
                // Bytes that are no text: nobody can say what is in them.
                if self.redactor.unreadable == Unreadable::Withhold {
                    let failure = Failure::Unreadable("binary");
                    self.withheld
                        .push(("attributes/http.header".to_owned(), failure));
                    kept.push(json!([name, withheld(failure)]));
                    continue;
                }
            }
            let value = self.shown(&all, value, &name)?;
            kept.push(json!([name, value]));
        }
        Ok(kept)
    }

    /// A value with every text in it filtered, at any depth.
    fn value(&mut self, active: &Active<'_>, name: &str, value: Value) -> Result<Value, Failure> {
        Ok(match value {
            Value::String(text) => Value::String(self.shown(active, &text, name)?),
            Value::Number(number) => {
                let text = number.to_string();
                let whole = number.is_u64() || number.is_i64();
                let hits = if whole {
                    let place = Place { name, number: true };
                    text::hits(active, &text, place, false)?
                } else {
                    Vec::new()
                };
                let edits = text::edits(&self.marker, &mut self.tally, &hits, text.len());
                if edits.is_empty() {
                    Value::Number(number)
                } else {
                    Value::String(edits.into_iter().map(|edit| edit.with).collect())
                }
            }
            Value::Array(items) => Value::Array(
                items
                    .into_iter()
                    .map(|item| self.value(active, name, item))
                    .collect::<Result<_, _>>()?,
            ),
            Value::Object(members) => {
                let mut kept = Map::new();
                for (inner, value) in members {
                    let value = self.value(active, &inner, value)?;
                    kept.insert(self.shown(active, &inner, "")?, value);
                }
                Value::Object(kept)
            }
            other => other,
        })
    }

    fn text(&mut self, active: &Active<'_>, text: &str, name: &str) -> Result<Left, Failure> {
        let place = Place {
            name,
            number: false,
        };
        let hits = text::hits(active, text, place, name == "url.query")?;
        if hits.is_empty() {
            return Ok(Left::Same);
        }
        let edits = text::edits(&self.marker, &mut self.tally, &hits, text.len());
        let edits = edits
            .into_iter()
            .map(|edit| (edit.range, edit.with.into_bytes()));
        let bytes = text::apply(text.as_bytes(), edits.collect());
        // Hits are ranges of characters, so what is left is text.
        let left = String::from_utf8_lossy(&bytes).into_owned();
        Ok(if left.is_empty() {
            Left::Nothing
        } else {
            Left::Text(left)
        })
    }

    fn shown(&mut self, active: &Active<'_>, text: &str, name: &str) -> Result<String, Failure> {
        Ok(match self.text(active, text, name)? {
            Left::Same => text.to_owned(),
            Left::Text(text) => text,
            Left::Nothing => String::new(),
        })
    }

    // The other members

    fn members(&mut self) -> Result<()> {
        let active = self.redactor.active(Compiled::is_everywhere_finding);
        if active.rules.is_empty() {
            return Ok(());
        }
        for (name, value) in std::mem::take(&mut self.event.refs) {
            let field = format!("refs/{name}");
            let value = self.member(&active, &field, &value)?;
            self.event.refs.insert(name, value);
        }
        if let Some(mut correlation) = self.event.correlation.take() {
            let original = canonical::to_vec(&correlation)?;
            if let Some(id) = correlation.provider_request_id.take() {
                let left = self.guarded_text(&active, "correlation", &id);
                if left != id {
                    self.commit("correlation", &original);
                }
                correlation.provider_request_id = Some(left);
            }
            self.event.correlation = Some(correlation);
        }
        if let Some(mut system) = self.event.system.take() {
            let original = canonical::to_vec(&system)?;
            let id = self.guarded_text(&active, "system", &system.id);
            let version = system
                .version
                .as_ref()
                .map(|version| self.guarded_text(&active, "system", version));
            if id != system.id || version != system.version {
                self.commit("system", &original);
                (system.id, system.version) = (id, version);
            }
            self.event.system = Some(system);
        }
        if let Some(mut capture) = self.event.capture.take() {
            let original = canonical::to_vec(&capture)?;
            let component = self.guarded_text(&active, "capture", &capture.component);
            let version = self.guarded_text(&active, "capture", &capture.version);
            if component != capture.component || version != capture.version {
                self.commit("capture", &original);
                (capture.component, capture.version) = (component, version);
            }
            self.event.capture = Some(capture);
        }
        Ok(())
    }

    fn member(&mut self, active: &Active<'_>, field: &str, value: &String) -> Result<String> {
        let left = self.guarded_text(active, field, value);
        if left != *value {
            self.commit(field, &canonical::to_vec(value)?);
        }
        Ok(left)
    }

    /// What is left of a text that must not be empty, nor longer than members of an event may be.
    fn guarded_text(&mut self, active: &Active<'_>, field: &str, text: &str) -> String {
        match guarded(|| self.text(active, text, "")) {
            Ok(Left::Same) => text.to_owned(),
            Ok(Left::Text(left)) if left.len() <= TEXT_BYTES_MAX => left,
            Ok(_) => "[redacted]".to_owned(),
            Err(failure) => {
                self.withheld.push((field.to_owned(), failure));
                withheld(failure)
            }
        }
    }

    // Identities

    fn identities(&mut self) -> Result<()> {
        let pseudonymise = self.redactor.identities == Identities::Pseudonymise;
        for (field, what) in [("session_id", "session"), ("subject", "subject")] {
            let place = match field {
                "session_id" => &mut self.event.session_id,
                _ => &mut self.event.subject,
            };
            if let Some(text) = place.take_if(|_| pseudonymise) {
                let name = self.marker.pseudonym(what, &text);
                match field {
                    "session_id" => self.event.session_id = Some(name),
                    _ => self.event.subject = Some(name),
                }
                self.commit(field, &canonical::to_vec(&text)?);
            }
        }
        for field in ["actor", "on_behalf_of"] {
            let place = match field {
                "actor" => &mut self.event.actor,
                _ => &mut self.event.on_behalf_of,
            };
            let Some(actor) = place.take() else { continue };
            let left = self.actor(field, actor.clone(), pseudonymise);
            if left != actor {
                self.commit(field, &canonical::to_vec(&actor)?);
            }
            match field {
                "actor" => self.event.actor = Some(left),
                _ => self.event.on_behalf_of = Some(left),
            }
        }
        Ok(())
    }

    fn actor(&mut self, field: &str, mut actor: Actor, pseudonymise: bool) -> Actor {
        if pseudonymise {
            actor.id = self.marker.pseudonym("actor", &actor.id);
            actor.display_name = None;
            return actor;
        }
        let everywhere = self.redactor.active(Compiled::is_everywhere);
        if let Some(name) = actor.display_name.take() {
            if let Some((number, rule)) = everywhere.whole() {
                self.count(number, &rule.name);
                return actor;
            }
            actor.display_name = Some(self.guarded_text(&everywhere, field, &name));
        }
        actor
    }

    // What the event says of it

    fn said(mut self) -> Event {
        let sets = &self.redactor.sets;
        let hits: Vec<Value> = self
            .tally
            .iter()
            .filter_map(|((number, label), count)| {
                let rule = self.redactor.rules.get(*number)?;
                let (set, _, _) = sets.get(rule.set)?;
                Some(json!({
                    "action": rule.action.as_str(), "count": count, "found": label, "rule": rule.name, "rule_set": set,
                }))
            })
            .collect();
        let sets: Vec<Value> = sets
            .iter()
            .map(|(name, version, digest)| {
                json!({"name": name, "sha256": format!("sha256:{digest}"), "version": version})
            })
            .collect();
        let attributes = &mut self.event.attributes;
        attributes.insert(
            REDACTION.to_owned(),
            json!({"hits": hits, "rule_sets": sets}),
        );
        if !self.commitments.is_empty() {
            attributes.insert(
                REDACTION_COMMITMENTS.to_owned(),
                Value::Object(self.commitments),
            );
        }
        if !self.withheld.is_empty() {
            let mut counted: BTreeMap<(String, Failure), u64> = BTreeMap::new();
            for key in self.withheld {
                *counted.entry(key).or_default() += 1;
            }
            let all = counted.into_iter().map(|((field, failure), count)| {
                json!({"count": count, "field": field, "reason": failure.as_str()})
            });
            attributes.insert(WITHHELD.to_owned(), all.collect());
        }
        if !self.decoded.is_empty() {
            attributes.insert(DECODED.to_owned(), json!(self.decoded));
        }
        self.event
    }
}

impl Compiled {
    /// Looks inside of texts, wherever they stand.
    fn is_everywhere_finding(&self) -> bool {
        self.is_everywhere() && !self.is_whole()
    }
}

/// A panic of a rule is a failure of the field, and what it says goes nowhere.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Failure::RuleFailed))
}

/// Attributes that say how a call went and not what was said: they stay where only metadata is recorded.
fn is_metadata(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "audit.api",
        "audit.credential",
        "audit.outcome",
        "audit.outcome.reason",
        "audit.session.source",
        "audit.truncated",
        "audit.upstream",
        "error.type",
        "gen_ai.operation.name",
        "gen_ai.output.type",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.response.finish_reasons",
        "gen_ai.response.id",
        "gen_ai.response.model",
        "http.request.method",
        "openai.api.type",
        "openai.request.service_tier",
        "openai.response.service_tier",
        "openai.response.system_fingerprint",
        "server.address",
    ];
    NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use audit_core::event::Kind;
    use audit_core::secret::SecretKey;
    use audit_core::time::Timestamp;
    use audit_core::token::IndexKey;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_rule_that_breaks_off_lets_its_field_through() {
        let rule = json!({"name": "own", "version": "1", "rule": [
            {"name": "r", "detect": ["panics", "email"], "action": "mask"},
        ]});
        let options = Options::new(vec![serde_json::from_value(rule).unwrap()]);
        let redactor = Redactor::new(options).unwrap();
        let keys = IngestKeys::new(IndexKey::new(SecretKey::new([7; 32])));
        let mut event = Event::new(Uuid::nil(), Timestamp::EPOCH, Kind::new("x").unwrap());
        let secret = "secret, panic now";
        event.attributes = json!({"a": secret, "b": "to a@b.org", "c": {"d": [secret]}, "n": 1})
            .as_object()
            .unwrap()
            .clone();
        event.refs.insert("r".to_owned(), secret.to_owned());
        event.actor = Some(Actor {
            display_name: Some(secret.to_owned()),
            ..Actor::new(audit_core::event::ActorKind::Human, "u")
        });
        event.system = Some(audit_core::event::SystemRef {
            id: secret.to_owned(),
            version: None,
        });
        for (media, text) in [
            (Media::Json, format!("{{\"x\":\"{secret}\"}}")),
            (
                Media::EventStream,
                "data: {\"x\":\"secret, panic n\"}\n\ndata: {\"x\":\"ow\"}\n\n".to_owned(),
            ),
            (Media::Text, secret.to_owned()),
            (Media::Multipart, format!("--b\r\n\r\n{secret}\r\n--b--")),
        ] {
            event.payloads = vec![Payload::new("body", media, text.into_bytes())];
            let recorded = redactor.ingest(event.clone(), &keys).unwrap();
            recorded.check().unwrap();
            assert_eq!(recorded.payloads[0].bytes, b"[withheld:rule_failed]");
            let text = format!(
                "{:?} {:?} {:?} {:?}",
                recorded.attributes, recorded.refs, recorded.actor, recorded.system
            );
            assert!(!text.contains("secret"), "{text}");
            // What other fields hold is filtered as ever.
            assert_eq!(recorded.attributes["b"], "to [redacted:email]");
            assert_eq!(recorded.attributes["c"], "[withheld:rule_failed]");
            assert_eq!(recorded.attributes["n"], 1);
            let said = recorded.attributes[WITHHELD].to_string();
            for field in [
                "payloads/body",
                "attributes/a",
                "attributes/c",
                "refs/r",
                "actor",
                "system",
            ] {
                assert!(
                    said.contains(&format!("\"field\":\"{field}\",\"reason\":\"rule_failed\"")),
                    "{said}"
                );
                assert!(
                    recorded.attributes[REDACTION_COMMITMENTS][field].is_string(),
                    "{field}"
                );
            }
        }
    }
}
