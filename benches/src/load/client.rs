//! The client that measures.

use std::net::SocketAddr;
use std::time::Duration;

use audit_core::time::{Clock as _, System};
use audit_testkit::time::TestIds;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Result;
use crate::load::provider::{BYTES, PAUSE_US, PIECES, prose};

/// A call, as it goes to the provider itself.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Header lines without those of the connection.
    pub headers: HeaderMap,
    /// For the gateway only.
    pub session: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Call {
    /// A chat completion with a body of about `bytes` bytes, which asks for an answer of as many.
    pub fn chat(text: &TestIds, bytes: usize) -> Result<Self> {
        const HEAD: &str = r#"{"model":"model-large-4","messages":[{"role":"user","content":""#;
        const TAIL: &str = r#""}]}"#;
        let prose = prose(text, bytes.saturating_sub(HEAD.len() + TAIL.len()));
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("accept", "application/json"),
            ("user-agent", "OpenAI/Python 1.99.0"),
            ("x-stainless-lang", "python"),
            ("x-stainless-package-version", "1.99.0"),
            ("x-stainless-os", "Linux"),
            ("x-stainless-runtime", "CPython"),
            ("x-stainless-retry-count", "0"),
        ] {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            AUTHORIZATION,
            HeaderValue::from_static("Bearer sk-bench-0123456789"),
        );
        headers.insert(BYTES, HeaderValue::from(bytes));
        Ok(Self {
            method: Method::POST,
            target: "/v1/chat/completions".to_owned(),
            headers,
            session: None,
            body: Bytes::from([HEAD, &prose, TAIL].concat()),
        })
    }

    /// The same, with an answer that is a stream.
    pub fn streamed(text: &TestIds, pieces: u64, pause: Duration) -> Result<Self> {
        let mut call = Self::chat(text, 1024)?;
        let body = call.body.strip_suffix(b"}").unwrap_or(&call.body);
        call.body = Bytes::from([body, br#","stream":true}"#].concat());
        call.headers.insert(PIECES, HeaderValue::from(pieces));
        let pause = u64::try_from(pause.as_micros())?;
        call.headers.insert(PAUSE_US, HeaderValue::from(pause));
        Ok(call)
    }

    /// Bytes of the request's head and body, without what is for the gateway only.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        let line = self.method.as_str().len() + self.target.len() + "  HTTP/1.1\r\n".len();
        // Host and length are set with the connection.
        let length = format!("content-length: {}\r\n", self.body.len()).len();
        let host = "host: 127.0.0.1:65535\r\n".len();
        line as u64 + (length + host) as u64 + head_bytes(&self.headers) + self.body.len() as u64
    }
}

/// Header lines and the empty line.
fn head_bytes(headers: &HeaderMap) -> u64 {
    let lines = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    lines.sum::<usize>() as u64 + 2
}

/// Where calls go.
#[derive(Debug, Clone)]
pub struct Way {
    /// What it is called.
    pub name: &'static str,
    /// Who listens.
    pub address: SocketAddr,
    /// Before each path.
    pub prefix: String,
}

/// How an answer came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Of the answer.
    pub status: u16,
    /// Bytes of head and body.
    pub raw_bytes: u64,
    /// From the request to the first byte of the body.
    pub first: Duration,
    /// From the request to the end of the body.
    pub whole: Duration,
    /// Between pieces of the body.
    pub gaps: Vec<Duration>,
    /// Whether the fake provider had no recording of the request.
    pub missed: bool,
}

/// A connection that is kept.
#[derive(Debug)]
pub struct Caller {
    sender: http1::SendRequest<Full<Bytes>>,
    way: Way,
}

impl Caller {
    /// Connects.
    pub async fn connect(way: &Way) -> Result<Self> {
        let stream = TcpStream::connect(way.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // How a connection ends shows in its calls.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self {
            sender,
            way: way.clone(),
        })
    }

    /// Makes a call, and reads its answer to the end.
    pub async fn call(&mut self, call: &Call) -> Result<Answer> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = format!("{}{}", self.way.prefix, call.target).parse()?;
        *request.headers_mut() = call.headers.clone();
        let host = HeaderValue::from_str(&self.way.address.to_string())?;
        request.headers_mut().insert(HOST, host);
        request
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(call.body.len()));
        if let Some(session) = &call.session {
            request
                .headers_mut()
                .insert("x-audit-session", HeaderValue::from_str(session)?);
        }
        self.sender.ready().await?;
        let started = System.monotonic_micros();
        let since = || Duration::from_micros(System.monotonic_micros().saturating_sub(started));
        let response = self.sender.send_request(request).await?;
        let (parts, mut body) = response.into_parts();
        let (mut times, mut bytes) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data()
                && !data.is_empty()
            {
                times.push(since());
                bytes += data.len() as u64;
            }
        }
        let whole = since();
        if let Some(code) = parts.headers.get("x-audit-error") {
            return Err(format!("the gateway refused a call: {code:?}").into());
        }
        Ok(Answer {
            status: parts.status.as_u16(),
            raw_bytes: "HTTP/1.1 200 OK\r\n".len() as u64 + head_bytes(&parts.headers) + bytes,
            first: times.first().copied().unwrap_or(whole),
            whole,
            gaps: times
                .windows(2)
                .filter_map(|pair| pair.last()?.checked_sub(*pair.first()?))
                .collect(),
            missed: parts.headers.contains_key("x-fixture-miss"),
        })
    }

    /// The same, of a call that can't fail but by a defect.
    pub async fn succeed(&mut self, call: &Call) -> Result<Answer> {
        let answer = self.call(call).await?;
        if answer.status == 200 {
            Ok(answer)
        } else {
            Err(format!("{} answered {}", self.way.name, answer.status).into())
        }
    }
}
