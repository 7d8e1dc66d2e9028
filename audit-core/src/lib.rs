//! The heart of LLMAuditTrail: what an event is, how it becomes an entry that can be proven, and the log it lands in.
//!
//! *In scope*: the event model, the canonical entry, sealing, the MAC chain, tokens, the key ring, the store contract,
//! the append pipeline with its publisher and the filter in front of it, and the read handle.
//! *Out of scope*: trees and proofs (`audit-tlog`), storage engines, provider formats, the offline verifier.
//!
//! Without the feature `log` only the pure part is there: no async, no runtime.

mod aead;
pub mod canonical;
pub mod chain;
#[cfg(feature = "log")]
pub mod copy;
pub mod datakey;
pub mod entry;
mod entry_json;
mod error;
pub mod event;
mod event_json;
pub mod hex;
pub mod ingest;
pub mod keyring;
mod label;
#[cfg(feature = "log")]
pub mod log;
#[cfg(feature = "log")]
pub mod mirror;
pub mod packed;
#[cfg(feature = "log")]
pub mod reader;
pub mod row;
pub mod seal;
pub mod secret;
pub mod signer;
#[cfg(feature = "log")]
pub mod store;
pub mod time;
pub mod token;

pub use entry::Entry;
pub use error::{Error, ErrorKind, Result, with_causes};
pub use event::{Event, Kind, Payload};
pub use event_json::EVENT_JSON_BYTES_MAX;
