//! Data keys: introduced, used, rewrapped, destroyed.

use std::collections::HashMap;

use audit_core::Entry;
use audit_core::datakey::KeyRecord;
use audit_core::entry::{KeyDigest, LogKeys, kinds};
use audit_core::hex::Digest;
use uuid::Uuid;

use crate::runs::Said;
use crate::verdict::{Check, Verdict};

const NONE: u64 = u64::MAX;

/// What is kept of one data key: about 130 bytes. The only state that grows with the log besides its runs.
struct Key {
    /// `None`: it is used, but no entry introduces it, which is found already.
    digest: Option<Digest>,
    run: Uuid,
    introduced: u64,
    /// The first entry that says it is destroyed, and whether a MAC speaks for one that does.
    destroyed: u64,
    destroyed_mac: bool,
    /// The last `key.destroyed` without a MAC that excuses what is missing from an entry.
    excuse: u64,
    /// A `key.rewrapped` without a MAC that names the present record.
    rewrapped: u64,
    /// The first entry that misses its parts, and no `key.destroyed` behind it yet.
    parts_absent: u64,
    /// The same of its tokens.
    tokens_absent: u64,
    /// The first entry whose parts or tokens are there though its key is destroyed behind it.
    present: u64,
    /// By a `key.rewrapped`, else 0.
    generation: u64,
    seen: bool,
}

impl Key {
    fn new(digest: Option<Digest>, run: Uuid, introduced: u64) -> Self {
        Self {
            digest,
            run,
            introduced,
            destroyed: NONE,
            destroyed_mac: false,
            excuse: NONE,
            rewrapped: NONE,
            parts_absent: NONE,
            tokens_absent: NONE,
            present: NONE,
            generation: 0,
            seen: false,
        }
    }
}

/// The data keys of a log.
pub(crate) struct Keys {
    by_id: HashMap<Uuid, Key>,
    used_destroyed: u64,
    /// Why an entry that can't be read might explain what is missing.
    incomplete: Option<String>,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            by_id: HashMap::new(),
            used_destroyed: 0,
            incomplete: None,
        }
    }

    /// Some entry could not be read: what it says of data keys is not known, so nothing is found that it may explain.
    pub(crate) fn incomplete(&mut self, why: impl FnOnce() -> String) {
        self.incomplete.get_or_insert_with(why);
    }

    pub(crate) fn len(&self) -> u64 {
        self.by_id.len() as u64
    }

    /// Checks what an entry says of data keys. `there`: its tokens or parts are.
    pub(crate) fn check(
        &mut self,
        index: u64,
        entry: &Entry,
        there: bool,
        said: Said,
        verdict: &mut Verdict,
    ) {
        for introduced in entry.keys.iter().flatten() {
            if !self.introduce(index, entry.run, introduced) {
                verdict.find(
                    Check::Keys,
                    Some(index),
                    format!("data key {} is introduced a second time", introduced.id),
                );
            }
        }
        if let Some(id) = entry.key {
            match self.by_id.get_mut(&id) {
                None => {
                    if self.incomplete.is_none() {
                        verdict.find(
                            Check::Keys,
                            Some(index),
                            format!("no entry up to here introduces data key {id}, which sealed this one"),
                        );
                    }
                    // Once is enough.
                    self.by_id.insert(id, Key::new(None, entry.run, index));
                }
                Some(key) => {
                    if key.run != entry.run {
                        verdict.find(
                            Check::Keys,
                            Some(index),
                            format!(
                                "data key {id} belongs to run {}, not to this entry's",
                                key.run
                            ),
                        );
                    }
                    if there {
                        key.present = key.present.min(index);
                    }
                    self.used_destroyed += u64::from(key.destroyed != NONE);
                }
            }
        }
        if !said.signed {
            // What nobody signed destroys and rewraps nothing.
            return;
        }
        for unknown in self.log_kinds(index, entry, said.mac) {
            if self.incomplete.is_none() {
                verdict.find(
                    Check::Keys,
                    Some(index),
                    format!(
                        "{} names data key {unknown}, which no entry up to here introduces",
                        entry.kind
                    ),
                );
            }
        }
    }

    fn introduce(&mut self, index: u64, run: Uuid, introduced: &KeyDigest) -> bool {
        if self.by_id.contains_key(&introduced.id) {
            return false;
        }
        let key = Key::new(Some(introduced.digest), run, index);
        self.by_id.insert(introduced.id, key);
        true
    }

    /// What `key.destroyed` and `key.rewrapped` say; answers the keys that are not known.
    fn log_kinds(&mut self, index: u64, entry: &Entry, mac: bool) -> Vec<Uuid> {
        let mut unknown = Vec::new();
        let log = entry.log.as_ref();
        match (entry.kind.as_str(), log.and_then(|l| l.keys.as_ref())) {
            (kinds::KEY_DESTROYED, Some(LogKeys::Ids(ids))) => {
                for id in ids {
                    match self.by_id.get_mut(id) {
                        None => unknown.push(*id),
                        Some(key) => {
                            let excuses = key.parts_absent != NONE || key.tokens_absent != NONE;
                            if excuses && !mac {
                                key.excuse = index;
                            }
                            key.destroyed = key.destroyed.min(index);
                            key.destroyed_mac |= mac;
                            key.parts_absent = NONE;
                            key.tokens_absent = NONE;
                        }
                    }
                }
            }
            (kinds::KEY_REWRAPPED, Some(LogKeys::Records(records))) => {
                for record in records {
                    match self.by_id.get_mut(&record.id) {
                        None => unknown.push(record.id),
                        Some(key) => {
                            key.digest = Some(record.digest);
                            key.rewrapped = if mac { NONE } else { index };
                            key.generation = log.and_then(|l| l.generation).unwrap_or_default();
                        }
                    }
                }
            }
            _ => {}
        }
        unknown
    }

    /// An entry that came while the log was being verified.
    pub(crate) fn observe(&mut self, index: u64, entry: &Entry, signed: bool) {
        for introduced in entry.keys.iter().flatten() {
            self.introduce(index, entry.run, introduced);
        }
        if signed {
            self.log_kinds(index, entry, false);
        }
    }

    /// The parts or tokens of an entry are not there: excused if its key is destroyed later. `false`: it has no key
    /// that could excuse it.
    pub(crate) fn absent(&mut self, index: u64, entry: &Entry, check: Check) -> bool {
        let Some(key) = entry.key.and_then(|id| self.by_id.get_mut(&id)) else {
            return false;
        };
        let first = if check == Check::Parts {
            &mut key.parts_absent
        } else {
            &mut key.tokens_absent
        };
        *first = (*first).min(index);
        true
    }

    /// Why records can't be held against the entries, if they can't.
    pub(crate) fn why_incomplete(&self) -> Option<&str> {
        self.incomplete.as_deref()
    }

    /// Whether something is missing that an entry behind the end of the walk might explain.
    pub(crate) fn unexplained(&self) -> bool {
        self.by_id.values().any(|k| {
            k.parts_absent != NONE || k.tokens_absent != NONE || (!k.seen && k.destroyed == NONE)
        })
    }

    /// Marks a record as there; answers what is wrong with it.
    pub(crate) fn record(&mut self, record: &KeyRecord) -> Result<(), (Option<u64>, String)> {
        let id = record.id;
        let Some(key) = self.by_id.get_mut(&id) else {
            return Err((
                None,
                format!("no entry introduces data key {id}, but there is a record of it"),
            ));
        };
        key.seen = true;
        let wrong = |what: &str| {
            Err((
                Some(key.introduced),
                format!("the record of data key {id} {what}"),
            ))
        };
        if key.digest.is_none() {
            return Ok(());
        }
        if Some(record.digest().digest) != key.digest {
            return wrong("is not the one that the entries name");
        }
        if record.run != key.run {
            return wrong("names another run than the entry that introduces it");
        }
        if key.generation != 0 && key.generation != u64::from(record.generation) {
            return wrong("is of another generation than key.rewrapped says");
        }
        Ok(())
    }

    /// What is missing, once everything has been read.
    pub(crate) fn finish(&self, records_read: bool, follows: bool, verdict: &mut Verdict) {
        let mut kept: Vec<Uuid> = Vec::new();
        let mut present: Option<(u64, u64)> = None;
        // What no checkpoint and no MAC speaks for, anybody who can write to the store may have appended: it excuses
        // nothing.
        let covered = verdict.covered.as_ref().map_or(0, |c| c.size);
        let mut unproven: Option<u64> = None;
        // In the order of the log, so that the first finding is the first in the log.
        let mut missing: Vec<(u64, Check, String)> = Vec::new();
        for (id, key) in &self.by_id {
            let destroyed = key.destroyed != NONE;
            verdict.counts.keys_destroyed += u64::from(destroyed);
            let record_gone = destroyed && !key.seen && !key.destroyed_mac;
            for (relied_on, index) in [
                (true, key.excuse),
                (record_gone, key.destroyed),
                (key.seen, key.rewrapped),
            ] {
                if relied_on && index != NONE && index >= covered {
                    unproven = Some(unproven.map_or(index, |u| u.min(index)));
                }
            }
            if destroyed && key.seen {
                kept.push(*id);
            }
            // What came after the erasure is told below.
            if destroyed && key.present < key.destroyed {
                let first = present.map_or(NONE, |(first, _)| first).min(key.present);
                present = Some((first, present.map_or(0, |(_, n)| n) + 1));
            }
            if records_read && !key.seen && !destroyed && key.digest.is_some() {
                missing.push((
                    key.introduced,
                    Check::Keys,
                    format!(
                        "the record of data key {id} is missing, and no key.destroyed names it"
                    ),
                ));
            }
            for (absent, check, what) in [
                (key.parts_absent, Check::Parts, "stored parts are"),
                (key.tokens_absent, Check::Tokens, "tokens are"),
            ] {
                if absent != NONE {
                    missing.push((
                        absent,
                        check,
                        format!("the {what} missing, and no key.destroyed behind this entry names data key {id}"),
                    ));
                }
            }
        }
        if let Some(index) = unproven {
            let why = format!(
                "what is missing or rewrapped is excused from index {index} on, by entries that no checkpoint commits to \
                 and no checked MAC speaks for"
            );
            verdict.not_checked(Check::Keys, why.clone());
            verdict.undecide(why);
        }
        missing.sort_unstable();
        for (index, check, message) in missing {
            match &self.incomplete {
                None => verdict.found(check, Some(index), &message, follows),
                Some(why) => verdict.not_checked(
                    check,
                    format!("whether what is missing may be missing: {why}"),
                ),
            }
        }
        // Whoever has an older copy can put back what was erased: what was said to be gone must be gone.
        if let Some(first) = kept.iter().min() {
            verdict.undecide(format!(
                "{} data keys are destroyed, but their records are there (the first: {first}): the erasure is not complete, or \
                 was undone; erase again",
                kept.len()
            ));
        }
        if let Some((first, keys)) = present {
            verdict.undecide(format!(
                "{keys} data keys are destroyed, but tokens or stored parts that were erased with them are there (the first: \
                 of the entry at index {first}): the erasure is not complete, or was undone; erase again"
            ));
        }
        if self.used_destroyed > 0 {
            verdict.notice(format!(
                "{} entries were sealed with a data key after an entry said that it was destroyed",
                self.used_destroyed
            ));
        }
    }
}
