//! Inclusion and consistency proofs: made from tiles, verified without anything but hashes.
//!
//! All of them are cases of one construction, the subtree consistency proof of draft-ietf-plants-merkle-tree-certs §4.4:
//! with `start = 0` it is the consistency proof of RFC 9162 §2.1.4, with `end = start + 1` the inclusion proof of §2.1.3.

use core::{fmt, ops};
use std::collections::BTreeMap;

use crate::hash::{Hash, empty_root, node_hash};
use crate::tile::{SIZE_MAX, TileError, TileId, TileReader};

/// The inclusion proof of the leaf at `index` in the tree of `size` leaves, the leaf's sibling first.
pub fn inclusion_proof<R: TileReader>(
    index: u64,
    size: u64,
    reader: &R,
) -> Result<Vec<Hash>, ReadError<R::Error>> {
    Plan::inclusion(index, size)?.hashes(reader)
}

/// The tiles that [`inclusion_proof`] reads.
pub fn inclusion_tiles(index: u64, size: u64) -> Result<Vec<TileId>, ProofError> {
    Ok(Plan::inclusion(index, size)?.tiles())
}

/// The proof that the tree of `new_size` leaves extends the tree of its first `old_size` leaves.
///
/// It is empty for `old_size` 0 and for equal sizes.
pub fn consistency_proof<R: TileReader>(
    old_size: u64,
    new_size: u64,
    reader: &R,
) -> Result<Vec<Hash>, ReadError<R::Error>> {
    Plan::consistency(old_size, new_size)?.hashes(reader)
}

/// The tiles that [`consistency_proof`] reads.
pub fn consistency_tiles(old_size: u64, new_size: u64) -> Result<Vec<TileId>, ProofError> {
    Ok(Plan::consistency(old_size, new_size)?.tiles())
}

/// The root hash of the tree of `size` leaves, computed from tiles along its right edge.
pub fn root_from_tiles<R: TileReader>(size: u64, reader: &R) -> Result<Hash, ReadError<R::Error>> {
    let hashes = Plan::root(size)?.hashes(reader)?;
    Ok(hashes.first().copied().unwrap_or_else(empty_root))
}

/// The tiles that [`root_from_tiles`] reads.
pub fn root_tiles(size: u64) -> Result<Vec<TileId>, ProofError> {
    Ok(Plan::root(size)?.tiles())
}

/// The inclusion proof of the leaf at `index` in the subtree `[start, end)`.
pub fn subtree_inclusion_proof<R: TileReader>(
    index: u64,
    start: u64,
    end: u64,
    reader: &R,
) -> Result<Vec<Hash>, ReadError<R::Error>> {
    Plan::subtree_inclusion(index, start, end)?.hashes(reader)
}

/// The proof that the subtree `[start, end)` is part of the tree of `size` leaves.
pub fn subtree_consistency_proof<R: TileReader>(
    start: u64,
    end: u64,
    size: u64,
    reader: &R,
) -> Result<Vec<Hash>, ReadError<R::Error>> {
    Plan::subtree_consistency(start, end, size)?.hashes(reader)
}

/// Verifies that the leaf hash stands at `index` in the tree of `size` leaves with root hash `root` (RFC 9162 §2.1.3.2).
///
/// Size and root hash belong together and come from one verified checkpoint: a root hash alone doesn't fix the size, and
/// the same proof can lead to it with another.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Index {
            index,
            start: 0,
            end: size,
        });
    }
    check_length(Plan::proof_len(index, index + 1, 0, size), proof)?;
    // A subtree of one leaf is its leaf hash: the old side of the climb stays at the leaf.
    let (_, computed) = climb(index, index + 1, size, leaf, proof)?;
    if computed == *root {
        Ok(())
    } else {
        Err(ProofError::Root {
            computed,
            expected: *root,
        })
    }
}

/// Verifies that the tree of `new_size` leaves with root hash `new_root` extends the tree of `old_size` leaves
/// with root hash `old_root` (RFC 9162 §2.1.4.2).
///
/// Every tree extends the empty one: for `old_size` 0 the proof must be empty and `old_root` the root of the empty tree.
/// For equal sizes the proof must be empty and the roots equal.
pub fn verify_consistency(
    old_size: u64,
    new_size: u64,
    old_root: &Hash,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old_size > new_size {
        return Err(ProofError::Sizes { old_size, new_size });
    }
    if new_size == 0 && *new_root != empty_root() {
        return Err(ProofError::Root {
            computed: empty_root(),
            expected: *new_root,
        });
    }
    verify_subtree_consistency(0, old_size, new_size, old_root, new_root, proof)
}

/// The one or two subtrees that cover the entries from `start` to `end` with the fewest others, the left one first; the
/// right one is empty if one is enough (draft-ietf-plants-merkle-tree-certs, arbitrary intervals).
///
/// Whoever proves a range of entries proves these subtrees, instead of each entry.
#[must_use]
pub fn covering_subtrees(start: u64, end: u64) -> (ops::Range<u64>, ops::Range<u64>) {
    if end <= start.saturating_add(1) {
        return (start..end, end..end);
    }
    let below = |bits: u32| (1_u64 << bits) - 1;
    let width = |n: u64| u64::BITS - n.leading_zeros();
    let last = end - 1;
    // The right subtree begins where first and last entry part ways.
    let split = width(start ^ last) - 1;
    let middle = last & !below(split);
    // The left one must be so wide that it reaches from there back to the first entry.
    let left = start & !below(width(!start & below(split)));
    (left..middle, middle..end)
}

/// Verifies that the leaf hash stands at `index` in the subtree `[start, end)` with root hash `root`
/// (draft-ietf-plants-merkle-tree-certs §4.3.3).
pub fn verify_subtree_inclusion(
    leaf: &Hash,
    index: u64,
    start: u64,
    end: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    check_subtree(start, end)?;
    if index < start || index >= end {
        return Err(ProofError::Index { index, start, end });
    }
    verify_inclusion(leaf, index - start, end - start, proof, root)
}

/// Verifies that the subtree `[start, end)` with root hash `subtree_root` is part of the tree of `size` leaves
/// with root hash `root` (draft-ietf-plants-merkle-tree-certs §4.4.3).
pub fn verify_subtree_consistency(
    start: u64,
    end: u64,
    size: u64,
    subtree_root: &Hash,
    root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    check_subtree(start, end)?;
    if end > size {
        return Err(ProofError::Subtree { start, end });
    }
    check_length(Plan::proof_len(start, end, 0, size), proof)?;
    let (computed_subtree, computed) = if start == end {
        (empty_root(), *root)
    } else {
        climb(start, end, size, subtree_root, proof)?
    };
    if computed_subtree != *subtree_root {
        return Err(ProofError::OldRoot {
            computed: computed_subtree,
            expected: *subtree_root,
        });
    }
    if computed == *root {
        Ok(())
    } else {
        Err(ProofError::Root {
            computed,
            expected: *root,
        })
    }
}

/// Why a proof was refused, or can't be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProofError {
    /// The leaf index is not within the tree or subtree.
    Index {
        /// The leaf index.
        index: u64,
        /// The first index of the tree or subtree.
        start: u64,
        /// The index behind its last.
        end: u64,
    },
    /// The old tree is larger than the new one.
    Sizes {
        /// The old tree size.
        old_size: u64,
        /// The new tree size.
        new_size: u64,
    },
    /// The tree size is above [`SIZE_MAX`].
    Size {
        /// The tree size.
        size: u64,
    },
    /// `[start, end)` is not a subtree, or not one of this tree.
    Subtree {
        /// The first index.
        start: u64,
        /// The index behind the last.
        end: u64,
    },
    /// The proof has too few or too many hashes.
    Length {
        /// The hashes it must have.
        expected: usize,
        /// The hashes it has.
        found: usize,
    },
    /// The proof leads to another root hash than the given one.
    Root {
        /// Where the proof leads.
        computed: Hash,
        /// The given root hash.
        expected: Hash,
    },
    /// The proof leads to another root hash of the old tree, or of the subtree, than the given one.
    OldRoot {
        /// Where the proof leads.
        computed: Hash,
        /// The given root hash.
        expected: Hash,
    },
}

impl fmt::Display for ProofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index {
                index,
                start: 0,
                end,
            } => write!(f, "leaf index {index} is not below the tree size {end}"),
            Self::Index { index, start, end } => write!(
                f,
                "leaf index {index} is not within subtree [{start}, {end})"
            ),
            Self::Sizes { old_size, new_size } => {
                write!(
                    f,
                    "old tree size {old_size} is above the new tree size {new_size}"
                )
            }
            Self::Size { size } => write!(f, "tree size {size} is above {SIZE_MAX}"),
            Self::Subtree { start, end } => {
                write!(f, "[{start}, {end}) is not a subtree of the tree")
            }
            Self::Length { expected, found } => {
                write!(f, "proof has {found} hashes, must have {expected}")
            }
            Self::Root { computed, expected } => {
                write!(
                    f,
                    "proof leads to root hash {computed}, must lead to {expected}"
                )
            }
            Self::OldRoot { computed, expected } => {
                write!(
                    f,
                    "proof leads to old root hash {computed}, must lead to {expected}"
                )
            }
        }
    }
}

impl core::error::Error for ProofError {}

/// Why a proof could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError<E> {
    /// There is no such proof.
    Proof(ProofError),
    /// A tile could not be read.
    Tile {
        /// Which tile.
        id: TileId,
        /// What the reader said.
        source: E,
    },
    /// The reader returned another number of hashes than it was asked for.
    Width {
        /// Which tile.
        id: TileId,
        /// The hashes it returned.
        found: usize,
    },
    /// The tiles don't make the edge of a tree.
    Edge(TileError),
}

impl<E> From<ProofError> for ReadError<E> {
    fn from(error: ProofError) -> Self {
        Self::Proof(error)
    }
}

impl<E> fmt::Display for ReadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proof(_) => f.write_str("there is no such proof"),
            Self::Tile { id, .. } => write!(f, "{id} could not be read"),
            Self::Width { id, found } => {
                write!(f, "{id} came with {found} hashes, must have {}", id.width)
            }
            Self::Edge(_) => f.write_str("the tiles are not the edge of a tree"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for ReadError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Proof(error) => Some(error),
            Self::Tile { source, .. } => Some(source),
            Self::Edge(error) => Some(error),
            Self::Width { .. } => None,
        }
    }
}

/// Reads one tile and checks that it has the width asked for.
pub(crate) fn read_tile<R: TileReader>(
    id: TileId,
    reader: &R,
) -> Result<Vec<Hash>, ReadError<R::Error>> {
    match reader.tile(id) {
        Err(source) => Err(ReadError::Tile { id, source }),
        Ok(hashes) if hashes.len() == usize::from(id.width) => Ok(hashes),
        Ok(hashes) => Err(ReadError::Width {
            id,
            found: hashes.len(),
        }),
    }
}

/// A range of leaves whose hash is wanted; its start is aligned to its length, rounded up to a power of two.
type Range = (u64, u64);

/// The ranges whose hashes make up a proof, in the proof's order, within a tree of `size` leaves.
struct Plan {
    size: u64,
    ranges: Vec<Range>,
}

impl Plan {
    fn inclusion(index: u64, size: u64) -> Result<Self, ProofError> {
        check_size(size)?;
        Self::subtree_inclusion(index, 0, size)
    }

    fn consistency(old_size: u64, new_size: u64) -> Result<Self, ProofError> {
        if old_size > new_size {
            return Err(ProofError::Sizes { old_size, new_size });
        }
        Self::subtree_consistency(0, old_size, new_size)
    }

    fn root(size: u64) -> Result<Self, ProofError> {
        check_size(size)?;
        Ok(Self {
            size,
            ranges: if size == 0 { vec![] } else { vec![(0, size)] },
        })
    }

    fn subtree_inclusion(index: u64, start: u64, end: u64) -> Result<Self, ProofError> {
        check_size(end)?;
        check_subtree(start, end)?;
        if index < start || index >= end {
            return Err(ProofError::Index { index, start, end });
        }
        let mut ranges = Vec::new();
        proof_ranges((index, index + 1), (start, end), &mut ranges);
        Ok(Self { size: end, ranges })
    }

    fn subtree_consistency(start: u64, end: u64, size: u64) -> Result<Self, ProofError> {
        check_size(size)?;
        check_subtree(start, end)?;
        if end > size {
            return Err(ProofError::Subtree { start, end });
        }
        let mut ranges = Vec::new();
        if start < end {
            proof_ranges((start, end), (0, size), &mut ranges);
        }
        Ok(Self { size, ranges })
    }

    /// The hashes that the proof of `[start, end)` within `[from, to)` has.
    fn proof_len(start: u64, end: u64, from: u64, to: u64) -> usize {
        let mut ranges = Vec::new();
        if start < end {
            proof_ranges((start, end), (from, to), &mut ranges);
        }
        ranges.len()
    }

    /// The tiles to read, each once, in order of level and index.
    fn tiles(&self) -> Vec<TileId> {
        let tiles: BTreeMap<(u8, u64), TileId> = self
            .ranges
            .iter()
            .flat_map(|range| perfect_subtrees(*range))
            .map(|subtree| {
                (
                    (subtree.tile_level(), subtree.tile_index()),
                    subtree.tile(self.size),
                )
            })
            .collect();
        tiles.into_values().collect()
    }

    fn hashes<R: TileReader>(&self, reader: &R) -> Result<Vec<Hash>, ReadError<R::Error>> {
        let mut tiles = BTreeMap::new();
        for id in self.tiles() {
            tiles.insert((id.level, id.index), read_tile(id, reader)?);
        }
        let subtree_hash = |subtree: Perfect| {
            let tile = &tiles[&(subtree.tile_level(), subtree.tile_index())];
            crate::hash::root_of(&tile[subtree.tile_range()])
        };
        let range_hash = |range: &Range| {
            let hashes: Vec<Hash> = perfect_subtrees(*range).map(subtree_hash).collect();
            hashes
                .into_iter()
                .rev()
                .reduce(|right, left| node_hash(&left, &right))
                .unwrap_or_else(empty_root)
        };
        Ok(self.ranges.iter().map(range_hash).collect())
    }
}

/// A perfect subtree: the leaves `[index << height, (index + 1) << height)`.
#[derive(Copy, Clone)]
struct Perfect {
    height: u8,
    index: u64,
}

impl Perfect {
    /// A tile spans eight heights, and the root of a full tile is a hash of the level above.
    const fn tile_level(self) -> u8 {
        self.height / 8
    }

    /// The position of the subtree's first hash within its level.
    const fn first_hash(self) -> u64 {
        self.index << (self.height % 8)
    }

    const fn tile_index(self) -> u64 {
        self.first_hash() >> 8
    }

    fn tile_range(self) -> ops::Range<usize> {
        let start = usize::from(self.first_hash().to_le_bytes()[0]);
        start..start + (1 << (self.height % 8))
    }

    fn tile(self, size: u64) -> TileId {
        TileId::in_tree(self.tile_level(), self.tile_index(), size)
            .expect("the subtree lies within the tree")
    }
}

/// The perfect subtrees of a range, largest and leftmost first.
fn perfect_subtrees((mut start, end): Range) -> impl Iterator<Item = Perfect> {
    core::iter::from_fn(move || {
        let height = u8::try_from((end - start).checked_ilog2()?)
            .expect("the logarithm of a u64 is below 64");
        let subtree = Perfect {
            height,
            index: start >> height,
        };
        start += 1 << height;
        Some(subtree)
    })
}

/// Adds the ranges of `SUBTREE_SUBPROOF` (draft-ietf-plants-merkle-tree-certs §4.4.1), with leaf indexes counted from the
/// start of the log: the proof that `[start, end)` is part of the tree over `[from, to)`.
fn proof_ranges((start, end): Range, (from, to): Range, ranges: &mut Vec<Range>) {
    // Going down, the siblings are found root first; the proof has them leaf first.
    let base = ranges.len();
    let (mut start, mut from, mut to) = (start, from, to);
    let mut known = true;
    while (start, end) != (from, to) {
        let split = from + largest_power_of_two_below(to - from);
        if end <= split {
            ranges.push((split, to));
            to = split;
        } else {
            ranges.push((from, split));
            // A subtree that reaches over the split starts where the tree does: its left part is the sibling itself.
            known &= start >= split;
            start = start.max(split);
            from = split;
        }
    }
    if !known {
        ranges.push((start, end));
    }
    ranges[base..].reverse();
}

/// For `length` ≥ 2, the `k` of RFC 9162 §2.1.1.
const fn largest_power_of_two_below(length: u64) -> u64 {
    1 << (length - 1).ilog2()
}

/// Climbs from a subtree to the roots: what the proof makes of the subtree `[start, end)` and of the tree of `size` leaves
/// (draft-ietf-plants-merkle-tree-certs §4.4.3, steps 3 to 7), for `start < end <= size`.
fn climb(
    start: u64,
    end: u64,
    size: u64,
    known: &Hash,
    proof: &[Hash],
) -> Result<(Hash, Hash), ProofError> {
    let length = |expected| ProofError::Length {
        expected,
        found: proof.len(),
    };
    let (mut first, mut last, mut tree_last) = (start, end - 1, size - 1);
    // The first hash of the proof is left out where the subtree is itself a node of the tree.
    let shift = if last == tree_last {
        u64::BITS - (first ^ last).leading_zeros()
    } else {
        last.trailing_ones()
            .min(u64::BITS - (first ^ last).leading_zeros())
    };
    first = first.checked_shr(shift).unwrap_or(0);
    last = last.checked_shr(shift).unwrap_or(0);
    tree_last = tree_last.checked_shr(shift).unwrap_or(0);
    let (seed, path) = if first == last {
        (known, proof)
    } else {
        proof.split_first().ok_or_else(|| length(1))?
    };
    let (mut subtree_root, mut root) = (*seed, *seed);
    for (position, sibling) in path.iter().enumerate() {
        if tree_last == 0 {
            return Err(length(proof.len() - path.len() + position));
        }
        if last & 1 == 1 || last == tree_last {
            if first < last {
                subtree_root = node_hash(sibling, &subtree_root);
            }
            root = node_hash(sibling, &root);
            let shift = last.trailing_zeros();
            first >>= shift;
            last >>= shift;
            tree_last >>= shift;
        } else {
            root = node_hash(&root, sibling);
        }
        first >>= 1;
        last >>= 1;
        tree_last >>= 1;
    }
    if tree_last == 0 {
        Ok((subtree_root, root))
    } else {
        Err(length(proof.len() + 1))
    }
}

fn check_length(expected: usize, proof: &[Hash]) -> Result<(), ProofError> {
    if proof.len() == expected {
        Ok(())
    } else {
        Err(ProofError::Length {
            expected,
            found: proof.len(),
        })
    }
}

fn check_size(size: u64) -> Result<(), ProofError> {
    if size > SIZE_MAX {
        Err(ProofError::Size { size })
    } else {
        Ok(())
    }
}

/// A subtree starts at a multiple of its length, rounded up to a power of two (draft-ietf-plants-merkle-tree-certs §4.1).
fn check_subtree(start: u64, end: u64) -> Result<(), ProofError> {
    let aligned = end.checked_sub(start).is_some_and(|length| {
        // Above 2^63 there is no power of two to round up to; only a tree from 0 is that long.
        start == 0
            || length
                .checked_next_power_of_two()
                .is_some_and(|length| start.is_multiple_of(length))
    });
    if aligned {
        Ok(())
    } else {
        Err(ProofError::Subtree { start, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{leaf_hash, root_of};
    use crate::tile::{EdgeTiles, TILE_WIDTH, TileMap, TileMissing};

    const SIZES: u64 = 100;

    /// The tiles of a tree and its leaves. Each leaf hash differs, so no two nodes are alike.
    fn tree(size: u64) -> (TileMap, Vec<Hash>) {
        let leaves: Vec<Hash> = (0..size)
            .map(|leaf| leaf_hash(&leaf.to_be_bytes()))
            .collect();
        let mut edge = EdgeTiles::new();
        for leaf in &leaves {
            edge.push(*leaf);
        }
        (edge.take_changed().into_iter().collect(), leaves)
    }

    fn prefix(leaves: &[Hash], size: u64) -> &[Hash] {
        &leaves[..usize::try_from(size).unwrap()]
    }

    /// `PATH(m, D[n])` as RFC 9162 §2.1.3.1 defines it.
    fn reference_inclusion(index: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() == 1 {
            return vec![];
        }
        let split = leaves.len().div_ceil(2).next_power_of_two();
        let (left, right) = leaves.split_at(split);
        let (mut proof, sibling) = if index < split {
            (reference_inclusion(index, left), right)
        } else {
            (reference_inclusion(index - split, right), left)
        };
        proof.push(root_of(sibling));
        proof
    }

    /// `SUBPROOF(m, D[n], b)` as RFC 9162 §2.1.4.1 defines it.
    fn reference_consistency(old: usize, leaves: &[Hash], known: bool) -> Vec<Hash> {
        if old == leaves.len() {
            return if known { vec![] } else { vec![root_of(leaves)] };
        }
        let split = leaves.len().div_ceil(2).next_power_of_two();
        let (left, right) = leaves.split_at(split);
        let (mut proof, sibling) = if old <= split {
            (reference_consistency(old, left, known), right)
        } else {
            (reference_consistency(old - split, right, false), left)
        };
        proof.push(root_of(sibling));
        proof
    }

    #[test]
    fn every_small_inclusion_proof_is_the_reference_and_verifies_only_where_it_belongs() {
        let (tiles, leaves) = tree(SIZES);
        for size in 1..=SIZES {
            let leaves = prefix(&leaves, size);
            let root = root_of(leaves);
            assert_eq!(root_from_tiles(size, &tiles), Ok(root), "size {size}");
            for (index, leaf) in (0_u64..).zip(leaves) {
                let proof = inclusion_proof(index, size, &tiles).unwrap();
                assert_eq!(
                    proof,
                    reference_inclusion(usize::try_from(index).unwrap(), leaves),
                    "{index} of {size}"
                );
                for other in 0..size + 2 {
                    let verdict = verify_inclusion(leaf, other, size, &proof, &root);
                    assert_eq!(
                        verdict.is_ok(),
                        other == index,
                        "{index} of {size} as {other}: {verdict:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_small_consistency_proof_is_the_reference_and_verifies_only_between_its_trees() {
        let (tiles, leaves) = tree(SIZES);
        for new_size in 0..=SIZES {
            let new = prefix(&leaves, new_size);
            let new_root = root_of(new);
            for old_size in 0..=new_size {
                let old_root = root_of(prefix(&leaves, old_size));
                let proof = consistency_proof(old_size, new_size, &tiles).unwrap();
                if old_size > 0 {
                    assert_eq!(
                        proof,
                        reference_consistency(usize::try_from(old_size).unwrap(), new, true)
                    );
                }
                assert_eq!(
                    verify_consistency(old_size, new_size, &old_root, &new_root, &proof),
                    Ok(())
                );
                let other = leaf_hash(b"other");
                let verdict = verify_consistency(old_size, new_size, &other, &new_root, &proof);
                assert!(
                    verdict.is_err(),
                    "{old_size} to {new_size} with a wrong old root"
                );
                // The empty tree is a prefix of every tree, so its proof says nothing of the new root.
                let verdict = verify_consistency(old_size, new_size, &old_root, &other, &proof);
                assert_eq!(
                    verdict.is_ok(),
                    old_size == 0 && new_size > 0,
                    "{old_size} to {new_size}: {verdict:?}"
                );
            }
        }
    }

    #[test]
    fn proofs_over_several_levels_of_tiles_verify() {
        let size = 70_000;
        let (tiles, leaves) = tree(size);
        let root = root_of(&leaves);
        assert_eq!(root_from_tiles(size, &tiles), Ok(root));
        for index in [0, 1, 255, 256, 65_535, 65_536, 69_887, 69_888, 69_999] {
            let proof = inclusion_proof(index, size, &tiles).unwrap();
            let leaf = leaves[usize::try_from(index).unwrap()];
            assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Ok(()));
        }
        for old_size in [1, 255, 256, 257, 65_535, 65_536, 65_537, 69_999, 70_000] {
            let proof = consistency_proof(old_size, size, &tiles).unwrap();
            let old_root = root_of(prefix(&leaves, old_size));
            assert_eq!(
                verify_consistency(old_size, size, &old_root, &root, &proof),
                Ok(())
            );
        }
    }

    #[test]
    fn exactly_the_tiles_announced_are_read() {
        struct Recorder<'a>(&'a TileMap, std::cell::RefCell<Vec<TileId>>);
        impl TileReader for Recorder<'_> {
            type Error = TileMissing;
            fn tile(&self, id: TileId) -> Result<Vec<Hash>, TileMissing> {
                self.1.borrow_mut().push(id);
                self.0.tile(id)
            }
        }
        let (tiles, _) = tree(70_000);
        let reads = |read: &dyn Fn(&Recorder<'_>)| {
            let recorder = Recorder(&tiles, std::cell::RefCell::default());
            read(&recorder);
            recorder.1.into_inner()
        };
        for size in [1, 2, 255, 256, 257, 300, 65_535, 65_536, 65_537, 70_000] {
            let root = reads(&|reader| {
                root_from_tiles(size, reader).unwrap();
            });
            assert_eq!(root, root_tiles(size).unwrap());
            for position in [0, 1, size / 2, size - 1] {
                let index = position.min(size - 1);
                let inclusion =
                    reads(&|reader| drop(inclusion_proof(index, size, reader).unwrap()));
                assert_eq!(inclusion, inclusion_tiles(index, size).unwrap());
                let consistency =
                    reads(&|reader| drop(consistency_proof(position, size, reader).unwrap()));
                assert_eq!(consistency, consistency_tiles(position, size).unwrap());
                for id in [root.clone(), inclusion, consistency].concat() {
                    assert_eq!(
                        Some(id),
                        TileId::in_tree(id.level, id.index, size),
                        "every tile is one of the tree"
                    );
                }
            }
        }
        assert_eq!(root_tiles(0), Ok(vec![]));
        assert_eq!(inclusion_tiles(0, 1), Ok(vec![]));
    }

    #[test]
    fn a_reader_that_returns_another_width_is_caught() {
        struct Short;
        impl TileReader for Short {
            type Error = core::convert::Infallible;
            fn tile(&self, _: TileId) -> Result<Vec<Hash>, Self::Error> {
                Ok(vec![empty_root(); usize::from(TILE_WIDTH)])
            }
        }
        let id = TileId {
            level: 0,
            index: 0,
            width: 3,
        };
        let width = Err(ReadError::Width { id, found: 256 });
        assert_eq!(inclusion_proof(0, 3, &Short), width);
        assert_eq!(consistency_proof(1, 3, &Short), width);
        assert_eq!(
            root_from_tiles(3, &Short),
            Err(ReadError::Width { id, found: 256 })
        );
        let missing = Err(ReadError::Tile {
            id,
            source: TileMissing { id },
        });
        assert_eq!(inclusion_proof(0, 3, &TileMap::new()), missing);
    }

    #[test]
    fn what_no_tree_has_is_refused() {
        let (tiles, _) = tree(4);
        let root = empty_root();
        for (index, size) in [(0, 0), (4, 4), (5, 4), (u64::MAX, 4), (u64::MAX, u64::MAX)] {
            let error = ProofError::Index {
                index,
                start: 0,
                end: size,
            };
            assert_eq!(
                verify_inclusion(&root, index, size, &[], &root),
                Err(error.clone())
            );
            if size <= SIZE_MAX {
                assert_eq!(
                    inclusion_proof(index, size, &tiles),
                    Err(ReadError::Proof(error))
                );
            }
        }
        let error = ProofError::Sizes {
            old_size: 3,
            new_size: 2,
        };
        assert_eq!(
            verify_consistency(3, 2, &root, &root, &[]),
            Err(error.clone())
        );
        assert_eq!(consistency_tiles(3, 2), Err(error));
        let size = SIZE_MAX + 1;
        assert_eq!(inclusion_tiles(0, size), Err(ProofError::Size { size }));
        assert_eq!(consistency_tiles(0, size), Err(ProofError::Size { size }));
        assert_eq!(root_tiles(size), Err(ProofError::Size { size }));
        // A verifier takes any size that a checkpoint can name, and needs a proof of the right length for it.
        let error = ProofError::Length {
            expected: 64,
            found: 0,
        };
        assert_eq!(verify_inclusion(&root, 0, u64::MAX, &[], &root), Err(error));
        assert_eq!(
            verify_consistency(1, u64::MAX, &root, &root, &[]),
            Err(ProofError::Length {
                expected: 64,
                found: 0
            })
        );
        assert_eq!(
            verify_consistency(u64::MAX, u64::MAX, &root, &root, &[]),
            Ok(())
        );
        // The empty tree has one root hash.
        assert_eq!(verify_consistency(0, 0, &root, &root, &[]), Ok(()));
        let other = leaf_hash(b"");
        assert_eq!(
            verify_consistency(0, 0, &other, &other, &[]),
            Err(ProofError::Root {
                computed: root,
                expected: other
            })
        );
        assert_eq!(
            verify_consistency(0, 4, &other, &other, &[]),
            Err(ProofError::OldRoot {
                computed: root,
                expected: other
            })
        );
        assert_eq!(
            verify_consistency(0, 4, &root, &other, &[other]),
            Err(ProofError::Length {
                expected: 0,
                found: 1
            })
        );
        assert_eq!(
            verify_subtree_consistency(1, 3, 4, &root, &root, &[]),
            Err(ProofError::Subtree { start: 1, end: 3 })
        );
    }

    /// A proof that verifies in a tree of the largest sizes: the arithmetic holds there as well.
    #[test]
    fn the_climb_reaches_the_root_of_the_largest_trees() {
        for size in [SIZE_MAX, SIZE_MAX + 1, u64::MAX] {
            for index in [0, 1, size / 2, size - 2, size - 1] {
                let leaf = leaf_hash(b"leaf");
                let proof = vec![empty_root(); Plan::proof_len(index, index + 1, 0, size)];
                let (_, root) = climb(index, index + 1, size, &leaf, &proof).unwrap();
                assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Ok(()));
                for (found, proof) in [
                    (proof.len() - 1, &proof[1..]),
                    (proof.len() + 1, &[proof.as_slice(), &[leaf]].concat()),
                ] {
                    let error = ProofError::Length {
                        expected: Plan::proof_len(index, index + 1, 0, size),
                        found,
                    };
                    assert_eq!(
                        verify_inclusion(&leaf, index, size, proof, &root),
                        Err(error)
                    );
                    // The climb itself would refuse it too, were the length not looked at first.
                    assert!(
                        climb(index, index + 1, size, &leaf, proof).is_err(),
                        "{index} of {size} with {found}"
                    );
                }
            }
        }
    }
}
