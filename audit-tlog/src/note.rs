//! Signed notes as in C2SP signed-note: a text, and under it the signatures of any number of keys.

use core::fmt;
use core::str::FromStr;
use std::collections::HashMap;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::cosignature;
use crate::encoding;

/// The largest note that is read: 1 MiB, room for a hundred post-quantum signatures of 5 kB.
pub const NOTE_LEN_MAX: usize = 1 << 20;

/// The most signatures that a note may have; the specification asks for at least 16.
pub const SIGNATURES_MAX: usize = 100;

/// The longest key name: a path of 255-byte elements is far below.
pub const NAME_LEN_MAX: usize = 1024;

const SIGNATURE_LINE_PREFIX: &str = "— ";
const KEY_ID_LEN: usize = 4;

/// What a key signs with: the signature type identifier byte of C2SP signed-note.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// 0x01: Ed25519 over the text of the note.
    Ed25519,
    /// 0x04: cosignature/v1, Ed25519 over a timestamp and the text of a checkpoint.
    CosignatureV1,
}

impl Algorithm {
    const fn identifier(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::CosignatureV1 => 0x04,
        }
    }

    const fn from_identifier(identifier: u8) -> Option<Self> {
        match identifier {
            0x01 => Some(Self::Ed25519),
            0x04 => Some(Self::CosignatureV1),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "Ed25519",
            Self::CosignatureV1 => "cosignature/v1",
        }
    }
}

/// A public key with its name and algorithm, as a verifier's policy holds it: `name+hash+base64(algorithm || key)`.
///
/// Public keys that aren't the canonical encoding of a point, or are points of small order, are refused.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key_id: u32,
    algorithm: Algorithm,
    key: VerifyingKey,
}

impl VerifierKey {
    /// A key that signs notes.
    pub fn ed25519(name: &str, public_key: [u8; 32]) -> Result<Self, NoteError> {
        Self::new(name, Algorithm::Ed25519, public_key)
    }

    /// The key of a witness or another cosigner.
    pub fn cosignature_v1(name: &str, public_key: [u8; 32]) -> Result<Self, NoteError> {
        Self::new(name, Algorithm::CosignatureV1, public_key)
    }

    fn new(name: &str, algorithm: Algorithm, public_key: [u8; 32]) -> Result<Self, NoteError> {
        if !is_key_name(name) {
            return Err(NoteError::KeyName {
                name: encoding::excerpt(name),
            });
        }
        let malformed = |reason| NoteError::PublicKey {
            name: name.to_owned(),
            reason,
        };
        let Ok(key) = VerifyingKey::from_bytes(&public_key) else {
            return Err(malformed("it is not a point of the curve"));
        };
        // The decoder accepts y ≥ p, which would give one key two encodings and two key ids.
        if key.to_edwards().compress().to_bytes() != public_key {
            return Err(malformed("it is not the canonical encoding of its point"));
        }
        // Under a key of small order one signature verifies for many messages.
        if key.is_weak() {
            return Err(malformed("it is a point of small order"));
        }
        let key_id = key_id(name, algorithm, &public_key);
        Ok(Self {
            name: name.to_owned(),
            key_id,
            algorithm,
            key,
        })
    }

    /// The name, which stands in the signature line.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first four bytes of the hash over name, algorithm and key, big-endian.
    #[must_use]
    pub const fn key_id(&self) -> u32 {
        self.key_id
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The 32 bytes of the Ed25519 public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Verifies a plain Ed25519 signature over `message`, strictly: a non-canonical `R` or `S`, an `R` of small order,
    /// and whatever satisfies only the cofactored equation are refused.
    pub fn verify_ed25519(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), NoteError> {
        match self
            .key
            .verify_strict(message, &Signature::from_bytes(signature))
        {
            Ok(()) => Ok(()),
            Err(_) => Err(NoteError::Signature {
                name: self.name.clone(),
                key_id: self.key_id,
            }),
        }
    }

    fn signed(&self, signature: &NoteSignature) -> bool {
        signature.key_id == self.key_id && signature.name == self.name
    }

    /// Verifies the signature of a note line over the text of the note.
    fn verify_line(&self, text: &str, signature: &NoteSignature) -> Result<(), NoteError> {
        match self.algorithm {
            Algorithm::Ed25519 => match signature.signature.as_slice().try_into() {
                Ok(bytes) => self.verify_ed25519(text.as_bytes(), bytes),
                Err(_) => Err(NoteError::Signature {
                    name: self.name.clone(),
                    key_id: self.key_id,
                }),
            },
            Algorithm::CosignatureV1 => cosignature::verify_line(text, self, signature).map(|_| ()),
        }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut encoded = vec![self.algorithm.identifier()];
        encoded.extend_from_slice(self.key.as_bytes());
        write!(
            f,
            "{}+{:08x}+{}",
            self.name,
            self.key_id,
            encoding::base64_encode(&encoded)
        )
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifierKey({self})")
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(vkey: &str) -> Result<Self, Self::Err> {
        let malformed = |reason| NoteError::VerifierKey {
            vkey: encoding::excerpt(vkey),
            reason,
        };
        // The key is base64, whose alphabet has the plus sign: only the first two separate.
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(key_id), Some(encoded)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("it has not three parts"));
        };
        let encoded = encoding::base64_decode(encoded)
            .ok_or_else(|| malformed("its key is not canonical base64"))?;
        let Some((identifier, public_key)) = encoded.split_first() else {
            return Err(malformed("its key is empty"));
        };
        let algorithm = Algorithm::from_identifier(*identifier)
            .ok_or_else(|| malformed("its algorithm is not known"))?;
        let Ok(public_key) = public_key.try_into() else {
            return Err(malformed("its public key has not 32 bytes"));
        };
        let key = Self::new(name, algorithm, public_key)?;
        if format!("{:08x}", key.key_id) == key_id {
            Ok(key)
        } else {
            Err(malformed("its key id is not the hash of its name and key"))
        }
    }
}

/// Something that signs with one key: in memory, or behind a wall.
pub trait NoteSigner {
    /// The public half, with the name that the signature line shows.
    fn verifier_key(&self) -> &VerifierKey;

    /// Signs `message` with Ed25519; every call may be answered with an error, and none with a wrong signature.
    ///
    /// What `message` is depends on the algorithm of the key; it is not always the text of a note.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError>;
}

/// A signer whose secret is in memory; it is wiped on drop and never shown.
pub struct Ed25519Signer {
    secret: SigningKey,
    key: VerifierKey,
}

impl Ed25519Signer {
    /// A signer of notes, from the 32-byte seed that RFC 8032 calls the private key.
    ///
    /// The caller's copy of the seed is the caller's to wipe.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        Self::new(name, Algorithm::Ed25519, seed)
    }

    /// A cosigner, from the 32-byte seed that RFC 8032 calls the private key.
    ///
    /// Two cosigners must not share a seed: the signed message doesn't name the cosigner.
    pub fn cosigner_from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        Self::new(name, Algorithm::CosignatureV1, seed)
    }

    fn new(name: &str, algorithm: Algorithm, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let secret = SigningKey::from_bytes(seed);
        let key = VerifierKey::new(name, algorithm, secret.verifying_key().to_bytes())?;
        Ok(Self { secret, key })
    }
}

impl NoteSigner for Ed25519Signer {
    fn verifier_key(&self) -> &VerifierKey {
        &self.key
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        match self.secret.try_sign(message) {
            Ok(signature) => Ok(signature.to_bytes()),
            Err(error) => Err(SignError::new("ed25519 signing failed").with_source(error)),
        }
    }
}

impl fmt::Debug for Ed25519Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ed25519Signer")
            .field("key", &self.key)
            .field("secret", &"redacted")
            .finish()
    }
}

/// Why a [`NoteSigner`] did not sign.
#[derive(Debug)]
pub struct SignError {
    message: String,
    source: Option<Box<dyn core::error::Error + Send + Sync>>,
}

impl SignError {
    /// An error that says what happened.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            source: None,
        }
    }

    /// The same, with its cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn core::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for SignError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// One signature line of a note: unverified until [`Note::verify`] says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// The name of the key.
    pub name: String,
    /// The key id.
    pub key_id: u32,
    /// The bytes behind the key id, whose form depends on the key's algorithm.
    pub signature: Vec<u8>,
}

impl NoteSignature {
    fn from_line(line: &str, number: usize) -> Result<Self, NoteError> {
        let malformed = || NoteError::SignatureLine { number };
        let (name, encoded) = line
            .strip_prefix(SIGNATURE_LINE_PREFIX)
            .and_then(|rest| rest.split_once(' '))
            .ok_or_else(malformed)?;
        if !is_key_name(name) {
            return Err(malformed());
        }
        let bytes = encoding::base64_decode(encoded).ok_or_else(malformed)?;
        let (key_id, signature) = bytes
            .split_first_chunk::<KEY_ID_LEN>()
            .ok_or_else(malformed)?;
        if signature.is_empty() {
            return Err(malformed());
        }
        Ok(Self {
            name: name.to_owned(),
            key_id: u32::from_be_bytes(*key_id),
            signature: signature.to_vec(),
        })
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut encoded = self.key_id.to_be_bytes().to_vec();
        encoded.extend_from_slice(&self.signature);
        write!(
            f,
            "{SIGNATURE_LINE_PREFIX}{} {}",
            self.name,
            encoding::base64_encode(&encoded)
        )
    }
}

/// A text and its signatures: unverified until [`Note::verify`] says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The text, whose last character is a newline.
    pub text: String,
    /// The signatures, in the order of their lines.
    pub signatures: Vec<NoteSignature>,
}

impl Note {
    /// Reads a note of at most [`NOTE_LEN_MAX`] bytes and [`SIGNATURES_MAX`] signatures; its [`Display`](fmt::Display)
    /// form is the bytes that were read.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_LEN_MAX {
            return Err(NoteError::Length { found: bytes.len() });
        }
        let Ok(note) = core::str::from_utf8(bytes) else {
            return Err(NoteError::Utf8);
        };
        if encoding::has_control(note) {
            return Err(NoteError::Control);
        }
        // The text may have empty lines: the last one separates.
        let (text, lines) = note.rsplit_once("\n\n").ok_or(NoteError::Separator)?;
        if lines.is_empty() {
            return Err(NoteError::Signatures { found: 0 });
        }
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Newline)?;
        let found = lines.bytes().filter(|byte| *byte == b'\n').count() + 1;
        if found > SIGNATURES_MAX {
            return Err(NoteError::Signatures { found });
        }
        let signatures = lines
            .split('\n')
            .enumerate()
            .map(|(position, line)| NoteSignature::from_line(line, position + 1))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            text: format!("{text}\n"),
            signatures,
        })
    }

    /// Signs a text, one signature line for each signer in their order.
    ///
    /// Each signature is verified before it is used: one that a faulty signer made could give the key away.
    /// A cosigner's key is refused, for it signs checkpoints, and with a timestamp.
    pub fn sign(text: &str, signers: &[&dyn NoteSigner]) -> Result<Self, NoteError> {
        if !text.ends_with('\n') {
            return Err(NoteError::Newline);
        }
        if encoding::has_control(text) {
            return Err(NoteError::Control);
        }
        if signers.is_empty() || signers.len() > SIGNATURES_MAX {
            return Err(NoteError::Signatures {
                found: signers.len(),
            });
        }
        let mut signatures = Vec::with_capacity(signers.len());
        for signer in signers {
            let key = signer.verifier_key();
            key.expect_algorithm(Algorithm::Ed25519)?;
            let signature = sign_checked(*signer, text.as_bytes())?;
            signatures.push(NoteSignature {
                name: key.name.clone(),
                key_id: key.key_id,
                signature: signature.to_vec(),
            });
        }
        let note = Self {
            text: text.to_owned(),
            signatures,
        };
        let found = note.to_string().len();
        if found > NOTE_LEN_MAX {
            Err(NoteError::Length { found })
        } else {
            Ok(note)
        }
    }

    /// Verifies the signatures of known keys, and says which of the keys signed, each once.
    ///
    /// Signatures of unknown keys are passed over. Every signature of a known key must verify: one that does not makes
    /// the whole note an error, even beside others that do. So does a note that no known key signed.
    pub fn verify(&self, keys: &[VerifierKey]) -> Result<Vec<VerifierKey>, NoteError> {
        let mut known: HashMap<(&str, u32), (&VerifierKey, bool)> =
            HashMap::with_capacity(keys.len());
        for key in keys {
            if let Some((other, _)) = known.insert((key.name(), key.key_id), (key, false))
                && other != key
            {
                // Key ids are short: two keys can share one. Which is meant, nobody could say.
                return Err(NoteError::AmbiguousKey {
                    name: key.name.clone(),
                    key_id: key.key_id,
                });
            }
        }
        let mut verified = Vec::new();
        for signature in &self.signatures {
            let Some((key, seen)) = known.get_mut(&(signature.name.as_str(), signature.key_id))
            else {
                continue;
            };
            key.verify_line(&self.text, signature)?;
            if !core::mem::replace(seen, true) {
                verified.push((*key).clone());
            }
        }
        if verified.is_empty() {
            Err(NoteError::Unsigned)
        } else {
            Ok(verified)
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        f.write_str("\n")?;
        for signature in &self.signatures {
            writeln!(f, "{signature}")?;
        }
        Ok(())
    }
}

impl FromStr for Note {
    type Err = NoteError;

    fn from_str(note: &str) -> Result<Self, Self::Err> {
        Self::parse(note.as_bytes())
    }
}

impl VerifierKey {
    pub(crate) fn expect_algorithm(&self, expected: Algorithm) -> Result<(), NoteError> {
        if self.algorithm == expected {
            Ok(())
        } else {
            Err(NoteError::Algorithm {
                name: self.name.clone(),
                found: self.algorithm,
                expected,
            })
        }
    }

    /// The signature lines of a note that claim to be of this key.
    pub(crate) fn lines<'a>(&self, note: &'a Note) -> impl Iterator<Item = &'a NoteSignature> {
        note.signatures
            .iter()
            .filter(move |signature| self.signed(signature))
    }
}

/// Signs and verifies what came back.
pub(crate) fn sign_checked(signer: &dyn NoteSigner, message: &[u8]) -> Result<[u8; 64], NoteError> {
    let key = signer.verifier_key();
    let signature = match signer.sign(message) {
        Ok(signature) => signature,
        Err(source) => {
            return Err(NoteError::Sign {
                name: key.name.clone(),
                source,
            });
        }
    };
    key.verify_ed25519(message, &signature)?;
    Ok(signature)
}

/// Why a note, or a key for notes, was refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum NoteError {
    /// The note is longer than [`NOTE_LEN_MAX`].
    Length {
        /// Its length.
        found: usize,
    },
    /// The note is not UTF-8.
    Utf8,
    /// The note has a control character other than newline.
    Control,
    /// The note has no empty line between text and signatures.
    Separator,
    /// The note, or the text to be signed, doesn't end with a newline.
    Newline,
    /// The note has no signature, or more than [`SIGNATURES_MAX`].
    Signatures {
        /// The signatures there are.
        found: usize,
    },
    /// A line is not a signature line.
    SignatureLine {
        /// Which of the signature lines, from 1.
        number: usize,
    },
    /// Not a key name: empty, too long, or with a space, a plus sign or a control character in it.
    KeyName {
        /// The name given, shortened.
        name: String,
    },
    /// Not a verifier key.
    VerifierKey {
        /// The key given, shortened.
        vkey: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not an acceptable Ed25519 public key.
    PublicKey {
        /// The name of the key.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two keys of the policy have the same name and key id.
    AmbiguousKey {
        /// The name.
        name: String,
        /// The key id.
        key_id: u32,
    },
    /// The key is for something else.
    Algorithm {
        /// The name of the key.
        name: String,
        /// Its algorithm.
        found: Algorithm,
        /// The algorithm needed.
        expected: Algorithm,
    },
    /// A signature of a known key does not verify.
    Signature {
        /// The name of the key.
        name: String,
        /// Its key id.
        key_id: u32,
    },
    /// No known key signed the note.
    Unsigned,
    /// A signer did not sign.
    Sign {
        /// The name of its key.
        name: String,
        /// What it said.
        source: SignError,
    },
}

impl fmt::Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { found } => write!(
                f,
                "note has {found} bytes, must have at most {NOTE_LEN_MAX}"
            ),
            Self::Utf8 => f.write_str("note is not utf-8"),
            Self::Control => f.write_str("note has a control character other than newline"),
            Self::Separator => f.write_str("note has no empty line between text and signatures"),
            Self::Newline => f.write_str("note does not end with a newline"),
            Self::Signatures { found } => write!(
                f,
                "note has {found} signatures, must have 1 to {SIGNATURES_MAX}"
            ),
            Self::SignatureLine { number } => {
                write!(f, "signature line {number} of the note is malformed")
            }
            Self::KeyName { name } => write!(f, "`{name}` is not a key name"),
            Self::VerifierKey { vkey, reason } => {
                write!(f, "`{vkey}` is not a verifier key: {reason}")
            }
            Self::PublicKey { name, reason } => {
                write!(f, "public key of `{name}` is refused: {reason}")
            }
            Self::AmbiguousKey { name, key_id } => {
                write!(f, "two keys have the name `{name}` and key id {key_id:08x}")
            }
            Self::Algorithm {
                name,
                found,
                expected,
            } => {
                write!(
                    f,
                    "key `{name}` is for {}, must be for {}",
                    found.name(),
                    expected.name()
                )
            }
            Self::Signature { name, key_id } => {
                write!(
                    f,
                    "signature of key `{name}` with key id {key_id:08x} does not verify"
                )
            }
            Self::Unsigned => f.write_str("note has no signature of a known key"),
            Self::Sign { name, .. } => write!(f, "the signer of key `{name}` did not sign"),
        }
    }
}

impl core::error::Error for NoteError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Sign { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Non-empty, and no character that would blur a line's parts (C2SP signed-note, "Format").
fn is_key_name(name: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&name.len())
        && !name.contains(|character: char| {
            character == '+' || character < ' ' || character.is_whitespace()
        })
}

fn key_id(name: &str, algorithm: Algorithm, public_key: &[u8; 32]) -> u32 {
    let hash: [u8; 32] = Sha256::new()
        .chain_update(name)
        .chain_update([b'\n', algorithm.identifier()])
        .chain_update(public_key)
        .finalize()
        .into();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a text\n\nwith an empty line\n";

    fn signer(name: &str, seed: u8) -> Ed25519Signer {
        Ed25519Signer::from_seed(name, &[seed; 32]).unwrap()
    }

    fn signed() -> (Note, Ed25519Signer, Ed25519Signer) {
        let (one, two) = (signer("one", 1), signer("two", 2));
        (Note::sign(TEXT, &[&one, &two]).unwrap(), one, two)
    }

    fn names(keys: Result<Vec<VerifierKey>, NoteError>) -> Vec<String> {
        keys.unwrap()
            .iter()
            .map(|key| key.name().to_owned())
            .collect()
    }

    #[test]
    fn a_note_is_read_as_written_and_verifies() {
        let (note, one, two) = signed();
        let read = Note::parse(note.to_string().as_bytes()).unwrap();
        assert_eq!(read, note);
        assert_eq!(read.text, TEXT);
        let keys = [two.verifier_key().clone(), one.verifier_key().clone()];
        assert_eq!(
            names(note.verify(&keys)),
            ["one", "two"],
            "in the order of the lines"
        );
        assert_eq!(
            names(note.verify(&keys[..1])),
            ["two"],
            "unknown keys are passed over"
        );
        // The same key twice in a policy is no contradiction.
        assert_eq!(
            names(note.verify(&[keys[0].clone(), keys[0].clone()])),
            ["two"]
        );
    }

    #[test]
    fn a_note_without_a_signature_of_a_known_key_is_refused() {
        let (note, one, _) = signed();
        assert!(matches!(note.verify(&[]), Err(NoteError::Unsigned)));
        let stranger = signer("three", 3).verifier_key().clone();
        assert!(matches!(note.verify(&[stranger]), Err(NoteError::Unsigned)));
        // Same name, another key: the key id differs. Same key, another name: so does the name.
        let namesake = signer("one", 9).verifier_key().clone();
        let renamed = signer("uno", 1).verifier_key().clone();
        assert!(matches!(
            note.verify(&[namesake, renamed]),
            Err(NoteError::Unsigned)
        ));
        // The same key for another algorithm has another key id.
        let cosigner = VerifierKey::cosignature_v1("one", one.verifier_key().public_key()).unwrap();
        assert!(matches!(note.verify(&[cosigner]), Err(NoteError::Unsigned)));
    }

    #[test]
    fn one_bad_signature_of_a_known_key_spoils_the_note() {
        let (note, one, two) = signed();
        let keys = [one.verifier_key().clone(), two.verifier_key().clone()];
        for bit in [0, 255, 256, 511] {
            let mut forged = note.clone();
            forged.signatures[1].signature[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(forged.verify(&keys), Err(NoteError::Signature { name, .. }) if name == "two")
            );
            assert_eq!(
                names(forged.verify(&keys[..1])),
                ["one"],
                "it is unknown to this verifier"
            );
            // A good signature before or behind doesn't help.
            let mut twice = note.clone();
            twice.signatures.push(forged.signatures[1].clone());
            assert!(matches!(
                twice.verify(&keys),
                Err(NoteError::Signature { .. })
            ));
        }
        for length in [1, 63, 65] {
            let mut forged = note.clone();
            forged.signatures[0].signature.resize(length, 0);
            assert!(matches!(
                forged.verify(&keys),
                Err(NoteError::Signature { .. })
            ));
        }
        let mut edited = note;
        edited.text.insert(0, ' ');
        assert!(
            matches!(edited.verify(&keys), Err(NoteError::Signature { name, .. }) if name == "one")
        );
    }

    #[test]
    fn a_key_that_signed_twice_counts_once() {
        let (note, one, _) = signed();
        let mut twice = note.clone();
        twice.signatures.push(note.signatures[0].clone());
        assert_eq!(names(twice.verify(&[one.verifier_key().clone()])), ["one"]);
    }

    #[test]
    fn two_keys_that_share_name_and_key_id_are_refused() {
        let (note, one, two) = signed();
        let mut collision = two.verifier_key().clone();
        collision.name = one.verifier_key().name.clone();
        collision.key_id = one.verifier_key().key_id;
        let keys = [one.verifier_key().clone(), collision];
        assert!(
            matches!(note.verify(&keys), Err(NoteError::AmbiguousKey { name, .. }) if name == "one")
        );
    }

    #[test]
    fn malformed_notes_are_refused() {
        let note = signed().0.to_string();
        let (text, lines) = note.rsplit_once("\n\n").unwrap();
        let first = lines.lines().next().unwrap();
        let refused = |note: &str| Note::parse(note.as_bytes()).unwrap_err();
        assert!(matches!(refused(""), NoteError::Separator));
        assert!(matches!(
            refused(&note.replace("\n\n", "\n")),
            NoteError::Separator
        ));
        assert!(matches!(
            refused(&format!("{text}\n\n")),
            NoteError::Signatures { found: 0 }
        ));
        assert!(matches!(refused(note.trim_end()), NoteError::Newline));
        assert!(matches!(
            refused(&note.replace('\n', "\r\n")),
            NoteError::Control
        ));
        assert!(matches!(refused(&format!("\t{note}")), NoteError::Control));
        assert!(matches!(Note::parse(b"\xff\n\n"), Err(NoteError::Utf8)));
        for line in [
            "a line",
            "",
            "- one AQIDBAU=",
            "—one AQIDBAU=",
            "—  AQIDBAU=",
            "— one",
            "— one ",
            "— o+ne AQIDBAU=",
            "— o\u{2003}ne AQIDBAU=",
            "— one  AQIDBAU=",
            "— one AQIDBAU= ",
            "— one AQIDBAU",
            "— one AQIDBAV=",
            // Four bytes are a key id and no signature.
            "— one AQIDBA==",
        ] {
            let error = refused(&format!("{text}\n\n{first}\n{line}\n"));
            if line.is_empty() {
                assert!(
                    matches!(error, NoteError::Signatures { found: 0 }),
                    "{error}"
                );
            } else {
                assert!(
                    matches!(error, NoteError::SignatureLine { number: 2 }),
                    "{line:?}: {error}"
                );
            }
        }
        let many = |count| format!("{text}\n\n{}", format!("{first}\n").repeat(count));
        assert_eq!(
            Note::parse(many(100).as_bytes()).unwrap().signatures.len(),
            100
        );
        assert!(matches!(
            refused(&many(101)),
            NoteError::Signatures { found: 101 }
        ));
        let long = format!("{}{note}", "x".repeat(NOTE_LEN_MAX));
        assert!(matches!(refused(&long), NoteError::Length { found } if found == long.len()));
    }

    #[test]
    fn what_cannot_be_a_note_is_not_signed() {
        struct Refuses(Ed25519Signer);
        impl NoteSigner for Refuses {
            fn verifier_key(&self) -> &VerifierKey {
                self.0.verifier_key()
            }
            fn sign(&self, _: &[u8]) -> Result<[u8; 64], SignError> {
                Err(SignError::new("the card is gone").with_source("no slot"))
            }
        }
        struct Faulty(Ed25519Signer);
        impl NoteSigner for Faulty {
            fn verifier_key(&self) -> &VerifierKey {
                self.0.verifier_key()
            }
            fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
                let mut signature = self.0.sign(message)?;
                signature[40] ^= 1;
                Ok(signature)
            }
        }
        let one = signer("one", 1);
        assert!(matches!(
            Note::sign("text", &[&one]),
            Err(NoteError::Newline)
        ));
        assert!(matches!(
            Note::sign("te\rxt\n", &[&one]),
            Err(NoteError::Control)
        ));
        assert!(matches!(
            Note::sign("text\n", &[]),
            Err(NoteError::Signatures { found: 0 })
        ));
        let many: Vec<&dyn NoteSigner> = vec![&one; 101];
        assert!(matches!(
            Note::sign("text\n", &many),
            Err(NoteError::Signatures { found: 101 })
        ));
        let long = format!("{}\n", "x".repeat(NOTE_LEN_MAX));
        assert!(matches!(
            Note::sign(&long, &[&one]),
            Err(NoteError::Length { .. })
        ));
        let cosigner = Ed25519Signer::cosigner_from_seed("w", &[1; 32]).unwrap();
        assert!(matches!(
            Note::sign("text\n", &[&cosigner]),
            Err(NoteError::Algorithm { .. })
        ));
        let error = Note::sign("text\n", &[&Refuses(signer("one", 1))]).unwrap_err();
        let source = core::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), "the card is gone");
        assert_eq!(source.source().unwrap().to_string(), "no slot");
        // A wrong signature never leaves the process.
        let error = Note::sign("text\n", &[&Faulty(signer("one", 1))]);
        assert!(matches!(error, Err(NoteError::Signature { .. })));
    }

    #[test]
    fn a_verifier_key_is_read_as_written_and_no_other_way() {
        for key in [
            signer("example.com/log", 1).key,
            Ed25519Signer::cosigner_from_seed("w", &[2; 32])
                .unwrap()
                .key,
        ] {
            let vkey = key.to_string();
            assert_eq!(vkey.parse::<VerifierKey>().unwrap(), key);
            let (head, encoded) = vkey.rsplit_once('+').unwrap_or_else(|| panic!("{vkey}"));
            for other in [
                String::new(),
                "name".to_owned(),
                head.to_owned(),
                format!("{vkey} "),
                format!(" {vkey}"),
                format!("{vkey}AA=="),
                format!("x{vkey}"),
                format!("{head}+"),
                format!("{}+{encoded}", head.to_uppercase()),
                vkey.replace('+', "+ "),
            ] {
                assert!(other.parse::<VerifierKey>().is_err(), "{other:?}");
            }
        }
    }

    #[test]
    fn names_that_blur_a_line_are_refused() {
        let long = "x".repeat(NAME_LEN_MAX + 1);
        for name in [
            "",
            " ",
            "a b",
            "a+b",
            "a\nb",
            "a\u{a0}b",
            "a\u{3000}b",
            "a\u{2028}b",
            "a\u{0}b",
            &long,
        ] {
            let error = Ed25519Signer::from_seed(name, &[1; 32]).unwrap_err();
            assert!(
                matches!(error, NoteError::KeyName { .. }),
                "{name:?}: {error}"
            );
        }
        assert!(
            Ed25519Signer::from_seed("é—名", &[1; 32]).is_ok(),
            "any other character may be in a name"
        );
    }

    #[test]
    fn public_keys_that_are_no_or_weak_points_are_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        // The neutral point; with the sign of zero set; y = p + 1, its other encoding.
        let mut negative_zero = one;
        negative_zero[31] = 0x80;
        let mut above_p = [0xff; 32];
        (above_p[0], above_p[31]) = (0xee, 0x7f);
        // y = p + 3 is a point of large order in a non-canonical encoding.
        let mut large_order = above_p;
        large_order[0] = 0xf0;
        let mut off_curve = [0; 32];
        off_curve[0] = 2;
        for (key, reason) in [
            (one, "small order"),
            (negative_zero, "canonical"),
            (above_p, "canonical"),
            (large_order, "canonical"),
            (off_curve, "curve"),
        ] {
            let error = VerifierKey::ed25519("name", key).unwrap_err();
            assert!(
                matches!(error, NoteError::PublicKey { reason: found, .. } if found.contains(reason)),
                "{error}"
            );
        }
    }

    #[test]
    fn a_signer_does_not_show_its_secret() {
        let shown = format!("{:?}", signer("one", 0x5a));
        assert!(
            shown.contains("redacted") && !shown.contains("90, 90") && !shown.contains("5a5a"),
            "{shown}"
        );
    }
}
