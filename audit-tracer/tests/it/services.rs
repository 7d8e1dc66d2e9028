//! A service whose requests are recorded: a real axum server, and real clients.

use std::sync::Arc;

use audit_core::event::{Event, Guarantee};
use audit_core::reader::LogReader;
use audit_testkit::faulty::Fault;
use audit_testkit::forward::Call;
use audit_tracer::{
    Actor, ActorKind, AuditTracer, Caller, Error, ErrorKind, Media, ServiceRecorder, Unrecorded,
};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::MatchedPath;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::sync::{Notify, mpsc};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::support::{Service, events, http_client, start_faulty};

/// What a handler answers piece by piece, as the test says.
type Pieces = mpsc::Receiver<Result<Bytes, Error>>;

fn streamed(pieces: Pieces) -> Body {
    Body::from_stream(futures_util::stream::unfold(pieces, |mut pieces| async {
        pieces.recv().await.map(|piece| (piece, pieces))
    }))
}

async fn serve(router: Router, recorder: ServiceRecorder) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = router.layer(recorder);
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

async fn ended(tracer: AuditTracer) -> Vec<Event> {
    let reader = tracer.reader();
    tracer.close().await.unwrap();
    events(&reader).await
}

/// Waits until so many records are there: for what nobody waits for otherwise.
async fn records(reader: &LogReader, n: usize) -> Vec<Event> {
    loop {
        let events = events(reader).await;
        if events.len() >= n {
            return events;
        }
        tokio::task::yield_now().await;
    }
}

fn who(parts: &http::request::Parts) -> Caller {
    let text = |name: &str| Some(parts.headers.get(name)?.to_str().ok()?.to_owned());
    Caller {
        actor: text("x-user").map(|id| Actor::new(ActorKind::Human, id)),
        subject: text("x-patient"),
        session_id: text("x-visit"),
        route: parts
            .extensions
            .get::<MatchedPath>()
            .map(|path| path.as_str().to_owned()),
        ..Caller::default()
    }
}

#[tokio::test]
async fn a_request_is_one_record_with_who_what_and_how_it_went() {
    let service = Service::new();
    let tracer = service.start().await;
    let router = Router::new()
        .route("/patients/{id}", post(|body: Bytes| async move { body }))
        .route("/broken", get(|| async { StatusCode::BAD_GATEWAY }));
    let base = serve(router, tracer.service_recorder().identify(who).previews(64)).await;
    let client = http_client();
    let body = r#"{"password":"hunter2","note":"sk-live-1 was here"}"#;
    let answer = client
        .post(format!("{base}/patients/7?access_token=hunter2&v=1"))
        .header("x-user", "dr-ada")
        .header("x-patient", "p-7")
        .header("x-visit", "v-1")
        .header("authorization", "Bearer hunter2")
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.bytes().await.unwrap(), body);
    // Whoever has the whole answer has one that is recorded.
    assert_eq!(events(&tracer.reader()).await.len(), 1);
    let broken = client.get(format!("{base}/broken")).send().await.unwrap();
    assert_eq!(broken.status(), 502);
    assert_eq!(events(&tracer.reader()).await.len(), 2);

    let events = ended(tracer).await;
    let event = &events[0];
    assert_eq!(event.kind.as_str(), "http.request");
    assert_eq!(event.actor.as_ref().unwrap().id, "dr-ada");
    assert_eq!(event.subject.as_deref(), Some("p-7"));
    assert_eq!(event.session_id.as_deref(), Some("v-1"));
    assert_eq!(event.capture.as_ref().unwrap().guarantee, Guarantee::None);
    let attributes = &event.attributes;
    assert_eq!(attributes["audit.capture.point"], "service");
    assert_eq!(attributes["http.request.method"], "POST");
    assert_eq!(attributes["http.route"], "/patients/{id}");
    assert_eq!(attributes["url.path"], "/patients/7");
    assert_eq!(attributes["url.query"], "access_token=[redacted]&v=1");
    assert_eq!(attributes["http.response.status_code"], 200);
    assert_eq!(attributes["http.request.body.size"], body.len());
    assert_eq!(attributes["http.response.body.size"], body.len());
    assert_eq!(attributes["audit.outcome"], "complete");
    assert!(attributes.contains_key("audit.timing.response_us"));
    assert!(attributes.contains_key("audit.timing.total_us"));
    let preview = &event.payloads[0];
    assert_eq!(
        (preview.name.as_str(), preview.media),
        ("request.preview", Media::Text)
    );
    assert_eq!(
        String::from_utf8_lossy(&preview.bytes),
        r#"{"password":"[redacted]","note":"[redacted] was here"}"#
    );
    // The echo says that it is octets, so there is no text to show.
    assert_eq!(event.payloads.len(), 1);
    assert!(!format!("{events:?}").contains("hunter2"));
    assert_eq!(events[1].attributes["error.type"], "502");
}

#[tokio::test]
async fn a_caller_who_cannot_be_recorded_is_left_out_and_the_request_is_not() {
    let service = Service::new();
    let tracer = service.start().await;
    let router = Router::new().route("/", get(|| async { "an answer" }));
    let base = serve(router, tracer.service_recorder().identify(who)).await;
    let long = http_client().get(&base).header("x-user", "x".repeat(1000));
    assert_eq!(
        long.send().await.unwrap().text().await.unwrap(),
        "an answer"
    );
    let head = http_client().head(&base).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "9");
    let events = ended(tracer).await;
    assert_eq!(events[0].actor, None);
    assert!(events[0].attributes.contains_key("audit.caller_refused"));
    assert_eq!(events[1].attributes["http.request.method"], "HEAD");
    assert_eq!(events[1].attributes["audit.outcome"], "complete");
}

#[tokio::test]
async fn without_previews_nothing_of_a_body_is_recorded() {
    let service = Service::new();
    let tracer = service.start().await;
    let router = Router::new().route("/", post(|| async { "a secret answer" }));
    let recorder = tracer
        .service_recorder()
        .only(|_, uri| uri.path() != "/health");
    let base = serve(router.route("/health", get(|| async { "ok" })), recorder).await;
    let client = http_client();
    let health = client.get(format!("{base}/health")).send().await.unwrap();
    assert_eq!(health.text().await.unwrap(), "ok");
    let answer = client
        .post(&base)
        .body("a secret question")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.text().await.unwrap(), "a secret answer");
    let events = ended(tracer).await;
    assert_eq!(events.len(), 1);
    assert!(events[0].payloads.is_empty());
    assert!(!format!("{events:?}").contains("secret"));
}

#[tokio::test]
async fn a_streamed_answer_is_passed_on_as_it_comes_and_its_end_when_it_is_recorded() {
    let service = Service::new();
    let tracer = service.start().await;
    let (pieces, taken) = mpsc::channel(1);
    let body = std::sync::Mutex::new(Some(streamed(taken)));
    let body = Arc::new(body);
    let router = Router::new().route(
        "/",
        get(move || async move { body.lock().unwrap().take().unwrap() }),
    );
    let base = serve(router, tracer.service_recorder()).await;
    let mut answer = http_client().get(&base).send().await.unwrap();
    for byte in [&b"a"[..], b"b", b"c"] {
        pieces.send(Ok(Bytes::from_static(byte))).await.unwrap();
        // If it were held back, this would wait for ever.
        assert_eq!(answer.chunk().await.unwrap().unwrap(), byte);
        assert_eq!(events(&tracer.reader()).await.len(), 0);
    }
    drop(pieces);
    assert_eq!(answer.chunk().await.unwrap(), None);
    let events = events(&tracer.reader()).await;
    assert_eq!(events[0].attributes["http.response.body.size"], 3);
    tracer.close().await.unwrap();
}

#[expect(clippy::panic, reason = "that is what the test is about")]
async fn panicking() -> StatusCode {
    panic!("as the test wants it")
}

#[tokio::test]
async fn panics_errors_and_clients_who_leave_are_recorded_and_passed_on() {
    let service = Service::new();
    let tracer = service.start().await;
    let reader = tracer.reader();
    let waiting = Arc::new(Notify::new());
    let arrived = Arc::clone(&waiting);
    let (pieces, taken) = mpsc::channel(2);
    let body = Arc::new(std::sync::Mutex::new(Some(streamed(taken))));
    let router = Router::new()
        .route("/panic", get(panicking))
        .route(
            "/wait",
            get(move || async move {
                arrived.notify_one();
                std::future::pending::<()>().await;
            }),
        )
        .route(
            "/stream",
            get(move || async move { body.lock().unwrap().take().unwrap() }),
        );
    let base = serve(router, tracer.service_recorder()).await;
    http_client()
        .get(format!("{base}/panic"))
        .send()
        .await
        .unwrap_err();
    records(&reader, 1).await;
    tokio::select! {
        _ = http_client().get(format!("{base}/wait")).send() => panic!("it was answered"),
        () = waiting.notified() => {}
    }
    records(&reader, 2).await;
    pieces.send(Ok(Bytes::from_static(b"half"))).await.unwrap();
    pieces.send(Err(Error::invalid("broken"))).await.unwrap();
    let answer = http_client()
        .get(format!("{base}/stream"))
        .send()
        .await
        .unwrap();
    answer.bytes().await.unwrap_err();
    records(&reader, 3).await;
    let failing = tracer.service_recorder().layer(service_fn(
        |_: http::Request<audit_tracer::CountedBody<Body>>| async {
            Err::<http::Response<Body>, _>(Error::invalid("as the test wants it"))
        },
    ));
    let request = http::Request::get("/fail").body(Body::empty()).unwrap();
    let error = failing.oneshot(request).await.unwrap_err();
    assert_eq!(error.to_string(), "as the test wants it");

    let events = ended(tracer).await;
    let ends: Vec<_> = events
        .iter()
        .map(|e| {
            let text = |name: &str| e.attributes[name].as_str().unwrap();
            (text("url.path"), text("audit.outcome"), text("error.type"))
        })
        .collect();
    assert_eq!(
        ends,
        [
            ("/panic", "error", "panic"),
            ("/wait", "cut_by_client", "client_left"),
            ("/stream", "error", "service_failed"),
            ("/fail", "error", "service_failed"),
        ]
    );
}

#[tokio::test]
async fn an_answer_that_cannot_be_recorded_is_broken_off_unless_it_may_go_on() {
    for (recorder, ends) in [(Unrecorded::BreakOff, false), (Unrecorded::GoOn, true)] {
        let service = Service::new();
        let (tracer, store) = start_faulty(&service).await;
        let router = Router::new()
            .route("/", get(|| async { "an answer" }))
            .route("/empty", get(|| async { StatusCode::NO_CONTENT }));
        let recorder = tracer.service_recorder().on_unrecorded(recorder);
        let base = serve(router, recorder).await;
        store.fail_times(Call::Append, 0, 1, Fault::Before, ErrorKind::Unavailable);
        let answer = http_client().get(&base).send().await.unwrap().text().await;
        assert_eq!(answer.is_ok(), ends, "{answer:?}");
        // Its retry may have come between.
        store.fail_times(Call::Append, 0, 3, Fault::Before, ErrorKind::Unavailable);
        let empty = http_client()
            .get(format!("{base}/empty"))
            .send()
            .await
            .unwrap();
        assert_eq!(empty.status(), if ends { 204 } else { 503 });
        store.heal();
        assert_eq!(ended(tracer).await.len(), 2, "a record was lost");
        assert!(service.lost().is_empty());
    }
}
