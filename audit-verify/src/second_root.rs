//! The root hash by another implementation: `rs_merkle`, in chunks.

use rs_merkle::{Hasher, MerkleTree};
use sha2::{Digest as _, Sha256};

/// Leaves hashed at once. A power of two, so that chunks are subtrees: 65,536 leaves peak at a few MB.
const CHUNK: usize = 1 << 16;

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

/// The leaves of the open chunk and the roots of the chunks before it: 32 bytes per 65,536 entries.
#[derive(Default)]
pub(crate) struct SecondRoot {
    chunk: Vec<[u8; 32]>,
    roots: Vec<[u8; 32]>,
}

fn root(leaves: &[[u8; 32]]) -> Option<[u8; 32]> {
    MerkleTree::<Rfc6962>::from_leaves(leaves).root()
}

impl SecondRoot {
    pub(crate) fn push(&mut self, entry: &[u8]) {
        self.chunk.push(Rfc6962::hash(entry));
        if self.chunk.len() == CHUNK {
            self.roots.extend(root(&self.chunk));
            self.chunk.clear();
        }
    }

    /// The root of everything pushed so far; `None` if that is nothing.
    pub(crate) fn root(&self) -> Option<[u8; 32]> {
        let mut roots = self.roots.clone();
        roots.extend(root(&self.chunk));
        root(&roots)
    }
}
