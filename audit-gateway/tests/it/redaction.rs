//! Redaction behind the real gateway: the agent and the provider see every byte, the log sees none of the personal ones.

use std::sync::Arc;

use audit_capture::redaction::{Options, Redactor, RuleSet};
use audit_core::event::Event;
use audit_core::hex::decode;

use crate::client::{exchange, post};
use crate::scripted::{Scripted, Step, write};
use crate::support::Bench;

/// What must not be in the log, in any of its spellings here.
const PERSONAL: [&str; 9] = [
    "john.doe@",
    "john.doe\\u0040",
    "john.doe%40",
    "4111 1111",
    "41111111",
    "DE89 3704",
    "+49 151",
    "192.0.2.77",
    "sk-ant-api03",
];

/// `{"answer":"write to john.doe@example.org, card 4111 1111 1111 1111"}`
const ZIPPED: &str = "1f8b0800000000000203ab564acc2b2e4f2d52b2522a2fca2c495528c957c8cacfc8d34bc94f7548ad48cc2dc849d5cb\
    2f4ad751484e2c4a513031343454304421946a0114aedf0b44000000";

const STREAM: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Write to jo\"}}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hn.do\"}}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"e@example.org, +49 1\"}}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"51 23456789\"},\"finish_reason\":\"stop\"}]}\n\n\
    data: [DONE]\n\n";

const PLAIN: &str =
    r#"{"error":{"type":"invalid_request_error","message":"no account john.doe@example.org"}}"#;

async fn bench(base: &str) -> Bench {
    let sets = ["personal-data@1", "secrets@1"].map(|name| RuleSet::built_in(name).unwrap());
    let redactor = Redactor::new(Options::new(sets.to_vec())).unwrap();
    Bench::on_log(
        base,
        |_| {},
        |options| options.ingest = Some(Arc::new(redactor)),
    )
    .await
}

fn response(headers: &str, body: &[u8]) -> Step {
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\n{headers}x-account: john.doe@example.org\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    Step::Write(bytes)
}

/// Everything that a reader of the log gets to see of an event.
fn everything(event: &Event) -> String {
    let mut text = format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} ",
        event.actor,
        event.on_behalf_of,
        event.system,
        event.session_id,
        event.correlation,
        event.refs,
        event.subject,
        event.attributes
    );
    for payload in &event.payloads {
        text += &payload.name;
        text += &String::from_utf8_lossy(&payload.bytes);
        // What is still compressed would hide it from this search.
        assert!(
            !payload.bytes.starts_with(&[0x1f, 0x8b]),
            "{}",
            payload.name
        );
    }
    text
}

#[tokio::test]
async fn personal_data_is_in_the_log_or_missing_from_the_traffic() {
    let zipped = decode(ZIPPED).unwrap();
    let json = "content-type: application/json\r\n";
    let answers: [(Step, Vec<u8>); 3] = [
        (response(json, PLAIN.as_bytes()), PLAIN.into()),
        (
            response(&format!("{json}content-encoding: gzip\r\n"), &zipped),
            zipped.clone(),
        ),
        (
            response("content-type: text/event-stream\r\n", STREAM.as_bytes()),
            STREAM.into(),
        ),
    ];
    for (step, wanted) in answers {
        let upstream = Scripted::start(vec![step]).await;
        let bench = bench(&upstream.base()).await;
        let body = br#"{"model":"gpt-5","stream":true,"user":"john.doe\u0040example.org","messages":[{"role":"user",
            "content":"card 4111 1111 1111 1111 or 4111111111111111, DE89 3704 0044 0532 0130 00, from 192.0.2.77"}],
            "tools":[{"arguments":"{\"k\":\"sk-ant-api03-abcdefghij0123456789\"}"}]}"#;
        let path = "/openai/v1/chat/completions?to=john.doe%40example.org";
        let headers = "content-type: application/json\r\nx-user: john.doe@example.org\r\nx-forwarded-for: 192.0.2.77\r\n\
            x-audit-session: s-7\r\n";
        let answer = exchange(bench.address, &post(path, headers, body)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, wanted, "the client's bytes were touched");
        assert_eq!(answer.header("x-account"), Some("john.doe@example.org"));
        let seen = upstream.seen.lock().unwrap()[0].clone();
        assert!(seen.ends_with(body), "the provider's bytes were touched");
        assert!(String::from_utf8_lossy(&seen).contains("?to=john.doe%40example.org HTTP/1.1"));

        let exchange = bench.exchange().await;
        for event in [&exchange.request, &exchange.response] {
            let text = everything(event);
            let left: Vec<_> = PERSONAL.iter().filter(|p| text.contains(**p)).collect();
            assert!(left.is_empty(), "{left:?} in {text}");
            assert!(event.attributes.contains_key("audit.redaction"));
            let told = &event.attributes["audit.redaction.commitments"];
            assert!(told.is_object(), "the originals can't be proven");
        }
        assert_eq!(exchange.request.session_id.as_deref(), Some("s-7"));
        // One person has one name, wherever it stands.
        let text = everything(&exchange.request) + &everything(&exchange.response);
        let names: std::collections::BTreeSet<&str> = text
            .split("<email:")
            .skip(1)
            .map(|rest| rest.split_once('>').unwrap().0)
            .collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }
}

#[tokio::test]
async fn an_exchange_without_a_hit_is_not_recorded_byte_for_byte() {
    let body = b"{ \"a\" : 1.50, \"b\":\"\\u00fc\" }";
    let step = response("content-type: application/json\r\n", body);
    let upstream = Scripted::start(vec![step]).await;
    let bench = bench(&upstream.base()).await;
    let asked = b"{\"messages\" :[ ],\"x\":1e5}";
    exchange(
        bench.address,
        &post("/openai/v1/chat/completions", "", asked),
    )
    .await;
    let exchange = bench.exchange().await;
    assert_eq!(exchange.request.payloads[0].bytes, asked);
    assert_eq!(exchange.body(), body);
}

#[tokio::test]
async fn a_body_that_nobody_can_read_stops_the_call_or_is_recorded() {
    let upstream = Scripted::start(vec![write(
        "HTTP/1.1 200 OK\r\ncontent-encoding: compress\r\ncontent-length: 20\r\n\r\njohn.doe@example.org",
    )])
    .await;
    let bench = bench(&upstream.base()).await;
    let answer = exchange(
        bench.address,
        &post("/openai/v1/x", "", b"\0\x01 john.doe@example.org"),
    )
    .await;
    assert_eq!(
        (answer.status, answer.body.as_slice()),
        (200, b"john.doe@example.org".as_slice())
    );
    let exchange = bench.exchange().await;
    assert_eq!(exchange.request.payloads[0].bytes, b"[withheld:binary]");
    assert_eq!(exchange.body(), b"[withheld:content_encoding]");
}
