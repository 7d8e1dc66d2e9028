//! Copying a log from one store to another, whatever the two engines are.
//!
//! A copy goes on where the target ends, so one that was cut is repeated, and one that is repeated follows the log. What it
//! reads it holds against the source's tree, and the tree against the log's own checkpoints, before it writes; what it
//! writes are the same entries, so root hashes and checkpoints are the same.
//!
//! It lives here, on the store contract alone, so that programs, the facade and mirrors share one.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use audit_tlog::Hash;
use audit_tlog::checkpoint;
use audit_tlog::hash::leaf_hash;
use audit_tlog::note::VerifierKey;
use audit_tlog::tile::{EdgeTiles, TILE_WIDTH, Tile};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::chain::verify_signed;
use crate::datakey::KeyRecord;
use crate::entry::{Entry, LogKeys, Role, kinds};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Kind;
use crate::hex::{Digest, Hex};
use crate::log::check_continues;
use crate::reader::edge_at;
use crate::seal::sha256;
use crate::store::{Batch, Columns, Head, Parts, Query, ReadStore, Row, Store};

/// Rows of one batch; a batch ends earlier where the source's pages do, at about 4 MiB.
const BATCH_ROWS_MAX: u64 = 4096;
/// Rows, records, indexes and checkpoints that are read at once.
const PAGE: usize = 1000;
/// Data keys whose record is another than when it was made, and that wait for the entry that explains it. With 64 bytes
/// each; more of them are explained in several passes.
const CHANGED_MAX: usize = 65_536;
/// Records that are looked up at the same time.
const LOOKUPS: usize = 16;
/// Levels that a tree can have tiles at.
const LEVELS: u8 = 8;

/// How far to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Until {
    /// To the end that the source has when the copy starts.
    Head,
    /// To the source's latest checkpoint.
    Published,
}

/// What a copy is held against. All of it comes from whoever copies, not from the source.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CopyOptions {
    /// The log's public key.
    pub vkey: VerifierKey,
    /// The leaf hash of the log's first entry; it pins the writer keys.
    pub opened: Option<Hash>,
    /// Rows of one batch, at most.
    pub batch_rows_max: u64,
}

impl CopyOptions {
    /// For the log of this key.
    #[must_use]
    pub fn new(vkey: VerifierKey) -> Self {
        Self {
            vkey,
            opened: None,
            batch_rows_max: BATCH_ROWS_MAX,
        }
    }
}

/// What one turn of a copy did, and where the target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// Entries that were copied.
    pub entries: u64,
    /// Their bytes, with those of their stored parts.
    pub bytes: u64,
    /// Checkpoints that were copied.
    pub checkpoints: u64,
    /// Records of data keys that were copied.
    pub keys: u64,
    /// Records of data keys that were replaced by those of a later generation.
    pub rewrapped: u64,
    /// Entries among the copied ones whose content is erased.
    pub erased: u64,
    /// Data keys that were destroyed in the target, because they are in the source.
    pub destroyed: u64,
    /// `key.rewrapped` entries whose records the source doesn't have yet, or has lost again.
    pub unsettled: u64,
    /// Entries in the target.
    pub size: u64,
    /// The root hash of the target.
    pub root: Hash,
    /// The size of the greatest checkpoint that both have, 0 if there is none.
    pub published: u64,
}

/// How far a turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyProgress {
    /// Entries in the target.
    pub size: u64,
    /// Entries in the target when the turn ends.
    pub end: u64,
    /// Bytes that were copied.
    pub bytes: u64,
}

/// Who is told how far a turn is.
pub type OnProgress<'a> = &'a mut (dyn FnMut(CopyProgress) + Send);

/// Copies a log into a store, and keeps the copy up to date.
///
/// What a row is, it stays: with content or erased, under a data key as it was made, rewrapped or destroyed. A key that
/// `key.destroyed` names is destroyed in the target too, in whatever order source and copy come to it.
///
/// Memory is flat, but for about 40 bytes for each destroyed data key.
///
/// What isn't looked at: MAC chains, order within runs, token rows, content. That is the verifier's work, on either store.
pub struct Copier {
    source: Arc<dyn ReadStore>,
    target: Arc<dyn Store>,
    options: CopyOptions,
    authority: Authority,
    /// The greatest size up to which both stores' checkpoints were compared.
    checkpoints: u64,
    /// Indexes of `key.rewrapped` entries whose records the source didn't have yet.
    rewrapping: Vec<u64>,
    /// Records that differ from what the entries so far say, by the digest that they have, and where that was seen.
    changed: BTreeMap<Uuid, (Digest, u64)>,
    /// The last turn went through: nothing is left half done.
    clean: bool,
}

impl fmt::Debug for Copier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copier")
            .field("origin", &self.options.vkey.name())
            .finish_non_exhaustive()
    }
}

/// One turn.
struct Turn {
    until: Until,
    /// The source's end; every batch is proven against it.
    head: Head,
    /// Where to stop.
    end: u64,
    /// The target's tree.
    edge: EdgeTiles,
    copied: Copied,
}

/// A row that fits its entry.
struct Checked {
    row: Row,
    entry: Entry,
    leaf: Hash,
    /// Something that the entry commits to is not there.
    lacks: bool,
}

impl Copier {
    /// A copy of the log in `source` to `target`, which is made the log's store if it is none yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: the source holds no log. [`ErrorKind::Invalid`]: source or target holds another log than
    /// the key's.
    pub async fn open(
        source: Arc<dyn ReadStore>,
        target: Arc<dyn Store>,
        options: CopyOptions,
    ) -> Result<Self> {
        let origin = options.vkey.name();
        let other = |whose: &str, found: &str| {
            Error::invalid(format!(
                "the {whose} holds the log {found:?}, the public key is of {origin:?}"
            ))
        };
        match source.description().await? {
            Some(description) if description.origin == origin => {}
            Some(description) => return Err(other("source", &description.origin)),
            None => return Err(Error::not_found("the source holds no log")),
        }
        match target.description().await? {
            Some(description) if description.origin == origin => {}
            Some(description) => return Err(other("target", &description.origin)),
            // Dying behind this: an empty log, which the next copy fills.
            None => target.create(origin).await?,
        }
        Ok(Self {
            source,
            target,
            options,
            authority: Authority::default(),
            checkpoints: 0,
            rewrapping: Vec::new(),
            changed: BTreeMap::new(),
            clean: false,
        })
    }

    /// Brings the target up to the source.
    ///
    /// Each batch is in the target whole or not at all, and proven before. Whatever ends a turn, the next one goes on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`]: the source contradicts itself or its checkpoints, from the named index on; everything
    /// before it that is proven is copied. [`ErrorKind::RolledBack`]: the source is shorter than the target, or both hold
    /// different histories from the named index on; nothing is written. [`ErrorKind::Invalid`]: somebody else writes to
    /// the target. [`ErrorKind::Unavailable`]: the same call may succeed later. Else what the stores say.
    pub async fn advance(&mut self, until: Until, progress: OnProgress<'_>) -> Result<Copied> {
        // Dying anywhere in here leaves a target that holds the beginning of the log, each checkpoint over it or none, and
        // maybe keys that are destroyed or rewrapped in the source alone: `catch_up` finds those.
        let clean = std::mem::replace(&mut self.clean, false);
        let mut turn = self.begin(until).await?;
        if !clean {
            self.catch_up(&mut turn).await?;
        }
        self.agree_on_checkpoints(&mut turn).await?;
        tell(progress, &turn);
        loop {
            while turn.edge.size() < turn.end {
                self.step(&mut turn).await?;
                self.agree_on_checkpoints(&mut turn).await?;
                tell(progress, &turn);
            }
            self.explain_changed().await?;
            self.settle(&mut turn).await?;
            // What was destroyed meanwhile may have moved the end: the entry that says so belongs to the copy.
            if turn.edge.size() >= turn.end {
                break;
            }
        }
        self.clean = true;
        turn.copied.published = self.checkpoints;
        turn.copied.unsettled = self.rewrapping.len() as u64;
        Ok(turn.copied)
    }

    /// Whether the last turn left nothing to do but what came to the source since.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.clean && self.rewrapping.is_empty()
    }

    /// Holds the source's end against its latest checkpoint, and the target's against the source's.
    async fn begin(&mut self, until: Until) -> Result<Turn> {
        // The checkpoint first: it must not be ahead of the head because the log grew in between.
        let published = self.latest_checkpoint().await?;
        let head = self.source.head().await?;
        if let Some((size, root)) = &published {
            let whose = "its own latest checkpoint";
            if let Err(e) = check_continues(&*self.source, &head, *size, root, whose).await {
                return Err(self.not_of_its_checkpoint(e, &head, *size).await);
            }
        }
        let target = self.target.head().await?;
        if target.size > head.size {
            return Err(Error::new(
                ErrorKind::RolledBack,
                format!(
                    "the source holds {} entries, the target {} already",
                    head.size, target.size
                ),
            ));
        }
        let held = target.edge.root();
        let same = check_continues(&*self.source, &head, target.size, &held, "the target");
        if let Err(e) = same.await {
            return Err(if e.kind() == ErrorKind::RolledBack {
                let at = self.first_difference(target.size).await?;
                let what = "source and target hold different histories from here on";
                Error::new(ErrorKind::RolledBack, what).at(at)
            } else {
                e
            });
        }
        self.authority
            .read_to(&*self.source, head.size, &self.options)
            .await?;
        let end = match until {
            Until::Head => head.size,
            // The target may hold more: what was copied before isn't taken back.
            Until::Published => published.map_or(0, |(size, _)| size).max(target.size),
        };
        let mut edge = target.edge;
        drop(edge.take_changed());
        Ok(Turn {
            until,
            head,
            end,
            copied: Copied {
                entries: 0,
                bytes: 0,
                checkpoints: 0,
                keys: 0,
                rewrapped: 0,
                erased: 0,
                destroyed: 0,
                unsettled: 0,
                size: edge.size(),
                root: edge.root(),
                published: 0,
            },
            edge,
        })
    }

    async fn latest_checkpoint(&self) -> Result<Option<(u64, Hash)>> {
        let Some(note) = self.source.latest_checkpoint().await? else {
            return Ok(None);
        };
        self.open_checkpoint(&note).map(Some)
    }

    fn open_checkpoint(&self, note: &[u8]) -> Result<(u64, Hash)> {
        let vkey = &self.options.vkey;
        let (checkpoint, _) = checkpoint::open(note, vkey.name(), vkey).map_err(|e| {
            Error::corrupt("a checkpoint in the source is not signed by this log's key").because(e)
        })?;
        Ok((checkpoint.size, checkpoint.root))
    }

    /// Says up to where a source is right whose latest checkpoint commits to something else than it holds.
    async fn not_of_its_checkpoint(&self, e: Error, head: &Head, size: u64) -> Error {
        if e.kind() != ErrorKind::RolledBack {
            return e;
        }
        let end = head.size.min(size);
        let good = self.last_good_checkpoint(end).await.unwrap_or_default();
        let what = if head.size < size {
            format!(
                "the source holds {} entries, but its latest checkpoint commits to {size}",
                head.size
            )
        } else {
            format!(
                "the source's tree is not the one that its latest checkpoint commits to; the first bad index lies from \
                 {good} to {}",
                size - 1
            )
        };
        Error::corrupt(what).at(if head.size < size { head.size } else { good })
    }

    /// The greatest size at which a checkpoint holds, all before it holding too.
    async fn last_good_checkpoint(&self, end: u64) -> Result<u64> {
        let mut good = 0;
        let mut checkpoints = Checkpoints::new(0);
        while let Some((size, note)) = checkpoints.next(&*self.source, end).await? {
            let (_, root) = self.open_checkpoint(&note)?;
            if edge_at(&*self.source, size).await?.root() != root {
                break;
            }
            good = size;
        }
        Ok(good)
    }

    /// The first index at which two trees differ whose first `size` leaves do.
    async fn first_difference(&self, size: u64) -> Result<u64> {
        let (mut same, mut differ) = (0, size);
        while differ - same > 1 {
            let middle = same + (differ - same) / 2;
            let source = edge_at(&*self.source, middle).await?.root();
            if source == edge_at(&*self.target, middle).await?.root() {
                same = middle;
            } else {
                differ = middle;
            }
        }
        Ok(differ.saturating_sub(1))
    }

    /// Finishes in the target what another turn may have left.
    async fn catch_up(&mut self, turn: &mut Turn) -> Result<()> {
        let held = turn.edge.size();
        if held == 0 {
            return Ok(());
        }
        let destroyed: Vec<Uuid> = self.authority.destroyed_below(held).collect();
        for page in destroyed.chunks(PAGE) {
            self.destroy(page.iter().copied().collect(), turn).await?;
        }
        // Its records may have come to the source behind the turn that copied it.
        let last = Query {
            kind: Some(own_kind(kinds::KEY_REWRAPPED)),
            indexes: 0..held,
            descending: true,
            limit: 1,
            ..Query::default()
        };
        self.rewrapping = self.source.find(&last).await?;
        self.join_keys(turn).await
    }

    /// Copies one batch.
    async fn step(&mut self, turn: &mut Turn) -> Result<()> {
        let start = turn.edge.size();
        let end = turn
            .end
            .min(start.saturating_add(self.options.batch_rows_max.max(1)));
        let rows = self.source.rows(start..end, Parts::With).await?;
        let (mut rows, mut bad) = tokio::task::spawn_blocking(move || check_rows(start..end, rows))
            .await
            .map_err(|e| Error::unavailable("checking entries was stopped").because(e))?;
        if let Some((at, e)) = self.authority.check(&rows) {
            rows.truncate(at);
            bad = Some(e);
        }
        let (mut edge, mut tiles) = grow(&turn.edge, &rows);
        if let Some((keep, e)) = self.unlike_source(start, &tiles).await? {
            rows.truncate(keep);
            bad = Some(e);
            (edge, tiles) = grow(&turn.edge, &rows);
        }
        if rows.is_empty() {
            return Err(bad.unwrap_or_else(|| {
                Error::corrupt("the source lacks an entry within its log").at(start)
            }));
        }
        // Behind this the rows are those that the source's tree commits to, and so its latest checkpoint.
        self.proven(turn, &edge, start).await?;
        let (keys, destroys) = self.keys_of(turn, &mut rows).await?;
        let entries = rows.len() as u64;
        let rewraps = indexes_of(&rows, kinds::KEY_REWRAPPED);
        let batch = Batch {
            keys,
            tiles,
            rows: rows.into_iter().map(|checked| checked.row).collect(),
        };
        let copied = &mut turn.copied;
        copied.keys += batch.keys.len() as u64;
        copied.bytes += batch.rows.iter().map(row_bytes).sum::<u64>();
        self.append(batch, &turn.edge).await?;
        // Durable. Dying from here on: the next turn goes on behind this batch, and finds the destroyed keys again.
        turn.edge = edge;
        copied.entries += entries;
        copied.size = turn.edge.size();
        copied.root = turn.edge.root();
        if !destroys.is_empty() {
            self.destroy(destroys, turn).await?;
        }
        self.rewrapping.extend(rewraps);
        match bad {
            Some(e) => {
                self.agree_on_checkpoints(turn).await?;
                Err(e)
            }
            None => Ok(()),
        }
    }

    /// Compares the tiles that a batch makes with the source's: how many of its rows are good, and what is wrong.
    async fn unlike_source(&self, start: u64, tiles: &[Tile]) -> Result<Option<(usize, Error)>> {
        for tile in tiles {
            let stored = self.source.tile(tile.id).await?;
            let stored = stored.unwrap_or_default();
            if stored == tile.hashes {
                continue;
            }
            let place = tile.hashes.iter().zip(&stored).take_while(|(a, b)| a == b);
            let place = tile.id.index * u64::from(TILE_WIDTH) + place.count() as u64;
            let leaf = place
                .checked_shl(8 * u32::from(tile.id.level))
                .unwrap_or(u64::MAX);
            let keep = if tile.id.level == 0 {
                usize::try_from(leaf.saturating_sub(start)).unwrap_or_default()
            } else {
                0
            };
            let what = format!(
                "{} of the source is not the one that its entries make: an entry or the tile was changed",
                tile.id
            );
            return Ok(Some((keep, Error::corrupt(what).at(leaf.max(start)))));
        }
        Ok(None)
    }

    async fn proven(&self, turn: &Turn, edge: &EdgeTiles, start: u64) -> Result<()> {
        let size = edge.size();
        let root = edge.root();
        match check_continues(&*self.source, &turn.head, size, &root, "its entries").await {
            Err(e) if e.kind() == ErrorKind::RolledBack => Err(Error::corrupt(format!(
                "the source's entries are not those that its tree of {} commits to; the first bad index lies from {start} \
                 to {}",
                turn.head.size,
                size - 1
            ))
            .at(start)),
            result => result,
        }
    }

    /// Looks up the data keys of a batch, takes the content from entries whose key is destroyed, and answers with the
    /// records to copy and the keys that these entries destroy.
    async fn keys_of(
        &mut self,
        turn: &mut Turn,
        rows: &mut [Checked],
    ) -> Result<(Vec<KeyRecord>, BTreeSet<Uuid>)> {
        let mut ids: BTreeMap<Uuid, u64> = BTreeMap::new();
        let mut gone: BTreeSet<Uuid> = BTreeSet::new();
        for Checked {
            row, entry, lacks, ..
        } in &*rows
        {
            let introduced = entry.keys.iter().flatten().map(|key| key.id);
            for id in introduced.chain(entry.key) {
                ids.entry(id).or_insert(row.index);
            }
            if *lacks {
                gone.extend(entry.key);
            }
        }
        // Behind the rows: content is copied only while its key is there, so whoever has the content has the key's record
        // too, and a destroyed key whose record is still in the target is one whose content may be.
        let mut records = lookup(&self.source, ids.keys().copied().collect()).await?;
        gone.extend(ids.keys().filter(|id| !records.contains_key(*id)));
        for id in &gone {
            let at = ids.get(id).copied().unwrap_or_default();
            self.explain_gone(turn, *id, at).await?;
        }
        if !gone.is_empty() {
            // Entries of before may be in the target with their content.
            self.destroy(gone.clone(), turn).await?;
        }
        let mut keys = Vec::new();
        let mut destroys = BTreeSet::new();
        for Checked { row, entry, .. } in rows {
            if entry.key.is_some_and(|id| gone.contains(&id)) {
                row.tokens = None;
                row.parts = None;
                turn.copied.erased += 1;
            }
            for introduced in entry.keys.iter().flatten() {
                let Some(record) = records.remove(&introduced.id) else {
                    continue;
                };
                if gone.contains(&introduced.id) {
                    continue;
                }
                let digest = record.digest().digest;
                if digest != introduced.digest {
                    self.changed.insert(record.id, (digest, row.index));
                }
                keys.push(record);
            }
            if let Some(destroyed) = destroyed_by(entry) {
                destroys.extend(destroyed);
            }
        }
        if self.changed.len() >= CHANGED_MAX {
            self.explain_changed().await?;
        }
        Ok((keys, destroys))
    }

    /// A key, or content under it, is gone: an entry must say that it was destroyed.
    async fn explain_gone(&mut self, turn: &mut Turn, id: Uuid, at: u64) -> Result<()> {
        if !self.authority.destroyed.contains_key(&id) {
            // Maybe a moment ago.
            let head = self.source.head().await?;
            self.authority
                .read_to(&*self.source, head.size, &self.options)
                .await?;
            if self.authority.destroyed.contains_key(&id) && turn.until == Until::Head {
                let (size, root) = (turn.head.size, turn.head.edge.root());
                let whose = "this copy when it started";
                check_continues(&*self.source, &head, size, &root, whose).await?;
                turn.end = head.size;
                turn.head = head;
            }
        }
        match self.authority.destroyed.get(&id).copied() {
            Some(by) if by < turn.end => Ok(()),
            Some(by) => Err(Error::unavailable(format!(
                "data key {id} is being destroyed by entry {by}, which no checkpoint commits to yet"
            ))
            .at(at)),
            None => Err(Error::corrupt(format!(
                "the source lacks data key {id} or what it sealed, and no entry says that it was destroyed"
            ))
            .at(at)),
        }
    }

    /// Records that differ from what the entries that introduce them say must be those of a `key.rewrapped`.
    async fn explain_changed(&mut self) -> Result<()> {
        if self.changed.is_empty() {
            return Ok(());
        }
        let mut from = 0;
        loop {
            let found = find_kind(&*self.source, kinds::KEY_REWRAPPED, from..u64::MAX).await?;
            let Some(last) = found.last() else { break };
            from = last + 1;
            for index in found {
                let entry = self.authority.signed_entry(&*self.source, index).await?;
                if let Some(LogKeys::Records(records)) = entry.log.and_then(|log| log.keys) {
                    for record in records {
                        if self
                            .changed
                            .get(&record.id)
                            .is_some_and(|(is, _)| *is == record.digest)
                        {
                            self.changed.remove(&record.id);
                        }
                    }
                }
            }
        }
        match self.changed.pop_first() {
            None => Ok(()),
            Some((id, (_, at))) => {
                self.changed.clear();
                Err(Error::corrupt(format!(
                    "the source's record of data key {id} is not one that an entry names"
                ))
                .at(at))
            }
        }
    }

    async fn append(&self, batch: Batch, edge: &EdgeTiles) -> Result<()> {
        let Some(first) = batch.rows.first() else {
            return Ok(());
        };
        let (event, index) = (first.columns.event, first.index);
        let edge = edge.clone();
        let build = move |head: &Head| {
            let same = head.size == edge.size()
                && (0..LEVELS).all(|level| head.edge.tile(level) == edge.tile(level));
            if same {
                Ok(batch.clone())
            } else {
                Err(Error::invalid(
                    "somebody else writes to the target; only one copy at a time, and no log",
                ))
            }
        };
        match self.target.append(Box::new(build)).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::Unknown => {
                // The answer comes only once the outcome is settled.
                match self.target.position(event).await? {
                    Some(there) if there == index => Ok(()),
                    Some(there) => Err(Error::corrupt(format!(
                        "the target has event {event} at another index"
                    ))
                    .at(there)),
                    None => Err(Error::unavailable("the target didn't take a batch").because(e)),
                }
            }
            Err(e) => Err(e),
        }
    }

    /// Copies the checkpoints over what the target holds, and compares those that it has.
    async fn agree_on_checkpoints(&mut self, turn: &mut Turn) -> Result<()> {
        let end = turn.edge.size();
        let mut source = Checkpoints::new(self.checkpoints);
        let mut target = Checkpoints::new(self.checkpoints);
        let mut there = target.next(&*self.target, end).await?;
        while let Some((size, note)) = source.next(&*self.source, end).await? {
            if let Some((have, _)) = &there
                && *have < size
            {
                break;
            }
            if let Some((have, known)) = &there
                && *have == size
            {
                if *known != note {
                    return Err(Error::new(
                        ErrorKind::RolledBack,
                        format!("source and target have different checkpoints of {size} entries"),
                    ));
                }
                there = target.next(&*self.target, end).await?;
            } else {
                let (says, root) = self.open_checkpoint(&note)?;
                // By the target's own tiles, which were made of the entries.
                if says != size || edge_at(&*self.target, size).await?.root() != root {
                    return Err(Error::corrupt(format!(
                        "the source's checkpoint of {size} entries commits to others than it has, though its latest one \
                         doesn't"
                    )));
                }
                self.target.put_checkpoint(size, &note).await?;
                turn.copied.checkpoints += 1;
            }
            self.checkpoints = size;
        }
        match there {
            None => Ok(()),
            Some((size, _)) => Err(Error::new(
                ErrorKind::RolledBack,
                format!("the target has a checkpoint of {size} entries that the source lacks"),
            )),
        }
    }

    /// Brings rewrapped records to the target, as far as the source has them.
    async fn settle(&mut self, turn: &mut Turn) -> Result<()> {
        let waiting = std::mem::take(&mut self.rewrapping);
        let mut settled = false;
        for index in waiting {
            if self.is_rewrapped(index).await? {
                settled = true;
            } else {
                self.rewrapping.push(index);
            }
        }
        if settled {
            self.join_keys(turn).await?;
        }
        Ok(())
    }

    /// Whether the source has the records that a `key.rewrapped` names, or later ones.
    async fn is_rewrapped(&self, index: u64) -> Result<bool> {
        let entry = self.authority.signed_entry(&*self.source, index).await?;
        let Some(log) = entry.log else {
            return Ok(true);
        };
        let (generation, keys) = (log.generation.unwrap_or_default(), log.keys);
        let Some(LogKeys::Records(named)) = keys else {
            return Ok(true);
        };
        let records = lookup(&self.source, named.iter().map(|key| key.id).collect()).await?;
        Ok(named.iter().all(|named| {
            records.get(&named.id).is_none_or(|record| {
                u64::from(record.generation) > generation || record.digest() == *named
            })
        }))
    }

    /// Walks the records of both stores side by side.
    async fn join_keys(&mut self, turn: &mut Turn) -> Result<()> {
        let mut source = Keys::default();
        let mut target = Keys::default();
        let mut theirs = None;
        let mut newer = Vec::new();
        while let Some(held) = target.next(&*self.target).await? {
            // None at first, and when the last one found its like.
            if theirs.is_none() {
                theirs = source.next(&*self.source).await?;
            }
            while theirs.as_ref().is_some_and(|record| record.id < held.id) {
                theirs = source.next(&*self.source).await?;
            }
            match theirs.take_if(|record| record.id == held.id) {
                Some(record) if record == held => {}
                Some(record) if record.generation < held.generation => {
                    return Err(Error::new(
                        ErrorKind::RolledBack,
                        format!(
                            "the source's record of data key {} is of generation {}, the target's of {}",
                            record.id, record.generation, held.generation
                        ),
                    ));
                }
                Some(record) => {
                    self.changed
                        .insert(record.id, (record.digest().digest, turn.edge.size()));
                    newer.push(record);
                    if newer.len() >= PAGE {
                        self.rewrap(&mut newer, turn).await?;
                    }
                }
                None => {
                    self.explain_gone(turn, held.id, turn.edge.size()).await?;
                    self.destroy(BTreeSet::from([held.id]), turn).await?;
                }
            }
        }
        self.rewrap(&mut newer, turn).await
    }

    async fn rewrap(&mut self, newer: &mut Vec<KeyRecord>, turn: &mut Turn) -> Result<()> {
        if newer.is_empty() {
            return Ok(());
        }
        self.explain_changed().await?;
        self.target.rewrap(newer).await?;
        turn.copied.rewrapped += newer.len() as u64;
        newer.clear();
        Ok(())
    }

    /// Destroys data keys in the target, and all that they sealed there. The records go last, so that a turn that was cut
    /// finds them and comes here again.
    async fn destroy(&self, ids: BTreeSet<Uuid>, turn: &mut Turn) -> Result<()> {
        let target: Arc<dyn ReadStore> = Arc::clone(&self.target) as _;
        let there: Vec<Uuid> = lookup(&target, ids.into_iter().collect())
            .await?
            .into_keys()
            .collect();
        if there.is_empty() {
            return Ok(());
        }
        let ids: BTreeSet<Uuid> = there.iter().copied().collect();
        let end = turn.edge.size();
        let mut next = 0;
        let mut indexes = Vec::new();
        while next < end {
            let rows = self.target.rows(next..end, Parts::Without).await?;
            if rows.is_empty() {
                return Err(Error::corrupt("the target lacks an entry within its log").at(next));
            }
            for row in rows {
                let entry = Entry::decode(&row.entry).map_err(|e| e.at(row.index))?;
                if entry.key.is_some_and(|id| ids.contains(&id)) {
                    indexes.push(row.index);
                }
                next = row.index + 1;
            }
            if indexes.len() >= PAGE {
                self.target.erase(&[], &indexes).await?;
                indexes.clear();
            }
        }
        self.target.erase(&[], &indexes).await?;
        self.target.erase(&there, &[]).await?;
        turn.copied.destroyed += there.len() as u64;
        Ok(())
    }
}

/// Checks that the log in `longer` goes on where the one in `shorter` ends.
///
/// # Errors
///
/// [`ErrorKind::RolledBack`] if it is shorter, or another history. Else what the stores say.
pub async fn extends(longer: &dyn ReadStore, shorter: &dyn ReadStore) -> Result<()> {
    let held = shorter.head().await?;
    let head = longer.head().await?;
    check_continues(
        longer,
        &head,
        held.size,
        &held.edge.root(),
        "the other store",
    )
    .await
}

fn tell(progress: OnProgress<'_>, turn: &Turn) {
    progress(CopyProgress {
        size: turn.edge.size(),
        end: turn.end,
        bytes: turn.copied.bytes,
    });
}

fn own_kind(name: &str) -> Kind {
    Kind::new(name).expect("the log's own kinds are well formed")
}

fn row_bytes(row: &Row) -> u64 {
    (row.entry.len() + row.parts.as_ref().map_or(0, Vec::len)) as u64
}

fn indexes_of(rows: &[Checked], kind: &str) -> Vec<u64> {
    let rows = rows
        .iter()
        .filter(|checked| checked.entry.kind.as_str() == kind);
    rows.map(|checked| checked.row.index).collect()
}

fn destroyed_by(entry: &Entry) -> Option<&[Uuid]> {
    match entry.log.as_ref().and_then(|log| log.keys.as_ref()) {
        Some(LogKeys::Ids(ids)) if entry.kind.as_str() == kinds::KEY_DESTROYED => Some(ids),
        _ => None,
    }
}

/// The tree with the rows in it, and the tiles that grew.
fn grow(edge: &EdgeTiles, rows: &[Checked]) -> (EdgeTiles, Vec<Tile>) {
    let mut edge = edge.clone();
    for checked in rows {
        edge.push(checked.leaf);
    }
    let tiles = edge.take_changed();
    (edge, tiles)
}

/// Holds rows against their entries: those before the first bad one, and what is wrong with it.
fn check_rows(range: Range<u64>, rows: Vec<Row>) -> (Vec<Checked>, Option<Error>) {
    let mut good = Vec::with_capacity(rows.len());
    for (row, index) in rows.into_iter().zip(range) {
        match check_row(row, index) {
            Ok(checked) => good.push(checked),
            Err(e) => return (good, Some(e.at(index))),
        }
    }
    (good, None)
}

fn check_row(row: Row, index: u64) -> Result<Checked> {
    let wrong = |what: &str| Err(Error::corrupt(format!("in the source {what}")));
    if row.index != index {
        return wrong("an entry is missing");
    }
    let entry = Entry::decode(&row.entry)?;
    let columns = Columns {
        event: entry.event,
        kind: entry.kind.clone(),
        time: entry.time,
    };
    if row.columns != columns {
        return wrong("the columns are not what the entry says");
    }
    let mut lacks = false;
    match (&entry.tokens, &row.tokens) {
        (None, None) => {}
        (Some(digest), Some(set)) if set.digest() == *digest => {}
        (Some(_), None) => lacks = true,
        (_, Some(_)) => return wrong("the tokens are not those that the entry commits to"),
    }
    match (&entry.content, &row.parts) {
        (None, None) => {}
        (Some(content), Some(parts)) => {
            let says = [content.sha256]
                .into_iter()
                .chain(entry.payloads.iter().flatten().map(|p| p.sha256));
            let parts = entry.split_parts(parts)?;
            if !parts.iter().map(|part| sha256(part)).eq(says) {
                return wrong("the stored parts are not those that the entry commits to");
            }
        }
        (Some(_), None) => lacks = true,
        (None, Some(_)) => return wrong("there are stored parts of an entry that has none"),
    }
    if lacks && entry.key.is_none() {
        return wrong("something is missing, and the entry has no key that could be destroyed");
    }
    Ok(Checked {
        leaf: leaf_hash(&row.entry),
        row,
        entry,
        lacks,
    })
}

/// The records of data keys that are there.
async fn lookup(store: &Arc<dyn ReadStore>, ids: Vec<Uuid>) -> Result<HashMap<Uuid, KeyRecord>> {
    let mut found = HashMap::new();
    for ids in ids.chunks(LOOKUPS) {
        let mut tasks = JoinSet::new();
        for id in ids.iter().copied() {
            let store = Arc::clone(store);
            tasks.spawn(async move { store.key(id).await });
        }
        while let Some(record) = tasks.join_next().await {
            let record =
                record.map_err(|e| Error::unavailable("a look-up was stopped").because(e))??;
            if let Some(record) = record {
                found.insert(record.id, record);
            }
        }
    }
    Ok(found)
}

async fn find_kind(store: &dyn ReadStore, kind: &str, indexes: Range<u64>) -> Result<Vec<u64>> {
    let query = Query {
        kind: Some(own_kind(kind)),
        indexes,
        limit: PAGE,
        ..Query::default()
    };
    store.find(&query).await
}

async fn read_entry(store: &dyn ReadStore, index: u64) -> Result<(Entry, Hash)> {
    let rows = store.rows(index..index + 1, Parts::Without).await?;
    let row = rows
        .first()
        .ok_or_else(|| Error::corrupt("the source lacks an entry within its log").at(index))?;
    let entry = Entry::decode(&row.entry).map_err(|e| e.at(index))?;
    Ok((entry, leaf_hash(&row.entry)))
}

/// Who may destroy and rewrap keys, and which ones are destroyed. False entries of that sort would otherwise make a copy
/// destroy what the source still has.
#[derive(Default)]
struct Authority {
    /// Writer keys that entries register.
    writers: BTreeSet<Digest>,
    /// Destroyed data keys, and the entries that say so.
    destroyed: HashMap<Uuid, u64>,
    /// Entries up to here were looked at.
    read: u64,
}

impl Authority {
    /// Takes up the entries of the source up to `end` that register or destroy keys.
    async fn read_to(
        &mut self,
        source: &dyn ReadStore,
        end: u64,
        options: &CopyOptions,
    ) -> Result<()> {
        if end <= self.read {
            return Ok(());
        }
        if self.read == 0 {
            self.opening(source, options).await?;
        }
        for kind in [kinds::KEY_REGISTERED, kinds::KEY_DESTROYED] {
            let mut from = self.read;
            loop {
                let found = find_kind(source, kind, from..end).await?;
                let Some(last) = found.last() else { break };
                from = last + 1;
                for index in found {
                    let entry = self.signed_entry(source, index).await?;
                    self.take_up(index, &entry);
                }
            }
        }
        self.read = end;
        Ok(())
    }

    /// The first entry says which log this is, and by whom it is written.
    async fn opening(&mut self, source: &dyn ReadStore, options: &CopyOptions) -> Result<()> {
        let (entry, leaf) = read_entry(source, 0).await?;
        if options.opened.is_some_and(|opened| opened != leaf) {
            return Err(Error::corrupt(format!(
                "the leaf hash of the source's first entry is {leaf}, not the one that was given"
            ))
            .at(0));
        }
        let publisher: Digest = Hex(options.vkey.public_key());
        let log = entry.log.as_ref();
        let Some(LogKeys::Public(keys)) = log.and_then(|log| log.keys.as_ref()) else {
            return Err(Error::corrupt("the source's first entry opens no log").at(0));
        };
        if !keys
            .iter()
            .any(|key| key.role == Role::Publisher && key.public == publisher)
        {
            return Err(Error::corrupt(
                "the source's log was opened with another publisher key than the given one",
            )
            .at(0));
        }
        let writers = keys.iter().filter(|key| key.role == Role::Writer);
        self.writers.extend(writers.map(|key| key.public));
        self.signed(&entry).map_err(|e| e.at(0))
    }

    fn take_up(&mut self, index: u64, entry: &Entry) {
        if entry.kind.as_str() == kinds::KEY_REGISTERED
            && let Some(LogKeys::Public(keys)) =
                entry.log.as_ref().and_then(|log| log.keys.as_ref())
        {
            let writers = keys.iter().filter(|key| key.role == Role::Writer);
            self.writers.extend(writers.map(|key| key.public));
        }
        for id in destroyed_by(entry).into_iter().flatten() {
            self.destroyed.entry(*id).or_insert(index);
        }
    }

    fn destroyed_below(&self, end: u64) -> impl Iterator<Item = Uuid> {
        let destroyed = self
            .destroyed
            .iter()
            .filter(move |(_, index)| **index < end);
        destroyed.map(|(id, _)| *id)
    }

    /// The first of these rows that must be signed by a writer key and isn't. What the others say is taken up.
    fn check(&mut self, rows: &[Checked]) -> Option<(usize, Error)> {
        for (at, Checked { row, entry, .. }) in rows.iter().enumerate() {
            if entry.log.as_ref().is_some_and(|log| log.signer.is_some()) {
                if let Err(e) = self.signed(entry) {
                    return Some((at, e.at(row.index)));
                }
                self.take_up(row.index, entry);
            }
        }
        None
    }

    fn signed(&self, entry: &Entry) -> Result<()> {
        let signer = verify_signed(entry)?;
        if self.writers.contains(&signer) {
            Ok(())
        } else {
            Err(Error::corrupt(format!(
                "{} of run {} is signed by {signer}, which no entry registers as a writer key",
                entry.kind, entry.run
            )))
        }
    }

    async fn signed_entry(&self, source: &dyn ReadStore, index: u64) -> Result<Entry> {
        let (entry, _) = read_entry(source, index).await?;
        self.signed(&entry).map_err(|e| e.at(index))?;
        Ok(entry)
    }
}

/// The checkpoints of a store, page by page.
struct Checkpoints {
    after: u64,
    page: VecDeque<(u64, Vec<u8>)>,
}

impl Checkpoints {
    fn new(after: u64) -> Self {
        Self {
            after,
            page: VecDeque::new(),
        }
    }

    /// The next one with a size up to `end`.
    async fn next(&mut self, store: &dyn ReadStore, end: u64) -> Result<Option<(u64, Vec<u8>)>> {
        if self.page.is_empty() && self.after < end {
            self.page = store.checkpoints(self.after, PAGE).await?.into();
        }
        let next = self.page.pop_front();
        match &next {
            Some((size, _)) if *size <= end && *size > self.after => self.after = *size,
            Some((size, _)) if *size <= self.after => {
                return Err(Error::corrupt(
                    "checkpoints are not in the order of their sizes",
                ));
            }
            _ => {
                self.after = end;
                self.page.clear();
                return Ok(None);
            }
        }
        Ok(next)
    }
}

/// The records of a store, page by page.
#[derive(Default)]
struct Keys {
    after: Option<Uuid>,
    page: VecDeque<KeyRecord>,
    ended: bool,
}

impl Keys {
    async fn next(&mut self, store: &dyn ReadStore) -> Result<Option<KeyRecord>> {
        if self.page.is_empty() && !self.ended {
            self.page = store.keys(self.after, PAGE).await?.into();
            self.ended = self.page.is_empty();
        }
        let next = self.page.pop_front();
        if let Some(record) = &next {
            if self.after.is_some_and(|after| record.id <= after) {
                return Err(Error::corrupt(
                    "records of data keys are not in the order of their ids",
                ));
            }
            self.after = Some(record.id);
        }
        Ok(next)
    }
}
