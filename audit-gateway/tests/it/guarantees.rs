//! What becomes of calls while the log can't be written, per route.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit_core::ErrorKind;
use audit_core::event::{Event, Guarantee};
use audit_core::time::{Clock as _, System};
use audit_gateway::{CertificateAuthority, Config, Intercept, SpoolConfig, Upstream};
use audit_testkit::faulty::{Call, Fault, FaultyStore};
use serde_json::Value;
use tokio::time::sleep;

use crate::client::{Client, exchange, post};
use crate::scripted::{Scripted, write};
use crate::support::{Bench, payload};

const ANSWER: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

fn call(n: usize) -> Vec<u8> {
    post(
        "/openai/v1/responses",
        "",
        format!("{{\"model\":\"m\",\"n\":{n}}}").as_bytes(),
    )
}

async fn bench(
    base: &str,
    guarantee: Guarantee,
    spool: Option<&Path>,
    change: impl FnOnce(&mut Config),
) -> Bench {
    Bench::with(base, |c| {
        let upstream = Upstream::new(base).unwrap().on_audit_failure(guarantee);
        c.upstreams.insert("openai".to_owned(), upstream);
        c.spool = spool.map(SpoolConfig::new);
        c.limits.degrade_after = Duration::from_millis(200);
        change(c);
    })
    .await
}

fn down(bench: &Bench) {
    bench.faulty.fail_times(
        Call::Append,
        0,
        1_000_000,
        Fault::Before,
        ErrorKind::Unavailable,
    );
}

fn attribute<'e>(event: &'e Event, name: &str) -> &'e Value {
    event.attributes.get(name).unwrap_or(&Value::Null)
}

fn number(event: &Event) -> u64 {
    attribute(event, "audit.producer.number")
        .as_u64()
        .expect("a record without a number")
}

/// Events, when the log says that an outage ended.
async fn after_the_outage(bench: &Bench) -> Vec<Event> {
    let ended = |events: &[Event]| {
        events
            .iter()
            .any(|e| attribute(e, "audit.phase") == "ended")
    };
    let mut events = bench.events().await;
    for _ in 0..1000 {
        if ended(&events) {
            break;
        }
        sleep(Duration::from_millis(10)).await;
        events = bench.events().await;
    }
    assert!(ended(&events), "no record of the outage came");
    events
}

/// Every number up to the last is in the log, or named as absent; never both.
fn assert_no_hole(events: &[Event]) {
    let there: Vec<u64> = events.iter().map(number).collect();
    let there_once: BTreeSet<u64> = there.iter().copied().collect();
    assert_eq!(
        there.len(),
        there_once.len(),
        "a number stands twice: {there:?}"
    );
    let absent: BTreeSet<u64> = events
        .iter()
        .filter_map(|e| attribute(e, "audit.producer.absent").as_array())
        .flatten()
        .flat_map(|range| range[0].as_u64().unwrap()..=range[1].as_u64().unwrap())
        .collect();
    assert!(
        there_once.is_disjoint(&absent),
        "{there_once:?} and {absent:?}"
    );
    let all: BTreeSet<u64> = there_once.union(&absent).copied().collect();
    let last = *all.last().unwrap();
    assert_eq!(all, (1..=last).collect(), "a hole that nobody explains");
    let producers: BTreeSet<String> = events
        .iter()
        .map(|e| attribute(e, "audit.producer.id").to_string())
        .collect();
    assert_eq!(producers.len(), 1);
}

fn of_kind<'e>(events: &'e [Event], kind: &str) -> Vec<&'e Event> {
    events.iter().filter(|e| e.kind.as_str() == kind).collect()
}

#[tokio::test]
async fn an_open_route_stops_with_the_log_or_hides_that_it_went_on() {
    let upstream = Scripted::start(vec![write(ANSWER)]).await;
    let bench = bench(&upstream.base(), Guarantee::Open, None, |_| {}).await;
    assert_eq!(exchange(bench.address, &call(0)).await.status, 200);
    down(&bench);
    for n in 1..=3 {
        assert_eq!(
            exchange(bench.address, &call(n)).await.status,
            200,
            "call {n}"
        );
    }
    assert_eq!(upstream.count(), 4);
    let summary = bench.health.summary();
    assert_eq!((summary.missed, summary.refused_unrecorded), (6, 0));
    assert!(!bench.health.log_writable());
    bench.faulty.heal();
    after_the_outage(&bench).await;
    assert_eq!(exchange(bench.address, &call(4)).await.status, 200);
    let events = bench.events().await;
    assert_eq!(of_kind(&events, "llm.request").len(), 2);
    assert_eq!(of_kind(&events, "llm.response").len(), 2);
    for event in of_kind(&events, "llm.request") {
        assert_eq!(event.capture.as_ref().unwrap().guarantee, Guarantee::Open);
    }
    let [gap] = of_kind(&events, "log.capture_degraded")[..] else {
        panic!("one record of the gap: {events:?}");
    };
    assert_eq!(attribute(gap, "audit.count.missed"), 6);
    assert_eq!(attribute(gap, "audit.reason"), "log_unavailable");
    assert!(attribute(gap, "audit.time.from").as_str() <= attribute(gap, "audit.time.to").as_str());
    assert_no_hole(&events);
    assert!(bench.health.log_writable());
}

#[tokio::test]
async fn an_open_route_waits_for_a_log_that_does_not_answer() {
    let upstream = Scripted::start(vec![write(ANSWER)]).await;
    let bench = bench(&upstream.base(), Guarantee::Open, None, |_| {}).await;
    bench.gate.set_open(false);
    for n in 0..3 {
        assert_eq!(exchange(bench.address, &call(n)).await.status, 200);
    }
    bench.gate.set_open(true);
    after_the_outage(&bench).await;
    // The first one waited in the log, and landed; then it isn't missing.
    let events = bench.events().await;
    let landed = of_kind(&events, "llm.request").len();
    assert!(landed <= 1, "{landed}");
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn a_spooled_call_is_lost_or_out_of_order() {
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("spool");
    let upstream = Scripted::start(vec![write(ANSWER)]).await;
    let bench = bench(&upstream.base(), Guarantee::Spool, Some(&spool), |_| {}).await;
    assert_eq!(exchange(bench.address, &call(0)).await.status, 200);
    down(&bench);
    for n in 1..=4 {
        assert_eq!(
            exchange(bench.address, &call(n)).await.status,
            200,
            "call {n}"
        );
    }
    assert_eq!(bench.health.summary().spooled, 8);
    // Sealed: nothing of a body is found in it.
    for file in std::fs::read_dir(&spool).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(
            !bytes
                .windows(9)
                .any(|w| w == b"\"model\":\"" || w == b"responses")
        );
    }
    bench.faulty.heal();
    after_the_outage(&bench).await;
    assert_eq!(exchange(bench.address, &call(5)).await.status, 200);
    let exchanges = bench.exchanges_now(6).await;
    let bodies: Vec<String> = exchanges
        .iter()
        .map(|e| String::from_utf8(payload(&e.request, "request.body").unwrap().to_vec()).unwrap())
        .collect();
    let expected: Vec<String> = (0..6)
        .map(|n| format!("{{\"model\":\"m\",\"n\":{n}}}"))
        .collect();
    assert_eq!(bodies, expected, "not in their order");
    let events = bench.events().await;
    let degraded = of_kind(&events, "log.capture_degraded");
    let phases: Vec<&Value> = degraded
        .iter()
        .map(|e| attribute(e, "audit.phase"))
        .collect();
    assert_eq!(phases, ["begun", "ended"]);
    assert_eq!(attribute(degraded[1], "audit.count.spooled"), 8);
    assert_eq!(
        degraded[1].correlation.as_ref().unwrap().parent_event,
        Some(degraded[0].id)
    );
    assert_no_hole(&events);
    assert_eq!(
        std::fs::read_dir(&spool).unwrap().count(),
        0,
        "the spool is not emptied"
    );
}

/// The process dies in the outage: what was answered is in the spool, and the next one brings it into the log.
#[tokio::test]
async fn what_a_gateway_spooled_dies_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("spool");
    let upstream = Scripted::start(vec![write(ANSWER)]).await;
    let mut first = bench(&upstream.base(), Guarantee::Spool, Some(&spool), |c| {
        c.limits.append_timeout = Duration::from_millis(300);
    })
    .await;
    down(&first);
    for n in 0..3 {
        assert_eq!(exchange(first.address, &call(n)).await.status, 200);
    }
    first.begin_shutdown();
    let log = first.log.clone();
    let faulty = first.faulty.clone();
    let summary = first.shutdown().await;
    // Two for each call, the outage's beginning, and what is known of its end.
    assert_eq!(summary.spooled_left, 8);
    // A torn last record, as a crash in the middle of a write leaves it.
    let file = std::fs::read_dir(&spool)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.extend_from_slice(&[0, 0, 9, 9, 1, 2, 3]);
    std::fs::write(&file, bytes).unwrap();

    faulty.heal();
    let mut config = Config::new(Arc::new(|_: &audit_gateway::Notice| {}));
    config.upstreams.insert(
        "openai".to_owned(),
        Upstream::new(&upstream.base()).unwrap(),
    );
    config.spool = Some(SpoolConfig::new(&spool));
    let second = Bench::over(log, faulty, config).await;
    let events = after_the_outage(&second).await;
    assert_eq!(of_kind(&events, "llm.request").len(), 3);
    assert_eq!(of_kind(&events, "llm.response").len(), 3);
    assert_no_hole(&events);
    let left = || std::fs::read_dir(&spool).unwrap().count();
    for _ in 0..200 {
        if left() == 0 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(left(), 0, "the spool that was left is still there");
}

#[tokio::test]
async fn a_full_spool_lets_calls_pass() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Scripted::start(vec![write(ANSWER)]).await;
    let bench = bench(
        &upstream.base(),
        Guarantee::Spool,
        Some(folder.path()),
        |c| {
            c.spool.as_mut().unwrap().bytes_max = 12_000;
        },
    )
    .await;
    down(&bench);
    let mut answered = 0;
    let refused = loop {
        let answer = exchange(bench.address, &call(answered)).await;
        if answer.status != 200 {
            break answer;
        }
        answered += 1;
        assert!(answered < 100, "the spool has no bound");
    };
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "audit_log_unavailable")
    );
    assert!(answered > 0);
    let sent = upstream.count();
    bench.faulty.heal();
    after_the_outage(&bench).await;
    // An answer that could not be spooled was broken off, and its record is tried again.
    for _ in 0..1000 {
        if bench.health.summary().pending == 0 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    let events = bench.events().await;
    let requests = of_kind(&events, "llm.request").len();
    assert!(
        requests >= answered && requests <= sent + 1,
        "{requests} of {answered}"
    );
    assert_no_hole(&events);
}

/// Also a refusal leaves a trace: that an auditor finds no call in a time has a reason then.
#[tokio::test]
async fn a_closed_route_says_nothing_of_what_it_refused() {
    let upstream = Scripted::start(vec![write(ANSWER)]).await;
    let bench = bench(&upstream.base(), Guarantee::Closed, None, |_| {}).await;
    down(&bench);
    for n in 0..3 {
        assert_eq!(exchange(bench.address, &call(n)).await.status, 503);
    }
    assert_eq!(upstream.count(), 0);
    bench.faulty.heal();
    let events = after_the_outage(&bench).await;
    let gap = of_kind(&events, "log.capture_degraded")[0];
    assert_eq!(attribute(gap, "audit.count.refused"), 3);
    assert_eq!(attribute(gap, "audit.count.missed"), 0);
    assert_no_hole(&events);
}

/// One bad record is no outage: others must not be missed because of it.
#[tokio::test]
async fn a_record_that_is_refused_takes_others_with_it() {
    let upstream = Scripted::start(vec![write(ANSWER)]).await;
    let bench = bench(&upstream.base(), Guarantee::Open, None, |_| {}).await;
    bench
        .faulty
        .fail_times(Call::Append, 0, 1, Fault::Before, ErrorKind::Invalid);
    let mut client = Client::connect(bench.address).await;
    for n in 0..2 {
        client.write(&call(n)).await;
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    let events = after_the_outage(&bench).await;
    assert_no_hole(&events);
    let gap = of_kind(&events, "log.capture_degraded")[0];
    assert_eq!(attribute(gap, "audit.reason"), "record_refused");
    assert_eq!(of_kind(&events, "llm.request").len(), 1);
}

/// Leaves three calls in a spool, as a gateway that ends in an outage does; gives back its log.
async fn leave_behind(base: &str, spool: &Path) -> (audit_core::log::Log, FaultyStore) {
    let mut first = bench(base, Guarantee::Spool, Some(spool), |c| {
        c.limits.append_timeout = Duration::from_millis(200);
    })
    .await;
    down(&first);
    for n in 0..3 {
        assert_eq!(exchange(first.address, &call(n)).await.status, 200);
    }
    first.begin_shutdown();
    let left = (first.log.clone(), first.faulty.clone());
    first.shutdown().await;
    left
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn noticed(bench: &Bench, code: &str) {
    let there = || bench.notices.lock().unwrap().iter().any(|n| n.code == code);
    for _ in 0..500 {
        if there() {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert!(there(), "nobody was told: {code}");
}

#[tokio::test]
async fn a_spool_of_another_log_is_taken_or_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Scripted::start(vec![write(ANSWER)]).await;
    leave_behind(&upstream.base(), folder.path()).await;
    let before = names(folder.path());
    let other = bench(
        &upstream.base(),
        Guarantee::Spool,
        Some(folder.path()),
        |_| {},
    )
    .await;
    noticed(&other, "spool_foreign").await;
    assert_eq!(exchange(other.address, &call(9)).await.status, 200);
    assert_eq!(other.exchanges(1).await.len(), 1);
    assert_eq!(names(folder.path()), before);
}

#[tokio::test]
async fn a_changed_record_takes_its_neighbours_with_it_or_vanishes() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Scripted::start(vec![write(ANSWER)]).await;
    let (log, faulty) = leave_behind(&upstream.base(), folder.path()).await;
    let name = names(folder.path()).pop().unwrap();
    let path = folder.path().join(&name);
    let mut bytes = std::fs::read(&path).unwrap();
    // In the middle of the third record; behind the header each has its length before it.
    let mut at = 32;
    let length = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    for _ in 0..2 {
        at += 4 + length(at);
    }
    at += 4 + length(at) / 2;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    faulty.heal();
    let notices: Arc<std::sync::Mutex<Vec<&'static str>>> = Arc::default();
    let heard = Arc::clone(&notices);
    let mut config = Config::new(Arc::new(move |notice: &audit_gateway::Notice| {
        heard.lock().unwrap().push(notice.code);
    }));
    config.spool = Some(SpoolConfig::new(folder.path()));
    let second = Bench::over(log, faulty, config).await;
    let events = after_the_outage(&second).await;
    // Eight were in it: three calls, and both ends of the outage.
    assert_eq!(events.len(), 7, "{events:?}");
    assert!(notices.lock().unwrap().contains(&"spool_damaged"));
    for _ in 0..500 {
        if names(folder.path()) == [format!("{name}.damaged")] {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(names(folder.path()), [format!("{name}.damaged")]);
}

/// The setting of the intercepting proxy holds for what is said within TLS, not only for its tunnels.
#[tokio::test]
async fn an_intercepted_call_has_another_guarantee_than_its_proxy() {
    let (address, root) = crate::tls::provider().await;
    let hosts: Vec<audit_gateway::HostPattern> = vec!["localhost".parse().unwrap()];
    let now = System.now();
    let key = CertificateAuthority::generate("o/g", &hosts, now).unwrap();
    let authority = Arc::new(CertificateAuthority::open(key, now).unwrap());
    let mut intercept = Intercept::new(Arc::clone(&authority), hosts);
    intercept.on_audit_failure = Guarantee::Open;
    let bench = bench("http://127.0.0.1:9", Guarantee::Closed, None, |c| {
        c.system_roots = false;
        c.extra_roots.push(root);
        c.intercept = Some(intercept);
    })
    .await;
    down(&bench);
    let to = format!("localhost:{}", address.port());
    let (client, status) = crate::intercept::connect(bench.address, &to, "").await;
    assert_eq!(status, 200);
    let stream = client.stream;
    let mut client = crate::intercept::tls(stream, authority.certificate(), "localhost")
        .await
        .unwrap();
    let request = format!("GET /v1/models HTTP/1.1\r\nHost: {to}\r\n\r\n");
    client.write(request.as_bytes()).await;
    assert_eq!(client.answer().await.unwrap().body, b"secret");
    bench.faulty.heal();
    let events = after_the_outage(&bench).await;
    assert_no_hole(&events);
    assert_eq!(bench.health.summary().missed, 2);
}

/// Calls keep coming while the log falls and rises: whatever the moment, nothing stays behind in the spool.
#[tokio::test]
async fn a_record_that_comes_as_an_outage_ends_stays_in_the_spool() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Scripted::start(vec![write(ANSWER)]).await;
    let bench = bench(
        &upstream.base(),
        Guarantee::Spool,
        Some(folder.path()),
        |_| {},
    )
    .await;
    let address = bench.address;
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                for n in 0..40 {
                    client.write(&call(caller * 100 + n)).await;
                    assert_eq!(client.answer().await.unwrap().status, 200);
                }
            })
        })
        .collect();
    for _ in 0..15 {
        down(&bench);
        sleep(Duration::from_millis(3)).await;
        bench.faulty.heal();
        sleep(Duration::from_millis(12)).await;
    }
    for caller in callers {
        caller.await.unwrap();
    }
    let exchanges = bench.exchanges_now(320).await;
    assert_eq!(exchanges.len(), 320);
    for _ in 0..500 {
        if names(folder.path()).is_empty() {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(names(folder.path()), Vec::<String>::new());
    assert_no_hole(&bench.events().await);
}
