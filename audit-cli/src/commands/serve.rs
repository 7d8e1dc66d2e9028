//! `audit-trail serve`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use audit_core::event::SystemRef;
use audit_gateway::{Config, Gateway, Upstream};

use crate::cli::ServeArgs;
use crate::config::Settings;
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output;

/// The gateway's settings after flags, file and defaults.
pub(crate) struct Effective {
    pub(crate) listen: String,
    pub(crate) upstreams: BTreeMap<String, String>,
}

const LISTEN: &str = "127.0.0.1:8484";
const UPSTREAMS: [(&str, &str); 2] = [
    ("anthropic", "https://api.anthropic.com"),
    ("openai", "https://api.openai.com"),
];

pub(crate) fn effective(
    settings: &Settings,
    listen: Option<&str>,
    upstreams: &[String],
) -> Result<Effective> {
    let mut all: BTreeMap<String, String> = UPSTREAMS
        .iter()
        .map(|(name, url)| ((*name).to_owned(), (*url).to_owned()))
        .collect();
    all.extend(settings.serve.upstreams.clone());
    for text in upstreams {
        let (name, url) = super::pair("--upstream", text)?;
        all.insert(name.to_owned(), url.to_owned());
    }
    Ok(Effective {
        listen: listen
            .or(settings.serve.listen.as_deref())
            .unwrap_or(LISTEN)
            .to_owned(),
        upstreams: all,
    })
}

/// What the gateway has to say, on stderr.
#[derive(Debug)]
pub(crate) struct Stderr;

impl audit_gateway::Reporter for Stderr {
    fn report(&self, notice: &audit_gateway::Notice) {
        output::note(&format!(
            "gateway: {}",
            output::printable(&notice.to_string())
        ));
    }
}

fn config(settings: &Settings, args: &ServeArgs) -> Result<Config> {
    let effective = effective(settings, args.listen.as_deref(), &args.upstream)?;
    let mut config = Config::new(Arc::new(Stderr));
    config.listen = effective.listen.parse::<SocketAddr>().map_err(|e| {
        CliError::because(format!("listen address {:?}", effective.listen), &e)
            .code(2)
            .hint(format!("write it as IP:PORT, for example {LISTEN}"))
    })?;
    config.upstreams = effective
        .upstreams
        .iter()
        .map(|(name, url)| {
            Upstream::new(url)
                .map(|upstream| (name.clone(), upstream))
                .map_err(|e| {
                    CliError::because(format!("upstream {name}"), &e)
                        .code(2)
                        .hint("for example --upstream openai=https://api.openai.com")
                })
        })
        .collect::<Result<_>>()?;
    let serve = &settings.serve;
    config.system = serve
        .system
        .clone()
        .map(|id| SystemRef { id, version: None });
    let limits = &mut config.limits;
    for (limit, value) in [
        (
            &mut limits.request_body_bytes_max,
            serve.request_body_bytes_max,
        ),
        (
            &mut limits.response_record_bytes_max,
            serve.response_record_bytes_max,
        ),
    ] {
        if let Some(value) = value {
            *limit = usize::try_from(value)
                .map_err(|e| CliError::because(format!("{value} bytes"), &e).code(2))?;
        }
    }
    for (limit, value) in [
        (&mut limits.connect_timeout, serve.connect_timeout_ms),
        (
            &mut limits.response_head_timeout,
            serve.response_head_timeout_ms,
        ),
        (
            &mut limits.response_idle_timeout,
            serve.response_idle_timeout_ms,
        ),
    ] {
        if let Some(value) = value {
            *limit = Duration::from_millis(value);
        }
    }
    Ok(config)
}

fn checked(settings: &Settings, args: &ServeArgs) -> Result<Config> {
    let config = config(settings, args)?;
    config
        .check()
        .map_err(|e| CliError::because("the gateway's settings", &e).code(2))?;
    Ok(config)
}

/// Whether the gateway would run with these settings.
pub(crate) fn check(settings: &Settings) -> Result<()> {
    checked(settings, &ServeArgs::default()).map(drop)
}

pub(crate) async fn run(context: &Context, args: &ServeArgs) -> Result<u8> {
    // Before the log is opened: a wrong setting leaves no run behind.
    let config = checked(&context.settings, args)?;
    let public = !config.listen.ip().is_loopback();
    let upstreams = config.upstreams.clone();
    super::mirror::check(&context.settings)?;
    // The mirror reads with a handle of its own, so that nothing of it waits for the writer or holds it up.
    let mirrored = match &context.settings.mirror.url {
        Some(_) => Some(context.store_url()?.read().await?),
        None => None,
    };
    let log = context.log().await?;
    let mirror = mirrored.map(|source| super::mirror::beside(context, source));
    let mirror = match mirror.transpose() {
        Ok(mirror) => mirror.flatten(),
        Err(e) => {
            // The log matters more than its copy.
            output::note(&format!("warning: nothing is mirrored: {e}"));
            None
        }
    };
    let outcome = serve(config, &log, public, &upstreams).await;
    // The run is closed whatever happened, so that the log says that it ended in order.
    let closed = log.close().await;
    if let Some(mirror) = mirror
        && let Err(e) = mirror.stop().await
    {
        output::note(&format!("warning: {}", output::printable(&e.to_string())));
    }
    let code = outcome?;
    closed?;
    output::note("stopped; the log is closed");
    Ok(code)
}

async fn serve(
    config: Config,
    log: &audit_core::log::Log,
    public: bool,
    upstreams: &BTreeMap<String, Upstream>,
) -> Result<u8> {
    let failed = |e: audit_gateway::Error| {
        let error = CliError::because("the gateway can't run", &e);
        match e.kind() {
            audit_gateway::ErrorKind::Invalid => error.code(2),
            _ => error,
        }
    };
    let bound = Gateway::bind(config, log.clone()).await.map_err(failed)?;
    let address = bound.local_addr();
    output::note(&format!("listening on http://{address}"));
    if public {
        output::note(
            "warning: this address is not loopback; whoever reaches it can use the gateway",
        );
    }
    for (name, upstream) in upstreams {
        output::note(&format!("  http://{address}/{name}/…  →  {upstream}/…"));
    }
    let summary = bound.serve(stopped()).await.map_err(failed)?;
    output::note(&format!(
        "{} connections, {} requests recorded, {} answers recorded, {} requests refused, {} of them because the log \
         couldn't be written",
        summary.connections,
        summary.requests,
        summary.responses,
        summary.refused + summary.refused_unrecorded,
        summary.refused_unrecorded
    ));
    if summary.unrecorded + summary.pending > 0 {
        output::note(&format!(
            "warning: {} answers were not recorded; their requests stand in the log without an answer",
            summary.unrecorded + summary.pending
        ));
    }
    Ok(0)
}

/// SIGTERM or SIGINT.
pub(super) async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupt = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt => {}
            }
        }
        // Without a handler the signal ends the process as it always does.
        Err(_) => drop(interrupt.await),
    }
}
