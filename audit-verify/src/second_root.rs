//! The root hash by another implementation: `rs_merkle`, in chunks.

use rs_merkle::{Hasher, MerkleTree};
use sha2::{Digest as _, Sha256};

/// Hashes that make one tree of `rs_merkle`. A power of two, so that chunks are subtrees; 4,096 leaves peak at 1 MB.
const CHUNK: usize = 1 << 12;

/// RFC 6962 hashing for `rs_merkle`; nothing of `audit_tlog` is used, since it is what is being checked.
#[derive(Clone, Debug)]
pub(crate) struct Rfc6962;

impl Hasher for Rfc6962 {
    type Hash = [u8; 32];

    fn hash(entry: &[u8]) -> [u8; 32] {
        Sha256::new()
            .chain_update([0])
            .chain_update(entry)
            .finalize()
            .into()
    }

    fn concat_and_hash(left: &[u8; 32], right: Option<&[u8; 32]>) -> [u8; 32] {
        match right {
            Some(right) => Sha256::new()
                .chain_update([1])
                .chain_update(left)
                .chain_update(right)
                .finalize()
                .into(),
            // An odd node moves up unchanged, which gives the tree of RFC 6962.
            None => *left,
        }
    }
}

/// The leaves of the open chunk; the roots of the chunks before it, up to a chunk of these; and so on. Each level holds
/// 128 KiB at most, and three of them are enough for 68 billion entries.
#[derive(Default)]
pub(crate) struct SecondRoot {
    levels: Vec<Vec<[u8; 32]>>,
}

fn root(leaves: &[[u8; 32]]) -> Option<[u8; 32]> {
    MerkleTree::<Rfc6962>::from_leaves(leaves).root()
}

impl SecondRoot {
    pub(crate) fn push(&mut self, entry: &[u8]) {
        let mut hash = Some(Rfc6962::hash(entry));
        for level in 0.. {
            let Some(pushed) = hash.take() else { break };
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let chunk = &mut self.levels[level];
            chunk.push(pushed);
            if chunk.len() == CHUNK {
                hash = root(chunk);
                chunk.clear();
            }
        }
    }

    /// The root of everything pushed so far; `None` if that is nothing.
    pub(crate) fn root(&self) -> Option<[u8; 32]> {
        let mut below = None;
        for chunk in &self.levels {
            // An open chunk is the last, smaller subtree of the level above.
            let mut chunk = chunk.clone();
            chunk.extend(below);
            below = root(&chunk);
        }
        below
    }
}

#[cfg(test)]
mod tests {
    use audit_tlog::frontier::Frontier;
    use audit_tlog::hash::leaf_hash;

    use super::*;

    #[test]
    fn the_root_of_some_size_is_another() {
        let mut second = SecondRoot::default();
        let mut first = Frontier::new();
        assert_eq!(second.root(), None);
        let chunk = CHUNK as u64;
        for n in 1..=3 * chunk + 5 {
            let entry = n.to_be_bytes();
            second.push(&entry);
            first.push(leaf_hash(&entry));
            let near = n % chunk;
            if n < 70 || near < 3 || near > chunk - 3 || n.is_multiple_of(997) {
                assert_eq!(second.root(), Some(*first.root().as_bytes()), "{n} leaves");
            }
        }
    }
}
