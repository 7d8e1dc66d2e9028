//! Checking a bundle (`docs/evidence-bundle.md` §8).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Read, Seek};

use audit_core::chain::{AuditorKey, MacChain, verify_signed};
use audit_core::entry::{ContentPart, Entry, LogKeys, PublicKey, Role, kinds};
use audit_core::hex::{Digest, Hex};
use audit_core::seal::{CommitmentHasher, commitment};
use audit_core::time::Timestamp;
use audit_core::{Error, Result, canonical};
use audit_tlog::Hash;
use audit_tlog::checkpoint::{self, CheckpointError};
use audit_tlog::hash::leaf_hash;
use audit_tlog::note::{NoteError, VerifierKey};
use audit_tlog::proof;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::tar::{Archive, Lines, MEMBER_BYTES_MAX, Member};
use super::{
    BUNDLE_BYTES_MAX, BundleCounts, CHECKPOINTS, CHECKPOINTS_MAX, CHUNK, CONSISTENCY, Consistency,
    DISCLOSURE_LINE_BYTES_MAX, DISCLOSURES, DisclosureLine, ENTRIES, ENTRIES_MAX,
    ENTRY_LINE_BYTES_MAX, EntryLine, FieldLine, KEYS, KeysFile, LIMITS, MAGIC, MANIFEST,
    MULTI_LINE_BYTES_MAX, MULTIPROOFS, Manifest, MultiLine, PATTERN_BYTES_MAX, PAYLOADS, README,
    SMALL_BYTES_MAX, Selection, TEXT_BYTES_MAX, V, VERSION, decode, hashes, is_field,
    payload_member, text, verify_multi_proof,
};
use crate::verdict::{Check, Covered, Verdict, describe};

/// What the verifier knows of the log. What a bundle says of its keys is compared with it.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "whoever verifies says every part of the policy; a new part is a new decision"
)]
pub struct BundlePolicy {
    /// The publisher key; its name is the origin. `None`: the one in the bundle is used, and nothing is decided.
    pub vkey: Option<VerifierKey>,
    /// The leaf hash of the log's first entry.
    pub opened: Option<Hash>,
    /// Opens the sealed run keys; `None`: MAC chains are not checked.
    pub auditor: Option<AuditorKey>,
    /// Signed checkpoints that were kept apart from the bundle.
    pub remembered: Vec<Vec<u8>>,
}

/// Why checking can't go on.
struct Stop {
    check: Check,
    error: Error,
}

type Step<T = ()> = std::result::Result<T, Stop>;

trait In<T> {
    /// Names the check that an error belongs to.
    fn within(self, check: Check) -> Step<T>;
}

impl<T> In<T> for Result<T> {
    fn within(self, check: Check) -> Step<T> {
        self.map_err(|error| Stop { check, error })
    }
}

fn stop<T>(check: Check, message: impl Into<String>) -> Step<T> {
    Err(Stop {
        check,
        error: Error::corrupt(message.into()),
    })
}

/// Verifies a bundle. Nothing in it is trusted, and nothing of it makes this panic.
///
/// Memory does not grow with the bundle, apart from some 400 bytes per writer run (700 with the auditor key), 32 per key
/// that the log registers and 40 per erased event that waits for its erasure: a line at a time is held (32 MiB at most),
/// the leaf hashes of 1,024 entries, and 64 KiB of a payload.
#[must_use]
pub fn verify_bundle<R: Read + Seek>(file: R, policy: &BundlePolicy) -> Verdict {
    let (origin, vkey) = policy.vkey.as_ref().map_or_else(
        || ("unknown", "none".to_owned()),
        |key| (key.name(), key.to_string()),
    );
    let mut verdict = Verdict::of(&Check::EVIDENCE_BUNDLE, origin, vkey);
    if let Err(stopped) = run(file, policy, &mut verdict) {
        verdict.failed_read(stopped.check, &stopped.error);
        verdict.covered = None;
        for report in verdict.checks() {
            if report.population == 0 {
                verdict.not_checked(
                    report.check,
                    "the bundle could not be read as far as this needs",
                );
            }
        }
    }
    verdict.finish();
    verdict
}

fn run<R: Read + Seek>(file: R, policy: &BundlePolicy, verdict: &mut Verdict) -> Step {
    let mut archive = Archive::new(file).within(Check::Container)?;
    version(&mut archive).within(Check::Container)?;
    if archive.length() > BUNDLE_BYTES_MAX {
        return stop(
            Check::Container,
            format!(
                "the file has {} bytes, a bundle has at most {BUNDLE_BYTES_MAX}",
                archive.length()
            ),
        );
    }
    let mut front = Front {
        archive,
        at: 0,
        found: Vec::new(),
    };
    let bytes = front.small(MANIFEST, SMALL_BYTES_MAX, verdict)?;
    front.found.clear();
    let manifest: Manifest = decode(&bytes, MANIFEST).within(Check::Manifest)?;
    let selection = Selection {
        only: manifest.only.clone(),
        redact: manifest.redact.clone(),
    };
    manifest
        .query
        .check()
        .and_then(|()| selection.check())
        .map_err(|e| Error::corrupt(MANIFEST).because(e))
        .within(Check::Manifest)?;
    if manifest.bundle != VERSION || manifest.query_text != text::query(&manifest.query) {
        return stop(
            Check::Manifest,
            "manifest.json: query_text is not what the query reads in words",
        );
    }
    verdict.count(Check::Manifest, 1);
    for (name, expected) in [
        (README, text::readme(&manifest)),
        (LIMITS, text::limits(&manifest)),
    ] {
        let bytes = front.small(name, TEXT_BYTES_MAX, verdict)?;
        if bytes == expected.as_bytes() {
            verdict.count(Check::Manifest, 1);
        } else {
            verdict.find(
                Check::Manifest,
                None,
                format!("{name} is not the text that manifest.json gives"),
            );
        }
    }
    let bytes = front.small(KEYS, SMALL_BYTES_MAX, verdict)?;
    let keys: KeysFile = decode(&bytes, KEYS).within(Check::Identity)?;
    let notes = front.checkpoints(verdict)?;
    let bytes = front.small(CONSISTENCY, SMALL_BYTES_MAX, verdict)?;
    let consistency: Consistency = decode(&bytes, CONSISTENCY).within(Check::Consistency)?;
    let entries = front.lines(ENTRIES, ENTRY_LINE_BYTES_MAX, verdict)?;
    let multi = front.lines(MULTIPROOFS, MULTI_LINE_BYTES_MAX, verdict)?;
    let disclosures = front.lines(DISCLOSURES, DISCLOSURE_LINE_BYTES_MAX, verdict)?;

    let vkey = if let Some(vkey) = &policy.vkey {
        vkey.clone()
    } else {
        let vkey: VerifierKey = keys
            .vkey
            .parse()
            .map_err(|e: NoteError| Error::corrupt("keys.json: vkey").because(e))
            .within(Check::Identity)?;
        verdict.name(vkey.name(), vkey.to_string());
        verdict.vkey_from = ", taken from the bundle";
        verdict.undecide(
            "keys taken from the bundle: no public key was given, and whoever made the bundle may have made its keys",
        );
        vkey
    };
    let signed = Signed::of(&notes, &manifest, &vkey, verdict);
    consistent(&notes, &signed, &consistency, verdict);
    remembered(policy, &vkey, &signed, verdict);

    let mut walk = Walk {
        archive: front.archive,
        policy,
        vkey: &vkey,
        manifest: &manifest,
        selection: &selection,
        root: manifest.root.into(),
        multi,
        disclosures,
        payloads_at: front.at,
        chunk: Vec::new(),
        last: None,
        opened: None,
        log: None,
        registered: BTreeSet::new(),
        writers: BTreeSet::new(),
        runs: HashMap::new(),
        unopened: Vec::new(),
        without_mac: 0,
        destroyed: BTreeMap::new(),
        asked: vec![false; manifest.query.events.as_ref().map_or(0, Vec::len)],
        session_unknown: 0,
        counts: BundleCounts {
            checkpoints: notes.len() as u64,
            ..BundleCounts::default()
        },
    };
    walk.entries(entries, &mut front.found, verdict)?;
    walk.conclude(&keys, &signed, &front.found, verdict);
    Ok(())
}

/// Whether this is a bundle at all, and of the version that is read here: else nothing is decided.
fn version<R: Read + Seek>(archive: &mut Archive<R>) -> Result<()> {
    let begin = archive.read(512, MAGIC.len() + 16)?;
    let Some(version) = begin.strip_prefix(MAGIC) else {
        return Err(Error::invalid("the file is no evidence bundle"));
    };
    if version.starts_with(b"1\"") {
        return Ok(());
    }
    let text = version.split(|b| *b == b'"').next().unwrap_or_default();
    Err(Error::invalid(format!(
        "the bundle is of version {:?}, this program reads 1",
        String::from_utf8_lossy(text)
    )))
}

/// The members before the payloads, one behind the other.
struct Front<R> {
    archive: Archive<R>,
    at: u64,
    /// Name, size and hash of each that was read whole; of those with lines the hash follows.
    found: Vec<(String, u64, Option<Digest>)>,
}

impl<R: Read + Seek> Front<R> {
    fn peek(&mut self, expected: &str) -> Step<Member> {
        match self.archive.member(self.at).within(Check::Container)? {
            Some(member) => Ok(member),
            None => stop(
                Check::Container,
                format!("the container ends where member {expected} should be"),
            ),
        }
    }

    fn member(&mut self, name: &str, bytes_max: u64, verdict: &mut Verdict) -> Step<Member> {
        let member = self.peek(name)?;
        if member.name != name {
            return stop(
                Check::Container,
                format!("member {} stands where {name} should be", member.name),
            );
        }
        if member.size > bytes_max {
            return stop(
                Check::Container,
                format!(
                    "member {name} has {} bytes, allowed are {bytes_max}",
                    member.size
                ),
            );
        }
        self.at = member.end();
        verdict.count(Check::Container, 1);
        Ok(member)
    }

    fn small(&mut self, name: &str, bytes_max: u64, verdict: &mut Verdict) -> Step<Vec<u8>> {
        let member = self.member(name, bytes_max, verdict)?;
        let size = usize::try_from(member.size).unwrap_or(usize::MAX);
        let bytes = self
            .archive
            .read(member.at, size)
            .within(Check::Container)?;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        self.found
            .push((member.name, member.size, Some(Hex(digest))));
        Ok(bytes)
    }

    fn lines(&mut self, name: &str, line_max: usize, verdict: &mut Verdict) -> Step<Lines> {
        let member = self.member(name, MEMBER_BYTES_MAX, verdict)?;
        self.found.push((member.name.clone(), member.size, None));
        Ok(Lines::new(member, line_max))
    }

    fn checkpoints(&mut self, verdict: &mut Verdict) -> Step<Vec<(u64, Vec<u8>)>> {
        let mut notes: Vec<(u64, Vec<u8>)> = Vec::new();
        loop {
            let member = self.peek(CONSISTENCY)?;
            let Some(text) = member.name.strip_prefix(CHECKPOINTS) else {
                break;
            };
            let size = text
                .parse::<u64>()
                .ok()
                .filter(|size| size.to_string() == text && *size > 0);
            let Some(size) = size else {
                return stop(
                    Check::Container,
                    format!("member {} is not called after a tree size", member.name),
                );
            };
            if notes.last().is_some_and(|(before, _)| *before >= size)
                || notes.len() >= CHECKPOINTS_MAX
            {
                return stop(
                    Check::Container,
                    format!(
                        "member {} doesn't follow in order, or is more than the {CHECKPOINTS_MAX} that there may be",
                        member.name
                    ),
                );
            }
            let bytes = self.small(&member.name, SMALL_BYTES_MAX, verdict)?;
            notes.push((size, bytes));
        }
        if notes.is_empty() {
            return stop(Check::Container, "there is no checkpoint");
        }
        Ok(notes)
    }
}

/// The checkpoints as the key sees them.
struct Signed {
    /// Roots of those that it signed, by size.
    roots: BTreeMap<u64, Hash>,
    /// Sizes of those that others signed.
    foreign: Vec<u64>,
}

impl Signed {
    fn of(
        notes: &[(u64, Vec<u8>)],
        manifest: &Manifest,
        vkey: &VerifierKey,
        verdict: &mut Verdict,
    ) -> Self {
        let mut signed = Self {
            roots: BTreeMap::new(),
            foreign: Vec::new(),
        };
        for (size, note) in notes {
            let place = format!("{CHECKPOINTS}{size}");
            verdict.counts.checkpoints += 1;
            let mut wrong = |what: String| {
                verdict.find(Check::Checkpoints, None, format!("{place}: {what}"));
            };
            match checkpoint::open(note, vkey.name(), vkey) {
                Err(CheckpointError::Note(NoteError::Unsigned)) => signed.foreign.push(*size),
                Err(e) => wrong(describe(&e)),
                Ok((checkpoint, _)) if !checkpoint.extensions.is_empty() => {
                    wrong("it has extension lines".to_owned());
                }
                Ok((checkpoint, _)) if checkpoint.size != *size => {
                    wrong(format!("it is of size {}", checkpoint.size));
                }
                Ok((checkpoint, _)) => {
                    signed.roots.insert(*size, checkpoint.root);
                    verdict.count(Check::Checkpoints, 1);
                }
            }
        }
        let newest = notes.last().map_or(0, |(size, _)| *size);
        let root = signed.roots.get(&newest);
        if newest != manifest.size || root.is_some_and(|root| *root != manifest.root.into()) {
            verdict.find(
                Check::Checkpoints,
                None,
                "manifest.json has another size or root than the greatest checkpoint",
            );
        }
        signed
    }
}

fn consistent(
    notes: &[(u64, Vec<u8>)],
    signed: &Signed,
    consistency: &Consistency,
    verdict: &mut Verdict,
) {
    let sizes = consistency.proofs.iter().map(|p| (p.old_size, p.new_size));
    let pairs = notes.windows(2).filter_map(|pair| match pair {
        [(old, _), (new, _)] => Some((*old, *new)),
        _ => None,
    });
    if consistency.v != V || !sizes.eq(pairs) {
        verdict.find(
            Check::Consistency,
            None,
            "consistency.json has not one proof from each checkpoint to the next",
        );
        return;
    }
    for given in &consistency.proofs {
        let (old, new) = (given.old_size, given.new_size);
        let (Some(old_root), Some(new_root)) = (signed.roots.get(&old), signed.roots.get(&new))
        else {
            verdict.not_checked(
                Check::Consistency,
                format!("from {old} to {new} entries: not both are signed by the key"),
            );
            continue;
        };
        match proof::verify_consistency(old, new, old_root, new_root, &hashes(&given.hashes)) {
            Ok(()) => verdict.count(Check::Consistency, 1),
            Err(e) => verdict.find(
                Check::Consistency,
                None,
                format!(
                    "consistency.json: the log of {new} entries doesn't extend that of {old}: {}",
                    describe(&e)
                ),
            ),
        }
    }
}

fn remembered(policy: &BundlePolicy, vkey: &VerifierKey, signed: &Signed, verdict: &mut Verdict) {
    for note in &policy.remembered {
        match checkpoint::open(note, vkey.name(), vkey) {
            Err(e) => verdict.undecide(format!(
                "a remembered checkpoint is none of this log's: {}",
                describe(&e)
            )),
            Ok((checkpoint, _)) => match signed.roots.get(&checkpoint.size) {
                Some(root) if *root == checkpoint.root => verdict.count(Check::Remembered, 1),
                Some(root) => verdict.find(
                    Check::Remembered,
                    None,
                    format!(
                        "the remembered checkpoint over {} entries has root {}, {CHECKPOINTS}{0} has {root}",
                        checkpoint.size, checkpoint.root
                    ),
                ),
                None => {
                    let why = format!(
                        "the remembered checkpoint over {} entries: the bundle has none of that size; ask for one made with \
                         --since-checkpoint",
                        checkpoint.size
                    );
                    verdict.not_checked(Check::Remembered, why.clone());
                    verdict.undecide(why);
                }
            },
        }
    }
    if policy.remembered.is_empty() {
        verdict.not_checked(
            Check::Remembered,
            "history: no checkpoint that was kept apart was given",
        );
    }
}

/// The state of one run.
struct Run {
    seq: u64,
    epoch: u64,
    recorded: Timestamp,
    closed: bool,
    /// As long as no entry is missing. Boxed, since most runs have none.
    chain: Option<Box<MacChain>>,
}

/// The entries with everything that belongs to them, side by side.
struct Walk<'a, R> {
    archive: Archive<R>,
    policy: &'a BundlePolicy,
    vkey: &'a VerifierKey,
    manifest: &'a Manifest,
    selection: &'a Selection,
    root: Hash,
    multi: Lines,
    disclosures: Lines,
    /// Where the header of the next payload is.
    payloads_at: u64,
    /// The entries that wait for their multi-proof.
    chunk: Vec<(u64, Hash)>,
    last: Option<u64>,
    /// Leaf hash of the first entry, and its origin if it opens a log.
    opened: Option<Hash>,
    log: Option<String>,
    registered: BTreeSet<(Role, Digest)>,
    /// Writer keys that an entry registers whose signature holds.
    writers: BTreeSet<Digest>,
    runs: HashMap<Uuid, Run>,
    unopened: Vec<(u64, String)>,
    without_mac: u64,
    /// By the index of the `key.destroyed`: data key and index of the erased entries.
    destroyed: BTreeMap<u64, Vec<(Uuid, u64)>>,
    /// Which of the query's events were found.
    asked: Vec<bool>,
    session_unknown: u64,
    counts: BundleCounts,
}

impl<R: Read + Seek> Walk<'_, R> {
    fn entries(
        &mut self,
        mut lines: Lines,
        found: &mut [(String, u64, Option<Digest>)],
        verdict: &mut Verdict,
    ) -> Step {
        while let Some(line) = lines.next(&mut self.archive).within(Check::Entry)? {
            self.entry(&line, &lines.place(), verdict)?;
        }
        if !self.chunk.is_empty() {
            self.multi_proof(verdict)?;
        }
        let rest = [
            (&mut self.multi, Check::MultiProof),
            (&mut self.disclosures, Check::Disclosed),
        ];
        for (lines, check) in rest {
            if lines.next(&mut self.archive).within(check)?.is_some() {
                return stop(check, format!("{} belongs to no entry", lines.place()));
            }
        }
        if let Some(member) = self
            .archive
            .member(self.payloads_at)
            .within(Check::Container)?
        {
            return stop(
                Check::Container,
                format!("member {} belongs to no disclosure", member.name),
            );
        }
        let multi = std::mem::replace(&mut self.multi, Lines::empty());
        let disclosures = std::mem::replace(&mut self.disclosures, Lines::empty());
        let behind = found.len().saturating_sub(3);
        let unread = found.get_mut(behind..).unwrap_or_default().iter_mut();
        for ((.., hash), lines) in unread.zip([lines, multi, disclosures]) {
            *hash = Some(lines.finish(&mut self.archive).within(Check::Container)?);
        }
        Ok(())
    }

    fn entry(&mut self, line: &[u8], place: &str, verdict: &mut Verdict) -> Step {
        let line: EntryLine = decode(line, place).within(Check::Entry)?;
        let index = line.index;
        if self.last.is_some_and(|last| index <= last) || index >= self.manifest.size {
            return stop(
                Check::Entry,
                format!("{place}: index {index} doesn't rise, or is beyond the checkpoint"),
            );
        }
        if self.counts.entries >= ENTRIES_MAX {
            return stop(
                Check::Entry,
                format!("{place}: there are more than {ENTRIES_MAX} entries"),
            );
        }
        if self.last.is_none() && index != 0 {
            verdict.find(
                Check::Entry,
                Some(index),
                format!("{place}: the first entry here is not the log's first"),
            );
        }
        self.last = Some(index);
        self.counts.entries += 1;
        let entry = Entry::decode(line.entry.as_bytes())
            .map_err(|e| Error::corrupt(place.to_owned()).because(e).at(index))
            .within(Check::Entry)?;
        verdict.count(Check::Entry, 1);
        let leaf = leaf_hash(line.entry.as_bytes());
        match proof::verify_inclusion(
            &leaf,
            index,
            self.manifest.size,
            &hashes(&line.proof),
            &self.root,
        ) {
            Ok(()) => verdict.count(Check::Inclusion, 1),
            Err(e) => verdict.find(
                Check::Inclusion,
                Some(index),
                format!("{place}: {}", describe(&e)),
            ),
        }
        self.chunk.push((index, leaf));
        if self.chunk.len() == CHUNK {
            self.multi_proof(verdict)?;
        }
        if index == 0 {
            self.opened = Some(leaf);
        }
        self.log_entry(index, &entry, verdict);
        self.place_in_run(index, &entry, verdict);
        self.asked_for(index, &entry, line.matched, verdict);
        if line.matched {
            self.counts.matched += 1;
            if let Some(content) = &entry.content {
                self.disclosure(index, &entry, content, verdict)?;
            }
        }
        Ok(())
    }

    fn multi_proof(&mut self, verdict: &mut Verdict) -> Step {
        let check = Check::MultiProof;
        let Some(line) = self.multi.next(&mut self.archive).within(check)? else {
            return stop(
                check,
                format!("{MULTIPROOFS} ends before all entries are covered"),
            );
        };
        let place = self.multi.place();
        let line: MultiLine = decode(&line, &place).within(check)?;
        let (indexes, leaves): (Vec<u64>, Vec<Hash>) = self.chunk.drain(..).unzip();
        let first = indexes.first().copied();
        let count = indexes.len() as u64;
        if line.count != count {
            verdict.find(
                check,
                first,
                format!("{place} covers {} entries, not {count}", line.count),
            );
            return Ok(());
        }
        let size = self.manifest.size;
        match verify_multi_proof(&indexes, &leaves, size, &hashes(&line.hashes), &self.root) {
            Ok(()) => verdict.count(check, count),
            Err(e) if e.kind() == audit_core::ErrorKind::Corrupt => {
                verdict.find(check, first, format!("{place}: {}", describe(&e)));
            }
            Err(e) => return Err(e).within(check),
        }
        Ok(())
    }

    /// What the log says of itself: keys, signatures, heads, erasures.
    fn log_entry(&mut self, index: u64, entry: &Entry, verdict: &mut Verdict) {
        let kind = entry.kind.as_str();
        if (index == 0) != (kind == kinds::LOG_OPENED) {
            verdict.find(
                Check::Runs,
                Some(index),
                format!("kind {kind} at index {index}: the log's first entry, and no other, is log.opened"),
            );
        }
        let Some(log) = &entry.log else { return };
        if index == 0 {
            self.log.clone_from(&log.origin);
        }
        if let Some(head) = log.head {
            if head.size == index {
                verdict.count(Check::Heads, 1);
            } else {
                verdict.find(
                    Check::Heads,
                    Some(index),
                    format!("its head is of {} entries", head.size),
                );
            }
        }
        let public: &[PublicKey] = match &log.keys {
            Some(LogKeys::Public(keys)) => keys,
            _ => &[],
        };
        let own: BTreeSet<Digest> = public
            .iter()
            .filter(|k| k.role == Role::Writer)
            .map(|k| k.public)
            .collect();
        self.registered
            .extend(public.iter().map(|k| (k.role, k.public)));
        if log.signer.is_some() {
            let known = |signer: &Digest| {
                self.writers.contains(signer) || (index == 0 && own.contains(signer))
            };
            match verify_signed(entry) {
                Err(e) => verdict.find(Check::Signatures, Some(index), describe(&e)),
                Ok(signer) if !known(&signer) => verdict.find(
                    Check::Signatures,
                    Some(index),
                    format!("{kind} is signed by {signer}, which no entry here registers as a writer key"),
                ),
                Ok(_) => {
                    verdict.count(Check::Signatures, 1);
                    self.writers.extend(own);
                }
            }
        }
        if let Some(erased) = self.destroyed.remove(&index) {
            let ids: &[Uuid] = match (&log.keys, kind) {
                (Some(LogKeys::Ids(ids)), kinds::KEY_DESTROYED) => ids,
                _ => &[],
            };
            for (key, at) in erased {
                if ids.binary_search(&key).is_err() {
                    verdict.find(
                        Check::Disclosed,
                        Some(at),
                        format!("its content is said to be erased, but the entry at {index} destroys no key of it"),
                    );
                }
            }
        }
    }

    fn place_in_run(&mut self, index: u64, entry: &Entry, verdict: &mut Verdict) {
        let id = entry.run;
        let wrong = |verdict: &mut Verdict, what: &str| {
            verdict.find(Check::Runs, Some(index), format!("run {id} {what}"));
        };
        let opening = entry.log.as_ref().and_then(|l| l.opening.as_ref());
        if let Some(run) = self.runs.get_mut(&id) {
            if opening.is_some() {
                wrong(verdict, "is opened a second time");
            }
            if run.closed {
                wrong(verdict, "goes on after it was closed");
            }
            if entry.seq <= run.seq || entry.epoch < run.epoch {
                wrong(verdict, "has entries whose seq or epoch doesn't rise");
            }
            if entry.recorded < run.recorded {
                verdict.find(
                    Check::Recorded,
                    Some(index),
                    format!(
                        "recorded at {}, but an earlier entry of run {id} at {}",
                        entry.recorded, run.recorded
                    ),
                );
            }
            if entry.seq != run.seq.saturating_add(1) {
                run.chain = None;
            }
            run.seq = run.seq.max(entry.seq);
            run.epoch = run.epoch.max(entry.epoch);
            run.recorded = run.recorded.max(entry.recorded);
        } else {
            if opening.is_none() {
                wrong(verdict, "has no opening here");
            }
            let mut chain = None;
            if let (Some(auditor), Some(opening)) = (&self.policy.auditor, opening) {
                match auditor.open_run_key(self.vkey.name(), id, &opening.sealed) {
                    Ok(k0) => chain = Some(Box::new(MacChain::start(id, k0))),
                    Err(e) => {
                        if self.unopened.len() < 100 {
                            self.unopened.push((index, describe(&e)));
                        }
                    }
                }
            }
            let run = Run {
                seq: entry.seq,
                epoch: entry.epoch,
                recorded: entry.recorded,
                closed: false,
                chain,
            };
            self.runs.insert(id, run);
        }
        verdict.count(Check::Recorded, 1);
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        run.closed |= entry.kind.as_str() == kinds::WRITER_CLOSED;
        match run.chain.as_mut().map(|chain| chain.verify(entry)) {
            None => self.without_mac += 1,
            Some(Ok(())) => verdict.count(Check::Mac, 1),
            Some(Err(e)) => {
                verdict.find(Check::Mac, Some(index), describe(&e));
                run.chain = None;
            }
        }
        if entry.kind.as_str() == kinds::EPOCH_CLOSED
            && let Some(chain) = &mut run.chain
        {
            chain.evolve();
        }
    }

    /// Whether the query asks for this entry.
    fn asked_for(&mut self, index: u64, entry: &Entry, matched: bool, verdict: &mut Verdict) {
        let query = &self.manifest.query;
        let mut wrong = |what: String| verdict.find(Check::Query, Some(index), what);
        let kind = entry.kind.as_str();
        if !matched {
            let needed = [
                kinds::LOG_OPENED,
                kinds::WRITER_OPENED,
                kinds::KEY_REGISTERED,
                kinds::KEY_DESTROYED,
            ];
            if !needed.contains(&kind) {
                wrong(format!(
                    "an entry of kind {kind} is here, and the query didn't find it"
                ));
            }
            return;
        }
        if let Some(events) = &query.events {
            match events.binary_search(&entry.event) {
                Ok(n) => {
                    if let Some(asked) = self.asked.get_mut(n) {
                        *asked = true;
                    }
                }
                Err(_) => return wrong(format!("the query doesn't name event {}", entry.event)),
            }
        }
        if query.from.is_some_and(|from| entry.time < from)
            || query.to.is_some_and(|to| entry.time >= to)
        {
            return wrong(format!(
                "its time, {}, is not one that the query asks for",
                entry.time
            ));
        }
        if query.session.is_some() && entry.content.is_none() {
            return wrong("it has no content, so no session".to_owned());
        }
        verdict.count(Check::Query, 1);
    }

    fn disclosure(
        &mut self,
        index: u64,
        entry: &Entry,
        content: &ContentPart,
        verdict: &mut Verdict,
    ) -> Step {
        let check = Check::Disclosed;
        let Some(line) = self.disclosures.next(&mut self.archive).within(check)? else {
            return stop(
                check,
                format!("{DISCLOSURES} ends before the line of the entry at index {index}"),
            );
        };
        let place = self.disclosures.place();
        let line: DisclosureLine = decode(&line, &place).within(check)?;
        if line.v != V || line.index != index || line.event != entry.event {
            return stop(
                check,
                format!(
                    "{place} is of index {}, expected is {index} with event {}",
                    line.index, entry.event
                ),
            );
        }
        if let Some(at) = line.destroyed {
            self.counts.erased += 1;
            if !line.fields.is_empty() || at <= index {
                return stop(
                    check,
                    format!(
                        "{place}: an erased content has fields, or was erased at index {at}, before it was there"
                    ),
                );
            }
            if let Some(key) = entry.key {
                self.destroyed.entry(at).or_default().push((key, index));
            }
            self.session_unknown += 1;
            return Ok(());
        }
        self.counts.open += 1;
        let disclosed = line.fields.len() as u64;
        self.counts.fields += disclosed;
        self.counts.withheld += content.fields.saturating_sub(disclosed);
        let mut before: Option<(u64, String)> = None;
        let mut session = None;
        for field in line.fields {
            let named = format!("{place}, field {:?}", field.name);
            let rises = before
                .as_ref()
                .is_none_or(|(position, name)| *position < field.position && *name < field.name);
            if !rises || !is_field(&field.name) || field.name.len() > PATTERN_BYTES_MAX {
                return stop(check, format!("{named} is none, or doesn't rise"));
            }
            if !self.selection.shows(&field.name) {
                verdict.find(
                    Check::Query,
                    Some(index),
                    format!("{named} is disclosed, and manifest.json says that it is not"),
                );
            }
            before = Some((field.position, field.name.clone()));
            let committed = if let Some(name) = field.name.strip_prefix(PAYLOADS) {
                self.payload(index, entry, name, &field, &named, verdict)?
            } else {
                let value = match (&field.value, field.bytes, field.sha256) {
                    (Some(value), None, None) => STANDARD.decode(value).ok(),
                    _ => None,
                };
                let Some(value) = value else {
                    return stop(
                        check,
                        format!("{named} has no value in base64, or more than that"),
                    );
                };
                let committed = commitment(&field.salt.0, &field.name, &value);
                if field.name == "session_id" {
                    session = Some(value);
                }
                committed
            };
            match proof::verify_inclusion(
                &leaf_hash(&committed.0),
                field.position,
                content.fields,
                &hashes(&field.proof),
                &content.root.into(),
            ) {
                Ok(()) => verdict.count(check, 1),
                Err(e) => verdict.find(
                    check,
                    Some(index),
                    format!("{named} is not what the entry commits to: {}", describe(&e)),
                ),
            }
        }
        if let Some(asked) = &self.manifest.query.session {
            let asked = canonical::to_vec(asked).within(Check::Query)?;
            match session {
                Some(session) if session == asked => {}
                None if disclosed < content.fields => self.session_unknown += 1,
                _ => verdict.find(
                    Check::Query,
                    Some(index),
                    format!("{place}: it is not of the session that the query asks for"),
                ),
            }
        }
        Ok(())
    }

    /// Reads a payload's member; answers with the commitment that its bytes have.
    fn payload(
        &mut self,
        index: u64,
        entry: &Entry,
        name: &str,
        field: &FieldLine,
        named: &str,
        verdict: &mut Verdict,
    ) -> Step<Digest> {
        let check = Check::Payloads;
        let part = entry.payloads.iter().flatten().find(|p| p.name == name);
        let (Some(part), (Some(bytes), Some(sha256), None)) =
            (part, (field.bytes, field.sha256, &field.value))
        else {
            return stop(
                check,
                format!("{named} is no payload of the entry, or not written as one"),
            );
        };
        let expected = payload_member(index, name);
        let member = match self
            .archive
            .member(self.payloads_at)
            .within(Check::Container)?
        {
            Some(member) if member.name == expected => member,
            Some(member) => {
                return stop(
                    Check::Container,
                    format!("member {} stands where {expected} should be", member.name),
                );
            }
            None => {
                return stop(Check::Container, format!("member {expected} is missing"));
            }
        };
        if member.size != bytes || bytes != part.length {
            return stop(
                check,
                format!(
                    "member {expected} has {} bytes, {named} says {bytes}, the entry {}",
                    member.size, part.length
                ),
            );
        }
        self.payloads_at = member.end();
        verdict.count(Check::Container, 1);
        let mut hash = Sha256::new();
        let mut committing = CommitmentHasher::new(&field.salt.0, &field.name);
        self.archive
            .pieces(&member, &mut |piece| {
                hash.update(piece);
                committing.update(piece);
            })
            .within(Check::Container)?;
        let digest: [u8; 32] = hash.finalize().into();
        let committed = committing.finish();
        if sha256.0 != digest || committed != part.commitment {
            verdict.find(
                check,
                Some(index),
                format!("member {expected} is not the payload that the entry commits to, or that {named} names"),
            );
        } else {
            verdict.count(check, 1);
        }
        self.counts.payloads += 1;
        self.counts.payload_bytes += bytes;
        Ok(committed)
    }

    /// What can be said once everything was read.
    fn conclude(
        &mut self,
        keys: &KeysFile,
        signed: &Signed,
        found: &[(String, u64, Option<Digest>)],
        verdict: &mut Verdict,
    ) {
        let manifest = self.manifest;
        self.conclude_manifest(found, verdict);
        // Whether the key has to do with this log at all; else it decides nothing.
        let publisher = Hex(self.vkey.public_key());
        let registers = self.registered.contains(&(Role::Publisher, publisher));
        let known = registers || !signed.roots.is_empty();
        if !known {
            verdict.undecide(
                "the public key has nothing to do with this bundle: it signed no checkpoint in it, and the log was not \
                 opened with it",
            );
        }
        for size in &signed.foreign {
            let message = format!("{CHECKPOINTS}{size} is signed by another key");
            if known {
                verdict.find(Check::Checkpoints, None, message);
            } else {
                verdict.not_checked(Check::Checkpoints, message);
            }
        }
        let registered: Vec<PublicKey> = self
            .registered
            .iter()
            .map(|(role, public)| PublicKey {
                public: *public,
                role: *role,
            })
            .collect();
        let says = keys.vkey.parse::<VerifierKey>().ok();
        let own = keys.v == V
            && keys.origin == manifest.origin
            && keys.keys == registered
            && self.opened.is_some_and(|leaf| keys.opened == leaf.into())
            && says.as_ref().is_some_and(|key| {
                key.name() == keys.origin
                    && registered
                        .iter()
                        .any(|k| k.role == Role::Publisher && k.public.0 == key.public_key())
            });
        let mut state = |holds: bool, message: &str| {
            if holds {
                verdict.count(Check::Identity, 1);
            } else {
                verdict.find(Check::Identity, Some(0), message);
            }
        };
        state(
            own && self.log.as_ref() == Some(&manifest.origin),
            "keys.json or manifest.json is not what the entries register",
        );
        if known {
            state(
                manifest.origin == self.vkey.name(),
                "the log is called otherwise than the public key",
            );
            state(
                registers,
                "no entry here registers the public key as a publisher's",
            );
            state(
                says.as_ref() == Some(self.vkey),
                "keys.json has another public key than the one that was given",
            );
        }
        match (self.policy.opened, self.opened) {
            (Some(expected), Some(leaf)) => state(
                expected == leaf,
                &format!("the first entry has leaf hash {leaf}, not {expected}"),
            ),
            _ => verdict.not_checked(
                Check::Signatures,
                "whether the writer keys are the log's: the leaf hash of its first entry was not given",
            ),
        }
        self.conclude_macs(known, verdict);
        if let Some((at, erased)) = self.destroyed.first_key_value() {
            verdict.find(
                Check::Disclosed,
                erased.first().map(|(_, index)| *index),
                format!("its content is said to be erased at index {at}, which is not here"),
            );
        }
        if let Some(missing) = self.asked.iter().position(|found| !found) {
            let event = manifest.query.events.iter().flatten().nth(missing);
            verdict.find(
                Check::Query,
                None,
                format!(
                    "the query names event {}, which is not here",
                    event.copied().unwrap_or_default()
                ),
            );
        }
        if manifest.query.events.is_some() {
            verdict.count(Check::Completeness, self.counts.matched);
        } else {
            verdict.not_checked(
                Check::Completeness,
                "whether these are all the entries that match: only the whole log shows that",
            );
        }
        if manifest.query.session.is_some() && self.session_unknown > 0 {
            verdict.not_checked(
                Check::Query,
                format!(
                    "the session of {} events, which is not disclosed",
                    self.session_unknown
                ),
            );
        }
        if self.counts.matched == 0 {
            verdict.undecide("the bundle holds nothing that its query found");
        }
        verdict.counts.entries = self.counts.entries;
        verdict.counts.erased = self.counts.erased;
        verdict.counts.parts = self.counts.payloads;
        verdict.counts.parts_bytes = self.counts.payload_bytes;
        verdict.counts.runs = self.runs.len() as u64;
        verdict.count(Check::Runs, self.runs.len() as u64);
        verdict.size = self.counts.entries;
        if let Some(root) = signed.roots.get(&manifest.size) {
            verdict.covered = Some(Covered {
                size: manifest.size,
                root: *root,
                remembered: false,
            });
        }
    }

    fn conclude_manifest(&self, found: &[(String, u64, Option<Digest>)], verdict: &mut Verdict) {
        let manifest = self.manifest;
        if manifest.members.len() != found.len() {
            verdict.find(
                Check::Manifest,
                None,
                format!(
                    "manifest.json lists {} members, there are {}",
                    manifest.members.len(),
                    found.len()
                ),
            );
        }
        for (listed, (name, size, digest)) in manifest.members.iter().zip(found) {
            if listed.name == *name && listed.size == *size && Some(listed.sha256) == *digest {
                verdict.count(Check::Manifest, 1);
            } else {
                verdict.find(
                    Check::Manifest,
                    None,
                    format!("member {name} is not the one that manifest.json lists, by name, size and hash"),
                );
            }
        }
        if manifest.counts == self.counts {
            verdict.count(Check::Manifest, 1);
        } else {
            verdict.find(
                Check::Manifest,
                None,
                format!(
                    "manifest.json counts {:?}, there are {:?}",
                    manifest.counts, self.counts
                ),
            );
        }
        if self.counts.withheld > 0 && self.selection.is_everything() {
            verdict.find(
                Check::Manifest,
                None,
                format!(
                    "{} fields are withheld, and manifest.json says that none are",
                    self.counts.withheld
                ),
            );
        }
    }

    fn conclude_macs(&mut self, known: bool, verdict: &mut Verdict) {
        let Some(auditor) = &self.policy.auditor else {
            verdict.not_checked(Check::Mac, "MAC chains: no auditor key given");
            return;
        };
        let ours = auditor.public().0;
        let mut auditors = self.registered.iter().filter(|(r, _)| *r == Role::Auditor);
        let only_ours = known
            && self.registered.contains(&(Role::Auditor, ours))
            && auditors.all(|(_, key)| *key == ours);
        for (index, message) in std::mem::take(&mut self.unopened) {
            if only_ours {
                verdict.find(Check::Mac, Some(index), message);
            } else {
                verdict.not_checked(Check::Mac, message.clone());
                verdict.undecide(message);
            }
        }
        if self.without_mac > 0 {
            verdict.not_checked(
                Check::Mac,
                format!(
                    "{} entries before which one of their run is not here",
                    self.without_mac
                ),
            );
        }
    }
}
