//! Anthropic's messages in the common form, counting tokens, and legacy completions.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::chat::{self, parted, written};
use super::parts::Place;
use super::{
    Assembler, Room, append, media, parts_of, put, put_all, take_array, take_bool, take_map,
    take_parameters, take_text, take_usage, text_part, weight,
};
use crate::api::Operation;
use crate::exchange::{Answered, Asked, Media, Message, Part};
use crate::framing::Event;
use crate::json;
use crate::response::CALLS_MAX;

const USAGE: &[Place] = &[
    ("/input_tokens", |u| &mut u.input),
    ("/output_tokens", |u| &mut u.output),
    ("/cache_read_input_tokens", |u| &mut u.cache_read),
    ("/cache_creation_input_tokens", |u| &mut u.cache_creation),
    ("/output_tokens_details/thinking_tokens", |u| {
        &mut u.reasoning
    }),
];

/// Reads a request.
pub(crate) fn asked(
    mut members: Map<String, Value>,
    parameters: &[(&str, &str, super::Take)],
    asked: &mut Asked,
) {
    asked.model = take_text(&mut members, "model").or_else(|| asked.model.take());
    asked.stream |= take_bool(&mut members, "stream").unwrap_or(false);
    take_parameters(&mut members, parameters, asked);
    asked.instructions = parts_of(members.remove("system").unwrap_or_default(), block);
    for message in take_array(&mut members, "messages") {
        asked.messages.push(match message {
            Value::Object(members) => self::message(members),
            raw => parted(vec![Part::Other { raw }]),
        });
    }
    if let Some(prompt) = take_text(&mut members, "prompt") {
        asked.messages.push(parted(vec![text_part(prompt)]));
    }
    asked.tools = chat::tools(&mut members);
    asked.other = members;
}

fn message(mut members: Map<String, Value>) -> Message {
    Message {
        role: take_text(&mut members, "role"),
        parts: parts_of(members.remove("content").unwrap_or_default(), block),
        finish_reason: None,
        other: members,
    }
}

fn block(mut members: Map<String, Value>) -> Part {
    let kind = members
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    match kind.as_str() {
        "text" => {
            members.remove("type");
            Part::Text {
                text: take_text(&mut members, "text").unwrap_or_default(),
                other: filled(members),
            }
        }
        "thinking" | "redacted_thinking" => {
            if kind == "thinking" {
                members.remove("type");
            }
            Part::Reasoning {
                text: take_text(&mut members, "thinking").unwrap_or_default(),
                other: filled(members),
            }
        }
        "tool_use" | "server_tool_use" | "mcp_tool_use" => {
            if kind == "tool_use" {
                members.remove("type");
            }
            Part::ToolCall {
                id: take_text(&mut members, "id"),
                name: take_text(&mut members, "name"),
                arguments: members.remove("input").map(written).unwrap_or_default(),
                by_provider: kind != "tool_use",
                other: filled(members),
            }
        }
        "image" | "document" => {
            members.remove("type");
            let mut found = match take_map(&mut members, "source") {
                Some(source) => source_media(source),
                None => Media::default(),
            };
            found.name = take_text(&mut members, "title");
            found.other.extend(filled(members));
            if kind == "image" {
                Part::Image(found)
            } else {
                Part::Document(found)
            }
        }
        kind if kind.ends_with("tool_result") => {
            if kind == "tool_result" {
                members.remove("type");
            }
            Part::ToolResult {
                id: take_text(&mut members, "tool_use_id"),
                name: None,
                parts: parts_of(members.remove("content").unwrap_or_default(), block),
                is_error: take_bool(&mut members, "is_error"),
                other: filled(members),
            }
        }
        _ => Part::Other {
            raw: Value::Object(members),
        },
    }
}

fn source_media(mut source: Map<String, Value>) -> Media {
    let kind = take_text(&mut source, "media_type");
    let mut found = match (
        source.get("type").and_then(Value::as_str),
        source.get("data").and_then(Value::as_str),
    ) {
        (Some("base64"), Some(data)) => media(kind, data),
        (Some("text"), Some(data)) => Media {
            media_type: kind,
            bytes: Some(data.len() as u64),
            ..Media::default()
        },
        _ => Media {
            media_type: kind,
            url: take_text(&mut source, "url"),
            file_id: take_text(&mut source, "file_id"),
            ..Media::default()
        },
    };
    if found.bytes.is_some() {
        source.remove("data");
    }
    source.remove("type");
    found.other = source;
    found
}

fn filled(mut members: Map<String, Value>) -> Map<String, Value> {
    members.retain(|_, value| !value.is_null());
    members
}

/// Reads a response.
pub(crate) fn answered(operation: Operation, body: Value, answered: &mut Answered) {
    let Some(mut members) = super::members_of(body, answered) else {
        return;
    };
    if answered.error.is_some() && members.get("type").and_then(Value::as_str) == Some("error") {
        members.remove("type");
    }
    read(operation, &mut members, answered);
    answered.other = members;
}

fn read(operation: Operation, members: &mut Map<String, Value>, answered: &mut Answered) {
    answered.id = take_text(members, "id");
    answered.model = take_text(members, "model");
    if operation == Operation::CountTokens {
        answered.counted_tokens = members
            .remove("input_tokens")
            .as_ref()
            .and_then(json::count);
        return;
    }
    take_usage(members, "usage", USAGE, answered);
    answered.counts.input_excludes_cache = answered.usage.is_some();
    let mut message = Message {
        role: take_text(members, "role"),
        parts: parts_of(members.remove("content").unwrap_or_default(), block),
        finish_reason: take_text(members, "stop_reason"),
        other: Map::new(),
    };
    if let Some(Value::String(text)) = members.remove("completion") {
        message.parts.push(text_part(text));
    }
    if message != Message::default() {
        answered.messages.push(message);
    }
}

/// Puts the events of a message together, or the pieces of a legacy completion.
#[derive(Debug, Default)]
pub(crate) struct MessageAssembler {
    message: Map<String, Value>,
    blocks: BTreeMap<u64, Map<String, Value>>,
    inputs: BTreeMap<u64, String>,
}

/// Whether an event ends a message.
pub(crate) fn ends(event: &Event<'_>) -> bool {
    if matches!(event.name.as_ref(), "message_stop" | "error") {
        return true;
    }
    // Only short events end a message; this spares reading every delta twice.
    (event.data.contains("message_stop")
        || event.data.contains("\"error\"")
        || event.data.contains("\"stop_reason\""))
        && json::any(&event.data).is_some_and(|body| {
            let kind = body.get("type").and_then(Value::as_str);
            matches!(kind, Some("message_stop" | "error"))
                || (matches!(kind, Some("completion") | None)
                    && body.get("stop_reason").is_some_and(Value::is_string))
        })
}

impl MessageAssembler {
    /// Takes an event that has been parsed.
    pub(crate) fn take(&mut self, name: &str, mut body: Map<String, Value>, room: &mut Room) {
        let kind = take_text(&mut body, "type").unwrap_or_else(|| name.to_owned());
        let index = body.get("index").and_then(Value::as_u64).unwrap_or(0);
        match kind.as_str() {
            "message_start" => {
                self.message = take_map(&mut body, "message").unwrap_or_default();
            }
            "content_block_start" => {
                if self.blocks.len() >= CALLS_MAX {
                    room.cut = true;
                } else if let Some(block) = take_map(&mut body, "content_block")
                    && room.take(block.values().map(weight).sum())
                {
                    self.blocks.insert(index, block);
                }
            }
            "content_block_delta" => {
                if let (Some(delta), Some(block)) =
                    (take_map(&mut body, "delta"), self.blocks.get_mut(&index))
                {
                    delta_of(block, delta, self.inputs.entry(index).or_default(), room);
                }
            }
            "message_delta" => {
                let delta = take_map(&mut body, "delta").unwrap_or_default();
                put_all(&mut self.message, delta, room);
                if let Some(new) = take_map(&mut body, "usage") {
                    let usage = self
                        .message
                        .entry("usage")
                        .or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(usage) = usage {
                        // Counts are cumulative, and null where nothing new is said.
                        put_all(usage, new, room);
                    }
                }
                put_all(&mut self.message, body, room);
            }
            "error" => {
                if let Some(error) = body.remove("error") {
                    put(&mut self.message, "error", error, room);
                }
            }
            "completion" => {
                for (name, value) in body {
                    match value {
                        Value::String(text) if name == "completion" => {
                            append(&mut self.message, &name, &text, room);
                        }
                        Value::Null => {}
                        value => {
                            put(&mut self.message, name, value, room);
                        }
                    }
                }
            }
            "message_stop" => {
                put_all(&mut self.message, body, room);
            }
            _ => {}
        }
    }

    /// The whole message.
    pub(crate) fn whole(mut self) -> Value {
        if !self.blocks.is_empty() {
            let mut content = Vec::with_capacity(self.blocks.len());
            for (index, mut block) in self.blocks {
                // A tool without parameters streams none; its start then says `{}`.
                if let Some(input) = self.inputs.remove(&index).filter(|text| !text.is_empty()) {
                    block.insert("input".to_owned(), Value::String(input));
                }
                content.push(Value::Object(block));
            }
            self.message
                .insert("content".to_owned(), Value::Array(content));
        }
        Value::Object(self.message)
    }
}

fn delta_of(
    block: &mut Map<String, Value>,
    mut delta: Map<String, Value>,
    input: &mut String,
    room: &mut Room,
) {
    let kind = take_text(&mut delta, "type").unwrap_or_default();
    let field = |name: &str| delta.get(name).and_then(Value::as_str).unwrap_or_default();
    match kind.as_str() {
        "text_delta" => append(block, "text", field("text"), room),
        "thinking_delta" => append(block, "thinking", field("thinking"), room),
        "signature_delta" => append(block, "signature", field("signature"), room),
        "input_json_delta" => room.append(input, field("partial_json")),
        "citations_delta" => {
            let length = delta.get("citation").map_or(0, weight);
            let citations = block
                .entry("citations")
                .or_insert_with(|| Value::Array(Vec::new()));
            if citations.is_null() {
                *citations = Value::Array(Vec::new());
            }
            if let (Value::Array(citations), Some(citation)) = (citations, delta.remove("citation"))
                && room.take(length)
            {
                citations.push(citation);
            }
        }
        // A kind of its own, such as a compaction's: texts grow.
        _ => {
            for (name, value) in delta {
                match value {
                    Value::String(text) => append(block, &name, &text, room),
                    value => put(block, name, value, room),
                }
            }
        }
    }
}

impl Assembler for MessageAssembler {
    fn ends(&self, event: &Event<'_>) -> bool {
        ends(event)
    }

    fn event(&mut self, event: &Event<'_>, room: &mut Room) -> bool {
        match json::any(&event.data) {
            Some(Value::Object(body)) => {
                self.take(&event.name, body, room);
                true
            }
            _ => false,
        }
    }

    fn finish(self: Box<Self>) -> Value {
        self.whole()
    }
}
