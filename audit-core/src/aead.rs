//! AES-256-GCM with a random nonce: nonce ‖ ciphertext ‖ tag (`docs/format.md` §1).

use aes_gcm::aead::{Aead, AeadInOut, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use zeroize::Zeroizing;

use crate::secret::SecretKey;
use crate::time::IdSource;

const NONCE_BYTES: usize = 12;
/// What sealing adds: nonce and tag.
pub(crate) const OVERHEAD_BYTES: usize = NONCE_BYTES + 16;

pub(crate) fn seal(key: &SecretKey, ad: &[u8], mut plain: Vec<u8>, ids: &dyn IdSource) -> Vec<u8> {
    let mut nonce = [0; NONCE_BYTES];
    ids.fill(&mut nonce);
    let cipher = Aes256Gcm::new(key.expose().into());
    let tag = cipher
        .encrypt_inout_detached(&Nonce::from(nonce), ad, plain.as_mut_slice().into())
        .expect("a part is far below the 64 GiB that AES-GCM takes");
    let mut out = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
    out.extend_from_slice(&nonce);
    out.append(&mut plain);
    out.extend_from_slice(&tag);
    out
}

/// `None` if the key, the associated data or any byte is not what was sealed.
pub(crate) fn open(key: &SecretKey, ad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    let cipher = Aes256Gcm::new(key.expose().into());
    cipher
        .decrypt(&Nonce::from(*nonce), Payload { msg: rest, aad: ad })
        .ok()
        .map(Zeroizing::new)
}
