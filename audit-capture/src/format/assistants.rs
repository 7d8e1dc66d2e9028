//! `OpenAI`'s threads, their messages, and the runs of assistants on them, which stream objects of several kinds.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::chat::{self, parted};
use super::{
    Assembler, Format, Room, append, number, parts_of, put, take_array, take_bool, take_map,
    take_parameters, take_text, take_usage, text_part,
};
use crate::api::Api;
use crate::exchange::{Answered, Asked, Message, Part};
use crate::framing::Event;
use crate::head::RequestHead;
use crate::json;
use crate::response::{ApiError, CALLS_MAX};

/// The format.
pub(crate) struct Threads;

impl Format for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn asked(&self, _: &Api, _: &RequestHead, mut members: Map<String, Value>, asked: &mut Asked) {
        asked.model = take_text(&mut members, "model");
        asked.stream = take_bool(&mut members, "stream").unwrap_or(false);
        take_parameters(&mut members, super::openai::PARAMETERS, asked);
        for name in ["instructions", "additional_instructions"] {
            if let Some(text) = take_text(&mut members, name) {
                asked.instructions.push(text_part(text));
            }
        }
        let mut messages = take_array(&mut members, "messages");
        messages.extend(take_array(&mut members, "additional_messages"));
        if let Some(Value::Object(thread)) = members.get_mut("thread") {
            messages.extend(take_array(thread, "messages"));
        }
        for message in messages {
            asked.messages.push(match message {
                Value::Object(members) => self::message(members),
                raw => parted(vec![Part::Other { raw }]),
            });
        }
        if members.contains_key("role") {
            let role = take_text(&mut members, "role");
            let parts = parts_of(members.remove("content").unwrap_or_default(), part);
            asked.messages.push(Message {
                role,
                ..parted(parts)
            });
        }
        for output in take_array(&mut members, "tool_outputs") {
            let Value::Object(mut output) = output else {
                continue;
            };
            asked.messages.push(parted(vec![Part::ToolResult {
                id: take_text(&mut output, "tool_call_id"),
                name: None,
                parts: parts_of(output.remove("output").unwrap_or_default(), part),
                is_error: None,
                other: output,
            }]));
        }
        asked.tools = chat::tools(&mut members);
        asked.other = members;
    }

    fn answered(&self, _: &Api, body: Value, answered: &mut Answered) {
        let Some(mut members) = super::members_of(body, answered) else {
            return;
        };
        let messages = take_array(&mut members, "stream_messages");
        let steps = take_array(&mut members, "stream_steps");
        let kind = members
            .get("object")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        answered.id = take_text(&mut members, "id");
        answered.model = take_text(&mut members, "model");
        take_usage(&mut members, "usage", chat::USAGE, answered);
        if answered.error.is_none()
            && let Some(mut last) = take_map(&mut members, "last_error")
        {
            answered.error = Some(ApiError {
                kind: None,
                code: take_text(&mut last, "code"),
                message: take_text(&mut last, "message"),
            });
        }
        let mut output = Message::default();
        if kind == "thread.message" {
            let given = message(std::mem::take(&mut members));
            members = given.other;
            output.role = given.role;
            output.parts = given.parts;
        }
        let (mut left_steps, mut left_messages) = (Vec::new(), Vec::new());
        for given in steps {
            if let Value::Object(mut step) = given {
                output.parts.extend(calls_of(&mut step));
                left_steps.push(Value::Object(step));
            }
        }
        for given in messages {
            if let Value::Object(given) = given {
                let given = message(given);
                output.role = output.role.or(given.role);
                output.parts.extend(given.parts);
                left_messages.push(Value::Object(given.other));
            }
        }
        for (name, left) in [("steps", left_steps), ("messages", left_messages)] {
            if !left.is_empty() {
                output.other.insert(name.to_owned(), Value::Array(left));
            }
        }
        if let Some(calls) = members.get("required_action").and_then(|action| {
            action
                .pointer("/submit_tool_outputs/tool_calls")?
                .as_array()
        }) {
            for call in calls.clone() {
                // The steps may have shown it already.
                let id = call.get("id").and_then(Value::as_str).map(str::to_owned);
                let known = output
                    .parts
                    .iter()
                    .any(|p| matches!(p, Part::ToolCall { id: old, .. } if *old == id));
                if let (Value::Object(call), false) = (call, known) {
                    output.parts.push(chat::call(call));
                }
            }
        }
        if kind == "thread.run" {
            output.finish_reason = members.get("status").and_then(number);
        }
        if output != Message::default() {
            answered.messages.push(output);
        }
        answered.other = members;
    }

    fn assembler(&self, _: &Api) -> Box<dyn Assembler> {
        Box::new(RunAssembler::default())
    }
}

fn message(mut members: Map<String, Value>) -> Message {
    Message {
        role: take_text(&mut members, "role"),
        parts: parts_of(members.remove("content").unwrap_or_default(), part),
        finish_reason: None,
        other: members,
    }
}

/// A text stands in an object of its own, beside its annotations.
fn part(mut members: Map<String, Value>) -> Part {
    if let Some(mut text) = take_map(&mut members, "text") {
        members.remove("type");
        members.remove("index");
        let value = take_text(&mut text, "value").unwrap_or_default();
        text.retain(|_, value| value.as_array().is_none_or(|a| !a.is_empty()));
        members.extend(text);
        return Part::Text {
            text: value,
            other: members,
        };
    }
    if let Some(mut file) = take_map(&mut members, "image_file") {
        members.remove("type");
        let file_id = take_text(&mut file, "file_id");
        members.extend(file);
        return Part::Image(crate::exchange::Media {
            file_id,
            other: members,
            ..crate::exchange::Media::default()
        });
    }
    chat::part(members)
}

/// The tool calls of a step: functions are carried out by the client, all else by the provider.
fn calls_of(step: &mut Map<String, Value>) -> Vec<Part> {
    let Some(Value::Object(details)) = step.get_mut("step_details") else {
        return Vec::new();
    };
    take_array(details, "tool_calls")
        .into_iter()
        .filter_map(|call| {
            let Value::Object(mut call) = call else {
                return None;
            };
            let kind = take_text(&mut call, "type")?;
            if kind == "function" {
                return Some(chat::call(call));
            }
            let mut inner = take_map(&mut call, &kind).unwrap_or_default();
            let id = take_text(&mut call, "id");
            let arguments = take_text(&mut inner, "input").unwrap_or_default();
            call.remove("index");
            call.extend(inner);
            Some(Part::ToolCall {
                id,
                name: Some(kind),
                arguments,
                by_provider: true,
                other: call,
            })
        })
        .collect()
}

/// Keeps the last state of the run, and of its messages and steps in the order in which they began.
#[derive(Debug, Default)]
struct RunAssembler {
    run: Map<String, Value>,
    order: Vec<String>,
    objects: BTreeMap<String, Map<String, Value>>,
}

impl Assembler for RunAssembler {
    fn ends(&self, event: &Event<'_>) -> bool {
        matches!(event.name.as_ref(), "done" | "error") || event.data.trim() == "[DONE]"
    }

    fn event(&mut self, event: &Event<'_>, room: &mut Room) -> bool {
        if event.data.trim() == "[DONE]" {
            return true;
        }
        let Some(Value::Object(mut body)) = json::any(&event.data) else {
            return false;
        };
        let kind = event.name.as_ref();
        if kind == "error" {
            self.run.insert("error".to_owned(), Value::Object(body));
            return true;
        }
        let id = body
            .get("id")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if kind.starts_with("thread.run.step") || kind.starts_with("thread.message") {
            if !self.objects.contains_key(&id) {
                if self.objects.len() >= CALLS_MAX || !room.take(id.len()) {
                    room.cut = true;
                    return true;
                }
                self.order.push(id.clone());
            }
            let object = self.objects.entry(id).or_default();
            match take_map(&mut body, "delta") {
                Some(delta) => grow(object, delta, room),
                None if room.take(event.data.len()) => {
                    *object = body;
                }
                None => {}
            }
        } else if kind.starts_with("thread.run") {
            self.run = body;
        } else if kind == "thread.created" {
            self.run.insert("thread".to_owned(), Value::Object(body));
        }
        true
    }

    fn finish(self: Box<Self>) -> Value {
        let (mut run, mut objects) = (self.run, self.objects);
        let (mut messages, mut steps) = (Vec::new(), Vec::new());
        for id in self.order {
            let Some(object) = objects.remove(&id) else {
                continue;
            };
            if object.contains_key("step_details") {
                steps.push(Value::Object(object));
            } else {
                messages.push(Value::Object(object));
            }
        }
        run.insert("stream_messages".to_owned(), json!(messages));
        run.insert("stream_steps".to_owned(), json!(steps));
        Value::Object(run)
    }
}

/// Adds a delta: texts grow, items of lists are found by their index.
fn grow(object: &mut Map<String, Value>, delta: Map<String, Value>, room: &mut Room) {
    for (name, value) in delta {
        match value {
            Value::Null => {}
            Value::String(text)
                if matches!(name.as_str(), "value" | "input" | "arguments" | "output") =>
            {
                append(object, &name, &text, room);
            }
            Value::Object(inner) => {
                let into = object
                    .entry(name)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(into) = into {
                    grow(into, inner, room);
                }
            }
            Value::Array(items) => {
                let into = object
                    .entry(name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(into) = into else {
                    continue;
                };
                for item in items {
                    let Value::Object(item) = item else {
                        continue;
                    };
                    let at = item
                        .get("index")
                        .and_then(Value::as_u64)
                        .and_then(|at| usize::try_from(at).ok())
                        .unwrap_or(into.len());
                    if at > into.len() || at >= CALLS_MAX {
                        room.cut = true;
                        continue;
                    }
                    if at == into.len() && room.take(64) {
                        into.push(Value::Object(Map::new()));
                    }
                    if let Some(Value::Object(old)) = into.get_mut(at) {
                        grow(old, item, room);
                    }
                }
            }
            value => {
                put(object, name, value, room);
            }
        }
    }
}
