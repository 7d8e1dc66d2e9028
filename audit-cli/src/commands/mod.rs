//! The commands.

mod backup;
mod bundle;
mod ca;
mod checkpoint;
mod config;
mod copy;
mod doctor;
mod emit;
mod export;
mod gaps;
mod hold;
mod init;
mod log;
mod migrate;
mod mirror;
mod prove;
mod redaction;
mod restore;
mod retention;
mod run;
mod serve;
mod show;
mod verify;

pub(crate) use init::{Made, Wanted, make_log};
pub(crate) use log::{header as log_header, row as log_row};
pub(crate) use run::FAILED as RUN_FAILED;
pub(crate) use serve::Stderr;
pub(crate) use verify::{Request, run_verifier};

use std::future::Future;

use audit_core::reader::LogReader;
use audit_core::store::ReadStore;
use audit_verify::WITHOUT_RETENTION_LOCK;
use clap::CommandFactory;
use uuid::Uuid;

use crate::cli::{Cli, Command};
use crate::config::{GlobalFlags, Settings};
use crate::context::{Context, environment};
use crate::error::{CliError, Result};
use crate::output;

/// Runs the command; the answer is the exit code.
pub(crate) fn run(cli: Cli) -> Result<u8> {
    let settings = || Settings::load(&cli.global, &environment, true);
    let context = || {
        Ok::<_, CliError>(Context {
            settings: settings()?,
        })
    };
    match cli.command {
        Command::Init(args) => {
            // The file that it is to write isn't there yet.
            let settings = Settings::load(&cli.global, &environment, false)?;
            block_on(init::run(&settings, &args))
        }
        Command::Serve(args) => block_on(serve::run(&context()?, &args)),
        Command::Run(args) => run::run(&context, &args),
        Command::Ca { command } => ca::run(&context()?, &command),
        Command::Emit(args) => block_on(emit::run(&context()?, args)),
        Command::Log(args) => block_on(log::run(&context()?, &args)),
        Command::Show(args) => block_on(show::run(&context()?, &args)),
        Command::Verify(args) => block_on(verify::run(&context()?, &args)),
        Command::Prove(args) => block_on(prove::run(&context()?, &args)),
        Command::Bundle(args) => block_on(bundle::run(&context()?, &args)),
        Command::Export(args) => block_on(export::run(&context()?, &args)),
        Command::Copy(args) => block_on(copy::run(&context()?, &args)),
        Command::Mirror(args) => block_on(mirror::run(&context()?, &args)),
        Command::Backup(args) => block_on(backup::run(&context()?, &args)),
        Command::Restore(args) => block_on(restore::run(&context()?, &args)),
        Command::Checkpoint => block_on(checkpoint::run(&context()?)),
        Command::Migrate { command } => block_on(migrate::run(&context()?, &command)),
        Command::Retention { command } => block_on(retention::run(&context()?, &command)),
        Command::Hold { command } => block_on(hold::run(&context()?, &command)),
        Command::Gaps { json } => block_on(gaps::run(&context()?, json)),
        Command::Redaction { command } => block_on(redaction::run(&context()?, command)),
        Command::Doctor => block_on(doctor::run(&context()?)),
        Command::Demo(args) => block_on(crate::demo::run(&args)),
        Command::Config { command } => config::run(&settings()?, &command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "audit-trail", &mut script);
            output::bytes(&script)?;
            Ok(0)
        }
    }
}

/// Whether a command line that couldn't be read was one of `run`.
pub(crate) fn is_run(arguments: impl Iterator<Item = std::ffi::OsString>) -> bool {
    arguments
        .skip(1)
        .take_while(|argument| argument != "--")
        .any(|argument| argument == "run")
}

/// Reads a configuration file with everything in it that is looked at before a command does something.
pub(crate) fn check_config(path: &std::path::Path) -> Result<()> {
    let flags = GlobalFlags {
        config: Some(path.to_owned()),
        ..GlobalFlags::default()
    };
    let home = |name: &str| (name == "HOME").then(|| "/nonexistent".into());
    let settings = Settings::load(&flags, &home, true)?;
    serve::check(&settings)?;
    crate::redaction::redactor(&settings)?;
    mirror::check(&settings)
}

fn block_on(command: impl Future<Output = Result<u8>>) -> Result<u8> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::because("the runtime can't be started", &e))?
        .block_on(command)
}

/// The index that a person means: an event id or a leaf index.
async fn index_of(reader: &LogReader, id: &str) -> Result<u64> {
    if let Ok(index) = id.parse::<u64>() {
        return Ok(index);
    }
    let Ok(event) = id.parse::<Uuid>() else {
        return Err(CliError::usage(format!(
            "{:?} is neither an event id nor a leaf index",
            output::cut(id, 60)
        )));
    };
    reader
        .position(event)
        .await?
        .ok_or_else(|| CliError::new(format!("the log has no event {event}")))
}

/// Says on stderr if a store could lock what it holds, and holds a log that was made without.
async fn tell_lock(store: &dyn ReadStore, what: &str) -> Result<()> {
    if without_lock(store).await? {
        output::note(&format!("{what}: {WITHOUT_RETENTION_LOCK}"));
    }
    Ok(())
}

async fn without_lock(store: &dyn ReadStore) -> Result<bool> {
    let description = store.description().await?;
    Ok(description.is_some_and(|d| d.retention_lock == Some(false)))
}

/// `NAME=VALUE`.
fn pair<'a>(flag: &str, text: &'a str) -> Result<(&'a str, &'a str)> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| CliError::usage(format!("{flag} {text:?} is not of the form NAME=VALUE")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
