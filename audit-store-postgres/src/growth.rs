//! Telling others that the log has grown, and being told: `NOTIFY` and `LISTEN`, apart from every commit.
//!
//! A transaction that notifies holds a lock of the whole server while it commits. So nothing that appends notifies: others
//! are told behind the commit, on another connection, by a transaction that doesn't wait for the disk.
//!
//! Whoever may connect to the database may send and hear notifications. So one is a hint: it says nothing, and makes a
//! follower look at the head row. One that is lost costs the second after which a follower looks anyway.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::Error;
use sqlx::postgres::{PgConnection, PgListener, PgPool, PgPoolOptions};
use sqlx::{Acquire as _, AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at, sleep, timeout};

use crate::connection::{CONNECT, Use, connect, set_up};
use crate::failure::Found;
use crate::url::PostgresUrl;

/// How long telling may take, connecting first if need be.
const TELL: Duration = Duration::from_secs(15);
/// How long after telling others they are told again: a hundred short transactions a second are the most that a process
/// puts upon the server, however fast it commits.
const TELL_PAUSE: Duration = Duration::from_millis(10);
/// After how long without a commit the connection that tells is closed.
const TELLER_IDLE: Duration = Duration::from_secs(10);
/// How often the connection that listens is tried, and closed if nobody has followed since the last time.
const LISTENER_LOOK: Duration = Duration::from_secs(10);
/// How long after a failure telling, or listening, is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The log's channel, by the number of its schema: a schema's name may be as long as a channel's.
async fn channel(c: &mut PgConnection, url: &PostgresUrl) -> Found<String> {
    let sql = "SELECT 'audit_trail_' || oid FROM pg_namespace WHERE nspname = $1";
    let row = sqlx::query(sql)
        .bind(url.schema())
        .fetch_optional(c)
        .await?;
    let row = row.ok_or_else(|| Error::not_found(format!("{url}: there is no such schema")))?;
    Ok(row.try_get(0)?)
}

/// Tells others that this process has appended. Has no connection before it does.
pub(crate) struct Teller {
    due: mpsc::Sender<()>,
}

impl Teller {
    /// Is to be called inside a runtime. What it starts ends with the value.
    pub(crate) fn start(url: PostgresUrl) -> Self {
        // Room for one: that one is told behind everything that was committed before it is taken out.
        let (due, dues) = mpsc::channel(1);
        tokio::spawn(tell(url, dues));
        Self { due }
    }

    /// Is to be called behind a commit. Waits for nothing.
    pub(crate) fn grew(&self) {
        let _is_due_already = self.due.try_send(()).is_err();
    }
}

async fn tell(url: PostgresUrl, mut dues: mpsc::Receiver<()>) {
    let mut open: Option<Telling> = None;
    loop {
        let due = if open.is_none() {
            dues.recv().await
        } else if let Ok(due) = timeout(TELLER_IDLE, dues.recv()).await {
            due
        } else {
            close(open.take()).await;
            continue;
        };
        if due.is_none() {
            return close(open).await;
        }
        loop {
            let kept = open.is_some();
            let told = timeout(TELL, async {
                let telling = match &mut open {
                    Some(telling) => telling,
                    None => open.insert(Telling::open(&url).await?),
                };
                telling.tell().await
            });
            if matches!(told.await, Ok(Ok(()))) {
                sleep(TELL_PAUSE).await;
                break;
            }
            // Followers look by themselves meanwhile; appending doesn't depend on it.
            open = None;
            if dues.is_closed() {
                return;
            }
            if !kept {
                sleep(RETRY).await;
            }
        }
    }
}

async fn close(open: Option<Telling>) {
    if let Some(telling) = open {
        // Whatever fails, the server notices that the connection is gone.
        drop(timeout(CONNECT, telling.connection.close()).await);
    }
}

/// The connection that tells.
struct Telling {
    connection: PgConnection,
    statement: String,
}

impl Telling {
    async fn open(url: &PostgresUrl) -> Found<Self> {
        let mut connection = connect(url, Use::Write).await?;
        let channel = channel(&mut connection, url).await?;
        // So that the lock of all that notify isn't held for as long as the disk, or a standby, takes.
        sqlx::raw_sql("SET synchronous_commit = off")
            .execute(&mut connection)
            .await?;
        Ok(Self {
            connection,
            statement: format!("NOTIFY {channel}"),
        })
    }

    async fn tell(&mut self) -> Found<()> {
        sqlx::raw_sql(AssertSqlSafe(self.statement.clone()))
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }
}

/// What a follower knows of the connection that listens. Any change is a reason to look at the head.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Heard {
    /// Whether there is one.
    pub(crate) listens: bool,
    /// Notifications so far.
    hints: u64,
}

/// Listens for all who follow through one store, and only while somebody does.
pub(crate) struct Listener {
    shared: Arc<Shared>,
}

struct Shared {
    url: PostgresUrl,
    heard: watch::Sender<Heard>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    task: Option<JoinHandle<()>>,
    /// Somebody has followed since it was looked last.
    wanted: bool,
}

impl Listener {
    pub(crate) fn new(url: PostgresUrl) -> Self {
        Self {
            shared: Arc::new(Shared {
                url,
                heard: watch::Sender::default(),
                state: Mutex::default(),
            }),
        }
    }

    /// Begins to listen, unless somebody has, and tells what is heard from now on.
    pub(crate) fn follow(&self) -> watch::Receiver<Heard> {
        let heard = self.shared.heard.subscribe();
        let mut state = self.shared.state();
        state.wanted = true;
        if state.task.as_ref().is_none_or(JoinHandle::is_finished) {
            state.task = Some(tokio::spawn(listen(Arc::clone(&self.shared))));
        }
        heard
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = self.shared.state().task.take() {
            task.abort();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody has followed since this was asked last. If not, the next who follows starts a task of their own.
    fn goes_on(&self) -> bool {
        let mut state = self.state();
        let goes_on = std::mem::take(&mut state.wanted);
        if !goes_on {
            state.task = None;
        }
        goes_on
    }
}

async fn listen(shared: Arc<Shared>) {
    loop {
        let opened = timeout(CONNECT, Listening::open(&shared.url)).await;
        if let Ok(Ok(listening)) = opened {
            if listening.run(&shared).await {
                return;
            }
            continue;
        }
        // A standby takes no LISTEN, and a server that is away nothing at all.
        sleep(RETRY).await;
        if !shared.goes_on() {
            return;
        }
    }
}

/// The connection that listens. The driver hands notifications out through a pool alone, here of one connection.
struct Listening {
    pool: PgPool,
    listener: PgListener,
    statement: String,
}

impl Listening {
    async fn open(url: &PostgresUrl) -> Found<Self> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(CONNECT)
            .connect_lazy_with(url.options.clone().disable_statement_logging());
        let mut listener = PgListener::connect_with(&pool).await?;
        let connection = listener.acquire().await?;
        set_up(connection, url, Use::Read).await?;
        let statement = format!("LISTEN {}", channel(connection, url).await?);
        sqlx::raw_sql(AssertSqlSafe(statement.clone()))
            .execute(connection)
            .await?;
        // A connection that the driver makes anew isn't set up, and doesn't listen.
        listener.eager_reconnect(false);
        Ok(Self {
            pool,
            listener,
            statement,
        })
    }

    /// Passes on what it hears until nobody follows any more (`true`) or the connection is lost.
    async fn run(mut self, shared: &Shared) -> bool {
        // What was told before anybody listened is looked for now.
        let _listens = Listens::begin(shared);
        let mut looks = interval_at(Instant::now() + LISTENER_LOOK, LISTENER_LOOK);
        loop {
            tokio::select! {
                heard = self.listener.try_recv() => match heard {
                    Ok(Some(_)) => shared.heard.send_modify(|heard| heard.hints += 1),
                    Ok(None) | Err(_) => return false,
                },
                _ = looks.tick() => {
                    if !shared.goes_on() {
                        drop(self.listener);
                        // The connection is lost otherwise, which the server notices.
                        drop(timeout(CONNECT, self.pool.close()).await);
                        return true;
                    }
                    // A network that went silent tells nobody. Listening again changes nothing.
                    let again = sqlx::raw_sql(AssertSqlSafe(self.statement.clone()));
                    let ping = timeout(CONNECT, again.execute(&mut self.listener));
                    if !matches!(ping.await, Ok(Ok(_))) {
                        return false;
                    }
                }
            }
        }
    }
}

/// Followers rely on the connection as long as this lives.
struct Listens<'a>(&'a Shared);

impl<'a> Listens<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.heard.send_modify(|heard| heard.listens = true);
        Self(shared)
    }
}

impl Drop for Listens<'_> {
    fn drop(&mut self) {
        self.0.heard.send_modify(|heard| heard.listens = false);
    }
}
