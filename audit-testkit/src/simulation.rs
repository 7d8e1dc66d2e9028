//! A seeded simulation: several processes append to one log, publish, fail, die and start again, at random.
//!
//! Time is tokio's stopped clock, ids and choices come from the seed. What is left to chance is the order in which
//! blocking calls of different processes end, so a seed repeats exactly where a store doesn't block.
//! After every restart and at the end the log is judged ([`judge`](crate::judge)).

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit_core::event::{Actor, ActorKind, Media};
use audit_core::log::{Log, LogOptions, StateFile};
use audit_core::reader::{Filter, RecordContent};
use audit_core::store::Store;
use audit_core::time::{Clock, IdSource};
use audit_core::{ErrorKind, Event, Kind, Payload, Result};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::conformance::Backend;
use crate::faulty::{Call, Fault, FaultyStore};
use crate::judge::{Keys, Model};
use crate::ledger::{Ledger, StrictStore};
use crate::mortal::{Death, Life, MortalStore};
use crate::time::{TestClock, TestIds};

/// Longer than anything waits on the stopped clock.
const LONG: Duration = Duration::from_secs(3600);

/// What happened in one or more simulations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "tests look at all of it")]
pub struct Summary {
    /// Simulations.
    pub seeds: u64,
    /// Steps taken.
    pub steps: u64,
    /// Entries in the logs.
    pub entries: u64,
    /// Events that were acknowledged.
    pub acknowledged: u64,
    /// Events that were refused, and are not there.
    pub refused: u64,
    /// Events of which nobody was told.
    pub doubtful: u64,
    /// Calls of stores that failed as planned.
    pub faults: u64,
    /// Processes that died.
    pub deaths: u64,
    /// Processes that were started.
    pub starts: u64,
    /// Starts that failed, since the store failed or the process died.
    pub starts_failed: u64,
    /// Checkpoints in the logs.
    pub checkpoints: u64,
    /// Times that the verifier judged.
    pub verdicts: u64,
}

impl Summary {
    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.entries += other.entries;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.doubtful += other.doubtful;
        self.faults += other.faults;
        self.deaths += other.deaths;
        self.starts += other.starts;
        self.starts_failed += other.starts_failed;
        self.checkpoints += other.checkpoints;
        self.verdicts += other.verdicts;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} seeds, {} steps: {} events acknowledged, {} refused, {} in doubt; {} calls failed, {} deaths, {} starts \
             and {} more that failed; {} entries, {} checkpoints, {} verdicts",
            self.seeds,
            self.steps,
            self.acknowledged,
            self.refused,
            self.doubtful,
            self.faults,
            self.deaths,
            self.starts,
            self.starts_failed,
            self.entries,
            self.checkpoints,
            self.verdicts
        )
    }
}

/// Why a simulation failed: what is wrong, and the steps that led there.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What is wrong.
    pub wrong: Vec<String>,
    /// Every step until then.
    pub steps: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} fails:", self.seed)?;
        for wrong in &self.wrong {
            writeln!(f, "  {wrong}")?;
        }
        writeln!(f, "after the steps")?;
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        Ok(())
    }
}

/// Runs the simulation of a seed on a new store of the backend.
///
/// # Errors
///
/// [`Failure`] if the log was judged bad, lost or invented something, or doesn't go on where nothing is wrong.
///
/// # Panics
///
/// If a store answers otherwise than before.
pub fn run(seed: u64, backend: &dyn Backend) -> Result<Summary, Box<Failure>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        let mut world = World::new(seed, backend).await;
        Box::pin(world.live()).await;
        if world.wrong.is_empty() {
            return Ok(world.summary);
        }
        Err(Box::new(Failure {
            seed,
            wrong: world.wrong,
            steps: world.steps,
        }))
    })
}

/// Runs many seeds, or the one that the environment variable `AUDIT_SIMULATION_SEED` names.
///
/// # Panics
///
/// With the seed that fails, the steps that led there, and how to run it alone.
pub fn run_seeds(seeds: impl IntoIterator<Item = u64>, backend: &dyn Backend) -> Summary {
    let one = std::env::var("AUDIT_SIMULATION_SEED").ok();
    let one = one.map(|seed| seed.parse().expect("AUDIT_SIMULATION_SEED is a number"));
    let mut all = Summary::default();
    let mut try_one = |seed: u64| {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, backend)));
        let failure = match outcome {
            Ok(Ok(summary)) => {
                all.add(&summary);
                None
            }
            Ok(Err(failure)) => Some(failure.to_string()),
            Err(_) => Some(format!("seed {seed} panicked, as said above")),
        };
        assert!(
            failure.is_none(),
            "{}\nrun it alone with AUDIT_SIMULATION_SEED={seed}, and keep it in the list of seeds that failed",
            failure.unwrap_or_default()
        );
    };
    match one {
        Some(seed) => try_one(seed),
        None => seeds.into_iter().for_each(try_one),
    }
    all
}

struct World<'a> {
    backend: &'a dyn Backend,
    dice: TestIds,
    keys: Keys,
    ids: Arc<TestIds>,
    clock: Arc<TestClock>,
    ledger: Arc<Ledger>,
    model: Arc<Model>,
    hosts: Vec<TempDir>,
    processes: Vec<Process>,
    steps: Vec<String>,
    wrong: Vec<String>,
    summary: Summary,
    /// Nothing fails and nobody dies any more.
    calm: bool,
}

/// One process: it is started, dies or is ended, and is started again.
struct Process {
    state_dir: Option<PathBuf>,
    alive: Option<Alive>,
}

struct Alive {
    log: Log,
    life: Arc<Life>,
    faulty: FaultyStore,
    /// Who waits for an answer.
    callers: JoinSet<()>,
    /// Why this run may refuse everything from now on.
    given_up: Arc<Mutex<Option<String>>>,
}

impl<'a> World<'a> {
    async fn new(seed: u64, backend: &'a dyn Backend) -> Self {
        let dice = TestIds::new(seed);
        let keys = Keys::generate("example.com/simulation", &TestIds::new(!seed));
        let hosts: Vec<TempDir> = (0..2)
            .map(|_| tempfile::tempdir().expect("a directory can be made"))
            .collect();
        let mut processes = Vec::new();
        for n in 0..2 + dice.number() % 3 {
            // The first publishes; others share its host, have another, or only append.
            let host = if n == 0 { 0 } else { dice.number() % 3 };
            let host = usize::try_from(host).unwrap_or_default();
            processes.push(Process {
                state_dir: hosts.get(host).map(|dir| dir.path().to_owned()),
                alive: None,
            });
        }
        drop(backend.fresh().await);
        Self {
            backend,
            ids: Arc::new(TestIds::new(dice.number())),
            dice,
            keys: keys.expect("the origin is one"),
            clock: Arc::default(),
            ledger: Arc::default(),
            model: Arc::default(),
            hosts,
            processes,
            steps: Vec::new(),
            wrong: Vec::new(),
            summary: Summary {
                seeds: 1,
                ..Summary::default()
            },
            calm: false,
        }
    }

    fn dice(&self, sides: u64) -> u64 {
        self.dice.number() % sides.max(1)
    }

    fn step(&mut self, what: String) {
        self.steps.push(what);
    }

    async fn live(&mut self) {
        for _ in 0..40 + self.dice(60) {
            self.summary.steps += 1;
            let at = self.dice(self.processes.len() as u64);
            let at = usize::try_from(at).unwrap_or_default();
            self.reap().await;
            if self.processes[at].alive.is_none() {
                self.start(at).await;
            } else {
                self.act(at).await;
            }
            self.ledger.check();
            if !self.wrong.is_empty() {
                return;
            }
        }
        self.finish().await;
    }

    /// Buries who died.
    async fn reap(&mut self) {
        if !self.processes.iter().any(Process::is_dead) {
            return;
        }
        // What the dead were doing comes to rest; only then what the system held for them is free.
        self.rest().await;
        let mut dead = Vec::new();
        for (n, process) in self.processes.iter_mut().enumerate() {
            if process.is_dead()
                && let Some(alive) = process.alive.take()
            {
                dead.push(format!("process {n} is dead: {:?}", alive.life.end()));
                self.summary.deaths += 1;
                self.summary.faults += alive.faulty.failed();
                drop(alive.callers);
                drop(alive.log);
                alive.life.bury();
            }
        }
        self.steps.extend(dead);
    }

    /// Lets everything run that can run without time going on.
    async fn rest(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn store(&self) -> Arc<dyn Store> {
        let store = self.backend.reopen().await;
        Arc::new(StrictStore::to(store, Arc::clone(&self.ledger)))
    }

    async fn start(&mut self, at: usize) {
        let store = self.store().await;
        let described = store.description().await;
        let faulty = FaultyStore::new(store);
        let life = Arc::new(Life::default());
        let store: Arc<dyn Store> = Arc::new(MortalStore::new(Arc::new(faulty.clone()), &life));
        let mut options = LogOptions::new(store, Arc::clone(&self.keys.ring));
        options.clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        options.ids = Arc::clone(&self.ids) as Arc<dyn IdSource>;
        options.build = String::from("simulation/1");
        options.state_dir.clone_from(&self.processes[at].state_dir);
        options.queue_events_max = self.pick(&[1, 3, 4096]);
        options.batch_events_max = self.pick(&[1, 3, 1024]);
        options.publish = Duration::from_millis(self.pick(&[90, 1_000, 7_000]));
        options.epoch = Duration::from_millis(self.pick(&[200, 5_000, 60_000]));
        options.heartbeat = Duration::from_millis(self.pick(&[700, 30_000, 600_000]));
        let planned = match self.dice(8) {
            _ if self.calm => None,
            0 => Some(self.plan_death(&life, 12)),
            1 => Some(self.plan_fault(&faulty, 3)),
            _ => None,
        };
        self.step(format!("process {at} starts, {planned:?}"));
        let opening = async {
            match described {
                Ok(None) => Log::create(options).await,
                _ => Log::open(options).await,
            }
        };
        let opened = tokio::select! {
            biased;
            () = life.died() => None,
            opened = tokio::time::timeout(LONG, Box::pin(opening)) => Some(opened),
        };
        let log = match opened {
            Some(Ok(Ok(log))) => log,
            Some(Ok(Err(e))) => {
                self.step(format!("it doesn't start: {e:?}"));
                if faulty.failed() == 0 {
                    self.wrong.push(format!(
                        "the log can't be opened though nothing is wrong: {e:?}"
                    ));
                }
                self.summary.faults += faulty.failed();
                self.summary.starts_failed += 1;
                return life.bury();
            }
            Some(Err(_)) => return self.wrong.push("opening the log hangs".to_owned()),
            None => {
                self.rest().await;
                self.step(format!("it dies: {:?}", life.end()));
                self.summary.starts_failed += 1;
                self.summary.deaths += 1;
                return life.bury();
            }
        };
        self.summary.starts += 1;
        self.processes[at].alive = Some(Alive {
            log,
            life,
            faulty,
            callers: JoinSet::new(),
            given_up: Arc::default(),
        });
        self.judge(false).await;
    }

    fn pick<T: Copy>(&self, from: &[T]) -> T {
        let at = self.dice(from.len() as u64);
        from[usize::try_from(at).unwrap_or_default()]
    }

    fn plan_death(&self, life: &Life, within: u64) -> String {
        let call = match self.dice(3) {
            0 => Some(Call::Append),
            1 => Some(Call::PutCheckpoint),
            _ => None,
        };
        let death = Death {
            call,
            skip: self.dice(if call.is_some() { 4 } else { within }),
            moment: self.pick(&[Fault::Before, Fault::Built, Fault::After]),
        };
        life.die(death);
        format!("{death:?}")
    }

    fn plan_fault(&self, faulty: &FaultyStore, within: u64) -> String {
        use ErrorKind::{Corrupt, RolledBack, Unavailable, Unknown};
        let (call, fault, kind) = self.pick(&[
            (Call::Append, Fault::Before, Unavailable),
            (Call::Append, Fault::Built, Unavailable),
            (Call::Append, Fault::Built, Unavailable),
            (Call::Append, Fault::Before, Unknown),
            (Call::Append, Fault::Built, Unknown),
            (Call::Append, Fault::After, Unknown),
            (Call::Append, Fault::After, Unknown),
            (Call::Append, Fault::After, Corrupt),
            (Call::Append, Fault::Built, RolledBack),
            (Call::PutCheckpoint, Fault::Before, Unavailable),
            (Call::PutCheckpoint, Fault::After, Unavailable),
            (Call::PutCheckpoint, Fault::After, Unknown),
            (Call::PutCheckpoint, Fault::Before, Corrupt),
            (Call::PublisherLease, Fault::Before, Unavailable),
            (Call::Held, Fault::Before, Unavailable),
            (Call::Head, Fault::Before, Unavailable),
            (Call::Tile, Fault::Before, Unavailable),
            (Call::Tile, Fault::Before, Corrupt),
            (Call::Position, Fault::Before, Unavailable),
            (Call::Rows, Fault::Before, Unavailable),
            (Call::LatestCheckpoint, Fault::Before, Unavailable),
        ]);
        let (skip, times) = (self.dice(within), 1 + self.dice(4));
        faulty.fail_times(call, skip, times, fault, kind);
        format!("{call:?} fails {times} times after {skip}, {fault:?} {kind:?}")
    }

    async fn act(&mut self, at: usize) {
        let Some(alive) = &self.processes[at].alive else {
            return;
        };
        let given_up = alive
            .given_up
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match self.dice(100) {
            // An operator sees that nothing goes on.
            _ if given_up.is_some() && self.dice(3) == 0 => self.end(at).await,
            0..40 => {
                let events = 1 + self.dice(6);
                self.step(format!("process {at}: {events} events"));
                for _ in 0..events {
                    let event = self.event();
                    self.send(at, event);
                }
                if self.dice(2) == 0 {
                    self.rest().await;
                }
            }
            40..47 => {
                // Whoever was told nothing sends it again, to any process.
                if let Some(event) = self.model.doubtful(self.dice.number()) {
                    self.step(format!("process {at}: event {} again", event.id));
                    self.send(at, event);
                    self.rest().await;
                }
            }
            47..50 => {
                if let Some((event, index)) = self.model.acknowledged(self.dice.number()) {
                    self.step(format!("process {at}: event {} of {index} twice", event.id));
                    self.send(at, event);
                }
            }
            50..65 => {
                let time = Duration::from_millis(self.pick(&[1, 95, 250, 1_100, 6_000, 61_000]));
                self.step(format!("{time:?} later"));
                self.clock.advance(time);
                tokio::time::sleep(time).await;
            }
            65..67 => {
                let back = Duration::from_millis(self.dice(90_000));
                self.step(format!("the clock is set back by {back:?}"));
                let micros = i64::try_from(back.as_micros()).unwrap_or_default();
                self.clock.set(self.clock.now().plus_micros(-micros));
            }
            67..77 => {
                let planned = self.plan_fault(&alive.faulty, 5);
                self.step(format!("process {at}: {planned}"));
            }
            77..80 => {
                alive.faulty.heal();
                self.step(format!("process {at}: the store is well again"));
            }
            80..85 => {
                let planned = self.plan_death(&alive.life, 40);
                self.step(format!("process {at}: {planned}"));
            }
            85..88 => {
                alive.life.kill();
                self.step(format!("process {at} is killed"));
            }
            88..92 => self.end(at).await,
            92..98 => self.read(at).await,
            _ => {
                let (log, life) = (alive.log.clone(), Arc::clone(&alive.life));
                let faulty = alive.faulty.clone();
                if let Some((_, index)) = self.model.acknowledged(self.dice.number()) {
                    self.step(format!("process {at} proves index {index}"));
                    let failed = faulty.failed();
                    let reader = log.reader();
                    let proof = tokio::select! {
                        biased;
                        () = life.died() => return,
                        proof = reader.prove(index) => proof,
                    };
                    if let Err(e) = proof
                        // No checkpoint may commit to it yet.
                        && e.kind() != ErrorKind::NotFound
                        && faulty.failed() == failed
                    {
                        self.wrong
                            .push(format!("index {index} can't be proven: {e:?}"));
                    }
                }
            }
        }
    }

    /// A caller hands an event in, and waits beside the others.
    fn send(&mut self, at: usize, event: Event) {
        let Some(alive) = &mut self.processes[at].alive else {
            return;
        };
        let (log, model) = (alive.log.clone(), Arc::clone(&self.model));
        let (faulty, given_up) = (alive.faulty.clone(), Arc::clone(&alive.given_up));
        alive.callers.spawn(async move {
            model.sent(&event);
            let failed = faulty.failed();
            let answer = log.append(event.clone()).await;
            model.answered(event.id, &answer);
            let Err(e) = answer else { return };
            match e.kind() {
                ErrorKind::Invalid => {}
                // Nothing is wrong with the store, and nothing was before.
                _ if faulty.failed() == 0 && failed == 0 => {
                    model.complain(format!("an append fails though nothing is wrong: {e:?}"));
                }
                ErrorKind::Unavailable => {}
                _ => {
                    *given_up.lock().unwrap_or_else(PoisonError::into_inner) = Some(e.to_string());
                }
            }
        });
    }

    /// Ends a process properly.
    async fn end(&mut self, at: usize) {
        let Some(mut alive) = self.processes[at].alive.take() else {
            return;
        };
        self.step(format!("process {at} is closed"));
        let closing = async {
            // Who has handed in something gets an answer to it.
            self.rest().await;
            let closed = alive.log.clone().close().await;
            // Everyone who waits has an answer by then.
            while alive.callers.join_next().await.is_some() {}
            closed
        };
        let closed = tokio::select! {
            biased;
            () = alive.life.died() => None,
            closed = tokio::time::timeout(LONG, Box::pin(closing)) => Some(closed),
        };
        match closed {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(e))) if alive.faulty.failed() > 0 => self.step(format!("it says: {e:?}")),
            Some(Ok(Err(e))) => self
                .wrong
                .push(format!("closing fails though nothing is wrong: {e:?}")),
            Some(Err(_)) => self.wrong.push("closing the log hangs".to_owned()),
            None => {
                self.rest().await;
                self.summary.deaths += 1;
                self.step(format!("it dies: {:?}", alive.life.end()));
            }
        }
        self.summary.faults += alive.faulty.failed();
        alive.life.bury();
    }

    /// A process reads what was acknowledged to any.
    async fn read(&mut self, at: usize) {
        let Some(alive) = &self.processes[at].alive else {
            return;
        };
        let Some((event, index)) = self.model.acknowledged(self.dice.number()) else {
            return;
        };
        let step = format!("process {at} reads index {index}");
        let reader = alive.log.reader();
        let session = Filter {
            session: event.session_id.clone(),
            ..Filter::default()
        };
        let failed = alive.faulty.failed();
        let reading = async {
            let record = reader.record(index).await;
            let found = reader.find(&session, 0..u64::MAX, false, 100_000).await;
            (record, found)
        };
        let read = tokio::select! {
            biased;
            () = alive.life.died() => None,
            read = reading => Some(read),
        };
        let well = alive.faulty.failed() == failed;
        self.step(step);
        let Some((record, found)) = read else { return };
        match record.map(|record| record.content) {
            Ok(RecordContent::Open(opened)) if opened.event == event => {}
            Err(_) if !well => {}
            other => self.wrong.push(format!(
                "index {index} isn't read back as it was sent: {other:?}"
            )),
        }
        match found {
            Ok(found) if found.contains(&index) => {}
            Err(_) if !well => {}
            other => self.wrong.push(format!(
                "index {index} isn't found by its session: {other:?}"
            )),
        }
    }

    fn event(&self) -> Event {
        let now = self.clock.now();
        let kind = self.pick(&["llm.request", "llm.response", "tool.call"]);
        let mut event = Event::new(
            self.ids.uuid_v7(now),
            now,
            Kind::new(kind).expect("this is a kind"),
        );
        event.session_id = match self.dice(5) {
            0 => None,
            n => Some(format!("session-{n}")),
        };
        event.actor = Some(Actor::new(
            ActorKind::Agent,
            format!("agent-{}", self.dice(3)),
        ));
        event
            .attributes
            .insert("n".into(), self.dice(1_000_000).into());
        for n in 0..self.dice(3) {
            // A few are so long that they are sealed apart from the runtime.
            let length = match self.dice(60) {
                0 => 66_000,
                _ => self.dice(self.pick(&[1, 100, 3_000])),
            };
            let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
            self.dice.fill(&mut bytes);
            event
                .payloads
                .push(Payload::new(format!("part.{n}"), Media::Bytes, bytes));
        }
        event
    }

    /// All are ended and started once more; nothing fails now, so all that was ever acknowledged is published.
    async fn finish(&mut self) {
        for at in 0..self.processes.len() {
            if let Some(alive) = &self.processes[at].alive {
                alive.faulty.heal();
                alive.life.spare();
            }
            self.reap().await;
            self.end(at).await;
        }
        self.calm = true;
        // The first publishes, and comes last.
        for at in (0..self.processes.len()).rev() {
            self.reap().await;
            self.start(at).await;
            for _ in 0..1_000 {
                let Some(event) = self.model.doubtful(0) else {
                    break;
                };
                self.send(at, event);
                self.rest().await;
            }
            let event = self.event();
            self.send(at, event);
            self.end(at).await;
            if !self.wrong.is_empty() {
                return;
            }
        }
        self.judge(true).await;
        let fates = self.model.fates();
        self.summary.acknowledged = fates.acknowledged;
        self.summary.refused = fates.refused;
        self.summary.doubtful = fates.doubtful;
        let store = self.store().await;
        self.summary.entries = store.head().await.map(|head| head.size).unwrap_or_default();
        let checkpoints = store.checkpoints(0, usize::MAX).await.unwrap_or_default();
        self.summary.checkpoints = checkpoints.len() as u64;
    }

    async fn judge(&mut self, finished: bool) {
        // Nobody writes while the log is read: nothing can run, and time stands still.
        self.rest().await;
        for host in &self.hosts {
            let state = StateFile::new(host.path(), self.keys.ring.origin());
            match state.read() {
                Ok(Some(note)) => self.model.remember(note),
                Ok(None) => {}
                Err(e) => self
                    .wrong
                    .push(format!("a state file can't be read: {e:?}")),
            }
        }
        let store = self.store().await;
        let wrong = self.model.judge(&store, &self.keys, finished).await;
        self.wrong.extend(wrong);
        self.summary.verdicts += 1;
    }
}

impl Process {
    fn is_dead(&self) -> bool {
        self.alive
            .as_ref()
            .is_some_and(|alive| alive.life.is_dead())
    }
}

impl fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}
