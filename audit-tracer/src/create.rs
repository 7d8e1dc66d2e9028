//! Making a log: its keys, its store, its first entry.

use std::path::PathBuf;
use std::sync::Arc;

use audit_core::chain::{AuditorKey, AuditorPublicKey};
use audit_core::keyring::{AuditorKeyFile, KdfCost, KeyRing, KeyUri, Passphrase, Protection};
use audit_core::log::{Log, LogOptions, StateFile, Succession};
use audit_core::store::Store;
use audit_core::time::System;
use audit_core::{Error, Result};
use audit_tlog::Hash;
use audit_tlog::hash::leaf_hash;
use audit_tlog::note::VerifierKey;

use crate::store::StoreUrl;

/// Whose key can open the sealed keys of writer runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Auditor {
    /// An auditor has a key already, and gave its public half.
    Public(AuditorPublicKey),
    /// A new key pair is written to this file. Carry it away to where this host's administrators can't reach, and leave
    /// no copy: whoever has it can make the MACs of every run.
    NewKeyFile(PathBuf),
}

/// Where a new log is to be stored.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum NewStore {
    /// Where a URL says; the store's place is made, and must not be there yet.
    Url(StoreUrl),
    /// A store that the caller has made, on which there is no log yet.
    Handle(Arc<dyn Store>),
}

/// What a new log is to be.
#[derive(Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "whoever makes a log decides every part; a new part is a new decision"
)]
pub struct NewLog {
    /// Its name, which stands in every checkpoint: a host name that is yours and a path, such as `log.example/clinic`.
    pub origin: String,
    /// Where its entries go.
    pub store: NewStore,
    /// Where its keys go.
    pub keys: KeyUri,
    /// Where its publisher remembers what it signed, apart from the store. `None`: nothing is published at first.
    pub state_dir: Option<PathBuf>,
    /// Who can check the MAC chains.
    pub auditor: Auditor,
    /// Seals the key ring's file; `None`: the file is readable to whoever reads the disk. Must be `None` for keys that
    /// don't go into a file.
    pub passphrase: Option<Passphrase>,
    /// The log that this one succeeds, if it does, because entries of that one are lost for good.
    pub succession: Option<Succession>,
}

/// A log that was made. Carry [`vkey`](Self::vkey), [`opened`](Self::opened) and the auditor's key away: who verifies
/// needs them from somewhere else than this host.
#[derive(Debug)]
#[non_exhaustive]
pub struct CreatedLog {
    /// The log's public key, by which checkpoints are verified.
    pub vkey: VerifierKey,
    /// The leaf hash of the first entry, which registers the log's keys; it pins those of the writers.
    pub opened: Hash,
    /// The log's keys.
    pub keys: Arc<KeyRing>,
    /// The file with the auditor's new private key, if one was made.
    pub auditor_file: Option<PathBuf>,
    files: Vec<PathBuf>,
}

impl CreatedLog {
    /// Removes every file that was made, for who can't finish what belongs to it. The log is gone then.
    ///
    /// Keys outside of files and a store that was given as a handle stay.
    pub fn discard(self) {
        remove(self.files);
    }
}

fn remove(files: Vec<PathBuf>) {
    for file in files {
        // Some were never made, such as a write-ahead log.
        drop(std::fs::remove_file(file));
    }
}

impl NewLog {
    /// Makes keys, store and log. If a step fails, the files that the steps before it made are removed again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): something is there already, or the origin can't name a log;
    /// otherwise as key ring, store and log say.
    pub async fn create(self) -> Result<CreatedLog> {
        let mut files = Vec::new();
        match self.steps(&mut files).await {
            Ok((keys, opened, auditor_file)) => Ok(CreatedLog {
                vkey: keys.vkey(),
                opened,
                keys,
                auditor_file,
                files,
            }),
            Err(e) => {
                remove(files);
                Err(e)
            }
        }
    }

    async fn steps(
        self,
        files: &mut Vec<PathBuf>,
    ) -> Result<(Arc<KeyRing>, Hash, Option<PathBuf>)> {
        audit_core::entry::check_origin(&self.origin)?;
        if self.passphrase.is_some() && !matches!(self.keys, KeyUri::File(_)) {
            return Err(Error::invalid(format!(
                "only a key ring in a file is sealed with a passphrase, not {}",
                self.keys
            )));
        }
        // A state file under this name is the memory of another log; signing on top of it would be a fork.
        let state = self
            .state_dir
            .as_ref()
            .map(|dir| StateFile::new(dir, &self.origin));
        if let Some(state) = &state
            && state.read()?.is_some()
        {
            return Err(Error::invalid(format!(
                "this host remembers a log {:?} already ({}); the new one needs another origin",
                self.origin,
                state.path().display()
            )));
        }
        let (auditor, auditor_file) = match self.auditor {
            Auditor::Public(public) => (public, None),
            Auditor::NewKeyFile(path) => {
                let key = AuditorKey::random(&System);
                // It is carried away, so the operator's passphrase has no business with it.
                AuditorKeyFile::write_private(&path, &key, &Protection::None, &System)?;
                files.push(path.clone());
                (key.public(), Some(path))
            }
        };
        let keys = Arc::new(KeyRing::generate(&self.origin, auditor, &System)?);
        let uri = self.keys.clone();
        // Sealing takes a good part of a second, and a secret service may wait for its user.
        blocking({
            let keys = Arc::clone(&keys);
            let passphrase = self.passphrase;
            move || {
                let protection = match &passphrase {
                    Some(passphrase) => Protection::Passphrase(passphrase, KdfCost::STANDARD),
                    None => Protection::None,
                };
                keys.store_new(&uri, &protection, &System)
            }
        })
        .await?;
        if let KeyUri::File(path) = &self.keys {
            files.push(path.clone());
        }
        let store = match self.store {
            NewStore::Handle(store) => store,
            NewStore::Url(url) => {
                let listed = url.files();
                let store = url.create().await?;
                files.extend(listed);
                store
            }
        };
        // There was none before, so this one is the new log's.
        files.extend(state.map(|state| state.path().to_owned()));
        let mut options = LogOptions::new(store, Arc::clone(&keys));
        options.state_dir = self.state_dir;
        options.succession = self.succession;
        let log = Log::create(options).await?;
        let reader = log.reader();
        log.close().await?;
        let opened = leaf_hash(&reader.record(0).await?.bytes);
        Ok((keys, opened, auditor_file))
    }
}

/// Runs what blocks apart from the runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::unavailable("the runtime was stopped").because(e))?
}
