//! The facade for services in Rust: a log to write, sessions in it, and a verdict over it.
//!
//! # In scope
//!
//! - [`AuditTracer`]: opens a log (or makes one), on the store that a URL names, with the keys that a URI names.
//! - [`AuditSession`]: a guard whose opening and end are events; [`emit`](AuditSession::emit) for everything between, each
//!   acknowledged when it would survive a power cut; [`request`](AuditSession::request) for calls of a model that the
//!   service makes itself.
//! - Features `reqwest` and `tower`: `wrap_client`, a `reqwest` client whose every exchange is recorded; `ClientRecorder`,
//!   the same as a layer around any client of `tower`'s; `ServiceRecorder`, a layer that records the requests that a service
//!   of one's own answers. See [below](#clients-and-services).
//! - [`verify_integrity`](AuditTracer::verify_integrity): the offline verifier over the store, with what this service knows.
//! - [`Locks`]: retention and legal holds of a log in a bucket, each act recorded in the log.
//! - [`StoreUrl`]: the one place where a backend is chosen by name. Backends are features: `sqlite`, `postgres`,
//!   `s3`.
//!
//! # Out of scope
//!
//! - Seeing calls that the service doesn't record, or that go past a wrapped client: that is the gateway's door.
//! - Proving compliance. A [`ComplianceMode`] writes a claim and proposals into the log; nothing is checked by it, and no
//!   report may count it.
//! - Verifying against the operator himself: an auditor does that elsewhere, with `audit-verify` and what was carried away.
//!
//! # Example
//!
//! ```
//! use audit_tracer::{Auditor, AuditTracer, ComplianceMode, Media, Outcome, Passphrase};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dir = tempfile::tempdir()?;
//!     let here = dir.path().display();
//!     let builder = AuditTracer::builder()
//!         .store(format!("sqlite:{here}/log.db"))
//!         .keys(format!("file:{here}/log.key"))
//!         .passphrase(|_what| Passphrase::new(b"from where your secrets are".to_vec()))
//!         .state_dir(dir.path().join("state")) // in production not beside the store
//!         .compliance_mode(ComplianceMode::Medical) // a claim; it proves nothing
//!         .retention_years(7)
//!         .electronic_signatures(true);
//!
//!     // Once in the life of a log. Carry away what it says, and the auditor's key file.
//!     let auditor = Auditor::NewKeyFile(dir.path().join("auditor.key"));
//!     let made = builder.create("log.example/clinic", auditor).await?;
//!     println!("public key {}\nfirst entry {}", made.vkey, made.opened);
//!
//!     // At each start of the service.
//!     let tracer = builder.opened(made.opened.to_string()).build().await?;
//!     let session = tracer.audit_session().await?;
//!     let receipt = session
//!         .emit("tool.call")
//!         .attribute("gen_ai.tool.name", "lookup_dosage")
//!         .payload("arguments", Media::Json, br#"{"drug":"amoxicillin"}"#.to_vec())
//!         .await?; // on the disk now
//!     println!("entry {} has leaf hash {}", receipt.index, receipt.leaf_hash);
//!     receipt.published().await?; // a signed checkpoint commits to it, and the proof was checked
//!     drop(session); // records that the session ended
//!
//!     let verdict = tracer.verify_integrity().await?;
//!     assert_eq!(verdict.outcome(), Outcome::Held, "{verdict}");
//!     tracer.close().await?; // every end is on the disk, the last checkpoint is signed
//!     Ok(())
//! }
//! ```
//!
//! # Clients and services
//!
//! A wrapped client sends nothing that isn't recorded, and its streams stay streams:
//!
#![cfg_attr(feature = "reqwest", doc = "```no_run")]
#![cfg_attr(not(feature = "reqwest"), doc = "```ignore")]
//! # async fn example(tracer: audit_tracer::AuditTracer, client: reqwest::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let session = tracer.audit_session().await?;
//! let client = session.wrap_client(client);
//! let mut answer = client
//!     .post("https://api.openai.com/v1/chat/completions")
//!     .bearer_auth("sk-…") // only its keyed fingerprint is recorded
//!     .header("content-type", "application/json")
//!     .body(r#"{"model":"gpt-5","stream":true,"messages":[{"role":"user","content":"hi"}]}"#)
//!     .send() // `llm.request` is durable before this leaves
//!     .await?;
//! while let Some(piece) = answer.chunk().await? {
//!     println!("{piece:?}"); // the last one when `llm.response` is durable
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `async-openai` (0.43) takes such a client through its own hook, `with_http_service` (its feature `middleware`); its retries
//! are then recorded too:
//!
#![cfg_attr(all(feature = "reqwest", feature = "tower"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "reqwest", feature = "tower")), doc = "```ignore")]
//! # use async_openai::{Client, config::OpenAIConfig, error::OpenAIError};
//! # use async_openai::middleware::{HttpRequestFactory, retry::OpenAIRetryLayer};
//! # fn example(session: audit_tracer::AuditSession, client: reqwest::Client) {
//! let recorded = session.wrap_client(client);
//! let service = tower::service_fn(move |request: HttpRequestFactory| {
//!     let recorded = recorded.clone();
//!     async move {
//!         let sent = recorded.execute(request.build().await?).await;
//!         sent.map_err(|error| OpenAIError::Boxed(error.into()))
//!     }
//! });
//! let service = tower::ServiceBuilder::new()
//!     .layer(OpenAIRetryLayer::default())
//!     .service(service);
//! let client = Client::with_config(OpenAIConfig::default()).with_http_service(service);
//! # }
//! ```
//!
//! A service records what it is asked with a layer, here of axum's router:
//!
#![cfg_attr(feature = "tower", doc = "```no_run")]
#![cfg_attr(not(feature = "tower"), doc = "```ignore")]
//! # fn example(tracer: audit_tracer::AuditTracer, router: axum::Router) -> axum::Router {
//! use audit_tracer::{Actor, Caller};
//! use axum::extract::MatchedPath;
//!
//! let recorder = tracer.service_recorder().previews(2048).identify(|request| Caller {
//!     // What your authentication has left there.
//!     actor: request.extensions.get::<Actor>().cloned(),
//!     route: request.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned()),
//!     ..Caller::default()
//! });
//! router.layer(recorder)
//! # }
//! ```

mod backup;
mod builder;
mod call;
mod closing;
mod create;
mod draft;
mod evidence;
#[cfg(any(feature = "reqwest", feature = "tower"))]
mod exchange;
mod holds;
#[cfg(any(feature = "reqwest", feature = "tower"))]
mod late;
mod locks;
mod mode;
#[cfg(any(feature = "reqwest", feature = "tower"))]
mod scope;
mod session;
mod store;
mod tracer;

pub use audit_capture::Outcome as CallOutcome;
pub use audit_core::event::{Actor, ActorKind, Event, Media};
pub use audit_core::keyring::{KeyUri, Passphrase};
pub use audit_core::log::Receipt;
pub use audit_core::{Error, ErrorKind, Result};
pub use audit_verify::{Check, CheckReport, CheckResult, Outcome, Verdict};
pub use backup::{Backup, backup_store};
pub use builder::Builder;
pub use call::{CallRequest, CallResponse, LlmCall};
pub use create::{Auditor, CreatedLog, NewLog, NewStore};
pub use draft::Draft;
pub use evidence::StoreEvidence;
#[cfg(any(feature = "reqwest", feature = "tower"))]
pub use exchange::{BoxError, ClientRecorder, RecordedBody};
#[cfg(feature = "tower")]
pub use exchange::{
    Caller, CountedBody, RecordedClient, RecordedService, ServiceRecorder, Unrecorded,
};
pub use holds::{Extended, Hold, HoldSet, HoldsReleased, holds};
pub use locks::{LockStatus, Locks, Released};
pub use mode::{ComplianceMode, Retention};
pub use session::{AuditSession, SessionOptions};
pub use store::{MigrationStatus, StoreUrl};
pub use tracer::AuditTracer;

/// The README's quick start is a test.
#[cfg(all(doctest, feature = "sqlite"))]
#[doc = include_str!("../../README.md")]
struct Readme;
