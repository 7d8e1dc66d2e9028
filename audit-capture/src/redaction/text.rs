//! What rules find in one text, and what stands for it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use audit_core::ingest::IngestKeys;

use super::detect::{self, Detectors, Found, Place};
use super::rules::{Action, Compiled};
use super::view::View;

/// Hits of one text. Whoever writes more into it wants the recorder to be busy.
const HITS_MAX: usize = 100_000;
/// Hits of one payload.
pub(super) const EDITS_MAX: usize = 1_000_000;
/// Hits of the operator's patterns in one text: all matches of a pattern may take time quadratic in it.
const PATTERN_HITS_MAX: usize = 10_000;
/// How often escapes are decoded within what was decoded: a tool's arguments, and JSON in those.
const NESTING_MAX: usize = 3;
/// Bytes of `u003c`, the rest of an escape behind its backslash.
const ESCAPE_BYTES: usize = 5;

/// Why a field is not looked at to its end, so that it can't be recorded. In fixed words: they stand in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Failure {
    /// More hits than a text may have.
    TooManyHits,
    /// A rule broke off.
    RuleFailed,
    /// It can't be read, and why.
    Unreadable(&'static str),
}

impl Failure {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::TooManyHits => "too_many_hits",
            Self::RuleFailed => "rule_failed",
            Self::Unreadable(why) => why,
        }
    }
}

impl View<'_> {
    /// Refuses a text whose bytes can't be told.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.overflow {
            return Err(Failure::Unreadable("too_many_escapes"));
        }
        Ok(())
    }
}

/// The rules that apply at one place, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Active<'r> {
    pub(super) rules: Vec<(usize, &'r Compiled)>,
    detectors: Detectors,
    patterns: bool,
}

impl<'r> Active<'r> {
    pub(super) fn new(rules: impl Iterator<Item = (usize, &'r Compiled)>) -> Self {
        let rules: Vec<_> = rules.collect();
        Self {
            detectors: rules.iter().fold(Detectors::default(), |all, (_, rule)| {
                all.with(rule.detectors)
            }),
            patterns: rules.iter().any(|(_, rule)| rule.any.is_some()),
            rules,
        }
    }

    /// Looks for nothing inside of texts.
    pub(super) fn is_idle(&self) -> bool {
        self.detectors.is_empty() && !self.patterns
    }

    /// The rule that takes the whole field.
    pub(super) fn whole(&self) -> Option<(usize, &'r Compiled)> {
        self.rules.iter().copied().find(|(_, rule)| rule.is_whole())
    }
}

/// Something found.
#[derive(Debug, Clone)]
pub(super) struct Hit {
    pub(super) range: Range<usize>,
    /// Number of the rule.
    pub(super) rule: usize,
    pub(super) action: Action,
    /// The detector, or the rule if it was a pattern.
    pub(super) label: String,
    value: String,
    /// Of several that overlap.
    merged: bool,
}

/// In place of a range of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) range: Range<usize>,
    pub(super) with: String,
}

/// How often each rule hit what.
pub(super) type Tally = BTreeMap<(usize, String), u64>;

/// What marks are made with.
#[derive(Debug)]
pub(super) struct Marker<'k> {
    pub(super) keys: &'k IngestKeys,
    pub(super) tenant: String,
}

impl Marker<'_> {
    /// What stands for a hit.
    pub(super) fn mark(&self, hit: &Hit) -> String {
        match hit.action {
            Action::Drop => String::new(),
            // A pseudonym of several values together would be none of each.
            Action::Pseudonymise if !hit.merged => self.pseudonym(&hit.label, &hit.value),
            _ => format!("[redacted:{}]", hit.label),
        }
    }

    pub(super) fn pseudonym(&self, what: &str, value: &str) -> String {
        let name = self.keys.pseudonym(&self.tenant, what, value.as_bytes());
        format!("<{what}:{name}>")
    }

    /// What stands for a whole field of so many bytes; nothing if it is dropped.
    pub(super) fn whole(&self, rule: &Compiled, field: &str) -> Option<String> {
        match rule.action {
            Action::Drop => None,
            Action::Mask => Some(format!("[redacted:{}]", rule.name)),
            Action::Pseudonymise => Some(self.pseudonym(&rule.name, field)),
            Action::MetadataOnly => Some(metadata_only(field.len())),
        }
    }
}

/// Stands where only the length of a field is recorded.
pub(super) fn metadata_only(bytes: usize) -> String {
    format!("[metadata only: {bytes} bytes]")
}

/// Stands where a field couldn't be looked at.
pub(super) fn withheld(failure: Failure) -> String {
    format!("[withheld:{}]", failure.as_str())
}

/// What the rules find in `text`: hits in ascending order that don't touch.
///
/// Escapes inside the text are seen through: of JSON that stands in a text, and of URLs. `form`: a plus is a blank.
pub(super) fn hits(
    active: &Active<'_>,
    text: &str,
    place: Place<'_>,
    form: bool,
) -> Result<Vec<Hit>, Failure> {
    if active.is_idle() || text.is_empty() {
        return Ok(Vec::new());
    }
    let mut hits = Vec::new();
    collect(active, text, place, &mut hits)?;
    // Without an escape, which is the rule, nothing is copied.
    if text.contains('\\') || form || has_percent(text) {
        let outer = nested_hits(active, text, place, form)?;
        // `\u003cjohn@…` read as it stands is an address that begins with `u003c`. What was decoded knows better, and the
        // escape stays whole.
        let inner: HashMap<usize, usize> = outer
            .iter()
            .map(|hit| (hit.range.end, hit.range.start))
            .collect();
        hits.retain(|hit| {
            let start = inner.get(&hit.range.end);
            start
                .is_none_or(|s| !(hit.range.start + 1..=hit.range.start + ESCAPE_BYTES).contains(s))
        });
        hits.extend(outer);
    }
    if hits.len() > HITS_MAX {
        return Err(Failure::TooManyHits);
    }
    Ok(resolve(hits))
}

/// The same in what is left of `text` when its escapes are decoded, as often as anybody may have written them.
fn nested_hits(
    active: &Active<'_>,
    text: &str,
    place: Place<'_>,
    form: bool,
) -> Result<Vec<Hit>, Failure> {
    let mut hits = Vec::new();
    let mut nested = vec![(0, text.to_owned(), Vec::<View<'_>>::new())];
    while let Some((depth, text, way)) = nested.pop() {
        if depth == NESTING_MAX {
            continue;
        }
        for json in [true, false] {
            let view = match json {
                true if text.contains('\\') => View::of_json(text.as_bytes()),
                false if has_percent(&text) || (form && depth == 0) => {
                    View::of_percent(&text, form)
                }
                _ => continue,
            };
            if view.text == text.as_str() {
                continue;
            }
            view.check()?;
            let inner = view.text.clone().into_owned();
            let mut found = Vec::new();
            collect(active, &inner, place, &mut found)?;
            for mut hit in found {
                hit.range = view.raw(&hit.range);
                for outer in way.iter().rev() {
                    hit.range = outer.raw(&hit.range);
                }
                hits.push(hit);
            }
            let mut longer: Vec<View<'_>> = way.iter().map(View::again).collect();
            longer.push(view.owned());
            nested.push((depth + 1, inner, longer));
        }
    }
    Ok(hits)
}

fn has_percent(text: &str) -> bool {
    text.contains('%')
}

fn collect(
    active: &Active<'_>,
    text: &str,
    place: Place<'_>,
    hits: &mut Vec<Hit>,
) -> Result<(), Failure> {
    let mut found: Vec<Found> = Vec::new();
    detect::find(text, place, active.detectors, &mut found);
    if found.len() > HITS_MAX {
        return Err(Failure::TooManyHits);
    }
    for found in found {
        let wants = |(_, rule): &&(usize, &Compiled)| rule.detectors.has(found.detector);
        if let Some((number, rule)) = active.rules.iter().find(wants) {
            hits.push(Hit {
                range: found.range,
                rule: *number,
                action: rule.action,
                label: found.detector.name().to_owned(),
                value: found.value,
                merged: false,
            });
        }
    }
    for (number, rule) in active.rules.iter().filter(|_| active.patterns) {
        let Some(any) = &rule.any else { continue };
        for pattern in &any.matches(text) {
            let Some(regex) = rule.patterns.get(pattern) else {
                continue;
            };
            for (count, hit) in regex.find_iter(text).enumerate() {
                if count == PATTERN_HITS_MAX {
                    return Err(Failure::TooManyHits);
                }
                // A pattern may match nothing in the middle of a text, though not in an empty one.
                if !hit.is_empty() {
                    hits.push(Hit {
                        range: hit.range(),
                        rule: *number,
                        action: rule.action,
                        label: rule.name.clone(),
                        value: hit.as_str().to_owned(),
                        merged: false,
                    });
                }
            }
        }
    }
    Ok(())
}

/// Hits that overlap become one: of two equal ones the rule that comes first stays, of one inside another the outer, and
/// two that only overlap become one that covers both.
fn resolve(mut hits: Vec<Hit>) -> Vec<Hit> {
    hits.sort_by(|a, b| {
        let key = |h: &Hit| (h.range.start, usize::MAX - h.range.end, h.rule);
        key(a).cmp(&key(b))
    });
    let mut resolved: Vec<Hit> = Vec::with_capacity(hits.len());
    for hit in hits {
        match resolved.last_mut() {
            Some(last) if hit.range.start < last.range.end => {
                if hit.range.end > last.range.end {
                    last.range.end = hit.range.end;
                    last.merged = true;
                }
                // Of what covers a field whole nothing may be left.
                if hit.action == Action::MetadataOnly {
                    last.action = Action::MetadataOnly;
                    last.rule = hit.rule;
                }
            }
            _ => resolved.push(hit),
        }
    }
    resolved
}

/// What the hits make of a text of `length` bytes; counts them.
pub(super) fn edits(
    marker: &Marker<'_>,
    tally: &mut Tally,
    hits: &[Hit],
    length: usize,
) -> Vec<Edit> {
    for hit in hits {
        *tally.entry((hit.rule, hit.label.clone())).or_default() += 1;
    }
    if hits.iter().any(|hit| hit.action == Action::MetadataOnly) {
        return vec![Edit {
            range: 0..length,
            with: metadata_only(length),
        }];
    }
    hits.iter()
        .map(|hit| Edit {
            range: hit.range.clone(),
            with: marker.mark(hit),
        })
        .collect()
}

/// `bytes` with the edits made; where edits touch the same bytes, the first one's text stands for all of them.
pub(super) fn apply(bytes: &[u8], mut edits: Vec<(Range<usize>, Vec<u8>)>) -> Vec<u8> {
    edits.sort_by_key(|(range, _)| (range.start, usize::MAX - range.end));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    for (range, with) in edits {
        if range.start < at {
            // Inside of what is gone, or reaching beyond it.
            at = at.max(range.end);
            continue;
        }
        out.extend_from_slice(bytes.get(at..range.start).unwrap_or_default());
        out.extend_from_slice(&with);
        at = range.end;
    }
    out.extend_from_slice(bytes.get(at..).unwrap_or_default());
    out
}
