//! Fault pairs and simulations over SQLite files, which nothing here needs to survive a power cut.

use std::path::Path;

use audit_testkit::fault_pairs::{self, DiePoint, Sweep};
use audit_testkit::simulation;

use crate::support::Place;

/// In memory, where there is such a place: each run makes a file and commits dozens of times.
fn place() -> Place {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        Place::within(memory)
    } else {
        Place::new()
    }
}

fn long() -> bool {
    std::env::var_os("AUDIT_TEST_LONG").is_some()
}

#[test]
fn a_process_that_dies_at_a_step_of_the_write_path_loses_invents_and_contradicts_nothing() {
    let sweep = Sweep {
        long: long(),
        ..Sweep::default()
    };
    let report = fault_pairs::deaths(&place(), &sweep);
    println!("{report}");
    assert_eq!(report.hits.len(), DiePoint::ALL.len());
}

#[test]
fn a_call_that_fails_at_a_step_of_the_write_path_loses_invents_and_contradicts_nothing() {
    let sweep = Sweep {
        every: if long() { 1 } else { 5 },
        long: long(),
        ..Sweep::default()
    };
    println!("{}", fault_pairs::faults(&place(), &sweep));
}

#[test]
fn processes_that_append_fail_die_and_start_again_keep_what_they_acknowledged() {
    let seeds = 0..if long() { 400 } else { 10 };
    println!("{}", simulation::run_seeds(seeds, &place()));
}
