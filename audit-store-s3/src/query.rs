//! Searching the side packs.

use std::collections::BTreeSet;
use std::sync::Arc;

use audit_core::datakey::KeyRecord;
use audit_core::store::Query;
use audit_core::token::Token;
use audit_core::Result;
use uuid::Uuid;

use crate::shared::Shared;
use crate::side::{Side, SideRow};

impl Shared {
    /// Side packs of all batches, in turn.
    async fn each_side(&self, mut see: impl FnMut(&Arc<Side>) + Send) -> Result<()> {
        let Some(tip) = self.tip().await? else {
            return Ok(());
        };
        self.read_changes().await?;
        for number in 0..=tip.number {
            let header = self.header(number).await?;
            if !header.skipped {
                see(&self.side(&header).await?);
            }
        }
        Ok(())
    }

    /// See [`audit_core::store::ReadStore::position`]; nothing is unsettled any more.
    pub(crate) async fn position(&self, event: Uuid) -> Result<Option<u64>> {
        let Some(tip) = self.tip().await? else {
            return Ok(None);
        };
        self.read_changes().await?;
        self.position_before(event, tip.number + 1).await
    }

    /// The index of an event in the batches before `until`.
    pub(crate) async fn position_before(&self, event: Uuid, until: u64) -> Result<Option<u64>> {
        for number in (0..until).rev() {
            let header = self.header(number).await?;
            if header.skipped {
                continue;
            }
            let side = self.side(&header).await?;
            let found = side.indexed().find(|(_, row)| row.columns.event == event);
            if let Some((index, _)) = found {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// See [`audit_core::store::ReadStore::find`].
    pub(crate) async fn find(&self, query: &Query) -> Result<Vec<u64>> {
        let mut out = Vec::new();
        if query.indexes.is_empty() || query.limit == 0 {
            return Ok(out);
        }
        let Some(tip) = self.tip().await? else {
            return Ok(out);
        };
        if query.indexes.start >= tip.end() {
            return Ok(out);
        }
        self.read_changes().await?;
        let last = query.indexes.end.min(tip.end()) - 1;
        let first = self.locate(query.indexes.start, &tip).await?;
        let mut numbers = first..=self.locate(last, &tip).await?;
        while let Some(number) = if query.descending {
            numbers.next_back()
        } else {
            numbers.next()
        } {
            let header = self.header(number).await?;
            if header.skipped {
                continue;
            }
            let side = self.side(&header).await?;
            let mut found: Vec<u64> = side
                .indexed()
                .filter(|(index, row)| matches(*index, row, query))
                .map(|(index, _)| index)
                .collect();
            if query.descending {
                found.reverse();
            }
            out.extend(found.into_iter().take(query.limit - out.len()));
            if out.len() >= query.limit {
                break;
            }
        }
        Ok(out)
    }

    /// See [`audit_core::store::ReadStore::token_rows`].
    pub(crate) async fn token_rows(
        &self,
        after: Option<(Token, u64)>,
        limit: usize,
    ) -> Result<Vec<(Token, u64)>> {
        let mut least = Least::new(limit);
        self.each_side(|side| {
            for (index, row) in side.indexed() {
                for token in row.tokens.iter().flat_map(|set| &set.tokens) {
                    if after.is_none_or(|after| (*token, index) > after) {
                        least.push((*token, index));
                    }
                }
            }
        })
        .await?;
        Ok(least.rows.into_iter().collect())
    }

    /// See [`audit_core::store::ReadStore::key`].
    pub(crate) async fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        let mut found = None;
        self.each_side(|side| {
            if let Some(key) = side.key(id) {
                found = Some(key.clone());
            }
        })
        .await?;
        Ok(found)
    }

    /// See [`audit_core::store::ReadStore::keys`].
    pub(crate) async fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        let mut least = Least::new(limit);
        self.each_side(|side| {
            for key in &side.keys {
                if after.is_none_or(|after| key.id > after) {
                    least.push(ById(key.clone()));
                }
            }
        })
        .await?;
        Ok(least.rows.into_iter().map(|key| key.0).collect())
    }

    /// See [`audit_core::store::ReadStore::keys_of_scope`].
    pub(crate) async fn keys_of_scope(&self, scope: Token) -> Result<Vec<KeyRecord>> {
        let mut found = Vec::new();
        self.each_side(|side| {
            found.extend(side.keys.iter().filter(|key| key.scope == scope).cloned());
        })
        .await?;
        found.sort_unstable_by_key(|key| key.id);
        Ok(found)
    }
}

/// The least of what is pushed, at most so many.
struct Least<T> {
    rows: BTreeSet<T>,
    limit: usize,
}

impl<T: Ord> Least<T> {
    fn new(limit: usize) -> Self {
        Self {
            rows: BTreeSet::new(),
            limit,
        }
    }

    fn push(&mut self, row: T) {
        if self.rows.len() >= self.limit {
            if self.rows.last().is_none_or(|last| row >= *last) {
                return;
            }
            self.rows.pop_last();
        }
        self.rows.insert(row);
    }
}

struct ById(KeyRecord);

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

fn matches(index: u64, row: &SideRow, query: &Query) -> bool {
    let tokens = row.tokens.as_ref().map_or(&[][..], |set| &set.tokens);
    query.indexes.contains(&index)
        && query.tokens.iter().all(|token| tokens.binary_search(token).is_ok())
        && query.kind.as_ref().is_none_or(|kind| *kind == row.columns.kind)
        && query.from.is_none_or(|from| row.columns.time >= from)
        && query.until.is_none_or(|until| row.columns.time < until)
}

