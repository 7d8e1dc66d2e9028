//! `audit-trail ca`, and what interception needs of it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit_core::keyring::{CaKey, CaKeyFile, KdfCost, Passphrase, Protection};
use audit_core::time::System;
use audit_gateway::{
    CertificateAuthority, Config, HostPattern, Intercept, TunnelPolicy, provider_hosts,
};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};

use crate::cli::CaCommand;
use crate::config::{OthersFile, Settings};
use crate::context::{Context, now, passphrases};
use crate::error::{CliError, Result};
use crate::output;

pub(super) const CA_FILE: &str = "audit-trail-ca.key";

pub(crate) fn run(context: &Context, command: &CaCommand) -> Result<u8> {
    match command {
        CaCommand::Create {
            hosts,
            file,
            no_passphrase,
        } => create(context, hosts, file.as_deref(), *no_passphrase),
        CaCommand::Show => show(&context.settings),
    }
}

fn create(
    context: &Context,
    hosts: &[String],
    file: Option<&Path>,
    no_passphrase: bool,
) -> Result<u8> {
    let settings = &context.settings;
    let here = std::env::current_dir()
        .map_err(|e| CliError::because("the current folder can't be read", &e))?;
    let beside = || {
        let folder = settings.file.as_deref().and_then(Path::parent);
        here.join(folder.unwrap_or(Path::new(""))).join(CA_FILE)
    };
    let configured = settings.serve.intercept.ca.as_deref();
    let path = match (file, configured) {
        (Some(file), _) => here.join(file),
        (None, Some(configured)) => configured.to_owned(),
        (None, None) => beside(),
    };
    let hosts = match hosts {
        [] => provider_hosts(),
        hosts => super::serve::patterns(hosts, "--host")?,
    };
    let origin = context.keys()?.origin().to_owned();
    let passphrase = if no_passphrase {
        None
    } else {
        Some(super::init::new_passphrase()?)
    };
    let key = write(&path, &origin, &hosts, passphrase.as_ref()).map_err(|e| {
        e.hint(
            "a key file is never overwritten: move the old one away, or give another with --file",
        )
    })?;
    tell(&path, &key);
    if configured != Some(path.as_path()) {
        output::note("put it into the settings:");
        output::note(&format!(
            "  [serve.intercept]\n  ca = {:?}",
            path.display().to_string()
        ));
    }
    Ok(0)
}

/// Makes an authority: its key file, and its certificate as PEM beside it. If the second can't be written, the first is
/// removed again.
pub(super) fn write(
    path: &Path,
    origin: &str,
    hosts: &[HostPattern],
    passphrase: Option<&Passphrase>,
) -> Result<CaKey> {
    let key = CertificateAuthority::generate(origin, hosts, now())
        .map_err(|e| CliError::because("the certificate authority", &e))?;
    let protection = match passphrase {
        Some(passphrase) => Protection::Passphrase(passphrase, KdfCost::STANDARD),
        None => Protection::None,
    };
    CaKeyFile::create(path, &key, &protection, &System)?;
    let certificate = certificate_path(path);
    let written = std::fs::File::create_new(&certificate).and_then(|mut file| {
        file.write_all(pem(&key.certificate).as_bytes())
            .and_then(|()| file.sync_all())
    });
    if let Err(e) = written {
        drop(std::fs::remove_file(path));
        let what = format!("{}", certificate.display());
        return Err(if e.kind() == std::io::ErrorKind::AlreadyExists {
            CliError::usage(format!("{what} exists already, and is never overwritten"))
        } else {
            CliError::because(format!("{what} can't be written"), &e)
        });
    }
    Ok(key)
}

/// Takes back what [`write`] made.
pub(super) fn discard(path: &Path) {
    drop(std::fs::remove_file(path));
    drop(std::fs::remove_file(certificate_path(path)));
}

fn certificate_path(key: &Path) -> PathBuf {
    key.with_extension("pem")
}

/// Says what was made, and what it is worth to a thief.
pub(super) fn tell(path: &Path, key: &CaKey) {
    output::note(&format!(
        "interception  {}, for {} hosts, until {}\n              {}: its certificate, which clients of \
         `serve --intercept` have to trust",
        path.display(),
        key.hosts.len(),
        key.not_after,
        certificate_path(path).display(),
    ));
}

fn show(settings: &Settings) -> Result<u8> {
    // What clients are to trust is no secret, so no passphrase is asked for.
    let key = CaKeyFile::load_public(path(settings)?)?;
    output::bytes(pem(&key.certificate).as_bytes())?;
    output::note(&format!("name         {}", key.name));
    output::note(&format!("log          {}", key.origin));
    output::note(&format!("ends         {}", key.not_after));
    output::note(&format!(
        "SHA-256      {}",
        audit_core::hex::encode(&Sha256::digest(&key.certificate))
    ));
    output::note("may issue certificates for these hosts, and for no other:");
    for host in &key.hosts {
        output::note(&format!("  {host}"));
    }
    Ok(0)
}

fn path(settings: &Settings) -> Result<&Path> {
    settings.serve.intercept.ca.as_deref().ok_or_else(|| {
        CliError::usage("there is no certificate authority in the settings")
            .hint("make one with `audit-trail ca create`")
    })
}

fn load(settings: &Settings) -> Result<CaKey> {
    Ok(CaKeyFile::load(path(settings)?, &passphrases())?)
}

/// Whether the settings name an authority.
pub(super) fn is_there(settings: &Settings) -> bool {
    settings.serve.intercept.ca.is_some()
}

/// Interception as the settings have it.
pub(super) fn intercept(settings: &Settings) -> Result<Intercept> {
    let authority = CertificateAuthority::open(load(settings)?, now()).map_err(|e| {
        CliError::because("the certificate authority", &e)
            .code(2)
            .hint("make another with `audit-trail ca create --file FILE`")
    })?;
    let intercepted = &settings.serve.intercept;
    let hosts = match &intercepted.hosts {
        Some(hosts) => super::serve::patterns(hosts, "serve.intercept.hosts")?,
        // An older authority may not know a provider that came later; that one is passed through, not refused.
        None => provider_hosts()
            .into_iter()
            .filter(|host| authority.allows(host))
            .collect(),
    };
    let mut intercept = Intercept::new(Arc::new(authority), hosts);
    if intercepted.others == Some(OthersFile::Refuse) {
        intercept.others = TunnelPolicy::Refuse;
    }
    intercept.on_audit_failure = super::serve::guarantee(settings, intercepted.on_audit_failure);
    Ok(intercept)
}

/// Checks a gateway's settings again, with interception.
pub(super) fn check(config: &Config) -> Result<()> {
    config.check().map_err(|e| {
        CliError::because("the gateway's settings", &e).code(2).hint(
            "the authority's certificate lists its hosts: make another with `audit-trail ca create --host …`",
        )
    })
}

/// A certificate as RFC 7468 writes it.
pub(super) fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
