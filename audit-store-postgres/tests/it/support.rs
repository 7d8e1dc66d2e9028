//! Stores in schemas of their own, on the server that the tests are given.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use audit_core::store::{Head, Store as _};
use audit_core::time::{IdSource as _, System};
use audit_store_postgres::{OpenOptions, PostgresStore, PostgresUrl};
use audit_testkit::sample::Sample;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use tempfile::TempDir;

/// Where the tests' server is; `None`, with a word about it, where there is none and none is promised.
pub(crate) fn server() -> Option<String> {
    let url = std::env::var("AUDIT_TEST_POSTGRES_URL").ok();
    if url.is_none() {
        assert!(
            std::env::var_os("AUDIT_TEST_SERVICES").is_none(),
            "AUDIT_TEST_POSTGRES_URL is not set, and AUDIT_TEST_SERVICES is"
        );
        println!("skipped: AUDIT_TEST_POSTGRES_URL is not set");
    }
    url
}

/// Ends a test that has no server.
macro_rules! place_or_skip {
    () => {
        match $crate::support::Place::new() {
            Some(place) => place,
            None => return,
        }
    };
}
pub(crate) use place_or_skip;

/// Schemas that are gone when it is dropped.
pub(crate) struct Place {
    server: String,
    name: String,
    made: AtomicU32,
    extra: Mutex<Vec<String>>,
    state: TempDir,
}

impl Place {
    pub(crate) fn new() -> Option<Self> {
        let mut bytes = [0; 6];
        System.fill(&mut bytes);
        Some(Self {
            server: server()?,
            name: format!("t{}", audit_core::hex::encode(&bytes)),
            made: AtomicU32::new(0),
            extra: Mutex::default(),
            state: tempfile::tempdir().unwrap(),
        })
    }

    /// The server, as the tests were given it.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    pub(crate) fn made_so_far(&self) -> u32 {
        self.made.load(Ordering::SeqCst)
    }

    /// The URL of the next store.
    pub(crate) fn next(&self) -> PostgresUrl {
        let n = self.made.fetch_add(1, Ordering::SeqCst) + 1;
        // Not the last one's: others may make theirs at the same time.
        let url: PostgresUrl = self.server.parse().unwrap();
        url.with_schema(&format!("{}_{n}", self.name)).unwrap()
    }

    /// The URL of the last store.
    pub(crate) fn url(&self) -> PostgresUrl {
        self.url_as(&self.server)
    }

    /// The URL of the last store, by another way to the server.
    pub(crate) fn url_as(&self, server: &str) -> PostgresUrl {
        let url: PostgresUrl = server.parse().unwrap();
        url.with_schema(&self.schema()).unwrap()
    }

    pub(crate) fn schema(&self) -> String {
        format!("{}_{}", self.name, self.made.load(Ordering::SeqCst))
    }

    /// A name for something that lies beside the schemas and belongs to this test alone, such as a role.
    pub(crate) fn named(&self, what: &str) -> String {
        format!("{}_{what}", self.name)
    }

    /// A statement for the superuser when the test is over.
    pub(crate) fn at_end(&self, sql: impl Into<String>) {
        let mut extra = self.extra.lock().unwrap_or_else(PoisonError::into_inner);
        extra.push(sql.into());
    }

    /// A directory for a publisher's state, apart from the store.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.state.path().to_owned()
    }

    /// The superuser's connection, with the last store's schema first in its path.
    pub(crate) async fn raw(&self) -> PgConnection {
        raw(&self.server, &self.schema()).await
    }

    /// What somebody does with `psql` to the last store, past triggers and foreign keys.
    pub(crate) async fn sql(&self, sql: &str) {
        let mut raw = self.raw().await;
        let sql = format!("SET session_replication_role = replica; {sql}");
        sqlx::raw_sql(AssertSqlSafe(sql.clone()))
            .execute(&mut raw)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    pub(crate) async fn rows(&self, sql: &str) -> Vec<PgRow> {
        let mut raw = self.raw().await;
        sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&mut raw)
            .await
            .unwrap()
    }

    /// A store without a log.
    pub(crate) async fn made(&self) -> PostgresStore {
        PostgresStore::create(&self.next(), true).await.unwrap()
    }

    /// A store with the log `example.com/log`.
    pub(crate) async fn created(&self) -> PostgresStore {
        let store = self.made().await;
        store.create("example.com/log").await.unwrap();
        store
    }

    /// A store with `rows` sample rows.
    pub(crate) async fn filled(&self, rows: usize) -> PostgresStore {
        let store = self.created().await;
        append(&store, rows, 1).await;
        store
    }

    /// Another handle on the last store.
    pub(crate) async fn opened(&self) -> PostgresStore {
        PostgresStore::open(&self.url(), OpenOptions::read_write())
            .await
            .unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let made = self.made.load(Ordering::SeqCst);
        let extra = self.extra.get_mut().unwrap_or_else(PoisonError::into_inner);
        let extra = std::mem::take(extra);
        // A thread, as this may be one of a runtime.
        let cleaned = std::thread::spawn(move || {
            block_on(async {
                let mut raw = raw(&server, "public").await;
                let schemas =
                    (0..=made).map(|n| format!("DROP SCHEMA IF EXISTS {name}_{n} CASCADE"));
                for sql in schemas.chain(extra) {
                    if let Err(e) = sqlx::raw_sql(AssertSqlSafe(sql.clone()))
                        .execute(&mut raw)
                        .await
                    {
                        println!("{sql}: {e}");
                    }
                }
            });
        });
        drop(cleaned.join());
    }
}

/// The superuser's connection, with `schema` first in its path.
pub(crate) async fn raw(server: &str, schema: &str) -> PgConnection {
    let options: PgConnectOptions = server.parse().unwrap();
    let mut raw = options.disable_statement_logging().connect().await.unwrap();
    let sql = format!("SET search_path = {schema}, pg_catalog; SET client_min_messages = error");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut raw)
        .await
        .unwrap();
    raw
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

pub(crate) async fn append(store: &PostgresStore, rows: usize, seed: u64) -> Head {
    let sample = Sample::new(rows, seed);
    store
        .append(Box::new(move |head| sample.batch(head)))
        .await
        .unwrap()
}
