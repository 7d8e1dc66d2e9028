//! `audit-trail migrate`.

use crate::cli::MigrateCommand;
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output;

pub(crate) async fn run(context: &Context, command: &MigrateCommand) -> Result<u8> {
    let url = context.store_url()?;
    let none = || {
        CliError::usage(format!("{url} has no migrations")).hint("only PostgreSQL's schemas have")
    };
    match command {
        MigrateCommand::Status => {
            let status = url.migrations().await?.ok_or_else(none)?;
            let version = status
                .version
                .map_or("no schema".to_owned(), |v| format!("version {v}"));
            output::line(format_args!("{version}, newest {}", status.newest))?;
            for (version, name) in &status.pending {
                output::line(format_args!("pending {version} {name}"))?;
            }
            // As with `verify`: what is asked for isn't so.
            Ok(u8::from(!status.pending.is_empty()))
        }
        MigrateCommand::Up => {
            let done = url.migrate().await?.ok_or_else(none)?;
            for (version, name) in &done {
                output::line(format_args!("done {version} {name}"))?;
            }
            if done.is_empty() {
                output::note("nothing was missing");
            }
            Ok(0)
        }
    }
}
