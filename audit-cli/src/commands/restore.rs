//! `audit-trail restore`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit_core::ErrorKind;
use audit_core::chain::AuditorPublicKey;
use audit_core::copy::extends;
use audit_core::entry::TreeHead;
use audit_core::event::{Actor, ActorKind};
use audit_core::keyring::Passphrase;
use audit_core::log::{StateFile, Succession, check_continues};
use audit_core::store::{Head, ReadStore};
use audit_tlog::checkpoint;
use audit_tlog::note::VerifierKey;
use audit_verify::Outcome;

use super::backup::{make, said};
use super::copy::options;
use super::init::{Made, Wanted, make_log, new_passphrase};
use super::verify::{Request, checkpoint as read_checkpoint, run_verifier};
use crate::cli::RestoreArgs;
use crate::config::CONFIG_NAME;
use crate::context::{Context, StoreUrl, now, store_url};
use crate::error::{CliError, Result, chain};
use crate::output;

/// A checkpoint that somebody remembers.
struct Known {
    whose: String,
    note: Vec<u8>,
    size: u64,
}

/// What lies where the backup is to go.
enum There {
    Nothing,
    /// It can't be read, because of this.
    Unreadable(String),
    Log(Arc<dyn ReadStore>),
}

/// What the successor needs, got before anything is changed.
struct Successor {
    folder: PathBuf,
    origin: String,
    auditor: AuditorPublicKey,
    passphrase: Option<Passphrase>,
}

pub(crate) async fn run(context: &Context, args: &RestoreArgs) -> Result<u8> {
    let vkey = context.vkey(args.vkey.as_deref())?;
    let url = context.store_url()?;
    let Some(place) = url.path().map(Path::to_owned) else {
        return Err(CliError::usage(
            "the log's store is not one file, so no file can take its place",
        )
        .hint("audit-trail copy --from sqlite:FILE --to URL fills a new store of any engine"));
    };
    let from = store_url(&format!("sqlite:{}", args.from.display()))?;
    if let (Ok(one), Ok(other)) = (args.from.canonicalize(), place.canonicalize())
        && one == other
    {
        return Err(CliError::usage("the backup is the log's store itself"));
    }
    let successor = successor(context, args)?;
    let state = StateFile::new(&context.settings.state_dir.value, vkey.name());
    let known = known(&state, &args.checkpoint, &vkey)?;

    let backup = make(from, place.clone()).await?;
    let store: Arc<dyn ReadStore> = audit_tracer::backup_store(&backup)?;
    let mut request = Request::new(&context.settings.state_dir.value, vkey.clone())?;
    request.opened = options(context, args.vkey.as_deref(), args.opened.as_deref())?.opened;
    // What is remembered is looked at below, where it isn't a contradiction but a loss.
    request.remembered.clear();
    let verdict = run_verifier(Arc::clone(&store), request).await?;
    if verdict.outcome() == Outcome::Contradicted {
        output::note(&verdict.to_string());
        return Err(CliError::new(format!(
            "{} contradicts itself or is of another log; nothing was changed",
            args.from.display()
        ))
        .hint("take another backup; keep this one as evidence"));
    }
    said(&verdict);
    let head = store.head().await?;
    let mut lost = lost(&*store, &head, &known, &vkey).await?;
    let there = there(&url).await?;
    match &there {
        There::Nothing => {}
        There::Unreadable(why) => output::note(&format!(
            "the store that is there can't be read: {}",
            output::printable(why)
        )),
        There::Log(old) => {
            lost.extend(newer(&*store, &**old, &vkey, &place, args.accept_rollback).await?);
        }
    }
    let undecided = known.is_empty() && !matches!(there, There::Log(_));
    decide(args, &head, &lost, undecided)?;
    let lost = lost.into_iter().max_by_key(|known| known.size);

    drop(store);
    let aside = format!(".before-restore-{}", now().as_micros() / 1_000_000);
    let kept = backup.replace(&aside)?;
    // Dying from here on: the backup is in its place, and the same call does the rest.
    output::note(&format!(
        "restored {} entries to {}",
        head.size,
        place.display()
    ));
    if let Some(kept) = kept {
        output::note(&format!("what was there is kept as {}", kept.display()));
    }
    let Some((successor, lost)) = successor.zip(lost) else {
        output::line(place.display())?;
        output::note("next: audit-trail verify");
        return Ok(verdict.exit_code());
    };
    // The old log must not grow where others know it to have been longer.
    let remembered = known.iter().filter(|known| known.whose == whose(&state));
    if remembered.map(|known| known.size).max() < Some(lost.size) {
        state.write(&lost.note)?;
    }
    let survives = TreeHead {
        root: head.edge.root().into(),
        size: head.size,
    };
    let reason = args.reason.clone().unwrap_or_default();
    let by = Actor::new(ActorKind::Human, args.by.clone().unwrap_or_default());
    let succession = Succession::new(&lost.note, &vkey, survives, reason, by)?;
    let config = successor.folder.join(CONFIG_NAME);
    let made = open_successor(context, successor, succession).await?;
    told(&vkey, &head, &lost, &config, &made)?;
    Ok(verdict.exit_code())
}

fn whose(state: &StateFile) -> String {
    format!("state file {}", state.path().display())
}

/// Every checkpoint that this host or the person knows of.
fn known(state: &StateFile, files: &[PathBuf], vkey: &VerifierKey) -> Result<Vec<Known>> {
    let mut notes = Vec::new();
    notes.extend(state.read()?.map(|note| (whose(state), note)));
    for path in files {
        notes.push((path.display().to_string(), read_checkpoint(path)?));
    }
    notes
        .into_iter()
        .map(|(whose, note)| {
            let (checkpoint, _) = checkpoint::open(&note, vkey.name(), vkey).map_err(|e| {
                CliError::because(format!("{whose} is no checkpoint of this log"), &e).code(2)
            })?;
            let size = checkpoint.size;
            Ok(Known { whose, note, size })
        })
        .collect()
}

/// The known checkpoints that the backup doesn't hold.
async fn lost(
    store: &dyn ReadStore,
    head: &Head,
    known: &[Known],
    vkey: &VerifierKey,
) -> Result<Vec<Known>> {
    let mut lost = Vec::new();
    for Known { whose, note, .. } in known {
        let (checkpoint, _) = checkpoint::open(note, vkey.name(), vkey)
            .map_err(|e| CliError::because(whose, &e).code(2))?;
        match check_continues(store, head, checkpoint.size, &checkpoint.root, whose).await {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::RolledBack => lost.push(Known {
                whose: whose.clone(),
                note: note.clone(),
                size: checkpoint.size,
            }),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(lost)
}

async fn there(url: &StoreUrl) -> Result<There> {
    let old = match url.read().await {
        Ok(old) => old,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(There::Nothing),
        Err(e) => return Ok(There::Unreadable(chain(&e))),
    };
    match old.head().await {
        Ok(_) => {}
        Err(e) => return Ok(There::Unreadable(chain(&e))),
    }
    // Whoever publishes has it open. One that only reads, or died, has no lease.
    if let Ok(writable) = url.open().await
        && writable.publisher_lease().await?.is_none()
    {
        return Err(
            CliError::new("a program writes to the log's store at this moment")
                .hint("stop it first; if it works, nothing needs to be restored"),
        );
    }
    Ok(There::Log(old))
}

/// Refuses to put an older state over a newer one; with a rollback that is accepted, answers with what the newer one knows.
async fn newer(
    store: &dyn ReadStore,
    old: &dyn ReadStore,
    vkey: &VerifierKey,
    place: &Path,
    accepted: bool,
) -> Result<Option<Known>> {
    match old.description().await {
        Ok(Some(description)) if description.origin != vkey.name() => {
            return Err(CliError::usage(format!(
                "{} holds another log: {:?}",
                place.display(),
                description.origin
            )));
        }
        _ => {}
    }
    match extends(store, old).await {
        Ok(()) => Ok(None),
        Err(e) if e.kind() == ErrorKind::RolledBack && !accepted => {
            Err(CliError::because(format!("{} is not lost", place.display()), &e).hint(
                "the backup would put an older state, or another history, over it; if the store is damaged, see \
                 `audit-trail verify`",
            ))
        }
        Err(e) if e.kind() == ErrorKind::RolledBack => {
            let whose = format!("the store {}", place.display());
            let note = old.latest_checkpoint().await.ok().flatten();
            let size = note.as_ref().and_then(|note| {
                let (checkpoint, _) = checkpoint::open(note, vkey.name(), vkey).ok()?;
                Some(checkpoint.size)
            });
            let known = note
                .zip(size)
                .map(|(note, size)| Known { whose, note, size });
            let Some(known) = known else { return Ok(None) };
            let head = store.head().await?;
            Ok(lost(store, &head, &[known], vkey).await?.pop())
        }
        Err(e) => Err(e.into()),
    }
}

fn decide(args: &RestoreArgs, head: &Head, lost: &[Known], undecided: bool) -> Result<()> {
    let first = lost.iter().max_by_key(|known| known.size);
    match (first, args.accept_rollback) {
        (None, false) if undecided => Err(CliError::usage(
            "nothing on this host says how far the log was published, so nobody can tell whether the backup is all of it",
        )
        .hint(
            "give the publisher's --state-dir, or with --checkpoint a signed checkpoint that was kept elsewhere \
             (a receipt or an evidence bundle holds one)",
        )),
        (None, false) | (Some(_), true) => Ok(()),
        (None, true) => Err(CliError::usage("nothing that a known checkpoint commits to is lost")
            .hint("restore without --accept-rollback; a loss is accepted only with a checkpoint that shows it")),
        (Some(known), false) => Err(CliError::new(format!(
            "the backup holds {} entries, but {} knows of {}, or of another history",
            head.size, known.whose, known.size
        ))
        .hint(
            "look for a newer copy (a mirror, another backup): published entries would be lost. If there is none, \
             --accept-rollback restores what is left and opens a successor log that says so",
        )),
    }
}

/// What the successor will need: all of it is asked for before anything is changed.
fn successor(context: &Context, args: &RestoreArgs) -> Result<Option<Successor>> {
    let (Some(folder), Some(origin)) = (&args.successor, &args.successor_origin) else {
        return Ok(None);
    };
    let here = std::env::current_dir()
        .map_err(|e| CliError::because("the current folder can't be read", &e))?;
    let folder = here.join(folder);
    if folder.exists() {
        return Err(CliError::usage(format!(
            "{} is there already; the successor needs a new folder",
            folder.display()
        )));
    }
    audit_core::entry::check_origin(origin).map_err(|e| CliError::from(e).code(2))?;
    if StateFile::new(&context.settings.state_dir.value, origin)
        .read()?
        .is_some()
    {
        return Err(
            CliError::usage(format!("this host remembers a log {origin:?} already"))
                .hint("give the successor another name, for example with a number behind it"),
        );
    }
    if args
        .reason
        .as_ref()
        .is_none_or(|text| text.trim().is_empty())
        || args.by.as_ref().is_none_or(|text| text.trim().is_empty())
    {
        return Err(CliError::usage("--reason and --by may not be empty"));
    }
    let keys = context.keys()?;
    if keys.origin() == origin {
        return Err(CliError::usage(
            "the successor needs another name than the lost log",
        ));
    }
    let passphrase = if args.no_passphrase {
        None
    } else {
        Some(new_passphrase()?)
    };
    Ok(Some(Successor {
        folder,
        origin: origin.clone(),
        auditor: keys.auditor(),
        passphrase,
    }))
}

async fn open_successor(
    context: &Context,
    successor: Successor,
    succession: Succession,
) -> Result<Made> {
    let folder = successor.folder;
    std::fs::create_dir(&folder)
        .map_err(|e| CliError::because(format!("{} can't be made", folder.display()), &e))?;
    let store = format!("sqlite:{}", folder.join("audit-trail.db").display());
    let key = format!("file:{}", folder.join("audit-trail.key").display());
    make_log(Wanted {
        origin: successor.origin,
        store: store_url(&store)?,
        store_url: store,
        key: key
            .parse()
            .map_err(|e: audit_core::Error| CliError::from(e).code(2))?,
        key_uri: key,
        state_dir: context.settings.state_dir.value.clone(),
        config: folder.join(CONFIG_NAME),
        auditor: Ok(successor.auditor),
        passphrase: successor.passphrase,
        succession: Some(succession),
        ca: None,
    })
    .await
}

fn told(vkey: &VerifierKey, head: &Head, lost: &Known, config: &Path, made: &Made) -> Result<()> {
    output::note(&format!(
        "\nthe log {} ends here: {} of {} published entries are left. It can be read and verified, which says that it was \
         rolled back; nothing can be written to it.",
        vkey.name(),
        head.size.min(lost.size),
        lost.size
    ));
    output::note(&format!(
        "its successor is {}; its first entry ({}) names the lost checkpoint, the reason and the person.\n\n\
         public key of the successor; give it to everybody who verifies:",
        config.display(),
        made.opened
    ));
    output::line(&made.vkey)?;
    output::note(&format!(
        "\nreceipts and bundles of the lost part still prove what they proved, with the old public key\n  {vkey}\n\
         collect them from whoever has them: they are now the only evidence of those entries (docs/moving.md)\n\nnext:\n  \
         audit-trail --config {} serve",
        config.display()
    ));
    Ok(())
}
