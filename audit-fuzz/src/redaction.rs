//! Redaction: the scanner that leaves every byte where it is, and all that is put on top of it.

use std::io::Write as _;
use std::sync::LazyLock;

use audit_capture::redaction::{Options, Redactor, RuleSet};
use audit_core::event::{Event, Kind, Media, Payload};
use audit_core::ingest::{Ingest as _, IngestKeys};
use audit_core::secret::SecretKey;
use audit_core::time::Timestamp;
use audit_core::token::IndexKey;
use serde::de::IgnoredAny;
use uuid::Uuid;

static BUILT_IN: LazyLock<Redactor> = LazyLock::new(|| {
    let sets =
        ["personal-data@1", "secrets@1"].map(|n| RuleSet::built_in(n).expect("it is built in"));
    Redactor::new(Options::new(sets.to_vec())).expect("built-in rules are right")
});

/// Rules of every sort: pointers, patterns, and one that takes whole values.
static OWN: LazyLock<Redactor> = LazyLock::new(|| {
    let set = serde_json::json!({"name": "own", "version": "1", "rule": [
        {"name": "whole", "pointers": ["/a", "/*/b/0"], "action": "mask"},
        {"name": "below", "pointers": ["/c"], "patterns": ["x+"], "action": "drop"},
        {"name": "pattern", "patterns": ["(?i)secret"], "detect": ["email"], "action": "metadata_only"},
    ]});
    let set: RuleSet = serde_json::from_value(set).expect("a rule set");
    Redactor::new(Options::new(vec![set])).expect("these rules are right")
});

fn well_formed(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn recorded(redactor: &Redactor, media: Media, coding: &str, bytes: &[u8]) -> (Vec<u8>, bool) {
    let kind = Kind::new("llm.response").expect("a valid kind");
    let mut event = Event::new(Uuid::nil(), Timestamp::EPOCH, kind);
    event.attributes.insert(
        "http.response.header".to_owned(),
        serde_json::json!([["content-encoding", coding]]),
    );
    event
        .payloads
        .push(Payload::new("response.body", media, bytes.to_vec()));
    let keys = IngestKeys::new(IndexKey::new(SecretKey::new([7; 32])));
    let event = redactor
        .ingest(event, &keys)
        .expect("an event that can be recorded still can");
    event.check().expect("what is left is an event");
    let changed = event.attributes.contains_key("audit.redaction.commitments");
    let payload = event.payloads.into_iter().next();
    (payload.map(|p| p.bytes).unwrap_or_default(), changed)
}

/// Bodies of every form, through rules of every sort.
///
/// # Panics
///
/// If JSON is none afterwards, bytes change without the event saying so, or an address that was put in comes out.
pub fn redaction(data: &[u8]) {
    let (choice, body) = crate::choice(data);
    let forms = [
        Media::Json,
        Media::EventStream,
        Media::NdJson,
        Media::Text,
        Media::Form,
        Media::Multipart,
        Media::Bytes,
    ];
    let media = forms
        .get(choice % forms.len())
        .copied()
        .unwrap_or(Media::Json);
    let codings = ["", "gzip", "deflate", "br", "zstd"];
    let coding = codings.get(choice / forms.len() % codings.len()).copied();
    let coding = coding.unwrap_or_default();
    for redactor in [&*BUILT_IN, &*OWN] {
        let (left, changed) = recorded(redactor, media, coding, body);
        assert!(changed || left == body, "bytes change, and nobody says so");
        if coding.is_empty() && media == Media::Json && well_formed(body) {
            assert!(well_formed(&left), "JSON is none any more");
        }
    }
    // An address in a string, in any spelling of what stands around it.
    if choice >= 128 && media == Media::Json {
        let text = String::from_utf8_lossy(body);
        let mut document = Vec::new();
        let written = serde_json::to_string(&format!("{text} someone@example.org {text}"));
        write!(document, "{{\"a\":{}}}", written.expect("text is JSON")).expect("memory takes it");
        let (left, _) = recorded(&BUILT_IN, media, "", &document);
        let left = String::from_utf8_lossy(&left);
        assert!(!left.contains("someone@example.org"), "an address passes");
        assert!(well_formed(left.as_bytes()), "JSON is none any more");
    }
}
