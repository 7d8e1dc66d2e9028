//! Several processes on one store: a test binary runs itself, once for each writer.
//!
//! A backend has a test that is none, which calls [`Share::given`] and writes that share, and says by which command the
//! test binary runs it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use audit_core::store::{Parts, ReadStore, Store};
use audit_core::time::{Clock as _, System};
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::EdgeTiles;

use crate::sample;

const SEED: &str = "AUDIT_TEST_SHARE_SEED";
const BATCHES: &str = "AUDIT_TEST_SHARE_BATCHES";
/// Entries of a batch.
const ROWS: usize = 3;

/// What one process writes.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    seed: u64,
    batches: u64,
}

impl Share {
    /// The share of this process; `None` in one that wasn't started for it.
    #[must_use]
    pub fn given() -> Option<Self> {
        let number = |name| std::env::var(name).ok()?.parse().ok();
        Some(Self {
            seed: number(SEED)?,
            batches: number(BATCHES)?,
        })
    }

    /// Writes it, and tells each acknowledged batch, and its longest append.
    #[expect(clippy::print_stdout, reason = "who started it reads what it says")]
    pub async fn write(self, store: &dyn Store) {
        println!();
        let mut longest = 0;
        for _ in 0..self.batches {
            let start = System.monotonic_micros();
            let size = append(store, self.seed).await;
            longest = longest.max(System.monotonic_micros() - start);
            println!("size {size}");
        }
        println!("longest {longest}");
    }

    fn start(self, mut command: Command) -> Child {
        command
            .env(SEED, self.seed.to_string())
            .env(BATCHES, self.batches.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary runs again")
    }
}

async fn append(store: &dyn Store, seed: u64) -> u64 {
    let appended = store
        .append(Box::new(move |head| sample::batch(head, ROWS, seed)))
        .await;
    appended.expect("a batch is appended").size
}

/// The numbers behind `word` in what a child said.
fn said(child: &mut Child, word: &str, at_most: usize) -> Vec<u64> {
    let lines = BufReader::new(child.stdout.as_mut().expect("it is piped")).lines();
    lines
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix(word)?.trim().parse().ok())
        .take(at_most)
        .collect()
}

/// The size of a log of which every entry is there once, in a tree that hashes to the head.
///
/// # Panics
///
/// If that isn't so.
pub async fn whole(store: &dyn ReadStore) -> u64 {
    let head = store.head().await.expect("the head is read");
    let mut edge = EdgeTiles::new();
    let mut events = BTreeMap::new();
    while edge.size() < head.size {
        let rows = store.rows(edge.size()..head.size, Parts::Without).await;
        for row in rows.expect("entries are read") {
            assert_eq!(row.index, edge.size(), "a gap or a fork");
            let before = events.insert(row.columns.event, row.index);
            assert_eq!(before, None, "an event twice");
            edge.push(leaf_hash(&row.entry));
        }
    }
    assert_eq!(
        edge.root(),
        head.edge.root(),
        "the tiles are of another tree"
    );
    head.size
}

/// Four processes write to the empty log of `store` at once, and nothing is lost.
///
/// # Panics
///
/// If something is.
#[expect(clippy::print_stdout, reason = "a figure of the test")]
pub async fn four_write_one_log(store: &dyn Store, command: impl Fn() -> Command) {
    const PROCESSES: u64 = 4;
    const EACH: u64 = 60;
    let start = System.monotonic_micros();
    let mut children: Vec<Child> = (1..=PROCESSES)
        .map(|seed| {
            let batches = EACH;
            Share { seed, batches }.start(command())
        })
        .collect();
    let mut longest = Vec::new();
    for child in &mut children {
        longest.extend(said(child, "longest", 1));
        let ended = child.wait().expect("it is waited for once");
        assert!(ended.success(), "a writer failed");
    }
    let took = System.monotonic_micros() - start;
    println!(
        "{} batches by {PROCESSES} processes in {} ms; longest append of each in ms: {:?}",
        PROCESSES * EACH,
        took / 1000,
        longest.iter().map(|us| us / 1000).collect::<Vec<_>>()
    );
    assert_eq!(longest.len(), 4, "a writer said nothing");
    let entries = PROCESSES * EACH * ROWS as u64;
    assert_eq!(whole(store).await, entries, "entries were lost");
}

/// Processes that write to the empty log of `store` are killed: what they were told is there, no batch in part, and the
/// log goes on.
///
/// # Panics
///
/// If that isn't so.
pub async fn what_a_killed_one_was_told_is_durable(
    store: &dyn Store,
    command: impl Fn() -> Command,
) {
    for round in 1..=5_u8 {
        let share = Share {
            seed: round.into(),
            batches: u64::MAX,
        };
        let mut writer = share.start(command());
        let told = said(&mut writer, "size", 3 * usize::from(round));
        writer.kill().expect("it runs");
        writer.wait().expect("it is waited for once");
        let size = whole(store).await;
        let last = told.last().copied().expect("it said something");
        assert!(
            size >= last,
            "{last} entries were acknowledged, {size} are there"
        );
        assert_eq!(size % ROWS as u64, 0, "a part of a batch is there");
        // The locks of the dead are free.
        append(store, 100 + u64::from(round)).await;
    }
}
