//! The file with the key of the certificate authority that stands in for providers' hosts (`docs/format.md` §10).

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::envelope::{self, Kdf, Protection, SecretBytesHex, VERSION};
use super::file::{self, Permissions};
use super::passphrase::PassphraseSource;
use crate::canonical;
use crate::entry::check_origin;
use crate::error::{Error, Result};
use crate::hex;
use crate::time::{IdSource, Timestamp};

/// Bytes of a CA key file. 1,024 hosts of 253 bytes would be more, and are no list that anybody keeps.
pub const CA_FILE_BYTES_MAX: usize = 131_072;

const SEALED_AS: &str = "intercept-ca";
const CERTIFICATE_BYTES_MAX: usize = 16_384;
const PRIVATE_BYTES_MAX: usize = 4096;
const HOSTS_MAX: usize = 1024;
const HOST_BYTES_MAX: usize = 253;
const NAME_BYTES_MAX: usize = 64;

/// A certificate authority: what it may issue, and the key that does it. The key is wiped on drop and never printed.
///
/// This crate knows no certificates: what is in `certificate` and `private` is for whoever issues with them.
#[derive(Clone)]
#[expect(
    clippy::exhaustive_structs,
    reason = "it is a file's content; another member is another version of the format"
)]
pub struct CaKey {
    /// The log for which it was made.
    pub origin: String,
    /// The certificate's common name.
    pub name: String,
    /// The only hosts for which it may issue certificates.
    pub hosts: Vec<String>,
    /// When the certificate ends.
    pub not_after: Timestamp,
    /// X.509, DER.
    pub certificate: Vec<u8>,
    /// PKCS #8, DER.
    pub private: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaKey")
            .field("origin", &self.origin)
            .field("name", &self.name)
            .field("hosts", &self.hosts)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What anybody who has the file can read of an authority, without its passphrase; nothing vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaPublic {
    /// The log for which it was made.
    pub origin: String,
    /// The certificate's common name.
    pub name: String,
    /// The only hosts for which it may issue certificates.
    pub hosts: Vec<String>,
    /// When the certificate ends.
    pub not_after: Timestamp,
    /// X.509, DER.
    pub certificate: Vec<u8>,
}

/// Reads and writes the file of a certificate authority.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CaKeyFile;

// Members stand in the order of their names, as canonical JSON has them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    certificate: String,
    hosts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kdf: Option<Kdf>,
    kind: Kind,
    name: String,
    not_after: String,
    origin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    private: Option<SecretBytesHex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
    v: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "intercept-ca")]
    InterceptCa,
}

/// What a sealed key is bound to: the file's members that anybody can read, so that none can be changed.
#[derive(Serialize)]
struct Public<'a> {
    certificate: &'a str,
    hosts: &'a [String],
    name: &'a str,
    not_after: &'a str,
    origin: &'a str,
}

impl Members {
    fn bound(&self) -> Result<Vec<u8>> {
        canonical::to_vec(&Public {
            certificate: &self.certificate,
            hosts: &self.hosts,
            name: &self.name,
            not_after: &self.not_after,
            origin: &self.origin,
        })
    }

    /// Everything but the private key, checked.
    fn public(&self) -> Result<(Vec<u8>, Timestamp)> {
        check_origin(&self.origin)?;
        let name = self.name.as_bytes();
        if !(1..=NAME_BYTES_MAX).contains(&name.len())
            || !name.iter().all(|b| (0x20..0x7f).contains(b))
        {
            return Err(Error::key(format!(
                "name is not 1 to {NAME_BYTES_MAX} printable ASCII characters"
            )));
        }
        if !(1..=HOSTS_MAX).contains(&self.hosts.len()) {
            return Err(Error::key(format!(
                "hosts are {}, allowed are 1 to {HOSTS_MAX}",
                self.hosts.len()
            )));
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-*:".contains(&b);
        for (at, host) in self.hosts.iter().enumerate() {
            if !(1..=HOST_BYTES_MAX).contains(&host.len()) || !host.bytes().all(plain) {
                return Err(Error::key(format!(
                    "host {at} is not 1 to {HOST_BYTES_MAX} characters of a-z 0-9 . - * :"
                )));
            }
        }
        if !self.hosts.is_sorted_by(|a, b| a < b) {
            return Err(Error::key("hosts are not in order, or one stands twice"));
        }
        let not_after = Timestamp::parse(&self.not_after)?;
        let certificate = hex::decode(&self.certificate)?;
        check_length("certificate", certificate.len(), CERTIFICATE_BYTES_MAX)?;
        Ok((certificate, not_after))
    }
}

fn check_length(what: &str, bytes: usize, bytes_max: usize) -> Result<()> {
    if (1..=bytes_max).contains(&bytes) {
        Ok(())
    } else {
        Err(Error::key(format!(
            "{what} has {bytes} bytes, allowed are 1 to {bytes_max}"
        )))
    }
}

fn what(path: &Path) -> String {
    format!("CA key file {}", path.display())
}

impl CaKeyFile {
    /// Reads the authority; `passphrases` is asked only if its key is sealed.
    ///
    /// # Errors
    ///
    /// `Key`: it isn't there, others may read it, it is malformed, or the passphrase doesn't open it.
    pub fn load(path: &Path, passphrases: &dyn PassphraseSource) -> Result<CaKey> {
        let what = what(path);
        let bytes = file::read(path, &what, CA_FILE_BYTES_MAX, Permissions::OwnerOnly)?;
        let members: Members = envelope::decode(&bytes, CA_FILE_BYTES_MAX, &what)?;
        let in_file = |e: Error| Error::key(format!("{what} can't be used")).because(e);
        let (certificate, not_after) = members.public().map_err(in_file)?;
        let private = match (&members.kdf, &members.private, &members.sealed) {
            (None, Some(private), None) => private.0.clone(),
            (Some(kdf), None, Some(sealed)) if envelope::is_sealed(kdf).map_err(in_file)? => {
                let sealed = hex::decode(sealed).map_err(in_file)?;
                let passphrase = passphrases.passphrase(&what)?;
                let bound = members.bound().map_err(in_file)?;
                envelope::open(SEALED_AS, &bound, kdf, &sealed, &passphrase, &what)?
            }
            _ => {
                return Err(Error::key(format!(
                    "{what} has members that don't fit its kdf"
                )));
            }
        };
        check_length("private", private.len(), PRIVATE_BYTES_MAX).map_err(in_file)?;
        Ok(CaKey {
            origin: members.origin,
            name: members.name,
            hosts: members.hosts,
            not_after,
            certificate,
            private,
        })
    }

    /// Reads what is not secret; nothing is opened, so nothing is asked for. A file that was changed shows only when it is
    /// [loaded](Self::load).
    ///
    /// # Errors
    ///
    /// `Key`: it isn't there, others may read it, or it is malformed.
    pub fn load_public(path: &Path) -> Result<CaPublic> {
        let what = what(path);
        let bytes = file::read(path, &what, CA_FILE_BYTES_MAX, Permissions::OwnerOnly)?;
        let members: Members = envelope::decode(&bytes, CA_FILE_BYTES_MAX, &what)?;
        let (certificate, not_after) = members
            .public()
            .map_err(|e| Error::key(format!("{what} can't be used")).because(e))?;
        Ok(CaPublic {
            origin: members.origin,
            name: members.name,
            hosts: members.hosts,
            not_after,
            certificate,
        })
    }

    /// Writes a new file, for its owner alone. One that is there is never overwritten.
    ///
    /// # Errors
    ///
    /// `Invalid`: there is a file already, or the passphrase is too short. `Key`: the authority breaks a rule of the
    /// format. `Unavailable`: nothing was written.
    pub fn create(
        path: &Path,
        key: &CaKey,
        protection: &Protection<'_>,
        ids: &dyn IdSource,
    ) -> Result<()> {
        let mut hosts = key.hosts.clone();
        hosts.sort_unstable();
        hosts.dedup();
        let mut members = Members {
            certificate: hex::encode(&key.certificate),
            hosts,
            kdf: None,
            kind: Kind::InterceptCa,
            name: key.name.clone(),
            not_after: key.not_after.to_string(),
            origin: key.origin.clone(),
            private: None,
            sealed: None,
            v: VERSION,
        };
        members.public()?;
        check_length("private", key.private.len(), PRIVATE_BYTES_MAX)?;
        match protection {
            Protection::None => members.private = Some(SecretBytesHex(key.private.clone())),
            Protection::Passphrase(passphrase, cost) => {
                let bound = members.bound()?;
                let (kdf, sealed) =
                    envelope::seal(SEALED_AS, &bound, &key.private, passphrase, *cost, ids)?;
                members.kdf = Some(kdf);
                members.sealed = Some(hex::encode(&sealed));
            }
        }
        let bytes = envelope::encode(&members, CA_FILE_BYTES_MAX);
        if bytes.len() > CA_FILE_BYTES_MAX {
            return Err(Error::key(format!(
                "the CA key file would have {} bytes, allowed are {CA_FILE_BYTES_MAX}: name fewer hosts",
                bytes.len()
            )));
        }
        file::create(path, &what(path), &bytes, Permissions::OwnerOnly)
    }
}
