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

/// The same on the threads that ask.
mod in_place {
    use super::*;

    struct InPlace(Place);

    #[async_trait]
    impl Backend for InPlace {
        async fn fresh(&self) -> Arc<dyn Store> {
            let store = SqliteStore::create_file(self.0.next()).unwrap();
            Arc::new(store.write_in_place(true))
        }

        async fn reopen(&self) -> Arc<dyn Store> {
            let store = SqliteStore::open(self.0.path(), OpenMode::ReadWrite).unwrap();
            Arc::new(store.write_in_place(true))
        }
    }

    conformance_tests!(InPlace(Place::new()));

    #[tokio::test(flavor = "current_thread")]
    async fn where_there_is_no_other_thread_it_has_no_effect() {
        let place = InPlace(Place::new());
        place.fresh().await.create("example.com/log").await.unwrap();
    }
}
