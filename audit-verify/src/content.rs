//! The content against its commitments, with the operator's keys.

use std::collections::BTreeMap;

use audit_core::datakey::DataKey;
use audit_core::entry::Entry;
use audit_core::keyring::KeyRing;
use audit_core::row::Row;
use audit_core::seal;
use audit_core::token::{IndexKey, Token};
use uuid::Uuid;

use crate::Evidence;
use crate::verdict::{Check, Verdict, describe};

/// Data keys kept unwrapped in memory.
const KEYS_MAX: usize = 1024;

/// Opens contents.
pub(crate) struct Contents<'a> {
    ring: &'a KeyRing,
    index_key: IndexKey,
    unwrapped: BTreeMap<Uuid, (DataKey, Token)>,
    /// Contents whose data key is gone.
    gone: u64,
}

impl<'a> Contents<'a> {
    pub(crate) fn new(ring: &'a KeyRing) -> Self {
        Self {
            ring,
            index_key: ring.index_key(),
            unwrapped: BTreeMap::new(),
            gone: 0,
        }
    }

    /// Opens the parts of a row, which are known to be those that the entry names, and checks what is in them.
    pub(crate) fn check(
        &mut self,
        entry: &Entry,
        row: &Row,
        parts: &[u8],
        evidence: &dyn Evidence,
        verdict: &mut Verdict,
    ) {
        let Some(id) = entry.key else { return };
        let index = Some(row.index);
        if !self.unwrapped.contains_key(&id) && !self.unwrap(id, row.index, evidence, verdict) {
            return;
        }
        let Some((key, scope)) = self.unwrapped.get(&id) else {
            return;
        };
        let opened = match seal::open(entry, parts, self.ring.origin(), key) {
            Ok(opened) => opened,
            Err(e) => return verdict.find(Check::Content, index, describe(&e)),
        };
        verdict.count(Check::Content, 1);
        match self.index_key.tokens(&opened.event) {
            Err(e) => verdict.find(Check::Content, index, describe(&e)),
            Ok(tokens) => {
                let count = tokens.as_ref().map(Vec::len).unwrap_or_default() as u64;
                let same = match &row.tokens {
                    Some(set) => tokens.as_ref() == Some(&set.tokens),
                    // Erased tokens can't be compared; their number still can.
                    None => entry.tokens.as_ref().map_or(0, |t| t.count) == count,
                };
                if !same {
                    verdict.find(
                        Check::Content,
                        index,
                        "the tokens are not those of the content",
                    );
                }
            }
        }
        let name = opened
            .event
            .shred_scope()
            .unwrap_or_else(|| format!("run:{}", entry.run));
        if self.index_key.scope(&name) != *scope {
            verdict.find(
                Check::Content,
                index,
                format!("data key {id} belongs to another shred scope than the content"),
            );
        }
    }

    fn unwrap(
        &mut self,
        id: Uuid,
        index: u64,
        evidence: &dyn Evidence,
        verdict: &mut Verdict,
    ) -> bool {
        let record = match evidence.key(id) {
            Ok(Some(record)) => record,
            Ok(None) => {
                // Whether it may be gone, the check of the keys says.
                self.gone += 1;
                return false;
            }
            Err(e) => {
                verdict.failed_read(Check::Content, &e.at(index));
                verdict.not_checked(
                    Check::Content,
                    format!("index {index}: data key {id} could not be read"),
                );
                return false;
            }
        };
        let Some(under) = self.ring.wrapping_key_of(record.generation) else {
            let why = format!(
                "the key ring has no generation {} of the key-encryption key",
                record.generation
            );
            verdict.not_checked(Check::Content, why.clone());
            verdict.undecide(format!("{}: {why}", Check::Content));
            return false;
        };
        match DataKey::unwrap(self.ring.origin(), &record, under) {
            Err(e) => {
                verdict.find(Check::Content, Some(index), describe(&e));
                false
            }
            Ok(key) => {
                if self.unwrapped.len() >= KEYS_MAX {
                    // Ids are random, so the least one is as likely to be in use as any: start anew instead.
                    self.unwrapped.clear();
                }
                self.unwrapped.insert(id, (key, record.scope));
                true
            }
        }
    }

    pub(crate) fn finish(&self, verdict: &mut Verdict) {
        if self.gone > 0 {
            verdict.not_checked(
                Check::Content,
                format!("{} events whose data key is gone", self.gone),
            );
        }
    }
}
