//! A log's secrets: in memory, and where they are kept (`docs/format.md`, key files).
//!
//! ```
//! use audit_core::chain::AuditorKey;
//! use audit_core::keyring::KeyRing;
//! use audit_core::time::System;
//!
//! let auditor = AuditorKey::random(&System);
//! let ring = KeyRing::generate("log.example/clinic", auditor.public(), &System)?;
//! assert_eq!(ring.wrapping_key().generation, 1);
//! println!("give this to verifiers: {}", ring.vkey());
//! # Ok::<(), audit_core::Error>(())
//! ```

mod auditor;
mod ca;
mod envelope;
mod file;
mod passphrase;
mod service;
mod stored;
mod uri;

use std::fmt;
use std::sync::Arc;

use audit_tlog::note::VerifierKey;
use uuid::Uuid;

use crate::chain::AuditorPublicKey;
use crate::datakey::WrappingKey;
use crate::entry::{PublicKey, Role, check_origin};
use crate::error::{Error, Result};
use crate::hex::Hex;
use crate::secret::SecretKey;
use crate::signer::{PublisherNoteSigner, Signer, SoftwareSigner};
use crate::time::IdSource;
use crate::token::IndexKey;

pub use auditor::{AUDITOR_FILE_BYTES_MAX, AuditorKeyFile};
pub use ca::{CA_FILE_BYTES_MAX, CaKey, CaKeyFile, CaPublic};
pub use envelope::{KdfCost, Protection};
pub use passphrase::{
    EnvironmentPassphrase, PASSPHRASE_BYTES_MAX, PASSPHRASE_BYTES_MIN, PASSPHRASE_CREDENTIAL,
    PASSPHRASE_FILE_VARIABLE, Passphrase, PassphraseSource,
};
pub use stored::RING_BYTES_MAX;
pub use uri::KeyUri;

/// Generations of the key-encryption key that one ring may hold, so that its file keeps below its size limit.
pub const GENERATIONS_MAX: usize = 256;

/// The secrets of one log, and the public half of its auditor key. Wiped on drop, never printed.
pub struct KeyRing {
    origin: String,
    publisher: Arc<SoftwareSigner>,
    writer: Arc<SoftwareSigner>,
    report: Arc<SoftwareSigner>,
    index: SecretKey,
    /// In ascending order of generation, never empty.
    wrapping: Vec<WrappingKey>,
    auditor: AuditorPublicKey,
    vkey: VerifierKey,
}

/// What a ring is made of, before it is checked.
struct Parts {
    origin: String,
    publisher: SecretKey,
    writer: SecretKey,
    report: SecretKey,
    index: SecretKey,
    wrapping: Vec<WrappingKey>,
    auditor: AuditorPublicKey,
}

impl KeyRing {
    /// New keys for the log `origin`.
    ///
    /// # Errors
    ///
    /// `Invalid`: `origin` can't name a log.
    /// `Key`: nothing can be sealed to `auditor`.
    pub fn generate(origin: &str, auditor: AuditorPublicKey, ids: &dyn IdSource) -> Result<Self> {
        check_origin(origin)?;
        // A key of small order would be noticed at the first writer run only, when the log is made already.
        auditor.seal_run_key(origin, Uuid::nil(), &SecretKey::random(ids), ids)?;
        Self::from_parts(Parts {
            origin: origin.to_owned(),
            publisher: SecretKey::random(ids),
            writer: SecretKey::random(ids),
            report: SecretKey::random(ids),
            index: SecretKey::random(ids),
            wrapping: vec![WrappingKey {
                generation: 1,
                key: SecretKey::random(ids),
            }],
            auditor,
        })
    }

    /// Every ring comes through here: generated or read.
    fn from_parts(parts: Parts) -> Result<Self> {
        check_origin(&parts.origin)?;
        let generations = parts.wrapping.iter().map(|w| w.generation);
        if !(1..=GENERATIONS_MAX).contains(&parts.wrapping.len())
            || generations.clone().any(|g| g == 0)
            || !generations.is_sorted_by(|a, b| a < b)
        {
            return Err(Error::key(format!(
                "wrapping is not 1 to {GENERATIONS_MAX} keys in ascending order of their generations, from 1"
            )));
        }
        // One secret in two roles would let what one role makes stand for what the other makes.
        let mut secrets: Vec<&[u8; 32]> =
            [&parts.publisher, &parts.writer, &parts.report, &parts.index]
                .into_iter()
                .chain(parts.wrapping.iter().map(|w| &w.key))
                .map(SecretKey::expose)
                .collect();
        secrets.sort_unstable();
        if secrets.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::key("the same secret stands in two places"));
        }
        let publisher = Arc::new(SoftwareSigner::new(&parts.publisher));
        let vkey = VerifierKey::ed25519(&parts.origin, publisher.public_key())
            .map_err(|e| Error::key("the publisher key can't sign checkpoints").because(e))?;
        Ok(Self {
            origin: parts.origin,
            publisher,
            writer: Arc::new(SoftwareSigner::new(&parts.writer)),
            report: Arc::new(SoftwareSigner::new(&parts.report)),
            index: parts.index,
            wrapping: parts.wrapping,
            auditor: parts.auditor,
            vkey,
        })
    }

    /// The name of the log.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Signs checkpoints.
    #[must_use]
    pub fn publisher(&self) -> Arc<dyn Signer> {
        Arc::clone(&self.publisher) as Arc<dyn Signer>
    }

    /// Signs checkpoints, in the form that `audit_tlog` takes.
    #[must_use]
    pub fn checkpoint_signer(&self) -> PublisherNoteSigner {
        PublisherNoteSigner::new(&self.origin, self.publisher())
            .expect("the ring has made a verifier key of the same origin and key")
    }

    /// Signs the openings of writer runs.
    #[must_use]
    pub fn writer(&self) -> Arc<dyn Signer> {
        Arc::clone(&self.writer) as Arc<dyn Signer>
    }

    /// Signs reports.
    #[must_use]
    pub fn report(&self) -> Arc<dyn Signer> {
        Arc::clone(&self.report) as Arc<dyn Signer>
    }

    /// Makes tokens.
    #[must_use]
    pub fn index_key(&self) -> IndexKey {
        IndexKey::new(self.index.clone())
    }

    /// The newest generation of the key-encryption key.
    #[must_use]
    pub fn wrapping_key(&self) -> &WrappingKey {
        self.wrapping
            .last()
            .expect("a ring is made with one, and the newest is never dropped")
    }

    /// A generation of the key-encryption key, if the ring still has it.
    #[must_use]
    pub fn wrapping_key_of(&self, generation: u32) -> Option<&WrappingKey> {
        self.wrapping.iter().find(|w| w.generation == generation)
    }

    /// Adds a generation of the key-encryption key, which is then the newest. It is in memory only until the ring is
    /// stored: store it before anything is wrapped with it.
    ///
    /// # Errors
    ///
    /// `Invalid`: the ring is full, or the generations are used up.
    pub fn add_wrapping_key(&mut self, ids: &dyn IdSource) -> Result<&WrappingKey> {
        let newest = self.wrapping_key().generation;
        let generation = newest
            .checked_add(1)
            .filter(|_| self.wrapping.len() < GENERATIONS_MAX)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "the ring holds {} generations up to {newest}, allowed are {GENERATIONS_MAX}; drop old ones first",
                    self.wrapping.len()
                ))
            })?;
        self.wrapping.push(WrappingKey {
            generation,
            key: SecretKey::random(ids),
        });
        Ok(self.wrapping_key())
    }

    /// Wipes every generation before `generation`, never the newest; says how many went. What is still wrapped with
    /// them can't be read any more, from the moment the ring is stored and its earlier copies are gone.
    pub fn drop_wrapping_keys_before(&mut self, generation: u32) -> usize {
        let newest = self.wrapping_key().generation;
        let before = self.wrapping.len();
        self.wrapping
            .retain(|w| w.generation >= generation.min(newest));
        before - self.wrapping.len()
    }

    /// What run keys are sealed to.
    #[must_use]
    pub fn auditor(&self) -> AuditorPublicKey {
        self.auditor
    }

    /// The public keys, in the order that `key.registered` asks for.
    #[must_use]
    pub fn public_keys(&self) -> Vec<PublicKey> {
        let mut keys: Vec<PublicKey> = [
            (Role::Auditor, self.auditor.0),
            (Role::Publisher, Hex(self.publisher.public_key())),
            (Role::Report, Hex(self.report.public_key())),
            (Role::Writer, Hex(self.writer.public_key())),
        ]
        .into_iter()
        .map(|(role, public)| PublicKey { public, role })
        .collect();
        keys.sort_unstable_by_key(|k| (k.role, k.public));
        keys
    }

    /// The publisher key as a verifier's policy holds it; its name is the origin.
    #[must_use]
    pub fn vkey(&self) -> VerifierKey {
        self.vkey.clone()
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("origin", &self.origin)
            .field("vkey", &self.vkey)
            .field("generation", &self.wrapping_key().generation)
            .finish_non_exhaustive()
    }
}
