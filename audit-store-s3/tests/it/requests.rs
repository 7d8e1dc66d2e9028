//! What a log costs in requests.

use std::sync::Arc;
use std::time::Duration;

use audit_core::chain::AuditorKey;
use audit_core::event::{Event, Kind};
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::store::{ReadStore as _, Store};
use audit_core::time::{IdSource as _, System};
use audit_store_s3::S3Store;

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

/// 2,000 events a second are batches of 500, and a checkpoint for every 2,000; how long that really takes here is no matter.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_small_events_take_at_most_sixteen_requests() {
    const BATCHES: usize = 24;
    const BATCH: usize = 500;
    let Some(place) = place().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut options = place.options();
    // A batch is full when all 500 that were handed in are in it, not when a clock says so.
    options.linger = Some(Duration::from_secs(60));
    let store = Arc::new(S3Store::new(&options).unwrap());
    let auditor = AuditorKey::random(&System);
    let keys = KeyRing::generate("example.com/log", auditor.public(), &System).unwrap();
    let mut options = LogOptions::new(Arc::clone(&store) as Arc<dyn Store>, Arc::new(keys));
    options.state_dir = Some(dir.path().join("state"));
    options.batch_events_max = BATCH;
    // Checkpoints come when this test asks for them, by closing runs never: a publisher of its own is driven below.
    options.publish = Duration::from_millis(200);
    let log = Log::create(options).await.unwrap();
    let mut last = None;
    let before = store.requests();
    for batch in 0..BATCHES {
        let mut pending = Vec::new();
        for _ in 0..BATCH {
            pending.push(log.submit(event(&log)).await.unwrap());
        }
        for one in pending {
            last = Some(one.durable().await.unwrap());
        }
        // The publisher works once in four batches, as it would once a second.
        if batch % 4 == 3
            && let Some(last) = last.take()
        {
            last.published().await.unwrap();
        }
    }
    let requests = store.requests() - before;
    let events = (BATCHES * BATCH) as u64;
    println!("{requests} requests for {events} events: {} per 1,000", requests * 1000 / events);
    assert!(requests * 1000 <= 16 * events, "{requests} requests for {events} events");
    log.close().await.unwrap();
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
        tasks.push(tokio::spawn(async move { log.append(event(&log)).await.unwrap().index }));
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
            .append(Box::new(move |head| audit_testkit::sample::batch(head, 3, seed)))
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
    assert_eq!(fresh.requests() - opened, 5, "a head that didn't move takes one request");
}
