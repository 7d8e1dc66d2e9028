//! Processes that are killed while they write: nothing that was acknowledged is lost, nothing is stored twice, and the log
//! goes on.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use audit_core::Result;
use audit_core::store::Store;
use audit_core::time::{IdSource as _, System};
use audit_store_s3::S3Store;
use audit_testkit::crash::{Host, Mortal, Work, kill_and_go_on};

use crate::support::{Place, place, server};

const BUCKET: &str = "AUDIT_TEST_S3_BUCKET_OF_THIS_RUN";
const PREFIX: &str = "AUDIT_TEST_S3_PREFIX_OF_THIS_RUN";

struct Killed(Place);

fn store_at(bucket: &str, prefix: &str) -> Result<Arc<dyn Store>> {
    let server = server().expect("whoever started this process has a server");
    let mut options = server.options(bucket, prefix);
    // The pause in which the slower of two writers gets its turn.
    options.linger = Some(Duration::from_millis(100));
    options.lease = Duration::from_millis(300);
    Ok(Arc::new(S3Store::new(&options)?))
}

#[async_trait]
impl Mortal for Killed {
    fn process(&self, host: &Host, work: Work) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "crash::a_process_that_writes", "--nocapture"])
            .env(BUCKET, &self.0.bucket)
            .env(PREFIX, self.0.prefix());
        work.give(host, &mut command);
        command
    }

    async fn open(&self, _: &Host) -> Result<Arc<dyn Store>> {
        store_at(&self.0.bucket, &self.0.prefix())
    }
}

/// Not a test: what the other processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_writes() {
    let Some((host, work)) = Work::given() else {
        return;
    };
    let given = |name: &str| std::env::var(name).unwrap();
    let store = async { store_at(&given(BUCKET), &given(PREFIX)) };
    work.run(&host, store).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_sigkill_is_there_once() {
    let Some(place) = place().await else { return };
    let mut seed = [0; 8];
    System.fill(&mut seed);
    let seed = std::env::var("AUDIT_TEST_SEED")
        .map_or(u64::from_ne_bytes(seed), |text| text.parse().unwrap());
    println!("seed: AUDIT_TEST_SEED={seed}");
    let killed = Killed(place);
    let logs = if std::env::var_os("AUDIT_TEST_LONG").is_some() {
        5
    } else {
        1
    };
    for log in 0..logs {
        killed.0.next();
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(dir.path());
        host.make_dirs().unwrap();
        let kills = if logs > 1 { 20 } else { 6 };
        let done = kill_and_go_on(&killed, &host, kills, seed.wrapping_add(log)).await;
        let done = done.unwrap_or_else(|e| panic!("AUDIT_TEST_SEED={seed}, log {log}: {e}"));
        println!("{done:?}");
        assert!(done.acknowledged > 10, "hardly anything was acknowledged");
    }
}
