//! Cohere: chat, embeddings, reranking and generating, versions 1 and 2.
//!
//! Its counts are `tokens`; where a version gives only `billed_units`, those.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::chat::{self, parted, written};
use super::converse::prompt;
use super::parts::Place;
use super::{
    Assembler, Format, Room, Take, append, error, parts_of, put, put_all, take_array, take_bool,
    take_map, take_parameters, take_text, take_usage, text_part, weight,
};
use crate::api::{Api, Operation};
use crate::exchange::{Answered, Asked, Message, Part};
use crate::framing::{Event, Framing};
use crate::head::RequestHead;
use crate::json;
use crate::response::{ApiError, CALLS_MAX};

/// The format.
pub(crate) struct Cohere;

const PARAMETERS: &[(&str, &str, Take)] = &[
    ("/max_tokens", "gen_ai.request.max_tokens", Take::Count),
    ("/temperature", "gen_ai.request.temperature", Take::Number),
    ("/p", "gen_ai.request.top_p", Take::Number),
    ("/k", "gen_ai.request.top_k", Take::Number),
    ("/seed", "gen_ai.request.seed", Take::Count),
    (
        "/frequency_penalty",
        "gen_ai.request.frequency_penalty",
        Take::Number,
    ),
    (
        "/presence_penalty",
        "gen_ai.request.presence_penalty",
        Take::Number,
    ),
    (
        "/stop_sequences",
        "gen_ai.request.stop_sequences",
        Take::Texts,
    ),
    (
        "/num_generations",
        "gen_ai.request.choice.count",
        Take::Count,
    ),
    (
        "/embedding_types",
        "gen_ai.request.encoding_formats",
        Take::Texts,
    ),
    (
        "/output_dimension",
        "gen_ai.embeddings.dimension.count",
        Take::Count,
    ),
    (
        "/thinking/token_budget",
        "audit.request.thinking_budget_tokens",
        Take::Count,
    ),
    ("/tool_choice", "audit.request.tool_choice", Take::Text),
];

const USAGE: &[Place] = &[
    ("/billed_units/input_tokens", |u| &mut u.input),
    ("/billed_units/output_tokens", |u| &mut u.output),
    ("/tokens/input_tokens", |u| &mut u.input),
    ("/tokens/output_tokens", |u| &mut u.output),
    ("/tokens/reasoning_tokens", |u| &mut u.reasoning),
    ("/cached_tokens", |u| &mut u.cache_read),
];

impl Format for Cohere {
    fn name(&self) -> &'static str {
        "cohere"
    }

    // Version 1 streams lines of JSON.
    fn framing(&self, _: &Api, first: u8) -> Option<Framing> {
        match first {
            b'{' => Some(Framing::Lines),
            b'[' => None,
            _ => Some(Framing::Sse),
        }
    }

    fn asked(&self, _: &Api, _: &RequestHead, mut members: Map<String, Value>, asked: &mut Asked) {
        asked.model = take_text(&mut members, "model");
        asked.stream = take_bool(&mut members, "stream").unwrap_or(false);
        take_parameters(&mut members, PARAMETERS, asked);
        if let Some(text) = take_text(&mut members, "preamble") {
            asked.instructions.push(text_part(text));
        }
        for name in ["chat_history", "messages"] {
            for message in take_array(&mut members, name) {
                asked.messages.push(match message {
                    Value::Object(mut members) => {
                        if let Some(text) = members.remove("message") {
                            members.insert("content".to_owned(), text);
                        }
                        chat::message(members)
                    }
                    raw => parted(vec![Part::Other { raw }]),
                });
            }
        }
        if let Some(text) = take_text(&mut members, "message") {
            asked.messages.push(Message {
                role: Some("USER".to_owned()),
                ..prompt(text)
            });
        }
        for result in take_array(&mut members, "tool_results") {
            asked.messages.push(parted(vec![Part::ToolResult {
                id: None,
                name: result
                    .pointer("/call/name")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
                parts: vec![Part::Other { raw: result }],
                is_error: None,
                other: Map::new(),
            }]));
        }
        for name in ["prompt", "query"] {
            if let Some(text) = take_text(&mut members, name) {
                asked.messages.push(prompt(text));
            }
        }
        for name in ["texts", "inputs", "images"] {
            for item in take_array(&mut members, name) {
                asked.messages.push(match (name, item) {
                    ("images", Value::String(url)) => {
                        parted(vec![Part::Image(super::url_media(url))])
                    }
                    (_, Value::Object(mut item)) if item.contains_key("content") => parted(
                        parts_of(item.remove("content").unwrap_or_default(), chat::part),
                    ),
                    (_, item) => parted(parts_of(item, chat::part)),
                });
            }
        }
        asked.tools = chat::tools(&mut members);
        asked.other = members;
    }

    fn answered(&self, api: &Api, body: Value, answered: &mut Answered) {
        let Some(mut members) = super::members_of(body, answered) else {
            return;
        };
        if answered.error.is_none() && answered.status >= 400 {
            answered.error = take_text(&mut members, "message").map(|message| ApiError {
                message: Some(message),
                ..ApiError::default()
            });
        }
        answered.id = take_text(&mut members, "id")
            .or_else(|| take_text(&mut members, "response_id"))
            .or_else(|| take_text(&mut members, "generation_id"));
        if members.contains_key("usage") {
            take_usage(&mut members, "usage", USAGE, answered);
        } else {
            take_usage(&mut members, "meta", USAGE, answered);
        }
        let reason = take_text(&mut members, "finish_reason");
        let message = match take_map(&mut members, "message") {
            Some(message) => Some(chat::message(message)),
            None if api.operation == Operation::Chat => {
                // Version 1.
                let mut parts: Vec<Part> = take_text(&mut members, "text")
                    .map(text_part)
                    .into_iter()
                    .collect();
                for call in take_array(&mut members, "tool_calls") {
                    parts.push(version_1_call(call));
                }
                (!parts.is_empty()).then(|| parted(parts))
            }
            None => None,
        };
        if message.is_some() || reason.is_some() {
            answered.messages.push(Message {
                finish_reason: reason,
                ..message.unwrap_or_default()
            });
        }
        for generation in take_array(&mut members, "generations") {
            let Value::Object(mut generation) = generation else {
                continue;
            };
            answered.messages.push(Message {
                parts: take_text(&mut generation, "text")
                    .map(text_part)
                    .into_iter()
                    .collect(),
                finish_reason: take_text(&mut generation, "finish_reason"),
                role: None,
                other: generation,
            });
        }
        super::without_vectors(&mut members);
        answered.other = members;
    }

    fn assembler(&self, _: &Api) -> Box<dyn Assembler> {
        Box::new(CohereAssembler::default())
    }
}

fn version_1_call(call: Value) -> Part {
    let Value::Object(mut call) = call else {
        return Part::Other { raw: call };
    };
    Part::ToolCall {
        id: take_text(&mut call, "id"),
        name: take_text(&mut call, "name"),
        arguments: call.remove("parameters").map(written).unwrap_or_default(),
        by_provider: false,
        other: call,
    }
}

/// Puts the events of a chat together, of either version.
#[derive(Debug, Default)]
struct CohereAssembler {
    top: Map<String, Value>,
    message: Map<String, Value>,
    content: BTreeMap<u64, Map<String, Value>>,
    calls: BTreeMap<u64, Map<String, Value>>,
    citations: Vec<Value>,
}

fn kind(event: &Event<'_>, body: &Value) -> String {
    ["type", "event_type"]
        .iter()
        .find_map(|name| json::string(body, name))
        .unwrap_or_else(|| event.name.to_string())
}

impl Assembler for CohereAssembler {
    fn ends(&self, event: &Event<'_>) -> bool {
        if event.name == "message-end" {
            return true;
        }
        ["message-end", "stream-end", "\"is_finished\"", "\"error\""]
            .iter()
            .any(|word| event.data.contains(word))
            && json::any(&event.data).is_some_and(|body| {
                matches!(kind(event, &body).as_str(), "message-end" | "stream-end")
                    || body.get("is_finished").and_then(Value::as_bool) == Some(true)
                    || error(&body).is_some()
            })
    }

    fn event(&mut self, event: &Event<'_>, room: &mut Room) -> bool {
        if event.data.trim() == "[DONE]" {
            return true;
        }
        let Some(body) = json::any(&event.data) else {
            return false;
        };
        let kind = kind(event, &body);
        let Value::Object(mut body) = body else {
            return false;
        };
        let index = body.get("index").and_then(Value::as_u64).unwrap_or(0);
        let mut delta = take_map(&mut body, "delta").unwrap_or_default();
        let mut message = take_map(&mut delta, "message").unwrap_or_default();
        if self.content.len() + self.calls.len() >= CALLS_MAX
            && !self.content.contains_key(&index)
            && !self.calls.contains_key(&index)
        {
            room.cut = true;
            return true;
        }
        match kind.as_str() {
            "message-start" => {
                if let Some(id) = body.remove("id") {
                    put(&mut self.top, "id", id, room);
                }
                message.retain(|_, value| value.as_array().is_none_or(|a| !a.is_empty()));
                put_all(&mut self.message, message, room);
            }
            "content-start" | "content-delta" => {
                let part = self.content.entry(index).or_default();
                for (name, value) in take_map(&mut message, "content").unwrap_or_default() {
                    match value {
                        Value::String(text) if matches!(name.as_str(), "text" | "thinking") => {
                            append(part, &name, &text, room);
                        }
                        value => {
                            put(part, name, value, room);
                        }
                    }
                }
            }
            "tool-plan-delta" => {
                let text = take_text(&mut message, "tool_plan").unwrap_or_default();
                append(&mut self.message, "tool_plan", &text, room);
            }
            "tool-call-start" | "tool-call-delta" => {
                let call = self.calls.entry(index).or_default();
                let mut given = take_map(&mut message, "tool_calls").unwrap_or_default();
                let function = take_map(&mut given, "function").unwrap_or_default();
                put_all(call, given, room);
                let into = call
                    .entry("function")
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(into) = into {
                    for (name, value) in function {
                        match value {
                            Value::String(text) if name == "arguments" => {
                                append(into, &name, &text, room);
                            }
                            value => {
                                put(into, name, value, room);
                            }
                        }
                    }
                }
            }
            "citation-start" => {
                if let Some(citation) = message.remove("citations")
                    && room.take(weight(&citation))
                {
                    self.citations.push(citation);
                }
            }
            "message-end" => {
                put_all(&mut self.top, delta, room);
                body.retain(|name, _| name == "error");
                put_all(&mut self.top, body, room);
            }
            // Version 1.
            "stream-start" => {
                if let Some(id) = body.remove("generation_id") {
                    put(&mut self.top, "generation_id", id, room);
                }
            }
            "text-generation" => {
                let text = take_text(&mut body, "text").unwrap_or_default();
                append(&mut self.top, "text", &text, room);
            }
            "stream-end" => {
                let reason = body.remove("finish_reason");
                let response = take_map(&mut body, "response").unwrap_or_default();
                put_all(&mut self.top, response, room);
                if let Some(reason) = reason {
                    put(&mut self.top, "finish_reason", reason, room);
                }
            }
            _ if body.contains_key("error") => {
                put_all(&mut self.top, body, room);
            }
            _ => {}
        }
        true
    }

    fn finish(self: Box<Self>) -> Value {
        let (mut top, mut message) = (self.top, self.message);
        let list = |items: BTreeMap<u64, Map<String, Value>>| -> Vec<Value> {
            items.into_values().map(Value::Object).collect()
        };
        if !self.content.is_empty() {
            message.insert("content".to_owned(), json!(list(self.content)));
        }
        if !self.calls.is_empty() {
            message.insert("tool_calls".to_owned(), json!(list(self.calls)));
        }
        if !self.citations.is_empty() {
            message.insert("citations".to_owned(), Value::Array(self.citations));
        }
        if !message.is_empty() {
            top.insert("message".to_owned(), Value::Object(message));
        }
        Value::Object(top)
    }
}
