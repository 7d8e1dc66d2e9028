//! The providers, one file each, and the table that finds them.

mod anthropic;
mod openai;
mod unknown;

use serde_json::Value;

use crate::api::{Api, Route};
use crate::head::RequestHead;
use crate::json;
use crate::request::RequestFacts;
use crate::response::{ApiError, ResponseFacts, Room};
use crate::sse::Event;

/// A provider's names, paths and wire formats.
///
/// None of the readers fails: each takes what it understands and leaves the rest.
pub(crate) trait Provider: Sync {
    /// The value of `gen_ai.provider.name`.
    fn name(&self) -> &'static str;

    /// Names that an operator may give it, in lower case.
    fn aliases(&self) -> &'static [&'static str];

    /// Its hosts, in lower case; `.example.com` stands for every host below.
    fn hosts(&self) -> &'static [&'static str];

    /// Its paths; the first that fits counts.
    fn routes(&self) -> &'static [Route];

    /// Reads a request; `body` is an object, empty if there was none.
    fn request(&self, api: &Api, head: &RequestHead, body: &Value, facts: &mut RequestFacts);

    /// Reads a whole response; `text` is what `body` was parsed from.
    fn response(&self, api: &Api, body: &Value, text: &[u8], facts: &mut ResponseFacts);

    /// A reader of a streamed response.
    fn stream(&self, api: &Api) -> Box<dyn Stream>;
}

/// Reads the events of one streamed response.
pub(crate) trait Stream: Send {
    /// Whether `event` is the one that ends the response: a client acts on what it has got when it sees this one.
    fn ends(&self, event: &Event<'_>) -> bool;

    /// Takes the facts of `event`.
    fn event(&mut self, event: &Event<'_>, facts: &mut ResponseFacts, room: &mut Room);

    /// Puts what was gathered into `facts`.
    fn finish(self: Box<Self>, facts: &mut ResponseFacts);

    /// Whether the format has an event that ends it.
    fn has_end(&self) -> bool {
        true
    }
}

/// In the order in which paths are tried for an upstream that isn't known.
pub(crate) const ALL: &[&dyn Provider] = &[&openai::OpenAi, &anthropic::Anthropic];

/// For what nobody in [`ALL`] understands.
pub(crate) const UNKNOWN: &dyn Provider = &unknown::Unknown;

pub(crate) fn by_alias(hint: &str) -> Option<&'static dyn Provider> {
    ALL.iter()
        .find(|p| p.aliases().iter().any(|a| a.eq_ignore_ascii_case(hint)))
        .copied()
}

pub(crate) fn by_host(host: &str) -> Option<&'static dyn Provider> {
    ALL.iter()
        .find(|p| {
            p.hosts().iter().any(|h| {
                if h.starts_with('.') {
                    host.ends_with(h)
                } else {
                    host == *h
                }
            })
        })
        .copied()
}

/// How a request member becomes an attribute.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Take {
    Number,
    Count,
    Bool,
    Text,
    /// A text, or an array of texts.
    Texts,
}

/// Takes the members of `table` that have the type they should have; the first that sets an attribute counts.
pub(crate) fn parameters(body: &Value, table: &[(&str, &str, Take)], facts: &mut RequestFacts) {
    for (member, attribute, take) in table {
        let Some(value) = body.pointer(member) else {
            continue;
        };
        let value = match take {
            Take::Number => value.as_f64().map(|_| value.clone()),
            Take::Count => json::count(value)
                .map(Value::from)
                .or_else(|| value.as_i64().map(Value::from)),
            Take::Bool => value.as_bool().map(Value::from),
            Take::Text => value.as_str().map(Value::from),
            Take::Texts => match value {
                Value::String(text) => Some(Value::from(vec![text.as_str()])),
                Value::Array(items) if items.iter().all(Value::is_string) => Some(value.clone()),
                _ => None,
            },
        };
        if let Some(value) = value {
            facts
                .parameters
                .entry((*attribute).to_owned())
                .or_insert(value);
        }
    }
}

/// The error that `body` holds, in the forms that providers use.
pub(crate) fn error(body: &Value) -> Option<ApiError> {
    let text = |value: &Value, name: &str| match value.get(name)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    match body.get("error") {
        Some(error @ Value::Object(_)) => Some(ApiError {
            kind: text(error, "type"),
            code: text(error, "code"),
            message: text(error, "message"),
        }),
        Some(Value::String(message)) => Some(ApiError {
            kind: None,
            code: None,
            message: Some(message.clone()),
        }),
        // The error event of OpenAI's responses carries its fields at the top.
        _ if body.get("type").and_then(Value::as_str) == Some("error") => Some(ApiError {
            kind: None,
            code: text(body, "code"),
            message: text(body, "message"),
        }),
        _ => None,
    }
}

/// The texts of a `content` member: a string, or parts that have `text`.
pub(crate) fn content_text(content: &Value, kinds: &[&str]) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter(|part| {
                part.get("type")
                    .and_then(Value::as_str)
                    .is_some_and(|kind| kinds.contains(&kind))
            })
            .filter_map(|part| part.get("text").and_then(Value::as_str))
            .collect(),
        _ => String::new(),
    }
}
