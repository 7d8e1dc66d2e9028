//! Which index runs there are, reading them, and making them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use audit_core::{Error, ErrorKind, Result};
use bytes::Bytes;

use crate::batch::Header;
use crate::names::{self, Name};
use crate::run::{self, Footer, FooterError, RUN_BATCHES, Section};
use crate::shared::{Shared, locked};

/// Blocks kept in memory, 64 KiB each.
const BLOCKS_MAX: usize = 128;
/// Footers kept in memory; some KiB each.
const FOOTERS_MAX: usize = 2048;
/// Read from the end of a run at first.
const TAIL: u64 = 64 * 1024;

/// A stretch of batches, and where to search it.
#[derive(Debug, Clone)]
pub(crate) enum Segment {
    Run(Arc<Footer>),
    Sides(Range<u64>),
}

/// The runs that were listed.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    /// The first batch numbers of complete runs of level 1, in order.
    runs: Vec<u64>,
    /// For how many stretches of 64 batches it was listed, and under which `changes`.
    of: Option<(u64, u64)>,
    footers: VecDeque<Arc<Footer>>,
    blocks: VecDeque<((u64, u64), Bytes)>,
}

impl Shared {
    /// How the batches up to `until` can be searched, in their order.
    pub(crate) async fn segments(&self, until: u64) -> Result<Vec<Segment>> {
        let mut out = Vec::new();
        let mut next = 0;
        for from in self.listed_runs(until / RUN_BATCHES).await? {
            if from < next || from + RUN_BATCHES > until {
                continue;
            }
            let Some(footer) = self.footer(from).await? else {
                continue;
            };
            if next < from {
                out.push(Segment::Sides(next..from));
            }
            next = footer.until;
            out.push(Segment::Run(footer));
        }
        if next < until {
            out.push(Segment::Sides(next..until));
        }
        Ok(out)
    }

    /// Where runs begin, listed anew if there can be more of them.
    async fn listed_runs(&self, complete: u64) -> Result<Vec<u64>> {
        let changes = self.changes.load(Ordering::SeqCst);
        {
            let catalog = locked(&self.catalog);
            if catalog
                .of
                .is_some_and(|(stretches, of)| stretches >= complete && of == changes)
            {
                return Ok(catalog.runs.clone());
            }
        }
        if complete == 0 {
            return Ok(Vec::new());
        }
        let mut runs = Vec::new();
        let mut after = String::new();
        loop {
            let page = self.bucket.list("run/1/", &after, 1000).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.key);
            for listed in &page {
                if let Some(Name::Run {
                    level: 1,
                    from,
                    until,
                }) = Name::parse(&listed.key)
                    && from % RUN_BATCHES == 0
                    && until.checked_sub(from) == Some(RUN_BATCHES)
                {
                    runs.push(from);
                }
            }
            if page.len() < 1000 {
                break;
            }
        }
        let mut catalog = locked(&self.catalog);
        if catalog.of.is_some_and(|(_, of)| of != changes) {
            catalog.footers.clear();
            catalog.blocks.clear();
        }
        catalog.of = Some((complete, changes));
        catalog.runs.clone_from(&runs);
        Ok(runs)
    }

    /// The footer of a run; `None` if it isn't there, or is from before a change.
    async fn footer(&self, from: u64) -> Result<Option<Arc<Footer>>> {
        let changes = self.changes.load(Ordering::SeqCst);
        let known = locked(&self.catalog)
            .footers
            .iter()
            .find(|footer| footer.from == from && footer.changes == changes)
            .cloned();
        if known.is_some() {
            return Ok(known);
        }
        let name = run_name(from);
        let mut length = TAIL;
        let footer = loop {
            let Some(tail) = self.bucket.get_tail(&name, length).await? else {
                return Ok(None);
            };
            match Footer::decode(&name, &tail) {
                Ok(footer) => break footer,
                Err(FooterError::Needs(more)) if more > length && tail.len() as u64 == length => {
                    length = more;
                }
                Err(FooterError::Needs(_)) => {
                    return Err(Error::corrupt(format!("{name} is cut off")));
                }
                Err(FooterError::Corrupt(e)) => return Err(e),
            }
        };
        if (footer.level, footer.from, footer.until) != (1, from, from + RUN_BATCHES) {
            return Err(Error::corrupt(format!("{name} is of other batches")));
        }
        if footer.changes != changes {
            return Ok(None);
        }
        let footer = Arc::new(footer);
        let mut catalog = locked(&self.catalog);
        catalog.footers.push_back(Arc::clone(&footer));
        if catalog.footers.len() > FOOTERS_MAX {
            catalog.footers.pop_front();
        }
        Ok(Some(footer))
    }

    /// Records of a section from `lower` on, before `upper`, in order; as soon as there are `enough`, no further block is
    /// read.
    pub(crate) async fn scan(
        &self,
        footer: &Footer,
        section: Section,
        lower: &[u8],
        upper: &[u8],
        enough: usize,
    ) -> Result<Vec<Vec<u8>>> {
        let name = run_name(footer.from);
        let mut out = Vec::new();
        for fence in footer.blocks(section, lower, upper) {
            if out.len() >= enough {
                break;
            }
            let place = (footer.from, fence.offset);
            let known = locked(&self.catalog)
                .blocks
                .iter()
                .find(|(at, _)| *at == place)
                .map(|(_, block)| block.clone());
            let block = if let Some(block) = known {
                block
            } else {
                let range = fence.offset..fence.offset + u64::from(fence.length);
                self.bucket
                    .get_range(&name, range)
                    .await
                    .map_err(|e| match e.kind() {
                        ErrorKind::NotFound => Error::unavailable(format!(
                            "{name} was removed while it was read; hint: try again"
                        ))
                        .because(e),
                        _ => e,
                    })?
            };
            let found = run::records(&name, section, fence, &block)?.into_iter();
            let found = found.filter(|record| *record >= lower && *record < upper);
            out.extend(found.map(<[u8]>::to_vec));
            let mut catalog = locked(&self.catalog);
            if !catalog.blocks.iter().any(|(at, _)| *at == place) {
                catalog.blocks.push_back((place, block));
                if catalog.blocks.len() > BLOCKS_MAX {
                    catalog.blocks.pop_front();
                }
            }
        }
        Ok(out)
    }

    /// Makes the next run that can be made, if there is one; `tip` is the last batch.
    pub(crate) async fn compact(&self, tip: &Header) -> Result<()> {
        let complete = (tip.number + 1) / RUN_BATCHES;
        if locked(&self.compacted).0 >= complete {
            return Ok(());
        }
        let changes = self.read_changes().await?;
        let (mut done, of) = *locked(&self.compacted);
        if of != changes {
            done = 0;
        }
        let runs = self.listed_runs(complete).await?;
        while done < complete {
            let from = done * RUN_BATCHES;
            if runs.binary_search(&from).is_err() || self.footer(from).await?.is_none() {
                break;
            }
            done += 1;
        }
        *locked(&self.compacted) = (done, changes);
        if done >= complete {
            return Ok(());
        }
        let from = done * RUN_BATCHES;
        if let Some(bytes) = self.build_run(from, changes).await? {
            self.bucket.put(&run_name(from), bytes).await?;
            // Where side packs were written anew meanwhile, nobody uses the run, since it names the `changes` before.
            let mut catalog = locked(&self.catalog);
            if let Err(at) = catalog.runs.binary_search(&from) {
                catalog.runs.insert(at, from);
            }
        }
        *locked(&self.compacted) = (done + 1, changes);
        Ok(())
    }

    /// The run of 64 batches from their side packs; `None` if none of them has rows.
    pub(crate) async fn build_run(&self, from: u64, changes: u64) -> Result<Option<Bytes>> {
        let mut sides = Vec::new();
        for number in from..from + RUN_BATCHES {
            let header = self.header(number).await?;
            if !header.skipped {
                sides.push(self.side(&header).await?);
            }
        }
        run::build(1, from, from + RUN_BATCHES, changes, &sides)
    }
}

pub(crate) fn run_name(from: u64) -> String {
    names::run(1, from, from + RUN_BATCHES)
}
