//! The same commands on PostgreSQL and on S3 Object Lock, against real servers, and a log that moves between engines.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use audit_core::time::{IdSource as _, System};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequestBody;
use serde_json::json;

use crate::support::{Host, ORIGIN, Run, Running};

/// An engine on a server: the URL of a place of its own, and what the environment has to say.
pub(crate) struct Place {
    pub(crate) url: String,
    environment: Vec<(&'static str, String)>,
}

/// The variable; where it isn't set the test says that it skips, unless servers are promised.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn server(variable: &str) -> Option<String> {
    let url = std::env::var(variable).ok();
    if url.is_none() {
        assert!(
            std::env::var_os("AUDIT_TEST_SERVICES").is_none(),
            "{variable} is not set, and AUDIT_TEST_SERVICES is"
        );
        println!("skipped: {variable} is not set");
    }
    url
}

fn fresh(what: &str) -> String {
    format!("{what}{}", System.uuid_v4().simple())
}

impl Place {
    pub(crate) fn postgres() -> Option<Self> {
        let url = server("AUDIT_TEST_POSTGRES_URL")?;
        let (user, rest) = url.split_once("://").unwrap().1.split_once('@').unwrap();
        let (user, password) = user.split_once(':').unwrap();
        Some(Self {
            url: format!("postgres://{user}@{rest}?schema={}", fresh("cli_")),
            environment: vec![("PGPASSWORD", password.to_owned())],
        })
    }

    /// In a bucket with Object Lock.
    pub(crate) fn s3() -> Option<Self> {
        Self::bucket(true)
    }

    pub(crate) fn bucket(lock: bool) -> Option<Self> {
        let endpoint = server("AUDIT_TEST_S3_URL")?;
        let set = |name| std::env::var(name).unwrap();
        let bucket = fresh("cli-");
        let credential = AwsCredential {
            key_id: set("AWS_ACCESS_KEY_ID"),
            secret_key: set("AWS_SECRET_ACCESS_KEY"),
            token: None,
        };
        let region = std::env::var("AWS_REGION").unwrap_or_else(|_| "us-east-1".to_owned());
        let mut request = http::Request::put(format!("{endpoint}/{bucket}"))
            .header("content-length", 0)
            .header("x-amz-bucket-object-lock-enabled", lock.to_string())
            .body(HttpRequestBody::empty())
            .unwrap();
        AwsAuthorizer::new(&credential, "s3", &region)
            .try_authorize(&mut request, None)
            .unwrap();
        // By hand: one request needs no client.
        let address = endpoint.strip_prefix("http://").unwrap();
        let mut head =
            format!("PUT /{bucket} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        for (name, value) in request.headers() {
            if name != "host" {
                write!(head, "{name}: {}\r\n", value.to_str().unwrap()).unwrap();
            }
        }
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        Some(Self {
            url: format!("s3://{bucket}/log?endpoint={endpoint}&retain_days=1"),
            environment: vec![
                ("AWS_ACCESS_KEY_ID", credential.key_id),
                ("AWS_SECRET_ACCESS_KEY", credential.secret_key),
                ("AWS_REGION", region),
            ],
        })
    }

    pub(crate) fn run(&self, host: &Host, args: &[&str]) -> Run {
        self.start(host, args).end()
    }

    /// With what the environment has to say for another place too.
    pub(crate) fn beside(mut self, other: Self) -> Self {
        self.environment.extend(other.environment);
        self
    }

    pub(crate) fn start_with_input(&self, host: &Host, args: &[&str]) -> Running {
        let mut command: Command = host.command(args);
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped());
        host.start(command)
    }

    pub(crate) fn start(&self, host: &Host, args: &[&str]) -> Running {
        let mut command: Command = host.command(args);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        host.start(command)
    }

    /// Everything that somebody does with a log, here instead of in a file.
    fn is_used_as_any_other(&self) {
        let host = Host::new();
        for (name, value) in &self.environment {
            if !name.ends_with("ID") && !name.ends_with("REGION") {
                host.keep_secret(value);
            }
        }
        let init = ["init", "--origin", ORIGIN, "--no-passphrase", "--store"];
        self.run(&host, &[&init[..], &[&self.url]].concat())
            .exits(0);
        // Once only.
        let again = Host::new();
        let run = self.run(&again, &[&init[..], &[&self.url]].concat());
        assert_ne!(run.status.code(), Some(0), "{}", run.err);

        for n in 0..3 {
            let text = format!("n={n}");
            let args = ["emit", "tool.call", "--session", "s-1", "--attr", &text];
            let receipt = self.run(&host, &args).exits(0).json();
            assert!(receipt["index"].as_u64().unwrap() > 0, "{receipt}");
        }
        let found = self.run(&host, &["log", "--json", "--session", "s-1"]);
        let records = found.exits(0).json_lines();
        let numbers: Vec<_> = records
            .iter()
            .map(|r| r["event"]["attributes"]["n"].clone())
            .collect();
        assert_eq!(json!(numbers), json!([0, 1, 2]));
        let verify = [
            "verify",
            "--json",
            "--content",
            "--auditor-key",
            "audit-trail-auditor.key",
        ];
        let verdict = self.run(&host, &verify).exits(0).json();
        assert_eq!(verdict["unpublished"], 0);
        // Of locks that are there, or that the engine doesn't know, nothing has to be told.
        let locks = self.url.starts_with("s3:").then_some(true);
        assert_eq!(verdict["retention_lock"], json!(locks));
        assert_eq!(verdict["notices"], json!([]));
        let doctor = self.run(&host, &["doctor"]).exits(0);
        assert_eq!(doctor.text().contains("ok    object lock"), locks.is_some());
        self.run(&host, &["config", "show"]).exits(0);

        // Into a file, which is the same log.
        let copied = self
            .run(&host, &["copy", "--json", "--to", "sqlite:copy.db"])
            .exits(0)
            .json();
        let of_copy = [&verify[..], &["--store", "sqlite:copy.db"]].concat();
        let other = self.run(&host, &of_copy).exits(0).json();
        assert_eq!(other["checkpoint"], verdict["checkpoint"]);
        assert_eq!(copied["published"], copied["size"]);
    }

    /// A log that was made in a file is the same one here.
    fn takes_a_log_over(&self) {
        let host = Host::with_log();
        host.emit_all(&[
            json!({"kind": "tool.call", "session_id": "s-1"}),
            json!({"kind": "tool.result", "session_id": "s-1"}),
        ]);
        let before = host.verdict(&["--content"]).1;
        self.run(&host, &["copy", "--to", &self.url]).exits(0);
        let run = self.run(
            &host,
            &["verify", "--json", "--content", "--store", &self.url],
        );
        assert_eq!(run.exits(0).json()["checkpoint"], before["checkpoint"]);
        // It goes on there.
        let emit = ["emit", "tool.call", "--store", &self.url];
        self.run(&host, &emit).exits(0);
        // The file is behind now, and says so.
        assert_eq!(host.verdict(&[]).0.status.code(), Some(1));
    }
}

#[test]
fn a_log_on_postgresql_is_used_as_any_other() {
    if let Some(place) = Place::postgres() {
        place.is_used_as_any_other();
    }
}

#[test]
fn a_log_in_a_bucket_is_used_as_any_other() {
    if let Some(place) = Place::s3() {
        place.is_used_as_any_other();
    }
}

#[test]
fn a_log_moves_from_a_file_to_postgresql() {
    if let Some(place) = Place::postgres() {
        place.takes_a_log_over();
    }
}

#[test]
fn a_log_moves_from_a_file_into_a_bucket() {
    if let Some(place) = Place::s3() {
        place.takes_a_log_over();
    }
}

#[test]
fn migrations_are_told_and_done_only_when_asked_for() {
    let Some(place) = Place::postgres() else {
        return;
    };
    let host = Host::new();
    let store = ["--store", &place.url];
    let refused = place.run(
        &host,
        &[
            &[
                "init",
                "--origin",
                ORIGIN,
                "--no-passphrase",
                "--no-auto-migrate",
            ],
            &store[..],
        ]
        .concat(),
    );
    assert_ne!(refused.status.code(), Some(0));
    let status = place.run(&host, &[&["migrate", "status"], &store[..]].concat());
    assert!(status.text().contains("pending"), "{}", status.text());
    place
        .run(&host, &[&["migrate", "up"], &store[..]].concat())
        .exits(0);
    let init = [
        "init",
        "--origin",
        ORIGIN,
        "--no-passphrase",
        "--no-auto-migrate",
    ];
    place.run(&host, &[&init[..], &store[..]].concat()).exits(0);
}

#[test]
fn a_password_in_a_flag_is_refused_and_not_repeated() {
    let host = Host::new();
    host.keep_secret("hunter2");
    let url = "postgres://ann:hunter2@127.0.0.1:1/audit";
    let mut command = host.command(["init", "--origin", ORIGIN, "--no-passphrase"]);
    command.env("AUDIT_TRAIL_STORE", url);
    let run = host.start(command).end().exits(2);
    assert!(run.err.contains(".pgpass"), "{}", run.err);
    let mut command = host.command(["config", "show"]);
    command.env("AUDIT_TRAIL_STORE", url);
    let run = host.start(command).end().exits(0);
    assert!(run.text().contains("127.0.0.1"), "{}", run.text());
}
