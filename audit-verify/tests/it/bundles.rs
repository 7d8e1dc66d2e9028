//! Bundles: what goes in comes out, and what is changed in between is found.

use std::io::Cursor;
use std::sync::OnceLock;

use audit_core::ErrorKind;
use audit_core::row::Parts;
use audit_verify::bundle::{Reader, export};
use audit_verify::{Check, CheckResult, Evidence, Policy, Verdict};
use proptest::prelude::*;

use crate::world::{World, small, verify, world};

fn exported(world: &World, parts: bool) -> Vec<u8> {
    let mut out = Vec::new();
    assert_eq!(export(&world.log, &mut out, parts).unwrap(), world.log.size);
    out
}

fn bundle() -> &'static [u8] {
    static BUNDLE: OnceLock<Vec<u8>> = OnceLock::new();
    BUNDLE.get_or_init(|| exported(small(), true))
}

fn judge(policy: &Policy<'_>, bytes: &[u8]) -> Verdict {
    match Reader::open(Cursor::new(bytes)) {
        Ok(evidence) => verify(&evidence, policy, &mut ()),
        Err(e) => Verdict::unreadable(policy, &e),
    }
}

#[test]
fn a_bundle_gives_the_verdict_of_its_log() {
    for world in [small(), world()] {
        let policy = world.everything();
        let bytes = exported(world, true);
        let verdict = judge(&policy, &bytes);
        assert_eq!(
            verdict.to_json(),
            verify(&world.log, &policy, &mut ()).to_json()
        );
        assert_eq!(verdict.exit_code(), 0, "{verdict}");
        // Exported again it is the same file.
        let mut again = Vec::new();
        export(
            &Reader::open(Cursor::new(&bytes)).unwrap(),
            &mut again,
            true,
        )
        .unwrap();
        assert!(again == bytes);
    }
}

#[test]
fn a_bundle_without_parts_says_that_they_were_not_checked() {
    let world = world();
    let verdict = judge(&world.public(), &exported(world, false));
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    let report = verdict.check(Check::Parts);
    assert_eq!(report.result, CheckResult::NotChecked);
    assert_eq!(
        report.not_checked,
        ["stored parts: the evidence came without them"]
    );
}

#[test]
fn a_bundle_answers_in_any_order() {
    let world = world();
    let bytes = exported(world, true);
    let reader = Reader::open(Cursor::new(&bytes)).unwrap();
    for start in [500_u64, 3, 255, 256, 257, 0, 554] {
        for parts in [Parts::With, Parts::Without] {
            let rows = reader.rows(start..start + 3, parts).unwrap();
            let expected = world.log.rows(start..start + 3, parts).unwrap();
            assert!(rows == expected, "rows from {start}");
        }
    }
    assert_eq!(
        reader
            .rows(world.log.size..world.log.size + 1, Parts::With)
            .unwrap(),
        []
    );
    for (id, record) in &world.log.keys {
        assert_eq!(reader.key(*id).unwrap().as_ref(), Some(record));
    }
    assert_eq!(reader.key(uuid::Uuid::nil()).unwrap(), None);
    let after = world.log.tokens[17];
    assert_eq!(
        reader.token_rows(Some(after), 3).unwrap(),
        world.log.tokens[18..21]
    );
}

#[test]
fn a_large_event_comes_back_in_pieces() {
    let world = small();
    let mut log = world.log.clone();
    let at = log.rows.iter().position(|r| r.parts.is_some()).unwrap();
    for length in [0_usize, 1, 49_151, 49_152, 49_153, 200_000] {
        log.rows[at].parts = Some(vec![7; length]);
        let mut out = Vec::new();
        export(&log, &mut out, true).unwrap();
        let reader = Reader::open(Cursor::new(&out)).unwrap();
        let rows = reader.rows(0..log.size, Parts::With).unwrap();
        assert_eq!(rows[at].parts.as_ref().map(Vec::len), Some(length));
        assert_eq!(rows.len() as u64, log.size);
    }
}

#[test]
fn what_is_no_bundle_is_undecided_and_what_is_cut_is_not() {
    let policy = small().public();
    for (bytes, kind, code) in [
        (&b""[..], ErrorKind::Invalid, 2),
        (b"hello\n", ErrorKind::Invalid, 2),
        (
            b"{\"bundle\":\"audit-trail-bundle/2\",\"origin\":\"x\",\"parts\":true,\"size\":0}\n",
            ErrorKind::Invalid,
            2,
        ),
        (
            b"{\"bundle\":\"audit-trail-bundle/1\",\"origin\":\"x\",\"parts\":true,\"size\":0}\n",
            ErrorKind::Corrupt,
            1,
        ),
    ] {
        assert_eq!(Reader::open(Cursor::new(bytes)).unwrap_err().kind(), kind);
        assert_eq!(judge(&policy, bytes).exit_code(), code);
    }
    let bytes = bundle();
    for cut in (200..bytes.len()).step_by(331) {
        assert_eq!(judge(&policy, &bytes[..cut]).exit_code(), 1, "cut at {cut}");
    }
}

#[test]
fn a_line_that_is_dropped_doubled_or_moved_is_found() {
    let policy = small().public();
    let lines: Vec<&[u8]> = bundle().split_inclusive(|b| *b == b'\n').collect();
    for n in 0..lines.len() {
        let mut dropped = lines.clone();
        dropped.remove(n);
        assert_ne!(
            judge(&policy, &dropped.concat()).exit_code(),
            0,
            "without line {n}"
        );
        let mut doubled = lines.clone();
        doubled.insert(n, lines[n]);
        assert_ne!(
            judge(&policy, &doubled.concat()).exit_code(),
            0,
            "line {n} twice"
        );
        let token = |line: &[u8]| line.starts_with(b"{\"token\"");
        if n + 1 < lines.len() && !(token(lines[n]) && token(lines[n + 1])) {
            let mut moved = lines.clone();
            moved.swap(n, n + 1);
            assert_ne!(
                judge(&policy, &moved.concat()).exit_code(),
                0,
                "lines {n} swapped"
            );
        }
    }
}

fn drop_line_and_fit_the_end(kind: &str, member: &str, nth: usize) -> Vec<u8> {
    let text = str::from_utf8(bundle()).unwrap();
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let prefix = format!("{{\"{kind}\":");
    let at = lines
        .iter()
        .enumerate()
        .filter(|(_, l)| l.starts_with(&prefix))
        .nth(nth)
        .unwrap()
        .0;
    lines.remove(at);
    while lines[at].starts_with("{\"part\"") {
        lines.remove(at);
    }
    let count = lines.iter().filter(|l| l.starts_with(&prefix)).count();
    let end = lines.last_mut().unwrap();
    *end = end.replace(
        &format!("\"{member}\":{}", count + 1),
        &format!("\"{member}\":{count}"),
    );
    lines.concat().into_bytes()
}

#[test]
fn a_line_that_is_dropped_with_its_count_is_named() {
    let policy = small().public();
    for (kind, member, check) in [
        ("entry", "entries", Check::Index),
        ("tile", "tiles", Check::Tiles),
        ("token", "tokens", Check::TokenRows),
        ("key", "keys", Check::Keys),
    ] {
        let verdict = judge(&policy, &drop_line_and_fit_the_end(kind, member, 0));
        assert!(
            matches!(verdict.check(check).result, CheckResult::Failed { .. }),
            "{kind}: {verdict}"
        );
    }
    let verdict = judge(&policy, &drop_line_and_fit_the_end("entry", "entries", 5));
    assert_eq!(verdict.findings()[0].index, Some(5), "{verdict}");
}

#[derive(Debug, Clone)]
enum Change {
    Flip(usize, u8),
    Insert(usize, u8),
    Delete(usize, usize),
    Copy(usize, usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0_usize..1 << 20;
    prop_oneof![
        4 => (at.clone(), 0_u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        2 => (at.clone(), any::<u8>()).prop_map(|(at, b)| Change::Insert(at, b)),
        2 => (at.clone(), 1_usize..200).prop_map(|(at, n)| Change::Delete(at, n)),
        2 => (at.clone(), at, 1_usize..200).prop_map(|(from, to, n)| Change::Copy(from, to, n)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let len = bytes.len();
    match *change {
        Change::Flip(at, bit) => bytes[at % len] ^= 1 << bit,
        Change::Insert(at, b) => bytes.insert(at % len, b),
        Change::Delete(at, n) => drop(bytes.drain(at % len..(at % len + n).min(len))),
        Change::Copy(from, to, n) => {
            let from = from % len;
            let piece = bytes[from..(from + n).min(len)].to_vec();
            let to = to % len;
            bytes.splice(to..(to + piece.len()).min(len), piece);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_bundle_never_passes_and_never_panics(changes in prop::collection::vec(change(), 1..4)) {
        let world = small();
        let mut bytes = bundle().to_vec();
        for change in &changes {
            apply(&mut bytes, change);
        }
        prop_assume!(bytes != bundle());
        let policy = Policy { auditor: Some(world.auditor.clone()), operator: Some(&world.ring), ..world.public() };
        let verdict = judge(&policy, &bytes);
        prop_assert!(verdict.exit_code() != 0, "{}", verdict);
        // Neither do the two forms of the verdict fail.
        prop_assert!(!verdict.to_json().is_empty() && !verdict.to_string().is_empty());
    }
}

#[test]
fn a_checkpoint_of_size_0_is_malformed() {
    let mut log = small().log.clone();
    let line = br#"{"checkpoint":{"note":"","size":0}}"#;
    log.checkpoints.clear();
    let mut bytes = Vec::new();
    export(&log, &mut bytes, true).unwrap();
    let header = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
    let mut changed = bytes[..header].to_vec();
    changed.extend_from_slice(line);
    changed.push(b'\n');
    changed.extend_from_slice(&bytes[header..]);
    let text = String::from_utf8(changed).unwrap();
    let text = text.replace("{\"checkpoints\":0,", "{\"checkpoints\":1,");
    let e = Reader::open(Cursor::new(text.into_bytes())).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert!(e.to_string().contains("size 0"), "{e}");
}
