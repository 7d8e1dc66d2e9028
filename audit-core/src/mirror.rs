//! A second store that follows what a log has published, in the background.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::copy::{Copied, Copier, CopyOptions, Until};
use crate::error::{Error, Result};
use crate::store::{ReadStore, Store};

/// How to get at the mirror's store; asked again after a failure.
pub type OpenMirror =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Arc<dyn Store>>> + Send>> + Send + Sync>;

/// What a mirror needs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MirrorOptions {
    /// What the log is held against before it is copied.
    pub copy: CopyOptions,
    /// Time between two looks at the log.
    pub interval: Duration,
    /// After failures the time doubles, up to this.
    pub interval_max: Duration,
    /// How long the last turn, when it is stopped, may take.
    pub stop_within: Duration,
}

impl MirrorOptions {
    /// A look per second, after failures up to one in five minutes; half a minute to end.
    #[must_use]
    pub fn new(copy: CopyOptions) -> Self {
        Self {
            copy,
            interval: Duration::from_secs(1),
            interval_max: Duration::from_secs(300),
            stop_within: Duration::from_secs(30),
        }
    }
}

/// Where a mirror stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MirrorStatus {
    /// Entries under checkpoints that the mirror has.
    pub published: u64,
    /// Entries that were copied since it was started.
    pub entries: u64,
    /// What the last turn failed with; `None` if it went through.
    pub trouble: Option<String>,
    /// Turns that failed since the last one that went through.
    pub failures: u32,
}

/// Copies what a log publishes to a second store until it is stopped. It only reads the log, so nothing that happens to it
/// holds up a writer.
///
/// The mirror has the same entries, tiles and checkpoints, and the wrapped data keys, so whoever has the key ring can read
/// the content there. What is erased in the log is erased in the mirror once a checkpoint commits to the `key.destroyed`.
#[derive(Debug)]
pub struct Mirror {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    status: watch::Receiver<MirrorStatus>,
}

struct Worker {
    source: Arc<dyn ReadStore>,
    open: OpenMirror,
    options: MirrorOptions,
    copier: Option<Copier>,
    /// The checkpoint up to which the mirror is complete.
    done: Option<Vec<u8>>,
    status: watch::Sender<MirrorStatus>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl Mirror {
    /// Starts it, on the runtime of the caller.
    #[must_use]
    pub fn start(source: Arc<dyn ReadStore>, open: OpenMirror, options: MirrorOptions) -> Self {
        let (status, seen) = watch::channel(MirrorStatus::default());
        let (stop, stopped) = oneshot::channel();
        let worker = Worker {
            source,
            open,
            options,
            copier: None,
            done: None,
            status,
        };
        Self {
            stop,
            task: tokio::spawn(worker.run(stopped)),
            status: seen,
        }
    }

    /// Where it stands, and word of each change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<MirrorStatus> {
        self.status.clone()
    }

    /// Copies what was published meanwhile, and ends.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): the last turn failed; the mirror is behind, and the next
    /// one goes on where it is.
    pub async fn stop(self) -> Result<MirrorStatus> {
        if self.stop.send(()).is_err() {
            // It has ended with its runtime.
        }
        self.task
            .await
            .map_err(|e| Error::unavailable("the mirror was stopped").because(e))?;
        let status = self.status.borrow().clone();
        match &status.trouble {
            None => Ok(status),
            Some(trouble) => Err(Error::unavailable(format!(
                "the mirror is behind: {trouble}"
            ))),
        }
    }
}

impl Worker {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut pause = self.options.interval;
        loop {
            // A turn that is stopped half-way loses nothing: the next one goes on.
            let stop = tokio::select! {
                _ = &mut stopped => true,
                turned = self.turn() => {
                    pause = if turned {
                        self.options.interval
                    } else {
                        (pause * 2).min(self.options.interval_max)
                    };
                    false
                }
            };
            let stop = stop
                || tokio::select! {
                    _ = &mut stopped => true,
                    () = tokio::time::sleep(pause) => false,
                };
            if stop {
                break;
            }
        }
        let within = self.options.stop_within;
        if tokio::time::timeout(within, self.turn()).await.is_err() {
            self.note(&Err(Error::unavailable(format!(
                "the last turn took longer than {} s",
                within.as_secs()
            ))));
        }
    }

    async fn turn(&mut self) -> bool {
        let copied = self.copy().await;
        self.note(&copied);
        copied.is_ok()
    }

    async fn copy(&mut self) -> Result<Option<Copied>> {
        let latest = self.source.latest_checkpoint().await?;
        let settled = self.copier.as_ref().is_some_and(Copier::is_settled);
        if settled && latest == self.done {
            return Ok(None);
        }
        let mut copier = if let Some(copier) = self.copier.take() {
            copier
        } else {
            let target = (self.open)().await?;
            let source = Arc::clone(&self.source);
            Copier::open(source, target, self.options.copy.clone()).await?
        };
        let copied = copier.advance(Until::Published, &mut |_| {}).await?;
        // After a failure the store is opened anew: its connection may be what failed.
        self.copier = Some(copier);
        self.done = latest;
        Ok(Some(copied))
    }

    fn note(&self, copied: &Result<Option<Copied>>) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            match copied {
                Ok(copied) => {
                    if let Some(copied) = copied {
                        status.published = copied.published;
                        status.entries += copied.entries;
                    }
                    status.trouble = None;
                    status.failures = 0;
                }
                Err(e) => {
                    let mut text = e.to_string();
                    let mut source = std::error::Error::source(e);
                    while let Some(e) = source {
                        text.push_str(": ");
                        text.push_str(&e.to_string());
                        source = e.source();
                    }
                    status.trouble = Some(text);
                    status.failures = status.failures.saturating_add(1);
                }
            }
            *status != before
        });
    }
}
