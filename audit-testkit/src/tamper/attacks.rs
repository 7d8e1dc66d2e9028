//! What a forger does who knows what the tables mean: he makes everything fit, as far as the keys allow that he has.

use std::collections::BTreeMap;

use audit_core::entry::{LogKeys, Role, kinds};
use audit_core::hex::Hex;
use audit_core::row::Row;
use audit_core::time::Timestamp;
use audit_core::token::TokenSet;
use audit_tlog::checkpoint;
use audit_verify::Check;

use super::sample::{HandRun, facts};
use super::{Backend, Case, Place, Report, SampleLog, Sees, Unmade, judge, load_good};
use crate::memory::Contents;

/// An attack: what it changes, and what must be said of it.
struct Attack {
    name: &'static str,
    contents: Contents,
    check: Option<Check>,
    places: Vec<Place>,
    sees: Sees,
}

/// The attacks on one log, by somebody who has another.
struct Forger<'a> {
    log: &'a SampleLog,
    other: &'a SampleLog,
    all: Vec<Attack>,
}

fn at(index: usize) -> Vec<Place> {
    let index = index as u64;
    vec![Place::At(index..index + 1)]
}

fn says(text: impl Into<String>) -> Vec<Place> {
    vec![Place::Says(text.into())]
}

impl Forger<'_> {
    fn found(
        &mut self,
        name: &'static str,
        check: Check,
        places: Vec<Place>,
        change: impl FnOnce(&mut Contents),
    ) {
        self.seen(Sees::Anybody, name, Some(check), places, change);
    }

    /// Nothing contradicts, but nothing is decided either.
    fn undecided(&mut self, name: &'static str, because: &str, change: impl FnOnce(&mut Contents)) {
        self.seen(Sees::Anybody, name, None, says(because), change);
    }

    fn seen(
        &mut self,
        sees: Sees,
        name: &'static str,
        check: Option<Check>,
        places: Vec<Place>,
        change: impl FnOnce(&mut Contents),
    ) {
        let mut contents = self.log.contents.clone();
        change(&mut contents);
        self.all.push(Attack {
            name,
            contents,
            check,
            places,
            sees,
        });
    }

    /// An entry of the second run with content, tokens and a data key that an earlier entry introduces; what stands
    /// behind it is like it.
    fn target(&self) -> usize {
        let log = &self.log.contents;
        (150..log.rows.len())
            .find(|i| {
                let (a, b) = (log.entry(*i), log.entry(*i + 1));
                let plain = |n: usize| {
                    let entry = log.entry(n);
                    entry.log.is_none() && entry.keys.is_none() && log.rows[n].parts.is_some()
                };
                a.run == b.run && a.tokens.is_some() && plain(*i) && plain(*i + 1)
            })
            .expect("the sample has two such entries")
    }

    /// The last checkpoint before the opening of the run that died.
    fn kept_size(&self) -> usize {
        let log = &self.log.contents;
        let sizes = log.checkpoints.keys().copied();
        let sizes: Vec<u64> = sizes.filter(|size| *size > 100).collect();
        usize::try_from(sizes[0]).unwrap_or_default()
    }

    fn cut(log: &mut Contents, size: usize) {
        log.rows.truncate(size);
        let named: Vec<_> = (0..size)
            .flat_map(|i| log.entry(i).keys.unwrap_or_default())
            .map(|k| k.id)
            .collect();
        log.keys.retain(|id, _| named.contains(id));
        log.rebuild();
    }

    /// Puts the records, tokens and parts back that the last run erased or rewrapped: the log before it, uncut.
    fn unerased(sample: &SampleLog, log: &mut Contents, parts: bool, tokens: bool, records: bool) {
        for index in &sample.erased {
            let index = usize::try_from(*index).unwrap_or_default();
            let before = &sample.earlier.rows[index];
            if parts {
                log.rows[index].parts.clone_from(&before.parts);
            }
            if tokens {
                log.rows[index].tokens.clone_from(&before.tokens);
            }
        }
        for id in &sample.destroyed {
            if records && let Some(record) = sample.earlier.keys.get(id) {
                log.keys.insert(*id, record.clone());
            }
        }
        log.rebuild();
    }

    fn truncations(&mut self) {
        let (ring, earlier) = (&self.log.ring, &self.log.earlier);
        let n = self.log.contents.rows.len();
        let kept = self.kept_size();
        self.found(
            "the last three entries cut with all that belongs to them, under their checkpoint",
            Check::Root,
            at(n - 3),
            |log| Self::cut(log, n - 3),
        );
        self.found(
            "everything behind the first checkpoints cut, under the later ones",
            Check::Root,
            at(kept),
            |log| Self::cut(log, kept),
        );
        self.undecided(
            "the last checkpoint dropped",
            "though a run was closed",
            |log| {
                log.checkpoints.pop_last();
            },
        );
        self.undecided("every checkpoint dropped", "no checkpoint", |log| {
            log.checkpoints.clear();
        });
        self.undecided("everything dropped but the origin", "empty", |log| {
            let origin = log.origin.clone();
            *log = Contents {
                origin,
                ..Contents::default()
            };
        });
        self.seen(
            Sees::WhoRemembers,
            "cut where a checkpoint is, and the later ones dropped",
            Some(Check::Remembered),
            at(kept),
            |log| {
                // As it was before the last run: that erased and rewrapped what an older copy still has.
                *log = earlier.clone();
                Self::cut(log, kept);
                log.checkpoints.retain(|size, _| *size <= kept as u64);
            },
        );
        self.seen(
            Sees::WhoRemembers,
            "cut in the middle of a run, and the later checkpoints dropped",
            Some(Check::Remembered),
            at(kept + 3),
            |log| {
                *log = earlier.clone();
                Self::cut(log, kept + 3);
                log.checkpoints.retain(|size, _| *size <= kept as u64);
            },
        );
        self.seen(
            Sees::WhoRemembers,
            "with the publisher key: the last run dropped, and signed anew",
            Some(Check::Remembered),
            at(earlier.rows.len()),
            |log| {
                *log = earlier.clone();
                log.republish(ring);
            },
        );
    }

    fn entries(&mut self) {
        let (t, n) = (self.target(), self.log.contents.rows.len());
        let other = &self.other.contents;
        self.found(
            "an entry removed, and all behind it moved up",
            Check::Runs,
            at(t),
            |log| {
                log.rows.remove(t);
                log.rebuild();
            },
        );
        self.found(
            "two entries in the other order, with all that is theirs",
            Check::Runs,
            at(t),
            |log| {
                log.rows.swap(t, t + 1);
                log.rebuild();
            },
        );
        self.found(
            "an entry a second time, behind itself, under another event id",
            Check::Columns,
            at(t + 1),
            |log| {
                let mut copy = log.rows[t].clone();
                copy.columns.event = uuid::Uuid::from_u128(7);
                log.rows.insert(t + 1, copy);
                log.rebuild();
            },
        );
        self.found(
            "an entry back-dated, with all that repeats it",
            Check::Root,
            Vec::new(),
            |log| {
                log.edit(t, |e| e.time = Timestamp::EPOCH);
                log.rebuild();
            },
        );
        self.found(
            "an entry recorded earlier, with all that repeats it",
            Check::Recorded,
            at(t),
            |log| {
                log.edit(t, |e| e.recorded = e.recorded.plus_micros(-60_000_000));
                log.rebuild();
            },
        );
        self.found(
            "an entry of another kind, with all that repeats it",
            Check::Root,
            Vec::new(),
            |log| {
                log.edit(t, |e| {
                    e.kind = audit_core::Kind::new("approval.granted").expect("a kind");
                });
                log.rebuild();
            },
        );
        self.found(
            "another log's entry in the place of one",
            Check::Runs,
            at(t),
            |log| {
                log.rows[t] = own_kind(other, t % other.rows.len());
                log.rebuild();
            },
        );
        self.found(
            "another log's entry at the end",
            Check::Runs,
            at(n),
            |log| {
                log.rows.push(own_kind(other, other.rows.len() / 2));
                log.rebuild();
            },
        );
        self.found(
            "another log's whole run at the end",
            Check::Signatures,
            at(n),
            |log| {
                let from = other.find_kind(kinds::WRITER_OPENED, 1);
                let run = other.entry(from).run;
                for index in from..other.rows.len() {
                    let entry = other.entry(index);
                    if entry.run == run {
                        log.rows.push(other.rows[index].clone());
                        for key in entry.keys.unwrap_or_default() {
                            if let Some(record) = other.keys.get(&key.id) {
                                log.keys.insert(key.id, record.clone());
                            }
                        }
                    }
                }
                log.rebuild();
            },
        );
    }

    fn beside_entries(&mut self) {
        let t = self.target();
        let other = &self.other.contents;
        let elsewhere = other
            .rows
            .iter()
            .find(|row| row.parts.is_some() && row.tokens.is_some())
            .expect("the other log has content");
        self.found(
            "the tokens of an entry dropped everywhere, so that its session is listed without it",
            Check::Tokens,
            at(t),
            |log| {
                log.rows[t].tokens = None;
                log.rebuild();
            },
        );
        self.found(
            "one token of an entry dropped everywhere",
            Check::Tokens,
            at(t),
            |log| {
                if let Some(set) = &mut log.rows[t].tokens {
                    set.tokens.pop();
                }
                log.rebuild();
            },
        );
        self.found(
            "the tokens of another entry with their salt, everywhere",
            Check::Tokens,
            at(t),
            |log| {
                let from = (0..t).rfind(|i| differs(&log.rows[*i], &log.rows[t]));
                log.rows[t].tokens = log.rows[from.unwrap_or(0)].tokens.clone();
                log.rebuild();
            },
        );
        self.found("another salt of the tokens", Check::Tokens, at(t), |log| {
            if let Some(TokenSet { salt, .. }) = &mut log.rows[t].tokens {
                *salt = Hex([7; 16]);
            }
        });
        self.found("another log's tokens", Check::Tokens, at(t), |log| {
            log.rows[t].tokens.clone_from(&elsewhere.tokens);
            log.rebuild();
        });
        self.found("another log's stored parts", Check::Parts, at(t), |log| {
            log.rows[t].parts.clone_from(&elsewhere.parts);
        });
        self.found(
            "the stored parts of two entries exchanged",
            Check::Parts,
            at(t),
            |log| {
                let parts = log.rows[t].parts.take();
                log.rows[t].parts = std::mem::replace(&mut log.rows[t + 1].parts, parts);
            },
        );
    }

    fn keys(&mut self) {
        let n = self.log.contents.rows.len();
        let (sample, ring, other) = (self.log, &self.log.ring, self.other);
        let id = *self.log.contents.keys.keys().next().expect("a data key");
        let previous = self.log.contents.entry(n - 1).run;
        let forged = LogKeys::Ids(vec![id]);
        self.found(
            "a wrapped key dropped, and a key.destroyed for it signed with another log's writer key",
            Check::Signatures,
            at(n),
            |log| {
                log.keys.remove(&id);
                let mut run = HandRun::open(log, &other.ring, Some(previous));
                let keys = Some(forged.clone());
                let facts = facts(|f| f.keys = keys);
                run.signed(log, &other.ring, kinds::KEY_DESTROYED, facts);
                log.rebuild();
            },
        );
        self.found(
            "a wrapped key dropped, and the genuine key.destroyed for others repeated",
            Check::Keys,
            says(id.to_string()),
            |log| {
                log.keys.remove(&id);
                let genuine = log.find_kind(kinds::KEY_DESTROYED, 0);
                log.rows.push(log.rows[genuine].clone());
                if let Some(row) = log.rows.last_mut() {
                    row.columns.event = uuid::Uuid::from_u128(9);
                }
                log.rebuild();
            },
        );
        self.undecided(
            "with a writer key: a wrapped key dropped, and a key.destroyed for it that nobody published",
            "excused from index",
            |log| {
                log.keys.remove(&id);
                let mut run = HandRun::open(log, ring, Some(previous));
                let keys = Some(forged);
                let facts = facts(|f| f.keys = keys);
                run.signed(log, ring, kinds::KEY_DESTROYED, facts);
                log.rebuild();
            },
        );
        self.found(
            "a key record of before it was rewrapped",
            Check::Keys,
            says(id.to_string()),
            |log| {
                let before = self.log.earlier.keys[&id].clone();
                log.keys.insert(id, before);
            },
        );
        let theirs = other.contents.keys.values().next().expect("a data key");
        self.found(
            "another log's key record under the id of one",
            Check::Keys,
            says(id.to_string()),
            |log| {
                let mut record = theirs.clone();
                record.id = id;
                log.keys.insert(id, record);
            },
        );
        self.found(
            "another log's key record beside the others",
            Check::Keys,
            says(theirs.id.to_string()),
            |log| {
                log.keys.insert(theirs.id, theirs.clone());
            },
        );
        let destroyed = self.log.destroyed[0];
        self.undecided(
            "an erasure undone: the destroyed key records put back",
            &destroyed.to_string(),
            |log| Self::unerased(sample, log, false, false, true),
        );
        self.undecided(
            "an erasure undone: the tokens put back",
            "were erased",
            |log| Self::unerased(sample, log, false, true, false),
        );
        self.undecided(
            "an erasure undone: the stored parts put back",
            "were erased",
            |log| Self::unerased(sample, log, true, false, false),
        );
        self.undecided(
            "an erasure undone: everything put back",
            "were erased",
            |log| Self::unerased(sample, log, true, true, true),
        );
    }

    fn checkpoints(&mut self) {
        let n = self.log.contents.rows.len() as u64;
        let other = self.other;
        // Another log's ring under this log's name: a key that the attacker made for himself.
        let resign = |note: &[u8]| -> Vec<u8> {
            let (signed, _) = checkpoint::open(note, self.log.ring.origin(), &self.log.ring.vkey())
                .expect("an honest checkpoint");
            let attacker = audit_tlog::note::Ed25519Signer::from_seed(&signed.origin, &[7; 32])
                .expect("a name and a seed");
            checkpoint::sign(&signed.into_inner(), &[&attacker])
                .expect("a checkpoint can be signed")
                .into_bytes()
        };
        let last = self.log.contents.checkpoints[&n].clone();
        let resigned: BTreeMap<u64, Vec<u8>> = self
            .log
            .contents
            .checkpoints
            .iter()
            .map(|(size, note)| (*size, resign(note)))
            .collect();
        let attackers = resign(&last);
        self.found(
            "the public key replaced: every checkpoint signed anew by the attacker",
            Check::Checkpoints,
            says("not signed by the policy's key (of size"),
            |log| log.checkpoints = resigned,
        );
        self.found(
            "the last checkpoint signed anew by the attacker",
            Check::Checkpoints,
            says(format!("{n}")),
            |log| {
                log.checkpoints.insert(n, attackers.clone());
            },
        );
        self.found(
            "another log's checkpoint in the place of one",
            Check::Checkpoints,
            says(format!("size {n}")),
            |log| {
                let theirs = other.contents.checkpoints.last_key_value();
                let (_, note) = theirs.expect("the other log is published");
                log.checkpoints.insert(n, note.clone());
            },
        );
        self.found(
            "an older checkpoint in the place of the last",
            Check::Checkpoints,
            says(format!("size {n}")),
            |log| {
                let (_, first) = log.checkpoints.first_key_value().expect("a checkpoint");
                let first = first.clone();
                log.checkpoints.insert(n, first);
            },
        );
        self.found(
            "a signature line more on a checkpoint",
            Check::Checkpoints,
            says(format!("size {n}")),
            |log| {
                // The last line of the attacker's note is his signature.
                let start = attackers[..attackers.len() - 1]
                    .iter()
                    .rposition(|b| *b == b'\n')
                    .map_or(0, |end| end + 1);
                let mut note = last.clone();
                note.extend_from_slice(&attackers[start..]);
                log.checkpoints.insert(n, note);
            },
        );
    }

    fn identity(&mut self) {
        let (ring, other) = (&self.log.ring, self.other);
        self.found(
            "the origin dropped",
            Check::Identity,
            says("which log"),
            |log| {
                log.origin = None;
            },
        );
        self.found(
            "another log under this one's name",
            Check::Identity,
            at(0),
            |log| {
                let origin = log.origin.clone();
                *log = other.contents.clone();
                log.origin = origin;
            },
        );
        self.found(
            "the publisher key in the first entry replaced, with all that repeats it",
            Check::Identity,
            at(0),
            |log| {
                log.edit(0, |e| {
                    if let Some(LogKeys::Public(keys)) =
                        e.log.as_mut().and_then(|l| l.keys.as_mut())
                    {
                        for key in keys.iter_mut().filter(|k| k.role == Role::Publisher) {
                            key.public = Hex(other.ring.publisher().public_key());
                        }
                    }
                });
                log.rebuild();
            },
        );
        self.found(
            "with the publisher key: another log's history under this one's key",
            Check::Identity,
            at(0),
            |log| {
                let origin = log.origin.clone();
                *log = other.contents.clone();
                log.origin = origin;
                log.republish(ring);
            },
        );
    }

    fn with_the_publisher_key(&mut self) {
        let ring = &self.log.ring;
        let (t, n) = (self.target(), self.log.contents.rows.len());
        let log = &self.log.contents;
        let opening = log.find_kind(kinds::WRITER_OPENED, t);
        self.found(
            "with the publisher key: an entry removed, all behind it moved up, and signed anew",
            Check::Runs,
            at(t),
            |log| {
                log.rows.remove(t);
                log.refit_heads(t);
                log.republish(ring);
            },
        );
        self.found(
            "with the publisher key: two entries in the other order, and signed anew",
            Check::Runs,
            at(t),
            |log| {
                log.rows.swap(t, t + 1);
                log.refit_heads(t);
                log.republish(ring);
            },
        );
        self.found(
            "with the publisher key: an entry before an opening changed, and signed anew",
            Check::Heads,
            at(opening),
            |log| {
                log.edit(t, |e| e.time = Timestamp::EPOCH);
                log.refit_heads(t);
                log.republish(ring);
            },
        );
        self.found(
            "with the publisher key: a whole run before the last dropped, and signed anew",
            Check::Heads,
            Vec::new(),
            |log| {
                let from = log.find_kind(kinds::WRITER_OPENED, 1);
                let run = log.entry(from).run;
                let keep: Vec<bool> = (0..log.rows.len())
                    .map(|i| log.entry(i).run != run)
                    .collect();
                let mut keep = keep.into_iter();
                log.rows.retain(|_| keep.next().unwrap_or(true));
                log.refit_heads(from);
                log.republish(ring);
            },
        );
        self.seen(
            Sees::Auditor,
            "with the publisher key: an entry behind the last opening changed, and signed anew",
            Some(Check::Mac),
            at(n - 1),
            |log| {
                log.edit(n - 1, |e| e.time = Timestamp::EPOCH);
                log.republish(ring);
            },
        );
    }
}

/// An entry of a log that is none of its own kinds, with what is stored beside it.
fn own_kind(log: &Contents, from: usize) -> Row {
    let index = (from..log.rows.len())
        .chain(0..from)
        .find(|i| log.entry(*i).log.is_none())
        .expect("the log has events");
    log.rows[index].clone()
}

fn differs(a: &Row, b: &Row) -> bool {
    match (&a.tokens, &b.tokens) {
        (Some(a), Some(b)) => a.tokens != b.tokens,
        _ => false,
    }
}

/// What a forger does who knows what the tables mean.
#[must_use]
pub fn attacks<B: Backend>(backend: &B, log: &SampleLog, other: &SampleLog) -> Report {
    let good = load_good(backend, &log.contents);
    let mut forger = Forger {
        log,
        other,
        all: Vec::new(),
    };
    forger.truncations();
    forger.entries();
    forger.beside_entries();
    forger.keys();
    forger.checkpoints();
    forger.identity();
    forger.with_the_publisher_key();
    let cases: Vec<_> = forger
        .all
        .into_iter()
        .map(|attack| Case {
            name: attack.name.to_owned(),
            target: None,
            places: attack.places,
            check: attack.check,
            sees: attack.sees,
            make: Box::new(move || backend.load(&attack.contents).map_err(Unmade::Refused)),
        })
        .collect();
    judge("attacks", log, &good, &cases)
}
