//! The stored tiles, compared as the walk completes them.

use std::collections::VecDeque;

use audit_core::{Error, Result};
use audit_tlog::tile::{EdgeTiles, TILE_WIDTH, Tile, TileId};

use crate::Evidence;
use crate::verdict::{Check, Verdict, plain};

/// Levels that a tree can have (C2SP tlog-tiles allows paths up to 63).
const LEVELS: u8 = 8;
const LEVEL_MAX: u8 = 63;
/// Tiles read at once: 128 KiB.
const PAGE: usize = 16;
/// Leaves remembered as different, to keep what follows from them from being reported again.
const LEAVES_MAX: usize = 1000;

struct Cursor {
    page: VecDeque<Tile>,
    after: Option<u64>,
    done: bool,
}

/// One cursor for each level, and what was found.
pub(crate) struct Tiles {
    cursors: Vec<Cursor>,
    /// Leaves whose hash in the stored tiles is not the entry's.
    pub(crate) leaves: Vec<u64>,
    /// Reading failed; nothing more is compared.
    stopped: bool,
}

/// The leaves under one hash of a level.
fn span(level: u8) -> u64 {
    1_u64.checked_shl(8 * u32::from(level)).unwrap_or(u64::MAX)
}

impl Tiles {
    pub(crate) fn new() -> Self {
        let cursor = || Cursor {
            page: VecDeque::new(),
            after: None,
            done: false,
        };
        Self {
            cursors: (0..LEVELS).map(|_| cursor()).collect(),
            leaves: Vec::new(),
            stopped: false,
        }
    }

    /// The first leaf below `size` whose stored hash differs.
    pub(crate) fn first_leaf_below(&self, size: u64) -> Option<u64> {
        self.leaves.iter().copied().filter(|l| *l < size).min()
    }

    fn peek(&mut self, evidence: &dyn Evidence, level: u8) -> Result<Option<&Tile>> {
        let cursor = &mut self.cursors[usize::from(level)];
        if cursor.page.is_empty() && !cursor.done {
            let page = evidence.tiles(level, cursor.after, PAGE)?;
            cursor.done = page.is_empty();
            for tile in page.into_iter().take(PAGE) {
                let id = tile.id;
                let ordered = cursor.after.is_none_or(|after| id.index > after);
                if id.level != level || !ordered || tile.hashes.len() != usize::from(id.width) {
                    return Err(Error::corrupt(format!(
                        "stored tiles of level {level} are not in order, or {id} has {} hashes",
                        tile.hashes.len()
                    )));
                }
                cursor.after = Some(id.index);
                cursor.page.push_back(tile);
            }
        }
        Ok(cursor.page.front())
    }

    /// Compares a tile that the entries make with the stored one. `grown_to`: the size the log has by now.
    pub(crate) fn compare(
        &mut self,
        evidence: &dyn Evidence,
        made: &Tile,
        grown_to: &mut dyn FnMut() -> u64,
        verdict: &mut Verdict,
    ) {
        if self.stopped {
            return;
        }
        let id = made.id;
        let first_leaf = id
            .index
            .saturating_mul(u64::from(TILE_WIDTH))
            .saturating_mul(span(id.level));
        let stored = match self.peek(evidence, id.level) {
            Ok(stored) => stored,
            Err(e) => return self.stop(&e, verdict),
        };
        if stored.is_none_or(|s| s.id.index != id.index) {
            // A tile that is behind this one's place stays for its own turn; one before it can't be, they are in order
            // and each was taken at its turn.
            verdict.find(
                Check::Tiles,
                Some(first_leaf),
                format!("stored {id} is missing"),
            );
            return;
        }
        let Some(stored) = self.cursors[usize::from(id.level)].page.pop_front() else {
            return;
        };
        verdict.count(Check::Tiles, 1);
        verdict.counts.tiles += 1;
        if stored.id.width != id.width {
            let grown = stored.id.width > id.width
                && TileId::in_tree(id.level, id.index, grown_to())
                    .is_some_and(|now| stored.id.width <= now.width);
            if !grown {
                verdict.find(
                    Check::Tiles,
                    Some(first_leaf.saturating_add(
                        span(id.level).saturating_mul(u64::from(stored.id.width.min(id.width))),
                    )),
                    format!(
                        "stored {} has width {}, must have {}",
                        id, stored.id.width, id.width
                    ),
                );
            }
        }
        let differing = made
            .hashes
            .iter()
            .zip(&stored.hashes)
            .enumerate()
            .filter(|(_, (a, b))| a != b);
        for (position, _) in differing {
            let span = span(id.level);
            let from = first_leaf.saturating_add(span.saturating_mul(position as u64));
            if id.level > 0 {
                let until = from.saturating_add(span);
                // Follows from a leaf that is reported already.
                if self.leaves.iter().any(|leaf| (from..until).contains(leaf)) {
                    continue;
                }
            } else if self.leaves.len() < LEAVES_MAX {
                self.leaves.push(from);
            }
            let message = if id.level == 0 {
                format!("the stored leaf hash (in {id}) is not that of the entry")
            } else {
                format!(
                    "hash {position} in stored {id} is not that of the entries from {from} to {}",
                    from.saturating_add(span) - 1
                )
            };
            verdict.find(Check::Tiles, Some(from), message);
            break;
        }
    }

    fn stop(&mut self, e: &Error, verdict: &mut Verdict) {
        verdict.failed_read(Check::Tiles, e);
        verdict.not_checked(
            Check::Tiles,
            "further tiles: the stored tiles could not be read",
        );
        self.stopped = true;
    }

    /// Compares the right edge, and looks for tiles that the tree doesn't have.
    pub(crate) fn finish(
        &mut self,
        evidence: &dyn Evidence,
        edge: &EdgeTiles,
        grown_to: &mut dyn FnMut() -> u64,
        verdict: &mut Verdict,
    ) {
        for level in 0..LEVELS {
            let index =
                edge.size().checked_shr(8 * u32::from(level)).unwrap_or(0) / u64::from(TILE_WIDTH);
            if let Some(id) = TileId::in_tree(level, index, edge.size()) {
                let made = Tile {
                    id,
                    hashes: edge.tile(level).to_vec(),
                };
                self.compare(evidence, &made, grown_to, verdict);
            }
            if self.stopped {
                return;
            }
            match self.peek(evidence, level) {
                Ok(None) => {}
                Ok(Some(extra)) => {
                    let id = extra.id;
                    if TileId::in_tree(level, id.index, grown_to())
                        .is_none_or(|now| id.width > now.width)
                    {
                        verdict.find(
                            Check::Tiles,
                            None,
                            format!(
                                "stored {} is not in a tree of {} entries",
                                plain(&id.to_string()),
                                edge.size()
                            ),
                        );
                    }
                }
                Err(e) => return self.stop(&e, verdict),
            }
        }
        for level in LEVELS..=LEVEL_MAX {
            match evidence.tiles(level, None, 1) {
                Ok(tiles) if tiles.is_empty() => {}
                Ok(_) => verdict.find(
                    Check::Tiles,
                    None,
                    format!("there are stored tiles of level {level}, which no tree has"),
                ),
                Err(e) => return self.stop(&e, verdict),
            }
        }
    }
}
