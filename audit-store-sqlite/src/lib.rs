//! The store of a log in one SQLite file.
//!
//! # In scope
//!
//! - [`SqliteStore`]: the log's store contract ([`audit_core::store::Store`]) on SQLite in WAL mode with
//!   `synchronous=FULL`: one transaction per batch, on the disk when it returns.
//! - Several processes that write to one file and queue for it, so that none starves beside a busy one.
//! - Reading a file that nobody may write to: a copy without SQLite's side files, a read-only directory.
//! - Copying the file while it is written to ([`SqliteStore::backup`]), and putting a copy in a lost store's place.
//! - Erasing so that the bytes are gone from the file and from its write-ahead log.
//!
//! # Out of scope
//!
//! - What an entry means, hashing and encryption: the log does these, above the store.
//! - Network file systems: SQLite's write-ahead log needs shared memory, and the queue needs file locks.
//! - What is erased here and still stands in earlier copies, backups and file-system snapshots.
//!
//! # Example
//!
//! ```
//! use audit_core::store::{ReadStore as _, Store as _};
//! use audit_store_sqlite::{OpenMode, SqliteStore, parse_url};
//!
//! # let dir = tempfile::tempdir()?;
//! # let url = format!("sqlite:{}/log.db", dir.path().display());
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let path = parse_url(&url)?;
//! SqliteStore::create_file(&path)?.create("example.com/log").await?;
//!
//! let store = SqliteStore::open(&path, OpenMode::ReadOnly)?;
//! assert_eq!(store.description().await?.unwrap().origin, "example.com/log");
//! assert_eq!(store.head().await?.size, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The tables are described in `docs/sqlite-layout.md`. What lies beside the file `log.db`: `log.db-wal` and
//! `log.db-shm` (SQLite's), `log.db.queue.lock`, `log.db.write.lock` and `log.db.publisher.lock` (empty; their locks
//! count, not their presence).

mod backup;
mod failure;
mod layout;
mod locks;
mod query;
mod readers;
mod write;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
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
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

pub use backup::Backup;
use locks::PublisherLease;
use query::Db;
use readers::Readers;
use write::Writer;

/// How often a follower looks whether another process appended.
const FOLLOW: Duration = Duration::from_millis(100);
/// After how many looks it is told to look for itself.
const FOLLOWS_MAX: u32 = 10;

/// How to open a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "writing is allowed or not")]
pub enum OpenMode {
    /// To append, publish and erase.
    ReadWrite,
    /// To read; nothing is written, and no file is made as long as no writer left its write-ahead log.
    ReadOnly,
}

/// A log's store in a SQLite file.
///
/// Cheap to share behind an [`Arc`]. Two of them on one file, in one process or in several, work together.
pub struct SqliteStore {
    path: PathBuf,
    readers: Arc<Readers>,
    /// Waiting tasks get the writer in the order in which they came.
    writer: Option<Arc<Mutex<Writer>>>,
    /// The size after the last append through this store, for those who wait for growth.
    grown: watch::Sender<u64>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.path)
            .field("writes", &self.writer.is_some())
            .finish_non_exhaustive()
    }
}

/// The path in a URL of the form `sqlite:PATH`.
///
/// What stands behind the colon is the path, byte for byte; `sqlite:///PATH` names the same file as `sqlite:/PATH`.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] for another scheme, a host, an empty path, or a `?`, which is kept for options.
pub fn parse_url(url: &str) -> Result<PathBuf> {
    let refuse = |what: &str| {
        Err(Error::invalid(format!(
            "store URL {url:?} {what}; hint: sqlite:PATH"
        )))
    };
    let Some(rest) = url.strip_prefix("sqlite:") else {
        return refuse("doesn't begin with `sqlite:`");
    };
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return refuse("names a host"),
        None => rest,
    };
    if path.is_empty() {
        return refuse("has no path");
    }
    if path.contains(['?', '\0']) {
        return refuse("has a character that a path may not have here");
    }
    Ok(PathBuf::from(path))
}

impl SqliteStore {
    /// Makes a new file, readable by its owner only, with an empty schema, and opens it.
    /// [`Store::create`] then makes it the store of a log.
    ///
    /// Blocks on the file system, as [`SqliteStore::open`] does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if there is a file already; [`ErrorKind::NotFound`] if the directory is missing;
    /// [`ErrorKind::Unavailable`] if it can't be written.
    pub fn create_file(path: impl AsRef<Path>) -> Result<Self> {
        layout::create(path.as_ref())?;
        Self::open(path, OpenMode::ReadWrite)
    }

    /// Opens a file that [`SqliteStore::create_file`] made. Never makes one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is none; [`ErrorKind::Invalid`] if it is something else or of another version;
    /// [`ErrorKind::Corrupt`] if it is damaged; [`ErrorKind::Unavailable`] if it can't be read, or written.
    pub fn open(path: impl AsRef<Path>, mode: OpenMode) -> Result<Self> {
        let path = layout::resolve(path.as_ref())?;
        layout::inspect(&path)?;
        let writer = match mode {
            OpenMode::ReadWrite => Some(Arc::new(Mutex::new(Writer::open(path.clone())?))),
            OpenMode::ReadOnly => None,
        };
        let readers = Readers::new(path.clone(), writer.is_some());
        // The first reader checks the schema, so that a wrong file fails here and not later.
        readers.read_now(&|_, _| Ok(()))?;
        let (grown, _) = watch::channel(0);
        Ok(Self {
            path,
            readers,
            writer,
            grown,
        })
    }

    /// The file, by its real name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&Db<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.path.clone();
        self.readers
            .read(move |connection, layout| {
                read(&Db {
                    connection,
                    layout,
                    path: &path,
                })
            })
            .await
    }

    /// Runs `write` apart from the async runtime. A caller who stops waiting doesn't stop it.
    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Writer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let writer = self.writer()?;
        let writer = Arc::clone(writer).lock_owned().await;
        tokio::task::spawn_blocking(move || write(&writer))
            .await
            .map_err(|e| Error::new(ErrorKind::Unknown, "a write was stopped").because(e))?
    }

    fn writer(&self) -> Result<&Arc<Mutex<Writer>>> {
        self.writer.as_ref().ok_or_else(|| {
            Error::invalid(format!("{} was opened to read only", self.path.display()))
        })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ReadStore for SqliteStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            engine: "sqlite",
            several_writers: true,
            retention_lock: false,
            erases_parts: true,
            linger: None,
        }
    }

    async fn description(&self) -> Result<Option<Description>> {
        let read = |db: &Db<'_>| Ok(db.origin()?.map(|origin| (origin, db.layout.version())));
        let description = self.read(read).await?;
        Ok(description.map(|(origin, layout)| Description {
            origin,
            layout,
            retention_lock: None,
        }))
    }

    async fn head(&self) -> Result<Head> {
        self.read(|db| db.head()).await
    }

    async fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        self.read(move |db| db.rows(&range, parts)).await
    }

    async fn integrity(&self) -> Result<()> {
        self.read(|db| db.integrity()).await
    }

    async fn position(&self, event: Uuid) -> Result<Option<u64>> {
        self.read(move |db| db.position(event)).await
    }

    async fn find(&self, query: &Query) -> Result<Vec<u64>> {
        let query = query.clone();
        self.read(move |db| db.find(&query)).await
    }

    async fn token_rows(
        &self,
        after: Option<(Token, u64)>,
        limit: usize,
    ) -> Result<Vec<(Token, u64)>> {
        self.read(move |db| db.token_rows(after, limit)).await
    }

    async fn tile(&self, id: TileId) -> Result<Option<Vec<Hash>>> {
        self.read(move |db| db.tile(id)).await
    }

    async fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        self.read(move |db| db.tiles(level, after, limit)).await
    }

    async fn latest_checkpoint(&self) -> Result<Option<Vec<u8>>> {
        self.read(|db| db.latest_checkpoint()).await
    }

    async fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        self.read(move |db| db.checkpoints(after, limit)).await
    }

    async fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        self.read(move |db| db.key(id)).await
    }

    async fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        self.read(move |db| db.keys(after, limit)).await
    }

    async fn keys_of_scope(&self, scope: Token) -> Result<Vec<KeyRecord>> {
        self.read(move |db| db.keys_of_scope(scope)).await
    }

    async fn wait_beyond(&self, size: u64) -> Result<()> {
        let mut grown = self.grown.subscribe();
        for _ in 0..FOLLOWS_MAX {
            // Other processes don't tell; the largest index is one look into the file.
            if self.read(|db| db.size()).await? > size {
                break;
            }
            tokio::select! {
                changed = grown.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(FOLLOW) => {}
            }
        }
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for SqliteStore {
    async fn create(&self, origin: &str) -> Result<()> {
        let origin = origin.to_owned();
        self.write(move |writer| writer.create(&origin)).await
    }

    async fn append(&self, build: Build) -> Result<Head> {
        let head = self.write(move |writer| writer.append(build)).await?;
        self.grown.send_replace(head.size);
        Ok(head)
    }

    async fn put_checkpoint(&self, size: u64, note: &[u8]) -> Result<()> {
        let note = note.to_vec();
        self.write(move |writer| writer.put_checkpoint(size, &note))
            .await
    }

    async fn publisher_lease(&self) -> Result<Option<Box<dyn Lease>>> {
        self.writer()?;
        // Neither opening nor trying the lock waits for anybody.
        let lease = PublisherLease::take(&self.path)?;
        Ok(lease.map(|lease| Box::new(lease) as Box<dyn Lease>))
    }

    async fn rewrap(&self, records: &[KeyRecord]) -> Result<()> {
        let records = records.to_vec();
        self.write(move |writer| writer.rewrap(&records)).await
    }

    async fn erase(&self, keys: &[Uuid], indexes: &[u64]) -> Result<()> {
        let (keys, indexes) = (keys.to_vec(), indexes.to_vec());
        self.write(move |writer| writer.erase(&keys, &indexes))
            .await
    }
}
