//! What is measured of trees: growing them, and inclusion proofs.

use audit_tlog::Hash;
use audit_tlog::frontier::Frontier;
use audit_tlog::hash::leaf_hash;
use audit_tlog::proof::{inclusion_proof, inclusion_tiles, verify_inclusion};
use audit_tlog::tile::{EdgeTiles, TileMap};

use crate::Result;

/// The root over the numbers below `size`, through the frontier: one leaf hash and one node hash for each.
#[must_use]
pub fn frontier(size: u64) -> Hash {
    let mut frontier = Frontier::new();
    for number in 0..size {
        frontier.push(leaf_hash(&number.to_be_bytes()));
    }
    frontier.root()
}

/// The same root through tiles, which are taken after each batch of `batch` leaves, as a store does.
#[must_use]
pub fn edge_tiles(size: u64, batch: u64) -> Hash {
    let mut edge = EdgeTiles::new();
    for number in 0..size {
        edge.push(leaf_hash(&number.to_be_bytes()));
        if number % batch == batch - 1 {
            drop(edge.take_changed());
        }
    }
    edge.root()
}

/// A tree with all of its tiles in memory.
#[derive(Debug)]
pub struct Tree {
    size: u64,
    tiles: TileMap,
    root: Hash,
}

impl Tree {
    /// The tree over the numbers below `size`.
    #[must_use]
    pub fn new(size: u64) -> Self {
        let mut edge = EdgeTiles::new();
        for number in 0..size {
            edge.push(leaf_hash(&number.to_be_bytes()));
        }
        let root = edge.root();
        Self {
            size,
            tiles: edge.take_changed().into_iter().collect(),
            root,
        }
    }

    /// Leaves that lie all over the tree, the same ones for the same `n`.
    pub fn some(&self, n: u64) -> impl Iterator<Item = u64> + use<> {
        // A step without a common divisor with the size spreads them; 2^64 divided by the golden ratio is odd.
        let size = self.size;
        (0..n).map(move |i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % size)
    }

    /// The proof of the leaf at `index`.
    pub fn prove(&self, index: u64) -> Result<Vec<Hash>> {
        Ok(inclusion_proof(index, self.size, &self.tiles)?)
    }

    /// Verifies a proof of the leaf at `index`.
    pub fn verify(&self, index: u64, proof: &[Hash]) -> Result<()> {
        let leaf = leaf_hash(&index.to_be_bytes());
        Ok(verify_inclusion(
            &leaf, index, self.size, proof, &self.root,
        )?)
    }

    /// The node hashes that it takes to hash once each tile that the proof reads.
    pub fn nodes_of_proof(&self, index: u64) -> Result<u64> {
        let tiles = inclusion_tiles(index, self.size)?;
        Ok(tiles.iter().map(|id| u64::from(id.width) - 1).sum())
    }
}
