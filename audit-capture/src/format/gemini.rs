//! Google's `generateContent`, and what stands beside it: counting tokens, embeddings, cached contents, predictions.
//!
//! Its `promptTokenCount` includes cached tokens; its `candidatesTokenCount` leaves out those of thoughts.
//! A stream has no event that ends it: an item with a finish reason may be the last.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::chat::{parted, written};
use super::parts::Place;
use super::{
    Assembler, Format, Room, Take, append, error, media, media_part, number, parts_of, put,
    put_all, take_array, take_map, take_parameters, take_text, take_usage, text_part, weight,
};
use crate::api::{Api, Operation, segments};
use crate::exchange::{Answered, Asked, Media, Message, Part, ToolDefinition};
use crate::framing::{Event, Framing};
use crate::head::RequestHead;
use crate::json;
use crate::response::CHOICES_MAX;

/// The format.
pub(crate) struct Gemini;

/// Google takes both spellings of a name.
macro_rules! both {
    ($(($camel:literal, $snake:literal, $attribute:literal, $take:expr)),* $(,)?) => {
        &[$(
            (concat!("/generationConfig/", $camel), $attribute, $take),
            (concat!("/generationConfig/", $snake), $attribute, $take),
            (concat!("/generation_config/", $snake), $attribute, $take),
        )*]
    };
}

const PARAMETERS: &[(&str, &str, Take)] = both![
    (
        "maxOutputTokens",
        "max_output_tokens",
        "gen_ai.request.max_tokens",
        Take::Count
    ),
    (
        "temperature",
        "temperature",
        "gen_ai.request.temperature",
        Take::Number
    ),
    ("topP", "top_p", "gen_ai.request.top_p", Take::Number),
    ("topK", "top_k", "gen_ai.request.top_k", Take::Number),
    ("seed", "seed", "gen_ai.request.seed", Take::Count),
    (
        "candidateCount",
        "candidate_count",
        "gen_ai.request.choice.count",
        Take::Count
    ),
    (
        "frequencyPenalty",
        "frequency_penalty",
        "gen_ai.request.frequency_penalty",
        Take::Number
    ),
    (
        "presencePenalty",
        "presence_penalty",
        "gen_ai.request.presence_penalty",
        Take::Number
    ),
    (
        "stopSequences",
        "stop_sequences",
        "gen_ai.request.stop_sequences",
        Take::Texts
    ),
    (
        "thinkingConfig/thinkingLevel",
        "thinking_config/thinking_level",
        "gen_ai.request.reasoning.level",
        Take::Text
    ),
    (
        "thinkingConfig/thinkingBudget",
        "thinking_config/thinking_budget",
        "audit.request.thinking_budget_tokens",
        Take::Count
    ),
];

const USAGE: &[Place] = &[
    ("/promptTokenCount", |u| &mut u.input),
    ("/candidatesTokenCount", |u| &mut u.output),
    ("/totalTokenCount", |u| &mut u.total),
    ("/cachedContentTokenCount", |u| &mut u.cache_read),
    ("/thoughtsTokenCount", |u| &mut u.reasoning),
];

/// Takes a member by either spelling.
fn take(members: &mut Map<String, Value>, camel: &str, snake: &str) -> Option<Value> {
    members.remove(camel).or_else(|| members.remove(snake))
}

/// The model in a path, and the method behind it: `…/models/MODEL:METHOD`.
pub(crate) fn path_model(head: &RequestHead) -> Option<(String, String)> {
    let segments = segments(&head.path_and_query);
    let (model, method) = segments.last()?.rsplit_once(':')?;
    Some((model.to_owned(), method.to_owned()))
}

impl Format for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }

    fn framing(&self, _: &Api, first: u8) -> Option<Framing> {
        match first {
            b'[' => Some(Framing::Array),
            b'{' => None,
            _ => Some(Framing::Sse),
        }
    }

    fn asked(
        &self,
        api: &Api,
        head: &RequestHead,
        mut members: Map<String, Value>,
        asked: &mut Asked,
    ) {
        if let Some((model, method)) = path_model(head) {
            asked.model = Some(model);
            asked.stream = method == "streamGenerateContent";
        } else if api.operation == Operation::Models {
            asked.model = match segments(&head.path_and_query).as_slice() {
                [.., before, model] if before == "models" => Some(model.to_string()),
                _ => None,
            };
        }
        // `models/MODEL`, as its lists have it.
        if let Some(model) = take_text(&mut members, "model") {
            let model = model.strip_prefix("models/").unwrap_or(&model).to_owned();
            asked.model.get_or_insert(model);
        }
        // Counting tokens may hold a whole request.
        if let Some(inner) = take_map(&mut members, "generateContentRequest") {
            members.extend(inner.into_iter().filter(|(name, _)| name != "model"));
        }
        take_parameters(&mut members, PARAMETERS, asked);
        for name in ["systemInstruction", "system_instruction"] {
            let Some(mut system) = take_map(&mut members, name) else {
                continue;
            };
            asked.instructions = parts_of(system.remove("parts").unwrap_or_default(), part);
            if !system.is_empty() {
                members.insert(name.to_owned(), Value::Object(system));
            }
        }
        let contents = members
            .remove("contents")
            .or_else(|| members.remove("content"));
        match contents {
            Some(Value::Array(contents)) => {
                asked.messages.extend(contents.into_iter().map(content));
            }
            None | Some(Value::Null) => {}
            Some(one) => asked.messages.push(content(one)),
        }
        if api.operation == Operation::Embeddings {
            for request in take_array(&mut members, "requests") {
                asked.messages.push(match request {
                    Value::Object(mut request) => {
                        let mut message = content(request.remove("content").unwrap_or_default());
                        request.remove("model");
                        message.other.extend(request);
                        message
                    }
                    raw => parted(vec![Part::Other { raw }]),
                });
            }
        }
        asked.tools = take_array(&mut members, "tools")
            .into_iter()
            .flat_map(tools)
            .collect();
        asked.other = members;
    }

    fn answered(&self, api: &Api, body: Value, answered: &mut Answered) {
        // Without `alt=sse` an error comes in an array.
        let body = match body {
            Value::Array(mut items) if items.len() == 1 => items.remove(0),
            body => body,
        };
        let Some(mut members) = super::members_of(body, answered) else {
            return;
        };
        answered.id = take_text(&mut members, "responseId");
        answered.model = take_text(&mut members, "modelVersion");
        take_usage(&mut members, "usageMetadata", USAGE, answered);
        answered.counts.output_excludes_reasoning = answered.counts.reasoning.is_some();
        match api.operation {
            Operation::CountTokens => {
                answered.counted_tokens =
                    members.remove("totalTokens").as_ref().and_then(json::count);
            }
            Operation::Caches => {
                answered.id = take_text(&mut members, "name");
                answered.model = take_text(&mut members, "model")
                    .map(|model| model.strip_prefix("models/").unwrap_or(&model).to_owned());
            }
            _ => {}
        }
        for candidate in take_array(&mut members, "candidates") {
            answered.messages.push(match candidate {
                Value::Object(candidate) => self::candidate(candidate),
                raw => parted(vec![Part::Other { raw }]),
            });
        }
        // The prompt was refused: there are no candidates then.
        if let Some(reason) = members
            .get("promptFeedback")
            .and_then(|feedback| number(feedback.get("blockReason")?))
        {
            answered.messages.push(Message {
                finish_reason: Some(reason.clone()),
                ..parted(vec![Part::Refusal { text: reason }])
            });
        }
        super::without_vectors(&mut members);
        answered.other = members;
    }

    fn assembler(&self, _: &Api) -> Box<dyn Assembler> {
        Box::new(ContentAssembler::default())
    }
}

fn candidate(mut members: Map<String, Value>) -> Message {
    let mut message = content(members.remove("content").unwrap_or_default());
    message.finish_reason = members.remove("finishReason").as_ref().and_then(number);
    members.remove("index");
    message.other.extend(members);
    message
}

fn content(value: Value) -> Message {
    match value {
        Value::Null => Message::default(),
        Value::String(text) => parted(vec![text_part(text)]),
        Value::Object(mut members) => Message {
            role: take_text(&mut members, "role"),
            parts: parts_of(members.remove("parts").unwrap_or_default(), part),
            finish_reason: None,
            other: members,
        },
        raw => parted(vec![Part::Other { raw }]),
    }
}

fn part(mut members: Map<String, Value>) -> Part {
    let thought = members.get("thought").and_then(Value::as_bool) == Some(true);
    if members.get("text").is_some_and(Value::is_string) {
        let text = take_text(&mut members, "text").unwrap_or_default();
        if thought {
            members.remove("thought");
            return Part::Reasoning {
                text,
                other: members,
            };
        }
        return Part::Text {
            text,
            other: members,
        };
    }
    if let Some(Value::Object(mut call)) = take(&mut members, "functionCall", "function_call") {
        let id = take_text(&mut call, "id");
        let name = take_text(&mut call, "name");
        let arguments = call.remove("args").map(written).unwrap_or_default();
        members.extend(call);
        return Part::ToolCall {
            id,
            name,
            arguments,
            by_provider: false,
            other: members,
        };
    }
    if let Some(Value::Object(mut result)) =
        take(&mut members, "functionResponse", "function_response")
    {
        let id = take_text(&mut result, "id");
        let name = take_text(&mut result, "name");
        let response = result.remove("response").unwrap_or_default();
        members.extend(result);
        return Part::ToolResult {
            id,
            name,
            parts: vec![Part::Other { raw: response }],
            is_error: None,
            other: members,
        };
    }
    if let Some(Value::Object(mut data)) = take(&mut members, "inlineData", "inline_data") {
        let kind = mime(&mut data);
        let mut found = media(
            kind,
            data.get("data").and_then(Value::as_str).unwrap_or_default(),
        );
        data.remove("data");
        found.name = take(&mut data, "displayName", "display_name")
            .as_ref()
            .and_then(number);
        found.other = members;
        found.other.extend(data);
        return media_part(found);
    }
    if let Some(Value::Object(mut data)) = take(&mut members, "fileData", "file_data") {
        let found = Media {
            media_type: mime(&mut data),
            url: take(&mut data, "fileUri", "file_uri")
                .as_ref()
                .and_then(number),
            ..Media::default()
        };
        members.extend(data);
        return media_part(Media {
            other: members,
            ..found
        });
    }
    Part::Other {
        raw: Value::Object(members),
    }
}

fn mime(members: &mut Map<String, Value>) -> Option<String> {
    take(members, "mimeType", "mime_type")
        .as_ref()
        .and_then(number)
}

/// The functions of a tool, and the tools of Google's own.
fn tools(value: Value) -> Vec<ToolDefinition> {
    let Value::Object(mut members) = value else {
        return Vec::new();
    };
    let declared = take(
        &mut members,
        "functionDeclarations",
        "function_declarations",
    );
    let mut tools = Vec::new();
    for function in declared
        .as_ref()
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let Some(mut function) = function.as_object().cloned() else {
            continue;
        };
        tools.push(ToolDefinition {
            name: take_text(&mut function, "name"),
            description: take_text(&mut function, "description"),
            schema: [
                "parameters",
                "parametersJsonSchema",
                "parameters_json_schema",
            ]
            .iter()
            .find_map(|name| function.remove(*name)),
            other: function,
        });
    }
    for (name, value) in members {
        tools.push(ToolDefinition {
            other: Map::from_iter([(name.clone(), value)]),
            name: Some(name),
            ..ToolDefinition::default()
        });
    }
    tools
}

/// Puts items together: texts that follow each other become one part, all else stays apart.
#[derive(Debug, Default)]
struct ContentAssembler {
    top: Map<String, Value>,
    candidates: BTreeMap<u64, Map<String, Value>>,
}

impl Assembler for ContentAssembler {
    fn ends(&self, event: &Event<'_>) -> bool {
        event.data.contains("\"error\"")
            && json::any(&event.data).is_some_and(|body| error(&body).is_some())
    }

    // Older models say in every item that they stopped, so the next item may show that this one wasn't the last.
    fn may_end(&self, event: &Event<'_>) -> bool {
        (event.data.contains("\"finishReason\"") || event.data.contains("\"blockReason\""))
            && json::any(&event.data).is_some_and(|body| {
                body.pointer("/promptFeedback/blockReason").is_some()
                    || json::items(&body, "candidates").iter().any(|candidate| {
                        candidate.get("finishReason").is_some_and(|r| !r.is_null())
                    })
            })
    }

    fn event(&mut self, event: &Event<'_>, room: &mut Room) -> bool {
        let Some(Value::Object(mut body)) = json::any(&event.data) else {
            return false;
        };
        for given in take_array(&mut body, "candidates") {
            let Value::Object(mut given) = given else {
                continue;
            };
            let index = given.get("index").and_then(Value::as_u64).unwrap_or(0);
            if self.candidates.len() >= CHOICES_MAX && !self.candidates.contains_key(&index) {
                room.cut = true;
                continue;
            }
            let candidate = self.candidates.entry(index).or_default();
            if let Some(content) = take_map(&mut given, "content") {
                let into = candidate
                    .entry("content")
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(into) = into {
                    merge(into, content, room);
                }
            }
            put_all(candidate, given, room);
        }
        if let Some(usage) = take_map(&mut body, "usageMetadata") {
            let into = self
                .top
                .entry("usageMetadata")
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(into) = into {
                put_all(into, usage, room);
            }
        }
        put_all(&mut self.top, body, room);
        true
    }

    fn finish(self: Box<Self>) -> Value {
        let mut top = self.top;
        if !self.candidates.is_empty() {
            let candidates = self.candidates.into_values().map(Value::Object).collect();
            top.insert("candidates".to_owned(), Value::Array(candidates));
        }
        Value::Object(top)
    }
}

fn merge(into: &mut Map<String, Value>, mut content: Map<String, Value>, room: &mut Room) {
    let parts = take_array(&mut content, "parts");
    put_all(into, content, room);
    let old = into
        .entry("parts")
        .or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(old) = old else {
        return;
    };
    for part in parts {
        if let (Some(Value::Object(last)), Value::Object(new)) = (old.last_mut(), &part)
            && let (true, Some(text)) = (
                last.get("text").is_some_and(Value::is_string),
                new.get("text").and_then(Value::as_str),
            )
            && last.get("thought") == new.get("thought")
        {
            append(last, "text", text, room);
            for (name, value) in new {
                if name != "text" {
                    put(last, name.clone(), value.clone(), room);
                }
            }
        } else if room.take(weight(&part)) {
            old.push(part);
        }
    }
}
