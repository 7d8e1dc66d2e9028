//! Several processes on one log: this test binary runs itself.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use audit_core::store::{Parts, ReadStore as _, Store as _};
use audit_core::time::{Clock as _, System};
use audit_store_postgres::{OpenOptions, PostgresStore};
use audit_testkit::sample;
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::EdgeTiles;

use crate::crash::{again, given};
use crate::support::{Place, place_or_skip};

const SEED: &str = "AUDIT_TEST_SEED";
const BATCHES: &str = "AUDIT_TEST_BATCHES";

fn child(place: &Place, seed: u64, batches: u64) -> Child {
    again("processes::a_writer_of_its_own", place)
        .env(SEED, seed.to_string())
        .env(BATCHES, batches.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Not a test: what the other processes run. It tells each acknowledged batch, and its longest append.
#[tokio::test]
async fn a_writer_of_its_own() {
    let Some(url) = given() else { return };
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let (Some(seed), Some(batches)) = (number(SEED), number(BATCHES)) else {
        return;
    };
    let store = PostgresStore::open(&url, OpenOptions::read_write())
        .await
        .unwrap();
    println!();
    let mut longest = 0;
    for _ in 0..batches {
        let start = System.monotonic_micros();
        let head = store
            .append(Box::new(move |head| sample::batch(head, 3, seed)))
            .await
            .unwrap();
        longest = longest.max(System.monotonic_micros() - start);
        println!("size {}", head.size);
    }
    println!("longest {longest}");
}

/// The numbers behind `word` in what a child said.
fn said(child: &mut Child, word: &str, at_most: usize) -> Vec<u64> {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    lines
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix(word)?.trim().parse().ok())
        .take(at_most)
        .collect()
}

/// Every entry is there once, in a tree that hashes to the head.
pub(crate) async fn whole(store: &PostgresStore) -> u64 {
    let head = store.head().await.unwrap();
    let mut edge = EdgeTiles::new();
    let mut events = BTreeMap::new();
    while edge.size() < head.size {
        for row in store
            .rows(edge.size()..head.size, Parts::Without)
            .await
            .unwrap()
        {
            assert_eq!(row.index, edge.size(), "a gap or a fork");
            assert_eq!(
                events.insert(row.columns.event, row.index),
                None,
                "an event twice"
            );
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

#[tokio::test]
async fn four_processes_write_one_log() {
    const PROCESSES: u64 = 4;
    const EACH: u64 = 60;
    let place = place_or_skip!();
    let store = place.created().await;
    let start = System.monotonic_micros();
    let mut children: Vec<Child> = (1..=PROCESSES)
        .map(|seed| child(&place, seed, EACH))
        .collect();
    let mut longest = Vec::new();
    for child in &mut children {
        longest.extend(said(child, "longest", 1));
        assert!(child.wait().unwrap().success(), "a writer failed");
    }
    let took = System.monotonic_micros() - start;
    println!(
        "{} batches by {PROCESSES} processes in {} ms; longest append of each in ms: {:?}",
        PROCESSES * EACH,
        took / 1000,
        longest.iter().map(|us| us / 1000).collect::<Vec<_>>()
    );
    assert_eq!(longest.len(), 4, "a writer said nothing");
    assert_eq!(
        whole(&store).await,
        PROCESSES * EACH * 3,
        "entries were lost"
    );
}

#[tokio::test]
async fn what_a_killed_process_was_told_is_durable() {
    let place = place_or_skip!();
    let store = place.created().await;
    for round in 1..=5_usize {
        let mut writer = child(&place, round as u64, u64::MAX);
        let told = said(&mut writer, "size", 3 * round);
        writer.kill().unwrap();
        writer.wait().unwrap();
        let size = whole(&store).await;
        let last = told.last().copied().unwrap();
        assert!(
            size >= last,
            "{last} entries were acknowledged, {size} are there"
        );
        assert_eq!(size % 3, 0, "a part of a batch is there");
        // The locks of the dead are free.
        let seed = 100 + round as u64;
        store
            .append(Box::new(move |head| sample::batch(head, 3, seed)))
            .await
            .unwrap();
    }
}
