//! An honest log with something of everything, and the forger's tools to change it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use audit_core::chain::{AuditorKey, MacChain, signed_message};
use audit_core::datakey::DataKey;
use audit_core::entry::{Entry, FORMAT, KeyDigest, LogFacts, LogKeys, Opening, TreeHead, kinds};
use audit_core::event::{Actor, ActorKind, Media, Payload};
use audit_core::hex::Hex;
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::row::{Columns, Row};
use audit_core::secret::SecretKey;
use audit_core::store::{Batch, Store};
use audit_core::time::{Clock as _, IdSource as _, System};
use audit_core::{Error, ErrorKind, Event, Kind, Result};
use audit_tlog::Hash;
use audit_tlog::checkpoint::{self, Checkpoint};
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::EdgeTiles;
use uuid::Uuid;

use crate::memory::{Contents, MemoryStore};

/// Rows loaded in one batch.
const BATCH: usize = 100;

/// A log that was made by the real writer and publisher: two runs that closed, one that died, and a last one that erases
/// a subject and rewraps the other keys.
#[derive(Debug)]
pub struct SampleLog {
    /// The log's keys.
    pub ring: KeyRing,
    /// Opens the sealed run keys.
    pub auditor: AuditorKey,
    /// What is stored.
    pub contents: Contents,
    /// What was stored before the last run: an older copy.
    pub earlier: Contents,
    /// Indexes of the entries whose content the last run erased.
    pub erased: Vec<u64>,
    /// The data keys that it destroyed.
    pub destroyed: Vec<Uuid>,
}

impl SampleLog {
    /// The log `origin`: more than 256 entries, so that there is a full tile and a second level.
    #[must_use]
    pub fn new(origin: &str) -> Self {
        Self::with_runs(origin, [12, 250, 6])
    }

    /// A small log of the same kinds.
    #[must_use]
    pub fn small(origin: &str) -> Self {
        Self::with_runs(origin, [8, 20, 3])
    }

    /// A log whose runs append so many events; the last of them dies.
    fn with_runs(origin: &str, events: [usize; 3]) -> Self {
        let auditor = AuditorKey::random(&System);
        let ring = KeyRing::generate(origin, auditor.public(), &System).expect("an origin");
        let ring = Arc::new(ring);
        let store = MemoryStore::new();
        let state = tempfile::tempdir().expect("a temporary directory");
        for (number, events) in events.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            let mut options = LogOptions::new(Arc::new(store.clone()), Arc::clone(&ring));
            options.state_dir = Some(state.path().to_owned());
            options.epoch = Duration::from_millis(40);
            options.publish = Duration::from_millis(10);
            let died = runtime.block_on(async {
                let log = if number == 0 {
                    Log::create(options).await
                } else {
                    Log::open(options).await
                }
                .expect("the log opens");
                for n in 0..events {
                    drop(log.append(event(n)).await.expect("the event is taken"));
                    // Epochs and checkpoints come with time.
                    if n % 80 == 5 {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
                if number < 2 {
                    log.close().await.expect("the run closes");
                    return None;
                }
                Some(log)
            });
            // The last run is not closed: its tasks end with their runtime, wherever they are.
            runtime.shutdown_timeout(Duration::from_secs(5));
            drop(died);
        }
        let earlier = store.contents();
        let ring = Arc::into_inner(ring).expect("the log is gone");
        Self::erase_and_rewrap(ring, auditor, earlier)
    }

    fn erase_and_rewrap(mut ring: KeyRing, auditor: AuditorKey, earlier: Contents) -> Self {
        let origin = ring.origin().to_owned();
        let mut log = earlier.clone();
        let previous = log.entry(log.last()).run;
        let mut run = HandRun::open(&mut log, &ring, Some(previous));
        let scope = ring.index_key().scope("subject:patient-3");
        let destroyed: Vec<Uuid> = log
            .keys
            .values()
            .filter(|k| k.scope == scope)
            .map(|k| k.id)
            .collect();
        let ids = LogKeys::Ids(destroyed.clone());
        run.signed(
            &mut log,
            &ring,
            kinds::KEY_DESTROYED,
            facts(|f| f.keys = Some(ids)),
        );
        log.keys.retain(|id, _| !destroyed.contains(id));
        let mut erased = Vec::new();
        for index in 0..log.rows.len() {
            if log.entry(index).key.is_some_and(|k| destroyed.contains(&k)) {
                erased.push(index as u64);
                log.rows[index].parts = None;
                log.rows[index].tokens = None;
            }
        }
        let old = ring.wrapping_key().clone();
        let under = ring
            .add_wrapping_key(&System)
            .expect("room for a generation")
            .clone();
        let mut digests: Vec<KeyDigest> = Vec::new();
        for record in log.keys.values_mut() {
            let key = DataKey::unwrap(&origin, record, &old).expect("the record is ours");
            *record = key.wrap(&origin, record.scope, record.run, &under, &System);
            digests.push(record.digest());
        }
        let records = LogKeys::Records(digests);
        let facts = facts(|f| (f.generation, f.keys) = (Some(2), Some(records)));
        run.signed(&mut log, &ring, kinds::KEY_REWRAPPED, facts);
        run.close(&mut log);
        log.rebuild();
        let note = log.signed(&ring, log.rows.len());
        log.checkpoints.insert(log.rows.len() as u64, note);
        Self {
            ring,
            auditor,
            contents: log,
            earlier,
            erased,
            destroyed,
        }
    }

    /// The leaf hash of the first entry, by which a verifier knows the log.
    #[must_use]
    pub fn opened(&self) -> Hash {
        leaf_hash(&self.contents.rows[0].entry)
    }

    /// Entries in the log.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.contents.rows.len() as u64
    }
}

/// Writes a log into a new store, whatever it says. Answers with the checkpoints that the store doesn't take, because
/// they commit to more entries than there are.
///
/// # Errors
///
/// The store's.
pub async fn load(contents: &Contents, store: &dyn Store) -> Result<Vec<(u64, Vec<u8>)>> {
    if let Some(origin) = &contents.origin {
        store.create(origin).await?;
    }
    let mut keys: Vec<_> = contents.keys.values().cloned().collect();
    for rows in contents.rows.chunks(BATCH) {
        let rows = rows.to_vec();
        let keys = std::mem::take(&mut keys);
        store
            .append(Box::new(move |head| {
                let mut edge = head.edge.clone();
                drop(edge.take_changed());
                for row in &rows {
                    edge.push(leaf_hash(&row.entry));
                }
                Ok(Batch {
                    rows: rows.clone(),
                    tiles: edge.take_changed(),
                    keys: keys.clone(),
                })
            }))
            .await?;
    }
    let mut beyond = Vec::new();
    for (size, note) in &contents.checkpoints {
        match store.put_checkpoint(*size, note).await {
            Err(e) if e.kind() == ErrorKind::Invalid => beyond.push((*size, note.clone())),
            result => result?,
        }
    }
    Ok(beyond)
}

fn event(n: usize) -> Event {
    let kinds = ["llm.request", "llm.response", "tool.call"];
    let mut event = Event::new(
        System.uuid_v7(System.now()),
        System.now(),
        Kind::new(kinds[n % 3]).expect("a kind"),
    );
    if n % 5 == 4 {
        return event;
    }
    event.session_id = Some(format!("session-{}", n % 7));
    event.actor = Some(Actor::new(ActorKind::Human, format!("nurse-{}", n % 3)));
    if n.is_multiple_of(3) {
        event.subject = Some(format!("patient-{}", n % 6));
    }
    event.refs.insert("model_id".into(), "model-a".into());
    event.attributes.insert("n".into(), n.into());
    if n.is_multiple_of(2) {
        let bytes = format!("a prompt, the {n}th of them").into_bytes();
        event
            .payloads
            .push(Payload::new("request", Media::Text, bytes));
    }
    event
}

/// What a forger does to a log's contents. None of it needs a key but what says so.
impl Contents {
    pub(crate) fn last(&self) -> usize {
        self.rows.len().saturating_sub(1)
    }

    pub(crate) fn entry(&self, index: usize) -> Entry {
        Entry::decode(&self.rows[index].entry).expect("an honest entry")
    }

    /// The first index of an entry of a kind from `from` on.
    pub(crate) fn find_kind(&self, kind: &str, from: usize) -> usize {
        (from..self.rows.len())
            .find(|i| self.rows[*i].columns.kind.as_str() == kind)
            .expect("the sample has one")
    }

    /// Changes an entry and the columns that repeat it, and nothing else.
    pub(crate) fn edit(&mut self, index: usize, change: impl FnOnce(&mut Entry)) {
        let mut entry = self.entry(index);
        change(&mut entry);
        self.rows[index].entry = entry.encode().expect("an entry that can be written");
        self.rows[index].columns = columns(&entry);
    }

    /// Gives the rows the indexes of their places, and makes tiles and token rows anew.
    pub(crate) fn rebuild(&mut self) {
        let mut edge = EdgeTiles::new();
        for (index, row) in self.rows.iter_mut().enumerate() {
            row.index = index as u64;
            edge.push(leaf_hash(&row.entry));
        }
        self.tiles = edge
            .take_changed()
            .into_iter()
            .map(|t| ((t.id.level, t.id.index), t.hashes))
            .collect();
        let rows = self.rows.iter();
        self.tokens = rows
            .flat_map(|row| {
                let tokens = row.tokens.iter().flat_map(|set| &set.tokens);
                tokens.map(|t| (*t, row.index))
            })
            .collect();
    }

    pub(crate) fn root(&self, size: usize) -> Hash {
        let mut edge = EdgeTiles::new();
        for row in &self.rows[..size] {
            edge.push(leaf_hash(&row.entry));
        }
        edge.root()
    }

    /// Gives every entry that is not signed, from `from` on, the head that it has now.
    pub(crate) fn refit_heads(&mut self, from: usize) {
        let mut edge = EdgeTiles::new();
        for index in 0..self.rows.len() {
            let entry = self.entry(index);
            if index >= from
                && let Some(log) = &entry.log
                && log.head.is_some()
                && log.signer.is_none()
            {
                let head = TreeHead {
                    root: edge.root().into(),
                    size: index as u64,
                };
                self.edit(index, |e| {
                    if let Some(log) = &mut e.log {
                        log.head = Some(head);
                    }
                });
            }
            edge.push(leaf_hash(&self.rows[index].entry));
        }
    }

    /// A checkpoint over the first `size` entries. Needs the publisher key.
    pub(crate) fn signed(&self, ring: &KeyRing, size: usize) -> Vec<u8> {
        let checkpoint = Checkpoint {
            origin: ring.origin().to_owned(),
            size: size as u64,
            root: self.root(size),
            extensions: vec![],
        };
        checkpoint::sign(&checkpoint, &[&ring.checkpoint_signer()])
            .expect("a checkpoint can be signed")
            .into_bytes()
    }

    /// Makes everything fit, and signs one checkpoint over all. Needs the publisher key.
    pub(crate) fn republish(&mut self, ring: &KeyRing) {
        self.rebuild();
        let note = self.signed(ring, self.rows.len());
        self.checkpoints = BTreeMap::from([(self.rows.len() as u64, note)]);
    }

    fn tree_head(&self) -> TreeHead {
        TreeHead {
            root: self.root(self.rows.len()).into(),
            size: self.rows.len() as u64,
        }
    }

    pub(crate) fn store(&mut self, entry: &Entry) {
        let index = self.rows.len() as u64;
        self.rows.push(Row {
            index,
            entry: entry.encode().expect("an entry that can be written"),
            columns: columns(entry),
            tokens: None,
            parts: None,
        });
    }
}

fn columns(entry: &Entry) -> Columns {
    Columns {
        event: entry.event,
        kind: entry.kind.clone(),
        time: entry.time,
    }
}

pub(crate) fn facts(fill: impl FnOnce(&mut LogFacts)) -> LogFacts {
    let mut facts = LogFacts::default();
    fill(&mut facts);
    facts
}

fn sign(entry: &mut Entry, ring: &KeyRing) {
    let signer = Hex(ring.writer().public_key());
    if let Some(log) = &mut entry.log {
        log.signer = Some(signer);
    }
    let signature = ring
        .writer()
        .sign(&signed_message(entry))
        .expect("the key is at hand");
    if let Some(log) = &mut entry.log {
        log.signature = Some(Hex(signature));
    }
}

fn bare(kind: &str, facts: LogFacts) -> Entry {
    let now = System.now();
    Entry {
        content: None,
        epoch: 0,
        event: System.uuid_v7(now),
        key: None,
        keys: None,
        kind: Kind::new(kind).expect("a kind"),
        log: Some(facts),
        mac: Hex([0; 32]),
        payloads: None,
        recorded: now,
        run: Uuid::nil(),
        seq: 0,
        time: now,
        tokens: None,
        v: FORMAT,
    }
}

/// A run whose entries are written by hand: its MACs are right, its signatures are those of the given writer key.
pub(crate) struct HandRun {
    chain: MacChain,
    entries: u64,
}

impl HandRun {
    pub(crate) fn open(log: &mut Contents, ring: &KeyRing, previous: Option<Uuid>) -> Self {
        let run = System.uuid_v7(System.now());
        let k0 = SecretKey::random(&System);
        let sealed = ring
            .auditor()
            .seal_run_key(ring.origin(), run, &k0, &System)
            .expect("the auditor key is one");
        let mut entry = bare(
            kinds::WRITER_OPENED,
            facts(|f| {
                f.head = Some(log.tree_head());
                f.opening = Some(Opening {
                    build: "by hand".into(),
                    previous,
                    sealed,
                });
            }),
        );
        entry.run = run;
        sign(&mut entry, ring);
        let mut chain = MacChain::start(run, k0);
        chain.append(&mut entry);
        log.store(&entry);
        Self { chain, entries: 1 }
    }

    /// Appends an entry of a kind that is signed.
    pub(crate) fn signed(
        &mut self,
        log: &mut Contents,
        ring: &KeyRing,
        kind: &str,
        facts: LogFacts,
    ) {
        let mut entry = bare(kind, facts);
        (entry.run, entry.seq) = (self.chain.run(), self.chain.seq());
        entry.epoch = self.chain.epoch();
        sign(&mut entry, ring);
        self.push(log, entry);
    }

    fn push(&mut self, log: &mut Contents, mut entry: Entry) {
        self.chain.append(&mut entry);
        self.entries += 1;
        log.store(&entry);
    }

    pub(crate) fn close(mut self, log: &mut Contents) {
        let entries = Some(self.entries + 1);
        let head = Some(log.tree_head());
        let entry = bare(
            kinds::WRITER_CLOSED,
            facts(|f| (f.entries, f.head) = (entries, head)),
        );
        self.push(log, entry);
    }
}

/// What an engine or a type says when it can't hold something.
pub(crate) fn refused(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
