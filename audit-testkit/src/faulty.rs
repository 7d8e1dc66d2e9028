//! A store whose calls fail on demand.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use audit_core::datakey::KeyRecord;
use audit_core::store::{
    Build, Capabilities, Description, Head, Lease, Parts, Query, ReadStore, Row, Store, Tile,
};
use audit_core::token::Token;
use audit_core::{Error, ErrorKind, Result};
use audit_tlog::Hash;
use audit_tlog::tile::TileId;
use uuid::Uuid;

/// A call of a store that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is called like its method")]
#[expect(
    clippy::exhaustive_enums,
    reason = "follows the trait, which tests must notice to change"
)]
pub enum Call {
    Description,
    Head,
    Rows,
    Integrity,
    Position,
    Find,
    TokenRows,
    Tile,
    Tiles,
    LatestCheckpoint,
    Checkpoints,
    Key,
    Keys,
    KeysOfScope,
    WaitBeyond,
    Create,
    Append,
    PutCheckpoint,
    PublisherLease,
    Rewrap,
    Erase,
    /// [`Lease::held`], of leases that come from this store.
    Held,
}

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

impl Plan {
    fn next(&mut self, call: Call) -> Option<(Fault, ErrorKind)> {
        *self.calls.entry(call).or_default() += 1;
        let planned = self.faults.iter_mut().find(|p| p.call == call)?;
        if planned.skip > 0 {
            planned.skip -= 1;
            return None;
        }
        let now = (planned.fault, planned.kind);
        planned.times -= 1;
        self.faults.retain(|p| p.times > 0);
        Some(now)
    }
}

/// Wraps a store; calls fail as planned, in the order of planning, and pass through otherwise.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    plan: Arc<Mutex<Plan>>,
}

impl FaultyStore {
    /// Wraps `inner`. Clones share their plan.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            plan: Arc::default(),
        }
    }

    /// The next such call fails.
    pub fn fail(&self, call: Call, fault: Fault, kind: ErrorKind) {
        self.fail_times(call, 0, 1, fault, kind);
    }

    /// After `skip` calls that pass, `times` calls fail.
    pub fn fail_times(&self, call: Call, skip: u64, times: u64, fault: Fault, kind: ErrorKind) {
        if times > 0 {
            self.with(|plan| {
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
        self.with(|plan| plan.faults.clear());
    }

    /// How often a call was made, failed ones included.
    #[must_use]
    pub fn calls(&self, call: Call) -> u64 {
        self.with(|plan| plan.calls.get(&call).copied().unwrap_or_default())
    }

    fn with<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> T {
        change(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }

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
}

fn planned(call: Call, kind: ErrorKind) -> Error {
    Error::new(kind, format!("planned fault of {call:?}"))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ReadStore for FaultyStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn description(&self) -> Result<Option<Description>> {
        self.around(Call::Description, self.inner.description())
            .await
    }

    async fn head(&self) -> Result<Head> {
        self.around(Call::Head, self.inner.head()).await
    }

    async fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        self.around(Call::Rows, self.inner.rows(range, parts)).await
    }

    async fn integrity(&self) -> Result<()> {
        self.around(Call::Integrity, self.inner.integrity()).await
    }

    async fn position(&self, event: Uuid) -> Result<Option<u64>> {
        self.around(Call::Position, self.inner.position(event))
            .await
    }

    async fn find(&self, query: &Query) -> Result<Vec<u64>> {
        self.around(Call::Find, self.inner.find(query)).await
    }

    async fn token_rows(
        &self,
        after: Option<(Token, u64)>,
        limit: usize,
    ) -> Result<Vec<(Token, u64)>> {
        self.around(Call::TokenRows, self.inner.token_rows(after, limit))
            .await
    }

    async fn tile(&self, id: TileId) -> Result<Option<Vec<Hash>>> {
        self.around(Call::Tile, self.inner.tile(id)).await
    }

    async fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        self.around(Call::Tiles, self.inner.tiles(level, after, limit))
            .await
    }

    async fn latest_checkpoint(&self) -> Result<Option<Vec<u8>>> {
        self.around(Call::LatestCheckpoint, self.inner.latest_checkpoint())
            .await
    }

    async fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        self.around(Call::Checkpoints, self.inner.checkpoints(after, limit))
            .await
    }

    async fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        self.around(Call::Key, self.inner.key(id)).await
    }

    async fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        self.around(Call::Keys, self.inner.keys(after, limit)).await
    }

    async fn keys_of_scope(&self, scope: Token) -> Result<Vec<KeyRecord>> {
        self.around(Call::KeysOfScope, self.inner.keys_of_scope(scope))
            .await
    }

    async fn wait_beyond(&self, size: u64) -> Result<()> {
        self.around(Call::WaitBeyond, self.inner.wait_beyond(size))
            .await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for FaultyStore {
    async fn create(&self, origin: &str) -> Result<()> {
        self.around(Call::Create, self.inner.create(origin)).await
    }

    async fn append(&self, mut build: Build) -> Result<Head> {
        match self.with(|plan| plan.next(Call::Append)) {
            None => self.inner.append(build).await,
            Some((Fault::Before, kind)) => Err(planned(Call::Append, kind)),
            Some((Fault::Built, kind)) => {
                let building: Build = Box::new(move |head| {
                    drop(build(head)?);
                    Err(planned(Call::Append, kind))
                });
                self.inner.append(building).await
            }
            Some((Fault::After, kind)) => {
                drop(self.inner.append(build).await?);
                Err(planned(Call::Append, kind))
            }
        }
    }

    async fn put_checkpoint(&self, size: u64, note: &[u8]) -> Result<()> {
        self.around(Call::PutCheckpoint, self.inner.put_checkpoint(size, note))
            .await
    }

    async fn publisher_lease(&self) -> Result<Option<Box<dyn Lease>>> {
        let lease = self
            .around(Call::PublisherLease, self.inner.publisher_lease())
            .await?;
        Ok(lease.map(|inner| {
            let store = self.clone();
            Box::new(FaultyLease { inner, store }) as Box<dyn Lease>
        }))
    }

    async fn rewrap(&self, records: &[KeyRecord]) -> Result<()> {
        self.around(Call::Rewrap, self.inner.rewrap(records)).await
    }

    async fn erase(&self, keys: &[Uuid], indexes: &[u64]) -> Result<()> {
        self.around(Call::Erase, self.inner.erase(keys, indexes))
            .await
    }
}

#[derive(Debug)]
struct FaultyLease {
    inner: Box<dyn Lease>,
    store: FaultyStore,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Lease for FaultyLease {
    async fn held(&self) -> Result<bool> {
        self.store.around(Call::Held, self.inner.held()).await
    }
}
