//! Key rings in files and in the operating system's secret service.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::envelope::{self, Kdf, Protection, SecretHex, VERSION};
use super::file::{self, Permissions};
use super::passphrase::PassphraseSource;
use super::uri::KeyUri;
use super::{KeyRing, Parts, service};
use crate::chain::AuditorPublicKey;
use crate::datakey::WrappingKey;
use crate::error::{Error, Result};
use crate::hex::{self, Digest};
use crate::secret::SecretKey;
use crate::signer::SoftwareSigner;
use crate::time::IdSource;

/// Bytes of a key ring file. A ring of [`GENERATIONS_MAX`](super::GENERATIONS_MAX) has at most 25,300: 256 times 95 for
/// the generations, less than 1,000 for the rest; sealed and in hexadecimal that is less than 51,000.
pub const RING_BYTES_MAX: usize = 65_536;

const SEALED_AS: &str = "key-ring";

// Members stand in the order of their names, as canonical JSON has them.

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ring {
    auditor: Digest,
    index: SecretHex,
    origin: String,
    publisher: SecretHex,
    report: SecretHex,
    v: u64,
    wrapping: Vec<Generation>,
    writer: SecretHex,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Generation {
    generation: u32,
    key: SecretHex,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingFile {
    kdf: Kdf,
    #[serde(skip_serializing_if = "Option::is_none")]
    ring: Option<Ring>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
    v: u64,
}

impl Ring {
    fn of(ring: &KeyRing) -> Self {
        let seed = |s: &Arc<SoftwareSigner>| SecretHex(SecretKey::new(*s.seed()));
        Self {
            auditor: ring.auditor.0,
            index: SecretHex(ring.index.clone()),
            origin: ring.origin.clone(),
            publisher: seed(&ring.publisher),
            report: seed(&ring.report),
            v: VERSION,
            wrapping: ring
                .wrapping
                .iter()
                .map(|w| Generation {
                    generation: w.generation,
                    key: SecretHex(w.key.clone()),
                })
                .collect(),
            writer: seed(&ring.writer),
        }
    }

    fn into_key_ring(self, what: &str) -> Result<KeyRing> {
        check_version(self.v, what)?;
        let parts = Parts {
            origin: self.origin,
            publisher: self.publisher.0,
            writer: self.writer.0,
            report: self.report.0,
            index: self.index.0,
            wrapping: self
                .wrapping
                .into_iter()
                .map(|g| WrappingKey {
                    generation: g.generation,
                    key: g.key.0,
                })
                .collect(),
            auditor: AuditorPublicKey(self.auditor),
        };
        KeyRing::from_parts(parts)
            .map_err(|e| Error::key(format!("{what} can't be used")).because(e))
    }
}

fn check_version(v: u64, what: &str) -> Result<()> {
    if v == VERSION {
        Ok(())
    } else {
        Err(Error::key(format!(
            "{what} has version {v}, this program reads {VERSION}"
        )))
    }
}

impl KeyRing {
    /// Reads the ring at `uri`; `passphrases` is asked only if it is sealed.
    ///
    /// # Errors
    ///
    /// `Key`: it isn't there, others may read it, it is malformed, or the passphrase doesn't open it.
    /// `Unavailable`: the operating system's secret service, or memory, can't be had at the moment.
    pub fn load(uri: &KeyUri, passphrases: &dyn PassphraseSource) -> Result<Self> {
        let what = uri.what();
        match uri {
            KeyUri::File(path) => {
                let bytes = file::read(path, &what, RING_BYTES_MAX, Permissions::OwnerOnly)?;
                from_file_bytes(&bytes, passphrases, &what)
            }
            KeyUri::Env(name) => {
                let value = passphrases
                    .variable(name)
                    .ok_or_else(|| Error::key(format!("{what} isn't there")))?;
                let bytes = Zeroizing::new(value.into_encoded_bytes());
                from_file_bytes(&bytes, passphrases, &what)
            }
            KeyUri::Keyring(name) => {
                let bytes = service::read(name, &what)?;
                let ring: Ring = envelope::decode(&bytes, RING_BYTES_MAX, &what)?;
                ring.into_key_ring(&what)
            }
        }
    }

    /// Writes this ring to a place where none is yet. A ring that is there is never overwritten.
    ///
    /// # Errors
    ///
    /// `Invalid`: there is a ring already, the passphrase is too short, or the place takes no ring so protected.
    /// `Unavailable`: nothing was written.
    pub fn store_new(
        &self,
        uri: &KeyUri,
        protection: &Protection<'_>,
        ids: &dyn IdSource,
    ) -> Result<()> {
        let what = uri.what();
        match (uri, protection) {
            (KeyUri::File(path), _) => {
                let bytes = self.to_file_bytes(protection, ids)?;
                file::create(path, &what, &bytes, Permissions::OwnerOnly)
            }
            (KeyUri::Keyring(name), Protection::None) => {
                let ring = envelope::encode(&Ring::of(self), RING_BYTES_MAX);
                service::create(name, &what, &ring)
            }
            // Taking the passphrase and not using it would be a silent surprise.
            (KeyUri::Keyring(_), Protection::Passphrase(..)) => Err(Error::invalid(format!(
                "{what} takes no passphrase: the operating system's secret service seals it"
            ))),
            (KeyUri::Env(_), _) => Err(Error::invalid(format!("{what} can only be read"))),
        }
    }

    /// The bytes of a ring file.
    ///
    /// # Errors
    ///
    /// As [`store_new`](Self::store_new).
    pub fn to_file_bytes(
        &self,
        protection: &Protection<'_>,
        ids: &dyn IdSource,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let ring = Ring::of(self);
        let file = match protection {
            Protection::None => RingFile {
                kdf: Kdf::NONE,
                ring: Some(ring),
                sealed: None,
                v: VERSION,
            },
            Protection::Passphrase(passphrase, cost) => {
                let plain = envelope::encode(&ring, RING_BYTES_MAX);
                let (kdf, sealed) = envelope::seal(SEALED_AS, &[], &plain, passphrase, *cost, ids)?;
                RingFile {
                    kdf,
                    ring: None,
                    sealed: Some(hex::encode(&sealed)),
                    v: VERSION,
                }
            }
        };
        Ok(envelope::encode(&file, RING_BYTES_MAX))
    }
}

fn from_file_bytes(
    bytes: &[u8],
    passphrases: &dyn PassphraseSource,
    what: &str,
) -> Result<KeyRing> {
    let file: RingFile = envelope::decode(bytes, RING_BYTES_MAX, what)?;
    check_version(file.v, what)?;
    let in_file = |e: Error| Error::key(format!("{what} can't be used")).because(e);
    match (
        envelope::is_sealed(&file.kdf).map_err(in_file)?,
        file.ring,
        file.sealed,
    ) {
        (false, Some(ring), None) => ring.into_key_ring(what),
        (true, None, Some(sealed)) => {
            let sealed = hex::decode(&sealed).map_err(in_file)?;
            let passphrase = passphrases.passphrase(what)?;
            let plain = envelope::open(SEALED_AS, &[], &file.kdf, &sealed, &passphrase, what)?;
            let ring: Ring = envelope::decode(&plain, RING_BYTES_MAX, what)?;
            ring.into_key_ring(what)
        }
        _ => Err(Error::key(format!(
            "{what} has members that don't fit its kdf"
        ))),
    }
}
