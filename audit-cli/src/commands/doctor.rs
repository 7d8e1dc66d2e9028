//! `audit-trail doctor`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use audit_core::entry::Entry;
use audit_core::keyring::{CaKeyFile, KeyRing, KeyUri};
use audit_core::log::{StateFile, rollback_check};
use audit_core::store::{Parts, ReadStore};
use audit_verify::WITHOUT_RETENTION_LOCK;

use crate::commands::init::AUDITOR_FILE;
use crate::context::{Context, now, passphrases};
use crate::error::{Result, chain};
use crate::output;

/// Free space below which the log may soon stop.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// How far the last entry may lie in the future before the clock is called wrong.
const SKEW_MICROS_MAX: i64 = 2_000_000;

/// How long before its end an authority is told to be near it: clients have to be given another in time.
const AUTHORITY_MICROS_MIN: i64 = 30 * 86_400_000_000;

#[derive(Default)]
struct Findings {
    failed: u32,
    warned: u32,
}

impl Findings {
    fn ok(what: &str, text: &str) -> Result<()> {
        output::line(format_args!("ok    {what:<12} {}", output::printable(text)))
    }

    fn warn(&mut self, what: &str, text: &str, hint: &str) -> Result<()> {
        self.warned += 1;
        output::line(format_args!(
            "warn  {what:<12} {}\n      {:<12} hint: {hint}",
            output::printable(text),
            ""
        ))
    }

    fn fail(&mut self, what: &str, text: &str, hint: &str) -> Result<()> {
        self.failed += 1;
        output::line(format_args!(
            "FAIL  {what:<12} {}\n      {:<12} hint: {hint}",
            output::printable(text),
            ""
        ))
    }
}

pub(crate) async fn run(context: &Context) -> Result<u8> {
    let mut findings = Findings::default();
    let settings = &context.settings;
    match &settings.file {
        Some(path) => Findings::ok("settings", &path.display().to_string())?,
        None => findings.warn(
            "settings",
            "no configuration file; flags and environment only",
            "run in the folder of audit-trail.toml, or give --config FILE",
        )?,
    }
    let keys = keys(context, &mut findings)?;
    let store = store(context, &mut findings).await?;
    if let Some(keys) = &keys {
        match context.vkey(None) {
            Ok(vkey) if vkey == keys.vkey() => Findings::ok("public key", &vkey.to_string())?,
            Ok(_) => findings.fail(
                "public key",
                "the configuration's `vkey` is not the key ring's",
                "one of them belongs to another log, or was swapped: compare with what was carried away",
            )?,
            Err(_) => findings.warn(
                "public key",
                &format!("not in the configuration; the key ring's is {}", keys.vkey()),
                "put it into the configuration as `vkey`, so that verify needs no secrets",
            )?,
        }
    }
    if let Some(store) = &store {
        log(context, &**store, keys.as_ref(), &mut findings).await?;
    }
    if let Some(store) = &store {
        mirror(context, &**store, &mut findings).await?;
    }
    redaction(context, &mut findings)?;
    authority(context, &mut findings)?;
    spool(context, &mut findings)?;
    auditor(context, &mut findings)?;
    space(context, &mut findings)?;
    output::note(&format!(
        "{} failed, {} warnings",
        findings.failed, findings.warned
    ));
    Ok(u8::from(findings.failed > 0))
}

fn keys(context: &Context, findings: &mut Findings) -> Result<Option<KeyRing>> {
    let uri: KeyUri = match context.settings.key().map(str::parse) {
        Ok(Ok(uri)) => uri,
        Ok(Err(e)) => {
            findings.fail(
                "keys",
                &chain(&e),
                "for example --key file:/etc/audit-trail/audit-trail.key",
            )?;
            return Ok(None);
        }
        Err(_) => {
            findings.fail(
                "keys",
                "no key ring is set",
                "run `audit-trail init`, or give --key URI",
            )?;
            return Ok(None);
        }
    };
    match KeyRing::load(&uri, &passphrases()) {
        Ok(keys) => {
            Findings::ok("keys", &format!("open; log {}", keys.origin()))?;
            if let KeyUri::File(path) = &uri
                && std::fs::read(path).is_ok_and(|bytes| is_plain(&bytes))
            {
                findings.warn(
                    "keys",
                    "the key ring is not sealed with a passphrase",
                    "whoever reads the file holds the log's keys; keep it on an encrypted disk, or use keyring:",
                )?;
            }
            if matches!(uri, KeyUri::Env(_)) {
                findings.warn(
                    "keys",
                    "they come from the environment",
                    "use file: or keyring: outside of tests",
                )?;
            }
            Ok(Some(keys))
        }
        Err(e) => {
            findings.fail(
                "keys",
                &chain(&e),
                "check the path, its permissions, and the passphrase",
            )?;
            Ok(None)
        }
    }
}

/// Whether a ring file holds its keys in the clear; it was just read as a ring, so its shape is known.
fn is_plain(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(bytes).is_ok_and(|file| !file["ring"].is_null())
}

/// Rules that are wrong stop every command that records; rules that are missing stop nothing.
fn redaction(context: &Context, findings: &mut Findings) -> Result<()> {
    match context.redactor() {
        Ok(Some(redactor)) => Findings::ok(
            "redaction",
            &crate::redaction::told(&context.settings, &redactor),
        ),
        Ok(None) => Findings::ok("redaction", "off; everything is recorded as it is"),
        Err(e) => findings.fail(
            "redaction",
            &e.to_string().replace('\n', "; "),
            "correct the section [redaction] of the configuration (docs/redaction.md)",
        ),
    }
}

/// The auditor's private key should have been carried away.
fn auditor(context: &Context, findings: &mut Findings) -> Result<()> {
    let folder = context.settings.file.as_deref().and_then(Path::parent);
    let path = folder.unwrap_or(Path::new("")).join(AUDITOR_FILE);
    if path.exists() {
        findings.warn(
            "auditor key",
            &format!("{} is still on this host", path.display()),
            "move it to the auditor; as long as it is here, who takes this host over can rewrite closed epochs",
        )?;
    }
    Ok(())
}

async fn store(
    context: &Context,
    findings: &mut Findings,
) -> Result<Option<std::sync::Arc<dyn ReadStore>>> {
    let url = match context.store_url() {
        Ok(url) => url,
        Err(e) => {
            findings.fail(
                "store",
                &e.to_string().replace('\n', "; "),
                "give --store URL",
            )?;
            return Ok(None);
        }
    };
    // Opened for writing, since that is what a writer will need.
    let opened = url.open().await;
    match opened {
        Ok(store) => {
            let description = store.description().await;
            match description {
                Ok(Some(d)) => {
                    Findings::ok(
                        "store",
                        &format!("writable; layout {}, log {}", d.layout, d.origin),
                    )?;
                    locks(d.retention_lock, "store", findings)?;
                }
                Ok(None) => findings.fail("store", "it holds no log", "run `audit-trail init`")?,
                Err(e) => findings.fail("store", &chain(&e), "run `audit-trail verify`")?,
            }
            if let Some(path) = url.path() {
                permissions(path, findings)?;
            }
            Ok(Some(store))
        }
        Err(e) => {
            findings.fail(
                "store",
                &e.to_string().replace('\n', "; "),
                "check the path and its permissions",
            )?;
            Ok(url.read().await.ok())
        }
    }
}

/// Whether what is written can be deleted again.
fn locks(retention_lock: Option<bool>, what: &str, findings: &mut Findings) -> Result<()> {
    match retention_lock {
        Some(true) => Findings::ok(
            "object lock",
            &format!(
                "the {what} locks what is written; `audit-trail retention status` says until when"
            ),
        ),
        Some(false) => findings.warn(
            "object lock",
            &format!("of the {what}: {WITHOUT_RETENTION_LOCK}"),
            "copy the log into a bucket with Object Lock (`audit-trail copy --to URL`)",
        ),
        None => Ok(()),
    }
}

/// Whether the configured mirror has the log's checkpoints.
async fn mirror(context: &Context, store: &dyn ReadStore, findings: &mut Findings) -> Result<()> {
    let Some(url) = &context.settings.mirror.url else {
        return Ok(());
    };
    let shown = super::mirror::shown(url);
    let read = match crate::context::store_url(url) {
        Ok(url) => url.read().await.map_err(|e| chain(&e)),
        Err(e) => Err(e.to_string().replace('\n', "; ")),
    };
    let mirror = match read {
        Ok(mirror) => mirror,
        Err(e) => {
            return findings.warn(
                "mirror",
                &format!("{shown}: {e}"),
                "a running `audit-trail serve` or `audit-trail mirror` makes it; check the address if it runs",
            );
        }
    };
    if let Ok(Some(d)) = mirror.description().await {
        locks(d.retention_lock, "mirror", findings)?;
    }
    let both = async {
        let theirs = mirror.latest_checkpoint().await?;
        Ok::<_, audit_core::Error>((theirs, store.latest_checkpoint().await?))
    };
    let hint = "run `audit-trail copy --to URL`, which says what is wrong";
    match both.await {
        Ok((theirs, ours)) if theirs == ours => {
            Findings::ok("mirror", &format!("{shown} has the latest checkpoint"))
        }
        Ok((theirs, ours)) => {
            let vkey = context.vkey(None).ok();
            let size = |note: Option<Vec<u8>>| {
                let (note, vkey) = note.zip(vkey.as_ref())?;
                let (checkpoint, _) =
                    audit_tlog::checkpoint::open(&note, vkey.name(), vkey).ok()?;
                Some(checkpoint.size)
            };
            match (size(theirs), size(ours)) {
                (Some(theirs), Some(ours)) if theirs > ours => findings.fail(
                    "mirror",
                    &format!("{shown} has a checkpoint of {theirs} entries, the log one of {ours}"),
                    "the log's store was rolled back: keep it as evidence, and copy the mirror to a new store",
                ),
                (theirs, ours) => findings.warn(
                    "mirror",
                    &format!(
                        "{shown} has a checkpoint of {} entries, the log one of {}",
                        theirs.unwrap_or_default(),
                        ours.unwrap_or_default()
                    ),
                    "it is behind: `audit-trail copy --to URL` brings it up, and says what is wrong if it can't",
                ),
            }
        }
        Err(e) => findings.fail("mirror", &format!("{shown}: {}", chain(&e)), hint),
    }
}

/// The certificate authority for interception, as far as it can be read without its passphrase.
fn authority(context: &Context, findings: &mut Findings) -> Result<()> {
    let Some(path) = &context.settings.serve.intercept.ca else {
        return Ok(());
    };
    let hint = "make another with `audit-trail ca create --file FILE`, and have clients trust its certificate";
    match CaKeyFile::load_public(path) {
        Ok(key) => {
            let left = key.not_after.as_micros() - now().as_micros();
            let text = format!("{} hosts, until {}", key.hosts.len(), key.not_after);
            if left <= 0 {
                findings.fail("authority", &format!("ended: {text}"), hint)
            } else if left < AUTHORITY_MICROS_MIN {
                findings.warn("authority", &format!("ends soon: {text}"), hint)
            } else {
                Findings::ok("authority", &text)
            }
        }
        Err(e) => findings.fail("authority", &chain(&e), hint),
    }
}

/// What waits for a gateway to bring it into the log.
fn spool(context: &Context, findings: &mut Findings) -> Result<()> {
    let Some(spool) = crate::commands::serve::spool(&context.settings) else {
        return Ok(());
    };
    let Ok(files) = std::fs::read_dir(&spool.dir) else {
        return Findings::ok(
            "spool",
            &format!("{}, nothing in it yet", spool.dir.display()),
        );
    };
    let (mut waiting, mut damaged) = (0_u64, 0_u64);
    for file in files.flatten() {
        let path = file.path();
        match path.extension().and_then(std::ffi::OsStr::to_str) {
            Some("spool") => waiting += 1,
            Some("damaged") => damaged += 1,
            _ => {}
        }
    }
    let text = format!(
        "{}: {waiting} files wait, {damaged} hold records that can't be opened",
        spool.dir.display()
    );
    if damaged > 0 {
        let hint = "somebody changed them, or the disk did; keep them, and see `audit-trail gaps`";
        return findings.warn("spool", &text, hint);
    }
    Findings::ok("spool", &text)
}

fn permissions(path: &Path, findings: &mut Findings) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(metadata) => {
            let mode = metadata.permissions().mode() & 0o777;
            let others = mode & 0o077;
            if others == 0 {
                Findings::ok("permissions", &format!("{mode:04o} {}", path.display()))
            } else {
                findings.warn(
                    "permissions",
                    &format!("{} has mode {mode:04o}", path.display()),
                    &format!("chmod 600 {}", path.display()),
                )
            }
        }
        Err(e) => findings.fail(
            "permissions",
            &format!("{}: {e}", path.display()),
            "check the path",
        ),
    }
}

async fn log(
    context: &Context,
    store: &dyn ReadStore,
    keys: Option<&KeyRing>,
    findings: &mut Findings,
) -> Result<()> {
    let head = match store.head().await {
        Ok(head) => head,
        Err(e) => return findings.fail("log", &chain(&e), "run `audit-trail verify`"),
    };
    Findings::ok(
        "log",
        &format!("{} entries, root hash {}", head.size, head.edge.root()),
    )?;
    if let Some(keys) = keys {
        if let Ok(Some(d)) = store.description().await
            && d.origin != keys.origin()
        {
            findings.fail(
                "log",
                &format!(
                    "the store holds the log {:?}, the keys are of {:?}",
                    d.origin,
                    keys.origin()
                ),
                "give the --store and --key of one log",
            )?;
        }
        let state = StateFile::new(&context.settings.state_dir.value, keys.origin());
        match rollback_check(store, &state, &keys.vkey()).await {
            Ok(true) => Findings::ok(
                "state",
                &format!(
                    "the store continues what {} remembers",
                    state.path().display()
                ),
            )?,
            Ok(false) => findings.warn(
                "state",
                &format!(
                    "{} is not there: rollback is not checked",
                    state.path().display()
                ),
                "give the --state-dir of the publisher; a host that never published has none",
            )?,
            Err(e) => findings.fail(
                "state",
                &chain(&e),
                "the store was rolled back or replaced: keep it as evidence",
            )?,
        }
    }
    match store.latest_checkpoint().await {
        Ok(Some(_)) => {}
        Ok(None) => findings.warn(
            "checkpoint",
            "there is none yet",
            "a running writer publishes about once a second",
        )?,
        Err(e) => findings.fail("checkpoint", &chain(&e), "run `audit-trail verify`")?,
    }
    if head.size > 0 {
        let last = store.rows(head.size - 1..head.size, Parts::Without).await;
        let entry = last.and_then(|rows| {
            rows.first()
                .ok_or_else(|| {
                    audit_core::Error::corrupt("the last entry is missing").at(head.size - 1)
                })
                .and_then(|row| Entry::decode(&row.entry))
        });
        match entry {
            Ok(entry) => {
                let ahead = entry.recorded.as_micros() - now().as_micros();
                if ahead > SKEW_MICROS_MAX {
                    findings.fail(
                        "clock",
                        &format!(
                            "the last entry was recorded {:.1} s in this clock's future",
                            micros_as_seconds(ahead)
                        ),
                        "set the clock; a time service should keep it",
                    )?;
                } else {
                    Findings::ok("clock", &format!("{} UTC, not behind the log", now()))?;
                }
            }
            Err(e) => findings.fail("log", &chain(&e), "run `audit-trail verify`")?,
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn micros_as_seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

fn space(context: &Context, findings: &mut Findings) -> Result<()> {
    let Ok(url) = context.store_url() else {
        return Ok(());
    };
    let Some(folder) = url.path().and_then(Path::parent) else {
        return Ok(());
    };
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    match rustix::fs::statvfs(folder) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let text = format!("{} MiB free in {}", free >> 20, folder.display());
            if free < FREE_BYTES_MIN {
                findings.warn(
                    "space",
                    &text,
                    "when the disk is full, appends are refused and the gateway answers 503",
                )
            } else {
                Findings::ok("space", &text)
            }
        }
        Err(e) => findings.warn(
            "space",
            &format!("{}: {e}", folder.display()),
            "check the path",
        ),
    }
}
