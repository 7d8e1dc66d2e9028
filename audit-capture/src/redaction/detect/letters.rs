//! Numbers that have letters in them: IBAN, and the national ids of some countries.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::{Detector, Detectors, Found, checks, is_inside};

pub(super) const DETECTORS: &[Detector] = &[
    Detector::Iban,
    Detector::UkNino,
    Detector::FrNir,
    Detector::ItCodiceFiscale,
    Detector::EsDni,
];

/// Lengths by country, from the registry of IBANs (SWIFT, release 99).
const IBAN_LENGTHS: &[(&[u8; 2], usize)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

struct Form {
    detector: Detector,
    written: Regex,
    check: fn(&[u8]) -> bool,
}

static FORMS: LazyLock<Vec<Form>> = LazyLock::new(|| {
    let form = |detector, form: &str, check| Form {
        detector,
        written: Regex::new(form).expect("the forms below are regular expressions"),
        check,
    };
    vec![
        form(
            Detector::UkNino,
            // HMRC, National Insurance Manual NIM39110.
            r"(?i-u)\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][ -]?[0-9]{2}[ -]?[0-9]{2}[ -]?[0-9]{2}[ -]?[A-D]\b",
            |text| {
                !matches!(
                    text.get(..2),
                    Some(b"BG" | b"GB" | b"NK" | b"KN" | b"TN" | b"NT" | b"ZZ")
                )
            },
        ),
        form(
            Detector::FrNir,
            r"(?-u)\b[1-478][ .]?[0-9]{2}[ .]?(?:0[1-9]|1[0-2]|[2-9][0-9])[ .]?(?:[0-9]{2}|2[ABab])[ .]?[0-9]{3}[ .]?[0-9]{3}[ .-]?[0-9]{2}\b",
            checks::fr_nir,
        ),
        form(
            Detector::ItCodiceFiscale,
            // Letters for digits where two people would have one code.
            r"(?i-u)\b[A-Z]{6}[0-9LMNP-V]{2}[ABCDEHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]\b",
            checks::it_codice_fiscale,
        ),
        form(
            Detector::EsDni,
            r"(?i-u)\b(?:[0-9]{8}|[XYZ]-?[0-9]{7})-?[A-Z]\b",
            checks::es_dni,
        ),
    ]
});

/// Bytes before and behind two digits within which each of the forms lies that has them.
const FORM_BYTES_MAX: usize = 32;

pub(super) fn find(text: &str, wanted: Detectors, found: &mut Vec<Found>) {
    // All of these numbers have two digits side by side, and prose has few of them.
    let bytes = text.as_bytes();
    let mut done = 0;
    let mut at = 0;
    while let Some(pair) = bytes.get(at..).and_then(two_digits) {
        let mut end = at + pair + 2;
        let start = (end.saturating_sub(2 + FORM_BYTES_MAX)).max(done);
        // What follows closely is looked at together, so that nothing is looked at twice.
        while let Some(next) = bytes
            .get(end..bytes.len().min(end + FORM_BYTES_MAX))
            .and_then(two_digits)
        {
            end += next + 2;
        }
        at = end;
        let start = (start..=end).find(|n| text.is_char_boundary(*n));
        let stop = bytes.len().min(end + FORM_BYTES_MAX);
        let stop = (stop..=bytes.len()).find(|n| text.is_char_boundary(*n));
        let (Some(start), Some(stop)) = (start, stop) else {
            return;
        };
        done = end;
        forms(text, start..stop, wanted, found);
    }
}

/// Where two digits stand side by side.
fn two_digits(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(2)
        .position(|w| w.iter().all(u8::is_ascii_digit))
}

/// What lies in a range of the text; the edges of the range are no edges of words.
fn forms(text: &str, range: Range<usize>, wanted: Detectors, found: &mut Vec<Found>) {
    if wanted.has(Detector::Iban) {
        ibans(text, &range, found);
    }
    let part = text.get(range.clone()).unwrap_or_default();
    for form in FORMS.iter().filter(|f| wanted.has(f.detector)) {
        for hit in form.written.find_iter(part) {
            let value: String = hit
                .as_str()
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .map(|c| c.to_ascii_uppercase())
                .collect();
            let range = range.start + hit.start()..range.start + hit.end();
            // The fraction of a second, and its zone: `05.12345678Z`.
            let before = text.as_bytes().get(..range.start).unwrap_or_default();
            if matches!(before, [.., b'0'..=b'9', b'.' | b',']) {
                continue;
            }
            // The forms tell ASCII letters apart alone; `é` before one makes it a part of a word too.
            if (form.check)(value.as_bytes()) && !is_inside(text, &range) {
                found.push(Found {
                    range,
                    detector: form.detector,
                    value,
                });
            }
        }
    }
}

/// Wherever a country's letters and two digits begin a word, as many characters as that country's IBAN has, in groups or
/// not.
fn ibans(text: &str, range: &Range<usize>, found: &mut Vec<Found>) {
    let bytes = text.as_bytes().get(range.clone()).unwrap_or_default();
    for (start, window) in bytes.windows(4).enumerate() {
        let start = range.start + start;
        let &[a, b, c, d] = window else { continue };
        if !(c.is_ascii_digit()
            && d.is_ascii_digit()
            && a.is_ascii_alphabetic()
            && b.is_ascii_alphabetic())
        {
            continue;
        }
        let country = [a.to_ascii_uppercase(), b.to_ascii_uppercase()];
        let Some((_, length)) = IBAN_LENGTHS.iter().find(|(name, _)| **name == country) else {
            continue;
        };
        let mut value = String::with_capacity(*length);
        let mut end = start;
        let mut gap = 0;
        for (at, c) in text.get(start..).unwrap_or_default().char_indices() {
            if c.is_ascii_alphanumeric() {
                value.push(c.to_ascii_uppercase());
                gap = 0;
                end = start + at + 1;
                if value.len() == *length {
                    break;
                }
            } else if gap < 2 && matches!(c, ' ' | '-' | '.' | '\u{a0}' | '\u{202f}' | '\u{2009}') {
                gap += 1;
            } else {
                break;
            }
        }
        let range = start..end;
        if value.len() == *length && checks::iban(value.as_bytes()) && !is_inside(text, &range) {
            found.push(Found {
                range,
                detector: Detector::Iban,
                value,
            });
        }
    }
}
