//! Which engines there are, and fresh places on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use audit_core::log::Log;
use audit_core::store::Store;
use audit_core::time::{IdSource as _, System};
use audit_store_postgres::{PostgresStore, PostgresUrl};
use audit_store_s3::{S3Options, S3Store};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::runtime::Runtime;

use crate::Result;
use crate::bare::{Bare, SyncedFile};
use crate::recorder::Recorder;
use crate::stores::bare_postgres::{BarePostgres, How};
use crate::stores::bare_s3::{BareS3, Server};
use crate::stores::baseline::Baseline;
use crate::workload::{Keys, create_log, open_store};

/// An engine that can be measured here.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "each kind is handled")]
pub enum Engine {
    /// Files in a directory.
    Sqlite(PathBuf),
    /// Schemas of a database.
    Postgres(String),
    /// Prefixes of a bucket that was made for this.
    S3(Server, String),
}

/// A place on an engine where nothing was before.
#[derive(Debug)]
pub struct Place {
    /// For another process; may hold a password.
    pub url: String,
    name: String,
}

impl Engine {
    /// SQLite in `dir`, and the servers that the environment names.
    pub async fn here(dir: &Path) -> Result<Vec<Self>> {
        let mut engines = vec![Self::Sqlite(dir.to_path_buf())];
        if let Ok(url) = std::env::var("AUDIT_TEST_POSTGRES_URL") {
            engines.push(Self::Postgres(url));
        }
        if let Some(server) = Server::of_environment()? {
            let bucket = format!("bench-{}", System.uuid_v4().simple());
            server.make_bucket(&bucket).await?;
            engines.push(Self::S3(server, bucket));
        }
        Ok(engines)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
            Self::S3(..) => "S3",
        }
    }

    /// A place of its own.
    #[must_use]
    pub fn place(&self) -> Place {
        let name = format!("bench_{}", System.uuid_v4().simple());
        let url = match self {
            Self::Sqlite(dir) => format!("sqlite:{}/{name}.db", dir.display()),
            Self::Postgres(url) => {
                let more = if url.contains('?') { '&' } else { '?' };
                format!("{url}{more}schema={name}")
            }
            Self::S3(server, bucket) => {
                format!(
                    "s3://{bucket}/{name}?retain_days=1&endpoint={}",
                    server.endpoint
                )
            }
        };
        Place { url, name }
    }

    /// A store in a fresh place. On S3 batches don't wait for company unless `linger` says so.
    pub async fn store(&self, place: &Place, linger: Option<Duration>) -> Result<Arc<dyn Store>> {
        Ok(match self {
            Self::Sqlite(_) => open_store(&place.url)?,
            Self::Postgres(_) => Arc::new(PostgresStore::create(&place.url.parse()?, true).await?),
            Self::S3(..) => Arc::new(S3Store::new(&s3_options(place, linger)?)?),
        })
    }

    /// A log in a fresh place, without a publisher, and what it commits.
    pub fn log(&self, runtime: &Runtime, keys: &Keys) -> Result<(Log, Arc<Recorder>)> {
        runtime.block_on(async {
            let store = self.store(&self.place(), None).await?;
            let recorder = Arc::new(Recorder::new(store));
            let log = create_log(Arc::clone(&recorder) as Arc<dyn Store>, keys, None).await?;
            Ok((log, recorder))
        })
    }

    /// What the same rows cost without a log: for PostgreSQL in two ways.
    pub async fn baselines(&self) -> Result<Vec<Baseline>> {
        Ok(match self {
            Self::Sqlite(dir) => {
                let path = dir.join(format!("{}.db", self.place().name));
                vec![Baseline::Sqlite(Bare::create(&path)?)]
            }
            Self::Postgres(_) => {
                let mut both = Vec::new();
                for how in [How::Insert, How::Copy] {
                    let place = self.place();
                    let url: PostgresUrl = place.url.parse()?;
                    // Only for its tables.
                    drop(PostgresStore::create(&url, true).await?);
                    let bare = BarePostgres::connect(self.server_url()?, &place.name, how).await?;
                    both.push(Baseline::Postgres(Box::new(bare)));
                }
                both
            }
            Self::S3(server, bucket) => {
                let bare = BareS3::new(server.clone(), bucket, &self.place().name);
                vec![Baseline::S3(bare)]
            }
        })
    }

    /// Drops a schema. Files go with their directory, and locked objects can't be deleted.
    pub async fn clean(&self) -> Result<()> {
        if let Self::Postgres(url) = self {
            let mut connection = PgConnection::connect(url).await?;
            let names: Vec<String> = sqlx::query_scalar(
                "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'bench\\_%'",
            )
            .fetch_all(&mut connection)
            .await?;
            for name in names {
                // A name of `place`: letters, digits and underscores.
                let sql = format!("DROP SCHEMA {name} CASCADE");
                sqlx::raw_sql(AssertSqlSafe(sql))
                    .execute(&mut connection)
                    .await?;
            }
            connection.close().await?;
        }
        Ok(())
    }

    /// PostgreSQL's server.
    pub fn server_url(&self) -> Result<&str> {
        match self {
            Self::Postgres(url) => Ok(url),
            _ => Err("not PostgreSQL".into()),
        }
    }
}

impl Place {
    /// The schema, or what else stands for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The options of a place on S3.
pub fn s3_options(place: &Place, linger: Option<Duration>) -> Result<S3Options> {
    let mut options = S3Options::parse_url(&place.url)?;
    options.linger = linger;
    Ok(options)
}

/// The least that any durable write on this file system costs.
pub fn synced_file(dir: &Path) -> Result<SyncedFile> {
    SyncedFile::create(&dir.join(format!("synced-{}", System.uuid_v4().simple())))
}
