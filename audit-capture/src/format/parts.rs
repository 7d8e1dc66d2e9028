//! Pieces that several formats share: taking members out of objects, media, usage, growing texts.

use serde_json::{Map, Value};

use super::Room;
use crate::exchange::{Answered, Media, Part};
use crate::response::Usage;

/// Takes the text at `name`; one that is empty counts as none. What isn't a text stays.
pub(crate) fn take_text(members: &mut Map<String, Value>, name: &str) -> Option<String> {
    match members.get(name)? {
        Value::String(_) => match members.remove(name)? {
            Value::String(text) => Some(text).filter(|text| !text.is_empty()),
            _ => None,
        },
        Value::Null => {
            members.remove(name);
            None
        }
        _ => None,
    }
}

/// Takes the truth value at `name`.
pub(crate) fn take_bool(members: &mut Map<String, Value>, name: &str) -> Option<bool> {
    let value = members.get(name)?.as_bool()?;
    members.remove(name);
    Some(value)
}

/// Takes the items of the array at `name`; none if there is no array.
pub(crate) fn take_array(members: &mut Map<String, Value>, name: &str) -> Vec<Value> {
    match members.get(name) {
        Some(Value::Array(_)) => match members.remove(name) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Takes the object at `name`.
pub(crate) fn take_map(members: &mut Map<String, Value>, name: &str) -> Option<Map<String, Value>> {
    match members.get(name)? {
        Value::Object(_) => match members.remove(name)? {
            Value::Object(inner) => Some(inner),
            _ => None,
        },
        _ => None,
    }
}

/// A text, or a number as text: what stands for a word in some formats.
pub(crate) fn number(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(crate) fn text_part(text: impl Into<String>) -> Part {
    Part::Text {
        text: text.into(),
        other: Map::new(),
    }
}

/// The parts of a content member: a text, an object, or an array of these.
pub(crate) fn parts_of(content: Value, each: fn(Map<String, Value>) -> Part) -> Vec<Part> {
    match content {
        Value::Null => Vec::new(),
        Value::String(text) => vec![text_part(text)],
        Value::Object(members) => vec![each(members)],
        Value::Array(items) => items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => text_part(text),
                Value::Object(members) => each(members),
                raw => Part::Other { raw },
            })
            .collect(),
        raw => vec![Part::Other { raw }],
    }
}

/// The length of what base64 text stands for, in either alphabet, padded or not.
pub(crate) fn encoded_bytes(text: &str) -> u64 {
    let digits = text
        .bytes()
        .filter(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_'))
        .count() as u64;
    digits / 4 * 3 + (digits % 4).saturating_sub(1)
}

/// Media whose bytes are in the message.
pub(crate) fn media(media_type: Option<String>, encoded: &str) -> Media {
    Media {
        media_type,
        bytes: Some(encoded_bytes(encoded)),
        ..Media::default()
    }
}

/// Media at a URL, which may hold the bytes itself.
pub(crate) fn url_media(url: String) -> Media {
    if let Some(data) = url.strip_prefix("data:")
        && let Some((head, encoded)) = data.split_once(',')
    {
        let (kind, base64) = match head.strip_suffix(";base64") {
            Some(kind) => (kind, true),
            None => (head, false),
        };
        return Media {
            media_type: Some(kind.to_owned()).filter(|kind| !kind.is_empty()),
            bytes: Some(if base64 {
                encoded_bytes(encoded)
            } else {
                encoded.len() as u64
            }),
            ..Media::default()
        };
    }
    Media {
        url: Some(url),
        ..Media::default()
    }
}

/// The part that media are, by their type.
pub(crate) fn media_part(media: Media) -> Part {
    let kind = media.media_type.as_deref().unwrap_or_default();
    match kind.split('/').next() {
        Some("image") => Part::Image(media),
        Some("audio") => Part::Audio(media),
        Some("video") => Part::Video(media),
        _ => Part::Document(media),
    }
}

/// Appends to the text at `name`.
pub(crate) fn append(members: &mut Map<String, Value>, name: &str, text: &str, room: &mut Room) {
    if let Some(Value::String(old)) = members.get_mut(name) {
        room.append(old, text);
    } else {
        let mut new = String::new();
        room.append(&mut new, text);
        members.insert(name.to_owned(), Value::String(new));
    }
}

/// What a value takes, about: a `Value` has 32 bytes, and its texts come on top.
pub(crate) fn weight(value: &Value) -> usize {
    32 + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(members) => members.iter().map(|(n, v)| n.len() + weight(v)).sum(),
        _ => 0,
    }
}

/// A small member that is said again, such as a count, is taken even where there is no room any more.
const SMALL_BYTES: usize = 4096;

/// Sets a member of what a stream is put together to, if there is room for it.
pub(crate) fn put(
    members: &mut Map<String, Value>,
    name: impl Into<String>,
    value: Value,
    room: &mut Room,
) {
    let name = name.into();
    let new = weight(&value);
    let (old, known) = match members.get(&name) {
        Some(old) => (weight(old), true),
        None => (0, false),
    };
    let small = known && new <= SMALL_BYTES;
    let grown = new.saturating_sub(old) + if known { 0 } else { name.len() };
    if grown == 0 || room.take(grown) || small {
        room.give(old.saturating_sub(new));
        members.insert(name, value);
    }
}

/// Sets members as [`put`] does; what is null says nothing.
pub(crate) fn put_all(
    members: &mut Map<String, Value>,
    new: impl IntoIterator<Item = (String, Value)>,
    room: &mut Room,
) {
    for (name, value) in new {
        if !value.is_null() {
            put(members, name, value, room);
        }
    }
}

/// Texts of a list, one after the other.
pub(crate) fn join(items: &[Value]) -> Option<String> {
    items.iter().map(Value::as_str).collect()
}

/// A place in a usage object, and the count that stands there.
pub(crate) type Place = (&'static str, fn(&mut Usage) -> &mut Option<u64>);

/// Takes the usage at `name`.
pub(crate) fn take_usage(
    members: &mut Map<String, Value>,
    name: &str,
    places: &[Place],
    answered: &mut Answered,
) {
    if members.get(name).is_some_and(Value::is_object)
        && let Some(given) = members.remove(name)
    {
        super::usage(given, places, answered);
    }
}
