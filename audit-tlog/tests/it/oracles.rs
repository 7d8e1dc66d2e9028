//! The same roots, proofs and tiles as two other implementations.

use audit_tlog::hash::{Hash, leaf_hash};
use audit_tlog::proof::{consistency_proof, inclusion_proof, root_from_tiles};
use audit_tlog::tile::{TileReader as _, tile_ids};
use audit_tlog::{Frontier, proof};
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use proptest::prelude::*;
use sha2::Sha256;

use crate::fixtures::tiles;

const SIZE_MAX: usize = 1200;

fn entries() -> impl Strategy<Value = Vec<Vec<u8>>> {
    // Small trees as often as such that span several tiles.
    let entry = || proptest::collection::vec(any::<u8>(), 0..8);
    prop_oneof![
        proptest::collection::vec(entry(), 1..40),
        proptest::collection::vec(entry(), 250..SIZE_MAX),
    ]
}

fn hashes(bytes: &[u8]) -> Vec<Hash> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    assert!(rest.is_empty());
    hashes.iter().copied().map(Hash::from_bytes).collect()
}

/// Keeps the hashes of every node in the order that `tlog_tiles` numbers them.
struct Stored(Vec<tlog_tiles::Hash>);

impl tlog_tiles::HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        Ok(indexes
            .iter()
            .map(|index| self.0[usize::try_from(*index).unwrap()])
            .collect())
    }
}

fn theirs(hashes: &[Hash]) -> Vec<tlog_tiles::Hash> {
    hashes
        .iter()
        .map(|hash| tlog_tiles::Hash(*hash.as_bytes()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn ct_merkle_agrees(entries in entries(), position in any::<prop::sample::Index>()) {
        let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
        let mut frontier = Frontier::new();
        let leaves: Vec<Hash> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        for entry in &entries {
            tree.push(entry.clone());
        }
        frontier.extend(leaves.iter().copied());
        let (size, index) = (frontier.size(), position.index(entries.len()));
        let tiles = tiles(&leaves);
        let root = Hash::from_bytes((*tree.root().as_bytes()).into());
        prop_assert_eq!(frontier.root(), root);
        prop_assert_eq!(root_from_tiles(size, &tiles), Ok(root));

        let proof = inclusion_proof(index as u64, size, &tiles).unwrap();
        prop_assert_eq!(&proof, &hashes(tree.prove_inclusion(index).as_bytes()));
        prop_assert_eq!(proof::verify_inclusion(&leaves[index], index as u64, size, &proof, &root), Ok(()));

        let old_size = size - index as u64;
        let proof = consistency_proof(old_size, size, &tiles).unwrap();
        prop_assert_eq!(&proof, &hashes(tree.prove_consistency(index).as_bytes()));
        let old_root = root_from_tiles(old_size, &tiles).unwrap();
        prop_assert_eq!(proof::verify_consistency(old_size, size, &old_root, &root, &proof), Ok(()));
    }

    #[test]
    fn tlog_tiles_agrees(entries in entries(), position in any::<prop::sample::Index>()) {
        let mut stored = Stored(vec![]);
        for (index, entry) in (0_u64..).zip(&entries) {
            let hashes = tlog_tiles::stored_hashes(index, entry, &stored).unwrap();
            stored.0.extend(hashes);
        }
        let leaves: Vec<Hash> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        let tiles = tiles(&leaves);
        let (size, index) = (leaves.len() as u64, position.index(leaves.len()) as u64);
        let their_root = tlog_tiles::tree_hash(size, &stored).unwrap();
        let root = root_from_tiles(size, &tiles).unwrap();
        prop_assert_eq!(root.as_bytes(), &their_root.0);

        let proof = inclusion_proof(index, size, &tiles).unwrap();
        prop_assert_eq!(&theirs(&proof), &tlog_tiles::prove_record(size, index, &stored).unwrap());
        let their_leaf = tlog_tiles::record_hash(&entries[position.index(entries.len())]);
        prop_assert!(tlog_tiles::check_record(&theirs(&proof), size, their_root, index, their_leaf).is_ok());

        let old_size = index + 1;
        let proof = consistency_proof(old_size, size, &tiles).unwrap();
        prop_assert_eq!(&theirs(&proof), &tlog_tiles::prove_tree(size, old_size, &stored).unwrap());
        let old_root = tlog_tiles::tree_hash(old_size, &stored).unwrap();
        prop_assert!(tlog_tiles::check_tree(&theirs(&proof), size, their_root, old_size, old_root).is_ok());

        let mut their_tiles: Vec<_> = tlog_tiles::Tile::new_tiles(8, 0, size)
            .into_iter()
            .map(|tile| (tile.level(), tile.level_index(), tile.width(), tile.read_data(&stored).unwrap()))
            .collect();
        their_tiles.sort();
        let our_tiles: Vec<_> = tile_ids(size)
            .map(|id| {
                let data = tiles.tile(id).unwrap().iter().flat_map(|hash| *hash.as_bytes()).collect::<Vec<u8>>();
                (id.level, id.index, u32::from(id.width), data)
            })
            .collect();
        prop_assert_eq!(our_tiles, their_tiles);
    }
}
