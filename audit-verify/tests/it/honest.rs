//! Honest logs hold, and the verdict says what was not checked.

use std::time::Duration;

use audit_verify::{Check, CheckResult, Outcome, Policy};

use crate::world::{HandRun, Mem, bare, other, small, verify, world};

#[test]
fn an_honest_log_holds_in_every_check() {
    let world = world();
    let mut log = world.log.clone();
    log.engine = true;
    let verdict = verify(&log, &world.everything(), &mut ());
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
            Check::Engine,
            Check::Remembered,
            Check::SecondRoot,
            Check::Signatures,
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
fn a_record_from_the_future_fails_and_hides_no_gap() {
    let world = small();
    let now = world.public().now;
    let second = 1_000_000;
    let mut log = world.log.clone();
    let previous = log.entry(log.rows.len() - 1).run;
    let mut run = HandRun::open_at(&mut log, &world.ring, Some(previous), now);
    let entry = bare("llm.request", now.plus_micros(86_400 * second));
    let future = run.push(&mut log, entry);
    let gap = log.rows.len();
    HandRun::open_at(
        &mut log,
        &world.ring,
        Some(previous),
        now.plus_micros(200 * second),
    );
    log.republish(&world.ring);
    let limits = |gap_max, fresh_within| Policy {
        gap_max,
        fresh_within,
        now,
        ..world.public()
    };
    let minute = Some(Duration::from_secs(60));
    let verdict = verify(&log, &limits(minute, None), &mut ());
    let failed = |index: usize, findings| CheckResult::Failed {
        first_index: Some(index as u64),
        findings,
    };
    assert_eq!(verdict.check(Check::Gaps).result, failed(future, 2));
    assert_eq!(verdict.findings()[1].index, Some(gap as u64), "{verdict}");
    let verdict = verify(
        &log,
        &limits(None, Some(Duration::from_secs(3600))),
        &mut (),
    );
    assert_eq!(verdict.check(Check::Fresh).result, failed(future, 1));
    // Without a limit it is told.
    let verdict = verify(&log, &limits(None, None), &mut ());
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    assert!(
        verdict
            .notices()
            .iter()
            .any(|n| n.contains("ahead of the verifier's clock")),
        "{verdict}"
    );
    // A record from the future makes nothing fresh.
    let later = Policy {
        now: now.plus_micros(4 * 3600 * second),
        ..limits(None, Some(Duration::from_secs(3600)))
    };
    let verdict = verify(&log, &later, &mut ());
    assert_eq!(verdict.check(Check::Fresh).result, failed(future, 2));
}

#[test]
fn an_unpublished_tail_that_should_not_be_there_is_undecided() {
    let world = small();
    let mut log = world.log.clone();
    let previous = log.entry(log.rows.len() - 1).run;
    let mut run = HandRun::open(&mut log, &world.ring, Some(previous));
    run.heartbeat(&mut log);
    log.rebuild();
    let judge = |log: &Mem, unpublished_max| {
        let policy = Policy {
            unpublished_max,
            auditor: Some(world.auditor.clone()),
            ..world.public()
        };
        verify(log, &policy, &mut ())
    };
    let minute = Duration::from_secs(60);
    assert_eq!(judge(&log, minute).exit_code(), 0);
    let verdict = judge(&log, Duration::ZERO);
    assert_eq!(verdict.exit_code(), 2, "{verdict}");
    assert!(
        verdict.undecided()[0].contains("the publisher stopped"),
        "{verdict}"
    );
    // The run is closed, and yet nothing was published.
    run.close(&mut log);
    log.rebuild();
    let verdict = judge(&log, minute);
    assert_eq!(verdict.exit_code(), 2, "{verdict}");
    log.republish(&world.ring);
    assert_eq!(judge(&log, Duration::ZERO).exit_code(), 0);
}

#[test]
fn what_the_engine_says_counts_and_steers_no_terminal() {
    let world = small();
    let mut log = world.log.clone();
    log.engine = true;
    log.engine_fault =
        Some("index \u{202e}\u{2066}\u{200e}\u{61c}token\u{9b}31m\u{7f} disagrees".into());
    let verdict = verify(&log, &world.public(), &mut ());
    assert!(
        matches!(
            verdict.check(Check::Engine).result,
            CheckResult::Failed { findings: 1, .. }
        ),
        "{verdict}"
    );
    assert_eq!(verdict.findings_total(), 1, "the rest is still looked at");
    assert_eq!(verdict.check(Check::Root).result, CheckResult::Held);
    let (text, json) = (verdict.to_string(), verdict.to_json());
    assert!(text.contains("disagrees") && json.contains("disagrees"));
    for c in [
        '\u{202e}', '\u{2066}', '\u{200e}', '\u{61c}', '\u{9b}', '\u{7f}',
    ] {
        assert!(!text.contains(c), "{text:?}");
        assert!(!json.contains(c), "{json:?}");
        assert!(json.contains(&format!("\\u{:04x}", u32::from(c))), "{json}");
    }
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(
        value["findings"][0]["message"]
            .as_str()
            .unwrap()
            .contains('\u{202e}'),
        "{json}"
    );
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
