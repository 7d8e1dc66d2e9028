//! A log on a disk or a database, a mirror of it in a bucket with Object Lock, and the loss of the first.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use audit_testkit::crash::pause;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::engines::Place;
use crate::support::{Host, ORIGIN, PATIENCE, Running};

const INIT: [&str; 5] = ["init", "--origin", ORIGIN, "--no-passphrase", "--store"];

fn events(from: usize, to: usize) -> Vec<Value> {
    let event = |n| {
        json!({
            "kind": "tool.call",
            "session_id": format!("session-{}", n % 3),
            "attributes": {"n": n},
        })
    };
    (from..to).map(event).collect()
}

fn emit(place: &Place, host: &Host, events: &[Value]) {
    let mut running = place.start_with_input(host, &["emit", "-"]);
    for event in events {
        running.write(format!("{event}\n").as_bytes());
    }
    let answers = running.end().exits(0).json_lines();
    assert_eq!(answers.len(), events.len());
}

/// What a store has to say for itself, with the keys: its records, its latest checkpoint, its root hash.
fn said(place: &Place, host: &Host, store: &str) -> (String, String, Value) {
    let run = |args: &[&str]| {
        place
            .run(host, &[args, &["--store", store]].concat())
            .exits(0)
    };
    let records = run(&["log", "--json", "-n", "100000"]).text();
    let verify = ["verify", "--json", "--content", "--full", "--auditor-key"];
    let verdict = run(&[&verify[..], &["audit-trail-auditor.key"]].concat()).json();
    assert_eq!(verdict["outcome"], "held");
    (
        records,
        run(&["checkpoint"]).text(),
        verdict["checkpoint"].clone(),
    )
}

/// Waits until the mirror has the log's latest checkpoint.
fn comes_after(place: &Place, host: &Host, mirror: &str) {
    let wanted = place.run(host, &["checkpoint"]).exits(0).text();
    let mut waited = Duration::ZERO;
    loop {
        let run = place.run(host, &["checkpoint", "--store", mirror]);
        if run.text() == wanted {
            return;
        }
        assert!(
            waited < PATIENCE,
            "the mirror never came after\n{}",
            run.err
        );
        pause(Duration::from_millis(100));
        waited += Duration::from_millis(100);
    }
}

/// Mirrors in the background by `start`, loses the log by `lose`, and goes on from the bucket.
fn lost_and_rebuilt(
    place: &Place,
    host: &Host,
    log: &str,
    mirror: &str,
    start: &[&str],
    lose: impl FnOnce(),
) {
    emit(place, host, &events(0, 20));
    let begin = || -> Running {
        let mut running = place.start(host, start);
        running.note_with("mirroring to");
        running
    };
    let running = begin();
    for round in 1..4 {
        emit(place, host, &events(20 * round, 20 * round + 20));
        comes_after(place, host, mirror);
    }
    running.signal(Signal::TERM);
    running.end().exits(0);
    // What `serve` wrote when it ended is in the mirror too; the log isn't written to any more.
    place.run(host, &["copy", "--to", mirror]).exits(0);
    let before = said(place, host, log);
    assert_eq!(said(place, host, mirror), before);
    let state = fs::read(host.state_file()).unwrap();
    lose();
    let gone = place.run(host, &["verify"]);
    assert_ne!(gone.status.code(), Some(0), "the log is still there");

    place
        .run(host, &["copy", "--from", mirror, "--to", log])
        .exits(0);
    assert_eq!(said(place, host, log), before);
    assert_eq!(fs::read(host.state_file()).unwrap(), state);
    // The log goes on, its publisher with what it remembers, and so does the mirror.
    emit(place, host, &events(80, 100));
    assert_ne!(fs::read(host.state_file()).unwrap(), state);
    let after = said(place, host, log);
    assert!(
        after.0.starts_with(&before.0),
        "the records before are others"
    );
    assert!(after.2["size"].as_u64() > before.2["size"].as_u64());
    let running = begin();
    comes_after(place, host, mirror);
    running.signal(Signal::TERM);
    running.end().exits(0);
    let doctor = place.run(host, &["doctor"]).exits(0).text();
    assert!(doctor.contains("ok    mirror"), "{doctor}");
    place
        .run(host, &["verify", "--content", "--store", mirror])
        .exits(0);
    // And the bucket holds it against deletion.
    let status = ["retention", "status", "--json", "--at", mirror];
    let status = place.run(host, &status).exits(0).json();
    assert_eq!(status["unlocked"], 0, "{status}");
}

fn configure(host: &Host, mirror: &str) {
    let mut config = fs::OpenOptions::new()
        .append(true)
        .open(host.path("audit-trail.toml"))
        .unwrap();
    writeln!(config, "[mirror]\nurl = \"{mirror}\"").unwrap();
}

#[test]
fn a_log_in_a_file_that_serve_mirrors_into_a_bucket_survives_the_loss_of_the_file() {
    let Some(place) = Place::s3() else { return };
    let host = Host::new();
    let log = format!("sqlite:{}", host.db().display());
    place.run(&host, &[&INIT[..], &[&log]].concat()).exits(0);
    configure(&host, &place.url);
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        "x=http://127.0.0.1:9",
    ];
    lost_and_rebuilt(&place, &host, &log, &place.url, &serve, || {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = host.db().into_os_string();
            name.push(suffix);
            drop(fs::remove_file(name));
        }
        assert!(!host.db().exists());
    });
}

#[test]
fn a_log_on_postgresql_that_is_mirrored_into_a_bucket_survives_the_loss_of_its_schema() {
    let (Some(bucket), Some(database)) = (Place::s3(), Place::postgres()) else {
        return;
    };
    let (log, mirror) = (database.url.clone(), bucket.url.clone());
    let place = bucket.beside(database);
    let host = Host::new();
    place.run(&host, &[&INIT[..], &[&log]].concat()).exits(0);
    configure(&host, &mirror);
    lost_and_rebuilt(&place, &host, &log, &mirror, &["mirror"], || {
        let (_, schema) = log.split_once("?schema=").unwrap();
        let url = std::env::var("AUDIT_TEST_POSTGRES_URL").unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let mut db = sqlx::PgConnection::connect(&url).await.unwrap();
            let drop = format!("DROP SCHEMA {schema} CASCADE");
            sqlx::raw_sql(sqlx::AssertSqlSafe(drop))
                .execute(&mut db)
                .await
                .unwrap();
            db.close().await.unwrap();
        });
    });
}
