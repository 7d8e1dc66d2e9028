//! `audit-trail gaps`.

use std::collections::BTreeMap;

use audit_core::event::Event;
use audit_core::reader::{LogReader, RecordContent};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output;

/// Entries read at once.
const ENTRIES: u64 = 256;

/// Ranges of numbers of one gateway; what has more is told as far as it was read.
const RANGES_MAX: usize = 100_000;

/// Numbers, as ranges that neither overlap nor touch.
#[derive(Debug, Default, PartialEq, Eq)]
struct Numbers(BTreeMap<u64, u64>);

impl Numbers {
    fn add(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first, last);
        // Whatever it overlaps or touches becomes one with it.
        while let Some((&from, &to)) = self
            .0
            .range(..=last.saturating_add(1))
            .next_back()
            .filter(|(_, to)| to.saturating_add(1) >= first)
        {
            self.0.remove(&from);
            first = first.min(from);
            last = last.max(to);
        }
        self.0.insert(first, last);
    }

    fn count(&self) -> u64 {
        self.0
            .iter()
            .map(|(first, last)| last - first + 1)
            .fold(0, u64::saturating_add)
    }

    /// From 1 to the last number, what is in neither.
    fn holes(&self, explained: &Self) -> Vec<(u64, u64)> {
        let mut all = Self::default();
        for (first, last) in self.0.iter().chain(&explained.0) {
            all.add(*first, *last);
        }
        let mut holes = Vec::new();
        let mut next = 1;
        for (first, last) in all.0 {
            if first > next {
                holes.push((next, first - 1));
            }
            next = last.saturating_add(1);
        }
        holes
    }
}

/// What the log has of one gateway process.
#[derive(Debug, Default)]
struct Producer {
    there: Numbers,
    absent: Numbers,
    missed: u64,
    refused: u64,
    spooled: u64,
    outages: u64,
    first: String,
    last: String,
}

impl Producer {
    fn take(&mut self, event: &Event) -> Option<()> {
        let number = event.attributes.get("audit.producer.number")?.as_u64()?;
        self.there.add(number, number);
        let time = event.time.to_string();
        if self.first.is_empty() {
            self.first.clone_from(&time);
        }
        self.last = time;
        if event.kind.as_str() != "log.capture_degraded" {
            return Some(());
        }
        let count = |name: &str| {
            event
                .attributes
                .get(name)
                .and_then(Value::as_u64)
                .unwrap_or(0)
        };
        self.missed += count("audit.count.missed");
        self.refused += count("audit.count.refused");
        self.spooled += count("audit.count.spooled");
        let absent = event.attributes.get("audit.producer.absent");
        if let Some(ranges) = absent.and_then(Value::as_array) {
            self.outages += 1;
            for range in ranges {
                let (first, last) = (range.get(0)?.as_u64()?, range.get(1)?.as_u64()?);
                if first <= last {
                    self.absent.add(first, last);
                }
            }
        }
        Some(())
    }
}

pub(crate) async fn run(context: &Context, json_lines: bool) -> Result<u8> {
    let reader = context.reader().await?;
    let mut producers: BTreeMap<String, Producer> = BTreeMap::new();
    let unreadable = walk(&reader, &mut producers).await?;
    let mut holes_total = 0;
    for (id, producer) in &producers {
        let holes = producer.there.holes(&producer.absent);
        holes_total += holes.len();
        if json_lines {
            output::line(json!({
                "producer": id,
                "first": producer.first,
                "last": producer.last,
                "records": producer.there.count(),
                "outages": producer.outages,
                "missed": producer.missed,
                "refused": producer.refused,
                "spooled": producer.spooled,
                "absent": producer.absent.0.iter().collect::<Vec<_>>(),
                "holes": holes,
            }))?;
            continue;
        }
        output::line(format_args!(
            "{}  {} records, {} to {}",
            output::printable(id),
            producer.there.count(),
            producer.first,
            producer.last
        ))?;
        if producer.outages > 0 {
            output::line(format_args!(
                "  {} outages: {} records missing though their calls went on, {} of calls that were refused, {} recorded later",
                producer.outages, producer.missed, producer.refused, producer.spooled
            ))?;
        }
        for (first, last) in &holes {
            output::line(format_args!(
                "  HOLE: {first} to {last} are not in the log, and nothing says why"
            ))?;
        }
    }
    if producers.is_empty() && !json_lines {
        output::line("no gateway has recorded anything")?;
    }
    if unreadable > 0 {
        output::note(&format!(
            "{unreadable} entries could not be read (erased, or their key is missing): a hole may be theirs"
        ));
    }
    output::note(
        "the last records of a process that was killed can't be missed by numbers; see `audit-trail verify` for open runs",
    );
    Ok(u8::from(holes_total > 0))
}

/// Reads the whole log; the answer is how many entries of callers can't be opened.
async fn walk(reader: &LogReader, producers: &mut BTreeMap<String, Producer>) -> Result<u64> {
    let (mut at, mut unreadable) = (0, 0);
    loop {
        let records = reader.records(at..at + ENTRIES).await?;
        if records.is_empty() {
            return Ok(unreadable);
        }
        at += records.len() as u64;
        for record in records {
            match record.content {
                RecordContent::Open(opened) => {
                    let id = opened.event.attributes.get("audit.producer.id");
                    let Some(id) = id.and_then(Value::as_str) else {
                        continue;
                    };
                    let producer = producers.entry(id.to_owned()).or_default();
                    producer.take(&opened.event);
                    if producer.there.0.len() + producer.absent.0.len() > RANGES_MAX {
                        return Err(CliError::new(format!(
                            "gateway {id} has more than {RANGES_MAX} ranges of numbers"
                        )));
                    }
                }
                RecordContent::None => {}
                _ => unreadable += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn holes_are_others_than_one_by_one() {
        for seed in 1..3000_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = move |n: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % n
            };
            let (mut there, mut absent) = (Numbers::default(), Numbers::default());
            let mut oracle = BTreeSet::new();
            for _ in 0..random(12) {
                let first = random(25) + 1;
                let last = first + random(4);
                let side = if random(3) == 0 {
                    &mut absent
                } else {
                    &mut there
                };
                side.add(first, last);
                oracle.extend(first..=last);
            }
            let end = oracle.last().copied().unwrap_or(0);
            let expected: Vec<u64> = (1..=end).filter(|n| !oracle.contains(n)).collect();
            let holes: Vec<u64> = there
                .holes(&absent)
                .into_iter()
                .flat_map(|(first, last)| first..=last)
                .collect();
            assert_eq!(holes, expected);
        }
    }
}
