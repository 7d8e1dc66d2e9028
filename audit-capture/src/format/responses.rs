//! `OpenAI`'s responses in the common form.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::chat::{self, parted, written};
use super::{
    Assembler, Room, append, parts_of, take_array, take_bool, take_parameters, take_text,
    take_usage,
};
use crate::exchange::{Answered, Asked, Message, Part};
use crate::framing::Event;
use crate::json;
use crate::response::CALLS_MAX;

/// Reads a request.
pub(crate) fn asked(
    mut members: Map<String, Value>,
    parameters: &[(&str, &str, super::Take)],
    asked: &mut Asked,
) {
    asked.model = take_text(&mut members, "model");
    asked.stream = take_bool(&mut members, "stream").unwrap_or(false);
    take_parameters(&mut members, parameters, asked);
    asked.previous_response = take_text(&mut members, "previous_response_id");
    asked.conversation = take_text(&mut members, "conversation").or_else(|| {
        let mut conversation = super::take_map(&mut members, "conversation")?;
        take_text(&mut conversation, "id")
    });
    match members.remove("instructions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(items)) => {
            asked.instructions = items.into_iter().flat_map(|i| item(i).parts).collect();
        }
        Some(text) => asked.instructions = parts_of(text, part),
    }
    match members.remove("input") {
        None | Some(Value::Null) => {}
        Some(Value::Array(items)) => asked.messages = items.into_iter().map(item).collect(),
        Some(content) => {
            asked.messages.push(Message {
                role: Some("user".to_owned()),
                ..parted(parts_of(content, part))
            });
        }
    }
    asked.tools = chat::tools(&mut members);
    asked.other = members;
}

/// A part of a message's content.
fn part(members: Map<String, Value>) -> Part {
    match members.get("type").and_then(Value::as_str) {
        Some("reasoning_text" | "summary_text") => {
            let mut members = members;
            members.remove("type");
            Part::Reasoning {
                text: take_text(&mut members, "text").unwrap_or_default(),
                other: members,
            }
        }
        _ => chat::part(members),
    }
}

/// An item of the input or the output.
fn item(value: Value) -> Message {
    let mut members = match value {
        Value::Object(members) => members,
        raw => return parted(vec![Part::Other { raw }]),
    };
    let kind = members
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if let Some(tool) = kind.strip_suffix("_call") {
        let (name, arguments, client) = call_of(tool, &members);
        let id = take_text(&mut members, "call_id").or_else(|| take_text(&mut members, "id"));
        members.remove("name");
        if let Some((member, _)) = &arguments {
            members.remove(*member);
        }
        if tool == "function" {
            members.remove("type");
        }
        return parted(vec![Part::ToolCall {
            id,
            name,
            arguments: arguments.map(|(_, text)| text).unwrap_or_default(),
            by_provider: !client,
            other: members,
        }]);
    }
    if kind.ends_with("_call_output") {
        if kind == "function_call_output" {
            members.remove("type");
        }
        let output = members.remove("output").unwrap_or_default();
        return parted(vec![Part::ToolResult {
            id: take_text(&mut members, "call_id"),
            name: None,
            parts: parts_of(output, part),
            is_error: None,
            other: members,
        }]);
    }
    if kind == "reasoning" {
        members.remove("type");
        let mut parts: Vec<Part> = Vec::new();
        for name in ["summary", "content"] {
            parts.extend(parts_of(members.remove(name).unwrap_or_default(), part));
        }
        members.retain(|_, value| !value.is_null());
        match parts.first_mut() {
            Some(Part::Reasoning { other, .. }) => other.extend(members),
            _ => parts.insert(
                0,
                Part::Reasoning {
                    text: String::new(),
                    other: members,
                },
            ),
        }
        return parted(parts);
    }
    if !matches!(kind.as_str(), "" | "message") || !members.contains_key("content") {
        return parted(vec![Part::Other {
            raw: Value::Object(members),
        }]);
    }
    members.remove("type");
    Message {
        role: take_text(&mut members, "role"),
        parts: parts_of(members.remove("content").unwrap_or_default(), part),
        finish_reason: None,
        other: members,
    }
}

/// The name of a call's tool, its arguments with the member where they stand, and whether the client carries it out.
pub(crate) fn call_of(
    tool: &str,
    members: &Map<String, Value>,
) -> (Option<String>, Option<(&'static str, String)>, bool) {
    // These are carried out by the client; every other `…_call` by OpenAI itself.
    let client = matches!(
        tool,
        "function" | "custom_tool" | "computer" | "local_shell" | "shell" | "apply_patch"
    );
    let arguments = [
        "arguments",
        "input",
        "action",
        "operation",
        "code",
        "queries",
    ]
    .into_iter()
    .find_map(|name| match members.get(name)? {
        Value::Null => None,
        value => Some((name, written(value.clone()))),
    });
    let name = members
        .get("name")
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty())
        .unwrap_or(tool);
    (Some(name.to_owned()), arguments, client)
}

/// Reads a response object.
pub(crate) fn answered(body: Value, answered: &mut Answered) {
    let Some(mut members) = super::members_of(body, answered) else {
        return;
    };
    answered.id = take_text(&mut members, "id");
    answered.model = take_text(&mut members, "model");
    take_usage(&mut members, "usage", chat::USAGE, answered);
    // `incomplete_details.reason` says why; else the status is all there is.
    let reason = members
        .get("incomplete_details")
        .and_then(|details| details.get("reason")?.as_str().map(str::to_owned))
        .or_else(|| members.get("status")?.as_str().map(str::to_owned));
    let mut output = Message {
        finish_reason: reason,
        ..Message::default()
    };
    for given in take_array(&mut members, "output") {
        let mut message = item(given);
        output.role = output.role.take().or(message.role);
        message.other.retain(|_, value| !value.is_null());
        // What stands beside a message's content goes with its first part.
        if !message.other.is_empty() {
            let item = Value::Object(message.other);
            if let Some(Part::Text { other, .. }) = message.parts.first_mut() {
                other.insert("item".to_owned(), item);
            } else {
                let items = output
                    .other
                    .entry("items")
                    .or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = items {
                    items.push(item);
                }
            }
        }
        output.parts.extend(message.parts);
    }
    if output != Message::default() {
        answered.messages.push(output);
    }
    answered.other = members;
}

const ENDS: [&str; 4] = [
    "response.completed",
    "response.failed",
    "response.incomplete",
    "error",
];

fn kind(event: &Event<'_>, body: &Map<String, Value>) -> String {
    body.get("type")
        .and_then(Value::as_str)
        .map_or_else(|| event.name.to_string(), str::to_owned)
}

/// The last event repeats the whole response; what came before serves when that one is missing or empty.
#[derive(Debug, Default)]
pub(crate) struct ResponsesAssembler {
    response: Map<String, Value>,
    items: BTreeMap<u64, Map<String, Value>>,
}

impl Assembler for ResponsesAssembler {
    fn ends(&self, event: &Event<'_>) -> bool {
        ENDS.contains(&event.name.as_ref())
            || event.data.trim() == "[DONE]"
            || (ENDS.iter().any(|end| event.data.contains(end))
                && json::any(&event.data)
                    .and_then(|body| Some(kind(event, body.as_object()?)))
                    .is_some_and(|kind| ENDS.contains(&kind.as_str())))
    }

    fn event(&mut self, event: &Event<'_>, room: &mut Room) -> bool {
        if event.data.trim() == "[DONE]" {
            return true;
        }
        let Some(Value::Object(mut body)) = json::any(&event.data) else {
            return false;
        };
        let kind = kind(event, &body);
        if let Some(Value::Object(response)) = body.remove("response") {
            for (name, value) in response {
                self.response.insert(name, value);
            }
            return true;
        }
        if kind == "error" {
            let error = match body.remove("error") {
                Some(error @ Value::Object(_)) => error,
                _ => Value::Object(body),
            };
            self.response.insert("error".to_owned(), error);
            return true;
        }
        let index = |name: &str| body.get(name).and_then(Value::as_u64);
        let Some(at) = index("output_index") else {
            return true;
        };
        if self.items.len() >= CALLS_MAX && !self.items.contains_key(&at) {
            room.cut = true;
            return true;
        }
        let (content, summary) = (index("content_index"), index("summary_index"));
        let delta = body
            .get("delta")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let item = self.items.entry(at).or_default();
        match kind.as_str() {
            "response.output_item.added" | "response.output_item.done" => {
                if let Some(Value::Object(given)) = body.remove("item") {
                    *item = given;
                }
            }
            "response.output_text.delta" => {
                grow(item, "content", content, "output_text", "text", delta, room);
            }
            "response.refusal.delta" => {
                grow(item, "content", content, "refusal", "refusal", delta, room);
            }
            "response.reasoning_text.delta" => {
                grow(
                    item,
                    "content",
                    content,
                    "reasoning_text",
                    "text",
                    delta,
                    room,
                );
            }
            "response.reasoning_summary_text.delta" => {
                grow(
                    item,
                    "summary",
                    summary,
                    "summary_text",
                    "text",
                    delta,
                    room,
                );
            }
            "response.function_call_arguments.delta" | "response.mcp_call_arguments.delta" => {
                append(item, "arguments", delta, room);
            }
            "response.custom_tool_call_input.delta" => append(item, "input", delta, room),
            "response.code_interpreter_call_code.delta" => append(item, "code", delta, room),
            _ => {}
        }
        true
    }

    fn finish(self: Box<Self>) -> Value {
        let mut response = self.response;
        let items: Vec<Value> = self
            .items
            .into_values()
            .filter(|item| !item.is_empty())
            .map(Value::Object)
            .collect();
        let empty = response
            .get("output")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty);
        if empty && !items.is_empty() {
            response.insert("output".to_owned(), Value::Array(items));
        }
        Value::Object(response)
    }
}

/// Appends to a text of the part at `index` of an item's `list`.
fn grow(
    item: &mut Map<String, Value>,
    list: &str,
    index: Option<u64>,
    kind: &str,
    member: &str,
    delta: &str,
    room: &mut Room,
) {
    let parts = item.entry(list).or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(parts) = parts else {
        return;
    };
    let Ok(index) = usize::try_from(index.unwrap_or(0)) else {
        return;
    };
    if index > parts.len() || index >= CALLS_MAX {
        room.cut = true;
        return;
    }
    if index == parts.len() {
        parts.push(serde_json::json!({ "type": kind }));
    }
    if let Some(Value::Object(part)) = parts.get_mut(index) {
        append(part, member, delta, room);
    }
}
