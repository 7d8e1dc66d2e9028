//! The store holds the contract.

use std::sync::Arc;

use async_trait::async_trait;
use audit_core::store::Store;
use audit_testkit::conformance::Backend;
use audit_testkit::conformance_tests;
use audit_testkit::memory::MemoryBackend;

use crate::support::Place;

#[async_trait]
impl Backend for Place {
    async fn fresh(&self) -> Arc<dyn Store> {
        Arc::new(self.made().await)
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(self.opened().await)
    }
}

/// The place, or memory where there is no server: the suite has no way to skip.
struct Given(Option<Place>, MemoryBackend);

impl Given {
    fn new() -> Self {
        Self(Place::new(), MemoryBackend::default())
    }
}

#[async_trait]
impl Backend for Given {
    async fn fresh(&self) -> Arc<dyn Store> {
        match &self.0 {
            Some(place) => place.fresh().await,
            None => self.1.fresh().await,
        }
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        match &self.0 {
            Some(place) => place.reopen().await,
            None => self.1.reopen().await,
        }
    }
}

conformance_tests!(Given::new());
