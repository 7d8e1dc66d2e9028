//! `audit-trail checkpoint`.

use audit_tlog::checkpoint;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output;

pub(crate) async fn run(context: &Context) -> Result<u8> {
    let store = context.store_url()?.read().await?;
    let vkey = context.vkey(None)?;
    let note = store.latest_checkpoint().await?.ok_or_else(|| {
        CliError::new("the log has no checkpoint yet")
            .hint("a running writer publishes about once a second")
    })?;
    // Nobody should carry away a checkpoint that the log's key didn't sign.
    checkpoint::open(&note, vkey.name(), &vkey).map_err(|e| {
        CliError::because(
            "the store's latest checkpoint is not signed by this log's key",
            &e,
        )
    })?;
    output::bytes(&note)?;
    Ok(0)
}
