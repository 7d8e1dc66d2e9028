//! Several processes that erase at the same time.

use std::sync::Arc;

use audit_core::store::{Parts, ReadStore as _, Store as _};
use audit_testkit::sample::Sample;
use http::Method;
use tokio::task::JoinSet;

use crate::support::place;

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_erase_at_once_undo_nothing_of_each_other() {
    const ROWS: u64 = 6;
    let Some(place) = place().await else { return };
    let store = place.store();
    store.create("example.com/log").await.unwrap();
    let sample = Sample::new(usize::try_from(ROWS).unwrap(), 1);
    store
        .append(Box::new(move |head| sample.batch(head)))
        .await
        .unwrap();
    let rows = store.rows(0..ROWS, Parts::With).await.unwrap();
    let with = rows.iter().filter(|row| row.tokens.is_some()).count();
    assert!(with > 1, "nothing to erase");
    // All rows are in one side pack.
    let mut erasing = JoinSet::new();
    for index in 0..ROWS {
        let other = Arc::new(place.store());
        erasing.spawn(async move { other.erase(&[], &[index]).await });
    }
    while let Some(done) = erasing.join_next().await {
        done.unwrap().unwrap();
    }
    for handle in [store, place.store()] {
        for row in handle.rows(0..ROWS, Parts::With).await.unwrap() {
            assert_eq!(row.tokens, None, "the tokens of {} are back", row.index);
            assert_eq!(row.parts, None, "the parts of {} are back", row.index);
        }
        assert_eq!(handle.token_rows(None, 100).await.unwrap(), []);
        handle.integrity().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_elsewhere_takes_nothing_that_a_delete_marker_hides() {
    let Some(place) = place().await else { return };
    let store = place.store();
    store.create("example.com/log").await.unwrap();
    for seed in [1, 2] {
        let sample = Sample::new(3, seed);
        store
            .append(Box::new(move |head| sample.batch(head)))
            .await
            .unwrap();
    }
    let before = place.store().rows(3..6, Parts::With).await.unwrap();
    let keys = place.keys().await;
    let second = keys
        .iter()
        .find(|key| key.contains("/side/0000000000000001"));
    let target = format!("/{}/{}", place.bucket, second.unwrap());
    let deleted = place.server.send(Method::DELETE, &target, &[], "").await;
    assert!(deleted.status().is_success());
    place.store().rows(3..6, Parts::With).await.unwrap_err();
    place.store().erase(&[], &[0]).await.unwrap();
    let after = place.store().rows(3..6, Parts::With).await.unwrap();
    assert_eq!(after, before, "what was hidden is gone");
}
