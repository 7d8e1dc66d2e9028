//! What seals key files: Argon2id of a passphrase, then AES-256-GCM; and the strict JSON that they share.

use argon2::{Algorithm, Argon2, Params, Version};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::passphrase::Passphrase;
use crate::aead;
use crate::error::{Error, Result};
use crate::hex::Hex;
use crate::label::label;
use crate::secret::SecretKey;
use crate::time::IdSource;

/// The version of every key file.
pub(super) const VERSION: u64 = 1;

/// How a key file is protected.
#[derive(Debug)]
#[non_exhaustive]
pub enum Protection<'a> {
    /// By a passphrase of at least [`PASSPHRASE_BYTES_MIN`](super::PASSPHRASE_BYTES_MIN) bytes, stretched at this cost.
    Passphrase(&'a Passphrase, KdfCost),
    /// By nothing but the permissions of the place.
    None,
}

/// What a guess at a passphrase costs: Argon2id's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "Argon2 has these three costs")]
pub struct KdfCost {
    /// Memory, in KiB.
    pub m_kib: u32,
    /// Passes.
    pub t: u32,
    /// Lanes.
    pub p: u32,
}

impl KdfCost {
    /// 64 MiB and three passes: the second recommendation of RFC 9106 §4, with one lane, for this code runs one thread.
    pub const STANDARD: Self = Self {
        m_kib: 65_536,
        t: 3,
        p: 1,
    };

    /// The most that a file may ask for: 1 GiB, 16 passes, 4 lanes. It bounds what an attacker's file costs its reader.
    pub const MAX: Self = Self {
        m_kib: 1_048_576,
        t: 16,
        p: 4,
    };

    /// The least that RFC 9106 allows. A guess at it costs next to nothing: for tests only.
    pub const MIN: Self = Self {
        m_kib: 8,
        t: 1,
        p: 1,
    };

    fn check(self) -> Result<Params> {
        for (name, value, max) in [
            ("m_kib", self.m_kib, Self::MAX.m_kib),
            ("t", self.t, Self::MAX.t),
            ("p", self.p, Self::MAX.p),
        ] {
            if !(1..=max).contains(&value) {
                return Err(Error::key(format!(
                    "kdf.{name} is {value}, allowed are 1 to {max}"
                )));
            }
        }
        if self.m_kib < 8 * self.p {
            return Err(Error::key(format!(
                "kdf.m_kib is {}, with {} lanes at least {}",
                self.m_kib,
                self.p,
                8 * self.p
            )));
        }
        Params::new(self.m_kib, self.t, self.p, Some(32)).map_err(|e| {
            Error::key("kdf has costs that Argon2 doesn't allow").because(e.to_string())
        })
    }
}

/// The member `kdf`; which others there are follows from `name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kdf {
    #[serde(skip_serializing_if = "Option::is_none")]
    m_kib: Option<u32>,
    name: KdfName,
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    salt: Option<Hex<16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    t: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KdfName {
    Argon2id,
    None,
}

impl Kdf {
    pub(super) const NONE: Self = Self {
        m_kib: None,
        name: KdfName::None,
        p: None,
        salt: None,
        t: None,
    };

    fn argon2id(cost: KdfCost, ids: &dyn IdSource) -> Self {
        let mut salt = [0; 16];
        ids.fill(&mut salt);
        Self {
            m_kib: Some(cost.m_kib),
            name: KdfName::Argon2id,
            p: Some(cost.p),
            salt: Some(Hex(salt)),
            t: Some(cost.t),
        }
    }

    /// The salt and cost of Argon2id, or `None` for no passphrase.
    fn parameters(&self) -> Result<Option<(Hex<16>, KdfCost)>> {
        match (self.name, self.m_kib, self.p, self.salt, self.t) {
            (KdfName::None, None, None, None, None) => Ok(None),
            (KdfName::Argon2id, Some(m_kib), Some(p), Some(salt), Some(t)) => {
                Ok(Some((salt, KdfCost { m_kib, t, p })))
            }
            _ => Err(Error::key("members of kdf don't fit its name")),
        }
    }

    /// What a sealed file binds its content to.
    fn associated_data(&self, name: &str, bound: &[u8]) -> Result<Vec<u8>> {
        let mut ad = label(name);
        ad.extend_from_slice(&crate::canonical::to_vec(self)?);
        ad.extend_from_slice(bound);
        Ok(ad)
    }
}

fn stretch(passphrase: &Passphrase, salt: &Hex<16>, params: Params) -> Result<SecretKey> {
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.expose(), &salt.0, key.as_mut_slice())
        .map_err(|e| {
            Error::unavailable("the passphrase can't be stretched").because(e.to_string())
        })?;
    Ok(SecretKey::new(*key))
}

/// Seals `plain` as what `name` says, bound to `bound`; gives the member `kdf` and the sealed bytes.
pub(super) fn seal(
    name: &str,
    bound: &[u8],
    plain: &[u8],
    passphrase: &Passphrase,
    cost: KdfCost,
    ids: &dyn IdSource,
) -> Result<(Kdf, Vec<u8>)> {
    passphrase.check_new()?;
    let params = cost.check()?;
    let kdf = Kdf::argon2id(cost, ids);
    let Some((salt, _)) = kdf.parameters()? else {
        return Err(Error::key("a sealed file has a kdf"));
    };
    let key = stretch(passphrase, &salt, params)?;
    // The copy is encrypted where it stands, so nothing of it is left.
    let sealed = aead::seal(
        &key,
        &kdf.associated_data(name, bound)?,
        plain.to_vec(),
        ids,
    );
    Ok((kdf, sealed))
}

/// Whether a passphrase is needed; an error for a kdf that no reader takes.
pub(super) fn is_sealed(kdf: &Kdf) -> Result<bool> {
    match kdf.parameters()? {
        Some((_, cost)) => cost.check().map(|_| true),
        None => Ok(false),
    }
}

/// Opens what [`seal`] made; `what` names the file.
pub(super) fn open(
    name: &str,
    bound: &[u8],
    kdf: &Kdf,
    sealed: &[u8],
    passphrase: &Passphrase,
    what: &str,
) -> Result<Zeroizing<Vec<u8>>> {
    let Some((salt, cost)) = kdf.parameters()? else {
        return Err(Error::key(format!("{what} isn't sealed")));
    };
    let key = stretch(passphrase, &salt, cost.check()?)?;
    aead::open(&key, &kdf.associated_data(name, bound)?, sealed)
        .ok_or_else(|| Error::key(format!("passphrase doesn't open {what}")))
}

/// The canonical bytes of a key file. Its strings are hexadecimal, fixed words, and an origin of printable ASCII; its
/// members stand in the order of their names: what `serde_json` writes is then RFC 8785's, into a buffer that is wiped.
pub(super) fn encode<T: Serialize>(value: &T, bytes_max: usize) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(bytes_max));
    serde_json::to_writer(&mut *out, value)
        .expect("writing to memory, of types that JSON holds, can't fail");
    out
}

/// The member that says how to read the others.
#[derive(Deserialize)]
struct Versioned {
    v: u64,
}

/// Decodes a key file, strictly: its bytes must be the canonical ones of what they decode to.
///
/// Messages never repeat what was read, nor do they have the parser's error as their source: it quotes values, which are
/// secrets in this file.
pub(super) fn decode<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
    bytes_max: usize,
    what: &str,
) -> Result<T> {
    if bytes.len() > bytes_max {
        return Err(Error::key(format!(
            "{what} has {} bytes, allowed are {bytes_max}",
            bytes.len()
        )));
    }
    if let Ok(Versioned { v }) = serde_json::from_slice(bytes)
        && v != VERSION
    {
        return Err(Error::key(format!(
            "{what} has version {v}, this program reads {VERSION}"
        )));
    }
    let value: T = serde_json::from_slice(bytes).map_err(|e| {
        let why = match e.classify() {
            serde_json::error::Category::Data => "has wrong, missing or unknown members",
            serde_json::error::Category::Eof => "is cut off",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "is not JSON",
        };
        Error::key(format!("{what} {why}, at byte {}", e.column()))
    })?;
    if *encode(&value, bytes_max) == *bytes {
        Ok(value)
    } else {
        Err(Error::key(format!("{what} is not canonical JSON")))
    }
}

/// A [`SecretKey`] in hexadecimal, without a copy that isn't wiped.
#[derive(Debug, Clone)]
pub(super) struct SecretHex(pub(super) SecretKey);

const DIGITS: &[u8; 16] = b"0123456789abcdef";

impl Serialize for SecretHex {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut text = Zeroizing::new([0_u8; 64]);
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0.expose()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        serializer
            .serialize_str(std::str::from_utf8(text.as_slice()).expect("hexadecimal is ASCII"))
    }
}

impl<'de> Deserialize<'de> for SecretHex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = SecretHex;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("32 bytes in lower-case hexadecimal")
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> std::result::Result<SecretHex, E> {
                let digit = |b: u8| DIGITS.iter().position(|d| *d == b);
                let mut bytes = Zeroizing::new([0_u8; 32]);
                let wrong = || E::custom("not 64 lower-case hexadecimal digits");
                if v.len() != 64 {
                    return Err(wrong());
                }
                for (byte, pair) in bytes.iter_mut().zip(v.as_bytes().chunks_exact(2)) {
                    let value = digit(pair[0])
                        .zip(digit(pair[1]))
                        .and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
                    *byte = value.ok_or_else(wrong)?;
                }
                Ok(SecretHex(SecretKey::new(*bytes)))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// Secret bytes of any number in hexadecimal, without a copy that isn't wiped.
#[derive(Clone)]
pub(super) struct SecretBytesHex(pub(super) Zeroizing<Vec<u8>>);

impl Serialize for SecretBytesHex {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut text = Zeroizing::new(String::with_capacity(self.0.len() * 2));
        for byte in self.0.iter() {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for SecretBytesHex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = SecretBytesHex;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes in lower-case hexadecimal")
            }
            fn visit_str<E: serde::de::Error>(
                self,
                v: &str,
            ) -> std::result::Result<SecretBytesHex, E> {
                let digit = |b: u8| DIGITS.iter().position(|d| *d == b);
                let wrong = || E::custom("not pairs of lower-case hexadecimal digits");
                if !v.len().is_multiple_of(2) {
                    return Err(wrong());
                }
                let mut bytes = Zeroizing::new(Vec::with_capacity(v.len() / 2));
                for pair in v.as_bytes().chunks_exact(2) {
                    let value = digit(pair[0])
                        .zip(digit(pair[1]))
                        .and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
                    bytes.push(value.ok_or_else(wrong)?);
                }
                Ok(SecretBytesHex(bytes))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}
