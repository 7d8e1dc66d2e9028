//! The log: the append pipeline, the publisher, receipts and recovery.

mod aside;
mod publisher;
mod writer;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit_tlog::checkpoint;
use audit_tlog::note::VerifierKey;
use audit_tlog::tlog_proof::TlogProof;
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::datakey::{DataKey, KeyRecord};
use crate::entry::{self, Predecessor, TreeHead, kinds};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Actor, Event, Media, Payload};
use crate::hex::{Digest, Hex};
use crate::ingest::{self, Ingest, IngestKeys};
use crate::keyring::KeyRing;
use crate::reader::LogReader;
use crate::seal;
use crate::store::Store;
use crate::time::{Clock, IdSource};
use crate::token::TokenSet;

pub use publisher::{StateFile, check_continues, rollback_check};
use writer::{Draft, Job, OwnCommit, RunKey, SharedWriter, Writer};

/// What a log needs to run.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Where entries go.
    pub store: Arc<dyn Store>,
    /// The log's keys.
    pub keys: Arc<KeyRing>,
    /// The writer's clock.
    pub clock: Arc<dyn Clock>,
    /// Ids and randomness.
    pub ids: Arc<dyn IdSource>,
    /// Program and version, for the opening of the run.
    pub build: String,
    /// Where the publisher remembers what it signed, apart from the store. `None`: this process doesn't publish, and
    /// rollback isn't checked.
    pub state_dir: Option<PathBuf>,
    /// Callers that may wait before `append` itself waits.
    pub queue_events_max: usize,
    /// Events of one batch.
    pub batch_events_max: usize,
    /// Stored bytes of one batch; one event may have more, and is then a batch of its own.
    pub batch_bytes_max: usize,
    /// Payload bytes that may wait, in all events together, before `append` itself waits.
    pub queue_bytes_max: usize,
    /// An epoch with traffic ends after this time.
    pub epoch: Duration,
    /// An idle writer leaves a sign of life after this time.
    pub heartbeat: Duration,
    /// A log that grew is published after this time.
    pub publish: Duration,
    /// How long a run asks the store whether a batch of unknown outcome was written, before it gives up and appends
    /// nothing more; callers wait meanwhile. 75 s. Who keeps what can't be recorded elsewhere may wait for days.
    pub resolve: Duration,
    /// The log that a new one succeeds; an opened log has its first entry already, and takes no notice.
    pub succession: Option<Succession>,
    /// What every event of a caller passes before anything of it is sealed; the log's own entries don't.
    pub ingest: Option<Arc<dyn Ingest>>,
}

/// Why a log begins where another one lost published entries for good. Its first entry says so: which log, up to which
/// checkpoint it was known, and what of it is left, in clear; the reason and the person as content.
#[derive(Debug, Clone)]
pub struct Succession {
    predecessor: Predecessor,
    checkpoint: Vec<u8>,
    reason: String,
    by: Actor,
}

impl Succession {
    /// Behind the log of `vkey`, of which `checkpoint` is the last signed checkpoint that is known, and of which
    /// `survives` is left.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`]: the checkpoint isn't of that log, nothing is lost, or the reason is empty.
    pub fn new(
        checkpoint: &[u8],
        vkey: &VerifierKey,
        survives: TreeHead,
        reason: impl Into<String>,
        by: Actor,
    ) -> Result<Self> {
        let (lost, _) = checkpoint::open(checkpoint, vkey.name(), vkey).map_err(|e| {
            Error::invalid("the lost checkpoint is not one of the lost log").because(e)
        })?;
        let lost = TreeHead {
            root: lost.root.into(),
            size: lost.size,
        };
        let reason = reason.into();
        if reason.trim().is_empty() {
            return Err(Error::invalid("a loss is accepted with a reason"));
        }
        if lost.size == 0 || lost == survives {
            return Err(Error::invalid(
                "nothing is lost that the checkpoint commits to",
            ));
        }
        Ok(Self {
            predecessor: Predecessor {
                lost,
                origin: vkey.name().to_owned(),
                survives,
            },
            checkpoint: checkpoint.to_vec(),
            reason,
            by,
        })
    }

    /// The content of the first entry.
    fn event(&self, event: &mut Event) {
        event.actor = Some(self.by.clone());
        event.attributes.insert(
            "audit.rollback.reason".to_owned(),
            self.reason.clone().into(),
        );
        event.payloads.push(Payload::new(
            "lost_checkpoint",
            Media::Text,
            self.checkpoint.clone(),
        ));
    }
}

impl LogOptions {
    /// The defaults of the design: epochs of 60 s, heartbeats after 10 minutes, a checkpoint about every second.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, keys: Arc<KeyRing>) -> Self {
        Self {
            store,
            keys,
            clock: Arc::new(crate::time::System),
            ids: Arc::new(crate::time::System),
            build: concat!("audit-trail/", env!("CARGO_PKG_VERSION")).to_owned(),
            state_dir: None,
            queue_events_max: 4096,
            batch_events_max: 1024,
            batch_bytes_max: 16 * 1024 * 1024,
            queue_bytes_max: 512 * 1024 * 1024,
            epoch: Duration::from_secs(60),
            heartbeat: Duration::from_secs(600),
            publish: Duration::from_secs(1),
            resolve: Duration::from_secs(75),
            succession: None,
            ingest: None,
        }
    }
}

/// Where an appended event stands.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// The event's id.
    pub event: Uuid,
    /// Its leaf index.
    pub index: u64,
    /// Its leaf hash.
    pub leaf_hash: Digest,
    log: Arc<Shared>,
}

/// An event that was handed in and isn't acknowledged yet.
#[derive(Debug)]
pub struct Pending {
    event: Uuid,
    answer: oneshot::Receiver<Result<(u64, Digest)>>,
    log: Arc<Shared>,
}

impl Pending {
    /// Waits until the event would survive a power cut.
    ///
    /// # Errors
    ///
    /// As [`Log::append`].
    pub async fn durable(mut self) -> Result<Receipt> {
        self.outcome().await
    }

    /// The same for who keeps the handle: dropping the future loses nothing, and the outcome is told once.
    ///
    /// # Errors
    ///
    /// As [`Log::append`].
    pub async fn outcome(&mut self) -> Result<Receipt> {
        let (index, leaf_hash) = (&mut self.answer).await.map_err(|e| {
            let what = "the writer was stopped; the event may be in the log";
            Error::new(ErrorKind::Unknown, what).because(e)
        })??;
        Ok(Receipt {
            event: self.event,
            index,
            leaf_hash,
            log: Arc::clone(&self.log),
        })
    }
}

impl Receipt {
    /// Waits for the next checkpoint that commits to the event, and proves the event under it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] if the log closes before, or the store can't be read;
    /// [`ErrorKind::Corrupt`] if what is published doesn't hold the event.
    pub async fn published(&self) -> Result<TlogProof> {
        let mut published = self.log.published.subscribe();
        let reader = self.log.reader();
        loop {
            // Another process may be the publisher; then only the store knows.
            if let Some((checkpoint, _)) = reader.checkpoint().await?
                && checkpoint.size > self.index
            {
                break;
            }
            let mut closed = false;
            tokio::select! {
                changed = published.changed() => closed = changed.is_err(),
                () = tokio::time::sleep(Duration::from_millis(250)) => {}
            }
            if closed {
                return Err(Error::unavailable(format!(
                    "the log closed before index {} was published",
                    self.index
                )));
            }
        }
        let proof = reader.prove(self.index).await?;
        proof
            .verify(
                &self.leaf_hash.into(),
                self.log.keys.origin(),
                &self.log.keys.vkey(),
            )
            .map_err(|e| {
                Error::corrupt("the published log doesn't hold the event that this receipt is for")
                    .at(self.index)
                    .because(e)
            })?;
        Ok(proof)
    }
}

/// What the handles of one open log share.
struct Shared {
    store: Arc<dyn Store>,
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    run: Uuid,
    ingest: Option<Arc<dyn Ingest>>,
    data_keys: Mutex<KeyCache>,
    published: watch::Sender<u64>,
    trouble: Mutex<Option<String>>,
    writing: Arc<Mutex<Option<String>>>,
    /// A permit for each KiB that may wait.
    waiting: Arc<Semaphore>,
    waiting_kib_max: u32,
    /// Jobs that were handed in and that the writer's task hasn't taken up.
    queued: Arc<AtomicUsize>,
    /// Events wait for company, so nobody commits on his own.
    lingers: bool,
    /// The runtime in which the log was opened.
    runtime: Handle,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("origin", &self.keys.origin())
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Keeps what publishing last failed with, until it works again.
    fn note_publishing(&self, published: &Result<Option<u64>>) {
        let trouble = published.as_ref().err().map(ToString::to_string);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn reader(&self) -> LogReader {
        LogReader::new(
            Arc::clone(&self.store) as Arc<dyn crate::store::ReadStore>,
            Arc::clone(&self.keys),
        )
    }
}

/// An open log: one writer run.
///
/// Dropping the last handle ends the run as [`Log::close`] does, but nobody learns whether that worked.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    writer: SharedWriter,
    /// Told to the writer before its turn comes.
    closing: Arc<AtomicBool>,
    jobs: mpsc::Sender<Job>,
    tasks: Arc<Mutex<Option<Tasks>>>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

#[derive(Debug)]
struct Tasks {
    writer: JoinHandle<Result<()>>,
    publisher: Option<publisher::Handle>,
}

/// Data keys of the run, by shred scope. When it is full the oldest is forgotten, and its scope gets a second key.
#[derive(Default)]
struct KeyCache {
    keys: HashMap<String, Arc<RunKey>>,
    order: VecDeque<String>,
}

/// As many permits as a semaphore surely has, on machines of 32 bits too: 256 GiB.
const WAITING_KIB_MAX: u32 = 1 << 28;

/// Scopes whose key is kept in memory; each costs about 300 bytes.
const DATA_KEYS_MAX: usize = 4096;

impl Log {
    /// Makes the store a log's store and opens it.
    ///
    /// # Errors
    ///
    /// As [`Log::open`]; [`ErrorKind::Invalid`] if there is a log already.
    pub async fn create(options: LogOptions) -> Result<Self> {
        options.store.create(options.keys.origin()).await?;
        Self::open(options).await
    }

    /// Opens the log: checks it against what this host remembers, and opens a writer run in it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::RolledBack`] if the store is behind or different from the publisher's state file;
    /// [`ErrorKind::Invalid`] if the store belongs to another log; [`ErrorKind::Unavailable`] if it can't be written.
    pub async fn open(options: LogOptions) -> Result<Self> {
        let origin = options.keys.origin().to_owned();
        match options.store.description().await? {
            Some(description) if description.origin == origin => {}
            Some(description) => {
                return Err(Error::invalid(format!(
                    "the store holds the log {:?}, the keys are of {origin:?}",
                    description.origin
                )));
            }
            None => return Err(Error::not_found("the store holds no log yet")),
        }
        let state = options
            .state_dir
            .as_ref()
            .map(|dir| StateFile::new(dir, &origin));
        if let Some(state) = &state {
            rollback_check(&*options.store, state, &options.keys.vkey()).await?;
        }
        let run = options.ids.uuid_v7(options.clock.now());
        let (published, _) = watch::channel(0);
        let waiting_kib_max = u32::try_from(options.queue_bytes_max / 1024).unwrap_or(u32::MAX);
        let waiting_kib_max = waiting_kib_max.clamp(1, WAITING_KIB_MAX);
        let writing = Arc::default();
        let shared = Arc::new(Shared {
            store: Arc::clone(&options.store),
            keys: Arc::clone(&options.keys),
            clock: Arc::clone(&options.clock),
            ids: Arc::clone(&options.ids),
            run,
            ingest: options.ingest.clone(),
            data_keys: Mutex::default(),
            published,
            trouble: Mutex::default(),
            writing: Arc::clone(&writing),
            waiting: Arc::new(Semaphore::new(waiting_kib_max as usize)),
            waiting_kib_max,
            queued: Arc::default(),
            lingers: options.store.capabilities().linger.is_some(),
            runtime: Handle::current(),
        });
        let (grown, growth) = watch::channel(0);
        let mut writer = Writer::new(&options, run, grown);
        writer.trouble = writing;
        writer.open_run().await?;
        let (jobs, queue) = mpsc::channel(options.queue_events_max.max(1));
        let seen = Arc::clone(&writer.seen);
        let closing = Arc::clone(&writer.closing);
        let writer = Arc::new(tokio::sync::Mutex::new(writer));
        let queued = Arc::clone(&shared.queued);
        let task = tokio::spawn(Writer::run(Arc::clone(&writer), queue, queued));
        let publisher = state.map(|state| {
            publisher::spawn(publisher::Publisher {
                store: Arc::clone(&options.store),
                keys: Arc::clone(&options.keys),
                state,
                interval: options.publish,
                growth,
                seen,
                shared: Arc::downgrade(&shared),
            })
        });
        let tasks = Tasks {
            writer: task,
            publisher,
        };
        Ok(Self {
            shared,
            writer,
            closing,
            jobs,
            tasks: Arc::new(Mutex::new(Some(tasks))),
        })
    }

    /// Appends an event; on return it would survive a power cut.
    ///
    /// A caller who stops waiting doesn't stop the append. Who may need the event again hands in an `Arc` of it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`]: the event breaks a rule, its id is already in the log, or [`LogOptions::ingest`] refused it.
    /// [`ErrorKind::Unavailable`]: nothing was written.
    /// [`ErrorKind::Unknown`]: it may be in the log; nothing more is appended. Who sends it again is told if it is there.
    /// [`ErrorKind::RolledBack`], [`ErrorKind::Corrupt`]: the store can't be trusted; nothing more is appended.
    pub async fn append(&self, event: impl Into<Arc<Event>> + Send) -> Result<Receipt> {
        let (draft, room) = self.sealed(event.into()).await?;
        if let Some(writer) = self.idle_writer() {
            let (job, pending) = self.job(draft, room);
            OwnCommit::new(writer, job, self.shared.runtime.clone()).await;
            return pending.durable().await;
        }
        self.hand_in(draft, room).await?.durable().await
    }

    /// The writer, if nobody uses it and nobody who came before waits for it.
    fn idle_writer(&self) -> Option<OwnedMutexGuard<Writer>> {
        if self.shared.lingers {
            return None;
        }
        let writer = Arc::clone(&self.writer).try_lock_owned().ok()?;
        // A job that the task has taken from the queue still counts until the task has the writer.
        (self.shared.queued.load(Ordering::SeqCst) == 0 && !writer.closed).then_some(writer)
    }

    /// Hands an event in and returns before it is durable. Events that one caller hands in one after the other are
    /// appended in that order.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`]: the event breaks a rule. [`ErrorKind::Unavailable`]: the log is closed.
    pub async fn submit(&self, event: impl Into<Arc<Event>> + Send) -> Result<Pending> {
        let (draft, room) = self.sealed(event.into()).await?;
        self.hand_in(draft, room).await
    }

    async fn sealed(&self, event: Arc<Event>) -> Result<(Draft, OwnedSemaphorePermit)> {
        check_callers(&event)?;
        let filter = self.shared.ingest.as_ref();
        let slow = filter.is_some_and(|f| f.is_slow(&event));
        self.sealed_by(event, slow, Shared::filtered_draft).await
    }

    /// Seals an event that may come into the log by `draft`.
    async fn sealed_by(
        &self,
        event: Arc<Event>,
        slow: bool,
        draft: fn(&Shared, Arc<Event>) -> Result<Draft>,
    ) -> Result<(Draft, OwnedSemaphorePermit)> {
        let bytes: usize = event.payloads.iter().map(|p| p.bytes.len()).sum();
        let room = self.shared.room(bytes).await?;
        // Compressing and encrypting a large payload would hold up the runtime's other tasks.
        let draft = if bytes > 64 * 1024 || slow {
            let shared = Arc::clone(&self.shared);
            tokio::task::spawn_blocking(move || draft(&shared, event))
                .await
                .map_err(|e| Error::unavailable("sealing the event was stopped").because(e))??
        } else {
            draft(&self.shared, event)?
        };
        Ok((draft, room))
    }

    fn job(&self, draft: Draft, room: OwnedSemaphorePermit) -> (Job, Pending) {
        let (reply, answer) = oneshot::channel();
        let pending = Pending {
            event: draft.event,
            answer,
            log: Arc::clone(&self.shared),
        };
        let job = Job {
            draft: Box::new(draft),
            reply,
            room: Some(room),
        };
        (job, pending)
    }

    async fn hand_in(&self, draft: Draft, room: OwnedSemaphorePermit) -> Result<Pending> {
        let (job, pending) = self.job(draft, room);
        self.enqueue(job)
            .await
            .map_err(|e| Error::unavailable("the log is closed").because(e.to_string()))?;
        Ok(pending)
    }

    async fn enqueue(&self, job: Job) -> std::result::Result<(), mpsc::error::SendError<()>> {
        let place = self.jobs.reserve().await?;
        // Counted before it can be taken up, and only once it will be.
        self.shared.queued.fetch_add(1, Ordering::SeqCst);
        place.send(job);
        Ok(())
    }

    /// Ends the run: waits for what was handed in, writes the closing entry and publishes.
    /// Appends that come later, through any handle, are refused.
    ///
    /// # Errors
    ///
    /// The first error of the closing entry or the last checkpoint. Calling it again is no error.
    pub async fn close(self) -> Result<()> {
        let tasks = self
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(tasks) = tasks else { return Ok(()) };
        self.closing.store(true, Ordering::Release);
        let (reply, answer) = oneshot::channel();
        let job = Job {
            draft: Box::new(Draft::close()),
            reply,
            room: None,
        };
        if self.enqueue(job).await.is_ok() {
            // The writer's own result follows; this only waits for its turn in the queue.
            drop(answer.await);
        }
        let written = tasks
            .writer
            .await
            .map_err(|e| Error::unavailable("the writer was stopped").because(e))
            .flatten();
        let published = match tasks.publisher {
            Some(publisher) => publisher.finish().await,
            None => Ok(()),
        };
        written.and(published)
    }

    /// A read handle on this log.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        self.shared.reader()
    }

    /// Why checkpoints are not being published at the moment; `None` if all is well.
    #[must_use]
    pub fn publishing_trouble(&self) -> Option<String> {
        self.shared
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Why the run can't end its epoch or leave a sign of life at the moment, or why nothing more is appended;
    /// `None` if all is well. What an append fails with, its caller is told.
    #[must_use]
    pub fn writing_trouble(&self) -> Option<String> {
        self.shared
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The writer's clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// Ids and randomness.
    #[must_use]
    pub fn ids(&self) -> &Arc<dyn IdSource> {
        &self.shared.ids
    }

    /// The writer run.
    #[must_use]
    pub fn run(&self) -> Uuid {
        self.shared.run
    }

    /// A keyed hash of something that must never be stored itself, so that its use can be shown later.
    #[must_use]
    pub fn fingerprint(&self, what: &str, secret: &[u8]) -> Digest {
        self.shared.keys.index_key().fingerprint(what, secret)
    }
}

impl Shared {
    /// Waits until payloads of so many bytes may wait too. One event may be larger than all that may wait; it then
    /// waits alone.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        Arc::clone(&self.waiting)
            .acquire_many_owned(kib.min(self.waiting_kib_max))
            .await
            .map_err(|e| Error::unavailable("the log is closed").because(e))
    }

    /// What the filter leaves of a caller's event. Every caller's event comes through here.
    fn filtered(&self, event: Arc<Event>) -> Result<Arc<Event>> {
        let Some(filter) = &self.ingest else {
            return Ok(event);
        };
        let keys = IngestKeys::new(self.keys.index_key());
        ingest::admit(&**filter, Arc::unwrap_or_clone(event), &keys).map(Arc::new)
    }

    fn filtered_draft(&self, event: Arc<Event>) -> Result<Draft> {
        self.draft(&*self.filtered(event)?)
    }

    /// Everything of an entry that doesn't depend on its place in the run.
    fn draft(&self, event: &Event) -> Result<Draft> {
        let tokens = self.keys.index_key().tokens(event)?.map(|tokens| {
            let mut salt = [0; 16];
            self.ids.fill(&mut salt);
            TokenSet {
                salt: Hex(salt),
                tokens,
            }
        });
        let scope = event
            .shred_scope()
            .unwrap_or_else(|| format!("run:{}", self.run));
        let key = self.data_key(&scope);
        let sealed = seal::seal(event, self.keys.origin(), &key.key, &*self.ids)?;
        Ok(Draft {
            event: event.id,
            kind: event.kind.clone(),
            time: event.time,
            log: None,
            tokens,
            key: sealed.is_some().then_some(key),
            sealed,
            closes: false,
        })
    }

    fn data_key(&self, scope: &str) -> Arc<RunKey> {
        let mut cache = self
            .data_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = cache.keys.get(scope) {
            return Arc::clone(key);
        }
        let (key, record): (DataKey, KeyRecord) = DataKey::create(
            self.keys.origin(),
            self.keys.index_key().scope(scope),
            self.run,
            self.keys.wrapping_key(),
            &*self.ids,
        );
        let key = Arc::new(RunKey::new(key, record));
        if cache.order.len() >= DATA_KEYS_MAX
            && let Some(oldest) = cache.order.pop_front()
        {
            cache.keys.remove(&oldest);
        }
        cache.order.push_back(scope.to_owned());
        cache.keys.insert(scope.to_owned(), Arc::clone(&key));
        key
    }
}

/// The largest entry that an event can make must fit: 64 payloads of about 330 bytes, 1 data key, 64-byte names.
const _: () = assert!(entry::ENTRY_BYTES_MAX > 64 * 400 + 4096);

/// Checks what a caller hands in, before the filter sees it.
fn check_callers(event: &Event) -> Result<()> {
    if kinds::ALL.contains(&event.kind.as_str()) {
        return Err(Error::invalid(format!(
            "kind {} is written by the log itself",
            event.kind
        )));
    }
    ingest::check(event)?;
    event.check()
}

/// Whether an error means that nothing more may be appended in this run.
fn is_fatal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::RolledBack | ErrorKind::Corrupt | ErrorKind::Unknown
    )
}
