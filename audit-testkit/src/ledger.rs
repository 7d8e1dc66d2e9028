//! What must never change: a memory of everything that a store answered, against which every later answer is held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use audit_core::datakey::KeyRecord;
use audit_core::hex::{Digest, Hex};
use audit_core::store::{Columns, Description, Parts, Row, Store};
use audit_core::token::TokenSet;
use audit_tlog::Hash;
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::TileId;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::forward::{Around, Forward, Seen};

/// Remembers what a store answered, and panics when it answers otherwise: an entry, its columns, its content, a
/// checkpoint, a hash in a tile or the record of a key that changed, or that is gone without having been erased.
///
/// Once it has panicked it does so at every answer, so that no task can swallow it.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    description: Option<Description>,
    roots: BTreeMap<u64, Hash>,
    rows: BTreeMap<u64, Known>,
    events: BTreeMap<Uuid, u64>,
    tiles: BTreeMap<(u8, u64), Vec<Hash>>,
    checkpoints: BTreeMap<u64, Vec<u8>>,
    keys: BTreeMap<Uuid, KeyRecord>,
    rewrapping: BTreeMap<Uuid, Vec<KeyRecord>>,
    erased_keys: BTreeSet<Uuid>,
    erased: BTreeSet<u64>,
    broken: Option<String>,
}

#[derive(Debug)]
struct Known {
    leaf: Hash,
    columns: Columns,
    tokens: Option<TokenSet>,
    parts: PartsKnown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartsKnown {
    NotRead,
    None,
    Some(Digest),
}

/// A store that must never answer otherwise than before; several handles on one store may share their [`Ledger`].
pub type StrictStore = Forward<Ledger>;

impl StrictStore {
    /// Holds every answer of `inner` against what was answered before.
    #[must_use]
    pub fn strict(inner: Arc<dyn Store>) -> Self {
        Self::to(inner, Arc::default())
    }
}

impl Ledger {
    /// Fails if an answer contradicted an earlier one.
    pub fn check(&self) {
        let broken = self.with(|memory| memory.broken.clone());
        assert!(broken.is_none(), "{}", broken.unwrap_or_default());
    }

    /// Holds something that was answered against what was answered before.
    pub fn compare(&self, seen: Seen<'_>) {
        self.with(|memory| {
            if memory.broken.is_none()
                && let Err(what) = memory.compare(seen)
            {
                memory.broken = Some(format!("what must never change has changed: {what}"));
            }
        });
        self.check();
    }

    fn with<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Around for Ledger {
    fn sees(&self, seen: Seen<'_>) {
        self.compare(seen);
    }
}

impl Memory {
    fn compare(&mut self, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Description(found) => {
                let known = self.description.get_or_insert_with(|| found.clone());
                same(known == found, || {
                    format!("the description is {found:?}, was {known:?}")
                })
            }
            Seen::Head(head) => self.root(head.size, head.edge.root()),
            Seen::Rows(rows, parts) => rows.iter().try_for_each(|row| self.row(row, parts)),
            Seen::Position(event, found) => {
                let known = self.events.get(&event).copied();
                match (known, found) {
                    (Some(known), found) if found != Some(known) => {
                        Err(format!("event {event} is at {found:?}, was at {known}"))
                    }
                    (None, Some(index)) => {
                        self.events.insert(event, index);
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
            Seen::Tile(id, hashes) => self.tile(id, hashes),
            Seen::Checkpoint(size, note) => self.checkpoint(size, note),
            Seen::Key(id, record) => self.key(id, record),
            Seen::Rewrapping(records) => {
                for record in records {
                    let records = self.rewrapping.entry(record.id).or_default();
                    records.push(record.clone());
                }
                Ok(())
            }
            Seen::Erasing(keys, indexes) => {
                self.erased_keys.extend(keys);
                self.erased.extend(indexes);
                Ok(())
            }
        }
    }

    fn root(&mut self, size: u64, root: Hash) -> Result<(), String> {
        let known = *self.roots.entry(size).or_insert(root);
        same(known == root, || {
            format!("the root of {size} entries is {root}, was {known}")
        })
    }

    fn row(&mut self, row: &Row, parts: Parts) -> Result<(), String> {
        let index = row.index;
        let leaf = leaf_hash(&row.entry);
        let digest = match &row.parts {
            _ if parts == Parts::Without => PartsKnown::NotRead,
            None => PartsKnown::None,
            Some(parts) => PartsKnown::Some(Hex(Sha256::digest(parts).into())),
        };
        let Some(known) = self.rows.get_mut(&index) else {
            let event = row.columns.event;
            let at = *self.events.entry(event).or_insert(index);
            self.rows.insert(
                index,
                Known {
                    leaf,
                    columns: row.columns.clone(),
                    tokens: row.tokens.clone(),
                    parts: digest,
                },
            );
            return same(at == index, || {
                format!("event {event} is at {index}, was at {at}")
            });
        };
        same(known.leaf == leaf, || format!("entry {index} is another"))?;
        same(known.columns == row.columns, || {
            format!("the columns of entry {index} are others")
        })?;
        let erased = self.erased.contains(&index);
        let gone = erased && row.tokens.is_none();
        same(gone || known.tokens == row.tokens, || {
            format!("the tokens of entry {index} are others")
        })?;
        if digest == PartsKnown::NotRead {
            return Ok(());
        }
        if known.parts == PartsKnown::NotRead {
            known.parts = digest;
        }
        let before = known.parts;
        let gone = erased && digest == PartsKnown::None;
        same(gone || before == digest, || {
            format!("the parts of entry {index} are others")
        })
    }

    fn tile(&mut self, id: TileId, hashes: &[Hash]) -> Result<(), String> {
        let known = self.tiles.entry((id.level, id.index)).or_default();
        let both = known.len().min(hashes.len());
        same(known[..both] == hashes[..both], || {
            format!("{id} has other hashes than before")
        })?;
        if hashes.len() > known.len() {
            *known = hashes.to_vec();
        }
        Ok(())
    }

    fn checkpoint(&mut self, size: Option<u64>, note: &[u8]) -> Result<(), String> {
        // Whoever asks for the latest isn't told its size; the suite's notes aren't checkpoints, and have none.
        let Some(size) = size.or_else(|| size_in(note)) else {
            return Ok(());
        };
        let known = self
            .checkpoints
            .entry(size)
            .or_insert_with(|| note.to_vec());
        same(known == note, || {
            format!("the checkpoint of {size} entries is another")
        })
    }

    fn key(&mut self, id: Uuid, record: Option<&KeyRecord>) -> Result<(), String> {
        let known = self.keys.get(&id);
        match (known, record) {
            (None, None) => Ok(()),
            (None, Some(record)) => {
                self.keys.insert(id, record.clone());
                Ok(())
            }
            (Some(_), None) => same(self.erased_keys.contains(&id), || {
                format!("the record of data key {id} is gone")
            }),
            (Some(known), Some(record)) => {
                if known == record {
                    return Ok(());
                }
                let asked = self.rewrapping.get(&id);
                let allowed = asked.is_some_and(|asked| asked.contains(record));
                self.keys.insert(id, record.clone());
                same(allowed, || {
                    format!("the record of data key {id} is another")
                })
            }
        }
    }
}

fn same(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// The tree size in a checkpoint, whoever signed it.
fn size_in(note: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(note).ok()?;
    let (body, _) = text.split_once("\n\n")?;
    body.lines().nth(1)?.parse().ok()
}
