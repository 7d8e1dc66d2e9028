//! Retention and legal holds, on the server's side.

use audit_core::store::{ReadStore as _, Store as _};
use audit_core::time::{Clock, System, Timestamp};
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
