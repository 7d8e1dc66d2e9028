//! Every honest proof verifies; every mutation fails with the error that names it.

use std::sync::LazyLock;

use audit_tlog::Frontier;
use audit_tlog::hash::{Hash, leaf_hash};
use audit_tlog::proof::{
    ProofError, consistency_proof, inclusion_proof, root_from_tiles, verify_consistency,
    verify_inclusion,
};
use audit_tlog::tile::{EdgeTiles, TileMap};
use proptest::prelude::*;

use crate::fixtures::{distinct_leaves, tiles};

const SIZE: u64 = 70_000;

static LEAVES: LazyLock<Vec<Hash>> = LazyLock::new(|| distinct_leaves(SIZE));
static TILES: LazyLock<TileMap> = LazyLock::new(|| tiles(&LEAVES));

fn leaf(index: u64) -> Hash {
    LEAVES[usize::try_from(index).unwrap()]
}

fn root(size: u64) -> Hash {
    root_from_tiles(size, &*TILES).unwrap()
}

/// A mutation of a list of hashes that leaves another list.
#[derive(Debug, Clone)]
enum Mutation {
    Deleted(prop::sample::Index),
    Truncated,
    Emptied,
    Extended(Hash),
    Prepended(Hash),
    Duplicated(prop::sample::Index),
    Swapped(prop::sample::Index),
    Reversed,
    BitFlipped(prop::sample::Index, u8),
}

fn mutations() -> impl Strategy<Value = Mutation> {
    let hash = || any::<u64>().prop_map(|seed| leaf_hash(&seed.to_le_bytes()));
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Mutation::Deleted),
        Just(Mutation::Truncated),
        Just(Mutation::Emptied),
        hash().prop_map(Mutation::Extended),
        hash().prop_map(Mutation::Prepended),
        any::<prop::sample::Index>().prop_map(Mutation::Duplicated),
        any::<prop::sample::Index>().prop_map(Mutation::Swapped),
        Just(Mutation::Reversed),
        (any::<prop::sample::Index>(), any::<u8>())
            .prop_map(|(hash, bit)| Mutation::BitFlipped(hash, bit)),
    ]
}

impl Mutation {
    /// The mutated proof, or `None` where the mutation changes nothing, as on an empty proof.
    fn apply(&self, proof: &[Hash]) -> Option<Vec<Hash>> {
        let mut mutated = proof.to_vec();
        let length = mutated.len();
        match self {
            Self::Extended(hash) => mutated.push(*hash),
            Self::Prepended(hash) => mutated.insert(0, *hash),
            _ if length == 0 => {}
            Self::Deleted(index) => drop(mutated.remove(index.index(length))),
            Self::Truncated => mutated.truncate(length - 1),
            Self::Emptied => mutated.clear(),
            Self::Duplicated(index) => {
                mutated.insert(index.index(length), mutated[index.index(length)]);
            }
            Self::Swapped(index) => {
                mutated.swap(index.index(length), (index.index(length) + 1) % length);
            }
            Self::Reversed => mutated.reverse(),
            Self::BitFlipped(index, bit) => {
                let hash = &mut mutated[index.index(length)];
                let mut bytes = *hash.as_bytes();
                bytes[usize::from(bit / 8)] ^= 1 << (bit % 8);
                *hash = Hash::from_bytes(bytes);
            }
        }
        (mutated != proof).then_some(mutated)
    }
}

fn check_length(error: &ProofError, honest: &[Hash], mutated: &[Hash]) -> bool {
    *error
        == ProofError::Length {
            expected: honest.len(),
            found: mutated.len(),
        }
}

/// The side on which each sibling of a proof lies: what a verifier makes of index and size.
fn shape(index: u64, size: u64) -> Vec<bool> {
    let (mut index, mut last, mut shape) = (index, size - 1, vec![]);
    while last > 0 {
        if index % 2 == 1 {
            shape.push(true);
        } else if index < last {
            shape.push(false);
        }
        (index, last) = (index / 2, last / 2);
    }
    shape
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn inclusion(size in 1..=SIZE, position in any::<prop::sample::Index>(), mutation in mutations()) {
        let index = position.index(usize::try_from(size).unwrap()) as u64;
        let (leaf, root) = (leaf(index), root(size));
        let proof = inclusion_proof(index, size, &*TILES).unwrap();
        prop_assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Ok(()));
        if let Some(mutated) = mutation.apply(&proof) {
            let error = verify_inclusion(&leaf, index, size, &mutated, &root).unwrap_err();
            if mutated.len() == proof.len() {
                prop_assert!(matches!(error, ProofError::Root { expected, .. } if expected == root), "{}", error);
            } else {
                prop_assert!(check_length(&error, &proof, &mutated), "{}", error);
            }
        }
        let other = leaf_hash(b"other");
        let error = verify_inclusion(&other, index, size, &proof, &root).unwrap_err();
        prop_assert!(matches!(error, ProofError::Root { .. }), "wrong leaf: {}", error);
        let error = verify_inclusion(&leaf, index, size, &proof, &other).unwrap_err();
        prop_assert!(matches!(error, ProofError::Root { expected, .. } if expected == other), "wrong root: {}", error);
    }

    #[test]
    fn inclusion_at_another_index_or_size(
        size in 1..=SIZE,
        positions in any::<(prop::sample::Index, prop::sample::Index)>(),
        other_size in 1..=SIZE,
    ) {
        let index = positions.0.index(usize::try_from(size).unwrap()) as u64;
        let other_index = positions.1.index(usize::try_from(size + 2).unwrap()) as u64;
        let (leaf, root) = (leaf(index), root(size));
        let proof = inclusion_proof(index, size, &*TILES).unwrap();
        let verdict = verify_inclusion(&leaf, other_index, size, &proof, &root);
        prop_assert_eq!(verdict.is_ok(), other_index == index);
        match verdict {
            Err(ProofError::Index { .. }) => prop_assert!(other_index >= size),
            Err(ProofError::Length { found, .. }) => prop_assert_eq!(found, proof.len()),
            Err(error) => prop_assert!(matches!(error, ProofError::Root { .. }), "{}", error),
            Ok(()) => {}
        }
        // The proof doesn't prove the size: another is refused unless it puts every sibling on the same side.
        let verdict = verify_inclusion(&leaf, index, other_size, &proof, &root);
        let same = index < other_size && shape(index, size) == shape(index, other_size);
        prop_assert_eq!(verdict.is_ok(), same);
    }

    #[test]
    fn consistency(new_size in 1..=SIZE, position in any::<prop::sample::Index>(), mutation in mutations()) {
        let old_size = position.index(usize::try_from(new_size).unwrap()) as u64 + 1;
        let (old_root, new_root) = (root(old_size), root(new_size));
        let proof = consistency_proof(old_size, new_size, &*TILES).unwrap();
        prop_assert_eq!(verify_consistency(old_size, new_size, &old_root, &new_root, &proof), Ok(()));
        if let Some(mutated) = mutation.apply(&proof) {
            let error = verify_consistency(old_size, new_size, &old_root, &new_root, &mutated).unwrap_err();
            if mutated.len() == proof.len() {
                let root = matches!(error, ProofError::Root { .. } | ProofError::OldRoot { .. });
                prop_assert!(root, "{}", error);
            } else {
                prop_assert!(check_length(&error, &proof, &mutated), "{}", error);
            }
        }
        let other = leaf_hash(b"other");
        let error = verify_consistency(old_size, new_size, &old_root, &other, &proof).unwrap_err();
        prop_assert!(matches!(error, ProofError::Root { expected, .. } if expected == other), "wrong root: {}", error);
        // Where the old root is a node of the new tree the climb starts from it, and arrives elsewhere.
        let error = verify_consistency(old_size, new_size, &other, &new_root, &proof).unwrap_err();
        let root = matches!(error, ProofError::Root { .. } | ProofError::OldRoot { .. });
        prop_assert!(root, "wrong old root: {}", error);
        if old_size < new_size {
            let error = verify_consistency(new_size, old_size, &new_root, &old_root, &proof).unwrap_err();
            prop_assert_eq!(error, ProofError::Sizes { old_size: new_size, new_size: old_size });
        }
    }

    /// A fork: two trees that share leaves up to a point. No consistency proof of the one leads into the other.
    #[test]
    fn a_fork_is_not_consistent(new_size in 2_u64..600, position in any::<prop::sample::Index>()) {
        let old_size = position.index(usize::try_from(new_size - 1).unwrap()) as u64 + 1;
        let mut leaves = distinct_leaves(new_size);
        leaves[usize::try_from(old_size).unwrap() - 1] = leaf_hash(b"rewritten");
        let fork = tiles(&leaves);
        let fork_root = root_from_tiles(new_size, &fork).unwrap();
        let old_root = root(old_size);
        for tiles in [&*TILES, &fork] {
            let proof = consistency_proof(old_size, new_size, tiles).unwrap();
            prop_assert!(verify_consistency(old_size, new_size, &old_root, &fork_root, &proof).is_err());
        }
    }

    /// However the leaves come in batches, the tiles that each leaves changed add up to the tree.
    #[test]
    fn batches_add_up(batches in proptest::collection::vec(0_u64..400, 1..8)) {
        let (mut edge, mut stored, mut frontier) = (EdgeTiles::new(), TileMap::new(), Frontier::new());
        for batch in batches {
            let start = edge.size();
            for index in start..start + batch {
                edge.push(leaf(index));
                frontier.push(leaf(index));
            }
            stored.extend(edge.take_changed());
            // A process that starts anew reads the edge back.
            edge = EdgeTiles::from_reader(edge.size(), &stored).unwrap();
            prop_assert_eq!(&edge.frontier(), &frontier);
            prop_assert_eq!(root_from_tiles(edge.size(), &stored), Ok(frontier.root()));
        }
    }
}

#[test]
fn a_million_leaves_have_one_root_however_it_is_computed() {
    const LEAVES: u64 = 1_000_000;
    let (mut edge, mut frontier) = (EdgeTiles::new(), Frontier::new());
    let mut tiles = TileMap::new();
    for index in 0..LEAVES {
        let leaf = leaf_hash(&index.to_be_bytes());
        frontier.push(leaf);
        if !edge.push(leaf).is_empty() {
            tiles.extend(edge.take_changed());
        }
    }
    tiles.extend(edge.take_changed());
    assert_eq!(frontier.size(), LEAVES);
    assert_eq!(edge.frontier(), frontier);
    assert_eq!(root_from_tiles(LEAVES, &tiles), Ok(frontier.root()));
}
