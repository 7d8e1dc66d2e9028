//! Evidence bundles: what they prove, and that no change of one passes, neither here nor with the Python verifier.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use audit_core::entry::{Entry, kinds};
use audit_core::keyring::KeyRing;
use audit_core::row::Row;
use audit_core::{ErrorKind, Result, canonical};
use audit_tlog::hash::leaf_hash;
use audit_verify::evidence_bundle::{
    BundlePolicy, Made, Query, Request, Selection, make, verify_bundle,
};
use audit_verify::{Check, CheckResult, Verdict};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::world::{Mem, World, forger, long, other, sign, small, world};

/// How a bundle is asked for.
#[derive(Clone, Default)]
struct Ask {
    query: Query,
    only: Vec<&'static str>,
    redact: Vec<&'static str>,
    since: Vec<Vec<u8>>,
}

fn session(name: &str) -> Ask {
    Ask {
        query: Query {
            session: Some(name.to_owned()),
            ..Query::default()
        },
        ..Ask::default()
    }
}

/// Everything: each time is at or after the first.
fn everything(world: &World) -> Ask {
    Ask {
        query: Query {
            from: world.log.rows.iter().map(|r| r.columns.time).min(),
            ..Query::default()
        },
        ..Ask::default()
    }
}

fn indexes(log: &Mem, matches: impl Fn(&Row) -> bool) -> Vec<u64> {
    let rows = log.rows.iter();
    rows.filter(|r| matches(r)).map(|r| r.index).collect()
}

fn found(log: &Mem, ring: &KeyRing, query: &Query) -> Vec<u64> {
    let token = |s: &String| ring.index_key().token("session", s);
    let token = query.session.as_ref().map(token);
    indexes(log, |row| {
        let tokens = row.tokens.as_ref().map_or(&[][..], |set| &set.tokens);
        token.is_none_or(|t| tokens.contains(&t))
            && query.from.is_none_or(|t| row.columns.time >= t)
            && query.to.is_none_or(|t| row.columns.time < t)
            && (query.events.as_ref()).is_none_or(|ids| ids.contains(&row.columns.event))
    })
}

fn try_make(world: &World, ask: &Ask) -> Result<(Made, Vec<u8>)> {
    try_make_of(&world.log, &world.ring, ask)
}

fn try_make_of(log: &Mem, ring: &KeyRing, ask: &Ask) -> Result<(Made, Vec<u8>)> {
    let own = [
        kinds::WRITER_OPENED,
        kinds::KEY_REGISTERED,
        kinds::KEY_DESTROYED,
    ];
    let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
    let request = Request {
        query: ask.query.clone(),
        selection: Selection::new(list(&ask.only), list(&ask.redact))?,
        matched: &found(log, ring, &ask.query),
        own: &indexes(log, |r| own.contains(&r.columns.kind.as_str())),
        checkpoint: log.last_checkpoint(),
        since: ask.since.clone(),
    };
    let mut out = Vec::new();
    let mut spool = || Ok(Cursor::new(Vec::new()));
    let made = make(log, ring, &request, &mut spool, &mut out)?;
    Ok((made, out))
}

fn made(world: &World, ask: &Ask) -> Vec<u8> {
    try_make(world, ask).unwrap().1
}

fn policy(world: &World) -> BundlePolicy {
    BundlePolicy {
        vkey: Some(world.ring.vkey()),
        opened: Some(world.log.opened()),
        ..BundlePolicy::default()
    }
}

fn judge(bytes: &[u8], policy: &BundlePolicy) -> Verdict {
    verify_bundle(Cursor::new(bytes), policy)
}

#[track_caller]
fn holds(bytes: &[u8], policy: &BundlePolicy) -> Verdict {
    let verdict = judge(bytes, policy);
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    verdict
}

// ---- a container that a test can change

type Members = Vec<(String, Vec<u8>)>;

fn unpack(bytes: &[u8]) -> Members {
    let mut members = Vec::new();
    let mut at = 0;
    while bytes[at] != 0 {
        let name = bytes[at..at + 100].split(|b| *b == 0).next().unwrap();
        let size = str::from_utf8(&bytes[at + 124..at + 135]).unwrap();
        let size = usize::from_str_radix(size, 8).unwrap();
        let name = String::from_utf8(name.to_vec()).unwrap();
        members.push((name, bytes[at + 512..at + 512 + size].to_vec()));
        at += 512 + size.next_multiple_of(512);
    }
    members
}

fn pack(members: &Members) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in members {
        let mut block = vec![0; 512];
        let mut put = |at: usize, text: &str| {
            block[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, name);
        put(100, "0000600\x000000000\x000000000\0");
        put(124, &format!("{:011o}\0", bytes.len()));
        put(136, "00000000000\0        0");
        put(257, "ustar\x0000");
        let sum: u32 = block.iter().map(|b: &u8| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend(block);
        out.extend(bytes);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn at(members: &Members, name: &str) -> usize {
    members.iter().position(|(n, _)| n == name).unwrap()
}

fn json_of(members: &Members, name: &str) -> Value {
    serde_json::from_slice(&members[at(members, name)].1).unwrap()
}

fn set_json(members: &mut Members, name: &str, value: &Value) {
    let place = at(members, name);
    members[place].1 = canonical::to_vec(value).unwrap();
}

fn lines_of(members: &Members, name: &str) -> Vec<Value> {
    let bytes = &members[at(members, name)].1;
    let lines = bytes.split_inclusive(|b| *b == b'\n');
    lines.map(|l| serde_json::from_slice(l).unwrap()).collect()
}

fn set_lines(members: &mut Members, name: &str, lines: &[Value]) {
    let place = at(members, name);
    let mut bytes = Vec::new();
    for line in lines {
        bytes.extend(canonical::to_vec(line).unwrap());
        bytes.push(b'\n');
    }
    members[place].1 = bytes;
}

/// What an attacker would do too: the manifest lists what is there.
fn refit(members: &mut Members) {
    let mut manifest = json_of(members, "manifest.json");
    manifest["members"] = members
        .iter()
        .filter(|(name, _)| name != "manifest.json" && !name.starts_with("payloads/"))
        .map(|(name, bytes)| {
            let digest: [u8; 32] = Sha256::digest(bytes).into();
            json!({"name": name, "sha256": audit_core::hex::encode(&digest), "size": bytes.len()})
        })
        .collect();
    set_json(members, "manifest.json", &manifest);
}

/// Changes the manifest and the texts that follow from what is changed, by replacing words.
fn reword(members: &mut Members, old: &str, new: &str) {
    for name in ["manifest.json", "README.txt", "LIMITS.txt"] {
        let place = at(members, name);
        let text = String::from_utf8(members[place].1.clone()).unwrap();
        members[place].1 = text.replace(old, new).into_bytes();
    }
    refit(members);
}

// ---- honest bundles

/// Every honest case, with the policy under which it holds.
fn good() -> Vec<(String, Vec<u8>, BundlePolicy)> {
    let mut cases = Vec::new();
    for (name, world) in [("small", small()), ("world", world())] {
        let since = world.log.checkpoints.values().take(2).cloned().collect();
        let events = |n: usize| {
            let mut ids: Vec<_> = (3..3 + n)
                .map(|i| world.log.rows[i].columns.event)
                .collect();
            ids.sort_unstable();
            Some(ids)
        };
        let all = everything(world);
        for (what, ask) in [
            ("session", session("session-0")),
            ("all", all.clone()),
            (
                "all since",
                Ask {
                    since,
                    ..all.clone()
                },
            ),
            (
                "redacted",
                Ask {
                    redact: vec!["actor", "attributes/*", "payloads/request"],
                    ..all.clone()
                },
            ),
            (
                "nothing",
                Ask {
                    redact: vec!["*"],
                    ..all.clone()
                },
            ),
            (
                "only payloads",
                Ask {
                    only: vec!["payloads/*"],
                    ..all
                },
            ),
            (
                "only of a session",
                Ask {
                    only: vec!["refs/*"],
                    ..session("session-1")
                },
            ),
            (
                "events",
                Ask {
                    query: Query {
                        events: events(3),
                        ..Query::default()
                    },
                    ..Ask::default()
                },
            ),
        ] {
            cases.push((format!("{name} {what}"), made(world, &ask), policy(world)));
        }
    }
    cases
}

#[test]
fn an_honest_bundle_is_refused() {
    for (name, bytes, policy) in good() {
        let verdict = judge(&bytes, &policy);
        assert_eq!(verdict.exit_code(), 0, "{name}: {verdict}");
        let without = judge(&bytes, &BundlePolicy::default());
        assert_eq!(without.exit_code(), 2, "{name} without a key: {without}");
        assert!(
            without.to_string().contains("taken from the bundle"),
            "{without}"
        );
        for wrong in [
            BundlePolicy {
                vkey: Some(other().ring.vkey()),
                ..BundlePolicy::default()
            },
            BundlePolicy {
                vkey: Some(forger().ring.vkey()),
                ..BundlePolicy::default()
            },
        ] {
            assert_eq!(
                judge(&bytes, &wrong).exit_code(),
                2,
                "{name} with a foreign key"
            );
        }
        let opened = Some(leaf_hash(b"another"));
        let wrong = judge(&bytes, &BundlePolicy { opened, ..policy });
        assert_eq!(wrong.exit_code(), 1, "{name} with another first entry");
        assert_eq!(wrong.findings()[0].check, Check::Identity);
    }
}

#[test]
fn a_verdict_counts_something_else_than_there_is() {
    let world = world();
    let ask = everything(world);
    let (made, bytes) = try_make(world, &ask).unwrap();
    let auditor = Some(world.auditor.clone());
    let verdict = holds(
        &bytes,
        &BundlePolicy {
            auditor,
            ..policy(world)
        },
    );
    let size = world.log.size;
    for check in [
        Check::Entry,
        Check::Inclusion,
        Check::MultiProof,
        Check::Recorded,
        Check::Query,
        Check::Mac,
    ] {
        let report = verdict.check(check);
        assert_eq!(
            (report.result, report.population),
            (CheckResult::Held, size),
            "{check}"
        );
    }
    assert_eq!(verdict.check(Check::Runs).population, 3);
    assert_eq!(
        verdict.check(Check::Completeness).result,
        CheckResult::NotChecked
    );
    let counts = made.manifest.counts;
    assert_eq!(
        (counts.entries, counts.matched, counts.withheld),
        (size, size, 0)
    );
    assert!(counts.erased > 10 && counts.open > 300 && counts.payloads > 100);
    assert_eq!(verdict.check(Check::Disclosed).population, counts.fields);
    assert_eq!(verdict.check(Check::Payloads).population, counts.payloads);

    // In a session's bundle entries of the run are missing: their MACs can't be checked, and it says so.
    let bytes = made_with_auditor(world);
    assert_eq!(bytes.check(Check::Mac).result, CheckResult::NotChecked);
    assert_eq!(bytes.check(Check::Signatures).result, CheckResult::Held);
}

fn made_with_auditor(world: &World) -> Verdict {
    let auditor = Some(world.auditor.clone());
    let bytes = made(world, &session("session-2"));
    holds(
        &bytes,
        &BundlePolicy {
            auditor,
            ..policy(world)
        },
    )
}

#[test]
fn the_same_question_gives_another_file() {
    for world in [small(), world()] {
        for ask in [session("session-1"), everything(world)] {
            assert!(made(world, &ask) == made(world, &ask));
        }
    }
}

#[test]
fn more_than_one_multi_proof_does_not_hold() {
    let world = long();
    let bytes = made(world, &everything(world));
    let lines = lines_of(&unpack(&bytes), "multiproofs.jsonl");
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["count"], 1024);
    let verdict = holds(&bytes, &policy(world));
    assert_eq!(verdict.check(Check::MultiProof).population, world.log.size);
}

#[test]
fn a_withheld_field_is_in_the_file() {
    let world = small();
    let plain = made(world, &session("session-0"));
    let fields: Vec<Value> = lines_of(&unpack(&plain), "disclosures.jsonl")
        .iter()
        .flat_map(|l| l["fields"].as_array().unwrap().clone())
        .collect();
    let named = |name: &str| fields.iter().find(|f| f["name"] == name).unwrap();
    let redacted = made(
        world,
        &Ask {
            redact: vec!["actor", "payloads/*"],
            ..session("session-0")
        },
    );
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    for name in ["actor", "payloads/request"] {
        let salt = named(name)["salt"].as_str().unwrap();
        assert!(has(&plain, salt) && !has(&redacted, salt), "salt of {name}");
    }
    let value = named("actor")["value"].as_str().unwrap();
    assert!(has(&plain, value) && !has(&redacted, value));
    assert!(has(&plain, "a prompt, the 0th") && !has(&redacted, "a prompt, the 0th"));
    let verdict = holds(&redacted, &policy(world));
    assert!(verdict.check(Check::Payloads).population == 0);
    // Neither is what would let one guess.
    for bytes in [&plain, &redacted] {
        for row in &world.log.rows {
            let salt = row.tokens.as_ref().map(|set| set.salt.to_string());
            assert!(
                salt.is_none_or(|salt| !has(bytes, &salt)),
                "a salt of tokens"
            );
        }
    }
}

#[test]
fn what_can_not_be_answered_is() {
    let world = small();
    let kind = |ask: &Ask| try_make(world, ask).unwrap_err().kind();
    assert_eq!(kind(&session("nobody's")), ErrorKind::NotFound);
    assert_eq!(
        kind(&Ask {
            redact: vec!["session*"],
            ..session("session-0")
        }),
        ErrorKind::Invalid
    );
    assert_eq!(
        kind(&Ask {
            redact: vec!["sessions"],
            ..session("session-0")
        }),
        ErrorKind::Invalid
    );
    assert_eq!(kind(&Ask::default()), ErrorKind::Invalid);
    let foreign = vec![other().log.last_checkpoint()];
    assert_eq!(
        kind(&Ask {
            since: foreign,
            ..session("session-0")
        }),
        ErrorKind::Invalid
    );
    // A log that lost content without an erasure.
    let mut log = world.log.clone();
    let at = found(&world.log, &world.ring, &session("session-0").query)[0] as usize;
    log.rows[at].parts = None;
    let request = Request {
        query: session("session-0").query,
        selection: Selection::default(),
        matched: &[at as u64],
        own: &[],
        checkpoint: world.log.last_checkpoint(),
        since: vec![],
    };
    let mut spool = || Ok(Cursor::new(Vec::new()));
    let e = make(&log, &world.ring, &request, &mut spool, &mut Vec::new()).unwrap_err();
    assert_eq!((e.kind(), e.index()), (ErrorKind::Corrupt, Some(at as u64)));
    // Behind the checkpoint.
    let (size, earlier) = world.log.checkpoints.first_key_value().unwrap();
    let request = Request {
        matched: &[*size],
        checkpoint: earlier.clone(),
        ..request
    };
    let e = make(&log, &world.ring, &request, &mut spool, &mut Vec::new()).unwrap_err();
    assert_eq!((e.kind(), e.index()), (ErrorKind::NotFound, Some(*size)));
}

#[test]
fn a_kept_checkpoint_is_not_compared() {
    let world = world();
    let sizes: Vec<u64> = world.log.checkpoints.keys().copied().collect();
    let note = |n: usize| world.log.checkpoints[&sizes[n]].clone();
    let ask = Ask {
        since: vec![note(0), note(1)],
        ..session("session-3")
    };
    let bytes = made(world, &ask);
    let kept = |remembered: Vec<Vec<u8>>| {
        judge(
            &bytes,
            &BundlePolicy {
                remembered,
                ..policy(world)
            },
        )
    };
    let verdict = kept(vec![note(0), note(1), note(sizes.len() - 1)]);
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    assert_eq!(verdict.check(Check::Remembered).population, 3);
    assert_eq!(verdict.check(Check::Consistency).population, 2);
    // One that isn't in it decides nothing.
    let verdict = judge(
        &made(world, &session("session-3")),
        &BundlePolicy {
            remembered: vec![note(0)],
            ..policy(world)
        },
    );
    assert_eq!(verdict.exit_code(), 2, "{verdict}");
    assert!(
        verdict.to_string().contains("--since-checkpoint"),
        "{verdict}"
    );
    assert_eq!(kept(vec![other().log.last_checkpoint()]).exit_code(), 2);
    // Another history of the same size, signed by the same key.
    let mut log = world.log.clone();
    log.edit(0, |e| e.mac.0[0] ^= 1);
    let verdict = kept(vec![log.signed(&world.ring, sizes[1] as usize)]);
    assert_eq!(verdict.exit_code(), 1, "{verdict}");
    assert_eq!(verdict.findings()[0].check, Check::Remembered);
}

// ---- the tamper matrix

/// A changed bundle, and what the message must name.
struct Case {
    name: String,
    bytes: Vec<u8>,
    names: &'static str,
}

#[derive(Default)]
struct Matrix(Vec<Case>);

impl Matrix {
    fn raw(&mut self, name: String, bytes: Vec<u8>, names: &'static str) {
        self.0.push(Case { name, bytes, names });
    }

    /// Changes members, once as they are and once with the manifest made to fit.
    fn members(
        &mut self,
        name: &str,
        base: &Members,
        names: &'static str,
        change: impl Fn(&mut Members),
    ) {
        let mut changed = base.clone();
        change(&mut changed);
        assert!(changed != *base, "{name} changes nothing");
        self.raw(name.to_owned(), pack(&changed), "");
        refit(&mut changed);
        self.raw(
            format!("{name}, manifest made to fit"),
            pack(&changed),
            names,
        );
    }

    fn lines(
        &mut self,
        name: &str,
        base: &Members,
        member: &'static str,
        change: impl Fn(&mut Vec<Value>),
    ) {
        self.lines_naming(member, name, base, member, change);
    }

    /// The same where another member is what doesn't fit any more.
    fn lines_naming(
        &mut self,
        names: &'static str,
        name: &str,
        base: &Members,
        member: &'static str,
        change: impl Fn(&mut Vec<Value>),
    ) {
        let name = format!("{member}: {name}");
        self.members(&name, base, names, |members| {
            let mut lines = lines_of(members, member);
            change(&mut lines);
            set_lines(members, member, &lines);
        });
    }
}

fn swap_member(lines: &mut [Value], a: usize, b: usize, member: &str) {
    let kept = lines[a][member].take();
    lines[a][member] = lines[b][member].take();
    lines[b][member] = kept;
}

fn flip(bytes: &mut [u8], at: usize) {
    bytes[at] ^= 1;
}

/// Every change of one bundle; `foreign` is of another log, `twin` of one that has the same name.
fn matrix(base: &[u8], foreign: &Members, twin: &Members) -> Matrix {
    let mut matrix = Matrix::default();
    let good = unpack(base);
    assert_eq!(
        pack(&good),
        base,
        "the test packs otherwise than the program"
    );

    // The container.
    let mut header = 0;
    let last_payload = good.len() - 1;
    let alike = |n: usize| {
        good[n].0.starts_with("payloads/")
            && n != last_payload
            && good[n - 1].0.starts_with("payloads/")
    };
    for (n, (name, bytes)) in good.iter().enumerate() {
        for field in [
            0, 5, 99, 100, 106, 108, 122, 124, 130, 134, 136, 148, 153, 155, 156, 157, 257, 263,
            265, 345, 511,
        ] {
            if alike(n) {
                // The first and the last payload stand for all.
                continue;
            }
            let mut changed = base.to_vec();
            flip(&mut changed, header + field);
            matrix.raw(format!("header of {name}, byte {field}"), changed, "");
        }
        let end = header + 512 + bytes.len();
        for at in [end, end.next_multiple_of(512) - 1] {
            if end < end.next_multiple_of(512) {
                let mut changed = base.to_vec();
                flip(&mut changed, at);
                matrix.raw(format!("padding of {name}, byte {at}"), changed, "padded");
            }
        }
        header = end.next_multiple_of(512);
    }
    for at in [header, header + 511, header + 512, header + 1023] {
        let mut changed = base.to_vec();
        flip(&mut changed, at);
        matrix.raw(format!("end, byte {at}"), changed, "");
    }
    for cut in [
        0,
        1,
        511,
        512,
        540,
        600,
        1024,
        base.len() / 2,
        header,
        header + 512,
        base.len() - 1,
    ] {
        matrix.raw(format!("cut at {cut}"), base[..cut].to_vec(), "");
    }
    for tail in [&[0_u8][..], b"x", &[0; 512], &[0; 1024]] {
        matrix.raw(
            format!("{} bytes behind the end", tail.len()),
            [base, tail].concat(),
            "end",
        );
    }

    // Members.
    for n in (0..good.len()).filter(|n| !alike(*n)) {
        let name = good[n].0.clone();
        for (what, place) in [
            ("first", 0),
            ("middle", good[n].1.len() / 2),
            ("last", good[n].1.len().saturating_sub(1)),
        ] {
            if good[n].1.is_empty() {
                continue;
            }
            let mut changed = good.clone();
            flip(&mut changed[n].1, place);
            matrix.raw(format!("{name}: {what} byte"), pack(&changed), "");
            if name != "manifest.json" {
                refit(&mut changed);
                matrix.raw(
                    format!("{name}: {what} byte, manifest made to fit"),
                    pack(&changed),
                    "",
                );
            }
        }
        let mut dropped = good.clone();
        dropped.remove(n);
        matrix.raw(format!("without {name}"), pack(&dropped), "");
        let mut doubled = good.clone();
        doubled.insert(n, good[n].clone());
        matrix.raw(format!("{name} twice"), pack(&doubled), "");
        let mut emptied = good.clone();
        if !emptied[n].1.is_empty() {
            emptied[n].1.clear();
            matrix.raw(format!("{name} empty"), pack(&emptied), "");
        }
        if n > 0 {
            let mut swapped = good.clone();
            swapped.swap(n - 1, n);
            matrix.raw(format!("{name} one earlier"), pack(&swapped), "");
            for changed in [&mut dropped, &mut doubled, &mut swapped] {
                if changed[0].0 == "manifest.json" {
                    refit(changed);
                    matrix.raw(
                        format!("{name} moved, manifest made to fit"),
                        pack(changed),
                        "",
                    );
                }
            }
        }
        // Of another log.
        for (whose, from) in [("another log", foreign), ("its twin", twin)] {
            if let Some((_, bytes)) = from
                .iter()
                .find(|(other, bytes)| *other == name && *bytes != good[n].1)
                && name != "manifest.json"
            {
                matrix.members(&format!("{name} of {whose}"), &good, "", |m| {
                    m[n].1.clone_from(bytes)
                });
            }
        }
    }
    for text in ["README.txt", "LIMITS.txt"] {
        matrix.members(&format!("{text} says more"), &good, text, |m| {
            let place = at(m, text);
            m[place].1.extend(b"This proves everything.\n");
        });
    }

    // Lines.
    for member in ["entries.jsonl", "multiproofs.jsonl", "disclosures.jsonl"] {
        let lines = lines_of(&good, member);
        for n in [0, lines.len() / 2, lines.len() - 1] {
            // A dropped entry shows in what belonged to it.
            let names = if member == "entries.jsonl" {
                ""
            } else {
                member
            };
            let what = format!("without line {n}");
            matrix.lines_naming(names, &what, &good, member, |l| drop(l.remove(n)));
            matrix.lines(&format!("line {n} twice"), &good, member, |l| {
                l.insert(n, l[n].clone())
            });
            if n > 0 {
                matrix.lines(
                    &format!("lines {n} and the one before swapped"),
                    &good,
                    member,
                    |l| l.swap(n - 1, n),
                );
            }
        }
        for (what, edit) in [
            ("a line without end", &b"{}"[..]),
            ("an empty line", b"\n"),
            ("a line of something else", b"{}\n"),
        ] {
            matrix.members(&format!("{member}: {what}"), &good, member, |m| {
                let place = at(m, member);
                m[place].1.extend(edit);
            });
        }
        matrix.members(&format!("{member}: a space"), &good, member, |m| {
            let place = at(m, member);
            m[place].1.insert(1, b' ');
        });
    }
    let entries = lines_of(&good, "entries.jsonl");
    let last = entries.len() - 1;
    let proof = |l: &mut Vec<Value>| swap_member(l, 1, last, "proof");
    matrix.lines("proofs swapped", &good, "entries.jsonl", proof);
    matrix.lines("entries swapped", &good, "entries.jsonl", |l| {
        swap_member(l, 1, last, "entry")
    });
    matrix.lines("a hash too many", &good, "entries.jsonl", |l| {
        let hash = l[0]["proof"][0].clone();
        l[last]["proof"].as_array_mut().unwrap().push(hash);
    });
    matrix.lines("a hash too few", &good, "entries.jsonl", |l| {
        drop(l[1]["proof"].as_array_mut().unwrap().pop())
    });
    matrix.lines_naming("", "not matched", &good, "entries.jsonl", |l| {
        let line = l.iter_mut().rfind(|l| l["matched"] == true).unwrap();
        line["matched"] = false.into();
    });
    matrix.lines("another index", &good, "entries.jsonl", |l| {
        l[last]["index"] = json!(1_u64 << 40)
    });
    if entries[0]["matched"] == false {
        matrix.lines_naming("", "matched", &good, "entries.jsonl", |l| {
            l[0]["matched"] = true.into()
        });
    }
    matrix.lines("a hash too many", &good, "multiproofs.jsonl", |l| {
        let hash = json!("00".repeat(32));
        l[0]["hashes"].as_array_mut().unwrap().push(hash);
    });
    matrix.lines("another count", &good, "multiproofs.jsonl", |l| {
        l[0]["count"] = json!(1)
    });

    // Disclosures.
    let disclosures = lines_of(&good, "disclosures.jsonl");
    let open: Vec<usize> = (0..disclosures.len())
        .filter(|n| {
            disclosures[*n]["fields"]
                .as_array()
                .is_some_and(|f| f.len() > 2)
        })
        .collect();
    let (a, b) = (open[0], open[open.len() - 1]);
    assert!(a != b);
    matrix.lines(
        "fields swapped between events",
        &good,
        "disclosures.jsonl",
        |l| swap_member(l, a, b, "fields"),
    );
    for member in ["salt", "position", "proof", "name", "value"] {
        matrix.lines(
            &format!("{member} swapped between fields"),
            &good,
            "disclosures.jsonl",
            |l| {
                swap_member(l[a]["fields"].as_array_mut().unwrap(), 0, 1, member);
            },
        );
    }
    matrix.lines("a value changed", &good, "disclosures.jsonl", |l| {
        let value = &mut l[a]["fields"][0]["value"];
        let mut bytes = STANDARD.decode(value.as_str().unwrap()).unwrap();
        let last = bytes.len() - 2;
        flip(&mut bytes, last);
        *value = STANDARD.encode(bytes).into();
    });
    matrix.lines("a field doubled", &good, "disclosures.jsonl", |l| {
        let fields = l[a]["fields"].as_array_mut().unwrap();
        fields.insert(0, fields[0].clone());
    });
    matrix.lines_naming(
        "",
        "a field withheld without saying so",
        &good,
        "disclosures.jsonl",
        |l| drop(l[a]["fields"].as_array_mut().unwrap().pop()),
    );
    matrix.lines_naming("", "said to be erased", &good, "disclosures.jsonl", |l| {
        l[a]["fields"] = json!([]);
        l[a]["destroyed"] = entries[last]["index"].clone();
    });
    if let Some(erased) = disclosures.iter().position(|l| l["destroyed"].is_u64()) {
        matrix.lines_naming(
            "",
            "erased by something else",
            &good,
            "disclosures.jsonl",
            |l| {
                l[erased]["destroyed"] = json!(l[erased]["destroyed"].as_u64().unwrap() - 1);
            },
        );
        matrix.lines_naming("", "erased by nothing", &good, "disclosures.jsonl", |l| {
            l[erased]["destroyed"] = json!(1_u64 << 40);
        });
        matrix.lines(
            "erased before it was there",
            &good,
            "disclosures.jsonl",
            |l| l[erased]["destroyed"] = json!(0),
        );
        matrix.lines_naming("", "not erased", &good, "disclosures.jsonl", |l| {
            drop(l[erased].as_object_mut().unwrap().remove("destroyed"))
        });
    }
    let payloads: Vec<usize> = (0..good.len())
        .filter(|n| good[*n].0.starts_with("payloads/"))
        .collect();
    assert!(payloads.len() > 1);
    let differs = |n: &&usize| good[**n].1 != good[payloads[0]].1;
    if let Some(another) = payloads.iter().find(differs) {
        matrix.members("payloads swapped", &good, "payloads/", |m| {
            let kept = std::mem::take(&mut m[payloads[0]].1);
            m[payloads[0]].1 = std::mem::replace(&mut m[*another].1, kept);
        });
    }
    matrix.members(
        "a payload changed, its hash and length made to fit",
        &good,
        "",
        |m| {
            let text = b"another prompt that nobody ever sent";
            m[payloads[0]].1 = text.to_vec();
            let mut lines = lines_of(m, "disclosures.jsonl");
            let digest: [u8; 32] = Sha256::digest(text).into();
            for line in &mut lines {
                let fields = line["fields"].as_array_mut().unwrap();
                if let Some(field) = fields.iter_mut().find(|f| f["bytes"].is_u64()) {
                    field["bytes"] = text.len().into();
                    field["sha256"] = audit_core::hex::encode(&digest).into();
                    break;
                }
            }
            set_lines(m, "disclosures.jsonl", &lines);
        },
    );

    // The manifest, and keys.
    let manifest = json_of(&good, "manifest.json");
    for count in manifest["counts"].as_object().unwrap().keys() {
        matrix.members(
            &format!("manifest: {count} one more"),
            &good,
            "manifest.json",
            |m| {
                let mut manifest = json_of(m, "manifest.json");
                let n = manifest["counts"][count].as_u64().unwrap();
                manifest["counts"][count] = json!(n + 1);
                set_json(m, "manifest.json", &manifest);
            },
        );
    }
    for (member, value) in [
        ("size", json!(manifest["size"].as_u64().unwrap() - 1)),
        ("root", json!("00".repeat(32))),
        ("origin", json!("log.example/elsewhere")),
        ("query_text", json!("everything")),
        ("query", json!({})),
        ("query", json!({"events": []})),
        ("query", json!({"session": "session-6"})),
        ("redact", json!(["*"])),
        ("redact", json!(["nothing"])),
        ("redact", json!(["b", "a"])),
        ("only", json!(["system"])),
        ("more", json!(1)),
    ] {
        matrix.members(&format!("manifest: {member} is {value}"), &good, "", |m| {
            let mut manifest = json_of(m, "manifest.json");
            manifest[member] = value.clone();
            set_json(m, "manifest.json", &manifest);
        });
    }
    let twin_keys = json_of(twin, "keys.json");
    for member in ["keys", "opened", "vkey"] {
        matrix.members(
            &format!("keys: {member} of the twin"),
            &good,
            "keys.json",
            |m| {
                let mut keys = json_of(m, "keys.json");
                keys[member] = twin_keys[member].clone();
                set_json(m, "keys.json", &keys);
            },
        );
    }
    let text = "log.example/elsewhere";
    let mut named = good.clone();
    reword(&mut named, manifest["origin"].as_str().unwrap(), text);
    matrix.raw(
        "another origin, texts made to fit".to_owned(),
        pack(&named),
        "",
    );
    matrix.raw("a bundle of another log".to_owned(), pack(foreign), "");
    matrix.raw(
        "a bundle that somebody made with keys of his own".to_owned(),
        pack(twin),
        "",
    );
    let mut later = good.clone();
    later[0].1 = String::from_utf8(later[0].1.clone())
        .unwrap()
        .replace("evidence/1", "evidence/2")
        .into_bytes();
    matrix.raw("another version".to_owned(), pack(&later), "version");
    matrix.raw(
        "no bundle".to_owned(),
        b"hello".repeat(1000),
        "no evidence bundle",
    );
    matrix
}

/// The bundles that are changed.
fn bases() -> Vec<(&'static str, Vec<u8>, Members, Members)> {
    let make_of = |ask: &dyn Fn(&World) -> Ask| {
        let of = |world: &World| made(world, &ask(world));
        (of(small()), unpack(&of(other())), unpack(&of(forger())))
    };
    let since = |world: &World| Ask {
        since: vec![world.log.checkpoints.first_key_value().unwrap().1.clone()],
        ..everything(world)
    };
    let (all, all_foreign, all_twin) = make_of(&since);
    let (one, one_foreign, one_twin) = make_of(&|_| session("session-0"));
    vec![
        ("everything", all, all_foreign, all_twin),
        ("a session", one, one_foreign, one_twin),
    ]
}

#[test]
fn a_changed_bundle_passes_or_its_fault_is_not_named() {
    let policy = policy(small());
    for (base, bytes, foreign, twin) in bases() {
        holds(&bytes, &policy);
        let cases = matrix(&bytes, &foreign, &twin).0;
        assert!(cases.len() > 300, "{} cases", cases.len());
        for case in cases {
            let verdict = judge(&case.bytes, &policy);
            let text = verdict.to_string();
            assert!(verdict.exit_code() != 0, "{base}, {}: {text}", case.name);
            assert!(!verdict.to_json().is_empty());
            assert!(
                text.contains(case.names),
                "{base}, {}, which should name {}: {text}",
                case.name,
                case.names
            );
            // The key from the bundle decides nothing either.
            let without = judge(&case.bytes, &BundlePolicy::default());
            assert!(without.exit_code() != 0, "{base}, {}: {without}", case.name);
        }
    }
}

#[test]
fn keys_of_the_bundles_maker_pass() {
    // Another log of the same name, everything signed by keys of its maker.
    let bytes = made(forger(), &session("session-0"));
    holds(&bytes, &policy(forger()));
    let verdict = judge(&bytes, &BundlePolicy::default());
    assert_eq!(verdict.exit_code(), 2, "{verdict}");
    assert_eq!(verdict.findings_total(), 0, "{verdict}");
    let vkey = Some(small().ring.vkey());
    let verdict = judge(
        &bytes,
        &BundlePolicy {
            vkey,
            ..BundlePolicy::default()
        },
    );
    assert_eq!(verdict.exit_code(), 2, "{verdict}");
    assert!(
        verdict
            .to_string()
            .contains("nothing to do with this bundle"),
        "{verdict}"
    );
    assert_eq!(judge(&bytes, &policy(small())).exit_code(), 1);
    // With the true checkpoint beside: the key is this log's, so the rest contradicts.
    let mut mixed = unpack(&bytes);
    let place = at(&mixed, &format!("checkpoints/{}", forger().log.size));
    mixed[place].1 = small().log.signed(&small().ring, small().log.rows.len());
    refit(&mut mixed);
    let verdict = judge(&pack(&mixed), &policy(small()));
    assert_eq!(verdict.exit_code(), 1, "{verdict}");
}

#[test]
fn the_query_of_a_bundle_is_not_what_it_holds() {
    // Somebody says that it was asked for something else, and makes every text fit.
    let world = small();
    let policy = policy(world);
    let mut changed = unpack(&made(world, &session("session-0")));
    reword(&mut changed, "session-0", "session-9");
    let verdict = judge(&pack(&changed), &policy);
    assert_eq!(verdict.exit_code(), 1, "{verdict}");
    assert!(
        verdict.findings().iter().all(|f| f.check == Check::Query),
        "{verdict}"
    );
    let mut ask = everything(world);
    let mut changed = unpack(&made(world, &ask));
    let last = world.log.rows.last().unwrap().columns.time;
    reword(
        &mut changed,
        &ask.query.from.unwrap().to_string(),
        &last.to_string(),
    );
    let verdict = judge(&pack(&changed), &policy);
    assert!(
        matches!(
            verdict.check(Check::Query).result,
            CheckResult::Failed {
                first_index: Some(0),
                ..
            }
        ),
        "{verdict}"
    );
    // A session that is not disclosed is not checked, and that is said.
    ask = Ask {
        only: vec!["refs/*"],
        ..session("session-0")
    };
    let mut changed = unpack(&made(world, &ask));
    reword(&mut changed, "session-0", "session-9");
    let verdict = holds(&pack(&changed), &policy);
    assert_eq!(verdict.check(Check::Query).result, CheckResult::NotChecked);
}

/// Bundles of logs that whoever holds the publisher key signed, though they break the rules, with the check that says so
/// and the index.
fn forged() -> Vec<(&'static str, Vec<u8>, Check, u64)> {
    let world = small();
    let log = &world.log;
    let destroyed = log.find(kinds::KEY_DESTROYED);
    let closed = log.find(kinds::WRITER_CLOSED);
    let reopened = log.find(kinds::WRITER_OPENED);
    let first_run = log.entry(0).run;
    let cases: Vec<(&'static str, Check, usize, Box<dyn Fn(&mut Entry)>)> = vec![
        (
            "an erasure that nobody signed",
            Check::Signatures,
            destroyed,
            Box::new(|e| {
                e.log.as_mut().unwrap().signature.as_mut().unwrap().0[0] ^= 1;
            }),
        ),
        (
            "an erasure that another log's writer signed",
            Check::Signatures,
            destroyed,
            Box::new(|e| sign(e, &other().ring)),
        ),
        (
            "an opening with a changed time",
            Check::Signatures,
            reopened,
            Box::new(|e| e.time = e.time.plus_micros(1)),
        ),
        (
            "recorded before the one before",
            Check::Recorded,
            2,
            Box::new(|e| e.recorded = e.recorded.plus_micros(-3_600_000_000)),
        ),
        (
            "a place in the run that is taken",
            Check::Runs,
            2,
            Box::new(|e| e.seq = 1),
        ),
        (
            "an epoch that falls",
            Check::Runs,
            closed,
            Box::new(|e| e.epoch = 0),
        ),
        (
            "a run that nobody opened",
            Check::Runs,
            2,
            Box::new(|e| e.run = e.event),
        ),
        (
            "a run that goes on",
            Check::Runs,
            reopened + 1,
            Box::new(move |e| (e.run, e.seq, e.epoch) = (first_run, 1000, 1000)),
        ),
        (
            "a head of another size",
            Check::Heads,
            closed,
            Box::new(|e| e.log.as_mut().unwrap().head.as_mut().unwrap().size += 1),
        ),
        (
            "another origin",
            Check::Identity,
            0,
            Box::new(|e| e.log.as_mut().unwrap().origin = Some("log.example/elsewhere".to_owned())),
        ),
    ];
    cases
        .into_iter()
        .map(|(name, check, at, change)| {
            let mut log = world.log.clone();
            log.edit(at, change);
            log.republish(&world.ring);
            let bytes = try_make_of(&log, &world.ring, &everything(world))
                .unwrap()
                .1;
            (name, bytes, check, at as u64)
        })
        .collect()
}

#[test]
fn what_the_publisher_alone_signed_passes() {
    let vkey = Some(small().ring.vkey());
    for auditor in [None, Some(small().auditor.clone())] {
        let has_auditor = auditor.is_some();
        let policy = BundlePolicy {
            vkey: vkey.clone(),
            auditor,
            ..BundlePolicy::default()
        };
        for (name, bytes, check, at) in forged() {
            let verdict = judge(&bytes, &policy);
            assert_eq!(verdict.exit_code(), 1, "{name}: {verdict}");
            let CheckResult::Failed { first_index, .. } = verdict.check(check).result else {
                panic!("{name}: {check} found nothing: {verdict}");
            };
            assert_eq!(first_index, Some(at), "{name}: {verdict}");
            let mac = matches!(verdict.check(Check::Mac).result, CheckResult::Failed { .. });
            let silent = [
                "a run that nobody opened",
                "a run that goes on",
                "a place in the run that is taken",
            ];
            assert!(
                mac == has_auditor || silent.contains(&name),
                "{name}: {verdict}"
            );
        }
    }
}

// ---- the second verifier

/// Runs the Python verifier over files; the exit code of each.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn python(dir: &Path, files: &[String], args: &[&str]) -> Option<BTreeMap<String, u8>> {
    let Some(python) = std::env::var_os("AUDIT_TEST_PYTHON") else {
        assert!(
            std::env::var_os("AUDIT_FIXTURES").is_none(),
            "AUDIT_TEST_PYTHON is not set: a Python that has the package cryptography"
        );
        println!("skipped: AUDIT_TEST_PYTHON is not set");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../verifiers/python/verify_bundle.py");
    let out = Command::new(python)
        .arg(script)
        .args(files)
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(errors.is_empty(), "{errors}");
    let codes: BTreeMap<String, u8> = said
        .lines()
        .map(|line| {
            let mut parts = line.split('\t');
            let code = parts.next().unwrap().parse().unwrap();
            (parts.next().unwrap().to_owned(), code)
        })
        .collect();
    assert_eq!(codes.len(), files.len(), "{said}");
    let worst = |code: u8| codes.values().any(|c| *c == code);
    let expected = if worst(1) { 1 } else { i32::from(worst(2)) * 2 };
    assert_eq!(out.status.code(), Some(expected));
    Some(codes)
}

#[test]
fn the_two_verifiers_disagree() {
    let dir = tempfile::tempdir().unwrap();
    let small_policy = policy(small());
    let mut groups: Vec<(BundlePolicy, Vec<(String, Vec<u8>)>)> = Vec::new();
    for (name, bytes, policy) in good() {
        groups.push((policy, vec![(name.clone(), bytes.clone())]));
        let vkey = Some(other().ring.vkey());
        let foreign = BundlePolicy {
            vkey,
            ..BundlePolicy::default()
        };
        groups.push((foreign, vec![(name, bytes)]));
    }
    let resigned = forged()
        .into_iter()
        .map(|(name, bytes, ..)| (name.to_owned(), bytes));
    let vkey = small_policy.vkey.clone();
    groups.push((
        BundlePolicy {
            vkey,
            ..BundlePolicy::default()
        },
        resigned.collect(),
    ));
    for (base, bytes, foreign, twin) in bases() {
        let mut cases: Vec<(String, Vec<u8>)> = matrix(&bytes, &foreign, &twin)
            .0
            .into_iter()
            .map(|case| (format!("{base}, {}", case.name), case.bytes))
            .collect();
        cases.push((base.to_owned(), bytes));
        // Every fourth is enough to see that both refuse a key from the bundle.
        let some = cases.iter().step_by(4).cloned().collect();
        groups.push((BundlePolicy::default(), some));
        groups.push((small_policy.clone(), cases));
    }
    let mut total = [0; 3];
    for (number, (policy, cases)) in groups.into_iter().enumerate() {
        let mut files = Vec::new();
        let mut ours = BTreeMap::new();
        for (n, (name, bytes)) in cases.iter().enumerate() {
            let file = format!("{number}-{n}");
            std::fs::write(dir.path().join(&file), bytes).unwrap();
            ours.insert(file.clone(), (name, judge(bytes, &policy)));
            files.push(file);
        }
        let vkey = policy.vkey.as_ref().map(ToString::to_string);
        let opened = policy.opened.map(|hash| hash.to_string());
        let mut args = Vec::new();
        if let Some(vkey) = &vkey {
            args.extend(["--vkey", vkey]);
        }
        if let Some(opened) = &opened {
            args.extend(["--opened", opened]);
        }
        let Some(theirs) = python(dir.path(), &files, &args) else {
            return;
        };
        for (file, (name, verdict)) in ours {
            assert_eq!(
                theirs[&file],
                verdict.exit_code(),
                "{name}, by Python and by us: {verdict}"
            );
            total[usize::from(verdict.exit_code())] += 1;
            std::fs::remove_file(dir.path().join(file)).unwrap();
        }
    }
    assert!(
        total[0] >= 16 && total[1] > 800 && total[2] > 40,
        "{total:?}"
    );
    println!(
        "both verifiers: {} hold, {} contradicted, {} undecided",
        total[0], total[1], total[2]
    );

    // Kept checkpoints.
    let world = world();
    let sizes: Vec<u64> = world.log.checkpoints.keys().copied().collect();
    let since = vec![world.log.checkpoints[&sizes[0]].clone()];
    std::fs::write(
        dir.path().join("bundle"),
        made(
            world,
            &Ask {
                since: since.clone(),
                ..session("session-3")
            },
        ),
    )
    .unwrap();
    std::fs::write(dir.path().join("plain"), made(world, &session("session-3"))).unwrap();
    std::fs::write(dir.path().join("kept"), &since[0]).unwrap();
    let mut log = world.log.clone();
    log.edit(0, |e| e.mac.0[0] ^= 1);
    std::fs::write(
        dir.path().join("other"),
        log.signed(&world.ring, sizes[0] as usize),
    )
    .unwrap();
    let vkey = world.ring.vkey().to_string();
    for (file, kept, code) in [
        ("bundle", "kept", 0),
        ("plain", "kept", 2),
        ("bundle", "other", 1),
    ] {
        let codes = python(
            dir.path(),
            &[file.to_owned()],
            &["--vkey", &vkey, "--checkpoint", kept],
        )
        .unwrap();
        assert_eq!(codes[file], code, "{file} with {kept}");
    }
}

#[test]
fn the_exit_code_is_not_the_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let world = small();
    let bytes = made(world, &session("session-0"));
    std::fs::write(dir.path().join("good"), &bytes).unwrap();
    std::fs::write(dir.path().join("cut"), &bytes[..bytes.len() - 1]).unwrap();
    let (vkey, opened) = (
        world.ring.vkey().to_string(),
        world.log.opened().to_string(),
    );
    for (args, code, word) in [
        (
            &["good", "--vkey", &vkey, "--opened", &opened][..],
            0,
            "HELD",
        ),
        (&["good"], 2, "keys taken from the bundle"),
        (&["cut", "--vkey", &vkey], 1, "CONTRADICTED"),
        (&["good", "--vkey", &vkey, "--json"], 0, "\"exit\":0"),
        (&["nothing", "--vkey", &vkey], 2, ""),
        (&["--vkey", &vkey], 2, ""),
        (&["good", "--full"], 2, ""),
    ] {
        let out = Command::new(env!("CARGO_BIN_EXE_audit-verify"))
            .arg("bundle")
            .args(args)
            .current_dir(dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(word), "{args:?}: {text}");
    }
}

#[test]
fn other_tools_do_not_open_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("b.tar"),
        made(small(), &session("session-0")),
    )
    .unwrap();
    let Ok(out) = Command::new("tar")
        .args(["-xvf", "b.tar"])
        .current_dir(dir.path())
        .output()
    else {
        println!("skipped: there is no tar");
        return;
    };
    assert!(
        out.status.success() && out.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let lines = std::fs::read_to_string(dir.path().join("entries.jsonl")).unwrap();
    let line: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(
        leaf_hash(line["entry"].as_str().unwrap().as_bytes()),
        small().log.opened()
    );
    let at = found(&small().log, &small().ring, &session("session-0").query)[0];
    let prompt = std::fs::read(dir.path().join(format!("payloads/{at}-request"))).unwrap();
    assert_eq!(prompt, b"a prompt, the 0th of them");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_randomly_changed_bundle_passes_or_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_usize..4, 1_usize..300), 1..4),
        fit in any::<bool>(),
    ) {
        static BASE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let base = BASE.get_or_init(|| made(small(), &everything(small())));
        let mut bytes = base.clone();
        let mut members = unpack(base);
        for (place, byte, how, n) in changes {
            let target = if fit {
                let which = 1 + place.index(members.len() - 1);
                &mut members[which].1
            } else {
                &mut bytes
            };
            if target.is_empty() {
                continue;
            }
            let at = byte.index(target.len());
            let end = (at + n).min(target.len());
            match how {
                0 => target[at] ^= 1 << (n % 8),
                1 => target.insert(at, n as u8),
                2 => drop(target.drain(at..end)),
                _ => {
                    let piece = target[at..end].to_vec();
                    target.splice(at..at, piece);
                }
            }
        }
        if fit {
            refit(&mut members);
            bytes = pack(&members);
        }
        prop_assume!(bytes != *base);
        let auditor = Some(small().auditor.clone());
        let verdict = judge(&bytes, &BundlePolicy { auditor, ..policy(small()) });
        prop_assert!(verdict.exit_code() != 0, "{}", verdict);
        prop_assert!(!verdict.to_json().is_empty() && !verdict.to_string().is_empty());
    }
}
