//! The store of a log in a bucket, below one prefix, with Object Lock.
//!
//! # In scope
//!
//! - [`S3Store`]: the log's store contract ([`audit_core::store::Store`]) on S3 and what speaks its protocol: numbered
//!   batch objects that are created only if absent give the order, and are locked.
//! - Several processes that write to one log without any other service between them.
//! - Tiles, entry bundles and the checkpoint as static files (C2SP tlog-tiles), for any client of such logs.
//! - Retention, legal holds, and showing what was replaced or deleted in spite of them.
//!
//! # Out of scope
//!
//! - What an entry means, hashing and encryption: the log does these, above the store.
//! - Deleting ciphertexts: batches stay. Erasing destroys keys, tokens and salts.
//! - Making buckets, policies and roles.
//!
//! # Example
//!
//! ```
//! use audit_store_s3::{S3Options, S3Store};
//!
//! let options = S3Options::parse_url("s3://audit-logs/prod?region=eu-central-1&retain_days=2557")?;
//! let store = S3Store::new(&options)?;
//! // Nothing was asked of the bucket yet.
//! assert_eq!(store.requests(), 0);
//! # Ok::<(), audit_core::Error>(())
//! ```
//!
//! The objects are described in `docs/s3-layout.md`.

mod append;
mod batch;
mod bucket;
mod catalog;
mod codec;
mod erase;
mod failure;
mod integrity;
mod lease;
mod log_object;
mod names;
mod options;
mod profile;
mod publish;
mod query;
mod read;
mod retention;
mod run;
mod shared;
mod side;
mod wire;
mod xml;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use audit_core::datakey::KeyRecord;
use audit_core::store::{
    Build, Capabilities, Description, Head, Lease, Parts, Query, ReadStore, Row, Store, Tile,
};
use audit_core::time::Timestamp;
use audit_core::token::Token;
use audit_core::{Error, Result};
use audit_tlog::Hash;
use audit_tlog::tile::TileId;
use tokio::sync::Mutex;
use uuid::Uuid;

use append::Writer;
use bucket::Created;
use log_object::{LAYOUT, LogObject};
pub use options::{RETAIN_DAYS, S3Options};
pub use retention::{LockStatus, Released, RetentionStatus};
use shared::Shared;

/// How often a follower looks whether another process appended.
const FOLLOW: Duration = Duration::from_millis(250);
/// After how many looks it is told to look for itself.
const FOLLOWS_MAX: u32 = 4;

/// A log's store in a bucket.
///
/// Cheap to share behind an [`Arc`]. Two of them on one prefix, in one process or in several, work together.
pub struct S3Store {
    shared: Arc<Shared>,
    /// Waiting tasks get the writer in the order in which they came.
    writer: Mutex<Writer>,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store")
            .field("bucket", &self.shared.bucket)
            .finish_non_exhaustive()
    }
}

impl S3Store {
    /// A store on a bucket, of which nothing is asked yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](audit_core::ErrorKind::Invalid) if the options, or the environment's, are malformed.
    pub fn new(options: &S3Options) -> Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared::new(options)?),
            writer: Mutex::default(),
        })
    }

    /// How many requests were sent since it was opened.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.bucket.seen.requests()
    }

    /// How the log's objects are locked. Asks about every one, since S3 can't say it of many: a request per object, several
    /// at a time, and one per thousand for their names.
    ///
    /// # Errors
    ///
    /// What the bucket says.
    pub async fn retention(&self) -> Result<RetentionStatus> {
        self.shared.retention_status().await
    }

    /// Locks every object that is written once at least until `until`, and answers how many that changed. Nothing is ever
    /// locked for a shorter time than before. What is written meanwhile or later is locked as long as the log was made to.
    /// Takes the requests of [`retention`](Self::retention), and one for each object that changes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](audit_core::ErrorKind::Invalid) if the log has no Object Lock; else what the bucket says.
    /// What was locked by then stays so, and repeating goes on.
    pub async fn extend_retention(&self, until: Timestamp) -> Result<u64> {
        self.shared.extend_retention(until).await
    }

    /// Puts a legal hold on the batches that have the entries at `indexes`, and on their large parts. Answers how many
    /// objects those are. Other entries of the same batches are held with them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](audit_core::ErrorKind::NotFound) for an index that the log doesn't have;
    /// [`ErrorKind::Invalid`](audit_core::ErrorKind::Invalid) if the log has no Object Lock; else what the bucket says.
    /// What was held by then stays so, and repeating goes on.
    pub async fn hold(&self, indexes: &[u64]) -> Result<u64> {
        self.shared.hold(indexes).await
    }

    /// Takes the legal hold off the batches that have the entries at `indexes`, and off their large parts, but for those
    /// objects in which the entries at `keep` lie as well.
    ///
    /// # Errors
    ///
    /// As [`hold`](Self::hold).
    pub async fn release(&self, indexes: &[u64], keep: &[u64]) -> Result<Released> {
        self.shared.release(indexes, keep).await
    }

    /// Those of the entries at `indexes` that are not, or not wholly, under a legal hold. Takes a request or two per batch
    /// that has one of them, and one per large part.
    ///
    /// # Errors
    ///
    /// As [`hold`](Self::hold).
    pub async fn not_held(&self, indexes: &[u64]) -> Result<Vec<u64>> {
        self.shared.not_held(indexes).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ReadStore for S3Store {
    fn capabilities(&self) -> Capabilities {
        let log = self.shared.known_log();
        Capabilities {
            engine: "s3",
            several_writers: true,
            retention_lock: log.map_or(!self.shared.without_object_lock, |log| {
                log.retain_days.is_some()
            }),
            erases_parts: false,
            linger: self.shared.linger,
        }
    }

    async fn description(&self) -> Result<Option<Description>> {
        let log = self.shared.log().await?;
        Ok(log.map(|log| Description {
            origin: log.origin,
            layout: LAYOUT,
            retention_lock: Some(log.retain_days.is_some()),
        }))
    }

    async fn head(&self) -> Result<Head> {
        self.shared.log().await?;
        Ok(Shared::head_of(self.shared.tip().await?.as_ref()))
    }

    async fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        self.shared.rows(range, parts).await
    }

    async fn integrity(&self) -> Result<()> {
        self.shared.integrity().await
    }

    async fn position(&self, event: Uuid) -> Result<Option<u64>> {
        if self.shared.unsettled.load(Ordering::SeqCst) {
            let mut writer = self.writer.lock().await;
            let log = self.shared.log_or_invalid().await?;
            self.shared.settle(&mut writer, &log).await?;
        }
        self.shared.position(event).await
    }

    async fn find(&self, query: &Query) -> Result<Vec<u64>> {
        self.shared.find(query).await
    }

    async fn token_rows(
        &self,
        after: Option<(Token, u64)>,
        limit: usize,
    ) -> Result<Vec<(Token, u64)>> {
        self.shared.token_rows(after, limit).await
    }

    async fn tile(&self, id: TileId) -> Result<Option<Vec<Hash>>> {
        self.shared.tile(id).await
    }

    async fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        self.shared.tiles(level, after, limit).await
    }

    async fn latest_checkpoint(&self) -> Result<Option<Vec<u8>>> {
        let latest = self.shared.latest().await?;
        Ok(latest.map(|(_, note)| note.to_vec()))
    }

    async fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        self.shared.checkpoints(after, limit).await
    }

    async fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        self.shared.key(id).await
    }

    async fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        self.shared.keys(after, limit).await
    }

    async fn keys_of_scope(&self, scope: Token) -> Result<Vec<KeyRecord>> {
        self.shared.keys_of_scope(scope).await
    }

    async fn wait_beyond(&self, size: u64) -> Result<()> {
        let mut grown = self.shared.grown.subscribe();
        for _ in 0..FOLLOWS_MAX {
            // Other processes don't tell.
            let head = Shared::head_of(self.shared.tip().await?.as_ref());
            if head.size > size {
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
impl Store for S3Store {
    async fn create(&self, origin: &str) -> Result<()> {
        let shared = &self.shared;
        let already = |origin: &str| {
            Error::invalid(format!(
                "{} already is the store of the log {origin:?}",
                shared.bucket.place("")
            ))
        };
        let days = (!shared.without_object_lock).then_some(shared.retain_days);
        let (log, bytes) = LogObject::make(origin, days)?;
        shared.check_bucket().await?;
        if let Some(there) = shared.log().await? {
            return Err(already(&there.origin));
        }
        let others = shared.bucket.list("", "", 1).await?;
        if let Some(other) = others.first() {
            return Err(Error::invalid(format!(
                "{} holds other objects, such as {:?}; hint: choose an empty prefix",
                shared.bucket.place(""),
                other.key
            )));
        }
        let lock = log.lock(shared.clock.now());
        match shared.bucket.create(names::LOG, bytes, lock).await? {
            Created::Ours => Ok(()),
            Created::Theirs(there) => Err(already(&LogObject::decode(&there)?.origin)),
        }
    }

    async fn append(&self, build: Build) -> Result<Head> {
        let mut writer = self.writer.lock().await;
        self.shared.append(&mut writer, build).await
    }

    async fn put_checkpoint(&self, size: u64, note: &[u8]) -> Result<()> {
        self.shared.put_checkpoint(size, note).await
    }

    async fn publisher_lease(&self) -> Result<Option<Box<dyn Lease>>> {
        let lease = self.shared.publisher_lease().await?;
        Ok(lease.map(|lease| Box::new(lease) as Box<dyn Lease>))
    }

    async fn rewrap(&self, records: &[KeyRecord]) -> Result<()> {
        self.shared.rewrap(records).await
    }

    async fn erase(&self, keys: &[Uuid], indexes: &[u64]) -> Result<()> {
        self.shared.erase(keys, indexes).await
    }
}
