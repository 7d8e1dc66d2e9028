//! How sessions end when nobody closes them, and what is said when an end is lost.

use std::time::Duration;

use audit_core::keyring::{EnvironmentPassphrase, KeyRing, KeyUri};
use audit_core::reader::LogReader;
use audit_tracer::{AuditTracer, ErrorKind, SessionOptions, StoreUrl};
use tokio::runtime::Runtime;

use crate::support::{Service, events, summary};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn named(id: &str) -> SessionOptions {
    SessionOptions {
        id: Some(id.to_owned()),
        ..SessionOptions::default()
    }
}

/// The log as another process finds it.
async fn found(service: &Service) -> LogReader {
    let url: StoreUrl = format!("sqlite:{}", service.path("log.db").display())
        .parse()
        .unwrap();
    let keys = KeyUri::File(service.path("log.key"));
    let keys = KeyRing::load(&keys, &EnvironmentPassphrase::new(|_| None)).unwrap();
    LogReader::new(url.read().await.unwrap(), keys.into())
}

async fn reasons(reader: &LogReader) -> Vec<String> {
    let events = events(reader).await;
    let ends = events
        .iter()
        .filter(|e| e.kind.as_str() == "session.closed");
    ends.map(|e| e.attributes["audit.reason"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_guard_dropped_outside_of_the_runtime_is_recorded_when_the_tracer_closes() {
    let service = Service::new();
    let (runtime, other) = (runtime(), runtime());
    let (tracer, session) = runtime.block_on(async {
        let tracer = service.start().await;
        let session = tracer.audit_session_with(named("s")).await.unwrap();
        (tracer, session)
    });
    std::thread::spawn(move || drop(session)).join().unwrap();
    runtime.block_on(tracer.close()).unwrap();
    drop(runtime);
    assert_eq!(
        other.block_on(async { reasons(&found(&service).await).await }),
        ["dropped"]
    );
    assert!(service.lost().is_empty());
}

#[test]
fn a_guard_dropped_by_a_panic_says_so() {
    let service = Service::new();
    let runtime = runtime();
    let panicked = runtime.block_on(async {
        let tracer = service.start().await;
        let worker = tracer.clone();
        let panicked = tokio::spawn(async move {
            let session = worker.audit_session_with(named("s")).await.unwrap();
            session.emit("tool.call").await.unwrap();
            panic!("a tool failed");
        })
        .await;
        tracer.close().await.unwrap();
        panicked
    });
    assert!(panicked.unwrap_err().is_panic());
    let reader = runtime.block_on(found(&service));
    let events = runtime.block_on(events(&reader));
    assert_eq!(
        summary(&events),
        [
            ("session.opened", "s"),
            ("tool.call", "s"),
            ("session.closed", "s")
        ]
    );
    assert_eq!(events[2].attributes["audit.reason"], "panicking");
    assert_eq!(events[2].attributes["audit.session.events"], 1);
}

#[tokio::test]
async fn closing_the_tracer_ends_what_is_open_and_refuses_what_comes_later() {
    let service = Service::new();
    let tracer = service.start().await;
    let session = tracer.audit_session_with(named("s")).await.unwrap();
    let other = tracer.clone();
    tracer.close().await.unwrap();
    let late = session.emit("tool.call").await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Unavailable);
    let late = other.audit_session().await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Unavailable);
    let late = other.emit("tool.call").await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Unavailable);
    // Its end is recorded already, so there is nothing to lose.
    drop(session);
    assert!(service.lost().is_empty(), "{:?}", service.lost());
    other.close().await.unwrap();
    assert_eq!(reasons(&found(&service).await).await, ["tracer_closed"]);
}

#[tokio::test]
async fn without_close_the_ends_are_recorded_as_long_as_the_runtime_runs() {
    let service = Service::new();
    let tracer = service.start().await;
    let sessions = [
        tracer.audit_session_with(named("a")).await.unwrap(),
        tracer.audit_session_with(named("b")).await.unwrap(),
    ];
    drop(tracer);
    for session in sessions {
        drop(session);
    }
    // The run ends by itself when the last handle is gone.
    let reader = found(&service).await;
    let closed = async {
        loop {
            let last = reader.size().await.unwrap() - 1;
            if reader.record(last).await.unwrap().entry.kind.as_str() == "writer.closed" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), closed)
        .await
        .expect("the run did not end");
    let ended: Vec<_> = events(&reader).await;
    assert_eq!(
        summary(&ended)[2..],
        [("session.closed", "a"), ("session.closed", "b")],
        "the order of the drops was lost"
    );
    assert!(service.lost().is_empty());
}

#[test]
fn an_end_that_no_runtime_is_left_to_record_is_told_and_its_opening_stays_without_an_end() {
    let service = Service::new();
    let (runtime, other) = (runtime(), runtime());
    let session = runtime.block_on(async {
        let tracer: AuditTracer = service.start().await;
        tracer.audit_session_with(named("s")).await.unwrap()
    });
    drop(runtime);
    assert!(service.lost().is_empty());
    drop(session);
    let lost = service.lost();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(
        lost[0].starts_with("s: the tracer ended before"),
        "{lost:?}"
    );
    let events = other.block_on(async { events(&found(&service).await).await });
    assert_eq!(summary(&events), [("session.opened", "s")]);
}

#[test]
fn an_end_that_waits_in_the_queue_when_the_runtime_stops_is_told_too() {
    let service = Service::new();
    // One thread, which the test holds: nothing runs between the drop and the end of the runtime.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let tracer = service.start().await;
        let session = tracer.audit_session_with(named("s")).await.unwrap();
        drop(session);
        assert!(service.lost().is_empty());
    });
    drop(runtime);
    assert_eq!(
        service.lost().len(),
        1,
        "an end was lost and nobody was told"
    );
}
