//! A file for what the log can't take at the moment (`docs/format.md` §14).
//!
//! Each gateway has a file of its own and holds its lock; files without a holder were left by processes that died, and
//! are taken over at the next start. All of this blocks, and is called from threads that may.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind as IoErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use audit_core::event::PAYLOAD_BYTES_MAX;
use uuid::Uuid;

use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"ATSPOOL1";
const HEADER_BYTES: usize = 32;

/// Bytes of one record; an event has at most 64 payloads, of which those of an exchange are three.
const RECORD_BYTES_MAX: usize = 4 * PAYLOAD_BYTES_MAX;

/// Where to keep what the log can't take, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolConfig {
    /// A folder for this alone, on a local disk. It is made if it isn't there.
    pub dir: PathBuf,
    /// Bytes of what one gateway keeps; beyond them it refuses, as without a spool. 1 GiB.
    pub bytes_max: u64,
}

impl SpoolConfig {
    /// At most 1 GiB in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            bytes_max: 1 << 30,
        }
    }
}

/// The files of one gateway.
#[derive(Debug)]
pub(crate) struct Spool {
    config: SpoolConfig,
    producer: Uuid,
    generation: u64,
    open: Option<SpoolFile>,
}

/// One file.
#[derive(Debug)]
pub(crate) struct SpoolFile {
    path: PathBuf,
    file: File,
    header: [u8; HEADER_BYTES],
    /// Records in it.
    records: u64,
    bytes: u64,
    /// Of these, so many are in the log.
    drained: u64,
    drained_bytes: u64,
    /// A record of it could not be opened.
    damaged: bool,
}

/// What [`Spool::keep`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeping {
    Kept,
    /// There is no room for it.
    Full,
}

impl Spool {
    /// Makes the folder; the answer has the files that others left, too.
    pub(crate) fn open(config: SpoolConfig, producer: Uuid) -> Result<(Self, Vec<SpoolFile>)> {
        let failed = |e: io::Error| {
            Error::unavailable(format!("spool folder {}", config.dir.display())).because(e)
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&config.dir)
            .map_err(failed)?;
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(&config.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|e| e == "spool") {
                paths.push(path);
            }
        }
        // Names begin with ids that grow with time, so the oldest comes first.
        paths.sort_unstable();
        let mut left = Vec::new();
        for path in paths {
            left.extend(SpoolFile::take_over(&path).map_err(failed)?);
        }
        let spool = Self {
            config,
            producer,
            generation: 0,
            open: None,
        };
        Ok((spool, left))
    }

    /// The context of the next record, and whether one of so many bytes has room.
    pub(crate) fn next(&mut self, bytes: usize) -> io::Result<Option<Vec<u8>>> {
        if self.open.is_none() {
            let file = SpoolFile::create(&self.config.dir, self.producer, self.generation)?;
            self.generation += 1;
            self.open = Some(file);
        }
        let Some(file) = &mut self.open else {
            return Ok(None);
        };
        let room = self.config.bytes_max.saturating_sub(file.bytes);
        Ok((bytes as u64 <= room).then(|| file.context(file.records)))
    }

    /// Keeps a record that was sealed in the context of [`next`](Self::next), durably.
    pub(crate) fn keep(&mut self, sealed: &[u8]) -> io::Result<Keeping> {
        let Some(file) = &mut self.open else {
            return Err(io::Error::other("no spool file is open"));
        };
        if file.bytes + sealed.len() as u64 + 4 > self.config.bytes_max {
            return Ok(Keeping::Full);
        }
        match file.append(sealed) {
            Ok(()) => Ok(Keeping::Kept),
            Err(error) => {
                // What was written of it in part must not stand before the next one; where that can't be undone, the
                // file gets no further record.
                if file.file.set_len(file.bytes).is_err()
                    && let Some(torn) = self.open.take()
                {
                    drop(torn);
                }
                Err(error)
            }
        }
    }

    /// Records that wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.open.as_ref().map_or(0, |f| f.records - f.drained)
    }

    /// The next record that isn't in the log yet, and its context.
    pub(crate) fn peek(&mut self) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        match &mut self.open {
            Some(file) => file.peek(),
            None => Ok(None),
        }
    }

    /// The record of [`peek`](Self::peek) is in the log, or can't be opened; a file without any more is deleted.
    pub(crate) fn drained(&mut self, opened: bool) -> io::Result<()> {
        if let Some(file) = &mut self.open {
            file.advance(opened)?;
            if file.drained == file.records {
                self.open.take().map_or(Ok(()), SpoolFile::finish)?;
            }
        }
        Ok(())
    }
}

impl SpoolFile {
    fn create(dir: &Path, producer: Uuid, generation: u64) -> io::Result<Self> {
        let path = dir.join(format!("{producer}-{generation:06}.spool"));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.try_lock().map_err(io::Error::other)?;
        let mut header = [0; HEADER_BYTES];
        let (magic, rest) = header.split_at_mut(8);
        magic.copy_from_slice(MAGIC);
        let (id, number) = rest.split_at_mut(16);
        id.copy_from_slice(producer.as_bytes());
        number.copy_from_slice(&generation.to_be_bytes());
        file.write_all(&header)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(Self {
            path,
            file,
            header,
            records: 0,
            bytes: HEADER_BYTES as u64,
            drained: 0,
            drained_bytes: HEADER_BYTES as u64,
            damaged: false,
        })
    }

    /// A file that nobody holds; `None` for one that somebody does, or that has no whole header.
    fn take_over(path: &Path) -> io::Result<Option<Self>> {
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            // Another gateway was faster.
            Err(e) if e.kind() == IoErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(e),
        }
        // Who held the lock until now may have deleted it.
        if !path.exists() {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES];
        match file.read_exact(&mut header) {
            Ok(()) if header.starts_with(MAGIC) => {}
            Ok(()) => return Ok(None),
            Err(e) if e.kind() == IoErrorKind::UnexpectedEof => {
                // Its maker died before the first record.
                fs::remove_file(path)?;
                return Ok(None);
            }
            Err(e) => return Err(e),
        }
        let mut this = Self {
            path: path.to_owned(),
            file,
            header,
            records: 0,
            bytes: HEADER_BYTES as u64,
            drained: 0,
            drained_bytes: HEADER_BYTES as u64,
            damaged: false,
        };
        // Whole records; what is behind the last one was never acknowledged.
        let end = this.file.metadata()?.len();
        while let Some(length) = this.length_at(this.bytes, end)? {
            this.bytes += 4 + length;
            this.records += 1;
        }
        this.file.set_len(this.bytes)?;
        Ok(Some(this))
    }

    /// The length of the record at `at`, if all of it stands before `end`.
    fn length_at(&mut self, at: u64, end: u64) -> io::Result<Option<u64>> {
        if end < at + 4 {
            return Ok(None);
        }
        let mut length = [0; 4];
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_exact(&mut length)?;
        let length = u64::from(u32::from_be_bytes(length));
        let whole = length > 0 && length <= RECORD_BYTES_MAX as u64 && at + 4 + length <= end;
        Ok(whole.then_some(length))
    }

    fn context(&self, record: u64) -> Vec<u8> {
        let mut context = self.header.to_vec();
        context.extend_from_slice(&record.to_be_bytes());
        context
    }

    fn append(&mut self, sealed: &[u8]) -> io::Result<()> {
        let length = u32::try_from(sealed.len())
            .ok()
            .filter(|_| sealed.len() <= RECORD_BYTES_MAX)
            .ok_or_else(|| io::Error::other("the record is too long"))?;
        self.file.seek(SeekFrom::Start(self.bytes))?;
        self.file.write_all(&length.to_be_bytes())?;
        self.file.write_all(sealed)?;
        // A crash until here leaves a cut record, which nobody was told of.
        self.file.sync_data()?;
        self.bytes += 4 + u64::from(length);
        self.records += 1;
        Ok(())
    }

    /// The next record that isn't in the log yet, and its context.
    pub(crate) fn peek(&mut self) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let Some(length) = self.length_at(self.drained_bytes, self.bytes)? else {
            return Ok(None);
        };
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut sealed = vec![0; length];
        self.file.read_exact(&mut sealed)?;
        Ok(Some((sealed, self.context(self.drained))))
    }

    /// Goes on to the next record.
    pub(crate) fn advance(&mut self, opened: bool) -> io::Result<()> {
        if let Some(length) = self.length_at(self.drained_bytes, self.bytes)? {
            self.drained_bytes += 4 + length;
            self.drained += 1;
            self.damaged |= !opened;
        }
        Ok(())
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Records in it.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Deletes it; one of which a record could not be opened is kept under another name.
    pub(crate) fn finish(self) -> io::Result<()> {
        if self.damaged {
            let mut kept = self.path.clone().into_os_string();
            kept.push(".damaged");
            return fs::rename(&self.path, kept);
        }
        fs::remove_file(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> SpoolConfig {
        SpoolConfig::new(dir.join("spool"))
    }

    fn keep(spool: &mut Spool, text: &[u8]) -> Vec<u8> {
        let context = spool.next(text.len()).unwrap().unwrap();
        assert_eq!(spool.keep(text).unwrap(), Keeping::Kept);
        context
    }

    #[test]
    fn records_come_back_out_of_order_or_with_another_context() {
        let folder = tempfile::tempdir().unwrap();
        let id = Uuid::from_u128(7);
        let (mut spool, left) = Spool::open(config(folder.path()), id).unwrap();
        assert!(left.is_empty());
        let contexts: Vec<_> = [b"one".as_slice(), b"two", b"three"]
            .iter()
            .map(|text| keep(&mut spool, text))
            .collect();
        assert_eq!(spool.waiting(), 3);
        for (at, text) in ["one", "two", "three"].iter().enumerate() {
            let (sealed, context) = spool.peek().unwrap().unwrap();
            assert_eq!(
                (sealed.as_slice(), &context),
                (text.as_bytes(), &contexts[at])
            );
            spool.drained(true).unwrap();
        }
        assert_eq!(spool.peek().unwrap(), None);
        assert_eq!(
            fs::read_dir(folder.path().join("spool")).unwrap().count(),
            0
        );
        // The next file's contexts are others.
        let again = keep(&mut spool, b"one");
        assert!(!contexts.contains(&again));
    }

    #[test]
    fn a_file_that_was_left_is_taken_over_at_every_length() {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(config(folder.path()), Uuid::from_u128(7)).unwrap();
        keep(&mut spool, b"one");
        keep(&mut spool, b"second");
        let path = spool.open.as_ref().unwrap().path().to_owned();
        // While its process lives, nobody else takes it.
        let (_, left) = Spool::open(config(folder.path()), Uuid::from_u128(8)).unwrap();
        assert!(left.is_empty());
        let whole = fs::read(&path).unwrap();
        drop(spool);
        for length in 0..=whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let (_, left) = Spool::open(config(folder.path()), Uuid::from_u128(9)).unwrap();
            let records: Vec<_> = left
                .into_iter()
                .flat_map(|mut file| {
                    let mut records = Vec::new();
                    while let Some((sealed, _)) = file.peek().unwrap() {
                        records.push(sealed);
                        file.advance(true).unwrap();
                    }
                    records
                })
                .collect();
            let expected: &[&[u8]] = match length {
                49.. => &[b"one", b"second"],
                39.. => &[b"one"],
                _ => &[],
            };
            assert_eq!(records, expected, "cut at {length}");
        }
    }

    #[test]
    fn more_is_kept_than_there_is_room_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut small = config(folder.path());
        small.bytes_max = 50;
        let (mut spool, _) = Spool::open(small, Uuid::from_u128(7)).unwrap();
        keep(&mut spool, b"0123456789");
        assert_eq!(spool.next(10).unwrap(), None);
        assert_eq!(spool.keep(b"0123456789").unwrap(), Keeping::Full);
        assert_eq!(spool.waiting(), 1);
    }

    #[test]
    fn a_file_with_a_record_that_cannot_be_opened_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(config(folder.path()), Uuid::from_u128(7)).unwrap();
        keep(&mut spool, b"one");
        spool.drained(false).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path().join("spool"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(
            left.len() == 1 && left[0].ends_with(".spool.damaged"),
            "{left:?}"
        );
    }
}
