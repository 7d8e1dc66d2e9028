//! One change to an honest log at a time, by somebody without keys: never a pass, and the right check and index named.

use audit_core::hex::Hex;
use audit_core::row::Row;
use audit_core::{Kind, time::Timestamp};
use audit_tlog::Hash;
use audit_tlog::checkpoint::{self, Checkpoint};
use audit_verify::{Check, CheckResult, Policy};
use uuid::Uuid;

use crate::world::{Mem, World, other, small, verify, world};

struct Case {
    name: &'static str,
    change: Box<dyn Fn(&World, &mut Mem)>,
    check: Check,
    index: Option<u64>,
}

fn case(
    name: &'static str,
    check: Check,
    index: impl Into<Option<usize>>,
    change: impl Fn(&World, &mut Mem) + 'static,
) -> Case {
    Case {
        name,
        change: Box::new(change),
        check,
        index: index.into().map(|i| i as u64),
    }
}

/// The first entry from `from` on with stored parts and tokens.
fn full(log: &Mem, from: usize) -> usize {
    (from..log.rows.len())
        .find(|i| log.rows[*i].parts.is_some() && log.rows[*i].tokens.is_some())
        .unwrap()
}

fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}

fn cases(world: &World) -> Vec<Case> {
    let log = &world.log;
    let size = log.rows.len();
    let at = full(log, 30);
    let next = full(log, at + 1);
    let key = log.entry(at).key.unwrap();
    let introduced = (0..size)
        .find(|i| log.entry(*i).keys.iter().flatten().any(|k| k.id == key))
        .unwrap();
    let row_of = move |log: &Mem, index: usize| {
        let row = log
            .tokens
            .iter()
            .position(|(_, i)| *i == index as u64)
            .unwrap();
        (row, log.tokens[row])
    };
    let erased = world.erased;
    vec![
        case("column event", Check::Columns, at, move |_, l| {
            l.rows[at].columns.event = Uuid::nil()
        }),
        case("column kind", Check::Columns, at, move |_, l| {
            l.rows[at].columns.kind = Kind::new("x").unwrap()
        }),
        case("column time", Check::Columns, at, move |_, l| {
            l.rows[at].columns.time = Timestamp::EPOCH
        }),
        case("entry edited in place", Check::Root, at, move |_, l| {
            l.edit(at, |e| e.time = Timestamp::EPOCH)
        }),
        case(
            "entry edited, its leaf in the tile too",
            Check::Root,
            None,
            move |_, l| {
                l.edit(at, |e| e.time = Timestamp::EPOCH);
                l.rebuild();
            },
        ),
        case("entry that is no JSON", Check::Entry, at, move |_, l| {
            l.rows[at].entry = b"{".to_vec()
        }),
        case("entry with a space", Check::Entry, at, move |_, l| {
            l.rows[at].entry.push(b' ')
        }),
        case("first entry deleted", Check::Index, 0, |_, l| {
            drop(l.rows.remove(0))
        }),
        case("middle entry deleted", Check::Index, at, move |_, l| {
            drop(l.rows.remove(at))
        }),
        case("last entry deleted", Check::Index, size - 1, |_, l| {
            drop(l.rows.pop())
        }),
        case(
            "first entry deleted, all renumbered",
            Check::Runs,
            0,
            |_, l| {
                l.rows.remove(0);
                l.rebuild();
            },
        ),
        case(
            "middle entry deleted, all renumbered",
            Check::Runs,
            at,
            move |_, l| {
                l.rows.remove(at);
                l.rebuild();
            },
        ),
        case(
            "last entry deleted, all renumbered",
            Check::Root,
            size - 1,
            |_, l| {
                l.rows.pop();
                l.rebuild();
            },
        ),
        case("truncated", Check::Root, 100, |_, l| {
            l.rows.truncate(100);
            l.rebuild();
        }),
        case("two entries swapped", Check::Index, at, move |_, l| {
            l.rows.swap(at, next)
        }),
        case(
            "two entries swapped and renumbered",
            Check::Runs,
            at,
            move |_, l| {
                l.rows.swap(at, next);
                l.rebuild();
            },
        ),
        case("an entry twice", Check::Runs, at + 1, move |_, l| {
            l.rows.insert(at + 1, l.rows[at].clone());
            l.rebuild();
        }),
        case(
            "an entry again at the end",
            Check::Runs,
            size,
            move |_, l| {
                l.rows.push(l.rows[at].clone());
                l.rebuild();
            },
        ),
        case("another log's entry", Check::Runs, at, move |_, l| {
            let row = Row {
                index: at as u64,
                ..other().log.rows[3].clone()
            };
            l.rows[at] = row;
            l.rebuild();
        }),
        case(
            "an entry behind the end",
            Check::Index,
            size,
            move |_, l| {
                let row = Row {
                    index: size as u64,
                    ..l.rows[at].clone()
                };
                l.rows.push(row);
            },
        ),
        case("tokens dropped", Check::Tokens, at, move |_, l| {
            l.rows[at].tokens = None
        }),
        case("salt changed", Check::Tokens, at, move |_, l| {
            l.rows[at].tokens.as_mut().unwrap().salt = Hex([1; 16])
        }),
        case("token changed", Check::Tokens, at, move |_, l| {
            l.rows[at].tokens.as_mut().unwrap().tokens[0] = Hex([1; 16]);
        }),
        case("tokens of another entry", Check::Tokens, at, move |_, l| {
            l.rows[at].tokens = l.rows[next].tokens.clone()
        }),
        case(
            "tokens where there are none",
            Check::Tokens,
            0,
            move |_, l| l.rows[0].tokens = l.rows[at].tokens.clone(),
        ),
        case("token row dropped", Check::TokenRows, at, move |_, l| {
            let (row, _) = row_of(l, at);
            l.tokens.remove(row);
        }),
        case(
            "token row moved to another entry",
            Check::TokenRows,
            at,
            move |_, l| {
                let (row, _) = row_of(l, at);
                l.tokens[row].1 = next as u64;
            },
        ),
        case("token row changed", Check::TokenRows, at, move |_, l| {
            let (row, _) = row_of(l, at);
            l.tokens[row].0 = Hex([9; 16]);
        }),
        case("token row twice", Check::TokenRows, at, move |_, l| {
            let (_, row) = row_of(l, at);
            l.tokens.push(row);
        }),
        case(
            "token row behind the end",
            Check::TokenRows,
            size,
            move |_, l| l.tokens.push((Hex([9; 16]), size as u64)),
        ),
        case(
            "token row for an erased entry",
            Check::TokenRows,
            erased,
            move |_, l| {
                l.tokens.push((Hex([9; 16]), erased as u64));
            },
        ),
        case("all token rows dropped", Check::TokenRows, None, |_, l| {
            l.tokens.clear()
        }),
        case("parts dropped", Check::Parts, at, move |_, l| {
            l.rows[at].parts = None
        }),
        case("parts cut", Check::Parts, at, move |_, l| {
            l.rows[at].parts.as_mut().unwrap().truncate(1)
        }),
        case("parts longer", Check::Parts, at, move |_, l| {
            l.rows[at].parts.as_mut().unwrap().push(0)
        }),
        case("parts of another entry", Check::Parts, at, move |_, l| {
            l.rows[at].parts = l.rows[next].parts.clone()
        }),
        case(
            "parts where there are none",
            Check::Parts,
            0,
            move |_, l| l.rows[0].parts = l.rows[at].parts.clone(),
        ),
        case(
            "key record dropped",
            Check::Keys,
            introduced,
            move |_, l| l.keys.retain(|id, _| *id != key),
        ),
        case(
            "wrapped key changed",
            Check::Keys,
            introduced,
            move |_, l| l.keys.get_mut(&key).unwrap().wrapped[20] ^= 1,
        ),
        case(
            "generation changed",
            Check::Keys,
            introduced,
            move |_, l| l.keys.get_mut(&key).unwrap().generation = 1,
        ),
        case("scope changed", Check::Keys, introduced, move |_, l| {
            l.keys.get_mut(&key).unwrap().scope = Hex([1; 16])
        }),
        case(
            "run of a key changed",
            Check::Keys,
            introduced,
            move |_, l| l.keys.get_mut(&key).unwrap().run = Uuid::nil(),
        ),
        case("key record of another log", Check::Keys, None, |_, l| {
            let record = other().log.keys.values().next().unwrap().clone();
            l.keys.insert(record.id, record);
        }),
        case(
            "checkpoint with a changed signature",
            Check::Checkpoints,
            None,
            |_, l| {
                let size = l.size;
                let note = String::from_utf8(l.checkpoints[&size].clone()).unwrap();
                let (head, tail) = note.trim_end().split_at(note.trim_end().len() - 10);
                let tail: String = tail
                    .chars()
                    .map(|c| {
                        if c == 'A' {
                            'B'
                        } else if c == '=' {
                            '='
                        } else {
                            'A'
                        }
                    })
                    .collect();
                l.checkpoints
                    .insert(size, format!("{head}{tail}\n").into_bytes());
            },
        ),
        case(
            "checkpoint with a changed root",
            Check::Checkpoints,
            None,
            |w, l| {
                let note = String::from_utf8(l.last_checkpoint()).unwrap();
                let changed = note.replace(
                    &l.root(l.rows.len()).to_base64(),
                    &w.log.root(3).to_base64(),
                );
                l.checkpoints.insert(l.size, changed.into_bytes());
            },
        ),
        case(
            "checkpoint of another log",
            Check::Checkpoints,
            None,
            |_, l| {
                l.checkpoints
                    .insert(l.size, l.signed(&other().ring, l.rows.len()));
            },
        ),
        case(
            "checkpoint under another size",
            Check::Checkpoints,
            None,
            move |_, l| {
                let note = l.checkpoints.pop_last().unwrap().1;
                l.checkpoints.insert(size as u64 - 1, note);
            },
        ),
        case(
            "checkpoint with an extension line",
            Check::Checkpoints,
            None,
            |w, l| {
                let checkpoint = Checkpoint {
                    origin: w.ring.origin().to_owned(),
                    size: l.size,
                    root: l.root(l.rows.len()),
                    extensions: vec!["more".into()],
                };
                let note = checkpoint::sign(&checkpoint, &[&w.ring.checkpoint_signer()]).unwrap();
                l.checkpoints.insert(l.size, note.into_bytes());
            },
        ),
        case("checkpoint of size 0", Check::Checkpoints, None, |w, l| {
            l.checkpoints.insert(l.size, l.signed(&w.ring, 0));
        }),
        case("index of the engine", Check::Engine, None, |_, l| {
            l.engine_fault = Some("an index disagrees with its table".into());
        }),
        case(
            "checkpoint that is no note",
            Check::Checkpoints,
            None,
            |_, l| {
                l.checkpoints.insert(l.size - 1, b"nothing".to_vec());
            },
        ),
        case("leaf in a full tile", Check::Tiles, 77, |_, l| {
            l.tiles.get_mut(&(0, 0)).unwrap()[77] = Hash::from_bytes([1; 32])
        }),
        case("leaf in the partial tile", Check::Tiles, 513, |_, l| {
            l.tiles.get_mut(&(0, 2)).unwrap()[1] = Hash::from_bytes([1; 32]);
        }),
        case("hash in a tile of level 1", Check::Tiles, 256, |_, l| {
            l.tiles.get_mut(&(1, 0)).unwrap()[1] = Hash::from_bytes([1; 32]);
        }),
        case("full tile missing", Check::Tiles, 256, |_, l| {
            drop(l.tiles.remove(&(0, 1)))
        }),
        case("partial tile missing", Check::Tiles, 512, |_, l| {
            drop(l.tiles.remove(&(0, 2)))
        }),
        case("tile of level 1 missing", Check::Tiles, 0, |_, l| {
            drop(l.tiles.remove(&(1, 0)))
        }),
        case("full tile too narrow", Check::Tiles, 255, |_, l| {
            l.tiles.get_mut(&(0, 0)).unwrap().truncate(255)
        }),
        case("partial tile too wide", Check::Tiles, size, |_, l| {
            l.tiles
                .get_mut(&(0, 2))
                .unwrap()
                .push(Hash::from_bytes([1; 32]));
        }),
        case("tile behind the tree", Check::Tiles, None, |_, l| {
            l.tiles.insert((0, 3), vec![Hash::from_bytes([1; 32])]);
        }),
        case("tile above the tree", Check::Tiles, None, |_, l| {
            l.tiles.insert((2, 0), vec![Hash::from_bytes([1; 32])]);
        }),
        case(
            "tile of a level that no tree has",
            Check::Tiles,
            None,
            |_, l| {
                l.tiles.insert((9, 0), vec![Hash::from_bytes([1; 32])]);
            },
        ),
        case("another origin claimed", Check::Identity, None, |_, l| {
            l.origin = Some("log.example/else".into())
        }),
        case(
            "a size that is too small",
            Check::Index,
            size - 2,
            |_, l| l.size -= 2,
        ),
        case("a size that is too large", Check::Index, size, |_, l| {
            l.size += 2
        }),
    ]
}

#[test]
fn every_change_is_found_by_the_right_check_at_the_right_index() {
    let world = world();
    let mut failures = Vec::new();
    for case in cases(world) {
        let verdict = world.judge(|log| (case.change)(world, log));
        let report = verdict.check(case.check);
        let CheckResult::Failed { first_index, .. } = report.result else {
            failures.push(format!(
                "{}: {} did not fail\n{verdict}",
                case.name, case.check
            ));
            continue;
        };
        if verdict.exit_code() != 1 || case.index.is_some_and(|i| first_index != Some(i)) {
            failures.push(format!(
                "{}: expected {:?}, got {first_index:?}\n{verdict}",
                case.name, case.index
            ));
            continue;
        }
        // What only follows from the change must not be told before it.
        let first = verdict.findings()[0].index;
        if let (Some(index), Some(first)) = (case.index, first)
            && first < index
        {
            failures.push(format!(
                "{}: {first} is told before {index}\n{verdict}",
                case.name
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn every_flipped_bit_of_every_stored_byte_is_found() {
    let world = small();
    let judge = |change: &dyn Fn(&mut Mem), what: &str, index: Option<u64>| {
        let verdict = world.judge(|log| change(log));
        assert_eq!(verdict.exit_code(), 1, "{what}: {verdict}");
        if let Some(index) = index {
            assert_eq!(
                verdict.findings()[0].index,
                Some(index),
                "{what}: {verdict}"
            );
        }
    };
    let log = &world.log;
    for (i, row) in log.rows.iter().enumerate() {
        let index = Some(i as u64);
        for byte in (0..row.entry.len()).step_by(7) {
            let bit = byte * 8 + byte % 8;
            judge(
                &|l| flip(&mut l.rows[i].entry, bit),
                &format!("entry {i} bit {bit}"),
                index,
            );
        }
        if let Some(parts) = &row.parts {
            for byte in (0..parts.len()).step_by(29) {
                judge(
                    &|l| flip(l.rows[i].parts.as_mut().unwrap(), byte * 8),
                    &format!("parts {i} byte {byte}"),
                    index,
                );
            }
        }
    }
    for (at, hashes) in &log.tiles {
        for (n, _) in hashes.iter().enumerate() {
            let change = |l: &mut Mem| {
                let hash = &mut l.tiles.get_mut(at).unwrap()[n];
                let mut bytes = *hash.as_bytes();
                flip(&mut bytes, 100);
                *hash = Hash::from_bytes(bytes);
            };
            judge(&change, &format!("tile {at:?} hash {n}"), None);
        }
    }
    for id in log.keys.keys() {
        for byte in 0..60 {
            judge(
                &|l| l.keys.get_mut(id).unwrap().wrapped[byte] ^= 4,
                &format!("key {id} byte {byte}"),
                None,
            );
        }
    }
    for (size, note) in &log.checkpoints {
        for byte in 0..note.len() {
            let verdict = world.judge(|l| l.checkpoints.get_mut(size).unwrap()[byte] ^= 1);
            assert_eq!(
                verdict.exit_code(),
                1,
                "checkpoint {size} byte {byte}: {verdict}"
            );
        }
    }
}

#[test]
fn a_rollback_is_seen_by_whoever_remembers() {
    let world = world();
    let mut old = world.log.clone();
    let size = *old.checkpoints.keys().rev().nth(1).unwrap();
    old.checkpoints.retain(|s, _| *s <= size);
    old.rows.truncate(size as usize);
    // As the store was then: not yet erased, first generation of records. That is lost here, so only roots are looked at.
    old.rebuild();
    let policy = Policy {
        remembered: vec![world.log.last_checkpoint()],
        ..world.public()
    };
    let verdict = verify(&old, &policy, &mut ());
    assert_eq!(
        verdict.check(Check::Remembered).result,
        CheckResult::Failed {
            first_index: Some(size),
            findings: 1
        },
        "{verdict}"
    );
    assert_eq!(verdict.check(Check::Root).result, CheckResult::Held);
}
