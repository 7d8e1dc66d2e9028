//! The store in memory holds the contract, and refuses what a careful log never writes.

use audit_core::ErrorKind;
use audit_core::store::{Batch, Head, ReadStore as _, Store as _};
use audit_testkit::conformance_tests;
use audit_testkit::memory::{MemoryBackend, MemoryStore};
use audit_testkit::sample;

conformance_tests!(MemoryBackend::default());

async fn refused(what: &str, spoil: impl Fn(&mut Batch) + Send + 'static) {
    let store = MemoryStore::new();
    store.create("example.com/log").await.unwrap();
    let appended = store
        .append(Box::new(move |head: &Head| {
            let mut batch = sample::batch(head, 4, 1)?;
            spoil(&mut batch);
            Ok(batch)
        }))
        .await;
    let error = appended.expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{what}: {error}");
    assert_eq!(store.head().await.unwrap().size, 0, "{what}");
}

#[tokio::test]
async fn what_an_entry_does_not_say_is_refused() {
    refused("an entry that isn't canonical", |b| {
        b.rows[1].entry.push(b' ');
    })
    .await;
    refused("another kind", |b| {
        b.rows[1].columns.kind = b.rows[0].columns.kind.clone();
    })
    .await;
    refused("another time", |b| {
        b.rows[1].columns.time = b.rows[0].columns.time;
    })
    .await;
    refused("no tokens", |b| b.rows[1].tokens = None).await;
    refused("no parts", |b| b.rows[1].parts = None).await;
    refused("parts cut off", |b| {
        b.rows[1].parts.as_mut().unwrap().truncate(7);
    })
    .await;
    refused("a key without its record", |b| b.keys.clear()).await;
    refused("another record", |b| b.keys[0].wrapped[0] ^= 1).await;
    refused("tiles of other entries", |b| b.tiles[0].hashes.swap(0, 1)).await;
}

#[tokio::test]
async fn contents_can_be_rolled_back_by_a_test() {
    let store = MemoryStore::new();
    store.create("example.com/log").await.unwrap();
    let before = store.contents();
    store
        .append(Box::new(|head| sample::batch(head, 3, 1)))
        .await
        .unwrap();
    store.replace(before);
    assert_eq!(store.head().await.unwrap().size, 0);
}
