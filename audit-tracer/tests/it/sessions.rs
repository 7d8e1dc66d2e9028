//! What a session records.

use std::collections::BTreeMap;
use std::sync::Arc;

use audit_tracer::{Actor, ActorKind, ComplianceMode, ErrorKind, Media, SessionOptions};
use serde_json::json;

use crate::support::{Service, events, summary};

fn named(id: &str) -> SessionOptions {
    SessionOptions {
        id: Some(id.to_owned()),
        ..SessionOptions::default()
    }
}

#[tokio::test]
async fn a_session_records_its_opening_its_events_and_its_end() {
    let service = Service::new();
    service.create().await;
    let tracer = service
        .builder()
        .session_id("visit-7")
        .actor(Actor::new(ActorKind::Service, "triage"))
        .system("triage", Some("2.1".to_owned()))
        .subject("patient-1")
        .compliance_mode(ComplianceMode::Medical)
        .retention_years(7)
        .electronic_signatures(true)
        .build()
        .await
        .unwrap();
    let session = tracer.audit_session().await.unwrap();
    assert_eq!(session.id(), "visit-7");
    let opened = session.opened_event();
    let receipt = session
        .emit("approval.granted")
        .attribute("audit.scope", "dosage")
        .reference("deployment_id", "d-1")
        .payload("form", Media::Json, b"{}".to_vec())
        .actor(Actor::new(ActorKind::Human, "nurse-4"))
        .parent(opened)
        .await
        .unwrap();
    session.close().await.unwrap();
    let reader = tracer.reader();
    let entry = reader.record(receipt.index).await.unwrap().entry;
    assert_eq!(
        entry.event, receipt.event,
        "the receipt names another entry"
    );
    tracer.close().await.unwrap();

    let events = events(&reader).await;
    assert_eq!(
        summary(&events),
        [
            ("session.opened", "visit-7"),
            ("approval.granted", "visit-7"),
            ("session.closed", "visit-7"),
        ]
    );
    let [first, granted, last] = &events[..] else {
        panic!("three events")
    };
    assert_eq!(first.id, opened);
    assert_eq!(first.attributes["audit.compliance_mode"], "medical");
    assert_eq!(first.attributes["audit.retention_months"], 84);
    assert_eq!(first.attributes["audit.electronic_signatures"], true);
    for event in &events {
        assert_eq!(event.subject.as_deref(), Some("patient-1"));
        assert_eq!(event.system.as_ref().unwrap().id, "triage");
        assert_eq!(event.capture.as_ref().unwrap().component, "audit-tracer");
    }
    assert_eq!(first.actor.as_ref().unwrap().id, "triage");
    assert_eq!(granted.actor.as_ref().unwrap().id, "nurse-4");
    assert_eq!(granted.refs["deployment_id"], "d-1");
    assert_eq!(granted.payloads[0].bytes, b"{}");
    assert_eq!(last.attributes["audit.reason"], "closed");
    assert_eq!(last.attributes["audit.session.events"], 1);
    assert_eq!(
        last.correlation.as_ref().unwrap().parent_event,
        Some(opened)
    );
    assert!(service.lost().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_sessions_at_once_keep_their_events_apart() {
    const SESSIONS: usize = 12;
    const EVENTS: usize = 7;
    let service = Service::new();
    let tracer = service.start().await;
    let mut tasks = Vec::new();
    for n in 0..SESSIONS {
        let tracer = tracer.clone();
        tasks.push(tokio::spawn(async move {
            let session = tracer.audit_session_with(named(&format!("s-{n}"))).await;
            let session = Arc::new(session.unwrap());
            let mut emitting = Vec::new();
            for k in 0..EVENTS {
                let session = Arc::clone(&session);
                emitting.push(tokio::spawn(async move {
                    session.emit("tool.call").attribute("audit.k", k).await
                }));
            }
            for emitted in emitting {
                emitted.await.unwrap().unwrap();
            }
            // The last handle goes here, and with it the session.
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let reader = tracer.reader();
    tracer.close().await.unwrap();
    let mut by_session: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for event in events(&reader).await {
        let session = event.session_id.clone().unwrap();
        by_session.entry(session).or_default().push(event);
    }
    assert_eq!(by_session.len(), SESSIONS);
    for (session, events) in by_session {
        let kinds: Vec<&str> = events.iter().map(|e| e.kind.as_str()).collect();
        assert_eq!(kinds.first(), Some(&"session.opened"), "{session}");
        assert_eq!(kinds.last(), Some(&"session.closed"), "{session}");
        assert_eq!(kinds.len(), EVENTS + 2, "{session}: {kinds:?}");
        let last = &events[EVENTS + 1].attributes;
        assert_eq!(last["audit.session.events"], json!(EVENTS), "{session}");
        assert_eq!(last["audit.reason"], "dropped", "{session}");
    }
}

#[tokio::test]
async fn sessions_without_an_id_get_one_each() {
    let service = Service::new();
    let tracer = service.start().await;
    let one = tracer.audit_session().await.unwrap();
    let two = tracer.audit_session().await.unwrap();
    assert_ne!(one.id(), two.id());
    drop((one, two));
    tracer.close().await.unwrap();
}

#[tokio::test]
async fn an_id_is_free_again_when_its_session_has_ended_and_the_ends_stand_in_order() {
    let service = Service::new();
    let tracer = service.start().await;
    for round in 0..20 {
        let session = tracer.audit_session_with(named("same")).await.unwrap();
        let again = tracer.audit_session_with(named("same")).await;
        assert_eq!(again.unwrap_err().kind(), ErrorKind::Invalid, "{round}");
        drop(session);
    }
    let reader = tracer.reader();
    tracer.close().await.unwrap();
    let events = events(&reader).await;
    let pair = [("session.opened", "same"), ("session.closed", "same")];
    assert_eq!(summary(&events), pair.repeat(20));
}

#[tokio::test]
async fn what_breaks_a_rule_is_told_and_not_recorded() {
    let service = Service::new();
    let tracer = service.start().await;
    let size = tracer.reader().size().await.unwrap();
    let bad = tracer.audit_session_with(named(&"x".repeat(257))).await;
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::Invalid);
    let session = tracer.audit_session_with(named("s")).await.unwrap();
    for kind in ["Approval", "", "writer.closed"] {
        let error = session.emit(kind).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{kind:?}");
    }
    let large = session.emit("x").attribute("n", u64::MAX).await;
    assert_eq!(large.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(tracer.reader().size().await.unwrap(), size + 1);
    session.close().await.unwrap();
    let reader = tracer.reader();
    tracer.close().await.unwrap();
    let last = events(&reader).await.pop().unwrap();
    assert_eq!(last.attributes["audit.session.events"], 0);
}

#[tokio::test]
async fn an_event_outside_of_a_session_has_none() {
    let service = Service::new();
    let tracer = service.start().await;
    tracer.emit("policy.published").await.unwrap();
    let reader = tracer.reader();
    tracer.close().await.unwrap();
    let events = events(&reader).await;
    assert_eq!(summary(&events), [("policy.published", "")]);
}
