//! Redaction by the settings: every door of the program, trying rules, and proving originals.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;

use serde_json::{Value, json};

use crate::serve::{Gateway, Provider, read_message, upstream};
use crate::support::{Host, PATIENCE};

const EMAIL: &str = "john.doe@example.org";

fn host(section: &str) -> Host {
    let host = Host::with_log();
    configure(&host, section);
    host
}

fn configure(host: &Host, section: &str) {
    let path = host.path("audit-trail.toml");
    let mut config = fs::read_to_string(&path).unwrap();
    config.push_str("\n[redaction]\n");
    config.push_str(section);
    fs::write(path, config).unwrap();
}

/// Everything that the program shows of the log, decrypted.
fn shown(host: &Host) -> String {
    let mut text = String::new();
    for record in host.records(&[]) {
        text += &record.to_string();
        for payload in record["event"]["payloads"].as_array().into_iter().flatten() {
            let id = record["index"].to_string();
            let name = payload["name"].as_str().unwrap();
            text += &host.run(["show", &id, "--payload", name]).exits(0).text();
        }
    }
    text
}

#[test]
fn a_door_forgets_the_rules() {
    let host = host("rule_sets = [\"personal-data@1\", \"secrets@1\"]\ntenant = \"clinic-7\"\n");
    fs::write(host.path("note.txt"), format!("write to {EMAIL}")).unwrap();
    host.run([
        "emit",
        "note",
        "--payload",
        "note=note.txt",
        "--attr",
        &format!("text=to {EMAIL}"),
        "--ref",
        &format!("who={EMAIL}"),
        "--session",
        "s-1",
    ])
    .exits(0);
    host.emit_all(&[
        json!({"kind": "note", "attributes": {"a": {"b": [EMAIL]}}, "payloads": [{"name": "x", "media": "application/json",
            "text": "{\"e\":\"john.doe\\u0040example.org\"}"}]}),
    ]);
    let provider = Provider::start(true);
    let gateway = Gateway::start(&host, &["--upstream", &upstream(&provider)]);
    let mut stream = TcpStream::connect(gateway.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = json!({"messages": [{"content": EMAIL}]}).to_string();
    let head = format!(
        "POST /openai/v1/chat/completions?u={EMAIL} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         x-who: {EMAIL}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    assert!(
        read_message(&mut stream)
            .unwrap()
            .0
            .starts_with("HTTP/1.1 200")
    );
    gateway.process.signal(rustix::process::Signal::TERM);
    let said = gateway.process.end().exits(0);
    assert!(said.err.contains("redaction: personal-data@1, secrets@1"));
    let text = shown(&host);
    assert!(!text.contains("john"), "{text}");
    let names: std::collections::BTreeSet<&str> = text
        .split("<email:")
        .skip(1)
        .map(|rest| &rest.as_bytes()[..32])
        .map(|b| std::str::from_utf8(b).unwrap())
        .collect();
    assert_eq!(
        names.len(),
        1,
        "one person of a tenant has several names: {names:?}"
    );
    assert_eq!(host.records(&["--session", "s-1"]).len(), 1);
    host.run(["doctor"]).exits(0);
    let doctor = host.run(["doctor"]).exits(0).text();
    assert!(
        doctor.contains("ok    redaction    personal-data@1, secrets@1"),
        "{doctor}"
    );
    let config = host.run(["config", "show"]).exits(0).text();
    assert!(
        config.contains("redaction = \"personal-data@1, secrets@1\""),
        "{config}"
    );
    host.run(["verify"]).exits(0);
}

#[test]
fn an_original_is_proven_or_refuted() {
    let host = host("rule_sets = [\"personal-data@1\"]\n");
    let original = format!("write to {EMAIL}\n");
    fs::write(host.path("note.txt"), &original).unwrap();
    fs::write(host.path("other.txt"), "write to jane@example.org\n").unwrap();
    let receipt = host
        .run([
            "emit",
            "note",
            "--payload",
            "note=note.txt",
            "--attr",
            &format!("text=to {EMAIL}"),
        ])
        .exits(0)
        .json();
    let event = receipt["event"].as_str().unwrap().to_owned();
    let prove = |args: &[&str]| host.run(["redaction", "prove", &event].iter().chain(args));
    let said = prove(&["payloads/note", "--original", "note.txt"])
        .exits(0)
        .text();
    assert!(said.starts_with("match: "), "{said}");
    let said = prove(&["payloads/note", "--original", "other.txt"])
        .exits(1)
        .text();
    assert!(said.starts_with("no match: "), "{said}");
    // The value of an attribute, as people write it, and as it is hashed.
    for text in [
        format!("to {EMAIL}\n"),
        format!("\"to {EMAIL}\""),
        format!(" \"to {EMAIL}\" "),
    ] {
        fs::write(host.path("text"), text).unwrap();
        prove(&["attributes/text", "--original", "text"]).exits(0);
    }
    fs::write(host.path("text"), "to jane@example.org").unwrap();
    prove(&["attributes/text", "--original", "text"]).exits(1);
    prove(&["attributes/other", "--original", "text"])
        .fails(1, "no commitment")
        .hints("payloads/note");
    prove(&["payloads/note"]).fails(2, "--print-salt");
    // A stranger does it with what every machine has, as the documentation says.
    let told = prove(&["payloads/note", "--print-salt"]).exits(0).text();
    let word = |name: &str| {
        told.lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    let salt = audit_core::hex::decode(&word("salt ")).unwrap();
    let escaped = salt
        .iter()
        .fold(String::new(), |text, byte| text + &format!("\\{byte:03o}"));
    let recipe = format!(
        "{{ printf 'audit-trail/1 redacted\\0'; printf '{escaped}'; cat note.txt; }} | sha256sum"
    );
    let output = Command::new("sh")
        .args(["-c", &recipe])
        .current_dir(host.work())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout)
            .split(' ')
            .next()
            .unwrap(),
        word("commitment ")
    );
}

#[test]
fn rules_can_not_be_tried_without_a_log() {
    let host = Host::new();
    fs::write(
        host.path("body.json"),
        format!("{{\"a\": \"{EMAIL} 4111 1111 1111 1111\"}}"),
    )
    .unwrap();
    let run = host
        .run([
            "redaction",
            "test",
            "--file",
            "body.json",
            "--rule-set",
            "personal-data@1",
        ])
        .exits(0);
    assert!(
        run.text().starts_with("{\"a\": \"<email:") && run.text().ends_with("> [redacted:card]\"}"),
        "{}",
        run.text()
    );
    let said = run.err.clone();
    assert!(
        said.contains("1 email by rule email of personal-data: pseudonymise"),
        "{said}"
    );
    let run = host
        .run_with(
            b"nothing",
            [
                "redaction",
                "test",
                "--media",
                "text/plain",
                "--rule-set",
                "secrets@1",
            ],
        )
        .exits(0);
    assert_eq!(run.text(), "nothing");
    assert!(run.err.contains("no rule hits"));
    let run = host
        .run_with(
            b"\0",
            ["redaction", "test", "--rule-set", "secrets@1", "--json"],
        )
        .exits(0);
    assert_eq!(
        run.json()["attributes"]["audit.redaction.withheld"][0]["reason"],
        "binary"
    );
    host.run_with(b"", ["redaction", "test"])
        .fails(2, "no rules are configured")
        .hints("personal-data@1");
    host.run_with(b"", ["redaction", "test", "--rule-set", "x@1"])
        .fails(2, "no built-in rule set");
    let rules = host
        .run(["redaction", "rules", "--rule-set", "personal-data@1"])
        .exits(0)
        .text();
    assert!(
        rules.starts_with("# personal-data@1 sha256:2dd025a903c9784b"),
        "{rules}"
    );
    // What is printed is a file of rules.
    fs::write(
        host.path("audit-trail.toml"),
        format!(
            "[redaction]\n{}",
            rules.replace("[[rule_set", "[[redaction.rule_set")
        ),
    )
    .unwrap();
    let again = host.run(["redaction", "rules"]).exits(0).text();
    assert_eq!(again, rules);
    fs::remove_file(host.path("body.json")).unwrap();
}

#[test]
fn a_wrong_rule_lets_a_door_open() {
    for (section, says) in [
        ("", "names no rule set"),
        ("rule_sets = [\"personal@1\"]\n", "no built-in rule set"),
        (
            "rule_sets = [\"secrets@1\"]\nrules = []\n",
            "is wrong at line",
        ),
        (
            "rule_sets = [\"secrets@1\"]\nunreadable = \"pass\"\n",
            "is wrong at line",
        ),
        (
            "rule_sets = [\"secrets@1\"]\ntenant = \"a\"\ntenant_from = \"system\"\n",
            "exclude each other",
        ),
        (
            "rule_sets = [\"secrets@1\"]\ntenant_from = \"x\"\n",
            "is not `system`",
        ),
        ("files = [\"missing.toml\"]\n", "missing.toml can't be read"),
        (
            "[[redaction.rule_set]]\nname = \"own\"\nversion = \"1\"\n[[redaction.rule_set.rule]]\nname = \"r\"\naction = \"mask\"\npatterns = [\"(\"]\n",
            "rule set \"own\": rule \"r\": pattern",
        ),
    ] {
        let host = host(section);
        let before = host.records_as_they_were();
        host.run(["emit", "note"]).fails(2, says);
        host.run(["serve"]).fails(2, says);
        assert_eq!(host.records_as_they_were(), before, "a run was opened");
    }
}

trait Before {
    fn records_as_they_were(&self) -> usize;
}

impl Before for Host {
    /// How many entries there are, whatever the settings say now.
    fn records_as_they_were(&self) -> usize {
        let path = self.path("audit-trail.toml");
        let config = fs::read_to_string(&path).unwrap();
        let (plain, _) = config.split_once("\n[redaction]").unwrap();
        fs::write(&path, plain).unwrap();
        let records = self.records(&[]).len();
        fs::write(&path, &config).unwrap();
        records
    }
}

#[test]
fn own_rules_stand_in_a_file_or_in_the_settings() {
    let host = host(
        "files = [\"rules/clinic.toml\"]\nidentities = \"pseudonymise\"\n[[redaction.rule_set]]\nname = \"inline\"\n\
         version = \"2\"\n[[redaction.rule_set.rule]]\nname = \"ward\"\naction = \"mask\"\npatterns = ['ward-\\d+']\n",
    );
    fs::create_dir(host.path("rules")).unwrap();
    fs::write(
        host.path("rules/clinic.toml"),
        "name = \"clinic\"\nversion = \"2026-11\"\n[[rule]]\nname = \"mrn\"\naction = \"drop\"\npointers = [\"/patient/*\"]\n",
    )
    .unwrap();
    fs::write(
        host.path("b.json"),
        "{\"patient\":{\"name\":\"Ann\"},\"at\":\"ward-12\"}",
    )
    .unwrap();
    host.run([
        "emit",
        "note",
        "--payload",
        "body=b.json",
        "--actor",
        "nurse-4",
        "--session",
        "s-1",
    ])
    .exits(0);
    let record: Value = host
        .records(&[])
        .into_iter()
        .find(|r| r["event"]["kind"] == "note")
        .unwrap();
    let index = record["index"].to_string();
    let body = host
        .run(["show", &index, "--payload", "body"])
        .exits(0)
        .text();
    assert_eq!(
        body,
        "{\"patient\":{\"name\":\"\"},\"at\":\"[redacted:ward]\"}"
    );
    let actor = record["event"]["actor"]["id"].as_str().unwrap();
    assert!(actor.starts_with("<actor:"));
    let sets = &record["event"]["attributes"]["audit.redaction"]["rule_sets"];
    assert_eq!(
        (sets[0]["name"].as_str(), sets[1]["version"].as_str()),
        (Some("clinic"), Some("2"))
    );
    // An operator searches by the name that stands there now.
    assert_eq!(host.records(&["--actor", actor]).len(), 1);
    assert_eq!(host.records(&["--actor", "nurse-4"]).len(), 0);
}
