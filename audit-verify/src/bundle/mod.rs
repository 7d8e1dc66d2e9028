//! The log export: a whole log in one file (`docs/export.md`).
//!
//! The module and the header's string are called *bundle*; they are older than [`evidence_bundle`](crate::evidence_bundle).

mod reader;
mod writer;

use audit_core::datakey::{KeyRecord, WRAPPED_BYTES};
use audit_core::hex::Hex;
use audit_core::row::Columns;
use audit_core::time::Timestamp;
use audit_core::token::{Token, TokenSet};
use audit_core::{Error, Kind, Result};
use audit_tlog::Hash;
use audit_tlog::tile::{Tile, TileId};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use reader::Reader;
pub use writer::{Writer, export};

/// The version that this code writes and reads.
pub const VERSION: &str = "audit-trail-bundle/1";
/// Bytes of one line.
pub const LINE_BYTES_MAX: usize = 4 << 20;
/// Bytes of the stored parts of one entry.
pub const PARTS_BYTES_MAX: u64 = 1 << 30;
/// Bytes of one piece of the stored parts: 65,536 characters of base64.
const PIECE_BYTES: usize = 49_152;

// The members of every struct below stand in the order of docs/export.md.

/// What a bundle says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Header {
    bundle: String,
    /// The log that it is said to be of.
    pub origin: String,
    /// Whether stored parts came along.
    pub parts: bool,
    /// The entries that the log had.
    pub size: u64,
}

impl Header {
    /// The header of a bundle of this version.
    #[must_use]
    pub fn new(origin: impl Into<String>, parts: bool, size: u64) -> Self {
        Self {
            bundle: VERSION.to_owned(),
            origin: origin.into(),
            parts,
            size,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Checkpoint(CheckpointLine),
    Entry(Box<EntryLine>),
    Part(String),
    Tile(TileLine),
    Token(TokenLine),
    Key(KeyLine),
    End(EndLine),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    note_base64: Option<String>,
    size: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryLine {
    columns: ColumnsLine,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    entry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    entry_base64: Option<String>,
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    parts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    tokens: Option<TokensLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnsLine {
    event: Uuid,
    kind: Kind,
    time: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensLine {
    salt: Hex<16>,
    tokens: Vec<Token>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TileLine {
    hashes: String,
    index: u64,
    level: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenLine {
    index: u64,
    token: Token,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyLine {
    generation: u32,
    id: Uuid,
    run: Uuid,
    scope: Token,
    wrapped: Hex<WRAPPED_BYTES>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    checkpoints: u64,
    entries: u64,
    keys: u64,
    tiles: u64,
    tokens: u64,
}

fn written<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    serde_json::to_writer(&mut out, value)
        .expect("writing to memory, of types that JSON holds, can't fail");
    out
}

/// Reads a line, without its newline, that is written in the one way there is.
fn parse<T: Serialize + for<'de> Deserialize<'de>>(line: &[u8]) -> Result<T> {
    let value: T = serde_json::from_slice(line)
        .map_err(|e| Error::corrupt("a line of the bundle is malformed").because(e))?;
    if written(&value) == line {
        Ok(value)
    } else {
        Err(Error::corrupt(
            "a line of the bundle is not written in the one way that the format allows",
        ))
    }
}

fn base64_decode(text: &str) -> Result<Vec<u8>> {
    STANDARD
        .decode(text)
        .map_err(|e| Error::corrupt("base64 in the bundle is malformed").because(e))
}

/// Bytes as a string where they are one, else in base64.
fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

fn bytes_of(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => {
            let bytes = base64_decode(&base64)?;
            if str::from_utf8(&bytes).is_ok() {
                Err(Error::corrupt(
                    "base64 in the bundle stands for what must be written as text",
                ))
            } else {
                Ok(bytes)
            }
        }
        _ => Err(Error::corrupt(
            "a line of the bundle has neither text nor base64, or both",
        )),
    }
}

impl TileLine {
    fn new(tile: &Tile) -> Self {
        Self {
            hashes: STANDARD.encode(tile.encode()),
            index: tile.id.index,
            level: tile.id.level,
        }
    }

    fn tile(&self) -> Result<Tile> {
        let bytes = base64_decode(&self.hashes)?;
        let wrong = || {
            Error::corrupt(format!(
                "tile {} of level {} in the bundle is malformed",
                self.index, self.level
            ))
        };
        let width = u16::try_from(bytes.len() / Hash::LEN).map_err(|e| wrong().because(e))?;
        let id = TileId::new(self.level, self.index, width).map_err(|e| wrong().because(e))?;
        Tile::decode(id, &bytes).map_err(|e| wrong().because(e))
    }
}

impl KeyLine {
    fn new(record: &KeyRecord) -> Self {
        Self {
            generation: record.generation,
            id: record.id,
            run: record.run,
            scope: record.scope,
            wrapped: Hex(record.wrapped),
        }
    }

    fn record(&self) -> KeyRecord {
        KeyRecord {
            id: self.id,
            scope: self.scope,
            run: self.run,
            generation: self.generation,
            wrapped: self.wrapped.0,
        }
    }
}

impl ColumnsLine {
    fn columns(self) -> Columns {
        Columns {
            event: self.event,
            kind: self.kind,
            time: self.time,
        }
    }
}

impl TokensLine {
    fn set(self) -> TokenSet {
        TokenSet {
            salt: self.salt,
            tokens: self.tokens,
        }
    }
}
