//! A file of the first SQLite layout, as version 0.1.0 left it: later versions read it, verify it and go on with it.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Host, chmod};

const ORIGIN: &str = "layout-1.example/log";
const VKEY: &str = "layout-1.example/log+a428fa4b+Afr06V6m2Bbzms/FSU1fT1jutB96qvA2Zs4j/WgnUZMW";
const OPENED: &str = "007b82d3811e2ddcc0a1805d6dfa4a32d612fefd1ec6aacfd24a44b0025faf96";
const STATE: &str = "layout-1.example_log-7ee6f463.checkpoint";
const SIZE: u64 = 35;
const ALL: [&str; 4] = [
    "--auditor-key",
    "audit-trail-auditor.key",
    "--content",
    "--full",
];

/// The host on which the old version ran.
fn old_host() -> Host {
    let host = Host::new();
    let data =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../audit-store-sqlite/tests/data/layout-1");
    fs::create_dir_all(host.state_dir()).unwrap();
    for (from, to) in [
        ("log.db", host.db()),
        ("ring.key", host.path("audit-trail.key")),
        ("auditor.key", host.path("audit-trail-auditor.key")),
        (STATE, host.state_dir().join(STATE)),
    ] {
        fs::write(&to, fs::read(data.join(from)).unwrap()).unwrap();
        chmod(&to, 0o600);
    }
    let config = format!(
        "store = \"sqlite:audit-trail.db\"\nkey = \"file:audit-trail.key\"\nvkey = \"{VKEY}\"\nopened = \"{OPENED}\"\n"
    );
    fs::write(host.path("audit-trail.toml"), config).unwrap();
    host
}

fn holds(host: &Host, size: u64) -> Value {
    let (run, verdict) = host.verdict(&ALL);
    run.exits(0);
    assert_eq!(verdict["outcome"], "held");
    assert_eq!(verdict["size"], size);
    verdict
}

#[test]
fn a_log_of_layout_1_is_not_verified_or_continued() {
    let host = old_host();
    let before = fs::read(host.db()).unwrap();
    holds(&host, SIZE);
    assert!(
        before == fs::read(host.db()).unwrap(),
        "verifying changed the file"
    );
    let old = host.records(&[]);
    assert_eq!(old.len() as u64, SIZE);

    let more: Vec<Value> = (0..3)
        .map(|n| json!({"kind": "tool.call", "session_id": "session 1", "attributes": {"n": n}}))
        .collect();
    let answers = host.emit_all(&more);
    // Behind the opening of the new run.
    assert_eq!(answers[0]["index"], SIZE + 1);
    holds(&host, SIZE + 5);
    // What was there reads as before, and stands beside what came.
    let new = host.records(&[]);
    assert_eq!(new.len() as u64, SIZE + 5);
    assert!(old.iter().all(|record| new.contains(record)));
    let found = host.records(&["--session", "session 1"]);
    assert_eq!(found.len(), 10 + 3);

    let (run, verdict) = host.verdict(&["--vkey", VKEY]);
    run.exits(0);
    assert_eq!(verdict["origin"], ORIGIN);
}
