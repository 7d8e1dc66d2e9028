//! Appending: the number decides.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use audit_core::store::{Batch, Build, Head};
use audit_core::{Error, ErrorKind, Result};
use audit_tlog::hash::leaf_hash;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use crate::batch::{self, Frame, Header};
use crate::bucket::Created;
use crate::log_object::LogObject;
use crate::names;
use crate::shared::Shared;
use crate::side::Side;

/// Batches whose event ids are kept in memory.
const WINDOW: usize = 64;
/// Lost races after which an append gives up.
const RACES_MAX: u32 = 100;

/// Lost races after which the end is looked for.
const PROBE_AFTER: u32 = 4;
/// Every so many batches a writer that never pauses looks whether somebody else tries.
const LOOK_EVERY: u64 = 4;
/// For how long a writer that met others reckons with them.
const COMPANY: Duration = Duration::from_secs(2);
/// The longest pause for the sake of others; a batch that took longer wasn't slow because of them.
const GIVE_WAY_MAX: Duration = Duration::from_millis(500);

/// What the writer of this process knows; one append at a time.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    end: Option<End>,
    window: Window,
    /// Batches of others behind the window whose side packs weren't read yet, and the greatest event id before each.
    late: Vec<(Arc<Header>, [u8; 16])>,
    /// When a race was lost last.
    met: Option<Instant>,
    /// How often it gave way since then, or since it looked.
    given: u32,
    /// The batch that was written last.
    won: Option<Won>,
    /// The number of a batch that may or may not stand there.
    pending: Option<u64>,
}

/// A batch that was written.
#[derive(Debug, Clone, Copy)]
struct Won {
    number: u64,
    at: Instant,
    /// How long the attempt that won took.
    took: Duration,
}

/// Where the next batch goes.
#[derive(Debug, Clone)]
struct End {
    next: u64,
    head: Head,
    /// SHA-256 of the object before.
    previous: [u8; 32],
    event_max: [u8; 16],
}

/// The ids of the last batches.
#[derive(Debug, Default)]
struct Window {
    /// From the oldest on, without a gap, up to the end.
    batches: VecDeque<Ids>,
}

#[derive(Debug)]
struct Ids {
    number: u64,
    /// The greatest event id of version 7 before this batch.
    before: [u8; 16],
    events: HashSet<Uuid>,
    keys: HashSet<Uuid>,
}

impl Ids {
    fn of(side: &Side, before: [u8; 16]) -> Self {
        Self {
            number: side.number,
            before,
            events: side.rows.iter().map(|row| row.columns.event).collect(),
            keys: side.keys.iter().map(|key| key.id).collect(),
        }
    }
}

impl Window {
    fn push(&mut self, ids: Ids) {
        self.batches.push_back(ids);
        if self.batches.len() > WINDOW {
            self.batches.pop_front();
        }
    }

    /// Where it begins: the number, and the greatest event id before it.
    fn begin(&self, end: &End) -> (u64, [u8; 16]) {
        let first = self.batches.front();
        first.map_or((end.next, end.event_max), |ids| (ids.number, ids.before))
    }
}

fn is_v7(event: Uuid) -> bool {
    event.get_version_num() == 7
}

impl Shared {
    /// See [`audit_core::store::Store::append`].
    pub(crate) async fn append(&self, writer: &mut Writer, mut build: Build) -> Result<Head> {
        let log = self.log_or_invalid().await?;
        self.settle(writer, &log).await?;
        self.give_way(writer).await;
        let mut lost = 0;
        while lost < RACES_MAX {
            let end = match &writer.end {
                Some(end) => end.clone(),
                None => self.find_end(writer, &log).await?,
            };
            let began = Instant::now();
            let batch = build(&end.head)?;
            batch::check(&batch, &end.head)?;
            let after = batch.head_after(&end.head)?;
            if writer.late.is_empty() {
                self.refuse_known(writer, &end, &batch).await?;
            }

            let mut nonce = [0; 16];
            self.ids.fill(&mut nonce);
            let newest = batch.rows.iter().map(|row| row.columns.event);
            let event_max = newest
                .filter(|event| is_v7(*event))
                .map(|event| *event.as_bytes())
                .fold(end.event_max, Ord::max);
            let frame = Frame {
                number: end.next,
                nonce,
                previous: end.previous,
                event_max,
            };
            let encoded = batch::encode(&frame, &batch, &end.head, &after)?;
            let side = Arc::new(Side::of(&batch, end.next, end.head.size, nonce));
            let lock = log.lock(self.clock.now());
            // Dying before this point leaves nothing behind.
            // Only if absent although nobody else has this name: a second version, after an answer that was lost, would
            // look like one from before an erasure.
            let packed = Bytes::from(side.encode()?);
            let name = names::side(end.next, &nonce);
            let created = self.bucket.create(&name, packed, None);
            // Who is in a race has no time to read first and write then. A side pack that no batch names is an orphan.
            let (created, late) = tokio::join!(created, self.late_ids(&writer.late));
            if let Created::Theirs(_) = created.map_err(not_written)? {
                return Err(Error::unavailable("the name of a side pack was taken"));
            }
            if !writer.late.is_empty() {
                late?.into_iter().for_each(|ids| writer.window.push(ids));
                writer.late.clear();
                self.refuse_known(writer, &end, &batch).await?;
            }
            for (digest, bytes) in encoded.apart {
                self.create_payload(&digest, bytes, lock).await?;
            }
            // Dying up to here leaves orphans, which no batch names.
            self.pending(writer, Some(end.next));
            let created = self
                .bucket
                .create(&names::batch(end.next), encoded.object.clone(), lock)
                .await;
            // Dying from here on: the batch stands at its number or it doesn't, and whoever comes next reads which.
            match created {
                Ok(Created::Ours) => {
                    self.pending(writer, None);
                    self.wrote(writer, &end, &side, &encoded.object, event_max)?;
                    writer.won = Some(Won {
                        number: end.next,
                        at: Instant::now(),
                        took: began.elapsed(),
                    });
                    return Ok(after);
                }
                Ok(Created::Theirs(object)) => {
                    self.pending(writer, None);
                    lost += 1;
                    self.lost(writer, &end, &object)?;
                    if lost.is_multiple_of(PROBE_AFTER) {
                        // Far behind, or up against somebody faster: where the end is shows sooner by looking.
                        writer.end = None;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Unknown => return Err(e),
                Err(e) => {
                    self.pending(writer, None);
                    writer.end = None;
                    return Err(not_written(e));
                }
            }
        }
        Err(Error::unavailable(format!(
            "{RACES_MAX} times another process took the place of this batch"
        )))
    }

    /// Leaves others the time for a batch of theirs, where there are any: who wins knows the end at once, who loses has to
    /// read it first, and would lose again and again to somebody who never pauses.
    async fn give_way(&self, writer: &mut Writer) {
        let Some(won) = writer.won else { return };
        if won.at.elapsed() > won.took * 3 {
            // There was a pause.
            return;
        }
        // Who never loses doesn't meet anybody. Where batches wait for company that is pause enough; else, now and then,
        // it looks for side packs that others made for the numbers that it took: they come late, so for the last few.
        let met = writer.met.is_some_and(|met| met.elapsed() <= COMPANY);
        if !met && self.linger.is_none() && won.number.is_multiple_of(LOOK_EVERY) {
            let from = won.number.saturating_sub(LOOK_EVERY - 1);
            let own = won.number - from + 1;
            let limit = usize::try_from(own + 1).unwrap_or(usize::MAX);
            let after = names::sides(from);
            match self.bucket.list(names::SIDES, &after, limit).await {
                Ok(there) if there.len() as u64 > own => {
                    writer.met = Some(Instant::now());
                    writer.given = 0;
                }
                // What is wrong with the bucket is told by the append.
                _ => return,
            }
        } else if !met {
            return;
        }
        let mut random = [0; 2];
        self.ids.fill(&mut random);
        // Twice what a batch takes on average: what reading another's batch and writing an own one takes.
        let share = f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX);
        // More if that didn't let anybody in.
        let patience = f64::from(1_u32 << writer.given.min(3));
        writer.given += 1;
        let pause = won.took.mul_f64(patience * (1.0 + 2.0 * share));
        let pause = pause.min(GIVE_WAY_MAX);
        tokio::time::sleep_until(won.at + pause).await;
    }

    /// Goes on behind the batch that has the number: its rows are applied to the head that is known.
    ///
    /// # Errors
    ///
    /// `Corrupt` if it doesn't continue the log.
    fn lost(&self, writer: &mut Writer, end: &End, object: &Bytes) -> Result<()> {
        // If it is wrong, the end stays what it was: the next append comes up against it again.
        writer.met = Some(Instant::now());
        writer.given = 0;
        let name = names::batch(end.next);
        let header = Arc::new(Header::decode(&name, end.next, object)?);
        let wrong = |what: &str| Err(Error::corrupt(format!("{name} {what}")).at(end.head.size));
        if header.total() != object.len() as u64 {
            return wrong("has another length than its header says");
        }
        if header.previous != end.previous {
            return wrong("doesn't follow the batch before it");
        }
        if header.first != end.head.size || header.event_max < end.event_max {
            return wrong("doesn't continue the log");
        }
        header.tiles(&name, object)?;
        header.parts(&name, object)?;
        let mut edge = end.head.edge.clone();
        for entry in header.entries(&name, object)? {
            edge.push(leaf_hash(&entry));
        }
        if edge.root() != header.edge.root() {
            return wrong("has an edge that isn't the one of its entries");
        }
        self.saw(&header);
        self.keep_object(end.next, object);
        writer.end = Some(End {
            next: end.next + 1,
            head: header.head(),
            previous: Sha256::digest(object).into(),
            event_max: header.event_max,
        });
        self.grown.send_replace(header.end());
        if !header.skipped {
            writer.late.push((header, end.event_max));
        }
        Ok(())
    }

    /// The ids of batches of others.
    async fn late_ids(&self, late: &[(Arc<Header>, [u8; 16])]) -> Result<Vec<Ids>> {
        let mut out = Vec::with_capacity(late.len());
        for (header, before) in late {
            out.push(Ids::of(&*self.side(header).await?, *before));
        }
        Ok(out)
    }

    fn pending(&self, writer: &mut Writer, pending: Option<u64>) {
        self.unsettled.store(pending.is_some(), Ordering::SeqCst);
        writer.pending = pending;
    }

    /// Moves on behind a batch of our own.
    fn wrote(
        &self,
        writer: &mut Writer,
        end: &End,
        side: &Arc<Side>,
        object: &Bytes,
        event_max: [u8; 16],
    ) -> Result<()> {
        let header = Header::decode(&names::batch(end.next), end.next, object)?;
        let header = Arc::new(header);
        self.saw(&header);
        self.keep_object(end.next, object);
        self.keep_side(side, self.sides_of());
        writer.window.push(Ids::of(side, end.event_max));
        writer.end = Some(End {
            next: end.next + 1,
            head: header.head(),
            previous: Sha256::digest(object).into(),
            event_max,
        });
        self.grown.send_replace(header.end());
        Ok(())
    }

    async fn create_payload(
        &self,
        digest: &[u8; 32],
        bytes: Bytes,
        lock: Option<audit_core::time::Timestamp>,
    ) -> Result<()> {
        match self
            .bucket
            .create(&names::payload(digest), bytes, lock)
            .await
        {
            Ok(Created::Ours) => Ok(()),
            Ok(Created::Theirs(_)) => Err(Error::corrupt(format!(
                "{} holds other bytes than its name says",
                names::payload(digest)
            ))),
            // Whether it is there doesn't matter as long as no batch names it.
            Err(e) => Err(not_written(e)),
        }
    }

    /// Reads where the log ends.
    async fn find_end(&self, writer: &mut Writer, log: &LogObject) -> Result<End> {
        let tip = self.tip().await?;
        let end = match tip {
            None => End {
                next: 0,
                head: Head::empty(),
                previous: log.digest,
                event_max: [0; 16],
            },
            Some(tip) => {
                let (header, object) = self.object(tip.number, crate::shared::Extent::All).await?;
                End {
                    next: tip.number + 1,
                    head: header.head(),
                    previous: Sha256::digest(&object).into(),
                    event_max: header.event_max,
                }
            }
        };
        writer.late.clear();
        // The ids in memory are those of the last batches, or none.
        let known = writer.window.batches.back().map(|ids| ids.number);
        match known {
            Some(known) if end.next - known <= WINDOW as u64 => {
                for number in known + 1..end.next {
                    let header = self.header(number).await?;
                    if !header.skipped {
                        let before = self.header(number - 1).await?.event_max;
                        let side = self.side(&header).await?;
                        writer.window.push(Ids::of(&side, before));
                    }
                }
            }
            _ => writer.window.batches.clear(),
        }
        writer.end = Some(end.clone());
        Ok(end)
    }

    /// Refuses a batch with an event, or a data key, that is in the log.
    async fn refuse_known(&self, writer: &mut Writer, end: &End, batch: &Batch) -> Result<()> {
        let known = |event: Uuid| Error::invalid(format!("event {event} is already in the log"));
        let mut own = HashSet::new();
        for row in &batch.rows {
            let event = row.columns.event;
            if !own.insert(event) {
                return Err(known(event));
            }
        }
        let least = own.iter().filter(|event| is_v7(**event)).min();
        let least = least.map(|event| *event.as_bytes());
        let others = own.iter().any(|event| !is_v7(*event));
        // As far back as needed: what is greater than all before the window can't be among them.
        loop {
            let (begin, before) = writer.window.begin(end);
            let reaches = !others && least.is_none_or(|least| least > before);
            if begin == 0 || reaches || writer.window.batches.len() >= WINDOW {
                break;
            }
            let header = self.header(begin - 1).await?;
            let before = match begin.checked_sub(2) {
                Some(number) => self.header(number).await?.event_max,
                None => [0; 16],
            };
            let ids = if header.skipped {
                Ids {
                    number: header.number,
                    before,
                    events: HashSet::new(),
                    keys: HashSet::new(),
                }
            } else {
                Ids::of(&*self.side(&header).await?, before)
            };
            writer.window.batches.push_front(ids);
        }
        let (begin, before) = writer.window.begin(end);
        for event in own {
            if writer
                .window
                .batches
                .iter()
                .any(|ids| ids.events.contains(&event))
            {
                return Err(known(event));
            }
            let new = begin == 0 || is_v7(event) && *event.as_bytes() > before;
            if !new && self.position_before(event, begin).await?.is_some() {
                return Err(known(event));
            }
        }
        // A data key's id has 122 random bits. One that comes again shortly after is a mistake worth catching; for all of the
        // log's past nobody would pay the requests, and two records for one id show when the log is verified.
        for key in &batch.keys {
            if writer
                .window
                .batches
                .iter()
                .any(|ids| ids.keys.contains(&key.id))
            {
                return Err(Error::invalid(format!(
                    "data key {} already has a record",
                    key.id
                )));
            }
        }
        Ok(())
    }

    /// Finds out what became of a batch that nobody answered for. A put may still be on its way, so the number is taken:
    /// if by nobody else, then by a batch without rows.
    pub(crate) async fn settle(&self, writer: &mut Writer, log: &LogObject) -> Result<()> {
        let Some(number) = writer.pending else {
            return Ok(());
        };
        let name = names::batch(number);
        let not_yet = |e: Error| match e.kind() {
            ErrorKind::Unknown => Error::unavailable(e.to_string()).because(e),
            _ => e,
        };
        loop {
            writer.end = None;
            let there = self
                .bucket
                .get_front(&name, batch::HEADER_MAX as u64)
                .await?;
            if let Some(front) = there {
                // Ours or another's, nothing can change there any more.
                Header::decode(&name, number, &front)?;
                break;
            }
            let end = self.find_end(writer, log).await?;
            if end.next != number {
                // Somebody was there meanwhile.
                continue;
            }
            let mut nonce = [0; 16];
            self.ids.fill(&mut nonce);
            let frame = Frame {
                number,
                nonce,
                previous: end.previous,
                event_max: end.event_max,
            };
            let object = batch::skipped(&frame, &end.head)?;
            let lock = log.lock(self.clock.now());
            match self.bucket.create(&name, object, lock).await {
                Ok(_) => break,
                Err(e) => return Err(not_yet(e)),
            }
        }
        writer.end = None;
        self.pending(writer, None);
        Ok(())
    }
}

/// Nothing that counts was written.
fn not_written(e: Error) -> Error {
    match e.kind() {
        ErrorKind::Corrupt | ErrorKind::Invalid => e,
        _ => Error::unavailable("the batch was not written").because(e),
    }
}
