//! Every wrapper holds the contract while nothing is planned, and does what it says.

use std::sync::Arc;

use async_trait::async_trait;
use audit_core::store::{Batch, Head, ReadStore as _, Store};
use audit_core::{Error, Result};
use audit_testkit::conformance::Backend;
use audit_testkit::faulty::Fault;
use audit_testkit::forward::{Around, Call, Forward};
use audit_testkit::ledger::{Ledger, StrictStore};
use audit_testkit::memory::{Contents, MemoryBackend, MemoryStore};
use audit_testkit::mortal::{Death, Life, MortalStore};
use audit_testkit::sample;

/// Wraps every handle of a backend.
struct Wrapped<F> {
    inner: MemoryBackend,
    wrap: F,
}

#[async_trait]
impl<F: Fn(Arc<dyn Store>) -> Arc<dyn Store> + Send + Sync> Backend for Wrapped<F> {
    async fn fresh(&self) -> Arc<dyn Store> {
        (self.wrap)(self.inner.fresh().await)
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        (self.wrap)(self.inner.reopen().await)
    }
}

fn wrapped<F: Fn(Arc<dyn Store>) -> Arc<dyn Store> + Send + Sync>(wrap: F) -> Wrapped<F> {
    Wrapped {
        inner: MemoryBackend::default(),
        wrap,
    }
}

/// Passes everything on.
#[derive(Debug)]
struct Nothing;
impl Around for Nothing {}

mod forwarding {
    use super::*;
    audit_testkit::conformance_tests!(wrapped(|inner| Arc::new(Forward::to(
        inner,
        Arc::new(Nothing)
    )) as Arc<dyn Store>));
}

mod mortal {
    use super::*;
    audit_testkit::conformance_tests!({
        let life = Arc::new(Life::default());
        wrapped(move |inner| Arc::new(MortalStore::new(inner, &life)) as Arc<dyn Store>)
    });
}

mod strict {
    use super::*;
    audit_testkit::conformance_tests!({
        let ledger = Arc::new(Ledger::default());
        wrapped(move |inner| {
            Arc::new(StrictStore::to(inner, Arc::clone(&ledger))) as Arc<dyn Store>
        })
    });
}

async fn filled(rows: usize) -> MemoryStore {
    let store = MemoryStore::new();
    store.create("example.com/log").await.unwrap();
    append(&store, rows).await.unwrap();
    store
}

async fn append(store: &dyn Store, rows: usize) -> Result<Head> {
    store
        .append(Box::new(move |head| sample::batch(head, rows, 1)))
        .await
}

#[tokio::test]
async fn a_dead_process_reaches_nothing_and_hears_nothing() {
    for (moment, size) in [(Fault::Before, 3), (Fault::Built, 3), (Fault::After, 5)] {
        let memory = filled(3).await;
        let life = Arc::new(Life::default());
        let store = MortalStore::new(Arc::new(memory.clone()), &life);
        let lease = store.publisher_lease().await.unwrap().unwrap();
        life.die(Death {
            call: Some(Call::Append),
            skip: 0,
            moment,
        });
        assert_eq!(store.head().await.unwrap().size, 3);
        tokio::select! {
            biased;
            answer = append(&store, 2) => assert!(answer.is_err(), "the dead hear: {answer:?}"),
            () = life.died() => {}
        }
        assert_eq!(memory.head().await.unwrap().size, size, "{moment:?}");
        let end = life.end().unwrap();
        assert_eq!((end.call, end.moment), (Call::Append, moment));
        assert_eq!(end.kinds.is_empty(), moment == Fault::Before);
        tokio::select! {
            biased;
            answer = store.put_checkpoint(3, b"three") => assert!(answer.is_err(), "the dead write"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(memory.latest_checkpoint().await.unwrap(), None);

        // Its lease is held until the system takes it back, whoever drops what.
        drop(lease);
        assert!(memory.publisher_lease().await.unwrap().is_none());
        life.bury();
        assert!(memory.publisher_lease().await.unwrap().is_some());
    }
}

type Change = Box<dyn FnOnce(&mut Contents)>;

/// What a strict store says of a store that somebody changed behind its back, or nothing.
async fn said_of(change: impl FnOnce(&mut Contents)) -> Option<String> {
    let memory = filled(300).await;
    memory.put_checkpoint(300, b"three hundred").await.unwrap();
    let ledger = Arc::new(Ledger::default());
    let strict: Arc<dyn Store> = Arc::new(StrictStore::to(
        Arc::new(memory.clone()),
        Arc::clone(&ledger),
    ));
    read_all(&*strict).await;
    let mut contents = memory.contents();
    change(&mut contents);
    memory.replace(contents);
    let reading = tokio::spawn(async move { read_all(&*strict).await });
    let said = reading.await.err().map(|panic| {
        let panic = panic.into_panic();
        panic.downcast_ref::<String>().cloned().unwrap_or_default()
    });
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ledger.check()));
    assert_eq!(again.is_err(), said.is_some(), "the panic is swallowed");
    said
}

async fn read_all(store: &dyn Store) {
    use audit_core::store::Parts;
    store.description().await.unwrap();
    // A head that the tiles don't make is an error of the store's own.
    drop(store.head().await);
    for row in store.rows(0..u64::MAX, Parts::With).await.unwrap() {
        store.position(row.columns.event).await.unwrap();
    }
    for level in 0..2 {
        store.tiles(level, None, 100).await.unwrap();
    }
    store.latest_checkpoint().await.unwrap();
    store.checkpoints(0, 100).await.unwrap();
    for key in store.keys(None, 100).await.unwrap() {
        store.key(key.id).await.unwrap();
    }
}

#[tokio::test]
async fn whatever_changes_behind_a_strict_store_is_named() {
    assert_eq!(said_of(|_| {}).await, None, "nothing was changed");
    let cases: [(&str, Change); 10] = [
        (
            "description",
            Box::new(|c| c.origin = Some("other.example".into())),
        ),
        ("entry 7 ", Box::new(|c| c.rows[7].entry[20] ^= 1)),
        (
            "columns of entry 9 ",
            Box::new(|c| c.rows[9].columns.time = c.rows[8].columns.time),
        ),
        ("tokens of entry 5 ", Box::new(|c| c.rows[5].tokens = None)),
        ("parts of entry 6 ", Box::new(|c| c.rows[6].parts = None)),
        (
            "parts of entry 6 ",
            Box::new(|c| c.rows[6].parts.as_mut().unwrap()[3] ^= 1),
        ),
        (
            "other hashes",
            Box::new(|c| c.tiles.get_mut(&(0, 0)).unwrap().swap(3, 4)),
        ),
        (
            "root of 300 ",
            Box::new(|c| c.tiles.get_mut(&(0, 1)).unwrap().swap(3, 4)),
        ),
        (
            "checkpoint of 300 ",
            Box::new(|c| {
                c.checkpoints.insert(300, b"another".to_vec());
            }),
        ),
        (
            "data key",
            Box::new(|c| c.keys.values_mut().next().unwrap().generation += 1),
        ),
    ];
    for (expected, change) in cases {
        let said = said_of(change).await.unwrap_or_default();
        assert!(said.contains(expected), "{expected:?} is said as {said:?}");
    }
}

#[tokio::test]
async fn erasing_and_rewrapping_are_no_changes_to_a_strict_store() {
    let memory = filled(20).await;
    let strict = StrictStore::strict(Arc::new(memory));
    read_all(&strict).await;
    let key = strict.keys(None, 1).await.unwrap().remove(0);
    let mut rewrapped = key.clone();
    rewrapped.generation += 1;
    strict.rewrap(&[rewrapped]).await.unwrap();
    read_all(&strict).await;
    strict.erase(&[key.id], &[0, 1, 2]).await.unwrap();
    read_all(&strict).await;
    assert_eq!(strict.key(key.id).await.unwrap(), None);
    strict.around().check();
}

/// Refuses every second batch when it is built.
#[derive(Debug, Default)]
struct Picky(std::sync::atomic::AtomicU64);

impl Around for Picky {
    async fn append(&self, inner: &dyn Store, mut build: audit_core::store::Build) -> Result<Head> {
        let n = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let building = move |head: &Head| -> Result<Batch> {
            let batch = build(head)?;
            if n % 2 == 1 {
                return Err(Error::unavailable("not this one"));
            }
            Ok(batch)
        };
        inner.append(Box::new(building)).await
    }
}

#[tokio::test]
async fn a_wrapper_of_one_s_own_sees_what_is_appended() {
    let store = Forward::to(Arc::new(filled(1).await), Arc::new(Picky::default()));
    let mut went_through = Vec::new();
    for _ in 0..4 {
        went_through.push(append(&store, 1).await.is_ok());
    }
    assert_eq!(went_through, [true, false, true, false]);
    assert_eq!(store.head().await.unwrap().size, 3);
}
