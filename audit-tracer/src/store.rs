//! Which store a URL names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use audit_core::store::{ReadStore, Store};
use audit_core::{Error, Result};

use crate::locks::Locks;

/// The store that a URL names: the one place where a backend is chosen by name.
///
/// - `sqlite:PATH`, with the feature `sqlite`
/// - `postgres://USER@HOST/DATABASE?schema=NAME`, with the feature `postgres`; its options are those of `PostgresUrl` in
///   `audit-store-postgres`
/// - `s3://BUCKET/PREFIX?…`, with the feature `s3`; its options are those of `S3Options` in `audit-store-s3`
///
/// ```
/// # #[cfg(feature = "sqlite")] {
/// use audit_tracer::StoreUrl;
///
/// let url: StoreUrl = "sqlite:/var/lib/audit-trail/log.db".parse()?;
/// assert_eq!(url.path().unwrap().to_str(), Some("/var/lib/audit-trail/log.db"));
/// # }
/// # Ok::<(), audit_tracer::Error>(())
/// ```
#[derive(Clone)]
pub struct StoreUrl {
    engine: Engine,
    auto_migrate: bool,
}

#[derive(Clone)]
enum Engine {
    #[cfg(feature = "sqlite")]
    Sqlite(PathBuf),
    #[cfg(feature = "postgres")]
    Postgres(Box<audit_store_postgres::PostgresUrl>),
    #[cfg(feature = "s3")]
    S3(Box<audit_store_s3::S3Options>),
}

/// Every scheme that is known, the engine behind it, and whether this build has it.
const SCHEMES: [(&str, &str, bool); 4] = [
    ("sqlite", "SQLite", cfg!(feature = "sqlite")),
    ("postgres", "PostgreSQL", cfg!(feature = "postgres")),
    ("postgresql", "PostgreSQL", cfg!(feature = "postgres")),
    ("s3", "S3", cfg!(feature = "s3")),
];

/// How many migrations a schema has, and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationStatus {
    /// The version of the schema; `None` while there is none.
    pub version: Option<u32>,
    /// The version that this program works with.
    pub newest: u32,
    /// Version and name of each migration that is missing.
    pub pending: Vec<(u32, &'static str)>,
}

impl FromStr for StoreUrl {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        // What stands behind the scheme may hold a password: of an unknown URL nothing else is repeated.
        let scheme = url.split_once(':').map(|(scheme, _)| scheme);
        #[cfg(feature = "sqlite")]
        if scheme == Some("sqlite") {
            let path = audit_store_sqlite::parse_url(url)?;
            return Ok(Self {
                engine: Engine::Sqlite(path),
                auto_migrate: true,
            });
        }
        #[cfg(feature = "postgres")]
        if matches!(scheme, Some("postgres" | "postgresql")) {
            return Ok(Self {
                engine: Engine::Postgres(Box::new(url.parse()?)),
                auto_migrate: true,
            });
        }
        #[cfg(feature = "s3")]
        if scheme == Some("s3") {
            let options = audit_store_s3::S3Options::parse_url(url)?;
            return Ok(Self {
                engine: Engine::S3(Box::new(options)),
                auto_migrate: true,
            });
        }
        let built: Vec<String> = SCHEMES
            .iter()
            .filter(|(.., built)| *built)
            .map(|(scheme, ..)| format!("{scheme}:"))
            .collect();
        let built = if built.is_empty() {
            "no store at all".to_owned()
        } else {
            built.join(", ")
        };
        let Some(scheme) = scheme else {
            return Err(Error::invalid(format!(
                "store URL has no scheme, this build has {built}"
            )));
        };
        let known = SCHEMES.iter().find(|(known, ..)| *known == scheme);
        Err(Error::invalid(match known {
            Some((_, engine, _)) => {
                format!("this build has no {engine}, for which {scheme}: stands; it has {built}")
            }
            None => format!(
                "store URL has the scheme {:?}, this build has {built}",
                scheme.chars().take(16).collect::<String>()
            ),
        }))
    }
}

/// The URL without a password.
impl fmt::Display for StoreUrl {
    #[cfg_attr(
        not(any(feature = "sqlite", feature = "postgres", feature = "s3")),
        expect(unused_variables, reason = "without an engine there is no URL")
    )]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(ref path) => write!(f, "sqlite:{}", path.display()),
            #[cfg(feature = "postgres")]
            Engine::Postgres(ref url) => url.fmt(f),
            #[cfg(feature = "s3")]
            Engine::S3(ref options) => options.fmt(f),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

/// The engine has no locks against deletion.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn no_locks(engine: &str) -> Error {
    Error::invalid(format!(
        "{engine} has no retention lock and no legal hold; only a log in a bucket (s3://…) can have them"
    ))
}

/// Runs what blocks on the file system apart from the runtime's own threads.
#[cfg(feature = "sqlite")]
async fn sqlite<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    crate::create::blocking(work).await
}

impl StoreUrl {
    /// Whether missing migrations are done when the store is made or opened for writing; they are unless this says
    /// otherwise. SQLite's files have none.
    #[must_use]
    pub fn auto_migrate(mut self, auto_migrate: bool) -> Self {
        self.auto_migrate = auto_migrate;
        self
    }

    /// Whether the URL itself has a password, which then stands wherever the URL does: in settings, and in the list of
    /// processes if it is a flag.
    #[must_use]
    pub fn has_password(&self) -> bool {
        match self.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(_) => false,
            #[cfg(feature = "postgres")]
            Engine::Postgres(ref url) => url.has_password(),
            #[cfg(feature = "s3")]
            Engine::S3(_) => false,
        }
    }

    /// The URL of a store for a log that is made without Object Lock, where `url` names one that could have it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the engine knows no such locks, or the URL asks for them.
    pub fn without_object_lock(url: &str) -> Result<String> {
        let parsed: Self = url.parse()?;
        match parsed.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(_) => Err(no_locks("SQLite")),
            #[cfg(feature = "postgres")]
            Engine::Postgres(_) => Err(no_locks("PostgreSQL")),
            #[cfg(feature = "s3")]
            Engine::S3(_) => {
                let query = url.split_once('?').map(|(_, query)| query);
                let said = |option: &str| query.is_some_and(|q| q.split('&').any(|o| o == option));
                if said("object_lock=yes") {
                    return Err(Error::invalid(
                        "the store URL says object_lock=yes, and it is to be made without Object Lock",
                    ));
                }
                if said("object_lock=no") {
                    return Ok(url.to_owned());
                }
                let sign = if query.is_some() { '&' } else { '?' };
                Ok(format!("{url}{sign}object_lock=no"))
            }
        }
    }

    /// Makes the place where the store is to be, such as SQLite's file or PostgreSQL's tables; there must be no log.
    ///
    /// # Errors
    ///
    /// As the engine says: [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if there is one already.
    #[cfg_attr(
        not(any(feature = "sqlite", feature = "postgres")),
        expect(clippy::unused_async, reason = "only some engines are waited for")
    )]
    pub async fn create(&self) -> Result<Arc<dyn Store>> {
        match self.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(ref path) => {
                let path = path.clone();
                let store = sqlite(|| audit_store_sqlite::SqliteStore::create_file(path)).await?;
                Ok(Arc::new(store))
            }
            #[cfg(feature = "postgres")]
            Engine::Postgres(ref url) => {
                let store = audit_store_postgres::PostgresStore::create(url, self.auto_migrate);
                Ok(Arc::new(store.await?))
            }
            // Nothing is made before the log is: whether there is one already shows then.
            #[cfg(feature = "s3")]
            Engine::S3(ref options) => Ok(Arc::new(audit_store_s3::S3Store::new(options)?)),
        }
    }

    /// Opens it for writing.
    ///
    /// # Errors
    ///
    /// As the engine says: [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if there is none.
    #[cfg_attr(
        not(any(feature = "sqlite", feature = "postgres")),
        expect(clippy::unused_async, reason = "only some engines are waited for")
    )]
    pub async fn open(&self) -> Result<Arc<dyn Store>> {
        match self.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(ref path) => {
                use audit_store_sqlite::{OpenMode, SqliteStore};
                let path = path.clone();
                let store = sqlite(|| SqliteStore::open(path, OpenMode::ReadWrite)).await?;
                Ok(Arc::new(store))
            }
            #[cfg(feature = "postgres")]
            Engine::Postgres(ref url) => {
                use audit_store_postgres::{OpenMode, OpenOptions, PostgresStore};
                let options = OpenOptions {
                    mode: OpenMode::ReadWrite,
                    auto_migrate: self.auto_migrate,
                };
                Ok(Arc::new(PostgresStore::open(url, options).await?))
            }
            #[cfg(feature = "s3")]
            Engine::S3(ref options) => Ok(Arc::new(audit_store_s3::S3Store::new(options)?)),
        }
    }

    /// Opens it for reading alone.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    #[cfg_attr(
        not(any(feature = "sqlite", feature = "postgres")),
        expect(clippy::unused_async, reason = "only some engines are waited for")
    )]
    pub async fn read(&self) -> Result<Arc<dyn ReadStore>> {
        match self.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(ref path) => {
                use audit_store_sqlite::{OpenMode, SqliteStore};
                let path = path.clone();
                let store = sqlite(|| SqliteStore::open(path, OpenMode::ReadOnly)).await?;
                Ok(Arc::new(store))
            }
            #[cfg(feature = "postgres")]
            Engine::Postgres(ref url) => {
                use audit_store_postgres::{OpenOptions, PostgresStore};
                let store = PostgresStore::open(url, OpenOptions::read_only());
                Ok(Arc::new(store.await?))
            }
            #[cfg(feature = "s3")]
            Engine::S3(ref options) => Ok(Arc::new(audit_store_s3::S3Store::new(options)?)),
        }
    }

    /// Which migrations the store's schema has; `None` where an engine has none.
    ///
    /// # Errors
    ///
    /// As the engine says.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(clippy::unused_async, reason = "only some engines are waited for")
    )]
    pub async fn migrations(&self) -> Result<Option<MigrationStatus>> {
        match self.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(_) => Ok(None),
            #[cfg(feature = "postgres")]
            Engine::Postgres(ref url) => {
                let status = audit_store_postgres::Migrations::status(url).await?;
                let pending = status.pending.iter().map(|m| (m.version, m.name));
                Ok(Some(MigrationStatus {
                    version: status.version,
                    newest: status.newest,
                    pending: pending.collect(),
                }))
            }
            #[cfg(feature = "s3")]
            Engine::S3(_) => Ok(None),
        }
    }

    /// Does the migrations that are missing, and answers with version and name of each; `None` where an engine has none.
    ///
    /// # Errors
    ///
    /// As the engine says.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(clippy::unused_async, reason = "only some engines are waited for")
    )]
    pub async fn migrate(&self) -> Result<Option<Vec<(u32, &'static str)>>> {
        match self.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(_) => Ok(None),
            #[cfg(feature = "postgres")]
            Engine::Postgres(ref url) => {
                let done = audit_store_postgres::Migrations::up(url).await?;
                Ok(Some(done.iter().map(|m| (m.version, m.name)).collect()))
            }
            #[cfg(feature = "s3")]
            Engine::S3(_) => Ok(None),
        }
    }

    /// The locks on what the store holds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an engine that has none, for a log that was made without, and
    /// if there is no log.
    #[cfg_attr(
        not(feature = "s3"),
        expect(clippy::unused_async, reason = "only some engines are waited for")
    )]
    pub async fn locks(&self) -> Result<Locks> {
        match self.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(_) => Err(no_locks("SQLite")),
            #[cfg(feature = "postgres")]
            Engine::Postgres(_) => Err(no_locks("PostgreSQL")),
            #[cfg(feature = "s3")]
            Engine::S3(ref options) => Locks::open(options, self.to_string()).await,
        }
    }

    /// Every file that it may have, its own and those that lie beside it.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        match self.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(ref path) => [
                "",
                "-wal",
                "-shm",
                ".queue.lock",
                ".write.lock",
                ".publisher.lock",
            ]
            .iter()
            .map(|suffix| {
                let mut file = path.clone().into_os_string();
                file.push(suffix);
                file.into()
            })
            .collect(),
            #[cfg(feature = "postgres")]
            Engine::Postgres(_) => Vec::new(),
            #[cfg(feature = "s3")]
            Engine::S3(_) => Vec::new(),
        }
    }

    /// Its file, where it has one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(ref path) => Some(path),
            #[cfg(feature = "postgres")]
            Engine::Postgres(_) => None,
            #[cfg(feature = "s3")]
            Engine::S3(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_scheme_that_nobody_knows_is_refused_without_repeating_the_url() {
        for url in ["mysql://root:hunter2@db/log", "hunter2", "", ":"] {
            let error = url.parse::<StoreUrl>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            let text = error.to_string();
            assert!(text.contains("this build has"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    #[cfg(not(any(feature = "sqlite", feature = "s3")))]
    fn without_the_feature_a_url_of_sqlite_says_what_is_missing() {
        let error = "sqlite:log.db".parse::<StoreUrl>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "this build has no SQLite, for which sqlite: stands; it has no store at all"
        );
    }

    #[tokio::test]
    #[cfg(feature = "s3")]
    async fn a_bucket_is_named_without_a_file_and_without_asking_it() {
        let url: StoreUrl = "s3://audit-logs/prod?region=eu-central-1".parse().unwrap();
        assert_eq!((url.path(), url.files()), (None, Vec::new()));
        url.open().await.unwrap();
        let error = "s3://audit-logs/prod?secret=hunter2".parse::<StoreUrl>();
        let text = format!("{:?}", error.unwrap_err());
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[tokio::test]
    #[cfg(feature = "sqlite")]
    async fn a_store_is_made_once_and_then_opened() {
        let dir = tempfile::tempdir().unwrap();
        let url: StoreUrl = format!("sqlite:{}/log.db", dir.path().display())
            .parse()
            .unwrap();
        assert_eq!(url.open().await.unwrap_err().kind(), ErrorKind::NotFound);
        url.create().await.unwrap();
        assert_eq!(url.create().await.unwrap_err().kind(), ErrorKind::Invalid);
        url.open().await.unwrap();
        url.read().await.unwrap();
        assert_eq!(url.migrations().await.unwrap(), None);
        assert!(url.files().contains(&dir.path().join("log.db")));
    }

    #[test]
    #[cfg(feature = "postgres")]
    fn no_password_of_a_url_is_shown() {
        let url: StoreUrl = "postgres://ann:hunter2@db.example/audit".parse().unwrap();
        assert!(!format!("{url} {url:?}").contains("hunter2"), "{url:?}");
        assert!(url.has_password());
        for url in [
            "postgres://ann@db.example/audit",
            "postgres://db.example:5432/a@b",
        ] {
            assert!(!url.parse::<StoreUrl>().unwrap().has_password(), "{url}");
        }
    }
}
