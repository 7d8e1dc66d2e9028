//! Facts become part of an event.

use std::collections::BTreeMap;

use audit_core::event::Event;
use serde_json::map::Entry;
use serde_json::{Map, Value, json};

/// Adds what a parser found. What the event says already stays, and facts that no event may hold are left out: a record
/// without them is better than none, and `audit.facts_refused` says why.
pub fn add_facts(
    event: &mut Event,
    refs: BTreeMap<String, String>,
    attributes: Map<String, Value>,
) {
    let before = event.refs.clone();
    let mut added = Vec::with_capacity(attributes.len());
    event.refs.extend(refs);
    for (name, value) in attributes {
        if let Entry::Vacant(free) = event.attributes.entry(name) {
            added.push(free.key().clone());
            free.insert(value);
        }
    }
    if let Err(error) = event.check() {
        event.refs = before;
        for name in added {
            event.attributes.remove(&name);
        }
        event
            .attributes
            .insert("audit.facts_refused".to_owned(), json!(error.to_string()));
    }
}
