//! `audit-verify`: verifies a log export, an evidence bundle or a proof, without network and without the operator's word.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use audit_core::chain::AuditorKey;
use audit_core::keyring::{
    AuditorKeyFile, EnvironmentPassphrase, KdfCost, PASSPHRASE_FILE_VARIABLE,
    PassphraseSource as _, Protection,
};
use audit_core::time::{Clock as _, System};
use audit_tlog::Hash;
use audit_tlog::hash::leaf_hash;
use audit_tlog::note::{NOTE_LEN_MAX, VerifierKey};
use audit_tlog::tlog_proof::{PROOF_LEN_MAX, TlogProof};
use audit_verify::evidence_bundle::{BundlePolicy, verify_bundle};
use audit_verify::{Policy, Progress, Stage, Verdict, bundle, printable, verify};
use lexopt::prelude::*;

const HELP: &str = "\
Verifies evidence of an audit log, offline.

usage:
  audit-verify log EXPORT --vkey VKEY|@FILE [options]
  audit-verify bundle BUNDLE [--vkey VKEY|@FILE] [options]
  audit-verify proof FILE.tlog-proof --entry FILE --vkey VKEY|@FILE
  audit-verify keygen PRIVATE-FILE PUBLIC-FILE [--no-passphrase]

log: verifies a whole log, as `audit-trail export` writes it
  --vkey VKEY|@FILE      the log's public key, as text or in a file; never from the export
  --opened HASH          the leaf hash of the log's first entry, 64 hexadecimal digits, as its making printed it; fixes
                         the writer keys
  --auditor-key FILE     the auditor's private key; checks the MAC chains of all runs
  --checkpoint FILE      a checkpoint that you kept from earlier; may be repeated
  --gap-max TIME         the longest time without a record, such as 15m
  --fresh-within TIME    the greatest age of the last published record, such as 1h
  --unpublished-max TIME the longest time that entries may be without a checkpoint (60s); more decides nothing
  --full                 compute the root a second time, with another implementation
  --no-parts             don't read the stored parts
  --json                 the verdict as JSON

bundle: verifies an evidence bundle, some entries of a log with their disclosed content
  --vkey VKEY|@FILE      the log's public key; without it the one in the bundle is used, and nothing is decided (2)
  --opened HASH, --auditor-key FILE, --checkpoint FILE, --json
                         as above; a checkpoint is compared with the one of the same size in the bundle

proof: verifies that a signed checkpoint commits to an entry, whose exact bytes are in FILE

keygen: makes the auditor's key pair; keep PRIVATE-FILE to yourself, give PUBLIC-FILE to whoever makes the log

exit codes: 0 everything asked for held; 1 the evidence contradicts itself or a checkpoint that you kept; 2 it could
not be decided: empty, no checkpoint, no or wrong key, unreadable, usage
";

/// Bytes of a file with a verifier key.
const VKEY_BYTES_MAX: usize = 4096;

/// Why nothing was verified, and what to do about it.
struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    fn of(what: &str, error: &dyn std::error::Error) -> Self {
        let mut message = if what.is_empty() {
            error.to_string()
        } else {
            format!("{what}: {error}")
        };
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self {
            message,
            hint: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<lexopt::Error> for Failure {
    fn from(e: lexopt::Error) -> Self {
        Self::of("", &e).hint("audit-verify --help")
    }
}

impl From<audit_core::Error> for Failure {
    fn from(e: audit_core::Error) -> Self {
        Self::of("", &e)
    }
}

type Result<T, E = Failure> = std::result::Result<T, E>;

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let mut text = format!("audit-verify: {}\n", one_line(&failure.message));
            if let Some(hint) = failure.hint {
                text.extend(["hint: ", &hint, "\n"]);
            }
            // Nobody is left to tell if standard error is closed.
            drop(std::io::stderr().write_all(text.as_bytes()));
            ExitCode::from(2)
        }
    }
}

/// A message, which may quote what was read, as one line that is fit for a terminal.
fn one_line(text: &str) -> String {
    printable(text).replace('\n', "\u{fffd}")
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Failure::of("standard output", &e))
}

fn run() -> Result<u8> {
    let mut args = lexopt::Parser::from_env();
    match args.next()? {
        Some(Value(command)) if command == "log" => log(&mut args),
        Some(Value(command)) if command == "bundle" => evidence_bundle(&mut args),
        Some(Value(command)) if command == "proof" => proof(&mut args),
        Some(Value(command)) if command == "keygen" => keygen(&mut args),
        Some(Short('h') | Long("help")) => print(HELP).map(|()| 0),
        Some(Short('V') | Long("version")) => {
            print(concat!("audit-verify ", env!("CARGO_PKG_VERSION"), "\n")).map(|()| 0)
        }
        Some(Value(other)) => {
            Err(Failure::new(format!("no command {}", other.display())).hint("audit-verify --help"))
        }
        Some(other) => Err(other.unexpected().into()),
        None => Err(Failure::new("nothing to do").hint("audit-verify --help")),
    }
}

fn read(path: &Path, what: &str, bytes_max: usize) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Failure::of(&format!("{what} {}", path.display()), &e);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max as u64 + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() > bytes_max {
        return Err(Failure::new(format!(
            "{what} {} has more than {bytes_max} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

fn vkey(value: OsString) -> Result<VerifierKey> {
    let value = value
        .into_string()
        .map_err(|value| Failure::new(format!("--vkey {} is not text", value.display())))?;
    let text = match value.strip_prefix('@') {
        None => value,
        Some(path) => {
            let bytes = read(Path::new(path), "verifier key", VKEY_BYTES_MAX)?;
            String::from_utf8(bytes).map_err(|e| Failure::of("verifier key", &e))?
        }
    };
    text.trim_ascii().parse().map_err(|e| {
        Failure::of("--vkey", &e).hint(
            "it looks like ORIGIN+8 hexadecimal digits+base64; the log's operator publishes it",
        )
    })
}

/// `90s`, `15m`, `6h`, `2d`.
fn duration(value: &OsString) -> Result<Duration> {
    let wrong = || {
        Failure::new(format!("{} is not a time", value.display())).hint("write 90s, 15m, 6h or 2d")
    };
    let text = value.to_str().ok_or_else(wrong)?;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.strip_prefix(digits).unwrap_or_default() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().ok().ok_or_else(wrong)?;
    number
        .checked_mul(unit)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

/// A leaf hash in hexadecimal.
fn leaf(value: &OsString) -> Result<Hash> {
    let text = value
        .to_str()
        .ok_or_else(|| Failure::new(format!("--opened {} is not text", value.display())))?;
    Hash::from_hex(text).map_err(|e| {
        Failure::of("--opened", &e)
            .hint("it is the leaf hash of the log's first entry, printed when the log was made")
    })
}

fn auditor_key(path: &Path) -> Result<AuditorKey> {
    let passphrases = EnvironmentPassphrase::new(|name| std::env::var_os(name));
    Ok(AuditorKeyFile::load_private(path, &passphrases)?)
}

fn once<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<()> {
    if slot.replace(value).is_some() {
        return Err(Failure::new(format!("{what} is given twice")));
    }
    Ok(())
}

fn needed<T>(slot: Option<T>, what: &str) -> Result<T> {
    slot.ok_or_else(|| Failure::new(format!("{what} is missing")).hint("audit-verify --help"))
}

fn log(args: &mut lexopt::Parser) -> Result<u8> {
    let (mut path, mut key, mut auditor) = (None, None, None);
    let (mut opened, mut gap_max, mut fresh_within, mut unpublished_max) = (None, None, None, None);
    let (mut full, mut parts, mut json) = (false, true, false);
    let mut remembered = Vec::new();
    while let Some(arg) = args.next()? {
        match arg {
            Value(value) => once(&mut path, PathBuf::from(value), "EXPORT")?,
            Long("vkey") => once(&mut key, vkey(args.value()?)?, "--vkey")?,
            Long("opened") => once(&mut opened, leaf(&args.value()?)?, "--opened")?,
            Long("auditor-key") => {
                once(&mut auditor, PathBuf::from(args.value()?), "--auditor-key")?;
            }
            Long("checkpoint") => {
                remembered.push(read(Path::new(&args.value()?), "checkpoint", NOTE_LEN_MAX)?);
            }
            Long("gap-max") => once(&mut gap_max, duration(&args.value()?)?, "--gap-max")?,
            Long("fresh-within") => once(
                &mut fresh_within,
                duration(&args.value()?)?,
                "--fresh-within",
            )?,
            Long("unpublished-max") => once(
                &mut unpublished_max,
                duration(&args.value()?)?,
                "--unpublished-max",
            )?,
            Long("full") => full = true,
            Long("no-parts") => parts = false,
            Long("json") => json = true,
            other => return Err(other.unexpected().into()),
        }
    }
    let path = needed(path, "EXPORT")?;
    let vkey = needed(key, "--vkey")?;
    let auditor = auditor.map(|path| auditor_key(&path)).transpose()?;
    let mut policy = Policy::public(vkey, System.now());
    policy.opened = opened;
    policy.auditor = auditor;
    policy.remembered = remembered;
    policy.full = full;
    policy.content = parts;
    policy.gap_max = gap_max;
    policy.fresh_within = fresh_within;
    policy.unpublished_max = unpublished_max.unwrap_or(policy.unpublished_max);
    let file =
        File::open(&path).map_err(|e| Failure::of(&format!("export {}", path.display()), &e))?;
    let verdict = match bundle::Reader::open(file) {
        Ok(evidence) => {
            let mut line = ProgressLine::default();
            let verdict = verify(&evidence, &policy, &mut line);
            line.clear();
            verdict
        }
        Err(e) => Verdict::unreadable(&policy, &e),
    };
    if json {
        print(&format!("{}\n", verdict.to_json()))?;
    } else {
        print(&verdict.to_string())?;
    }
    Ok(verdict.exit_code())
}

fn evidence_bundle(args: &mut lexopt::Parser) -> Result<u8> {
    let (mut path, mut auditor, mut json) = (None, None, false);
    let mut policy = BundlePolicy::default();
    while let Some(arg) = args.next()? {
        match arg {
            Value(value) => once(&mut path, PathBuf::from(value), "BUNDLE")?,
            Long("vkey") => once(&mut policy.vkey, vkey(args.value()?)?, "--vkey")?,
            Long("opened") => once(&mut policy.opened, leaf(&args.value()?)?, "--opened")?,
            Long("auditor-key") => {
                once(&mut auditor, PathBuf::from(args.value()?), "--auditor-key")?;
            }
            Long("checkpoint") => {
                let note = read(Path::new(&args.value()?), "checkpoint", NOTE_LEN_MAX)?;
                policy.remembered.push(note);
            }
            Long("json") => json = true,
            other => return Err(other.unexpected().into()),
        }
    }
    let path = needed(path, "BUNDLE")?;
    policy.auditor = auditor.map(|path| auditor_key(&path)).transpose()?;
    let file =
        File::open(&path).map_err(|e| Failure::of(&format!("bundle {}", path.display()), &e))?;
    let verdict = verify_bundle(file, &policy);
    if json {
        print(&format!("{}\n", verdict.to_json()))?;
    } else {
        print(&verdict.to_string())?;
    }
    Ok(verdict.exit_code())
}

/// How far verification has come, in one line on stderr, where that is a terminal.
#[derive(Default)]
struct ProgressLine {
    /// The stage and the tenth of a per cent that the line shows.
    shown: Option<(Stage, u64)>,
}

impl ProgressLine {
    const WIDTH: usize = 40;

    fn clear(&self) {
        if self.shown.is_some() {
            // Nobody misses a line that can't be written.
            drop(std::io::stderr().write_all(b"\r\x1b[K"));
        }
    }
}

impl Progress for ProgressLine {
    fn at(&mut self, stage: Stage, done: u64, total: u64) {
        let parts = u128::from(done.min(total)) * 1000 / u128::from(total.max(1));
        let now = (stage, u64::try_from(parts).unwrap_or(1000));
        if self.shown == Some(now) || !std::io::stderr().is_terminal() {
            return;
        }
        self.shown = Some(now);
        let name = match stage {
            Stage::Entries => "entries",
            Stage::Tokens => "tokens",
            Stage::Keys => "keys",
            _ => "",
        };
        let filled = usize::try_from(parts).unwrap_or(1000) * Self::WIDTH / 1000;
        let bar: String = (0..Self::WIDTH)
            .map(|i| if i < filled { '#' } else { ' ' })
            .collect();
        let line = format!("\r{name:<8} [{bar}] {done}/{total}\x1b[K");
        drop(std::io::stderr().write_all(line.as_bytes()));
    }
}

fn proof(args: &mut lexopt::Parser) -> Result<u8> {
    let (mut path, mut key, mut entry) = (None, None, None);
    while let Some(arg) = args.next()? {
        match arg {
            Value(value) => once(&mut path, PathBuf::from(value), "the proof")?,
            Long("vkey") => once(&mut key, vkey(args.value()?)?, "--vkey")?,
            Long("entry") => once(&mut entry, PathBuf::from(args.value()?), "--entry")?,
            other => return Err(other.unexpected().into()),
        }
    }
    let proof = read(&needed(path, "the proof")?, "proof", PROOF_LEN_MAX)?;
    let entry = read(
        &needed(entry, "--entry")?,
        "entry",
        audit_core::entry::ENTRY_BYTES_MAX,
    )?;
    let vkey = needed(key, "--vkey")?;
    let proof = TlogProof::parse(&proof).map_err(|e| Failure::of("the proof can't be read", &e))?;
    match audit_verify::proof(&proof, &entry, &vkey) {
        Ok(checkpoint) => {
            print(&format!(
                "HELD: the entry is number {} of the log {}\ncheckpoint  size {}, root {}\npublic key  {vkey}\n\
                 leaf hash   {}\nnot checked: every other entry of the log\n",
                proof.index,
                checkpoint.origin,
                checkpoint.size,
                checkpoint.root,
                leaf_hash(&entry),
            ))?;
            Ok(0)
        }
        Err(refused) => {
            let failure = Failure::of("", &refused);
            let word = if refused.is_contradiction() {
                "CONTRADICTED"
            } else {
                "UNDECIDED"
            };
            print(&format!(
                "{word}: {}\npublic key  {vkey}\n",
                one_line(&failure.message)
            ))?;
            Ok(if refused.is_contradiction() { 1 } else { 2 })
        }
    }
}

fn keygen(args: &mut lexopt::Parser) -> Result<u8> {
    let mut paths = Vec::new();
    let mut sealed = true;
    while let Some(arg) = args.next()? {
        match arg {
            Value(value) if paths.len() < 2 => paths.push(PathBuf::from(value)),
            Long("no-passphrase") => sealed = false,
            other => return Err(other.unexpected().into()),
        }
    }
    let [private, public] = paths.as_slice() else {
        return Err(
            Failure::new("PRIVATE-FILE and PUBLIC-FILE are needed").hint("audit-verify --help")
        );
    };
    let key = AuditorKey::random(&System);
    if sealed {
        let passphrase = EnvironmentPassphrase::new(|name| std::env::var_os(name))
            .passphrase(&format!("{}", private.display()))
            .map_err(|e| {
                Failure::of("", &e).hint(format!(
                    "set {PASSPHRASE_FILE_VARIABLE} to a file with the passphrase, or give --no-passphrase"
                ))
            })?;
        let protection = Protection::Passphrase(&passphrase, KdfCost::STANDARD);
        AuditorKeyFile::write_private(private, &key, &protection, &System)?;
    } else {
        AuditorKeyFile::write_private(private, &key, &Protection::None, &System)?;
    }
    AuditorKeyFile::write_public(public, key.public())?;
    print(&format!("{}\n", key.public().0))?;
    Ok(0)
}
