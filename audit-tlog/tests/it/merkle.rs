//! Vectors of hashing and proofs.

use std::collections::HashMap;
use std::fmt::Write as _;

use audit_tlog::Frontier;
use audit_tlog::hash::{Hash, leaf_hash, node_hash, root_of};
use audit_tlog::proof::{
    ProofError, consistency_proof, covering_subtrees, inclusion_proof, root_from_tiles,
    subtree_consistency_proof, subtree_inclusion_proof, verify_consistency, verify_inclusion,
    verify_subtree_consistency, verify_subtree_inclusion,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::fixtures::{
    base64, hash, hashes, hex, list, number, read_json, read_json_lines, text, tiles, vectors,
};

/// A few cases have "hashes" of other lengths, which only stand for some other value: equal ones stay equal.
fn stand_in(value: &Value) -> Hash {
    let bytes = base64(value);
    Hash::try_from(bytes.as_slice()).unwrap_or_else(|_| leaf_hash(&bytes))
}

/// Runs every case of a file; gives the paths of those whose verdict is not the one wanted, with the counts of both.
fn disagreements(
    file: &str,
    verify: impl Fn(&Value, &[Hash]) -> Result<(), ProofError>,
) -> Option<(usize, usize, Vec<String>)> {
    let cases = read_json_lines(&vectors("tdev-merkle")?.join(file));
    let (mut accepted, mut refused, mut disagreements) = (0, 0, vec![]);
    for case in &cases {
        let proof: Vec<Hash> = list(case, "proof").iter().map(stand_in).collect();
        let verdict = verify(case, &proof);
        let refuse = case["wantErr"].as_bool().unwrap();
        if case["leafHash"] == "" && case["root"] == "" {
            // No leaf under no root: the type can't hold it, so no verifier can be asked.
            assert!(refuse && Hash::try_from([].as_slice()).is_err());
            refused += 1;
            continue;
        }
        *if refuse { &mut refused } else { &mut accepted } += 1;
        if verdict.is_err() != refuse {
            disagreements.push(format!("{}: {verdict:?}", text(case, "path")));
        }
    }
    Some((accepted, refused, disagreements))
}

#[test]
fn inclusion_vectors() {
    let Some(found) = disagreements("inclusion.jsonl", |case, proof| {
        let (index, size) = (number(case, "leafIdx"), number(case, "treeSize"));
        verify_inclusion(
            &stand_in(&case["leafHash"]),
            index,
            size,
            proof,
            &stand_in(&case["root"]),
        )
    }) else {
        return;
    };
    assert_eq!(found, (6, 92, vec![]));
}

#[test]
fn consistency_vectors() {
    let Some(found) = disagreements("consistency.jsonl", |case, proof| {
        let (old, new) = (number(case, "size1"), number(case, "size2"));
        verify_consistency(
            old,
            new,
            &stand_in(&case["root1"]),
            &stand_in(&case["root2"]),
            proof,
        )
    }) else {
        return;
    };
    // By choice: every tree extends the empty one. The vectors call the question useless and want an error.
    let by_choice = "consistency/additional/size1-is-zero-and-size2-is-not-zero.json: Ok(())";
    assert_eq!(found, (6, 92, vec![by_choice.to_owned()]));
}

#[test]
fn subtree_inclusion_vectors() {
    let Some(found) = disagreements("subtreeinclusion.jsonl", |case, proof| {
        let (index, start, end) = (
            number(case, "leafIdx"),
            number(case, "start"),
            number(case, "end"),
        );
        verify_subtree_inclusion(
            &stand_in(&case["leafHash"]),
            index,
            start,
            end,
            proof,
            &stand_in(&case["root"]),
        )
    }) else {
        return;
    };
    assert_eq!(found, (12, 192, vec![]));
}

#[test]
fn subtree_consistency_vectors() {
    let Some(found) = disagreements("subtreeconsistency.jsonl", |case, proof| {
        let (start, end, size) = (
            number(case, "start"),
            number(case, "end"),
            number(case, "size"),
        );
        let (subtree_root, root) = (stand_in(&case["root1"]), stand_in(&case["root2"]));
        verify_subtree_consistency(start, end, size, &subtree_root, &root, proof)
    }) else {
        return;
    };
    assert_eq!(found, (12, 106, vec![]));
}

#[test]
fn roots_and_nodes_of_the_first_eight_leaves() {
    let Some(set) = vectors("tdev-merkle") else {
        return;
    };
    let roots = read_json(&set.join("roots.json"));
    let hash = |value: &Value| Hash::from_hex(value.as_str().unwrap()).unwrap();
    let inputs = list(&roots, "leaf_inputs_hex");
    let leaves: Vec<Hash> = inputs
        .iter()
        .map(|input| leaf_hash(&hex(input.as_str().unwrap())))
        .collect();
    let mut level = leaves.clone();
    let levels = list(&roots, "node_hashes_by_level");
    for wanted in levels {
        assert_eq!(
            level,
            wanted
                .as_array()
                .unwrap()
                .iter()
                .map(hash)
                .collect::<Vec<_>>()
        );
        level = level
            .chunks_exact(2)
            .map(|pair| node_hash(&pair[0], &pair[1]))
            .collect();
    }
    let mut frontier = Frontier::new();
    let wanted: Vec<Hash> = list(&roots, "root_by_tree_size").iter().map(hash).collect();
    assert_eq!((leaves.len(), levels.len(), wanted.len()), (8, 4, 9));
    for (size, root) in wanted.iter().enumerate() {
        assert_eq!(
            (root_of(&leaves[..size]), frontier.root()),
            (*root, *root),
            "size {size}"
        );
        frontier.extend(leaves.get(size).copied());
    }
}

fn line(head: &str, hashes: &[Hash]) -> String {
    let mut line = head.to_owned();
    for hash in hashes {
        write!(line, " {hash}").unwrap();
    }
    line.push('\n');
    line
}

/// All subtree hashes, proofs and coverings up to 130 leaves, under one hash each.
#[test]
fn accumulated_subtree_vectors() {
    const SIZE: u64 = 130;
    let Some(set) = vectors("tdev-merkle") else {
        return;
    };
    let wanted = read_json(&set.join("subtree_rolling.json"));
    let leaves: Vec<Hash> = (0..SIZE)
        .map(|leaf| leaf_hash(&[u8::try_from(leaf).unwrap()]))
        .collect();
    let tiles = tiles(&leaves);
    let part = |start, end| &leaves[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
    let (mut roots, mut inclusion, mut consistency) = (Sha256::new(), Sha256::new(), Sha256::new());
    let mut subtrees = 0;
    for end in 0..=SIZE {
        for start in 0..=end {
            // Asking for the proof of a subtree in itself tells whether it is one.
            if subtree_consistency_proof(start, end, end, &tiles).is_err() {
                continue;
            }
            subtrees += 1;
            let root = root_of(part(start, end));
            roots.update(line(&format!("[{start}, {end})"), &[root]));
            for index in start..end {
                let proof = subtree_inclusion_proof(index, start, end, &tiles).unwrap();
                let leaf = leaves[usize::try_from(index).unwrap()];
                assert_eq!(
                    verify_subtree_inclusion(&leaf, index, start, end, &proof, &root),
                    Ok(())
                );
                inclusion.update(line(&format!("{index} [{start}, {end})"), &proof));
            }
        }
    }
    for size in 0..=SIZE {
        let root = root_of(part(0, size));
        for end in 0..=size {
            for start in 0..=end {
                let Ok(proof) = subtree_consistency_proof(start, end, size, &tiles) else {
                    continue;
                };
                let subtree_root = root_of(part(start, end));
                let verdict =
                    verify_subtree_consistency(start, end, size, &subtree_root, &root, &proof);
                assert_eq!(verdict, Ok(()), "[{start}, {end}) in {size}");
                consistency.update(line(&format!("[{start}, {end}) {size}"), &proof));
            }
        }
    }
    println!("{subtrees} subtrees");
    let mut covering = Sha256::new();
    for end in 0..=SIZE {
        for start in 0..=end {
            let (left, right) = covering_subtrees(start, end);
            assert!(left.start <= start && left.end == right.start && right.end == end);
            for part in [&left, &right].into_iter().filter(|part| !part.is_empty()) {
                // Asking for a proof tells whether it is a subtree.
                subtree_consistency_proof(part.start, part.end, SIZE, &tiles).unwrap();
            }
            covering.update(format!(
                "[{}, {}) [{}, {})\n",
                left.start, left.end, right.start, right.end
            ));
        }
    }
    for (field, found) in [
        ("covering", covering),
        ("subtree_hash", roots),
        ("subtree_inclusion", inclusion),
        ("subtree_consistency", consistency),
    ] {
        let found: [u8; 32] = found.finalize().into();
        assert_eq!(
            Hash::from_bytes(found).to_string(),
            text(&wanted[field], "sha256"),
            "{field}"
        );
    }
}

fn leaf_n(count: usize) -> Vec<Hash> {
    (0..count)
        .map(|leaf| leaf_hash(format!("leaf-{leaf}").as_bytes()))
        .collect()
}

#[test]
fn leaf_n_roots_and_proofs() {
    let Some(set) = vectors("own") else { return };
    let wanted = read_json(&set.join("rfc6962-leafN.json"));
    let leaves = leaf_n(300);
    let tiles = tiles(&leaves);
    let roots = wanted["roots"].as_object().unwrap();
    assert_eq!(roots.len(), 301);
    for (size, root) in roots {
        let size: usize = size.parse().unwrap();
        let root = hash(root);
        assert_eq!(root_of(&leaves[..size]), root, "size {size}");
        assert_eq!(
            root_from_tiles(size as u64, &tiles),
            Ok(root),
            "size {size}"
        );
    }
    let largest =
        |cases: &[Value], field| cases.iter().map(|case| number(case, field)).max().unwrap();
    let inclusion = list(&wanted, "inclusion");
    let leaves = leaf_n(usize::try_from(largest(inclusion, "size")).unwrap());
    let all = crate::fixtures::tiles(&leaves);
    for case in inclusion {
        let (index, size, root) = (
            number(case, "index"),
            number(case, "size"),
            hash(&case["root"]),
        );
        let (leaf, proof) = (hash(&case["leaf"]), hashes(list(case, "proof")));
        assert_eq!(leaves[usize::try_from(index).unwrap()], leaf);
        assert_eq!(inclusion_proof(index, size, &all).unwrap(), proof);
        assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Ok(()));
    }
    let consistency = list(&wanted, "consistency");
    let all = crate::fixtures::tiles(&leaf_n(
        usize::try_from(largest(consistency, "new")).unwrap(),
    ));
    for case in consistency {
        let (old, new, proof) = (
            number(case, "old"),
            number(case, "new"),
            hashes(list(case, "proof")),
        );
        assert_eq!(consistency_proof(old, new, &all).unwrap(), proof);
        assert_eq!(
            verify_consistency(
                old,
                new,
                &hash(&case["old_root"]),
                &hash(&case["new_root"]),
                &proof
            ),
            Ok(())
        );
    }
    assert_eq!((inclusion.len(), consistency.len()), (14, 11));
}

/// The recursions of RFC 9162 §2.1 over ranges of leaves; what was hashed once is kept.
struct Reference {
    leaves: Vec<Hash>,
    ranges: HashMap<(usize, usize), Hash>,
}

impl Reference {
    fn split(start: usize, end: usize) -> usize {
        start + (end - start).div_ceil(2).next_power_of_two()
    }

    fn root(&mut self, start: usize, end: usize) -> Hash {
        if end - start == 1 {
            return self.leaves[start];
        }
        if let Some(hash) = self.ranges.get(&(start, end)) {
            return *hash;
        }
        let split = Self::split(start, end);
        let hash = node_hash(&self.root(start, split), &self.root(split, end));
        self.ranges.insert((start, end), hash);
        hash
    }

    fn inclusion(&mut self, index: usize, start: usize, end: usize) -> Vec<Hash> {
        if end - start == 1 {
            return vec![];
        }
        let split = Self::split(start, end);
        let (mut proof, sibling) = if index < split {
            (self.inclusion(index, start, split), self.root(split, end))
        } else {
            (self.inclusion(index, split, end), self.root(start, split))
        };
        proof.push(sibling);
        proof
    }

    /// The proof for the leaves `[start, old)` within `[start, end)`.
    fn consistency(&mut self, old: usize, start: usize, end: usize, known: bool) -> Vec<Hash> {
        if old == end {
            return if known {
                vec![]
            } else {
                vec![self.root(start, end)]
            };
        }
        let split = Self::split(start, end);
        let (mut proof, sibling) = if old <= split {
            (
                self.consistency(old, start, split, known),
                self.root(split, end),
            )
        } else {
            (
                self.consistency(old, split, end, false),
                self.root(start, split),
            )
        };
        proof.push(sibling);
        proof
    }
}

/// 1000 roots, 500,500 inclusion proofs and 45,150 consistency proofs under one hash.
///
/// Up to 100 leaves every proof is made from tiles. Above, which takes minutes without optimisation, every 41st is; the
/// rest is the reference's. So each proof from tiles is held against the hash, and the reference for the others too.
#[test]
fn leaf_n_accumulated() {
    let Some(set) = vectors("own") else { return };
    let wanted = read_json(&set.join("rfc6962-leafN.json"));
    let leaves = leaf_n(1000);
    let tiles = tiles(&leaves);
    let mut reference = Reference {
        leaves,
        ranges: HashMap::new(),
    };
    let mut accumulated = Sha256::new();
    let (mut from_tiles, mut from_reference) = (0, 0);
    for size in 1..=1000 {
        let mut count = |position: usize| {
            let tiled = size <= 100 || (position + size).is_multiple_of(41);
            *if tiled {
                &mut from_tiles
            } else {
                &mut from_reference
            } += 1;
            tiled
        };
        let root = root_from_tiles(size as u64, &tiles).unwrap();
        accumulated.update(line(&size.to_string(), &[root]));
        for index in 0..size {
            let proof = if count(index) {
                inclusion_proof(index as u64, size as u64, &tiles).unwrap()
            } else {
                reference.inclusion(index, 0, size)
            };
            accumulated.update(line(&format!("I {size} {index}"), &proof));
        }
        for old in (1..=size).filter(|_| size <= 300) {
            let proof = if count(old) {
                consistency_proof(old as u64, size as u64, &tiles).unwrap()
            } else {
                reference.consistency(old, 0, size, true)
            };
            accumulated.update(line(&format!("C {size} {old}"), &proof));
        }
    }
    println!("{from_tiles} proofs from tiles, {from_reference} from the reference");
    assert_eq!(from_tiles + from_reference, 500_500 + 45_150);
    let accumulated: [u8; 32] = accumulated.finalize().into();
    assert_eq!(
        Hash::from_bytes(accumulated).to_string(),
        text(&wanted, "rolling_sha256_n1_to_1000")
    );
}
