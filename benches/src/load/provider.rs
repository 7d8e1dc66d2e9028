//! A provider that costs next to nothing: it answers at once, with an answer made for the request.
//!
//! Python's fake provider needs half a millisecond for a call and has the recorded traffic; this one is for latency.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use audit_testkit::time::TestIds;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::{Sleep, sleep};

use crate::Result;

/// Bytes of an answer's body; without it 1,024.
pub const BYTES: &str = "x-bench-bytes";
/// How many pieces a stream has; without it the answer isn't one.
pub const PIECES: &str = "x-bench-pieces";
/// Microseconds between two pieces.
pub const PAUSE_US: &str = "x-bench-pause-us";

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener) -> Result<()> {
    let text = Arc::new(TestIds::new(3));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let text = Arc::clone(&text);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&text, request));
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // A client that leaves is no concern of the provider's.
            drop(serving.await);
        });
    }
}

/// Serves on a thread of its own for as long as the process lives.
pub fn in_thread() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        runtime.block_on(async { serve(TcpListener::from_std(listener)?).await })
    });
    Ok(address)
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

async fn answer(
    text: &TestIds,
    request: Request<Incoming>,
) -> std::result::Result<Response<Answer>, Infallible> {
    let (parts, body) = request.into_parts();
    // A request that breaks off has nobody left to hear of it.
    drop(body.collect().await);
    let id = text.number();
    let (body, media) = if let Some(pieces) = number(&parts.headers, PIECES) {
        let stream = Answer::Stream {
            id,
            left: pieces,
            pause: Duration::from_micros(number(&parts.headers, PAUSE_US).unwrap_or(0)),
            waiting: None,
        };
        (stream, "text/event-stream; charset=utf-8")
    } else {
        let bytes = number(&parts.headers, BYTES).unwrap_or(1024);
        let bytes = usize::try_from(bytes).unwrap_or(1024);
        let whole = Answer::Whole(Some(whole(text, id, bytes)));
        (whole, "application/json")
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert("openai-version", HeaderValue::from_static("2020-10-01"));
    headers.insert("openai-processing-ms", HeaderValue::from(id % 900));
    headers.insert(
        "x-ratelimit-limit-requests",
        HeaderValue::from_static("10000"),
    );
    headers.insert(
        "x-ratelimit-remaining-requests",
        HeaderValue::from(id % 10_000),
    );
    if let Ok(value) = HeaderValue::from_str(&format!("req_{id:016x}")) {
        headers.insert("x-request-id", value);
    }
    Ok(response)
}

/// An answer to a chat completion of about so many bytes.
fn whole(text: &TestIds, id: u64, bytes: usize) -> Bytes {
    let mut json = format!(
        r#"{{"id":"chatcmpl-{id:016x}","object":"chat.completion","created":1767323045,"model":"model-large-4","choices":[{{"index":0,"message":{{"role":"assistant","content":""#
    );
    let end = format!(
        r#""}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{}}}}}"#,
        id % 900,
        bytes / 5,
        id % 900 + bytes as u64 / 5
    );
    json.push_str(&prose(text, bytes.saturating_sub(json.len() + end.len())));
    json.push_str(&end);
    Bytes::from(json)
}

/// Words drawn from a list, biased towards its front: compresses about as prose does.
#[must_use]
pub fn prose(ids: &TestIds, bytes: usize) -> String {
    const WORDS: [&str; 48] = [
        "the",
        "of",
        "and",
        "to",
        "in",
        "is",
        "was",
        "for",
        "that",
        "with",
        "patient",
        "report",
        "since",
        "after",
        "dose",
        "doctor",
        "between",
        "pressure",
        "morning",
        "please",
        "history",
        "should",
        "treatment",
        "without",
        "evening",
        "hospital",
        "result",
        "blood",
        "which",
        "there",
        "about",
        "before",
        "under",
        "weeks",
        "days",
        "allergic",
        "reaction",
        "therefore",
        "check",
        "family",
        "letter",
        "insurance",
        "number",
        "question",
        "answer",
        "possible",
        "discharge",
        "symptom",
    ];
    let mut text = String::new();
    while text.len() < bytes {
        let number = ids.number();
        let at = ((number & 0xff) * (number >> 32 & 0xff) * WORDS.len() as u64) >> 16;
        let word = usize::try_from(at).ok().and_then(|at| WORDS.get(at));
        text.push_str(word.unwrap_or(&"and"));
        text.push(' ');
        if number >> 60 == 0 {
            text.push_str(&(number >> 40 & 0xffff).to_string());
            text.push(' ');
        }
    }
    text.truncate(bytes);
    text
}

/// The body of an answer.
#[derive(Debug)]
enum Answer {
    Whole(Option<Bytes>),
    Stream {
        id: u64,
        left: u64,
        pause: Duration,
        waiting: Option<Pin<Box<Sleep>>>,
    },
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream {
                id,
                left,
                pause,
                waiting,
            } => {
                if *left == 0 {
                    return Poll::Ready(None);
                }
                if let Some(waiting) = waiting {
                    ready!(waiting.as_mut().poll(cx));
                }
                *waiting = Some(Box::pin(sleep(*pause)));
                *left -= 1;
                let piece = if *left == 0 {
                    "data: [DONE]\n\n".to_owned()
                } else {
                    format!(
                        "data: {{\"id\":\"chatcmpl-{id:016x}\",\"object\":\"chat.completion.chunk\",\"created\":1767323045,\"model\":\"model-large-4\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word {left}\"}},\"finish_reason\":null}}]}}\n\n"
                    )
                };
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(piece)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Self::Stream { .. } => SizeHint::default(),
        }
    }
}
