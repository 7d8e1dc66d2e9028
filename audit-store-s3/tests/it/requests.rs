//! What a log costs in requests.

use std::sync::Arc;
use std::time::Duration;

use audit_core::chain::AuditorKey;
use audit_core::event::{Event, Kind};
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::store::{Parts, ReadStore as _, Store};
use audit_core::time::{IdSource as _, System};
use audit_store_s3::S3Store;
use audit_testkit::sample;
use audit_tlog::proof;

use crate::proxy::Proxy;
use crate::support::place;

async fn log_on(store: Arc<S3Store>, dir: &std::path::Path, publish: Duration) -> Log {
    let auditor = AuditorKey::random(&System);
    let keys = KeyRing::generate("example.com/log", auditor.public(), &System).unwrap();
    let mut options = LogOptions::new(store as Arc<dyn Store>, Arc::new(keys));
    options.state_dir = Some(dir.join("state"));
    options.publish = publish;
    Log::create(options).await.unwrap()
}

fn event(log: &Log) -> Event {
    let now = log.clock().now();
    let mut event = Event::new(System.uuid_v7(now), now, Kind::new("tool.call").unwrap());
    event.session_id = Some("session".to_owned());
    event
}

/// At 2,000 events a second batches have 500 events, and a checkpoint comes for every 2,000: the calls that the log then
/// makes, counted. How long they take here is no matter.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_small_events_take_at_most_sixteen_requests() {
    const BATCHES: u64 = 160;
    const BATCH: usize = 500;
    let Some(place) = place().await else { return };
    let proxy = Proxy::before(&place.server.endpoint).await;
    let mut options = place.options();
    options.endpoint = Some(proxy.endpoint.clone());
    let store = S3Store::new(&options).unwrap();
    store.create("example.com/log").await.unwrap();
    let lease = store.publisher_lease().await.unwrap().unwrap();
    let mut published = 0;
    let mut before = None;
    for number in 0..BATCHES {
        // The first second is not counted: it looks for what isn't there yet.
        if number == 4 {
            before = Some(store.requests());
        }
        store
            .append(Box::new(move |head| sample::batch(head, BATCH, number)))
            .await
            .unwrap();
        if number % 4 == 3 {
            // A turn of the publisher.
            assert!(lease.held().await.unwrap());
            store.latest_checkpoint().await.unwrap();
            let size = store.head().await.unwrap().size;
            if published > 0 {
                // What its writer saw, the store's latest checkpoint, and the state file.
                for _ in 0..3 {
                    for id in proof::consistency_tiles(published, size).unwrap() {
                        store.tile(id).await.unwrap().unwrap();
                    }
                }
            }
            let note = format!("example.com/log\n{size}\n\n");
            store.put_checkpoint(size, note.as_bytes()).await.unwrap();
            published = size;
        }
    }
    let requests = store.requests() - before.unwrap();
    let events = (BATCHES - 4) * BATCH as u64;
    let kinds = [
        "PUT /",
        "/side/",
        "/batch/",
        "/tile/entries/",
        ".p/",
        "/tile/",
        "/checkpoints/",
        "/checkpoint ",
        "/lease",
        "/changes",
        "/run/",
        "?list-type=2",
    ];
    let kinds: Vec<String> = kinds
        .iter()
        .map(|kind| format!("{kind:?} {}", proxy.seen(kind)))
        .collect();
    println!(
        "{requests} requests for {events} events; all: {}",
        kinds.join(", ")
    );
    assert!(
        requests * 1000 <= 16 * events,
        "{requests} requests for {events} events"
    );
    assert!(
        proxy.seen("PUT /") > 0 && proxy.seen("/run/") > 0,
        "no index run was made"
    );
    // And what was made of it is right, searched through runs and side packs.
    store.integrity().await.unwrap();
    let fresh = place.store();
    let rows = fresh.rows(40_000..40_001, Parts::Without).await.unwrap();
    let before = fresh.requests();
    let position = fresh.position(rows[0].columns.event).await.unwrap();
    assert_eq!(position, Some(40_000));
    let asked = fresh.requests() - before;
    // 160 batches are two runs and 32 side packs; each of those takes its header too.
    assert!(asked <= 80, "finding one event took {asked} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_event_waits_no_longer_than_the_linger_and_company_shares_its_batch() {
    let Some(place) = place().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(place.store());
    let log = log_on(Arc::clone(&store), dir.path(), Duration::from_secs(3600)).await;
    // It ends by itself: nobody else comes.
    let lone = log.append(event(&log)).await.unwrap();
    let before = store.requests();
    let mut tasks = Vec::new();
    for _ in 0..100 {
        let log = log.clone();
        tasks.push(tokio::spawn(async move {
            log.append(event(&log)).await.unwrap().index
        }));
    }
    let mut indexes = Vec::new();
    for task in tasks {
        indexes.push(task.await.unwrap());
    }
    indexes.sort_unstable();
    let expected: Vec<u64> = (lone.index + 1..=lone.index + 100).collect();
    assert_eq!(indexes, expected);
    // Two requests a batch; a machine that is slow may take several.
    let requests = store.requests() - before;
    assert!(requests <= 20, "{requests} requests for 100 events at once");
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_and_following_ask_for_a_handful() {
    let Some(place) = place().await else { return };
    let store = place.store();
    store.create("example.com/log").await.unwrap();
    for seed in 0..40 {
        store
            .append(Box::new(move |head| sample::batch(head, 3, seed)))
            .await
            .unwrap();
    }
    let fresh = place.store();
    assert_eq!(fresh.head().await.unwrap().size, 120);
    let opened = fresh.requests();
    // `log`, two listings of versions, twice the logarithm of 40 batches.
    assert!(opened <= 16, "opening took {opened} requests");
    for _ in 0..5 {
        fresh.head().await.unwrap();
    }
    assert_eq!(
        fresh.requests() - opened,
        5,
        "a head that didn't move takes one request"
    );
}
