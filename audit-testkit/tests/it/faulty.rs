//! The faulty store holds the contract while nothing is planned, and fails as planned.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use audit_core::ErrorKind;
use audit_core::store::{ReadStore as _, Store};
use audit_testkit::conformance::Backend;
use audit_testkit::conformance_tests;
use audit_testkit::faulty::{Call, Fault, FaultyStore};
use audit_testkit::memory::{MemoryBackend, MemoryStore};
use audit_testkit::sample;

struct Wrapped(MemoryBackend);

#[async_trait]
impl Backend for Wrapped {
    async fn fresh(&self) -> Arc<dyn Store> {
        Arc::new(FaultyStore::new(self.0.fresh().await))
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(FaultyStore::new(self.0.reopen().await))
    }
}

conformance_tests!(Wrapped(MemoryBackend::default()));

#[tokio::test]
async fn a_fault_happens_before_within_or_after_the_call() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    store.create("example.com/log").await.unwrap();
    let built = Arc::new(Mutex::new(0));
    for (fault, kind, size, builds) in [
        (Fault::Before, ErrorKind::Unavailable, 0, 0),
        (Fault::Built, ErrorKind::Unknown, 0, 1),
        (Fault::After, ErrorKind::Unknown, 3, 2),
    ] {
        store.fail(Call::Append, fault, kind);
        let count = Arc::clone(&built);
        let appended = store
            .append(Box::new(move |head| {
                *count.lock().unwrap() += 1;
                sample::batch(head, 3, 1)
            }))
            .await;
        assert_eq!(appended.unwrap_err().kind(), kind, "{fault:?}");
        assert_eq!(store.head().await.unwrap().size, size, "{fault:?}");
        assert_eq!(*built.lock().unwrap(), builds, "{fault:?}");
    }
    assert_eq!(store.calls(Call::Append), 3);
}

#[tokio::test]
async fn faults_are_counted_and_healed() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    store.fail_times(Call::Head, 2, 2, Fault::Before, ErrorKind::Unavailable);
    let mut outcomes = Vec::new();
    for _ in 0..5 {
        outcomes.push(store.head().await.is_ok());
    }
    assert_eq!(outcomes, [true, true, false, false, true]);
    store.fail(Call::Head, Fault::Before, ErrorKind::Corrupt);
    store.heal();
    assert!(store.head().await.is_ok(), "a healed store still fails");
    let lease = store.publisher_lease().await.unwrap().unwrap();
    store.fail(Call::Held, Fault::After, ErrorKind::Unavailable);
    assert_eq!(
        lease.held().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert!(lease.held().await.unwrap());
}
