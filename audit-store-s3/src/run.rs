//! Index runs: columns, tokens and keys of 64 batches, sorted, so that a search reads a few blocks and not 64 side packs.

use std::sync::Arc;

use audit_core::{Error, Result};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::codec::{Cursor, length32};
use crate::side::{KEY_BYTES, Side, encode_key};

const MAGIC: &[u8; 8] = b"LLATrun1";
/// Batches of a run of level 1.
pub(crate) const RUN_BATCHES: u64 = 64;
/// Bytes of a block, at most.
const BLOCK_BYTES: usize = 64 * 1024;
/// Bytes of a footer: runs of level 1 have some hundred blocks.
pub(crate) const FOOTER_MAX: usize = 64 * 1024 * 1024;
const SECTIONS: usize = 5;

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// event 16 ‖ index u64
    Events = 0,
    /// u8 length ‖ kind ‖ index u64 ‖ time i64
    Kinds = 1,
    /// token 16 ‖ index u64
    Tokens = 2,
    /// data-key record ‖ batch number u64
    Keys = 3,
    /// scope 16 ‖ id 16
    Scopes = 4,
}

const ALL: [Section; SECTIONS] = [
    Section::Events,
    Section::Kinds,
    Section::Tokens,
    Section::Keys,
    Section::Scopes,
];

/// Where a block is, and what its first record is.
#[derive(Debug, Clone)]
pub(crate) struct Fence {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    digest: [u8; 32],
    first: Vec<u8>,
}

/// What stands at the end of a run.
#[derive(Debug, Clone)]
pub(crate) struct Footer {
    pub(crate) level: u8,
    pub(crate) from: u64,
    pub(crate) until: u64,
    /// Leaf indexes of its rows: from here on
    pub(crate) first: u64,
    /// and before this.
    pub(crate) end: u64,
    pub(crate) time_min: i64,
    pub(crate) time_max: i64,
    pub(crate) changes: u64,
    sections: [Vec<Fence>; SECTIONS],
}

impl Footer {
    /// The blocks that can hold records from `lower` on, before `upper`.
    pub(crate) fn blocks(&self, section: Section, lower: &[u8], upper: &[u8]) -> &[Fence] {
        let fences = &self.sections[section as usize];
        let begin = fences
            .partition_point(|fence| &*fence.first <= lower)
            .saturating_sub(1);
        let end = fences.partition_point(|fence| &*fence.first < upper);
        fences.get(begin..end).unwrap_or_default()
    }

    /// Reads the footer at the end of what is the end of a run. `Err(Some(n))`: the last n bytes are needed.
    pub(crate) fn decode(name: &str, tail: &[u8]) -> Result<Self, FooterError> {
        let short = || FooterError::Corrupt(Error::corrupt(format!("{name} is cut off")));
        let (rest, magic) = tail.split_last_chunk::<8>().ok_or_else(short)?;
        let (rest, length) = rest.split_last_chunk::<4>().ok_or_else(short)?;
        let length = u32::from_be_bytes(*length) as usize;
        if magic != MAGIC || length > FOOTER_MAX {
            return Err(FooterError::Corrupt(Error::corrupt(format!(
                "{name} is no index run of this layout"
            ))));
        }
        let Some(at) = rest.len().checked_sub(length) else {
            return Err(FooterError::Needs(length as u64 + 12));
        };
        Self::read(name, &rest[at..]).map_err(FooterError::Corrupt)
    }

    fn read(name: &str, bytes: &[u8]) -> Result<Self> {
        let mut at = Cursor::new(name, bytes);
        let level = at.u8()?;
        let (from, until) = (at.u64()?, at.u64()?);
        let (first, end) = (at.u64()?, at.u64()?);
        let (time_min, time_max) = (at.i64()?, at.i64()?);
        let changes = at.u64()?;
        let mut sections: [Vec<Fence>; SECTIONS] = Default::default();
        for fences in &mut sections {
            let count = at.u32()?;
            for _ in 0..count {
                let (offset, length, digest) = (at.u64()?, at.u32()?, at.array()?);
                let size = at.u8()?;
                let first = at.take(size.into())?.to_vec();
                if length as usize > BLOCK_BYTES {
                    return Err(at.wrong(format_args!("has a block of {length} bytes")));
                }
                fences.push(Fence {
                    offset,
                    length,
                    digest,
                    first,
                });
            }
        }
        at.end()?;
        Ok(Self {
            level,
            from,
            until,
            first,
            end,
            time_min,
            time_max,
            changes,
            sections,
        })
    }
}

/// Why there is no footer.
pub(crate) enum FooterError {
    /// So many bytes from the end are needed.
    Needs(u64),
    Corrupt(Error),
}

/// The records of a block, which must be the one that the fence names.
pub(crate) fn records<'a>(
    name: &str,
    section: Section,
    fence: &Fence,
    block: &'a [u8],
) -> Result<Vec<&'a [u8]>> {
    if Sha256::digest(block).as_slice() != fence.digest {
        return Err(Error::corrupt(format!(
            "{name} has other bytes at {} than its footer says",
            fence.offset
        )));
    }
    let mut rest = block;
    let mut out = Vec::new();
    while let Some(first) = rest.first() {
        let length = match section {
            Section::Events | Section::Tokens => 24,
            Section::Keys => KEY_BYTES + 8,
            Section::Scopes => 32,
            Section::Kinds => 1 + usize::from(*first) + 16,
        };
        let Some((record, more)) = rest.split_at_checked(length) else {
            return Err(Error::corrupt(format!(
                "{name} has a record that is cut off"
            )));
        };
        out.push(record);
        rest = more;
    }
    Ok(out)
}

/// The kind, index and time in a record of [`Section::Kinds`].
pub(crate) fn kind_record(record: &[u8]) -> Result<(&[u8], u64, i64)> {
    let mut at = Cursor::new("an index run", record);
    let length = at.u8()?;
    Ok((at.take(length.into())?, at.u64()?, at.i64()?))
}

/// The index at the end of a record of events or tokens.
pub(crate) fn index_of(record: &[u8]) -> u64 {
    record
        .last_chunk()
        .map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes))
}

/// What records of a kind begin with.
pub(crate) fn kind_prefix(kind: &str) -> Vec<u8> {
    let mut out = vec![u8::try_from(kind.len()).unwrap_or(u8::MAX)];
    out.extend_from_slice(kind.as_bytes());
    out
}

/// The run of the batches from `from` on, up to `until`, from the side packs of those that have rows.
pub(crate) fn build(
    level: u8,
    from: u64,
    until: u64,
    changes: u64,
    sides: &[Arc<Side>],
) -> Result<Option<Bytes>> {
    let (Some(first), Some(last)) = (sides.first(), sides.last()) else {
        return Ok(None);
    };
    let mut sections: [Vec<Vec<u8>>; SECTIONS] = Default::default();
    let (mut time_min, mut time_max) = (i64::MAX, i64::MIN);
    for side in sides {
        for (index, row) in side.indexed() {
            let at = index.to_be_bytes();
            let time = row.columns.time.as_micros();
            time_min = time_min.min(time);
            time_max = time_max.max(time);
            let event: &[u8] = row.columns.event.as_bytes();
            sections[Section::Events as usize].push([event, &at].concat());
            let kind = kind_prefix(row.columns.kind.as_str());
            sections[Section::Kinds as usize].push([&kind, &at[..], &time.to_be_bytes()].concat());
            for token in row.tokens.iter().flat_map(|set| &set.tokens) {
                sections[Section::Tokens as usize].push([&token.0[..], &at].concat());
            }
        }
        for key in &side.keys {
            let mut record = Vec::with_capacity(KEY_BYTES + 8);
            encode_key(key, &mut record);
            record.extend_from_slice(&side.number.to_be_bytes());
            sections[Section::Keys as usize].push(record);
            sections[Section::Scopes as usize].push([key.scope.0, *key.id.as_bytes()].concat());
        }
    }
    let mut out = Vec::new();
    let mut footer = Vec::new();
    footer.push(level);
    for number in [from, until, first.first, last.end()] {
        footer.extend_from_slice(&number.to_be_bytes());
    }
    footer.extend_from_slice(&time_min.to_be_bytes());
    footer.extend_from_slice(&time_max.to_be_bytes());
    footer.extend_from_slice(&changes.to_be_bytes());
    for section in ALL {
        let records = &mut sections[section as usize];
        records.sort_unstable();
        let mut fences = Vec::new();
        let mut rest = &records[..];
        while let Some(first) = rest.first() {
            let mut length = 0;
            let count = rest
                .iter()
                .take_while(|record| {
                    length += record.len();
                    length <= BLOCK_BYTES
                })
                .count();
            let (block, more) = rest.split_at(count.max(1));
            rest = more;
            let block = block.concat();
            fences.push((
                out.len() as u64,
                block.len(),
                Sha256::digest(&block),
                first.clone(),
            ));
            out.extend_from_slice(&block);
        }
        footer.extend_from_slice(&length32("an index run", fences.len())?);
        for (offset, length, digest, first) in fences {
            footer.extend_from_slice(&offset.to_be_bytes());
            footer.extend_from_slice(&length32("a block", length)?);
            footer.extend_from_slice(&digest);
            footer.push(u8::try_from(first.len()).unwrap_or(u8::MAX));
            footer.extend_from_slice(&first);
        }
    }
    let length = length32("the footer of an index run", footer.len())?;
    out.extend_from_slice(&footer);
    out.extend_from_slice(&length);
    out.extend_from_slice(MAGIC);
    Ok(Some(out.into()))
}
