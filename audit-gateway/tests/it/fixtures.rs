//! Recorded traffic of the providers, directly and through the gateway: the same bytes on every side.

use std::collections::BTreeSet;

use audit_gateway::Upstream;

use crate::client::{Answer, exchange};
use crate::fake::{self, Fake, Fixture};
use crate::support::{Bench, payload};

/// Exchanges, single ones and those of sessions. Another number means that the fixtures have changed: count again.
const ALL: usize = 258 + 144;
const PROVIDERS: usize = 21;

/// Sends every exchange both ways, and compares what came, what is recorded, and what was sent.
async fn compare(options: &[&str], choose: impl Fn(&Fixture) -> bool, expected: usize) {
    let Some(folder) = fake::fixtures() else {
        return;
    };
    let provider = Fake::start(&folder, options).await;
    let mut fixtures = fake::load(&folder);
    assert_eq!(fixtures.len(), ALL);
    let names: BTreeSet<String> = fixtures.iter().map(|f| f.provider.clone()).collect();
    assert_eq!(names.len(), PROVIDERS);
    let bench = Bench::with(&provider.base(), |config| {
        for name in names {
            let upstream = Upstream::new(&provider.base()).unwrap();
            config.upstreams.insert(name, upstream);
        }
    })
    .await;
    fixtures.retain(choose);
    assert_eq!(fixtures.len(), expected);

    let mut direct = Vec::new();
    for fixture in &fixtures {
        direct.push(exchange(provider.address, &fixture.request("", "")).await);
    }
    // Equal requests take turns, so both rounds begin at the first turn.
    provider.reset().await;
    let mut through = Vec::new();
    for fixture in &fixtures {
        let more = "x-audit-session: fixtures\r\n";
        through.push(
            exchange(
                bench.address,
                &fixture.request(&format!("/{}", fixture.provider), more),
            )
            .await,
        );
    }
    let recorded = bench.exchanges(expected).await;
    for (((fixture, direct), through), recorded) in
        fixtures.iter().zip(&direct).zip(&through).zip(&recorded)
    {
        let id = &fixture.id;
        assert!(
            direct.header("x-fixture-id").is_some(),
            "{id} was not found by the fake provider"
        );
        same(id, direct, through);
        assert_eq!(recorded.outcome(), ("complete", None), "{id}");
        assert_eq!(
            recorded.body(),
            direct.body,
            "{id}: the recorded answer is not what came"
        );
        assert_eq!(
            payload(&recorded.request, "request.body").unwrap_or_default(),
            fixture.body,
            "{id}: the recorded request is not what was sent"
        );
        assert_eq!(
            recorded.response.attributes["http.response.status_code"], direct.status,
            "{id}"
        );
        assert_eq!(recorded.request.session_id.as_deref(), Some("fixtures"));
        let chunks = recorded.chunks();
        assert_eq!(chunks.is_some(), fixture.pieces, "{id}: chunk times");
        if let Some(chunks) = chunks {
            assert_eq!(
                chunks.iter().map(|c| c.1).sum::<u64>(),
                direct.body.len() as u64,
                "{id}"
            );
            assert!(
                chunks.is_sorted_by_key(|c| c.0),
                "{id}: times run backwards"
            );
        }
    }
    let summary = bench.shutdown().await;
    assert_eq!(
        (summary.requests, summary.responses),
        (expected as u64, expected as u64)
    );
}

fn same(id: &str, direct: &Answer, through: &Answer) {
    assert_eq!(direct.status, through.status, "{id}");
    assert_eq!(direct.reason, through.reason, "{id}");
    assert!(direct.whole && through.whole, "{id}");
    assert_eq!(direct.end_to_end(), through.end_to_end(), "{id}: headers");
    assert_eq!(
        direct.body, through.body,
        "{id}: the bytes are not those of the provider"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recorded_exchange_passes_and_is_recorded_byte_for_byte() {
    compare(&[], |_| true, ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_cut_anywhere_pass_byte_for_byte() {
    compare(&["--chunk-mode", "random:40"], |_| true, ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_in_one_piece_pass_byte_for_byte() {
    compare(&["--chunk-mode", "whole"], |f| f.streaming, STREAMS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_bodies_pass_as_they_are() {
    compare(&["--gzip"], |_| true, ALL).await;
}

/// Streams among them.
const STREAMS: usize = 165;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_byte_by_byte_pass_byte_for_byte() {
    let few = |f: &Fixture| f.streaming && f.id.ends_with(['0', '1', '2', '3']);
    compare(&["--chunk-mode", "bytes:1"], few, BYTEWISE).await;
}

/// Streams whose id ends in 0 to 3.
const BYTEWISE: usize = 36;
