//! `audit-trail serve`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use audit_core::event::{Guarantee, SystemRef};
use audit_core::log::{Log, StateFile};
use audit_gateway::{Config, Gateway, HostPattern, Intercept, SpoolConfig, Upstream};

use crate::cli::ServeArgs;
use crate::config::{OnAuditFailure, Settings, UpstreamFile};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output;

/// The gateway's settings after flags, file and defaults.
pub(crate) struct Effective {
    pub(crate) listen: String,
    pub(crate) upstreams: BTreeMap<String, UpstreamFile>,
}

/// How long a batch of unknown outcome is asked for where calls go on without the log.
const RESOLVE: Duration = Duration::from_hours(24 * 7);

const LISTEN: &str = "127.0.0.1:8484";

pub(crate) fn effective(
    settings: &Settings,
    listen: Option<&str>,
    upstreams: &[String],
) -> Result<Effective> {
    let mut all: BTreeMap<String, UpstreamFile> = audit_capture::base_urls()
        .into_iter()
        .map(|(name, url)| (name.to_owned(), UpstreamFile::from(url)))
        .collect();
    let listen = listen
        .or(settings.serve.listen.as_deref())
        .unwrap_or(LISTEN);
    // What listens to others must not lead them to this machine's own servers unless somebody says so.
    let to_others = listen
        .parse::<SocketAddr>()
        .is_ok_and(|address| !address.ip().is_loopback());
    if to_others {
        all.retain(|_, upstream| !upstream.url().starts_with("http://127."));
    }
    all.extend(settings.serve.upstreams.clone());
    for text in upstreams {
        let (name, url) = super::pair("--upstream", text)?;
        all.insert(name.to_owned(), UpstreamFile::from(url));
    }
    Ok(Effective {
        listen: listen.to_owned(),
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

fn upstream(name: &str, file: &UpstreamFile) -> Result<Upstream> {
    let wrong = |e: audit_gateway::Error| {
        CliError::because(format!("upstream {name}"), &e)
            .code(2)
            .hint("for example --upstream openai=https://api.openai.com")
    };
    let upstream = Upstream::new(file.url()).map_err(wrong)?;
    let UpstreamFile::Table(table) = file else {
        return Ok(upstream);
    };
    let upstream = upstream.on_hosts(patterns(&table.hosts, &format!("upstream {name}"))?);
    Ok(match &table.provider {
        Some(provider) => upstream.speaking(provider),
        None => upstream,
    })
}

/// What becomes of calls that can't be recorded, where `own` is what their route says.
pub(super) fn guarantee(settings: &Settings, own: Option<OnAuditFailure>) -> Guarantee {
    match own.or(settings.serve.on_audit_failure) {
        Some(OnAuditFailure::Open) => Guarantee::Open,
        Some(OnAuditFailure::Spool) => Guarantee::Spool,
        Some(OnAuditFailure::Closed) | None => Guarantee::Closed,
    }
}

/// Whether any route goes on without the log.
fn goes_on(settings: &Settings) -> bool {
    let serve = &settings.serve;
    let own = serve.upstreams.values().map(|upstream| match upstream {
        UpstreamFile::Table(table) => table.on_audit_failure,
        UpstreamFile::Url(_) => None,
    });
    own.chain([serve.intercept.on_audit_failure, serve.on_audit_failure])
        .flatten()
        .any(|own| own != OnAuditFailure::Closed)
}

/// The spool: where the settings say, else beside the publisher's memory, if a route needs one.
pub(super) fn spool(settings: &Settings) -> Option<SpoolConfig> {
    let spool = &settings.serve.spool;
    let dir = spool.dir.clone().or_else(|| {
        goes_on(settings).then(|| {
            let vkey = settings.vkey.as_ref().map(|vkey| vkey.value.as_str());
            let origin = vkey.and_then(|vkey| vkey.split('+').next());
            let state = StateFile::new(&settings.state_dir.value, origin.unwrap_or("log"));
            state.path().with_extension("spool")
        })
    })?;
    let mut config = SpoolConfig::new(dir);
    if let Some(bytes_max) = spool.bytes_max {
        config.bytes_max = bytes_max;
    }
    Some(config)
}

/// The log, for a gateway with these settings.
pub(super) async fn log(context: &Context) -> Result<Log> {
    let mut options = context.log_options().await?;
    if goes_on(&context.settings) {
        // What can't be recorded is kept elsewhere, so nothing is gained by giving up.
        options.resolve = RESOLVE;
    }
    Ok(Log::open(options).await?)
}

/// Host patterns, of what the message is to name.
pub(super) fn patterns(hosts: &[String], what: &str) -> Result<Vec<HostPattern>> {
    hosts
        .iter()
        .map(|host| {
            host.parse()
                .map_err(|e: audit_gateway::Error| CliError::because(what, &e).code(2))
        })
        .collect()
}

pub(super) fn config(settings: &Settings, args: &ServeArgs) -> Result<Config> {
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
        .map(|(name, file)| {
            let upstream = upstream(name, file)?;
            let own = match file {
                UpstreamFile::Table(table) => table.on_audit_failure,
                UpstreamFile::Url(_) => None,
            };
            let upstream = upstream.on_audit_failure(guarantee(settings, own));
            Ok((name.clone(), upstream))
        })
        .collect::<Result<_>>()?;
    config.spool = spool(settings);
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
        (&mut limits.connections_max, serve.limits.connections_max),
        (
            &mut limits.request_head_bytes_max,
            serve.limits.request_head_bytes_max,
        ),
        (&mut limits.headers_max, serve.limits.headers_max),
    ] {
        if let Some(value) = value {
            *limit = usize::try_from(value)
                .map_err(|e| CliError::because(format!("limit {value}"), &e).code(2))?;
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
        (
            &mut limits.request_head_timeout,
            serve.limits.request_head_timeout_ms,
        ),
        (
            &mut limits.request_idle_timeout,
            serve.limits.request_idle_timeout_ms,
        ),
        (
            &mut limits.request_body_timeout,
            serve.limits.request_body_timeout_ms,
        ),
        (
            &mut limits.client_stall_timeout,
            serve.limits.client_stall_timeout_ms,
        ),
        (&mut limits.append_timeout, serve.limits.append_timeout_ms),
        (&mut limits.degrade_after, serve.limits.degrade_after_ms),
        (&mut limits.terminal_wait, serve.limits.terminal_wait_ms),
        (&mut limits.record_retry, serve.limits.record_retry_ms),
        (&mut limits.drain_timeout, serve.limits.drain_timeout_ms),
    ] {
        if let Some(value) = value {
            *limit = Duration::from_millis(value);
        }
    }
    limits.keep_alive_comment = serve
        .limits
        .keep_alive_comment_ms
        .map(Duration::from_millis);
    Ok(config)
}

pub(super) fn checked(settings: &Settings, args: &ServeArgs) -> Result<Config> {
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
    let mut config = checked(&context.settings, args)?;
    let public = !config.listen.ip().is_loopback();
    let upstreams = config.upstreams.clone();
    let wanted = context.settings.serve.intercept.enabled == Some(true);
    if args.intercept || wanted {
        config.intercept = Some(super::ca::intercept(&context.settings)?);
        super::ca::check(&config)?;
    }
    super::mirror::check(&context.settings)?;
    match context.redactor()? {
        Some(redactor) => output::note(&format!(
            "redaction: {}",
            crate::redaction::told(&context.settings, &redactor)
        )),
        None => output::note("redaction: off; bodies are recorded as they are, encrypted"),
    }
    // The mirror reads with a handle of its own, so that nothing of it waits for the writer or holds it up.
    let mirrored = match &context.settings.mirror.url {
        Some(_) => Some(context.store_url()?.read().await?),
        None => None,
    };
    let log = log(context).await?;
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
    log: &Log,
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
    let intercept = config.intercept.clone();
    let bound = Gateway::bind(config, log.clone()).await.map_err(failed)?;
    let address = bound.local_addr();
    output::note(&format!("listening on http://{address}"));
    if public {
        output::note(
            "warning: this address is not loopback; whoever reaches it can use the gateway",
        );
    }
    for (name, upstream) in upstreams {
        let guarantee = match upstream.guarantee() {
            Guarantee::Open => "  (goes on without the log)",
            Guarantee::Spool => "  (spooled without the log)",
            Guarantee::Closed | Guarantee::None => "",
        };
        output::note(&format!(
            "  http://{address}/{name}/…  →  {upstream}/…{guarantee}"
        ));
    }
    if let Some(intercept) = &intercept {
        tell_intercept(intercept, address);
    }
    let summary = bound.serve(stopped()).await.map_err(failed)?;
    if intercept.is_some() {
        output::note(&format!(
            "{} tunnels to hosts that are not intercepted",
            summary.tunnels
        ));
    }
    output::note(&format!(
        "{} connections, {} requests recorded, {} answers recorded, {} requests refused, {} of them because the log \
         couldn't be written",
        summary.connections,
        summary.requests,
        summary.responses,
        summary.refused + summary.refused_unrecorded,
        summary.refused_unrecorded
    ));
    if summary.spooled > 0 || summary.spooled_left > 0 {
        output::note(&format!(
            "{} records went through the spool; {} of them wait there for the next start",
            summary.spooled, summary.spooled_left
        ));
    }
    if summary.missed > 0 {
        output::note(&format!(
            "warning: {} records are missing, since calls went on without the log; it says which, or will at the next start",
            summary.missed
        ));
    }
    if summary.unrecorded + summary.pending > 0 {
        output::note(&format!(
            "warning: {} answers were not recorded; their requests stand in the log without an answer",
            summary.unrecorded + summary.pending
        ));
    }
    Ok(0)
}

/// Says what the proxy does, and what its clients need for it.
fn tell_intercept(intercept: &Intercept, address: SocketAddr) {
    let others = match intercept.others {
        audit_gateway::TunnelPolicy::Refuse => "refused",
        _ => "passed through unseen, and recorded as that",
    };
    output::note(&format!(
        "  HTTPS_PROXY=http://{address}  →  {} hosts are intercepted, others are {others}",
        intercept.hosts.len()
    ));
    output::note(&format!(
        "  its clients have to trust the certificate of `audit-trail ca show`, which ends at {}",
        intercept.authority.not_after()
    ));
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
