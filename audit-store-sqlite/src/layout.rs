//! The schema, and opening a file that should have it (`docs/sqlite-layout.md`).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use audit_core::{Error, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::failure;

/// How a file is laid out, by its `user_version`. It stays what it was made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Entries as they are. Files of version 0.1.0.
    One,
    /// Entries packed. New files.
    Two,
}

impl Layout {
    const ALL: [Self; 2] = [Self::One, Self::Two];
    /// What new files have.
    const NEW: Self = Self::Two;

    pub(crate) fn version(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// Name and definition of everything in the schema. The layouts differ in a definition, so that a file with the
    /// version of the other one is refused.
    fn schema(self) -> [(&'static str, &'static str); 10] {
        SCHEMA.map(|(name, definition)| match (name, self) {
            ("entry", Self::One) => (name, ENTRY_1),
            _ => (name, definition),
        })
    }
}

/// The table of entries in layout 1.
const ENTRY_1: &str = "CREATE TABLE entry (
  idx INTEGER PRIMARY KEY CHECK (idx >= 0),
  event BLOB NOT NULL CHECK (length(event) = 16),
  kind TEXT NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),
  time INTEGER NOT NULL CHECK (time >= 0),
  entry BLOB NOT NULL CHECK (length(entry) BETWEEN 1 AND 65535),
  token_salt BLOB CHECK (length(token_salt) = 16),
  tokens BLOB CHECK (length(tokens) BETWEEN 16 AND 4096 AND length(tokens) % 16 = 0),
  parts BLOB,
  CHECK ((token_salt IS NULL) = (tokens IS NULL))
) STRICT";

/// `LLAT`, in `application_id`.
const APPLICATION_ID: i32 = i32::from_be_bytes(*b"LLAT");
/// How long SQLite itself waits for a lock. Writers queue before they come here, so this is for other programs only.
const BUSY: Duration = Duration::from_secs(5);
/// More than the statements of this crate, so that none is compiled twice.
const STATEMENTS: usize = 64;

/// Name and definition of everything in the schema of layout 2, by name.
const SCHEMA: [(&str, &str); 10] = [
    (
        "checkpoint",
        "CREATE TABLE checkpoint (
  size INTEGER PRIMARY KEY CHECK (size >= 1),
  note BLOB NOT NULL CHECK (length(note) BETWEEN 1 AND 1048576)
) STRICT",
    ),
    (
        "data_key",
        "CREATE TABLE data_key (
  id BLOB PRIMARY KEY CHECK (length(id) = 16),
  scope BLOB NOT NULL CHECK (length(scope) = 16),
  run BLOB NOT NULL CHECK (length(run) = 16),
  generation INTEGER NOT NULL CHECK (generation BETWEEN 1 AND 4294967295),
  wrapped BLOB NOT NULL CHECK (length(wrapped) = 60)
) STRICT, WITHOUT ROWID",
    ),
    (
        "data_key_scope",
        "CREATE INDEX data_key_scope ON data_key (scope)",
    ),
    (
        "entry",
        "CREATE TABLE entry (
  idx INTEGER PRIMARY KEY CHECK (idx >= 0),
  event BLOB NOT NULL CHECK (length(event) = 16),
  kind TEXT NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),
  time INTEGER NOT NULL CHECK (time >= 0),
  entry BLOB NOT NULL CHECK (length(entry) BETWEEN 1 AND 98303),
  token_salt BLOB CHECK (length(token_salt) = 16),
  tokens BLOB CHECK (length(tokens) BETWEEN 16 AND 4096 AND length(tokens) % 16 = 0),
  parts BLOB,
  CHECK ((token_salt IS NULL) = (tokens IS NULL))
) STRICT",
    ),
    (
        "entry_event",
        "CREATE UNIQUE INDEX entry_event ON entry (event)",
    ),
    // The leaf index follows every key of an index in the file, so this one finds a kind in the order of the log.
    ("entry_kind", "CREATE INDEX entry_kind ON entry (kind)"),
    // With the kind in it, a search by time and kind never touches the entries.
    (
        "entry_time",
        "CREATE INDEX entry_time ON entry (time, kind)",
    ),
    (
        "meta",
        "CREATE TABLE meta (
  name TEXT PRIMARY KEY CHECK (name = 'origin'),
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID",
    ),
    (
        "tile",
        "CREATE TABLE tile (
  level INTEGER NOT NULL CHECK (level BETWEEN 0 AND 7),
  idx INTEGER NOT NULL CHECK (idx >= 0),
  hashes BLOB NOT NULL CHECK (length(hashes) BETWEEN 32 AND 8192 AND length(hashes) % 32 = 0),
  PRIMARY KEY (level, idx)
) STRICT",
    ),
    (
        "token",
        "CREATE TABLE token (
  token BLOB NOT NULL CHECK (length(token) = 16),
  idx INTEGER NOT NULL REFERENCES entry (idx),
  PRIMARY KEY (token, idx)
) STRICT, WITHOUT ROWID",
    ),
];

/// `path` with `suffix` behind it, as in `log.db-wal`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens or makes a file that only its owner may read and write.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a new file with an empty schema. SQLite gives its `-wal` and `-shm` files the mode of this one.
pub(crate) fn create(path: &Path) -> Result<()> {
    let doing = "creating the store";
    let failed = |e| failure::file(doing, path, e);
    if fs::exists(path).map_err(failed)? {
        return Err(failed(std::io::ErrorKind::AlreadyExists.into()));
    }
    // Under its name it is complete: who dies before leaves a hidden file that nobody reads.
    let fresh = fresh_name(path);
    remove(&fresh);
    private().create_new(true).open(&fresh).map_err(failed)?;
    let named = fill(&fresh).and_then(|()| give_name(doing, &fresh, path));
    remove(&fresh);
    named
}

/// `.NAME.PID-N.new` in the folder of `path`, another one at each call.
pub(crate) fn fresh_name(path: &Path) -> PathBuf {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(
        ".{}-{}.new",
        std::process::id(),
        MADE.fetch_add(1, Ordering::Relaxed)
    ));
    path.with_file_name(name)
}

/// Removes a file that has no name yet, as far as it is there.
pub(crate) fn remove(fresh: &Path) {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        // Most of them were never made; what can't be removed is in nobody's way.
        drop(fs::remove_file(beside(fresh, suffix)));
    }
}

/// Gives a complete file its name, durably; nothing is overwritten.
pub(crate) fn give_name(doing: &str, fresh: &Path, path: &Path) -> Result<()> {
    use std::io::ErrorKind::{AlreadyExists, PermissionDenied, Unsupported};
    let failed = |e| failure::file(doing, path, e);
    match fs::hard_link(fresh, path) {
        // A file system without links.
        Err(e) if matches!(e.kind(), Unsupported | PermissionDenied) => {
            if fs::exists(path).map_err(failed)? {
                return Err(failed(AlreadyExists.into()));
            }
            fs::rename(fresh, path).map_err(failed)?;
        }
        linked => linked
            .and_then(|()| fs::remove_file(fresh))
            .map_err(failed)?,
    }
    sync_folder(doing, path)
}

/// A file's name is durable only with its directory.
pub(crate) fn sync_folder(doing: &str, path: &Path) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))
        .and_then(|dir| dir.sync_all())
        .map_err(|e| failure::file(doing, path, e))
}

fn fill(path: &Path) -> Result<()> {
    let path = &resolve(path)?;
    let failed = |e| failure::sqlite("creating the store", path, e);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    configure(&connection, path)?;
    journal(&connection, path)?;
    let mut sql = format!(
        "BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {};",
        Layout::NEW.version()
    );
    // Tables before the indexes on them: an index sorts behind its table's name.
    for (_, definition) in Layout::NEW.schema() {
        sql.push_str(definition);
        sql.push(';');
    }
    // With the header in the main file, a later opening can judge the file without its log.
    sql.push_str("COMMIT; PRAGMA wal_checkpoint(TRUNCATE);");
    connection.execute_batch(&sql).map_err(failed)
}

/// The file's real path: locks and SQLite's own files lie beside it, under whatever name it was opened.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(|e| failure::file("opening the store", path, e))
}

/// Looks at the file before SQLite does, for errors that say what is wrong.
pub(crate) fn inspect(path: &Path) -> Result<()> {
    let doing = "opening the store";
    let failed = |e| failure::file(doing, path, e);
    let meta = fs::metadata(path).map_err(failed)?;
    let invalid = |what: &str| {
        Err(Error::invalid(format!(
            "{doing} {}: {what}",
            path.display()
        )))
    };
    if meta.is_dir() {
        return invalid("this is a directory");
    }
    if !meta.is_file() {
        return invalid("this is not a file");
    }
    let mut header = Vec::with_capacity(100);
    File::open(path)
        .and_then(|file| file.take(100).read_to_end(&mut header))
        .map_err(failed)?;
    if header.is_empty() {
        return invalid(
            "the file is empty; hint: remove it if it was left by a `create` that was cut short",
        );
    }
    if !header.starts_with(b"SQLite format 3\0") {
        return invalid("this is not a SQLite file");
    }
    // <https://sqlite.org/fileformat.html#the_database_header>: page size at 16 (1 means 65,536), pages at 28. While there
    // is a log, pages that the header counts may still be there and nowhere else.
    let number = |at: usize, len: usize| {
        let bytes = header.get(at..at + len).unwrap_or_default();
        bytes.iter().fold(0_u64, |n, b| n << 8 | u64::from(*b))
    };
    let page = match number(16, 2) {
        1 => 65_536,
        page => page,
    };
    let wants = page * number(28, 4);
    let logged = fs::metadata(beside(path, "-wal")).is_ok_and(|wal| wal.len() > 0);
    if header.len() < 100 || (meta.len() < wants && !logged) {
        return Err(Error::corrupt(format!(
            "{doing} {}: the file is cut off; it has {} bytes, its header says {wants}",
            path.display(),
            meta.len()
        )));
    }
    Ok(())
}

/// A connection that reads and writes.
pub(crate) fn open_writer(path: &Path) -> Result<(Connection, Layout)> {
    let failed = |e| failure::sqlite("opening the store", path, e);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    configure(&connection, path)?;
    let layout = check(&connection, path)?;
    // SQLite falls back to reading where it may not write.
    if connection.is_readonly("main").map_err(failed)? {
        return Err(Error::unavailable(format!(
            "opening the store {}: the file can't be written",
            path.display()
        )));
    }
    journal(&connection, path)?;
    Ok((connection, layout))
}

/// A connection that reads.
pub(crate) fn open_reader(path: &Path, stamp: Option<&Stamp>) -> Result<(Connection, Layout)> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut name = path.to_path_buf();
    if stamp.is_some() {
        flags |= OpenFlags::SQLITE_OPEN_URI;
        name = PathBuf::from(format!("file:{}?immutable=1", percent_encoded(path)));
    }
    let connection = Connection::open_with_flags(name, flags)
        .map_err(|e| failure::sqlite("opening the store", path, e))?;
    configure(&connection, path)?;
    let layout = check(&connection, path)?;
    Ok((connection, layout))
}

fn percent_encoded(path: &Path) -> String {
    let mut out = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                out.push(char::from(*byte));
            }
            _ => {
                out.push('%');
                out.push_str(&audit_core::hex::encode(&[*byte]));
            }
        }
    }
    out
}

fn configure(connection: &Connection, path: &Path) -> Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection
        .busy_timeout(BUSY)
        .and_then(|()| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true))
        .and_then(|_| {
            connection.execute_batch(
                "PRAGMA trusted_schema = OFF;
                 PRAGMA cell_size_check = ON;
                 PRAGMA mmap_size = 0;
                 PRAGMA foreign_keys = ON;
                 PRAGMA secure_delete = ON;
                 PRAGMA synchronous = FULL;
                 PRAGMA temp_store = MEMORY;
                 PRAGMA journal_size_limit = 67108864;",
            )
        })
        .map_err(|e| failure::sqlite("opening the store", path, e))
}

/// Turns the write-ahead log on, and makes sure that it is: some file systems refuse it without an error.
fn journal(connection: &Connection, path: &Path) -> Result<()> {
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(|e| failure::sqlite("opening the store", path, e))?;
    let synchronous: i64 = connection
        .query_row("PRAGMA synchronous", [], |row| row.get(0))
        .map_err(|e| failure::sqlite("opening the store", path, e))?;
    if mode == "wal" && synchronous == 2 {
        return Ok(());
    }
    Err(Error::unavailable(format!(
        "opening the store {}: SQLite's journal is {mode:?} with synchronous={synchronous} where \"wal\" with 2 is \
         needed; hint: network file systems can't hold a store",
        path.display()
    )))
}

/// Holds the file against the schema of its layout, and answers with it. A view or trigger could answer or write what
/// this program never stored.
fn check(connection: &Connection, path: &Path) -> Result<Layout> {
    let failed = |e| failure::sqlite("opening the store", path, e);
    let name = path.display();
    let pragma = |sql: &str| {
        connection
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .map_err(failed)
    };
    if pragma("PRAGMA application_id")? != i64::from(APPLICATION_ID) {
        return Err(Error::invalid(format!(
            "opening the store {name}: this is not an LLMAuditTrail store"
        )));
    }
    let version = pragma("PRAGMA user_version")?;
    let layout = Layout::ALL
        .into_iter()
        .find(|layout| i64::from(layout.version()) == version);
    let Some(layout) = layout else {
        return Err(Error::invalid(format!(
            "opening the store {name}: it has schema version {version}, this program reads 1 to {}; hint: use the \
             program that wrote it",
            Layout::NEW.version()
        )));
    };
    let schema = layout.schema();
    // The engine's own are left out: the indexes of primary keys, and the statistics that `ANALYZE` makes.
    let mut statement = connection
        .prepare(
            "SELECT name, sql FROM sqlite_schema
             WHERE NOT (type = 'index' AND sql IS NULL) AND NOT (type = 'table' AND substr(name, 1, 11) = 'sqlite_stat')
             ORDER BY name LIMIT 20",
        )
        .map_err(failed)?;
    let found = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<(String, Option<String>)>>>)
        .map_err(failed)?;
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|(name, sql)| (name.as_str(), sql.as_deref().unwrap_or_default()))
        .collect();
    let differs = found
        .iter()
        .find(|object| !schema.contains(object))
        .or_else(|| schema.iter().find(|object| !found.contains(object)));
    match differs {
        None => Ok(layout),
        Some((object, _)) => Err(Error::corrupt(format!(
            "opening the store {name}: {object:?} is not as schema version {version} has it"
        ))),
    }
}

/// What a file without a write-ahead log looked like: while this stays the same, nobody has written to it.
///
/// Reading a file in WAL mode makes `-wal` and `-shm` files, which a read-only opening mustn't and may not be able to.
/// SQLite's `immutable` avoids that, and doesn't notice writers at all; so every read compares stamps. A writer makes
/// a `-wal` file before it changes the main file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Stamp {
    /// `None` while there is a write-ahead log.
    pub(crate) fn of(path: &Path) -> Result<Option<Self>> {
        let failed = |e| failure::file("opening the store", path, e);
        let wal = beside(path, "-wal");
        if fs::exists(&wal).map_err(|e| failure::file("opening the store", &wal, e))? {
            return Ok(None);
        }
        let meta = fs::metadata(path).map_err(failed)?;
        Ok(Some(Self {
            len: meta.len(),
            modified: meta.modified().ok(),
            inode: inode(&meta),
        }))
    }
}

/// Tells a file from another of the same name.
#[cfg(unix)]
pub(crate) fn inode(meta: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

/// Tells a file from another of the same name.
#[cfg(not(unix))]
pub(crate) fn inode(_: &fs::Metadata) -> u64 {
    0
}
