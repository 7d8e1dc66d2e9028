//! The baseline of appending: the same rows into the same tables, one transaction per batch, and nothing else.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use audit_core::packed;
use audit_core::store::Batch;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::Result;
use crate::workload::open_store;

/// The values of one batch as SQLite takes them, so that preparing them isn't part of the baseline.
#[derive(Debug)]
pub struct BareBatch {
    entries: Vec<BareEntry>,
    tokens: Vec<([u8; 16], i64)>,
    tiles: Vec<(u8, i64, Vec<u8>)>,
    keys: Vec<BareKey>,
}

#[derive(Debug)]
struct BareEntry {
    index: i64,
    event: [u8; 16],
    kind: String,
    time: i64,
    entry: Vec<u8>,
    token_salt: Option<[u8; 16]>,
    tokens: Option<Vec<u8>>,
    parts: Option<Vec<u8>>,
}

#[derive(Debug)]
struct BareKey {
    id: [u8; 16],
    scope: [u8; 16],
    run: [u8; 16],
    generation: u32,
    wrapped: Vec<u8>,
}

impl BareBatch {
    /// The values of a batch that a log made.
    pub fn new(batch: &Batch) -> Result<Self> {
        let mut bare = Self {
            entries: Vec::new(),
            tokens: Vec::new(),
            tiles: Vec::new(),
            keys: Vec::new(),
        };
        for row in &batch.rows {
            let index = i64::try_from(row.index)?;
            let set = row.tokens.as_ref();
            bare.tokens.extend(
                set.into_iter()
                    .flat_map(|set| &set.tokens)
                    .map(|token| (token.0, index)),
            );
            bare.entries.push(BareEntry {
                index,
                event: row.columns.event.into_bytes(),
                kind: row.columns.kind.as_str().to_owned(),
                time: row.columns.time.as_micros(),
                entry: packed::pack(&row.entry),
                token_salt: set.map(|set| set.salt.0),
                tokens: set.map(|set| set.tokens.iter().flat_map(|token| token.0).collect()),
                parts: row.parts.clone(),
            });
        }
        for tile in &batch.tiles {
            bare.tiles
                .push((tile.id.level, i64::try_from(tile.id.index)?, tile.encode()));
        }
        bare.keys.extend(batch.keys.iter().map(|key| BareKey {
            id: key.id.into_bytes(),
            scope: key.scope.0,
            run: key.run.into_bytes(),
            generation: key.generation,
            wrapped: key.wrapped.to_vec(),
        }));
        Ok(bare)
    }

    /// Events in it.
    #[must_use]
    pub fn events(&self) -> usize {
        self.entries.len()
    }
}

/// A file with the store's schema and pragmas.
#[derive(Debug)]
pub struct Bare {
    connection: Connection,
}

impl Bare {
    /// Makes a new file.
    pub fn create(path: &Path) -> Result<Self> {
        // The store makes its schema; what it sets for each connection is repeated here.
        drop(open_store(&format!("sqlite:{}", path.display()))?);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.execute_batch(
            "PRAGMA trusted_schema = OFF;
             PRAGMA cell_size_check = ON;
             PRAGMA mmap_size = 0;
             PRAGMA foreign_keys = ON;
             PRAGMA secure_delete = ON;
             PRAGMA synchronous = FULL;
             PRAGMA temp_store = MEMORY;
             PRAGMA journal_size_limit = 67108864;",
        )?;
        let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
        if journal != "wal" {
            return Err(format!("the journal is {journal:?}, not \"wal\"").into());
        }
        Ok(Self { connection })
    }

    /// Commits a batch; durable on return.
    pub fn commit(&self, batch: &BareBatch) -> Result<()> {
        let db = &self.connection;
        db.execute_batch("BEGIN IMMEDIATE")?;
        let mut entry = db.prepare_cached(
            "INSERT INTO entry (idx, event, kind, time, entry, token_salt, tokens, parts)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        for e in &batch.entries {
            entry.execute((
                e.index,
                e.event,
                &e.kind,
                e.time,
                &e.entry,
                e.token_salt,
                &e.tokens,
                &e.parts,
            ))?;
        }
        let mut token = db.prepare_cached("INSERT INTO token (token, idx) VALUES (?1, ?2)")?;
        for row in &batch.tokens {
            token.execute(*row)?;
        }
        let mut tile = db.prepare_cached(
            "INSERT INTO tile (level, idx, hashes) VALUES (?1, ?2, ?3)
             ON CONFLICT (level, idx) DO UPDATE SET hashes = excluded.hashes",
        )?;
        for (level, index, hashes) in &batch.tiles {
            tile.execute((level, index, hashes))?;
        }
        let mut key = db.prepare_cached(
            "INSERT INTO data_key (id, scope, run, generation, wrapped) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for k in &batch.keys {
            key.execute((k.id, k.scope, k.run, k.generation, &k.wrapped))?;
        }
        Ok(db.execute_batch("COMMIT")?)
    }
}

/// Commits batches one after the other, from the first on again in a new file when they are used up.
#[derive(Debug)]
pub struct Replay {
    dir: PathBuf,
    batches: Vec<BareBatch>,
    file: Bare,
    files: u32,
    next: usize,
}

impl Replay {
    /// Replays into files in `dir`.
    pub fn new(dir: &Path, batches: Vec<BareBatch>) -> Result<Self> {
        Ok(Self {
            dir: dir.to_path_buf(),
            batches,
            file: Bare::create(&dir.join("bare-0.db"))?,
            files: 1,
            next: 0,
        })
    }

    /// Commits the next batch, and answers with its number of events.
    pub fn commit(&mut self) -> Result<usize> {
        let Some(batch) = self.batches.get(self.next) else {
            return Err("the batches are used up".into());
        };
        self.next += 1;
        self.file.commit(batch)?;
        Ok(batch.events())
    }

    /// Begins again in a new file, up to the first `batches` batches, unless `needed` more are left.
    pub fn make_room(&mut self, needed: usize, batches: usize) -> Result<()> {
        if self.batches.len() - self.next >= needed {
            return Ok(());
        }
        self.file = Bare::create(&self.dir.join(format!("bare-{}.db", self.files)))?;
        self.files += 1;
        self.next = 0;
        for _ in 0..batches {
            self.commit()?;
        }
        Ok(())
    }
}

/// A file to which something is written and synced: what no durable append can do without.
#[derive(Debug)]
pub struct SyncedFile(File);

impl SyncedFile {
    /// Makes the file at its full length, as SQLite's log is after its first use.
    pub fn create(path: &Path) -> Result<Self> {
        let mut file = File::create_new(path)?;
        file.write_all(&vec![0; 4 << 20])?;
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Self(file))
    }

    /// Overwrites the next `bytes` and syncs them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.0.stream_position()? + bytes.len() as u64 > 4 << 20 {
            self.0.seek(SeekFrom::Start(0))?;
        }
        self.0.write_all(bytes)?;
        Ok(self.0.sync_data()?)
    }
}
