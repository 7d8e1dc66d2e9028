//! Side packs: what belongs to a batch and must be erasable, so is never locked.

use audit_core::datakey::{KeyRecord, WRAPPED_BYTES};
use audit_core::entry::TOKENS_MAX;
use audit_core::hex::Hex;
use audit_core::store::{Batch, Columns};
use audit_core::time::Timestamp;
use audit_core::token::TokenSet;
use audit_core::{Error, Kind, Result};
use uuid::Uuid;

use crate::batch::ROWS_MAX;
use crate::codec::{Cursor, length32};

const MAGIC: &[u8; 8] = b"LLATsid1";
const HAS_TOKENS: u8 = 1;
const ERASED: u8 = 2;

/// What a side pack holds of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SideRow {
    pub(crate) columns: Columns,
    pub(crate) tokens: Option<TokenSet>,
    /// Its parts are not handed out any more.
    pub(crate) erased: bool,
}

/// A side pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Side {
    pub(crate) number: u64,
    pub(crate) nonce: [u8; 16],
    pub(crate) first: u64,
    pub(crate) rows: Vec<SideRow>,
    /// By id.
    pub(crate) keys: Vec<KeyRecord>,
}

impl Side {
    pub(crate) fn of(batch: &Batch, number: u64, first: u64, nonce: [u8; 16]) -> Self {
        let mut keys = batch.keys.clone();
        keys.sort_unstable_by_key(|key| key.id);
        let rows = batch.rows.iter().map(|row| SideRow {
            columns: row.columns.clone(),
            tokens: row.tokens.clone(),
            erased: false,
        });
        Self {
            number,
            nonce,
            first,
            rows: rows.collect(),
            keys,
        }
    }

    /// The leaf index behind the last row.
    pub(crate) fn end(&self) -> u64 {
        self.first.saturating_add(self.rows.len() as u64)
    }

    /// Its rows with their indexes.
    pub(crate) fn indexed(&self) -> impl DoubleEndedIterator<Item = (u64, &SideRow)> {
        self.rows
            .iter()
            .enumerate()
            .map(|(at, row)| (self.first + at as u64, row))
    }

    pub(crate) fn row_mut(&mut self, index: u64) -> Option<&mut SideRow> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.rows.get_mut(at)
    }

    pub(crate) fn key(&self, id: Uuid) -> Option<&KeyRecord> {
        let at = self.keys.binary_search_by_key(&id, |key| key.id).ok()?;
        self.keys.get(at)
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(64 + self.rows.len() * 160);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.first.to_be_bytes());
        out.extend_from_slice(&length32("a side pack", self.rows.len())?);
        for row in &self.rows {
            let mut flags = 0;
            if row.tokens.is_some() {
                flags |= HAS_TOKENS;
            }
            if row.erased {
                flags |= ERASED;
            }
            out.push(flags);
            out.extend_from_slice(row.columns.event.as_bytes());
            out.extend_from_slice(&row.columns.time.as_micros().to_be_bytes());
            let kind = row.columns.kind.as_str().as_bytes();
            out.push(u8::try_from(kind.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(kind);
            if let Some(set) = &row.tokens {
                let count = u16::try_from(set.tokens.len())
                    .map_err(|e| Error::invalid("an entry has too many tokens").because(e))?;
                out.extend_from_slice(&set.salt.0);
                out.extend_from_slice(&count.to_be_bytes());
                out.extend(set.tokens.iter().flat_map(|token| token.0));
            }
        }
        out.extend_from_slice(&length32("a side pack", self.keys.len())?);
        for key in &self.keys {
            encode_key(key, &mut out);
        }
        Ok(out)
    }

    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<Self> {
        let mut at = Cursor::new(name, bytes);
        if at.array::<8>()? != *MAGIC {
            return Err(at.wrong("is no side pack of this layout"));
        }
        let number = at.u64()?;
        let nonce = at.array()?;
        let first = at.u64()?;
        let count = at.u32()?;
        if count == 0 || count > ROWS_MAX || first.checked_add(count.into()).is_none() {
            return Err(at.wrong(format_args!("says {count} rows from {first} on")));
        }
        let mut rows = Vec::with_capacity(count as usize);
        for index in (first..).take(count as usize) {
            rows.push(decode_row(&mut at).map_err(|e| e.at(index))?);
        }
        let count = at.u32()?;
        let mut keys: Vec<KeyRecord> = Vec::new();
        for _ in 0..count {
            let key = decode_key(&mut at)?;
            if keys.last().is_some_and(|last| last.id >= key.id) {
                return Err(at.wrong(format_args!("has data key {} out of order", key.id)));
            }
            keys.push(key);
        }
        at.end()?;
        Ok(Self {
            number,
            nonce,
            first,
            rows,
            keys,
        })
    }
}

fn decode_row(at: &mut Cursor<'_>) -> Result<SideRow> {
    let flags = at.u8()?;
    if flags > (HAS_TOKENS | ERASED) {
        return Err(at.wrong(format_args!("has a row with flags {flags}")));
    }
    let event = Uuid::from_bytes(at.array()?);
    let time = at.i64()?;
    let time = Timestamp::from_micros(time)
        .map_err(|e| at.wrong("has a time that is out of range").because(e))?;
    let length = at.u8()?;
    let kind = std::str::from_utf8(at.take(length.into())?)
        .map_err(|e| at.wrong("has a kind that is not text").because(e))
        .and_then(Kind::new)
        .map_err(|e| Error::corrupt("a side pack has a malformed kind").because(e))?;
    let tokens = if flags & HAS_TOKENS == 0 {
        None
    } else {
        let salt = Hex(at.array()?);
        let count = at.u16()?;
        let mut tokens = Vec::with_capacity(count.into());
        for _ in 0..count {
            tokens.push(Hex(at.array()?));
        }
        if tokens.is_empty()
            || tokens.len() as u64 > TOKENS_MAX
            || !tokens.is_sorted_by(|a, b| a < b)
        {
            return Err(at.wrong(format_args!(
                "has tokens that are not a sorted list of 1 to {TOKENS_MAX}"
            )));
        }
        Some(TokenSet { salt, tokens })
    };
    Ok(SideRow {
        columns: Columns { event, kind, time },
        tokens,
        erased: flags & ERASED != 0,
    })
}

/// Bytes of an encoded data-key record.
pub(crate) const KEY_BYTES: usize = 16 + 16 + 16 + 4 + WRAPPED_BYTES;

pub(crate) fn encode_key(key: &KeyRecord, out: &mut Vec<u8>) {
    out.extend_from_slice(key.id.as_bytes());
    out.extend_from_slice(&key.scope.0);
    out.extend_from_slice(key.run.as_bytes());
    out.extend_from_slice(&key.generation.to_be_bytes());
    out.extend_from_slice(&key.wrapped);
}

pub(crate) fn decode_key(at: &mut Cursor<'_>) -> Result<KeyRecord> {
    let id = Uuid::from_bytes(at.array()?);
    let record = KeyRecord {
        id,
        scope: Hex(at.array()?),
        run: Uuid::from_bytes(at.array()?),
        generation: at.u32()?,
        wrapped: at.array()?,
    };
    if record.generation == 0 {
        return Err(at.wrong(format_args!("has data key {id} with generation 0")));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use audit_core::store::Head;
    use audit_testkit::sample;

    use super::*;

    fn packed() -> Vec<u8> {
        let batch = sample::batch(&Head::empty(), 6, 1).unwrap();
        let mut side = Side::of(&batch, 7, 0, [9; 16]);
        side.rows[2].erased = true;
        side.encode().unwrap()
    }

    #[test]
    fn no_side_pack_has_a_second_encoding() {
        let good = packed();
        let side = Side::decode("a side pack", &good).unwrap();
        assert_eq!(side.encode().unwrap(), good);
        for at in 0..good.len() {
            for flip in [1, 0x80] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                if let Ok(other) = Side::decode("a side pack", &bytes) {
                    assert_ne!(other, side, "byte {at} says nothing");
                    assert_eq!(other.encode().unwrap(), bytes, "byte {at}");
                }
            }
            Side::decode("a side pack", &good[..at]).unwrap_err();
        }
        Side::decode("a side pack", &[&good[..], &[0]].concat()).unwrap_err();
    }
}
