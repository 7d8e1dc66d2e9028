//! A store in memory that holds the contract, and its caller, strictly.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use audit_core::datakey::KeyRecord;
use audit_core::entry::{Entry, KeyDigest, check_origin};
use audit_core::store::{
    Batch, Build, Capabilities, Columns, Description, Head, Lease, Parts, Query, ReadStore, Row,
    Store, Tile,
};
use audit_core::token::{Token, TokenSet};
use audit_core::{Error, Result};
use audit_tlog::Hash;
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::{EdgeTiles, TileId, TileMap};
use tokio::sync::watch;
use uuid::Uuid;

use crate::conformance::Backend;
use crate::forward::Seen;
use crate::ledger::Ledger;

/// Bytes of entries, tokens and parts that one call of `rows` collects.
const ROWS_BYTES: usize = 4 * 1024 * 1024;

/// Everything a store holds. Tests that play the attacker take it out, change it and put it back.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "tests change every part of it, and must notice new ones"
)]
pub struct Contents {
    /// The log's origin.
    pub origin: Option<String>,
    /// The entries.
    pub rows: Vec<Row>,
    /// Token rows.
    pub tokens: BTreeSet<(Token, u64)>,
    /// Tiles by level and index.
    pub tiles: BTreeMap<(u8, u64), Vec<Hash>>,
    /// Checkpoints by tree size.
    pub checkpoints: BTreeMap<u64, Vec<u8>>,
    /// Data-key records by id.
    pub keys: BTreeMap<Uuid, KeyRecord>,
}

/// A store in memory. Clones are handles on the same store, as two processes would have.
///
/// It refuses, as [`ErrorKind::Invalid`](audit_core::ErrorKind::Invalid), what other stores may let pass: entries that
/// aren't canonical, columns, tokens, parts and keys that differ from what the entry says of them, and tiles other than
/// the ones that the entries make. Tokens and parts may be missing, as in a copy of a log, where the data key's record is
/// missing too.
///
/// It panics, then and at every later call, if anything that was committed or answered is ever answered otherwise
/// ([`Ledger`]): entries, checkpoints, hashes in tiles and key records don't change, and only [`Store::erase`] removes.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    /// `None`: nothing is expected of what it answers.
    ledger: Arc<Mutex<Option<Arc<Ledger>>>>,
    contents: Arc<Mutex<Contents>>,
    leased: Arc<AtomicBool>,
    grown: watch::Sender<u64>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self {
            ledger: Arc::new(Mutex::new(Some(Arc::default()))),
            contents: Arc::default(),
            leased: Arc::default(),
            grown: watch::Sender::new(0),
        }
    }
}

impl MemoryStore {
    /// A store on which no log has been created.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A store as somebody left it who can write to it. Its contents may contradict themselves, so nothing is expected of
    /// what it answers.
    #[must_use]
    pub fn tampered(contents: Contents) -> Self {
        Self {
            ledger: Arc::default(),
            contents: Arc::new(Mutex::new(contents)),
            ..Self::default()
        }
    }

    /// A copy of all that is stored.
    #[must_use]
    pub fn contents(&self) -> Contents {
        let contents = self.locked();
        if let Some(ledger) = self.ledger() {
            ledger.check();
        }
        contents.clone()
    }

    /// Puts other contents into the store, as an attacker or a restored backup would. What was answered before is no
    /// measure any more for what is answered from then on.
    pub fn replace(&self, contents: Contents) {
        let mut locked = self.locked();
        *locked = contents;
        if let Some(ledger) = &mut *self.ledger.lock().unwrap_or_else(PoisonError::into_inner) {
            *ledger = Arc::default();
        }
    }

    /// Holds what is answered against what was answered before. To be called with the contents locked.
    fn sees(&self, seen: Seen<'_>) {
        if let Some(ledger) = self.ledger() {
            ledger.compare(seen);
        }
    }

    fn ledger(&self) -> Option<Arc<Ledger>> {
        self.ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn locked(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn size(&self) -> u64 {
        self.rows.len() as u64
    }

    fn row(&self, index: u64) -> Option<&Row> {
        self.rows.get(usize::try_from(index).ok()?)
    }

    fn head(&self) -> Result<Head> {
        let map: TileMap = self
            .tiles
            .iter()
            .filter_map(|((level, index), hashes)| {
                let id = TileId::new(*level, *index, u16::try_from(hashes.len()).ok()?).ok()?;
                let hashes = hashes.clone();
                Some(Tile { id, hashes })
            })
            .collect();
        let size = self.size();
        let edge = EdgeTiles::from_reader(size, &map).map_err(|e| {
            Error::corrupt("the stored tiles don't make the edge of the tree")
                .at(size)
                .because(e)
        })?;
        Ok(Head { size, edge })
    }

    /// Holds a batch against the head, and against itself.
    fn check(&self, batch: &Batch, head: &Head) -> Result<()> {
        if batch.rows.is_empty() {
            return Err(Error::invalid("the batch has no rows"));
        }
        let mut edge = head.edge.clone();
        drop(edge.take_changed());
        let mut events = BTreeSet::new();
        let mut named = Vec::new();
        let mut used = BTreeSet::new();
        // A copy of a log has rows whose content was erased: then their key was destroyed.
        let destroyed = |entry: &Entry| {
            entry.key.is_some_and(|id| {
                !self.keys.contains_key(&id) && batch.keys.iter().all(|key| key.id != id)
            })
        };
        for (row, index) in batch.rows.iter().zip(head.size..) {
            let broken = |what: &str| Err(Error::invalid(what.to_owned()).at(index));
            if row.index != index {
                return Err(Error::invalid(format!(
                    "a row has index {}, not {index}",
                    row.index
                )));
            }
            let event = row.columns.event;
            if !events.insert(event) || self.rows.iter().any(|r| r.columns.event == event) {
                return Err(Error::invalid(format!(
                    "event {event} is already in the log"
                )));
            }
            let entry = Entry::decode(&row.entry)
                .map_err(|e| Error::invalid("the batch has a malformed entry").because(e))?;
            let columns = Columns {
                event: entry.event,
                kind: entry.kind.clone(),
                time: entry.time,
            };
            if columns != row.columns {
                return broken("the columns are not the entry's");
            }
            if let Some(set) = &row.tokens
                && !set.tokens.is_sorted_by(|a, b| a < b)
            {
                return broken("the tokens are not sorted");
            }
            let erased = destroyed(&entry);
            if row.tokens.as_ref().map(TokenSet::digest) != entry.tokens
                && !(erased && row.tokens.is_none())
            {
                return broken("the tokens are not the entry's");
            }
            match (&row.parts, &entry.content) {
                (None, None) => {}
                (None, Some(_)) if erased => {}
                (Some(parts), Some(_)) => drop(
                    entry
                        .split_parts(parts)
                        .map_err(|e| Error::invalid("the parts don't fit").because(e))?,
                ),
                _ => return broken("parts without content, or content without parts"),
            }
            named.extend(entry.keys.into_iter().flatten());
            // Whoever brings content brings the key's record.
            if row.tokens.is_some() || row.parts.is_some() {
                used.extend(entry.key);
            }
            edge.push(leaf_hash(&row.entry));
        }
        let mut keys: Vec<_> = batch.keys.iter().map(KeyRecord::digest).collect();
        keys.sort_unstable_by_key(|key| key.id);
        // A copy leaves the records of destroyed keys out, and has later generations of others.
        named.retain(|named| {
            used.contains(&named.id) || keys.binary_search_by_key(&named.id, |key| key.id).is_ok()
        });
        named.sort_unstable_by_key(|key| key.id);
        let fits = |named: &KeyDigest, key: &KeyDigest| {
            let generation = batch.keys.iter().find(|record| record.id == key.id);
            named == key
                || named.id == key.id && generation.is_some_and(|record| record.generation > 1)
        };
        if keys.len() != named.len() || !named.iter().zip(&keys).all(|(n, k)| fits(n, k)) {
            return Err(Error::invalid(
                "the data keys of the batch are not those that its entries name",
            ));
        }
        if let Some(key) = keys.iter().find(|key| self.keys.contains_key(&key.id)) {
            return Err(Error::invalid(format!(
                "data key {} already has a record",
                key.id
            )));
        }
        let by_id = |tiles: &[Tile]| -> BTreeMap<TileId, Vec<Hash>> {
            tiles.iter().map(|t| (t.id, t.hashes.clone())).collect()
        };
        if by_id(&batch.tiles) != by_id(&edge.take_changed()) {
            return Err(Error::invalid(
                "the tiles of the batch are not those that its entries make",
            ));
        }
        Ok(())
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
#[deny(clippy::missing_trait_methods)]
impl ReadStore for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            engine: "memory",
            several_writers: true,
            retention_lock: false,
            erases_parts: true,
            linger: None,
        }
    }

    async fn description(&self) -> Result<Option<Description>> {
        Ok(self.locked().origin.clone().map(|origin| Description {
            origin,
            layout: 1,
            retention_lock: None,
        }))
    }

    async fn head(&self) -> Result<Head> {
        let contents = self.locked();
        let head = contents.head()?;
        self.sees(Seen::Head(&head));
        Ok(head)
    }

    async fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        let contents = self.locked();
        let mut out = Vec::new();
        let mut bytes = 0;
        for index in range.start..range.end.min(contents.size()) {
            let Some(row) = contents.row(index) else {
                break;
            };
            let mut row = row.clone();
            if parts == Parts::Without {
                row.parts = None;
            }
            bytes += row.entry.len() + row.parts.as_ref().map_or(0, Vec::len);
            if bytes > ROWS_BYTES && !out.is_empty() {
                break;
            }
            out.push(row);
        }
        self.sees(Seen::Rows(&out, parts));
        Ok(out)
    }

    async fn integrity(&self) -> Result<()> {
        // Rows where none can be, which no other call reads.
        let contents = self.locked();
        if contents.checkpoints.contains_key(&0) {
            return Err(Error::corrupt("the store has a checkpoint of size 0"));
        }
        if let Some((level, index)) = contents.tiles.keys().find(|(level, _)| *level > 7) {
            return Err(Error::corrupt(format!(
                "the store has a tile {level}/{index}, where no row can be"
            )));
        }
        Ok(())
    }

    async fn position(&self, event: Uuid) -> Result<Option<u64>> {
        let contents = self.locked();
        let found = contents.rows.iter().find(|row| row.columns.event == event);
        let found = found.map(|row| row.index);
        self.sees(Seen::Position(event, found));
        Ok(found)
    }

    async fn find(&self, query: &Query) -> Result<Vec<u64>> {
        let contents = self.locked();
        let found = contents
            .rows
            .iter()
            .filter(|row| contents.matches(row, query));
        let indexes = found.map(|row| row.index);
        Ok(if query.descending {
            indexes.rev().take(query.limit).collect()
        } else {
            indexes.take(query.limit).collect()
        })
    }

    async fn token_rows(
        &self,
        after: Option<(Token, u64)>,
        limit: usize,
    ) -> Result<Vec<(Token, u64)>> {
        let contents = self.locked();
        let rows = contents.tokens.iter().copied();
        Ok(rows
            .filter(|row| after.is_none_or(|after| *row > after))
            .take(limit)
            .collect())
    }

    async fn tile(&self, id: TileId) -> Result<Option<Vec<Hash>>> {
        let contents = self.locked();
        let stored = contents.tiles.get(&(id.level, id.index));
        let hashes = stored.and_then(|hashes| hashes.get(..usize::from(id.width)));
        if let Some(hashes) = hashes {
            self.sees(Seen::Tile(id, hashes));
        }
        Ok(hashes.map(<[Hash]>::to_vec))
    }

    async fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        let contents = self.locked();
        contents
            .tiles
            .iter()
            .filter(|((at, index), _)| *at == level && after.is_none_or(|after| *index > after))
            .take(limit)
            .map(|((level, index), hashes)| {
                let wrong = format!("tile {level}/{index} has {} hashes", hashes.len());
                let width = u16::try_from(hashes.len())
                    .map_err(|e| Error::corrupt(wrong.clone()).because(e))?;
                let id = TileId::new(*level, *index, width)
                    .map_err(|e| Error::corrupt(wrong).because(e))?;
                self.sees(Seen::Tile(id, hashes));
                let hashes = hashes.clone();
                Ok(Tile { id, hashes })
            })
            .collect()
    }

    async fn latest_checkpoint(&self) -> Result<Option<Vec<u8>>> {
        let contents = self.locked();
        let latest = contents.checkpoints.last_key_value();
        if let Some((size, note)) = latest {
            self.sees(Seen::Checkpoint(Some(*size), note));
        }
        Ok(latest.map(|(_, note)| note.clone()))
    }

    async fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        let contents = self.locked();
        let found = contents
            .checkpoints
            .iter()
            .filter(|(size, _)| **size > after);
        Ok(found
            .take(limit)
            .inspect(|(size, note)| self.sees(Seen::Checkpoint(Some(**size), note)))
            .map(|(size, note)| (*size, note.clone()))
            .collect())
    }

    async fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        let contents = self.locked();
        let record = contents.keys.get(&id);
        self.sees(Seen::Key(id, record));
        Ok(record.cloned())
    }

    async fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        let contents = self.locked();
        let found = contents.keys.values();
        Ok(found
            .filter(|key| after.is_none_or(|after| key.id > after))
            .take(limit)
            .inspect(|key| self.sees(Seen::Key(key.id, Some(key))))
            .cloned()
            .collect())
    }

    async fn keys_of_scope(&self, scope: Token) -> Result<Vec<KeyRecord>> {
        let contents = self.locked();
        let found = contents.keys.values().filter(|key| key.scope == scope);
        Ok(found.cloned().collect())
    }

    async fn wait_beyond(&self, size: u64) -> Result<()> {
        let mut grown = self.grown.subscribe();
        // Running out of time is one of the two ways in which this ends.
        drop(tokio::time::timeout(Duration::from_secs(1), grown.wait_for(|now| *now > size)).await);
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for MemoryStore {
    async fn create(&self, origin: &str) -> Result<()> {
        check_origin(origin)?;
        let mut contents = self.locked();
        if let Some(there) = &contents.origin {
            return Err(Error::invalid(format!(
                "this already is the store of the log {there:?}"
            )));
        }
        contents.origin = Some(origin.to_owned());
        Ok(())
    }

    async fn append(&self, mut build: Build) -> Result<Head> {
        let mut contents = self.locked();
        if contents.origin.is_none() {
            return Err(Error::invalid("this is not the store of a log yet"));
        }
        let head = contents.head()?;
        self.sees(Seen::Head(&head));
        let batch = build(&head)?;
        contents.check(&batch, &head)?;
        self.sees(Seen::Rows(&batch.rows, Parts::With));
        for row in batch.rows {
            for token in row.tokens.iter().flat_map(|set| &set.tokens) {
                contents.tokens.insert((*token, row.index));
            }
            contents.rows.push(row);
        }
        for tile in batch.tiles {
            self.sees(Seen::Tile(tile.id, &tile.hashes));
            contents
                .tiles
                .insert((tile.id.level, tile.id.index), tile.hashes);
        }
        for key in batch.keys {
            self.sees(Seen::Key(key.id, Some(&key)));
            contents.keys.insert(key.id, key);
        }
        let head = contents.head()?;
        self.sees(Seen::Head(&head));
        self.grown.send_replace(head.size);
        Ok(head)
    }

    async fn put_checkpoint(&self, size: u64, note: &[u8]) -> Result<()> {
        let mut contents = self.locked();
        if size == 0 || size > contents.size() {
            return Err(Error::invalid(format!(
                "a checkpoint of tree size {size} in a log of {} entries",
                contents.size()
            )));
        }
        let there = contents
            .checkpoints
            .entry(size)
            .or_insert_with(|| note.to_vec());
        if there == note {
            self.sees(Seen::Checkpoint(Some(size), note));
            Ok(())
        } else {
            Err(Error::invalid(format!(
                "there is another checkpoint of tree size {size}"
            )))
        }
    }

    async fn publisher_lease(&self) -> Result<Option<Box<dyn Lease>>> {
        let taken = self.leased.swap(true, Ordering::SeqCst);
        Ok((!taken).then(|| Box::new(MemoryLease(Arc::clone(&self.leased))) as Box<dyn Lease>))
    }

    async fn rewrap(&self, records: &[KeyRecord]) -> Result<()> {
        let mut contents = self.locked();
        if let Some(record) = records.iter().find(|r| !contents.keys.contains_key(&r.id)) {
            return Err(Error::invalid(format!(
                "data key {} has no record",
                record.id
            )));
        }
        self.sees(Seen::Rewrapping(records));
        for record in records {
            self.sees(Seen::Key(record.id, Some(record)));
            contents.keys.insert(record.id, record.clone());
        }
        Ok(())
    }

    async fn erase(&self, keys: &[Uuid], indexes: &[u64]) -> Result<()> {
        let mut contents = self.locked();
        self.sees(Seen::Erasing(keys, indexes));
        contents.keys.retain(|id, _| !keys.contains(id));
        contents
            .tokens
            .retain(|(_, index)| !indexes.contains(index));
        for row in &mut contents.rows {
            if indexes.contains(&row.index) {
                row.tokens = None;
                row.parts = None;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryLease(Arc<AtomicBool>);

impl Drop for MemoryLease {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[async_trait]
impl Lease for MemoryLease {
    async fn held(&self) -> Result<bool> {
        Ok(true)
    }

    // Dropping it does so at once.
    async fn release(&self) {}
}

/// The conformance suite's way to a [`MemoryStore`].
#[derive(Debug, Default)]
pub struct MemoryBackend(Mutex<MemoryStore>);

impl MemoryBackend {
    fn handle(&self) -> Arc<dyn Store> {
        Arc::new(
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        )
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    async fn fresh(&self) -> Arc<dyn Store> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = MemoryStore::new();
        self.handle()
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        self.handle()
    }
}
