//! The client's side: which requests are taken, and which are refused before anything happens.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::http::request;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::body::Body;
use crate::config::Upstream;
use crate::counters::up;
use crate::exchange::{self, Asked};
use crate::headers::AuditHeaders;
use crate::refusal::{Code, Refusal, json_response};
use crate::serving::Begun;
use crate::shared::Shared;

/// Where the gateway answers for itself.
const HEALTH: &str = "/-/health";

/// One connection of a client.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    /// Names the session of requests that name none.
    session: OnceLock<String>,
    /// For the task that serves it.
    pub(crate) begun: Begun,
}

/// Answers one request. If the client leaves, hyper drops this; what has been handed to the exchange goes on.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    alive: mpsc::WeakSender<()>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if request.uri().path() == HEALTH {
        return Ok(health(&shared, request.method()));
    }
    let (parts, body) = request.into_parts();
    let stopping = || Refusal::new(Code::Stopping, "the gateway is being stopped");
    // From here on the gateway doesn't end before this request.
    let Some(alive) = alive.upgrade() else {
        return Ok(refuse(&shared, stopping(), false));
    };
    let routed = route(&shared, &parts);
    let (name, upstream, target, ours) = match routed {
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
        body,
    };
    let (reply, replied) = oneshot::channel();
    let exchange = exchange::run(Arc::clone(&shared), alive, asked, reply);
    connection.begun.push(Box::pin(exchange));
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
    parts: &request::Parts,
) -> Result<(String, Upstream, Uri, AuditHeaders), Refusal> {
    // HTTP/1.0 knows no chunks: there a client can't tell an answer that was cut from a whole one.
    if parts.version != Version::HTTP_11 {
        return Err(Refusal::new(
            Code::VersionUnsupported,
            "only HTTP/1.1 is spoken here",
        ));
    }
    if parts.method == Method::CONNECT || parts.headers.contains_key(header::UPGRADE) {
        return Err(Refusal::new(
            Code::UpgradeUnsupported,
            "WebSockets, tunnels and other protocols can't be recorded, so they are not passed on",
        ));
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    if hosts.next().is_none() || hosts.next().is_some() {
        return Err(Refusal::new(
            Code::BadRequest,
            "a request has one host header",
        ));
    }
    if let Some(expect) = parts.headers.get(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Refusal::new(
            Code::ExpectationFailed,
            "only 100-continue can be expected",
        ));
    }
    let path = parts.uri.path();
    let Some((name, rest)) = path
        .strip_prefix('/')
        .map(|p| p.split_once('/').unwrap_or((p, "")))
    else {
        return Err(unknown_upstream(shared));
    };
    let upstream = shared
        .config
        .upstreams
        .get(name)
        .ok_or_else(|| unknown_upstream(shared))?;
    // A dot segment could climb out of the upstream's base path.
    if rest.split(['/', '\\']).any(is_dot_segment) {
        return Err(Refusal::new(Code::BadRequest, "the path has dot segments"));
    }
    let ours = AuditHeaders::of(&parts.headers)?;
    let query = parts
        .uri
        .query()
        .map(|q| format!("?{q}"))
        .unwrap_or_default();
    let target = Uri::builder()
        .scheme(upstream.scheme.clone())
        .authority(upstream.authority.clone())
        .path_and_query(format!("{}/{rest}{query}", upstream.path))
        .build()
        .map_err(|_e| Refusal::new(Code::BadRequest, "the path can't be passed on"))?;
    Ok((name.to_owned(), upstream.clone(), target, ours))
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
