//! Making a bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, Write};

use audit_core::datakey::DataKey;
use audit_core::entry::{Entry, LogKeys, PublicKey, kinds};
use audit_core::hex::{Digest, Hex};
use audit_core::keyring::KeyRing;
use audit_core::row::{Parts, Row};
use audit_core::seal::{self, DisclosedField};
use audit_core::{Error, Result, canonical};
use audit_tlog::Hash;
use audit_tlog::checkpoint::{self, Checkpoint};
use audit_tlog::hash::leaf_hash;
use audit_tlog::proof;
use audit_tlog::tile::{TileId, TileMap};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::tar::{Spool, write_end, write_member};
use super::{
    BundleCounts, CHECKPOINTS, CHECKPOINTS_MAX, CHUNK, CONSISTENCY, Consistency, ConsistencyProof,
    DISCLOSURE_LINE_BYTES_MAX, DISCLOSURES, DisclosureLine, ENTRIES, ENTRIES_MAX,
    ENTRY_LINE_BYTES_MAX, EntryLine, FieldLine, KEYS, KeysFile, LIMITS, MANIFEST,
    MULTI_LINE_BYTES_MAX, MULTIPROOFS, Manifest, MemberDigest, MultiLine, PAYLOADS, Query, README,
    SMALL_BYTES_MAX, Selection, V, VERSION, digests, multi_proof, payload_member, text,
};
use crate::Evidence;

/// Tiles kept in memory: 8 KiB each.
const TILES_MAX: usize = 1024;
/// Data keys kept unwrapped in memory.
const DATA_KEYS_MAX: usize = 1024;

/// What a bundle is to hold. Nothing of it is searched here: who has an index finds the entries.
#[derive(Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "whoever asks says every part of the question"
)]
pub struct Request<'a> {
    /// What was asked for.
    pub query: Query,
    /// Which fields are disclosed.
    pub selection: Selection,
    /// The leaf indexes of all that the query finds, rising.
    pub matched: &'a [u64],
    /// The leaf indexes of every `writer.opened`, `key.registered` and `key.destroyed`, rising; those that are needed are
    /// taken.
    pub own: &'a [u64],
    /// The signed checkpoint that everything is to be proven under: the log's newest.
    pub checkpoint: Vec<u8>,
    /// Earlier signed checkpoints that it is to be shown to extend.
    pub since: Vec<Vec<u8>>,
}

/// What was written.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Made {
    /// What the bundle says of itself.
    pub manifest: Manifest,
    /// Patterns of the selection that matched no field of any of the events.
    pub unused: Vec<String>,
}

/// Writes the bundle. The same log, checkpoint and request give the same bytes. `spool` makes empty temporary files.
///
/// # Errors
///
/// `NotFound` if nothing matches, or no checkpoint commits to what does; `Invalid` for a request that can't be answered;
/// `Corrupt` if the log contradicts itself or the checkpoints; what the evidence says; `Unavailable` if it can't be
/// written. What was written until then is no bundle.
pub fn make<S: Read + Write + Seek>(
    evidence: &dyn Evidence,
    ring: &KeyRing,
    request: &Request<'_>,
    spool: &mut dyn FnMut() -> io::Result<S>,
    out: &mut dyn Write,
) -> Result<Made> {
    request.query.check()?;
    if request.query.session.is_some() && request.selection.redacts("session_id") {
        return Err(Error::invalid(
            "the query names the session that is to be redacted, and stands in the bundle; ask by time or by event",
        ));
    }
    let checkpoints = Checkpoints::of(ring, request)?;
    let mut spool = || {
        spool()
            .map(Spool::new)
            .map_err(|e| Error::unavailable("a temporary file can't be made").because(e))
    };
    let mut maker = Maker {
        evidence,
        ring,
        selection: &request.selection,
        size: checkpoints.size,
        root: checkpoints.root,
        tiles: TileMap::new(),
        held: BTreeSet::new(),
        data_keys: BTreeMap::new(),
        destroyed: BTreeMap::new(),
        registered: BTreeSet::new(),
        counts: BundleCounts {
            checkpoints: checkpoints.notes.len() as u64,
            ..BundleCounts::default()
        },
        used: vec![false; request.selection.patterns().count()],
        entries: spool()?,
        multi: spool()?,
        disclosures: spool()?,
        payloads: spool()?,
    };
    let indexes = maker.plan(request)?;
    for chunk in indexes.chunks(CHUNK) {
        maker.chunk(chunk, request.matched)?;
    }
    let consistency = maker.consistency(&checkpoints)?;
    maker.write(request, &checkpoints, &consistency, out)
}

/// The checkpoints that go in.
struct Checkpoints {
    notes: BTreeMap<u64, (Hash, Vec<u8>)>,
    size: u64,
    root: Hash,
}

impl Checkpoints {
    fn of(ring: &KeyRing, request: &Request<'_>) -> Result<Self> {
        let newest = opened(ring, &request.checkpoint, "the checkpoint")?;
        let mut notes = BTreeMap::new();
        for note in &request.since {
            let earlier = opened(ring, note, "an earlier checkpoint")?;
            if earlier.size > newest.size || earlier.size == 0 {
                return Err(Error::invalid(format!(
                    "the earlier checkpoint is over {} entries, the log's newest over {}",
                    earlier.size, newest.size
                )));
            }
            let same_size = notes
                .get(&earlier.size)
                .is_some_and(|(root, _)| *root != earlier.root);
            if same_size || (earlier.size == newest.size && earlier.root != newest.root) {
                return Err(Error::corrupt(format!(
                    "two checkpoints of this log over {} entries have different roots",
                    earlier.size
                )));
            }
            notes.insert(earlier.size, (earlier.root, note.clone()));
        }
        notes.insert(newest.size, (newest.root, request.checkpoint.clone()));
        if notes.len() > CHECKPOINTS_MAX {
            return Err(Error::invalid(format!(
                "{} checkpoints, a bundle takes {CHECKPOINTS_MAX}",
                notes.len()
            )));
        }
        Ok(Self {
            notes,
            size: newest.size,
            root: newest.root,
        })
    }
}

fn opened(ring: &KeyRing, note: &[u8], what: &str) -> Result<Checkpoint> {
    let vkey = ring.vkey();
    let (checkpoint, _) = checkpoint::open(note, vkey.name(), &vkey)
        .map_err(|e| Error::invalid(format!("{what} is not one of this log's key")).because(e))?;
    if !checkpoint.extensions.is_empty() {
        return Err(Error::invalid(format!("{what} has extension lines")));
    }
    Ok(checkpoint.into_inner())
}

struct Maker<'a, S: Read + Write + Seek> {
    evidence: &'a dyn Evidence,
    ring: &'a KeyRing,
    selection: &'a Selection,
    size: u64,
    root: Hash,
    tiles: TileMap,
    /// Level, index and width of the tiles that are held.
    held: BTreeSet<(u8, u64, u16)>,
    data_keys: BTreeMap<Uuid, Option<DataKey>>,
    /// For each data key that an entry says is destroyed: the indexes of these entries.
    destroyed: BTreeMap<Uuid, Vec<u64>>,
    registered: BTreeSet<PublicKey>,
    counts: BundleCounts,
    /// Which patterns matched a field.
    used: Vec<bool>,
    entries: Spool<S>,
    multi: Spool<S>,
    disclosures: Spool<S>,
    payloads: Spool<S>,
}

impl<S: Read + Write + Seek> Maker<'_, S> {
    fn row(&self, index: u64, parts: Parts) -> Result<(Row, Entry)> {
        let row = self
            .evidence
            .rows(index..index + 1, parts)?
            .into_iter()
            .next()
            .filter(|row| row.index == index)
            .ok_or_else(|| Error::not_found("the log has no such entry").at(index))?;
        let entry = Entry::decode(&row.entry).map_err(|e| e.at(index))?;
        Ok((row, entry))
    }

    /// The indexes of all entries that go in.
    fn plan(&mut self, request: &Request<'_>) -> Result<Vec<u64>> {
        let matched = request.matched;
        let Some(last) = matched.last() else {
            return Err(Error::not_found("no event matches"));
        };
        if *last >= self.size {
            let first = matched.iter().find(|i| **i >= self.size).unwrap_or(last);
            return Err(
                Error::not_found("no checkpoint commits to this entry yet, which matches")
                    .at(*first),
            );
        }
        if !matched.is_sorted_by(|a, b| a < b) || !request.own.is_sorted_by(|a, b| a < b) {
            return Err(Error::invalid("the indexes of a request don't rise"));
        }
        if matched.len() as u64 > ENTRIES_MAX {
            return Err(Error::invalid(format!(
                "{} entries match, a bundle takes {ENTRIES_MAX}; export the log instead",
                matched.len()
            )));
        }
        let (mut runs, mut keys) = (BTreeSet::new(), BTreeSet::new());
        for index in matched {
            let (_, entry) = self.row(*index, Parts::Without)?;
            runs.insert(entry.run);
            keys.extend(entry.key);
        }
        let mut indexes: BTreeSet<u64> = matched.iter().copied().chain([0]).collect();
        let mut openings = Vec::new();
        for index in request.own.iter().take_while(|i| **i < self.size) {
            let (_, entry) = self.row(*index, Parts::Without)?;
            match (
                entry.kind.as_str(),
                entry.log.as_ref().and_then(|l| l.keys.as_ref()),
            ) {
                (kinds::WRITER_OPENED, _) => openings.push((entry.run, *index)),
                (kinds::KEY_REGISTERED, _) => {
                    indexes.insert(*index);
                    runs.insert(entry.run);
                }
                (kinds::KEY_DESTROYED, Some(LogKeys::Ids(ids))) => {
                    for id in ids.iter().filter(|id| keys.contains(id)) {
                        indexes.insert(*index);
                        runs.insert(entry.run);
                        self.destroyed.entry(*id).or_default().push(*index);
                    }
                }
                _ => {}
            }
        }
        indexes.extend(
            openings
                .into_iter()
                .filter(|(run, _)| runs.contains(run))
                .map(|(_, index)| index),
        );
        if indexes.len() as u64 > ENTRIES_MAX {
            return Err(Error::invalid(format!(
                "{} entries are needed, a bundle takes {ENTRIES_MAX}; export the log instead",
                indexes.len()
            )));
        }
        Ok(indexes.into_iter().collect())
    }

    /// Fetches what is not held of these tiles.
    fn fetch(&mut self, ids: Vec<TileId>) -> Result<()> {
        if self.held.len() > TILES_MAX {
            self.tiles = TileMap::new();
            self.held.clear();
        }
        for id in ids {
            if self.held.insert((id.level, id.index, id.width)) {
                let after = id.index.checked_sub(1);
                let tile = self
                    .evidence
                    .tiles(id.level, after, 1)?
                    .pop()
                    .filter(|tile| tile.id.index == id.index)
                    .ok_or_else(|| Error::corrupt(format!("{id} is missing")))?;
                self.tiles.insert(tile);
            }
        }
        Ok(())
    }

    fn inclusion(&mut self, index: u64, entry: &[u8]) -> Result<Vec<Hash>> {
        let wrong = |e: &dyn std::error::Error| {
            Error::corrupt("no inclusion proof can be made of the log's tiles")
                .at(index)
                .because(e.to_string())
        };
        self.fetch(proof::inclusion_tiles(index, self.size).map_err(|e| wrong(&e))?)?;
        let hashes =
            proof::inclusion_proof(index, self.size, &self.tiles).map_err(|e| wrong(&e))?;
        proof::verify_inclusion(&leaf_hash(entry), index, self.size, &hashes, &self.root)
            .map_err(|e| wrong(&e))?;
        Ok(hashes)
    }

    fn consistency(&mut self, checkpoints: &Checkpoints) -> Result<Consistency> {
        let mut proofs = Vec::new();
        let notes: Vec<(u64, Hash)> = checkpoints
            .notes
            .iter()
            .map(|(s, (r, _))| (*s, *r))
            .collect();
        for pair in notes.windows(2) {
            let [(old_size, old_root), (new_size, new_root)] = pair else {
                continue;
            };
            let wrong = |e: &dyn std::error::Error| {
                Error::corrupt(format!(
                    "the log doesn't extend the checkpoint over {old_size} entries"
                ))
                .because(e.to_string())
            };
            self.fetch(proof::consistency_tiles(*old_size, *new_size).map_err(|e| wrong(&e))?)?;
            let hashes = proof::consistency_proof(*old_size, *new_size, &self.tiles)
                .map_err(|e| wrong(&e))?;
            proof::verify_consistency(*old_size, *new_size, old_root, new_root, &hashes)
                .map_err(|e| wrong(&e))?;
            proofs.push(ConsistencyProof {
                hashes: digests(&hashes),
                new_size: *new_size,
                old_size: *old_size,
            });
        }
        Ok(Consistency { proofs, v: V })
    }

    /// Writes the entries of one multi-proof.
    fn chunk(&mut self, indexes: &[u64], matched: &[u64]) -> Result<()> {
        let mut single = Vec::with_capacity(indexes.len());
        for index in indexes {
            let is_matched = matched.binary_search(index).is_ok();
            let parts = if is_matched {
                Parts::With
            } else {
                Parts::Without
            };
            let (row, entry) = self.row(*index, parts)?;
            let hashes = self.inclusion(*index, &row.entry)?;
            if let Some(LogKeys::Public(keys)) = entry.log.as_ref().and_then(|l| l.keys.as_ref()) {
                self.registered.extend(keys.iter().cloned());
            }
            // Decoded, so it is UTF-8.
            let text = String::from_utf8_lossy(&row.entry).into_owned();
            let line = EntryLine {
                entry: text,
                index: *index,
                matched: is_matched,
                proof: digests(&hashes),
            };
            self.entries
                .line(canonical::to_vec(&line)?, ENTRY_LINE_BYTES_MAX)?;
            self.counts.entries += 1;
            single.push(hashes);
            if is_matched {
                self.counts.matched += 1;
                if entry.content.is_some() {
                    self.disclose(row, &entry).map_err(|e| e.at(*index))?;
                }
            }
        }
        let line = MultiLine {
            count: indexes.len() as u64,
            hashes: digests(&multi_proof(indexes, self.size, &single)?),
        };
        self.multi
            .line(canonical::to_vec(&line)?, MULTI_LINE_BYTES_MAX)
    }

    fn data_key(&mut self, id: Uuid) -> Result<Option<DataKey>> {
        if let Some(key) = self.data_keys.get(&id) {
            return Ok(key.clone());
        }
        let key = match self.evidence.key(id)? {
            None => None,
            Some(record) => {
                let under = self.ring.wrapping_key_of(record.generation).ok_or_else(|| {
                    Error::key(format!(
                        "the key ring has no generation {} of the key-encryption key, which data key {id} needs",
                        record.generation
                    ))
                })?;
                Some(DataKey::unwrap(self.ring.origin(), &record, under)?)
            }
        };
        if self.data_keys.len() >= DATA_KEYS_MAX {
            self.data_keys.clear();
        }
        self.data_keys.insert(id, key.clone());
        Ok(key)
    }

    fn disclose(&mut self, row: Row, entry: &Entry) -> Result<()> {
        let Some(id) = entry.key else { return Ok(()) };
        let mut line = DisclosureLine {
            destroyed: None,
            event: entry.event,
            fields: Vec::new(),
            index: row.index,
            v: V,
        };
        // What was erased stays erased, even where a key survived.
        let destroyed = self
            .destroyed
            .get(&id)
            .and_then(|at| at.iter().find(|at| **at > row.index));
        if let Some(at) = destroyed {
            line.destroyed = Some(*at);
            self.counts.erased += 1;
        } else {
            let key = self.data_key(id)?;
            let (Some(parts), Some(key)) = (row.parts, key) else {
                return Err(Error::corrupt(
                    "the content is gone, and no published key.destroyed names its data key",
                ));
            };
            let opened = seal::open(entry, &parts, self.ring.origin(), &key)?;
            drop(parts);
            self.counts.open += 1;
            let names: Vec<String> = {
                let seen = std::cell::RefCell::new(Vec::new());
                let fields = opened.disclosures(&|name| {
                    seen.borrow_mut().push(name.to_owned());
                    self.selection.shows(name)
                })?;
                drop(opened);
                self.counts.fields += fields.len() as u64;
                let all = entry.content.as_ref().map_or(0, |c| c.fields);
                self.counts.withheld += all.saturating_sub(fields.len() as u64);
                for field in fields {
                    line.fields.push(self.field(row.index, field)?);
                }
                seen.into_inner()
            };
            for (pattern, used) in self.selection.patterns().zip(&mut self.used) {
                *used = *used || names.iter().any(|name| super::matches(pattern, name));
            }
        }
        self.disclosures
            .line(canonical::to_vec(&line)?, DISCLOSURE_LINE_BYTES_MAX)
    }

    fn field(&mut self, index: u64, field: DisclosedField) -> Result<FieldLine> {
        let mut line = FieldLine {
            bytes: None,
            position: field.position,
            proof: field.proof,
            salt: field.salt,
            sha256: None,
            value: None,
            name: field.name,
        };
        match line.name.strip_prefix(PAYLOADS) {
            None => line.value = Some(STANDARD.encode(&field.value)),
            Some(name) => {
                let size = field.value.len() as u64;
                let digest: [u8; 32] = Sha256::digest(&field.value).into();
                line.bytes = Some(size);
                line.sha256 = Some(Hex(digest));
                let member = payload_member(index, name);
                write_member(
                    &mut self.payloads,
                    &member,
                    size,
                    &mut field.value.as_slice(),
                )?;
                self.counts.payloads += 1;
                self.counts.payload_bytes += size;
            }
        }
        Ok(line)
    }

    /// Puts everything together.
    fn write(
        mut self,
        request: &Request<'_>,
        checkpoints: &Checkpoints,
        consistency: &Consistency,
        out: &mut dyn Write,
    ) -> Result<Made> {
        let (first, _) = self.row(0, Parts::Without)?;
        let mut registered: Vec<PublicKey> = self.registered.iter().cloned().collect();
        registered.sort_unstable_by_key(|k| (k.role, k.public));
        let keys = KeysFile {
            keys: registered,
            opened: leaf_hash(&first.entry).into(),
            origin: self.ring.origin().to_owned(),
            v: V,
            vkey: self.ring.vkey().to_string(),
        };
        let keys = canonical::to_vec(&keys)?;
        let consistency = canonical::to_vec(consistency)?;
        let digest = |bytes: &[u8]| -> Digest {
            let digest: [u8; 32] = Sha256::digest(bytes).into();
            Hex(digest)
        };
        let mut manifest = Manifest {
            bundle: VERSION.to_owned(),
            counts: self.counts,
            members: Vec::new(),
            only: request.selection.only.clone(),
            origin: self.ring.origin().to_owned(),
            query: request.query.clone(),
            query_text: text::query(&request.query),
            redact: request.selection.redact.clone(),
            root: checkpoints.root.into(),
            size: checkpoints.size,
        };
        let mut small: Vec<(String, Vec<u8>)> = vec![
            (README.to_owned(), text::readme(&manifest).into_bytes()),
            (LIMITS.to_owned(), text::limits(&manifest).into_bytes()),
            (KEYS.to_owned(), keys),
        ];
        for (size, (_, note)) in &checkpoints.notes {
            small.push((format!("{CHECKPOINTS}{size}"), note.clone()));
        }
        small.push((CONSISTENCY.to_owned(), consistency));
        for (name, bytes) in &small {
            manifest.members.push(MemberDigest {
                name: name.clone(),
                sha256: digest(bytes),
                size: bytes.len() as u64,
            });
        }
        let mut spools = [
            (ENTRIES, self.entries),
            (MULTIPROOFS, self.multi),
            (DISCLOSURES, self.disclosures),
        ];
        for (name, spool) in &spools {
            manifest.members.push(MemberDigest {
                name: (*name).to_owned(),
                sha256: spool.digest(),
                size: spool.size,
            });
        }
        let text = canonical::to_vec(&manifest)?;
        small.insert(0, (MANIFEST.to_owned(), text));
        for (name, bytes) in &small {
            let size = bytes.len() as u64;
            if size > SMALL_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "member {name} would have {size} bytes, a bundle takes {SMALL_BYTES_MAX}"
                )));
            }
            write_member(out, name, size, &mut bytes.as_slice())?;
        }
        for (name, spool) in &mut spools {
            let size = spool.size;
            write_member(out, name, size, spool.reader()?)?;
        }
        let unwritable = |e| Error::unavailable("the bundle can't be written").because(e);
        io::copy(self.payloads.reader()?, out).map_err(unwritable)?;
        write_end(out)?;
        Ok(Made {
            manifest,
            unused: request.selection.unused(&self.used),
        })
    }
}
