//! The four figures that the predecessor's README states, beside ours.
//!
//! `LLMAuditTrail` v0.1.0 was a prototype in Python. Its figures are its own claims: nothing here ran it, and how it
//! came to them isn't known.

use std::path::Path;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::Result;
use audit_tracer::StoreEvidence;

use crate::evidence::{Depth, verify_at};
use crate::load::fixtures::Stored;
use crate::load::latency::Added;
use crate::load::memory::Grown;
use crate::load::table::{Table, bytes, print, time};
use crate::load::times::Times;
use crate::machine::timed;
use crate::workload::{Keys, open_store, published_log};

/// Events that are verified.
const EVENTS: usize = 1000;
const ROUNDS: usize = 15;

/// Ours.
#[derive(Debug)]
pub struct Figures {
    /// Of a call.
    pub added: Added,
    /// Of the gateway.
    pub memory: Grown,
    /// Of tiny interactions.
    pub tiny: Stored,
    /// Of the recorded traffic.
    pub recorded: Option<Stored>,
}

/// Prints the table, after measuring what only it needs.
pub fn predecessor(dir: &Path, figures: &Figures) -> Result<()> {
    let [public, content] = verification(dir)?;
    let mut table = Table::new(["", "predecessor (its own claim)", "this one"]);
    table.row([
        "latency per call".to_owned(),
        "3–6 ms".to_owned(),
        format!(
            "{}, of which two bare commits of the store take {}",
            time(figures.added.median),
            time(figures.added.commits)
        ),
    ]);
    table.row([
        "memory".to_owned(),
        "1.2 MB + 0.4 KB per event".to_owned(),
        format!(
            "{:.1} MB, whole process, + {:.3} KB per event (at {} events)",
            mega(figures.memory.base_kib * 1024),
            figures.memory.per_event.max(0.0) / 1024.0,
            bytes(figures.memory.events)
        ),
    ]);
    table.row([
        "storage overhead per interaction".to_owned(),
        "1.5 KB".to_owned(),
        overhead(&figures.tiny, figures.recorded.as_ref()),
    ]);
    table.row([
        "verifying 1,000 events".to_owned(),
        "about 100 ms".to_owned(),
        format!(
            "{} with public keys, {} with every key and all content opened",
            time(public),
            time(content)
        ),
    ]);
    print(&format!("\n## Beside the predecessor\n\n{table}"))?;
    print(
        "The predecessor's column is what its README says (LLMAuditTrail v0.1.0, a prototype in Python); it was not measured here.",
    )
}

fn overhead(tiny: &Stored, recorded: Option<&Stored>) -> String {
    let one = |stored: &Stored| {
        let (grown, raw) = (stored.grown / stored.count, stored.raw / stored.count);
        let more = if grown >= raw {
            format!("+{}", bytes(grown - raw))
        } else {
            format!("−{}", bytes(raw - grown))
        };
        format!(
            "{more} bytes ({} stored for {} raw)",
            bytes(grown),
            bytes(raw)
        )
    };
    let recorded = recorded.map_or_else(String::new, |r| format!("; recorded traffic {}", one(r)));
    format!("tiny {}{recorded}", one(tiny))
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The times of verifying a log in SQLite, with public keys and with all.
fn verification(dir: &Path) -> Result<[Duration; 2]> {
    let runtime = Runtime::new()?;
    let keys = Keys::new()?;
    let url = runtime.block_on(published_log(dir, &keys, EVENTS, 1024))?;
    let stored = {
        let _inside = runtime.enter();
        StoreEvidence::new(open_store(&url)?)
    };
    let mut times = [Times::default(), Times::default()];
    for _ in 0..ROUNDS {
        for (times, depth) in times.iter_mut().zip([Depth::Parts, Depth::AllKeys]) {
            let (time, verified) = timed(|| verify_at(&stored, &keys, depth));
            verified?;
            times.push(time);
        }
    }
    Ok(times.map(|t| t.median()))
}
