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
