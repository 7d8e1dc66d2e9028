//! What the server says of its own files: indexes, with which no entry is compared, and rows where none can be.

use std::pin::pin;
use std::time::Duration;

use audit_core::Error;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tokio::time::{sleep, timeout};

use crate::connection::{CALL, Use, connect};
use crate::failure::{Failure, Found};
use crate::query;
use crate::url::PostgresUrl;

/// Rows where none can be, which no walk of the log comes by.
const MISPLACED: &str = "
  SELECT 'an entry with index ' || idx FROM (SELECT min(idx) AS idx FROM entry) m WHERE idx < 0
  UNION ALL
  SELECT 'a token row of index ' || idx FROM (SELECT idx FROM token WHERE idx < 0 LIMIT 1) m
  UNION ALL
  SELECT 'content of index ' || idx || ', which has no entry' FROM (
    SELECT idx FROM content c WHERE NOT EXISTS (SELECT FROM entry e WHERE e.idx = c.idx) LIMIT 1) m
  UNION ALL
  SELECT 'content of index ' || idx || ' without any' FROM (
    SELECT idx FROM content WHERE token_salt IS NULL AND tokens IS NULL AND parts IS NULL LIMIT 1) m
  UNION ALL
  SELECT 'a tile of level ' || level || ' at node ' || node FROM (
    SELECT level, node FROM tile WHERE node < 0 OR level NOT BETWEEN 0 AND 7 LIMIT 1) m
  UNION ALL
  SELECT 'a checkpoint of size ' || size FROM (SELECT min(size) AS size FROM checkpoint) m WHERE size < 1
  UNION ALL
  SELECT 'a row in meta that says which log this is and is not named origin' FROM (
    SELECT FROM meta WHERE name <> 'origin' LIMIT 1) m
  LIMIT 1";

/// Every index, with its table and its columns.
const INDEXES: &str = "
  SELECT i.relname::text, t.relname::text, x.indisunique,
    (SELECT array_agg(quote_ident(a.attname) ORDER BY k.n) FROM unnest(x.indkey::int2[]) WITH ORDINALITY k (attnum, n)
      JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum)
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
  WHERE t.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'migration'::regclass)
  ORDER BY 1";

/// The schema of `amcheck`, where it is installed and this user may use it.
const AMCHECK: &str = "
  SELECT quote_ident(n.nspname) FROM pg_proc p
  JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
  JOIN pg_extension x ON x.oid = d.refobjid AND x.extname = 'amcheck'
  JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE p.proname = 'bt_index_check' AND p.pronargs = 2
    AND has_function_privilege(p.oid, 'EXECUTE') AND has_schema_privilege(n.oid, 'USAGE')";

/// How often it is looked whether the server is still at it.
const WATCH: Duration = Duration::from_secs(10);
/// How often in a row that may fail.
const MISSES_MAX: u32 = 3;

/// Reads everything; may take long, so the server's time for a statement is lifted meanwhile. It ends when the server is
/// no longer at it, even if nobody says so: an answer may have been lost on the way.
pub(crate) async fn check(c: &mut PgConnection, url: &PostgresUrl) -> Found<()> {
    let session = timeout(CALL, Session::of(c)).await;
    let session = session.unwrap_or(Err(Failure::Silence))?;
    let mut checking = pin!(check_at_once(c));
    tokio::select! {
        checked = &mut checking => checked,
        () = session.ended(url) => {
            // The answer may have come in the same moment.
            timeout(WATCH, checking).await.unwrap_or(Err(Failure::Silence))
        }
    }
}

/// A session of the server, as others see it.
struct Session {
    pid: i32,
    /// A number that is free may be given again.
    start: String,
}

impl Session {
    async fn of(c: &mut PgConnection) -> Found<Self> {
        let sql =
            "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let row = sqlx::query(sql).fetch_one(c).await?;
        Ok(Self {
            pid: row.try_get(0)?,
            start: row.try_get(1)?,
        })
    }

    /// Waits until it is gone, or the server can't be asked.
    async fn ended(&self, url: &PostgresUrl) {
        let mut misses = 0;
        while misses < MISSES_MAX {
            sleep(WATCH).await;
            match timeout(CALL, self.is_there(url)).await {
                Ok(Ok(true)) => misses = 0,
                Ok(Ok(false)) => return,
                Ok(Err(_)) | Err(_) => misses += 1,
            }
        }
    }

    async fn is_there(&self, url: &PostgresUrl) -> Found<bool> {
        let mut connection = connect(url, Use::Read).await?;
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2)";
        let row = sqlx::query(sql)
            .bind(self.pid)
            .bind(&self.start)
            .fetch_one(&mut connection)
            .await?;
        let is_there = row.try_get(0)?;
        connection.close().await?;
        Ok(is_there)
    }
}

async fn check_at_once(c: &mut PgConnection) -> Found<()> {
    // One snapshot, so that what writers do meanwhile makes no difference between two counts.
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0";
    sqlx::raw_sql(begin).execute(&mut *c).await?;
    let checked = check_all(c).await;
    if checked
        .as_ref()
        .err()
        .is_none_or(Failure::leaves_connection)
    {
        sqlx::raw_sql("ROLLBACK").execute(c).await?;
    }
    checked
}

async fn check_all(c: &mut PgConnection) -> Found<()> {
    let row = sqlx::query(MISPLACED).fetch_optional(&mut *c).await?;
    if let Some(row) = row {
        let what: String = row.try_get(0)?;
        return Err(Error::corrupt(format!("the store has {what}, where no row can be")).into());
    }
    let amcheck = sqlx::query(AMCHECK).fetch_optional(&mut *c).await?;
    let amcheck: Option<String> = amcheck.map(|row| row.try_get(0)).transpose()?;
    for row in sqlx::query(INDEXES).fetch_all(&mut *c).await? {
        let index = Index {
            name: row.try_get(0)?,
            table: row.try_get(1)?,
            unique: row.try_get(2)?,
            columns: row.try_get(3)?,
        };
        let checked = match &amcheck {
            Some(schema) => index.by_amcheck(c, schema).await,
            None => Ok(()),
        };
        let checked = match checked {
            Ok(()) => index.by_walking(c).await,
            Err(e) => Err(e),
        };
        if let Err(failure) = checked {
            return Err(index.said(failure));
        }
    }
    // What the head row says must be so; it is looked up through indexes.
    query::head(c).await?;
    Ok(())
}

struct Index {
    name: String,
    table: String,
    unique: bool,
    columns: Vec<String>,
}

impl Index {
    async fn by_amcheck(&self, c: &mut PgConnection, schema: &str) -> Found<()> {
        let sql = format!(
            "SELECT {schema}.bt_index_check('{}'::regclass, true)",
            self.name
        );
        sqlx::query(AssertSqlSafe(sql)).execute(c).await?;
        Ok(())
    }

    /// Walks the index, and the table beside it: count and sum of hashes over the columns must be the same, no column be
    /// missing, the index be in its order, and nothing be there twice that is unique.
    async fn by_walking(&self, c: &mut PgConnection) -> Found<()> {
        let (table, columns) = (&self.table, self.columns.join(", "));
        let sums = format!(
            "count(*), sum(hash_record_extended(ROW({columns}), 0))::text, count(*) FILTER (WHERE num_nulls({columns}) > 0)"
        );
        let by_table = format!("SELECT {sums} FROM {table}");
        let before: Vec<String> = (1..=self.columns.len())
            .map(|n| format!("before_{n}"))
            .collect();
        let lags: Vec<String> = self
            .columns
            .iter()
            .zip(&before)
            .map(|(column, before)| format!("lag({column}) OVER (ORDER BY {columns}) AS {before}"))
            .collect();
        let (lags, before) = (lags.join(", "), before.join(", "));
        let says = self
            .columns
            .iter()
            .map(|column| {
                let called = if column == "idx" { "index" } else { column };
                format!("'{called} ' || {column}::text")
            })
            .collect::<Vec<_>>()
            .join(" || ', ' || ");
        // No index says that a row is there twice, once somebody has told the server that it needn't be unique. The server
        // takes an index to be in order; it is compared here.
        let by_index = format!(
            "SELECT {sums}, min({says}) FILTER (WHERE ROW({columns}) = ROW({before})),
               min({says}) FILTER (WHERE ROW({columns}) < ROW({before}))
             FROM (SELECT {columns}, {lags} FROM {table} ORDER BY {columns}) i"
        );
        let walks = "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off;
                     SET LOCAL enable_indexscan = on; SET LOCAL enable_indexonlyscan = on";
        sqlx::raw_sql(walks).execute(&mut *c).await?;
        self.is_walked(c, &by_index).await?;
        let indexed = sqlx::query(AssertSqlSafe(by_index))
            .persistent(false)
            .fetch_one(&mut *c)
            .await?;
        let scans = "SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off";
        sqlx::raw_sql(scans).execute(&mut *c).await?;
        let scanned = sqlx::query(AssertSqlSafe(by_table))
            .persistent(false)
            .fetch_one(&mut *c)
            .await?;
        // Whatever looks something up next is to use indexes again.
        let resets = "SET LOCAL enable_indexscan = on; SET LOCAL enable_indexonlyscan = on; SET LOCAL enable_sort = on;
                      SET LOCAL enable_bitmapscan = on";
        sqlx::raw_sql(resets).execute(c).await?;
        let (in_index, in_table) = (Sums::read(&indexed)?, Sums::read(&scanned)?);
        if in_table.missing > 0 {
            return Err(Error::corrupt(format!(
                "{} rows of {table} lack one of {}",
                in_table.missing,
                self.columns
                    .iter()
                    .map(|column| format!("{table}.{column}"))
                    .collect::<Vec<_>>()
                    .join(" and ")
            ))
            .into());
        }
        if in_index != in_table {
            return Err(Error::corrupt(format!(
                "the index {} has {} rows, and the table {table} {}, or others",
                self.name, in_index.count, in_table.count
            ))
            .into());
        }
        if let Some(what) = indexed.try_get::<Option<String>, _>(4)? {
            return Err(Error::corrupt(format!(
                "the index {} of {table} is out of order at {what}, so a search may miss rows",
                self.name
            ))
            .into());
        }
        match indexed.try_get::<Option<String>, _>(3)? {
            Some(what) if self.unique => {
                Err(Error::corrupt(format!("{table} has {what} twice")).into())
            }
            _ => Ok(()),
        }
    }

    /// Whether the server answers a statement from this index.
    async fn is_walked(&self, c: &mut PgConnection, sql: &str) -> Found<()> {
        let plan = sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN {sql}")))
            .fetch_all(c)
            .await?;
        for row in &plan {
            if row
                .try_get::<&str, _>(0)?
                .contains(&format!("using {} on", self.name))
            {
                return Ok(());
            }
        }
        Err(Error::unavailable(format!(
            "the server doesn't use the index {} of {}, so it can't be checked",
            self.name, self.table
        ))
        .into())
    }

    fn said(&self, failure: Failure) -> Failure {
        let damaged = failure
            .answer()
            .filter(|answer| answer.code().starts_with("XX"));
        match damaged {
            Some(answer) => Error::corrupt(format!(
                "the server finds the index {} of {} inconsistent: {}",
                self.name,
                self.table,
                answer.message()
            ))
            .into(),
            None => failure,
        }
    }
}

/// What is counted of the columns of an index.
#[derive(PartialEq)]
struct Sums {
    count: i64,
    sum: Option<String>,
    /// Rows in which a column is missing.
    missing: i64,
}

impl Sums {
    fn read(row: &PgRow) -> Found<Self> {
        Ok(Self {
            count: row.try_get(0)?,
            sum: row.try_get(1)?,
            missing: row.try_get(2)?,
        })
    }
}
