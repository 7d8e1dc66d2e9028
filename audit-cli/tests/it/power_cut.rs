//! A power cut during `init`: what is left is a log that works, or none, and the program says which.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use audit_testkit::crash::{Call, Disk, Survives, Tracer, Tree, Victim};

use crate::support::{Host, ORIGIN};

const CONFIG: &str = "work/audit-trail.toml";
const INIT: [&str; 4] = ["init", "--origin", ORIGIN, "--no-passphrase"];

/// Judges what a cut left; whether it is a log.
fn judge(host: &Host, tree: &Tree, config: &[u8], told: bool) -> bool {
    tree.write_to(host.root()).unwrap();
    let works = || {
        host.run(["emit", "tool.call"]).exits(0);
        let (run, verdict) =
            host.verdict(&["--content", "--auditor-key", "audit-trail-auditor.key"]);
        run.exits(0);
        assert_eq!(verdict["unpublished"], 0);
    };
    if let Some(there) = tree.files.get(Path::new(CONFIG)) {
        assert_eq!(there, config, "the settings are torn");
        works();
        return true;
    }
    assert!(!told, "init ended, and the settings are gone");
    host.run(["verify"]).fails(2, "");
    let again = host.run(INIT);
    if again.status.code() == Some(0) {
        works();
        return true;
    }
    let code = again.status.code().expect("init was killed");
    let again = again.fails(code, "");
    assert!(
        ["already", "remembers"]
            .iter()
            .any(|word| again.err.contains(word)),
        "init doesn't say what is in its way: {}",
        again.err
    );
    false
}

#[test]
fn init_leaves_a_log_that_works_or_none() {
    let host = Host::new();
    let scratch = tempfile::tempdir().unwrap();
    let tracer = Tracer::new(scratch.path(), host.root()).unwrap();
    let mut command = host.command(INIT);
    tracer.trace(&mut command);
    let ended = Victim::start(&mut command).unwrap().end().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    let config = fs::read(host.root().join(CONFIG)).unwrap();
    let trace = tracer.read().unwrap();
    let trace = trace.without_files(|path| path.to_str().is_some_and(|p| p.ends_with("-shm")));

    let mut disk = Disk::default();
    disk.make_durable_dirs(&["home", "work"]);
    let mut seen = HashSet::new();
    let (mut told, mut logs) = (false, 0);
    for (number, step) in trace.steps.iter().enumerate() {
        let seed = number as u64;
        let survivors = match &step.call {
            Call::Sync { fd } if disk.is_dirty(step.process, *fd) => vec![
                Survives::Nothing,
                Survives::Everything,
                Survives::Some(seed),
                Survives::Prefix(seed),
            ],
            // The public key: from here on somebody knows of the log.
            Call::Said { .. } => {
                told = true;
                vec![Survives::Nothing, Survives::Some(seed)]
            }
            _ => vec![],
        };
        for survives in survivors {
            let tree = disk.after_cut(survives);
            if seen.insert((tree.digest(), told)) {
                println!("a cut before step {number} ({step:?}), {survives:?} survives");
                logs += u32::from(judge(&host, &tree, &config, told));
            }
        }
        disk.apply(step).unwrap();
    }
    assert!(told, "init said nothing");
    let tree = disk.after_cut(Survives::Nothing);
    assert!(judge(&host, &tree, &config, true), "no log at the end");
    assert!(
        seen.len() > 30 && logs > 3,
        "{} states, {logs} logs",
        seen.len()
    );
}
