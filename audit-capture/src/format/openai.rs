//! `OpenAI`'s facts: chat completions, responses, embeddings, models, legacy completions, and what shares their frame.
//!
//! The chat format is spoken by many others too, so nothing here relies on what only `OpenAI` sends.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Assembler, Format, Stream, Take, chat, content_text, error, parameters, responses};
use crate::api::{Api, Operation, Route, on, segments};
use crate::exchange::{Answered, Asked};
use crate::framing::Event;
use crate::head::RequestHead;
use crate::json;
use crate::request::{RequestFacts, ToolResult};
use crate::response::{CALLS_MAX, CHOICES_MAX, ResponseFacts, Room, ToolCall, ToolSide};

/// The format.
pub(crate) struct OpenAi;

/// The paths that many servers share with `OpenAI`.
pub(crate) const COMPATIBLE: &[Route] = &[
    on("POST", "chat/completions", Operation::Chat, &OpenAi),
    on("POST", "responses", Operation::Responses, &OpenAi),
    on("POST", "openai/responses", Operation::Responses, &OpenAi),
    on("POST", "embeddings", Operation::Embeddings, &OpenAi),
    on("POST", "completions", Operation::TextCompletion, &OpenAi),
    on(
        "POST",
        "responses/input_tokens",
        Operation::CountTokens,
        &OpenAi,
    ),
    on("POST", "moderations", Operation::Moderation, &OpenAi),
    on("POST", "images/generations", Operation::Images, &OpenAi),
    on("POST", "images/edits", Operation::Images, &OpenAi),
    on("POST", "images/variations", Operation::Images, &OpenAi),
    on("POST", "audio/speech", Operation::Speech, &OpenAi),
    on(
        "POST",
        "audio/transcriptions",
        Operation::Transcription,
        &OpenAi,
    ),
    on(
        "POST",
        "audio/translations",
        Operation::Transcription,
        &OpenAi,
    ),
    on("POST", "rerank", Operation::Rerank, &OpenAi),
    on("GET", "models", Operation::Models, &OpenAi),
    on("GET", "models/*", Operation::Models, &OpenAi),
];

pub(crate) const PARAMETERS: &[(&str, &str, Take)] = &[
    (
        "/max_completion_tokens",
        "gen_ai.request.max_tokens",
        Take::Count,
    ),
    (
        "/max_output_tokens",
        "gen_ai.request.max_tokens",
        Take::Count,
    ),
    ("/max_tokens", "gen_ai.request.max_tokens", Take::Count),
    ("/temperature", "gen_ai.request.temperature", Take::Number),
    ("/top_p", "gen_ai.request.top_p", Take::Number),
    ("/top_k", "gen_ai.request.top_k", Take::Number),
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
    ("/seed", "gen_ai.request.seed", Take::Count),
    ("/n", "gen_ai.request.choice.count", Take::Count),
    ("/stop", "gen_ai.request.stop_sequences", Take::Texts),
    (
        "/reasoning_effort",
        "gen_ai.request.reasoning.level",
        Take::Text,
    ),
    (
        "/reasoning/effort",
        "gen_ai.request.reasoning.level",
        Take::Text,
    ),
    (
        "/encoding_format",
        "gen_ai.request.encoding_formats",
        Take::Texts,
    ),
    (
        "/dimensions",
        "gen_ai.embeddings.dimension.count",
        Take::Count,
    ),
    ("/service_tier", "openai.request.service_tier", Take::Text),
    ("/tool_choice", "audit.request.tool_choice", Take::Text),
    ("/tool_choice/type", "audit.request.tool_choice", Take::Text),
    ("/store", "audit.request.store", Take::Bool),
    ("/background", "audit.request.background", Take::Bool),
];

impl Format for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn request(&self, api: &Api, head: &RequestHead, body: &Value, facts: &mut RequestFacts) {
        facts.model = json::string(body, "model");
        facts.stream = body.get("stream").and_then(Value::as_bool) == Some(true);
        parameters(body, PARAMETERS, facts);
        if let Some(tools) = ["tools", "functions"]
            .iter()
            .find_map(|name| body.get(*name)?.as_array())
        {
            facts.tools = Some(tools.len() as u64);
        }
        match api.operation {
            Operation::Models => facts.model = path_model(head),
            Operation::Responses | Operation::CountTokens => responses_request(body, facts),
            Operation::Chat => chat_request(body, facts),
            _ => {}
        }
    }

    fn response(&self, api: &Api, body: &Value, _: &[u8], facts: &mut ResponseFacts) {
        facts.error = error(body);
        match api.operation {
            Operation::Responses => read_response(body, facts),
            Operation::CountTokens => {
                facts.counted_tokens = body.get("input_tokens").and_then(json::count);
            }
            Operation::Models => {}
            Operation::Embeddings
            | Operation::Rerank
            | Operation::Moderation
            | Operation::Images
            | Operation::Speech => head(body, facts),
            Operation::Transcription => {
                head(body, facts);
                facts.texts.extend(json::string(body, "text"));
            }
            _ => {
                head(body, facts);
                let mut choices = Choices::default();
                let mut room = Room::default();
                for choice in json::items(body, "choices") {
                    choices.take(choice, "message", &mut room);
                }
                choices.finish(facts);
                facts.truncated |= room.cut;
            }
        }
    }

    fn stream(&self, api: &Api) -> Box<dyn Stream> {
        match api.operation {
            Operation::Responses => Box::new(ResponsesStream::default()),
            _ => Box::new(ChatStream::default()),
        }
    }

    fn asked(&self, api: &Api, head: &RequestHead, members: Map<String, Value>, asked: &mut Asked) {
        match api.operation {
            Operation::Responses | Operation::CountTokens => {
                responses::asked(members, PARAMETERS, asked);
            }
            operation => chat::asked(operation, members, PARAMETERS, asked),
        }
        if api.operation == Operation::Models {
            asked.model = path_model(head);
        }
    }

    fn answered(&self, api: &Api, body: Value, answered: &mut Answered) {
        match api.operation {
            Operation::Responses => responses::answered(body, answered),
            operation => chat::answered(operation, body, answered),
        }
    }

    fn assembler(&self, api: &Api) -> Box<dyn Assembler> {
        match api.operation {
            Operation::Responses => Box::new(responses::ResponsesAssembler::default()),
            _ => Box::new(chat::ChatAssembler::default()),
        }
    }
}

/// The model in a path: `models/MODEL`.
fn path_model(head: &RequestHead) -> Option<String> {
    match segments(&head.path_and_query).as_slice() {
        [.., before, model] if before == "models" => Some(model.to_string()),
        _ => None,
    }
}

fn chat_request(body: &Value, facts: &mut RequestFacts) {
    if let Some(messages) = body.get("messages").and_then(Value::as_array) {
        facts.messages = Some(messages.len() as u64);
    }
    output_type(body.pointer("/response_format/type"), facts);
    for message in json::items(body, "messages") {
        match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => facts.system = true,
            Some("assistant") => ToolResult::age(&mut facts.tool_results),
            Some("tool") => facts
                .tool_results
                .extend(json::string(message, "tool_call_id").map(ToolResult::new)),
            _ => {}
        }
    }
}

fn responses_request(body: &Value, facts: &mut RequestFacts) {
    facts.system = body
        .get("instructions")
        .is_some_and(|instructions| !instructions.is_null());
    facts.previous_response = json::string(body, "previous_response_id");
    facts.conversation = json::string(body, "conversation")
        .or_else(|| json::string(body.get("conversation")?, "id"));
    output_type(body.pointer("/text/format/type"), facts);
    facts.messages = match body.get("input") {
        Some(Value::String(_)) => Some(1),
        Some(Value::Array(items)) => Some(items.len() as u64),
        _ => None,
    };
    for item in json::items(body, "input") {
        let kind = item.get("type").and_then(Value::as_str);
        match kind {
            Some(kind) if kind.ends_with("_call_output") => facts
                .tool_results
                .extend(json::string(item, "call_id").map(ToolResult::new)),
            _ => {
                let role = item.get("role").and_then(Value::as_str);
                if matches!(role, Some("system" | "developer")) {
                    facts.system = true;
                }
                let by_model = role == Some("assistant")
                    || kind.is_some_and(|k| k.ends_with("_call") || k == "reasoning");
                if by_model {
                    ToolResult::age(&mut facts.tool_results);
                }
            }
        }
    }
}

fn output_type(format: Option<&Value>, facts: &mut RequestFacts) {
    let kind = match format.and_then(Value::as_str) {
        Some("json_object" | "json_schema") => "json",
        Some("text") => "text",
        _ => return,
    };
    facts
        .parameters
        .insert("gen_ai.output.type".to_owned(), Value::from(kind));
}

/// What chat, legacy completions and embeddings have in common; a stream says it in every chunk.
fn head(body: &Value, facts: &mut ResponseFacts) {
    if let Some(id) = json::string(body, "id") {
        facts.id = Some(id);
    }
    if let Some(model) = json::string(body, "model") {
        facts.model = Some(model);
    }
    if let Some(tier) = json::string(body, "service_tier") {
        facts.service_tier = Some(tier);
    }
    if let Some(fingerprint) = json::string(body, "system_fingerprint") {
        facts.system_fingerprint = Some(fingerprint);
    }
    // Older streams of Groq have it in `x_groq` alone.
    if let Some(usage) = body
        .get("usage")
        .filter(|usage| usage.is_object())
        .or_else(|| body.pointer("/x_groq/usage"))
    {
        read_usage(usage, facts);
    }
}

fn read_usage(usage: &Value, facts: &mut ResponseFacts) {
    for (place, of) in chat::USAGE {
        if let Some(given) = usage.pointer(place).and_then(json::count) {
            *of(&mut facts.usage) = Some(given);
        }
    }
}

/// The choices of a chat or legacy completion, from whole messages or from deltas.
#[derive(Debug, Default)]
struct Choices(BTreeMap<u64, Choice>);

#[derive(Debug, Default)]
struct Choice {
    text: String,
    finish_reason: Option<String>,
    refused: bool,
    calls: Vec<(Option<u64>, ToolCall)>,
}

impl Choices {
    /// `part` is `message` or `delta`.
    fn take(&mut self, given: &Value, part: &str, room: &mut Room) {
        let index = given.get("index").and_then(Value::as_u64).unwrap_or(0);
        if self.0.len() >= CHOICES_MAX && !self.0.contains_key(&index) {
            room.cut = true;
            return;
        }
        let choice = self.0.entry(index).or_default();
        if let Some(reason) = json::string(given, "finish_reason") {
            choice.finish_reason = Some(reason);
        }
        // Legacy completions. Together says a chat's text there too.
        if let Some(text) = given.get("text").and_then(Value::as_str)
            && given.get(part).is_none_or(Value::is_null)
        {
            room.append(&mut choice.text, text);
        }
        let Some(message) = given.get(part) else {
            return;
        };
        if let Some(content) = message.get("content") {
            room.append(&mut choice.text, &content_text(content, &["text"]));
        }
        choice.refused |= json::string(message, "refusal").is_some();
        for (at, call) in json::items(message, "tool_calls").iter().enumerate() {
            // In a delta the index tells which call is continued; without one, a new id starts a new call.
            let index = call.get("index").and_then(Value::as_u64);
            let index = match part {
                "message" => Some(at as u64),
                _ => index,
            };
            choice.take_call(index, call, room);
        }
        if let Some(function) = message.get("function_call").filter(|f| f.is_object()) {
            let call = serde_json::json!({ "function": function });
            choice.take_call(Some(0), &call, room);
        }
    }

    fn finish(self, facts: &mut ResponseFacts) {
        for choice in self.0.into_values() {
            facts.texts.push(choice.text);
            facts.finish_reasons.extend(choice.finish_reason);
            facts.refused |= choice.refused;
            facts
                .tool_calls
                .extend(choice.calls.into_iter().map(|(_, call)| call));
        }
    }
}

impl Choice {
    fn take_call(&mut self, index: Option<u64>, given: &Value, room: &mut Room) {
        let id = json::string(given, "id");
        let same = match index {
            Some(_) => self.calls.iter().position(|(at, _)| *at == index),
            None => self
                .calls
                .len()
                .checked_sub(1)
                .filter(|at| id.is_none() || self.calls.get(*at).is_some_and(|c| c.1.id == id)),
        };
        let at = match same {
            Some(at) => at,
            None if self.calls.len() >= CALLS_MAX => {
                room.cut = true;
                return;
            }
            None => {
                self.calls.push((
                    index,
                    ToolCall {
                        id: None,
                        name: None,
                        arguments: String::new(),
                        side: ToolSide::Client,
                    },
                ));
                self.calls.len() - 1
            }
        };
        let Some((_, call)) = self.calls.get_mut(at) else {
            return;
        };
        call.id = call.id.take().or(id);
        for (part, arguments) in [("function", "arguments"), ("custom", "input")] {
            let Some(part) = given.get(part) else {
                continue;
            };
            call.name = call.name.take().or_else(|| json::string(part, "name"));
            match part.get(arguments) {
                Some(Value::String(text)) => room.append(&mut call.arguments, text),
                // Some servers write the object itself.
                Some(object @ Value::Object(_)) => {
                    room.append(&mut call.arguments, &object.to_string());
                }
                _ => {}
            }
        }
    }
}

#[derive(Debug, Default)]
struct ChatStream {
    choices: Choices,
}

impl Stream for ChatStream {
    fn ends(&self, event: &Event<'_>) -> bool {
        event.data.trim() == "[DONE]"
            || event.name == "error"
            || (event.data.contains("\"error\"")
                && json::any(&event.data).is_some_and(|body| error(&body).is_some()))
    }

    fn event(&mut self, event: &Event<'_>, facts: &mut ResponseFacts, room: &mut Room) {
        if event.data.trim() == "[DONE]" {
            return;
        }
        let Some(body) = json::any(&event.data) else {
            facts.note_event(event);
            return;
        };
        head(&body, facts);
        facts.error = error(&body).or_else(|| facts.error.take());
        for choice in json::items(&body, "choices") {
            self.choices.take(choice, "delta", room);
        }
    }

    fn finish(self: Box<Self>, facts: &mut ResponseFacts) {
        self.choices.finish(facts);
    }
}

/// Reads a response object, whole or as the last event carries it.
fn read_response(body: &Value, facts: &mut ResponseFacts) {
    head(body, facts);
    // `incomplete_details.reason` says why; else the status is all there is.
    let reason = body
        .pointer("/incomplete_details/reason")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .or_else(|| json::string(body, "status"));
    if let Some(reason) = reason {
        facts.finish_reasons = vec![reason];
    }
    let output = json::items(body, "output");
    if output.is_empty() {
        return;
    }
    facts.texts = vec![
        output
            .iter()
            .filter_map(|item| item.get("content"))
            .map(|content| content_text(content, &["output_text"]))
            .collect(),
    ];
    facts.refused |= output
        .iter()
        .flat_map(|item| json::items(item, "content"))
        .any(|part| part.get("type").and_then(Value::as_str) == Some("refusal"));
    facts.tool_calls = output
        .iter()
        .filter_map(response_call)
        .take(CALLS_MAX)
        .collect();
}

/// The call that an output item is, if it is one.
fn response_call(item: &Value) -> Option<ToolCall> {
    let kind = item.get("type").and_then(Value::as_str)?;
    let tool = kind.strip_suffix("_call")?;
    // These are carried out by the client; every other `…_call` by OpenAI itself.
    let side = match tool {
        "function" | "custom_tool" | "computer" | "local_shell" | "shell" | "apply_patch" => {
            ToolSide::Client
        }
        _ => ToolSide::Provider,
    };
    let arguments = [
        "arguments",
        "input",
        "action",
        "operation",
        "code",
        "queries",
    ]
    .iter()
    .find_map(|name| match item.get(*name)? {
        Value::String(text) => Some(text.clone()),
        Value::Null => None,
        other => Some(other.to_string()),
    });
    Some(ToolCall {
        id: json::string(item, "call_id").or_else(|| json::string(item, "id")),
        name: json::string(item, "name").or_else(|| Some(tool.to_owned())),
        arguments: arguments.unwrap_or_default(),
        side,
    })
}

/// The last event repeats the whole response; what came before serves when that one is missing, too long or empty.
#[derive(Debug, Default)]
struct ResponsesStream {
    text: String,
    refused: bool,
    calls: BTreeMap<u64, ToolCall>,
}

const ENDS: [&str; 4] = [
    "response.completed",
    "response.failed",
    "response.incomplete",
    "error",
];

impl ResponsesStream {
    fn kind(event: &Event<'_>, body: &Value) -> String {
        json::string(body, "type").unwrap_or_else(|| event.name.to_string())
    }
}

impl Stream for ResponsesStream {
    fn ends(&self, event: &Event<'_>) -> bool {
        if ENDS.contains(&event.name.as_ref()) || event.data.trim() == "[DONE]" {
            return true;
        }
        ENDS.iter().any(|end| event.data.contains(end))
            && json::any(&event.data)
                .is_some_and(|body| ENDS.contains(&Self::kind(event, &body).as_str()))
    }

    fn event(&mut self, event: &Event<'_>, facts: &mut ResponseFacts, room: &mut Room) {
        if event.data.trim() == "[DONE]" {
            return;
        }
        let Some(body) = json::any(&event.data) else {
            facts.note_event(event);
            return;
        };
        let index = body
            .get("output_index")
            .and_then(Value::as_u64)
            .unwrap_or(0);
        let delta = body
            .get("delta")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let response = body.get("response").unwrap_or(&Value::Null);
        match Self::kind(event, &body).as_str() {
            "response.created" | "response.in_progress" | "response.queued" => {
                head(response, facts);
            }
            "response.output_text.delta" => room.append(&mut self.text, delta),
            "response.refusal.delta" => self.refused = true,
            "response.function_call_arguments.delta"
            | "response.custom_tool_call_input.delta"
            | "response.mcp_call_arguments.delta" => {
                if let Some(call) = self.calls.get_mut(&index) {
                    room.append(&mut call.arguments, delta);
                }
            }
            "response.output_item.added" | "response.output_item.done" => {
                if let Some(call) = body.get("item").and_then(response_call) {
                    if self.calls.len() < CALLS_MAX || self.calls.contains_key(&index) {
                        self.calls.insert(index, call);
                    } else {
                        room.cut = true;
                    }
                }
            }
            "response.completed" | "response.failed" | "response.incomplete" => {
                facts.error = error(response).or_else(|| facts.error.take());
                read_response(response, facts);
            }
            "error" => facts.error = error(&body),
            _ => {}
        }
    }

    fn finish(self: Box<Self>, facts: &mut ResponseFacts) {
        facts.refused |= self.refused;
        if facts.texts.is_empty() {
            facts.texts.push(self.text);
        }
        if facts.tool_calls.is_empty() {
            facts.tool_calls = self.calls.into_values().collect();
        }
    }
}
