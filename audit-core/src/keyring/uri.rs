//! Where a key ring is kept.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Where a key ring is kept, as a URI. It is no secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyUri {
    /// `file:PATH`
    File(PathBuf),
    /// `keyring:SERVICE`, in the operating system's secret service. Using it may block until the user has unlocked it.
    Keyring(String),
    /// `env:NAME`, for tests only: the environment of a process can be read by others and is inherited.
    Env(String),
}

const SCHEMES: &str = "accepted are file:PATH, keyring:SERVICE and env:NAME (for tests only)";
const SERVICE_BYTES_MAX: usize = 255;

impl FromStr for KeyUri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // What stands behind an unknown scheme may be a secret in the wrong place: it is never repeated.
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(Error::invalid(format!("key URI has no scheme; {SCHEMES}")));
        };
        let wrong = |why: &str| Err(Error::invalid(format!("key URI {scheme}: {why}")));
        match scheme {
            "file" if rest.is_empty() => wrong("names no path"),
            // `file://host/path` names a host, and would silently be read as a path.
            "file" if rest.starts_with("//") => wrong("takes a path without // before it"),
            "file" if rest.contains('\0') => wrong("holds a zero byte"),
            "file" => Ok(Self::File(PathBuf::from(rest))),
            "keyring"
                if !(1..=SERVICE_BYTES_MAX).contains(&rest.len())
                    || rest.chars().any(char::is_control) =>
            {
                wrong("takes a service of 1 to 255 bytes without control characters")
            }
            "keyring" => Ok(Self::Keyring(rest.to_owned())),
            "env" if !is_variable(rest) => wrong("takes the name of an environment variable"),
            "env" => Ok(Self::Env(rest.to_owned())),
            _ if scheme.len() <= 16 && scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => Err(
                Error::invalid(format!("key URI scheme {scheme:?} isn't known; {SCHEMES}")),
            ),
            _ => Err(Error::invalid(format!(
                "key URI has no known scheme; {SCHEMES}"
            ))),
        }
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Keyring(service) => write!(f, "keyring:{service}"),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

impl KeyUri {
    /// How messages call the ring there.
    pub(super) fn what(&self) -> String {
        match self {
            Self::File(path) => format!("key ring {}", path.display()),
            other => format!("key ring {other}"),
        }
    }
}
