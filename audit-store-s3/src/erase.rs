//! Erasing and rewrapping: side packs are written anew, and nothing of the old ones stays.

use std::collections::{BTreeMap, BTreeSet};

use audit_core::datakey::KeyRecord;
use audit_core::{Error, Result};
use bytes::Bytes;
use uuid::Uuid;

use crate::names;
use crate::shared::{Shared, locked};
use crate::side::Side;

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
            // Never from memory: another process may have changed it.
            let mut side = self.read_side(&header).await?;
            if change(&mut side) {
                let name = names::side(side.number, &side.nonce);
                self.bucket.put(&name, side.encode()?.into()).await?;
            }
        }
        // Dying here: what was read before is still used by others, and old versions are there. The same call goes on.
        let changes = self.read_changes().await? + 1;
        let bytes = Bytes::copy_from_slice(&changes.to_be_bytes());
        self.bucket.put(names::CHANGES, bytes).await?;
        self.read_changes().await?;
        // No run counts any more; whoever publishes makes them again, one with each checkpoint.
        *locked(&self.compacted) = (0, changes);
        self.sweep(names::RUNS, true).await?;
        self.sweep(names::SIDES, false).await
    }

    /// Deletes every version with a beginning for good, or all but the newest of each key.
    async fn sweep(&self, beginning: &str, newest_too: bool) -> Result<()> {
        let mut from = None;
        loop {
            let (versions, next) = self.bucket.versions(beginning, from.as_ref()).await?;
            for version in versions {
                // A marker that is the newest would hide nothing that is wanted: nobody deletes these by name.
                if newest_too || !version.latest || version.marker {
                    self.bucket.delete(&version.key, Some(&version.id)).await?;
                }
            }
            match next {
                Some(mark) => from = Some(mark),
                None => return Ok(()),
            }
        }
    }
}
