//! What reading and writing have in common: the log object, the end of the log, and caches of what never changes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::store::{Head, Tile};
use audit_core::time::{Clock, IdSource};
use audit_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use tokio::sync::watch;

use crate::batch::{HEADER_MAX, Header};
use crate::bucket::Bucket;
use crate::catalog::Catalog;
use crate::log_object::LogObject;
use crate::names;
use crate::side::Side;

/// Bytes of batch objects kept in memory.
const OBJECTS_BYTES: usize = 24 * 1024 * 1024;
/// Rows of side packs kept in memory.
const SIDE_ROWS: usize = 64 * 1024;
/// Places of batches kept in memory.
const PLACES_MAX: usize = 64 * 1024;
/// Headers kept in memory.
const HEADERS_MAX: usize = 192;

/// The bucket, and what this process knows of the log in it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) bucket: Bucket,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) without_object_lock: bool,
    pub(crate) retain_days: u32,
    pub(crate) linger: Option<Duration>,
    pub(crate) lease: Duration,
    log: Mutex<Option<LogObject>>,
    pub(crate) last_tip: Mutex<Option<Arc<Header>>>,
    /// The latest checkpoint that was seen: its size, and the note.
    pub(crate) latest: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
    /// The size for which it was asked last whether tiles are published.
    pub(crate) published_asked: AtomicU64,
    /// Full tiles that were written out.
    pub(crate) tiles: Mutex<VecDeque<Tile>>,
    cache: Mutex<Cache>,
    pub(crate) catalog: Mutex<Catalog>,
    /// Stretches of 64 batches that have a run, from the first on, and under which `changes`.
    pub(crate) compacted: Mutex<(u64, u64)>,
    /// The size after the last append through this store, for those who wait for growth.
    pub(crate) grown: watch::Sender<u64>,
    /// An append began and nobody knows how it ended.
    pub(crate) unsettled: AtomicBool,
    /// What was seen of the lease.
    pub(crate) watched: Mutex<Option<crate::lease::Watched>>,
    /// `changes`, as it was read last; 0 before the first time.
    pub(crate) changes: AtomicU64,
}

#[derive(Debug, Default)]
struct Cache {
    /// By the index of the first row: number and count of the batch.
    places: BTreeMap<u64, (u64, u32)>,
    headers: VecDeque<Arc<Header>>,
    objects: VecDeque<(u64, Bytes)>,
    objects_bytes: usize,
    sides: VecDeque<Arc<Side>>,
    side_rows: usize,
    /// Under which `changes` the side packs were read.
    sides_of: u64,
}

/// How much of a batch object is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Entries,
    All,
}

impl Shared {
    pub(crate) fn new(options: &crate::S3Options) -> Result<Self> {
        Ok(Self {
            bucket: options.connect()?,
            clock: Arc::clone(&options.clock),
            ids: Arc::clone(&options.ids),
            without_object_lock: options.without_object_lock,
            retain_days: options.retain_days,
            linger: options.linger,
            lease: options.lease,
            log: Mutex::default(),
            last_tip: Mutex::default(),
            latest: Mutex::default(),
            published_asked: AtomicU64::new(0),
            tiles: Mutex::default(),
            cache: Mutex::default(),
            catalog: Mutex::default(),
            compacted: Mutex::default(),
            grown: watch::channel(0).0,
            unsettled: AtomicBool::new(false),
            watched: Mutex::default(),
            changes: AtomicU64::new(0),
        })
    }

    pub(crate) fn known_log(&self) -> Option<LogObject> {
        locked(&self.log).clone()
    }

    /// The object `log`; `None` if there is none.
    pub(crate) async fn log(&self) -> Result<Option<LogObject>> {
        if let Some(log) = self.known_log() {
            return Ok(Some(log));
        }
        let Some(object) = self.bucket.get(names::LOG).await? else {
            return Ok(None);
        };
        let log = LogObject::decode(&object.bytes)?;
        self.look_at_versions().await?;
        *locked(&self.log) = Some(log.clone());
        Ok(Some(log))
    }

    pub(crate) async fn log_or_invalid(&self) -> Result<LogObject> {
        self.log().await?.ok_or_else(|| {
            Error::invalid(format!(
                "{} is not the store of a log yet",
                self.bucket.place("")
            ))
        })
    }

    /// What opening asks of versions: `log` has one, and so have the last batches, of which none is missing.
    async fn look_at_versions(&self) -> Result<()> {
        let (versions, _) = self.bucket.versions(names::LOG, None).await?;
        crate::integrity::single_versions(&self.bucket, &versions, &mut None)?;
        let tip = self.tip().await?;
        let known = tip.and_then(|tip| tip.number.checked_sub(500));
        let from = known.map(|known| self.bucket.versions_after(&names::batch(known)));
        let (versions, _) = self.bucket.versions(names::BATCHES, from.as_ref()).await?;
        crate::integrity::single_versions(&self.bucket, &versions, &mut None)?;
        // The end was found by asking for numbers. Where one is missing that isn't the end, it is the end of what was
        // asked for, and a batch would be written into the hole.
        let keys = versions.iter().map(|version| &*version.key);
        crate::integrity::no_hole(known.map_or(0, |known| known + 1), keys)
    }

    /// The header of the last batch, read anew from the bucket as far as it can have changed.
    pub(crate) async fn tip(&self) -> Result<Option<Arc<Header>>> {
        let mut last = locked(&self.last_tip).clone();
        // Try the next number, then further and further away: a process that was idle for long catches up fast.
        let mut step = 1;
        let mut known = last.as_ref().map(|tip| tip.number);
        let mut absent = None;
        loop {
            let next = match (known, absent) {
                (Some(there), Some(gone)) if gone == there + 1 => break,
                (None, Some(0)) => break,
                (there, Some(gone)) => {
                    let first = there.map_or(0, |n| n + 1);
                    first + (gone - first) / 2
                }
                (there, None) => {
                    let next = there.map_or(step - 1, |n| n.saturating_add(step));
                    step *= 2;
                    next.min(names::NUMBER_MAX)
                }
            };
            match self.read_header(next).await? {
                Some(header) => {
                    known = Some(next);
                    last = Some(header);
                    if next == names::NUMBER_MAX {
                        break;
                    }
                }
                None => absent = Some(next),
            }
        }
        if let Some(tip) = &last {
            self.saw(tip);
        }
        Ok(last)
    }

    /// The batch is there.
    pub(crate) fn saw(&self, header: &Arc<Header>) {
        let mut tip = locked(&self.last_tip);
        if tip.as_ref().is_none_or(|tip| tip.number < header.number) {
            *tip = Some(Arc::clone(header));
        }
        drop(tip);
        let mut cache = locked(&self.cache);
        cache.place(header);
        cache.header(header);
    }

    pub(crate) fn head_of(tip: Option<&Arc<Header>>) -> Head {
        tip.map_or_else(Head::empty, |tip| tip.head())
    }

    /// The header of a batch, from the bucket; `None` if there is no such batch.
    async fn read_header(&self, number: u64) -> Result<Option<Arc<Header>>> {
        let name = names::batch(number);
        let Some(front) = self.bucket.get_front(&name, HEADER_MAX as u64).await? else {
            return Ok(None);
        };
        let header = Arc::new(Header::decode(&name, number, &front)?);
        let mut cache = locked(&self.cache);
        cache.place(&header);
        cache.header(&header);
        Ok(Some(header))
    }

    /// The header of a batch that is there.
    pub(crate) async fn header(&self, number: u64) -> Result<Arc<Header>> {
        let known = locked(&self.cache)
            .headers
            .iter()
            .find(|header| header.number == number)
            .cloned();
        if let Some(header) = known {
            return Ok(header);
        }
        self.read_header(number)
            .await?
            .ok_or_else(|| missing(number))
    }

    /// The number of the batch that has the row `index`; there must be one.
    pub(crate) async fn locate(&self, index: u64, tip: &Header) -> Result<u64> {
        // The batch is at or behind `low` (which begins at or before the index) and before `high`.
        let (mut low, mut low_first) = (0, 0);
        let (mut high, mut high_first) = (tip.number + 1, tip.end());
        if index >= tip.first && !tip.skipped {
            return Ok(tip.number);
        }
        {
            let cache = locked(&self.cache);
            if let Some((first, (number, count))) = cache.places.range(..=index).next_back() {
                if index - first < u64::from(*count) {
                    return Ok(*number);
                }
                (low, low_first) = (*number + 1, first + u64::from(*count));
            }
            if let Some((first, (number, _))) = cache.places.range(index + 1..).next()
                && *number < high
            {
                (high, high_first) = (*number, *first);
            }
        }
        while high.saturating_sub(low) > 1 {
            // Batches are of similar size, so guess first, and stay away from the ends.
            let share = u128::from(index - low_first) * u128::from(high - low)
                / u128::from((high_first - low_first).max(1));
            let guess = low + u64::try_from(share).unwrap_or(0);
            let eighth = (high - low) / 8;
            let middle = guess.clamp(
                low + eighth.max(1).min(high - low - 1),
                high - 1 - eighth.min(high - low - 2),
            );
            let header = self.header(middle).await?;
            if header.first > index {
                (high, high_first) = (middle, header.first);
            } else if header.end() > index {
                return Ok(middle);
            } else if header.end() < low_first {
                return Err(Error::corrupt(format!(
                    "batch {middle} begins at entry {}, before those it follows",
                    header.first
                )));
            } else {
                (low, low_first) = (middle, header.first);
            }
        }
        let header = self.header(low).await?;
        if header.first <= index && index < header.end() {
            Ok(low)
        } else {
            Err(Error::corrupt("no batch has this entry").at(index))
        }
    }

    /// A batch object, at least up to what is asked for, and its header.
    pub(crate) async fn object(&self, number: u64, extent: Extent) -> Result<(Arc<Header>, Bytes)> {
        let needed = |header: &Header| match extent {
            Extent::Entries => header.without_parts(),
            Extent::All => header.total(),
        };
        let name = names::batch(number);
        let cached = locked(&self.cache)
            .objects
            .iter()
            .find(|(n, _)| *n == number)
            .map(|(_, bytes)| bytes.clone());
        if let Some(bytes) = cached {
            let header = Arc::new(Header::decode(&name, number, &bytes)?);
            if bytes.len() as u64 >= needed(&header) {
                return Ok((header, bytes));
            }
        }
        let guess = match extent {
            Extent::Entries => 512 * 1024,
            Extent::All => 4 * 1024 * 1024,
        };
        let front = self.bucket.get_front(&name, guess).await?;
        let mut bytes = front.ok_or_else(|| missing(number))?;
        let header = Arc::new(Header::decode(&name, number, &bytes)?);
        let need = needed(&header);
        if (bytes.len() as u64) < need && bytes.len() as u64 == guess {
            let rest = self.bucket.get_range(&name, guess..need).await?;
            bytes = [bytes, rest].concat().into();
        }
        if (bytes.len() as u64) < need || bytes.len() as u64 > header.total() {
            return Err(Error::corrupt(format!(
                "{name} has {} bytes, its header says {}",
                bytes.len(),
                header.total()
            )));
        }
        self.keep_object(number, &bytes);
        locked(&self.cache).place(&header);
        Ok((header, bytes))
    }

    pub(crate) fn keep_object(&self, number: u64, bytes: &Bytes) {
        if bytes.len() > OBJECTS_BYTES / 4 {
            return;
        }
        let mut cache = locked(&self.cache);
        if let Some(at) = cache.objects.iter().position(|(n, _)| *n == number)
            && let Some((_, old)) = cache.objects.remove(at)
        {
            cache.objects_bytes -= old.len();
        }
        cache.objects_bytes += bytes.len();
        cache.objects.push_back((number, bytes.clone()));
        while cache.objects_bytes > OBJECTS_BYTES
            && let Some((_, old)) = cache.objects.pop_front()
        {
            cache.objects_bytes -= old.len();
        }
    }

    /// Drops what was read before, but for where the log ended: what is asked next is asked of the bucket.
    pub(crate) fn forget(&self) {
        let mut cache = locked(&self.cache);
        *cache = Cache {
            sides_of: cache.sides_of,
            ..Cache::default()
        };
        drop(cache);
        locked(&self.tiles).clear();
    }

    /// How often side packs were written anew; what was read before it changed last may be old.
    pub(crate) async fn read_changes(&self) -> Result<u64> {
        let object = self.bucket.get(names::CHANGES).await?;
        let changes = match object {
            None => 0,
            Some(object) => changes_of(&object.bytes)?,
        };
        self.changes.store(changes, Ordering::SeqCst);
        let mut cache = locked(&self.cache);
        if cache.sides_of != changes {
            cache.sides.clear();
            cache.side_rows = 0;
            cache.sides_of = changes;
        }
        Ok(changes)
    }

    /// The side pack of a batch with rows, as it was at or after the last [`Self::read_changes`].
    pub(crate) async fn side(&self, header: &Header) -> Result<Arc<Side>> {
        let (known, of) = {
            let cache = locked(&self.cache);
            let known = cache.sides.iter().find(|side| side.number == header.number);
            (known.cloned(), cache.sides_of)
        };
        if let Some(side) = known.filter(|side| side.nonce == header.nonce) {
            return Ok(side);
        }
        let side = Arc::new(self.read_side(header).await?.0);
        self.keep_side(&side, of);
        Ok(side)
    }

    /// The side pack of a batch, from the bucket, and its etag.
    pub(crate) async fn read_side(&self, header: &Header) -> Result<(Side, Option<String>)> {
        let name = names::side(header.number, &header.nonce);
        let object = self
            .bucket
            .get(&name)
            .await
            .map_err(|e| e.at(header.first))?;
        let object = object.ok_or_else(|| {
            Error::corrupt(format!("side pack {name} is missing")).at(header.first)
        })?;
        let side = Side::decode(&name, &object.bytes)?;
        if side.number != header.number
            || side.nonce != header.nonce
            || side.first != header.first
            || side.rows.len() != header.count as usize
        {
            return Err(
                Error::corrupt(format!("side pack {name} is of another batch")).at(header.first),
            );
        }
        Ok((side, object.etag))
    }

    pub(crate) fn keep_side(&self, side: &Arc<Side>, of: u64) {
        let mut cache = locked(&self.cache);
        if cache.sides_of != of {
            return;
        }
        cache.side_rows += side.rows.len();
        cache.sides.push_back(Arc::clone(side));
        while cache.side_rows > SIDE_ROWS
            && cache.sides.len() > 1
            && let Some(old) = cache.sides.pop_front()
        {
            cache.side_rows -= old.rows.len();
        }
    }

    /// Under which `changes` side packs are kept now.
    pub(crate) fn sides_of(&self) -> u64 {
        locked(&self.cache).sides_of
    }
}

impl Cache {
    fn place(&mut self, header: &Header) {
        if header.skipped {
            return;
        }
        if self.places.len() >= PLACES_MAX {
            self.places.clear();
        }
        self.places
            .insert(header.first, (header.number, header.count));
    }

    fn header(&mut self, header: &Arc<Header>) {
        self.headers.retain(|known| known.number != header.number);
        self.headers.push_back(Arc::clone(header));
        if self.headers.len() > HEADERS_MAX {
            self.headers.pop_front();
        }
    }
}

/// The number in the object `changes`.
pub(crate) fn changes_of(bytes: &Bytes) -> Result<u64> {
    let bytes: [u8; 8] = bytes
        .as_ref()
        .try_into()
        .map_err(|e| Error::corrupt("the object `changes` has not 8 bytes").because(e))?;
    Ok(u64::from_be_bytes(bytes))
}

pub(crate) fn missing(number: u64) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("batch {number} is missing, and a later one is there"),
    )
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
