//! Reading JSON that a stranger wrote.
//!
//! A whole document that `serde_json` refuses (nested too deeply for it, a number beyond a double) would lose every fact
//! in it. So the top object is cut into its members first, which only checks syntax and has no depth limit, and each
//! member is read on its own, with limits on depth and number of values.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// What nests deeper reads as `null`.
pub(crate) const DEPTH_MAX: usize = 64;

/// Values read from one document; a `Value` takes 32 bytes, so this is some 32 MB beside the text itself.
const VALUES_MAX: usize = 1 << 20;

/// Members whose value is large and never a fact.
const SKIPPED: [&str; 4] = [
    "embedding",
    "b64_json",
    "encrypted_content",
    "partial_image_b64",
];

/// What could be read.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// The top object; empty if there was none.
    pub(crate) members: Map<String, Value>,
    /// What could not be read, and why.
    pub(crate) note: Option<String>,
}

/// Reads a document whose top is an object.
pub(crate) fn document(bytes: &[u8]) -> Document {
    let mut document = Document::default();
    let text = String::from_utf8_lossy(bytes);
    if matches!(text, Cow::Owned(_)) {
        document.note = Some("JSON with invalid UTF-8".to_owned());
    }
    let text = text.trim_start_matches('\u{feff}');
    let members = match serde_json::from_str::<RawMembers<'_>>(text) {
        Ok(members) => members,
        Err(error) => {
            document.note = Some(format!("not a JSON object: {}", short(&error.to_string())));
            return document;
        }
    };
    let limits = Limits::default();
    for (name, raw) in members.0 {
        match value(raw, &limits) {
            Ok(value) => {
                if document.members.insert(name.clone(), value).is_some() {
                    document.note = Some(format!("member {:?} stands twice", short(&name)));
                }
            }
            Err(error) => {
                document.note = Some(format!(
                    "member {:?} can't be read: {}",
                    short(&name),
                    short(&error.to_string())
                ));
            }
        }
    }
    if let Some(note) = limits.note() {
        document.note = Some(note);
    }
    document
}

/// Reads a document whose top is an object or an array; else the value is null.
pub(crate) fn top(bytes: &[u8]) -> (Value, Option<String>) {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    if first == Some(&b'[')
        && let Ok(text) = core::str::from_utf8(bytes)
        && let Ok(raw) = serde_json::from_str::<&RawValue>(text)
    {
        let limits = Limits::default();
        if let Ok(value) = value(raw, &limits) {
            return (value, limits.note());
        }
    }
    let document = document(bytes);
    (Value::Object(document.members), document.note)
}

/// Reads one value of any type.
pub(crate) fn any(text: &str) -> Option<Value> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    value(raw, &Limits::default()).ok()
}

fn short(text: &str) -> String {
    text.chars().take(120).collect()
}

struct RawMembers<'t>(Vec<(String, &'t RawValue)>);

impl<'de> serde::Deserialize<'de> for RawMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = RawMembers<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    // No API has that many top members; the rest is syntax to be checked.
                    if members.len() < 4096 {
                        members.push(member);
                    }
                }
                Ok(RawMembers(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[derive(Default)]
struct Limits {
    values: Cell<usize>,
    deep: Cell<bool>,
}

impl Limits {
    fn count(&self) -> bool {
        self.values.set(self.values.get() + 1);
        self.values.get() <= VALUES_MAX
    }

    fn note(&self) -> Option<String> {
        if self.values.get() > VALUES_MAX {
            Some(format!("JSON with more than {VALUES_MAX} values"))
        } else if self.deep.get() {
            Some(format!("JSON that nests deeper than {DEPTH_MAX} levels"))
        } else {
            None
        }
    }
}

fn value(raw: &RawValue, limits: &Limits) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    Pruned { limits, depth: 0 }.deserialize(&mut deserializer)
}

#[derive(Clone, Copy)]
struct Pruned<'l> {
    limits: &'l Limits,
    depth: usize,
}

impl Pruned<'_> {
    fn deeper(self) -> Self {
        Self {
            depth: self.depth + 1,
            ..self
        }
    }
}

impl<'de> DeserializeSeed<'de> for Pruned<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > DEPTH_MAX {
            self.limits.deep.set(true);
            deserializer.deserialize_ignored_any(IgnoredAny)?;
            return Ok(Value::Null);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pruned<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            if !self.limits.count() {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Value::Array(items));
            }
            match seq.next_element_seed(self.deeper())? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        loop {
            if !self.limits.count() {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(Value::Object(members));
            }
            let Some(name) = map.next_key::<String>()? else {
                return Ok(Value::Object(members));
            };
            if SKIPPED.contains(&name.as_str()) {
                map.next_value::<IgnoredAny>()?;
            } else {
                members.insert(name, map.next_value_seed(self.deeper())?);
            }
        }
    }
}

/// A count: a whole number that isn't negative, also when written with a fraction of zero.
pub(crate) fn count(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let float = value.as_f64()?;
        // 2^53: beyond it a double no longer tells one whole number from the next.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range is checked"
        )]
        ((0.0..=9_007_199_254_740_992.0).contains(&float) && float.fract() == 0.0)
            .then_some(float as u64)
    })
}

/// The string at `name`, unless it is empty.
pub(crate) fn string(object: &Value, name: &str) -> Option<String> {
    object
        .get(name)?
        .as_str()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

/// The items of the array at `name`; none if there is no array.
pub(crate) fn items<'v>(object: &'v Value, name: &str) -> &'v [Value] {
    object
        .get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}
