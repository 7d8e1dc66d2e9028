//! Locks against deletion, where the engine has them. Acts that are recorded in the log stand in `holds.rs`.

use std::fmt;

#[cfg(feature = "s3")]
use audit_core::Error;
use audit_core::Result;
use audit_core::time::Timestamp;

/// The locks on what a store holds: retention until a time, and legal holds without one.
pub struct Locks {
    engine: Engine,
    place: String,
}

enum Engine {
    #[cfg(feature = "s3")]
    S3(Box<audit_store_s3::S3Store>),
}

/// How the objects of a log are locked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockStatus {
    /// Objects that are written once, and locked.
    pub objects: u64,
    /// Of these, not locked although they should be.
    pub unlocked: u64,
    /// Of these, locked until a time that is past: they can be deleted, unless they are held.
    pub expired: u64,
    /// Of these, under a legal hold.
    pub held: u64,
    /// The earliest time until which one of them is locked.
    pub earliest: Option<Timestamp>,
    /// The latest such time.
    pub latest: Option<Timestamp>,
    /// For how many days what is written now is locked.
    pub retain_days: u32,
}

/// What became of taking a legal hold off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Released {
    /// Objects that aren't held any more.
    pub released: u64,
    /// Objects that stay held, since entries under another hold lie in them too.
    pub kept: u64,
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Locks({})", self.place)
    }
}

#[cfg_attr(
    not(feature = "s3"),
    expect(
        unused_variables,
        clippy::unused_async,
        reason = "without such an engine there are no locks"
    )
)]
impl Locks {
    #[cfg(feature = "s3")]
    pub(crate) async fn open(options: &audit_store_s3::S3Options, place: String) -> Result<Self> {
        use audit_core::store::ReadStore as _;
        let store = Box::new(audit_store_s3::S3Store::new(options)?);
        let description = store.description().await?;
        let description = description
            .ok_or_else(|| Error::invalid(format!("{place} is not the store of a log yet")))?;
        if description.retention_lock != Some(true) {
            return Err(Error::invalid(format!(
                "{place} has no locks: {}",
                audit_verify::WITHOUT_RETENTION_LOCK
            )));
        }
        Ok(Self {
            engine: Engine::S3(store),
            place,
        })
    }

    /// The store's URL, without secrets.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// How many requests were sent through this handle.
    #[must_use]
    pub fn requests(&self) -> u64 {
        match self.engine {
            #[cfg(feature = "s3")]
            Engine::S3(ref store) => store.requests(),
        }
    }

    /// How the log's objects are locked. Asks about every one.
    ///
    /// # Errors
    ///
    /// As the engine says.
    pub async fn status(&self) -> Result<LockStatus> {
        match self.engine {
            #[cfg(feature = "s3")]
            Engine::S3(ref store) => {
                let status = store.retention().await?;
                Ok(LockStatus {
                    objects: status.objects,
                    unlocked: status.unlocked,
                    expired: status.expired,
                    held: status.held,
                    earliest: status.earliest,
                    latest: status.latest,
                    retain_days: status.retain_days.unwrap_or_default(),
                })
            }
        }
    }

    /// Those of the entries at `indexes` that are not under a legal hold, with all that is stored for them and locked.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an index that the log doesn't have; else as the engine says.
    pub async fn not_held(&self, indexes: &[u64]) -> Result<Vec<u64>> {
        match self.engine {
            #[cfg(feature = "s3")]
            Engine::S3(ref store) => store.not_held(indexes).await,
        }
    }

    /// Locks every object until `until` at least; how many that changed. Repeating goes on where it failed.
    pub(crate) async fn lock_until(&self, until: Timestamp) -> Result<u64> {
        match self.engine {
            #[cfg(feature = "s3")]
            Engine::S3(ref store) => store.extend_retention(until).await,
        }
    }

    /// Holds the objects that the entries lie in; how many those are. Repeating goes on where it failed.
    pub(crate) async fn hold(&self, indexes: &[u64]) -> Result<u64> {
        match self.engine {
            #[cfg(feature = "s3")]
            Engine::S3(ref store) => store.hold(indexes).await,
        }
    }

    /// Takes the hold off the objects that the entries lie in, but for those in which the entries at `keep` lie too.
    pub(crate) async fn take_off(&self, indexes: &[u64], keep: &[u64]) -> Result<Released> {
        match self.engine {
            #[cfg(feature = "s3")]
            Engine::S3(ref store) => {
                let done = store.release(indexes, keep).await?;
                Ok(Released {
                    released: done.released,
                    kept: done.kept,
                })
            }
        }
    }
}
