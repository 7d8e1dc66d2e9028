//! Numbers that are written in digits and what parts them: payment cards, national ids, telephone numbers.
//!
//! A text is cut into clusters once: runs of digits with blanks, hyphens, dots, slashes or parentheses between them. Each
//! detector then looks at windows of neighbouring runs, of which there are at most ten for each run.

use std::ops::Range;

use super::{Context, Detector, Detectors, Found, checks};

pub(super) const DETECTORS: &[Detector] = &[
    Detector::Card,
    Detector::UsSsn,
    Detector::DeTaxId,
    Detector::FrNir,
    Detector::NlBsn,
    Detector::ChAhv,
    Detector::PlPesel,
    Detector::InAadhaar,
    Detector::BrCpf,
    Detector::Phone,
];

/// Runs of one window.
const RUNS_MAX: usize = 10;
/// Digits of the longest number, a payment card.
const DIGITS_MAX: usize = 19;

struct Cluster<'t> {
    text: &'t str,
    runs: Vec<Range<usize>>,
    /// Where it begins, with a `+` or `(` before the first digit.
    start: usize,
    plus: bool,
    /// Letters touch it, so that its first or last run is a part of a word.
    glued_left: bool,
    glued_right: bool,
}

/// Neighbouring runs.
struct Window<'c> {
    cluster: &'c Cluster<'c>,
    runs: Range<usize>,
    digits: [u8; DIGITS_MAX],
    length: usize,
}

pub(super) fn find(context: &Context<'_>, wanted: Detectors, found: &mut Vec<Found>) {
    clusters(context.text, |cluster| {
        if cluster.digits() < 7 {
            return;
        }
        windows(cluster, |window| numbers(context, window, wanted, found));
        if wanted.has(Detector::Phone) {
            phone(context, cluster, found);
        }
    });
}

/// What may stand between two runs of one number; some of it has no width.
fn is_separator(c: char) -> bool {
    matches!(
        c,
        ' ' | '-' | '.' | '/' | '(' | ')'
            | '\u{a0}' | '\u{ad}' | '\u{2009}' | '\u{200b}'..='\u{200d}'
            | '\u{2010}'..='\u{2013}' | '\u{202f}' | '\u{2060}' | '\u{feff}'
    )
}

fn clusters<'t>(text: &'t str, mut each: impl FnMut(&Cluster<'t>)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(first) = bytes
        .get(at..)
        .and_then(|rest| rest.iter().position(u8::is_ascii_digit))
    {
        let first = at + first;
        let mut runs = vec![run_at(bytes, first)];
        let mut end = runs[0].end;
        while let Some(next) = after_separator(text, end) {
            let run = run_at(bytes, next);
            end = run.end;
            runs.push(run);
        }
        let before = text.get(..first).unwrap_or_default();
        let opened = before.strip_suffix('(').unwrap_or(before);
        let signed = opened.strip_suffix('+').unwrap_or(opened);
        let plus = signed.len() < opened.len();
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let touching = if plus { signed } else { before };
        let cluster = Cluster {
            text,
            start: if plus {
                signed.len()
            } else if opened.len() < before.len() {
                opened.len()
            } else {
                first
            },
            plus,
            glued_left: touching.chars().next_back().is_some_and(word) && !is_label(touching),
            glued_right: text
                .get(end..)
                .and_then(|rest| rest.chars().next())
                .is_some_and(word),
            runs,
        };
        each(&cluster);
        at = end;
    }
}

/// Whether the text ends with a word of letters alone that is no beginning of an id: `Card4111…`, but not `x_4111…`.
fn is_label(before: &str) -> bool {
    let letters = before.chars().rev().take(24);
    let count = letters.clone().take_while(|c| c.is_alphabetic()).count();
    let next = letters.clone().nth(count);
    (3..24).contains(&count) && next.is_none_or(|c| !c.is_alphanumeric() && c != '_')
}

fn run_at(bytes: &[u8], start: usize) -> Range<usize> {
    let length = bytes
        .iter()
        .skip(start)
        .take_while(|b| b.is_ascii_digit())
        .count();
    start..start + length
}

/// Where the next run begins, if no more than three separators stand before it.
fn after_separator(text: &str, end: usize) -> Option<usize> {
    let mut at = end;
    for c in text.get(end..)?.chars().take(4) {
        if c.is_ascii_digit() {
            return (at > end).then_some(at);
        }
        if !is_separator(c) {
            return None;
        }
        at += c.len_utf8();
    }
    None
}

fn windows<'c>(cluster: &'c Cluster<'c>, mut each: impl FnMut(&Window<'c>)) {
    let count = cluster.runs.len();
    for first in usize::from(cluster.glued_left)..count {
        let mut window = Window {
            cluster,
            runs: first..first,
            digits: [0; DIGITS_MAX],
            length: 0,
        };
        for (place, run) in cluster.runs.iter().enumerate().skip(first).take(RUNS_MAX) {
            let free = window.digits.get_mut(window.length..).unwrap_or_default();
            if run.len() > free.len() {
                break;
            }
            let digits = cluster.text.as_bytes().get(run.clone()).unwrap_or_default();
            for (to, digit) in free.iter_mut().zip(digits) {
                *to = digit - b'0';
            }
            window.length += run.len();
            window.runs.end = place + 1;
            if !(cluster.glued_right && place + 1 == count) {
                each(&window);
            }
        }
    }
}

impl Cluster<'_> {
    fn digits(&self) -> usize {
        self.runs.iter().map(Range::len).sum()
    }

    /// What stands between run `n` and the next.
    fn separator(&self, n: usize) -> &str {
        match (self.runs.get(n), self.runs.get(n + 1)) {
            (Some(a), Some(b)) => self.text.get(a.end..b.start).unwrap_or_default(),
            _ => "",
        }
    }

    fn lengths(&self, runs: Range<usize>) -> Vec<usize> {
        self.runs
            .get(runs)
            .unwrap_or_default()
            .iter()
            .map(Range::len)
            .collect()
    }
}

impl Window<'_> {
    fn digits(&self) -> &[u8] {
        self.digits.get(..self.length).unwrap_or_default()
    }

    fn start(&self) -> usize {
        self.cluster
            .runs
            .get(self.runs.start)
            .map_or(0, |r| r.start)
    }

    fn range(&self) -> Range<usize> {
        let end = self.runs.end.checked_sub(1);
        let end = end
            .and_then(|n| self.cluster.runs.get(n))
            .map_or(0, |r| r.end);
        self.start()..end
    }

    fn lengths(&self) -> Vec<usize> {
        self.cluster.lengths(self.runs.clone())
    }

    /// The separators between its runs, if they are all the same one character; empty for a lone run.
    fn separator(&self) -> Option<&str> {
        let inner = self.runs.start..self.runs.end.saturating_sub(1);
        let mut separators = inner.map(|n| self.cluster.separator(n));
        let Some(first) = separators.next() else {
            return Some("");
        };
        (first.chars().count() == 1 && separators.all(|s| s == first)).then_some(first)
    }

    /// Part of a decimal number or of something dotted, on either side.
    fn is_decimal(&self) -> bool {
        let before = self.runs.start.checked_sub(1);
        before.is_some_and(|n| self.cluster.separator(n) == ".")
            || self.cluster.separator(self.runs.end - 1) == "."
    }

    fn is_lone(&self) -> bool {
        self.runs.len() == 1
    }

    fn text(&self) -> String {
        self.digits().iter().map(|d| char::from(b'0' + d)).collect()
    }
}

fn numbers(context: &Context<'_>, window: &Window<'_>, wanted: Detectors, found: &mut Vec<Found>) {
    if window.length < 8 {
        return;
    }
    let digits = window.digits();
    let named = |words: &[&str]| context.has(window.start(), words);
    let lengths = window.lengths();
    let separator = window.separator();
    // In a JSON number the name alone says what it is.
    let bare = window.is_lone() && !window.is_decimal();
    let bare_id = bare && !context.place.number;
    let grouped = |groups: &[usize], separators: &[&str]| {
        lengths == groups && separator.is_some_and(|s| separators.contains(&s))
    };
    let mut push = |detector: Detector| {
        if wanted.has(detector) {
            found.push(Found {
                range: window.range(),
                detector,
                value: window.text(),
            });
        }
    };
    match window.length {
        8 | 9 => {
            if window.length == 9 && is_ssn(digits) {
                const WORDS: &[&str] = &[
                    "ssn",
                    "social security",
                    "social_security",
                    "socialsecurity",
                    "soc sec",
                    "taxpayer",
                ];
                let hyphens = grouped(&[3, 2, 4], &["-", "\u{2010}", "\u{2011}", "\u{2013}"]);
                if hyphens || (named(WORDS) && (bare || grouped(&[3, 2, 4], &[" ", "."]))) {
                    push(Detector::UsSsn);
                    return;
                }
            }
            let mut nine = [0; 9];
            nine[9 - window.length..].copy_from_slice(digits);
            if checks::nl_bsn(&nine) {
                const WORDS: &[&str] = &["bsn", "burgerservice", "burger service", "sofi"];
                if named(WORDS) && !window.is_decimal() {
                    push(Detector::NlBsn);
                }
            }
        }
        11 => {
            const CPF: &[&str] = &["cpf", "cadastro de pessoa"];
            const PESEL: &[&str] = &["pesel"];
            const TAX: &[&str] = &["steuer", "idnr", "id-nr", "tax_id", "taxid", "tax id"];
            let cpf = checks::br_cpf(digits);
            let pesel = checks::pl_pesel(digits);
            let tax = checks::de_tax_id(digits);
            // `123.456.789-09`
            let cpf_form = lengths == [3, 3, 3, 2] && is_cpf_form(window);
            let tax_form = grouped(&[2, 3, 3, 3], &[" ", "\u{a0}", "\u{202f}", "/"]);
            if cpf && (cpf_form || (named(CPF) && !window.is_decimal())) {
                push(Detector::BrCpf);
            } else if pesel && bare && named(PESEL) {
                push(Detector::PlPesel);
            } else if tax && (tax_form || (named(TAX) && !window.is_decimal())) {
                push(Detector::DeTaxId);
            } else if pesel && bare_id {
                push(Detector::PlPesel);
            } else if tax && bare_id {
                push(Detector::DeTaxId);
            } else if cpf && bare_id {
                push(Detector::BrCpf);
            }
        }
        12 if checks::verhoeff(digits) && digits[0] >= 2 => {
            const WORDS: &[&str] = &["aadhaar", "aadhar", "uidai", "\u{906}\u{927}\u{93e}\u{930}"];
            if grouped(&[4, 4, 4], &[" ", "-", "\u{a0}"]) || (bare && named(WORDS)) {
                push(Detector::InAadhaar);
            }
        }
        13 if digits.starts_with(&[7, 5, 6])
            && checks::ean13(digits)
            && (grouped(&[3, 4, 4, 2], &[".", " ", "-"]) || bare) =>
        {
            push(Detector::ChAhv);
        }
        15 if (lengths == [13, 2] || bare_id || named(&["nir", "insee", "sécu", "secu"]))
            && matches!(digits[0], 1..=4 | 7 | 8)
            && checks::fr_nir(window.text().as_bytes()) =>
        {
            push(Detector::FrNir);
        }
        _ => {}
    }
    if window.length >= 12 && checks::luhn(digits) && is_issued(digits) && !window.is_decimal() {
        const WORDS: &[&str] = &[
            "card",
            "karte",
            "carte",
            "tarjeta",
            "visa",
            "mastercard",
            "amex",
            "pan",
            "credit",
        ];
        let form = match lengths.as_slice() {
            [13..=16] => true,
            [4, 4, 4, 4] | [4, 4, 4, 4, 1..=3] | [4, 6, 4 | 5] | [4, 4, 5] | [6, 7..=13] => {
                separator.is_some_and(|s| s != "." && s != "/")
            }
            _ => false,
        };
        if form || (separator.is_some() && named(WORDS)) {
            push(Detector::Card);
        }
    }
}

/// What the Social Security Administration has never given out: area 000, 666 and 900 to 999, group 00, serial 0000.
fn is_ssn(digits: &[u8]) -> bool {
    let (Some(area), Some(group), Some(serial)) =
        (digits.get(..3), digits.get(3..5), digits.get(5..9))
    else {
        return false;
    };
    area != [0; 3]
        && area != [6; 3]
        && !area.starts_with(&[9])
        && group != [0; 2]
        && serial != [0; 4]
}

fn is_cpf_form(window: &Window<'_>) -> bool {
    let separator = |n: usize| window.cluster.separator(window.runs.start + n);
    separator(0) == "."
        && separator(1) == "."
        && matches!(separator(2), "-" | "/" | "\u{2011}" | "\u{2013}")
}

/// Whether an issuer's number begins so, and has so many digits: the ranges of ISO/IEC 7812 that the networks publish.
fn is_issued(digits: &[u8]) -> bool {
    let head = |n: usize| {
        digits
            .iter()
            .take(n)
            .fold(0_u32, |n, d| n * 10 + u32::from(*d))
    };
    let (two, three, four, six) = (head(2), head(3), head(4), head(6));
    match digits.len() {
        13 => digits[0] == 4 || is_maestro(two, four),
        14 => {
            matches!(three, 300..=305 | 309) || matches!(two, 36 | 38 | 39) || is_maestro(two, four)
        }
        15 => matches!(two, 34 | 37) || is_maestro(two, four) || matches!(four, 2131 | 1800),
        16 => {
            digits[0] == 4
                || matches!(two, 51..=55 | 60 | 62 | 65 | 81 | 82)
                || matches!(three, 644..=649 | 353..=358 | 300..=305)
                || matches!(two, 36 | 38 | 39)
                || matches!(four, 2200..=2204 | 2221..=2720 | 3528..=3589 | 6011)
                || matches!(six, 506_099..=506_198)
                || is_maestro(two, four)
        }
        17 | 18 => {
            matches!(two, 62 | 65 | 60) || matches!(four, 2200..=2204) || is_maestro(two, four)
        }
        19 => {
            digits[0] == 4
                || matches!(two, 62 | 65 | 60)
                || matches!(four, 2200..=2204)
                || is_maestro(two, four)
        }
        12 => is_maestro(two, four),
        _ => false,
    }
}

fn is_maestro(two: u32, four: u32) -> bool {
    matches!(two, 50 | 56 | 57 | 58 | 63 | 67) || matches!(four, 6759 | 6761..=6763 | 6304 | 6390)
}

/// The country codes of ITU-T E.164 (list of 2016-12-15): whether a number in international form can begin so.
fn is_country_code(digits: &[u8]) -> bool {
    let head = |n: usize| {
        let digits = digits.iter().take(n);
        digits.fold(0_u32, |n, d| n * 10 + u32::from(*d))
    };
    matches!(head(2), 10..=27 | 30..=41 | 43..=68 | 70..=79 | 81 | 82 | 84 | 86 | 90..=99)
        || matches!(
            head(3),
            290 | 291 | 297..=299 | 420 | 421 | 423 | 690..=692 | 800 | 808 | 850 | 852 | 853 | 855
                | 856 | 870 | 878 | 880..=883 | 886 | 888
        )
}

const PHONE_WORDS: &[&str] = &[
    "phone",
    "telephone",
    "telefon",
    "tel",
    "tlf",
    "mobile",
    "mobil",
    "cell",
    "fax",
    "handy",
    "whatsapp",
    "rufnummer",
    "téléphone",
    "portable",
    "teléfono",
    "telefono",
    "móvil",
    "celular",
    "msisdn",
    "call me",
    "ring me",
    "text me",
];

fn phone(context: &Context<'_>, cluster: &Cluster<'_>, found: &mut Vec<Found>) {
    let bytes = cluster.text.as_bytes();
    let take = |runs: Range<usize>| -> Vec<u8> {
        let runs = cluster.runs.get(runs).unwrap_or_default();
        runs.iter()
            .flat_map(|r| bytes.get(r.clone()).unwrap_or_default())
            .map(|b| b - b'0')
            .collect()
    };
    let text = |digits: &[u8]| -> String { digits.iter().map(|d| char::from(b'0' + d)).collect() };
    let count = cluster.runs.len() - usize::from(cluster.glued_right);
    let first = usize::from(cluster.glued_left);
    let Some(lead) = cluster.runs.first().filter(|_| count > first) else {
        return;
    };
    // `+262143-01-01T01`: what goes on in letters is no number of a telephone.
    if cluster.glued_right {
        return;
    }
    let mut push = |from: usize, runs: Range<usize>, value: String| {
        let end = cluster.runs.get(runs.end - 1).map_or(from, |r| r.end);
        found.push(Found {
            range: from..end,
            detector: Detector::Phone,
            value,
        });
    };
    // In international form: `+`, or `00` and a number in groups.
    let zeros = bytes.get(lead.clone()).unwrap_or_default();
    let zeros = zeros.starts_with(b"00") && (zeros.len() >= 4 || cluster.runs.len() > 2);
    if (cluster.plus || zeros) && !cluster.glued_left {
        let skip = if cluster.plus { 0 } else { 2 };
        // As many groups as fit into fifteen digits, but the first at least.
        let mut length = 0;
        let mut end = 0;
        while end < count {
            length += cluster.runs.get(end).map_or(0, Range::len);
            if end > 0 && length > 15 + skip {
                break;
            }
            end += 1;
        }
        let mut digits = take(0..end);
        digits.drain(..skip.min(digits.len()));
        // `+49 (0) 30 …`: the zero is not dialled.
        if let Some(second) = cluster.runs.get(1).filter(|r| r.len() == 1)
            && bytes.get(second.clone()) == Some(b"0")
            && cluster.separator(0).contains('(')
            && cluster.separator(1).contains(')')
        {
            digits.remove(lead.len() - skip);
        }
        let decimal = end == 2 && cluster.separator(0) == ".";
        if (8..=15).contains(&digits.len()) && is_country_code(&digits) && !decimal {
            push(cluster.start, 0..end, format!("+{}", text(&digits)));
            return;
        }
    }
    // In North America: 3, 3 and 4 digits, neither of the first two groups beginning with 0 or 1.
    for at in first..count {
        let one = cluster.lengths(at..at + 1) == [1] && take(at..at + 1) == [1];
        let from = at + usize::from(one);
        if from + 3 > count || cluster.lengths(from..from + 3) != [3, 3, 4] {
            continue;
        }
        let digits = take(from..from + 3);
        let separators = [cluster.separator(from), cluster.separator(from + 1)];
        let spaced = separators == [" ", " "] && !(at == 0 && from + 3 == cluster.runs.len());
        let slashed = separators.iter().any(|s| s.contains('/'));
        if digits[0] < 2 || digits[3] < 2 || spaced || slashed {
            continue;
        }
        let start = cluster.runs.get(at).map_or(0, |r| r.start);
        let start = if at == 0 { cluster.start } else { start };
        push(start, at..from + 3, text(&digits));
        return;
    }
    let digits = take(first..count);
    let start = cluster.runs.get(first).map_or(0, |r| r.start);
    let start = if first == 0 { cluster.start } else { start };
    // With the zero that is dialled within a country: a first group of two digits or more, and further groups.
    let lengths = cluster.lengths(first..count);
    let date = matches!(lengths.as_slice(), [2, 2, 2 | 4, ..] | [4, 2, 2, ..])
        && (lengths.get(2) == Some(&4) || lengths.len() == 3)
        || lengths.first() == Some(&4);
    let date = date
        && cluster.separator(first) != " "
        && cluster.separator(first) == cluster.separator(first + 1);
    // `09 2013 -0900`, and `R-03371-37637`.
    let year = lengths.starts_with(&[2, 4]) && matches!(digits.get(2..4), Some([1, 9] | [2, 0]));
    let before = bytes.get(..cluster.start).unwrap_or_default();
    let part = matches!(before, [.., letter, b'-'] if letter.is_ascii_alphanumeric());
    let trunk = matches!(digits.as_slice(), [0, 1..=9, ..])
        && !year
        && !part
        && (2..=6).contains(&lengths[0])
        && lengths.len() >= 2
        && lengths.len() <= 6
        && (9..=12).contains(&digits.len())
        && lengths.iter().skip(1).all(|n| *n >= 2)
        && !date;
    // Without any form: where the words before it say so.
    let told = (7..=15).contains(&digits.len()) && !date && context.has(start, PHONE_WORDS);
    if trunk || told {
        push(start, first..count, text(&digits));
    }
}
