//! A store whose process dies: from then on no call reaches the store, and no answer comes back.

use std::future::{Future, pending};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use audit_core::store::{Build, Head, Lease, Store};
use audit_core::{Error, Kind, Result};
use tokio::sync::watch;

use crate::faulty::Fault;
use crate::forward::{Around, Call, Forward};

/// When a process is to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "tests say all of it")]
pub struct Death {
    /// At which call; `None`: at any.
    pub call: Option<Call>,
    /// After so many such calls that pass.
    pub skip: u64,
    /// Before the call, within it, or when it is done and the answer isn't there yet.
    pub moment: Fault,
}

/// How a process died.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Died {
    /// At which call.
    pub call: Call,
    /// When.
    pub moment: Fault,
    /// The kinds of the entries of the batch, where the call was an append and had built one.
    pub kinds: Vec<Kind>,
}

/// The life of one process: what its store handles share.
#[derive(Debug)]
pub struct Life {
    dead: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    planned: Option<Death>,
    died: Option<Died>,
    calls: u64,
    leases: Vec<Held>,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            dead: watch::Sender::new(false),
            state: Mutex::default(),
        }
    }
}

/// A lease, until it is released.
type Held = Arc<Mutex<Option<Arc<dyn Lease>>>>;

/// A store as a mortal process holds it.
pub type MortalStore = Forward<Life>;

impl MortalStore {
    /// The store as the process of this life holds it.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, life: &Arc<Life>) -> Self {
        Self::to(inner, Arc::clone(life))
    }
}

impl Life {
    /// Plans a death, in place of the one that was planned.
    pub fn die(&self, death: Death) {
        self.with(|state| state.planned = Some(death));
    }

    /// Forgets the planned death.
    pub fn spare(&self) {
        self.with(|state| state.planned = None);
    }

    /// Ends it now.
    pub fn kill(&self) {
        self.dead.send_replace(true);
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    /// Returns when it has ended.
    pub async fn died(&self) {
        let mut dead = self.dead.subscribe();
        // The sender is in self, so this ends only by the value.
        drop(dead.wait_for(|dead| *dead).await);
    }

    /// How it ended, if that was as planned.
    #[must_use]
    pub fn end(&self) -> Option<Died> {
        self.with(|state| state.died.clone())
    }

    /// Calls that it made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.with(|state| state.calls)
    }

    /// Releases what the operating system releases when a process is gone: its leases. To be called when what it was
    /// doing at the moment of its death has come to rest.
    pub fn bury(&self) {
        self.kill();
        let leases = self.with(|state| std::mem::take(&mut state.leases));
        for lease in leases {
            drop(lease.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a call, and says whether the process dies at it.
    fn next(&self, call: Call) -> Option<Fault> {
        self.with(|state| {
            state.calls += 1;
            let planned = state.planned.as_mut()?;
            if planned.call.is_some_and(|at| at != call) {
                return None;
            }
            if planned.skip > 0 {
                planned.skip -= 1;
                return None;
            }
            state.planned.take().map(|death| death.moment)
        })
    }

    async fn end_at<T>(&self, call: Call, moment: Fault, kinds: Vec<Kind>) -> T {
        self.with(|state| {
            state.died = Some(Died {
                call,
                moment,
                kinds,
            });
        });
        self.kill();
        pending().await
    }

    /// What `inner` answers, if the process lives to hear it.
    async fn alive<T>(&self, inner: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = self.died() => pending().await,
            answer = inner => {
                if self.is_dead() {
                    pending::<()>().await;
                }
                answer
            }
        }
    }
}

impl Around for Life {
    async fn around<T: Send>(
        &self,
        call: Call,
        inner: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        if self.is_dead() {
            return pending().await;
        }
        match self.next(call) {
            None => self.alive(inner).await,
            Some(moment @ (Fault::Before | Fault::Built)) => {
                self.end_at(call, moment, Vec::new()).await
            }
            Some(Fault::After) => {
                drop(self.alive(inner).await);
                self.end_at(call, Fault::After, Vec::new()).await
            }
        }
    }

    async fn append(&self, inner: &dyn Store, mut build: Build) -> Result<Head> {
        if self.is_dead() {
            return pending().await;
        }
        let moment = self.next(Call::Append);
        if moment == Some(Fault::Before) {
            return self.end_at(Call::Append, Fault::Before, Vec::new()).await;
        }
        let kinds = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&kinds);
        let building: Build = Box::new(move |head| {
            let batch = build(head)?;
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = batch
                .rows
                .iter()
                .map(|row| row.columns.kind.clone())
                .collect();
            if moment == Some(Fault::Built) {
                return Err(Error::unavailable("the process died while it appended"));
            }
            Ok(batch)
        });
        let answer = self.alive(inner.append(building)).await;
        match moment {
            None => answer,
            Some(moment) => {
                let kinds =
                    std::mem::take(&mut *kinds.lock().unwrap_or_else(PoisonError::into_inner));
                self.end_at(Call::Append, moment, kinds).await
            }
        }
    }

    fn lease(&self, lease: Box<dyn Lease>) -> Box<dyn Lease> {
        let held: Held = Arc::new(Mutex::new(Some(Arc::from(lease))));
        self.with(|state| state.leases.push(Arc::clone(&held)));
        Box::new(MortalLease {
            held,
            dead: self.dead.clone(),
        })
    }
}

/// Ends when its holder drops it, if the process lives; else when the process is buried.
#[derive(Debug)]
struct MortalLease {
    held: Held,
    dead: watch::Sender<bool>,
}

impl Drop for MortalLease {
    fn drop(&mut self) {
        if !*self.dead.borrow() {
            drop(
                self.held
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take(),
            );
        }
    }
}

#[async_trait]
impl Lease for MortalLease {
    async fn held(&self) -> Result<bool> {
        let lease = self
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match lease {
            Some(lease) => lease.held().await,
            None => Ok(false),
        }
    }

    async fn release(&self) {
        let lease = self
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(lease) = lease {
            lease.release().await;
        }
    }
}
