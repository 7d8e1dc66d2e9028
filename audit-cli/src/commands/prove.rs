//! `audit-trail prove`.

use std::path::Path;

use crate::cli::ProveArgs;
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output;

pub(crate) async fn run(context: &Context, args: &ProveArgs) -> Result<u8> {
    let reader = context.reader().await?;
    let index = super::index_of(&reader, &args.id).await?;
    let record = reader.record(index).await?;
    let proof = reader.prove(index).await.map_err(|e| {
        CliError::from(e).hint("a running writer publishes about once a second; `audit-trail checkpoint` shows how far")
    })?;
    let leaf = audit_tlog::hash::leaf_hash(&record.bytes);
    let vkey = context.vkey(None)?;
    // What is handed out is checked as whoever gets it will.
    let checkpoint = proof
        .verify(&leaf, vkey.name(), &vkey)
        .map_err(|e| CliError::because("the proof made of the store's tiles doesn't hold", &e))?;
    let proof_file = args.out.join(format!("{}.tlog-proof", record.entry.event));
    let entry_file = args.out.join(format!("{}.entry", record.entry.event));
    write(&proof_file, proof.to_string().as_bytes())?;
    write(&entry_file, &record.bytes)?;
    output::line(proof_file.display())?;
    output::line(entry_file.display())?;
    output::note(&format!(
        "entry {index} is in the log {} of {} entries; anyone can check it:\n  \
         audit-verify proof {} --entry {} --vkey '{vkey}'",
        checkpoint.origin,
        checkpoint.size,
        proof_file.display(),
        entry_file.display()
    ));
    Ok(0)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes)
        .map_err(|e| CliError::because(format!("{} can't be written", path.display()), &e))
}
