//! Writing a bundle.

use std::collections::BTreeSet;
use std::io::{BufWriter, Write};

use audit_core::datakey::KeyRecord;
use audit_core::entry::{Entry, kinds};
use audit_core::row::{Parts, Row};
use audit_core::token::Token;
use audit_core::{Error, Result};
use audit_tlog::tile::{Tile, TileId};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::{
    CheckpointLine, ColumnsLine, EndLine, EntryLine, Header, KeyLine, LINE_BYTES_MAX, Line,
    PARTS_BYTES_MAX, PIECE_BYTES, TileLine, TokenLine, TokensLine, text_or_base64, written,
};
use crate::Evidence;

/// Rows of a table read at once.
const PAGE: usize = 1024;
/// Tiles and checkpoints read at once; each may be large.
const LARGE_PAGE: usize = 16;
const LEVEL_MAX: u8 = 63;

/// Writes a bundle line by line, in the order of the format.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    parts: bool,
    group: u8,
    end: EndLine,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it can't be written; so with every method here.
    pub fn new(out: W, header: &Header) -> Result<Self> {
        let mut writer = Self {
            out,
            parts: header.parts,
            group: 0,
            end: EndLine::default(),
        };
        writer.line(header)?;
        Ok(writer)
    }

    fn line<T: Serialize>(&mut self, line: &T) -> Result<()> {
        let mut bytes = written(line);
        if bytes.len() > LINE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a line of the bundle would have {} bytes, allowed are {LINE_BYTES_MAX}",
                bytes.len()
            )));
        }
        bytes.push(b'\n');
        self.out
            .write_all(&bytes)
            .map_err(|e| Error::unavailable("the bundle can't be written").because(e))
    }

    fn group(&mut self, group: u8) -> Result<()> {
        if group < self.group {
            return Err(Error::invalid(
                "lines of a bundle come in the order of their groups",
            ));
        }
        self.group = group;
        Ok(())
    }

    /// Writes a checkpoint; by size.
    ///
    /// # Errors
    ///
    /// `Invalid` if something of a later group is written already, or it is too long for a line; so with the others.
    pub fn checkpoint(&mut self, size: u64, note: &[u8]) -> Result<()> {
        self.group(1)?;
        let (note, note_base64) = text_or_base64(note);
        self.end.checkpoints += 1;
        self.line(&Line::Checkpoint(CheckpointLine {
            note,
            note_base64,
            size,
        }))
    }

    /// Writes an entry with its parts; by index.
    ///
    /// # Errors
    ///
    /// As [`Writer::checkpoint`]; `Invalid` for parts of more than 1 GiB.
    pub fn entry(&mut self, row: &Row) -> Result<()> {
        self.group(2)?;
        let (entry, entry_base64) = text_or_base64(&row.entry);
        let parts = row.parts.as_deref().filter(|_| self.parts);
        let length = parts.map(|p| p.len() as u64);
        if let Some(length) = length.filter(|l| *l > PARTS_BYTES_MAX) {
            return Err(Error::invalid(format!(
                "the stored parts have {length} bytes, a bundle takes {PARTS_BYTES_MAX}; export without parts"
            ))
            .at(row.index));
        }
        self.end.entries += 1;
        self.line(&Line::Entry(Box::new(EntryLine {
            columns: ColumnsLine {
                event: row.columns.event,
                kind: row.columns.kind.clone(),
                time: row.columns.time,
            },
            entry,
            entry_base64,
            index: row.index,
            parts: length,
            tokens: row.tokens.as_ref().map(|set| TokensLine {
                salt: set.salt,
                tokens: set.tokens.clone(),
            }),
        })))?;
        for piece in parts.unwrap_or_default().chunks(PIECE_BYTES) {
            self.line(&Line::Part(STANDARD.encode(piece)))?;
        }
        Ok(())
    }

    /// Writes a tile; by level, then index.
    ///
    /// # Errors
    ///
    /// As [`Writer::checkpoint`].
    pub fn tile(&mut self, tile: &Tile) -> Result<()> {
        self.group(3)?;
        self.end.tiles += 1;
        self.line(&Line::Tile(TileLine::new(tile)))
    }

    /// Writes a row of the token index.
    ///
    /// # Errors
    ///
    /// As [`Writer::checkpoint`].
    pub fn token(&mut self, token: Token, index: u64) -> Result<()> {
        self.group(4)?;
        self.end.tokens += 1;
        self.line(&Line::Token(TokenLine { index, token }))
    }

    /// Writes the record of a data key; by id.
    ///
    /// # Errors
    ///
    /// As [`Writer::checkpoint`].
    pub fn key(&mut self, record: &KeyRecord) -> Result<()> {
        self.group(5)?;
        self.end.keys += 1;
        self.line(&Line::Key(KeyLine::new(record)))
    }

    /// Writes the end line and flushes. Without it the bundle counts as cut.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it can't be written.
    pub fn finish(mut self) -> Result<W> {
        self.line(&Line::End(self.end))?;
        self.out
            .flush()
            .map_err(|e| Error::unavailable("the bundle can't be written").because(e))?;
        Ok(self.out)
    }
}

/// Writes all of a log as a bundle; answers with the number of entries in it. Nothing is verified by this.
///
/// # Errors
///
/// What the evidence says; `Unavailable` if the bundle can't be written, or a data key was destroyed or rewrapped
/// meanwhile; `Invalid` if something doesn't fit into a bundle. What was written until then is no bundle.
pub fn export<W: Write>(evidence: &dyn Evidence, out: W, with_parts: bool) -> Result<u64> {
    let origin = evidence
        .origin()?
        .ok_or_else(|| Error::not_found("there is no log to export"))?;
    let size = evidence.size()?;
    let grown_to = || Ok::<u64, Error>(evidence.size()?.max(size));
    let with_parts = with_parts && evidence.has_parts();
    let mut writer = Writer::new(BufWriter::new(out), &Header::new(origin, with_parts, size))?;

    let mut after = 0;
    loop {
        let page = evidence.checkpoints(after, LARGE_PAGE)?;
        if page.is_empty() {
            break;
        }
        for (checkpoint, note) in page {
            after = ascending(after, checkpoint)?;
            // One that came since; one over more entries than there are now belongs to the evidence.
            if checkpoint <= size || checkpoint > grown_to()? {
                writer.checkpoint(checkpoint, &note)?;
            }
        }
    }
    let mut next = 0;
    while next < size {
        let rows = evidence.rows(
            next..size,
            if with_parts {
                Parts::With
            } else {
                Parts::Without
            },
        )?;
        if rows.is_empty() {
            // The bundle then shows what the store shows: fewer entries than it says.
            break;
        }
        for row in rows {
            writer.entry(&row)?;
            next = next.max(row.index.saturating_add(1));
        }
    }
    for level in 0..=LEVEL_MAX {
        let mut after = None;
        loop {
            let page = evidence.tiles(level, after, LARGE_PAGE)?;
            if page.is_empty() {
                break;
            }
            for mut tile in page {
                if after.is_some_and(|after| tile.id.index <= after) {
                    return Err(Error::corrupt(format!(
                        "stored tiles of level {level} are not in order"
                    )));
                }
                after = Some(tile.id.index);
                let width = TileId::in_tree(level, tile.id.index, size).map_or(0, |id| id.width);
                if tile.id.width > width
                    && TileId::in_tree(level, tile.id.index, grown_to()?)
                        .is_some_and(|now| now.width > width)
                {
                    if width == 0 {
                        continue;
                    }
                    tile.id.width = width;
                    tile.hashes.truncate(usize::from(width));
                }
                writer.tile(&tile)?;
            }
        }
    }
    let mut after = None;
    loop {
        let page = evidence.token_rows(after, PAGE)?;
        if page.is_empty() {
            break;
        }
        for (token, index) in page {
            after = Some((token, index));
            if index < size || index >= grown_to()? {
                writer.token(token, index)?;
            }
        }
    }
    // Records are read into memory a page at a time; which of them are new, the entries behind the end say, and those
    // are read after the records, so that none is overlooked.
    let mut after = None;
    loop {
        let page = evidence.keys(after, PAGE)?;
        if page.is_empty() {
            break;
        }
        let new = introduced_since(evidence, size, grown_to()?)?;
        for record in page {
            if after.is_some_and(|after| record.id <= after) {
                return Err(Error::corrupt(
                    "key records are not in the order of their ids",
                ));
            }
            after = Some(record.id);
            if !new.contains(&record.id) {
                writer.key(&record)?;
            }
        }
    }
    introduced_since(evidence, size, grown_to()?)?;
    let entries = writer.end.entries;
    drop(writer.finish()?);
    Ok(entries)
}

fn ascending(after: u64, size: u64) -> Result<u64> {
    if size > after {
        Ok(size)
    } else {
        Err(Error::corrupt(
            "checkpoints are not in the order of their sizes",
        ))
    }
}

/// The data keys that entries from `size` on introduce.
fn introduced_since(evidence: &dyn Evidence, size: u64, now: u64) -> Result<BTreeSet<uuid::Uuid>> {
    let mut new = BTreeSet::new();
    let mut at = size;
    while at < now {
        let rows = evidence.rows(at..now, Parts::Without)?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            at = at.max(row.index.saturating_add(1));
            let Ok(entry) = Entry::decode(&row.entry) else {
                continue;
            };
            if matches!(
                entry.kind.as_str(),
                kinds::KEY_DESTROYED | kinds::KEY_REWRAPPED
            ) {
                return Err(Error::unavailable(
                    "data keys were destroyed or rewrapped while the log was being exported; export again",
                ));
            }
            new.extend(entry.keys.iter().flatten().map(|k| k.id));
        }
    }
    Ok(new)
}
