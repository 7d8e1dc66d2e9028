//! Looking through what is recorded, against hashing the same bytes with SHA-256.

use std::fmt::Write as _;
use std::hint::black_box;

use audit_capture::redaction::{Options, Redactor, RuleSet};
use audit_core::event::{Event, Kind, Media, Payload};
use audit_core::ingest::{Ingest as _, IngestKeys};
use audit_core::secret::SecretKey;
use audit_core::time::Timestamp;
use audit_core::token::IndexKey;
use criterion::{Criterion, Throughput};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

const BYTES: usize = 256 * 1024;

/// Prose with a number here and there, and something personal in every `personal`-th sentence.
fn prose(personal: Option<usize>) -> impl Iterator<Item = String> {
    (1_usize..).map(move |n| match personal {
        Some(every) if n.is_multiple_of(every) => {
            format!("Write to patient{n}@example.org, or pay with 4111 1111 1111 1111. ")
        }
        _ => format!(
            "The ward on floor {} had room for the patient, who slept until noon. ",
            n % 9
        ),
    })
}

fn request(personal: Option<usize>) -> Vec<u8> {
    let mut body = r#"{"model":"gpt-5","stream":true,"messages":["#.to_owned();
    let mut sentences = prose(personal);
    while body.len() < BYTES {
        let text: String = sentences.by_ref().take(12).collect();
        write!(body, r#"{{"role":"user","content":"{text}"}},"#).expect("memory takes it");
    }
    body += r#"{"role":"user","content":"and now?"}]}"#;
    body.into_bytes()
}

fn stream(personal: Option<usize>) -> Vec<u8> {
    let mut body = String::new();
    for sentence in prose(personal) {
        for word in sentence.split_inclusive(' ') {
            write!(
                body,
                "data: {{\"id\":\"chatcmpl-7\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"gpt-5\",\
                 \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{word}\"}},\"finish_reason\":null}}]}}\n\n"
            )
            .expect("memory takes it");
        }
        if body.len() > BYTES {
            body += "data: [DONE]\n\n";
            return body.into_bytes();
        }
    }
    Vec::new()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let sets = ["personal-data@1", "secrets@1"]
        .map(|name| RuleSet::built_in(name).expect("these are built in"));
    let redactor = Redactor::new(Options::new(sets.to_vec())).expect("built-in rules are right");
    let keys = IngestKeys::new(IndexKey::new(SecretKey::new([7; 32])));
    let text = |personal| {
        prose(personal)
            .take(BYTES / 70)
            .collect::<String>()
            .into_bytes()
    };
    for (name, media, bytes) in [
        ("JSON, clean", Media::Json, request(None)),
        (
            "JSON, a hit in 100 sentences",
            Media::Json,
            request(Some(100)),
        ),
        (
            "JSON, a hit in each sentence",
            Media::Json,
            request(Some(1)),
        ),
        ("stream, clean", Media::EventStream, stream(None)),
        (
            "stream, a hit in 100 sentences",
            Media::EventStream,
            stream(Some(100)),
        ),
        ("text, clean", Media::Text, text(None)),
    ] {
        let kind = Kind::new("llm.request").expect("the name follows the rule");
        let mut event = Event::new(Uuid::nil(), Timestamp::EPOCH, kind);
        event
            .payloads
            .push(Payload::new("request.body", media, bytes.clone()));
        let mut group = criterion.benchmark_group(format!("redaction/{name}"));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("raw SHA-256", |b| {
            b.iter(|| Sha256::digest(black_box(&bytes)));
        });
        // The copy of the event is part of it, as it is where an event is tried again.
        group.bench_function("built-in rules", |b| {
            b.iter(|| {
                redactor
                    .ingest(black_box(&event).clone(), &keys)
                    .expect("it is recorded")
            });
        });
        group.finish();
    }
    criterion.final_summary();
}
