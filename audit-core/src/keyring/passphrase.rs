//! Passphrases, and where they come from.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::file::{self, Permissions};
use crate::error::{Error, Result};

/// Bytes of the longest passphrase; a longer file is more likely the wrong file.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;
/// Bytes of the shortest passphrase that seals something new: a stolen file can be guessed at offline for ever.
pub const PASSPHRASE_BYTES_MIN: usize = 12;

/// The variable that names a file with the passphrase.
pub const PASSPHRASE_FILE_VARIABLE: &str = "AUDIT_TRAIL_PASSPHRASE_FILE";
/// The systemd credential that holds the passphrase.
pub const PASSPHRASE_CREDENTIAL: &str = "audit-trail-passphrase";
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// A passphrase: its bytes as they are, wiped on drop, never printed.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// From the bytes, which are wiped also when they are refused.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Key`](crate::ErrorKind::Key) for none, or more than [`PASSPHRASE_BYTES_MAX`].
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        let bytes = Zeroizing::new(bytes);
        match bytes.len() {
            0 => Err(Error::key("the passphrase is empty")),
            1..=PASSPHRASE_BYTES_MAX => Ok(Self(bytes)),
            more => Err(Error::key(format!(
                "the passphrase has {more} bytes, allowed are {PASSPHRASE_BYTES_MAX}"
            ))),
        }
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Checks that it may seal something new.
    pub(super) fn check_new(&self) -> Result<()> {
        if self.0.len() < PASSPHRASE_BYTES_MIN {
            return Err(Error::invalid(format!(
                "the passphrase has {} bytes, a new file is sealed with at least {PASSPHRASE_BYTES_MIN}",
                self.0.len()
            )));
        }
        Ok(())
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// What opens a key ring, from outside of the key ring.
pub trait PassphraseSource {
    /// The passphrase of `what`, which is asked for only when `what` is sealed.
    ///
    /// # Errors
    ///
    /// `Key`: there is none; the message says what to set.
    fn passphrase(&self, what: &str) -> Result<Passphrase>;

    /// An environment variable, for `env:` key URIs. A source without an environment opens none of them.
    fn variable(&self, _name: &str) -> Option<OsString> {
        None
    }
}

type Variables<'a> = Box<dyn Fn(&str) -> Option<OsString> + 'a>;
type Prompt<'a> = Box<dyn Fn(&str) -> Result<Passphrase> + 'a>;

/// The usual order: the file that `AUDIT_TRAIL_PASSPHRASE_FILE` names, the systemd credential
/// `audit-trail-passphrase`, a prompt where the caller has one.
///
/// The first that is there decides: a file that can't be used is an error, the next is not tried. One line end at the
/// end of a file is not part of the passphrase.
pub struct EnvironmentPassphrase<'a> {
    variables: Variables<'a>,
    prompt: Option<Prompt<'a>>,
}

impl<'a> EnvironmentPassphrase<'a> {
    /// Over an environment: `|name| std::env::var_os(name)` in a program.
    #[must_use]
    pub fn new(variables: impl Fn(&str) -> Option<OsString> + 'a) -> Self {
        Self {
            variables: Box::new(variables),
            prompt: None,
        }
    }

    /// The same, asking last through `prompt`, which is given what the passphrase is for.
    #[must_use]
    pub fn with_prompt(mut self, prompt: impl Fn(&str) -> Result<Passphrase> + 'a) -> Self {
        self.prompt = Some(Box::new(prompt));
        self
    }
}

impl PassphraseSource for EnvironmentPassphrase<'_> {
    fn passphrase(&self, what: &str) -> Result<Passphrase> {
        if let Some(path) = (self.variables)(PASSPHRASE_FILE_VARIABLE) {
            if path.is_empty() {
                return Err(Error::key(format!(
                    "{PASSPHRASE_FILE_VARIABLE} is set and empty"
                )));
            }
            return from_file(Path::new(&path), Permissions::OwnerOnly);
        }
        if let Some(directory) = (self.variables)(CREDENTIALS_VARIABLE) {
            let path = PathBuf::from(directory).join(PASSPHRASE_CREDENTIAL);
            // For a service with a user of its own, systemd gives access by an access control list, whose mask shows as
            // the bits of the group: the mode says nothing here. The directory is the service's alone.
            if path.exists() {
                return from_file(&path, Permissions::Any);
            }
        }
        match &self.prompt {
            Some(prompt) => prompt(what),
            None => Err(Error::key(format!(
                "no passphrase for {what}: set {PASSPHRASE_FILE_VARIABLE} to a file that holds it, or pass the systemd \
                 credential {PASSPHRASE_CREDENTIAL}"
            ))),
        }
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        (self.variables)(name)
    }
}

impl fmt::Debug for EnvironmentPassphrase<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvironmentPassphrase")
            .field("prompt", &self.prompt.is_some())
            .finish_non_exhaustive()
    }
}

fn from_file(path: &Path, permissions: Permissions) -> Result<Passphrase> {
    let what = format!("passphrase file {}", path.display());
    // Two more for the line end.
    let mut bytes = file::read(path, &what, PASSPHRASE_BYTES_MAX + 2, permissions)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Passphrase::new(std::mem::take(&mut *bytes))
        .map_err(|e| Error::key(format!("{what} can't be used")).because(e))
}
