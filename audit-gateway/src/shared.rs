//! What the tasks of one gateway share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use audit_core::log::Log;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::config::Config;
use crate::counters::Counters;
use crate::report::{Notice, Severity};
use crate::sink::Sink;
use crate::upstream::Client;

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) log: Log,
    pub(crate) sink: Arc<Sink>,
    pub(crate) client: Client,
    pub(crate) counters: Arc<Counters>,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Becomes true when nothing new is to begin.
    pub(crate) drain: watch::Receiver<bool>,
    /// Becomes true when open exchanges have to end.
    pub(crate) stop: watch::Receiver<bool>,
}

/// Held by every task that must come to its end before the gateway does.
pub(crate) type Alive = mpsc::Sender<()>;

impl Shared {
    pub(crate) fn id(&self) -> Uuid {
        self.log.ids().uuid_v7(self.log.clock().now())
    }

    pub(crate) fn log_works(&self) {
        self.counters.log_failing.store(false, Ordering::Relaxed);
    }

    pub(crate) fn log_fails(&self) {
        self.counters.log_failing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn notice(
        &self,
        severity: Severity,
        code: &'static str,
        message: String,
        request: Option<Uuid>,
    ) {
        self.config.reporter.report(&Notice {
            severity,
            code,
            message,
            request,
        });
    }
}
