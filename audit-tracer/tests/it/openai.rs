//! The real `async-openai`, through its own hook.

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::middleware::HttpRequestFactory;
use async_openai::middleware::retry::OpenAIRetryLayer;
use async_openai::types::chat::{
    ChatCompletionRequestUserMessage, CreateChatCompletionRequest, CreateChatCompletionRequestArgs,
};
use audit_core::event::Event;
use audit_tracer::{AuditTracer, Error};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use futures_util::StreamExt as _;
use std::sync::{Arc, Mutex};

use crate::support::{Service, events, http_client, start_faulty};

const WHOLE: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-5-1","choices":[{"index":0,"finish_reason":"stop","logprobs":null,"message":{"role":"assistant","content":"Guten Tag","refusal":null}}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;

fn stream() -> String {
    let piece = |content: &str, reason: &str| {
        format!(
            "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-5-1\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{content}}},\"finish_reason\":{reason}}}]}}

"
        )
    };
    [
        piece("\"Guten\"", "null"),
        piece("\" Tag\"", "null"),
        piece("null", "\"stop\""),
        "data: [DONE]

"
        .to_owned(),
    ]
    .concat()
}

#[derive(Clone, Default)]
struct Model {
    bodies: Arc<Mutex<Vec<Bytes>>>,
    /// How many requests are answered with 503 first.
    busy: Arc<Mutex<usize>>,
}

async fn completions(State(model): State<Model>, body: Bytes) -> Response {
    let streamed = body.windows(13).any(|w| w == b"\"stream\":true");
    model.bodies.lock().unwrap().push(body);
    {
        let mut busy = model.busy.lock().unwrap();
        if *busy > 0 {
            *busy -= 1;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
    }
    if !streamed {
        return ([("content-type", "application/json")], WHOLE).into_response();
    }
    let bytes: Vec<_> = stream().bytes().map(|b| Ok::<_, Error>(vec![b])).collect();
    let body = Body::from_stream(futures_util::stream::iter(bytes));
    ([("content-type", "text/event-stream")], body).into_response()
}

async fn serve(model: Model) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/v1/chat/completions", post(completions));
    let router = router.with_state(model);
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/v1")
}

/// The service that `with_http_service` takes: what builds a request, then the recorded client.
fn client(tracer: &AuditTracer, base: &str) -> Client<OpenAIConfig> {
    let recorded = tracer.wrap_client(http_client());
    let service = tower::service_fn(move |request: HttpRequestFactory| {
        let recorded = recorded.clone();
        async move {
            let sent = recorded.execute(request.build().await?).await;
            sent.map_err(|error| OpenAIError::Boxed(error.into()))
        }
    });
    // The retries that the crate makes by itself, each of them recorded.
    let service = tower::ServiceBuilder::new()
        .layer(OpenAIRetryLayer::default())
        .service(service);
    let config = OpenAIConfig::new()
        .with_api_base(base)
        .with_api_key("sk-secret");
    Client::with_config(config).with_http_service(service)
}

fn request() -> CreateChatCompletionRequest {
    CreateChatCompletionRequestArgs::default()
        .model("gpt-5")
        .messages([ChatCompletionRequestUserMessage::from("hi").into()])
        .build()
        .unwrap()
}

async fn ended(tracer: AuditTracer) -> Vec<Event> {
    let reader = tracer.reader();
    tracer.close().await.unwrap();
    let events = events(&reader).await;
    assert!(!format!("{events:?}").contains("sk-secret"));
    events
}

#[tokio::test]
async fn a_whole_and_a_streamed_answer_are_recorded_byte_for_byte() {
    let service = Service::new();
    let tracer = service.start().await;
    let model = Model::default();
    let client = client(&tracer, &serve(model.clone()).await);
    let answer = client.chat().create(request()).await.unwrap();
    assert_eq!(
        answer.choices[0].message.content.as_deref(),
        Some("Guten Tag")
    );
    let mut pieces = client.chat().create_stream(request()).await.unwrap();
    let mut text = String::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.unwrap();
        text += piece.choices[0]
            .delta
            .content
            .as_deref()
            .unwrap_or_default();
    }
    assert_eq!(text, "Guten Tag");
    drop(pieces);

    let events = ended(tracer).await;
    let kinds: Vec<_> = events.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(kinds, ["llm.request", "llm.response"].repeat(2));
    let sent = model.bodies.lock().unwrap();
    for (asked, sent) in [(&events[0], &sent[0]), (&events[2], &sent[1])] {
        assert_eq!(asked.payloads[0].bytes, sent.as_ref());
        assert_eq!(asked.attributes["gen_ai.request.model"], "gpt-5");
        assert_eq!(
            asked.attributes["audit.credential"][0]["header"],
            "authorization"
        );
    }
    assert_eq!(events[1].payloads[0].bytes, WHOLE.as_bytes());
    assert_eq!(events[1].attributes["gen_ai.usage.input_tokens"], 3);
    assert_eq!(events[3].payloads[0].bytes, stream().as_bytes());
    assert_eq!(events[3].attributes["audit.outcome"], "complete");
    assert_eq!(events[3].attributes["audit.response.complete"], true);
}

#[tokio::test]
async fn every_attempt_is_recorded_and_without_the_log_there_is_none() {
    let service = Service::new();
    let (tracer, store) = start_faulty(&service).await;
    let model = Model::default();
    *model.busy.lock().unwrap() = 1;
    let client = client(&tracer, &serve(model.clone()).await);
    client.chat().create(request()).await.unwrap();
    store.fail_times(
        audit_testkit::forward::Call::Append,
        0,
        u64::MAX,
        audit_testkit::faulty::Fault::Before,
        audit_tracer::ErrorKind::Unavailable,
    );
    let error = client.chat().create(request()).await.unwrap_err();
    assert!(error.to_string().contains("was not sent"), "{error}");
    store.heal();
    assert_eq!(model.bodies.lock().unwrap().len(), 2);
    let events = ended(tracer).await;
    let status: Vec<_> = events
        .iter()
        .filter_map(|e| e.attributes.get("http.response.status_code"))
        .collect();
    assert_eq!(status, [503, 200]);
}
