//! The service: a question goes to a model, and both sides of the call are in the log before the asker has the answer.
//!
//! | route | does |
//! |---|---|
//! | `POST /ask` | `{"session":"…","question":"…"}` → the answer, and the receipts of request and response |
//! | `GET /proof/{id}` | the proof that the event is in the log, under a signed checkpoint |

use std::fmt;
use std::sync::Arc;

use audit_capture::{
    Outcome, RequestHead, ResponseHead, ResponseParser, add_facts, detect, request_facts,
};
use audit_core::event::{
    Actor, ActorKind, Capture, Correlation, Event, Guarantee, Kind, Media, Payload,
};
use audit_core::log::{Log, Receipt};
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// Bytes of an answer that are taken.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
const PATH: &str = "/v1/chat/completions";

/// Where the model is.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The base URL of an OpenAI-compatible API, such as `http://127.0.0.1:11434`. Plain HTTP: for an API behind TLS, go
    /// through `audit-trail serve`, or give the client another connector.
    pub base: String,
    /// The model that is asked.
    pub model: String,
}

struct Service {
    log: Log,
    upstream: Upstream,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// The routes.
pub fn router(log: Log, upstream: Upstream) -> Router {
    let client = Client::builder(TokioExecutor::new()).build_http();
    Router::new()
        .route("/ask", post(ask))
        .route("/proof/{id}", get(proof))
        .with_state(Arc::new(Service {
            log,
            upstream,
            client,
        }))
}

#[derive(Deserialize)]
struct Question {
    session: String,
    question: String,
}

#[derive(Serialize)]
struct Answer {
    answer: String,
    request: Recorded,
    response: Recorded,
}

/// Where an event stands, and where its proof will be.
#[derive(Serialize)]
struct Recorded {
    event: Uuid,
    index: u64,
    leaf_hash: String,
    proof: String,
}

impl From<Receipt> for Recorded {
    fn from(receipt: Receipt) -> Self {
        Self {
            event: receipt.event,
            index: receipt.index,
            leaf_hash: receipt.leaf_hash.to_string(),
            proof: format!("/proof/{}", receipt.event),
        }
    }
}

async fn ask(
    State(service): State<Arc<Service>>,
    Json(question): Json<Question>,
) -> Result<Json<Answer>, Failure> {
    // In a task of its own: an asker who leaves must not take the record of the answer along.
    tokio::spawn(async move { service.ask(question).await })
        .await
        .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, &e))?
        .map(Json)
}

async fn proof(
    State(service): State<Arc<Service>>,
    Path(id): Path<Uuid>,
) -> Result<Response, Failure> {
    let reader = service.log.reader();
    let index = reader
        .position(id)
        .await?
        .ok_or_else(|| audit_core::Error::not_found(format!("the log has no event {id}")))?;
    // `NotFound` too while no checkpoint commits to it: the publisher signs about once a second.
    let proof = reader.prove(index).await?;
    let entry = String::from_utf8_lossy(&reader.record(index).await?.bytes).into_owned();
    Ok(Json(json!({ "entry": entry, "tlog_proof": proof.to_string() })).into_response())
}

impl Service {
    async fn ask(&self, question: Question) -> Result<Answer, Failure> {
        let body = json!({
            "model": self.upstream.model,
            "messages": [{ "role": "user", "content": question.question }],
        })
        .to_string()
        .into_bytes();
        let api = detect(Some("openai"), None, "POST", PATH);
        let facts = request_facts(&api, &RequestHead::new("POST", PATH, vec![]), &body);

        let mut event = self.event("llm.request", &question.session)?;
        event.attributes.insert("url.path".to_owned(), json!(PATH));
        add_facts(&mut event, facts.refs(), facts.attributes());
        let payload = Payload::new("request.body", Media::Json, body.clone());
        event.payloads.push(payload);
        // The log can't be written: then nothing is asked.
        let request = self.log.append(event).await?;

        let called = self.call(body).await;
        let mut event = self.event("llm.response", &question.session)?;
        event.correlation = Some(Correlation {
            parent_event: Some(request.event),
            ..Correlation::default()
        });
        let (status, headers, answer) = match called {
            Ok(called) => called,
            Err(failure) => {
                // That there was no answer is recorded too.
                for (name, value) in [("audit.outcome", "error"), ("error.type", "upstream")] {
                    event.attributes.insert(name.to_owned(), json!(value));
                }
                self.log.append(event).await?;
                return Err(failure);
            }
        };
        let mut parser =
            ResponseParser::new(&api, &ResponseHead::new(status, headers), facts.stream);
        parser.push(&answer);
        let answered = parser.finish(Outcome::Complete);
        add_facts(&mut event, answered.refs(), answered.attributes());
        let payload = Payload::new("response.body", Media::Json, answer.to_vec());
        event.payloads.push(payload);
        let response = self.log.append(event).await?;
        if status >= 400 {
            let text = format!("the model's provider answered {status}");
            return Err(Failure::new(StatusCode::BAD_GATEWAY, &text));
        }
        Ok(Answer {
            answer: answered.text().to_owned(),
            request: request.into(),
            response: response.into(),
        })
    }

    fn event(&self, kind: &str, session: &str) -> audit_core::Result<Event> {
        let now = self.log.clock().now();
        let mut event = Event::new(self.log.ids().uuid_v7(now), now, Kind::new(kind)?);
        event.session_id = Some(session.to_owned());
        event.actor = Some(Actor::new(ActorKind::Service, "custom-service"));
        event.capture = Some(Capture {
            component: "custom-service".to_owned(),
            guarantee: Guarantee::Closed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        Ok(event)
    }

    async fn call(&self, body: Vec<u8>) -> Result<(u16, Vec<(String, Vec<u8>)>, Bytes), Failure> {
        let bad = |e: &dyn fmt::Display| Failure::new(StatusCode::BAD_GATEWAY, &e);
        let uri: Uri = format!("{}{PATH}", self.upstream.base)
            .parse()
            .map_err(|e| bad(&e))?;
        let request = Request::post(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| bad(&e))?;
        let response = self.client.request(request).await.map_err(|e| bad(&e))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let headers = parts.headers.iter();
        Ok((
            parts.status.as_u16(),
            headers
                .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                .collect(),
            body.map_err(|e| bad(&e))?.to_bytes(),
        ))
    }
}

/// What the asker is told.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    text: String,
}

impl Failure {
    fn new(status: StatusCode, text: &dyn fmt::Display) -> Self {
        Self {
            status,
            text: text.to_string(),
        }
    }
}

impl From<audit_core::Error> for Failure {
    fn from(e: audit_core::Error) -> Self {
        let status = match e.kind() {
            audit_core::ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            audit_core::ErrorKind::NotFound => StatusCode::NOT_FOUND,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, &e)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body: Value = json!({ "error": self.text });
        (self.status, Json(body)).into_response()
    }
}
