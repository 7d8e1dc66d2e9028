//! Processes that are killed while they write: nothing that was acknowledged is lost, nothing is stored twice, and the log
//! goes on.

use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use audit_core::Result;
use audit_core::store::Store;
use audit_core::time::{IdSource as _, System};
use audit_store_postgres::{OpenOptions, PostgresStore, PostgresUrl};
use audit_testkit::crash::{Host, Mortal, Work, kill_and_go_on};

use crate::support::{Place, place_or_skip};

/// The URL for the processes: what they are told of it by their host is a directory only.
const URL: &str = "AUDIT_TEST_STORE_URL";
const SCHEMA: &str = "AUDIT_TEST_STORE_SCHEMA";

struct Postgres(Place);

async fn store_at(url: &PostgresUrl, creates: bool) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(if creates {
        PostgresStore::create(url, true).await?
    } else {
        PostgresStore::open(url, OpenOptions::read_write()).await?
    }))
}

/// This test binary, started again to run one test alone, which finds the last store of `place`.
pub(crate) fn again(test: &str, place: &Place) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    command.env(URL, place.server());
    command.env(SCHEMA, place.schema());
    command
}

/// What [`again`] named; `None` in a test that wasn't started by it.
pub(crate) fn given() -> Option<PostgresUrl> {
    let url: PostgresUrl = std::env::var(URL).ok()?.parse().unwrap();
    Some(url.with_schema(&std::env::var(SCHEMA).ok()?).unwrap())
}

#[async_trait]
impl Mortal for Postgres {
    fn process(&self, host: &Host, work: Work) -> Command {
        let mut command = again("crash::a_process_that_writes", &self.0);
        work.give(host, &mut command);
        command
    }

    async fn open(&self, _: &Host) -> Result<Arc<dyn Store>> {
        store_at(&self.0.url(), false).await
    }
}

/// Not a test: what the other processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_writes() {
    let (Some((host, work)), Some(url)) = (Work::given(), given()) else {
        return;
    };
    work.run(&host, store_at(&url, work.creates)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_sigkill_is_there_once() {
    let postgres = Postgres(place_or_skip!());
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
        drop(postgres.0.next());
        let killed = kill_and_go_on(&postgres, &host, 20, seed.wrapping_add(log)).await;
        let killed = killed.unwrap_or_else(|e| panic!("AUDIT_TEST_SEED={seed}, log {log}: {e}"));
        println!("{killed:?}");
        assert_eq!(killed.at.len(), 4, "no kill at some moment");
        assert!(killed.acknowledged > 50, "hardly anything was acknowledged");
    }
}
