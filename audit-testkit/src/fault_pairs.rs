//! Fault pairs: a log over any backend, whose store fails or whose process dies at every call of the write path, without
//! and with the effect of the call persisted. After each the log is opened again, goes on, is closed, and the verifier
//! judges ([`judge`](crate::judge)).
//!
//! The work is the same in every run ([`Sweep`] says of which shape): a log is made, closed and opened again, a second
//! process appends beside it, batches of one and of several are committed, checkpoints published, epochs end, an idle
//! time leaves a heartbeat, commits of unknown outcome are resolved, the run is closed. The n-th call of each kind fails,
//! for n from the first on until a run makes no such call any more, so no step can be forgotten.
//!
//! Each life of the process has a runtime of its own, which is dropped at its death with all its tasks, and tokio's
//! stopped clock. Backends that talk over a network time out on a stopped clock: they set [`Sweep::unit`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit_core::event::{Actor, ActorKind, Media};
use audit_core::log::{Log, LogOptions, StateFile};
use audit_core::store::Store;
use audit_core::time::{Clock, IdSource};
use audit_core::{ErrorKind, Event, Kind, Payload, Result};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::conformance::Backend;
use crate::faulty::{Call, Fault, FaultyStore};
use crate::judge::{Keys, Model};
use crate::ledger::{Ledger, StrictStore};
use crate::mortal::{Death, Died, Life, MortalStore};
use crate::time::{TestClock, TestIds};

/// Where a process may die on the write path, in its order: one for each comment in the code that says so, and for each
/// step between two effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "tests count every one of them, and must notice new ones"
)]
pub enum DiePoint {
    /// Creating: the store is not a log's store yet.
    NotCreated,
    /// Creating: it is, and has no entry.
    Created,
    /// Opening: reading what is there, nothing of this run is written.
    Recovering,
    /// Opening: the run key is drawn and sealed, the opening is only in memory, or built under the store's lock.
    OpeningUnwritten,
    /// Opening: it is durable, nobody was told.
    OpeningWritten,
    /// Appending: the batch is only in memory.
    BatchInMemory,
    /// Appending: it was built under the store's lock, and not committed.
    BatchBuilt,
    /// Appending: it is durable, and no caller has an answer.
    BatchWritten,
    /// Appending: the outcome is unknown, and not found out yet.
    BatchUnresolved,
    /// Appending: it is durable, and what others appended before it isn't compared yet with what this run saw.
    BatchUnchecked,
    /// The entry that ends an epoch isn't written.
    EpochEndUnwritten,
    /// It is durable, and the epoch's key is still in memory.
    EpochEndWritten,
    /// A heartbeat isn't written.
    HeartbeatUnwritten,
    /// It is durable.
    HeartbeatWritten,
    /// Publishing: the lease isn't taken.
    LeaseNotTaken,
    /// Publishing: it is taken, or about to be asked whether it still is.
    LeaseTaken,
    /// Publishing: the head is being compared with what was signed before.
    Comparing,
    /// Publishing: the new checkpoint is signed, nobody has seen it.
    Signed,
    /// Publishing: a part of it is in the file that is to take the state file's place.
    StateTorn,
    /// Publishing: all of it is there, and not in its place yet, or the renaming isn't durable.
    StateUnrenamed,
    /// Publishing: the state file is ahead of the store.
    StateWritten,
    /// Publishing: the store has the checkpoint, and nobody was told.
    Published,
    /// Closing: the closing entry isn't written.
    ClosingUnwritten,
    /// Closing: it is durable, and no checkpoint commits to it.
    ClosingWritten,
}

impl DiePoint {
    /// Every one.
    pub const ALL: [Self; 24] = [
        Self::NotCreated,
        Self::Created,
        Self::Recovering,
        Self::OpeningUnwritten,
        Self::OpeningWritten,
        Self::BatchInMemory,
        Self::BatchBuilt,
        Self::BatchWritten,
        Self::BatchUnresolved,
        Self::BatchUnchecked,
        Self::EpochEndUnwritten,
        Self::EpochEndWritten,
        Self::HeartbeatUnwritten,
        Self::HeartbeatWritten,
        Self::LeaseNotTaken,
        Self::LeaseTaken,
        Self::Comparing,
        Self::Signed,
        Self::StateTorn,
        Self::StateUnrenamed,
        Self::StateWritten,
        Self::Published,
        Self::ClosingUnwritten,
        Self::ClosingWritten,
    ];

    /// The point at which a process died that was at `phase` of its work.
    fn of(phase: Phase, died: &Died, left: Left) -> Option<Self> {
        let written = died.moment == Fault::After;
        let either = |without, with| Some(if written { with } else { without });
        match (died.call, phase) {
            (Call::Create, _) => either(Self::NotCreated, Self::Created),
            (Call::Append, Phase::Opening) => either(Self::OpeningUnwritten, Self::OpeningWritten),
            (Call::Append, Phase::Appending | Phase::Resolving) => Some(match died.moment {
                Fault::Before => Self::BatchInMemory,
                Fault::Built => Self::BatchBuilt,
                Fault::After => Self::BatchWritten,
            }),
            (Call::Append, Phase::EpochEnd) => {
                either(Self::EpochEndUnwritten, Self::EpochEndWritten)
            }
            (Call::Append, Phase::Idle) => either(Self::HeartbeatUnwritten, Self::HeartbeatWritten),
            (Call::Append, Phase::Closing) => either(Self::ClosingUnwritten, Self::ClosingWritten),
            (Call::PublisherLease, _) => either(Self::LeaseNotTaken, Self::LeaseTaken),
            (Call::Held, _) => Some(Self::LeaseTaken),
            (Call::PutCheckpoint, _) => Some(match (left, written) {
                (Left::Signed, _) => Self::Signed,
                (Left::Torn, _) => Self::StateTorn,
                (Left::Unrenamed, _) => Self::StateUnrenamed,
                (Left::Written, false) => Self::StateWritten,
                (Left::Written, true) => Self::Published,
            }),
            (_, Phase::Opening) => Some(Self::Recovering),
            (Call::Tile, Phase::Appending) => Some(Self::BatchUnchecked),
            (Call::Position | Call::Rows | Call::Tile, Phase::Resolving) => {
                Some(Self::BatchUnresolved)
            }
            (_, Phase::Publishing | Phase::Closing) => Some(Self::Comparing),
            _ => None,
        }
    }

    /// The kind of entry that a batch has at this point, where all batches at it are of one.
    fn kind(self) -> Option<&'static [&'static str]> {
        match self {
            Self::OpeningUnwritten | Self::OpeningWritten => Some(&["log.opened", "writer.opened"]),
            Self::BatchBuilt | Self::BatchWritten => Some(&["llm.request"]),
            Self::EpochEndUnwritten | Self::EpochEndWritten => Some(&["writer.epoch_closed"]),
            Self::HeartbeatUnwritten | Self::HeartbeatWritten => Some(&["writer.heartbeat"]),
            Self::ClosingUnwritten | Self::ClosingWritten => Some(&["writer.closed"]),
            _ => None,
        }
    }
}

/// What the work is doing, so that a call can be told from the same call elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Appending,
    Publishing,
    EpochEnd,
    Idle,
    Resolving,
    Closing,
}

/// What a death at the release of a checkpoint left of the state file. What comes before the release touches nothing but
/// that file, so an earlier death is the later one with less of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Signed,
    Torn,
    Unrenamed,
    Written,
}

/// How a sweep goes.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "tests say all of it")]
pub struct Sweep {
    /// Each how-manieth case is run; 1: all.
    pub every: usize,
    /// How often each die-point is hit at least.
    pub hits_min: u64,
    /// Faults that last for several calls, and kinds of errors that calls don't have by the contract, too.
    pub long: bool,
    /// `None`: time is stopped, and a run takes none. Else the real time of one unit; a run lasts about 200 of them.
    pub unit: Option<Duration>,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            every: 1,
            hits_min: 10,
            long: false,
            unit: None,
        }
    }
}

/// What a sweep did; it panics if a run was judged bad.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "tests look at all of it")]
pub struct Report {
    /// Runs in which the fault or death came to pass.
    pub runs: u64,
    /// How often a process died at each point, was opened again and judged good.
    pub hits: BTreeMap<DiePoint, u64>,
    /// Runs by the call that failed or was died at.
    pub calls: BTreeMap<Call, u64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} runs", self.runs)?;
        for (call, runs) in &self.calls {
            writeln!(f, "  call {call:?}: {runs}")?;
        }
        for (point, hits) in &self.hits {
            writeln!(f, "  die-point {point:?}: {hits}")?;
        }
        Ok(())
    }
}

/// Calls of the write path.
const CALLS: [Call; 12] = [
    Call::Create,
    Call::Append,
    Call::PutCheckpoint,
    Call::PublisherLease,
    Call::Held,
    Call::Description,
    Call::Head,
    Call::Rows,
    Call::Position,
    Call::Find,
    Call::Tile,
    Call::LatestCheckpoint,
];

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy)]
enum Case {
    Death(Death, Left),
    Fault {
        call: Call,
        skip: u64,
        times: u64,
        fault: Fault,
        kind: ErrorKind,
    },
}

impl Case {
    fn call(&self) -> Option<Call> {
        match self {
            Self::Death(death, _) => death.call,
            Self::Fault { call, .. } => Some(*call),
        }
    }

    fn nth(mut self, n: u64) -> Self {
        match &mut self {
            Self::Death(death, _) => death.skip = n,
            Self::Fault { skip, .. } => *skip = n,
        }
        self
    }
}

/// How the work is shaped; other shapes put other tree sizes and batches under the same die-point.
#[derive(Debug, Clone, Copy)]
struct Shape {
    round: u64,
    prefill: usize,
    burst: u64,
    payload_bytes: usize,
}

impl Shape {
    fn of(round: u64) -> Self {
        // Every third begins shortly before a tile is full.
        let nth = usize::try_from(round / 3).unwrap_or_default();
        Self {
            round,
            prefill: if round % 3 == 1 { 243 + nth % 12 } else { 0 },
            burst: 1 + (round + 3) % 5,
            payload_bytes: 16 << (round % 8),
        }
    }
}

/// Runs deaths and faults.
///
/// # Panics
///
/// If a run is judged bad, or a die-point isn't hit often enough.
pub fn run(backend: &dyn Backend, sweep: &Sweep) -> Report {
    let mut report = deaths(backend, sweep);
    let faults = faults(backend, sweep);
    report.runs += faults.runs;
    for (call, runs) in faults.calls {
        *report.calls.entry(call).or_default() += runs;
    }
    report
}

/// The process dies at every call, and again at every die-point, over logs of other shapes, until each was hit
/// [`Sweep::hits_min`] times.
///
/// # Panics
///
/// As [`run`].
pub fn deaths(backend: &dyn Backend, sweep: &Sweep) -> Report {
    let stage = Stage::new(backend, sweep);
    let mut report = Report::default();
    let mut found: BTreeMap<DiePoint, Vec<Case>> = BTreeMap::new();
    for call in CALLS {
        for moment in moments(call) {
            let death = Death {
                call: Some(call),
                skip: 0,
                moment,
            };
            let lefts: &[Left] = if (call, moment) == (Call::PutCheckpoint, Fault::Before) {
                &[Left::Written, Left::Signed, Left::Torn, Left::Unrenamed]
            } else {
                &[Left::Written]
            };
            for left in lefts {
                stage.sweep(
                    Case::Death(death, *left),
                    Shape::of(0),
                    &mut report,
                    |point, case| {
                        found.entry(point).or_default().push(case);
                    },
                );
            }
        }
    }
    for round in 1..=200 {
        for (point, cases) in &found {
            let missing = sweep
                .hits_min
                .saturating_sub(report.hits.get(point).copied().unwrap_or_default());
            for case in cases
                .iter()
                .take(usize::try_from(missing).unwrap_or(usize::MAX))
            {
                stage.case(*case, Shape::of(round), &mut report);
            }
        }
    }
    for point in DiePoint::ALL {
        let hits = report.hits.get(&point).copied().unwrap_or_default();
        assert!(
            hits >= sweep.hits_min,
            "die-point {point:?} was hit {hits} times only\n{report}"
        );
    }
    report
}

/// Every call fails once, and several times in a row, and the same process goes on.
///
/// # Panics
///
/// As [`run`].
pub fn faults(backend: &dyn Backend, sweep: &Sweep) -> Report {
    let stage = Stage::new(backend, sweep);
    let mut report = Report::default();
    for call in CALLS {
        for (times, fault, kind) in failures(call, sweep.long) {
            let case = Case::Fault {
                call,
                skip: 0,
                times,
                fault,
                kind,
            };
            stage.sweep(case, Shape::of(0), &mut report, |_, _| {});
        }
    }
    for call in CALLS {
        let runs = report.calls.get(&call).copied().unwrap_or_default();
        assert!(runs > 0, "{call:?} never failed\n{report}");
    }
    report
}

fn moments(call: Call) -> Vec<Fault> {
    match call {
        Call::Append => vec![Fault::Before, Fault::Built, Fault::After],
        _ => vec![Fault::Before, Fault::After],
    }
}

/// How a call fails by the contract: how often, when, and with what.
fn failures(call: Call, long: bool) -> Vec<(u64, Fault, ErrorKind)> {
    use ErrorKind::{Corrupt, RolledBack, Unavailable, Unknown};
    use Fault::{After, Before, Built};
    let mut failures = match call {
        // `Unavailable` promises that nothing was written.
        Call::Append => vec![
            (1, Before, Unavailable),
            (1, Built, Unavailable),
            (3, Built, Unavailable),
            (1, Before, Unknown),
            (1, Built, Unknown),
            (1, After, Unknown),
            (2, After, Unknown),
            (1, Before, Corrupt),
            (1, After, Corrupt),
            (1, Before, RolledBack),
            (1, After, RolledBack),
        ],
        Call::Create | Call::PutCheckpoint | Call::PublisherLease => vec![
            (1, Before, Unavailable),
            (1, After, Unavailable),
            (3, Before, Unavailable),
            (1, Before, Unknown),
            (1, After, Unknown),
            (1, Before, Corrupt),
            (1, After, Corrupt),
        ],
        _ => vec![(1, Before, Unavailable), (1, Before, Corrupt)],
    };
    if long && call != Call::Append {
        failures.extend([
            (4, Before, Unavailable),
            (1, Before, RolledBack),
            (1, After, Unavailable),
            (1, After, Unknown),
        ]);
    }
    failures
}

/// What all runs of a sweep share.
struct Stage<'a> {
    backend: &'a dyn Backend,
    sweep: &'a Sweep,
    keys: Keys,
}

/// One run.
struct Site<'a> {
    stage: &'a Stage<'a>,
    shape: Shape,
    state: TempDir,
    model: Model,
    clock: Arc<TestClock>,
    ids: Arc<TestIds>,
    ledger: Arc<Ledger>,
    phase: Mutex<Phase>,
}

impl<'a> Stage<'a> {
    fn new(backend: &'a dyn Backend, sweep: &'a Sweep) -> Self {
        let keys = Keys::generate("example.com/faults", &TestIds::new(1));
        Self {
            backend,
            sweep,
            keys: keys.expect("the origin is one"),
        }
    }

    /// Runs a case at the first call, the second and so on, until there is no such call.
    fn sweep(
        &self,
        case: Case,
        shape: Shape,
        report: &mut Report,
        mut found: impl FnMut(DiePoint, Case),
    ) {
        let mut n = 0;
        loop {
            let nth = case.nth(n);
            let (reached, point) = self.case(nth, shape, report);
            if let Some(point) = point {
                found(point, nth);
            }
            if !reached {
                return;
            }
            n += self.sweep.every.max(1) as u64;
            assert!(n < 10_000, "{case:?} never ends");
        }
    }

    /// Runs one case: whether it came to pass, and where the process died.
    fn case(&self, case: Case, shape: Shape, report: &mut Report) -> (bool, Option<DiePoint>) {
        let site = Site::new(self, shape);
        let (reached, point, wrong) = site.run(case);
        assert!(
            wrong.is_empty(),
            "{case:?} at {point:?} with {shape:?}:\n  {}",
            wrong.join("\n  ")
        );
        if reached {
            report.runs += 1;
            if let Some(call) = case.call() {
                *report.calls.entry(call).or_default() += 1;
            }
            if let Some(point) = point {
                *report.hits.entry(point).or_default() += 1;
            }
        }
        (reached, point)
    }

    fn runtime(&self) -> Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(self.sweep.unit.is_none())
            .build()
            .expect("a runtime can be made")
    }
}

impl<'a> Site<'a> {
    fn new(stage: &'a Stage<'a>, shape: Shape) -> Self {
        Self {
            stage,
            shape,
            state: tempfile::tempdir().expect("a directory can be made"),
            model: Model::default(),
            clock: Arc::default(),
            ids: Arc::new(TestIds::new(shape.round + 2)),
            ledger: Arc::default(),
            phase: Mutex::new(Phase::Opening),
        }
    }

    fn run(&self, case: Case) -> (bool, Option<DiePoint>, Vec<String>) {
        self.prepare();
        let (reached, point) = self.first_life(case);
        let wrong = self.second_life();
        self.ledger.check();
        (reached, point, wrong)
    }

    fn prepare(&self) {
        self.stage.runtime().block_on(async {
            let store = self.strict(self.stage.backend.fresh().await);
            if self.shape.prefill > 0 {
                let log = Log::create(self.options(&store, false)).await;
                let log = log.expect("a log is made in a new store");
                self.burst(&log, self.shape.prefill as u64).await;
                log.close().await.expect("the log closes");
            }
        });
    }

    /// The work, with what goes wrong in it. Answers whether it did, and where the process died.
    fn first_life(&self, case: Case) -> (bool, Option<DiePoint>) {
        let runtime = self.stage.runtime();
        let life = Arc::new(Life::default());
        let faulty = runtime.block_on(async {
            let raw = self.strict(self.stage.backend.reopen().await);
            let unknown = FaultyStore::new(Arc::clone(&raw));
            let faulty = FaultyStore::new(Arc::new(unknown.clone()));
            match case {
                Case::Death(death, _) => life.die(death),
                Case::Fault {
                    call,
                    skip,
                    times,
                    fault,
                    kind,
                } => faulty.fail_times(call, skip, times, fault, kind),
            }
            let work = Work {
                site: self,
                store: Arc::new(MortalStore::new(Arc::new(faulty.clone()), &life)),
                raw,
                faulty: faulty.clone(),
                unknown,
                publisher: !matches!(case, Case::Fault { call: Call::Append, .. }),
                goes_on: !matches!(case, Case::Fault { kind, .. } if kind != ErrorKind::Unavailable),
            };
            tokio::select! {
                biased;
                () = life.died() => {}
                () = Box::pin(work.run()) => {}
            }
            faulty
        });
        // The process is gone: its tasks first, then what the operating system held for it.
        drop(runtime);
        life.bury();
        let Case::Death(_, left) = case else {
            return (faulty.failed() > 0, None);
        };
        let Some(died) = life.end() else {
            return (false, None);
        };
        let phase = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let point = DiePoint::of(phase, &died, left);
        if let Some(kinds) = point.and_then(DiePoint::kind)
            && !died.kinds.iter().all(|kind| kinds.contains(&kind.as_str()))
        {
            self.model
                .complain(format!("{point:?} is misnamed: {died:?}"));
        }
        let as_named = left == Left::Written || self.tear(left);
        (true, point.filter(|_| as_named))
    }

    /// Takes back what a process that dies before it releases a checkpoint hasn't done yet. `false` if it released the
    /// same one again, and had nothing to do before.
    fn tear(&self, left: Left) -> bool {
        let latest = self.stage.runtime().block_on(async {
            let store = self.stage.backend.reopen().await;
            store.latest_checkpoint().await
        });
        let path = self.state_file().path().to_owned();
        let fresh = path.with_extension("checkpoint.new");
        let file = |bytes: &[u8], path: &Path| {
            std::fs::write(path, bytes).expect("a file can be written");
        };
        let signed = std::fs::read(&path).expect("the state file is there");
        match latest.expect("the latest checkpoint can be read") {
            Some(before) if before == signed => return false,
            Some(before) => file(&before, &path),
            None => std::fs::remove_file(&path).expect("the state file can be removed"),
        }
        match left {
            Left::Torn => {
                let part = signed.len() * 2 / 3;
                file(signed.get(..part).unwrap_or_default(), &fresh);
            }
            Left::Unrenamed => file(&signed, &fresh),
            Left::Signed | Left::Written => {}
        }
        true
    }

    /// Recovery: the log is opened again by the next process, goes on, and is closed; then the judge.
    fn second_life(&self) -> Vec<String> {
        let state = self.state_file();
        if let Ok(Some(note)) = state.read() {
            self.model.remember(note);
        }
        let remembered = state.checkpoint(&self.stage.keys.ring.vkey());
        self.stage.runtime().block_on(async {
            let store = self.strict(self.stage.backend.reopen().await);
            let mut wrong = self.model.judge(&store, &self.stage.keys, false).await;
            let remembered = match remembered {
                Ok(remembered) => remembered.map_or(0, |(checkpoint, _)| checkpoint.size),
                Err(e) => return vec![format!("the state file is spoilt: {e:?}")],
            };
            match store.checkpoints(0, usize::MAX).await {
                Ok(all) => wrong.extend(all.iter().filter(|(size, _)| *size > remembered).map(
                    |(size, _)| {
                        format!("{size} entries are signed, and the state file doesn't know")
                    },
                )),
                Err(e) => wrong.push(format!("checkpoints can't be read: {e:?}")),
            }
            if let Err(e) = Box::pin(self.recover(&store)).await {
                wrong.push(format!(
                    "the log doesn't go on after it was opened again: {e:?}"
                ));
            }
            wrong.extend(self.model.judge(&store, &self.stage.keys, true).await);
            wrong
        })
    }

    async fn recover(&self, store: &Arc<dyn Store>) -> Result<()> {
        let options = self.options(store, true);
        let log = if store.description().await?.is_none() {
            Log::create(options).await?
        } else {
            Log::open(options).await?
        };
        // Whoever was told nothing asks by sending the same event again.
        while let Some(event) = self.model.doubtful(0) {
            self.model.sent(&event);
            let answer = log.append(event.clone()).await;
            self.model.answered(event.id, &answer);
            if let Err(e) = answer
                && e.kind() != ErrorKind::Invalid
            {
                return Err(e);
            }
        }
        let event = self.event();
        self.model.sent(&event);
        let answer = log.append(event.clone()).await;
        self.model.answered(event.id, &answer);
        let receipt = answer?;
        let published = tokio::time::timeout(self.units(400), receipt.published()).await;
        if !matches!(published, Ok(Ok(_))) {
            self.model.complain(format!(
                "an event isn't published: {published:?}, {:?}",
                log.publishing_trouble()
            ));
        }
        log.close().await
    }

    fn strict(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(StrictStore::to(store, Arc::clone(&self.ledger)))
    }

    fn state_file(&self) -> StateFile {
        StateFile::new(self.state.path(), self.stage.keys.ring.origin())
    }

    fn units(&self, n: u32) -> Duration {
        self.stage.sweep.unit.unwrap_or(Duration::from_secs(1)) * n
    }

    fn options(&self, store: &Arc<dyn Store>, publishes: bool) -> LogOptions {
        let mut options = LogOptions::new(Arc::clone(store), Arc::clone(&self.stage.keys.ring));
        options.clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        options.ids = Arc::clone(&self.ids) as Arc<dyn IdSource>;
        options.build = String::from("fault-pairs/1");
        options.state_dir = publishes.then(|| PathBuf::from(self.state.path()));
        options.publish = self.units(40);
        options.epoch = self.units(50);
        options.heartbeat = self.units(55);
        options
    }

    fn event(&self) -> Event {
        let now = self.clock.now();
        let number = self.ids.number();
        let mut event = Event::new(
            self.ids.uuid_v7(now),
            now,
            Kind::new("llm.request").expect("this is a kind"),
        );
        event.session_id = Some(format!("session-{}", number % 3));
        event.actor = Some(Actor::new(ActorKind::Agent, "agent-1"));
        event.attributes.insert("n".into(), (number % 1_000).into());
        let mut bytes = vec![0; self.shape.payload_bytes];
        self.ids.fill(&mut bytes);
        event
            .payloads
            .push(Payload::new("request.body", Media::Bytes, bytes));
        event
    }

    async fn burst(&self, log: &Log, events: u64) {
        let mut pending = Vec::new();
        for _ in 0..events {
            let event = self.event();
            self.model.sent(&event);
            match log.submit(event.clone()).await {
                Ok(one) => pending.push((event.id, one)),
                Err(e) => self.model.answered(event.id, &Err(e)),
            }
        }
        for (event, one) in pending {
            self.model.answered(event, &one.durable().await);
        }
    }
}

/// The work of the first life.
struct Work<'a> {
    site: &'a Site<'a>,
    store: Arc<dyn Store>,
    raw: Arc<dyn Store>,
    faulty: FaultyStore,
    /// Makes the outcomes unknown that belong to the work.
    unknown: FaultyStore,
    /// What fails is a call of the publisher, when it is its turn.
    publisher: bool,
    /// A call that fails leaves the process as it was, so that the next one succeeds.
    goes_on: bool,
}

impl Work<'_> {
    async fn run(self) {
        let site = self.site;
        self.enter(Phase::Opening);
        let log = self.open().await;
        self.enter(Phase::Appending);
        self.append(&log).await;
        self.close(log).await;

        self.enter(Phase::Opening);
        let log = self.open().await;
        self.enter(Phase::Appending);
        // A process that nothing happens to.
        let other = Log::open(site.options(&self.raw, false)).await;
        let other = other.expect("a second process opens the log");
        self.append(&log).await;
        site.burst(&other, 1).await;
        site.burst(&log, site.shape.burst).await;
        self.append(&log).await;
        self.sleep(Phase::Publishing, 41, &log).await;
        self.sleep(Phase::EpochEnd, 10, &log).await;
        self.enter(Phase::Appending);
        self.append(&log).await;
        site.burst(&other, 2).await;
        self.append(&log).await;
        self.sleep(Phase::Publishing, 30, &log).await;
        self.sleep(Phase::EpochEnd, 20, &log).await;
        self.sleep(Phase::Publishing, 20, &log).await;
        self.sleep(Phase::Idle, 35, &log).await;
        self.sleep(Phase::Publishing, 5, &log).await;

        self.enter(Phase::Resolving);
        for fault in [Fault::Built, Fault::After] {
            self.unknown.fail(Call::Append, fault, ErrorKind::Unknown);
            site.burst(&log, 1).await;
            self.unknown.heal();
        }
        self.enter(Phase::Appending);
        self.append(&log).await;
        self.close(log).await;
        if let Err(e) = other.close().await {
            site.model
                .complain(format!("the other process doesn't close: {e:?}"));
        }
    }

    fn enter(&self, phase: Phase) {
        *self
            .site
            .phase
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Opens the log, made where there is none, and again if that failed, as an operator does.
    async fn open(&self) -> Log {
        let mut failure = None;
        for _ in 0..6 {
            let there = self.raw.description().await;
            let there = there.expect("nothing happens to the bare store").is_some();
            let options = self.site.options(&self.store, true);
            let opened = if there {
                Log::open(options).await
            } else {
                Log::create(options).await
            };
            match opened {
                Ok(log) => return log,
                Err(e) => failure = Some(e),
            }
        }
        assert!(failure.is_none(), "the log can't be opened: {failure:?}");
        unreachable!("it was tried")
    }

    async fn append(&self, log: &Log) {
        let before = self.faulty.failed();
        let event = self.site.event();
        self.site.model.sent(&event);
        let answer = log.append(event.clone()).await;
        self.site.model.answered(event.id, &answer);
        if let Err(e) = answer {
            self.must_go_on(before, "an append", &e);
        }
    }

    async fn close(&self, log: Log) {
        self.enter(Phase::Closing);
        let before = self.faulty.failed();
        let closing = tokio::time::timeout(self.site.units(4000), log.close()).await;
        match closing {
            Ok(Ok(())) => {}
            Ok(Err(e)) => self.must_go_on(before, "closing", &e),
            Err(_) => self.site.model.complain("closing the log hangs"),
        }
    }

    /// Complains of an error behind which no call of the store failed.
    fn must_go_on(&self, before: u64, what: &str, e: &audit_core::Error) {
        if self.goes_on && self.faulty.failed() == before {
            let what = format!("{what} fails though nothing is wrong any more: {e:?}");
            self.site.model.complain(what);
        }
    }

    async fn sleep(&self, phase: Phase, units: u32, log: &Log) {
        self.enter(phase);
        let before = self.faulty.failed();
        let time = self.site.units(units);
        self.site.clock.advance(time);
        tokio::time::sleep(time).await;
        if phase == Phase::Publishing && self.site.stage.sweep.unit.is_none() {
            let trouble = log.publishing_trouble();
            let failed = self.publisher && self.faulty.failed() > before;
            if failed && trouble.is_none() || !failed && self.goes_on && trouble.is_some() {
                self.site.model.complain(format!(
                    "publishing failed: {failed}, and the log says {trouble:?}"
                ));
            }
        }
    }
}
