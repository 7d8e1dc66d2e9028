//! The filter in front of the log: nothing of a caller gets past it, and it can't fail open.

use std::path::Path;
use std::sync::{Arc, Mutex};

use audit_core::chain::AuditorKey;
use audit_core::entry::kinds;
use audit_core::event::Media;
use audit_core::ingest::{Ingest, IngestKeys, commitment, is_reserved};
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::reader::RecordContent;
use audit_core::secret::SecretKey;
use audit_core::time::{Clock as _, IdSource as _, System};
use audit_core::token::IndexKey;
use audit_core::{Error, ErrorKind, Event, Kind, Payload};
use audit_testkit::memory::MemoryStore;
use serde_json::{Value, json};
use uuid::Uuid;

/// Does what the attribute `do` says, and remembers which kinds it saw.
#[derive(Debug, Default)]
struct Obedient {
    seen: Mutex<Vec<String>>,
}

impl Ingest for Obedient {
    fn ingest(&self, mut event: Event, keys: &IngestKeys) -> Result<Event, Error> {
        self.seen.lock().unwrap().push(event.kind.to_string());
        let order = event.attributes.remove("do").unwrap_or_default();
        let text = event.attributes.remove("text").unwrap_or_default();
        let text = text.as_str().unwrap_or_default();
        match order.as_str().unwrap_or_default() {
            "panic" => std::panic::resume_unwind(Box::new(text.to_owned())),
            "fail" => return Err(Error::unavailable(text)),
            "id" => event.id = Uuid::nil(),
            "kind" => event.kind = Kind::new("other").unwrap(),
            "break" => {
                event.refs.insert(text.to_owned(), String::new());
            }
            _ => {
                let name = keys.pseudonym("t", "text", text.as_bytes());
                event
                    .attributes
                    .insert("text".to_owned(), json!(name.to_string()));
                event
                    .attributes
                    .insert("audit.redaction".to_owned(), json!({}));
                for payload in &mut event.payloads {
                    payload.bytes = b"gone".to_vec();
                }
            }
        }
        Ok(event)
    }
}

async fn log(filter: Option<Arc<dyn Ingest>>) -> Log {
    let auditor = AuditorKey::random(&System);
    let keys = KeyRing::generate("example.org/ingest", auditor.public(), &System).unwrap();
    let mut options = LogOptions::new(Arc::new(MemoryStore::new()), Arc::new(keys));
    options.ingest = filter;
    Log::create(options).await.unwrap()
}

fn event(order: &str, bytes: usize) -> Event {
    let now = System.now();
    let mut event = Event::new(System.uuid_v7(now), now, Kind::new("note").unwrap());
    event.attributes.insert("do".to_owned(), json!(order));
    event.attributes.insert("text".to_owned(), json!("secret"));
    let payload = Payload::new("body", Media::Text, b"secret ".repeat(bytes / 7 + 1));
    event.payloads.push(payload);
    event
}

async fn recorded(log: &Log) -> Vec<Event> {
    let records = log.reader().records(0..100).await.unwrap();
    let open = records.into_iter().filter_map(|r| match r.content {
        RecordContent::Open(opened) => Some(opened.event),
        _ => None,
    });
    open.collect()
}

#[tokio::test]
async fn a_caller_got_something_past_the_filter() {
    let filter = Arc::new(Obedient::default());
    let log = log(Some(Arc::clone(&filter) as Arc<dyn Ingest>)).await;
    // Small ones are filtered in the caller's task, large ones on a thread of their own.
    for bytes in [10, 20_000, 100_000] {
        log.append(event("", bytes)).await.unwrap();
        let pending = log.submit(event("", bytes)).await.unwrap();
        pending.durable().await.unwrap();
    }
    let events = recorded(&log).await;
    assert_eq!(events.len(), 6);
    for event in events {
        assert_eq!(event.payloads[0].bytes, b"gone");
        assert!(!format!("{:?}", event.attributes).contains("secret"));
        assert_eq!(event.attributes["text"].as_str().unwrap().len(), 32);
    }
    log.close().await.unwrap();
    let seen = filter.seen.lock().unwrap();
    assert_eq!(
        *seen, ["note"; 6],
        "the log's own entries don't pass the filter"
    );
    assert!(kinds::ALL.iter().all(|kind| *kind != "note"));
}

#[tokio::test]
async fn a_filter_that_fails_lets_something_through_or_quotes_it() {
    let log = log(Some(Arc::new(Obedient::default()))).await;
    for order in ["panic", "fail", "id", "kind", "break"] {
        for bytes in [10, 100_000] {
            let event = Arc::new(event(order, bytes));
            // The same each time it is tried.
            for _ in 0..2 {
                let error = log.append(Arc::clone(&event)).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid, "{order}: {error}");
                let text = audit_core::with_causes(&error);
                assert!(!text.contains("secret"), "{order}: {text}");
                assert!(text.contains("was not recorded"), "{order}: {text}");
            }
        }
    }
    assert_eq!(recorded(&log).await.len(), 0);
    log.append(event("", 1))
        .await
        .expect("the log goes on after a filter that failed");
}

#[tokio::test]
async fn a_caller_pretends_to_be_the_filter() {
    for filter in [None, Some(Arc::new(Obedient::default()) as Arc<dyn Ingest>)] {
        let log = log(filter).await;
        for name in ["audit.redaction", "audit.redaction.commitments"] {
            let mut event = event("", 1);
            event.attributes.insert(name.to_owned(), json!({}));
            let error = log.append(event).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }
    assert!(!is_reserved("audit.redactions") && !is_reserved("audit.redact"));
}

#[test]
fn the_vectors_of_redaction_are_what_this_code_makes() {
    let index = [0x5a; 32];
    let key = IndexKey::new(SecretKey::new(index));
    let event: Uuid = "019b0000-0000-7000-8000-000000000001".parse().unwrap();
    let pseudonyms = [
        ("", "email", "john@example.org"),
        ("clinic-7", "email", "john@example.org"),
        ("clinic-7", "card", "4111111111111111"),
        ("klinik-\u{e4}", "actor", "\u{fc}ser"),
    ];
    let originals: [(&str, &[u8]); 3] = [
        ("attributes/url.query", br#""to=john%40example.org""#),
        (
            "payloads/request.body",
            b"{\"a\":\"john\\u0040example.org\"}\n",
        ),
        ("session_id", b""),
    ];
    let made = json!({
        "v": 1,
        "index": audit_core::hex::encode(&index),
        "pseudonyms": pseudonyms.map(|(tenant, what, value)| json!({
            "tenant": tenant, "what": what, "value": value,
            "hex": key.pseudonym(tenant, what, value.as_bytes()),
        })),
        "commitments": originals.map(|(field, original)| {
            let salt = key.redaction_salt(event, field);
            json!({
                "event": event, "field": field, "original": audit_core::hex::encode(original),
                "salt": salt, "commitment": commitment(&salt, original),
            })
        }),
    });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/redaction-1.json");
    if std::env::var_os("AUDIT_BLESS").is_some() {
        let text = format!("{}\n", serde_json::to_string_pretty(&made).unwrap());
        std::fs::write(&path, text).unwrap();
    }
    let kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(
        made, kept,
        "the format has changed, or run with AUDIT_BLESS=1"
    );
}
