//! Answers on their way: headers, framing, trailers, back-pressure, limits.

use std::time::Duration;

use audit_gateway::Upstream;
use tokio::time::sleep;

use crate::client::{Client, exchange, post};
use crate::scripted::{Scripted, Step, write};
use crate::support::{Bench, payload};

const SSE: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn headers_pass_with_case_and_order_but_those_of_one_connection() {
    let upstream = Scripted::start(vec![write(
        "HTTP/1.1 201 Very Created\r\nX-B: 1\r\nDate: then\r\nx-a: 2\r\nX-b: 3\r\nConnection: x-hop\r\nX-Hop: 1\r\n\
         x-audit-error: spoofed\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\nX-Latin: caf\u{e9}\r\n\r\n{}",
    )])
    .await;
    let bench = Bench::with(&upstream.base(), |c| {
        let based = Upstream::new(&format!("{}/base/path/", upstream.base())).unwrap();
        c.upstreams.insert("based".to_owned(), based);
    })
    .await;
    let request = "POST /based/v1/x?q=1 HTTP/1.1\r\nUser-Agent: t\r\nHOST: gw\r\nX-Z: 1\r\nx-Y: 2\r\nX-z: 3\r\n\
                   Connection: keep-alive, x-drop\r\nX-Drop: 1\r\nTE: trailers\r\nAccept-Encoding: br, gzip\r\n\
                   Proxy-Authorization: Basic abc\r\nContent-Length: 2\r\nX-Last: 9\r\n\r\n{}";
    let answer = exchange(bench.address, request.as_bytes()).await;
    let seen = String::from_utf8_lossy(&upstream.seen.lock().unwrap()[0]).into_owned();
    assert_eq!(
        seen,
        format!(
            "POST /base/path/v1/x?q=1 HTTP/1.1\r\nUser-Agent: t\r\nHOST: {}\r\nX-Z: 1\r\nX-z: 3\r\nx-Y: 2\r\n\
             Accept-Encoding: br, gzip\r\nContent-Length: 2\r\nX-Last: 9\r\nTE: trailers\r\nConnection: te\r\n\r\n{{}}",
            upstream.address
        )
    );
    assert_eq!(
        (answer.status, answer.reason.as_str()),
        (201, "Very Created")
    );
    let lines: Vec<_> = answer
        .headers
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    let expected = [
        ("X-B", "1"),
        ("X-b", "3"),
        ("Date", "then"),
        ("x-a", "2"),
        ("Content-Length", "2"),
        ("X-Latin", "caf\u{e9}"),
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn trailers_pass_and_are_recorded() {
    let upstream = Scripted::start(vec![write(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
         3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n",
    )])
    .await;
    let bench = Bench::start(&upstream.base()).await;
    let answer = exchange(
        bench.address,
        &post("/openai/v1/responses", "TE: trailers\r\n", b"{}"),
    )
    .await;
    assert!(answer.whole);
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "6".to_owned())]);
    let recorded = bench.exchange().await;
    assert_eq!(
        recorded.response.attributes["http.response.trailer"],
        serde_json::json!([["x-sum", "6"]])
    );
}

#[tokio::test]
async fn a_stream_that_stays_open_behind_its_last_event_is_ended() {
    let upstream = Scripted::start(vec![
        write(SSE),
        write("e\r\ndata: [DONE]\n\n\r\n"),
        write("8\r\n: late\n\n\r\n"),
        Step::Hang,
    ])
    .await;
    let bench = Bench::with(&upstream.base(), |c| {
        c.limits.terminal_wait = Duration::from_millis(200);
    })
    .await;
    let answer = exchange(
        bench.address,
        &post("/openai/v1/chat/completions", "", b"{\"stream\":true}"),
    )
    .await;
    assert!(answer.whole);
    assert_eq!(answer.body, b"data: [DONE]\n\n: late\n\n");
    upstream.closed.notified().await;
    let recorded = bench.exchange().await;
    assert_eq!(recorded.outcome(), ("complete", Some("provider_kept_open")));
    assert_eq!(recorded.body(), answer.body);
}

#[tokio::test]
async fn an_answer_without_framing_gets_one() {
    let upstream = Scripted::start(vec![
        write("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nhello"),
        Step::Close,
    ])
    .await;
    let bench = Bench::start(&upstream.base()).await;
    let answer = exchange(bench.address, &post("/openai/x", "", b"{}")).await;
    assert!(answer.whole);
    assert_eq!(answer.body, b"hello");
    assert_eq!(bench.exchange().await.body(), b"hello");
}

#[tokio::test]
async fn a_head_request_has_the_length_and_no_body() {
    let upstream =
        Scripted::start(vec![write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")]).await;
    let bench = Bench::start(&upstream.base()).await;
    let mut client = Client::connect(bench.address).await;
    for _ in 0..2 {
        client
            .write(b"HEAD /openai/x HTTP/1.1\r\nHost: h\r\n\r\n")
            .await;
        let head = client.head().await.unwrap();
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("5"))
        );
    }
    for exchange in bench.exchanges(2).await {
        assert_eq!(exchange.outcome(), ("complete", None));
        assert!(exchange.response.payloads.is_empty());
    }
}

#[tokio::test]
async fn an_answer_beyond_the_limit_passes_whole_and_its_record_says_what_it_lacks() {
    let upstream = Scripted::start(vec![
        write(SSE),
        write("a\r\n0123456789\r\n"),
        write("0\r\n\r\n"),
    ])
    .await;
    let bench = Bench::with(&upstream.base(), |c| c.limits.response_record_bytes_max = 4).await;
    let answer = exchange(bench.address, &post("/openai/v1/responses", "", b"{}")).await;
    assert_eq!(answer.body, b"0123456789");
    let recorded = bench.exchange().await;
    assert_eq!(recorded.body(), b"0123");
    let attributes = &recorded.response.attributes;
    assert_eq!(attributes["http.response.body.size"], 10);
    assert_eq!(attributes["audit.response.body_truncated"], true);
    assert_eq!(
        attributes["audit.response.body_sha256"],
        "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
    );
    assert_eq!(recorded.outcome(), ("complete", None));
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_provider_back_and_is_let_go_in_the_end() {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 64;
    let mut script = vec![write(SSE)];
    let piece = [
        format!("{PIECE:x}\r\n").as_bytes(),
        &vec![b'x'; PIECE],
        b"\r\n",
    ]
    .concat();
    script.extend(std::iter::repeat_n(Step::Write(piece), PIECES));
    script.extend([write("0\r\n\r\n"), Step::Hang]);
    let upstream = Scripted::start(script).await;
    let bench = Bench::with(&upstream.base(), |c| {
        c.limits.client_stall_timeout = Duration::from_millis(500);
    })
    .await;
    let mut client = Client::connect(bench.address).await;
    client.write(&post("/openai/v1/responses", "", b"{}")).await;
    client.head().await.unwrap();
    let recorded = bench.exchange().await;
    assert_eq!(recorded.outcome().0, "cut_by_client");
    let taken = recorded.body().len();
    // What fits into the sockets' buffers on both sides of the gateway, and not what the provider had to say.
    assert!(
        taken < PIECES * PIECE / 2,
        "{taken} bytes were read ahead of the client"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_streams_at_once_pass_and_are_recorded_apart() {
    let mut script = vec![write(SSE)];
    for n in 0..20 {
        script.push(write(&format!("9\r\ndata: {n:02}\n\r\n")));
        script.push(Step::Sleep(Duration::from_millis(2)));
    }
    script.push(write("0\r\n\r\n"));
    let upstream = Scripted::start(script).await;
    let bench = Bench::start(&upstream.base()).await;
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..50 {
        let address = bench.address;
        clients.spawn(async move {
            let headers = format!("x-audit-session: s{n}\r\n");
            exchange(
                address,
                &post(
                    "/openai/v1/responses",
                    &headers,
                    format!("{{\"n\":{n}}}").as_bytes(),
                ),
            )
            .await
        });
    }
    let expected = (0..20)
        .map(|n| format!("data: {n:02}\n"))
        .collect::<Vec<_>>()
        .concat();
    while let Some(answer) = clients.join_next().await {
        let answer = answer.unwrap();
        assert!(answer.whole);
        assert_eq!(String::from_utf8_lossy(&answer.body), expected);
    }
    for exchange in bench.exchanges(50).await {
        let session = exchange.request.session_id.as_deref().unwrap();
        let body = format!("{{\"n\":{}}}", session.strip_prefix('s').unwrap());
        assert_eq!(
            payload(&exchange.request, "request.body"),
            Some(body.as_bytes())
        );
        assert_eq!(exchange.body(), expected.as_bytes());
        assert_eq!(exchange.outcome(), ("complete", None));
        assert_eq!(exchange.chunks().unwrap().len(), 20);
    }
}

#[tokio::test]
async fn connections_to_the_provider_are_used_again() {
    let upstream = Scripted::start(vec![write(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    )])
    .await;
    let bench = Bench::start(&upstream.base()).await;
    for _ in 0..3 {
        assert_eq!(
            exchange(bench.address, &post("/openai/x", "", b"{}"))
                .await
                .status,
            200
        );
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(upstream.connections(), 1);
}

/// Off unless asked for; then between events only, and never in the record.
#[tokio::test]
async fn a_comment_comes_unasked_or_within_an_event_or_into_the_record() {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = |text: &str| write(&format!("{:x}\r\n{text}\r\n", text.len()));
    let pause = || Step::Sleep(Duration::from_millis(400));
    let script = vec![
        write(head),
        pause(),
        chunk("data: {\"a\":1}\n\n"),
        pause(),
        chunk("data: {\"b\""),
        pause(),
        chunk(":2}\n\ndata: [DONE]\n\n"),
        write("0\r\n\r\n"),
    ];
    let upstream = Scripted::start(script).await;
    let sent = "data: {\"a\":1}\n\ndata: {\"b\":2}\n\ndata: [DONE]\n\n";
    let request = post("/openai/v1/chat/completions", "", b"{\"stream\":true}");
    for comments in [false, true] {
        let bench = Bench::with(&upstream.base(), |c| {
            c.limits.keep_alive_comment = comments.then_some(Duration::from_millis(100));
        })
        .await;
        let answer = exchange(bench.address, &request).await;
        let text = String::from_utf8(answer.body).unwrap();
        let parts: Vec<&str> = text.split(": keep-alive\n\n").collect();
        assert_eq!(parts.concat(), sent, "{text:?}");
        assert_eq!(parts.len() > 1, comments, "{text:?}");
        assert!(
            text.contains("data: {\"b\":2}"),
            "a comment within an event: {text:?}"
        );
        let recorded = bench.exchange().await;
        assert_eq!(recorded.body(), sent.as_bytes());
        let counted = recorded
            .response
            .attributes
            .get("audit.response.keep_alives");
        let counted = counted
            .and_then(serde_json::Value::as_u64)
            .unwrap_or_default();
        assert_eq!(counted, parts.len() as u64 - 1);
    }
}
