//! One JSON document: its tokens are looked at where they stand, and only what hits is written anew.

use std::ops::Range;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::body::{Body, is_binary};
use super::detect::Place;
use super::pointer::Step;
use super::rules::Compiled;
use super::scan::{Stop, Token, scan};
use super::text::{self, Active, EDITS_MAX, Failure, Hit, withheld};
use super::view::View;

/// Members that tell one text of a stream from another, where they stand beside it or above it.
const DISCRIMINATORS: [&[u8]; 5] = [
    b"index",
    b"output_index",
    b"content_index",
    b"summary_index",
    b"item_id",
];

/// Members whose value is a file, an image or audio as base64.
const ENCODED: [&[u8]; 7] = [
    b"data",
    b"delta",
    b"b64_json",
    b"file_data",
    b"image_base64",
    b"partial_image_b64",
    b"blob",
];

/// Takes base64 as everybody writes it.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What was found in what a string encodes, and the mark for all of it.
type Inside = Result<Option<(Vec<Hit>, String)>, Failure>;

/// Base64 from which on a string is looked at as such.
const ENCODED_BYTES_MIN: usize = 64;

/// Members that repeat a text token by token, with what else might have stood there.
const ECHOES: [&[u8]; 3] = [b"logprobs", b"logprobsResult", b"top_logprobs"];

/// Members that repeat a text in the numbers of its tokens.
const NUMBERS: [&[u8]; 4] = [b"context", b"token_ids", b"prompt_token_ids", b"tokens"];

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
    /// Values that say a text once more, in tokens.
    pub(super) echoes: Vec<Range<usize>>,
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
    /// Where one begins that is open, and those that were.
    echo: Option<(usize, usize)>,
    echoes: Vec<Range<usize>>,
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
            echo: None,
            echoes: Vec::new(),
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
        if let Some((_, start)) = document.echo.take() {
            document.echoes.push(start..end.unwrap_or_else(Stop::at));
        }
        if let Some(fragments) = fragments {
            document.fragments(fragments);
        }
        Ok(Read {
            edits: document.edits,
            echoes: document.echoes,
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
        if string && let Some(read) = self.encoded(raw, &name, active) {
            match read {
                Ok(Some((hits, mark))) => {
                    for hit in hits {
                        let count = self.body.tally.entry((hit.rule, hit.label));
                        *count.or_default() += 1;
                    }
                    self.edits.push((span.clone(), mark.into()));
                }
                Err(failure @ Failure::Unreadable(_)) if !self.body.keep_unreadable => {
                    self.body.withheld.push(failure);
                    self.edits.push((span.clone(), withheld(failure).into()));
                }
                Ok(None) | Err(Failure::Unreadable(_)) => {}
                Err(failure) => self.failure = Some(failure),
            }
            return;
        }
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

    /// What is in a string that is base64 of something: a file, an image, audio. Nothing if it isn't.
    fn encoded(&self, raw: &[u8], name: &Range<usize>, active: &Active<'_>) -> Option<Inside> {
        if raw.len() < ENCODED_BYTES_MIN || active.is_idle() {
            return None;
        }
        let start = raw.get(..128.min(raw.len())).unwrap_or_default();
        let url = start
            .get(..5)
            .is_some_and(|s| s.eq_ignore_ascii_case(b"data:"))
            .then(|| {
                start
                    .windows(8)
                    .position(|w| w.eq_ignore_ascii_case(b";base64,"))
            })
            .flatten();
        let name = self.bytes.get(name.clone()).unwrap_or_default();
        let base64 = match url {
            Some(at) => raw.get(at + 8..)?,
            None if ENCODED.contains(&name) => raw,
            None => return None,
        };
        // Slashes may be escaped in JSON, and lines broken.
        let mut base64: Vec<u8> = View::of_json(base64)
            .text
            .bytes()
            .filter(|b| !matches!(b, b'=' | b'\n' | b'\r'))
            .map(|b| match b {
                b'-' => b'+',
                b'_' => b'/',
                other => other,
            })
            .collect();
        // One that is cut off has a character too many.
        if base64.len() % 4 == 1 {
            base64.pop();
        }
        let unreadable = Failure::Unreadable("base64");
        let Ok(bytes) = LENIENT.decode(&base64) else {
            return url.map(|_| Err(unreadable));
        };
        if is_binary(&bytes) || std::str::from_utf8(&bytes).is_err() {
            return Some(Err(unreadable));
        }
        let view = View::of_bytes(&bytes);
        let hits = match text::hits(active, &view.text, Place::default(), false) {
            Ok(hits) => hits,
            Err(failure) => return Some(Err(failure)),
        };
        let mark = hits.first().map(|hit| format!("[redacted:{}]", hit.label));
        Some(Ok(mark.map(|mark| (hits, mark))))
    }

    /// Whether the value that begins here says in tokens what stands elsewhere as text.
    fn is_echo(&self, at: usize, object: bool) -> bool {
        let Some(level) = self.levels.last().filter(|l| l.object) else {
            return false;
        };
        let name = self.bytes.get(level.key.clone()).unwrap_or_default();
        let rest = self
            .bytes
            .get(at + 1..)
            .unwrap_or_default()
            .trim_ascii_start();
        ECHOES.contains(&name)
            || (!object && NUMBERS.contains(&name) && rest.first().is_some_and(u8::is_ascii_digit))
    }

    fn open(&mut self, at: usize, object: bool) {
        if self.echo.is_none() && self.is_echo(at, object) {
            self.echo = Some((self.levels.len(), at));
        }
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
        if let Some((level, start)) = self.echo
            && level == depth
        {
            self.echo = None;
            self.echoes.push(start..end);
        }
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
