//! Checkpoints as in C2SP tlog-checkpoint: a signed note that commits to a log's tree.

use core::fmt;

use crate::encoding;
use crate::hash::{Hash, HashError, empty_root};
use crate::note::{Algorithm, NOTE_LEN_MAX, Note, NoteError, NoteSigner, VerifierKey};
use crate::verified::Verified;

/// The text of a checkpoint: which log, how many leaves, and their root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's identity.
    pub origin: String,
    /// The tree size.
    pub size: u64,
    /// The root hash.
    pub root: Hash,
    /// Further lines, opaque and discouraged.
    pub extensions: Vec<String>,
}

impl Checkpoint {
    /// Reads the text of a checkpoint, signatures excluded; [`Checkpoint::to_text`] is the text that was read.
    ///
    /// Nothing is verified by this: use [`open`] for what came from outside.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        if text.len() > NOTE_LEN_MAX {
            return Err(CheckpointError::Length { found: text.len() });
        }
        if encoding::has_control(text) {
            return Err(CheckpointError::Control);
        }
        let lines: Vec<&str> = text
            .strip_suffix('\n')
            .ok_or(CheckpointError::Newline)?
            .split('\n')
            .collect();
        let [origin, size, root, extensions @ ..] = lines.as_slice() else {
            return Err(CheckpointError::Lines { found: lines.len() });
        };
        if let Some(position) = lines.iter().position(|line| line.is_empty()) {
            return Err(CheckpointError::EmptyLine {
                number: position + 1,
            });
        }
        let size = encoding::decimal_decode(size).ok_or_else(|| CheckpointError::Size {
            text: encoding::excerpt(size),
        })?;
        let root = Hash::from_base64(root).map_err(CheckpointError::Root)?;
        if size == 0 && root != empty_root() {
            return Err(CheckpointError::EmptyTree { root });
        }
        Ok(Self {
            origin: (*origin).to_owned(),
            size,
            root,
            extensions: extensions.iter().map(|line| (*line).to_owned()).collect(),
        })
    }

    /// The text that is signed.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            self.root.to_base64()
        );
        for extension in &self.extensions {
            text.push_str(extension);
            text.push('\n');
        }
        text
    }
}

/// Verifies a signed checkpoint: `key` signed it, and it is of the log `origin`.
///
/// Both come from the verifier's policy. The note is handed out as well, for the cosignatures that it carries.
pub fn open(
    note: &[u8],
    origin: &str,
    key: &VerifierKey,
) -> Result<(Verified<Checkpoint>, Note), CheckpointError> {
    key.expect_algorithm(Algorithm::Ed25519)?;
    let note = Note::parse(note)?;
    // The text is looked at only once it is known to be the log's.
    note.verify(core::slice::from_ref(key))?;
    let checkpoint = Checkpoint::parse(&note.text)?;
    if checkpoint.origin != origin {
        return Err(CheckpointError::Origin {
            found: encoding::excerpt(&checkpoint.origin),
            expected: origin.to_owned(),
        });
    }
    Ok((Verified::new(checkpoint), note))
}

/// Signs a checkpoint; the result is the signed note.
///
/// A log must never sign two checkpoints of which neither extends the other: that is the caller's to ensure.
pub fn sign(
    checkpoint: &Checkpoint,
    signers: &[&dyn NoteSigner],
) -> Result<String, CheckpointError> {
    let text = checkpoint.to_text();
    // The fields are free text: a newline in the origin would sign another checkpoint than this one.
    if Checkpoint::parse(&text)? != *checkpoint {
        return Err(CheckpointError::Ambiguous);
    }
    Ok(Note::sign(&text, signers)?.to_string())
}

/// Why a checkpoint was refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The note is malformed, or not signed as it must be.
    Note(NoteError),
    /// The text is longer than [`NOTE_LEN_MAX`].
    Length {
        /// Its length.
        found: usize,
    },
    /// The text has a control character other than newline.
    Control,
    /// The text doesn't end with a newline.
    Newline,
    /// The text has fewer than three lines.
    Lines {
        /// The lines there are.
        found: usize,
    },
    /// A line is empty.
    EmptyLine {
        /// Which line, from 1.
        number: usize,
    },
    /// The tree size is not a decimal without leading zeros, or above `u64::MAX`.
    Size {
        /// What stood there, shortened.
        text: String,
    },
    /// The root hash is malformed.
    Root(HashError),
    /// The tree size is 0 and the root hash not that of the empty tree.
    EmptyTree {
        /// The root hash.
        root: Hash,
    },
    /// The fields to be signed would be read back as other fields.
    Ambiguous,
    /// The checkpoint is of another log.
    Origin {
        /// The origin of the checkpoint, shortened.
        found: String,
        /// The origin it must have.
        expected: String,
    },
}

impl From<NoteError> for CheckpointError {
    fn from(error: NoteError) -> Self {
        Self::Note(error)
    }
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Note(_) => f.write_str("checkpoint is not a note signed by the log's key"),
            Self::Length { found } => write!(
                f,
                "checkpoint has {found} bytes, must have at most {NOTE_LEN_MAX}"
            ),
            Self::Control => f.write_str("checkpoint has a control character other than newline"),
            Self::Newline => f.write_str("checkpoint does not end with a newline"),
            Self::Lines { found } => {
                write!(f, "checkpoint has {found} lines, must have at least 3")
            }
            Self::EmptyLine { number } => write!(f, "line {number} of the checkpoint is empty"),
            Self::Size { text } => write!(
                f,
                "tree size `{text}` of the checkpoint is not a decimal below 2^64"
            ),
            Self::Root(_) => f.write_str("root hash of the checkpoint is malformed"),
            Self::EmptyTree { root } => write!(f, "checkpoint of tree size 0 has root hash {root}"),
            Self::Ambiguous => {
                f.write_str("checkpoint has fields that would be read back as others")
            }
            Self::Origin { found, expected } => {
                write!(f, "checkpoint has origin `{found}`, must have `{expected}`")
            }
        }
    }
}

impl core::error::Error for CheckpointError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Note(error) => Some(error),
            Self::Root(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;
    use crate::note::Ed25519Signer;

    const ORIGIN: &str = "example.com/log";

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            origin: ORIGIN.to_owned(),
            size: 42,
            root: leaf_hash(b"42"),
            extensions: vec![],
        }
    }

    fn signer(seed: u8) -> Ed25519Signer {
        Ed25519Signer::from_seed(ORIGIN, &[seed; 32]).unwrap()
    }

    #[test]
    fn a_checkpoint_is_read_as_written() {
        let empty = Checkpoint {
            size: 0,
            root: empty_root(),
            ..checkpoint()
        };
        let largest = Checkpoint {
            size: u64::MAX,
            ..checkpoint()
        };
        let extended = Checkpoint {
            extensions: vec!["one".to_owned(), "— two".to_owned()],
            ..checkpoint()
        };
        for checkpoint in [checkpoint(), empty, largest, extended] {
            assert_eq!(
                Checkpoint::parse(&checkpoint.to_text()).unwrap(),
                checkpoint
            );
            let signed = sign(&checkpoint, &[&signer(1)]).unwrap();
            let (opened, note) = open(signed.as_bytes(), ORIGIN, signer(1).verifier_key()).unwrap();
            assert_eq!(*opened, checkpoint);
            assert_eq!(note.to_string(), signed);
        }
    }

    #[test]
    fn malformed_texts_are_refused() {
        let root = leaf_hash(b"42").to_base64();
        let refused = |text: &str| Checkpoint::parse(text).unwrap_err();
        assert!(matches!(refused(""), CheckpointError::Newline));
        assert!(matches!(refused("\n"), CheckpointError::Lines { found: 1 }));
        assert!(matches!(
            refused("log\n1\n"),
            CheckpointError::Lines { found: 2 }
        ));
        assert!(matches!(
            refused(&format!("\n1\n{root}\n")),
            CheckpointError::EmptyLine { number: 1 }
        ));
        assert!(matches!(
            refused(&format!("log\n1\n{root}")),
            CheckpointError::Newline
        ));
        assert!(matches!(
            refused(&format!("log\n1\n{root}\n\n")),
            CheckpointError::EmptyLine { number: 4 }
        ));
        assert!(matches!(
            refused(&format!("log\n1\n{root}\na\tb\n")),
            CheckpointError::Control
        ));
        for size in [
            "01",
            "00",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1.0",
            "0x1",
            "18446744073709551616",
        ] {
            assert!(
                matches!(
                    refused(&format!("log\n{size}\n{root}\n")),
                    CheckpointError::Size { .. }
                ),
                "{size}"
            );
        }
        for root in [
            &root.replace('=', ""),
            "AQ==",
            "?",
            &format!(" {root}"),
            &format!("{root} "),
        ] {
            assert!(
                matches!(
                    refused(&format!("log\n1\n{root}\n")),
                    CheckpointError::Root(_)
                ),
                "{root}"
            );
        }
        assert!(matches!(
            refused(&format!("log\n0\n{root}\n")),
            CheckpointError::EmptyTree { .. }
        ));
        let long = format!("log\n1\n{root}\n{}\n", "x".repeat(NOTE_LEN_MAX));
        assert!(matches!(refused(&long), CheckpointError::Length { .. }));
    }

    #[test]
    fn another_key_or_log_is_refused() {
        let signed = sign(&checkpoint(), &[&signer(1)]).unwrap();
        let error = open(signed.as_bytes(), ORIGIN, signer(2).verifier_key()).unwrap_err();
        assert!(matches!(error, CheckpointError::Note(NoteError::Unsigned)));
        let error = open(
            signed.as_bytes(),
            "example.com/other",
            signer(1).verifier_key(),
        )
        .unwrap_err();
        assert!(matches!(error, CheckpointError::Origin { found, .. } if found == ORIGIN));
        let edited = signed.replace("\n42\n", "\n41\n");
        let error = open(edited.as_bytes(), ORIGIN, signer(1).verifier_key()).unwrap_err();
        assert!(matches!(
            error,
            CheckpointError::Note(NoteError::Signature { .. })
        ));
        // The key of a witness doesn't make a log's checkpoint.
        let witness =
            VerifierKey::cosignature_v1(ORIGIN, signer(1).verifier_key().public_key()).unwrap();
        let error = open(signed.as_bytes(), ORIGIN, &witness).unwrap_err();
        assert!(matches!(
            error,
            CheckpointError::Note(NoteError::Algorithm { .. })
        ));
        // A note that the log's key signed, but no checkpoint.
        let note = Note::sign("hello\n", &[&signer(1)]).unwrap().to_string();
        let error = open(note.as_bytes(), ORIGIN, signer(1).verifier_key()).unwrap_err();
        assert!(matches!(error, CheckpointError::Lines { found: 1 }));
    }

    #[test]
    fn fields_that_would_be_read_back_as_others_are_not_signed() {
        let origin = format!("log\n7\n{}", leaf_hash(b"7").to_base64());
        let hidden = Checkpoint {
            origin,
            ..checkpoint()
        };
        assert!(matches!(
            sign(&hidden, &[&signer(1)]),
            Err(CheckpointError::Ambiguous)
        ));
        let extended = Checkpoint {
            extensions: vec!["a\nb".to_owned()],
            ..checkpoint()
        };
        assert!(matches!(
            sign(&extended, &[&signer(1)]),
            Err(CheckpointError::Ambiguous)
        ));
        let empty = Checkpoint {
            extensions: vec![String::new()],
            ..checkpoint()
        };
        assert!(matches!(
            sign(&empty, &[&signer(1)]),
            Err(CheckpointError::EmptyLine { number: 4 })
        ));
        let nameless = Checkpoint {
            origin: String::new(),
            ..checkpoint()
        };
        assert!(matches!(
            sign(&nameless, &[&signer(1)]),
            Err(CheckpointError::EmptyLine { number: 1 })
        ));
    }
}
