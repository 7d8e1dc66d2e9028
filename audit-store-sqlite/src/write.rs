//! Writing: one transaction at a time, in the order of the lock files' queue.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use audit_core::datakey::KeyRecord;
use audit_core::entry::check_origin;
use audit_core::packed;
use audit_core::store::{Batch, Build, Head, Row};
use audit_core::{Error, ErrorKind, Result};
use rusqlite::ffi::ErrorCode;
use rusqlite::{Connection, Statement};
use uuid::Uuid;

use crate::failure::{self, ALREADY_THERE};
use crate::layout::{Layout, inode, open_writer};
use crate::locks::Queue;
use crate::query::{Db, int};

/// Stored parts of one entry: what SQLite holds in one row (`SQLITE_MAX_LENGTH`, 10⁹), less the other columns.
const PARTS_BYTES_MAX: usize = 999_000_000;

/// The connection that writes.
pub(crate) struct Writer {
    path: PathBuf,
    connection: Connection,
    layout: Layout,
    queue: Queue,
    /// The head that this connection committed last.
    known: Cell<Option<Known>>,
    /// Of the file that the connection has open; it can't be given to another file meanwhile.
    inode: u64,
}

/// A head, and what tells whether it is still the file's.
struct Known {
    head: Head,
    /// SQLite's `data_version` in the transaction that made the head.
    version: i64,
}

impl Writer {
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        // The store first: no lock files are left beside what isn't one.
        let (connection, layout) = open_writer(&path)?;
        let queue = Queue::open(&path)?;
        let inode = inode_at(&path)?;
        Ok(Self {
            path,
            connection,
            layout,
            queue,
            known: Cell::new(None),
            inode,
        })
    }

    /// Refuses to write to a file that was deleted or replaced: it would be gone with this process.
    fn check_named(&self) -> Result<()> {
        if inode_at(&self.path)? == self.inode {
            Ok(())
        } else {
            Err(Error::unavailable(format!(
                "{} is another file than the one that this process opened",
                self.path.display()
            )))
        }
    }

    pub(crate) fn create(&self, origin: &str) -> Result<()> {
        check_origin(origin)?;
        self.write(|db| {
            if let Some(there) = db.origin()? {
                return Err(Error::invalid(format!(
                    "{} already is the store of the log {there:?}",
                    self.path.display()
                )));
            }
            self.execute(
                db,
                "INSERT INTO meta (name, value) VALUES ('origin', ?1)",
                [origin],
            )?;
            Ok(())
        })
    }

    pub(crate) fn append(&self, mut build: Build) -> Result<Head> {
        // Whatever fails from here on, the next append reads the file again.
        let known = self.known.take();
        let (head, version) = self.write(|db| {
            let version = db.version()?;
            let head = match known {
                // Nobody else has committed since this connection did, so reading would answer the same, from the same
                // pages in memory.
                Some(known) if known.version == version => known.head,
                _ => self.stored_head(db)?,
            };
            let batch = build(&head)?;
            batch.check(&head, PARTS_BYTES_MAX)?;
            let after = batch.head_after(&head)?;
            self.insert(db, &batch)?;
            Ok((after, version))
        })?;
        self.known.set(Some(Known {
            head: head.clone(),
            version,
        }));
        Ok(head)
    }

    fn stored_head(&self, db: Db<'_>) -> Result<Head> {
        if db.origin()?.is_none() {
            return Err(Error::invalid(format!(
                "{} is not the store of a log yet",
                self.path.display()
            )));
        }
        db.head()
    }

    fn insert(&self, db: Db<'_>, batch: &Batch) -> Result<()> {
        let mut entries = db.prepare(
            "INSERT INTO entry (idx, event, kind, time, entry, token_salt, tokens, parts)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let mut tokens = db.prepare("INSERT INTO token (token, idx) VALUES (?1, ?2)")?;
        for row in &batch.rows {
            self.insert_row(&mut entries, &mut tokens, row)
                .map_err(|e| e.at(row.index))?;
        }
        for tile in &batch.tiles {
            self.execute(
                db,
                "INSERT INTO tile (level, idx, hashes) VALUES (?1, ?2, ?3)
                 ON CONFLICT (level, idx) DO UPDATE SET hashes = excluded.hashes",
                (tile.id.level, int(tile.id.index), tile.encode()),
            )?;
        }
        batch
            .keys
            .iter()
            .try_for_each(|key| self.insert_key(db, key))
    }

    pub(crate) fn put_checkpoint(&self, size: u64, note: &[u8]) -> Result<()> {
        self.write(|db| {
            let log = db.size()?;
            if size == 0 || size > log {
                return Err(Error::invalid(format!(
                    "a checkpoint of tree size {size} in a log of {log} entries"
                )));
            }
            match db.checkpoint(size)? {
                Some(there) if there == note => Ok(()),
                Some(_) => Err(Error::invalid(format!(
                    "there is another checkpoint of tree size {size}"
                ))),
                None => self
                    .execute(
                        db,
                        "INSERT INTO checkpoint (size, note) VALUES (?1, ?2)",
                        (int(size), note),
                    )
                    .map(drop),
            }
        })
    }

    pub(crate) fn rewrap(&self, records: &[KeyRecord]) -> Result<()> {
        self.write(|db| {
            for record in records {
                let changed = self.execute(
                    db,
                    "UPDATE data_key SET scope = ?2, run = ?3, generation = ?4, wrapped = ?5 WHERE id = ?1",
                    (
                        record.id.as_bytes(),
                        record.scope.0,
                        record.run.as_bytes(),
                        record.generation,
                        record.wrapped,
                    ),
                )?;
                if changed == 0 {
                    return Err(Error::invalid(format!(
                        "data key {} has no record",
                        record.id
                    )));
                }
            }
            Ok(())
        })?;
        // The old generation would otherwise stay readable in the write-ahead log.
        self.truncate_log()
    }

    pub(crate) fn erase(&self, keys: &[Uuid], indexes: &[u64]) -> Result<()> {
        self.write(|db| {
            for key in keys {
                self.execute(db, "DELETE FROM data_key WHERE id = ?1", [key.as_bytes()])?;
            }
            for &index in indexes {
                if let Some(set) = db.tokens_of(index)? {
                    for token in set.tokens {
                        self.execute(
                            db,
                            "DELETE FROM token WHERE token = ?1 AND idx = ?2",
                            (token.0, int(index)),
                        )?;
                    }
                }
                self.execute(
                    db,
                    "UPDATE entry SET token_salt = NULL, tokens = NULL, parts = NULL WHERE idx = ?1",
                    [int(index)],
                )?;
            }
            Ok(())
        })?;
        self.truncate_log()
    }

    /// Moves the write-ahead log into the main file and cuts it to nothing, so that it holds no erased bytes.
    fn truncate_log(&self) -> Result<()> {
        let _turn = self.queue.turn()?;
        let busy: i64 = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(|e| failure::sqlite("truncating the write-ahead log of", &self.path, e))?;
        if busy == 0 {
            return Ok(());
        }
        // The tables are done; only this step is left, and the same call repeats it.
        Err(Error::unavailable(format!(
            "erased from the tables of {}, but a reader keeps the old bytes in its write-ahead log; hint: end programs \
             that read it and erase again",
            self.path.display()
        )))
    }

    /// Runs `change` in one transaction, durable on return.
    fn write<T>(&self, change: impl FnOnce(Db<'_>) -> Result<T>) -> Result<T> {
        let connection = &self.connection;
        let _turn = self.queue.turn()?;
        self.check_named()?;
        let db = Db {
            connection,
            layout: self.layout,
            path: &self.path,
        };
        let mut commit = db.prepare("COMMIT")?;
        db.prepare("BEGIN IMMEDIATE")?
            .execute([])
            .map_err(|e| self.failed(e))?;
        // Dying from here to COMMIT, or a panic in `change`, leaves nothing behind.
        let open = Open(connection);
        let done = change(db)?;
        let committed = commit.execute([]);
        // Dying from here on leaves everything behind.
        let Err(e) = committed else { return Ok(done) };
        // SQLite keeps the transaction open only when not one page of it went into the log with a commit mark: refused
        // before writing, or no space for the frames. After any other failure the mark may be on the disk.
        let certain = matches!(
            e.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DiskFull)
        ) && !connection.is_autocommit();
        drop(open);
        if certain && connection.is_autocommit() {
            return Err(self.failed(e));
        }
        Err(Error::new(
            ErrorKind::Unknown,
            format!(
                "committing to {} failed, and may have happened",
                self.path.display()
            ),
        )
        .because(e))
    }

    fn insert_row(
        &self,
        entries: &mut Statement<'_>,
        tokens: &mut Statement<'_>,
        row: &Row,
    ) -> Result<()> {
        let packed = match self.layout {
            Layout::One => None,
            Layout::Two => Some(packed::pack(&row.entry)),
        };
        let set = row.tokens.as_ref();
        let inserted = entries.execute((
            int(row.index),
            row.columns.event.as_bytes(),
            row.columns.kind.as_str(),
            row.columns.time.as_micros(),
            packed.as_ref().unwrap_or(&row.entry),
            set.map(|set| set.salt.0),
            set.map(|set| set.tokens.iter().flat_map(|t| t.0).collect::<Vec<u8>>()),
            &row.parts,
        ));
        if let Err(e) = inserted {
            if already_there(&e) {
                return Err(Error::invalid(format!(
                    "event {} is already in the log",
                    row.columns.event
                ))
                .because(e));
            }
            return Err(self.failed(e));
        }
        for token in set.into_iter().flat_map(|set| &set.tokens) {
            tokens
                .execute((token.0, int(row.index)))
                .map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    fn insert_key(&self, db: Db<'_>, key: &KeyRecord) -> Result<()> {
        let inserted = db
            .prepare(
                "INSERT INTO data_key (id, scope, run, generation, wrapped) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((
                key.id.as_bytes(),
                key.scope.0,
                key.run.as_bytes(),
                key.generation,
                key.wrapped,
            ));
        match inserted {
            Ok(_) => Ok(()),
            Err(e) if already_there(&e) => {
                Err(Error::invalid(format!("data key {} already has a record", key.id)).because(e))
            }
            Err(e) => Err(self.failed(e)),
        }
    }

    fn execute(&self, db: Db<'_>, sql: &str, params: impl rusqlite::Params) -> Result<usize> {
        db.prepare(sql)?.execute(params).map_err(|e| self.failed(e))
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        failure::sqlite("writing to", &self.path, error)
    }
}

/// An open transaction; rolled back when dropped, unless it was committed.
struct Open<'a>(&'a Connection);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.0.is_autocommit() {
            // If this fails the transaction stays open, and the next BEGIN says so.
            drop(self.0.execute_batch("ROLLBACK"));
        }
    }
}

fn already_there(error: &rusqlite::Error) -> bool {
    error
        .sqlite_extended_error_code()
        .is_some_and(|code| ALREADY_THERE.contains(&code))
}

fn inode_at(path: &Path) -> Result<u64> {
    std::fs::metadata(path)
        .map(|meta| inode(&meta))
        .map_err(|e| failure::file("writing to the store", path, e))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use audit_testkit::sample::Sample;

    use super::*;

    fn writer(dir: &Path) -> Writer {
        let path = dir.join("log.db");
        crate::layout::create(&path).unwrap();
        let writer = Writer::open(path).unwrap();
        writer.create("example.com/log").unwrap();
        writer
    }

    fn append(writer: &Writer, rows: usize, bytes: usize) -> Result<Head> {
        let sample = Sample::new(rows, 1).parts_bytes(bytes);
        writer.append(Box::new(move |head| sample.batch(head)))
    }

    fn pages_max(writer: &Writer, pages: u32) {
        let connection = &writer.connection;
        connection
            .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
            .unwrap();
    }

    #[test]
    fn a_full_disk_is_unavailable_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(dir.path());
        append(&writer, 3, 100).unwrap();
        pages_max(&writer, 40);
        let error = append(&writer, 3, 200_000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("no space"), "{error}");
        pages_max(&writer, 1_000_000);
        assert_eq!(append(&writer, 3, 200_000).unwrap().size, 6);
    }

    #[test]
    fn a_commit_that_fails_is_unknown_and_the_next_one_works() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(dir.path());
        // A token row without its entry is refused at COMMIT, when that is put off.
        let committed = writer.write(|db| {
            db.connection
                .execute_batch(
                    "PRAGMA defer_foreign_keys = ON; INSERT INTO token VALUES (zeroblob(16), 99)",
                )
                .map_err(|e| writer.failed(e))
        });
        assert_eq!(committed.unwrap_err().kind(), ErrorKind::Unknown);
        assert_eq!(append(&writer, 3, 100).unwrap().size, 3);
    }

    #[test]
    fn a_build_that_panics_leaves_the_writer_usable() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(dir.path());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            writer.append(Box::new(|_| panic!("as planned")))
        }));
        drop(panicked.expect_err("the panic of `build` is passed on"));
        assert_eq!(append(&writer, 3, 100).unwrap().size, 3);
    }
}
