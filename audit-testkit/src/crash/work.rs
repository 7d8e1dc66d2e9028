//! What a process does until it dies.

use std::fs;
use std::future::Future;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use audit_core::chain::AuditorKey;
use audit_core::event::{Event, Media, Payload};
use audit_core::keyring::{AuditorKeyFile, EnvironmentPassphrase, KeyRing, KeyUri, Protection};
use audit_core::log::{Log, LogOptions};
use audit_core::store::Store;
use audit_core::time::{IdSource as _, System, Timestamp};
use audit_core::{Error, Kind, Result};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::sample::{KINDS, START_MICROS};
use crate::time::TestIds;

const HOST: &str = "AUDIT_TEST_CRASH_HOST";
const WORK: &str = "AUDIT_TEST_CRASH_WORK";
const ORIGIN: &str = "log.example/crash";
/// Behind how many events a caller waits for the checkpoint that commits to the last.
const PUBLISHED_EVERY: u32 = 8;

/// Where a log's files lie: in one folder, its store, its state file and its keys each in one of their own.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// In the folder `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The folder for the store.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        self.root.join("store")
    }

    /// The folder of the publisher's state file; the publisher makes it.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The key ring.
    #[must_use]
    pub fn ring_file(&self) -> PathBuf {
        self.root.join("keys").join("ring.key")
    }

    /// The auditor's private key.
    #[must_use]
    pub fn auditor_file(&self) -> PathBuf {
        self.root.join("keys").join("auditor.key")
    }

    /// Makes the folders for store and keys, durably: they are the operator's.
    ///
    /// # Errors
    ///
    /// If they can't be made.
    pub fn make_dirs(&self) -> io::Result<()> {
        for dir in [self.store_dir(), self.root.join("keys")] {
            fs::create_dir(dir)?;
        }
        fs::File::open(&self.root)?.sync_all()
    }

    /// Makes the log's keys.
    ///
    /// # Errors
    ///
    /// As [`KeyRing::store_new`].
    pub fn make_keys(&self) -> Result<Arc<KeyRing>> {
        let auditor = AuditorKey::random(&System);
        AuditorKeyFile::write_private(&self.auditor_file(), &auditor, &Protection::None, &System)?;
        let ring = KeyRing::generate(ORIGIN, auditor.public(), &System)?;
        ring.store_new(&KeyUri::File(self.ring_file()), &Protection::None, &System)?;
        Ok(Arc::new(ring))
    }

    /// Reads the key ring.
    ///
    /// # Errors
    ///
    /// As [`KeyRing::load`].
    pub fn ring(&self) -> Result<Arc<KeyRing>> {
        let nothing = EnvironmentPassphrase::new(|_| None);
        KeyRing::load(&KeyUri::File(self.ring_file()), &nothing).map(Arc::new)
    }

    /// Reads the auditor's private key.
    ///
    /// # Errors
    ///
    /// As [`AuditorKeyFile::load_private`].
    pub fn auditor(&self) -> Result<AuditorKey> {
        let nothing = EnvironmentPassphrase::new(|_| None);
        AuditorKeyFile::load_private(&self.auditor_file(), &nothing)
    }
}

/// What one process does with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a test says each part of what a process does"
)]
pub struct Work {
    /// The process's number, below 2³⁰, which no other process of the same log has.
    pub process: u32,
    /// Whether it makes the log, with its keys, or finds it.
    pub creates: bool,
    /// Callers that append at the same time, each one event after the other; fewer than 2¹².
    pub callers: u32,
    /// Events of each caller.
    pub events: u32,
    /// The log's interval of publishing.
    pub publish_ms: u32,
    /// The length of an epoch.
    pub epoch_ms: u32,
}

impl Work {
    /// Tells a process that is to be started what to do.
    pub fn give(&self, host: &Host, command: &mut Command) {
        let numbers = [
            self.process,
            u32::from(self.creates),
            self.callers,
            self.events,
            self.publish_ms,
            self.epoch_ms,
        ];
        command
            .env(HOST, &host.root)
            .env(WORK, numbers.map(|n| n.to_string()).join(" "));
    }

    /// What this process was told to do; `None` if it is no such process.
    #[must_use]
    pub fn given() -> Option<(Host, Self)> {
        let host = std::env::var_os(HOST)?;
        let work = std::env::var(WORK).ok()?;
        let mut numbers = work.split(' ').map(|n| n.parse().ok());
        let mut next = || numbers.next().flatten();
        let work = Self {
            process: next()?,
            creates: next()? == 1,
            callers: next()?,
            events: next()?,
            publish_ms: next()?,
            epoch_ms: next()?,
        };
        Some((Host::new(Path::new(&host)), work))
    }

    /// Does it, and says on standard output how far it is: `opening`, `opened`, `ack EVENT INDEX LEAF` behind the return of
    /// each append, `published INDEX`, `closing`, `closed`. `store` opens the store, or makes it.
    ///
    /// # Errors
    ///
    /// The first error of the log: a process that isn't killed has no reason to fail.
    pub async fn run(
        self,
        host: &Host,
        store: impl Future<Output = Result<Arc<dyn Store>>>,
    ) -> Result<()> {
        // The test harness may have begun a line.
        say("\nopening")?;
        let keys = if self.creates {
            host.make_keys()?
        } else {
            host.ring()?
        };
        let options = self.options(store.await?, keys, host);
        let log = if self.creates {
            Log::create(options).await?
        } else {
            Log::open(options).await?
        };
        say("opened")?;
        let mut callers = JoinSet::new();
        for caller in 0..self.callers {
            callers.spawn(self.call(log.clone(), caller));
        }
        while let Some(done) = callers.join_next().await {
            done.map_err(|e| Error::unavailable("a caller was stopped").because(e))??;
        }
        say("closing")?;
        log.close().await?;
        say("closed")
    }

    fn options(self, store: Arc<dyn Store>, keys: Arc<KeyRing>, host: &Host) -> LogOptions {
        let mut options = LogOptions::new(store, keys);
        options.state_dir = Some(host.state_dir());
        options.publish = Duration::from_millis(self.publish_ms.into());
        options.epoch = Duration::from_millis(self.epoch_ms.into());
        options
    }

    async fn call(self, log: Log, caller: u32) -> Result<()> {
        for n in 0..self.events {
            let receipt = log.append(event(self.process, caller, n)?).await?;
            let (id, index, leaf) = (receipt.event, receipt.index, receipt.leaf_hash);
            say(&format!("ack {id} {index} {leaf}"))?;
            if caller == 0 && n % PUBLISHED_EVERY == PUBLISHED_EVERY - 1 {
                receipt.published().await?;
                say(&format!("published {index}"))?;
            }
        }
        Ok(())
    }
}

/// One line, in one write, so that it is read whole or not at all.
fn say(line: &str) -> Result<()> {
    io::stdout()
        .lock()
        .write_all(format!("{line}\n").as_bytes())
        .map_err(|e| Error::unavailable("nobody reads standard output").because(e))
}

/// The `n`-th event of a caller: the same, byte for byte, whoever makes it.
///
/// # Errors
///
/// If it breaks a rule of events, which is a defect here.
pub fn event(process: u32, caller: u32, n: u32) -> Result<Event> {
    let seed = (u64::from(process) << 32) ^ (u64::from(caller) << 20) ^ u64::from(n);
    let ids = TestIds::new(seed);
    let time = Timestamp::from_micros(START_MICROS)?.plus_micros(i64::from(n) * 1_000_000);
    let kind = KINDS[(n % 3) as usize];
    let mut event = Event::new(id(process, caller, n), time, Kind::new(kind)?);
    event.session_id = Some(format!("session {}", (process + caller) % 5));
    event.attributes.insert("n".into(), n.into());
    let largest = if n % 11 == 10 { 12_000 } else { 2000 };
    let mut bytes = vec![0; usize::try_from(ids.number() % largest).unwrap_or_default() + 1];
    ids.fill(&mut bytes);
    event
        .payloads
        .push(Payload::new("body", Media::Bytes, bytes));
    Ok(event)
}

/// The milliseconds since 1970 in every id here: those of an event that another made would differ.
const MILLIS: u128 = START_MICROS.unsigned_abs() as u128 / 1000;

/// A UUID of version 7 that says whose event this is.
fn id(process: u32, caller: u32, n: u32) -> Uuid {
    Uuid::from_u128(
        MILLIS << 80
            | 7 << 76
            | u128::from(caller & 0xFFF) << 64
            | 2 << 62
            | u128::from(process & 0x3FFF_FFFF) << 32
            | u128::from(n),
    )
}

/// Process, caller and number of an event by its id; `None` if no process here made it.
#[must_use]
pub fn place_of(event: Uuid) -> Option<(u32, u32, u32)> {
    let bits = event.as_u128();
    let part = |shift: u32, mask: u32| u32::try_from(bits >> shift & u128::from(mask)).ok();
    let place = (part(32, 0x3FFF_FFFF)?, part(64, 0xFFF)?, part(0, u32::MAX)?);
    (id(place.0, place.1, place.2) == event).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_whose_event_it_is() {
        for place in [(0, 0, 0), (7, 3, 99), (0x3FFF_FFFF, 0xFFF, u32::MAX)] {
            assert_eq!(place_of(id(place.0, place.1, place.2)), Some(place));
        }
        assert_eq!(place_of(Uuid::from_u128(77)), None);
        assert_eq!(event(1, 2, 3).unwrap(), event(1, 2, 3).unwrap());
        assert_ne!(event(1, 2, 3).unwrap(), event(1, 3, 3).unwrap());
    }

    #[test]
    fn work_is_told_by_the_environment() {
        let work = Work {
            process: 5,
            creates: true,
            callers: 3,
            events: 7,
            publish_ms: 20,
            epoch_ms: 300,
        };
        let mut command = Command::new("true");
        work.give(&Host::new(Path::new("/tmp/x")), &mut command);
        let told: Vec<_> = command.get_envs().filter_map(|(_, value)| value).collect();
        assert_eq!(told, ["/tmp/x", "5 1 3 7 20 300"]);
    }
}
