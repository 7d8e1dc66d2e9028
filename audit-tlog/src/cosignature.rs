//! Cosignatures as in C2SP tlog-cosignature, `cosignature/v1`: a witness states that, at a time, a checkpoint was the
//! largest consistent tree it had seen of a log.

use core::fmt;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::note::{
    Algorithm, Note, NoteError, NoteSignature, NoteSigner, VerifierKey, sign_checked,
};
use crate::verified::Verified;

/// The latest timestamp, in seconds since the epoch: it must not exceed 2^63 − 1.
pub const TIMESTAMP_MAX: u64 = i64::MAX as u64;

/// What a witness stated about a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosignature {
    /// The key of the witness.
    pub key: VerifierKey,
    /// When it signed, in seconds since the epoch, by its own clock.
    pub timestamp: u64,
}

/// The message that a cosigner signs: a header, the timestamp, and the text of the checkpoint.
#[must_use]
pub fn message(text: &str, timestamp: u64) -> String {
    format!("cosignature/v1\ntime {timestamp}\n{text}")
}

/// Cosigns the checkpoint whose text is `text`; the result is the line that goes under its note.
///
/// That the checkpoint is consistent with what the cosigner has seen is the caller's to ensure.
pub fn sign(
    text: &str,
    timestamp: u64,
    signer: &dyn NoteSigner,
) -> Result<NoteSignature, CosignatureError> {
    let key = signer.verifier_key();
    key.expect_algorithm(Algorithm::CosignatureV1)?;
    if timestamp > TIMESTAMP_MAX {
        return Err(CosignatureError::Timestamp { timestamp });
    }
    Checkpoint::parse(text).map_err(CosignatureError::Checkpoint)?;
    let signature = sign_checked(signer, message(text, timestamp).as_bytes())?;
    let mut timestamped = timestamp.to_be_bytes().to_vec();
    timestamped.extend_from_slice(&signature);
    Ok(NoteSignature {
        name: key.name().to_owned(),
        key_id: key.key_id(),
        signature: timestamped,
    })
}

/// Verifies that `key` cosigned the checkpoint in `note`, and says when.
///
/// All lines of the key must verify; of several the latest counts. Whether the log signed, [`open`](crate::checkpoint::open)
/// says, and whether the timestamp is recent enough, the verifier's policy.
pub fn verify(note: &Note, key: &VerifierKey) -> Result<Verified<Cosignature>, CosignatureError> {
    key.expect_algorithm(Algorithm::CosignatureV1)?;
    let mut latest = None;
    for line in key.lines(note) {
        latest = latest.max(Some(verify_line(&note.text, key, line)?));
    }
    let timestamp = latest.ok_or(NoteError::Unsigned)?;
    Checkpoint::parse(&note.text).map_err(CosignatureError::Checkpoint)?;
    Ok(Verified::new(Cosignature {
        key: key.clone(),
        timestamp,
    }))
}

/// Verifies one line, which must be of this key, and gives its timestamp.
pub(crate) fn verify_line(
    text: &str,
    key: &VerifierKey,
    line: &NoteSignature,
) -> Result<u64, NoteError> {
    let refused = || NoteError::Signature {
        name: key.name().to_owned(),
        key_id: key.key_id(),
    };
    let (timestamp, signature) = line
        .signature
        .split_first_chunk::<8>()
        .ok_or_else(refused)?;
    let timestamp = u64::from_be_bytes(*timestamp);
    let Some((signature, [])) = signature.split_first_chunk::<64>() else {
        return Err(refused());
    };
    if timestamp > TIMESTAMP_MAX {
        return Err(refused());
    }
    key.verify_ed25519(message(text, timestamp).as_bytes(), signature)?;
    Ok(timestamp)
}

/// Why a cosignature was refused, or not made.
#[derive(Debug)]
#[non_exhaustive]
pub enum CosignatureError {
    /// The key is not a cosigner's, didn't sign, or its signature does not verify.
    Note(NoteError),
    /// What is cosigned is not a checkpoint.
    Checkpoint(CheckpointError),
    /// The timestamp is above [`TIMESTAMP_MAX`].
    Timestamp {
        /// The timestamp given.
        timestamp: u64,
    },
}

impl From<NoteError> for CosignatureError {
    fn from(error: NoteError) -> Self {
        Self::Note(error)
    }
}

impl fmt::Display for CosignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Note(_) => f.write_str("cosignature is refused"),
            Self::Checkpoint(_) => f.write_str("what is cosigned is not a checkpoint"),
            Self::Timestamp { timestamp } => {
                write!(
                    f,
                    "timestamp {timestamp} of the cosignature is above {TIMESTAMP_MAX}"
                )
            }
        }
    }
}

impl core::error::Error for CosignatureError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Note(error) => Some(error),
            Self::Checkpoint(error) => Some(error),
            Self::Timestamp { .. } => None,
        }
    }
}
