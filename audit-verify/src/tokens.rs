//! The token index, compared in flat memory.

use std::collections::BTreeSet;
use std::ops::Range;

use audit_core::time::{IdSource as _, System};
use audit_core::token::Token;
use sha2::block_api::compress256;

/// The log is cut into so many ranges of indexes, so that a difference is found without keeping rows.
const BUCKETS: u64 = 1024;
/// A block holds the key, the token (16 bytes) and the index (8), and then the padding: 0x80, zeros, their bits.
const KEY_BYTES: usize = 24;
const TOKEN_END: usize = KEY_BYTES + 16;
const MESSAGE_BYTES: usize = TOKEN_END + 8;
const MESSAGE_BITS: u16 = 48 * 8;
/// FIPS 180-4 §5.3.3.
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// A keyed hash of a multiset of (token, index): the sum of a pseudorandom function over its members, modulo 2^128,
/// for each range of indexes.
///
/// Two different multisets agree with a probability of about 2^-128, since whoever made the evidence can't know the
/// key, which is drawn anew for every verification.
pub(crate) struct TokenSums {
    /// SHA-256 over a key and what has a fixed length is a pseudorandom function. The key has 24 bytes, so that key, token
    /// and index are one block of it, with its padding: this is computed twice for every token of the log.
    block: [u8; 64],
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
        let mut block = [0; 64];
        System.fill(&mut block[..KEY_BYTES]);
        block[MESSAGE_BYTES] = 0x80;
        block[62..].copy_from_slice(&MESSAGE_BITS.to_be_bytes());
        let width = (indexes.end.saturating_sub(indexes.start))
            .div_ceil(BUCKETS)
            .max(1);
        Self {
            block,
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
        let mut block = self.block;
        block[KEY_BYTES..TOKEN_END].copy_from_slice(&token.0);
        block[TOKEN_END..MESSAGE_BYTES].copy_from_slice(&index.to_be_bytes());
        let mut state = INITIAL;
        compress256(&mut state, &[block]);
        state[..4]
            .iter()
            .fold(0, |value, word| value << 32 | u128::from(*word))
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

#[cfg(test)]
mod tests {
    use audit_core::hex::Hex;
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn the_value_is_not_sha256_of_key_token_and_index() {
        for index in [0, 1, 255, 1 << 32, u64::MAX] {
            let sums = TokenSums::new(0..1000);
            let token = Hex([index.to_le_bytes()[0] ^ 0xa5; 16]);
            let hash = Sha256::new()
                .chain_update(&sums.block[..24])
                .chain_update(token.0)
                .chain_update(index.to_be_bytes())
                .finalize();
            let half = u128::from_be_bytes(*hash.first_chunk().unwrap());
            assert_eq!(sums.value(&token, index), half);
        }
    }
}
