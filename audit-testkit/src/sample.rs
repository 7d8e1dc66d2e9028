//! Batches as a log makes them, without keys or encryption: every byte that a store can compare with another agrees,
//! every byte that only a key holder can read is random.

use audit_core::datakey::{KeyRecord, WRAPPED_BYTES};
use audit_core::entry::{ContentPart, Entry, FORMAT};
use audit_core::hex::Hex;
use audit_core::store::{Batch, Columns, Head, Row};
use audit_core::time::{IdSource as _, Timestamp};
use audit_core::token::{Token, TokenSet};
use audit_core::{Error, Kind, Result};
use audit_tlog::hash::leaf_hash;
use sha2::{Digest as _, Sha256};

use crate::time::TestIds;

/// The kinds of samples, in turn.
pub const KINDS: [&str; 3] = ["llm.request", "llm.response", "tool.call"];
/// The sessions among whose tokens samples choose.
pub const SESSIONS: u64 = 8;
/// The time of the sample at index 0; later ones are a second apart, and every seventh lies half a minute back.
pub const START_MICROS: i64 = 1_767_323_045_000_000;

/// What samples are made of.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Sample {
    /// How many rows.
    pub rows: usize,
    /// Other seeds give other ids and bytes.
    pub seed: u64,
    /// Bytes of the stored parts of a row that has content; every fourth has none.
    pub parts_bytes: usize,
}

impl Sample {
    /// `rows` rows with some hundred bytes each.
    #[must_use]
    pub fn new(rows: usize, seed: u64) -> Self {
        Self {
            rows,
            seed,
            parts_bytes: 300,
        }
    }

    /// The same with parts of `bytes` bytes.
    #[must_use]
    pub fn parts_bytes(mut self, bytes: usize) -> Self {
        self.parts_bytes = bytes;
        self
    }

    /// The batch for `head`: the same for the same seed and size.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](audit_core::ErrorKind::Invalid) if an entry breaks the format, which is a defect here.
    pub fn batch(&self, head: &Head) -> Result<Batch> {
        let ids = TestIds::new(
            self.seed
                .wrapping_mul(0x1_0000_0001)
                .wrapping_add(head.size),
        );
        let run = ids.uuid_v7(Timestamp::from_micros(START_MICROS)?);
        let key = KeyRecord {
            id: ids.uuid_v4(),
            scope: session_token(head.size % SESSIONS),
            run,
            generation: 1,
            wrapped: random::<WRAPPED_BYTES>(&ids),
        };
        let mut edge = head.edge.clone();
        // What was pushed before this batch is not this batch's change.
        drop(edge.take_changed());
        let mut keys = Vec::new();
        let mut rows = Vec::with_capacity(self.rows);
        for seq in 0..self.rows as u64 {
            let index = head.size + seq;
            let time = time_of(index)?;
            let parts = has_parts(index).then(|| {
                let mut parts = vec![0; self.parts_bytes];
                ids.fill(&mut parts);
                parts
            });
            let mut names = None;
            if parts.is_some() && keys.is_empty() {
                names = Some(vec![key.digest()]);
                keys.push(key.clone());
            }
            let tokens = tokens_of(index).map(|tokens| TokenSet {
                salt: Hex(random(&ids)),
                tokens,
            });
            let entry = Entry {
                content: parts.as_ref().map(|parts| ContentPart {
                    fields: 1,
                    length: parts.len() as u64,
                    root: Hex(random(&ids)),
                    sha256: Hex(Sha256::digest(parts).into()),
                    stored: parts.len() as u64,
                }),
                epoch: 0,
                event: ids.uuid_v7(time),
                key: parts.is_some().then_some(key.id),
                keys: names,
                kind: kind_of(index)?,
                log: None,
                mac: Hex(random(&ids)),
                payloads: None,
                recorded: time,
                run,
                seq,
                time,
                tokens: tokens.as_ref().map(TokenSet::digest),
                v: FORMAT,
            };
            let bytes = entry.encode()?;
            edge.push(leaf_hash(&bytes));
            rows.push(Row {
                index,
                entry: bytes,
                columns: Columns {
                    event: entry.event,
                    kind: entry.kind,
                    time: entry.time,
                },
                tokens,
                parts,
            });
        }
        Ok(Batch {
            rows,
            tiles: edge.take_changed(),
            keys,
        })
    }
}

/// A batch of `rows` sample rows for `head`.
///
/// # Errors
///
/// As [`Sample::batch`].
pub fn batch(head: &Head, rows: usize, seed: u64) -> Result<Batch> {
    Sample::new(rows, seed).batch(head)
}

/// The first `n` rows of a log, with their tiles and keys.
///
/// # Errors
///
/// As [`Sample::batch`].
pub fn rows(n: usize, seed: u64) -> Result<Batch> {
    batch(&Head::empty(), n, seed)
}

/// The token of session `n`; the same for every seed.
#[must_use]
pub fn session_token(n: u64) -> Token {
    Hex(random(&TestIds::new(n)))
}

/// The token of the one actor of every sample that has tokens.
#[must_use]
pub fn actor_token() -> Token {
    session_token(u64::MAX)
}

fn tokens_of(index: u64) -> Option<Vec<Token>> {
    if index % 5 == 4 {
        return None;
    }
    let mut tokens = vec![session_token(index / 3 % SESSIONS), actor_token()];
    tokens.sort_unstable();
    Some(tokens)
}

fn has_parts(index: u64) -> bool {
    index % 4 != 3
}

fn kind_of(index: u64) -> Result<Kind> {
    let kinds = KINDS.len() as u64;
    let at = usize::try_from(index % kinds).unwrap_or_default();
    Kind::new(KINDS[at])
}

fn time_of(index: u64) -> Result<Timestamp> {
    let index = i64::try_from(index)
        .map_err(|e| Error::invalid(format!("index {index} is too large")).because(e))?;
    let back = if index % 7 == 6 { 30_000_000 } else { 0 };
    Ok(Timestamp::from_micros(START_MICROS)?.plus_micros(index * 1_000_000 - back))
}

fn random<const N: usize>(ids: &TestIds) -> [u8; N] {
    let mut bytes = [0; N];
    ids.fill(&mut bytes);
    bytes
}
