//! Several processes on one file: this test binary runs itself.

use std::process::Command;

use audit_core::ErrorKind;
use audit_core::store::Store as _;
use audit_store_sqlite::{OpenMode, SqliteStore};
use audit_testkit::processes::{self, Share, whole};
use audit_testkit::sample;
use rusqlite::Connection;

use crate::support::Place;

const STORE: &str = "AUDIT_TEST_STORE";

fn again(place: &Place) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "processes::a_writer_of_its_own", "--nocapture"])
        .env(STORE, place.path());
    command
}

/// Not a test: what the other processes run.
#[tokio::test]
async fn a_writer_of_its_own() {
    let (Ok(path), Some(share)) = (std::env::var(STORE), Share::given()) else {
        return;
    };
    let store = SqliteStore::open(path, OpenMode::ReadWrite).unwrap();
    share.write(&store).await;
}

#[tokio::test]
async fn four_processes_write_one_log() {
    let place = Place::new();
    let store = place.created().await;
    processes::four_write_one_log(&store, || again(&place)).await;
}

#[tokio::test]
async fn what_a_killed_process_was_told_is_durable() {
    let place = Place::new();
    let store = place.created().await;
    processes::what_a_killed_one_was_told_is_durable(&store, || again(&place)).await;
}

#[tokio::test]
async fn a_file_that_another_program_keeps_locked_is_unavailable() {
    let place = Place::new();
    let store = place.filled(3).await;
    let raw = Connection::open(place.path()).unwrap();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let appended = store
        .append(Box::new(|head| sample::batch(head, 1, 2)))
        .await;
    let error = appended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    raw.execute_batch("ROLLBACK").unwrap();
    assert_eq!(whole(&store).await, 3);
    store
        .append(Box::new(|head| sample::batch(head, 1, 2)))
        .await
        .unwrap();
}
