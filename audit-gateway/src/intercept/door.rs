//! Clients that use the gateway as their proxy.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use audit_core::event::{Correlation, Event, Guarantee, Kind};
use audit_core::with_causes;
use hyper::body::Incoming;
use hyper::header;
use hyper::http::uri::Scheme;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::{Intercept, TunnelPolicy, host_name};
use crate::body::Body;
use crate::config::Upstream;
use crate::counters::up;
use crate::exchange::{self, stopped};
use crate::front::{Connection, Intercepted, Point};
use crate::headers::{self, AuditHeaders};
use crate::recorder::Recorder;
use crate::recording::Outcome;
use crate::refusal::{Code, Refusal};
use crate::report::Severity;
use crate::server;
use crate::shared::{Alive, Shared};
use crate::sink::{self, Absent, Kept, Trouble};

/// Bytes that a tunnel takes from one side before it gives them to the other; two of these per tunnel.
const PIECE_BYTES: usize = 16 * 1024;

/// Where a tunnel is to lead.
struct Asked {
    host: String,
    port: u16,
    ours: AuditHeaders,
    trace: Option<(String, String)>,
}

/// Answers `CONNECT` (RFC 9110 §9.3.6). What the connection becomes then waits in it until the answer has been sent.
pub(crate) async fn connect(
    shared: &Arc<Shared>,
    connection: &Connection,
    alive: &Alive,
    weak: mpsc::WeakSender<()>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let Some(intercept) = &shared.config.intercept else {
        return Err(Refusal::new(
            Code::UpgradeUnsupported,
            "tunnels can't be recorded, so they are not made; this gateway does not intercept",
        ));
    };
    let asked = Asked::of(&request)?;
    let upgrade = hyper::upgrade::on(request);
    if intercept.means(&asked.host) {
        let next = intercepted(Arc::clone(shared), weak, asked, upgrade)?;
        connection.next.set(next);
    } else if intercept.others == TunnelPolicy::Open {
        let stream = reach(shared, &asked).await?;
        let tunnel = Tunnel::open(shared, alive, asked, intercept.on_audit_failure).await?;
        connection.next.set(Box::pin(tunnel.run(upgrade, stream)));
    } else {
        return Err(Refusal::new(
            Code::HostNotAllowed,
            "this host is not among those that are recorded, and tunnels to others are not allowed",
        ));
    }
    Ok(Response::new(Body::Empty))
}

/// A request in absolute form, as clients send it to a proxy for `http` URLs: recorded if its host is one of those, else
/// refused, since it can't pass through unseen.
pub(crate) fn plain(shared: &Shared, uri: &Uri) -> Result<Intercepted, Refusal> {
    let wrong = || Refusal::new(Code::BadRequest, "the URL can't be passed on");
    let Some(intercept) = &shared.config.intercept else {
        return Err(Refusal::new(
            Code::BadRequest,
            "this gateway is no proxy; its paths begin with an upstream's name",
        ));
    };
    let authority = uri.authority().ok_or_else(wrong)?;
    let host = host_name(authority.host()).ok_or_else(wrong)?;
    if uri.scheme() != Some(&Scheme::HTTP) || authority.as_str().contains('@') {
        return Err(wrong());
    }
    if !intercept.means(&host) {
        return Err(Refusal::new(
            Code::HostNotAllowed,
            "this host is not among those that are recorded, and without TLS nothing passes unseen",
        ));
    }
    let port = authority.port_u16().unwrap_or(80);
    Ok(Intercepted {
        upstream: Upstream::of_host(Scheme::HTTP, &host, port)
            .ok_or_else(wrong)?
            .on_audit_failure(intercept.on_audit_failure),
        ours: AuditHeaders::default(),
    })
}

impl Asked {
    fn of(request: &Request<Incoming>) -> Result<Self, Refusal> {
        let wrong = || {
            Refusal::new(
                Code::BadRequest,
                "CONNECT is asked with HOST:PORT, and without a body",
            )
        };
        let authority = request.uri().authority().ok_or_else(wrong)?;
        let bodied = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING]
            .iter()
            .any(|name| request.headers().contains_key(name));
        if authority.as_str().contains('@') || bodied {
            return Err(wrong());
        }
        Ok(Self {
            host: host_name(authority.host()).ok_or_else(wrong)?,
            port: authority.port_u16().filter(|p| *p > 0).ok_or_else(wrong)?,
            ours: AuditHeaders::of(request.headers())?,
            trace: headers::traceparent(request.headers()),
        })
    }
}

/// Speaks TLS as the host that was asked for, and serves what comes in it.
fn intercepted(
    shared: Arc<Shared>,
    alive: mpsc::WeakSender<()>,
    asked: Asked,
    upgrade: OnUpgrade,
) -> Result<Pin<Box<dyn Future<Output = ()> + Send>>, Refusal> {
    let failed = || Refusal::new(Code::BadRequest, "no certificate for this host can be made");
    let Some(Intercept {
        authority,
        on_audit_failure,
        ..
    }) = &shared.config.intercept
    else {
        return Err(failed());
    };
    let upstream = Upstream::of_host(Scheme::HTTPS, &asked.host, asked.port)
        .ok_or_else(failed)?
        .on_audit_failure(*on_audit_failure);
    let tls = authority
        .server(&asked.host, shared.log.clock().now())
        .map_err(|e| {
            shared.notice(
                Severity::Error,
                "no_certificate",
                format!("a client was refused: {}", with_causes(&e)),
                None,
            );
            failed()
        })?;
    Ok(Box::pin(async move {
        let limits = &shared.config.limits;
        let accepting = async {
            let io = TokioIo::new(upgrade.await.map_err(std::io::Error::other)?);
            TlsAcceptor::from(tls).accept(io).await
        };
        let io = match timeout(limits.request_head_timeout, accepting).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => {
                // Whoever doesn't trust the authority says so (RFC 8446 §6.2); whoever just leaves needs no notice.
                if let Some(why) = alert(&error) {
                    shared.notice(
                        Severity::Warning,
                        "tls_refused",
                        format!(
                            "a client asked for {} and refused the certificate: {why}; does it trust the authority?",
                            asked.host
                        ),
                        None,
                    );
                }
                return;
            }
            Err(_) => return,
        };
        let named = io.get_ref().1.server_name().map(str::to_ascii_lowercase);
        if named.is_some_and(|name| name != asked.host) {
            shared.notice(
                Severity::Warning,
                "server_name_differs",
                format!(
                    "a client asked for {}, and for another host within the connection",
                    asked.host
                ),
                None,
            );
            return;
        }
        let connection = Connection::intercepted(Intercepted {
            upstream,
            ours: asked.ours,
        });
        let connection = Arc::new(connection);
        if io.get_ref().1.alpn_protocol() == Some(b"h2") {
            server::serve_http2(shared, TokioIo::new(io), connection, alive).await;
        } else {
            server::serve(shared, TokioIo::new(io), connection, alive).await;
        }
    }))
}

/// The alert that a client sent, if that is what broke a handshake.
fn alert(error: &std::io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(format!("{alert:?}")),
        _ => None,
    }
}

/// Connects to where a tunnel leads, unless that is the gateway.
async fn reach(shared: &Shared, asked: &Asked) -> Result<TcpStream, Refusal> {
    let connecting = async {
        let mut last = None;
        for address in lookup_host((asked.host.as_str(), asked.port)).await.ok()? {
            if is_ours(shared.address, address) {
                return Some(Err(Refusal::new(
                    Code::Loop,
                    "this tunnel would lead to the gateway itself",
                )));
            }
            if let Ok(stream) = TcpStream::connect(address).await {
                return stream.set_nodelay(true).ok().map(|()| Ok(stream));
            }
            last = None;
        }
        last
    };
    match timeout(shared.config.limits.connect_timeout, connecting).await {
        Ok(Some(reached)) => reached,
        Ok(None) => Err(Refusal::new(
            Code::UpstreamUnreachable,
            "the host could not be connected",
        )),
        Err(_) => Err(Refusal::new(
            Code::UpstreamTimeout,
            "the host could not be connected in time",
        )),
    }
}

fn is_ours(ours: SocketAddr, other: SocketAddr) -> bool {
    let here = ours.ip().is_unspecified() && other.ip().to_canonical().is_loopback();
    ours.port() == other.port() && (here || ours.ip() == other.ip().to_canonical())
}

/// A tunnel whose opening is in the log.
struct Tunnel {
    shared: Arc<Shared>,
    recorder: Recorder,
    /// Whether its opening is somewhere.
    recorded: bool,
    opened: Event,
    started_us: u64,
}

/// Bytes in one direction, and whether they came to their end.
#[derive(Default)]
struct Way {
    bytes: AtomicU64,
}

impl Tunnel {
    /// Records that a tunnel is opened; a crash until then leaves nothing, and nothing has gone through.
    async fn open(
        shared: &Arc<Shared>,
        alive: &Alive,
        asked: Asked,
        guarantee: Guarantee,
    ) -> Result<Self, Refusal> {
        let id = shared.id();
        let mut event = exchange::event(
            shared,
            id,
            Kind::new("network.tunnel_opened").expect("the name follows the rule"),
            &asked.ours,
            asked.trace,
            guarantee,
        );
        let mut set = |name: &str, value| event.attributes.insert(name.to_owned(), value);
        set("server.address", json!(asked.host));
        set("server.port", json!(asked.port));
        set("audit.capture.point", json!(Point::Tunnel.as_str()));
        let numbered = shared.sink.numbered(event.clone());
        let recorded = match shared.sink.take(&numbered, guarantee).await {
            Ok(kept) => {
                if kept == Kept::Log {
                    shared.log_works();
                }
                kept != Kept::Nowhere
            }
            Err(trouble) => {
                let why = match &trouble {
                    Trouble::Failed(error) => with_causes(error),
                    Trouble::Late(_) => "the log doesn't answer".to_owned(),
                };
                up(&shared.counters.refused_unrecorded);
                shared.log_fails();
                shared.notice(
                    Severity::Error,
                    "audit_log_unavailable",
                    format!("tunnel not opened: {why}"),
                    Some(id),
                );
                // One that lands late is an opening without an end, as of a tunnel that nobody used.
                if let Trouble::Failed(error) = trouble {
                    let reason = sink::reason(&error);
                    shared.sink.absent(&numbered, Absent::Refused, reason).await;
                }
                return Err(Refusal::new(
                    Code::LogUnavailable,
                    "the audit log can't be written, so the tunnel was not opened",
                ));
            }
        };
        up(&shared.counters.tunnels);
        Ok(Self {
            recorder: Recorder::new(Arc::clone(shared), alive.clone(), id, guarantee, |c| {
                &c.tunnels_closed
            }),
            recorded,
            started_us: shared.log.clock().monotonic_micros(),
            shared: Arc::clone(shared),
            opened: event,
        })
    }

    async fn run(self, upgrade: OnUpgrade, mut server: TcpStream) {
        let (sent, received) = (Way::default(), Way::default());
        let mut stop = self.shared.stop.clone();
        let outcome = match upgrade.await {
            Ok(client) => {
                let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
                let (from_server, to_server) = server.split();
                let both = async {
                    // Each direction ends by itself; if one breaks, the other has nobody to speak to.
                    tokio::try_join!(
                        pass(from_client, to_server, &sent.bytes),
                        pass(from_server, to_client, &received.bytes)
                    )
                };
                tokio::select! {
                    ended = both => match ended {
                        Ok(_) => (Outcome::Complete, None),
                        Err(_) => (Outcome::Error, Some("connection_broken")),
                    },
                    () = stopped(&mut stop) => (Outcome::CutByGateway, Some("gateway_stopped")),
                }
            }
            Err(_) => (Outcome::CutByClient, Some("client_left")),
        };
        let event = self.closed(outcome, &sent, &received);
        if self.recorded {
            self.recorder.record(event).await;
        } else {
            self.recorder.leave_out(event).await;
        }
    }

    fn closed(&self, (outcome, reason): (Outcome, Option<&str>), sent: &Way, back: &Way) -> Event {
        let clock = self.shared.log.clock();
        let now = clock.now();
        let mut event = self.opened.clone();
        let opened: Uuid = event.id;
        event.id = self.shared.log.ids().uuid_v7(now);
        event.time = now;
        event.kind = Kind::new("network.tunnel_closed").expect("the name follows the rule");
        event
            .correlation
            .get_or_insert_with(Correlation::default)
            .parent_event = Some(opened);
        let total = clock.monotonic_micros().saturating_sub(self.started_us);
        let mut set = |name: &str, value| event.attributes.insert(name.to_owned(), value);
        set("audit.outcome", json!(outcome.as_str()));
        if let Some(reason) = reason {
            set("audit.outcome.reason", json!(reason));
        }
        set(
            "audit.tunnel.sent_bytes",
            json!(sent.bytes.load(Ordering::Relaxed)),
        );
        set(
            "audit.tunnel.received_bytes",
            json!(back.bytes.load(Ordering::Relaxed)),
        );
        set("audit.timing.total_us", json!(total));
        event
    }
}

/// Passes bytes on until their end, one piece at a time: a reader that is slow slows the writer down.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    bytes: &AtomicU64,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let n = from.read(&mut piece).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(piece.get(..n).unwrap_or_default()).await?;
        bytes.fetch_add(n as u64, Ordering::Relaxed);
    }
}
