//! The frontier: the few hashes from which the next leaves and the root follow.

use core::fmt;

use crate::hash::{Hash, empty_root, node_hash};
use crate::tile::SIZE_MAX;

/// The roots of the perfect subtrees that make up a tree, largest first: one for each bit set in the tree size.
///
/// Appending a leaf costs one hash on average and the whole state is at most 64 hashes, whatever the size of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    hashes: Vec<Hash>,
}

impl Frontier {
    /// The frontier of the empty tree.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            size: 0,
            hashes: Vec::new(),
        }
    }

    /// Takes up a tree where it was left: `hashes` are the roots of its perfect subtrees, largest first.
    pub fn from_parts(size: u64, hashes: Vec<Hash>) -> Result<Self, FrontierError> {
        if size > SIZE_MAX {
            return Err(FrontierError::Size { size });
        }
        if usize::try_from(size.count_ones()) != Ok(hashes.len()) {
            return Err(FrontierError::Hashes {
                size,
                found: hashes.len(),
            });
        }
        Ok(Self { size, hashes })
    }

    /// The number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the perfect subtrees, largest first.
    #[must_use]
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// Appends one leaf hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // Each trailing one in the size is a perfect subtree that the new leaf completes a sibling for.
        for _ in 0..self.size.trailing_ones() {
            let left = self
                .hashes
                .pop()
                .expect("one hash for each bit set in the size");
            hash = node_hash(&left, &hash);
        }
        self.hashes.push(hash);
        self.size += 1;
    }

    /// The root hash.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.hashes
            .iter()
            .rev()
            .copied()
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(empty_root)
    }
}

impl Extend<Hash> for Frontier {
    fn extend<I: IntoIterator<Item = Hash>>(&mut self, leaves: I) {
        for leaf in leaves {
            self.push(leaf);
        }
    }
}

/// Why a [`Frontier`] could not be taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrontierError {
    /// The tree size is above [`SIZE_MAX`].
    Size {
        /// The size given.
        size: u64,
    },
    /// The number of hashes is not the number of bits set in the size.
    Hashes {
        /// The size given.
        size: u64,
        /// The hashes given.
        found: usize,
    },
}

impl fmt::Display for FrontierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { size } => write!(f, "tree size {size} is above {SIZE_MAX}"),
            Self::Hashes { size, found } => {
                write!(
                    f,
                    "frontier of tree size {size} has {found} hashes, must have {}",
                    size.count_ones()
                )
            }
        }
    }
}

impl core::error::Error for FrontierError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{leaf_hash, root_of};

    #[test]
    fn every_small_frontier_has_the_reference_root_and_can_be_taken_up() {
        let leaves: Vec<Hash> = (0_u8..=255).map(|leaf| leaf_hash(&[leaf])).collect();
        let mut frontier = Frontier::new();
        for size in 0..=leaves.len() {
            assert_eq!(frontier.size(), size as u64);
            assert_eq!(frontier.root(), root_of(&leaves[..size]), "size {size}");
            let again = Frontier::from_parts(frontier.size(), frontier.hashes().to_vec()).unwrap();
            assert_eq!(again, frontier);
            if let Some(leaf) = leaves.get(size) {
                frontier.push(*leaf);
            }
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let hash = empty_root();
        for (size, found) in [(0, 1), (1, 0), (1, 2), (2, 2), (3, 1), (255, 7), (256, 8)] {
            assert_eq!(
                Frontier::from_parts(size, vec![hash; found]),
                Err(FrontierError::Hashes { size, found })
            );
        }
        let size = SIZE_MAX + 1;
        assert_eq!(
            Frontier::from_parts(size, vec![hash]),
            Err(FrontierError::Size { size })
        );
    }
}
