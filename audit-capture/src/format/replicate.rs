//! Replicate's predictions: a model's own input and output in one frame.

use serde_json::{Map, Value};

use super::chat::parted;
use super::converse::prompt;
use super::{Assembler, Format, Take, join, take_parameters, take_text, text_part, url_media};
use crate::api::{Api, segments};
use crate::exchange::{Answered, Asked, Message, Part, Tokens};
use crate::head::RequestHead;
use crate::json;
use crate::response::ApiError;

/// The format.
pub(crate) struct Replicate;

const PARAMETERS: &[(&str, &str, Take)] = &[
    (
        "/input/max_tokens",
        "gen_ai.request.max_tokens",
        Take::Count,
    ),
    (
        "/input/temperature",
        "gen_ai.request.temperature",
        Take::Number,
    ),
    ("/input/top_p", "gen_ai.request.top_p", Take::Number),
    ("/input/top_k", "gen_ai.request.top_k", Take::Number),
    ("/input/seed", "gen_ai.request.seed", Take::Count),
];

impl Format for Replicate {
    fn name(&self) -> &'static str {
        "replicate"
    }

    fn asked(
        &self,
        _: &Api,
        head: &RequestHead,
        mut members: Map<String, Value>,
        asked: &mut Asked,
    ) {
        asked.model = match segments(&head.path_and_query).as_slice() {
            [.., kind, owner, name, _] if kind == "models" => Some(format!("{owner}/{name}")),
            _ => take_text(&mut members, "version"),
        };
        take_parameters(&mut members, PARAMETERS, asked);
        if let Some(Value::Object(input)) = members.get_mut("input") {
            if let Some(text) = take_text(input, "system_prompt") {
                asked.instructions.push(text_part(text));
            }
            if let Some(text) = take_text(input, "prompt") {
                asked.messages.push(prompt(text));
            }
        }
        asked.other = members;
    }

    fn answered(&self, _: &Api, body: Value, answered: &mut Answered) {
        let Value::Object(mut members) = body else {
            answered.other.insert("body".to_owned(), body);
            return;
        };
        answered.id = take_text(&mut members, "id");
        answered.model = take_text(&mut members, "model");
        let message = ["error", "detail"]
            .iter()
            .find_map(|name| take_text(&mut members, name));
        answered.error = message.map(|message| ApiError {
            message: Some(message),
            ..ApiError::default()
        });
        for (place, of) in [
            ("input_token_count", &mut answered.counts.input),
            ("output_token_count", &mut answered.counts.output),
        ] {
            if let Some(count) = members
                .get("metrics")
                .and_then(|metrics| json::count(metrics.get(place)?))
            {
                *of = Some(count);
                answered.usage = Some(Tokens::default());
            }
        }
        let parts = match members.remove("output") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) => vec![one(text)],
            Some(Value::Array(items)) => match join(&items) {
                Some(text) if !is_url(&text) => vec![text_part(text)],
                _ => items
                    .into_iter()
                    .map(|item| match item {
                        Value::String(text) => one(text),
                        raw => Part::Other { raw },
                    })
                    .collect(),
            },
            Some(raw) => vec![Part::Other { raw }],
        };
        answered.messages.push(Message {
            finish_reason: take_text(&mut members, "status"),
            ..parted(parts)
        });
        answered.other = members;
    }

    fn assembler(&self, _: &Api) -> Box<dyn Assembler> {
        Box::new(super::unknown::NoStream)
    }
}

/// A file that the model made has a URL; what kind it is isn't said.
fn one(text: String) -> Part {
    if is_url(&text) {
        Part::Document(url_media(text))
    } else {
        text_part(text)
    }
}

fn is_url(text: &str) -> bool {
    ["https://", "http://", "data:"]
        .iter()
        .any(|start| text.starts_with(start))
}
