//! What is erased is in no table's file any more.

use std::collections::BTreeMap;

use audit_core::ErrorKind;
use audit_core::store::{Parts, ReadStore as _, Store as _};
use audit_testkit::sample::Sample;
use sqlx::{AssertSqlSafe, Row as _};

use crate::support::{Place, append, place_or_skip};

/// The bytes of every table and index of the last store, as they lie on the server's disk, by name; TOAST belongs to its
/// table. Read through the server, since its files are another user's.
async fn files(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let mut raw = place.raw().await;
    sqlx::raw_sql("CHECKPOINT").execute(&mut raw).await.unwrap();
    let sql = format!(
        "SELECT c.relname::text, pg_read_binary_file(pg_relation_filepath(c.oid)) FROM pg_class c
         WHERE c.relnamespace = '{0}'::regnamespace AND c.relkind IN ('r', 'i')
           OR c.oid IN (SELECT reltoastrelid FROM pg_class WHERE relnamespace = '{0}'::regnamespace)",
        place.schema()
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(&mut raw)
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Which of the needles are in which files.
fn found(files: &BTreeMap<String, Vec<u8>>, needles: &[Vec<u8>]) -> Vec<(String, usize)> {
    let mut hits = Vec::new();
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let found = audit_testkit::scan::find_in_files(&[path], needles).unwrap();
        if !found.is_empty() {
            hits.push((name.clone(), found.len()));
        }
    }
    hits
}

#[tokio::test]
async fn erased_parts_tokens_salts_and_keys_are_gone_from_the_files() {
    let place = place_or_skip!();
    let store = place.created().await;
    for (seed, bytes) in [
        (1, 40),
        (2, 300),
        (3, 3000),
        (4, 100_000),
        (5, 300),
        (6, 40),
    ] {
        let sample = Sample::new(50, seed).parts_bytes(bytes);
        store
            .append(Box::new(move |head| sample.batch(head)))
            .await
            .unwrap();
    }
    let mut rows = Vec::new();
    while rows.len() < 300 {
        rows.extend(
            store
                .rows(rows.len() as u64..300, Parts::With)
                .await
                .unwrap(),
        );
    }
    let erased: Vec<u64> = (0..300).filter(|n| n % 3 != 0).collect();
    let keys = store.keys(None, 4).await.unwrap();
    let ids: Vec<_> = keys.iter().map(|key| key.id).collect();
    let mut needles: Vec<Vec<u8>> = keys.iter().map(|key| key.wrapped.to_vec()).collect();
    for index in &erased {
        let row = &rows[usize::try_from(*index).unwrap()];
        needles.extend(row.tokens.iter().map(|set| set.salt.0.to_vec()));
        // A long value is cut into pieces, so pieces are looked for.
        let parts = row.parts.iter().flat_map(|parts| parts.chunks_exact(16));
        needles.extend(parts.step_by(50).map(<[u8]>::to_vec));
    }
    let before = found(&files(&place).await, &needles);
    let hits: usize = before.iter().map(|(_, hits)| hits).sum();
    assert!(
        hits * 10 > needles.len() * 9,
        "the control finds too little: {before:?}"
    );

    // By ones, by many, and all at once.
    store.erase(&ids[..1], &erased[..1]).await.unwrap();
    store.erase(&[], &erased[1..6]).await.unwrap();
    store.erase(&ids, &erased).await.unwrap();
    let left = found(&files(&place).await, &needles);
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(store.keys(None, 10).await.unwrap().len(), 2);
    let whole = store.rows(3..4, Parts::With).await.unwrap();
    assert_eq!(
        whole[0].tokens, rows[3].tokens,
        "more was erased than asked for"
    );
    let tokens = store.token_rows(None, usize::MAX).await.unwrap();
    assert!(
        tokens.iter().all(|(_, index)| index % 3 == 0),
        "a token row of an erased entry is left"
    );
}

#[tokio::test]
async fn a_rewrapped_key_is_gone_from_the_files() {
    let place = place_or_skip!();
    let store = place.filled(4).await;
    append(&store, 4, 2).await;
    let old = store.keys(None, 10).await.unwrap();
    let needles: Vec<_> = old.iter().map(|key| key.wrapped.to_vec()).collect();
    assert_eq!(old.len(), 2);
    let before = found(&files(&place).await, &needles);
    assert_eq!(
        before,
        [("data_key".to_owned(), 2)],
        "the control finds nothing"
    );
    let mut new = old.clone();
    for key in &mut new {
        key.generation = 2;
        key.wrapped = [7; 60];
    }
    store.rewrap(&new).await.unwrap();
    let left = found(&files(&place).await, &needles);
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn an_erasure_that_an_older_transaction_keeps_from_its_end_says_so() {
    let place = place_or_skip!();
    let store = place.filled(4).await;
    let mut raw = place.raw().await;
    let older = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM content";
    sqlx::raw_sql(older).execute(&mut raw).await.unwrap();
    let error = store.erase(&[], &[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(
        error.to_string().contains("transaction that began before"),
        "{error}"
    );
    sqlx::raw_sql("COMMIT").execute(&mut raw).await.unwrap();
    store.erase(&[], &[0]).await.unwrap();
}
