//! The store holds the contract.

use std::sync::Arc;

use async_trait::async_trait;
use audit_core::store::Store;
use audit_store_sqlite::{OpenMode, SqliteStore};
use audit_testkit::conformance::Backend;
use audit_testkit::conformance_tests;

use crate::support::Place;

#[async_trait]
impl Backend for Place {
    async fn fresh(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::create_file(self.next()).unwrap())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(self.path(), OpenMode::ReadWrite).unwrap())
    }
}

conformance_tests!(Place::new());
