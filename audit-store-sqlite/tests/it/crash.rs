//! Processes that are killed while they write: nothing that was acknowledged is lost, nothing is stored twice, and the log
//! goes on.

use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use audit_core::Result;
use audit_core::store::Store;
use audit_core::time::{IdSource as _, System};
use audit_store_sqlite::{OpenMode, SqliteStore};
use audit_testkit::crash::{Host, Mortal, Work, kill_and_go_on};

struct Sqlite;

/// Makes the store on a host, or opens the one that is there.
pub(crate) fn store_on(host: &Host, creates: bool) -> Result<Arc<dyn Store>> {
    let path = host.store_dir().join("log.db");
    Ok(Arc::new(if creates {
        SqliteStore::create_file(path)?
    } else {
        SqliteStore::open(path, OpenMode::ReadWrite)?
    }))
}

/// This test binary, started again to run one test alone.
pub(crate) fn again(test: &str, host: &Host, work: Work) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    work.give(host, &mut command);
    command
}

#[async_trait]
impl Mortal for Sqlite {
    fn process(&self, host: &Host, work: Work) -> Command {
        again("crash::a_process_that_writes", host, work)
    }

    async fn open(&self, host: &Host) -> Result<Arc<dyn Store>> {
        store_on(host, false)
    }
}

/// Not a test: what the other processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_writes() {
    let Some((host, work)) = Work::given() else {
        return;
    };
    let store = async { store_on(&host, work.creates) };
    work.run(&host, store).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_sigkill_is_there_once() {
    let long = std::env::var("AUDIT_TEST_LONG").is_ok_and(|v| v == "1");
    let mut seed = [0; 8];
    System.fill(&mut seed);
    let seed = std::env::var("AUDIT_TEST_SEED")
        .map_or(u64::from_ne_bytes(seed), |text| text.parse().unwrap());
    println!("seed: AUDIT_TEST_SEED={seed}");
    // Judging costs what the log is long, so many kills are spread over several logs.
    for log in 0..if long { 10 } else { 1 } {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(dir.path());
        host.make_dirs().unwrap();
        let killed = kill_and_go_on(&Sqlite, &host, 20, seed.wrapping_add(log)).await;
        let killed = killed.unwrap_or_else(|e| panic!("AUDIT_TEST_SEED={seed}, log {log}: {e}"));
        println!("{killed:?}");
        assert_eq!(killed.at.len(), 4, "no kill at some moment");
        assert!(killed.acknowledged > 50, "hardly anything was acknowledged");
    }
}
