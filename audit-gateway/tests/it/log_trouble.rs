//! The log can't be written: nothing leaves unrecorded, and no answer ends unrecorded.

use std::sync::Arc;
use std::time::Duration;

use audit_core::ErrorKind;
use audit_gateway::Upstream;
use audit_testkit::faulty::{Call, Fault};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::client::{Client, exchange, post};
use crate::scripted::{Scripted, Step, write};
use crate::support::Bench;

const SOON: Duration = Duration::from_millis(200);

fn request() -> Vec<u8> {
    post("/openai/v1/responses", "", b"{\"model\":\"m\"}")
}

fn plain() -> Step {
    write("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
}

#[tokio::test]
async fn a_request_that_cannot_be_recorded_does_not_leave() {
    let upstream = Scripted::start(vec![plain()]).await;
    let bench = Bench::start(&upstream.base()).await;
    bench.faulty.fail_times(
        Call::Append,
        0,
        1_000_000,
        Fault::Before,
        ErrorKind::Unavailable,
    );
    let answer = exchange(bench.address, &request()).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.code(), "audit_log_unavailable");
    assert!(answer.header("retry-after").is_some());
    assert!(!bench.health.log_writable());
    sleep(SOON).await;
    assert_eq!(upstream.count(), 0, "an unrecorded request left");
    assert!(bench.events().await.is_empty());
    assert_eq!(
        bench.notices.lock().unwrap()[0].code,
        "audit_log_unavailable"
    );
    let health = exchange(bench.address, b"GET /-/health HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(
        (health.status, &health.json()["log"]["appending"]),
        (503, &"failing".into())
    );

    // The log works again, and so does the gateway.
    bench.faulty.heal();
    assert_eq!(exchange(bench.address, &request()).await.status, 200);
    bench.exchange().await;
    assert!(bench.health.log_writable());
    let health = exchange(bench.address, b"GET /-/health HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(
        (health.status, &health.json()["status"]),
        (200, &"ok".into())
    );
}

#[tokio::test]
async fn a_request_leaves_only_when_it_is_durable() {
    let upstream = Scripted::start(vec![plain()]).await;
    let bench = Bench::start(&upstream.base()).await;
    bench.gate.set_open(false);
    let mut client = Client::connect(bench.address).await;
    client.write(&request()).await;
    sleep(SOON).await;
    assert_eq!(upstream.count(), 0, "a request left before it was durable");
    bench.gate.set_open(true);
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert_eq!(upstream.count(), 1);
    bench.exchange().await;
}

#[tokio::test]
async fn a_log_that_does_not_answer_in_time_is_a_503_and_both_events_follow() {
    let upstream = Scripted::start(vec![plain()]).await;
    let bench = Bench::with(&upstream.base(), |c| c.limits.append_timeout = SOON).await;
    bench.gate.set_open(false);
    let answer = exchange(bench.address, &request()).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "audit_log_unavailable")
    );
    bench.gate.set_open(true);
    let recorded = bench.exchange().await;
    assert_eq!(recorded.outcome(), ("error", Some("audit_log_unavailable")));
    assert_eq!(upstream.count(), 0);
}

/// How an answer is framed, and what of it a client may see before the record is durable.
fn answers() -> Vec<(&'static str, Vec<Step>, &'static str, &'static str)> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let sse =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
    let chunk = |text: &str| write(&format!("{:x}\r\n{text}\r\n", text.len()));
    let (pause, end) = (Step::Sleep(Duration::from_millis(30)), write("0\r\n\r\n"));
    vec![
        (
            "content-length, one piece",
            vec![write(&format!("{head}content-length: 4\r\n\r\nabcd"))],
            "",
            "abcd",
        ),
        (
            "content-length, two pieces",
            vec![
                write(&format!("{head}content-length: 4\r\n\r\nab")),
                pause.clone(),
                write("cd"),
            ],
            "ab",
            "abcd",
        ),
        (
            "chunked",
            vec![
                write(&format!("{head}transfer-encoding: chunked\r\n\r\n")),
                chunk("ab"),
                pause.clone(),
                chunk("cd"),
                pause.clone(),
                end.clone(),
            ],
            "ab",
            "abcd",
        ),
        (
            "without framing",
            vec![write(&format!("{head}\r\nabcd")), Step::Close],
            "",
            "abcd",
        ),
        (
            "events",
            vec![
                write(sse),
                chunk(event),
                pause.clone(),
                chunk("data: [DONE]\n\n"),
                pause,
                end,
            ],
            event,
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\ndata: [DONE]\n\n",
        ),
    ]
}

fn chat() -> Vec<u8> {
    post(
        "/openai/v1/chat/completions",
        "",
        b"{\"model\":\"m\",\"stream\":true}",
    )
}

#[tokio::test]
async fn the_end_of_an_answer_waits_for_its_record() {
    for (name, script, before, all) in answers() {
        let go = Arc::new(Notify::new());
        let mut upstream =
            Scripted::start([vec![Step::Wait(Arc::clone(&go))], script].concat()).await;
        let bench = Bench::start(&upstream.base()).await;
        let mut client = Client::connect(bench.address).await;
        client.write(&chat()).await;
        upstream.requests.recv().await.unwrap();
        bench.gate.set_open(false);
        go.notify_one();
        let mut answer = client.head().await.unwrap();
        // Whatever comes before the gate opens must be less than the whole.
        drop(timeout(SOON, client.rest(&mut answer)).await);
        assert!(
            !answer.whole,
            "{name}: the answer ended before its record was durable"
        );
        if answer.header("transfer-encoding").is_some() {
            assert_eq!(String::from_utf8_lossy(&answer.body), before, "{name}");
        }
        bench.gate.set_open(true);
        client.rest(&mut answer).await;
        assert_eq!(String::from_utf8_lossy(&answer.body), all, "{name}");
        assert!(answer.whole, "{name}");
        let recorded = bench.exchange().await;
        assert_eq!(recorded.body(), all.as_bytes(), "{name}");
        assert_eq!(recorded.outcome(), ("complete", None), "{name}");
    }
}

/// Items that all say that they may be the last, as some models write them; only the last one waits for the record.
#[tokio::test]
async fn the_last_item_of_a_stream_without_a_last_event_waits_for_its_record() {
    let item = |text: &str| {
        format!(
            "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"{text}\"}}]}},\"finishReason\":\"STOP\"}}]}}\n\n"
        )
    };
    let (first, last) = (item("a"), item("b"));
    let chunk = |text: &str| write(&format!("{:x}\r\n{text}\r\n", text.len()));
    let (pause, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut upstream = Scripted::start(vec![
        Step::Wait(Arc::clone(&go)),
        write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"),
        chunk(&first),
        Step::Wait(Arc::clone(&pause)),
        chunk(&last),
        write("0\r\n\r\n"),
    ])
    .await;
    let base = upstream.base();
    let bench = Bench::with(&base, |c| {
        c.upstreams
            .insert("gemini".to_owned(), Upstream::new(&base).unwrap());
    })
    .await;
    let mut client = Client::connect(bench.address).await;
    client
        .write(&post(
            "/gemini/v1beta/models/m:streamGenerateContent?alt=sse",
            "",
            b"{}",
        ))
        .await;
    upstream.requests.recv().await.unwrap();
    bench.gate.set_open(false);
    go.notify_one();
    let mut answer = client.head().await.unwrap();
    drop(timeout(SOON, client.rest(&mut answer)).await);
    assert_eq!(answer.body, b"", "what may be the last item was passed on");
    pause.notify_one();
    drop(timeout(SOON, client.rest(&mut answer)).await);
    assert_eq!(
        String::from_utf8_lossy(&answer.body),
        first,
        "an item that wasn't the last is still held, or the last one isn't"
    );
    bench.gate.set_open(true);
    client.rest(&mut answer).await;
    assert!(answer.whole);
    assert_eq!(
        String::from_utf8_lossy(&answer.body),
        [first, last].concat()
    );
    let recorded = bench.exchange().await;
    assert_eq!(recorded.body(), answer.body);
    assert_eq!(recorded.outcome(), ("complete", None));
}

/// Without a length or a content type the last piece waits, and then the last event: in their order.
#[tokio::test]
async fn pieces_of_a_stream_without_a_content_type_change_places() {
    let upstream = Scripted::start(vec![
        write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        write("12\r\ndata: {\"id\":\"1\"}\n\n\r\n"),
        Step::Sleep(SOON),
        write("12\r\ndata: {\"id\":\"2\"}\n\n\r\n"),
        Step::Sleep(SOON),
        write("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"),
    ])
    .await;
    let bench = Bench::start(&upstream.base()).await;
    let answer = exchange(bench.address, &chat()).await;
    let all = "data: {\"id\":\"1\"}\n\ndata: {\"id\":\"2\"}\n\ndata: [DONE]\n\n";
    assert_eq!(String::from_utf8_lossy(&answer.body), all);
    assert_eq!(bench.exchange().await.body(), all.as_bytes());
}

#[tokio::test]
async fn an_answer_that_cannot_be_recorded_has_no_end_and_is_recorded_later() {
    for (name, script, before, all) in answers() {
        for fault in [Fault::Before, Fault::After] {
            let kind = if fault == Fault::Before {
                ErrorKind::Unavailable
            } else {
                ErrorKind::Unknown
            };
            let go = Arc::new(Notify::new());
            let mut upstream =
                Scripted::start([vec![Step::Wait(Arc::clone(&go))], script.clone()].concat()).await;
            let bench = Bench::start(&upstream.base()).await;
            let mut client = Client::connect(bench.address).await;
            client.write(&chat()).await;
            upstream.requests.recv().await.unwrap();
            bench.faulty.fail(Call::Append, fault, kind);
            go.notify_one();
            let answer = client.answer().await.unwrap();
            if fault == Fault::Before {
                assert!(
                    !answer.whole,
                    "{name}: an unrecorded answer came to a clean end"
                );
                assert_eq!(String::from_utf8_lossy(&answer.body), before, "{name}");
            }
            let recorded = bench.exchange().await;
            assert_eq!(recorded.body(), all.as_bytes(), "{name}");
            assert_eq!(recorded.outcome(), ("complete", None), "{name}");
            let summary = bench.shutdown().await;
            assert_eq!((summary.pending, summary.unrecorded), (0, 0), "{name}");
        }
    }
}

#[tokio::test]
async fn an_answer_without_a_body_waits_as_a_whole() {
    for head in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
    ] {
        let go = Arc::new(Notify::new());
        let mut upstream = Scripted::start(vec![Step::Wait(Arc::clone(&go)), write(head)]).await;
        let bench = Bench::start(&upstream.base()).await;
        let mut client = Client::connect(bench.address).await;
        client.write(&chat()).await;
        upstream.requests.recv().await.unwrap();
        bench.gate.set_open(false);
        go.notify_one();
        assert!(
            timeout(SOON, client.head()).await.is_err(),
            "{head:?} came before its record"
        );
        bench.gate.set_open(true);
        let answer = client.answer().await.unwrap();
        assert!(answer.whole);
        assert_eq!(bench.exchange().await.outcome(), ("complete", None));
    }
}

#[tokio::test]
async fn a_record_that_is_given_up_is_told_to_the_operator() {
    let go = Arc::new(Notify::new());
    let mut upstream = Scripted::start(vec![Step::Wait(Arc::clone(&go)), plain()]).await;
    let bench = Bench::with(&upstream.base(), |c| c.limits.record_retry = Duration::ZERO).await;
    let mut client = Client::connect(bench.address).await;
    client.write(&request()).await;
    upstream.requests.recv().await.unwrap();
    bench
        .faulty
        .fail_times(Call::Append, 0, 1000, Fault::Before, ErrorKind::Unavailable);
    go.notify_one();
    assert!(!client.answer().await.unwrap().whole);
    let notices = Arc::clone(&bench.notices);
    let summary = bench.shutdown().await;
    assert_eq!(
        (summary.requests, summary.responses, summary.unrecorded),
        (1, 0, 1)
    );
    assert!(
        notices
            .lock()
            .unwrap()
            .iter()
            .any(|n| n.code == "response_lost")
    );
}
