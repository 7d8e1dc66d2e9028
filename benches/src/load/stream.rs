//! What the gateway adds to the first byte of a stream, and between its pieces.

use std::path::Path;
use std::time::Duration;

use audit_testkit::time::TestIds;
use tokio::task::JoinSet;

use crate::Result;
use crate::load::client::{Call, Caller};
use crate::load::latency::{AnyError, Commits, Pairs, runtime};
use crate::load::table::{Table, above, print, time};
use crate::load::times::{Timer, Times};
use crate::load::ways::{DIRECT, GATEWAY, Parties};

/// Pieces of a stream, and the pause between two.
const PIECES: u64 = 8;
const PAUSE: Duration = Duration::from_millis(3);
/// What the gateway may add to the first byte beside one commit.
const ALLOWED: Duration = Duration::from_millis(2);

/// Measures and prints.
pub fn stream(dir: &Path, lasts: Duration) -> Result<()> {
    let parties = Parties::start(dir)?;
    let mut commits = Commits::record(dir)?;
    for streams in [1, 50] {
        runtime()?.block_on(parallel(&parties, &mut commits, streams, lasts))?;
    }
    parties.gateway.stop()
}

async fn parallel(
    parties: &Parties,
    commits: &mut Commits,
    streams: usize,
    lasts: Duration,
) -> Result<()> {
    let ways = parties.ways();
    let text = TestIds::new(6);
    let mut callers = Vec::new();
    for way in &ways {
        let mut those = Vec::new();
        for _ in 0..streams {
            let mut caller = Caller::connect(way).await?;
            caller.succeed(&Call::streamed(&text, 2, PAUSE)?).await?;
            those.push(caller);
        }
        callers.push(those);
    }
    let mut seen: Vec<Seen> = ways.iter().map(|way| Seen::new(way.name)).collect();
    let mut pairs = Pairs::default();
    let timer = Timer::start(lasts);
    while timer.runs() {
        for (those, seen) in callers.iter_mut().zip(&mut seen) {
            let mut tasks = JoinSet::new();
            for mut caller in those.drain(..) {
                let call = Call::streamed(&text, PIECES, PAUSE)?;
                tasks.spawn(async move {
                    let answer = caller.succeed(&call).await?;
                    Ok::<_, AnyError>((caller, answer))
                });
            }
            while let Some(done) = tasks.join_next().await {
                let (caller, mut answer) = done??;
                those.push(caller);
                seen.first.push(answer.first);
                if let Some(last) = answer.gaps.pop() {
                    seen.last.push(last);
                }
                seen.gaps.append(&mut answer.gaps);
            }
        }
        pairs.push(commits.pair()?);
    }
    report(&seen, streams, &pairs)
}

/// What came on one way.
struct Seen {
    name: &'static str,
    first: Times,
    /// Between pieces, without the last.
    gaps: Times,
    /// Before the last piece, which waits for the record.
    last: Times,
}

impl Seen {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            first: Times::default(),
            gaps: Times::default(),
            last: Times::default(),
        }
    }
}

fn report(seen: &[Seen], streams: usize, pairs: &Pairs) -> Result<()> {
    let mut table = Table::new([
        "first byte",
        "median",
        "p99",
        "added, median",
        "added, p99",
        "between pieces, median",
        "p99",
        "before the last, median",
    ]);
    let direct = seen.first().map(|s| s.first.clone()).unwrap_or_default();
    let mut added = Duration::ZERO;
    for way in seen {
        let (median, p99) = (way.first.median(), way.first.p99());
        let [more_median, more_p99] = if way.name == DIRECT {
            [String::new(), String::new()]
        } else {
            [above(median, direct.median()), above(p99, direct.p99())]
        };
        if way.name == GATEWAY {
            added = p99.saturating_sub(direct.p99());
        }
        table.row([
            way.name.to_owned(),
            time(median),
            time(p99),
            more_median,
            more_p99,
            time(way.gaps.median()),
            time(way.gaps.p99()),
            time(way.last.median()),
        ]);
    }
    let one = &pairs.request;
    print(&format!(
        "\n## Streams: {streams} at a time, begun together; {PIECES} pieces with {} between; {} streams of each, by turns\n\n{table}",
        time(PAUSE),
        direct.len(),
    ))?;
    let judged = |commit: Duration| {
        let allowed = commit + ALLOWED;
        let met = if added <= allowed { "met" } else { "NOT met" };
        format!("{} of {}: {met}", time(added), time(allowed))
    };
    print(&format!(
        "one bare commit: median {}, p99 {}\ngoal: p99 of the first byte rises by at most one commit and 2 ms: with a commit's median {}; with its p99 {}",
        time(one.median()),
        time(one.p99()),
        judged(one.median()),
        judged(one.p99()),
    ))
}
