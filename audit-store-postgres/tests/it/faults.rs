//! Fault pairs and simulations over PostgreSQL, in real time.

use std::time::Duration;

use audit_testkit::fault_pairs::{self, DiePoint, Sweep};

use crate::support::place_or_skip;

fn long() -> bool {
    std::env::var_os("AUDIT_TEST_LONG").is_some()
}

/// A run lasts about 200 units; what the log does by time must still take much less than one.
fn sweep() -> Sweep {
    Sweep {
        unit: Some(Duration::from_millis(5)),
        long: long(),
        ..Sweep::default()
    }
}

#[test]
fn a_process_that_dies_at_a_step_of_the_write_path_loses_invents_and_contradicts_nothing() {
    // Each run takes a second and more, so only the long run comes by every point, and often enough.
    let sweep = Sweep {
        every: if long() { 1 } else { 5 },
        hits_min: if long() { 10 } else { 0 },
        ..sweep()
    };
    let report = fault_pairs::deaths(&place_or_skip!(), &sweep);
    println!("{report}");
    assert!(report.hits.len() >= if long() { DiePoint::ALL.len() } else { 12 });
}

#[test]
fn a_call_that_fails_at_a_step_of_the_write_path_loses_invents_and_contradicts_nothing() {
    let sweep = Sweep {
        every: if long() { 1 } else { 25 },
        ..sweep()
    };
    println!("{}", fault_pairs::faults(&place_or_skip!(), &sweep));
}
