//! Input that is made to hurt, from either side: it passes as it is or is refused, is recorded byte for byte, and costs no
//! more than its bytes.

use std::io::Write as _;
use std::sync::Arc;

use audit_core::time::{Clock as _, System};
use audit_gateway::{CertificateAuthority, Intercept};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::client::{Client, exchange, post};
use crate::scripted::{Scripted, Step, write};
use crate::support::{Bench, payload};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A line that is folded (RFC 9112 §5.2) is read as one line by some and as two by others; chunk extensions hide bytes
/// from who doesn't count them.
#[tokio::test]
async fn folded_lines_and_chunk_extensions_reach_the_provider() {
    let upstream = Scripted::start(vec![write(OK)]).await;
    let bench = Bench::start(&upstream.base()).await;
    let folded = b"POST /openai/x HTTP/1.1\r\nHost: h\r\nX-A: 1\r\n folded: 2\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(exchange(bench.address, folded).await.status, 400);
    let nul = b"POST /openai/x HTTP/1.1\r\nHost: h\r\nX-A: 1\0\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(exchange(bench.address, nul).await.status, 400);
    let bare =
        b"POST /openai/x HTTP/1.1\r\nHost: h\r\nX-A: 1\rX-B: 2\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(exchange(bench.address, bare).await.status, 400);
    assert_eq!(upstream.count(), 0);

    let extended = b"POST /openai/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                     2;a=\"b;c\"\r\n{}\r\n0;last\r\n\r\n";
    assert_eq!(exchange(bench.address, extended).await.status, 200);
    let seen = upstream.seen.lock().unwrap()[0].clone();
    let seen = String::from_utf8(seen).unwrap();
    assert!(
        seen.ends_with("\r\n\r\n{}") && !seen.contains("b;c"),
        "{seen}"
    );
    assert_eq!(
        payload(&bench.exchange().await.request, "request.body"),
        Some(&b"{}"[..])
    );

    // An extension that never ends.
    let mut client = Client::connect(bench.address).await;
    client
        .write(b"POST /openai/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2;")
        .await;
    let flood = vec![b'x'; 1 << 20];
    // The gateway may close before all of it is written.
    let written = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &flood).await;
    drop(written);
    assert!(client.answer().await.is_none_or(|a| a.status == 400));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_bomb_is_unpacked_or_keeps_an_exchange_from_its_record() {
    // A gibibyte of zeros in a megabyte.
    let bomb = gzip(&vec![0; 1 << 28]);
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        bomb.len()
    )
    .into_bytes();
    answer.extend_from_slice(&bomb);
    let upstream = Scripted::start(vec![Step::Write(answer)]).await;
    let bench = Bench::start(&upstream.base()).await;
    let request = post("/openai/v1/responses", "Content-Encoding: gzip\r\n", &bomb);
    let got = exchange(bench.address, &request).await;
    assert_eq!(got.status, 200);
    assert!(got.body == bomb, "the answer was changed");
    let recorded = bench.exchange().await;
    assert!(payload(&recorded.request, "request.body").unwrap() == bomb);
    assert!(recorded.body() == bomb);
    for event in [&recorded.request, &recorded.response] {
        let unparsed = event
            .attributes
            .keys()
            .any(|name| name.ends_with(".unparsed"));
        assert!(
            unparsed,
            "a bomb was read to its end: {:?}",
            event.attributes.keys()
        );
    }
}

#[tokio::test]
async fn giant_and_deep_json_stops_an_exchange() {
    let upstream = Scripted::start(vec![write(OK)]).await;
    let bench = Bench::start(&upstream.base()).await;
    let deep = "[".repeat(5_000_000);
    let wide = format!("{{\"model\":\"m\",\"x\":[{}0]}}", "0,".repeat(10_000_000));
    for body in [deep, wide] {
        let request = post("/openai/v1/chat/completions", "", body.as_bytes());
        assert_eq!(exchange(bench.address, &request).await.status, 200);
    }
    let recorded = bench.exchanges(2).await;
    let wide = &recorded[1].request;
    assert_eq!(wide.attributes["gen_ai.request.model"], "m");
    assert_eq!(payload(wide, "request.body").unwrap().len(), 20_000_021);
}

#[tokio::test]
async fn bytes_that_are_no_text_are_changed() {
    let body: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-odd: \xff\xfe\x80\r\ncontent-length: 5000\r\n\r\n".to_vec();
    answer.extend_from_slice(&body);
    let upstream = Scripted::start(vec![Step::Write(answer)]).await;
    let bench = Bench::start(&upstream.base()).await;
    let mut request = b"POST /openai/v1/responses?q=%ff%00 HTTP/1.1\r\nHost: h\r\nX-Odd: \xc3\x28\xa0\r\nContent-Length: 5000\r\n\r\n".to_vec();
    request.extend_from_slice(&body);
    let mut client = Client::connect(bench.address).await;
    client.write(&request).await;
    let got = client.answer().await.unwrap();
    assert_eq!((got.status, &got.body), (200, &body));
    let recorded = bench.exchange().await;
    assert_eq!(
        payload(&recorded.request, "request.body"),
        Some(body.as_slice())
    );
    assert_eq!(recorded.body(), body);
    let seen = upstream.seen.lock().unwrap()[0].clone();
    assert!(
        seen.windows(3).any(|w| w == b"\xc3\x28\xa0"),
        "a header value was changed"
    );
    assert!(seen.starts_with(b"POST /v1/responses?q=%ff%00 HTTP/1.1\r\n"));
    let kept = recorded.request.attributes["http.request.header"].to_string();
    assert!(kept.contains("base64:wyig"), "{kept}");
}

/// Nothing ends, and nothing that holds the end back may wait for it: a line, an event, a stream.
#[tokio::test]
async fn a_stream_without_an_end_is_held_back_or_gathered() {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let line = "x".repeat(1 << 20);
    let mut script = vec![write(head), write("6\r\ndata: \r\n")];
    for _ in 0..24 {
        script.push(write(&format!("{:x}\r\n{line}\r\n", line.len())));
    }
    script.push(Step::Hang);
    let upstream = Scripted::start(script).await;
    let bench = Bench::with(&upstream.base(), |c| {
        c.limits.response_record_bytes_max = 1 << 20;
    })
    .await;
    let mut client = Client::connect(bench.address).await;
    client
        .write(&post("/openai/v1/responses", "", b"{\"stream\":true}"))
        .await;
    let mut answer = client.head().await.unwrap();
    while answer.body.len() < 24 << 20 {
        assert!(
            client.chunk(&mut answer).await.is_some(),
            "the stream was held back"
        );
    }
    drop(client);
    let recorded = bench.exchange().await;
    assert_eq!(recorded.outcome(), ("cut_by_client", Some("client_left")));
    assert_eq!(recorded.body().len(), 1 << 20);
    assert_eq!(
        recorded.response.attributes["audit.response.body_truncated"],
        true
    );
    assert_eq!(
        recorded.response.attributes["http.response.body.size"],
        (24_u64 << 20) + 6
    );
}

/// AWS signs method, path, query, the host and whatever headers the client names, and the body's hash: if any of them is
/// touched, the provider refuses. The signature itself is a credential.
#[tokio::test]
async fn a_signed_request_is_touched_or_its_signature_recorded() {
    let upstream = Scripted::start(vec![write(OK)]).await;
    let hosts: Vec<audit_gateway::HostPattern> = vec!["localhost".parse().unwrap()];
    let key = CertificateAuthority::generate("o/g", &hosts, System.now()).unwrap();
    let authority = Arc::new(CertificateAuthority::open(key, System.now()).unwrap());
    let bench = Bench::with("http://127.0.0.1:9", |c| {
        c.intercept = Some(Intercept::new(authority, hosts));
    })
    .await;
    let host = format!("localhost:{}", upstream.address.port());
    let target = "/model/anthropic.claude-3-5-sonnet-20240620-v1%3A0/converse-stream?X-B=%2F&a=1";
    let signed = "Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261122/eu-central-1/bedrock/aws4_request, \
                  SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, \
                  Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7\r\n\
                  X-Amz-Date: 20261122T180000Z\r\n\
                  X-Amz-Security-Token: FwoGZXIvYXdzEXAMPLETOKEN==\r\n\
                  X-Amz-Target:   two  spaces\r\n\
                  amz-sdk-invocation-id: 1\r\n";
    let body = b"{\"messages\":[]}";
    let request = format!(
        "POST http://{host}{target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{signed}Content-Length: {}\r\n\r\n",
        body.len()
    );
    let mut client = Client::connect(bench.address).await;
    client.write(&[request.as_bytes(), body].concat()).await;
    assert_eq!(client.answer().await.unwrap().status, 200);

    let seen = String::from_utf8(upstream.seen.lock().unwrap()[0].clone()).unwrap();
    let (head, sent) = seen.split_once("\r\n\r\n").unwrap();
    assert_eq!(sent.as_bytes(), body);
    let mut lines = head.split("\r\n");
    assert_eq!(
        lines.next(),
        Some(format!("POST {target} HTTP/1.1").as_str())
    );
    let lines: Vec<&str> = lines.collect();
    assert!(
        lines
            .iter()
            .any(|l| l.eq_ignore_ascii_case(&format!("host: {host}"))),
        "{lines:?}"
    );
    for line in signed
        .trim_end()
        .split("\r\n")
        .filter(|l| !l.contains("two  spaces"))
    {
        assert!(lines.contains(&line), "{line:?} is not in {lines:?}");
    }
    // White space around a value doesn't belong to it (RFC 9110 §5.5), and isn't signed.
    assert!(lines.contains(&"X-Amz-Target: two  spaces"), "{lines:?}");

    let recorded = bench.exchange().await;
    let everything = serde_json::to_string(&recorded.request.attributes).unwrap();
    for secret in ["5d672d79c15b", "FwoGZXIv", "AKIDEXAMPLE"] {
        assert!(!everything.contains(secret), "{secret} was recorded");
    }
    assert!(everything.contains("20261122T180000Z"));
}
