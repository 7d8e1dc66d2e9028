//! One JSON document: its tokens are looked at where they stand, and only what hits is written anew.

use std::ops::Range;

use super::body::Body;
use super::detect::Place;
use super::pointer::Step;
use super::rules::Compiled;
use super::scan::{Stop, Token, scan};
use super::text::{self, Active, EDITS_MAX, Failure};
use super::view::View;

/// Members that tell one text of a stream from another, where they stand beside it or above it.
const DISCRIMINATORS: [&[u8]; 5] = [
    b"index",
    b"output_index",
    b"content_index",
    b"summary_index",
    b"item_id",
];

/// Strings of a stream, and containers of one of its documents; each takes some hundred bytes while it is looked at.
pub(super) const FRAGMENTS_MAX: usize = 2_000_000;

/// A string of a document, and a number that is the same for all strings of a stream that go on from one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fragment {
    pub(super) place: u64,
    pub(super) span: Range<usize>,
    /// The name of the member.
    pub(super) name: Range<usize>,
}

/// What became of a document.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) edits: Vec<(Range<usize>, Vec<u8>)>,
    /// Behind its last byte, or where it is broken.
    pub(super) end: usize,
    pub(super) stop: Option<Stop>,
}

struct Level {
    object: bool,
    key: Range<usize>,
    item: usize,
    frame: usize,
}

/// An array or object, for telling the places of a stream apart.
struct Frame {
    parent: usize,
    /// The way from the parent.
    step: u64,
    /// Its members that tell it from others.
    discriminators: u64,
    indexed: bool,
    item: bool,
}

pub(super) struct Document<'d, 'b, 'r, 'm> {
    body: &'d mut Body<'r, 'm>,
    bytes: &'b [u8],
    levels: Vec<Level>,
    /// Rules that apply below a level, because they point to it.
    inside: Vec<(usize, usize, &'r Compiled)>,
    /// A value that is taken whole.
    taken: Option<(usize, usize, usize, &'r Compiled)>,
    edits: Vec<(Range<usize>, Vec<u8>)>,
    failure: Option<Failure>,
    /// Of a stream: its containers, and its strings with their frame and name.
    streamed: bool,
    frames: Vec<Frame>,
    leaves: Vec<(usize, u64, Range<usize>, Range<usize>)>,
}

impl<'d, 'b, 'r, 'm> Document<'d, 'b, 'r, 'm> {
    /// Reads one document from `from` on; gathers its strings for whoever joins them.
    pub(super) fn read(
        body: &'d mut Body<'r, 'm>,
        bytes: &'b [u8],
        from: usize,
        fragments: Option<&mut Vec<Fragment>>,
    ) -> Result<Read, Failure> {
        let mut document = Document {
            body,
            bytes,
            levels: Vec::new(),
            inside: Vec::new(),
            taken: None,
            edits: Vec::new(),
            failure: None,
            streamed: fragments.is_some(),
            frames: Vec::new(),
            leaves: Vec::new(),
        };
        let end = scan(bytes, from, |token| {
            if document.failure.is_none() {
                document.token(token);
            }
        });
        if let Some(failure) = document.failure {
            return Err(failure);
        }
        if let Some((_, start, number, rule)) = document.taken.take() {
            // It is cut off: all that there is of it goes.
            let rest = end.unwrap_or_else(Stop::at);
            document.take(start..rest, number, rule);
        }
        if let Some(fragments) = fragments {
            document.fragments(fragments);
        }
        Ok(Read {
            edits: document.edits,
            end: end.unwrap_or_else(Stop::at),
            stop: end.err(),
        })
    }

    fn token(&mut self, token: Token) {
        match token {
            Token::Key(span) => self.key(span),
            Token::Text(span) => self.value(span.start - 1, |document, active, whole| {
                document.leaf(&span, active.as_ref(), whole, true);
            }),
            Token::Number(span) => self.value(span.start, |document, active, whole| {
                document.leaf(&span, active.as_ref(), whole, false);
            }),
            Token::Word(span) => self.value(span.start, |document, _, whole| {
                if let Some((number, rule)) = whole {
                    document.take(span.clone(), number, rule);
                }
            }),
            Token::Open { at, object } => self.open(at, object),
            Token::Close { end } => self.close(end),
        }
    }

    fn key(&mut self, span: Range<usize>) {
        if let Some(level) = self.levels.last_mut() {
            level.key = span.clone();
        }
        if self.taken.is_some() {
            return;
        }
        let view = View::of_json(self.bytes.get(span.clone()).unwrap_or_default());
        let active = self.applying(&[]);
        let active = active.as_ref().unwrap_or(&self.body.active);
        let hits = view
            .check()
            .and_then(|()| text::hits(active, &view.text, Place::default(), false));
        match hits {
            Ok(hits) => {
                let edits = text::edits(
                    self.body.marker,
                    &mut self.body.tally,
                    &hits,
                    view.text.len(),
                );
                for edit in edits {
                    let raw = view.raw(&edit.range);
                    self.edits.push((
                        span.start + raw.start..span.start + raw.end,
                        edit.with.into(),
                    ));
                }
            }
            Err(failure) => self.failure = Some(failure),
        }
    }

    /// The rules that apply at a value, if they are others than those of the payload.
    fn applying(&self, named: &[(usize, &'r Compiled)]) -> Option<Active<'r>> {
        if named.is_empty() && self.inside.is_empty() {
            return None;
        }
        let mut rules = self.body.active.rules.clone();
        rules.extend(self.inside.iter().map(|(_, number, rule)| (*number, *rule)));
        rules.extend_from_slice(named);
        rules.sort_by_key(|(number, _)| *number);
        rules.dedup_by_key(|(number, _)| *number);
        Some(Active::new(rules.into_iter()))
    }

    /// Rules that point to the value which begins now.
    fn named(&self) -> Vec<(usize, &'r Compiled)> {
        if self.body.pointed.is_empty() {
            return Vec::new();
        }
        let way: Vec<Step<'_>> = self
            .levels
            .iter()
            .map(|level| {
                if level.object {
                    Step::Name(self.bytes.get(level.key.clone()).unwrap_or_default())
                } else {
                    Step::Item(level.item)
                }
            })
            .collect();
        self.body
            .pointed
            .iter()
            .filter(|(_, rule)| rule.pointers.iter().any(|p| p.names(&way)))
            .copied()
            .collect()
    }

    /// A value that is no container.
    fn value(
        &mut self,
        _start: usize,
        each: impl FnOnce(&mut Self, Option<Active<'r>>, Option<(usize, &'r Compiled)>),
    ) {
        if self.taken.is_none() {
            let named = self.named();
            let active = self.applying(&named);
            let whole = active.as_ref().and_then(Active::whole);
            each(self, active, whole);
        }
        self.next_item();
    }

    fn next_item(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            level.item += 1;
        }
    }

    /// The innermost name above the value.
    fn name(&self) -> Range<usize> {
        let level = self.levels.iter().rev().find(|l| l.object);
        level.map_or(0..0, |l| l.key.clone())
    }

    fn leaf(
        &mut self,
        span: &Range<usize>,
        active: Option<&Active<'r>>,
        whole: Option<(usize, &'r Compiled)>,
        string: bool,
    ) {
        let raw = self.bytes.get(span.clone()).unwrap_or_default();
        let name = self.name();
        if self.streamed {
            self.remember(span, &name, raw, string);
        }
        if let Some((number, rule)) = whole {
            if string {
                let view = View::of_json(raw);
                let mark = self.body.marker.whole(rule, &view.text).unwrap_or_default();
                self.count(number, rule);
                self.edits.push((span.clone(), mark.into()));
            } else {
                self.take(span.clone(), number, rule);
            }
            return;
        }
        let active = active.unwrap_or(&self.body.active);
        let place = Place {
            name: self
                .bytes
                .get(name)
                .and_then(|name| std::str::from_utf8(name).ok())
                .unwrap_or_default(),
            number: !string,
        };
        let view = if string {
            View::of_json(raw)
        } else {
            // What isn't a whole number is a measure; only patterns may want it.
            let measure = raw.iter().any(|b| matches!(b, b'.' | b'e' | b'E'));
            if measure && active.rules.iter().all(|(_, rule)| rule.any.is_none()) {
                return;
            }
            View::of_bytes(raw)
        };
        let hits = view
            .check()
            .and_then(|()| text::hits(active, &view.text, place, false));
        let hits = match hits {
            Ok(_) if self.edits.len() > EDITS_MAX => {
                self.failure = Some(Failure::TooManyHits);
                return;
            }
            Ok(hits) => hits,
            Err(failure) => {
                self.failure = Some(failure);
                return;
            }
        };
        let edits = text::edits(
            self.body.marker,
            &mut self.body.tally,
            &hits,
            view.text.len(),
        );
        if string {
            for edit in edits {
                let raw = view.raw(&edit.range);
                let range = span.start + raw.start..span.start + raw.end;
                self.edits.push((range, edit.with.into()));
            }
        } else if !edits.is_empty() {
            // A number with a mark in it is none any more.
            let marks: String = edits.into_iter().map(|edit| edit.with).collect();
            self.edits.push((span.clone(), quoted(&marks)));
        }
    }

    fn open(&mut self, at: usize, object: bool) {
        if self.frames.len() > FRAGMENTS_MAX {
            self.failure = Some(Failure::Unreadable("too_many_fragments"));
            return;
        }
        if self.streamed {
            let parent = self.levels.last().map_or(usize::MAX, |l| l.frame);
            let (step, item) = self.step();
            self.frames.push(Frame {
                parent,
                step,
                discriminators: 0,
                indexed: false,
                item,
            });
        }
        if self.taken.is_none() {
            let named = self.named();
            let depth = self.levels.len();
            if let Some((number, rule)) = named.iter().copied().find(|(_, rule)| rule.is_whole()) {
                self.taken = Some((depth, at, number, rule));
            } else {
                self.inside.extend(
                    named
                        .into_iter()
                        .map(|(number, rule)| (depth, number, rule)),
                );
            }
        }
        self.levels.push(Level {
            object,
            key: 0..0,
            item: 0,
            frame: self.frames.len().saturating_sub(1),
        });
    }

    fn close(&mut self, end: usize) {
        self.levels.pop();
        let depth = self.levels.len();
        if let Some((taken, start, number, rule)) = self.taken
            && taken == depth
        {
            self.taken = None;
            self.take(start..end, number, rule);
        }
        self.inside.retain(|(level, _, _)| *level < depth);
        self.next_item();
    }

    /// A value that is no string goes whole.
    fn take(&mut self, span: Range<usize>, number: usize, rule: &Compiled) {
        let raw = self.bytes.get(span.clone()).unwrap_or_default();
        let mark = self
            .body
            .marker
            .whole(rule, &String::from_utf8_lossy(raw))
            .map_or_else(|| b"null".to_vec(), |mark| quoted(&mark));
        self.count(number, rule);
        self.edits.push((span, mark));
    }

    fn count(&mut self, number: usize, rule: &Compiled) {
        let hits = self.body.tally.entry((number, rule.name.clone()));
        *hits.or_default() += 1;
    }

    /// The way from the innermost container to the value that begins now, and whether it is an item.
    fn step(&self) -> (u64, bool) {
        match self.levels.last() {
            None => (0, false),
            Some(level) if level.object => {
                let key = self.bytes.get(level.key.clone()).unwrap_or_default();
                (digest(&[key]), false)
            }
            Some(level) => (level.item as u64, true),
        }
    }

    fn remember(&mut self, span: &Range<usize>, name: &Range<usize>, raw: &[u8], string: bool) {
        let Some(level) = self.levels.last() else {
            return;
        };
        let (frame, (step, _)) = (level.frame, self.step());
        let key = self.bytes.get(level.key.clone()).unwrap_or_default();
        // Top members alone: a nested `type` may stand in the first fragment only.
        let kind = key == b"type" && self.levels.len() == 1;
        if level.object
            && (DISCRIMINATORS.contains(&key) || kind)
            && let Some(frame) = self.frames.get_mut(frame)
        {
            frame.discriminators ^= digest(&[key, raw]);
            frame.indexed |= key == b"index";
        } else if string && self.leaves.len() > FRAGMENTS_MAX {
            self.failure = Some(Failure::Unreadable("too_many_fragments"));
        } else if string && !raw.is_empty() {
            self.leaves.push((frame, step, span.clone(), name.clone()));
        }
    }

    fn fragments(&self, fragments: &mut Vec<Fragment>) {
        // Containers stand behind those that they are in.
        let mut places: Vec<u64> = Vec::with_capacity(self.frames.len());
        for frame in &self.frames {
            let above = places.get(frame.parent).copied().unwrap_or_default();
            // An item that says its index may stand anywhere in its array.
            let step = if frame.item && frame.indexed {
                0
            } else {
                frame.step
            };
            places.push(mixed(mixed(above, step), frame.discriminators));
        }
        for (frame, step, span, name) in &self.leaves {
            let place = places.get(*frame).copied().unwrap_or_default();
            fragments.push(Fragment {
                place: mixed(place, *step),
                span: span.clone(),
                name: name.clone(),
            });
        }
    }
}

/// FNV-1a: places of one stream are told apart by it, and an attacker gains nothing by making two of them one.
fn digest(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in *part {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash = mixed(hash, part.len() as u64);
    }
    hash
}

/// One number of two, by the finisher of `SplitMix64`.
pub(super) fn mixed(a: u64, b: u64) -> u64 {
    let mut z = a.rotate_left(17) ^ b.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn quoted(mark: &str) -> Vec<u8> {
    // Marks are made of letters, digits and signs that JSON doesn't escape.
    format!("\"{mark}\"").into_bytes()
}
