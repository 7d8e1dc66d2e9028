//! Appends that race, are abandoned, or whose connection is lost: what the answer says is so.

use std::sync::Arc;
use std::time::Duration;

use audit_core::ErrorKind;
use audit_core::chain::AuditorKey;
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::store::{Build, Parts, ReadStore as _, Store as _};
use audit_core::time::{Clock as _, IdSource as _, System};
use audit_core::{Entry, Event, Kind};
use audit_store_postgres::{OpenOptions, PostgresStore};
use audit_testkit::sample;
use sqlx::Row as _;
use uuid::Uuid;

use crate::support::{Place, append, place_or_skip};

fn event() -> Event {
    let now = System.now();
    let mut event = Event::new(System.uuid_v7(now), now, Kind::new("tool.call").unwrap());
    event.session_id = Some("s".to_owned());
    event
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_nobody_waits_for_any_more_is_lost_or_breaks_the_chain() {
    let place = place_or_skip!();
    let store = Arc::new(place.made().await);
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

    let store = PostgresStore::open(&place.url(), OpenOptions::read_only())
        .await
        .unwrap();
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

/// Sessions of the last store's writers and readers, seen from outside.
async fn sessions(place: &Place, what: &str) -> Vec<i32> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name = '{}' AND {what}",
        place.named("app")
    );
    place
        .rows(&sql)
        .await
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// A second handle on the last store, whose sessions bear a name.
async fn named(place: &Place) -> Arc<PostgresStore> {
    let server = format!("{}?application_name={}", place.server(), place.named("app"));
    let store = PostgresStore::open(&place.url_as(&server), OpenOptions::read_write()).await;
    Arc::new(store.unwrap())
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..2000 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

/// A build that says which event its first row is.
fn telling(rows: usize, seed: u64) -> (Build, Arc<std::sync::Mutex<Option<Uuid>>>) {
    let first = Arc::new(std::sync::Mutex::new(None));
    let told = Arc::clone(&first);
    let build: Build = Box::new(move |head| {
        let batch = sample::batch(head, rows, seed)?;
        *told.lock().unwrap() = Some(batch.rows[0].columns.event);
        Ok(batch)
    });
    (build, first)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_still_under_way_lands_behind_the_answer_that_it_is_not_there() {
    let place = place_or_skip!();
    drop(place.filled(3).await);
    let store = named(&place).await;
    append(&store, 2, 2).await;
    // The statement that appends waits for a token row that somebody else has inserted and not committed: it holds the
    // head row, and would commit by itself once it may go on.
    let (build, first) = telling(2, 3);
    let token = sample::actor_token();
    let mut other = place.raw().await;
    sqlx::raw_sql("BEGIN").execute(&mut other).await.unwrap();
    sqlx::query("INSERT INTO token (token, idx) VALUES ($1, 5), ($1, 6)")
        .bind(token.0.to_vec())
        .execute(&mut other)
        .await
        .unwrap();
    let appending = Arc::clone(&store);
    let appending = tokio::spawn(async move { appending.append(build).await });
    until("the append never waited", async || {
        !sessions(&place, "wait_event_type = 'Lock'")
            .await
            .is_empty()
    })
    .await;
    // The store is asked meanwhile, and must not answer before the outcome is settled.
    let event = first.lock().unwrap().unwrap();
    let asking = Arc::clone(&store);
    let asking = tokio::spawn(async move { asking.position(event).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        !asking.is_finished(),
        "it answered while the commit was under way"
    );
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(appending.await.unwrap().unwrap().size, 7);
    assert_eq!(asking.await.unwrap().unwrap(), Some(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_an_unknown_outcome_and_an_answer_none_stays_true() {
    let place = place_or_skip!();
    drop(place.filled(3).await);
    let store = named(&place).await;
    append(&store, 2, 2).await;
    let (build, first) = telling(2, 3);
    // Somebody holds the head row, so the append waits for it; then its session is ended.
    let mut other = place.raw().await;
    sqlx::raw_sql("BEGIN; SELECT * FROM head FOR UPDATE")
        .execute(&mut other)
        .await
        .unwrap();
    let appending = Arc::clone(&store);
    let appending = tokio::spawn(async move { appending.append(build).await });
    let mut waiting = Vec::new();
    until("the append never waited", async || {
        waiting = sessions(&place, "wait_event_type = 'Lock'").await;
        !waiting.is_empty()
    })
    .await;
    place
        .rows(&format!("SELECT pg_terminate_backend({})", waiting[0]))
        .await;
    let error = appending.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    let event = first.lock().unwrap().unwrap();
    assert_eq!(store.position(event).await.unwrap(), None);
    assert_eq!(append(&store, 2, 3).await.size, 7);
    assert_eq!(store.head().await.unwrap().size, 7);
}

/// What the server would do with a statement that reaches it late: after the outcome was settled it must do nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_arrives_late_appends_behind_the_answer() {
    let place = place_or_skip!();
    drop(place.filled(3).await);
    let (late, other) = (named(&place).await, place.opened().await);
    append(&late, 2, 2).await;
    let xmin = |rows: Vec<sqlx::postgres::PgRow>| -> String { rows[0].get(0) };
    let before = xmin(place.rows("SELECT xmin::text FROM head").await);
    // `late` knows this row, and would append to it with one statement. Settling changes the row, and nothing in it.
    let mut builds = 0;
    let counted = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = Arc::clone(&counted);
    place.sql("UPDATE head SET size = size").await;
    assert_ne!(
        before,
        xmin(place.rows("SELECT xmin::text FROM head").await)
    );
    let head = late
        .append(Box::new(move |head| {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            sample::batch(head, 1, 4)
        }))
        .await
        .unwrap();
    builds += counted.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(
        (head.size, builds),
        (6, 2),
        "the statement found a row that it didn't know"
    );
    assert_eq!(other.head().await.unwrap().size, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_somebody_keeps_locked_or_a_server_that_cuts_connections_is_unavailable_and_then_goes_on()
 {
    let place = place_or_skip!();
    drop(place.filled(3).await);
    let store = named(&place).await;
    assert_eq!(store.head().await.unwrap().size, 3);
    // Idle sessions that are cut are noticed when they were idle for a while, and made anew.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for pid in sessions(&place, "true").await {
        place
            .rows(&format!("SELECT pg_terminate_backend({pid})"))
            .await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(store.head().await.unwrap().size, 3);
    assert_eq!(append(&store, 1, 2).await.size, 4);
    let lease = store.publisher_lease().await.unwrap().unwrap();
    assert!(lease.held().await.unwrap());
    for pid in sessions(&place, "true").await {
        place
            .rows(&format!("SELECT pg_terminate_backend({pid})"))
            .await;
    }
    assert!(!lease.held().await.unwrap(), "a lease outlived its session");
    assert!(!lease.held().await.unwrap());
    assert!(store.publisher_lease().await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_parts_need_several_statements_is_there_in_part() {
    let place = place_or_skip!();
    let store = place.created().await;
    append(&store, 1, 1).await;
    for _ in 0..2 {
        let sample = sample::Sample::new(5, 2).parts_bytes(9 << 20);
        store
            .append(Box::new(move |head| sample.batch(head)))
            .await
            .unwrap();
    }
    let mut at = 0;
    while at < 11 {
        let rows = store.rows(at..11, Parts::With).await.unwrap();
        for row in &rows {
            let entry = Entry::decode(&row.entry).unwrap();
            let stored = entry.content.map_or(0, |content| content.stored);
            assert_eq!(
                row.parts.as_ref().map_or(0, Vec::len) as u64,
                stored,
                "row {}",
                row.index
            );
        }
        at += rows.len() as u64;
    }
}
