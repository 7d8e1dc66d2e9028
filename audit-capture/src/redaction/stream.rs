//! Streams: each event is looked at by itself, and what goes on from one event to the next as one text.

use std::collections::BTreeMap;
use std::ops::Range;

use super::body::Body;
use super::detect::Place;
use super::document::{Document, FRAGMENTS_MAX, Fragment};
use super::rules::Action;
use super::text::{self, EDITS_MAX, Failure, withheld};
use super::view::View;

/// Equal fragments from this length on are a name that each event repeats, not a text that goes on.
const REPEATED_BYTES: usize = 8;

/// Data of one event: lines, without what stands before them.
#[derive(Default)]
struct Data {
    lines: Vec<Range<usize>>,
}

/// Server-sent events.
pub(super) fn events(body: &mut Body<'_, '_>, bytes: &[u8]) -> Result<(), Failure> {
    let mut fragments = Vec::new();
    let mut data = Data::default();
    for (n, line) in Lines(bytes, 0).enumerate() {
        let text = bytes.get(line.clone()).unwrap_or_default();
        // A byte order mark belongs to no line.
        let skip = if n == 0 && text.starts_with(b"\xef\xbb\xbf") {
            3
        } else {
            0
        };
        let (start, text) = (line.start + skip, text.get(skip..).unwrap_or_default());
        if text.is_empty() {
            event(body, bytes, &mut data, &mut fragments)?;
            continue;
        }
        match text.strip_prefix(b"data") {
            Some(b"") => {}
            Some([b':', value @ ..]) => {
                let blank = usize::from(value.first() == Some(&b' '));
                data.lines.push(start + 5 + blank..line.end);
            }
            _ => body.plain(text, start)?,
        }
    }
    event(body, bytes, &mut data, &mut fragments)?;
    joined(body, bytes, fragments)
}

/// JSON, a document in each line.
pub(super) fn lines(body: &mut Body<'_, '_>, bytes: &[u8]) -> Result<(), Failure> {
    let mut fragments = Vec::new();
    for line in Lines(bytes, 0) {
        let mut data = Data { lines: vec![line] };
        event(body, bytes, &mut data, &mut fragments)?;
    }
    joined(body, bytes, fragments)
}

/// Lines with their places, without their ends: LF, CR LF, or CR.
struct Lines<'b>(&'b [u8], usize);

impl Iterator for Lines<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let Self(bytes, start) = *self;
        let rest = bytes.get(start..).filter(|rest| !rest.is_empty())?;
        let Some(end) = rest.iter().position(|b| matches!(b, b'\r' | b'\n')) else {
            self.1 = bytes.len();
            return Some(start..bytes.len());
        };
        let both = rest.get(end..end + 2) == Some(b"\r\n");
        self.1 = start + end + 1 + usize::from(both);
        Some(start..start + end)
    }
}

/// One event's data, which is one document as a rule.
fn event(
    body: &mut Body<'_, '_>,
    bytes: &[u8],
    data: &mut Data,
    fragments: &mut Vec<Fragment>,
) -> Result<(), Failure> {
    if fragments.len() > FRAGMENTS_MAX {
        return Err(Failure::Unreadable("too_many_fragments"));
    }
    if body.edits.len() > EDITS_MAX {
        return Err(Failure::TooManyHits);
    }
    let lines = std::mem::take(&mut data.lines);
    let Some(first) = lines.first() else {
        return Ok(());
    };
    let head = bytes
        .get(first.clone())
        .unwrap_or_default()
        .trim_ascii_start();
    if !matches!(head.first(), Some(b'{' | b'[' | b'"')) {
        // Text: it goes on from event to event too.
        for line in lines {
            body.plain(bytes.get(line.clone()).unwrap_or_default(), line.start)?;
            fragments.push(Fragment {
                place: PLAIN,
                span: line,
                name: 0..0,
            });
        }
        return Ok(());
    }
    // Lines are joined by line feeds; where each came from is found by its place in the whole.
    let mut whole = Vec::new();
    let mut starts = Vec::new();
    for line in &lines {
        if !starts.is_empty() {
            whole.push(b'\n');
        }
        starts.push((whole.len(), line.clone()));
        whole.extend_from_slice(bytes.get(line.clone()).unwrap_or_default());
    }
    let mut at = 0;
    let mut edits = Vec::new();
    while !whole.get(at..).unwrap_or_default().trim_ascii().is_empty() {
        let mut own = Vec::new();
        let read = Document::read(body, &whole, at, Some(&mut own))?;
        edits.extend(read.edits);
        for echo in &read.echoes {
            body.echoes.extend(back(&starts, echo));
        }
        // A string has no line end in it, so it lies in one line.
        fragments.extend(own.into_iter().filter_map(|fragment| {
            let span = back(&starts, &fragment.span).next()?;
            let name = back(&starts, &fragment.name).next().unwrap_or(0..0);
            Some(Fragment {
                span,
                name,
                ..fragment
            })
        }));
        at = read.end;
        if read.stop.is_some() {
            let before = body.edits.len();
            let (range, failure) = body.broken(&whole, at)?;
            edits.extend(body.edits.drain(before..));
            if let Some(failure) = failure {
                edits.push((range, withheld(failure).into_bytes()));
            } else if let Some(span) = back(&starts, &range).next() {
                // The last event of a stream that was cut: what it begins belongs to a text of some place, and nobody
                // knows which.
                fragments.push(Fragment {
                    place: PLAIN,
                    span,
                    name: 0..0,
                });
            }
            break;
        }
    }
    for (range, with) in edits {
        let mut with = Some(with);
        for raw in back(&starts, &range) {
            body.edits.push((raw, with.take().unwrap_or_default()));
        }
    }
    Ok(())
}

/// Of text that is no JSON.
const PLAIN: u64 = 0;

/// The bytes of a range of joined lines, line by line.
fn back<'l>(
    starts: &'l [(usize, Range<usize>)],
    range: &Range<usize>,
) -> impl Iterator<Item = Range<usize>> + use<'l> {
    let range = range.clone();
    starts.iter().filter_map(move |(at, line)| {
        let start = range.start.max(*at);
        let end = range.end.min(at + line.len());
        (start < end).then(|| line.start + start - at..line.start + end - at)
    })
}

/// Looks for what no event has whole: an address that comes in two pieces.
fn joined(body: &mut Body<'_, '_>, bytes: &[u8], fragments: Vec<Fragment>) -> Result<(), Failure> {
    let mut places: BTreeMap<u64, Vec<Fragment>> = BTreeMap::new();
    for fragment in fragments {
        places.entry(fragment.place).or_default().push(fragment);
    }
    let mut found: Vec<Range<usize>> = body.edits.iter().map(|(range, _)| range.clone()).collect();
    found.sort_by_key(|range| range.start);
    let is_found = |range: &Range<usize>| {
        let n = found.partition_point(|f| f.start <= range.start);
        n.checked_sub(1)
            .and_then(|n| found.get(n))
            .is_some_and(|f| f.end >= range.end)
    };
    let mut joined = Vec::new();
    for fragments in places.into_values().filter(|f| f.len() > 1) {
        let raw = |fragment: &Fragment| bytes.get(fragment.span.clone()).unwrap_or_default();
        let first = raw(&fragments[0]);
        if first.len() >= REPEATED_BYTES && fragments.iter().all(|f| raw(f) == first) {
            continue;
        }
        let views: Vec<View<'_>> = fragments.iter().map(|f| View::of_json(raw(f))).collect();
        let mut whole = String::new();
        let mut starts = Vec::with_capacity(views.len());
        for view in &views {
            starts.push(whole.len());
            whole.push_str(&view.text);
        }
        let name = bytes.get(fragments[0].name.clone()).unwrap_or_default();
        let place = Place {
            name: std::str::from_utf8(name).unwrap_or_default(),
            number: false,
        };
        let mut hits = text::hits(&body.active, &whole, place, false)?;
        let of = |at: usize| {
            starts
                .partition_point(|start| *start <= at)
                .saturating_sub(1)
        };
        // The bytes of a range of the whole, fragment by fragment.
        let parts = |range: &Range<usize>| {
            let mut parts = Vec::new();
            for n in of(range.start)..=of(range.end.saturating_sub(1)) {
                let (Some(view), Some(fragment), Some(start)) =
                    (views.get(n), fragments.get(n), starts.get(n))
                else {
                    continue;
                };
                let from = range.start.saturating_sub(*start);
                let to = (range.end - start).min(view.text.len());
                if from < to {
                    let local = view.raw(&(from..to));
                    let offset = fragment.span.start;
                    parts.push(offset + local.start..offset + local.end);
                }
            }
            parts
        };
        // What stands in one event was found there. Records that come one behind the other have whole addresses each, of
        // which two make no third.
        hits.retain(|hit| {
            let spans = of(hit.range.start) != of(hit.range.end.saturating_sub(1));
            hit.action == Action::MetadataOnly || (spans && !parts(&hit.range).iter().all(is_found))
        });
        let edits = text::edits(body.marker, &mut body.tally, &hits, whole.len());
        for edit in edits {
            let mut with = Some(edit.with.into_bytes());
            for part in parts(&edit.range) {
                joined.push((part, with.take().unwrap_or_default()));
            }
        }
    }
    // Where the beginning of an address was an address by itself, the mark of the whole one is what stays.
    joined.append(&mut body.edits);
    body.edits = joined;
    Ok(())
}
