//! The verdict over the service's own store.

use std::time::Duration;

use audit_tracer::{Check, ErrorKind, Outcome};

use crate::support::Service;

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_log_holds_with_what_the_service_knows() {
    let service = Service::new();
    let tracer = service.start().await;
    let session = tracer.audit_session().await.unwrap();
    let mut receipt = None;
    for n in 0..20 {
        receipt = Some(
            session
                .emit("tool.call")
                .attribute("audit.n", n)
                .await
                .unwrap(),
        );
    }
    let receipt = receipt.unwrap();
    receipt.published().await.unwrap();
    let verdict = tracer.verify_integrity().await.unwrap();
    assert_eq!(verdict.outcome(), Outcome::Held, "{verdict}");
    assert!(verdict.covered().unwrap().size > receipt.index);
    for check in [
        Check::Content,
        Check::Remembered,
        Check::Identity,
        Check::Engine,
    ] {
        let report = verdict.check(check);
        assert!(
            report.population > 0,
            "{check}: nothing was checked\n{verdict}"
        );
    }
    // It has no auditor key, and says so.
    assert!(!verdict.check(Check::Mac).not_checked.is_empty());
    drop(session);
    tracer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_changed_is_contradicted_with_the_index() {
    let service = Service::new();
    let tracer = service.start().await;
    let session = tracer.audit_session().await.unwrap();
    // A receipt is a handle on the log; with it the file would stay open, and its end in the write-ahead log.
    let index = session.emit("approval.granted").await.unwrap().index;
    drop(session);
    tracer.close().await.unwrap();

    // As somebody with an editor and no key.
    let path = service.path("log.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let (truth, lie) = (b"approval.granted", b"approval.refused");
    let places: Vec<usize> = (0..bytes.len() - truth.len())
        .filter(|at| bytes[*at..].starts_with(truth))
        .collect();
    assert!(!places.is_empty(), "the kind stands in clear");
    for at in places {
        bytes[at..at + lie.len()].copy_from_slice(lie);
    }
    std::fs::write(&path, bytes).unwrap();

    let tracer = service.builder().build().await.unwrap();
    let verdict = tracer.verify_integrity().await.unwrap();
    assert_eq!(verdict.outcome(), Outcome::Contradicted, "{verdict}");
    let named = verdict.findings().iter().any(|f| f.index == Some(index));
    assert!(named, "no finding names index {index}: {verdict}");
    drop(tracer);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_store_is_refused() {
    let service = Service::new();
    let tracer = service.start().await;
    tracer.close().await.unwrap();
    let old = std::fs::read(service.path("log.db")).unwrap();
    let tracer = service.builder().build().await.unwrap();
    tracer.emit("approval.granted").await.unwrap();
    tracer.close().await.unwrap();
    for file in ["log.db-wal", "log.db-shm"] {
        drop(std::fs::remove_file(service.path(file)));
    }
    std::fs::write(service.path("log.db"), old).unwrap();
    let refused = service.builder().build().await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::RolledBack);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_checkpoint_nothing_is_decided() {
    let service = Service::new();
    let auditor = audit_tracer::Auditor::NewKeyFile(service.path("auditor.key"));
    let builder = service.builder().published_elsewhere();
    builder
        .create(crate::support::ORIGIN, auditor)
        .await
        .unwrap();
    let tracer = builder.build().await.unwrap();
    let receipt = tracer.emit("approval.granted").await.unwrap();
    let verdict = tracer.verify_integrity().await.unwrap();
    assert_eq!(verdict.outcome(), Outcome::Undecided, "{verdict}");
    let waited = tokio::time::timeout(Duration::from_millis(600), receipt.published()).await;
    assert!(
        waited.is_err(),
        "nobody publishes, and yet it was published"
    );
    tracer.close().await.unwrap();
}
