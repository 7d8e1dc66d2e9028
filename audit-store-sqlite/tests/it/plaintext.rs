//! Nothing that a caller records is readable in the store's files.

use std::sync::Arc;

use audit_core::chain::AuditorKey;
use audit_core::event::{Actor, ActorKind, Event, Kind, Media, Payload};
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::store::Store;
use audit_core::time::IdSource as _;
use audit_store_sqlite::SqliteStore;
use audit_testkit::scan::{files_under, find_in_files};
use audit_testkit::time::{TestClock, TestIds};
use serde_json::json;

use crate::support::Place;

#[tokio::test]
async fn no_marker_of_an_event_is_found_in_the_raw_files() {
    let place = Place::new();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::create_file(place.next()).unwrap());
    let ids = Arc::new(TestIds::new(1));
    let auditor = AuditorKey::random(&*ids);
    let keys = KeyRing::generate("example.com/log", auditor.public(), &*ids).unwrap();
    let clock = Arc::new(TestClock::default());
    let mut options = LogOptions::new(store, Arc::new(keys));
    options.state_dir = Some(place.state_dir());
    options.ids = Arc::clone(&ids) as Arc<_>;
    options.clock = clock;
    let log = Log::create(options).await.unwrap();

    let marker = |what: &str| format!("MARKER-{what}");
    for n in 0..30 {
        let kind = Kind::new("llm.request").unwrap();
        let now = audit_core::time::Timestamp::EPOCH.plus_micros(1_767_323_045_000_000);
        let mut event = Event::new(ids.uuid_v7(now), now, kind);
        let mut actor = Actor::new(ActorKind::Agent, marker("actor-id"));
        actor.display_name = Some(marker("actor-name"));
        event.actor = Some(actor);
        event.on_behalf_of = Some(Actor::new(ActorKind::Human, marker("behalf-id")));
        event.session_id = Some(marker("session"));
        event.subject = Some(marker("subject"));
        event.refs.insert("model_id".to_owned(), marker("model"));
        event.attributes.insert(
            "attribute.name_marker".to_owned(),
            json!({ "text": marker("attribute") }),
        );
        // Short ones are stored as they are, long ones compressed: neither may show.
        let text = marker("payload").repeat(1 + n * n);
        event
            .payloads
            .push(Payload::new("body", Media::Text, text.into_bytes()));
        log.append(event).await.unwrap();
    }
    let control = find_in_files(&files_under(place.dir()).unwrap(), &["llm.request"]).unwrap();
    assert!(
        control.len() >= 30,
        "the files that are searched don't hold the log"
    );
    log.close().await.unwrap();
    for _ in 0..2 {
        let files = files_under(place.dir()).unwrap();
        let hits =
            find_in_files(&files, &["MARKER", "marker", "model_id", "display_name"]).unwrap();
        assert!(hits.is_empty(), "{hits:?}");
        // And once more when SQLite has moved its log into the main file.
        drop(SqliteStore::open(place.path(), audit_store_sqlite::OpenMode::ReadWrite).unwrap());
    }
}
