//! Committing the same bytes without a log.

use std::time::Duration;

use audit_core::store::Batch;
use tokio::runtime::Runtime;

use crate::Result;
use crate::bare::{Bare, BareBatch};
use crate::machine::timed;
use crate::stores::bare_postgres::{BarePostgres, PostgresBatch};
use crate::stores::bare_s3::{BareS3, Objects};

/// An engine's own commit.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "each kind is handled")]
pub enum Baseline {
    /// One transaction.
    Sqlite(Bare),
    /// One transaction.
    Postgres(Box<BarePostgres>),
    /// One object after the other.
    S3(BareS3),
}

/// A batch as the engine takes it, so that preparing it isn't part of the baseline.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "each kind is handled")]
pub enum Prepared {
    /// For SQLite.
    Sqlite(BareBatch),
    /// For PostgreSQL.
    Postgres(Box<PostgresBatch>),
    /// For S3.
    S3(Objects),
}

impl Prepared {
    /// Events in it.
    #[must_use]
    pub fn events(&self) -> usize {
        match self {
            Self::Sqlite(batch) => batch.events(),
            Self::Postgres(batch) => batch.events(),
            Self::S3(batch) => batch.events(),
        }
    }
}

impl Baseline {
    /// What it does.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "bare transaction",
            Self::Postgres(bare) => bare.what(),
            Self::S3(_) => "bare puts",
        }
    }

    /// Prepares a batch.
    pub fn prepare(&self, batch: &Batch) -> Result<Prepared> {
        Ok(match self {
            Self::Sqlite(_) => Prepared::Sqlite(BareBatch::new(batch)?),
            Self::Postgres(_) => Prepared::Postgres(Box::new(PostgresBatch::new(batch)?)),
            Self::S3(_) => Prepared::S3(Objects::new(batch)),
        })
    }

    /// How long committing these takes, one after the other, as the values of batches that a log made.
    pub fn replay(&mut self, runtime: &Runtime, batches: &[Batch]) -> Result<Duration> {
        let prepared = batches.iter().map(|batch| self.prepare(batch));
        let prepared = prepared.collect::<Result<Vec<_>>>()?;
        let (took, done) = timed(|| {
            runtime.block_on(async {
                for batch in &prepared {
                    self.commit(batch).await?;
                }
                Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
            })
        });
        done?;
        Ok(took)
    }

    /// Commits it; durable on return.
    pub async fn commit(&mut self, batch: &Prepared) -> Result<()> {
        match (self, batch) {
            (Self::Sqlite(bare), Prepared::Sqlite(batch)) => bare.commit(batch),
            (Self::Postgres(bare), Prepared::Postgres(batch)) => bare.commit(batch).await,
            (Self::S3(bare), Prepared::S3(batch)) => bare.commit(batch).await,
            _ => Err("a batch that was prepared for another engine".into()),
        }
    }
}
