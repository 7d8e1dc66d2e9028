//! What of a head is recorded: everything but credentials, and of those a keyed fingerprint.

use audit_capture::credentials::{self as capture, Credential};
use audit_core::log::Log;
use serde_json::{Value, json};

/// A head as it is recorded.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Names and values in their order, with a mark where a credential stood.
    pub(crate) headers: Vec<Value>,
    /// Where a credential stood, and its fingerprint.
    pub(crate) credentials: Vec<Value>,
}

/// Parts headers.
pub(crate) fn headers(log: &Log, pairs: &[(String, Vec<u8>)]) -> Kept {
    let (kept, found) = capture::split_headers(pairs);
    Kept {
        headers: kept
            .into_iter()
            .map(|(name, value)| Value::Array(vec![Value::String(name), Value::String(value)]))
            .collect(),
        credentials: fingerprints(log, "header", &found),
    }
}

/// Parts a request target into path, query and the fingerprints of what stood in them.
pub(crate) fn target(log: &Log, path_and_query: &str) -> (String, Option<String>, Vec<Value>) {
    let (kept, found) = capture::split_query(path_and_query);
    let found = fingerprints(log, "query", &found);
    match kept.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned()), found),
        None => (kept, None, found),
    }
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
