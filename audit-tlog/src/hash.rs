//! RFC 6962 hashing: leaves and nodes are hashed with different prefixes, so neither can be passed off as the other.

use core::fmt;

use sha2::{Digest as _, Sha256};

use crate::encoding;

/// Prefix of a hashed leaf (RFC 9162 §2.1.1).
const LEAF_PREFIX: [u8; 1] = [0];
/// Prefix of a hashed inner node (RFC 9162 §2.1.1).
const NODE_PREFIX: [u8; 1] = [1];

/// A SHA-256 value of the Merkle tree: a leaf hash, the hash of an inner node, or a root hash.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Ord, PartialOrd)]
pub struct Hash([u8; Self::LEN]);

impl Hash {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Wraps the bytes of a hash.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Standard base64 with padding, as in checkpoints and proofs.
    #[must_use]
    pub fn to_base64(&self) -> String {
        encoding::base64_encode(&self.0)
    }

    /// Reads what [`Hash::to_base64`] writes, and no other spelling.
    pub fn from_base64(text: &str) -> Result<Self, HashError> {
        let bytes = encoding::base64_decode(text).ok_or_else(|| HashError::Base64 {
            text: encoding::excerpt(text),
        })?;
        Self::try_from(bytes.as_slice())
    }

    /// Reads 64 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self, HashError> {
        let malformed = || HashError::Hex {
            text: encoding::excerpt(text),
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return Err(malformed());
        };
        if pairs.len() != Self::LEN {
            return Err(malformed());
        }
        let mut bytes = [0; Self::LEN];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = hex_digit(*high).ok_or_else(malformed)? << 4
                | hex_digit(*low).ok_or_else(malformed)?;
        }
        Ok(Self(bytes))
    }
}

impl From<[u8; Self::LEN]> for Hash {
    fn from(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }
}

impl AsRef<[u8]> for Hash {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Hash {
    type Error = HashError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        match bytes.try_into() {
            Ok(bytes) => Ok(Self(bytes)),
            Err(_) => Err(HashError::Length { found: bytes.len() }),
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a hash could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HashError {
    /// Not 32 bytes.
    Length {
        /// The bytes there were.
        found: usize,
    },
    /// Not 64 lower-case hexadecimal digits.
    Hex {
        /// What stood there, shortened.
        text: String,
    },
    /// Not canonical standard base64.
    Base64 {
        /// What stood there, shortened.
        text: String,
    },
}

impl fmt::Display for HashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { found } => write!(f, "hash has {found} bytes, must have {}", Hash::LEN),
            Self::Hex { text } => write!(
                f,
                "hash `{text}` is not {} lower-case hexadecimal digits",
                2 * Hash::LEN
            ),
            Self::Base64 { text } => write!(f, "hash `{text}` is not canonical standard base64"),
        }
    }
}

impl core::error::Error for HashError {}

/// The hash of a leaf: `SHA-256(0x00 || entry)`.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Hash(
        Sha256::new()
            .chain_update(LEAF_PREFIX)
            .chain_update(entry)
            .finalize()
            .into(),
    )
}

/// The hash of an inner node: `SHA-256(0x01 || left || right)`.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash(
        Sha256::new()
            .chain_update(NODE_PREFIX)
            .chain_update(left.0)
            .chain_update(right.0)
            .finalize()
            .into(),
    )
}

/// The root hash of the tree without leaves: `SHA-256("")`.
#[must_use]
pub fn empty_root() -> Hash {
    Hash(Sha256::new().finalize().into())
}

/// The root hash over leaf hashes, by the recursion of RFC 9162 §2.1.1.
///
/// Needs all leaves at once: for small sets, and as the reference that faster ways are tested against.
#[must_use]
pub fn root_of(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            // The largest power of two below the length.
            let (left, right) = leaves.split_at(leaves.len().div_ceil(2).next_power_of_two());
            node_hash(&root_of(left), &root_of(right))
        }
    }
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_the_largest_power_of_two_below_the_length() {
        for (len, split) in [
            (2_usize, 1_usize),
            (3, 2),
            (4, 2),
            (5, 4),
            (7, 4),
            (8, 4),
            (9, 8),
            (255, 128),
            (256, 128),
            (257, 256),
        ] {
            assert_eq!(len.div_ceil(2).next_power_of_two(), split, "length {len}");
        }
    }

    #[test]
    fn a_hash_is_written_and_read_in_hex_and_base64() {
        let hash = leaf_hash(b"");
        assert_eq!(
            hash.to_string(),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        assert_eq!(format!("{hash:?}"), hash.to_string());
        assert_eq!(Hash::from_hex(&hash.to_string()), Ok(hash));
        assert_eq!(Hash::from_base64(&hash.to_base64()), Ok(hash));
        assert_eq!(Hash::try_from(hash.as_bytes().as_slice()), Ok(hash));
    }

    #[test]
    fn malformed_hashes_are_refused() {
        let hex = leaf_hash(b"").to_string();
        for text in [
            "",
            "0",
            &hex.to_uppercase(),
            &hex.replace('a', "g"),
            &format!("{hex}00"),
            hex.get(2..).unwrap(),
        ] {
            assert!(
                matches!(Hash::from_hex(text), Err(HashError::Hex { .. })),
                "{text}"
            );
        }
        assert_eq!(
            Hash::from_base64("AQ=="),
            Err(HashError::Length { found: 1 })
        );
        assert!(matches!(
            Hash::from_base64("?"),
            Err(HashError::Base64 { .. })
        ));
        assert_eq!(
            Hash::try_from([0; 33].as_slice()),
            Err(HashError::Length { found: 33 })
        );
    }
}
