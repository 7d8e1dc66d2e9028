//! What of a head is recorded: everything but credentials, and of those a keyed fingerprint.

use audit_capture::credentials::{self, Credential};
use audit_core::event::{Event, Media};
use audit_core::log::Log;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::{Value, json};

/// Names and values in their order.
pub(crate) fn pairs(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

/// Adds headers under `name`, with a mark where a credential stood; answers with the fingerprints of those.
pub(crate) fn set_headers(
    event: &mut Event,
    name: &str,
    log: &Log,
    pairs: &[(String, Vec<u8>)],
) -> Vec<Value> {
    let (kept, found) = credentials::split_headers(pairs);
    let kept: Vec<Value> = kept.into_iter().map(|pair| json!(pair)).collect();
    event.attributes.insert(name.to_owned(), Value::Array(kept));
    fingerprints(log, "header", &found)
}

/// Adds path and query of a request's target; answers with the fingerprints of what was taken out.
pub(crate) fn set_target(event: &mut Event, log: &Log, path_and_query: &str) -> Vec<Value> {
    let (kept, found) = credentials::split_query(path_and_query);
    let mut set = |name: &str, value: &str| event.attributes.insert(name.to_owned(), json!(value));
    match kept.split_once('?') {
        Some((path, query)) => {
            set("url.path", path);
            set("url.query", query);
        }
        None => {
            set("url.path", &kept);
        }
    }
    fingerprints(log, "query", &found)
}

fn fingerprints(log: &Log, place: &str, found: &[Credential]) -> Vec<Value> {
    found
        .iter()
        .map(|credential| {
            let print = log.fingerprint("credential", credential.expose_key());
            json!({ place: credential.name, "fingerprint": print.to_string() })
        })
        .collect()
}

pub(crate) fn media(headers: &HeaderMap) -> Media {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map_or(Media::Bytes, Media::of_content_type)
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    value.trim().parse().ok()
}
