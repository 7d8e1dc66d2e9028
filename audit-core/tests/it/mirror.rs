//! A mirror follows what is published, tells its trouble, and disturbs nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use audit_core::chain::AuditorKey;
use audit_core::copy::CopyOptions;
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::mirror::{Mirror, MirrorOptions, OpenMirror};
use audit_core::store::{ReadStore, Store};
use audit_core::time::{Clock as _, IdSource as _, System};
use audit_core::{Error, ErrorKind, Event, Kind};
use audit_testkit::faulty::{Call, Fault, FaultyStore};
use audit_testkit::memory::MemoryStore;

const PATIENCE: Duration = Duration::from_secs(60);

fn event() -> Event {
    let mut event = Event::new(
        System.uuid_v7(System.now()),
        System.now(),
        Kind::new("tool.call").unwrap(),
    );
    event.session_id = Some("session-1".into());
    event
}

struct Bench {
    source: MemoryStore,
    target: MemoryStore,
    faulty: FaultyStore,
    /// The mirror's store can't be opened.
    away: Arc<AtomicBool>,
    keys: Arc<KeyRing>,
    options: LogOptions,
    _state: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let auditor = AuditorKey::random(&System);
        let keys = KeyRing::generate("example.com/mirrored", auditor.public(), &System).unwrap();
        let keys = Arc::new(keys);
        let (source, target) = (MemoryStore::new(), MemoryStore::new());
        let state = tempfile::tempdir().unwrap();
        let mut options = LogOptions::new(Arc::new(source.clone()), Arc::clone(&keys));
        options.state_dir = Some(state.path().to_owned());
        options.publish = Duration::from_millis(10);
        Self {
            faulty: FaultyStore::new(Arc::new(target.clone())),
            source,
            target,
            away: Arc::default(),
            keys,
            options,
            _state: state,
        }
    }

    fn mirror(&self) -> Mirror {
        let (faulty, away) = (self.faulty.clone(), Arc::clone(&self.away));
        let open: OpenMirror = Box::new(move || {
            let (faulty, away) = (faulty.clone(), Arc::clone(&away));
            Box::pin(async move {
                if away.load(Ordering::SeqCst) {
                    return Err(Error::unavailable("the mirror is away"));
                }
                Ok(Arc::new(faulty) as Arc<dyn Store>)
            })
        });
        let mut options = MirrorOptions::new(CopyOptions::new(self.keys.vkey()));
        options.interval = Duration::from_millis(10);
        options.interval_max = Duration::from_millis(50);
        Mirror::start(Arc::new(self.source.clone()), open, options)
    }

    fn same(&self) {
        let (source, target) = (self.source.contents(), self.target.contents());
        assert!(source.rows == target.rows && source.keys == target.keys);
        assert_eq!(source.checkpoints, target.checkpoints);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_fails_at_every_turn_catches_up_and_disturbs_no_writer() {
    let bench = Bench::new();
    let log = Log::create(bench.options.clone()).await.unwrap();
    bench.away.store(true, Ordering::SeqCst);
    let mirror = bench.mirror();
    let mut status = mirror.status();
    let told = status.wait_for(|status| status.failures > 1);
    let told = tokio::time::timeout(PATIENCE, told)
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(told.trouble.unwrap().contains("away"));
    for n in 0..60 {
        log.append(event()).await.unwrap();
        let calls = [
            Call::Append,
            Call::PutCheckpoint,
            Call::Head,
            Call::Rows,
            Call::Description,
        ];
        let kinds = [ErrorKind::Unavailable, ErrorKind::Unknown];
        bench
            .faulty
            .fail(calls[n % calls.len()], Fault::After, kinds[n % 2]);
        if n == 20 {
            bench.away.store(false, Ordering::SeqCst);
        }
        if n % 10 == 9 {
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }
    log.close().await.unwrap();
    bench.faulty.heal();
    let size = bench.source.contents().rows.len() as u64;
    let caught_up = status.wait_for(|status| status.published == size && status.trouble.is_none());
    drop(
        tokio::time::timeout(PATIENCE, caught_up)
            .await
            .unwrap()
            .unwrap(),
    );
    mirror.stop().await.unwrap();
    assert!(bench.faulty.failed() > 0, "nothing failed");
    bench.same();
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_takes_what_was_published_last_and_a_mirror_that_is_away_says_so() {
    let bench = Bench::new();
    let log = Log::create(bench.options.clone()).await.unwrap();
    let mirror = bench.mirror();
    for _ in 0..20 {
        log.append(event()).await.unwrap();
    }
    log.close().await.unwrap();
    mirror.stop().await.unwrap();
    bench.same();
    // The mirror alone is enough to go on.
    let mut options = bench.options.clone();
    options.store = Arc::new(bench.target.clone());
    let log = Log::open(options).await.unwrap();
    log.append(event())
        .await
        .unwrap()
        .published()
        .await
        .unwrap();
    log.close().await.unwrap();
    // Now the first store is behind its mirror.
    let mirror = bench.mirror();
    let behind = mirror.stop().await.unwrap_err();
    assert_eq!(behind.kind(), ErrorKind::Unavailable, "{behind}");
    assert!(bench.source.head().await.unwrap().size < bench.target.head().await.unwrap().size);
}
