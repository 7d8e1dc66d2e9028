//! Logs as the verifier sees them: in a store, and in memory.

use std::collections::BTreeMap;
use std::ops::Range;

use audit_core::Result as CoreResult;
use audit_core::datakey::KeyRecord;
use audit_core::row::{Parts, Row};
use audit_core::store::Tile;
use audit_core::time::{Clock as _, System};
use audit_core::token::Token;
use audit_verify::{Evidence, Outcome, Policy, verify};
use uuid::Uuid;

use crate::Result;
use crate::workload::Keys;

/// How much the verifier is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "four measurements")]
pub enum Depth {
    /// Entries, tokens, tiles, checkpoints.
    Entries,
    /// The root hash by a second implementation too.
    SecondRoot,
    /// The stored parts too; still with no secret.
    Parts,
    /// The MAC chains and the content too, with all keys.
    AllKeys,
}

impl Depth {
    /// From the least to the most.
    pub const ALL: [Self; 4] = [Self::Entries, Self::SecondRoot, Self::Parts, Self::AllKeys];

    /// What is measured, in a few words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Entries => "entries",
            Self::SecondRoot => "entries, and a second root",
            Self::Parts => "entries and stored parts",
            Self::AllKeys => "all, with auditor's and operator's keys",
        }
    }

    /// Whether the stored parts are read.
    #[must_use]
    pub fn reads_parts(self) -> bool {
        matches!(self, Self::Parts | Self::AllKeys)
    }
}

/// Verifies `evidence`, which must hold.
pub fn verify_at(evidence: &dyn Evidence, keys: &Keys, depth: Depth) -> Result<()> {
    let mut policy = Policy::public(keys.ring.vkey(), System.now());
    policy.content = depth.reads_parts();
    policy.full = depth == Depth::SecondRoot;
    if depth == Depth::AllKeys {
        policy.auditor = Some(keys.auditor());
        policy.operator = Some(&keys.ring);
    }
    let verdict = verify(evidence, &policy, &mut ());
    if verdict.outcome() == Outcome::Held && verdict.counts().entries > 0 {
        Ok(())
    } else {
        Err(verdict.to_json().into())
    }
}

/// A log in memory, so that the verifier can be measured without a store.
#[derive(Debug)]
pub struct Held {
    origin: Option<String>,
    /// All rows with their parts.
    pub rows: Vec<Row>,
    token_rows: Vec<(Token, u64)>,
    tiles: Vec<Vec<Tile>>,
    checkpoints: Vec<(u64, Vec<u8>)>,
    keys: BTreeMap<Uuid, KeyRecord>,
}

/// Rows handed out at once, of about 2 KiB each: near the 4 MiB that stores give.
const ROWS: usize = 2048;
/// Rows of the other tables read at once.
const PAGE: usize = 4096;

impl Held {
    /// Copies a log.
    pub fn copy(from: &dyn Evidence) -> Result<Self> {
        let size = from.size()?;
        let mut rows: Vec<Row> = Vec::new();
        while (rows.len() as u64) < size {
            let page = from.rows(rows.len() as u64..size, Parts::With)?;
            if page.is_empty() {
                return Err("the log ends before its end".into());
            }
            rows.extend(page);
        }
        let token_rows = walk(|after| from.token_rows(after.copied(), PAGE))?;
        let checkpoints = walk(|after: Option<&(u64, Vec<u8>)>| {
            from.checkpoints(after.map_or(0, |c| c.0), PAGE)
        })?;
        let keys = walk(|after: Option<&KeyRecord>| from.keys(after.map(|k| k.id), PAGE))?;
        let tiles = (0..8)
            .map(|level| {
                walk(|after: Option<&Tile>| from.tiles(level, after.map(|t| t.id.index), PAGE))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            origin: from.origin()?,
            rows,
            token_rows,
            tiles,
            checkpoints,
            keys: keys.into_iter().map(|key| (key.id, key)).collect(),
        })
    }
}

/// Reads a table to its end.
fn walk<T>(mut page: impl FnMut(Option<&T>) -> CoreResult<Vec<T>>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    loop {
        let more = page(all.last())?;
        if more.is_empty() {
            return Ok(all);
        }
        all.extend(more);
    }
}

impl Evidence for Held {
    fn origin(&self) -> CoreResult<Option<String>> {
        Ok(self.origin.clone())
    }

    fn size(&self) -> CoreResult<u64> {
        Ok(self.rows.len() as u64)
    }

    fn rows(&self, range: Range<u64>, parts: Parts) -> CoreResult<Vec<Row>> {
        let at =
            |index: u64| usize::try_from(index).map_or(self.rows.len(), |i| i.min(self.rows.len()));
        let rows = self.rows[at(range.start)..at(range.end)].iter().take(ROWS);
        Ok(match parts {
            Parts::With => rows.cloned().collect(),
            Parts::Without => rows
                .map(|row| Row {
                    index: row.index,
                    entry: row.entry.clone(),
                    columns: row.columns.clone(),
                    tokens: row.tokens.clone(),
                    parts: None,
                })
                .collect(),
        })
    }

    fn token_rows(
        &self,
        after: Option<(Token, u64)>,
        limit: usize,
    ) -> CoreResult<Vec<(Token, u64)>> {
        let from = self
            .token_rows
            .partition_point(|row| after.is_some_and(|after| *row <= after));
        Ok(self.token_rows[from..]
            .iter()
            .take(limit)
            .copied()
            .collect())
    }

    fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> CoreResult<Vec<Tile>> {
        let tiles = self
            .tiles
            .get(usize::from(level))
            .map_or(&[][..], Vec::as_slice);
        let from = tiles.partition_point(|tile| after.is_some_and(|after| tile.id.index <= after));
        Ok(tiles[from..].iter().take(limit).cloned().collect())
    }

    fn checkpoints(&self, after: u64, limit: usize) -> CoreResult<Vec<(u64, Vec<u8>)>> {
        let from = self.checkpoints.partition_point(|(size, _)| *size <= after);
        Ok(self.checkpoints[from..]
            .iter()
            .take(limit)
            .cloned()
            .collect())
    }

    fn keys(&self, after: Option<Uuid>, limit: usize) -> CoreResult<Vec<KeyRecord>> {
        let keys = self.keys.range(after.unwrap_or(Uuid::nil())..);
        Ok(keys
            .filter(|(id, _)| Some(**id) != after)
            .take(limit)
            .map(|(_, key)| key.clone())
            .collect())
    }

    fn key(&self, id: Uuid) -> CoreResult<Option<KeyRecord>> {
        Ok(self.keys.get(&id).cloned())
    }
}
