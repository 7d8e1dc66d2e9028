//! The contract between the log and a storage engine: narrow, at the level of log operations, all cryptography above it.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use audit_tlog::Hash;
pub use audit_tlog::tile::Tile;

pub use crate::row::{Columns, Parts, Row};
use audit_tlog::tile::{EdgeTiles, SIZE_MAX, TILE_WIDTH, TileId};
use uuid::Uuid;

use crate::datakey::KeyRecord;
use crate::entry::{ENTRY_BYTES_MAX, TOKENS_MAX};
use crate::error::{Error, Result};
use crate::event::Kind;
use crate::time::Timestamp;
use crate::token::Token;

/// The end of the log, as a store knows it.
#[derive(Debug, Clone)]
pub struct Head {
    /// Entries in the log.
    pub size: u64,
    /// The tiles on the right edge of the tree, from which everything appended next is hashed.
    pub edge: EdgeTiles,
}

impl Head {
    /// The head of an empty log.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            size: 0,
            edge: EdgeTiles::new(),
        }
    }
}

/// What one call of [`Store::append`] commits: all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Rows with contiguous indexes from the head's size on; not empty.
    ///
    /// In a copy of a log, rows whose content was erased come without the tokens and parts that their entries commit to,
    /// and stay as they come.
    pub rows: Vec<Row>,
    /// The tiles that grew; each replaces the one with the same level and index.
    pub tiles: Vec<Tile>,
    /// Data-key records that these rows are the first to use.
    ///
    /// In a copy of a log, a record may be of a later generation than the one that its entry names, and that of a key
    /// that was destroyed is left out.
    pub keys: Vec<KeyRecord>,
}

impl Batch {
    /// Holds the batch against the head that it was built on: contiguous indexes, entries, tokens and stored parts within
    /// the limits, the latter being the engine's, and tiles of the tree that it makes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), with what doesn't fit.
    pub fn check(&self, head: &Head, parts_bytes_max: usize) -> Result<()> {
        let refuse = |what: String| {
            Err(Error::invalid(format!(
                "the batch doesn't fit the log of {} entries: {what}",
                head.size
            )))
        };
        if self.rows.is_empty() {
            return refuse("it has no rows".to_owned());
        }
        let mut size = head.size;
        for row in &self.rows {
            if row.index != size || size >= SIZE_MAX {
                return refuse(format!("a row has index {}, not {size}", row.index));
            }
            if row.entry.is_empty() || row.entry.len() > ENTRY_BYTES_MAX {
                return refuse(format!("entry {size} has {} bytes", row.entry.len()));
            }
            if let Some(set) = &row.tokens
                && (set.tokens.is_empty()
                    || set.tokens.len() as u64 > TOKENS_MAX
                    || !set.tokens.is_sorted_by(|a, b| a < b))
            {
                return refuse(format!(
                    "the tokens of entry {size} are not a sorted list of 1 to {TOKENS_MAX}"
                ));
            }
            if let Some(parts) = &row.parts
                && parts.len() > parts_bytes_max
            {
                return refuse(format!(
                    "the stored parts of entry {size} have {} bytes, the engine holds {parts_bytes_max}",
                    parts.len()
                ));
            }
            size += 1;
        }
        for tile in &self.tiles {
            if tile.hashes.len() != usize::from(tile.id.width)
                || TileId::in_tree(tile.id.level, tile.id.index, size) != Some(tile.id)
            {
                return refuse(format!(
                    "{} with {} hashes is no tile of a tree of {size}",
                    tile.id,
                    tile.hashes.len()
                ));
            }
        }
        Ok(())
    }

    /// The head that a log with `head` has once this batch is in it, from the batch's own tiles.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the tiles are not exactly those that grow by so many rows.
    /// That their hashes are right is not looked at: the store hashes nothing.
    pub fn head_after(&self, head: &Head) -> Result<Head> {
        let size = head.size.saturating_add(self.rows.len() as u64);
        let unfit = |what: String| {
            Error::invalid(format!(
                "the tiles of the batch don't fit its rows: a log that grows from {} to {size} entries {what}",
                head.size
            ))
        };
        let mut levels = Vec::with_capacity(usize::from(LEVELS));
        let mut fitting = 0;
        for level in 0..LEVELS {
            let nodes = |size: u64| size.checked_shr(8 * u32::from(level)).unwrap_or(0);
            let (before, after) = (nodes(head.size), nodes(size));
            let width = u64::from(TILE_WIDTH);
            let mut edge = None;
            if after > before {
                // From the tile that was partial, or the first new one, to the last.
                for index in before / width..=(after - 1) / width {
                    let id = TileId::in_tree(level, index, size);
                    let tile = self.tiles.iter().find(|tile| Some(tile.id) == id);
                    let tile = tile.ok_or_else(|| {
                        unfit(format!(
                            "needs tile {index} of level {level} at its new width"
                        ))
                    })?;
                    fitting += 1;
                    edge = (!tile.id.is_full()).then(|| tile.hashes.clone());
                }
            } else {
                edge = Some(head.edge.tile(level).to_vec());
            }
            levels.push(edge.unwrap_or_default());
        }
        if fitting != self.tiles.len() {
            return Err(unfit(format!(
                "changes {fitting} tiles, not {}",
                self.tiles.len()
            )));
        }
        let edge = EdgeTiles::from_tiles(size, levels)
            .map_err(|e| unfit("has another edge".to_owned()).because(e))?;
        Ok(Head { size, edge })
    }
}

/// Levels that a tree can have tiles at.
const LEVELS: u8 = 8;

/// Makes a batch for the current head; called once per attempt, under the store's writer lock where it has one.
pub type Build = Box<dyn FnMut(&Head) -> Result<Batch> + Send>;

/// Which entries to find. All conditions hold together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Entries that have every one of these tokens.
    pub tokens: Vec<Token>,
    /// Entries of this kind.
    pub kind: Option<Kind>,
    /// Entries with a caller's time at or after this.
    pub from: Option<Timestamp>,
    /// Entries with a caller's time before this.
    pub until: Option<Timestamp>,
    /// Entries with an index in this range.
    pub indexes: Range<u64>,
    /// Highest index first.
    pub descending: bool,
    /// At most so many.
    pub limit: usize,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            kind: None,
            from: None,
            until: None,
            indexes: 0..u64::MAX,
            descending: false,
            limit: 1000,
        }
    }
}

/// What a store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// The engine's name.
    pub engine: &'static str,
    /// Several processes may append to one log.
    pub several_writers: bool,
    /// The engine refuses deletion for a time that is set per object.
    pub retention_lock: bool,
    /// [`Store::erase`] deletes the stored parts too. Where it doesn't, the ciphertexts stay, they are not handed out any
    /// more, and what makes them unreadable is that their data key is gone. A verifier excuses nothing because of this.
    pub erases_parts: bool,
    /// How long a batch should wait for company, because each one costs requests; `None` where it costs little.
    pub linger: Option<Duration>,
}

/// What makes a store a log's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The log's origin.
    pub origin: String,
    /// The version of the store's own layout.
    pub layout: u32,
    /// Whether what is written is locked against deletion for a time, as the log was made; `None` for an engine that
    /// knows no such locks.
    pub retention_lock: Option<bool>,
}

/// Reading a log. Whoever holds only this can't write.
///
/// Every method answers [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt), with the index where there is one,
/// when what is stored is not of the shape that the contract asks for, and never panics on it.
#[async_trait]
pub trait ReadStore: Send + Sync + fmt::Debug {
    /// What the engine can do.
    fn capabilities(&self) -> Capabilities;

    /// The log's origin and the layout, `None` while no log has been created here.
    async fn description(&self) -> Result<Option<Description>>;

    /// The end of the log.
    async fn head(&self) -> Result<Head>;

    /// Rows from `range`, in order, without a gap, from its start on; as many as fit into about 4 MiB, at least one
    /// if there is one. Empty exactly when `range` starts at or beyond the end of the log, or is empty.
    async fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>>;

    /// What the engine itself says of its files, for example that an index disagrees with its table. May read all of it.
    ///
    /// # Errors
    ///
    /// `Corrupt`: it found something.
    async fn integrity(&self) -> Result<()>;

    /// The index of an event. After an append of unknown outcome this answers only once that outcome is settled: a
    /// commit that is still under way must not land behind an answer `None`.
    async fn position(&self, event: Uuid) -> Result<Option<u64>>;

    /// Indexes of the entries that match, in order.
    async fn find(&self, query: &Query) -> Result<Vec<u64>>;

    /// Token rows in the store's own order, after `after`, at most `limit`. Walking from `None` gives each row once.
    async fn token_rows(
        &self,
        after: Option<(Token, u64)>,
        limit: usize,
    ) -> Result<Vec<(Token, u64)>>;

    /// The hashes of a tile, exactly `id.width` of them; a narrower tile is answered from a wider one.
    async fn tile(&self, id: TileId) -> Result<Option<Vec<Hash>>>;

    /// The stored tiles of one level after `after`, at most `limit`, by index; with the width that is stored.
    async fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>>;

    /// The checkpoint (a signed note) with the greatest tree size.
    async fn latest_checkpoint(&self) -> Result<Option<Vec<u8>>>;

    /// Checkpoints with a tree size above `after`, at most `limit`, by tree size.
    async fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>>;

    /// The record of a data key.
    async fn key(&self, id: Uuid) -> Result<Option<KeyRecord>>;

    /// Records of data keys with an id above `after`, at most `limit`, by id.
    async fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>>;

    /// Records of the data keys of a shred scope.
    async fn keys_of_scope(&self, scope: Token) -> Result<Vec<KeyRecord>>;

    /// Returns when the log may have grown beyond `size`, or after about a second; used to follow a log.
    async fn wait_beyond(&self, size: u64) -> Result<()>;
}

/// Writing a log.
#[async_trait]
pub trait Store: ReadStore {
    /// Makes this store the store of the log `origin`.
    ///
    /// # Errors
    ///
    /// `Invalid`: it already is a log's store.
    async fn create(&self, origin: &str) -> Result<()>;

    /// Appends the batch that `build` makes of the current head: contiguous indexes, all or none, durable on return.
    /// Answers with the new head. An error of `build` is passed on, and nothing is written.
    ///
    /// # Errors
    ///
    /// `Unavailable`: nothing was written.
    /// `Unknown`: either outcome is possible; nothing else is appended until it is resolved.
    /// `Invalid`: an event id is already in the log, or the batch doesn't fit the head; nothing was written.
    async fn append(&self, build: Build) -> Result<Head>;

    /// Keeps a checkpoint of tree size `size`. Writing the same bytes again is no error.
    ///
    /// # Errors
    ///
    /// `Invalid`: there is another checkpoint of that size, the log is shorter, or the size is 0; nothing was written.
    async fn put_checkpoint(&self, size: u64, note: &[u8]) -> Result<()>;

    /// Takes the lease of the log's one publisher; `None` while another process holds it.
    /// A lease ends when it is dropped or its process dies.
    async fn publisher_lease(&self) -> Result<Option<Box<dyn Lease>>>;

    /// Replaces the records of data keys by records of the same ids: all or none, except that an engine that keeps them in
    /// several objects may be cut off between two of these. Each record is then whole, old or new, and repeating finishes
    /// it; whoever rewraps keeps both generations of the key-encryption key until this has returned.
    ///
    /// # Errors
    ///
    /// `Unavailable`: it may be done in part, as far as the engine's own leftovers are concerned; repeating finishes it.
    /// `Invalid`: an id has no record; nothing was written.
    async fn rewrap(&self, records: &[KeyRecord]) -> Result<()>;

    /// Removes, for good as far as the engine can: the records of `keys`, and the parts, tokens and token rows of the
    /// entries at `indexes`. The entries stay. What is already gone is no error.
    ///
    /// # Errors
    ///
    /// `Unavailable`: as with [`Store::rewrap`]; repeating finishes it.
    async fn erase(&self, keys: &[Uuid], indexes: &[u64]) -> Result<()>;
}

/// The right to publish; ends when dropped.
#[async_trait]
pub trait Lease: Send + Sync + fmt::Debug {
    /// Whether the lease is still held; where leases run out, this renews it.
    async fn held(&self) -> Result<bool>;

    /// Gives it up before it is dropped, so that the next process finds it free. A process that ends right behind a drop
    /// may take an engine's own way of giving it up with it; what can't be given up runs out.
    async fn release(&self);
}

#[cfg(test)]
mod tests {
    use audit_tlog::hash::leaf_hash;

    use super::*;
    use crate::hex::Hex;

    fn row(index: u64) -> Row {
        Row {
            index,
            entry: vec![1],
            columns: Columns {
                event: Uuid::from_u128(index.into()),
                kind: Kind::new("tool.call").unwrap(),
                time: Timestamp::EPOCH,
            },
            tokens: None,
            parts: Some(Hex([0; 16]).0.to_vec()),
        }
    }

    fn batch(head: &Head, rows: u64) -> (Batch, EdgeTiles) {
        let mut edge = head.edge.clone();
        for n in 0..rows {
            edge.push(leaf_hash(&(head.size + n).to_be_bytes()));
        }
        let tiles = edge.take_changed();
        let rows = (head.size..head.size + rows).map(row).collect();
        (
            Batch {
                rows,
                tiles,
                keys: Vec::new(),
            },
            edge,
        )
    }

    #[test]
    fn the_head_after_a_batch_is_not_the_one_that_its_leaves_make() {
        let mut head = Head::empty();
        for rows in [1, 3, 251, 1, 1, 255, 256, 700, 300, 1, 65_536, 5] {
            let (batch, edge) = batch(&head, rows);
            let after = batch.head_after(&head).unwrap();
            assert_eq!(after.size, head.size + rows);
            assert_eq!(
                after.edge.root(),
                edge.root(),
                "{rows} rows behind {}",
                head.size
            );
            // Each change copies the batch.
            let changes = if rows < 1000 { batch.tiles.len() } else { 0 };
            for left_out in 0..changes {
                let mut less = batch.clone();
                less.tiles.remove(left_out);
                less.head_after(&head).unwrap_err();
                let mut twice = batch.clone();
                twice.tiles.push(batch.tiles[left_out].clone());
                twice.head_after(&head).unwrap_err();
                let mut narrow = batch.clone();
                narrow.tiles[left_out].hashes.pop();
                // Such a tile isn't one at all; a full one is not looked into here.
                if !narrow.tiles[left_out].id.is_full() {
                    assert!(
                        narrow.head_after(&head).is_err() || narrow.tiles[left_out].id.width == 1
                    );
                }
            }
            head = Head {
                size: head.size + rows,
                edge,
            };
        }
    }
}
