//! Buckets in which somebody was: deleted, replaced, planted, misconfigured.

use audit_core::ErrorKind;
use audit_core::store::{ReadStore as _, Store as _};
use audit_store_s3::{S3Options, S3Store};
use audit_testkit::sample::Sample;
use http::{Method, StatusCode};
use sha2::Digest as _;

use crate::support::{Place, Server, fresh_name, place, server};

const ORIGIN: &str = "example.com/hostile";

async fn append(store: &S3Store, rows: usize, seed: u64) -> audit_core::Result<u64> {
    let sample = Sample::new(rows, seed);
    let head = store
        .append(Box::new(move |head| sample.batch(head)))
        .await?;
    Ok(head.size)
}

async fn filled() -> Option<(Place, S3Store)> {
    let place = place().await?;
    let store = place.store();
    store.create(ORIGIN).await.unwrap();
    for seed in 1..4 {
        append(&store, 5, seed).await.unwrap();
    }
    store.put_checkpoint(15, b"a\n15\n\n").await.unwrap();
    place.store().integrity().await.unwrap();
    Some((place, store))
}

impl Place {
    fn target(&self, key: &str) -> String {
        format!("/{}/{}/{key}", self.bucket, self.prefix())
    }

    async fn delete(&self, key: &str) {
        let reply = self
            .server
            .send(Method::DELETE, &self.target(key), &[], "")
            .await;
        assert_eq!(reply.status(), StatusCode::NO_CONTENT, "{key}");
    }

    async fn put(&self, key: &str, bytes: &[u8]) -> StatusCode {
        let bytes = bytes.to_vec();
        self.server
            .send(Method::PUT, &self.target(key), &[], bytes)
            .await
            .status()
    }
}

async fn is_corrupt(place: &Place, says: &str) {
    let error = place.store().integrity().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let text = format!("{error:?}");
    assert!(text.contains(says), "{text} doesn't say {says:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_end_is_neither_read_as_shorter_nor_written_over() {
    let Some((place, store)) = filled().await else {
        return;
    };
    place.delete("batch/0000000000000002").await;
    let fresh = place.store();
    let error = fresh.head().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("delete marker"), "{error}");
    assert_eq!(
        append(&fresh, 1, 9).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    drop(store);
    is_corrupt(&place, "delete marker").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_written_over_a_marker_is_found_by_its_second_version() {
    let Some((place, _store)) = filled().await else {
        return;
    };
    // What stood there goes behind a marker, and then only-if-absent succeeds with another end.
    let name = "batch/0000000000000002";
    let whole = place
        .server
        .send(Method::GET, &place.target(name), &[], "")
        .await;
    let mut bytes = whole.into_body().bytes().await.unwrap().to_vec();
    place.delete(name).await;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let absent = [("if-none-match", "*")];
    let put = place
        .server
        .send(Method::PUT, &place.target(name), &absent, bytes)
        .await;
    assert_eq!(put.status(), StatusCode::OK, "the server let it through");
    // Opening looks at the versions of the last batches, verifying at those of all.
    let error = place.store().description().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let says = error.to_string();
    assert!(
        says.contains("delete marker") || says.contains("second version"),
        "{says}"
    );
    assert_eq!(
        append(&place.store(), 1, 9).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_object_that_was_replaced_deleted_or_added_is_found() {
    for key in [
        "log",
        "batch/0000000000000000",
        "batch/0000000000000001",
        "checkpoints/00000000000000000015",
    ] {
        let Some((place, _store)) = filled().await else {
            return;
        };
        place.put(key, b"other bytes").await;
        let Err(error) = place.store().integrity().await else {
            panic!("{key} was replaced and nothing was said");
        };
        assert!(
            error.kind() == ErrorKind::Corrupt || key == "log",
            "{key}: {error}"
        );
        assert!(error.to_string().contains(key), "{key}: {error}");
    }
    for (key, says) in [
        ("tile/0/000.p/15", "tile/0/000.p/15"),
        ("tile/entries/000.p/15", "tile/entries/000.p/15"),
        ("checkpoint", "checkpoint"),
    ] {
        let Some((place, _store)) = filled().await else {
            return;
        };
        let there = place
            .server
            .send(Method::GET, &place.target(key), &[], "")
            .await;
        assert_eq!(there.status(), StatusCode::OK, "{key} wasn't written");
        let bytes = there.into_body().bytes().await.unwrap();
        let mut other = bytes.to_vec();
        other[0] ^= 1;
        place.put(key, &other).await;
        is_corrupt(&place, says).await;
        place.put(key, &bytes).await;
        place.store().integrity().await.unwrap();
        place.delete(key).await;
        is_corrupt(&place, says).await;
    }
    for key in [
        "readme.txt",
        "batch/3",
        "tile/0/000.p/99",
        "tile/entries/001",
        "checkpoints/00000000000000000000",
    ] {
        let Some((place, _store)) = filled().await else {
            return;
        };
        place.put(key, b"x").await;
        let error = place.store().integrity().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{key}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_below_the_prefix_already_is_not_built_upon() {
    let Some(place) = place().await else { return };
    place.put("notes.txt", b"mine").await;
    let error = place.store().create(ORIGIN).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert_eq!(place.store().description().await.unwrap(), None);
}

fn with(server: &Server, bucket: &str) -> S3Options {
    server.options(bucket, &fresh_name("p"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_cannot_lock_is_refused_unless_that_is_wanted_and_then_recorded() {
    let Some(server) = server() else { return };
    let bucket = fresh_name("plain");
    server.make_bucket(&bucket, false).await;
    let options = with(&server, &bucket);
    let error = S3Store::new(&options)
        .unwrap()
        .create(ORIGIN)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("object_lock=no"), "{error}");
    let mut without = options.clone();
    without.without_object_lock = true;
    let store = S3Store::new(&without).unwrap();
    store.create(ORIGIN).await.unwrap();
    append(&store, 5, 1).await.unwrap();
    store.put_checkpoint(5, b"a\n5\n\n").await.unwrap();
    // Who opens it later and says nothing is told what the log is, not what he asked for.
    let store = S3Store::new(&options).unwrap();
    assert_eq!(store.description().await.unwrap().unwrap().origin, ORIGIN);
    let description = store.description().await.unwrap().unwrap();
    assert_eq!(description.retention_lock, Some(false));
    assert!(!store.capabilities().retention_lock);
    store.integrity().await.unwrap();
    let error = store
        .extend_retention(audit_core::time::Timestamp::EPOCH)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    // Erasing leaves nothing behind here either.
    let keys = store.keys(None, 10).await.unwrap();
    store.erase(&[keys[0].id], &[0, 1]).await.unwrap();
    store.integrity().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_would_lock_what_must_be_erasable_is_refused() {
    let Some(server) = server() else { return };
    let bucket = fresh_name("default");
    server.make_bucket(&bucket, true).await;
    let rule = "<ObjectLockConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><ObjectLockEnabled>Enabled\
                </ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention>\
                </Rule></ObjectLockConfiguration>";
    let set = server
        .send(Method::PUT, &format!("/{bucket}?object-lock="), &[], rule)
        .await;
    assert_eq!(set.status(), StatusCode::OK);
    for without_object_lock in [false, true] {
        let mut options = with(&server, &bucket);
        options.without_object_lock = without_object_lock;
        let error = S3Store::new(&options)
            .unwrap()
            .create(ORIGIN)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("default retention"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_named() {
    let Some(server) = server() else { return };
    let options = with(&server, "there-is-no-such-bucket");
    let store = S3Store::new(&options).unwrap();
    for error in [
        store.create(ORIGIN).await.unwrap_err(),
        store.description().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(
            error.to_string().contains("there-is-no-such-bucket"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_were_changed_on_the_servers_disks_are_found_behind_every_lock() {
    if server().is_none() {
        return;
    }
    let Ok(filer) = std::env::var("AUDIT_TEST_S3_FILER_URL") else {
        assert!(
            std::env::var_os("AUDIT_TEST_SERVICES").is_none(),
            "AUDIT_TEST_S3_FILER_URL is not set"
        );
        println!("skipped: AUDIT_TEST_S3_FILER_URL names no back door");
        return;
    };
    for key in [
        "log",
        "batch/0000000000000001",
        "batch/0000000000000002",
        "checkpoints/00000000000000000015",
    ] {
        let Some((place, _store)) = filled().await else {
            return;
        };
        let there = place
            .server
            .send(Method::GET, &place.target(key), &[], "")
            .await;
        let version = there.headers()["x-amz-version-id"]
            .to_str()
            .unwrap()
            .to_owned();
        let good = there.into_body().bytes().await.unwrap().to_vec();
        let mut bad = good.clone();
        let last = bad.len() - 1;
        bad[last] ^= 1;
        // Past the server that enforces the lock, to the one that keeps the files.
        let path = format!("{filer}/buckets{}.versions/v_{version}", place.target(key));
        let write = async |bytes: Vec<u8>| {
            let put = place.server.raw_put(&path, bytes).await;
            assert!(put.is_success(), "{path}: {put}");
        };
        write(bad).await;
        let there = place
            .server
            .send(Method::GET, &place.target(key), &[], "")
            .await;
        let read = there.into_body().bytes().await.unwrap();
        assert_ne!(read, good, "{key} was not changed");
        let found = place.store().integrity().await;
        let rows = place
            .store()
            .rows(0..15, audit_core::store::Parts::With)
            .await;
        let note = place.store().latest_checkpoint().await;
        // A checkpoint has a signature, which the verifier checks; the last part of the last batch is a ciphertext, of which
        // the entry has the digest. What the store itself can see, it says.
        let seen = match key {
            "checkpoints/00000000000000000015" => note.unwrap().unwrap() != b"a\n15\n\n",
            "batch/0000000000000002" => {
                found.is_err() || rows.is_err() || changed_parts(&rows.unwrap())
            }
            _ => found.is_err(),
        };
        assert!(seen, "{key} was changed and nothing shows it");
    }
}

/// Whether a row's stored part isn't the one that its entry commits to.
fn changed_parts(rows: &[audit_core::store::Row]) -> bool {
    rows.iter().any(|row| {
        let entry = audit_core::Entry::decode(&row.entry).unwrap();
        let (Some(content), Some(parts)) = (entry.content, &row.parts) else {
            return false;
        };
        sha2::Sha256::digest(parts).as_slice() != content.sha256.0
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_is_told_before_anything_is_locked() {
    let Some(place) = place().await else { return };
    let mut options = place.options();
    options.clock = std::sync::Arc::new(audit_testkit::time::TestClock::default());
    let error = S3Store::new(&options)
        .unwrap()
        .create(ORIGIN)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("clock"), "{error}");
    assert!(place.keys().await.is_empty(), "something was written");
}

/// Not a test: what runs with other credentials.
#[tokio::test]
async fn a_process_with_other_credentials() {
    let Ok(bucket) = std::env::var(OTHER) else {
        return;
    };
    let server = server().unwrap();
    let store = S3Store::new(&with(&server, &bucket)).unwrap();
    let error = store.create(ORIGIN).await.unwrap_err();
    println!("{:?}: {error} {error:?} {store:?}", error.kind());
}

const OTHER: &str = "AUDIT_TEST_S3_BUCKET_OF_OTHERS";

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_called_so_and_not_repeated() {
    let Some(place) = place().await else { return };
    let run = |secret: &str| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "hostile::a_process_with_other_credentials",
                "--nocapture",
            ])
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .env(OTHER, &place.bucket);
        let done = command.output().unwrap();
        String::from_utf8([done.stdout, done.stderr].concat()).unwrap()
    };
    let said = run("hunter2-is-not-the-secret");
    assert!(said.contains("Unavailable"), "{said}");
    assert!(said.contains("check the credentials"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
