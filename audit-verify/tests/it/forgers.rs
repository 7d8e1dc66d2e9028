//! Attackers with keys: whoever holds the publisher key can sign any tree, but not what others' keys protect.

use std::collections::HashMap;
use std::time::Duration;

use audit_core::chain::MacChain;
use audit_core::entry::{Entry, LogFacts, LogKeys, PublicKey, Role, TreeHead, kinds};
use audit_core::hex::Hex;
use audit_core::keyring::KeyRing;
use audit_core::secret::SecretKey;
use audit_core::time::{Clock as _, System, Timestamp};
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::EdgeTiles;
use audit_verify::{Check, CheckResult, Policy, Verdict, verify_holding};
use uuid::Uuid;

use crate::world::{HandRun, Mem, bare, facts, other, sign, sign_as_it_is, store, verify, world};

fn published(change: impl FnOnce(&mut Mem)) -> Verdict {
    let world = world();
    let mut log = world.log.clone();
    change(&mut log);
    log.republish(&world.ring);
    verify(&log, &world.public(), &mut ())
}

fn failed_at(verdict: &Verdict, check: Check) -> Option<u64> {
    match verdict.check(check).result {
        CheckResult::Failed { first_index, .. } => first_index,
        other => panic!("{check} is {other:?}: {verdict}"),
    }
}

#[test]
fn with_the_publisher_key_a_changed_entry_breaks_its_mac() {
    let world = world();
    let auditor = || Policy {
        auditor: Some(world.auditor.clone()),
        ..world.public()
    };
    // Everything before an opening is under the writer's signature.
    let mut log = world.log.clone();
    log.edit(40, |e| e.time = Timestamp::EPOCH);
    log.refit_heads(40);
    log.republish(&world.ring);
    let last_opening = (0..log.rows.len())
        .rfind(|i| log.entry(*i).kind.as_str() == kinds::WRITER_OPENED)
        .unwrap();
    let verdict = verify(&log, &world.public(), &mut ());
    assert_eq!(
        failed_at(&verdict, Check::Heads),
        Some(last_opening as u64),
        "{verdict}"
    );
    assert_eq!(
        failed_at(&verify(&log, &auditor(), &mut ()), Check::Mac),
        Some(40)
    );
    // What the front page says is not detected:
    let last = world.log.rows.len() - 1;
    let mut log = world.log.clone();
    log.edit(last, |e| e.time = Timestamp::EPOCH);
    log.republish(&world.ring);
    let verdict = verify(&log, &world.public(), &mut ());
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    // What is:
    assert_eq!(
        failed_at(&verify(&log, &auditor(), &mut ()), Check::Mac),
        Some(last as u64)
    );
    let remembers = Policy {
        remembered: vec![world.log.last_checkpoint()],
        ..world.public()
    };
    let verdict = verify(&log, &remembers, &mut ());
    assert_eq!(verdict.exit_code(), 1);
    assert!(
        matches!(
            verdict.check(Check::Remembered).result,
            CheckResult::Failed { .. }
        ),
        "{verdict}"
    );
}

#[test]
fn with_the_publisher_key_dropped_and_added_entries_break_the_run() {
    let at = 40;
    assert_eq!(
        failed_at(&published(|l| drop(l.rows.remove(at))), Check::Runs),
        Some(40)
    );
    assert_eq!(
        failed_at(&published(|l| l.rows.swap(at, at + 1)), Check::Runs),
        Some(40)
    );
    assert_eq!(
        failed_at(
            &published(|l| l.rows.insert(at + 3, l.rows[at].clone())),
            Check::Runs
        ),
        Some(43)
    );
    // An entry of a run that never was.
    let verdict = published(|l| {
        let mut entry = bare("llm.request", System.now());
        entry.run = Uuid::from_u128(7);
        store(l, &entry);
    });
    assert_eq!(failed_at(&verdict, Check::Runs), Some(world().log.size));
}

#[test]
fn a_run_that_nobody_could_open_is_found() {
    let world = world();
    let closing = world.log.rows.len();
    let mut log = world.log.clone();
    let previous = log.entry(closing - 1).run;
    // The sealed key is noise: the auditor can't check the run, and no other auditor is registered.
    let mut run = HandRun::open(&mut log, &world.ring, Some(previous));
    run.heartbeat(&mut log);
    log.edit(closing, |e| {
        e.log.as_mut().unwrap().opening.as_mut().unwrap().sealed = Hex([7; 80]);
        sign(e, &world.ring);
    });
    log.republish(&world.ring);
    let policy = Policy {
        auditor: Some(world.auditor.clone()),
        ..world.public()
    };
    assert_eq!(
        failed_at(&verify(&log, &policy, &mut ()), Check::Mac),
        Some(closing as u64)
    );
}

#[test]
fn openings_are_held_to_the_format() {
    let log = &world().log;
    let second = log.find(kinds::WRITER_OPENED);
    let opening = |change: fn(&mut Entry)| {
        published(move |l| {
            l.edit(second, |e| {
                change(e);
                sign(e, &world().ring);
            });
        })
    };
    assert_eq!(
        opening(|_| {}).exit_code(),
        0,
        "signing again changes nothing"
    );
    let verdict = opening(|e| e.log.as_mut().unwrap().opening.as_mut().unwrap().previous = None);
    assert_eq!(failed_at(&verdict, Check::Runs), Some(second as u64));
    let verdict = opening(|e| {
        e.log.as_mut().unwrap().opening.as_mut().unwrap().previous = Some(Uuid::from_u128(1))
    });
    assert_eq!(failed_at(&verdict, Check::Runs), Some(second as u64));
    // Signed by a key that nobody registered.
    let verdict = published(|l| {
        l.edit(second, |e| {
            sign(e, &other().ring);
        });
    });
    assert_eq!(failed_at(&verdict, Check::Signatures), Some(second as u64));
    // Not signed by whom it says.
    let verdict = published(|l| l.edit(second, |e| sign_as_it_is(e, &other().ring)));
    assert_eq!(failed_at(&verdict, Check::Signatures), Some(second as u64));
    // A log that opens as another log, or with another publisher.
    let verdict = published(|l| {
        l.edit(0, |e| {
            e.log.as_mut().unwrap().origin = Some("log.example/else".into());
            sign(e, &world().ring);
        });
    });
    assert_eq!(failed_at(&verdict, Check::Identity), Some(0));
    let verdict = published(|l| {
        l.edit(0, |e| {
            let Some(LogKeys::Public(keys)) = &mut e.log.as_mut().unwrap().keys else {
                panic!()
            };
            for key in keys.iter_mut().filter(|k| k.role == Role::Publisher) {
                key.public = Hex(other().ring.publisher().public_key());
            }
            sign(e, &world().ring);
        });
    });
    assert_eq!(failed_at(&verdict, Check::Identity), Some(0));
}

#[test]
fn epochs_and_counts_are_held_to_the_format() {
    let log = &world().log;
    let epoch = log.find(kinds::EPOCH_CLOSED);
    let closed = log.find(kinds::WRITER_CLOSED);
    let runs = |index: usize, change: fn(&mut Entry)| {
        let verdict = published(move |l| l.edit(index, change));
        assert_eq!(
            failed_at(&verdict, Check::Runs),
            Some(index as u64),
            "{verdict}"
        );
    };
    runs(epoch, |e| e.log.as_mut().unwrap().entries = Some(99));
    runs(closed, |e| e.log.as_mut().unwrap().entries = Some(99));
    runs(epoch - 1, |e| e.epoch += 1);
    runs(epoch + 1, |e| e.epoch -= 1);
    runs(closed, |e| e.epoch += 1);
    runs(epoch, |e| e.seq += 1);
    // A run that closes and goes on.
    let last = log.rows.len() - 1;
    let verdict = published(|l| {
        let mut entry = bare("llm.request", System.now());
        let before = l.entry(last);
        (entry.run, entry.seq, entry.epoch) = (before.run, before.seq + 1, before.epoch);
        store(l, &entry);
    });
    assert_eq!(failed_at(&verdict, Check::Runs), Some(last as u64 + 1));
    // Time runs backwards.
    let verdict = published(|l| l.edit(60, |e| e.recorded = Timestamp::EPOCH));
    assert_eq!(failed_at(&verdict, Check::Recorded), Some(60));
    // The writer saw more than there was.
    let world = world();
    let mut log = world.log.clone();
    let previous = log.entry(last).run;
    let mut run = HandRun::open(&mut log, &world.ring, Some(previous));
    let at = run.append(
        &mut log,
        kinds::HEARTBEAT,
        facts(|f| {
            f.head = Some(TreeHead {
                root: Hex([0; 32]),
                size: 1 << 40,
            })
        }),
    );
    log.republish(&world.ring);
    assert_eq!(
        failed_at(&verify(&log, &world.public(), &mut ()), Check::Heads),
        Some(at as u64)
    );
}

#[test]
fn data_keys_are_held_to_the_format() {
    let world = world();
    let log = &world.log;
    let destroyed = log.find(kinds::KEY_DESTROYED);
    let rewrapped = log.find(kinds::KEY_REWRAPPED);
    // Without the entry that says so, what was erased is missing.
    let verdict = published(|l| {
        l.edit(destroyed, |e| {
            e.log.as_mut().unwrap().keys = Some(LogKeys::Ids(vec![Uuid::from_u128(1)]));
            sign(e, &world.ring);
        });
    });
    assert_eq!(
        failed_at(&verdict, Check::Parts),
        Some(world.erased as u64),
        "{verdict}"
    );
    assert_eq!(
        failed_at(&verdict, Check::Tokens),
        Some(world.erased as u64)
    );
    assert!(failed_at(&verdict, Check::Keys).is_some());
    let verdict = published(|l| {
        l.edit(rewrapped, |e| {
            let Some(LogKeys::Records(records)) = &mut e.log.as_mut().unwrap().keys else {
                panic!()
            };
            records[0].digest = Hex([1; 32]);
            sign(e, &world.ring);
        });
    });
    assert!(failed_at(&verdict, Check::Keys).is_some());
    // An entry under a key that is introduced by none, or by another run.
    let at = (0..log.rows.len())
        .find(|i| log.entry(*i).content.is_some() && log.entry(*i).keys.is_none())
        .unwrap();
    let verdict = published(|l| l.edit(at, |e| e.key = Some(Uuid::from_u128(1))));
    assert_eq!(failed_at(&verdict, Check::Keys), Some(at as u64));
    let first = log.find(kinds::WRITER_OPENED);
    let late = (first..log.rows.len())
        .find(|i| log.entry(*i).content.is_some() && log.entry(*i).keys.is_none())
        .unwrap();
    let early = (0..first).find_map(|i| log.entry(i).keys).unwrap()[0].id;
    let verdict = published(|l| l.edit(late, |e| e.key = Some(early)));
    assert_eq!(failed_at(&verdict, Check::Keys), Some(late as u64));
}

#[test]
fn content_that_is_not_what_was_committed_to_is_found_with_the_operators_keys() {
    let world = world();
    let at = (0..world.log.rows.len())
        .find(|i| world.log.entry(*i).content.is_some() && *i != world.erased)
        .unwrap();
    let judge = |change: fn(&mut Entry)| {
        let mut log = world.log.clone();
        log.edit(at, change);
        log.republish(&world.ring);
        let policy = Policy {
            operator: Some(&world.ring),
            ..world.public()
        };
        failed_at(&verify(&log, &policy, &mut ()), Check::Content)
    };
    assert_eq!(
        judge(|e| e.content.as_mut().unwrap().root = Hex([1; 32])),
        Some(at as u64)
    );
    assert_eq!(
        judge(|e| e.content.as_mut().unwrap().length += 1),
        Some(at as u64)
    );
    assert_eq!(judge(|e| e.event = Uuid::from_u128(5)), Some(at as u64));
    // The tokens of something else, in the row, the entry and the index.
    let mut log = world.log.clone();
    let mut set = log.rows[at].tokens.clone().unwrap();
    set.tokens[0] = Hex([0; 16]);
    let digest = set.digest();
    log.rows[at].tokens = Some(set);
    log.edit(at, |e| e.tokens = Some(digest));
    log.republish(&world.ring);
    let policy = Policy {
        operator: Some(&world.ring),
        ..world.public()
    };
    assert_eq!(
        failed_at(&verify(&log, &policy, &mut ()), Check::Content),
        Some(at as u64)
    );
}

#[test]
fn a_log_made_anew_under_other_keys_is_never_a_pass() {
    let (world, other) = (world(), other());
    // Everything of the other log, under our origin in the claims.
    let mut log = other.log.clone();
    log.origin = Some(world.ring.origin().to_owned());
    let verdict = verify(&log, &world.public(), &mut ());
    assert_eq!(verdict.exit_code(), 2, "{verdict}");
    let remembers = Policy {
        remembered: vec![world.log.last_checkpoint()],
        ..world.public()
    };
    assert_eq!(verify(&log, &remembers, &mut ()).exit_code(), 1);
}

#[test]
fn an_erasure_that_nobody_signed_excuses_nothing() {
    let world = world();
    let mut log = world.log.clone();
    // A run goes on; its last entries are published, and then somebody who can write to the store appends to it.
    let previous = log.entry(log.rows.len() - 1).run;
    let mut run = HandRun::open(&mut log, &world.ring, Some(previous));
    run.heartbeat(&mut log);
    log.republish(&world.ring);
    let checkpoints = log.checkpoints.clone();
    let (id, scope) = log.keys.values().map(|k| (k.id, k.scope)).next().unwrap();
    let before = log.entry(log.rows.len() - 1);
    let mut forged = bare(kinds::KEY_DESTROYED, System.now());
    forged.log = Some(facts(|f| f.keys = Some(LogKeys::Ids(vec![id]))));
    (forged.run, forged.seq) = (before.run, before.seq + 1);
    sign(&mut forged, &other().ring);
    let at = store(&mut log, &forged);
    let erase = |log: &mut Mem| {
        for index in 0..log.rows.len() {
            if log.entry(index).key == Some(id) {
                log.rows[index].parts = None;
                log.rows[index].tokens = None;
            }
        }
        log.keys.remove(&id);
        log.rebuild();
        log.checkpoints = checkpoints.clone();
    };
    erase(&mut log);
    let auditor = || Policy {
        auditor: Some(world.auditor.clone()),
        ..world.public()
    };
    let verdict = verify(&log, &world.public(), &mut ());
    assert_eq!(
        failed_at(&verdict, Check::Signatures),
        Some(at as u64),
        "{scope}: {verdict}"
    );
    assert!(failed_at(&verdict, Check::Parts).is_some(), "{verdict}");
    assert_eq!(
        failed_at(&verify(&log, &auditor(), &mut ()), Check::Mac),
        Some(at as u64)
    );

    // The same by the writer itself: the auditor sees that it is right, the public not before it is published.
    log.rows.pop();
    run.signed(
        &mut log,
        &world.ring,
        kinds::KEY_DESTROYED,
        facts(|f| f.keys = Some(LogKeys::Ids(vec![id]))),
    );
    erase(&mut log);
    assert_eq!(verify(&log, &world.public(), &mut ()).exit_code(), 2);
    let verdict = verify(&log, &auditor(), &mut ());
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    log.republish(&world.ring);
    assert_eq!(verify(&log, &world.public(), &mut ()).exit_code(), 0);
}

/// Appends an entry of a kind that is signed to a new, honest run, signed by `signer`, and publishes.
fn with_key_entry(log: &mut Mem, kind: &str, facts: LogFacts, signer: &KeyRing) -> u64 {
    let world = world();
    let previous = log.entry(log.rows.len() - 1).run;
    let mut run = HandRun::open(log, &world.ring, Some(previous));
    let at = run.signed(log, signer, kind, facts);
    log.republish(&world.ring);
    at as u64
}

fn erase(log: &mut Mem, id: Uuid) {
    for index in 0..log.rows.len() {
        if log.entry(index).key == Some(id) {
            log.rows[index].parts = None;
            log.rows[index].tokens = None;
        }
    }
    log.keys.remove(&id);
}

#[test]
fn an_erasure_that_is_not_complete_is_undecided_however_few_keys_are_kept_at_once() {
    let world = world();
    let mut log = world.log.clone();
    let ids: Vec<Uuid> = log.keys.keys().copied().take(12).collect();
    let sealed = |log: &Mem, id| -> Vec<usize> {
        let of = |i: &usize| log.rows[*i].tokens.is_some() && log.entry(*i).key == Some(id);
        (0..log.rows.len()).filter(of).collect()
    };
    // One has lost its record and what its first entry has, one everything, the others nothing.
    let half = ids.iter().find(|id| sealed(&log, **id).len() > 1).unwrap();
    let whole = ids.iter().find(|id| *id != half).unwrap();
    erase(&mut log, *whole);
    log.keys.remove(half);
    let of_half = sealed(&log, *half)[0];
    (log.rows[of_half].tokens, log.rows[of_half].parts) = (None, None);
    let destroyed = facts(|f| f.keys = Some(LogKeys::Ids(ids.clone())));
    with_key_entry(&mut log, kinds::KEY_DESTROYED, destroyed, &world.ring);

    let kept: Vec<&Uuid> = ids.iter().filter(|id| log.keys.contains_key(id)).collect();
    let there: Vec<usize> = ids
        .iter()
        .filter_map(|id| sealed(&log, *id).first().copied())
        .collect();
    assert!(
        kept.len() == ids.len() - 2 && there.len() == ids.len() - 1,
        "{kept:?} {there:?}"
    );
    let should = [
        format!(
            "{} data keys are destroyed, but their records are there (the first: {}): the erasure is not complete, or was \
             undone; erase again",
            kept.len(),
            kept[0]
        ),
        format!(
            "{} data keys are destroyed, but tokens or stored parts that were erased with them are there (the first: of the \
             entry at index {}): the erasure is not complete, or was undone; erase again",
            there.len(),
            there.iter().min().unwrap()
        ),
    ];
    // A log in which a key has lost its record and what its first entry has.
    let alone = facts(|f| f.keys = Some(LogKeys::Ids(vec![*half])));
    let mut other = world.log.clone();
    let [first, second] = sealed(&other, *half)[..2] else {
        unreachable!()
    };
    (other.rows[first].tokens, other.rows[first].parts) = (None, None);
    other.keys.remove(half);
    with_key_entry(&mut other, kinds::KEY_DESTROYED, alone, &world.ring);
    let one = [format!(
        "1 data keys are destroyed, but tokens or stored parts that were erased with them are there (the first: of the entry \
         at index {second}): the erasure is not complete, or was undone; erase again"
    )];
    for (log, should) in [(&log, &should[..]), (&other, &one[..])] {
        for keys_max in [4, 1_000_000] {
            let verdict = verify_holding(log, &world.public(), keys_max, &mut ());
            assert_eq!(verdict.exit_code(), 2, "{keys_max}: {verdict}");
            assert_eq!(verdict.undecided(), should, "{keys_max}");
        }
    }
}

#[test]
fn what_no_writer_signed_destroys_rewraps_and_registers_nothing() {
    let world = world();
    let forger = &other().ring;
    let id = *world.log.keys.keys().next().unwrap();
    let destroyed = || facts(|f| f.keys = Some(LogKeys::Ids(vec![id])));

    let mut log = world.log.clone();
    erase(&mut log, id);
    let at = with_key_entry(&mut log, kinds::KEY_DESTROYED, destroyed(), forger);
    let verdict = verify(&log, &world.public(), &mut ());
    assert_eq!(
        failed_at(&verdict, Check::Signatures),
        Some(at),
        "{verdict}"
    );
    for check in [Check::Parts, Check::Tokens, Check::Keys] {
        assert!(failed_at(&verdict, check).is_some(), "{verdict}");
    }
    // Signed by the writer it is an erasure.
    let mut log = world.log.clone();
    erase(&mut log, id);
    with_key_entry(&mut log, kinds::KEY_DESTROYED, destroyed(), &world.ring);
    let verdict = verify(&log, &world.public(), &mut ());
    assert_eq!(verdict.exit_code(), 0, "{verdict}");

    // A record under the forger's own key-encryption key.
    let rewrapped = |log: &mut Mem, signer| {
        let record = log.keys.get_mut(&id).unwrap();
        record.wrapped[3] ^= 1;
        record.generation = 3;
        let digest = record.digest();
        let facts = facts(|f| {
            f.generation = Some(3);
            f.keys = Some(LogKeys::Records(vec![digest]));
        });
        with_key_entry(log, kinds::KEY_REWRAPPED, facts, signer)
    };
    let mut log = world.log.clone();
    let at = rewrapped(&mut log, forger);
    let verdict = verify(&log, &world.public(), &mut ());
    assert_eq!(failed_at(&verdict, Check::Signatures), Some(at));
    assert!(failed_at(&verdict, Check::Keys).is_some(), "{verdict}");
    let mut log = world.log.clone();
    rewrapped(&mut log, &world.ring);
    assert_eq!(verify(&log, &world.public(), &mut ()).exit_code(), 0);

    // A writer key that the forger registers himself, and what he signs with it.
    let registered = || {
        facts(|f| {
            f.keys = Some(LogKeys::Public(vec![PublicKey {
                public: Hex(forger.writer().public_key()),
                role: Role::Writer,
            }]))
        })
    };
    let judge = |signer: &KeyRing| {
        let mut log = world.log.clone();
        let at = with_key_entry(&mut log, kinds::KEY_REGISTERED, registered(), signer);
        let previous = log.entry(0).run;
        HandRun::open(&mut log, forger, Some(previous));
        log.republish(&world.ring);
        (at, verify(&log, &world.public(), &mut ()))
    };
    let (at, verdict) = judge(forger);
    assert_eq!(
        verdict.check(Check::Signatures).result,
        CheckResult::Failed {
            first_index: Some(at),
            findings: 2
        },
        "{verdict}"
    );
    assert_eq!(judge(&world.ring).1.exit_code(), 0);
    // A signature that is none.
    let mut log = world.log.clone();
    let at = log.find(kinds::KEY_DESTROYED);
    log.edit(at, |e| {
        e.log.as_mut().unwrap().signature = Some(Hex([7; 64]))
    });
    log.republish(&world.ring);
    let verdict = verify(&log, &world.public(), &mut ());
    assert_eq!(failed_at(&verdict, Check::Signatures), Some(at as u64));
    assert_eq!(
        failed_at(&verdict, Check::Parts),
        Some(world.erased as u64),
        "{verdict}"
    );
}

/// Everything that the publisher key and a writer key of one's own can make anew.
fn make_anew(log: &mut Mem, ring: &KeyRing, forger: &KeyRing) {
    let mut edge = EdgeTiles::new();
    let mut chains: HashMap<Uuid, MacChain> = HashMap::new();
    for index in 0..log.rows.len() {
        log.edit(index, |entry| {
            let run = entry.run;
            if let Some(facts) = &mut entry.log {
                if let Some(opening) = &mut facts.opening {
                    let k0 = SecretKey::random(&System);
                    opening.sealed = ring
                        .auditor()
                        .seal_run_key(ring.origin(), run, &k0, &System)
                        .unwrap();
                    chains.insert(run, MacChain::start(run, k0));
                }
                if let Some(LogKeys::Public(keys)) = &mut facts.keys {
                    for key in keys.iter_mut().filter(|k| k.role == Role::Writer) {
                        key.public = Hex(forger.writer().public_key());
                    }
                    keys.sort_by_key(|k| (k.role, k.public));
                }
                if let Some(head) = &mut facts.head {
                    (head.root, head.size) = (edge.root().into(), index as u64);
                }
                if facts.signer.is_some() {
                    sign(entry, forger);
                }
            }
            let chain = chains.get_mut(&run).unwrap();
            chain.append(entry);
            if entry.kind.as_str() == kinds::EPOCH_CLOSED {
                chain.evolve();
            }
        });
        edge.push(leaf_hash(&log.rows[index].entry));
    }
    log.republish(ring);
}

#[test]
fn writer_keys_are_those_of_the_first_entry_that_is_known_from_elsewhere() {
    let world = world();
    let mut log = world.log.clone();
    log.edit(40, |e| e.time = Timestamp::EPOCH);
    make_anew(&mut log, &world.ring, &other().ring);
    let judge = |opened| {
        let policy = Policy {
            opened,
            auditor: Some(world.auditor.clone()),
            ..world.public()
        };
        verify(&log, &policy, &mut ())
    };
    let verdict = judge(None);
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    let report = verdict.check(Check::Signatures);
    assert_eq!(report.result, CheckResult::NotChecked);
    assert_eq!(
        report.not_checked,
        [
            "the writer keys are the ones that the evidence itself registers: no leaf hash of the first entry was given"
        ]
    );
    let verdict = judge(Some(world.log.opened()));
    assert_eq!(failed_at(&verdict, Check::Identity), Some(0), "{verdict}");

    // With the first entry as it was, nothing that he signs counts.
    let mut log = log.clone();
    log.rows[0] = world.log.rows[0].clone();
    log.republish(&world.ring);
    let policy = Policy {
        opened: Some(world.log.opened()),
        ..world.public()
    };
    let verdict = verify(&log, &policy, &mut ());
    let second = log.find(kinds::WRITER_OPENED) as u64;
    assert_eq!(
        failed_at(&verdict, Check::Signatures),
        Some(second),
        "{verdict}"
    );
}

#[test]
fn the_end_of_an_earlier_run_is_under_the_next_opening() {
    let world = world();
    let second = world.log.find(kinds::WRITER_OPENED);
    let mut log = world.log.clone();
    log.rows.drain(second - 1..second);
    log.refit_heads(0);
    log.republish(&world.ring);
    let at = second as u64 - 1;
    let verdict = verify(&log, &world.public(), &mut ());
    assert_eq!(failed_at(&verdict, Check::Heads), Some(at), "{verdict}");
    // He can't sign the head that would fit.
    let head = {
        let mut before = log.clone();
        before.rows.truncate(second - 1);
        crate::world::head(&before)
    };
    log.edit(second - 1, |e| e.log.as_mut().unwrap().head = Some(head));
    log.refit_heads(0);
    log.republish(&world.ring);
    let verdict = verify(&log, &world.public(), &mut ());
    assert_eq!(failed_at(&verdict, Check::Signatures), Some(at));
}

#[test]
fn a_rewritten_tail_without_its_checkpoints_is_no_pass() {
    let world = world();
    let mut log = world.log.clone();
    let previous = log.entry(log.rows.len() - 1).run;
    let mut run = HandRun::open(&mut log, &world.ring, Some(previous));
    run.heartbeat(&mut log);
    run.close(&mut log);
    log.rebuild();
    let checkpoints = log.checkpoints.clone();
    // The checkpoint over the last run is gone, and its end is another.
    let last = log.rows.len() - 1;
    log.edit(last, |e| e.time = Timestamp::EPOCH);
    log.rebuild();
    log.checkpoints.clone_from(&checkpoints);
    let verdict = verify(&log, &world.public(), &mut ());
    assert_eq!(verdict.exit_code(), 2, "{verdict}");
    assert!(
        verdict.undecided()[0].contains("checkpoints may have been removed"),
        "{verdict}"
    );
    // Nor is it one if the run is left open and took its time.
    log.rows.pop();
    log.rebuild();
    let policy = Policy {
        unpublished_max: Duration::ZERO,
        ..world.public()
    };
    assert_eq!(verify(&log, &policy, &mut ()).exit_code(), 2);
}
