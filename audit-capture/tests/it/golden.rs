//! Snapshots: attributes and view of small exchanges written for this purpose, one file each in `testdata`.
//!
//! `UPDATE_SNAPSHOTS=1` writes what the code says now into the files; the difference is for review.

use std::path::{Path, PathBuf};

use audit_capture::{
    Outcome, RequestHead, ResponseHead, ResponseParser, detect, exchange, request_facts,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::framing::{event, frame};
use crate::support::header;

const EXCHANGES: usize = 53;

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// The body of a response: JSON, lines, an array, or frames.
fn body(response: &Value) -> Vec<u8> {
    let list = |name: &str| response[name].as_array();
    if let Some(lines) = list("lines") {
        let lines = lines.iter().map(|l| format!("{}\n", l.as_str().unwrap()));
        lines.collect::<String>().into_bytes()
    } else if let Some(lines) = list("json_lines") {
        lines
            .iter()
            .flat_map(|l| format!("{l}\n").into_bytes())
            .collect()
    } else if let Some(items) = list("items") {
        serde_json::to_vec_pretty(items).unwrap()
    } else if let Some(frames) = list("frames") {
        frames
            .iter()
            .flat_map(|f| match f[0].as_str().unwrap().strip_prefix('!') {
                None => event(f[0].as_str().unwrap(), &f[1]),
                Some(kind) => frame(
                    &[(":exception-type", kind), (":message-type", "exception")],
                    f[1].to_string().as_bytes(),
                ),
            })
            .collect()
    } else if let Some(chunks) = list("chunks") {
        chunks
            .iter()
            .flat_map(|c| event("chunk", &json!({ "bytes": STANDARD.encode(c.to_string()) })))
            .collect()
    } else {
        response["body"].to_string().into_bytes()
    }
}

fn facts(recorded: &Value) -> Value {
    let text = |place: &str| {
        recorded
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
    let request_body = match recorded.pointer("/request/body") {
        Some(body) => body.to_string(),
        None => String::new(),
    };
    let asked = request_facts(&api, &head, request_body.as_bytes());

    let status = recorded["response"]["status"].as_u64().unwrap();
    let content_type = text("/response/content_type");
    let response = ResponseHead::new(
        u16::try_from(status).unwrap(),
        vec![
            header("content-type", content_type),
            header("x-request-id", "req_1"),
        ],
    );
    let mut parser = ResponseParser::new(&api, &response, asked.stream);
    let body = body(&recorded["response"]);
    parser.push(&body);
    let answered = parser.finish(Outcome::Complete);
    let view = exchange(
        &api,
        Some((&head, request_body.as_bytes())),
        Some((&response, &body)),
    );
    json!({
        "view": view.to_json(),
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
