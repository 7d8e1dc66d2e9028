//! What providers and clients send.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use audit_capture::credentials::{REDACTED, kept_bytes, split_headers, split_query};
use audit_capture::sse::SseParser;
use audit_capture::{
    Api, Outcome, RequestHead, ResponseFacts, ResponseHead, ResponseParser, detect, request_facts,
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
    let facts = request_facts(api, &RequestHead::new("POST", "/v1/x", headers), body);
    accepted(facts.attributes(), facts.refs());
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
    ];
    let kind = kinds.get(form % 4).copied().unwrap_or_default();
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
