//! What a provider can do wrong: each fault leaves the right outcome in the log, and the right answer with the client.

use std::time::Duration;

use crate::client::{Answer, Client, exchange, post};
use crate::fake::{self, Fake, Fixture};
use crate::scripted::{Scripted, Step, write};
use crate::support::{Bench, Exchange};

/// One exchange with a fault, directly and through the gateway.
async fn with_fault(fixture: &Fixture, fault: &str) -> Option<(Answer, Option<Answer>, Exchange)> {
    let folder = fake::fixtures()?;
    let provider = Fake::start(&folder, &["--allow-header-faults", "--slow-ms", "200"]).await;
    let bench = Bench::with(&provider.base(), |config| {
        config.limits.response_head_timeout = Duration::from_millis(700);
    })
    .await;
    let more = format!("x-fake-fault: {fault}\r\n");
    let through = exchange(
        bench.address,
        &fixture.request(&format!("/{}", fixture.provider), &more),
    )
    .await;
    let recorded = bench.exchange().await;
    let stats = provider.stats().await;
    assert_eq!(stats["requests"], 1, "the gateway repeated a request");
    assert_eq!(stats["faults"][fault], 1);
    provider.reset().await;
    let direct = if fault == "hang" {
        None
    } else {
        let mut client = Client::connect(provider.address).await;
        client.write(&fixture.request("", &more)).await;
        client.answer().await
    };
    Some((through, direct, recorded))
}

fn pick(provider: &str, streaming: bool) -> Option<Fixture> {
    let folder = fake::fixtures()?;
    let kind = if streaming { "--stream--" } else { "--plain--" };
    let api = if provider == "openai" {
        "openai--chat"
    } else {
        "anthropic--messages"
    };
    fake::load(&folder)
        .into_iter()
        .find(|f| f.id.starts_with(api) && f.id.contains(kind))
}

#[tokio::test]
async fn errors_of_the_provider_pass_unchanged_and_are_answers() {
    for (provider, streaming) in [
        ("openai", true),
        ("openai", false),
        ("anthropic", true),
        ("anthropic", false),
    ] {
        for status in ["429", "500", "529"] {
            let Some(fixture) = pick(provider, streaming) else {
                return;
            };
            let Some((through, direct, recorded)) = with_fault(&fixture, status).await else {
                return;
            };
            let direct = direct.unwrap();
            assert_eq!(through.status.to_string(), status);
            assert_eq!(through.body, direct.body);
            assert_eq!(through.end_to_end(), direct.end_to_end());
            assert_eq!(through.header("x-audit-error"), None);
            assert_eq!(recorded.outcome(), ("complete", None));
            assert_eq!(recorded.body(), direct.body);
            assert!(recorded.response.attributes.contains_key("error.type"));
        }
    }
}

#[tokio::test]
async fn an_answer_that_the_provider_cuts_is_cut_for_the_client_too() {
    for provider in ["openai", "anthropic"] {
        for streaming in [true, false] {
            for fault in ["cut-mid-stream", "reset-mid-stream"] {
                let Some(fixture) = pick(provider, streaming) else {
                    return;
                };
                let Some((through, direct, recorded)) = with_fault(&fixture, fault).await else {
                    return;
                };
                let direct = direct.unwrap();
                assert!(!direct.whole);
                assert!(
                    !through.whole,
                    "{provider} {fault}: a cut answer came to a clean end"
                );
                assert_eq!(
                    recorded.outcome(),
                    ("cut_by_provider", Some("upstream_reset"))
                );
                assert_eq!(
                    recorded.body(),
                    direct.body,
                    "{provider} {fault}: what came is not recorded"
                );
                assert_eq!(
                    through.body, direct.body,
                    "{provider} {fault}: what came was not passed on"
                );
                assert!(!recorded.body().is_empty());
            }
        }
    }
}

#[tokio::test]
async fn a_reset_before_the_answer_is_a_502_and_recorded() {
    let Some(fixture) = pick("openai", true) else {
        return;
    };
    let Some((through, direct, recorded)) = with_fault(&fixture, "reset").await else {
        return;
    };
    assert!(direct.is_none());
    assert_eq!(through.status, 502);
    assert_eq!(through.code(), "upstream_failed");
    assert_eq!(
        through.json()["error"]["request_id"],
        recorded.request.id.to_string()
    );
    assert_eq!(recorded.outcome(), ("error", Some("upstream_failed")));
}

#[tokio::test]
async fn a_provider_that_hangs_is_a_504_and_recorded() {
    let Some(fixture) = pick("anthropic", false) else {
        return;
    };
    let Some((through, _, recorded)) = with_fault(&fixture, "hang").await else {
        return;
    };
    assert_eq!(through.status, 504);
    assert_eq!(through.code(), "upstream_timeout");
    assert_eq!(recorded.outcome(), ("error", Some("upstream_timeout")));
}

#[tokio::test]
async fn slow_broken_and_failing_streams_pass_as_they_are() {
    for provider in ["openai", "anthropic"] {
        for fault in ["slow", "bad-json", "error-event"] {
            let Some(fixture) = pick(provider, true) else {
                return;
            };
            let Some((through, direct, recorded)) = with_fault(&fixture, fault).await else {
                return;
            };
            let direct = direct.unwrap();
            assert!(through.whole);
            assert_eq!(through.body, direct.body, "{provider} {fault}");
            assert_eq!(recorded.body(), direct.body, "{provider} {fault}");
            assert_eq!(recorded.outcome().0, "complete", "{provider} {fault}");
        }
    }
}

#[tokio::test]
async fn an_upstream_that_is_down_is_a_502_and_recorded() {
    let address = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let bench = Bench::start(&format!("http://{address}")).await;
    let answer = exchange(
        bench.address,
        &post("/openai/v1/chat/completions", "", b"{}"),
    )
    .await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.code(), "upstream_unreachable");
    let recorded = bench.exchange().await;
    assert_eq!(recorded.outcome(), ("error", Some("upstream_unreachable")));
    assert_eq!(
        recorded.response.attributes["error.type"],
        "upstream_unreachable"
    );
    assert!(recorded.response.payloads.is_empty());
}

#[tokio::test]
async fn a_provider_that_falls_silent_within_an_answer_is_cut_off() {
    let upstream = Scripted::start(vec![
        write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
        Step::Hang,
    ])
    .await;
    let bench = Bench::with(&upstream.base(), |c| {
        c.limits.response_idle_timeout = Duration::from_millis(200);
    })
    .await;
    let answer = exchange(bench.address, &post("/openai/v1/responses", "", b"{}")).await;
    assert!(!answer.whole);
    assert_eq!(answer.body, b"abc");
    upstream.closed.notified().await;
    let recorded = bench.exchange().await;
    assert_eq!(
        recorded.outcome(),
        ("cut_by_provider", Some("upstream_idle"))
    );
    assert_eq!(recorded.body(), b"abc");
}

#[tokio::test]
async fn a_client_that_leaves_within_an_answer_is_recorded_and_the_provider_is_told() {
    let upstream = Scripted::start(vec![
        write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
        Step::Hang,
    ])
    .await;
    let bench = Bench::start(&upstream.base()).await;
    let mut client = Client::connect(bench.address).await;
    client.write(&post("/openai/v1/responses", "", b"{}")).await;
    let mut answer = client.head().await.unwrap();
    assert_eq!(client.chunk(&mut answer).await.unwrap(), b"abc");
    drop(client);
    upstream.closed.notified().await;
    let recorded = bench.exchange().await;
    assert_eq!(recorded.outcome(), ("cut_by_client", Some("client_left")));
    assert_eq!(recorded.body(), b"abc");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_recorded_and_the_provider_is_told() {
    let mut upstream = Scripted::start(vec![Step::Hang]).await;
    let bench = Bench::start(&upstream.base()).await;
    let mut client = Client::connect(bench.address).await;
    client.write(&post("/openai/v1/responses", "", b"{}")).await;
    upstream.requests.recv().await.unwrap();
    drop(client);
    upstream.closed.notified().await;
    let recorded = bench.exchange().await;
    assert_eq!(
        recorded.outcome(),
        ("cut_by_client", Some("before_response"))
    );
}
