//! The canonical bytes of an entry, written and read in one pass.
//!
//! Verifying a log is decoding its entries, most of which is hexadecimal, so a general decoder is what it would cost.
//! This one takes exactly the canonical form: each member at its one place, with its one spelling, so whatever it
//! accepts encodes to the same bytes. It does not say what is wrong: [`Entry::decode`] asks the general decoder about
//! everything that this one doesn't take, so that the two can't differ in what they refuse, and the tests hold them
//! against each other. What the log says of itself (`log`) is one entry in thousands, and left to the general one.

use uuid::Uuid;

use crate::canonical::INTEGER_MAX;
use crate::entry::{ContentPart, Entry, KeyDigest, PayloadPart, TokenDigest};
use crate::event::{Kind, Media, check_name};
use crate::hex::{Hex, decode_into, encode_into};
use crate::time::Timestamp;

/// Most entries are shorter.
const CAPACITY: usize = 1024;

struct Writer(Vec<u8>);

impl Writer {
    fn text(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// An integer behind `before`: its name and what stands before that. So are the others.
    fn integer(&mut self, before: &str, mut n: u64) {
        self.text(before);
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (n % 10).to_le_bytes()[0];
            n /= 10;
            if n == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&digits[at..]);
    }

    fn hex<const N: usize>(&mut self, before: &str, hex: &Hex<N>) {
        self.text(before);
        self.0.push(b'"');
        encode_into(&hex.0, &mut self.0);
        self.0.push(b'"');
    }

    fn uuid(&mut self, before: &str, id: &Uuid) {
        self.text(before);
        self.0.push(b'"');
        self.text(id.hyphenated().encode_lower(&mut [0; 36]));
        self.0.push(b'"');
    }

    fn time(&mut self, before: &str, time: Timestamp) {
        self.text(before);
        self.0.push(b'"');
        self.0.extend_from_slice(&time.to_ascii());
        self.0.push(b'"');
    }

    /// A string that needs no escapes.
    fn plain(&mut self, before: &str, text: &str) {
        self.text(before);
        self.0.push(b'"');
        self.text(text);
        self.0.push(b'"');
    }

    fn content(&mut self, content: &ContentPart) {
        self.integer(r#""content":{"fields":"#, content.fields);
        self.integer(r#","length":"#, content.length);
        self.hex(r#","root":"#, &content.root);
        self.hex(r#","sha256":"#, &content.sha256);
        self.integer(r#","stored":"#, content.stored);
        self.text("},");
    }

    fn keys(&mut self, keys: &[KeyDigest]) {
        self.text(r#","keys":["#);
        for (n, key) in keys.iter().enumerate() {
            let before = if n == 0 { "" } else { "," };
            self.text(before);
            self.hex(r#"{"digest":"#, &key.digest);
            self.uuid(r#","id":"#, &key.id);
            self.text("}");
        }
        self.text("]");
    }

    fn payloads(&mut self, payloads: &[PayloadPart]) {
        self.text(r#","payloads":["#);
        for (n, payload) in payloads.iter().enumerate() {
            let before = if n == 0 { "" } else { "," };
            self.text(before);
            self.hex(r#"{"commitment":"#, &payload.commitment);
            self.integer(r#","length":"#, payload.length);
            self.plain(r#","media":"#, payload.media.as_str());
            if check_name("name", &payload.name).is_ok() {
                self.plain(r#","name":"#, &payload.name);
            } else {
                self.text(r#","name":"#);
                self.general(&payload.name);
            }
            self.hex(r#","sha256":"#, &payload.sha256);
            self.integer(r#","stored":"#, payload.stored);
            self.text("}");
        }
        self.text("]");
    }

    fn general<T: serde::Serialize>(&mut self, value: &T) {
        serde_json::to_writer(&mut self.0, value)
            .expect("writing to memory, of types that JSON holds, can't fail");
    }
}

/// The canonical bytes of an entry, with or without its MAC.
pub(crate) fn write(entry: &Entry, mac: bool) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(CAPACITY));
    out.text("{");
    if let Some(content) = &entry.content {
        out.content(content);
    }
    out.integer(r#""epoch":"#, entry.epoch);
    out.uuid(r#","event":"#, &entry.event);
    if let Some(key) = &entry.key {
        out.uuid(r#","key":"#, key);
    }
    if let Some(keys) = &entry.keys {
        out.keys(keys);
    }
    out.plain(r#","kind":"#, entry.kind.as_str());
    if let Some(log) = &entry.log {
        out.text(r#","log":"#);
        out.general(log);
    }
    if mac {
        out.hex(r#","mac":"#, &entry.mac);
    }
    if let Some(payloads) = &entry.payloads {
        out.payloads(payloads);
    }
    out.time(r#","recorded":"#, entry.recorded);
    out.uuid(r#","run":"#, &entry.run);
    out.integer(r#","seq":"#, entry.seq);
    out.time(r#","time":"#, entry.time);
    if let Some(tokens) = &entry.tokens {
        out.integer(r#","tokens":{"count":"#, tokens.count);
        out.hex(r#","hash":"#, &tokens.hash);
        out.text("}");
    }
    out.integer(r#","v":"#, entry.v);
    out.text("}");
    out.0
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Takes exactly this text.
    fn text(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text.as_bytes())?;
        Some(())
    }

    /// Takes this text if it is there.
    fn has(&mut self, text: &str) -> bool {
        self.text(text).is_some()
    }

    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Digits without a leading zero, up to 2^53 − 1: 16 of them.
    fn integer(&mut self, before: &str) -> Option<u64> {
        self.text(before)?;
        let length = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        if length == 0 || length > 16 || (length > 1 && self.0[0] == b'0') {
            return None;
        }
        let digits = self.bytes(length)?;
        let n = digits
            .iter()
            .fold(0, |n, digit| n * 10 + u64::from(digit - b'0'));
        (n <= INTEGER_MAX).then_some(n)
    }

    fn hex<const N: usize>(&mut self, before: &str) -> Option<Hex<N>> {
        self.text(before)?;
        self.text("\"")?;
        let mut out = [0; N];
        let good = decode_into(self.bytes(2 * N)?, &mut out);
        self.text("\"")?;
        good.then_some(Hex(out))
    }

    fn uuid(&mut self, before: &str) -> Option<Uuid> {
        self.text(before)?;
        self.text("\"")?;
        let text: &[u8; 36] = self.bytes(36)?.first_chunk()?;
        self.text("\"")?;
        let mut out = [0; 16];
        let mut good = true;
        for (digits, bytes, hyphen) in [
            (0..8, 0..4, Some(8)),
            (9..13, 4..6, Some(13)),
            (14..18, 6..8, Some(18)),
            (19..23, 8..10, Some(23)),
            (24..36, 10..16, None),
        ] {
            good &= decode_into(&text[digits], &mut out[bytes]);
            good &= hyphen.is_none_or(|at: usize| text[at] == b'-');
        }
        good.then(|| Uuid::from_bytes(out))
    }

    fn time(&mut self, before: &str) -> Option<Timestamp> {
        self.text(before)?;
        self.text("\"")?;
        let time = Timestamp::from_bytes(self.bytes(27)?.first_chunk()?)?;
        self.text("\"")?;
        Some(time)
    }

    /// A string of up to 64 bytes, without escapes: what has any is none of what may stand here.
    fn plain(&mut self, before: &str) -> Option<&'a str> {
        self.text(before)?;
        self.text("\"")?;
        let length = self
            .0
            .iter()
            .take(65)
            .position(|b| matches!(b, b'"' | b'\\'))?;
        let text = std::str::from_utf8(self.bytes(length)?).ok()?;
        self.text("\"")?;
        Some(text)
    }

    fn content(&mut self) -> Option<ContentPart> {
        let content = ContentPart {
            fields: self.integer(r#"{"fields":"#)?,
            length: self.integer(r#","length":"#)?,
            root: self.hex(r#","root":"#)?,
            sha256: self.hex(r#","sha256":"#)?,
            stored: self.integer(r#","stored":"#)?,
        };
        self.text("}")?;
        Some(content)
    }

    /// A list that is not empty, behind its opening bracket.
    fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut list = Vec::with_capacity(1);
        loop {
            list.push(element(self)?);
            if !self.has(",") {
                break;
            }
        }
        self.text("]")?;
        Some(list)
    }

    fn key(&mut self) -> Option<KeyDigest> {
        let key = KeyDigest {
            digest: self.hex(r#"{"digest":"#)?,
            id: self.uuid(r#","id":"#)?,
        };
        self.text("}")?;
        Some(key)
    }

    fn payload(&mut self) -> Option<PayloadPart> {
        let payload = PayloadPart {
            commitment: self.hex(r#"{"commitment":"#)?,
            length: self.integer(r#","length":"#)?,
            media: Media::of_name(self.plain(r#","media":"#)?)?,
            name: {
                let name = self.plain(r#","name":"#)?;
                check_name("name of a payload", name).ok()?;
                name.to_owned()
            },
            sha256: self.hex(r#","sha256":"#)?,
            stored: self.integer(r#","stored":"#)?,
        };
        self.text("}")?;
        Some(payload)
    }

    fn tokens(&mut self) -> Option<TokenDigest> {
        let tokens = TokenDigest {
            count: self.integer(r#"{"count":"#)?,
            hash: self.hex(r#","hash":"#)?,
        };
        self.text("}")?;
        Some(tokens)
    }
}

/// Reads the canonical bytes of an entry without `log`; `None` for everything else. Which members there may be together
/// is not looked at.
pub(crate) fn read(bytes: &[u8]) -> Option<Entry> {
    let mut from = Reader(bytes);
    from.text("{")?;
    let content = if from.has(r#""content":"#) {
        let content = from.content()?;
        from.text(",")?;
        Some(content)
    } else {
        None
    };
    // The members of a struct are read in the order in which they are written here, which is theirs.
    let entry = Entry {
        content,
        epoch: from.integer(r#""epoch":"#)?,
        event: from.uuid(r#","event":"#)?,
        key: if from.has(r#","key":"#) {
            Some(from.uuid("")?)
        } else {
            None
        },
        keys: if from.has(r#","keys":["#) {
            Some(from.list(Reader::key)?)
        } else {
            None
        },
        kind: Kind::new(from.plain(r#","kind":"#)?).ok()?,
        log: None,
        mac: from.hex(r#","mac":"#)?,
        payloads: if from.has(r#","payloads":["#) {
            Some(from.list(Reader::payload)?)
        } else {
            None
        },
        recorded: from.time(r#","recorded":"#)?,
        run: from.uuid(r#","run":"#)?,
        seq: from.integer(r#","seq":"#)?,
        time: from.time(r#","time":"#)?,
        tokens: if from.has(r#","tokens":"#) {
            Some(from.tokens()?)
        } else {
            None
        },
        v: from.integer(r#","v":"#)?,
    };
    from.text("}")?;
    from.0.is_empty().then_some(entry)
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, btree_set, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::entry::{LogFacts, LogKeys, Opening, PublicKey, Role, TreeHead, kinds};
    use crate::{Error, Result};

    /// The general decoder with the same checks: the oracle.
    fn oracle(bytes: &[u8]) -> Result<Entry> {
        let entry: Entry =
            serde_json::from_slice(bytes).map_err(|e| Error::corrupt("").because(e))?;
        if by_serde(&entry) != bytes {
            return Err(Error::corrupt("not canonical"));
        }
        entry.check()?;
        Ok(entry)
    }

    fn by_serde(entry: &Entry) -> Vec<u8> {
        serde_json::to_string(entry).unwrap().into_bytes()
    }

    /// `None`: the bytes are taken, or refused, by both in the same way.
    fn difference(bytes: &[u8]) -> Option<String> {
        let ours = read(bytes).filter(|entry| entry.check().is_ok());
        match (ours, oracle(bytes)) {
            (None, Err(_)) => None,
            // Left to the general one.
            (None, Ok(theirs)) if theirs.log.is_some() => None,
            (Some(ours), Ok(theirs)) if ours == theirs && write(&ours, true) == bytes => None,
            (ours, theirs) => Some(format!("{ours:?} is not {theirs:?}")),
        }
    }

    fn hex<const N: usize>() -> impl Strategy<Value = Hex<N>> {
        any::<[u8; N]>().prop_map(Hex)
    }

    fn uuid() -> impl Strategy<Value = Uuid> {
        any::<[u8; 16]>().prop_map(Uuid::from_bytes)
    }

    fn integer() -> impl Strategy<Value = u64> {
        prop_oneof![0..20_u64, 0..=INTEGER_MAX, INTEGER_MAX - 2..=INTEGER_MAX]
    }

    fn time() -> impl Strategy<Value = Timestamp> {
        (0..=253_402_300_799_999_999_i64).prop_map(|t| Timestamp::from_micros(t).unwrap())
    }

    fn media() -> impl Strategy<Value = Media> {
        (0..Media::NAMES.len()).prop_map(|n| Media::NAMES[n].0)
    }

    fn digests(max: usize) -> impl Strategy<Value = Vec<KeyDigest>> {
        btree_map(uuid(), hex(), 1..=max).prop_map(|keys| {
            let keys = keys.into_iter();
            keys.map(|(id, digest)| KeyDigest { digest, id }).collect()
        })
    }

    fn content() -> impl Strategy<Value = ContentPart> {
        (1..=4096_u64, integer(), hex(), hex(), integer()).prop_map(
            |(fields, length, root, sha256, stored)| ContentPart {
                fields,
                length,
                root,
                sha256,
                stored,
            },
        )
    }

    fn payloads() -> impl Strategy<Value = Vec<PayloadPart>> {
        let payload = (hex(), integer(), media(), hex(), integer());
        btree_map("[a-z0-9_.]{1,64}", payload, 1..4).prop_map(|payloads| {
            let payloads = payloads.into_iter();
            payloads
                .map(
                    |(name, (commitment, length, media, sha256, stored))| PayloadPart {
                        commitment,
                        length,
                        media,
                        name,
                        sha256,
                        stored,
                    },
                )
                .collect()
        })
    }

    fn head() -> impl Strategy<Value = TreeHead> {
        (hex(), integer()).prop_map(|(root, size)| TreeHead { root, size })
    }

    fn public_keys() -> impl Strategy<Value = LogKeys> {
        let role = prop_oneof![
            Just(Role::Auditor),
            Just(Role::Publisher),
            Just(Role::Report),
            Just(Role::Writer)
        ];
        btree_set((role, hex()), 1..4).prop_map(|keys| {
            let keys = keys.into_iter();
            LogKeys::Public(
                keys.map(|(role, public)| PublicKey { public, role })
                    .collect(),
            )
        })
    }

    /// What the log says of itself, of each of its kinds.
    fn log() -> impl Strategy<Value = (&'static str, LogFacts)> {
        let ids = btree_set(uuid(), 1..4).prop_map(|ids| LogKeys::Ids(ids.into_iter().collect()));
        let keys = (public_keys(), ids, digests(3));
        let opening = ("[ -~]{0,64}", option::of(uuid()), hex());
        let others = (
            integer(),
            integer(),
            head(),
            "[!-*,-~]{1,255}",
            hex(),
            hex(),
        );
        (0..kinds::ALL.len(), keys, opening, others).prop_map(|(n, keys, opening, others)| {
            let kind = kinds::ALL[n];
            let (build, previous, sealed) = opening;
            let opening = Opening {
                build,
                previous,
                sealed,
            };
            let (entries, generation, head, origin, signature, signer) = others;
            let mut log = LogFacts::default();
            let mut sign = true;
            match kind {
                kinds::LOG_OPENED => {
                    log.keys = Some(keys.0);
                    log.head = Some(head);
                    log.opening = Some(opening);
                    log.origin = Some(origin);
                }
                kinds::WRITER_OPENED => {
                    log.head = Some(head);
                    log.opening = Some(opening);
                }
                kinds::KEY_REGISTERED => log.keys = Some(keys.0),
                kinds::KEY_DESTROYED => log.keys = Some(keys.1),
                kinds::KEY_REWRAPPED => {
                    log.keys = Some(LogKeys::Records(keys.2));
                    log.generation = Some(generation);
                }
                _ => {
                    sign = false;
                    log.entries = (kind != kinds::HEARTBEAT).then_some(entries);
                    log.head = Some(head);
                }
            }
            log.signature = sign.then_some(signature);
            log.signer = sign.then_some(signer);
            (kind, log)
        })
    }

    /// Entries that keep the format.
    fn entries(of_the_log: bool) -> impl Strategy<Value = Entry> {
        let sealed = option::of((content(), uuid(), option::of(payloads())));
        let place = (integer(), integer(), uuid(), hex());
        let tokens = option::of((1..=256_u64, hex()));
        let others = (
            uuid(),
            option::of(digests(3)),
            "[a-z0-9_.]{1,64}".prop_filter("the log's own", |k| !kinds::ALL.contains(&k.as_str())),
            time(),
            time(),
        );
        (sealed, place, tokens, others, log()).prop_map(
            move |(sealed, (epoch, seq, run, mac), tokens, others, (log_kind, log))| {
                let (content, key, payloads) = match sealed {
                    Some((content, key, payloads)) => (Some(content), Some(key), payloads),
                    None => (None, None, None),
                };
                let (event, keys, kind, recorded, time) = others;
                let opens = of_the_log && log.opening.is_some();
                Entry {
                    content,
                    epoch: if opens { 0 } else { epoch },
                    event,
                    key,
                    keys,
                    kind: Kind::new(if of_the_log { log_kind } else { &kind }).unwrap(),
                    log: of_the_log.then_some(log),
                    mac,
                    payloads,
                    recorded,
                    run,
                    seq: if opens { 0 } else { seq },
                    time,
                    tokens: tokens.map(|(count, hash)| TokenDigest { count, hash }),
                    v: 1,
                }
            },
        )
    }

    /// `n` entries, the same ones each time: with all members, and with ever fewer.
    fn samples(n: usize) -> Vec<Entry> {
        use proptest::strategy::ValueTree as _;
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let full = entries(false)
            .new_tree(&mut runner)
            .into_iter()
            .chain((0..999).filter_map(|_| entries(false).new_tree(&mut runner).ok()))
            .map(|tree| tree.current())
            .filter(|e| e.payloads.as_ref().is_some_and(|p| p.len() == 1))
            .filter(|e| e.keys.as_ref().is_some_and(|k| k.len() == 1))
            .find(|e| e.tokens.is_some())
            .unwrap();
        let mut samples = vec![full.clone()];
        samples.push(Entry {
            keys: None,
            payloads: None,
            ..full.clone()
        });
        samples.push(Entry {
            content: None,
            key: None,
            payloads: None,
            tokens: None,
            keys: None,
            ..full
        });
        samples.truncate(n);
        samples
    }

    proptest! {
        #[test]
        fn an_entry_is_written_otherwise_than_by_serde(
            entry in prop_oneof![entries(false), entries(true)],
            name in ".{0,70}",
        ) {
            let mut entry = entry;
            for _ in 0..2 {
                let bytes = write(&entry, true);
                prop_assert_eq!(&bytes, &by_serde(&entry));
                // Members in order, strings in ASCII: a sorted map without `mac` is canonical too.
                let mut value = serde_json::to_value(&entry).unwrap();
                value.as_object_mut().unwrap().remove("mac");
                prop_assert_eq!(write(&entry, false), value.to_string().into_bytes());
                // What breaks the format can be written too: then it is the reader who refuses it.
                if let Some(payload) = entry.payloads.iter_mut().flatten().next() {
                    payload.name.clone_from(&name);
                }
            }
        }

        #[test]
        fn an_entry_is_read_otherwise_than_by_serde(entry in prop_oneof![entries(false), entries(true)]) {
            let bytes = write(&entry, true);
            prop_assert_eq!(difference(&bytes), None);
            prop_assert_eq!(read(&bytes).is_some(), entry.log.is_none());
            prop_assert_eq!(Entry::decode(&bytes).unwrap(), entry);
        }

        #[test]
        fn foreign_bytes_in_an_entry_are_taken_otherwise_than_by_serde(
            entry in prop_oneof![entries(false), entries(true)],
            cuts in vec((any::<prop::sample::Index>(), 0..8_usize, vec(any::<u8>(), 0..8)), 1..4),
        ) {
            let mut bytes = write(&entry, true);
            for (at, removed, inserted) in cuts {
                let at = at.index(bytes.len() + 1);
                let until = bytes.len().min(at + removed);
                bytes.splice(at..until, inserted);
                prop_assert_eq!(difference(&bytes), None);
            }
        }

        #[test]
        fn a_value_that_breaks_the_format_is_taken_otherwise_than_by_serde(
            entry in entries(false),
            n in prop_oneof![INTEGER_MAX - 2..INTEGER_MAX + 3, any::<u64>(), 0..5000_u64],
            which in 0..9,
            text in "[ -~]{0,70}",
        ) {
            let mut entry = entry;
            match which {
                0 => entry.epoch = n,
                1 => entry.seq = n,
                2 => entry.v = n,
                3 => entry.content.iter_mut().for_each(|c| c.fields = n),
                4 => entry.content.iter_mut().for_each(|c| c.stored = n),
                5 => entry.tokens.iter_mut().for_each(|t| t.count = n),
                6 => entry.payloads.iter_mut().flatten().for_each(|p| p.length = n),
                7 => entry.payloads.iter_mut().flatten().for_each(|p| p.name.clone_from(&text)),
                _ => entry.keys = Some(Vec::new()),
            }
            prop_assert_eq!(difference(&write(&entry, true)), None);
        }
    }

    #[test]
    fn a_changed_byte_is_taken_otherwise_than_by_serde() {
        for entry in samples(3) {
            let good = write(&entry, true);
            assert!(read(&good).is_some());
            let mut taken = 0_u32;
            let mut bytes = good.clone();
            for at in 0..good.len() {
                for byte in 0..=255 {
                    bytes[at] = byte;
                    taken += u32::from(read(&bytes).is_some());
                    assert_eq!(difference(&bytes), None, "byte {at} changed to {byte}");
                }
                bytes[at] = good[at];
            }
            // Wherever a hexadecimal digit stands, 16 of them may: at least in the MAC, and in two ids.
            assert!(taken > (64 + 32 + 32) * 16, "{taken} were taken");
        }
    }

    #[test]
    fn a_missing_doubled_or_swapped_byte_is_taken_otherwise_than_by_serde() {
        for entry in samples(3) {
            let good = write(&entry, true);
            for at in 0..good.len() {
                let (head, tail) = good.split_at(at);
                let one = &tail[..1];
                assert_eq!(difference(head), None, "cut at {at}");
                assert_eq!(difference(tail), None, "from {at} on");
                assert_eq!(
                    difference(&[head, &tail[1..]].concat()),
                    None,
                    "without {at}"
                );
                assert_eq!(difference(&[head, one, tail].concat()), None, "{at} twice");
                for more in [" ", "\n", "0", "\\", "\"", ",", "{}", "null", "\u{e9}"] {
                    let bytes = [head, more.as_bytes(), tail].concat();
                    assert_eq!(difference(&bytes), None, "{more:?} before {at}");
                }
                let mut swapped = good.clone();
                if at > 0 {
                    swapped.swap(at - 1, at);
                    assert_eq!(
                        difference(&swapped),
                        None,
                        "{at} and the one before it swapped"
                    );
                }
            }
        }
    }

    #[test]
    fn members_in_another_order_or_spelling_are_taken() {
        let good = String::from_utf8(write(&samples(1)[0], true)).unwrap();
        let seq = good
            .split(r#","seq":"#)
            .nth(1)
            .unwrap()
            .split(',')
            .next()
            .unwrap();
        let pairs = [
            (r#"{"content""#, r#"{ "content""#),
            (r#","v":1}"#, r#","v":1,"w":1}"#),
            (r#","v":1}"#, r#","v":1,"v":1}"#),
            (r#","v":1}"#, r#","v":1.0}"#),
            (r#","v":1}"#, r#","v":01}"#),
            (r#","v":1}"#, r#","v":1e0}"#),
            (r#","v":1}"#, r#","v":-1}"#),
            (r#","v":1}"#, r#","v":+1}"#),
            (r#","v":1}"#, r#","v":"1"}"#),
            (r#","v":1}"#, r#","v":1}x"#),
            (r#","v":1}"#, r#","v":1"#),
            (r#","tokens":"#, r#","log":null,"tokens":"#),
            (r#""kind":""#, r#""kind":"\u0061"#),
            (&*format!(r#","seq":{seq}"#), ""),
            (r#""media":""#, r#""media":"x"#),
            (r#"],"recorded""#, r#",],"recorded""#),
        ];
        for (from, to) in pairs {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from} is not there");
            assert!(read(bad.as_bytes()).is_none(), "{from} as {to}");
            assert_eq!(difference(bad.as_bytes()), None, "{from} as {to}");
        }
    }
}
