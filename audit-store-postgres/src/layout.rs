//! The schema, its migrations, and opening one that should have them (`docs/postgres-layout.md`).

use audit_core::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::timeout;

use crate::connection::{CALL, Use, connect};
use crate::failure::{Failure, Found};
use crate::url::PostgresUrl;

/// Every change of the schema, in order: what makes version 1 of nothing, 2 of 1, and so on.
const MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    name: "log",
    sql: include_str!("../sql/0001_log.sql"),
}];

/// What `catalog.sql` answers for the newest version.
const CATALOG: &str = include_str!("catalog.txt");
const CATALOG_SQL: &str = include_str!("catalog.sql");

/// One step from a version of the schema to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// The version that it makes.
    pub version: u32,
    /// What it is about, in a word.
    pub name: &'static str,
    /// Its statements.
    pub sql: &'static str,
}

/// Which migrations a log's schema has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The version of the schema; `None` while there is none.
    pub version: Option<u32>,
    /// The version that this program works with.
    pub newest: u32,
    /// What is missing.
    pub pending: Vec<Migration>,
}

/// The migrations of the schema of a log.
#[derive(Debug)]
pub struct Migrations;

impl Migrations {
    /// What this program works with.
    #[must_use]
    pub fn newest() -> u32 {
        MIGRATIONS.last().map_or(0, |last| last.version)
    }

    /// Which are done.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the schema is of a later version than this program knows; [`ErrorKind::Corrupt`] if the
    /// migrations in it are others than this program's; [`ErrorKind::Unavailable`] if the server isn't.
    pub async fn status(url: &PostgresUrl) -> Result<Status> {
        let mut connection = connect(url, Use::Read).await?;
        let status = timeout(CALL, status(&mut connection, url)).await;
        said(status, url)
    }

    /// Does those that are missing, each in a transaction of its own, and answers with what it did. Makes the schema if
    /// there is none. Who does this at the same time waits, and then has nothing to do.
    ///
    /// # Errors
    ///
    /// As [`Migrations::status`].
    pub async fn up(url: &PostgresUrl) -> Result<Vec<Migration>> {
        let mut connection = connect(url, Use::Write).await?;
        said(Ok(up(&mut connection, url).await), url)
    }
}

fn said<T>(done: Result<Found<T>, tokio::time::error::Elapsed>, url: &PostgresUrl) -> Result<T> {
    let done = done.unwrap_or(Err(Failure::Silence));
    done.map_err(|e| e.said("looking at the schema of", url))
}

async fn status(c: &mut PgConnection, url: &PostgresUrl) -> Found<Status> {
    let newest = Migrations::newest();
    let there = sqlx::query("SELECT to_regclass('migration') IS NOT NULL")
        .fetch_one(&mut *c)
        .await?;
    let mut done = 0;
    if there.try_get(0)? {
        let rows = sqlx::query("SELECT version, name FROM migration ORDER BY version")
            .fetch_all(c)
            .await?;
        let mut known = MIGRATIONS.iter();
        for row in &rows {
            let (Some(version), Some(name)): (Option<i32>, Option<String>) =
                (row.try_get(0)?, row.try_get(1)?)
            else {
                return Err(Error::corrupt(format!(
                    "{url} has a migration without version or name"
                ))
                .into());
            };
            match known.next() {
                Some(migration)
                    if (i64::from(version), name.as_str())
                        == (migration.version.into(), migration.name) =>
                {
                    done = migration.version;
                }
                None if i64::from(version) > newest.into() => {
                    return Err(Error::invalid(format!(
                        "{url} has schema version {version}, this program works with {newest}; hint: use the program \
                         that made it, or a later one"
                    ))
                    .into());
                }
                _ => {
                    return Err(Error::corrupt(format!(
                        "{url} has a migration {version} {name:?}, which is none of this program's in its place"
                    ))
                    .into());
                }
            }
        }
    }
    Ok(Status {
        version: (done > 0).then_some(done),
        newest,
        pending: MIGRATIONS
            .iter()
            .filter(|m| m.version > done)
            .copied()
            .collect(),
    })
}

async fn up(c: &mut PgConnection, url: &PostgresUrl) -> Found<Vec<Migration>> {
    // The lock is the session's: it ends with this connection, however this ends. `LLAM` keeps it apart from others.
    let schema = url.schema();
    let sql = format!(
        "SELECT set_config('statement_timeout', '0', false), set_config('idle_in_transaction_session_timeout', '0', false);
         SELECT pg_advisory_lock(x'4c4c414d'::int, hashtext('{schema}'))"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *c).await?;
    let pending = status(c, url).await?.pending;
    // Who may not make schemas in this database may have been given one.
    let sql = format!("SELECT to_regnamespace('{schema}') IS NOT NULL");
    let there = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut *c).await?;
    if !there.try_get::<bool, _>(0)? {
        let sql = format!("CREATE SCHEMA {schema}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *c).await?;
    }
    for migration in &pending {
        // Unqualified names are made in the first schema of the path that isn't the server's.
        let sql = format!(
            "BEGIN; SET LOCAL search_path = {schema}, pg_catalog; {}
             INSERT INTO migration (version, name) VALUES ({}, '{}'); COMMIT",
            migration.sql, migration.version, migration.name
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *c).await?;
    }
    Ok(pending)
}

/// Holds the schema against what this program works with.
pub(crate) async fn check(c: &mut PgConnection, url: &PostgresUrl) -> Result<()> {
    let checked = timeout(CALL, check_all(c, url))
        .await
        .unwrap_or(Err(Failure::Silence));
    checked.map_err(|e| e.said("opening", url))
}

async fn check_all(c: &mut PgConnection, url: &PostgresUrl) -> Found<()> {
    let status = status(c, url).await?;
    let Some(version) = status.version else {
        return Err(Error::not_found(format!(
            "{url} holds no store; hint: audit-trail init makes one, or audit-trail migrate up an empty one"
        ))
        .into());
    };
    if !status.pending.is_empty() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{url} has schema version {version}, this program works with {}; hint: audit-trail migrate up",
                status.newest
            ),
        )
        .into());
    }
    let rows = sqlx::query(CATALOG_SQL).fetch_all(c).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        found.push(row.try_get::<&str, _>(0)?);
    }
    let wanted: Vec<&str> = CATALOG.lines().collect();
    let more = found.iter().find(|line| !wanted.contains(line));
    let less = wanted.iter().find(|line| !found.contains(line));
    let what = match (more, less) {
        (None, None) if found.len() == wanted.len() => return Ok(()),
        (Some(more), Some(less)) => format!("has {more:?} where {less:?} belongs"),
        (Some(more), None) => format!("has {more:?}, which doesn't belong there"),
        (None, Some(less)) => format!("lacks {less:?}"),
        (None, None) => "has something twice".to_owned(),
    };
    Err(Error::corrupt(format!("opening {url}: the schema {what}")).into())
}

/// Whether the schema is this program's newest.
pub(crate) async fn is_current(c: &mut PgConnection, url: &PostgresUrl) -> Result<bool> {
    let status = timeout(CALL, status(c, url)).await;
    Ok(said(status, url)?.pending.is_empty())
}
