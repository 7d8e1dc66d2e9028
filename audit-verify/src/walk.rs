//! Verification: one walk over the entries in the order of their indexes, then the other tables.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use audit_core::entry::{Entry, LogKeys, Role, kinds};
use audit_core::hex::{Digest, Hex};
use audit_core::row::{Parts, Row};
use audit_core::time::Timestamp;
use audit_core::token::Token;
use audit_core::{Error, ErrorKind, Result};
use audit_tlog::Hash;
use audit_tlog::checkpoint::Checkpoint;
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::{EdgeTiles, SIZE_MAX};
use sha2::{Digest as _, Sha256};

use crate::Evidence;
use crate::checkpoints::{self, Checkpoints, Looked};
use crate::content::Contents;
use crate::keys::{KEYS_MAX, Keys};
use crate::policy::{Policy, Progress, Stage};
use crate::runs::{Runs, Said};
use crate::second_root::SecondRoot;
use crate::tiles::Tiles;
use crate::tokens::TokenSums;
use crate::verdict::{Check, CheckResult, Covered, Verdict, describe};

/// Rows of a table read at once.
const PAGE: usize = 4096;
/// Entries read at once, without their parts about 300 KB: stores give up to 4 MiB, and every thread that reads keeps as
/// much for the next time. More costs time too: the allocator gives large pages back to the system, to be faulted in anew.
const ROWS: u64 = 256;
/// Entries between two words about progress.
const PROGRESS: u64 = 4096;
/// Indexes in which differing token rows are looked for at once.
const TOKEN_SPAN_MAX: u64 = 65_536;
/// Rows of the token index that are taken beyond those that the entries explain, before reading it is given up.
const TOKEN_ROWS_EXTRA_MAX: u64 = 1 << 20;
/// A clock this far ahead of the verifier's is worth a word.
const CLOCK_AHEAD_MICROS: i64 = 300_000_000;

/// What an unpublished tail that should not be there may mean.
const UNPUBLISHED_HINT: &str =
    "checkpoints may have been removed, or the publisher stopped; if it runs, verify again";

/// Verifies evidence against a policy. Every problem becomes part of the verdict.
///
/// Entries are read once, in order, and once more for every further 114,688 data keys, since no more of them are kept
/// in memory. What is kept grows with the runs of the log, and with nothing else of it.
pub fn verify(
    evidence: &dyn Evidence,
    policy: &Policy<'_>,
    progress: &mut dyn Progress,
) -> Verdict {
    verify_holding(evidence, policy, KEYS_MAX, progress)
}

/// As [`verify`], with at most `keys_max` data keys in memory at once: 65 bytes for each, and up to 122 more if it was
/// destroyed or rewrapped, or if something of it is missing, or is there but for its first entry. The verdict is the same, but for which findings it tells one by one where there are many.
pub fn verify_holding(
    evidence: &dyn Evidence,
    policy: &Policy<'_>,
    keys_max: usize,
    progress: &mut dyn Progress,
) -> Verdict {
    let mut verdict = Verdict::new(policy.vkey.name(), policy.vkey.to_string());
    if let Err(e) = evidence.integrity() {
        verdict.failed_read(Check::Engine, &e);
        if e.kind() == ErrorKind::Corrupt {
            verdict.count(Check::Engine, 1);
        } else {
            verdict.not_checked(Check::Engine, "the engine could not look at its files");
        }
    } else if evidence.has_engine() {
        verdict.count(Check::Engine, 1);
    } else {
        verdict.not_checked(Check::Engine, "no storage engine: a bundle");
    }
    let size = match evidence.size() {
        Ok(size) => size,
        Err(e) => {
            verdict.not_opened(&e);
            return verdict;
        }
    };
    verdict.size = size;
    let remembered = checkpoints::remembered(policy, &mut verdict);
    let mut walk = Walk {
        evidence,
        policy,
        size,
        next: 0,
        read_parts: policy.content && evidence.has_parts(),
        edge: EdgeTiles::new(),
        tiles: Tiles::new(),
        runs: Runs::new(),
        keys: Keys::new(keys_max),
        said: BTreeMap::new(),
        tokens: TokenSums::new(0..size),
        token_rows: 0,
        contents: None,
        checkpoints: Checkpoints::default(),
        checkpoints_readable: true,
        key_known: !remembered.is_empty(),
        remembered,
        foreign: Vec::new(),
        foreign_total: 0,
        identity: Vec::new(),
        root_wrong: None,
        remembered_wrong: None,
        remembered_good: 0,
        stored: 0,
        unstored: Vec::new(),
        root_skipped: 0,
        good: 0,
        heads: Heads::default(),
        latest: None,
        previous: None,
        last: None,
        ahead: None,
        tail: None,
        closed: None,
        gap: None,
        covered_latest: None,
        second: policy.full.then(SecondRoot::default),
        second_at: size,
        verdict,
    };
    walk.prepare();
    let complete = walk.entries(progress);
    walk.after_entries(complete, progress);
    walk.verdict.finish();
    walk.verdict
}

/// A checkpoint whose root is not that of the entries.
struct RootWrong {
    size: u64,
    should: Hash,
    is: Hash,
    /// The entries below this index are under a checkpoint that is right.
    good: u64,
}

/// What became of the heads that entries name.
#[derive(Default)]
struct Heads {
    /// The entries below this index are those that the last right head names.
    good: u64,
    wrong: bool,
    /// Heads whose roots differ as well, behind the first that does.
    skipped: u64,
}

struct Walk<'a> {
    evidence: &'a dyn Evidence,
    policy: &'a Policy<'a>,
    verdict: Verdict,
    size: u64,
    next: u64,
    read_parts: bool,
    edge: EdgeTiles,
    tiles: Tiles,
    runs: Runs,
    keys: Keys,
    /// What is known of the entries that destroy or rewrap data keys, if the walk must be repeated.
    said: BTreeMap<u64, Said>,
    tokens: TokenSums,
    /// Rows that the token index must have.
    token_rows: u64,
    contents: Option<Contents<'a>>,
    checkpoints: Checkpoints,
    checkpoints_readable: bool,
    remembered: VecDeque<Checkpoint>,
    /// The policy's key has something to do with this evidence.
    key_known: bool,
    /// Sizes of checkpoints that the policy's key didn't sign.
    foreign: Vec<u64>,
    foreign_total: u64,
    /// What speaks against the evidence being of the policy's log.
    identity: Vec<(Option<u64>, String)>,
    root_wrong: Option<RootWrong>,
    remembered_wrong: Option<RootWrong>,
    /// The size of the last remembered checkpoint that held. The evidence's own checkpoints say nothing here: another
    /// history has good ones of its own.
    remembered_good: u64,
    /// The size of the last checkpoint of the evidence so far that the policy's key signed.
    stored: u64,
    /// Sizes of remembered checkpoints that held, and that the evidence doesn't have.
    unstored: Vec<u64>,
    root_skipped: u64,
    good: u64,
    heads: Heads,
    /// The latest time of a record that isn't ahead of the verifier's clock.
    latest: Option<Timestamp>,
    /// The time of the last record that isn't.
    previous: Option<Timestamp>,
    /// The time of the last record.
    last: Option<Timestamp>,
    /// How far a record is ahead of the verifier's clock at most.
    ahead: Option<i64>,
    /// The earliest and latest time behind the last covered entry: that one may be old, where a log was idle.
    tail: Option<(Timestamp, Timestamp)>,
    /// The last entry that closes a run.
    closed: Option<u64>,
    gap: Option<(i64, u64)>,
    covered_latest: Option<Timestamp>,
    second: Option<SecondRoot>,
    second_at: u64,
}

impl Walk<'_> {
    /// Says what the policy leaves out, and looks at what the evidence says of itself.
    fn prepare(&mut self) {
        let policy = self.policy;
        let v = &mut self.verdict;
        if policy.remembered.is_empty() {
            v.not_checked(
                Check::Remembered,
                "rollback against a remembered checkpoint: none was given",
            );
        }
        if policy.opened.is_none() {
            v.not_checked(
                Check::Signatures,
                "the writer keys are the ones that the evidence itself registers: no leaf hash of the first entry was given",
            );
        }
        if policy.auditor.is_none() {
            v.not_checked(Check::Mac, "MAC chains: no auditor key given");
        }
        if !policy.full {
            v.not_checked(Check::SecondRoot, "not asked for");
        }
        if policy.fresh_within.is_none() {
            v.not_checked(Check::Fresh, "no limit given");
        }
        if !policy.content {
            v.not_checked(Check::Parts, "stored parts: not asked for");
        } else if !self.read_parts {
            v.not_checked(Check::Parts, "stored parts: the evidence came without them");
        }
        match policy.operator {
            None => v.not_checked(
                Check::Content,
                "content against its commitments: no operator's key ring given",
            ),
            Some(_) if !self.read_parts => {
                v.not_checked(
                    Check::Content,
                    "content against its commitments: stored parts were not read",
                );
            }
            Some(ring) if ring.vkey() != policy.vkey => {
                let why = "the operator's key ring is of another log";
                v.not_checked(Check::Content, why);
                v.undecide(why);
            }
            Some(ring) => self.contents = Some(Contents::new(ring)),
        }
        // What it says of its locks is told, whatever else becomes of it.
        v.retention_lock = self.evidence.retention_lock().unwrap_or_default();
        if v.retention_lock == Some(false) {
            v.notice(crate::evidence::WITHOUT_RETENTION_LOCK);
        }
        match self.evidence.origin() {
            Err(e) => v.failed_read(Check::Identity, &e),
            // A bundle has one always; a store that lost it is no store of a log.
            Ok(None) if self.evidence.has_engine() => self.identity.push((
                None,
                "the evidence doesn't say which log it is of".to_owned(),
            )),
            Ok(None) => {}
            Ok(Some(origin)) => {
                v.count(Check::Identity, 1);
                if origin != policy.vkey.name() {
                    self.identity.push((
                        None,
                        format!(
                            "the evidence says that it is of the log {origin:?}, not {:?}",
                            policy.vkey.name()
                        ),
                    ));
                }
            }
        }
        if self.size > SIZE_MAX {
            v.find(
                Check::Index,
                None,
                format!(
                    "the evidence claims {} entries, more than a tree can have",
                    self.size
                ),
            );
        }
        if self.size == 0 {
            v.undecide("the log is empty");
        }
        if policy.full {
            // The second root is taken where the greatest checkpoint is, so that both are compared with the same one.
            let greatest =
                Checkpoints::greatest_up_to(self.evidence, self.size).unwrap_or_default();
            let remembered = self
                .remembered
                .iter()
                .map(|c| c.size)
                .filter(|s| *s <= self.size)
                .max();
            self.second_at = greatest.max(remembered).unwrap_or(self.size);
        }
    }

    /// How large the log is by now: a live store may have grown since the walk began.
    fn grown_to(evidence: &dyn Evidence, size: u64) -> u64 {
        evidence.size().map_or(size, |now| now.max(size))
    }

    /// Walks the entries; `false` if it had to stop before the end.
    fn entries(&mut self, progress: &mut dyn Progress) -> bool {
        let parts = if self.read_parts {
            Parts::With
        } else {
            Parts::Without
        };
        let mut end = self.size;
        let mut unreadable: Option<Error> = None;
        self.at_checkpoints();
        while self.next < end {
            let until = end.min(self.next.saturating_add(ROWS));
            let rows = match self.evidence.rows(self.next..until, parts) {
                Ok(rows) => rows,
                Err(e) => match e.index() {
                    // What lies before the bad row can still be read.
                    Some(bad) if bad > self.next && bad < end => {
                        end = bad;
                        unreadable = Some(e);
                        continue;
                    }
                    _ => {
                        unreadable = Some(e);
                        break;
                    }
                },
            };
            if rows.is_empty() {
                self.verdict.find(
                    Check::Index,
                    Some(self.next),
                    format!(
                        "the entry is missing; the evidence says that it has {}",
                        self.size
                    ),
                );
                return self.stop();
            }
            for row in rows {
                if self.next == end {
                    break;
                }
                if row.index != self.next {
                    let what = if row.index > self.next {
                        format!(
                            "the entry is missing; the next one that is there has index {}",
                            row.index
                        )
                    } else {
                        format!(
                            "an entry with index {} stands where this one must",
                            row.index
                        )
                    };
                    self.verdict.find(Check::Index, Some(self.next), what);
                    return self.stop();
                }
                self.row(&row);
                self.next += 1;
                self.verdict.count(Check::Index, 1);
                self.at_checkpoints();
                if self.next.is_multiple_of(PROGRESS) {
                    progress.at(Stage::Entries, self.next, self.size);
                }
            }
        }
        progress.at(Stage::Entries, self.next, self.size);
        if let Some(e) = unreadable {
            let e = if e.index().is_none() {
                e.at(self.next)
            } else {
                e
            };
            self.verdict.failed_read(Check::Index, &e);
            return self.stop();
        }
        match self
            .evidence
            .rows(self.size..self.size.saturating_add(1), Parts::Without)
        {
            Err(e) => self.verdict.failed_read(Check::Index, &e),
            Ok(rows) if rows.is_empty() => {}
            Ok(_) if Self::grown_to(self.evidence, self.size) > self.size => {}
            Ok(_) => {
                self.verdict.find(
                    Check::Index,
                    Some(self.size),
                    format!(
                        "there is an entry behind the end: the evidence says that it has {}",
                        self.size
                    ),
                );
                self.keys.incomplete(self.size, || {
                    format!("the entries from index {} on were not read", self.size)
                });
            }
        }
        true
    }

    fn stop(&mut self) -> bool {
        let why = format!("the walk over the entries stopped at index {}", self.next);
        for check in [
            Check::Index,
            Check::Entry,
            Check::Columns,
            Check::Tokens,
            Check::Parts,
            Check::Tiles,
            Check::Root,
            Check::Remembered,
            Check::SecondRoot,
            Check::Runs,
            Check::Signatures,
            Check::Heads,
            Check::Recorded,
            Check::Keys,
            Check::TokenRows,
            Check::Mac,
            Check::Content,
            Check::Gaps,
            Check::Fresh,
        ] {
            self.verdict.not_checked(check, why.clone());
        }
        self.keys.incomplete(self.next, || why);
        false
    }

    fn row(&mut self, row: &Row) {
        let index = row.index;
        self.verdict.counts.entries += 1;
        let leaf = leaf_hash(&row.entry);
        if index == 0
            && let Some(opened) = self.policy.opened
        {
            self.verdict.count(Check::Identity, 1);
            if leaf != opened {
                self.verdict.find(
                    Check::Identity,
                    Some(0),
                    format!("the leaf hash of the first entry is {leaf}, not {opened}"),
                );
            }
        }
        match Entry::decode(&row.entry) {
            Err(e) => {
                self.verdict.find(Check::Entry, Some(index), describe(&e));
                self.runs.damaged(index);
                self.keys.incomplete(index, || unreadable(index));
                self.tokens.exclude(index);
            }
            Ok(entry) => {
                self.verdict.count(Check::Entry, 1);
                self.entry(row, &entry);
            }
        }
        if let Some(second) = &mut self.second
            && index < self.second_at
        {
            second.push(&row.entry);
        }
        if !self.edge.push(leaf).is_empty() {
            let (evidence, size) = (self.evidence, self.size);
            let mut grown_to = || Self::grown_to(evidence, size);
            for tile in self.edge.take_changed() {
                if tile.id.is_full() {
                    self.tiles
                        .compare(evidence, &tile, &mut grown_to, &mut self.verdict);
                }
            }
        }
    }

    fn entry(&mut self, row: &Row, entry: &Entry) {
        let index = row.index;
        let v = &mut self.verdict;
        for (what, differs) in [
            ("event", row.columns.event != entry.event),
            ("kind", row.columns.kind != entry.kind),
            ("time", row.columns.time != entry.time),
        ] {
            if differs {
                v.find(
                    Check::Columns,
                    Some(index),
                    format!("column {what} is not what the entry says"),
                );
            }
        }
        v.count(Check::Columns, 1);
        if index == 0 && entry.kind.as_str() == kinds::LOG_OPENED {
            self.opened(entry);
        }
        let v = &mut self.verdict;
        let said = self.runs.check(index, entry, self.policy, v);
        self.keys.check(index, entry, there(row), said, v);
        if said.signed
            && matches!(
                entry.kind.as_str(),
                kinds::KEY_DESTROYED | kinds::KEY_REWRAPPED
            )
        {
            self.said.insert(index, said);
        }
        if entry.kind.as_str() == kinds::WRITER_CLOSED {
            self.closed = Some(index);
        }
        self.head(index, entry);
        self.row_tokens(row, entry);
        if self.read_parts {
            self.row_parts(row, entry);
        }
        self.recorded(index, entry.recorded);
    }

    /// Compares the head that an entry names with the tree before it.
    fn head(&mut self, index: u64, entry: &Entry) {
        let Some(head) = entry.log.as_ref().and_then(|l| l.head) else {
            return;
        };
        self.verdict.count(Check::Heads, 1);
        if head.size != index {
            self.verdict.find(
                Check::Heads,
                Some(index),
                format!(
                    "{} of run {} was written behind {} entries, here are {index} before it",
                    entry.kind, entry.run, head.size
                ),
            );
            return;
        }
        let is = self.edge.root();
        if Hash::from(head.root) == is {
            self.heads.good = index;
        } else if self.heads.wrong {
            self.heads.skipped += 1;
        } else {
            self.heads.wrong = true;
            // The entries before it are wrong, not this one: what names one of them comes first.
            self.verdict.found(
                Check::Heads,
                Some(index),
                &format!(
                    "{} of run {} saw the root {} before it, that of the entries is {is}; the first bad index lies from {} to \
                     {index}",
                    entry.kind, entry.run, head.root, self.heads.good
                ),
                true,
            );
        }
    }

    /// Takes up the time of a record, and measures the gap before it.
    fn recorded(&mut self, index: u64, recorded: Timestamp) {
        self.last = Some(recorded);
        self.tail = Some(self.tail.map_or((recorded, recorded), |(first, last)| {
            (first.min(recorded), last.max(recorded))
        }));
        let ahead = recorded
            .as_micros()
            .saturating_sub(self.policy.now.as_micros());
        if ahead > CLOCK_AHEAD_MICROS {
            self.ahead = self.ahead.max(Some(ahead));
            for (check, limited) in [
                (Check::Gaps, self.policy.gap_max.is_some()),
                (Check::Fresh, self.policy.fresh_within.is_some()),
            ] {
                if limited {
                    self.verdict.find(
                        check,
                        Some(index),
                        format!(
                            "the record is {} ahead of the verifier's clock",
                            seconds(ahead)
                        ),
                    );
                }
            }
            // It says nothing of the time between its neighbours.
            return;
        }
        if let Some(previous) = self.previous {
            let gap = recorded
                .as_micros()
                .saturating_sub(previous.as_micros())
                .max(0);
            if self.gap.is_none_or(|(longest, _)| gap > longest) {
                self.gap = Some((gap, index));
            }
            if let Some(gap_max) = self.policy.gap_max {
                self.verdict.count(Check::Gaps, 1);
                if u128::from(gap.unsigned_abs()) > gap_max.as_micros() {
                    self.verdict.find(
                        Check::Gaps,
                        Some(index),
                        format!(
                            "{} without a record before this one, allowed are {}",
                            seconds(gap),
                            duration(gap_max)
                        ),
                    );
                }
            }
        }
        self.previous = Some(recorded);
        self.latest = self.latest.max(Some(recorded));
    }

    /// The first entry says which log this is.
    fn opened(&mut self, entry: &Entry) {
        let Some(log) = &entry.log else { return };
        self.verdict.count(Check::Identity, 2);
        let origin = log.origin.as_deref().unwrap_or_default();
        if origin != self.policy.vkey.name() {
            self.identity.push((
                Some(0),
                format!(
                    "the log was opened as {origin:?}, not {:?}",
                    self.policy.vkey.name()
                ),
            ));
        }
        let ours: Digest = Hex(self.policy.vkey.public_key());
        let registered = matches!(&log.keys, Some(LogKeys::Public(keys))
            if keys.iter().any(|k| k.role == Role::Publisher && k.public == ours));
        if let Some(predecessor) = &log.predecessor {
            self.verdict.notice(format!(
                "this log succeeds {:?}, of which a checkpoint of {} entries with root {} was signed and {} entries were \
                 restored; what was lost is not in this log",
                predecessor.origin, predecessor.lost.size, predecessor.lost.root, predecessor.survives.size
            ));
        }
        if registered {
            self.key_known = true;
        } else {
            self.identity.push((
                Some(0),
                "the log was opened with another publisher key than the policy's".to_owned(),
            ));
        }
    }

    fn row_tokens(&mut self, row: &Row, entry: &Entry) {
        let index = row.index;
        let v = &mut self.verdict;
        match (&entry.tokens, &row.tokens) {
            (None, None) => {}
            (Some(digest), Some(set)) => {
                v.count(Check::Tokens, 1);
                if set.tokens.is_empty()
                    || !set.tokens.is_sorted_by(|a, b| a < b)
                    || set.digest() != *digest
                {
                    v.find(
                        Check::Tokens,
                        Some(index),
                        "the tokens are not those that the entry commits to",
                    );
                    self.tokens.exclude(index);
                    return;
                }
                for token in &set.tokens {
                    self.tokens.expect(token, index);
                    self.token_rows += 1;
                }
            }
            (Some(_), None) => {
                if !self.keys.absent(index, entry, Check::Tokens) {
                    v.find(
                        Check::Tokens,
                        Some(index),
                        "the tokens are missing, and the entry has no key that could be destroyed",
                    );
                }
            }
            (None, Some(_)) => {
                v.find(
                    Check::Tokens,
                    Some(index),
                    "there are tokens, but the entry has none",
                );
                self.tokens.exclude(index);
            }
        }
    }

    fn row_parts(&mut self, row: &Row, entry: &Entry) {
        let index = row.index;
        let v = &mut self.verdict;
        let (content, parts) = match (&entry.content, &row.parts) {
            (None, None) => return,
            (None, Some(_)) => {
                return v.find(
                    Check::Parts,
                    Some(index),
                    "there are stored parts, but the entry has none",
                );
            }
            (Some(_), None) => {
                v.counts.erased += 1;
                if !self.keys.absent(index, entry, Check::Parts) {
                    v.find(Check::Parts, Some(index), "the stored parts are missing");
                }
                return;
            }
            (Some(content), Some(parts)) => (content, parts),
        };
        let split = match entry.split_parts(parts) {
            Ok(split) => split,
            Err(e) => return v.find(Check::Parts, Some(index), describe(&e)),
        };
        let named = std::iter::once(("content", content.sha256)).chain(
            entry
                .payloads
                .iter()
                .flatten()
                .map(|p| (p.name.as_str(), p.sha256)),
        );
        let mut right = true;
        for ((name, sha256), part) in named.zip(split) {
            v.count(Check::Parts, 1);
            v.counts.parts += 1;
            v.counts.parts_bytes += part.len() as u64;
            let is: Digest = Hex(Sha256::digest(part).into());
            if is != sha256 {
                right = false;
                v.find(
                    Check::Parts,
                    Some(index),
                    format!("stored part {name:?} is not the one that the entry commits to"),
                );
            }
        }
        if right && let Some(contents) = &mut self.contents {
            contents.check(entry, row, parts, self.evidence, v);
        }
    }

    /// Compares with the checkpoints over exactly the entries so far.
    fn at_checkpoints(&mut self) {
        let size = self.edge.size();
        if self.second.is_some() && size == self.second_at && size > 0 {
            self.second_root();
        }
        while self.checkpoints_readable {
            match self.checkpoints.peek(self.evidence) {
                Ok(Some(next)) if next <= size => {
                    if let Some((_, looked)) = self.checkpoints.take(self.policy, &mut self.verdict)
                    {
                        self.looked_at(next, looked);
                    }
                }
                Ok(_) => break,
                Err(e) => {
                    self.verdict.failed_read(Check::Checkpoints, &e);
                    self.verdict.not_checked(
                        Check::Checkpoints,
                        "further checkpoints: they could not be read",
                    );
                    self.verdict
                        .not_checked(Check::Root, "further checkpoints: they could not be read");
                    self.checkpoints_readable = false;
                }
            }
        }
        while self.remembered.front().is_some_and(|c| c.size <= size) {
            let Some(checkpoint) = self.remembered.pop_front() else {
                break;
            };
            if checkpoint.size == 0 {
                self.verdict
                    .notice("a remembered checkpoint is of the empty log, which any log continues");
                continue;
            }
            let is = self.edge.root();
            if is == checkpoint.root {
                self.verdict.count(Check::Remembered, 1);
                self.remembered_good = checkpoint.size;
                if self.stored != checkpoint.size && self.checkpoints_readable {
                    self.unstored.push(checkpoint.size);
                }
                self.covers(checkpoint.size, is, true);
            } else if self.remembered_wrong.is_none() {
                self.remembered_wrong = Some(RootWrong {
                    size,
                    should: checkpoint.root,
                    is,
                    good: self.remembered_good,
                });
            }
        }
    }

    fn looked_at(&mut self, size: u64, looked: Looked) {
        match looked {
            Looked::Wrong => {}
            Looked::Foreign => {
                self.foreign_total += 1;
                if self.foreign.len() < 10 {
                    self.foreign.push(size);
                }
            }
            Looked::Signed(checkpoint) => {
                self.key_known = true;
                self.stored = size;
                if self.root_wrong.is_some() {
                    self.root_skipped += 1;
                    return;
                }
                let is = self.edge.root();
                if is == checkpoint.root {
                    self.verdict.count(Check::Root, 1);
                    self.covers(size, is, false);
                } else {
                    self.root_wrong = Some(RootWrong {
                        size,
                        should: checkpoint.root,
                        is,
                        good: self.good,
                    });
                }
            }
        }
    }

    fn covers(&mut self, size: u64, root: Hash, remembered: bool) {
        self.good = size;
        self.covered_latest = self.latest;
        self.tail = None;
        if self.verdict.covered.as_ref().is_none_or(|c| c.size < size) {
            self.verdict.covered = Some(Covered {
                size,
                root,
                remembered,
            });
        }
    }

    fn second_root(&mut self) {
        let Some(second) = &self.second else { return };
        let (is, should) = (second.root(), self.edge.root());
        self.verdict.count(Check::SecondRoot, self.second_at);
        if is != Some(*should.as_bytes()) {
            self.verdict.find(
                Check::SecondRoot,
                None,
                format!(
                    "two implementations give different roots for the first {} entries",
                    self.second_at
                ),
            );
        }
        if self.second_at < self.size {
            self.verdict.notice(format!(
                "the second root was computed over the {} published entries",
                self.second_at
            ));
        }
        self.second = None;
    }

    fn after_entries(&mut self, complete: bool, progress: &mut dyn Progress) {
        let (evidence, size) = (self.evidence, self.size);
        if complete {
            let mut grown_to = || Self::grown_to(evidence, size);
            self.tiles
                .finish(evidence, &self.edge, &mut grown_to, &mut self.verdict);
        }
        self.roots();
        self.later_checkpoints(complete);
        let mut records = self.key_records(complete, false, progress);
        if complete {
            self.token_table(progress);
        }
        self.finish_share(complete && records);
        while self.keys.next_share() {
            self.entries_again(progress);
            records = self.key_records(complete, !records, progress) && records;
            self.finish_share(complete && records);
        }
        self.keys.finish(&mut self.verdict);
        self.runs.finish(&mut self.verdict);
        if self.heads.skipped > 0 {
            self.verdict.not_checked(
                Check::Heads,
                format!(
                    "{} later heads: their roots follow from the wrong one",
                    self.heads.skipped
                ),
            );
        }
        if let Some(contents) = &self.contents {
            contents.finish(&mut self.verdict);
        }
        self.conclude(complete);
        self.times();
    }

    /// Whether some entry is known to be another than it was, so that what it said of data keys is not known.
    fn altered(&self) -> bool {
        !self.tiles.leaves.is_empty()
            || [Check::Root, Check::Remembered]
                .into_iter()
                .any(|c| matches!(self.verdict.check(c).result, CheckResult::Failed { .. }))
    }

    fn finish_share(&mut self, records_read: bool) {
        let follows = self.altered();
        self.keys
            .finish_share(records_read, follows, &mut self.verdict);
    }

    /// Walks the entries once more, for what they say of the data keys that were too many the first time.
    fn entries_again(&mut self, progress: &mut dyn Progress) {
        let parts = if self.read_parts {
            Parts::With
        } else {
            Parts::Without
        };
        let mut at = 0;
        while at < self.next {
            let until = self.next.min(at.saturating_add(ROWS));
            let rows = match self.evidence.rows(at..until, parts) {
                Ok(rows) => rows,
                Err(e) => {
                    self.verdict.failed_read(Check::Keys, &e);
                    return self.not_again(at);
                }
            };
            if rows.first().is_none_or(|row| row.index != at) {
                return self.not_again(at);
            }
            for row in rows {
                if row.index != at || at == self.next {
                    break;
                }
                self.keys_of(&row);
                at += 1;
                if at.is_multiple_of(PROGRESS) {
                    progress.at(Stage::Entries, at, self.next);
                }
            }
        }
    }

    fn not_again(&mut self, at: u64) {
        let why = format!("the entry at index {at} was there, and was not when it was read again");
        self.verdict.undecide(why.clone());
        self.keys.incomplete(0, || why);
    }

    /// What one row says of data keys; all else of it was checked the first time.
    fn keys_of(&mut self, row: &Row) {
        let index = row.index;
        let Ok(entry) = Entry::decode(&row.entry) else {
            return self.keys.incomplete(index, || unreadable(index));
        };
        let nothing = Said {
            mac: false,
            signed: false,
        };
        let said = self.said.get(&index).copied().unwrap_or(nothing);
        self.keys
            .check(index, &entry, there(row), said, &mut self.verdict);
        // Without a key they were found missing the first time.
        if entry.tokens.is_some() && row.tokens.is_none() {
            self.keys.absent(index, &entry, Check::Tokens);
        }
        if self.read_parts && entry.content.is_some() && row.parts.is_none() {
            self.keys.absent(index, &entry, Check::Parts);
        }
    }

    /// Says where a wrong root comes from, as far as the stored tiles tell.
    fn roots(&mut self) {
        let wrong = [
            (Check::Root, self.root_wrong.take()),
            (Check::Remembered, self.remembered_wrong.take()),
        ];
        for (check, wrong) in wrong {
            let Some(wrong) = wrong else { continue };
            let what = if check == Check::Root {
                "the root in the checkpoint"
            } else {
                "rolled back or another history: the root in the remembered checkpoint"
            };
            let head = format!(
                "{what} of size {} is {}, that of the entries is {}",
                wrong.size, wrong.should, wrong.is
            );
            let known = self.verdict.first_index_in(wrong.good..wrong.size);
            match self.tiles.first_leaf_below(wrong.size) {
                Some(leaf) => self.verdict.find(
                    check,
                    Some(leaf),
                    format!(
                        "{head}; by the stored tiles the entry at {leaf} is the first that differs"
                    ),
                ),
                None => self.verdict.find(
                    check,
                    // What another check found in that range is the nearest that can be said.
                    Some(known.unwrap_or(wrong.good)),
                    format!(
                        "{head}; the first bad index lies from {} to {}",
                        wrong.good,
                        wrong.size - 1
                    ),
                ),
            }
        }
        if self.root_skipped > 0 {
            self.verdict.not_checked(
                Check::Root,
                format!(
                    "{} later checkpoints: their roots follow from the wrong one",
                    self.root_skipped
                ),
            );
        }
    }

    /// Checkpoints over more entries than there are.
    fn later_checkpoints(&mut self, complete: bool) {
        let mut cut: Option<u64> = None;
        while self.checkpoints_readable {
            match self.checkpoints.peek(self.evidence) {
                Ok(None) => break,
                Ok(Some(size)) => match self.checkpoints.take(self.policy, &mut self.verdict) {
                    Some((_, Looked::Signed(_))) => {
                        self.key_known = true;
                        self.stored = size;
                        cut = cut.max(Some(size));
                    }
                    Some((_, Looked::Foreign)) => self.looked_at(size, Looked::Foreign),
                    Some((_, Looked::Wrong)) | None => {}
                },
                Err(e) => {
                    self.verdict.failed_read(Check::Checkpoints, &e);
                    self.checkpoints_readable = false;
                }
            }
        }
        let remembered = self.remembered.iter().map(|c| c.size).max();
        if !complete && self.size >= cut.max(remembered).unwrap_or(0) {
            // The entries between are there or not: the walk has said so.
            return;
        }
        for (check, committed) in [(Check::Root, cut), (Check::Remembered, remembered)] {
            let Some(committed) = committed else { continue };
            let now = Self::grown_to(self.evidence, self.size);
            if committed <= now {
                if committed > self.size {
                    self.verdict.not_checked(
                        check,
                        format!("a checkpoint of size {committed}: it came while the log was being verified"),
                    );
                }
                continue;
            }
            self.keys.incomplete(now, || {
                format!("the entries from index {now} on are missing")
            });
            let what = if check == Check::Root {
                "a checkpoint"
            } else {
                "rolled back: a remembered checkpoint"
            };
            self.verdict.find(
                check,
                Some(now),
                format!(
                    "{what} commits to {committed} entries, the evidence has {now}: those from index {now} on are missing"
                ),
            );
        }
    }

    /// Compares the key records with what the entries say. `false`: they could not be read to the end, which is
    /// found unless it was `told` already.
    fn key_records(&mut self, complete: bool, told: bool, progress: &mut dyn Progress) -> bool {
        let mut after = None;
        let mut wrong = BTreeMap::new();
        let mut read = 0_u64;
        loop {
            let page = match self.evidence.keys(after, PAGE) {
                Ok(page) => page,
                Err(_) if told => return false,
                Err(e) => {
                    self.verdict.failed_read(Check::Keys, &e);
                    self.verdict
                        .not_checked(Check::Keys, "further key records: they could not be read");
                    return false;
                }
            };
            if page.is_empty() {
                break;
            }
            for record in page {
                if after.is_some_and(|after| record.id <= after) {
                    if told {
                        return false;
                    }
                    self.verdict.find(
                        Check::Keys,
                        None,
                        format!(
                            "key records are not in the order of their ids: that of data key {} stands there twice, or late",
                            record.id
                        ),
                    );
                    return false;
                }
                after = Some(record.id);
                read += 1;
                if complete && self.keys.record(&record).is_err() && wrong.len() < PAGE {
                    wrong.insert(record.id, record);
                }
            }
            progress.at(Stage::Keys, read, self.keys.len());
        }
        self.verdict.count(Check::Keys, self.keys.share_len());
        if complete && (!wrong.is_empty() || self.keys.unexplained()) {
            // On a live store, entries that came since may explain it.
            self.tail();
        }
        let mut findings: Vec<_> = wrong
            .values()
            .filter_map(|record| self.keys.record(record).err())
            .collect();
        findings.sort_by_key(|(index, _)| index.unwrap_or(u64::MAX));
        let follows = self.altered();
        for (index, message) in findings {
            match self.keys.why_incomplete() {
                None => self.verdict.found(Check::Keys, index, &message, follows),
                Some(why) => {
                    self.verdict.not_checked(
                        Check::Keys,
                        format!("records that differ from the entries: {why}"),
                    );
                }
            }
        }
        true
    }

    /// Takes up what entries say of data keys that came while the log was being verified.
    fn tail(&mut self) {
        let now = Self::grown_to(self.evidence, self.size);
        let mut at = self.size;
        while at < now {
            let rows = match self.evidence.rows(at..now, Parts::Without) {
                Ok(rows) if !rows.is_empty() => rows,
                _ => return,
            };
            for row in rows {
                if row.index != at {
                    return;
                }
                if let Ok(entry) = Entry::decode(&row.entry) {
                    let signed = self.runs.observe(at, &entry);
                    self.keys.observe(at, &entry, signed);
                }
                at += 1;
            }
        }
    }

    /// Compares the token index with the tokens of the entries.
    fn token_table(&mut self, progress: &mut dyn Progress) {
        let mut after = None;
        let mut read = 0_u64;
        let mut beyond = 0_u64;
        let limit = self.token_rows.saturating_add(TOKEN_ROWS_EXTRA_MAX);
        let mut cut = false;
        'table: loop {
            let page = match self.evidence.token_rows(after, PAGE) {
                Ok(page) => page,
                Err(e) => {
                    self.verdict.failed_read(Check::TokenRows, &e);
                    self.verdict
                        .not_checked(Check::TokenRows, "further rows: they could not be read");
                    return;
                }
            };
            if page.is_empty() {
                break;
            }
            for (token, index) in page {
                after = Some((token, index));
                read += 1;
                if read > limit {
                    cut = true;
                    break 'table;
                }
                if index >= self.size {
                    if index >= Self::grown_to(self.evidence, self.size) {
                        beyond += 1;
                        if beyond <= 10 {
                            self.verdict.find(
                                Check::TokenRows,
                                Some(index),
                                format!("token row {token} points behind the end of the log"),
                            );
                        }
                    }
                } else if !self.tokens.excludes(index) {
                    self.tokens.store(&token, index);
                }
            }
            progress.at(Stage::Tokens, read, self.token_rows);
        }
        self.verdict.counts.token_rows = read;
        self.verdict.count(Check::TokenRows, read);
        if cut {
            self.verdict.find(
                Check::TokenRows,
                None,
                format!(
                    "there are more than {limit} token rows, the entries explain {}",
                    self.token_rows
                ),
            );
        }
        if let Some(range) = self.tokens.first_difference(self.size)
            && let Err(e) = self.token_difference(range, limit)
        {
            self.verdict.failed_read(Check::TokenRows, &e);
        }
    }

    /// Finds the first token row that is missing or extra: a second pass, over one range of indexes at a time.
    fn token_difference(&mut self, range: Range<u64>, limit: u64) -> Result<()> {
        let mut from = range.start;
        while from < range.end {
            let until = range.end.min(from.saturating_add(TOKEN_SPAN_MAX));
            let expected = self.tokens_of(from..until)?;
            let mut missing = expected.clone();
            let mut extra: BTreeSet<(u64, Token)> = BTreeSet::new();
            let mut after = None;
            let mut read = 0;
            'table: loop {
                let page = self.evidence.token_rows(after, PAGE)?;
                if page.is_empty() {
                    break;
                }
                for (token, index) in page {
                    after = Some((token, index));
                    read += 1;
                    if read > limit {
                        break 'table;
                    }
                    let inside = (from..until).contains(&index) && !self.tokens.excludes(index);
                    // A row that is there twice is extra the second time.
                    if inside && !missing.remove(&(index, token)) && extra.len() < PAGE {
                        extra.insert((index, token));
                    }
                }
            }
            if missing.is_empty() && extra.is_empty() {
                from = until;
                continue;
            }
            let mut all: Vec<(u64, &str, Token)> = missing
                .into_iter()
                .map(|(i, t)| (i, "is missing from the token index", t))
                .chain(extra.into_iter().map(|(i, t)| {
                    (
                        i,
                        "is in the token index, but the entry has no such token",
                        t,
                    )
                }))
                .collect();
            all.sort_unstable();
            for (index, what, token) in all {
                self.verdict
                    .find(Check::TokenRows, Some(index), format!("row {token} {what}"));
            }
            return Ok(());
        }
        if Self::grown_to(self.evidence, self.size) > self.size {
            self.verdict
                .undecide("the token index changed while the log was being verified; verify again");
        } else {
            self.verdict.find(
                Check::TokenRows,
                Some(range.start),
                format!("the token index for the entries from {} to {} answered differently when it was read again", range.start, range.end - 1),
            );
        }
        Ok(())
    }

    fn tokens_of(&self, range: Range<u64>) -> Result<BTreeSet<(u64, Token)>> {
        let mut tokens = BTreeSet::new();
        let mut at = range.start;
        while at < range.end {
            let rows = self.evidence.rows(at..range.end, Parts::Without)?;
            if rows.is_empty() {
                return Err(Error::corrupt("an entry that was there is missing").at(at));
            }
            for row in rows {
                if row.index != at {
                    return Err(Error::corrupt("an entry that was there is missing").at(at));
                }
                if !self.tokens.excludes(at)
                    && let Some(set) = row.tokens
                {
                    tokens.extend(set.tokens.into_iter().map(|t| (at, t)));
                }
                at += 1;
            }
        }
        Ok(tokens)
    }

    /// Decides what speaks against the identity of the log: a contradiction if the policy's key is this log's, else
    /// nothing can be decided with it.
    fn conclude(&mut self, complete: bool) {
        let key_known = self.key_known;
        let v = &mut self.verdict;
        for (index, message) in std::mem::take(&mut self.identity) {
            if key_known {
                v.find(Check::Identity, index, message);
            } else {
                v.undecide(message);
            }
        }
        for (index, message) in self.runs.unopened() {
            if key_known {
                v.find(Check::Mac, Some(index), message);
            } else {
                v.not_checked(Check::Mac, message.clone());
                v.undecide(message);
            }
        }
        if self.foreign_total > 0 {
            let sizes: Vec<String> = self.foreign.iter().map(ToString::to_string).collect();
            let message = format!(
                "{} checkpoints are not signed by the policy's key (of size {}{})",
                self.foreign_total,
                sizes.join(", "),
                if self.foreign_total > 10 { ", …" } else { "" }
            );
            if key_known {
                v.find(Check::Checkpoints, None, message);
            } else {
                v.undecide(message);
            }
        }
        // The last one may be signed and not stored yet; a publisher stores it before it signs another.
        for size in self.unstored.iter().filter(|size| **size < self.stored) {
            v.undecide(format!(
                "the remembered checkpoint of size {size} is not in the evidence, though a later one is: it was removed"
            ));
        }
        if v.covered.is_none() && v.findings_total() == 0 {
            v.undecide("no checkpoint signed by the policy's key commits to the entries");
        }
        let wrong = |v: &Verdict, c| matches!(v.check(c).result, CheckResult::Failed { .. });
        if complete && !wrong(v, Check::Root) && !wrong(v, Check::Remembered) {
            v.unpublished = Some(
                self.size
                    .saturating_sub(v.covered.as_ref().map_or(0, |c| c.size)),
            );
        }
        if let (Some(covered), Some(unpublished)) = (&v.covered, v.unpublished)
            && unpublished > 0
        {
            let by = if self.policy.auditor.is_some() {
                "only the MAC chains speak for them"
            } else {
                "nothing was checked that would speak for them"
            };
            v.notice(format!(
                "{unpublished} entries from index {} on are sequenced and not yet published: {by}",
                covered.size
            ));
        }
        self.unpublished_tail();
        let v = &mut self.verdict;
        let now = Self::grown_to(self.evidence, self.size);
        if now > self.size {
            v.notice(format!(
                "the log grew to {now} entries while it was being verified; only the first {} were looked at",
                self.size
            ));
        }
    }

    /// Entries that a publisher would long have published decide nothing.
    fn unpublished_tail(&mut self) {
        let v = &mut self.verdict;
        let (Some(covered), Some(1..)) = (&v.covered, v.unpublished) else {
            return;
        };
        let from = covered.size;
        if let Some(closed) = self.closed.filter(|closed| *closed >= from) {
            v.undecide(format!(
                "no checkpoint commits to the entries from index {from} on, though a run was closed at index {closed}: {UNPUBLISHED_HINT}"
            ));
        }
        if let Some((first, last)) = self.tail {
            let span = last.as_micros().saturating_sub(first.as_micros());
            if u128::from(span.unsigned_abs()) > self.policy.unpublished_max.as_micros() {
                v.undecide(format!(
                    "no checkpoint commits to the entries from index {from} on, which span {}, allowed are {}: \
                     {UNPUBLISHED_HINT}",
                    seconds(span),
                    duration(self.policy.unpublished_max)
                ));
            }
        }
    }

    fn times(&mut self) {
        let v = &mut self.verdict;
        if self.policy.gap_max.is_none() {
            v.not_checked(
                Check::Gaps,
                match self.gap {
                    Some((gap, index)) => {
                        format!(
                            "no limit given; the longest gap is {}, before index {index}",
                            seconds(gap)
                        )
                    }
                    None => "no limit given".to_owned(),
                },
            );
        }
        if let Some(ahead) = self.ahead {
            v.notice(format!(
                "a record is {} ahead of the verifier's clock",
                seconds(ahead)
            ));
        }
        let Some(within) = self.policy.fresh_within else {
            return;
        };
        match (self.covered_latest, &v.covered) {
            (Some(latest), Some(covered)) => {
                let index = covered.size.saturating_sub(1);
                let age = self
                    .policy
                    .now
                    .as_micros()
                    .saturating_sub(latest.as_micros())
                    .max(0);
                v.count(Check::Fresh, 1);
                if u128::from(age.unsigned_abs()) > within.as_micros() {
                    v.find(
                        Check::Fresh,
                        Some(index),
                        format!(
                            "the last published record is {} old, allowed are {}",
                            seconds(age),
                            duration(within)
                        ),
                    );
                }
            }
            _ => v.not_checked(Check::Fresh, "nothing is published"),
        }
    }
}

/// Whether the tokens or the parts of an entry are there.
fn there(row: &Row) -> bool {
    row.tokens.is_some() || row.parts.is_some()
}

fn unreadable(index: u64) -> String {
    format!("the entry at index {index} could not be read")
}

fn seconds(micros: i64) -> String {
    duration(Duration::from_micros(micros.unsigned_abs()))
}

fn duration(d: Duration) -> String {
    format!("{}.{:03} s", d.as_secs(), d.subsec_millis())
}
