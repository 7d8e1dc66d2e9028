//! The judge of a log that something was done to: the offline verifier, and what was acknowledged, refused or left in
//! doubt.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit_core::chain::AuditorKey;
use audit_core::datakey::KeyRecord;
use audit_core::entry::kinds;
use audit_core::hex::Digest;
use audit_core::keyring::KeyRing;
use audit_core::log::Receipt;
use audit_core::reader::{LogReader, RecordContent};
use audit_core::row::{Parts, Row};
use audit_core::store::{ReadStore, Store};
use audit_core::time::{IdSource, Timestamp};
use audit_core::token::Token;
use audit_core::{Error, ErrorKind, Event, Result};
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::Tile;
use audit_verify::{Evidence, Outcome, Policy, Verdict, verify};
use uuid::Uuid;

/// Rows of a table read at once.
const PAGE: usize = 4096;

/// All that a store answers about its log, read once, as evidence for the verifier.
#[derive(Debug, Clone)]
pub struct Snapshot {
    engine: Option<(ErrorKind, String)>,
    origin: Option<String>,
    rows: Vec<Row>,
    tokens: Vec<(Token, u64)>,
    tiles: Vec<Tile>,
    checkpoints: Vec<(u64, Vec<u8>)>,
    keys: Vec<KeyRecord>,
}

impl Snapshot {
    /// Reads all of a log, until nobody wrote to it meanwhile.
    ///
    /// # Errors
    ///
    /// What the store says; [`ErrorKind::Unavailable`] if the log never stands still.
    pub async fn of(store: &dyn ReadStore) -> Result<Self> {
        let mut before = (store.head().await?.size, store.latest_checkpoint().await?);
        for _ in 0..20 {
            let snapshot = Self::read(store).await?;
            let after = (store.head().await?.size, store.latest_checkpoint().await?);
            if before == after {
                return Ok(snapshot);
            }
            before = after;
        }
        Err(Error::unavailable("the log is written to all the time"))
    }

    async fn read(store: &dyn ReadStore) -> Result<Self> {
        let engine = store.integrity().await.err();
        let mut rows: Vec<Row> = Vec::new();
        loop {
            let next = rows.len() as u64;
            let page = store.rows(next..u64::MAX, Parts::With).await?;
            if page.is_empty() {
                break;
            }
            rows.extend(page);
        }
        let mut tokens: Vec<(Token, u64)> = Vec::new();
        loop {
            let page = store.token_rows(tokens.last().copied(), PAGE).await?;
            if page.is_empty() {
                break;
            }
            tokens.extend(page);
        }
        let mut tiles = Vec::new();
        for level in 0..8 {
            let mut after = None;
            loop {
                let page = store.tiles(level, after, PAGE).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.id.index);
                tiles.extend(page);
            }
        }
        Ok(Self {
            engine: engine.map(|e| (e.kind(), e.to_string())),
            origin: store.description().await?.map(|d| d.origin),
            rows,
            tokens,
            tiles,
            checkpoints: store.checkpoints(0, usize::MAX).await?,
            keys: store.keys(None, usize::MAX).await?,
        })
    }

    /// The entries.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The checkpoints by tree size.
    #[must_use]
    pub fn checkpoints(&self) -> &[(u64, Vec<u8>)] {
        &self.checkpoints
    }
}

impl Evidence for Snapshot {
    fn has_engine(&self) -> bool {
        true
    }

    fn integrity(&self) -> Result<()> {
        match &self.engine {
            None => Ok(()),
            Some((kind, what)) => Err(Error::new(*kind, what.clone())),
        }
    }

    fn origin(&self) -> Result<Option<String>> {
        Ok(self.origin.clone())
    }

    fn size(&self) -> Result<u64> {
        Ok(self.rows.len() as u64)
    }

    fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        let within = |row: &&Row| range.contains(&row.index);
        let rows = self.rows.iter().filter(within).take(PAGE).cloned();
        Ok(rows
            .map(|mut row| {
                if parts == Parts::Without {
                    row.parts = None;
                }
                row
            })
            .collect())
    }

    fn token_rows(&self, after: Option<(Token, u64)>, limit: usize) -> Result<Vec<(Token, u64)>> {
        let from = match after {
            None => 0,
            Some(after) => self
                .tokens
                .iter()
                .position(|row| *row == after)
                .map_or(self.tokens.len(), |at| at + 1),
        };
        let rest = self.tokens.get(from..).unwrap_or_default();
        Ok(rest.iter().copied().take(limit).collect())
    }

    fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        let tiles = self.tiles.iter();
        Ok(tiles
            .filter(|t| t.id.level == level && after.is_none_or(|after| t.id.index > after))
            .take(limit)
            .cloned()
            .collect())
    }

    fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        let found = self.checkpoints.iter().filter(|(size, _)| *size > after);
        Ok(found.take(limit).cloned().collect())
    }

    fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        let keys = self.keys.iter();
        Ok(keys
            .filter(|key| after.is_none_or(|after| key.id > after))
            .take(limit)
            .cloned()
            .collect())
    }

    fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        Ok(self.keys.iter().find(|key| key.id == id).cloned())
    }
}

/// Everybody's keys.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "tests use all of it")]
pub struct Keys {
    /// The operator's.
    pub ring: Arc<KeyRing>,
    /// The auditor's.
    pub auditor: AuditorKey,
}

impl Keys {
    /// New keys for the log `origin`.
    ///
    /// # Errors
    ///
    /// As [`KeyRing::generate`].
    pub fn generate(origin: &str, ids: &dyn IdSource) -> Result<Self> {
        let auditor = AuditorKey::random(ids);
        Ok(Self {
            ring: Arc::new(KeyRing::generate(origin, auditor.public(), ids)?),
            auditor,
        })
    }
}

/// What callers handed in, and what they were told of it.
#[derive(Debug, Default)]
pub struct Model(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    sent: BTreeMap<Uuid, Sent>,
    /// The first entry, once it was seen.
    opened: Option<Digest>,
    checkpoints: BTreeMap<u64, Vec<u8>>,
    remembered: Vec<Vec<u8>>,
    complaints: Vec<String>,
}

#[derive(Debug)]
struct Sent {
    event: Event,
    attempts: u64,
    /// Attempts after which it may be in the log, and of which nobody was told more.
    doubts: u64,
    acknowledged: Option<(u64, Digest)>,
    /// An attempt was refused because the event is there.
    known: bool,
}

/// How many events ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "tests look at all of it")]
pub struct Fates {
    /// Acknowledged.
    pub acknowledged: u64,
    /// Refused, so they must not be there.
    pub refused: u64,
    /// Nobody was told.
    pub doubtful: u64,
}

impl Model {
    /// An event is about to be handed in, for the first time or again.
    pub fn sent(&self, event: &Event) {
        self.with(|told| {
            let sent = told.sent.entry(event.id).or_insert_with(|| Sent {
                event: event.clone(),
                attempts: 0,
                doubts: 0,
                acknowledged: None,
                known: false,
            });
            sent.attempts += 1;
            sent.doubts += 1;
        });
    }

    /// What the caller was told.
    pub fn answered(&self, event: Uuid, answer: &Result<Receipt>) {
        self.with(|told| {
            let Some(sent) = told.sent.get_mut(&event) else {
                let what = format!("event {event} was answered and never sent");
                return told.complaints.push(what);
            };
            match answer {
                Ok(receipt) => {
                    sent.doubts -= 1;
                    let place = (receipt.index, receipt.leaf_hash);
                    if let Some(before) = sent.acknowledged.replace(place) {
                        let what =
                            format!("event {event} was acknowledged twice, before as {before:?}");
                        told.complaints.push(what);
                    }
                }
                Err(e) if e.kind() == ErrorKind::Unavailable => sent.doubts -= 1,
                Err(e) if e.kind() == ErrorKind::Invalid => {
                    sent.doubts -= 1;
                    sent.known = true;
                    if sent.attempts == 1 {
                        let what = format!("event {event} was refused as if it were bad: {e}");
                        told.complaints.push(what);
                    }
                }
                // The store can't be trusted, or it is unknown: it may be there.
                Err(_) => {}
            }
        });
    }

    /// A checkpoint that was found in a state file: the log must never contradict it.
    pub fn remember(&self, note: Vec<u8>) {
        self.with(|told| {
            if !told.remembered.contains(&note) {
                told.remembered.push(note);
            }
        });
    }

    /// Something that must not be.
    pub fn complain(&self, what: impl Into<String>) {
        self.with(|told| told.complaints.push(what.into()));
    }

    /// How many events ended how.
    #[must_use]
    pub fn fates(&self) -> Fates {
        self.with(|told| {
            let mut fates = Fates::default();
            for sent in told.sent.values() {
                match (sent.acknowledged, sent.doubts) {
                    (Some(_), _) => fates.acknowledged += 1,
                    (None, 0) if !sent.known => fates.refused += 1,
                    _ => fates.doubtful += 1,
                }
            }
            fates
        })
    }

    /// An event that was acknowledged, with its index; `pick` chooses.
    #[must_use]
    pub fn acknowledged(&self, pick: u64) -> Option<(Event, u64)> {
        self.some(pick, |sent| sent.acknowledged.is_some())
            .map(|sent| (sent.0, sent.1.unwrap_or_default()))
    }

    /// An event of which nobody was told whether it is there; `pick` chooses.
    #[must_use]
    pub fn doubtful(&self, pick: u64) -> Option<Event> {
        self.some(pick, |sent| {
            sent.acknowledged.is_none() && !sent.known && sent.doubts > 0
        })
        .map(|sent| sent.0)
    }

    fn some(&self, pick: u64, like: impl Fn(&Sent) -> bool) -> Option<(Event, Option<u64>)> {
        self.with(|told| {
            let those: Vec<&Sent> = told.sent.values().filter(|sent| like(sent)).collect();
            let at = pick.checked_rem(those.len() as u64)?;
            let sent = those.get(usize::try_from(at).ok()?)?;
            Some((
                sent.event.clone(),
                sent.acknowledged.map(|(index, _)| index),
            ))
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Told) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Holds a log against what was told of it, and has it verified with every key;
    /// answers with what is wrong. `finished`: every run was closed and published, so nothing may be undecided, and every
    /// event is compared with what was sent.
    pub async fn judge(&self, store: &Arc<dyn Store>, keys: &Keys, finished: bool) -> Vec<String> {
        let snapshot = match Snapshot::of(&**store).await {
            Ok(snapshot) => snapshot,
            Err(e) => return vec![format!("the log can't be read: {e:?}")],
        };
        let mut wrong = self.with(|told| std::mem::take(&mut told.complaints));
        self.compare_rows(&snapshot, &mut wrong);
        if finished {
            self.compare_content(store, keys, &mut wrong).await;
        }
        self.compare_checkpoints(&snapshot, &mut wrong);
        if snapshot.rows.is_empty() && !finished {
            return wrong;
        }
        let verdict = self.verdict(&snapshot, keys, finished);
        let bad = match verdict.outcome() {
            Outcome::Held => false,
            Outcome::Undecided => finished,
            Outcome::Contradicted => true,
        };
        if bad {
            let findings = verdict.findings().iter().map(ToString::to_string);
            let undecided = verdict.undecided().iter().cloned();
            wrong.push(format!(
                "the verdict is {}: {}",
                verdict.exit_code(),
                findings.chain(undecided).collect::<Vec<_>>().join("; ")
            ));
        }
        wrong
    }

    fn verdict(&self, snapshot: &Snapshot, keys: &Keys, finished: bool) -> Verdict {
        let (opened, remembered) = self.with(|told| (told.opened, told.remembered.clone()));
        let last = snapshot.rows.last().map(|row| row.columns.time);
        let policy = Policy {
            vkey: keys.ring.vkey(),
            opened: opened.map(Into::into),
            auditor: Some(keys.auditor.clone()),
            operator: Some(&keys.ring),
            remembered,
            full: finished,
            content: true,
            gap_max: None,
            fresh_within: None,
            unpublished_max: Duration::from_secs(60),
            now: last.unwrap_or(Timestamp::EPOCH),
        };
        verify(snapshot, &policy, &mut ())
    }

    fn compare_rows(&self, snapshot: &Snapshot, wrong: &mut Vec<String>) {
        let mut there: BTreeMap<Uuid, &Row> = BTreeMap::new();
        for row in &snapshot.rows {
            let event = row.columns.event;
            if let Some(before) = there.insert(event, row) {
                wrong.push(format!(
                    "event {event} stands at {} and at {}",
                    before.index, row.index
                ));
            }
        }
        self.with(|told| {
            if let Some(first) = snapshot.rows.first() {
                let leaf: Digest = leaf_hash(&first.entry).into();
                if *told.opened.get_or_insert(leaf) != leaf {
                    wrong.push("the first entry is another than before".to_owned());
                }
            }
            for (event, sent) in &told.sent {
                let row = there.get(event);
                match (sent.acknowledged, row) {
                    (Some((index, leaf)), Some(row)) => {
                        if row.index != index || Digest::from(leaf_hash(&row.entry)) != leaf {
                            wrong.push(format!(
                                "event {event} was acknowledged at {index} with leaf hash {leaf}, and is another or at {}",
                                row.index
                            ));
                        }
                    }
                    (Some((index, _)), None) => {
                        wrong.push(format!("event {event}, acknowledged at {index}, is lost"));
                    }
                    (None, None) if sent.known => {
                        wrong.push(format!("event {event} was said to be there, and isn't"));
                    }
                    (None, Some(row)) if sent.doubts == 0 && !sent.known => {
                        wrong.push(format!(
                            "event {event} was said not to be written, and is at {}",
                            row.index
                        ));
                    }
                    (None, _) => {}
                }
            }
            for (event, row) in &there {
                let own = kinds::ALL.contains(&row.columns.kind.as_str());
                if !own && !told.sent.contains_key(event) {
                    wrong.push(format!("event {event} at {} was never sent", row.index));
                }
            }
        });
    }

    async fn compare_content(&self, store: &Arc<dyn Store>, keys: &Keys, wrong: &mut Vec<String>) {
        let reader = LogReader::new(
            Arc::clone(store) as Arc<dyn ReadStore>,
            Arc::clone(&keys.ring),
        );
        let mut next = 0;
        loop {
            let records = match reader.records(next..u64::MAX).await {
                Ok(records) => records,
                Err(e) => return wrong.push(format!("records from {next} can't be read: {e:?}")),
            };
            if records.is_empty() {
                return;
            }
            next += records.len() as u64;
            self.with(|told| {
                for record in records {
                    let Some(sent) = told.sent.get(&record.entry.event) else {
                        continue;
                    };
                    let same = match &record.content {
                        RecordContent::Open(opened) => opened.event == sent.event,
                        RecordContent::None => {
                            let entry = &record.entry;
                            let bare = Event::new(entry.event, entry.time, entry.kind.clone());
                            bare == sent.event
                        }
                        _ => false,
                    };
                    if !same {
                        wrong.push(format!(
                            "the event at {} isn't read back as it was sent",
                            record.index
                        ));
                    }
                }
            });
        }
    }

    fn compare_checkpoints(&self, snapshot: &Snapshot, wrong: &mut Vec<String>) {
        self.with(|told| {
            for (size, note) in &told.checkpoints {
                if !snapshot
                    .checkpoints
                    .iter()
                    .any(|(s, n)| s == size && n == note)
                {
                    wrong.push(format!(
                        "the checkpoint of {size} entries is gone or another"
                    ));
                }
            }
            told.checkpoints
                .extend(snapshot.checkpoints.iter().cloned());
        });
    }
}
