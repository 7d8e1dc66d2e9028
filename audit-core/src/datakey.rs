//! Data keys and their wrapped records (`docs/format.md` §5).

use std::fmt;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::aead;
use crate::entry::KeyDigest;
use crate::error::{Error, Result};
use crate::hex::{Digest, Hex};
use crate::label::{label, lp};
use crate::secret::SecretKey;
use crate::time::IdSource;
use crate::token::Token;

/// Bytes of a wrapped data key: nonce, key, tag.
pub const WRAPPED_BYTES: usize = 60;

/// A data key, wrapped, as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Random.
    pub id: Uuid,
    /// The token of the shred scope.
    pub scope: Token,
    /// The writer run that made it.
    pub run: Uuid,
    /// Of the key-encryption key, from 1.
    pub generation: u32,
    /// The data key under the key-encryption key.
    pub wrapped: [u8; WRAPPED_BYTES],
}

impl fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRecord")
            .field("id", &self.id)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl KeyRecord {
    /// The digest by which an entry names this record.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        let mut hash = Sha256::new();
        hash.update(label("data-key-record"));
        hash.update(self.id.as_bytes());
        hash.update(self.scope.0);
        hash.update(self.run.as_bytes());
        hash.update(self.generation.to_be_bytes());
        hash.update(self.wrapped);
        let digest: Digest = Hex(hash.finalize().into());
        KeyDigest {
            digest,
            id: self.id,
        }
    }

    fn associated_data(&self, origin: &str) -> Vec<u8> {
        let mut ad = label("data-key");
        ad.extend_from_slice(&lp(origin.as_bytes()));
        ad.extend_from_slice(self.id.as_bytes());
        ad.extend_from_slice(&self.scope.0);
        ad.extend_from_slice(self.run.as_bytes());
        ad.extend_from_slice(&self.generation.to_be_bytes());
        ad
    }
}

/// A generation of the key-encryption key.
#[derive(Debug, Clone)]
pub struct WrappingKey {
    /// From 1.
    pub generation: u32,
    /// The key.
    pub key: SecretKey,
}

/// A data key in memory.
#[derive(Debug, Clone)]
pub struct DataKey {
    /// Its id.
    pub id: Uuid,
    pub(crate) key: SecretKey,
}

impl DataKey {
    /// A new data key for a scope and a run, and its record.
    #[must_use]
    pub fn create(
        origin: &str,
        scope: Token,
        run: Uuid,
        under: &WrappingKey,
        ids: &dyn IdSource,
    ) -> (Self, KeyRecord) {
        let key = Self {
            id: ids.uuid_v4(),
            key: SecretKey::random(ids),
        };
        let record = key.wrap(origin, scope, run, under, ids);
        (key, record)
    }

    /// This key's record under a key-encryption key.
    #[must_use]
    pub fn wrap(
        &self,
        origin: &str,
        scope: Token,
        run: Uuid,
        under: &WrappingKey,
        ids: &dyn IdSource,
    ) -> KeyRecord {
        let mut record = KeyRecord {
            id: self.id,
            scope,
            run,
            generation: under.generation,
            wrapped: [0; WRAPPED_BYTES],
        };
        let ad = record.associated_data(origin);
        let sealed = aead::seal(&under.key, &ad, self.key.expose().to_vec(), ids);
        record.wrapped.copy_from_slice(&sealed);
        record
    }

    /// Unwraps a record.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Key`](crate::ErrorKind::Key) if the key-encryption key isn't the one, or the record was changed.
    pub fn unwrap(origin: &str, record: &KeyRecord, under: &WrappingKey) -> Result<Self> {
        let failed = || {
            Error::key(format!(
                "data key {} doesn't open with generation {} of the key-encryption key",
                record.id, under.generation
            ))
        };
        if record.generation != under.generation {
            return Err(failed());
        }
        let plain = aead::open(&under.key, &record.associated_data(origin), &record.wrapped)
            .ok_or_else(failed)?;
        let bytes: &[u8; 32] = plain
            .as_slice()
            .try_into()
            .map_err(|e: std::array::TryFromSliceError| failed().because(e))?;
        Ok(Self {
            id: record.id,
            key: SecretKey::filled(|key| key.copy_from_slice(bytes)),
        })
    }
}
