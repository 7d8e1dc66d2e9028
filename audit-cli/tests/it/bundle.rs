//! `audit-trail bundle`.

use std::fs;

use audit_core::chain::AuditorKey;
use audit_tlog::Hash;
use audit_verify::evidence_bundle::{BundlePolicy, verify_bundle};
use audit_verify::{Check, CheckResult, Verdict};
use serde_json::json;

use crate::read::six;
use crate::support::{Host, mode, names, packing};

fn policy(host: &Host) -> BundlePolicy {
    let config = fs::read_to_string(host.path("audit-trail.toml")).unwrap();
    let opened = config.lines().find_map(|l| l.strip_prefix("opened = "));
    BundlePolicy {
        vkey: Some(host.vkey()),
        opened: opened.map(|o| Hash::from_hex(o.trim_matches('"')).unwrap()),
        ..BundlePolicy::default()
    }
}

fn judge(host: &Host, name: &str, policy: &BundlePolicy) -> Verdict {
    verify_bundle(fs::File::open(host.path(name)).unwrap(), policy)
}

#[track_caller]
fn holds(host: &Host, name: &str) -> Verdict {
    let policy = policy(host);
    assert!(
        policy.opened.is_some(),
        "the settings don't pin the first entry"
    );
    let verdict = judge(host, name, &policy);
    assert_eq!(verdict.exit_code(), 0, "{name}: {verdict}");
    verdict
}

fn has(host: &Host, name: &str, text: &str) -> bool {
    let bytes = fs::read(host.path(name)).unwrap();
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

#[test]
fn a_session_goes_out_and_holds_elsewhere() {
    let (host, _) = six();
    let run = host
        .run(["bundle", "--session", "s-1", "-o", "s.bundle"])
        .exits(0);
    assert_eq!(run.text(), "s.bundle\n");
    for word in [
        "3 entries match",
        "plaintext",
        "audit-verify bundle s.bundle --vkey",
        "--opened",
    ] {
        assert!(run.err.contains(word), "{word}: {}", run.err);
    }
    assert_eq!(mode(&host.path("s.bundle")), 0o600);
    let verdict = holds(&host, "s.bundle");
    for (check, population) in [
        (Check::Query, 3),
        (Check::Payloads, 3),
        // The three, the log's opening and that of their run.
        (Check::Inclusion, 5),
        (Check::MultiProof, 5),
        (Check::Signatures, 2),
    ] {
        assert_eq!(
            verdict.check(check).population,
            population,
            "{check}: {verdict}"
        );
    }
    assert_eq!(
        judge(&host, "s.bundle", &BundlePolicy::default()).exit_code(),
        2
    );
    let other = Host::with_log();
    assert_eq!(judge(&host, "s.bundle", &policy(&other)).exit_code(), 1);
    assert!(has(&host, "s.bundle", "{\"day\":5}") && !has(&host, "s.bundle", "{\"day\":4}"));
    // Nothing else was left beside it, and the same question has the same answer.
    host.run(["bundle", "--session", "s-1", "-o", "again.bundle"])
        .exits(0);
    assert!(
        fs::read(host.path("s.bundle")).unwrap() == fs::read(host.path("again.bundle")).unwrap()
    );
    assert!(
        names(&host.work()).iter().all(|n| !n.starts_with(".tmp")),
        "{:?}",
        names(&host.work())
    );
}

#[test]
fn times_and_events_select() {
    let (host, receipts) = six();
    for (args, matched) in [
        (
            &[
                "--from",
                "2026-01-02T12:00:00Z",
                "--to",
                "2026-01-05T12:00:00Z",
            ][..],
            3,
        ),
        (&["--from", "2026-01-02T12:00:00Z", "--session", "s-1"], 2),
        (&["--to", "2026-01-04T00:00:00Z"], 3),
        (&["--event", "4", "--event", "8", "--event", "4"], 2),
        (
            &["--event", receipts[0]["event"].as_str().unwrap_or("3")],
            1,
        ),
        (&["--from", "1h"], 4),
    ] {
        let run = host
            .run(["bundle", "-o", "x", "--force"].iter().chain(args))
            .exits(0);
        assert!(
            run.err.contains(&format!("{matched} entries match")),
            "{args:?}: {}",
            run.err
        );
        let verdict = holds(&host, "x");
        assert_eq!(verdict.check(Check::Query).population, matched, "{args:?}");
        let all = verdict.check(Check::Completeness).result;
        let named = args[0] == "--event";
        assert_eq!(all == CheckResult::Held, named, "{args:?}");
    }
}

#[test]
fn what_is_redacted_stays() {
    let (host, _) = six();
    let args = [
        "bundle",
        "--from",
        "2026-01-01T00:00:00Z",
        "--to",
        "2026-01-06T00:00:00Z",
        "-o",
        "r",
    ];
    let redact = [
        "--redact",
        "subject",
        "--redact",
        "actor",
        "--redact",
        "payloads/*",
        "--redact",
        "attributes/dya",
    ];
    let run = host.run(args.iter().chain(&redact)).exits(0);
    assert!(
        run.err.contains("warning: attributes/dya matches no field"),
        "{}",
        run.err
    );
    assert!(run.err.contains("15 fields are withheld"), "{}", run.err);
    for hidden in ["p-1", "anna", "{\"day\":5}", "ImFubmE"] {
        assert!(!has(&host, "r", hidden), "{hidden} is in it");
    }
    let verdict = holds(&host, "r");
    assert_eq!(verdict.check(Check::Payloads).population, 0);
    assert!(verdict.check(Check::Disclosed).population >= 15);
    host.run([
        "bundle",
        "--session",
        "s-1",
        "--only",
        "payloads/note",
        "-o",
        "only",
    ])
    .exits(0);
    assert_eq!(holds(&host, "only").check(Check::Disclosed).population, 3);
}

#[test]
fn a_bundle_replaces_what_is_there_or_a_wrong_call_writes() {
    let (host, _) = six();
    fs::write(host.path("there"), "evidence").unwrap();
    host.run(["bundle", "--session", "s-1", "-o", "there"])
        .fails(2, "already there")
        .hints("--force");
    assert_eq!(fs::read(host.path("there")).unwrap(), b"evidence");
    host.run(["bundle", "--session", "s-1", "-o", "there", "--force"])
        .exits(0);
    holds(&host, "there");
    assert_eq!(mode(&host.path("there")), 0o600);
    let before = names(&host.work());
    for (args, code, why) in [
        (&["--session", "s-3"][..], 1, "no event matches"),
        (&["--session", "s-1", "--redact", "subjekt"], 2, "subjekt"),
        (
            &["--session", "s-1", "--redact", "session_id"],
            2,
            "session",
        ),
        (&["--from", "soon"], 2, "soon"),
        (
            &[
                "--from",
                "2026-01-03T00:00:00Z",
                "--to",
                "2026-01-02T00:00:00Z",
            ],
            1,
            "no event matches",
        ),
        (&["--event", "what"], 2, "what"),
        (
            &["--session", "s-1", "--since-checkpoint", "nothing"],
            2,
            "nothing",
        ),
        (
            &["--session", "s-1", "--since-checkpoint", "audit-trail.toml"],
            2,
            "checkpoint",
        ),
    ] {
        host.run(["bundle", "-o", "new"].iter().chain(args))
            .fails(code, why);
    }
    for args in [
        &["-o", "new"][..],
        &["--session", "s-1"],
        &["--session", "s-1", "--event", "3", "-o", "new"],
    ] {
        assert!(
            host.run(["bundle"].iter().chain(args))
                .exits(2)
                .out
                .is_empty()
        );
    }
    host.run(["bundle", "--session", "s-1", "-o", "no/new"])
        .fails(2, "no/new");
    assert_eq!(names(&host.work()), before, "something was written");
}

#[test]
fn an_earlier_checkpoint_is_shown_to_be_extended() {
    let (host, _) = six();
    let kept = host.run(["checkpoint"]).exits(0).out;
    fs::write(host.path("kept"), &kept).unwrap();
    host.emit_all(&[json!({"kind": "note", "session_id": "late"})]);
    let args = [
        "bundle",
        "--session",
        "late",
        "--since-checkpoint",
        "kept",
        "-o",
        "b",
    ];
    host.run(args).exits(0);
    let auditor = fs::read(host.path("audit-trail-auditor.key")).unwrap();
    let auditor: serde_json::Value = serde_json::from_slice(&auditor).unwrap();
    let private = audit_core::hex::Hex::<32>::parse(auditor["private"].as_str().unwrap()).unwrap();
    let auditor = AuditorKey::new(audit_core::secret::SecretKey::new(private.0));
    let policy = BundlePolicy {
        remembered: vec![kept],
        auditor: Some(auditor),
        ..policy(&host)
    };
    let verdict = judge(&host, "b", &policy);
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    assert_eq!(verdict.check(Check::Remembered).population, 1);
    assert_eq!(verdict.check(Check::Consistency).population, 1);
    // Both runs are here from their openings on as far as the bundle goes.
    assert_eq!(verdict.check(Check::Mac).population, 3, "{verdict}");
}

#[test]
fn a_log_that_was_changed_gives_a_bundle() {
    let (host, _) = six();
    let db = rusqlite::Connection::open(host.db()).unwrap();
    packing(&db);
    let changed = db
        .execute(
            "UPDATE entry SET entry = packed(replace(unpacked(entry), 'tool.call', 'tool.cast')) WHERE idx = 3",
            [],
        )
        .unwrap();
    assert_eq!(changed, 1);
    db.close().unwrap();
    host.run(["bundle", "--session", "s-1", "-o", "b"])
        .fails(1, "")
        .hints("verify");
    assert!(!names(&host.work()).contains(&"b".to_owned()));
}
