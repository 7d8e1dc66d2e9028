//! Stores in temporary directories.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use audit_core::store::{Head, Store as _};
use audit_store_sqlite::SqliteStore;
use audit_testkit::sample::Sample;
use tempfile::TempDir;

/// A directory for stores.
pub(crate) struct Place {
    dir: TempDir,
    state: TempDir,
    made: AtomicU32,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            state: tempfile::tempdir().unwrap(),
            made: AtomicU32::new(0),
        }
    }

    /// The same, with the stores under `dir`.
    pub(crate) fn within(dir: &Path) -> Self {
        Self {
            dir: tempfile::tempdir_in(dir).unwrap(),
            ..Self::new()
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path of the next store.
    pub(crate) fn next(&self) -> PathBuf {
        self.made.fetch_add(1, Ordering::SeqCst);
        self.path()
    }

    /// The path of the last store.
    pub(crate) fn path(&self) -> PathBuf {
        let n = self.made.load(Ordering::SeqCst);
        // Characters that an URI would take for something else.
        self.dir.path().join(format!("a log?mode=x#{n}%20.db"))
    }

    /// A directory for a publisher's state, apart from the store.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.state.path().to_owned()
    }

    /// A store with the log `example.com/log`.
    pub(crate) async fn created(&self) -> SqliteStore {
        let store = SqliteStore::create_file(self.next()).unwrap();
        store.create("example.com/log").await.unwrap();
        store
    }

    /// A store with `rows` sample rows.
    pub(crate) async fn filled(&self, rows: usize) -> SqliteStore {
        let store = self.created().await;
        append(&store, rows, 1).await;
        store
    }
}

pub(crate) async fn append(store: &SqliteStore, rows: usize, seed: u64) -> Head {
    let sample = Sample::new(rows, seed);
    store
        .append(Box::new(move |head| sample.batch(head)))
        .await
        .unwrap()
}
