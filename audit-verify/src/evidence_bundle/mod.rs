//! The evidence bundle: some entries of a log, their content as far as it is disclosed, and what proves both
//! (`docs/evidence-bundle.md`).
//!
//! [`make`] writes one, [`verify_bundle`] checks it.

mod check;
mod make;
mod multi;
mod tar;
mod text;

use audit_core::entry::PublicKey;
use audit_core::hex::Digest;
use audit_core::time::Timestamp;
use audit_core::{Error, Result, canonical};
use audit_tlog::Hash;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use check::{BundlePolicy, verify_bundle};
pub use make::{Made, Request, make};
pub use multi::{CHUNK, hashes_of, multi_proof, verify_multi_proof};

/// The version that this code writes and reads.
pub const VERSION: &str = "audit-trail-evidence/1";
/// How every bundle begins, behind the first header; the version and a quote follow.
const MAGIC: &[u8] = b"{\"bundle\":\"audit-trail-evidence/";

/// Entries of one bundle.
pub const ENTRIES_MAX: u64 = 1 << 20;
/// Checkpoints of one bundle.
pub const CHECKPOINTS_MAX: usize = 64;
/// Events that a query may name.
pub const EVENTS_MAX: usize = 1000;
/// Bytes of a whole bundle.
pub const BUNDLE_BYTES_MAX: u64 = 1 << 40;
/// Patterns in one list.
const PATTERNS_MAX: usize = 256;
/// Bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 300;
/// Bytes of the session that a query names; as of one that is recorded.
const SESSION_BYTES_MAX: usize = audit_core::event::TEXT_BYTES_MAX;
/// Bytes of the manifest, and of each other small member but the texts.
const SMALL_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a text.
const TEXT_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a line of `entries.jsonl`: an entry, every byte of which may need an escape of two, and 64 hashes.
const ENTRY_LINE_BYTES_MAX: usize = 262_144;
/// Bytes of a line of `multiproofs.jsonl`: 1,024 · (63 − 10) hashes of 67.
const MULTI_LINE_BYTES_MAX: usize = 4 << 20;
/// Bytes of a line of `disclosures.jsonl`: a content of 16 MiB in base64, and 4,096 fields with their proofs.
const DISCLOSURE_LINE_BYTES_MAX: usize = 32 << 20;

const MANIFEST: &str = "manifest.json";
const README: &str = "README.txt";
const LIMITS: &str = "LIMITS.txt";
const KEYS: &str = "keys.json";
const CHECKPOINTS: &str = "checkpoints/";
const CONSISTENCY: &str = "consistency.json";
const ENTRIES: &str = "entries.jsonl";
const MULTIPROOFS: &str = "multiproofs.jsonl";
const DISCLOSURES: &str = "disclosures.jsonl";
const PAYLOADS: &str = "payloads/";

/// What was asked for: events by their ids, or all that hold everything else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::exhaustive_structs,
    reason = "the format has these; another is another format"
)]
pub struct Query {
    /// These events.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub events: Option<Vec<Uuid>>,
    /// With a caller's time at or after this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<Timestamp>,
    /// In this session.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<String>,
    /// With a caller's time before this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<Timestamp>,
}

impl Query {
    /// # Errors
    ///
    /// `Invalid`, naming the rule.
    fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::invalid(what));
        let others = self.from.is_some() || self.session.is_some() || self.to.is_some();
        match &self.events {
            Some(_) if others => {
                return wrong("a query names events, or a session and times, not both".to_owned());
            }
            None if !others => return wrong("the query asks for nothing".to_owned()),
            Some(events) if events.is_empty() || events.len() > EVENTS_MAX => {
                return wrong(format!(
                    "the query names {} events, allowed are 1 to {EVENTS_MAX}",
                    events.len()
                ));
            }
            Some(events) if !events.is_sorted_by(|a, b| a < b) => {
                return wrong("the events of the query don't rise".to_owned());
            }
            _ => {}
        }
        if let Some(session) = &self.session
            && !(1..=SESSION_BYTES_MAX).contains(&session.len())
        {
            return wrong(format!(
                "the session of the query has {} bytes, allowed are 1 to {SESSION_BYTES_MAX}",
                session.len()
            ));
        }
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            return wrong(format!(
                "the query asks from {from} to {to}, which is empty"
            ));
        }
        Ok(())
    }
}

/// Which fields are disclosed, by patterns: a field's name, or the beginning of names followed by `*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    only: Vec<String>,
    redact: Vec<String>,
}

impl Selection {
    /// Only what one of `only` matches, or all if it is empty, and nothing that one of `redact` matches.
    ///
    /// # Errors
    ///
    /// `Invalid` for a pattern that can't match a field's name, so that a slip of the pen discloses nothing.
    pub fn new(mut only: Vec<String>, mut redact: Vec<String>) -> Result<Self> {
        for list in [&mut only, &mut redact] {
            list.sort_unstable();
            list.dedup();
        }
        let selection = Self { only, redact };
        selection.check()?;
        Ok(selection)
    }

    fn check(&self) -> Result<()> {
        for list in [&self.only, &self.redact] {
            if list.len() > PATTERNS_MAX || !list.is_sorted_by(|a, b| a < b) {
                return Err(Error::invalid(format!(
                    "{} patterns, allowed are {PATTERNS_MAX}, sorted and each once",
                    list.len()
                )));
            }
            if let Some(wrong) = list.iter().find(|p| !is_pattern(p)) {
                return Err(Error::invalid(format!(
                    "{:?} matches no field's name: they are actor, attributes/NAME, capture, correlation, on_behalf_of, \
                     payloads/NAME, refs/NAME, session_id, subject, system, or the beginning of some with * behind",
                    wrong.chars().take(80).collect::<String>()
                )));
            }
        }
        Ok(())
    }

    /// Whether a field is disclosed.
    #[must_use]
    pub fn shows(&self, name: &str) -> bool {
        let any = |list: &[String]| list.iter().any(|p| matches(p, name));
        (self.only.is_empty() || any(&self.only)) && !any(&self.redact)
    }

    /// Whether a field is withheld by `redact`.
    #[must_use]
    pub fn redacts(&self, name: &str) -> bool {
        self.redact.iter().any(|p| matches(p, name))
    }

    fn is_everything(&self) -> bool {
        self.only.is_empty() && self.redact.is_empty()
    }

    /// The patterns that match none of these names.
    fn unused(&self, used: &[bool]) -> Vec<String> {
        self.patterns()
            .zip(used)
            .filter(|(_, used)| !**used)
            .map(|(p, _)| p.clone())
            .collect()
    }

    fn patterns(&self) -> impl Iterator<Item = &String> {
        self.only.iter().chain(&self.redact)
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

/// The fields that stand alone, and the beginnings of those that have names.
const ALONE: [&str; 7] = [
    "actor",
    "capture",
    "correlation",
    "on_behalf_of",
    "session_id",
    "subject",
    "system",
];
const NAMED: [&str; 3] = ["attributes/", "payloads/", "refs/"];

/// Whether a field may be called so.
fn is_field(name: &str) -> bool {
    ALONE.contains(&name)
        || NAMED
            .iter()
            .any(|n| name.len() > n.len() && name.starts_with(n))
}

fn is_pattern(pattern: &str) -> bool {
    let fits = match pattern.strip_suffix('*') {
        Some(beginning) => {
            ALONE.iter().any(|n| n.starts_with(beginning))
                || NAMED
                    .iter()
                    .any(|n| n.starts_with(beginning) || beginning.starts_with(n))
        }
        None => is_field(pattern),
    };
    fits && pattern.len() <= PATTERN_BYTES_MAX
}

/// How many of everything a bundle has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BundleCounts {
    /// Checkpoints.
    pub checkpoints: u64,
    /// Entries.
    pub entries: u64,
    /// Matched events whose content was erased.
    pub erased: u64,
    /// Disclosed fields, payloads among them.
    pub fields: u64,
    /// Entries that the query found.
    pub matched: u64,
    /// Matched events with content that was not erased.
    pub open: u64,
    /// Bytes of the disclosed payloads.
    pub payload_bytes: u64,
    /// Disclosed payloads.
    pub payloads: u64,
    /// Fields of open events that are not disclosed.
    pub withheld: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberDigest {
    name: String,
    sha256: Digest,
    size: u64,
}

/// What a bundle says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    bundle: String,
    /// How many of everything.
    pub counts: BundleCounts,
    members: Vec<MemberDigest>,
    only: Vec<String>,
    /// The log.
    pub origin: String,
    /// What was asked for.
    pub query: Query,
    /// The same in words.
    pub query_text: String,
    redact: Vec<String>,
    /// The root hash of the greatest checkpoint.
    pub root: Digest,
    /// Its tree size.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    keys: Vec<PublicKey>,
    opened: Digest,
    origin: String,
    v: u64,
    vkey: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Consistency {
    proofs: Vec<ConsistencyProof>,
    v: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsistencyProof {
    hashes: Vec<Digest>,
    new_size: u64,
    old_size: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryLine {
    entry: String,
    index: u64,
    matched: bool,
    proof: Vec<Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MultiLine {
    count: u64,
    hashes: Vec<Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DisclosureLine {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    destroyed: Option<u64>,
    event: Uuid,
    fields: Vec<FieldLine>,
    index: u64,
    v: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldLine {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    bytes: Option<u64>,
    name: String,
    position: u64,
    proof: Vec<Digest>,
    salt: Digest,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    sha256: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    value: Option<String>,
}

/// The members of `keys.json` and its like have this version.
const V: u64 = 1;

/// Decodes strictly what stands at `place`.
fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8], place: &str) -> Result<T> {
    canonical::from_slice(bytes, place)
}

fn hashes(digests: &[Digest]) -> Vec<Hash> {
    digests.iter().map(|d| Hash::from(*d)).collect()
}

fn digests(hashes: &[Hash]) -> Vec<Digest> {
    hashes.iter().map(|h| Digest::from(*h)).collect()
}

fn payload_member(index: u64, name: &str) -> String {
    format!("{PAYLOADS}{index}-{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(only: &[&str], redact: &[&str]) -> Result<Selection> {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        Selection::new(list(only), list(redact))
    }

    #[test]
    fn a_pattern_shows_or_hides_another_field() {
        let s = selection(
            &[],
            &["attributes/gen_ai.*", "subject", "payloads/response"],
        )
        .unwrap();
        for (name, shown) in [
            ("subject", false),
            ("attributes/gen_ai.request.model", false),
            ("attributes/gen_ai", true),
            ("payloads/response", false),
            ("payloads/response.2", true),
            ("actor", true),
        ] {
            assert_eq!(s.shows(name), shown, "{name}");
        }
        let s = selection(&["payloads/*"], &["payloads/request"]).unwrap();
        assert!(s.shows("payloads/response") && !s.shows("payloads/request"));
        assert!(!s.shows("actor") && !s.redacts("actor"));
        assert!(!selection(&[], &["*"]).unwrap().shows("actor"));
        selection(&[], &["s*", "attr*", "refs/*"]).unwrap();
    }

    #[test]
    fn a_slip_of_the_pen_discloses() {
        for wrong in [
            "",
            "attribute/x",
            "Subject",
            "payloads/",
            "x*",
            "sub ject",
            "session",
        ] {
            selection(&[], &[wrong]).unwrap_err();
        }
    }
}
