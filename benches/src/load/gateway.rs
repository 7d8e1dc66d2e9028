//! A gateway in this process, over any store.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use audit_core::store::Store;
use audit_gateway::{Config, Gateway, Notice, Upstream};
use audit_testkit::memory::MemoryStore;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::Result;
use crate::load::table::print;
use crate::workload::{Keys, create_log};

/// A gateway with a runtime of its own.
#[derive(Debug)]
pub struct InProcess {
    /// Where it listens.
    pub address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    thread: JoinHandle<Result<()>>,
}

impl InProcess {
    /// Starts one over a new log in `store`, in front of `provider`.
    pub fn start(store: Arc<dyn Store>, provider: SocketAddr) -> Result<Self> {
        let (listening, address) = channel();
        let (shutdown, down) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            Runtime::new()?.block_on(async move {
                let log = create_log(store, &Keys::new()?, None).await?;
                let notices = Arc::new(Mutex::new(Vec::new()));
                let heard = Arc::clone(&notices);
                let mut config = Config::new(Arc::new(move |notice: &Notice| {
                    heard
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(notice.to_string());
                }));
                for name in ["anthropic", "openai"] {
                    let upstream = Upstream::new(&format!("http://{provider}"))?;
                    config.upstreams.insert(name.to_owned(), upstream);
                }
                let bound = Gateway::bind(config, log.clone()).await?;
                listening.send(bound.local_addr())?;
                bound.serve(async move { drop(down.await) }).await?;
                log.close().await?;
                let notices = notices.lock().unwrap_or_else(PoisonError::into_inner);
                if notices.is_empty() {
                    Ok(())
                } else {
                    Err(format!("the gateway had something to say: {notices:?}").into())
                }
            })
        });
        match address.recv() {
            Ok(address) => Ok(Self {
                address,
                shutdown,
                thread,
            }),
            Err(_) => Err(joined(thread)
                .err()
                .unwrap_or_else(|| "the gateway ended at once".into())),
        }
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        drop(self.shutdown);
        joined(self.thread)
    }
}

fn joined(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread
        .join()
        .unwrap_or_else(|_| Err("the gateway's thread panicked".into()))
}

/// A gateway whose log lies in memory, as the whole of this process; ends when standard input does.
pub fn in_memory(provider: SocketAddr) -> Result<()> {
    let gateway = InProcess::start(Arc::new(MemoryStore::new()), provider)?;
    print(&format!("LISTENING http://{}", gateway.address))?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    gateway.stop()
}
