//! `audit-trail copy`.

use std::sync::Arc;
use std::time::Duration;

use audit_core::ErrorKind;
use audit_core::copy::{Copied, Copier, CopyOptions, CopyProgress, Until};
use audit_core::store::Store;
use audit_tlog::Hash;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cli::CopyArgs;
use crate::context::{Context, StoreUrl, store_url};
use crate::error::{CliError, Result};
use crate::output;

/// A pause behind each look that found nothing, where the store doesn't wait by itself.
const FOLLOW: Duration = Duration::from_millis(100);

pub(crate) async fn run(context: &Context, args: &CopyArgs) -> Result<u8> {
    let from = match &args.from {
        Some(url) => url.as_str(),
        None => context.settings.store()?,
    };
    if from == args.to {
        return Err(CliError::usage("--from and --to name the same store"));
    }
    let options = options(context, args.vkey.as_deref(), args.opened.as_deref())?;
    let source = match &args.from {
        Some(url) => store_url(url)?,
        None => context.store_url()?,
    };
    let target = store_url(&args.to)?;
    if let (Some(one), Some(other)) = (source.path(), target.path())
        && let (Ok(one), Ok(other)) = (one.canonicalize(), other.canonicalize())
        && one == other
    {
        return Err(CliError::usage("--from and --to name the same store"));
    }
    let source = source.read().await?;
    let target = open_or_create(&target).await?;
    let mut copier = Copier::open(Arc::clone(&source), Arc::clone(&target), options)
        .await
        .map_err(explain)?;
    let until = if args.published {
        Until::Published
    } else {
        Until::Head
    };
    let bar = Bar::new();
    let mut all: Option<Copied> = None;
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        let size = all.as_ref().map_or(0, |copied| copied.size);
        let turn = async {
            if all.is_some() {
                source.wait_beyond(size).await?;
                tokio::time::sleep(FOLLOW).await;
            }
            copier.advance(until, &mut |at| bar.at(at)).await
        };
        let copied = if args.follow {
            tokio::select! {
                copied = turn => copied,
                // Whatever is cut off here, the next copy goes on behind it.
                _ = &mut interrupt => break,
            }
        } else {
            turn.await
        };
        let copied = match copied {
            Ok(copied) => copied,
            // Something is being erased at this moment: a checkpoint will commit to it.
            Err(e) if args.follow && e.kind() == ErrorKind::Unavailable => {
                output::note(&format!("waiting: {e}"));
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(e) => return Err(explain(e)),
        };
        all = Some(match all {
            Some(before) => sum(&before, &copied),
            None => copied,
        });
        if !args.follow {
            break;
        }
    }
    bar.finish();
    if let Some(copied) = &all {
        let lock = target.description().await?.and_then(|d| d.retention_lock);
        summary(copied, lock, args.json)?;
        super::tell_lock(&*source, "of the source, to know").await?;
        super::tell_lock(&*target, "of the target, to know").await?;
        if !args.json {
            output::note(&format!(
                "next: audit-trail verify --store {}",
                output::printable(&args.to)
            ));
        }
    }
    Ok(0)
}

/// The store, which is made where there is none.
pub(crate) async fn open_or_create(url: &StoreUrl) -> Result<Arc<dyn Store>, audit_core::Error> {
    match url.open().await {
        Err(e) if e.kind() == ErrorKind::NotFound => url.create().await,
        opened => opened,
    }
}

/// What a copy is held against.
pub(crate) fn options(
    context: &Context,
    vkey: Option<&str>,
    opened: Option<&str>,
) -> Result<CopyOptions> {
    let mut options = CopyOptions::new(context.vkey(vkey)?);
    let pinned = context.settings.opened.as_ref();
    // The configuration's belongs to the configuration's key.
    let pinned = pinned.filter(|_| vkey.is_none());
    options.opened = opened
        .or_else(|| pinned.map(|setting| setting.value.as_str()))
        .map(Hash::from_hex)
        .transpose()
        .map_err(|e| CliError::because("the leaf hash of the first entry", &e).code(2))?;
    Ok(options)
}

/// An error of a copy, with what to do.
fn explain(e: audit_core::Error) -> CliError {
    let kind = e.kind();
    let error = CliError::from(e);
    match kind {
        ErrorKind::Corrupt => error.hint(
            "the copy ends before what is wrong; run `audit-trail verify --store URL` over both stores to see all of it",
        ),
        ErrorKind::RolledBack => error.hint(
            "the copy changed nothing; one of the two stores is older, or another log of that name: keep both as evidence",
        ),
        _ => error,
    }
}

fn sum(before: &Copied, copied: &Copied) -> Copied {
    let mut all = *copied;
    all.entries += before.entries;
    all.bytes += before.bytes;
    all.checkpoints += before.checkpoints;
    all.keys += before.keys;
    all.rewrapped += before.rewrapped;
    all.erased += before.erased;
    all.destroyed += before.destroyed;
    all
}

fn summary(copied: &Copied, target_lock: Option<bool>, as_json: bool) -> Result<()> {
    if as_json {
        let text = json!({
            "bytes": copied.bytes,
            "checkpoints": copied.checkpoints,
            "destroyed": copied.destroyed,
            "entries": copied.entries,
            "erased": copied.erased,
            "keys": copied.keys,
            "published": copied.published,
            "rewrapped": copied.rewrapped,
            "root": copied.root.to_string(),
            "schema": "audit-trail-copy/1",
            "size": copied.size,
            "target_retention_lock": target_lock,
            "unsettled": copied.unsettled,
        });
        return output::line(text);
    }
    output::line(format_args!(
        "copied     {} entries ({} of them erased), {} bytes, {} checkpoints, {} data keys",
        copied.entries, copied.erased, copied.bytes, copied.checkpoints, copied.keys
    ))?;
    if copied.unsettled > 0 {
        output::note(&format!(
            "warning: the source doesn't have the records that {} key.rewrapped entries name: copy again when rewrapping is \
             done; if it is, somebody put older ones back",
            copied.unsettled
        ));
    }
    if copied.rewrapped + copied.destroyed > 0 {
        output::line(format_args!(
            "repeated   {} rewrapped and {} destroyed data keys",
            copied.rewrapped, copied.destroyed
        ))?;
    }
    output::line(format_args!(
        "target     {} entries, {} under checkpoints, root hash {}",
        copied.size, copied.published, copied.root
    ))
}

/// A progress bar, where a person watches.
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(super) fn new() -> Self {
        Self(output::watched().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template(
                "{msg} [{bar:40}] {human_pos}/{human_len}  {per_sec}  {eta}",
            ) {
                bar.set_style(style);
            }
            bar
        }))
    }

    fn at(&self, at: CopyProgress) {
        self.show("entries", at.size, at.end);
    }

    pub(super) fn show(&self, what: &'static str, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_message(what);
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
