//! A service in a folder of its own.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use audit_core::event::Event;
use audit_core::reader::{LogReader, RecordContent};
use audit_tracer::{AuditTracer, Auditor, Builder, CreatedLog};
use tempfile::TempDir;

pub(crate) const ORIGIN: &str = "log.example/clinic";

pub(crate) struct Service {
    dir: TempDir,
    lost: Arc<Mutex<Vec<String>>>,
}

impl Service {
    pub(crate) fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            lost: Arc::default(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The settings that every test needs.
    pub(crate) fn builder(&self) -> Builder {
        let lost = Arc::clone(&self.lost);
        AuditTracer::builder()
            .store(format!("sqlite:{}", self.path("log.db").display()))
            .keys(format!("file:{}", self.path("log.key").display()))
            .unsealed_keys(true)
            .state_dir(self.path("state"))
            .on_lost_closing(move |session, error| {
                lost.lock().unwrap().push(format!("{session}: {error}"));
            })
    }

    pub(crate) async fn create(&self) -> CreatedLog {
        let auditor = Auditor::NewKeyFile(self.path("auditor.key"));
        self.builder().create(ORIGIN, auditor).await.unwrap()
    }

    pub(crate) async fn start(&self) -> AuditTracer {
        let made = self.create().await;
        let builder = self.builder().opened(made.opened.to_string());
        builder.build().await.unwrap()
    }

    /// What the hook was told.
    pub(crate) fn lost(&self) -> Vec<String> {
        self.lost.lock().unwrap().clone()
    }
}

/// Every event of callers, in order.
pub(crate) async fn events(reader: &LogReader) -> Vec<Event> {
    let mut events = Vec::new();
    for index in 0..reader.size().await.unwrap() {
        let record = reader.record(index).await.unwrap();
        if let RecordContent::Open(opened) = record.content {
            events.push(opened.event);
        }
    }
    events
}

/// Kind and session of each.
pub(crate) fn summary(events: &[Event]) -> Vec<(&str, &str)> {
    let session = |event: &Event| -> &'static str {
        let id = event.session_id.clone().unwrap_or_default();
        Box::leak(id.into_boxed_str())
    };
    events
        .iter()
        .map(|event| (event.kind.as_str(), session(event)))
        .collect()
}

/// A tracer on a store that fails on demand.
#[cfg(all(feature = "reqwest", feature = "tower"))]
pub(crate) async fn start_faulty(
    service: &Service,
) -> (AuditTracer, audit_testkit::faulty::FaultyStore) {
    let made = service.create().await;
    let store = audit_store_sqlite::SqliteStore::open(
        service.path("log.db"),
        audit_store_sqlite::OpenMode::ReadWrite,
    );
    let store = audit_testkit::faulty::FaultyStore::new(Arc::new(store.unwrap()));
    let builder = service.builder().opened(made.opened.to_string());
    let tracer = builder.store_handle(Arc::new(store.clone())).build().await;
    (tracer.unwrap(), store)
}

#[cfg(all(feature = "reqwest", feature = "tower"))]
pub(crate) fn http_client() -> reqwest::Client {
    // Whoever comes second finds it installed.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::new()
}
