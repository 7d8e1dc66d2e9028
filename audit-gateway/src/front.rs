//! The client's side: which requests are taken, and which are refused before anything happens.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::http::request;
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::body::Body;
use crate::config::Upstream;
use crate::counters::up;
use crate::exchange::{self, Asked};
use crate::headers::AuditHeaders;
use crate::intercept::{door, host_name};
use crate::refusal::{Code, Refusal, json_response};
use crate::serving::{Begun, Next};
use crate::shared::Shared;

/// Where the gateway answers for itself.
const HEALTH: &str = "/-/health";

/// One connection of a client.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    /// Names the session of requests that name none.
    session: OnceLock<String>,
    /// Set where the client believes to speak with a provider's host.
    intercepted: Option<Intercepted>,
    /// For the task that serves it.
    pub(crate) begun: Begun,
    /// What becomes of the connection when its client has been answered, if it becomes something else.
    pub(crate) next: Next,
}

/// Whom the client of a connection believes to speak with.
#[derive(Debug)]
pub(crate) struct Intercepted {
    pub(crate) upstream: Upstream,
    /// What the client said when it asked for the connection.
    pub(crate) ours: AuditHeaders,
}

impl Connection {
    pub(crate) fn intercepted(by: Intercepted) -> Self {
        Self {
            intercepted: Some(by),
            ..Self::default()
        }
    }
}

/// Through which door a request came; the attribute `audit.capture.point`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    ReverseProxy,
    InterceptingProxy,
    Tunnel,
}

impl Point {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ReverseProxy => "reverse_proxy",
            Self::InterceptingProxy => "intercepting_proxy",
            Self::Tunnel => "tunnel",
        }
    }
}

/// Where a request goes.
struct Routed {
    name: String,
    upstream: Upstream,
    target: Uri,
    ours: AuditHeaders,
    point: Point,
}

/// Answers one request. If the client leaves, hyper drops this; what has been handed to the exchange goes on.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    alive: mpsc::WeakSender<()>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    // To a client that believes to speak with a provider, the provider's paths are all there is.
    if connection.intercepted.is_none() && request.uri().path() == HEALTH {
        return Ok(health(&shared, request.method()));
    }
    let stopping = || Refusal::new(Code::Stopping, "the gateway is being stopped");
    // From here on the gateway doesn't end before this request.
    let weak = alive;
    let Some(alive) = weak.upgrade() else {
        return Ok(refuse(&shared, stopping(), false));
    };
    // Python's own clients ask for tunnels in HTTP/1.0.
    let first = request.version() != Version::HTTP_2;
    if request.method() == Method::CONNECT && connection.intercepted.is_none() && first {
        let connected = door::connect(&shared, &connection, &alive, weak, request).await;
        return Ok(connected.unwrap_or_else(|refusal| refuse(&shared, refusal, false)));
    }
    let (parts, body) = request.into_parts();
    let Routed {
        name,
        upstream,
        target,
        ours,
        point,
    } = match route(&shared, &connection, &parts) {
        Ok(routed) => routed,
        Err(refusal) => return Ok(refuse(&shared, refusal, body.is_end_stream())),
    };
    let mut stop = shared.stop.clone();
    let read = tokio::select! {
        read = read(&shared, &parts.headers, body) => read,
        () = exchange::stopped(&mut stop) => Err(stopping()),
    };
    let body = match read {
        Ok(bytes) => Ok(bytes),
        // That somebody tried to send too much is worth a record; that somebody was slow or left is not.
        Err(refusal) if refusal.code == Code::RequestTooLarge => Err(refusal),
        Err(refusal) => return Ok(refuse(&shared, refusal, false)),
    };
    let session = connection
        .session
        .get_or_init(|| shared.id().to_string())
        .clone();
    let id = shared.id();
    let asked = Asked {
        id,
        parts,
        target,
        name,
        upstream,
        ours,
        connection: session,
        point,
        body,
    };
    let (reply, replied) = oneshot::channel();
    let exchange = exchange::run(Arc::clone(&shared), alive, asked, reply);
    if first {
        connection.begun.push(Box::pin(exchange));
    } else {
        // In HTTP/2 an exchange doesn't wait for its neighbours, so it has a task of its own.
        drop(tokio::spawn(exchange));
    }
    Ok(match replied.await {
        Ok(response) => response,
        // The exchange panicked; the request may stand in the log without an answer.
        Err(_) => Refusal::new(
            Code::UpstreamFailed,
            "the exchange failed within the gateway",
        )
        .closing()
        .response(id),
    })
}

fn refuse(shared: &Shared, refusal: Refusal, body_read: bool) -> Response<Body> {
    up(&shared.counters.refused);
    let refusal = if body_read {
        refusal
    } else {
        refusal.closing()
    };
    refusal.response(shared.id())
}

/// Liveness, and how the log does: two words and no content, since it asks nobody who they are.
fn health(shared: &Shared, method: &Method) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        return Refusal::new(Code::BadRequest, "health is asked with GET")
            .closing()
            .response(shared.id());
    }
    let writable = !shared.counters.log_failing.load(Ordering::Relaxed);
    let publishing = shared.log.publishing_trouble().is_none();
    let writing = shared.log.writing_trouble().is_none();
    let summary = shared.counters.summary();
    let status = if writable {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let word = |good: bool| if good { "ok" } else { "failing" };
    json_response(
        status,
        &json!({
            "status": word(writable && publishing && writing && summary.unrecorded == 0),
            "log": {
                "appending": word(writable),
                "publishing": word(publishing),
                // The run's own entries: ends of epochs and signs of life.
                "own_entries": word(writing),
            },
            "requests": summary.requests,
            "responses": summary.responses,
            "responses_pending": summary.pending,
            "responses_lost": summary.unrecorded,
        }),
    )
}

/// Where a request goes, if it may go there.
fn route(
    shared: &Shared,
    connection: &Connection,
    parts: &request::Parts,
) -> Result<Routed, Refusal> {
    // HTTP/1.0 knows no chunks: there a client can't tell an answer that was cut from a whole one.
    if parts.version != Version::HTTP_11 && parts.version != Version::HTTP_2 {
        return Err(Refusal::new(
            Code::VersionUnsupported,
            "only HTTP/1.1 and HTTP/2 are spoken here",
        ));
    }
    if parts.method == Method::CONNECT || parts.headers.contains_key(header::UPGRADE) {
        return Err(Refusal::new(
            Code::UpgradeUnsupported,
            "WebSockets, tunnels and other protocols can't be recorded, so they are not passed on",
        ));
    }
    let first = parts.version == Version::HTTP_11;
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let authority = parts.uri.authority().map(Authority::as_str);
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host),
        // RFC 9113 §8.3.1: there it is in the pseudo-header.
        (None, None) if !first && authority.is_some() => None,
        _ => {
            return Err(Refusal::new(
                Code::BadRequest,
                "a request has one host header",
            ));
        }
    };
    if let Some(expect) = parts.headers.get(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Refusal::new(
            Code::ExpectationFailed,
            "only 100-continue can be expected",
        ));
    }
    // RFC 9112 §3.2.2: in absolute form the authority counts, and the host header doesn't. In HTTP/2 they may not differ.
    let named = host.and_then(|host| host.to_str().ok());
    if !first && named.is_some() && named != authority {
        return Err(Refusal::new(
            Code::BadRequest,
            "the host header and the authority name different hosts",
        ));
    }
    let host = authority.or(named).unwrap_or_default();
    let ours = AuditHeaders::of(&parts.headers)?;
    if let Some(intercepted) = &connection.intercepted {
        return through(intercepted, host, parts, ours);
    }
    if first && parts.uri.scheme().is_some() {
        let intercepted = door::plain(shared, &parts.uri)?;
        return through(&intercepted, host, parts, ours);
    }
    let path = parts.uri.path();
    let named = shared.config.upstreams.iter().find(|(_, upstream)| {
        authority_host(host).is_some_and(|host| upstream.hosts.iter().any(|h| h.matches(&host)))
    });
    let (name, upstream, rest) = if let Some((name, upstream)) = named {
        (name, upstream, path.strip_prefix('/').unwrap_or(path))
    } else {
        let (name, rest) = path
            .strip_prefix('/')
            .map(|p| p.split_once('/').unwrap_or((p, "")))
            .ok_or_else(|| unknown_upstream(shared))?;
        let (name, upstream) = shared
            .config
            .upstreams
            .get_key_value(name)
            .ok_or_else(|| unknown_upstream(shared))?;
        (name, upstream, rest)
    };
    // A dot segment could climb out of the upstream's base path.
    if rest.split(['/', '\\']).any(is_dot_segment) {
        return Err(Refusal::new(Code::BadRequest, "the path has dot segments"));
    }
    let query = parts
        .uri
        .query()
        .map(|q| format!("?{q}"))
        .unwrap_or_default();
    let path_and_query = format!("{}/{rest}{query}", upstream.path);
    Ok(Routed {
        name: name.clone(),
        target: target(upstream, &path_and_query)?,
        upstream: upstream.clone(),
        ours,
        point: Point::ReverseProxy,
    })
}

/// A request that comes as if to the provider itself: nothing of its path is changed.
fn through(
    intercepted: &Intercepted,
    host: &str,
    parts: &request::Parts,
    ours: AuditHeaders,
) -> Result<Routed, Refusal> {
    let upstream = &intercepted.upstream;
    // Whoever asks for one host and names another would be recorded at the wrong one.
    if authority_host(host).as_deref() != Some(upstream.host_name()) {
        return Err(Refusal::new(
            Code::Misdirected,
            "the host header names another host than the connection was made for",
        ));
    }
    let path_and_query = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    Ok(Routed {
        name: upstream.host_name().to_owned(),
        target: target(upstream, path_and_query)?,
        upstream: upstream.clone(),
        ours: ours.or(&intercepted.ours),
        point: Point::InterceptingProxy,
    })
}

fn target(upstream: &Upstream, path_and_query: &str) -> Result<Uri, Refusal> {
    Uri::builder()
        .scheme(upstream.scheme.clone())
        .authority(upstream.authority.clone())
        .path_and_query(path_and_query)
        .build()
        .map_err(|_e| Refusal::new(Code::BadRequest, "the path can't be passed on"))
}

/// The host of an authority, as patterns compare it.
fn authority_host(authority: &str) -> Option<String> {
    let authority: Authority = authority.parse().ok()?;
    host_name(authority.host())
}

fn unknown_upstream(shared: &Shared) -> Refusal {
    let known: Vec<String> = shared
        .config
        .upstreams
        .keys()
        .map(|name| format!("/{name}/"))
        .collect();
    Refusal::new(
        Code::UnknownUpstream,
        format!("the path must begin with one of: {}", known.join(", ")),
    )
}

/// `.` or `..`, with `%2e` for any dot (WHATWG URL, "double-dot path segment").
fn is_dot_segment(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

/// The whole body, within its limits.
async fn read(shared: &Shared, headers: &HeaderMap, body: Incoming) -> Result<Bytes, Refusal> {
    let limits = &shared.config.limits;
    let bytes_max = limits.request_body_bytes_max;
    let too_large = || {
        Refusal::new(
            Code::RequestTooLarge,
            format!("a request's body may have {bytes_max} bytes"),
        )
        .closing()
    };
    let announced = headers.get(header::CONTENT_LENGTH).map(HeaderValue::to_str);
    if let Some(Ok(length)) = announced
        && length.trim().parse().is_ok_and(|n: usize| n > bytes_max)
    {
        return Err(too_large());
    }
    let late = || {
        Refusal::new(
            Code::RequestTimeout,
            "the request's body did not come in time",
        )
    };
    let reading = async {
        let mut body = body;
        let mut bytes = BytesMut::new();
        while let Some(frame) = timeout(limits.request_idle_timeout, body.frame())
            .await
            .map_err(|_e| late())?
        {
            let frame = frame
                .map_err(|_e| Refusal::new(Code::BadRequest, "the request's body broke off"))?;
            if let Ok(data) = frame.into_data() {
                if data.len() > bytes_max - bytes.len() {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&data);
            }
        }
        Ok(bytes.freeze())
    };
    timeout(limits.request_body_timeout, reading)
        .await
        .map_err(|_e| late())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_seen_in_every_spelling() {
        for bad in [".", "..", "%2e", "%2E%2e", ".%2E"] {
            assert!(is_dot_segment(bad), "{bad}");
        }
        for good in ["", "...", "v1", ".well-known", "a..b", "%2e%2e%2e"] {
            assert!(!is_dot_segment(good), "{good}");
        }
    }
}
