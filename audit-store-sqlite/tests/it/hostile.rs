//! Files that somebody changed: every answer is an error or an answer, and none is a panic.

use std::fs;
use std::path::Path;

use audit_core::store::{Parts, Query, ReadStore as _, Store as _};
use audit_core::{Error, ErrorKind, Result};
use audit_store_sqlite::{OpenMode, SqliteStore};
use audit_testkit::sample;
use audit_testkit::time::TestIds;
use audit_tlog::tile::TileId;
use rusqlite::Connection;

use crate::support::{Place, append};

async fn spoiled(sql: &str) -> (Place, SqliteStore) {
    let place = Place::new();
    let store = place.filled(300).await;
    store.put_checkpoint(300, b"note").await.unwrap();
    drop(store);
    let raw = Connection::open(place.path()).unwrap();
    raw.execute_batch("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF")
        .unwrap();
    raw.execute_batch(sql).unwrap();
    drop(raw);
    let store = SqliteStore::open(place.path(), OpenMode::ReadWrite).unwrap();
    (place, store)
}

fn corrupt<T>(sql: &str, result: Result<T>) -> Error {
    let Err(error) = result else {
        panic!("{sql}: no error")
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{sql}: {error:?}");
    error
}

#[tokio::test]
async fn a_head_that_entries_and_tiles_do_not_agree_on_is_corrupt() {
    for sql in [
        "DELETE FROM entry WHERE idx = 299",
        "DELETE FROM entry WHERE idx >= 256",
        "DELETE FROM entry",
        "DELETE FROM tile",
        "DELETE FROM tile WHERE level = 0 AND idx = 1",
        "DELETE FROM tile WHERE level = 1",
        "UPDATE tile SET hashes = zeroblob(32) WHERE level = 0 AND idx = 1",
        "UPDATE tile SET hashes = zeroblob(33) WHERE level = 0 AND idx = 1",
        "UPDATE tile SET hashes = zeroblob(0) WHERE level = 0 AND idx = 1",
        "UPDATE tile SET hashes = zeroblob(1000000) WHERE level = 0 AND idx = 1",
        "UPDATE tile SET idx = 9223372036854775807 WHERE level = 0 AND idx = 1",
        "UPDATE tile SET idx = -5 WHERE level = 0 AND idx = 1",
        "UPDATE entry SET idx = 9223372036854775807 WHERE idx = 299",
        "INSERT INTO tile VALUES (0, 2, zeroblob(32))",
        "INSERT INTO tile VALUES (7, 0, zeroblob(32))",
        "INSERT INTO entry SELECT 300, zeroblob(16), kind, time, entry, NULL, NULL, NULL FROM entry WHERE idx = 1",
    ] {
        let (_place, store) = spoiled(sql).await;
        corrupt(sql, store.head().await);
        let appended = store
            .append(Box::new(|head| sample::batch(head, 1, 1)))
            .await;
        corrupt(sql, appended);
    }
}

#[tokio::test]
async fn a_row_that_is_not_one_is_corrupt_at_its_index() {
    for (column, value) in [
        ("event", "zeroblob(15)"),
        ("event", "x''"),
        ("kind", "'Not A Kind'"),
        ("kind", "''"),
        ("kind", "cast(x'ff' AS TEXT)"),
        ("time", "-1"),
        ("time", "9223372036854775807"),
        ("token_salt", "zeroblob(17)"),
        ("token_salt", "NULL"),
        ("tokens", "NULL"),
        ("tokens", "zeroblob(20)"),
        ("tokens", "zeroblob(32)"),
        ("entry", "zeroblob(0)"),
        ("entry", "zeroblob(98304)"),
        ("entry", "zeroblob(70000)"),
        ("entry", "x'ff'"),
        ("entry", "x'2035'"),
        ("entry", "cast(entry || x'7f' AS BLOB)"),
        (
            "entry",
            "cast(substr(entry, 1, length(entry) - 1) || x'65' AS BLOB)",
        ),
        ("idx", "1000"),
    ] {
        let sql = format!("UPDATE entry SET {column} = {value} WHERE idx = 7");
        let (_place, store) = spoiled(&sql).await;
        assert_eq!(store.rows(0..7, Parts::With).await.unwrap().len(), 7);
        for range in [0..300, 7..8, 5..u64::MAX] {
            let error = corrupt(&sql, store.rows(range, Parts::Without).await);
            assert_eq!(error.index(), Some(7), "{sql}: {error}");
        }
    }
}

#[tokio::test]
async fn a_changed_byte_of_a_packed_entry_gives_the_same_entry() {
    let place = Place::new();
    let store = place.filled(8).await;
    let good = store.rows(7..8, Parts::With).await.unwrap();
    let raw = Connection::open(place.path()).unwrap();
    let stored: Vec<u8> = raw
        .query_row("SELECT entry FROM entry WHERE idx = 7", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert!(stored.len() * 2 < good[0].entry.len(), "it is not packed");
    for at in 0..stored.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = stored.clone();
            changed[at] ^= change;
            raw.execute("UPDATE entry SET entry = ?1 WHERE idx = 7", [&changed])
                .unwrap();
            match store.rows(7..8, Parts::With).await {
                Ok(rows) => assert_ne!(rows, good, "byte {at} ^ {change}"),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Corrupt, "byte {at} ^ {change}: {e}");
                    assert_eq!(e.index(), Some(7), "{e}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_change_by_others_between_two_appends_goes_unnoticed() {
    for (sql, kind) in [
        ("DELETE FROM tile WHERE level = 0", ErrorKind::Corrupt),
        ("UPDATE tile SET hashes = zeroblob(64)", ErrorKind::Corrupt),
        ("DELETE FROM entry WHERE idx = 2", ErrorKind::Corrupt),
        ("DELETE FROM meta", ErrorKind::Invalid),
    ] {
        let place = Place::new();
        let store = place.filled(2).await;
        append(&store, 1, 2).await;
        let raw = Connection::open(place.path()).unwrap();
        raw.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        raw.execute_batch(sql).unwrap();
        let appended = store
            .append(Box::new(|head| sample::batch(head, 1, 3)))
            .await;
        assert_eq!(appended.unwrap_err().kind(), kind, "{sql}");
    }
    // What changes no head changes nothing.
    let place = Place::new();
    let store = place.filled(2).await;
    let raw = Connection::open(place.path()).unwrap();
    raw.execute_batch("DELETE FROM token").unwrap();
    assert_eq!(append(&store, 1, 3).await.size, 3);
    assert_eq!(append(&store, 1, 4).await.size, 4);
}

#[tokio::test]
async fn other_tables_are_read_as_strictly() {
    let sql = "UPDATE data_key SET wrapped = zeroblob(59)";
    let (_place, store) = spoiled(sql).await;
    corrupt(sql, store.keys(None, 10).await);
    let sql = "UPDATE data_key SET generation = -1";
    let (_place, store) = spoiled(sql).await;
    corrupt(sql, store.keys(None, 10).await);
    let sql = "UPDATE data_key SET id = x'01'";
    let (_place, store) = spoiled(sql).await;
    corrupt(sql, store.keys(None, 10).await);
    let sql = "UPDATE OR REPLACE token SET token = x'00' WHERE idx = 7";
    let (_place, store) = spoiled(sql).await;
    corrupt(sql, store.token_rows(None, 10).await);
    let sql = "UPDATE token SET idx = -7 WHERE idx = 7";
    let (_place, store) = spoiled(sql).await;
    corrupt(sql, store.token_rows(None, 1000).await);
    let sql = "UPDATE checkpoint SET size = -1";
    let (_place, store) = spoiled(sql).await;
    corrupt(sql, store.latest_checkpoint().await);
    let sql = "UPDATE tile SET hashes = zeroblob(31) WHERE level = 0 AND idx = 0";
    let (_place, store) = spoiled(sql).await;
    corrupt(sql, store.tiles(0, None, 10).await);
}

async fn read_everything(path: &Path, mode: OpenMode) -> Result<()> {
    let store = SqliteStore::open(path, mode)?;
    let mut first = Ok(());
    let mut note = |result: Result<()>| {
        if first.is_ok() {
            first = result;
        }
    };
    note(store.description().await.map(drop));
    note(store.head().await.map(drop));
    for parts in [Parts::With, Parts::Without] {
        let mut from = 0;
        while let Ok(rows) = store.rows(from..u64::MAX, parts).await {
            if rows.is_empty() {
                break;
            }
            from += rows.len() as u64;
        }
    }
    for tokens in [
        vec![],
        vec![sample::actor_token(), sample::session_token(1)],
    ] {
        let query = Query {
            tokens,
            kind: Some(audit_core::Kind::new("tool.call").unwrap()),
            ..Query::default()
        };
        note(store.find(&query).await.map(drop));
    }
    note(store.token_rows(None, 1000).await.map(drop));
    for level in 0..3 {
        note(store.tiles(level, None, 10).await.map(drop));
        let id = TileId::new(level, 0, 1).unwrap();
        note(store.tile(id).await.map(drop));
    }
    note(store.checkpoints(0, 10).await.map(drop));
    note(store.keys(None, 10).await.map(drop));
    first
}

#[tokio::test]
async fn no_flipped_byte_makes_a_panic_or_a_hang() {
    let place = Place::new();
    let store = place.filled(40).await;
    append(&store, 30, 2).await;
    store.put_checkpoint(70, b"note").await.unwrap();
    drop(store);
    let good = fs::read(place.path()).unwrap();
    let bad = place.dir().join("bad.db");
    let ids = TestIds::new(1);
    let mut errors = 0;
    for round in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..=round % 4 {
            // Every second one into the first bytes of a page, where its structure is.
            let at = usize::try_from(ids.number()).unwrap() % bytes.len();
            let at = if round % 2 == 0 {
                at
            } else {
                at / 4096 * 4096 + at % 64
            };
            bytes[at] = ids.number().to_le_bytes()[0];
        }
        fs::write(&bad, &bytes).unwrap();
        let mode = [OpenMode::ReadOnly, OpenMode::ReadWrite][round % 2];
        if read_everything(&bad, mode).await.is_err() {
            errors += 1;
        }
        for suffix in ["-wal", "-shm"] {
            let side = place.dir().join(format!("bad.db{suffix}"));
            if side.exists() {
                fs::remove_file(side).unwrap();
            }
        }
    }
    assert!(
        errors > 50,
        "{errors} of 400 were noticed: the test spoils nothing"
    );
}
