//! The right to publish: an advisory lock of a session that does nothing else.

use std::fmt;

use async_trait::async_trait;
use audit_core::Result;
use audit_core::store::Lease;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::connection::{CALL, Idle, Use, connect};
use crate::failure::{Failure, Found};
use crate::url::PostgresUrl;

/// Takes the lock of the log's schema. Locks are per database, and a schema's number is unique in it. `LLAP` in the first
/// half keeps other programs' locks apart. A lease that was dropped a moment ago may still be on its way to the server,
/// so the lock is waited for, shortly.
const TAKE: &str = "
  SELECT set_config('lock_timeout', '500ms', false);
  SELECT pg_advisory_lock(x'4c4c4150'::int, (n.oid::bigint - 2147483648)::int)
  FROM pg_namespace n WHERE n.oid = 'meta'::regclass::oid
    OR n.oid = (SELECT relnamespace FROM pg_class WHERE oid = 'meta'::regclass)";
const HELD: &str = "
  SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid() AND classid = x'4c4c4150'::int::oid AND objsubid = 2
  )";
const RELEASE: &str = "SELECT pg_advisory_unlock_all()";

/// The lease; it ends with its connection.
pub(crate) struct PublisherLease {
    url: PostgresUrl,
    connection: Mutex<Option<PgConnection>>,
}

impl fmt::Debug for PublisherLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublisherLease")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl PublisherLease {
    /// `None` while another session has the lock. The connection is kept in `spare` for the next time.
    pub(crate) async fn take(url: &PostgresUrl, spare: &mut Option<Idle>) -> Result<Option<Self>> {
        let idle = match spare.take() {
            Some(idle) => idle.alive().await,
            None => None,
        };
        let mut connection = match idle {
            Some(connection) => connection,
            None => connect(url, Use::Write).await?,
        };
        let taken = timeout(CALL, async {
            sqlx::raw_sql(TAKE).execute(&mut connection).await?;
            Ok::<_, Failure>(())
        });
        match taken.await.unwrap_or(Err(Failure::Silence)) {
            Ok(()) => Ok(Some(Self {
                url: url.clone(),
                connection: Mutex::new(Some(connection)),
            })),
            Err(e) if e.answer().is_some_and(|e| e.code() == "55P03") => {
                *spare = Some(Idle::new(connection));
                Ok(None)
            }
            Err(e) => Err(e.said("taking the publisher's lease in", url)),
        }
    }
}

async fn is_held(connection: &mut PgConnection) -> Found<bool> {
    let row = sqlx::query(HELD).fetch_one(connection).await?;
    Ok(row.try_get(0)?)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Lease for PublisherLease {
    async fn held(&self) -> Result<bool> {
        let mut slot = self.connection.lock().await;
        let Some(mut connection) = slot.take() else {
            return Ok(false);
        };
        // Whatever fails here, the session is gone or will not be used again, and the lock with it.
        let held = timeout(CALL, is_held(&mut connection)).await;
        if let Ok(Ok(true)) = held {
            *slot = Some(connection);
            return Ok(true);
        }
        Ok(false)
    }

    async fn release(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            give_up(connection).await;
        }
    }
}

/// Unlocks, and ends the session. If that fails the connection is closed all the same, and the server notices.
async fn give_up(mut connection: PgConnection) {
    let release = timeout(CALL, async {
        sqlx::raw_sql(RELEASE).execute(&mut connection).await?;
        connection.close().await
    });
    drop(release.await);
}

impl Drop for PublisherLease {
    fn drop(&mut self) {
        let Some(connection) = self.connection.get_mut().take() else {
            return;
        };
        // Without a runtime the socket is closed with the connection, and the server notices a moment later.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(give_up(connection));
        }
    }
}
