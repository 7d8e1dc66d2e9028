//! One durable append, and 64 callers, on each engine that is here, against its own commit of the same bytes.

use std::time::Duration;

use benches::Result;
use benches::machine::{scratch, timed};
use benches::stores::baseline::{Baseline, Prepared};
use benches::stores::engine::Engine;
use benches::workload::{Events, Keys, append_all, callers};
use criterion::{Criterion, Throughput};
use tokio::runtime::Runtime;

const BYTES: usize = 1024;
const CALLERS: usize = 64;
/// Events of each caller in one round.
const EACH: usize = 4;
/// Rounds that are recorded for the baseline, which then begins anew.
const ROUNDS: usize = 50;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = Runtime::new()?;
    let keys = Keys::new()?;
    let dir = scratch()?;
    for engine in runtime.block_on(Engine::here(dir.path()))? {
        for (name, count, each) in [("lone", 1, 1), ("64 callers", CALLERS, EACH)] {
            let mut group = criterion.benchmark_group(format!("stores/{} {name}", engine.name()));
            group
                .sample_size(10)
                .measurement_time(Duration::from_secs(6))
                .throughput(Throughput::Elements((count * each) as u64));
            let mut events = Events::default();
            let (log, recorder) = engine.log(&runtime, &keys)?;
            for _ in 0..ROUNDS {
                let round = callers(&mut events, count, each, BYTES)?;
                runtime.block_on(append_all(&log, round))?;
            }
            let batches = recorder.take();
            for bare in runtime.block_on(engine.baselines())? {
                let prepared = batches.iter().map(|batch| bare.prepare(batch));
                let prepared = prepared.collect::<Result<Vec<_>>>()?;
                let mut replay = Replay::new(&engine, bare, prepared);
                group.bench_function(replay.bare.what(), |b| {
                    b.iter_custom(|n| {
                        let mut time = Duration::ZERO;
                        for _ in 0..n {
                            time += replay
                                .commit(&runtime, count * each)
                                .expect("a recorded batch can be committed");
                        }
                        time
                    });
                });
            }
            group.bench_function("log", |b| {
                b.iter_custom(|n| {
                    let mut time = Duration::ZERO;
                    for _ in 0..n {
                        let round =
                            callers(&mut events, count, each, BYTES).expect("events can be made");
                        let (took, done) = timed(|| runtime.block_on(append_all(&log, round)));
                        done.expect("the store takes events");
                        drop(recorder.take());
                        time += took;
                    }
                    time
                });
            });
            group.finish();
            runtime.block_on(log.close())?;
        }
        runtime.block_on(engine.clean())?;
    }
    criterion.final_summary();
    Ok(())
}

/// Commits recorded batches one after the other, and in a new place when they are used up.
struct Replay<'a> {
    engine: &'a Engine,
    bare: Baseline,
    batches: Vec<Prepared>,
    next: usize,
}

impl<'a> Replay<'a> {
    fn new(engine: &'a Engine, bare: Baseline, batches: Vec<Prepared>) -> Self {
        Self {
            engine,
            bare,
            batches,
            next: 0,
        }
    }

    /// Commits batches with `events` events together, or a few more, and answers how long that took.
    fn commit(&mut self, runtime: &Runtime, events: usize) -> Result<Duration> {
        let (mut time, mut done) = (Duration::ZERO, 0);
        while done < events {
            if self.next == self.batches.len() {
                let what = self.bare.what();
                let fresh = runtime.block_on(self.engine.baselines())?;
                let fresh = fresh.into_iter().find(|bare| bare.what() == what);
                self.bare = fresh.ok_or("no such baseline")?;
                self.next = 0;
            }
            let batch = &self.batches[self.next];
            self.next += 1;
            let (took, committed) = timed(|| runtime.block_on(self.bare.commit(batch)));
            committed?;
            time += took;
            done += batch.events();
        }
        Ok(time)
    }
}
