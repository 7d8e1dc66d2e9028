//! Nothing that a caller records is readable in the server's files.

use std::sync::Arc;

use audit_testkit::plaintext::{CONTROL, EVENTS, needles, record};
use audit_testkit::scan::find_in_files;
use sqlx::{AssertSqlSafe, Row as _};

use crate::support::{Place, place_or_skip};

/// Everything that the server's disk may have of the last store: its tables, and the write-ahead log of the whole server.
async fn files(place: &Place, dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut raw = place.raw().await;
    sqlx::raw_sql("CHECKPOINT").execute(&mut raw).await.unwrap();
    let sql = format!(
        "SELECT pg_relation_filepath(c.oid) FROM pg_class c
         WHERE c.relnamespace = '{0}'::regnamespace AND c.relkind IN ('r', 'i')
           OR c.oid IN (SELECT reltoastrelid FROM pg_class WHERE relnamespace = '{0}'::regnamespace)
         UNION ALL SELECT 'pg_wal/' || name FROM (SELECT name FROM pg_ls_waldir() ORDER BY modification DESC LIMIT 4) w",
        place.schema()
    );
    let names = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(&mut raw)
        .await
        .unwrap();
    let mut files = Vec::new();
    for (n, row) in names.iter().enumerate() {
        let name: String = row.get(0);
        let row = sqlx::query("SELECT pg_read_binary_file($1, 0, 268435456, true)")
            .bind(&name)
            .fetch_one(&mut raw)
            .await
            .unwrap();
        // A segment may have been recycled meanwhile.
        let bytes: Option<Vec<u8>> = row.get(0);
        let path = dir.join(n.to_string());
        std::fs::write(&path, bytes.unwrap_or_default()).unwrap();
        files.push(path);
    }
    files
}

#[tokio::test]
async fn no_marker_of_an_event_is_found_in_the_raw_files() {
    let place = place_or_skip!();
    // Not a word that another test puts into the same write-ahead log.
    let marker = place.named("marker");
    let store = Arc::new(place.made().await);
    let log = record(store, place.state_dir(), &marker).await;
    log.close().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = files(&place, dir.path()).await;
    let control = find_in_files(&files, &[CONTROL]).unwrap();
    assert!(
        control.len() >= EVENTS,
        "the files that are searched don't hold the log"
    );
    let hits = find_in_files(&files, &needles(&marker)).unwrap();
    assert!(hits.is_empty(), "{hits:?}");
}
