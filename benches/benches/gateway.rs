//! A call through the gateway, against the same call to the provider itself.

use std::sync::Arc;
use std::time::Duration;

use audit_testkit::time::TestIds;
use benches::Result;
use benches::load::client::{Call, Caller, Way};
use benches::load::gateway::InProcess;
use benches::load::latency::runtime;
use benches::load::provider;
use benches::machine::scratch;
use benches::workload::open_store;
use criterion::Criterion;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let dir = scratch()?;
    let provider = provider::in_thread()?;
    let store = open_store(&format!("sqlite:{}/gateway.db", dir.path().display()))?;
    let gateway = InProcess::start(Arc::clone(&store), provider)?;
    let text = TestIds::new(4);
    let runtime = runtime()?;

    let mut group = criterion.benchmark_group("gateway/1 KB call");
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(5));
    for (name, address, prefix) in [
        ("direct", provider, ""),
        ("through the gateway", gateway.address, "/openai"),
    ] {
        let way = Way {
            name,
            address,
            prefix: prefix.to_owned(),
        };
        let mut caller = runtime.block_on(Caller::connect(&way))?;
        group.bench_function(name, |b| {
            b.iter_custom(|n| {
                let mut time = Duration::ZERO;
                for _ in 0..n {
                    let call = Call::chat(&text, 1024).expect("a call can be made");
                    let answer = runtime.block_on(caller.succeed(&call));
                    time += answer.expect("the provider answers 200").whole;
                }
                time
            });
        });
    }
    group.finish();
    criterion.final_summary();
    gateway.stop()
}
