//! The tamper matrix on the store in memory: whatever is changed in it, the verifier says so.

use audit_testkit::tamper::{self, Backend as _, Memory, SampleLog, Tables as _};

const ORIGIN: &str = "log.example/clinic";

#[test]
fn every_changed_cell_is_found() {
    let log = SampleLog::new(ORIGIN);
    let report = tamper::cells(&Memory, &log);
    println!("{report}");
    report.assert_detected();
    let tables = Memory.load(&log.contents).unwrap().tables();
    report.assert_every_column(&tables, 3);
}

#[test]
fn every_deleted_duplicated_or_moved_row_is_found() {
    let report = tamper::rows(&Memory, &SampleLog::new(ORIGIN));
    println!("{report}");
    report.assert_detected();
}

#[test]
fn every_mix_with_another_copy_is_found() {
    let (log, other) = (
        SampleLog::new(ORIGIN),
        SampleLog::small("log.example/other"),
    );
    let report = tamper::copies(&Memory, &log, &other);
    println!("{report}");
    report.assert_detected();
}

#[test]
fn every_attack_is_found_by_whom_it_says() {
    let (log, other) = (
        SampleLog::new(ORIGIN),
        SampleLog::small("log.example/other"),
    );
    let report = tamper::attacks(&Memory, &log, &other);
    println!("{report}");
    report.assert_detected();
}
