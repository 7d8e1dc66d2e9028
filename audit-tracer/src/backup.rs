//! Backups of stores that are one file.

use std::path::Path;
use std::sync::Arc;

use audit_core::store::ReadStore;
use audit_core::{Error, Result};

use crate::store::StoreUrl;

#[cfg(feature = "sqlite")]
pub use audit_store_sqlite::Backup;

/// A complete copy of a store that doesn't have its name yet. This build has no engine that makes one.
#[cfg(not(feature = "sqlite"))]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "it has no value")]
pub enum Backup {}

#[cfg(not(feature = "sqlite"))]
impl Backup {
    /// Gives it its name.
    pub fn keep(self) -> Result<()> {
        match self {}
    }

    /// Puts it in the place of a store.
    pub fn replace(self, _: &str) -> Result<Option<std::path::PathBuf>> {
        match self {}
    }
}

/// The copy, to look at before it is kept.
///
/// # Errors
///
/// As when a store is opened.
#[cfg(feature = "sqlite")]
pub fn backup_store(backup: &Backup) -> Result<Arc<dyn ReadStore>> {
    Ok(Arc::new(backup.store()?))
}

/// The copy, to look at before it is kept.
#[cfg(not(feature = "sqlite"))]
pub fn backup_store(backup: &Backup) -> Result<Arc<dyn ReadStore>> {
    match *backup {}
}

impl StoreUrl {
    /// Copies one state of the store to a file beside `to`, while others write; the copy gets the name `to` when it is
    /// kept. Blocks. `progress` is told the pages that are done, and how many there are.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the store isn't one file: such an engine has backups of its
    /// own, and a copy works between any two. Else what the engine says.
    pub fn backup(&self, to: &Path, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Backup> {
        let Some(path) = self.path() else {
            return Err(Error::invalid(
                "this store is not one file; hint: copy it to another store, or use its engine's own backups",
            ));
        };
        of_file(path, to, progress)
    }
}

#[cfg(feature = "sqlite")]
fn of_file(path: &Path, to: &Path, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Backup> {
    use audit_store_sqlite::{OpenMode, SqliteStore};
    SqliteStore::open(path, OpenMode::ReadOnly)?.backup(to, progress)
}

#[cfg(not(feature = "sqlite"))]
fn of_file(_: &Path, _: &Path, _: &(dyn Fn(u64, u64) + Sync)) -> Result<Backup> {
    Err(Error::invalid(
        "this build has no engine whose store is one file",
    ))
}
