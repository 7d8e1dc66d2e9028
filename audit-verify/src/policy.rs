//! What the verifier knows and asks for.

use std::time::Duration;

use audit_core::chain::AuditorKey;
use audit_core::keyring::KeyRing;
use audit_core::time::Timestamp;
use audit_tlog::Hash;
use audit_tlog::note::VerifierKey;

/// What the verifier knows of the log and asks of it. Every key, the algorithms and the origin come from here, and
/// nothing of them from the evidence.
#[derive(Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "whoever verifies says every part of the policy; a new part is a new decision"
)]
pub struct Policy<'a> {
    /// The publisher key; its name is the origin.
    pub vkey: VerifierKey,
    /// The leaf hash of the first entry, known from elsewhere: what `init` prints. It fixes the writer keys; `None`: they
    /// are those that the evidence itself registers.
    pub opened: Option<Hash>,
    /// Opens the sealed run keys; `None`: MAC chains are not checked.
    pub auditor: Option<AuditorKey>,
    /// The operator's keys; `None`: content is not compared with its commitments.
    pub operator: Option<&'a KeyRing>,
    /// Signed checkpoints that were kept apart from the evidence: the publisher's state file, what an auditor carried
    /// away. None: rollback is not checked.
    pub remembered: Vec<Vec<u8>>,
    /// Compute the root a second time, with another implementation.
    pub full: bool,
    /// Read the stored parts; without, they are not checked.
    pub content: bool,
    /// The longest time between two records.
    pub gap_max: Option<Duration>,
    /// The greatest age of the last record that a checkpoint commits to.
    pub fresh_within: Option<Duration>,
    /// The longest time that entries may stay unpublished; more decides nothing. A running publisher signs about once a
    /// second.
    pub unpublished_max: Duration,
    /// The present, for `gap_max` and `fresh_within`.
    pub now: Timestamp,
}

impl Policy<'_> {
    /// What can be checked with nothing but the log's public key.
    #[must_use]
    pub fn public(vkey: VerifierKey, now: Timestamp) -> Self {
        Self {
            vkey,
            opened: None,
            auditor: None,
            operator: None,
            remembered: Vec::new(),
            full: false,
            content: true,
            gap_max: None,
            fresh_within: None,
            unpublished_max: Duration::from_secs(60),
            now,
        }
    }
}

/// Told how far verification has come.
pub trait Progress {
    /// `done` of `total` of a stage are done.
    fn at(&mut self, stage: Stage, done: u64, total: u64);
}

/// Nobody wants to know.
impl Progress for () {
    fn at(&mut self, _: Stage, _: u64, _: u64) {}
}

/// A stage of verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The walk over the entries.
    Entries,
    /// The walk over the token rows.
    Tokens,
    /// The walk over the key records.
    Keys,
}
