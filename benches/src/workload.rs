//! Events like those of a gateway, and logs that hold them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use audit_core::chain::AuditorKey;
use audit_core::datakey::DataKey;
use audit_core::entry::{Entry, FORMAT};
use audit_core::event::{
    Actor, ActorKind, Capture, Correlation, Event, Guarantee, Media, Payload, SystemRef,
};
use audit_core::hex::Hex;
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions, Receipt};
use audit_core::seal::{self, Opened, SealedParts};
use audit_core::store::Store;
use audit_core::time::{Clock as _, IdSource as _, System};
use audit_core::{Kind, Result as CoreResult};
use audit_store_sqlite::{OpenMode, SqliteStore, parse_url};
use audit_testkit::time::TestIds;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::Result;

/// The log of every measurement.
pub const ORIGIN: &str = "bench.example/log";

/// Events of one session; each session has a data key of its own.
const SESSION_EVENTS: u64 = 10;

/// Opens a store from its URL, and makes its file if there is none. The one place that names an engine.
pub fn open_store(url: &str) -> Result<Arc<dyn Store>> {
    let path = parse_url(url)?;
    Ok(Arc::new(if path.exists() {
        SqliteStore::open(&path, OpenMode::ReadWrite)?
    } else {
        SqliteStore::create_file(&path)?
    }))
}

/// A log's secrets and the auditor's: the same ones each time, so that a second process has them too.
#[derive(Debug)]
pub struct Keys {
    /// The operator's.
    pub ring: Arc<KeyRing>,
    ids: TestIds,
}

impl Keys {
    /// Makes them.
    pub fn new() -> Result<Self> {
        let ids = TestIds::new(1);
        let auditor = AuditorKey::random(&ids);
        let ring = KeyRing::generate(ORIGIN, auditor.public(), &ids)?;
        Ok(Self {
            ring: Arc::new(ring),
            ids,
        })
    }

    /// The auditor key, which is drawn first.
    #[must_use]
    pub fn auditor(&self) -> AuditorKey {
        AuditorKey::random(&TestIds::new(1))
    }
}

/// Makes events.
#[derive(Debug)]
pub struct Events {
    text: TestIds,
    made: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            text: TestIds::new(2),
            made: 0,
        }
    }
}

impl Events {
    /// The next event: a request or, every second one, its answer, with a payload of `bytes` bytes of JSON.
    pub fn event(&mut self, bytes: usize) -> Result<Event> {
        let number = self.made;
        self.made += 1;
        let answer = number % 2 == 1;
        let kind = Kind::new(if answer {
            "llm.response"
        } else {
            "llm.request"
        })?;
        let now = System.now();
        let mut event = Event::new(System.uuid_v7(now), now, kind);
        let session = number / SESSION_EVENTS;
        event.session_id = Some(format!("session-{session:08}"));
        event.actor = Some(Actor::new(
            ActorKind::Human,
            format!("user-{:04}@clinic.example", session % 500),
        ));
        event.system = Some(SystemRef {
            id: "triage-assistant".to_owned(),
            version: Some("2026.1".to_owned()),
        });
        event
            .refs
            .insert("model_id".to_owned(), "model-large-4".to_owned());
        event.correlation = Some(Correlation {
            provider_request_id: answer.then(|| format!("req_{:016x}", self.text.number())),
            ..Correlation::default()
        });
        event.capture = Some(Capture {
            component: "audit-gateway".to_owned(),
            guarantee: Guarantee::Closed,
            version: "0.1.0".to_owned(),
        });
        let attributes = [
            ("gen_ai.operation.name", "chat".into()),
            ("gen_ai.request.model", "model-large-4".into()),
            ("gen_ai.usage.input_tokens", (number % 900).into()),
        ];
        event
            .attributes
            .extend(attributes.map(|(name, value)| (name.to_owned(), value)));
        event
            .payloads
            .push(Payload::new("body", Media::Json, self.json(bytes)));
        Ok(event)
    }

    /// `n` events.
    pub fn events(&mut self, n: usize, bytes: usize) -> Result<Vec<Event>> {
        (0..n).map(|_| self.event(bytes)).collect()
    }

    /// A message of words drawn from a list, in JSON of exactly `bytes` bytes: it compresses about as prose does.
    fn json(&self, bytes: usize) -> Vec<u8> {
        const HEAD: &str = r#"{"model":"model-large-4","messages":[{"role":"user","content":""#;
        const TAIL: &str = r#""}]}"#;
        const WORDS: &str = "the of and to in is was for that with patient report since after dose doctor between \
            pressure morning please summarise history would should treatment without evening hospital result blood \
            which there their about before under left right weeks days medication allergic reaction therefore check \
            again family letter insurance number appointment question answer possible risk common figure month \
            discharge follow change increase symptom";
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let mut text = HEAD.to_owned();
        let end = bytes.saturating_sub(TAIL.len());
        while text.len() < end {
            let number = self.text.number();
            // The low bits choose, biased towards the front of the list, as language is.
            let within = number >> 32 & 0xff;
            let at = ((number & 0xff) * within * words.len() as u64) >> 16;
            text.push_str(
                usize::try_from(at)
                    .ok()
                    .and_then(|at| words.get(at))
                    .unwrap_or(&"and"),
            );
            text.push(' ');
            if number >> 60 == 0 {
                text.push_str(&(number >> 40 & 0xffff).to_string());
                text.push(' ');
            }
        }
        text.truncate(end);
        text.push_str(TAIL);
        text.into_bytes()
    }
}

/// Opens a new log over `store`. Epochs and signs of life are put off, so that batches hold events only.
/// With a directory for its state it also publishes.
pub async fn create_log(
    store: Arc<dyn Store>,
    keys: &Keys,
    state_dir: Option<&Path>,
) -> CoreResult<Log> {
    let mut options = LogOptions::new(store, Arc::clone(&keys.ring));
    options.state_dir = state_dir.map(PathBuf::from);
    options.epoch = Duration::from_hours(1);
    options.heartbeat = Duration::from_hours(1);
    Log::create(options).await
}

/// Lets every caller append its events, each when the one before is durable.
pub async fn append_all(log: &Log, callers: Vec<Vec<Event>>) -> Result<()> {
    let mut tasks = JoinSet::new();
    for events in callers {
        let log = log.clone();
        tasks.spawn(async move {
            let mut last: Option<Receipt> = None;
            for event in events {
                last = Some(log.append(event).await?);
            }
            Ok::<_, audit_core::Error>(last)
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// `callers` times `each` events of `bytes` bytes.
pub fn callers(
    events: &mut Events,
    callers: usize,
    each: usize,
    bytes: usize,
) -> Result<Vec<Vec<Event>>> {
    (0..callers).map(|_| events.events(each, bytes)).collect()
}

/// A published log of `events` events in a new file of `dir`; answers with the file's URL.
pub async fn published_log(dir: &Path, keys: &Keys, events: usize, bytes: usize) -> Result<String> {
    const CALLERS: usize = 256;
    let url = format!("sqlite:{}/{events}.db", dir.display());
    // A directory of its own: the state of another log of the same name would look like a rollback.
    let state = dir.join(format!("{events}.state"));
    std::fs::create_dir(&state)?;
    let log = create_log(open_store(&url)?, keys, Some(&state)).await?;
    let mut source = Events::default();
    let mut left = events;
    while left > 0 {
        // In rounds, so that not all events are in memory at once.
        let round = left.min(CALLERS * 16);
        let mut round = source.events(round, bytes)?;
        left -= round.len();
        let each = round.len().div_ceil(CALLERS);
        let mut shares = Vec::new();
        while !round.is_empty() {
            shares.push(round.split_off(round.len().saturating_sub(each)));
        }
        append_all(&log, shares).await?;
    }
    log.close().await?;
    Ok(url)
}

/// One event with what sealing it needs, and its sealed form.
#[derive(Debug)]
pub struct Sealing {
    event: Event,
    key: DataKey,
    entry: Entry,
    parts: Vec<u8>,
}

impl Sealing {
    /// An event with a payload of `bytes` bytes.
    pub fn new(keys: &Keys, bytes: usize) -> Result<Self> {
        let event = Events::default().event(bytes)?;
        let (key, _) = DataKey::create(
            ORIGIN,
            keys.ring.index_key().scope("session:1"),
            Uuid::nil(),
            keys.ring.wrapping_key(),
            &keys.ids,
        );
        let sealed =
            seal::seal(&event, ORIGIN, &key, &System)?.ok_or("the event has no content")?;
        let entry = Entry {
            content: Some(sealed.content),
            epoch: 0,
            event: event.id,
            key: Some(key.id),
            keys: None,
            kind: event.kind.clone(),
            log: None,
            mac: Hex([0; 32]),
            payloads: sealed.payloads,
            recorded: event.time,
            run: Uuid::nil(),
            seq: 0,
            time: event.time,
            tokens: None,
            v: FORMAT,
        };
        Ok(Self {
            event,
            key,
            entry,
            parts: sealed.parts,
        })
    }

    /// The entry's bytes.
    pub fn entry(&self) -> CoreResult<Vec<u8>> {
        self.entry.encode()
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.event.payloads.first().map_or(&[], |p| &p.bytes)
    }

    /// The bytes of the stored parts.
    #[must_use]
    pub fn stored(&self) -> usize {
        self.parts.len()
    }

    /// Seals the event.
    pub fn seal(&self) -> CoreResult<Option<SealedParts>> {
        seal::seal(&self.event, ORIGIN, &self.key, &System)
    }

    /// Opens what was sealed.
    pub fn open(&self) -> CoreResult<Opened> {
        seal::open(&self.entry, &self.parts, ORIGIN, &self.key)
    }
}
