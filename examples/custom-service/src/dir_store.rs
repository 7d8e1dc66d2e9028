//! A backend of one's own: the store of a log in a plain directory, written against nothing but the public contract
//! ([`audit_core::store`]).
//!
//! ```text
//! DIR/origin                 the name of the log
//! DIR/batches/FIRST.batch    one file per batch, named for its first index: a line of JSON, then the stored parts
//! DIR/checkpoints/SIZE       one file per signed checkpoint
//! DIR/generation             changes when something is rewrapped or erased
//! DIR/write.lock             whoever changes something holds it
//! DIR/publish.lock           the publisher's lease
//! ```
//!
//! How it keeps the contract:
//!
//! - **All or none, durable on return**: a file is written under another name, synced, renamed, and its directory synced.
//! - **Contiguous indexes**: the writer holds the lock, and reads what others appended before it asks for a batch.
//! - **Unknown outcomes**: what fails before the rename was not written; what fails after it may have been.
//! - **Readers see whole batches**: a batch is there under its name or it isn't.
//! - **Erasing** writes the batch files anew without what is erased, each by a rename of its own. Being interrupted leaves
//!   some of them done, and repeating finishes it.
//!
//! Tiles and columns are computed from the entries and not stored, so there are none to falsify. The price is that opening
//! reads every entry, and that entries and tokens are kept in memory: this is an example for thousands of batches, not
//! for millions of events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use audit_core::canonical;
use audit_core::datakey::{KeyRecord, WRAPPED_BYTES};
use audit_core::entry::{Entry, check_origin};
use audit_core::hex::Hex;
use audit_core::store::{
    Batch, Build, Capabilities, Columns, Description, Head, Lease, Parts, Query, ReadStore, Row,
    Store, Tile,
};
use audit_core::token::{Token, TokenSet};
use audit_core::{Error, ErrorKind, Result};
use audit_tlog::Hash;
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::{EdgeTiles, TileId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Bytes that one call of `rows` collects.
const ROWS_BYTES: usize = 4 * 1024 * 1024;

/// A log's store in a directory. Several of them on one directory, in one process or in many, work together.
#[derive(Debug, Clone)]
pub struct DirStore {
    dir: PathBuf,
    cache: Arc<Mutex<Cache>>,
}

/// What was read so far of the batches, without parts.
#[derive(Debug, Default)]
struct Cache {
    generation: Vec<u8>,
    rows: Vec<Row>,
    /// First indexes of the batches.
    batches: BTreeSet<u64>,
    events: HashMap<Uuid, u64>,
    tokens: BTreeSet<(Token, u64)>,
    /// With the first index of the batch that brought it.
    keys: BTreeMap<Uuid, (KeyRecord, u64)>,
    edge: EdgeTiles,
    tiles: BTreeMap<(u8, u64), Tile>,
}

/// The first line of a batch file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    rows: Vec<StoredRow>,
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRow {
    /// The canonical bytes, which are JSON text.
    entry: String,
    salt: Option<Hex<16>>,
    tokens: Option<Vec<Token>>,
    parts_bytes: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    id: Uuid,
    scope: Token,
    run: Uuid,
    generation: u32,
    wrapped: Hex<WRAPPED_BYTES>,
}

impl DirStore {
    /// Makes the directory, which must not be there yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if it is there; [`ErrorKind::Unavailable`] if it can't be made.
    pub fn create_dir(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        fs::create_dir(&dir).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::invalid(format!("{} is there already", dir.display()))
            }
            _ => failed("making", &dir)(e),
        })?;
        for name in ["batches", "checkpoints"] {
            let path = dir.join(name);
            fs::create_dir(&path).map_err(failed("making", &path))?;
        }
        sync_dir(&dir).map_err(failed("syncing", &dir))?;
        Self::open(dir)
    }

    /// Opens a directory that [`DirStore::create_dir`] made.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it isn't there.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        if !dir.join("batches").is_dir() {
            return Err(Error::not_found(format!(
                "{} is not the directory of a store",
                dir.display()
            )));
        }
        Ok(Self {
            dir,
            cache: Arc::default(),
        })
    }

    /// Runs what blocks apart from the async runtime, on a cache that has read all that is there. A caller who stops
    /// waiting doesn't stop it.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self, &mut Cache) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut cache = this.cache.lock().unwrap_or_else(PoisonError::into_inner);
            this.catch_up(&mut cache)?;
            work(&this, &mut cache)
        })
        .await
        .map_err(|e| Error::new(ErrorKind::Unknown, "the runtime was stopped").because(e))?
    }

    /// The same for a change: alone, and with whatever others changed before.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self, &mut Cache) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(|this, cache| {
            let _lock = this.lock("write.lock", File::lock)?;
            this.catch_up(cache)?;
            work(this, cache)
        })
        .await
    }

    fn lock(&self, name: &str, lock: impl Fn(&File) -> io::Result<()>) -> Result<File> {
        let path = self.dir.join(name);
        let file = open_lock(&path)?;
        lock(&file).map_err(failed("locking", &path))?;
        Ok(file)
    }

    fn batch_path(&self, first: u64) -> PathBuf {
        self.dir.join("batches").join(format!("{first:020}.batch"))
    }

    fn checkpoint_path(&self, size: u64) -> PathBuf {
        self.dir.join("checkpoints").join(format!("{size:020}"))
    }

    /// Reads the batches that others appended; all of them, if something was rewritten.
    fn catch_up(&self, cache: &mut Cache) -> Result<()> {
        let path = self.dir.join("generation");
        let generation = read_if_there(&path)?.unwrap_or_default();
        if generation != cache.generation {
            *cache = Cache {
                generation,
                ..Cache::default()
            };
        }
        loop {
            let first = cache.rows.len() as u64;
            let Some(bytes) = read_if_there(&self.batch_path(first))? else {
                return Ok(());
            };
            let (rows, keys) = decode(&bytes, first)?;
            cache.add(first, rows, keys);
        }
    }

    /// Writes a file whole: under another name, synced, renamed, and the rename synced.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temporary = path.with_extension("tmp");
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        // Dying before this point leaves a file that nobody reads, and the next writer overwrites it.
        written.map_err(failed("writing", &temporary))?;
        fs::rename(&temporary, path).map_err(failed("renaming to", path))?;
        // From here on others see it. If the directory can't be synced, a power cut may still take it away.
        let dir = path.parent().unwrap_or(&self.dir);
        sync_dir(dir).map_err(|e| {
            Error::new(
                ErrorKind::Unknown,
                format!("{} can't be synced", dir.display()),
            )
            .because(e)
        })
    }

    /// Writes batch files anew, each through `edit`.
    fn rewrite(
        &self,
        cache: &mut Cache,
        batches: &BTreeSet<u64>,
        mut edit: impl FnMut(&mut Vec<Row>, &mut Vec<KeyRecord>),
    ) -> Result<()> {
        if batches.is_empty() {
            return Ok(());
        }
        // Before and after: whoever reads in between reads again.
        self.next_generation(cache)?;
        for first in batches {
            let path = self.batch_path(*first);
            let bytes = fs::read(&path).map_err(failed("reading", &path))?;
            let (mut rows, mut keys) = decode(&bytes, *first)?;
            edit(&mut rows, &mut keys);
            // A file that can be seen and may not be synced yet is finished by repeating.
            self.write(&path, &encode(&rows, &keys)?)
                .map_err(|e| Error::unavailable("the batch wasn't written anew").because(e))?;
        }
        self.next_generation(cache)?;
        self.catch_up(cache)
    }

    fn next_generation(&self, cache: &Cache) -> Result<()> {
        let path = self.dir.join("generation");
        let now = read_if_there(&path)?.unwrap_or_else(|| cache.generation.clone());
        let number: u64 = match std::str::from_utf8(&now) {
            Ok("") => 0,
            Ok(text) => text
                .parse()
                .map_err(|e| Error::corrupt("the generation is no number").because(e))?,
            Err(e) => return Err(Error::corrupt("the generation is no text").because(e)),
        };
        self.write(&path, (number + 1).to_string().as_bytes())
            .map_err(|e| Error::unavailable("the generation wasn't written").because(e))
    }
}

impl Cache {
    fn size(&self) -> u64 {
        self.rows.len() as u64
    }

    fn head(&self) -> Head {
        Head {
            size: self.size(),
            edge: self.edge.clone(),
        }
    }

    fn add(&mut self, first: u64, rows: Vec<Row>, keys: Vec<KeyRecord>) {
        self.batches.insert(first);
        for mut row in rows {
            row.parts = None;
            self.events.insert(row.columns.event, row.index);
            let tokens = row.tokens.iter().flat_map(|set| &set.tokens);
            self.tokens.extend(tokens.map(|token| (*token, row.index)));
            self.edge.push(leaf_hash(&row.entry));
            self.rows.push(row);
        }
        for tile in self.edge.take_changed() {
            self.tiles.insert((tile.id.level, tile.id.index), tile);
        }
        self.keys
            .extend(keys.into_iter().map(|key| (key.id, (key, first))));
    }

    /// The batch that holds an index.
    fn batch_of(&self, index: u64) -> Option<u64> {
        (index < self.size())
            .then(|| self.batches.range(..=index).next_back().copied())
            .flatten()
    }

    /// Holds a batch against the head, and against itself.
    fn check(&self, batch: &Batch) -> Result<()> {
        if batch.rows.is_empty() {
            return Err(Error::invalid("the batch has no rows"));
        }
        let mut edge = self.edge.clone();
        let mut events = BTreeSet::new();
        for (row, index) in batch.rows.iter().zip(self.size()..) {
            let event = row.columns.event;
            if row.index != index {
                return Err(Error::invalid(format!(
                    "a row has index {}, not {index}",
                    row.index
                )));
            }
            if self.events.contains_key(&event) || !events.insert(event) {
                return Err(Error::invalid(format!(
                    "event {event} is already in the log"
                )));
            }
            if columns(&row.entry)? != row.columns {
                return Err(Error::invalid("the columns are not the entry's").at(index));
            }
            edge.push(leaf_hash(&row.entry));
        }
        let sorted = |mut tiles: Vec<Tile>| {
            tiles.sort_by_key(|tile| (tile.id.level, tile.id.index));
            tiles
        };
        if sorted(edge.take_changed()) != sorted(batch.tiles.clone()) {
            return Err(Error::invalid(
                "the tiles of the batch are not those that its entries make",
            ));
        }
        match batch.keys.iter().find(|k| self.keys.contains_key(&k.id)) {
            Some(key) => Err(Error::invalid(format!(
                "data key {} already has a record",
                key.id
            ))),
            None => Ok(()),
        }
    }

    fn matches(&self, row: &Row, query: &Query) -> bool {
        query.indexes.contains(&row.index)
            && query
                .tokens
                .iter()
                .all(|token| self.tokens.contains(&(*token, row.index)))
            && query.kind.as_ref().is_none_or(|k| *k == row.columns.kind)
            && query.from.is_none_or(|from| row.columns.time >= from)
            && query.until.is_none_or(|until| row.columns.time < until)
    }
}

#[async_trait]
impl ReadStore for DirStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            engine: "directory",
            several_writers: true,
            retention_lock: false,
            erases_parts: true,
            linger: None,
        }
    }

    async fn description(&self) -> Result<Option<Description>> {
        self.run(|this, _| this.origin()).await.map(|origin| {
            origin.map(|origin| Description {
                origin,
                layout: 1,
                retention_lock: None,
            })
        })
    }

    async fn head(&self) -> Result<Head> {
        self.run(|_, cache| Ok(cache.head())).await
    }

    async fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        self.run(move |this, cache| {
            let mut out = Vec::new();
            let mut bytes = 0;
            let mut at = range.start;
            while let Some(first) = cache.batch_of(at).filter(|_| at < range.end) {
                let batch = match parts {
                    Parts::With => {
                        let path = this.batch_path(first);
                        decode(&fs::read(&path).map_err(failed("reading", &path))?, first)?.0
                    }
                    Parts::Without => {
                        let next = cache.batches.range(first + 1..).next();
                        let end = next.copied().unwrap_or(cache.size());
                        let within = |index: u64| usize::try_from(index).unwrap_or(usize::MAX);
                        cache.rows[within(first)..within(end)].to_vec()
                    }
                };
                for row in batch {
                    if row.index < at || row.index >= range.end {
                        continue;
                    }
                    bytes += row.entry.len() + row.parts.as_ref().map_or(0, Vec::len);
                    if bytes > ROWS_BYTES && !out.is_empty() {
                        return Ok(out);
                    }
                    at = row.index + 1;
                    out.push(row);
                }
            }
            Ok(out)
        })
        .await
    }

    async fn integrity(&self) -> Result<()> {
        // There is no index beside the files that could disagree with them, and reading them is what `run` does.
        self.run(|_, _| Ok(())).await
    }

    async fn position(&self, event: Uuid) -> Result<Option<u64>> {
        self.run(move |this, cache| {
            // An append that is under way in another process has to end first.
            let _lock = this.lock("write.lock", File::lock_shared)?;
            this.catch_up(cache)?;
            Ok(cache.events.get(&event).copied())
        })
        .await
    }

    async fn find(&self, query: &Query) -> Result<Vec<u64>> {
        let query = query.clone();
        self.run(move |_, cache| {
            let found = cache.rows.iter().filter(|row| cache.matches(row, &query));
            let indexes = found.map(|row| row.index);
            Ok(if query.descending {
                indexes.rev().take(query.limit).collect()
            } else {
                indexes.take(query.limit).collect()
            })
        })
        .await
    }

    async fn token_rows(
        &self,
        after: Option<(Token, u64)>,
        limit: usize,
    ) -> Result<Vec<(Token, u64)>> {
        self.run(move |_, cache| {
            let rows = cache.tokens.iter().copied();
            let beyond = rows.filter(|row| after.is_none_or(|after| *row > after));
            Ok(beyond.take(limit).collect())
        })
        .await
    }

    async fn tile(&self, id: TileId) -> Result<Option<Vec<Hash>>> {
        self.run(move |_, cache| {
            let tile = cache.tiles.get(&(id.level, id.index));
            let hashes = tile.and_then(|tile| tile.hashes.get(..usize::from(id.width)));
            Ok(hashes.map(<[Hash]>::to_vec))
        })
        .await
    }

    async fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        self.run(move |_, cache| {
            let tiles = cache.tiles.range((level, 0)..=(level, u64::MAX));
            let beyond = tiles.filter(|((_, index), _)| after.is_none_or(|after| *index > after));
            Ok(beyond.map(|(_, tile)| tile.clone()).take(limit).collect())
        })
        .await
    }

    async fn latest_checkpoint(&self) -> Result<Option<Vec<u8>>> {
        self.run(|this, _| match this.checkpoint_sizes()?.last() {
            Some(size) => read_if_there(&this.checkpoint_path(*size)),
            None => Ok(None),
        })
        .await
    }

    async fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        self.run(move |this, _| {
            let sizes = this.checkpoint_sizes()?.into_iter();
            sizes
                .filter(|size| *size > after)
                .take(limit)
                .map(|size| {
                    let path = this.checkpoint_path(size);
                    let note = fs::read(&path).map_err(failed("reading", &path))?;
                    Ok((size, note))
                })
                .collect()
        })
        .await
    }

    async fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        self.run(move |_, cache| Ok(cache.keys.get(&id).map(|(key, _)| key.clone())))
            .await
    }

    async fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        self.run(move |_, cache| {
            let keys = cache.keys.values().map(|(key, _)| key);
            let beyond = keys.filter(|key| after.is_none_or(|after| key.id > after));
            Ok(beyond.take(limit).cloned().collect())
        })
        .await
    }

    async fn keys_of_scope(&self, scope: Token) -> Result<Vec<KeyRecord>> {
        self.run(move |_, cache| {
            let keys = cache.keys.values().map(|(key, _)| key);
            Ok(keys.filter(|key| key.scope == scope).cloned().collect())
        })
        .await
    }

    async fn wait_beyond(&self, size: u64) -> Result<()> {
        for _ in 0..10 {
            if self.run(|_, cache| Ok(cache.size())).await? > size {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Store for DirStore {
    async fn create(&self, origin: &str) -> Result<()> {
        check_origin(origin)?;
        let origin = origin.to_owned();
        self.change(move |this, _| match this.origin()? {
            Some(there) => Err(Error::invalid(format!(
                "this already is the store of the log {there:?}"
            ))),
            None => this.write(&this.dir.join("origin"), origin.as_bytes()),
        })
        .await
    }

    async fn append(&self, mut build: Build) -> Result<Head> {
        self.change(move |this, cache| {
            if this.origin()?.is_none() {
                return Err(Error::invalid("this is not the store of a log yet"));
            }
            let batch = build(&cache.head())?;
            cache.check(&batch)?;
            let first = cache.size();
            let bytes = encode(&batch.rows, &batch.keys)?;
            this.write(&this.batch_path(first), &bytes)?;
            cache.add(first, batch.rows, batch.keys);
            Ok(cache.head())
        })
        .await
    }

    async fn put_checkpoint(&self, size: u64, note: &[u8]) -> Result<()> {
        let note = note.to_vec();
        self.change(move |this, cache| {
            if size == 0 || size > cache.size() {
                return Err(Error::invalid(format!(
                    "a checkpoint of tree size {size} in a log of {} entries",
                    cache.size()
                )));
            }
            let path = this.checkpoint_path(size);
            match read_if_there(&path)? {
                Some(there) if there == note => Ok(()),
                Some(_) => Err(Error::invalid(format!(
                    "there is another checkpoint of tree size {size}"
                ))),
                None => this.write(&path, &note),
            }
        })
        .await
    }

    async fn publisher_lease(&self) -> Result<Option<Box<dyn Lease>>> {
        self.run(|this, _| {
            let path = this.dir.join("publish.lock");
            let file = open_lock(&path)?;
            match file.try_lock() {
                Ok(()) => Ok(Some(Box::new(DirLease { _file: file }) as Box<dyn Lease>)),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(e)) => Err(failed("locking", &path)(e)),
            }
        })
        .await
    }

    async fn rewrap(&self, records: &[KeyRecord]) -> Result<()> {
        let records: BTreeMap<Uuid, KeyRecord> =
            records.iter().map(|r| (r.id, r.clone())).collect();
        self.change(move |this, cache| {
            let mut batches = BTreeSet::new();
            for id in records.keys() {
                let (_, first) = cache
                    .keys
                    .get(id)
                    .ok_or_else(|| Error::invalid(format!("data key {id} has no record")))?;
                batches.insert(*first);
            }
            this.rewrite(cache, &batches, |_, keys| {
                for key in keys {
                    if let Some(record) = records.get(&key.id) {
                        *key = record.clone();
                    }
                }
            })
        })
        .await
    }

    async fn erase(&self, keys: &[Uuid], indexes: &[u64]) -> Result<()> {
        let (gone, indexes) = (keys.to_vec(), indexes.to_vec());
        self.change(move |this, cache| {
            let of_rows = indexes.iter().filter_map(|index| cache.batch_of(*index));
            let of_keys = gone.iter().filter_map(|id| Some(cache.keys.get(id)?.1));
            let batches: BTreeSet<u64> = of_rows.chain(of_keys).collect();
            this.rewrite(cache, &batches, |rows, keys| {
                keys.retain(|key| !gone.contains(&key.id));
                for row in rows.iter_mut().filter(|r| indexes.contains(&r.index)) {
                    row.tokens = None;
                    row.parts = None;
                }
            })
        })
        .await
    }
}

impl DirStore {
    fn origin(&self) -> Result<Option<String>> {
        read_if_there(&self.dir.join("origin"))?
            .map(|bytes| {
                String::from_utf8(bytes)
                    .map_err(|e| Error::corrupt("the origin is no text").because(e))
            })
            .transpose()
    }

    /// Tree sizes of the checkpoints, ascending.
    fn checkpoint_sizes(&self) -> Result<Vec<u64>> {
        let dir = self.dir.join("checkpoints");
        let mut sizes = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed("listing", &dir))? {
            let name = entry.map_err(failed("listing", &dir))?.file_name();
            // What has no number for a name is a file that was being written.
            sizes.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        sizes.sort_unstable();
        Ok(sizes)
    }
}

/// The publisher's lease; the operating system takes the lock back when the file is closed or its process dies.
#[derive(Debug)]
struct DirLease {
    _file: File,
}

#[async_trait]
impl Lease for DirLease {
    async fn held(&self) -> Result<bool> {
        Ok(true)
    }

    // Dropping it does so at once.
    async fn release(&self) {}
}

fn columns(entry: &[u8]) -> Result<Columns> {
    let entry = Entry::decode(entry)?;
    Ok(Columns {
        event: entry.event,
        kind: entry.kind,
        time: entry.time,
    })
}

fn encode(rows: &[Row], keys: &[KeyRecord]) -> Result<Vec<u8>> {
    let rows_stored = rows.iter().map(|row| {
        let entry = String::from_utf8(row.entry.clone()).map_err(|e| {
            Error::invalid("an entry is no text")
                .at(row.index)
                .because(e)
        })?;
        Ok(StoredRow {
            entry,
            salt: row.tokens.as_ref().map(|set| set.salt),
            tokens: row.tokens.as_ref().map(|set| set.tokens.clone()),
            parts_bytes: row.parts.as_ref().map(|parts| parts.len() as u64),
        })
    });
    let keys = keys.iter().map(|key| StoredKey {
        id: key.id,
        scope: key.scope,
        run: key.run,
        generation: key.generation,
        wrapped: Hex(key.wrapped),
    });
    let header = Header {
        rows: rows_stored.collect::<Result<_>>()?,
        keys: keys.collect(),
    };
    let mut bytes = canonical::to_vec(&header)?;
    bytes.push(b'\n');
    for row in rows {
        bytes.extend(row.parts.iter().flatten());
    }
    Ok(bytes)
}

/// Reads a batch file that anybody may have changed: nothing in it is trusted, and nothing may be left over.
fn decode(bytes: &[u8], first: u64) -> Result<(Vec<Row>, Vec<KeyRecord>)> {
    let bad = |what: &str| Error::corrupt(format!("a batch file {what}")).at(first);
    let end = bytes
        .iter()
        .position(|b| *b == b'\n')
        .ok_or_else(|| bad("has no first line"))?;
    let (line, rest) = bytes.split_at(end);
    let header: Header =
        serde_json::from_slice(line).map_err(|e| bad("has a wrong first line").because(e))?;
    if header.rows.is_empty() {
        return Err(bad("has no rows"));
    }
    let mut rest = rest.get(1..).unwrap_or_default();
    let mut rows = Vec::new();
    for (stored, index) in header.rows.into_iter().zip(first..) {
        let entry = stored.entry.into_bytes();
        let tokens = match (stored.salt, stored.tokens) {
            (Some(salt), Some(tokens)) => Some(TokenSet { salt, tokens }),
            (None, None) => None,
            _ => return Err(bad("has tokens without a salt").at(index)),
        };
        let parts = match stored.parts_bytes {
            None => None,
            Some(length) => {
                let split = usize::try_from(length)
                    .ok()
                    .and_then(|length| rest.split_at_checked(length));
                let (parts, more) = split.ok_or_else(|| bad("ends within its parts").at(index))?;
                rest = more;
                Some(parts.to_vec())
            }
        };
        rows.push(Row {
            index,
            columns: columns(&entry).map_err(|e| Error::corrupt(e.to_string()).at(index))?,
            entry,
            tokens,
            parts,
        });
    }
    if !rest.is_empty() {
        return Err(bad("has bytes behind its parts"));
    }
    let keys = header.keys.into_iter().map(|key| KeyRecord {
        id: key.id,
        scope: key.scope,
        run: key.run,
        generation: key.generation,
        wrapped: key.wrapped.0,
    });
    Ok((rows, keys.collect()))
}

/// An error of the file system; nothing was written.
fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.display().to_string();
    move |e| Error::unavailable(format!("{doing} {path}")).because(e)
}

fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .open(path)
        .map_err(failed("opening", path))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("reading", path)(e)),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
