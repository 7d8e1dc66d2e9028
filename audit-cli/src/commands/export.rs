//! `audit-trail export`.

use std::sync::Arc;

use audit_tracer::StoreEvidence;

use crate::cli::ExportArgs;
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output;

pub(crate) async fn run(context: &Context, args: &ExportArgs) -> Result<u8> {
    let store = context.store_url()?.read().await?;
    let vkey = context.vkey(None)?;
    let evidence = StoreEvidence::new(Arc::clone(&store));
    let path = args.bundle.clone();
    let with_parts = !args.without_parts;
    let written = tokio::task::spawn_blocking(move || {
        // A file that is there may be evidence; it is never overwritten.
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| {
                CliError::because(format!("{} can't be made", path.display()), &e).code(2)
            })?;
        let written = audit_verify::bundle::export(&evidence, file, with_parts);
        if written.is_err() {
            // Half an export is no evidence.
            drop(std::fs::remove_file(&path));
        }
        written.map_err(CliError::from)
    })
    .await
    .map_err(|e| CliError::because("the export was stopped", &e))??;
    output::line(args.bundle.display())?;
    output::note(&format!(
        "{written} entries; anyone can check them:\n  audit-verify log {} --vkey '{vkey}'",
        args.bundle.display()
    ));
    super::tell_lock(&*store, "to know").await?;
    Ok(0)
}
