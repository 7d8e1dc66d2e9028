//! Canonical JSON (RFC 8785), the one encoding that is hashed.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// The largest integer that every JSON implementation reads back exactly: 2^53 − 1.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;

/// How deep a caller's JSON may nest. `serde_json` itself stops at 128.
pub const DEPTH_MAX: usize = 64;

/// The canonical bytes of `value`.
///
/// # Errors
///
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for what JSON can't hold.
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json_canonicalizer::to_vec(value)
        .map_err(|e| Error::invalid("a value has no canonical JSON").because(e))
}

/// Appends the canonical bytes of `value` to `out`, as [`to_vec`] makes them and several times as fast.
///
/// # Errors
///
/// As [`to_vec`].
pub(crate) fn write(value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::String(text) => write_plain(text, out)?,
        Value::Number(n) => {
            // Only numbers with a fraction, or beyond what a double holds, are written otherwise than `serde_json` does.
            let plain = n.as_i64().map(i64::unsigned_abs).or_else(|| n.as_u64());
            if plain.is_some_and(|n| n <= INTEGER_MAX) {
                write_plain(n, out)?;
            } else {
                out.extend_from_slice(&to_vec(n)?);
            }
        }
        Value::Array(items) => {
            out.push(b'[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            for (position, (name, value)) in in_order(members).into_iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write_plain(name, out)?;
                out.push(b':');
                write(value, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// Appends the JSON of what `serde_json` writes as RFC 8785 asks: strings, integers up to [`INTEGER_MAX`], and structs
/// of these whose members stand in order.
pub(crate) fn write_plain<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<()> {
    serde_json::to_writer(out, value)
        .map_err(|e| Error::invalid("a value has no canonical JSON").because(e))
}

/// The members in the order of RFC 8785 §3.2.3: by the UTF-16 code units of their names.
pub(crate) fn in_order(members: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by(|(a, _), (b, _)| {
        if a.is_ascii() && b.is_ascii() {
            a.cmp(b)
        } else {
            a.encode_utf16().cmp(b.encode_utf16())
        }
    });
    members
}

/// Decodes `bytes`, which must be the canonical encoding of what they decode to.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) for anything else.
pub fn from_slice<T: Serialize + DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    let value: T = serde_json::from_slice(bytes)
        .map_err(|e| Error::corrupt(format!("{what} is not the JSON it should be")).because(e))?;
    if to_vec(&value)? == bytes {
        Ok(value)
    } else {
        Err(Error::corrupt(format!("{what} is not canonical JSON")))
    }
}

/// Checks that `value` survives canonical JSON unchanged: no integer beyond ±(2^53 − 1), no deep nesting.
///
/// RFC 8785 writes every number as an IEEE 754 double, so a larger integer would silently become another one.
///
/// # Errors
///
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), naming the place.
pub fn check(value: &Value, place: impl fmt::Display) -> Result<()> {
    fn walk(value: &Value, depth: usize, place: &dyn fmt::Display) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(Error::invalid(format!(
                "{place} nests deeper than {DEPTH_MAX} levels"
            )));
        }
        match value {
            Value::Number(n) if !exact(n) => Err(Error::invalid(format!(
                "{place} holds the integer {n}, beyond ±(2^53 − 1); write it as a string"
            ))),
            Value::Array(items) => items.iter().try_for_each(|v| walk(v, depth + 1, place)),
            Value::Object(map) => map.values().try_for_each(|v| walk(v, depth + 1, place)),
            _ => Ok(()),
        }
    }
    walk(value, 0, &place)
}

/// `value` with every integer beyond ±(2^53 − 1) written as a string, for JSON that comes from elsewhere.
#[must_use]
pub fn exact_numbers(value: Value) -> Value {
    match value {
        Value::Number(n) if !exact(&n) => Value::String(n.to_string()),
        Value::Array(items) => Value::Array(items.into_iter().map(exact_numbers).collect()),
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(k, v)| (k, exact_numbers(v)))
                .collect(),
        ),
        other => other,
    }
}

fn exact(n: &serde_json::Number) -> bool {
    if let Some(u) = n.as_u64() {
        u <= INTEGER_MAX
    } else if let Some(i) = n.as_i64() {
        i.unsigned_abs() <= INTEGER_MAX
    } else {
        // A whole number without fraction is written as its digits, and read back as an integer.
        n.as_f64()
            .is_none_or(|f| f.fract() != 0.0 || f.abs() <= INTEGER_MAX_F64 || f.abs() >= 1e21)
    }
}

/// [`INTEGER_MAX`], exactly.
const INTEGER_MAX_F64: f64 = 9_007_199_254_740_991.0;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_examples_of_rfc_8785_come_out_as_printed() {
        // §3.2.2 and §3.2.3.
        let value: Value = serde_json::from_str(
            r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
                "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#,
        )
        .unwrap();
        assert_eq!(
            String::from_utf8(to_vec(&value).unwrap()).unwrap(),
            "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
             \"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
        );
        let sorted: Value = serde_json::from_str(
            r#"{"\u20ac":"Euro","\r":"CR","\ufb33":"Dalet","1":"One","\ud83d\ude00":"Emoji","\u0080":"Control","\u00f6":"o"}"#,
        )
        .unwrap();
        let text = String::from_utf8(to_vec(&sorted).unwrap()).unwrap();
        let order: Vec<usize> = ["CR", "One", "Control", "\"o\"", "Euro", "Emoji", "Dalet"]
            .iter()
            .map(|v| text.find(v).unwrap())
            .collect();
        assert!(order.is_sorted(), "members are not in UTF-16 order: {text}");
    }

    #[test]
    fn the_fast_writer_differs_from_the_general_one() {
        let strange: String = (0..0x300_u32)
            .chain([0x2028, 0xe000, 0xfb33, 0xffff, 0x1_f600])
            .filter_map(char::from_u32)
            .collect();
        let values = json!({
            "strange": strange, "\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": 4, "\u{1f600}": 5, "\u{80}": 6, "": 7,
            "numbers": [0, -1, 9_007_199_254_740_991_u64, -9_007_199_254_740_991_i64, 9_007_199_254_740_993_u64,
                u64::MAX, i64::MIN, 0.0, -0.0, 1.0, 1e21, 1e20, 1e-7, 0.1, -1.5e300, 5e-324],
            "deep": [[], {}, [{}], {"b": [null, true, false], "a": {"z": "", "y": "\u{0}\u{7f}\"\\/"}}],
        });
        let mut fast = Vec::new();
        write(&values, &mut fast).unwrap();
        assert_eq!(
            String::from_utf8(fast).unwrap(),
            String::from_utf8(to_vec(&values).unwrap()).unwrap()
        );
    }

    #[test]
    fn integers_that_would_change_are_refused_or_become_strings() {
        let big =
            json!({"seed": 9_007_199_254_740_993_u64, "ok": 9_007_199_254_740_991_u64, "f": 0.1});
        assert!(
            check(&big, "attributes")
                .unwrap_err()
                .to_string()
                .contains("9007199254740993")
        );
        check(&json!({"n": 1e17}), "attributes").unwrap_err();
        check(&json!({"n": 1e21, "m": -1e300}), "attributes").unwrap();
        let safe = exact_numbers(big);
        check(&safe, "attributes").unwrap();
        assert_eq!(safe["seed"], json!("9007199254740993"));
    }

    #[test]
    fn a_second_encoding_is_refused() {
        for bad in [
            r#"{"a":1 }"#,
            r#"{"a":1,"a":1}"#,
            r#"{"b":1,"a":1}"#,
            r#"{"a":1.0}"#,
            r#"{"a":"\u0041"}"#,
        ] {
            assert!(
                from_slice::<Value>(bad.as_bytes(), "test").is_err(),
                "{bad}"
            );
        }
        from_slice::<Value>(br#"{"a":1}"#, "test").unwrap();
    }
}
