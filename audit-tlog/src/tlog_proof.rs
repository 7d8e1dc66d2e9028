//! Proofs that stand alone as in C2SP tlog-proof: an index, an inclusion proof and a signed checkpoint in one file.

use core::fmt;
use core::str::FromStr;

use crate::checkpoint::{self, Checkpoint, CheckpointError};
use crate::encoding;
use crate::hash::{Hash, HashError};
use crate::note::{NOTE_LEN_MAX, VerifierKey};
use crate::proof::{ProofError, verify_inclusion};
use crate::verified::Verified;

/// The largest proof that is read: the largest note, and as much again for extra data and hashes.
pub const PROOF_LEN_MAX: usize = 2 * NOTE_LEN_MAX;

/// The most hashes in an inclusion proof: one for each level of a tree of 2^64 leaves.
pub const HASHES_MAX: usize = 64;

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// The content of a `.tlog-proof` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// Data for the application, which nothing authenticates.
    pub extra: Option<Vec<u8>>,
    /// The leaf index.
    pub index: u64,
    /// The inclusion proof, the leaf's sibling first.
    pub hashes: Vec<Hash>,
    /// The checkpoint, a signed note.
    pub checkpoint: String,
}

impl TlogProof {
    /// Reads a proof of at most [`PROOF_LEN_MAX`] bytes and [`HASHES_MAX`] hashes; its [`Display`](fmt::Display) form is
    /// the bytes that were read.
    ///
    /// The checkpoint is taken as it stands: [`TlogProof::verify`] looks into it.
    pub fn parse(bytes: &[u8]) -> Result<Self, TlogProofError> {
        if bytes.len() > PROOF_LEN_MAX {
            return Err(TlogProofError::Length { found: bytes.len() });
        }
        let Ok(text) = core::str::from_utf8(bytes) else {
            return Err(TlogProofError::Utf8);
        };
        let (head, checkpoint) = text.split_once("\n\n").ok_or(TlogProofError::Separator)?;
        if checkpoint.is_empty() {
            return Err(TlogProofError::NoCheckpoint);
        }
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(TlogProofError::Header);
        }
        let extra = match lines
            .next_if(|line| line.starts_with("extra "))
            .and_then(|line| line.strip_prefix("extra "))
        {
            None => None,
            Some(encoded) => Some(encoding::base64_decode(encoded).ok_or(TlogProofError::Extra)?),
        };
        let line = lines.next().unwrap_or_default();
        let index = line
            .strip_prefix("index ")
            .and_then(encoding::decimal_decode)
            .ok_or_else(|| TlogProofError::Index {
                line: encoding::excerpt(line),
            })?;
        let mut hashes = Vec::new();
        for (position, line) in lines.enumerate() {
            if position == HASHES_MAX {
                return Err(TlogProofError::Hashes);
            }
            let hash = Hash::from_base64(line)
                .map_err(|source| TlogProofError::Hash { position, source })?;
            hashes.push(hash);
        }
        Ok(Self {
            extra,
            index,
            hashes,
            checkpoint: checkpoint.to_owned(),
        })
    }

    /// Verifies that the log `origin`, whose key is `key`, committed to the leaf hash at [`TlogProof::index`].
    ///
    /// The origin and the key come from the verifier's policy. [`TlogProof::extra`] is not verified by this.
    pub fn verify(
        &self,
        leaf: &Hash,
        origin: &str,
        key: &VerifierKey,
    ) -> Result<Verified<Checkpoint>, TlogProofError> {
        let (checkpoint, _) = checkpoint::open(self.checkpoint.as_bytes(), origin, key)
            .map_err(TlogProofError::Checkpoint)?;
        verify_inclusion(
            leaf,
            self.index,
            checkpoint.size,
            &self.hashes,
            &checkpoint.root,
        )
        .map_err(TlogProofError::Inclusion)?;
        Ok(checkpoint)
    }
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", encoding::base64_encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", hash.to_base64())?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for TlogProof {
    type Err = TlogProofError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.as_bytes())
    }
}

/// Why a proof was refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlogProofError {
    /// The proof is longer than [`PROOF_LEN_MAX`].
    Length {
        /// Its length.
        found: usize,
    },
    /// The proof is not UTF-8.
    Utf8,
    /// The proof has no empty line before the checkpoint.
    Separator,
    /// The proof ends before the checkpoint.
    NoCheckpoint,
    /// The first line is not the header.
    Header,
    /// The extra data is not canonical base64.
    Extra,
    /// The line of the index is malformed.
    Index {
        /// What stood there, shortened.
        line: String,
    },
    /// A hash is malformed.
    Hash {
        /// Its position.
        position: usize,
        /// What is wrong with it.
        source: HashError,
    },
    /// The proof has more than [`HASHES_MAX`] hashes.
    Hashes,
    /// The checkpoint does not verify.
    Checkpoint(CheckpointError),
    /// The inclusion proof does not verify.
    Inclusion(ProofError),
}

impl fmt::Display for TlogProofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { found } => write!(
                f,
                "proof has {found} bytes, must have at most {PROOF_LEN_MAX}"
            ),
            Self::Utf8 => f.write_str("proof is not utf-8"),
            Self::Separator => f.write_str("proof has no empty line before the checkpoint"),
            Self::NoCheckpoint => f.write_str("proof ends before the checkpoint"),
            Self::Header => write!(f, "proof does not start with the line `{HEADER}`"),
            Self::Extra => f.write_str("extra data of the proof is not canonical base64"),
            Self::Index { line } => write!(f, "`{line}` is not the index line of a proof"),
            Self::Hash { position, .. } => write!(f, "hash {position} of the proof is malformed"),
            Self::Hashes => write!(f, "proof has more than {HASHES_MAX} hashes"),
            Self::Checkpoint(_) => f.write_str("checkpoint of the proof does not verify"),
            Self::Inclusion(_) => f.write_str("the leaf is not in the tree of the checkpoint"),
        }
    }
}

impl core::error::Error for TlogProofError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Hash { source, .. } => Some(source),
            Self::Checkpoint(error) => Some(error),
            Self::Inclusion(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{leaf_hash, root_of};
    use crate::note::{Ed25519Signer, NoteError, NoteSigner as _};
    use crate::proof::inclusion_proof;
    use crate::tile::{EdgeTiles, TileMap};

    fn signer() -> Ed25519Signer {
        Ed25519Signer::from_seed("log", &[1; 32]).unwrap()
    }

    fn proof() -> TlogProof {
        let mut edge = EdgeTiles::new();
        for leaf in 0_u8..7 {
            edge.push(leaf_hash(&[leaf]));
        }
        let hashes = inclusion_proof(5, 7, &TileMap::from_iter(edge.take_changed())).unwrap();
        let checkpoint = Checkpoint {
            origin: "log".to_owned(),
            size: 7,
            root: edge.root(),
            extensions: vec![],
        };
        let checkpoint = checkpoint::sign(&checkpoint, &[&signer()]).unwrap();
        TlogProof {
            extra: None,
            index: 5,
            hashes,
            checkpoint,
        }
    }

    #[test]
    fn a_proof_is_read_as_written_and_verifies() {
        for extra in [None, Some(vec![]), Some(b"extra".to_vec())] {
            let proof = TlogProof { extra, ..proof() };
            let read: TlogProof = proof.to_string().parse().unwrap();
            assert_eq!(read, proof);
            let checkpoint = read
                .verify(&leaf_hash(&[5]), "log", signer().verifier_key())
                .unwrap();
            let leaves: Vec<Hash> = (0_u8..7).map(|leaf| leaf_hash(&[leaf])).collect();
            assert_eq!(checkpoint.root, root_of(&leaves));
        }
    }

    #[test]
    fn a_proof_of_something_else_is_refused() {
        let (leaf, signer) = (leaf_hash(&[5]), signer());
        let key = signer.verifier_key();
        let error = proof().verify(&leaf_hash(&[4]), "log", key).unwrap_err();
        assert!(matches!(
            error,
            TlogProofError::Inclusion(ProofError::Root { .. })
        ));
        let error = TlogProof {
            index: 4,
            ..proof()
        }
        .verify(&leaf, "log", key)
        .unwrap_err();
        assert!(matches!(
            error,
            TlogProofError::Inclusion(ProofError::Root { .. })
        ));
        let error = TlogProof {
            index: 7,
            ..proof()
        }
        .verify(&leaf, "log", key)
        .unwrap_err();
        assert!(matches!(
            error,
            TlogProofError::Inclusion(ProofError::Index { .. })
        ));
        let error = TlogProof {
            hashes: vec![],
            ..proof()
        }
        .verify(&leaf, "log", key)
        .unwrap_err();
        assert!(matches!(
            error,
            TlogProofError::Inclusion(ProofError::Length {
                expected: 3,
                found: 0
            })
        ));
        let error = proof().verify(&leaf, "other", key).unwrap_err();
        assert!(matches!(
            error,
            TlogProofError::Checkpoint(CheckpointError::Origin { .. })
        ));
        let stranger = Ed25519Signer::from_seed("log", &[2; 32]).unwrap();
        let error = proof()
            .verify(&leaf, "log", stranger.verifier_key())
            .unwrap_err();
        assert!(matches!(
            error,
            TlogProofError::Checkpoint(CheckpointError::Note(NoteError::Unsigned))
        ));
    }

    #[test]
    fn malformed_proofs_are_refused() {
        let hash = leaf_hash(b"").to_base64();
        let refused = |text: &str| TlogProof::parse(text.as_bytes()).unwrap_err();
        let with = |lines: &str| refused(&format!("{HEADER}\n{lines}\n\ncheckpoint\n"));
        assert!(matches!(
            TlogProof::parse(&[0xff]),
            Err(TlogProofError::Utf8)
        ));
        assert!(matches!(refused(""), TlogProofError::Separator));
        assert!(matches!(
            refused(&format!("{HEADER}\nindex 0\n")),
            TlogProofError::Separator
        ));
        assert!(matches!(
            refused(&format!("{HEADER}\nindex 0\n\n")),
            TlogProofError::NoCheckpoint
        ));
        assert!(matches!(
            refused("\n\ncheckpoint\n"),
            TlogProofError::Header
        ));
        assert!(matches!(
            refused(&format!("{HEADER} \nindex 0\n\nc\n")),
            TlogProofError::Header
        ));
        assert!(matches!(with("extra AQ\nindex 0"), TlogProofError::Extra));
        assert!(matches!(
            with("extra AQ==\nextra AQ==\nindex 0"),
            TlogProofError::Index { .. }
        ));
        assert!(matches!(
            with("index 0\nextra AQ=="),
            TlogProofError::Hash { position: 0, .. }
        ));
        for index in [
            "", "index", "index ", "index 00", "index -1", "Index 0", " index 0", "index 0 ",
        ] {
            assert!(
                matches!(with(index), TlogProofError::Index { .. }),
                "{index:?}"
            );
        }
        let short = TlogProofError::Hash {
            position: 1,
            source: HashError::Length { found: 1 },
        };
        assert_eq!(
            with(&format!("index 0\n{hash}\nAQ==")).to_string(),
            short.to_string()
        );
        let many = |count| format!("index 0{}", format!("\n{hash}").repeat(count));
        assert!(matches!(
            with(&many(HASHES_MAX + 1)),
            TlogProofError::Hashes
        ));
        let most = format!("{HEADER}\n{}\n\nc\n", many(HASHES_MAX));
        assert_eq!(
            TlogProof::parse(most.as_bytes()).unwrap().hashes.len(),
            HASHES_MAX
        );
        let long = "x".repeat(PROOF_LEN_MAX + 1);
        assert!(matches!(refused(&long), TlogProofError::Length { found } if found == long.len()));
    }
}
