//! `log`, `show`, `prove`, `checkpoint`, `export`: what is written can be read, by those who may.

use std::fs;

use audit_core::time::{Clock as _, System};
use audit_tlog::checkpoint;
use audit_tlog::tlog_proof::TlogProof;
use audit_verify::{Outcome, Policy, bundle, verify};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{Host, names};

/// A log with six events, at the indexes 3 to 8.
pub(crate) fn six() -> (Host, Vec<Value>) {
    let host = Host::with_log();
    let event = |kind: &str, day: u8, session: &str, actor: &str, subject: &str, model: &str| {
        json!({
            "kind": kind,
            "time": format!("2026-01-0{day}T12:00:00Z"),
            "session_id": session,
            "actor": {"id": actor, "kind": "agent"},
            "subject": subject,
            "refs": {"model_id": model},
            "attributes": {"day": day},
            "payloads": [{"name": "note", "media": "application/json", "text": format!("{{\"day\":{day}}}")}],
        })
    };
    let receipts = host.emit_all(&[
        event("tool.call", 1, "s-1", "anna", "p-1", "m-1"),
        event("tool.result", 2, "s-1", "bert", "p-2", "m-1"),
        event("tool.call", 3, "s-2", "anna", "p-1", "m-2"),
        event("tool.result", 4, "s-2", "bert", "p-2", "m-2"),
        event("tool.call", 5, "s-1", "anna", "p-2", "m-2"),
        json!({"kind": "note", "time": "2026-01-06T12:00:00Z",
            "attributes": {"text": "\u{1b}[2Jgone\r\n\u{7}  7 lines\u{202e}dlo"}}),
    ]);
    (host, receipts)
}

#[test]
fn every_filter_of_log_finds_what_it_names_and_nothing_else() {
    let (host, _) = six();
    let cases: &[(&[&str], &[u64])] = &[
        (&[], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (&["--session", "s-1"], &[3, 4, 7]),
        (&["--actor", "bert"], &[4, 6]),
        (&["--subject", "p-1"], &[3, 5]),
        (&["--ref", "model_id=m-2"], &[5, 6, 7]),
        (&["--kind", "tool.call"], &[3, 5, 7]),
        (&["--kind", "writer.closed"], &[1, 9]),
        (
            &[
                "--since",
                "2026-01-03T12:00:00Z",
                "--until",
                "2026-01-05T12:00:00Z",
            ],
            &[5, 6],
        ),
        (&["--until", "2026-01-02T13:00:00+01:00"], &[3]),
        (&["--since", "10m"], &[0, 1, 2, 9]),
        (&["--session", "s-1", "--actor", "anna"], &[3, 7]),
        (
            &[
                "--session",
                "s-1",
                "--kind",
                "tool.call",
                "--subject",
                "p-2",
            ],
            &[7],
        ),
        (&["--session", "s-1", "--limit", "2"], &[4, 7]),
        (&["-n", "1"], &[9]),
        (&["--session", "s-3"], &[]),
        (&["--session", "s-"], &[]),
    ];
    for (filter, wanted) in cases {
        let run = host.run(["log", "--json"].iter().chain(*filter)).exits(0);
        let found: Vec<u64> = run
            .json_lines()
            .iter()
            .map(|r| r["index"].as_u64().unwrap())
            .collect();
        assert_eq!(&found, wanted, "log --json {filter:?}");
        let table = host.run(["log"].iter().chain(*filter)).exits(0);
        let rows: Vec<u64> = table
            .text()
            .lines()
            .skip(1)
            .map(|row| row.split_whitespace().next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(&rows, wanted, "log {filter:?}");
    }
    for (args, why) in [
        (["--kind", "Tool"], "kind"),
        (["--since", "soon"], "soon"),
        (["--ref", "model_id"], "NAME=VALUE"),
    ] {
        host.run(["log"].iter().chain(&args)).fails(2, why);
    }
}

#[test]
fn the_table_says_who_did_what_and_recorded_text_steers_no_terminal() {
    let (host, _) = six();
    let table = host.run(["log"]).exits(0).text();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines.len(),
        11,
        "recorded text made lines of its own:\n{table}"
    );
    for word in ["INDEX", "TIME", "KIND", "SESSION", "ACTOR"] {
        assert!(lines[0].contains(word), "{}", lines[0]);
    }
    let row = lines
        .iter()
        .find(|l| l.trim_start().starts_with("3 "))
        .unwrap();
    for word in ["2026-01-01 12:00:00", "tool.call", "s-1", "anna", "day=1"] {
        assert!(row.contains(word), "{word}: {row}");
    }
    let json =
        host.run(["log", "--json"]).exits(0).text() + &host.run(["show", "8"]).exits(0).text();
    for text in [&table, &json] {
        assert!(
            !text
                .chars()
                .any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'),
            "what steers a terminal or turns a line around reaches it: {text:?}"
        );
    }
    let text = host.run(["show", "8"]).exits(0).json()["event"]["attributes"]["text"].clone();
    assert_eq!(
        text, "\u{1b}[2Jgone\r\n\u{7}  7 lines\u{202e}dlo",
        "escaping changed what was recorded"
    );
}

#[test]
fn the_end_of_a_pipe_is_no_error() {
    let (host, _) = six();
    let mut command = host.command(["log", "--json", "-n", "100000"]);
    let mut child = command.spawn().unwrap();
    // As `| true` does: the reader is gone before the first line.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn log_follow_shows_what_another_process_writes() {
    let (host, _) = six();
    let mut follow = host.spawn(["log", "--follow", "--json", "--kind", "tool.call"]);
    for index in [3, 5, 7] {
        let record: Value = serde_json::from_str(&follow.line()).unwrap();
        assert_eq!(record["index"], index);
    }
    for n in 0..3 {
        let session = format!("later {n}");
        host.run(["emit", "tool.call", "--session", &session])
            .exits(0);
        let record: Value = serde_json::from_str(&follow.line()).unwrap();
        assert_eq!(record["event"]["session_id"], session);
    }
    follow.signal(Signal::INT);
    follow.end().exits(0);
}

#[test]
fn an_event_is_the_same_by_id_and_by_index() {
    let (host, receipts) = six();
    let id = receipts[1]["event"].as_str().unwrap();
    let by_id = host.run(["show", id]).exits(0);
    let by_index = host.run(["show", "4"]).exits(0);
    assert_eq!(by_id.text(), by_index.text());
    let shown = by_id.json();
    assert_eq!(shown["index"], 4);
    assert_eq!(shown["event"]["actor"]["id"], "bert");
    assert_eq!(shown["proof"]["state"], "published");
    assert_eq!(shown["proof"]["key"], host.vkey().to_string());
    assert_eq!(shown["proof"]["tree_size"], 10);
    assert_eq!(
        host.run(["show", id, "--payload", "note"]).exits(0).text(),
        "{\"day\":2}"
    );

    // The entry is what is hashed, with nothing around it.
    let entry = host.run(["show", id, "--entry"]).exits(0).out;
    let leaf = Sha256::new()
        .chain_update([0])
        .chain_update(&entry)
        .finalize();
    assert_eq!(audit_core::hex::encode(&leaf), receipts[1]["leaf_hash"]);
    assert_eq!(shown["leaf_hash"], receipts[1]["leaf_hash"]);
    let entry: Value = serde_json::from_slice(&entry).unwrap();
    assert_eq!(entry["event"], id);
    for hidden in ["bert", "s-1", "p-2", "m-1"] {
        assert!(
            !entry.to_string().contains(hidden),
            "the entry shows {hidden}: {entry}"
        );
    }

    host.run(["show", id, "--payload", "body"])
        .fails(1, "body")
        .hints("note");
    host.run(["show", "99"]).fails(1, "99");
    host.run(["show", "01890000-0000-7000-8000-000000000001"])
        .fails(1, "01890000-0000-7000-8000-000000000001");
    host.run(["show", "the last one"])
        .fails(2, "neither an event id nor a leaf index");
    host.run(["show", id, "--entry", "--payload", "note"])
        .exits(2);
}

#[test]
fn a_proof_and_an_entry_verify_without_the_store() {
    let (host, receipts) = six();
    let id = receipts[2]["event"].as_str().unwrap();
    fs::create_dir(host.path("out")).unwrap();
    let run = host.run(["prove", id, "--out", "out"]).exits(0);
    let files: Vec<String> = run.text().lines().map(str::to_owned).collect();
    assert_eq!(
        files,
        [format!("out/{id}.tlog-proof"), format!("out/{id}.entry")]
    );
    assert!(run.err.contains("audit-verify proof"), "{}", run.err);
    let proof = TlogProof::parse(&fs::read(host.path(&files[0])).unwrap()).unwrap();
    let entry = fs::read(host.path(&files[1])).unwrap();
    let checkpoint = audit_verify::proof(&proof, &entry, &host.vkey()).unwrap();
    assert_eq!((proof.index, checkpoint.size), (5, 10));
    let other = host.run(["show", "4", "--entry"]).exits(0).out;
    let refused = audit_verify::proof(&proof, &other, &host.vkey()).unwrap_err();
    assert!(
        refused.is_contradiction(),
        "the proof holds for another entry"
    );

    host.run(["prove", "99"]).fails(1, "99");
    host.run(["prove", "3", "--out", "nowhere"])
        .fails(1, "nowhere");
}

#[test]
fn checkpoint_prints_the_one_that_was_signed_last() {
    let (host, _) = six();
    let note = host.run(["checkpoint"]).exits(0).out;
    let (checkpoint, _) = checkpoint::open(&note, host.vkey().name(), &host.vkey()).unwrap();
    assert_eq!(checkpoint.size, 10);
    assert_eq!(
        note,
        fs::read(host.state_file()).unwrap(),
        "the publisher remembers another one"
    );
    // A checkpoint of another key isn't handed out under this log's name.
    let other = Host::with_log();
    let vkey = other.vkey().to_string();
    let config = fs::read_to_string(host.path("audit-trail.toml")).unwrap();
    let swapped = config.replace(&host.vkey().to_string(), &vkey);
    fs::write(host.path("audit-trail.toml"), swapped).unwrap();
    host.run(["checkpoint"])
        .fails(1, "not signed by this log's key");
    host.run(["prove", "3"]).fails(1, "");
    assert_eq!(
        host.run(["show", "3"]).exits(0).json()["proof"]["state"],
        "wrong"
    );
}

#[test]
fn an_exported_log_verifies_elsewhere() {
    let (host, _) = six();
    host.run(["export", "all.bundle"]).exits(0);
    host.run(["export", "lean.bundle", "--without-parts"])
        .exits(0);
    for (name, parts) in [("all.bundle", true), ("lean.bundle", false)] {
        let file = fs::File::open(host.path(name)).unwrap();
        let evidence = bundle::Reader::open(file).unwrap();
        let verdict = verify(
            &evidence,
            &Policy::public(host.vkey(), System.now()),
            &mut (),
        );
        assert_eq!(verdict.outcome(), Outcome::Held, "{name}: {verdict}");
        assert_eq!(verdict.size(), 10);
        assert_eq!(verdict.counts().parts > 0, parts, "{name}");
        let text = fs::read_to_string(host.path(name)).unwrap();
        for hidden in ["anna", "s-1", "p-1", "day"] {
            assert!(!text.contains(hidden), "{name} shows {hidden}");
        }
    }
    // What is there may be evidence.
    let before = fs::read(host.path("all.bundle")).unwrap();
    host.run(["export", "all.bundle"]).fails(2, "all.bundle");
    assert_eq!(fs::read(host.path("all.bundle")).unwrap(), before);
    host.run(["export", "nowhere/x.bundle"])
        .fails(2, "nowhere/x.bundle");
    // An export that can't be finished leaves no half of a file.
    let db = rusqlite::Connection::open(host.db()).unwrap();
    db.execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM entry WHERE idx = 5")
        .unwrap();
    db.close().unwrap();
    host.run(["export", "broken.bundle"]).fails(1, "");
    assert!(!names(&host.work()).contains(&"broken.bundle".to_owned()));
}

#[test]
fn a_compressed_body_is_shown_as_it_was_sent_only() {
    let host = Host::with_log();
    // `{"text":"decoded"}`, by gzip.
    let sent: &[u8] = &[
        0x1f, 0x8b, 0x8, 0x0, 0x0, 0x0, 0x0, 0x0, 0x2, 0x3, 0xab, 0x56, 0x2a, 0x49, 0xad, 0x28,
        0x51, 0xb2, 0x52, 0x4a, 0x49, 0x4d, 0xce, 0x4f, 0x49, 0x4d, 0x51, 0xaa, 0x5, 0x0, 0xb2,
        0xdb, 0x23, 0x79, 0x12, 0x0, 0x0, 0x0,
    ];
    fs::write(host.path("body.gz"), sent).unwrap();
    let headers = r#"http.response.header=[["Content-Encoding","gzip"]]"#;
    host.run([
        "emit",
        "llm.response",
        "--attr",
        headers,
        "--payload",
        "response.body=body.gz",
    ])
    .exits(0);
    let show = ["show", "3", "--payload", "response.body"];
    let output = host.command(show).output().unwrap();
    assert_eq!(output.stdout, sent);
    let decoded = host.run(show.iter().chain(&["--decoded"])).exits(0);
    assert_eq!(decoded.text(), r#"{"text":"decoded"}"#);
    host.run(["show", "3", "--decoded"]).fails(2, "--payload");
}
