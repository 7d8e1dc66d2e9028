//! Files that hold secrets.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Who may have access to a file that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permissions {
    /// Only its owner: what is in it is secret.
    OwnerOnly,
    /// Anybody: it holds nothing secret, or something else than the mode protects it.
    Any,
}

/// Reads a regular file of at most `bytes_max`. Symbolic links are followed: secret mounts of containers are made of
/// them, and what counts is who may read the file at their end.
pub(super) fn read(
    path: &Path,
    what: &str,
    bytes_max: usize,
    permissions: Permissions,
) -> Result<Zeroizing<Vec<u8>>> {
    let unreadable = |e: std::io::Error| match e.kind() {
        IoErrorKind::NotFound => Error::key(format!("{what} isn't there")),
        _ => Error::key(format!("{what} can't be read")).because(e),
    };
    // Opening a pipe would wait for its other end, so the kind of file is looked at before, and again on what was opened.
    check_regular(&fs::metadata(path).map_err(unreadable)?, what)?;
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    check_regular(&metadata, what)?;
    if permissions == Permissions::OwnerOnly {
        check_mode(&metadata, what)?;
    }
    if metadata.len() > bytes_max as u64 {
        return Err(too_large(what, metadata.len(), bytes_max));
    }
    // Room for all that may come, so that the buffer is never moved and the old one left behind in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max + 64));
    file.take(bytes_max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > bytes_max {
        return Err(too_large(what, bytes.len() as u64, bytes_max));
    }
    Ok(bytes)
}

/// Checks that only its owner has access to a file, for one that is found to hold a secret.
pub(super) fn check_owner_only(path: &Path, what: &str) -> Result<()> {
    let metadata =
        fs::metadata(path).map_err(|e| Error::key(format!("{what} can't be read")).because(e))?;
    check_mode(&metadata, what)
}

fn too_large(what: &str, bytes: u64, bytes_max: usize) -> Error {
    Error::key(format!(
        "{what} has {bytes} bytes or more, allowed are {bytes_max}"
    ))
}

fn check_regular(metadata: &fs::Metadata, what: &str) -> Result<()> {
    if metadata.is_file() {
        Ok(())
    } else {
        Err(Error::key(format!("{what} is not a regular file")))
    }
}

#[cfg(unix)]
fn check_mode(metadata: &fs::Metadata, what: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    const OTHERS: u32 = 0o077;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS == 0 {
        Ok(())
    } else {
        Err(Error::key(format!(
            "{what} has mode {mode:04o}, and only its owner may have access to it, as with 0600"
        )))
    }
}

/// Elsewhere than on Unix access is a matter of the folder.
#[cfg(not(unix))]
fn check_mode(_: &fs::Metadata, _: &str) -> Result<()> {
    Ok(())
}

/// Writes a new file and makes it durable; a file that exists is left alone. After a crash or a power cut the file is
/// there whole or not at all.
pub(super) fn create(path: &Path, what: &str, bytes: &[u8], secret: Permissions) -> Result<()> {
    let failed = |e: std::io::Error| match e.kind() {
        IoErrorKind::AlreadyExists => {
            Error::invalid(format!("{what} exists already, and is never overwritten"))
        }
        _ => Error::unavailable(format!("{what} can't be written")).because(e),
    };
    let (fresh, file) = open_fresh(path, secret).map_err(failed)?;
    // Dying from here on leaves the fresh file behind, under a name that nobody reads.
    let named = write(file, bytes).and_then(|()| fs::hard_link(&fresh, path));
    // Dying here: both names lead to the same file.
    let removed = fs::remove_file(&fresh);
    match named {
        Ok(()) => {}
        // Some file systems know no links (FAT, some network file systems). There a crash may leave a torn file, which no
        // reader accepts.
        Err(e)
            if matches!(
                e.kind(),
                IoErrorKind::Unsupported | IoErrorKind::PermissionDenied
            ) =>
        {
            let file = open_new(path, secret).map_err(failed)?;
            write(file, bytes).map_err(|e| undo(path, what, e))?;
        }
        Err(e) => return Err(failed(e)),
    }
    removed
        .and_then(|()| sync_parent(path))
        .map_err(|e| undo(path, what, e))
}

fn write(mut file: File, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all(bytes).and_then(|()| file.sync_all())
}

/// Takes back what was made, and says what went wrong. The file is ours: nothing of anybody else's is removed.
fn undo(path: &Path, what: &str, e: std::io::Error) -> Error {
    let left = fs::remove_file(path)
        .err()
        .map_or("", |_| " and may stay torn");
    Error::unavailable(format!("{what} can't be written{left}")).because(e)
}

/// A new file that only its owner may write to.
fn open_new(path: &Path, secret: Permissions) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(match secret {
            Permissions::OwnerOnly => 0o600,
            Permissions::Any => 0o644,
        });
    }
    #[cfg(not(unix))]
    let _: Permissions = secret;
    options.open(path)
}

/// A new file beside `path`, with a name of its own.
fn open_fresh(path: &Path, secret: Permissions) -> std::io::Result<(PathBuf, File)> {
    // Enough for all that died here under the same process id, as happens in containers.
    const NAMES: u32 = 100;
    let name = path.file_name().ok_or(IoErrorKind::InvalidInput)?;
    let mut tried = 0;
    loop {
        let mut fresh = OsString::from(".");
        fresh.push(name);
        fresh.push(format!(".{}-{tried}.new", std::process::id()));
        let fresh = path.with_file_name(fresh);
        match open_new(&fresh, secret) {
            Ok(file) => return Ok((fresh, file)),
            Err(e) if e.kind() == IoErrorKind::AlreadyExists && tried < NAMES => tried += 1,
            // Not the file that was asked for: that one may well not exist.
            Err(e) if e.kind() == IoErrorKind::AlreadyExists => {
                return Err(std::io::Error::other(format!(
                    "{} exists, as {NAMES} others do that were left behind",
                    fresh.display()
                )));
            }
            Err(e) => return Err(e),
        }
    }
}

/// Makes the file's name durable.
#[cfg(unix)]
fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Elsewhere than on Unix a folder can't be opened, and needn't be.
#[cfg(not(unix))]
fn sync_parent(_: &Path) -> std::io::Result<()> {
    Ok(())
}
