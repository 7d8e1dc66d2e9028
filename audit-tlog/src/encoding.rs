//! The text encodings that every format of this crate shares, each with exactly one spelling per value.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Standard alphabet, padding required, trailing bits zero (RFC 4648 §3.5, §4).
pub(crate) fn base64_decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

pub(crate) fn base64_encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// ASCII decimal without sign and without leading zeros, at most `u64::MAX`.
pub(crate) fn decimal_decode(text: &str) -> Option<u64> {
    let canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// Shortens foreign text for an error message, which must stay one printable line however hostile its source.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    let mut shown: String = text
        .chars()
        .take(CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// Whether `text` holds an ASCII control character other than newline, which no signed note may.
pub(crate) fn has_control(text: &str) -> bool {
    text.bytes().any(|byte| byte < 0x20 && byte != b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_has_one_spelling() {
        assert_eq!(decimal_decode("0"), Some(0));
        assert_eq!(decimal_decode("18446744073709551615"), Some(u64::MAX));
        for text in [
            "",
            "00",
            "01",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1_0",
            "0x1",
            "18446744073709551616",
            "١",
        ] {
            assert_eq!(decimal_decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn base64_has_one_spelling() {
        assert_eq!(base64_decode("AQ=="), Some(vec![1]));
        // Missing padding, set trailing bits, the URL alphabet, white space.
        for text in ["AQ", "AQ=", "AR==", "_w==", "AQ==\n", " AQ==", "AQ==="] {
            assert_eq!(base64_decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt("a\nb"), "a\\nb");
        assert_eq!(excerpt(&"x".repeat(65)), format!("{}…", "x".repeat(64)));
    }
}
