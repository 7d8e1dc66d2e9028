//! The publisher: one process per log signs checkpoints, and remembers what it signed apart from the store.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use audit_tlog::Hash;
use audit_tlog::checkpoint::{self, Checkpoint};
use audit_tlog::note::VerifierKey;
use audit_tlog::proof;
use audit_tlog::tile::{EdgeTiles, TILE_WIDTH, Tile, TileId, TileMap, TileReader as _};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::Shared;
use super::writer::Seen;
use crate::error::{Error, ErrorKind, Result};
use crate::hex;
use crate::keyring::KeyRing;
use crate::reader::tiles_for;
use crate::seal::sha256;
use crate::store::{Head, Lease, ReadStore, Store};

/// How long a closing run waits between its looks for another process's checkpoint, at most four times over.
const LAST_TURN: Duration = Duration::from_secs(1);

/// Bytes of a state file: one signed checkpoint.
const STATE_BYTES_MAX: u64 = 64 * 1024;

/// Where a publisher remembers the last checkpoint that it signed for one log.
///
/// It must not lie where the store lies: whoever restores an old store together with its state file restores both.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The state file of the log `origin` in `dir`.
    #[must_use]
    pub fn new(dir: &Path, origin: &str) -> Self {
        // Two origins may read the same once unusual characters are replaced; the digest keeps them apart.
        let readable: String = origin
            .chars()
            .take(64)
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '.' || c == '-' {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        let digest = hex::encode(&sha256(origin.as_bytes()).0[..4]);
        Self {
            path: dir.join(format!("{readable}-{digest}.checkpoint")),
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The remembered checkpoint, a signed note; `None` if this host has none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] if there is one that can't be read, [`ErrorKind::Corrupt`] if it is too long.
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        let failed = |e: std::io::Error| {
            Error::unavailable(format!("state file {} can't be read", self.path.display()))
                .because(e)
        };
        let length = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        if length > STATE_BYTES_MAX {
            return Err(Error::corrupt(format!(
                "state file {} has {length} bytes, allowed are {STATE_BYTES_MAX}",
                self.path.display()
            )));
        }
        std::fs::read(&self.path).map(Some).map_err(failed)
    }

    /// The remembered checkpoint, checked against the log's key.
    ///
    /// # Errors
    ///
    /// As [`StateFile::read`]; [`ErrorKind::Corrupt`] if it isn't a checkpoint that this log's publisher signed.
    pub fn checkpoint(&self, vkey: &VerifierKey) -> Result<Option<(Checkpoint, Vec<u8>)>> {
        self.read()?
            .map(|note| {
                let (checkpoint, _) = checkpoint::open(&note, vkey.name(), vkey).map_err(|e| {
                    Error::corrupt(format!(
                        "state file {} is not a checkpoint signed by this log's publisher",
                        self.path.display()
                    ))
                    .because(e)
                })?;
                Ok((checkpoint.into_inner(), note))
            })
            .transpose()
    }

    /// Replaces the remembered checkpoint; durable on return. Only the publisher does so, and whoever knows of a later
    /// checkpoint than it does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] if it can't be written.
    pub fn write(&self, note: &[u8]) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let dir = folder_of(&self.path);
            if !self.path.exists() {
                make_dir(dir)?;
            }
            let fresh = self.path.with_extension("checkpoint.new");
            let mut file = std::fs::File::create(&fresh)?;
            file.write_all(note)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &self.path)?;
            // The rename itself must survive a power cut.
            std::fs::File::open(dir)?.sync_all()
        };
        write().map_err(|e| {
            Error::unavailable(format!(
                "state file {} can't be written",
                self.path.display()
            ))
            .because(e)
        })
    }
}

/// The folder that a file lies in.
fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Makes a folder and those above it, so that they survive a power cut: with the folder the memory of what was signed would
/// be gone, while the store has the signature.
fn make_dir(dir: &Path) -> std::io::Result<()> {
    let sync = || std::fs::File::open(folder_of(dir))?.sync_all();
    match std::fs::create_dir(dir) {
        Ok(()) => sync(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && folder_of(dir) != dir => {
            make_dir(folder_of(dir))?;
            std::fs::create_dir(dir)?;
            sync()
        }
        // Maybe by a process that died before it could sync. Where this one may not look, another made it.
        Err(_) if dir.is_dir() => match sync() {
            Err(e) if e.kind() != std::io::ErrorKind::PermissionDenied => Err(e),
            _ => Ok(()),
        },
        Err(e) => Err(e),
    }
}

/// Compares the store with what this host remembers of the log, and with the store's own latest checkpoint; `false` if
/// this host remembers nothing.
///
/// # Errors
///
/// [`ErrorKind::RolledBack`] if the store is behind, or holds another history.
pub async fn rollback_check(
    store: &dyn ReadStore,
    state: &StateFile,
    vkey: &VerifierKey,
) -> Result<bool> {
    // The checkpoint is read before the head, so that another process can't publish in between.
    let own = own_checkpoint(store, vkey).await?;
    let head = store.head().await?;
    if let Some((size, root)) = own {
        check_continues(
            store,
            &head,
            size,
            &root,
            "the store's own latest checkpoint",
        )
        .await?;
    }
    let Some((remembered, _)) = state.checkpoint(vkey)? else {
        return Ok(false);
    };
    let whose = format!("state file {}", state.path().display());
    check_continues(store, &head, remembered.size, &remembered.root, &whose).await?;
    Ok(true)
}

/// The latest checkpoint in the store, which this log's key must have signed.
async fn own_checkpoint(store: &dyn ReadStore, vkey: &VerifierKey) -> Result<Option<(u64, Hash)>> {
    let Some(note) = store.latest_checkpoint().await? else {
        return Ok(None);
    };
    let (checkpoint, _) = checkpoint::open(&note, vkey.name(), vkey).map_err(|e| {
        Error::corrupt("the store's latest checkpoint is not signed by this log's key").because(e)
    })?;
    Ok(Some((checkpoint.size, checkpoint.root)))
}

/// Checks that the log up to `head` begins with the tree of `size` entries and root hash `root`, which `whose` names for
/// the error.
///
/// # Errors
///
/// [`ErrorKind::RolledBack`] if it is shorter or another; [`ErrorKind::Corrupt`] if the store lacks tiles.
pub async fn check_continues(
    store: &dyn ReadStore,
    head: &Head,
    size: u64,
    root: &Hash,
    whose: &str,
) -> Result<()> {
    if head.size < size {
        return Err(Error::new(
            ErrorKind::RolledBack,
            format!(
                "the store holds {} entries, but {whose} knows of {size}",
                head.size
            ),
        ));
    }
    if size == 0 {
        return Ok(());
    }
    let differs = || {
        Error::new(
            ErrorKind::RolledBack,
            format!(
                "the store holds another history than the one that {whose} knows up to {size} entries"
            ),
        )
    };
    let ids = proof::consistency_tiles(size, head.size)
        .map_err(|e| Error::corrupt("tree sizes are out of range").because(e))?;
    // The tiles on the right edge are in the head, which the proof is verified against. Only the one in which the known
    // tree ends is asked of the store even then: a head may come out of a process's memory in part.
    let edge: TileMap = EdgeTiles::tile_ids(head.size)
        .into_iter()
        .map(|id| Tile {
            id,
            hashes: head.edge.tile(id.level).to_vec(),
        })
        .collect();
    let end = (0, (size - 1) / u64::from(TILE_WIDTH));
    let (asked, known): (Vec<TileId>, Vec<TileId>) = ids
        .into_iter()
        .partition(|id| (id.level, id.index) == end || edge.tile(*id).is_err());
    let mut tiles = tiles_for(store, asked).await?;
    tiles.extend(known.into_iter().filter_map(|id| {
        let hashes = edge.tile(id).ok()?;
        Some(Tile { id, hashes })
    }));
    let proof =
        proof::consistency_proof(size, head.size, &tiles).map_err(|e| differs().because(e))?;
    proof::verify_consistency(size, head.size, root, &head.edge.root(), &proof)
        .map_err(|e| differs().because(e))
}

pub(super) struct Publisher {
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Arc<KeyRing>,
    pub(super) state: StateFile,
    pub(super) interval: Duration,
    pub(super) growth: watch::Receiver<u64>,
    /// What this process's writer saw last: nothing is signed that contradicts it.
    pub(super) seen: Arc<Mutex<Option<Seen>>>,
    pub(super) shared: Weak<Shared>,
}

#[derive(Debug)]
pub(super) struct Handle {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

impl Handle {
    /// Publishes what isn't yet, and ends.
    pub(super) async fn finish(self) -> Result<()> {
        if self.stop.send(()).is_err() {
            // It has ended already; its result says how.
        }
        self.task
            .await
            .map_err(|e| Error::unavailable("the publisher was stopped").because(e))
            .flatten()
    }
}

pub(super) fn spawn(publisher: Publisher) -> Handle {
    let (stop, stopped) = oneshot::channel();
    Handle {
        stop,
        task: tokio::spawn(publisher.run(stopped)),
    }
}

impl Publisher {
    async fn run(mut self, stopped: oneshot::Receiver<()>) -> Result<()> {
        let mut lease: Option<Box<dyn Lease>> = None;
        let ended = self.turns(stopped, &mut lease).await;
        // The process may end right behind this, and the next one wants to publish.
        if let Some(lease) = lease {
            lease.release().await;
        }
        ended
    }

    async fn turns(
        &mut self,
        mut stopped: oneshot::Receiver<()>,
        lease: &mut Option<Box<dyn Lease>>,
    ) -> Result<()> {
        loop {
            // Other processes append too, so the log may have grown without this one.
            let last = tokio::select! {
                _ = &mut stopped => true,
                () = tokio::time::sleep(self.interval) => false,
                () = closed(&mut self.growth) => true,
            };
            let mut published = self.publish(lease).await;
            if last {
                // Another process publishes: this run ends when its last entry is under a checkpoint, or after a while.
                for _ in 0..20 {
                    if !matches!(published, Ok(None)) || self.is_published().await? {
                        break;
                    }
                    tokio::time::sleep(self.interval.min(LAST_TURN) / 4).await;
                    published = self.publish(lease).await;
                }
            }
            if let Some(shared) = self.shared.upgrade() {
                shared.note_publishing(&published);
            }
            match published {
                Ok(Some(size)) => {
                    if let Some(shared) = self.shared.upgrade() {
                        shared.published.send_replace(size);
                    }
                }
                // What is signed must never contradict what was signed before: stop for good.
                // A checkpoint of unknown outcome is no such case: the state file has it, and it is released again.
                Err(e) if last || (super::is_fatal(e.kind()) && e.kind() != ErrorKind::Unknown) => {
                    return Err(e);
                }
                // Another process publishes, or the store is out of reach: try again at the next turn.
                Ok(None) | Err(_) => {}
            }
            if last {
                return Ok(());
            }
        }
    }

    /// Whether a checkpoint commits to everything that this process's writer saw.
    async fn is_published(&self) -> Result<bool> {
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let own = own_checkpoint(&*self.store, &self.keys.vkey()).await?;
        Ok(seen.is_none_or(|seen| own.is_some_and(|(size, _)| size >= seen.size())))
    }

    /// Signs a checkpoint over the store's head, if this process holds the lease and the log grew.
    /// Answers with the tree size that is now published.
    async fn publish(&self, lease: &mut Option<Box<dyn Lease>>) -> Result<Option<u64>> {
        if let Some(held) = lease
            && !held.held().await?
        {
            *lease = None;
        }
        if lease.is_none() {
            *lease = self.store.publisher_lease().await?;
            if lease.is_none() {
                return Ok(None);
            }
        }
        let vkey = self.keys.vkey();
        let state = self.state.clone();
        let key = vkey.clone();
        let remembered = blocking(move || state.checkpoint(&key)).await?;
        let own = own_checkpoint(&*self.store, &vkey).await?;
        // Before the head: the writer may go on meanwhile, and then the head is further than what it saw.
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let head = self.store.head().await?;
        let store = &*self.store;
        if let Some(seen) = &seen {
            check_continues(store, &head, seen.size(), &seen.root(), "this run").await?;
        }
        if let Some((size, root)) = &own {
            let whose = "the store's own latest checkpoint";
            check_continues(store, &head, *size, root, whose).await?;
        }
        if let Some((checkpoint, note)) = &remembered {
            let whose = format!("state file {}", self.state.path().display());
            check_continues(store, &head, checkpoint.size, &checkpoint.root, &whose).await?;
            if own.is_none_or(|(size, _)| size != checkpoint.size) {
                // Dying after the state file was written, before the store had the signature, leads here. The log may have
                // grown since: a checkpoint that was signed is never left out, so that one that is missing was removed.
                self.store.put_checkpoint(checkpoint.size, note).await?;
            }
            if head.size == checkpoint.size {
                return Ok(Some(head.size));
            }
        }
        if head.size == 0 {
            return Ok(None);
        }
        let checkpoint = Checkpoint {
            origin: self.keys.origin().to_owned(),
            size: head.size,
            root: head.edge.root(),
            extensions: Vec::new(),
        };
        let signer = self.keys.checkpoint_signer();
        let note = checkpoint::sign(&checkpoint, &[&signer])
            .map_err(|e| Error::key("the checkpoint can't be signed").because(e))?
            .into_bytes();
        // Dying here: a signature that nobody has seen is lost; the next turn makes the next one.
        let state = self.state.clone();
        let bytes = note.clone();
        blocking(move || state.write(&bytes)).await?;
        // Dying here: the state file is ahead of the store's checkpoints; the next turn releases what it remembers.
        self.store.put_checkpoint(head.size, &note).await?;
        // Dying here: published.
        Ok(Some(head.size))
    }
}

/// Returns when the writer is gone.
async fn closed(growth: &mut watch::Receiver<u64>) {
    while growth.changed().await.is_ok() {}
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(f)
        .await
        .map_err(|e| Error::unavailable("a task was stopped").because(e))?
}
