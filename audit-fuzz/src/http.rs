//! What providers and clients send.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use audit_capture::credentials::{REDACTED, kept_bytes, split_headers, split_query};
use audit_capture::eventstream::FrameParser;
use audit_capture::json_array::ArrayParser;
use audit_capture::ndjson::LineParser;
use audit_capture::sse::{Event as StreamEvent, SseParser};
use audit_capture::{
    Api, Outcome, RequestHead, ResponseFacts, ResponseHead, ResponseParser, detect, exchange,
    request_facts,
};
use audit_core::event::{Event, Kind};
use audit_core::time::{IdSource, System, Timestamp};
use serde_json::{Map, Value};
use uuid::Uuid;

static APIS: LazyLock<Vec<Api>> = LazyLock::new(|| {
    [
        ("openai", "/v1/chat/completions"),
        ("openai", "/v1/responses"),
        ("openai", "/v1/embeddings"),
        ("openai", "/v1/completions"),
        ("openai", "/v1/models"),
        ("anthropic", "/v1/messages"),
        ("anthropic", "/v1/messages/count_tokens"),
        ("anthropic", "/v1/complete"),
        ("nobody", "/x"),
        // Behind the first nine, whose numbers are in the corpora.
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
        ("cohere", "/v2/embed"),
        ("cohere", "/v1/generate"),
        ("ollama", "/api/chat"),
        ("ollama", "/api/generate"),
        ("replicate", "/v1/predictions"),
    ]
    .map(|(provider, path)| detect(Some(provider), None, "POST", path))
    .to_vec()
});

fn header(name: &str, value: &str) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_bytes().to_vec())
}

/// An event takes what was found.
fn accepted(attributes: Map<String, Value>, refs: BTreeMap<String, String>) {
    let kind = Kind::new("llm.request").expect("a valid kind");
    let mut event = Event::new(Uuid::nil(), Timestamp::EPOCH, kind);
    event.attributes = attributes;
    event.refs = refs;
    event
        .check()
        .expect("an event takes every attribute that capture makes");
}

/// Request bodies, of every API.
///
/// # Panics
///
/// If an event refuses what was found in one.
pub fn request_body(data: &[u8]) {
    let (choice, body) = crate::choice(data);
    let Some(api) = APIS.get(choice % APIS.len()) else {
        return;
    };
    let kind = [
        "application/json",
        "multipart/form-data; boundary=x",
        "text/plain",
    ]
    .get(choice / APIS.len() % 3)
    .copied()
    .unwrap_or_default();
    let mut headers = vec![header("content-type", kind)];
    if choice >= 128 {
        headers.push(header("content-encoding", "gzip"));
    }
    let head = RequestHead::new("POST", "/v1/x", headers);
    let facts = request_facts(api, &head, body);
    accepted(facts.attributes(), facts.refs());
    drop(exchange(api, Some((&head, body)), None).to_json());
}

fn answered<'c>(
    api: &Api,
    head: &ResponseHead,
    streaming: bool,
    pieces: impl Iterator<Item = &'c [u8]>,
) -> ResponseFacts {
    let mut parser = ResponseParser::new(api, head, streaming);
    for piece in pieces {
        let progress = parser.push(piece);
        assert!(progress.safe <= piece.len(), "more is safe than there is");
    }
    parser.finish(Outcome::Complete)
}

/// Response bodies, of every API, streams and others, compressed and not.
///
/// # Panics
///
/// If an event refuses what was found in one, or it depends on how the body was cut.
pub fn response_body(data: &[u8]) {
    let (choice, rest) = crate::choice(data);
    let (form, body) = crate::choice(rest);
    let Some(api) = APIS.get(choice % APIS.len()) else {
        return;
    };
    let kinds = [
        "text/event-stream",
        "application/json",
        "application/x-ndjson",
        "",
        "application/vnd.amazon.eventstream",
    ];
    // The corpora count in fours.
    let kind = kinds
        .get(if form >= 240 { 4 } else { form % 4 })
        .copied()
        .unwrap_or_default();
    let encodings = ["", "gzip", "deflate", "br", "zstd"];
    let encoding = encodings.get(form / 4 % 5).copied().unwrap_or_default();
    let status = if form >= 200 { 500 } else { 200 };
    let mut headers = vec![header("content-type", kind)];
    if !encoding.is_empty() {
        headers.push(header("content-encoding", encoding));
    }
    let head = ResponseHead::new(status, headers);
    let streaming = choice >= 128;
    let whole = answered(api, &head, streaming, std::iter::once(body));
    accepted(whole.attributes(), whole.refs());
    for call in &whole.tool_calls {
        accepted(call.attributes(), BTreeMap::new());
    }
    drop(exchange(api, None, Some((&head, body))).to_json());
    let step = form % 7 + 1;
    let pieces = answered(api, &head, streaming, body.chunks(step));
    // How far a compressed stream was read before it turned out to be corrupt is up to the decoder; that it is, isn't.
    let corrupt = |facts: &ResponseFacts| {
        let note = facts.unparsed.clone().unwrap_or_default();
        note.contains("can't be decoded").then_some(note)
    };
    if let Some(note) = corrupt(&whole) {
        assert_eq!(
            Some(note),
            corrupt(&pieces),
            "cut into pieces it is readable"
        );
        return;
    }
    assert_eq!(
        format!("{whole:?}"),
        format!("{pieces:?}"),
        "cut into pieces of {step} bytes it says something else"
    );
}

/// Server-sent events.
///
/// # Panics
///
/// If it depends on how the stream was cut.
pub fn sse(data: &[u8]) {
    let (step, stream) = crate::choice(data);
    let events = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut parser = SseParser::new();
        let mut events = Vec::new();
        for piece in pieces {
            parser.push(piece, |event| {
                events.push(format!("{} {} {}", event.name, event.data, event.oversize));
            });
        }
        if let Some(event) = parser.rest() {
            events.push(format!("rest {} {}", event.name, event.data));
        }
        events
    };
    assert_eq!(
        events(&mut std::iter::once(stream)),
        events(&mut stream.chunks(step % 9 + 1)),
        "cut into pieces it says something else"
    );
}

/// Says what `pieces` hold by `push`, and why nothing more was read.
fn gathered<P>(
    mut parser: P,
    pieces: &mut dyn Iterator<Item = &[u8]>,
    push: impl Fn(&mut P, &[u8], &mut dyn FnMut(&StreamEvent<'_>)),
    end: impl Fn(&P) -> String,
) -> Vec<String> {
    let mut events = Vec::new();
    for piece in pieces {
        push(&mut parser, piece, &mut |event| {
            events.push(format!(
                "{} {} {} {} {}",
                event.start, event.name, event.data, event.oversize, event.exception
            ));
        });
    }
    events.push(end(&parser));
    events
}

/// Frames of AWS's event stream.
///
/// # Panics
///
/// If it depends on how the stream was cut.
pub fn event_stream(data: &[u8]) {
    let (step, stream) = crate::choice(data);
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        gathered(
            FrameParser::new(),
            pieces,
            |parser, piece, each| parser.push(piece, each),
            |parser| format!("{:?} {}", parser.failure(), parser.unfinished()),
        )
    };
    assert_eq!(
        read(&mut std::iter::once(stream)),
        read(&mut stream.chunks(step % 9 + 1)),
        "cut into pieces it says something else"
    );
}

/// Lines of JSON.
///
/// # Panics
///
/// If it depends on how the stream was cut.
pub fn json_lines(data: &[u8]) {
    let (step, stream) = crate::choice(data);
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        gathered(
            LineParser::new(),
            pieces,
            |parser, piece, each| {
                parser.push(piece, each);
                drop(parser.pending());
            },
            |parser| format!("{:?}", parser.rest()),
        )
    };
    assert_eq!(
        read(&mut std::iter::once(stream)),
        read(&mut stream.chunks(step % 9 + 1)),
        "cut into pieces it says something else"
    );
}

/// A JSON array, item by item.
///
/// # Panics
///
/// If it depends on how the stream was cut, or its items aren't those of the array.
pub fn json_array(data: &[u8]) {
    let (step, stream) = crate::choice(data);
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        gathered(
            ArrayParser::new(),
            pieces,
            |parser, piece, each| parser.push(piece, each),
            |parser| format!("{:?} {}", parser.failure(), parser.closed()),
        )
    };
    assert_eq!(
        read(&mut std::iter::once(stream)),
        read(&mut stream.chunks(step % 9 + 1)),
        "cut into pieces it says something else"
    );
    if let Ok(items) = serde_json::from_slice::<Vec<Value>>(stream) {
        let nested = items
            .iter()
            .filter(|i| i.is_object() || i.is_array())
            .count();
        let mut parser = ArrayParser::new();
        let mut seen = 0;
        parser.push(stream, |event| {
            seen += 1;
            assert!(
                serde_json::from_str::<Value>(&event.data).is_ok(),
                "an item is cut elsewhere"
            );
        });
        assert_eq!(seen, nested, "items are lost or made up");
        assert!(parser.closed(), "its end is missed");
    }
}

/// Method, path, query and headers of a request.
///
/// # Panics
///
/// If a header's value doesn't come back, or a credential is kept.
pub fn heads(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let target = lines.next().unwrap_or_default();
    drop(detect(None, Some("api.openai.com"), "POST", target));
    drop(detect(None, lines.next(), "GET", target));
    let (kept, _) = split_query(target);
    // What is kept holds no credential any more.
    let (again, left) = split_query(&kept);
    assert_eq!(again, kept, "a query is changed twice");
    for credential in &left {
        let shown = String::from_utf8_lossy(credential.expose());
        assert_eq!(shown, REDACTED, "a credential was kept in {kept:?}");
    }
    let headers: Vec<(String, Vec<u8>)> = data
        .split(|b| *b == b'\n')
        .filter_map(|line| {
            let at = line.iter().position(|b| *b == b':')?;
            let (name, value) = line.split_at(at);
            let name = core::str::from_utf8(name).ok()?;
            Some((name.to_owned(), value.get(1..)?.to_vec()))
        })
        .collect();
    let (kept, secrets) = split_headers(&headers);
    if secrets.is_empty() {
        for ((_, value), (_, kept)) in headers.iter().zip(&kept) {
            assert_eq!(&kept_bytes(kept), value, "a header's value is lost");
        }
    }
}

/// Events as callers write them.
///
/// # Panics
///
/// If an event that is read breaks a rule.
pub fn event_json(data: &[u8]) {
    #[derive(Debug)]
    struct Fixed;
    impl IdSource for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(7);
        }
    }
    if let Ok(event) = Event::from_json(data, &System, &Fixed) {
        event.check().expect("an event that was read is valid");
    }
}
