//! A gateway over a store in memory.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::chain::AuditorKey;
use audit_core::event::Event;
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::reader::RecordContent;
use audit_core::time::System;
use audit_gateway::{Config, Gateway, Health, Notice, Summary, Upstream};
use audit_testkit::faulty::FaultyStore;
use audit_testkit::memory::MemoryStore;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::gated::{Gate, gated};

pub(crate) struct Bench {
    pub(crate) address: SocketAddr,
    pub(crate) log: Log,
    pub(crate) faulty: FaultyStore,
    pub(crate) gate: Arc<Gate>,
    pub(crate) notices: Arc<Mutex<Vec<Notice>>>,
    pub(crate) health: Health,
    shutdown: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<audit_gateway::Result<Summary>>>,
}

impl Bench {
    /// A gateway whose `openai` and `anthropic` are at `base`.
    pub(crate) async fn start(base: &str) -> Self {
        Self::with(base, |_| {}).await
    }

    pub(crate) async fn with(base: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::on_log(base, change, |_| {}).await
    }

    /// The same, on a log of other options.
    pub(crate) async fn on_log(
        base: &str,
        change: impl FnOnce(&mut Config),
        prepare: impl FnOnce(&mut LogOptions),
    ) -> Self {
        let auditor = AuditorKey::random(&System);
        let keys =
            Arc::new(KeyRing::generate("example.org/gateway", auditor.public(), &System).unwrap());
        let faulty = FaultyStore::new(Arc::new(MemoryStore::new()));
        let store = gated(Arc::new(faulty.clone()));
        let gate = Arc::clone(store.around());
        let mut options = LogOptions::new(Arc::new(store), keys);
        prepare(&mut options);
        let log = Log::create(options).await.unwrap();
        let notices: Arc<Mutex<Vec<Notice>>> = Arc::default();
        let heard = Arc::clone(&notices);
        let mut config = Config::new(Arc::new(move |notice: &Notice| {
            heard.lock().unwrap().push(notice.clone());
        }));
        for name in ["openai", "anthropic"] {
            config
                .upstreams
                .insert(name.to_owned(), Upstream::new(base).unwrap());
        }
        change(&mut config);
        Self::of(log, faulty, gate, notices, config).await
    }

    /// A gateway over a log that is there.
    pub(crate) async fn over(log: Log, faulty: FaultyStore, config: Config) -> Self {
        let gate = Arc::clone(gated(Arc::new(MemoryStore::new())).around());
        Self::of(log, faulty, gate, Arc::default(), config).await
    }

    async fn of(
        log: Log,
        faulty: FaultyStore,
        gate: Arc<Gate>,
        notices: Arc<Mutex<Vec<Notice>>>,
        config: Config,
    ) -> Self {
        let bound = Gateway::bind(config, log.clone()).await.unwrap();
        let (address, health) = (bound.local_addr(), bound.health());
        let (shutdown, down) = oneshot::channel::<()>();
        let serving = tokio::spawn(bound.serve(async move { drop(down.await) }));
        Self {
            address,
            log,
            faulty,
            gate,
            notices,
            health,
            shutdown: Some(shutdown),
            serving: Some(serving),
        }
    }

    /// Begins the gateway's end without waiting for it.
    pub(crate) fn begin_shutdown(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    pub(crate) async fn shutdown(mut self) -> Summary {
        if self.shutdown.is_some() {
            self.begin_shutdown();
        }
        self.serving.take().unwrap().await.unwrap().unwrap()
    }

    /// Every event of a caller, in the log's order, decrypted.
    pub(crate) async fn events(&self) -> Vec<Event> {
        let reader = self.log.reader();
        let (mut at, mut events) = (0, Vec::new());
        loop {
            let records = reader.records(at..u64::MAX).await.unwrap();
            if records.is_empty() {
                return events;
            }
            at += records.len() as u64;
            for record in records {
                if let RecordContent::Open(opened) = record.content {
                    events.push(opened.event);
                }
            }
        }
    }

    /// The exchanges, when `n` of them are in the log, however they came there.
    pub(crate) async fn exchanges_now(&self, n: usize) -> Vec<Exchange> {
        for _ in 0..2000 {
            let events = self.events().await;
            if events
                .iter()
                .filter(|e| e.kind.as_str() == "llm.response")
                .count()
                >= n
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.paired(n).await
    }

    /// The exchanges, when `n` of them have an answer. Fails if any request has none then, or more than one.
    pub(crate) async fn exchanges(&self, n: usize) -> Vec<Exchange> {
        for _ in 0..2000 {
            if self.health.summary().responses >= n as u64 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.paired(n).await
    }

    async fn paired(&self, n: usize) -> Vec<Exchange> {
        let events = self.events().await;
        let (requests, responses): (Vec<_>, Vec<_>) = events
            .into_iter()
            .filter(|e| e.kind.as_str().starts_with("llm."))
            .partition(|e| e.kind.as_str() == "llm.request");
        assert_eq!(responses.len(), n, "answers in the log");
        assert_eq!(requests.len(), n, "requests in the log");
        requests
            .into_iter()
            .map(|request| {
                let mut answers = responses.iter().filter(|r| {
                    r.correlation.as_ref().and_then(|c| c.parent_event) == Some(request.id)
                });
                let response = answers.next().expect("a request without an answer").clone();
                assert!(answers.next().is_none(), "a request with two answers");
                assert_eq!(response.kind.as_str(), "llm.response");
                assert_eq!(response.session_id, request.session_id);
                assert_eq!(response.subject, request.subject);
                Exchange { request, response }
            })
            .collect()
    }

    /// The one exchange.
    pub(crate) async fn exchange(&self) -> Exchange {
        self.exchanges(1).await.pop().unwrap()
    }
}

#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) request: Event,
    pub(crate) response: Event,
}

impl Exchange {
    pub(crate) fn outcome(&self) -> (&str, Option<&str>) {
        let text = |name: &str| self.response.attributes.get(name).and_then(Value::as_str);
        (text("audit.outcome").unwrap(), text("audit.outcome.reason"))
    }

    pub(crate) fn body(&self) -> &[u8] {
        payload(&self.response, "response.body").unwrap_or_default()
    }

    pub(crate) fn chunks(&self) -> Option<Vec<(u64, u64)>> {
        let chunks: Value =
            serde_json::from_slice(payload(&self.response, "response.chunks")?).unwrap();
        let pair = |c: &Value| (c[0].as_u64().unwrap(), c[1].as_u64().unwrap());
        Some(chunks.as_array().unwrap().iter().map(pair).collect())
    }
}

pub(crate) fn payload<'e>(event: &'e Event, name: &str) -> Option<&'e [u8]> {
    event
        .payloads
        .iter()
        .find(|p| p.name == name)
        .map(|p| p.bytes.as_slice())
}
