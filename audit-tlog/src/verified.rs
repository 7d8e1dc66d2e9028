//! What was verified is a type.

use core::ops::Deref;

/// A value that a verification function of this crate accepted.
///
/// There is no other way to make one: a function that takes `Verified<Checkpoint>` can't be called with a checkpoint
/// that nobody checked.
///
/// ```compile_fail
/// let forged = audit_tlog::Verified(1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Called where a check has just succeeded, and nowhere else.
    pub(crate) const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, which from here on is a value like any other.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
