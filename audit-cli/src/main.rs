//! `audit-trail`: run, feed, read and verify a tamper-evident log of what LLM agents do.

mod cli;
mod commands;
mod config;
mod context;
mod demo;
mod error;
mod evidence;
mod output;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // A closed pipe (`audit-trail log | head`) ends a write with an error, which `output` turns into a quiet end.
    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(e) if output::is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            output::note(&e.to_string());
            ExitCode::from(e.exit_code())
        }
    }
}
