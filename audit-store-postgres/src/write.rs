//! Writing: each batch behind the lock of the head row.

use std::time::Duration;

use audit_core::datakey::KeyRecord;
use audit_core::entry::check_origin;
use audit_core::packed;
use audit_core::store::{Batch, Build, Head};
use audit_core::{Error, ErrorKind, Result};
use audit_tlog::tile::TILE_WIDTH;
use sqlx::postgres::{PgArguments, PgConnection, Postgres};
use sqlx::query::Query as Statement;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::connection::{CALL, Idle, Use, connect};
use crate::failure::{Failure, Found};
use crate::query::{self, HEAD, Known, int, nodes, read_head};
use crate::url::PostgresUrl;

/// Stored parts of one entry: what a value of `bytea` holds (2³⁰ − 1 with its header), and what SQLite does.
const PARTS_BYTES_MAX: usize = 999_000_000;
/// Stored parts that go into one statement together; the protocol ends at 2³⁰ − 1 for a message.
const STATEMENT_BYTES: usize = 16 << 20;

/// The connection that writes, and what it knows.
pub(crate) struct Writer {
    url: PostgresUrl,
    connection: Option<Idle>,
    /// The head that this writer committed or read last.
    known: Option<Known>,
    /// Others have appended in between, so the lock is taken before the batch is made.
    contended: bool,
    /// The outcome of a commit isn't known: it may still be under way.
    unsettled: bool,
    /// The connection has the statements of [`prepare`].
    prepared: bool,
}

impl Writer {
    pub(crate) fn new(url: PostgresUrl) -> Self {
        Self {
            url,
            connection: None,
            known: None,
            contended: false,
            unsettled: false,
            prepared: false,
        }
    }

    pub(crate) fn adopt(&mut self, connection: PgConnection) {
        self.connection = Some(Idle::new(connection));
    }

    /// The connection; it is lost to the writer until it is given back.
    async fn take(&mut self) -> Result<PgConnection> {
        if let Some(idle) = self.connection.take()
            && let Some(alive) = idle.alive().await
        {
            return Ok(alive);
        }
        self.prepared = false;
        connect(&self.url, Use::Write).await
    }

    /// Ends an operation that wrote nothing if it failed.
    fn settle<T>(&mut self, connection: PgConnection, done: Found<T>) -> Result<T> {
        if done.as_ref().err().is_none_or(Failure::leaves_connection) {
            self.connection = Some(Idle::new(connection));
        }
        done.map_err(|e| e.said("writing to", &self.url))
    }

    pub(crate) async fn create(&mut self, origin: &str) -> Result<()> {
        check_origin(origin)?;
        let mut connection = self.take().await?;
        let created = in_time(create(&mut connection, origin, &self.url)).await;
        self.settle(connection, created)
    }

    pub(crate) async fn append(&mut self, mut build: Build) -> Result<Head> {
        let mut connection = self.take().await?;
        // Whatever fails from here on, the next append reads the head again.
        let mut known = self.known.take();
        if let Some(base) = &known
            && !self.contended
        {
            let made = match Made::build(&mut build, &base.head) {
                Ok(made) => made,
                Err(e) => {
                    self.known = known;
                    self.adopt(connection);
                    return Err(e);
                }
            };
            if made.is_small() {
                // One statement, which commits by itself: it moves the head row on if this is still the row that was
                // known, and inserts only what belongs to a head that was moved. Dying before the server has it leaves
                // nothing behind, dying later leaves all of it or nothing.
                let put = in_time(put(&mut connection, base, &made, usize::MAX)).await;
                match put {
                    Ok(Some(version)) => {
                        self.adopt(connection);
                        return Ok(self.appended(made, version));
                    }
                    // Others have appended since.
                    Ok(None) => self.contended = true,
                    Err(e) => return Err(self.failed(connection, e)),
                }
            } else {
                known = Some(base.clone());
            }
        }
        let prepared = self.prepared;
        let began = in_time(async {
            if !prepared {
                prepare(&mut connection).await?;
            }
            begin(&mut connection, known.as_ref()).await
        })
        .await;
        self.prepared = true;
        let head = match began {
            Ok(head) => head,
            Err(e) => {
                // Nothing was sent that could be committed; the server rolls back with the connection.
                drop(connection);
                return Err(e.said("writing to", &self.url));
            }
        };
        self.contended = known.is_some_and(|known| known.version != head.version);
        let made = match Made::build(&mut build, &head.head) {
            Ok(made) => made,
            Err(e) => {
                let rolled = in_time(roll_back(&mut connection)).await;
                if rolled.is_ok() {
                    self.known = Some(head);
                    self.adopt(connection);
                }
                return Err(e);
            }
        };
        // Dying from here to COMMIT leaves nothing behind.
        let version = match in_time(put_in_transaction(&mut connection, &head, &made)).await {
            Ok(version) => version,
            Err(e) => {
                let refused = e.leaves_connection();
                let error = self.refused(e);
                if refused && in_time(roll_back(&mut connection)).await.is_ok() {
                    self.adopt(connection);
                }
                return Err(error);
            }
        };
        // Dying from here on leaves all of it behind, or nothing.
        match in_time(commit(&mut connection)).await {
            Ok(()) => {
                self.adopt(connection);
                Ok(self.appended(made, version))
            }
            Err(e) => Err(self.failed(connection, e)),
        }
    }

    fn appended(&mut self, made: Made, version: String) -> Head {
        let head = made.after.clone();
        self.known = Some(Known {
            head: made.after,
            last: made.batch.rows.last().map(|row| row.columns.event),
            version,
        });
        head
    }

    /// The error of what might have committed.
    fn failed(&mut self, connection: PgConnection, failure: Failure) -> Error {
        if failure.is_refusal() {
            if failure.leaves_connection() {
                self.adopt(connection);
            }
            return self.refused(failure);
        }
        self.unsettled = true;
        let cause = failure.said("writing to", &self.url);
        Error::new(
            ErrorKind::Unknown,
            format!("committing to {} failed, and may have happened", self.url),
        )
        .because(cause)
    }

    /// The error of what the server refused.
    fn refused(&self, failure: Failure) -> Error {
        let Some(answer) = failure.answer().filter(|answer| answer.code() == "23505") else {
            return failure.said("writing to", &self.url);
        };
        let value = answer.detail().and_then(value_in).unwrap_or_default();
        let error = match (answer.table(), answer.constraint()) {
            (_, Some("entry_event")) => {
                Error::invalid(format!("event {value} is already in the log"))
            }
            (Some("data_key"), _) => {
                Error::invalid(format!("data key {value} already has a record"))
            }
            (table, _) => Error::corrupt(format!(
                "writing to {}: the table {} has a row {value} already, beyond the end of the log",
                self.url,
                table.unwrap_or("of the batch")
            )),
        };
        match failure {
            Failure::Engine(e) => error.because(e),
            _ => error,
        }
    }

    /// The index of an event, once nothing is under way any more that might bring it.
    ///
    /// Whoever commits holds the head row, so changing that row waits for them; and what has not locked it yet looks for
    /// the row as it was before this change, and finds nothing to do.
    pub(crate) async fn position(&mut self, event: Uuid) -> Result<Option<u64>> {
        let mut connection = self.take().await?;
        let found = in_time(async {
            if self.unsettled {
                self.known = None;
                sqlx::query("UPDATE head SET size = size")
                    .execute(&mut connection)
                    .await?;
            }
            query::position(&mut connection, event).await
        })
        .await;
        let found = self.settle(connection, found)?;
        self.unsettled = false;
        Ok(found)
    }

    pub(crate) async fn put_checkpoint(&mut self, size: u64, note: &[u8]) -> Result<()> {
        let mut connection = self.take().await?;
        let put = in_time(put_checkpoint(&mut connection, size, note)).await;
        self.settle(connection, put)
    }

    pub(crate) async fn rewrap(&mut self, records: &[KeyRecord]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut connection = self.take().await?;
        let done = in_time(async {
            rewrap(&mut connection, records).await?;
            clear(&mut connection, &["data_key"]).await
        })
        .await;
        self.settle(connection, done)
    }

    pub(crate) async fn erase(&mut self, keys: &[Uuid], indexes: &[u64]) -> Result<()> {
        if keys.is_empty() && indexes.is_empty() {
            return Ok(());
        }
        let mut connection = self.take().await?;
        let done = in_time(async {
            erase(&mut connection, keys, indexes).await?;
            clear(&mut connection, &["data_key", "content", "token"]).await
        })
        .await;
        self.settle(connection, done)
    }
}

/// The value in `Key (column)=(value) already exists.`; 16 bytes are an id.
fn value_in(detail: &str) -> Option<String> {
    let (_, rest) = detail.split_once(")=(")?;
    let (value, _) = rest.split_once(')')?;
    let id = value
        .strip_prefix("\\x")
        .and_then(|digits| Uuid::try_parse(digits).ok());
    Some(id.map_or_else(|| value.chars().take(64).collect(), |id| id.to_string()))
}

async fn in_time<T>(operation: impl Future<Output = Found<T>>) -> Found<T> {
    timeout(CALL, operation)
        .await
        .unwrap_or(Err(Failure::Silence))
}

async fn create(c: &mut PgConnection, origin: &str, url: &PostgresUrl) -> Found<()> {
    let done =
        sqlx::query("INSERT INTO meta (name, value) VALUES ('origin', $1) ON CONFLICT DO NOTHING")
            .bind(origin)
            .execute(&mut *c)
            .await?;
    if done.rows_affected() == 1 {
        return Ok(());
    }
    let there = query::origin(c).await?.unwrap_or_default();
    Err(Error::invalid(format!("{url} already is the store of the log {there:?}")).into())
}

/// A batch that was held against its head.
struct Made {
    batch: Batch,
    after: Head,
    pieces: Pieces,
}

/// The hashes that a batch adds to tiles.
#[derive(Default)]
struct Pieces {
    levels: Vec<i16>,
    nodes: Vec<i64>,
    hashes: Vec<Vec<u8>>,
}

impl Made {
    fn build(build: &mut Build, head: &Head) -> Result<Self> {
        let batch = build(head)?;
        batch.check(head, PARTS_BYTES_MAX)?;
        let after = batch.head_after(head)?;
        let mut pieces = Pieces::default();
        for tile in &batch.tiles {
            let start = tile.id.index * u64::from(TILE_WIDTH);
            let node = start.max(nodes(head.size, tile.id.level));
            let old = usize::try_from(node - start).unwrap_or(usize::MAX);
            let new = tile.hashes.get(old..).unwrap_or_default();
            pieces.levels.push(tile.id.level.into());
            pieces.nodes.push(int(node));
            pieces.hashes.push(
                new.iter()
                    .flat_map(|hash| hash.as_bytes().iter().copied())
                    .collect(),
            );
        }
        Ok(Self {
            batch,
            after,
            pieces,
        })
    }

    fn parts_bytes(&self) -> usize {
        let parts = self.batch.rows.iter().filter_map(|row| row.parts.as_ref());
        parts.map(Vec::len).fold(0, usize::saturating_add)
    }

    /// Whether it goes into one statement.
    fn is_small(&self) -> bool {
        self.parts_bytes() <= STATEMENT_BYTES
    }

    /// How many rows from `from` on go into one statement: at least one.
    fn rows_that_fit(&self, from: usize) -> usize {
        let mut left = STATEMENT_BYTES;
        let rows = self.batch.rows.get(from..).unwrap_or_default();
        let fit = rows.iter().take_while(|row| {
            let bytes = row.parts.as_ref().map_or(0, Vec::len);
            let fits = bytes <= left;
            left = left.saturating_sub(bytes);
            fits
        });
        fit.count().max(1)
    }
}

/// Prepares what [`begin`] runs. Planning it takes the server longer than running it, and would be done under the lock.
async fn prepare(c: &mut PgConnection) -> Found<()> {
    let sql = format!(
        "PREPARE audit_lock AS
           SELECT origin.value FROM head LEFT JOIN meta AS origin ON origin.name = 'origin' FOR UPDATE OF head;
         PREPARE audit_head (bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint) AS {HEAD}"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(c).await?;
    Ok(())
}

/// Begins a transaction, takes the lock, and reads the head behind it. One message, so one round trip.
async fn begin(c: &mut PgConnection, known: Option<&Known>) -> Found<Known> {
    let head = known.map(|known| &known.head);
    let from: Vec<String> = (0..=7)
        .map(|level| head.map_or(0, |head| nodes(head.size, level)).to_string())
        .collect();
    let sql = format!(
        "BEGIN; EXECUTE audit_lock; EXECUTE audit_head ({})",
        from.join(", ")
    );
    let mut rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(c).await?;
    if rows.is_empty() {
        return Err(Error::corrupt("the head row is missing").into());
    }
    let origin: Option<String> = rows.remove(0).try_get(0)?;
    if origin.is_none() {
        return Err(Error::invalid("this is not the store of a log yet").into());
    }
    // Another one may have taken the place of what was known.
    Ok(read_head(&rows, head)?)
}

async fn commit(c: &mut PgConnection) -> Found<()> {
    sqlx::raw_sql("COMMIT").execute(c).await?;
    Ok(())
}

async fn roll_back(c: &mut PgConnection) -> Found<()> {
    sqlx::raw_sql("ROLLBACK").execute(c).await?;
    Ok(())
}

/// Everything of a batch. What belongs to a head that isn't there is not inserted.
const PUT: &str = "
WITH moved AS (
  UPDATE head SET size = $4, last = $5
  WHERE size = $1 AND last IS NOT DISTINCT FROM $2 AND xmin::text = $3
  RETURNING xmin::text AS version
), put_entry AS (
  INSERT INTO entry (idx, event, kind, time, entry)
  SELECT $1 + r.n - 1, r.event, r.kind, r.time, r.entry
  FROM moved, unnest($6::bytea[], $7::text[], $8::bigint[], $9::bytea[]) WITH ORDINALITY AS r (event, kind, time, entry, n)
), put_content AS (
  INSERT INTO content (idx, token_salt, tokens, parts)
  SELECT r.* FROM moved, unnest($10::bigint[], $11::bytea[], $12::bytea[], $13::bytea[]) AS r
), put_token AS (
  INSERT INTO token (token, idx) SELECT r.* FROM moved, unnest($14::bytea[], $15::bigint[]) AS r
), put_tile AS (
  INSERT INTO tile (level, node, hashes)
  SELECT r.* FROM moved, unnest($16::smallint[], $17::bigint[], $18::bytea[]) AS r
), put_key AS (
  INSERT INTO data_key (id, scope, run, generation, wrapped)
  SELECT r.* FROM moved, unnest($19::bytea[], $20::bytea[], $21::bytea[], $22::bigint[], $23::bytea[]) AS r
)
SELECT version FROM moved";

/// Moves the head on and puts the batch behind it, with the content of its first `contents` rows. `None`: the head row
/// isn't the one that is known, and nothing was written.
async fn put(
    c: &mut PgConnection,
    base: &Known,
    made: &Made,
    contents: usize,
) -> Found<Option<String>> {
    let rows = &made.batch.rows;
    let packed: Vec<Vec<u8>> = rows.iter().map(|row| packed::pack(&row.entry)).collect();
    let mut statement = sqlx::query(PUT)
        .bind(int(base.head.size))
        .bind(base.last.as_ref().map(|last| last.as_bytes().as_slice()))
        .bind(&base.version)
        .bind(int(made.after.size))
        .bind(
            rows.last()
                .map(|row| row.columns.event.as_bytes().as_slice()),
        )
        .bind(
            rows.iter()
                .map(|row| row.columns.event.as_bytes().as_slice())
                .collect::<Vec<_>>(),
        )
        .bind(
            rows.iter()
                .map(|row| row.columns.kind.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            rows.iter()
                .map(|row| row.columns.time.as_micros())
                .collect::<Vec<_>>(),
        )
        .bind(packed);
    statement = bind_content(statement, rows.get(..contents).unwrap_or(rows));
    let (mut tokens, mut of) = (Vec::new(), Vec::new());
    for row in rows {
        for token in row.tokens.iter().flat_map(|set| &set.tokens) {
            tokens.push(token.0.as_slice());
            of.push(int(row.index));
        }
    }
    let keys = &made.batch.keys;
    let statement = statement
        .bind(tokens)
        .bind(of)
        .bind(&made.pieces.levels)
        .bind(&made.pieces.nodes)
        .bind(&made.pieces.hashes)
        .bind(
            keys.iter()
                .map(|key| key.id.as_bytes().as_slice())
                .collect::<Vec<_>>(),
        )
        .bind(
            keys.iter()
                .map(|key| key.scope.0.as_slice())
                .collect::<Vec<_>>(),
        )
        .bind(
            keys.iter()
                .map(|key| key.run.as_bytes().as_slice())
                .collect::<Vec<_>>(),
        )
        .bind(
            keys.iter()
                .map(|key| i64::from(key.generation))
                .collect::<Vec<_>>(),
        )
        .bind(
            keys.iter()
                .map(|key| key.wrapped.as_slice())
                .collect::<Vec<_>>(),
        );
    let row = statement.fetch_optional(c).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

type Bound<'q> = Statement<'q, Postgres, PgArguments>;

/// Binds the four columns of the content of some rows; entries without any have no row.
fn bind_content<'q>(statement: Bound<'q>, rows: &'q [audit_core::store::Row]) -> Bound<'q> {
    let rows: Vec<_> = rows
        .iter()
        .filter(|row| row.tokens.is_some() || row.parts.is_some())
        .collect();
    let sets = || rows.iter().map(|row| row.tokens.as_ref());
    statement
        .bind(rows.iter().map(|row| int(row.index)).collect::<Vec<_>>())
        .bind(
            sets()
                .map(|set| set.map(|set| set.salt.0.to_vec()))
                .collect::<Vec<_>>(),
        )
        .bind(
            sets()
                .map(|set| set.map(|set| set.tokens.iter().flat_map(|t| t.0).collect::<Vec<u8>>()))
                .collect::<Vec<_>>(),
        )
        .bind(
            rows.iter()
                .map(|row| row.parts.as_deref())
                .collect::<Vec<_>>(),
        )
}

/// The same behind the lock, in as many statements as large parts need.
async fn put_in_transaction(c: &mut PgConnection, base: &Known, made: &Made) -> Found<String> {
    let mut done = made.rows_that_fit(0);
    let Some(version) = put(c, base, made, done).await? else {
        return Err(Error::corrupt("the head row changed behind its lock").into());
    };
    while let Some(rows) = made.batch.rows.get(done..).filter(|rows| !rows.is_empty()) {
        let next = made.rows_that_fit(done).min(rows.len());
        let statement = sqlx::query(
            "INSERT INTO content (idx, token_salt, tokens, parts)
             SELECT r.* FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[]) AS r",
        );
        bind_content(statement, &rows[..next])
            .execute(&mut *c)
            .await?;
        done += next;
    }
    Ok(version)
}

async fn put_checkpoint(c: &mut PgConnection, size: u64, note: &[u8]) -> Found<()> {
    let log = query::size(c).await?;
    if size == 0 || size > log {
        return Err(Error::invalid(format!(
            "a checkpoint of tree size {size} in a log of {log} entries"
        ))
        .into());
    }
    let done =
        sqlx::query("INSERT INTO checkpoint (size, note) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(int(size))
            .bind(note)
            .execute(&mut *c)
            .await?;
    if done.rows_affected() == 1 || query::checkpoint(c, size).await?.as_deref() == Some(note) {
        return Ok(());
    }
    Err(Error::invalid(format!("there is another checkpoint of tree size {size}")).into())
}

async fn rewrap(c: &mut PgConnection, records: &[KeyRecord]) -> Found<()> {
    // One statement: the ids that have no record, and what has one only if there is none without.
    let missing = sqlx::query(
        "WITH new AS (
           SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bytea[])
             AS r (id, scope, run, generation, wrapped)
         ), missing AS MATERIALIZED (
           SELECT id FROM new WHERE NOT EXISTS (SELECT FROM data_key k WHERE k.id = new.id)
         ), done AS (
           UPDATE data_key k SET scope = new.scope, run = new.run, generation = new.generation, wrapped = new.wrapped
           FROM new WHERE k.id = new.id AND NOT EXISTS (SELECT FROM missing)
         )
         SELECT id FROM missing LIMIT 1",
    )
    .bind(records.iter().map(|key| key.id.as_bytes().as_slice()).collect::<Vec<_>>())
    .bind(records.iter().map(|key| key.scope.0.as_slice()).collect::<Vec<_>>())
    .bind(records.iter().map(|key| key.run.as_bytes().as_slice()).collect::<Vec<_>>())
    .bind(records.iter().map(|key| i64::from(key.generation)).collect::<Vec<_>>())
    .bind(records.iter().map(|key| key.wrapped.as_slice()).collect::<Vec<_>>())
    .fetch_optional(c)
    .await?;
    match missing {
        None => Ok(()),
        Some(row) => {
            let id: Vec<u8> = row.try_get(0)?;
            let id = Uuid::from_slice(&id).unwrap_or_default();
            Err(Error::invalid(format!("data key {id} has no record")).into())
        }
    }
}

async fn erase(c: &mut PgConnection, keys: &[Uuid], indexes: &[u64]) -> Found<()> {
    let indexes: Vec<i64> = indexes.iter().map(|index| int(*index)).collect();
    // Token rows are found through the list of their entry, by the table's one index.
    sqlx::query(
        "WITH gone_keys AS (
           DELETE FROM data_key WHERE id = ANY ($1)
         ), gone AS (
           DELETE FROM content WHERE idx = ANY ($2) RETURNING idx, tokens
         ), listed AS (
           SELECT idx, substring(tokens FROM at FOR 16) AS token
           FROM gone, generate_series(1, length(tokens), 16) AS at
         )
         DELETE FROM token t USING listed WHERE t.token = listed.token AND t.idx = listed.idx",
    )
    .bind(
        keys.iter()
            .map(|key| key.as_bytes().as_slice())
            .collect::<Vec<_>>(),
    )
    .bind(indexes)
    .execute(c)
    .await?;
    Ok(())
}

/// Takes the bytes of deleted rows out of the tables' files, where this user may. Else that is left to the owner
/// (docs/postgres-layout.md).
async fn clear(c: &mut PgConnection, tables: &[&str]) -> Found<()> {
    let rows = sqlx::query(
        "SELECT c.relname::text, pg_total_relation_size(c.oid)
         FROM unnest($1::text[]) AS w (name) JOIN pg_class c ON c.oid = to_regclass(w.name)
         WHERE pg_has_role(c.relowner, 'USAGE')",
    )
    .bind(tables)
    .fetch_all(&mut *c)
    .await?;
    if rows.is_empty() {
        return Ok(());
    }
    older_ended(c).await?;
    for row in rows {
        let (table, bytes): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        let full = if bytes <= REWRITTEN_BYTES_MAX {
            "FULL, "
        } else {
            ""
        };
        // The name is one of those that were asked for.
        let sql = format!("VACUUM ({full}ANALYZE) {table}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *c).await?;
    }
    Ok(())
}

/// Waits until every transaction of this database is over that may still see what was deleted: for them, `VACUUM` keeps
/// it. Each transaction holds a lock on a number of its own, which everybody may see.
async fn older_ended(c: &mut PgConnection) -> Found<()> {
    const OLDER: &str = "
      SELECT l.virtualtransaction, l.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
      WHERE l.locktype = 'virtualxid' AND l.granted AND l.pid <> pg_backend_pid() AND a.datname = current_database()
        AND a.backend_type IS DISTINCT FROM 'autovacuum worker' AND ($1::text[] IS NULL OR l.virtualtransaction = ANY ($1))";
    let mut older: Option<Vec<String>> = None;
    let deadline = Instant::now() + OLDER_WAIT;
    loop {
        let rows = sqlx::query(OLDER).bind(&older).fetch_all(&mut *c).await?;
        let Some(first) = rows.first() else {
            return Ok(());
        };
        let pid: i32 = first.try_get(1)?;
        if Instant::now() > deadline {
            return Err(Error::unavailable(format!(
                "erased from the tables, but a transaction that began before keeps the old rows in them; hint: end it \
                 (process {pid} of the server) and erase again"
            ))
            .into());
        }
        let mut left = Vec::with_capacity(rows.len());
        for row in &rows {
            left.push(row.try_get(0)?);
        }
        older = Some(left);
        tokio::time::sleep(OLDER_LOOK).await;
    }
}

/// How long transactions that began before an erasure are waited for.
const OLDER_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked whether they are over.
const OLDER_LOOK: Duration = Duration::from_millis(50);

/// Tables up to this size are written anew when something was erased from them, which takes a second or two, in which
/// nothing is appended. `VACUUM` alone frees the space of deleted rows, and leaves their bytes until something is written
/// over them.
const REWRITTEN_BYTES_MAX: i64 = 256 << 20;
