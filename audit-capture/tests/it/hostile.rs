//! Whatever a peer sends: no panic, and attributes that an event accepts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use audit_capture::{
    Api, Outcome, RequestFacts, RequestHead, ResponseFacts, ResponseHead, ResponseParser, detect,
    exchange, request_facts,
};
use audit_core::event::{Event, Kind};
use audit_core::time::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::framing::frame;
use crate::support::{chat, header, json_head, messages, read, responses, sse_head};

fn accepted(attributes: Map<String, Value>, refs: BTreeMap<String, String>) {
    let kind = Kind::new("llm.request").unwrap();
    let mut event = Event::new(uuid::Uuid::nil(), Timestamp::EPOCH, kind);
    event.attributes = attributes;
    event.refs = refs;
    event.check().unwrap();
}

fn asked(api: &Api, body: &[u8]) -> RequestFacts {
    let facts = request_facts(api, &RequestHead::new("POST", "/v1/models/x", vec![]), body);
    accepted(facts.attributes(), facts.refs());
    let head = RequestHead::new("POST", "/v1/models/x", vec![]);
    assert!(
        exchange(api, Some((&head, body)), None)
            .to_json()
            .is_object()
    );
    facts
}

fn answered(api: &Api, head: &ResponseHead, body: &[u8]) -> ResponseFacts {
    let facts = read(api, head, true, body.chunks(7));
    accepted(facts.attributes(), facts.refs());
    for call in &facts.tool_calls {
        accepted(call.attributes(), BTreeMap::new());
    }
    let view = exchange(api, None, Some((head, body))).to_json();
    assert!(view.is_object());
    facts
}

fn apis() -> Vec<Api> {
    let mut apis = vec![chat(), responses(), messages()];
    for (provider, path) in [
        ("openai", "/v1/embeddings"),
        ("openai", "/v1/completions"),
        ("anthropic", "/v1/messages/count_tokens"),
        ("anthropic", "/v1/complete"),
        ("anthropic", "/v1/chat/completions"),
        ("openai", "/v1/other"),
        ("nobody", "/x"),
        ("openai", "/v1/threads/t/runs"),
        ("openai", "/v1/files"),
        ("openai", "/v1/images/edits"),
        ("openai", "/v1/audio/transcriptions"),
        ("gemini", "/v1beta/models/m:streamGenerateContent"),
        ("gemini", "/v1beta/models/m:batchEmbedContents"),
        ("gemini", "/v1beta/models/m:countTokens"),
        ("vertex", "/v1/publishers/google/models/m:predict"),
        ("bedrock", "/model/m/converse-stream"),
        ("bedrock", "/model/m/invoke-with-response-stream"),
        ("bedrock", "/model/m/count-tokens"),
        ("sagemaker", "/endpoints/e/invocations-response-stream"),
        ("cohere", "/v2/chat"),
        ("cohere", "/v1/generate"),
        ("ollama", "/api/chat"),
        ("ollama", "/api/generate"),
        ("replicate", "/v1/predictions"),
    ] {
        apis.push(detect(Some(provider), None, "POST", path));
    }
    apis.push(detect(Some("openai"), None, "GET", "/v1/models/x"));
    apis
}

fn everywhere(body: &[u8]) {
    for api in apis() {
        asked(&api, body);
        for head in [
            sse_head(),
            json_head(200),
            json_head(500),
            ResponseHead::new(200, vec![]),
        ] {
            answered(&api, &head, body);
        }
        let event = [b"event: x\ndata: ", body, b"\n\n"].concat();
        answered(&api, &sse_head(), &event);
        let wrapped = json!({ "bytes": STANDARD.encode(body) }).to_string();
        for (kind, bytes) in [
            ("application/x-ndjson", [body, b"\n", body, b"\n"].concat()),
            ("application/json", [b"[", body, b",", body, b"]"].concat()),
            (
                "application/vnd.amazon.eventstream",
                [
                    frame(&[(":event-type", "contentBlockDelta")], body),
                    frame(&[(":event-type", "chunk")], wrapped.as_bytes()),
                    frame(&[(":event-type", "PayloadPart")], body),
                    frame(&[(":message-type", "exception")], body),
                ]
                .concat(),
            ),
        ] {
            let head = ResponseHead::new(200, vec![header("content-type", kind)]);
            answered(&api, &head, &bytes);
        }
    }
}

#[test]
fn deep_nesting_loses_the_model() {
    let depth = 200_000;
    let deep = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let body = format!("{{\"tools\":{deep},\"model\":\"m\"}}");
    let facts = asked(&chat(), body.as_bytes());
    assert_eq!(facts.model.as_deref(), Some("m"));
    assert!(facts.unparsed.unwrap().contains("nests deeper"));
    let depth = depth / 10;
    let deep = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    everywhere(format!("{{\"tools\":{deep},\"model\":\"m\"}}").as_bytes());
    everywhere("[".repeat(depth).as_bytes());
    everywhere("{\"a\":".repeat(depth).as_bytes());
}

#[test]
fn one_bad_member_loses_the_others() {
    for bad in ["1e999", "-1e999", "\"\\ud800\"", "[[1e400]]"] {
        let body = format!("{{\"model\":\"m\",\"metadata\":{bad},\"stream\":true}}");
        let facts = asked(&chat(), body.as_bytes());
        assert_eq!(
            (facts.model.as_deref(), facts.stream),
            (Some("m"), true),
            "{bad}"
        );
        assert!(facts.unparsed.unwrap().contains("metadata"));
    }
    let facts = asked(&chat(), b"{\"model\":\"m\",\"x\":\"\xff\"}");
    assert_eq!(facts.model.as_deref(), Some("m"));
    assert!(facts.unparsed.unwrap().contains("UTF-8"));
    let facts = asked(&chat(), b"{\"model\":\"a\",\"model\":\"b\"}");
    assert!(facts.unparsed.unwrap().contains("twice"));
    let facts = asked(&chat(), b"{\"model\":\"m\"} x");
    assert!(facts.unparsed.is_some());
}

#[test]
fn huge_numbers_are_changed_in_attributes() {
    let body = br#"{"model":"m","seed":9007199254740993,"temperature":1e308,"max_tokens":18446744073709551615}"#;
    let attributes = asked(&chat(), body).attributes();
    assert_eq!(attributes["gen_ai.request.seed"], "9007199254740993");
    assert_eq!(
        attributes["gen_ai.request.max_tokens"],
        "18446744073709551615"
    );
    let body = br#"{"usage":{"prompt_tokens":9007199254740993,"completion_tokens":-1,"total_tokens":1.5}}"#;
    let facts = answered(&chat(), &json_head(200), body);
    assert_eq!(facts.usage.input, Some(9_007_199_254_740_993));
    assert_eq!((facts.usage.output, facts.usage.total), (None, None));
    assert_eq!(
        facts.attributes()["gen_ai.usage.input_tokens"],
        "9007199254740993"
    );
    let body = br#"{"usage":{"input_tokens":18446744073709551615,"cache_read_input_tokens":5}}"#;
    assert_eq!(
        answered(&messages(), &json_head(200), body)
            .usage
            .input_total(),
        Some(u64::MAX)
    );
}

#[test]
fn a_long_name_makes_an_event_that_is_refused() {
    let long = "ü".repeat(1 << 20);
    let body = json!({ "model": long, "stop": [long, long], "tool_choice": long }).to_string();
    let facts = asked(&chat(), body.as_bytes());
    assert!(facts.refs().is_empty(), "a cut name would be another model");
    let attributes = facts.attributes();
    assert_eq!(
        attributes["gen_ai.request.model"].as_str().unwrap().len(),
        4096
    );
    assert_eq!(
        attributes["audit.truncated"],
        json!([
            "audit.request.tool_choice",
            "gen_ai.request.stop_sequences",
            "gen_ai.request.model"
        ])
    );
}

#[test]
fn wrong_types_break_a_parser() {
    let wrong = [
        "null",
        "0",
        "-1",
        "\"\"",
        "\"x\"",
        "[]",
        "{}",
        "[null]",
        "[{}]",
        "[[]]",
        "true",
        "18446744073709551616",
    ];
    let names = [
        "model",
        "stream",
        "messages",
        "input",
        "tools",
        "usage",
        "choices",
        "content",
        "output",
        "error",
        "stop_reason",
        "type",
        "index",
        "delta",
        "content_block",
        "message",
        "response",
        "item",
        "output_index",
        "id",
        "data",
    ];
    for name in names {
        for value in wrong {
            everywhere(format!("{{\"{name}\":{value}}}").as_bytes());
        }
    }
}

#[test]
fn a_strange_body_breaks_a_parser() {
    for body in [
        b"".as_slice(),
        b"\0",
        b"\xff\xfe",
        b"null",
        b"\"",
        b"{",
        b"{}",
        b"[]",
        b"\xef\xbb\xbf{}",
        b"data",
        b"data:\n\n",
        b"\r\r\r",
        b"{\"\\ud800\":1}",
    ] {
        everywhere(body);
    }
}

/// JSON that looks like the real thing, with wrong values in it.
fn likely() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "model",
        "messages",
        "role",
        "content",
        "type",
        "text",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "index",
        "id",
        "delta",
        "choices",
        "usage",
        "prompt_tokens",
        "output",
        "response",
        "item",
        "output_index",
        "input",
        "tool_use_id",
        "content_block",
        "message",
        "error",
        "status",
        "finish_reason",
        "stop_reason",
        "call_id",
        "refusal",
        "partial_json",
        "candidates",
        "parts",
        "functionCall",
        "usageMetadata",
        "contentBlockIndex",
        "start",
        "toolUse",
        "messageStart",
        "outputText",
        "outputs",
        "generations",
        "tool_plan",
        "thinking",
        "step_details",
        "value",
        "summary",
        "source",
        "image_url",
        "file",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            "tool_use",
            "text",
            "message_start",
            "content_block_delta",
            "message_delta",
            "message_stop",
            "function_call",
            "response.completed",
            "response.output_item.added",
            "assistant",
            "tool",
            "user",
            "error",
            "text_delta",
            "input_json_delta",
            "tool_result",
            "output_text",
            "content_block_start",
            "response.function_call_arguments.delta",
            "response.reasoning_summary_text.delta",
            "content-delta",
            "tool-call-delta",
            "message-end",
            "text-generation",
            "thinking_delta",
            "citations_delta",
            "image",
            "document",
            "input_audio",
            "thread.run",
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_break_a_parser(bytes in any::<Vec<u8>>()) {
        everywhere(&bytes);
    }

    #[test]
    fn arbitrary_json_breaks_a_parser(body in likely()) {
        everywhere(body.to_string().as_bytes());
    }

    #[test]
    fn chunks_change_the_facts(events in prop::collection::vec(likely(), 0..8), size in 1usize..50) {
        let mut stream = String::new();
        for event in &events {
            write!(stream, "data: {event}\n\n").unwrap();
        }
        for api in apis() {
            let whole = read(&api, &sse_head(), true, [stream.as_bytes()]);
            prop_assert!(read(&api, &sse_head(), true, stream.as_bytes().chunks(size)) == whole);
        }
    }

    #[test]
    fn a_hostile_head_breaks_detection(hint in any::<Option<String>>(), host in any::<Option<String>>(), method in any::<String>(), path in any::<String>(), value in any::<Vec<u8>>()) {
        let api = detect(hint.as_deref(), host.as_deref(), &method, &path);
        accepted(asked(&api, b"{}").attributes(), BTreeMap::new());
        let headers = vec![("content-type".to_owned(), value.clone()), ("content-encoding".to_owned(), value.clone()), header("x-request-id", "1")];
        answered(&api, &ResponseHead::new(200, headers), &value);
    }

    #[test]
    fn a_hostile_coding_breaks_a_decoder(bytes in any::<Vec<u8>>(), coding in prop::sample::select(vec!["gzip", "deflate", "br", "zstd"])) {
        let magic: &[u8] = match coding {
            "gzip" => &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0],
            "deflate" => &[0x78, 0x9c],
            "zstd" => &[0x28, 0xb5, 0x2f, 0xfd],
            _ => &[],
        };
        for body in [bytes.clone(), [magic, &bytes].concat()] {
            let head = ResponseHead::new(200, vec![header("content-encoding", coding)]);
            let mut parser = ResponseParser::new(&chat(), &head, true);
            for chunk in body.chunks(5) {
                parser.push(chunk);
            }
            accepted(parser.finish(Outcome::ClientGone).attributes(), BTreeMap::new());
        }
    }
}
