//! Building attribute maps that an event accepts, whatever the peer sent.

use audit_core::canonical;
use serde_json::{Map, Value};

/// Bytes of one text in an attribute; a longer one is cut, and named in `audit.truncated`.
const TEXT_BYTES_MAX: usize = 4096;

/// Items of one array in an attribute.
const ITEMS_MAX: usize = 1024;

/// A map in the making.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    map: Map<String, Value>,
    cut: Vec<Value>,
}

impl Attributes {
    /// Sets `name`, unless there is no value.
    pub(crate) fn set(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            let mut cut = false;
            let value = bounded(canonical::exact_numbers(value.into()), &mut cut);
            if cut {
                self.cut.push(Value::from(name));
            }
            self.map.insert(name.to_owned(), value);
        }
    }

    /// Sets `name` if `values` isn't empty.
    pub(crate) fn set_list(&mut self, name: &str, values: Vec<Value>) {
        self.set(name, (!values.is_empty()).then_some(Value::Array(values)));
    }

    pub(crate) fn finish(mut self) -> Map<String, Value> {
        if !self.cut.is_empty() {
            self.map
                .insert("audit.truncated".to_owned(), Value::Array(self.cut));
        }
        self.map
    }
}

fn bounded(value: Value, cut: &mut bool) -> Value {
    match value {
        Value::String(mut text) => {
            if text.len() > TEXT_BYTES_MAX {
                *cut = true;
                let end = (0..=TEXT_BYTES_MAX).rfind(|at| text.is_char_boundary(*at));
                text.truncate(end.unwrap_or_default());
            }
            Value::String(text)
        }
        Value::Array(mut items) => {
            if items.len() > ITEMS_MAX {
                *cut = true;
                items.truncate(ITEMS_MAX);
            }
            Value::Array(items.into_iter().map(|v| bounded(v, cut)).collect())
        }
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(name, v)| (name, bounded(v, cut)))
                .collect(),
        ),
        other => other,
    }
}
