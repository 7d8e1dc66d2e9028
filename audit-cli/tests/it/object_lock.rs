//! Object Lock, as an operator sees it: reports say where it is missing; retention and legal holds, and their records.

use std::fs;

use audit_core::time::{Clock as _, System};
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

const ANSWERS: [&str; 4] = ["--by", "u-17", "--reason", "matter 4711"];

impl Place {
    fn emit(&self, host: &Host, sessions: &[&str]) {
        let mut running = self.start_with_input(host, &["emit", "-"]);
        for session in sessions {
            let event = json!({"kind": "tool.call", "session_id": session});
            running.write(format!("{event}\n").as_bytes());
        }
        running.end().exits(0);
    }

    /// How many of the objects are held.
    fn held(&self, host: &Host, at: &[&str]) -> u64 {
        let status = ["retention", "status", "--json"];
        let status = self.run(host, &[&status[..], at].concat()).exits(0).json();
        assert_eq!(status["unlocked"], 0, "{status}");
        assert_eq!(status["retain_days"], 1, "{status}");
        // A request for each, and few more.
        let count = |name: &str| status[name].as_u64().unwrap();
        let (requests, objects) = (count("requests"), count("objects"));
        // Opening, and finding the end, take some too.
        assert!(requests >= objects && requests <= objects + 32, "{status}");
        count("held")
    }

    /// The holds in force, and whether all that they are meant for is held.
    fn holds(&self, host: &Host, at: &[&str]) -> (bool, Vec<Value>) {
        let run = self.run(host, &[&["hold", "status", "--json"], at].concat());
        let code = run.status.code();
        assert!(matches!(code, Some(0 | 1)), "{}", run.err);
        (code == Some(0), run.json_lines())
    }

    fn hold(&self, host: &Host, what: &[&str]) -> Run {
        self.run(host, &[&["hold"], what, &ANSWERS].concat())
    }
}

fn outcomes(records: &[Value]) -> Vec<&str> {
    let attributes = records.iter().map(|r| &r["event"]["attributes"]);
    attributes
        .map(|attributes| attributes["audit.outcome"].as_str().unwrap())
        .collect()
}

#[test]
fn a_hold_covers_what_a_session_has_and_is_on_record_before_and_behind() {
    let Some(place) = Place::s3() else { return };
    let host = Host::new();
    place
        .run(&host, &[&INIT[..], &["--store", &place.url]].concat())
        .exits(0);
    // Two sessions in the same batches.
    place.emit(&host, &["s-1", "s-2", "s-1", "s-2"]);
    place
        .hold(&host, &["set", "--session", "s-9"])
        .fails(1, "no entries");
    assert_eq!(place.held(&host, &[]), 0);
    let first = place.hold(&host, &["set", "--session", "s-1"]).exits(0);
    let first = first.text().trim().to_owned();
    assert!(place.held(&host, &[]) >= 1);
    let (all, holds) = place.holds(&host, &[]);
    assert!(all, "{holds:?}");
    assert_eq!(
        (&holds[0]["hold"], &holds[0]["entries"]),
        (&json!(first), &json!(2))
    );
    assert_eq!(holds[0]["reason"], "matter 4711");

    // What the session gets later isn't held until somebody says so again.
    place.emit(&host, &["s-1"]);
    let (all, holds) = place.holds(&host, &[]);
    assert!(!all, "an entry behind the hold was not told");
    assert_eq!(holds[0]["not_held"].as_array().unwrap().len(), 1);
    let text = place.run(&host, &["hold", "status"]).exits(1).text();
    assert!(text.contains("1 NOT HELD"), "{text}");
    place.hold(&host, &["set", "--session", "s-1"]).exits(0);
    let (all, holds) = place.holds(&host, &[]);
    assert!(all && holds.len() == 2, "{holds:?}");

    // Another hold on the same objects outlives the release of these.
    place.hold(&host, &["set", "--session", "s-2"]).exits(0);
    let before = place.held(&host, &[]);
    let released = place.hold(&host, &["release", "--session", "s-1"]).exits(0);
    assert_eq!(released.text().lines().count(), 2);
    assert!(released.err.contains("stay held"), "{}", released.err);
    let (all, holds) = place.holds(&host, &[]);
    assert!(all, "releasing one hold took off another");
    assert_eq!(holds.len(), 1);
    assert_eq!(holds[0]["session"], "s-2");
    assert!(place.held(&host, &[]) < before);
    let id = holds[0]["hold"].as_str().unwrap().to_owned();
    place.hold(&host, &["release", "--hold", &id]).exits(0);
    assert_eq!(place.held(&host, &[]), 0);
    place
        .hold(&host, &["release", "--hold", &id])
        .fails(1, "no such legal hold");

    let records = |kind: &str| {
        let log = ["log", "--json", "--kind", kind];
        place.run(&host, &log).exits(0).json_lines()
    };
    let set = records("log.legal_hold_set");
    assert_eq!(outcomes(&set), ["requested", "success"].repeat(3));
    let both = ["requested", "requested", "success", "success"];
    let released = records("log.legal_hold_released");
    assert_eq!(
        outcomes(&released),
        [&both[..], &["requested", "success"]].concat()
    );
    assert_eq!(
        set[1]["event"]["correlation"]["parent_event"],
        set[0]["event"]["id"]
    );
    assert_eq!(set[1]["event"]["refs"]["hold_id"], first);
    assert_eq!(set[1]["event"]["attributes"]["audit.count.entries"], 2);
    assert_eq!(set[1]["event"]["actor"]["id"], "u-17");
    place.run(&host, &["verify", "--content"]).exits(0);
}

#[test]
fn a_hold_that_nobody_knows_the_end_of_is_called_so_and_can_be_released() {
    let Some(place) = Place::s3() else { return };
    let host = Host::new();
    place
        .run(&host, &[&INIT[..], &["--store", &place.url]].concat())
        .exits(0);
    place.emit(&host, &["s-1"]);
    // Of a process that died behind its first record there is this one.
    let id = "018f0000-0000-7000-8000-000000000001";
    let shown = place.url.replace("&retain_days=1", "");
    let attributes = [
        format!("audit.hold.id={id}"),
        "audit.hold.session=s-1".to_owned(),
        format!("audit.hold.store={shown}"),
        "audit.outcome=requested".to_owned(),
    ];
    let mut emit = vec!["emit", "log.legal_hold_set"];
    for attribute in &attributes {
        emit.extend(["--attr", attribute]);
    }
    place.run(&host, &emit).exits(0);
    let text = place.run(&host, &["hold", "status"]).exits(1).text();
    assert!(text.contains("that it was set is not recorded"), "{text}");
    assert!(text.contains("1 NOT HELD"), "{text}");
    place.hold(&host, &["release", "--hold", id]).exits(0);
    assert!(place.holds(&host, &[]).1.is_empty());
}

#[test]
fn retention_is_extended_never_shortened_and_recorded() {
    let Some(place) = Place::s3() else { return };
    let host = Host::new();
    place
        .run(&host, &[&INIT[..], &["--store", &place.url]].concat())
        .exits(0);
    place.emit(&host, &["s-1"]);
    let day = 86_400_000_000;
    let later = |micros: i64| System.now().plus_micros(micros).to_string();
    let extend = |until: &str| {
        let args = ["retention", "extend", "--until", until];
        place.run(&host, &[&args[..], &ANSWERS].concat())
    };
    let until = later(3 * day);
    let extended = extend(&until).exits(0).text();
    let count = |text: &str| -> u64 { text.split_whitespace().nth(1).unwrap().parse().unwrap() };
    assert!(count(&extended) >= 3, "{extended}");
    let status = ["retention", "status", "--json"];
    let status = place.run(&host, &status).exits(0).json();
    // Whole seconds, and none too few.
    assert!(
        status["latest"].as_str().unwrap() >= until.as_str(),
        "{status}"
    );
    // Nothing is locked for a shorter time, and nothing was: all have a day.
    assert_eq!(count(&extend(&later(day / 2)).exits(0).text()), 0);
    let after = place
        .run(&host, &["retention", "status", "--json"])
        .exits(0);
    assert_eq!(after.json()["latest"], status["latest"]);
    let text = place.run(&host, &["retention", "status"]).exits(0).text();
    assert!(text.contains("at least until"), "{text}");
    extend(&later(-day)).fails(2, "is past");
    extend("tomorrow").fails(2, "");
    let log = ["log", "--json", "--kind", "log.retention_applied"];
    let records = place.run(&host, &log).exits(0).json_lines();
    assert_eq!(outcomes(&records), ["requested", "success"].repeat(2));
    place.run(&host, &["verify"]).exits(0);
}

/// The log is in a file, and a copy of it in a bucket: that one is locked, and the acts stand in the log.
#[test]
fn a_copy_in_a_bucket_is_held_without_becoming_another_history() {
    let Some(place) = Place::s3() else { return };
    let host = Host::with_log();
    host.emit_all(&[json!({"kind": "tool.call", "session_id": "s-1"})]);
    let copy = ["copy", "--to", &place.url];
    place.run(&host, &copy).exits(0);
    let at = ["--at", place.url.as_str()];
    let set = [&["set", "--session", "s-1"], &at[..]].concat();
    place.hold(&host, &set).exits(0);
    assert!(place.held(&host, &at) >= 1);
    let (all, holds) = place.holds(&host, &at);
    assert!(all && holds.len() == 1, "{holds:?}");
    // The copy goes on, with the records of the hold.
    place.run(&host, &copy).exits(0);
    let there = ["verify", "--content", "--store", &place.url];
    place.run(&host, &there).exits(0);
    let release = [&["release", "--session", "s-1"], &at[..]].concat();
    place.hold(&host, &release).exits(0);
    assert_eq!(place.held(&host, &at), 0);
    // Another log's bucket isn't this one's copy.
    let third = Host::new();
    third
        .run(["init", "--no-passphrase", "--origin", "log.example/other"])
        .exits(0);
    place
        .run(&third, &[&["hold", "status"], &at[..]].concat())
        .fails(2, "isn't a store of the log");
}

#[test]
fn engines_without_locks_say_which_has_them() {
    let host = Host::with_log();
    let before = host.run(["log", "--json"]).exits(0).json_lines().len();
    let extend = ["retention", "extend", "--until", "2099-01-01T00:00:00Z"];
    let set = ["hold", "set", "--session", "s-1"];
    let release = ["hold", "release", "--session", "s-1"];
    let acts = [&extend[..], &set, &release].map(|act| [act, &ANSWERS].concat());
    let looks = [vec!["retention", "status"], vec!["hold", "status"]];
    for args in acts.iter().chain(&looks) {
        host.run(args)
            .fails(2, "only a log in a bucket (s3://…) can have them");
        if let Some(place) = Place::postgres() {
            let args = [&args[..], &["--store", &place.url]].concat();
            place.run(&host, &args).fails(2, "PostgreSQL has no");
        }
    }
    // Nothing was written.
    assert_eq!(
        host.run(["log", "--json"]).exits(0).json_lines().len(),
        before
    );
    if let Some(place) = Place::bucket(false) {
        let url = format!("{}&object_lock=no", place.url);
        place.run(&host, &["copy", "--to", &url]).exits(0);
        for args in acts.iter().chain(&looks) {
            let args = [&args[..], &["--at", &url]].concat();
            place.run(&host, &args).fails(2, WITHOUT);
        }
    }
}
