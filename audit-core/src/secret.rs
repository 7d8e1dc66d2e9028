//! Keys in memory.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::time::IdSource;

/// 32 secret bytes, wiped when dropped, never printed.
///
/// On the heap, because moving a value leaves a copy of it behind that nobody wipes, and a box is moved without them.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey(Box<[u8; 32]>);

impl SecretKey {
    /// From bytes that the caller wipes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Box::new(bytes))
    }

    /// A new random key.
    #[must_use]
    pub fn random(ids: &dyn IdSource) -> Self {
        Self::filled(|key| ids.fill(key))
    }

    /// A key that `fill` writes in place, so that no copy of it is left behind.
    pub(crate) fn filled(fill: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut key = Self(Box::new([0; 32]));
        fill(&mut key.0);
        key
    }

    /// The bytes; the name is to be seen at every place that uses them.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}
