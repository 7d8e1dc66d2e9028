//! `init`: what it makes, and what it leaves when it can't.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use audit_core::chain::AuditorKey;
use audit_core::keyring::{AuditorKeyFile, Protection};
use audit_core::time::System;
use audit_tlog::note::VerifierKey;

use crate::support::{Host, ORIGIN, PASSPHRASE, Run, mode, names};

#[test]
fn init_makes_a_sealed_log_and_says_only_its_public_key_on_stdout() {
    // An editor puts a line end behind a passphrase.
    let host = Host::with_passphrase(&format!("{PASSPHRASE}\n"));
    host.keep_secret(PASSPHRASE);
    let made = host.run(["init", "--origin", ORIGIN]).exits(0);
    host.keep_ring_secret();

    let vkey: VerifierKey = made.text().trim_end().parse().unwrap();
    assert_eq!(
        made.text(),
        format!("{vkey}\n"),
        "stdout has more than the key"
    );
    assert_eq!(vkey, host.vkey());
    assert_eq!(vkey.name(), ORIGIN);
    for said in [
        "audit-trail-auditor.key",
        "carry away",
        "audit-trail verify",
    ] {
        assert!(made.err.contains(said), "{said}: {}", made.err);
    }
    for secret in [
        "audit-trail.key",
        "audit-trail-auditor.key",
        "audit-trail.db",
    ] {
        assert_eq!(mode(&host.path(secret)), 0o600, "{secret}");
    }
    assert!(host.state_file().exists());
    let ring = fs::read_to_string(host.path("audit-trail.key")).unwrap();
    assert!(!ring.contains(ORIGIN), "the ring is not sealed: {ring}");
    let config = fs::read_to_string(host.path("audit-trail.toml")).unwrap();
    assert!(!config.contains(PASSPHRASE), "{config}");

    host.run(["emit", "tool.call", "--session", "s-1"]).exits(0);
    assert_eq!(
        host.run(["show", "3"]).exits(0).json()["event"]["session_id"],
        "s-1"
    );
    // Verifying needs no passphrase; what decrypts does, and says where it looks for one.
    fs::write(host.passphrase_file(), "another passphrase").unwrap();
    host.run(["verify"]).exits(0);
    let error = host.run(["log"]).fails(1, "passphrase");
    assert!(
        error.err.contains("AUDIT_TRAIL_PASSPHRASE_FILE"),
        "{}",
        error.err
    );
    host.run(["verify", "--content"]).fails(2, "passphrase");
    fs::remove_file(host.passphrase_file()).unwrap();
    host.run(["emit", "tool.call"])
        .fails(1, "passphrase")
        .hints("AUDIT_TRAIL_PASSPHRASE_FILE");
}

#[test]
fn init_touches_no_file_of_a_log_that_is_there() {
    let host = Host::with_log();
    let before = contents(&host.work());
    let state = fs::read(host.state_file()).unwrap();
    host.run(["init", "--no-passphrase"])
        .fails(2, "configuration file")
        .hints("another folder");
    assert_eq!(contents(&host.work()), before);

    // Without its configuration file the log is still no place for another one, whichever of its files is left.
    fs::remove_file(host.path("audit-trail.toml")).unwrap();
    let mut before = contents(&host.work());
    before.retain(|(name, _)| name != "audit-trail.toml");
    let remembered = host
        .run(["init", "--origin", ORIGIN, "--no-passphrase"])
        .fails(2, "remembers")
        .hints("--origin");
    assert!(remembered.err.contains(ORIGIN), "{}", remembered.err);
    assert_eq!(contents(&host.work()), before);
    for gone in [
        "",
        "audit-trail-auditor.key",
        "audit-trail.key",
        "audit-trail.db",
        "audit-trail-ca.key",
        "audit-trail-ca.pem",
    ] {
        if !gone.is_empty() {
            fs::remove_file(host.path(gone)).unwrap();
            before.retain(|(name, _)| name != gone);
        }
        if gone == "audit-trail.db" {
            // They were left by the store that is gone, and go with the one that is made and taken back.
            before.retain(|(name, _)| !name.contains(".lock"));
        }
        let run = host.run(["init", "--origin", "log.example/2", "--no-passphrase"]);
        if gone == "audit-trail-ca.pem" {
            run.exits(0);
        } else {
            let run = failed(run);
            assert!(run.err.contains("already"), "{}", run.err);
            assert_eq!(contents(&host.work()), before, "without {gone:?}");
        }
    }
    assert!(
        names(&host.state_dir()).len() == 2,
        "two logs, two memories"
    );
    assert!(
        names(&host.state_dir())
            .iter()
            .any(|name| fs::read(host.state_dir().join(name)).unwrap() == state),
        "the first log's memory was changed"
    );
}

#[test]
fn init_without_terminal_and_passphrase_makes_nothing() {
    let host = Host::new();
    host.run(["init", "--origin", ORIGIN])
        .fails(2, "no passphrase")
        .hints("--no-passphrase");
    leaves_nothing(&host);
}

#[test]
fn init_refuses_a_passphrase_that_can_be_guessed() {
    for passphrase in ["short", "", "\n"] {
        let host = Host::with_passphrase(passphrase);
        // Nothing to look for in what is said: letters of it stand in every word.
        let mut command = host.command(["init", "--origin", ORIGIN]);
        command.stdin(std::process::Stdio::null());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("passphrase"),
            "{output:?}"
        );
        leaves_nothing(&host);
    }
}

#[test]
fn init_that_fails_halfway_leaves_nothing_behind() {
    let host = Host::new();
    fs::write(host.home().join("file"), "").unwrap();
    let below_a_file = host.home().join("file/state");
    // Nothing is there to be read, and nothing can be written: the last step fails, with everything else made.
    let leads_nowhere = host.home().join("link");
    symlink("nowhere/at/all", &leads_nowhere).unwrap();
    for (flag, value) in [
        ("--store", "sqlite:nowhere/log.db"),
        ("--key", "file:nowhere/log.key"),
        ("--state-dir", below_a_file.to_str().unwrap()),
        ("--state-dir", leads_nowhere.to_str().unwrap()),
        ("--auditor-key", "nowhere.pub"),
        ("--store", "ftp://host/log"),
        ("--key", "ftp://host/key"),
        ("--origin", "two words"),
    ] {
        let mut args = vec!["init", flag, value, "--no-passphrase"];
        if flag != "--origin" {
            args.extend(["--origin", ORIGIN]);
        }
        failed(host.run(&args));
        leaves_nothing(&host);
    }
    // The same folder is then good for a log.
    host.run(["init", "--origin", ORIGIN, "--no-passphrase"])
        .exits(0);
    host.run(["verify"]).exits(0);
}

#[test]
fn init_takes_the_key_of_an_auditor_who_made_his_own() {
    let host = Host::new();
    let key = AuditorKey::random(&System);
    AuditorKeyFile::write_public(&host.path("auditor.pub"), key.public()).unwrap();
    AuditorKeyFile::write_private(
        &host.home().join("private.key"),
        &key,
        &Protection::None,
        &System,
    )
    .unwrap();
    let made = host
        .run([
            "init",
            "--origin",
            ORIGIN,
            "--no-passphrase",
            "--auditor-key",
            "auditor.pub",
        ])
        .exits(0);
    assert!(
        !host.path("audit-trail-auditor.key").exists(),
        "another key pair was made"
    );
    assert!(!made.err.contains("auditor's private key"), "{}", made.err);
    host.run(["emit", "tool.call"]).exits(0);
    let private = host.home().join("private.key");
    let (run, verdict) = host.verdict(&["--auditor-key", private.to_str().unwrap()]);
    run.exits(0);
    let mac = verdict["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["check"] == "mac")
        .unwrap();
    assert_eq!(
        (mac["result"].as_str(), mac["population"].as_u64()),
        (Some("held"), Some(5))
    );
}

#[test]
fn init_finds_a_name_of_its_own_for_each_log() {
    let host = Host::new();
    let first: VerifierKey = host
        .run(["init", "--no-passphrase"])
        .exits(0)
        .text()
        .trim_end()
        .parse()
        .unwrap();
    let other = Host::new();
    let second: VerifierKey = other
        .run(["init", "--no-passphrase"])
        .exits(0)
        .text()
        .trim_end()
        .parse()
        .unwrap();
    assert_ne!(first.name(), second.name(), "two logs have the same name");
}

/// It failed, whatever the reason, and said something.
#[track_caller]
fn failed(run: Run) -> Run {
    assert!(
        matches!(run.status.code(), Some(1 | 2)),
        "{}: {:?}",
        run.command,
        run.status
    );
    assert!(
        run.err.starts_with("error: "),
        "{}: {}",
        run.command,
        run.err
    );
    assert!(run.out.is_empty(), "{}", run.text());
    run
}

#[track_caller]
fn leaves_nothing(host: &Host) {
    assert_eq!(names(&host.work()), [""; 0], "in the folder");
    assert_eq!(names(&host.state_dir()), [""; 0], "in the folder for state");
}

fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    names(dir)
        .into_iter()
        .map(|name| {
            let bytes = fs::read(dir.join(&name)).unwrap();
            (name, bytes)
        })
        .collect()
}
