//! `audit-trail backup`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit_core::store::ReadStore;
use audit_tracer::Backup;
use audit_verify::{Outcome, Verdict};

use super::copy::{Bar, options};
use super::verify::{Request, run_verifier};
use crate::cli::BackupArgs;
use crate::context::{Context, StoreUrl};
use crate::error::{CliError, Result};
use crate::output;

pub(crate) async fn run(context: &Context, args: &BackupArgs) -> Result<u8> {
    // What this host remembers is read before the copy is made: the copy must have it.
    let mut request = Request::new(
        &context.settings.state_dir.value,
        context.vkey(args.vkey.as_deref())?,
    )?;
    request.opened = options(context, args.vkey.as_deref(), args.opened.as_deref())?.opened;
    if args.to.exists() {
        return Err(CliError::usage(format!(
            "{} is there already; a backup never overwrites anything",
            args.to.display()
        )));
    }
    let backup = make(context.store_url()?, args.to.clone()).await?;
    let store: Arc<dyn ReadStore> = audit_tracer::backup_store(&backup)?;
    let size = store.head().await?.size;
    let verdict = run_verifier(Arc::clone(&store), request).await?;
    if verdict.outcome() == Outcome::Contradicted {
        output::note(&verdict.to_string());
        return Err(CliError::new(format!(
            "the copy contradicts itself or what this host remembers; {} was not written",
            args.to.display()
        ))
        .hint("the store itself is damaged or was tampered with: keep it as evidence"));
    }
    drop(store);
    kept(backup, &args.to)?;
    said(&verdict);
    output::line(args.to.display())?;
    output::note(&format!(
        "{size} entries; it holds what is erased later, until it is removed. Restore it with\n  audit-trail restore --from {}",
        args.to.display()
    ));
    Ok(verdict.exit_code())
}

fn kept(backup: Backup, to: &Path) -> Result<()> {
    backup.keep().map_err(|e| {
        let error = CliError::from(e);
        if to.exists() {
            error.hint("a backup never overwrites anything")
        } else {
            error
        }
    })
}

/// Copies the store that a URL names, beside `to`.
pub(super) async fn make(url: StoreUrl, to: PathBuf) -> Result<Backup> {
    let made = tokio::task::spawn_blocking(move || {
        let bar = Bar::new();
        let made = url.backup(&to, &|done, total| bar.show("pages", done, total));
        bar.finish();
        made
    });
    made.await
        .map_err(|e| CliError::because("the backup was stopped", &e))?
        .map_err(CliError::from)
}

/// Says why a verdict didn't hold.
pub(super) fn said(verdict: &Verdict) {
    if verdict.outcome() == Outcome::Undecided {
        output::note(&verdict.to_string());
    }
}
