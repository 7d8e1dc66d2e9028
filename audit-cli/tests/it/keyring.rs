//! `init --key keyring:SERVICE`: keys in the operating system's secret service.

#![cfg(feature = "keyring")]

use std::fs;
use std::process::Command;

use crate::support::{Host, ORIGIN, chmod, names};

/// Runs the program in a session of its own, with an unlocked secret service.
const SESSION: &str = r#"
set -eu
printf unlocked | gnome-keyring-daemon --unlock --components=secrets >/dev/null
"$1" init --origin "$2" --key keyring:audit-test
test ! -e audit-trail.key
"$1" emit tool.call --session s-1
"$1" log --json --session s-1
"$1" verify --content
"$1" doctor
mkdir other
cd other
if "$1" init --origin log.example/other --key keyring:audit-test; then
    echo "a ring was overwritten"
    exit 1
fi
cd ..
rmdir other
"$1" show 3
"#;

#[test]
fn a_key_ring_in_the_secret_service_serves_a_log() {
    let must_run = std::env::var_os("AUDIT_TEST_SERVICES").is_some_and(|v| v == "1");
    for tool in ["dbus-run-session", "gnome-keyring-daemon"] {
        if Command::new(tool).arg("--help").output().is_err() {
            assert!(!must_run, "{tool} is missing and AUDIT_TEST_SERVICES is 1");
            println!("skipped: {tool} is missing");
            return;
        }
    }
    let host = Host::new();
    let runtime = host.home().join("run");
    fs::create_dir(&runtime).unwrap();
    chmod(&runtime, 0o700);
    let mut session = Command::new("dbus-run-session");
    host.prepare(&mut session);
    session
        .args(["--", "sh", "-c", SESSION, "sh"])
        .args([env!("CARGO_BIN_EXE_audit-trail"), ORIGIN])
        .env("XDG_RUNTIME_DIR", &runtime)
        .env("XDG_DATA_HOME", host.home().join("data"));
    let run = host.start(session).end().exits(0);
    let text = run.text();
    assert!(text.contains("\"session_id\":\"s-1\""), "{text}");
    assert!(text.contains("HELD"), "{text}");
    assert!(text.contains("ok    keys"), "{text}");
    assert!(run.err.contains("keyring:audit-test"), "{}", run.err);
    assert!(
        !names(&host.work())
            .iter()
            .any(|name| name == "audit-trail.key"),
        "the keys are in a file too"
    );
}

#[test]
fn without_a_secret_service_init_fails_and_leaves_nothing_behind() {
    let host = Host::new();
    let mut command = host.command(["init", "--origin", ORIGIN, "--key", "keyring:audit-test"]);
    command.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus");
    host.start(command).end().fails(1, "");
    assert_eq!(names(&host.work()), [""; 0]);
}
