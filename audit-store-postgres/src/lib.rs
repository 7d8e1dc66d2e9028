//! The store of a log in PostgreSQL.
//!
//! # In scope
//!
//! - [`PostgresStore`]: the log's store contract ([`audit_core::store::Store`]) on PostgreSQL 14 or later: one transaction
//!   per batch, on the server's disk when it returns. One schema per log.
//! - Several processes on several machines that write to one log and queue for its head row.
//! - Migrations ([`Migrations`]), and roles that can append and can't change (`sql/roles.sql`).
//! - Refusing what would make promises hollow: a server without `fsync`, a connection that falls back to no TLS.
//!
//! # Out of scope
//!
//! - What an entry means, hashing and encryption: the log does these, above the store.
//! - Replicas, backups and archived write-ahead log, which keep what is erased here until they are thrown away.
//! - Poolers that give each transaction another session: the lease and the statements need one session.
//!
//! # Example
//!
//! ```no_run
//! use audit_core::store::{ReadStore as _, Store as _};
//! use audit_store_postgres::{OpenOptions, PostgresStore, PostgresUrl};
//!
//! # async fn example() -> audit_core::Result<()> {
//! let url: PostgresUrl = "postgres://audit@db.example/audit?schema=clinic".parse()?;
//! PostgresStore::create(&url, true).await?.create("example.com/log").await?;
//!
//! let store = PostgresStore::open(&url, OpenOptions::read_only()).await?;
//! assert_eq!(store.description().await?.unwrap().origin, "example.com/log");
//! # Ok(())
//! # }
//! ```
//!
//! The tables are described in `docs/postgres-layout.md`.

mod connection;
mod failure;
mod growth;
mod integrity;
mod layout;
mod lease;
mod password;
mod query;
mod url;
mod write;

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use audit_core::datakey::KeyRecord;
use audit_core::store::{
    Build, Capabilities, Description, Head, Lease, Parts, Query, ReadStore, Row, Store, Tile,
};
use audit_core::token::Token;
use audit_core::{Error, ErrorKind, Result};
use audit_tlog::Hash;
use audit_tlog::tile::TileId;
use sqlx::postgres::PgConnection;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use connection::{CALL, Idle, Readers, Use, connect};
use failure::{Failure, Found};
use growth::{Listener, Teller};
pub use layout::{Migration, Migrations, Status};
use lease::PublisherLease;
pub use url::PostgresUrl;
use write::Writer;

/// After how long a follower is told to look for itself.
const FOLLOW: Duration = Duration::from_secs(1);
/// How often it is looked for them, while nobody would tell.
const LOOK: Duration = Duration::from_millis(100);
/// How many notifications without growth behind them are heeded meanwhile. From then on looking is as dear as without
/// any, so a stranger who sends many of them gains nothing.
const HINTS_MAX: u32 = 16;

/// What a store may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "writing is allowed or not")]
pub enum OpenMode {
    /// Append, publish and erase, as far as the role may.
    ReadWrite,
    /// Read; a standby serves for it.
    ReadOnly,
}

/// How to open a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "callers say all of it")]
pub struct OpenOptions {
    /// What it may do.
    pub mode: OpenMode,
    /// Do missing migrations instead of refusing the schema. Only for writing.
    pub auto_migrate: bool,
}

impl OpenOptions {
    /// To write, and to refuse a schema that lacks migrations.
    #[must_use]
    pub fn read_write() -> Self {
        Self {
            mode: OpenMode::ReadWrite,
            auto_migrate: false,
        }
    }

    /// To read.
    #[must_use]
    pub fn read_only() -> Self {
        Self {
            mode: OpenMode::ReadOnly,
            auto_migrate: false,
        }
    }
}

/// A log's store in a schema of a PostgreSQL database.
///
/// Cheap to share behind an [`Arc`]. Any number of them on one schema, in any number of processes, work together.
/// It belongs to the tokio runtime in which it was opened.
pub struct PostgresStore {
    url: PostgresUrl,
    readers: Readers,
    /// Waiting tasks get the writer in the order in which they came.
    writer: Option<Arc<Mutex<Writer>>>,
    /// The connection on which the publisher's lease was asked for in vain.
    spare: Mutex<Option<Idle>>,
    growth: Arc<Growth>,
    listener: Listener,
}

/// Those who wait for growth, after an append through this store.
struct Growth {
    /// Here: the size.
    here: watch::Sender<u64>,
    /// In other processes.
    elsewhere: Option<Teller>,
}

impl Growth {
    fn grew(&self, size: u64) {
        self.here.send_replace(size);
        if let Some(teller) = &self.elsewhere {
            teller.grew();
        }
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("url", &self.url)
            .field("writes", &self.writer.is_some())
            .finish_non_exhaustive()
    }
}

type Reading<'c, T> = Pin<Box<dyn Future<Output = Found<T>> + Send + 'c>>;

impl PostgresStore {
    /// Makes the schema and its tables, or takes those that are there and belong to no log yet, and opens them.
    /// [`Store::create`] then makes them the store of a log.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if there is a log already, or tables are missing and `auto_migrate` is false; others as
    /// [`PostgresStore::open`].
    pub async fn create(url: &PostgresUrl, auto_migrate: bool) -> Result<Self> {
        let options = OpenOptions {
            mode: OpenMode::ReadWrite,
            auto_migrate,
        };
        if auto_migrate && Migrations::status(url).await?.version.is_none() {
            Migrations::up(url).await?;
        }
        let store = Self::open(url, options).await?;
        match store.description().await? {
            None => Ok(store),
            Some(there) => Err(Error::invalid(format!(
                "{url} already is the store of the log {:?}",
                there.origin
            ))),
        }
    }

    /// Opens what [`PostgresStore::create`] made. Never makes it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is none, or no such database; [`ErrorKind::Invalid`] if it has another version;
    /// [`ErrorKind::Corrupt`] if the schema isn't as this program made it; [`ErrorKind::Unavailable`] if the server can't be
    /// reached, doesn't let this user in, or isn't fit.
    pub async fn open(url: &PostgresUrl, options: OpenOptions) -> Result<Self> {
        let readers = Readers::new(url.clone());
        let writer = match options.mode {
            OpenMode::ReadWrite => {
                let mut connection = connect(url, Use::Write).await?;
                // Nothing is made where nothing is, as nothing is where a name is mistyped.
                if options.auto_migrate
                    && !layout::is_current(&mut connection, url).await?
                    && Migrations::status(url).await?.version.is_some()
                {
                    Migrations::up(url).await?;
                }
                layout::check(&mut connection, url).await?;
                let mut writer = Writer::new(url.clone());
                writer.adopt(connection);
                Some(Arc::new(Mutex::new(writer)))
            }
            OpenMode::ReadOnly => {
                let mut lent = readers.lend().await?;
                layout::check(&mut lent.connection, url).await?;
                lent.give_back();
                None
            }
        };
        let growth = Growth {
            here: watch::Sender::default(),
            elsewhere: writer.is_some().then(|| Teller::start(url.clone())),
        };
        Ok(Self {
            url: url.clone(),
            readers,
            writer,
            spare: Mutex::default(),
            growth: Arc::new(growth),
            listener: Listener::new(url.clone()),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &PostgresUrl {
        &self.url
    }

    async fn read<T: Send>(
        &self,
        read: impl for<'c> FnOnce(&'c mut PgConnection) -> Reading<'c, T> + Send,
    ) -> Result<T> {
        let mut lent = self.readers.lend().await?;
        let found = tokio::time::timeout(CALL, read(&mut lent.connection)).await;
        let found = found.unwrap_or(Err(Failure::Silence));
        if found.as_ref().err().is_none_or(Failure::leaves_connection) {
            lent.give_back();
        }
        found.map_err(|e| e.said("reading", &self.url))
    }

    /// Runs `write` in a task of its own. A caller who stops waiting doesn't stop it.
    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(OwnedMutexGuard<Writer>) -> Pin<Box<dyn Future<Output = Result<T>> + Send>>,
    ) -> Result<T> {
        let writer = Arc::clone(self.writer()?).lock_owned().await;
        tokio::spawn(write(writer))
            .await
            .map_err(|e| Error::new(ErrorKind::Unknown, "a write was stopped").because(e))?
    }

    fn writer(&self) -> Result<&Arc<Mutex<Writer>>> {
        self.writer
            .as_ref()
            .ok_or_else(|| Error::invalid(format!("{} was opened to read only", self.url)))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ReadStore for PostgresStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            engine: "postgres",
            several_writers: true,
            retention_lock: false,
            linger: None,
            erases_parts: true,
        }
    }

    async fn description(&self) -> Result<Option<Description>> {
        let origin = self.read(|c| Box::pin(query::origin(c))).await?;
        Ok(origin.map(|origin| Description {
            origin,
            layout: Migrations::newest(),
            retention_lock: None,
        }))
    }

    async fn head(&self) -> Result<Head> {
        let known = self.read(|c| Box::pin(query::head(c))).await?;
        Ok(known.head)
    }

    async fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        self.read(|c| Box::pin(query::rows(c, range, parts))).await
    }

    async fn integrity(&self) -> Result<()> {
        let mut lent = self.readers.lend().await?;
        let checked = integrity::check(&mut lent.connection, &self.url).await;
        if checked
            .as_ref()
            .err()
            .is_none_or(Failure::leaves_connection)
        {
            lent.give_back();
        }
        checked.map_err(|e| e.said("checking", &self.url))
    }

    async fn position(&self, event: Uuid) -> Result<Option<u64>> {
        match &self.writer {
            None => self.read(|c| Box::pin(query::position(c, event))).await,
            Some(_) => {
                self.write(move |mut writer| Box::pin(async move { writer.position(event).await }))
                    .await
            }
        }
    }

    async fn find(&self, query: &Query) -> Result<Vec<u64>> {
        let query = query.clone();
        self.read(|c| Box::pin(async move { query::find(c, &query).await }))
            .await
    }

    async fn token_rows(
        &self,
        after: Option<(Token, u64)>,
        limit: usize,
    ) -> Result<Vec<(Token, u64)>> {
        self.read(|c| Box::pin(query::token_rows(c, after, limit)))
            .await
    }

    async fn tile(&self, id: TileId) -> Result<Option<Vec<Hash>>> {
        self.read(|c| Box::pin(query::tile(c, id))).await
    }

    async fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        self.read(|c| Box::pin(query::tiles(c, level, after, limit)))
            .await
    }

    async fn latest_checkpoint(&self) -> Result<Option<Vec<u8>>> {
        self.read(|c| Box::pin(query::latest_checkpoint(c))).await
    }

    async fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        self.read(|c| Box::pin(query::checkpoints(c, after, limit)))
            .await
    }

    async fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        self.read(|c| Box::pin(query::key(c, id))).await
    }

    async fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        self.read(|c| Box::pin(query::keys(c, after, limit))).await
    }

    async fn keys_of_scope(&self, scope: Token) -> Result<Vec<KeyRecord>> {
        self.read(|c| Box::pin(query::keys_of_scope(c, scope)))
            .await
    }

    async fn wait_beyond(&self, size: u64) -> Result<()> {
        let end = Instant::now() + FOLLOW;
        let mut here = self.growth.here.subscribe();
        let mut heard = self.listener.follow();
        let mut hints = 0;
        loop {
            // In this order: whatever is heard from here on is a reason to look again.
            let listens = heard.borrow_and_update().listens;
            if self.read(|c| Box::pin(query::size(c))).await? > size || Instant::now() >= end {
                return Ok(());
            }
            let heeds = hints < HINTS_MAX;
            let look = if listens && heeds {
                end
            } else {
                end.min(Instant::now() + LOOK)
            };
            tokio::select! {
                Ok(()) = here.changed() => {}
                Ok(()) = heard.changed(), if heeds => hints += 1,
                () = sleep_until(look) => {}
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for PostgresStore {
    async fn create(&self, origin: &str) -> Result<()> {
        let origin = origin.to_owned();
        self.write(move |mut writer| Box::pin(async move { writer.create(&origin).await }))
            .await
    }

    async fn append(&self, build: Build) -> Result<Head> {
        let growth = Arc::clone(&self.growth);
        self.write(move |mut writer| {
            Box::pin(async move {
                let head = writer.append(build).await?;
                growth.grew(head.size);
                Ok(head)
            })
        })
        .await
    }

    async fn put_checkpoint(&self, size: u64, note: &[u8]) -> Result<()> {
        let note = note.to_vec();
        self.write(move |mut writer| {
            Box::pin(async move { writer.put_checkpoint(size, &note).await })
        })
        .await
    }

    async fn publisher_lease(&self) -> Result<Option<Box<dyn Lease>>> {
        self.writer()?;
        let mut spare = self.spare.lock().await;
        let lease = PublisherLease::take(&self.url, &mut spare).await?;
        Ok(lease.map(|lease| Box::new(lease) as Box<dyn Lease>))
    }

    async fn rewrap(&self, records: &[KeyRecord]) -> Result<()> {
        let records = records.to_vec();
        self.write(move |mut writer| Box::pin(async move { writer.rewrap(&records).await }))
            .await
    }

    async fn erase(&self, keys: &[Uuid], indexes: &[u64]) -> Result<()> {
        let (keys, indexes) = (keys.to_vec(), indexes.to_vec());
        self.write(move |mut writer| Box::pin(async move { writer.erase(&keys, &indexes).await }))
            .await
    }
}
