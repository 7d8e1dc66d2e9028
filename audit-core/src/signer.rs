//! Signing keys, in memory or behind a wall.

use std::fmt;
use std::sync::Arc;

use audit_tlog::note::{NoteSigner, SignError, VerifierKey};
use ed25519_dalek::{Signer as _, SigningKey};

use crate::error::{Error, Result};
use crate::secret::SecretKey;

/// A key that signs with Ed25519.
///
/// Every signature that is returned verifies under [`public_key`](Self::public_key), which never changes. The secret
/// can't be had through this trait, so that a hardware module can implement it.
pub trait Signer: Send + Sync + fmt::Debug {
    /// The public half.
    fn public_key(&self) -> [u8; 32];

    /// Signs `message`. It may block, as a hardware module does.
    ///
    /// # Errors
    ///
    /// `Unavailable`: nothing was signed, and the same call may succeed later.
    /// `Key`: the key isn't there any more, or may not be used.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64]>;
}

/// A [`Signer`] whose secret is in memory: wiped on drop, never printed.
pub struct SoftwareSigner(SigningKey);

impl SoftwareSigner {
    /// From the 32-byte seed that RFC 8032 calls the private key.
    #[must_use]
    pub fn new(seed: &SecretKey) -> Self {
        Self(SigningKey::from_bytes(seed.expose()))
    }

    /// The seed, for writing it into a key ring.
    pub(crate) fn seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl Signer for SoftwareSigner {
    fn public_key(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64]> {
        Ok(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for SoftwareSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareSigner")
            .field("public", &crate::hex::encode(&self.public_key()))
            .finish_non_exhaustive()
    }
}

/// A [`Signer`] that signs checkpoints under the name of a log.
#[derive(Debug, Clone)]
pub struct PublisherNoteSigner {
    key: VerifierKey,
    signer: Arc<dyn Signer>,
}

impl PublisherNoteSigner {
    /// The signer of the log `origin`, which is the name of the key.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Key`](crate::ErrorKind::Key) if the origin can't name a key, or the key is none that verifiers
    /// accept.
    pub fn new(origin: &str, signer: Arc<dyn Signer>) -> Result<Self> {
        let key = VerifierKey::ed25519(origin, signer.public_key())
            .map_err(|e| Error::key("the publisher key can't sign checkpoints").because(e))?;
        Ok(Self { key, signer })
    }
}

impl NoteSigner for PublisherNoteSigner {
    fn verifier_key(&self) -> &VerifierKey {
        &self.key
    }

    fn sign(&self, message: &[u8]) -> std::result::Result<[u8; 64], SignError> {
        self.signer
            .sign(message)
            .map_err(|e| SignError::new("the publisher key did not sign").with_source(e))
    }
}

#[cfg(test)]
mod tests {
    use audit_tlog::note::Note;

    use super::*;

    #[derive(Debug)]
    struct Unplugged(SoftwareSigner);

    impl Signer for Unplugged {
        fn public_key(&self) -> [u8; 32] {
            self.0.public_key()
        }

        fn sign(&self, _: &[u8]) -> Result<[u8; 64]> {
            Err(Error::unavailable("the module is unplugged"))
        }
    }

    #[test]
    fn the_first_vector_of_rfc_8032_comes_out() {
        // RFC 8032 §7.1, test 1.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let signer = SoftwareSigner::new(&SecretKey::new(crate::hex::Hex::parse(seed).unwrap().0));
        assert_eq!(
            crate::hex::encode(&signer.public_key()),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        assert_eq!(
            crate::hex::encode(&signer.sign(b"").unwrap()),
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555\
             fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        );
        assert!(!format!("{signer:?}").contains("9d61b19d"));
    }

    #[test]
    fn a_checkpoint_names_the_log_that_signed_it() {
        let signer: Arc<dyn Signer> = Arc::new(SoftwareSigner::new(&SecretKey::new([7; 32])));
        let note = PublisherNoteSigner::new("log.example/a", Arc::clone(&signer)).unwrap();
        let signed = Note::sign("text\n", &[&note]).unwrap();
        assert_eq!(signed.signatures[0].name, "log.example/a");
        assert_eq!(note.verifier_key().public_key(), signer.public_key());
        PublisherNoteSigner::new("not a name", signer).unwrap_err();
    }

    #[test]
    fn a_signer_that_fails_gives_an_error_and_no_note() {
        let unplugged = Unplugged(SoftwareSigner::new(&SecretKey::new([7; 32])));
        let note = PublisherNoteSigner::new("log.example/a", Arc::new(unplugged)).unwrap();
        let error = NoteSigner::sign(&note, b"text").unwrap_err();
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), "the module is unplugged");
    }
}
