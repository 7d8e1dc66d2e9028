//! `audit-trail verify`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit_core::chain::AuditorKey;
use audit_core::keyring::{AuditorKeyFile, KeyRing};
use audit_core::log::StateFile;
use audit_core::store::ReadStore;
use audit_tlog::Hash;
use audit_tlog::note::VerifierKey;
use audit_tracer::StoreEvidence;
use audit_verify::{Policy, Progress, Stage, Verdict};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::VerifyArgs;
use crate::context::{Context, duration, now, passphrases};
use crate::error::{CliError, Result};
use crate::output;

/// A running publisher signs about once a second; a minute is far beyond that.
const UNPUBLISHED_MAX: Duration = Duration::from_mins(1);

/// Bytes of a checkpoint file.
const CHECKPOINT_BYTES_MAX: u64 = 64 * 1024;

/// What is to be verified, and by what.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) vkey: VerifierKey,
    pub(crate) opened: Option<Hash>,
    pub(crate) auditor: Option<AuditorKey>,
    pub(crate) keys: Option<Arc<KeyRing>>,
    pub(crate) remembered: Vec<Vec<u8>>,
    pub(crate) full: bool,
    pub(crate) gap_max: Option<Duration>,
    pub(crate) fresh_within: Option<Duration>,
    pub(crate) unpublished_max: Duration,
}

impl Request {
    /// With the public key alone, and what this host's publisher remembers, if it does.
    pub(crate) fn new(state_dir: &Path, vkey: VerifierKey) -> Result<Self> {
        // A memory that is there and can't be read is not the same as none: it may be what would show a rollback.
        let state = StateFile::new(state_dir, vkey.name()).read()?;
        Ok(Self {
            vkey,
            opened: None,
            auditor: None,
            keys: None,
            remembered: state.into_iter().collect(),
            full: false,
            gap_max: None,
            fresh_within: None,
            unpublished_max: UNPUBLISHED_MAX,
        })
    }
}

/// Runs the offline verifier over a store.
pub(crate) async fn run_verifier(store: Arc<dyn ReadStore>, request: Request) -> Result<Verdict> {
    let evidence = StoreEvidence::new(store);
    tokio::task::spawn_blocking(move || {
        let policy = Policy {
            vkey: request.vkey,
            opened: request.opened,
            auditor: request.auditor,
            operator: request.keys.as_deref(),
            remembered: request.remembered,
            full: request.full,
            content: true,
            gap_max: request.gap_max,
            fresh_within: request.fresh_within,
            unpublished_max: request.unpublished_max,
            now: now(),
        };
        let mut bar = Bar::new();
        let verdict = audit_verify::verify(&evidence, &policy, &mut bar);
        bar.finish();
        verdict
    })
    .await
    .map_err(|e| CliError::because("the verifier was stopped", &e).code(2))
}

pub(crate) async fn run(context: &Context, args: &VerifyArgs) -> Result<u8> {
    // Whatever keeps the verifier from deciding is 2, as the exit codes promise.
    let undecided = |e: CliError| e.code(2);
    let vkey = context.vkey(args.vkey.as_deref()).map_err(undecided)?;
    let mut request = Request::new(&context.settings.state_dir.value, vkey).map_err(undecided)?;
    let opened = args.opened.as_deref().or_else(|| {
        context
            .settings
            .opened
            .as_ref()
            .map(|setting| setting.value.as_str())
    });
    request.opened = opened
        .map(Hash::from_hex)
        .transpose()
        .map_err(|e| CliError::because("the leaf hash of the first entry", &e).code(2))?;
    request.unpublished_max = duration(&args.unpublished_max)?;
    for path in &args.checkpoint {
        request.remembered.push(checkpoint(path)?);
    }
    request.auditor = args
        .auditor_key
        .as_ref()
        .map(|path| AuditorKeyFile::load_private(path, &passphrases()))
        .transpose()
        .map_err(|e| undecided(e.into()))?;
    if args.content {
        request.keys = Some(context.keys().map_err(undecided)?);
    }
    request.full = args.full;
    request.gap_max = args.gap_max.as_deref().map(duration).transpose()?;
    request.fresh_within = args.fresh_within.as_deref().map(duration).transpose()?;
    let url = context.store_url().map_err(undecided)?;
    let store = url.read().await.map_err(|e| undecided(e.into()))?;
    let verdict = run_verifier(store, request).await?;
    let printed = if args.json {
        output::line(verdict.to_json())
    } else {
        output::line(&verdict)
    };
    match printed {
        // Nobody reads on, but the exit code still has to tell the truth.
        Err(e) if !output::is_closed_pipe(&e) => Err(undecided(e)),
        _ => Ok(verdict.exit_code()),
    }
}

/// Reads a signed checkpoint.
pub(crate) fn checkpoint(path: &Path) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| {
        CliError::because(format!("checkpoint {} can't be read", path.display()), &e).code(2)
    };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > CHECKPOINT_BYTES_MAX {
        return Err(CliError::usage(format!(
            "checkpoint {} has {length} bytes, allowed are {CHECKPOINT_BYTES_MAX}",
            path.display()
        )));
    }
    std::fs::read(path).map_err(failed)
}

/// A progress bar, where a person watches.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new() -> Self {
        Self(output::watched().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template(
                "{msg:<8} [{bar:40}] {human_pos}/{human_len}  {per_sec}  {eta}",
            ) {
                bar.set_style(style);
            }
            bar
        }))
    }

    fn finish(self) {
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bar {
    fn at(&mut self, stage: Stage, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_message(match stage {
                Stage::Entries => "entries",
                Stage::Tokens => "tokens",
                Stage::Keys => "keys",
                _ => "",
            });
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}
