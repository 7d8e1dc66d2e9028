//! Backups beside writers, and what replaces a store.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use audit_core::ErrorKind;
use audit_core::store::{Parts, ReadStore as _, Store as _};
use audit_store_sqlite::{OpenMode, SqliteStore};
use audit_testkit::sample::Sample;
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::EdgeTiles;

async fn append(store: &SqliteStore, seed: u64, rows: usize) -> u64 {
    let sample = Sample::new(rows, seed);
    let head = store.append(Box::new(move |head| sample.batch(head)));
    head.await.unwrap().size
}

/// The size of a store whose rows and tiles agree.
async fn whole(store: &SqliteStore) -> u64 {
    store.integrity().await.unwrap();
    let head = store.head().await.unwrap();
    let mut edge = EdgeTiles::new();
    while edge.size() < head.size {
        let rows = store
            .rows(edge.size()..head.size, Parts::With)
            .await
            .unwrap();
        for row in rows {
            edge.push(leaf_hash(&row.entry));
        }
    }
    assert_eq!(edge.root(), head.edge.root());
    head.size
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_beside_a_writer_is_one_state_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::create_file(dir.path().join("log.db")).unwrap());
    store.create("example.com/log").await.unwrap();
    append(&store, 1, 500).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut seed = 2;
            while !stop.load(Ordering::SeqCst) {
                append(&store, seed, 7).await;
                seed += 1;
            }
        })
    };
    let mut sizes = Vec::new();
    for n in 0..6 {
        let reader = SqliteStore::open(store.path(), OpenMode::ReadOnly).unwrap();
        let to = dir.path().join(format!("backup-{n}.db"));
        let before = store.head().await.unwrap().size;
        let steps = std::sync::atomic::AtomicU64::new(0);
        let backup = tokio::task::block_in_place(|| {
            reader.backup(&to, &|done, total| {
                assert!(done <= total);
                steps.fetch_add(1, Ordering::SeqCst);
            })
        });
        let backup = backup.unwrap();
        assert!(steps.load(Ordering::SeqCst) > 0);
        assert!(!to.exists(), "it has its name before anybody looked at it");
        let size = whole(&backup.store().unwrap()).await;
        assert!(
            size >= before && (size - 500) % 7 == 0,
            "{before} then {size}"
        );
        sizes.push(size);
        backup.keep().unwrap();
        let kept = SqliteStore::open(&to, OpenMode::ReadWrite).unwrap();
        assert_eq!(whole(&kept).await, size);
        append(&kept, 999, 3).await;
    }
    stop.store(true, Ordering::SeqCst);
    writing.await.unwrap();
    assert!(sizes.is_sorted(), "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_overwrites_nothing_and_leaves_nothing_when_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::create_file(dir.path().join("log.db")).unwrap();
    store.create("example.com/log").await.unwrap();
    append(&store, 1, 20).await;
    let to = dir.path().join("backup.db");
    let backup = || tokio::task::block_in_place(|| store.backup(&to, &|_, _| {})).unwrap();
    drop(backup());
    let names = || {
        let entries = fs::read_dir(dir.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| !name.starts_with("log.db"))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(), [""; 0]);
    fs::write(&to, "evidence").unwrap();
    let refused = backup().keep().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert_eq!(fs::read(&to).unwrap(), b"evidence");
    assert_eq!(names(), ["backup.db"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_replaces_a_store_is_not_read_with_the_old_ones_log_and_the_old_one_is_kept_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.db");
    let good = SqliteStore::create_file(dir.path().join("good.db")).unwrap();
    good.create("example.com/log").await.unwrap();
    append(&good, 1, 30).await;
    let old = SqliteStore::create_file(&path).unwrap();
    old.create("example.com/log").await.unwrap();
    append(&old, 7, 90).await;
    // Its writer died: most of it stands in the write-ahead log.
    let wal = fs::read(dir.path().join("log.db-wal")).unwrap();
    assert!(wal.len() > 10_000);
    let files = [fs::read(&path).unwrap(), wal];
    drop(old);
    fs::write(&path, &files[0]).unwrap();
    fs::write(dir.path().join("log.db-wal"), &files[1]).unwrap();
    let backup = tokio::task::block_in_place(|| good.backup(&path, &|_, _| {})).unwrap();
    let kept = backup.replace(".old").unwrap().unwrap();
    assert_eq!(kept, dir.path().join("log.db.old"));
    let restored = SqliteStore::open(&path, OpenMode::ReadWrite).unwrap();
    assert_eq!(whole(&restored).await, 30);
    append(&restored, 2, 5).await;
    let kept = SqliteStore::open(&kept, OpenMode::ReadWrite).unwrap();
    assert_eq!(whole(&kept).await, 90);
    // Where there is nothing it is put as well; a name that is taken stops it before anything is changed.
    drop(restored);
    let backup = tokio::task::block_in_place(|| good.backup(&path, &|_, _| {})).unwrap();
    assert_eq!(
        backup.replace(".old").unwrap_err().kind(),
        ErrorKind::Invalid
    );
    let still = SqliteStore::open(&path, OpenMode::ReadWrite).unwrap();
    assert_eq!(whole(&still).await, 35);
    drop(still);
    fs::remove_file(&path).unwrap();
    let backup = tokio::task::block_in_place(|| good.backup(&path, &|_, _| {})).unwrap();
    assert_eq!(backup.replace(".older").unwrap(), None);
    let restored = SqliteStore::open(&path, OpenMode::ReadOnly).unwrap();
    assert_eq!(whole(&restored).await, 30);
}
