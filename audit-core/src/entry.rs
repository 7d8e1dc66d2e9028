//! The canonical entry: what is hashed into the tree (`docs/format.md` §2 and §8).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::entry_json;
use crate::error::{Error, Result};
use crate::event::{FIELDS_MAX, Kind, Media, PAYLOADS_MAX, check_name};
use crate::hex::{Digest, Hex};
use crate::time::Timestamp;

/// Bytes of one entry: the limit of a C2SP entry bundle.
pub const ENTRY_BYTES_MAX: usize = 65_535;
/// Tokens of one entry.
pub const TOKENS_MAX: u64 = 256;
/// The format of an entry that has no member of a later one.
pub const FORMAT: u64 = 1;
/// The format that adds [`LogFacts::predecessor`], of the entries that have it.
pub const FORMAT_2: u64 = 2;

// The members of every struct below stand in the order of their names: `serde_json` writes members in the order of
// declaration, and for the strings and integers that an entry may hold its output is then RFC 8785's. `entry_json`
// writes the same bytes.

/// The canonical entry of one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The commitment to the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentPart>,
    /// The epoch of the writer run.
    pub epoch: u64,
    /// The event's id.
    pub event: Uuid,
    /// The data key that sealed every part of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Uuid>,
    /// The data keys whose record is stored together with this entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<KeyDigest>>,
    /// What happened.
    pub kind: Kind,
    /// What the log says of itself, for its own kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogFacts>,
    /// Authenticates this entry and all before it in the run.
    pub mac: Digest,
    /// The payloads, in the caller's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payloads: Option<Vec<PayloadPart>>,
    /// When the writer recorded it.
    pub recorded: Timestamp,
    /// The writer run.
    pub run: Uuid,
    /// The position in the run.
    pub seq: u64,
    /// When it happened, as the caller claims.
    pub time: Timestamp,
    /// The commitment to the tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenDigest>,
    /// The format.
    pub v: u64,
}

/// The commitment to the content of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentPart {
    /// Leaves of the field tree, payloads included.
    pub fields: u64,
    /// Bytes of the canonical content.
    pub length: u64,
    /// Root hash of the field tree.
    pub root: Digest,
    /// SHA-256 of the stored part.
    pub sha256: Digest,
    /// Bytes of the stored part.
    pub stored: u64,
}

/// The commitment to one payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayloadPart {
    /// The salted commitment to the payload's bytes.
    pub commitment: Digest,
    /// Bytes of the payload.
    pub length: u64,
    /// What the bytes are.
    pub media: Media,
    /// Its name.
    pub name: String,
    /// SHA-256 of the stored part.
    pub sha256: Digest,
    /// Bytes of the stored part.
    pub stored: u64,
}

/// A data key and the digest of its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyDigest {
    /// The digest of the record.
    pub digest: Digest,
    /// The data key's id.
    pub id: Uuid,
}

/// The commitment to the tokens of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenDigest {
    /// How many.
    pub count: u64,
    /// Their salted hash.
    pub hash: Digest,
}

/// The kinds that only the log itself writes.
pub mod kinds {
    /// The first entry of a log.
    pub const LOG_OPENED: &str = "log.opened";
    /// The first entry of a writer run.
    pub const WRITER_OPENED: &str = "writer.opened";
    /// The last entry of an epoch.
    pub const EPOCH_CLOSED: &str = "writer.epoch_closed";
    /// A sign of life of an idle writer.
    pub const HEARTBEAT: &str = "writer.heartbeat";
    /// The last entry of a writer run that ended in order.
    pub const WRITER_CLOSED: &str = "writer.closed";
    /// Public keys of the log.
    pub const KEY_REGISTERED: &str = "key.registered";
    /// Data keys that were destroyed.
    pub const KEY_DESTROYED: &str = "key.destroyed";
    /// Data keys under a new generation of the key-encryption key.
    pub const KEY_REWRAPPED: &str = "key.rewrapped";

    /// All of them.
    pub const ALL: [&str; 8] = [
        LOG_OPENED,
        WRITER_OPENED,
        EPOCH_CLOSED,
        HEARTBEAT,
        WRITER_CLOSED,
        KEY_REGISTERED,
        KEY_DESTROYED,
        KEY_REWRAPPED,
    ];
}

/// What the log says of itself. Which members there are follows from the entry's kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LogFacts {
    /// Entries of the epoch or run that ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// The generation of the key-encryption key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The tree right before this entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<TreeHead>,
    /// Public keys, data keys, or ids of data keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<LogKeys>,
    /// The opening of a writer run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opening: Option<Opening>,
    /// The name of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The log that this one succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<Predecessor>,
    /// By the writer key; absent only while the signed bytes are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<Hex<64>>,
    /// The writer key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<Digest>,
}

/// A log of which published entries were lost for good, and which another one succeeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::exhaustive_structs,
    reason = "the format has these three; another is another format"
)]
pub struct Predecessor {
    /// The tree of its last checkpoint that is known.
    pub lost: TreeHead,
    /// Its name.
    pub origin: String,
    /// The tree that was restored.
    pub survives: TreeHead,
}

/// A tree, by its size and root hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeHead {
    /// The root hash.
    pub root: Digest,
    /// The number of leaves.
    pub size: u64,
}

/// The three things that `log.keys` may hold; the members tell them apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(
    clippy::exhaustive_enums,
    reason = "the format has these three; another is another format"
)]
pub enum LogKeys {
    /// Public keys of the log.
    Public(Vec<PublicKey>),
    /// Data keys with the digests of their records.
    Records(Vec<KeyDigest>),
    /// Ids of data keys.
    Ids(Vec<Uuid>),
}

/// A public key of the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKey {
    // `role` sorts first in a list, `public` is written first: the derived order would be the members'.
    /// The key: Ed25519, or X25519 for the auditor.
    pub public: Digest,
    /// What it is for.
    pub role: Role,
}

/// What a public key of the log is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(
    clippy::exhaustive_enums,
    reason = "the format has these four; another is another format"
)]
pub enum Role {
    /// Opens sealed run keys (X25519).
    Auditor,
    /// Signs checkpoints (Ed25519).
    Publisher,
    /// Signs reports (Ed25519).
    Report,
    /// Signs the openings of writer runs (Ed25519).
    Writer,
}

/// The opening of a writer run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// Program and version.
    pub build: String,
    /// The run that was opened last before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Uuid>,
    /// K(0), sealed to the auditor key.
    pub sealed: Hex<80>,
}

impl Entry {
    /// The canonical bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if they are more than [`ENTRY_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>> {
        let bytes = entry_json::write(self, true);
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(Error::invalid(format!(
                "entry has {} bytes, allowed are {ENTRY_BYTES_MAX}",
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    /// The canonical bytes without `mac`.
    #[must_use]
    pub fn without_mac(&self) -> Vec<u8> {
        entry_json::write(self, false)
    }

    /// The bytes that `log.signature` is over, without their label.
    #[must_use]
    pub fn without_signature(&self) -> Vec<u8> {
        let mut unsigned = self.clone();
        if let Some(log) = &mut unsigned.log {
            log.signature = None;
        }
        unsigned.without_mac()
    }

    /// Decodes strictly: `bytes` must be the canonical encoding of an entry in which every rule of the format holds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt), naming what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(Error::corrupt(format!(
                "entry has {} bytes, allowed are {ENTRY_BYTES_MAX}",
                bytes.len()
            )));
        }
        let entry = match entry_json::read(bytes) {
            Some(entry) => entry,
            None => Self::decode_any(bytes)?,
        };
        entry
            .check()
            .map_err(|e| Error::corrupt(format!("entry breaks the format: {e}")))?;
        Ok(entry)
    }

    /// Decodes what `entry_json` doesn't take, or says why nothing does.
    fn decode_any(bytes: &[u8]) -> Result<Self> {
        let entry: Self = serde_json::from_slice(bytes).map_err(|e| {
            Error::corrupt("entry is not the JSON object that the format asks for").because(e)
        })?;
        if entry_json::write(&entry, true) == bytes {
            Ok(entry)
        } else {
            Err(Error::corrupt("entry is not canonical JSON"))
        }
    }

    /// Stored bytes of all parts together.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let payloads = self.payloads.iter().flatten().map(|p| p.stored);
        self.content
            .iter()
            .map(|c| c.stored)
            .chain(payloads)
            .fold(0, u64::saturating_add)
    }

    /// Cuts stored parts, as they lie one behind the other, into the content part and the payload parts.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if the lengths don't add up to what the entry says.
    pub fn split_parts<'a>(&self, parts: &'a [u8]) -> Result<Vec<&'a [u8]>> {
        let payloads = self.payloads.iter().flatten().map(|p| p.stored);
        let mut rest = parts;
        let mut out = Vec::new();
        for stored in self.content.iter().map(|c| c.stored).chain(payloads) {
            let (part, more) = usize::try_from(stored)
                .ok()
                .and_then(|n| rest.split_at_checked(n))
                .ok_or_else(|| {
                    Error::corrupt(format!(
                        "stored parts have {} bytes, the entry says {}",
                        parts.len(),
                        self.stored_bytes()
                    ))
                })?;
            out.push(part);
            rest = more;
        }
        if rest.is_empty() {
            Ok(out)
        } else {
            Err(Error::corrupt(format!(
                "stored parts have {} bytes, the entry says {}",
                parts.len(),
                self.stored_bytes()
            )))
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::invalid(what.to_owned()));
        let predecessor = self.log.as_ref().and_then(|log| log.predecessor.as_ref());
        let format = if predecessor.is_some() {
            FORMAT_2
        } else {
            FORMAT
        };
        if self.v != format {
            return Err(Error::invalid(format!(
                "v is {}, this code reads {FORMAT}, and {FORMAT_2} of an entry with log.predecessor",
                self.v
            )));
        }
        for (name, n) in [("epoch", self.epoch), ("seq", self.seq)] {
            check_integer(name, n)?;
        }
        if self.key.is_some() != self.content.is_some() {
            return wrong("key and content are there only together");
        }
        if let Some(content) = &self.content {
            if content.fields == 0 || content.fields > FIELDS_MAX as u64 {
                return Err(Error::invalid(format!(
                    "content.fields is {}, allowed are 1 to {FIELDS_MAX}",
                    content.fields
                )));
            }
            check_integer("content.length", content.length)?;
            check_integer("content.stored", content.stored)?;
        }
        if let Some(payloads) = &self.payloads {
            if payloads.is_empty() || payloads.len() > PAYLOADS_MAX {
                return Err(Error::invalid(format!(
                    "{} payloads, allowed are 1 to {PAYLOADS_MAX}",
                    payloads.len()
                )));
            }
            if self.content.is_none() {
                return wrong("payloads without content");
            }
            for (i, p) in payloads.iter().enumerate() {
                check_name("name of a payload", &p.name)?;
                check_integer("payload length", p.length)?;
                check_integer("payload stored", p.stored)?;
                if payloads.iter().take(i).any(|q| q.name == p.name) {
                    return Err(Error::invalid(format!(
                        "two payloads are called {:?}",
                        p.name
                    )));
                }
            }
        }
        if let Some(tokens) = &self.tokens
            && (tokens.count == 0 || tokens.count > TOKENS_MAX)
        {
            return Err(Error::invalid(format!(
                "tokens.count is {}, allowed are 1 to {TOKENS_MAX}",
                tokens.count
            )));
        }
        if let Some(keys) = &self.keys {
            check_records("keys", keys)?;
        }
        self.check_log()
    }

    /// Holds the table of `docs/format.md` §8.
    fn check_log(&self) -> Result<()> {
        let kind = self.kind.as_str();
        let Some(log) = &self.log else {
            return if kinds::ALL.contains(&kind) {
                Err(Error::invalid(format!("kind {kind} without log")))
            } else {
                Ok(())
            };
        };
        // (entries, generation, head, keys, opening, origin, signature and signer)
        let have = [
            log.entries.is_some(),
            log.generation.is_some(),
            log.head.is_some(),
            log.keys.is_some(),
            log.opening.is_some(),
            log.origin.is_some(),
            log.signature.is_some() && log.signer.is_some(),
        ];
        let want = match kind {
            kinds::LOG_OPENED => [false, false, true, true, true, true, true],
            kinds::WRITER_OPENED => [false, false, true, false, true, false, true],
            kinds::EPOCH_CLOSED | kinds::WRITER_CLOSED => {
                [true, false, true, false, false, false, false]
            }
            kinds::HEARTBEAT => [false, false, true, false, false, false, false],
            kinds::KEY_REGISTERED | kinds::KEY_DESTROYED => {
                [false, false, false, true, false, false, true]
            }
            kinds::KEY_REWRAPPED => [false, true, false, true, false, false, true],
            _ => return Err(Error::invalid(format!("kind {kind} with log"))),
        };
        if have != want || log.signature.is_some() != log.signer.is_some() {
            return Err(Error::invalid(format!(
                "members of log don't fit kind {kind}"
            )));
        }
        for (name, n) in [
            ("entries", log.entries),
            ("generation", log.generation),
            ("head.size", log.head.map(|head| head.size)),
        ] {
            check_integer(name, n.unwrap_or_default())?;
        }
        if let Some(predecessor) = &log.predecessor {
            if kind != kinds::LOG_OPENED {
                return Err(Error::invalid(format!("kind {kind} with log.predecessor")));
            }
            check_origin(&predecessor.origin)?;
            if log.origin.as_ref() == Some(&predecessor.origin) {
                return Err(Error::invalid("the log is its own predecessor"));
            }
            check_integer("predecessor.lost.size", predecessor.lost.size)?;
            check_integer("predecessor.survives.size", predecessor.survives.size)?;
            if predecessor.lost.size == 0 || predecessor.lost == predecessor.survives {
                return Err(Error::invalid("log.predecessor says that nothing was lost"));
            }
            if self.content.is_none() {
                return Err(Error::invalid("log.predecessor without content"));
            }
        }
        let keys_fit = match (&log.keys, kind) {
            (None, _) => true,
            (Some(LogKeys::Public(keys)), kinds::LOG_OPENED | kinds::KEY_REGISTERED) => {
                !keys.is_empty()
                    && keys.is_sorted_by(|a, b| (a.role, a.public) < (b.role, b.public))
            }
            (Some(LogKeys::Ids(ids)), kinds::KEY_DESTROYED) => {
                !ids.is_empty() && ids.is_sorted_by(|a, b| a < b)
            }
            (Some(LogKeys::Records(records)), kinds::KEY_REWRAPPED) => {
                check_records("log.keys", records)?;
                true
            }
            _ => false,
        };
        if !keys_fit {
            return Err(Error::invalid(format!(
                "log.keys of kind {kind} are not the sorted, not empty list that it asks for"
            )));
        }
        if let Some(origin) = &log.origin {
            check_origin(origin)?;
        }
        if let Some(opening) = &log.opening {
            if self.seq != 0 || self.epoch != 0 {
                return Err(Error::invalid("an opening has seq 0 and epoch 0"));
            }
            let printable = |b: u8| (b' '..=b'~').contains(&b);
            if opening.build.len() > 64 || !opening.build.bytes().all(printable) {
                return Err(Error::invalid(
                    "log.opening.build is not up to 64 printable ASCII characters",
                ));
            }
        }
        Ok(())
    }
}

fn check_integer(name: &str, n: u64) -> Result<()> {
    if n <= crate::canonical::INTEGER_MAX {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "{name} is {n}, allowed is up to 2^53 − 1"
        )))
    }
}

fn check_records(name: &str, keys: &[KeyDigest]) -> Result<()> {
    if !keys.is_empty() && keys.is_sorted_by(|a, b| a.id < b.id) {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "{name} is not a sorted, not empty list"
        )))
    }
}

/// Checks that `origin` can name a signed note's key (C2SP signed-note) and stays short.
///
/// # Errors
///
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), naming the rule.
pub fn check_origin(origin: &str) -> Result<()> {
    let good = |b: u8| (b'!'..=b'~').contains(&b) && b != b'+';
    if (1..=255).contains(&origin.len()) && origin.bytes().all(good) {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "origin {:?} is not 1 to 255 printable ASCII characters without space and plus",
            origin.chars().take(80).collect::<String>()
        )))
    }
}
