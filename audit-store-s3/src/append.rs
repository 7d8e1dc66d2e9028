//! Appending: the number decides.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use audit_core::store::{Batch, Build, Head};
use audit_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
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

/// What the writer of this process knows; one append at a time.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    end: Option<End>,
    window: Window,
    /// The number of a batch that may or may not stand there.
    pending: Option<u64>,
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
        for _ in 0..RACES_MAX {
            let end = match &writer.end {
                Some(end) => end.clone(),
                None => self.find_end(writer, &log).await?,
            };
            let batch = build(&end.head)?;
            batch::check(&batch, &end.head)?;
            let after = batch.head_after(&end.head)?;
            self.refuse_known(writer, &end, &batch).await?;

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
            let created = self
                .bucket
                .create(&names::side(end.next, &nonce), packed, None)
                .await;
            if let Created::Theirs(_) = created.map_err(not_written)? {
                return Err(Error::unavailable("the name of a side pack was taken"));
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
                    return Ok(after);
                }
                Ok(Created::Theirs(_)) => {
                    self.pending(writer, None);
                    writer.end = None;
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
