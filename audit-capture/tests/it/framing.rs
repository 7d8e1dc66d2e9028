//! Streams that aren't server-sent events: frames, lines and arrays, cut anywhere, broken, and too long.

use audit_capture::eventstream::{FRAME_BYTES_MAX, FrameParser};
use audit_capture::json_array::ArrayParser;
use audit_capture::ndjson::LineParser;
use audit_capture::sse::{EVENT_BYTES_MAX, Event};
use audit_capture::{Outcome, ResponseHead, ResponseParser, detect};
use flate2::Crc;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{Cuts, header};

fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum().to_be_bytes()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap().to_be_bytes()
}

/// A frame, written by the format's rules.
pub(crate) fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    for (name, value) in headers {
        head.push(u8::try_from(name.len()).unwrap());
        head.extend_from_slice(name.as_bytes());
        head.push(7);
        head.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        head.extend_from_slice(value.as_bytes());
    }
    raw_frame(&head, payload)
}

fn raw_frame(head: &[u8], payload: &[u8]) -> Vec<u8> {
    let total = vec![0; 16 + head.len() + payload.len()];
    let mut frame = [length(&total), length(head)].concat();
    frame.extend(crc(&frame));
    frame.extend_from_slice(head);
    frame.extend_from_slice(payload);
    frame.extend(crc(&frame));
    frame
}

pub(crate) fn event(kind: &str, body: &Value) -> Vec<u8> {
    frame(
        &[
            (":event-type", kind),
            (":content-type", "application/json"),
            (":message-type", "event"),
        ],
        body.to_string().as_bytes(),
    )
}

/// Name, data, whether it is an exception, and where it starts.
type Seen = (String, String, bool, u64);

fn seen(event: &Event<'_>) -> Seen {
    (
        event.name.to_string(),
        event.data.to_string(),
        event.exception,
        event.start,
    )
}

fn frames(pieces: &[&[u8]]) -> (Vec<Seen>, Option<String>) {
    let mut parser = FrameParser::new();
    let mut found = Vec::new();
    for piece in pieces {
        parser.push(piece, |event| found.push(seen(event)));
    }
    (found, parser.failure())
}

#[test]
fn a_frame_with_headers_of_every_type_is_lost() {
    let mut head = Vec::new();
    for (kind, value) in [
        (0, vec![]),
        (1, vec![]),
        (2, vec![1]),
        (3, vec![1; 2]),
        (4, vec![1; 4]),
        (5, vec![1; 8]),
        (6, vec![0, 3, 7, 7, 7]),
        (8, vec![1; 8]),
        (9, vec![1; 16]),
        (7, vec![0, 1, b'x']),
    ] {
        head.extend([1, b'h', kind]);
        head.extend(value);
    }
    head.extend([11]);
    head.extend(b":event-type");
    head.extend([7, 0, 1, b'e']);
    let (found, failure) = frames(&[&raw_frame(&head, b"{}")]);
    assert_eq!(found, [("e".to_owned(), "{}".to_owned(), false, 0)]);
    assert_eq!(failure, None);
}

#[test]
fn an_exception_is_taken_for_an_event() {
    let stream = [
        event("messageStart", &json!({"role": "assistant"})),
        frame(
            &[
                (":exception-type", "throttlingException"),
                (":message-type", "exception"),
            ],
            b"{\"message\":\"slow down\"}",
        ),
    ]
    .concat();
    let api = detect(Some("bedrock"), None, "POST", "/model/m/converse-stream");
    let head = ResponseHead::new(
        200,
        vec![header("content-type", "application/vnd.amazon.eventstream")],
    );
    let mut parser = ResponseParser::new(&api, &head, true);
    assert!(parser.push(&stream).terminal);
    let facts = parser.finish(Outcome::Complete);
    let error = facts.error.unwrap();
    assert_eq!(error.kind.as_deref(), Some("throttlingException"));
    assert_eq!(error.message.as_deref(), Some("slow down"));

    // An error without a payload says it in its headers.
    let (found, _) = frames(&[&frame(
        &[
            (":message-type", "error"),
            (":error-code", "Boom"),
            (":error-message", "it broke"),
        ],
        b"",
    )]);
    assert_eq!(
        found,
        [(
            "Boom".to_owned(),
            "{\"message\":\"it broke\"}".to_owned(),
            true,
            0
        )]
    );
}

#[test]
fn any_flipped_bit_passes_for_a_frame() {
    let good = event("messageStop", &json!({"stopReason": "end_turn"}));
    for at in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[at / 8] ^= 1 << (at % 8);
        let (found, failure) = frames(&[&bad, &good]);
        // A longer length waits for bytes that don't come; all else fails, and nothing behind it is read.
        assert!(found.is_empty(), "bit {at}: {found:?}");
        assert!(failure.is_some() || at < 64, "bit {at}");
    }
}

#[test]
fn a_frame_is_longer_than_the_format_allows() {
    let announce = |total: usize, headers: usize| {
        let number = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
        let mut start = [number(total), number(headers)].concat();
        start.extend(crc(&start));
        frames(&[&start]).1
    };
    assert_eq!(announce(FRAME_BYTES_MAX, 0), None);
    for (total, headers) in [
        (FRAME_BYTES_MAX + 1, 0),
        (1 << 20, 128 * 1024 + 1),
        (15, 0),
        (0, 0),
        (20, 5),
    ] {
        assert!(announce(total, headers).is_some(), "{total} {headers}");
    }
}

#[test]
fn a_broken_stream_of_frames_counts_as_complete() {
    let stream = [
        event("messageStart", &json!({"role": "assistant"})),
        event(
            "contentBlockDelta",
            &json!({"contentBlockIndex": 0, "delta": {"text": "Hi"}}),
        ),
        event("messageStop", &json!({"stopReason": "end_turn"})),
        event(
            "metadata",
            &json!({"usage": {"inputTokens": 1, "outputTokens": 2}}),
        ),
    ];
    let api = detect(Some("bedrock"), None, "POST", "/model/m/converse-stream");
    let head = ResponseHead::new(
        200,
        vec![header("content-type", "application/vnd.amazon.eventstream")],
    );
    let read = |bytes: &[u8]| {
        let mut parser = ResponseParser::new(&api, &head, true);
        parser.push(bytes);
        parser.finish(Outcome::Complete)
    };
    let whole = read(&stream.concat());
    assert!(whole.complete && whole.unparsed.is_none());
    assert_eq!((whole.text(), whole.usage.output), ("Hi", Some(2)));
    // Cut anywhere before the last byte of the stop.
    let before = stream[..3].concat();
    for end in 0..before.len() {
        assert!(!read(&before[..end]).complete, "{end} bytes");
    }
    let mut wrong = stream.concat();
    wrong[stream[0].len() + 20] ^= 1;
    let facts = read(&wrong);
    assert!(!facts.complete);
    assert!(facts.unparsed.unwrap().contains("checksum"));
}

#[test]
fn the_last_item_is_not_held_or_is_never_released() {
    let item = |text: &str, reason: Option<&str>| {
        json!({"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": reason}]})
            .to_string()
    };
    let api = detect(
        Some("gemini"),
        None,
        "POST",
        "/v1beta/models/m:streamGenerateContent",
    );
    // As server-sent events, and as an array.
    for (kind, items) in [
        (
            "text/event-stream",
            [
                format!("data: {}\r\n\r\n", item("a", Some("STOP"))),
                format!("data: {}\r\n\r\n", item("b", None)),
                format!("data: {}\r\n\r\n", item("c", Some("STOP"))),
            ],
        ),
        (
            "application/json",
            [
                format!("[{}\n", item("a", Some("STOP"))),
                format!(",\n{}\n", item("b", None)),
                format!(",\n{}\n", item("c", Some("STOP"))),
            ],
        ),
    ] {
        let head = ResponseHead::new(200, vec![header("content-type", kind)]);
        let mut parser = ResponseParser::new(&api, &head, true);
        let first = parser.push(items[0].as_bytes());
        let before = usize::from(kind == "application/json");
        assert_eq!((first.safe, first.terminal), (before, false), "{kind}");
        let second = parser.push(items[1].as_bytes());
        assert_eq!(
            (second.safe, second.release),
            (items[1].len(), true),
            "{kind}: another item follows, and it isn't the last"
        );
        let third = parser.push(items[2].as_bytes());
        assert!(third.safe < 5 && third.release, "{kind}");
        let rest = parser.push(b"\r\n]");
        assert_eq!((rest.safe, rest.release), (0, false), "{kind}");
        let facts = parser.finish(Outcome::Complete);
        assert!(facts.complete && facts.streamed, "{kind}");
        assert_eq!(facts.text(), "abc");
        assert_eq!(facts.finish_reasons, ["STOP"]);

        // Without a reason anywhere the end is missing.
        let mut parser = ResponseParser::new(&api, &head, true);
        let alone = match items[1].strip_prefix(',') {
            Some(item) => format!("[{item}"),
            None => items[1].clone(),
        };
        parser.push(alone.as_bytes());
        assert!(!parser.finish(Outcome::Complete).complete, "{kind}");
    }
}

#[test]
fn a_line_is_seen_only_with_its_end() {
    let api = detect(Some("ollama"), None, "POST", "/api/chat");
    let head = ResponseHead::new(200, vec![header("content-type", "application/x-ndjson")]);
    let mut parser = ResponseParser::new(&api, &head, true);
    let first = b"{\"message\":{\"content\":\"Hi\"},\"done\":false}\n";
    assert_eq!(parser.push(first).safe, first.len());
    // A client that reads values acts on the brace.
    let progress = parser.push(b"{\"done\":true,\"done_reason\":\"stop\"}");
    assert_eq!((progress.terminal, progress.safe), (true, 0));
    let facts = parser.finish(Outcome::Complete);
    assert!(facts.complete);
    assert_eq!(facts.text(), "Hi");
    assert_eq!(facts.finish_reasons, ["stop"]);
}

#[test]
fn long_lines_items_and_streams_are_gathered_without_end() {
    let long = vec![b'x'; EVENT_BYTES_MAX + 10];
    let mut lines = Vec::new();
    let mut parser = LineParser::new();
    for piece in [&long[..], b"\n{}\n"] {
        parser.push(piece, |e| lines.push((e.data.len(), e.oversize)));
    }
    assert_eq!(lines, [(EVENT_BYTES_MAX, true), (2, false)]);
    let mut items = Vec::new();
    let mut parser = ArrayParser::new();
    for piece in [b"[{\"a\":\"".as_slice(), &long, b"\"},{}]"] {
        parser.push(piece, |e| items.push((e.data.len(), e.oversize)));
    }
    assert_eq!(items, [(EVENT_BYTES_MAX, true), (2, false)]);
    assert!(parser.closed());

    // Members with ever new names.
    let api = detect(Some("ollama"), None, "POST", "/api/chat");
    let head = ResponseHead::new(200, vec![header("content-type", "application/x-ndjson")]);
    let mut parser = ResponseParser::new(&api, &head, true);
    let text = "y".repeat(1 << 20);
    for n in 0..40 {
        parser.push(format!("{{\"m{n}\":\"{text}\"}}\n").as_bytes());
    }
    parser.push(b"{\"done\":true,\"eval_count\":7}\n");
    let facts = parser.finish(Outcome::Complete);
    assert!(facts.truncated && facts.complete);
}

/// The view's own limits: what doesn't fit is said.
#[test]
fn an_array_that_is_none_is_read_all_the_same() {
    for (text, failure, items) in [
        ("{}", true, 0),
        ("x", true, 0),
        ("[1,2]", false, 0),
        ("[{},{}]", false, 2),
        ("[[1],[]]", false, 2),
        ("[\"a]{\\\"\",{}]", false, 1),
        (" [ { \"a\" : \"}\" } ] x", false, 1),
    ] {
        let mut parser = ArrayParser::new();
        let mut found = 0;
        parser.push(text.as_bytes(), |_| found += 1);
        assert_eq!(
            (parser.failure().is_some(), found),
            (failure, items),
            "{text}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn chunks_change_the_frames(bodies in prop::collection::vec(any::<Vec<u8>>(), 0..5), broken in any::<Option<(u16, u8)>>(), seed in any::<u64>()) {
        let mut stream: Vec<u8> = bodies.iter().flat_map(|b| frame(&[(":event-type", "e")], b)).collect();
        if let (Some((at, bit)), false) = (broken, stream.is_empty()) {
            let at = usize::from(at) % stream.len();
            stream[at] ^= 1 << (bit % 8);
        } else {
            prop_assert_eq!(frames(&[&stream]).0.len(), bodies.len());
        }
        let whole = frames(&[&stream]);
        let pieces = Cuts(seed).cut(&stream, 9);
        prop_assert_eq!(frames(&pieces), whole);
    }

    #[test]
    fn chunks_change_lines_or_items(items in prop::collection::vec(any::<String>(), 0..6), noise in any::<Vec<u8>>(), seed in any::<u64>()) {
        let objects: Vec<Value> = items.iter().map(|text| json!({ "t": text, "l": [text] })).collect();
        let lines: Vec<u8> = objects.iter().flat_map(|o| format!("{o}\r\n").into_bytes()).collect();
        let array = serde_json::to_string_pretty(&objects).unwrap().into_bytes();
        for (text, array) in [(&lines, false), (&array, true), (&noise, false), (&noise, true)] {
            let read = |pieces: &[&[u8]]| {
                let mut found = Vec::new();
                if array {
                    let mut parser = ArrayParser::new();
                    for piece in pieces {
                        parser.push(piece, |e| found.push(seen(e)));
                    }
                } else {
                    let mut parser = LineParser::new();
                    for piece in pieces {
                        parser.push(piece, |e| found.push(seen(e)));
                        parser.pending();
                    }
                }
                found
            };
            let whole = read(&[text]);
            prop_assert_eq!(&read(&Cuts(seed).cut(text, 7)), &whole);
            if text != &noise {
                let values: Vec<Value> = whole.iter().map(|e| serde_json::from_str(&e.1).unwrap()).collect();
                prop_assert_eq!(&values, &objects);
            }
        }
    }
}
