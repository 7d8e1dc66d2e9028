//! A store whose calls fail on demand.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use audit_core::store::{Build, Head, Store};
use audit_core::{Error, ErrorKind, Result};

pub use crate::forward::Call;
use crate::forward::{Around, Forward};

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "there is no other moment")]
pub enum Fault {
    /// Before it did anything.
    Before,
    /// An append fails when the batch was built, and nothing was written; any other call as with [`Fault::Before`].
    Built,
    /// When all of it is done; only the answer is lost.
    After,
}

#[derive(Debug)]
struct Planned {
    call: Call,
    skip: u64,
    times: u64,
    fault: Fault,
    kind: ErrorKind,
}

#[derive(Debug, Default)]
struct Plan {
    faults: Vec<Planned>,
    calls: HashMap<Call, u64>,
    failed: u64,
}

impl Plan {
    fn next(&mut self, call: Call) -> Option<(Fault, ErrorKind)> {
        *self.calls.entry(call).or_default() += 1;
        let planned = self.faults.iter_mut().find(|p| p.call == call)?;
        if planned.skip > 0 {
            planned.skip -= 1;
            return None;
        }
        self.failed += 1;
        let now = (planned.fault, planned.kind);
        planned.times -= 1;
        self.faults.retain(|p| p.times > 0);
        Some(now)
    }
}

/// The faults of a [`FaultyStore`].
#[derive(Debug, Default)]
pub struct Faults(Mutex<Plan>);

/// Wraps a store; calls fail as planned, in the order of planning, and pass through otherwise. Clones share their plan.
pub type FaultyStore = Forward<Faults>;

impl FaultyStore {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self::to(inner, Arc::default())
    }

    /// The next such call fails.
    pub fn fail(&self, call: Call, fault: Fault, kind: ErrorKind) {
        self.fail_times(call, 0, 1, fault, kind);
    }

    /// After `skip` calls that pass, `times` calls fail.
    pub fn fail_times(&self, call: Call, skip: u64, times: u64, fault: Fault, kind: ErrorKind) {
        if times > 0 {
            self.around().with(|plan| {
                plan.faults.push(Planned {
                    call,
                    skip,
                    times,
                    fault,
                    kind,
                });
            });
        }
    }

    /// Forgets every fault that is planned.
    pub fn heal(&self) {
        self.around().with(|plan| plan.faults.clear());
    }

    /// How often a call was made, failed ones included.
    #[must_use]
    pub fn calls(&self, call: Call) -> u64 {
        self.around()
            .with(|plan| plan.calls.get(&call).copied().unwrap_or_default())
    }

    /// How many calls failed as planned.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.around().with(|plan| plan.failed)
    }
}

impl Faults {
    fn with<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn planned(call: Call, kind: ErrorKind) -> Error {
    Error::new(kind, format!("planned fault of {call:?}"))
}

impl Around for Faults {
    async fn around<T: Send>(
        &self,
        call: Call,
        inner: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match self.with(|plan| plan.next(call)) {
            None => inner.await,
            Some((Fault::Before | Fault::Built, kind)) => Err(planned(call, kind)),
            Some((Fault::After, kind)) => {
                // An error of the store itself is no loss of its answer.
                drop(inner.await?);
                Err(planned(call, kind))
            }
        }
    }

    async fn append(&self, inner: &dyn Store, mut build: Build) -> Result<Head> {
        match self.with(|plan| plan.next(Call::Append)) {
            None => inner.append(build).await,
            Some((Fault::Before, kind)) => Err(planned(Call::Append, kind)),
            Some((Fault::Built, kind)) => {
                let building: Build = Box::new(move |head| {
                    drop(build(head)?);
                    Err(planned(Call::Append, kind))
                });
                inner.append(building).await
            }
            Some((Fault::After, kind)) => {
                drop(inner.append(build).await?);
                Err(planned(Call::Append, kind))
            }
        }
    }
}
