//! Verifying 20,000 events, from memory and from SQLite, against hashing the same bytes.

use audit_tracer::StoreEvidence;
use benches::Result;
use benches::evidence::{Depth, Held, verify_at};
use benches::machine::scratch;
use benches::raw;
use benches::workload::{Keys, open_store, published_log};
use criterion::{BenchmarkId, Criterion, Throughput};
use tokio::runtime::Runtime;

const EVENTS: usize = 20_000;
const BYTES: usize = 1024;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = Runtime::new()?;
    let keys = Keys::new()?;
    let dir = scratch()?;
    let url = runtime.block_on(published_log(dir.path(), &keys, EVENTS, BYTES))?;
    let stored = {
        let _inside = runtime.enter();
        StoreEvidence::new(open_store(&url)?)
    };
    let held = Held::copy(&stored)?;

    let mut group = criterion.benchmark_group("verify/20,000 events of 1 KB");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(held.rows.len() as u64));
    for depth in Depth::ALL {
        let name = depth.name();
        group.bench_function(BenchmarkId::new("raw SHA-256", name), |b| {
            b.iter(|| raw::hash_rows(&held.rows, depth.reads_parts()));
        });
        group.bench_function(BenchmarkId::new("from memory", name), |b| {
            b.iter(|| verify_at(&held, &keys, depth).expect("an honest log holds"));
        });
        group.bench_function(BenchmarkId::new("from SQLite", name), |b| {
            b.iter(|| verify_at(&stored, &keys, depth).expect("an honest log holds"));
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
