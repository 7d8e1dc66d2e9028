//! Growing a tree to a million leaves, and proofs in it.

use std::hint::black_box;

use benches::raw;
use benches::tree::{Tree, edge_tiles, frontier};
use criterion::{Criterion, Throughput};

const SIZE: u64 = 1_000_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    grow(&mut criterion);
    prove(&mut criterion);
    criterion.final_summary();
}

fn grow(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tlog/grow");
    group.sample_size(10).throughput(Throughput::Elements(SIZE));
    let nodes = SIZE - 1;
    group.bench_function("raw hashes", |b| b.iter(|| raw::hashes(SIZE, nodes)));
    group.bench_function("frontier", |b| b.iter(|| frontier(SIZE)));
    group.bench_function("edge tiles", |b| b.iter(|| edge_tiles(SIZE, 256)));
    group.finish();
}

fn prove(criterion: &mut Criterion) {
    let tree = Tree::new(SIZE);
    let mut indexes = tree.some(u64::MAX);
    let mut next = || indexes.next().expect("the indexes don't end");
    let index = next();
    let proof = tree.prove(index).expect("the tree has all of its tiles");
    let nodes = tree
        .nodes_of_proof(index)
        .expect("the index lies in the tree");

    let mut group = criterion.benchmark_group("tlog/inclusion");
    group.bench_function("raw hashes of the tiles read", |b| {
        b.iter(|| raw::hashes(0, nodes));
    });
    group.bench_function("prove", |b| b.iter(|| tree.prove(next())));
    let length = proof.len() as u64;
    group.bench_function("raw hashes of a proof", |b| {
        b.iter(|| raw::hashes(1, length));
    });
    group.bench_function("verify", |b| {
        b.iter(|| {
            tree.verify(black_box(index), &proof)
                .expect("an honest proof verifies");
        });
    });
    group.finish();
}
