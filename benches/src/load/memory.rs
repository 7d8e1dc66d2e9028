//! Whether the gateway's resident size grows with the number of events.

use std::path::Path;
use std::time::Duration;

use audit_testkit::time::TestIds;
use tokio::task::JoinSet;

use crate::Result;
use crate::load::client::{Call, Caller, Way};
use crate::load::latency::{AnyError, runtime};
use crate::load::process::{LogFiles, Resident, Running};
use crate::load::table::{Table, bytes, print};
use crate::load::times::Timer;
use crate::load::ways::GATEWAY;

const CONNECTIONS: u64 = 32;
const BYTES: usize = 1024;
/// Calls of one session; each session has a data key.
const SESSION_CALLS: u64 = 5;

/// What was found.
#[derive(Debug)]
pub struct Grown {
    /// After the first step.
    pub base_kib: u64,
    /// Of the resident size, from the one before the last step to the last, per event.
    pub per_event: f64,
    /// Events at the last step.
    pub events: u64,
}

/// Measures after each of these numbers of exchanges, and prints.
pub fn memory(dir: &Path, steps: &[u64]) -> Result<Grown> {
    let provider = Running::own("provider", &["provider"])?;
    let gateway = Running::gateway(dir, &[("openai", provider.address)])?;
    let way = Way {
        name: GATEWAY,
        address: gateway.address,
        prefix: "/openai".to_owned(),
    };
    let mut table = Table::new([
        "exchanges",
        "events",
        "resident, KiB",
        "of it anonymous",
        "bytes per event since the row above",
        "database, bytes",
    ]);
    let files = LogFiles::new(dir);
    let mut row = |exchanges: u64, before: Option<(u64, Resident)>| -> Result<Resident> {
        let now = gateway.resident()?;
        let slope = before.map_or_else(String::new, |(done, before)| {
            format!("{:.1}", slope(before, now, 2 * (exchanges - done)))
        });
        table.row([
            bytes(exchanges),
            bytes(2 * exchanges),
            bytes(now.rss),
            bytes(now.anonymous),
            slope,
            bytes(files.bytes()?),
        ]);
        Ok(now)
    };
    row(0, None)?;
    let mut seen: Vec<(u64, Resident)> = Vec::new();
    let timer = Timer::start(Duration::MAX);
    for step in steps {
        let done = seen.last().map_or(0, |(done, _)| *done);
        runtime()?.block_on(calls(&way, done..*step))?;
        seen.push((*step, row(*step, seen.last().copied())?));
    }
    let took = timer.elapsed().as_secs();
    print(&format!(
        "\n## Memory of `audit-trail serve`: {CONNECTIONS} connections, {BYTES} bytes each way, a session (and so a data key) for every {SESSION_CALLS} calls; {took} s\n\n{table}"
    ))?;
    gateway.stop()?;
    let [.., (done, before), (last, after)] = seen[..] else {
        return Err("two steps at least".into());
    };
    Ok(Grown {
        base_kib: seen.first().map_or(0, |(_, first)| first.rss),
        per_event: slope(before, after, 2 * (last - done)),
        events: 2 * last,
    })
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn slope(before: Resident, after: Resident, events: u64) -> f64 {
    (after.rss as f64 - before.rss as f64) * 1024.0 / events as f64
}

async fn calls(way: &Way, numbers: std::ops::Range<u64>) -> Result<()> {
    let mut tasks = JoinSet::new();
    for at in 0..CONNECTIONS {
        let way = way.clone();
        let numbers = numbers.clone();
        tasks.spawn(async move {
            let text = TestIds::new(1000 + numbers.start + at);
            let mut caller = Caller::connect(&way).await?;
            for number in numbers.filter(|n| n / SESSION_CALLS % CONNECTIONS == at) {
                let mut call = Call::chat(&text, BYTES)?;
                call.session = Some(format!("session-{}", number / SESSION_CALLS));
                caller.succeed(&call).await?;
            }
            Ok::<_, AnyError>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
