//! Publishing: tiles and entry bundles as static files, then the checkpoint.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use audit_core::store::Tile;
use audit_core::{Error, Result};
use audit_tlog::tile::{SIZE_MAX, TILE_WIDTH, TileId, encode_entry_bundle, entries_path};

use crate::batch::{Header, LEVELS};
use crate::bucket::Created;
use crate::names;
use crate::shared::{Extent, Shared, locked};

/// Signed notes are some hundred bytes.
const NOTE_BYTES_MAX: usize = 1024 * 1024;
/// Full tiles kept in memory, 8 KiB each.
const TILES_MAX: usize = 256;

impl Shared {
    /// See [`audit_core::store::Store::put_checkpoint`].
    pub(crate) async fn put_checkpoint(&self, size: u64, note: &[u8]) -> Result<()> {
        let log = self.log_or_invalid().await?;
        // A publisher that has nothing to do says the same each second.
        let known = locked(&self.latest).clone();
        if known
            .as_ref()
            .is_some_and(|(s, n)| *s == size && **n == note)
        {
            return Ok(());
        }
        let mut tip = locked(&self.last_tip).clone();
        if tip.as_ref().is_none_or(|tip| tip.end() < size) {
            tip = self.tip().await?;
        }
        let Some(tip) = tip.filter(|tip| (1..=tip.end()).contains(&size)) else {
            return Err(Error::invalid(format!(
                "a checkpoint of tree size {size} in a log of {} entries",
                Self::head_of(self.tip().await?.as_ref()).size
            )));
        };
        if note.len() > NOTE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a checkpoint of {} bytes",
                note.len()
            )));
        }
        let latest = match known {
            Some((latest, note)) if latest < size => Some((latest, note)),
            _ => self.latest().await?,
        };
        let published = latest.as_ref().map_or(0, |(size, _)| *size);
        if size > published {
            // Dying in here leaves tiles that no checkpoint covers, which the next one writes again.
            self.write_tiles(published, size, &tip).await?;
        }
        let created = self
            .bucket
            .create(
                &names::checkpoint(size),
                note.to_vec().into(),
                log.lock(self.clock.now()),
            )
            .await?;
        if let Created::Theirs(there) = created
            && there != note
        {
            return Err(Error::invalid(format!(
                "there is another checkpoint of tree size {size}"
            )));
        }
        // Dying here: published, and `checkpoint` is behind; the next holder of the lease writes it.
        if size > published {
            self.bucket
                .put(names::CHECKPOINT, note.to_vec().into())
                .await?;
            *locked(&self.latest) = Some((size, Arc::new(note.to_vec())));
            // Derived, and made again where it fails; the checkpoint is written.
            drop(self.compact(&tip).await);
        }
        Ok(())
    }

    /// Writes `checkpoint` anew if the one who published last died before it could.
    pub(crate) async fn repair_checkpoint(&self) -> Result<()> {
        let Some((_, note)) = self.latest().await? else {
            return Ok(());
        };
        let there = self.bucket.get(names::CHECKPOINT).await?;
        if there.is_none_or(|there| there.bytes != **note) {
            self.bucket
                .put(names::CHECKPOINT, note.to_vec().into())
                .await?;
        }
        Ok(())
    }

    /// Whether a full tile was written out, given the log's size.
    pub(crate) async fn is_published(&self, id: TileId, size: u64) -> Result<bool> {
        let covered = |published: u64| {
            TileId::in_tree(id.level, id.index, published).is_some_and(|tile| tile.is_full())
        };
        let known = locked(&self.latest).clone();
        if let Some((published, _)) = known {
            // Newer ones may be published too; the batches say the same of those.
            return Ok(covered(published));
        }
        if size == self.published_asked.swap(size, Ordering::SeqCst) {
            return Ok(false);
        }
        Ok(self
            .latest()
            .await?
            .is_some_and(|(published, _)| covered(published)))
    }

    /// Writes the tiles and entry bundles by which a tree of `after` entries differs from one of `before`.
    async fn write_tiles(&self, before: u64, after: u64, tip: &Header) -> Result<()> {
        debug_assert!(after <= SIZE_MAX);
        for id in changed(before, after) {
            let hashes = self.batch_tile(id, tip).await?;
            let tile = Tile { id, hashes };
            self.bucket.put(&id.path(), tile.encode().into()).await?;
            if id.is_full() {
                let mut tiles = locked(&self.tiles);
                tiles.push_back(tile);
                if tiles.len() > TILES_MAX {
                    tiles.pop_front();
                }
            }
        }
        let width = u64::from(TILE_WIDTH);
        let bundles = changed(before, after).filter(|id| id.level == 0);
        for id in bundles {
            let first = id.index * width;
            let bundle = self.bundle(first, id.width, tip).await?;
            self.bucket
                .put(&entries_path(id.index, id.width), bundle.into())
                .await?;
        }
        Ok(())
    }

    /// The entry bundle of `width` entries from `first` on.
    pub(crate) async fn bundle(&self, first: u64, width: u16, tip: &Header) -> Result<Vec<u8>> {
        let end = first + u64::from(width);
        let mut entries = Vec::with_capacity(width.into());
        let mut number = self.locate(first, tip).await?;
        let mut next = first;
        while next < end {
            let (header, object) = self.object(number, Extent::Entries).await?;
            number += 1;
            if header.skipped {
                continue;
            }
            if !(header.first..header.end()).contains(&next) {
                return Err(Error::corrupt("no batch has this entry").at(next));
            }
            let batch = header.entries(&names::batch(header.number), &object)?;
            let skip = usize::try_from(next - header.first).unwrap_or(usize::MAX);
            let take = usize::try_from(end - next).unwrap_or(usize::MAX);
            let before = entries.len();
            entries.extend(batch.into_iter().skip(skip).take(take));
            next += (entries.len() - before) as u64;
        }
        let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        encode_entry_bundle(&entries).map_err(|e| {
            Error::corrupt("the entries fit no bundle")
                .because(e)
                .at(first)
        })
    }
}

/// The tiles of a tree of `after` entries that one of `before` doesn't have, or not as wide.
pub(crate) fn changed(before: u64, after: u64) -> impl Iterator<Item = TileId> {
    (0..LEVELS).flat_map(move |level| {
        let nodes = |size: u64| size.checked_shr(8 * u32::from(level)).unwrap_or(0);
        let first = nodes(before) / u64::from(TILE_WIDTH);
        (first..)
            .map_while(move |index| TileId::in_tree(level, index, after))
            .filter(move |id| TileId::in_tree(level, id.index, before) != Some(*id))
    })
}
