//! The store holds the contract.

use std::sync::Arc;

use async_trait::async_trait;
use audit_core::store::Store;
use audit_testkit::conformance::Backend;

use crate::support::{Place, place};

#[async_trait]
impl Backend for Place {
    async fn fresh(&self) -> Arc<dyn Store> {
        self.next();
        Arc::new(self.store())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(self.store())
    }
}

// Each property on a prefix of its own, or, without a server, not at all.
audit_testkit::conformance_tests!(match place().await {
    Some(place) => place,
    None => return,
});
