//! Data keys: introduced, used, rewrapped, destroyed.
//!
//! A log may have as many data keys as it has events, so they are not all kept. Where there are more than fit, those
//! that a keyed hash of their ids assigns to one share are; the entries are walked again for each further share.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use audit_core::Entry;
use audit_core::datakey::KeyRecord;
use audit_core::entry::{KeyDigest, LogKeys, kinds};
use audit_core::hex::Digest;
use uuid::Uuid;

use crate::runs::Said;
use crate::verdict::{Check, Verdict};

/// Data keys that are kept at once: what fills the 2^17 places of a hash table to the 7/8 at which it would grow. With
/// 65 bytes each they take 8.5 MB.
pub(crate) const KEYS_MAX: usize = (1 << 17) / 8 * 7;
/// Shares are halved so often; further, more keys than wanted are kept.
const SHARE_BITS_MAX: u32 = 32;

const NONE: u64 = u64::MAX;

/// What is kept of one data key.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something of its own, and they fill what the others leave of 48 bytes"
)]
struct Key {
    /// Of its record. Means nothing if it is not `introduced`.
    digest: Digest,
    /// The entry that introduces it; else the one that uses it, which is found already.
    index: u64,
    /// Its run, by its number in `Keys::runs`.
    run: u32,
    introduced: bool,
    /// There is more to say of it, in `Keys::more`.
    more: bool,
    /// Its record is there.
    seen: bool,
    /// The tokens or parts of the entry at `index` are there. That entry is the first that uses a key, in a log that was
    /// written as it should be.
    there: bool,
}

const _: () = assert!(size_of::<(Uuid, Key)>() == 64, "KEYS_MAX counts on it");

/// What is kept of a data key that is destroyed or rewrapped, of which something is missing, or of which something is there
/// but not of its first entry.
struct More {
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
    /// The first entry whose tokens or parts are there, if no `key.destroyed` is before it and it isn't `Key::there`.
    present: u64,
    /// By a `key.rewrapped`, else 0.
    generation: u64,
}

/// Of which nothing more is to be said.
const NO_MORE: More = More {
    destroyed: NONE,
    destroyed_mac: false,
    excuse: NONE,
    rewrapped: NONE,
    parts_absent: NONE,
    tokens_absent: NONE,
    present: NONE,
    generation: 0,
};

/// The ids whose keyed hash ends with these bits.
#[derive(Clone, Copy)]
struct Share {
    bits: u32,
    value: u64,
    /// What the entries before this index say of these keys was checked by an earlier walk, and is not found again.
    from: u64,
}

/// The data keys of a log.
pub(crate) struct Keys {
    by_id: HashMap<Uuid, Key>,
    more: HashMap<Uuid, More>,
    /// The runs that introduce data keys.
    runs: Vec<Uuid>,
    run_numbers: HashMap<Uuid, u32>,
    /// How many are kept at once.
    at_once: usize,
    /// Drawn anew each time, so that nobody can choose ids that fall into one share.
    hasher: RandomState,
    share: Share,
    /// The shares that are still to be looked at.
    later: Vec<Share>,
    /// Keys of the shares that are done.
    done: u64,
    totals: Totals,
    /// From which entry on, and why, something that can't be read might explain what is missing.
    incomplete: Option<(u64, String)>,
}

/// The keys that an entry may make known.
fn keys_of(entry: &Entry) -> usize {
    entry.keys.as_ref().map_or(0, Vec::len) + usize::from(entry.key.is_some())
}

/// What all shares together come to.
#[derive(Default)]
struct Totals {
    /// Destroyed keys whose records are there.
    kept: u64,
    /// The least id of them.
    kept_first: Option<Uuid>,
    /// Destroyed keys of which tokens or parts are there.
    present: u64,
    /// The first entry that has such.
    present_first: Option<u64>,
    used_destroyed: u64,
    unproven: Option<u64>,
}

impl Keys {
    /// Keeps at most `at_once` at once.
    pub(crate) fn new(at_once: usize) -> Self {
        Self {
            // All room at once, since a table that grows has its old half beside it; room that isn't used takes none.
            by_id: HashMap::with_capacity(at_once),
            more: HashMap::new(),
            runs: Vec::new(),
            run_numbers: HashMap::new(),
            at_once: at_once.max(1),
            hasher: RandomState::new(),
            share: Share {
                bits: 0,
                value: 0,
                from: 0,
            },
            later: Vec::new(),
            done: 0,
            totals: Totals::default(),
            incomplete: None,
        }
    }

    fn has(hasher: &RandomState, share: Share, id: &Uuid) -> bool {
        // Mostly there is one share.
        share.bits == 0 || hasher.hash_one(id) & ((1 << share.bits) - 1) == share.value
    }

    /// Whether this share is the one that looks at a key.
    fn mine(&self, id: &Uuid) -> bool {
        Self::has(&self.hasher, self.share, id)
    }

    /// Makes room for so many keys of the entry at `index`, by leaving half of this share to a later walk. An entry is
    /// checked for all keys of one share, so this comes before.
    fn room_for(&mut self, keys: usize, index: u64) {
        while self.by_id.len() + keys > self.at_once
            && !self.by_id.is_empty()
            && self.share.bits < SHARE_BITS_MAX
        {
            let Share { bits, value, from } = self.share;
            self.later.push(Share {
                bits: bits + 1,
                value: value | 1 << bits,
                from: from.max(index),
            });
            self.share.bits += 1;
            let (hasher, share) = (&self.hasher, self.share);
            self.by_id.retain(|id, _| Self::has(hasher, share, id));
            self.more.retain(|id, _| Self::has(hasher, share, id));
        }
    }

    /// Whether there is a further share: then the entries and the records are to be walked again.
    pub(crate) fn next_share(&mut self) -> bool {
        let Some(share) = self.later.pop() else {
            return false;
        };
        self.done += self.by_id.len() as u64;
        self.share = share;
        self.by_id.clear();
        self.more.clear();
        true
    }

    /// The entry at `index`, or what comes from there on, could not be read: what it says of data keys is not known, so
    /// nothing is found that it may explain.
    pub(crate) fn incomplete(&mut self, index: u64, why: impl FnOnce() -> String) {
        self.incomplete.get_or_insert_with(|| (index, why()));
    }

    fn complete_up_to(&self, index: u64) -> bool {
        self.incomplete.as_ref().is_none_or(|(at, _)| index < *at)
    }

    /// Data keys of which something was said so far.
    pub(crate) fn len(&self) -> u64 {
        self.done + self.share_len()
    }

    /// The same of this share.
    pub(crate) fn share_len(&self) -> u64 {
        self.by_id.len() as u64
    }

    fn run_number(&mut self, run: Uuid) -> u32 {
        let runs = &mut self.runs;
        *self.run_numbers.entry(run).or_insert_with(|| {
            let number = u32::try_from(runs.len()).unwrap_or(u32::MAX);
            runs.push(run);
            number
        })
    }

    fn run_of(&self, key: &Key) -> Uuid {
        usize::try_from(key.run)
            .ok()
            .and_then(|number| self.runs.get(number))
            .copied()
            .unwrap_or_default()
    }

    fn more_of(&self, id: &Uuid, key: &Key) -> &More {
        if key.more {
            self.more.get(id).unwrap_or(&NO_MORE)
        } else {
            &NO_MORE
        }
    }

    /// A key of this share with more to be said of it; `None`: it is not known.
    fn know_more(&mut self, id: Uuid) -> Option<(&mut Key, &mut More)> {
        let key = self.by_id.get_mut(&id)?;
        key.more = true;
        Some((key, self.more.entry(id).or_insert(NO_MORE)))
    }

    fn insert(&mut self, id: Uuid, digest: Option<Digest>, run: Uuid, index: u64) {
        let run = self.run_number(run);
        let key = Key {
            digest: digest.unwrap_or(Digest::from([0; 32])),
            index,
            run,
            introduced: digest.is_some(),
            more: false,
            seen: false,
            there: false,
        };
        self.by_id.insert(id, key);
    }

    /// The tokens or parts of an entry are there, which comes before all that destroy its key.
    fn present(&mut self, index: u64, id: Uuid) {
        let Some(key) = self.by_id.get_mut(&id) else {
            return;
        };
        if key.index == index {
            key.there = true;
        } else if !key.there
            && let Some((_, more)) = self.know_more(id)
        {
            more.present = more.present.min(index);
        }
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
        self.room_for(keys_of(entry), index);
        // State is made anew by each walk, findings are not.
        let new = index >= self.share.from;
        for introduced in entry.keys.iter().flatten() {
            if !self.introduce(index, entry.run, introduced) && new {
                verdict.find(
                    Check::Keys,
                    Some(index),
                    format!("data key {} is introduced a second time", introduced.id),
                );
            }
        }
        if let Some(id) = entry.key.filter(|id| self.mine(id)) {
            match self.by_id.get(&id) {
                None => {
                    if new && self.complete_up_to(index) {
                        verdict.find(
                            Check::Keys,
                            Some(index),
                            format!("no entry up to here introduces data key {id}, which sealed this one"),
                        );
                    }
                    // Once is enough.
                    self.insert(id, None, entry.run, index);
                }
                Some(key) => {
                    let run = self.run_of(key);
                    if new && run != entry.run {
                        verdict.find(
                            Check::Keys,
                            Some(index),
                            format!("data key {id} belongs to run {run}, not to this entry's"),
                        );
                    }
                    let destroyed = self.more_of(&id, key).destroyed != NONE;
                    self.totals.used_destroyed += u64::from(new && destroyed);
                    if there && !destroyed {
                        self.present(index, id);
                    }
                }
            }
        }
        if !said.signed {
            // What nobody signed destroys and rewraps nothing.
            return;
        }
        for unknown in self.log_kinds(index, entry, said.mac) {
            if new && self.complete_up_to(index) {
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
        if !self.mine(&introduced.id) {
            return true;
        }
        if self.by_id.contains_key(&introduced.id) {
            return false;
        }
        self.insert(introduced.id, Some(introduced.digest), run, index);
        true
    }

    /// What `key.destroyed` and `key.rewrapped` say; answers the keys that are not known.
    fn log_kinds(&mut self, index: u64, entry: &Entry, mac: bool) -> Vec<Uuid> {
        let mut unknown = Vec::new();
        let log = entry.log.as_ref();
        match (entry.kind.as_str(), log.and_then(|l| l.keys.as_ref())) {
            (kinds::KEY_DESTROYED, Some(LogKeys::Ids(ids))) => {
                for id in ids {
                    if !self.mine(id) {
                        continue;
                    }
                    let Some((_, more)) = self.know_more(*id) else {
                        unknown.push(*id);
                        continue;
                    };
                    let excuses = more.parts_absent != NONE || more.tokens_absent != NONE;
                    if excuses && !mac {
                        more.excuse = index;
                    }
                    more.destroyed = more.destroyed.min(index);
                    more.destroyed_mac |= mac;
                    more.parts_absent = NONE;
                    more.tokens_absent = NONE;
                }
            }
            (kinds::KEY_REWRAPPED, Some(LogKeys::Records(records))) => {
                for record in records {
                    if !self.mine(&record.id) {
                        continue;
                    }
                    let Some((key, more)) = self.know_more(record.id) else {
                        unknown.push(record.id);
                        continue;
                    };
                    key.digest = record.digest;
                    key.introduced = true;
                    more.rewrapped = if mac { NONE } else { index };
                    more.generation = log.and_then(|l| l.generation).unwrap_or_default();
                }
            }
            _ => {}
        }
        unknown
    }

    /// An entry that came while the log was being verified.
    pub(crate) fn observe(&mut self, index: u64, entry: &Entry, signed: bool) {
        // No room is made: keys that came during one verification are few, and each share takes up its own.
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
        let Some(id) = entry.key else { return false };
        if !self.mine(&id) {
            return true;
        }
        let Some((_, more)) = self.know_more(id) else {
            return false;
        };
        let first = if check == Check::Parts {
            &mut more.parts_absent
        } else {
            &mut more.tokens_absent
        };
        *first = (*first).min(index);
        true
    }

    /// Why records can't be held against the entries, if they can't.
    pub(crate) fn why_incomplete(&self) -> Option<&str> {
        self.incomplete.as_ref().map(|(_, why)| why.as_str())
    }

    /// Whether something is missing that an entry behind the end of the walk might explain.
    pub(crate) fn unexplained(&self) -> bool {
        self.by_id.iter().any(|(id, key)| {
            let more = self.more_of(id, key);
            more.parts_absent != NONE
                || more.tokens_absent != NONE
                || (!key.seen && more.destroyed == NONE)
        })
    }

    /// Marks a record as there; answers what is wrong with it.
    pub(crate) fn record(&mut self, record: &KeyRecord) -> Result<(), (Option<u64>, String)> {
        let id = record.id;
        if !self.mine(&id) {
            return Ok(());
        }
        if let Some(key) = self.by_id.get_mut(&id) {
            key.seen = true;
        }
        let Some(key) = self.by_id.get(&id) else {
            return Err((
                None,
                format!("no entry introduces data key {id}, but there is a record of it"),
            ));
        };
        let wrong = |what: &str| {
            Err((
                Some(key.index),
                format!("the record of data key {id} {what}"),
            ))
        };
        if !key.introduced {
            return Ok(());
        }
        if record.digest().digest != key.digest {
            return wrong("is not the one that the entries name");
        }
        if record.run != self.run_of(key) {
            return wrong("names another run than the entry that introduces it");
        }
        let generation = self.more_of(&id, key).generation;
        if generation != 0 && generation != u64::from(record.generation) {
            return wrong("is of another generation than key.rewrapped says");
        }
        Ok(())
    }

    /// What is missing of this share, once everything has been read.
    pub(crate) fn finish_share(
        &mut self,
        records_read: bool,
        follows: bool,
        verdict: &mut Verdict,
    ) {
        // What no checkpoint and no MAC speaks for, anybody who can write to the store may have appended: it excuses
        // nothing.
        let covered = verdict.covered.as_ref().map_or(0, |c| c.size);
        let mut totals = std::mem::take(&mut self.totals);
        // In the order of the log, so that the first finding is the first in the log.
        let mut missing: Vec<(u64, Check, &str, Uuid)> = Vec::new();
        for (id, key) in &self.by_id {
            let more = self.more_of(id, key);
            let destroyed = more.destroyed != NONE;
            verdict.counts.keys_destroyed += u64::from(destroyed);
            let record_gone = destroyed && !key.seen && !more.destroyed_mac;
            for (relied_on, index) in [
                (true, more.excuse),
                (record_gone, more.destroyed),
                (key.seen, more.rewrapped),
            ] {
                if relied_on && index != NONE && index >= covered {
                    totals.unproven = Some(totals.unproven.map_or(index, |u| u.min(index)));
                }
            }
            if destroyed && key.seen {
                totals.kept += 1;
                totals.kept_first = Some(totals.kept_first.map_or(*id, |first| first.min(*id)));
            }
            let present = if key.there { key.index } else { more.present };
            // What came after the erasure is told below.
            if destroyed && present < more.destroyed {
                totals.present += 1;
                let first = totals.present_first;
                totals.present_first = Some(first.map_or(present, |first| first.min(present)));
            }
            if records_read && !key.seen && !destroyed && key.introduced {
                missing.push((key.index, Check::Keys, "record", *id));
            }
            for (absent, check, what) in [
                (more.parts_absent, Check::Parts, "stored parts are"),
                (more.tokens_absent, Check::Tokens, "tokens are"),
            ] {
                if absent != NONE {
                    missing.push((absent, check, what, *id));
                }
            }
        }
        self.totals = totals;
        missing.sort_unstable();
        for (index, check, what, id) in missing {
            let message = if check == Check::Keys {
                format!("the record of data key {id} is missing, and no key.destroyed names it")
            } else {
                format!(
                    "the {what} missing, and no key.destroyed behind this entry names data key {id}"
                )
            };
            match self.why_incomplete() {
                None => verdict.found(check, Some(index), &message, follows),
                Some(why) => verdict.not_checked(
                    check,
                    format!("whether what is missing may be missing: {why}"),
                ),
            }
        }
    }

    /// What all shares come to.
    pub(crate) fn finish(&self, verdict: &mut Verdict) {
        let Totals {
            kept,
            kept_first,
            present,
            present_first,
            used_destroyed,
            unproven,
        } = self.totals;
        verdict.counts.keys = self.len();
        if let Some(index) = unproven {
            let why = format!(
                "what is missing or rewrapped is excused from index {index} on, by entries that no checkpoint commits to \
                 and no checked MAC speaks for"
            );
            verdict.not_checked(Check::Keys, why.clone());
            verdict.undecide(why);
        }
        // Whoever has an older copy can put back what was erased: what was said to be gone must be gone.
        if let Some(first) = kept_first {
            verdict.undecide(format!(
                "{kept} data keys are destroyed, but their records are there (the first: {first}): the erasure is not complete, or \
                 was undone; erase again"
            ));
        }
        if let Some(first) = present_first {
            verdict.undecide(format!(
                "{present} data keys are destroyed, but tokens or stored parts that were erased with them are there (the first: \
                 of the entry at index {first}): the erasure is not complete, or was undone; erase again"
            ));
        }
        if used_destroyed > 0 {
            verdict.notice(format!(
                "{used_destroyed} entries were sealed with a data key after an entry said that it was destroyed"
            ));
        }
    }
}
