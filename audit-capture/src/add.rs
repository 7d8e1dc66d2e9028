//! Facts become part of an event.

use std::collections::BTreeMap;

use audit_core::event::Event;
use serde_json::{Map, Value, json};

/// Adds what a parser found. What the event says already stays, and facts that no event may hold are left out: a record
/// without them is better than none, and `audit.facts_refused` says why.
pub fn add_facts(
    event: &mut Event,
    refs: BTreeMap<String, String>,
    attributes: Map<String, Value>,
) {
    let before = (event.refs.clone(), event.attributes.clone());
    event.refs.extend(refs);
    for (name, value) in attributes {
        event.attributes.entry(name).or_insert(value);
    }
    if let Err(error) = event.check() {
        (event.refs, event.attributes) = before;
        event
            .attributes
            .insert("audit.facts_refused".to_owned(), json!(error.to_string()));
    }
}
