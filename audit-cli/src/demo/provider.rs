//! A provider on loopback that plays one short conversation: enough of two wire formats to look like the real ones.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::error::Result;

type Body = BoxBody<Bytes, Infallible>;

pub(super) struct Provider {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Provider {
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn stop(self) {
        self.task.abort();
    }
}

pub(super) async fn start() -> Result<Provider> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .await;
                // A client that goes away ends its connection; there is nobody to tell.
                drop(served);
            });
        }
    });
    Ok(Provider { address, task })
}

async fn answer(request: Request<Incoming>) -> std::result::Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    Ok(match (&head.method, head.uri.path()) {
        (&Method::POST, "/v1/chat/completions") => stream(chat(&asked)),
        (&Method::POST, "/v1/messages") => whole(StatusCode::OK, &message()),
        _ => whole(
            StatusCode::NOT_FOUND,
            &json!({"error": {"message": "unknown path", "type": "invalid_request_error", "param": null, "code": null}}),
        ),
    })
}

fn whole(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(
        "content-type",
        hyper::header::HeaderValue::from_static("application/json"),
    );
    response.headers_mut().insert(
        "request-id",
        hyper::header::HeaderValue::from_static("req_demo_1"),
    );
    response
}

/// Server-sent events, one chunk each, a little apart as a model would send them.
fn stream(events: Vec<String>) -> Response<Body> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        for event in events {
            tokio::time::sleep(Duration::from_millis(15)).await;
            if sender.send(Bytes::from(event)).await.is_err() {
                return;
            }
        }
    });
    let frames = futures(move |cx| {
        receiver
            .poll_recv(cx)
            .map(|c| c.map(|bytes| Ok(Frame::data(bytes))))
    });
    let mut response = Response::new(http_body_util::BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert(
        "content-type",
        hyper::header::HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    response
}

fn chunk(delta: &Value, finish: Option<&str>) -> String {
    let chunk = json!({
        "id": "chatcmpl-demo-1", "object": "chat.completion.chunk", "created": 1_760_000_000,
        "model": "gpt-demo-2026-01-01",
        "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}],
    });
    format!("data: {chunk}\n\n")
}

/// First a tool call, and once its result is in the conversation, the answer.
fn chat(asked: &Value) -> Vec<String> {
    let last_role = asked["messages"]
        .as_array()
        .and_then(|m| m.last())
        .map(|m| m["role"].clone());
    let mut events = Vec::new();
    if last_role == Some(json!("tool")) {
        events.push(chunk(&json!({"role": "assistant", "content": ""}), None));
        for word in [
            "The next dose ",
            "is due ",
            "at 14:00; ",
            "a nurse must ",
            "confirm it.",
        ] {
            events.push(chunk(&json!({"content": word}), None));
        }
        events.push(chunk(&json!({}), Some("stop")));
    } else {
        events.push(chunk(
            &json!({"role": "assistant", "content": null, "tool_calls": [{"index": 0, "id": "call_demo_1",
                "type": "function", "function": {"name": "medication_schedule", "arguments": ""}}]}),
            None,
        ));
        for piece in ["{\"patient\":", "\"P-17\"}"] {
            events.push(chunk(
                &json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}),
                None,
            ));
        }
        events.push(chunk(&json!({}), Some("tool_calls")));
    }
    let usage = json!({
        "id": "chatcmpl-demo-1", "object": "chat.completion.chunk", "created": 1_760_000_000,
        "model": "gpt-demo-2026-01-01", "choices": [],
        "usage": {"prompt_tokens": 57, "completion_tokens": 19, "total_tokens": 76},
    });
    events.push(format!("data: {usage}\n\n"));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn message() -> Value {
    json!({
        "id": "msg_demo_1", "type": "message", "role": "assistant", "model": "claude-demo-2026-01-01",
        "content": [{"type": "text", "text": "The answer matches the schedule."}],
        "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {"input_tokens": 41, "output_tokens": 9},
    })
}

/// A stream from a poll function; one such function isn't worth a crate.
fn futures<T, F>(poll: F) -> PollFn<F>
where
    F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>>,
{
    PollFn(poll)
}

struct PollFn<F>(F);

impl<T, F> futures_core::Stream for PollFn<F>
where
    F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin,
{
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        (self.0)(cx)
    }
}
