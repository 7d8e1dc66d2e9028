//! The offline verifier: compares a log with itself, with its checkpoints and with what was remembered of it, and says
//! what held, what did not, and what was not checked.
//!
//! # In scope
//!
//! - [`verify`]: one walk over all [`Evidence`] under a [`Policy`], which ends in a [`Verdict`].
//! - [`bundle`]: the export of a whole log in one file, written from a store and read as evidence.
//! - [`evidence_bundle`]: some entries of a log with their disclosed content and what proves both, in one file.
//! - [`proof`]: one entry under a signed checkpoint.
//! - The program `audit-verify` over all of these.
//!
//! # Out of scope
//!
//! - Network, async, databases: evidence comes through a synchronous trait or a file. A store is read through an adapter
//!   that lives where the store's engine lives.
//! - Secrets. Without any, everything under a checkpoint is checked; the auditor key adds the MAC chains, the operator's
//!   key ring the content.
//! - Whether the record is complete or true: what no door saw isn't in the log, and a caller's `time` is a claim.
//!
//! # Which keys
//!
//! Every key, the algorithms and the origin come from the policy. What the evidence says of its keys is compared with
//! them, never used instead.
//!
//! # What is not detected
//!
//! - Another history behind the last opening by whoever holds the publisher key, if the policy has neither a remembered
//!   checkpoint nor an auditor key; and any other history if it doesn't name the leaf hash of the first entry either, since
//!   the writer keys are then those that the evidence registers. With it, everything before an opening is under a writer's
//!   signature. With the auditor key, entries changed within a run are found.
//! - Whole runs that were replaced by whoever holds both the publisher key and a writer key: he draws a new K(0), seals it
//!   to the auditor's public key and signs the openings behind them anew. A remembered checkpoint over them shows it.
//! - An older copy of the whole log, or the newest entries cut off together with their checkpoints, without a remembered
//!   checkpoint. Checkpoints that are missing while later ones are there are missed by who remembers them: nothing commits
//!   to them.
//! - Changes of entries that no checkpoint commits to yet, without the auditor key. The verdict counts them.
//! - Content that does not fit its commitments, without the operator's key ring; the stored ciphertexts are compared.
//! - The reuse of an event id under another run and place. A copy of an entry is found, since its place in its run is
//!   taken, and a new entry needs a MAC; that two entries of honest runs differ in id is for the store to hold.
//! - One event recorded twice on purpose, and publisher keys that were rotated: the policy has one.
//!
//! # Memory
//!
//! Flat in the number of entries, apart from 32 bytes per 65,536 entries with `full`. About 150 bytes (300 with the
//! auditor key while it is open) are kept per writer run, and about 150 per data key; the stored parts of the largest
//! event are held at once. [`bundle::Reader`] keeps 8 bytes per 256 entries and 24 per 256 keys.
//! [`evidence_bundle::verify_bundle`] says what it keeps itself.
//!
//! # Example
//!
//! ```
//! use audit_core::chain::AuditorKey;
//! use audit_core::keyring::KeyRing;
//! use audit_core::time::{Clock as _, System};
//! use audit_verify::{Check, Outcome, Policy, bundle, verify};
//!
//! # let auditor = AuditorKey::random(&System);
//! # let ring = KeyRing::generate("log.example/clinic", auditor.public(), &System)?;
//! # let vkey = ring.vkey();
//! // An empty log holds nothing, so nothing of it can hold.
//! let mut file = std::io::Cursor::new(Vec::new());
//! bundle::Writer::new(&mut file, &bundle::Header::new("log.example/clinic", true, 0))?.finish()?;
//! let evidence = bundle::Reader::open(file)?;
//!
//! let verdict = verify(&evidence, &Policy::public(vkey, System.now()), &mut ());
//! assert_eq!(verdict.outcome(), Outcome::Undecided);
//! assert_eq!(verdict.exit_code(), 2);
//! assert_eq!(verdict.check(Check::Mac).not_checked, ["MAC chains: no auditor key given"]);
//! # Ok::<(), audit_core::Error>(())
//! ```

pub mod bundle;
mod checkpoints;
mod content;
mod evidence;
pub mod evidence_bundle;
mod keys;
mod policy;
mod runs;
mod second_root;
mod single;
mod tiles;
mod tokens;
mod verdict;
mod walk;

pub use evidence::{Evidence, WITHOUT_RETENTION_LOCK};
pub use policy::{Policy, Progress, Stage};
pub use single::{ProofRefused, proof};
pub use verdict::{
    Check, CheckReport, CheckResult, Counts, Covered, Finding, Outcome, Verdict, printable,
};
pub use walk::{verify, verify_holding};
