//! Sealing and opening one event, against encrypting and hashing its payload; packing its entry, against hashing it.

use std::hint::black_box;

use audit_core::packed;
use benches::Result;
use benches::raw::Cipher;
use benches::workload::{Keys, Sealing};
use criterion::{BatchSize, Criterion, Throughput};
use sha2::{Digest as _, Sha256};

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let keys = Keys::new()?;
    for (name, bytes) in [("1 KB", 1024), ("64 KB", 64 * 1024)] {
        let sealing = Sealing::new(&keys, bytes)?;
        let cipher = Cipher::default();
        let plain = sealing.payload().to_vec();
        let mut sealed = plain.clone();
        let (tag, _) = cipher.seal(&mut sealed)?;

        let mut group = criterion.benchmark_group(format!("seal/{name}"));
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function("raw AES-256-GCM and SHA-256", |b| {
            let fresh = || plain.clone();
            b.iter_batched_ref(fresh, |bytes| cipher.seal(bytes), BatchSize::SmallInput);
        });
        group.bench_function("seal", |b| b.iter(|| sealing.seal()));
        group.bench_function("raw SHA-256 and AES-256-GCM", |b| {
            let fresh = || sealed.clone();
            b.iter_batched_ref(
                fresh,
                |bytes| cipher.open(bytes, &tag),
                BatchSize::SmallInput,
            );
        });
        group.bench_function("open", |b| {
            b.iter(|| sealing.open().expect("what was sealed opens"));
        });
        group.finish();
    }

    let entry = Sealing::new(&keys, 1024)?.entry()?;
    let packed = packed::pack(&entry);
    let mut group = criterion.benchmark_group("entry");
    group.throughput(Throughput::Bytes(entry.len() as u64));
    group.bench_function("raw SHA-256", |b| {
        b.iter(|| Sha256::digest(black_box(&entry)));
    });
    group.bench_function("pack", |b| b.iter(|| packed::pack(black_box(&entry))));
    // With the packing anew that shows that there is no other packed form.
    group.bench_function("unpack", |b| {
        b.iter(|| packed::unpack(black_box(&packed)).expect("what was packed unpacks"));
    });
    group.finish();
    criterion.final_summary();
    Ok(())
}
