//! Followers in other processes are told of appends, and nothing depends on it.
//!
//! Where the clock stands still nobody looks again after a while: who learns of an append there was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use audit_core::store::ReadStore as _;
use audit_store_postgres::{OpenOptions, PostgresStore, PostgresUrl};
use audit_testkit::network::{Fault, Network};
use sqlx::postgres::{PgConnection, PgListener};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::network::{address, by_way_of};
use crate::support::{Place, append, block_on, place_or_skip};

/// Turns a hang into a failure, nothing else.
const HANG: Duration = Duration::from_mins(1);

/// Runs `test` while the clock stands still.
fn while_time_stands_still(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        // A stopped clock moves on when there is nothing to do, except while a blocking task runs.
        let (end, ended) = channel::<()>();
        let held = tokio::task::spawn_blocking(move || ended.recv_timeout(HANG));
        tokio::select! {
            () = test => drop(end),
            _ = held => panic!("nobody was told"),
        }
    });
}

/// Another process: a runtime of its own, whose clock goes on.
fn other_process() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// The channel of the last store's log, as `docs/postgres-layout.md` has it.
async fn channel_of(place: &Place) -> String {
    let sql = format!(
        "SELECT 'audit_trail_' || '{}'::regnamespace::oid",
        place.schema()
    );
    place.rows(&sql).await[0].get(0)
}

/// The server's processes whose last statement was this.
async fn sessions(raw: &mut PgConnection, statement: &str) -> Vec<i32> {
    let sql =
        "SELECT pid FROM pg_stat_activity WHERE state = 'idle' AND replace(query, '\"', '') = $1";
    let rows = sqlx::query(sql).bind(statement).fetch_all(raw).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Waits without a clock of this process's.
async fn pause(raw: &mut PgConnection) {
    let slept = sqlx::raw_sql("SELECT pg_sleep(0.02)").execute(raw).await;
    slept.unwrap();
}

/// Moves the clock on, and lets what that wakes be done.
async fn pass(raw: &mut PgConnection, time: Duration) {
    tokio::time::advance(time).await;
    pause(raw).await;
}

/// Waits for a session whose last statement was this, other than `but`.
async fn session(raw: &mut PgConnection, statement: &str, but: Option<i32>) -> i32 {
    loop {
        let found = sessions(raw, statement).await;
        if let Some(pid) = found.into_iter().find(|pid| Some(*pid) != but) {
            return pid;
        }
        pause(raw).await;
    }
}

async fn end_session(raw: &mut PgConnection, pid: i32) {
    let ended = sqlx::query("SELECT pg_terminate_backend($1)").bind(pid);
    ended.execute(raw).await.unwrap();
}

async fn opened(url: &PostgresUrl, options: OpenOptions) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(url, options).await.unwrap())
}

/// A store, opened in another process.
async fn opened_by(other: &Runtime, url: PostgresUrl) -> Arc<PostgresStore> {
    let opening = other.spawn(async move { opened(&url, OpenOptions::read_write()).await });
    opening.await.unwrap()
}

/// One more row, appended in another process.
async fn append_by(other: &Runtime, store: &Arc<PostgresStore>, seed: u64) {
    let store = Arc::clone(store);
    let appending = other.spawn(async move { append(&store, 1, seed).await });
    appending.await.unwrap();
}

fn wait(reader: &Arc<PostgresStore>, size: u64) -> JoinHandle<()> {
    let reader = Arc::clone(reader);
    tokio::spawn(async move { reader.wait_beyond(size).await.unwrap() })
}

/// Gives a follower the time to look once and find nothing.
async fn is_waiting(raw: &mut PgConnection, waiting: &JoinHandle<()>) {
    for _ in 0..10 {
        pause(raw).await;
    }
    assert!(!waiting.is_finished(), "nothing has grown");
}

#[test]
fn a_follower_is_told_what_another_process_appends() {
    let place = place_or_skip!();
    let other = other_process();
    drop(block_on(place.created()));
    while_time_stands_still(async {
        let (mut raw, channel) = (place.raw().await, channel_of(&place).await);
        let writer = opened_by(&other, place.url()).await;
        let reader = opened(&place.url(), OpenOptions::read_only()).await;
        let listens = format!("LISTEN {channel}");
        let mut waiting = wait(&reader, 0);
        let mut listener = session(&mut raw, &listens, None).await;
        for size in 0..6 {
            is_waiting(&mut raw, &waiting).await;
            append_by(&other, &writer, size).await;
            waiting.await.unwrap();
            assert_eq!(reader.head().await.unwrap().size, size + 1);
            waiting = wait(&reader, size + 1);
            if size == 2 {
                // It listens again if that connection dies.
                end_session(&mut raw, listener).await;
                listener = session(&mut raw, &listens, Some(listener)).await;
            }
        }
        // All who follow through one store listen through one connection.
        let second = wait(&reader, 6);
        is_waiting(&mut raw, &second).await;
        assert_eq!(sessions(&mut raw, &listens).await, [listener]);
        append_by(&other, &writer, 6).await;
        waiting.await.unwrap();
        second.await.unwrap();
    });
}

#[test]
fn what_was_told_before_anybody_listened_is_found() {
    let place = place_or_skip!();
    let other = other_process();
    drop(block_on(place.created()));
    let network = Network::to(address(&place)).unwrap();
    network.plan("LISTEN", 1, Fault::Delayed(Duration::from_secs(1)));
    while_time_stands_still(async {
        let mut raw = place.raw().await;
        let writer = opened_by(&other, place.url()).await;
        let url = by_way_of(&place, network.address());
        let reader = opened(&url, OpenOptions::read_only()).await;
        let waiting = wait(&reader, 0);
        while network.hits() == 0 {
            pause(&mut raw).await;
        }
        append_by(&other, &writer, 1).await;
        waiting.await.unwrap();
        assert_eq!(reader.head().await.unwrap().size, 1);
    });
}

#[test]
fn a_stranger_who_notifies_is_not_believed() {
    let place = place_or_skip!();
    let other = other_process();
    drop(block_on(place.created()));
    while_time_stands_still(async {
        let (mut raw, channel) = (place.raw().await, channel_of(&place).await);
        let writer = opened_by(&other, place.url()).await;
        let reader = opened(&place.url(), OpenOptions::read_only()).await;
        let waiting = wait(&reader, 0);
        session(&mut raw, &format!("LISTEN {channel}"), None).await;
        for payload in ["", "9223372036854775807", "\\x00'; DROP TABLE head"] {
            let sent = sqlx::query("SELECT pg_notify($1, $2)")
                .bind(&channel)
                .bind(payload)
                .execute(&mut raw)
                .await;
            sent.unwrap();
            is_waiting(&mut raw, &waiting).await;
        }
        append_by(&other, &writer, 1).await;
        waiting.await.unwrap();
        assert_eq!(reader.head().await.unwrap().size, 1);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_notifications_costs_little_more_than_none() {
    let place = place_or_skip!();
    let store = place.created().await;
    let channel = channel_of(&place).await;
    let network = Network::to(address(&place)).unwrap();
    let reader = opened(
        &by_way_of(&place, network.address()),
        OpenOptions::read_only(),
    )
    .await;
    // It listens from now on.
    reader.wait_beyond(0).await.unwrap();
    let mut raw = place.raw().await;
    session(&mut raw, &format!("LISTEN {channel}"), None).await;
    let over = Arc::new(AtomicBool::new(false));
    let flood = tokio::spawn({
        let over = Arc::clone(&over);
        async move {
            let mut sent = 0_u32;
            while !over.load(Ordering::SeqCst) {
                let sql = format!("NOTIFY {channel}, '{sent}'");
                let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut raw).await;
                done.unwrap();
                sent += 1;
            }
            sent
        }
    });
    // Each use of a prepared statement is a look.
    network.plan("sqlx_s_", u64::MAX, Fault::Delayed(Duration::ZERO));
    reader.wait_beyond(0).await.unwrap();
    let looks = network.hits();
    network.heal();
    append(&store, 1, 1).await;
    while reader.head().await.unwrap().size == 0 {
        reader.wait_beyond(0).await.unwrap();
    }
    over.store(true, Ordering::SeqCst);
    let sent = flood.await.unwrap();
    println!("{sent} notifications, {looks} looks");
    assert!(sent > 100, "{sent} notifications are no flood");
    assert!((2..=40).contains(&looks), "{looks} looks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appending_and_following_go_on_when_nobody_can_be_told() {
    let place = place_or_skip!();
    drop(place.created().await);
    let network = Network::to(address(&place)).unwrap();
    let reading = Network::to(address(&place)).unwrap();
    let mut size = 0;
    for fault in [Fault::Silence, Fault::Lost, Fault::SilentAnswer] {
        let told = network.hits();
        network.plan("NOTIFY", u64::MAX, fault.clone());
        let store = opened(
            &by_way_of(&place, network.address()),
            OpenOptions::read_write(),
        )
        .await;
        reading.plan("LISTEN", u64::MAX, fault);
        let reader = opened(
            &by_way_of(&place, reading.address()),
            OpenOptions::read_only(),
        )
        .await;
        // Until it was tried to tell, and behind that.
        let mut behind = 5;
        while behind > 0 {
            append(&store, 1, size).await;
            size += 1;
            behind -= u32::from(network.hits() > told);
        }
        while reader.head().await.unwrap().size < size {
            reader.wait_beyond(size - 1).await.unwrap();
        }
        // It was tried to listen, too: without growth this waits for the second.
        reader.wait_beyond(size).await.unwrap();
        assert!(reading.hits() > 0, "nobody tried to listen");
        network.heal();
        reading.heal();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_have_no_further_connection_appends_all_the_same() {
    let place = place_or_skip!();
    drop(place.created().await);
    let role = place.named("single");
    let schema = place.schema();
    place
        .sql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'single' CONNECTION LIMIT 1;
             GRANT USAGE ON SCHEMA {schema} TO {role};
             GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {role};"
        ))
        .await;
    place.at_end(format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    let (_, server) = place.server().split_once('@').unwrap();
    let url = place.url_as(&format!("postgres://{role}:single@{server}"));
    let store = opened(&url, OpenOptions::read_write()).await;
    for n in 0..20 {
        append(&store, 1, n).await;
    }
    let reader = place.opened().await;
    assert_eq!(reader.head().await.unwrap().size, 20);
}

#[test]
fn connections_that_nobody_needs_are_closed() {
    let place = place_or_skip!();
    while_time_stands_still(async {
        let store = Arc::new(place.created().await);
        let (mut raw, channel) = (place.raw().await, channel_of(&place).await);
        let listens = format!("LISTEN {channel}");
        let tells = format!("NOTIFY {channel}");
        let mut stranger = PgListener::connect(place.server()).await.unwrap();
        stranger.listen(&channel).await.unwrap();
        let test = session(&mut raw, &listens, None).await;
        let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                say.send(stranger.recv().await.unwrap()).unwrap();
            }
        });
        // Opening and reading needs neither.
        assert_eq!(store.head().await.unwrap().size, 0);
        assert!(sessions(&mut raw, &tells).await.is_empty());
        for (size, then) in [(1, "idle"), (2, "killed"), (3, "dropped")] {
            append(&store, 1, size).await;
            let told = loop {
                match said.try_recv() {
                    Ok(told) => break told,
                    // The pause after telling last.
                    Err(_) => pass(&mut raw, Duration::from_millis(5)).await,
                }
            };
            assert_eq!((told.channel(), told.payload()), (channel.as_str(), ""));
            let teller = session(&mut raw, &tells, None).await;
            let waiting = wait(&store, size);
            let listener = session(&mut raw, &listens, Some(test)).await;
            match then {
                "idle" => {
                    while sessions(&mut raw, &listens).await != [test]
                        || !sessions(&mut raw, &tells).await.is_empty()
                    {
                        pass(&mut raw, Duration::from_secs(1)).await;
                    }
                    waiting.await.unwrap();
                    continue;
                }
                "killed" => {
                    // The next append is told by another one.
                    end_session(&mut raw, teller).await;
                    end_session(&mut raw, listener).await;
                    session(&mut raw, &listens, Some(test)).await;
                }
                _ => {}
            }
            waiting.abort();
            // Whoever waits holds the store.
            assert!(waiting.await.unwrap_err().is_cancelled());
        }
        drop(store);
        while sessions(&mut raw, &listens).await != [test]
            || !sessions(&mut raw, &tells).await.is_empty()
        {
            pass(&mut raw, Duration::from_millis(5)).await;
        }
    });
}
