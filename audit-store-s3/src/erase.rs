//! Erasing and rewrapping: side packs are written anew, and nothing of the old ones stays.

use std::collections::{BTreeMap, BTreeSet};

use audit_core::datakey::KeyRecord;
use audit_core::{Error, Result};
use bytes::Bytes;
use uuid::Uuid;

use crate::batch::Header;
use crate::names;
use crate::shared::{Shared, changes_of, locked};
use crate::side::Side;

/// Other processes that change the same at the same time, before it is called trouble.
const RACES_MAX: u32 = 100;

impl Shared {
    /// See [`audit_core::store::Store::rewrap`].
    pub(crate) async fn rewrap(&self, records: &[KeyRecord]) -> Result<()> {
        self.log_or_invalid().await?;
        if records.is_empty() {
            return Ok(());
        }
        let new: BTreeMap<Uuid, &KeyRecord> = records.iter().map(|key| (key.id, key)).collect();
        // All of them are looked up before the first is written.
        let (affected, missing) = self.batches_of_keys(new.keys().copied()).await?;
        if let Some(id) = missing.first() {
            return Err(Error::invalid(format!("data key {id} has no record")));
        }
        self.change(&affected, |side| {
            let mut changed = false;
            for key in &mut side.keys {
                if let Some(record) = new.get(&key.id)
                    && *key != **record
                {
                    *key = (*record).clone();
                    changed = true;
                }
            }
            changed
        })
        .await
    }

    /// See [`audit_core::store::Store::erase`].
    pub(crate) async fn erase(&self, keys: &[Uuid], indexes: &[u64]) -> Result<()> {
        self.log_or_invalid().await?;
        let Some(tip) = self.tip().await? else {
            return Ok(());
        };
        let keys: BTreeSet<Uuid> = keys.iter().copied().collect();
        let mut affected = BTreeSet::new();
        for index in indexes.iter().filter(|index| **index < tip.end()) {
            affected.insert(self.locate(*index, &tip).await?);
        }
        affected.extend(self.batches_of_keys(keys.iter().copied()).await?.0);
        self.change(&affected, |side| {
            let before = side.keys.len();
            side.keys.retain(|key| !keys.contains(&key.id));
            let mut changed = side.keys.len() < before;
            for index in indexes {
                if let Some(row) = side.row_mut(*index) {
                    changed |= row.tokens.is_some() || !row.erased;
                    row.tokens = None;
                    row.erased = true;
                }
            }
            changed
        })
        .await
    }

    /// Writes the side packs of some batches anew, and removes all that was written before.
    async fn change(
        &self,
        numbers: &BTreeSet<u64>,
        mut change: impl FnMut(&mut Side) -> bool + Send,
    ) -> Result<()> {
        for number in numbers {
            let header = self.header(*number).await?;
            if header.skipped {
                continue;
            }
            self.change_side(&header, &mut change).await?;
        }
        // Dying here: what was read before is still used by others, and old versions are there. The same call goes on.
        self.count_change().await?;
        let changes = self.read_changes().await?;
        // No run counts any more; whoever publishes makes them again, one with each checkpoint.
        *locked(&self.compacted) = (0, changes);
        self.sweep(names::RUNS, true).await?;
        self.sweep(names::SIDES, false).await
    }

    /// Writes a side pack anew, over nothing but what was read: another process that erases or rewraps at the same time
    /// would be undone otherwise.
    async fn change_side(
        &self,
        header: &Header,
        change: &mut (impl FnMut(&mut Side) -> bool + Send),
    ) -> Result<()> {
        let name = names::side(header.number, &header.nonce);
        for _ in 0..RACES_MAX {
            // Never from memory, for the same reason.
            let (mut side, etag) = self.read_side(header).await?;
            if !change(&mut side) {
                return Ok(());
            }
            let bytes = side.encode()?.into();
            let swapped = self.bucket.swap(&name, etag.as_deref(), bytes).await?;
            if swapped.is_some() {
                return Ok(());
            }
        }
        Err(Error::unavailable(format!(
            "{RACES_MAX} times another process changed {name}"
        )))
    }

    /// Counts `changes` up. By a random step: of two processes that do so at once each must see its own number, or one
    /// of them took the other's write for its own, and what was read in between for new.
    async fn count_change(&self) -> Result<()> {
        for _ in 0..RACES_MAX {
            let mut step = [0; 4];
            self.ids.fill(&mut step);
            let object = self.bucket.get(names::CHANGES).await?;
            let (before, etag) = match &object {
                Some(object) => (changes_of(&object.bytes)?, object.etag.as_deref()),
                None => (0, None),
            };
            let after = before
                .saturating_add(1)
                .saturating_add(u32::from_be_bytes(step).into());
            let bytes = Bytes::copy_from_slice(&after.to_be_bytes());
            let swapped = self.bucket.swap(names::CHANGES, etag, bytes).await?;
            if swapped.is_some() {
                return Ok(());
            }
        }
        Err(Error::unavailable(format!(
            "{RACES_MAX} times another process counted `changes` up"
        )))
    }

    /// Deletes every version with a beginning for good, or all but the newest of each key.
    async fn sweep(&self, beginning: &str, newest_too: bool) -> Result<()> {
        let mut from = None;
        // The key whose newest version was listed; versions are listed newest first.
        let mut newest = None;
        loop {
            let (versions, next) = self.bucket.versions(beginning, from.as_ref()).await?;
            for version in versions {
                // One that is listed before the newest is being written at this moment. Below a delete marker nothing is
                // older than what is wanted: the marker goes, and shows the version again that it hid.
                let older = newest.as_ref() == Some(&version.key);
                if newest_too || older || version.marker {
                    self.bucket.delete(&version.key, Some(&version.id)).await?;
                } else if version.latest {
                    newest = Some(version.key);
                }
            }
            match next {
                Some(mark) => from = Some(mark),
                None => return Ok(()),
            }
        }
    }
}
