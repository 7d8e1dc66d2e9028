//! Nothing that a caller records is readable in the store's files.

use std::sync::Arc;

use audit_store_sqlite::{OpenMode, SqliteStore};
use audit_testkit::plaintext::{CONTROL, EVENTS, needles, record};
use audit_testkit::scan::{files_under, find_in_files};

use crate::support::Place;

#[tokio::test]
async fn no_marker_of_an_event_is_found_in_the_raw_files() {
    let place = Place::new();
    let store = Arc::new(SqliteStore::create_file(place.next()).unwrap());
    let log = record(store, place.state_dir(), "MARKER").await;
    let control = find_in_files(&files_under(place.dir()).unwrap(), &[CONTROL]).unwrap();
    assert!(
        control.len() >= EVENTS,
        "the files that are searched don't hold the log"
    );
    log.close().await.unwrap();
    for _ in 0..2 {
        let files = files_under(place.dir()).unwrap();
        let hits = find_in_files(&files, &needles("MARKER")).unwrap();
        assert!(hits.is_empty(), "{hits:?}");
        // And once more when SQLite has moved its log into the main file.
        drop(SqliteStore::open(place.path(), OpenMode::ReadWrite).unwrap());
    }
}
