//! What the bucket itself shows: versions, markers, locks, and derived objects that say something else than the batches.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use audit_core::{Error, Result};
use audit_tlog::tile::{Tile, TileId, entries_path};
use sha2::{Digest as _, Sha256};

use crate::bucket::{Bucket, Version};
use crate::catalog::run_name;
use crate::names::{self, Name};
use crate::publish::changed;
use crate::read::size_of;
use crate::run::RUN_BATCHES;
use crate::shared::{Extent, Shared, missing};

/// Refuses keys that no log writes, and second versions and markers of what is written once.
pub(crate) fn single_versions(
    bucket: &Bucket,
    versions: &[Version],
    last: &mut Option<String>,
) -> Result<()> {
    for version in versions {
        let Some(name) = Name::parse(&version.key) else {
            return Err(Error::corrupt(format!(
                "{} is no object of a log",
                bucket.place(&version.key)
            )));
        };
        // This store deletes versions, and never leaves a marker.
        if version.marker {
            return Err(Error::corrupt(format!(
                "{} was deleted: a delete marker stands there",
                bucket.place(&version.key)
            )));
        }
        if name.is_fixed() {
            if last.as_ref() == Some(&version.key) {
                return Err(Error::corrupt(format!(
                    "{} has a second version, and is written only once; its oldest is the log's",
                    bucket.place(&version.key)
                )));
            }
        } else if matches!(name, Name::Side(_) | Name::Run { .. }) && !version.latest {
            return Err(Error::corrupt(format!(
                "{} has an older version, in which erased tokens and keys may stand; hint: repeat the erasure",
                bucket.place(&version.key)
            )));
        }
        *last = Some(version.key.clone());
    }
    Ok(())
}

/// Refuses names of batches that don't follow each other from a number on.
pub(crate) fn no_hole<'a>(first: u64, keys: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut next = first;
    for key in keys {
        if let Some(Name::Batch(number)) = Name::parse(key) {
            if number > next {
                return Err(missing(next));
            }
            next = number + 1;
        }
    }
    Ok(())
}

impl Shared {
    /// See [`audit_core::store::ReadStore::integrity`].
    pub(crate) async fn integrity(&self) -> Result<()> {
        let log = self.log_or_invalid().await?;
        let locked = log.retain_days.is_some();
        // What this process has in memory is not what the bucket has.
        self.forget();
        // Versions first: a batch that was replaced must not be read as if it were the log's.
        let mut last = None;
        let mut from = None;
        loop {
            let (versions, next) = self.bucket.versions("", from.as_ref()).await?;
            single_versions(&self.bucket, &versions, &mut last)?;
            match next {
                Some(mark) => from = Some(mark),
                None => break,
            }
        }
        if locked {
            self.check_locked(names::LOG).await?;
        }
        self.check_batches(log.digest, locked).await?;
        self.check_checkpoints(locked).await?;
        self.check_published().await
    }

    /// Every batch from the first on: its number, its digest in the next one, what it says of itself, its side pack.
    async fn check_batches(&self, first: [u8; 32], is_locked: bool) -> Result<()> {
        let tip = self.tip().await?;
        let (next, after) = match &tip {
            Some(tip) => (tip.number + 1, names::batch(tip.number)),
            None => (0, String::new()),
        };
        let behind = self.bucket.list(names::BATCHES, &after, 1).await?;
        no_hole(next, behind.iter().map(|listed| &*listed.key))?;
        let Some(tip) = tip else { return Ok(()) };
        self.read_changes().await?;
        let mut previous = first;
        let mut event_max = [0; 16];
        let mut size = 0;
        let mut payloads = BTreeSet::new();
        for number in 0..=tip.number {
            let name = names::batch(number);
            let (header, object) = self.object(number, Extent::All).await?;
            if header.previous != previous || header.first != size {
                return Err(Error::corrupt(format!(
                    "{name} doesn't continue the batch before it: one of them was replaced"
                ))
                .at(header.first));
            }
            let parts = header.parts(&name, &object)?;
            for stored in parts {
                if let crate::batch::Stored::Apart { digest, .. } = stored
                    && is_locked
                    && payloads.insert(digest)
                {
                    self.check_locked(&names::payload(&digest)).await?;
                }
            }
            payloads.clear();
            if !header.skipped {
                let (side, _) = self.read_side(&header).await?;
                let events = side.rows.iter().map(|row| row.columns.event);
                event_max = events
                    .filter(|event| event.get_version_num() == 7)
                    .map(|event| *event.as_bytes())
                    .fold(event_max, Ord::max);
            }
            if header.event_max != event_max {
                return Err(Error::corrupt(format!(
                    "{name} says of the greatest event id so far what isn't so"
                ))
                .at(header.first));
            }
            if is_locked {
                self.check_locked(&name)
                    .await
                    .map_err(|e| e.at(header.first))?;
            }
            if (number + 1) % RUN_BATCHES == 0 {
                self.check_run(number + 1 - RUN_BATCHES).await?;
            }
            previous = Sha256::digest(&object).into();
            size = header.end();
        }
        Ok(())
    }

    /// A run, if there is one, against the side packs that it was made of.
    async fn check_run(&self, from: u64) -> Result<()> {
        let name = run_name(from);
        let Some(object) = self.bucket.get(&name).await? else {
            return Ok(());
        };
        let changes = self.changes.load(Ordering::SeqCst);
        let expected = self.build_run(from, changes).await?;
        if expected.is_some_and(|expected| expected == object.bytes) {
            Ok(())
        } else {
            Err(Error::corrupt(format!(
                "index run {name} is not what the side packs say, or was made before an erasure; hint: remove it, it is \
                 made again"
            )))
        }
    }

    /// Fails if an object that must be locked isn't, or is so in the mode that an administrator can end.
    async fn check_locked(&self, key: &str) -> Result<()> {
        let status = self.lock_of(key).await?;
        if status.compliance() {
            Ok(())
        } else {
            Err(Error::corrupt(format!(
                "{} is not locked, and this log locks what it writes",
                self.bucket.place(key)
            )))
        }
    }

    async fn check_checkpoints(&self, is_locked: bool) -> Result<()> {
        let mut after = names::checkpoint(0);
        // A zero can't be a checkpoint's size; it would be listed here and nowhere else.
        if self.bucket.get(&after).await?.is_some() {
            return Err(Error::corrupt("the store has a checkpoint of size 0"));
        }
        loop {
            let page = self.bucket.list(names::CHECKPOINTS, &after, 1000).await?;
            let Some(end) = page.last() else {
                return Ok(());
            };
            after.clone_from(&end.key);
            for listed in &page {
                if is_locked {
                    self.check_locked(&listed.key).await?;
                }
            }
        }
    }

    /// The object `checkpoint` is one of the checkpoints. A publisher that died may have left it behind the latest one, and
    /// whoever takes the lease next writes it.
    async fn check_latest(&self, size: u64) -> Result<()> {
        let wrong = || Error::corrupt("the object `checkpoint` is none of the checkpoints");
        match self.bucket.get(names::CHECKPOINT).await? {
            Some(object) => {
                let says = size_of(&object.bytes).filter(|says| *says <= size);
                let one = self.checkpoint(says.ok_or_else(wrong)?).await?;
                match one {
                    Some(note) if **note == *object.bytes => Ok(()),
                    _ => Err(wrong()),
                }
            }
            None => match self.checkpoints(0, 2).await?.len() {
                0 | 1 => Ok(()),
                _ => Err(Error::corrupt("the object `checkpoint` is missing")),
            },
        }
    }

    /// Static files against the batches.
    async fn check_published(&self) -> Result<()> {
        let latest = self.latest().await?;
        let size = latest.as_ref().map_or(0, |(size, _)| *size);
        self.check_latest(size).await?;
        let Some(tip) = self.tip().await? else {
            return Ok(());
        };
        if size > tip.end() {
            return Err(Error::corrupt(format!(
                "there is a checkpoint of {size} entries, and the log has {}",
                tip.end()
            )));
        }
        let differs = |what: String| {
            Error::corrupt(format!("{what} is not what the batches say, or is missing"))
        };
        // The tiles of the tree of that size: what differs from the empty one.
        for id in changed(0, size) {
            let hashes = self.batch_tile(id, &tip).await?;
            let expected = Tile { id, hashes }.encode();
            let object = self.bucket.get(&id.path()).await?;
            if object.is_none_or(|object| object.bytes != expected) {
                return Err(differs(id.path()));
            }
            if id.level == 0 {
                let first = id.index * 256;
                let expected = self.bundle(first, id.width, &tip).await?;
                let path = entries_path(id.index, id.width);
                let object = self.bucket.get(&path).await?;
                if object.is_none_or(|object| object.bytes != expected) {
                    return Err(differs(path));
                }
            }
        }
        self.check_older_tiles(size, &tip).await
    }

    /// Partial tiles of earlier sizes stay where they are; they too must be of this tree, and none may be ahead of the log.
    async fn check_older_tiles(&self, size: u64, tip: &crate::batch::Header) -> Result<()> {
        let mut after = String::new();
        loop {
            let page = self.bucket.list("tile/", &after, 1000).await?;
            let Some(end) = page.last() else {
                return Ok(());
            };
            after.clone_from(&end.key);
            for listed in &page {
                let fits = |id: TileId| {
                    TileId::in_tree(id.level, id.index, tip.end())
                        .is_some_and(|tile| tile.width >= id.width)
                };
                let wrong = || {
                    Error::corrupt(format!(
                        "{} is no tile of a log of {} entries",
                        listed.key,
                        tip.end()
                    ))
                };
                match Name::parse(&listed.key) {
                    Some(Name::Tile(id)) if fits(id) => {
                        if TileId::in_tree(id.level, id.index, size) == Some(id) {
                            continue;
                        }
                        let hashes = self.batch_tile(id, tip).await?;
                        let object = self.bucket.get(&listed.key).await?;
                        if object.is_some_and(|object| object.bytes != Tile { id, hashes }.encode())
                        {
                            return Err(wrong());
                        }
                    }
                    Some(Name::Entries(index, width)) => {
                        let id = TileId {
                            level: 0,
                            index,
                            width,
                        };
                        if !fits(id) {
                            return Err(wrong());
                        }
                        if TileId::in_tree(0, index, size) == Some(id) {
                            continue;
                        }
                        let expected = self.bundle(index * 256, width, tip).await?;
                        let object = self.bucket.get(&listed.key).await?;
                        if object.is_some_and(|object| object.bytes != expected) {
                            return Err(wrong());
                        }
                    }
                    _ => return Err(wrong()),
                }
            }
        }
    }
}
