//! Forms with files (RFC 7578), as uploads send them.

use serde_json::{Map, Value, json};

use crate::head::RequestHead;

/// Parts of one form; what follows isn't read.
const PARTS_MAX: usize = 1024;

/// Bytes of a field that isn't a file.
const FIELD_BYTES_MAX: usize = 64 * 1024;

/// The boundary of a form, if the body is one.
pub(crate) fn boundary(head: &RequestHead) -> Option<String> {
    let value = String::from_utf8_lossy(head.header("content-type")?).into_owned();
    let mut items = value.split(';');
    if !items
        .next()?
        .trim()
        .eq_ignore_ascii_case("multipart/form-data")
    {
        return None;
    }
    let boundary = items.find_map(|item| {
        let (name, value) = item.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("boundary")
            .then(|| value.trim().trim_matches('"').to_owned())
    })?;
    (1..=70).contains(&boundary.len()).then_some(boundary)
}

/// The fields: texts as they are, files as `{"file", "media_type", "bytes"}`. What stands twice becomes an array.
pub(crate) fn members(body: &[u8], boundary: &str) -> (Map<String, Value>, Option<String>) {
    let mut members = Map::new();
    let mark = format!("--{boundary}").into_bytes();
    let Some(mut at) = find(body, &mark, 0) else {
        return (members, Some("a form without its boundary".to_owned()));
    };
    for _ in 0..PARTS_MAX {
        let start = at + mark.len();
        if body.get(start..start + 2) == Some(b"--") {
            return (members, None);
        }
        let Some(next) = find(body, &mark, start) else {
            return (members, Some("a form without its end".to_owned()));
        };
        let part = body.get(start..next).unwrap_or_default();
        if let Some((name, value)) = field(part) {
            match members.get_mut(&name) {
                None => {
                    members.insert(name, value);
                }
                Some(Value::Array(values)) => values.push(value),
                Some(first) => *first = Value::Array(vec![first.take(), value]),
            }
        }
        at = next;
    }
    (
        members,
        Some(format!("a form of more than {PARTS_MAX} parts")),
    )
}

fn field(part: &[u8]) -> Option<(String, Value)> {
    let end = find(part, b"\r\n\r\n", 0)?;
    let heads = String::from_utf8_lossy(part.get(..end)?).into_owned();
    let content = part.get(end + 4..)?;
    let content = content.strip_suffix(b"\r\n").unwrap_or(content);
    let (mut name, mut file, mut media) = (None, None, None);
    for line in heads.lines() {
        let Some((header, value)) = line.split_once(':') else {
            continue;
        };
        if header.trim().eq_ignore_ascii_case("content-disposition") {
            for item in value.split(';') {
                match item.trim().split_once('=') {
                    Some(("name", value)) => name = Some(value.trim_matches('"').to_owned()),
                    Some(("filename", value)) => file = Some(value.trim_matches('"').to_owned()),
                    _ => {}
                }
            }
        } else if header.trim().eq_ignore_ascii_case("content-type") {
            media = Some(value.trim().to_owned());
        }
    }
    let value = match core::str::from_utf8(content) {
        Ok(text) if file.is_none() && text.len() <= FIELD_BYTES_MAX => Value::from(text),
        _ => json!({ "file": file, "media_type": media, "bytes": content.len() }),
    };
    Some((name?, value))
}

fn find(bytes: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    bytes
        .get(from..)?
        .windows(needle.len())
        .position(|window| window == needle)
        .map(|at| from + at)
}
