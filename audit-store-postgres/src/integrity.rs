//! What the server says of its own files: indexes, with which no entry is compared, and rows where none can be.

use audit_core::Error;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::failure::{Failure, Found};

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
  SELECT 'a tile ' || level || '/' || node / 256 FROM (
    SELECT level, node FROM tile WHERE node < 0 OR level NOT BETWEEN 0 AND 7 LIMIT 1) m
  UNION ALL
  SELECT 'a checkpoint of size ' || size FROM (SELECT min(size) AS size FROM checkpoint) m WHERE size < 1
  UNION ALL
  SELECT 'a row in meta that says which log this is and is not named origin' FROM (
    SELECT FROM meta WHERE name <> 'origin' LIMIT 1) m
  LIMIT 1";

/// Every index, with its table and its columns.
const INDEXES: &str = "
  SELECT i.relname::text, t.relname::text,
    (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.n) FROM unnest(x.indkey::int2[]) WITH ORDINALITY k (attnum, n)
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

/// Reads everything; may take long, so the server's time for a statement is lifted meanwhile.
pub(crate) async fn check(c: &mut PgConnection) -> Found<()> {
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
            columns: row.try_get(2)?,
        };
        let checked = match &amcheck {
            Some(schema) => index.by_amcheck(c, schema).await,
            None => index.by_counts(c).await,
        };
        if let Err(failure) = checked {
            return Err(index.said(failure));
        }
    }
    Ok(())
}

struct Index {
    name: String,
    table: String,
    columns: String,
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

    /// Compares count and sum of hashes over the columns, in the table's order and in the index's.
    async fn by_counts(&self, c: &mut PgConnection) -> Found<()> {
        let (table, columns) = (&self.table, &self.columns);
        let select = format!("SELECT count(*), sum(hash_record_extended(ROW({columns}), 0))::text");
        let by_table = format!("{select} FROM {table}");
        let by_index =
            format!("{select} FROM (SELECT {columns} FROM {table} ORDER BY {columns} OFFSET 0) i");
        let walks = "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off;
                     SET LOCAL enable_indexscan = on; SET LOCAL enable_indexonlyscan = on";
        sqlx::raw_sql(walks).execute(&mut *c).await?;
        self.is_walked(c, &by_index).await?;
        let by_index = sqlx::query(AssertSqlSafe(by_index))
            .persistent(false)
            .fetch_one(&mut *c)
            .await?;
        let scans = "SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off";
        sqlx::raw_sql(scans).execute(&mut *c).await?;
        let by_table = sqlx::query(AssertSqlSafe(by_table))
            .persistent(false)
            .fetch_one(c)
            .await?;
        let (by_index, by_table) = (sums(&by_index)?, sums(&by_table)?);
        if by_index == by_table {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "the index {} has {} rows, and the table {table} {}, or others",
            self.name, by_index.0, by_table.0
        ))
        .into())
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

/// Count and sum, as text.
fn sums(row: &PgRow) -> Found<(i64, Option<String>)> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}
