//! Connections to providers: kept alive, one crypto provider, one timeout over name, TCP and TLS.
//!
//! A connection has no task of its own: the exchange that uses it drives it, so a call changes neither tasks nor threads
//! on its way to the provider and back. Between exchanges nobody drives it; whoever takes it next first looks whether it
//! is still open, and a sweep closes what the provider has closed or nobody has used for long.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::header;
use hyper::http::response;
use hyper::{Request, Uri, Version};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::Instant;
use tower_service::Service;

use crate::config::{Config, Upstream};
use crate::error::{Error, Result};

type BoxError = Box<dyn StdError + Send + Sync>;

/// How long an idle connection is kept; most servers keep theirs for a minute or more.
const IDLE: Duration = Duration::from_secs(45);

/// Idle connections per upstream.
const IDLE_MAX: usize = 64;

/// How often a connection in HTTP/2 with open exchanges is asked whether it still works.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Bytes of an answer that a provider may send ahead of its client, for a stream and for a connection.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// The request that goes to an upstream: its body is here in full.
type Whole = Request<Full<Bytes>>;

/// Connects to upstreams, and keeps what can be used again.
#[derive(Debug)]
pub(crate) struct Client {
    connector: Timed,
    /// Offers HTTP/2, for clients that speak it themselves.
    second: Timed,
    protocol: http1::Builder,
    protocol_second: http2::Builder<TokioExecutor>,
    /// Connections in HTTP/2 by origin: one carries many exchanges, and has a task of its own.
    shared: Mutex<HashMap<String, http2::SendRequest<Full<Bytes>>>>,
    /// By scheme and authority; the one that was used last stands at the end.
    idle: Mutex<HashMap<String, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    link: Link,
    since: Instant,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Not connected in time.
    ConnectTimeout,
    /// Not connected.
    Unreachable,
    /// The connection broke before the answer.
    Broken,
}

/// The head of an answer, and its body as it comes.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: response::Parts,
    body: Incoming,
    /// Whether the body was read to its end.
    ended: bool,
    link: Link,
    origin: String,
}

impl Client {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        // The provider is named, so that a second one in the tree can't make rustls panic.
        let tls =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|e| Error::invalid("the crypto provider knows no TLS version").because(e))?
                .with_root_certificates(roots(config)?)
                .with_no_client_auth();
        let timed = |inner| Timed {
            inner,
            timeout: config.limits.connect_timeout,
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp.clone());
        let second = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let mut protocol_second = http2::Builder::new(TokioExecutor::new());
        protocol_second
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(
                u32::try_from(config.limits.request_head_bytes_max).unwrap_or(u32::MAX),
            )
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(false);
        let mut protocol = http1::Builder::new();
        protocol
            .preserve_header_case(true)
            .max_headers(config.limits.headers_max);
        Ok(Self {
            connector: timed(connector),
            second: timed(second),
            protocol,
            protocol_second,
            shared: Mutex::default(),
            idle: Mutex::default(),
        })
    }

    /// Sends a request and waits for the head of its answer. Whoever stops waiting closes the connection, or the stream.
    /// `second`: in HTTP/2, if the upstream speaks it.
    ///
    /// A kept connection may be closed by the provider at the moment in which it is used. If nothing of the request was
    /// sent, another connection is taken; what may have arrived is never sent twice.
    pub(crate) async fn send(
        &self,
        upstream: &Upstream,
        mut request: Whole,
        second: bool,
    ) -> std::result::Result<Answer, Failure> {
        // By origin: upstreams that lead to the same server share its connections.
        let origin = format!("{}://{}", upstream.scheme, upstream.authority);
        // Without TLS nobody can say that it speaks HTTP/2.
        let second = second && upstream.is_tls();
        loop {
            let (mut link, kept) = match self.kept(&origin, second).await {
                Some(link) => (link, true),
                None => (self.connect(upstream, &origin, second).await?, false),
            };
            if let Link::Shared(_) = link {
                request = in_second(request, upstream);
            }
            match link.send(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    return Ok(Answer {
                        head,
                        ended: body.is_end_stream(),
                        body,
                        link,
                        origin,
                    });
                }
                Err(mut error) => {
                    if let Link::Shared(_) = link {
                        self.shared().remove(&origin);
                    }
                    match error.take_message() {
                        Some(unsent) if kept => request = unsent,
                        _ => return Err(Failure::Broken),
                    }
                }
            }
        }
    }

    /// A kept connection that is still open.
    async fn kept(&self, origin: &str, second: bool) -> Option<Link> {
        if second {
            let shared = self.shared().get(origin).cloned();
            if let Some(shared) = shared.filter(|shared| !shared.is_closed()) {
                return Some(Link::Shared(shared));
            }
        }
        loop {
            let mut idle = self.idle().get_mut(origin)?.pop()?;
            if idle.since.elapsed() < IDLE && idle.link.is_ready().await {
                return Some(idle.link);
            }
        }
    }

    async fn connect(
        &self,
        upstream: &Upstream,
        origin: &str,
        second: bool,
    ) -> std::result::Result<Link, Failure> {
        let base = Uri::builder()
            .scheme(upstream.scheme.clone())
            .authority(upstream.authority.clone())
            .path_and_query("/")
            .build()
            .map_err(|_e| Failure::Unreachable)?;
        let mut connector = if second {
            self.second.clone()
        } else {
            self.connector.clone()
        };
        let connected = async {
            poll_fn(|cx| connector.poll_ready(cx)).await?;
            connector.call(base).await
        };
        let io = connected.await.map_err(|e| {
            if timed_out(&*e) {
                Failure::ConnectTimeout
            } else {
                Failure::Unreachable
            }
        })?;
        if second && io.connected().is_negotiated_h2() {
            let handshake = self.protocol_second.handshake(io).await;
            let (sender, connection) = handshake.map_err(|_e| Failure::Unreachable)?;
            // Whoever waits for an answer is told of an error by hyper.
            drop(tokio::spawn(async move { drop(connection.await) }));
            self.shared().insert(origin.to_owned(), sender.clone());
            return Ok(Link::Shared(sender));
        }
        let (sender, connection) = self
            .protocol
            .handshake(io)
            .await
            .map_err(|_e| Failure::Unreachable)?;
        Ok(Link::Own {
            sender,
            connection: Some(connection),
        })
    }

    /// Keeps the connection of an answer that has been read to its end.
    pub(crate) async fn keep(&self, answer: Answer) {
        let Answer {
            body,
            ended,
            mut link,
            origin,
            ..
        } = answer;
        drop(body);
        if matches!(link, Link::Shared(_)) || !ended || !link.is_ready().await {
            return;
        }
        let mut idle = self.idle();
        let those = idle.entry(origin).or_default();
        if those.len() < IDLE_MAX {
            those.push(Idle {
                link,
                since: Instant::now(),
            });
        }
    }

    /// Closes idle connections that the provider has closed, or that nobody has used for long.
    pub(crate) fn sweep(&self) {
        // Who uses a connection next asks for its wake-ups anew.
        let mut cx = Context::from_waker(Waker::noop());
        // A proxy's clients may name any number of hosts, so those without a connection are forgotten.
        self.idle().retain(|_, those| {
            those.retain_mut(|idle| {
                idle.link.drive(&mut cx);
                idle.since.elapsed() < IDLE && idle.link.is_open()
            });
            !those.is_empty()
        });
        self.shared().retain(|_, shared| !shared.is_closed());
    }

    fn shared(&self) -> MutexGuard<'_, HashMap<String, http2::SendRequest<Full<Bytes>>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<String, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    /// Whether the answer has no body.
    pub(crate) fn is_empty(&self) -> bool {
        self.ended
    }

    /// The next piece of the body, and `None` at its end.
    pub(crate) async fn frame(&mut self) -> Option<hyper::Result<Frame<Bytes>>> {
        let frame = self.link.driving(self.body.frame()).await;
        self.ended |= frame.is_none();
        frame
    }
}

/// A request as HTTP/2 has it (RFC 9113 §8.2.2, §8.3.1): the host stands in the target, and nothing belongs to the
/// connection.
fn in_second(mut request: Whole, upstream: &Upstream) -> Whole {
    let path = request.uri().path_and_query().cloned();
    let target = Uri::builder()
        .scheme(upstream.scheme.clone())
        .authority(upstream.authority.clone())
        .path_and_query(path.map_or_else(|| "/".to_owned(), |p| p.to_string()))
        .build();
    if let Ok(target) = target {
        *request.uri_mut() = target;
    }
    *request.version_mut() = Version::HTTP_2;
    for name in [header::HOST, header::CONNECTION] {
        request.headers_mut().remove(name);
    }
    request
}

/// One connection that is driven by whoever waits for something of it, or a share of one that has a task.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and a box would be an allocation for each call"
)]
enum Link {
    Own {
        sender: http1::SendRequest<Full<Bytes>>,
        /// `None` once it is closed.
        connection: Option<http1::Connection<Io, Full<Bytes>>>,
    },
    Shared(http2::SendRequest<Full<Bytes>>),
}

impl Link {
    async fn send(
        &mut self,
        request: Whole,
    ) -> std::result::Result<hyper::Response<Incoming>, TrySendError<Whole>> {
        match self {
            Self::Own { sender, .. } => {
                let sent = sender.try_send_request(request);
                self.driving(sent).await
            }
            Self::Shared(sender) => sender.try_send_request(request).await,
        }
    }

    /// Waits for `what`, which comes of the connection.
    async fn driving<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        poll_fn(|cx| {
            if let Poll::Ready(done) = what.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            self.drive(cx);
            what.as_mut().poll(cx)
        })
        .await
    }

    /// Does what can be done without waiting.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Self::Own { connection, .. } = self
            && let Some(driven) = connection
            && Pin::new(driven).poll(cx).is_ready()
        {
            // Whoever waits for an answer is told of an error by hyper.
            *connection = None;
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Own { connection, .. } => connection.is_some(),
            Self::Shared(sender) => !sender.is_closed(),
        }
    }

    /// Whether it takes a request now.
    async fn is_ready(&mut self) -> bool {
        poll_fn(|cx| {
            self.drive(cx);
            Poll::Ready(())
        })
        .await;
        self.is_open()
            && match self {
                Self::Own { sender, .. } => sender.is_ready(),
                Self::Shared(sender) => sender.is_ready(),
            }
    }
}

fn roots(config: &Config) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if config.intercept.is_none() && !config.upstreams.values().any(Upstream::is_tls) {
        return Ok(roots);
    }
    for der in &config.extra_roots {
        roots
            .add(CertificateDer::from(der.clone()))
            .map_err(|e| Error::invalid("an extra root certificate can't be used").because(e))?;
    }
    if config.system_roots {
        // Some of the system's certificates may be unusable; what matters is that there are some.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(Error::invalid(
            "no root certificate to check upstreams with",
        ));
    }
    Ok(roots)
}

/// A connection, with or without TLS.
type Io = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;

/// A connector that gives up after a time, whatever it waits for.
#[derive(Debug, Clone)]
struct Timed {
    inner: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

impl Service<Uri> for Timed {
    type Response = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.inner.call(uri);
        let timeout = self.timeout;
        Box::pin(async move {
            tokio::time::timeout(timeout, connecting)
                .await
                .map_err(|e| io::Error::new(io::ErrorKind::TimedOut, e))?
        })
    }
}

/// Whether an error, or one of its causes, is a timeout.
fn timed_out(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::TimedOut)
        {
            return true;
        }
        next = error.source();
    }
    false
}
