//! A log on this store: callers who commit by themselves, who stop waiting, and who hand in before they append.

use std::sync::Arc;

use audit_core::chain::AuditorKey;
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::store::{Parts, ReadStore as _};
use audit_core::time::{Clock as _, IdSource as _, System};
use audit_core::{Entry, Event, Kind};
use audit_store_sqlite::{OpenMode, SqliteStore};
use uuid::Uuid;

use crate::support::Place;

fn event() -> Event {
    let now = System.now();
    let mut event = Event::new(System.uuid_v7(now), now, Kind::new("tool.call").unwrap());
    event.session_id = Some("s".to_owned());
    event
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_nobody_waits_for_any_more_is_lost_or_breaks_the_chain() {
    let place = Place::new();
    let store = Arc::new(SqliteStore::create_file(place.next()).unwrap());
    let auditor = AuditorKey::random(&System);
    let keys = Arc::new(KeyRing::generate("example.com/log", auditor.public(), &System).unwrap());
    let log = Log::create(LogOptions::new(store, keys)).await.unwrap();
    let mut all: Vec<Uuid> = Vec::new();
    for round in 0..60 {
        let (first, second, third) = (event(), event(), event());
        all.extend([first.id, second.id, third.id]);
        // Polled once, or up to a few times: the commit is on its way, or done.
        let mut append = Box::pin(log.append(first));
        tokio::select! {
            biased;
            done = &mut append => drop(done.unwrap()),
            () = async {
                for _ in 0..round % 7 {
                    tokio::task::yield_now().await;
                }
            } => {}
        }
        drop(append);
        let before = log.submit(second).await.unwrap();
        let behind = log.append(third).await.unwrap();
        let before = before.durable().await.unwrap();
        assert!(
            before.index < behind.index,
            "round {round}: the order changed"
        );
    }
    log.close().await.unwrap();

    let store = SqliteStore::open(place.path(), OpenMode::ReadOnly).unwrap();
    let rows = store.rows(0..1000, Parts::Without).await.unwrap();
    let entries: Vec<Entry> = rows
        .iter()
        .map(|row| Entry::decode(&row.entry).unwrap())
        .collect();
    assert!(
        (0..).zip(&entries).all(|(seq, entry)| entry.seq == seq),
        "the run has a gap"
    );
    let stored: Vec<Uuid> = entries
        .iter()
        .filter(|entry| entry.kind.as_str() == "tool.call")
        .map(|entry| entry.event)
        .collect();
    assert_eq!(stored, all);
}
