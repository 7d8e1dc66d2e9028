//! Answers that are lost, servers that fail in the middle, requests that arrive late: no event is lost, doubled, or told of
//! wrongly.

use std::time::Duration;

use audit_core::ErrorKind;
use audit_core::store::{Parts, ReadStore as _, Store as _};
use audit_store_s3::S3Store;
use audit_testkit::sample::Sample;
use uuid::Uuid;

use crate::proxy::{Fault, Proxy};
use crate::support::{Place, place};

const ORIGIN: &str = "example.com/outcomes";
const BATCH: &str = "/batch/";
const PUT_BATCH: &str = "/batch/";

/// A store behind a proxy, with a log of three entries.
async fn behind_proxy() -> Option<(Place, Proxy, S3Store)> {
    let place = place().await?;
    let proxy = Proxy::before(&place.server.endpoint).await;
    let mut options = place.options();
    options.endpoint = Some(proxy.endpoint.clone());
    options.timeout = Duration::from_secs(1);
    let store = S3Store::new(&options).unwrap();
    store.create(ORIGIN).await.unwrap();
    append(&store, 3, 1).await.unwrap();
    Some((place, proxy, store))
}

async fn append(store: &S3Store, rows: usize, seed: u64) -> audit_core::Result<u64> {
    let sample = Sample::new(rows, seed);
    let head = store
        .append(Box::new(move |head| sample.batch(head)))
        .await?;
    Ok(head.size)
}

/// The ids of what stands in the log, read past the proxy and by somebody who knows nothing yet.
async fn events(place: &Place) -> Vec<Uuid> {
    let store = place.store();
    let size = store.head().await.unwrap().size;
    let rows = store.rows(0..size, Parts::With).await.unwrap();
    assert_eq!(rows.len() as u64, size);
    store.integrity().await.unwrap();
    rows.iter().map(|row| row.columns.event).collect()
}

fn put_batch(number: u64) -> String {
    format!("{PUT_BATCH}{number:016} ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_answer_was_lost_is_ours_and_is_written_once() {
    let Some((place, proxy, store)) = behind_proxy().await else {
        return;
    };
    let faults = [
        Fault::LoseAnswer,
        Fault::AnswerInstead(500),
        Fault::AnswerInstead(504),
        Fault::Answer(503),
        Fault::Answer(500),
        Fault::Answer(409),
        Fault::Answer(429),
        Fault::Silence,
    ];
    let mut size = 3;
    for (fault, seed) in faults.into_iter().zip(2..) {
        proxy.next("PUT ", Fault::LoseAnswer);
        // The side pack comes first; it is overwritten with the same bytes.
        let number = seed - 1;
        proxy.next(&put_batch(number), fault);
        size += 2;
        assert_eq!(append(&store, 2, seed).await.unwrap(), size, "{fault:?}");
        assert_eq!(proxy.left(), 0, "{fault:?} didn't come to pass");
        assert_eq!(events(&place).await.len() as u64, size, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_came_through_unanswered_is_found_before_anything_else_is_said() {
    let Some((place, proxy, store)) = behind_proxy().await else {
        return;
    };
    // It is carried out, and from then on nobody answers about it.
    proxy.next(&put_batch(1), Fault::LoseAnswer);
    proxy.times(100, BATCH, Fault::Answer(503));
    let sample = Sample::new(4, 7);
    let event = sample.batch(&store_head(&place).await).unwrap().rows[0]
        .columns
        .event;
    let error = append(&store, 4, 7).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    let error = store.position(event).await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Unavailable,
        "nobody can know yet: {error}"
    );
    let error = append(&store, 1, 8).await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Unavailable,
        "nothing else is appended: {error}"
    );
    proxy.clear();
    assert_eq!(store.position(event).await.unwrap(), Some(3));
    assert_eq!(append(&store, 1, 8).await.unwrap(), 8);
    assert_eq!(events(&place).await.len(), 8);
}

async fn store_head(place: &Place) -> audit_core::store::Head {
    place.store().head().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_still_on_its_way_lands_nowhere_once_it_was_said_not_to_be_there() {
    let Some((place, proxy, store)) = behind_proxy().await else {
        return;
    };
    let head = store_head(&place).await;
    let event = Sample::new(4, 7).batch(&head).unwrap().rows[0]
        .columns
        .event;
    // All attempts are on their way for ever.
    proxy.times(5, &put_batch(1), Fault::Hold);
    let error = append(&store, 4, 7).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    assert_eq!(proxy.left(), 0);
    assert_eq!(store.position(event).await.unwrap(), None);
    // Now they arrive.
    let said = proxy.release().await;
    assert_eq!(said.len(), 5);
    assert!(said.iter().all(|line| line.contains("412")), "{said:?}");
    assert_eq!(store.position(event).await.unwrap(), None);
    // The same events may be appended again, and stand there once.
    assert_eq!(append(&store, 4, 7).await.unwrap(), 7);
    let events = events(&place).await;
    assert_eq!(events.iter().filter(|id| **id == event).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_another_took_meanwhile_is_settled_by_what_stands_there() {
    let Some((place, proxy, store)) = behind_proxy().await else {
        return;
    };
    let head = store_head(&place).await;
    let event = Sample::new(4, 7).batch(&head).unwrap().rows[0]
        .columns
        .event;
    proxy.times(5, &put_batch(1), Fault::Hold);
    append(&store, 4, 7).await.unwrap_err();
    let other = place.store();
    assert_eq!(append(&other, 2, 9).await.unwrap(), 5);
    assert_eq!(store.position(event).await.unwrap(), None);
    assert_eq!(append(&store, 4, 7).await.unwrap(), 9);
    assert_eq!(events(&place).await.len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_caller_went_away_is_settled_by_the_next() {
    let Some((place, proxy, store)) = behind_proxy().await else {
        return;
    };
    proxy.next(&put_batch(1), Fault::Silence);
    let gone = tokio::time::timeout(Duration::from_millis(300), append(&store, 4, 7)).await;
    assert!(gone.is_err(), "the append was to be cut off");
    assert_eq!(append(&store, 2, 8).await.unwrap(), 5);
    assert_eq!(events(&place).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_whose_answer_was_lost_is_there() {
    let Some((place, proxy, store)) = behind_proxy().await else {
        return;
    };
    proxy.next("/checkpoints/", Fault::LoseAnswer);
    proxy.next("/checkpoint ", Fault::LoseAnswer);
    proxy.next("/tile/0/", Fault::AnswerInstead(500));
    // The listing of checkpoints has a query, not a path.
    store.put_checkpoint(3, b"a\n3\n\n").await.unwrap();
    assert_eq!(proxy.left(), 0);
    let read = place.store();
    assert_eq!(
        read.latest_checkpoint().await.unwrap().as_deref(),
        Some(&b"a\n3\n\n"[..])
    );
    read.integrity().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_publisher_costs_no_requests() {
    let Some((_place, proxy, store)) = behind_proxy().await else {
        return;
    };
    store.put_checkpoint(3, b"a\n3\n\n").await.unwrap();
    let before = proxy.seen("");
    for _ in 0..5 {
        store.put_checkpoint(3, b"a\n3\n\n").await.unwrap();
    }
    assert_eq!(proxy.seen(""), before);
}
