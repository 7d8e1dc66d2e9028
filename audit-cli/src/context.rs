//! What every command starts from.

use std::ffi::OsString;
use std::sync::Arc;

use audit_capture::redaction::Redactor;
use audit_core::ingest::Ingest;
use audit_core::keyring::{EnvironmentPassphrase, KeyRing, KeyUri, Passphrase};
use audit_core::log::{Log, LogOptions};
use audit_core::reader::LogReader;
use audit_core::time::{Clock, System, Timestamp};
use audit_tlog::note::VerifierKey;
pub(crate) use audit_tracer::StoreUrl;

use crate::config::{Settings, Source};
use crate::error::{CliError, Result};

/// Settings and how to open what they name.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) settings: Settings,
}

/// The process's environment.
pub(crate) fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Where passphrases come from: a file, a systemd credential, or the person at the terminal.
pub(crate) fn passphrases() -> EnvironmentPassphrase<'static> {
    let source = EnvironmentPassphrase::new(environment);
    if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        source.with_prompt(|what| {
            let text = rpassword::prompt_password(format!("Passphrase of {what}: "))
                .map_err(|e| audit_core::Error::key("the passphrase can't be read").because(e))?;
            Passphrase::new(text.into_bytes())
        })
    } else {
        source
    }
}

impl Context {
    pub(crate) fn store_url(&self) -> Result<StoreUrl> {
        let text = self.settings.store()?;
        let setting = self.settings.store.as_ref().map(|s| &s.source);
        let url = match setting {
            Some(Source::Environment(_)) => parse_url(text)?,
            _ => store_url(text)?,
        };
        Ok(url.auto_migrate(!self.settings.no_auto_migrate))
    }

    /// The log's keys.
    pub(crate) fn keys(&self) -> Result<Arc<KeyRing>> {
        let uri: KeyUri = self
            .settings
            .key()?
            .parse()
            .map_err(|e: audit_core::Error| CliError::from(e).code(2))?;
        KeyRing::load(&uri, &passphrases()).map(Arc::new).map_err(|e| {
            CliError::from(e).hint(
                "the key ring is where `audit-trail init` put it; its passphrase is read from the file that \
                 AUDIT_TRAIL_PASSPHRASE_FILE names, from the systemd credential audit-trail-passphrase, or asked for",
            )
        })
    }

    /// Options for a writer run.
    pub(crate) async fn log_options(&self) -> Result<LogOptions> {
        // Before the store is opened: a wrong rule leaves nothing behind.
        let redactor = self.redactor()?;
        let store = self.store_url()?.open().await?;
        let mut options = LogOptions::new(store, self.keys()?);
        options.state_dir = Some(self.settings.state_dir.value.clone());
        options.ingest = redactor.map(|redactor| redactor as Arc<dyn Ingest>);
        Ok(options)
    }

    /// What the settings say is redacted; nothing without a section `redaction`.
    pub(crate) fn redactor(&self) -> Result<Option<Arc<Redactor>>> {
        crate::redaction::redactor(&self.settings).map(|r| r.map(Arc::new))
    }

    /// The log, opened for writing.
    pub(crate) async fn log(&self) -> Result<Log> {
        Ok(Log::open(self.log_options().await?).await?)
    }

    /// A read handle that decrypts.
    pub(crate) async fn reader(&self) -> Result<LogReader> {
        let store = self.store_url()?.read().await?;
        Ok(LogReader::new(store, self.keys()?))
    }

    /// The public key of the log: from `flag` (a key, or `@FILE`), else from the configuration.
    pub(crate) fn vkey(&self, flag: Option<&str>) -> Result<VerifierKey> {
        let (text, whose) = match (flag, &self.settings.vkey) {
            (Some(flag), _) => match flag.strip_prefix('@') {
                Some(path) => (
                    std::fs::read_to_string(path).map_err(|e| {
                        CliError::because(format!("{path} can't be read"), &e).code(2)
                    })?,
                    path.to_owned(),
                ),
                None => (flag.to_owned(), "--vkey".to_owned()),
            },
            (None, Some(setting)) => (setting.value.clone(), setting.source.to_string()),
            (None, None) => {
                return Err(CliError::usage("the public key of the log is not known").hint(
                    "give --vkey KEY, or a configuration file with `vkey`; `audit-trail init` printed it",
                ));
            }
        };
        text.trim()
            .parse()
            .map_err(|e: audit_tlog::note::NoteError| {
                CliError::because(format!("the public key from {whose} is wrong"), &e).code(2)
            })
    }
}

/// The store that a URL names, in a flag or in the settings, where everybody who may list processes or read the file
/// would find a password.
pub(crate) fn store_url(url: &str) -> Result<StoreUrl> {
    let url = parse_url(url)?;
    if url.has_password() {
        return Err(
            CliError::usage("the store URL has a password, which doesn't belong into flags or settings").hint(
                "leave it out of the URL, and put it into ~/.pgpass or PGPASSWORD; AUDIT_TRAIL_STORE may have it",
            ),
        );
    }
    Ok(url)
}

fn parse_url(url: &str) -> Result<StoreUrl> {
    url.parse().map_err(|e: audit_core::Error| {
        CliError::from(e).code(2).hint(
            "write it like sqlite:/var/lib/audit-trail/log.db, postgres://USER@HOST/DATABASE or s3://BUCKET/PREFIX",
        )
    })
}

/// Now.
pub(crate) fn now() -> Timestamp {
    System.now()
}

/// `90s`, `15m`, `2h`, `7d`.
pub(crate) fn duration(text: &str) -> Result<std::time::Duration> {
    let wrong = || {
        CliError::usage(format!(
            "{text:?} is not a duration like 90s, 15m, 2h or 7d"
        ))
    };
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    text.strip_suffix(unit)
        .and_then(|number| number.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(seconds))
        .map(std::time::Duration::from_secs)
        .ok_or_else(wrong)
}

/// RFC 3339, or a duration back from now.
pub(crate) fn time(text: &str) -> Result<Timestamp> {
    if let Ok(back) = duration(text) {
        let micros = i64::try_from(back.as_micros()).unwrap_or(i64::MAX);
        return Ok(now().plus_micros(-micros));
    }
    Timestamp::parse_rfc3339(text).map_err(|e| {
        CliError::from(e)
            .code(2)
            .hint("write a time like 2026-11-22T04:00:00Z, or a duration back from now like 2h")
    })
}
