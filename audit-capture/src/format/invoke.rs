//! A model's own format, in a frame that doesn't say which: Bedrock's `invoke` and `SageMaker`'s `invocations`.
//!
//! What it is shows in the bodies themselves: Anthropic's messages, Nova's converse, chat completions (Mistral, AI21,
//! open models), or the plain forms of Titan, Llama, Mistral, Cohere and text-generation-inference. What is none of these
//! is kept as it came.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::chat::{ChatAssembler, parted};
use super::converse::{ConverseAssembler, path_model, prompt};
use super::messages::MessageAssembler;
use super::{
    Assembler, Format, Room, Take, append, chat, converse, error, messages, number, put, put_all,
    take_array, take_map, take_parameters, take_text, text_part,
};
use crate::api::{Api, Operation};
use crate::exchange::{Answered, Asked, Message, Part, Tokens};
use crate::framing::{Event, Framing};
use crate::head::RequestHead;
use crate::json;
use crate::response::ApiError;

/// The format.
pub(crate) struct Invoke;

const PARAMETERS: &[(&str, &str, Take)] = &[
    (
        "/textGenerationConfig/maxTokenCount",
        "gen_ai.request.max_tokens",
        Take::Count,
    ),
    (
        "/textGenerationConfig/temperature",
        "gen_ai.request.temperature",
        Take::Number,
    ),
    (
        "/textGenerationConfig/topP",
        "gen_ai.request.top_p",
        Take::Number,
    ),
    (
        "/textGenerationConfig/stopSequences",
        "gen_ai.request.stop_sequences",
        Take::Texts,
    ),
    (
        "/parameters/max_new_tokens",
        "gen_ai.request.max_tokens",
        Take::Count,
    ),
    (
        "/parameters/temperature",
        "gen_ai.request.temperature",
        Take::Number,
    ),
    ("/parameters/top_p", "gen_ai.request.top_p", Take::Number),
    ("/parameters/top_k", "gen_ai.request.top_k", Take::Number),
    (
        "/parameters/stop",
        "gen_ai.request.stop_sequences",
        Take::Texts,
    ),
    ("/max_gen_len", "gen_ai.request.max_tokens", Take::Count),
    ("/max_tokens", "gen_ai.request.max_tokens", Take::Count),
    ("/temperature", "gen_ai.request.temperature", Take::Number),
    ("/top_p", "gen_ai.request.top_p", Take::Number),
    ("/p", "gen_ai.request.top_p", Take::Number),
    ("/top_k", "gen_ai.request.top_k", Take::Number),
    ("/k", "gen_ai.request.top_k", Take::Number),
    ("/stop", "gen_ai.request.stop_sequences", Take::Texts),
    (
        "/stop_sequences",
        "gen_ai.request.stop_sequences",
        Take::Texts,
    ),
    (
        "/dimensions",
        "gen_ai.embeddings.dimension.count",
        Take::Count,
    ),
];

/// Where the metrics of an invocation stand, in the last item of a stream, whatever the model.
const METRICS: &str = "amazon-bedrock-invocationMetrics";

impl Format for Invoke {
    fn name(&self) -> &'static str {
        "invoke"
    }

    fn framing(&self, _: &Api, first: u8) -> Option<Framing> {
        match first {
            b'{' | b'[' => None,
            b'd' | b'e' | b':' => Some(Framing::Sse),
            _ => Some(Framing::Frames),
        }
    }

    fn asked(
        &self,
        _: &Api,
        head: &RequestHead,
        mut members: Map<String, Value>,
        asked: &mut Asked,
    ) {
        if let Some((model, action)) = path_model(head) {
            // SageMaker's path names an endpoint, not a model.
            asked.model = (!action.starts_with("invocations")).then_some(model);
            asked.stream = matches!(
                action.as_str(),
                "invoke-with-response-stream" | "invocations-response-stream"
            );
        }
        let model = asked.model.clone();
        if members.contains_key("anthropic_version") {
            messages::asked(members, super::anthropic::PARAMETERS, asked);
        } else if ["schemaVersion", "inferenceConfig", "toolConfig"]
            .iter()
            .any(|name| members.contains_key(*name))
        {
            converse::asked(members, asked);
        } else if members.contains_key("messages") {
            let stream = asked.stream;
            chat::asked(Operation::Chat, members, super::openai::PARAMETERS, asked);
            asked.stream |= stream;
        } else {
            take_parameters(&mut members, PARAMETERS, asked);
            for name in ["inputText", "prompt", "inputs", "message"] {
                if let Some(text) = take_text(&mut members, name) {
                    asked.messages.push(prompt(text));
                }
            }
            for text in take_array(&mut members, "texts") {
                asked.messages.push(match text {
                    Value::String(text) => prompt(text),
                    raw => parted(vec![Part::Other { raw }]),
                });
            }
            asked.other = members;
        }
        asked.model = model.or_else(|| asked.model.take());
    }

    fn answered(&self, _: &Api, body: Value, answered: &mut Answered) {
        let has = |name: &str| body.get(name).is_some();
        if body.get("content").is_some_and(Value::is_array) && has("role") {
            messages::answered(Operation::Messages, body, answered);
        } else if body.pointer("/output/message").is_some() || has("stopReason") {
            converse::answered(Operation::Converse, body, answered);
        } else if has("choices") {
            chat::answered(Operation::Chat, body, answered);
        } else {
            plain(body, answered);
        }
    }

    fn assembler(&self, _: &Api) -> Box<dyn Assembler> {
        Box::new(InvokeAssembler::Undecided(Map::new()))
    }
}

/// The forms that hold little more than a text.
fn plain(body: Value, answered: &mut Answered) {
    answered.error = error(&body).or_else(|| answered.error.take());
    let mut members = match body {
        Value::Object(members) => members,
        // Text-generation-inference.
        Value::Array(items) => Map::from_iter([("generated".to_owned(), Value::Array(items))]),
        other => Map::from_iter([("body".to_owned(), other)]),
    };
    if answered.error.is_some() {
        super::keep_error(&mut members);
    } else if answered.status >= 400 {
        answered.error = take_text(&mut members, "message").map(|message| ApiError {
            message: Some(message),
            ..ApiError::default()
        });
    }
    let count = |members: &Map<String, Value>, name: &str| members.get(name).and_then(json::count);
    let counts = &mut answered.counts;
    counts.input =
        count(&members, "inputTextTokenCount").or_else(|| count(&members, "prompt_token_count"));
    counts.output = count(&members, "totalOutputTextTokenCount")
        .or_else(|| count(&members, "generation_token_count"));
    let lists = ["results", "outputs", "generations", "generated"];
    let mut output = Vec::new();
    for name in lists {
        for item in take_array(&mut members, name) {
            if name == "results"
                && let Some(tokens) = item.get("tokenCount").and_then(json::count)
            {
                answered.counts.output = Some(answered.counts.output.unwrap_or(0) + tokens);
            }
            output.push(match item {
                Value::Object(item) => text_of(item),
                raw => parted(vec![Part::Other { raw }]),
            });
        }
    }
    if output.is_empty() {
        let mut message = text_of(std::mem::take(&mut members));
        members = std::mem::take(&mut message.other);
        if !message.parts.is_empty() || message.finish_reason.is_some() {
            output.push(message);
        }
    }
    answered.messages = output;
    if answered.counts.input.is_some() || answered.counts.output.is_some() {
        answered.usage = Some(Tokens::default());
    }
    answered.id =
        take_text(&mut members, "generation_id").or_else(|| take_text(&mut members, "id"));
    super::without_vectors(&mut members);
    answered.other = members;
}

/// A text and why it ended.
fn text_of(mut members: Map<String, Value>) -> Message {
    let text = ["outputText", "generation", "generated_text", "text"]
        .iter()
        .find_map(|name| take_text(&mut members, name));
    let reason = ["completionReason", "stop_reason", "finish_reason"]
        .iter()
        .find_map(|name| members.remove(*name).as_ref().and_then(number));
    Message {
        role: None,
        parts: text.map(text_part).into_iter().collect(),
        finish_reason: reason,
        other: members,
    }
}

/// The first item shows whose format it is.
enum InvokeAssembler {
    Undecided(Map<String, Value>),
    Messages(MessageAssembler, Map<String, Value>),
    Converse(ConverseAssembler, Map<String, Value>),
    Chat(Box<ChatAssembler>),
    Plain(Map<String, Value>),
}

/// The item in a frame: as base64, since a model's own format may be anything.
fn inner(event: &Event<'_>) -> Option<String> {
    let body = json::any(&event.data)?;
    match body.get("bytes").and_then(Value::as_str) {
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
        None => Some(event.data.to_string()),
    }
}

impl Assembler for InvokeAssembler {
    fn ends(&self, event: &Event<'_>) -> bool {
        if event.exception {
            return true;
        }
        // Base64 hides every word, so each item is opened.
        inner(event).is_some_and(|text| {
            text.contains(METRICS)
                || json::any(&text).is_some_and(|body| {
                    body.get("messageStop").is_some()
                        || body.get("type").and_then(Value::as_str) == Some("message_stop")
                })
        })
    }

    // An intervening guardrail leaves the metrics out.
    fn may_end(&self, event: &Event<'_>) -> bool {
        inner(event)
            .and_then(|text| json::any(&text))
            .is_some_and(|body| {
                ["completionReason", "stop_reason", "finish_reason"]
                    .iter()
                    .any(|name| body.get(*name).is_some_and(Value::is_string))
                    || body.get("amazon-bedrock-guardrailAction")
                        == Some(&Value::from("INTERVENED"))
            })
    }

    fn event(&mut self, event: &Event<'_>, room: &mut Room) -> bool {
        if event.name == "PayloadPart" {
            // SageMaker passes on what the model's server wrote, cut anywhere.
            if let Self::Undecided(top) | Self::Plain(top) = self {
                append(top, "payload", &event.data, room);
            }
            return true;
        }
        let parsed = inner(event).and_then(|text| json::any(&text));
        let Some(Value::Object(mut item)) = parsed else {
            return false;
        };
        if event.exception {
            let mut failed = ConverseAssembler::default();
            failed.fail(&event.name, &item);
            if let Value::Object(whole) = failed.whole() {
                put_all(self.other(), whole, room);
            }
            return true;
        }
        item.remove("p");
        if let Self::Undecided(top) = self {
            let top = std::mem::take(top);
            let kind = item.get("type").and_then(Value::as_str);
            *self = if kind == Some("message_start") {
                Self::Messages(MessageAssembler::default(), top)
            } else if item.contains_key("messageStart") {
                Self::Converse(ConverseAssembler::default(), top)
            } else if item.contains_key("choices") {
                Self::Chat(Box::default())
            } else {
                Self::Plain(top)
            };
        }
        match self {
            Self::Messages(assembler, top) => {
                if let Some(metrics) = item.remove(METRICS) {
                    put(top, METRICS, metrics, room);
                }
                assembler.take("", item, room);
            }
            Self::Converse(assembler, top) => {
                for (kind, body) in item {
                    match body {
                        Value::Object(body) if kind != METRICS => assembler.take(&kind, body, room),
                        body => {
                            put(top, kind, body, room);
                        }
                    }
                }
            }
            Self::Chat(assembler) => {
                let text = Value::Object(item).to_string();
                let event = Event {
                    data: text.into(),
                    ..event.clone()
                };
                assembler.event(&event, room);
            }
            Self::Plain(top) => grow(top, item, room),
            Self::Undecided(_) => {}
        }
        true
    }

    fn finish(self: Box<Self>) -> Value {
        let (mut whole, top) = match *self {
            Self::Undecided(top) | Self::Plain(top) => (Value::Object(top), Map::new()),
            Self::Messages(assembler, top) => (assembler.whole(), top),
            Self::Converse(assembler, top) => (assembler.whole(), top),
            Self::Chat(assembler) => (assembler.finish(), Map::new()),
        };
        if let Value::Object(members) = &mut whole {
            members.extend(top);
        }
        whole
    }
}

impl InvokeAssembler {
    fn other(&mut self) -> &mut Map<String, Value> {
        match self {
            Self::Undecided(top)
            | Self::Plain(top)
            | Self::Messages(_, top)
            | Self::Converse(_, top) => top,
            Self::Chat(assembler) => assembler.top(),
        }
    }
}

/// Texts grow, and what is said again replaces what was said.
fn grow(top: &mut Map<String, Value>, item: Map<String, Value>, room: &mut Room) {
    for (name, value) in item {
        match value {
            Value::Null => {}
            Value::String(text)
                if matches!(name.as_str(), "outputText" | "generation" | "text") =>
            {
                append(top, &name, &text, room);
            }
            Value::Array(items) if matches!(name.as_str(), "outputs" | "generations") => {
                let into = top.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(into) = into else {
                    continue;
                };
                for (at, item) in items.into_iter().enumerate() {
                    let Value::Object(item) = item else {
                        continue;
                    };
                    if at == into.len() && room.take(64) {
                        into.push(Value::Object(Map::new()));
                    }
                    if let Some(Value::Object(old)) = into.get_mut(at) {
                        grow(old, item, room);
                    }
                }
            }
            value => {
                put(top, name, value, room);
            }
        }
    }
    drop(take_map(top, "p"));
}
