//! Legal holds and longer retention, each act recorded in the log.
//!
//! An act is recorded twice: as *requested* before it begins, and with its outcome when it has ended. So nothing is locked
//! or let go that the log doesn't know of, and the log never says that something is held before it is. A request without an
//! outcome says that nobody knows how far it got: the process died, or the log could not be written. What is held then,
//! the store says ([`Locks::not_held`]), and the act can be repeated.

use std::collections::BTreeMap;

use audit_core::event::{Actor, ActorKind, Capture, Correlation, Event, Guarantee, Kind};
use audit_core::log::{Log, Receipt};
use audit_core::reader::{Filter, LogReader, RecordContent};
use audit_core::time::Timestamp;
use audit_core::{Error, Result};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::locks::{Locks, Released};

const HOLD_SET: &str = "log.legal_hold_set";
const HOLD_RELEASED: &str = "log.legal_hold_released";
const RETENTION_APPLIED: &str = "log.retention_applied";
const REQUESTED: &str = "requested";
const SUCCESS: &str = "success";
const FAILURE: &str = "failure";
/// Matches that are looked up at once.
const PAGE: usize = 10_000;

/// A legal hold that is in force as the log's records say: it was asked for, and no release of it went through.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hold {
    /// Which one.
    pub id: Uuid,
    /// The session whose entries it is on.
    pub session: String,
    /// The store whose objects are held.
    pub place: String,
    /// Who set it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it was asked for.
    pub since: Timestamp,
    /// Setting it went through. If not, nobody recorded how far it got.
    pub confirmed: bool,
    /// A release was asked for, and nobody recorded that it went through.
    pub release_requested: bool,
}

/// A hold that was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HoldSet {
    /// Which one.
    pub id: Uuid,
    /// Entries of the session.
    pub entries: u64,
    /// Objects that they lie in; other entries in these are held with them.
    pub objects: u64,
}

/// Holds that were released.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HoldsReleased {
    /// Which ones.
    pub holds: Vec<Hold>,
    /// What became of their objects.
    pub objects: Released,
}

/// A retention that was extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extended {
    /// Entries in the store when it began.
    pub entries: u64,
    /// Objects that are locked for longer now.
    pub objects: u64,
}

/// Every match below a size.
async fn find(reader: &LogReader, filter: &Filter, size: u64) -> Result<Vec<u64>> {
    let mut indexes: Vec<u64> = Vec::new();
    loop {
        let next = indexes.last().map_or(0, |last| last + 1);
        let page = reader.find(filter, next..size, false, PAGE).await?;
        let more = page.len() == PAGE;
        indexes.extend(page);
        if !more {
            return Ok(indexes);
        }
    }
}

/// The entries of a session that the store behind `reader` has, by their index.
async fn of_session(reader: &LogReader, session: &str) -> Result<Vec<u64>> {
    let filter = Filter {
        session: Some(session.to_owned()),
        ..Filter::default()
    };
    find(reader, &filter, reader.size().await?).await
}

/// The legal holds that are in force, as the log's records say, in the order in which they were asked for.
///
/// Records are claims of whoever could write to the log. What is held in truth, the store says.
///
/// # Errors
///
/// What the store says; [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if the record of a hold can't be read, since
/// what it holds is then not known.
pub async fn holds(reader: &LogReader) -> Result<Vec<Hold>> {
    let size = reader.size().await?;
    let mut indexes = Vec::new();
    for kind in [HOLD_SET, HOLD_RELEASED] {
        let filter = Filter {
            kind: Some(Kind::new(kind)?),
            ..Filter::default()
        };
        indexes.extend(find(reader, &filter, size).await?);
    }
    indexes.sort_unstable();
    let mut holds: BTreeMap<Uuid, (u64, Hold)> = BTreeMap::new();
    for index in indexes {
        let record = reader.record(index).await?;
        let RecordContent::Open(opened) = record.content else {
            return Err(Error::corrupt("the record of a legal hold can't be read").at(index));
        };
        let event = opened.event;
        let text = |name: &str| event.attributes.get(name).and_then(Value::as_str);
        // A record that somebody made by other means may be of another form; it holds nothing here.
        let Some(id) = text("audit.hold.id").and_then(|id| id.parse::<Uuid>().ok()) else {
            continue;
        };
        let outcome = text("audit.outcome").unwrap_or_default();
        if event.kind.as_str() == HOLD_RELEASED {
            if outcome == SUCCESS {
                holds.remove(&id);
            } else if let Some((_, hold)) = holds.get_mut(&id) {
                hold.release_requested = true;
            }
            continue;
        }
        if let Some((_, hold)) = holds.get_mut(&id) {
            hold.confirmed |= outcome == SUCCESS;
            continue;
        }
        let (Some(session), Some(place)) = (text("audit.hold.session"), text("audit.hold.store"))
        else {
            continue;
        };
        let hold = Hold {
            id,
            session: session.to_owned(),
            place: place.to_owned(),
            by: text("audit.approver").unwrap_or_default().to_owned(),
            reason: text("audit.reason").unwrap_or_default().to_owned(),
            since: event.time,
            confirmed: outcome == SUCCESS,
            release_requested: false,
        };
        holds.insert(id, (index, hold));
    }
    let mut holds: Vec<_> = holds.into_values().collect();
    holds.sort_unstable_by_key(|(index, _)| *index);
    Ok(holds.into_iter().map(|(_, hold)| hold).collect())
}

/// One act, of which the request and the outcome are recorded.
struct Act<'a> {
    log: &'a Log,
    kind: &'static str,
    by: &'a str,
    reason: &'a str,
    /// What both records say.
    attributes: Map<String, Value>,
    hold: Option<Uuid>,
}

impl Act<'_> {
    async fn record(
        &self,
        outcome: &str,
        more: impl IntoIterator<Item = (&'static str, Value)>,
        request: Option<Uuid>,
    ) -> Result<Receipt> {
        let now = self.log.clock().now();
        let mut event = Event::new(self.log.ids().uuid_v7(now), now, Kind::new(self.kind)?);
        event.actor = Some(Actor::new(ActorKind::Human, self.by));
        event.attributes.clone_from(&self.attributes);
        for (name, value) in [
            ("audit.approver", json!(self.by)),
            ("audit.reason", json!(self.reason)),
            ("audit.outcome", json!(outcome)),
        ]
        .into_iter()
        .chain(more)
        {
            event.attributes.insert(name.to_owned(), value);
        }
        if let Some(hold) = self.hold {
            event.refs.insert("hold_id".to_owned(), hold.to_string());
        }
        event.correlation = request.map(|request| Correlation {
            parent_event: Some(request),
            ..Correlation::default()
        });
        event.capture = Some(Capture {
            component: "audit-tracer".to_owned(),
            guarantee: Guarantee::Closed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        self.log.append(event).await
    }

    /// Records that the act failed, as far as that is possible.
    async fn failed(&self, e: &Error, request: Uuid) {
        let why = format!("{:?}", e.kind()).to_lowercase();
        // The log says *requested* in any case; the error of the act is the one to be told.
        drop(
            self.record(FAILURE, [("error.type", json!(why))], Some(request))
                .await,
        );
    }
}

fn attributes<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn range(indexes: &[u64]) -> [(&'static str, Value); 3] {
    [
        ("audit.range.first", json!(indexes.first())),
        ("audit.range.last", json!(indexes.last())),
        ("audit.count.entries", json!(indexes.len())),
    ]
}

impl Locks {
    /// Puts a legal hold on every entry that a session has, and records it in `log`. `store` reads the store that is
    /// locked: the log's own, or a copy of it.
    ///
    /// Entries that the session gets later are not held; setting another hold covers them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if the session has no entry; else as store and log say. The log
    /// then says that it was asked for, and some objects may be held.
    pub async fn set_hold(
        &self,
        log: &Log,
        store: &LogReader,
        session: &str,
        by: &str,
        reason: &str,
    ) -> Result<HoldSet> {
        if of_session(store, session).await?.is_empty() {
            return Err(Error::not_found("the session has no entries in this store"));
        }
        let id = log.ids().uuid_v7(log.clock().now());
        let act = Act {
            log,
            kind: HOLD_SET,
            by,
            reason,
            attributes: attributes([
                ("audit.hold.id", json!(id)),
                ("audit.hold.session", json!(session)),
                ("audit.hold.store", json!(self.place())),
            ]),
            hold: Some(id),
        };
        let request = act.record(REQUESTED, [], None).await?.event;
        // Dying from here on: the log says that the hold was asked for, not that it is there. It counts as in force, so
        // that no release of another one takes off what it may hold.
        let done = async {
            let indexes = of_session(store, session).await?;
            let objects = self.hold(&indexes).await?;
            Ok((indexes, objects))
        };
        let (indexes, objects) = match done.await {
            Ok(done) => done,
            Err(e) => {
                act.failed(&e, request).await;
                return Err(e);
            }
        };
        // Dying here: all is held, and the log says only that it was asked for.
        let more = range(&indexes)
            .into_iter()
            .chain([("audit.count.objects", json!(objects))]);
        act.record(SUCCESS, more, Some(request)).await?;
        Ok(HoldSet {
            id,
            entries: indexes.len() as u64,
            objects,
        })
    }

    /// Releases the holds that `which` picks of those in force, and records it in `log`. Objects in which entries under
    /// another hold lie stay held.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if it picks none, [`ErrorKind::Invalid`](crate::ErrorKind::Invalid)
    /// if it picks one of another store; else as store and log say. The log then says that the release was asked for; the
    /// holds are in force, and some of their objects may not be held any more.
    pub async fn release_holds(
        &self,
        log: &Log,
        store: &LogReader,
        which: impl Fn(&Hold) -> bool + Send + Sync,
        by: &str,
        reason: &str,
    ) -> Result<HoldsReleased> {
        let (chosen, others): (Vec<Hold>, Vec<Hold>) =
            holds(&log.reader()).await?.into_iter().partition(&which);
        if chosen.is_empty() {
            return Err(Error::not_found("no such legal hold is in force"));
        }
        if let Some(hold) = chosen.iter().find(|hold| hold.place != self.place()) {
            return Err(Error::invalid(format!(
                "legal hold {} is on {}, not on {}",
                hold.id,
                hold.place,
                self.place()
            )));
        }
        let mut acts = Vec::new();
        for hold in &chosen {
            let act = Act {
                log,
                kind: HOLD_RELEASED,
                by,
                reason,
                attributes: attributes([
                    ("audit.hold.id", json!(hold.id)),
                    ("audit.hold.session", json!(hold.session)),
                    ("audit.hold.store", json!(hold.place)),
                ]),
                hold: Some(hold.id),
            };
            let request = act.record(REQUESTED, [], None).await?.event;
            acts.push((act, request));
        }
        // Dying from here on: the log says that a release was asked for. The holds count as in force, and what isn't held
        // any more shows in the store; releasing again ends it.
        let done = self.release_all(log, store, &chosen, &others).await;
        let (indexes, objects) = match done {
            Ok(done) => done,
            Err(e) => {
                for (act, request) in &acts {
                    act.failed(&e, *request).await;
                }
                return Err(e);
            }
        };
        for (act, request) in &acts {
            let more = range(&indexes).into_iter().chain([
                ("audit.count.objects", json!(objects.released)),
                ("audit.count.objects_kept", json!(objects.kept)),
            ]);
            // Dying before the last of these: nothing is held by these holds any more, and the log says so of some.
            act.record(SUCCESS, more, Some(*request)).await?;
        }
        Ok(HoldsReleased {
            holds: chosen,
            objects,
        })
    }

    async fn release_all(
        &self,
        log: &Log,
        store: &LogReader,
        chosen: &[Hold],
        others: &[Hold],
    ) -> Result<(Vec<u64>, Released)> {
        let indexes = of_sessions(store, chosen).await?;
        // Of every store: that a hold is on another one is what a URL says, and two URLs can name one bucket.
        let keep = of_sessions(store, others).await?;
        let objects = self.take_off(&indexes, &keep).await?;
        // A hold that came meanwhile was asked for before it was set, and may have been undone here.
        let now = holds(&log.reader()).await?.into_iter();
        let new: Vec<Hold> = now
            .filter(|hold| !chosen.iter().chain(others).any(|known| known.id == hold.id))
            .collect();
        if !new.is_empty() {
            self.hold(&of_sessions(store, &new).await?).await?;
        }
        Ok((indexes, objects))
    }

    /// Locks every object of the store at least until `until`, and records it in `log`. Nothing is ever locked for a
    /// shorter time than before; what is written meanwhile or later, the records of this act too, is locked as long as
    /// the log was made to. `entries` is how many the store has.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the time is past; else as store and log say. The log then says
    /// that it was asked for, and some objects may be locked for longer.
    pub async fn extend_retention(
        &self,
        log: &Log,
        entries: u64,
        until: Timestamp,
        by: &str,
        reason: &str,
    ) -> Result<Extended> {
        if until <= log.clock().now() {
            return Err(Error::invalid(format!(
                "{until} is past, nothing can be locked until then"
            )));
        }
        let act = Act {
            log,
            kind: RETENTION_APPLIED,
            by,
            reason,
            attributes: attributes([
                ("audit.retention_until", json!(until)),
                ("audit.retention_store", json!(self.place())),
            ]),
            hold: None,
        };
        let request = act.record(REQUESTED, [], None).await?.event;
        // Dying from here on: the log says that it was asked for, and some objects may be locked for longer.
        let objects = match self.lock_until(until).await {
            Ok(objects) => objects,
            Err(e) => {
                act.failed(&e, request).await;
                return Err(e);
            }
        };
        let more = [
            ("audit.range.first", json!(0)),
            ("audit.range.last", json!(entries.checked_sub(1))),
            ("audit.count.entries", json!(entries)),
            ("audit.count.objects", json!(objects)),
        ];
        act.record(SUCCESS, more, Some(request)).await?;
        Ok(Extended { entries, objects })
    }

    /// The entries that a hold is meant for, and those of them that aren't held.
    ///
    /// # Errors
    ///
    /// As the store says.
    pub async fn coverage(&self, store: &LogReader, hold: &Hold) -> Result<(u64, Vec<u64>)> {
        let indexes = of_session(store, &hold.session).await?;
        let not_held = self.not_held(&indexes).await?;
        Ok((indexes.len() as u64, not_held))
    }
}

async fn of_sessions(store: &LogReader, holds: &[Hold]) -> Result<Vec<u64>> {
    let mut sessions: Vec<&str> = holds.iter().map(|hold| hold.session.as_str()).collect();
    sessions.sort_unstable();
    sessions.dedup();
    let mut indexes = Vec::new();
    for session in sessions {
        indexes.extend(of_session(store, session).await?);
    }
    indexes.sort_unstable();
    Ok(indexes)
}
