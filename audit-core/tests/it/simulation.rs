//! Seeded simulations over the store in memory.

use audit_testkit::memory::MemoryBackend;
use audit_testkit::simulation;

/// Seeds that failed once; each stands for a defect that is mended.
const FAILED_ONCE: [u64; 0] = [];

#[test]
fn processes_that_append_fail_die_and_start_again_keep_what_they_acknowledged() {
    let long = std::env::var_os("AUDIT_TEST_LONG").is_some();
    let seeds = 0..if long { 3_000 } else { 50 };
    let all = simulation::run_seeds(
        FAILED_ONCE.into_iter().chain(seeds),
        &MemoryBackend::default(),
    );
    println!("{all}");
    if std::env::var_os("AUDIT_SIMULATION_SEED").is_some() {
        return;
    }
    // What isn't simulated isn't tested.
    assert!(all.acknowledged > 50 * all.seeds, "{all}");
    assert!(all.deaths > 3 * all.seeds, "{all}");
    assert!(all.faults > 3 * all.seeds, "{all}");
    assert!(all.starts > 5 * all.seeds, "{all}");
    assert!(all.starts_failed > all.seeds / 5, "{all}");
    assert!(all.checkpoints > 5 * all.seeds, "{all}");
    assert!(all.refused > 0 && all.verdicts > all.starts, "{all}");
}
