//! The auditor's key files.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::envelope::{self, Kdf, Protection, SecretHex, VERSION};
use super::file::{self, Permissions};
use super::passphrase::PassphraseSource;
use crate::chain::{AuditorKey, AuditorPublicKey};
use crate::error::{Error, Result};
use crate::hex::{Digest, Hex};
use crate::secret::SecretKey;
use crate::time::IdSource;

/// Bytes of an auditor key file, which has some 600 at most.
pub const AUDITOR_FILE_BYTES_MAX: usize = 4096;

const SEALED_AS: &str = "auditor-private";

/// Reads and writes the auditor's key files: the private half, which the auditor keeps, and the public half, which a
/// log is made with.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct AuditorKeyFile;

// Members stand in the order of their names, as canonical JSON has them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    #[serde(skip_serializing_if = "Option::is_none")]
    kdf: Option<Kdf>,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    private: Option<SecretHex>,
    public: Digest,
    /// Nonce, private key, tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<Hex<60>>,
    v: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "auditor-private")]
    Private,
    #[serde(rename = "auditor-public")]
    Public,
}

/// What a file holds, once its members fit together.
enum Content {
    Public(AuditorPublicKey),
    Private(AuditorKey),
    Sealed(AuditorPublicKey, Kdf, Hex<60>),
}

fn what(path: &Path) -> String {
    format!("auditor key file {}", path.display())
}

/// Who may read it is looked at when it is known which half it holds.
fn read(path: &Path) -> Result<Content> {
    let what = what(path);
    let bytes = file::read(path, &what, AUDITOR_FILE_BYTES_MAX, Permissions::Any)?;
    let members: Members = envelope::decode(&bytes, AUDITOR_FILE_BYTES_MAX, &what)?;
    if members.v != VERSION {
        return Err(Error::key(format!(
            "{what} has version {}, this program reads {VERSION}",
            members.v
        )));
    }
    let public = AuditorPublicKey(members.public);
    match (members.kind, members.kdf, members.private, members.sealed) {
        (Kind::Public, None, None, None) => Ok(Content::Public(public)),
        (Kind::Private, None, Some(private), None) => {
            matching(private.0, public, &what).map(Content::Private)
        }
        (Kind::Private, Some(kdf), None, Some(sealed)) => match envelope::is_sealed(&kdf) {
            Ok(true) => Ok(Content::Sealed(public, kdf, sealed)),
            Ok(false) => Err(Error::key(format!("{what} is sealed without a kdf"))),
            Err(e) => Err(Error::key(format!("{what} can't be used")).because(e)),
        },
        _ => Err(Error::key(format!(
            "{what} has members that don't fit its kind"
        ))),
    }
}

/// A private key whose public half is the one that the file shows: else a log would be made with a key that opens
/// nothing.
fn matching(private: SecretKey, public: AuditorPublicKey, what: &str) -> Result<AuditorKey> {
    let key = AuditorKey::new(private);
    if key.public() == public {
        Ok(key)
    } else {
        Err(Error::key(format!(
            "{what} holds a private and a public key that don't belong together"
        )))
    }
}

impl AuditorKeyFile {
    /// Reads the private key; `passphrases` is asked only if it is sealed.
    ///
    /// # Errors
    ///
    /// `Key`: it isn't there, others may read it, it is malformed, holds only the public half, or the passphrase
    /// doesn't open it.
    pub fn load_private(path: &Path, passphrases: &dyn PassphraseSource) -> Result<AuditorKey> {
        let what = what(path);
        let content = read(path)?;
        if !matches!(content, Content::Public(_)) {
            file::check_owner_only(path, &what)?;
        }
        match content {
            Content::Private(key) => Ok(key),
            Content::Public(_) => Err(Error::key(format!(
                "{what} holds the public half only, needed is the private one"
            ))),
            Content::Sealed(public, kdf, sealed) => {
                let passphrase = passphrases.passphrase(&what)?;
                let plain =
                    envelope::open(SEALED_AS, &public.0.0, &kdf, &sealed.0, &passphrase, &what)?;
                let bytes: &[u8; 32] = plain.as_slice().try_into().map_err(|e| {
                    Error::key(format!("{what} seals {} bytes, not 32", plain.len())).because(e)
                })?;
                matching(SecretKey::new(*bytes), public, &what)
            }
        }
    }

    /// Reads the public key, from a file of either half. Nothing is opened, so nothing is asked for.
    ///
    /// # Errors
    ///
    /// `Key`: it isn't there or is malformed, or it holds the private half and others may read it.
    pub fn load_public(path: &Path) -> Result<AuditorPublicKey> {
        match read(path)? {
            Content::Public(public) | Content::Sealed(public, ..) => Ok(public),
            Content::Private(key) => {
                // A private key that others may read must not go unnoticed.
                file::check_owner_only(path, &what(path))?;
                Ok(key.public())
            }
        }
    }

    /// Writes a new file with both halves, for its owner alone.
    ///
    /// # Errors
    ///
    /// `Invalid`: there is a file already, or the passphrase is too short. `Unavailable`: nothing was written.
    pub fn write_private(
        path: &Path,
        key: &AuditorKey,
        protection: &Protection<'_>,
        ids: &dyn IdSource,
    ) -> Result<()> {
        let public = key.public();
        let (kdf, private, sealed) = match protection {
            Protection::None => (None, Some(SecretHex(key.expose().clone())), None),
            Protection::Passphrase(passphrase, cost) => {
                let (kdf, sealed) = envelope::seal(
                    SEALED_AS,
                    &public.0.0,
                    key.expose().expose(),
                    passphrase,
                    *cost,
                    ids,
                )?;
                let sealed: [u8; 60] = sealed
                    .try_into()
                    .expect("32 bytes, a nonce of 12 and a tag of 16 are 60");
                (Some(kdf), None, Some(Hex(sealed)))
            }
        };
        let members = Members {
            kdf,
            kind: Kind::Private,
            private,
            public: public.0,
            sealed,
            v: VERSION,
        };
        let bytes = envelope::encode(&members, AUDITOR_FILE_BYTES_MAX);
        file::create(path, &what(path), &bytes, Permissions::OwnerOnly)
    }

    /// Writes a new file with the public half, readable by all.
    ///
    /// # Errors
    ///
    /// `Invalid`: there is a file already. `Unavailable`: nothing was written.
    pub fn write_public(path: &Path, public: AuditorPublicKey) -> Result<()> {
        let members = Members {
            kdf: None,
            kind: Kind::Public,
            private: None,
            public: public.0,
            sealed: None,
            v: VERSION,
        };
        let bytes = envelope::encode(&members, AUDITOR_FILE_BYTES_MAX);
        file::create(path, &what(path), &bytes, Permissions::Any)
    }
}
