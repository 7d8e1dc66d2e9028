//! Reading: every statement, and every check of what comes back.

use std::ops::Range;

use audit_core::datakey::KeyRecord;
use audit_core::hex::Hex;
use audit_core::packed;
use audit_core::store::{Columns, Head, Parts, Query, Row, Tile};
use audit_core::time::Timestamp;
use audit_core::token::{Token, TokenSet};
use audit_core::{Error, Kind, Result};
use audit_tlog::Hash;
use audit_tlog::tile::{EdgeTiles, SIZE_MAX, TILE_WIDTH, TileId};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{CachedStatement, Connection, Params};
use uuid::Uuid;

use crate::failure;
use crate::layout::Layout;

/// Levels that a tree can have tiles at.
const LEVELS: u8 = 8;
/// Bytes of entries, tokens and parts that one call of `rows` collects.
const ROWS_BYTES: usize = 4 * 1024 * 1024;
/// Index rows that are counted, at most, to choose what to start a search from.
const COUNTED_MAX: u32 = 4096;
/// Rows for which room is made before the first is read: as many as the verifier asks for at once.
const TOKEN_ROWS_AT_ONCE: usize = 4096;
const ROWS_AT_ONCE: u64 = 256;

/// A connection with its file's layout, and the path for its errors.
#[derive(Clone, Copy)]
pub(crate) struct Db<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) layout: Layout,
    pub(crate) path: &'a std::path::Path,
}

/// A number as SQLite holds it; larger than any index it can have becomes the largest.
pub(crate) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(what: &str, n: i64) -> Result<u64> {
    u64::try_from(n).map_err(|e| Error::corrupt(format!("{what} is {n}")).because(e))
}

fn bytes<const N: usize>(what: &str, value: &[u8]) -> Result<[u8; N]> {
    value.try_into().map_err(|e| {
        Error::corrupt(format!("{what} has {} bytes, must have {N}", value.len())).because(e)
    })
}

fn blob<'a>(what: &str, value: ValueRef<'a>) -> Result<&'a [u8]> {
    value
        .as_blob()
        .map_err(|e| Error::corrupt(format!("{what} is not a blob")).because(e))
}

fn integer(what: &str, value: ValueRef<'_>) -> Result<i64> {
    value
        .as_i64()
        .map_err(|e| Error::corrupt(format!("{what} is not an integer")).because(e))
}

fn tile_hashes(level: u8, index: u64, value: ValueRef<'_>) -> Result<Vec<Hash>> {
    let bytes = blob(&format!("tile {level}/{index}"), value)?;
    let (chunks, rest) = bytes.as_chunks::<{ Hash::LEN }>();
    if !rest.is_empty() || chunks.is_empty() || chunks.len() > usize::from(TILE_WIDTH) {
        return Err(Error::corrupt(format!(
            "tile {level}/{index} has {} bytes",
            bytes.len()
        )));
    }
    Ok(chunks.iter().copied().map(Hash::from_bytes).collect())
}

/// The tokens of a row; `None` when both columns are empty.
fn token_set(salt: ValueRef<'_>, tokens: ValueRef<'_>) -> Result<Option<TokenSet>> {
    if matches!((salt, tokens), (ValueRef::Null, ValueRef::Null)) {
        return Ok(None);
    }
    let salt = Hex(bytes("token_salt", blob("token_salt", salt)?)?);
    let (chunks, rest) = blob("tokens", tokens)?.as_chunks::<16>();
    let tokens: Vec<Token> = chunks.iter().copied().map(Hex).collect();
    if !rest.is_empty() || tokens.is_empty() || !tokens.is_sorted_by(|a, b| a < b) {
        return Err(Error::corrupt(
            "tokens are not a sorted list of 16 bytes each",
        ));
    }
    Ok(Some(TokenSet { salt, tokens }))
}

fn key_record(row: &rusqlite::Row<'_>) -> Result<KeyRecord> {
    let get = |at, what| -> Result<_> { row.get_ref(at).map_err(|e| wrong(what, e)) };
    let id = blob("data_key.id", get(0, "id")?)?;
    let id = Uuid::from_bytes(bytes(
        &format!("data_key.id {}", audit_core::hex::encode(id)),
        id,
    )?);
    let read = || {
        Ok(KeyRecord {
            id,
            scope: Hex(bytes("scope", blob("scope", get(1, "scope")?)?)?),
            run: Uuid::from_bytes(bytes("run", blob("run", get(2, "run")?)?)?),
            generation: u32::try_from(integer("generation", get(3, "generation")?)?)
                .map_err(|e| Error::corrupt("generation is out of range").because(e))?,
            wrapped: bytes("wrapped", blob("wrapped", get(4, "wrapped")?)?)?,
        })
    };
    read().map_err(|e: Error| Error::corrupt(format!("record of data key {id}: {e}")))
}

fn wrong(what: &str, error: rusqlite::Error) -> Error {
    Error::corrupt(format!("{what} can't be read")).because(error)
}

/// The columns of [`key_record`].
const KEY: &str = "SELECT id, scope, run, generation, wrapped FROM data_key";

impl<'a> Db<'a> {
    pub(crate) fn failed(self, error: rusqlite::Error) -> Error {
        failure::sqlite("reading", self.path, error)
    }

    pub(crate) fn prepare(self, sql: &str) -> Result<CachedStatement<'a>> {
        self.connection
            .prepare_cached(sql)
            .map_err(|e| self.failed(e))
    }

    /// Every row of a statement, read by `read`.
    fn all<T>(
        self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut out = Vec::new();
        self.fill(sql, params, usize::MAX, read, &mut out)?;
        Ok(out)
    }

    /// Appends the rows of a statement, read by `read`, until there are `limit`.
    fn fill<T>(
        self,
        sql: &str,
        params: impl Params,
        limit: usize,
        mut read: impl FnMut(&rusqlite::Row<'_>) -> Result<T>,
        out: &mut Vec<T>,
    ) -> Result<()> {
        let mut statement = self.prepare(sql)?;
        let mut rows = statement.query(params).map_err(|e| self.failed(e))?;
        while out.len() < limit {
            let Some(row) = rows.next().map_err(|e| self.failed(e))? else {
                break;
            };
            out.push(read(row)?);
        }
        Ok(())
    }

    fn one<T>(
        self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        Ok(self.all(sql, params, read)?.pop())
    }

    pub(crate) fn origin(self) -> Result<Option<String>> {
        self.one("SELECT value FROM meta WHERE name = 'origin'", [], |row| {
            row.get(0)
                .map_err(|e| wrong("the origin (which log this store is of)", e))
        })
    }

    pub(crate) fn size(self) -> Result<u64> {
        let last: Option<i64> = self
            .prepare("SELECT max(idx) FROM entry")?
            .query_row([], |row| row.get(0))
            .map_err(|e| self.failed(e))?;
        let Some(last) = last else { return Ok(0) };
        let last = unsigned("index", last)?;
        if last >= SIZE_MAX {
            return Err(Error::corrupt(format!(
                "there is an entry with index {last}, and a tree has at most {SIZE_MAX} entries"
            ))
            .at(last));
        }
        Ok(last + 1)
    }

    /// A number that stays the same exactly as long as no other connection commits to the file.
    pub(crate) fn version(self) -> Result<i64> {
        self.prepare("PRAGMA data_version")?
            .query_row([], |row| row.get(0))
            .map_err(|e| self.failed(e))
    }

    /// The size, and the partial tiles; at every level the last stored tile must be the one that this size has.
    pub(crate) fn head(self) -> Result<Head> {
        let size = self.size()?;
        let mut levels = Vec::new();
        for level in 0..LEVELS {
            // `+ 0` keeps SQLite from compiling the statement anew for each value of the parameter.
            let stored = self.one(
                "SELECT idx, hashes FROM tile WHERE level = ?1 + 0 ORDER BY idx DESC LIMIT 1",
                [level],
                |row| {
                    let get = |at| row.get_ref(at).map_err(|e| wrong("tile", e));
                    let what = format!("the index of a tile of level {level}");
                    let index = unsigned(&what, integer(&what, get(0)?)?)?;
                    let hashes = tile_hashes(level, index, get(1)?)?;
                    Ok((index, hashes))
                },
            )?;
            let nodes = size.checked_shr(8 * u32::from(level)).unwrap_or(0);
            let wanted = nodes
                .checked_sub(1)
                .and_then(|last| TileId::in_tree(level, last / u64::from(TILE_WIDTH), size));
            let found = stored
                .as_ref()
                .map(|(index, hashes)| (*index, hashes.len()));
            if found != wanted.map(|id| (id.index, usize::from(id.width))) {
                let say = |tile: Option<(u64, usize)>| match tile {
                    Some((index, width)) => format!("tile {index} with {width} hashes"),
                    None => "no tile".to_owned(),
                };
                return Err(Error::corrupt(format!(
                    "the log has {size} entries, so level {level} of the tree ends with {}, but {} is stored; \
                     entries or tiles were removed or added",
                    say(wanted.map(|id| (id.index, usize::from(id.width)))),
                    say(found),
                ))
                .at(size));
            }
            // A full tile is no part of the edge.
            let hashes = stored.map(|(_, hashes)| hashes).unwrap_or_default();
            levels.push(if hashes.len() < usize::from(TILE_WIDTH) {
                hashes
            } else {
                Vec::new()
            });
        }
        let edge = EdgeTiles::from_tiles(size, levels).map_err(|e| {
            Error::corrupt("the stored tiles don't make the edge of a tree").because(e)
        })?;
        Ok(Head { size, edge })
    }

    pub(crate) fn rows(self, range: &Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        let mut out = Vec::new();
        if range.is_empty() {
            return Ok(out);
        }
        // Where parts are not asked for, neither their column nor the overflow pages that hold them are read: the length
        // of a value stands in the row's header, and the column is the last.
        let sql = match parts {
            Parts::With => {
                "SELECT idx, event, kind, time, entry, token_salt, tokens, coalesce(length(parts), 0), parts
                 FROM entry WHERE idx >= ?1 AND idx < ?2 ORDER BY idx"
            }
            Parts::Without => {
                "SELECT idx, event, kind, time, entry, token_salt, tokens
                 FROM entry WHERE idx >= ?1 AND idx < ?2 ORDER BY idx"
            }
        };
        let mut statement = self.prepare(sql)?;
        let mut rows = statement
            .query([int(range.start), int(range.end)])
            .map_err(|e| self.failed(e))?;
        let wanted = (range.end - range.start).min(ROWS_AT_ONCE);
        out.reserve(usize::try_from(wanted).unwrap_or_default());
        let mut expected = range.start;
        let mut left = ROWS_BYTES;
        while let Some(row) = rows.next().map_err(|e| self.failed(e).at(expected))? {
            let index = row
                .get_ref(0)
                .map_err(|e| wrong("index", e))
                .and_then(|v| integer("index", v))
                .and_then(|v| unsigned("index", v))
                .map_err(|e| e.at(expected))?;
            if index != expected {
                return Err(Error::corrupt("an entry is missing").at(expected));
            }
            let (row, bytes) = match read_row(self.layout, parts, index, row, left, out.is_empty())
            {
                Ok(Some(read)) => read,
                Ok(None) => break,
                Err(e) => return Err(e.at(index)),
            };
            left = left.saturating_sub(bytes);
            expected += 1;
            out.push(row);
            if left == 0 {
                break;
            }
        }
        if out.is_empty() && range.start < self.size()? {
            return Err(Error::corrupt("an entry is missing").at(range.start));
        }
        Ok(out)
    }

    /// SQLite's own check of every table, index and constraint. Searches go through indexes, which no entry is compared
    /// with; here an index that leaves a row out shows.
    pub(crate) fn integrity(self) -> Result<()> {
        // A connection that only reads may not check constraints, and nothing reads rows where none can be.
        for misplaced in [
            "SELECT 'an entry with index ' || min(idx) FROM entry WHERE idx < 0",
            "SELECT 'a token row of index ' || min(idx) FROM token WHERE idx < 0",
            "SELECT 'a tile ' || level || '/' || idx FROM tile WHERE idx < 0 OR level NOT BETWEEN 0 AND 7 LIMIT 1",
            "SELECT 'a checkpoint of size ' || min(size) FROM checkpoint WHERE size < 1",
            "SELECT 'a row in meta that says which log this is and is not named origin' FROM meta
             WHERE name <> 'origin' LIMIT 1",
        ] {
            let found: Option<Option<String>> =
                self.one(misplaced, [], |row| row.get(0).map_err(|e| self.failed(e)))?;
            if let Some(Some(what)) = found {
                return Err(Error::corrupt(format!(
                    "the store has {what}, where no row can be"
                )));
            }
        }
        let said: Vec<String> = self.all("PRAGMA integrity_check(4)", [], |row| {
            row.get(0).map_err(|e| self.failed(e))
        })?;
        if said == ["ok"] {
            Ok(())
        } else {
            Err(Error::corrupt(format!(
                "SQLite finds the file inconsistent: {}",
                said.join("; ")
            )))
        }
    }

    pub(crate) fn position(self, event: Uuid) -> Result<Option<u64>> {
        self.one(
            "SELECT idx FROM entry WHERE event = ?1",
            [event.as_bytes()],
            index,
        )
    }

    pub(crate) fn find(self, query: &Query) -> Result<Vec<u64>> {
        let Some((sql, params)) = self.plan(query)? else {
            return Ok(Vec::new());
        };
        self.all(&sql, rusqlite::params_from_iter(params), index)
    }

    /// The statement for a search: it walks one index, in the order of the log wherever that index is in this order.
    fn plan(self, query: &Query) -> Result<Option<(String, Vec<Value>)>> {
        if query.indexes.is_empty() || query.limit == 0 {
            return Ok(None);
        }
        let order = if query.descending { "DESC" } else { "ASC" };
        let mut params: Vec<Value> = vec![
            Value::Integer(int(query.indexes.start)),
            Value::Integer(int(query.indexes.end)),
            Value::Integer(count(query.limit)),
        ];
        let mut bind = |value: Value| {
            params.push(value);
            format!("?{}", params.len())
        };
        let mut on_entry = Vec::new();
        if let Some(kind) = &query.kind {
            let at = bind(Value::Text(kind.as_str().to_owned()));
            on_entry.push(format!("e.kind = {at}"));
        }
        if let Some(from) = query.from {
            let at = bind(Value::Integer(from.as_micros()));
            on_entry.push(format!("e.time >= {at}"));
        }
        if let Some(until) = query.until {
            let at = bind(Value::Integer(until.as_micros()));
            on_entry.push(format!("e.time < {at}"));
        }
        // Start from the rarest token, and look the others up.
        let mut tokens = Vec::with_capacity(query.tokens.len());
        for token in &query.tokens {
            tokens.push((self.token_count(*token)?, *token));
        }
        tokens.sort_unstable();
        tokens.dedup();
        let mut tokens = tokens
            .into_iter()
            .map(|(_, token)| bind(Value::Blob(token.0.to_vec())));
        let (from, index, mut conditions) = if let Some(rarest) = tokens.next() {
            let mut conditions = vec![format!("t.token = {rarest}")];
            conditions.extend(tokens.map(|at| {
                format!("EXISTS (SELECT 1 FROM token o WHERE o.token = {at} AND o.idx = t.idx)")
            }));
            if !on_entry.is_empty() {
                let on_entry = on_entry.join(" AND ");
                conditions.push(format!(
                    "EXISTS (SELECT 1 FROM entry e WHERE e.idx = t.idx AND {on_entry})"
                ));
            }
            ("token t", "t.idx", conditions)
        } else {
            let timed = query.from.is_some() || query.until.is_some();
            let from = match &query.kind {
                Some(kind) if !timed || self.kind_count(kind)? < COUNTED_MAX => {
                    "entry e INDEXED BY entry_kind"
                }
                _ if timed => "entry e INDEXED BY entry_time",
                // Neither kind nor time: the entries themselves, in their order.
                _ => "entry e NOT INDEXED",
            };
            (from, "e.idx", on_entry)
        };
        conditions.push(format!("{index} >= ?1 AND {index} < ?2"));
        let conditions = conditions.join(" AND ");
        let sql = format!(
            "SELECT {index} FROM {from} WHERE {conditions} ORDER BY {index} {order} LIMIT ?3"
        );
        Ok(Some((sql, params)))
    }

    /// How often a token occurs, up to [`COUNTED_MAX`].
    fn token_count(self, token: Token) -> Result<u32> {
        self.prepare("SELECT count(*) FROM (SELECT 1 FROM token WHERE token = ?1 LIMIT ?2)")?
            .query_row((token.0, COUNTED_MAX), |row| row.get(0))
            .map_err(|e| self.failed(e))
    }

    fn kind_count(self, kind: &Kind) -> Result<u32> {
        self.prepare("SELECT count(*) FROM (SELECT 1 FROM entry WHERE kind = ?1 LIMIT ?2)")?
            .query_row((kind.as_str(), COUNTED_MAX), |row| row.get(0))
            .map_err(|e| self.failed(e))
    }

    pub(crate) fn token_rows(
        self,
        after: Option<(Token, u64)>,
        limit: usize,
    ) -> Result<Vec<(Token, u64)>> {
        let read = |row: &rusqlite::Row<'_>| {
            let token = row.get_ref(0).map_err(|e| wrong("token", e))?;
            let index = row.get_ref(1).map_err(|e| wrong("token.idx", e))?;
            token_row(token, index).map_err(|e| {
                let show = |value| match value {
                    ValueRef::Integer(n) => n.to_string(),
                    ValueRef::Blob(bytes) if bytes.len() <= 64 => audit_core::hex::encode(bytes),
                    other => other.data_type().to_string(),
                };
                Error::corrupt(format!(
                    "the token row {} of the entry at index {}: {e}",
                    show(token),
                    show(index)
                ))
            })
        };
        let mut out = Vec::with_capacity(limit.min(TOKEN_ROWS_AT_ONCE));
        match after {
            None => self.fill(
                "SELECT token, idx FROM token ORDER BY token, idx",
                [],
                limit,
                read,
                &mut out,
            )?,
            // Comparing both at once, `(token, idx) > (?1, ?2)`, would begin at the token and compare every row.
            Some((token, index)) => {
                self.fill(
                    "SELECT token, idx FROM token WHERE token = ?1 AND idx > ?2 ORDER BY idx",
                    (token.0, int(index)),
                    limit,
                    read,
                    &mut out,
                )?;
                self.fill(
                    "SELECT token, idx FROM token WHERE token > ?1 ORDER BY token, idx",
                    [token.0],
                    limit,
                    read,
                    &mut out,
                )?;
            }
        }
        Ok(out)
    }

    pub(crate) fn tile(self, id: TileId) -> Result<Option<Vec<Hash>>> {
        let stored = self.one(
            "SELECT hashes FROM tile WHERE level = ?1 AND idx = ?2",
            (id.level, int(id.index)),
            |row| {
                let value = row.get_ref(0).map_err(|e| wrong("tile", e))?;
                tile_hashes(id.level, id.index, value)
            },
        )?;
        let width = usize::from(id.width);
        Ok(stored
            .filter(|hashes| hashes.len() >= width)
            .map(|mut hashes| {
                hashes.truncate(width);
                hashes
            }))
    }

    pub(crate) fn tiles(self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        self.all(
            "SELECT idx, hashes FROM tile WHERE level = ?1 AND idx > ?2 ORDER BY idx LIMIT ?3",
            (level, after.map_or(-1, int), count(limit)),
            |row| {
                let get = |at| row.get_ref(at).map_err(|e| wrong("tile", e));
                let what = format!("the index of a tile of level {level}");
                let index = unsigned(&what, integer(&what, get(0)?)?)?;
                let hashes = tile_hashes(level, index, get(1)?)?;
                let id = u16::try_from(hashes.len())
                    .map_err(|e| Error::corrupt("tile is too wide").because(e))
                    .and_then(|width| {
                        TileId::new(level, index, width)
                            .map_err(|e| Error::corrupt("tile has no name").because(e))
                    })?;
                Ok(Tile { id, hashes })
            },
        )
    }

    pub(crate) fn latest_checkpoint(self) -> Result<Option<Vec<u8>>> {
        self.one(
            "SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1",
            [],
            checkpoint,
        )
        .map(|found| found.map(|(_, note)| note))
    }

    pub(crate) fn checkpoint(self, size: u64) -> Result<Option<Vec<u8>>> {
        self.one(
            "SELECT size, note FROM checkpoint WHERE size = ?1",
            [int(size)],
            checkpoint,
        )
        .map(|found| found.map(|(_, note)| note))
    }

    pub(crate) fn checkpoints(self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        self.all(
            "SELECT size, note FROM checkpoint WHERE size > ?1 ORDER BY size LIMIT ?2",
            (int(after), count(limit)),
            checkpoint,
        )
    }

    pub(crate) fn key(self, id: Uuid) -> Result<Option<KeyRecord>> {
        self.one(&format!("{KEY} WHERE id = ?1"), [id.as_bytes()], key_record)
    }

    pub(crate) fn keys(self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        // No blob of 16 bytes sorts before the empty one.
        let after = after.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
        self.all(
            &format!("{KEY} WHERE id > ?1 ORDER BY id LIMIT ?2"),
            (after, count(limit)),
            key_record,
        )
    }

    pub(crate) fn keys_of_scope(self, scope: Token) -> Result<Vec<KeyRecord>> {
        self.all(
            &format!("{KEY} WHERE scope = ?1 ORDER BY id"),
            [scope.0],
            key_record,
        )
    }

    /// The tokens that are stored beside an entry.
    pub(crate) fn tokens_of(self, index: u64) -> Result<Option<TokenSet>> {
        let found = self.one(
            "SELECT token_salt, tokens FROM entry WHERE idx = ?1",
            [int(index)],
            |row| {
                token_set(
                    row.get_ref(0).map_err(|e| wrong("token_salt", e))?,
                    row.get_ref(1).map_err(|e| wrong("tokens", e))?,
                )
            },
        );
        found.map(Option::flatten).map_err(|e| e.at(index))
    }
}

/// A row and its bytes; `None` if it doesn't fit into `left` bytes and isn't the first.
fn read_row(
    layout: Layout,
    parts: Parts,
    index: u64,
    row: &rusqlite::Row<'_>,
    left: usize,
    first: bool,
) -> Result<Option<(Row, usize)>> {
    let get = |at, what| row.get_ref(at).map_err(|e| wrong(what, e));
    let entry = blob("entry", get(4, "entry")?)?;
    let tokens = token_set(get(5, "token_salt")?, get(6, "tokens")?)?;
    let parts_len = match parts {
        Parts::With => integer("length of parts", get(7, "length of parts")?)?,
        Parts::Without => 0,
    };
    let total = usize::try_from(parts_len)
        .unwrap_or(usize::MAX)
        .saturating_add(entry.len())
        .saturating_add(tokens.as_ref().map_or(0, |set| 16 + 16 * set.tokens.len()));
    if total > left && !first {
        return Ok(None);
    }
    let kind = get(2, "kind")?
        .as_str()
        .map_err(|e| Error::corrupt("kind is not text").because(e))?;
    let parts = match parts {
        Parts::Without => None,
        Parts::With => match get(8, "parts")? {
            ValueRef::Null => None,
            value => Some(blob("parts", value)?.to_vec()),
        },
    };
    let columns = Columns {
        event: Uuid::from_bytes(bytes("event", blob("event", get(1, "event")?)?)?),
        kind: Kind::new(kind).map_err(|e| Error::corrupt("kind is malformed").because(e))?,
        time: Timestamp::from_micros(integer("time", get(3, "time")?)?)
            .map_err(|e| Error::corrupt("time is out of range").because(e))?,
    };
    let entry = match layout {
        Layout::One => entry.to_vec(),
        Layout::Two => packed::unpack(entry)?,
    };
    let row = Row {
        index,
        entry,
        columns,
        tokens,
        parts,
    };
    Ok(Some((row, total)))
}

fn index(row: &rusqlite::Row<'_>) -> Result<u64> {
    let value = row.get_ref(0).map_err(|e| wrong("index", e))?;
    unsigned("index", integer("index", value)?)
}

fn token_row(token: ValueRef<'_>, index: ValueRef<'_>) -> Result<(Token, u64)> {
    Ok((
        Hex(bytes("token", blob("token", token)?)?),
        unsigned("token.idx", integer("token.idx", index)?)?,
    ))
}

fn checkpoint(row: &rusqlite::Row<'_>) -> Result<(u64, Vec<u8>)> {
    let get = |at| row.get_ref(at).map_err(|e| wrong("checkpoint", e));
    let size = unsigned("checkpoint size", integer("checkpoint size", get(0)?)?)?;
    let what = format!("the checkpoint of size {size}");
    Ok((size, blob(&what, get(1)?)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The statements beside `find` that a log makes again and again.
    const STATEMENTS: [&str; 9] = [
        "SELECT max(idx) FROM entry",
        "SELECT idx, hashes FROM tile WHERE level = ?1 + 0 ORDER BY idx DESC LIMIT 1",
        "SELECT idx FROM entry WHERE event = ?1",
        "SELECT token, idx FROM token WHERE token = ?1 AND idx > ?2 ORDER BY idx",
        "SELECT token, idx FROM token WHERE token > ?1 ORDER BY token, idx",
        "SELECT idx, hashes FROM tile WHERE level = ?1 AND idx > ?2 ORDER BY idx LIMIT ?3",
        "SELECT size, note FROM checkpoint WHERE size > ?1 ORDER BY size LIMIT ?2",
        "SELECT id, scope, run, generation, wrapped FROM data_key WHERE id > ?1 ORDER BY id LIMIT ?2",
        "SELECT id, scope, run, generation, wrapped FROM data_key WHERE scope = ?1 ORDER BY id",
    ];

    fn steps(connection: &Connection, sql: &str) -> Vec<String> {
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        let unbound = std::iter::repeat_n(Value::Null, statement.parameter_count());
        let rows = statement.query_map(rusqlite::params_from_iter(unbound), |row| row.get(3));
        rows.unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn no_statement_walks_a_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.db");
        crate::layout::create(&path).unwrap();
        let (connection, layout) = crate::layout::open_writer(&path).unwrap();
        let db = Db {
            connection: &connection,
            layout,
            path: &path,
        };
        for sql in STATEMENTS {
            for step in steps(&connection, sql) {
                let walks = step.starts_with("SCAN") || step.contains("TEMP B-TREE");
                assert!(!walks, "{sql}: {step}");
            }
        }
        let time = Some(Timestamp::EPOCH);
        let kind = Some(Kind::new("a").unwrap());
        for tokens in [vec![], vec![Hex([1; 16])], vec![Hex([1; 16]), Hex([2; 16])]] {
            for kind in [None, kind.clone()] {
                for (from, until) in [(None, None), (time, None), (None, time), (time, time)] {
                    for descending in [false, true] {
                        let query = Query {
                            tokens: tokens.clone(),
                            kind: kind.clone(),
                            from,
                            until,
                            descending,
                            ..Query::default()
                        };
                        let (sql, _) = db.plan(&query).unwrap().unwrap();
                        let by_time =
                            tokens.is_empty() && kind.is_none() && from.or(until).is_some();
                        for step in steps(&connection, &sql) {
                            assert!(!step.starts_with("SCAN"), "{sql}: {step}");
                            // Only times are not in the order of the log.
                            let sorts = step.contains("TEMP B-TREE");
                            assert!(!sorts || by_time, "{sql}: {step}");
                        }
                    }
                }
            }
        }
    }
}
