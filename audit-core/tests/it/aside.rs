//! Events that wait outside of the log.

use std::sync::Arc;

use audit_core::chain::AuditorKey;
use audit_core::event::{Actor, ActorKind, Correlation, Media};
use audit_core::ingest::{Ingest, IngestKeys};
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::reader::RecordContent;
use audit_core::time::{Clock as _, IdSource as _, System};
use audit_core::{Error, ErrorKind, Event, Kind, Payload};
use audit_testkit::memory::MemoryStore;
use serde_json::json;

/// Says that it was there, and may be there once only.
#[derive(Debug)]
struct Stamp;

impl Ingest for Stamp {
    fn ingest(&self, mut event: Event, _: &IngestKeys) -> Result<Event, Error> {
        let name = "audit.redaction".to_owned();
        if event.attributes.insert(name, json!("seen")).is_some() {
            return Err(Error::invalid("the filter saw it twice"));
        }
        Ok(event)
    }
}

async fn log(origin: &str) -> Log {
    let auditor = AuditorKey::random(&System);
    let keys = KeyRing::generate(origin, auditor.public(), &System).unwrap();
    let mut options = LogOptions::new(Arc::new(MemoryStore::new()), Arc::new(keys));
    options.ingest = Some(Arc::new(Stamp));
    Log::create(options).await.unwrap()
}

fn event() -> Event {
    let now = System.now();
    let mut event = Event::new(System.uuid_v7(now), now, Kind::new("note").unwrap());
    event.actor = Some(Actor::new(ActorKind::Agent, "a"));
    event.session_id = Some("s".to_owned());
    event.subject = Some("p".to_owned());
    event.refs.insert("model_id".to_owned(), "m".to_owned());
    event.correlation = Some(Correlation {
        parent_event: Some(System.uuid_v4()),
        ..Correlation::default()
    });
    event
        .attributes
        .insert("n".to_owned(), json!([1, {"x": "ü"}]));
    for (name, bytes) in [
        ("a", b"\x00\xff".to_vec()),
        ("b", Vec::new()),
        ("c", vec![7; 100_000]),
    ] {
        event.payloads.push(Payload::new(name, Media::Bytes, bytes));
    }
    event
}

async fn only(log: &Log) -> Event {
    let records = log.reader().records(0..100).await.unwrap();
    let mut open = records.into_iter().filter_map(|r| match r.content {
        RecordContent::Open(opened) => Some(opened.event),
        _ => None,
    });
    let event = open.next().unwrap();
    assert!(open.next().is_none(), "it was recorded twice");
    event
}

#[tokio::test]
async fn an_event_comes_back_as_another_or_twice() {
    let log = log("example.org/aside").await;
    let given = Arc::new(event());
    let sealed = log.set_aside(Arc::clone(&given), b"one").unwrap();
    assert!(
        !sealed
            .windows(7)
            .any(|w| w == b"\x07\x07\x07\x07\x07\x07\x07"),
        "it lies open"
    );
    assert!(log.restore(&sealed, b"one").await.unwrap().is_some());
    // Whoever doesn't know whether it landed tries again.
    assert!(log.restore(&sealed, b"one").await.unwrap().is_none());
    let mut expected = Event::clone(&given);
    expected
        .attributes
        .insert("audit.redaction".to_owned(), json!("seen"));
    assert_eq!(only(&log).await, expected);
}

#[tokio::test]
async fn what_was_changed_or_belongs_elsewhere_is_recorded() {
    let log_ = log("example.org/aside").await;
    let sealed = log_.set_aside(Arc::new(event()), b"one").unwrap();
    let corrupt = |result: Result<_, Error>| {
        let error: Error = result
            .map(|_: Option<audit_core::log::Receipt>| ())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    };
    corrupt(log_.restore(&sealed, b"two").await);
    for at in [0, 11, 12, 40, sealed.len() - 1] {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        corrupt(log_.restore(&changed, b"one").await);
    }
    for length in [0, 5, 28, sealed.len() - 1] {
        corrupt(log_.restore(&sealed[..length], b"one").await);
    }
    let other = log("example.org/aside").await;
    corrupt(other.restore(&sealed, b"one").await);
    // Nothing gets past the rules by this way.
    let mut forbidden = event();
    forbidden.kind = Kind::new("writer.closed").unwrap();
    let refused = log_.set_aside(Arc::new(forbidden), b"one").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let mut pretending = event();
    pretending
        .attributes
        .insert("audit.redaction".to_owned(), json!({}));
    let refused = log_.set_aside(Arc::new(pretending), b"one").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
}
