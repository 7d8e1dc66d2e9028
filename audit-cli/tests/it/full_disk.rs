//! The disk of a gateway is full: it refuses calls instead of losing them, and goes on when there is space.

use std::collections::BTreeMap;
use std::process::Stdio;

use audit_testkit::full_disk::FullDisk;
use rustix::process::Signal;

use crate::crash::call;
use crate::serve::{Gateway, Provider, upstream};
use crate::support::Host;

#[test]
fn a_gateway_on_a_full_disk_refuses_and_goes_on_when_there_is_space() {
    let host = Host::with_log();
    let scratch = tempfile::tempdir().unwrap();
    let disk = FullDisk::new(scratch.path(), host.root()).unwrap();
    let provider = Provider::start(true);
    let gateway = Gateway::start_with(&host, &["--upstream", &upstream(&provider)], |command| {
        disk.of(command);
    });
    let mut answered = Vec::new();
    let mut refused = 0;
    for round in 0..3 {
        for n in 0..20 {
            let session = format!("s-{round}-{n}");
            match n {
                5 => disk.fill().unwrap(),
                15 => disk.free().unwrap(),
                _ => {}
            }
            if call(gateway.address, &session) {
                answered.push(session);
            } else {
                assert!((5..15).contains(&n), "{session} is refused with space left");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "the disk was never full");
    gateway.process.signal(Signal::TERM);
    let run = gateway.process.end().exits(0);
    assert!(run.err.contains("disk is full"), "{}", run.err);

    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    for record in host.records(&[]) {
        if record["event"]["kind"] == "llm.response" {
            let session = record["event"]["session_id"].as_str().unwrap().to_owned();
            *found.entry(session).or_default() += 1;
        }
    }
    for session in &answered {
        assert_eq!(found.get(session), Some(&1), "{session} was answered");
    }
    let (run, verdict) = host.verdict(&["--content", "--auditor-key", "audit-trail-auditor.key"]);
    run.exits(0);
    assert_eq!(verdict["unpublished"], 0);
}

#[test]
fn emit_on_a_full_disk_fails_and_writes_nothing() {
    let host = Host::with_log();
    let scratch = tempfile::tempdir().unwrap();
    let disk = FullDisk::new(scratch.path(), host.root()).unwrap();
    let before = host.records(&[]).len();
    disk.fill().unwrap();
    let mut command = host.command(["emit", "tool.call"]);
    disk.of(&mut command);
    command.stdin(Stdio::null());
    // SQLite has no room for its shared memory then, and calls that an I/O error.
    let run = host.start(command).end().exits(1);
    assert!(run.err.contains("opening the store"), "{}", run.err);
    disk.free().unwrap();
    assert_eq!(host.records(&[]).len(), before);
    host.run(["emit", "tool.call"]).exits(0);
    host.verdict(&["--content"]).0.exits(0);
}
