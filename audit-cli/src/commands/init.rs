//! `audit-trail init`.

use std::io::ErrorKind::{PermissionDenied, Unsupported};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit_core::ErrorKind;
use audit_core::chain::AuditorPublicKey;
use audit_core::keyring::{AuditorKeyFile, KeyRing, KeyUri, Passphrase, PassphraseSource as _};
use audit_core::log::{StateFile, Succession};
use audit_core::time::{IdSource as _, System};
use audit_tlog::Hash;
use audit_tracer::{Auditor, NewLog, NewStore};

use crate::cli::InitArgs;
use crate::config::{CONFIG_NAME, ConfigFile, InterceptFile, ServeFile, Settings, Source};
use crate::context::StoreUrl;
use crate::error::{CliError, Result};
use crate::output;

pub(super) const AUDITOR_FILE: &str = "audit-trail-auditor.key";

/// What the new log is to be.
pub(crate) struct Wanted {
    pub(crate) origin: String,
    pub(crate) store: StoreUrl,
    pub(crate) store_url: String,
    pub(crate) key: KeyUri,
    pub(crate) key_uri: String,
    pub(crate) state_dir: PathBuf,
    pub(crate) config: PathBuf,
    /// The public key of an auditor, or where to put a new key pair.
    pub(crate) auditor: Result<AuditorPublicKey, PathBuf>,
    pub(crate) passphrase: Option<Passphrase>,
    /// The log that it succeeds.
    pub(crate) succession: Option<Succession>,
    /// Where to put the key of a certificate authority for interception.
    pub(crate) ca: Option<PathBuf>,
}

/// What was made.
pub(crate) struct Made {
    pub(crate) vkey: String,
    /// The leaf hash of the first entry, which registers the log's keys.
    pub(crate) opened: Hash,
    pub(crate) keys: Arc<KeyRing>,
}

pub(crate) async fn run(settings: &Settings, args: &InitArgs) -> Result<u8> {
    let here = std::env::current_dir()
        .map_err(|e| CliError::because("the current folder can't be read", &e))?;
    let config = match &settings.file {
        Some(path) => {
            return Err(CliError::usage(format!(
                "there is a configuration file already: {}",
                path.display()
            ))
            .hint("a log is made once; go to another folder to make another one"));
        }
        None => match &settings.named {
            Some(path) => here.join(path),
            None => here.join(CONFIG_NAME),
        },
    };
    // What a flag or the environment says is kept; paths are written whole, so that the file works from every folder.
    let store_url = match &settings.store {
        Some(setting) => setting.value.clone(),
        None => format!("sqlite:{}", here.join("audit-trail.db").display()),
    };
    let key_uri = match &settings.key {
        Some(setting) => setting.value.clone(),
        None => format!("file:{}", here.join("audit-trail.key").display()),
    };
    let store_url = if args.without_object_lock {
        StoreUrl::without_object_lock(&store_url).map_err(|e| {
            CliError::from(e)
                .code(2)
                .hint("leave out --without-object-lock")
        })?
    } else {
        store_url
    };
    let store = crate::context::store_url(&store_url)?.auto_migrate(!settings.no_auto_migrate);
    let key: KeyUri = key_uri
        .parse()
        .map_err(|e: audit_core::Error| CliError::from(e).code(2))?;
    let auditor = match &args.auditor_key {
        Some(path) => Ok(AuditorKeyFile::load_public(path)?),
        None => Err(here.join(AUDITOR_FILE)),
    };
    let origin = match &args.origin {
        Some(origin) => origin.clone(),
        None => default_origin(),
    };
    audit_core::entry::check_origin(&origin).map_err(|e| CliError::from(e).code(2))?;
    let sealed = !args.no_passphrase && matches!(key, KeyUri::File(_));
    let passphrase = if sealed {
        Some(new_passphrase()?)
    } else {
        None
    };
    let wanted = Wanted {
        origin: origin.clone(),
        store_url: absolute(&store_url, "sqlite:", &here),
        key_uri: absolute(&key_uri, "file:", &here),
        store,
        key,
        state_dir: settings.state_dir.value.clone(),
        config: config.clone(),
        auditor,
        passphrase,
        succession: None,
        // The secret service seals a key ring by itself; a file beside it would lie open.
        ca: (sealed || args.no_passphrase).then(|| here.join(super::ca::CA_FILE)),
    };
    let ca_file = wanted.ca.clone();
    let auditor_file = wanted.auditor.as_ref().err().cloned();
    // Without the password that a URL of a server may have.
    let store_shown = if wanted.store.path().is_some() {
        wanted.store_url.clone()
    } else {
        wanted.store.to_string()
    };
    let shown = [store_shown, wanted.key_uri.clone()];
    let place = wanted.store.clone();
    let made = make_log(wanted).await?;

    output::note(&format!("log       {origin}"));
    output::note(&format!("store     {}", shown[0]));
    super::tell_lock(&*place.read().await?, "warning").await?;
    output::note(&format!(
        "keys      {}{}",
        shown[1],
        if args.no_passphrase {
            "  (not sealed: --no-passphrase)"
        } else {
            ""
        }
    ));
    output::note(&format!("settings  {}", config.display()));
    let authority = match &ca_file {
        Some(path) => format!(
            "{}  (signs certificates for `run` and `serve --intercept`; clients trust the .pem beside it)",
            path.display()
        ),
        None => "none; to intercept TLS, make one with `audit-trail ca create`".to_owned(),
    };
    output::note(&format!("authority {authority}"));
    output::note(&format!(
        "state     {}{}",
        settings.state_dir.value.display(),
        if settings.state_dir.source == Source::Default {
            "  (keep it apart from the store and its backups)"
        } else {
            ""
        }
    ));
    output::note("\npublic key of the log; give it to everybody who verifies:");
    output::line(&made.vkey)?;
    output::note("\ncarry away, to where this host's administrators can't reach:");
    output::note(&format!(
        "  - the public key above, and the leaf hash of the first entry, which pins the log's other keys:\n    {}\n  \
         - now and then a checkpoint (`audit-trail checkpoint`)",
        made.opened
    ));
    if let Some(path) = auditor_file {
        output::note(&format!(
            "  - {}: the auditor's private key. Move it, don't copy it. Whoever has it\n    \
             can make the MACs of every run; with it gone, changes inside of closed epochs show to its holder",
            path.display()
        ));
    }
    output::note(
        "  - a copy of the key ring and its passphrase: without them the content can't be read again",
    );
    output::note("\nnext:");
    output::note(
        "  audit-trail run -- CMD …          # record what an agent asks of its providers",
    );
    output::note(
        "  audit-trail serve                 # then point a client at http://127.0.0.1:8484/openai/v1",
    );
    output::note("  audit-trail log --follow          # see what it records");
    output::note("  audit-trail verify                # check all of it");
    Ok(0)
}

/// Makes keys, store, log and configuration file. If a step fails, what the steps before it made is removed again.
pub(crate) async fn make_log(wanted: Wanted) -> Result<Made> {
    let state = StateFile::new(&wanted.state_dir, &wanted.origin);
    let sealing = wanted.passphrase.clone();
    let (ca, origin) = (wanted.ca, wanted.origin.clone());
    let made = NewLog {
        origin: wanted.origin,
        store: NewStore::Url(wanted.store),
        keys: wanted.key,
        state_dir: Some(wanted.state_dir.clone()),
        auditor: match wanted.auditor {
            Ok(public) => Auditor::Public(public),
            Err(path) => Auditor::NewKeyFile(path),
        },
        passphrase: wanted.passphrase,
        succession: wanted.succession,
    }
    .create()
    .await
    .map_err(|e| {
        let remembered = e.kind() == ErrorKind::Invalid && state.path().exists();
        let error = CliError::from(e);
        if remembered {
            error.hint("give the new log another --origin")
        } else {
            error
        }
    })?;
    let vkey = made.vkey.to_string();
    let file = ConfigFile {
        store: Some(wanted.store_url),
        key: Some(wanted.key_uri),
        state_dir: Some(wanted.state_dir),
        vkey: Some(vkey.clone()),
        opened: Some(made.opened.to_string()),
        serve: ServeFile {
            intercept: InterceptFile {
                ca: ca.clone(),
                ..InterceptFile::default()
            },
            ..ServeFile::default()
        },
        ..ConfigFile::default()
    };
    let authority = match &ca {
        Some(path) => {
            let hosts = audit_gateway::provider_hosts();
            super::ca::write(path, &origin, &hosts, sealing.as_ref()).map(drop)
        }
        None => Ok(()),
    };
    if let Err(e) = authority {
        made.discard();
        return Err(e);
    }
    let written = file
        .to_text()
        .and_then(|text| write_new(&wanted.config, text.as_bytes()));
    if let Err(e) = written {
        if let Some(path) = &ca {
            super::ca::discard(path);
        }
        made.discard();
        return Err(e);
    }
    Ok(Made {
        vkey,
        opened: made.opened,
        keys: made.keys,
    })
}

/// Writes a new file, durably: after a crash or a power cut it is there whole or not at all, so that no log goes by half of
/// its settings.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut fresh = std::ffi::OsString::from(".");
        fresh.push(path.file_name().unwrap_or_default());
        fresh.push(format!(".{}.new", std::process::id()));
        let fresh = folder.join(fresh);
        // What a process left that had this number and died here is in nobody's way.
        let mut file = std::fs::File::create(&fresh)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        let named = file
            .write_all(bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::hard_link(&fresh, path));
        std::fs::remove_file(&fresh)?;
        match named {
            // A file system without links: there the file may stay torn.
            Err(e) if matches!(e.kind(), Unsupported | PermissionDenied) => {
                let mut file = std::fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o644)
                    .open(path)?;
                file.write_all(bytes).and_then(|()| file.sync_all())?;
            }
            named => named?,
        }
        std::fs::File::open(folder)?.sync_all()
    };
    write().map_err(|e| CliError::because(format!("{} can't be written", path.display()), &e))
}

/// `scheme:relative` with the path made absolute.
fn absolute(url: &str, scheme: &str, here: &Path) -> String {
    match url.strip_prefix(scheme) {
        Some(path) if Path::new(path).is_relative() => {
            format!("{scheme}{}", here.join(path).display())
        }
        _ => url.to_owned(),
    }
}

/// The host's name and a random part: good enough to be unique, and it says that nobody chose it.
fn default_origin() -> String {
    let host: String = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
        .take(64)
        .collect();
    let mut random = [0; 4];
    System.fill(&mut random);
    format!(
        "{}/audit-trail/{}",
        if host.is_empty() { "host" } else { &host },
        audit_core::hex::encode(&random)
    )
}

/// The passphrase for new key files: from where a later start finds it, else asked for twice.
pub(super) fn new_passphrase() -> Result<Passphrase> {
    let hint = "set AUDIT_TRAIL_PASSPHRASE_FILE to a file with the passphrase, use the systemd credential \
                audit-trail-passphrase, run this in a terminal, or say --no-passphrase";
    let unattended = audit_core::keyring::EnvironmentPassphrase::new(crate::context::environment);
    match unattended.passphrase("the new key ring") {
        Ok(passphrase) => return Ok(passphrase),
        Err(e) if !std::io::IsTerminal::is_terminal(&std::io::stdin()) => {
            return Err(CliError::from(e).code(2).hint(hint));
        }
        // Only a source that is there and can't be used is an error for somebody at a terminal.
        Err(e) if crate::context::environment("AUDIT_TRAIL_PASSPHRASE_FILE").is_some() => {
            return Err(CliError::from(e).code(2).hint(hint));
        }
        Err(_) => {}
    }
    let read = |prompt: &str| {
        rpassword::prompt_password(prompt)
            .map(zeroize::Zeroizing::new)
            .map_err(|e| CliError::because("the passphrase can't be read", &e))
    };
    let first = read("New passphrase for the key ring: ")?;
    let second = read("Again: ")?;
    if *first != *second {
        return Err(CliError::usage("the two passphrases differ"));
    }
    Ok(Passphrase::new(first.as_bytes().to_vec())?)
}
