//! What is asked and answered is in the log, can be proven, and a change of it shows; on both stores.

use std::sync::Arc;
use std::time::Duration;

use audit_core::chain::AuditorKey;
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions, StateFile};
use audit_core::reader::{LogReader, RecordContent};
use audit_core::store::{ReadStore, Store};
use audit_core::time::{Clock as _, System};
use audit_store_sqlite::SqliteStore;
use audit_tlog::hash::leaf_hash;
use audit_tlog::tlog_proof::TlogProof;
use audit_tracer::StoreEvidence;
use audit_verify::{Outcome, Policy, Verdict, verify};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use custom_service::dir_store::DirStore;
use custom_service::service::{Upstream, router};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

const ORIGIN: &str = "service.example/ask";

async fn serve(routes: Router) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    (base, task)
}

/// Says back what it was asked, as an OpenAI-compatible API would; refuses what holds the word `forbidden`.
fn model() -> Router {
    Router::new().route(
        "/v1/chat/completions",
        post(|Json(asked): Json<Value>| async move {
            let said = asked["messages"][0]["content"].as_str().unwrap().to_owned();
            if said.contains("forbidden") {
                let error =
                    json!({ "error": { "message": "no", "type": "invalid_request_error" } });
                return (StatusCode::BAD_REQUEST, Json(error));
            }
            let answer = json!({
                "id": "chatcmpl-1", "object": "chat.completion", "model": asked["model"],
                "choices": [{ "index": 0, "finish_reason": "stop",
                    "message": { "role": "assistant", "content": format!("you said: {said}") } }],
                "usage": { "prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8 },
            });
            (StatusCode::OK, Json(answer))
        }),
    )
}

async fn call(method: &str, url: String, body: Value) -> (StatusCode, Value) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = Request::builder()
        .method(method)
        .uri(url)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let response = client.request(request).await.unwrap();
    let status = response.status();
    let body = Body::new(response.into_body()).collect().await.unwrap();
    (status, serde_json::from_slice(&body.to_bytes()).unwrap())
}

struct World {
    dir: tempfile::TempDir,
    store: Arc<dyn Store>,
    keys: Arc<KeyRing>,
}

impl World {
    fn new(store: impl FnOnce(&std::path::Path) -> Arc<dyn Store>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let auditor = AuditorKey::random(&System);
        let keys = KeyRing::generate(ORIGIN, auditor.public(), &System).unwrap();
        Self {
            dir,
            store,
            keys: Arc::new(keys),
        }
    }

    async fn log(&self) -> Log {
        let mut options = LogOptions::new(Arc::clone(&self.store), Arc::clone(&self.keys));
        options.state_dir = Some(self.dir.path().join("state"));
        options.publish = Duration::from_millis(20);
        Log::create(options).await.unwrap()
    }

    async fn verify(&self, store: Arc<dyn ReadStore>) -> Verdict {
        let state = StateFile::new(&self.dir.path().join("state"), ORIGIN);
        let keys = Arc::clone(&self.keys);
        let evidence = StoreEvidence::new(store);
        tokio::task::spawn_blocking(move || {
            let policy = Policy {
                operator: Some(&keys),
                remembered: state.read().unwrap().into_iter().collect(),
                ..Policy::public(keys.vkey(), System.now())
            };
            verify(&evidence, &policy, &mut ())
        })
        .await
        .unwrap()
    }
}

async fn a_call_is_recorded_and_proven(world: &World) {
    let log = world.log().await;
    let (model, model_task) = serve(model()).await;
    let upstream = Upstream {
        base: model,
        model: "tiny-1".to_owned(),
    };
    let (service, service_task) = serve(router(log.clone(), upstream)).await;

    let question = json!({ "session": "s-1", "question": "is it raining?" });
    let (status, answer) = call("POST", format!("{service}/ask"), question).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["answer"], "you said: is it raining?");

    for side in ["request", "response"] {
        let url = format!("{service}{}", answer[side]["proof"].as_str().unwrap());
        let (status, proven) = loop {
            let (status, proven) = call("GET", url.clone(), json!(null)).await;
            if status != StatusCode::NOT_FOUND {
                break (status, proven);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(status, StatusCode::OK, "{proven}");
        // With nothing but the answer and the log's public key.
        let entry = proven["entry"].as_str().unwrap();
        let proof: TlogProof = proven["tlog_proof"].as_str().unwrap().parse().unwrap();
        let leaf = leaf_hash(entry.as_bytes());
        assert_eq!(answer[side]["leaf_hash"], json!(leaf.to_string()).clone());
        proof.verify(&leaf, ORIGIN, &world.keys.vkey()).unwrap();
    }

    let refused = json!({ "session": "s-1", "question": "forbidden" });
    let (status, _) = call("POST", format!("{service}/ask"), refused).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    let wrong = json!({ "session": "", "question": "x" });
    let (status, _) = call("POST", format!("{service}/ask"), wrong).await;
    assert_eq!(
        status,
        StatusCode::BAD_REQUEST,
        "an event without a session id was recorded"
    );
    let url = format!("{service}/proof/{}", uuid::Uuid::nil());
    let (status, _) = call("GET", url, json!(null)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    model_task.abort();
    assert!(model_task.await.unwrap_err().is_cancelled());
    let unanswered = json!({ "session": "s-1", "question": "anyone?" });
    // A connection that was kept open may still be served; a new one is not.
    let mut status = StatusCode::OK;
    for _ in 0..100 {
        status = call("POST", format!("{service}/ask"), unanswered.clone())
            .await
            .0;
        if status != StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    service_task.abort();

    let reader = log.reader();
    log.close().await.unwrap();
    bodies_and_facts_are_in_the_log(&reader).await;
    let verdict = world.verify(Arc::clone(reader.store())).await;
    assert_eq!(verdict.outcome(), Outcome::Held, "{verdict}");
}

async fn bodies_and_facts_are_in_the_log(reader: &LogReader) {
    let mut kinds = Vec::new();
    let mut last = Value::Null;
    for index in 0..reader.size().await.unwrap() {
        let record = reader.record(index).await.unwrap();
        let RecordContent::Open(opened) = record.content else {
            continue;
        };
        kinds.push(record.entry.kind.to_string());
        last = json!(opened.event.attributes);
        if kinds.len() == 2 {
            let event = &opened.event;
            assert_eq!(event.attributes["gen_ai.usage.output_tokens"], 5);
            assert_eq!(event.refs["model_id"], "tiny-1");
            let body = &event.payloads[0].bytes;
            assert!(body.windows(9).any(|w| w == b"you said:"), "{body:?}");
        }
    }
    assert_eq!(kinds[..4], ["llm.request", "llm.response"].repeat(2)[..]);
    assert_eq!(last["audit.outcome"], "error", "a call without an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_a_call_is_recorded_and_proven() {
    let world = World::new(|dir| Arc::new(SqliteStore::create_file(dir.join("log.db")).unwrap()));
    a_call_is_recorded_and_proven(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_store_of_ones_own_a_call_is_recorded_and_proven_and_a_change_shows() {
    let world = World::new(|dir| Arc::new(DirStore::create_dir(dir.join("log")).unwrap()));
    a_call_is_recorded_and_proven(&world).await;

    let batches = world.dir.path().join("log").join("batches");
    let mut files: Vec<_> = std::fs::read_dir(&batches)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let mut changed = 0;
    for file in files {
        let good = std::fs::read(&file).unwrap();
        // The last byte: of the parts, or of the line.
        let mut bad = good.clone();
        let last = bad.last_mut().unwrap();
        *last ^= 1;
        std::fs::write(&file, &bad).unwrap();
        let store = DirStore::open(world.dir.path().join("log")).unwrap();
        let verdict = world.verify(Arc::new(store)).await;
        assert_eq!(
            verdict.outcome(),
            Outcome::Contradicted,
            "{}: {verdict}",
            file.display()
        );
        std::fs::write(&file, &good).unwrap();
        changed += 1;
    }
    assert!(changed >= 5, "only {changed} batches");
}
