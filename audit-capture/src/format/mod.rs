//! The wire formats: what a request asks and a response answers, whole or streamed.
//!
//! None of the readers fails: each takes what it understands and leaves the rest.
//!
//! A format reads whole bodies into a view ([`Format::asked`], [`Format::answered`]), and puts a stream together into the
//! body that would have come without streaming ([`Format::assembler`]), so a stream is read by the same code. The facts
//! that the gateway needs while an answer passes follow from the view, except for the formats of `OpenAI` and Anthropic,
//! which read them without building one.

pub(crate) mod anthropic;
pub(crate) mod assistants;
pub(crate) mod chat;
pub(crate) mod cohere;
pub(crate) mod converse;
pub(crate) mod gemini;
pub(crate) mod invoke;
pub(crate) mod messages;
pub(crate) mod objects;
pub(crate) mod ollama;
pub(crate) mod openai;
mod parts;
pub(crate) mod replicate;
pub(crate) mod responses;
pub(crate) mod unknown;

use serde_json::{Map, Value};

pub(crate) use self::parts::{
    append, join, media, media_part, number, parts_of, put, put_all, take_array, take_bool,
    take_map, take_text, take_usage, text_part, url_media, weight,
};
use crate::api::Api;
use crate::exchange::{Answered, Asked, Part, Tokens};
use crate::framing::{Event, Framing};
use crate::head::RequestHead;
use crate::json;
use crate::request::{RequestFacts, ToolResult};
pub(crate) use crate::response::Room;
use crate::response::{ApiError, CALLS_MAX, ResponseFacts, ToolCall, ToolSide, Usage};

/// A wire format.
pub(crate) trait Format: Sync {
    /// Its name, for comparing.
    fn name(&self) -> &'static str;

    /// Reads a request; `body` is an object, empty if there was none.
    fn request(&self, api: &Api, head: &RequestHead, body: &Value, facts: &mut RequestFacts) {
        let members = body.as_object().cloned().unwrap_or_default();
        let mut asked = Asked::default();
        self.asked(api, head, members, &mut asked);
        request_facts(asked, facts);
    }

    /// Reads a whole response; `text` is what `body` was parsed from.
    fn response(&self, api: &Api, body: &Value, _text: &[u8], facts: &mut ResponseFacts) {
        let mut answered = Answered {
            status: facts.status,
            ..Answered::default()
        };
        self.answered(api, body.clone(), &mut answered);
        response_facts(answered, facts);
    }

    /// A reader of a streamed response.
    fn stream(&self, api: &Api) -> Box<dyn Stream> {
        Box::new(Assembled {
            assembler: self.assembler(api),
            api: api.clone(),
        })
    }

    /// How a stream is framed whose content type doesn't say it, and whose first byte is `first`. `None` if it is no
    /// stream, though one was asked for.
    fn framing(&self, _api: &Api, first: u8) -> Option<Framing> {
        (!matches!(first, b'{' | b'[')).then_some(Framing::Sse)
    }

    /// Brings a request into the common form. What is understood is taken out of `members`; the rest is kept.
    fn asked(&self, api: &Api, head: &RequestHead, members: Map<String, Value>, asked: &mut Asked);

    /// Brings a whole response into the common form.
    fn answered(&self, api: &Api, body: Value, answered: &mut Answered);

    /// Puts a streamed response together.
    fn assembler(&self, api: &Api) -> Box<dyn Assembler>;
}

/// Reads the events of one streamed response.
pub(crate) trait Stream: Send {
    /// Whether `event` is the one that ends the response: a client acts on what it has got when it sees this one.
    fn ends(&self, event: &Event<'_>) -> bool;

    /// Whether `event` ends the response unless another one follows. The format has no event that ends it for certain.
    fn may_end(&self, _event: &Event<'_>) -> bool {
        false
    }

    /// Takes the facts of `event`.
    fn event(&mut self, event: &Event<'_>, facts: &mut ResponseFacts, room: &mut Room);

    /// Puts what was gathered into `facts`.
    fn finish(self: Box<Self>, facts: &mut ResponseFacts);

    /// Whether the format has an event that ends it.
    fn has_end(&self) -> bool {
        true
    }
}

/// Puts the events of one streamed response together into the body that would have come without streaming.
pub(crate) trait Assembler: Send {
    /// As [`Stream::ends`].
    fn ends(&self, event: &Event<'_>) -> bool;

    /// As [`Stream::may_end`].
    fn may_end(&self, _event: &Event<'_>) -> bool {
        false
    }

    /// Takes an event; `false` if it can't be read.
    fn event(&mut self, event: &Event<'_>, room: &mut Room) -> bool;

    /// The whole body.
    fn finish(self: Box<Self>) -> Value;
}

/// A stream whose facts are those of the body that it is put together to.
struct Assembled {
    assembler: Box<dyn Assembler>,
    api: Api,
}

impl Stream for Assembled {
    fn ends(&self, event: &Event<'_>) -> bool {
        self.assembler.ends(event)
    }

    fn may_end(&self, event: &Event<'_>) -> bool {
        self.assembler.may_end(event)
    }

    fn event(&mut self, event: &Event<'_>, facts: &mut ResponseFacts, room: &mut Room) {
        if !self.assembler.event(event, room) {
            facts.note_event(event);
        }
    }

    fn finish(self: Box<Self>, facts: &mut ResponseFacts) {
        let whole = self.assembler.finish();
        let mut answered = Answered::default();
        self.api.format.answered(&self.api, whole, &mut answered);
        response_facts(answered, facts);
    }
}

/// The facts of a request in the common form.
fn request_facts(asked: Asked, facts: &mut RequestFacts) {
    facts.model = asked.model;
    facts.stream = asked.stream;
    facts.parameters = asked.parameters;
    facts.conversation = asked.conversation;
    facts.previous_response = asked.previous_response;
    facts.system = !asked.instructions.is_empty();
    if !asked.messages.is_empty() {
        facts.messages = Some(asked.messages.len() as u64);
    }
    if !asked.tools.is_empty() {
        facts.tools = Some(asked.tools.len() as u64);
    }
    for message in &asked.messages {
        let role = message.role.as_deref().unwrap_or_default();
        facts.system |= matches!(role.to_ascii_lowercase().as_str(), "system" | "developer");
        if matches!(
            role.to_ascii_lowercase().as_str(),
            "assistant" | "model" | "chatbot"
        ) {
            ToolResult::age(&mut facts.tool_results);
        }
        for part in &message.parts {
            if let Part::ToolResult { id: Some(id), .. } = part {
                facts.tool_results.push(ToolResult::new(id.clone()));
            }
        }
    }
}

/// The facts of a response in the common form.
fn response_facts(answered: Answered, facts: &mut ResponseFacts) {
    facts.id = answered.id.or_else(|| facts.id.take());
    facts.model = answered.model.or_else(|| facts.model.take());
    facts.usage = answered.counts;
    facts.counted_tokens = answered.counted_tokens;
    facts.error = answered.error.or_else(|| facts.error.take());
    facts.truncated |= answered.truncated;
    for message in answered.messages {
        let mut gathered = String::new();
        for part in message.parts {
            match part {
                Part::Text { text, .. } => gathered.push_str(&text),
                Part::Refusal { .. } => facts.refused = true,
                Part::ToolCall {
                    id,
                    name,
                    arguments,
                    by_provider,
                    ..
                } => {
                    if facts.tool_calls.len() >= CALLS_MAX {
                        facts.truncated = true;
                        continue;
                    }
                    facts.tool_calls.push(ToolCall {
                        id,
                        name,
                        arguments,
                        side: if by_provider {
                            ToolSide::Provider
                        } else {
                            ToolSide::Client
                        },
                    });
                }
                _ => {}
            }
        }
        facts.texts.push(gathered);
        facts.finish_reasons.extend(message.finish_reason);
    }
}

/// Puts the provider's counts into one meaning.
pub(crate) fn count(answered: &mut Answered) {
    let counts = &answered.counts;
    if *counts == Usage::default() && answered.usage.is_none() {
        return;
    }
    let given = answered.usage.take().map(|u| u.given).unwrap_or_default();
    answered.usage = Some(Tokens {
        input: counts.input_total(),
        output: counts.output_total(),
        cache_read: counts.cache_read,
        cache_creation: counts.cache_creation,
        reasoning: counts.reasoning,
        total: counts.total,
        given,
    });
}

/// Takes the counts that stand at the given places out of a usage object, which is kept whole beside them.
pub(crate) fn usage(given: Value, places: &[parts::Place], answered: &mut Answered) {
    for (place, of) in places {
        if let Some(count) = given.pointer(place).and_then(json::count) {
            *of(&mut answered.counts) = Some(count);
        }
    }
    answered.usage = Some(Tokens {
        given,
        ..Tokens::default()
    });
}

/// Numbers in a row that count as a vector.
const VECTOR_MIN: usize = 9;

/// Puts the length of a vector in its place: an embedding is no text that anybody reads.
pub(crate) fn without_vectors(members: &mut Map<String, Value>) {
    fn shorten(value: &mut Value) {
        match value {
            Value::Array(items)
                if items.len() >= VECTOR_MIN && items.iter().all(Value::is_number) =>
            {
                *value = serde_json::json!({ "numbers": items.len() });
            }
            Value::Array(items) => items.iter_mut().for_each(shorten),
            Value::Object(members) => members.values_mut().for_each(shorten),
            _ => {}
        }
    }
    members.values_mut().for_each(shorten);
}

/// Takes the members of `table` that have the type they should have out of `members`; the first that sets an attribute
/// counts.
pub(crate) fn take_parameters(
    members: &mut Map<String, Value>,
    table: &[(&str, &str, Take)],
    asked: &mut Asked,
) {
    for (pointer, attribute, take) in table {
        let mut path = pointer.trim_start_matches('/').split('/').peekable();
        let mut at = &mut *members;
        while let Some(name) = path.next() {
            if path.peek().is_some() {
                match at.get_mut(name) {
                    Some(Value::Object(inner)) => at = inner,
                    _ => break,
                }
            } else if let Some(value) = at.get(name).and_then(|v| taken(v, *take))
                && !asked.parameters.contains_key(*attribute)
            {
                asked.parameters.insert((*attribute).to_owned(), value);
                at.remove(name);
            }
        }
    }
    // An object of which nothing is left has no more to say.
    members.retain(|name, value| {
        let emptied = value.as_object().is_some_and(Map::is_empty);
        !(emptied
            && table.iter().any(|(pointer, ..)| {
                let mut path = pointer.trim_start_matches('/').split('/');
                path.next() == Some(name) && path.next().is_some()
            }))
    });
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
        if let Some(value) = taken(value, *take) {
            facts
                .parameters
                .entry((*attribute).to_owned())
                .or_insert(value);
        }
    }
}

/// `value` as a parameter, if it has the type that it should have.
fn taken(value: &Value, take: Take) -> Option<Value> {
    match take {
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
            // Google says `status`.
            kind: text(error, "type").or_else(|| text(error, "status")),
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

/// The members of an answer's body, when the error in it has been read. A body that is no object is kept as it is, and
/// has none.
pub(crate) fn members_of(body: Value, answered: &mut Answered) -> Option<Map<String, Value>> {
    answered.error = error(&body).or_else(|| answered.error.take());
    let Value::Object(mut members) = body else {
        answered.other.insert("body".to_owned(), body);
        return None;
    };
    if answered.error.is_some() {
        keep_error(&mut members);
    }
    Some(members)
}

/// Leaves of an error that has been read what has no place: details, mostly.
pub(crate) fn keep_error(members: &mut Map<String, Value>) {
    let Some(Value::Object(mut rest)) = members.remove("error") else {
        return;
    };
    let kind = if rest.get("type").and_then(number).is_some() {
        "type"
    } else {
        "status"
    };
    for name in [kind, "code", "message"] {
        if rest.get(name).and_then(number).is_some() {
            rest.remove(name);
        }
    }
    rest.retain(|_, value| !value.is_null());
    if !rest.is_empty() {
        members.insert("error".to_owned(), Value::Object(rest));
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
