//! Checkpoints: the evidence's, and those that the policy remembers.

use std::collections::VecDeque;

use audit_core::{Error, Result};
use audit_tlog::checkpoint::{self, Checkpoint, CheckpointError};
use audit_tlog::note::NoteError;

use crate::verdict::{Check, Verdict, describe};
use crate::{Evidence, Policy};

/// Checkpoints read at once; a signed note may have up to 1 MiB.
const PAGE: usize = 16;

/// A checkpoint of the evidence, looked at.
pub(crate) enum Looked {
    /// Signed by the policy's key, for its origin and the size under which it lies.
    Signed(Checkpoint),
    /// Signed, but by no key of the policy.
    Foreign,
    /// Wrong: what is wrong with it is found already.
    Wrong,
}

/// The checkpoints of the evidence, by size.
#[derive(Default)]
pub(crate) struct Checkpoints {
    page: VecDeque<(u64, Vec<u8>)>,
    after: u64,
    done: bool,
}

impl Checkpoints {
    /// The size of the next checkpoint.
    pub(crate) fn peek(&mut self, evidence: &dyn Evidence) -> Result<Option<u64>> {
        if self.page.is_empty() && !self.done {
            let page = evidence.checkpoints(self.after, PAGE)?;
            self.done = page.is_empty();
            for (size, note) in page.into_iter().take(PAGE) {
                if size <= self.after {
                    return Err(Error::corrupt(
                        "checkpoints are not in the order of their sizes, from 1 on",
                    ));
                }
                self.after = size;
                self.page.push_back((size, note));
            }
        }
        Ok(self.page.front().map(|(size, _)| *size))
    }

    /// Takes the next checkpoint.
    pub(crate) fn take(
        &mut self,
        policy: &Policy<'_>,
        verdict: &mut Verdict,
    ) -> Option<(u64, Looked)> {
        let (size, note) = self.page.pop_front()?;
        verdict.counts.checkpoints += 1;
        let looked = match checkpoint::open(&note, policy.vkey.name(), &policy.vkey) {
            Ok((checkpoint, _)) if !checkpoint.extensions.is_empty() => {
                // Nothing binds them, and the format has none.
                verdict.find(
                    Check::Checkpoints,
                    None,
                    format!("the checkpoint of size {size} has extension lines"),
                );
                Looked::Wrong
            }
            Ok((_, note)) if note.signatures.len() > 1 => {
                // The policy names no other signer, and whoever can write to the store can add a line.
                verdict.find(
                    Check::Checkpoints,
                    None,
                    format!(
                        "the checkpoint of size {size} has {} signature lines; only the publisher's is known",
                        note.signatures.len()
                    ),
                );
                Looked::Wrong
            }
            Ok((checkpoint, _)) if checkpoint.size == size => {
                verdict.count(Check::Checkpoints, 1);
                Looked::Signed(checkpoint.into_inner())
            }
            Ok((checkpoint, _)) => {
                verdict.find(
                    Check::Checkpoints,
                    None,
                    format!(
                        "the checkpoint kept for size {size} is of size {}",
                        checkpoint.size
                    ),
                );
                Looked::Wrong
            }
            Err(CheckpointError::Note(NoteError::Unsigned)) => Looked::Foreign,
            Err(e) => {
                verdict.find(
                    Check::Checkpoints,
                    None,
                    format!("the checkpoint of size {size}: {}", describe(&e)),
                );
                Looked::Wrong
            }
        };
        Some((size, looked))
    }

    /// The size of the greatest checkpoint up to `size`, whoever signed it.
    pub(crate) fn greatest_up_to(evidence: &dyn Evidence, size: u64) -> Result<Option<u64>> {
        let mut all = Self::default();
        let mut greatest = None;
        while let Some(next) = all.peek(evidence)? {
            if next > size {
                break;
            }
            greatest = Some(next);
            all.page.pop_front();
        }
        Ok(greatest)
    }
}

/// The policy's remembered checkpoints, by size. One that the policy's key didn't sign decides nothing.
pub(crate) fn remembered(policy: &Policy<'_>, verdict: &mut Verdict) -> VecDeque<Checkpoint> {
    let mut remembered = Vec::new();
    for note in &policy.remembered {
        match checkpoint::open(note, policy.vkey.name(), &policy.vkey) {
            Ok((checkpoint, _)) if !checkpoint.extensions.is_empty() => {
                verdict.undecide(
                    "a remembered checkpoint is none of this log's: it has extension lines",
                );
            }
            Ok((checkpoint, _)) => remembered.push(checkpoint.into_inner()),
            Err(e) => verdict.undecide(format!(
                "a remembered checkpoint is none of this log's: {}",
                describe(&e)
            )),
        }
    }
    remembered.sort_by_key(|c| c.size);
    remembered.into()
}
