//! A store whose appends wait until a test lets them through.

use std::sync::Arc;

use audit_core::Result;
use audit_core::store::{Build, Head, Store};
use audit_testkit::forward::{Around, Forward};
use tokio::sync::watch;

/// The gate in front of a store's appends.
#[derive(Debug)]
pub(crate) struct Gate(watch::Sender<bool>);

/// A store with an open gate.
pub(crate) fn gated(inner: Arc<dyn Store>) -> Forward<Gate> {
    Forward::to(inner, Arc::new(Gate(watch::Sender::new(true))))
}

impl Gate {
    pub(crate) fn set_open(&self, open: bool) {
        self.0.send_replace(open);
    }
}

impl Around for Gate {
    async fn append(&self, inner: &dyn Store, build: Build) -> Result<Head> {
        self.0
            .subscribe()
            .wait_for(|open| *open)
            .await
            .expect("the sender is in self");
        inner.append(build).await
    }
}
