//! What an error of SQLite or of the file system means to the log.

use std::fmt::Display;
use std::io;
use std::path::Path;

use audit_core::{Error, ErrorKind};
use rusqlite::ffi::{self, ErrorCode};

/// The extended result codes of a value that is already there.
pub(crate) const ALREADY_THERE: [i32; 3] = [
    ffi::SQLITE_CONSTRAINT_UNIQUE,
    ffi::SQLITE_CONSTRAINT_PRIMARYKEY,
    ffi::SQLITE_CONSTRAINT_ROWID,
];

/// An error of SQLite outside of `COMMIT`, while `doing` something: nothing was written.
pub(crate) fn sqlite(doing: &str, path: &Path, error: rusqlite::Error) -> Error {
    let path = path.display();
    let (kind, what) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => (ErrorKind::Corrupt, "the file is damaged"),
        Some(ErrorCode::NotADatabase) => (ErrorKind::Invalid, "this is not a SQLite file"),
        Some(ErrorCode::DiskFull) => (ErrorKind::Unavailable, "no space is left"),
        Some(ErrorCode::ReadOnly) => (ErrorKind::Unavailable, "the file can't be written"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            ErrorKind::Unavailable,
            "another program keeps the file locked",
        ),
        Some(ErrorCode::CannotOpen) => (ErrorKind::Unavailable, "the file can't be opened"),
        Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
            (ErrorKind::Unavailable, "permission denied")
        }
        Some(ErrorCode::SystemIoFailure) => {
            (ErrorKind::Unavailable, "reading or writing the file failed")
        }
        Some(ErrorCode::TooBig) => (ErrorKind::Invalid, "a value is larger than SQLite holds"),
        Some(ErrorCode::ConstraintViolation) => (
            ErrorKind::Invalid,
            "a value is not what the schema asks for",
        ),
        Some(_) => (ErrorKind::Unavailable, "SQLite refused"),
        // No result code: a value was not of the type or range that it was read as.
        None => (ErrorKind::Corrupt, "a stored value has the wrong type"),
    };
    Error::new(kind, format!("{doing} {path}: {what}")).because(error)
}

/// An error of the file system, before anything was written.
pub(crate) fn file(doing: &str, path: &Path, error: io::Error) -> Error {
    let path = path.display();
    let (kind, what): (_, &dyn Display) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, &"there is no such file or directory"),
        io::ErrorKind::AlreadyExists => (ErrorKind::Invalid, &"it is already there"),
        io::ErrorKind::IsADirectory => (ErrorKind::Invalid, &"this is a directory"),
        io::ErrorKind::NotADirectory => (ErrorKind::Invalid, &"a part of it is not a directory"),
        io::ErrorKind::PermissionDenied => (ErrorKind::Unavailable, &"permission denied"),
        io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Unavailable, &"the file system is read-only")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (ErrorKind::Unavailable, &"no space is left")
        }
        _ => (ErrorKind::Unavailable, &error),
    };
    Error::new(kind, format!("{doing} {path}: {what}")).because(error)
}
