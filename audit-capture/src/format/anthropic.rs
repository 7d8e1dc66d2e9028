//! Anthropic's facts: messages, counting tokens, and legacy completions.
//!
//! Anthropic's `input_tokens` leaves out what was read from or written to the cache.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::gemini::path_model;
use super::{Assembler, Format, Stream, Take, content_text, error, messages, parameters};
use crate::api::{Api, Operation};
use crate::exchange::{Answered, Asked};
use crate::framing::Event;
use crate::head::RequestHead;
use crate::json;
use crate::request::{RequestFacts, ToolResult};
use crate::response::{CALLS_MAX, ResponseFacts, Room, ToolCall, ToolSide};

/// The format.
pub(crate) struct Anthropic;

pub(crate) const PARAMETERS: &[(&str, &str, Take)] = &[
    ("/max_tokens", "gen_ai.request.max_tokens", Take::Count),
    (
        "/max_tokens_to_sample",
        "gen_ai.request.max_tokens",
        Take::Count,
    ),
    ("/temperature", "gen_ai.request.temperature", Take::Number),
    ("/top_p", "gen_ai.request.top_p", Take::Number),
    ("/top_k", "gen_ai.request.top_k", Take::Number),
    (
        "/stop_sequences",
        "gen_ai.request.stop_sequences",
        Take::Texts,
    ),
    (
        "/output_config/effort",
        "gen_ai.request.reasoning.level",
        Take::Text,
    ),
    (
        "/thinking/budget_tokens",
        "audit.request.thinking_budget_tokens",
        Take::Count,
    ),
    ("/tool_choice/type", "audit.request.tool_choice", Take::Text),
    ("/service_tier", "audit.request.service_tier", Take::Text),
];

impl Format for Anthropic {
    fn name(&self) -> &'static str {
        "anthropic"
    }

    fn request(&self, _: &Api, head: &RequestHead, body: &Value, facts: &mut RequestFacts) {
        facts.model = json::string(body, "model");
        facts.stream = body.get("stream").and_then(Value::as_bool) == Some(true);
        if let Some((model, method)) = vertex(head) {
            facts.model = Some(model);
            facts.stream |= method == "streamRawPredict";
        }
        parameters(body, PARAMETERS, facts);
        if let Some(messages) = body.get("messages").and_then(Value::as_array) {
            facts.messages = Some(messages.len() as u64);
        }
        if let Some(tools) = body.get("tools").and_then(Value::as_array) {
            facts.tools = Some(tools.len() as u64);
        }
        facts.system = body.get("system").is_some_and(|s| !s.is_null());
        let mut results = Vec::new();
        for message in json::items(body, "messages") {
            if message.get("role").and_then(Value::as_str) == Some("assistant") {
                ToolResult::age(&mut results);
            }
            for block in json::items(message, "content") {
                if block.get("type").and_then(Value::as_str) == Some("tool_result")
                    && let Some(id) = json::string(block, "tool_use_id")
                {
                    results.push(ToolResult::new(id));
                }
            }
        }
        facts.tool_results = results;
    }

    fn response(&self, api: &Api, body: &Value, text: &[u8], facts: &mut ResponseFacts) {
        match api.operation {
            Operation::CountTokens => {
                facts.counted_tokens = body.get("input_tokens").and_then(json::count);
                facts.error = error(body);
            }
            Operation::TextCompletion => {
                facts.id = json::string(body, "id");
                facts.model = json::string(body, "model");
                facts.texts.extend(
                    body.get("completion")
                        .and_then(Value::as_str)
                        .map(str::to_owned),
                );
                facts
                    .finish_reasons
                    .extend(json::string(body, "stop_reason"));
                facts.error = error(body);
            }
            _ => {
                head(body, facts);
                facts.error = error(body);
                facts
                    .finish_reasons
                    .extend(json::string(body, "stop_reason"));
                if let Some(content) = body.get("content") {
                    facts.texts.push(content_text(content, &["text"]));
                }
                let inputs = raw_inputs(text);
                for (at, block) in json::items(body, "content").iter().enumerate() {
                    if let Some(mut call) = tool_call(block)
                        && facts.tool_calls.len() < CALLS_MAX
                    {
                        if let Some(raw) = inputs.get(at).cloned().flatten() {
                            call.arguments = raw;
                        }
                        facts.tool_calls.push(call);
                    }
                }
            }
        }
    }

    fn stream(&self, api: &Api) -> Box<dyn Stream> {
        match api.operation {
            Operation::TextCompletion => Box::new(CompleteStream::default()),
            _ => Box::new(MessageStream::default()),
        }
    }

    fn asked(&self, _: &Api, head: &RequestHead, members: Map<String, Value>, asked: &mut Asked) {
        messages::asked(members, PARAMETERS, asked);
        if let Some((model, method)) = vertex(head) {
            asked.model = Some(model);
            asked.stream |= method == "streamRawPredict";
        }
    }

    fn answered(&self, api: &Api, body: Value, answered: &mut Answered) {
        messages::answered(api.operation, body, answered);
    }

    fn assembler(&self, _: &Api) -> Box<dyn Assembler> {
        Box::new(messages::MessageAssembler::default())
    }
}

/// Vertex AI has the model and the method in the path.
fn vertex(head: &RequestHead) -> Option<(String, String)> {
    path_model(head)
        .filter(|(model, method)| method.ends_with("awPredict") && model != "count-tokens")
}

fn head(message: &Value, facts: &mut ResponseFacts) {
    if let Some(id) = json::string(message, "id") {
        facts.id = Some(id);
    }
    if let Some(model) = json::string(message, "model") {
        facts.model = Some(model);
    }
    if let Some(usage) = message.get("usage") {
        read_usage(usage, facts);
    }
}

/// Counts in later events replace earlier ones; they are cumulative.
fn read_usage(usage: &Value, facts: &mut ResponseFacts) {
    let of = &mut facts.usage;
    of.input_excludes_cache = true;
    for (at, count) in [
        ("/input_tokens", &mut of.input),
        ("/output_tokens", &mut of.output),
        ("/cache_read_input_tokens", &mut of.cache_read),
        ("/cache_creation_input_tokens", &mut of.cache_creation),
        ("/output_tokens_details/thinking_tokens", &mut of.reasoning),
    ] {
        if let Some(given) = usage.pointer(at).and_then(json::count) {
            *count = Some(given);
        }
    }
}

fn tool_call(block: &Value) -> Option<ToolCall> {
    let side = match block.get("type").and_then(Value::as_str)? {
        "tool_use" => ToolSide::Client,
        "server_tool_use" | "mcp_tool_use" => ToolSide::Provider,
        _ => return None,
    };
    Some(ToolCall {
        id: json::string(block, "id"),
        name: json::string(block, "name"),
        arguments: block.get("input").map(Value::to_string).unwrap_or_default(),
        side,
    })
}

/// The `input` of each content block as it was written, so that arguments keep their order and their numbers.
fn raw_inputs(text: &[u8]) -> Vec<Option<String>> {
    #[derive(Deserialize)]
    struct Message<'t> {
        #[serde(borrow)]
        content: Vec<Block<'t>>,
    }
    #[derive(Deserialize)]
    struct Block<'t> {
        #[serde(borrow)]
        input: Option<&'t RawValue>,
    }
    serde_json::from_slice::<Message<'_>>(text).map_or_else(
        |_| Vec::new(),
        |message| {
            message
                .content
                .iter()
                .map(|block| block.input.map(|raw| raw.get().to_owned()))
                .collect()
        },
    )
}

/// The type of an event: in its data, and else its name.
fn kind(event: &Event<'_>, body: &Value) -> String {
    json::string(body, "type").unwrap_or_else(|| event.name.to_string())
}

#[derive(Debug, Default)]
struct MessageStream {
    text: String,
    blocks: BTreeMap<u64, (ToolCall, String)>,
}

impl Stream for MessageStream {
    fn ends(&self, event: &Event<'_>) -> bool {
        if matches!(event.name.as_ref(), "message_stop" | "error") {
            return true;
        }
        // Only short events end a message; this spares reading every delta twice.
        (event.data.contains("message_stop") || event.data.contains("\"error\""))
            && json::any(&event.data)
                .is_some_and(|body| matches!(kind(event, &body).as_str(), "message_stop" | "error"))
    }

    fn event(&mut self, event: &Event<'_>, facts: &mut ResponseFacts, room: &mut Room) {
        let Some(body) = json::any(&event.data) else {
            facts.note_event(event);
            return;
        };
        let index = body.get("index").and_then(Value::as_u64).unwrap_or(0);
        match kind(event, &body).as_str() {
            "message_start" => head(body.get("message").unwrap_or(&Value::Null), facts),
            "content_block_start" => {
                let block = body.get("content_block").unwrap_or(&Value::Null);
                if let Some(call) = tool_call(block) {
                    if self.blocks.len() < CALLS_MAX {
                        self.blocks.insert(index, (call, String::new()));
                    } else {
                        room.cut = true;
                    }
                }
                if block.get("type").and_then(Value::as_str) == Some("text") {
                    let text = block.get("text").and_then(Value::as_str);
                    room.append(&mut self.text, text.unwrap_or_default());
                }
            }
            "content_block_delta" => {
                let delta = body.get("delta").unwrap_or(&Value::Null);
                let field = |name| delta.get(name).and_then(Value::as_str).unwrap_or_default();
                match field("type") {
                    "text_delta" => room.append(&mut self.text, field("text")),
                    "input_json_delta" => {
                        if let Some((_, json)) = self.blocks.get_mut(&index) {
                            room.append(json, field("partial_json"));
                        }
                    }
                    _ => {}
                }
            }
            "message_delta" => {
                if let Some(reason) = body.pointer("/delta/stop_reason").and_then(Value::as_str) {
                    facts.finish_reasons = vec![reason.to_owned()];
                }
                if let Some(usage) = body.get("usage") {
                    read_usage(usage, facts);
                }
            }
            "error" => facts.error = error(&body),
            _ => {}
        }
    }

    fn finish(self: Box<Self>, facts: &mut ResponseFacts) {
        facts.texts.push(self.text);
        for (mut call, json) in self.blocks.into_values() {
            // A tool without parameters streams none; its start then says `{}`.
            if !json.is_empty() {
                call.arguments = json;
            }
            facts.tool_calls.push(call);
        }
    }
}

#[derive(Debug, Default)]
struct CompleteStream {
    text: String,
}

impl Stream for CompleteStream {
    fn ends(&self, event: &Event<'_>) -> bool {
        event.name == "error"
            || (event.data.contains("stop_reason")
                && json::any(&event.data)
                    .is_some_and(|body| json::string(&body, "stop_reason").is_some()))
    }

    fn event(&mut self, event: &Event<'_>, facts: &mut ResponseFacts, room: &mut Room) {
        let Some(body) = json::any(&event.data) else {
            facts.note_event(event);
            return;
        };
        if let Some(text) = body.get("completion").and_then(Value::as_str) {
            room.append(&mut self.text, text);
        }
        if let Some(reason) = json::string(&body, "stop_reason") {
            facts.finish_reasons = vec![reason];
        }
        facts.id = json::string(&body, "id").or_else(|| facts.id.take());
        facts.model = json::string(&body, "model").or_else(|| facts.model.take());
        facts.error = error(&body).or_else(|| facts.error.take());
    }

    fn finish(self: Box<Self>, facts: &mut ResponseFacts) {
        facts.texts.push(self.text);
    }
}
