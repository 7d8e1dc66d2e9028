//! Clients whose exchanges are recorded, with real servers at the other end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use audit_core::event::{Event, Guarantee};
use audit_testkit::faulty::Fault;
use audit_testkit::forward::Call;
use audit_tracer::{Error, ErrorKind, Media};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::provider::{Provider, Step, body_of, chunk, last_chunk, stream_head, whole};
use crate::support::{Service, events, http_client, start_faulty};

const ASKED: &[u8] =
    br#"{"model":"gpt-5","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
const ANSWERED: &[u8] = br#"{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-5-1","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Hi"}}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#;
const STREAM: &[u8] = b"data: {\"model\":\"gpt-5-1\",\"choices\":[{\"delta\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
const CHAT: &str = "/v1/chat/completions";

fn of_kind<'e>(events: &'e [Event], kind: &str) -> Vec<&'e Event> {
    events.iter().filter(|e| e.kind.as_str() == kind).collect()
}

/// The answers in a log whose tracer is closed.
async fn answers(tracer: audit_tracer::AuditTracer) -> Vec<Event> {
    let reader = tracer.reader();
    tracer.close().await.unwrap();
    let events = events(&reader).await;
    let requests = of_kind(&events, "llm.request");
    let answers: Vec<Event> = of_kind(&events, "llm.response")
        .into_iter()
        .cloned()
        .collect();
    assert_eq!(requests.len(), answers.len(), "a request has no answer");
    answers
}

fn source<'e>(error: &'e (dyn std::error::Error + 'static)) -> &'e Error {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<Error>())
        .unwrap()
}

#[tokio::test]
async fn an_exchange_is_recorded_byte_for_byte_and_its_request_before_it_leaves() {
    let service = Service::new();
    let tracer = service.start().await;
    let provider = Provider::start(tracer.reader(), whole("application/json", ANSWERED)).await;
    let session = tracer.audit_session().await.unwrap();
    let client = session.wrap_client(http_client());
    let response = client
        .post(provider.url("/v1/chat/completions?api_key=sk-secret&v=2"))
        .header("authorization", "Bearer sk-secret")
        .header("content-type", "application/json")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .body(ASKED)
        .send()
        .await
        .unwrap();
    assert_eq!(response.url().path(), CHAT);
    assert_eq!(response.content_length(), Some(ANSWERED.len() as u64));
    assert_eq!(response.bytes().await.unwrap(), ANSWERED);
    // The last bytes are passed on when the record is durable, so it is there now.
    let now = events(&tracer.reader()).await;
    assert_eq!(now.last().unwrap().kind.as_str(), "llm.response");
    session.close().await.unwrap();
    tracer.close().await.unwrap();

    let seen = provider.seen.lock().unwrap();
    assert_eq!(seen.kinds, [["session.opened", "llm.request"]]);
    let (asked, answered) = (&now[1], &now[2]);
    assert_eq!(asked.payloads[0].bytes, body_of(&seen.requests[0]));
    assert_eq!(asked.payloads[0].bytes, ASKED);
    assert_eq!(asked.payloads[0].media, Media::Json);
    assert_eq!(answered.payloads.len(), 1);
    assert_eq!(answered.payloads[0].bytes, ANSWERED);
    for event in [asked, answered] {
        let capture = event.capture.as_ref().unwrap();
        assert_eq!(capture.component, "audit-tracer");
        assert_eq!(capture.guarantee, Guarantee::Closed);
        assert_eq!(event.attributes["audit.capture.point"], "client");
        assert_eq!(event.attributes["audit.upstream"], "127.0.0.1");
        assert_eq!(event.session_id, now[0].session_id);
        let correlation = event.correlation.as_ref().unwrap();
        assert_eq!(
            correlation.trace_id.as_deref(),
            Some("0af7651916cd43dd8448eb211c80319c")
        );
        let text = json!(event.attributes).to_string();
        assert!(!text.contains("secret"), "a credential: {text}");
    }
    let attributes = &asked.attributes;
    assert_eq!(attributes["gen_ai.request.model"], "gpt-5");
    assert_eq!(attributes["audit.api"], "chat");
    assert_eq!(attributes["url.path"], CHAT);
    assert_eq!(attributes["url.query"], "api_key=[redacted]&v=2");
    assert_eq!(attributes["server.port"], provider.address.port());
    let credentials = attributes["audit.credential"].as_array().unwrap();
    assert_eq!(credentials.len(), 2);
    assert_eq!(
        credentials[0]["fingerprint"], credentials[1]["fingerprint"],
        "one key has two fingerprints"
    );
    let correlation = answered.correlation.as_ref().unwrap();
    assert_eq!(correlation.parent_event, Some(asked.id));
    assert_eq!(correlation.provider_request_id.as_deref(), Some("req-7"));
    let attributes = &answered.attributes;
    assert_eq!(attributes["audit.outcome"], "complete");
    assert_eq!(attributes["http.response.status_code"], 200);
    assert_eq!(attributes["gen_ai.usage.output_tokens"], 1);
    assert!(attributes.contains_key("audit.timing.total_us"));
    assert!(!attributes.contains_key("audit.response.url"));
}

#[tokio::test]
async fn a_stream_of_single_bytes_is_the_same_for_reader_and_log_and_ends_when_it_is_durable() {
    let service = Service::new();
    let tracer = service.start().await;
    let mut script = vec![stream_head()];
    script.extend(STREAM.iter().map(|byte| chunk(&[*byte])));
    script.push(last_chunk());
    let provider = Provider::start(tracer.reader(), script).await;
    let client = tracer.wrap_client(http_client());
    let asked = client.post(provider.url(CHAT)).body(ASKED);
    let mut response = asked.send().await.unwrap();
    let mut read = Vec::new();
    while let Some(piece) = response.chunk().await.unwrap() {
        read.extend_from_slice(&piece);
        let over = read.windows(6).any(|w| w == b"[DONE]");
        let recorded = of_kind(&events(&tracer.reader()).await, "llm.response").len();
        assert_eq!(recorded, usize::from(over), "after {} bytes", read.len());
    }
    assert_eq!(read, STREAM);
    let answers = answers(tracer).await;
    assert_eq!(answers[0].payloads[0].bytes, STREAM);
    assert_eq!(answers[0].payloads[1].name, "response.chunks");
    let chunks: Vec<(u64, u64)> = serde_json::from_slice(&answers[0].payloads[1].bytes).unwrap();
    assert!(chunks.is_sorted_by_key(|(at, _)| *at));
    let sum: u64 = chunks.iter().map(|(_, n)| n).sum();
    assert_eq!(sum, STREAM.len() as u64);
    assert_eq!(answers[0].attributes["audit.response.complete"], true);
}

#[tokio::test]
async fn pieces_are_passed_on_while_the_provider_still_thinks() {
    let service = Service::new();
    let tracer = service.start().await;
    let go_on = Arc::new(Notify::new());
    let script = vec![
        stream_head(),
        chunk(b"data: {\"choices\":[]}\n\n"),
        Step::Wait(Arc::clone(&go_on)),
        chunk(b"data: [DONE]\n\n"),
        last_chunk(),
    ];
    let provider = Provider::start(tracer.reader(), script).await;
    let client = tracer.wrap_client(http_client());
    let mut response = client
        .post(provider.url(CHAT))
        .body(ASKED)
        .send()
        .await
        .unwrap();
    // If it were held back until the end, this would wait for ever.
    let first = response.chunk().await.unwrap().unwrap();
    assert_eq!(first, &b"data: {\"choices\":[]}\n\n"[..]);
    go_on.notify_one();
    assert_eq!(response.bytes().await.unwrap(), &b"data: [DONE]\n\n"[..]);
    assert_eq!(answers(tracer).await.len(), 1);
}

#[tokio::test]
async fn a_provider_that_never_ends_its_stream_does_not_hold_its_last_event_back() {
    let service = Service::new();
    let tracer = service.start().await;
    let script = vec![stream_head(), chunk(STREAM), Step::Hang];
    let provider = Provider::start(tracer.reader(), script).await;
    let client = tracer.wrap_client(http_client());
    let response = client
        .post(provider.url(CHAT))
        .body(ASKED)
        .send()
        .await
        .unwrap();
    assert_eq!(response.bytes().await.unwrap(), STREAM);
    let answers = answers(tracer).await;
    let attributes = &answers[0].attributes;
    assert_eq!(attributes["audit.outcome"], "complete");
    assert_eq!(attributes["audit.outcome.reason"], "provider_kept_open");
}

#[tokio::test]
async fn a_body_that_is_dropped_is_recorded_as_far_as_it_was_read() {
    let service = Service::new();
    let tracer = service.start().await;
    let first: &[u8] = b"data: {\"choices\":[]}\n\n";
    let script = vec![stream_head(), chunk(first), Step::Hang];
    let provider = Provider::start(tracer.reader(), script).await;
    let client = tracer.wrap_client(http_client());
    let mut response = client
        .post(provider.url(CHAT))
        .body(ASKED)
        .send()
        .await
        .unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), first);
    // On a thread without a runtime, where nothing can be waited for.
    std::thread::spawn(move || drop(response)).join().unwrap();
    let answers = answers(tracer).await;
    let attributes = &answers[0].attributes;
    assert_eq!(attributes["audit.outcome"], "cut_by_client");
    assert_eq!(attributes["audit.outcome.reason"], "client_left");
    assert_eq!(answers[0].payloads[0].bytes, first);
    assert!(service.lost().is_empty());
}

#[tokio::test]
async fn a_call_that_is_given_up_before_its_answer_is_recorded() {
    let service = Service::new();
    let tracer = service.start().await;
    let provider = Provider::start(tracer.reader(), vec![Step::Hang]).await;
    let client = tracer.wrap_client(http_client());
    let call = client.post(provider.url(CHAT)).body(ASKED).send();
    tokio::select! {
        answer = call => panic!("{answer:?}"),
        () = async { while provider.requests() == 0 { tokio::task::yield_now().await } } => {}
    }
    let answers = answers(tracer).await;
    let attributes = &answers[0].attributes;
    assert_eq!(attributes["audit.outcome"], "cut_by_client");
    assert_eq!(attributes["audit.outcome.reason"], "before_response");
}

#[tokio::test]
async fn a_connection_that_breaks_is_recorded_and_told_to_the_caller() {
    let service = Service::new();
    let tracer = service.start().await;
    let first: &[u8] = b"data: {\"choices\":[]}\n\n";
    let provider = Provider::start(tracer.reader(), vec![stream_head(), chunk(first)]).await;
    let client = tracer.wrap_client(http_client());
    let mut response = client
        .post(provider.url(CHAT))
        .body(ASKED)
        .send()
        .await
        .unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), first);
    response.chunk().await.unwrap_err();
    let answers = answers(tracer).await;
    let attributes = &answers[0].attributes;
    assert_eq!(attributes["audit.outcome"], "cut_by_provider");
    assert_eq!(attributes["audit.response.complete"], false);
    assert_eq!(answers[0].payloads[0].bytes, first);
}

#[tokio::test]
async fn a_deadline_of_the_callers_own_is_recorded_as_one() {
    let service = Service::new();
    let tracer = service.start().await;
    let script = vec![stream_head(), chunk(b"data: {}\n\n"), Step::Hang];
    let provider = Provider::start(tracer.reader(), script).await;
    let client = tracer.wrap_client(http_client());
    let call = client.post(provider.url(CHAT)).body(ASKED);
    let call = call.timeout(std::time::Duration::from_millis(500));
    // Where it strikes depends on the machine; that it is told and recorded doesn't.
    let error = match call.send().await {
        Ok(answer) => answer.bytes().await.unwrap_err(),
        Err(reqwest_middleware::Error::Reqwest(error)) => error,
        Err(error) => panic!("{error:?}"),
    };
    assert!(error.is_timeout(), "{error:?}");
    let answers = answers(tracer).await;
    let attributes = &answers[0].attributes;
    assert_eq!(attributes["audit.outcome.reason"], "upstream_timeout");
}

#[tokio::test]
async fn a_call_that_fails_is_recorded_and_fails_as_without_us() {
    let service = Service::new();
    let tracer = service.start().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let client = tracer.wrap_client(http_client());
    let call = client.post(format!("http://{address}{CHAT}")).body(ASKED);
    assert!(call.send().await.unwrap_err().is_connect());
    let broken = Provider::start(tracer.reader(), vec![Step::Send(b"nonsense".to_vec())]).await;
    let call = client.post(broken.url(CHAT)).body(ASKED);
    assert!(!call.send().await.unwrap_err().is_middleware());
    let answers = answers(tracer).await;
    for (answer, reason) in answers
        .iter()
        .zip(["upstream_unreachable", "upstream_failed"])
    {
        assert_eq!(answer.attributes["audit.outcome"], "error");
        assert_eq!(answer.attributes["audit.outcome.reason"], reason);
        assert_eq!(answer.attributes["error.type"], reason);
    }
}

#[tokio::test]
async fn without_the_log_nothing_is_sent() {
    let service = Service::new();
    let (tracer, store) = start_faulty(&service).await;
    let provider = Provider::start(tracer.reader(), whole("application/json", ANSWERED)).await;
    let client = tracer.wrap_client(http_client());
    store.fail_times(
        Call::Append,
        0,
        u64::MAX,
        Fault::Before,
        ErrorKind::Unavailable,
    );
    let call = client.post(provider.url(CHAT)).body(ASKED);
    let error = call.send().await.unwrap_err();
    assert!(error.is_middleware());
    let reqwest_middleware::Error::Middleware(inner) = &error else {
        panic!("{error:?}");
    };
    let ours = inner.downcast_ref::<Error>().unwrap();
    assert_eq!(ours.kind(), ErrorKind::Unavailable);
    assert!(ours.to_string().contains("was not sent"), "{ours}");
    assert_eq!(provider.requests(), 0);
    store.heal();
    let call = client.post(provider.url(CHAT)).body(ASKED);
    assert_eq!(call.send().await.unwrap().bytes().await.unwrap(), ANSWERED);
    assert_eq!(answers(tracer).await.len(), 1);
}

#[tokio::test]
async fn an_answer_that_cannot_be_recorded_has_no_end_and_its_record_is_tried_again() {
    for (script, passed) in [
        (whole("application/json", ANSWERED), &b""[..]),
        (
            vec![stream_head(), chunk(STREAM), last_chunk()],
            &STREAM[..STREAM.len() - b"data: [DONE]\n\n".len()],
        ),
    ] {
        let service = Service::new();
        let (tracer, store) = start_faulty(&service).await;
        let provider = Provider::start(tracer.reader(), script).await;
        let client = tracer.wrap_client(http_client());
        let mut response = client
            .post(provider.url(CHAT))
            .body(ASKED)
            .send()
            .await
            .unwrap();
        store.fail_times(Call::Append, 0, 1, Fault::Before, ErrorKind::Unavailable);
        let mut read = Vec::new();
        let error = loop {
            match response.chunk().await {
                Ok(Some(piece)) => read.extend_from_slice(&piece),
                Ok(None) => panic!("the answer has an end, and no record"),
                Err(error) => break error,
            }
        };
        assert_eq!(source(&error).kind(), ErrorKind::Unavailable);
        assert_eq!(read, passed);
        let answers = answers(tracer).await;
        assert_eq!(answers[0].attributes["audit.outcome"], "complete");
        assert!(service.lost().is_empty());
    }
}

#[tokio::test]
async fn an_answer_whose_record_is_given_up_is_told() {
    let service = Service::new();
    let (tracer, store) = start_faulty(&service).await;
    let provider = Provider::start(tracer.reader(), vec![stream_head(), Step::Hang]).await;
    let client = tracer.wrap_client(http_client());
    let response = client
        .post(provider.url(CHAT))
        .body(ASKED)
        .send()
        .await
        .unwrap();
    store.fail_times(
        Call::Append,
        0,
        u64::MAX,
        Fault::Before,
        ErrorKind::Unavailable,
    );
    drop(response);
    tracer.close().await.unwrap_err();
    assert_eq!(service.lost().len(), 1, "{:?}", service.lost());
}

#[tokio::test]
async fn a_session_that_has_ended_sends_nothing_and_an_open_answer_is_still_recorded() {
    let service = Service::new();
    let tracer = service.start().await;
    let go_on = Arc::new(Notify::new());
    let mut script = vec![stream_head(), Step::Wait(Arc::clone(&go_on))];
    script.extend([chunk(STREAM), last_chunk()]);
    let provider = Provider::start(tracer.reader(), script).await;
    let session = tracer.audit_session().await.unwrap();
    let client = session.wrap_client(http_client());
    let response = client
        .post(provider.url(CHAT))
        .body(ASKED)
        .send()
        .await
        .unwrap();
    session.close().await.unwrap();
    let refused = client.post(provider.url(CHAT)).body(ASKED).send().await;
    assert!(refused.unwrap_err().is_middleware());
    assert_eq!(provider.requests(), 1);
    go_on.notify_one();
    assert_eq!(response.bytes().await.unwrap(), STREAM);
    assert_eq!(answers(tracer).await.len(), 1);
}

#[tokio::test]
async fn limits_refuse_long_requests_and_cut_the_record_of_long_answers() {
    let service = Service::new();
    let tracer = service.start().await;
    let provider = Provider::start(tracer.reader(), whole("application/json", ANSWERED)).await;
    let recorder = tracer
        .client_recorder()
        .request_body_bytes_max(ASKED.len())
        .response_record_bytes_max(10);
    let client = recorder.wrap(http_client());
    let long = client.post(provider.url(CHAT)).body([ASKED, b" "].concat());
    let error = long.send().await.unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
    assert_eq!(provider.requests(), 0);
    let call = client.post(provider.url(CHAT)).body(ASKED);
    assert_eq!(call.send().await.unwrap().bytes().await.unwrap(), ANSWERED);
    let answers = answers(tracer).await;
    assert_eq!(answers[0].payloads[0].bytes, &ANSWERED[..10]);
    let attributes = &answers[0].attributes;
    assert_eq!(attributes["http.response.body.size"], ANSWERED.len());
    let digest = audit_core::hex::Hex::<32>(Sha256::digest(ANSWERED).into()).to_string();
    assert_eq!(attributes["audit.response.body_sha256"], digest);
}

#[tokio::test]
async fn a_filter_leaves_calls_out_and_without_one_any_host_is_recorded() {
    let service = Service::new();
    let tracer = service.start().await;
    let provider = Provider::start(tracer.reader(), whole("text/plain", b"ok")).await;
    let port = provider.address.port();
    let recorder = tracer.client_recorder();
    let some = recorder.clone().only(|_, uri| uri.path() != "/health");
    let client = some.wrap(http_client());
    let health = client.get(provider.url("/health")).send().await.unwrap();
    assert_eq!(health.text().await.unwrap(), "ok");
    let client = recorder.wrap(http_client());
    let weather = client.get(provider.url("/weather")).send().await.unwrap();
    assert_eq!(weather.text().await.unwrap(), "ok");
    let reader = tracer.reader();
    assert_eq!(answers(tracer).await.len(), 1);
    let asked = &events(&reader).await[0];
    assert_eq!(asked.attributes["url.path"], "/weather");
    assert_eq!(asked.attributes["audit.api"], "other");
    assert_eq!(asked.attributes["server.port"], port);
}

#[tokio::test]
async fn a_redirect_shows_in_the_record() {
    let service = Service::new();
    let tracer = service.start().await;
    let there = Provider::start(tracer.reader(), whole("text/plain", b"there")).await;
    let head = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        there.url("/v1/there?key=secret")
    );
    let here = Provider::start(tracer.reader(), vec![Step::Send(head.into_bytes())]).await;
    let client = tracer.wrap_client(http_client());
    let response = client.get(here.url("/v1/here")).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "there");
    let answers = answers(tracer).await;
    assert_eq!(
        answers[0].attributes["audit.response.url"],
        there.url("/v1/there?key=[redacted]")
    );
}

#[tokio::test]
async fn an_answer_without_a_body_waits_as_a_whole() {
    let service = Service::new();
    let (tracer, store) = start_faulty(&service).await;
    let head = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    let provider = Provider::start(tracer.reader(), vec![Step::Send(head.to_vec())]).await;
    let client = tracer.wrap_client(http_client());
    let response = client.get(provider.url("/v1/models")).send().await.unwrap();
    assert_eq!(response.status(), 204);
    let recorded = of_kind(&events(&tracer.reader()).await, "llm.response").len();
    assert_eq!(recorded, 1);
    store.fail_times(Call::Append, 1, 1, Fault::Before, ErrorKind::Unavailable);
    let refused = client.get(provider.url("/v1/models")).send().await;
    assert!(refused.unwrap_err().is_middleware());
    assert_eq!(answers(tracer).await.len(), 2);
}

#[tokio::test]
async fn a_tower_client_is_recorded_alike() {
    let service = Service::new();
    let tracer = service.start().await;
    let mut script = vec![stream_head()];
    script.extend(STREAM.iter().map(|byte| chunk(&[*byte])));
    script.push(Step::Send(b"0\r\nx-checksum: 7\r\n\r\n".to_vec()));
    let provider = Provider::start(tracer.reader(), script).await;
    let client: HyperClient<_, Full<Bytes>> =
        HyperClient::builder(TokioExecutor::new()).build_http();
    let client = tracer.client_recorder().layer(client);
    let request = http::Request::post(provider.url(CHAT))
        .header("te", "trailers")
        .header("x-api-key", "sk-secret")
        .body(Full::from(ASKED))
        .unwrap();
    let response = client.clone().oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned();
    assert_eq!(body.to_bytes(), STREAM);
    let refused = http::Request::get("http://127.0.0.1:1/v1/models").body(Full::default());
    client.oneshot(refused.unwrap()).await.unwrap_err();
    let reader = tracer.reader();
    let answers = answers(tracer).await;
    assert_eq!(answers[0].payloads[0].bytes, STREAM);
    assert_eq!(answers[0].attributes["audit.outcome"], "complete");
    assert_eq!(
        answers[0].attributes.get("http.response.trailer").is_some(),
        trailers.is_some()
    );
    assert_eq!(answers[1].attributes["audit.outcome"], "error");
    let all = events(&reader).await;
    assert_eq!(all[0].payloads[0].bytes, ASKED);
    assert_eq!(
        all[0].attributes["audit.credential"][0]["header"],
        "x-api-key"
    );
    assert_eq!(all[0].attributes["server.address"], "127.0.0.1");
}

/// A body that counts how often it is asked for a piece.
struct Counted {
    left: usize,
    asked: Arc<AtomicUsize>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(
            &[7; 1024],
        )))))
    }
}

#[tokio::test]
async fn nothing_is_read_ahead_of_a_slow_reader_but_one_piece() {
    let service = Service::new();
    let tracer = service.start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let client =
        tracer
            .client_recorder()
            .layer(service_fn(move |_: http::Request<Full<Bytes>>| {
                let asked = Arc::clone(&count);
                async move { Ok::<_, Error>(http::Response::new(Counted { left: 100, asked })) }
            }));
    let request = http::Request::get("http://models.example/").body(Full::default());
    let mut body = client.oneshot(request.unwrap()).await.unwrap().into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += 1;
        assert_eq!(frame.unwrap().into_data().unwrap().len(), 1024);
        let asked = asked.load(Ordering::SeqCst);
        assert!(
            asked <= read + 1,
            "{asked} pieces were read, {read} were asked for"
        );
    }
    assert_eq!(read, 100);
    let answers = answers(tracer).await;
    assert_eq!(answers[0].payloads[0].bytes.len(), 100 * 1024);
    let value: &Value = &answers[0].attributes["audit.upstream"];
    assert_eq!(value, "models.example");
}
