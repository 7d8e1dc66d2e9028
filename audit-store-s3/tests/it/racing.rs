//! Several writers that never pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use audit_core::ErrorKind;
use audit_core::store::{Parts, ReadStore as _, Store as _};
use audit_core::time::{Clock as _, IdSource as _, System};
use audit_store_s3::{S3Options, S3Store};
use audit_testkit::sample::Sample;
use http::{Method, StatusCode};

use crate::support::{Place, place};

/// One event, with an id as a log gives it: greater than those before, so that nothing has to be searched for it.
async fn append(store: &S3Store, seed: u64) -> audit_core::Result<u64> {
    let sample = Sample::new(1, seed);
    let event = System.uuid_v7(System.now());
    let head = store
        .append(Box::new(move |head| {
            let mut batch = sample.batch(head)?;
            batch.rows[0].columns.event = event;
            Ok(batch)
        }))
        .await?;
    Ok(head.size)
}

fn without_linger(mut options: S3Options) -> S3Options {
    options.linger = None;
    options
}

/// Two writers that both know the end, of which the first then goes on.
async fn one_behind() -> Option<(Place, S3Store, S3Store)> {
    let place = place().await?;
    let options = without_linger(place.options());
    let (first, second) = (
        S3Store::new(&options).unwrap(),
        S3Store::new(&options).unwrap(),
    );
    first.create("example.com/racing").await.unwrap();
    append(&first, 1).await.unwrap();
    append(&second, 2).await.unwrap();
    append(&first, 3).await.unwrap();
    Some((place, first, second))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_reads_what_won_once_and_goes_on_behind_it() {
    let Some((place, first, second)) = one_behind().await else {
        return;
    };
    let before = second.requests();
    assert_eq!(append(&second, 4).await.unwrap(), 4);
    // Side pack and batch, which is taken; the batch that won and its side pack; side pack and batch. Nothing looks for
    // the end.
    assert_eq!(second.requests() - before, 6);
    // It looks for the end where it is far behind.
    for seed in 5..40 {
        append(&first, seed).await.unwrap();
    }
    let before = second.requests();
    assert_eq!(append(&second, 40).await.unwrap(), 40);
    let asked = second.requests() - before;
    assert!(asked < 120, "{asked} requests to catch up with 35 batches");
    place.store().integrity().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_the_batch_that_won_is_known() {
    let Some((place, first, second)) = one_behind().await else {
        return;
    };
    let rows = place.store().rows(2..3, Parts::Without).await.unwrap();
    let event = rows[0].columns.event;
    let sample = Sample::new(1, 9);
    let again = second.append(Box::new(move |head| {
        let mut batch = sample.batch(head)?;
        batch.rows[0].columns.event = event;
        Ok(batch)
    }));
    let error = again.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("already in the log"), "{error}");
    assert_eq!(append(&second, 4).await.unwrap(), 4);
    assert_eq!(append(&first, 5).await.unwrap(), 5);
    place.store().integrity().await.unwrap();
}

/// Whoever can write to the bucket puts a batch of another log, or a changed one, at the next number.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_built_on_a_batch_that_does_not_continue_the_log() {
    let Some((elsewhere, _, _)) = one_behind().await else {
        return;
    };
    let name = "batch/0000000000000002";
    let key = |place: &Place| format!("/{}/{}/{name}", place.bucket, place.prefix());
    let get = async |place: &Place| {
        let reply = place.server.send(Method::GET, &key(place), &[], "").await;
        reply.into_body().bytes().await.unwrap().to_vec()
    };
    let foreign = get(&elsewhere).await;
    for what in ["doesn't follow the batch before it", "an edge that isn't"] {
        let Some((place, _first, second)) = one_behind().await else {
            return;
        };
        let bytes = if what.contains("edge") {
            let mut changed = get(&place).await;
            // In the first hash of the edge.
            changed[109 + 2 + 5] ^= 1;
            changed
        } else {
            foreign.clone()
        };
        let put = place
            .server
            .send(Method::PUT, &key(&place), &[], bytes)
            .await;
        assert_eq!(put.status(), StatusCode::OK);
        for seed in [9, 10] {
            let error = append(&second, seed).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains(what), "{error}");
        }
        let error = place.store().integrity().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

/// Neither gives up, neither waits for the other's end, and it costs few requests.
#[tokio::test(flavor = "multi_thread")]
async fn writers_that_never_pause_all_get_through() {
    const EACH: u64 = 40;
    for writers in [2_u64, 3] {
        let Some(place) = place().await else { return };
        let options = without_linger(place.options());
        place.store().create("example.com/racing").await.unwrap();
        let mut tasks = Vec::new();
        for writer in 0..writers {
            let store = S3Store::new(&options).unwrap();
            tasks.push(tokio::spawn(async move {
                let mut sizes = Vec::new();
                for n in 0..EACH {
                    let seed = 1 + writer * EACH + n;
                    sizes.push(append(&store, seed).await.unwrap());
                }
                (sizes, store.requests())
            }));
        }
        let mut all = Vec::new();
        let mut requests = 0;
        for task in tasks {
            let (sizes, asked) = task.await.unwrap();
            println!(
                "{writers} writers: {asked} requests, last of its batches at {:?}",
                sizes.last()
            );
            all.extend(sizes);
            requests += asked;
        }
        all.sort_unstable();
        assert!(all.iter().copied().eq(1..=writers * EACH), "{all:?}");
        let store = place.store();
        store.integrity().await.unwrap();
        let rows = store.rows(0..u64::MAX, Parts::With).await.unwrap();
        assert_eq!(rows.len() as u64, writers * EACH);
        let keys = place.keys().await;
        let count = |part: &str| keys.iter().filter(|key| key.contains(part)).count();
        println!(
            "{writers} writers: {requests} requests for {} batches, {} side packs",
            count("/batch/"),
            count("/side/")
        );
        assert!(requests <= 12 * writers * EACH, "{requests} requests");
    }
}

/// Somebody who writes now and then beside one who never pauses.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_late_gets_a_place_beside_a_writer_that_never_pauses() {
    let Some(place) = place().await else { return };
    let options = without_linger(place.options());
    place.store().create("example.com/racing").await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let busy = S3Store::new(&options).unwrap();
    let tireless = tokio::spawn({
        let done = Arc::clone(&done);
        async move {
            let mut n = 0;
            while !done.load(Ordering::SeqCst) {
                n += 1;
                append(&busy, n).await.unwrap();
            }
            n
        }
    });
    for round in 0..5 {
        // Each knows nothing yet.
        let store = S3Store::new(&options).unwrap();
        let opened = store.head().await.unwrap().size;
        let before = store.requests();
        let size = append(&store, 1_000_000 + round).await.unwrap();
        println!(
            "round {round}: {} requests, {} batches behind what it found",
            store.requests() - before,
            size - opened
        );
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    done.store(true, Ordering::SeqCst);
    let written = tireless.await.unwrap();
    let store = place.store();
    assert_eq!(store.head().await.unwrap().size, written + 5);
    store.integrity().await.unwrap();
}
