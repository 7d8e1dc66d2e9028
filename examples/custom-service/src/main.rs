//! `custom-service`: see README.md.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use audit_core::chain::AuditorKey;
use audit_core::keyring::{
    AuditorKeyFile, EnvironmentPassphrase, KdfCost, KeyRing, KeyUri, PassphraseSource as _,
    Protection,
};
use audit_core::log::{Log, LogOptions};
use audit_core::time::System;
use audit_store_sqlite::{OpenMode, SqliteStore};
use custom_service::service::{Upstream, router};

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|e| format!("{name}: {e}"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(variable("SERVICE_DIR")?);
    // Apart from the log: it is what shows that an older log was put back.
    let state_dir = PathBuf::from(variable("SERVICE_STATE_DIR")?);
    let upstream = Upstream {
        base: variable("SERVICE_UPSTREAM")?,
        model: variable("SERVICE_MODEL")?,
    };
    let listen = std::env::var("SERVICE_LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());

    let (file, uri) = (dir.join("log.db"), KeyUri::File(dir.join("log.key")));
    let passphrases = EnvironmentPassphrase::new(|name| std::env::var_os(name));
    let log = if file.exists() {
        let store = Arc::new(SqliteStore::open(&file, OpenMode::ReadWrite)?);
        let keys = Arc::new(KeyRing::load(&uri, &passphrases)?);
        let mut options = LogOptions::new(store, keys);
        options.state_dir = Some(state_dir);
        Log::open(options).await?
    } else {
        let passphrase = passphrases.passphrase("the new key ring")?;
        let auditor = AuditorKey::random(&System);
        let auditor_file = dir.join("auditor.key");
        AuditorKeyFile::write_private(&auditor_file, &auditor, &Protection::None, &System)?;
        let keys = KeyRing::generate("service.example/ask", auditor.public(), &System)?;
        let sealed = Protection::Passphrase(&passphrase, KdfCost::STANDARD);
        keys.store_new(&uri, &sealed, &System)?;
        println!("public key of the log: {}", keys.vkey());
        println!("carry away, and leave no copy: {}", auditor_file.display());
        let store = Arc::new(SqliteStore::create_file(&file)?);
        let mut options = LogOptions::new(store, Arc::new(keys));
        options.state_dir = Some(state_dir);
        Log::create(options).await?
    };

    let listener = tokio::net::TcpListener::bind(&listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let served = axum::serve(listener, router(log.clone(), upstream))
        .with_graceful_shutdown(async {
            // Without a handler the signal ends the process as it always does.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
        .await;
    // The run is closed whatever happened, so that the log says that it ended in order.
    log.close().await?;
    Ok(served?)
}
