//! Calls of a model that the service makes itself.

use audit_tracer::{CallOutcome, CallRequest, CallResponse, Media};
use serde_json::json;

use crate::support::{Service, events};

const ASKED: &[u8] =
    br#"{"model":"gpt-5","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

fn headers(content_type: &str) -> Vec<(String, Vec<u8>)> {
    let pair = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    vec![
        pair("content-type", content_type),
        pair("x-request-id", "req-1"),
        pair("set-cookie", "secret=1"),
    ]
}

#[tokio::test]
async fn request_and_answer_are_recorded_byte_for_byte_with_their_facts() {
    let service = Service::new();
    let tracer = service.start().await;
    let session = tracer.audit_session().await.unwrap();
    let target = "/v1/chat/completions?api_key=sk-secret&v=2";
    let call = session
        .request(CallRequest::new("openai", target, ASKED))
        .await
        .unwrap();
    let request = call.receipt().clone();
    assert!(
        tracer.reader().size().await.unwrap() > request.index,
        "not durable yet"
    );
    let stream = b"data: {\"model\":\"gpt-5-1\",\"choices\":[{\"delta\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    call.response(CallResponse::new(200, headers("text/event-stream"), stream))
        .await
        .unwrap();

    let call = session
        .request(CallRequest::new("openai", target, ASKED))
        .await;
    call.unwrap().failed("timeout").await.unwrap();

    let call = session
        .request(CallRequest::new("openai", target, ASKED))
        .await;
    let mut cut = CallResponse::new(200, headers("text/event-stream"), &stream[..40]);
    cut.outcome = CallOutcome::UpstreamCut;
    call.unwrap().response(cut).await.unwrap();

    session.close().await.unwrap();
    let reader = tracer.reader();
    tracer.close().await.unwrap();
    let events = events(&reader).await;
    let kinds: Vec<&str> = events.iter().map(|e| e.kind.as_str()).collect();
    let pair = ["llm.request", "llm.response"];
    assert_eq!(kinds[1..7], pair.repeat(3));
    let asked = &events[1];
    assert_eq!(asked.payloads[0].bytes, ASKED);
    assert_eq!(asked.payloads[0].media, Media::Json);
    assert_eq!(asked.attributes["gen_ai.request.model"], "gpt-5");
    assert_eq!(asked.attributes["url.path"], "/v1/chat/completions");
    assert_eq!(asked.refs["model_id"], "gpt-5");
    let answered = &events[2];
    assert_eq!(answered.payloads[0].bytes, stream);
    assert_eq!(answered.payloads[0].media, Media::EventStream);
    assert_eq!(answered.attributes["gen_ai.response.model"], "gpt-5-1");
    assert_eq!(answered.attributes["audit.outcome"], "complete");
    assert_eq!(answered.attributes["audit.response.complete"], true);
    let correlation = answered.correlation.as_ref().unwrap();
    assert_eq!(correlation.parent_event, Some(request.event));
    assert_eq!(correlation.provider_request_id.as_deref(), Some("req-1"));
    assert_eq!(events[4].attributes["audit.outcome"], "error");
    assert_eq!(events[4].attributes["error.type"], "timeout");
    assert_eq!(events[6].attributes["audit.outcome"], "cut_by_provider");
    assert_eq!(events[6].attributes["audit.response.complete"], false);
    assert_eq!(events[7].attributes["audit.session.events"], 6);
    for event in &events {
        let text = json!(event.attributes).to_string();
        assert!(
            !text.contains("secret"),
            "a credential is in the record: {text}"
        );
    }
}
