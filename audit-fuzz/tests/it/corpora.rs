//! The files of `corpus/`, and that nothing is missing.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use audit_fuzz::TARGETS;

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn names(folder: &Path, suffix: &str) -> BTreeSet<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(suffix).map(str::to_owned))
        .collect()
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "a name stands twice");
    assert_eq!(targets, names(&here().join("fuzz/fuzz_targets"), ".rs"));
    assert_eq!(targets, names(&here().join("corpus"), ""));
    let manifest = fs::read_to_string(here().join("fuzz/Cargo.toml")).unwrap();
    for name in &targets {
        assert!(
            manifest.contains(&format!("\nname = \"{name}\"\n")),
            "{name}"
        );
        let program =
            fs::read_to_string(here().join(format!("fuzz/fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            program.contains(&format!("audit_fuzz::{name}(data)")),
            "{name}"
        );
    }
}

#[test]
fn a_file_of_a_corpus_breaks_a_property() {
    let mut broken = Vec::new();
    for target in TARGETS {
        let folder = here().join("corpus").join(target.name);
        let mut files: Vec<PathBuf> = fs::read_dir(&folder)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        assert!(
            files.len() >= 5,
            "{} has {} files",
            target.name,
            files.len()
        );
        println!("{}: {} files", target.name, files.len());
        for file in files {
            let data = fs::read(&file).unwrap();
            if catch_unwind(AssertUnwindSafe(|| (target.run)(&data))).is_err() {
                broken.push(file);
            }
        }
    }
    assert!(broken.is_empty(), "these broke their target: {broken:?}");
}
