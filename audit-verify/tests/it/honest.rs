//! Honest logs hold, and the verdict says what was not checked.

use std::time::Duration;

use audit_verify::{Check, CheckResult, Outcome, Policy, verify};

use crate::world::{HandRun, other, small, world};

#[test]
fn an_honest_log_holds_in_every_check() {
    let world = world();
    let verdict = verify(&world.log, &world.everything(), &mut ());
    assert_eq!(verdict.outcome(), Outcome::Held, "{verdict}");
    assert_eq!(verdict.exit_code(), 0);
    for report in verdict.checks() {
        assert_eq!(
            report.result,
            CheckResult::Held,
            "{}: {verdict}",
            report.check
        );
        assert!(report.population > 0, "{}", report.check);
    }
    let counts = verdict.counts();
    assert_eq!(counts.entries, world.log.size);
    assert_eq!(counts.runs, 3);
    assert!(counts.epochs_closed > 3, "{counts:?}");
    assert!(
        counts.tiles > 3 && counts.erased > 0 && counts.keys_destroyed > 0,
        "{counts:?}"
    );
    assert_eq!(verdict.covered().unwrap().size, world.log.size);
}

#[test]
fn without_secrets_everything_but_macs_and_content_is_checked() {
    let world = world();
    let verdict = verify(&world.log, &world.public(), &mut ());
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    let skipped: Vec<Check> = verdict
        .checks()
        .into_iter()
        .filter(|c| c.result != CheckResult::Held)
        .map(|c| c.check)
        .collect();
    assert_eq!(
        skipped,
        [
            Check::Remembered,
            Check::SecondRoot,
            Check::Mac,
            Check::Content,
            Check::Gaps,
            Check::Fresh
        ]
    );
    let text = verdict.to_string();
    assert!(text.contains("MAC chains: no auditor key given"), "{text}");
    assert!(
        text.contains("rollback against a remembered checkpoint: none was given"),
        "{text}"
    );
}

#[test]
fn nothing_is_not_a_pass() {
    let world = small();
    let mut log = world.log.clone();
    log.checkpoints.clear();
    let verdict = verify(&log, &world.public(), &mut ());
    assert_eq!(verdict.exit_code(), 2, "{verdict}");
    // A checkpoint that was kept apart serves as well.
    let policy = Policy {
        remembered: vec![world.log.last_checkpoint()],
        ..world.public()
    };
    assert_eq!(verify(&log, &policy, &mut ()).exit_code(), 0);

    log.rows.clear();
    log.keys.clear();
    log.rebuild();
    let verdict = verify(&log, &world.public(), &mut ());
    assert_eq!(verdict.exit_code(), 2, "{verdict}");
    assert!(
        verdict.undecided().iter().any(|u| u.contains("empty")),
        "{verdict}"
    );
    let verdict = verify(&log, &policy, &mut ());
    assert_eq!(
        verdict.exit_code(),
        1,
        "an emptied log is rolled back: {verdict}"
    );
    assert_eq!(verdict.findings()[0].index, Some(0));
}

#[test]
fn wrong_keys_decide_nothing() {
    let (world, other) = (small(), other());
    for (log, policy) in [
        (&world.log, other.public()),
        (
            &world.log,
            Policy {
                vkey: other.ring.vkey(),
                auditor: Some(world.auditor.clone()),
                ..world.public()
            },
        ),
    ] {
        let verdict = verify(log, &policy, &mut ());
        // A foreign auditor key binding may fail too, but never is this a pass or a charge of tampering.
        assert_eq!(verdict.exit_code(), 2, "{verdict}");
    }
    let policy = Policy {
        auditor: Some(other.auditor.clone()),
        ..world.public()
    };
    let verdict = verify(&world.log, &policy, &mut ());
    assert_eq!(verdict.exit_code(), 2, "{verdict}");
    assert!(
        verdict.undecided()[0].contains("does not open with the auditor key"),
        "{verdict}"
    );
    let policy = Policy {
        operator: Some(&other.ring),
        ..world.public()
    };
    assert_eq!(verify(&world.log, &policy, &mut ()).exit_code(), 2);
    let policy = Policy {
        remembered: vec![other.log.last_checkpoint()],
        ..world.public()
    };
    assert_eq!(verify(&world.log, &policy, &mut ()).exit_code(), 2);
}

#[test]
fn unpublished_entries_and_open_runs_are_told() {
    let world = small();
    let mut log = world.log.clone();
    let previous = log.entry(log.rows.len() - 1).run;
    HandRun::open(&mut log, &world.ring, Some(previous));
    log.rebuild();
    let policy = Policy {
        auditor: Some(world.auditor.clone()),
        ..world.public()
    };
    let verdict = verify(&log, &policy, &mut ());
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    assert_eq!(verdict.unpublished(), Some(1));
    assert_eq!(verdict.open_runs().len(), 1);
    let text = verdict.to_string();
    assert!(text.contains("1 sequenced and not yet published"), "{text}");
}

#[test]
fn gaps_and_age_fail_only_where_the_policy_sets_them() {
    let world = small();
    let policy = Policy {
        gap_max: Some(Duration::from_micros(1)),
        ..world.public()
    };
    let verdict = verify(&world.log, &policy, &mut ());
    assert_eq!(verdict.exit_code(), 1, "{verdict}");
    assert!(matches!(
        verdict.check(Check::Gaps).result,
        CheckResult::Failed {
            first_index: Some(_),
            ..
        }
    ));
    let day = Duration::from_secs(86_400);
    let policy = Policy {
        fresh_within: Some(day),
        now: world.public().now.plus_micros(2 * 86_400_000_000),
        ..world.public()
    };
    let verdict = verify(&world.log, &policy, &mut ());
    assert_eq!(
        verdict.check(Check::Fresh).result,
        CheckResult::Failed {
            first_index: Some(world.log.size - 1),
            findings: 1
        }
    );
    assert_eq!(verdict.exit_code(), 1);
}

#[test]
fn the_json_is_the_documented_one_and_repeats() {
    let world = small();
    let now = world.public().now;
    let judge = || {
        verify(
            &world.log,
            &Policy {
                now,
                ..world.everything()
            },
            &mut (),
        )
        .to_json()
    };
    assert_eq!(judge(), judge());
    let json: serde_json::Value = serde_json::from_str(&judge()).unwrap();
    assert_eq!(json["schema"], "audit-trail-verdict/1");
    assert_eq!(json["exit"], 0);
    assert_eq!(json["outcome"], "held");
    assert_eq!(json["checkpoint"]["size"], world.log.size);
    assert_eq!(json["checks"].as_array().unwrap().len(), Check::ALL.len());
    let docs = include_str!("../../../docs/verdict.md");
    for member in json.as_object().unwrap().keys() {
        assert!(
            docs.contains(&format!("`{member}`")),
            "docs/verdict.md does not name {member}"
        );
    }
    for check in Check::ALL {
        assert!(
            docs.contains(&format!("| `{check}` |")),
            "docs/verdict.md does not name {check}"
        );
    }
}
