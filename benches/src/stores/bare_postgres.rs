//! The same rows into the same tables of PostgreSQL, one transaction per batch, and nothing else.

use audit_core::packed;
use audit_core::store::Batch;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::Result;

/// How rows are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "each kind is handled")]
pub enum How {
    /// One statement with the rows of all tables in it, which commits by itself.
    Insert,
    /// BEGIN, `COPY` into each table, COMMIT.
    Copy,
}

/// A connection to a schema that has the tables.
#[derive(Debug)]
pub struct BarePostgres {
    connection: PgConnection,
    how: How,
}

#[derive(Debug, Default)]
struct Columns {
    index: Vec<i64>,
    event: Vec<Vec<u8>>,
    kind: Vec<String>,
    time: Vec<i64>,
    entry: Vec<Vec<u8>>,
    content: Vec<i64>,
    salt: Vec<Option<Vec<u8>>>,
    tokens: Vec<Option<Vec<u8>>>,
    parts: Vec<Option<Vec<u8>>>,
    token: Vec<Vec<u8>>,
    token_index: Vec<i64>,
    level: Vec<i16>,
    node: Vec<i64>,
    hashes: Vec<Vec<u8>>,
    key: Vec<Vec<u8>>,
    scope: Vec<Vec<u8>>,
    run: Vec<Vec<u8>>,
    generation: Vec<i64>,
    wrapped: Vec<Vec<u8>>,
}

/// A batch in both forms.
#[derive(Debug)]
pub struct PostgresBatch {
    columns: Columns,
    copies: Vec<(&'static str, Vec<u8>)>,
}

const INSERT: &str = "
WITH put_entry AS (
  INSERT INTO entry (idx, event, kind, time, entry)
  SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::text[], $4::bigint[], $5::bytea[])
), put_content AS (
  INSERT INTO content (idx, token_salt, tokens, parts)
  SELECT * FROM unnest($6::bigint[], $7::bytea[], $8::bytea[], $9::bytea[])
), put_token AS (
  INSERT INTO token (token, idx) SELECT * FROM unnest($10::bytea[], $11::bigint[])
), put_tile AS (
  INSERT INTO tile (level, node, hashes) SELECT * FROM unnest($12::smallint[], $13::bigint[], $14::bytea[])
)
INSERT INTO data_key (id, scope, run, generation, wrapped)
SELECT * FROM unnest($15::bytea[], $16::bytea[], $17::bytea[], $18::bigint[], $19::bytea[])";

impl PostgresBatch {
    /// The values of a batch that a log made. Of a tile only the hashes that are new, as the store keeps them.
    pub fn new(batch: &Batch) -> Result<Self> {
        let mut c = Columns::default();
        for row in &batch.rows {
            let index = i64::try_from(row.index)?;
            c.index.push(index);
            c.event.push(row.columns.event.as_bytes().to_vec());
            c.kind.push(row.columns.kind.as_str().to_owned());
            c.time.push(row.columns.time.as_micros());
            c.entry.push(packed::pack(&row.entry));
            let set = row.tokens.as_ref();
            if set.is_some() || row.parts.is_some() {
                c.content.push(index);
                c.salt.push(set.map(|set| set.salt.0.to_vec()));
                c.tokens
                    .push(set.map(|set| set.tokens.iter().flat_map(|t| t.0).collect()));
                c.parts.push(row.parts.clone());
            }
            for token in set.into_iter().flat_map(|set| &set.tokens) {
                c.token.push(token.0.to_vec());
                c.token_index.push(index);
            }
        }
        let first = batch.rows.first().map_or(0, |row| row.index);
        for tile in &batch.tiles {
            let start = tile.id.index * 256;
            let node = start.max(
                first
                    .checked_shr(8 * u32::from(tile.id.level))
                    .unwrap_or_default(),
            );
            let old = usize::try_from(node - start)?;
            c.level.push(tile.id.level.into());
            c.node.push(i64::try_from(node)?);
            let new = tile.hashes.get(old..).unwrap_or_default();
            c.hashes
                .push(new.iter().flat_map(|hash| *hash.as_bytes()).collect());
        }
        for key in &batch.keys {
            c.key.push(key.id.as_bytes().to_vec());
            c.scope.push(key.scope.0.to_vec());
            c.run.push(key.run.as_bytes().to_vec());
            c.generation.push(key.generation.into());
            c.wrapped.push(key.wrapped.to_vec());
        }
        let copies = c.copies()?;
        Ok(Self { columns: c, copies })
    }
}

impl PostgresBatch {
    /// Events in it.
    #[must_use]
    pub fn events(&self) -> usize {
        self.columns.index.len()
    }
}

impl Columns {
    /// The rows in the binary format of `COPY` (PostgreSQL documentation, COPY, "Binary Format").
    fn copies(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let mut entry = Copy::default();
        for (at, index) in self.index.iter().enumerate() {
            entry.row([
                Some(&index.to_be_bytes()),
                Some(&self.event[at]),
                Some(self.kind[at].as_bytes()),
                Some(&self.time[at].to_be_bytes()),
                Some(&self.entry[at]),
            ])?;
        }
        let mut content = Copy::default();
        for (at, index) in self.content.iter().enumerate() {
            content.row([
                Some(&index.to_be_bytes()),
                self.salt[at].as_deref(),
                self.tokens[at].as_deref(),
                self.parts[at].as_deref(),
            ])?;
        }
        let mut token = Copy::default();
        for (value, index) in self.token.iter().zip(&self.token_index) {
            token.row([Some(value), Some(&index.to_be_bytes())])?;
        }
        let mut tile = Copy::default();
        for (at, level) in self.level.iter().enumerate() {
            tile.row([
                Some(&level.to_be_bytes()),
                Some(&self.node[at].to_be_bytes()),
                Some(&self.hashes[at]),
            ])?;
        }
        let mut key = Copy::default();
        for (at, id) in self.key.iter().enumerate() {
            key.row([
                Some(id),
                Some(&self.scope[at]),
                Some(&self.run[at]),
                Some(&self.generation[at].to_be_bytes()),
                Some(&self.wrapped[at]),
            ])?;
        }
        let all = [
            ("entry (idx, event, kind, time, entry)", entry),
            ("content (idx, token_salt, tokens, parts)", content),
            ("token (token, idx)", token),
            ("tile (level, node, hashes)", tile),
            ("data_key (id, scope, run, generation, wrapped)", key),
        ];
        let filled = all.into_iter().filter(|(_, copy)| copy.rows > 0);
        Ok(filled.map(|(table, copy)| (table, copy.end())).collect())
    }
}

#[derive(Default)]
struct Copy {
    bytes: Vec<u8>,
    rows: usize,
}

impl Copy {
    fn row<const N: usize>(&mut self, fields: [Option<&[u8]>; N]) -> Result<()> {
        self.rows += 1;
        self.bytes.extend(i16::try_from(N)?.to_be_bytes());
        for field in fields {
            match field {
                Some(bytes) => {
                    self.bytes.extend(i32::try_from(bytes.len())?.to_be_bytes());
                    self.bytes.extend_from_slice(bytes);
                }
                None => self.bytes.extend((-1_i32).to_be_bytes()),
            }
        }
        Ok(())
    }

    fn end(self) -> Vec<u8> {
        let mut out = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
        out.extend(self.bytes);
        out.extend((-1_i16).to_be_bytes());
        out
    }
}

impl BarePostgres {
    /// Connects; the schema has the tables and no log.
    pub async fn connect(url: &str, schema: &str, how: How) -> Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        // A name of ours: letters, digits and underscores.
        let sql = format!("SET search_path = {schema}; SET synchronous_commit = on");
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await?;
        Ok(Self { connection, how })
    }

    /// What it does.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self.how {
            How::Insert => "bare multi-row insert",
            How::Copy => "bare COPY",
        }
    }

    /// Commits a batch; durable on return.
    pub async fn commit(&mut self, batch: &PostgresBatch) -> Result<()> {
        match self.how {
            How::Insert => {
                let c = &batch.columns;
                sqlx::query(INSERT)
                    .bind(&c.index)
                    .bind(&c.event)
                    .bind(&c.kind)
                    .bind(&c.time)
                    .bind(&c.entry)
                    .bind(&c.content)
                    .bind(&c.salt)
                    .bind(&c.tokens)
                    .bind(&c.parts)
                    .bind(&c.token)
                    .bind(&c.token_index)
                    .bind(&c.level)
                    .bind(&c.node)
                    .bind(&c.hashes)
                    .bind(&c.key)
                    .bind(&c.scope)
                    .bind(&c.run)
                    .bind(&c.generation)
                    .bind(&c.wrapped)
                    .execute(&mut self.connection)
                    .await?;
            }
            How::Copy => {
                sqlx::raw_sql("BEGIN").execute(&mut self.connection).await?;
                for (table, bytes) in &batch.copies {
                    let sql = format!("COPY {table} FROM STDIN (FORMAT binary)");
                    let mut copy = self.connection.copy_in_raw(&sql).await?;
                    copy.send(bytes.as_slice()).await?;
                    copy.finish().await?;
                }
                sqlx::raw_sql("COMMIT")
                    .execute(&mut self.connection)
                    .await?;
            }
        }
        Ok(())
    }
}
