//! Measures the engines side by side, each beside its own commit of the same bytes, and prints tables.

use std::sync::Arc;
use std::time::Duration;

use audit_core::log::{Log, LogOptions};
use audit_core::store::Store;
use audit_store_s3::S3Store;
use benches::Result;
use benches::load::table::{Table, per, print, time};
use benches::load::times::{Timer, Times};
use benches::machine::{cores, cpu, cpu_time, file_system, median, scratch, timed};
use benches::recorder::Recorder;
use benches::stores::baseline::{Baseline, Prepared};
use benches::stores::engine::{Engine, s3_options, synced_file};
use benches::stores::{growth, writers};
use benches::workload::{Events, Keys, append_all, callers, create_log};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

const BYTES: usize = 1024;
const LONE: usize = 300;
const CALLERS: usize = 64;
const EACH: usize = 8;
const ROUNDS: usize = 15;
const PROCESSES: usize = 8;
/// Events that the processes append in one round, together.
const WRITTEN: usize = 16_384;
const WRITER_ROUNDS: usize = 5;
/// What is offered to S3, per second.
const RATE: u64 = 2000;
const SECONDS: u64 = 20;
/// How long batches on S3 wait for company unless told otherwise.
const LINGER: Duration = Duration::from_millis(250);

const USAGE: &str = "usage: stores [lone | concurrent | processes | s3]… | growth SIZE…
  lone         one durable append after the other
  concurrent   64 callers
  processes    one writing process, and eight
  s3           2,000 small events a second on S3, and as many as go
  growth       fills a log on PostgreSQL to each of these sizes and measures there, for example: growth 100000 10000000
Without arguments all but growth. AUDIT_TEST_POSTGRES_URL and AUDIT_TEST_S3_URL name servers; else only SQLite is measured.";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let known = ["lone", "concurrent", "processes", "s3"];
    match arguments[..] {
        ["write", callers, each, bytes] => {
            return writers::write(callers.parse()?, each.parse()?, bytes.parse()?);
        }
        ["growth", ref sizes @ ..] if !sizes.is_empty() => {
            let sizes = sizes.iter().map(|size| Ok(size.parse()?));
            return growth_of(&sizes.collect::<Result<Vec<u64>>>()?);
        }
        ref sections if sections.iter().all(|name| known.contains(name)) => {}
        _ => return Err(USAGE.into()),
    }
    let want = |section| arguments.is_empty() || arguments.contains(&section);
    let runtime = Runtime::new()?;
    let keys = Keys::new()?;
    let dir = scratch()?;
    let engines = runtime.block_on(Engine::here(dir.path()))?;
    print(&format!(
        "{} cores, {}; files on {}; servers on this machine",
        cores(),
        cpu(),
        file_system(&std::fs::canonicalize(dir.path())?)
    ))?;
    let mut synced = synced_file(dir.path())?;
    let mut floor = Vec::new();
    for _ in 0..LONE {
        let (time, done) = timed(|| synced.write(&[1; 4096]));
        done?;
        floor.push(time);
    }
    print(&format!(
        "overwriting 4 KiB and fdatasync: median {}\n",
        time(median(floor))
    ))?;
    if want("lone") {
        lone(&runtime, &keys, &engines)?;
    }
    if want("concurrent") {
        concurrent(&runtime, &keys, &engines)?;
    }
    if want("processes") {
        processes(&runtime, &keys, &engines)?;
    }
    if want("s3") {
        for engine in &engines {
            if matches!(engine, Engine::S3(..)) {
                offered(&runtime, &keys, engine)?;
            }
        }
    }
    for engine in &engines {
        runtime.block_on(engine.clean())?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn growth_of(sizes: &[u64]) -> Result<()> {
    let runtime = Runtime::new()?;
    let dir = scratch()?;
    runtime.block_on(async {
        for engine in Engine::here(dir.path()).await? {
            if matches!(engine, Engine::Postgres(_)) {
                growth::grow(&engine, sizes).await?;
                return engine.clean().await;
            }
        }
        Err("growth is measured on PostgreSQL; set AUDIT_TEST_POSTGRES_URL".into())
    })
}

/// Each baseline with the recorded batches.
fn prepared(
    runtime: &Runtime,
    engine: &Engine,
    recorder: &Recorder,
) -> Result<Vec<(Baseline, Vec<Prepared>)>> {
    let batches = recorder.take();
    let mut all = Vec::new();
    for bare in runtime.block_on(engine.baselines())? {
        let prepared = batches.iter().map(|batch| bare.prepare(batch));
        let prepared = prepared.collect::<Result<Vec<_>>>()?;
        all.push((bare, prepared));
    }
    Ok(all)
}

fn lone(runtime: &Runtime, keys: &Keys, engines: &[Engine]) -> Result<()> {
    let mut table = Table::new([
        "one durable append of 1 KB",
        "median",
        "p99",
        "above the commit",
    ]);
    for engine in engines {
        let mut events = Events::default();
        let (recorded, recorder) = engine.log(runtime, keys)?;
        runtime.block_on(append_all(&recorded, vec![events.events(LONE, BYTES)?]))?;
        let mut bare = prepared(runtime, engine, &recorder)?;
        let (log, _) = engine.log(runtime, keys)?;
        let mut by_log = Times::default();
        let mut by_bare = vec![Times::default(); bare.len()];
        for turn in 0..=LONE {
            for which in 0..=bare.len() {
                // What follows on what matters to a disk, so each goes first in its turn.
                let which = (turn + which) % (bare.len() + 1);
                let (took, times) = if let Some((bare, batches)) = bare.get_mut(which) {
                    let (took, done) = timed(|| runtime.block_on(bare.commit(&batches[turn])));
                    done?;
                    (took, &mut by_bare[which])
                } else {
                    let event = events.event(BYTES)?;
                    let (took, done) = timed(|| runtime.block_on(log.append(event)));
                    done?;
                    (took, &mut by_log)
                };
                // The first batch opens a log.
                if turn > 0 {
                    times.push(took);
                }
            }
        }
        runtime.block_on(log.close())?;
        runtime.block_on(recorded.close())?;
        let fastest = by_bare.iter().map(Times::median).min().unwrap_or_default();
        table.row([
            engine.name().to_owned(),
            time(by_log.median()),
            time(by_log.p99()),
            benches::load::table::above(by_log.median(), fastest),
        ]);
        for ((bare, _), times) in bare.iter().zip(&by_bare) {
            table.row([
                format!("  {}", bare.what()),
                time(times.median()),
                time(times.p99()),
                String::new(),
            ]);
        }
    }
    print(&table.to_string())
}

fn concurrent(runtime: &Runtime, keys: &Keys, engines: &[Engine]) -> Result<()> {
    let mut table = Table::new([
        "64 callers, 1 KB",
        "events/s",
        "of the baseline",
        "events per batch",
    ]);
    for engine in engines {
        let mut events = Events::default();
        let (log, recorder) = engine.log(runtime, keys)?;
        let mut bare = runtime.block_on(engine.baselines())?;
        let mut by_log = Times::default();
        let mut by_bare = vec![Times::default(); bare.len()];
        let (mut batches_made, mut events_made) = (0_u64, 0_u64);
        for round in 0..=ROUNDS {
            let shares = callers(&mut events, CALLERS, EACH, BYTES)?;
            let (took, done) = timed(|| runtime.block_on(append_all(&log, shares)));
            done?;
            let batches = recorder.take();
            // The first round opens the log and warms all up.
            if round > 0 {
                by_log.push(took);
                batches_made += batches.len() as u64;
                events_made += batches.iter().map(|b| b.rows.len() as u64).sum::<u64>();
            }
            for (bare, times) in bare.iter_mut().zip(&mut by_bare) {
                let took = bare.replay(runtime, &batches)?;
                if round > 0 {
                    times.push(took);
                }
            }
        }
        runtime.block_on(log.close())?;
        let log_rate = rate(CALLERS * EACH, by_log.median());
        table.row([
            engine.name().to_owned(),
            format!("{log_rate:.0}"),
            String::new(),
            format!("{:.0}", per(events_made, batches_made)),
        ]);
        for (bare, times) in bare.iter().zip(&by_bare) {
            let bare_rate = rate(CALLERS * EACH, times.median());
            table.row([
                format!("  {}, the same batches", bare.what()),
                format!("{bare_rate:.0}"),
                format!("{:.2}", log_rate / bare_rate),
                String::new(),
            ]);
        }
    }
    print(&table.to_string())
}

fn processes(runtime: &Runtime, keys: &Keys, engines: &[Engine]) -> Result<()> {
    let mut table = Table::new([
        "events/s, 1 KB",
        "1 process, 64 callers",
        "8 processes, 64 callers each",
        "ratio",
        "8 processes, 8 callers each",
        "ratio",
    ]);
    for engine in engines {
        // On S3 the number of requests decides, which the next table has.
        if matches!(engine, Engine::S3(..)) {
            continue;
        }
        let place = engine.place();
        let store = runtime.block_on(engine.store(&place, None))?;
        let log = runtime.block_on(create_log(store, keys, None))?;
        runtime.block_on(log.close())?;
        let ways = [
            (1, CALLERS),
            (PROCESSES, CALLERS * PROCESSES),
            (PROCESSES, CALLERS),
        ];
        let mut times = ways.map(|_| Vec::new());
        for round in 0..=WRITER_ROUNDS {
            for ((processes, callers), times) in ways.iter().zip(&mut times) {
                let took = writers::together(&place.url, *processes, *callers, WRITTEN, BYTES)?;
                if round > 0 {
                    times.push(took);
                }
            }
        }
        let [one, many, few] = times.map(|times| rate(WRITTEN, median(times)));
        table.row([
            engine.name().to_owned(),
            format!("{one:.0}"),
            format!("{many:.0}"),
            format!("{:.2}", many / one),
            format!("{few:.0}"),
            format!("{:.2}", few / one),
        ]);
    }
    print(&table.to_string())
}

/// Small events at a fixed rate, then as fast as they go.
fn offered(runtime: &Runtime, keys: &Keys, engine: &Engine) -> Result<()> {
    let dir = scratch()?;
    let place = engine.place();
    let s3 = Arc::new(S3Store::new(&s3_options(&place, Some(LINGER))?)?);
    let recorder = Arc::new(Recorder::new(Arc::clone(&s3) as Arc<dyn Store>));
    let mut options = LogOptions::new(
        Arc::clone(&recorder) as Arc<dyn Store>,
        Arc::clone(&keys.ring),
    );
    options.state_dir = Some(dir.path().join("state"));
    let log = runtime.block_on(Log::create(options))?;
    let mut events = Events::default();

    // A publisher runs too, so tiles and checkpoints are among the requests.
    let wanted = usize::try_from(RATE * SECONDS)?;
    let made = events.events(wanted, 200)?;
    drop(recorder.take());
    let (requests, cpu) = (s3.requests(), cpu_time());
    let (took, done) = timed(|| runtime.block_on(at_rate(&log, made)));
    let latency = done?;
    let (requests, cpu) = (s3.requests() - requests, cpu_time().saturating_sub(cpu));
    let batches = recorder.take().len() as u64;
    print(&format!(
        "S3, {RATE} events of 200 bytes offered a second for {SECONDS} s: {:.0}/s durable, append median {}, p99 {}; \
         {batches} batches, {:.1} requests per 1,000 events; this process took {:.0} % of one core",
        rate(wanted, took),
        time(latency.median()),
        time(latency.p99()),
        per(requests * 1000, wanted as u64),
        100.0 * cpu.as_secs_f64() / took.as_secs_f64(),
    ))?;

    // Everybody waits for an answer: batches are as large as there are callers.
    let mut bare = runtime
        .block_on(engine.baselines())?
        .pop()
        .ok_or("no baseline")?;
    for concurrent in [1024, 4096] {
        let (mut by_log, mut by_bare, mut busy) = (Vec::new(), Vec::new(), Duration::ZERO);
        let mut most = 0;
        for _ in 0..5 {
            let shares = callers(&mut events, concurrent, 4, 200)?;
            drop(recorder.take());
            let cpu = cpu_time();
            let (took, done) = timed(|| runtime.block_on(append_all(&log, shares)));
            done?;
            busy += cpu_time().saturating_sub(cpu);
            by_log.push(took);
            let batches = recorder.take();
            most = most.max(batches.len());
            let took = bare.replay(runtime, &batches)?;
            by_bare.push(took);
        }
        let whole: Duration = by_log.iter().sum();
        let (log_time, bare_time) = (median(by_log), median(by_bare));
        print(&format!(
            "S3, {concurrent} callers: {:.0} events/s in up to {most} batches; the server alone took {} of {} for the \
             objects of the batches (bare puts), the pause between batches up to {}; this process {:.0} % of one core",
            rate(concurrent * 4, log_time),
            time(bare_time),
            time(log_time),
            time(LINGER * u32::try_from(most)?),
            100.0 * busy.as_secs_f64() / whole.as_secs_f64(),
        ))?;
    }
    Ok(runtime.block_on(log.close())?)
}

/// Appends each event when its time has come, whether or not those before are durable.
async fn at_rate(log: &Log, events: Vec<audit_core::event::Event>) -> Result<Times> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (number, event) in events.into_iter().enumerate() {
        // Twenty at a time: a timer for each would measure timers.
        if number % 20 == 0 {
            let due = Duration::from_micros(number as u64 * 1_000_000 / RATE);
            sleep_until(start + due).await;
        }
        let log = log.clone();
        tasks.spawn(async move {
            let timer = Timer::start(Duration::MAX);
            log.append(event).await.map(|_| timer.elapsed())
        });
    }
    let mut times = Times::default();
    while let Some(done) = tasks.join_next().await {
        times.push(done??);
    }
    Ok(times)
}
