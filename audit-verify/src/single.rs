//! One entry under a signed checkpoint, proven alone.

use std::fmt;

use audit_core::Entry;
use audit_tlog::Verified;
use audit_tlog::checkpoint::{Checkpoint, CheckpointError};
use audit_tlog::hash::leaf_hash;
use audit_tlog::note::{NoteError, VerifierKey};
use audit_tlog::tlog_proof::{TlogProof, TlogProofError};

/// Why a proof was refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProofRefused {
    /// The entry breaks the format, so no log of this kind holds it.
    Entry(audit_core::Error),
    /// The checkpoint has extension lines: the format has none, and nothing binds them.
    Extensions,
    /// The proof doesn't verify.
    Proof(TlogProofError),
}

impl ProofRefused {
    /// Whether the proof contradicts itself; else the key is not the one that signed it, and nothing is decided.
    #[must_use]
    pub fn is_contradiction(&self) -> bool {
        !matches!(
            self,
            Self::Proof(TlogProofError::Checkpoint(CheckpointError::Note(
                NoteError::Unsigned
            )))
        )
    }
}

impl fmt::Display for ProofRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(_) => f.write_str("the entry is not one of a log"),
            Self::Extensions => f.write_str("the checkpoint has extension lines"),
            Self::Proof(_) => f.write_str("the proof does not verify"),
        }
    }
}

impl std::error::Error for ProofRefused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Entry(e) => Some(e),
            Self::Extensions => None,
            Self::Proof(e) => Some(e),
        }
    }
}

/// Verifies that the log of `vkey` committed to an entry; the origin is the key's name.
///
/// # Errors
///
/// [`ProofRefused`], which says whether the proof contradicts itself or the key is another.
pub fn proof(
    proof: &TlogProof,
    entry: &[u8],
    vkey: &VerifierKey,
) -> Result<Verified<Checkpoint>, ProofRefused> {
    Entry::decode(entry).map_err(ProofRefused::Entry)?;
    let checkpoint = proof
        .verify(&leaf_hash(entry), vkey.name(), vkey)
        .map_err(ProofRefused::Proof)?;
    if checkpoint.extensions.is_empty() {
        Ok(checkpoint)
    } else {
        Err(ProofRefused::Extensions)
    }
}
