//! The tamper matrix in PostgreSQL: what a superuser does with `psql` and no key, past every constraint, and that the
//! verifier says so.
//!
//! Making a schema for each of some thousand changes would take most of the time, so a few schemas are used again: what a
//! change touched is put back when its copy is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use audit_core::store::{ReadStore, Store};
use audit_store_postgres::{OpenOptions, PostgresStore, PostgresUrl};
use audit_testkit::memory::Contents;
use audit_testkit::tamper::{
    self, Backend, Column, Loss, Place as Named, Record, SampleLog, Sees, Special, Table, Tables,
    Value,
};
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{Arguments as _, AssertSqlSafe, Connection as _, Row as _};
use tokio::runtime::Runtime;

use crate::support::{Place, place_or_skip, raw};

const ORIGIN: &str = "log.example/clinic";

/// What every connection of these tests lives on; the matrix has threads of its own.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
});

fn run<T: Send>(future: impl Future<Output = T> + Send) -> T {
    RUNTIME.block_on(future)
}

/// A server, and the schemas that hold the same log as the first one.
struct Server {
    place: Arc<Place>,
}

/// What a log and its copies share.
struct Family {
    place: Arc<Place>,
    /// The schema that is never changed.
    good: String,
    free: Mutex<Vec<Slot>>,
    tables: Vec<Table>,
    /// Its rows, and the types of their columns, by table: asked for again and again.
    rows: Mutex<BTreeMap<String, Vec<Record>>>,
    types: BTreeMap<String, Vec<String>>,
}

/// A schema with the same log, and a superuser's connection that is not held up by constraints.
struct Slot {
    url: PostgresUrl,
    raw: PgConnection,
}

/// One copy of the log.
struct Copy {
    family: Arc<Family>,
    /// `None`: the good one.
    slot: Option<Mutex<Slot>>,
    touched: Mutex<BTreeSet<String>>,
    /// Whether it can't be put back: the schema was changed.
    spoiled: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn execute(raw: &mut PgConnection, sql: &str) -> Result<(), String> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(raw)
        .await;
    done.map(drop).map_err(|e| format!("{sql}: {e}"))
}

/// Takes checks away, and leaves their names: nothing else is compared.
async fn loosen(raw: &mut PgConnection, schema: &str) {
    let sql = format!(
        "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I CHECK (true)', conrelid::regclass, conname, conname)
         FROM pg_constraint WHERE contype = 'c' AND connamespace = '{schema}'::regnamespace"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(&mut *raw)
        .await
        .unwrap();
    for row in rows {
        let sql: String = row.get(0);
        execute(raw, &sql).await.unwrap();
    }
}

impl Family {
    async fn slot(&self) -> Slot {
        if let Some(slot) = lock(&self.free).pop() {
            return slot;
        }
        let url = self.place.next();
        PostgresStore::create(&url, true).await.unwrap();
        let mut raw = raw(self.place.server(), url.schema()).await;
        loosen(&mut raw, url.schema()).await;
        execute(
            &mut raw,
            "SET session_replication_role = replica; SET synchronous_commit = off",
        )
        .await
        .unwrap();
        for table in &self.tables {
            self.put_back(&mut raw, &table.name).await;
        }
        Slot { url, raw }
    }

    async fn put_back(&self, raw: &mut PgConnection, table: &str) {
        let good = &self.good;
        let sql = format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM {good}.{table}");
        execute(raw, &sql).await.unwrap();
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let mut slot = slot.into_inner().unwrap_or_else(PoisonError::into_inner);
        if self.spoiled {
            return;
        }
        let touched = std::mem::take(
            self.touched
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        run(async {
            for table in &touched {
                self.family.put_back(&mut slot.raw, table).await;
            }
        });
        lock(&self.family.free).push(slot);
    }
}

impl Copy {
    /// Runs `work` on the superuser's connection to this copy.
    fn with<T: Send>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> T) -> T {
        // Nobody else uses a copy.
        if let Some(slot) = &self.slot {
            let mut slot = lock(slot);
            return RUNTIME.block_on(work(&mut slot.raw));
        }
        let work = async {
            let mut raw = raw(self.family.place.server(), &self.family.good).await;
            work(&mut raw).await
        };
        RUNTIME.block_on(work)
    }

    fn url(&self) -> PostgresUrl {
        match &self.slot {
            Some(slot) => lock(slot).url.clone(),
            None => self
                .family
                .place
                .url()
                .with_schema(&self.family.good)
                .unwrap(),
        }
    }
}

/// The value of a column, by its type.
fn value(row: &PgRow, at: usize, kind: &str) -> Value {
    let number = |n: Option<i64>| n.map_or(Value::Null, Value::Integer);
    match kind {
        "bytea" => row
            .get::<Option<Vec<u8>>, _>(at)
            .map_or(Value::Null, Value::Blob),
        "bigint" => number(row.get(at)),
        "integer" => number(row.get::<Option<i32>, _>(at).map(i64::from)),
        "smallint" => number(row.get::<Option<i16>, _>(at).map(i64::from)),
        "text" => row
            .get::<Option<String>, _>(at)
            .map_or(Value::Null, |text| Value::Text(text.into_bytes())),
        other => panic!("a column of type {other}: say how to change it"),
    }
}

/// Binds a value to a column of this type; `Err`: there is no such value of this type.
fn bind(arguments: &mut PgArguments, value: &Value, kind: &str) -> Result<(), String> {
    let unfit = || format!("{kind} has no such value as {value:?}");
    match (value, kind) {
        (Value::Null, "bytea") => arguments.add(None::<Vec<u8>>),
        (Value::Null, "text") => arguments.add(None::<String>),
        (Value::Null, "bigint") => arguments.add(None::<i64>),
        (Value::Null, "integer") => arguments.add(None::<i32>),
        (Value::Null, "smallint") => arguments.add(None::<i16>),
        (Value::Blob(bytes), "bytea") => arguments.add(bytes.clone()),
        (Value::Text(bytes), "text") => {
            arguments.add(String::from_utf8(bytes.clone()).ok().ok_or_else(unfit)?)
        }
        (Value::Integer(n), "bigint") => arguments.add(*n),
        (Value::Integer(n), "integer") => arguments.add(i32::try_from(*n).ok().ok_or_else(unfit)?),
        (Value::Integer(n), "smallint") => arguments.add(i16::try_from(*n).ok().ok_or_else(unfit)?),
        _ => return Err(unfit()),
    }
    .map_err(|e| e.to_string())
}

async fn types(raw: &mut PgConnection, table: &str) -> Vec<String> {
    let sql = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute
               WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let sql = sql.replace("$1", &format!("'{table}'"));
    let rows = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(raw)
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn exchange(
    raw: &mut PgConnection,
    table: &Table,
    types: &[String],
    remove: &[Record],
    insert: &[Record],
) -> Result<(), String> {
    let name = &table.name;
    let each = |what: &dyn Fn(usize, &str, &str) -> String, between: &str| {
        let columns = table.columns.iter().zip(types).enumerate();
        let all: Vec<String> = columns
            .map(|(n, (c, kind))| what(n + 1, &c.name, kind))
            .collect();
        all.join(between)
    };
    let same = each(
        &|n, c, kind| format!("{c} IS NOT DISTINCT FROM ${n}::{kind}"),
        " AND ",
    );
    let places = each(&|n, _, kind| format!("${n}::{kind}"), ", ");
    let bound = |row: &Record| {
        let mut arguments = PgArguments::default();
        for (value, kind) in row.iter().zip(types) {
            bind(&mut arguments, value, kind)?;
        }
        Ok::<_, String>(arguments)
    };
    // Values that no column can hold are known before anything is changed.
    let inserted: Vec<PgArguments> = insert.iter().map(bound).collect::<Result<_, _>>()?;
    let failed = |e: sqlx::Error| e.to_string();
    // What says which values are allowed is in tables too.
    let constraints = |on: bool| {
        format!(
            "UPDATE pg_index SET indisunique = {on} WHERE indrelid = '{name}'::regclass AND indisunique <> {on}
               AND indexrelid::regclass::text <> ALL (ARRAY['entry_kind', 'entry_time', 'data_key_scope']);
             UPDATE pg_attribute a SET attnotnull = {on} WHERE attrelid = '{name}'::regclass AND attnum > 0
               AND format('%s.%s', '{name}', attname) <> ALL (
                 ARRAY['head.last', 'content.token_salt', 'content.tokens', 'content.parts'])"
        )
    };
    let mut changing = raw.begin().await.map_err(failed)?;
    execute(&mut changing, &constraints(false)).await?;
    for row in remove {
        let sql = format!(
            "DELETE FROM {name} WHERE ctid = (SELECT ctid FROM {name} WHERE {same} LIMIT 1)"
        );
        let deleted = sqlx::query_with(AssertSqlSafe(sql), bound(row)?)
            .execute(&mut *changing)
            .await
            .map_err(failed)?;
        assert_eq!(
            deleted.rows_affected(),
            1,
            "a row of {name} that is to be removed isn't there"
        );
    }
    for row in inserted {
        let sql = format!("INSERT INTO {name} VALUES ({places})");
        sqlx::query_with(AssertSqlSafe(sql), row)
            .execute(&mut *changing)
            .await
            .map_err(failed)?;
    }
    execute(&mut changing, &constraints(true)).await?;
    changing.commit().await.map_err(failed)
}

async fn tables(raw: &mut PgConnection, schema: &str) -> Vec<Table> {
    let sql = format!(
        "SELECT c.relname::text, a.attname::text, coalesce(a.attnum = ANY (x.indkey), false)
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         LEFT JOIN pg_index x ON x.indrelid = c.oid AND x.indisprimary
         WHERE c.relnamespace = '{schema}'::regnamespace AND c.relkind = 'r' ORDER BY c.relname, a.attnum"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(raw)
        .await
        .unwrap();
    let mut tables: Vec<Table> = Vec::new();
    for row in rows {
        let (name, column, key): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
        if tables.last().is_none_or(|table| table.name != name) {
            tables.push(Table {
                name,
                columns: Vec::new(),
            });
        }
        let table = tables.last_mut().unwrap();
        table.columns.push(Column { name: column, key });
    }
    tables
}

impl Tables for Copy {
    fn duplicate(&self) -> Self {
        let family = Arc::clone(&self.family);
        let slot = RUNTIME.block_on(family.slot());
        Self {
            family,
            slot: Some(Mutex::new(slot)),
            touched: Mutex::default(),
            spoiled: false,
        }
    }

    fn tables(&self) -> Vec<Table> {
        self.family.tables.clone()
    }

    fn rows(&self, table: &Table) -> Vec<Record> {
        let kept = lock(&self.family.rows).get(&table.name).cloned();
        if self.slot.is_none()
            && let Some(rows) = kept
        {
            return rows;
        }
        let keys = table.columns.iter().filter(|c| c.key);
        let keys: Vec<&str> = keys.map(|c| c.name.as_str()).collect();
        let sql = format!("SELECT * FROM {} ORDER BY {}", table.name, keys.join(", "));
        let types = &self.family.types[&table.name];
        let rows: Vec<Record> = self.with(async |raw| {
            let rows = sqlx::query(AssertSqlSafe(sql))
                .fetch_all(raw)
                .await
                .unwrap();
            let read = |row: &PgRow| {
                types
                    .iter()
                    .enumerate()
                    .map(|(at, kind)| value(row, at, kind))
                    .collect()
            };
            rows.iter().map(read).collect()
        });
        if self.slot.is_none() {
            lock(&self.family.rows).insert(table.name.clone(), rows.clone());
        }
        rows
    }

    fn write(&mut self, table: &Table, remove: &[Record], insert: &[Record]) -> Result<(), String> {
        lock(&self.touched).insert(table.name.clone());
        let types = &self.family.types[&table.name];
        self.with(async |raw| exchange(raw, table, types, remove, insert).await)
    }

    fn places(&self, table: &Table, row: &Record) -> Vec<Named> {
        let says = |texts: &[&str]| texts.iter().map(|t| Named::Says((*t).to_owned())).collect();
        let mut places: Vec<Named> = match table.name.as_str() {
            "content" => tamper::index_places(&row[0]),
            "entry" => {
                let mut places = tamper::index_places(&row[0]);
                // What is there twice is named by itself.
                if let Value::Blob(bytes) = &row[1] {
                    places.push(Named::Says(audit_core::hex::encode(bytes)));
                }
                places
            }
            "token" => {
                let mut places = tamper::index_places(&row[1]);
                // What isn't a token of an entry is named by itself.
                if let Value::Blob(bytes) = &row[0] {
                    places.push(Named::Says(audit_core::hex::encode(bytes)));
                }
                places
            }
            "tile" => match &row[1] {
                Value::Integer(node) => {
                    let mut places =
                        tamper::tile_places(&row[0], &Value::Integer(node.div_euclid(256)));
                    places.push(Named::Says(format!("node {node}")));
                    places
                }
                _ => tamper::tile_places(&row[0], &Value::Null),
            },
            "checkpoint" => tamper::checkpoint_places(&row[0]),
            "data_key" => tamper::key_places(&row[0]),
            "head" => says(&["head row", "head.", "head has", "the last event"]),
            "meta" => says(&["which log", "of the log", "meta"]),
            "migration" => says(&["migration", "schema version", "holds no store"]),
            // One that this test doesn't know has to be named.
            other => says(&[other]),
        };
        // Where what names a row is missing, the column is named.
        for (column, value) in table.columns.iter().zip(row) {
            if column.key && *value == Value::Null {
                places.push(Named::Says(format!("{}.{}", table.name, column.name)));
            }
        }
        places
    }

    fn loss(&self, table: &Table, loss: Loss) -> (Sees, Vec<Named>) {
        match (table.name.as_str(), loss) {
            ("checkpoint", loss) => tamper::checkpoint_loss(loss),
            _ => (Sees::Anybody, Vec::new()),
        }
    }

    fn open(&self) -> audit_core::Result<Arc<dyn ReadStore>> {
        let url = self.url();
        let store = RUNTIME.block_on(PostgresStore::open(&url, OpenOptions::read_only()))?;
        Ok(Arc::new(store))
    }
}

impl Backend for Server {
    type Copy = Copy;

    fn load(&self, contents: &Contents) -> Result<Copy, String> {
        let mut contents = contents.clone();
        let origin = contents.origin.is_some();
        contents.origin.get_or_insert_with(|| ORIGIN.to_owned());
        let url = self.place.next();
        let family = run(async {
            let store = PostgresStore::create(&url, true)
                .await
                .map_err(|e| e.to_string())?;
            let beyond = tamper::load(&contents, &store as &dyn Store)
                .await
                .map_err(|e| format!("{e:?}"))?;
            let mut raw = raw(self.place.server(), url.schema()).await;
            loosen(&mut raw, url.schema()).await;
            for (size, note) in beyond {
                sqlx::query("INSERT INTO checkpoint (size, note) VALUES ($1, $2)")
                    .bind(i64::try_from(size).unwrap())
                    .bind(note)
                    .execute(&mut raw)
                    .await
                    .map_err(|e| e.to_string())?;
            }
            if !origin {
                execute(&mut raw, "DELETE FROM meta WHERE name = 'origin'").await?;
            }
            Ok::<_, String>(Family {
                place: Arc::clone(&self.place),
                good: url.schema().to_owned(),
                free: Mutex::default(),
                types: {
                    let mut all = BTreeMap::new();
                    for table in tables(&mut raw, url.schema()).await {
                        all.insert(table.name.clone(), types(&mut raw, &table.name).await);
                    }
                    all
                },
                tables: tables(&mut raw, url.schema()).await,
                rows: Mutex::default(),
            })
        })?;
        Ok(Copy {
            family: Arc::new(family),
            slot: None,
            touched: Mutex::default(),
            spoiled: false,
        })
    }

    fn specials(&self, good: &Copy) -> Vec<Special<Copy>> {
        let mut all = Vec::new();
        for (name, says, sql) in [
            (
                "a later schema version",
                "schema version 99",
                "INSERT INTO migration VALUES (99, 'later')",
            ),
            ("a table more", "extra", "CREATE TABLE extra (x int)"),
            ("a view more", "extra", "CREATE VIEW extra AS SELECT 1 AS x"),
            (
                "an index more",
                "extra",
                "CREATE INDEX extra ON checkpoint (note)",
            ),
            (
                "a function more",
                "extra",
                "CREATE FUNCTION extra() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            ),
            ("a type more", "extra", "CREATE TYPE extra AS ENUM ('x')"),
            (
                "a trigger more",
                "extra",
                "CREATE TRIGGER extra BEFORE INSERT ON token EXECUTE FUNCTION refuse_change()",
            ),
            (
                "the function that refuses changes replaced",
                "refuse_change",
                "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            ),
            (
                "the trigger that refuses changes off",
                "append_only",
                "ALTER TABLE entry DISABLE TRIGGER append_only",
            ),
        ] {
            all.push(by_sql(name.to_owned(), &[says], sql.to_owned()));
        }
        for table in good.tables() {
            all.extend(table_specials(good, &table));
        }
        all
    }
}

fn by_sql(name: String, says: &[&str], sql: String) -> Special<Copy> {
    Special {
        name,
        says: says.iter().map(|s| (*s).to_owned()).collect(),
        change: Box::new(move |copy| {
            copy.spoiled = true;
            copy.with(async |raw| execute(raw, &sql).await)
        }),
    }
}

fn table_specials(good: &Copy, table: &Table) -> Vec<Special<Copy>> {
    let name = table.name.as_str();
    let mut all = vec![
        by_sql(
            format!("table {name} dropped"),
            &[name, "no store"],
            format!("DROP TABLE {name}"),
        ),
        by_sql(
            format!("table {name} renamed"),
            &[name, "renamed", "no store"],
            format!("ALTER TABLE {name} RENAME TO renamed"),
        ),
        by_sql(
            format!("table {name} with a column more"),
            &[name],
            format!("ALTER TABLE {name} ADD COLUMN extra bytea"),
        ),
        by_sql(
            format!("table {name} not written ahead"),
            &[name],
            format!("ALTER TABLE {name} SET UNLOGGED"),
        ),
        by_sql(
            format!("rows of table {name} hidden"),
            &[name],
            format!(
                "ALTER TABLE {name} ENABLE ROW LEVEL SECURITY; ALTER TABLE {name} FORCE ROW LEVEL SECURITY"
            ),
        ),
        by_sql(
            format!("inserts into table {name} made nothing"),
            &[name],
            format!("CREATE RULE extra AS ON INSERT TO {name} DO INSTEAD NOTHING"),
        ),
        by_sql(
            format!("table {name} with another one under it"),
            &[name],
            format!("CREATE TABLE elsewhere () INHERITS ({name})"),
        ),
    ];
    let indexes = good.with(async |raw| {
        let sql = format!(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisunique, indisprimary
             FROM pg_index WHERE indrelid = '{name}'::regclass ORDER BY 1"
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(raw).await.unwrap();
        rows.iter()
            .map(|row| (row.get::<String, _>(0), row.get::<String, _>(1)))
            .collect::<Vec<_>>()
    });
    let rows = good.rows(table);
    for (index, definition) in indexes {
        let index = index.rsplit('.').next().unwrap().to_owned();
        if !index.ends_with("_pkey") {
            all.push(by_sql(
                format!("index {index} dropped"),
                &[&index],
                format!("DROP INDEX {index}"),
            ));
        }
        let (_, by) = definition.split_once(" USING ").unwrap();
        for row in BTreeSet::from([0, rows.len() / 2, rows.len() - 1]) {
            let keys = table
                .columns
                .iter()
                .zip(&rows[row])
                .filter(|(column, _)| column.key);
            let other: Vec<String> = keys
                .map(|(column, value)| format!("{} <> {}", column.name, literal(value)))
                .collect();
            // The index is filled without the row under another name; then its file takes the place of the good one's.
            let sql = format!(
                "CREATE INDEX partial ON {name} USING {by} WHERE {};
                 CREATE TEMP TABLE node AS SELECT relfilenode FROM pg_class WHERE oid = 'partial'::regclass;
                 UPDATE pg_class SET relfilenode = (SELECT relfilenode FROM pg_class WHERE oid = '{index}'::regclass)
                 WHERE oid = 'partial'::regclass;
                 UPDATE pg_class SET relfilenode = (SELECT relfilenode FROM node) WHERE oid = '{index}'::regclass;
                 DROP TABLE node; DROP INDEX partial; CHECKPOINT",
                other.join(" OR ")
            );
            all.push(by_sql(
                format!("index {index} without row {row}"),
                &[&index],
                sql,
            ));
        }
    }
    all
}

/// A value as SQL writes it.
fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(n) => n.to_string(),
        Value::Text(bytes) => format!("'{}'", String::from_utf8_lossy(bytes)),
        Value::Blob(bytes) => format!("'\\x{}'::bytea", audit_core::hex::encode(bytes)),
    }
}

macro_rules! server_or_skip {
    () => {
        Server {
            place: Arc::new(place_or_skip!()),
        }
    };
}

#[test]
fn every_changed_cell_is_found() {
    let (server, log) = (server_or_skip!(), SampleLog::new(ORIGIN));
    let report = tamper::cells(&server, &log);
    println!("{report}");
    report.assert_detected();
    report.assert_every_column(&server.load(&log.contents).unwrap().tables(), 5);
}

#[test]
fn every_deleted_duplicated_or_moved_row_is_found() {
    let report = tamper::rows(&server_or_skip!(), &SampleLog::new(ORIGIN));
    println!("{report}");
    report.assert_detected();
}

#[test]
fn every_mix_with_another_copy_is_found() {
    let server = server_or_skip!();
    let (log, other) = (
        SampleLog::new(ORIGIN),
        SampleLog::small("log.example/other"),
    );
    let report = tamper::copies(&server, &log, &other);
    println!("{report}");
    report.assert_detected();
}

#[test]
fn every_attack_is_found_by_whom_it_says() {
    let server = server_or_skip!();
    let (log, other) = (
        SampleLog::new(ORIGIN),
        SampleLog::small("log.example/other"),
    );
    let report = tamper::attacks(&server, &log, &other);
    println!("{report}");
    report.assert_detected();
}

#[test]
fn a_changed_schema_or_index_is_found() {
    let report = tamper::specials(&server_or_skip!(), &SampleLog::new(ORIGIN));
    println!("{report}");
    report.assert_detected();
    assert!(report.refused().is_empty(), "{:?}", report.refused());
}
