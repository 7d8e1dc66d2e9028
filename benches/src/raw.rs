//! Baselines that do nothing but hash and encrypt.

use std::hint::black_box;

use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use audit_core::row::Row;
use sha2::{Digest as _, Sha256};

use crate::Result;

/// A tag and a hash.
pub type Sealed = (Tag, [u8; 32]);

/// `leaves` SHA-256 hashes of 9 bytes and `nodes` of 65, as a tree over 8-byte leaves needs them, without the tree.
#[must_use]
pub fn hashes(leaves: u64, nodes: u64) -> [u8; 32] {
    let mut last = [0; 32];
    let mut leaf = [0; 9];
    for number in 0..leaves {
        leaf[1..].copy_from_slice(&number.to_be_bytes());
        last = Sha256::digest(black_box(leaf)).into();
    }
    let mut node = [1; 65];
    for _ in 0..nodes {
        node[33..].copy_from_slice(&last);
        last = Sha256::digest(black_box(node)).into();
    }
    last
}

/// SHA-256 of the entries of `rows`, and of their parts if `parts` are asked for.
#[must_use]
pub fn hash_rows(rows: &[Row], parts: bool) -> [u8; 32] {
    let mut last = [0; 32];
    for row in rows {
        last = Sha256::digest(black_box(&row.entry)).into();
        if let Some(bytes) = row.parts.as_ref().filter(|_| parts) {
            last = Sha256::digest(black_box(bytes)).into();
        }
    }
    last
}

/// AES-256-GCM under one key, and SHA-256 of the ciphertext.
#[expect(missing_debug_implementations, reason = "it holds a key")]
pub struct Cipher(Aes256Gcm);

impl Default for Cipher {
    fn default() -> Self {
        Self(Aes256Gcm::new(&[7; 32].into()))
    }
}

impl Cipher {
    /// Encrypts `bytes` in place and hashes the ciphertext.
    pub fn seal(&self, bytes: &mut [u8]) -> Result<Sealed> {
        let tag = self
            .0
            .encrypt_inout_detached(&Nonce::from([9; 12]), b"", (&mut *bytes).into())
            .map_err(|e| e.to_string())?;
        Ok((tag, Sha256::digest(&*bytes).into()))
    }

    /// Hashes `bytes` and decrypts them in place.
    pub fn open(&self, bytes: &mut [u8], tag: &Tag) -> Result<[u8; 32]> {
        let hash = Sha256::digest(&*bytes).into();
        self.0
            .decrypt_inout_detached(&Nonce::from([9; 12]), b"", bytes.into(), tag)
            .map_err(|e| e.to_string())?;
        Ok(hash)
    }
}
