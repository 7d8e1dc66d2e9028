//! A disk that is full, for a process that really runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use crate::preload;

/// A disk below one directory that is full on demand.
///
/// As long as it is, whatever makes a file there longer fails with `ENOSPC` in the processes that were started with
/// [`FullDisk::of`]; overwriting goes on. That is a full disk as programs see it, without a file system of its own,
/// which only root could mount.
#[derive(Debug)]
pub struct FullDisk {
    library: PathBuf,
    root: PathBuf,
    flag: PathBuf,
}

impl FullDisk {
    /// Compiles the library into `scratch`, for what lies below `root`. Both must exist, and `scratch` must not lie below
    /// `root`.
    ///
    /// # Errors
    ///
    /// If there is no C compiler.
    pub fn new(scratch: &Path, root: &Path) -> io::Result<Self> {
        Ok(Self {
            library: preload::compile(scratch, "full_disk", include_str!("full_disk.c"))?,
            root: fs::canonicalize(root)?,
            flag: scratch.join("full"),
        })
    }

    /// Lets `command` live on this disk.
    pub fn of(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("AUDIT_FULL_ROOT", &self.root)
            .env("AUDIT_FULL_FLAG", &self.flag);
    }

    /// From now on it is full.
    ///
    /// # Errors
    ///
    /// If that can't be said to the processes.
    pub fn fill(&self) -> io::Result<()> {
        fs::write(&self.flag, b"")
    }

    /// It has space again.
    ///
    /// # Errors
    ///
    /// As [`FullDisk::fill`].
    pub fn free(&self) -> io::Result<()> {
        fs::remove_file(&self.flag)
    }
}
