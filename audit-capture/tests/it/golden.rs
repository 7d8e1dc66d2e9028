//! Snapshots: the attributes of small exchanges written for this purpose, one file each in `testdata`.
//!
//! `UPDATE_SNAPSHOTS=1` writes what the code says now into the files; the difference is for review.

use std::path::{Path, PathBuf};

use audit_capture::{Outcome, RequestHead, ResponseHead, ResponseParser, detect, request_facts};
use serde_json::{Value, json};

use crate::support::header;

const EXCHANGES: usize = 12;

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn facts(exchange: &Value) -> Value {
    let text = |place: &str| {
        exchange
            .pointer(place)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let head = RequestHead::new(text("/request/method"), text("/request/path"), vec![]);
    let api = detect(
        Some(text("/provider")),
        None,
        &head.method,
        &head.path_and_query,
    );
    let body = match exchange.pointer("/request/body") {
        Some(body) => body.to_string(),
        None => String::new(),
    };
    let asked = request_facts(&api, &head, body.as_bytes());

    let status = exchange["response"]["status"].as_u64().unwrap();
    let content_type = text("/response/content_type");
    let response = ResponseHead::new(
        u16::try_from(status).unwrap(),
        vec![
            header("content-type", content_type),
            header("x-request-id", "req_1"),
        ],
    );
    let mut parser = ResponseParser::new(&api, &response, asked.stream);
    let body = match exchange.pointer("/response/lines") {
        Some(lines) => lines
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|l| [l.as_str().unwrap(), "\n"])
            .collect(),
        None => exchange["response"]["body"].to_string(),
    };
    parser.push(body.as_bytes());
    let answered = parser.finish(Outcome::Complete);
    json!({
        "request": {
            "attributes": asked.attributes(),
            "refs": asked.refs(),
            "tool_results": asked.tool_results.iter().map(|r| json!([r.call_id, r.latest])).collect::<Vec<_>>(),
        },
        "response": {
            "attributes": answered.attributes(),
            "refs": answered.refs(),
            "provider_request_id": answered.provider_request_id,
            "texts": answered.texts,
            "tool_calls": answered.tool_calls.iter().map(|c| json!({"attributes": c.attributes(), "arguments": c.arguments})).collect::<Vec<_>>(),
        },
    })
}

#[test]
fn a_snapshot_differs() {
    let files = files();
    assert_eq!(files.len(), EXCHANGES);
    for path in files {
        let mut exchange: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let seen = facts(&exchange);
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            exchange["facts"] = seen;
            std::fs::write(&path, format!("{exchange:#}\n")).unwrap();
        } else {
            assert_eq!(exchange["facts"], seen, "{}", path.display());
        }
    }
}
