//! Events as JSON, for callers who write them as text and for people who read them.
//!
//! This is not what is hashed: ids and times may be left out, payloads may be text.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::event::{
    Actor, Capture, Content, Correlation, Event, Guarantee, Kind, Media, PAYLOAD_BYTES_MAX,
    Payload, SystemRef,
};
use crate::time::{Clock, IdSource, Timestamp};

/// Bytes of one event as JSON: one payload of the greatest size in base64, and its content.
pub const EVENT_JSON_BYTES_MAX: usize = PAYLOAD_BYTES_MAX / 3 * 4 + 16 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: Option<Uuid>,
    time: Option<String>,
    kind: String,
    actor: Option<Actor>,
    on_behalf_of: Option<Actor>,
    system: Option<SystemRef>,
    session_id: Option<String>,
    correlation: Option<Correlation>,
    #[serde(default)]
    refs: BTreeMap<String, String>,
    subject: Option<String>,
    #[serde(default)]
    attributes: Map<String, Value>,
    #[serde(default)]
    payloads: Vec<WrittenPayload>,
    capture: Option<Capture>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPayload {
    name: String,
    media: Option<String>,
    text: Option<String>,
    base64: Option<String>,
}

impl Event {
    /// Reads an event from JSON: members as in `docs/format.md` §4, with `kind` required; `id` and `time` are made
    /// where they are missing; `payloads` is a list of `{"name", "media"?, "text" | "base64"}`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), naming the member.
    pub fn from_json(bytes: &[u8], clock: &dyn Clock, ids: &dyn IdSource) -> Result<Self> {
        if bytes.len() > EVENT_JSON_BYTES_MAX {
            return Err(Error::invalid(format!(
                "event has {} bytes of JSON, allowed are {EVENT_JSON_BYTES_MAX}",
                bytes.len()
            )));
        }
        let written: Written = serde_json::from_slice(bytes).map_err(|e| {
            Error::invalid(format!("event is not the JSON object it should be: {e}"))
        })?;
        let now = clock.now();
        let time = written
            .time
            .as_deref()
            .map_or(Ok(now), Timestamp::parse_rfc3339)?;
        let mut event = Self::new(
            written.id.unwrap_or_else(|| ids.uuid_v7(now)),
            time,
            Kind::new(written.kind)?,
        );
        event.actor = written.actor;
        event.on_behalf_of = written.on_behalf_of;
        event.system = written.system;
        event.session_id = written.session_id;
        event.correlation = written.correlation;
        event.refs = written.refs;
        event.subject = written.subject;
        event.attributes = written.attributes;
        // Whoever tells the log of something afterwards promises nothing about the call itself.
        event.capture = Some(written.capture.unwrap_or_else(|| Capture {
            component: "audit-trail emit".into(),
            guarantee: Guarantee::None,
            version: env!("CARGO_PKG_VERSION").into(),
        }));
        for payload in written.payloads {
            event.payloads.push(payload.read()?);
        }
        event.check()?;
        Ok(event)
    }

    /// The event as JSON, in the shape that [`Event::from_json`] reads: payloads as text where they are UTF-8.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        out.insert("id".into(), json!(self.id));
        out.insert("time".into(), json!(self.time));
        out.insert("kind".into(), json!(self.kind));
        if let Ok(Value::Object(content)) = serde_json::to_value(Content::of(self)) {
            out.extend(content);
        }
        if !self.payloads.is_empty() {
            let payloads: Vec<Value> = self.payloads.iter().map(Payload::to_json).collect();
            out.insert("payloads".into(), Value::Array(payloads));
        }
        Value::Object(out)
    }
}

impl Payload {
    fn to_json(&self) -> Value {
        let mut out = json!({"name": self.name, "media": self.media.as_str()});
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => out["text"] = json!(text),
            Err(_) => out["base64"] = json!(BASE64.encode(&self.bytes)),
        }
        out
    }
}

impl WrittenPayload {
    fn read(self) -> Result<Payload> {
        let name = self.name;
        let (bytes, default) = match (self.text, self.base64) {
            (Some(text), None) => (text.into_bytes(), Media::Text),
            (None, Some(encoded)) => {
                let bytes = BASE64.decode(encoded).map_err(|e| {
                    Error::invalid(format!("payload {name:?} is not base64")).because(e)
                })?;
                (bytes, Media::Bytes)
            }
            _ => {
                return Err(Error::invalid(format!(
                    "payload {name:?} needs either text or base64"
                )));
            }
        };
        let media = self
            .media
            .as_deref()
            .map_or(default, Media::of_content_type);
        Ok(Payload::new(name, media, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::System;

    #[test]
    fn what_is_written_is_read_back() {
        let text = br#"{"kind":"tool.call","time":"2026-11-22T05:00:00+01:00","session_id":"s","actor":{"kind":"agent","id":"a"},
            "attributes":{"gen_ai.tool.name":"search","n":1.5},"refs":{"model_id":"m"},
            "payloads":[{"name":"arguments","media":"application/json","text":"{}"},{"name":"blob","base64":"AP8="}]}"#;
        let event = Event::from_json(text, &System, &System).unwrap();
        assert_eq!(event.time.to_string(), "2026-11-22T04:00:00.000000Z");
        assert_eq!(event.payloads[1].bytes, [0, 255]);
        let again =
            Event::from_json(event.to_json().to_string().as_bytes(), &System, &System).unwrap();
        assert_eq!(again, event);
    }

    #[test]
    fn the_error_names_the_member() {
        for (text, names) in [
            (r#"{"kind":"a","colour":1}"#, "colour"),
            (r#"{"session_id":"s"}"#, "kind"),
            (r#"{"kind":"A B"}"#, "\"A B\""),
            (r#"{"kind":"a","time":"yesterday"}"#, "yesterday"),
            (r#"{"kind":"a","payloads":[{"name":"p"}]}"#, "\"p\""),
            (
                r#"{"kind":"a","attributes":{"n":18446744073709551615}}"#,
                "attributes.n",
            ),
            (r#"{"kind":"a","actor":{"kind":"robot","id":"x"}}"#, "robot"),
        ] {
            let error = Event::from_json(text.as_bytes(), &System, &System)
                .unwrap_err()
                .to_string();
            assert!(error.contains(names), "{error:?} doesn't name {names:?}");
        }
    }
}
