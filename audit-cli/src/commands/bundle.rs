//! `audit-trail bundle`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use audit_core::Error;
use audit_core::entry::kinds;
use audit_core::event::Kind;
use audit_core::reader::{Filter, LogReader};
use audit_tlog::Hash;
use audit_tlog::checkpoint::Checkpoint;
use audit_tracer::StoreEvidence;
use audit_verify::evidence_bundle::{
    BundlePolicy, Made, Query, Request, Selection, make, verify_bundle,
};

use crate::cli::BundleArgs;
use crate::context::{Context, time};
use crate::error::{CliError, Result};
use crate::output;

/// Matches that are looked up at once.
const PAGE: usize = 10_000;
/// A running publisher signs about once a second.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(250);

pub(crate) async fn run(context: &Context, args: &BundleArgs) -> Result<u8> {
    let path = args.output.clone();
    if !args.force && path.symlink_metadata().is_ok() {
        return Err(exists(&path));
    }
    let selection = Selection::new(args.only.clone(), args.redact.clone())?;
    let since = args
        .since_checkpoint
        .iter()
        .map(|path| super::verify::checkpoint(path))
        .collect::<Result<Vec<_>>>()?;
    let opened = context
        .settings
        .opened
        .as_ref()
        .map(|setting| Hash::from_hex(&setting.value))
        .transpose()
        .map_err(|e| CliError::because("the leaf hash of the first entry", &e).code(2))?;
    let store = context.store_url()?.read().await?;
    let keys = context.keys()?;
    let reader = LogReader::new(std::sync::Arc::clone(&store), std::sync::Arc::clone(&keys));
    let wanted = Wanted::of(&reader, args).await?;
    let (checkpoint, note) = wanted.published(&reader).await?;
    // Everything that the checkpoint commits to: what came since is for the next bundle.
    let matched = wanted.indexes(&reader, checkpoint.size).await?;
    let mut own = Vec::new();
    for kind in [
        kinds::WRITER_OPENED,
        kinds::KEY_REGISTERED,
        kinds::KEY_DESTROYED,
    ] {
        let filter = Filter {
            kind: Some(Kind::new(kind)?),
            ..Filter::default()
        };
        own.extend(find(&reader, &filter, checkpoint.size).await?);
    }
    own.sort_unstable();

    let policy = BundlePolicy {
        vkey: Some(keys.vkey()),
        opened,
        ..BundlePolicy::default()
    };
    let evidence = StoreEvidence::new(std::sync::Arc::clone(&store));
    let (query, force) = (wanted.query, args.force);
    let (made, bytes) = tokio::task::spawn_blocking(move || {
        let request = Request {
            query,
            selection,
            matched: &matched,
            own: &own,
            checkpoint: note,
            since,
        };
        write(&path, force, &policy, &mut |spool, out| {
            Ok(make(&evidence, &keys, &request, spool, out)?)
        })
    })
    .await
    .map_err(|e| CliError::because("making the bundle was stopped", &e))??;
    for pattern in &made.unused {
        output::note(&format!(
            "warning: {} matches no field of these events",
            output::cut(pattern, 80)
        ));
    }
    output::line(args.output.display())?;
    output::note(&summary(context, args, &made, bytes)?);
    super::tell_lock(&*store, "to know").await?;
    Ok(0)
}

fn exists(path: &Path) -> CliError {
    CliError::usage(format!("{} is already there", path.display()))
        .hint("--force replaces it; it may be evidence")
}

/// What was asked for.
struct Wanted {
    query: Query,
    filter: Filter,
    /// Indexes of events that were named.
    named: Option<Vec<u64>>,
}

impl Wanted {
    async fn of(reader: &LogReader, args: &BundleArgs) -> Result<Self> {
        let mut query = Query {
            from: args.from.as_deref().map(time).transpose()?,
            session: args.session.clone(),
            to: args.to.as_deref().map(time).transpose()?,
            ..Query::default()
        };
        let mut named = None;
        if !args.event.is_empty() {
            let mut indexes = Vec::new();
            let mut events = Vec::new();
            for id in &args.event {
                let index = super::index_of(reader, id).await?;
                events.push(reader.record(index).await?.entry.event);
                indexes.push(index);
            }
            indexes.sort_unstable();
            indexes.dedup();
            events.sort_unstable();
            events.dedup();
            query.events = Some(events);
            named = Some(indexes);
        }
        let filter = Filter {
            session: query.session.clone(),
            from: query.from,
            until: query.to,
            ..Filter::default()
        };
        Ok(Self {
            query,
            filter,
            named,
        })
    }

    /// The indexes below `size` that match.
    async fn indexes(&self, reader: &LogReader, size: u64) -> Result<Vec<u64>> {
        match &self.named {
            Some(named) => Ok(named.clone()),
            None => find(reader, &self.filter, size).await,
        }
    }

    /// The newest checkpoint, once it commits to everything that matches now.
    async fn published(&self, reader: &LogReader) -> Result<(Checkpoint, Vec<u8>)> {
        let size = reader.size().await?;
        let last = self.indexes(reader, size).await?.last().copied();
        let Some(last) = last else {
            return Err(CliError::new("no event matches"));
        };
        let mut waited = Duration::ZERO;
        loop {
            match reader.checkpoint().await? {
                Some(found) if found.0.size > last => return Ok(found),
                _ if waited >= PATIENCE => {
                    let e =
                        Error::not_found("no checkpoint commits to this entry yet, which matches");
                    return Err(CliError::from(e.at(last)).hint(
                        "a running writer publishes about once a second; `audit-trail checkpoint` shows how far",
                    ));
                }
                _ => {}
            }
            tokio::time::sleep(PAUSE).await;
            waited += PAUSE;
        }
    }
}

async fn find(reader: &LogReader, filter: &Filter, size: u64) -> Result<Vec<u64>> {
    let mut indexes = Vec::new();
    let mut next = 0;
    loop {
        let page = reader.find(filter, next..size, false, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(indexes);
        };
        next = last + 1;
        indexes.extend(page);
    }
}

type Spool<'a> = dyn FnMut() -> std::io::Result<std::fs::File> + 'a;

/// Writes beside the target, verifies what was written, and only then gives it its name.
fn write(
    path: &Path,
    force: bool,
    policy: &BundlePolicy,
    make: &mut dyn FnMut(&mut Spool<'_>, &mut dyn std::io::Write) -> Result<Made>,
) -> Result<(Made, u64)> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let failed = |e: std::io::Error| {
        CliError::because(format!("{} can't be written", path.display()), &e).code(2)
    };
    // Both kinds of temporary file are readable for their owner alone: there is plaintext in them.
    let mut file = tempfile::NamedTempFile::new_in(&folder).map_err(failed)?;
    let mut spool = || tempfile::tempfile_in(&folder);
    let mut out = std::io::BufWriter::new(file.as_file_mut());
    let made = make(&mut spool, &mut out)?;
    let out = out.into_inner().map_err(|e| failed(e.into_error()))?;
    out.sync_all().map_err(failed)?;
    let bytes = out.metadata().map_err(failed)?.len();
    // What is handed out is checked as whoever gets it will.
    let verdict = verify_bundle(&mut *out, policy);
    if verdict.exit_code() != 0 {
        let why = verdict
            .findings()
            .first()
            .map(ToString::to_string)
            .or_else(|| verdict.undecided().first().cloned())
            .unwrap_or_default();
        return Err(
            CliError::new(format!("the bundle made of this log doesn't hold: {why}"))
                .hint("run `audit-trail verify` to see everything that is wrong"),
        );
    }
    if force {
        file.persist(path).map_err(|e| failed(e.error))?;
    } else {
        file.persist_noclobber(path).map_err(|e| {
            if e.error.kind() == std::io::ErrorKind::AlreadyExists {
                exists(path)
            } else {
                failed(e.error)
            }
        })?;
    }
    // From here on the name survives a power cut too.
    std::fs::File::open(&folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)?;
    Ok((made, bytes))
}

fn summary(context: &Context, args: &BundleArgs, made: &Made, bytes: u64) -> Result<String> {
    let manifest = &made.manifest;
    let counts = manifest.counts;
    let mut lines = vec![
        format!(
            "{} entries match, {} of the log's own are needed to check them; {bytes} bytes, under the checkpoint over {} \
             entries",
            counts.matched,
            counts.entries - counts.matched,
            manifest.size,
        ),
        format!(
            "{} fields of {} events are disclosed, {} of them payloads of together {} bytes: the file holds plaintext",
            counts.fields, counts.open, counts.payloads, counts.payload_bytes,
        ),
    ];
    if counts.withheld > 0 {
        lines.push(format!("{} fields are withheld", counts.withheld));
    }
    if counts.erased > 0 {
        lines.push(format!(
            "the content of {} events was erased",
            counts.erased
        ));
    }
    lines.push("anyone can check it:".to_owned());
    let opened = context.settings.opened.as_ref();
    lines.push(format!(
        "  audit-verify bundle {} --vkey '{}'{}",
        args.output.display(),
        context.vkey(None)?,
        opened.map_or_else(String::new, |opened| format!(" --opened {}", opened.value)),
    ));
    Ok(lines.join("\n"))
}
