//! The read handle: everything that can be done with a log without writing it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use audit_tlog::checkpoint::{self, Checkpoint};
use audit_tlog::proof;
use audit_tlog::tile::{EdgeTiles, TileId, TileMap};
use audit_tlog::tlog_proof::TlogProof;
use uuid::Uuid;

use crate::datakey::DataKey;
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::event::Kind;
use crate::keyring::KeyRing;
use crate::seal::{self, Opened};
use crate::store::{Parts, Query, ReadStore, Row, Tile};
use crate::time::Timestamp;

/// Data keys kept unwrapped in memory.
const KEYS_MAX: usize = 1024;

/// Which events to find; what is given must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// In this session.
    pub session: Option<String>,
    /// By this actor.
    pub actor: Option<String>,
    /// About this data subject.
    pub subject: Option<String>,
    /// Referring to this: name and value.
    pub refs: BTreeMap<String, String>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// With a caller's time at or after this.
    pub from: Option<Timestamp>,
    /// With a caller's time before this.
    pub until: Option<Timestamp>,
}

/// An entry, and its content as far as it is there.
#[derive(Debug, Clone)]
pub struct Record {
    /// The leaf index.
    pub index: u64,
    /// The canonical bytes of the entry.
    pub bytes: Vec<u8>,
    /// The entry.
    pub entry: Entry,
    /// The content.
    pub content: RecordContent,
}

/// What is left of an event's content.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RecordContent {
    /// The event has none.
    None,
    /// Decrypted, and checked against the entry.
    Open(Box<Opened>),
    /// Its data key or its parts are gone.
    Gone,
}

/// Reads, decrypts and proves. Whoever holds this can't write.
#[derive(Debug, Clone)]
pub struct LogReader {
    store: Arc<dyn ReadStore>,
    keys: Arc<KeyRing>,
    unwrapped: Arc<Mutex<BTreeMap<Uuid, DataKey>>>,
}

impl LogReader {
    /// A reader of the log in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn ReadStore>, keys: Arc<KeyRing>) -> Self {
        Self {
            store,
            keys,
            unwrapped: Arc::default(),
        }
    }

    /// The store that it reads.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ReadStore> {
        &self.store
    }

    /// Entries in the log.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn size(&self) -> Result<u64> {
        Ok(self.store.head().await?.size)
    }

    /// The latest checkpoint, its signature checked, with the signed note.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if the log's key didn't sign it.
    pub async fn checkpoint(&self) -> Result<Option<(Checkpoint, Vec<u8>)>> {
        let Some(note) = self.store.latest_checkpoint().await? else {
            return Ok(None);
        };
        let vkey = self.keys.vkey();
        let (checkpoint, _) = checkpoint::open(&note, vkey.name(), &vkey).map_err(|e| {
            Error::corrupt("the store's latest checkpoint is not signed by this log's key")
                .because(e)
        })?;
        Ok(Some((checkpoint.into_inner(), note)))
    }

    /// The inclusion proof of an index under the latest checkpoint.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if no checkpoint commits to it yet.
    pub async fn prove(&self, index: u64) -> Result<TlogProof> {
        let not_yet = || Error::not_found("no checkpoint commits to this entry yet").at(index);
        let (checkpoint, note) = self.checkpoint().await?.ok_or_else(not_yet)?;
        if index >= checkpoint.size {
            return Err(not_yet());
        }
        let wrong = |e: &dyn std::error::Error| {
            Error::corrupt("no inclusion proof can be made of the store's tiles")
                .at(index)
                .because(e.to_string())
        };
        let ids = proof::inclusion_tiles(index, checkpoint.size).map_err(|e| wrong(&e))?;
        let tiles = tiles_for(&*self.store, ids).await?;
        let hashes =
            proof::inclusion_proof(index, checkpoint.size, &tiles).map_err(|e| wrong(&e))?;
        let checkpoint = String::from_utf8(note).map_err(|e| wrong(&e))?;
        Ok(TlogProof {
            extra: None,
            index,
            hashes,
            checkpoint,
        })
    }

    /// Indexes of the events that match, in order, within `indexes`.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn find(
        &self,
        filter: &Filter,
        indexes: Range<u64>,
        descending: bool,
        limit: usize,
    ) -> Result<Vec<u64>> {
        let index_key = self.keys.index_key();
        let named = [
            ("session", &filter.session),
            ("actor", &filter.actor),
            ("subject", &filter.subject),
        ];
        let mut tokens: Vec<_> = named
            .into_iter()
            .filter_map(|(field, value)| Some(index_key.token(field, value.as_ref()?)))
            .collect();
        tokens.extend(
            filter
                .refs
                .iter()
                .map(|(name, value)| index_key.token(&format!("refs/{name}"), value)),
        );
        let query = Query {
            tokens,
            kind: filter.kind.clone(),
            from: filter.from,
            until: filter.until,
            indexes,
            descending,
            limit,
        };
        self.store.find(&query).await
    }

    /// The records of a range, from its start on; as many as the store reads at once. Empty behind the end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt), with the index, if something isn't what its entry commits to.
    pub async fn records(&self, range: Range<u64>) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for row in self.store.rows(range, Parts::With).await? {
            records.push(self.open(row).await?);
        }
        Ok(records)
    }

    /// The record at an index.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) behind the end of the log, else as [`LogReader::records`].
    pub async fn record(&self, index: u64) -> Result<Record> {
        let row = self
            .store
            .rows(index..index.saturating_add(1), Parts::With)
            .await?
            .pop()
            .ok_or_else(|| Error::not_found("the log has no such entry").at(index))?;
        self.open(row).await
    }

    /// The index of an event.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn position(&self, event: Uuid) -> Result<Option<u64>> {
        self.store.position(event).await
    }

    async fn open(&self, row: Row) -> Result<Record> {
        let index = row.index;
        let entry = Entry::decode(&row.entry).map_err(|e| e.at(index))?;
        let content = match (entry.key, row.parts) {
            (None, _) => RecordContent::None,
            (Some(_), None) => RecordContent::Gone,
            (Some(id), Some(parts)) => match self.data_key(id).await? {
                None => RecordContent::Gone,
                Some(key) => RecordContent::Open(Box::new(
                    seal::open(&entry, &parts, self.keys.origin(), &key)
                        .map_err(|e| e.at(index))?,
                )),
            },
        };
        Ok(Record {
            index,
            bytes: row.entry,
            entry,
            content,
        })
    }

    async fn data_key(&self, id: Uuid) -> Result<Option<DataKey>> {
        if let Some(key) = self
            .unwrapped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
        {
            return Ok(Some(key.clone()));
        }
        let Some(record) = self.store.key(id).await? else {
            return Ok(None);
        };
        let under = self.keys.wrapping_key_of(record.generation).ok_or_else(|| {
            Error::key(format!(
                "the key ring has no generation {} of the key-encryption key, which data key {id} needs",
                record.generation
            ))
        })?;
        let key = DataKey::unwrap(self.keys.origin(), &record, under)?;
        let mut unwrapped = self
            .unwrapped
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if unwrapped.len() >= KEYS_MAX {
            // Ids are random, so the least one is as likely to be in use as any: start anew instead.
            unwrapped.clear();
        }
        unwrapped.insert(id, key.clone());
        Ok(Some(key))
    }
}

/// Reads tiles of a store.
pub(crate) async fn tiles_for(store: &dyn ReadStore, ids: Vec<TileId>) -> Result<TileMap> {
    let mut map = TileMap::default();
    for id in ids {
        let hashes = store
            .tile(id)
            .await?
            .ok_or_else(|| Error::corrupt(format!("{id} is missing")))?;
        map.insert(Tile { id, hashes });
    }
    Ok(map)
}

/// The edge of the tree when it had `size` leaves.
pub(crate) async fn edge_at(store: &dyn ReadStore, size: u64) -> Result<EdgeTiles> {
    let tiles = tiles_for(store, EdgeTiles::tile_ids(size)).await?;
    EdgeTiles::from_reader(size, &tiles).map_err(|e| {
        Error::corrupt(format!("the store's tiles are not those of {size} entries")).because(e)
    })
}
