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
    let text: String = text
        .chars()
        .map(|c| if steers(c) && c != '\n' { ' ' } else { c })
        .collect();
    let mut err = std::io::stderr().lock();
    // There is no better place to say that stderr is gone.
    drop(writeln!(err, "{text}"));
}

/// Whether a person watches stderr.
pub(crate) fn watched() -> bool {
    std::io::stderr().is_terminal()
}

/// `text` without the characters by which recorded bytes could steer a terminal or turn a line around.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if steers(c) { ' ' } else { c })
        .collect()
}

/// Control characters, and those that change the direction of text (Unicode's `Bidi_Control`).
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON in which such characters are escaped; the value is the same.
pub(crate) fn json_text(json: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // Line ends stand only between the members of indented JSON.
        if steers(c) && c != '\n' {
            write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a string can't fail");
        } else {
            out.push(c);
        }
    }
    out
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
