//! Streams: when the end is seen, what is held back, and what is left of a stream that broke off.

use audit_capture::{Outcome, ResponseHead, ResponseParser, ToolSide};

use crate::support::{chat, header, messages, read, responses, sse_head};

const CHAT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";

#[test]
fn the_end_is_seen_too_late_or_too_early() {
    // What comes before the terminal event, the terminal event up to where a client may act, and the rest.
    for (api, before, end, rest) in [
        (chat(), CHAT, "data: [DONE]", "\n\n"),
        (chat(), CHAT, "data:[DONE]", "\r\n\r\n"),
        (
            chat(),
            CHAT,
            "data: {\"error\":{\"message\":\"no\"}}",
            "\n\n",
        ),
        (
            responses(),
            "event: response.created\ndata: {\"type\":\"response.created\"}\n\n",
            "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{}}",
            "\n\n",
        ),
        (
            responses(),
            "",
            "data: {\"type\":\"response.incomplete\",\"response\":{}}",
            "\n\n",
        ),
        (
            responses(),
            "",
            "event: error\ndata: {\"type\":\"error\",\"code\":\"x\"}",
            "\n\n",
        ),
        (
            messages(),
            "event: ping\ndata: {\"type\":\"ping\"}\n\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}",
            "\n\n",
        ),
        (messages(), "", "data: {\"type\":\"message_stop\"}", "\n\n"),
        (
            messages(),
            "",
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}",
            "\n\n",
        ),
    ] {
        let text = [before, end, rest].concat();
        // At once: only what stands before the event may pass.
        let mut parser = ResponseParser::new(&api, &sse_head(), true);
        let progress = parser.push(text.as_bytes());
        assert!(progress.terminal, "{text:?}");
        assert_eq!(progress.safe, before.len(), "{text:?}");
        // Nothing passes afterwards.
        assert_eq!(parser.push(b"data: x\n\n").safe, 0);
        assert!(parser.finish(Outcome::Complete).complete);
        // Byte by byte: it is seen with the last byte on which a client may act, and not before the event began.
        let mut parser = ResponseParser::new(&api, &sse_head(), true);
        let seen = text.bytes().position(|b| parser.push(&[b]).terminal);
        let seen = seen.unwrap_or_else(|| panic!("never seen: {text:?}"));
        assert!(
            seen >= before.len() && seen < before.len() + end.len(),
            "{seen} {text:?}"
        );
        // Without it the stream isn't complete.
        assert!(!read(&api, &sse_head(), true, [before.as_bytes()]).complete);
    }
}

#[test]
fn an_ordinary_event_is_taken_for_the_end() {
    for (api, text) in [
        (
            chat(),
            "data: {\"choices\":[{\"delta\":{\"content\":\"[DONE] \\\"error\\\"\"}}]}\n\n",
        ),
        (chat(), "data: {\"error\":null,\"choices\":[]}\n\n"),
        (
            responses(),
            "data: {\"type\":\"response.output_text.delta\",\"delta\":\"response.completed\"}\n\n",
        ),
        (
            messages(),
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"message_stop \\\"error\\\"\"}}\n\n",
        ),
        (messages(), ": message_stop\n\n"),
    ] {
        let mut parser = ResponseParser::new(&api, &sse_head(), true);
        for byte in text.bytes() {
            assert!(!parser.push(&[byte]).terminal, "{text:?}");
        }
    }
}

#[test]
fn a_long_last_event_is_not_seen_at_the_end_of_its_line() {
    let long = "x".repeat(100_000);
    let line = format!(
        "data: {{\"type\":\"response.completed\",\"response\":{{\"output\":[{{\"type\":\"message\",\"content\":[{{\"type\":\"output_text\",\"text\":\"{long}\"}}]}}]}}}}\n"
    );
    let mut parser = ResponseParser::new(&responses(), &sse_head(), true);
    assert!(parser.push(line.as_bytes()).terminal);
    parser.push(b"\n");
    assert_eq!(parser.finish(Outcome::Complete).text(), long);
}

#[test]
fn a_last_event_without_its_blank_line_is_lost() {
    let end = "data: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"status\":\"completed\"}}";
    for tail in ["", "\n", "\r\n"] {
        let facts = read(
            &responses(),
            &sse_head(),
            true,
            [[end, tail].concat().as_bytes()],
        );
        assert_eq!(
            (facts.complete, facts.id.as_deref()),
            (true, Some("r")),
            "{tail:?}"
        );
    }
    let facts = read(&responses(), &sse_head(), true, [&end.as_bytes()[..60]]);
    assert_eq!((facts.complete, facts.unreadable_events), (false, 0));
    assert_eq!(facts.attributes()["error.type"], "incomplete");
}

#[test]
fn a_parser_can_not_move_to_another_thread() {
    fn sent<T: Send + 'static>() {}
    sent::<ResponseParser>();
    sent::<audit_capture::ResponseFacts>();
}

#[test]
fn a_broken_stream_loses_what_it_had() {
    let text = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"model\":\"m\"}}\n\n\
        data: {\"type\":\"response.output_text.delta\",\"delta\":\"Hel\"}\n\n\
        data: {\"type\":\"response.output_text.delta\",\"delta\":\"lo\"}\n\n\
        data: {\"type\":\"response.output_item.added\",\"output_index\":1,\"item\":{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":\"\"}}\n\n\
        data: {\"type\":\"response.function_call_arguments.delta\",\"output_index\":1,\"delta\":\"{\\\"a\\\"\"}\n\n";
    let mut parser = ResponseParser::new(&responses(), &sse_head(), true);
    parser.push(text.as_bytes());
    let facts = parser.finish(Outcome::UpstreamCut);
    assert!(!facts.complete);
    assert_eq!(
        (facts.id.as_deref(), facts.model.as_deref(), facts.text()),
        (Some("r"), Some("m"), "Hello")
    );
    assert_eq!(facts.tool_calls[0].arguments, "{\"a\"");
    let attributes = facts.attributes();
    assert_eq!(attributes["error.type"], "cut_by_provider");
    assert_eq!(attributes["audit.response.complete"], false);
}

#[test]
fn tool_calls_without_an_index_run_together() {
    let text = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}}]}\n\n\
        data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"}\"}}]}}]}\n\n\
        data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"[]\"}}]}}]}\n\n";
    let facts = read(&chat(), &sse_head(), true, [text.as_bytes()]);
    let calls: Vec<_> = facts
        .tool_calls
        .iter()
        .map(|c| (c.id.as_deref(), c.name.as_deref(), c.arguments.as_str()))
        .collect();
    assert_eq!(
        calls,
        [(Some("a"), Some("f"), "{}"), (Some("b"), Some("g"), "[]")]
    );
}

#[test]
fn a_providers_own_tool_is_taken_for_the_clients() {
    let body = r#"{"type":"message","content":[
        {"type":"server_tool_use","id":"s","name":"web_search","input":{"query":"x"}},
        {"type":"tool_use","id":"t","name":"f","input":{"b":1,"a":10000000000000000000000001}}]}"#;
    let facts = read(
        &messages(),
        &crate::support::json_head(200),
        false,
        [body.as_bytes()],
    );
    assert_eq!(facts.tool_calls[0].side, ToolSide::Provider);
    assert_eq!(facts.tool_calls[1].side, ToolSide::Client);
    // As written: order and digits.
    assert_eq!(
        facts.tool_calls[1].arguments,
        r#"{"b":1,"a":10000000000000000000000001}"#
    );
}

#[test]
fn the_form_is_taken_from_the_request_alone() {
    let stream = [CHAT, "data: [DONE]\n\n"].concat();
    let body = r#" {"choices":[{"message":{"content":"Hi"}}]}"#;
    for (content_type, streaming, text, streamed) in [
        (
            "text/event-stream; charset=utf-8",
            false,
            stream.as_str(),
            true,
        ),
        ("TEXT/EVENT-STREAM", true, &stream, true),
        ("application/json", true, &stream, true),
        ("text/plain", true, &stream, true),
        ("", true, &stream, true),
        ("application/json", true, body, false),
        ("application/json", false, body, false),
        ("", false, body, false),
    ] {
        let head = ResponseHead::new(200, vec![header("content-type", content_type)]);
        for size in [1, 7, 1000] {
            let facts = read(&chat(), &head, streaming, text.as_bytes().chunks(size));
            assert_eq!(
                (facts.streamed, facts.text(), facts.complete),
                (streamed, "Hi", true),
                "{content_type} {streaming}"
            );
        }
    }
    // A refused request is answered with JSON, whatever was asked for.
    let head = ResponseHead::new(429, vec![]);
    let facts = read(
        &chat(),
        &head,
        true,
        [br#"{"error":{"type":"rate_limit"}}"#.as_slice()],
    );
    assert_eq!(facts.error.unwrap().kind.as_deref(), Some("rate_limit"));
}
