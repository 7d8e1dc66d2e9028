//! What went wrong, and what to do about it.

use std::fmt;

pub(crate) use audit_core::with_causes as chain;

/// An error for the person at the terminal.
#[derive(Debug)]
pub(crate) struct CliError {
    message: String,
    hint: Option<String>,
    code: u8,
}

pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    /// Something failed (exit code 1).
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            code: 1,
        }
    }

    /// The call or the configuration is wrong (exit code 2).
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            code: 2,
            ..Self::new(message)
        }
    }

    /// The same, with what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with another exit code.
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        self.code
    }

    /// An error with all its causes, behind what was being done.
    pub(crate) fn because(doing: impl fmt::Display, error: &dyn std::error::Error) -> Self {
        Self::new(format!("{doing}: {}", chain(error)))
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl From<audit_core::Error> for CliError {
    fn from(e: audit_core::Error) -> Self {
        use audit_core::ErrorKind;
        let hint = match e.kind() {
            ErrorKind::RolledBack => Some(
                "the store is older than, or different from, what this host signed: restore the newest copy, \
                 and keep this one as evidence",
            ),
            ErrorKind::Corrupt => Some("run `audit-trail verify` to see everything that is wrong"),
            _ => None,
        };
        let mut error = Self::new(chain(&e));
        if e.kind() == ErrorKind::Invalid {
            // What was asked for can't be done with anything: the call has to change.
            error.code = 2;
        }
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl From<std::io::Error> for CliError {
    fn from(e: std::io::Error) -> Self {
        Self::new(chain(&e))
    }
}
