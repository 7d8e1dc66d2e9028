//! Nothing that a caller records is readable in what the server keeps.

use std::sync::Arc;

use audit_testkit::plaintext::{CONTROL, EVENTS, needles, record};
use audit_testkit::scan::find_in_files;
use http::Method;

use crate::support::place;

#[tokio::test(flavor = "multi_thread")]
async fn no_marker_of_an_event_is_found_in_any_object() {
    let Some(place) = place().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = record(Arc::new(place.store()), dir.path().join("state"), "MARKER").await;
    log.close().await.unwrap();

    // Every version of every object, as the server gives it out; and what it keeps, where its folder is known.
    let files = dir.path().join("objects");
    std::fs::create_dir(&files).unwrap();
    let mut paths = Vec::new();
    for (n, key) in place.keys().await.into_iter().enumerate() {
        let target = format!("/{}/{key}", place.bucket);
        let object = place.server.send(Method::GET, &target, &[], "").await;
        let bytes = object.into_body().bytes().await.unwrap();
        let path = files.join(n.to_string());
        // The name is searched with the bytes.
        std::fs::write(&path, [key.as_bytes(), b"\n", &bytes].concat()).unwrap();
        paths.push(path);
    }
    assert!(paths.len() > 8, "hardly any objects were found");
    let control = find_in_files(&paths, &[CONTROL]).unwrap();
    assert!(
        control.len() >= EVENTS,
        "what is searched doesn't hold the log"
    );
    let hits = find_in_files(&paths, &needles("MARKER")).unwrap();
    assert!(hits.is_empty(), "{hits:?}");
}
