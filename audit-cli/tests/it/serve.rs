//! `serve`: the gateway as a process that is started, stopped, killed, and runs out of its log.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Host, PATIENCE, Running};

pub(crate) const CREDENTIAL: &str = "sk-test-0123456789-do-not-keep";
const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-x","choices":[{"index":0,"message":{"role":"assistant","content":"four"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#;

/// A provider that gives every request the same answer, or never any.
pub(crate) struct Provider {
    address: SocketAddr,
}

impl Provider {
    pub(crate) fn start(answers: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                std::thread::spawn(move || {
                    let mut stream = stream;
                    while read_message(&mut stream).is_some() {
                        if !answers {
                            continue;
                        }
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ANSWER}",
                            ANSWER.len()
                        );
                        if stream.write_all(answer.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address }
    }
}

/// One HTTP message with a content length: its head and its body.
pub(crate) fn read_message(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length:")
                .map(str::to_owned)
        })
        .map_or(0, |n| n.trim().parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

pub(crate) struct Gateway {
    pub(crate) process: Running,
    pub(crate) address: SocketAddr,
}

impl Gateway {
    pub(crate) fn start(host: &Host, flags: &[&str]) -> Self {
        Self::start_with(host, flags, |_| {})
    }

    /// The same, prepared further.
    pub(crate) fn start_with(host: &Host, flags: &[&str], prepare: impl Fn(&mut Command)) -> Self {
        host.keep_secret(CREDENTIAL);
        let mut command = host.command(["serve", "--listen", "127.0.0.1:0"].iter().chain(flags));
        command.stdin(Stdio::piped());
        prepare(&mut command);
        Self::of(host.start(command))
    }

    fn of(mut process: Running) -> Self {
        let said = process.note_with("listening on http://");
        let address = said
            .rsplit("http://")
            .next()
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        Self { process, address }
    }
}

/// Sends a request; status and body of the answer.
fn post(gateway: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    try_post(gateway, path).unwrap()
}

/// The same; `None` if the answer is cut.
fn try_post(gateway: SocketAddr, path: &str) -> Option<(u16, Vec<u8>)> {
    let mut stream = send(gateway, path);
    let (head, body) = read_message(&mut stream)?;
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    Some((status, body))
}

fn send(gateway: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body =
        json!({"model": "gpt-x", "messages": [{"role": "user", "content": "2 + 2?"}]}).to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {gateway}\r\ncontent-type: application/json\r\n\
         authorization: Bearer {CREDENTIAL}\r\nx-audit-session: s-1\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

pub(crate) fn upstream(provider: &Provider) -> String {
    format!("openai=http://{}", provider.address)
}

fn kinds(host: &Host) -> Vec<String> {
    host.records(&[])
        .iter()
        .map(|r| r["event"]["kind"].as_str().unwrap().to_owned())
        .collect()
}

pub(crate) const CHAT: &str = "/openai/v1/chat/completions";

#[test]
fn serve_records_what_it_passes_on_and_ends_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let host = Host::with_log();
        let provider = Provider::start(true);
        let gateway = Gateway::start(&host, &["--upstream", &upstream(&provider)]);
        let (status, body) = post(gateway.address, CHAT);
        assert_eq!((status, body.as_slice()), (200, ANSWER.as_bytes()));
        gateway.process.signal(signal);
        let run = gateway.process.end().exits(0);
        assert_eq!(run.text(), "", "stdout is for data");
        assert!(
            run.err.contains("1 requests recorded, 1 answers recorded"),
            "{}",
            run.err
        );

        assert_eq!(
            kinds(&host),
            [
                "log.opened",
                "writer.closed",
                "writer.opened",
                "llm.request",
                "llm.response",
                "writer.closed"
            ]
        );
        let response = host.run(["show", "4"]).exits(0).json();
        assert_eq!(response["event"]["session_id"], "s-1");
        assert_eq!(response["event"]["payloads"][0]["text"], ANSWER);
        let (run, verdict) =
            host.verdict(&["--content", "--auditor-key", "audit-trail-auditor.key"]);
        run.exits(0);
        assert_eq!(verdict["open_runs_total"], 0);
        for name in crate::support::names(&host.work()) {
            let bytes = fs::read(host.path(&name)).unwrap();
            let found = bytes
                .windows(CREDENTIAL.len())
                .any(|w| w == CREDENTIAL.as_bytes());
            assert!(!found, "{name} holds the provider's credential");
        }
    }
}

/// Both events of an exchange lead to the same view, also where others stand between them.
#[test]
fn an_exchange_is_shown_from_either_of_its_events() {
    let host = Host::with_log();
    let provider = Provider::start(true);
    let gateway = Gateway::start(&host, &["--upstream", &upstream(&provider)]);
    for _ in 0..2 {
        assert_eq!(post(gateway.address, CHAT).0, 200);
    }
    gateway.process.signal(Signal::TERM);
    gateway.process.end().exits(0);
    let lines = host.emit_all(&[json!({"kind": "llm.request", "session_id": "s-1"})]);
    assert_eq!(lines.len(), 1);

    let records = host.records(&["--session", "s-1"]);
    let kinds: Vec<_> = records
        .iter()
        .map(|r| r["event"]["kind"].as_str())
        .collect();
    let (asked, answered) = (Some("llm.request"), Some("llm.response"));
    assert_eq!(kinds, [asked, answered, asked, answered, asked]);
    let shown: Vec<Value> = records
        .iter()
        .map(|record| {
            let id = record["event"]["id"].as_str().unwrap();
            host.run(["show", id, "--exchange"]).exits(0).json()
        })
        .collect();
    assert_eq!(shown[0], shown[1]);
    assert_eq!(shown[2], shown[3]);
    assert_ne!(shown[0], shown[2], "both requests have the same answer");
    let first = &shown[0];
    for (place, expected) in [
        ("/version", json!(1)),
        ("/provider", json!("openai")),
        ("/api", json!("chat")),
        ("/known", json!(true)),
        ("/request/model", json!("gpt-x")),
        ("/response/status", json!(200)),
        ("/response/messages/0/parts/0/text", json!("four")),
        ("/response/messages/0/finish_reason", json!("stop")),
        ("/response/usage/total", json!(4)),
        ("/events/request/id", records[0]["event"]["id"].clone()),
        ("/events/response/id", records[1]["event"]["id"].clone()),
        ("/events/response/outcome", json!("complete")),
    ] {
        assert_eq!(first.pointer(place), Some(&expected), "{place} of {first}");
    }
    // A request without an answer is shown without one.
    assert_eq!(shown[4]["response"], Value::Null);
    assert_eq!(shown[4]["events"]["response"], Value::Null);
    host.run(["show", "0", "--exchange"])
        .fails(1, "has no content that can be read");
    host.emit_all(&[json!({"kind": "note"})]);
    let note = host.records(&["--kind", "note"])[0]["index"].to_string();
    host.run(["show", &note, "--exchange"])
        .fails(1, "is of the kind note")
        .hints("llm.request and llm.response");
}

#[test]
fn a_log_goes_on_after_a_gateway_was_killed() {
    let host = Host::with_log();
    let (silent, provider) = (Provider::start(false), Provider::start(true));
    let gateway = Gateway::start(&host, &["--upstream", &upstream(&silent)]);
    // A request is on its way, recorded but not answered, when the process is killed.
    let waiting = send(gateway.address, CHAT);
    let mut follow = host.spawn(["log", "--follow", "--json", "--kind", "llm.request"]);
    let record: Value = serde_json::from_str(&follow.line()).unwrap();
    assert_eq!(record["index"], 3);
    drop(follow);
    gateway.process.signal(Signal::KILL);
    assert_eq!(gateway.process.end().status.code(), None);
    drop(waiting);

    let (run, verdict) = host.verdict(&[]);
    run.exits(0);
    assert_eq!(verdict["open_runs_total"], 1);
    let gateway = Gateway::start(&host, &["--upstream", &upstream(&provider)]);
    assert_eq!(post(gateway.address, CHAT).0, 200);
    gateway.process.signal(Signal::TERM);
    gateway.process.end().exits(0);
    let (run, verdict) = host.verdict(&["--content", "--auditor-key", "audit-trail-auditor.key"]);
    run.exits(0);
    assert_eq!(
        verdict["open_runs_total"], 1,
        "the run that was cut is not told"
    );
    assert_eq!(verdict["unpublished"], 0);
    assert!(kinds(&host).iter().filter(|k| *k == "llm.request").count() == 2);
}

/// The store is held by somebody else, and the gateway is killed while calls go on without it.
#[test]
fn what_was_answered_during_an_outage_is_in_the_log_although_the_gateway_was_killed() {
    let host = Host::with_log();
    let settings = fs::read_to_string(host.path("audit-trail.toml")).unwrap();
    let spooling = "[serve]\non_audit_failure = \"spool\"\n[serve.limits]\ndegrade_after_ms = 200\n[serve.intercept]";
    fs::write(
        host.path("audit-trail.toml"),
        settings.replace("[serve.intercept]", spooling),
    )
    .unwrap();
    let provider = Provider::start(true);
    let flags = upstream(&provider);
    let gateway = Gateway::start(&host, &["--upstream", &flags]);
    assert_eq!(post(gateway.address, CHAT).0, 200);
    let lock = fs::OpenOptions::new()
        .write(true)
        .open(host.path("audit-trail.db.write.lock"))
        .unwrap();
    lock.lock().unwrap();
    for _ in 0..3 {
        assert_eq!(post(gateway.address, CHAT).0, 200);
    }
    gateway.process.signal(Signal::KILL);
    assert_eq!(gateway.process.end().status.code(), None);
    lock.unlock().unwrap();
    let count = |kind: &str| kinds(&host).iter().filter(|k| *k == kind).count();
    assert!(count("llm.response") < 4, "nothing was spooled");

    let mut gateway = Gateway::start(&host, &["--upstream", &flags]);
    gateway.process.note_with("were brought into the log");
    assert_eq!(post(gateway.address, CHAT).0, 200);
    gateway.process.signal(Signal::TERM);
    gateway.process.end().exits(0);
    assert_eq!(count("llm.request"), 5);
    assert_eq!(count("llm.response"), 5);
    assert_eq!(
        count("log.capture_degraded"),
        1,
        "its beginning; its end died with it"
    );
    let (run, _) = host.verdict(&["--content", "--auditor-key", "audit-trail-auditor.key"]);
    run.exits(0);
    let gaps = host.run(["gaps"]).exits(0);
    assert_eq!(
        gaps.text().matches(" records, ").count(),
        2,
        "{}",
        gaps.text()
    );

    // Numbers of a third one, with a hole.
    for number in [1, 2, 5] {
        let number = format!("audit.producer.number={number}");
        host.run([
            "emit",
            "x",
            "--attr",
            "audit.producer.id=other",
            "--attr",
            &number,
        ])
        .exits(0);
    }
    let gaps = host.run(["gaps"]).exits(1);
    assert!(gaps.text().contains("HOLE: 3 to 4"), "{}", gaps.text());
    let line = host.run(["gaps", "--json"]).exits(1);
    let line: Value = serde_json::from_str(line.text().lines().last().unwrap()).unwrap();
    assert_eq!(
        (&line["producer"], &line["holes"]),
        (&json!("other"), &json!([[3, 4]]))
    );
}

#[test]
fn two_gateways_and_a_writer_on_one_store_make_one_log_without_a_gap() {
    let host = Host::with_log();
    let provider = Provider::start(true);
    let flags = upstream(&provider);
    let first = Gateway::start(&host, &["--upstream", &flags]);
    let second = Gateway::start(&host, &["--upstream", &flags]);
    std::thread::scope(|scope| {
        for address in [first.address, second.address] {
            scope.spawn(move || {
                for _ in 0..20 {
                    assert_eq!(post(address, CHAT).0, 200);
                }
            });
        }
        for _ in 0..3 {
            host.run(["emit", "tool.call"]).exits(0);
        }
    });
    for gateway in [first, second] {
        gateway.process.signal(Signal::TERM);
        gateway.process.end().exits(0);
    }
    let (run, verdict) = host.verdict(&[
        "--content",
        "--auditor-key",
        "audit-trail-auditor.key",
        "--full",
    ]);
    run.exits(0);
    // The first run, two gateways with twenty exchanges each, three short runs.
    assert_eq!(verdict["size"], 2 + 2 * (2 + 40) + 3 * 3);
    assert_eq!(verdict["open_runs_total"], 0);
    assert_eq!(verdict["unpublished"], 0);
}

#[test]
fn a_provider_that_is_down_is_a_502_and_an_unknown_one_a_404() {
    let host = Host::with_log();
    // Bound and dropped: nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let gateway = Gateway::start(&host, &["--upstream", &format!("openai=http://{nobody}")]);
    let (status, body) = post(gateway.address, CHAT);
    assert_eq!(status, 502);
    let error: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(error["error"]["type"], "audit_gateway_error");
    assert_eq!(error["error"]["code"], "upstream_unreachable");
    let (status, body) = post(gateway.address, "/nobody/v1/chat/completions");
    assert_eq!(status, 404);
    let error: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(error["error"]["code"], "unknown_upstream");
    gateway.process.signal(Signal::TERM);
    gateway.process.end().exits(0);
    // Nothing came back, and the record says so.
    let records = host.records(&["--kind", "llm.response"]);
    assert!(
        records
            .iter()
            .all(|r| r["event"]["attributes"]["audit.outcome"] != "complete"),
        "{records:?}"
    );
    host.run(["verify"]).exits(0);
}

#[test]
fn a_wrong_call_of_serve_says_what_is_wrong_and_leaves_no_run_behind() {
    let host = Host::with_log();
    for (args, why) in [
        (["--upstream", "foo"], "NAME=VALUE"),
        (["--upstream", "foo=bar"], "https://"),
        (
            ["--upstream", "foo=https://user:word@host"],
            "user name or password",
        ),
        (["--listen", "x"], "IP:PORT"),
        (["--listen", "127.0.0.1"], "IP:PORT"),
    ] {
        let run = host.run(["serve"].iter().chain(&args)).fails(2, why);
        assert!(!run.err.contains("user:word"), "{}", run.err);
        if why != "NAME=VALUE" {
            run.hints("for example");
        }
    }
    assert_eq!(host.verdict(&[]).1["size"], 2, "a wrong call was recorded");
    host.run([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        "A!=http://127.0.0.1:1",
    ])
    .fails(2, "upstream name");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    host.run(["serve", "--listen", &address]).fails(1, &address);
    host.run(["verify"]).exits(0);
}

/// The disk is full: what can't be recorded isn't passed on.
#[test]
fn a_request_that_can_t_be_recorded_is_a_503() {
    let host = Host::with_log();
    let provider = Provider::start(true);
    host.keep_secret(CREDENTIAL);
    // No file of the process may grow beyond this many blocks of 512 bytes; a write beyond fails, as on a full disk.
    let blocks = fs::metadata(host.db()).unwrap().len() / 512 + 400;
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let mut command = Command::new("sh");
    host.prepare(&mut command);
    command
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_audit-trail")])
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            &upstream(&provider),
        ]);
    let gateway = Gateway::of(host.start(command));
    let mut recorded = 0;
    let refusal = loop {
        match try_post(gateway.address, CHAT) {
            Some((200, _)) => recorded += 1,
            Some(refusal) => break refusal,
            // The request found room, the answer didn't: its end is held back.
            None => {}
        }
        assert!(recorded < 1000, "the limit has no effect");
    };
    assert_eq!(refusal.0, 503, "{}", String::from_utf8_lossy(&refusal.1));
    let error: Value = serde_json::from_slice(&refusal.1).unwrap();
    assert_eq!(error["error"]["code"], "audit_log_unavailable");
    // Stopped in order, it would try for a while to record the answer that it held back.
    drop(gateway);
    // With room again the log goes on, and everything that was answered stands in it.
    host.run(["emit", "tool.call"]).exits(0);
    let (run, _) = host.verdict(&["--content", "--auditor-key", "audit-trail-auditor.key"]);
    run.exits(0);
    let answers = kinds(&host).iter().filter(|k| *k == "llm.response").count();
    assert!(
        recorded > 0 && answers >= recorded,
        "{recorded} exchanges were answered, {answers} answers stand in the log"
    );
}

#[test]
fn nothing_is_acknowledged_by_a_store_that_was_deleted() {
    let host = Host::with_log();
    let provider = Provider::start(true);
    let gateway = Gateway::start(&host, &["--upstream", &upstream(&provider)]);
    assert_eq!(post(gateway.address, CHAT).0, 200);
    fs::remove_file(host.db()).unwrap();
    assert_eq!(post(gateway.address, CHAT).0, 503);
}
