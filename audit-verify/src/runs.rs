//! Writer runs: order, epochs, openings, MAC chains.

use std::collections::{BTreeSet, HashMap};

use audit_core::Entry;
use audit_core::chain::{MacChain, verify_signed};
use audit_core::entry::{LogKeys, Role, kinds};
use audit_core::hex::Digest;
use audit_core::time::Timestamp;
use uuid::Uuid;

use crate::Policy;
use crate::verdict::{Check, Verdict, describe};

/// Runs that never closed and are listed by name.
const OPEN_RUNS_MAX: usize = 100;

/// Runs whose sealed key doesn't open and that are told one by one.
const UNOPENED_MAX: usize = 100;

/// What is known of an entry that was checked.
#[derive(Clone, Copy)]
pub(crate) struct Said {
    /// Its MAC was checked and is right.
    pub(crate) mac: bool,
    /// It is signed by a writer key that was registered before it. False of an entry of a kind that isn't signed.
    pub(crate) signed: bool,
}

/// The state of one run: all that is kept of it, whatever its length.
struct Run {
    seq: u64,
    epoch: u64,
    epoch_entries: u64,
    /// False behind a damaged entry, until the next epoch.
    epoch_counted: bool,
    recorded: Timestamp,
    index: u64,
    closed: bool,
    /// Boxed: most runs of a long log are over.
    chain: Option<Box<MacChain>>,
}

/// Whether an entry is of a kind that is signed; decoding has seen to it that the members are there.
fn is_signed(entry: &Entry) -> bool {
    entry.log.as_ref().is_some_and(|l| l.signer.is_some())
}

/// The runs of a log.
pub(crate) struct Runs {
    by_id: HashMap<Uuid, Run>,
    registered: BTreeSet<(Role, Digest)>,
    /// The index of the last entry that could not be decoded: what it said of its run is not known.
    damaged: Option<u64>,
    /// Openings whose sealed key doesn't open, though no other auditor is registered.
    unopened: Vec<(u64, String)>,
}

impl Runs {
    pub(crate) fn new() -> Self {
        Self {
            by_id: HashMap::new(),
            registered: BTreeSet::new(),
            damaged: None,
            unopened: Vec::new(),
        }
    }

    pub(crate) fn damaged(&mut self, index: u64) {
        self.damaged = Some(index);
    }

    pub(crate) fn registers(&self, role: Role, key: &Digest) -> bool {
        self.registered.contains(&(role, *key))
    }

    /// Whether an entry of a kind that is signed is signed by a writer key; if so, takes up the keys that it registers.
    /// What is wrong comes with whether it may only follow from an entry that could not be read.
    fn authority(&mut self, index: u64, entry: &Entry) -> Result<(), (String, bool)> {
        let signer = verify_signed(entry).map_err(|e| (describe(&e), false))?;
        let kind = entry.kind.as_str();
        let public = match entry.log.as_ref().and_then(|l| l.keys.as_ref()) {
            Some(LogKeys::Public(keys)) => keys.as_slice(),
            _ => &[],
        };
        // The first entry registers the keys that sign it.
        let first = index == 0 && kind == kinds::LOG_OPENED;
        let own = || {
            public
                .iter()
                .any(|k| k.role == Role::Writer && k.public == signer)
        };
        if !(self.registers(Role::Writer, &signer) || first && own()) {
            let message = format!(
                "{kind} of run {} is signed by {signer}, which no entry up to here registers as a writer key",
                entry.run
            );
            return Err((message, self.damaged.is_some()));
        }
        if first || kind == kinds::KEY_REGISTERED {
            self.registered
                .extend(public.iter().map(|k| (k.role, k.public)));
        }
        Ok(())
    }

    /// Takes up an entry that came while the log was being verified: whether it is signed by a writer key.
    pub(crate) fn observe(&mut self, index: u64, entry: &Entry) -> bool {
        is_signed(entry) && self.authority(index, entry).is_ok()
    }

    fn signed(&mut self, index: u64, entry: &Entry, verdict: &mut Verdict) -> bool {
        if !is_signed(entry) {
            return false;
        }
        verdict.count(Check::Signatures, 1);
        match self.authority(index, entry) {
            Ok(()) => true,
            Err((message, follows)) => {
                verdict.found(Check::Signatures, Some(index), &message, follows);
                false
            }
        }
    }

    /// Checks the next entry of the log.
    pub(crate) fn check(
        &mut self,
        index: u64,
        entry: &Entry,
        policy: &Policy<'_>,
        verdict: &mut Verdict,
    ) -> Said {
        let signed = self.signed(index, entry, verdict);
        let mac = self.place(index, entry, policy, verdict);
        Said { mac, signed }
    }

    /// Puts the entry into its run; answers whether its MAC was checked and is right.
    fn place(
        &mut self,
        index: u64,
        entry: &Entry,
        policy: &Policy<'_>,
        verdict: &mut Verdict,
    ) -> bool {
        let kind = entry.kind.as_str();
        if (kind == kinds::LOG_OPENED) != (index == 0) {
            let message = if index == 0 {
                format!(
                    "the first entry is of kind {kind}, not {}",
                    kinds::LOG_OPENED
                )
            } else {
                format!("{} stands elsewhere than at index 0", kinds::LOG_OPENED)
            };
            verdict.find(Check::Runs, Some(index), message);
        }
        let opens = entry.log.as_ref().is_some_and(|l| l.opening.is_some());
        let gap_forgiven = |after: Option<u64>| match (self.damaged, after) {
            (Some(damaged), Some(after)) => damaged > after,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let known = self.by_id.get(&entry.run).map(|r| r.index);
        let forgiven = gap_forgiven(known);
        if opens && known.is_none() {
            self.open(index, entry, policy, verdict);
        } else if known.is_none() {
            if !forgiven {
                verdict.find(
                    Check::Runs,
                    Some(index),
                    format!(
                        "run {} begins with kind {kind} and seq {}, not with an opening",
                        entry.run, entry.seq
                    ),
                );
            }
            if policy.auditor.is_some() {
                verdict.not_checked(
                    Check::Mac,
                    format!("run {}: its opening is missing", entry.run),
                );
            }
            verdict.counts.runs += 1;
            self.by_id.insert(
                entry.run,
                Run {
                    seq: entry.seq,
                    epoch: entry.epoch,
                    epoch_entries: 0,
                    epoch_counted: false,
                    recorded: entry.recorded,
                    index,
                    closed: false,
                    chain: None,
                },
            );
        } else if opens {
            verdict.find(
                Check::Runs,
                Some(index),
                format!("run {} is opened a second time", entry.run),
            );
            return false;
        }
        let Some(run) = self.by_id.get_mut(&entry.run) else {
            return false;
        };
        Self::step(run, index, entry, forgiven, policy, verdict)
    }

    fn open(&mut self, index: u64, entry: &Entry, policy: &Policy<'_>, verdict: &mut Verdict) {
        verdict.counts.runs += 1;
        let previous = entry
            .log
            .as_ref()
            .and_then(|l| l.opening.as_ref())
            .and_then(|o| o.previous);
        let wrong = match previous {
            None if self.by_id.is_empty() => None,
            None => Some("names no run before it, though there are some".to_owned()),
            Some(previous) if self.by_id.contains_key(&previous) => None,
            Some(previous) => Some(format!(
                "names run {previous} before it, which was not opened"
            )),
        };
        if let Some(wrong) = wrong
            && self.damaged.is_none()
        {
            verdict.find(
                Check::Runs,
                Some(index),
                format!("the opening of run {} {wrong}", entry.run),
            );
        }
        let mut chain = None;
        if let Some(auditor) = &policy.auditor
            && let Some(opening) = entry.log.as_ref().and_then(|l| l.opening.as_ref())
        {
            match auditor.open_run_key(policy.vkey.name(), entry.run, &opening.sealed) {
                Ok(k0) => chain = Some(Box::new(MacChain::start(entry.run, k0))),
                Err(_) => self.sealed_to_other(index, entry.run, auditor.public().0, verdict),
            }
        }
        self.by_id.insert(
            entry.run,
            Run {
                seq: 0,
                epoch: 0,
                epoch_entries: 0,
                epoch_counted: true,
                recorded: entry.recorded,
                index,
                closed: false,
                chain,
            },
        );
    }

    /// A sealed run key that doesn't open: tampering only if it can't be meant for another registered auditor.
    fn sealed_to_other(&mut self, index: u64, run: Uuid, ours: Digest, verdict: &mut Verdict) {
        let auditors = self.registered.range(
            (Role::Auditor, Digest::from([0; 32]))..=(Role::Auditor, Digest::from([0xff; 32])),
        );
        let only_ours = auditors.clone().count() > 0 && auditors.clone().all(|(_, k)| *k == ours);
        let message = format!("the sealed key of run {run} does not open with the auditor key");
        if only_ours {
            // The origin is bound into the sealed key, so a policy of another log opens none either.
            if self.unopened.len() < UNOPENED_MAX {
                self.unopened
                    .push((index, format!("{message}, the only one that is registered")));
            }
        } else {
            verdict.not_checked(Check::Mac, message.clone());
            verdict.undecide(message);
        }
    }

    fn step(
        run: &mut Run,
        index: u64,
        entry: &Entry,
        forgiven: bool,
        policy: &Policy<'_>,
        verdict: &mut Verdict,
    ) -> bool {
        let kind = entry.kind.as_str();
        if run.closed {
            verdict.find(
                Check::Runs,
                Some(index),
                format!("run {} goes on after it was closed", entry.run),
            );
        }
        if entry.seq < run.seq {
            verdict.find(
                Check::Runs,
                Some(index),
                format!(
                    "seq {} of run {} stands here a second time, or late",
                    entry.seq, entry.run
                ),
            );
            return false;
        }
        if entry.seq > run.seq {
            if !forgiven {
                verdict.find(
                    Check::Runs,
                    Some(index),
                    format!(
                        "run {} goes from seq {} to {}: {} of its entries are missing before this one",
                        entry.run,
                        run.seq.saturating_sub(1),
                        entry.seq,
                        entry.seq - run.seq
                    ),
                );
            }
            Self::lose_chain(run, entry.run, index, policy, verdict);
            run.seq = entry.seq;
            run.epoch_counted = false;
        }
        if entry.epoch != run.epoch {
            if run.epoch_counted {
                verdict.find(
                    Check::Runs,
                    Some(index),
                    format!(
                        "entry of run {} has epoch {}, the open epoch is {}",
                        entry.run, entry.epoch, run.epoch
                    ),
                );
            }
            Self::lose_chain(run, entry.run, index, policy, verdict);
            run.epoch = entry.epoch;
            run.epoch_counted = false;
        }
        verdict.count(Check::Recorded, 1);
        if entry.recorded < run.recorded {
            verdict.find(
                Check::Recorded,
                Some(index),
                format!(
                    "recorded at {}, but an earlier entry of run {} at {}",
                    entry.recorded, entry.run, run.recorded
                ),
            );
        }
        run.recorded = run.recorded.max(entry.recorded);
        let mut authentic = false;
        if let Some(chain) = &mut run.chain {
            match chain.verify(entry) {
                Ok(()) => {
                    authentic = true;
                    verdict.count(Check::Mac, 1);
                }
                Err(e) => {
                    verdict.find(Check::Mac, Some(index), describe(&e));
                    run.chain = None;
                }
            }
        }
        run.epoch_entries += 1;
        let entries = entry.log.as_ref().and_then(|l| l.entries);
        match kind {
            kinds::EPOCH_CLOSED => {
                if run.epoch_counted && entries != Some(run.epoch_entries) {
                    verdict.find(
                        Check::Runs,
                        Some(index),
                        format!(
                            "epoch {} of run {} closes with {} entries, there are {}",
                            run.epoch,
                            entry.run,
                            entries.unwrap_or_default(),
                            run.epoch_entries
                        ),
                    );
                }
                verdict.counts.epochs_closed += 1;
                run.epoch = run.epoch.saturating_add(1);
                run.epoch_entries = 0;
                run.epoch_counted = true;
                if let Some(chain) = &mut run.chain {
                    chain.evolve();
                }
            }
            kinds::WRITER_CLOSED => {
                if entries != Some(entry.seq.saturating_add(1)) {
                    verdict.find(
                        Check::Runs,
                        Some(index),
                        format!(
                            "run {} closes with {} entries, there are {}",
                            entry.run,
                            entries.unwrap_or_default(),
                            entry.seq.saturating_add(1)
                        ),
                    );
                }
                verdict.counts.epochs_closed += 1;
                run.closed = true;
                run.chain = None;
            }
            _ => {}
        }
        run.seq = entry.seq.saturating_add(1);
        run.index = index;
        authentic
    }

    fn lose_chain(run: &mut Run, id: Uuid, index: u64, policy: &Policy<'_>, verdict: &mut Verdict) {
        if run.chain.take().is_some() && policy.auditor.is_some() {
            verdict.not_checked(
                Check::Mac,
                format!("run {id} from index {index} on: its chain is broken there"),
            );
        }
    }

    /// The runs that the only registered auditor can't open.
    pub(crate) fn unopened(&mut self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.unopened)
    }

    /// Counts the runs and lists those that never closed.
    pub(crate) fn finish(&self, verdict: &mut Verdict) {
        verdict.count(Check::Runs, self.by_id.len() as u64);
        let mut open: Vec<(u64, Uuid)> = self
            .by_id
            .iter()
            .filter(|(_, run)| !run.closed)
            .map(|(id, run)| (run.index, *id))
            .collect();
        open.sort_unstable();
        verdict.open_runs_total = open.len() as u64;
        if let Some((index, id)) = open.last() {
            verdict.notice(format!(
                "{} of {} runs never closed; they go on, or were cut (the last: run {id}, until index {index})",
                open.len(),
                self.by_id.len()
            ));
        }
        verdict.open_runs = open
            .into_iter()
            .take(OPEN_RUNS_MAX)
            .map(|(_, id)| id)
            .collect();
    }
}
