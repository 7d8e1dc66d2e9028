//! The vectors that a second implementation checks: `testdata/format-1.json`, made by this code from fixed randomness.
//!
//! `AUDIT_BLESS=1` writes the file anew. A change of it is a change of the format, or of what zstd's encoder chooses;
//! the Python script tells which: it must pass on the old file and on the new one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit_core::chain::AuditorKey;
use audit_core::entry::{Entry, TreeHead};
use audit_core::event::{Actor, ActorKind, Correlation, Media, SystemRef};
use audit_core::hex::encode;
use audit_core::keyring::{KeyRing, Protection};
use audit_core::log::{Log, LogOptions, Succession};
use audit_core::packed;
use audit_core::reader::RecordContent;
use audit_core::secret::SecretKey;
use audit_core::time::{Clock as _, IdSource as _};
use audit_core::{Event, Kind, Payload};
use audit_testkit::memory::MemoryStore;
use audit_testkit::time::{TestClock, TestIds};
use audit_tlog::note::VerifierKey;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const ORIGIN: &str = "vectors.example/log";

#[tokio::test]
async fn the_vectors_are_what_this_code_makes() {
    same_as("format-1.json", &make(ORIGIN, None).await);
}

#[tokio::test]
async fn the_vectors_of_a_log_that_succeeds_another_are_what_this_code_makes() {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata");
    let text = std::fs::read_to_string(testdata.join("format-1.json")).unwrap();
    let before: Value = serde_json::from_str(&text).unwrap();
    let note = before["checkpoints"].as_array().unwrap().last().unwrap();
    let note = note.as_str().unwrap().as_bytes().to_vec();
    let vkey: VerifierKey = before["vkey"].as_str().unwrap().parse().unwrap();
    let survives = TreeHead {
        root: audit_core::hex::Hex([7; 32]),
        size: 3,
    };
    let by = Actor::new(ActorKind::Human, "u-9");
    let reason = "the disk and its mirror burned";
    let succession = Succession::new(&note, &vkey, survives, reason, by).unwrap();
    same_as(
        "format-2.json",
        &make("vectors.example/log-2", Some(succession)).await,
    );
}

fn same_as(name: &str, made: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata")
        .join(name);
    let text = format!("{}\n", serde_json::to_string_pretty(made).unwrap());
    if std::env::var_os("AUDIT_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap();
    assert!(
        stored == text,
        "testdata/{name} is not what this code makes: the format has changed"
    );
}

#[test]
fn the_packed_vectors_are_what_this_code_makes() {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata");
    let text = std::fs::read_to_string(testdata.join("format-1.json")).unwrap();
    let log: Value = serde_json::from_str(&text).unwrap();
    let entries = log["entries"].as_array().unwrap().iter();
    let cases = [
        "",
        "0",
        "31",
        "32",
        "007",
        "9999999",
        "12345678",
        "123456789",
        "1234567x",
        "deadbeef",
        "deadbee",
        "deadbeef5",
        "DEADBEEF",
        "0.5",
        "-17",
        "2026-11-22T07:25:47.123456Z",
        "1970-01-01T00:00:00.000000Z",
        "9999-12-31T23:59:59.999999Z",
        "1969-12-31T23:59:59.999999Z",
        "2024-02-29T00:00:00.000000Z",
        "2026-02-29T00:00:00.000000Z",
        "2026-11-22T24:00:00.000000Z",
        "2026-11-22T07:25:60.000000Z",
        "2026-11-22T07:25:47.12345Z",
        "a2026-11-22T07:25:47.123456Z",
        "01a20223-9701-7649-909e-0d49ea7f4125",
        "a01a20223-9701-7649-909e-0d49ea7f4125",
        "01a20223-9701-7649-909e-0d49ea7f412",
        "01A20223-9701-7649-909e-0d49ea7f4125",
        "01a20223-9701-7649-909e-0d49ea7f4125ff",
        "key.registered.body",
        r#"","length":5,"length":","kind":"tool.call","mac":"#,
        "Ärztin \"Ada\"\n\u{0}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into_iter()
    .chain([
        b"x".repeat(63),
        b"x".repeat(64),
        b"x".repeat(65),
        b"a".repeat(63),
        b"a".repeat(64),
        b"a".repeat(65),
        b"0".repeat(300),
        (0..=255).collect(),
    ])
    .filter(|bytes| !bytes.is_empty());
    let refused = [
        "20",
        "2035",
        "20782079",
        "6005",
        "608000",
        "630301020304",
        "6304010203046304010203 04",
        "61ff",
        "65",
        "7f",
        "ff",
        "0102",
        "23626f6479",
        "617fffffffffffffff",
        "600a",
    ];
    let made = json!({
        "cases": cases
            .map(|bytes| json!({"bytes": encode(&bytes), "packed": encode(&packed::pack(&bytes))}))
            .collect::<Vec<_>>(),
        "entries": entries
            .map(|entry| encode(&packed::pack(entry["entry"].as_str().unwrap().as_bytes())))
            .collect::<Vec<_>>(),
        "phrases": encode(&Sha256::digest(std::fs::read(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("src/phrases-1.txt")
        ).unwrap())),
        "refused": refused.map(|hex| hex.replace(' ', "")),
        "v": 1,
    });
    for case in made["refused"].as_array().unwrap() {
        let bytes = audit_core::hex::decode(case.as_str().unwrap()).unwrap();
        assert!(packed::unpack(&bytes).is_err(), "{case} unpacks");
    }
    let path = testdata.join("packed-1.json");
    let text = format!("{}\n", serde_json::to_string_pretty(&made).unwrap());
    if std::env::var_os("AUDIT_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap() == text,
        "testdata/packed-1.json is not what this code makes: stored entries can't be read any more"
    );
}

async fn make(origin: &str, succession: Option<Succession>) -> Value {
    let ids = Arc::new(TestIds::new(1));
    let clock = Arc::new(TestClock::default());
    let auditor = AuditorKey::new(SecretKey::new([0x41; 32]));
    let keys = Arc::new(KeyRing::generate(origin, auditor.public(), &*ids).unwrap());
    let ring = keys.to_file_bytes(&Protection::None, &*ids).unwrap();
    let ring: Value = serde_json::from_slice(&ring).unwrap();
    let store = MemoryStore::new();
    let state = tempfile::tempdir().unwrap();

    let mut first_run = true;
    for run in 0..2 {
        let mut options = LogOptions::new(Arc::new(store.clone()), Arc::clone(&keys));
        options.clock = Arc::clone(&clock) as _;
        options.ids = Arc::clone(&ids) as _;
        options.build = "vectors/1".into();
        options.succession.clone_from(&succession);
        options.state_dir = Some(state.path().to_owned());
        // Only the closing of the log publishes, so that the checkpoints are always the same.
        options.publish = Duration::from_secs(3600);
        let log = if first_run {
            Log::create(options).await
        } else {
            Log::open(options).await
        }
        .unwrap();
        first_run = false;
        for n in 0..3 {
            clock.advance(Duration::from_millis(1500));
            log.append(event(&clock, &ids, run, n)).await.unwrap();
        }
        clock.advance(Duration::from_millis(1500));
        log.close().await.unwrap();
    }

    let contents = store.contents();
    let reader = audit_core::reader::LogReader::new(Arc::new(store), Arc::clone(&keys));
    let mut entries = Vec::new();
    for row in &contents.rows {
        let record = reader.record(row.index).await.unwrap();
        let entry = Entry::decode(&row.entry).unwrap();
        let mut out = json!({
            "entry": String::from_utf8(row.entry.clone()).unwrap(),
            "leaf_hash": audit_tlog::hash::leaf_hash(&row.entry).to_string(),
            "parts": row.parts.as_ref().map(|p| encode(p)),
            "tokens": row.tokens.as_ref().map(|t| json!({"salt": t.salt, "tokens": t.tokens})),
        });
        if let RecordContent::Open(opened) = record.content {
            let mut event = opened.event.to_json();
            for member in ["id", "time", "kind", "payloads"] {
                event.as_object_mut().unwrap().remove(member);
            }
            out["content"] = event;
            out["payloads"] = json!(
                opened
                    .event
                    .payloads
                    .iter()
                    .map(payload)
                    .collect::<Vec<_>>()
            );
            if entry.event == entries_with_disclosure(&contents.rows) {
                let field = match &succession {
                    Some(_) => "attributes/audit.rollback.reason",
                    None => "attributes/gen_ai.request.model",
                };
                let field = opened.disclose(field).unwrap();
                out["disclosed"] = json!({
                    "name": field.name, "position": field.position, "proof": field.proof,
                    "salt": field.salt, "value": String::from_utf8(field.value).unwrap(),
                });
            }
        }
        entries.push(out);
    }
    json!({
        "auditor_private": encode(&[0x41; 32]),
        "checkpoints": contents.checkpoints.values().map(|n| String::from_utf8(n.clone()).unwrap()).collect::<Vec<_>>(),
        "entries": entries,
        "fingerprint": {
            "what": "credential", "secret": encode(b"sk-example"),
            "hash": keys.index_key().fingerprint("credential", b"sk-example"),
        },
        "keys": contents.keys.values().map(|k| json!({
            "id": k.id, "scope": k.scope, "run": k.run, "generation": k.generation, "wrapped": encode(&k.wrapped),
        })).collect::<Vec<_>>(),
        "ring": ring["ring"],
        "v": 1,
        "vkey": keys.vkey().to_string(),
    })
}

/// A payload; a long one as the text that it repeats.
fn payload(payload: &Payload) -> Value {
    match payload.name.as_str() {
        "long" => json!({"name": "long", "hex": encode(LONG.as_bytes()), "times": LONG_TIMES}),
        name => json!({"name": name, "hex": encode(&payload.bytes), "times": 1}),
    }
}

const LONG: &str = "again and again, ";
const LONG_TIMES: usize = 2000;

/// The first event with content.
fn entries_with_disclosure(rows: &[audit_core::store::Row]) -> uuid::Uuid {
    rows.iter()
        .find(|row| row.parts.is_some())
        .unwrap()
        .columns
        .event
}

fn event(clock: &TestClock, ids: &TestIds, run: usize, n: usize) -> Event {
    let now = clock.now();
    let mut event = Event::new(
        ids.uuid_v7(now),
        now.plus_micros(-250),
        Kind::new("llm.request").unwrap(),
    );
    event.session_id = Some(format!("session-{run}"));
    event.actor = Some(Actor {
        display_name: Some("Ärztin \"Ada\"\n".into()),
        id: "u-1".into(),
        kind: ActorKind::Human,
    });
    if n == 1 {
        event.subject = Some("patient-1".into());
        event.on_behalf_of = Some(Actor::new(ActorKind::Human, "u-2"));
        event.system = Some(SystemRef {
            id: "ward".into(),
            version: Some("1".into()),
        });
        event.correlation = Some(Correlation {
            trace_id: Some("0".repeat(31) + "1"),
            ..Correlation::default()
        });
        event.refs.insert("model_id".into(), "m-1".into());
        event.payloads.push(Payload::new(
            "request.body",
            Media::Json,
            br#"{"a":1}"#.to_vec(),
        ));
        event
            .payloads
            .push(Payload::new("blob", Media::Bytes, (0..=255).collect()));
        event.payloads.push(Payload::new(
            "long",
            Media::Text,
            LONG.repeat(LONG_TIMES).into_bytes(),
        ));
    }
    event
        .attributes
        .insert("gen_ai.request.model".into(), json!("gpt-example"));
    event.attributes.insert(
        "numbers".into(),
        json!([0, -1, 0.1, 1e21, 9_007_199_254_740_991_u64]),
    );
    event
}
