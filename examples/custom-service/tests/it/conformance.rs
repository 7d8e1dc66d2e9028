//! A store that nobody of the project wrote holds the contract.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use audit_core::ErrorKind;
use audit_core::store::{Parts, Store};
use audit_testkit::conformance::Backend;
use audit_testkit::{conformance_tests, sample};
use custom_service::dir_store::DirStore;

struct Place {
    dir: tempfile::TempDir,
    count: AtomicU32,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            count: AtomicU32::new(0),
        }
    }

    fn path(&self) -> std::path::PathBuf {
        let count = self.count.load(Ordering::SeqCst);
        self.dir.path().join(format!("store-{count}"))
    }
}

#[async_trait]
impl Backend for Place {
    async fn fresh(&self) -> Arc<dyn Store> {
        self.count.fetch_add(1, Ordering::SeqCst);
        Arc::new(DirStore::create_dir(self.path()).unwrap())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(DirStore::open(self.path()).unwrap())
    }
}

conformance_tests!(Place::new());

#[tokio::test]
async fn a_batch_file_that_was_changed_is_corrupt_and_never_a_panic() {
    let place = Place::new();
    let store = place.fresh().await;
    store.create("example.com/log").await.unwrap();
    store
        .append(Box::new(|head| sample::batch(head, 4, 1)))
        .await
        .unwrap();
    let file = place
        .path()
        .join("batches")
        .join(format!("{:020}.batch", 0));
    let good = std::fs::read(&file).unwrap();
    for length in 0..good.len() {
        std::fs::write(&file, &good[..length]).unwrap();
        let read = place.reopen().await.rows(0..4, Parts::With).await;
        let error = read.expect_err("a batch file that was cut is read");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}: {error}");
    }
    let longer = [good.as_slice(), b"x"].concat();
    std::fs::write(&file, longer).unwrap();
    place.reopen().await.head().await.unwrap_err();
}

#[tokio::test]
async fn a_file_that_was_being_written_when_the_power_went_is_no_batch() {
    let place = Place::new();
    let store = place.fresh().await;
    store.create("example.com/log").await.unwrap();
    let left = place.path().join("batches").join(format!("{:020}.tmp", 0));
    std::fs::write(left, b"{\"rows\":[").unwrap();
    assert_eq!(place.reopen().await.head().await.unwrap().size, 0);
    store
        .append(Box::new(|head| sample::batch(head, 2, 1)))
        .await
        .unwrap();
    assert_eq!(place.reopen().await.head().await.unwrap().size, 2);
}
