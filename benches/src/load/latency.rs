//! What the gateway adds to a call, and how many calls it carries.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit_testkit::time::TestIds;
use tokio::task::JoinSet;

use crate::Result;
use crate::bare::{BareBatch, Replay};
use crate::load::client::{Call, Caller, Way};
use crate::load::fixtures;
use crate::load::gateway::InProcess;
use crate::load::process::Running;
use crate::load::provider;
use crate::load::table::{Table, above, per, print, time};
use crate::load::times::{Timer, Times};
use crate::load::ways::{DIRECT, GATEWAY, MEMORY, Parties};
use crate::machine::timed;
use crate::recorder::Recorder;
use crate::workload::open_store;

/// Bytes of a request's body and of an answer's.
const BYTES: usize = 1024;
/// Calls of one way before it is the next one's turn.
const BLOCK: usize = 20;
/// Exchanges whose rows are recorded for the baseline.
const RECORDED: usize = 200;
/// Connections at the same time, for throughput.
const CONNECTIONS: usize = 64;
/// What the gateway may add to a call beside two commits.
const ALLOWED: Duration = Duration::from_micros(300);

/// Commits what a gateway records of a call, bare: the rows of the request, then those of the answer.
#[derive(Debug)]
pub struct Commits(Replay);

impl Commits {
    /// Records some calls through a gateway in this process.
    pub fn record(dir: &Path) -> Result<Self> {
        let dir = dir.join("bare");
        std::fs::create_dir(&dir)?;
        let recorder = Arc::new(Recorder::new(open_store(&format!(
            "sqlite:{}/recorded.db",
            dir.display()
        ))?));
        let gateway = InProcess::start(Arc::clone(&recorder) as Arc<_>, provider::in_thread()?)?;
        let way = Way {
            name: GATEWAY,
            address: gateway.address,
            prefix: "/openai".to_owned(),
        };
        let text = TestIds::new(5);
        runtime()?.block_on(async {
            let mut caller = Caller::connect(&way).await?;
            for _ in 0..RECORDED {
                caller.succeed(&Call::chat(&text, BYTES)?).await?;
            }
            Ok::<_, AnyError>(())
        })?;
        gateway.stop()?;
        let mut batches = recorder.take();
        // The last one closes the run.
        batches.truncate(2 * RECORDED + 1);
        let batches = batches.iter().map(BareBatch::new).collect::<Result<_>>()?;
        let mut replay = Replay::new(&dir, batches)?;
        // The first one opens it.
        replay.commit()?;
        Ok(Self(replay))
    }

    /// The times of a request's commit and of an answer's.
    pub fn pair(&mut self) -> Result<(Duration, Duration)> {
        self.0.make_room(2, 1)?;
        let (request, done) = timed(|| self.0.commit());
        done?;
        let (answer, done) = timed(|| self.0.commit());
        done?;
        Ok((request, answer))
    }
}

/// The error of this crate's results.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// The client's runtime: one thread, as a Python client has.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// The figures that others need.
#[derive(Debug)]
pub struct Added {
    /// Median of the gateway over the median of direct calls.
    pub median: Duration,
    /// Median of both commits of a call.
    pub commits: Duration,
}

/// Measures and prints.
pub fn gateway(dir: &Path, lasts: Duration) -> Result<Added> {
    let parties = Parties::start(dir)?;
    let memory = Running::own(
        "gateway-in-memory",
        &["gateway-in-memory", &parties.provider.address.to_string()],
    )?;
    let mut ways = parties.ways();
    ways.push(Way {
        name: MEMORY,
        address: memory.address,
        prefix: "/openai".to_owned(),
    });
    let mut commits = Commits::record(dir)?;
    let text = TestIds::new(4);
    let chats = || Call::chat(&text, BYTES);
    let (times, pairs) = runtime()?.block_on(by_turns(&ways, lasts, Some(&mut commits), chats))?;
    let added = latency_table(&ways, &times, Some(&pairs), BYTES)?;
    if parties.nginx.is_none() {
        print("nginx is not installed, so it was not measured (Debian: nginx-light).\n")?;
    }
    recorded(dir, lasts / 2)?;
    // The one in memory isn't a way that anybody takes.
    ways.pop();
    runtime()?.block_on(throughput(&parties, &ways, lasts / 3))?;
    parties.gateway.stop()?;
    Ok(added)
}

/// Calls one after the other, in blocks by turns.
async fn by_turns(
    ways: &[Way],
    lasts: Duration,
    mut commits: Option<&mut Commits>,
    mut call: impl FnMut() -> Result<Call>,
) -> Result<(Vec<Times>, Pairs)> {
    let mut callers = Vec::new();
    for way in ways {
        let mut caller = Caller::connect(way).await?;
        for _ in 0..2 * BLOCK {
            caller.succeed(&call()?).await?;
        }
        callers.push(caller);
    }
    let mut times = vec![Times::default(); ways.len()];
    let mut pairs = Pairs::default();
    let timer = Timer::start(lasts);
    while timer.runs() {
        for (caller, times) in callers.iter_mut().zip(&mut times) {
            for _ in 0..BLOCK {
                times.push(caller.succeed(&call()?).await?.whole);
            }
        }
        if let Some(commits) = &mut commits {
            for _ in 0..BLOCK {
                pairs.push(commits.pair()?);
            }
        }
    }
    Ok((times, pairs))
}

/// Times of bare commits.
#[derive(Debug, Default)]
pub struct Pairs {
    /// Of a request's rows.
    pub request: Times,
    /// Of both.
    pub both: Times,
}

impl Pairs {
    /// Adds a pair.
    pub fn push(&mut self, (request, answer): (Duration, Duration)) {
        self.request.push(request);
        self.both.push(request + answer);
    }
}

fn latency_table(
    ways: &[Way],
    times: &[Times],
    pairs: Option<&Pairs>,
    bytes: usize,
) -> Result<Added> {
    let direct = times.first().cloned().unwrap_or_default();
    let mut table = Table::new(["a call", "median", "p99", "added, median", "added, p99"]);
    let mut added = Duration::ZERO;
    for (way, times) in ways.iter().zip(times) {
        let (median, p99) = (times.median(), times.p99());
        let [more_median, more_p99] = if way.name == DIRECT {
            [String::new(), String::new()]
        } else {
            [above(median, direct.median()), above(p99, direct.p99())]
        };
        if way.name == GATEWAY {
            added = median.saturating_sub(direct.median());
        }
        table.row([
            way.name.to_owned(),
            time(median),
            time(p99),
            more_median,
            more_p99,
        ]);
    }
    let mut commits = Duration::ZERO;
    if let Some(pairs) = pairs {
        commits = pairs.both.median();
        table.row([
            "two bare commits".to_owned(),
            time(commits),
            time(pairs.both.p99()),
            String::new(),
            String::new(),
        ]);
    }
    print(&format!(
        "\n## Latency: one client, a kept connection, one call after the other, about {bytes} bytes each way; {} calls of each, by turns\n\n{table}",
        direct.len()
    ))?;
    if pairs.is_some() {
        let allowed = commits + ALLOWED;
        print(&format!(
            "goal: the gateway adds at most two bare commits and 0.3 ms: {} of {}: {}",
            time(added),
            time(allowed),
            if added <= allowed { "met" } else { "NOT met" }
        ))?;
    }
    Ok(Added {
        median: added,
        commits,
    })
}

/// The same with the recorded provider, which takes its time.
fn recorded(dir: &Path, lasts: Duration) -> Result<()> {
    let Some(folder) = fixtures::folder() else {
        return print("AUDIT_FIXTURES is not set, so the recorded provider was not measured.");
    };
    let all = fixtures::load(&folder)?;
    let chosen = all
        .iter()
        .find(|f| {
            f.provider == "openai"
                && f.plain_success
                && f.call.target.ends_with("/chat/completions")
        })
        .ok_or("no recorded call is like that")?;
    let provider = Running::recorded_provider(&folder)?;
    let dir = dir.join("recorded");
    std::fs::create_dir(&dir)?;
    let gateway = Running::gateway(&dir, &[("openai", provider.address)])?;
    let way = |name, party: &Running, prefix: &str| Way {
        name,
        address: party.address,
        prefix: prefix.to_owned(),
    };
    let mut ways = vec![way(DIRECT, &provider, "")];
    let nginx = Running::nginx(&dir, provider.address)?;
    ways.extend(nginx.iter().map(|nginx| way("nginx", nginx, "")));
    ways.push(way(GATEWAY, &gateway, "/openai"));
    let (times, _) =
        runtime()?.block_on(by_turns(&ways, lasts, None, || Ok(chosen.call.clone())))?;
    print("\nThe same with the recorded provider (fake_provider.py) and one recorded call:")?;
    latency_table(&ways, &times, None, chosen.call.body.len())?;
    gateway.stop()
}

/// Calls on many connections at once.
async fn throughput(parties: &Parties, ways: &[Way], lasts: Duration) -> Result<()> {
    let mut table = Table::new(["64 connections", "calls/s", "median", "p99", "CPU per call"]);
    for way in ways {
        let between = parties.between(way);
        let cpu = || between.map(Running::cpu).transpose();
        let before = cpu()?;
        let mut tasks = JoinSet::new();
        let timer = Timer::start(lasts);
        for number in 0..CONNECTIONS {
            let way = way.clone();
            tasks.spawn(async move {
                let text = TestIds::new(100 + number as u64);
                let mut caller = Caller::connect(&way).await?;
                let mut times = Vec::new();
                while timer.runs() {
                    times.push(caller.succeed(&Call::chat(&text, BYTES)?).await?.whole);
                }
                Ok::<_, AnyError>(times)
            });
        }
        let mut times = Times::default();
        while let Some(done) = tasks.join_next().await {
            times.append(&mut done??);
        }
        let took = timer.elapsed();
        let used = match (before, cpu()?) {
            (Some(before), Some(after)) => {
                time(after.saturating_sub(before) / u32::try_from(times.len().max(1))?)
            }
            _ => String::new(),
        };
        table.row([
            way.name.to_owned(),
            format!("{:.0}", per(times.len() as u64, 1) / took.as_secs_f64()),
            time(times.median()),
            time(times.p99()),
            used,
        ]);
    }
    print(&format!(
        "\n## Throughput: the client, the provider and what is between share the processors\n\n{table}"
    ))
}
