//! Fault pairs and simulations over a real server: a store fails and its process dies at steps of the write path.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use audit_core::store::Store;
use audit_store_s3::S3Store;
use audit_testkit::conformance::Backend;
use audit_testkit::fault_pairs::{self, Sweep};

use crate::support::{Place, server};

/// Stores that don't wait for company: a run makes many small batches one after the other.
#[derive(Debug)]
struct Hasty(Place);

impl Hasty {
    fn store(&self) -> Arc<dyn Store> {
        let mut options = self.0.options();
        options.linger = None;
        options.lease = Duration::from_millis(100);
        Arc::new(S3Store::new(&options).unwrap())
    }
}

#[async_trait]
impl Backend for Hasty {
    async fn fresh(&self) -> Arc<dyn Store> {
        self.0.next();
        self.store()
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        self.store()
    }
}

fn hasty() -> Option<Hasty> {
    server()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(crate::support::place()).map(Hasty)
}

fn long() -> bool {
    std::env::var_os("AUDIT_TEST_LONG").is_some()
}

/// What a run takes in real time is 200 of these.
const UNIT: Duration = Duration::from_millis(5);

#[test]
fn a_process_that_dies_at_a_step_of_the_write_path_loses_invents_and_contradicts_nothing() {
    let Some(backend) = hasty() else { return };
    let sweep = Sweep {
        // Each run takes seconds, so without AUDIT_TEST_LONG a process dies once at each call.
        every: if long() { 3 } else { 1000 },
        hits_min: u64::from(long()),
        long: long(),
        unit: Some(UNIT),
    };
    let report = fault_pairs::deaths(&backend, &sweep);
    println!("{report}");
    assert!(report.runs >= 20, "{report}");
}

#[test]
fn a_call_that_fails_at_a_step_of_the_write_path_loses_invents_and_contradicts_nothing() {
    let Some(backend) = hasty() else { return };
    if !long() {
        println!("skipped: takes minutes; AUDIT_TEST_LONG=1 runs it");
        return;
    }
    let sweep = Sweep {
        every: 29,
        hits_min: 0,
        long: false,
        unit: Some(UNIT),
    };
    println!("{}", fault_pairs::faults(&backend, &sweep));
}
