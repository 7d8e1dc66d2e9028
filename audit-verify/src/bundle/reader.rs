//! Reading a bundle: a sparse index in memory, the rest from the file.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use audit_core::datakey::KeyRecord;
use audit_core::row::{Parts, Row};
use audit_core::token::Token;
use audit_core::{Error, Result};
use audit_tlog::tile::Tile;
use uuid::Uuid;

use super::{
    EndLine, Header, LINE_BYTES_MAX, Line, PARTS_BYTES_MAX, PIECE_BYTES, VERSION, base64_decode,
    bytes_of, parse,
};
use crate::Evidence;

/// Every so many lines of a group one offset is kept: 24 bytes per 256 entries.
const SPARSE: u64 = 256;
/// About so many bytes of rows are answered at once.
const ROWS_BYTES: usize = 4 << 20;

/// A bundle, opened. What it says is not verified, only well formed as far as it was read.
pub struct Reader<R> {
    header: Header,
    index: Index,
    state: Mutex<State<R>>,
}

/// Where things lie: offsets of lines.
#[derive(Default)]
struct Index {
    end: EndLine,
    entries: Vec<u64>,
    /// The first tile of each level.
    levels: BTreeMap<u8, u64>,
    tokens: Option<u64>,
    keys: Vec<(Uuid, u64)>,
    checkpoints: Vec<(u64, u64)>,
}

struct State<R> {
    file: BufReader<R>,
    /// Where the next read starts.
    position: u64,
    line: Vec<u8>,
    /// Where a walk goes on: the entry number, and for each level the tile, and the token row that came last.
    entry: Option<(u64, u64)>,
    tiles: BTreeMap<u8, (u64, u64)>,
    token: Option<((Token, u64), u64)>,
}

fn unreadable(e: std::io::Error) -> Error {
    Error::unavailable("the bundle can't be read").because(e)
}

impl<R: Read + Seek> State<R> {
    fn seek(&mut self, offset: u64) -> Result<()> {
        if offset != self.position {
            self.file
                .seek(SeekFrom::Start(offset))
                .map_err(unreadable)?;
            self.position = offset;
        }
        Ok(())
    }

    /// Reads the next line into `self.line`, without its newline; `false` at the end of the file.
    fn next(&mut self) -> Result<bool> {
        self.line.clear();
        let read = self
            .file
            .by_ref()
            .take(LINE_BYTES_MAX as u64 + 1)
            .read_until(b'\n', &mut self.line)
            .map_err(unreadable)?;
        self.position += read as u64;
        if read == 0 {
            return Ok(false);
        }
        if self.line.pop() == Some(b'\n') {
            Ok(true)
        } else {
            Err(Error::corrupt(format!(
                "a line of the bundle is cut, or longer than {LINE_BYTES_MAX} bytes"
            )))
        }
    }
}

/// The groups of lines, in their order; part lines belong to the entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Checkpoints,
    Entries,
    Tiles,
    Tokens,
    Keys,
    End,
}

const PART: &[u8] = b"{\"part\":";

fn group_of(line: &[u8]) -> Option<Group> {
    [
        (&b"{\"checkpoint\":"[..], Group::Checkpoints),
        (b"{\"entry\":", Group::Entries),
        (PART, Group::Entries),
        (b"{\"tile\":", Group::Tiles),
        (b"{\"token\":", Group::Tokens),
        (b"{\"key\":", Group::Keys),
        (b"{\"end\":", Group::End),
    ]
    .into_iter()
    .find_map(|(prefix, group)| line.starts_with(prefix).then_some(group))
}

impl<R: Read + Seek> Reader<R> {
    /// Opens a bundle: reads it once, to see where things lie and that they are in order and complete.
    ///
    /// # Errors
    ///
    /// `Invalid`: it is no bundle, or one of another version.
    /// `Corrupt`: it is cut, or not in order.
    /// `Unavailable`: it can't be read.
    pub fn open(file: R) -> Result<Self> {
        let mut state = State {
            file: BufReader::with_capacity(128 << 10, file),
            position: 0,
            line: Vec::new(),
            entry: None,
            tiles: BTreeMap::new(),
            token: None,
        };
        state.file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let header = Self::read_header(&mut state)?;
        let mut index = Index::default();
        let mut count = EndLine::default();
        let mut group = Group::Checkpoints;
        let mut last_checkpoint = None;
        let mut last_tile = None;
        let mut last_key = None;
        let mut end = None;
        loop {
            let offset = state.position;
            if !state.next()? {
                break;
            }
            if end.is_some() {
                return Err(Error::corrupt("the bundle goes on behind its end line"));
            }
            let line = state.line.as_slice();
            let this = group_of(line)
                .ok_or_else(|| Error::corrupt("a line of the bundle is of no known kind"))?;
            if this < group {
                return Err(Error::corrupt(
                    "lines of the bundle are not in the order of their groups",
                ));
            }
            group = this;
            match this {
                Group::Entries if line.starts_with(PART) => {
                    if count.entries == 0 || !header.parts {
                        return Err(Error::corrupt(
                            "a part line of the bundle belongs to no entry, or must not be there",
                        ));
                    }
                }
                Group::Entries => {
                    if count.entries.is_multiple_of(SPARSE) {
                        index.entries.push(offset);
                    }
                    count.entries += 1;
                }
                Group::Tokens => {
                    index.tokens.get_or_insert(offset);
                    count.tokens += 1;
                }
                Group::Checkpoints => {
                    let Line::Checkpoint(checkpoint) = parse(line)? else {
                        return Err(Error::corrupt(
                            "a checkpoint line of the bundle is malformed",
                        ));
                    };
                    if checkpoint.size == 0 {
                        return Err(Error::corrupt("a checkpoint of the bundle is of size 0"));
                    }
                    in_order(&mut last_checkpoint, checkpoint.size, "checkpoints")?;
                    if count.checkpoints.is_multiple_of(SPARSE) {
                        index.checkpoints.push((checkpoint.size, offset));
                    }
                    count.checkpoints += 1;
                }
                Group::Tiles => {
                    let Line::Tile(tile) = parse(line)? else {
                        return Err(Error::corrupt("a tile line of the bundle is malformed"));
                    };
                    in_order(&mut last_tile, (tile.level, tile.index), "tiles")?;
                    index.levels.entry(tile.level).or_insert(offset);
                    count.tiles += 1;
                }
                Group::Keys => {
                    let Line::Key(key) = parse(line)? else {
                        return Err(Error::corrupt("a key line of the bundle is malformed"));
                    };
                    in_order(&mut last_key, key.id, "key records")?;
                    if count.keys.is_multiple_of(SPARSE) {
                        index.keys.push((key.id, offset));
                    }
                    count.keys += 1;
                }
                Group::End => {
                    let Line::End(said) = parse(line)? else {
                        return Err(Error::corrupt("the end line of the bundle is malformed"));
                    };
                    end = Some(said);
                }
            }
        }
        match end {
            None => return Err(Error::corrupt("the bundle has no end line: it is cut")),
            Some(said) if said != count => {
                return Err(Error::corrupt(
                    "the bundle has not the lines that its end line counts",
                ));
            }
            Some(_) => index.end = count,
        }
        Ok(Self {
            header,
            index,
            state: Mutex::new(state),
        })
    }

    fn read_header(state: &mut State<R>) -> Result<Header> {
        let no_bundle = || Error::invalid("this is not an evidence bundle");
        match state.next() {
            Ok(true) => {}
            Ok(false) => return Err(no_bundle()),
            Err(e) if e.kind() == audit_core::ErrorKind::Corrupt => {
                return Err(no_bundle().because(e));
            }
            Err(e) => return Err(e),
        }
        let header: Header = parse(&state.line).map_err(|e| no_bundle().because(e))?;
        if header.bundle == VERSION {
            Ok(header)
        } else {
            Err(Error::invalid(format!(
                "bundle of version {:?}, this code reads {VERSION:?}",
                header.bundle.chars().take(80).collect::<String>()
            )))
        }
    }

    /// What the bundle says of itself.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        // Every method seeks before it reads, so a panic elsewhere leaves nothing half done here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn row(&self, state: &mut State<R>, number: u64, parts: Parts) -> Result<Option<Row>> {
        // Without the index of the line, which is not known yet, an error names the entry by its place.
        let line = match parse::<Line>(&state.line).map_err(|e| e.at(number))? {
            Line::Entry(line) => *line,
            _ => return Ok(None),
        };
        let length = line.parts;
        if length.is_some() && !self.header.parts {
            return Err(Error::corrupt("an entry has parts in a bundle without").at(number));
        }
        let mut row = Row {
            index: line.index,
            entry: bytes_of(line.entry, line.entry_base64).map_err(|e| e.at(number))?,
            columns: line.columns.columns(),
            tokens: line.tokens.map(super::TokensLine::set),
            parts: None,
        };
        if let Some(length) = length {
            let read = Self::parts(state, length, parts).map_err(|e| {
                if e.kind() == audit_core::ErrorKind::Corrupt {
                    e.at(number)
                } else {
                    e
                }
            })?;
            row.parts = (parts == Parts::With).then_some(read);
        }
        Ok(Some(row))
    }

    /// Reads, or skips, part lines of `length` bytes together.
    fn parts(state: &mut State<R>, length: u64, parts: Parts) -> Result<Vec<u8>> {
        if length > PARTS_BYTES_MAX {
            return Err(Error::corrupt(format!(
                "stored parts of {length} bytes, a bundle takes {PARTS_BYTES_MAX}"
            )));
        }
        let mut out = Vec::new();
        let mut left = length;
        while left > 0 {
            if !state.next()? || !state.line.starts_with(PART) {
                return Err(Error::corrupt("part lines are missing"));
            }
            let expected = left.min(PIECE_BYTES as u64);
            left -= expected;
            if parts == Parts::Without {
                continue;
            }
            let Line::Part(piece) = parse(&state.line)? else {
                return Err(Error::corrupt("a part line is malformed"));
            };
            let piece = base64_decode(&piece)?;
            if piece.len() as u64 != expected {
                return Err(Error::corrupt(
                    "a part line has another length than it must",
                ));
            }
            out.extend_from_slice(&piece);
        }
        Ok(out)
    }
}

fn in_order<T: PartialOrd>(last: &mut Option<T>, this: T, what: &str) -> Result<()> {
    if last.as_ref().is_some_and(|last| this <= *last) {
        return Err(Error::corrupt(format!(
            "{what} in the bundle are not in order"
        )));
    }
    *last = Some(this);
    Ok(())
}

/// The offset from which to read to find what comes behind `after`.
fn sparse<T: PartialOrd + Copy>(index: &[(T, u64)], after: T) -> Option<u64> {
    let at = index.partition_point(|(first, _)| *first <= after);
    index.get(at.saturating_sub(1)).map(|(_, offset)| *offset)
}

impl<R: Read + Seek> Evidence for Reader<R> {
    fn origin(&self) -> Result<Option<String>> {
        Ok(Some(self.header.origin.clone()))
    }

    fn size(&self) -> Result<u64> {
        Ok(self.header.size)
    }

    fn has_parts(&self) -> bool {
        self.header.parts
    }

    fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        if range.is_empty() || range.start >= self.index.end.entries {
            return Ok(rows);
        }
        let mut state = self.state();
        let state = &mut *state;
        let mut number = match state.entry {
            Some((number, offset)) if number == range.start => {
                state.seek(offset)?;
                number
            }
            _ => {
                let block = range.start / SPARSE;
                let offset = usize::try_from(block)
                    .ok()
                    .and_then(|b| self.index.entries.get(b))
                    .copied();
                let offset = offset.ok_or_else(|| {
                    Error::corrupt("the bundle has no such entry").at(range.start)
                })?;
                state.seek(offset)?;
                block * SPARSE
            }
        };
        let mut bytes = 0;
        while number < range.end && bytes < ROWS_BYTES {
            let offset = state.position;
            if !state.next()? {
                break;
            }
            if state.line.starts_with(PART) {
                // Left over from an entry that says it has fewer.
                return Err(
                    Error::corrupt("a part line belongs to no entry").at(number.saturating_sub(1))
                );
            }
            if group_of(&state.line) != Some(Group::Entries) {
                state.seek(offset)?;
                break;
            }
            if number < range.start {
                number += 1;
                Self::skip_parts(state)?;
                continue;
            }
            let Some(row) = self.row(state, number, parts)? else {
                break;
            };
            bytes += row.entry.len() + row.parts.as_ref().map_or(0, Vec::len) + 256;
            rows.push(row);
            number += 1;
        }
        state.entry = Some((number, state.position));
        Ok(rows)
    }

    fn token_rows(&self, after: Option<(Token, u64)>, limit: usize) -> Result<Vec<(Token, u64)>> {
        let mut rows = Vec::new();
        let Some(start) = self.index.tokens else {
            return Ok(rows);
        };
        let mut state = self.state();
        let state = &mut *state;
        // Rows are in no order that this could rely on: a walk goes on where it was, anything else starts over.
        let mut seeking = None;
        match (after, state.token) {
            (None, _) => state.seek(start)?,
            (Some(after), Some((last, offset))) if last == after => state.seek(offset)?,
            (Some(after), _) => {
                state.seek(start)?;
                seeking = Some(after);
            }
        }
        while rows.len() < limit {
            let offset = state.position;
            if !state.next()? || group_of(&state.line) != Some(Group::Tokens) {
                state.seek(offset)?;
                break;
            }
            let Line::Token(line) = parse(&state.line)? else {
                return Err(Error::corrupt("a token line of the bundle is malformed"));
            };
            let row = (line.token, line.index);
            match seeking {
                Some(after) => {
                    if row == after {
                        seeking = None;
                    }
                }
                None => rows.push(row),
            }
        }
        if let Some(last) = rows.last() {
            state.token = Some((*last, state.position));
        }
        Ok(rows)
    }

    fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        let mut tiles = Vec::new();
        let Some(start) = self.index.levels.get(&level) else {
            return Ok(tiles);
        };
        let mut state = self.state();
        let state = &mut *state;
        match (after, state.tiles.get(&level)) {
            (Some(after), Some((last, offset))) if *last == after => {
                let offset = *offset;
                state.seek(offset)?;
            }
            _ => state.seek(*start)?,
        }
        while tiles.len() < limit {
            if !state.next()? || group_of(&state.line) != Some(Group::Tiles) {
                break;
            }
            let Line::Tile(line) = parse(&state.line)? else {
                return Err(Error::corrupt("a tile line of the bundle is malformed"));
            };
            if line.level != level {
                break;
            }
            if after.is_none_or(|after| line.index > after) {
                tiles.push(line.tile()?);
                state.tiles.insert(level, (line.index, state.position));
            }
        }
        Ok(tiles)
    }

    fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        let mut checkpoints = Vec::new();
        let Some(offset) = sparse(&self.index.checkpoints, after) else {
            return Ok(checkpoints);
        };
        let mut state = self.state();
        let state = &mut *state;
        state.seek(offset)?;
        while checkpoints.len() < limit {
            if !state.next()? || group_of(&state.line) != Some(Group::Checkpoints) {
                break;
            }
            let Line::Checkpoint(line) = parse(&state.line)? else {
                return Err(Error::corrupt(
                    "a checkpoint line of the bundle is malformed",
                ));
            };
            if line.size > after {
                checkpoints.push((line.size, bytes_of(line.note, line.note_base64)?));
            }
        }
        Ok(checkpoints)
    }

    fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        let mut keys = Vec::new();
        let offset = match after {
            Some(after) => sparse(&self.index.keys, after),
            None => self.index.keys.first().map(|(_, offset)| *offset),
        };
        let Some(offset) = offset else {
            return Ok(keys);
        };
        let mut state = self.state();
        let state = &mut *state;
        state.seek(offset)?;
        while keys.len() < limit {
            if !state.next()? || group_of(&state.line) != Some(Group::Keys) {
                break;
            }
            let Line::Key(line) = parse(&state.line)? else {
                return Err(Error::corrupt("a key line of the bundle is malformed"));
            };
            if after.is_none_or(|after| line.id > after) {
                keys.push(line.record());
            }
        }
        Ok(keys)
    }

    fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        // The record behind the greatest id below this one.
        let below = id.as_u128().checked_sub(1).map(Uuid::from_u128);
        Ok(self.keys(below, 1)?.pop().filter(|record| record.id == id))
    }
}

impl<R: Read + Seek> Reader<R> {
    fn skip_parts(state: &mut State<R>) -> Result<()> {
        loop {
            let offset = state.position;
            if !state.next()? || !state.line.starts_with(PART) {
                return state.seek(offset);
            }
        }
    }
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}
