//! `demo`: the main job, on a log that is thrown away or kept.

use std::fs;

use crate::support::{Host, names};

#[test]
fn the_demo_shows_a_record_a_proof_and_a_manipulation() {
    let host = Host::new();
    let run = host.run(["demo", "--keep", "kept"]).exits(0);
    let text = run.text();
    for said in [
        "llm.request",
        "tool.call",
        "approval.granted",
        "finds nothing",
        "HELD",
        "CONTRADICTED",
        "mac          held",
        "mac          FAILED",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(
        text.find("HELD").unwrap() < text.find("CONTRADICTED").unwrap(),
        "the manipulation comes before the proof"
    );
    for said in [
        "approves",
        "approval.rejected",
        "exit code 0",
        "exit code 1",
    ] {
        assert!(run.err.contains(said), "{said}: {}", run.err);
    }
    for hidden in ["sk-demo", "\u{1b}"] {
        assert!(
            !text.contains(hidden) && !run.err.contains(hidden),
            "{hidden:?} is shown"
        );
    }

    // The commands that it names do what it says of them.
    let mut tried = 0;
    for line in run
        .err
        .lines()
        .filter(|l| l.contains("audit-trail --config "))
    {
        let (command, promised) = line.split_once('#').unwrap_or((line, "0"));
        let args: Vec<&str> = command.split_whitespace().skip(1).collect();
        let code = promised.split_whitespace().last().unwrap().parse().unwrap();
        let told = host.run(&args).exits(code);
        assert!(!told.text().is_empty());
        tried += 1;
    }
    assert_eq!(tried, 3);
    let verdict = host
        .run([
            "--config",
            "kept/tampered/audit-trail.toml",
            "verify",
            "--json",
        ])
        .exits(1)
        .json();
    let first = &verdict["findings"][0];
    let index = first["index"].as_u64().unwrap().to_string();
    let forged = host
        .run(["--config", "kept/tampered/audit-trail.toml", "show", &index])
        .exits(0)
        .json();
    assert_eq!(
        forged["event"]["kind"], "approval.rejected",
        "the first finding is elsewhere"
    );

    // What is kept is nobody's to overwrite.
    let before = names(&host.path("kept"));
    host.run(["demo", "--keep", "kept"]).fails(2, "kept");
    assert_eq!(names(&host.path("kept")), before);
}

#[test]
fn the_demo_leaves_nothing_behind() {
    let host = Host::new();
    let temporary = host.home().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let mut command = host.command(["demo"]);
    command.env("TMPDIR", &temporary);
    host.start(command).end().exits(0);
    assert_eq!(names(&temporary), [""; 0]);
    assert_eq!(names(&host.work()), [""; 0]);
    assert_eq!(names(&host.state_dir()), [""; 0]);
}
