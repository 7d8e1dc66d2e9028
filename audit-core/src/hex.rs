//! Fixed-size byte strings that are written as lower-case hexadecimal.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

/// `N` bytes, written as `2 * N` lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hex<const N: usize>(pub [u8; N]);

/// A SHA-256 digest or another public 32-byte value.
pub type Digest = Hex<32>;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// `bytes` in lower-case hexadecimal.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len() * 2);
    encode_into(bytes, &mut out);
    String::from_utf8(out).expect("hexadecimal digits are ASCII")
}

/// Appends `bytes` in lower-case hexadecimal.
pub(crate) fn encode_into(bytes: &[u8], out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + 2 * bytes.len(), 0);
    for (pair, b) in out[at..].chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(b >> 4)];
        pair[1] = DIGITS[usize::from(b & 15)];
    }
}

/// The bytes that `text` writes; lower case only.
///
/// # Errors
///
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an odd length or another character.
pub fn decode(text: &str) -> Result<Vec<u8>> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(2) {
        return Err(Error::invalid(format!(
            "an odd number ({}) of hexadecimal digits",
            bytes.len()
        )));
    }
    let mut out = vec![0; bytes.len() / 2];
    if decode_into(bytes, &mut out) {
        Ok(out)
    } else {
        Err(not_a_digit())
    }
}

fn not_a_digit() -> Error {
    Error::invalid("a character that is not a lower-case hexadecimal digit")
}

/// The value of each digit; 255 for every other byte.
const VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut i = 0_u8;
    while i < 16 {
        values[DIGITS[i as usize] as usize] = i;
        i += 1;
    }
    values
};

/// Decodes twice as many digits as `out` has bytes; `false` if one of them is none. Most of an entry is hexadecimal, so
/// this is what decoding costs.
pub(crate) fn decode_into(digits: &[u8], out: &mut [u8]) -> bool {
    let mut wrong = 0;
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
        wrong |= high | low;
        *byte = high << 4 | low & 15;
    }
    // The values of digits are below 16.
    digits.len() == 2 * out.len() && wrong < 16
}

impl<const N: usize> Hex<N> {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }

    /// Parses exactly `2 * N` lower-case digits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for another length or character.
    pub fn parse(text: &str) -> Result<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * N {
            return Err(Error::invalid(format!(
                "{} digits of hexadecimal, expected {}",
                digits.len(),
                2 * N
            )));
        }
        let mut out = [0; N];
        if decode_into(digits, &mut out) {
            Ok(Self(out))
        } else {
            Err(not_a_digit())
        }
    }
}

impl<const N: usize> From<[u8; N]> for Hex<N> {
    fn from(bytes: [u8; N]) -> Self {
        Self(bytes)
    }
}

impl From<audit_tlog::Hash> for Digest {
    fn from(hash: audit_tlog::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl From<Digest> for audit_tlog::Hash {
    fn from(digest: Digest) -> Self {
        Self::from_bytes(digest.0)
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Visitor<const N: usize>;
        impl<const N: usize> serde::de::Visitor<'_> for Visitor<N> {
            type Value = Hex<N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{N} bytes in lower-case hexadecimal")
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> std::result::Result<Hex<N>, E> {
                Hex::parse(v).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_case_and_wrong_lengths_are_refused() {
        assert_eq!(Hex::<2>::parse("0aff").unwrap().0, [10, 255]);
        for bad in ["0AFF", "0af", "0aff00", "", "0g00", "é00"] {
            assert!(Hex::<2>::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
