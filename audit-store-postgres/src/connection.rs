//! Connections, each set up in the same way, and those that are kept for reading.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use audit_core::{Error, Result};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use crate::failure::{Failure, Found};
use crate::url::PostgresUrl;

/// What the server must be at least: the first with `client_connection_check_interval`.
const SERVER_MIN: i64 = 14_00_00;
/// How long making a connection may take.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);
/// How long an operation may take, seen from here: longer than the server allows any statement, so that what ends by
/// itself there isn't cut off here.
pub(crate) const CALL: Duration = Duration::from_secs(150);
/// How long a connection may have been idle and still be used without asking whether it lives. A commit whose connection
/// turns out dead has an unknown outcome, which costs more than a round trip.
const IDLE_TRUSTED: Duration = Duration::from_secs(1);
/// Connections that read at the same time.
const READERS_MAX: usize = 4;

/// Settings of every session. What they bound (milliseconds, where nothing else stands):
///
/// - A peer that is gone without a word is noticed after 10 + 3 × 5 s. A transaction that waits for its client for 10 s is
///   rolled back; a statement ends after 120 s at the latest, and gives a lock up after waiting for 30 s. So nobody
///   holds the head row for longer than 130 s, and a dead client for 10 s unless it died inside a statement.
/// - No setting of the role or the database makes commits less than durable, hides rows, or puts another function into
///   the place of one that is called.
const SETTINGS: &str = "
  set_config('lock_timeout', '30s', false),
  set_config('statement_timeout', '120s', false),
  set_config('idle_in_transaction_session_timeout', '10s', false),
  set_config('tcp_keepalives_idle', '10', false),
  set_config('tcp_keepalives_interval', '5', false),
  set_config('tcp_keepalives_count', '3', false),
  set_config('tcp_user_timeout', '25s', false),
  set_config('client_connection_check_interval', '5s', false),
  set_config('synchronous_commit',
    CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),
  set_config('default_transaction_isolation', 'read committed', false),
  set_config('default_transaction_deferrable', 'off', false),
  set_config('row_security', 'off', false),
  set_config('bytea_output', 'hex', false),
  set_config('jit', 'off', false)";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
}

/// A connection that is set up.
pub(crate) async fn connect(url: &PostgresUrl, what: Use) -> Result<PgConnection> {
    let doing = "connecting to";
    let connecting = timeout(CONNECT, async {
        let mut connection = url
            .options
            .clone()
            .disable_statement_logging()
            .connect()
            .await?;
        set_up(&mut connection, url, what).await?;
        Ok::<_, Failure>(connection)
    });
    match connecting.await {
        Ok(connected) => connected.map_err(|e| e.said(doing, url)),
        Err(_) => Err(Failure::Silence.said(doing, url)),
    }
}

pub(crate) async fn set_up(
    connection: &mut PgConnection,
    url: &PostgresUrl,
    what: Use,
) -> Found<()> {
    // What writes has one good plan each. Left alone, the server plans a small batch anew each time, because it takes its
    // guess of a hundred rows for dearer.
    let (read_only, plans) = match what {
        Use::Read => ("on", "auto"),
        Use::Write => ("off", "force_generic_plan"),
    };
    // The name has no character that would need quoting. pg_catalog first: whatever else the schema holds is never
    // taken for a function or a type of the server's. pg_temp last, else it would come before all.
    let sql = format!(
        "SELECT current_setting('server_version_num')::bigint, current_setting('fsync'),
           current_setting('full_page_writes'), pg_catalog.pg_is_in_recovery(), {SETTINGS},
           set_config('search_path', 'pg_catalog, {}, pg_temp', false),
           set_config('default_transaction_read_only', '{read_only}', false),
           set_config('plan_cache_mode', '{plans}', false)",
        url.schema()
    );
    let row = sqlx::raw_sql(AssertSqlSafe(sql))
        .fetch_one(&mut *connection)
        .await;
    let row = match row {
        Ok(row) => row,
        Err(e) => {
            // An older server may not know a setting; it says so better by its version.
            if let Some(version) = old_version(connection).await {
                return Err(too_old(url, version).into());
            }
            return Err(e.into());
        }
    };
    let version: i64 = row.try_get(0)?;
    if version < SERVER_MIN {
        return Err(too_old(url, version).into());
    }
    if what == Use::Read {
        return Ok(());
    }
    if row.try_get::<bool, _>(3)? {
        return Err(Error::unavailable(format!(
            "connecting to {url}: this server is a standby and takes no writes; hint: the URL has to name the primary"
        ))
        .into());
    }
    for (at, name) in [(1, "fsync"), (2, "full_page_writes")] {
        let value: String = row.try_get(at)?;
        if value != "on" && !url.unsafe_server() {
            return Err(Error::unavailable(format!(
                "connecting to {url}: the server runs with {name} = {value}, and would lose or tear what it has \
                 acknowledged when its power fails; hint: set {name} = on there, or say unsafe_server=allow in the URL"
            ))
            .into());
        }
    }
    Ok(())
}

async fn old_version(connection: &mut PgConnection) -> Option<i64> {
    let sql = "SELECT current_setting('server_version_num')::bigint";
    let row = sqlx::raw_sql(sql).fetch_one(connection).await.ok()?;
    row.try_get(0).ok().filter(|version| *version < SERVER_MIN)
}

fn too_old(url: &PostgresUrl, version: i64) -> Error {
    Error::invalid(format!(
        "connecting to {url}: the server is PostgreSQL {}, this program needs {} or later",
        version / 10_000,
        SERVER_MIN / 10_000
    ))
}

/// A connection that isn't used at the moment.
pub(crate) struct Idle {
    connection: PgConnection,
    since: Instant,
}

impl Idle {
    pub(crate) fn new(connection: PgConnection) -> Self {
        Self {
            connection,
            since: Instant::now(),
        }
    }

    /// The connection, unless it is found dead.
    pub(crate) async fn alive(mut self) -> Option<PgConnection> {
        if self.since.elapsed() < IDLE_TRUSTED {
            return Some(self.connection);
        }
        let ping = timeout(CONNECT, self.connection.ping()).await;
        matches!(ping, Ok(Ok(()))).then_some(self.connection)
    }
}

/// The connections for reading.
pub(crate) struct Readers {
    url: PostgresUrl,
    idle: Mutex<Vec<Idle>>,
    turns: Semaphore,
}

/// A connection that is lent. Unless it is given back it is closed: what was cut off in the middle isn't used again.
pub(crate) struct Lent<'a> {
    readers: &'a Readers,
    pub(crate) connection: PgConnection,
    _turn: SemaphorePermit<'a>,
}

impl Readers {
    pub(crate) fn new(url: PostgresUrl) -> Self {
        Self {
            url,
            idle: Mutex::default(),
            turns: Semaphore::new(READERS_MAX),
        }
    }

    pub(crate) async fn lend(&self) -> Result<Lent<'_>> {
        let turn = self.turns.acquire().await;
        let turn = turn.map_err(|e| Error::unavailable("the store is closed").because(e))?;
        let connection = loop {
            let idle = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let Some(idle) = idle else {
                break connect(&self.url, Use::Read).await?;
            };
            if let Some(alive) = idle.alive().await {
                break alive;
            }
        };
        Ok(Lent {
            readers: self,
            connection,
            _turn: turn,
        })
    }
}

impl Lent<'_> {
    pub(crate) fn give_back(self) {
        let idle = Idle::new(self.connection);
        let mut all = self
            .readers
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push(idle);
    }
}
