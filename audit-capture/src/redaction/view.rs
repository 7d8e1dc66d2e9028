//! Texts in another spelling than their bytes, and the way back.

use std::borrow::Cow;
use std::ops::Range;

/// Text that was decoded, with where each part of it came from.
#[derive(Debug)]
pub(super) struct View<'r> {
    pub(super) text: Cow<'r, str>,
    /// It has more escapes than anybody writes, and the way back is not known.
    pub(super) overflow: bool,
    /// In ascending order, without gaps; empty where text and bytes are the same.
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    /// In the text.
    at: usize,
    length: usize,
    /// In the bytes.
    raw: usize,
    raw_length: usize,
}

impl Part {
    /// Byte for byte the same.
    fn is_exact(self) -> bool {
        self.length == self.raw_length
    }
}

/// Parts of one view, of 32 bytes each.
const PARTS_MAX: usize = 4 << 20;

#[derive(Default)]
struct Builder {
    text: String,
    parts: Vec<Part>,
    overflow: bool,
}

impl Builder {
    fn push(&mut self, text: &str, raw: usize, raw_length: usize) {
        let exact = text.len() == raw_length;
        let full = self.parts.len() >= PARTS_MAX;
        match self.parts.last_mut() {
            Some(last) if exact && last.is_exact() && last.raw + last.length == raw => {
                last.length += raw_length;
                last.raw_length += raw_length;
            }
            _ if full => self.overflow = true,
            _ => self.parts.push(Part {
                at: self.text.len(),
                length: text.len(),
                raw,
                raw_length,
            }),
        }
        self.text.push_str(text);
    }
}

impl<'r> View<'r> {
    /// Bytes that should be UTF-8; what isn't is replaced, as a reader of the record will see it.
    pub(super) fn of_bytes(raw: &'r [u8]) -> Self {
        if let Ok(text) = std::str::from_utf8(raw) {
            return Self {
                text: Cow::Borrowed(text),
                overflow: false,
                parts: Vec::new(),
            };
        }
        let mut builder = Builder::default();
        push_lossy(&mut builder, raw, 0);
        builder.into()
    }

    /// The content of a JSON string, its escapes decoded. Nothing is an error: what is no escape stays as it is, and half
    /// of a surrogate pair becomes U+FFFD.
    pub(super) fn of_json(raw: &'r [u8]) -> Self {
        if !raw.contains(&b'\\') {
            return Self::of_bytes(raw);
        }
        let mut builder = Builder::default();
        let mut at = 0;
        while at < raw.len() {
            let next = raw
                .iter()
                .skip(at)
                .position(|b| *b == b'\\')
                .map_or(raw.len(), |n| at + n);
            push_lossy(&mut builder, raw.get(at..next).unwrap_or_default(), at);
            at = next;
            let Some(escape) = raw.get(at + 1) else {
                if at < raw.len() {
                    builder.push("\\", at, 1);
                }
                break;
            };
            let plain = match escape {
                b'"' => "\"",
                b'\\' => "\\",
                b'/' => "/",
                b'b' => "\u{8}",
                b'f' => "\u{c}",
                b'n' => "\n",
                b'r' => "\r",
                b't' => "\t",
                b'u' => {
                    let (c, length) = unicode_escape(raw.get(at..).unwrap_or_default());
                    match c {
                        Some(c) => builder.push(c.encode_utf8(&mut [0; 4]), at, length),
                        None => builder.push("\\", at, 1),
                    }
                    at += length;
                    continue;
                }
                _ => {
                    builder.push("\\", at, 1);
                    at += 1;
                    continue;
                }
            };
            builder.push(plain, at, 2);
            at += 2;
        }
        builder.into()
    }

    /// What `%41` stands for, and `+` for a blank in a form.
    pub(super) fn of_percent(raw: &'r str, plus: bool) -> Self {
        let bytes = raw.as_bytes();
        let mut builder = Builder::default();
        let mut at = 0;
        while at < bytes.len() {
            let next = bytes
                .iter()
                .skip(at)
                .position(|b| *b == b'%' || (plus && *b == b'+'))
                .map_or(bytes.len(), |n| at + n);
            builder.push(raw.get(at..next).unwrap_or_default(), at, next - at);
            at = next;
            match bytes.get(at) {
                None => break,
                Some(b'+') => {
                    builder.push(" ", at, 1);
                    at += 1;
                    continue;
                }
                Some(_) => {}
            }
            let mut code = [0; 4];
            let mut length = 0;
            // As many as make one character.
            while length < 4
                && let Some(byte) = percent(bytes.get(at + 3 * length..).unwrap_or_default())
            {
                code[length] = byte;
                length += 1;
                let so_far = &code[..length];
                if let Ok(text) = std::str::from_utf8(so_far) {
                    builder.push(text, at, 3 * length);
                    at += 3 * length;
                    length = usize::MAX;
                    break;
                }
            }
            match length {
                usize::MAX => {}
                0 => {
                    builder.push("%", at, 1);
                    at += 1;
                }
                _ => {
                    builder.push("\u{fffd}", at, 3);
                    at += 3;
                }
            }
        }
        builder.into()
    }

    /// The same, without the bytes that it is of.
    pub(super) fn owned(self) -> View<'static> {
        View {
            text: Cow::Owned(self.text.into_owned()),
            overflow: self.overflow,
            parts: self.parts,
        }
    }

    /// The way back alone.
    pub(super) fn again(&self) -> View<'static> {
        View {
            text: Cow::Borrowed(""),
            overflow: self.overflow,
            parts: self.parts.clone(),
        }
    }

    /// The bytes of a range of the text; of a character that was decoded, all of its bytes.
    pub(super) fn raw(&self, range: &Range<usize>) -> Range<usize> {
        if self.parts.is_empty() {
            return range.clone();
        }
        let part = |at: usize| {
            let n = self.parts.partition_point(|p| p.at + p.length <= at);
            self.parts.get(n)
        };
        let start = part(range.start).map_or(0, |p| {
            p.raw
                + if p.is_exact() {
                    range.start - p.at.min(range.start)
                } else {
                    0
                }
        });
        let end = match range.end.checked_sub(1).filter(|_| range.end > range.start) {
            None => start,
            Some(last) => part(last).map_or(start, |p| {
                if p.is_exact() {
                    p.raw + (range.end - p.at)
                } else {
                    p.raw + p.raw_length
                }
            }),
        };
        start..end
    }
}

impl From<Builder> for View<'_> {
    fn from(builder: Builder) -> Self {
        Self {
            text: Cow::Owned(builder.text),
            overflow: builder.overflow,
            parts: builder.parts,
        }
    }
}

fn push_lossy(builder: &mut Builder, raw: &[u8], offset: usize) {
    let mut at = offset;
    for chunk in raw.utf8_chunks() {
        if !chunk.valid().is_empty() {
            builder.push(chunk.valid(), at, chunk.valid().len());
            at += chunk.valid().len();
        }
        if !chunk.invalid().is_empty() {
            builder.push("\u{fffd}", at, chunk.invalid().len());
            at += chunk.invalid().len();
        }
    }
}

/// The character of `\uXXXX`, or of two of them, and how many bytes it takes; a lone surrogate is U+FFFD.
fn unicode_escape(raw: &[u8]) -> (Option<char>, usize) {
    let unit = |at: usize| {
        let digits = raw.get(at..at + 6)?;
        let text = std::str::from_utf8(digits.strip_prefix(b"\\u")?).ok()?;
        let hexadecimal = text.bytes().all(|b| b.is_ascii_hexdigit());
        u32::from_str_radix(text, 16).ok().filter(|_| hexadecimal)
    };
    let Some(first) = unit(0) else {
        return (None, 1);
    };
    if (0xd800..0xdc00).contains(&first)
        && let Some(second @ 0xdc00..0xe000) = unit(6)
    {
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return (char::from_u32(code), 12);
    }
    (Some(char::from_u32(first).unwrap_or('\u{fffd}')), 6)
}

fn percent(bytes: &[u8]) -> Option<u8> {
    let &[b'%', high, low, ..] = bytes else {
        return None;
    };
    let digit = |b: u8| char::from(b).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_spelling_hides_an_address() {
        let raw = r"to \u006aohn\u0040x\/y \ud83d\ude00 \ud83d. \q\u00g \\n";
        let view = View::of_json(raw.as_bytes());
        assert_eq!(view.text, "to john@x/y 😀 \u{fffd}. \\q\\u00g \\n");
        let at = view.text.find("john@x").unwrap();
        assert_eq!(raw.get(view.raw(&(at..at + 6))), Some(r"\u006aohn\u0040x"));
        let at = view.text.find('😀').unwrap();
        assert_eq!(raw.get(view.raw(&(at..at + 4))), Some(r"\ud83d\ude00"));
        let raw = "a+%6A%C3%B6%40x%zz%ff%";
        let view = View::of_percent(raw, true);
        assert_eq!(view.text, "a jö@x%zz\u{fffd}%");
        let at = view.text.find("jö").unwrap();
        assert_eq!(raw.get(view.raw(&(at..at + 4))), Some("%6A%C3%B6%40"));
    }

    proptest! {
        #[test]
        fn json_is_read_as_others_read_it(text in any::<String>()) {
            let written = serde_json::to_string(&text).unwrap();
            let raw = &written.as_bytes()[1..written.len() - 1];
            let view = View::of_json(raw);
            prop_assert_eq!(&*view.text, text.as_str());
            prop_assert_eq!(view.raw(&(0..text.len())), 0..raw.len());
        }

        #[test]
        fn the_way_back_covers_each_character(raw in prop::collection::vec(
            prop_oneof![any::<u8>(), Just(b'\\'), Just(b'u'), Just(b'%'), Just(b'0'), Just(b'd')], 0..60)) {
            for view in [View::of_bytes(&raw), View::of_json(&raw)] {
                let mut end = 0;
                for (at, c) in view.text.char_indices() {
                    let range = view.raw(&(at..at + c.len_utf8()));
                    prop_assert_eq!(range.start, end, "a gap at {} of {:?}", at, &view.text);
                    prop_assert!(range.end > range.start);
                    end = range.end;
                }
                prop_assert_eq!(end, raw.len());
            }
            if let Ok(text) = std::str::from_utf8(&raw) {
                let view = View::of_percent(text, false);
                prop_assert_eq!(view.raw(&(0..view.text.len())), 0..raw.len());
            }
        }
    }
}
