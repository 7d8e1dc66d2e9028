//! Data keys: introduced, used, rewrapped, destroyed.

use std::collections::HashMap;

use audit_core::Entry;
use audit_core::datakey::KeyRecord;
use audit_core::entry::{KeyDigest, LogKeys, kinds};
use audit_core::hex::Digest;
use uuid::Uuid;

use crate::verdict::{Check, Verdict};

const NONE: u64 = u64::MAX;

/// What is kept of one data key: about 130 bytes. The only state that grows with the log besides its runs.
struct Key {
    digest: Digest,
    run: Uuid,
    introduced: u64,
    /// The last entry that says it is destroyed.
    destroyed: u64,
    /// The first entry that misses its parts, and no `key.destroyed` behind it yet.
    parts_absent: u64,
    /// The same of its tokens.
    tokens_absent: u64,
    /// By a `key.rewrapped`, else 0.
    generation: u64,
    seen: bool,
}

/// The data keys of a log.
pub(crate) struct Keys {
    keys: HashMap<Uuid, Key>,
    used_destroyed: u64,
    damaged: bool,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            keys: HashMap::new(),
            used_destroyed: 0,
            damaged: false,
        }
    }

    /// An entry could not be decoded: which keys it introduced is not known.
    pub(crate) fn damaged(&mut self) {
        self.damaged = true;
    }

    pub(crate) fn len(&self) -> u64 {
        self.keys.len() as u64
    }

    pub(crate) fn check(&mut self, index: u64, entry: &Entry, verdict: &mut Verdict) {
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
            match self.keys.get(&id) {
                None if self.damaged => {}
                None => verdict.find(
                    Check::Keys,
                    Some(index),
                    format!("no entry up to here introduces data key {id}, which sealed this one"),
                ),
                Some(key) => {
                    if key.run != entry.run {
                        verdict.find(
                            Check::Keys,
                            Some(index),
                            format!("data key {id} belongs to run {}, not to this entry's", key.run),
                        );
                    }
                    self.used_destroyed += u64::from(key.destroyed != NONE);
                }
            }
        }
        for unknown in self.log_kinds(index, entry) {
            if !self.damaged {
                verdict.find(
                    Check::Keys,
                    Some(index),
                    format!("{} names data key {unknown}, which no entry up to here introduces", entry.kind),
                );
            }
        }
    }

    fn introduce(&mut self, index: u64, run: Uuid, introduced: &KeyDigest) -> bool {
        if self.keys.contains_key(&introduced.id) {
            return false;
        }
        self.keys.insert(
            introduced.id,
            Key {
                digest: introduced.digest,
                run,
                introduced: index,
                destroyed: NONE,
                parts_absent: NONE,
                tokens_absent: NONE,
                generation: 0,
                seen: false,
            },
        );
        true
    }

    /// What `key.destroyed` and `key.rewrapped` say; answers the keys that are not known.
    fn log_kinds(&mut self, index: u64, entry: &Entry) -> Vec<Uuid> {
        let mut unknown = Vec::new();
        let log = entry.log.as_ref();
        match (entry.kind.as_str(), log.and_then(|l| l.keys.as_ref())) {
            (kinds::KEY_DESTROYED, Some(LogKeys::Ids(ids))) => {
                for id in ids {
                    match self.keys.get_mut(id) {
                        None => unknown.push(*id),
                        Some(key) => {
                            key.destroyed = index;
                            key.parts_absent = NONE;
                            key.tokens_absent = NONE;
                        }
                    }
                }
            }
            (kinds::KEY_REWRAPPED, Some(LogKeys::Records(records))) => {
                for record in records {
                    match self.keys.get_mut(&record.id) {
                        None => unknown.push(record.id),
                        Some(key) => {
                            key.digest = record.digest;
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
    pub(crate) fn observe(&mut self, index: u64, entry: &Entry) {
        for introduced in entry.keys.iter().flatten() {
            self.introduce(index, entry.run, introduced);
        }
        self.log_kinds(index, entry);
    }

    /// The parts or tokens of an entry are not there: excused if its key is destroyed later. `false`: it has no key
    /// that could excuse it.
    pub(crate) fn absent(&mut self, index: u64, entry: &Entry, check: Check) -> bool {
        let Some(key) = entry.key.and_then(|id| self.keys.get_mut(&id)) else {
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

    /// Whether something is missing that an entry behind the end of the walk might explain.
    pub(crate) fn unexplained(&self) -> bool {
        self.keys.values().any(|k| {
            k.parts_absent != NONE || k.tokens_absent != NONE || (!k.seen && k.destroyed == NONE)
        })
    }

    /// Marks a record as there; answers what is wrong with it.
    pub(crate) fn record(&mut self, record: &KeyRecord) -> Result<(), (Option<u64>, String)> {
        let id = record.id;
        let Some(key) = self.keys.get_mut(&id) else {
            return Err((None, format!("no entry introduces data key {id}, but there is a record of it")));
        };
        key.seen = true;
        let wrong = |what: &str| {
            Err((Some(key.introduced), format!("the record of data key {id} {what}")))
        };
        if record.digest().digest != key.digest {
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
    pub(crate) fn finish(&self, records_read: bool, verdict: &mut Verdict) {
        let mut kept = 0_u64;
        // In the order of the log, so that the first finding is the first in the log.
        let mut missing: Vec<(u64, Check, String)> = Vec::new();
        for (id, key) in &self.keys {
            let destroyed = key.destroyed != NONE;
            verdict.counts.keys_destroyed += u64::from(destroyed);
            kept += u64::from(destroyed && key.seen);
            if records_read && !key.seen && !destroyed {
                missing.push((
                    key.introduced,
                    Check::Keys,
                    format!("the record of data key {id} is missing, and no key.destroyed names it"),
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
        missing.sort_unstable();
        for (index, check, message) in missing {
            verdict.find(check, Some(index), message);
        }
        if kept > 0 {
            verdict.notice(format!(
                "{kept} data keys are said to be destroyed, but their records are still there: an erasure is not complete"
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
