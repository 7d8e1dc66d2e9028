//! A gateway that is killed under traffic: every call that was answered is in the log, once.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use audit_core::time::{IdSource as _, System};
use audit_testkit::crash::pause;
use audit_testkit::time::TestIds;
use rustix::process::Signal;

use crate::serve::{CHAT, CREDENTIAL, Gateway, Provider, read_message, upstream};
use crate::support::{Host, PATIENCE};

const CLIENTS: usize = 4;

/// Calls in the session `session`; whether the whole answer came.
pub(crate) fn call(gateway: SocketAddr, session: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(gateway) else {
        return false;
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = r#"{"model":"gpt-x","messages":[{"role":"user","content":"2 + 2?"}]}"#;
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: {gateway}\r\ncontent-type: application/json\r\n\
         authorization: Bearer {CREDENTIAL}\r\nx-audit-session: {session}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    if stream.write_all(request.as_bytes()).is_err() {
        return false;
    }
    read_message(&mut stream).is_some_and(|(head, _)| head.starts_with("HTTP/1.1 200 "))
}

/// One call after the other until one isn't answered.
fn client(gateway: SocketAddr, name: &str, answered: &Sender<String>) {
    for n in 0.. {
        let session = format!("{name}-{n}");
        if !call(gateway, &session) || answered.send(session).is_err() {
            break;
        }
    }
}

#[test]
fn every_answered_call_is_in_the_log_of_a_gateway_that_was_killed() {
    let long = std::env::var("AUDIT_TEST_LONG").is_ok_and(|v| v == "1");
    let kills = if long { 40 } else { 5 };
    let mut seed = [0; 8];
    System.fill(&mut seed);
    let seed = std::env::var("AUDIT_TEST_SEED")
        .map_or(u64::from_ne_bytes(seed), |text| text.parse().unwrap());
    println!("seed: AUDIT_TEST_SEED={seed}");
    let ids = TestIds::new(seed);
    let host = Host::with_log();
    let provider = Provider::start(true);
    let flags = upstream(&provider);
    let mut answered = Vec::new();
    for round in 0..kills {
        let gateway = Gateway::start(&host, &["--upstream", &flags]);
        let address = gateway.address;
        let (send, sessions) = channel();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let send = send.clone();
                std::thread::spawn(move || client(address, &format!("s-{round}-{n}"), &send))
            })
            .collect();
        drop(send);
        for _ in 0..=ids.number() % 30 {
            answered.push(sessions.recv_timeout(PATIENCE).unwrap());
        }
        pause(Duration::from_micros(ids.number() % 20_000));
        gateway.process.signal(Signal::KILL);
        assert_eq!(gateway.process.end().status.code(), None);
        for client in clients {
            client.join().unwrap();
        }
        answered.extend(sessions);
    }
    // The next run goes on with the log, and publishes what the last one left.
    host.run(["emit", "tool.call"]).exits(0);
    let mut found: BTreeMap<(String, String), u32> = BTreeMap::new();
    for record in host.records(&[]) {
        let event = &record["event"];
        if let (Some(kind), Some(session)) = (event["kind"].as_str(), event["session_id"].as_str())
        {
            *found
                .entry((kind.to_owned(), session.to_owned()))
                .or_default() += 1;
        }
    }
    println!("{kills} kills, {} calls answered", answered.len());
    for session in &answered {
        for kind in ["llm.request", "llm.response"] {
            let times = found.get(&(kind.to_owned(), session.clone()));
            assert_eq!(times, Some(&1), "{kind} of {session}, which was answered");
        }
    }
    let (run, verdict) = host.verdict(&["--content", "--auditor-key", "audit-trail-auditor.key"]);
    run.exits(0);
    assert_eq!(verdict["open_runs_total"], kills);
    assert_eq!(verdict["unpublished"], 0);
}
