//! A few connections that read, used one at a time each.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use audit_core::{Error, Result};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::Semaphore;

use crate::failure;
use crate::layout::{Layout, Stamp, open_reader};

/// Reads at the same time; SQLite reads block no writer, so more only costs memory (up to 2 MB of pages each).
const CONNECTIONS_MAX: usize = 4;
/// How often a read is repeated because somebody wrote to a file that had no write-ahead log.
const ATTEMPTS_MAX: u32 = 10;

pub(crate) struct Readers {
    path: PathBuf,
    /// Whether files may be made beside the store's: then there is a writer, and its write-ahead log.
    live: bool,
    idle: Mutex<Vec<Reader>>,
    permits: Arc<Semaphore>,
}

struct Reader {
    connection: Connection,
    layout: Layout,
    /// Present when the file is read as one that doesn't change.
    stamp: Option<Stamp>,
}

impl Readers {
    pub(crate) fn new(path: PathBuf, live: bool) -> Arc<Self> {
        Arc::new(Self {
            path,
            live,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        })
    }

    /// Runs `read` on one state of the store, apart from the async runtime.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl Fn(&Transaction<'_>, Layout) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|e| Error::unavailable("the store is closed").because(e))?;
        let readers = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let done = readers.read_now(&read);
            drop(permit);
            done
        })
        .await
        .map_err(|e| Error::unavailable("a read was stopped").because(e))?
    }

    pub(crate) fn read_now<T>(
        &self,
        read: &dyn Fn(&Transaction<'_>, Layout) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..ATTEMPTS_MAX {
            let reader = self.reader()?;
            let done = self.attempt(&reader, read);
            if reader.stamp.is_some() && reader.stamp != Stamp::of(&self.path)? {
                // Somebody wrote meanwhile: what was read may be of two states, and so may be its errors.
                continue;
            }
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(reader);
            return done;
        }
        Err(Error::unavailable(format!(
            "reading {}: the file was changed by others {ATTEMPTS_MAX} times",
            self.path.display()
        )))
    }

    fn attempt<T>(
        &self,
        reader: &Reader,
        read: &dyn Fn(&Transaction<'_>, Layout) -> Result<T>,
    ) -> Result<T> {
        // One transaction sees one state of the store; dropping it ends it.
        let tx = Transaction::new_unchecked(&reader.connection, TransactionBehavior::Deferred)
            .map_err(|e| failure::sqlite("reading", &self.path, e))?;
        read(&tx, reader.layout)
    }

    fn reader(&self) -> Result<Reader> {
        let stamp = if self.live {
            None
        } else {
            Stamp::of(&self.path)?
        };
        loop {
            let idle = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            match idle {
                // One that takes part in the locking stays right whatever happens.
                Some(reader) if reader.stamp.is_none() || reader.stamp == stamp => {
                    return Ok(reader);
                }
                Some(_) => {}
                None => break,
            }
        }
        let (connection, layout) = open_reader(&self.path, stamp.as_ref())?;
        Ok(Reader {
            connection,
            layout,
            stamp,
        })
    }
}
