//! The verdict: what was checked, up to where, by which keys, what was found, and what was not checked
//! (`docs/verdict.md`).

use std::fmt;
use std::ops::Range;

use audit_core::{Error, ErrorKind};
use audit_tlog::Hash;
use serde::Serialize;
use uuid::Uuid;

/// Findings kept per check; all are counted.
const FINDINGS_PER_CHECK_MAX: usize = 10;
/// Findings kept in all.
const FINDINGS_MAX: usize = 100;
/// Notices and reasons kept.
const NOTICES_MAX: usize = 100;

/// One check, as the documentation and the JSON name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Check {
    /// What the storage engine says of its own files.
    Engine,
    /// Every index from 0 to the size has an entry, and no other.
    Index,
    /// Every entry is the canonical encoding of an entry.
    Entry,
    /// The columns repeat what the entry says.
    Columns,
    /// The tokens beside each entry are those that it commits to.
    Tokens,
    /// The stored parts are those that the entries commit to.
    Parts,
    /// The stored tiles are those of the tree over the entries.
    Tiles,
    /// Every checkpoint is signed by the policy's key, for its origin.
    Checkpoints,
    /// The root over the entries is the one in every checkpoint.
    Root,
    /// The same, of the checkpoints that were kept apart.
    Remembered,
    /// The root, by another implementation.
    SecondRoot,
    /// The log is the one that the policy names.
    Identity,
    /// Every run opens first, counts without a gap, and ends as it says.
    Runs,
    /// Every opening, and everything that is said of keys, is signed by a registered writer key.
    Signatures,
    /// The tree that each run saw before its openings, epoch ends and heartbeats is the one that is there.
    Heads,
    /// `recorded` never decreases within a run.
    Recorded,
    /// Data keys are introduced, used, rewrapped and destroyed as the entries say, and their records are there.
    Keys,
    /// The token index has exactly the rows that the entries' tokens say.
    TokenRows,
    /// The MAC chain of every run.
    Mac,
    /// The content is what the entries commit to, and the tokens are those of the content.
    Content,
    /// No gap between two records is longer than the policy allows.
    Gaps,
    /// The last published record is as young as the policy asks for.
    Fresh,
    /// The container of an evidence bundle is written in the one way that there is.
    Container,
    /// What an evidence bundle says of itself.
    Manifest,
    /// The checkpoints of an evidence bundle extend each other.
    Consistency,
    /// The inclusion proof of each entry of an evidence bundle.
    Inclusion,
    /// The proofs of many entries at once, by another implementation.
    MultiProof,
    /// The disclosed fields are those that the entries commit to.
    Disclosed,
    /// The disclosed payloads are those that the entries commit to.
    Payloads,
    /// Each entry of an evidence bundle is one that its query asks for.
    Query,
    /// The entries of an evidence bundle are all that its query asks for.
    Completeness,
}

impl Check {
    /// Every check of a log, in the order of a report.
    pub const ALL: [Self; 22] = [
        Self::Engine,
        Self::Index,
        Self::Entry,
        Self::Columns,
        Self::Tokens,
        Self::Parts,
        Self::Tiles,
        Self::Checkpoints,
        Self::Root,
        Self::Remembered,
        Self::SecondRoot,
        Self::Identity,
        Self::Runs,
        Self::Signatures,
        Self::Heads,
        Self::Recorded,
        Self::Keys,
        Self::TokenRows,
        Self::Mac,
        Self::Content,
        Self::Gaps,
        Self::Fresh,
    ];

    /// Every check of an evidence bundle, in the order of a report.
    pub const EVIDENCE_BUNDLE: [Self; 18] = [
        Self::Container,
        Self::Manifest,
        Self::Entry,
        Self::Checkpoints,
        Self::Consistency,
        Self::Remembered,
        Self::Inclusion,
        Self::MultiProof,
        Self::Identity,
        Self::Runs,
        Self::Signatures,
        Self::Heads,
        Self::Recorded,
        Self::Disclosed,
        Self::Payloads,
        Self::Query,
        Self::Completeness,
        Self::Mac,
    ];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Index => "index",
            Self::Entry => "entry",
            Self::Columns => "columns",
            Self::Tokens => "tokens",
            Self::Parts => "parts",
            Self::Tiles => "tiles",
            Self::Checkpoints => "checkpoints",
            Self::Root => "root",
            Self::Remembered => "remembered",
            Self::SecondRoot => "second_root",
            Self::Identity => "identity",
            Self::Runs => "runs",
            Self::Signatures => "signatures",
            Self::Heads => "heads",
            Self::Recorded => "recorded",
            Self::Keys => "keys",
            Self::TokenRows => "token_rows",
            Self::Mac => "mac",
            Self::Content => "content",
            Self::Gaps => "gaps",
            Self::Fresh => "fresh",
            Self::Container => "container",
            Self::Manifest => "manifest",
            Self::Consistency => "consistency",
            Self::Inclusion => "inclusion",
            Self::MultiProof => "multi_proof",
            Self::Disclosed => "disclosed",
            Self::Payloads => "payloads",
            Self::Query => "query",
            Self::Completeness => "completeness",
        }
    }

    /// What its population counts.
    fn unit(self) -> &'static str {
        match self {
            Self::Engine => "engines",
            Self::Index
            | Self::Entry
            | Self::Columns
            | Self::Recorded
            | Self::Mac
            | Self::Inclusion
            | Self::MultiProof
            | Self::Query
            | Self::Completeness => "entries",
            Self::Tokens => "token sets",
            Self::Parts => "stored parts",
            Self::Tiles => "tiles",
            Self::Checkpoints | Self::Root | Self::Remembered => "checkpoints",
            Self::SecondRoot => "leaves",
            Self::Identity | Self::Manifest => "statements",
            Self::Container => "members",
            Self::Consistency => "proofs",
            Self::Disclosed => "fields",
            Self::Payloads => "payloads",
            Self::Runs => "runs",
            Self::Signatures => "signatures",
            Self::Heads => "heads",
            Self::Keys => "data keys",
            Self::TokenRows => "token rows",
            Self::Content => "events",
            Self::Gaps => "intervals",
            Self::Fresh => "records",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something that contradicts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Which check found it.
    pub check: Check,
    /// The leaf index that it is about, where there is one.
    pub index: Option<u64>,
    /// What is wrong.
    pub message: String,
    /// It may only follow from another finding, so it is told behind those that don't.
    follows: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.check)?;
        if let Some(index) = self.index {
            write!(f, " at index {index}")?;
        }
        write!(f, ": {}", printable(&self.message))
    }
}

/// The whole answer in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "the three exit codes that the verifier promises"
)]
pub enum Outcome {
    /// Everything that the policy requires held.
    Held,
    /// The evidence contradicts itself, a remembered checkpoint, or a limit that the policy sets.
    Contradicted,
    /// It could not be decided.
    Undecided,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Contradicted => "contradicted",
            Self::Undecided => "undecided",
        }
    }
}

/// The greatest checkpoint under which the entries were found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Covered {
    /// Its tree size: entries below this index are proven.
    pub size: u64,
    /// Its root hash.
    pub root: Hash,
    /// Whether it came with the policy, and not with the evidence.
    pub remembered: bool,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Checkpoints in the evidence.
    pub checkpoints: u64,
    /// Entries read.
    pub entries: u64,
    /// Epochs that were closed.
    pub epochs_closed: u64,
    /// Entries whose content is gone by a `key.destroyed`.
    pub erased: u64,
    /// Data keys that entries introduce.
    pub keys: u64,
    /// Data keys that entries say are destroyed.
    pub keys_destroyed: u64,
    /// Stored parts that were compared.
    pub parts: u64,
    /// Their bytes.
    pub parts_bytes: u64,
    /// Writer runs.
    pub runs: u64,
    /// Stored tiles that were compared.
    pub tiles: u64,
    /// Rows of the token index.
    pub token_rows: u64,
}

/// How one check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Which.
    pub check: Check,
    /// How.
    pub result: CheckResult,
    /// How many things it looked at.
    pub population: u64,
    /// What of it was not checked and why; empty if it was done in full.
    pub not_checked: Vec<String>,
}

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckResult {
    /// It held for its whole population.
    Held,
    /// It found something; the first bad index where there is one.
    Failed {
        /// The least index of its findings.
        first_index: Option<u64>,
        /// How many findings.
        findings: u64,
    },
    /// There was nothing that it could look at.
    Empty,
    /// It was not done, or only in part; `not_checked` says why.
    NotChecked,
}

impl CheckResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Failed { .. } => "failed",
            Self::Empty => "empty",
            Self::NotChecked => "not_checked",
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Tally {
    population: u64,
    findings: u64,
    first_index: Option<u64>,
    not_checked: Vec<String>,
}

/// What verification came to.
#[derive(Debug, Clone)]
pub struct Verdict {
    origin: String,
    vkey: String,
    pub(crate) size: u64,
    pub(crate) covered: Option<Covered>,
    pub(crate) unpublished: Option<u64>,
    pub(crate) counts: Counts,
    pub(crate) open_runs: Vec<Uuid>,
    pub(crate) open_runs_total: u64,
    /// Where the key comes from, if not from the policy; for people.
    pub(crate) vkey_from: &'static str,
    /// The checks that this verdict is made of.
    scope: &'static [Check],
    /// Of every check that there is, in the order of their declaration; those that aren't in `scope` stay empty.
    tallies: [Tally; SLOTS],
    findings: Vec<Finding>,
    undecided: Vec<String>,
    notices: Vec<String>,
    /// Whether the evidence says that its objects are locked.
    pub(crate) retention_lock: Option<bool>,
}

/// Asked for every entry several times, so it looks for nothing.
const fn slot(check: Check) -> usize {
    check as usize
}

const SLOTS: usize = slot(Check::Completeness) + 1;

const _: () = {
    let mut at = 0;
    while at < Check::ALL.len() {
        assert!(
            slot(Check::ALL[at]) < SLOTS,
            "the last one is declared last"
        );
        at += 1;
    }
    at = 0;
    while at < Check::EVIDENCE_BUNDLE.len() {
        assert!(
            slot(Check::EVIDENCE_BUNDLE[at]) < SLOTS,
            "the last one is declared last"
        );
        at += 1;
    }
};

fn push_capped(list: &mut Vec<String>, text: String) {
    if list.len() < NOTICES_MAX && !list.contains(&text) {
        list.push(text);
    }
}

/// An error and what it says of its causes, in one line of bounded length.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    for _ in 0..4 {
        let Some(cause) = source else { break };
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    plain(&text)
}

/// Whether a character steers what shows text instead of being shown: controls (C0, DEL, C1), bidirectional and other
/// format characters, line and paragraph separators.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Text, some of which may stem from evidence, fit for a terminal: every character that would steer it, apart from line
/// ends, is replaced by U+FFFD.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if steers(c) && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// JSON in which every character that would steer a terminal is escaped.
fn escaped(json: String) -> String {
    if !json.chars().any(steers) {
        return json;
    }
    // Outside of strings there are none, and within strings an escape means the same.
    let mut out = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        if steers(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let [high, low] = unit.to_be_bytes();
                out.push_str("\\u");
                out.push_str(&audit_core::hex::Hex([high, low]).to_string());
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// One line of bounded length, of text that may stem from the evidence. What it holds is neutralised where it is shown.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .take(500)
        .map(|c| if c == '\n' { '\u{fffd}' } else { c })
        .collect()
}

impl Verdict {
    pub(crate) fn new(origin: &str, vkey: String) -> Self {
        Self::of(&Check::ALL, origin, vkey)
    }

    /// A verdict that is made of these checks.
    pub(crate) fn of(scope: &'static [Check], origin: &str, vkey: String) -> Self {
        Self {
            origin: origin.to_owned(),
            vkey,
            size: 0,
            covered: None,
            unpublished: None,
            counts: Counts::default(),
            open_runs: Vec::new(),
            open_runs_total: 0,
            vkey_from: "",
            scope,
            tallies: std::array::from_fn(|_| Tally::default()),
            findings: Vec::new(),
            undecided: Vec::new(),
            notices: Vec::new(),
            retention_lock: None,
        }
    }

    /// Names the log and the key, where they are known only later.
    pub(crate) fn name(&mut self, origin: &str, vkey: String) {
        origin.clone_into(&mut self.origin);
        self.vkey = vkey;
    }

    /// The verdict over evidence that could not even be opened: contradicted if it is corrupt, else undecided.
    #[must_use]
    pub fn unreadable(policy: &crate::Policy<'_>, error: &Error) -> Self {
        let mut verdict = Self::new(policy.vkey.name(), policy.vkey.to_string());
        verdict.not_opened(error);
        verdict
    }

    fn tally(&mut self, check: Check) -> &mut Tally {
        debug_assert!(
            self.scope.contains(&check),
            "a verdict is asked for its own checks alone"
        );
        &mut self.tallies[slot(check)]
    }

    pub(crate) fn not_opened(&mut self, error: &Error) {
        self.failed_read(Check::Index, error);
        for check in self.scope {
            let check = *check;
            // The engine may have answered all the same.
            if self.tally(check).population == 0 {
                self.not_checked(check, "the evidence could not be opened");
            }
        }
    }

    pub(crate) fn find(&mut self, check: Check, index: Option<u64>, message: impl Into<String>) {
        self.found(check, index, &message.into(), false);
    }

    /// A finding that may only follow from another, if `follows`.
    pub(crate) fn found(&mut self, check: Check, index: Option<u64>, message: &str, follows: bool) {
        let tally = self.tally(check);
        tally.findings += 1;
        tally.first_index = match (tally.first_index, index) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let few = tally.findings <= FINDINGS_PER_CHECK_MAX as u64;
        if few && self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding {
                check,
                index,
                message: plain(message),
                follows,
            });
        }
    }

    /// An error that reading the evidence gave.
    pub(crate) fn failed_read(&mut self, check: Check, error: &Error) {
        if error.kind() == ErrorKind::Corrupt {
            self.find(check, error.index(), describe(error));
        } else {
            self.undecide(format!("{check}: {}", describe(error)));
        }
    }

    pub(crate) fn count(&mut self, check: Check, n: u64) {
        self.tally(check).population += n;
    }

    pub(crate) fn not_checked(&mut self, check: Check, why: impl Into<String>) {
        push_capped(&mut self.tally(check).not_checked, plain(&why.into()));
    }

    pub(crate) fn undecide(&mut self, why: impl Into<String>) {
        push_capped(&mut self.undecided, plain(&why.into()));
    }

    pub(crate) fn notice(&mut self, text: impl Into<String>) {
        push_capped(&mut self.notices, plain(&text.into()));
    }

    /// The least index in a range that any check has found so far.
    pub(crate) fn first_index_in(&self, range: Range<u64>) -> Option<u64> {
        self.findings
            .iter()
            .filter(|f| !f.follows)
            .filter_map(|f| f.index.filter(|i| range.contains(i)))
            .min()
    }

    /// Puts the findings into the order of their indexes, those that may follow from others last.
    pub(crate) fn finish(&mut self) {
        let scope = self.scope;
        let place = |check| scope.iter().position(|c| *c == check);
        self.findings
            .sort_by_key(|f| (f.follows, f.index.unwrap_or(u64::MAX), place(f.check)));
    }

    /// The answer in one word.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        if self.findings_total() > 0 {
            Outcome::Contradicted
        } else if !self.undecided.is_empty() || self.covered.is_none() {
            Outcome::Undecided
        } else {
            Outcome::Held
        }
    }

    /// 0, 1 or 2, as `DESIGN` and `docs/verdict.md` define them.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.outcome() {
            Outcome::Held => 0,
            Outcome::Contradicted => 1,
            Outcome::Undecided => 2,
        }
    }

    /// The origin that the policy names.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The publisher key that the policy names.
    #[must_use]
    pub fn vkey(&self) -> &str {
        &self.vkey
    }

    /// Entries in the evidence, as it says.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The greatest checkpoint under which the entries were found; `None` if there is none.
    #[must_use]
    pub fn covered(&self) -> Option<&Covered> {
        self.covered.as_ref()
    }

    /// How much was looked at.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What was found, by index, with what may only follow from it last; at most 100, and 10 of each check.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How much was found in all.
    #[must_use]
    pub fn findings_total(&self) -> u64 {
        self.tallies.iter().map(|t| t.findings).sum()
    }

    /// Why it could not be decided.
    #[must_use]
    pub fn undecided(&self) -> &[String] {
        &self.undecided
    }

    /// What a reader should know, though it contradicts nothing.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Whether the store says of itself that it locks what is written against deletion for a time; `None` where it knows
    /// no such locks, and of files.
    #[must_use]
    pub fn retention_lock(&self) -> Option<bool> {
        self.retention_lock
    }

    /// Runs that never closed, the first 100 of them.
    #[must_use]
    pub fn open_runs(&self) -> &[Uuid] {
        &self.open_runs
    }

    /// How one check ended; one that is none of this verdict's was not done.
    #[must_use]
    pub fn check(&self, check: Check) -> CheckReport {
        let tally = if self.scope.contains(&check) {
            self.tallies[slot(check)].clone()
        } else {
            Tally {
                not_checked: vec!["not one of this verdict's checks".to_owned()],
                ..Tally::default()
            }
        };
        let result = if tally.findings > 0 {
            CheckResult::Failed {
                first_index: tally.first_index,
                findings: tally.findings,
            }
        } else if !tally.not_checked.is_empty() {
            CheckResult::NotChecked
        } else if tally.population == 0 {
            CheckResult::Empty
        } else {
            CheckResult::Held
        };
        CheckReport {
            check,
            result,
            population: tally.population,
            not_checked: tally.not_checked,
        }
    }

    /// How every check ended.
    #[must_use]
    pub fn checks(&self) -> Vec<CheckReport> {
        self.scope.iter().map(|c| self.check(*c)).collect()
    }

    /// Entries that no checkpoint commits to yet; `None` if that can't be said, because the walk stopped or a root is
    /// wrong.
    #[must_use]
    pub fn unpublished(&self) -> Option<u64> {
        self.unpublished
    }

    /// The verdict as JSON (`docs/verdict.md`); the same verdict always gives the same bytes.
    #[must_use]
    pub fn to_json(&self) -> String {
        let checks = self
            .checks()
            .into_iter()
            .map(|c| {
                let (findings, first_index) = match c.result {
                    CheckResult::Failed {
                        first_index,
                        findings,
                    } => (findings, first_index),
                    _ => (0, None),
                };
                CheckJson {
                    check: c.check.as_str(),
                    findings,
                    first_index,
                    not_checked: c.not_checked,
                    population: c.population,
                    result: c.result.as_str(),
                    unit: c.check.unit(),
                }
            })
            .collect();
        let json = VerdictJson {
            checkpoint: self.covered.as_ref().map(|c| CheckpointJson {
                origin: &self.origin,
                remembered: c.remembered,
                root: c.root.to_string(),
                size: c.size,
            }),
            checks,
            counts: self.counts,
            exit: self.exit_code(),
            findings: self
                .findings
                .iter()
                .map(|f| FindingJson {
                    check: f.check.as_str(),
                    index: f.index,
                    message: &f.message,
                })
                .collect(),
            findings_total: self.findings_total(),
            notices: &self.notices,
            open_runs: self.open_runs.iter().map(ToString::to_string).collect(),
            open_runs_total: self.open_runs_total,
            origin: &self.origin,
            outcome: self.outcome().as_str(),
            retention_lock: self.retention_lock,
            schema: "audit-trail-verdict/1",
            size: self.size,
            undecided: &self.undecided,
            unpublished: self.unpublished(),
            vkey: &self.vkey,
        };
        escaped(serde_json::to_string(&json).expect("strings and numbers can be written as JSON"))
    }
}

#[derive(Serialize)]
struct VerdictJson<'a> {
    checkpoint: Option<CheckpointJson<'a>>,
    checks: Vec<CheckJson>,
    counts: Counts,
    exit: u8,
    findings: Vec<FindingJson<'a>>,
    findings_total: u64,
    notices: &'a [String],
    open_runs: Vec<String>,
    open_runs_total: u64,
    origin: &'a str,
    outcome: &'static str,
    retention_lock: Option<bool>,
    schema: &'static str,
    size: u64,
    undecided: &'a [String],
    unpublished: Option<u64>,
    vkey: &'a str,
}

#[derive(Serialize)]
struct CheckpointJson<'a> {
    origin: &'a str,
    remembered: bool,
    root: String,
    size: u64,
}

#[derive(Serialize)]
struct CheckJson {
    check: &'static str,
    findings: u64,
    first_index: Option<u64>,
    not_checked: Vec<String>,
    population: u64,
    result: &'static str,
    unit: &'static str,
}

#[derive(Serialize)]
struct FindingJson<'a> {
    check: &'static str,
    index: Option<u64>,
    message: &'a str,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text)?;
        f.write_str(&printable(&text))
    }
}

impl Verdict {
    fn write(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        let headline = match self.outcome() {
            Outcome::Held => {
                "HELD: everything that was asked for held; see below for what was not checked"
            }
            Outcome::Contradicted => "CONTRADICTED: the evidence does not hold",
            Outcome::Undecided => "UNDECIDED: whether the evidence holds could not be decided",
        };
        writeln!(f, "{headline}")?;
        writeln!(f, "log         {}", self.origin)?;
        writeln!(f, "public key  {}{}", self.vkey, self.vkey_from)?;
        match &self.covered {
            Some(c) => {
                let from = if c.remembered { ", remembered" } else { "" };
                writeln!(f, "checkpoint  size {}, root {}{from}", c.size, c.root)?;
            }
            None => writeln!(f, "checkpoint  none under which the entries were found")?,
        }
        write!(f, "entries     {}", self.size)?;
        match self.unpublished() {
            None | Some(0) => writeln!(f)?,
            Some(n) => writeln!(
                f,
                ", of which {n} sequenced and not yet published: no checkpoint commits to them"
            )?,
        }
        if !self.findings.is_empty() {
            writeln!(f, "\nfound")?;
            for finding in &self.findings {
                writeln!(f, "  {finding}")?;
            }
            let more = self.findings_total() - self.findings.len() as u64;
            if more > 0 {
                writeln!(f, "  and {more} more")?;
            }
        }
        if !self.undecided.is_empty() {
            writeln!(f, "\nundecided because")?;
            for why in &self.undecided {
                writeln!(f, "  {why}")?;
            }
        }
        writeln!(f, "\nchecked")?;
        let reports = self.checks();
        for c in &reports {
            match c.result {
                CheckResult::Held => {
                    writeln!(
                        f,
                        "  {:<12} held for {} {}",
                        c.check,
                        c.population,
                        c.check.unit()
                    )?;
                }
                CheckResult::Failed {
                    first_index,
                    findings,
                } => {
                    write!(f, "  {:<12} FAILED, {findings} times", c.check)?;
                    match first_index {
                        Some(index) => writeln!(f, ", first at index {index}")?,
                        None => writeln!(f)?,
                    }
                }
                CheckResult::Empty => writeln!(f, "  {:<12} nothing to check", c.check)?,
                CheckResult::NotChecked => {}
            }
        }
        if reports.iter().any(|c| !c.not_checked.is_empty()) {
            writeln!(f, "\nnot checked")?;
            for c in &reports {
                for why in &c.not_checked {
                    write!(f, "  {:<12} {why}", c.check)?;
                    match (c.population, c.result) {
                        (n, CheckResult::NotChecked) if n > 0 => {
                            writeln!(f, " (held for the other {n} {})", c.check.unit())?;
                        }
                        _ => writeln!(f)?,
                    }
                }
            }
        }
        if !self.notices.is_empty() {
            writeln!(f, "\nto know")?;
            for notice in &self.notices {
                writeln!(f, "  {notice}")?;
            }
        }
        Ok(())
    }
}
