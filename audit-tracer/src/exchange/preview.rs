//! The beginning of a body, for people, without what opens something.

use audit_capture::credentials::{REDACTED, is_credential_name, split_headers, split_query};
use audit_core::event::Media;

/// The preview of a body that begins with `bytes`; `None` for one that isn't text.
///
/// It is for reading and proves nothing: credentials are taken out by the names that they have, and by how keys begin; the
/// end of a text that was cut may be missing.
pub(crate) fn preview(media: Media, bytes: &[u8]) -> Option<String> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // Cut within a character.
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(bytes.get(..e.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    match media {
        Media::Form => {
            let (kept, _) = split_query(&format!("?{text}"));
            Some(kept.trim_start_matches('?').to_owned())
        }
        Media::Json | Media::NdJson | Media::EventStream | Media::Text => Some(strings(text)),
        Media::Bytes | Media::Multipart | Media::AwsEventStream => None,
    }
}

/// Takes credentials out of anything that looks like JSON, cut or not, and out of words elsewhere.
fn strings(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, quoted)) = rest.split_once('"') {
        words(before, &mut kept);
        let (content, tail) = string(quoted);
        let name =
            tail.and_then(|tail| Some((unescaped(content), tail.trim_start().strip_prefix(':')?)));
        kept.push('"');
        match (tail, name) {
            (Some(tail), Some((name, value))) if is_credential_name(&name) => {
                kept.push_str(content);
                kept.push('"');
                let value = value.trim_start();
                // White space between them stays.
                kept.push_str(tail.get(..tail.len() - value.len()).unwrap_or(":"));
                kept.push('"');
                kept.push_str(REDACTED);
                kept.push('"');
                rest = behind(value);
            }
            _ => {
                words(content, &mut kept);
                let Some(tail) = tail else { return kept };
                kept.push('"');
                rest = tail;
            }
        }
    }
    words(rest, &mut kept);
    kept
}

/// What is in a string that has begun, and what comes behind its end if it has one.
fn string(text: &str) -> (&str, Option<&str>) {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return (text.get(..at).unwrap_or(text), text.get(at + 1..)),
            _ => {}
        }
    }
    (text, None)
}

fn unescaped(content: &str) -> String {
    serde_json::from_str(&format!("\"{content}\"")).unwrap_or_else(|_| content.to_owned())
}

/// What comes behind a value: a string, a list, an object, or a word.
fn behind(value: &str) -> &str {
    let mut rest = value;
    let mut depth = 0_u32;
    loop {
        let Some(c) = rest.chars().next() else {
            return rest;
        };
        match c {
            '"' => {
                rest = string(rest.get(1..).unwrap_or_default())
                    .1
                    .unwrap_or_default();
            }
            '[' | '{' => {
                depth += 1;
                rest = rest.get(1..).unwrap_or_default();
            }
            ']' | '}' | ',' if depth == 0 => return rest,
            ']' | '}' => {
                depth -= 1;
                rest = rest.get(1..).unwrap_or_default();
            }
            c => {
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
                continue;
            }
        }
        if depth == 0 {
            return rest;
        }
    }
}

/// Takes out what is a key by its beginning, and what follows the name of a scheme.
fn words(text: &str, kept: &mut String) {
    let mut after_scheme = false;
    for piece in
        text.split_inclusive(|c: char| c.is_whitespace() || matches!(c, ',' | '=' | '\'' | '('))
    {
        let word = piece
            .trim_end_matches(|c: char| c.is_whitespace() || matches!(c, ',' | '=' | '\'' | '('));
        let end = piece.get(word.len()..).unwrap_or_default();
        let scheme = ["bearer", "basic"]
            .iter()
            .any(|s| word.eq_ignore_ascii_case(s));
        let pair = [("value".to_owned(), word.as_bytes().to_vec())];
        let is_key = !word.is_empty() && !split_headers(&pair).1.is_empty();
        kept.push_str(if is_key || (after_scheme && !word.is_empty()) {
            REDACTED
        } else {
            word
        });
        kept.push_str(end);
        after_scheme = scheme || (after_scheme && word.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(media: Media, text: &str) -> String {
        preview(media, text.as_bytes()).expect("it is text")
    }

    #[test]
    fn values_under_a_credentials_name_are_taken_out_wherever_the_text_is_cut() {
        let whole = r#"{"user":"ada","api_key":"hunter2","n":1,"nested":{"pass\u0077ord" : ["hunter2",{"a":"hunter2"}]},"tail":"ok"}"#;
        assert_eq!(
            of(Media::Json, whole),
            r#"{"user":"ada","api_key":"[redacted]","n":1,"nested":{"pass\u0077ord" : "[redacted]"},"tail":"ok"}"#
        );
        for cut in 0..=whole.len() {
            let text = of(Media::Json, whole.get(..cut).unwrap());
            assert!(!text.contains("hunt"), "cut at {cut}: {text}");
        }
    }

    #[test]
    fn keys_are_taken_out_by_how_they_begin() {
        assert_eq!(
            of(Media::Text, "use sk-live-12345, or Bearer  abc now"),
            "use [redacted], or Bearer  [redacted] now"
        );
        assert_eq!(
            of(Media::Json, r#"{"text":"my key is sk-live-1"}"#),
            r#"{"text":"my key is [redacted]"}"#
        );
        assert_eq!(of(Media::Form, "a=b&password=x"), "a=b&password=[redacted]");
        assert_eq!(
            of(Media::EventStream, "data: {\"token\": 7}\n\n"),
            "data: {\"token\": \"[redacted]\"}\n\n"
        );
    }

    #[test]
    fn what_is_no_text_has_no_preview_and_a_cut_character_does_no_harm() {
        assert_eq!(preview(Media::Bytes, b"abc"), None);
        assert_eq!(preview(Media::Json, b"\xff\xfe"), None);
        assert_eq!(
            preview(Media::Text, &"ä".as_bytes()[..1]).as_deref(),
            Some("")
        );
        assert_eq!(
            of(Media::Text, "plain, text = 'kept'"),
            "plain, text = 'kept'"
        );
    }
}
