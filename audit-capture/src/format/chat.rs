//! Chat completions in the common form, and legacy completions, embeddings and their like, which share its frame.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::parts::Place;
use super::{
    Assembler, Room, append, error, media, media_part, parts_of, put, take_array, take_bool,
    take_map, take_parameters, take_text, take_usage, text_part, url_media, weight,
};
use crate::api::Operation;
use crate::exchange::{Answered, Asked, Media, Message, Part, ToolDefinition};
use crate::framing::Event;
use crate::json;
use crate::response::{CALLS_MAX, CHOICES_MAX};

/// The counts of a usage object.
pub(crate) const USAGE: &[Place] = &[
    ("/prompt_cache_hit_tokens", |u| &mut u.cache_read),
    ("/cached_tokens", |u| &mut u.cache_read),
    ("/prompt_tokens", |u| &mut u.input),
    ("/input_tokens", |u| &mut u.input),
    ("/completion_tokens", |u| &mut u.output),
    ("/output_tokens", |u| &mut u.output),
    ("/total_tokens", |u| &mut u.total),
    ("/prompt_token_details/cached_tokens", |u| &mut u.cache_read),
    ("/prompt_tokens_details/cached_tokens", |u| {
        &mut u.cache_read
    }),
    ("/input_tokens_details/cached_tokens", |u| &mut u.cache_read),
    ("/prompt_tokens_details/cache_write_tokens", |u| {
        &mut u.cache_creation
    }),
    ("/input_tokens_details/cache_write_tokens", |u| {
        &mut u.cache_creation
    }),
    ("/completion_tokens_details/reasoning_tokens", |u| {
        &mut u.reasoning
    }),
    ("/output_tokens_details/reasoning_tokens", |u| {
        &mut u.reasoning
    }),
];

/// Reads a request of any operation in this frame.
pub(crate) fn asked(
    operation: Operation,
    mut members: Map<String, Value>,
    parameters: &[(&str, &str, super::Take)],
    asked: &mut Asked,
) {
    asked.model = take_text(&mut members, "model");
    asked.stream = take_bool(&mut members, "stream").unwrap_or(false);
    take_parameters(&mut members, parameters, asked);
    for message in take_array(&mut members, "messages") {
        asked.messages.push(match message {
            Value::Object(members) => self::message(members),
            raw => Message {
                parts: vec![Part::Other { raw }],
                ..Message::default()
            },
        });
    }
    asked.tools = tools(&mut members);
    for name in [
        "prompt", "input", "query", "image", "images", "file", "mask",
    ] {
        let embedding = !matches!(name, "prompt" | "query");
        let texts = match members.remove(name) {
            None | Some(Value::Null) => continue,
            // Tokens in place of a text.
            Some(Value::Array(items)) if !embedding && items.iter().any(|i| !i.is_string()) => {
                vec![Part::Other {
                    raw: Value::Array(items),
                }]
            }
            Some(content) => parts_of(content, part),
        };
        // Several texts are several inputs.
        if operation == Operation::Moderation {
            asked.messages.push(parted(texts));
        } else {
            asked
                .messages
                .extend(texts.into_iter().map(|part| parted(vec![part])));
        }
    }
    asked.other = members;
}

/// A message of which only its parts are known.
pub(crate) fn parted(parts: Vec<Part>) -> Message {
    Message {
        parts,
        ..Message::default()
    }
}

/// Tools in the form of chat completions, and plain functions.
pub(crate) fn tools(members: &mut Map<String, Value>) -> Vec<ToolDefinition> {
    let mut tools: Vec<_> = take_array(members, "tools").into_iter().map(tool).collect();
    tools.extend(take_array(members, "functions").into_iter().map(tool));
    tools
}

/// A tool: its function stands in a member, or beside its type, or there is none.
pub(crate) fn tool(value: Value) -> ToolDefinition {
    let mut members = match value {
        Value::Object(members) => members,
        raw => {
            return ToolDefinition {
                other: Map::from_iter([("raw".to_owned(), raw)]),
                ..ToolDefinition::default()
            };
        }
    };
    let kind = take_text(&mut members, "type");
    let nested = kind
        .as_deref()
        .and_then(|kind| take_map(&mut members, kind))
        .or_else(|| take_map(&mut members, "function"));
    if let Some(nested) = nested {
        for (name, value) in nested {
            members.entry(name).or_insert(value);
        }
    }
    let mut tool = ToolDefinition {
        name: take_text(&mut members, "name").or_else(|| kind.clone()),
        description: take_text(&mut members, "description"),
        schema: ["parameters", "input_schema", "parameter_definitions"]
            .iter()
            .find_map(|name| members.remove(*name))
            .filter(|schema| !schema.is_null()),
        other: members,
    };
    if let Some(kind) = kind.filter(|kind| kind != "function") {
        tool.other.insert("type".to_owned(), Value::from(kind));
    }
    tool
}

/// A message of a request or of a choice.
pub(crate) fn message(mut members: Map<String, Value>) -> Message {
    let role = take_text(&mut members, "role");
    let mut parts = Vec::new();
    for name in ["reasoning_content", "reasoning", "thinking"] {
        // Some servers give the same text under two names.
        if let Some(text) = take_text(&mut members, name)
            && !parts
                .iter()
                .any(|p| matches!(p, Part::Reasoning { text: old, .. } if *old == text))
        {
            parts.push(Part::Reasoning {
                text,
                other: Map::new(),
            });
        }
    }
    if let Some(text) = take_text(&mut members, "tool_plan") {
        parts.push(Part::Reasoning {
            text,
            other: Map::from_iter([("type".to_owned(), Value::from("tool_plan"))]),
        });
    }
    let content = members.remove("content").unwrap_or_default();
    let content = parts_of(content, part);
    let by_role = matches!(role.as_deref(), Some("tool" | "function"));
    if by_role || members.contains_key("tool_call_id") {
        parts.push(Part::ToolResult {
            id: take_text(&mut members, "tool_call_id"),
            name: take_text(&mut members, "name").or_else(|| take_text(&mut members, "tool_name")),
            parts: content,
            is_error: None,
            other: Map::new(),
        });
    } else {
        parts.extend(
            content
                .into_iter()
                .filter(|part| !matches!(part, Part::Text { text, .. } if text.is_empty())),
        );
    }
    for image in take_array(&mut members, "images") {
        parts.push(image_item(image));
    }
    if let Some(text) = take_text(&mut members, "refusal") {
        parts.push(Part::Refusal { text });
    }
    if let Some(audio) = take_map(&mut members, "audio") {
        parts.push(audio_part(audio));
    }
    for call in take_array(&mut members, "tool_calls") {
        parts.push(match call {
            Value::Object(call) => self::call(call),
            raw => Part::Other { raw },
        });
    }
    if let Some(function) = take_map(&mut members, "function_call") {
        let call = Map::from_iter([("function".to_owned(), Value::Object(function))]);
        parts.push(self::call(call));
    }
    members.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|a| !a.is_empty()));
    Message {
        role,
        parts,
        finish_reason: None,
        other: members,
    }
}

fn image_item(image: Value) -> Part {
    match image {
        // Ollama: base64 without more.
        Value::String(encoded) => Part::Image(media(None, &encoded)),
        Value::Object(members) => part(members),
        raw => Part::Other { raw },
    }
}

fn audio_part(mut members: Map<String, Value>) -> Part {
    let mut audio = match take_text(&mut members, "data") {
        Some(data) => media(take_text(&mut members, "format"), &data),
        None => Media::default(),
    };
    audio.file_id = take_text(&mut members, "id");
    audio.other = members;
    Part::Audio(audio)
}

/// A tool call.
pub(crate) fn call(mut members: Map<String, Value>) -> Part {
    let id = take_text(&mut members, "id");
    if members.get("type").and_then(Value::as_str) == Some("function") {
        members.remove("type");
    }
    members.remove("index");
    let mut function = take_map(&mut members, "function")
        .or_else(|| take_map(&mut members, "custom"))
        .unwrap_or_default();
    let name = take_text(&mut function, "name");
    let arguments = ["arguments", "input"]
        .iter()
        .find_map(|name| function.remove(*name))
        .map(written)
        .unwrap_or_default();
    function.remove("index");
    for (name, value) in function {
        members.entry(name).or_insert(value);
    }
    members.retain(|_, value| !value.is_null());
    Part::ToolCall {
        id,
        name,
        arguments,
        by_provider: false,
        other: members,
    }
}

/// Arguments as text.
pub(crate) fn written(arguments: Value) -> String {
    match arguments {
        Value::String(text) => text,
        Value::Null => String::new(),
        object => object.to_string(),
    }
}

/// A part of a message's content.
pub(crate) fn part(mut members: Map<String, Value>) -> Part {
    let kind = members
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let whole = |members| Part::Other {
        raw: Value::Object(members),
    };
    match kind.as_str() {
        "text" | "input_text" | "output_text"
            if members.get("text").is_some_and(Value::is_string) =>
        {
            members.remove("type");
            Part::Text {
                text: take_text(&mut members, "text").unwrap_or_default(),
                other: kept(members),
            }
        }
        "refusal" if members.get("refusal").is_some_and(Value::is_string) => Part::Refusal {
            text: take_text(&mut members, "refusal").unwrap_or_default(),
        },
        "thinking" => {
            members.remove("type");
            let text = match members.remove("thinking") {
                Some(Value::String(text)) => text,
                // Mistral's thinking is made of parts.
                Some(Value::Array(items)) => items
                    .iter()
                    .filter_map(|item| item.get("text")?.as_str())
                    .collect(),
                _ => String::new(),
            };
            Part::Reasoning {
                text,
                other: kept(members),
            }
        }
        "image_url" | "input_image" | "image" | "video_url" | "document_url" => {
            members.remove("type");
            let mut found = match members.remove("image_url").or_else(|| {
                ["url", "video_url", "document_url", "image"]
                    .iter()
                    .find_map(|name| members.remove(*name))
            }) {
                Some(Value::String(url)) => url_media(url),
                Some(Value::Object(mut inner)) => {
                    let mut found = take_text(&mut inner, "url")
                        .map(url_media)
                        .unwrap_or_default();
                    found.other = inner;
                    found
                }
                _ => Media::default(),
            };
            found.file_id = take_text(&mut members, "file_id");
            found.other.extend(kept(members));
            match kind.as_str() {
                "video_url" => Part::Video(found),
                "document_url" => Part::Document(found),
                _ => Part::Image(found),
            }
        }
        "input_audio" => match members.remove("input_audio") {
            Some(Value::Object(inner)) => {
                members.remove("type");
                match audio_part(inner) {
                    Part::Audio(mut audio) => {
                        audio.other.extend(kept(members));
                        Part::Audio(audio)
                    }
                    other => other,
                }
            }
            Some(Value::String(data)) => Part::Audio(media(None, &data)),
            _ => whole(members),
        },
        "file" | "input_file" => {
            members.remove("type");
            let mut inner = take_map(&mut members, "file").unwrap_or_default();
            inner.extend(members);
            let mut found = ["file_data", "file_url"]
                .iter()
                .find_map(|name| take_text(&mut inner, name))
                .map(file_media)
                .unwrap_or_default();
            found.file_id = take_text(&mut inner, "file_id");
            found.name = take_text(&mut inner, "filename");
            found.other = kept(inner);
            Part::Document(found)
        }
        // A file of a form.
        "" if members.contains_key("bytes") && members.contains_key("media_type") => {
            media_part(Media {
                bytes: members.get("bytes").and_then(Value::as_u64),
                media_type: take_text(&mut members, "media_type"),
                name: take_text(&mut members, "file"),
                ..Media::default()
            })
        }
        _ => whole(members),
    }
}

/// A file's data: a URL, or base64 alone.
fn file_media(text: String) -> Media {
    if text.contains(':') {
        url_media(text)
    } else {
        media(None, &text)
    }
}

/// What is left of a part: nothing empty.
fn kept(mut members: Map<String, Value>) -> Map<String, Value> {
    members.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|a| !a.is_empty()));
    members
}

/// Reads a response of any operation in this frame.
pub(crate) fn answered(operation: Operation, body: Value, answered: &mut Answered) {
    let Some(mut members) = super::members_of(body, answered) else {
        return;
    };
    answered.id = take_text(&mut members, "id");
    answered.model = take_text(&mut members, "model");
    // Older streams of Groq have it there alone.
    if let Some(usage) = members
        .get("x_groq")
        .and_then(|groq| groq.get("usage"))
        .filter(|_| !members.contains_key("usage"))
        .cloned()
    {
        members.insert("usage".to_owned(), usage);
    }
    take_usage(&mut members, "usage", USAGE, answered);
    if operation == Operation::CountTokens {
        answered.counted_tokens = members.get("input_tokens").and_then(json::count);
    }
    for choice in take_array(&mut members, "choices") {
        answered.messages.push(match choice {
            Value::Object(choice) => self::choice(choice),
            raw => parted(vec![Part::Other { raw }]),
        });
    }
    match operation {
        Operation::Transcription => {
            if let Some(text) = take_text(&mut members, "text") {
                answered.messages.push(parted(vec![text_part(text)]));
            }
        }
        Operation::Images => {
            let images: Vec<Part> = take_array(&mut members, "data")
                .into_iter()
                .map(|image| match image {
                    Value::Object(mut image) => {
                        let mut found = take_text(&mut image, "url")
                            .map(url_media)
                            .unwrap_or_default();
                        found.media_type = take_text(&mut image, "mime_type").or(found.media_type);
                        found.other = kept(image);
                        Part::Image(found)
                    }
                    raw => Part::Other { raw },
                })
                .collect();
            if !images.is_empty() {
                answered.messages.push(parted(images));
            }
        }
        _ => {}
    }
    answered.other = members;
}

fn choice(mut members: Map<String, Value>) -> Message {
    let mut message = ["message", "delta"]
        .iter()
        .find_map(|name| take_map(&mut members, name))
        .map(message)
        .unwrap_or_default();
    if let Some(text) = take_text(&mut members, "text") {
        message.parts.push(text_part(text));
    }
    message.finish_reason = take_text(&mut members, "finish_reason");
    members.retain(|name, value| name != "index" && !value.is_null());
    for (name, value) in members {
        message.other.entry(name).or_insert(value);
    }
    message
}

/// Puts chunks together.
#[derive(Debug, Default)]
pub(crate) struct ChatAssembler {
    top: Map<String, Value>,
    choices: BTreeMap<u64, Map<String, Value>>,
}

impl ChatAssembler {
    /// The members beside the choices.
    pub(crate) fn top(&mut self) -> &mut Map<String, Value> {
        &mut self.top
    }
}

/// Whether an event ends a stream of chunks.
pub(crate) fn ends(event: &Event<'_>) -> bool {
    event.data.trim() == "[DONE]"
        || event.name == "error"
        || (event.data.contains("\"error\"")
            && json::any(&event.data).is_some_and(|body| error(&body).is_some()))
}

impl Assembler for ChatAssembler {
    fn ends(&self, event: &Event<'_>) -> bool {
        ends(event)
    }

    fn event(&mut self, event: &Event<'_>, room: &mut Room) -> bool {
        if event.data.trim() == "[DONE]" {
            return true;
        }
        let Some(Value::Object(mut chunk)) = json::any(&event.data) else {
            return false;
        };
        for given in take_array(&mut chunk, "choices") {
            let Value::Object(given) = given else {
                continue;
            };
            let index = given.get("index").and_then(Value::as_u64).unwrap_or(0);
            if self.choices.len() >= CHOICES_MAX && !self.choices.contains_key(&index) {
                room.cut = true;
                continue;
            }
            let choice = self.choices.entry(index).or_default();
            let in_delta = given.get("delta").is_some_and(Value::is_object);
            for (name, value) in given {
                match (name.as_str(), value) {
                    (_, Value::Null) => {}
                    // Together says a chat's text there too.
                    ("text", _) if in_delta => {}
                    ("delta" | "message", Value::Object(delta)) => {
                        let message = choice
                            .entry("message")
                            .or_insert_with(|| Value::Object(Map::new()));
                        if let Value::Object(message) = message {
                            merge(message, delta, room);
                        }
                    }
                    ("text", Value::String(text)) => append(choice, "text", &text, room),
                    (_, value) => {
                        put(choice, name, value, room);
                    }
                }
            }
        }
        for (name, value) in chunk {
            if !value.is_null() {
                put(&mut self.top, name, value, room);
            }
        }
        true
    }

    fn finish(self: Box<Self>) -> Value {
        let mut top = self.top;
        if !self.choices.is_empty() {
            let choices = self.choices.into_values().map(Value::Object).collect();
            top.insert("choices".to_owned(), Value::Array(choices));
        }
        Value::Object(top)
    }
}

/// Texts that grow from delta to delta; other texts are said once, or again.
const GROWING: [&str; 5] = [
    "content",
    "reasoning_content",
    "reasoning",
    "refusal",
    "thinking",
];

/// Adds a delta to a message.
pub(crate) fn merge(message: &mut Map<String, Value>, delta: Map<String, Value>, room: &mut Room) {
    for (name, value) in delta {
        match value {
            Value::Null => {}
            Value::String(text) if GROWING.contains(&name.as_str()) => {
                match message.get_mut(&name) {
                    Some(Value::Array(parts)) => {
                        let part = Map::from_iter([
                            ("type".to_owned(), Value::from("text")),
                            ("text".to_owned(), Value::from(text)),
                        ]);
                        add_part(parts, Value::Object(part), room);
                    }
                    _ => append(message, &name, &text, room),
                }
            }
            Value::Array(items) if name == "tool_calls" => {
                let calls = message
                    .entry(name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(calls) = calls {
                    for item in items {
                        merge_call(calls, item, room);
                    }
                }
            }
            Value::Array(items) => {
                let before = match message.remove(&name) {
                    Some(Value::String(text)) if !text.is_empty() => {
                        vec![serde_json::json!({ "type": "text", "text": text })]
                    }
                    Some(Value::Array(parts)) => parts,
                    _ => Vec::new(),
                };
                let mut parts = before;
                for item in items {
                    add_part(&mut parts, item, room);
                }
                message.insert(name, Value::Array(parts));
            }
            Value::Object(inner) if matches!(name.as_str(), "function_call" | "audio") => {
                let into = message
                    .entry(name)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(into) = into {
                    for (name, value) in inner {
                        match value {
                            Value::String(text)
                                if matches!(name.as_str(), "arguments" | "data" | "transcript") =>
                            {
                                append(into, &name, &text, room);
                            }
                            Value::Null => {}
                            value => {
                                if !into.contains_key(&name) {
                                    put(into, name, value, room);
                                }
                            }
                        }
                    }
                }
            }
            value => {
                put(message, name, value, room);
            }
        }
    }
}

/// Members of a part that grow from delta to delta.
const GROWING_IN_PARTS: [&str; 5] = ["text", "summary", "thinking", "data", "signature"];

/// Whether a part continues the last one: a text of it grows, and it says nothing else that is new.
fn continues(last: &Map<String, Value>, new: &Map<String, Value>) -> bool {
    let grows = |name: &str, value: &Value| {
        GROWING_IN_PARTS.contains(&name)
            && last
                .get(name)
                .is_none_or(|old| core::mem::discriminant(old) == core::mem::discriminant(value))
            && (value.is_string() || value.is_array())
    };
    new.contains_key("type")
        && new.iter().any(|(name, value)| grows(name, value))
        && new.iter().all(|(name, value)| {
            grows(name, value)
                || value.is_null()
                || last
                    .get(name)
                    .is_none_or(|old| old == value || old.is_null())
        })
}

/// Adds a part of a content, or joins it to the last one if it continues that.
fn add_part(parts: &mut Vec<Value>, part: Value, room: &mut Room) {
    match (parts.last_mut(), part) {
        (Some(Value::Object(last)), Value::Object(new)) if continues(last, &new) => {
            for (name, value) in new {
                match value {
                    Value::String(text) if GROWING_IN_PARTS.contains(&name.as_str()) => {
                        append(last, &name, &text, room);
                    }
                    Value::Array(items) if GROWING_IN_PARTS.contains(&name.as_str()) => {
                        let old = last.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                        if let Value::Array(old) = old {
                            for item in items {
                                add_part(old, item, room);
                            }
                        }
                    }
                    Value::Null => {}
                    value => put(last, name, value, room),
                }
            }
        }
        (_, part) => {
            if room.take(weight(&part)) {
                parts.push(part);
            }
        }
    }
}

fn merge_call(calls: &mut Vec<Value>, given: Value, room: &mut Room) {
    let Value::Object(mut given) = given else {
        return;
    };
    let index = given.get("index").cloned().filter(|i| !i.is_null());
    let id = given
        .get("id")
        .cloned()
        .filter(|i| i.as_str().is_some_and(|i| !i.is_empty()));
    let same = match &index {
        Some(index) => calls.iter().position(|c| c.get("index") == Some(index)),
        // Without an index a new id starts a new call.
        None => calls
            .len()
            .checked_sub(1)
            .filter(|at| id.is_none() || calls.get(*at).and_then(|c| c.get("id")) == id.as_ref()),
    };
    let Some(Value::Object(call)) = same.and_then(|at| calls.get_mut(at)) else {
        if calls.len() >= CALLS_MAX || !room.take(given.values().map(weight).sum()) {
            room.cut = true;
        } else {
            calls.push(Value::Object(given));
        }
        return;
    };
    for part in ["function", "custom"] {
        let Some(new) = take_map(&mut given, part) else {
            continue;
        };
        let old = call
            .entry(part)
            .or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(old) = old else {
            continue;
        };
        for (name, value) in new {
            match value {
                Value::String(text) if matches!(name.as_str(), "arguments" | "input") => {
                    append(old, &name, &text, room);
                }
                Value::Null => {}
                Value::Object(_) => {
                    append(old, &name, &value.to_string(), room);
                }
                value => {
                    if old.get(&name).is_none_or(|v| v.is_null() || v == "") {
                        put(old, name, value, room);
                    }
                }
            }
        }
    }
    for (name, value) in given {
        if !value.is_null() && call.get(&name).is_none_or(|v| v.is_null() || v == "") {
            put(call, name, value, room);
        }
    }
}
