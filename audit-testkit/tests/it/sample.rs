//! Samples repeat, and differ where they must.

use audit_core::Entry;
use audit_testkit::sample;

#[test]
fn a_sample_is_the_same_for_the_same_seed_only() {
    let one = sample::rows(50, 1).unwrap();
    assert!(one == sample::rows(50, 1).unwrap(), "a seed doesn't repeat");
    let other = sample::rows(50, 2).unwrap();
    for (a, b) in one.rows.iter().zip(&other.rows) {
        assert_ne!(a.columns.event, b.columns.event, "seeds share event ids");
    }
    assert_eq!(one.tiles.len(), 1);
    assert_eq!(sample::rows(600, 1).unwrap().tiles.len(), 4);
}

#[test]
fn every_entry_is_canonical_and_names_its_parts() {
    for row in sample::rows(50, 3).unwrap().rows {
        let entry = Entry::decode(&row.entry).unwrap();
        assert_eq!(entry.event, row.columns.event);
        assert_eq!(
            entry.stored_bytes(),
            row.parts.map_or(0, |p| p.len() as u64)
        );
    }
}
