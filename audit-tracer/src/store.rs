//! Which store a URL names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use audit_core::store::{ReadStore, Store};
use audit_core::{Error, Result};

/// The store that a URL names: the one place where a backend is chosen by name.
///
/// `sqlite:PATH`, with the feature `sqlite`; `s3://BUCKET/PREFIX?…`, with the feature `s3`.
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
}

#[derive(Clone)]
enum Engine {
    #[cfg(feature = "sqlite")]
    Sqlite(PathBuf),
    #[cfg(feature = "s3")]
    S3(Box<audit_store_s3::S3Options>),
}

/// Every scheme that is known, the engine behind it, and whether this build has it.
const SCHEMES: [(&str, &str, bool); 2] = [
    ("sqlite", "SQLite", cfg!(feature = "sqlite")),
    ("s3", "S3", cfg!(feature = "s3")),
];

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
            });
        }
        #[cfg(feature = "s3")]
        if scheme == Some("s3") {
            let options = audit_store_s3::S3Options::parse_url(url)?;
            return Ok(Self {
                engine: Engine::S3(Box::new(options)),
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

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreUrl")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl StoreUrl {
    /// Makes the place where the store is to be, such as SQLite's file; there must be none.
    ///
    /// Blocks, as [`open`](Self::open) and [`read`](Self::read) do.
    ///
    /// # Errors
    ///
    /// As the engine says: [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if there is one already.
    pub fn create(&self) -> Result<Arc<dyn Store>> {
        match self.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(ref path) => Ok(Arc::new(audit_store_sqlite::SqliteStore::create_file(
                path,
            )?)),
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
    pub fn open(&self) -> Result<Arc<dyn Store>> {
        match self.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(ref path) => Ok(Arc::new(audit_store_sqlite::SqliteStore::open(
                path,
                audit_store_sqlite::OpenMode::ReadWrite,
            )?)),
            #[cfg(feature = "s3")]
            Engine::S3(ref options) => Ok(Arc::new(audit_store_s3::S3Store::new(options)?)),
        }
    }

    /// Opens it for reading alone.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn read(&self) -> Result<Arc<dyn ReadStore>> {
        match self.engine {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(ref path) => Ok(Arc::new(audit_store_sqlite::SqliteStore::open(
                path,
                audit_store_sqlite::OpenMode::ReadOnly,
            )?)),
            #[cfg(feature = "s3")]
            Engine::S3(ref options) => Ok(Arc::new(audit_store_s3::S3Store::new(options)?)),
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
    #[cfg(not(feature = "sqlite"))]
    fn without_the_feature_a_url_of_sqlite_says_what_is_missing() {
        let error = "sqlite:log.db".parse::<StoreUrl>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "this build has no SQLite, for which sqlite: stands; it has no store at all"
        );
    }

    #[test]
    #[cfg(feature = "s3")]
    fn a_bucket_is_named_without_a_file_and_without_asking_it() {
        let url: StoreUrl = "s3://audit-logs/prod?region=eu-central-1".parse().unwrap();
        assert_eq!((url.path(), url.files()), (None, Vec::new()));
        url.open().unwrap();
        let error = "s3://audit-logs/prod?secret=hunter2".parse::<StoreUrl>();
        let text = format!("{:?}", error.unwrap_err());
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    #[cfg(feature = "sqlite")]
    fn a_store_is_made_once_and_then_opened() {
        let dir = tempfile::tempdir().unwrap();
        let url: StoreUrl = format!("sqlite:{}/log.db", dir.path().display())
            .parse()
            .unwrap();
        assert_eq!(url.open().unwrap_err().kind(), ErrorKind::NotFound);
        url.create().unwrap();
        assert_eq!(url.create().unwrap_err().kind(), ErrorKind::Invalid);
        url.open().unwrap();
        url.read().unwrap();
        assert!(url.files().contains(&dir.path().join("log.db")));
    }
}
