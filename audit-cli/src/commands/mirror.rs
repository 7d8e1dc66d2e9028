//! `audit-trail mirror`, and the mirror beside `serve`.

use std::sync::Arc;

use audit_core::mirror::{Mirror, MirrorOptions, MirrorStatus, OpenMirror};
use audit_core::store::ReadStore;
use tokio::sync::watch;

use super::copy::{open_or_create, options};
use crate::cli::MirrorArgs;
use crate::config::Settings;
use crate::context::{Context, StoreUrl, store_url};
use crate::error::{CliError, Result};
use crate::output;

pub(crate) async fn run(context: &Context, args: &MirrorArgs) -> Result<u8> {
    let url = match (&args.to, &context.settings.mirror.url) {
        (Some(url), _) | (None, Some(url)) => url.clone(),
        (None, None) => {
            return Err(CliError::usage("no mirror is set").hint(
                "give --to URL, or a configuration file with `url` in its section `[mirror]`",
            ));
        }
    };
    let source = context.store_url()?.read().await?;
    super::tell_lock(&*source, "of the log, to know").await?;
    let mirror = start(context, source, &url, args.vkey.as_deref())?;
    output::note(&format!("mirroring to {}", shown(&url)));
    super::serve::stopped().await;
    let status = mirror.stop().await?;
    output::note(&format!(
        "stopped; {} entries copied, {} under checkpoints in the mirror",
        status.entries, status.published
    ));
    Ok(0)
}

/// Whether the configured mirror could be one.
pub(crate) fn check(settings: &Settings) -> Result<()> {
    settings.mirror.url.as_deref().map_or(Ok(()), |url| {
        if settings.store().is_ok_and(|store| store == url) {
            return Err(CliError::usage("the mirror is the log's own store"));
        }
        store_url(url).map(drop)
    })
}

/// The mirror that the configuration names, if it names one, of a log that this process writes.
pub(crate) fn beside(context: &Context, source: Arc<dyn ReadStore>) -> Result<Option<Mirror>> {
    let Some(url) = &context.settings.mirror.url else {
        return Ok(None);
    };
    let mirror = start(context, source, url, None)?;
    output::note(&format!("mirroring to {}", shown(url)));
    Ok(Some(mirror))
}

fn start(
    context: &Context,
    source: Arc<dyn ReadStore>,
    url: &str,
    vkey: Option<&str>,
) -> Result<Mirror> {
    if context.settings.store().is_ok_and(|store| store == url) {
        return Err(CliError::usage("the mirror is the log's own store"));
    }
    let target = store_url(url)?;
    let options = MirrorOptions::new(options(context, vkey, None)?);
    let mirror = Mirror::start(source, opener(target.clone()), options);
    tokio::spawn(tell(mirror.status(), target));
    Ok(mirror)
}

fn opener(url: StoreUrl) -> OpenMirror {
    Box::new(move || {
        let url = url.clone();
        Box::pin(async move { open_or_create(&url).await })
    })
}

/// Says on stderr when trouble begins, changes and ends; and once, if the mirror is made without Object Lock.
async fn tell(mut status: watch::Receiver<MirrorStatus>, target: StoreUrl) {
    let mut last = None;
    let mut lock_told = false;
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        if !lock_told && now.published > 0 {
            // What can't be read now shows as trouble of the mirror.
            lock_told = match target.read().await {
                Ok(store) => super::tell_lock(&*store, "of the mirror, to know")
                    .await
                    .is_ok(),
                Err(_) => false,
            };
        }
        if now.trouble == last {
            continue;
        }
        output::note(&match &now.trouble {
            Some(trouble) => format!("mirror: {}; trying again", output::printable(trouble)),
            None => format!(
                "mirror: works again, {} entries under checkpoints",
                now.published
            ),
        });
        last = now.trouble;
    }
}

/// A URL without what may be a secret: what stands before an `@`, or behind a `?`.
pub(crate) fn shown(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(url, _)| url);
    let text = match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://…@{place}"),
        _ => url.to_owned(),
    };
    output::printable(&text)
}
