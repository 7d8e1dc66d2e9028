//! What is verified: a log as somebody hands it over.

use std::ops::Range;

use audit_core::Result;
use audit_core::datakey::KeyRecord;
use audit_core::row::{Parts, Row};
use audit_core::token::Token;
use audit_tlog::tile::Tile;
use uuid::Uuid;

/// What every report says of a log whose store could lock what it holds, and that was made without.
pub const WITHOUT_RETENTION_LOCK: &str = "this log was made without Object Lock: nothing keeps whoever administers its \
                                          bucket from deleting entries. A verification that remembers a checkpoint shows \
                                          it; nothing brings them back";

/// A log to verify: a store seen through a read handle, or a log export. Nothing in it is trusted.
///
/// Each method answers as the method of the same name of `audit_core::store::ReadStore`.
///
/// # Errors
///
/// `Corrupt`, with the index where there is one: what is there is not of the shape that it must have. The verdict is
/// then that the evidence contradicts itself.
/// Any other kind: it could not be read. The verdict is then that nothing could be decided.
pub trait Evidence {
    /// Whether there is a storage engine that can be asked for the [`integrity`](Self::integrity) of its files.
    fn has_engine(&self) -> bool {
        false
    }

    /// What the engine itself says of its files: `Corrupt` if, say, indexes disagree with their tables.
    fn integrity(&self) -> Result<()> {
        Ok(())
    }

    /// Whether the log's objects are locked against deletion for a time, as the store says of itself; `None` where nothing
    /// is known of it. Nothing is checked by this: it is told to whoever reads the verdict.
    fn retention_lock(&self) -> Result<Option<bool>> {
        Ok(None)
    }

    /// The log that this says it is of.
    fn origin(&self) -> Result<Option<String>>;

    /// Entries in the log. Asked again when something of a later size turns up, since a live store may have grown.
    fn size(&self) -> Result<u64>;

    /// Whether the stored parts came along; a log export may be without them.
    fn has_parts(&self) -> bool {
        true
    }

    /// Rows from `range`, in order, from its start on; as many as fit into about 4 MiB, at least one if there is one.
    fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>>;

    /// Token rows in the evidence's own order, after `after`, at most `limit`.
    fn token_rows(&self, after: Option<(Token, u64)>, limit: usize) -> Result<Vec<(Token, u64)>>;

    /// The stored tiles of one level after `after`, at most `limit`, by index, with the width that is stored.
    fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>>;

    /// Checkpoints (signed notes) with a tree size above `after`, at most `limit`, by tree size.
    fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>>;

    /// Records of data keys with an id above `after`, at most `limit`, by id.
    fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>>;

    /// The record of a data key.
    fn key(&self, id: Uuid) -> Result<Option<KeyRecord>>;
}

impl<E: Evidence + ?Sized> Evidence for &E {
    fn has_engine(&self) -> bool {
        (**self).has_engine()
    }
    fn integrity(&self) -> Result<()> {
        (**self).integrity()
    }
    fn retention_lock(&self) -> Result<Option<bool>> {
        (**self).retention_lock()
    }
    fn origin(&self) -> Result<Option<String>> {
        (**self).origin()
    }
    fn size(&self) -> Result<u64> {
        (**self).size()
    }
    fn has_parts(&self) -> bool {
        (**self).has_parts()
    }
    fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        (**self).rows(range, parts)
    }
    fn token_rows(&self, after: Option<(Token, u64)>, limit: usize) -> Result<Vec<(Token, u64)>> {
        (**self).token_rows(after, limit)
    }
    fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        (**self).tiles(level, after, limit)
    }
    fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        (**self).checkpoints(after, limit)
    }
    fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        (**self).keys(after, limit)
    }
    fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        (**self).key(id)
    }
}
