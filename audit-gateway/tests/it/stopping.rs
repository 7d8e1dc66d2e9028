//! Coming to an end.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::client::{Client, post};
use crate::scripted::{Scripted, Step, write};
use crate::support::Bench;

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";

#[tokio::test]
async fn open_answers_come_to_their_end_and_nothing_new_is_taken() {
    let go = Arc::new(Notify::new());
    let upstream = Scripted::start(vec![
        write(STREAM),
        Step::Wait(Arc::clone(&go)),
        write("3\r\ndef\r\n0\r\n\r\n"),
    ])
    .await;
    let mut bench = Bench::start(&upstream.base()).await;
    let mut client = Client::connect(bench.address).await;
    client.write(&post("/openai/v1/responses", "", b"{}")).await;
    let mut answer = client.head().await.unwrap();
    client.chunk(&mut answer).await.unwrap();
    bench.begin_shutdown();
    sleep(Duration::from_millis(100)).await;
    assert!(
        TcpStream::connect(bench.address).await.is_err(),
        "a stopping gateway took a connection"
    );
    go.notify_one();
    client.rest(&mut answer).await;
    assert!(answer.whole);
    assert_eq!(answer.body, b"abcdef");
    let recorded = bench.exchange().await;
    assert_eq!(recorded.outcome(), ("complete", None));
    let summary = bench.shutdown().await;
    assert_eq!((summary.requests, summary.responses), (1, 1));
}

#[tokio::test]
async fn answers_that_do_not_end_are_cut_and_recorded_as_such() {
    let upstream = Scripted::start(vec![write(STREAM), Step::Hang]).await;
    let hanging = Scripted::start(vec![Step::Hang]).await;
    let mut bench = Bench::with(&upstream.base(), |config| {
        config.limits.drain_timeout = Duration::from_millis(200);
        let other = audit_gateway::Upstream::new(&hanging.base()).unwrap();
        config.upstreams.insert("hanging".to_owned(), other);
    })
    .await;
    let mut client = Client::connect(bench.address).await;
    client.write(&post("/openai/v1/responses", "", b"{}")).await;
    let mut answer = client.head().await.unwrap();
    client.chunk(&mut answer).await.unwrap();
    let mut waiting = Client::connect(bench.address).await;
    waiting
        .write(&post("/hanging/v1/responses", "", b"{}"))
        .await;
    while hanging.count() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    bench.begin_shutdown();
    client.rest(&mut answer).await;
    assert!(!answer.whole);
    assert_eq!(waiting.answer().await.unwrap().code(), "gateway_stopped");
    let mut recorded = bench.exchanges(2).await;
    for exchange in &recorded {
        assert_eq!(
            exchange.outcome(),
            ("cut_by_gateway", Some("gateway_stopped"))
        );
    }
    assert_eq!(recorded.remove(0).body(), b"abc");
    assert_eq!(bench.shutdown().await.responses, 2);
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let upstream = Scripted::start(vec![write(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    )])
    .await;
    let bench = Bench::start(&upstream.base()).await;
    let _unused = Client::connect(bench.address).await;
    let mut used = Client::connect(bench.address).await;
    used.write(&post("/openai/x", "", b"{}")).await;
    used.answer().await.unwrap();
    timeout(Duration::from_secs(5), bench.shutdown())
        .await
        .unwrap();
}

#[tokio::test]
async fn half_a_request_holds_up_the_end_no_longer_than_the_limit() {
    let upstream = Scripted::start(vec![]).await;
    let bench = Bench::with(&upstream.base(), |c| {
        c.limits.drain_timeout = Duration::from_millis(200);
    })
    .await;
    let mut half = Client::connect(bench.address).await;
    half.write(b"POST /openai/").await;
    sleep(Duration::from_millis(50)).await;
    timeout(Duration::from_secs(5), bench.shutdown())
        .await
        .unwrap();
}
