//! Where records go: into the log; while it can't be written, what the operator decided.
//!
//! Every record of a gateway has a number, so that one that is missing shows: an outage ends with a record of the numbers
//! that are not in the log, and why.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::event::{Capture, Event, Guarantee, Kind};
use audit_core::log::{Log, Receipt};
use audit_core::time::Timestamp;
use audit_core::{ErrorKind, with_causes};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use uuid::Uuid;

use crate::config::Limits;
use crate::counters::{Counters, up};
use crate::exchange::stopped;
use crate::report::{Notice, Reporter, Severity};
use crate::spool::{Keeping, Spool, SpoolFile};

/// How long one attempt of recovering may wait for the log.
const ATTEMPT: Duration = Duration::from_secs(30);

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The log works, and doesn't take this record.
const RECORD_REFUSED: &str = "record_refused";

/// Ranges of numbers that one record lists; further ones are merged with their neighbours, and it says so.
const RANGES_MAX: usize = 1000;

/// An append that goes on.
pub(crate) type Append = Pin<Box<dyn Future<Output = audit_core::Result<Receipt>> + Send>>;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Log,
    Spool,
    /// Nowhere, as the operator allowed; that it is missing will be recorded.
    Nowhere,
}

/// Why a call that needs the record can't go on.
pub(crate) enum Trouble {
    Failed(audit_core::Error),
    /// The log doesn't answer; the record may still land.
    Late(Append),
}

/// The one way of a gateway's records into its log.
pub(crate) struct Sink {
    log: Log,
    producer: Uuid,
    /// The number of the next record.
    next: AtomicU64,
    append_timeout: Duration,
    degrade_after: Duration,
    spool: Option<Arc<Mutex<Spool>>>,
    left: Mutex<VecDeque<SpoolFile>>,
    outage: Mutex<Option<Outage>>,
    counters: Arc<Counters>,
    reporter: Arc<dyn Reporter>,
    wake: Notify,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink")
            .field("producer", &self.producer)
            .finish_non_exhaustive()
    }
}

/// A time in which the log could not be written.
struct Outage {
    from: Timestamp,
    reason: &'static str,
    /// The log is down: others needn't try it before it has been found to work. Else only this record was refused.
    down: bool,
    /// The record of its beginning, if that could be kept.
    begun: Option<Uuid>,
    ledger: Ledger,
    /// Id and number of the record of its end.
    ending: Option<(Uuid, u64)>,
    /// That record, and what it says, while nobody knows that it isn't in the log.
    tried: Option<(Arc<Event>, Ledger)>,
}

/// What became of records that are not in the log.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Ledger {
    missed: u64,
    refused: u64,
    spooled: u64,
    absent: Vec<(u64, u64)>,
    merged: bool,
}

impl Ledger {
    fn absent(&mut self, number: u64) {
        let at = self.absent.partition_point(|(_, last)| *last < number);
        let before = at
            .checked_sub(1)
            .and_then(|at| self.absent.get(at))
            .copied();
        let behind = self.absent.get(at).copied();
        let joins_before = before.is_some_and(|(_, last)| last + 1 == number);
        let joins_behind = behind.is_some_and(|(first, _)| number + 1 == first);
        match (before, behind) {
            (_, Some((first, last))) if (first..=last).contains(&number) => {}
            (Some((first, _)), Some((_, last))) if joins_before && joins_behind => {
                self.absent.remove(at);
                self.absent[at - 1] = (first, last);
            }
            (Some((first, _)), _) if joins_before => self.absent[at - 1] = (first, number),
            (_, Some((_, last))) if joins_behind => self.absent[at] = (number, last),
            _ => self.absent.insert(at, (number, number)),
        }
        if self.absent.len() > RANGES_MAX
            && let Some((_, last)) = self.absent.pop()
            && let Some(end) = self.absent.last_mut()
        {
            end.1 = last;
            self.merged = true;
        }
    }

    fn add(&mut self, other: Self) {
        self.missed += other.missed;
        self.refused += other.refused;
        self.spooled += other.spooled;
        self.merged |= other.merged;
        let mut all = std::mem::take(&mut self.absent);
        all.extend(other.absent);
        all.sort_unstable();
        for (first, last) in all {
            match self.absent.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => self.absent.push((first, last)),
            }
        }
    }

    /// A record that was given up for missing has landed after all.
    fn present(&mut self, number: u64) {
        let Some(at) = self
            .absent
            .iter()
            .position(|(first, last)| (*first..=*last).contains(&number))
        else {
            return;
        };
        let (first, last) = self.absent.remove(at);
        if number < last {
            self.absent.insert(at, (number + 1, last));
        }
        if first < number {
            self.absent.insert(at, (first, number - 1));
        }
        self.missed = self.missed.saturating_sub(1);
    }
}

/// What a record that isn't in the log counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    /// Its call went on.
    Missed,
    /// Its call did not.
    Refused,
}

impl Sink {
    pub(crate) fn new(
        log: Log,
        limits: &Limits,
        spool: Option<(Spool, Vec<SpoolFile>)>,
        producer: Uuid,
        counters: Arc<Counters>,
        reporter: Arc<dyn Reporter>,
    ) -> Self {
        let (spool, left) = spool.unzip();
        Self {
            log,
            producer,
            next: AtomicU64::new(1),
            append_timeout: limits.append_timeout,
            degrade_after: limits.degrade_after,
            spool: spool.map(|spool| Arc::new(Mutex::new(spool))),
            left: Mutex::new(left.unwrap_or_default().into()),
            outage: Mutex::default(),
            counters,
            reporter,
            wake: Notify::new(),
        }
    }

    /// Gives a record its number. From here on it is in the log, or the record of an outage says that it isn't.
    pub(crate) fn numbered(&self, event: Event) -> Arc<Event> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Arc::new(self.with_number(event, number))
    }

    fn with_number(&self, mut event: Event, number: u64) -> Event {
        let mut set = |name: &str, value: Value| event.attributes.insert(name.to_owned(), value);
        set("audit.producer.id", json!(self.producer.to_string()));
        set("audit.producer.number", json!(number));
        event
    }

    /// Records an event, or does what `guarantee` allows instead. Of one that can't be kept so, the caller says what
    /// becomes of it: that it is [`absent`](Self::absent), or that it is tried again.
    pub(crate) async fn take(
        self: &Arc<Self>,
        event: &Arc<Event>,
        guarantee: Guarantee,
    ) -> Result<Kept, Trouble> {
        match guarantee {
            Guarantee::Open => self.take_open(event).await,
            Guarantee::Spool => self.take_spool(event).await,
            Guarantee::Closed | Guarantee::None => self.take_closed(event).await,
        }
    }

    async fn take_closed(self: &Arc<Self>, event: &Arc<Event>) -> Result<Kept, Trouble> {
        self.append(event, self.append_timeout).await?;
        Ok(Kept::Log)
    }

    async fn take_open(self: &Arc<Self>, event: &Arc<Event>) -> Result<Kept, Trouble> {
        if self.is_degraded() {
            self.absent(event, Absent::Missed, "log_unavailable").await;
            return Ok(Kept::Nowhere);
        }
        match self.append(event, self.degrade_after).await {
            Ok(()) => Ok(Kept::Log),
            Err(Trouble::Failed(error)) => {
                self.absent(event, Absent::Missed, reason(&error)).await;
                Ok(Kept::Nowhere)
            }
            Err(Trouble::Late(append)) => {
                self.absent(event, Absent::Missed, "log_late").await;
                let (this, number) = (Arc::clone(self), number(event));
                tokio::spawn(async move {
                    if append.await.is_ok()
                        && let Some(outage) = &mut *this.outage()
                    {
                        outage.ledger.present(number);
                    }
                });
                Ok(Kept::Nowhere)
            }
        }
    }

    async fn take_spool(self: &Arc<Self>, event: &Arc<Event>) -> Result<Kept, Trouble> {
        // What waits comes first, so that the order stays.
        if !self.is_degraded() {
            match self.append(event, self.degrade_after).await {
                Ok(()) => return Ok(Kept::Log),
                Err(Trouble::Failed(error)) if error.kind() == ErrorKind::Invalid => {
                    return Err(Trouble::Failed(error));
                }
                // If it lands after all, draining finds it there.
                Err(Trouble::Failed(error)) => self.begin(reason(&error)).await,
                Err(Trouble::Late(_)) => self.begin("log_late").await,
            }
        }
        match self.keep(Arc::clone(event)).await {
            Ok(()) => {
                if let Some(outage) = &mut *self.outage() {
                    outage.ledger.spooled += 1;
                }
                up(&self.counters.spooled);
                self.wake.notify_one();
                Ok(Kept::Spool)
            }
            Err(error) => Err(Trouble::Failed(error)),
        }
    }

    async fn append(&self, event: &Arc<Event>, patience: Duration) -> Result<(), Trouble> {
        let mut append: Append = {
            let (log, event) = (self.log.clone(), Arc::clone(event));
            Box::pin(async move { log.append(event).await })
        };
        match timeout(patience, &mut append).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Trouble::Failed(error)),
            Err(_) => Err(Trouble::Late(append)),
        }
    }

    /// Seals an event into the spool; durable on return.
    async fn keep(&self, event: Arc<Event>) -> audit_core::Result<()> {
        let unavailable = |what: &str| audit_core::Error::unavailable(what.to_owned());
        let Some(spool) = self.spool.clone() else {
            return Err(unavailable("there is no spool"));
        };
        let log = self.log.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let mut spool = spool.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = event.payloads.iter().map(|p| p.bytes.len()).sum();
            let failed =
                |e| audit_core::Error::unavailable("the spool can't be written").because(e);
            let Some(context) = spool.next(bytes).map_err(failed)? else {
                return Ok(Keeping::Full);
            };
            let sealed = log.set_aside(event, &context)?;
            spool.keep(&sealed).map_err(failed)
        })
        .await
        .map_err(|_e| unavailable("the runtime was stopped"))??;
        match kept {
            Keeping::Kept => Ok(()),
            Keeping::Full => Err(unavailable("the spool is full")),
        }
    }

    /// Whether an outage goes on, as far as is known.
    pub(crate) fn is_degraded(&self) -> bool {
        self.outage().as_ref().is_some_and(|outage| outage.down)
    }

    fn is_owing(&self) -> bool {
        self.outage().is_some()
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a numbered record is not in the log, and won't be.
    pub(crate) async fn absent(&self, event: &Event, what: Absent, reason: &'static str) {
        self.begin(reason).await;
        if let Some(outage) = &mut *self.outage() {
            match what {
                Absent::Missed => outage.ledger.missed += 1,
                Absent::Refused => outage.ledger.refused += 1,
            }
            outage.ledger.absent(number(event));
        }
        if what == Absent::Missed {
            up(&self.counters.missed);
        }
        self.wake.notify_one();
    }

    /// An outage begins, if none goes on: said to the operator, and kept on disk where there is a spool, so that it is
    /// recorded even if this process dies in it.
    async fn begin(&self, reason: &'static str) {
        let from = self.log.clock().now();
        let down = reason != RECORD_REFUSED;
        {
            let mut outage = self.outage();
            if let Some(outage) = outage.as_mut() {
                outage.down |= down;
                return;
            }
            *outage = Some(Outage {
                from,
                reason,
                down,
                begun: None,
                ledger: Ledger::default(),
                ending: None,
                tried: None,
            });
        }
        self.report(
            Severity::Error,
            "capture_degraded",
            format!("records can't be written: {reason}"),
        );
        if self.spool.is_none() {
            return;
        }
        let mut event = self.degraded(from, reason);
        event
            .attributes
            .insert("audit.phase".to_owned(), json!("begun"));
        let event = self.numbered(event);
        let (id, number) = (event.id, number(&event));
        let kept = self.keep(event).await.is_ok();
        if let Some(outage) = &mut *self.outage() {
            if kept {
                outage.begun = Some(id);
            } else {
                outage.ledger.absent(number);
            }
        }
    }

    fn degraded(&self, from: Timestamp, reason: &str) -> Event {
        let now = self.log.clock().now();
        let kind = Kind::new("log.capture_degraded").expect("the name follows the rule");
        let mut event = Event::new(self.log.ids().uuid_v7(now), now, kind);
        event.capture = Some(Capture {
            component: "audit-gateway".to_owned(),
            guarantee: Guarantee::None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        let mut set = |name: &str, value: Value| event.attributes.insert(name.to_owned(), value);
        set("audit.reason", json!(reason));
        set("audit.time.from", json!(from.to_string()));
        event
    }

    /// The record of an outage's end: what is missing, and why.
    fn ending(&self) -> Option<Arc<Event>> {
        let mut outage = self.outage();
        let outage = outage.as_mut()?;
        if let Some((event, _)) = &outage.tried {
            return Some(Arc::clone(event));
        }
        let ledger = std::mem::take(&mut outage.ledger);
        let mut event = self.degraded(outage.from, outage.reason);
        if let Some(begun) = outage.begun {
            event.correlation.get_or_insert_default().parent_event = Some(begun);
        }
        let mut set = |name: &str, value: Value| event.attributes.insert(name.to_owned(), value);
        set("audit.phase", json!("ended"));
        set("audit.time.to", json!(self.log.clock().now().to_string()));
        set("audit.count.missed", json!(ledger.missed));
        set("audit.count.refused", json!(ledger.refused));
        set("audit.count.spooled", json!(ledger.spooled));
        let ranges: Vec<Value> = ledger.absent.iter().map(|r| json!([r.0, r.1])).collect();
        set("audit.producer.absent", Value::Array(ranges));
        if ledger.merged {
            set("audit.producer.absent_merged", json!(true));
        }
        let event = match outage.ending {
            // An attempt that certainly left nothing gives its id and number to the next.
            Some((id, number)) => {
                event.id = id;
                Arc::new(self.with_number(event, number))
            }
            None => self.numbered(event),
        };
        outage.ending = Some((event.id, number(&event)));
        outage.tried = Some((Arc::clone(&event), ledger));
        Some(event)
    }

    /// Tries to record an outage's end; says whether it is in the log.
    async fn end(&self, event: Arc<Event>) -> bool {
        // An append whose outcome was lost may have been durable all the same.
        if matches!(self.log.reader().position(event.id).await, Ok(Some(_))) {
            return true;
        }
        match timeout(ATTEMPT, self.log.append(event)).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) if error.kind() == ErrorKind::Unavailable => {
                // Nothing was written; the next attempt says what is known then.
                if let Some(outage) = &mut *self.outage()
                    && let Some((_, ledger)) = outage.tried.take()
                {
                    outage.ledger.add(ledger);
                }
                false
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Brings what waits into the log whenever it can be written again, until the gateway ends.
    pub(crate) async fn recover(self: Arc<Self>, mut ended: watch::Receiver<bool>) {
        if !self.left().is_empty() {
            self.wake.notify_one();
        }
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = stopped(&mut ended) => return,
            }
            let mut pause = Duration::from_millis(200);
            while !self.recovered().await {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stopped(&mut ended) => return,
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// One attempt; says whether nothing waits any more.
    async fn recovered(&self) -> bool {
        // A record may come into the spool in the moment in which an outage ends; nobody would come for it any more.
        while self.is_owing() || self.waiting() > 0 || !self.left().is_empty() {
            if !self.drain_left().await || !self.drain_own().await {
                return false;
            }
            let Some(ending) = self.ending() else {
                continue;
            };
            if !self.end(ending).await {
                return false;
            }
            let waiting = self.waiting();
            let mut outage = self.outage();
            if let Some(now) = outage.as_mut() {
                now.ending = None;
                now.tried = None;
                if now.ledger == Ledger::default() && waiting == 0 {
                    *outage = None;
                    drop(outage);
                    self.counters.log_failing.store(false, Ordering::Relaxed);
                    self.report(
                        Severity::Warning,
                        "capture_recovered",
                        "records are written again, and the log says what is missing".to_owned(),
                    );
                }
            }
        }
        true
    }

    /// The files of gateways that died.
    async fn drain_left(&self) -> bool {
        loop {
            let Some(mut file) = self.left().pop_front() else {
                return true;
            };
            let mut first = true;
            loop {
                let (sealed, context) = match file.peek() {
                    Ok(Some(record)) => record,
                    Ok(None) => break,
                    Err(error) => {
                        self.spool_trouble(&error);
                        self.left().push_front(file);
                        return false;
                    }
                };
                let restored = self.restore(&sealed, &context).await;
                let opened = matches!(restored, Restored::There);
                match restored {
                    // Not of this log, it seems: its owner will need it.
                    Restored::Never if first => {
                        self.report(
                            Severity::Error,
                            "spool_foreign",
                            format!("{} is of another log and stays", file.path().display()),
                        );
                        return true;
                    }
                    Restored::There | Restored::Never => {}
                    Restored::NotNow => {
                        self.left().push_front(file);
                        return false;
                    }
                }
                if let Err(error) = file.advance(opened) {
                    self.spool_trouble(&error);
                    self.left().push_front(file);
                    return false;
                }
                first = false;
            }
            self.report(
                Severity::Warning,
                "spool_drained",
                format!(
                    "{} records that another process left in {} were brought into the log",
                    file.records(),
                    file.path().display()
                ),
            );
            if let Err(error) = file.finish() {
                self.spool_trouble(&error);
            }
        }
    }

    async fn drain_own(&self) -> bool {
        let Some(spool) = &self.spool else {
            return true;
        };
        loop {
            // A record may be large, and the disk slow.
            let peeking = {
                let spool = Arc::clone(spool);
                tokio::task::spawn_blocking(move || {
                    spool.lock().unwrap_or_else(PoisonError::into_inner).peek()
                })
            };
            let (sealed, context) = match peeking.await {
                Ok(Ok(Some(record))) => record,
                Ok(Ok(None)) => return true,
                Ok(Err(error)) => {
                    self.spool_trouble(&error);
                    return false;
                }
                // The runtime is going away.
                Err(_) => return false,
            };
            let opened = match self.restore(&sealed, &context).await {
                Restored::There => true,
                Restored::Never => false,
                Restored::NotNow => return false,
            };
            let mut spool = spool.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = spool.drained(opened) {
                self.spool_trouble(&error);
                return false;
            }
        }
    }

    async fn restore(&self, sealed: &[u8], context: &[u8]) -> Restored {
        match timeout(ATTEMPT, self.log.restore(sealed, context)).await {
            Ok(Ok(_)) => Restored::There,
            Ok(Err(error)) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid) => {
                self.report(
                    Severity::Error,
                    "spool_damaged",
                    format!("a spooled record is lost: {}", with_causes(&error)),
                );
                Restored::Never
            }
            Ok(Err(_)) | Err(_) => Restored::NotNow,
        }
    }

    /// Records in this gateway's own spool.
    fn waiting(&self) -> u64 {
        self.spool.as_ref().map_or(0, |spool| {
            spool
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .waiting()
        })
    }

    /// A last attempt, behind the last exchange. What can't be recorded now is kept for the next start, if there is a
    /// spool; the answer says how many records wait there.
    pub(crate) async fn finish(&self, patience: Duration) -> u64 {
        if timeout(patience, self.recovered()).await == Ok(true) {
            return 0;
        }
        if let Some(ending) = self.ending()
            && let Err(error) = self.keep(ending).await
        {
            self.report(
                Severity::Error,
                "gap_unrecorded",
                format!("what is missing could not be recorded: {error}"),
            );
        }
        self.waiting()
    }

    fn left(&self) -> MutexGuard<'_, VecDeque<SpoolFile>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spool_trouble(&self, error: &std::io::Error) {
        self.report(
            Severity::Error,
            "spool_failed",
            format!("the spool can't be read: {error}"),
        );
    }

    fn report(&self, severity: Severity, code: &'static str, message: String) {
        self.reporter.report(&Notice {
            severity,
            code,
            message,
            request: None,
        });
    }
}

/// What came of bringing one record into the log.
enum Restored {
    There,
    NotNow,
    Never,
}

/// Why a record is not in the log, in one word.
pub(crate) fn reason(error: &audit_core::Error) -> &'static str {
    match error.kind() {
        ErrorKind::Invalid => RECORD_REFUSED,
        _ => "log_unavailable",
    }
}

/// The number of a record that has one.
fn number(event: &Event) -> u64 {
    event
        .attributes
        .get("audit.producer.number")
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_that_are_absent_are_listed_otherwise_than_one_by_one() {
        // Every order of a small set, with some landing after all.
        for seed in 0..2000_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = move |n: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % n
            };
            let (mut ledger, mut oracle) = (Ledger::default(), BTreeSet::new());
            for _ in 0..40 {
                let number = random(20) + 1;
                if random(4) == 0 {
                    ledger.present(number);
                    oracle.remove(&number);
                } else {
                    ledger.absent(number);
                    oracle.insert(number);
                }
                let listed: Vec<u64> = ledger.absent.iter().flat_map(|r| r.0..=r.1).collect();
                assert_eq!(listed, oracle.iter().copied().collect::<Vec<_>>());
                let apart = ledger.absent.windows(2).all(|w| w[0].1 + 1 < w[1].0);
                assert!(apart, "neighbours are not joined: {:?}", ledger.absent);
            }
        }
    }

    #[test]
    fn a_list_of_numbers_grows_without_bound() {
        let mut ledger = Ledger::default();
        for number in 0..10_000 {
            ledger.absent(number * 2 + 1);
        }
        assert_eq!(ledger.absent.len(), RANGES_MAX);
        assert!(ledger.merged);
        assert_eq!(ledger.absent.last().unwrap().1, 19_999);
    }
}
