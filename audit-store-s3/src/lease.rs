//! The lease of the one publisher: an object that is written conditionally.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use audit_core::canonical;
use audit_core::hex::Hex;
use audit_core::store::Lease;
use audit_core::{Error, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::names;
use crate::shared::{Shared, locked};

/// A holder renews when this part of the lease has passed.
const RENEW: u32 = 3;
const NOBODY: [u8; 16] = [0; 16];

/// Holders of this process that were dropped: whoever comes next in this process doesn't have to wait until the bucket says
/// so too.
static DROPPED: Mutex<BTreeSet<[u8; 16]>> = Mutex::new(BTreeSet::new());
/// Enough for the moments between a drop and its release.
const DROPPED_MAX: usize = 1024;

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Body {
    counter: u64,
    holder: Hex<16>,
}

impl Body {
    fn encode(&self) -> Result<Bytes> {
        canonical::to_vec(self).map(Bytes::from)
    }
}

/// What was seen of the lease, and when its counter changed last by this process's clock.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    body: Body,
    since: Instant,
}

impl Shared {
    /// See [`audit_core::store::Store::publisher_lease`].
    pub(crate) async fn publisher_lease(self: &Arc<Self>) -> Result<Option<PublisherLease>> {
        self.log_or_invalid().await?;
        // Whoever gives the lease back may do so between reading and writing here; then the next look shows it free.
        for _ in 0..3 {
            match self.take_lease().await? {
                Took::Lease(lease) => {
                    self.repair_checkpoint().await?;
                    return Ok(Some(lease));
                }
                Took::Held => return Ok(None),
                Took::Changed => {}
            }
        }
        Ok(None)
    }

    async fn take_lease(self: &Arc<Self>) -> Result<Took> {
        let there = self.bucket.get(names::LEASE).await?;
        let (etag, counter) = match &there {
            None => (None, 0),
            Some(object) => {
                let body: Body = canonical::from_slice(&object.bytes, "the object `lease`")?;
                let free = body.holder.0 == NOBODY || locked(&DROPPED).contains(&body.holder.0);
                if !free && !self.has_run_out(&body) {
                    return Ok(Took::Held);
                }
                (object.etag.clone(), body.counter)
            }
        };
        let mut holder = NOBODY;
        self.ids.fill(&mut holder);
        let body = Body {
            counter: counter + 1,
            holder: Hex(holder),
        };
        // What is written later can't have been valid for longer than from here on.
        let since = Instant::now();
        let swapped = self
            .bucket
            .swap(names::LEASE, etag.as_deref(), body.encode()?)
            .await?;
        let Some(etag) = swapped else {
            return Ok(Took::Changed);
        };
        Ok(Took::Lease(PublisherLease {
            shared: Arc::clone(self),
            holder,
            state: tokio::sync::Mutex::new(Some(State {
                counter: body.counter,
                etag,
                since,
            })),
            runtime: Handle::try_current().ok(),
        }))
    }

    /// Whether the counter has stood still for longer than a lease lasts, as far as this process watched.
    fn has_run_out(&self, body: &Body) -> bool {
        let mut watched = locked(&self.watched);
        let same = watched.as_ref().filter(|watched| watched.body == *body);
        let run_out = same.is_some_and(|watched| watched.since.elapsed() > self.lease);
        if same.is_none() {
            *watched = Some(Watched {
                body: body.clone(),
                since: Instant::now(),
            });
        }
        run_out
    }
}

enum Took {
    Lease(PublisherLease),
    Held,
    Changed,
}

#[derive(Debug)]
struct State {
    counter: u64,
    etag: String,
    since: Instant,
}

/// The right to publish.
pub(crate) struct PublisherLease {
    shared: Arc<Shared>,
    holder: [u8; 16],
    /// `None` once it was lost.
    state: tokio::sync::Mutex<Option<State>>,
    runtime: Option<Handle>,
}

impl fmt::Debug for PublisherLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublisherLease").finish_non_exhaustive()
    }
}

#[async_trait]
impl Lease for PublisherLease {
    async fn held(&self) -> Result<bool> {
        let mut state = self.state.lock().await;
        let Some(own) = state.as_mut() else {
            return Ok(false);
        };
        if own.since.elapsed() < self.shared.lease / RENEW {
            return Ok(true);
        }
        let body = Body {
            counter: own.counter + 1,
            holder: Hex(self.holder),
        };
        let since = Instant::now();
        let swapped = self
            .shared
            .bucket
            .swap(names::LEASE, Some(&own.etag), body.encode()?)
            .await;
        match swapped {
            Ok(Some(etag)) => {
                *own = State {
                    counter: body.counter,
                    etag,
                    since,
                };
                Ok(true)
            }
            Ok(None) => {
                *state = None;
                Ok(false)
            }
            // Nobody else may have it before this one has run out.
            Err(_) if own.since.elapsed() < self.shared.lease => Ok(true),
            Err(e) => {
                *state = None;
                Err(Error::unavailable("the publisher's lease could not be renewed").because(e))
            }
        }
    }

    async fn release(&self) {
        if let Some(own) = self.state.lock().await.take() {
            give_back(&self.shared, &own).await;
        }
    }
}

/// Writes that nobody has it. If that fails it runs out.
async fn give_back(shared: &Shared, own: &State) {
    let body = Body {
        counter: own.counter + 1,
        holder: Hex(NOBODY),
    };
    if let Ok(bytes) = body.encode() {
        drop(
            shared
                .bucket
                .swap(names::LEASE, Some(&own.etag), bytes)
                .await,
        );
    }
}

impl Drop for PublisherLease {
    fn drop(&mut self) {
        let Some(own) = self.state.get_mut().take() else {
            return;
        };
        let mut dropped = locked(&DROPPED);
        if dropped.len() >= DROPPED_MAX {
            dropped.clear();
        }
        dropped.insert(self.holder);
        drop(dropped);
        // For other processes: give it back at once, if there is still somebody to do it. Else it runs out.
        if let Some(runtime) = &self.runtime {
            let shared = Arc::clone(&self.shared);
            runtime.spawn(async move { give_back(&shared, &own).await });
        }
    }
}
