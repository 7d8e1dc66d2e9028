//! Payloads: what each form of body is cut into, and what is put together again.

use std::ops::Range;

use audit_core::event::Media;

use super::detect::Place;
use super::document::Document;
use super::rules::Compiled;
use super::stream;
use super::text::{self, Active, EDITS_MAX, Failure, Marker, Tally, withheld};
use super::view::View;
use crate::encoding::Decoder;

/// Bytes of a body when it is decoded; one that has more can't be read.
pub(super) const DECODED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Parts of a multipart body.
const PARTS_MAX: usize = 1024;

/// A payload as it was handed in.
#[derive(Debug)]
pub(super) struct Given<'b> {
    pub(super) media: Media,
    pub(super) bytes: &'b [u8],
    /// The items of `Content-Encoding`, if the payload is a body that a header speaks of.
    pub(super) codings: &'b [String],
    /// The value of `Content-Type`.
    pub(super) content_type: Option<&'b str>,
}

/// A payload that something was found in.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) bytes: Vec<u8>,
    /// It was compressed, and is not any more.
    pub(super) decoded: bool,
}

/// A payload in the making.
pub(super) struct Body<'r, 'm> {
    /// Rules for the payload as a whole.
    pub(super) active: Active<'r>,
    /// Rules that name values in it.
    pub(super) pointed: Vec<(usize, &'r Compiled)>,
    pub(super) marker: &'m Marker<'m>,
    pub(super) tally: Tally,
    pub(super) edits: Vec<(Range<usize>, Vec<u8>)>,
    /// Parts that can't be read are kept, because the operator wants that.
    pub(super) keep_unreadable: bool,
    /// Parts that can't be read, and were not recorded.
    pub(super) withheld: Vec<Failure>,
    /// Values that say a text once more, in tokens.
    pub(super) echoes: Vec<Range<usize>>,
}

impl<'r, 'm> Body<'r, 'm> {
    pub(super) fn new(
        active: Active<'r>,
        pointed: Vec<(usize, &'r Compiled)>,
        marker: &'m Marker<'m>,
        keep_unreadable: bool,
    ) -> Self {
        Self {
            active,
            pointed,
            marker,
            tally: Tally::new(),
            edits: Vec::new(),
            keep_unreadable,
            withheld: Vec::new(),
            echoes: Vec::new(),
        }
    }

    /// What is to be recorded; nothing if the bytes can stay as they are.
    pub(super) fn read(&mut self, given: &Given<'_>) -> Result<Option<Changed>, Failure> {
        let mut decoder = Decoder::new(given.codings);
        if decoder.is_identity() {
            self.form(given, given.bytes)?;
            return Ok(self.changed(given.bytes, false));
        }
        let mut plain = Vec::new();
        for step in given.bytes.chunks(4096) {
            decoder.push(step, |piece| plain.extend_from_slice(piece));
            if plain.len() > DECODED_BYTES_MAX {
                return Err(Failure::Unreadable("too_long_when_decoded"));
            }
        }
        if decoder.failure().is_some() {
            return Err(Failure::Unreadable("content_encoding"));
        }
        self.form(given, &plain)?;
        if self.edits.is_empty() {
            // The bytes are kept as they came. A coding that reads over what stands behind its end would keep that too.
            let encoded = View::of_bytes(given.bytes);
            let behind = text::hits(&self.active, &encoded.text, Place::default(), false)?;
            if !behind.is_empty() {
                return Err(Failure::Unreadable("content_encoding"));
            }
        }
        Ok(self.changed(&plain, true))
    }

    fn changed(&mut self, bytes: &[u8], decoded: bool) -> Option<Changed> {
        if self.edits.is_empty() {
            return None;
        }
        // Something was found: the same text in tokens, or in their numbers, would give it away.
        let echoes = std::mem::take(&mut self.echoes);
        for echo in echoes.into_iter().filter(|_| !self.tally.is_empty()) {
            let failure = Failure::Unreadable("tokens");
            self.withheld.push(failure);
            let mark = format!("\"{}\"", withheld(failure));
            self.edits.push((echo, mark.into_bytes()));
        }
        Some(Changed {
            bytes: text::apply(bytes, std::mem::take(&mut self.edits)),
            decoded,
        })
    }

    fn form(&mut self, given: &Given<'_>, bytes: &[u8]) -> Result<(), Failure> {
        let start = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let start = start.trim_ascii_start();
        let declared_stream = matches!(given.media, Media::EventStream);
        let events: [&[u8]; 4] = [b"data:", b"event:", b"id:", b"retry:"];
        let looks_streamed = events.iter().any(|name| start.starts_with(name));
        let looks_json = matches!(start.first(), Some(b'{' | b'['));
        match given.media {
            Media::AwsEventStream => Err(Failure::Unreadable("aws_event_stream")),
            Media::Multipart => self.multipart(given.content_type, bytes),
            // A stream in UTF-16 would look like text with something between its letters.
            _ if is_binary(bytes) => Err(Failure::Unreadable("binary")),
            Media::EventStream => stream::events(self, bytes),
            Media::NdJson => stream::lines(self, bytes),
            Media::Form => self.text(bytes, 0, Place::default(), true),
            _ if looks_streamed && !declared_stream => stream::events(self, bytes),
            Media::Json => self.json(bytes),
            _ if looks_json => self.json(bytes),
            _ => self.plain(bytes, 0),
        }
    }

    /// Text without a form; rules that point into JSON can't look into it.
    pub(super) fn plain(&mut self, bytes: &[u8], offset: usize) -> Result<(), Failure> {
        self.text(bytes, offset, Place::default(), false)
    }

    fn text(
        &mut self,
        bytes: &[u8],
        offset: usize,
        place: Place<'_>,
        form: bool,
    ) -> Result<(), Failure> {
        let view = View::of_bytes(bytes);
        view.check()?;
        let hits = text::hits(&self.active, &view.text, place, form)?;
        if self.edits.len() > EDITS_MAX {
            return Err(Failure::TooManyHits);
        }
        let edits = text::edits(self.marker, &mut self.tally, &hits, view.text.len());
        for edit in edits {
            let raw = view.raw(&edit.range);
            self.edits
                .push((offset + raw.start..offset + raw.end, edit.with.into_bytes()));
        }
        Ok(())
    }

    /// One JSON document, or several one behind the other.
    fn json(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut at = if bytes.starts_with(b"\xef\xbb\xbf") {
            3
        } else {
            0
        };
        while at < bytes.len() && !bytes.get(at..).unwrap_or_default().trim_ascii().is_empty() {
            let read = Document::read(self, bytes, at, None)?;
            self.edits.extend(read.edits);
            self.echoes.extend(read.echoes);
            if read.stop.is_none() {
                at = read.end;
            } else {
                let (range, failure) = self.broken(bytes, read.end)?;
                if let Some(failure) = failure {
                    self.edits.push((range, withheld(failure).into_bytes()));
                }
                break;
            }
        }
        Ok(())
    }

    /// What can't be read as JSON any more: text, with the escapes of JSON. Rules that point to values can't tell whether it
    /// is theirs; then it isn't recorded.
    pub(super) fn broken(
        &mut self,
        bytes: &[u8],
        at: usize,
    ) -> Result<(Range<usize>, Option<Failure>), Failure> {
        let range = at..bytes.len();
        if !self.pointed.is_empty() && !self.keep_unreadable {
            let failure = Failure::Unreadable("broken_json");
            self.withheld.push(failure);
            return Ok((range, Some(failure)));
        }
        let rest = bytes.get(at..).unwrap_or_default();
        self.plain(rest, at)?;
        Ok((range, None))
    }

    /// A form with files: parts that are text are looked at, others are not recorded.
    fn multipart(&mut self, content_type: Option<&str>, bytes: &[u8]) -> Result<(), Failure> {
        let unreadable = Failure::Unreadable("multipart");
        let boundary = content_type
            .and_then(boundary_of)
            .or_else(|| first_boundary(bytes))
            .ok_or(unreadable)?;
        let mut marker = b"--".to_vec();
        marker.extend_from_slice(boundary.as_bytes());
        let delimiters = delimiters(bytes, &marker);
        if delimiters.is_empty() || delimiters.len() > PARTS_MAX {
            return Err(unreadable);
        }
        // What stands before the first delimiter and behind the last is nobody's, and text all the same.
        let mut from = 0;
        for (n, delimiter) in delimiters.iter().enumerate() {
            let part = bytes.get(from..delimiter.start).unwrap_or_default();
            if n == 0 {
                self.opaque(part, from)?;
            } else {
                self.part(part, from)?;
            }
            from = delimiter.end;
        }
        self.opaque(bytes.get(from..).unwrap_or_default(), from)
    }

    fn part(&mut self, part: &[u8], offset: usize) -> Result<(), Failure> {
        let blank = part
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .map(|at| (at, 4))
            .or_else(|| part.windows(2).position(|w| w == b"\n\n").map(|at| (at, 2)));
        let Some((head, gap)) = blank else {
            return self.opaque(part, offset);
        };
        let (headers, body) = part.split_at(head + gap);
        self.plain(headers, offset)?;
        let headers = String::from_utf8_lossy(headers).to_lowercase();
        let encoded = headers.lines().any(|line| {
            line.split_once(':').is_some_and(|(name, value)| {
                let value = value.trim();
                (name == "content-transfer-encoding"
                    && !matches!(value, "7bit" | "8bit" | "binary"))
                    || (name == "content-encoding" && value != "identity")
            })
        });
        let offset = offset + head + gap;
        if encoded {
            self.unreadable_part(body, offset);
            return Ok(());
        }
        // Documents within documents: pointers mean the payload's own, which a form has none of.
        self.opaque(body, offset)
    }

    fn opaque(&mut self, bytes: &[u8], offset: usize) -> Result<(), Failure> {
        if is_binary(bytes) {
            self.unreadable_part(bytes, offset);
            return Ok(());
        }
        let escaped = matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'['));
        if escaped && !bytes.contains(&0) {
            let mut inner = Body::new(
                self.active.clone(),
                Vec::new(),
                self.marker,
                self.keep_unreadable,
            );
            inner.json(bytes)?;
            for (key, count) in inner.tally {
                *self.tally.entry(key).or_default() += count;
            }
            let moved = |(range, with): (Range<usize>, Vec<u8>)| {
                (offset + range.start..offset + range.end, with)
            };
            self.edits.extend(inner.edits.into_iter().map(moved));
            self.withheld.extend(inner.withheld);
            let echoes = inner.echoes.into_iter();
            self.echoes
                .extend(echoes.map(|e| offset + e.start..offset + e.end));
            return Ok(());
        }
        self.plain(bytes, offset)
    }

    fn unreadable_part(&mut self, bytes: &[u8], offset: usize) {
        let failure = Failure::Unreadable("binary_part");
        if !self.keep_unreadable {
            self.withheld.push(failure);
            self.edits
                .push((offset..offset + bytes.len(), withheld(failure).into_bytes()));
        }
    }
}

/// Whether no text of any encoding that keeps ASCII looks so: it has control characters that no text has.
pub(super) fn is_binary(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .any(|b| *b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0x1b | 0x08))
}

fn boundary_of(content_type: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        let named = name.trim().eq_ignore_ascii_case("boundary");
        (named && (1..=70).contains(&value.len())).then(|| value.to_owned())
    })
}

fn first_boundary(bytes: &[u8]) -> Option<String> {
    let line = bytes.split(|b| matches!(b, b'\r' | b'\n')).next()?;
    let boundary = std::str::from_utf8(line.strip_prefix(b"--")?).ok()?;
    (1..=70)
        .contains(&boundary.len())
        .then(|| boundary.to_owned())
}

/// Lines that are the boundary, with the line ends around them.
fn delimiters(bytes: &[u8], marker: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at <= bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        let line = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        let text = rest.get(..line).unwrap_or_default();
        let tail = text.strip_prefix(marker).map(<[u8]>::trim_ascii);
        if matches!(tail, Some(b"" | b"--")) {
            let before = bytes.get(..at).unwrap_or_default();
            let before = before.strip_suffix(b"\n").unwrap_or(before);
            let before = before.strip_suffix(b"\r").unwrap_or(before);
            found.push(before.len()..(at + line + 1).min(bytes.len()));
        }
        at += line + 1;
    }
    found
}
