//! Tables that somebody changed: every answer is an error or an answer, and none is a panic.

use audit_core::store::{Parts, ReadStore as _, Store as _};
use audit_core::{Error, ErrorKind, Result};
use audit_store_postgres::PostgresStore;
use audit_testkit::sample;
use sqlx::{AssertSqlSafe, Row as _};

use crate::support::{Place, append, place_or_skip};

/// Takes every check away, and says that they are still there.
const WITHOUT_CHECKS: &str = "
  DO $$ DECLARE c record; BEGIN
    FOR c IN SELECT conrelid::regclass AS t, conname FROM pg_constraint
      WHERE contype = 'c' AND connamespace = current_schema()::regnamespace LOOP
      EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I CHECK (true)', c.t, c.conname, c.conname);
    END LOOP;
  END $$;";
/// Lets every column be NULL.
const LOOSE: &str = "
  UPDATE pg_attribute SET attnotnull = false
  WHERE attnum > 0 AND attrelid IN (SELECT oid FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r');";
/// Tightens again what is compared when a store is opened.
const TIGHT: &str = "
  UPDATE pg_attribute a SET attnotnull = true
  WHERE attnum > 0 AND attrelid IN (SELECT oid FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r')
    AND (attrelid::regclass::text || '.' || attname) <> ALL (
      ARRAY['head.last', 'content.token_salt', 'content.tokens', 'content.parts']);";

/// A log of 300 entries, changed by one statement after the other, each of which is taken back.
struct Spoiled {
    place: Place,
    store: PostgresStore,
}

const TABLES: [&str; 8] = [
    "entry",
    "content",
    "token",
    "tile",
    "head",
    "checkpoint",
    "data_key",
    "meta",
];

impl Spoiled {
    async fn new(place: Place) -> Self {
        let store = place.filled(250).await;
        append(&store, 50, 1).await;
        store.put_checkpoint(300, b"note").await.unwrap();
        place.sql(WITHOUT_CHECKS).await;
        let kept = place.named("kept");
        place.sql(&format!("CREATE SCHEMA {kept}")).await;
        place.at_end(format!("DROP SCHEMA {kept} CASCADE"));
        for table in TABLES {
            place
                .sql(&format!(
                    "CREATE TABLE {}.{table} AS TABLE {table}",
                    place.named("kept")
                ))
                .await;
        }
        Self { place, store }
    }

    async fn by(&self, sql: &str) {
        self.place.sql(&format!("{LOOSE} {sql}; {TIGHT}")).await;
    }

    async fn back(&self) {
        for table in TABLES {
            let kept = format!("{}.{table}", self.place.named("kept"));
            self.by(&format!(
                "DELETE FROM {table}; INSERT INTO {table} SELECT * FROM {kept}"
            ))
            .await;
        }
    }
}

fn corrupt<T>(sql: &str, result: Result<T>) -> Error {
    let Err(error) = result else {
        panic!("{sql}: no error")
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{sql}: {error:?}");
    error
}

const ZEROS: &str = "decode(repeat('00', 32), 'hex')";

fn zeros(bytes: usize) -> String {
    format!("decode(repeat('00', {bytes}), 'hex')")
}

#[tokio::test]
async fn a_head_that_entries_and_tiles_do_not_agree_on_is_corrupt() {
    let spoiled = Spoiled::new(place_or_skip!()).await;
    let longest = format!(
        "UPDATE tile SET hashes = {} WHERE level = 0 AND node = 256",
        zeros(1_000_000)
    );
    for sql in [
        "DELETE FROM entry WHERE idx = 299",
        "DELETE FROM entry WHERE idx >= 256",
        "DELETE FROM entry",
        "DELETE FROM tile",
        "DELETE FROM tile WHERE level = 0 AND node = 256",
        "DELETE FROM tile WHERE level = 1",
        &format!("UPDATE tile SET hashes = {ZEROS} WHERE level = 0 AND node = 256"),
        &format!(
            "UPDATE tile SET hashes = {} WHERE level = 0 AND node = 256",
            zeros(33)
        ),
        &format!(
            "UPDATE tile SET hashes = {} WHERE level = 0 AND node = 256",
            zeros(0)
        ),
        &longest,
        "UPDATE tile SET hashes = NULL WHERE level = 0 AND node = 256",
        "UPDATE tile SET node = 9223372036854775807 WHERE level = 0 AND node = 256",
        "UPDATE tile SET node = -5 WHERE level = 0 AND node = 256",
        "UPDATE tile SET node = 257 WHERE level = 0 AND node = 256",
        "UPDATE entry SET idx = 9223372036854775807 WHERE idx = 299",
        &format!("INSERT INTO tile VALUES (0, 300, {ZEROS})"),
        &format!("INSERT INTO tile VALUES (0, 512, {ZEROS})"),
        &format!("INSERT INTO tile VALUES (7, 0, {ZEROS})"),
        "INSERT INTO entry SELECT 300, decode(repeat('00', 16), 'hex'), kind, time, entry FROM entry WHERE idx = 1",
        "DELETE FROM head",
        "UPDATE head SET size = 299",
        "UPDATE head SET size = 301",
        "UPDATE head SET size = 0",
        "UPDATE head SET size = -1",
        "UPDATE head SET size = NULL",
        "UPDATE head SET size = 9223372036854775807",
        "UPDATE head SET last = NULL",
        "UPDATE head SET last = decode('00', 'hex')",
        "UPDATE head SET last = (SELECT event FROM entry WHERE idx = 1)",
        "UPDATE head SET one = 2",
        "INSERT INTO head SELECT 2, size, last FROM head",
    ] {
        spoiled.by(sql).await;
        corrupt(sql, spoiled.store.head().await);
        let fresh = spoiled.place.opened().await;
        let appended = fresh
            .append(Box::new(|head| sample::batch(head, 1, 1)))
            .await;
        corrupt(sql, appended);
        spoiled.back().await;
    }
    assert_eq!(append(&spoiled.store, 1, 2).await.size, 301);
}

#[tokio::test]
async fn a_row_that_is_not_one_is_corrupt_at_its_index() {
    let spoiled = Spoiled::new(place_or_skip!()).await;
    for (table, column, value) in [
        ("entry", "event", zeros(15)),
        ("entry", "event", zeros(0)),
        ("entry", "event", "NULL".to_owned()),
        ("entry", "kind", "'Not A Kind'".to_owned()),
        ("entry", "kind", "''".to_owned()),
        ("entry", "kind", "NULL".to_owned()),
        ("entry", "time", "-1".to_owned()),
        ("entry", "time", "9223372036854775807".to_owned()),
        ("entry", "time", "NULL".to_owned()),
        ("content", "token_salt", zeros(17)),
        ("content", "token_salt", "NULL".to_owned()),
        ("content", "tokens", "NULL".to_owned()),
        ("content", "tokens", zeros(20)),
        ("content", "tokens", zeros(32)),
        ("entry", "entry", zeros(0)),
        ("entry", "entry", zeros(98_304)),
        ("entry", "entry", zeros(70_000)),
        ("entry", "entry", "'\\xff'".to_owned()),
        ("entry", "entry", "'\\x2035'".to_owned()),
        ("entry", "entry", "entry || '\\x7f'".to_owned()),
        ("entry", "entry", "NULL".to_owned()),
        ("entry", "idx", "1000".to_owned()),
        ("entry", "idx", "8".to_owned()),
    ] {
        let sql = format!("UPDATE {table} SET {column} = {value} WHERE idx = 7");
        // A second row of an index fits only where nothing is unique.
        let (off, on) = (
            "UPDATE pg_index SET indisunique = false WHERE indexrelid = 'entry_pkey'::regclass",
            "UPDATE pg_index SET indisunique = true WHERE indexrelid = 'entry_pkey'::regclass",
        );
        spoiled.by(&format!("{off}; {sql}; {on}")).await;
        let store = &spoiled.store;
        assert_eq!(
            store.rows(0..7, Parts::With).await.unwrap().len(),
            7,
            "{sql}"
        );
        for range in [0..300, 7..8, 5..u64::MAX] {
            let error = corrupt(&sql, store.rows(range, Parts::Without).await);
            assert_eq!(error.index(), Some(7), "{sql}: {error}");
        }
        spoiled.back().await;
    }
}

#[tokio::test]
async fn a_changed_byte_of_a_packed_entry_gives_the_same_entry() {
    let place = place_or_skip!();
    let store = place.filled(8).await;
    let good = store.rows(7..8, Parts::With).await.unwrap();
    let mut raw = place.raw().await;
    sqlx::raw_sql("SET session_replication_role = replica")
        .execute(&mut raw)
        .await
        .unwrap();
    let row = sqlx::query("SELECT entry FROM entry WHERE idx = 7")
        .fetch_one(&mut raw)
        .await
        .unwrap();
    let stored: Vec<u8> = row.get(0);
    assert!(stored.len() * 2 < good[0].entry.len(), "it is not packed");
    for at in 0..stored.len() {
        let mut changed = stored.clone();
        changed[at] ^= [1, 0x80, 0xff][at % 3];
        sqlx::query("UPDATE entry SET entry = $1 WHERE idx = 7")
            .bind(changed)
            .execute(&mut raw)
            .await
            .unwrap();
        match store.rows(7..8, Parts::With).await {
            Ok(rows) => assert_ne!(rows, good, "byte {at}"),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Corrupt, "byte {at}: {e}");
                assert_eq!(e.index(), Some(7), "{e}");
            }
        }
    }
}

#[tokio::test]
async fn other_tables_are_read_as_strictly() {
    let spoiled = Spoiled::new(place_or_skip!()).await;
    let store = &spoiled.store;
    for (sql, what) in [
        (format!("UPDATE data_key SET wrapped = {}", zeros(59)), 0),
        ("UPDATE data_key SET wrapped = NULL".to_owned(), 0),
        ("UPDATE data_key SET generation = -1".to_owned(), 0),
        ("UPDATE data_key SET generation = 4294967296".to_owned(), 0),
        ("UPDATE data_key SET id = '\\x01' WHERE id = (SELECT id FROM data_key ORDER BY id LIMIT 1)".to_owned(), 0),
        ("UPDATE token SET token = '\\x00' WHERE idx = 7 AND token = (SELECT token FROM token WHERE idx = 7 LIMIT 1)".to_owned(), 1),
        ("UPDATE token SET idx = -7 WHERE idx = 7".to_owned(), 1),
        ("UPDATE checkpoint SET size = -1".to_owned(), 2),
        ("UPDATE checkpoint SET note = NULL".to_owned(), 2),
        (format!("UPDATE tile SET hashes = {} WHERE level = 0 AND node = 0", zeros(31)), 3),
        ("UPDATE tile SET node = 1 WHERE level = 0 AND node = 0".to_owned(), 3),
        ("UPDATE tile SET node = -1 WHERE level = 0 AND node = 0".to_owned(), 3),
        ("DELETE FROM tile WHERE level = 0 AND node = 0".to_owned(), 3),
    ] {
        spoiled.by(&sql).await;
        drop(match what {
            0 => corrupt(&sql, store.keys(None, 10).await),
            1 => corrupt(&sql, store.token_rows(None, 1000).await),
            2 => corrupt(&sql, store.latest_checkpoint().await),
            _ => corrupt(&sql, store.tiles(0, None, 10).await),
        });
        spoiled.back().await;
    }
}

#[tokio::test]
async fn an_index_that_leaves_rows_out_goes_unnoticed() {
    let place = place_or_skip!();
    let store = place.filled(300).await;
    store.integrity().await.unwrap();
    let mut raw = place.raw().await;
    // As somebody does who wants a search not to find something: the index is filled without it.
    for (index, columns, left_out) in [
        ("entry_event", "entry (event)", "idx <> 7"),
        ("entry_kind", "entry (kind, idx)", "idx <> 0"),
        ("token_pkey", "token (token, idx)", "idx > 1"),
        ("data_key_scope", "data_key (scope, id)", "generation <> 1"),
    ] {
        let sql = format!(
            "CREATE INDEX partial ON {columns} WHERE {left_out};
             UPDATE pg_class SET relfilenode = n.relfilenode, relpages = 1
             FROM (SELECT oid, relfilenode FROM pg_class WHERE oid IN ('partial'::regclass, '{index}'::regclass)) n
             WHERE pg_class.oid IN ('partial'::regclass, '{index}'::regclass) AND n.oid <> pg_class.oid"
        );
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut raw)
            .await
            .unwrap();
        sqlx::raw_sql("DROP INDEX partial")
            .execute(&mut raw)
            .await
            .unwrap();
        let error = corrupt(index, place.opened().await.integrity().await);
        assert!(error.to_string().contains(index), "{error}");
        sqlx::raw_sql(AssertSqlSafe(format!("REINDEX INDEX {index}")))
            .execute(&mut raw)
            .await
            .unwrap();
        place.opened().await.integrity().await.unwrap();
    }
}
