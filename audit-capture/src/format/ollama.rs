//! Ollama's own API: chat and generate, streamed as lines of JSON unless asked otherwise, and embeddings.

use serde_json::{Map, Value};

use super::chat::{self, parted};
use super::converse::prompt;
use super::parts::Place;
use super::{
    Assembler, Format, Room, Take, append, error, media, put, take_array, take_bool, take_map,
    take_parameters, take_text, text_part, weight,
};
use crate::api::{Api, Operation};
use crate::exchange::{Answered, Asked, Message, Part, Tokens};
use crate::framing::{Event, Framing};
use crate::head::RequestHead;
use crate::json;
use crate::response::CALLS_MAX;

/// The format.
pub(crate) struct Ollama;

const PARAMETERS: &[(&str, &str, Take)] = &[
    (
        "/options/num_predict",
        "gen_ai.request.max_tokens",
        Take::Count,
    ),
    (
        "/options/temperature",
        "gen_ai.request.temperature",
        Take::Number,
    ),
    ("/options/top_p", "gen_ai.request.top_p", Take::Number),
    ("/options/top_k", "gen_ai.request.top_k", Take::Number),
    ("/options/seed", "gen_ai.request.seed", Take::Count),
    (
        "/options/frequency_penalty",
        "gen_ai.request.frequency_penalty",
        Take::Number,
    ),
    (
        "/options/presence_penalty",
        "gen_ai.request.presence_penalty",
        Take::Number,
    ),
    (
        "/options/stop",
        "gen_ai.request.stop_sequences",
        Take::Texts,
    ),
    (
        "/dimensions",
        "gen_ai.embeddings.dimension.count",
        Take::Count,
    ),
    ("/think", "gen_ai.request.reasoning.level", Take::Text),
];

const USAGE: &[Place] = &[
    ("/prompt_eval_count", |u| &mut u.input),
    ("/eval_count", |u| &mut u.output),
];

impl Format for Ollama {
    fn name(&self) -> &'static str {
        "ollama"
    }

    fn framing(&self, _: &Api, first: u8) -> Option<Framing> {
        match first {
            b'{' => Some(Framing::Lines),
            b'[' => None,
            _ => Some(Framing::Sse),
        }
    }

    fn asked(
        &self,
        api: &Api,
        _: &RequestHead,
        mut members: Map<String, Value>,
        asked: &mut Asked,
    ) {
        asked.model = take_text(&mut members, "model").or_else(|| take_text(&mut members, "name"));
        let streams = matches!(api.operation, Operation::Chat | Operation::TextCompletion);
        asked.stream = take_bool(&mut members, "stream").unwrap_or(streams);
        take_parameters(&mut members, PARAMETERS, asked);
        if let Some(text) = take_text(&mut members, "system") {
            asked.instructions.push(text_part(text));
        }
        for message in take_array(&mut members, "messages") {
            asked.messages.push(match message {
                Value::Object(members) => chat::message(members),
                raw => parted(vec![Part::Other { raw }]),
            });
        }
        if let Some(text) = take_text(&mut members, "prompt") {
            let mut message = prompt(text);
            for image in take_array(&mut members, "images") {
                message.parts.push(match image {
                    Value::String(encoded) => Part::Image(media(None, &encoded)),
                    raw => Part::Other { raw },
                });
            }
            asked.messages.push(message);
        }
        match members.remove("input") {
            Some(Value::String(text)) => asked.messages.push(prompt(text)),
            Some(Value::Array(texts)) => {
                asked
                    .messages
                    .extend(texts.into_iter().map(|text| match text {
                        Value::String(text) => prompt(text),
                        raw => parted(vec![Part::Other { raw }]),
                    }));
            }
            _ => {}
        }
        asked.tools = chat::tools(&mut members);
        super::without_vectors(&mut members);
        asked.other = members;
    }

    fn answered(&self, _: &Api, body: Value, answered: &mut Answered) {
        let Some(mut members) = super::members_of(body, answered) else {
            return;
        };
        answered.model = take_text(&mut members, "model");
        for (place, of) in USAGE {
            let name = place.trim_start_matches('/');
            if let Some(count) = members.get(name).and_then(json::count) {
                *of(&mut answered.counts) = Some(count);
                members.remove(name);
                answered.usage = Some(Tokens::default());
            }
        }
        let reason = take_text(&mut members, "done_reason");
        let mut message = match take_map(&mut members, "message") {
            Some(message) => chat::message(message),
            None => Message::default(),
        };
        if let Some(text) = take_text(&mut members, "thinking") {
            message.parts.push(Part::Reasoning {
                text,
                other: Map::new(),
            });
        }
        if let Some(text) = take_text(&mut members, "response") {
            message.parts.push(text_part(text));
        }
        message.finish_reason = reason;
        if message != Message::default() {
            answered.messages.push(message);
        }
        super::without_vectors(&mut members);
        answered.other = members;
    }

    fn assembler(&self, _: &Api) -> Box<dyn Assembler> {
        Box::new(OllamaAssembler::default())
    }
}

/// Puts lines together.
#[derive(Debug, Default)]
struct OllamaAssembler {
    top: Map<String, Value>,
    message: Map<String, Value>,
}

impl Assembler for OllamaAssembler {
    fn ends(&self, event: &Event<'_>) -> bool {
        (event.data.contains("\"done\"") || event.data.contains("\"error\""))
            && json::any(&event.data).is_some_and(|body| {
                body.get("done").and_then(Value::as_bool) == Some(true) || error(&body).is_some()
            })
    }

    fn event(&mut self, event: &Event<'_>, room: &mut Room) -> bool {
        let Some(Value::Object(body)) = json::any(&event.data) else {
            return false;
        };
        for (name, value) in body {
            match (name.as_str(), value) {
                ("message", Value::Object(delta)) => {
                    for (name, value) in delta {
                        match value {
                            Value::String(text)
                                if matches!(name.as_str(), "content" | "thinking") =>
                            {
                                append(&mut self.message, &name, &text, room);
                            }
                            Value::Array(items) => {
                                let into = self
                                    .message
                                    .entry(name)
                                    .or_insert_with(|| Value::Array(Vec::new()));
                                if let Value::Array(into) = into {
                                    for item in items {
                                        if into.len() < CALLS_MAX && room.take(weight(&item)) {
                                            into.push(item);
                                        }
                                    }
                                }
                            }
                            Value::Null => {}
                            value => {
                                put(&mut self.message, name, value, room);
                            }
                        }
                    }
                }
                ("response" | "thinking", Value::String(text)) => {
                    append(&mut self.top, &name, &text, room);
                }
                (_, value) => {
                    put(&mut self.top, name, value, room);
                }
            }
        }
        true
    }

    fn finish(self: Box<Self>) -> Value {
        let mut top = self.top;
        if !self.message.is_empty() {
            top.insert("message".to_owned(), Value::Object(self.message));
        }
        Value::Object(top)
    }
}
