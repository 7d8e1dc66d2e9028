//! Copies, backups, restoring and mirrors, as an operator does them.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use audit_core::time::{IdSource as _, System};
use audit_testkit::crash::pause;
use audit_testkit::time::TestIds;
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Host, PATIENCE, names};

fn events(from: usize, to: usize) -> Vec<Value> {
    (from..to)
        .map(|n| {
            json!({
                "kind": "tool.call",
                "session_id": format!("session-{}", n % 5),
                "attributes": {"n": n, "text": "x".repeat(n % 300)},
            })
        })
        .collect()
}

/// What a store has to say for itself: its records as they are shown, and its latest checkpoint.
fn said(host: &Host, store: &str) -> (String, String) {
    let log = ["log", "--json", "-n", "100000", "--store", store];
    let records = host.run(log).exits(0).text();
    let checkpoint = host.run(["checkpoint", "--store", store]).exits(0).text();
    (records, checkpoint)
}

fn same(host: &Host, one: &str, other: &str) {
    let (one, other) = (said(host, one), said(host, other));
    assert!(one.0 == other.0, "the records differ");
    assert_eq!(one.1, other.1);
}

fn verified(host: &Host, store: &str) {
    let auditor = ["--auditor-key", "audit-trail-auditor.key"];
    let run = ["verify", "--content", "--store", store];
    host.run(run.iter().chain(&auditor)).exits(0);
}

const LOG: &str = "sqlite:audit-trail.db";

#[test]
fn a_copy_is_the_same_log_and_goes_on_where_it_ended() {
    let host = Host::with_log();
    host.emit_all(&events(0, 40));
    let copy = ["copy", "--to", "sqlite:copy.db"];
    let first = host.run(copy.iter().chain(&["--json"])).exits(0).json();
    assert_eq!(first["schema"], "audit-trail-copy/1");
    assert_eq!(first["entries"], first["size"]);
    assert_eq!(first["published"], first["size"]);
    same(&host, LOG, "sqlite:copy.db");
    verified(&host, "sqlite:copy.db");
    let again = host.run(copy.iter().chain(&["--json"])).exits(0).json();
    assert_eq!((&again["entries"], &again["bytes"]), (&json!(0), &json!(0)));
    assert_eq!(again["root"], first["root"]);
    host.emit_all(&events(40, 50));
    let text = host.run(copy).exits(0).text();
    assert!(text.contains("root hash"), "{text}");
    same(&host, LOG, "sqlite:copy.db");
    // The copy takes the log's place: it is the log.
    fs::remove_file(host.db()).unwrap();
    fs::rename(host.path("copy.db"), host.db()).unwrap();
    host.emit_all(&events(50, 60));
    verified(&host, LOG);
}

/// Entries in the copy so far.
fn copied(host: &Host) -> i64 {
    let path = host.path("copy.db");
    if !path.exists() {
        return -1;
    }
    let db = Connection::open(path).unwrap();
    db.query_row("SELECT count(*) FROM entry", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn a_copy_that_is_killed_is_finished_by_the_next_one() {
    let mut seed = [0; 8];
    System.fill(&mut seed);
    let seed = std::env::var("AUDIT_TEST_SEED")
        .map_or(u64::from_ne_bytes(seed), |text| text.parse().unwrap());
    println!("seed: AUDIT_TEST_SEED={seed}");
    let ids = TestIds::new(seed);
    let long = std::env::var("AUDIT_TEST_LONG").is_ok_and(|v| v == "1");
    let host = Host::with_log();
    host.emit_all(&events(0, if long { 30_000 } else { 6000 }));
    let (mut killed, mut within) = (0, 0);
    for _ in 0..if long { 60 } else { 12 } {
        let before = copied(&host);
        let running = host.spawn(["copy", "--to", "sqlite:copy.db"]);
        let moment = ids.number() % 3;
        if moment > 0 {
            // In the middle: something more is there.
            for _ in 0..2000 {
                if copied(&host) > before {
                    break;
                }
                pause(Duration::from_millis(1));
            }
        }
        pause(Duration::from_micros(ids.number() % 20_000));
        running.signal(Signal::KILL);
        if running.end().status.code().is_none() {
            killed += 1;
            within += usize::from(copied(&host) > before);
        } else {
            // It was faster: from the start again.
            for suffix in ["", "-wal", "-shm"] {
                drop(fs::remove_file(host.path(&format!("copy.db{suffix}"))));
            }
        }
    }
    println!("{killed} copies were killed, {within} of them while they wrote");
    assert!(within > 0, "no copy was killed while it wrote");
    host.run(["copy", "--to", "sqlite:copy.db"]).exits(0);
    same(&host, LOG, "sqlite:copy.db");
    verified(&host, "sqlite:copy.db");
}

#[test]
fn a_copy_between_different_logs_and_from_a_shorter_one_is_refused() {
    let host = Host::with_log();
    host.emit_all(&events(0, 10));
    host.run(["copy", "--to", "sqlite:older.db"]).exits(0);
    host.emit_all(&events(10, 20));
    host.run(["copy", "--to", "sqlite:newer.db"]).exits(0);
    host.run([
        "copy",
        "--from",
        "sqlite:older.db",
        "--to",
        "sqlite:newer.db",
    ])
    .fails(1, "the target")
    .hints("older");
    same(&host, LOG, "sqlite:newer.db");
    host.run(["copy", "--to", "sqlite:audit-trail.db"])
        .fails(2, "the same store");
    host.run(["copy", "--from", "sqlite:missing.db", "--to", "sqlite:x.db"])
        .fails(1, "no such file");
    let other = Host::new();
    other
        .run(["init", "--origin", "log.example/other", "--no-passphrase"])
        .exits(0);
    let there = format!("sqlite:{}", other.db().display());
    host.run(["copy", "--to", &there]).fails(2, "holds the log");
    // A log of the same name that somebody made anew.
    let forged = Host::with_log();
    let there = format!("sqlite:{}", forged.db().display());
    host.run(["copy", "--to", &there])
        .fails(1, "different histories from here on (index 0)")
        .hints("keep both as evidence");
    host.run(["copy", "--from", &there, "--to", "sqlite:y.db"])
        .fails(1, "");
}

#[test]
fn a_source_that_was_tampered_with_is_copied_up_to_the_first_bad_entry() {
    let host = Host::with_log();
    host.emit_all(&events(0, 30));
    let db = Connection::open(host.db()).unwrap();
    db.execute_batch("UPDATE entry SET parts = zeroblob(length(parts)) WHERE idx = 17")
        .unwrap();
    drop(db);
    host.run(["copy", "--to", "sqlite:copy.db"])
        .fails(1, "(index 17)")
        .hints("verify");
    let copied = host
        .run(["log", "--json", "-n", "1000", "--store", "sqlite:copy.db"])
        .exits(0);
    assert_eq!(copied.json_lines().len(), 17);
}

#[test]
fn a_backup_of_a_log_that_is_written_to_is_whole_and_verified() {
    let host = Host::with_log();
    host.emit_all(&events(0, 200));
    let mut writing = host.spawn(["emit", "-"]);
    let mut answered = 0;
    for round in 0..5 {
        for event in events(0, 20) {
            writing.write(format!("{event}\n").as_bytes());
        }
        writing.line();
        answered += 1;
        let name = format!("backup-{round}.db");
        host.run(["backup", "--to", &name]).exits(0);
        let (run, verdict) = host.verdict(&["--store", &format!("sqlite:{name}")]);
        // What the writer published since stands in the state file, and not in the backup: older, and otherwise right.
        assert!(
            verdict["size"].as_u64().unwrap() >= 200 + answered,
            "{}",
            run.err
        );
        let findings = verdict["findings"].as_array().unwrap();
        let rolled_back = |f: &&Value| f["check"] == "remembered" || f["check"] == "index";
        assert!(findings.iter().all(|f| rolled_back(&f)), "{findings:?}");
        assert_eq!(crate::support::mode(&host.path(&name)), 0o600);
    }
    writing.end().exits(0);
    host.run(["backup", "--to", "backup-0.db"])
        .fails(2, "is there already");
    let left: Vec<String> = names(&host.work());
    let left = left
        .iter()
        .filter(|name| name.contains(".new") || name.contains("-wal"));
    assert_eq!(left.count(), 0, "files were left beside the backups");
    // A damaged store gives none.
    let db = Connection::open(host.db()).unwrap();
    db.execute_batch("DELETE FROM token WHERE idx = 20")
        .unwrap();
    drop(db);
    host.run(["backup", "--to", "bad.db"]).exits(1);
    assert!(!host.path("bad.db").exists());
}

fn lose(host: &Host) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = host.db().into_os_string();
        name.push(suffix);
        drop(fs::remove_file(name));
    }
}

#[test]
fn a_lost_store_is_restored_and_the_log_goes_on() {
    let host = Host::with_log();
    host.emit_all(&events(0, 30));
    host.run(["backup", "--to", "backup.db"]).exits(0);
    // Over the store that it was made of nothing is lost; what was there is kept.
    host.run(["restore", "--from", "backup.db"]).exits(0);
    let kept = names(&host.work());
    assert!(
        kept.iter().any(|name| name.contains(".before-restore-")),
        "{kept:?}"
    );
    lose(&host);
    host.run(["emit", "tool.call"]).exits(1);
    host.run(["restore", "--from", "backup.db"]).exits(0);
    host.emit_all(&events(30, 40));
    verified(&host, LOG);
    assert_eq!(crate::support::mode(&host.db()), 0o600);
    // Now it is older than the store, and than what the publisher remembers.
    host.run(["restore", "--from", "backup.db"])
        .fails(1, "is not lost")
        .hints("older state");
    lose(&host);
    host.run(["restore", "--from", "backup.db"])
        .fails(1, "state file")
        .hints("--accept-rollback");
    assert!(!host.db().exists());
    // A host that knows nothing can't tell.
    let state = ["--state-dir", "elsewhere"];
    host.run(["restore", "--from", "backup.db"].iter().chain(&state))
        .fails(2, "nothing on this host")
        .hints("--checkpoint");
    let known = host
        .run(["checkpoint", "--store", "sqlite:backup.db"])
        .exits(0);
    fs::write(host.path("known.checkpoint"), known.out).unwrap();
    let with = ["--checkpoint", "known.checkpoint"];
    host.run(
        ["restore", "--from", "backup.db"]
            .iter()
            .chain(&state)
            .chain(&with),
    )
    .exits(0);
    same(&host, LOG, "sqlite:backup.db");
}

#[test]
fn a_backup_of_another_log_or_a_damaged_one_is_not_restored() {
    let host = Host::with_log();
    host.emit_all(&events(0, 30));
    host.run(["backup", "--to", "backup.db"]).exits(0);
    let other = Host::new();
    other
        .run(["init", "--origin", "log.example/other", "--no-passphrase"])
        .exits(0);
    let foreign = other.db();
    let before = said(&host, LOG);
    let foreign = foreign.to_str().unwrap();
    let refused = host.run(["restore", "--from", foreign]);
    assert_ne!(refused.status.code(), Some(0), "{}", refused.err);
    let db = Connection::open(host.path("backup.db")).unwrap();
    db.execute_batch("UPDATE entry SET time = time + 1 WHERE idx = 9")
        .unwrap();
    drop(db);
    host.run(["restore", "--from", "backup.db"]).exits(1);
    assert_eq!(said(&host, LOG), before);
}

#[test]
fn a_rollback_that_is_accepted_opens_a_successor_that_names_it() {
    let host = Host::with_log();
    host.emit_all(&events(0, 30));
    host.run(["backup", "--to", "backup.db"]).exits(0);
    let survives = host.run(["checkpoint"]).exits(0).text();
    host.emit_all(&events(30, 45));
    let lost = host.run(["checkpoint"]).exits(0).text();
    let state = fs::read(host.state_file()).unwrap();
    lose(&host);
    let restore = [
        "restore",
        "--from",
        "backup.db",
        "--accept-rollback",
        "--reason",
        "the disk died after the night's backup",
        "--by",
        "u-17",
        "--successor",
        "second",
        "--no-passphrase",
        "--successor-origin",
    ];
    host.run(restore.iter().chain(&["log.example/ward-7"]))
        .fails(2, "");
    let run = host
        .run(restore.iter().chain(&["log.example/ward-7-2"]))
        .exits(0);
    assert!(run.err.contains("receipts"), "{}", run.err);
    // The old log can be read, says that it was rolled back, and takes nothing more.
    assert_eq!(
        fs::read(host.state_dir().join(&names(&host.state_dir())[1]))
            .unwrap()
            .len(),
        state.len()
    );
    host.run(["verify"]).exits(1);
    host.run(["emit", "tool.call"]).exits(1);
    assert_eq!(host.run(["checkpoint"]).exits(0).text(), survives);
    // The new one names what was lost, why, and who took it.
    let config = ["--config", "second/audit-trail.toml"];
    let first = host
        .run(["show", "0"].iter().chain(&config))
        .exits(0)
        .text();
    for text in [
        "u-17",
        "the disk died after the night's backup",
        "log.example/ward-7",
    ] {
        assert!(first.contains(text), "{text} in {first}");
    }
    let note = host.run(
        ["show", "0", "--payload", "lost_checkpoint"]
            .iter()
            .chain(&config),
    );
    assert_eq!(note.exits(0).text(), lost);
    let entry = host
        .run(["show", "0", "--entry"].iter().chain(&config))
        .exits(0)
        .json();
    let lines: Vec<&str> = lost.lines().collect();
    assert_eq!(entry["v"], 2);
    assert_eq!(entry["log"]["predecessor"]["origin"], lines[0]);
    assert_eq!(
        entry["log"]["predecessor"]["lost"]["size"].to_string(),
        lines[1]
    );
    let entry = entry.to_string();
    assert!(
        !entry.contains("u-17") && !entry.contains("disk died"),
        "{entry}"
    );
    let emit = ["emit", "tool.call", "--session", "s-1"];
    host.run(emit.iter().chain(&config)).exits(0);
    let verify = [
        "verify",
        "--content",
        "--auditor-key",
        "audit-trail-auditor.key",
    ];
    let verdict = host.run(verify.iter().chain(&config)).exits(0).text();
    assert!(verdict.contains("succeeds"), "{verdict}");
    let bundle = ["bundle", "--event", "0", "-o", "first.tar"];
    host.run(bundle.iter().chain(&config)).exits(0);
    second_verifier(&host, "first.tar");
    // It has nothing left to lose: the same again is refused.
    host.run(restore.iter().chain(&["log.example/ward-7-3"]))
        .fails(2, "is there already");
}

/// The verifier in Python takes a bundle too.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn second_verifier(host: &Host, name: &str) {
    let Some(python) = std::env::var_os("AUDIT_TEST_PYTHON") else {
        assert!(
            std::env::var_os("AUDIT_FIXTURES").is_none(),
            "AUDIT_TEST_PYTHON is not set: a Python that has the package cryptography"
        );
        println!("skipped: AUDIT_TEST_PYTHON is not set");
        return;
    };
    let settings = fs::read_to_string(host.path("second/audit-trail.toml")).unwrap();
    let setting = |name: &str| {
        let line = settings.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim_matches('"').to_owned()
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../verifiers/python/verify_bundle.py");
    let out = std::process::Command::new(python)
        .arg(script)
        .arg(host.path(name))
        .args([
            "--vkey",
            &setting("vkey = "),
            "--opened",
            &setting("opened = "),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{said}");
}

/// Waits until the store has the checkpoint `wanted`.
fn comes_to(host: &Host, store: &str, wanted: &str) {
    let mut waited = Duration::ZERO;
    loop {
        let run = host.run(["checkpoint", "--store", store]);
        if run.text() == wanted {
            return;
        }
        assert!(
            waited < PATIENCE,
            "{store} never came to\n{wanted}\n{}",
            run.err
        );
        pause(Duration::from_millis(100));
        waited += Duration::from_millis(100);
    }
}

#[test]
fn a_mirror_follows_the_log_and_a_lost_log_is_rebuilt_from_it() {
    let host = Host::with_log();
    host.emit_all(&events(0, 20));
    let mut mirror = host.spawn(["mirror", "--to", "sqlite:mirror.db"]);
    mirror.note_with("mirroring to");
    for round in 0..3 {
        host.emit_all(&events(20 * round, 20 * round + 20));
        let checkpoint = host.run(["checkpoint"]).exits(0).text();
        comes_to(&host, "sqlite:mirror.db", &checkpoint);
    }
    mirror.signal(Signal::TERM);
    mirror.end().exits(0);
    same(&host, LOG, "sqlite:mirror.db");
    verified(&host, "sqlite:mirror.db");
    let before = said(&host, LOG);
    lose(&host);
    host.run(["copy", "--from", "sqlite:mirror.db", "--to", LOG])
        .exits(0);
    assert_eq!(said(&host, LOG), before);
    host.emit_all(&events(60, 70));
    verified(&host, LOG);
}

fn configure(host: &Host, lines: &str) {
    let mut config = fs::OpenOptions::new()
        .append(true)
        .open(host.path("audit-trail.toml"))
        .unwrap();
    writeln!(config, "{lines}").unwrap();
}

#[test]
fn serve_mirrors_as_configured_and_doesnt_care_if_it_cant() {
    let host = Host::with_log();
    let folder = host.path("far");
    configure(
        &host,
        &format!("[mirror]\nurl = \"sqlite:{}/mirror.db\"", folder.display()),
    );
    let store = format!("sqlite:{}/mirror.db", folder.display());
    let doctor = host.run(["doctor"]);
    assert!(doctor.text().contains("warn  mirror"), "{}", doctor.text());
    let shown = host.run(["config", "show"]).exits(0).text();
    assert!(shown.contains("mirror.url"), "{shown}");
    let serving = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        "x=http://127.0.0.1:9",
    ];
    let mut gateway = host.spawn(serving);
    // Said before or behind the address: whichever comes first, the log is open.
    gateway.note_with("trying again");
    // Beside it, events are recorded as ever.
    host.emit_all(&events(0, 10));
    fs::create_dir(&folder).unwrap();
    gateway.note_with("works again");
    let checkpoint = host.run(["checkpoint"]).exits(0).text();
    comes_to(&host, &store, &checkpoint);
    host.emit_all(&events(10, 20));
    gateway.signal(Signal::TERM);
    gateway.end().exits(0);
    // The last turn takes the end of the run with it.
    same(&host, LOG, &store);
    let doctor = host.run(["doctor"]);
    assert!(doctor.text().contains("ok    mirror"), "{}", doctor.text());
    // A log that was rolled back shows by its mirror.
    rolled_back(&host, &folder);
}

fn rolled_back(host: &Host, folder: &Path) {
    let db = Connection::open(host.db()).unwrap();
    db.execute_batch("DELETE FROM checkpoint WHERE size = (SELECT max(size) FROM checkpoint)")
        .unwrap();
    drop(db);
    let doctor = host.run(["doctor"]);
    assert!(doctor.text().contains("FAIL  mirror"), "{}", doctor.text());
    let to = format!("sqlite:{}/mirror.db", folder.display());
    host.run(["copy", "--to", &to])
        .fails(1, "that the source lacks");
}
