//! Honest logs, made by the real log, and the attacker's tools to change them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use audit_core::chain::{AuditorKey, MacChain, signed_message};
use audit_core::datakey::{DataKey, KeyRecord};
use audit_core::entry::{Entry, FORMAT, KeyDigest, LogFacts, LogKeys, Opening, TreeHead, kinds};
use audit_core::event::{Actor, ActorKind, Media, Payload};
use audit_core::hex::Hex;
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::row::{Columns, Parts, Row};
use audit_core::secret::SecretKey;
use audit_core::time::{Clock as _, IdSource as _, System, Timestamp};
use audit_core::token::Token;
use audit_core::{Error, Event, Kind, Result};
use audit_testkit::memory::MemoryStore;
use audit_tlog::Hash;
use audit_tlog::checkpoint::{self, Checkpoint};
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::{EdgeTiles, Tile, TileId};
use audit_verify::{Evidence, Policy, Progress, Verdict, verify_holding};
use serde_json::Value;
use uuid::Uuid;

pub(crate) const ORIGIN: &str = "log.example/clinic";

/// Evidence in memory, every byte of which a test can change.
#[derive(Debug, Clone)]
pub(crate) struct Mem {
    pub(crate) origin: Option<String>,
    pub(crate) size: u64,
    pub(crate) rows: Vec<Row>,
    pub(crate) tokens: Vec<(Token, u64)>,
    pub(crate) tiles: BTreeMap<(u8, u64), Vec<Hash>>,
    pub(crate) checkpoints: BTreeMap<u64, Vec<u8>>,
    pub(crate) keys: BTreeMap<Uuid, KeyRecord>,
    pub(crate) engine: bool,
    pub(crate) engine_fault: Option<String>,
}

impl Evidence for Mem {
    fn has_engine(&self) -> bool {
        self.engine
    }
    fn integrity(&self) -> Result<()> {
        self.engine_fault
            .as_ref()
            .map_or(Ok(()), |fault| Err(Error::corrupt(fault.clone())))
    }
    fn origin(&self) -> Result<Option<String>> {
        Ok(self.origin.clone())
    }
    fn size(&self) -> Result<u64> {
        Ok(self.size)
    }
    fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        let (start, end) = (
            range.start as usize,
            range.end.min(self.rows.len() as u64) as usize,
        );
        let mut rows = self
            .rows
            .get(start..end.min(start + 100))
            .unwrap_or_default()
            .to_vec();
        if parts == Parts::Without {
            for row in &mut rows {
                row.parts = None;
            }
        }
        Ok(rows)
    }
    fn token_rows(&self, after: Option<(Token, u64)>, limit: usize) -> Result<Vec<(Token, u64)>> {
        let start = match after {
            None => 0,
            Some(after) => self
                .tokens
                .iter()
                .rposition(|row| *row == after)
                .map_or(0, |n| n + 1),
        };
        Ok(self.tokens[start..].iter().copied().take(limit).collect())
    }
    fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        Ok(self
            .tiles
            .range((level, after.map_or(0, |a| a + 1))..=(level, u64::MAX))
            .take(limit)
            .map(|((level, index), hashes)| Tile {
                id: TileId {
                    level: *level,
                    index: *index,
                    width: hashes.len() as u16,
                },
                hashes: hashes.clone(),
            })
            .collect())
    }
    fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        Ok(self
            .checkpoints
            .range(after + 1..)
            .take(limit)
            .map(|(s, n)| (*s, n.clone()))
            .collect())
    }
    fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        let after = after.map_or(0, |a| a.as_u128() + 1);
        Ok(self
            .keys
            .range(Uuid::from_u128(after)..)
            .take(limit)
            .map(|(_, k)| k.clone())
            .collect())
    }
    fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        Ok(self.keys.get(&id).cloned())
    }
}

impl Mem {
    pub(crate) fn entry(&self, index: usize) -> Entry {
        Entry::decode(&self.rows[index].entry).unwrap()
    }

    /// Changes an entry and what repeats it, and nothing else.
    pub(crate) fn edit(&mut self, index: usize, change: impl FnOnce(&mut Entry)) {
        let mut entry = self.entry(index);
        change(&mut entry);
        self.rows[index].entry = entry.encode().unwrap();
        self.rows[index].columns = Columns {
            event: entry.event,
            kind: entry.kind.clone(),
            time: entry.time,
        };
    }

    /// Gives the rows the indexes of their places, the size their number, and makes the tiles anew.
    pub(crate) fn rebuild(&mut self) {
        let mut edge = EdgeTiles::new();
        for (index, row) in self.rows.iter_mut().enumerate() {
            row.index = index as u64;
            edge.push(leaf_hash(&row.entry));
        }
        self.size = self.rows.len() as u64;
        self.tiles = edge
            .take_changed()
            .into_iter()
            .map(|t| ((t.id.level, t.id.index), t.hashes))
            .collect();
        self.tokens = self
            .rows
            .iter()
            .flat_map(|row| {
                row.tokens
                    .iter()
                    .flat_map(|set| set.tokens.iter().map(|t| (*t, row.index)))
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

    /// Gives every entry that is not signed, from `from` on, the head that it has now. Needs no key but the auditor's
    /// check of its MAC to be seen.
    pub(crate) fn refit_heads(&mut self, from: usize) {
        let mut edge = EdgeTiles::new();
        for index in 0..self.rows.len() {
            let entry = self.entry(index);
            if index >= from
                && let Some(log) = &entry.log
                && log.head.is_some()
                && log.signer.is_none()
            {
                let head = Some(TreeHead {
                    root: edge.root().into(),
                    size: index as u64,
                });
                self.edit(index, |e| e.log.as_mut().unwrap().head = head);
            }
            edge.push(leaf_hash(&self.rows[index].entry));
        }
    }

    pub(crate) fn opened(&self) -> Hash {
        leaf_hash(&self.rows[0].entry)
    }

    /// A checkpoint over the first `size` entries, signed by the publisher of `ring`.
    pub(crate) fn signed(&self, ring: &KeyRing, size: usize) -> Vec<u8> {
        let checkpoint = Checkpoint {
            origin: ring.origin().to_owned(),
            size: size as u64,
            root: self.root(size),
            extensions: vec![],
        };
        checkpoint::sign(&checkpoint, &[&ring.checkpoint_signer()])
            .unwrap()
            .into_bytes()
    }

    /// The attacker has the publisher key: all tables are made to fit, and one checkpoint is signed over all.
    pub(crate) fn republish(&mut self, ring: &KeyRing) {
        self.rebuild();
        self.checkpoints = BTreeMap::from([(self.size, self.signed(ring, self.rows.len()))]);
    }

    pub(crate) fn find(&self, kind: &str) -> usize {
        self.rows
            .iter()
            .position(|r| r.columns.kind.as_str() == kind)
            .unwrap()
    }

    pub(crate) fn last_checkpoint(&self) -> Vec<u8> {
        self.checkpoints.last_key_value().unwrap().1.clone()
    }
}

/// Verifies; and every seventh time, since it takes several walks, once more with four data keys in memory at once: what
/// is found must be the same. Only which of more than ten findings are told, and their order, is left to chance.
pub(crate) fn verify(
    evidence: &dyn Evidence,
    policy: &Policy<'_>,
    progress: &mut dyn Progress,
) -> Verdict {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let verdict = audit_verify::verify(evidence, policy, progress);
    if CALLS.fetch_add(1, Ordering::Relaxed).is_multiple_of(7) {
        let again = verify_holding(evidence, policy, 4, progress);
        assert_eq!(unordered(&again), unordered(&verdict));
    }
    verdict
}

/// What a verdict says, with its lists in an order of their own.
fn unordered(verdict: &Verdict) -> Value {
    let mut json: Value = serde_json::from_str(&verdict.to_json()).unwrap();
    sort(&mut json);
    if json["findings_total"].as_u64().unwrap() > 10 {
        json["findings"] = Value::Null;
    }
    json
}

fn sort(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(sort);
            items.sort_by_cached_key(Value::to_string);
        }
        Value::Object(members) => members.values_mut().for_each(sort),
        _ => {}
    }
}

/// A log with its keys.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) ring: KeyRing,
    pub(crate) auditor: AuditorKey,
    pub(crate) log: Mem,
    /// Index of the first entry whose content is erased, and one of each kind of the third run.
    pub(crate) erased: usize,
}

impl World {
    pub(crate) fn public(&self) -> Policy<'_> {
        Policy::public(self.ring.vkey(), System.now())
    }

    pub(crate) fn everything(&self) -> Policy<'_> {
        Policy {
            opened: Some(self.log.opened()),
            auditor: Some(self.auditor.clone()),
            operator: Some(&self.ring),
            remembered: vec![self.log.last_checkpoint()],
            full: true,
            gap_max: Some(Duration::from_secs(60)),
            fresh_within: Some(Duration::from_secs(3600)),
            ..self.public()
        }
    }

    pub(crate) fn judge(&self, change: impl FnOnce(&mut Mem)) -> Verdict {
        let mut log = self.log.clone();
        change(&mut log);
        verify(&log, &self.public(), &mut ())
    }
}

pub(crate) fn event(n: usize) -> Event {
    let mut event = Event::new(
        System.uuid_v7(System.now()),
        System.now(),
        Kind::new("llm.request").unwrap(),
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

/// A run whose entries a test writes by hand.
pub(crate) struct HandRun {
    chain: MacChain,
    entries: u64,
}

impl HandRun {
    /// Appends an entry of a kind that is not signed.
    pub(crate) fn append(&mut self, log: &mut Mem, kind: &str, facts: LogFacts) -> usize {
        let mut entry = bare(kind, System.now());
        entry.log = Some(facts);
        self.push(log, entry)
    }

    /// Appends an entry of a kind that is signed.
    pub(crate) fn signed(
        &mut self,
        log: &mut Mem,
        ring: &KeyRing,
        kind: &str,
        facts: LogFacts,
    ) -> usize {
        let mut entry = bare(kind, System.now());
        entry.log = Some(facts);
        (entry.run, entry.seq) = (self.chain.run(), self.chain.seq());
        entry.epoch = self.chain.epoch();
        sign(&mut entry, ring);
        self.push(log, entry)
    }

    pub(crate) fn heartbeat(&mut self, log: &mut Mem) -> usize {
        self.append(log, kinds::HEARTBEAT, facts(|_| {}))
    }

    /// Gives the entry its place in the run and, if it names a head, in the log.
    pub(crate) fn push(&mut self, log: &mut Mem, mut entry: Entry) -> usize {
        let has_head = [kinds::EPOCH_CLOSED, kinds::HEARTBEAT, kinds::WRITER_CLOSED];
        if has_head.contains(&entry.kind.as_str()) {
            let facts = entry.log.as_mut().unwrap();
            facts.head.get_or_insert_with(|| head(log));
        }
        self.chain.append(&mut entry);
        self.entries += 1;
        store(log, &entry)
    }

    pub(crate) fn close(mut self, log: &mut Mem) -> usize {
        let entries = Some(self.entries + 1);
        self.append(log, kinds::WRITER_CLOSED, facts(|f| f.entries = entries))
    }

    pub(crate) fn open(log: &mut Mem, ring: &KeyRing, previous: Option<Uuid>) -> Self {
        Self::open_at(log, ring, previous, System.now())
    }

    pub(crate) fn open_at(
        log: &mut Mem,
        ring: &KeyRing,
        previous: Option<Uuid>,
        now: Timestamp,
    ) -> Self {
        let run = System.uuid_v7(now);
        let k0 = SecretKey::random(&System);
        let mut entry = bare(kinds::WRITER_OPENED, now);
        entry.run = run;
        entry.log = Some(facts(|f| {
            f.head = Some(head(log));
            f.opening = Some(Opening {
                build: "by hand".into(),
                previous,
                sealed: ring
                    .auditor()
                    .seal_run_key(ring.origin(), run, &k0, &System)
                    .unwrap(),
            });
        }));
        sign(&mut entry, ring);
        let mut chain = MacChain::start(run, k0);
        chain.append(&mut entry);
        store(log, &entry);
        Self { chain, entries: 1 }
    }
}

/// The head of the log as it is.
pub(crate) fn head(log: &Mem) -> TreeHead {
    TreeHead {
        root: log.root(log.rows.len()).into(),
        size: log.rows.len() as u64,
    }
}

pub(crate) fn facts(fill: impl FnOnce(&mut LogFacts)) -> LogFacts {
    let mut facts = LogFacts::default();
    fill(&mut facts);
    facts
}

/// Signs an entry with the writer key of `ring`, and names it as the signer.
pub(crate) fn sign(entry: &mut Entry, ring: &KeyRing) {
    entry.log.as_mut().unwrap().signer = Some(Hex(ring.writer().public_key()));
    sign_as_it_is(entry, ring);
}

/// Signs an entry with the writer key of `ring`, whoever it says that signed it.
pub(crate) fn sign_as_it_is(entry: &mut Entry, ring: &KeyRing) {
    let signature = ring.writer().sign(&signed_message(entry)).unwrap();
    entry.log.as_mut().unwrap().signature = Some(Hex(signature));
}

pub(crate) fn bare(kind: &str, now: Timestamp) -> Entry {
    Entry {
        content: None,
        epoch: 0,
        event: System.uuid_v7(now),
        key: None,
        keys: None,
        kind: Kind::new(kind).unwrap(),
        log: None,
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

pub(crate) fn store(log: &mut Mem, entry: &Entry) -> usize {
    let index = log.rows.len();
    log.rows.push(Row {
        index: index as u64,
        entry: entry.encode().unwrap(),
        columns: Columns {
            event: entry.event,
            kind: entry.kind.clone(),
            time: entry.time,
        },
        tokens: None,
        parts: None,
    });
    index
}

async fn runs(ring: Arc<KeyRing>, events: &[usize]) -> Mem {
    let store = Arc::new(MemoryStore::new());
    let state = tempfile::tempdir().unwrap();
    for (number, events) in events.iter().enumerate() {
        let mut options = LogOptions::new(Arc::clone(&store) as _, Arc::clone(&ring));
        options.state_dir = Some(state.path().to_owned());
        options.epoch = Duration::from_millis(40);
        options.publish = Duration::from_millis(10);
        let log = if number == 0 {
            Log::create(options).await.unwrap()
        } else {
            Log::open(options).await.unwrap()
        };
        for n in 0..*events {
            drop(log.append(event(n)).await.unwrap());
            // Epochs and checkpoints come with time.
            if n % 200 == 5 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        log.close().await.unwrap();
    }
    let contents = store.contents();
    Mem {
        origin: contents.origin,
        size: contents.rows.len() as u64,
        rows: contents.rows,
        tokens: contents.tokens.into_iter().collect(),
        tiles: contents.tiles,
        checkpoints: contents.checkpoints,
        keys: contents.keys,
        engine: false,
        engine_fault: None,
    }
}

fn make(origin: &str, events: &[usize]) -> World {
    let auditor = AuditorKey::random(&System);
    let ring = Arc::new(KeyRing::generate(origin, auditor.public(), &System).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut log = runtime.block_on(runs(Arc::clone(&ring), events));
    drop(runtime);
    let mut ring = Arc::into_inner(ring).expect("the log is closed");

    // A third run erases a subject and rewraps what is left.
    let previous = log.entry(log.rows.len() - 1).run;
    let mut run = HandRun::open(&mut log, &ring, Some(previous));
    let scope = ring.index_key().scope("subject:patient-3");
    let ids: Vec<Uuid> = log
        .keys
        .values()
        .filter(|k| k.scope == scope)
        .map(|k| k.id)
        .collect();
    assert!(!ids.is_empty());
    run.signed(
        &mut log,
        &ring,
        kinds::KEY_DESTROYED,
        facts(|f| f.keys = Some(LogKeys::Ids(ids.clone()))),
    );
    log.keys.retain(|id, _| !ids.contains(id));
    let mut erased = usize::MAX;
    for index in 0..log.rows.len() {
        if log.entry(index).key.is_some_and(|k| ids.contains(&k)) {
            erased = erased.min(index);
            log.rows[index].parts = None;
            log.rows[index].tokens = None;
        }
    }
    let old = ring.wrapping_key().clone();
    let under = ring.add_wrapping_key(&System).unwrap().clone();
    let mut digests: Vec<KeyDigest> = Vec::new();
    for record in log.keys.values_mut() {
        let key = DataKey::unwrap(origin, record, &old).unwrap();
        *record = key.wrap(origin, record.scope, record.run, &under, &System);
        digests.push(record.digest());
    }
    let facts = facts(|f| (f.generation, f.keys) = (Some(2), Some(LogKeys::Records(digests))));
    run.signed(&mut log, &ring, kinds::KEY_REWRAPPED, facts);
    run.close(&mut log);
    log.rebuild();
    let note = log.signed(&ring, log.rows.len());
    log.checkpoints.insert(log.size, note);
    World {
        ring,
        auditor,
        log,
        erased,
    }
}

/// Three runs, several epochs, three levels of tiles at work, erased and rewrapped keys.
pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| make(ORIGIN, &[12, 540]))
}

/// The same in small.
pub(crate) fn small() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| make(ORIGIN, &[7, 3]))
}

/// Another log.
pub(crate) fn other() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| make("log.example/other", &[7, 3]))
}

/// Another log of the same name, by somebody who has other keys.
pub(crate) fn forger() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| make(ORIGIN, &[7, 3]))
}

/// A log of more than 1,024 entries.
pub(crate) fn long() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| make(ORIGIN, &[12, 1020]))
}
