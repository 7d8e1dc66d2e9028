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
use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::query::Query as Statement;
use sqlx::{Arguments as _, AssertSqlSafe, Row as _};
use uuid::Uuid;

use crate::failure::Found;

/// Levels that a tree can have tiles at.
const LEVELS: u8 = 8;
/// Bytes of entries, tokens and parts that one call of `rows` collects.
const ROWS_BYTES: i64 = 4 * 1024 * 1024;
/// Rows that it collects at most; entries are larger than 4 MiB by this, as a rule.
const ROWS_MAX: i64 = 8192;
/// Token rows that are counted, at most, to choose what to start a search from.
const COUNTED_MAX: i64 = 4096;
/// Tiles that one call of `tiles` collects at most.
const TILES_MAX: usize = 16;

/// A number as PostgreSQL holds it; larger than any index it can have becomes the largest.
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

/// The value of a column. One of another type, or that is missing where it mustn't be, is corrupt.
fn get<'r, T>(row: &'r PgRow, at: usize, what: &str) -> Result<T>
where
    T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
{
    row.try_get(at)
        .map_err(|e| Error::corrupt(format!("{what} can't be read")).because(e))
}

fn event(row: &PgRow, at: usize, what: &str) -> Result<Option<Uuid>> {
    // Owned, as are the hashes of a piece: a text answer, as to the statement that locks, has no bytes to lend.
    let value: Option<Vec<u8>> = get(row, at, what)?;
    value.map(|value| id(what, &value)).transpose()
}

fn id(what: &str, value: &[u8]) -> Result<Uuid> {
    Ok(Uuid::from_bytes(bytes(what, value)?))
}

/// Nodes that a tree of `size` leaves has at `level`.
pub(crate) fn nodes(size: u64, level: u8) -> u64 {
    size.checked_shr(8 * u32::from(level)).unwrap_or(0)
}

fn hashes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (chunks, rest) = bytes.as_chunks::<{ Hash::LEN }>();
    (rest.is_empty() && (1..=usize::from(TILE_WIDTH)).contains(&chunks.len()))
        .then(|| chunks.iter().copied().map(Hash::from_bytes).collect())
}

/// The tokens of a row; `None` when both columns are empty.
fn token_set(salt: Option<&[u8]>, tokens: Option<&[u8]>) -> Result<Option<TokenSet>> {
    let (salt, tokens) = match (salt, tokens) {
        (None, None) => return Ok(None),
        (Some(salt), Some(tokens)) => (salt, tokens),
        _ => return Err(Error::corrupt("one of token_salt and tokens is missing")),
    };
    let salt = Hex(bytes("token_salt", salt)?);
    let (chunks, rest) = tokens.as_chunks::<16>();
    let tokens: Vec<Token> = chunks.iter().copied().map(Hex).collect();
    if !rest.is_empty() || tokens.is_empty() || !tokens.is_sorted_by(|a, b| a < b) {
        return Err(Error::corrupt(
            "tokens are not a sorted list of 16 bytes each",
        ));
    }
    Ok(Some(TokenSet { salt, tokens }))
}

pub(crate) async fn origin(c: &mut PgConnection) -> Found<Option<String>> {
    let row = sqlx::query("SELECT value FROM meta WHERE name = 'origin'")
        .fetch_optional(c)
        .await?;
    let what = "the origin (which log this store is of)";
    Ok(row.map(|row| get(&row, 0, what)).transpose()?)
}

/// The size, as the head row says it.
pub(crate) async fn size(c: &mut PgConnection) -> Found<u64> {
    let row = sqlx::query("SELECT size FROM head LIMIT 1")
        .fetch_optional(c)
        .await?;
    let row = row.ok_or_else(|| Error::corrupt("the head row is missing"))?;
    Ok(unsigned(
        "the size in the head row",
        get(&row, 0, "head.size")?,
    )?)
}

/// A head, and what tells whether it is still the store's.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) head: Head,
    /// The event of the last entry.
    pub(crate) last: Option<Uuid>,
    /// `xmin` of the head row: the transaction that made it what it is.
    pub(crate) version: String,
}

/// The head row, what it must agree with, and the pieces of the tiles that the tree ends with, from the nodes on that the
/// eight parameters say: one row for each piece, or one with none. A tree that ends with a full tile ends with all of this
/// tile's pieces. The limit is one more than a tile can have, and keeps the server from reading all tiles.
pub(crate) const HEAD: &str = "
SELECT h.one, h.size, h.last, h.xmin::text, m.idx, m.event, t.level, t.node, t.hashes, (SELECT count(*) FROM head)
FROM head h
LEFT JOIN LATERAL (SELECT idx, event FROM entry ORDER BY idx DESC LIMIT 1) m ON true
LEFT JOIN LATERAL (
  SELECT t.level, t.node, t.hashes
  FROM (VALUES (0, $1::bigint), (1, $2::bigint), (2, $3::bigint), (3, $4::bigint),
               (4, $5::bigint), (5, $6::bigint), (6, $7::bigint), (7, $8::bigint)) AS l (level, known)
  CROSS JOIN LATERAL (
    SELECT level, node, hashes FROM tile
    WHERE tile.level = l.level
      AND tile.node >= greatest(((greatest(h.size, 0) >> (8 * l.level)) - 1) / 256 * 256, l.known)
    ORDER BY node DESC LIMIT 257
  ) t
) t ON true
ORDER BY t.level, t.node";

/// The head, read whole.
pub(crate) async fn head(c: &mut PgConnection) -> Found<Known> {
    let mut statement = sqlx::query(HEAD);
    for _ in 0..LEVELS {
        statement = statement.bind(0_i64);
    }
    let rows = statement.fetch_all(c).await?;
    Ok(read_head(&rows, None)?)
}

/// Reads what [`HEAD`] answers, which leaves out what `known` has.
pub(crate) fn read_head(rows: &[PgRow], known: Option<&Head>) -> Result<Known> {
    let Some(first) = rows.first() else {
        return Err(Error::corrupt("the head row is missing"));
    };
    if get::<i64>(first, 9, "the count of head rows")? != 1 {
        return Err(Error::corrupt("there are several head rows"));
    }
    if get::<Option<i16>>(first, 0, "head.one")? != Some(1) {
        return Err(Error::corrupt(
            "the head row isn't marked as the one that counts",
        ));
    }
    let stored: i64 = get(first, 1, "head.size")?;
    let last = event(first, 2, "head.last")?;
    let version: String = get(first, 3, "head.xmin")?;
    let size = unsigned("the size in the head row", stored)?;
    let last_index: Option<i64> = get(first, 4, "index")?;
    let last_event = event(first, 5, "event").map_err(|e| e.at(size.saturating_sub(1)))?;
    if size > SIZE_MAX || last_index != stored.checked_sub(1).filter(|last| *last >= 0) {
        let found = last_index.map_or("no entry".to_owned(), |n| format!("the entry at index {n}"));
        return Err(Error::corrupt(format!(
            "the head row says that the log has {size} entries, but the last one is {found}; entries were removed or \
             added, or the head row was changed"
        ))
        .at(size));
    }
    if last != last_event {
        let say = |event: Option<Uuid>| event.map_or("none".to_owned(), |event| event.to_string());
        return Err(Error::corrupt(format!(
            "the head row says that the last event is {}, but it is {}",
            say(last),
            say(last_event)
        ))
        .at(size.saturating_sub(1)));
    }
    let mut edge = Edge::new(size, known);
    for row in rows {
        let level: Option<i16> = get(row, 6, "tile.level")?;
        let Some(level) = level else { continue };
        let piece = Piece::read(level, row, 7, 8)?;
        edge.add(piece)?;
    }
    let edge = edge.end()?;
    Ok(Known {
        head: Head { size, edge },
        last,
        version,
    })
}

/// What the stored pieces of the last tiles add up to.
struct Edge<'a> {
    size: u64,
    known: Option<&'a Head>,
    /// For each level the hashes of its last tile, so far.
    levels: Vec<Vec<Hash>>,
}

impl<'a> Edge<'a> {
    fn new(size: u64, known: Option<&'a Head>) -> Self {
        let levels = (0..LEVELS)
            .map(|level| match known {
                // What the tree ended with then, as long as it still ends with that tile.
                Some(known)
                    if last_tile(nodes(known.size, level)) == last_tile(nodes(size, level)) =>
                {
                    known.edge.tile(level).to_vec()
                }
                _ => Vec::new(),
            })
            .collect();
        Self {
            size,
            known,
            levels,
        }
    }

    fn add(&mut self, piece: Piece) -> Result<()> {
        let level = u8::try_from(piece.level)
            .ok()
            .filter(|level| *level < LEVELS);
        let Some(level) = level else {
            return Err(Error::corrupt(format!(
                "there is a tile of level {}",
                piece.level
            )));
        };
        let nodes = nodes(self.size, level);
        let hashes = &mut self.levels[usize::from(level)];
        let wanted = last_tile(nodes).unwrap_or(0) * u64::from(TILE_WIDTH) + hashes.len() as u64;
        if piece.node != wanted || piece.end() > nodes {
            return Err(self.unfit(
                level,
                &format!("hashes {} to {} are stored", piece.node, piece.end()),
            ));
        }
        hashes.extend(piece.hashes);
        Ok(())
    }

    fn unfit(&self, level: u8, what: &str) -> Error {
        let nodes = nodes(self.size, level);
        let tile = last_tile(nodes).unwrap_or(0);
        Error::corrupt(format!(
            "the log has {} entries, so level {level} of the tree has {nodes} hashes and ends with tile {level}/{tile}, \
             but {what}; entries or tiles were removed or added",
            self.size
        ))
        .at(self.size)
    }

    fn end(self) -> Result<EdgeTiles> {
        let mut levels = Vec::with_capacity(usize::from(LEVELS));
        for level in 0..LEVELS {
            let nodes = nodes(self.size, level);
            let found = &self.levels[usize::from(level)];
            let width = nodes - last_tile(nodes).unwrap_or(0) * u64::from(TILE_WIDTH);
            // A tile that was full when it was known is no part of an edge.
            let was_full = self.known.is_some_and(|known| {
                self::nodes(known.size, level) == nodes && width == u64::from(TILE_WIDTH)
            });
            if found.len() as u64 != width && !was_full {
                return Err(self.unfit(level, &format!("{} of its hashes are stored", found.len())));
            }
            levels.push(if width == u64::from(TILE_WIDTH) {
                Vec::new()
            } else {
                found.clone()
            });
        }
        EdgeTiles::from_tiles(self.size, levels).map_err(|e| {
            Error::corrupt("the stored tiles don't make the edge of a tree").because(e)
        })
    }
}

/// The tile that a level of so many nodes ends with.
fn last_tile(nodes: u64) -> Option<u64> {
    Some(nodes.checked_sub(1)? / u64::from(TILE_WIDTH))
}

/// Some hashes of one tile, as one batch brought them.
struct Piece {
    level: i16,
    node: u64,
    hashes: Vec<Hash>,
}

impl Piece {
    fn read(level: i16, row: &PgRow, node: usize, hashes: usize) -> Result<Self> {
        let at: i64 = get(row, node, "tile.node")?;
        let node = unsigned(
            &format!("a tile of level {level} is stored, and its node {at}"),
            at,
        )?;
        let tile = node / u64::from(TILE_WIDTH);
        let bytes: Vec<u8> = get(row, hashes, &format!("tile {level}/{tile}"))?;
        let hashes = self::hashes(&bytes).ok_or_else(|| {
            Error::corrupt(format!(
                "tile {level}/{tile} has a piece of {} bytes at node {node}",
                bytes.len()
            ))
        })?;
        let piece = Self {
            level,
            node,
            hashes,
        };
        if last_tile(piece.end()) != Some(tile) {
            return Err(Error::corrupt(format!(
                "tile {level}/{tile} has a piece at node {node} that is longer than the tile"
            )));
        }
        Ok(piece)
    }

    fn end(&self) -> u64 {
        self.node.saturating_add(self.hashes.len() as u64)
    }
}

pub(crate) async fn rows(c: &mut PgConnection, range: Range<u64>, parts: Parts) -> Found<Vec<Row>> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    // A row that is appended between the two statements is found by the second look.
    for last in [false, true] {
        let found = rows_from(c, &range, parts).await?;
        if !found.is_empty() || range.start >= size(c).await? {
            return Ok(found);
        }
        if last {
            break;
        }
    }
    Err(Error::corrupt("an entry is missing").at(range.start).into())
}

/// The lengths stand in the row, so nothing that lies apart is read before it is known to be wanted.
const ROWS_WITH: &str = "
  SELECT idx, event, kind, time, entry, token_salt, tokens, parts
  FROM (
    SELECT *, sum(bytes) OVER (ORDER BY idx ROWS UNBOUNDED PRECEDING) - bytes AS before
    FROM (
      SELECT e.idx, e.event, e.kind, e.time, e.entry, c.token_salt, c.tokens, c.parts,
        octet_length(e.entry)::bigint + coalesce(octet_length(c.tokens), 0) + coalesce(octet_length(c.parts), 0) AS bytes
      FROM entry e LEFT JOIN content c ON c.idx = e.idx AND c.idx >= $1 AND c.idx < $2
      WHERE e.idx >= $1 AND e.idx < $2 ORDER BY e.idx LIMIT $3
    ) r
  ) r
  WHERE before = 0 OR before + bytes <= $4
  ORDER BY idx";
const ROWS_WITHOUT: &str = "
  SELECT idx, event, kind, time, entry, token_salt, tokens, NULL::bytea
  FROM (
    SELECT *, sum(bytes) OVER (ORDER BY idx ROWS UNBOUNDED PRECEDING) - bytes AS before
    FROM (
      SELECT e.idx, e.event, e.kind, e.time, e.entry, c.token_salt, c.tokens,
        octet_length(e.entry)::bigint + coalesce(octet_length(c.tokens), 0) AS bytes
      FROM entry e LEFT JOIN content c ON c.idx = e.idx AND c.idx >= $1 AND c.idx < $2
      WHERE e.idx >= $1 AND e.idx < $2 ORDER BY e.idx LIMIT $3
    ) r
  ) r
  WHERE before = 0 OR before + bytes <= $4
  ORDER BY idx";

async fn rows_from(c: &mut PgConnection, range: &Range<u64>, parts: Parts) -> Found<Vec<Row>> {
    let sql = match parts {
        Parts::With => ROWS_WITH,
        Parts::Without => ROWS_WITHOUT,
    };
    let rows = sqlx::query(sql)
        .bind(int(range.start))
        // Indexes have no gaps, so both tables are read over a range that the server knows to be short.
        .bind(int(range.end).min(int(range.start).saturating_add(ROWS_MAX)))
        .bind(ROWS_MAX)
        .bind(ROWS_BYTES)
        .fetch_all(c)
        .await?;
    let mut out = Vec::with_capacity(rows.len());
    for (row, expected) in rows.iter().zip(range.start..) {
        let index = get(row, 0, "index")
            .and_then(|n| unsigned("index", n))
            .map_err(|e| e.at(expected))?;
        if index != expected {
            let what = if index < expected {
                "an entry is there twice"
            } else {
                "an entry is missing"
            };
            return Err(Error::corrupt(what).at(expected.min(index)).into());
        }
        out.push(read_row(index, row).map_err(|e| e.at(index))?);
    }
    Ok(out)
}

fn read_row(index: u64, row: &PgRow) -> Result<Row> {
    let kind: &str = get(row, 2, "kind")?;
    let columns = Columns {
        event: id("event", get(row, 1, "event")?)?,
        kind: Kind::new(kind).map_err(|e| Error::corrupt("kind is malformed").because(e))?,
        time: Timestamp::from_micros(get(row, 3, "time")?)
            .map_err(|e| Error::corrupt("time is out of range").because(e))?,
    };
    Ok(Row {
        index,
        entry: packed::unpack(get(row, 4, "entry")?)?,
        columns,
        tokens: token_set(get(row, 5, "token_salt")?, get(row, 6, "tokens")?)?,
        parts: get(row, 7, "parts")?,
    })
}

pub(crate) async fn position(c: &mut PgConnection, event: Uuid) -> Found<Option<u64>> {
    let row = sqlx::query("SELECT idx FROM entry WHERE event = $1")
        .bind(event.as_bytes().as_slice())
        .fetch_optional(c)
        .await?;
    Ok(row.map(|row| index(&row)).transpose()?)
}

fn index(row: &PgRow) -> Result<u64> {
    unsigned("index", get(row, 0, "index")?)
}

pub(crate) async fn find(c: &mut PgConnection, query: &Query) -> Found<Vec<u64>> {
    if query.indexes.is_empty() || query.limit == 0 {
        return Ok(Vec::new());
    }
    let tokens = rarest_first(c, &query.tokens).await?;
    let plan = plan(query, &tokens);
    let rows = plan.statement().fetch_all(c).await?;
    Ok(rows.iter().map(index).collect::<Result<_>>()?)
}

/// Each token once, the one with the fewest rows first.
async fn rarest_first(c: &mut PgConnection, tokens: &[Token]) -> Found<Vec<Token>> {
    let mut tokens = tokens.to_vec();
    tokens.sort_unstable();
    tokens.dedup();
    if tokens.len() < 2 {
        return Ok(tokens);
    }
    let list: Vec<&[u8]> = tokens.iter().map(|token| token.0.as_slice()).collect();
    let rows = sqlx::query(RAREST)
        .bind(list)
        .bind(COUNTED_MAX)
        .fetch_all(c)
        .await?;
    rows.iter()
        .map(|row| Ok(Hex(bytes("token", get(row, 0, "token")?)?)))
        .collect()
}

const RAREST: &str = "
  SELECT w.token FROM unnest($1::bytea[]) AS w (token)
  ORDER BY (SELECT count(*) FROM (SELECT FROM token t WHERE t.token = w.token LIMIT $2) n), w.token";

/// A statement that is put together, with its parameters.
pub(crate) struct Plan {
    pub(crate) sql: String,
    numbers: Vec<i64>,
    tokens: Vec<Vec<u8>>,
    kind: Option<String>,
}

impl Plan {
    pub(crate) fn statement(self) -> Statement<'static, Postgres, PgArguments> {
        let mut arguments = PgArguments::default();
        // Neither numbers nor bytes can fail to be encoded.
        for number in self.numbers {
            drop(arguments.add(number));
        }
        for token in self.tokens {
            drop(arguments.add(token));
        }
        if let Some(kind) = self.kind {
            drop(arguments.add(kind));
        }
        sqlx::query_with(AssertSqlSafe(self.sql), arguments)
    }
}

/// The statement for a search. It walks one index from the end that is asked for, and stops at the limit, wherever that
/// index is in the order of the log; `OFFSET 0` keeps what is looked up from being joined the other way round.
pub(crate) fn plan(query: &Query, tokens: &[Token]) -> Plan {
    let order = if query.descending { "DESC" } else { "ASC" };
    let mut numbers = vec![
        int(query.indexes.start),
        int(query.indexes.end),
        count(query.limit),
    ];
    let mut on_entry = Vec::new();
    for (time, sign) in [(query.from, ">="), (query.until, "<")] {
        if let Some(time) = time {
            numbers.push(time.as_micros());
            on_entry.push(format!("e.time {sign} ${}", numbers.len()));
        }
    }
    let timed = !on_entry.is_empty();
    let mut parameter = numbers.len();
    let mut next = || {
        parameter += 1;
        parameter
    };
    let token_parameters: Vec<usize> = tokens.iter().map(|_| next()).collect();
    if query.kind.is_some() {
        on_entry.push(format!("e.kind = ${}", next()));
    }
    let on_entry = on_entry.join(" AND ");
    let sql = if let [rarest, others @ ..] = token_parameters.as_slice() {
        let mut conditions = vec![format!(
            "t.token = ${rarest} AND t.idx >= $1 AND t.idx < $2"
        )];
        for other in others {
            conditions.push(format!(
                "EXISTS (SELECT FROM token o WHERE o.token = ${other} AND o.idx = t.idx OFFSET 0)"
            ));
        }
        if !on_entry.is_empty() {
            conditions.push(format!(
                "EXISTS (SELECT FROM entry e WHERE e.idx = t.idx AND {on_entry} OFFSET 0)"
            ));
        }
        let conditions = conditions.join(" AND ");
        format!("SELECT t.idx FROM token t WHERE {conditions} ORDER BY t.idx {order} LIMIT $3")
    } else if timed {
        // Times are not in the order of the log.
        format!(
            "WITH m AS MATERIALIZED (SELECT e.idx FROM entry e WHERE {on_entry} AND e.idx >= $1 AND e.idx < $2)
             SELECT idx FROM m ORDER BY idx {order} LIMIT $3"
        )
    } else if on_entry.is_empty() {
        format!(
            "SELECT e.idx FROM entry e WHERE e.idx >= $1 AND e.idx < $2 ORDER BY e.idx {order} LIMIT $3"
        )
    } else {
        format!(
            "SELECT e.idx FROM entry e WHERE {on_entry} AND e.idx >= $1 AND e.idx < $2
             ORDER BY e.kind {order}, e.idx {order} LIMIT $3"
        )
    };
    Plan {
        sql,
        numbers,
        tokens: tokens.iter().map(|token| token.0.to_vec()).collect(),
        kind: query.kind.as_ref().map(|kind| kind.as_str().to_owned()),
    }
}

pub(crate) async fn token_rows(
    c: &mut PgConnection,
    after: Option<(Token, u64)>,
    limit: usize,
) -> Found<Vec<(Token, u64)>> {
    let statement = match after {
        None => sqlx::query("SELECT token, idx FROM token ORDER BY token, idx LIMIT $1").bind(count(limit)),
        Some((token, index)) => sqlx::query(
            "SELECT token, idx FROM token WHERE (token, idx) > ($2, $3) ORDER BY token, idx LIMIT $1",
        )
        .bind(count(limit))
        .bind(token.0.to_vec())
        .bind(int(index)),
    };
    let rows = statement.fetch_all(c).await?;
    Ok(rows.iter().map(token_row).collect::<Result<_>>()?)
}

fn token_row(row: &PgRow) -> Result<(Token, u64)> {
    let token: &[u8] = get(row, 0, "token.token")?;
    let index: i64 = get(row, 1, "token.idx")?;
    let read = || -> Result<(Token, u64)> {
        Ok((Hex(bytes("token", token)?), unsigned("token.idx", index)?))
    };
    read().map_err(|e| {
        let token = if token.len() <= 64 {
            audit_core::hex::encode(token)
        } else {
            "with many bytes".to_owned()
        };
        Error::corrupt(format!(
            "the token row {token} of the entry at index {index}: {e}"
        ))
    })
}

pub(crate) async fn tile(c: &mut PgConnection, id: TileId) -> Found<Option<Vec<Hash>>> {
    let width = u64::from(TILE_WIDTH);
    let Some(start) = id
        .index
        .checked_mul(width)
        .filter(|start| *start <= SIZE_MAX)
    else {
        return Ok(None);
    };
    let rows = sqlx::query(
        "SELECT node, hashes FROM tile WHERE level = $1 AND node >= $2 AND node < $3 ORDER BY node",
    )
    .bind(i16::from(id.level))
    .bind(int(start))
    .bind(int(start + u64::from(id.width)))
    .fetch_all(c)
    .await?;
    let mut out = Vec::with_capacity(usize::from(id.width));
    for row in &rows {
        let piece = Piece::read(id.level.into(), row, 0, 1)?;
        join(&mut out, start, piece)?;
    }
    if out.len() < usize::from(id.width) {
        return Ok(None);
    }
    out.truncate(usize::from(id.width));
    Ok(Some(out))
}

/// Adds a piece to the tile that begins at node `start`.
fn join(hashes: &mut Vec<Hash>, start: u64, piece: Piece) -> Result<()> {
    let next = start + hashes.len() as u64;
    if piece.node != next {
        let what = if piece.node < next {
            "twice"
        } else {
            "not at all"
        };
        return Err(Error::corrupt(format!(
            "tile {}/{} has the hash of node {} {what}",
            piece.level,
            start / u64::from(TILE_WIDTH),
            piece.node.min(next)
        )));
    }
    hashes.extend(piece.hashes);
    Ok(())
}

pub(crate) async fn tiles(
    c: &mut PgConnection,
    level: u8,
    after: Option<u64>,
    limit: usize,
) -> Found<Vec<Tile>> {
    let width = u64::from(TILE_WIDTH);
    // As many pieces as so many tiles can have, and one, by which the last tile is known to be whole.
    let limit = limit.min(TILES_MAX);
    let pieces = limit * usize::from(TILE_WIDTH) + 1;
    let from = after
        .map_or(0, |after| after.saturating_add(1))
        .saturating_mul(width);
    // A node below 0 belongs before all others, and is refused.
    let from = if after.is_none() { i64::MIN } else { int(from) };
    let rows = sqlx::query(
        "SELECT node, hashes FROM tile WHERE level = $1 AND node >= $2 ORDER BY node LIMIT $3",
    )
    .bind(i16::from(level))
    .bind(from)
    .bind(count(pieces))
    .fetch_all(c)
    .await?;
    let mut tiles: Vec<(u64, Vec<Hash>)> = Vec::new();
    for row in &rows {
        let piece = Piece::read(level.into(), row, 0, 1)?;
        let index = piece.node / width;
        if tiles.last().is_none_or(|(last, _)| *last != index) {
            if tiles.len() == limit {
                break;
            }
            tiles.push((index, Vec::new()));
        }
        if let Some((_, hashes)) = tiles.last_mut() {
            join(hashes, index * width, piece)?;
        }
    }
    let read = |(index, hashes): (u64, Vec<Hash>)| {
        let id = u16::try_from(hashes.len())
            .map_err(|e| Error::corrupt("tile is too wide").because(e))
            .and_then(|width| {
                TileId::new(level, index, width)
                    .map_err(|e| Error::corrupt("tile has no name").because(e))
            })?;
        Ok(Tile { id, hashes })
    };
    Ok(tiles.into_iter().map(read).collect::<Result<_>>()?)
}

pub(crate) async fn latest_checkpoint(c: &mut PgConnection) -> Found<Option<Vec<u8>>> {
    let row = sqlx::query("SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1")
        .fetch_optional(c)
        .await?;
    Ok(row
        .map(|row| checkpoint_row(&row))
        .transpose()?
        .map(|(_, note)| note))
}

pub(crate) async fn checkpoint(c: &mut PgConnection, size: u64) -> Found<Option<Vec<u8>>> {
    let row = sqlx::query("SELECT size, note FROM checkpoint WHERE size = $1")
        .bind(int(size))
        .fetch_optional(c)
        .await?;
    Ok(row
        .map(|row| checkpoint_row(&row))
        .transpose()?
        .map(|(_, note)| note))
}

pub(crate) async fn checkpoints(
    c: &mut PgConnection,
    after: u64,
    limit: usize,
) -> Found<Vec<(u64, Vec<u8>)>> {
    let rows =
        sqlx::query("SELECT size, note FROM checkpoint WHERE size > $1 ORDER BY size LIMIT $2")
            .bind(int(after))
            .bind(count(limit))
            .fetch_all(c)
            .await?;
    Ok(rows.iter().map(checkpoint_row).collect::<Result<_>>()?)
}

fn checkpoint_row(row: &PgRow) -> Result<(u64, Vec<u8>)> {
    let size = unsigned("checkpoint size", get(row, 0, "checkpoint.size")?)?;
    Ok((
        size,
        get(row, 1, &format!("the checkpoint of size {size}"))?,
    ))
}

pub(crate) async fn key(c: &mut PgConnection, id: Uuid) -> Found<Option<KeyRecord>> {
    let row = sqlx::query("SELECT id, scope, run, generation, wrapped FROM data_key WHERE id = $1")
        .bind(id.as_bytes().as_slice())
        .fetch_optional(c)
        .await?;
    Ok(row.map(|row| key_record(&row)).transpose()?)
}

pub(crate) async fn keys(
    c: &mut PgConnection,
    after: Option<Uuid>,
    limit: usize,
) -> Found<Vec<KeyRecord>> {
    let statement = match after {
        None => sqlx::query("SELECT id, scope, run, generation, wrapped FROM data_key ORDER BY id LIMIT $1")
            .bind(count(limit)),
        Some(after) => sqlx::query(
            "SELECT id, scope, run, generation, wrapped FROM data_key WHERE id > $2 ORDER BY id LIMIT $1",
        )
        .bind(count(limit))
        .bind(after.as_bytes().to_vec()),
    };
    let rows = statement.fetch_all(c).await?;
    Ok(rows.iter().map(key_record).collect::<Result<_>>()?)
}

pub(crate) async fn keys_of_scope(c: &mut PgConnection, scope: Token) -> Found<Vec<KeyRecord>> {
    let rows = sqlx::query(
        "SELECT id, scope, run, generation, wrapped FROM data_key WHERE scope = $1 ORDER BY id",
    )
    .bind(scope.0.to_vec())
    .fetch_all(c)
    .await?;
    Ok(rows.iter().map(key_record).collect::<Result<_>>()?)
}

fn key_record(row: &PgRow) -> Result<KeyRecord> {
    let stored: &[u8] = get(row, 0, "data_key.id")?;
    let id = id(
        &format!("data_key.id {}", audit_core::hex::encode(stored)),
        stored,
    )?;
    let read = || -> Result<KeyRecord> {
        Ok(KeyRecord {
            id,
            scope: Hex(bytes("scope", get(row, 1, "scope")?)?),
            run: self::id("run", get(row, 2, "run")?)?,
            generation: u32::try_from(get::<i64>(row, 3, "generation")?)
                .map_err(|e| Error::corrupt("generation is out of range").because(e))?,
            wrapped: bytes("wrapped", get(row, 4, "wrapped")?)?,
        })
    };
    read().map_err(|e| Error::corrupt(format!("record of data key {id}: {e}")))
}
