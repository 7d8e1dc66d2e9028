//! Where recorded vectors lie, and how they are read.

use std::path::PathBuf;

use audit_tlog::hash::{Hash, leaf_hash};
use audit_tlog::tile::{EdgeTiles, TileMap};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The folder of a set of vectors, or `None` when no fixtures are at hand, which then is said.
///
/// With `AUDIT_FIXTURES` set everything must be there: what is missing fails the test that needs it.
pub(crate) fn vectors(set: &str) -> Option<PathBuf> {
    let Some(fixtures) = std::env::var_os("AUDIT_FIXTURES") else {
        println!("skipped: AUDIT_FIXTURES is not set");
        return None;
    };
    Some(PathBuf::from(fixtures).join("..").join("vectors").join(set))
}

pub(crate) fn read(path: &std::path::Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn read_text(path: &std::path::Path) -> String {
    String::from_utf8(read(path)).unwrap()
}

pub(crate) fn read_json(path: &std::path::Path) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

/// One JSON value on each line.
pub(crate) fn read_json_lines(path: &std::path::Path) -> Vec<Value> {
    read_text(path)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("no text in field {field}: {value}"))
}

pub(crate) fn number(value: &Value, field: &str) -> u64 {
    value[field]
        .as_u64()
        .unwrap_or_else(|| panic!("no number in field {field}: {value}"))
}

pub(crate) fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    match &value[field] {
        // Go writes an empty slice as null.
        Value::Null => &[],
        other => other
            .as_array()
            .unwrap_or_else(|| panic!("no list in field {field}: {value}")),
    }
}

pub(crate) fn base64(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

pub(crate) fn hash(value: &Value) -> Hash {
    Hash::try_from(base64(value).as_slice()).unwrap()
}

pub(crate) fn hashes(values: &[Value]) -> Vec<Hash> {
    values.iter().map(hash).collect()
}

/// The tiles of the tree over these leaf hashes.
pub(crate) fn tiles(leaves: &[Hash]) -> TileMap {
    let mut edge = EdgeTiles::new();
    for leaf in leaves {
        edge.push(*leaf);
    }
    edge.take_changed().into_iter().collect()
}

/// Leaf hashes that all differ.
pub(crate) fn distinct_leaves(count: u64) -> Vec<Hash> {
    (0..count)
        .map(|leaf| leaf_hash(&leaf.to_be_bytes()))
        .collect()
}
