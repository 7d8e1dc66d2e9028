//! `audit-trail demo`: the main job on a temporary log.

mod agent;
mod provider;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit_core::keyring::{AuditorKeyFile, KeyUri};
use audit_core::log::{Log, LogOptions};
use audit_core::reader::LogReader;
use audit_gateway::{Config, Gateway, Upstream};

use crate::cli::DemoArgs;
use crate::commands::{Made, Request, Wanted, make_log, run_verifier};
use crate::config::{CONFIG_NAME, ConfigFile};
use crate::context::StoreUrl;
use crate::error::{CliError, Result, chain};
use crate::output;

/// The truth, and what the manipulation writes in its place.
const FORGED: (&str, &str) = ("approval.granted", "approval.rejected");

pub(crate) async fn run(args: &DemoArgs) -> Result<u8> {
    let temporary;
    let folder = if let Some(folder) = &args.keep {
        std::fs::create_dir(folder).map_err(|e| {
            CliError::because(format!("folder {} can't be made", folder.display()), &e).code(2)
        })?;
        folder.canonicalize()?
    } else {
        temporary = tempfile::tempdir()?;
        temporary.path().to_owned()
    };
    let store_path = folder.join("audit-trail.db");
    let made = make(&folder, &store_path).await?;

    step("1", "an agent works through the gateway");
    session(&folder, &store_path, &made).await?;

    step(
        "2",
        "what the log holds (decrypted with the operator's keys)",
    );
    let url = format!("sqlite:{}", store_path.display());
    {
        let reader = LogReader::new(
            url.parse::<StoreUrl>()?.read().await?,
            Arc::clone(&made.keys),
        );
        output::line(crate::commands::log_header())?;
        let size = reader.size().await?;
        for index in 0..size {
            output::line(crate::commands::log_row(&reader.record(index).await?))?;
        }
    }
    let raw = std::fs::read(&store_path)?;
    let marker = agent::SECRET_PHRASE.as_bytes();
    let found = raw.windows(marker.len()).any(|w| w == marker);
    output::line(format_args!(
        "\nthe raw database file has {} bytes; a search for the words of the conversation {}",
        raw.len(),
        if found { "FINDS them" } else { "finds nothing" }
    ))?;

    step(
        "3",
        "verify: signatures, tree, columns, tokens, MAC chain, content",
    );
    let vkey = made
        .vkey
        .parse()
        .map_err(|e: audit_tlog::note::NoteError| CliError::because("public key", &e))?;
    let auditor =
        AuditorKeyFile::load_private(&folder.join("auditor.key"), &crate::context::passphrases())?;
    let request = Request {
        vkey,
        opened: Some(made.opened),
        auditor: Some(auditor),
        keys: Some(Arc::clone(&made.keys)),
        full: true,
        ..Request::new(&folder.join("state"), made.keys.vkey())?
    };
    let honest = run_verifier(url.parse::<StoreUrl>()?.read().await?, request.clone()).await?;
    output::line(&honest)?;

    step(
        "4",
        &format!(
            "somebody with the file, but no key, turns {} into {}",
            FORGED.0, FORGED.1
        ),
    );
    let tampered = tamper(&folder, &store_path, &made)?;
    let url = format!("sqlite:{}", tampered.display());
    let caught = run_verifier(url.parse::<StoreUrl>()?.read().await?, request).await?;
    output::line(&caught)?;

    if honest.exit_code() != 0 || caught.exit_code() != 1 || found {
        return Err(CliError::new("the demo didn't show what it should"));
    }
    if args.keep.is_some() {
        let config = |dir: &Path| dir.join(CONFIG_NAME).display().to_string();
        output::note(&format!("\nthe files are in {}; try", folder.display()));
        output::note(&format!("  audit-trail --config {} log", config(&folder)));
        output::note(&format!(
            "  audit-trail --config {} verify    # exit code 0",
            config(&folder)
        ));
        output::note(&format!(
            "  audit-trail --config {} verify    # exit code 1",
            config(&folder.join("tampered"))
        ));
    } else {
        output::note("\nthe files were in a temporary folder and are gone; --keep DIR keeps them");
    }
    Ok(0)
}

fn step(number: &str, text: &str) {
    output::note(&format!("\n== {number}. {text}"));
}

async fn make(folder: &Path, store_path: &Path) -> Result<Made> {
    let store_url = format!("sqlite:{}", store_path.display());
    let key_path = folder.join("audit-trail.key");
    make_log(Wanted {
        origin: "demo.example/ward-7".to_owned(),
        store: store_url.parse()?,
        store_url,
        key: KeyUri::File(key_path.clone()),
        key_uri: format!("file:{}", key_path.display()),
        state_dir: folder.join("state"),
        config: folder.join(CONFIG_NAME),
        auditor: Err(folder.join("auditor.key")),
        passphrase: None,
        succession: None,
        ca: None,
    })
    .await
}

async fn session(folder: &Path, store_path: &Path, made: &Made) -> Result<()> {
    let provider = provider::start().await?;
    let store = format!("sqlite:{}", store_path.display())
        .parse::<StoreUrl>()?
        .open()
        .await?;
    let mut options = LogOptions::new(store, Arc::clone(&made.keys));
    options.state_dir = Some(folder.join("state"));
    let log = Log::open(options).await?;
    let outcome = through_gateway(&log, provider.address()).await;
    let closed = log.close().await;
    provider.stop();
    outcome?;
    closed?;
    Ok(())
}

async fn through_gateway(log: &Log, provider: std::net::SocketAddr) -> Result<()> {
    let failed = |e: audit_gateway::Error| CliError::because("the gateway can't run", &e);
    let mut config = Config::new(Arc::new(crate::commands::Stderr));
    for upstream in config.upstreams.values_mut() {
        *upstream = Upstream::new(&format!("http://{provider}")).map_err(failed)?;
    }
    let bound = Gateway::bind(config, log.clone()).await.map_err(failed)?;
    let address = bound.local_addr();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let gateway = tokio::spawn(bound.serve(async {
        // Either way the gateway is to stop.
        drop(stopped.await);
    }));
    let outcome = agent::run(address, log).await;
    drop(stop);
    gateway
        .await
        .map_err(|e| CliError::new(format!("the gateway was stopped: {}", chain(&e))))?
        .map_err(failed)?;
    outcome
}

/// Copies the store and changes the copy as somebody with `sqlite3` would: the row's column and the entry itself, and
/// with them every index.
fn tamper(folder: &Path, store_path: &Path, made: &Made) -> Result<PathBuf> {
    let dir = folder.join("tampered");
    std::fs::create_dir(&dir)?;
    let copy = dir.join("audit-trail.db");
    std::fs::copy(store_path, &copy)?;
    forge(&copy)?;
    let file = ConfigFile {
        store: Some(format!("sqlite:{}", copy.display())),
        key: Some(format!("file:{}", folder.join("audit-trail.key").display())),
        state_dir: Some(folder.join("state")),
        vkey: Some(made.vkey.clone()),
        opened: Some(made.opened.to_string()),
        ..ConfigFile::default()
    };
    std::fs::write(dir.join(CONFIG_NAME), file.to_text()?)?;
    Ok(copy)
}

#[cfg(feature = "sqlite")]
fn forge(copy: &Path) -> Result<()> {
    use audit_core::packed::{pack, unpack};
    let failed = |e: rusqlite::Error| CliError::because("the copy can't be changed", &e);
    let (truth, lie) = FORGED;
    let file = rusqlite::Connection::open(copy).map_err(failed)?;
    let (index, packed): (i64, Vec<u8>) = file
        .query_row(
            "SELECT idx, entry FROM entry WHERE kind = ?1",
            [truth],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .map_err(failed)?;
    let entry = String::from_utf8(unpack(&packed)?)
        .map_err(|e| CliError::because("the entry is not text", &e))?;
    let forged = pack(entry.replace(truth, lie).as_bytes());
    file.execute(
        "UPDATE entry SET kind = ?1, entry = ?2 WHERE idx = ?3",
        (lie, forged, index),
    )
    .map_err(failed)?;
    output::note(&format!(
        "   (UPDATE entry SET kind = '{lie}', entry = … WHERE idx = {index})"
    ));
    Ok(())
}

#[cfg(not(feature = "sqlite"))]
fn forge(_: &Path) -> Result<()> {
    Err(CliError::new("this build has no SQLite"))
}
