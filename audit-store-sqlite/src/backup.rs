//! Copies of the file while it is written to, and putting one in the place of a store.

use std::fs::{self, File};
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};

use audit_core::{Error, Result};
use rusqlite::backup::{Backup as Running, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::failure;
use crate::layout::{beside, fresh_name, give_name, private, remove, sync_folder};
use crate::{OpenMode, SqliteStore};

/// Pages between two words about progress: 4 MiB.
const PAGES: i32 = 1024;

/// A complete copy of a store's file that doesn't have its name yet, so that it can be verified before anybody uses it.
/// Dropping it removes it.
#[derive(Debug)]
pub struct Backup {
    fresh: PathBuf,
    to: PathBuf,
    named: bool,
}

impl SqliteStore {
    /// Copies one state of the file to a file beside `to`, by SQLite's online backup: writers go on meanwhile, and what
    /// they write then is not in it. The copy is on the disk on return, and only its owner may read it.
    ///
    /// While it runs, the write-ahead log isn't cut.
    ///
    /// Blocks. `progress` is told the pages that are done, and how many there are.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](audit_core::ErrorKind::Unavailable) if the copy can't be written.
    pub fn backup(
        &self,
        to: impl AsRef<Path>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Backup> {
        let to = to.as_ref();
        let backup = Backup {
            fresh: fresh_name(to),
            to: to.to_owned(),
            named: false,
        };
        self.readers.read_now(&|source, _| {
            // The first read fixes the state that all further ones see.
            source
                .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
                .map_err(|e| failure::sqlite("reading", &self.path, e))?;
            backup.fill(source, progress)
        })?;
        Ok(backup)
    }
}

impl Backup {
    fn fill(&self, source: &Connection, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        let path = &self.fresh;
        let doing = "copying to";
        let failed = |e| failure::sqlite(doing, path, e);
        // What a process left that had this number is in nobody's way.
        private()
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(|e| failure::file(doing, path, e))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut target = Connection::open_with_flags(path, flags).map_err(failed)?;
        // Whoever dies here leaves a file without a name, so nothing has to be undone.
        target
            .execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
            .map_err(failed)?;
        let running = Running::new(source, &mut target).map_err(failed)?;
        loop {
            let step = running.step(PAGES).map_err(failed)?;
            let at = running.progress();
            let total = u64::try_from(at.pagecount).unwrap_or_default();
            let left = u64::try_from(at.remaining).unwrap_or_default();
            progress(total.saturating_sub(left), total);
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                // The source is in one transaction, and nobody else knows the copy.
                _ => {
                    return Err(Error::unavailable(format!(
                        "{doing} {}: the file is locked",
                        path.display()
                    )));
                }
            }
        }
        drop(running);
        target.close().map_err(|(_, e)| failed(e))?;
        File::open(path)
            .and_then(|file| file.sync_all())
            .map_err(|e| failure::file(doing, path, e))
    }

    /// The copy, to read it.
    ///
    /// # Errors
    ///
    /// As [`SqliteStore::open`].
    pub fn store(&self) -> Result<SqliteStore> {
        SqliteStore::open(&self.fresh, OpenMode::ReadOnly)
    }

    /// Gives the copy its name, durably. Nothing is overwritten.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](audit_core::ErrorKind::Invalid) if there is a file of that name.
    pub fn keep(mut self) -> Result<()> {
        give_name("naming the copy", &self.fresh, &self.to)?;
        self.named = true;
        Ok(())
    }

    /// Puts the copy in the place of the store that has the name, which is kept, whatever it is, with `aside` behind its
    /// name; answers with that name if there was one. No program may have the store open.
    ///
    /// Dying in here leaves the old store, or the new one; the old one's files all have their other name before one loses
    /// its first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](audit_core::ErrorKind::Invalid) if there is a file with the name for the old one.
    pub fn replace(mut self, aside: &str) -> Result<Option<PathBuf>> {
        let doing = "replacing the store";
        if !fs::exists(&self.to).map_err(|e| failure::file(doing, &self.to, e))? {
            // Without its main file nobody can read them, but they may hold what is lost.
            self.set_aside(aside, &["-wal", "-shm"])?;
            return self.keep().map(|()| None);
        }
        let kept = beside(&self.to, aside);
        self.set_aside(aside, &["", "-wal", "-shm"])?;
        let failed = |e| failure::file(doing, &self.to, e);
        // Dying from here on: the old main file may be without its log for a moment, and has both under the other name.
        fs::rename(&self.fresh, &self.to).map_err(failed)?;
        self.named = true;
        sync_folder(doing, &self.to)?;
        Ok(Some(kept))
    }

    /// Gives files of the old store their other name; those but the main file lose their first: the new main file must not
    /// be read with the old one's write-ahead log.
    fn set_aside(&self, aside: &str, suffixes: &[&str]) -> Result<()> {
        let doing = "keeping the old store";
        let kept = beside(&self.to, aside);
        for suffix in suffixes {
            let (old, new) = (beside(&self.to, suffix), beside(&kept, suffix));
            match fs::hard_link(&old, &new) {
                Err(e) if e.kind() == NotFound => {}
                linked => linked.map_err(|e| failure::file(doing, &new, e))?,
            }
        }
        sync_folder(doing, &self.to)?;
        for suffix in suffixes.iter().filter(|suffix| !suffix.is_empty()) {
            let old = beside(&self.to, suffix);
            match fs::remove_file(&old) {
                Err(e) if e.kind() == NotFound => {}
                removed => removed.map_err(|e| failure::file(doing, &old, e))?,
            }
        }
        sync_folder(doing, &self.to)
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        if !self.named {
            remove(&self.fresh);
        }
    }
}
