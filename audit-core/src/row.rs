//! What is stored for one entry.

use std::fmt;

use uuid::Uuid;

use crate::event::Kind;
use crate::time::Timestamp;
use crate::token::TokenSet;

/// What is stored beside an entry's bytes so that it can be found; each value repeats what the entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// The event's id; unique in the log.
    pub event: Uuid,
    /// The event's kind.
    pub kind: Kind,
    /// The caller's time.
    pub time: Timestamp,
}

/// One entry with all that is stored for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// The leaf index.
    pub index: u64,
    /// The canonical entry.
    pub entry: Vec<u8>,
    /// By which it is found.
    pub columns: Columns,
    /// Its tokens and their salt; `None` if it has none, or they were erased.
    pub tokens: Option<TokenSet>,
    /// The stored content part and payload parts, one behind the other (the entry has their lengths);
    /// `None` if it has none, they were erased, or they were not asked for.
    pub parts: Option<Vec<u8>>,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row")
            .field("index", &self.index)
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

/// Which parts of rows to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "with or without")]
pub enum Parts {
    /// Entries, columns and tokens.
    Without,
    /// The stored parts too.
    With,
}
