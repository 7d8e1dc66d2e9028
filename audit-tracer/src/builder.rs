//! What a tracer is made of.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use audit_core::event::{Actor, SystemRef};
use audit_core::ingest::Ingest;
use audit_core::keyring::{EnvironmentPassphrase, KeyRing, KeyUri, Passphrase, PassphraseSource};
use audit_core::log::{Log, LogOptions};
use audit_core::store::Store;
use audit_core::time::{Clock, IdSource, System};
use audit_core::{Error, Result};
use audit_tlog::Hash;

use crate::closing::LostHook;
use crate::create::{Auditor, CreatedLog, NewLog, NewStore, blocking};
use crate::mode::{Claims, ComplianceMode};
use crate::store::StoreUrl;
use crate::tracer::{AuditTracer, Defaults};

/// Settings of an [`AuditTracer`]. What isn't set is not guessed: [`build`](Self::build) says what is missing.
#[derive(Clone)]
#[must_use = "it does nothing until it is built"]
pub struct Builder {
    store: Option<Place>,
    keys: Option<String>,
    passphrases: Option<Arc<dyn PassphraseSource + Send + Sync>>,
    unsealed_keys: bool,
    state: Option<State>,
    opened: Option<String>,
    session_id: Option<String>,
    actor: Option<Actor>,
    on_behalf_of: Option<Actor>,
    system: Option<SystemRef>,
    subject: Option<String>,
    claims: Claims,
    lost: LostHook,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    ingest: Option<Arc<dyn Ingest>>,
}

#[derive(Clone)]
enum Place {
    Url(String),
    Handle(Arc<dyn Store>),
}

#[derive(Clone)]
enum State {
    Dir(PathBuf),
    Elsewhere,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL may hold a password, and the rest is content.
        f.debug_struct("Builder")
            .field("session_id", &self.session_id)
            .field("claims", &self.claims)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            store: None,
            keys: None,
            passphrases: None,
            unsealed_keys: false,
            state: None,
            opened: None,
            session_id: None,
            actor: None,
            on_behalf_of: None,
            system: None,
            subject: None,
            claims: Claims::default(),
            lost: LostHook::default(),
            clock: Arc::new(System),
            ids: Arc::new(System),
            ingest: None,
        }
    }

    /// The store's URL, such as `sqlite:/var/lib/clinic/log.db`.
    pub fn store(mut self, url: impl Into<String>) -> Self {
        self.store = Some(Place::Url(url.into()));
        self
    }

    /// A store that is open already: one of somebody else's making, or one that several tracers share.
    pub fn store_handle(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(Place::Handle(store));
        self
    }

    /// Where the log's keys are: `file:PATH`, `keyring:SERVICE` (with the feature `keyring`), `env:NAME` in tests.
    pub fn keys(mut self, uri: impl Into<String>) -> Self {
        self.keys = Some(uri.into());
        self
    }

    /// How to get the passphrase of a sealed key ring; it is asked once, with what the passphrase is for, on a thread that
    /// may wait. A passphrase never stands in a URL.
    pub fn passphrase(
        mut self,
        source: impl Fn(&str) -> Result<Passphrase> + Send + Sync + 'static,
    ) -> Self {
        self.passphrases = Some(Arc::new(Asked(source)));
        self
    }

    /// Takes the passphrase from the file that `AUDIT_TRAIL_PASSPHRASE_FILE` names, or the systemd credential
    /// `audit-trail-passphrase`.
    pub fn passphrase_from_environment(mut self) -> Self {
        self.passphrases = Some(Arc::new(ProcessEnvironment));
        self
    }

    /// Whether [`create`](Self::create) may write a key ring that no passphrase seals; who reads the file then has the keys.
    pub fn unsealed_keys(mut self, unsealed: bool) -> Self {
        self.unsealed_keys = unsealed;
        self
    }

    /// Where this process's publisher remembers what it signed. It must not lie where the store lies, nor in its backups:
    /// it is what shows that an older store was put back.
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state = Some(State::Dir(dir.into()));
        self
    }

    /// Another process publishes this log. This one signs no checkpoint, and does not notice a store that was rolled back.
    pub fn published_elsewhere(mut self) -> Self {
        self.state = Some(State::Elsewhere);
        self
    }

    /// The leaf hash of the log's first entry in hexadecimal, as [`create`](Self::create) told it: it pins the log's other
    /// keys when [`verify_integrity`](AuditTracer::verify_integrity) runs. Without it they are taken from the log itself,
    /// and the verdict says so.
    pub fn opened(mut self, leaf_hash: impl Into<String>) -> Self {
        self.opened = Some(leaf_hash.into());
        self
    }

    /// The id of sessions that don't get one of their own. Without, each gets a new random one.
    pub fn session_id(mut self, id: impl Into<String>) -> Self {
        self.session_id = Some(id.into());
        self
    }

    /// Who acts, in events that don't say it themselves.
    pub fn actor(mut self, actor: Actor) -> Self {
        self.actor = Some(actor);
        self
    }

    /// For whom, in events that don't say it themselves.
    pub fn on_behalf_of(mut self, actor: Actor) -> Self {
        self.on_behalf_of = Some(actor);
        self
    }

    /// The system in which the events happen, and its version.
    pub fn system(mut self, id: impl Into<String>, version: Option<String>) -> Self {
        self.system = Some(SystemRef {
            id: id.into(),
            version,
        });
        self
    }

    /// The pseudonymous data subject of events that don't name one. What carries it can be erased together.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// What the service says it is used for. It proves nothing: see [`ComplianceMode`].
    pub fn compliance_mode(mut self, mode: ComplianceMode) -> Self {
        self.claims.mode = Some(mode);
        self
    }

    /// How long the records are to be kept; wins over what a mode proposes. A claim: nothing is locked or deleted by it.
    pub fn retention_years(mut self, years: u32) -> Self {
        self.claims.retention_years = Some(years);
        self
    }

    /// Whether the operator intends that people sign records electronically. A claim: nothing is signed by it.
    pub fn electronic_signatures(mut self, intended: bool) -> Self {
        self.claims.electronic_signatures = Some(intended);
        self
    }

    /// Told when the end of a session could not be recorded, with the session's id and why: the only place where that can
    /// be said, since dropping a guard answers nobody. Told too when the record of an exchange was given up that a wrapped
    /// client or a service's layer saw; outside of a session the id is empty. It may be called on any thread, and must
    /// neither block nor panic.
    pub fn on_lost_closing(mut self, told: impl Fn(&str, &Error) + Send + Sync + 'static) -> Self {
        self.lost = LostHook::new(told);
        self
    }

    /// The clock, for tests.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Ids and randomness, for tests.
    pub fn ids(mut self, ids: Arc<dyn IdSource>) -> Self {
        self.ids = ids;
        self
    }

    /// What every event passes before anything of it is recorded, such as `audit_capture::redaction::Redactor`.
    pub fn ingest(mut self, filter: Arc<dyn Ingest>) -> Self {
        self.ingest = Some(filter);
        self
    }

    /// Makes the log: keys, store and first entry, once in its life, and says what to carry away. [`build`](Self::build)
    /// opens it afterwards.
    ///
    /// `origin` is its name, which stands in every checkpoint: a host name that is yours and a path.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if a setting is missing or wrong, or something is there already;
    /// otherwise as key ring and store say.
    pub async fn create(&self, origin: impl Into<String>, auditor: Auditor) -> Result<CreatedLog> {
        let keys = self.key_uri()?;
        let passphrase = match (&keys, &self.passphrases) {
            (KeyUri::File(_), Some(source)) if !self.unsealed_keys => {
                let source = Arc::clone(source);
                Some(blocking(move || source.passphrase("the new key ring")).await?)
            }
            (KeyUri::File(_), None) if !self.unsealed_keys => {
                return Err(Error::invalid(
                    "the new key ring would lie unsealed in its file: give a passphrase, or say unsealed_keys(true)",
                ));
            }
            _ => None,
        };
        let store = match self.place()? {
            Place::Url(url) => NewStore::Url(url.parse()?),
            Place::Handle(store) => NewStore::Handle(Arc::clone(store)),
        };
        NewLog {
            origin: origin.into(),
            store,
            keys,
            state_dir: self.state_dir_or_none()?,
            auditor,
            passphrase,
            succession: None,
        }
        .create()
        .await
    }

    /// Opens the log, and a writer run in it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if a setting is missing or wrong;
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if there is no log; [`ErrorKind::Key`](crate::ErrorKind::Key) if
    /// the key ring can't be opened; [`ErrorKind::RolledBack`](crate::ErrorKind::RolledBack) if the store is older than, or
    /// different from, what this host signed; [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if it can't be
    /// written.
    pub async fn build(self) -> Result<AuditTracer> {
        self.claims.check()?;
        let uri = self.key_uri()?;
        let state_dir = self.state_dir_or_none()?;
        let opened = self
            .opened
            .as_deref()
            .map(Hash::from_hex)
            .transpose()
            .map_err(|e| Error::invalid("opened is not a leaf hash").because(e))?;
        let store = match self.place()? {
            Place::Handle(store) => Arc::clone(store),
            Place::Url(url) => {
                let url: StoreUrl = url.parse()?;
                url.open().await?
            }
        };
        let passphrases = self.passphrases.clone();
        // Opening a sealed ring takes a good part of a second, and a secret service may wait for its user.
        let keys = blocking(move || {
            let passphrases = passphrases.unwrap_or_else(|| Arc::new(NoPassphrase));
            KeyRing::load(&uri, &*passphrases).map(Arc::new)
        })
        .await?;
        let mut options = LogOptions::new(store, Arc::clone(&keys));
        options.clock = Arc::clone(&self.clock);
        options.ids = Arc::clone(&self.ids);
        options.ingest.clone_from(&self.ingest);
        concat!("audit-tracer/", env!("CARGO_PKG_VERSION")).clone_into(&mut options.build);
        options.state_dir.clone_from(&state_dir);
        let log = Log::open(options).await?;
        let defaults = Defaults {
            session_id: self.session_id,
            actor: self.actor,
            on_behalf_of: self.on_behalf_of,
            system: self.system,
            subject: self.subject,
            claims: self.claims,
        };
        Ok(AuditTracer::start(
            log, keys, state_dir, opened, defaults, self.lost,
        ))
    }

    fn place(&self) -> Result<&Place> {
        self.store.as_ref().ok_or_else(|| {
            Error::invalid("no store is set: give store(url) or store_handle(store)")
        })
    }

    fn key_uri(&self) -> Result<KeyUri> {
        self.keys
            .as_deref()
            .ok_or_else(|| Error::invalid("no key ring is set: give keys(uri)"))?
            .parse()
    }

    fn state_dir_or_none(&self) -> Result<Option<PathBuf>> {
        match &self.state {
            Some(State::Dir(dir)) => Ok(Some(dir.clone())),
            Some(State::Elsewhere) => Ok(None),
            None => Err(Error::invalid(
                "it is not said who publishes: give state_dir(dir), apart from the store, or say published_elsewhere()",
            )),
        }
    }
}

/// A caller's function.
struct Asked<F>(F);

impl<F: Fn(&str) -> Result<Passphrase>> PassphraseSource for Asked<F> {
    fn passphrase(&self, what: &str) -> Result<Passphrase> {
        (self.0)(what)
    }
}

struct ProcessEnvironment;

impl PassphraseSource for ProcessEnvironment {
    fn passphrase(&self, what: &str) -> Result<Passphrase> {
        EnvironmentPassphrase::new(|name| std::env::var_os(name)).passphrase(what)
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }
}

struct NoPassphrase;

impl PassphraseSource for NoPassphrase {
    fn passphrase(&self, what: &str) -> Result<Passphrase> {
        Err(Error::new(
            audit_core::ErrorKind::Key,
            format!(
                "{what} is sealed and no passphrase is set: give passphrase(…) or passphrase_from_environment()"
            ),
        ))
    }
}
