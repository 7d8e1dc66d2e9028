//! `audit-trail`: run, feed, read and verify a tamper-evident log of what LLM agents do.

mod cli;
mod commands;
mod config;
mod context;
mod demo;
mod error;
mod output;
mod redaction;

use std::process::ExitCode;

use clap::Parser;

/// The program, from its arguments to its exit code.
#[must_use]
pub fn main() -> ExitCode {
    // A closed pipe (`audit-trail log | head`) ends a write with an error, which `output` turns into a quiet end.
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Whoever reads the exit code of `run` must be able to tell it from the command's.
            let own = e.use_stderr() && commands::is_run(std::env::args_os());
            drop(e.print());
            let code = u8::try_from(e.exit_code()).unwrap_or(2);
            return ExitCode::from(if own { commands::RUN_FAILED } else { code });
        }
    };
    match commands::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(e) if output::is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            output::note(&e.to_string());
            ExitCode::from(e.exit_code())
        }
    }
}

/// Reads a configuration file as the program does, without running anything.
///
/// # Errors
///
/// What the program would say of it.
pub fn check_config(path: &std::path::Path) -> Result<(), String> {
    commands::check_config(path).map_err(|e| e.to_string())
}
