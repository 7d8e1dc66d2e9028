//! Recorded exchanges: the facts against an expectation computed straight from the recorded JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use audit_capture::{
    Operation, Outcome, Progress, RequestHead, ResponseFacts, ResponseHead, ResponseParser,
    ToolSide, detect, request_facts,
};
use serde_json::Value;

use crate::support::Cuts;

struct Exchange {
    name: String,
    json: Value,
}

impl Exchange {
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

    fn streaming(&self) -> bool {
        self.json["streaming"].as_bool().unwrap()
    }
}

/// The exchanges of `provider`; `None` without fixtures, a panic if they are missing.
fn exchanges(provider: &str) -> Option<Vec<Exchange>> {
    let Some(root) = std::env::var_os("AUDIT_FIXTURES") else {
        println!("skipped: AUDIT_FIXTURES is not set");
        return None;
    };
    let folder = PathBuf::from(root)
        .join("llm-traffic/exchanges")
        .join(provider);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    Some(
        files
            .into_iter()
            .map(|path| Exchange {
                name: path.file_name().unwrap().to_string_lossy().into_owned(),
                json: serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap(),
            })
            .collect(),
    )
}

fn operation(api: &str) -> Operation {
    match api {
        "chat" => Operation::Chat,
        "responses" => Operation::Responses,
        "messages" => Operation::Messages,
        "embeddings" => Operation::Embeddings,
        "completions" | "complete" => Operation::TextCompletion,
        "count_tokens" => Operation::CountTokens,
        _ => Operation::Other,
    }
}

/// What the recorded response says, read by other means than the crate's: the whole text, split at blank lines.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    id: Option<String>,
    model: Option<String>,
    finish: Vec<String>,
    text: String,
    calls: Vec<(Option<String>, String, Value)>,
    usage: [Option<u64>; 5],
    error: Option<(Option<String>, Option<String>)>,
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn arguments(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

fn usage(expected: &mut Expected, usage: &Value) {
    let at = |places: &[&str]| places.iter().find_map(|p| usage.pointer(p)?.as_u64());
    let given = [
        at(&["/prompt_tokens", "/input_tokens"]),
        at(&["/completion_tokens", "/output_tokens"]),
        at(&[
            "/prompt_tokens_details/cached_tokens",
            "/input_tokens_details/cached_tokens",
            "/cache_read_input_tokens",
        ]),
        at(&[
            "/cache_creation_input_tokens",
            "/input_tokens_details/cache_write_tokens",
        ]),
        at(&[
            "/completion_tokens_details/reasoning_tokens",
            "/output_tokens_details/reasoning_tokens",
            "/output_tokens_details/thinking_tokens",
        ]),
    ];
    for (old, new) in expected.usage.iter_mut().zip(given) {
        *old = new.or(*old);
    }
}

fn error(expected: &mut Expected, body: &Value) {
    if body["error"].is_object() {
        expected.error = Some((
            text_of(&body["error"]["type"]),
            text_of(&body["error"]["message"]),
        ));
    }
}

fn whole(body: &Value, operation: Operation) -> Expected {
    let mut e = Expected {
        id: text_of(&body["id"]),
        model: text_of(&body["model"]),
        ..Expected::default()
    };
    usage(&mut e, &body["usage"]);
    error(&mut e, body);
    match operation {
        Operation::Responses => {
            if let Some(reason) =
                text_of(&body["incomplete_details"]["reason"]).or(text_of(&body["status"]))
            {
                e.finish.push(reason);
            }
            for item in body["output"].as_array().into_iter().flatten() {
                for part in item["content"].as_array().into_iter().flatten() {
                    if part["type"] == "output_text" {
                        e.text += part["text"].as_str().unwrap();
                    }
                }
                if item["type"] == "function_call" {
                    e.calls.push((
                        text_of(&item["call_id"]),
                        item["name"].as_str().unwrap().to_owned(),
                        arguments(item["arguments"].as_str().unwrap()),
                    ));
                }
            }
        }
        Operation::Messages => {
            e.finish.extend(text_of(&body["stop_reason"]));
            for block in body["content"].as_array().into_iter().flatten() {
                if block["type"] == "text" {
                    e.text += block["text"].as_str().unwrap();
                }
                if block["type"] == "tool_use" {
                    e.calls.push((
                        text_of(&block["id"]),
                        block["name"].as_str().unwrap().to_owned(),
                        block["input"].clone(),
                    ));
                }
            }
        }
        _ => {
            for (at, choice) in body["choices"].as_array().into_iter().flatten().enumerate() {
                e.finish.extend(text_of(&choice["finish_reason"]));
                if at == 0 {
                    e.text += choice["message"]["content"]
                        .as_str()
                        .or(choice["text"].as_str())
                        .unwrap_or_default();
                }
                for call in choice["message"]["tool_calls"]
                    .as_array()
                    .into_iter()
                    .flatten()
                {
                    let function = &call["function"];
                    e.calls.push((
                        text_of(&call["id"]),
                        function["name"].as_str().unwrap().to_owned(),
                        arguments(function["arguments"].as_str().unwrap()),
                    ));
                }
            }
        }
    }
    e
}

fn blocks(text: &str) -> Vec<Value> {
    text.replace("\r\n", "\n")
        .split("\n\n")
        .filter_map(|block| {
            let data: Vec<&str> = block
                .lines()
                .filter_map(|l| l.strip_prefix("data:"))
                .map(str::trim_start)
                .collect();
            (!data.is_empty() && data != ["[DONE]"])
                .then(|| serde_json::from_str(&data.join("\n")).unwrap())
        })
        .collect()
}

fn streamed(text: &str, operation: Operation) -> Expected {
    let mut e = Expected::default();
    let mut calls: BTreeMap<u64, (Option<String>, String, String)> = BTreeMap::new();
    let mut deltas = String::new();
    for event in blocks(text) {
        match operation {
            Operation::Responses => {
                if event["type"] == "response.output_text.delta" {
                    deltas += event["delta"].as_str().unwrap();
                }
                if event["type"] == "response.completed" {
                    e = whole(&event["response"], operation);
                }
            }
            Operation::Messages => match event["type"].as_str().unwrap() {
                "message_start" => {
                    e.id = text_of(&event["message"]["id"]);
                    e.model = text_of(&event["message"]["model"]);
                    usage(&mut e, &event["message"]["usage"]);
                }
                "content_block_start" if event["content_block"]["type"] == "tool_use" => {
                    let block = &event["content_block"];
                    calls.insert(
                        event["index"].as_u64().unwrap(),
                        (
                            text_of(&block["id"]),
                            block["name"].as_str().unwrap().to_owned(),
                            String::new(),
                        ),
                    );
                }
                "content_block_delta" => {
                    let delta = &event["delta"];
                    e.text += delta["text"].as_str().unwrap_or_default();
                    if let Some(call) = calls.get_mut(&event["index"].as_u64().unwrap()) {
                        call.2 += delta["partial_json"].as_str().unwrap_or_default();
                    }
                }
                "message_delta" => {
                    e.finish.extend(text_of(&event["delta"]["stop_reason"]));
                    usage(&mut e, &event["usage"]);
                }
                _ => {}
            },
            _ => {
                e.id = text_of(&event["id"]).or(text_of(&event["log_id"])).or(e.id);
                e.model = text_of(&event["model"]).or(e.model);
                usage(&mut e, &event["usage"]);
                e.text += event["completion"].as_str().unwrap_or_default();
                if let Some(reason) = text_of(&event["stop_reason"]) {
                    e.finish.push(reason);
                }
                for choice in event["choices"].as_array().into_iter().flatten() {
                    e.finish.extend(text_of(&choice["finish_reason"]));
                    if choice["index"] == 0 {
                        e.text += choice["delta"]["content"]
                            .as_str()
                            .or(choice["text"].as_str())
                            .unwrap_or_default();
                    }
                    for call in choice["delta"]["tool_calls"]
                        .as_array()
                        .into_iter()
                        .flatten()
                    {
                        let entry = calls.entry(call["index"].as_u64().unwrap()).or_default();
                        entry.0 = text_of(&call["id"]).or(entry.0.take());
                        entry.1 += call["function"]["name"].as_str().unwrap_or_default();
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
    } else {
        e.calls = calls
            .into_values()
            .map(|(id, name, json)| {
                (
                    id,
                    name,
                    arguments(if json.is_empty() { "{}" } else { &json }),
                )
            })
            .collect();
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

/// Feeds `chunks` and checks what may be passed on early.
fn feed<'c>(
    exchange: &Exchange,
    chunks: impl IntoIterator<Item = &'c [u8]>,
) -> (ResponseFacts, Vec<u8>, Vec<u8>) {
    let url = exchange.text("/request/url");
    let api = detect(None, None, exchange.text("/request/method"), url);
    let mut parser = ResponseParser::new(&api, &exchange.head(), exchange.streaming());
    let (mut early, mut late) = (Vec::new(), Vec::new());
    for chunk in chunks {
        let Progress { safe, .. } = parser.push(chunk);
        let (passed, held) = chunk.split_at(safe);
        assert!(
            late.is_empty() || passed.is_empty(),
            "a byte was passed on after the terminal event"
        );
        early.extend_from_slice(passed);
        late.extend_from_slice(held);
    }
    (parser.finish(Outcome::Complete), early, late)
}

fn check(exchange: &Exchange) {
    let url = exchange.text("/request/url");
    let api = detect(None, None, exchange.text("/request/method"), url);
    let body = exchange.text("/response/body").as_bytes();
    let expected = if exchange.streaming() {
        streamed(exchange.text("/response/body"), api.operation)
    } else {
        whole(&serde_json::from_slice(body).unwrap(), api.operation)
    };
    let (facts, early, late) = feed(exchange, [body]);
    let mut seen = found(&facts);
    if api.operation == Operation::CountTokens {
        assert_eq!(
            facts.counted_tokens,
            serde_json::from_slice::<Value>(body).unwrap()["input_tokens"].as_u64()
        );
    }
    if api.operation == Operation::Embeddings {
        // An embedding isn't text, and has no finish.
        seen.text = String::new();
    }
    assert_eq!(seen, expected, "{}", exchange.name);
    assert_eq!(facts.unparsed, None, "{}", exchange.name);
    assert!(
        facts.complete && !facts.truncated && facts.unreadable_events == 0,
        "{}",
        exchange.name
    );
    assert_eq!(facts.streamed, exchange.streaming(), "{}", exchange.name);
    assert_eq!([early, late.clone()].concat(), body, "{}", exchange.name);
    if exchange.streaming() {
        let end = String::from_utf8(late).unwrap();
        let last = [
            "[DONE]",
            "response.completed",
            "message_stop",
            "stop_sequence",
        ];
        assert!(
            last.iter().any(|word| end.contains(word)),
            "{}: held back {end:?}",
            exchange.name
        );
    } else {
        assert!(late.is_empty());
    }

    let name = &exchange.name;
    let mut cuts = Cuts(body.len() as u64);
    for (facts_again, early, late) in [
        feed(exchange, body.chunks(1)),
        feed(exchange, cuts.cut(body, 40)),
        feed(exchange, cuts.cut(body, 4000)),
        feed(exchange, body.split_inclusive(|b| *b == b'\n')),
    ] {
        assert!(facts_again == facts, "{name}: chunks change the facts");
        assert_eq!([early, late.clone()].concat(), body);
        let end = String::from_utf8_lossy(&late).into_owned();
        assert_eq!(end.is_empty(), !exchange.streaming(), "{name}: {end:?}");
    }

    // A stream that breaks off anywhere is incomplete, and yields facts nevertheless.
    if exchange.streaming() {
        let cut = body.len() / 2;
        let mut parser = ResponseParser::new(&api, &exchange.head(), true);
        parser.push(&body[..cut]);
        let facts = parser.finish(Outcome::Complete);
        assert!(!facts.complete, "{name}: half a stream counts as complete");
        assert!(expected.text.starts_with(facts.text()), "{name}");
    }
}

fn check_request(exchange: &Exchange) {
    let head = RequestHead::new(
        exchange.text("/request/method"),
        exchange.text("/request/url"),
        exchange.headers("/request/headers"),
    );
    let api = detect(None, None, &head.method, &head.path_and_query);
    let body = exchange.text("/request/body").as_bytes();
    let json: Value = serde_json::from_slice(body).unwrap();
    let facts = request_facts(&api, &head, body);
    assert_eq!(facts.unparsed, None, "{}", exchange.name);
    assert_eq!(facts.model, text_of(&json["model"]), "{}", exchange.name);
    assert_eq!(facts.stream, json["stream"] == true, "{}", exchange.name);
    let attributes = facts.attributes();
    assert_eq!(attributes.get("gen_ai.request.model"), json.get("model"));
    for (member, attribute) in [
        ("temperature", "gen_ai.request.temperature"),
        ("seed", "gen_ai.request.seed"),
        ("n", "gen_ai.request.choice.count"),
    ] {
        assert_eq!(
            attributes.get(attribute),
            json.get(member).filter(|v| !v.is_null()),
            "{}",
            exchange.name
        );
    }
    let limit = [
        "max_completion_tokens",
        "max_output_tokens",
        "max_tokens",
        "max_tokens_to_sample",
    ]
    .iter()
    .find_map(|m| json[*m].as_u64());
    assert_eq!(
        attributes
            .get("gen_ai.request.max_tokens")
            .and_then(Value::as_u64),
        limit,
        "{}",
        exchange.name
    );

    // Ids of results, by plain search through the whole body.
    let mut ids = Vec::new();
    for item in json["messages"]
        .as_array()
        .or(json["input"].as_array())
        .into_iter()
        .flatten()
    {
        ids.extend(text_of(&item["tool_call_id"]));
        if item["type"] == "function_call_output" {
            ids.extend(text_of(&item["call_id"]));
        }
        for block in item["content"].as_array().into_iter().flatten() {
            ids.extend(text_of(&block["tool_use_id"]));
        }
    }
    let seen: Vec<String> = facts
        .tool_results
        .iter()
        .map(|r| r.call_id.clone())
        .collect();
    assert_eq!(seen, ids, "{}", exchange.name);
}

fn check_all(provider: &str, counts: &[(&str, bool, usize)]) {
    let Some(exchanges) = exchanges(provider) else {
        return;
    };
    let mut checked: BTreeMap<(String, bool), usize> = BTreeMap::new();
    for exchange in &exchanges {
        let recorded = exchange.text("/api").to_owned();
        let api = detect(
            None,
            None,
            exchange.text("/request/method"),
            exchange.text("/request/url"),
        );
        assert_eq!(api.provider, provider, "{}", exchange.name);
        assert_eq!(api.operation, operation(&recorded), "{}", exchange.name);
        assert_eq!(
            api.known,
            api.operation != Operation::Other,
            "{}",
            exchange.name
        );
        if api.known {
            check(exchange);
            check_request(exchange);
            *checked.entry((recorded, exchange.streaming())).or_default() += 1;
        }
    }
    let expected: BTreeMap<(String, bool), usize> = counts
        .iter()
        .map(|(api, streaming, n)| (((*api).to_owned(), *streaming), *n))
        .collect();
    assert_eq!(checked, expected, "not every exchange was checked");
}

#[test]
fn openai_facts_differ_from_the_recording() {
    check_all(
        "openai",
        &[
            ("chat", false, 14),
            ("chat", true, 13),
            ("completions", false, 2),
            ("completions", true, 1),
            ("embeddings", false, 5),
            ("responses", false, 12),
            ("responses", true, 13),
        ],
    );
}

#[test]
fn anthropic_facts_differ_from_the_recording() {
    check_all(
        "anthropic",
        &[
            ("chat", false, 1),
            ("complete", true, 1),
            ("count_tokens", false, 1),
            ("messages", false, 15),
            ("messages", true, 13),
        ],
    );
}

/// The other providers have no reader yet: many speak a known format, and none may make the parsers fail.
#[test]
fn an_exchange_of_another_provider_breaks_a_parser() {
    let Some(root) = std::env::var_os("AUDIT_FIXTURES") else {
        println!("skipped: AUDIT_FIXTURES is not set");
        return;
    };
    let folder = PathBuf::from(root).join("llm-traffic/exchanges");
    let mut all = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let provider = entry.unwrap().file_name().to_string_lossy().into_owned();
        for exchange in exchanges(&provider).unwrap() {
            let body = exchange.text("/response/body").as_bytes();
            let (facts, early, late) = feed(&exchange, Cuts(1).cut(body, 100));
            assert_eq!([early, late].concat(), body);
            assert_eq!(facts.status, exchange.head().status);
            all += 1;
        }
    }
    assert_eq!(all, 258);
}
