//! Nothing that a caller records is readable in the server's files.

use std::sync::Arc;

use audit_core::chain::AuditorKey;
use audit_core::event::{Actor, ActorKind, Event, Kind, Media, Payload};
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::store::Store;
use audit_core::time::IdSource as _;
use audit_testkit::scan::find_in_files;
use audit_testkit::time::{TestClock, TestIds};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row as _};

use crate::support::{Place, place_or_skip};

/// Everything that the server's disk may have of the last store: its tables, and the write-ahead log of the whole server.
async fn files(place: &Place, dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut raw = place.raw().await;
    sqlx::raw_sql("CHECKPOINT").execute(&mut raw).await.unwrap();
    let sql = format!(
        "SELECT pg_relation_filepath(c.oid) FROM pg_class c
         WHERE c.relnamespace = '{0}'::regnamespace AND c.relkind IN ('r', 'i')
           OR c.oid IN (SELECT reltoastrelid FROM pg_class WHERE relnamespace = '{0}'::regnamespace)
         UNION ALL SELECT 'pg_wal/' || name FROM (SELECT name FROM pg_ls_waldir() ORDER BY modification DESC LIMIT 4) w",
        place.schema()
    );
    let names = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(&mut raw)
        .await
        .unwrap();
    let mut files = Vec::new();
    for (n, row) in names.iter().enumerate() {
        let name: String = row.get(0);
        let row = sqlx::query("SELECT pg_read_binary_file($1, 0, 268435456, true)")
            .bind(&name)
            .fetch_one(&mut raw)
            .await
            .unwrap();
        // A segment may have been recycled meanwhile.
        let bytes: Option<Vec<u8>> = row.get(0);
        let path = dir.join(n.to_string());
        std::fs::write(&path, bytes.unwrap_or_default()).unwrap();
        files.push(path);
    }
    files
}

#[tokio::test]
async fn no_marker_of_an_event_is_found_in_the_raw_files() {
    let place = place_or_skip!();
    let store: Arc<dyn Store> = Arc::new(place.made().await);
    let ids = Arc::new(TestIds::new(1));
    let auditor = AuditorKey::random(&*ids);
    let keys = KeyRing::generate("example.com/log", auditor.public(), &*ids).unwrap();
    let clock = Arc::new(TestClock::default());
    let mut options = LogOptions::new(store, Arc::new(keys));
    options.state_dir = Some(place.state_dir());
    options.ids = Arc::clone(&ids) as Arc<_>;
    options.clock = clock;
    let log = Log::create(options).await.unwrap();

    // Not a word that another test puts into the same write-ahead log.
    let marker = |what: &str| format!("{}-{what}", place.named("marker"));
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
    log.close().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = files(&place, dir.path()).await;
    let control = find_in_files(&files, &["llm.request"]).unwrap();
    assert!(
        control.len() >= 30,
        "the files that are searched don't hold the log"
    );
    let hits = find_in_files(
        &files,
        &[place.named("marker").as_str(), "model_id", "display_name"],
    )
    .unwrap();
    assert!(hits.is_empty(), "{hits:?}");
}
