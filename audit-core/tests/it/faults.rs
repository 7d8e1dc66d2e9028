//! Fault pairs over the store in memory, and faults of the state file on the real file system.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use audit_core::entry::kinds;
use audit_core::log::{Log, LogOptions, StateFile};
use audit_core::store::{ReadStore as _, Store};
use audit_core::time::{Clock as _, IdSource as _, System};
use audit_core::{ErrorKind, Event, Kind};
use audit_testkit::fault_pairs::{self, DiePoint, Sweep};
use audit_testkit::faulty::{Call, Fault, FaultyStore};
use audit_testkit::judge::{Keys, Model};
use audit_testkit::memory::{MemoryBackend, MemoryStore};
use tempfile::TempDir;

fn sweep() -> Sweep {
    let long = std::env::var_os("AUDIT_TEST_LONG").is_some();
    Sweep {
        hits_min: if long { 100 } else { 10 },
        long,
        ..Sweep::default()
    }
}

#[test]
fn a_process_that_dies_at_a_step_of_the_write_path_loses_invents_and_contradicts_nothing() {
    let report = fault_pairs::deaths(&MemoryBackend::default(), &sweep());
    println!("{report}");
    assert_eq!(report.hits.len(), DiePoint::ALL.len());
}

#[test]
fn a_call_that_fails_at_a_step_of_the_write_path_loses_invents_and_contradicts_nothing() {
    let report = fault_pairs::faults(&MemoryBackend::default(), &sweep());
    println!("{report}");
}

struct Bench {
    memory: MemoryStore,
    faulty: FaultyStore,
    keys: Keys,
    model: Model,
    state: TempDir,
}

impl Bench {
    fn new() -> Self {
        let memory = MemoryStore::new();
        Self {
            faulty: FaultyStore::new(Arc::new(memory.clone())),
            memory,
            keys: Keys::generate("example.com/faults", &System).unwrap(),
            model: Model::default(),
            state: tempfile::tempdir().unwrap(),
        }
    }

    fn options(&self) -> LogOptions {
        let store: Arc<dyn Store> = Arc::new(self.faulty.clone());
        let mut options = LogOptions::new(store, Arc::clone(&self.keys.ring));
        options.state_dir = Some(self.state.path().join("state"));
        options.publish = Duration::from_secs(1);
        options
    }

    fn state_file(&self) -> PathBuf {
        let dir = self.state.path().join("state");
        let state = StateFile::new(&dir, "example.com/faults");
        state.path().to_owned()
    }

    async fn append(&self, log: &Log) {
        let now = System.now();
        let event = Event::new(System.uuid_v7(now), now, Kind::new("tool.call").unwrap());
        self.model.sent(&event);
        let answer = log.append(event.clone()).await;
        self.model.answered(event.id, &answer);
        answer.unwrap();
    }

    async fn published(&self) -> u64 {
        let all = self.memory.checkpoints(0, 1000).await.unwrap();
        all.last().map_or(0, |(size, _)| *size)
    }

    async fn judged_good(&self) {
        if let Ok(note) = std::fs::read(self.state_file()) {
            self.model.remember(note);
        }
        let store: Arc<dyn Store> = Arc::new(self.memory.clone());
        let wrong = self.model.judge(&store, &self.keys, true).await;
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// While `obstacle` stands in the way of the state file nothing is published, and that is visible; appending goes on, and
/// publishing does when the obstacle is gone.
async fn nothing_is_published_past(obstacle: impl Fn(&Path), remove: impl Fn(&Path)) {
    for published_before in [false, true] {
        let bench = Bench::new();
        let file = bench.state_file();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let log = Log::create(bench.options()).await.unwrap();
        if published_before {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            assert_eq!(bench.published().await, 1);
        }
        obstacle(&file);
        bench.append(&log).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(
            bench.published().await,
            u64::from(published_before),
            "a signature was released that the state file doesn't have"
        );
        let trouble = log.publishing_trouble().expect("the failure is visible");
        assert!(trouble.contains("state file"), "{trouble}");
        bench.append(&log).await;

        remove(&file);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(log.publishing_trouble(), None);
        assert_eq!(bench.published().await, 3);
        log.close().await.unwrap();
        bench.judged_good().await;
    }
}

fn fresh(file: &Path) -> PathBuf {
    file.with_extension("checkpoint.new")
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_under_the_state_file_holds_signatures_back() {
    nothing_is_published_past(
        |file| std::os::unix::fs::symlink("/dev/full", fresh(file)).unwrap(),
        |file| std::fs::remove_file(fresh(file)).unwrap(),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_state_file_that_can_t_be_made_holds_signatures_back() {
    nothing_is_published_past(
        |file| std::fs::create_dir(fresh(file)).unwrap(),
        |file| std::fs::remove_dir(fresh(file)).unwrap(),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_state_file_that_can_t_be_replaced_holds_signatures_back() {
    nothing_is_published_past(
        |file| {
            if file.exists() {
                std::fs::rename(file, file.with_extension("kept")).unwrap();
            }
            std::fs::create_dir(file).unwrap();
        },
        |file| {
            std::fs::remove_dir(file).unwrap();
            if file.with_extension("kept").exists() {
                std::fs::rename(file.with_extension("kept"), file).unwrap();
            }
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_state_directory_that_is_gone_is_made_again() {
    let bench = Bench::new();
    let log = Log::create(bench.options()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    std::fs::remove_dir_all(bench.state_file().parent().unwrap()).unwrap();
    bench.append(&log).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(log.publishing_trouble(), None);
    assert_eq!(bench.published().await, 2);
    log.close().await.unwrap();
    bench.judged_good().await;
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_death_left_beside_the_state_file_is_no_checkpoint() {
    for left in [&b""[..], b"example.com/faults\n1\n", &vec![0xff; 100_000]] {
        let bench = Bench::new();
        let file = bench.state_file();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(fresh(&file), left).unwrap();
        let log = Log::create(bench.options()).await.unwrap();
        bench.append(&log).await;
        log.close().await.unwrap();
        assert!(!fresh(&file).exists(), "what was left over stays");
        bench.judged_good().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_file_that_is_torn_is_refused_and_says_where_it_is() {
    let bench = Bench::new();
    let log = Log::create(bench.options()).await.unwrap();
    bench.append(&log).await;
    log.close().await.unwrap();
    let file = bench.state_file();
    let note = std::fs::read(&file).unwrap();
    for torn in [&note[..note.len() / 2], b"", &vec![b'x'; 100_000]] {
        std::fs::write(&file, torn).unwrap();
        let error = Log::open(bench.options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let message = error.to_string();
        assert!(message.contains(&file.display().to_string()), "{message}");
    }
    std::fs::write(&file, note).unwrap();
    let log = Log::open(bench.options()).await.unwrap();
    log.close().await.unwrap();
    bench.judged_good().await;
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_can_t_end_is_seen_and_ends_later() {
    let bench = Bench::new();
    let mut options = bench.options();
    options.epoch = Duration::from_secs(10);
    options.heartbeat = Duration::from_secs(25);
    let log = Log::create(options).await.unwrap();
    bench.append(&log).await;
    assert_eq!(log.writing_trouble(), None);
    let refuse = || {
        bench
            .faulty
            .fail_times(Call::Append, 0, 1_000, Fault::Built, ErrorKind::Unavailable);
    };
    refuse();
    tokio::time::sleep(Duration::from_secs(11)).await;
    let trouble = log.writing_trouble().expect("the failure is visible");
    assert!(trouble.contains("planned fault"), "{trouble}");
    bench.faulty.heal();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(log.writing_trouble(), None);

    // The same for a heartbeat.
    refuse();
    tokio::time::sleep(Duration::from_secs(26)).await;
    assert!(log.writing_trouble().is_some(), "the failure isn't visible");
    bench.faulty.heal();
    tokio::time::sleep(Duration::from_secs(26)).await;
    assert_eq!(log.writing_trouble(), None);
    log.close().await.unwrap();

    let rows = bench.memory.contents().rows;
    let kinds: Vec<&str> = rows.iter().map(|row| row.columns.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            kinds::LOG_OPENED,
            "tool.call",
            kinds::EPOCH_CLOSED,
            kinds::HEARTBEAT,
            kinds::WRITER_CLOSED
        ]
    );
    bench.judged_good().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_appends_nothing_more_says_why() {
    let bench = Bench::new();
    let log = Log::create(bench.options()).await.unwrap();
    bench
        .faulty
        .fail(Call::Append, Fault::After, ErrorKind::Corrupt);
    let now = System.now();
    let event = Event::new(System.uuid_v7(now), now, Kind::new("tool.call").unwrap());
    assert_eq!(
        log.append(event).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    let trouble = log.writing_trouble().expect("the failure is visible");
    assert!(trouble.contains("planned fault"), "{trouble}");
    assert_eq!(log.close().await.unwrap_err().kind(), ErrorKind::Corrupt);
}
