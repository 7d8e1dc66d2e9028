//! Retention and legal holds, on the server's side.

use std::time::Duration;

use audit_core::ErrorKind;
use audit_core::store::{Head, ReadStore as _, Store as _};
use audit_core::time::{Clock, System, Timestamp};
use audit_store_s3::S3Store;
use audit_testkit::sample::Sample;
use http::{Method, StatusCode};

use crate::support::{Place, place};

const DAY: i64 = 86_400_000_000;

impl Place {
    async fn versions_of(&self, key: &str) -> Vec<String> {
        let query = format!(
            "/{}?versions=&prefix={}%2F{}",
            self.bucket,
            self.prefix().replace('/', "%2F"),
            key.replace('/', "%2F")
        );
        let reply = self.server.send(Method::GET, &query, &[], "").await;
        let text = String::from_utf8(reply.into_body().bytes().await.unwrap().to_vec()).unwrap();
        let mut ids = Vec::new();
        for version in text.split("<Version>").skip(1) {
            if version.contains(&format!("/{key}</Key>")) {
                let id = version.split("<VersionId>").nth(1).unwrap();
                ids.push(id.split('<').next().unwrap().to_owned());
            }
        }
        ids
    }

    async fn delete_version(&self, key: &str) -> StatusCode {
        let versions = self.versions_of(key).await;
        assert_eq!(versions.len(), 1, "{key}");
        let target = format!(
            "/{}/{}/{key}?versionId={}",
            self.bucket,
            self.prefix(),
            versions[0]
        );
        self.server
            .send(
                Method::DELETE,
                &target,
                &[("x-amz-bypass-governance-retention", "true")],
                "",
            )
            .await
            .status()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_once_cannot_be_deleted_and_the_rest_can() {
    let Some(place) = place().await else { return };
    let store = place.store();
    store.create("example.com/locking").await.unwrap();
    let sample = Sample::new(4, 1).parts_bytes(300 * 1024);
    let batch = std::sync::Arc::new(std::sync::Mutex::new(None));
    let slot = std::sync::Arc::clone(&batch);
    store
        .append(Box::new(move |head| {
            let made = sample.batch(head)?;
            *slot.lock().unwrap() = Some(made.clone());
            Ok(made)
        }))
        .await
        .unwrap();
    store.put_checkpoint(4, b"a\n4\n\n").await.unwrap();
    let status = store.retention().await.unwrap();
    assert_eq!((status.unlocked, status.held), (0, 0));
    // The log, one batch, three large parts (every fourth row has none), one checkpoint.
    assert_eq!(status.objects, 6);
    let now = System.now();
    let until = status.earliest.unwrap();
    assert!(until > now.plus_micros(DAY - 60_000_000) && until < now.plus_micros(DAY + 60_000_000));
    for key in [
        "log",
        "batch/0000000000000000",
        "checkpoints/00000000000000000004",
    ] {
        assert_eq!(
            place.delete_version(key).await,
            StatusCode::FORBIDDEN,
            "{key}"
        );
    }
    for key in ["checkpoint", "tile/0/000.p/4", "tile/entries/000.p/4"] {
        assert_eq!(
            place.delete_version(key).await,
            StatusCode::NO_CONTENT,
            "{key}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_grows_and_never_shrinks_and_holds_come_and_go() {
    let Some(place) = place().await else { return };
    let store = place.store();
    store.create("example.com/locking").await.unwrap();
    for seed in 1..4 {
        store
            .append(Box::new(move |head| Sample::new(2, seed).batch(head)))
            .await
            .unwrap();
    }
    let later =
        Timestamp::from_micros((System.now().as_micros() / 1_000_000 + 3 * 86_400) * 1_000_000)
            .unwrap();
    assert_eq!(store.extend_retention(later).await.unwrap(), 4);
    assert_eq!(store.extend_retention(later).await.unwrap(), 0);
    // Less than that changes nothing.
    assert_eq!(
        store
            .extend_retention(later.plus_micros(-DAY))
            .await
            .unwrap(),
        0
    );
    let status = store.retention().await.unwrap();
    assert_eq!((status.earliest, status.latest), (Some(later), Some(later)));
    let before = store.requests();
    store.retention().await.unwrap();
    // The log and three batches, and the names of batches, payloads and checkpoints.
    assert!(store.requests() - before <= 4 + 2 * 3);
    assert_eq!(store.not_held(&[5, 0]).await.unwrap(), [0, 5]);
    assert_eq!(store.hold(&[2, 3]).await.unwrap(), 1);
    assert_eq!(store.retention().await.unwrap().held, 1);
    assert_eq!(store.not_held(&[0, 2, 3, 4]).await.unwrap(), [0, 4]);
    // An object in which something else is to be kept stays held.
    let released = store.release(&[0, 2], &[3]).await.unwrap();
    assert_eq!((released.released, released.kept), (1, 1));
    assert_eq!(store.not_held(&[2]).await.unwrap(), [] as [u64; 0]);
    let released = store.release(&[2], &[0]).await.unwrap();
    assert_eq!((released.released, released.kept), (1, 0));
    assert_eq!(store.retention().await.unwrap().held, 0);
    let error = store.hold(&[0, 6]).await.unwrap_err();
    assert_eq!(store.retention().await.unwrap().held, 0);
    assert_eq!(error.index(), Some(6));
    store.integrity().await.unwrap();
}

impl Place {
    /// Past the log: it locks for days, and here it is for seconds.
    async fn set(&self, key: &str, what: &str, body: String) {
        let target = format!("/{}/{}/{key}?{what}=", self.bucket, self.prefix());
        let reply = self.server.send(Method::PUT, &target, &[], body).await;
        assert_eq!(reply.status(), StatusCode::OK, "{what} of {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_ran_out_is_told_and_a_hold_outlives_it() {
    let Some(place) = place().await else { return };
    let mut options = place.options();
    options.without_object_lock = true;
    let store = S3Store::new(&options).unwrap();
    store.create("example.com/locking").await.unwrap();
    for seed in 1..4 {
        store
            .append(Box::new(move |head| Sample::new(2, seed).batch(head)))
            .await
            .unwrap();
    }
    let [log, first, second, third] = [
        "log",
        "batch/0000000000000000",
        "batch/0000000000000001",
        "batch/0000000000000002",
    ];
    let seconds = System.now().as_micros() / 1_000_000 + 8;
    let until = Timestamp::from_micros(seconds * 1_000_000).unwrap();
    let text = until.to_string();
    let date = text.split('.').next().unwrap().trim_end_matches('Z');
    for key in [log, first, second, third] {
        let body = format!(
            "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>{date}Z</RetainUntilDate></Retention>"
        );
        place.set(key, "retention", body).await;
    }
    let hold = "<LegalHold><Status>ON</Status></LegalHold>".to_owned();
    place.set(second, "legal-hold", hold).await;
    let status = store.retention().await.unwrap();
    assert_eq!((status.objects, status.unlocked, status.held), (4, 0, 1));
    assert_eq!((status.earliest, status.latest), (Some(until), Some(until)));
    let deleted = place.delete_version(first).await;
    if deleted == StatusCode::NO_CONTENT {
        assert!(System.now() >= until, "a locked object was deleted");
        return;
    }
    assert_eq!(deleted, StatusCode::FORBIDDEN);
    // It runs out by the server's clock, whenever that is.
    while store.retention().await.unwrap().expired < 4
        || place.delete_version(third).await != StatusCode::NO_CONTENT
    {
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert!(
            System.now() < until.plus_micros(60_000_000),
            "a lock never runs out"
        );
    }
    // What is held stays.
    assert_eq!(place.delete_version(second).await, StatusCode::FORBIDDEN);
    assert_eq!(place.delete_version(first).await, StatusCode::NO_CONTENT);
    // And what went is missed, by whoever opens it too: the log isn't empty, and nothing is written into the hole.
    for seed in [7, 8] {
        let fresh = S3Store::new(&options).unwrap();
        let error = fresh.integrity().await.unwrap_err();
        assert!(error.to_string().contains("batch 0 is missing"), "{error}");
        let build = Box::new(move |head: &Head| Sample::new(1, seed).batch(head));
        let error = fresh.append(build).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    // The handle that was open all the time says so when it is asked.
    store.integrity().await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_stops_renewing_loses_its_lease_to_the_next_one() {
    let Some(place) = place().await else { return };
    let mut options = place.options();
    options.lease = Duration::from_millis(300);
    let first = S3Store::new(&options).unwrap();
    let second = S3Store::new(&options).unwrap();
    first.create("example.com/leasing").await.unwrap();
    let lease = first.publisher_lease().await.unwrap().unwrap();
    // Renewed it lasts for as long as its holder likes.
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(110)).await;
        assert!(lease.held().await.unwrap());
        assert!(
            second.publisher_lease().await.unwrap().is_none(),
            "there are two publishers"
        );
    }
    // A process that is stopped, not dead: it gives nothing back.
    let mut next = None;
    for _ in 0..600 {
        next = second.publisher_lease().await.unwrap();
        if next.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let next = next.expect("a lease that nobody renews never runs out");
    assert!(next.held().await.unwrap());
    // It wakes up, and knows.
    assert!(!lease.held().await.unwrap());
    assert!(first.publisher_lease().await.unwrap().is_none());
    next.release().await;
    assert!(first.publisher_lease().await.unwrap().is_some());
}
