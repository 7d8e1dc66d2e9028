//! What the gateway adds to the first byte of a stream, and between its pieces.

use std::path::Path;
use std::time::Duration;

use audit_testkit::time::TestIds;
use tokio::task::JoinSet;

use crate::Result;
use crate::load::client::{Answer, Call, Caller};
use crate::load::latency::{AnyError, Commits, Pairs, runtime};
use crate::load::table::{Table, above, bytes, print, time};
use crate::load::times::{Timer, Times};
use crate::load::ways::{DIRECT, GATEWAY, Parties};

/// What the gateway may add to the first byte beside one commit.
const ALLOWED: Duration = Duration::from_millis(2);

/// How streams come.
struct Shape {
    name: &'static str,
    /// Streams at a time.
    streams: u32,
    /// Of a stream.
    pieces: u64,
    /// Between two pieces.
    pause: Duration,
    /// Begun one after the other, evenly over the length of one; else all at once.
    spread: bool,
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: "one at a time",
        streams: 1,
        pieces: 8,
        pause: Duration::from_millis(3),
        spread: false,
    },
    Shape {
        name: "50 at a time, begun one after the other",
        streams: 50,
        pieces: 25,
        pause: Duration::from_millis(20),
        spread: true,
    },
    Shape {
        name: "50 at a time, all begun in the same instant",
        streams: 50,
        pieces: 8,
        pause: Duration::from_millis(3),
        spread: false,
    },
    Shape {
        name: "500 at a time, begun one after the other",
        streams: 500,
        pieces: 25,
        pause: Duration::from_millis(80),
        spread: true,
    },
];

/// Measures and prints.
pub fn stream(dir: &Path, lasts: Duration) -> Result<()> {
    let parties = Parties::start(dir)?;
    let mut commits = Commits::record(dir)?;
    let mut memory = Table::new(["open streams", "resident before, KiB", "peak, KiB"]);
    for shape in &SHAPES {
        let before = parties.gateway.resident()?;
        runtime()?.block_on(by_turns(&parties, &mut commits, shape, lasts))?;
        memory.row([
            shape.streams.to_string(),
            bytes(before.rss),
            bytes(parties.gateway.resident()?.peak),
        ]);
    }
    print(&format!(
        "\n## Memory of `audit-trail serve` with open streams, one shape after the other\n\n{memory}\ngoal: 500 open streams in less than {} KiB",
        bytes(200 * 1024)
    ))?;
    parties.gateway.stop()
}

async fn by_turns(
    parties: &Parties,
    commits: &mut Commits,
    shape: &Shape,
    lasts: Duration,
) -> Result<()> {
    let ways = parties.ways();
    let text = TestIds::new(6);
    let mut callers = Vec::new();
    for way in &ways {
        let mut those = Vec::new();
        for _ in 0..shape.streams {
            let mut caller = Caller::connect(way).await?;
            caller
                .succeed(&Call::streamed(&text, 2, Duration::ZERO)?)
                .await?;
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
            for (mut caller, number) in those.drain(..).zip(0..) {
                let (first, second) = (
                    Call::streamed(&text, shape.pieces, shape.pause)?,
                    Call::streamed(&text, shape.pieces, shape.pause)?,
                );
                let whole = shape.pause * u32::try_from(shape.pieces)?;
                let wait = shape.spread.then_some(whole * number / shape.streams);
                tasks.spawn(async move {
                    let Some(wait) = wait else {
                        let answer = caller.succeed(&first).await?;
                        return Ok::<_, AnyError>((caller, vec![answer]));
                    };
                    tokio::time::sleep(wait).await;
                    let answers = vec![
                        caller.succeed(&first).await?,
                        caller.succeed(&second).await?,
                    ];
                    Ok((caller, answers))
                });
            }
            while let Some(done) = tasks.join_next().await {
                let (caller, answers) = done??;
                those.push(caller);
                for answer in answers {
                    seen.add(answer);
                }
            }
        }
        for _ in 0..10 {
            pairs.push(commits.pair()?);
        }
    }
    report(&seen, shape, &pairs)
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

    fn add(&mut self, mut answer: Answer) {
        self.first.push(answer.first);
        if let Some(last) = answer.gaps.pop() {
            self.last.push(last);
        }
        self.gaps.append(&mut answer.gaps);
    }
}

fn report(seen: &[Seen], shape: &Shape, pairs: &Pairs) -> Result<()> {
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
        "\n## Streams: {}; {} pieces with {} between; {} streams of each, by turns\n\n{table}",
        shape.name,
        shape.pieces,
        time(shape.pause),
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
