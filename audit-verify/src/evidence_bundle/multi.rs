//! One proof for many entries, by `rs_merkle` (`docs/evidence-bundle.md` §5).
//!
//! `rs_merkle` alone takes trailing hashes, indexes beyond the size and repeated ones, and its search for siblings is
//! quadratic: here the indexes are checked, the number of hashes is exactly what they ask for, and a proof is over at most
//! [`CHUNK`] entries.

use audit_core::{Error, Result};
use audit_tlog::Hash;
use rs_merkle::MerkleProof;

use crate::second_root::Rfc6962;

/// Entries under one proof. Its hashes are at most 1,024 · (63 − 10), so its line stays below 4 MiB.
pub const CHUNK: usize = 1024;

fn check(indexes: &[u64], size: u64) -> Result<()> {
    if indexes.is_empty() || indexes.len() > CHUNK {
        return Err(Error::corrupt(format!(
            "a multi-proof over {} entries, allowed are 1 to {CHUNK}",
            indexes.len()
        )));
    }
    if !indexes.is_sorted_by(|a, b| a < b) || indexes.last().is_none_or(|last| *last >= size) {
        return Err(Error::corrupt(format!(
            "the indexes of a multi-proof don't rise, or go beyond the tree of {size} entries"
        )));
    }
    Ok(())
}

/// The nodes whose hashes make up the proof, as level, index and the least known leaf below their sibling.
fn nodes(indexes: &[u64], size: u64) -> Vec<(u32, u64, usize)> {
    let mut nodes = Vec::new();
    let mut known: Vec<(u64, usize)> = indexes.iter().copied().zip(0..).collect();
    let (mut level, mut width) = (0, size);
    while width > 1 {
        let mut parents: Vec<(u64, usize)> = Vec::with_capacity(known.len());
        for (place, (node, leaf)) in known.iter().enumerate() {
            let sibling = node ^ 1;
            let neighbour = if sibling < *node {
                place.checked_sub(1)
            } else {
                Some(place + 1)
            };
            let is_known = neighbour
                .and_then(|n| known.get(n))
                .is_some_and(|(n, _)| *n == sibling);
            if sibling < width && !is_known {
                nodes.push((level, sibling, *leaf));
            }
            if parents.last().is_none_or(|(parent, _)| *parent != node / 2) {
                parents.push((node / 2, *leaf));
            }
        }
        known = parents;
        level += 1;
        width = width.div_ceil(2);
    }
    nodes
}

/// How many hashes the proof of these entries has.
///
/// # Errors
///
/// `Corrupt` if the indexes don't rise, go beyond the tree, or are none or more than [`CHUNK`].
pub fn hashes_of(indexes: &[u64], size: u64) -> Result<usize> {
    check(indexes, size)?;
    Ok(nodes(indexes, size).len())
}

/// Makes the proof of entries out of their own inclusion proofs, each of which is right: every hash that it needs stands
/// in one of them, so no tree is built.
///
/// # Errors
///
/// As [`hashes_of`]; `Corrupt` if the single proofs are too short.
pub fn multi_proof(indexes: &[u64], size: u64, single: &[Vec<Hash>]) -> Result<Vec<Hash>> {
    check(indexes, size)?;
    nodes(indexes, size)
        .into_iter()
        .map(|(level, _, leaf)| {
            // The place in the single proof: one hash per level below at which its path has a sibling.
            let index = indexes.get(leaf).copied().unwrap_or_default();
            let place = (0..level)
                .filter(|l| (index >> l ^ 1) < width_at(size, *l))
                .count();
            single
                .get(leaf)
                .and_then(|proof| proof.get(place))
                .copied()
                .ok_or_else(|| Error::corrupt("an inclusion proof is too short").at(index))
        })
        .collect()
}

/// Nodes at a level.
fn width_at(size: u64, level: u32) -> u64 {
    // Rounded up, without overflow: sizes are at least 1.
    ((size - 1) >> level) + 1
}

/// Verifies the proof: exactly these leaf hashes stand at these indexes in the tree of this size and root.
///
/// # Errors
///
/// `Corrupt`, saying what is wrong.
pub fn verify_multi_proof(
    indexes: &[u64],
    leaves: &[Hash],
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<()> {
    let needed = hashes_of(indexes, size)?;
    if proof.len() != needed || leaves.len() != indexes.len() {
        return Err(Error::corrupt(format!(
            "the multi-proof of {} entries has {} hashes, it must have {needed}",
            indexes.len(),
            proof.len()
        )));
    }
    let too_large = |e: std::num::TryFromIntError| {
        Error::unavailable("the tree is larger than this machine's addresses").because(e)
    };
    let places = indexes
        .iter()
        .map(|index| usize::try_from(*index).map_err(too_large))
        .collect::<Result<Vec<usize>>>()?;
    let bytes =
        |hashes: &[Hash]| -> Vec<[u8; 32]> { hashes.iter().map(|h| *h.as_bytes()).collect() };
    let computed = MerkleProof::<Rfc6962>::new(bytes(proof))
        .root(
            &places,
            &bytes(leaves),
            usize::try_from(size).map_err(too_large)?,
        )
        .map_err(|e| Error::corrupt("the multi-proof gives no root").because(e.to_string()))?;
    if computed == *root.as_bytes() {
        Ok(())
    } else {
        Err(Error::corrupt(
            "the multi-proof gives another root than the checkpoint",
        ))
    }
}

#[cfg(test)]
mod tests {
    use audit_tlog::hash::{leaf_hash, node_hash, root_of};
    use rs_merkle::MerkleTree;

    use super::*;

    fn leaves(size: u64) -> Vec<Hash> {
        (0..size).map(|n| leaf_hash(&n.to_be_bytes())).collect()
    }

    fn single(leaves: &[Hash], index: usize) -> Vec<Hash> {
        if leaves.len() < 2 {
            return Vec::new();
        }
        let k = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(k);
        let (mut proof, sibling) = if index < k {
            (single(left, index), root_of(right))
        } else {
            (single(right, index - k), root_of(left))
        };
        proof.push(sibling);
        proof
    }

    /// A few sets of indexes for each size: all, each alone, and some by a fixed sequence.
    fn sets(size: u64) -> Vec<Vec<u64>> {
        let mut sets = vec![(0..size).collect(), vec![0, size - 1]];
        sets.extend((0..size).map(|n| vec![n]));
        let mut seed = size.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for _ in 0..12 {
            let mut set = Vec::new();
            for n in 0..size {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                if seed.is_multiple_of(3) {
                    set.push(n);
                }
            }
            sets.push(set);
        }
        for set in &mut sets {
            set.dedup();
        }
        sets.retain(|set| !set.is_empty());
        sets
    }

    #[test]
    fn a_multi_proof_differs_from_that_of_rs_merkle() {
        for size in 1..70_u64 {
            let all = leaves(size);
            let bytes: Vec<[u8; 32]> = all.iter().map(|h| *h.as_bytes()).collect();
            let tree = MerkleTree::<Rfc6962>::from_leaves(&bytes);
            let root = root_of(&all);
            for set in sets(size) {
                let places: Vec<usize> = set.iter().map(|i| usize::try_from(*i).unwrap()).collect();
                let singles: Vec<Vec<Hash>> = places.iter().map(|i| single(&all, *i)).collect();
                let proof = multi_proof(&set, size, &singles).unwrap();
                let theirs: Vec<Hash> = tree
                    .proof(&places)
                    .proof_hashes()
                    .iter()
                    .map(|h| Hash::from_bytes(*h))
                    .collect();
                assert_eq!(proof, theirs, "size {size}, {set:?}");
                let own: Vec<Hash> = places.iter().map(|i| all[*i]).collect();
                verify_multi_proof(&set, &own, size, &proof, &root).unwrap();
            }
        }
    }

    #[test]
    fn a_wrong_multi_proof_verifies() {
        let size = 37;
        let all = leaves(size);
        let root = root_of(&all);
        for set in sets(size) {
            let places: Vec<usize> = set.iter().map(|i| usize::try_from(*i).unwrap()).collect();
            let singles: Vec<Vec<Hash>> = places.iter().map(|i| single(&all, *i)).collect();
            let proof = multi_proof(&set, size, &singles).unwrap();
            let own: Vec<Hash> = places.iter().map(|i| all[*i]).collect();
            let refused = |set: &[u64], own: &[Hash], size, proof: &[Hash]| {
                verify_multi_proof(set, own, size, proof, &root).unwrap_err()
            };
            // rs_merkle alone takes a hash too many.
            refused(&set, &own, size, &[proof.as_slice(), &[root]].concat());
            if let Some((_, shorter)) = proof.split_last() {
                refused(&set, &own, size, shorter);
                for n in 0..proof.len() {
                    let mut changed = proof.clone();
                    changed[n] = node_hash(&changed[n], &root);
                    refused(&set, &own, size, &changed);
                }
            }
            let mut changed = own.clone();
            changed[0] = node_hash(&own[0], &root);
            refused(&set, &changed, size, &proof);
            let mut beyond = set.clone();
            *beyond.last_mut().unwrap() = size;
            refused(&beyond, &own, size, &proof);
            let mut twice = set.clone();
            twice.push(set[set.len() - 1]);
            let own_twice = [own.as_slice(), &own[own.len() - 1..]].concat();
            refused(&twice, &own_twice, size, &proof);
            if set.len() > 1 {
                let mut turned = set.clone();
                turned.swap(0, 1);
                refused(&turned, &own, size, &proof);
                refused(&set[1..], &own, size, &proof);
            }
        }
        hashes_of(&[], 5).unwrap_err();
        hashes_of(&(0..1025).collect::<Vec<u64>>(), 5000).unwrap_err();
        // The longest that there is.
        let spread: Vec<u64> = (0..1024).map(|n| n << 53 | 1).collect();
        let hashes = hashes_of(&spread, (1 << 63) - 1).unwrap();
        assert!(hashes * 67 + 100 < 4 << 20, "{hashes} hashes");
    }
}
