//! `emit`: one event by flags, many by lines.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Host, Run};

#[test]
fn emit_records_what_every_flag_says() {
    let host = Host::with_log();
    fs::write(host.path("note.txt"), "plain words").unwrap();
    fs::write(host.path("scan.bin"), b"\x00\xff\x00").unwrap();
    let receipt = host
        .run([
            "emit",
            "approval.granted",
            "--time",
            "2026-02-03T04:05:06+01:00",
            "--actor",
            "nurse-4",
            "--actor-kind",
            "human",
            "--on-behalf-of",
            "doctor-1",
            "--session",
            "s-1",
            "--subject",
            "p-17",
            "--system",
            "ward",
            "--ref",
            "model_id=m1",
            "--ref",
            "dataset_id=d=1",
            "--attr",
            "dose=5",
            "--attr",
            "note=not json",
            "--attr",
            "list=[1,null]",
            "--payload",
            "note=note.txt",
            "--payload",
            "scan=scan.bin",
        ])
        .exits(0)
        .json();
    assert_eq!(receipt["index"], 3);
    let shown = host.run(["show", "3"]).exits(0).json();
    assert_eq!(shown["leaf_hash"], receipt["leaf_hash"]);
    let mut event = shown["event"].clone();
    let capture = event["capture"].take();
    assert_eq!(capture["component"], "audit-trail emit");
    event.as_object_mut().unwrap().remove("capture");
    assert_eq!(
        event,
        json!({
            "id": receipt["event"],
            "kind": "approval.granted",
            "time": "2026-02-03T03:05:06.000000Z",
            "actor": {"id": "nurse-4", "kind": "human"},
            "on_behalf_of": {"id": "doctor-1", "kind": "human"},
            "session_id": "s-1",
            "subject": "p-17",
            "system": {"id": "ward"},
            "refs": {"model_id": "m1", "dataset_id": "d=1"},
            "attributes": {"dose": 5, "note": "not json", "list": [1, null]},
            "payloads": [
                {"name": "note", "media": "text/plain", "text": "plain words"},
                {"name": "scan", "media": "application/octet-stream", "base64": "AP8A"},
            ],
        })
    );
    let payload = host.run(["show", "3", "--payload", "scan"]).exits(0);
    assert_eq!(payload.out, b"\x00\xff\x00");
}

#[test]
fn a_wrong_call_of_emit_leaves_no_run_behind() {
    let host = Host::with_log();
    for (args, why) in [
        (&["Tool.Call"][..], "kind"),
        (&["log.opened"], "written by the log itself"),
        (&["key.destroyed"], "written by the log itself"),
        (&["tool.call", "--time", "yesterday"], "yesterday"),
        (&["tool.call", "--attr", "dose"], "NAME=VALUE"),
        (&["tool.call", "--attr", "=5"], "NAME=VALUE"),
        (&["tool.call", "--ref", "model_id="], "model_id"),
        (&["tool.call", "--ref", "Model=1"], "Model"),
        (
            &["tool.call", "--payload", "note=missing.txt"],
            "missing.txt",
        ),
        (&["tool.call", "--session", ""], "session"),
        (&["tool.call", "--actor-kind", "human"], "--actor"),
        (
            &["tool.call", "--attr", "n=9007199254740993"],
            "9007199254740993",
        ),
    ] {
        host.run(["emit"].iter().chain(args)).fails(2, why);
    }
    let (_, verdict) = host.verdict(&[]);
    assert_eq!(verdict["size"], 2, "a wrong call was recorded");
}

#[test]
fn every_line_is_answered_by_one_line_in_order() {
    let host = Host::with_log();
    let large = "x".repeat(1 << 20);
    let id = "01890000-0000-7000-8000-000000000001";
    let lines = [
        json!({"kind": "tool.call", "id": id, "time": "2026-01-01T00:00:00Z"}).to_string(),
        String::new(),
        "  \r".to_owned(),
        json!({"kind": "tool.result", "attributes": {"crlf": true}}).to_string() + "\r",
        json!({"kind": "tool.result", "colour": "red"}).to_string(),
        "no json".to_owned(),
        json!({"kind": "tool.result", "payloads": [{"name": "body", "text": large}]}).to_string(),
        json!({"kind": "Tool"}).to_string(),
        json!({"kind": "writer.closed"}).to_string(),
        json!({"kind": "tool.call", "id": id, "attributes": {"other": 1}}).to_string(),
        json!([1]).to_string(),
        // The last line has no end.
        json!({"kind": "tool.call", "session_id": "last"}).to_string(),
    ];
    let run = host
        .run_with(lines.join("\n").as_bytes(), ["emit", "-"])
        .exits(1);
    let answers = run.json_lines();
    let numbers: Vec<u64> = answers
        .iter()
        .map(|a| a["line"].as_u64().unwrap())
        .collect();
    assert_eq!(
        numbers,
        [1, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        "one answer per line that says something"
    );
    for (line, why) in [
        (5, "colour"),
        (6, "JSON"),
        (8, "kind"),
        (9, "written by the log itself"),
        (10, id),
        (11, "JSON"),
    ] {
        let answer = answers.iter().find(|a| a["line"] == line).unwrap();
        let error = answer["error"]
            .as_str()
            .unwrap_or_else(|| panic!("line {line}: {answer}"));
        assert!(error.contains(why), "line {line}: {error}");
        assert_eq!(answer.as_object().unwrap().len(), 2, "{answer}");
    }
    let good: Vec<&Value> = answers
        .iter()
        .filter(|a| a.get("index").is_some())
        .collect();
    let indexes: Vec<u64> = good.iter().map(|a| a["index"].as_u64().unwrap()).collect();
    assert_eq!(
        indexes,
        [3, 4, 5, 6],
        "events stand in the order of their lines"
    );
    assert!(run.err.contains("6 of"), "{}", run.err);
    for answer in good {
        let shown = host
            .run(["show", answer["event"].as_str().unwrap()])
            .exits(0)
            .json();
        assert_eq!(
            (&shown["index"], &shown["leaf_hash"]),
            (&answer["index"], &answer["leaf_hash"])
        );
    }
    assert_eq!(
        host.run(["show", "5", "--payload", "body"]).exits(0).out,
        large.as_bytes()
    );
    host.run(["verify", "--content"]).exits(0);
}

#[test]
fn an_answer_comes_before_the_next_line_is_written() {
    let host = Host::with_log();
    let mut emit = host.spawn(["emit", "-"]);
    for n in 0..5 {
        emit.write(format!("{{\"kind\":\"tool.call\",\"session_id\":\"s-{n}\"}}\n").as_bytes());
        let answer: Value = serde_json::from_str(&emit.line()).unwrap();
        assert_eq!(answer["line"], n + 1);
        assert_eq!(answer["index"], n + 3);
        // What is acknowledged is there for everybody, while the writer still runs.
        let shown = host
            .run(["show", answer["event"].as_str().unwrap()])
            .exits(0)
            .json();
        assert_eq!(shown["event"]["session_id"], format!("s-{n}"));
        emit.write(b"bad\n".as_slice().repeat(usize::from(n == 4)).as_slice());
    }
    let refused: Value = serde_json::from_str(&emit.line()).unwrap();
    assert_eq!(refused["line"], 6);
    emit.end().exits(1);
    host.run(["verify"]).exits(0);
}

#[test]
fn no_lines_are_no_error() {
    let host = Host::with_log();
    for input in ["", "\n\r\n"] {
        let run = host.run_with(input.as_bytes(), ["emit", "-"]).exits(0);
        assert_eq!(run.text(), "");
    }
}

#[test]
fn a_log_goes_on_after_emit_was_killed() {
    let host = Host::with_log();
    let mut emit = host.spawn(["emit", "-"]);
    emit.write(b"{\"kind\":\"tool.call\"}\n");
    let answer: Value = serde_json::from_str(&emit.line()).unwrap();
    emit.signal(rustix::process::Signal::KILL);
    assert_eq!(emit.end().status.code(), None);
    let shown = host
        .run(["show", answer["event"].as_str().unwrap()])
        .exits(0)
        .json();
    assert_eq!(
        shown["leaf_hash"], answer["leaf_hash"],
        "what was acknowledged is gone"
    );
    host.run(["emit", "tool.result"]).exits(0);
    let (run, verdict) = host.verdict(&["--auditor-key", "audit-trail-auditor.key", "--content"]);
    run.exits(0);
    assert_eq!(
        verdict["open_runs_total"], 1,
        "the run that was cut is not told"
    );
    assert_eq!(verdict["unpublished"], 0);
}

/// Two programs write at once; each gets what it asked for, and the log has no gap.
#[test]
fn two_writers_at_once_make_one_log_without_a_gap() {
    let host = Host::with_log();
    let each = 200;
    let lines = |who: &str| {
        let events = (0..each)
            .map(|n| json!({"kind": "tool.call", "session_id": who, "attributes": {"n": n}}));
        events
            .map(|event| event.to_string())
            .collect::<Vec<_>>()
            .join("\n")
    };
    let mut first = host.spawn(["emit", "-"]);
    let mut second = host.spawn(["emit", "-"]);
    first.write(lines("first").as_bytes());
    second.write(lines("second").as_bytes());
    let runs: [Run; 2] = [first.end().exits(0), second.end().exits(0)];
    let mut indexes: Vec<u64> = Vec::new();
    for run in &runs {
        let answers: Vec<u64> = run
            .json_lines()
            .iter()
            .map(|a| a["index"].as_u64().unwrap())
            .collect();
        assert!(
            answers.is_sorted(),
            "a writer's events are not in its order"
        );
        assert_eq!(answers.len(), each);
        indexes.extend(answers);
    }
    indexes.sort_unstable();
    indexes.dedup();
    assert_eq!(indexes.len(), 2 * each, "two events have one index");
    let (run, verdict) = host.verdict(&[
        "--auditor-key",
        "audit-trail-auditor.key",
        "--content",
        "--full",
    ]);
    run.exits(0);
    assert_eq!(verdict["size"], 2 + 2 * (each + 2));
    assert_eq!(verdict["unpublished"], 0);
    for who in ["first", "second"] {
        let records = host.records(&["--session", who]);
        let order: Vec<u64> = records
            .iter()
            .map(|r| r["event"]["attributes"]["n"].as_u64().unwrap())
            .collect();
        assert_eq!(order, (0..each as u64).collect::<Vec<_>>());
    }
}
