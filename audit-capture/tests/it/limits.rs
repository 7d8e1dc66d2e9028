//! The limits that the documentation states.

use std::fmt::Write as _;

use audit_capture::{BODY_BYTES_MAX, IDS_MAX, RequestHead, TEXT_BYTES_MAX, request_facts};

use crate::support::{chat, json_head, read, sse_head};

#[test]
fn a_long_body_is_gathered_without_end() {
    let chunk = vec![b' '; 1 << 20];
    let pieces = BODY_BYTES_MAX / chunk.len() + 1;
    let facts = read(
        &chat(),
        &json_head(200),
        false,
        (0..pieces).map(|_| chunk.as_slice()),
    );
    assert!(facts.truncated && facts.unparsed.unwrap().contains("more than"));
    assert!(facts.complete, "the transport ended well");
}

#[test]
fn a_long_text_is_gathered_without_end() {
    let text = "x".repeat(1 << 20);
    let event = format!(
        "data: {{\"id\":\"i\",\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
    );
    let end = "data: {\"choices\":[{\"delta\":{\"content\":\"after\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let events = (0..20).map(|_| event.as_bytes()).chain([end.as_bytes()]);
    let facts = read(&chat(), &sse_head(), true, events);
    assert_eq!(facts.text().len(), TEXT_BYTES_MAX);
    assert!(facts.truncated && facts.complete);
    assert_eq!(facts.finish_reasons, ["stop"], "other facts go on");
}

#[test]
fn many_calls_and_choices_are_gathered_without_end() {
    let mut stream = String::new();
    for index in 0..3000 {
        write!(
            stream,
            "data: {{\"choices\":[{{\"index\":{index},\"delta\":{{\"tool_calls\":[{{\"index\":{index},\"id\":\"c\"}}]}}}}]}}\n\n"
        )
        .unwrap();
        write!(
            stream,
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{{\"index\":{index},\"id\":\"c\"}}]}}}}]}}\n\n"
        )
        .unwrap();
    }
    let facts = read(&chat(), &sse_head(), true, [stream.as_bytes()]);
    assert_eq!(facts.texts.len(), 128);
    assert!(facts.tool_calls.len() <= 1024 + 128);
    assert!(facts.truncated);
}

#[test]
fn many_results_are_gathered_without_end() {
    let messages: Vec<String> = (0..IDS_MAX + 10)
        .map(|n| format!("{{\"role\":\"tool\",\"tool_call_id\":\"c{n}\"}}"))
        .collect();
    let body = format!("{{\"messages\":[{}]}}", messages.join(","));
    let facts = request_facts(
        &chat(),
        &RequestHead::new("POST", "/", vec![]),
        body.as_bytes(),
    );
    assert_eq!(facts.tool_results.len(), IDS_MAX);
    assert_eq!(
        facts.tool_results.last().unwrap().call_id,
        format!("c{}", IDS_MAX + 9)
    );
}

#[test]
fn results_of_earlier_turns_count_as_new() {
    let body = br#"{"messages":[{"role":"user"},{"role":"assistant"},{"role":"tool","tool_call_id":"old"},
        {"role":"assistant"},{"role":"tool","tool_call_id":"a"},{"role":"tool","tool_call_id":"b"}]}"#;
    let facts = request_facts(&chat(), &RequestHead::new("POST", "/", vec![]), body);
    let latest: Vec<_> = facts
        .tool_results
        .iter()
        .map(|r| (r.call_id.as_str(), r.latest))
        .collect();
    assert_eq!(latest, [("old", false), ("a", true), ("b", true)]);
    assert_eq!(
        facts.attributes()["audit.request.tool_results"],
        serde_json::json!(["a", "b"])
    );
}
