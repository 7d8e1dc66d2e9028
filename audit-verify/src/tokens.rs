//! The token index, compared in flat memory.

use std::collections::BTreeSet;
use std::ops::Range;

use audit_core::time::{IdSource as _, System};
use audit_core::token::Token;
use sha2::{Digest as _, Sha256};

/// The log is cut into so many ranges of indexes, so that a difference is found without keeping rows.
const BUCKETS: u64 = 1024;

/// A keyed hash of a multiset of (token, index): the sum of a pseudorandom function over its members, modulo 2^128,
/// for each range of indexes.
///
/// Two different multisets agree with a probability of about 2^-128, since whoever made the evidence can't know the
/// key, which is drawn anew for every verification.
pub(crate) struct TokenSums {
    /// SHA-256 over a key and what has a fixed length is a pseudorandom function. 24 bytes, so that key, token and index
    /// are one block of it: this is computed twice for every token of the log.
    key: [u8; 24],
    width: u64,
    expected: Vec<u128>,
    stored: Vec<u128>,
    /// Entries whose tokens are found wrong already.
    excluded: BTreeSet<u64>,
}

/// More indexes than this are not kept apart; a log with as many bad token sets needs no finer answer.
const EXCLUDED_MAX: usize = 10_000;

impl TokenSums {
    pub(crate) fn new(indexes: Range<u64>) -> Self {
        let mut key = [0; 24];
        System.fill(&mut key);
        let width = (indexes.end.saturating_sub(indexes.start))
            .div_ceil(BUCKETS)
            .max(1);
        Self {
            key,
            width,
            expected: vec![0; 1024],
            stored: vec![0; 1024],
            excluded: BTreeSet::new(),
        }
    }

    pub(crate) fn exclude(&mut self, index: u64) {
        if self.excluded.len() < EXCLUDED_MAX {
            self.excluded.insert(index);
        }
    }

    pub(crate) fn excludes(&self, index: u64) -> bool {
        self.excluded.contains(&index)
    }

    fn value(&self, token: &Token, index: u64) -> u128 {
        let hash = Sha256::new()
            .chain_update(self.key)
            .chain_update(token.0)
            .chain_update(index.to_be_bytes())
            .finalize();
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        u128::from_be_bytes(half)
    }

    fn bucket(&self, index: u64) -> usize {
        usize::try_from(index / self.width).map_or(1023, |b| b.min(1023))
    }

    pub(crate) fn expect(&mut self, token: &Token, index: u64) {
        let (value, bucket) = (self.value(token, index), self.bucket(index));
        self.expected[bucket] = self.expected[bucket].wrapping_add(value);
    }

    pub(crate) fn store(&mut self, token: &Token, index: u64) {
        let (value, bucket) = (self.value(token, index), self.bucket(index));
        self.stored[bucket] = self.stored[bucket].wrapping_add(value);
    }

    /// The first range of indexes whose rows differ.
    pub(crate) fn first_difference(&self, size: u64) -> Option<Range<u64>> {
        let bucket = self
            .expected
            .iter()
            .zip(&self.stored)
            .position(|(a, b)| a != b)? as u64;
        let start = bucket * self.width;
        Some(start..start.saturating_add(self.width).min(size))
    }
}
