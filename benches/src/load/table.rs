//! Tables in Markdown, so that they can be pasted where figures are told.

use std::fmt;
use std::io::{Write as _, stdout};
use std::time::Duration;

use crate::Result;

/// A table.
#[derive(Debug, Default)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With the names of its columns.
    #[must_use]
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Self {
            head: head.map(str::to_owned).into(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |at: usize| {
            std::iter::once(&self.head)
                .chain(&self.rows)
                .filter_map(|row| row.get(at))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let line = |f: &mut fmt::Formatter<'_>, cells: &[String]| {
            for (at, cell) in cells.iter().enumerate() {
                let pad = width(at) - cell.chars().count();
                // Names stand left, numbers right.
                if at == 0 {
                    write!(f, "| {cell}{:pad$} ", "")?;
                } else {
                    write!(f, "| {:pad$}{cell} ", "")?;
                }
            }
            writeln!(f, "|")
        };
        line(f, &self.head)?;
        for at in 0..self.head.len() {
            let dashes = "-".repeat(width(at));
            write!(f, "| {dashes}{}", if at == 0 { " " } else { ":" })?;
        }
        writeln!(f, "|")?;
        self.rows.iter().try_for_each(|row| line(f, row))
    }
}

/// Prints text as it is.
pub fn print(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// A time, in the unit that fits.
#[must_use]
pub fn time(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        m if m < 10_000.0 => format!("{m:.0} µs"),
        m if m < 10_000_000.0 => format!("{:.1} ms", m / 1e3),
        m => format!("{:.1} s", m / 1e6),
    }
}

/// What one time is above another.
#[must_use]
pub fn above(measured: Duration, baseline: Duration) -> String {
    match measured.checked_sub(baseline) {
        Some(more) => format!("+{}", time(more)),
        None => format!("−{}", time(baseline.saturating_sub(measured))),
    }
}

/// Bytes, with thousands apart.
#[must_use]
pub fn bytes(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A quotient of counts.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub fn per(n: u64, of: u64) -> f64 {
    n as f64 / of as f64
}
