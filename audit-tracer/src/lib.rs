//! The facade for services in Rust: a log to write, sessions in it, and a verdict over it.
//!
//! # In scope
//!
//! - [`AuditTracer`]: opens a log (or makes one), on the store that a URL names, with the keys that a URI names.
//! - [`AuditSession`]: a guard whose opening and end are events; [`emit`](AuditSession::emit) for everything between, each
//!   acknowledged when it would survive a power cut; [`request`](AuditSession::request) for calls of a model that the
//!   service makes itself.
//! - [`verify_integrity`](AuditTracer::verify_integrity): the offline verifier over the store, with what this service knows.
//! - [`Locks`]: retention and legal holds of a log in a bucket, each act recorded in the log.
//! - [`StoreUrl`]: the one place where a backend is chosen by name. Backends are features: `sqlite`, `postgres`,
//!   `s3`.
//!
//! # Out of scope
//!
//! - Seeing calls that the service doesn't record: that is the gateway's door.
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

mod backup;
mod builder;
mod call;
mod closing;
mod create;
mod draft;
mod evidence;
mod holds;
mod locks;
mod mode;
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
