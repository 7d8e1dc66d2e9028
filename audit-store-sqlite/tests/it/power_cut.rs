//! A power cut: what was acknowledged is there although everything that wasn't synced may be lost, in part and in any order.
//!
//! Processes write a log under a tracer. Their writes are replayed, cut at every sync and every acknowledgement and at other
//! steps, and what the disk may hold then (`audit_testkit::crash`, `disk.rs`, says by which rules) is opened and judged.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use audit_core::ErrorKind;
use audit_core::entry::kinds;
use audit_core::event::Kind;
use audit_core::store::{Query, ReadStore as _, Store};
use audit_store_sqlite::{OpenMode, SqliteStore};
use audit_testkit::crash::{
    Call, Contents, Disk, Host, Judge, Ledger, Step, Survives, Trace, Tracer, Tree, Victim, Work,
};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use crate::crash::{again, store_on};

/// The number of the process that opens what is left.
const JUDGE: u32 = 1_000_000;
const MOVES: &str = "AUDIT_TEST_CRASH_MOVES";

fn long() -> bool {
    std::env::var("AUDIT_TEST_LONG").is_ok_and(|v| v == "1")
}

/// Not a test: what the traced processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_traced() {
    let Some((host, work)) = Work::given() else {
        return;
    };
    let (stop, stopped) = channel::<()>();
    let mover = std::env::var_os(MOVES).map(|_| {
        let path = host.store_dir().join("log.db");
        std::thread::spawn(move || {
            // What SQLite does by itself when its log has a thousand pages, so that the log begins anew within a short run.
            // It waits for readers, which the automatic one doesn't, and may find too many of them all the same.
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(path, flags).unwrap();
            connection.busy_timeout(Duration::from_millis(50)).unwrap();
            while stopped.recv_timeout(Duration::from_millis(15)) == Err(RecvTimeoutError::Timeout)
            {
                // If the others are too busy, there is a next time.
                let moved = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
                drop(moved);
            }
        })
    });
    let store = async { store_on(&host, work.creates) };
    work.run(&host, store).await.unwrap();
    drop(stop);
    if let Some(mover) = mover {
        mover.join().unwrap();
    }
}

/// Some processes, one after the other and two at once, and what they did.
struct Recording {
    dir: TempDir,
    trace: Trace,
}

impl Recording {
    fn root(&self) -> PathBuf {
        self.dir.path().join("host")
    }

    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, scratch) = (dir.path().join("host"), dir.path().join("trace"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&scratch).unwrap();
        let tracer = Tracer::new(&scratch, &root).unwrap();
        let host = Host::new(&root);
        let command = |process, creates, callers, events| {
            let work = Work {
                process,
                creates,
                callers,
                events,
                publish_ms: 20,
                epoch_ms: 10,
            };
            again("power_cut::a_process_that_is_traced", &host, work)
        };
        let lives = |command: &mut Command| {
            tracer.trace(command);
            Victim::start(command).unwrap()
        };
        let ends = |victim: Victim| {
            let ended = victim.end().unwrap();
            assert!(ended.status.success(), "{}", ended.stderr);
        };
        host.make_dirs().unwrap();
        ends(lives(&mut command(0, true, 2, 6)));
        ends(lives(command(1, false, 3, 8).env(MOVES, "1")));
        // Dies when the state file has the third checkpoint, which the store doesn't have yet.
        let mut dies = command(2, false, 1, 1000);
        tracer.trace_until(&mut dies, "sync", "state", 3);
        let died = Victim::start(&mut dies).unwrap().end().unwrap();
        assert!(died.was_killed(), "{}", died.stderr);
        let two = [4, 5].map(|n| lives(command(n, false, 2, 5).env(MOVES, "1")));
        two.into_iter().for_each(ends);
        let trace = tracer.read().unwrap();
        // SQLite's shared memory isn't on the disk after a power cut, or is of no use.
        let trace = trace.without_files(|path| ends_with(path, "-shm"));
        Self { dir, trace }
    }
}

fn ends_with(path: &Path, end: &str) -> bool {
    path.to_str().unwrap().ends_with(end)
}

/// Opens what cuts leave.
struct Cutter {
    judge: Judge,
    keys: BTreeMap<PathBuf, Vec<u8>>,
    dir: TempDir,
    known: HashMap<u64, Contents>,
    seen: u32,
    unusable: u32,
}

impl Cutter {
    fn new(recording: &Recording) -> Self {
        let host = Host::new(&recording.root());
        // In memory, where there is such a folder: thousands of files are synced, and none of them matters.
        let memory = Path::new("/dev/shm");
        let dir = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir());
        let keys = [host.ring_file(), host.auditor_file()].map(|file| {
            let name = file.strip_prefix(recording.root()).unwrap().to_owned();
            (name, fs::read(file).unwrap())
        });
        Self {
            judge: Judge::new(&host).unwrap(),
            keys: keys.into(),
            dir: dir.unwrap(),
            known: HashMap::new(),
            seen: 0,
            unusable: 0,
        }
    }

    async fn look(&mut self, tree: Tree, ledger: &Ledger, created: bool) -> Result<(), String> {
        self.seen += 1;
        let digest = tree.digest();
        if let Some(contents) = self.known.get(&digest) {
            return contents.keeps(ledger);
        }
        for (name, bytes) in &self.keys {
            match tree.files.get(name) {
                Some(there) if there == bytes => {}
                Some(_) => return Err(format!("{} is torn", name.display())),
                None if created => return Err(format!("{} is gone", name.display())),
                None => {}
            }
        }
        let root = self.dir.path().join("host");
        tree.write_to(&root).unwrap();
        let host = Host::new(&root);
        let store = match SqliteStore::open(host.store_dir().join("log.db"), OpenMode::ReadWrite) {
            Ok(store) => store,
            Err(e) if !created && is_clear(e.kind()) => {
                self.unusable += 1;
                return Ok(());
            }
            Err(e) => return Err(format!("the store can't be opened: {e}")),
        };
        if !created && store.description().await.unwrap().is_none() {
            self.unusable += 1;
            return Ok(());
        }
        // From here on there is a log, whether anybody was told of it or not, so its keys are there too.
        if self.keys.keys().any(|name| !tree.files.contains_key(name)) {
            return Err("a log without its keys".to_owned());
        }
        let store: Arc<dyn Store> = Arc::new(store);
        let contents = self.judge.at(&host).recover(&store, JUDGE).await?;
        contents.keeps(ledger)?;
        self.known.insert(digest, contents);
        Ok(())
    }
}

/// Errors that say what is the matter with a store whose making was cut short.
fn is_clear(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::Invalid | ErrorKind::Corrupt
    )
}

/// At which steps to cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cuts {
    /// Before every sync, behind every acknowledgement, and at a tenth of the other steps.
    Some,
    /// At every step.
    All,
}

/// Replays `trace` and looks at what every cut leaves; the first thing that is wrong, with the step and the chance.
async fn cut(cutter: &mut Cutter, trace: &Trace, cuts: Cuts) -> Result<Ledger, String> {
    let mut disk = Disk::default();
    disk.make_durable_dirs(&["store", "keys"]);
    let mut ledger = Ledger::default();
    let mut created = false;
    let mut line = String::new();
    for (number, step) in trace.steps.iter().enumerate() {
        let seed = number as u64;
        let mut survivors = Vec::new();
        match &step.call {
            Call::Sync { fd } if disk.is_dirty(step.process, *fd) => {
                survivors.extend([Survives::Nothing, Survives::Everything]);
                survivors.push(match number % 4 {
                    0 => Survives::Names,
                    1 => Survives::Data,
                    2 => Survives::Some(seed),
                    _ => Survives::Prefix(seed),
                });
            }
            Call::Said { text } => {
                line.push_str(text);
                let mut promises = false;
                while let Some((whole, rest)) = line.split_once('\n') {
                    ledger.hear(whole)?;
                    created |= whole == "opened";
                    promises |= ["ack ", "published ", "opened"]
                        .iter()
                        .any(|w| whole.starts_with(w));
                    line = rest.to_owned();
                }
                // Without the changes since the last sync: what was promised must not need them. The others find little
                // that the cuts at syncs don't.
                if promises {
                    survivors.push(Survives::Nothing);
                }
            }
            Call::Close { .. } => {}
            _ if number.is_multiple_of(20) => survivors.push(Survives::Some(seed)),
            _ if number.is_multiple_of(10) => survivors.push(Survives::Prefix(seed)),
            _ => {}
        }
        if cuts == Cuts::All && !matches!(step.call, Call::Close { .. }) {
            survivors.extend([Survives::Nothing, Survives::Everything]);
            survivors.extend([Survives::Some(!seed), Survives::Prefix(!seed)]);
        }
        for survives in survivors {
            let tree = disk.after_cut(survives);
            cutter.look(tree, &ledger, created).await.map_err(|e| {
                format!("a cut before step {number} ({step:?}), {survives:?} survives: {e}")
            })?;
        }
        disk.apply(step)?;
    }
    let tree = disk.after_cut(Survives::Nothing);
    cutter.look(tree, &ledger, created).await?;
    Ok(ledger)
}

/// How often the header of SQLite's log was written over older frames: what it held was moved into the database, and it began
/// anew.
fn restarts(trace: &Trace) -> usize {
    let mut length = 0;
    let mut restarts = 0;
    for (step, path) in trace.paths() {
        if !path.is_some_and(|path| ends_with(&path, "log.db-wal")) {
            continue;
        }
        match &step.call {
            Call::Write { offset, data, .. } => {
                restarts += usize::from(*offset == 0 && length > 32);
                length = length.max(offset + data.len() as u64);
            }
            Call::Resize { length: cut, .. } => length = *cut,
            Call::Unlink { .. } => length = 0,
            _ => {}
        }
    }
    restarts
}

fn count(trace: &Trace, which: impl Fn(&Call, &str) -> bool) -> usize {
    let is = |(step, path): &(&Step, Option<PathBuf>)| {
        let path = path.as_deref().and_then(Path::to_str).unwrap_or_default();
        which(&step.call, path)
    };
    trace.paths().filter(is).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_power_cut() {
    let recording = Recording::make();
    let trace = &recording.trace;
    let mut cutter = Cutter::new(&recording);
    let cuts = if long() { Cuts::All } else { Cuts::Some };
    let ledger = cut(&mut cutter, trace, cuts).await.unwrap();

    // The run had everything in it that it is there for.
    let store =
        SqliteStore::open(recording.root().join("store/log.db"), OpenMode::ReadWrite).unwrap();
    let ended = Query {
        kind: Some(Kind::new(kinds::EPOCH_CLOSED).unwrap()),
        ..Query::default()
    };
    let epochs = store.find(&ended).await.unwrap().len();
    let checkpoints = store.checkpoints(0, 1000).await.unwrap().len();
    let syncs = count(trace, |call, _| matches!(call, Call::Sync { .. }));
    let restarts = restarts(trace);
    let removed = count(trace, |call, path| {
        path.ends_with("-wal") && matches!(call, Call::Unlink { .. })
    });
    println!(
        "{} steps, {syncs} syncs, {} acknowledgements; {epochs} epochs and {checkpoints} checkpoints; SQLite's log begun \
         anew {restarts} times, removed {removed} times; {} cuts, {} different trees opened, {} of them from before there was \
         a log",
        trace.steps.len(),
        ledger.acknowledged(),
        cutter.seen,
        cutter.known.len(),
        cutter.unusable,
    );
    // Twelve by the first process, 24 by the second, ten by each of the last two.
    assert!(ledger.acknowledged() > 12 + 24 + 20, "a process did less");
    assert!(
        epochs >= 2 && checkpoints >= 6,
        "too few epochs or checkpoints"
    );
    assert!(removed > 0, "SQLite's log was never removed");
    assert!(restarts > 0, "SQLite's log was never begun anew");
    assert!(cutter.known.len() > 100, "few states");
}

/// The replay can fail: each sync that somebody depends on is missed when it is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_without_one_of_its_syncs_loses_something() {
    let recording = Recording::make();
    let is_opened =
        |step: &Step| matches!(&step.call, Call::Said { text } if text.contains("opened\n"));
    let opened = recording.trace.steps.iter().position(is_opened).unwrap();
    for (file, from, symptom) in [
        // Like `synchronous=OFF` from then on.
        ("store/log.db-wal", opened, "lost: "),
        ("store/log.db", opened, ""),
        ("store", 0, ""),
        ("keys", 0, "keys"),
        ("keys/*", 0, "is torn"),
        ("state", 0, "the state file remembers 0"),
        ("state/*", 0, "the state file"),
        ("", 0, "the state file remembers 0"),
    ] {
        let unsynced = recording.trace.without_syncs(|number, path| {
            number >= from
                && match file.strip_suffix("/*") {
                    Some(dir) => path.parent() == Some(Path::new(dir)),
                    None => path == Path::new(file),
                }
        });
        let forgotten = recording.trace.steps.len() - unsynced.steps.len();
        assert!(forgotten > 0, "nobody syncs {file}");
        let mut cutter = Cutter::new(&recording);
        let found = cut(&mut cutter, &unsynced, Cuts::Some).await;
        let found = found.expect_err(file);
        println!("{file}, {forgotten} syncs left out: {found}");
        assert!(found.contains(symptom), "{file}: {found}");
    }
}

/// By the trace alone, whatever SQLite makes of its files: the write that brings an event into SQLite's log is followed by a
/// sync of that log, and only then by the acknowledgement.
#[test]
fn sqlite_s_log_is_synced_before_each_acknowledgement() {
    let recording = Recording::make();
    let mut written: Vec<(usize, &Call)> = Vec::new();
    let mut synced = 0;
    let mut acknowledged = 0;
    let mut line = String::new();
    for (number, (step, path)) in recording.trace.paths().enumerate() {
        let wal = path.is_some_and(|path| ends_with(&path, "log.db-wal"));
        match &step.call {
            Call::Write { .. } if wal => written.push((number, &step.call)),
            Call::Sync { .. } if wal => synced = number,
            Call::Said { text } => {
                line.push_str(text);
                while let Some((whole, rest)) = line.split_once('\n') {
                    if let Some(ack) = whole.strip_prefix("ack ") {
                        let id = ack.split(' ').next().unwrap();
                        let raw = uuid::Uuid::parse_str(id).unwrap();
                        let holds =
                            |call: &Call| call.writes(raw.as_bytes()) || call.writes(id.as_bytes());
                        let write = written.iter().find(|(_, call)| holds(call));
                        let (write, _) = write.unwrap_or_else(|| {
                            panic!("{id} was acknowledged, and isn't in SQLite's log")
                        });
                        assert!(
                            *write < synced,
                            "{id} was written in step {write}, the last sync before its acknowledgement is {synced}"
                        );
                        acknowledged += 1;
                    }
                    line = rest.to_owned();
                }
            }
            _ => {}
        }
    }
    assert!(acknowledged > 60, "{acknowledged} acknowledgements");
}
