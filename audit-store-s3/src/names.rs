//! The keys of objects below the prefix (`docs/s3-layout.md`).

use audit_core::hex;
use audit_tlog::tile::{TileId, parse_entries_path};

pub(crate) const LOG: &str = "log";
pub(crate) const CHECKPOINT: &str = "checkpoint";
pub(crate) const LEASE: &str = "lease";
pub(crate) const CHANGES: &str = "changes";
pub(crate) const BATCHES: &str = "batch/";
pub(crate) const CHECKPOINTS: &str = "checkpoints/";
pub(crate) const PAYLOADS: &str = "payload/";
pub(crate) const SIDES: &str = "side/";
pub(crate) const RUNS: &str = "run/";

/// Batch numbers have so many digits.
const NUMBER_DIGITS: usize = 16;
/// Tree sizes have so many digits.
const SIZE_DIGITS: usize = 20;
/// The greatest batch number there is a name for.
pub(crate) const NUMBER_MAX: u64 = 9_999_999_999_999_999;

pub(crate) fn batch(number: u64) -> String {
    format!("{BATCHES}{number:016}")
}

pub(crate) fn checkpoint(size: u64) -> String {
    format!("{CHECKPOINTS}{size:020}")
}

pub(crate) fn payload(digest: &[u8; 32]) -> String {
    format!("{PAYLOADS}{}", hex::encode(digest))
}

/// What the side packs of all who tried for a number begin with.
pub(crate) fn sides(number: u64) -> String {
    format!("{SIDES}{number:016}-")
}

pub(crate) fn side(number: u64, nonce: &[u8; 16]) -> String {
    format!("{}{}", sides(number), hex::encode(nonce))
}

pub(crate) fn run(level: u8, from: u64, until: u64) -> String {
    format!("{RUNS}{level}/{from:016}-{until:016}")
}

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Log,
    Batch(u64),
    Payload,
    Checkpoints(u64),
    Side(u64),
    Run { level: u8, from: u64, until: u64 },
    Tile(TileId),
    Entries(u64, u16),
    Checkpoint,
    Lease,
    Changes,
}

impl Name {
    /// Reads a key; `None` for what no log writes.
    pub(crate) fn parse(key: &str) -> Option<Self> {
        match key {
            LOG => return Some(Self::Log),
            CHECKPOINT => return Some(Self::Checkpoint),
            LEASE => return Some(Self::Lease),
            CHANGES => return Some(Self::Changes),
            _ => {}
        }
        if let Some(rest) = key.strip_prefix(BATCHES) {
            return digits(rest, NUMBER_DIGITS).map(Self::Batch);
        }
        if let Some(rest) = key.strip_prefix(CHECKPOINTS) {
            return digits(rest, SIZE_DIGITS).map(Self::Checkpoints);
        }
        if let Some(rest) = key.strip_prefix(PAYLOADS) {
            return is_hex(rest, 64).then_some(Self::Payload);
        }
        if let Some(rest) = key.strip_prefix(SIDES) {
            let (number, nonce) = rest.split_once('-')?;
            return digits(number, NUMBER_DIGITS)
                .filter(|_| is_hex(nonce, 32))
                .map(Self::Side);
        }
        if let Some(rest) = key.strip_prefix(RUNS) {
            let (level, rest) = rest.split_once('/')?;
            let (from, until) = rest.split_once('-')?;
            let level = digits(level, 1).and_then(|level| u8::try_from(level).ok())?;
            return Some(Self::Run {
                level,
                from: digits(from, NUMBER_DIGITS)?,
                until: digits(until, NUMBER_DIGITS)?,
            });
        }
        if let Ok((index, width)) = parse_entries_path(key) {
            return Some(Self::Entries(index, width));
        }
        TileId::from_path(key).ok().map(Self::Tile)
    }

    /// Whether the object is written once and locked.
    pub(crate) fn is_fixed(&self) -> bool {
        matches!(
            self,
            Self::Log | Self::Batch(_) | Self::Payload | Self::Checkpoints(_)
        )
    }
}

fn digits(text: &str, length: usize) -> Option<u64> {
    let only = text.len() == length && text.bytes().all(|b| b.is_ascii_digit());
    only.then(|| text.parse().ok()).flatten()
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_is_written_and_no_other_is() {
        for (key, name) in [
            (batch(7), Name::Batch(7)),
            (batch(NUMBER_MAX), Name::Batch(NUMBER_MAX)),
            (checkpoint(u64::MAX), Name::Checkpoints(u64::MAX)),
            (payload(&[7; 32]), Name::Payload),
            (side(3, &[9; 16]), Name::Side(3)),
            (
                run(1, 64, 128),
                Name::Run {
                    level: 1,
                    from: 64,
                    until: 128,
                },
            ),
            (
                "tile/entries/x001/234.p/5".to_owned(),
                Name::Entries(1234, 5),
            ),
            ("log".to_owned(), Name::Log),
        ] {
            assert_eq!(Name::parse(&key), Some(name), "{key}");
        }
        for key in [
            "",
            "logs",
            "batch/7",
            "batch/+000000000000007",
            "payload/AA",
            "side/0000000000000003",
            "run/1/64",
            "tile/0/1",
            "checkpoints/99999999999999999999",
            "a/log",
        ] {
            assert_eq!(Name::parse(key), None, "{key}");
        }
    }

    #[test]
    fn batches_are_listed_in_the_order_of_their_numbers() {
        let numbers = [0, 1, 9, 10, 999, 1000, 1_234_567, NUMBER_MAX];
        assert!(numbers.map(batch).is_sorted());
        assert!(numbers.map(checkpoint).is_sorted());
    }
}
