//! What is erased is in no file any more.

use std::fs;
use std::path::{Path, PathBuf};

use audit_core::ErrorKind;
use audit_core::store::{Parts, ReadStore as _, Store as _};
use audit_testkit::sample::Sample;
use audit_testkit::scan::{files_under, find_in_files};
use rusqlite::Connection;

use crate::support::{Place, append};

/// The store's files; `-shm` can't be opened beside a writer on every system, and holds no content.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = files_under(dir).unwrap();
    files.retain(|path| !path.to_string_lossy().ends_with("-shm"));
    files
}

#[tokio::test]
async fn erased_parts_tokens_salts_and_keys_are_gone_from_the_files() {
    let place = Place::new();
    let store = place.created().await;
    // Parts that fit a page, that fill some, and that fill many; enough rows for pages to be split and joined.
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
    while let Ok(more) = store.rows(rows.len() as u64..300, Parts::With).await {
        if more.is_empty() {
            break;
        }
        rows.extend(more);
    }
    let erased: Vec<u64> = (0..300).filter(|n| n % 3 != 0).collect();
    let keys = store.keys(None, 4).await.unwrap();
    let ids: Vec<_> = keys.iter().map(|key| key.id).collect();
    let mut needles: Vec<Vec<u8>> = keys.iter().map(|key| key.wrapped.to_vec()).collect();
    for index in &erased {
        let row = &rows[usize::try_from(*index).unwrap()];
        needles.extend(row.tokens.iter().map(|set| set.salt.0.to_vec()));
        // A value that overflows its page is cut, so pieces are looked for.
        let parts = row.parts.iter().flat_map(|parts| parts.chunks_exact(16));
        needles.extend(parts.step_by(50).map(<[u8]>::to_vec));
    }
    let before = find_in_files(&files(place.dir()), &needles).unwrap();
    assert!(
        before.len() * 10 > needles.len() * 9,
        "the control finds too little"
    );

    // By ones, by many, and all at once.
    store.erase(&ids[..1], &erased[..1]).await.unwrap();
    for some in erased[1..41].chunks(5) {
        store.erase(&[], some).await.unwrap();
    }
    store.erase(&ids, &erased).await.unwrap();
    let left = find_in_files(&files(place.dir()), &needles).unwrap();
    assert!(
        left.is_empty(),
        "{} left, first at {:?}",
        left.len(),
        left[0]
    );
    assert_eq!(store.keys(None, 10).await.unwrap().len(), 2);
    let whole = store.rows(3..4, Parts::With).await.unwrap();
    assert_eq!(
        whole[0].tokens, rows[3].tokens,
        "more was erased than asked for"
    );
}

#[tokio::test]
async fn a_rewrapped_key_is_gone_from_the_files() {
    let place = Place::new();
    let store = place.filled(4).await;
    append(&store, 4, 2).await;
    let old = store.keys(None, 10).await.unwrap();
    let needles: Vec<_> = old.iter().map(|key| key.wrapped).collect();
    assert_eq!(old.len(), 2);
    let mut new = old.clone();
    for key in &mut new {
        key.generation = 2;
        key.wrapped = [7; 60];
    }
    store.rewrap(&new).await.unwrap();
    let left = find_in_files(&files(place.dir()), &needles).unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn an_erasure_that_a_reader_keeps_from_its_end_says_so() {
    let place = Place::new();
    let store = place.filled(4).await;
    let raw = Connection::open(place.path()).unwrap();
    raw.execute_batch("BEGIN").unwrap();
    let count: i64 = raw
        .query_row("SELECT count(*) FROM entry", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 4);
    let error = store.erase(&[], &[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("reader"), "{error}");
    raw.execute_batch("COMMIT").unwrap();
    store.erase(&[], &[0]).await.unwrap();
    let wal = files(place.dir())
        .into_iter()
        .find(|p| p.to_string_lossy().ends_with("-wal"));
    assert_eq!(
        fs::metadata(wal.unwrap()).unwrap().len(),
        0,
        "the log was not cut"
    );
}
