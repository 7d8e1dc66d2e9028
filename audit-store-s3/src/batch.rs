//! Batch objects: encoding, strict decoding, and what the header alone says.

use audit_core::packed::{self, PACKED_BYTES_MAX};
use audit_core::store::{Batch, Head, Tile};
use audit_core::{Error, Result};
use audit_tlog::Hash;
use audit_tlog::tile::{EdgeTiles, SIZE_MAX, TILE_WIDTH, TileId};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::codec::{Cursor, length32};
use crate::names::NUMBER_MAX;

const MAGIC: &[u8; 8] = b"LLATbat1";
const KIND_ROWS: u8 = 1;
const KIND_SKIPPED: u8 = 2;
const NO_PARTS: u8 = 0;
const INLINE: u8 = 1;
const APART: u8 = 2;
/// Rows of one batch.
pub(crate) const ROWS_MAX: u32 = 65_536;
/// Parts of one row up to this size stand in the batch.
pub(crate) const INLINE_MAX: usize = 256 * 1024;
/// Levels that a tree can have tiles at.
pub(crate) const LEVELS: u8 = 8;
/// Before the edge.
const FIXED: usize = 8 + 1 + 8 + 8 + 4 + 16 + 32 + 16 + 4 + 4 + 8;
/// The header of any batch fits into so many bytes.
pub(crate) const HEADER_MAX: usize = FIXED + LEVELS as usize * (2 + 255 * Hash::LEN);
/// Stored parts of one entry: an object can have 5 TB, but it is held in memory.
pub(crate) const PARTS_BYTES_MAX: usize = 999_000_000;
const TILE_BYTES: usize = TILE_WIDTH as usize * Hash::LEN;

/// What the header of a batch says.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) number: u64,
    pub(crate) skipped: bool,
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) nonce: [u8; 16],
    pub(crate) previous: [u8; 32],
    pub(crate) event_max: [u8; 16],
    tiles: usize,
    entries: usize,
    parts: u64,
    length: usize,
    /// The edge behind it.
    pub(crate) edge: EdgeTiles,
}

impl Header {
    /// The tree size behind the batch.
    pub(crate) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    pub(crate) fn head(&self) -> Head {
        Head {
            size: self.end(),
            edge: self.edge.clone(),
        }
    }

    /// Bytes up to the end of the entries.
    pub(crate) fn without_parts(&self) -> u64 {
        (self.length + self.tiles + self.entries) as u64
    }

    /// Bytes of the whole object.
    pub(crate) fn total(&self) -> u64 {
        self.without_parts().saturating_add(self.parts)
    }

    /// Reads the header at the front of a batch object.
    pub(crate) fn decode(name: &str, number: u64, bytes: &[u8]) -> Result<Self> {
        let mut at = Cursor::new(name, bytes);
        if at.array::<8>()? != *MAGIC {
            return Err(at.wrong("is no batch of this layout"));
        }
        let skipped = match at.u8()? {
            KIND_ROWS => false,
            KIND_SKIPPED => true,
            other => return Err(at.wrong(format_args!("is of kind {other}"))),
        };
        let says = at.u64()?;
        if says != number {
            return Err(at.wrong(format_args!("says that it has number {says}")));
        }
        let first = at.u64()?;
        let count = at.u32()?;
        let nonce = at.array()?;
        let previous = at.array()?;
        let event_max = at.array()?;
        let (tiles, entries, parts) = (at.u32()? as usize, at.u32()? as usize, at.u64()?);
        let size = first
            .checked_add(count.into())
            .filter(|size| *size <= SIZE_MAX)
            .ok_or_else(|| at.wrong(format_args!("says {count} rows from {first} on")))?;
        let mut levels = Vec::with_capacity(LEVELS.into());
        for _ in 0..LEVELS {
            let width = at.u16()?;
            if width >= TILE_WIDTH {
                return Err(at.wrong(format_args!("has {width} hashes on its edge")));
            }
            let mut level = Vec::with_capacity(width.into());
            for _ in 0..width {
                level.push(Hash::from_bytes(at.array()?));
            }
            levels.push(level);
        }
        let length = bytes.len() - at.len();
        let edge = EdgeTiles::from_tiles(size, levels)
            .map_err(|e| at.wrong("has an edge of another tree").because(e))?;
        let filled = filled(first, size).count();
        let fits = if skipped {
            count == 0 && tiles == 0 && entries == 0 && parts == 0
        } else {
            (1..=ROWS_MAX).contains(&count)
                && tiles == filled * TILE_BYTES
                && entries <= count as usize * (4 + PACKED_BYTES_MAX)
                && parts >= count.into()
        };
        if !fits {
            return Err(at.wrong("has sections that don't fit its rows"));
        }
        Ok(Self {
            number,
            skipped,
            first,
            count,
            nonce,
            previous,
            event_max,
            tiles,
            entries,
            parts,
            length,
            edge,
        })
    }

    /// The full tiles of the batch, from an object read at least up to them.
    pub(crate) fn tiles(&self, name: &str, object: &[u8]) -> Result<Vec<Tile>> {
        let mut at = Cursor::new(name, object);
        at.take(self.length)?;
        let mut out = Vec::new();
        for id in filled(self.first, self.end()) {
            out.push(
                Tile::decode(id, at.take(TILE_BYTES)?)
                    .map_err(|e| at.wrong("has a malformed tile").because(e))?,
            );
        }
        Ok(out)
    }

    /// The entries, unpacked, from an object read at least up to their end.
    pub(crate) fn entries(&self, name: &str, object: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut front = Cursor::new(name, object);
        front.take(self.length + self.tiles)?;
        let mut at = Cursor::new(name, front.take(self.entries)?);
        let mut out = Vec::with_capacity(self.count as usize);
        for index in (self.first..).take(self.count as usize) {
            let packed = at.u32().and_then(|length| at.take(length as usize));
            let entry = packed.and_then(packed::unpack);
            out.push(entry.map_err(|e| e.at(index))?);
        }
        at.end()?;
        Ok(out)
    }

    /// Where the parts of each row are, from the whole object.
    pub(crate) fn parts<'a>(&self, name: &'a str, object: &'a Bytes) -> Result<Vec<Stored>> {
        let skip = usize::try_from(self.without_parts()).unwrap_or(usize::MAX);
        let mut at = Cursor::new(name, object);
        at.take(skip)?;
        let mut out = Vec::with_capacity(self.count as usize);
        for index in (self.first..).take(self.count as usize) {
            out.push(stored(&mut at, object).map_err(|e| e.at(index))?);
        }
        at.end()?;
        Ok(out)
    }
}

/// Where the stored parts of a row are.
#[derive(Debug, Clone)]
pub(crate) enum Stored {
    None,
    Here(Bytes),
    Apart { length: u64, digest: [u8; 32] },
}

impl Stored {
    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Here(bytes) => bytes.len() as u64,
            Self::Apart { length, .. } => *length,
        }
    }
}

fn stored(at: &mut Cursor<'_>, object: &Bytes) -> Result<Stored> {
    match at.u8()? {
        NO_PARTS => Ok(Stored::None),
        INLINE => {
            let length = at.u64()?;
            if length > INLINE_MAX as u64 {
                return Err(at.wrong(format_args!("has {length} bytes of parts in one row")));
            }
            let bytes = at.take(usize::try_from(length).unwrap_or(usize::MAX))?;
            Ok(Stored::Here(object.slice_ref(bytes)))
        }
        APART => {
            let length = at.u64()?;
            if length <= INLINE_MAX as u64 || length > PARTS_BYTES_MAX as u64 {
                return Err(at.wrong(format_args!("has {length} bytes of parts apart")));
            }
            let digest = at.array()?;
            Ok(Stored::Apart { length, digest })
        }
        other => Err(at.wrong(format_args!("has parts of kind {other}"))),
    }
}

/// The tiles that become full when a log grows from `first` to `size` entries, by level, then index.
pub(crate) fn filled(first: u64, size: u64) -> impl Iterator<Item = TileId> {
    (0..LEVELS).flat_map(move |level| {
        let tiles = |size: u64| size.checked_shr(8 * (u32::from(level) + 1)).unwrap_or(0);
        (tiles(first)..tiles(size)).map(move |index| TileId {
            level,
            index,
            width: TILE_WIDTH,
        })
    })
}

/// What a batch object says beside its rows.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) number: u64,
    pub(crate) nonce: [u8; 16],
    pub(crate) previous: [u8; 32],
    pub(crate) event_max: [u8; 16],
}

/// A batch object, and the large parts that it names.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) object: Bytes,
    pub(crate) apart: Vec<([u8; 32], Bytes)>,
}

fn front(
    frame: &Frame,
    kind: u8,
    first: u64,
    count: [u8; 4],
    sections: (usize, usize, usize),
    edge: &EdgeTiles,
) -> Result<Vec<u8>> {
    let (tiles, entries, parts) = sections;
    if frame.number > NUMBER_MAX {
        return Err(Error::invalid(
            "the log has as many batches as there are numbers",
        ));
    }
    let mut out = Vec::with_capacity(HEADER_MAX.min(FIXED + 3 * 4096) + tiles + entries + parts);
    out.extend_from_slice(MAGIC);
    out.push(kind);
    out.extend_from_slice(&frame.number.to_be_bytes());
    out.extend_from_slice(&first.to_be_bytes());
    out.extend_from_slice(&count);
    out.extend_from_slice(&frame.nonce);
    out.extend_from_slice(&frame.previous);
    out.extend_from_slice(&frame.event_max);
    out.extend_from_slice(&length32("the tiles of a batch", tiles)?);
    out.extend_from_slice(&length32("the entries of a batch", entries)?);
    out.extend_from_slice(&(parts as u64).to_be_bytes());
    for level in 0..LEVELS {
        let hashes = edge.tile(level);
        out.extend_from_slice(
            &u16::try_from(hashes.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        for hash in hashes {
            out.extend_from_slice(hash.as_bytes());
        }
    }
    Ok(out)
}

/// The object of a number at which nothing stands.
pub(crate) fn skipped(frame: &Frame, head: &Head) -> Result<Bytes> {
    front(
        frame,
        KIND_SKIPPED,
        head.size,
        [0; 4],
        (0, 0, 0),
        &head.edge,
    )
    .map(Bytes::from)
}

/// The object of a batch that [`check`] found to fit `head`; `after` is the head behind it.
pub(crate) fn encode(frame: &Frame, batch: &Batch, head: &Head, after: &Head) -> Result<Encoded> {
    let mut tiles = Vec::new();
    for id in filled(head.size, after.size) {
        let tile = batch.tiles.iter().find(|tile| tile.id == id);
        let tile = tile.filter(|tile| tile.hashes.len() == usize::from(TILE_WIDTH));
        tiles.extend(
            tile.ok_or_else(|| unfit(head, &format!("{id} is missing")))?
                .encode(),
        );
    }
    let mut entries = Vec::with_capacity(batch.rows.len() * 600);
    let mut parts = Vec::new();
    let mut apart = Vec::new();
    for row in &batch.rows {
        let packed = packed::pack(&row.entry);
        entries.extend_from_slice(&length32("an entry", packed.len())?);
        entries.extend_from_slice(&packed);
        match &row.parts {
            None => parts.push(NO_PARTS),
            Some(bytes) => {
                let large = bytes.len() > INLINE_MAX;
                parts.push(if large { APART } else { INLINE });
                parts.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
                if large {
                    let digest: [u8; 32] = Sha256::digest(bytes).into();
                    parts.extend_from_slice(&digest);
                    apart.push((digest, Bytes::from(bytes.clone())));
                } else {
                    parts.extend_from_slice(bytes);
                }
            }
        }
    }
    let sections = (tiles.len(), entries.len(), parts.len());
    let count = length32("a batch", batch.rows.len())?;
    let mut object = front(frame, KIND_ROWS, head.size, count, sections, &after.edge)?;
    object.extend_from_slice(&tiles);
    object.extend_from_slice(&entries);
    object.extend_from_slice(&parts);
    Ok(Encoded {
        object: object.into(),
        apart,
    })
}

fn unfit(head: &Head, what: &str) -> Error {
    Error::invalid(format!(
        "the batch doesn't fit the log of {} entries: {what}",
        head.size
    ))
}

/// Holds a batch against the head it was built on, and against what one object holds.
pub(crate) fn check(batch: &Batch, head: &Head) -> Result<()> {
    if batch.rows.len() > ROWS_MAX as usize {
        return Err(unfit(head, &format!("it has {} rows", batch.rows.len())));
    }
    batch.check(head, PARTS_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use audit_testkit::sample::Sample;

    use super::*;

    fn object(rows: usize, parts: usize) -> (Batch, Head, Encoded) {
        let head = Head::empty();
        let batch = Sample::new(rows, 1)
            .parts_bytes(parts)
            .batch(&head)
            .unwrap();
        let after = batch.head_after(&head).unwrap();
        let frame = Frame {
            number: 0,
            nonce: [1; 16],
            previous: [2; 32],
            event_max: [3; 16],
        };
        let encoded = encode(&frame, &batch, &head, &after).unwrap();
        (batch, after, encoded)
    }

    #[test]
    fn what_was_put_into_a_batch_is_read_from_it() {
        for (rows, parts, large) in [
            (1, 10, false),
            (300, 10, false),
            (3, INLINE_MAX, false),
            (3, INLINE_MAX + 1, true),
        ] {
            let (batch, after, encoded) = object(rows, parts);
            let header = Header::decode("b", 0, &encoded.object).unwrap();
            assert_eq!((header.first, header.end()), (0, rows as u64));
            assert_eq!(header.total(), encoded.object.len() as u64);
            assert_eq!(header.edge.root(), after.edge.root());
            let entries = header.entries("b", &encoded.object).unwrap();
            assert!(entries.iter().eq(batch.rows.iter().map(|row| &row.entry)));
            let full = batch.tiles.iter().filter(|tile| tile.id.is_full());
            assert!(header.tiles("b", &encoded.object).unwrap().iter().eq(full));
            assert_eq!(encoded.apart.is_empty(), !large);
            for (stored, row) in header
                .parts("b", &encoded.object)
                .unwrap()
                .iter()
                .zip(&batch.rows)
            {
                match (stored, &row.parts) {
                    (Stored::None, None) => {}
                    (Stored::Here(bytes), Some(parts)) => assert_eq!(bytes, parts),
                    (Stored::Apart { length, .. }, Some(parts)) => {
                        assert_eq!(*length, parts.len() as u64);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_batch_that_is_cut_or_longer_or_of_another_number_is_refused() {
        let (_, _, encoded) = object(3, 40);
        let good = &encoded.object;
        let read = |bytes: &[u8], number| {
            let header = Header::decode("b", number, bytes)?;
            let bytes = Bytes::copy_from_slice(bytes);
            header.tiles("b", &bytes)?;
            header.entries("b", &bytes)?;
            header.parts("b", &bytes)
        };
        read(good, 0).unwrap();
        read(good, 1).unwrap_err();
        for length in 0..good.len() {
            read(&good[..length], 0).unwrap_err();
        }
        read(&[good, &b"x"[..]].concat(), 0).unwrap_err();
        // Nothing panics on any byte.
        for at in 0..good.len() {
            let mut bytes = good.to_vec();
            bytes[at] ^= 0xff;
            drop(read(&bytes, 0));
        }
    }

    #[test]
    fn the_largest_header_fits() {
        let size = (1_u64 << 56) - 1;
        let mut levels = vec![vec![Hash::from_bytes([0; 32]); 255]; 7];
        levels.push(Vec::new());
        let edge = EdgeTiles::from_tiles(size, levels).unwrap();
        let frame = Frame {
            number: NUMBER_MAX,
            nonce: [0; 16],
            previous: [0; 32],
            event_max: [0; 16],
        };
        let object = skipped(&frame, &Head { size, edge }).unwrap();
        assert!(object.len() <= HEADER_MAX, "{}", object.len());
        let header = Header::decode("b", NUMBER_MAX, &object).unwrap();
        assert!(header.skipped && header.first == size);
    }
}
