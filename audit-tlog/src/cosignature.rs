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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint;
    use crate::hash::leaf_hash;
    use crate::note::Ed25519Signer;

    fn note() -> Note {
        let log = Ed25519Signer::from_seed("log", &[1; 32]).unwrap();
        let checkpoint = Checkpoint {
            origin: "log".to_owned(),
            size: 42,
            root: leaf_hash(b"42"),
            extensions: vec![],
        };
        Note::parse(checkpoint::sign(&checkpoint, &[&log]).unwrap().as_bytes()).unwrap()
    }

    fn witness() -> Ed25519Signer {
        Ed25519Signer::cosigner_from_seed("witness", &[2; 32]).unwrap()
    }

    #[test]
    fn a_cosignature_verifies_with_its_timestamp() {
        for timestamp in [0, 1_679_315_147, TIMESTAMP_MAX] {
            let mut note = note();
            note.signatures
                .push(sign(&note.text, timestamp, &witness()).unwrap());
            let note = Note::parse(note.to_string().as_bytes()).unwrap();
            let cosignature = verify(&note, witness().verifier_key()).unwrap();
            assert_eq!(cosignature.timestamp, timestamp);
            assert_eq!(
                note.verify(&[witness().verifier_key().clone()])
                    .unwrap()
                    .len(),
                1
            );
        }
    }

    #[test]
    fn of_several_cosignatures_the_latest_counts_and_each_must_verify() {
        let mut note = note();
        for timestamp in [5, 9, 7] {
            note.signatures
                .push(sign(&note.text, timestamp, &witness()).unwrap());
        }
        assert_eq!(
            verify(&note, witness().verifier_key()).unwrap().timestamp,
            9
        );
        // Byte 7 is the last of the timestamp.
        for byte in [0, 7, 8, 71] {
            let mut forged = note.clone();
            forged.signatures[3].signature[byte] ^= 1;
            let error = verify(&forged, witness().verifier_key()).unwrap_err();
            assert!(
                matches!(error, CosignatureError::Note(NoteError::Signature { .. })),
                "byte {byte}: {error}"
            );
        }
        for length in [1, 7, 8, 64, 71, 73] {
            let mut forged = note.clone();
            forged.signatures[1].signature.resize(length, 0);
            let error = verify(&forged, witness().verifier_key()).unwrap_err();
            assert!(
                matches!(error, CosignatureError::Note(NoteError::Signature { .. })),
                "length {length}"
            );
        }
    }

    #[test]
    fn what_is_no_cosignature_is_refused() {
        let error = verify(&note(), witness().verifier_key()).unwrap_err();
        assert!(matches!(error, CosignatureError::Note(NoteError::Unsigned)));
        let log = Ed25519Signer::from_seed("log", &[1; 32]).unwrap();
        let error = verify(&note(), log.verifier_key()).unwrap_err();
        assert!(matches!(
            error,
            CosignatureError::Note(NoteError::Algorithm { .. })
        ));
        // A plain signature by the witness's key is no statement about a time.
        let mut plain = note();
        let key = witness();
        plain.signatures.push(NoteSignature {
            name: "witness".to_owned(),
            key_id: key.verifier_key().key_id(),
            signature: key.sign(plain.text.as_bytes()).unwrap().to_vec(),
        });
        let error = verify(&plain, key.verifier_key()).unwrap_err();
        assert!(matches!(
            error,
            CosignatureError::Note(NoteError::Signature { .. })
        ));
        let timestamp = TIMESTAMP_MAX + 1;
        let error = sign(&note().text, timestamp, &witness()).unwrap_err();
        assert!(matches!(error, CosignatureError::Timestamp { .. }));
        assert!(matches!(
            sign("hello\n", 1, &witness()),
            Err(CosignatureError::Checkpoint(_))
        ));
        assert!(matches!(
            sign(&note().text, 1, &log),
            Err(CosignatureError::Note(NoteError::Algorithm { .. }))
        ));
    }

    /// A timestamp above 2^63 − 1 is refused although the signature over it is good.
    #[test]
    fn a_signed_timestamp_out_of_range_is_refused() {
        let mut note = note();
        let key = witness();
        let timestamp = TIMESTAMP_MAX + 1;
        let mut signature = timestamp.to_be_bytes().to_vec();
        signature.extend_from_slice(&key.sign(message(&note.text, timestamp).as_bytes()).unwrap());
        let key_id = key.verifier_key().key_id();
        note.signatures.push(NoteSignature {
            name: "witness".to_owned(),
            key_id,
            signature,
        });
        let error = verify(&note, key.verifier_key()).unwrap_err();
        assert!(matches!(
            error,
            CosignatureError::Note(NoteError::Signature { .. })
        ));
    }
}
