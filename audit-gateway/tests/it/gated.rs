//! A store whose appends wait until a test lets them through.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use audit_core::Result;
use audit_core::datakey::KeyRecord;
use audit_core::store::{
    Build, Capabilities, Description, Head, Lease, Parts, Query, ReadStore, Row, Store, Tile,
};
use audit_core::token::Token;
use audit_tlog::Hash;
use audit_tlog::tile::TileId;
use tokio::sync::watch;
use uuid::Uuid;

#[derive(Debug, Clone)]
pub(crate) struct GatedStore {
    inner: Arc<dyn Store>,
    open: watch::Sender<bool>,
}

impl GatedStore {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            open: watch::Sender::new(true),
        }
    }

    pub(crate) fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

#[async_trait]
impl ReadStore for GatedStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn description(&self) -> Result<Option<Description>> {
        self.inner.description().await
    }
    async fn head(&self) -> Result<Head> {
        self.inner.head().await
    }
    async fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        self.inner.rows(range, parts).await
    }
    async fn integrity(&self) -> Result<()> {
        self.inner.integrity().await
    }
    async fn position(&self, event: Uuid) -> Result<Option<u64>> {
        self.inner.position(event).await
    }
    async fn find(&self, query: &Query) -> Result<Vec<u64>> {
        self.inner.find(query).await
    }
    async fn token_rows(
        &self,
        after: Option<(Token, u64)>,
        limit: usize,
    ) -> Result<Vec<(Token, u64)>> {
        self.inner.token_rows(after, limit).await
    }
    async fn tile(&self, id: TileId) -> Result<Option<Vec<Hash>>> {
        self.inner.tile(id).await
    }
    async fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        self.inner.tiles(level, after, limit).await
    }
    async fn latest_checkpoint(&self) -> Result<Option<Vec<u8>>> {
        self.inner.latest_checkpoint().await
    }
    async fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        self.inner.checkpoints(after, limit).await
    }
    async fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        self.inner.key(id).await
    }
    async fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        self.inner.keys(after, limit).await
    }
    async fn keys_of_scope(&self, scope: Token) -> Result<Vec<KeyRecord>> {
        self.inner.keys_of_scope(scope).await
    }
    async fn wait_beyond(&self, size: u64) -> Result<()> {
        self.inner.wait_beyond(size).await
    }
}

#[async_trait]
impl Store for GatedStore {
    async fn create(&self, origin: &str) -> Result<()> {
        self.inner.create(origin).await
    }
    async fn append(&self, build: Build) -> Result<Head> {
        self.open
            .subscribe()
            .wait_for(|open| *open)
            .await
            .expect("the sender is in self");
        self.inner.append(build).await
    }
    async fn put_checkpoint(&self, size: u64, note: &[u8]) -> Result<()> {
        self.inner.put_checkpoint(size, note).await
    }
    async fn publisher_lease(&self) -> Result<Option<Box<dyn Lease>>> {
        self.inner.publisher_lease().await
    }
    async fn rewrap(&self, records: &[KeyRecord]) -> Result<()> {
        self.inner.rewrap(records).await
    }
    async fn erase(&self, keys: &[Uuid], indexes: &[u64]) -> Result<()> {
        self.inner.erase(keys, indexes).await
    }
}
