//! Sealing: field commitments, compression, encryption (`docs/format.md` §4).

use std::collections::BTreeMap;
use std::ops::Range;

use audit_tlog::frontier::Frontier;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rs_merkle::{Hasher, MerkleTree};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::aead;
use crate::canonical;
use crate::datakey::DataKey;
use crate::entry::{ContentPart, Entry, PayloadPart};
use crate::error::{Error, Result};
use crate::event::{
    Actor, CONTENT_BYTES_MAX, Capture, Content, Correlation, Event, PAYLOAD_BYTES_MAX, Payload,
    SystemRef, TEXT_BYTES_MAX,
};
use crate::hex::{Digest, Hex};
use crate::label::{label, label_parts, lp};
use crate::secret::SecretKey;
use crate::time::IdSource;

/// A raw-content dictionary for parts that are too small to compress by themselves.
static DICTIONARY_1: &[u8] = include_bytes!("dictionary-1.txt");

/// `attributes/` and a name of 256 bytes.
const FIELD_NAME_BYTES_MAX: usize = 11 + TEXT_BYTES_MAX;

const CODEC_STORED: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const CODEC_ZSTD_DICTIONARY_1: u8 = 2;

/// zstd's default; higher levels cost several times the time for a few per cent.
const LEVEL: i32 = 3;
/// Parts below this are compressed with the dictionary; above, zstd finds its own.
const DICTIONARY_BYTES_MAX: usize = 16 * 1024;

/// RFC 6962 hashing for `rs_merkle`: what it calls a leaf is already a leaf hash.
#[derive(Clone, Debug)]
struct Rfc6962;

impl Hasher for Rfc6962 {
    type Hash = [u8; 32];

    fn hash(data: &[u8]) -> [u8; 32] {
        *audit_tlog::hash::leaf_hash(data).as_bytes()
    }

    fn concat_and_hash(left: &[u8; 32], right: Option<&[u8; 32]>) -> [u8; 32] {
        match right {
            Some(right) => {
                let mut hash = Sha256::new();
                hash.update([1]);
                hash.update(left);
                hash.update(right);
                hash.finalize().into()
            }
            // An odd node moves up unchanged, which gives the tree of RFC 6962.
            None => *left,
        }
    }
}

/// The salted commitments of one event.
struct Commitments {
    /// With the event's secret as its key; wiped when it is dropped.
    keyed: Hmac<Sha256>,
}

impl Commitments {
    fn new(secret: &SecretKey) -> Self {
        Self {
            keyed: Hmac::new_from_slice(secret.expose()).expect("HMAC takes a key of any length"),
        }
    }

    fn salt(&self, name: &str) -> Zeroizing<[u8; 32]> {
        let mut mac = self.keyed.clone();
        for part in label_parts("salt") {
            mac.update(part);
        }
        mac.update(name.as_bytes());
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    fn of(&self, name: &str, value: &[u8]) -> Digest {
        commitment(&self.salt(name), name, value)
    }
}

/// The commitment to a field's value under its salt.
#[must_use]
pub fn commitment(salt: &[u8; 32], name: &str, value: &[u8]) -> Digest {
    let mut hash = CommitmentHasher::new(salt, name);
    hash.update(value);
    hash.finish()
}

/// The commitment to a field's value that comes in pieces.
#[derive(Debug, Clone)]
pub struct CommitmentHasher(Sha256);

impl CommitmentHasher {
    /// For the field of this name, which has less than 65,536 bytes, under its salt.
    #[must_use]
    pub fn new(salt: &[u8; 32], name: &str) -> Self {
        let mut hash = Sha256::new();
        for part in label_parts("field") {
            hash.update(part);
        }
        hash.update(salt);
        hash.update(lp(name.as_bytes()));
        Self(hash)
    }

    /// The next piece of the value.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The commitment.
    #[must_use]
    pub fn finish(self) -> Digest {
        Hex(self.0.finalize().into())
    }
}

/// The canonical content, and where its fields lie in it: a field's value is the canonical JSON of a member's.
struct PlainContent {
    bytes: Vec<u8>,
    fields: Vec<(String, Range<usize>)>,
}

/// The members of a content, wherever they are kept.
struct Members<'a> {
    actor: Option<&'a Actor>,
    attributes: &'a Map<String, Value>,
    capture: Option<&'a Capture>,
    correlation: Option<&'a Correlation>,
    on_behalf_of: Option<&'a Actor>,
    refs: &'a BTreeMap<String, String>,
    session_id: Option<&'a String>,
    subject: Option<&'a String>,
    system: Option<&'a SystemRef>,
}

impl<'a> From<&'a Event> for Members<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            actor: event.actor.as_ref(),
            attributes: &event.attributes,
            capture: event.capture.as_ref(),
            correlation: event
                .correlation
                .as_ref()
                .filter(|c| **c != Correlation::default()),
            on_behalf_of: event.on_behalf_of.as_ref(),
            refs: &event.refs,
            session_id: event.session_id.as_ref(),
            subject: event.subject.as_ref(),
            system: event.system.as_ref(),
        }
    }
}

impl<'a> From<&'a Content> for Members<'a> {
    fn from(content: &'a Content) -> Self {
        Self {
            actor: content.actor.as_ref(),
            attributes: &content.attributes,
            capture: content.capture.as_ref(),
            correlation: content.correlation.as_ref(),
            on_behalf_of: content.on_behalf_of.as_ref(),
            refs: &content.refs,
            session_id: content.session_id.as_ref(),
            subject: content.subject.as_ref(),
            system: content.system.as_ref(),
        }
    }
}

impl PlainContent {
    /// Writes the members in the order of their names.
    fn new<'a>(content: impl Into<Members<'a>>) -> Result<Self> {
        let content = content.into();
        let mut plain = Self {
            bytes: Vec::with_capacity(1024),
            fields: Vec::with_capacity(16),
        };
        plain.bytes.push(b'{');
        plain.one("actor", content.actor)?;
        if !content.attributes.is_empty() {
            plain.member("attributes")?;
            plain.bytes.push(b'{');
            for (name, value) in canonical::in_order(content.attributes) {
                plain.inner("attributes", name, |out| canonical::write(value, out))?;
            }
            plain.bytes.push(b'}');
        }
        plain.one("capture", content.capture)?;
        plain.one("correlation", content.correlation)?;
        plain.one("on_behalf_of", content.on_behalf_of)?;
        if !content.refs.is_empty() {
            plain.member("refs")?;
            plain.bytes.push(b'{');
            // Their names are ASCII, so the map has them in order.
            for (name, value) in content.refs {
                plain.inner("refs", name, |out| canonical::write_plain(value, out))?;
            }
            plain.bytes.push(b'}');
        }
        plain.one("session_id", content.session_id)?;
        plain.one("subject", content.subject)?;
        plain.one("system", content.system)?;
        plain.bytes.push(b'}');
        Ok(plain)
    }

    fn member(&mut self, name: &str) -> Result<()> {
        if !self.bytes.ends_with(b"{") {
            self.bytes.push(b',');
        }
        canonical::write_plain(name, &mut self.bytes)?;
        self.bytes.push(b':');
        Ok(())
    }

    fn value(
        &mut self,
        field: String,
        write: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let start = self.bytes.len();
        write(&mut self.bytes)?;
        self.fields.push((field, start..self.bytes.len()));
        Ok(())
    }

    /// A member that is one field. Its type has strings only, and its members in order.
    fn one<T: Serialize>(&mut self, name: &str, value: Option<&T>) -> Result<()> {
        let Some(value) = value else { return Ok(()) };
        self.member(name)?;
        self.value(name.to_owned(), |out| canonical::write_plain(value, out))
    }

    /// A member of a member.
    fn inner(
        &mut self,
        outer: &str,
        name: &str,
        write: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        self.member(name)?;
        self.value([outer, "/", name].concat(), write)
    }

    /// The fields with their values.
    fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields
            .iter()
            .map(|(name, at)| (name.as_str(), &self.bytes[at.clone()]))
    }

    fn committed(self, commitments: &Commitments) -> Vec<(String, Digest)> {
        let bytes = self.bytes;
        self.fields
            .into_iter()
            .map(|(name, at)| {
                let commitment = commitments.of(&name, &bytes[at]);
                (name, commitment)
            })
            .collect()
    }
}

/// Sorts the fields as the tree has them, and answers with its root.
fn field_root(committed: &mut [(String, Digest)]) -> Digest {
    committed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut frontier = Frontier::new();
    for (_, commitment) in committed {
        frontier.push(audit_tlog::hash::leaf_hash(&commitment.0));
    }
    frontier.root().into()
}

/// The tree over sorted fields, for proofs; its root is [`field_root`]'s.
fn field_tree(committed: &[(String, Digest)]) -> MerkleTree<Rfc6962> {
    let leaves: Vec<[u8; 32]> = committed.iter().map(|(_, c)| Rfc6962::hash(&c.0)).collect();
    MerkleTree::from_leaves(&leaves)
}

/// The content and payloads of one event, sealed.
#[derive(Debug, Clone)]
pub struct SealedParts {
    /// The entry's commitment to the content.
    pub content: ContentPart,
    /// The entry's commitments to the payloads.
    pub payloads: Option<Vec<PayloadPart>>,
    /// The stored content part and payload parts, one behind the other.
    pub parts: Vec<u8>,
}

/// Seals the content and payloads of an event; `None` if it has neither.
///
/// # Errors
///
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for content beyond [`CONTENT_BYTES_MAX`].
pub fn seal(
    event: &Event,
    origin: &str,
    key: &DataKey,
    ids: &dyn IdSource,
) -> Result<Option<SealedParts>> {
    let plain = PlainContent::new(event)?;
    if plain.fields.is_empty() && event.payloads.is_empty() {
        return Ok(None);
    }
    if plain.bytes.len() > CONTENT_BYTES_MAX {
        return Err(Error::invalid(format!(
            "content has {} bytes, allowed are {CONTENT_BYTES_MAX}",
            plain.bytes.len()
        )));
    }
    let secret = SecretKey::random(ids);
    let commitments = Commitments::new(&secret);
    let mut part = secret.expose().to_vec();
    encode(&plain.bytes, &mut part);
    let stored = aead::seal(&key.key, &part_ad(origin, event.id, "content"), part, ids);
    let mut content_part = ContentPart {
        fields: 0,
        length: plain.bytes.len() as u64,
        root: Hex([0; 32]),
        sha256: sha256(&stored),
        stored: stored.len() as u64,
    };
    let mut committed = plain.committed(&commitments);
    let mut parts = stored;
    let mut payloads = Vec::with_capacity(event.payloads.len());
    for payload in &event.payloads {
        let name = ["payloads/", &payload.name].concat();
        let commitment = commitments.of(&name, &payload.bytes);
        let mut part = Vec::new();
        encode(&payload.bytes, &mut part);
        let mut stored = aead::seal(&key.key, &part_ad(origin, event.id, &name), part, ids);
        payloads.push(PayloadPart {
            commitment,
            length: payload.bytes.len() as u64,
            media: payload.media,
            name: payload.name.clone(),
            sha256: sha256(&stored),
            stored: stored.len() as u64,
        });
        parts.append(&mut stored);
        committed.push((name, commitment));
    }
    content_part.fields = committed.len() as u64;
    content_part.root = field_root(&mut committed);
    Ok(Some(SealedParts {
        content: content_part,
        payloads: (!payloads.is_empty()).then_some(payloads),
        parts,
    }))
}

/// What an entry commits to, opened and checked against every commitment.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The event, as it was appended.
    pub event: Event,
    secret: SecretKey,
}

/// One field with all that proves it against `content.root` (`docs/format.md` §9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisclosedField {
    /// The field's name.
    pub name: String,
    /// Its position in the field tree.
    pub position: u64,
    /// Its inclusion proof.
    pub proof: Vec<Digest>,
    /// Its salt.
    pub salt: Digest,
    /// Its value.
    pub value: Vec<u8>,
}

impl DisclosedField {
    /// Checks the field against an entry's commitment.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if it isn't what the entry commits to.
    pub fn verify(&self, content: &ContentPart) -> Result<()> {
        if self.name.len() > FIELD_NAME_BYTES_MAX {
            return Err(Error::corrupt(format!(
                "name of a field has {} bytes, allowed are {FIELD_NAME_BYTES_MAX}",
                self.name.len()
            )));
        }
        let leaf =
            audit_tlog::hash::leaf_hash(&commitment(&self.salt.0, &self.name, &self.value).0);
        let proof: Vec<audit_tlog::Hash> = self.proof.iter().map(|h| (*h).into()).collect();
        audit_tlog::proof::verify_inclusion(
            &leaf,
            self.position,
            content.fields,
            &proof,
            &content.root.into(),
        )
        .map_err(|e| {
            Error::corrupt(format!(
                "field {:?} is not what the entry commits to",
                self.name
            ))
            .because(e)
        })
    }
}

impl Opened {
    /// Discloses one field.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if the event has no such field.
    pub fn disclose(&self, name: &str) -> Result<DisclosedField> {
        self.disclosures(&|field| field == name)?
            .pop()
            .ok_or_else(|| Error::not_found(format!("the event has no field {name:?}")))
    }

    /// Discloses every field whose name `keep` takes, in the order of the field tree.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the content can't be written as JSON.
    pub fn disclosures(&self, keep: &dyn Fn(&str) -> bool) -> Result<Vec<DisclosedField>> {
        let commitments = Commitments::new(&self.secret);
        let plain = PlainContent::new(&self.event)?;
        let mut values: BTreeMap<String, Vec<u8>> = plain
            .fields()
            .filter(|(field, _)| keep(field))
            .map(|(field, value)| (field.to_owned(), value.to_vec()))
            .collect();
        let mut committed = plain.committed(&commitments);
        for payload in &self.event.payloads {
            let field = format!("payloads/{}", payload.name);
            if keep(&field) {
                values.insert(field.clone(), payload.bytes.clone());
            }
            let commitment = commitments.of(&field, &payload.bytes);
            committed.push((field, commitment));
        }
        field_root(&mut committed);
        let tree = field_tree(&committed);
        let mut disclosed = Vec::with_capacity(values.len());
        for (position, (name, _)) in committed.iter().enumerate() {
            let Some(value) = values.remove(name) else {
                continue;
            };
            let proof = tree.proof(&[position]);
            disclosed.push(DisclosedField {
                name: name.clone(),
                position: position as u64,
                proof: proof.proof_hashes().iter().map(|h| Hex(*h)).collect(),
                salt: Hex(*commitments.salt(name)),
                value,
            });
        }
        Ok(disclosed)
    }
}

/// Decrypts the stored parts of an entry and checks them against every commitment in it.
///
/// # Errors
///
/// [`ErrorKind::Key`](crate::ErrorKind::Key) if the data key doesn't open them,
/// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if they are not what the entry commits to.
pub fn open(entry: &Entry, parts: &[u8], origin: &str, key: &DataKey) -> Result<Opened> {
    let content = entry
        .content
        .as_ref()
        .ok_or_else(|| Error::not_found(format!("event {} has no content", entry.event)))?;
    let split = entry.split_parts(parts)?;
    let mut split = split.into_iter();
    let unseal = |part: &[u8], name: &str| {
        aead::open(&key.key, &part_ad(origin, entry.event, name), part).ok_or_else(|| {
            Error::key(format!(
                "part {name:?} of event {} doesn't open with data key {}",
                entry.event, key.id
            ))
        })
    };
    let stored = split.next().unwrap_or_default();
    let plain = unseal(stored, "content")?;
    let (secret, encoded) = plain
        .split_first_chunk::<32>()
        .ok_or_else(|| Error::corrupt("content part is shorter than its secret"))?;
    let secret = SecretKey::new(*secret);
    let bytes = decode(encoded, content.length, CONTENT_BYTES_MAX, "content")?;
    let decoded: Content = serde_json::from_slice(&bytes)
        .map_err(|e| Error::corrupt("content is not the JSON it should be").because(e))?;
    let plain = PlainContent::new(&decoded)?;
    if plain.bytes != bytes {
        return Err(Error::corrupt("content is not canonical JSON"));
    }
    let mut event = Event {
        id: entry.event,
        time: entry.time,
        kind: entry.kind.clone(),
        actor: decoded.actor,
        on_behalf_of: decoded.on_behalf_of,
        system: decoded.system,
        session_id: decoded.session_id,
        correlation: decoded.correlation,
        refs: decoded.refs,
        subject: decoded.subject,
        attributes: decoded.attributes,
        payloads: Vec::new(),
        capture: decoded.capture,
    };
    // Whoever has a data key can seal what no caller could have appended, such as names of any length.
    event
        .check()
        .map_err(|e| Error::corrupt("content is not that of an event").because(e))?;

    let commitments = Commitments::new(&secret);
    let mut committed = plain.committed(&commitments);
    for part in entry.payloads.iter().flatten() {
        let name = format!("payloads/{}", part.name);
        let plain = unseal(split.next().unwrap_or_default(), &name)?;
        let bytes = decode(&plain, part.length, PAYLOAD_BYTES_MAX, &name)?;
        let commitment = commitments.of(&name, &bytes);
        if commitment != part.commitment {
            return Err(Error::corrupt(format!(
                "payload {:?} is not what the entry commits to",
                part.name
            )));
        }
        committed.push((name, commitment));
        event
            .payloads
            .push(Payload::new(part.name.clone(), part.media, bytes));
    }
    if committed.len() as u64 != content.fields {
        return Err(Error::corrupt(format!(
            "content has {} fields, the entry commits to {}",
            committed.len(),
            content.fields
        )));
    }
    if field_root(&mut committed) != content.root {
        return Err(Error::corrupt("content is not what the entry commits to"));
    }
    Ok(Opened { event, secret })
}

fn part_ad(origin: &str, event: Uuid, part: &str) -> Vec<u8> {
    let mut ad = label("part");
    ad.extend_from_slice(&lp(origin.as_bytes()));
    ad.extend_from_slice(event.as_bytes());
    ad.extend_from_slice(&lp(part.as_bytes()));
    ad
}

/// SHA-256 of public bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Hex(Sha256::digest(bytes).into())
}

/// Appends codec and encoded bytes to `out`: compressed if that makes them shorter.
fn encode(plain: &[u8], out: &mut Vec<u8>) {
    let (codec, packed) = if plain.len() <= DICTIONARY_BYTES_MAX {
        (
            CODEC_ZSTD_DICTIONARY_1,
            with_compressor(|c| c.compress(plain).ok()),
        )
    } else {
        (CODEC_ZSTD, zstd::bulk::compress(plain, LEVEL).ok())
    };
    match packed {
        Some(packed) if packed.len() < plain.len() => {
            out.reserve(1 + packed.len());
            out.push(codec);
            out.extend_from_slice(&packed);
        }
        _ => {
            out.reserve(1 + plain.len());
            out.push(CODEC_STORED);
            out.extend_from_slice(plain);
        }
    }
}

/// Loading the dictionary costs more than compressing a small part, so each thread does it once.
fn with_compressor<T>(
    f: impl FnOnce(&mut zstd::bulk::Compressor<'static>) -> Option<T>,
) -> Option<T> {
    use std::cell::RefCell;
    thread_local! {
        static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> =
            RefCell::new(zstd::bulk::Compressor::with_dictionary(LEVEL, DICTIONARY_1).ok());
    }
    COMPRESSOR.with_borrow_mut(|c| c.as_mut().and_then(f))
}

/// The same for decompressing, where making a context is most of the work.
fn with_decompressor<T>(
    f: impl FnOnce(&mut zstd::bulk::Decompressor<'static>) -> std::io::Result<T>,
) -> std::io::Result<T> {
    use std::cell::RefCell;
    thread_local! {
        static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
            const { RefCell::new(None) };
    }
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let made = match kept.take() {
            Some(made) => made,
            None => zstd::bulk::Decompressor::with_dictionary(DICTIONARY_1)?,
        };
        f(kept.insert(made))
    })
}

fn decode(encoded: &[u8], length: u64, length_max: usize, what: &str) -> Result<Vec<u8>> {
    let length = usize::try_from(length)
        .ok()
        .filter(|n| *n <= length_max)
        .ok_or_else(|| {
            Error::corrupt(format!(
                "{what} says {length} bytes, allowed are {length_max}"
            ))
        })?;
    let (codec, body) = encoded
        .split_first()
        .ok_or_else(|| Error::corrupt(format!("{what} has no codec")))?;
    let bad = |e: std::io::Error| {
        Error::corrupt(format!("{what} doesn't decompress to {length} bytes")).because(e)
    };
    let plain = match *codec {
        CODEC_STORED => body.to_vec(),
        CODEC_ZSTD => zstd::bulk::decompress(body, length).map_err(bad)?,
        CODEC_ZSTD_DICTIONARY_1 => {
            with_decompressor(|d| d.decompress(body, length)).map_err(bad)?
        }
        other => {
            return Err(Error::corrupt(format!(
                "{what} has the unknown codec {other}"
            )));
        }
    };
    if plain.len() == length {
        Ok(plain)
    } else {
        Err(Error::corrupt(format!(
            "{what} has {} bytes, the entry says {length}",
            plain.len()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_for_proofs_has_another_root() {
        let mut committed = Vec::new();
        for n in 0_u8..70 {
            committed.push((format!("attributes/{}", n.wrapping_mul(37)), Hex([n; 32])));
            let root = field_root(&mut committed);
            assert_eq!(
                field_tree(&committed).root(),
                Some(root.0),
                "{} fields",
                committed.len()
            );
        }
    }

    #[test]
    fn content_is_written_otherwise_than_the_general_encoder_does() {
        let text = r#"{"actor":{"display_name":"\u0000\"\u00c4","id":"a","kind":"agent"},
            "attributes":{"z":[1.5,1e21],"\ufb33":1,"\ud83d\ude00":2,"":{}},
            "capture":{"component":"c","guarantee":"spool","version":"1"},
            "correlation":{"parent_event":"00000000-0000-0000-0000-000000000001","provider_request_id":"p",
                "span_id":"s","trace_id":"t"},
            "on_behalf_of":{"id":"b","kind":"human"},"refs":{"b":"2","a":"\n1","_":"","0.1":"x"},
            "session_id":"s\\","subject":"x","system":{"id":"s","version":"v"}}"#;
        let full: Content = serde_json::from_str(text).unwrap();
        let only = Content {
            refs: full.refs.clone(),
            ..Content::default()
        };
        for content in [full, only, Content::default()] {
            let plain = PlainContent::new(&content).unwrap();
            assert_eq!(
                String::from_utf8(plain.bytes.clone()).unwrap(),
                String::from_utf8(canonical::to_vec(&content).unwrap()).unwrap()
            );
            for (name, value) in plain.fields() {
                serde_json::from_slice::<Value>(value).expect(name);
            }
        }
    }
}
