//! Making a log, and what is asked for before one is opened.

use audit_core::keyring::AuditorKeyFile;
use audit_tracer::{AuditTracer, Auditor, ErrorKind, Passphrase};

use crate::support::{ORIGIN, Service};

#[tokio::test]
async fn a_log_is_made_once_and_says_what_to_carry_away() {
    let service = Service::new();
    let made = service.create().await;
    assert_eq!(made.vkey.name(), ORIGIN);
    assert_eq!(made.auditor_file, Some(service.path("auditor.key")));
    assert_eq!(made.keys.vkey(), made.vkey);
    assert_eq!(
        AuditorKeyFile::load_public(&service.path("auditor.key")).unwrap(),
        made.keys.auditor()
    );
    let again = Auditor::Public(made.keys.auditor());
    let again = service.builder().create(ORIGIN, again).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Invalid, "{again}");
    let tracer = service.builder().build().await.unwrap();
    assert_eq!(tracer.vkey(), made.vkey);
    let first = tracer.reader().record(0).await.unwrap();
    assert_eq!(audit_tlog::hash::leaf_hash(&first.bytes), made.opened);
    tracer.close().await.unwrap();
}

#[tokio::test]
async fn a_step_that_fails_leaves_nothing_behind() {
    let service = Service::new();
    std::fs::write(service.path("log.db"), b"something else").unwrap();
    let auditor = Auditor::NewKeyFile(service.path("auditor.key"));
    let failed = service.builder().create(ORIGIN, auditor).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Invalid);
    for made in ["auditor.key", "log.key", "state"] {
        assert!(!service.path(made).exists(), "{made} was left behind");
    }
    let there = std::fs::read(service.path("log.db")).unwrap();
    assert_eq!(there, b"something else", "somebody else's file was touched");
}

#[tokio::test]
async fn a_log_that_is_discarded_is_gone() {
    let service = Service::new();
    service.create().await.discard();
    for made in ["log.db", "auditor.key", "log.key"] {
        assert!(!service.path(made).exists(), "{made} was left behind");
    }
    service.create().await;
}

#[tokio::test]
async fn a_sealed_key_ring_opens_with_its_passphrase_alone() {
    let service = Service::new();
    let sealed = |text: &'static str| {
        service
            .builder()
            .unsealed_keys(false)
            .passphrase(move |_| Passphrase::new(text.as_bytes().to_vec()))
    };
    let auditor = Auditor::NewKeyFile(service.path("auditor.key"));
    let right = sealed("seven sealed letters");
    right.create(ORIGIN, auditor).await.unwrap();
    right.build().await.unwrap().close().await.unwrap();
    for wrong in [sealed("seven sealed lettres"), service.builder()] {
        assert_eq!(wrong.build().await.unwrap_err().kind(), ErrorKind::Key);
    }
}

#[tokio::test]
async fn what_is_missing_is_named_before_anything_is_made() {
    let service = Service::new();
    let auditor = || Auditor::NewKeyFile(service.path("auditor.key"));
    let whole = service.builder();
    let bare = AuditTracer::builder();
    let url = format!("sqlite:{}", service.path("log.db").display());
    for (builder, named) in [
        (bare.clone(), "key ring"),
        (
            bare.clone().keys("file:log.key").unsealed_keys(true),
            "store",
        ),
        (
            bare.keys("file:log.key").unsealed_keys(true).store(&url),
            "publishes",
        ),
        (whole.clone().unsealed_keys(false), "unsealed"),
        (whole.clone().keys("hunter2"), "key URI"),
        (whole.clone().store("mysql://x"), "scheme"),
    ] {
        let error = builder.create(ORIGIN, auditor()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{named}: {error}");
        assert!(error.to_string().contains(named), "{named}: {error}");
        assert!(!service.path("auditor.key").exists(), "{named}");
    }
    service.create().await;
    for (builder, named) in [
        (whole.clone().retention_years(0), "retention_years"),
        (whole.clone().opened("abc"), "opened"),
    ] {
        let error = builder.build().await.unwrap_err();
        assert!(error.to_string().contains(named), "{named}: {error}");
    }
    let elsewhere = whole.store(format!("{url}2")).build().await;
    assert_eq!(elsewhere.unwrap_err().kind(), ErrorKind::NotFound);
}
