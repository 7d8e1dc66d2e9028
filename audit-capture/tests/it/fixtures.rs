//! Recorded exchanges, single ones and sessions: facts and view against an expectation that is computed straight from the
//! recorded JSON, by other means than the crate's.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use audit_capture::{
    Operation, Outcome, Part, Progress, RequestHead, ResponseFacts, ResponseHead, ResponseParser,
    ToolSide, detect, exchange, request_facts,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::Cuts;

struct Recorded {
    name: String,
    json: Value,
}

impl Recorded {
    fn text(&self, path: &str) -> &str {
        self.json
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    fn headers(&self, path: &str) -> Vec<(String, Vec<u8>)> {
        self.json
            .pointer(path)
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| {
                (
                    pair[0].as_str().unwrap().to_owned(),
                    pair[1].as_str().unwrap().as_bytes().to_vec(),
                )
            })
            .collect()
    }

    fn head(&self) -> ResponseHead {
        let status = self.json["response"]["status"].as_u64().unwrap();
        ResponseHead::new(
            u16::try_from(status).unwrap(),
            self.headers("/response/headers"),
        )
    }

    fn request_head(&self) -> RequestHead {
        RequestHead::new(
            self.text("/request/method"),
            self.text("/request/url"),
            self.headers("/request/headers"),
        )
    }

    fn body(&self, side: &str) -> Vec<u8> {
        let text = self.text(&format!("/{side}/body"));
        match self.json[side]["body_encoding"].as_str() {
            Some("base64") => STANDARD.decode(text).unwrap(),
            _ => text.as_bytes().to_vec(),
        }
    }

    fn streaming(&self) -> bool {
        self.json["streaming"].as_bool().unwrap()
    }

    fn api(&self) -> audit_capture::Api {
        detect(
            None,
            None,
            self.text("/request/method"),
            self.text("/request/url"),
        )
    }
}

fn root() -> Option<PathBuf> {
    let root = std::env::var_os("AUDIT_FIXTURES");
    if root.is_none() {
        println!("skipped: AUDIT_FIXTURES is not set");
    }
    root.map(|root| PathBuf::from(root).join("llm-traffic"))
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == ending) || ending.is_empty())
        .collect();
    files.sort();
    files
}

/// Every exchange: single ones, then those of sessions.
fn everything(root: &Path) -> Vec<Recorded> {
    let mut all = Vec::new();
    for folder in files(&root.join("exchanges"), "") {
        for path in files(&folder, "json") {
            all.push(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap());
        }
    }
    assert_eq!(all.len(), 258);
    for path in files(&root.join("sessions"), "jsonl") {
        for line in std::fs::read_to_string(path).unwrap().lines() {
            all.push(serde_json::from_str(line).unwrap());
        }
    }
    assert_eq!(all.len(), 258 + 144);
    all.into_iter()
        .map(|json: Value| Recorded {
            name: json["id"].as_str().unwrap().to_owned(),
            json,
        })
        .collect()
}

/// What the fixtures call a provider, and what we do.
fn provider(recorded: &Recorded) -> String {
    let url = recorded.text("/request/url");
    let name = match recorded.text("/provider") {
        "aws-bedrock" => "aws.bedrock",
        "aws-sagemaker" => "aws.sagemaker",
        "azure-openai" if url.contains("/models/") => "azure.ai.inference",
        "azure-openai" => "azure.ai.openai",
        "google-gemini" => "gcp.gemini",
        "google-vertex" => "gcp.vertex_ai",
        "mistral" => "mistral_ai",
        "ollama-cloud" => "ollama",
        "xai" => "x_ai",
        // Local servers go by their host.
        "local-openai-compatible" => "localhost",
        "ollama" => {
            return url
                .trim_start_matches("http://")
                .split(':')
                .next()
                .unwrap()
                .to_owned();
        }
        other => other,
    };
    name.to_owned()
}

fn operation(recorded: &Recorded) -> Operation {
    match recorded.text("/api") {
        "chat" | "ollama-chat" => Operation::Chat,
        "responses" => Operation::Responses,
        "messages" | "messages-rawPredict" => Operation::Messages,
        "generateContent" | "streamGenerateContent" => Operation::GenerateContent,
        "converse" | "converse-stream" => Operation::Converse,
        "invoke" | "invoke-stream" | "invocations" => Operation::Invoke,
        "embeddings" => Operation::Embeddings,
        "completions" | "complete" | "generate" | "ollama-generate" => Operation::TextCompletion,
        "count_tokens" => Operation::CountTokens,
        "caches" => Operation::Caches,
        "rerank" => Operation::Rerank,
        "files" => Operation::Files,
        "audio" => Operation::Speech,
        "images" => Operation::Images,
        "predictions" => Operation::Predictions,
        "assistants" if recorded.text("/request/url").contains("/runs") => Operation::Runs,
        "assistants" if recorded.text("/request/url").ends_with("/threads") => Operation::Threads,
        "assistants" => Operation::Assistants,
        other => panic!("the fixtures have a new API: {other}"),
    }
}

/// What the recorded response says.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    id: Option<String>,
    model: Option<String>,
    finish: Vec<String>,
    /// Of the first choice.
    text: String,
    /// Of the first choice; facts don't have it.
    reasoning: Option<String>,
    calls: Vec<(Option<String>, String, Value)>,
    usage: [Option<u64>; 5],
    error: Option<(Option<String>, Option<String>)>,
}

fn text_of(value: &Value) -> Option<String> {
    value
        .as_str()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

/// A word, or a number in its place.
fn word(value: &Value) -> Option<String> {
    text_of(value).or_else(|| value.as_u64().map(|n| n.to_string()))
}

fn arguments(text: &str) -> Value {
    if text.is_empty() {
        return json!({});
    }
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Input, output, read from the cache, written to it, reasoning; as the provider counts them.
const COUNTS: [&[&str]; 5] = [
    &[
        "/prompt_tokens",
        "/input_tokens",
        "/inputTokens",
        "/promptTokenCount",
        "/tokens/input_tokens",
        "/billed_units/input_tokens",
        "/prompt_eval_count",
        "/inputTextTokenCount",
    ],
    &[
        "/completion_tokens",
        "/output_tokens",
        "/outputTokens",
        "/candidatesTokenCount",
        "/tokens/output_tokens",
        "/billed_units/output_tokens",
        "/eval_count",
        "/totalOutputTextTokenCount",
    ],
    &[
        "/prompt_tokens_details/cached_tokens",
        "/input_tokens_details/cached_tokens",
        "/prompt_token_details/cached_tokens",
        "/cache_read_input_tokens",
        "/prompt_cache_hit_tokens",
        "/cacheReadInputTokens",
        "/cacheReadInputTokenCount",
        "/cachedContentTokenCount",
        "/cached_tokens",
    ],
    &[
        "/cache_creation_input_tokens",
        "/input_tokens_details/cache_write_tokens",
        "/prompt_tokens_details/cache_write_tokens",
        "/cacheWriteInputTokens",
        "/cacheWriteInputTokenCount",
    ],
    &[
        "/completion_tokens_details/reasoning_tokens",
        "/output_tokens_details/reasoning_tokens",
        "/output_tokens_details/thinking_tokens",
        "/thoughtsTokenCount",
        "/tokens/reasoning_tokens",
    ],
];

impl Expected {
    fn count(&mut self, usage: &Value) {
        for (old, places) in self.usage.iter_mut().zip(COUNTS) {
            let given = places.iter().find_map(|p| {
                let value = usage.pointer(p)?;
                // Titan writes whole numbers with a fraction of zero.
                value
                    .as_u64()
                    .or_else(|| value.to_string().strip_suffix(".0")?.parse().ok())
            });
            *old = given.or(*old);
        }
    }

    fn think(&mut self, text: &Value) {
        if let Some(text) = text.as_str() {
            self.reasoning.get_or_insert_default().push_str(text);
        }
    }

    fn call(&mut self, id: &Value, name: &Value, given: &Value) {
        let given = match given {
            Value::String(text) => arguments(text),
            other => other.clone(),
        };
        self.calls
            .push((text_of(id), name.as_str().unwrap().to_owned(), given));
    }

    fn fail(&mut self, body: &Value) {
        let error = &body["error"];
        if error.is_object() {
            self.error = Some((
                text_of(&error["type"]).or(text_of(&error["status"])),
                text_of(&error["message"]),
            ));
        } else if let Some(text) = text_of(error) {
            self.error = Some((None, Some(text)));
        }
    }
}

fn whole(body: &Value, operation: Operation, status: u16) -> Expected {
    // Bedrock's own format depends on the model.
    let operation = match operation {
        Operation::Invoke if body["type"] == "message" => Operation::Messages,
        Operation::Invoke if body["output"]["message"].is_object() => Operation::Converse,
        other => other,
    };
    let mut e = Expected {
        id: text_of(&body["id"]).or(text_of(&body["responseId"])),
        model: text_of(&body["model"]).or(text_of(&body["modelVersion"])),
        ..Expected::default()
    };
    e.count(&body["usage"]);
    e.count(&body["usageMetadata"]);
    e.count(&body["meta"]);
    e.fail(body);
    if status >= 400 && e.error.is_none() {
        e.error = Some((None, text_of(&body["message"])));
    }
    match operation {
        Operation::Responses => {
            e.finish.extend(
                text_of(&body["incomplete_details"]["reason"]).or(text_of(&body["status"])),
            );
            for item in each(&body["output"]) {
                for part in each(&item["content"]) {
                    match part["type"].as_str().unwrap() {
                        "output_text" => e.text += part["text"].as_str().unwrap(),
                        "reasoning_text" => e.think(&part["text"]),
                        other => assert_eq!(other, "refusal"),
                    }
                }
                for part in each(&item["summary"]) {
                    e.think(&part["text"]);
                }
                if item["type"] == "function_call" {
                    e.call(&item["call_id"], &item["name"], &item["arguments"]);
                }
            }
        }
        Operation::Messages => {
            e.finish.extend(text_of(&body["stop_reason"]));
            for block in each(&body["content"]) {
                match block["type"].as_str().unwrap() {
                    "text" => e.text += block["text"].as_str().unwrap(),
                    "thinking" => e.think(&block["thinking"]),
                    "tool_use" => e.call(&block["id"], &block["name"], &block["input"]),
                    _ => {}
                }
            }
        }
        Operation::GenerateContent => {
            for (at, candidate) in each(&body["candidates"]).enumerate() {
                e.finish.extend(word(&candidate["finishReason"]));
                for part in each(&candidate["content"]["parts"]) {
                    if part["functionCall"].is_object() {
                        let call = &part["functionCall"];
                        e.call(&call["id"], &call["name"], &call["args"]);
                    } else if part["thought"] == true {
                        e.think(&part["text"]);
                    } else if at == 0 {
                        e.text += part["text"].as_str().unwrap_or_default();
                    }
                }
            }
        }
        Operation::Converse => {
            e.finish.extend(text_of(&body["stopReason"]));
            for block in each(&body["output"]["message"]["content"]) {
                e.text += block["text"].as_str().unwrap_or_default();
                for cited in each(&block["citationsContent"]["content"]) {
                    e.text += cited["text"].as_str().unwrap();
                }
                e.think(&block["reasoningContent"]["reasoningText"]["text"]);
                let call = &block["toolUse"];
                if call.is_object() && call["type"] != "server_tool_use" {
                    e.call(&call["toolUseId"], &call["name"], &call["input"]);
                }
            }
        }
        Operation::Invoke => {
            e.count(body);
            e.text = each(body)
                .filter_map(|item| item["generated_text"].as_str())
                .collect();
        }
        Operation::Caches => {
            e.id = text_of(&body["name"]);
            e.model = e.model.map(|m| m.replace("models/", ""));
        }
        Operation::Predictions => {
            e.finish.extend(text_of(&body["status"]));
        }
        Operation::Rerank | Operation::Models => {}
        // Cohere.
        _ if body["message"]["content"].is_array() || body["message"]["tool_plan"].is_string() => {
            let message = &body["message"];
            e.finish.extend(text_of(&body["finish_reason"]));
            e.think(&message["tool_plan"]);
            for part in each(&message["content"]) {
                e.text += part["text"].as_str().unwrap_or_default();
                e.think(&part["thinking"]);
            }
            for call in each(&message["tool_calls"]) {
                let function = &call["function"];
                e.call(&call["id"], &function["name"], &function["arguments"]);
            }
        }
        _ if body["generations"].is_array() => {
            e.text = text_of(&body["generations"][0]["text"]).unwrap();
            e.finish
                .extend(text_of(&body["generations"][0]["finish_reason"]));
        }
        // Ollama.
        _ if body["done"] == true => {
            e.count(body);
            e.finish.extend(text_of(&body["done_reason"]));
            e.text = text_of(&body["message"]["content"])
                .or(text_of(&body["response"]))
                .unwrap_or_default();
            e.think(&body["message"]["thinking"]);
            for call in each(&body["message"]["tool_calls"]) {
                let function = &call["function"];
                e.call(&call["id"], &function["name"], &function["arguments"]);
            }
        }
        _ => {
            for (at, choice) in each(&body["choices"]).enumerate() {
                e.finish.extend(text_of(&choice["finish_reason"]));
                let message = &choice["message"];
                if at == 0 {
                    let content = &message["content"];
                    e.text += content
                        .as_str()
                        .or(choice["text"].as_str())
                        .unwrap_or_default();
                    e.think(reasoning_of(message));
                    mistral(&mut e, content);
                }
                for call in each(&message["tool_calls"]) {
                    let function = &call["function"];
                    e.call(&call["id"], &function["name"], &function["arguments"]);
                }
            }
        }
    }
    e
}

/// Reasoning beside the content. Some say it twice.
fn reasoning_of(message: &Value) -> &Value {
    let names = ["reasoning_content", "reasoning"];
    names
        .iter()
        .map(|name| &message[*name])
        .find(|value| value.is_string())
        .unwrap_or(&Value::Null)
}

/// Content in parts, reasoning among them.
fn mistral(e: &mut Expected, content: &Value) {
    for part in each(content) {
        e.text += part["text"].as_str().unwrap_or_default();
        for inner in each(&part["thinking"]) {
            e.think(&inner["text"]);
        }
    }
}

/// The events of a stream with their names: the whole of it, split at what separates them.
fn events(recorded: &Recorded) -> Vec<(String, Value)> {
    let body = recorded.body("response");
    if recorded.text("/stream_format") == "aws-eventstream" {
        return frames(&body);
    }
    let text = String::from_utf8(body).unwrap();
    let unnamed = |value| (String::new(), value);
    match recorded.text("/stream_format") {
        "ndjson" => text
            .lines()
            .map(|line| unnamed(serde_json::from_str(line).unwrap()))
            .collect(),
        "json-array" => serde_json::from_str::<Vec<Value>>(&text)
            .unwrap()
            .into_iter()
            .map(unnamed)
            .collect(),
        _ => text
            .replace("\r\n", "\n")
            .split("\n\n")
            .filter_map(|block| {
                let field = |name: &str| -> Vec<&str> {
                    block
                        .lines()
                        .filter_map(|l| l.strip_prefix(name))
                        .map(str::trim_start)
                        .collect()
                };
                let (name, data) = (field("event:"), field("data:"));
                (!data.is_empty() && data != ["[DONE]"]).then(|| {
                    (
                        name.concat(),
                        serde_json::from_str(&data.join("\n")).unwrap(),
                    )
                })
            })
            .collect(),
    }
}

/// The frames of AWS's event stream, by their lengths alone.
fn frames(mut bytes: &[u8]) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let number = |at: usize| {
            usize::try_from(u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap()
        };
        let (total, headers) = (number(0), number(4));
        let names = &bytes[12..12 + headers];
        let mark = b":event-type\x07";
        let at = names
            .windows(mark.len())
            .position(|window| window == mark)
            .unwrap()
            + mark.len();
        let length = usize::from(names[at + 1]);
        let name = String::from_utf8(names[at + 2..at + 2 + length].to_vec()).unwrap();
        let body: Value = serde_json::from_slice(&bytes[12 + headers..total - 4]).unwrap();
        match body["bytes"].as_str() {
            None => found.push((name, body)),
            Some(encoded) => {
                let inner: Value =
                    serde_json::from_slice(&STANDARD.decode(encoded).unwrap()).unwrap();
                match inner.as_object().and_then(|o| {
                    o.iter().find(|(k, _)| {
                        k.starts_with("messageSt")
                            || k.starts_with("contentBlock")
                            || *k == "metadata"
                    })
                }) {
                    Some((kind, body)) => found.push((kind.clone(), body.clone())),
                    None => found.push((String::new(), inner)),
                }
            }
        }
        bytes = &bytes[total..];
    }
    found
}

/// Calls by what they are found by: id, name and the pieces of their arguments.
type Calls = BTreeMap<u64, (Value, Value, String)>;

fn streamed(recorded: &Recorded, operation: Operation) -> Expected {
    let mut e = Expected::default();
    let mut calls = Calls::new();
    let mut deltas = String::new();
    let events = events(recorded);
    let operation = match operation {
        Operation::Invoke if events[0].1["type"] == "message_start" => Operation::Messages,
        Operation::Invoke if events[0].0 == "messageStart" => Operation::Converse,
        other => other,
    };
    for (name, event) in &events {
        e.fail(event);
        match operation {
            Operation::Responses => {
                if event["type"] == "response.output_text.delta" {
                    deltas += event["delta"].as_str().unwrap();
                }
                if event["type"] == "response.completed" {
                    e = whole(&event["response"], operation, 200);
                }
            }
            Operation::Messages => match event["type"].as_str().unwrap() {
                "message_start" => {
                    e.id = text_of(&event["message"]["id"]);
                    e.model = text_of(&event["message"]["model"]);
                    e.count(&event["message"]["usage"]);
                }
                "content_block_start" if event["content_block"]["type"] == "tool_use" => {
                    let block = &event["content_block"];
                    calls.insert(
                        event["index"].as_u64().unwrap(),
                        (block["id"].clone(), block["name"].clone(), String::new()),
                    );
                }
                "content_block_delta" => {
                    let delta = &event["delta"];
                    e.text += delta["text"].as_str().unwrap_or_default();
                    e.think(&delta["thinking"]);
                    if let Some(call) = calls.get_mut(&event["index"].as_u64().unwrap()) {
                        call.2 += delta["partial_json"].as_str().unwrap_or_default();
                    }
                }
                "message_delta" => {
                    e.finish.extend(text_of(&event["delta"]["stop_reason"]));
                    e.count(&event["usage"]);
                }
                _ => {}
            },
            Operation::GenerateContent => {
                let item = whole(event, operation, 200);
                e.text += &item.text;
                e.reasoning = match (e.reasoning, item.reasoning) {
                    (Some(a), Some(b)) => Some(a + &b),
                    (a, b) => a.or(b),
                };
                e.calls.extend(item.calls);
                e.finish.extend(item.finish);
                e.id = item.id.or(e.id);
                e.model = item.model.or(e.model);
                e.count(&event["usageMetadata"]);
            }
            Operation::Converse => {
                let index = event["contentBlockIndex"].as_u64().unwrap_or_default();
                match name.as_str() {
                    "contentBlockStart" => {
                        let call = &event["start"]["toolUse"];
                        if call.is_object() && call["type"] != "server_tool_use" {
                            calls.insert(
                                index,
                                (
                                    call["toolUseId"].clone(),
                                    call["name"].clone(),
                                    String::new(),
                                ),
                            );
                        }
                    }
                    "contentBlockDelta" => {
                        let delta = &event["delta"];
                        e.text += delta["text"].as_str().unwrap_or_default();
                        e.think(&delta["reasoningContent"]["text"]);
                        if let Some(call) = calls.get_mut(&index) {
                            call.2 += delta["toolUse"]["input"].as_str().unwrap_or_default();
                        }
                    }
                    "messageStop" => e.finish.extend(text_of(&event["stopReason"])),
                    "metadata" => e.count(&event["usage"]),
                    _ => {}
                }
            }
            Operation::Invoke => {
                e.text += event["outputText"].as_str().unwrap();
                e.finish.extend(text_of(&event["completionReason"]));
                e.count(event);
            }
            Operation::Runs => match name.as_str() {
                "thread.message.delta" => {
                    for part in each(&event["delta"]["content"]) {
                        e.text += part["text"]["value"].as_str().unwrap_or_default();
                    }
                }
                "thread.run.completed" => {
                    e.id = text_of(&event["id"]);
                    e.model = text_of(&event["model"]);
                    e.finish = vec![text_of(&event["status"]).unwrap()];
                    e.count(&event["usage"]);
                }
                _ => {}
            },
            _ if recorded.text("/provider") == "cohere" => {
                let message = &event["delta"]["message"];
                e.id = text_of(&event["id"]).or(e.id);
                e.text += message["content"]["text"].as_str().unwrap_or_default();
                if event["type"] != "message-start" {
                    e.think(&message["tool_plan"]);
                }
                e.think(&message["content"]["thinking"]);
                let call = &message["tool_calls"];
                if call.is_object() {
                    let entry = calls.entry(event["index"].as_u64().unwrap()).or_default();
                    if call["id"].is_string() {
                        entry.0 = call["id"].clone();
                        entry.1 = call["function"]["name"].clone();
                    }
                    entry.2 += call["function"]["arguments"].as_str().unwrap_or_default();
                }
                e.finish.extend(text_of(&event["delta"]["finish_reason"]));
                e.count(&event["delta"]["usage"]);
            }
            _ if event.get("done").is_some() => {
                e.model = text_of(&event["model"]);
                e.text += event["response"]
                    .as_str()
                    .or(event["message"]["content"].as_str())
                    .unwrap();
                e.think(&event["message"]["thinking"]);
                for call in each(&event["message"]["tool_calls"]) {
                    let function = &call["function"];
                    e.call(&call["id"], &function["name"], &function["arguments"]);
                }
                e.finish.extend(text_of(&event["done_reason"]));
                e.count(event);
            }
            _ => {
                e.id = text_of(&event["id"]).or(text_of(&event["log_id"])).or(e.id);
                e.model = text_of(&event["model"]).or(e.model);
                e.count(&event["x_groq"]["usage"]);
                e.count(&event["usage"]);
                e.text += event["completion"].as_str().unwrap_or_default();
                e.finish.extend(text_of(&event["stop_reason"]));
                for choice in each(&event["choices"]) {
                    // The last one counts: some servers say it in every chunk.
                    if let Some(reason) = text_of(&choice["finish_reason"]) {
                        e.finish = vec![reason];
                    }
                    if choice["index"] == 0 {
                        e.text += choice["delta"]["content"]
                            .as_str()
                            .or(choice["text"].as_str())
                            .unwrap_or_default();
                        e.think(reasoning_of(&choice["delta"]));
                        mistral(&mut e, &choice["delta"]["content"]);
                    }
                    for call in each(&choice["delta"]["tool_calls"]) {
                        let entry = calls
                            .entry(call["index"].as_u64().unwrap_or(0))
                            .or_default();
                        if call["id"].as_str().is_some_and(|id| !id.is_empty()) {
                            entry.0 = call["id"].clone();
                        }
                        if call["function"]["name"]
                            .as_str()
                            .is_some_and(|n| !n.is_empty())
                        {
                            entry.1 = call["function"]["name"].clone();
                        }
                        entry.2 += call["function"]["arguments"].as_str().unwrap_or_default();
                    }
                }
            }
        }
    }
    if operation == Operation::Responses {
        assert_eq!(
            e.text, deltas,
            "the recorded deltas and the recorded end differ"
        );
    }
    for (id, name, given) in calls.into_values() {
        e.call(&id, &name, &Value::from(given));
    }
    e
}

fn found(facts: &ResponseFacts) -> Expected {
    let usage = &facts.usage;
    Expected {
        id: facts.id.clone(),
        model: facts.model.clone(),
        finish: facts.finish_reasons.clone(),
        text: facts.text().to_owned(),
        reasoning: None,
        calls: facts
            .tool_calls
            .iter()
            .filter(|call| call.side == ToolSide::Client)
            .map(|call| {
                (
                    call.id.clone(),
                    call.name.clone().unwrap(),
                    arguments(&call.arguments),
                )
            })
            .collect(),
        usage: [
            usage.input,
            usage.output,
            usage.cache_read,
            usage.cache_creation,
            usage.reasoning,
        ],
        error: facts
            .error
            .as_ref()
            .map(|e| (e.kind.clone(), e.message.clone())),
    }
}

/// The same of the view.
fn seen(answered: &audit_capture::Answered, operation: Operation) -> Expected {
    let first = answered.messages.first();
    let parts = || first.into_iter().flat_map(|m| &m.parts);
    let mut e = Expected {
        id: answered.id.clone(),
        model: answered.model.clone(),
        finish: answered
            .messages
            .iter()
            .filter_map(|m| m.finish_reason.clone())
            .collect(),
        error: answered
            .error
            .as_ref()
            .map(|e| (e.kind.clone(), e.message.clone())),
        ..Expected::default()
    };
    for part in parts() {
        match part {
            Part::Text { text, .. } if operation != Operation::Speech => e.text += text,
            Part::Reasoning { text, .. } if !text.is_empty() => {
                e.reasoning.get_or_insert_default().push_str(text);
            }
            _ => {}
        }
    }
    for part in answered.messages.iter().flat_map(|m| &m.parts) {
        if let Part::ToolCall {
            id,
            name,
            arguments: given,
            by_provider: false,
            ..
        } = part
        {
            e.calls
                .push((id.clone(), name.clone().unwrap(), arguments(given)));
        }
    }
    if let Some(usage) = &answered.usage {
        e.usage = [
            usage.input,
            usage.output,
            usage.cache_read,
            usage.cache_creation,
            usage.reasoning,
        ];
    }
    e
}

/// What the provider counts, in the one meaning that the view has.
fn totals(e: &mut Expected, recorded: &Recorded, operation: Operation) {
    let [input, output, read, written, reasoning] = &mut e.usage;
    let url = recorded.text("/request/url");
    let anthropic = operation == Operation::Messages
        || operation == Operation::Converse
        || (operation == Operation::Invoke && (url.contains("claude") || url.contains("nova")));
    if anthropic {
        *input = input.map(|i| i + read.unwrap_or(0) + written.unwrap_or(0));
    }
    // Gemini's and xAI's output leaves reasoning out.
    let apart = operation == Operation::GenerateContent
        || (operation == Operation::Chat
            && (url.contains("api.x.ai") || recorded.text("/model").starts_with("grok")));
    if apart && (output.is_some() || reasoning.is_some()) {
        *output = Some(output.unwrap_or(0) + reasoning.unwrap_or(0));
    }
}

/// Feeds `chunks` and checks what may be passed on early.
fn feed<'c>(
    recorded: &Recorded,
    chunks: impl IntoIterator<Item = &'c [u8]>,
) -> (ResponseFacts, Vec<u8>, Vec<u8>) {
    let asked = request_facts(
        &recorded.api(),
        &recorded.request_head(),
        &recorded.body("request"),
    );
    let mut parser = ResponseParser::new(&recorded.api(), &recorded.head(), asked.stream);
    let (mut early, mut late) = (Vec::new(), Vec::new());
    let mut ended = false;
    for chunk in chunks {
        let Progress {
            safe,
            release,
            terminal,
            ..
        } = parser.push(chunk);
        assert!(
            !ended || safe == 0 && (!release || late.is_empty()),
            "a byte was passed on after the terminal event"
        );
        ended = terminal;
        if release {
            early.append(&mut late);
        }
        assert!(late.is_empty() || safe == 0, "bytes change places");
        let (passed, held) = chunk.split_at(safe);
        early.extend_from_slice(passed);
        late.extend_from_slice(held);
    }
    (parser.finish(Outcome::Complete), early, late)
}

/// What ends each stream.
const LAST: [&str; 13] = [
    "[DONE]",
    "response.completed",
    "message_stop",
    "stop_sequence",
    "finishReason",
    "messageStop",
    "\"done\":true",
    "\"done\": true",
    "message-end",
    "\"error\"",
    "event: done",
    "bytes",
    "thread.run.completed",
];

fn check(recorded: &Recorded) {
    let name = &recorded.name;
    let api = recorded.api();
    let operation = api.operation;
    let body = recorded.body("response");
    let status = recorded.head().status;
    let json = serde_json::from_slice(&body).unwrap_or_default();
    let mut expected = if recorded.streaming() {
        streamed(recorded, operation)
    } else {
        whole(&json, operation, status)
    };
    let (facts, early, late) = feed(recorded, [body.as_slice()]);
    if operation == Operation::CountTokens {
        let counted = &json["input_tokens"];
        assert_eq!(
            facts.counted_tokens,
            counted.as_u64().or(json["totalTokens"].as_u64()),
            "{name}"
        );
        expected.usage = Default::default();
    }
    let reasoning = expected.reasoning.take();
    assert_eq!(found(&facts), expected, "{name}");
    assert_eq!(facts.unparsed, None, "{name}");
    assert!(
        facts.complete && !facts.truncated && facts.unreadable_events == 0,
        "{name}"
    );
    assert_eq!(facts.streamed, recorded.streaming(), "{name}");
    assert_eq!([early.clone(), late.clone()].concat(), body, "{name}");
    let held = String::from_utf8_lossy(&late).into_owned();
    assert_eq!(held.is_empty(), !recorded.streaming(), "{name}");
    if recorded.streaming() {
        assert!(
            LAST.iter().any(|word| held.contains(word)),
            "{name}: held back {held:?}"
        );
        assert!(
            late.len() < body.len() || events(recorded).len() == 1,
            "{name}: nothing passes"
        );
    }

    let mut cuts = Cuts(body.len() as u64);
    let mut pieces = vec![
        cuts.cut(&body, 40),
        cuts.cut(&body, 4000),
        body.split_inclusive(|b| *b == b'\n').collect(),
    ];
    if body.len() < 300_000 {
        pieces.push(body.chunks(1).collect());
    }
    for pieces in pieces {
        let (again, early, late) = feed(recorded, pieces);
        assert!(again == facts, "{name}: chunks change the facts");
        assert_eq!([early, late.clone()].concat(), body);
        assert_eq!(late.is_empty(), !recorded.streaming(), "{name}");
    }

    // The view.
    expected.reasoning = reasoning.filter(|text| !text.is_empty());
    totals(&mut expected, recorded, operation);
    let request = recorded.body("request");
    let view = exchange(
        &api,
        Some((&recorded.request_head(), &request)),
        Some((&recorded.head(), &body)),
    );
    let answered = view.response.as_ref().unwrap();
    assert_eq!(seen(answered, operation), expected, "{name}: the view");
    assert_eq!(answered.unparsed, None, "{name}");
    assert!(answered.complete && !answered.truncated, "{name}");
    assert_eq!(answered.unreadable_events, 0, "{name}");
    assert_eq!(answered.streamed, recorded.streaming(), "{name}");
    assert_eq!(
        view.to_json().to_string(),
        exchange(
            &api,
            Some((&recorded.request_head(), &request)),
            Some((&recorded.head(), &body)),
        )
        .to_json()
        .to_string(),
        "{name}: the same bytes give another view"
    );

    if recorded.streaming() {
        for (_, event) in events(recorded) {
            all_there(name, &unframed(event), &view.to_json());
        }
    } else {
        all_there(name, &json, &view.to_json());
    }

    // A stream that breaks off anywhere is incomplete, and yields facts nevertheless.
    let cut = early.len() / 2;
    if cut > 0 && recorded.streaming() {
        let mut parser = ResponseParser::new(&api, &recorded.head(), true);
        parser.push(&body[..cut]);
        let facts = parser.finish(Outcome::Complete);
        assert!(!facts.complete, "{name}: half a stream counts as complete");
        assert!(expected.text.starts_with(facts.text()), "{name}");
    }
}

/// Members that hold the bytes of media, or what nobody can read.
const BYTES: [&str; 6] = [
    "data",
    "bytes",
    "file_data",
    "encrypted_content",
    "b64_json",
    "images",
];

/// Every text, id and name that a request holds somewhere, by plain search.
fn strings(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) if !text.starts_with("data:") => into.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, into)),
        Value::Object(members) => {
            for (name, item) in members {
                if !BYTES.contains(&name.as_str()) {
                    strings(item, into);
                }
            }
        }
        _ => {}
    }
}

fn check_request(recorded: &Recorded) {
    let name = &recorded.name;
    let head = recorded.request_head();
    let api = recorded.api();
    let body = recorded.body("request");
    let facts = request_facts(&api, &head, &body);
    // The body of one form was recorded as base64, as though that were its bytes.
    let note = (name == "openai--files--plain--26a6d78b").then_some("a form without its boundary");
    assert_eq!(facts.unparsed.as_deref(), note, "{name}");
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    let url = recorded.text("/request/url");
    // A model in the path wins.
    let path = url.split('?').next().unwrap();
    let decoded = path.replace("%3A", ":");
    let in_path = if let Some((_, rest)) = decoded.split_once("/model/") {
        rest.rsplit_once('/').map(|(model, _)| model.to_owned())
    } else if let Some((_, rest)) = decoded.rsplit_once("/models/") {
        rest.rsplit_once(':').map(|(model, _)| model.to_owned())
    } else {
        None
    };
    let model = in_path.or(text_of(&json["model"]).map(|m| m.replace("models/", "")));
    assert_eq!(facts.model, model, "{name}");
    let ollama = url.contains("/api/chat") || url.contains("/api/generate");
    let stream = json["stream"] == true
        || (ollama && json["stream"] != false)
        || ["converse-stream", "response-stream", "streamRawPredict"]
            .iter()
            .any(|end| path.ends_with(end))
        || path.ends_with(":streamGenerateContent");
    assert_eq!(facts.stream, stream, "{name}");
    let attributes = facts.attributes();
    for (places, attribute) in [
        (
            &[
                "/temperature",
                "/generationConfig/temperature",
                "/inferenceConfig/temperature",
                "/options/temperature",
                "/textGenerationConfig/temperature",
                "/parameters/temperature",
            ][..],
            "gen_ai.request.temperature",
        ),
        (
            &["/seed", "/options/seed", "/generationConfig/seed"],
            "gen_ai.request.seed",
        ),
        (
            &["/n", "/generationConfig/candidateCount"],
            "gen_ai.request.choice.count",
        ),
        (
            &[
                "/max_completion_tokens",
                "/max_output_tokens",
                "/max_tokens",
                "/max_tokens_to_sample",
                "/generationConfig/maxOutputTokens",
                "/generationConfig/max_output_tokens",
                "/inferenceConfig/maxTokens",
                "/options/num_predict",
                "/textGenerationConfig/maxTokenCount",
                "/parameters/max_new_tokens",
            ],
            "gen_ai.request.max_tokens",
        ),
    ] {
        let given = places
            .iter()
            .find_map(|place| json.pointer(place))
            .filter(|value| !value.is_null());
        assert_eq!(attributes.get(attribute), given, "{name}: {attribute}");
    }

    // Ids of results, by plain search through the whole body.
    let mut ids = Vec::new();
    for item in each(&json["messages"])
        .chain(each(&json["input"]))
        .chain(each(&json["contents"]))
    {
        ids.extend(text_of(&item["tool_call_id"]));
        if item["type"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("_call_output"))
        {
            ids.extend(text_of(&item["call_id"]));
        }
        for block in each(&item["content"]).chain(each(&item["parts"])) {
            if block["type"] == "tool_result" || block["type"].is_null() {
                ids.extend(text_of(&block["tool_use_id"]));
            }
            ids.extend(text_of(&block["toolResult"]["toolUseId"]));
            ids.extend(text_of(&block["functionResponse"]["id"]));
            ids.extend(text_of(&block["function_response"]["id"]));
        }
    }
    let seen: Vec<String> = facts
        .tool_results
        .iter()
        .map(|r| r.call_id.clone())
        .collect();
    assert_eq!(seen, ids, "{name}");

    // The view holds every text of the request somewhere, but for the bytes of media.
    let view = exchange(&api, Some((&head, &body)), None);
    let asked = view.request.as_ref().unwrap();
    assert_eq!(asked.unparsed.as_deref(), note, "{name}");
    all_there(name, &json, &view.to_json());
}

/// An event without what only frames it, or is said again with another value.
fn unframed(event: Value) -> Value {
    let framing = |name: &str, value: &Value| {
        [
            "type",
            "object",
            "status",
            "obfuscation",
            "p",
            "item_id",
            "created_at",
        ]
        .contains(&name)
            || (name == "service_tier" && *value == "auto")
            || (name == "id"
                && value.as_str().is_some_and(|id| {
                    // Some servers say another one at the end.
                    id.starts_with("chatcmpl-") || id.starts_with("rs_tmp_")
                }))
    };
    match event {
        Value::Object(members) => members
            .into_iter()
            .filter(|(name, value)| !framing(name, value))
            .map(|(name, value)| (name, unframed(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(unframed).collect(),
        other => other,
    }
}

/// Words of a format that the view says otherwise.
const WORDS: [&str; 30] = [
    "text",
    "function",
    "input_text",
    "output_text",
    "message",
    "tool_use",
    "tool_result",
    "tool",
    "image_url",
    "image",
    "base64",
    "thinking",
    "input_audio",
    "file",
    "input_image",
    "input_file",
    "document",
    "reasoning",
    "function_call",
    "function_call_output",
    "summary_text",
    "reasoning_text",
    "success",
    "url",
    "refusal",
    "error",
    "",
    "none",
    "auto",
    "object",
];

/// Every text of a body stands in the view somewhere, but for the bytes of media.
fn all_there(name: &str, body: &Value, view: &Value) {
    let mut shown = Vec::new();
    strings(view, &mut shown);
    let shown = shown.join("\u{1f}");
    let mut given = Vec::new();
    strings(body, &mut given);
    for text in given {
        let escaped = json!(text).to_string();
        let known = shown.contains(&text)
            || shown.contains(escaped.trim_matches('"'))
            || WORDS.contains(&text.as_str())
            || text.starts_with("models/");
        assert!(known, "{name}: {text:?} is not in the view");
    }
}

#[test]
fn facts_or_the_view_differ_from_the_recording() {
    let Some(root) = root() else {
        return;
    };
    let mut broken = Vec::new();
    let mut checked: BTreeMap<String, usize> = BTreeMap::new();
    for recorded in everything(&root) {
        let api = recorded.api();
        let name = &recorded.name;
        assert!(api.known, "{name}: {}", recorded.text("/request/url"));
        assert_eq!(api.provider, provider(&recorded), "{name}");
        assert_eq!(api.operation, operation(&recorded), "{name}");
        if catch_unwind(AssertUnwindSafe(|| {
            check(&recorded);
            check_request(&recorded);
        }))
        .is_err()
        {
            broken.push(recorded.name.clone());
        }
        *checked
            .entry(recorded.text("/provider").to_owned())
            .or_default() += 1;
    }
    assert!(broken.is_empty(), "{} of these: {broken:?}", broken.len());
    assert_eq!(checked.len(), 21, "a provider is missing");
    assert_eq!(checked.values().sum::<usize>(), 258 + 144);
}
