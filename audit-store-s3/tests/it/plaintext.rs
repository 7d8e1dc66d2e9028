//! Nothing that a caller records is readable in what the server keeps.

use std::sync::Arc;

use audit_core::chain::AuditorKey;
use audit_core::event::{Actor, ActorKind, Event, Kind, Media, Payload};
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::store::Store;
use audit_core::time::{IdSource as _, Timestamp};
use audit_testkit::scan::find_in_files;
use audit_testkit::time::{TestClock, TestIds};
use http::Method;
use serde_json::json;

use crate::support::place;

#[tokio::test(flavor = "multi_thread")]
async fn no_marker_of_an_event_is_found_in_any_object() {
    let Some(place) = place().await else { return };
    let store: Arc<dyn Store> = Arc::new(place.store());
    let dir = tempfile::tempdir().unwrap();
    let ids = Arc::new(TestIds::new(1));
    let auditor = AuditorKey::random(&*ids);
    let keys = KeyRing::generate("example.com/log", auditor.public(), &*ids).unwrap();
    let mut options = LogOptions::new(store, Arc::new(keys));
    options.state_dir = Some(dir.path().join("state"));
    options.ids = Arc::clone(&ids) as Arc<_>;
    options.clock = Arc::new(TestClock::default());
    let log = Log::create(options).await.unwrap();
    let marker = |what: &str| format!("MARKER-{what}");
    let mut pending = Vec::new();
    for n in 0..30 {
        let now = Timestamp::EPOCH.plus_micros(1_767_323_045_000_000);
        let mut event = Event::new(ids.uuid_v7(now), now, Kind::new("llm.request").unwrap());
        let mut actor = Actor::new(ActorKind::Agent, marker("actor-id"));
        actor.display_name = Some(marker("actor-name"));
        event.actor = Some(actor);
        event.on_behalf_of = Some(Actor::new(ActorKind::Human, marker("behalf-id")));
        event.session_id = Some(marker("session"));
        event.subject = Some(marker("subject"));
        event.refs.insert("model_id".to_owned(), marker("model"));
        let text = json!({ "text": marker("attribute") });
        event
            .attributes
            .insert("attribute.name_marker".to_owned(), text);
        // Short ones are stored as they are, long ones compressed, one is an object of its own: none may show.
        let bytes = if n == 29 {
            // What doesn't compress.
            let mut bytes = vec![0; 400 * 1024];
            ids.fill(&mut bytes);
            [bytes, marker("payload").into_bytes()].concat()
        } else {
            marker("payload").repeat(1 + n * n).into_bytes()
        };
        event
            .payloads
            .push(Payload::new("body", Media::Text, bytes));
        pending.push(log.submit(event).await.unwrap());
    }
    for one in pending {
        one.durable().await.unwrap();
    }
    log.close().await.unwrap();

    // Every version of every object, as the server gives it out; and what it keeps, where its folder is known.
    let files = dir.path().join("objects");
    std::fs::create_dir(&files).unwrap();
    let mut paths = Vec::new();
    for (n, key) in place.keys().await.into_iter().enumerate() {
        let target = format!("/{}/{key}", place.bucket);
        let object = place.server.send(Method::GET, &target, &[], "").await;
        let bytes = object.into_body().bytes().await.unwrap();
        let path = files.join(n.to_string());
        // The name is searched with the bytes.
        std::fs::write(&path, [key.as_bytes(), b"\n", &bytes].concat()).unwrap();
        paths.push(path);
    }
    assert!(paths.len() > 8, "hardly any objects were found");
    let control = find_in_files(&paths, &["llm.request"]).unwrap();
    assert!(control.len() >= 30, "what is searched doesn't hold the log");
    let hits = find_in_files(&paths, &["MARKER", "marker", "model_id", "display_name"]).unwrap();
    assert!(hits.is_empty(), "{hits:?}");
}
