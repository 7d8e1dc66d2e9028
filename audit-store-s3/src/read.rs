//! Reading rows, tiles and checkpoints.

use std::ops::Range;
use std::sync::Arc;

use audit_core::store::{Parts, Row, Tile};
use audit_core::{Error, Result};
use audit_tlog::Hash;
use audit_tlog::tile::{TILE_WIDTH, TileId};
use sha2::{Digest as _, Sha256};

use crate::batch::{Header, LEVELS, Stored};
use crate::names::{self, Name};
use crate::shared::{Extent, Shared, locked};

/// Bytes of entries, tokens and parts that one call of `rows` collects.
const ROWS_BYTES: u64 = 4 * 1024 * 1024;

impl Shared {
    /// See [`audit_core::store::ReadStore::rows`].
    pub(crate) async fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        let mut out: Vec<Row> = Vec::new();
        if range.is_empty() {
            return Ok(out);
        }
        let Some(tip) = self.tip().await?.filter(|tip| range.start < tip.end()) else {
            return Ok(out);
        };
        self.read_changes().await?;
        let end = range.end.min(tip.end());
        let extent = match parts {
            Parts::With => Extent::All,
            Parts::Without => Extent::Entries,
        };
        let mut number = self.locate(range.start, &tip).await?;
        let mut next = range.start;
        let mut left = ROWS_BYTES;
        while next < end {
            let (header, object) = self.object(number, extent).await?;
            number += 1;
            if header.skipped {
                continue;
            }
            if !(header.first..header.end()).contains(&next) {
                return Err(Error::corrupt(format!(
                    "batch {} has entries {} to {}",
                    header.number,
                    header.first,
                    header.end()
                ))
                .at(next));
            }
            let name = names::batch(header.number);
            let entries = header.entries(&name, &object)?;
            let stored = match parts {
                Parts::With => header.parts(&name, &object)?,
                Parts::Without => vec![Stored::None; entries.len()],
            };
            let side = self.side(&header).await?;
            let batch = entries.into_iter().zip(stored).zip(side.indexed());
            for ((entry, stored), (index, row)) in batch {
                if index < next {
                    continue;
                }
                if index >= end {
                    return Ok(out);
                }
                let stored = if row.erased { Stored::None } else { stored };
                let tokens = row
                    .tokens
                    .as_ref()
                    .map_or(0, |set| 16 + 16 * set.tokens.len());
                let total = entry.len() as u64 + tokens as u64 + stored.length();
                if total > left && !out.is_empty() {
                    return Ok(out);
                }
                left = left.saturating_sub(total);
                out.push(Row {
                    index,
                    entry,
                    columns: row.columns.clone(),
                    tokens: row.tokens.clone(),
                    parts: self.parts(stored).await.map_err(|e| e.at(index))?,
                });
                next = index + 1;
            }
        }
        Ok(out)
    }

    async fn parts(&self, stored: Stored) -> Result<Option<Vec<u8>>> {
        match stored {
            Stored::None => Ok(None),
            Stored::Here(bytes) => Ok(Some(bytes.to_vec())),
            Stored::Apart { length, digest } => {
                let name = names::payload(&digest);
                let object = self.bucket.get(&name).await?;
                let object = object.ok_or_else(|| Error::corrupt(format!("{name} is missing")))?;
                let right = object.bytes.len() as u64 == length
                    && Sha256::digest(&object.bytes).as_slice() == digest;
                if right {
                    Ok(Some(object.bytes.to_vec()))
                } else {
                    Err(Error::corrupt(format!(
                        "{name} holds other bytes than its name says"
                    )))
                }
            }
        }
    }

    /// See [`audit_core::store::ReadStore::tile`].
    pub(crate) async fn tile(&self, id: TileId) -> Result<Option<Vec<Hash>>> {
        // A tree only grows, so what the last known end has needs no other.
        let known = locked(&self.last_tip).clone();
        if let Some(tip) = known
            && TileId::in_tree(id.level, id.index, tip.end()).is_some_and(|t| t.width >= id.width)
        {
            return self.tile_under(id, &tip).await;
        }
        let Some(tip) = self.tip().await? else {
            return Ok(None);
        };
        self.tile_under(id, &tip).await
    }

    /// A tile of the tree that `tip` ends.
    pub(crate) async fn tile_under(&self, id: TileId, tip: &Header) -> Result<Option<Vec<Hash>>> {
        let in_tree = TileId::in_tree(id.level, id.index, tip.end());
        if id.level >= LEVELS || id.width == 0 || in_tree.is_none_or(|tile| tile.width < id.width) {
            return Ok(None);
        }
        let full = in_tree.is_some_and(|tile| tile.is_full());
        if full && self.is_published(id, tip.end()).await? {
            return self.published_tile(id).await;
        }
        self.batch_tile(id, tip).await.map(Some)
    }

    /// A tile as the batch that made it so wide has it. It must be one of the tree that `tip` ends.
    pub(crate) async fn batch_tile(&self, id: TileId, tip: &Header) -> Result<Vec<Hash>> {
        // The last leaf under its last hash.
        let hashes = id.index * u64::from(TILE_WIDTH) + u64::from(id.width);
        let leaf = (hashes << (8 * u32::from(id.level))) - 1;
        let number = self.locate(leaf, tip).await?;
        let header = self.header(number).await?;
        let width = usize::from(id.width);
        let on_edge =
            TileId::in_tree(id.level, id.index, header.end()).is_some_and(|tile| !tile.is_full());
        let mut hashes = if on_edge {
            header.edge.tile(id.level).to_vec()
        } else {
            let (header, object) = self.object(number, Extent::Entries).await?;
            let name = names::batch(number);
            let tiles = header.tiles(&name, &object)?;
            let tile = tiles
                .into_iter()
                .find(|tile| (tile.id.level, tile.id.index) == (id.level, id.index));
            tile.map(|tile| tile.hashes).unwrap_or_default()
        };
        if hashes.len() < width {
            return Err(Error::corrupt(format!("batch {number} doesn't have {id}")));
        }
        hashes.truncate(width);
        Ok(hashes)
    }

    /// A full tile that was written out.
    async fn published_tile(&self, id: TileId) -> Result<Option<Vec<Hash>>> {
        let whole = TileId {
            width: TILE_WIDTH,
            ..id
        };
        let known = locked(&self.tiles)
            .iter()
            .find(|tile| tile.id == whole)
            .map(|tile| tile.hashes.clone());
        let mut hashes = if let Some(hashes) = known {
            hashes
        } else {
            let Some(object) = self.bucket.get(&whole.path()).await? else {
                return Ok(None);
            };
            Tile::decode(whole, &object.bytes)
                .map_err(|e| Error::corrupt(format!("{whole} is malformed")).because(e))?
                .hashes
        };
        hashes.truncate(id.width.into());
        Ok(Some(hashes))
    }

    /// See [`audit_core::store::ReadStore::tiles`].
    pub(crate) async fn tiles(
        &self,
        level: u8,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Tile>> {
        let mut out = Vec::new();
        let Some(tip) = self.tip().await? else {
            return Ok(out);
        };
        if level >= LEVELS {
            return Ok(out);
        }
        let first = after.map_or(Some(0), |after| after.checked_add(1));
        for index in first.into_iter().flat_map(|first| first..) {
            let Some(id) = TileId::in_tree(level, index, tip.end()) else {
                break;
            };
            if out.len() >= limit {
                break;
            }
            // One that is missing is left out, as a row would be.
            if let Some(hashes) = self.tile_under(id, &tip).await? {
                out.push(Tile { id, hashes });
            }
        }
        Ok(out)
    }

    /// The size and the note of the latest checkpoint.
    pub(crate) async fn latest(&self) -> Result<Option<(u64, Arc<Vec<u8>>)>> {
        let mut latest = locked(&self.latest).clone();
        if latest.is_none()
            && let Some(object) = self.bucket.get(names::CHECKPOINT).await?
            && let Some(size) = size_of(&object.bytes)
            && let Some(note) = self.checkpoint(size).await?
        {
            // A hint where to begin: what counts stands under `checkpoints/`.
            latest = Some((size, note));
        }
        loop {
            let after = latest
                .as_ref()
                .map_or(String::new(), |(size, _)| names::checkpoint(*size));
            let page = self.bucket.list(names::CHECKPOINTS, &after, 1000).await?;
            let Some(last) = page.last() else { break };
            let size = checkpoint_size(&last.key)?;
            let note = self.checkpoint(size).await?;
            let note = note
                .ok_or_else(|| Error::corrupt(format!("{} is listed and not there", last.key)))?;
            latest = Some((size, note));
            if page.len() < 1000 {
                break;
            }
        }
        let mut known = locked(&self.latest);
        if known.as_ref().map(|(size, _)| *size) < latest.as_ref().map(|(size, _)| *size) {
            known.clone_from(&latest);
        }
        Ok(latest)
    }

    /// The checkpoint of a size.
    pub(crate) async fn checkpoint(&self, size: u64) -> Result<Option<Arc<Vec<u8>>>> {
        let object = self.bucket.get(&names::checkpoint(size)).await?;
        Ok(object.map(|object| Arc::new(object.bytes.to_vec())))
    }

    /// See [`audit_core::store::ReadStore::checkpoints`].
    pub(crate) async fn checkpoints(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>> {
        let mut out: Vec<(u64, Vec<u8>)> = Vec::new();
        while out.len() < limit {
            let last = out.last().map_or(after, |(size, _)| *size);
            let want = (limit - out.len()).min(1000);
            let page = self
                .bucket
                .list(names::CHECKPOINTS, &names::checkpoint(last), want)
                .await?;
            for listed in &page {
                let size = checkpoint_size(&listed.key)?;
                let note = self.checkpoint(size).await?.ok_or_else(|| {
                    Error::corrupt(format!("{} is listed and not there", listed.key))
                })?;
                out.push((size, note.to_vec()));
            }
            if page.len() < want {
                break;
            }
        }
        Ok(out)
    }
}

fn checkpoint_size(key: &str) -> Result<u64> {
    match Name::parse(key) {
        Some(Name::Checkpoints(size)) => Ok(size),
        _ => Err(Error::corrupt(format!("{key:?} is no checkpoint's name"))),
    }
}

/// The tree size that a note says, without checking anything of it.
pub(crate) fn size_of(note: &[u8]) -> Option<u64> {
    let line = note.split(|b| *b == b'\n').nth(1)?;
    std::str::from_utf8(line).ok()?.parse().ok()
}
