//! What clients may send, and what becomes of the rest.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::client::{Client, exchange, post};
use crate::scripted::{Scripted, write};
use crate::support::{Bench, payload};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

async fn upstream() -> Scripted {
    Scripted::start(vec![write(OK)]).await
}

#[tokio::test]
async fn unknown_prefixes_are_told_the_known_ones() {
    let upstream = upstream().await;
    let bench = Bench::start(&upstream.base()).await;
    for path in [
        "/v1/chat/completions",
        "/",
        "/openaix/v1",
        "/-/other",
        "//openai/v1",
    ] {
        let answer = exchange(bench.address, &post(path, "", b"{}")).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "unknown_upstream"),
            "{path}"
        );
        let message = answer.json()["error"]["message"].to_string();
        assert!(
            message.contains("/anthropic/, /avian/, ") && message.contains(", /openai/, "),
            "{message}"
        );
    }
    let star = exchange(bench.address, b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(star.code(), "unknown_upstream");
    assert_eq!(upstream.count(), 0);
    assert!(bench.events().await.is_empty());
    assert_eq!(bench.shutdown().await.refused, 6);
}

#[tokio::test]
async fn health_says_how_the_log_does_and_nothing_else() {
    let upstream = upstream().await;
    let bench = Bench::start(&upstream.base()).await;
    let answer = exchange(bench.address, b"GET /-/health HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["status"], "ok");
    assert_eq!(answer.json()["log"]["publishing"], "ok");
    assert_eq!(
        exchange(bench.address, &post("/-/health", "", b"{}"))
            .await
            .code(),
        "bad_request"
    );
    assert!(bench.events().await.is_empty());
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_a_413_and_recorded_without_it() {
    let upstream = upstream().await;
    let bench = Bench::with(&upstream.base(), |c| c.limits.request_body_bytes_max = 10).await;
    assert_eq!(
        exchange(
            bench.address,
            &post("/openai/v1/responses", "", b"0123456789")
        )
        .await
        .status,
        200
    );
    let answer = exchange(
        bench.address,
        &post("/openai/v1/responses", "", b"0123456789a"),
    )
    .await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "request_too_large")
    );
    let mut chunked =
        b"POST /openai/v1/responses HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    chunked.extend_from_slice(b"6\r\n012345\r\n6\r\n012345\r\n0\r\n\r\n");
    assert_eq!(
        exchange(bench.address, &chunked).await.code(),
        "request_too_large"
    );
    let recorded = bench.exchanges(3).await;
    assert_eq!(upstream.count(), 1, "a body beyond the limit left");
    assert_eq!(
        payload(&recorded[0].request, "request.body"),
        Some(&b"0123456789"[..])
    );
    for refused in &recorded[1..] {
        assert_eq!(refused.outcome(), ("error", Some("request_too_large")));
        assert!(refused.request.payloads.is_empty());
        assert_eq!(
            refused.request.attributes["audit.request.body_refused"],
            "request_too_large"
        );
    }
}

#[tokio::test]
async fn what_clients_say_in_audit_headers_is_recorded_and_goes_no_further() {
    let upstream = upstream().await;
    let bench = Bench::with(&upstream.base(), |c| {
        c.system = Some(audit_core::event::SystemRef {
            id: "ward-7".into(),
            version: Some("2".into()),
        });
        c.event_header = true;
    })
    .await;
    let headers = "X-Audit-Session: visit 1\r\nx-audit-actor: agent-7\r\nx-audit-subject: patient-1\r\n\
                   x-audit-on-behalf-of: dr-who\r\n\
                   traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let answer = exchange(
        bench.address,
        &post(
            "/openai/v1/chat/completions",
            headers,
            b"{\"model\":\"m-1\"}",
        ),
    )
    .await;
    let recorded = bench.exchange().await;
    assert_eq!(
        answer.header("x-audit-event"),
        Some(recorded.request.id.to_string().as_str())
    );
    let sent = String::from_utf8_lossy(&upstream.seen.lock().unwrap()[0]).to_lowercase();
    assert!(!sent.contains("x-audit"), "{sent}");
    assert!(sent.contains("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    for event in [&recorded.request, &recorded.response] {
        assert_eq!(event.session_id.as_deref(), Some("visit 1"));
        assert_eq!(event.subject.as_deref(), Some("patient-1"));
        let actor = event.actor.as_ref().unwrap();
        assert_eq!(
            (actor.id.as_str(), actor.kind),
            ("agent-7", audit_core::event::ActorKind::Agent)
        );
        let behalf = event.on_behalf_of.as_ref().unwrap();
        assert_eq!(
            (behalf.id.as_str(), behalf.kind),
            ("dr-who", audit_core::event::ActorKind::Human)
        );
        assert_eq!(event.system.as_ref().unwrap().id, "ward-7");
        let correlation = event.correlation.as_ref().unwrap();
        assert_eq!(
            correlation.trace_id.as_deref(),
            Some("0af7651916cd43dd8448eb211c80319c")
        );
        assert_eq!(correlation.span_id.as_deref(), Some("b7ad6b7169203331"));
        let capture = event.capture.as_ref().unwrap();
        assert_eq!(capture.guarantee, audit_core::event::Guarantee::Closed);
    }
    let attributes = &recorded.request.attributes;
    assert_eq!(attributes["audit.session.source"], "header");
    assert_eq!(attributes["audit.upstream"], "openai");
    assert_eq!(attributes["gen_ai.request.model"], "m-1");
    assert_eq!(recorded.request.refs["model_id"], "m-1");
    assert_eq!(attributes["http.request.method"], "POST");
}

#[tokio::test]
async fn bad_audit_headers_are_refused() {
    let upstream = upstream().await;
    let bench = Bench::start(&upstream.base()).await;
    let long = format!("x-audit-session: {}\r\n", "s".repeat(257));
    for bad in [
        "x-audit-session:\r\n",
        "x-audit-session: \u{e9}\r\n",
        "x-audit-sesion: s\r\n",
        &long,
    ] {
        let answer = exchange(bench.address, &post("/openai/v1/responses", bad, b"{}")).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "bad_audit_header"),
            "{bad:?}"
        );
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_connection_is_a_session_where_the_client_names_none() {
    let upstream = upstream().await;
    let bench = Bench::start(&upstream.base()).await;
    let mut client = Client::connect(bench.address).await;
    // Pipelined, as one client does who doesn't wait.
    client
        .write(
            &[
                post("/openai/v1/responses", "", b"{}"),
                post("/openai/v1/responses", "", b"[]"),
            ]
            .concat(),
        )
        .await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert_eq!(client.answer().await.unwrap().status, 200);
    exchange(bench.address, &post("/openai/v1/responses", "", b"{}")).await;
    let recorded = bench.exchanges(3).await;
    let session = |n: usize| recorded[n].request.session_id.clone().unwrap();
    assert_eq!(session(0), session(1));
    assert_ne!(session(0), session(2));
    assert_eq!(
        recorded[0].request.attributes["audit.session.source"],
        "connection"
    );
    assert_eq!(
        payload(&recorded[1].request, "request.body"),
        Some(&b"[]"[..])
    );
}

#[tokio::test]
async fn ambiguous_requests_reach_no_provider_in_two_readings() {
    let upstream = upstream().await;
    let bench = Bench::start(&upstream.base()).await;
    let refused: [&[u8]; 9] = [
        b"POST /openai/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /openai/x HTTP/1.1\r\nHost: h\r\nContent-Length: +2\r\n\r\n{}",
        b"POST /openai/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n{}",
        b"POST /openai/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /openai/x HTTP/1.1\r\nHost: h\r\nHost: i\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /openai/x HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /openai/x HTTP/1.1\r\nHost : h\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /openai/a b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /openai/%2e%2E/x HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    for request in refused {
        let answer = exchange(bench.address, request).await;
        assert_eq!(answer.status, 400, "{}", String::from_utf8_lossy(request));
    }
    // A broken chunk is noticed while the body is read.
    let broken = b"POST /openai/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n";
    let mut client = Client::connect(bench.address).await;
    client.write(broken).await;
    assert!(client.answer().await.is_none_or(|a| a.status == 400));
    assert_eq!(upstream.count(), 0);
    assert!(bench.events().await.is_empty());

    // Both lengths: chunks win (RFC 9112 §6.3), what goes on has one length, and the connection ends.
    let both = b"POST /openai/x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\n{}\r\n0\r\n\r\nGET /openai/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut client = Client::connect(bench.address).await;
    client.write(both).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert!(
        client.ends().await,
        "the connection went on behind an ambiguous request"
    );
    let seen = upstream.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 1, "a smuggled request reached the provider");
    let sent = String::from_utf8_lossy(&seen[0]).to_lowercase();
    assert!(
        sent.contains("content-length: 2\r\n") && !sent.contains("transfer-encoding"),
        "{sent}"
    );
}

#[tokio::test]
async fn floods_and_slow_clients_are_bounded() {
    let upstream = upstream().await;
    let bench = Bench::with(&upstream.base(), |c| {
        c.limits.request_head_timeout = Duration::from_millis(300);
        c.limits.request_idle_timeout = Duration::from_millis(300);
    })
    .await;
    let many = (0..200)
        .map(|n| format!("x-{n}: 1\r\n"))
        .collect::<Vec<_>>()
        .concat();
    assert_eq!(
        exchange(bench.address, &post("/openai/x", &many, b"{}"))
            .await
            .status,
        431
    );
    let long = format!("x-long: {}\r\n", "a".repeat(70_000));
    assert_eq!(
        exchange(bench.address, &post("/openai/x", &long, b"{}"))
            .await
            .status,
        431
    );

    // A head that never ends.
    let mut client = Client::connect(bench.address).await;
    client
        .write(b"POST /openai/x HTTP/1.1\r\nHost: h\r\n")
        .await;
    assert!(
        timeout(Duration::from_secs(3), client.answer())
            .await
            .unwrap()
            .is_none_or(|a| a.status == 408)
    );
    // A body that never ends.
    let mut client = Client::connect(bench.address).await;
    client
        .write(b"POST /openai/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n{")
        .await;
    let answer = timeout(Duration::from_secs(3), client.answer())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (408, "request_timeout")
    );
    assert_eq!(upstream.count(), 0);
    assert!(bench.events().await.is_empty());
}

#[tokio::test]
async fn beyond_the_limit_connections_wait() {
    let upstream = upstream().await;
    let bench = Bench::with(&upstream.base(), |c| c.limits.connections_max = 1).await;
    let mut first = Client::connect(bench.address).await;
    first.write(&post("/openai/x", "", b"{}")).await;
    first.answer().await.unwrap();
    let mut second = Client::connect(bench.address).await;
    second.write(&post("/openai/x", "", b"{}")).await;
    timeout(Duration::from_millis(200), second.head())
        .await
        .expect_err("a connection beyond the limit was served");
    drop(first);
    assert_eq!(second.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn other_protocols_are_refused() {
    let upstream = upstream().await;
    let bench = Bench::start(&upstream.base()).await;
    let upgrade = b"GET /openai/v1/realtime HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let answer = exchange(bench.address, upgrade).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (501, "upgrade_unsupported")
    );
    let answer = exchange(
        bench.address,
        b"CONNECT api.openai.com:443 HTTP/1.1\r\nHost: h\r\n\r\n",
    )
    .await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (501, "upgrade_unsupported")
    );
    let answer = exchange(bench.address, &post("/openai/x", "Expect: tea\r\n", b"{}")).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (417, "expectation_failed")
    );
    let mut client = Client::connect(bench.address).await;
    client
        .write(b"GET /openai/x HTTP/1.0\r\nHost: h\r\n\r\n")
        .await;
    let mut text = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut text)
        .await
        .unwrap();
    assert!(
        String::from_utf8_lossy(&text).starts_with("HTTP/1.0 505 "),
        "{}",
        String::from_utf8_lossy(&text)
    );
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn requests_pass_with_every_framing() {
    let upstream = upstream().await;
    let bench = Bench::start(&upstream.base()).await;
    // Chunks, with an extension and a trailer.
    let chunked =
        b"POST /openai/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n\
                    3;a=b\r\n{\"a\r\n4\r\n\":1}\r\n0\r\nX-T: 1\r\n\r\n";
    assert_eq!(exchange(bench.address, chunked).await.status, 200);
    // The body is asked for before it comes.
    let mut client = Client::connect(bench.address).await;
    client.write(b"POST /openai/x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().status, 100);
    client.write(b"{}").await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert_eq!(
        exchange(
            bench.address,
            b"GET /openai/v1/models HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        .await
        .status,
        200
    );
    assert_eq!(
        exchange(
            bench.address,
            b"DELETE /openai/v1/x?a=%20b HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        .await
        .status,
        200
    );
    assert_eq!(
        exchange(bench.address, &post("/openai", "", b""))
            .await
            .status,
        200
    );

    let recorded = bench.exchanges(5).await;
    let seen: Vec<String> = upstream
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|r| String::from_utf8_lossy(r).into_owned())
        .collect();
    assert!(seen[0].ends_with("\r\n\r\n{\"a\":1}"), "{}", seen[0]);
    assert!(seen[0].to_lowercase().contains("content-length: 7\r\n"));
    assert!(
        seen[1].ends_with("Content-Length: 2\r\n\r\n{}") && !seen[1].contains("Expect"),
        "{}",
        seen[1]
    );
    assert_eq!(
        seen[2],
        format!(
            "GET /v1/models HTTP/1.1\r\nHost: {}\r\n\r\n",
            upstream.address
        )
    );
    assert!(seen[3].starts_with("DELETE /v1/x?a=%20b HTTP/1.1\r\n"));
    assert!(seen[4].starts_with("POST / HTTP/1.1\r\n"));
    assert_eq!(
        payload(&recorded[0].request, "request.body"),
        Some(&b"{\"a\":1}"[..])
    );
    assert!(recorded[2].request.payloads.is_empty());
    assert_eq!(recorded[2].request.attributes["http.request.body.size"], 0);
}

#[tokio::test]
async fn a_client_that_leaves_while_it_sends_leaves_no_record() {
    let upstream = upstream().await;
    let bench = Bench::start(&upstream.base()).await;
    let mut client = Client::connect(bench.address).await;
    client
        .write(b"POST /openai/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n{")
        .await;
    drop(client);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(upstream.count(), 0);
    assert!(bench.events().await.is_empty());
}
