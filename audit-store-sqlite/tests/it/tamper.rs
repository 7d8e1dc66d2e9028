//! The tamper matrix on SQLite files: what somebody does with `sqlite3` and no key, past every constraint, and that the
//! verifier says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use audit_core::store::ReadStore;
use audit_store_sqlite::{OpenMode, SqliteStore};
use audit_testkit::memory::Contents;
use audit_testkit::tamper::{
    self, Backend, Column, Loss, Place, Record, SampleLog, Sees, Special, Table, Tables, Value,
};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, params_from_iter};
use tempfile::TempDir;

const ORIGIN: &str = "log.example/clinic";

/// Files in a directory of its own.
struct Files {
    dir: Arc<TempDir>,
    made: Arc<AtomicU32>,
}

impl Files {
    fn new() -> Self {
        Self {
            dir: Arc::new(tempfile::tempdir().unwrap()),
            made: Arc::default(),
        }
    }

    fn next(&self) -> File {
        let n = self.made.fetch_add(1, Ordering::SeqCst);
        File {
            path: self.dir.path().join(format!("{n}.db")),
            dir: Arc::clone(&self.dir),
            made: Arc::clone(&self.made),
        }
    }
}

/// A log in a file, which is gone with it.
struct File {
    path: PathBuf,
    dir: Arc<TempDir>,
    made: Arc<AtomicU32>,
}

impl Drop for File {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            // Most have no side files.
            drop(fs::remove_file(beside(&self.path, suffix)));
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(n) => ValueRef::Integer(*n),
            Value::Text(bytes) => ValueRef::Text(bytes),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => Value::Integer(n),
        ValueRef::Text(bytes) => Value::Text(bytes.to_vec()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
        ValueRef::Real(_) => panic!("no table of a log has such numbers"),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value as SQL writes it.
fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(n) => n.to_string(),
        Value::Text(bytes) => format!("CAST({} AS TEXT)", literal(&Value::Blob(bytes.clone()))),
        Value::Blob(bytes) => {
            let digits = audit_core::hex::encode(bytes);
            format!("x'{digits}'")
        }
    }
}

fn names<'a>(columns: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = columns.into_iter().map(quoted).collect();
    quoted.join(", ")
}

/// An index, as the catalogue has it.
struct Index {
    name: String,
    /// None of one that a constraint made.
    sql: Option<String>,
    columns: Vec<String>,
}

/// How far the definition of a table is loosened.
#[derive(Clone, Copy, PartialEq)]
enum Loose {
    /// No types, no checks, nothing but the primary key of a table that is stored by it.
    Columns,
    /// That primary key has every column too, so that rows with equal keys fit.
    Keys,
}

impl File {
    /// A connection of somebody who isn't held up by constraints.
    fn raw(&self) -> Connection {
        let db = Connection::open(&self.path).unwrap();
        db.execute_batch(
            "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; PRAGMA synchronous = OFF;
             PRAGMA writable_schema = ON;",
        )
        .unwrap();
        db
    }

    fn sql(&self, sql: &str) -> Result<(), String> {
        let db = self.raw();
        db.execute_batch(sql).map_err(|e| e.to_string())?;
        db.close().map_err(|(_, e)| e.to_string())
    }

    fn strings(db: &Connection, sql: &str, about: &str) -> Vec<String> {
        let mut statement = db.prepare(sql).unwrap();
        let rows = statement.query_map([about], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn without_rowid(db: &Connection, table: &str) -> bool {
        let sql = "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1";
        db.query_row(sql, [table], |row| row.get(0)).unwrap()
    }

    fn indexes(db: &Connection, table: &str) -> Vec<Index> {
        let sql =
            "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?1 ORDER BY name";
        let found = Self::strings(db, sql, table).into_iter();
        found
            .map(|name| Index {
                sql: db
                    .query_row(
                        "SELECT sql FROM sqlite_schema WHERE name = ?1",
                        [&name],
                        |row| row.get(0),
                    )
                    .unwrap(),
                columns: Self::strings(
                    db,
                    "SELECT name FROM pragma_index_info(?1) ORDER BY seqno",
                    &name,
                ),
                name,
            })
            .collect()
    }

    fn exchange(
        db: &Connection,
        table: &Table,
        remove: &[Record],
        insert: &[Record],
    ) -> rusqlite::Result<()> {
        let name = quoted(&table.name);
        let columns: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        let every = |each: &dyn Fn(usize, &str) -> String, between: &str| {
            let all: Vec<String> = columns
                .iter()
                .enumerate()
                .map(|(n, c)| each(n + 1, c))
                .collect();
            all.join(between)
        };
        let same = every(&|n, column| format!("{} IS ?{n}", quoted(column)), " AND ");
        let places = every(&|n, _| format!("?{n}"), ", ");
        db.execute_batch("BEGIN")?;
        let mut delete = db.prepare(&format!("DELETE FROM {name} WHERE {same}"))?;
        for row in remove {
            let deleted = delete.execute(params_from_iter(row.iter().map(Bound)))?;
            assert_eq!(
                deleted, 1,
                "a row of {name} that is to be removed isn't there"
            );
        }
        let list = names(columns.iter().copied());
        let mut fill = db.prepare(&format!("INSERT INTO {name} ({list}) VALUES ({places})"))?;
        for row in insert {
            fill.execute(params_from_iter(row.iter().map(Bound)))?;
        }
        db.execute_batch("COMMIT")
    }

    /// The same with a looser schema, which then is put back as it was. Indexes are filled under it as well.
    fn exchange_loosely(
        &self,
        table: &Table,
        remove: &[Record],
        insert: &[Record],
        loose: Loose,
    ) -> rusqlite::Result<()> {
        let name = table.name.as_str();
        let db = self.raw();
        let without_rowid = Self::without_rowid(&db, name);
        let indexes = Self::indexes(&db, name);
        let original: String = db.query_row(
            "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1",
            [name],
            |row| row.get(0),
        )?;
        for (n, index) in indexes.iter().enumerate() {
            if index.sql.is_some() {
                db.execute_batch(&format!("DROP INDEX {}", quoted(&index.name)))?;
            } else {
                assert!(
                    !without_rowid,
                    "{name} has a UNIQUE constraint: say how to loosen it"
                );
                // One that a constraint made can only be dropped as one that was made by hand.
                db.execute(
                    "UPDATE sqlite_schema SET name = ?1, sql = ?2 WHERE name = ?3",
                    (
                        format!("loose_{n}"),
                        plain_index(n, name, index),
                        &index.name,
                    ),
                )?;
            }
        }
        let loosened = loosened(&db, table, without_rowid, loose);
        db.execute(
            "UPDATE sqlite_schema SET sql = ?1 WHERE type = 'table' AND name = ?2",
            (loosened, name),
        )?;
        db.close().map_err(|(_, e)| e)?;

        let db = self.raw();
        for (n, index) in indexes.iter().enumerate() {
            if index.sql.is_none() {
                db.execute_batch(&format!("DROP INDEX loose_{n}"))?;
            }
        }
        Self::exchange(&db, table, remove, insert)?;
        let fill = |db: &Connection| -> rusqlite::Result<()> {
            for (n, index) in indexes.iter().enumerate() {
                db.execute_batch(&plain_index(n, name, index))?;
            }
            Ok(())
        };
        // An index of a table without rowid ends with the primary key, so it is filled under the right one.
        if !without_rowid {
            fill(&db)?;
        }
        db.execute(
            "UPDATE sqlite_schema SET sql = ?1 WHERE type = 'table' AND name = ?2",
            (original, name),
        )?;
        db.close().map_err(|(_, e)| e)?;

        let db = self.raw();
        if without_rowid {
            fill(&db)?;
        }
        for (n, index) in indexes.iter().enumerate() {
            db.execute(
                "UPDATE sqlite_schema SET name = ?1, sql = ?2 WHERE name = ?3",
                (&index.name, &index.sql, format!("loose_{n}")),
            )?;
        }
        db.close().map_err(|(_, e)| e)
    }
}

fn plain_index(n: usize, table: &str, index: &Index) -> String {
    format!(
        "CREATE INDEX loose_{n} ON {} ({})",
        quoted(table),
        names(index.columns.iter().map(String::as_str))
    )
}

fn key_columns(db: &Connection, table: &str) -> Vec<String> {
    File::strings(
        db,
        "SELECT name FROM pragma_table_xinfo(?1) WHERE pk > 0 ORDER BY pk",
        table,
    )
}

fn loosened(db: &Connection, table: &Table, without_rowid: bool, loose: Loose) -> String {
    let mut key = key_columns(db, &table.name);
    let name = quoted(&table.name);
    if without_rowid {
        let rest = table.columns.iter().filter(|c| !key.contains(&c.name));
        let rest: Vec<String> = rest.map(|c| c.name.clone()).collect();
        if loose == Loose::Keys {
            // The key stands first in a row anyway, so no byte moves.
            key.extend(rest);
        }
        let columns = names(table.columns.iter().map(|c| c.name.as_str()));
        let key = names(key.iter().map(String::as_str));
        return format!("CREATE TABLE {name} ({columns}, PRIMARY KEY ({key})) WITHOUT ROWID");
    }
    let is_rowid = |column: &str| {
        let sql = "SELECT type FROM pragma_table_xinfo(?1) WHERE pk > 0";
        key == [column] && File::strings(db, sql, &table.name) == ["INTEGER"]
    };
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            let kind = if is_rowid(&column.name) {
                " INTEGER PRIMARY KEY"
            } else {
                ""
            };
            format!("{}{kind}", quoted(&column.name))
        })
        .collect();
    format!("CREATE TABLE {name} ({})", columns.join(", "))
}

impl Tables for File {
    fn duplicate(&self) -> Self {
        let files = Files {
            dir: Arc::clone(&self.dir),
            made: Arc::clone(&self.made),
        };
        let copy = files.next();
        fs::copy(&self.path, &copy.path).unwrap();
        copy
    }

    fn tables(&self) -> Vec<Table> {
        let db = self.raw();
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE ?1 ORDER BY name";
        let tables = Self::strings(&db, sql, "sqlite_%").into_iter();
        tables
            .map(|name| {
                let key = key_columns(&db, &name);
                let sql = "SELECT name FROM pragma_table_xinfo(?1) ORDER BY cid";
                let columns = Self::strings(&db, sql, &name).into_iter();
                Table {
                    columns: columns
                        .map(|name| Column {
                            key: key.contains(&name),
                            name,
                        })
                        .collect(),
                    name,
                }
            })
            .collect()
    }

    fn rows(&self, table: &Table) -> Vec<Record> {
        let db = self.raw();
        let columns = names(table.columns.iter().map(|c| c.name.as_str()));
        let key = key_columns(&db, &table.name);
        let sql = format!(
            "SELECT {columns} FROM {} ORDER BY {}",
            quoted(&table.name),
            names(key.iter().map(String::as_str))
        );
        let mut statement = db.prepare(&sql).unwrap();
        let rows = statement.query_map([], |row| {
            (0..table.columns.len())
                .map(|at| row.get_ref(at).map(value))
                .collect()
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    fn write(&mut self, table: &Table, remove: &[Record], insert: &[Record]) -> Result<(), String> {
        let before = fs::read(&self.path).unwrap();
        let db = self.raw();
        let Err(mut why) = Self::exchange(&db, table, remove, insert) else {
            return db.close().map_err(|(_, e)| e.to_string());
        };
        let mut ways = vec![Loose::Columns];
        if Self::without_rowid(&db, &table.name) {
            ways.push(Loose::Keys);
        }
        drop(db);
        for way in ways {
            fs::write(&self.path, &before).unwrap();
            match self.exchange_loosely(table, remove, insert, way) {
                Ok(()) => return Ok(()),
                Err(e) => why = e,
            }
        }
        Err(why.to_string())
    }

    fn places(&self, table: &Table, row: &Record) -> Vec<Place> {
        let says = |text: String| vec![Place::Says(text)];
        match table.name.as_str() {
            "entry" => tamper::index_places(&row[0]),
            "token" => {
                let mut places = tamper::index_places(&row[1]);
                // What isn't a token of an entry is named by itself.
                if let Value::Blob(bytes) = &row[0] {
                    places.extend(says(audit_core::hex::encode(bytes)));
                }
                places
            }
            "tile" => tamper::tile_places(&row[0], &row[1]),
            "checkpoint" => tamper::checkpoint_places(&row[0]),
            "data_key" => tamper::key_places(&row[0]),
            "meta" => ["which log", "of the log", "meta"]
                .map(|t| Place::Says(t.to_owned()))
                .to_vec(),
            // One that this test doesn't know has to be named.
            other => says(other.to_owned()),
        }
    }

    fn loss(&self, table: &Table, loss: Loss) -> (Sees, Vec<Place>) {
        match (table.name.as_str(), loss) {
            ("checkpoint", loss) => tamper::checkpoint_loss(loss),
            _ => (Sees::Anybody, Vec::new()),
        }
    }

    fn open(&self) -> audit_core::Result<Arc<dyn ReadStore>> {
        Ok(Arc::new(SqliteStore::open(&self.path, OpenMode::ReadOnly)?))
    }
}

impl Backend for Files {
    type Copy = File;

    fn load(&self, contents: &Contents) -> Result<File, String> {
        let file = self.next();
        let mut contents = contents.clone();
        let origin = contents.origin.is_some();
        contents.origin.get_or_insert_with(|| ORIGIN.to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let store = SqliteStore::create_file(&file.path).map_err(|e| e.to_string())?;
        let beyond = runtime
            .block_on(tamper::load(&contents, &store))
            .map_err(|e| format!("{e:?}"))?;
        drop(store);
        let db = file.raw();
        for (size, note) in beyond {
            db.execute(
                "INSERT INTO checkpoint (size, note) VALUES (?1, ?2)",
                (i64::try_from(size).unwrap(), note),
            )
            .map_err(|e| e.to_string())?;
        }
        if !origin {
            db.execute("DELETE FROM meta WHERE name = 'origin'", [])
                .map_err(|e| e.to_string())?;
        }
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
        db.close().unwrap();
        for suffix in [".queue.lock", ".write.lock", ".publisher.lock"] {
            drop(fs::remove_file(beside(&file.path, suffix)));
        }
        Ok(file)
    }

    fn specials(&self, good: &File) -> Vec<Special<File>> {
        let db = good.raw();
        let version: i64 = db
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .unwrap();
        let mut all = vec![by_sql(
            "another program's file".to_owned(),
            &["not an LLMAuditTrail store"],
            "PRAGMA application_id = 1".to_owned(),
        )];
        for other in [0, version - 1, version + 1, i64::from(i32::MAX), -1] {
            if other != version {
                all.push(by_sql(
                    format!("schema version {other}"),
                    &[&format!("schema version {other}")],
                    format!("PRAGMA user_version = {other}"),
                ));
            }
        }
        for (what, sql) in [
            ("table", "CREATE TABLE extra (x)"),
            ("view", "CREATE VIEW extra AS SELECT 1"),
            ("index", "CREATE INDEX extra ON checkpoint (note)"),
            (
                "trigger",
                "CREATE TRIGGER extra AFTER INSERT ON entry BEGIN DELETE FROM token; END",
            ),
        ] {
            all.push(by_sql(format!("a {what} more"), &["extra"], sql.to_owned()));
        }
        for table in good.tables() {
            all.extend(table_specials(&db, good, &table));
        }
        all
    }
}

fn by_sql(name: String, says: &[&str], sql: String) -> Special<File> {
    Special {
        name,
        says: says.iter().map(|s| (*s).to_owned()).collect(),
        change: Box::new(move |file| file.sql(&sql)),
    }
}

fn table_specials(db: &Connection, good: &File, table: &Table) -> Vec<Special<File>> {
    let name = table.name.as_str();
    let at = quoted(name);
    let indexes = File::indexes(db, name);
    let mut all = vec![
        by_sql(
            format!("table {name} dropped"),
            &[name],
            format!("DROP TABLE {at}"),
        ),
        by_sql(
            format!("table {name} renamed"),
            &[name, "renamed"],
            format!("ALTER TABLE {at} RENAME TO renamed"),
        ),
        by_sql(
            format!("table {name} with a column more"),
            &[name],
            format!("ALTER TABLE {at} ADD COLUMN extra BLOB"),
        ),
        by_sql(
            format!("table {name} defined otherwise"),
            &[name],
            format!("UPDATE sqlite_schema SET sql = sql || ' ' WHERE name = '{name}'"),
        ),
    ];
    let roots: Vec<&str> = indexes.iter().map(|index| index.name.as_str()).collect();
    for pair in roots.windows(2) {
        let [a, b] = pair else { continue };
        all.push(by_sql(
            format!("indexes {a} and {b} exchanged"),
            &[a, b],
            format!(
                "CREATE TEMP TABLE held AS SELECT name, rootpage FROM sqlite_schema WHERE name IN ('{a}', '{b}');
                 UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM held WHERE held.name <> sqlite_schema.name)
                 WHERE name IN ('{a}', '{b}')"
            ),
        ));
    }
    let key = key_columns(db, name);
    let rows = good.rows(table);
    for (n, index) in indexes.into_iter().enumerate() {
        if index.sql.is_some() {
            all.push(by_sql(
                format!("index {} dropped", index.name),
                &[&index.name],
                format!("DROP INDEX {}", quoted(&index.name)),
            ));
        }
        let index = Arc::new((plain_index(n, name, &index), index));
        for row in [0, rows.len() / 2, rows.len() - 1] {
            let columns = table.columns.iter().zip(&rows[row]);
            let other: Vec<String> = columns
                .filter(|(column, _)| key.contains(&column.name))
                .map(|(column, value)| {
                    format!("{} IS NOT {}", quoted(&column.name), literal(value))
                })
                .collect();
            let index = Arc::clone(&index);
            all.push(Special {
                name: format!("index {} without row {row}", index.1.name),
                says: vec![index.1.name.clone()],
                change: Box::new(move |file| {
                    let (plain, index) = &*index;
                    file.leave_out(n, index, plain, &other.join(" OR "))
                }),
            });
        }
    }
    all
}

impl File {
    /// Makes an index anew without some rows, and then defines it as if it had all.
    fn leave_out(&self, n: usize, index: &Index, plain: &str, kept: &str) -> Result<(), String> {
        let failed = |e: rusqlite::Error| e.to_string();
        if index.sql.is_some() {
            self.sql(&format!("DROP INDEX {}", quoted(&index.name)))?;
        } else {
            let db = self.raw();
            db.execute(
                "UPDATE sqlite_schema SET name = ?1, sql = ?2 WHERE name = ?3",
                (format!("loose_{n}"), plain, &index.name),
            )
            .map_err(failed)?;
            db.close().map_err(|(_, e)| failed(e))?;
            self.sql(&format!("DROP INDEX loose_{n}"))?;
        }
        self.sql(&format!("{plain} WHERE {kept}"))?;
        let db = self.raw();
        db.execute(
            "UPDATE sqlite_schema SET name = ?1, sql = ?2 WHERE name = ?3",
            (&index.name, &index.sql, format!("loose_{n}")),
        )
        .map_err(failed)?;
        db.close().map_err(|(_, e)| failed(e))
    }
}

#[test]
fn every_changed_cell_is_found() {
    let (files, log) = (Files::new(), SampleLog::new(ORIGIN));
    let report = tamper::cells(&files, &log);
    println!("{report}");
    report.assert_detected();
    report.assert_every_column(&files.load(&log.contents).unwrap().tables(), 5);
}

#[test]
fn every_deleted_duplicated_or_moved_row_is_found() {
    let report = tamper::rows(&Files::new(), &SampleLog::new(ORIGIN));
    println!("{report}");
    report.assert_detected();
}

#[test]
fn every_mix_with_another_copy_is_found() {
    let (log, other) = (
        SampleLog::new(ORIGIN),
        SampleLog::small("log.example/other"),
    );
    let report = tamper::copies(&Files::new(), &log, &other);
    println!("{report}");
    report.assert_detected();
}

#[test]
fn every_attack_is_found_by_whom_it_says() {
    let (log, other) = (
        SampleLog::new(ORIGIN),
        SampleLog::small("log.example/other"),
    );
    let report = tamper::attacks(&Files::new(), &log, &other);
    println!("{report}");
    report.assert_detected();
}

#[test]
fn a_changed_schema_version_or_index_is_found() {
    let report = tamper::specials(&Files::new(), &SampleLog::new(ORIGIN));
    println!("{report}");
    report.assert_detected();
    assert!(report.refused().is_empty(), "{:?}", report.refused());
}
