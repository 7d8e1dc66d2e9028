//! Redaction and anonymisation, before anything is recorded.
//!
//! *In scope*: rules, detectors, and a [`Redactor`] that hangs in front of a log
//! (`audit_core::log::LogOptions::ingest`), so that whichever door an event comes through, it passes the same rules.
//! *Out of scope*: traffic. Nothing here sees what goes between an agent and its provider; only what is recorded of it
//! changes.
//!
//! A field that can't be looked at to its end isn't recorded: neither an error, nor a panic, nor a form that nobody can
//! read, makes the original pass. `docs/redaction.md` says what is found, and what isn't.
//!
//! ```
//! use audit_capture::redaction::{Options, Redactor, RuleSet};
//! use audit_core::event::{Event, Kind, Media, Payload};
//! use audit_core::ingest::{Ingest, IngestKeys};
//! use audit_core::secret::SecretKey;
//! use audit_core::time::Timestamp;
//! use audit_core::token::IndexKey;
//!
//! let rules = vec![RuleSet::built_in("personal-data@1")?, RuleSet::built_in("secrets@1")?];
//! let redactor = Redactor::new(Options::new(rules))?;
//!
//! let mut event = Event::new(uuid::Uuid::nil(), Timestamp::EPOCH, Kind::new("note")?);
//! let body = br#"{"text": "card 4111 1111 1111 1111",  "n": 1.50}"#;
//! event.payloads.push(Payload::new("request.body", Media::Json, body.to_vec()));
//!
//! let keys = IngestKeys::new(IndexKey::new(SecretKey::new([7; 32])));
//! let recorded = redactor.ingest(event, &keys)?;
//! // Every other byte stays.
//! assert_eq!(recorded.payloads[0].bytes, br#"{"text": "card [redacted:card]",  "n": 1.50}"#);
//! assert_eq!(recorded.attributes["audit.redaction"]["hits"][0]["count"], 1);
//! # Ok::<(), audit_core::Error>(())
//! ```

mod body;
mod builtin;
mod detect;
mod document;
mod filter;
mod pointer;
mod rules;
mod scan;
mod stream;
mod text;
mod view;

pub use filter::{DECODED, Identities, Options, Redactor, Tenant, Unreadable, WITHHELD};
pub use rules::{Action, Rule, RuleSet};
