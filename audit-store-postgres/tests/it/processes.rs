//! Several processes on one log: this test binary runs itself.

use audit_store_postgres::{OpenOptions, PostgresStore};
use audit_testkit::processes::{self, Share};

use crate::crash::{again, given};
use crate::support::place_or_skip;

const WRITER: &str = "processes::a_writer_of_its_own";

/// Not a test: what the other processes run.
#[tokio::test]
async fn a_writer_of_its_own() {
    let (Some(url), Some(share)) = (given(), Share::given()) else {
        return;
    };
    let store = PostgresStore::open(&url, OpenOptions::read_write())
        .await
        .unwrap();
    share.write(&store).await;
}

#[tokio::test]
async fn four_processes_write_one_log() {
    let place = place_or_skip!();
    let store = place.created().await;
    processes::four_write_one_log(&store, || again(WRITER, &place)).await;
}

#[tokio::test]
async fn what_a_killed_process_was_told_is_durable() {
    let place = place_or_skip!();
    let store = place.created().await;
    processes::what_a_killed_one_was_told_is_durable(&store, || again(WRITER, &place)).await;
}
