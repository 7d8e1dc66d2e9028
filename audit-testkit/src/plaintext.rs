//! Events in which every text of a caller holds a marker, to look for it in what a store keeps.

use std::path::PathBuf;
use std::sync::Arc;

use audit_core::chain::AuditorKey;
use audit_core::event::{Actor, ActorKind, Event, Kind, Media, Payload};
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::store::Store;
use audit_core::time::{IdSource as _, Timestamp};

use crate::time::{TestClock, TestIds};

/// How many events there are.
pub const EVENTS: usize = 30;
/// What every event has in clear, so a search for it has to find [`EVENTS`] of them.
pub const CONTROL: &str = "llm.request";

/// What no file may hold.
#[must_use]
pub fn needles(marker: &str) -> [&str; 4] {
    [marker, "name_marker", "model_id", "display_name"]
}

/// Makes a log on `store` and records the events; they are durable on return.
///
/// # Panics
///
/// If that fails.
pub async fn record(store: Arc<dyn Store>, state_dir: PathBuf, marker: &str) -> Log {
    let ids = Arc::new(TestIds::new(1));
    let auditor = AuditorKey::random(&*ids);
    let keys = KeyRing::generate("example.com/log", auditor.public(), &*ids);
    let mut options = LogOptions::new(store, Arc::new(keys.expect("the origin is one")));
    options.state_dir = Some(state_dir);
    options.ids = Arc::clone(&ids) as Arc<_>;
    options.clock = Arc::new(TestClock::default());
    let log = Log::create(options).await.expect("a log is made");

    let marked = |what: &str| format!("{marker}-{what}");
    let mut pending = Vec::new();
    for n in 0..EVENTS {
        let now = Timestamp::EPOCH.plus_micros(1_767_323_045_000_000);
        let kind = Kind::new(CONTROL).expect("it is a kind");
        let mut event = Event::new(ids.uuid_v7(now), now, kind);
        let mut actor = Actor::new(ActorKind::Agent, marked("actor-id"));
        actor.display_name = Some(marked("actor-name"));
        event.actor = Some(actor);
        event.on_behalf_of = Some(Actor::new(ActorKind::Human, marked("behalf-id")));
        event.session_id = Some(marked("session"));
        event.subject = Some(marked("subject"));
        event.refs.insert("model_id".to_owned(), marked("model"));
        let name = "attribute.name_marker".to_owned();
        let value = [("text", marked("attribute"))];
        event.attributes.insert(name, value.into_iter().collect());
        // Short ones are stored as they are, long ones compressed, one doesn't compress and may lie apart: none may show.
        let bytes = if n + 1 == EVENTS {
            let mut bytes = vec![0; 400 * 1024];
            ids.fill(&mut bytes);
            [bytes, marked("payload").into_bytes()].concat()
        } else {
            marked("payload").repeat(1 + n * n).into_bytes()
        };
        event
            .payloads
            .push(Payload::new("body", Media::Text, bytes));
        pending.push(log.submit(event).await.expect("it is taken"));
    }
    for one in pending {
        one.durable().await.expect("it is stored");
    }
    log
}
