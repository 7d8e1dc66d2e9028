//! A store as the offline verifier sees it.

use std::ops::Range;
use std::sync::Arc;

use audit_core::datakey::KeyRecord;
use audit_core::row::{Parts, Row};
use audit_core::store::ReadStore;
use audit_core::token::Token;
use audit_core::{Error, ErrorKind, Result};
use audit_tlog::tile::{SIZE_MAX, Tile};
use audit_verify::Evidence;
use tokio::runtime::Handle;
use uuid::Uuid;

/// Blocks on a read handle; to be used outside of the runtime's own threads, such as in `spawn_blocking`.
#[derive(Debug)]
pub struct StoreEvidence {
    store: Arc<dyn ReadStore>,
    runtime: Handle,
}

impl StoreEvidence {
    /// Over a store, on the runtime of the caller.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(store: Arc<dyn ReadStore>) -> Self {
        Self {
            store,
            runtime: Handle::current(),
        }
    }

    /// The end of the log by its rows alone; `head` if they don't say it either.
    fn end_by_rows(&self, head: Error) -> Result<u64> {
        // Rows are empty exactly at and beyond the end; what is there but malformed is an error.
        let rows = |index: u64| self.wait(self.store.rows(index..index + 1, Parts::Without));
        let beyond = |index: u64| match rows(index) {
            Ok(rows) => Ok(rows.is_empty()),
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok(false),
            Err(e) => Err(e),
        };
        match rows(SIZE_MAX) {
            Ok(rows) if rows.is_empty() => {}
            Ok(_) => return Ok(SIZE_MAX + 1),
            Err(_) => return Err(head),
        }
        let (mut end, mut outside) = (0, SIZE_MAX);
        while end < outside {
            let middle = end + (outside - end) / 2;
            if beyond(middle)? {
                outside = middle;
            } else {
                end = middle + 1;
            }
        }
        Ok(end)
    }

    fn wait<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(call)
    }
}

impl Evidence for StoreEvidence {
    fn origin(&self) -> Result<Option<String>> {
        Ok(self.wait(self.store.description())?.map(|d| d.origin))
    }

    fn retention_lock(&self) -> Result<Option<bool>> {
        let description = self.wait(self.store.description())?;
        Ok(description.and_then(|d| d.retention_lock))
    }

    fn has_engine(&self) -> bool {
        true
    }

    fn integrity(&self) -> Result<()> {
        self.wait(self.store.integrity())
    }

    fn size(&self) -> Result<u64> {
        match self.wait(self.store.head()) {
            Ok(head) => Ok(head.size),
            // Entries and tiles that don't fit each other end a store's own reading of its head. Which entry is the
            // first bad one is for the verifier to find, so it gets what is there.
            Err(e) if e.kind() == ErrorKind::Corrupt => self.end_by_rows(e),
            Err(e) => Err(e),
        }
    }

    fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        self.wait(self.store.rows(range, parts))
    }

    fn token_rows(&self, after: Option<(Token, u64)>, limit: usize) -> Result<Vec<(Token, u64)>> {
        self.wait(self.store.token_rows(after, limit))
    }

    fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        self.wait(self.store.tiles(level, after, limit))
    }

    fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        self.wait(self.store.checkpoints(after, limit))
    }

    fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        self.wait(self.store.keys(after, limit))
    }

    fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        self.wait(self.store.key(id))
    }
}
