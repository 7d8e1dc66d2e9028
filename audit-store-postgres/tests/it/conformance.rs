//! The store holds the contract.

use std::sync::Arc;

use async_trait::async_trait;
use audit_core::store::Store;
use audit_testkit::conformance::Backend;
use audit_testkit::conformance_tests;

use crate::support::{Place, place_or_skip};

#[async_trait]
impl Backend for Place {
    async fn fresh(&self) -> Arc<dyn Store> {
        Arc::new(self.made().await)
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(self.opened().await)
    }
}

conformance_tests!(place_or_skip!());
