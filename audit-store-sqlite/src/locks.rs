//! Lock files: writers queue, and one process publishes.
//!
//! The operating system releases a lock when its holder dies. The files stay.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use audit_core::Result;
use audit_core::store::Lease;

use crate::failure;
use crate::layout::{beside, inode, private};

fn open(path: PathBuf) -> Result<(PathBuf, File)> {
    let file = private()
        .create(true)
        .open(&path)
        .map_err(|e| failure::file("opening the lock file", &path, e))?;
    Ok((path, file))
}

/// The queue of the processes that want to write.
///
/// SQLite wakes whoever asks at the right moment, so a second writer can wait for seconds beside a busy one. Here a
/// writer holds Q while it waits for X and gives Q up once it has X: behind the one who writes exactly one waits for X,
/// and a writer that comes back has to pass Q first, so it can't overtake that one.
#[derive(Debug)]
pub(crate) struct Queue {
    q: (PathBuf, File),
    x: (PathBuf, File),
}

/// The right to write; ends when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a File);

impl Queue {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            q: open(beside(path, ".queue.lock"))?,
            x: open(beside(path, ".write.lock"))?,
        })
    }

    /// Waits for the right to write.
    pub(crate) fn turn(&self) -> Result<Turn<'_>> {
        let queued = lock(&self.q)?;
        let turn = lock(&self.x)?;
        drop(queued);
        Ok(turn)
    }
}

fn lock((path, file): &(PathBuf, File)) -> Result<Turn<'_>> {
    loop {
        match file.lock() {
            Ok(()) => return Ok(Turn(file)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failure::file("locking", path, e)),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Unlocking a file that is open and locked can't fail; if it did, closing it with the store unlocks it.
        drop(self.0.unlock());
    }
}

/// The lease of the publisher.
#[derive(Debug)]
pub(crate) struct PublisherLease {
    path: PathBuf,
    file: File,
}

impl PublisherLease {
    /// `None` while another holds it.
    pub(crate) fn take(store: &Path) -> Result<Option<Self>> {
        let (path, file) = open(beside(store, ".publisher.lock"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(failure::file("locking", &path, e)),
        }
        let lease = Self { path, file };
        // Between opening and locking somebody may have replaced the file.
        Ok(lease.in_place()?.then_some(lease))
    }

    /// Whether the file that is locked is still the one that others would lock.
    fn in_place(&self) -> Result<bool> {
        let failed = |e| failure::file("looking at the lock file", &self.path, e);
        let held = self.file.metadata().map_err(failed)?;
        match fs::metadata(&self.path) {
            Ok(there) => Ok(inode(&held) == inode(&there)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(failed(e)),
        }
    }
}

#[async_trait]
impl Lease for PublisherLease {
    async fn held(&self) -> Result<bool> {
        self.in_place()
    }

    // The lock ends with the file that is dropped.
    async fn release(&self) {}
}
