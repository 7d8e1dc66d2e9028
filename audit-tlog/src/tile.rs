//! Tiles and entry bundles in the layout of C2SP tlog-tiles, and the right edge of a growing tree.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeMap;

use crate::encoding;
use crate::frontier::Frontier;
use crate::hash::{Hash, root_of};

/// The hashes in a full tile, and the entries in a full entry bundle.
pub const TILE_WIDTH: u16 = 256;

/// The largest tree size: what a signed 64-bit integer holds, as in databases and in other implementations.
pub const SIZE_MAX: u64 = i64::MAX as u64;

/// The longest entry that fits into an entry bundle, whose length prefixes have two bytes.
pub const ENTRY_LEN_MAX: usize = u16::MAX as usize;

/// The largest entry bundle: 256 entries of the greatest length with their prefixes.
pub const BUNDLE_LEN_MAX: usize = TILE_WIDTH as usize * (2 + ENTRY_LEN_MAX);

/// The highest level that a tile path can name (C2SP tlog-tiles, "Merkle Tree").
const LEVEL_MAX: u8 = 63;

/// Which tile, and how much of it.
///
/// The fields are as large as the path allows; a tile that a tree of up to [`SIZE_MAX`] leaves can have lies at level 0 to 7.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash, Ord, PartialOrd)]
pub struct TileId {
    /// The level: the hashes of level 0 are leaf hashes, those of level *n* the roots of full tiles at level *n* − 1.
    pub level: u8,
    /// The index of the tile within its level.
    pub index: u64,
    /// The hashes it holds, 1 to 256; below 256 the tile is partial.
    pub width: u16,
}

impl TileId {
    /// Names a tile.
    pub const fn new(level: u8, index: u64, width: u16) -> Result<Self, TileError> {
        if level > LEVEL_MAX {
            return Err(TileError::Level { level });
        }
        if width == 0 || width > TILE_WIDTH {
            return Err(TileError::Width { width });
        }
        Ok(Self {
            level,
            index,
            width,
        })
    }

    /// Whether the tile holds all of its 256 hashes.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }

    /// The tile `index` at `level` as a tree of `size` leaves has it, or `None` if it has none there.
    #[must_use]
    pub fn in_tree(level: u8, index: u64, size: u64) -> Option<Self> {
        let hashes = hashes_at(level, size);
        let before = index.checked_mul(u64::from(TILE_WIDTH))?;
        let width = hashes.checked_sub(before)?.min(u64::from(TILE_WIDTH));
        let width = u16::try_from(width).ok().filter(|width| *width > 0)?;
        Some(Self {
            level,
            index,
            width,
        })
    }

    /// The path of the tile below the log's prefix, such as `tile/0/x001/234.p/5`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("tile/{}/{}", self.level, index_path(self.index, self.width))
    }

    /// Reads a path as [`TileId::path`] writes it, and no other spelling.
    pub fn from_path(path: &str) -> Result<Self, TileError> {
        let malformed = || TileError::Path {
            path: encoding::excerpt(path),
        };
        let (level, rest) = path
            .strip_prefix("tile/")
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(malformed)?;
        let level = encoding::decimal_decode(level)
            .and_then(|level| u8::try_from(level).ok())
            .ok_or_else(malformed)?;
        let (index, width) = index_from_path(rest).ok_or_else(malformed)?;
        Self::new(level, index, width)
    }
}

impl fmt::Display for TileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

impl FromStr for TileId {
    type Err = TileError;

    fn from_str(path: &str) -> Result<Self, Self::Err> {
        Self::from_path(path)
    }
}

/// The path of an entry bundle below the log's prefix, such as `tile/entries/x001/234.p/5`; `width` is 256 for a full one.
#[must_use]
pub fn entries_path(index: u64, width: u16) -> String {
    format!("tile/entries/{}", index_path(index, width))
}

/// Reads the path of an entry bundle as [`entries_path`] writes it: its index and width.
pub fn parse_entries_path(path: &str) -> Result<(u64, u16), TileError> {
    path.strip_prefix("tile/entries/")
        .and_then(index_from_path)
        .ok_or_else(|| TileError::Path {
            path: encoding::excerpt(path),
        })
}

/// Every tile of a tree with `size` leaves, level by level, the partial one at the end of each.
pub fn tile_ids(size: u64) -> impl Iterator<Item = TileId> {
    (0_u8..8).flat_map(move |level| {
        let tiles = hashes_at(level, size).div_ceil(u64::from(TILE_WIDTH));
        (0..tiles).filter_map(move |index| TileId::in_tree(level, index, size))
    })
}

/// A tile with its hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// Which tile.
    pub id: TileId,
    /// Its hashes, `id.width` of them.
    pub hashes: Vec<Hash>,
}

impl Tile {
    /// The file of the tile: its hashes one after the other.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.hashes
            .iter()
            .flat_map(|hash| *hash.as_bytes())
            .collect()
    }

    /// Reads the file of a tile, which must have exactly the bytes that its width asks for.
    pub fn decode(id: TileId, bytes: &[u8]) -> Result<Self, TileError> {
        let length = TileError::TileLength {
            id,
            found: bytes.len(),
        };
        let (chunks, []) = bytes.as_chunks::<{ Hash::LEN }>() else {
            return Err(length);
        };
        if chunks.len() != usize::from(id.width) {
            return Err(length);
        }
        Ok(Self {
            id,
            hashes: chunks.iter().copied().map(Hash::from_bytes).collect(),
        })
    }
}

/// Where proofs read their tiles.
pub trait TileReader {
    /// What a failed read says.
    type Error;

    /// Reads one tile: exactly `id.width` hashes, in order.
    ///
    /// A partial tile may be served from a wider tile at the same level and index: the hashes of a tile never change.
    fn tile(&self, id: TileId) -> Result<Vec<Hash>, Self::Error>;
}

impl<R: TileReader + ?Sized> TileReader for &R {
    type Error = R::Error;

    fn tile(&self, id: TileId) -> Result<Vec<Hash>, Self::Error> {
        (**self).tile(id)
    }
}

/// Tiles in memory, for a caller that fetches what a proof needs before it computes it.
///
/// Of each tile the widest version is kept; narrower ones are served from it.
#[derive(Debug, Clone, Default)]
pub struct TileMap {
    tiles: BTreeMap<(u8, u64), Vec<Hash>>,
}

impl TileMap {
    /// A map without tiles.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            tiles: BTreeMap::new(),
        }
    }

    /// Adds a tile, unless a wider version of it is there.
    pub fn insert(&mut self, tile: Tile) {
        let held = self
            .tiles
            .entry((tile.id.level, tile.id.index))
            .or_default();
        if tile.hashes.len() > held.len() {
            *held = tile.hashes;
        }
    }
}

impl FromIterator<Tile> for TileMap {
    fn from_iter<I: IntoIterator<Item = Tile>>(tiles: I) -> Self {
        let mut map = Self::new();
        map.extend(tiles);
        map
    }
}

impl Extend<Tile> for TileMap {
    fn extend<I: IntoIterator<Item = Tile>>(&mut self, tiles: I) {
        for tile in tiles {
            self.insert(tile);
        }
    }
}

impl TileReader for TileMap {
    type Error = TileMissing;

    fn tile(&self, id: TileId) -> Result<Vec<Hash>, Self::Error> {
        self.tiles
            .get(&(id.level, id.index))
            .and_then(|hashes| hashes.get(..usize::from(id.width)))
            .map(<[Hash]>::to_vec)
            .ok_or(TileMissing { id })
    }
}

/// A [`TileMap`] has no tile of this id, or only a narrower one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileMissing {
    /// The tile that was asked for.
    pub id: TileId,
}

impl fmt::Display for TileMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is missing", self.id)
    }
}

impl core::error::Error for TileMissing {}

/// Writes an entry bundle: each entry behind its length in two big-endian bytes.
pub fn encode_entry_bundle(entries: &[&[u8]]) -> Result<Vec<u8>, TileError> {
    if entries.is_empty() || entries.len() > usize::from(TILE_WIDTH) {
        return Err(TileError::Entries {
            found: entries.len(),
        });
    }
    let mut bundle = Vec::with_capacity(entries.iter().map(|entry| 2 + entry.len()).sum());
    for (position, entry) in entries.iter().enumerate() {
        let Ok(len) = u16::try_from(entry.len()) else {
            return Err(TileError::EntryLength {
                position,
                len: entry.len(),
            });
        };
        bundle.extend_from_slice(&len.to_be_bytes());
        bundle.extend_from_slice(entry);
    }
    Ok(bundle)
}

/// Reads an entry bundle of exactly `width` entries, 1 to 256, with nothing behind the last.
pub fn decode_entry_bundle(bundle: &[u8], width: u16) -> Result<Vec<Vec<u8>>, TileError> {
    if width == 0 || width > TILE_WIDTH {
        return Err(TileError::Width { width });
    }
    let mut rest = bundle;
    let mut entries = Vec::with_capacity(usize::from(width));
    for position in 0..usize::from(width) {
        let entry = rest
            .split_first_chunk::<2>()
            .and_then(|(len, tail)| tail.split_at_checked(usize::from(u16::from_be_bytes(*len))));
        let Some((entry, tail)) = entry else {
            return Err(TileError::BundleTruncated { position });
        };
        entries.push(entry.to_vec());
        rest = tail;
    }
    if rest.is_empty() {
        Ok(entries)
    } else {
        Err(TileError::BundleTrailing {
            width,
            found: rest.len(),
        })
    }
}

/// The partial tiles at the right edge of a tree: all that an appending process needs of it.
///
/// A tile becomes full once and never changes again, so what a batch of appended leaves changes is the tiles
/// that it fills and the edge that it leaves behind; [`EdgeTiles::changed`] lists both.
#[derive(Debug, Clone, Default)]
pub struct EdgeTiles {
    size: u64,
    /// The partial tile of each level, from level 0; the last one isn't empty.
    levels: Vec<Vec<Hash>>,
    /// The tree size when changes were last taken.
    size_before: u64,
    /// The tiles that became full since then.
    filled: Vec<Tile>,
}

impl EdgeTiles {
    /// The edge of the empty tree.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            size: 0,
            levels: Vec::new(),
            size_before: 0,
            filled: Vec::new(),
        }
    }

    /// Takes up a tree of `size` leaves from its partial tiles, one for each level, empty where the level has none.
    ///
    /// Levels that the tree doesn't reach may be left out or empty.
    pub fn from_tiles(size: u64, mut levels: Vec<Vec<Hash>>) -> Result<Self, TileError> {
        if size > SIZE_MAX {
            return Err(TileError::Size { size });
        }
        while levels.last().is_some_and(Vec::is_empty) {
            levels.pop();
        }
        let edge = Self {
            size,
            levels,
            size_before: size,
            filled: Vec::new(),
        };
        for level in 0_u8..8 {
            let found = edge.tile(level).len();
            if found != edge_width(level, size) {
                return Err(TileError::Edge { level, size, found });
            }
        }
        // Eight levels hold every tree size there is, so a ninth can't belong to this one.
        match edge.levels.get(8) {
            None => Ok(edge),
            Some(hashes) => Err(TileError::Edge {
                level: 8,
                size,
                found: hashes.len(),
            }),
        }
    }

    /// Reads the edge of a tree of `size` leaves.
    pub fn from_reader<R: TileReader>(
        size: u64,
        reader: &R,
    ) -> Result<Self, crate::proof::ReadError<R::Error>> {
        let mut levels = Vec::new();
        for level in 0_u8..8 {
            let id = Self::tile_id(level, size);
            levels.push(match id {
                None => Vec::new(),
                Some(id) => crate::proof::read_tile(id, reader)?,
            });
        }
        Self::from_tiles(size, levels).map_err(crate::proof::ReadError::Edge)
    }

    /// The partial tiles that [`EdgeTiles::from_tiles`] needs for a tree of `size` leaves.
    #[must_use]
    pub fn tile_ids(size: u64) -> Vec<TileId> {
        (0_u8..8)
            .filter_map(|level| Self::tile_id(level, size))
            .collect()
    }

    /// The number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of the partial tile at `level`; empty if there is none.
    #[must_use]
    pub fn tile(&self, level: u8) -> &[Hash] {
        self.levels
            .get(usize::from(level))
            .map_or(&[], Vec::as_slice)
    }

    /// Appends one leaf hash and says which tiles became full by it, as level and index, lowest first: none, mostly.
    pub fn push(&mut self, leaf: Hash) -> Vec<(u8, u64)> {
        let mut full = Vec::new();
        let mut hash = leaf;
        self.size += 1;
        for level in 0_u8..8 {
            if self.levels.len() == usize::from(level) {
                self.levels.push(Vec::new());
            }
            let hashes = &mut self.levels[usize::from(level)];
            hashes.push(hash);
            if hashes.len() < usize::from(TILE_WIDTH) {
                break;
            }
            let hashes = core::mem::take(hashes);
            hash = root_of(&hashes);
            let index = hashes_at(level, self.size) / u64::from(TILE_WIDTH) - 1;
            full.push((level, index));
            self.filled.push(Tile {
                id: TileId {
                    level,
                    index,
                    width: TILE_WIDTH,
                },
                hashes,
            });
        }
        full
    }

    /// The tiles that changed since the edge was made or [`EdgeTiles::take_changed`] was last called:
    /// those that became full, then the partial ones that differ, lowest level first.
    #[must_use]
    pub fn changed(&self) -> Vec<Tile> {
        let mut changed = self.filled.clone();
        changed.extend(self.changed_edge());
        changed
    }

    /// Hands out [`EdgeTiles::changed`] and starts counting changes anew; until then full tiles are kept in memory.
    pub fn take_changed(&mut self) -> Vec<Tile> {
        let edge: Vec<Tile> = self.changed_edge().collect();
        let mut changed = core::mem::take(&mut self.filled);
        changed.extend(edge);
        self.size_before = self.size;
        changed
    }

    /// The frontier of the tree.
    #[must_use]
    pub fn frontier(&self) -> Frontier {
        let mut hashes = Vec::new();
        for level in self.levels.iter().rev() {
            let mut rest = level.as_slice();
            while let Some(height) = rest.len().checked_ilog2() {
                let (perfect, tail) = rest.split_at(1 << height);
                hashes.push(root_of(perfect));
                rest = tail;
            }
        }
        Frontier::from_parts(self.size, hashes)
            .expect("each level holds as many hashes as the size says")
    }

    /// The root hash of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.frontier().root()
    }

    fn tile_id(level: u8, size: u64) -> Option<TileId> {
        TileId::in_tree(level, hashes_at(level, size) / u64::from(TILE_WIDTH), size)
    }

    fn changed_edge(&self) -> impl Iterator<Item = Tile> {
        (0_u8..8)
            .filter(|level| hashes_at(*level, self.size) != hashes_at(*level, self.size_before))
            .filter_map(|level| {
                Some(Tile {
                    id: Self::tile_id(level, self.size)?,
                    hashes: self.tile(level).to_vec(),
                })
            })
    }
}

/// Why a tile, its path, a bundle or an edge was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TileError {
    /// The level is above 63.
    Level {
        /// The level given.
        level: u8,
    },
    /// The width is not 1 to 256.
    Width {
        /// The width given.
        width: u16,
    },
    /// The tree size is above [`SIZE_MAX`].
    Size {
        /// The size given.
        size: u64,
    },
    /// Not the one spelling of a tile's or bundle's path.
    Path {
        /// The path given, shortened.
        path: String,
    },
    /// The file of a tile hasn't the length of its width.
    TileLength {
        /// Which tile.
        id: TileId,
        /// The bytes there were.
        found: usize,
    },
    /// An entry bundle must hold 1 to 256 entries.
    Entries {
        /// The entries given.
        found: usize,
    },
    /// An entry is too long for a bundle.
    EntryLength {
        /// Its position in the bundle.
        position: usize,
        /// Its length.
        len: usize,
    },
    /// An entry bundle ends within an entry.
    BundleTruncated {
        /// The position of that entry.
        position: usize,
    },
    /// An entry bundle goes on behind its last entry.
    BundleTrailing {
        /// The entries it should have.
        width: u16,
        /// The bytes left.
        found: usize,
    },
    /// A partial tile doesn't fit the tree size.
    Edge {
        /// The level of the tile.
        level: u8,
        /// The tree size.
        size: u64,
        /// The hashes given.
        found: usize,
    },
}

impl fmt::Display for TileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level { level } => write!(f, "tile level {level} is above {LEVEL_MAX}"),
            Self::Width { width } => {
                write!(f, "tile width {width} is not within 1 to {TILE_WIDTH}")
            }
            Self::Size { size } => write!(f, "tree size {size} is above {SIZE_MAX}"),
            Self::Path { path } => write!(f, "`{path}` is not the path of a tile"),
            Self::TileLength { id, found } => {
                write!(
                    f,
                    "{id} has {found} bytes, must have {}",
                    usize::from(id.width) * Hash::LEN
                )
            }
            Self::Entries { found } => write!(
                f,
                "entry bundle of {found} entries is not within 1 to {TILE_WIDTH}"
            ),
            Self::EntryLength { position, len } => {
                write!(
                    f,
                    "entry {position} of the bundle has {len} bytes, must have at most {ENTRY_LEN_MAX}"
                )
            }
            Self::BundleTruncated { position } => {
                write!(f, "entry bundle ends within entry {position}")
            }
            Self::BundleTrailing { width, found } => {
                write!(
                    f,
                    "entry bundle has {found} bytes behind its {width} entries"
                )
            }
            Self::Edge { level, size, found } => write!(
                f,
                "partial tile at level {level} has {found} hashes, must have {} at tree size {size}",
                edge_width(*level, *size)
            ),
        }
    }
}

impl core::error::Error for TileError {}

/// The hashes that `level` has in a tree of `size` leaves: one for each full tile of the level below.
fn hashes_at(level: u8, size: u64) -> u64 {
    size.checked_shr(8 * u32::from(level)).unwrap_or(0)
}

fn edge_width(level: u8, size: u64) -> usize {
    usize::from(hashes_at(level, size).to_le_bytes()[0])
}

fn index_path(index: u64, width: u16) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    if width < TILE_WIDTH {
        format!("{path}.p/{width}")
    } else {
        path
    }
}

fn index_from_path(path: &str) -> Option<(u64, u16)> {
    let (elements, width) = match path.split_once(".p/") {
        None => (path, TILE_WIDTH),
        Some((elements, width)) => {
            let width = u16::try_from(encoding::decimal_decode(width)?).ok()?;
            (elements, width)
        }
    };
    if width == 0 || width > TILE_WIDTH {
        return None;
    }
    let mut index = 0_u64;
    for element in elements.split('/') {
        let digits = element.strip_prefix('x').unwrap_or(element);
        if digits.len() != 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        index = index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
    }
    // Rewriting refuses what is left: a missing or extra `x`, superfluous elements, `.p/256`.
    (index_path(index, width) == path).then_some((index, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count)
            .map(|leaf| leaf_hash(&leaf.to_be_bytes()))
            .collect()
    }

    #[test]
    fn a_path_has_one_spelling() {
        for (id, path) in [
            (
                TileId {
                    level: 0,
                    index: 0,
                    width: 256,
                },
                "tile/0/000",
            ),
            (
                TileId {
                    level: 0,
                    index: 1234,
                    width: 5,
                },
                "tile/0/x001/234.p/5",
            ),
            (
                TileId {
                    level: 1,
                    index: 1_234_067,
                    width: 256,
                },
                "tile/1/x001/x234/067",
            ),
            (
                TileId {
                    level: 63,
                    index: 999,
                    width: 255,
                },
                "tile/63/999.p/255",
            ),
            (
                TileId {
                    level: 7,
                    index: 1000,
                    width: 1,
                },
                "tile/7/x001/000.p/1",
            ),
            (
                TileId {
                    level: 0,
                    index: u64::MAX,
                    width: 1,
                },
                "tile/0/x018/x446/x744/x073/x709/x551/615.p/1",
            ),
        ] {
            assert_eq!(id.path(), path);
            assert_eq!(TileId::from_path(path), Ok(id));
        }
        assert_eq!(entries_path(1234, 5), "tile/entries/x001/234.p/5");
        assert_eq!(
            parse_entries_path("tile/entries/x001/234.p/5"),
            Ok((1234, 5))
        );
        assert_eq!(parse_entries_path("tile/entries/000"), Ok((0, 256)));
    }

    #[test]
    fn other_spellings_of_a_path_are_refused() {
        for path in [
            "",
            "tile",
            "tile/0",
            "tile/0/",
            "/tile/0/000",
            "tile/00/000",
            "tile/-1/000",
            "tile/256/000",
            "tile/0/0",
            "tile/0/0000",
            "tile/0/x000",
            "tile/0/x000/001",
            "tile/0/001/234",
            "tile/0/x001/x234",
            "tile/0/x01/234",
            "tile/0/+01",
            "tile/0/000/",
            "tile/0/000.p",
            "tile/0/000.p/",
            "tile/0/000.p/0",
            "tile/0/000.p/05",
            "tile/0/000.p/256",
            "tile/0/000.p/257",
            "tile/0/000.p/5/",
            "tile/0/000.p/5.p/5",
            "tile/0/000 ",
            "tile/0/x018/x446/x744/x073/x709/x551/616",
            "tile/0/x018/x446/x744/x073/x709/x551/x615/000",
            "tile/entries/000",
        ] {
            assert!(
                matches!(TileId::from_path(path), Err(TileError::Path { .. })),
                "{path}"
            );
        }
        assert_eq!(
            TileId::from_path("tile/64/000"),
            Err(TileError::Level { level: 64 })
        );
        assert!(
            parse_entries_path("tile/0/000").is_err(),
            "a tile is not a bundle"
        );
    }

    #[test]
    fn the_tiles_of_a_tree_are_those_of_the_specification() {
        assert_eq!(tile_ids(0).count(), 0);
        let paths = |size| tile_ids(size).map(|id| id.path()).collect::<Vec<_>>();
        assert_eq!(paths(1), ["tile/0/000.p/1"]);
        assert_eq!(paths(256), ["tile/0/000", "tile/1/000.p/1"]);
        // The example of the specification: a tree of 70,000 leaves.
        let ids: Vec<TileId> = tile_ids(70_000).collect();
        let count = |level, full| {
            ids.iter()
                .filter(|id| id.level == level && id.is_full() == full)
                .count()
        };
        assert_eq!((count(0, true), count(0, false)), (273, 1));
        assert_eq!((count(1, true), count(1, false)), (1, 1));
        assert_eq!((count(2, true), count(2, false)), (0, 1));
        assert_eq!(ids.len(), 277);
        let widths: Vec<u16> = ids
            .iter()
            .filter(|id| !id.is_full())
            .map(|id| id.width)
            .collect();
        assert_eq!(widths, [112, 17, 1]);
        assert_eq!(
            TileId::in_tree(7, 0, SIZE_MAX),
            Some(TileId {
                level: 7,
                index: 0,
                width: 127
            })
        );
        assert_eq!(TileId::in_tree(8, 0, SIZE_MAX), None);
        assert_eq!(TileId::in_tree(0, u64::MAX, SIZE_MAX), None);
    }

    #[test]
    fn the_edge_has_the_tiles_the_frontier_and_the_root_of_its_tree() {
        let leaves = leaves(1030);
        let mut edge = EdgeTiles::new();
        let mut frontier = Frontier::new();
        let mut tiles = TileMap::new();
        for (size, leaf) in (1_u64..).zip(&leaves) {
            let full = edge.push(*leaf);
            frontier.push(*leaf);
            assert_eq!(edge.size(), size);
            assert_eq!(edge.frontier(), frontier, "size {size}");
            let expected = if size % 256 == 0 {
                vec![(0, size / 256 - 1)]
            } else {
                vec![]
            };
            assert_eq!(full, expected, "size {size}");
            let changed = edge.take_changed();
            assert!(edge.changed().is_empty(), "changes are handed out once");
            for tile in &changed {
                assert_eq!(
                    Some(tile.id),
                    TileId::in_tree(tile.id.level, tile.id.index, size)
                );
                assert_eq!(tile.hashes.len(), usize::from(tile.id.width));
            }
            tiles.extend(changed);
            for id in tile_ids(size) {
                assert!(tiles.tile(id).is_ok(), "tree size {size} has no {id}");
            }
            let read = EdgeTiles::from_reader(size, &tiles).unwrap();
            assert_eq!(read.root(), edge.root(), "size {size}");
            assert_eq!(EdgeTiles::tile_ids(size), edge_ids(&edge), "size {size}");
        }
    }

    fn edge_ids(edge: &EdgeTiles) -> Vec<TileId> {
        let ids = (0_u8..8).filter(|level| !edge.tile(*level).is_empty());
        ids.map(|level| EdgeTiles::tile_id(level, edge.size()).unwrap())
            .collect()
    }

    fn push(edge: &mut EdgeTiles, count: usize) {
        for leaf in leaves(count) {
            edge.push(leaf);
        }
    }

    #[test]
    fn a_batch_changes_the_tiles_it_fills_and_the_edge_it_leaves() {
        let mut edge = EdgeTiles::new();
        push(&mut edge, 200);
        let paths = |tiles: Vec<Tile>| {
            tiles
                .into_iter()
                .map(|tile| tile.id.path())
                .collect::<Vec<_>>()
        };
        assert_eq!(paths(edge.take_changed()), ["tile/0/000.p/200"]);
        push(&mut edge, 400);
        let changed = [
            "tile/0/000",
            "tile/0/001",
            "tile/0/002.p/88",
            "tile/1/000.p/2",
        ];
        assert_eq!(paths(edge.changed()), changed);
        assert_eq!(paths(edge.take_changed()), changed);
        // Filled to the brim: no partial tile is left at level 0.
        push(&mut edge, 168);
        assert_eq!(paths(edge.take_changed()), ["tile/0/002", "tile/1/000.p/3"]);
    }

    #[test]
    fn an_edge_that_does_not_fit_its_size_is_refused() {
        let hash = leaf_hash(b"");
        let edge = |size, widths: &[usize]| {
            EdgeTiles::from_tiles(
                size,
                widths.iter().map(|width| vec![hash; *width]).collect(),
            )
        };
        assert_eq!(edge(0, &[]).unwrap().size(), 0);
        assert_eq!(
            edge(256, &[0, 1, 0]).unwrap().size(),
            256,
            "levels above the tree may be empty"
        );
        for (size, widths, level) in [
            (0, &[1][..], 0),
            (1, &[], 0),
            (2, &[1], 0),
            (255, &[256], 0),
            (256, &[256], 0),
            (257, &[1], 1),
            (257, &[1, 2], 1),
            (1, &[1, 1], 1),
            (1, &[1, 0, 0, 0, 0, 0, 0, 0, 1], 8),
        ] {
            let error = edge(size, widths).unwrap_err();
            assert!(
                matches!(error, TileError::Edge { level: found, .. } if found == level),
                "size {size}, {widths:?}: {error}"
            );
        }
        assert_eq!(
            edge(SIZE_MAX + 1, &[]).unwrap_err(),
            TileError::Size { size: SIZE_MAX + 1 }
        );
    }

    #[test]
    fn a_tile_file_has_the_length_of_its_width() {
        let id = TileId::new(0, 0, 3).unwrap();
        let tile = Tile {
            id,
            hashes: leaves(3),
        };
        assert_eq!(Tile::decode(id, &tile.encode()), Ok(tile.clone()));
        for found in [0, 64, 95, 97, 128] {
            assert_eq!(
                Tile::decode(id, &vec![0; found]),
                Err(TileError::TileLength { id, found })
            );
        }
        assert_eq!(TileId::new(0, 0, 0), Err(TileError::Width { width: 0 }));
        assert_eq!(TileId::new(0, 0, 257), Err(TileError::Width { width: 257 }));
    }

    #[test]
    fn a_map_serves_a_narrow_tile_from_a_wide_one_only() {
        let hashes = leaves(5);
        let tile = |width: u16| Tile {
            id: TileId {
                level: 0,
                index: 0,
                width,
            },
            hashes: hashes[..usize::from(width)].to_vec(),
        };
        let map = TileMap::from_iter([tile(2), tile(4), tile(3)]);
        assert_eq!(map.tile(tile(3).id), Ok(tile(3).hashes));
        assert_eq!(map.tile(tile(4).id), Ok(tile(4).hashes));
        let id = TileId {
            level: 0,
            index: 0,
            width: 5,
        };
        assert_eq!(map.tile(id), Err(TileMissing { id }));
    }

    #[test]
    fn a_bundle_is_read_as_written_and_no_other_way() {
        let longest = vec![7; ENTRY_LEN_MAX];
        let entries: [&[u8]; 3] = [b"", b"entry", &longest];
        let bundle = encode_entry_bundle(&entries).unwrap();
        assert_eq!(
            bundle.get(..9),
            Some(&[0, 0, 0, 5, b'e', b'n', b't', b'r', b'y'][..])
        );
        assert_eq!(decode_entry_bundle(&bundle, 3).unwrap(), entries);
        assert_eq!(
            decode_entry_bundle(&bundle, 4),
            Err(TileError::BundleTruncated { position: 3 })
        );
        assert_eq!(
            decode_entry_bundle(&bundle, 1),
            Err(TileError::BundleTrailing {
                width: 1,
                found: bundle.len() - 2
            })
        );
        let cut = &bundle[..bundle.len() - 1];
        assert_eq!(
            decode_entry_bundle(cut, 3),
            Err(TileError::BundleTruncated { position: 2 })
        );
        assert_eq!(
            decode_entry_bundle(&[0], 1),
            Err(TileError::BundleTruncated { position: 0 })
        );
        assert_eq!(
            decode_entry_bundle(&[], 0),
            Err(TileError::Width { width: 0 })
        );
        assert_eq!(
            decode_entry_bundle(&[], 257),
            Err(TileError::Width { width: 257 })
        );
        assert_eq!(
            encode_entry_bundle(&[]),
            Err(TileError::Entries { found: 0 })
        );
        assert_eq!(
            encode_entry_bundle(&[b"".as_slice(); 257]),
            Err(TileError::Entries { found: 257 })
        );
        let long = vec![0; ENTRY_LEN_MAX + 1];
        let error = TileError::EntryLength {
            position: 1,
            len: long.len(),
        };
        assert_eq!(encode_entry_bundle(&[b"", &long]), Err(error));
        assert_eq!(
            encode_entry_bundle(&[longest.as_slice(); 256])
                .unwrap()
                .len(),
            BUNDLE_LEN_MAX
        );
    }
}
