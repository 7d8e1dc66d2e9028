//! The matrix on the store in memory, through its back door.

use std::sync::Arc;

use audit_core::datakey::KeyRecord;
use audit_core::hex::Hex;
use audit_core::row::{Columns, Row};
use audit_core::store::ReadStore;
use audit_core::time::Timestamp;
use audit_core::token::{Token, TokenSet};
use audit_core::{Kind, Result};
use audit_tlog::Hash;
use uuid::Uuid;

use super::{Backend, Column, Loss, Place, Record, Sees, Special, Table, Tables, Value};
use crate::memory::{Contents, MemoryStore};

/// [`MemoryStore`] as a backend of the matrix.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has nothing to say")]
pub struct Memory;

/// What a [`MemoryStore`] holds, as tables. Its types are its constraints: what they can't hold is refused.
#[derive(Debug, Clone)]
pub struct MemoryTables(Contents);

impl Backend for Memory {
    type Copy = MemoryTables;

    fn load(&self, contents: &Contents) -> Result<MemoryTables, String> {
        Ok(MemoryTables(contents.clone()))
    }

    fn specials(&self, _: &MemoryTables) -> Vec<Special<MemoryTables>> {
        Vec::new()
    }
}

fn table(name: &str, columns: &[(&str, bool)]) -> Table {
    let columns = columns.iter().map(|(name, key)| Column {
        name: (*name).to_owned(),
        key: *key,
    });
    Table {
        name: name.to_owned(),
        columns: columns.collect(),
    }
}

fn int(n: u64) -> Value {
    Value::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

fn number(value: &Value) -> Result<u64, String> {
    match value {
        Value::Integer(n) => u64::try_from(*n).map_err(|e| format!("{n}: {e}")),
        _ => Err("not a number".to_owned()),
    }
}

fn blob(value: &Value) -> Result<&[u8], String> {
    match value {
        Value::Blob(bytes) => Ok(bytes),
        _ => Err("not bytes".to_owned()),
    }
}

fn array<const N: usize>(value: &Value) -> Result<[u8; N], String> {
    let bytes = blob(value)?;
    bytes
        .try_into()
        .map_err(|e| format!("{} bytes, not {N}: {e}", bytes.len()))
}

fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::Text(bytes) => String::from_utf8(bytes.clone()).map_err(|e| e.to_string()),
        _ => Err("not text".to_owned()),
    }
}

fn optional(value: &Value) -> Option<&Value> {
    (*value != Value::Null).then_some(value)
}

/// Bytes that are a whole number of `N`.
fn chunks<const N: usize>(value: &Value) -> Result<Vec<[u8; N]>, String> {
    let bytes = blob(value)?;
    let (chunks, rest) = bytes.as_chunks::<N>();
    if rest.is_empty() {
        Ok(chunks.to_vec())
    } else {
        Err(format!("{} bytes", bytes.len()))
    }
}

fn row_record(row: &Row) -> Record {
    let tokens = row.tokens.as_ref();
    vec![
        int(row.index),
        Value::Blob(row.columns.event.as_bytes().to_vec()),
        Value::Text(row.columns.kind.as_str().as_bytes().to_vec()),
        Value::Integer(row.columns.time.as_micros()),
        Value::Blob(row.entry.clone()),
        tokens.map_or(Value::Null, |set| Value::Blob(set.salt.0.to_vec())),
        tokens.map_or(Value::Null, |set| {
            Value::Blob(set.tokens.iter().flat_map(|t| t.0).collect())
        }),
        row.parts.clone().map_or(Value::Null, Value::Blob),
    ]
}

fn record_row(record: &Record) -> Result<Row, String> {
    let [index, event, kind, time, entry, salt, tokens, parts] = &record[..] else {
        return Err("another number of columns".to_owned());
    };
    let time = match time {
        Value::Integer(micros) => Timestamp::from_micros(*micros).map_err(|e| e.to_string())?,
        _ => return Err("not a number".to_owned()),
    };
    let tokens = match (optional(salt), optional(tokens)) {
        (None, None) => None,
        (Some(salt), Some(tokens)) => Some(TokenSet {
            salt: Hex(array(salt)?),
            tokens: chunks(tokens)?.into_iter().map(Hex).collect(),
        }),
        _ => return Err("one of salt and tokens".to_owned()),
    };
    Ok(Row {
        index: number(index)?,
        entry: blob(entry)?.to_vec(),
        columns: Columns {
            event: Uuid::from_bytes(array(event)?),
            kind: Kind::new(&text(kind)?).map_err(|e| e.to_string())?,
            time,
        },
        tokens,
        parts: optional(parts).map(blob).transpose()?.map(<[u8]>::to_vec),
    })
}

impl MemoryTables {
    /// Every table with its rows. A new member of [`Contents`] has to come here, or this doesn't compile.
    fn all(&self) -> Vec<(Table, Vec<Record>)> {
        let Contents {
            origin,
            rows,
            tokens,
            tiles,
            checkpoints,
            keys,
        } = &self.0;
        vec![
            (
                table("origin", &[("origin", true)]),
                origin
                    .iter()
                    .map(|o| vec![Value::Text(o.clone().into_bytes())])
                    .collect(),
            ),
            (
                table(
                    "rows",
                    &[
                        ("index", true),
                        ("event", false),
                        ("kind", false),
                        ("time", false),
                        ("entry", false),
                        ("salt", false),
                        ("tokens", false),
                        ("parts", false),
                    ],
                ),
                rows.iter().map(row_record).collect(),
            ),
            (
                table("tokens", &[("token", true), ("index", true)]),
                tokens
                    .iter()
                    .map(|(token, index)| vec![Value::Blob(token.0.to_vec()), int(*index)])
                    .collect(),
            ),
            (
                table(
                    "tiles",
                    &[("level", true), ("index", true), ("hashes", false)],
                ),
                tiles
                    .iter()
                    .map(|((level, index), hashes)| {
                        let hashes = hashes.iter().flat_map(|h| *h.as_bytes()).collect();
                        vec![int(u64::from(*level)), int(*index), Value::Blob(hashes)]
                    })
                    .collect(),
            ),
            (
                table("checkpoints", &[("size", true), ("note", false)]),
                checkpoints
                    .iter()
                    .map(|(size, note)| vec![int(*size), Value::Blob(note.clone())])
                    .collect(),
            ),
            (
                table(
                    "keys",
                    &[
                        ("id", true),
                        ("scope", false),
                        ("run", false),
                        ("generation", false),
                        ("wrapped", false),
                    ],
                ),
                keys.values()
                    .map(|key| {
                        vec![
                            Value::Blob(key.id.as_bytes().to_vec()),
                            Value::Blob(key.scope.0.to_vec()),
                            Value::Blob(key.run.as_bytes().to_vec()),
                            int(u64::from(key.generation)),
                            Value::Blob(key.wrapped.to_vec()),
                        ]
                    })
                    .collect(),
            ),
        ]
    }

    fn remove(&mut self, table: &str, record: &Record) -> Result<(), String> {
        let log = &mut self.0;
        match table {
            "origin" => log.origin = None,
            "tokens" => drop(log.tokens.remove(&token_row(record)?)),
            "tiles" => drop(log.tiles.remove(&tile_row(record)?.0)),
            "checkpoints" => drop(log.checkpoints.remove(&number(&record[0])?)),
            "keys" => drop(log.keys.remove(&Uuid::from_bytes(array(&record[0])?))),
            _ => log.rows.retain(|row| row_record(row) != *record),
        }
        Ok(())
    }

    fn insert(&mut self, table: &str, record: &Record) -> Result<(), String> {
        let log = &mut self.0;
        let free = match table {
            "origin" => log.origin.replace(text(&record[0])?).is_none(),
            "tokens" => log.tokens.insert(token_row(record)?),
            "tiles" => {
                let (id, hashes) = tile_row(record)?;
                log.tiles.insert(id, hashes).is_none()
            }
            "checkpoints" => {
                let note = blob(&record[1])?.to_vec();
                let before = log.checkpoints.insert(number(&record[0])?, note);
                before.is_none()
            }
            "keys" => {
                let key = key_row(record)?;
                log.keys.insert(key.id, key).is_none()
            }
            _ => {
                let row = record_row(record)?;
                // Behind its equals, so that a duplicate stands beside the first.
                let at = log.rows.partition_point(|r| r.index <= row.index);
                log.rows.insert(at, row);
                true
            }
        };
        if free {
            Ok(())
        } else {
            Err("a map has each key once".to_owned())
        }
    }
}

fn token_row(record: &Record) -> Result<(Token, u64), String> {
    Ok((Hex(array(&record[0])?), number(&record[1])?))
}

fn tile_row(record: &Record) -> Result<((u8, u64), Vec<Hash>), String> {
    let level = u8::try_from(number(&record[0])?).map_err(|e| e.to_string())?;
    let hashes = chunks(&record[2])?.into_iter().map(Hash::from_bytes);
    Ok(((level, number(&record[1])?), hashes.collect()))
}

fn key_row(record: &Record) -> Result<KeyRecord, String> {
    let [id, scope, run, generation, wrapped] = &record[..] else {
        return Err("another number of columns".to_owned());
    };
    Ok(KeyRecord {
        id: Uuid::from_bytes(array(id)?),
        scope: Hex(array(scope)?),
        run: Uuid::from_bytes(array(run)?),
        generation: u32::try_from(number(generation)?).map_err(|e| e.to_string())?,
        wrapped: array(wrapped)?,
    })
}

impl Tables for MemoryTables {
    fn duplicate(&self) -> Self {
        self.clone()
    }

    fn tables(&self) -> Vec<Table> {
        self.all().into_iter().map(|(table, _)| table).collect()
    }

    fn rows(&self, table: &Table) -> Vec<Record> {
        let mut all = self.all().into_iter();
        all.find(|(t, _)| t == table)
            .map(|(_, rows)| rows)
            .unwrap_or_default()
    }

    fn write(&mut self, table: &Table, remove: &[Record], insert: &[Record]) -> Result<(), String> {
        for record in remove {
            self.remove(&table.name, record)?;
        }
        for record in insert {
            self.insert(&table.name, record)?;
        }
        Ok(())
    }

    fn places(&self, table: &Table, row: &Record) -> Vec<Place> {
        places(&table.name, row)
    }

    fn loss(&self, table: &Table, loss: Loss) -> (Sees, Vec<Place>) {
        match (table.name.as_str(), loss) {
            ("checkpoints", loss) => super::checkpoint_loss(loss),
            _ => (Sees::Anybody, Vec::new()),
        }
    }

    fn open(&self) -> Result<Arc<dyn ReadStore>> {
        Ok(Arc::new(MemoryStore::tampered(self.0.clone())))
    }
}

fn places(table: &str, row: &Record) -> Vec<Place> {
    match table {
        "rows" => super::index_places(&row[0]),
        "tokens" => super::index_places(&row[1]),
        "tiles" => super::tile_places(&row[0], &row[1]),
        "checkpoints" => super::checkpoint_places(&row[0]),
        "keys" => super::key_places(&row[0]),
        _ => ["of the log", "which log"]
            .map(|t| Place::Says(t.to_owned()))
            .to_vec(),
    }
}
