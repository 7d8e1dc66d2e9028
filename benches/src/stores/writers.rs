//! Several processes that append to one log.

use std::io::{BufRead as _, BufReader, Write as _, stdin};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use audit_core::log::{Log, LogOptions};
use audit_tracer::StoreUrl;
use std::sync::Arc;
use tokio::runtime::Runtime;

use crate::Result;
use crate::load::table::print;
use crate::machine::timed;
use crate::workload::{Events, Keys, append_all, callers};

/// Names the store for a writing process; not in its arguments, since it may hold a password.
const STORE: &str = "AUDIT_BENCH_STORE";

/// A process that has opened the log, and waits.
struct Writer {
    child: Child,
    stdin: ChildStdin,
}

/// How long `processes` processes together take for `events` events of `bytes` bytes, with `concurrent` callers in all.
pub fn together(
    url: &str,
    processes: usize,
    concurrent: usize,
    events: usize,
    bytes: usize,
) -> Result<Duration> {
    let each = [concurrent / processes, events / concurrent, bytes].map(|n| n.to_string());
    let mut writers = Vec::new();
    for _ in 0..processes {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("write")
            .args(&each)
            .env(STORE, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().ok_or("no standard input")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no standard output")?).read_line(&mut line)?;
        if line.trim() != "READY" {
            child.kill()?;
            return Err(format!("a writing process said {line:?}").into());
        }
        writers.push(Writer { child, stdin });
    }
    let (time, done) = timed(|| {
        for writer in &mut writers {
            writer.stdin.write_all(b"GO\n")?;
        }
        for writer in &mut writers {
            let status = writer.child.wait()?;
            if !status.success() {
                return Err(format!("a writing process ended with {status}").into());
            }
        }
        Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    });
    done?;
    Ok(time)
}

/// One such process: `callers` callers with `each` events, as soon as a line comes on standard input.
pub fn write(concurrent: usize, each: usize, bytes: usize) -> Result<()> {
    let url: StoreUrl = std::env::var(STORE)?.parse()?;
    Runtime::new()?.block_on(async {
        let mut options = LogOptions::new(url.open().await?, Arc::clone(&Keys::new()?.ring));
        options.epoch = Duration::from_hours(1);
        options.heartbeat = Duration::from_hours(1);
        let log = Log::open(options).await?;
        let shares = callers(&mut Events::default(), concurrent, each, bytes)?;
        print("READY")?;
        stdin().read_line(&mut String::new())?;
        append_all(&log, shares).await
        // Not closed: the end of its run would be one more commit of each process.
    })
}
