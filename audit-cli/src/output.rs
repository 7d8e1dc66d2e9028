//! Data on stdout, everything else on stderr.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use crate::error::{CliError, Result};

const CLOSED_PIPE: &str = "nobody reads the output any more";

/// Writes a line of data.
pub(crate) fn line(text: impl Display) -> Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes data as it is.
pub(crate) fn bytes(data: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(data)
        .and_then(|()| out.flush())
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::BrokenPipe => CliError::new(CLOSED_PIPE),
            _ => CliError::because("the output can't be written", &e),
        })
}

/// Whether the error only says that the reader of a pipe has gone.
pub(crate) fn is_closed_pipe(e: &CliError) -> bool {
    e.to_string().ends_with(CLOSED_PIPE)
}

/// Writes a line for the person at the terminal.
pub(crate) fn note(text: &str) {
    let mut err = std::io::stderr().lock();
    // There is no better place to say that stderr is gone.
    drop(writeln!(err, "{text}"));
}

/// Whether a person watches stderr.
pub(crate) fn watched() -> bool {
    std::io::stderr().is_terminal()
}

/// `text` without the control characters by which recorded bytes could steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// `text` cut to `width` characters.
pub(crate) fn cut(text: &str, width: usize) -> String {
    let text = printable(text);
    if text.chars().count() <= width {
        text
    } else {
        let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
        short.push('…');
        short
    }
}
