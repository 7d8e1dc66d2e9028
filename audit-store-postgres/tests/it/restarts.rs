//! Many processes write one log while some of them are killed, the server crashes, and its disk is full: every
//! acknowledged event is there once, in one log without a gap.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use audit_core::log::{Log, LogOptions};
use audit_core::store::Store;
use audit_core::{ErrorKind, Result};
use audit_store_postgres::{OpenOptions, PostgresStore, PostgresUrl};
use audit_testkit::crash::{Host, Judge, Ledger, Victim, Work, event};
use audit_testkit::full_disk::FullDisk;
use audit_testkit::postgres::{PostgresServer, programs_or_skip};
use tempfile::TempDir;

const URL: &str = "AUDIT_TEST_OWN_URL";
const PROCESSES: u32 = 8;
/// So many that no process is done before the second crash, however late another one gets its turn.
const EVENTS: u32 = 120;
/// Between two attempts while the server is away.
const AGAIN: Duration = Duration::from_millis(50);

/// A server of its own, with a log on it.
struct Site {
    dir: TempDir,
    server: PostgresServer,
    host: Host,
}

impl Site {
    /// `None`, with a word about it, where there is no PostgreSQL and none is promised.
    fn new() -> Option<Self> {
        let programs = programs_or_skip()?;
        let dir = tempfile::tempdir().unwrap();
        // The server's user goes through it.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        for name in ["cluster", "host"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let server = PostgresServer::new(&dir.path().join("cluster"), programs, &[]).unwrap();
        let host = Host::new(&dir.path().join("host"));
        host.make_dirs().unwrap();
        Some(Self { dir, server, host })
    }

    fn url(&self) -> PostgresUrl {
        self.server.url(self.server.address()).parse().unwrap()
    }

    async fn make_log(&self) -> Log {
        let keys = self.host.make_keys().unwrap();
        let store = PostgresStore::create(&self.url(), true).await.unwrap();
        let mut options = LogOptions::new(Arc::new(store), keys);
        options.state_dir = Some(self.host.state_dir());
        Log::create(options).await.unwrap()
    }

    async fn store(&self) -> Arc<dyn Store> {
        store(&self.url()).await.unwrap()
    }

    /// This test binary, started again to write `events` events.
    fn writer(&self, process: u32, events: u32) -> Victim {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "restarts::a_writer_that_goes_on", "--nocapture"]);
        command.env(URL, self.server.url(self.server.address()));
        let work = Work {
            process,
            creates: false,
            callers: 1,
            events,
            publish_ms: 100,
            epoch_ms: 1000,
        };
        work.give(&self.host, &mut command);
        Victim::start(&mut command).unwrap()
    }
}

async fn store(url: &PostgresUrl) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(
        PostgresStore::open(url, OpenOptions::read_write()).await?,
    ))
}

async fn open(url: &PostgresUrl, host: &Host) -> Result<Log> {
    let mut options = LogOptions::new(store(url).await?, host.ring()?);
    options.state_dir = Some(host.state_dir());
    options.publish = Duration::from_millis(100);
    Log::open(options).await
}

fn say(line: &str) {
    // One write, so that it is read whole or not at all.
    std::io::stdout()
        .lock()
        .write_all(format!("{line}\n").as_bytes())
        .unwrap();
}

/// Not a test: what the other processes run. It hands in each event until that is in the log, whatever the server does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_goes_on() {
    let (Some((host, work)), Ok(url)) = (Work::given(), std::env::var(URL)) else {
        return;
    };
    let url: PostgresUrl = url.parse().unwrap();
    say("");
    let mut log = None;
    for n in 0..work.events {
        let event = event(work.process, 0, n).unwrap();
        loop {
            let writer = match log.take() {
                Some(writer) => writer,
                None => match open(&url, &host).await {
                    Ok(opened) => opened,
                    Err(e) => {
                        assert!(passes(e.kind()), "{e:?}");
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                },
            };
            match writer.append(event.clone()).await {
                Ok(receipt) => {
                    let (id, index, leaf) = (receipt.event, receipt.index, receipt.leaf_hash);
                    say(&format!("ack {id} {index} {leaf}"));
                    log = Some(writer);
                    break;
                }
                Err(e) => {
                    assert!(passes(e.kind()), "{e:?}");
                    // The run may have ended with it; its end may fail as well.
                    drop(writer.close().await);
                    if e.kind() == ErrorKind::Unknown && is_there(&url, event.id).await {
                        say("found");
                        break;
                    }
                }
            }
        }
    }
    // The publisher may find the server away at the last moment.
    if let Some(log) = log {
        drop(log.close().await);
    }
}

fn passes(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Unknown)
}

/// Asks until somebody answers.
async fn is_there(url: &PostgresUrl, event: uuid::Uuid) -> bool {
    loop {
        if let Ok(store) = store(url).await
            && let Ok(position) = store.position(event).await
        {
            return position.is_some();
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_lose_nothing_to_kills_and_crashes_of_the_server() {
    let Some(mut site) = Site::new() else { return };
    site.server.start(None).unwrap();
    site.make_log().await.close().await.unwrap();
    let mut ledger = Ledger::default();
    let mut hear = |lines: &[String]| {
        for line in lines {
            ledger.hear(line).unwrap();
        }
    };
    let mut writers: Vec<Victim> = (1..=PROCESSES).map(|n| site.writer(n, EVENTS)).collect();
    // Each of the first ones is heard, then the server crashes under all of them, and one of them is killed.
    for turn in 0..2 {
        let early = writers
            .iter_mut()
            .position(|writer| !writer.wait_for("ack", 5));
        if let Some(early) = early {
            let ended = writers.remove(early).end().unwrap();
            panic!("turn {turn}, {} lines: {}", ended.lines.len(), ended.stderr);
        }
        site.server.crash().unwrap();
        let killed = writers.remove(0).kill().unwrap();
        assert!(killed.was_killed(), "turn {turn}: {}", killed.stderr);
        hear(&killed.lines);
        site.server.start(None).unwrap();
    }
    for writer in writers {
        let ended = writer.end().unwrap();
        assert!(ended.status.success(), "{}", ended.stderr);
        hear(&ended.lines);
    }
    let acknowledged = ledger.acknowledged();
    println!("{acknowledged} events acknowledged");
    // Those that weren't killed wrote all of theirs; an answer is lost with a crash at most once per writer and crash.
    let least = (PROCESSES - 2) * EVENTS - 2 * PROCESSES;
    assert!(acknowledged >= least as usize, "{acknowledged}");
    let judge = Judge::new(&site.host).unwrap();
    let contents = judge.recover(&site.store().await, 100).await.unwrap();
    contents.keeps(&ledger).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_disk_is_full_refuses_and_loses_nothing() {
    let Some(mut site) = Site::new() else { return };
    let scratch: &Path = site.dir.path();
    let disk = FullDisk::new(scratch, site.server.data()).unwrap();
    site.server.start(Some(&disk)).unwrap();
    site.make_log().await.close().await.unwrap();
    let mut ledger = Ledger::default();
    let mut process = 0;
    for _ in 0..2 {
        process += 1;
        let log = open(&site.url(), &site.host).await.unwrap();
        let mut n = 0;
        loop {
            if n == 5 {
                disk.fill().unwrap();
            }
            match log.append(event(process, 0, n).unwrap()).await {
                Ok(receipt) => {
                    let (id, index, leaf) = (receipt.event, receipt.index, receipt.leaf_hash);
                    ledger.hear(&format!("ack {id} {index} {leaf}")).unwrap();
                }
                Err(e) => {
                    assert!(n >= 5 && passes(e.kind()), "event {n}: {e:?}");
                    break;
                }
            }
            // Behind that it takes what fits into the space that the server has reserved.
            n += 1;
            assert!(n < 20_000, "the disk was never full");
        }
        drop(log.close().await);
        disk.free().unwrap();
        // A server that can't write its log stops itself; whether it did so doesn't matter here.
        site.server.crash().unwrap();
        site.server.start(Some(&disk)).unwrap();
        let judge = Judge::new(&site.host).unwrap();
        process += 1;
        let contents = judge.recover(&site.store().await, process).await.unwrap();
        contents.keeps(&ledger).unwrap();
    }
    println!("{} events acknowledged", ledger.acknowledged());
}
