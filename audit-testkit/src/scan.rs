//! Looking for bytes in raw files, whatever their format.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use memchr::memmem;

/// Where a needle was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_structs, reason = "made here, read by tests")]
pub struct Hit {
    /// The file.
    pub path: PathBuf,
    /// Bytes before the needle.
    pub offset: u64,
    /// What was looked for.
    pub needle: Vec<u8>,
}

const CHUNK_BYTES: usize = 1 << 20;

/// Every place in `paths` where one of `needles` stands. An empty needle is found nowhere.
///
/// # Errors
///
/// If a file can't be read.
pub fn find_in_files(
    paths: &[impl AsRef<Path>],
    needles: &[impl AsRef<[u8]>],
) -> io::Result<Vec<Hit>> {
    let needles: Vec<&[u8]> = needles
        .iter()
        .map(AsRef::as_ref)
        .filter(|needle| !needle.is_empty())
        .collect();
    // A needle may lie across two chunks: the end of one is kept in front of the next.
    let keep = needles.iter().map(|needle| needle.len()).max().unwrap_or(1) - 1;
    let mut hits = Vec::new();
    for path in paths {
        let path = path.as_ref();
        let mut file = File::open(path)?;
        let mut window: Vec<u8> = Vec::new();
        let mut offset = 0_u64;
        loop {
            let kept = window.len();
            let read = Read::take(&mut file, CHUNK_BYTES as u64).read_to_end(&mut window)?;
            if read == 0 {
                break;
            }
            for needle in &needles {
                // Hits that end within the kept bytes were found with the chunk before.
                let from = (kept + 1).saturating_sub(needle.len());
                for at in memmem::find_iter(&window[from..], needle) {
                    hits.push(Hit {
                        path: path.to_owned(),
                        offset: offset + (from + at) as u64,
                        needle: needle.to_vec(),
                    });
                }
            }
            let done = window.len().saturating_sub(keep);
            offset += done as u64;
            window.drain(..done);
        }
    }
    hits.sort_unstable();
    Ok(hits)
}

/// Every file below a directory, sorted.
///
/// # Errors
///
/// If a directory can't be read.
pub fn files_under(dir: impl AsRef<Path>) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.as_ref().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}
