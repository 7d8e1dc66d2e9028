//! Bedrock's `converse` and `converse-stream`, the same for every model, and counting tokens.
//!
//! Its `inputTokens` leave out what was read from or written to the cache. Amazon's Nova speaks the same format when it
//! is invoked directly.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::chat::{parted, written};
use super::parts::Place;
use super::{
    Assembler, Format, Room, Take, append, media, parts_of, put, put_all, take_array, take_map,
    take_parameters, take_text, take_usage, text_part, weight,
};
use crate::api::{Api, Operation, segments};
use crate::exchange::{Answered, Asked, Media, Message, Part, ToolDefinition};
use crate::framing::{Event, Framing};
use crate::head::RequestHead;
use crate::json;
use crate::response::{ApiError, CALLS_MAX};

/// The format.
pub(crate) struct Converse;

pub(crate) const PARAMETERS: &[(&str, &str, Take)] = &[
    (
        "/inferenceConfig/maxTokens",
        "gen_ai.request.max_tokens",
        Take::Count,
    ),
    (
        "/inferenceConfig/temperature",
        "gen_ai.request.temperature",
        Take::Number,
    ),
    (
        "/inferenceConfig/topP",
        "gen_ai.request.top_p",
        Take::Number,
    ),
    (
        "/inferenceConfig/topK",
        "gen_ai.request.top_k",
        Take::Number,
    ),
    (
        "/inferenceConfig/stopSequences",
        "gen_ai.request.stop_sequences",
        Take::Texts,
    ),
];

const USAGE: &[Place] = &[
    ("/inputTokens", |u| &mut u.input),
    ("/outputTokens", |u| &mut u.output),
    ("/totalTokens", |u| &mut u.total),
    ("/cacheReadInputTokenCount", |u| &mut u.cache_read),
    ("/cacheReadInputTokens", |u| &mut u.cache_read),
    ("/cacheWriteInputTokenCount", |u| &mut u.cache_creation),
    ("/cacheWriteInputTokens", |u| &mut u.cache_creation),
];

/// The model in a path, and the action behind it: `model/MODEL/converse`.
pub(crate) fn path_model(head: &RequestHead) -> Option<(String, String)> {
    match segments(&head.path_and_query).as_slice() {
        [.., model, action] => Some((model.to_string(), action.to_string())),
        _ => None,
    }
}

impl Format for Converse {
    fn name(&self) -> &'static str {
        "converse"
    }

    fn framing(&self, _: &Api, first: u8) -> Option<Framing> {
        (first != b'{').then_some(Framing::Frames)
    }

    fn asked(&self, _: &Api, head: &RequestHead, members: Map<String, Value>, asked: &mut Asked) {
        if let Some((model, action)) = path_model(head) {
            asked.model = Some(model);
            asked.stream = action == "converse-stream";
        }
        let mut members = members;
        // Counting tokens holds the request that it counts.
        if let Some(mut input) = take_map(&mut members, "input") {
            members = take_map(&mut input, "converse").unwrap_or(input);
        }
        self::asked(members, asked);
    }

    fn answered(&self, api: &Api, body: Value, answered: &mut Answered) {
        self::answered(api.operation, body, answered);
    }

    fn assembler(&self, _: &Api) -> Box<dyn Assembler> {
        Box::new(ConverseAssembler::default())
    }
}

/// Reads a request whose model is known.
pub(crate) fn asked(mut members: Map<String, Value>, asked: &mut Asked) {
    take_parameters(&mut members, PARAMETERS, asked);
    asked.instructions = parts_of(members.remove("system").unwrap_or_default(), block);
    for given in take_array(&mut members, "messages") {
        asked.messages.push(match given {
            Value::Object(members) => message(members),
            raw => parted(vec![Part::Other { raw }]),
        });
    }
    if let Some(Value::Object(config)) = members.get_mut("toolConfig") {
        asked.tools = take_array(config, "tools").into_iter().map(tool).collect();
    }
    asked.other = members;
}

fn tool(value: Value) -> ToolDefinition {
    let Value::Object(mut members) = value else {
        return ToolDefinition::default();
    };
    let Some(mut spec) = take_map(&mut members, "toolSpec") else {
        let name = members
            .values()
            .find_map(|inner| inner.get("name")?.as_str().map(str::to_owned))
            .or_else(|| members.keys().next().cloned());
        return ToolDefinition {
            name,
            other: members,
            ..ToolDefinition::default()
        };
    };
    let name = take_text(&mut spec, "name");
    let description = take_text(&mut spec, "description");
    let schema = take_map(&mut spec, "inputSchema").and_then(|mut schema| schema.remove("json"));
    members.extend(spec);
    ToolDefinition {
        name,
        description,
        schema,
        other: members,
    }
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
    if members.get("text").is_some_and(Value::is_string) {
        return Part::Text {
            text: take_text(&mut members, "text").unwrap_or_default(),
            other: members,
        };
    }
    for kind in ["image", "document", "video", "audio"] {
        if let Some(inner) = take_map(&mut members, kind) {
            let mut found = source(inner);
            found.other.extend(members);
            return match kind {
                "image" => Part::Image(found),
                "video" => Part::Video(found),
                "audio" => Part::Audio(found),
                _ => Part::Document(found),
            };
        }
    }
    if let Some(mut call) = take_map(&mut members, "toolUse") {
        let id = take_text(&mut call, "toolUseId");
        let name = take_text(&mut call, "name");
        let arguments = call.remove("input").map(written).unwrap_or_default();
        let by_provider = call.get("type").and_then(Value::as_str) == Some("server_tool_use");
        members.extend(call);
        return Part::ToolCall {
            id,
            name,
            arguments,
            by_provider,
            other: members,
        };
    }
    if let Some(mut result) = take_map(&mut members, "toolResult") {
        let id = take_text(&mut result, "toolUseId");
        let parts = parts_of(result.remove("content").unwrap_or_default(), block);
        let is_error = take_text(&mut result, "status").map(|status| status == "error");
        members.extend(result);
        return Part::ToolResult {
            id,
            name: None,
            parts,
            is_error,
            other: members,
        };
    }
    if let Some(mut reasoning) = take_map(&mut members, "reasoningContent") {
        let mut inner = take_map(&mut reasoning, "reasoningText").unwrap_or_default();
        let text = take_text(&mut inner, "text").unwrap_or_default();
        members.extend(reasoning);
        members.extend(inner);
        return Part::Reasoning {
            text,
            other: members,
        };
    }
    if let Some(mut cited) = take_map(&mut members, "citationsContent") {
        let text = take_array(&mut cited, "content")
            .iter()
            .filter_map(|part| part.get("text")?.as_str())
            .collect();
        members.extend(cited);
        return Part::Text {
            text,
            other: members,
        };
    }
    Part::Other {
        raw: Value::Object(members),
    }
}

fn source(mut members: Map<String, Value>) -> Media {
    let kind = take_text(&mut members, "format");
    let name = take_text(&mut members, "name");
    let mut source = take_map(&mut members, "source").unwrap_or_default();
    let mut found = match take_text(&mut source, "bytes") {
        Some(encoded) => media(kind, &encoded),
        None => Media {
            media_type: kind,
            url: take_map(&mut source, "s3Location").and_then(|mut s3| take_text(&mut s3, "uri")),
            ..Media::default()
        },
    };
    found.name = name;
    found.other = members;
    found.other.extend(source);
    found
}

/// Reads a response.
pub(crate) fn answered(operation: Operation, body: Value, answered: &mut Answered) {
    let Some(mut members) = super::members_of(body, answered) else {
        return;
    };
    if answered.error.is_none() && answered.status >= 400 {
        answered.error = ["message", "Message"]
            .iter()
            .find_map(|name| take_text(&mut members, name))
            .map(|message| ApiError {
                message: Some(message),
                ..ApiError::default()
            });
    }
    if operation == Operation::CountTokens {
        answered.counted_tokens = members.remove("inputTokens").as_ref().and_then(json::count);
    }
    take_usage(&mut members, "usage", USAGE, answered);
    answered.counts.input_excludes_cache = answered.usage.is_some();
    let reason = take_text(&mut members, "stopReason");
    let output = take_map(&mut members, "output")
        .and_then(|mut output| take_map(&mut output, "message"))
        .map(message);
    if output.is_some() || reason.is_some() {
        answered.messages.push(Message {
            finish_reason: reason,
            ..output.unwrap_or_default()
        });
    }
    answered.other = members;
}

/// Puts the events of an answer together.
#[derive(Debug, Default)]
pub(crate) struct ConverseAssembler {
    top: Map<String, Value>,
    role: Option<String>,
    blocks: BTreeMap<u64, Map<String, Value>>,
}

impl ConverseAssembler {
    /// Takes an event of the kind `kind`.
    pub(crate) fn take(&mut self, kind: &str, mut body: Map<String, Value>, room: &mut Room) {
        // Padding, which hides the length of what is said.
        body.remove("p");
        let index = body
            .remove("contentBlockIndex")
            .and_then(|index| index.as_u64())
            .unwrap_or(0);
        match kind {
            "messageStart" => self.role = take_text(&mut body, "role"),
            "contentBlockStart" | "contentBlockDelta" => {
                if self.blocks.len() >= CALLS_MAX && !self.blocks.contains_key(&index) {
                    room.cut = true;
                    return;
                }
                let block = self.blocks.entry(index).or_default();
                if let Some(start) = take_map(&mut body, "start") {
                    put_all(block, start, room);
                }
                for (name, value) in take_map(&mut body, "delta").unwrap_or_default() {
                    grow(block, &name, value, room);
                }
            }
            "messageStop" | "metadata" => put_all(&mut self.top, body, room),
            _ => {}
        }
    }

    /// An error in place of the rest.
    pub(crate) fn fail(&mut self, kind: &str, body: &Map<String, Value>) {
        let message = ["message", "Message"]
            .iter()
            .find_map(|name| body.get(*name).cloned());
        self.top.insert(
            "error".to_owned(),
            json!({ "type": kind, "message": message }),
        );
    }

    /// The whole answer.
    pub(crate) fn whole(self) -> Value {
        let mut top = self.top;
        if self.role.is_some() || !self.blocks.is_empty() {
            let content: Vec<Value> = self
                .blocks
                .into_values()
                .filter(|block| !block.is_empty())
                .map(Value::Object)
                .collect();
            let message = json!({ "role": self.role, "content": content });
            top.insert("output".to_owned(), json!({ "message": message }));
        }
        Value::Object(top)
    }
}

fn grow(block: &mut Map<String, Value>, name: &str, value: Value, room: &mut Room) {
    match (name, value) {
        ("text", Value::String(text)) => append(block, "text", &text, room),
        ("toolUse" | "toolResult", Value::Object(delta)) => {
            let into = block
                .entry(name)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(into) = into {
                for (name, value) in delta {
                    match value {
                        Value::String(text) => append(into, &name, &text, room),
                        value => {
                            put(into, name, value, room);
                        }
                    }
                }
            }
        }
        // The parts of a result that a tool of Amazon's own yields.
        ("toolResult", Value::Array(parts)) => {
            let into = block
                .entry(name)
                .or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(into) = into else {
                return;
            };
            let content = into
                .entry("content")
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(content) = content {
                for part in parts {
                    if room.take(weight(&part)) {
                        content.push(part);
                    }
                }
            }
        }
        ("reasoningContent", Value::Object(mut delta)) => {
            let into = block
                .entry(name)
                .or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(into) = into else {
                return;
            };
            for name in ["text", "signature"] {
                if let Some(text) = take_text(&mut delta, name) {
                    let inner = into
                        .entry("reasoningText")
                        .or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(inner) = inner {
                        append(inner, name, &text, room);
                    }
                }
            }
            put_all(into, delta, room);
        }
        ("citation", citation) => {
            let into = block
                .entry("citations")
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(into) = into
                && room.take(weight(&citation))
            {
                into.push(citation);
            }
        }
        (name, value) => {
            put(block, name, value, room);
        }
    }
}

impl Assembler for ConverseAssembler {
    fn ends(&self, event: &Event<'_>) -> bool {
        event.exception || event.name == "messageStop"
    }

    fn event(&mut self, event: &Event<'_>, room: &mut Room) -> bool {
        let Some(Value::Object(body)) = json::any(&event.data) else {
            return false;
        };
        if event.exception {
            self.fail(&event.name, &body);
        } else {
            self.take(&event.name, body, room);
        }
        true
    }

    fn finish(self: Box<Self>) -> Value {
        self.whole()
    }
}

/// A prompt as a message without a role.
pub(crate) fn prompt(text: String) -> Message {
    parted(vec![text_part(text)])
}
