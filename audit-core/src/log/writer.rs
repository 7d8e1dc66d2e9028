//! The write path: one writer per run turns drafts into entries and commits them in batches. Its task works through the
//! queue; a caller who finds the writer idle commits by itself, which saves two changes of threads.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use audit_tlog::Hash;
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::EdgeTiles;
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::{LogOptions, Succession, is_fatal};
use crate::chain::{MacChain, signed_message};
use crate::datakey::{DataKey, KeyRecord};
use crate::entry::{Entry, FORMAT, FORMAT_2, LogFacts, LogKeys, Opening, TreeHead, kinds};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Kind};
use crate::hex::{Digest, Hex};
use crate::keyring::KeyRing;
use crate::seal::{self, SealedParts};
use crate::secret::SecretKey;
use crate::store::{Batch, Columns, Head, Parts, Query, Row, Store};
use crate::time::{Clock, IdSource, Timestamp};
use crate::token::TokenSet;

/// A data key of this run, and whether its record is in the store.
pub(super) struct RunKey {
    pub(super) key: DataKey,
    record: KeyRecord,
    stored: AtomicBool,
}

impl RunKey {
    pub(super) fn new(key: DataKey, record: KeyRecord) -> Self {
        Self {
            key,
            record,
            stored: AtomicBool::new(false),
        }
    }
}

/// An entry before it has a place in the run.
pub(super) struct Draft {
    pub(super) event: Uuid,
    pub(super) kind: Kind,
    pub(super) time: Timestamp,
    pub(super) log: Option<LogFacts>,
    pub(super) tokens: Option<TokenSet>,
    pub(super) key: Option<Arc<RunKey>>,
    pub(super) sealed: Option<SealedParts>,
    /// Not an entry but the wish to end the run.
    pub(super) closes: bool,
}

impl Draft {
    /// The wish to end the run, in its turn behind everything that was handed in before.
    pub(super) fn close() -> Self {
        Self {
            event: Uuid::nil(),
            kind: own_kind(kinds::WRITER_CLOSED),
            time: Timestamp::EPOCH,
            log: None,
            tokens: None,
            key: None,
            sealed: None,
            closes: true,
        }
    }
}

/// A draft and who waits for it.
pub(super) struct Job {
    pub(super) draft: Box<Draft>,
    pub(super) reply: oneshot::Sender<Result<(u64, Digest)>>,
    /// Given back when the job is done.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Job {
    fn answer(self, outcome: Result<(u64, Digest)>) {
        // The event's bytes are dropped before others take their room.
        drop(self.draft);
        drop(self.room);
        // A caller who stopped waiting is no error.
        drop(self.reply.send(outcome));
    }

    fn stored_bytes(&self) -> usize {
        self.draft
            .sealed
            .as_ref()
            .map_or(0, |sealed| sealed.parts.len())
    }
}

fn own_kind(name: &str) -> Kind {
    Kind::new(name).expect("the log's own kinds are well formed")
}

/// An entry with its place in the run, ready to be stored at any index.
#[derive(Clone)]
struct Made {
    entry: Vec<u8>,
    leaf: Hash,
    columns: Columns,
    tokens: Option<TokenSet>,
    parts: Option<Vec<u8>>,
    record: Option<Arc<RunKey>>,
}

/// What the writer saw of the log last.
#[derive(Clone)]
pub(super) struct Seen {
    edge: EdgeTiles,
}

impl Seen {
    pub(super) fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Hashing the edge costs more than the rest of an append, so it is done for who asks.
    pub(super) fn root(&self) -> Hash {
        self.edge.root()
    }

    /// Whether `edge` is of the same tree: its partial tiles are what the root of a tree of this size is hashed from.
    fn is(&self, edge: &EdgeTiles) -> bool {
        self.edge.size() == edge.size()
            && (0..LEVELS).all(|level| self.edge.tile(level) == edge.tile(level))
    }
}

/// Levels that a tree can have tiles at.
const LEVELS: u8 = 8;

/// The writer of one run, for whose turn it is.
pub(super) type SharedWriter = Arc<tokio::sync::Mutex<Writer>>;

/// A caller's own commit. Whoever stops waiting for it doesn't stop it: what is left of it goes to the runtime.
pub(super) struct OwnCommit {
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    runtime: Handle,
}

impl OwnCommit {
    /// Commits `job` with the writer, whose turn ends with it.
    pub(super) fn new(mut writer: OwnedMutexGuard<Writer>, job: Job, runtime: Handle) -> Self {
        let work = async move { writer.serve(vec![job]).await };
        Self {
            work: Some(Box::pin(work)),
            runtime,
        }
    }
}

impl Future for OwnCommit {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(work) = &mut self.work else {
            return Poll::Ready(());
        };
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl Drop for OwnCommit {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            // Where the runtime is going away too, the writer is left as one that was cut off.
            drop(self.runtime.spawn(work));
        }
    }
}

/// The writer of one run.
pub(super) struct Writer {
    store: Arc<dyn Store>,
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    build: String,
    batch_events_max: usize,
    batch_bytes_max: usize,
    linger: Option<Duration>,
    epoch: Duration,
    heartbeat: Duration,
    chain: MacChain,
    recorded: Timestamp,
    /// Entries of the open epoch; `traffic` counts those that callers made.
    epoch_entries: u64,
    traffic: u64,
    epoch_started: Instant,
    appended: Instant,
    pub(super) seen: Arc<Mutex<Option<Seen>>>,
    grown: watch::Sender<u64>,
    /// How long an unknown outcome is asked for.
    resolve: Duration,
    /// Somebody closes the run.
    pub(super) closing: Arc<AtomicBool>,
    /// Why nothing more may be appended.
    broken: Option<(ErrorKind, String)>,
    succession: Option<Succession>,
    /// What the run's own entries last failed with.
    pub(super) trouble: Arc<Mutex<Option<String>>>,
    /// A commit began and has not ended. Found set by the next one, it was cut off, and nobody knows its outcome.
    committing: bool,
    /// The closing entry was tried: nothing comes behind it.
    pub(super) closed: bool,
}

impl Writer {
    pub(super) fn new(options: &LogOptions, run: Uuid, grown: watch::Sender<u64>) -> Self {
        // Not the run's key yet: `open_run` draws K(0) and starts the chain.
        let chain = MacChain::start(run, SecretKey::random(&*options.ids));
        let now = Instant::now();
        Self {
            store: Arc::clone(&options.store),
            keys: Arc::clone(&options.keys),
            clock: Arc::clone(&options.clock),
            ids: Arc::clone(&options.ids),
            build: options.build.clone(),
            batch_events_max: options.batch_events_max.max(1),
            batch_bytes_max: options.batch_bytes_max,
            linger: options.store.capabilities().linger,
            epoch: options.epoch,
            heartbeat: options.heartbeat,
            chain,
            recorded: Timestamp::EPOCH,
            epoch_entries: 0,
            traffic: 0,
            epoch_started: now,
            appended: now,
            seen: Arc::default(),
            grown,
            resolve: options.resolve,
            closing: Arc::default(),
            broken: None,
            succession: options.succession.clone(),
            trouble: Arc::default(),
            committing: false,
            closed: false,
        }
    }

    /// Opens the run: draws K(0), seals it to the auditor key, and writes the opening.
    pub(super) async fn open_run(&mut self) -> Result<()> {
        let run = self.chain.run();
        let previous = {
            let openings = |kind: &str| Query {
                kind: Some(own_kind(kind)),
                descending: true,
                limit: 1,
                ..Query::default()
            };
            let mut found = self.store.find(&openings(kinds::WRITER_OPENED)).await?;
            if found.is_empty() {
                found = self.store.find(&openings(kinds::LOG_OPENED)).await?;
            }
            match found.first() {
                Some(index) => self
                    .store
                    .rows(*index..index + 1, Parts::Without)
                    .await?
                    .first()
                    .map(|row| Entry::decode(&row.entry).map_err(|e| e.at(*index)))
                    .transpose()?
                    .map(|entry| entry.run),
                None => None,
            }
        };
        let k0 = SecretKey::random(&*self.ids);
        let sealed = self
            .keys
            .auditor()
            .seal_run_key(self.keys.origin(), run, &k0, &*self.ids)?;
        let first = self.store.head().await?.size == 0;
        let (kind, log) = if first {
            (
                kinds::LOG_OPENED,
                LogFacts {
                    keys: Some(LogKeys::Public(self.keys.public_keys())),
                    origin: Some(self.keys.origin().to_owned()),
                    ..LogFacts::default()
                },
            )
        } else {
            (kinds::WRITER_OPENED, LogFacts::default())
        };
        let log = LogFacts {
            opening: Some(Opening {
                build: self.build.clone(),
                previous,
                sealed,
            }),
            ..log
        };
        self.chain = MacChain::start(run, k0);
        self.append_own(kind, log, first.then_some(0)).await?;
        self.epoch_started = Instant::now();
        Ok(())
    }

    /// Serves the queue until it is closed or somebody asks to close the run.
    pub(super) async fn run(
        writer: SharedWriter,
        mut queue: mpsc::Receiver<Job>,
        queued: Arc<AtomicUsize>,
    ) -> Result<()> {
        let mut closer = None;
        let limits = {
            let writer = writer.lock().await;
            (writer.batch_events_max, writer.batch_bytes_max)
        };
        loop {
            let (wake, works, linger) = {
                let writer = writer.lock().await;
                // Callers who commit by themselves don't wake this task, so it looks at the end of each epoch.
                let wake =
                    (writer.epoch_started + writer.epoch).min(writer.appended + writer.heartbeat);
                (wake, writer.broken.is_none(), writer.linger)
            };
            let first = tokio::select! {
                job = queue.recv() => job,
                () = tokio::time::sleep_until(wake), if works => {
                    writer.lock().await.tick().await;
                    continue;
                }
            };
            let Some(first) = first else { break };
            let mut waiting = VecDeque::from([first]);
            if let Some(linger) = linger {
                gather(&mut waiting, &mut queue, linger, limits).await;
            }
            let mut writer = writer.lock().await;
            let mut jobs = Vec::new();
            let mut bytes = 0;
            let mut next = waiting.pop_front();
            // Where batches cost little, a lone event doesn't wait for company: only what has already come joins it.
            while let Some(job) = next {
                queued.fetch_sub(1, Ordering::SeqCst);
                if job.draft.closes {
                    closer = Some(job.reply);
                    break;
                }
                bytes += job.stored_bytes();
                jobs.push(job);
                next = match waiting.pop_front() {
                    Some(job) => Some(job),
                    None if jobs.len() < limits.0 && bytes < limits.1 => queue.try_recv().ok(),
                    None => None,
                };
            }
            if !jobs.is_empty() {
                writer.serve(jobs).await;
            }
            if closer.is_some() {
                break;
            }
            if writer.traffic > 0 && Instant::now() >= writer.epoch_started + writer.epoch {
                let closed = writer.close_epoch().await;
                writer.note(&closed);
            }
        }
        let mut writer = writer.lock().await;
        // Nobody can hand in anything more, and what is queued behind the wish to close is surely not written. Whoever
        // gets no answer at all, because this task was stopped or panicked, can't know.
        queue.close();
        writer.closed = true;
        while let Some(job) = queue.recv().await {
            job.answer(Err(Error::unavailable("the log is closed")));
        }
        let entries = writer.chain.seq() + 1;
        let closed = writer
            .append_own(
                kinds::WRITER_CLOSED,
                LogFacts {
                    entries: Some(entries),
                    ..LogFacts::default()
                },
                None,
            )
            .await;
        // Handles on the log may live on, and with them the writer: with this key nobody can make an entry of this run.
        writer.chain.evolve();
        drop(closer);
        closed
    }

    /// Leaves the sign of life that is due.
    async fn tick(&mut self) {
        let now = Instant::now();
        let epoch_over = now >= self.epoch_started + self.epoch;
        let silent = now >= self.appended + self.heartbeat;
        let closes = epoch_over && self.traffic > 0;
        // No caller waits for these, so the log keeps what they fail with.
        if closes {
            let closed = self.close_epoch().await;
            self.note(&closed);
        } else if silent {
            let beat = self.append_own(kinds::HEARTBEAT, LogFacts::default(), None);
            let beat = beat.await;
            self.note(&beat);
        }
        // Also after a failure: try again after the full interval, not at once.
        if closes || silent {
            self.appended = self.appended.max(now);
        }
        if epoch_over {
            self.epoch_started = now;
        }
    }

    /// Commits a batch of jobs and answers every one of them.
    async fn serve(&mut self, mut jobs: Vec<Job>) {
        let outcome = self.append_jobs(&jobs).await;
        match outcome {
            Ok(places) => {
                for (job, place) in jobs.into_iter().zip(places) {
                    job.answer(Ok(place));
                }
            }
            // One bad event must not take the others with it: each is tried alone.
            Err(e) if e.kind() == ErrorKind::Invalid && jobs.len() > 1 => {
                for job in jobs {
                    Box::pin(self.serve(vec![job])).await;
                }
            }
            Err(e) if jobs.len() == 1 => {
                if let Some(job) = jobs.pop() {
                    job.answer(Err(e));
                }
            }
            Err(e) => {
                for job in jobs {
                    let copy = Error::new(e.kind(), e.to_string());
                    let copy = match std::error::Error::source(&e) {
                        Some(source) => copy.because(source.to_string()),
                        None => copy,
                    };
                    job.answer(Err(copy));
                }
            }
        }
    }

    async fn append_jobs(&mut self, jobs: &[Job]) -> Result<Vec<(u64, Digest)>> {
        self.usable()?;
        let mut chain = self.chain.clone();
        let mut recorded = self.recorded;
        let mut made = Vec::with_capacity(jobs.len());
        let mut introduced = HashSet::new();
        for job in jobs {
            let draft = &job.draft;
            recorded = recorded.max(self.clock.now());
            let mut entry = place(chain.run(), draft, recorded);
            let new_key = draft
                .key
                .as_ref()
                .filter(|key| !key.stored.load(Ordering::Acquire) && introduced.insert(key.key.id));
            entry.keys = new_key.map(|key| vec![key.record.digest()]);
            let mut one = Made::new(chain.append_encoded(&mut entry)?, draft);
            one.record = new_key.map(Arc::clone);
            made.push(one);
        }
        let leaves: Vec<Digest> = made.iter().map(|m| m.leaf.into()).collect();
        let made = Arc::new(made);
        let first = self
            .commit(Box::new(move |_: &Head| Ok(Arc::clone(&made))), None)
            .await?;
        self.chain = chain;
        self.recorded = recorded;
        self.epoch_entries += leaves.len() as u64;
        self.traffic += leaves.len() as u64;
        self.appended = Instant::now();
        Ok((first..).zip(leaves).collect())
    }

    fn usable(&self) -> Result<()> {
        if self.committing {
            return Err(Error::new(
                ErrorKind::Unknown,
                "a commit was cut off before its outcome was known; this run appends nothing more",
            ));
        }
        match &self.broken {
            None => Ok(()),
            Some((kind, why)) => Err(Error::new(*kind, why.clone())),
        }
    }

    /// Appends one of the log's own entries. It says what the tree was right before it, so it is made anew for each
    /// attempt, under the store's lock; `expect_size` is the size that the log must have.
    async fn append_own(
        &mut self,
        kind: &str,
        log: LogFacts,
        expect_size: Option<u64>,
    ) -> Result<()> {
        self.usable()?;
        let now = self.clock.now();
        let recorded = self.recorded.max(now);
        let mut draft = Draft {
            event: self.ids.uuid_v7(now),
            kind: own_kind(kind),
            time: now,
            log: Some(log),
            tokens: None,
            key: None,
            sealed: None,
            closes: false,
        };
        if kind == kinds::LOG_OPENED {
            self.name_predecessor(&mut draft)?;
        }
        let record = draft.key.clone();
        let signer = draft
            .log
            .as_ref()
            .is_some_and(|log| log.opening.is_some())
            .then(|| self.keys.writer());
        let before = self.chain.clone();
        let after = Arc::new(Mutex::new(None));
        let make = {
            let after = Arc::clone(&after);
            move |head: &Head| {
                let mut chain = before.clone();
                let mut entry = place(chain.run(), &draft, recorded);
                entry.keys = record.as_ref().map(|key| vec![key.record.digest()]);
                if let Some(log) = &mut entry.log {
                    log.head = Some(TreeHead {
                        root: head.edge.root().into(),
                        size: head.size,
                    });
                    log.signer = signer.as_ref().map(|signer| Hex(signer.public_key()));
                }
                if let Some(signer) = &signer {
                    let signature = signer.sign(&signed_message(&entry))?;
                    if let Some(log) = &mut entry.log {
                        log.signature = Some(Hex(signature));
                    }
                }
                let mut made = Made::new(chain.append_encoded(&mut entry)?, &draft);
                made.record.clone_from(&record);
                *after.lock().unwrap_or_else(PoisonError::into_inner) = Some(chain);
                Ok(Arc::new(vec![made]))
            }
        };
        self.commit(Box::new(make), expect_size).await?;
        let chain = after.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.chain = chain
            .ok_or_else(|| Error::corrupt("the store committed a batch that it never asked for"))?;
        self.recorded = recorded;
        self.epoch_entries += 1;
        self.appended = Instant::now();
        Ok(())
    }

    /// Puts into a log's first entry which log it succeeds, and the reason and the person as content.
    fn name_predecessor(&self, draft: &mut Draft) -> Result<()> {
        let Some(succession) = &self.succession else {
            return Ok(());
        };
        let mut event = Event::new(draft.event, draft.time, draft.kind.clone());
        succession.event(&mut event);
        event.check()?;
        let (run, index_key) = (self.chain.run(), self.keys.index_key());
        let (key, record) = DataKey::create(
            self.keys.origin(),
            index_key.scope(&format!("run:{run}")),
            run,
            self.keys.wrapping_key(),
            &*self.ids,
        );
        draft.tokens = index_key.tokens(&event)?.map(|tokens| {
            let mut salt = [0; 16];
            self.ids.fill(&mut salt);
            TokenSet {
                salt: Hex(salt),
                tokens,
            }
        });
        draft.sealed = seal::seal(&event, self.keys.origin(), &key, &*self.ids)?;
        draft.key = Some(Arc::new(RunKey::new(key, record)));
        if let Some(log) = &mut draft.log {
            log.predecessor = Some(succession.predecessor.clone());
        }
        Ok(())
    }

    async fn close_epoch(&mut self) -> Result<()> {
        let entries = self.epoch_entries + 1;
        self.append_own(
            kinds::EPOCH_CLOSED,
            LogFacts {
                entries: Some(entries),
                ..LogFacts::default()
            },
            None,
        )
        .await?;
        // The closing entry is durable; from here on nobody, not even this process, can make an entry of that epoch.
        self.chain.evolve();
        self.epoch_entries = 0;
        self.traffic = 0;
        self.epoch_started = Instant::now();
        Ok(())
    }

    /// Commits entries as one batch, all or none, and answers with the index of the first.
    ///
    /// This is the one way into the store. `make` gives the entries for a head, once per attempt; `expect_size` is the
    /// size that the log must have.
    async fn commit(&mut self, make: Make, expect_size: Option<u64>) -> Result<u64> {
        self.committing = true;
        let committed = self.commit_now(make, expect_size).await;
        // Nothing waits between here and the chain's moving on.
        self.committing = false;
        committed
    }

    async fn commit_now(&mut self, mut make: Make, expect_size: Option<u64>) -> Result<u64> {
        let last = Arc::new(Mutex::new(Arc::default()));
        let build = {
            let last = Arc::clone(&last);
            let seen = Arc::clone(&self.seen);
            move |head: &Head| {
                check_head(head, &seen, expect_size)?;
                let made = make(head)?;
                let batch = batch(head, &made);
                *last.lock().unwrap_or_else(PoisonError::into_inner) = made;
                Ok(batch)
            }
        };
        // Dying before this point loses nothing that anyone was told of: the entries are only in memory.
        let appended = self.store.append(Box::new(build)).await;
        // The entries of the last attempt: the only ones that can be in the store.
        let made: Arc<Vec<Made>> = Arc::clone(&last.lock().unwrap_or_else(PoisonError::into_inner));
        // Dying from here on: the batch is in the store whole or not at all. A caller without an answer asks by event
        // id; the next run opens behind whatever is there.
        let head = match appended {
            Ok(head) => head,
            Err(e) if e.kind() == ErrorKind::Unknown => match self.resolve(&made, &e).await {
                Ok(Some(head)) => head,
                Ok(None) => {
                    return Err(Error::unavailable(
                        "the store didn't take the batch; nothing was written",
                    )
                    .because(e));
                }
                Err(e) => return Err(self.give_up(e)),
            },
            Err(e) if is_fatal(e.kind()) => return Err(self.give_up(e)),
            Err(e) => return Err(e),
        };
        // Durable. From here on the records of the data keys count as stored and the head as seen.
        for key in made.iter().filter_map(|m| m.record.as_ref()) {
            key.stored.store(true, Ordering::Release);
        }
        let first = head.size - made.len() as u64;
        // If others appended since, what this run saw must still be the beginning of it: a store that was changed and
        // grew meanwhile would otherwise be signed as if this run's entries stood in it as they were written.
        match self.continues(&head, first).await {
            Ok(()) => self.saw(&head),
            Err(e) if is_fatal(e.kind()) => return Err(self.give_up(e)),
            // The store can't be read at the moment, but the batch is in it: whatever this answers, the chain has to
            // move on. What was seen stays what it was, so that the next commit checks from there.
            Err(_) => {}
        }
        self.grown.send_replace(head.size);
        Ok(first)
    }

    async fn continues(&self, head: &Head, first: u64) -> Result<()> {
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match seen {
            Some(seen) if seen.size() < first => {
                super::publisher::check_continues(
                    &*self.store,
                    head,
                    seen.size(),
                    &seen.root(),
                    "this run",
                )
                .await
            }
            _ => Ok(()),
        }
    }

    fn saw(&self, head: &Head) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen {
            edge: head.edge.clone(),
        });
    }

    /// Keeps what an entry of the run's own failed with, until one is written.
    fn note(&self, written: &Result<()>) {
        let trouble = written.as_ref().err().map(ToString::to_string);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn give_up(&mut self, e: Error) -> Error {
        self.broken = Some((e.kind(), e.to_string()));
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(e.to_string());
        e
    }

    /// Finds out whether a batch of unknown outcome is in the log, and waits for as long as that takes: appending
    /// anything else before would let the same entries be written twice.
    async fn resolve(&self, made: &[Made], unknown: &Error) -> Result<Option<Head>> {
        let mut pause = Duration::from_millis(50);
        let until = Instant::now() + self.resolve;
        // Who closes the run isn't kept waiting for a store that doesn't come back.
        loop {
            match self.look_for(made).await {
                Ok(found) => return Ok(found),
                Err(e) if e.kind() != ErrorKind::Unavailable => return Err(e),
                Err(_) if Instant::now() >= until || self.closing.load(Ordering::Acquire) => break,
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
            }
        }
        Err(Error::new(
            ErrorKind::Unknown,
            "the store was not reachable long enough to learn whether the last batch was written; \
             this run appends nothing more",
        )
        .because(unknown.to_string()))
    }

    async fn look_for(&self, made: &[Made]) -> Result<Option<Head>> {
        let Some(first) = made.first() else {
            return Ok(None);
        };
        let Some(index) = self.store.position(first.columns.event).await? else {
            return Ok(None);
        };
        let end = index + made.len() as u64;
        let mut at = index;
        let mut expected = made.iter();
        while at < end {
            let rows = self.store.rows(at..end, Parts::Without).await?;
            if rows.is_empty() {
                return Err(Error::corrupt("a batch is in the store in part").at(at));
            }
            for row in rows {
                if expected.next().is_none_or(|m| m.entry != row.entry) {
                    return Err(Error::corrupt(
                        "another entry stands where this run's batch was written",
                    )
                    .at(row.index));
                }
                at += 1;
            }
        }
        // Other writers may have gone on since; what this run needs is where its own batch ended.
        let reader = crate::reader::edge_at(&*self.store, end).await?;
        Ok(Some(Head {
            size: end,
            edge: reader,
        }))
    }
}

/// Waits for company of the first job, up to `linger` and to so many events and bytes; who closes the run isn't kept waiting.
async fn gather(
    waiting: &mut VecDeque<Job>,
    queue: &mut mpsc::Receiver<Job>,
    linger: Duration,
    (events_max, bytes_max): (usize, usize),
) {
    let until = Instant::now() + linger;
    let mut bytes: usize = waiting.iter().map(Job::stored_bytes).sum();
    while waiting.len() < events_max
        && bytes < bytes_max
        && waiting.back().is_some_and(|job| !job.draft.closes)
    {
        let Ok(Some(job)) = tokio::time::timeout_at(until, queue.recv()).await else {
            break;
        };
        bytes += job.stored_bytes();
        waiting.push_back(job);
    }
}

/// Makes the entries for a head; called once per attempt, under the store's writer lock where it has one.
type Make = Box<dyn FnMut(&Head) -> Result<Arc<Vec<Made>>> + Send>;

/// The entry of a draft, without its place in the chain.
fn place(run: Uuid, draft: &Draft, recorded: Timestamp) -> Entry {
    Entry {
        content: draft.sealed.as_ref().map(|s| s.content.clone()),
        epoch: 0,
        event: draft.event,
        key: draft.key.as_ref().map(|k| k.key.id),
        keys: None,
        kind: draft.kind.clone(),
        log: draft.log.clone(),
        mac: Hex([0; 32]),
        payloads: draft.sealed.as_ref().and_then(|s| s.payloads.clone()),
        recorded,
        run,
        seq: 0,
        time: draft.time,
        tokens: draft.tokens.as_ref().map(TokenSet::digest),
        v: match draft.log.as_ref().and_then(|log| log.predecessor.as_ref()) {
            Some(_) => FORMAT_2,
            None => FORMAT,
        },
    }
}

impl Made {
    fn new(entry: Vec<u8>, draft: &Draft) -> Self {
        Self {
            leaf: leaf_hash(&entry),
            entry,
            columns: Columns {
                event: draft.event,
                kind: draft.kind.clone(),
                time: draft.time,
            },
            tokens: draft.tokens.clone(),
            parts: draft.sealed.as_ref().map(|s| s.parts.clone()),
            record: None,
        }
    }
}

/// Refuses a head that is behind, or of the same size and different from, what this run has seen.
fn check_head(head: &Head, seen: &Mutex<Option<Seen>>, expect_size: Option<u64>) -> Result<()> {
    if head.edge.size() != head.size {
        return Err(Error::corrupt(format!(
            "the store's tiles hold {} entries, its head says {}",
            head.edge.size(),
            head.size
        )));
    }
    if let Some(seen) = seen.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        let rolled_back =
            head.size < seen.size() || (head.size == seen.size() && !seen.is(&head.edge));
        if rolled_back {
            return Err(Error::new(
                ErrorKind::RolledBack,
                format!(
                    "the store holds {} entries with root {}, this run has seen {} with root {}",
                    head.size,
                    head.edge.root(),
                    seen.size(),
                    seen.root()
                ),
            ));
        }
    }
    if expect_size.is_some_and(|size| size != head.size) {
        return Err(Error::unavailable(
            "another process opened this log at the same moment",
        ));
    }
    Ok(())
}

/// Puts entries behind a head.
fn batch(head: &Head, made: &[Made]) -> Batch {
    let mut edge = head.edge.clone();
    // What the head's reader may have left in there isn't this batch's.
    edge.take_changed();
    let mut rows = Vec::with_capacity(made.len());
    let mut keys = Vec::new();
    for (index, one) in (head.size..).zip(made) {
        edge.push(one.leaf);
        rows.push(Row {
            index,
            entry: one.entry.clone(),
            columns: one.columns.clone(),
            tokens: one.tokens.clone(),
            parts: one.parts.clone(),
        });
        keys.extend(one.record.as_ref().map(|key| key.record.clone()));
    }
    Batch {
        rows,
        tiles: edge.take_changed(),
        keys,
    }
}
