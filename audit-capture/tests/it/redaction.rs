//! Redaction: what a rule finds is nowhere in the record, and everything else stays byte for byte.

#![expect(
    clippy::format_push_string,
    clippy::needless_pass_by_value,
    clippy::format_collect,
    clippy::uninlined_format_args,
    reason = "streams and rules are put together where they are used, a few at a time"
)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use audit_capture::redaction::{
    Action, DECODED, Identities, Options, Redactor, Rule, RuleSet, Tenant, Unreadable, WITHHELD,
};
use audit_core::canonical;
use audit_core::event::{Actor, ActorKind, Correlation, Event, Kind, Media, Payload, SystemRef};
use audit_core::ingest::{Ingest, IngestKeys, commitment};
use audit_core::secret::SecretKey;
use audit_core::time::Timestamp;
use audit_core::token::IndexKey;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::Cuts;

const EMAIL: &str = "john.doe@example.org";
const CARD: &str = "4111 1111 1111 1111";

fn key() -> IndexKey {
    IndexKey::new(SecretKey::new([7; 32]))
}

fn event() -> Event {
    let id = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
    Event::new(id, Timestamp::EPOCH, Kind::new("llm.response").unwrap())
}

fn with(media: Media, bytes: &[u8]) -> Event {
    let mut event = event();
    let payload = Payload::new("response.body", media, bytes.to_vec());
    event.payloads.push(payload);
    event
}

fn header(event: &mut Event, name: &str, value: &str) {
    event.attributes.insert(
        "http.response.header".to_owned(),
        json!([["x-first", "1"], [name, value]]),
    );
}

fn built_in() -> Vec<RuleSet> {
    ["personal-data@1", "secrets@1"]
        .map(|name| RuleSet::built_in(name).unwrap())
        .to_vec()
}

fn rules(rules: Value) -> Vec<RuleSet> {
    let set = json!({"name": "own", "version": "7", "rule": rules});
    vec![serde_json::from_value(set).unwrap()]
}

/// Once alone, for what takes its time.
fn once_with(options: Options, event: &Event) -> Event {
    let redactor = Redactor::new(options).unwrap();
    let recorded = redactor.ingest(event.clone(), &IngestKeys::new(key()));
    let recorded = recorded.unwrap();
    recorded.check().unwrap();
    recorded
}

fn once(event: &Event) -> Event {
    once_with(Options::new(built_in()), event)
}

fn redacted(options: Options, event: &Event) -> Event {
    let redactor = Redactor::new(options).unwrap();
    let keys = IngestKeys::new(key());
    let recorded = redactor.ingest(event.clone(), &keys).unwrap();
    recorded.check().unwrap();
    let again = redactor.ingest(event.clone(), &keys).unwrap();
    assert_eq!(recorded, again, "the same event gives another record");
    recorded
}

fn record(event: &Event) -> Event {
    redacted(Options::new(built_in()), event)
}

fn body(event: &Event) -> String {
    String::from_utf8(event.payloads[0].bytes.clone()).unwrap()
}

fn pseudonym(what: &str, value: &str) -> String {
    format!("<{what}:{}>", key().pseudonym("", what, value.as_bytes()))
}

fn hits(event: &Event) -> Vec<(String, u64)> {
    event.attributes["audit.redaction"]["hits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| {
            let found = hit["found"].as_str().unwrap().to_owned();
            (found, hit["count"].as_u64().unwrap())
        })
        .collect()
}

#[test]
fn json_is_written_anew_or_a_spelling_hides_a_value() {
    let (email, masked) = (pseudonym("email", EMAIL), "[redacted:card]");
    let long = "1".repeat(400);
    for (given, kept) in [
        (
            r#"{ "a" : "john.doe\u0040example.org" , "b":1.50e3, "ü":"\u00fc" }"#,
            format!(r#"{{ "a" : "{email}" , "b":1.50e3, "ü":"\u00fc" }}"#),
        ),
        (
            "{\"n\":4111111111111111,\"m\":[ 4111111111111112 ]}",
            format!(r#"{{"n":"{masked}","m":[ 4111111111111112 ]}}"#),
        ),
        (
            r#"{"john.doe@example.org":{"x":"4111\u00201111 1111 1111"}}"#,
            format!(r#"{{"{email}":{{"x":"{masked}"}}}}"#),
        ),
        (
            // JSON in a string, and JSON in a string of that.
            r#"{"arguments":"{\"to\":\"john.doe\\u0040example.org\",\"t\":\"Pay:\\n4111 1111 1111 1111\"}"}"#,
            format!(r#"{{"arguments":"{{\"to\":\"{email}\",\"t\":\"Pay:\\n{masked}\"}}"}}"#),
        ),
        (
            r#"["<john.doe@example.org>","\u003cjohn.doe@example.org\u003e","{\"a\":\"\\u003cjohn.doe@example.org\\u003e\"}"]"#,
            format!(r#"["<{email}>","\u003c{email}\u003e","{{\"a\":\"\\u003c{email}\\u003e\"}}"]"#),
        ),
        (
            r#"{"lone":"\ud83d","pair":"\ud83d\ude00 john.doe@example.org","url":"?to=john.doe%40example.org"}"#,
            format!(r#"{{"lone":"\ud83d","pair":"\ud83d\ude00 {email}","url":"?to={email}"}}"#),
        ),
        (
            // Two documents, one behind the other, and one that is cut off.
            "{\"a\":\"john.doe@example.org\"}\n{\"b\":\"x\"}\n{\"c\":\"john.doe\\u0040example.org",
            format!("{{\"a\":\"{email}\"}}\n{{\"b\":\"x\"}}\n{{\"c\":\"{email}"),
        ),
    ] {
        let recorded = record(&with(Media::Json, given.as_bytes()));
        assert_eq!(body(&recorded), kept);
        assert!(
            recorded.attributes["audit.redaction.commitments"]["payloads/response.body"]
                .is_string()
        );
    }
    // Without a hit nothing changes, whatever it is.
    for given in [
        "{}",
        "",
        "null",
        "[1,2",
        "{\"a\":\"\\ud800\"}",
        &format!("[{long}]"),
        "\u{feff}{\"a\":1}",
        "\"\\q\"",
    ] {
        let recorded = record(&with(Media::Json, given.as_bytes()));
        assert_eq!(body(&recorded), given);
        assert_eq!(hits(&recorded), []);
        assert!(
            !recorded
                .attributes
                .contains_key("audit.redaction.commitments")
        );
    }
}

#[test]
fn the_record_does_not_say_what_was_done() {
    let given = format!(r#"{{"a":"{EMAIL} {EMAIL} other@example.org","b":"{CARD}"}}"#);
    let recorded = record(&with(Media::Json, given.as_bytes()));
    let said = &recorded.attributes["audit.redaction"];
    assert_eq!(
        said["hits"],
        json!([
            {"action": "pseudonymise", "count": 3, "found": "email", "rule": "email", "rule_set": "personal-data"},
            {"action": "mask", "count": 1, "found": "card", "rule": "card", "rule_set": "personal-data"},
        ])
    );
    let sets = said["rule_sets"].as_array().unwrap();
    assert_eq!(sets[0]["name"], "personal-data");
    assert_eq!(sets[1]["version"], "1");
    assert_eq!(sets[0]["sha256"].as_str().unwrap().len(), 7 + 64);
    // Whoever holds the original proves it.
    let told = &recorded.attributes["audit.redaction.commitments"]["payloads/response.body"];
    let salt = key().redaction_salt(recorded.id, "payloads/response.body");
    assert_eq!(
        told.as_str().unwrap(),
        commitment(&salt, given.as_bytes()).to_string()
    );
}

#[test]
fn a_built_in_rule_set_was_changed_and_kept_its_version() {
    let digests: Vec<String> = built_in().iter().map(|s| s.sha256().unwrap()).collect();
    // A change that is wanted gets another version, and stands here beside the old one.
    assert_eq!(digests, BUILT_IN_DIGESTS);
}

const BUILT_IN_DIGESTS: [&str; 2] = [
    "2dd025a903c9784b81dc1bc507a64c363f95d3f1344f393b2d7503ed197cc649",
    "c03c44b6df4d48c0cb2a3fa5a9ea3228553a37fa67a43dc50d56b3c2a196f34e",
];

fn sse(deltas: &[&str], form: impl Fn(&str) -> Value) -> String {
    deltas
        .iter()
        .map(|delta| format!("event: x\ndata: {}\n\n", form(delta)))
        .collect::<String>()
        + "data: [DONE]\n\n"
}

/// The strings at `pointer`, one behind the other.
fn said(stream: &str, pointer: &str) -> String {
    stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter(|data| *data != "[DONE]")
        .map(|data| {
            let value: Value = serde_json::from_str(data).expect("each event stays JSON");
            value
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

#[test]
fn what_comes_in_pieces_passes() {
    let chat = |delta: &str| json!({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"content": delta}}]});
    let messages = |delta: &str| json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": delta}});
    let responses = |delta: &str| json!({"type": "response.output_text.delta", "item_id": "m1", "output_index": 0, "content_index": 0, "delta": delta});
    let arguments = |delta: &str| json!({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": delta}}]}}]});
    let gemini = |delta: &str| json!({"candidates": [{"content": {"parts": [{"text": delta}], "role": "model"}}]});
    let pieces = [
        "Write to jo",
        "hn.do",
        "e@exa",
        "mple.org",
        " or 41",
        "11 1111 ",
        "1111 1111",
        "!",
    ];
    let wanted = format!("Write to {} or [redacted:card]!", pseudonym("email", EMAIL));
    for (pointer, stream) in [
        ("/choices/0/delta/content", sse(&pieces, chat)),
        ("/delta/text", sse(&pieces, messages)),
        ("/delta", sse(&pieces, responses)),
        (
            "/choices/0/delta/tool_calls/0/function/arguments",
            sse(&pieces, arguments),
        ),
        ("/candidates/0/content/parts/0/text", sse(&pieces, gemini)),
    ] {
        let recorded = body(&record(&with(Media::EventStream, stream.as_bytes())));
        assert_eq!(said(&recorded, pointer), wanted);
        assert_eq!(recorded.matches("event: x\n").count(), pieces.len());
        assert!(recorded.ends_with("data: [DONE]\n\n"));
        // The same as lines of JSON, and without its media type.
        let lines: String = stream
            .lines()
            .filter_map(|l| l.strip_prefix("data: "))
            .filter(|l| *l != "[DONE]")
            .map(|line| format!("{line}\r\n"))
            .collect();
        let recorded = body(&record(&with(Media::NdJson, lines.as_bytes())));
        let back: String = recorded
            .lines()
            .map(|line| format!("data: {line}\n\n"))
            .collect();
        assert_eq!(said(&back, pointer), wanted);
        let untyped = body(&record(&with(Media::Bytes, stream.as_bytes())));
        assert_eq!(said(&untyped, pointer), wanted);
    }
}

#[test]
fn two_texts_of_a_stream_are_taken_for_one_or_one_for_two() {
    // Two choices by turns: neither has an address, though one behind the other would.
    let mut stream = String::new();
    for (index, delta) in [
        (0, "john.doe"),
        (1, "@example.org"),
        (0, " says"),
        (1, " hi"),
    ] {
        stream += &format!(
            "data: {}\n\n",
            json!({"choices": [{"index": index, "delta": {"content": delta}}]})
        );
    }
    let recorded = record(&with(Media::EventStream, stream.as_bytes()));
    assert_eq!(body(&recorded), stream);
    // And an address in each of them, by turns.
    let mut stream = String::new();
    for (index, delta) in [
        (0, "john.doe"),
        (1, "ann@"),
        (0, "@example.org"),
        (1, "example.org"),
    ] {
        stream += &format!(
            "data: {}\n\n",
            json!({"choices": [{"index": index, "delta": {"content": delta}}]})
        );
    }
    let recorded = body(&record(&with(Media::EventStream, stream.as_bytes())));
    for email in [EMAIL, "ann@example.org"] {
        assert!(recorded.contains(&pseudonym("email", email)), "{recorded}");
    }
    assert!(!recorded.contains('@'));
    // The parallel calls of one tool message.
    let call = |n: usize, text: &str| json!({"choices": [{"delta": {"tool_calls": [{"index": n, "function": {"arguments": text}}]}}]});
    let stream = [
        call(0, "{\"a\":\"joh"),
        call(1, "{\"b\":\"ann@ex"),
        call(0, "n.doe@example.org\"}"),
        call(1, "ample.org\"}"),
    ]
    .map(|e| format!("data: {e}\n\n"))
    .concat();
    let recorded = body(&record(&with(Media::EventStream, stream.as_bytes())));
    assert!(
        !recorded.contains('@') && recorded.contains(&pseudonym("email", EMAIL)),
        "{recorded}"
    );
    // Records, each with an address of its own, have as many.
    let lines: String = ["a@b.org", "c@d.org", "e@f.org"]
        .map(|e| format!("{{\"user\":\"{e}\"}}\n"))
        .concat();
    let recorded = body(&record(&with(Media::NdJson, lines.as_bytes())));
    let wanted = ["a@b.org", "c@d.org", "e@f.org"]
        .map(|e| format!("{{\"user\":\"{}\"}}\n", pseudonym("email", e)))
        .concat();
    assert_eq!(recorded, wanted);
    // A name that each event repeats is no text that goes on.
    let stream = (0..20)
        .map(|_| "data: {\"id\":\"4111-1111-11\",\"x\":\"11-1111\"}\n\n")
        .collect::<String>();
    let recorded = record(&with(Media::EventStream, stream.as_bytes()));
    assert_eq!(body(&recorded), stream);
}

#[test]
fn what_of_a_stream_is_no_json_passes() {
    let stream = format!(
        ": comment {EMAIL}\r\nid: {CARD}\r\nevent: {EMAIL}\r\nretry: 1\r\ndata: plain {EMAIL}\r\n\r\n\
         data: {{\"a\":\r\ndata: \"{EMAIL}\",\r\ndata: \"b\":1}}\r\n\r\ndata: jo\n\ndata: hn.doe@example.org\n\n\
         data: {{\"cut\":\"john.doe\\u0040example.or"
    );
    let recorded = body(&record(&with(Media::EventStream, stream.as_bytes())));
    assert!(
        !recorded.contains("john") && !recorded.contains("4111") && !recorded.contains("@e"),
        "{recorded}"
    );
    assert_eq!(
        recorded.matches("\r\n").count(),
        stream.matches("\r\n").count()
    );
    assert!(recorded.contains(&format!(
        "data: \"{}\",\r\ndata: \"b\":1}}",
        pseudonym("email", EMAIL)
    )));
    // An event stream of AWS is binary, and nobody looks into it.
    let recorded = record(&with(
        Media::AwsEventStream,
        b"\0\0\0\x10john.doe@example.org",
    ));
    assert_eq!(body(&recorded), "[withheld:aws_event_stream]");
    assert_eq!(recorded.payloads[0].media, Media::Text);
    let said = &recorded.attributes[WITHHELD];
    assert_eq!(
        *said,
        json!([{"count": 1, "field": "payloads/response.body", "reason": "aws_event_stream"}])
    );
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compression_hides_a_value() {
    let text = format!("{{\"a\":\"{EMAIL}\"}}");
    let clean = b"{\"a\":\"nobody\"}";
    for (coding, hit, none) in [
        ("gzip", gzip(text.as_bytes()), gzip(clean)),
        ("X-GZIP ", gzip(text.as_bytes()), gzip(clean)),
        (
            "identity,  zstd",
            zstd::encode_all(text.as_bytes(), 1).unwrap(),
            zstd::encode_all(&clean[..], 1).unwrap(),
        ),
    ] {
        let mut event = with(Media::Json, &hit);
        header(&mut event, "Content-Encoding", coding);
        let recorded = record(&event);
        assert_eq!(
            body(&recorded),
            format!("{{\"a\":\"{}\"}}", pseudonym("email", EMAIL))
        );
        assert_eq!(
            recorded.attributes[DECODED],
            json!(["payloads/response.body"])
        );
        let salt = key().redaction_salt(event.id, "payloads/response.body");
        assert_eq!(
            recorded.attributes["audit.redaction.commitments"]["payloads/response.body"],
            json!(commitment(&salt, &hit).to_string()),
            "the commitment is to the bytes as they came"
        );
        let mut event = with(Media::Json, &none);
        header(&mut event, "content-encoding", coding);
        let recorded = record(&event);
        assert_eq!(
            recorded.payloads[0].bytes, none,
            "nothing was found, and the bytes stay"
        );
        assert!(!recorded.attributes.contains_key(DECODED));
    }
}

#[test]
fn what_can_not_be_read_is_recorded() {
    let mut bomb = gzip(&vec![b'a'; 100 << 20]);
    let png = b"\x89PNG\r\n\x1a\n\0\0\0 john.doe@example.org";
    let mut behind = gzip(b"x");
    behind.extend_from_slice(EMAIL.as_bytes());
    let brotli_then_text = [b"\x0b\x00\x80x\x03".as_slice(), EMAIL.as_bytes()].concat();
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("compress", EMAIL.into(), "content_encoding"),
        ("gzip, br", EMAIL.into(), "content_encoding"),
        ("gzip", EMAIL.into(), "content_encoding"),
        ("gzip", behind, "content_encoding"),
        ("br", brotli_then_text, "content_encoding"),
        ("gzip", std::mem::take(&mut bomb), "too_long_when_decoded"),
        ("", png.to_vec(), "binary"),
    ];
    for (coding, bytes, reason) in cases {
        let mut event = with(Media::Bytes, &bytes);
        header(&mut event, "content-encoding", coding);
        let recorded = record(&event);
        assert_eq!(body(&recorded), format!("[withheld:{reason}]"), "{coding}");
        let mut options = Options::new(built_in());
        options.unreadable = Unreadable::Keep;
        assert_eq!(
            redacted(options, &event).payloads[0].bytes,
            bytes,
            "the operator wants it kept"
        );
        // Rules that look elsewhere don't withhold it.
        let elsewhere = rules(json!([{"name": "x", "headers": ["x-y"], "action": "drop"}]));
        assert_eq!(
            redacted(Options::new(elsewhere), &event).payloads[0].bytes,
            bytes
        );
    }
    // Text in an older encoding is text.
    let recorded = record(&with(Media::Text, b"Gr\xfc\xdfe an john.doe@example.org"));
    assert!(
        recorded.payloads[0]
            .bytes
            .starts_with(b"Gr\xfc\xdfe an <email:")
    );
}

#[test]
fn a_part_of_a_form_passes() {
    let form = format!(
        "--b\r\nContent-Disposition: form-data; name=\"{EMAIL}\"\r\n\r\nwrite to {EMAIL}\r\n\
         --b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.json\"\r\nContent-Type: application/json\r\n\r\n\
         {{\"x\":\"john.doe\\u0040example.org\"}}\r\n\
         --b\r\nContent-Type: audio/wav\r\n\r\nRIFF\0\0 {EMAIL}\r\n\
         --b\r\nContent-Transfer-Encoding: base64\r\n\r\nam9obi5kb2VAZXhhbXBsZS5vcmc=\r\n--b--\r\n"
    );
    let mut event = with(Media::Multipart, form.as_bytes());
    header(
        &mut event,
        "content-type",
        "multipart/form-data; boundary=\"b\"",
    );
    let email = pseudonym("email", EMAIL);
    let recorded = record(&event);
    assert_eq!(
        body(&recorded),
        format!(
            "--b\r\nContent-Disposition: form-data; name=\"{email}\"\r\n\r\nwrite to {email}\r\n\
             --b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.json\"\r\nContent-Type: application/json\r\n\r\n\
             {{\"x\":\"{email}\"}}\r\n\
             --b\r\nContent-Type: audio/wav\r\n\r\n[withheld:binary_part]\r\n\
             --b\r\nContent-Transfer-Encoding: base64\r\n\r\n[withheld:binary_part]\r\n--b--\r\n"
        )
    );
    assert_eq!(recorded.attributes[WITHHELD][0]["count"], 2);
    let recorded = record(&with(
        Media::Form,
        b"a=1&to=john.doe%40example.org&card=4111+1111+1111+1111",
    ));
    assert_eq!(
        body(&recorded),
        format!("a=1&to={email}&card=[redacted:card]")
    );
    let recorded = record(&with(Media::Multipart, b"no boundary"));
    assert_eq!(body(&recorded), "[withheld:multipart]");
}

#[test]
fn a_fact_says_what_the_body_does_not() {
    let mut event = event();
    let email = pseudonym("email", EMAIL);
    event.attributes = json!({
        "audit.error.message": format!("no account {EMAIL}"),
        "url.query": "q=john.doe%40example.org&z=4111+1111+1111+1111",
        "url.path": "/v1/users/john.doe%40example.org/x",
        "http.request.header": [["x-user", EMAIL], ["x-forwarded-for", "192.0.2.7"], ["date", "Thu, 05 Nov 2026 12:12:11 GMT"]],
        "http.response.header": [["x-bytes", "base64:/9j/"]],
        "audit.response.tool_calls": [{"gen_ai.tool.name": EMAIL, "n": 4_111_111_111_111_111_u64, "m": 1.5}],
        "server.address": "192.0.2.9",
        "http.response.body.size": 4_111_111_111_111_111_u64,
        EMAIL: {EMAIL: true},
        "x": null,
    }).as_object().unwrap().clone();
    event
        .refs
        .insert("model_id".to_owned(), format!("ft:{EMAIL}"));
    event.correlation = Some(Correlation {
        provider_request_id: Some(EMAIL.to_owned()),
        ..Correlation::default()
    });
    event.system = Some(SystemRef {
        id: EMAIL.to_owned(),
        version: None,
    });
    event.session_id = Some("s-1".to_owned());
    event.subject = Some("patient-7".to_owned());
    let mut actor = Actor::new(ActorKind::Human, "u-1");
    actor.display_name = Some(format!("John <{EMAIL}>"));
    event.actor = Some(actor.clone());
    let recorded = record(&event);
    let a = &recorded.attributes;
    assert_eq!(a["audit.error.message"], format!("no account {email}"));
    assert_eq!(a["url.query"], format!("q={email}&z=[redacted:card]"));
    assert_eq!(a["url.path"], format!("/v1/users/{email}/x"));
    assert_eq!(
        a["http.request.header"],
        json!([
            ["x-user", email],
            ["x-forwarded-for", pseudonym("ip", "192.0.2.7")],
            ["date", "Thu, 05 Nov 2026 12:12:11 GMT"]
        ])
    );
    assert_eq!(
        a["http.response.header"],
        json!([["x-bytes", "[withheld:binary]"]])
    );
    assert_eq!(
        a["audit.response.tool_calls"],
        json!([{"gen_ai.tool.name": email, "n": "[redacted:card]", "m": 1.5}])
    );
    assert_eq!(a["server.address"], "192.0.2.9");
    assert_eq!(a[&email], json!({&email: true}));
    assert_eq!(recorded.refs["model_id"], format!("ft:{email}"));
    assert_eq!(
        recorded.correlation.as_ref().unwrap().provider_request_id,
        Some(email.clone())
    );
    assert_eq!(recorded.system.as_ref().unwrap().id, email);
    assert_eq!(
        recorded.actor.as_ref().unwrap().display_name,
        Some(format!("John <{email}>"))
    );
    assert_eq!(recorded.session_id, event.session_id);
    let text = format!(
        "{a:?} {:?} {:?} {:?} {:?}",
        recorded.refs, recorded.correlation, recorded.system, recorded.actor
    );
    assert!(!text.contains("john.doe"), "{text}");
    // Each field that was changed can be proven.
    let original = canonical::to_vec(&event.attributes["audit.error.message"]).unwrap();
    let salt = key().redaction_salt(event.id, "attributes/audit.error.message");
    let told = a["audit.redaction.commitments"].as_object().unwrap();
    assert_eq!(
        told["attributes/audit.error.message"],
        commitment(&salt, &original).to_string()
    );
    let original = canonical::to_vec(&actor).unwrap();
    let salt = key().redaction_salt(event.id, "actor");
    assert_eq!(told["actor"], commitment(&salt, &original).to_string());
    let unchanged = ["attributes/x", "attributes/server.address", "session_id"];
    assert!(unchanged.iter().all(|field| !told.contains_key(*field)));
}

#[test]
fn identities_stay_or_are_replaced_as_asked() {
    let mut event = event();
    event.session_id = Some(EMAIL.to_owned());
    event.subject = Some(EMAIL.to_owned());
    event.actor = Some(Actor {
        display_name: Some("John".to_owned()),
        id: EMAIL.to_owned(),
        kind: ActorKind::Human,
    });
    event.on_behalf_of = event.actor.clone();
    let recorded = record(&event);
    assert_eq!(
        (&recorded.session_id, &recorded.subject, &recorded.actor),
        (&event.session_id, &event.subject, &event.actor)
    );
    let mut options = Options::new(built_in());
    options.identities = Identities::Pseudonymise;
    options.tenant = Tenant::Fixed("clinic".to_owned());
    let recorded = redacted(options, &event);
    let name = |what: &str| {
        format!(
            "<{what}:{}>",
            key().pseudonym("clinic", what, EMAIL.as_bytes())
        )
    };
    assert_eq!(recorded.session_id, Some(name("session")));
    assert_eq!(recorded.subject, Some(name("subject")));
    let actor = Actor::new(ActorKind::Human, name("actor"));
    assert_eq!(
        (recorded.actor, recorded.on_behalf_of),
        (Some(actor.clone()), Some(actor))
    );
}

#[test]
fn a_tenant_sees_the_pseudonyms_of_another() {
    let text = |tenant: Tenant, event: &Event| {
        let mut options = Options::new(built_in());
        options.tenant = tenant;
        body(&redacted(options, event))
    };
    let mut given = with(Media::Text, EMAIL.as_bytes());
    given.system = Some(SystemRef {
        id: "ward-1".to_owned(),
        version: None,
    });
    given
        .attributes
        .insert("tenant".to_owned(), json!("ward-2"));
    given.attributes.insert(
        "http.request.header".to_owned(),
        json!([["X-Tenant", "ward-3"]]),
    );
    let name = |tenant: &str| {
        format!(
            "<email:{}>",
            key().pseudonym(tenant, "email", EMAIL.as_bytes())
        )
    };
    assert_eq!(text(Tenant::Fixed("a".to_owned()), &given), name("a"));
    assert_eq!(
        text(Tenant::parse_source("system").unwrap(), &given),
        name("ward-1")
    );
    assert_eq!(
        text(Tenant::parse_source("attribute:tenant").unwrap(), &given),
        name("ward-2")
    );
    assert_eq!(
        text(Tenant::parse_source("header:x-tenant").unwrap(), &given),
        name("ward-3")
    );
    assert_eq!(text(Tenant::System, &event_of(EMAIL)), name(""));
    // One person in several spellings has one name.
    assert_eq!(
        text(Tenant::default(), &event_of("John.Doe@EXAMPLE.org")),
        name("")
    );
}

fn event_of(text: &str) -> Event {
    with(Media::Text, text.as_bytes())
}

#[test]
fn a_rule_takes_another_value_than_it_names() {
    let given = br#"{"user":{"name":"Ann","age":40,"tags":["a",null,true]},"messages":[{"content":"MRN-123456 ok"},{"content":[{"text":"MRN-7 x"}]}],"x":"MRN-123456"}"#;
    let own = |rule: Value| {
        let mut event = with(Media::Json, given);
        event
            .attributes
            .insert("audit.note".to_owned(), json!("MRN-123456"));
        event.attributes.insert(
            "http.response.header".to_owned(),
            json!([["X-Patient", "Ann"], ["b", "MRN-123456"]]),
        );
        redacted(Options::new(rules(json!([rule]))), &event)
    };
    let text = |rule: Value| body(&own(rule));
    let given = std::str::from_utf8(given).unwrap();
    let name = |value: &str| format!("<r:{}>", key().pseudonym("", "r", value.as_bytes()));
    for (rule, from, to) in [
        (
            json!({"name": "r", "pointers": ["/user/name"], "action": "mask"}),
            "\"Ann\"",
            "\"[redacted:r]\"".to_owned(),
        ),
        (
            json!({"name": "r", "pointers": ["/user/name"], "action": "drop"}),
            "\"Ann\"",
            "\"\"".to_owned(),
        ),
        (
            json!({"name": "r", "pointers": ["/user/name"], "action": "pseudonymise"}),
            "\"Ann\"",
            format!("\"{}\"", name("Ann")),
        ),
        (
            json!({"name": "r", "pointers": ["/user/name"], "action": "metadata_only"}),
            "\"Ann\"",
            "\"[metadata only: 3 bytes]\"".to_owned(),
        ),
        (
            json!({"name": "r", "pointers": ["/user/age"], "action": "mask"}),
            "40",
            "\"[redacted:r]\"".to_owned(),
        ),
        (
            json!({"name": "r", "pointers": ["/*/age"], "action": "drop"}),
            "40",
            "null".to_owned(),
        ),
        (
            json!({"name": "r", "payloads": ["response.body"], "pointers": ["/user/tags"], "action": "mask"}),
            "[\"a\",null,true]",
            "\"[redacted:r]\"".to_owned(),
        ),
        (
            json!({"name": "r", "pointers": ["/messages/*/content"], "patterns": ["MRN-[0-9]{6}"], "action": "mask"}),
            "MRN-123456 ok",
            "[redacted:r] ok".to_owned(),
        ),
        (
            json!({"name": "r", "pointers": ["/messages"], "patterns": ["MRN-[0-9]+"], "action": "metadata_only"}),
            "MRN-123456 ok",
            "[metadata only: 13 bytes]".to_owned(),
        ),
        (
            json!({"name": "r", "payloads": ["other"], "action": "mask"}),
            "",
            String::new(),
        ),
    ] {
        let mut wanted = given.replacen(from, &to, 1);
        if rule["action"] == "metadata_only" && rule["patterns"].is_array() {
            wanted = wanted.replace("MRN-7 x", "[metadata only: 7 bytes]");
        }
        assert_eq!(text(rule.clone()), wanted, "{rule}");
    }
    let all = own(json!({"name": "r", "patterns": ["MRN-[0-9]{6}"], "action": "drop"}));
    assert_eq!(body(&all), given.replace("MRN-123456", ""));
    assert_eq!(all.attributes["audit.note"], "");
    assert_eq!(
        all.attributes["http.response.header"],
        json!([["X-Patient", "Ann"], ["b", ""]])
    );
    let dropped = own(json!({"name": "r", "payloads": ["response.body"], "action": "drop"}));
    assert!(dropped.payloads.is_empty());
    assert!(
        dropped.attributes["audit.redaction.commitments"]["payloads/response.body"].is_string()
    );
    let by_name = own(json!({"name": "r", "attributes": ["audit.*"], "action": "drop"}));
    assert!(!by_name.attributes.contains_key("audit.note"));
    assert_eq!(body(&by_name), given);
    let header = own(json!({"name": "r", "headers": ["x-PATIENT"], "action": "mask"}));
    assert_eq!(
        header.attributes["http.response.header"],
        json!([["X-Patient", "[redacted:r]"], ["b", "MRN-123456"]])
    );
    let header = own(json!({"name": "r", "headers": ["x-patient"], "action": "drop"}));
    assert_eq!(
        header.attributes["http.response.header"],
        json!([["b", "MRN-123456"]])
    );
}

#[test]
fn a_pointer_into_what_is_cut_off_passes() {
    let rule = rules(json!([{"name": "r", "pointers": ["/user/name"], "action": "mask"}]));
    for cut in [
        "{\"user\":{\"age\":1,\"name\":\"Ann Bol",
        "{\"user\":",
        "x{\"user\":{\"name\":\"Ann\"}}",
        "{\"user\":{\"name\":[\"Ann\",[\"B\"",
    ] {
        let recorded = redacted(
            Options::new(rule.clone()),
            &with(Media::Json, cut.as_bytes()),
        );
        assert!(!body(&recorded).contains("Ann"), "{}", body(&recorded));
        assert!(
            body(&recorded).contains("[withheld:broken_json]"),
            "{}",
            body(&recorded)
        );
    }
    let stream = "data: {\"user\":{\"name\":\"Ann\"}}\n\ndata: {\"user\":{\"name\":\"Bo";
    let recorded = redacted(
        Options::new(rule),
        &with(Media::EventStream, stream.as_bytes()),
    );
    assert_eq!(
        body(&recorded),
        "data: {\"user\":{\"name\":\"[redacted:r]\"}}\n\ndata: {\"user\":{\"name\":[withheld:broken_json]"
    );
}

#[test]
fn only_metadata_is_more_than_metadata() {
    let all = rules(json!([{"name": "m", "action": "metadata_only"}]));
    let mut event = with(Media::Json, b"{\"a\":\"secret\"}");
    event.payloads.push(Payload::new(
        "response.chunks",
        Media::Json,
        b"[[1,2]]".to_vec(),
    ));
    event.attributes = json!({
        "gen_ai.usage.input_tokens": 7, "gen_ai.response.model": "gpt-5", "audit.error.message": "secret",
        "http.response.header": [["x", "secret"]], "audit.response.complete": true,
        "audit.response.tool_calls": [{"gen_ai.tool.name": "secret"}],
    }).as_object().unwrap().clone();
    event.actor = Some(Actor {
        display_name: Some("secret".to_owned()),
        id: "u".to_owned(),
        kind: ActorKind::Human,
    });
    let recorded = redacted(Options::new(all), &event);
    assert!(!format!("{:?} {:?}", recorded.attributes, recorded.actor).contains("secret"));
    assert!(
        recorded
            .payloads
            .iter()
            .all(|p| p.bytes.starts_with(b"[metadata only: "))
    );
    assert_eq!(recorded.attributes["gen_ai.usage.input_tokens"], 7);
    assert_eq!(recorded.attributes["gen_ai.response.model"], "gpt-5");
    assert_eq!(recorded.attributes["audit.response.complete"], true);
}

#[test]
fn a_wrong_rule_is_noticed_only_when_it_should_have_hit() {
    for (rule, says) in [
        (
            json!({"name": "R", "detect": ["email"], "action": "mask"}),
            "rule \"R\": its name",
        ),
        (
            json!({"name": "r", "detect": ["e-mail"], "action": "mask"}),
            "rule \"r\": there is no detector \"e-mail\"; there are email",
        ),
        (
            json!({"name": "r", "patterns": ["("], "action": "mask"}),
            "rule \"r\": pattern",
        ),
        (
            json!({"name": "r", "patterns": ["a*"], "action": "mask"}),
            "matches where nothing is",
        ),
        (
            json!({"name": "r", "patterns": ["a{1000}{1000}"], "action": "mask"}),
            "rule \"r\": pattern",
        ),
        (
            json!({"name": "r", "pointers": ["a"], "action": "mask"}),
            "rule \"r\": pointer",
        ),
        (
            json!({"name": "r", "pointers": ["/a"], "headers": ["x"], "action": "mask"}),
            "rule \"r\": pointers look",
        ),
        (
            json!({"name": "r", "action": "drop"}),
            "it would drop everything",
        ),
        (
            json!({"name": "r", "attributes": [""], "action": "drop"}),
            "no name of a attribute",
        ),
    ] {
        let error = Redactor::new(Options::new(rules(json!([rule]))))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("rule set \"own\"") && error.contains(says),
            "{error}"
        );
    }
    let twice = rules(
        json!([{"name": "r", "detect": ["ip"], "action": "mask"}, {"name": "r", "detect": ["ip"], "action": "mask"}]),
    );
    assert!(
        Redactor::new(Options::new(twice))
            .unwrap_err()
            .to_string()
            .contains("twice")
    );
    let same = [built_in(), built_in()].concat();
    Redactor::new(Options::new(same)).unwrap_err();
    Redactor::new(Options::new(rules(json!([])))).unwrap_err();
    assert!(
        RuleSet::built_in("secrets@0")
            .unwrap_err()
            .to_string()
            .contains("secrets@1")
    );
    for unknown in [
        json!({"name": "r", "action": "mask", "regex": "x"}),
        json!({"name": "r", "action": "hash"}),
    ] {
        serde_json::from_value::<Rule>(unknown).unwrap_err();
    }
    assert_eq!(Action::MetadataOnly.as_str(), "metadata_only");
    for wrong in ["", "systems", "header:", "tenant:x"] {
        Tenant::parse_source(wrong).unwrap_err();
    }
}

#[test]
fn rules_that_overlap_leave_a_rest() {
    let sets = [
        rules(json!([
            {"name": "a", "patterns": ["abc+"], "action": "drop"}, {"name": "b", "patterns": ["cde"], "action": "pseudonymise"},
            {"name": "c", "patterns": ["x(abc)x"], "action": "mask"},
        ])),
        built_in(),
    ].concat();
    let text = |given: &str| body(&redacted(Options::new(sets.clone()), &event_of(given)));
    assert_eq!(text("1abcde2"), "12");
    assert_eq!(text("1xabcx2"), "1[redacted:c]2");
    assert_eq!(
        text("cdeabcc"),
        format!("<b:{}>", key().pseudonym("", "b", b"cde"))
    );
    // A card number inside of an address is gone with it.
    assert_eq!(
        text("4111111111111111@example.org"),
        pseudonym("email", "4111111111111111@example.org")
    );
}

#[test]
fn tokens_say_what_the_text_does_not() {
    let with_logprobs = |text: &str| {
        json!({"choices": [{"index": 0, "message": {"content": text},
            "logprobs": {"content": [{"token": "jo", "bytes": [106, 111]}, {"token": "hn.doe@example", "top_logprobs": []}]}}],
            "context": [1, 2, 3], "tokens": {"input": 7}})
        .to_string()
    };
    let recorded = record(&with(Media::Json, with_logprobs(EMAIL).as_bytes()));
    let kept: Value = serde_json::from_str(&body(&recorded)).unwrap();
    assert_eq!(kept["choices"][0]["logprobs"], "[withheld:tokens]");
    assert_eq!(kept["context"], "[withheld:tokens]");
    assert_eq!(kept["tokens"]["input"], 7);
    assert_eq!(recorded.attributes[WITHHELD][0]["count"], 2);
    let clean = with_logprobs("nobody");
    assert_eq!(body(&record(&with(Media::Json, clean.as_bytes()))), clean);
    let stream = format!(
        "data: {}\n\ndata: {}\n\n",
        json!({"choices": [{"index": 0, "delta": {"content": "john.doe@"}, "logprobs": {"content": [{"token": "john"}]}}]}),
        json!({"choices": [{"index": 0, "delta": {"content": "example.org"}, "logprobs": {"content": [{"token": "example"}]}}]}),
    );
    let recorded = body(&record(&with(Media::EventStream, stream.as_bytes())));
    assert!(
        !recorded.contains("john") && !recorded.contains("example"),
        "{recorded}"
    );
    assert!(well_formed(Media::EventStream, recorded.as_bytes()));
}

#[test]
fn a_file_in_a_string_passes() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    let text =
        format!("Dear patient, we write to you at {EMAIL} because of your last visit to the ward.");
    let image = [b"\x89PNG\r\n\x1a\n\0\0".as_slice(), &[0xff; 90]].concat();
    let one = |name: &str, value: &str, options: Options| {
        let given = json!({"x": {name: value}}).to_string();
        let recorded = redacted(options, &with(Media::Json, given.as_bytes()));
        let kept: Value = serde_json::from_str(&body(&recorded)).unwrap();
        (kept["x"][name].as_str().unwrap().to_owned(), recorded)
    };
    let on = || Options::new(built_in());
    for (name, prefix) in [
        ("data", ""),
        ("file_data", "data:text/plain;base64,"),
        ("anything", "data:text/plain;charset=utf-8;BASE64,"),
    ] {
        let (kept, recorded) = one(name, &format!("{prefix}{}", STANDARD.encode(&text)), on());
        assert_eq!(kept, "[redacted:email]");
        assert_eq!(hits(&recorded), [("email".to_owned(), 1)]);
        let clean = format!(
            "{prefix}{}",
            URL_SAFE.encode("nothing of anybody, ".repeat(9))
        );
        assert_eq!(one(name, &clean, on()).0, clean);
        let given = format!("{prefix}{}", STANDARD.encode(&image));
        let (kept, recorded) = one(name, &given, on());
        assert_eq!(kept, "[withheld:base64]");
        assert_eq!(recorded.attributes[WITHHELD][0]["reason"], "base64");
        let mut keep = on();
        keep.unreadable = Unreadable::Keep;
        assert_eq!(one(name, &given, keep).0, given);
    }
    // Broken into lines, and cut off.
    let lines = STANDARD
        .encode(&image)
        .as_bytes()
        .chunks(40)
        .map(|l| std::str::from_utf8(l).unwrap().to_owned() + "\r\n")
        .collect::<String>();
    for given in [lines.as_str(), STANDARD.encode(&image).get(..89).unwrap()] {
        assert_eq!(one("data", given, on()).0, "[withheld:base64]");
    }
    // What has no name for it is text: signatures and the like.
    let given = STANDARD.encode(&image);
    assert_eq!(one("signature", &given, on()).0, given);
    let words = "a text that is no base64, since it has blanks in it, and a point.".to_owned();
    assert_eq!(one("data", &words, on()).0, words);
    assert_eq!(
        one("data", &format!("{words} {EMAIL}"), on()).0,
        format!("{words} {}", pseudonym("email", EMAIL))
    );
}

#[test]
fn the_digest_of_a_body_gives_away_what_was_taken_out() {
    let mut event = with(Media::Text, EMAIL.as_bytes());
    event
        .attributes
        .insert("audit.response.body_sha256".to_owned(), json!("00"));
    let recorded = record(&event);
    assert!(
        !recorded
            .attributes
            .contains_key("audit.response.body_sha256")
    );
    let clean = record(&{
        let mut e = event.clone();
        e.payloads[0].bytes = b"clean".to_vec();
        e
    });
    assert_eq!(clean.attributes["audit.response.body_sha256"], "00");
}

#[test]
fn hostile_bodies_break_it_or_pass() {
    let mut event = with(Media::Json, &[]);
    let deep = "[".repeat(2_000_000);
    let many = format!("[{}]", "\"a@b.org\",".repeat(150_000) + "1");
    for (bytes, media) in [
        ("@".repeat(10_000_000), Media::Text),
        (deep.clone() + EMAIL, Media::Json),
        (format!("{{\"a\":{}", deep), Media::Json),
        (many, Media::Json),
        (
            "data: {\"a\":\"x@\"}\n\n".repeat(50_000),
            Media::EventStream,
        ),
        ("data:\n".repeat(500_000), Media::EventStream),
        ("%".repeat(1_000_000), Media::Form),
        ("\\".repeat(1_000_000), Media::Text),
        ("\\u00".repeat(200_000), Media::Text),
        ("1".repeat(2_000_000), Media::Json),
        ("+1 ".repeat(300_000), Media::Text),
        ("--x\r\n".repeat(100_000), Media::Multipart),
        ("eyJ-AKIAIOSFODNN7EXAMPLE-".repeat(100_000), Media::Text),
    ] {
        event.payloads[0] = Payload::new("response.body", media, bytes.into_bytes());
        let recorded = once(&event);
        let left = String::from_utf8_lossy(&recorded.payloads[0].bytes).into_owned();
        assert!(!left.contains("john.doe") && !left.contains("a@b.org"));
    }
    // More escapes, strings and hits than anybody writes; nobody may be made to keep a map of them.
    for (bytes, media, reason) in [
        ("\\n\\t".repeat(3_000_000), Media::Text, "too_many_escapes"),
        (
            format!("[{}1]", "\"a\",".repeat(2_100_000)),
            Media::NdJson,
            "too_many_fragments",
        ),
        (
            "{\"a\":\"b\"}\n".repeat(2_100_000),
            Media::NdJson,
            "too_many_fragments",
        ),
    ] {
        event.payloads[0] = Payload::new("response.body", media, bytes.into_bytes());
        assert_eq!(body(&once(&event)), format!("[withheld:{reason}]"));
    }
    // More hits in one text than anybody may have.
    let recorded = once(&event_of(&"a@b.org ".repeat(150_000)));
    assert_eq!(body(&recorded), "[withheld:too_many_hits]");
    let pattern = rules(json!([{"name": "r", "patterns": ["a"], "action": "mask"}]));
    let recorded = once_with(Options::new(pattern), &event_of(&"a".repeat(20_000)));
    assert_eq!(body(&recorded), "[withheld:too_many_hits]");
}

proptest! {
    #[test]
    fn any_bytes_in_any_form(bytes in prop::collection::vec(any::<u8>(), 0..300), media in 0..8_usize, coding in 0..4_usize) {
        let media = [Media::Json, Media::Bytes, Media::AwsEventStream, Media::NdJson, Media::Form, Media::Multipart, Media::EventStream, Media::Text][media];
        let mut event = with(media, &bytes);
        header(&mut event, "content-encoding", ["", "gzip", "br", "zstd"][coding]);
        record(&event);
    }

    #[test]
    fn a_text_without_a_hit_is_changed(value in "[a-zA-Z \\\\\"\u{e4}\u{1F600}{}\\[\\],:]{0,60}") {
        let given = json!({"a": value, &value: [1, null]}).to_string();
        let recorded = record(&with(Media::Json, given.as_bytes()));
        prop_assert_eq!(body(&recorded), given);
        let recorded = record(&with(Media::Text, value.as_bytes()));
        if !value.is_empty() {
            prop_assert_eq!(body(&recorded), value);
        }
    }

    /// Cut anywhere into deltas, in any text around it.
    #[test]
    fn an_address_is_found_however_a_stream_is_cut(
        seed in any::<u64>(), before in "[a-z ,\n\"]{0,20} ", behind in " [a-z ,\u{e4}\n\"]{0,20}") {
        let text = format!("{before}{EMAIL}{behind}");
        let mut pieces = Vec::new();
        let mut cuts = Cuts(seed);
        let mut rest: Vec<char> = text.chars().collect();
        while !rest.is_empty() {
            let n = usize::try_from(cuts.next() % 6).unwrap().min(rest.len() - 1) + 1;
            pieces.push(rest.drain(..n).collect::<String>());
        }
        let deltas: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let stream = sse(&deltas, |delta| json!({"choices": [{"index": 0, "delta": {"content": delta}}]}));
        let recorded = body(&record(&with(Media::EventStream, stream.as_bytes())));
        let wanted = format!("{before}{}{behind}", pseudonym("email", EMAIL));
        prop_assert_eq!(said(&recorded, "/choices/0/delta/content"), wanted);
    }
}

fn decoded(message: &Value) -> Vec<u8> {
    use base64::Engine as _;
    let text = message["body"].as_str().unwrap_or_default();
    match message["body_encoding"].as_str() {
        Some("base64") => base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap(),
        _ => text.as_bytes().to_vec(),
    }
}

/// Whether a body is of its form: JSON, or a stream in which each event is.
fn well_formed(media: Media, bytes: &[u8]) -> bool {
    let json = |text: &str| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    match media {
        Media::Json => json(text),
        Media::NdJson => text.lines().all(json),
        Media::EventStream => text
            .lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .map(str::trim)
            .all(|data| json(data) || !data.starts_with(['{', '[', '"'])),
        _ => true,
    }
}

#[test]
fn a_recorded_exchange_is_broken_by_rules_or_changed_without_a_hit() {
    let Some(root) = std::env::var_os("AUDIT_FIXTURES") else {
        println!("skipped: AUDIT_FIXTURES is not set");
        return;
    };
    let root = PathBuf::from(root).join("llm-traffic/exchanges");
    let mut files: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap()
        .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert_eq!(files.len(), 258);
    let (mut found, mut clean) = (BTreeMap::new(), 0);
    for file in files {
        let exchange: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let mut event = event();
        for (name, message) in [
            ("request", &exchange["request"]),
            ("response", &exchange["response"]),
        ] {
            let headers = &message["headers"];
            let kind = headers
                .as_array()
                .unwrap()
                .iter()
                .find(|h| h[0].as_str().unwrap().eq_ignore_ascii_case("content-type"));
            let media = kind.map_or(Media::Bytes, |h| {
                Media::of_content_type(h[1].as_str().unwrap())
            });
            let bytes = decoded(message);
            if !bytes.is_empty() {
                event
                    .payloads
                    .push(Payload::new(format!("{name}.body"), media, bytes));
            }
            event
                .attributes
                .insert(format!("http.{name}.header"), headers.clone());
        }
        let recorded = record(&event);
        let told = recorded.attributes.get("audit.redaction.commitments");
        let withheld = recorded.attributes.get(WITHHELD);
        for (given, kept) in event.payloads.iter().zip(&recorded.payloads) {
            let field = format!("payloads/{}", given.name);
            let changed = told.is_some_and(|told| told.get(&field).is_some());
            assert_eq!(changed, given.bytes != kept.bytes, "{file:?} {field}");
            clean += u32::from(!changed);
            if well_formed(given.media, &given.bytes) {
                assert!(well_formed(kept.media, &kept.bytes), "{file:?} {field}");
            }
        }
        for entry in withheld.and_then(Value::as_array).into_iter().flatten() {
            *found
                .entry(format!("withheld {}", entry["reason"]))
                .or_insert(0) += 1;
        }
        for (what, count) in hits(&recorded) {
            if std::env::var_os("AUDIT_TEST_SHOW").is_some() {
                println!("{what} {count} {}", file.display());
            }
            *found.entry(what).or_insert(0) += count;
        }
    }
    println!("{clean} bodies without a hit; {found:?}");
    assert!(clean > 400);
}

/// Some ids look like the number of a person, or of an account.
#[test]
fn the_numbering_of_records_is_taken_out_or_hides_something_else() {
    let id = "01a20466-3407-7935-9287-8d48acb6cef2";
    let mut given = event();
    let mut set = |name: &str, value: Value| given.attributes.insert(name.to_owned(), value);
    set("audit.producer.id", json!(id));
    set("audit.producer.number", json!(4_111_111_111_111_111_u64));
    set(
        "audit.producer.absent",
        json!([[1, 4_111_111_111_111_111_u64]]),
    );
    set("elsewhere", json!(id));
    let kept = record(&given).attributes;
    for name in [
        "audit.producer.id",
        "audit.producer.number",
        "audit.producer.absent",
    ] {
        assert_eq!(kept[name], given.attributes[name]);
    }
    assert_ne!(
        kept["elsewhere"], id,
        "this id proves nothing: no rule hits it"
    );
    // Whoever puts something else there hides nothing.
    for (name, value) in [
        ("audit.producer.id", json!(EMAIL)),
        ("audit.producer.number", json!(EMAIL)),
        ("audit.producer.absent", json!([[EMAIL, 2]])),
    ] {
        let mut given = event();
        given.attributes.insert(name.to_owned(), value);
        let kept = record(&given);
        assert!(!kept.attributes[name].to_string().contains(EMAIL), "{name}");
    }
}
