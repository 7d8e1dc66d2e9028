//! JSON, token by token, with where each stands: so that a token can be replaced and every other byte stays.

use std::ops::Range;

/// Levels of arrays and objects; what nests deeper is not read.
pub(super) const DEPTH_MAX: usize = 1024;

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A member's name, without its quotation marks.
    Key(Range<usize>),
    /// A string, without its quotation marks.
    Text(Range<usize>),
    Number(Range<usize>),
    /// `true`, `false`, `null`
    Word(Range<usize>),
    /// An array or object begins here.
    Open {
        at: usize,
        object: bool,
    },
    /// It ends here, behind its bracket.
    Close {
        end: usize,
    },
}

/// Why reading stopped, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// What follows is no JSON, or the document is cut off.
    Syntax(usize),
    /// It nests too deeply.
    Depth(usize),
}

impl Stop {
    pub(super) fn at(self) -> usize {
        match self {
            Self::Syntax(at) | Self::Depth(at) => at,
        }
    }
}

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    /// A value, or the end of the array that has just begun.
    FirstItem,
    Key,
    /// A name, or the end of the object that has just begun.
    FirstKey,
    CommaOrEnd,
}

/// Reads one value that begins at `from` or behind white space; says where it ends. Strings may hold any bytes but
/// control characters: whether they are UTF-8 is for whoever reads them.
pub(super) fn scan(bytes: &[u8], from: usize, mut each: impl FnMut(Token)) -> Result<usize, Stop> {
    let mut at = from;
    // For each open container, whether it is an object.
    let mut open: Vec<bool> = Vec::new();
    let mut next = Next::Value;
    loop {
        at += bytes
            .iter()
            .skip(at)
            .take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r'))
            .count();
        let stop = Err(Stop::Syntax(at));
        let Some(&byte) = bytes.get(at) else {
            return stop;
        };
        match (next, byte) {
            (Next::FirstItem | Next::CommaOrEnd, b']') if open.last() == Some(&false) => {
                at += 1;
                open.pop();
                each(Token::Close { end: at });
            }
            (Next::FirstKey | Next::CommaOrEnd, b'}') if open.last() == Some(&true) => {
                at += 1;
                open.pop();
                each(Token::Close { end: at });
            }
            (Next::CommaOrEnd, b',') => {
                at += 1;
                next = if open.last() == Some(&true) {
                    Next::Key
                } else {
                    Next::Value
                };
                continue;
            }
            (Next::FirstKey | Next::Key, b'"') => {
                let Some(end) = string_end(bytes, at + 1) else {
                    return stop;
                };
                let name = at + 1..end;
                at = end + 1;
                at += bytes
                    .iter()
                    .skip(at)
                    .take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r'))
                    .count();
                if bytes.get(at) != Some(&b':') {
                    return Err(Stop::Syntax(name.start - 1));
                }
                at += 1;
                each(Token::Key(name));
                next = Next::Value;
                continue;
            }
            (Next::Value | Next::FirstItem, b'{' | b'[') => {
                if open.len() == DEPTH_MAX {
                    return Err(Stop::Depth(at));
                }
                let object = byte == b'{';
                each(Token::Open { at, object });
                open.push(object);
                at += 1;
                next = if object {
                    Next::FirstKey
                } else {
                    Next::FirstItem
                };
                continue;
            }
            (Next::Value | Next::FirstItem, b'"') => {
                let Some(end) = string_end(bytes, at + 1) else {
                    return stop;
                };
                each(Token::Text(at + 1..end));
                at = end + 1;
            }
            (Next::Value | Next::FirstItem, b'-' | b'0'..=b'9') => {
                let Some(end) = number_end(bytes, at) else {
                    return stop;
                };
                each(Token::Number(at..end));
                at = end;
            }
            (Next::Value | Next::FirstItem, _) => {
                let rest = bytes.get(at..).unwrap_or_default();
                let words: [&[u8]; 3] = [b"true", b"false", b"null"];
                let Some(word) = words.iter().find(|w| rest.starts_with(w)) else {
                    return stop;
                };
                each(Token::Word(at..at + word.len()));
                at += word.len();
            }
            _ => return stop,
        }
        next = Next::CommaOrEnd;
        if open.is_empty() {
            return Ok(at);
        }
    }
}

/// Where the quotation mark stands that ends a string.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let rest = bytes.get(at..)?;
        at += rest
            .iter()
            .position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f))?;
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => match bytes.get(at + 1)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
                b'u' => {
                    let digits = bytes.get(at + 2..at + 6)?;
                    if !digits.iter().all(u8::is_ascii_hexdigit) {
                        return None;
                    }
                    at += 6;
                }
                _ => return None,
            },
            _ => return None,
        }
    }
}

fn number_end(bytes: &[u8], start: usize) -> Option<usize> {
    let digits = |at: usize| {
        bytes
            .iter()
            .skip(at)
            .take_while(|b| b.is_ascii_digit())
            .count()
    };
    let mut at = start + usize::from(bytes.get(start) == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && bytes.get(at) == Some(&b'0')) {
        return None;
    }
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at + 1 + sign);
        if exponent == 0 {
            return None;
        }
        at += 1 + sign + exponent;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn is_json(bytes: &[u8]) -> bool {
        let space = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r');
        scan(bytes, 0, |_| {}).is_ok_and(|end| bytes[end..].iter().all(space))
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_another_parser_takes_is_refused_or_the_other_way_round(
            value in json(), cut in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = serde_json::to_vec_pretty(&value).unwrap();
            prop_assert!(is_json(&bytes));
            let at = cut.index(bytes.len());
            bytes[at] = byte;
            // Strings that are no UTF-8 are another's business here, and so are lone surrogates.
            if let Ok(text) = std::str::from_utf8(&bytes) && !text.to_lowercase().contains("\\ud") {
                let other = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
                prop_assert_eq!(is_json(&bytes), other, "{}", text);
            }
            let shorter = &bytes[..at];
            if let Ok(text) = std::str::from_utf8(shorter) && !text.to_lowercase().contains("\\ud") {
                let other = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
                prop_assert_eq!(is_json(shorter), other, "{}", text);
            }
        }

        #[test]
        fn tokens_stand_where_they_are_said_to(value in json()) {
            let bytes = value.to_string().into_bytes();
            let mut depth = 0_i64;
            let mut last = 0;
            scan(&bytes, 0, |token| {
                match token {
                    Token::Key(span) | Token::Text(span) => {
                        assert_eq!((bytes[span.start - 1], bytes[span.end]), (b'"', b'"'));
                        assert!(span.start > last || last == 0);
                        last = span.end;
                    }
                    Token::Number(span) | Token::Word(span) => {
                        serde_json::from_slice::<Value>(&bytes[span]).unwrap();
                    }
                    Token::Open { at, object } => {
                        assert_eq!(bytes[at], if object { b'{' } else { b'[' });
                        depth += 1;
                    }
                    Token::Close { end } => {
                        assert!(matches!(bytes[end - 1], b'}' | b']'));
                        depth -= 1;
                    }
                }
            }).unwrap();
            prop_assert_eq!(depth, 0);
        }
    }

    #[test]
    fn depth_has_a_limit_and_no_stack() {
        let deep = "[".repeat(DEPTH_MAX) + &"]".repeat(DEPTH_MAX);
        assert!(is_json(deep.as_bytes()));
        let deeper = "[".repeat(3_000_000);
        let stop = scan(deeper.as_bytes(), 0, |_| {});
        assert_eq!(stop, Err(Stop::Depth(DEPTH_MAX)));
    }
}
