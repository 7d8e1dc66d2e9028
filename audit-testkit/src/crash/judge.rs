//! Whether what is left of a log holds what was promised.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use audit_core::chain::AuditorKey;
use audit_core::entry::kinds;
use audit_core::hex::Digest;
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions, StateFile};
use audit_core::reader::{LogReader, RecordContent};
use audit_core::store::{ReadStore, Store};
use audit_core::time::{Clock as _, System};
use audit_core::{Error, Result as CoreResult};
use audit_tlog::hash::leaf_hash;
use audit_verify::{Policy, Verdict};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::work::{Host, event, place_of};
use crate::evidence::StoreEvidence;

/// Where an event stands: its index and its leaf hash.
type Place = (u64, Digest);

/// What was promised: by every process, until it died.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    acknowledged: BTreeMap<Uuid, Place>,
    /// The least tree size that a checkpoint must commit to.
    published: u64,
}

impl Ledger {
    /// Takes in a line of a process; lines that promise nothing are passed over.
    ///
    /// # Errors
    ///
    /// If it promises something else than what was promised before.
    pub fn hear(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split(' ');
        let index_of = |word: &str| {
            word.parse::<u64>()
                .map_err(|e| format!("{line:?} names no index: {e}"))
        };
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("ack"), Some(event), Some(index), Some(leaf)) => {
                let event =
                    Uuid::parse_str(event).map_err(|e| format!("{line:?} names no event: {e}"))?;
                let index = index_of(index)?;
                let leaf = Digest::parse(leaf).map_err(|e| e.to_string())?;
                self.promise(event, (index, leaf))
            }
            (Some("published"), Some(index), None, None) => {
                self.published = self.published.max(index_of(index)? + 1);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn promise(&mut self, event: Uuid, place: Place) -> Result<(), String> {
        match self.acknowledged.insert(event, place) {
            Some(before) if before != place => Err(format!(
                "{event} was acknowledged at {before:?} and at {place:?}"
            )),
            _ => Ok(()),
        }
    }

    /// Events that were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }
}

/// What a log holds, apart from its own entries.
#[derive(Debug, Clone)]
pub struct Contents {
    events: BTreeMap<Uuid, Place>,
    /// The tree size of the latest checkpoint.
    published: u64,
}

impl Contents {
    /// Compares with what was promised.
    ///
    /// # Errors
    ///
    /// What was promised and isn't so.
    pub fn keeps(&self, ledger: &Ledger) -> Result<(), String> {
        for (event, place) in &ledger.acknowledged {
            match self.events.get(event) {
                Some(there) if there == place => {}
                Some(there) => {
                    return Err(format!(
                        "{event} was acknowledged at {place:?} and stands at {there:?}"
                    ));
                }
                None => {
                    return Err(format!("lost: {event}, acknowledged at index {}", place.0));
                }
            }
        }
        if self.published < ledger.published {
            return Err(format!(
                "lost: a checkpoint of {} entries was published, the latest is of {}",
                ledger.published, self.published
            ));
        }
        Ok(())
    }
}

/// Opens what is left, with all keys.
#[derive(Debug, Clone)]
pub struct Judge {
    keys: Arc<KeyRing>,
    auditor: AuditorKey,
    state_dir: PathBuf,
}

impl Judge {
    /// Of the log on `host`, whose keys are read now.
    ///
    /// # Errors
    ///
    /// If a key can't be read.
    pub fn new(host: &Host) -> CoreResult<Self> {
        Ok(Self {
            keys: host.ring()?,
            auditor: host.auditor()?,
            state_dir: host.state_dir(),
        })
    }

    /// The same, with the state file somewhere else.
    #[must_use]
    pub fn at(&self, host: &Host) -> Self {
        Self {
            state_dir: host.state_dir(),
            ..self.clone()
        }
    }

    /// Looks at what is left without changing it, opens the log (recovery), appends an event as process `process`, closes
    /// it, and looks again.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub async fn recover(&self, store: &Arc<dyn Store>, process: u32) -> Result<Contents, String> {
        let reading = || Arc::clone(store) as Arc<dyn ReadStore>;
        self.write_order(store).await?;
        // Whoever takes an image of the disk now must not read of tampering in it. It may be undecided: what the end of the
        // log was, no checkpoint says yet.
        let verdict = self.verify(reading(), Duration::MAX).await?;
        if verdict.exit_code() == 1 {
            return Err(format!("before recovery: {verdict}"));
        }
        let mut options = LogOptions::new(Arc::clone(store), Arc::clone(&self.keys));
        options.state_dir = Some(self.state_dir.clone());
        let log = Log::open(options)
            .await
            .map_err(|e| format!("the log can't be opened: {}", chain(&e)))?;
        let next = event(process, 0, 0).map_err(|e| chain(&e))?;
        let receipt = log
            .append(next)
            .await
            .map_err(|e| format!("the log can't be written: {}", chain(&e)))?;
        log.close()
            .await
            .map_err(|e| format!("the log can't be closed: {}", chain(&e)))?;
        let verdict = self.verify(reading(), Duration::ZERO).await?;
        if verdict.exit_code() != 0 || verdict.unpublished() != Some(0) {
            return Err(format!("after recovery: {verdict}"));
        }
        let contents = self.contents(reading()).await?;
        let mut own = Ledger::default();
        own.promise(receipt.event, (receipt.index, receipt.leaf_hash))?;
        contents.keeps(&own)?;
        Ok(contents)
    }

    /// Whether a checkpoint was remembered before it was released: the state file is never behind the store's checkpoints,
    /// and never ahead of its entries.
    async fn write_order(&self, store: &Arc<dyn Store>) -> Result<(), String> {
        let (remembered, released) = self.checkpoints(store).await?;
        let size = store.head().await.map_err(|e| chain(&e))?.size;
        if remembered < released {
            return Err(format!(
                "the store has a checkpoint of {released} entries, the state file remembers {remembered}"
            ));
        }
        if remembered > size {
            return Err(format!(
                "the state file remembers {remembered} entries, the store has {size}"
            ));
        }
        Ok(())
    }

    /// Whether the state file remembers a checkpoint that the store doesn't have yet.
    ///
    /// # Errors
    ///
    /// If one of them can't be read.
    pub async fn is_ahead(&self, store: &Arc<dyn Store>) -> Result<bool, String> {
        let (remembered, released) = self.checkpoints(store).await?;
        Ok(remembered > released)
    }

    /// The tree sizes of the checkpoint that the state file remembers, and of the store's latest.
    async fn checkpoints(&self, store: &Arc<dyn Store>) -> Result<(u64, u64), String> {
        let reader = LogReader::new(
            Arc::clone(store) as Arc<dyn ReadStore>,
            Arc::clone(&self.keys),
        );
        let state = StateFile::new(&self.state_dir, self.keys.origin());
        let remembered = state
            .checkpoint(&self.keys.vkey())
            .map_err(|e| format!("the state file can't be read: {}", chain(&e)))?
            .map_or(0, |(checkpoint, _)| checkpoint.size);
        Ok((remembered, self.released(&reader).await?))
    }

    async fn released(&self, reader: &LogReader) -> Result<u64, String> {
        let checkpoint = reader.checkpoint().await.map_err(|e| chain(&e))?;
        Ok(checkpoint.map_or(0, |(checkpoint, _)| checkpoint.size))
    }

    /// The offline verifier, with all keys, the content and what the state file remembers.
    async fn verify(
        &self,
        store: Arc<dyn ReadStore>,
        unpublished_max: Duration,
    ) -> Result<Verdict, String> {
        let state = StateFile::new(&self.state_dir, self.keys.origin());
        let remembered = state.read().map_err(|e| chain(&e))?;
        let (keys, auditor) = (Arc::clone(&self.keys), self.auditor.clone());
        let evidence = StoreEvidence::new(store, Handle::current());
        tokio::task::spawn_blocking(move || {
            let policy = Policy {
                auditor: Some(auditor),
                operator: Some(&keys),
                remembered: remembered.into_iter().collect(),
                unpublished_max,
                ..Policy::public(keys.vkey(), System.now())
            };
            audit_verify::verify(&evidence, &policy, &mut ())
        })
        .await
        .map_err(|e| format!("the verifier was stopped: {e}"))
    }

    /// Reads every entry: each event of a process is there once, and is the one that the process handed in. Callers append
    /// one event after the other, so none may be missing before one that is there.
    async fn contents(&self, store: Arc<dyn ReadStore>) -> Result<Contents, String> {
        let reader = LogReader::new(store, Arc::clone(&self.keys));
        let size = reader.size().await.map_err(|e| chain(&e))?;
        let mut events = BTreeMap::new();
        let mut numbers: BTreeMap<(u32, u32), BTreeSet<u32>> = BTreeMap::new();
        let mut index = 0;
        while index < size {
            let records = reader.records(index..size).await.map_err(|e| chain(&e))?;
            if records.is_empty() {
                return Err(format!("nothing stands at index {index} of {size}"));
            }
            for record in records {
                if record.index != index {
                    return Err(format!("index {} stands at {index}", record.index));
                }
                index += 1;
                if kinds::ALL.contains(&record.entry.kind.as_str()) {
                    continue;
                }
                let id = record.entry.event;
                let Some((process, caller, n)) = place_of(id) else {
                    return Err(format!("nobody handed {id} in, at index {}", record.index));
                };
                let handed_in = event(process, caller, n).map_err(|e| chain(&e))?;
                match record.content {
                    RecordContent::Open(opened) if opened.event == handed_in => {}
                    _ => return Err(format!("{id} is not what was handed in")),
                }
                let place = (record.index, leaf_hash(&record.bytes).into());
                if let Some(before) = events.insert(id, place) {
                    return Err(format!("{id} is stored twice: {before:?} and {place:?}"));
                }
                numbers.entry((process, caller)).or_default().insert(n);
            }
        }
        for ((process, caller), numbers) in numbers {
            if let Some(missing) = (0..).zip(&numbers).find(|(n, there)| n != *there) {
                return Err(format!(
                    "event {} of caller {caller} in process {process} is missing, and later ones are there",
                    missing.0
                ));
            }
        }
        let published = self.released(&reader).await?;
        Ok(Contents { events, published })
    }
}

/// An error with all its sources.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text.push_str(": ");
        text.push_str(&e.to_string());
        source = e.source();
    }
    text
}
