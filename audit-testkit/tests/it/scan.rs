//! A needle is found wherever it lies, once.

use std::fs;

use audit_testkit::scan::{files_under, find_in_files};

#[test]
fn a_needle_across_two_chunks_is_found_once() {
    let dir = tempfile::tempdir().unwrap();
    let (name, chunk) = (dir.path().join("below/file"), 1 << 20);
    fs::create_dir(dir.path().join("below")).unwrap();
    let needle = b"a secret name";
    for at in [
        0,
        5,
        chunk - 13,
        chunk - 12,
        chunk - 1,
        chunk,
        2 * chunk - 6,
        3 * chunk - 13,
    ] {
        let mut bytes = vec![b'a'; 3 * chunk];
        bytes[at..at + needle.len()].copy_from_slice(needle);
        fs::write(&name, &bytes).unwrap();
        let files = files_under(dir.path()).unwrap();
        let hits = find_in_files(&files, &[&needle[..], b"", b"another"]).unwrap();
        let offsets: Vec<u64> = hits.iter().map(|hit| hit.offset).collect();
        assert_eq!(offsets, [at as u64], "at {at}");
        assert_eq!(hits[0].path, name);
        assert_eq!(hits[0].needle, needle);
    }
}
