//! Searching: index runs where there are some, side packs for the batches that are in none.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use audit_core::Result;
use audit_core::datakey::KeyRecord;
use audit_core::hex::Hex;
use audit_core::store::Query;
use audit_core::time::Timestamp;
use audit_core::token::Token;
use uuid::Uuid;

use crate::catalog::Segment;
use crate::codec::Cursor;
use crate::run::{Footer, Section, index_of, kind_prefix, kind_record};
use crate::shared::Shared;
use crate::side::{KEY_BYTES, Side, SideRow, decode_key};

/// Above every record that begins with what stands before it.
const ABOVE: [u8; 16] = [0xff; 16];

impl Shared {
    /// All batches there are now, as they can be searched.
    async fn all_segments(&self) -> Result<Vec<Segment>> {
        let Some(tip) = self.tip().await? else {
            return Ok(Vec::new());
        };
        self.read_changes().await?;
        self.segments(tip.number + 1).await
    }

    /// Side packs of some batches, in turn.
    async fn each_side(
        &self,
        numbers: Range<u64>,
        mut see: impl FnMut(&Arc<Side>) + Send,
    ) -> Result<()> {
        for number in numbers {
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
        for segment in self.segments(until).await?.into_iter().rev() {
            let found = match segment {
                Segment::Run(footer) => {
                    let lower = event.as_bytes();
                    let upper = [&lower[..], &ABOVE].concat();
                    let found = self
                        .scan(&footer, Section::Events, lower, &upper, 1)
                        .await?;
                    found.first().map(|record| index_of(record))
                }
                Segment::Sides(numbers) => {
                    let mut found = None;
                    for number in numbers.rev() {
                        let header = self.header(number).await?;
                        if header.skipped {
                            continue;
                        }
                        let side = self.side(&header).await?;
                        let row = side.indexed().find(|(_, row)| row.columns.event == event);
                        if let Some((index, _)) = row {
                            found = Some(index);
                            break;
                        }
                    }
                    found
                }
            };
            if found.is_some() {
                return Ok(found);
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
        let until = self.locate(last, &tip).await? + 1;
        let mut segments = self.segments(tip.number + 1).await?;
        if query.descending {
            segments.reverse();
        }
        for segment in segments {
            let left = query.limit - out.len();
            if left == 0 {
                break;
            }
            match segment {
                Segment::Run(footer) => {
                    if footer.end > query.indexes.start && footer.first < query.indexes.end {
                        let mut found = self.find_in_run(&footer, query).await?;
                        if query.descending {
                            found.reverse();
                        }
                        out.extend(found.into_iter().take(left));
                    }
                }
                Segment::Sides(numbers) => {
                    let numbers = numbers.start.max(first)..numbers.end.min(until);
                    self.find_in_sides(numbers, query, &mut out).await?;
                }
            }
        }
        Ok(out)
    }

    async fn find_in_sides(
        &self,
        mut numbers: Range<u64>,
        query: &Query,
        out: &mut Vec<u64>,
    ) -> Result<()> {
        while out.len() < query.limit {
            let next = if query.descending {
                numbers.next_back()
            } else {
                numbers.next()
            };
            let Some(number) = next else { break };
            let header = self.header(number).await?;
            if header.skipped {
                continue;
            }
            let side = self.side(&header).await?;
            let rows = side.indexed();
            let matching = rows.filter(|(index, row)| matches(*index, row, query));
            let mut found: Vec<u64> = matching.map(|(index, _)| index).collect();
            if query.descending {
                found.reverse();
            }
            out.extend(found.into_iter().take(query.limit - out.len()));
        }
        Ok(())
    }

    /// Indexes of the entries of a run that match, ascending.
    async fn find_in_run(&self, footer: &Footer, query: &Query) -> Result<Vec<u64>> {
        let timed = query.from.is_some() || query.until.is_some();
        let from = query.from.map_or(i64::MIN, Timestamp::as_micros);
        let until = query.until.map_or(i64::MAX, Timestamp::as_micros);
        if timed && (footer.time_max < from || footer.time_min >= until) {
            return Ok(Vec::new());
        }
        let start = query.indexes.start.to_be_bytes();
        let end = query.indexes.end.to_be_bytes();
        let mut found: Option<BTreeSet<u64>> = None;
        for token in &query.tokens {
            let lower = [&token.0[..], &start].concat();
            let upper = [&token.0[..], &end].concat();
            let rows = self
                .scan(footer, Section::Tokens, &lower, &upper, usize::MAX)
                .await?;
            let mut these: BTreeSet<u64> = rows.iter().map(|record| index_of(record)).collect();
            if let Some(found) = &found {
                these.retain(|index| found.contains(index));
            }
            if these.is_empty() {
                return Ok(Vec::new());
            }
            found = Some(these);
        }
        if timed || query.kind.is_some() {
            let (lower, upper) = match &query.kind {
                Some(kind) => {
                    let prefix = kind_prefix(kind.as_str());
                    ([&prefix[..], &start].concat(), [&prefix[..], &end].concat())
                }
                None => (Vec::new(), vec![0xff; 32]),
            };
            let rows = self
                .scan(footer, Section::Kinds, &lower, &upper, usize::MAX)
                .await?;
            let mut these = BTreeSet::new();
            for record in rows {
                let (_, index, time) = kind_record(&record)?;
                let is = query.indexes.contains(&index)
                    && (!timed || (from..until).contains(&time))
                    && found.as_ref().is_none_or(|found| found.contains(&index));
                if is {
                    these.insert(index);
                }
            }
            found = Some(these);
        }
        if let Some(found) = found {
            return Ok(found.into_iter().collect());
        }
        let end = footer.end.min(query.indexes.end);
        Ok((footer.first.max(query.indexes.start)..end).collect())
    }

    /// See [`audit_core::store::ReadStore::token_rows`].
    pub(crate) async fn token_rows(
        &self,
        after: Option<(Token, u64)>,
        limit: usize,
    ) -> Result<Vec<(Token, u64)>> {
        let mut least = Least::new(limit);
        // The first record that is greater.
        let lower = after.map_or(Vec::new(), |(token, index)| {
            [&token.0[..], &index.to_be_bytes(), &[0]].concat()
        });
        for segment in self.all_segments().await? {
            match segment {
                Segment::Run(footer) => {
                    let upper = [0xff; 25];
                    let rows = self
                        .scan(&footer, Section::Tokens, &lower, &upper, limit)
                        .await?;
                    for record in rows {
                        let mut at = Cursor::new("an index run", &record);
                        least.push((Hex(at.array()?), at.u64()?));
                    }
                }
                Segment::Sides(numbers) => {
                    self.each_side(numbers, |side| {
                        for (index, row) in side.indexed() {
                            for token in row.tokens.iter().flat_map(|set| &set.tokens) {
                                if after.is_none_or(|after| (*token, index) > after) {
                                    least.push((*token, index));
                                }
                            }
                        }
                    })
                    .await?;
                }
            }
        }
        Ok(least.rows.into_iter().collect())
    }

    /// The record of a data key, and the number of the batch whose side pack has it.
    pub(crate) async fn key_and_batch(
        &self,
        id: Uuid,
        segments: &[Segment],
    ) -> Result<Option<(KeyRecord, u64)>> {
        for segment in segments {
            match segment {
                Segment::Run(footer) => {
                    let lower = id.as_bytes();
                    let upper = [&lower[..], &[0xff; KEY_BYTES]].concat();
                    let found = self.scan(footer, Section::Keys, lower, &upper, 1).await?;
                    if let Some(record) = found.first() {
                        return key_record(record).map(Some);
                    }
                }
                Segment::Sides(numbers) => {
                    let mut found = None;
                    self.each_side(numbers.clone(), |side| {
                        if let Some(key) = side.key(id) {
                            found = Some((key.clone(), side.number));
                        }
                    })
                    .await?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
            }
        }
        Ok(None)
    }

    /// See [`audit_core::store::ReadStore::key`].
    pub(crate) async fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        let segments = self.all_segments().await?;
        Ok(self.key_and_batch(id, &segments).await?.map(|(key, _)| key))
    }

    /// The batches whose side packs have records of these keys, and the keys that have none.
    pub(crate) async fn batches_of_keys(
        &self,
        ids: impl IntoIterator<Item = Uuid>,
    ) -> Result<(BTreeSet<u64>, BTreeSet<Uuid>)> {
        let mut wanted: BTreeSet<Uuid> = ids.into_iter().collect();
        let mut batches = BTreeSet::new();
        if wanted.is_empty() {
            return Ok((batches, wanted));
        }
        for segment in self.all_segments().await? {
            match segment {
                Segment::Run(_) => {
                    let one = [segment];
                    for id in wanted.clone() {
                        if let Some((_, number)) = self.key_and_batch(id, &one).await? {
                            batches.insert(number);
                            wanted.remove(&id);
                        }
                    }
                }
                Segment::Sides(numbers) => {
                    self.each_side(numbers, |side| {
                        for key in &side.keys {
                            if wanted.remove(&key.id) {
                                batches.insert(side.number);
                            }
                        }
                    })
                    .await?;
                }
            }
        }
        Ok((batches, wanted))
    }

    /// See [`audit_core::store::ReadStore::keys`].
    pub(crate) async fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        let mut least = Least::new(limit);
        let lower = after.map_or(Vec::new(), |id| {
            [&id.as_bytes()[..], &[0xff; KEY_BYTES]].concat()
        });
        for segment in self.all_segments().await? {
            match segment {
                Segment::Run(footer) => {
                    let upper = [0xff; KEY_BYTES + 9];
                    let rows = self
                        .scan(&footer, Section::Keys, &lower, &upper, limit)
                        .await?;
                    for record in rows {
                        least.push(ById(key_record(&record)?.0));
                    }
                }
                Segment::Sides(numbers) => {
                    self.each_side(numbers, |side| {
                        for key in &side.keys {
                            if after.is_none_or(|after| key.id > after) {
                                least.push(ById(key.clone()));
                            }
                        }
                    })
                    .await?;
                }
            }
        }
        Ok(least.rows.into_iter().map(|key| key.0).collect())
    }

    /// See [`audit_core::store::ReadStore::keys_of_scope`].
    pub(crate) async fn keys_of_scope(&self, scope: Token) -> Result<Vec<KeyRecord>> {
        let mut found = Vec::new();
        for segment in self.all_segments().await? {
            match &segment {
                Segment::Run(footer) => {
                    let upper = [&scope.0[..], &[0xff; 17]].concat();
                    let rows = self
                        .scan(footer, Section::Scopes, &scope.0, &upper, usize::MAX)
                        .await?;
                    for record in rows {
                        let id = record.last_chunk().copied().unwrap_or_default();
                        let one = std::slice::from_ref(&segment);
                        let key = self.key_and_batch(Uuid::from_bytes(id), one).await?;
                        found.extend(key.map(|(key, _)| key));
                    }
                }
                Segment::Sides(numbers) => {
                    self.each_side(numbers.clone(), |side| {
                        found.extend(side.keys.iter().filter(|key| key.scope == scope).cloned());
                    })
                    .await?;
                }
            }
        }
        found.sort_unstable_by_key(|key| key.id);
        Ok(found)
    }
}

fn key_record(record: &[u8]) -> Result<(KeyRecord, u64)> {
    let mut at = Cursor::new("an index run", record);
    Ok((decode_key(&mut at)?, at.u64()?))
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
        && query
            .tokens
            .iter()
            .all(|token| tokens.binary_search(token).is_ok())
        && query
            .kind
            .as_ref()
            .is_none_or(|kind| *kind == row.columns.kind)
        && query.from.is_none_or(|from| row.columns.time >= from)
        && query.until.is_none_or(|until| row.columns.time < until)
}
