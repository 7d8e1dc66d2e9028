//! A full disk refuses what needs space, and nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;

use audit_testkit::full_disk::FullDisk;

/// What a shell says of a script in `root`.
fn run(disk: &FullDisk, root: &Path, script: &str) -> Result<(), String> {
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .current_dir(root)
        .env("LC_ALL", "C");
    disk.of(&mut command);
    let output = command.output().unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn a_full_disk_keeps_what_it_has_and_takes_no_more() {
    let (scratch, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = FullDisk::new(scratch.path(), root.path()).unwrap();
    let file = root.path().join("file");
    run(&disk, root.path(), "printf 12345678 > file").unwrap();
    disk.fill().unwrap();
    for grows in [
        "dd if=/dev/zero of=file bs=1 count=1 oflag=append conv=notrunc",
        "dd if=/dev/zero of=other bs=1 count=1",
        "dd if=/dev/zero of=file bs=8 count=1 seek=1 conv=notrunc",
    ] {
        let error = run(&disk, root.path(), grows).unwrap_err();
        assert!(
            error.contains("No space left on device"),
            "{grows}: {error}"
        );
    }
    assert_eq!(fs::read(&file).unwrap(), b"12345678");
    run(
        &disk,
        root.path(),
        "printf 43 | dd of=file bs=2 seek=1 conv=notrunc",
    )
    .unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"12435678");
    // Elsewhere there is space.
    let elsewhere = format!("printf 1 > {}/other", scratch.path().display());
    run(&disk, root.path(), &elsewhere).unwrap();
    disk.free().unwrap();
    run(&disk, root.path(), "printf 9 >> file").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"124356789");
}
