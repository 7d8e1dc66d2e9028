//! Durable appends to SQLite, against the same rows committed without a log.

use std::sync::Arc;
use std::time::Duration;

use audit_core::log::Log;
use benches::Result;
use benches::bare::{BareBatch, Replay};
use benches::machine::{scratch, timed};
use benches::recorder::Recorder;
use benches::workload::{Events, Keys, append_all, callers, create_log, open_store};
use criterion::{Criterion, Throughput};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const BYTES: usize = 1024;
const CALLERS: usize = 256;
/// Events of each caller in one round.
const EACH: usize = 4;
/// Batches of lone events, and rounds of concurrent ones, that are recorded for the baseline.
const LONE: usize = 1000;
const ROUNDS: usize = 8;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let bench = Bench::new()?;
    bench.lone(&mut criterion)?;
    bench.concurrent(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

struct Bench {
    runtime: Runtime,
    keys: Keys,
    dir: TempDir,
}

impl Bench {
    fn new() -> Result<Self> {
        Ok(Self {
            runtime: Runtime::new()?,
            keys: Keys::new()?,
            dir: scratch()?,
        })
    }

    /// A log in a new file, and what it commits.
    fn log(&self, name: &str) -> Result<(Log, Arc<Recorder>)> {
        let url = format!("sqlite:{}/{name}.db", self.dir.path().display());
        let recorder = Arc::new(Recorder::new(open_store(&url)?));
        let log = self.runtime.block_on(create_log(
            Arc::clone(&recorder) as Arc<_>,
            &self.keys,
            None,
        ))?;
        Ok((log, recorder))
    }

    fn replay(&self, name: &str, recorder: &Recorder) -> Result<Replay> {
        let dir = self.dir.path().join(name);
        std::fs::create_dir(&dir)?;
        let batches = recorder.take();
        Replay::new(
            &dir,
            batches.iter().map(BareBatch::new).collect::<Result<_>>()?,
        )
    }

    fn lone(&self, criterion: &mut Criterion) -> Result<()> {
        let mut events = Events::default();
        let (recorded, recorder) = self.log("lone-recorded")?;
        let batch = events.events(LONE, BYTES)?;
        self.runtime.block_on(append_all(&recorded, vec![batch]))?;
        let mut bare = self.replay("lone", &recorder)?;
        let mut logs = Logs::new(self, "lone", LONE)?;

        let mut group = criterion.benchmark_group("append/lone 1 KB");
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(8));
        group.bench_function("bare SQLite", |b| {
            b.iter_custom(|n| {
                let mut time = Duration::ZERO;
                for _ in 0..n {
                    // The first batch opens the log.
                    bare.make_room(1, 1).expect("a new file can be made");
                    let (took, done) = timed(|| bare.commit());
                    done.expect("a recorded batch can be committed");
                    time += took;
                }
                time
            });
        });
        group.bench_function("log", |b| {
            b.iter_custom(|n| {
                let mut time = Duration::ZERO;
                for _ in 0..n {
                    let event = events.event(BYTES).expect("events can be made");
                    let log = logs.next().expect("a new log can be made");
                    let (took, done) = timed(|| self.runtime.block_on(log.append(event)));
                    done.expect("the store takes events");
                    time += took;
                }
                time
            });
        });
        group.finish();
        Ok(())
    }

    fn concurrent(&self, criterion: &mut Criterion) -> Result<()> {
        let mut events = Events::default();
        let (recorded, recorder) = self.log("many-recorded")?;
        for _ in 0..ROUNDS {
            let round = callers(&mut events, CALLERS, EACH, BYTES)?;
            self.runtime.block_on(append_all(&recorded, round))?;
        }
        let mut bare = self.replay("many", &recorder)?;
        let mut logs = Logs::new(self, "many", ROUNDS)?;

        let mut group = criterion.benchmark_group("append/256 callers 1 KB");
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(8))
            .throughput(Throughput::Elements((CALLERS * EACH) as u64));
        group.bench_function("bare SQLite, the same batches", |b| {
            b.iter_custom(|n| {
                let mut time = Duration::ZERO;
                for _ in 0..n {
                    // No batch holds more than one event of a caller, so a round has at least as many batches.
                    let mut left = CALLERS * EACH;
                    while left > 0 {
                        bare.make_room(1, 1).expect("a new file can be made");
                        let (took, done) = timed(|| bare.commit());
                        let events = done.expect("a recorded batch can be committed");
                        time += took;
                        left = left.saturating_sub(events);
                    }
                }
                time
            });
        });
        group.bench_function("log", |b| {
            b.iter_custom(|n| {
                let mut time = Duration::ZERO;
                for _ in 0..n {
                    let round =
                        callers(&mut events, CALLERS, EACH, BYTES).expect("events can be made");
                    let log = logs.next().expect("a new log can be made");
                    let (took, done) = timed(|| self.runtime.block_on(append_all(log, round)));
                    done.expect("the store takes events");
                    time += took;
                }
                time
            });
        });
        group.finish();
        Ok(())
    }
}

/// A log that gives way to a new one after as many uses as the baseline's file has, so that both files are as large.
struct Logs<'a> {
    bench: &'a Bench,
    name: &'static str,
    uses_max: usize,
    used: usize,
    made: usize,
    log: Log,
}

impl<'a> Logs<'a> {
    fn new(bench: &'a Bench, name: &'static str, uses_max: usize) -> Result<Self> {
        let (log, _) = bench.log(&format!("{name}-0"))?;
        Ok(Self {
            bench,
            name,
            uses_max,
            used: 0,
            made: 1,
            log,
        })
    }

    fn next(&mut self) -> Result<&Log> {
        if self.used == self.uses_max {
            let (log, _) = self.bench.log(&format!("{}-{}", self.name, self.made))?;
            let over = std::mem::replace(&mut self.log, log);
            self.bench.runtime.block_on(over.close())?;
            self.made += 1;
            self.used = 0;
        }
        self.used += 1;
        Ok(&self.log)
    }
}
