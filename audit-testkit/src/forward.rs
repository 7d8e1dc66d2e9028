//! Wrapping a store: every call is passed on, with something around it.
//!
//! A wrapper says what happens [`Around`] a call; [`Forward`] is the store that it makes.

use std::fmt;
use std::future::Future;
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
use uuid::Uuid;

/// A call of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// What a store answered, where a later answer must agree with it, and what it is asked to change.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::exhaustive_enums,
    reason = "follows the trait, which tests must notice to change"
)]
pub enum Seen<'a> {
    /// The log's description.
    Description(&'a Description),
    /// A head, read or appended to.
    Head(&'a Head),
    /// Rows, read with parts or without.
    Rows(&'a [Row], Parts),
    /// Where an event is.
    Position(Uuid, Option<u64>),
    /// Hashes of a tile, from its first on.
    Tile(TileId, &'a [Hash]),
    /// A checkpoint, read or kept.
    Checkpoint(Option<u64>, &'a [u8]),
    /// The record of a data key.
    Key(Uuid, Option<&'a KeyRecord>),
    /// Before the call: these records are to take the place of those of the same ids.
    Rewrapping(&'a [KeyRecord]),
    /// Before the call: the records of these keys, and the content of the entries at these indexes, are to go.
    Erasing(&'a [Uuid], &'a [u64]),
}

/// What a wrapper does around the calls that it passes on; nothing, if it doesn't say.
pub trait Around: fmt::Debug + Send + Sync + 'static {
    /// Answers a call; `inner` makes it.
    fn around<T: Send>(
        &self,
        call: Call,
        inner: impl Future<Output = Result<T>> + Send,
    ) -> impl Future<Output = Result<T>> + Send {
        let _: Call = call;
        inner
    }

    /// Answers an append. `build` can be wrapped, to see or refuse what it makes.
    fn append(&self, inner: &dyn Store, build: Build) -> impl Future<Output = Result<Head>> + Send {
        self.around(Call::Append, inner.append(build))
    }

    /// Takes the place of a lease that was taken.
    fn lease(&self, lease: Box<dyn Lease>) -> Box<dyn Lease> {
        lease
    }

    /// Is told what was answered.
    fn sees(&self, seen: Seen<'_>) {
        let _: Seen<'_> = seen;
    }
}

/// A store that passes every call on to another one. Clones share what is around the calls.
#[derive(Debug)]
pub struct Forward<A> {
    inner: Arc<dyn Store>,
    around: Arc<A>,
}

impl<A> Clone for Forward<A> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            around: Arc::clone(&self.around),
        }
    }
}

impl<A: Around> Forward<A> {
    /// Passes calls on to `inner`, with `around` around them.
    #[must_use]
    pub fn to(inner: Arc<dyn Store>, around: Arc<A>) -> Self {
        Self { inner, around }
    }

    /// What is around the calls.
    #[must_use]
    pub fn around(&self) -> &Arc<A> {
        &self.around
    }

    async fn call<T: Send>(
        &self,
        call: Call,
        inner: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.around.around(call, inner).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<A: Around> ReadStore for Forward<A> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn description(&self) -> Result<Option<Description>> {
        let found = self
            .call(Call::Description, self.inner.description())
            .await?;
        if let Some(found) = &found {
            self.around.sees(Seen::Description(found));
        }
        Ok(found)
    }

    async fn head(&self) -> Result<Head> {
        let head = self.call(Call::Head, self.inner.head()).await?;
        self.around.sees(Seen::Head(&head));
        Ok(head)
    }

    async fn rows(&self, range: Range<u64>, parts: Parts) -> Result<Vec<Row>> {
        let rows = self.call(Call::Rows, self.inner.rows(range, parts)).await?;
        self.around.sees(Seen::Rows(&rows, parts));
        Ok(rows)
    }

    async fn integrity(&self) -> Result<()> {
        self.call(Call::Integrity, self.inner.integrity()).await
    }

    async fn position(&self, event: Uuid) -> Result<Option<u64>> {
        let index = self
            .call(Call::Position, self.inner.position(event))
            .await?;
        self.around.sees(Seen::Position(event, index));
        Ok(index)
    }

    async fn find(&self, query: &Query) -> Result<Vec<u64>> {
        self.call(Call::Find, self.inner.find(query)).await
    }

    async fn token_rows(
        &self,
        after: Option<(Token, u64)>,
        limit: usize,
    ) -> Result<Vec<(Token, u64)>> {
        self.call(Call::TokenRows, self.inner.token_rows(after, limit))
            .await
    }

    async fn tile(&self, id: TileId) -> Result<Option<Vec<Hash>>> {
        let hashes = self.call(Call::Tile, self.inner.tile(id)).await?;
        if let Some(hashes) = &hashes {
            self.around.sees(Seen::Tile(id, hashes));
        }
        Ok(hashes)
    }

    async fn tiles(&self, level: u8, after: Option<u64>, limit: usize) -> Result<Vec<Tile>> {
        let tiles = self
            .call(Call::Tiles, self.inner.tiles(level, after, limit))
            .await?;
        for tile in &tiles {
            self.around.sees(Seen::Tile(tile.id, &tile.hashes));
        }
        Ok(tiles)
    }

    async fn latest_checkpoint(&self) -> Result<Option<Vec<u8>>> {
        let note = self
            .call(Call::LatestCheckpoint, self.inner.latest_checkpoint())
            .await?;
        if let Some(note) = &note {
            self.around.sees(Seen::Checkpoint(None, note));
        }
        Ok(note)
    }

    async fn checkpoints(&self, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        let found = self
            .call(Call::Checkpoints, self.inner.checkpoints(after, limit))
            .await?;
        for (size, note) in &found {
            self.around.sees(Seen::Checkpoint(Some(*size), note));
        }
        Ok(found)
    }

    async fn key(&self, id: Uuid) -> Result<Option<KeyRecord>> {
        let record = self.call(Call::Key, self.inner.key(id)).await?;
        self.around.sees(Seen::Key(id, record.as_ref()));
        Ok(record)
    }

    async fn keys(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<KeyRecord>> {
        let records = self.call(Call::Keys, self.inner.keys(after, limit)).await?;
        for record in &records {
            self.around.sees(Seen::Key(record.id, Some(record)));
        }
        Ok(records)
    }

    async fn keys_of_scope(&self, scope: Token) -> Result<Vec<KeyRecord>> {
        let records = self
            .call(Call::KeysOfScope, self.inner.keys_of_scope(scope))
            .await?;
        for record in &records {
            self.around.sees(Seen::Key(record.id, Some(record)));
        }
        Ok(records)
    }

    async fn wait_beyond(&self, size: u64) -> Result<()> {
        self.call(Call::WaitBeyond, self.inner.wait_beyond(size))
            .await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<A: Around> Store for Forward<A> {
    async fn create(&self, origin: &str) -> Result<()> {
        self.call(Call::Create, self.inner.create(origin)).await
    }

    async fn append(&self, build: Build) -> Result<Head> {
        let head = self.around.append(&*self.inner, build).await?;
        self.around.sees(Seen::Head(&head));
        Ok(head)
    }

    async fn put_checkpoint(&self, size: u64, note: &[u8]) -> Result<()> {
        self.call(Call::PutCheckpoint, self.inner.put_checkpoint(size, note))
            .await?;
        self.around.sees(Seen::Checkpoint(Some(size), note));
        Ok(())
    }

    async fn publisher_lease(&self) -> Result<Option<Box<dyn Lease>>> {
        let lease = self
            .call(Call::PublisherLease, self.inner.publisher_lease())
            .await?;
        Ok(lease.map(|lease| {
            Box::new(ForwardLease {
                inner: self.around.lease(lease),
                around: Arc::clone(&self.around),
            }) as Box<dyn Lease>
        }))
    }

    async fn rewrap(&self, records: &[KeyRecord]) -> Result<()> {
        self.around.sees(Seen::Rewrapping(records));
        self.call(Call::Rewrap, self.inner.rewrap(records)).await
    }

    async fn erase(&self, keys: &[Uuid], indexes: &[u64]) -> Result<()> {
        self.around.sees(Seen::Erasing(keys, indexes));
        self.call(Call::Erase, self.inner.erase(keys, indexes))
            .await
    }
}

#[derive(Debug)]
struct ForwardLease<A> {
    inner: Box<dyn Lease>,
    around: Arc<A>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<A: Around> Lease for ForwardLease<A> {
    async fn held(&self) -> Result<bool> {
        self.around.around(Call::Held, self.inner.held()).await
    }

    // As if it were dropped, which no wrapper can fail.
    async fn release(&self) {
        self.inner.release().await;
    }
}
