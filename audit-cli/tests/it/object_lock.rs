//! Object Lock, as an operator sees it: reports say where it is missing.

use std::fs;

use serde_json::{Value, json};

use crate::engines::Place;
use crate::support::{Host, ORIGIN, Run};

/// The words that every report has for a log without Object Lock.
const WITHOUT: &str = "made without Object Lock";

const INIT: [&str; 4] = ["init", "--origin", ORIGIN, "--no-passphrase"];

#[track_caller]
fn tells(run: &Run, expected: bool) {
    let said = run.err.contains(WITHOUT) || run.text().contains(WITHOUT);
    assert_eq!(
        said,
        expected,
        "{}\n{}\n{}",
        run.command,
        run.text(),
        run.err
    );
}

fn tells_in_verdict(verdict: &Value) -> bool {
    let notices = verdict["notices"].as_array().unwrap();
    notices
        .iter()
        .any(|notice| notice.as_str().unwrap().contains(WITHOUT))
}

fn facade(host: &Host, url: &str) -> audit_tracer::Verdict {
    let key = format!("file:{}", host.path("audit-trail.key").display());
    let builder = audit_tracer::AuditTracer::builder()
        .store(url)
        .keys(key)
        .unsealed_keys(true)
        .state_dir(host.state_dir());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let tracer = builder.build().await.unwrap();
        let verdict = tracer.verify_integrity().await.unwrap();
        tracer.close().await.unwrap();
        verdict
    })
}

#[test]
fn every_report_says_when_a_log_lies_without_object_lock() {
    let Some(place) = Place::bucket(false) else {
        return;
    };
    let url = place.url.as_str();
    let host = Host::new();
    // Nobody ends up without it by chance.
    let init = [&INIT[..], &["--store", url]].concat();
    place
        .run(&host, &init)
        .fails(2, "init --without-object-lock");
    let made = [&init[..], &["--without-object-lock"]].concat();
    tells(&place.run(&host, &made).exits(0), true);
    // The settings name a store that works, and the flag isn't needed again.
    let settings = fs::read_to_string(host.path("audit-trail.toml")).unwrap();
    assert!(settings.contains("object_lock=no"), "{settings}");
    let emit = ["emit", "tool.call", "--session", "s-1"];
    place.run(&host, &emit).exits(0);
    tells(&place.run(&host, &["verify"]).exits(0), true);
    let verdict = place.run(&host, &["verify", "--json"]).exits(0).json();
    assert_eq!(verdict["retention_lock"], json!(false));
    assert!(tells_in_verdict(&verdict), "{verdict}");
    tells(&place.run(&host, &["doctor"]).exits(0), true);
    tells(&place.run(&host, &["export", "all.log"]).exits(0), true);
    let bundle = ["bundle", "--session", "s-1", "-o", "s-1.bundle"];
    tells(&place.run(&host, &bundle).exits(0), true);
    // A service that links the facade is told the same.
    let verdict = facade(&host, &format!("{url}&object_lock=no"));
    assert_eq!(verdict.retention_lock(), Some(false));
    let notices = verdict.notices();
    assert!(notices.iter().any(|n| n.contains(WITHOUT)), "{verdict}");
    // A copy in a file isn't such a log; that it is made from one is said.
    let copy = ["copy", "--json", "--to", "sqlite:copy.db"];
    let copied = place.run(&host, &copy).exits(0);
    tells(&copied, true);
    assert_eq!(copied.json()["target_retention_lock"], Value::Null);
    let of_copy = ["verify", "--json", "--store", "sqlite:copy.db"];
    let verdict = place.run(&host, &of_copy).exits(0).json();
    assert_eq!(verdict["retention_lock"], Value::Null);
    assert!(!tells_in_verdict(&verdict), "{verdict}");
    // The other way round, into another prefix; and as a mirror.
    let (bucket, query) = url.split_once('?').unwrap();
    let other = format!("{bucket}-2?{query}&object_lock=no");
    let copy = ["copy", "--from", "sqlite:copy.db", "--to", &other];
    tells(&place.run(&host, &copy).exits(0), true);
    let third = format!("{bucket}-3?{query}&object_lock=no");
    let mirror = ["mirror", "--store", "sqlite:copy.db", "--to", &third];
    let mut running = place.start(&host, &mirror);
    running.note_with(WITHOUT);
    running.signal(rustix::process::Signal::TERM);
    running.end().exits(0);
}

#[test]
fn only_a_log_in_a_bucket_is_made_without_object_lock() {
    let host = Host::new();
    let args = [&INIT[..], &["--without-object-lock"]].concat();
    host.run(&args).fails(2, "SQLite has no retention lock");
    tells(&host.run(INIT).exits(0), false);
    tells(&host.run(["verify"]).exits(0), false);
    tells(&host.run(["doctor"]).exits(0), false);
    let copy = ["copy", "--to", "sqlite:copy.db"];
    tells(&host.run(copy).exits(0), false);
    let Some(place) = Place::s3() else { return };
    let host = Host::new();
    let said = format!("{}&object_lock=yes", place.url);
    place
        .run(&host, &[&args[..], &["--store", &said]].concat())
        .fails(2, "object_lock=yes");
    let init = [&INIT[..], &["--store", &place.url]].concat();
    tells(&place.run(&host, &init).exits(0), false);
    tells(&place.run(&host, &["verify"]).exits(0), false);
    tells(&place.run(&host, &["doctor"]).exits(0), false);
}
