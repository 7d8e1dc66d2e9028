//! Tokens: keyed hashes by which events are found (`docs/format.md` §6).

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::entry::TokenDigest;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::hex::{Digest, Hex};
use crate::label::{label, label_parts, lp};
use crate::secret::SecretKey;

/// A keyed hash of a field and its value.
pub type Token = Hex<16>;

/// The tokens of one entry, with the salt of their hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSet {
    /// Keeps the hash from being tested against guesses once it is deleted.
    pub salt: Hex<16>,
    /// Sorted, without repetition, not empty.
    pub tokens: Vec<Token>,
}

/// The key that makes tokens.
#[derive(Debug, Clone)]
pub struct IndexKey(SecretKey);

impl IndexKey {
    /// From the log's key ring.
    #[must_use]
    pub fn new(key: SecretKey) -> Self {
        Self(key)
    }

    /// The token of a field's value.
    #[must_use]
    pub fn token(&self, field: &str, value: &str) -> Token {
        Hex(first_16(self.mac("token", field, value.as_bytes())))
    }

    /// The token of a shred scope; `run:RUN` where an event has neither subject nor session.
    #[must_use]
    pub fn scope(&self, scope: &str) -> Token {
        self.token("scope", scope)
    }

    /// A keyed hash of something that must never be stored itself, so that its use can be shown later.
    #[must_use]
    pub fn fingerprint(&self, what: &str, secret: &[u8]) -> Digest {
        Hex(self.mac("fingerprint", what, secret))
    }

    /// Stands for a value of a tenant that is not recorded: equal values have equal pseudonyms (`docs/format.md` §13).
    ///
    /// `tenant` and `what` have at most 256 bytes.
    #[must_use]
    pub fn pseudonym(&self, tenant: &str, what: &str, value: &[u8]) -> Hex<16> {
        let mut mac = self.keyed();
        for part in label_parts("pseudonym") {
            mac.update(part);
        }
        mac.update(&lp(tenant.as_bytes()));
        mac.update(&lp(what.as_bytes()));
        mac.update(value);
        Hex(first_16(mac.finalize().into_bytes().into()))
    }

    /// The salt of the commitment to what a field of an event was before it was changed (`docs/format.md` §13).
    #[must_use]
    pub fn redaction_salt(&self, event: Uuid, field: &str) -> Digest {
        let mut mac = self.keyed();
        for part in label_parts("redaction-salt") {
            mac.update(part);
        }
        mac.update(event.as_bytes());
        mac.update(field.as_bytes());
        Hex(mac.finalize().into_bytes().into())
    }

    /// Seals what waits outside of the log (`docs/format.md` §14).
    #[cfg(feature = "log")]
    pub(crate) fn aside_key(&self) -> SecretKey {
        let mut mac = self.keyed();
        for part in label_parts("set-aside-key") {
            mac.update(part);
        }
        SecretKey::new(mac.finalize().into_bytes().into())
    }

    /// The tokens of an event; `None` if it has none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for more than an entry may have.
    pub fn tokens(&self, event: &Event) -> Result<Option<Vec<Token>>> {
        let keyed = self.keyed();
        let mut tokens: Vec<Token> = event
            .searchable()
            .map(|(field, value)| Hex(first_16(mac(&keyed, "token", &field, value.as_bytes()))))
            .collect();
        tokens.sort_unstable();
        tokens.dedup();
        if tokens.len() as u64 > crate::entry::TOKENS_MAX {
            return Err(Error::invalid(format!(
                "{} tokens, allowed are {}",
                tokens.len(),
                crate::entry::TOKENS_MAX
            )));
        }
        Ok((!tokens.is_empty()).then_some(tokens))
    }

    fn mac(&self, name: &str, field: &str, value: &[u8]) -> [u8; 32] {
        mac(&self.keyed(), name, field, value)
    }

    /// The state behind the key, which is half of what a short token costs.
    fn keyed(&self) -> Hmac<Sha256> {
        Hmac::new_from_slice(self.0.expose()).expect("HMAC takes a key of any length")
    }
}

fn mac(keyed: &Hmac<Sha256>, name: &str, field: &str, value: &[u8]) -> [u8; 32] {
    let mut mac = keyed.clone();
    for part in label_parts(name) {
        mac.update(part);
    }
    mac.update(&lp(field.as_bytes()));
    mac.update(value);
    mac.finalize().into_bytes().into()
}

fn first_16(bytes: [u8; 32]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&bytes[..16]);
    out
}

impl TokenSet {
    /// What an entry says of these tokens.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        let mut hash = Sha256::new();
        hash.update(label("tokens"));
        hash.update(self.salt.0);
        let count = u32::try_from(self.tokens.len()).unwrap_or(u32::MAX);
        hash.update(count.to_be_bytes());
        for token in &self.tokens {
            hash.update(token.0);
        }
        TokenDigest {
            count: u64::from(count),
            hash: Hex(hash.finalize().into()),
        }
    }
}
