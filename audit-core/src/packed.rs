//! Packed entries: what a store may keep instead of an entry's bytes (`docs/format.md` §12).
//!
//! Most of an entry is hexadecimal digits and names of members. Packing writes the first as bytes and the second as
//! numbers, byte for byte reversible for whatever the entry holds: what is hashed stays the entry.

use std::sync::LazyLock;

use crate::entry::ENTRY_BYTES_MAX;
use crate::error::{Error, Result};
use crate::time::Timestamp;

/// Bytes of a packed entry. At worst every second byte stands alone, behind a byte that says so.
pub const PACKED_BYTES_MAX: usize = ENTRY_BYTES_MAX / 2 * 3 + 2;

/// The phrases, one a line; a phrase's number is its line's. Never changed: another list is another packing.
static PHRASES_1: &str = include_str!("phrases-1.txt");

const LITERAL: u8 = 0x20;
const LITERAL_BYTES_MAX: usize = 64;
const INTEGER: u8 = 0x60;
const TIME: u8 = 0x61;
const UUID: u8 = 0x62;
const HEX: u8 = 0x63;
const HEX_32: u8 = 0x64;
const PHRASE: u8 = 0x80;

/// Digits of an integer; a longer one is hexadecimal too.
const INTEGER_DIGITS_MAX: usize = 7;
const TIME_BYTES: usize = 27;
const UUID_BYTES: usize = 36;

/// The value of each hexadecimal digit in lower case; 255 for every other byte.
const VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut n = 0_u8;
    while n < 16 {
        values[DIGITS[n as usize] as usize] = n;
        n += 1;
    }
    values
};
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The two digits of each byte.
const PAIRS: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut n = 0;
    while n < 256 {
        pairs[n] = [DIGITS[n >> 4], DIGITS[n & 15]];
        n += 1;
    }
    pairs
};

/// The phrases by number, and by their first four bytes.
struct Phrases {
    all: Vec<&'static [u8]>,
    /// Of each phrase those that begin with it: where one of them stands, that one is packed.
    longer: Vec<Vec<&'static [u8]>>,
    /// Of each slot the longest first.
    slots: Vec<Vec<(u8, &'static [u8])>>,
}

static PHRASES: LazyLock<Phrases> = LazyLock::new(|| {
    let all: Vec<&[u8]> = PHRASES_1.lines().map(str::as_bytes).collect();
    let longer = all
        .iter()
        .map(|phrase| {
            let longer = all
                .iter()
                .filter(|other| other.len() > phrase.len() && other.starts_with(phrase));
            longer.copied().collect()
        })
        .collect();
    let mut slots = vec![Vec::new(); SLOTS];
    for (number, phrase) in (PHRASE..=u8::MAX).zip(&all) {
        if let Some(slot) = phrase.first_chunk().copied().map(slot) {
            slots[slot].push((number, *phrase));
        }
    }
    for slot in &mut slots {
        slot.sort_by_key(|(_, phrase)| std::cmp::Reverse(phrase.len()));
    }
    Phrases { all, longer, slots }
});

impl Phrases {
    /// The longest phrase that `rest` begins with, and its length.
    fn at(&self, rest: &[u8]) -> Option<(u8, usize)> {
        let candidates = &self.slots[slot(*rest.first_chunk()?)];
        let fits = candidates
            .iter()
            .find(|(_, phrase)| rest.starts_with(phrase));
        fits.map(|(number, phrase)| (*number, phrase.len()))
    }
}

const SLOTS: usize = 1 << 10;

/// Spreads phrases by their first four bytes, the shortest phrase's length.
fn slot(start: [u8; 4]) -> usize {
    (u32::from_le_bytes(start).wrapping_mul(0x9E37_79B1) >> 22) as usize
}

/// The packed form of any bytes; the same bytes always have the same one.
#[must_use]
pub fn pack(entry: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entry.len() / 2);
    let phrases = &*PHRASES;
    let (mut at, mut literal) = (0, 0);
    while at < entry.len() {
        let rest = &entry[at..];
        let Some((code, taken)) = code_at(rest, phrases) else {
            at += 1;
            continue;
        };
        push_literal(&entry[literal..at], &mut out);
        match code {
            Code::Phrase(number) => out.push(number),
            Code::Integer(n @ 0..32) => out.push(n.to_le_bytes()[0]),
            Code::Integer(n) => {
                out.push(INTEGER);
                push_varint(n, &mut out);
            }
            Code::Time(micros) => {
                out.push(TIME);
                out.extend_from_slice(&micros.to_be_bytes());
            }
            Code::Uuid(bytes) => {
                out.push(UUID);
                out.extend_from_slice(&bytes);
            }
            Code::Hex => {
                let (pairs, _) = rest[..taken].as_chunks::<2>();
                if pairs.len() == 32 {
                    out.push(HEX_32);
                } else {
                    out.push(HEX);
                    push_varint(pairs.len() as u64, &mut out);
                }
                out.extend(pairs.iter().copied().map(byte_of));
            }
        }
        at += taken;
        literal = at;
    }
    push_literal(&entry[literal..], &mut out);
    out
}

enum Code {
    Phrase(u8),
    Integer(u64),
    Time(i64),
    Uuid([u8; 16]),
    /// As many whole bytes as the digits make.
    Hex,
}

/// What `rest` begins with, and its length; `None` for a byte that stands for itself.
fn code_at(rest: &[u8], phrases: &Phrases) -> Option<(Code, usize)> {
    if let Some((number, taken)) = phrases.at(rest) {
        return Some((Code::Phrase(number), taken));
    }
    let digits = rest.iter().take_while(|b| is_digit(**b));
    let digits = digits.count();
    if digits == 4
        && let Some(micros) = time(rest)
    {
        return Some((Code::Time(micros), TIME_BYTES));
    }
    if digits == 8
        && let Some(bytes) = uuid(rest)
    {
        return Some((Code::Uuid(bytes), UUID_BYTES));
    }
    if digits > INTEGER_DIGITS_MAX {
        return Some((Code::Hex, digits / 2 * 2));
    }
    let decimals = rest.iter().take(digits).take_while(|b| b.is_ascii_digit());
    let decimals = decimals.count();
    if decimals == 0 || (decimals > 1 && rest[0] == b'0') {
        return None;
    }
    let n = rest[..decimals]
        .iter()
        .fold(0, |n, b| n * 10 + u64::from(b - b'0'));
    Some((Code::Integer(n), decimals))
}

fn is_digit(byte: u8) -> bool {
    VALUES[usize::from(byte)] < 16
}

fn byte_of(pair: [u8; 2]) -> u8 {
    VALUES[usize::from(pair[0])] << 4 | VALUES[usize::from(pair[1])] & 15
}

fn time(rest: &[u8]) -> Option<i64> {
    let text = rest.get(..TIME_BYTES)?;
    // Before the parser, which makes an error of each refusal.
    if text[TIME_BYTES - 1] != b'Z' || text[4] != b'-' {
        return None;
    }
    let time = Timestamp::parse(std::str::from_utf8(text).ok()?).ok()?;
    Some(time.as_micros())
}

fn uuid(rest: &[u8]) -> Option<[u8; 16]> {
    let text = rest.get(..UUID_BYTES)?;
    let mut bytes = [0; 16];
    let mut filled = bytes.iter_mut();
    for (from, to) in [(0, 8), (9, 13), (14, 18), (19, 23), (24, 36)] {
        if text.get(to).is_some_and(|b| *b != b'-') {
            return None;
        }
        let (pairs, _) = text[from..to].as_chunks::<2>();
        for (pair, byte) in pairs.iter().zip(&mut filled) {
            if VALUES[usize::from(pair[0])] | VALUES[usize::from(pair[1])] > 15 {
                return None;
            }
            *byte = byte_of(*pair);
        }
    }
    Some(bytes)
}

fn push_literal(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(LITERAL_BYTES_MAX) {
        // 1 to 64 bytes, so this is 0x20 to 0x5f.
        out.push(LITERAL - 1 + chunk.len().to_le_bytes()[0]);
        out.extend_from_slice(chunk);
    }
}

/// LEB128: seven bits a byte, the lowest first.
fn push_varint(mut n: u64, out: &mut Vec<u8>) {
    while n > 0x7f {
        out.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}

/// The entry that `packed` is the packed form of.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) for what packs no entry of up to [`ENTRY_BYTES_MAX`] bytes, or
/// isn't the one form that [`pack`] makes of it: so no byte can be changed without another entry, or none, coming out.
pub fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    if packed.is_empty() || packed.len() > PACKED_BYTES_MAX {
        return Err(Error::corrupt(format!(
            "packed entry has {} bytes, allowed are 1 to {PACKED_BYTES_MAX}",
            packed.len()
        )));
    }
    let entry = expand(packed)?;
    if is_form_of(packed, &entry) {
        Ok(entry)
    } else {
        Err(Error::corrupt(
            "packed entry is not in the one form that its entry has",
        ))
    }
}

/// Whether `packed`, which [`expand`] made `entry` of, is what [`pack`] makes of it.
///
/// Each code must be the one that packing would write where it stands in the entry. Packing the entry again would say
/// the same; but most of what that does is to look again at digits and phrases of which the code itself says that they
/// are there, and only what follows on them can speak against it.
fn is_form_of(packed: &[u8], entry: &[u8]) -> bool {
    codes_fit(packed, entry).is_some()
}

fn codes_fit(packed: &[u8], entry: &[u8]) -> Option<()> {
    let phrases = &*PHRASES;
    let mut packed = packed;
    let mut here = entry;
    // Behind a literal of fewer than 64 bytes: packing would have gone on with it.
    let mut literal_open = false;
    while let Some((code, rest)) = packed.split_first() {
        let mut rest = rest;
        let mut opens = false;
        let (fits, taken) = match *code {
            n @ 0..LITERAL => integer_at(here, u64::from(n), phrases)?,
            n @ LITERAL..INTEGER => {
                let length = usize::from(n - LITERAL) + 1;
                rest = rest.get(length..)?;
                opens = length < LITERAL_BYTES_MAX;
                let mut bytes = 0..length;
                let alone = bytes.all(|at| {
                    let byte = here.get(at..);
                    byte.is_some_and(|rest| code_at(rest, phrases).is_none())
                });
                (alone && !literal_open, length)
            }
            INTEGER => {
                let n = take_shortest_varint(&mut rest)?;
                let (fits, taken) = integer_at(here, n, phrases)?;
                (fits && n >= u64::from(LITERAL), taken)
            }
            // A time ends its first four digits with a hyphen, an id its first eight.
            TIME => {
                rest = rest.get(8..)?;
                (phrases.at(here).is_none(), TIME_BYTES)
            }
            UUID => {
                rest = rest.get(16..)?;
                (phrases.at(here).is_none(), UUID_BYTES)
            }
            HEX_32 => {
                rest = rest.get(32..)?;
                (phrases.at(here).is_none() && digits_end(here, 64), 64)
            }
            HEX => {
                let length = usize::try_from(take_shortest_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
                let digits = length * 2;
                let fits = length != 32
                    && matches!(code_at(here, phrases), Some((Code::Hex, taken)) if taken == digits);
                (fits, digits)
            }
            number => {
                let n = usize::from(number.checked_sub(PHRASE)?);
                let longer = phrases.longer.get(n)?;
                let longest = longer.iter().all(|phrase| !here.starts_with(phrase));
                (longest, phrases.all.get(n)?.len())
            }
        };
        if !fits {
            return None;
        }
        packed = rest;
        here = here.get(taken..)?;
        literal_open = opens;
    }
    here.is_empty().then_some(())
}

/// Whether packing writes the integer `n` where `here` begins, and the length that it has there.
fn integer_at(here: &[u8], n: u64, phrases: &Phrases) -> Option<(bool, usize)> {
    match code_at(here, phrases) {
        Some((Code::Integer(found), taken)) => Some((found == n, taken)),
        _ => None,
    }
}

/// Whether at most one digit follows on `digits` of them: two would belong to the same run.
fn digits_end(here: &[u8], digits: usize) -> bool {
    let mut next = here.iter().skip(digits).take(2);
    !(next.len() == 2 && next.all(|b| is_digit(*b)))
}

fn take_shortest_varint(rest: &mut &[u8]) -> Option<u64> {
    let before = rest.len();
    let n = take_varint(rest)?;
    let shortest = (u64::BITS - n.leading_zeros()).div_ceil(7).max(1);
    (before - rest.len() == usize::try_from(shortest).ok()?).then_some(n)
}

fn expand(packed: &[u8]) -> Result<Vec<u8>> {
    let phrases = &*PHRASES;
    let mut out = Vec::with_capacity((packed.len() * 3).min(ENTRY_BYTES_MAX));
    let mut rest = packed;
    while let Some((code, more)) = rest.split_first() {
        rest = more;
        let before = packed.len() - rest.len() - 1;
        let cut = || {
            Error::corrupt(format!(
                "packed entry ends within what byte {before} begins"
            ))
        };
        let unknown = || Error::corrupt(format!("packed entry has {code:#04x} at byte {before}"));
        match *code {
            n @ 0..LITERAL => push_decimal(u64::from(n), &mut out),
            n @ LITERAL..INTEGER => {
                let length = usize::from(n - LITERAL) + 1;
                let (bytes, more) = rest.split_at_checked(length).ok_or_else(cut)?;
                out.extend_from_slice(bytes);
                rest = more;
            }
            INTEGER => {
                let n = take_varint(&mut rest).ok_or_else(cut)?;
                push_decimal(n, &mut out);
            }
            TIME => {
                let (bytes, more) = rest.split_first_chunk().ok_or_else(cut)?;
                let time = Timestamp::from_micros(i64::from_be_bytes(*bytes))
                    .map_err(|e| unknown().because(e))?;
                out.extend_from_slice(&time.to_ascii());
                rest = more;
            }
            UUID => {
                let (bytes, more) = rest.split_first_chunk::<16>().ok_or_else(cut)?;
                let mut text = [b'-'; UUID_BYTES];
                let places = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
                for (byte, at) in bytes.iter().zip(places) {
                    text[at..at + 2].copy_from_slice(&PAIRS[usize::from(*byte)]);
                }
                out.extend_from_slice(&text);
                rest = more;
            }
            HEX_32 => {
                let (bytes, more) = rest.split_first_chunk::<32>().ok_or_else(cut)?;
                let mut text = [[0; 2]; 32];
                for (pair, byte) in text.iter_mut().zip(bytes) {
                    *pair = PAIRS[usize::from(*byte)];
                }
                out.extend_from_slice(text.as_flattened());
                rest = more;
            }
            HEX => {
                let length = take_varint(&mut rest).ok_or_else(cut)?;
                let length = usize::try_from(length).map_err(|e| cut().because(e))?;
                let (bytes, more) = rest.split_at_checked(length).ok_or_else(cut)?;
                out.extend(bytes.iter().flat_map(|byte| PAIRS[usize::from(*byte)]));
                rest = more;
            }
            number => {
                let phrase = number.checked_sub(PHRASE).map(usize::from);
                let phrase = phrase
                    .and_then(|n| phrases.all.get(n))
                    .ok_or_else(unknown)?;
                out.extend_from_slice(phrase);
            }
        }
        // One code makes at most twice what is left of the packed bytes, or a phrase, so this bounds the memory too.
        if out.len() > ENTRY_BYTES_MAX {
            return Err(Error::corrupt(format!(
                "packed entry stands for more than {ENTRY_BYTES_MAX} bytes"
            )));
        }
    }
    Ok(out)
}

/// At most ten bytes; what is above 64 bits is lost, and shows when the form is checked.
fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let (byte, more) = rest.split_first()?;
        *rest = more;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

fn push_decimal(mut n: u64, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len() - 1;
    loop {
        digits[at] = DIGITS[usize::from((n % 10).to_le_bytes()[0])];
        n /= 10;
        if n == 0 {
            break;
        }
        at -= 1;
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ENTRY: &str = r#"{"content":{"fields":10,"length":431,"root":"a3c0ffee0123456789abcdef0123456789abcdef0123456789abcdef01234567","sha256":"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff","stored":312},"epoch":0,"event":"01a20223-9701-7649-909e-0d49ea7f4125","key":"71a20223-9701-4649-909e-0d49ea7f4125","kind":"llm.request","mac":"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff","payloads":[{"commitment":"0000000000000000000000000000000000000000000000000000000000000000","length":200,"media":"application/json","name":"body","sha256":"1111111111111111111111111111111111111111111111111111111111111111","stored":1234567}],"recorded":"2026-11-22T07:25:47.123456Z","run":"01a20223-9701-7649-909e-0d49ea7f4126","seq":31,"time":"1970-01-01T00:00:00.000000Z","tokens":{"count":3,"hash":"2222222222222222222222222222222222222222222222222222222222222222"},"v":1}"#;

    #[test]
    fn an_entry_packs_to_more_than_two_fifths() {
        let packed = pack(ENTRY.as_bytes());
        assert_eq!(unpack(&packed).unwrap(), ENTRY.as_bytes());
        assert!(packed.len() * 5 < ENTRY.len() * 2, "{} bytes", packed.len());
    }

    #[test]
    fn the_phrases_are_not_those_of_packing_1() {
        use sha2::{Digest as _, Sha256};
        assert_eq!(
            crate::hex::encode(&Sha256::digest(PHRASES_1)),
            "e9b6cd99f3ef710efeb137193aa33cc5ba997382f38b744808ae179bf224e40b",
            "stored entries can't be read any more"
        );
        let phrases: Vec<&str> = PHRASES_1.lines().collect();
        assert!(phrases.len() <= 128);
        for (n, phrase) in phrases.iter().enumerate() {
            assert!(
                phrase.len() >= 4 && !phrases[..n].contains(phrase),
                "{phrase}"
            );
            let packed = pack(phrase.as_bytes());
            assert_eq!(packed, [PHRASE + u8::try_from(n).unwrap()], "{phrase}");
            assert_eq!(unpack(&packed).unwrap(), phrase.as_bytes());
        }
    }

    #[test]
    fn a_changed_byte_is_judged_otherwise_than_by_packing_again() {
        let packed = pack(ENTRY.as_bytes());
        for at in 0..packed.len() {
            for change in 1..=255 {
                let mut changed = packed.clone();
                changed[at] ^= change;
                assert_eq!(unpack(&changed).ok(), oracle(&changed), "{at} ^ {change}");
            }
            for cut in [&packed[..at], &packed[at..]] {
                assert_eq!(unpack(cut).ok(), oracle(cut), "cut at {at}");
            }
        }
    }

    #[test]
    fn a_changed_byte_goes_unnoticed() {
        let packed = pack(ENTRY.as_bytes());
        for at in 0..packed.len() {
            for change in 1..=255 {
                let mut changed = packed.clone();
                changed[at] ^= change;
                if let Ok(entry) = unpack(&changed) {
                    assert_ne!(entry, ENTRY.as_bytes(), "byte {at} ^ {change}");
                }
            }
            if let Ok(entry) = unpack(&packed[..at]) {
                assert_ne!(entry, ENTRY.as_bytes(), "cut off at byte {at}");
            }
        }
    }

    #[test]
    fn a_second_form_is_read() {
        for (packed, why) in [
            (&[][..], "nothing"),
            (&[0x20], "a literal that is cut off"),
            (&[0x20, b'5'], "a digit as a literal"),
            (&[0x20, b'x', 0x20, b'y'], "two literals for one"),
            (&[INTEGER, 5], "a small number in the long form"),
            (&[INTEGER, 0x80, 0x80, 0], "a varint that is too long"),
            (
                &[INTEGER, 0xff, 0xff, 0xff, 0xff, 0x7f],
                "a number that has too many digits",
            ),
            (
                &[
                    INTEGER, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
                ],
                "bits above 64",
            ),
            (
                &[
                    INTEGER, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
                ],
                "eleven bytes",
            ),
            (&[HEX, 3, 1, 2, 3], "hexadecimal that is too short"),
            (
                &[HEX, 4, 1, 2, 3, 4, HEX, 4, 1, 2, 3, 4],
                "two runs for one",
            ),
            (
                &[HEX, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
                "a length beyond all",
            ),
            (
                &[TIME, 255, 255, 255, 255, 255, 255, 255, 255],
                "a time before 1970",
            ),
            (&[TIME, 127, 0, 0, 0, 0, 0, 0, 0], "a time after 9999"),
            (&[TIME, 0], "a time that is cut off"),
            (&[UUID, 0], "an id that is cut off"),
            (&[0x65], "a code that stands for nothing"),
            (&[0x7f], "the last of these"),
            (&[0xff], "a phrase that there isn't"),
            (&[1, 2], "two numbers for one"),
            (&[0x23, b'b', b'o', b'd', b'y'], "a phrase in letters"),
        ] {
            let error = unpack(packed).expect_err(why);
            assert_eq!(error.kind(), crate::ErrorKind::Corrupt, "{why}: {error}");
        }
        let bomb = [HEX_32; 33].repeat(PACKED_BYTES_MAX / 33);
        unpack(&bomb).expect_err("97 KB of hexadecimal");
        unpack(&vec![PHRASE + 20; 60_000]).expect_err("60,000 phrases");
        unpack(&vec![0; ENTRY_BYTES_MAX + 1]).expect_err("65,536 zeros");
        unpack(&vec![0; PACKED_BYTES_MAX + 1]).expect_err("too many bytes");
    }

    #[test]
    fn the_longest_packed_form_has_more_bytes_than_allowed() {
        let worst: Vec<u8> = b"x1"
            .iter()
            .copied()
            .cycle()
            .take(ENTRY_BYTES_MAX)
            .collect();
        let packed = pack(&worst);
        assert!(packed.len() <= PACKED_BYTES_MAX, "{}", packed.len());
        assert!(packed.len() > PACKED_BYTES_MAX - 4, "{}", packed.len());
        assert_eq!(unpack(&packed).unwrap(), worst);
    }

    /// Text out of the pieces that packing looks for, whole or cut.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            proptest::sample::select(PHRASES_1.lines().collect::<Vec<_>>()).prop_map(str::to_owned),
            "[0-9a-f]{1,70}",
            "[0-9]{1,20}",
            "0{0,3}[0-9]{1,4}",
            "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-fg]{12}",
            "[12][09][0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\\.[0-9]{6}Z",
            "[ -~]{0,80}",
            any::<String>(),
        ];
        let cut =
            (piece, any::<prop::sample::Index>(), any::<bool>()).prop_map(|(text, at, whole)| {
                let mut bytes = text.into_bytes();
                if !whole && !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes.truncate(at);
                }
                bytes
            });
        prop::collection::vec(cut, 1..30).prop_map(|pieces| pieces.concat())
    }

    /// What unpacking is: expanding, and packing again to the same bytes. The oracle.
    fn oracle(packed: &[u8]) -> Option<Vec<u8>> {
        let expanded = (1..=PACKED_BYTES_MAX)
            .contains(&packed.len())
            .then(|| expand(packed).ok())?;
        expanded.filter(|entry| pack(entry) == packed)
    }

    /// Codes as packing writes them, and as it never does: varints that are too long, runs that are too short, literals
    /// of what has a code of its own, next to whatever makes them wrong.
    fn codes() -> impl Strategy<Value = Vec<u8>> {
        fn varint(n: u64, more: usize) -> Vec<u8> {
            let mut out = Vec::new();
            push_varint(n, &mut out);
            if more > 0 {
                *out.last_mut().unwrap() |= 0x80;
                out.extend(std::iter::repeat_n(0x80, more - 1));
                out.push(0);
            }
            out
        }
        fn more() -> impl Strategy<Value = usize> {
            prop_oneof![9 => Just(0), 1 => 1..3_usize]
        }
        let literal = |text: &'static str| {
            text.prop_map(|text| {
                let mut out = vec![LITERAL - 1 + u8::try_from(text.len()).unwrap()];
                out.extend_from_slice(text.as_bytes());
                out
            })
        };
        let number = prop_oneof![0..200_u64, 0..10_000_001_u64, any::<u64>()];
        let hex = (prop_oneof![0..8_usize, 30..35_usize], more(), any::<u8>());
        let phrases = PHRASE..PHRASE + u8::try_from(PHRASES.all.len()).unwrap();
        let code = prop_oneof![
            4 => phrases.prop_map(|phrase| vec![phrase]),
            1 => (0..LITERAL).prop_map(|n| vec![n]),
            1 => literal("[g-z\"{},:.]{1,4}"),
            1 => literal("[ -~]{1,64}"),
            1 => literal("[g-z]{63,64}"),
            1 => (number, more()).prop_map(|(n, more)| [vec![INTEGER], varint(n, more)].concat()),
            1 => (0..=253_402_300_799_999_999_i64)
                .prop_map(|t| [vec![TIME], t.to_be_bytes().to_vec()].concat()),
            1 => any::<[u8; 16]>().prop_map(|id| [vec![UUID], id.to_vec()].concat()),
            1 => any::<[u8; 32]>().prop_map(|bytes| [vec![HEX_32], bytes.to_vec()].concat()),
            1 => hex.prop_map(|(length, more, byte)| {
                [vec![HEX], varint(length as u64, more), vec![byte; length]].concat()
            }),
        ];
        prop::collection::vec(code, 1..6).prop_map(|codes| codes.concat())
    }

    #[test]
    fn every_two_codes_are_judged_otherwise_than_by_packing_again() {
        let mut codes: Vec<Vec<u8>> = (0..LITERAL).map(|n| vec![n]).collect();
        codes.extend((PHRASE..=u8::MAX).map(|phrase| vec![phrase]));
        codes.extend((0..=u8::MAX).map(|byte| vec![LITERAL, byte]));
        for (code, bytes) in [(HEX_32, 32), (UUID, 16), (TIME, 8)] {
            codes.push([vec![code], vec![0; bytes]].concat());
        }
        for text in [
            "1970",
            "-01-01T00:00:00.000000Z",
            "bod",
            "y",
            "0a",
            "ab",
            "x",
        ] {
            let length = u8::try_from(text.len()).unwrap();
            codes.push([vec![LITERAL - 1 + length], text.into()].concat());
        }
        codes.push([vec![LITERAL + 63], vec![b'x'; 64]].concat());
        codes.push([vec![LITERAL + 62], vec![b'x'; 63]].concat());
        for length in [3, 4, 5, 31, 32, 33] {
            codes.push([vec![HEX, length], vec![0xab; usize::from(length)]].concat());
        }
        for n in [31, 32, 127] {
            codes.push(vec![INTEGER, n]);
        }
        codes.extend([vec![INTEGER, 0xb2, 0x0f], vec![INTEGER, 0xa0, 0x80, 0]]);
        let mut taken = 0_u32;
        for first in &codes {
            assert_eq!(unpack(first).ok(), oracle(first), "{first:02x?}");
            for second in &codes {
                let both = [&first[..], second].concat();
                assert_eq!(unpack(&both).ok(), oracle(&both), "{both:02x?}");
                taken += u32::from(unpack(&both).is_ok());
            }
        }
        assert!(taken > 10_000, "{taken} pairs are packed forms");
    }

    proptest! {
        #[test]
        fn codes_are_judged_otherwise_than_by_packing_again(packed in codes()) {
            prop_assert_eq!(unpack(&packed).ok(), oracle(&packed));
        }

        #[test]
        fn a_changed_form_is_judged_otherwise_than_by_packing_again(
            entry in prop_oneof![pieces(), Just(ENTRY.into())],
            at in any::<prop::sample::Index>(),
            removed in 0..4_usize,
            inserted in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let mut packed = pack(&entry);
            prop_assert_eq!(unpack(&packed).ok(), oracle(&packed));
            let at = at.index(packed.len() + 1);
            let until = packed.len().min(at + removed);
            packed.splice(at..until, inserted);
            prop_assert_eq!(unpack(&packed).ok(), oracle(&packed));
        }

        #[test]
        fn any_bytes_come_out_as_they_went_in(entry in pieces()) {
            prop_assume!(!entry.is_empty());
            let packed = pack(&entry);
            prop_assert!(packed.len() <= entry.len() * 3 / 2 + 1);
            prop_assert_eq!(unpack(&packed).unwrap(), entry);
        }

        #[test]
        fn bytes_of_any_kind_come_out_too(entry in prop::collection::vec(any::<u8>(), 1..300)) {
            prop_assert_eq!(unpack(&pack(&entry)).unwrap(), entry);
        }

        #[test]
        fn what_unpacks_is_the_packed_form(packed in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(entry) = unpack(&packed) {
                prop_assert_eq!(pack(&entry), packed);
            }
        }
    }
}
