//! Listening, serving, and coming to an end.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use audit_core::log::Log;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::body::Counted;
use crate::config::{Config, Limits};
use crate::counters::{Counters, Summary, up};
use crate::error::{Error, Result};
use crate::front::{self, Connection};
use crate::report::Severity;
use crate::shared::Shared;
use crate::sink::Sink;
use crate::spool::Spool;
use crate::stall::StallGuard;
use crate::upstream;

/// After open exchanges were told to end: for their records to land.
const LAST_RECORDS: Duration = Duration::from_secs(10);

/// After all exchanges have ended: for clients to take what is ready for them.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// How often idle connections and the state of the log are looked at.
const LOOK_AROUND: Duration = Duration::from_secs(5);

/// A pause after accepting failed, which happens when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The reverse proxy.
#[derive(Debug, Clone, Copy)]
pub struct Gateway;

/// A gateway that listens, and doesn't serve yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    log: Log,
    sink: Arc<Sink>,
    client: upstream::Client,
    listener: TcpListener,
    address: SocketAddr,
    counters: Health,
}

/// What a gateway has done so far; it can be kept while the gateway serves.
#[derive(Debug, Clone)]
pub struct Health(Arc<Counters>);

impl Health {
    /// The counts.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.0.summary()
    }

    /// Whether the last attempt to write the log worked.
    #[must_use]
    pub fn log_writable(&self) -> bool {
        !self.0.log_failing.load(Ordering::Relaxed)
    }
}

impl Gateway {
    /// Checks the configuration and listens. The log stays the caller's, who closes it after the gateway has ended.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): the configuration is wrong, or there is no root certificate.
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): the address can't be had.
    pub async fn bind(config: Config, log: Log) -> Result<Bound> {
        config.check()?;
        let producer = log.ids().uuid_v7(log.clock().now());
        let spool = match config.spool.clone() {
            // What others left there may be long.
            Some(spool) => tokio::task::spawn_blocking(move || Spool::open(spool, producer))
                .await
                .map_err(|e| Error::unavailable("the runtime was stopped").because(e))
                .flatten()
                .map(Some)?,
            None => None,
        };
        let client = upstream::Client::new(&config)?;
        let taken = |e| Error::unavailable(format!("can't listen on {}", config.listen)).because(e);
        let listener = TcpListener::bind(config.listen).await.map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let counters = Health(Arc::default());
        let sink = Arc::new(Sink::new(
            log.clone(),
            &config.limits,
            spool,
            producer,
            Arc::clone(&counters.0),
            Arc::clone(&config.reporter),
        ));
        Ok(Bound {
            config,
            log,
            sink,
            client,
            listener,
            address,
            counters,
        })
    }
}

impl Bound {
    /// Where clients connect.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// A handle on the counts.
    #[must_use]
    pub fn health(&self) -> Health {
        self.counters.clone()
    }

    /// Serves until `shutdown` resolves and the open exchanges have ended.
    ///
    /// Then nothing new is accepted; open exchanges have [`Limits::drain_timeout`] to end by themselves, after which
    /// they are cut, and recorded as cut by the gateway.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): open exchanges did not come to their records in time.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<Summary> {
        let Self {
            config,
            log,
            sink,
            client,
            listener,
            address,
            counters,
        } = self;
        let limits = config.limits.clone();
        let (draining, drain) = watch::channel(false);
        let (stopping, stop) = watch::channel(false);
        let shared = Arc::new(Shared {
            config,
            log,
            sink: Arc::clone(&sink),
            client,
            counters: Arc::clone(&counters.0),
            address,
            drain,
            stop,
        });
        let looking = tokio::spawn(look_around(Arc::clone(&shared)));
        let (over, recovered) = watch::channel(false);
        let recovering = tokio::spawn(Arc::clone(&sink).recover(recovered));
        let (alive, mut ended) = mpsc::channel::<()>(1);
        let slots = Arc::new(Semaphore::new(limits.connections_max));
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            let next = async {
                // Beyond the limit clients wait in the listen queue, where they cost nothing.
                let slot = Arc::clone(&slots)
                    .acquire_owned()
                    .await
                    .expect("the semaphore is never closed");
                (slot, listener.accept().await)
            };
            tokio::select! {
                () = &mut shutdown => break,
                (slot, accepted) = next => match accepted {
                    Ok((stream, _)) => {
                        up(&shared.counters.connections);
                        connections.spawn(connection(Arc::clone(&shared), stream, slot, alive.downgrade()));
                    }
                    Err(error) => {
                        shared.notice(Severity::Warning, "accept_failed", format!("can't accept: {error}"), None);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        drop(alive);
        draining.send_replace(true);
        // Exchanges, and records that outlive them.
        let drained = timeout(limits.drain_timeout, gone(&mut ended))
            .await
            .is_ok();
        let recorded = drained || {
            stopping.send_replace(true);
            timeout(limits.append_timeout.min(LAST_RECORDS), gone(&mut ended))
                .await
                .is_ok()
        };
        // Connections are left that are idle, within a request's head, or still taking the last bytes of an answer.
        let flushed = async { while connections.join_next().await.is_some() {} };
        if timeout(limits.drain_timeout.min(LAST_BYTES), flushed)
            .await
            .is_err()
        {
            connections.shutdown().await;
        }
        looking.abort();
        over.send_replace(true);
        drop(recovering.await);
        let waiting = sink.finish(limits.append_timeout.min(LAST_RECORDS)).await;
        counters.0.spooled_left.store(waiting, Ordering::Relaxed);
        if !recorded {
            return Err(Error::unavailable(
                "open exchanges ended without their records",
            ));
        }
        Ok(counters.summary())
    }
}

/// From time to time looks through the idle connections to providers, and tells when the log begins or ends to have
/// trouble with its own entries, of which no exchange hears.
async fn look_around(shared: Arc<Shared>) {
    let mut trouble: Option<String> = None;
    loop {
        tokio::time::sleep(LOOK_AROUND).await;
        shared.client.sweep();
        let now = shared.log.writing_trouble();
        match (&trouble, &now) {
            (None, Some(why)) => shared.notice(
                Severity::Error,
                "log_trouble",
                format!("the log can't write its own entries: {why}"),
                None,
            ),
            (Some(_), None) => shared.notice(
                Severity::Warning,
                "log_recovered",
                "the log writes its own entries again".to_owned(),
                None,
            ),
            _ => {}
        }
        trouble = now;
    }
}

/// Waits until no task holds the other end any more.
async fn gone(ended: &mut mpsc::Receiver<()>) {
    while ended.recv().await.is_some() {}
}

/// Serves one connection, and what becomes of it.
async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
    alive: mpsc::WeakSender<()>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        shared.notice(
            Severity::Warning,
            "connection_failed",
            format!("can't set up a connection: {error}"),
            None,
        );
        return;
    }
    let limits = &shared.config.limits;
    let mut drain = shared.drain.clone();
    let speaks = tokio::select! {
        speaks = timeout(limits.request_head_timeout, protocol(&stream)) => speaks,
        () = crate::exchange::stopped(&mut drain) => return,
    };
    let io = StallGuard::new(stream, limits.client_stall_timeout);
    let connection = Arc::new(Connection::default());
    match speaks {
        Ok(Ok(Protocol::Http1)) => {
            serve(Arc::clone(&shared), io, Arc::clone(&connection), alive).await;
        }
        Ok(Ok(Protocol::Http2)) => {
            serve_http2(Arc::clone(&shared), io, Arc::clone(&connection), alive).await;
        }
        // Whoever says nothing, or leaves, has nothing to be told.
        Ok(Err(_)) | Err(_) => return,
    }
    // The client asked for a tunnel and was told that it has one.
    if let Some(next) = connection.next.take() {
        next.await;
    }
    drop(slot);
}

/// Serves a client over what carries its bytes, until it leaves or the gateway is stopped.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    io: impl Read + Write + Unpin + Send + 'static,
    connection: Arc<Connection>,
    alive: mpsc::WeakSender<()>,
) {
    let limits: &Limits = &shared.config.limits;
    let service = service_fn(|request| {
        front::serve(
            Arc::clone(&shared),
            Arc::clone(&connection),
            alive.clone(),
            request,
        )
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_head_timeout)
        .max_headers(limits.headers_max)
        .max_header_size(limits.request_head_bytes_max)
        .preserve_header_case(true)
        // A date that the provider didn't send would be ours, not the provider's.
        .auto_date_header(false)
        .half_close(false);
    let mut drain = shared.drain.clone();
    let mut serving = pin!(builder.serve_connection(io, service).with_upgrades());
    let mut draining = pin!(crate::exchange::stopped(&mut drain));
    let mut told = false;
    let serving = std::future::poll_fn(|cx| {
        if !told && draining.as_mut().poll(cx).is_ready() {
            told = true;
            serving.as_mut().graceful_shutdown();
        }
        // How a connection ended is in the records of its exchanges; malformed requests are answered by hyper.
        serving.as_mut().poll(cx).map(drop)
    });
    crate::serving::drive(serving, &connection.begun).await;
}

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// How every connection in HTTP/2 begins (RFC 9113 §3.4). No method of HTTP/1.1 begins so.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Tells the protocol by the first bytes, without taking them.
async fn protocol(stream: &TcpStream) -> std::io::Result<Protocol> {
    let mut first = [0; PREFACE.len()];
    loop {
        let n = stream.peek(&mut first).await?;
        let seen = first.get(..n).unwrap_or_default();
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if !PREFACE.starts_with(seen) {
            return Ok(Protocol::Http1);
        }
        if n == PREFACE.len() {
            return Ok(Protocol::Http2);
        }
        // The bytes that are there stay, so there is no event to wait for.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Streams that one client may have open on a connection.
const STREAMS_MAX: u32 = 128;

/// Bytes of a request's body that a client may send ahead, for a stream and for a connection.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Bytes of an answer that wait for a client, for each stream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// How often an idle connection in HTTP/2 is looked at.
const LOOK_AT_IDLE: Duration = Duration::from_secs(5);

/// The same as [`serve`], in HTTP/2: many exchanges at once, each with a task of its own.
pub(crate) async fn serve_http2(
    shared: Arc<Shared>,
    io: impl Read + Write + Unpin + Send + 'static,
    connection: Arc<Connection>,
    alive: mpsc::WeakSender<()>,
) {
    let limits: &Limits = &shared.config.limits;
    let open = Arc::new(AtomicUsize::new(0));
    let service = service_fn(|request| {
        // Until the answer's head is there; its body keeps the count up.
        let counted = Counted::new(&open);
        let answering = front::serve(
            Arc::clone(&shared),
            Arc::clone(&connection),
            alive.clone(),
            request,
        );
        async move {
            answering
                .await
                .map(|answer| answer.map(|body| body.keeping(counted)))
        }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(u32::try_from(limits.request_head_bytes_max).unwrap_or(u32::MAX))
        .keep_alive_interval(limits.request_head_timeout)
        .auto_date_header(false);
    let mut drain = shared.drain.clone();
    let mut serving = pin!(builder.serve_connection(io, service));
    let mut idle_since: Option<tokio::time::Instant> = None;
    loop {
        let look = async {
            tokio::select! {
                () = crate::exchange::stopped(&mut drain) => true,
                () = tokio::time::sleep(LOOK_AT_IDLE) => false,
            }
        };
        tokio::select! {
            // How a connection ended is in the records of its exchanges.
            _ = serving.as_mut() => return,
            stopping = look => {
                let idle = open.load(Ordering::Relaxed) == 0;
                let since = *idle_since.get_or_insert_with(tokio::time::Instant::now);
                if !idle {
                    idle_since = None;
                }
                if stopping || (idle && since.elapsed() >= limits.request_head_timeout) {
                    serving.as_mut().graceful_shutdown();
                    drop(serving.await);
                    return;
                }
            }
        }
    }
}
