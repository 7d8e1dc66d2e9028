//! Where the figures come from: the machine, its clock, the memory of this process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use audit_core::time::{Clock as _, System};
use tempfile::TempDir;

use crate::Result;

/// How long `work` takes, and what it answers.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let before = System.monotonic_micros();
    let done = work();
    let after = System.monotonic_micros();
    (Duration::from_micros(after.saturating_sub(before)), done)
}

/// The middle one, or zero of none. On a machine that others use too it says more than the mean.
#[must_use]
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Processors that this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The processor's name.
#[must_use]
pub fn cpu() -> String {
    fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| field(&text, "model name").map(str::to_owned))
        .unwrap_or_else(|| "unknown processor".to_owned())
}

/// The most memory that this process ever held, in KiB.
#[must_use]
pub fn peak_rss_kib() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    field(&text, "VmHWM")?.split(' ').next()?.parse().ok()
}

/// Processor time that this process took so far, in steps of 10 ms.
#[must_use]
pub fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name before them may have spaces in it (proc(5)); both are in ticks, 100 a second.
    let (_, rest) = text.rsplit_once(") ").unwrap_or_default();
    let words = rest.split(' ').skip(11).take(2);
    let ticks: u64 = words.filter_map(|word| word.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// The file system that `path` lies on.
#[must_use]
pub fn file_system(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?, words.next()?))
        })
        .filter(|(point, _)| path.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

/// A directory beside the executable: the system's own one for temporary files may lie in memory, where a sync is free.
pub fn scratch() -> Result<TempDir> {
    let executable = std::env::current_exe()?;
    let beside = executable
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    Ok(tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(beside)?)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim())
    })
}
