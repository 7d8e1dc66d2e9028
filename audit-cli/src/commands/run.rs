//! `audit-trail run`: a command with a gateway of its own, in one session.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal as _, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use audit_core::event::{
    Actor, ActorKind, Capture, Correlation, Event, Guarantee, Kind, SystemRef,
};
use audit_core::log::Log;
use audit_core::time::{IdSource as _, System};
use audit_gateway::{Config, Gateway, Intercept, Summary, TunnelPolicy, Upstream};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::cli::{RunArgs, ServeArgs};
use crate::context::{Context, environment, now};
use crate::error::{CliError, Result};
use crate::output;

/// This program failed, and the command was not run or its record is not whole; as `env` and `timeout` have it.
pub(crate) const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// How long exchanges of processes that outlive the command may go on.
const DRAIN: Duration = Duration::from_secs(5);

/// Variables that name a provider's base URL, the upstream that it leads to, and what stands behind the upstream's path.
const BASE_URLS: &[(&str, &str, &str)] = &[
    ("ANTHROPIC_BASE_URL", "anthropic", ""),
    ("CO_API_URL", "cohere", ""),
    ("GOOGLE_GEMINI_BASE_URL", "gemini", ""),
    ("GROQ_BASE_URL", "groq", ""),
    ("OLLAMA_HOST", "ollama", ""),
    ("OPENAI_API_BASE", "openai", "/v1"),
    ("OPENAI_BASE_URL", "openai", "/v1"),
];

/// Variables that name a file with every certificate that is trusted.
const CA_BUNDLES: &[&str] = &[
    "AWS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
];

/// Variables that name a file with certificates that are trusted besides others.
const CA_ADDITIONS: &[&str] = &["DENO_CERT", "NODE_EXTRA_CA_CERTS"];

/// Variables of ours that lead to secrets.
const PRIVATE: &[&str] = &[
    "AUDIT_TRAIL_CONFIG",
    "AUDIT_TRAIL_KEY",
    "AUDIT_TRAIL_PASSPHRASE_FILE",
    "AUDIT_TRAIL_STORE",
    "CREDENTIALS_DIRECTORY",
];

pub(crate) fn run(context: &dyn Fn() -> Result<Context>, args: &RunArgs) -> Result<u8> {
    let context = context().map_err(|e| e.code(FAILED))?;
    // Anything that goes wrong here must not look like the command's own exit code.
    super::block_on(async { run_command(&context, args).await.map_err(with_own_code) })
}

fn with_own_code(e: CliError) -> CliError {
    match e.exit_code() {
        NOT_EXECUTABLE | NOT_FOUND => e,
        _ => e.code(FAILED),
    }
}

/// The command, and what is recorded of it.
struct Wanted<'a> {
    program: &'a OsStr,
    arguments: &'a [OsString],
    /// Where it was found.
    path: PathBuf,
}

async fn run_command(context: &Context, args: &RunArgs) -> Result<u8> {
    let wanted = find(&args.command)?;
    let session = match &args.session {
        Some(session) => session.clone(),
        None => System.uuid_v4().to_string(),
    };
    let trace = trace();
    let mut config = super::serve::checked(&context.settings, &ServeArgs::default())?;
    config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.limits.drain_timeout = config.limits.drain_timeout.min(DRAIN);
    config.defaults.session = Some(session.clone());
    config.defaults.actor = args
        .actor
        .clone()
        .map(|id| Actor::new(ActorKind::Agent, id));
    config.defaults.on_behalf_of = args
        .on_behalf_of
        .clone()
        .map(|id| Actor::new(ActorKind::Human, id));
    config.defaults.subject.clone_from(&args.subject);
    config.defaults.trace = Some(trace.clone());
    let bases = base_urls(
        &mut config,
        super::serve::guarantee(&context.settings, None),
    )?;
    config.intercept = intercept(context, args)?;
    super::ca::check(&config)?;
    let intercept = config.intercept.clone();
    let certificates = match &intercept {
        Some(intercept) => Some(Certificates::write(intercept)?),
        None => None,
    };
    let system = config.system.clone();

    let log = super::serve::log(context).await?;
    let outcome = async {
        let bound = Gateway::bind(config, log.clone())
            .await
            .map_err(|e| CliError::because("the gateway can't run", &e))?;
        let address = bound.local_addr();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(bound.serve(async {
            // Either way the gateway is to stop.
            drop(stopped.await);
        }));
        let recorded = Session {
            log: &log,
            args,
            system,
            id: &session,
            trace: &trace,
        };
        let mut command = Command::new(&wanted.path);
        std::os::unix::process::CommandExt::arg0(command.as_std_mut(), wanted.program);
        command.args(wanted.arguments);
        // What opens the key ring, and a store's password, are none of the agent's business.
        for variable in PRIVATE {
            command.env_remove(variable);
        }
        command.env("AUDIT_TRAIL_SESSION", &session);
        command.env("TRACEPARENT", format!("00-{}-{}-01", trace.0, trace.1));
        for (variable, rest) in &bases {
            command.env(variable, format!("http://{address}{rest}"));
        }
        if let Some(certificates) = &certificates {
            certificates.set(&mut command, address);
        }
        let ended = recorded.around(&wanted, command).await;
        drop(stop);
        let summary = serving
            .await
            .map_err(|e| CliError::because("the gateway ended", &e))?
            .map_err(|e| CliError::because("the gateway", &e));
        recorded.close(ended, summary).await
    }
    .await;
    // The run is closed whatever happened, so that the log says that it ended in order.
    let closed = log.close().await;
    let code = outcome?;
    match closed {
        Ok(()) => Ok(code),
        Err(e) => Err(CliError::from(e)),
    }
}

/// The program as the shell would find it: a name without a slash in the folders of `PATH`.
fn find(command: &[OsString]) -> Result<Wanted<'_>> {
    use rustix::fs::{Access, access};
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| CliError::usage("no command is given"))?;
    let shown = output::printable(&program.to_string_lossy());
    let folders = environment("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let candidates: Vec<PathBuf> = if program.as_bytes().contains(&b'/') {
        vec![PathBuf::from(program)]
    } else {
        std::env::split_paths(&folders)
            .map(|folder| folder.join(program))
            .collect()
    };
    let mut there = false;
    for path in candidates {
        if !path.is_file() {
            there |= path.exists();
            continue;
        }
        there = true;
        if access(&path, Access::EXEC_OK).is_ok() {
            return Ok(Wanted {
                program,
                arguments,
                path,
            });
        }
    }
    Err(if there {
        CliError::new(format!("{shown} can't be run")).code(NOT_EXECUTABLE)
    } else {
        CliError::new(format!("{shown} isn't there"))
            .code(NOT_FOUND)
            .hint("the command stands behind `--`, for example: audit-trail run -- python agent.py")
    })
}

/// Trace id and span id: the trace goes on that this process is in, else it is a new one.
fn trace() -> (String, String) {
    let hexadecimal = |text: &str, digits: usize| {
        text.len() == digits
            && text.bytes().any(|b| b != b'0')
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let given = environment("TRACEPARENT").and_then(|value| value.into_string().ok());
    let given = given.as_deref().and_then(|value| {
        let mut parts = value.split('-');
        let (version, trace) = (parts.next()?, parts.next()?);
        (version == "00" && hexadecimal(trace, 32)).then(|| trace.to_owned())
    });
    let mut random = [0; 24];
    System.fill(&mut random);
    let (trace, span) = random.split_at(16);
    (
        given.unwrap_or_else(|| audit_core::hex::encode(trace)),
        audit_core::hex::encode(span),
    )
}

/// What the base URLs become, behind the gateway's address. One that is set already leads to where it says, through the
/// gateway.
fn base_urls(config: &mut Config, guarantee: Guarantee) -> Result<BTreeMap<&'static str, String>> {
    let mut bases = BTreeMap::new();
    for (variable, name, rest) in BASE_URLS {
        let Some(set) = environment(variable).filter(|value| !value.is_empty()) else {
            if config.upstreams.contains_key(*name) {
                bases.insert(*variable, format!("/{name}{rest}"));
            }
            continue;
        };
        // The URL isn't repeated: it may hold a password.
        let wrong = |e: &dyn std::error::Error| {
            CliError::because(format!("environment variable {variable}"), e).code(2)
        };
        let url = set.into_string().map_err(|_url| {
            CliError::usage(format!("environment variable {variable} is not UTF-8"))
        })?;
        // Ollama's clients take a host alone, too.
        let url = if url.contains("://") {
            url
        } else {
            format!("http://{url}")
        };
        let upstream = Upstream::new(&url)
            .map_err(|e| wrong(&e))?
            .speaking(*name)
            .on_audit_failure(guarantee);
        let own = format!("{}-env", variable.to_ascii_lowercase());
        bases.insert(*variable, format!("/{own}"));
        config.upstreams.insert(own, upstream);
    }
    Ok(bases)
}

fn intercept(context: &Context, args: &RunArgs) -> Result<Option<Intercept>> {
    if args.no_intercept {
        return Ok(None);
    }
    if !super::ca::is_there(&context.settings) {
        if args.refuse_others {
            return Err(CliError::usage(
                "without a certificate authority there is no proxy that could refuse",
            )
            .hint("make one with `audit-trail ca create`"));
        }
        output::note(
            "note: TLS is not intercepted, for there is no certificate authority: only clients that take their base URL \
             from the environment are recorded (`audit-trail ca create` makes one)",
        );
        return Ok(None);
    }
    for variable in ["HTTPS_PROXY", "https_proxy"] {
        if environment(variable).is_some_and(|value| !value.is_empty()) {
            output::note(&format!(
                "warning: {variable} is replaced; providers are reached directly, not through that proxy"
            ));
            break;
        }
    }
    let mut intercept = super::ca::intercept(&context.settings)?;
    if args.refuse_others {
        intercept.others = TunnelPolicy::Refuse;
    }
    Ok(Some(intercept))
}

/// What the command's clients trust: what they would trust anyway, and the authority.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn write(intercept: &Intercept) -> Result<Self> {
        let failed = |e: &dyn std::error::Error| {
            CliError::because("the certificates for the command can't be written", e)
        };
        // Others may read them; nobody else may change them: the folder is the user's own.
        let folder = tempfile::Builder::new()
            .prefix("audit-trail-run.")
            .tempdir()
            .map_err(|e| failed(&e))?;
        let ours = super::ca::pem(intercept.authority.certificate());
        let mut bundle = String::new();
        // SSL_CERT_FILE and SSL_CERT_DIR count here, so what was trusted stays trusted, and nothing more.
        for certificate in rustls_native_certs::load_native_certs().certs {
            bundle.push_str(&super::ca::pem(&certificate));
        }
        bundle.push_str(&ours);
        std::fs::write(folder.path().join("bundle.pem"), bundle).map_err(|e| failed(&e))?;
        for variable in CA_ADDITIONS {
            let mut text = String::new();
            if let Some(path) = environment(variable).filter(|path| !path.is_empty()) {
                text = std::fs::read_to_string(&path).map_err(|e| {
                    CliError::because(format!("the file that {variable} names can't be read"), &e)
                })?;
                text.push('\n');
            }
            text.push_str(&ours);
            std::fs::write(folder.path().join(format!("{variable}.pem")), text)
                .map_err(|e| failed(&e))?;
        }
        Ok(Self { folder })
    }

    fn set(&self, command: &mut Command, address: SocketAddr) {
        let proxy = format!("http://{address}");
        command.env("HTTPS_PROXY", &proxy);
        command.env("https_proxy", &proxy);
        // Node looks at the variables only if it is told to.
        command.env("NODE_USE_ENV_PROXY", "1");
        let mut direct: Vec<String> = ["NO_PROXY", "no_proxy"]
            .iter()
            .find_map(|name| environment(name)?.into_string().ok())
            .filter(|value| !value.is_empty())
            .into_iter()
            .collect();
        // The gateway itself, above all.
        direct.extend(["127.0.0.1", "localhost", "::1"].map(str::to_owned));
        let direct = direct.join(",");
        command.env("NO_PROXY", &direct);
        command.env("no_proxy", &direct);
        for variable in CA_BUNDLES {
            command.env(variable, self.folder.path().join("bundle.pem"));
        }
        for variable in CA_ADDITIONS {
            command.env(variable, self.folder.path().join(format!("{variable}.pem")));
        }
    }
}

/// The session, from before the command to behind it.
struct Session<'a> {
    log: &'a Log,
    args: &'a RunArgs,
    system: Option<SystemRef>,
    id: &'a str,
    trace: &'a (String, String),
}

/// How the command went, once its session was opened.
struct Ended {
    opened: Uuid,
    status: std::io::Result<ExitStatus>,
}

impl Session<'_> {
    fn event(&self, kind: &str) -> Event {
        let now = now();
        let kind = Kind::new(kind).expect("the name follows the rule");
        let mut event = Event::new(self.log.ids().uuid_v7(now), now, kind);
        event.session_id = Some(self.id.to_owned());
        let actor = |kind, id: &Option<String>| id.clone().map(|id| Actor::new(kind, id));
        event.actor = actor(ActorKind::Agent, &self.args.actor);
        event.on_behalf_of = actor(ActorKind::Human, &self.args.on_behalf_of);
        event.subject.clone_from(&self.args.subject);
        event.system.clone_from(&self.system);
        if let Some(agent) = &self.args.actor {
            let name = "gen_ai.agent.id".to_owned();
            event.attributes.insert(name, json!(agent));
        }
        event.correlation = Some(Correlation {
            trace_id: Some(self.trace.0.clone()),
            span_id: Some(self.trace.1.clone()),
            ..Correlation::default()
        });
        event.capture = Some(Capture {
            component: "audit-trail run".to_owned(),
            guarantee: Guarantee::Closed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        event
    }

    /// Opens the session, runs the command and waits for its end. Without a durable opening nothing is run.
    async fn around(&self, wanted: &Wanted<'_>, mut command: Command) -> Result<Ended> {
        let mut event = self.event("agent.session.started");
        event.attributes.extend(wanted.attributes()?);
        let opened = event.id;
        self.log.append(event).await?;
        // A crash from here on leaves an opened session without an end.
        let signals = Signals::new()?;
        let status = match command.spawn() {
            Ok(child) => signals.wait(child).await,
            Err(e) => Err(e),
        };
        Ok(Ended { opened, status })
    }

    /// Records the session's end; the answer is the exit code.
    async fn close(&self, ended: Result<Ended>, summary: Result<Summary>) -> Result<u8> {
        let Ended { opened, status } = ended?;
        let mut event = self.event("agent.session.ended");
        if let Some(correlation) = &mut event.correlation {
            correlation.parent_event = Some(opened);
        }
        let mut set = |name: &str, value: Value| event.attributes.insert(name.to_owned(), value);
        let (reason, code) = match &status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => {
                    set("process.exit.code", json!(code));
                    ("exited", u8::try_from(code & 0xff).unwrap_or(FAILED))
                }
                (None, signal) => {
                    let signal = signal.unwrap_or_default();
                    set("audit.command.signal", json!(signal));
                    ("killed", u8::try_from(128 + signal).unwrap_or(FAILED))
                }
            },
            Err(_) => ("not_started", NOT_EXECUTABLE),
        };
        set("audit.reason", json!(reason));
        let good = matches!(&status, Ok(status) if status.success());
        set(
            "audit.outcome",
            json!(if good { "success" } else { "failure" }),
        );
        if let Ok(summary) = &summary {
            set("audit.session.requests", json!(summary.requests));
            set("audit.session.responses", json!(summary.responses));
            set("audit.session.tunnels", json!(summary.tunnels));
            for (name, count) in [
                ("audit.session.spooled", summary.spooled),
                ("audit.session.missed", summary.missed),
            ] {
                if count > 0 {
                    set(name, json!(count));
                }
            }
            if summary.unrecorded + summary.pending > 0 {
                set(
                    "audit.session.responses_lost",
                    json!(summary.unrecorded + summary.pending),
                );
            }
        }
        self.log.append(event).await?;
        if let Err(e) = status {
            return Err(CliError::because("the command can't be run", &e).code(NOT_EXECUTABLE));
        }
        let summary = summary?;
        if summary.unrecorded + summary.pending > 0 {
            return Err(CliError::new(format!(
                "the command ended with {code}, and {} answers were not recorded",
                summary.unrecorded + summary.pending
            )));
        }
        Ok(code)
    }
}

impl Wanted<'_> {
    /// What is recorded of the command: not its arguments, which may hold secrets, but what shows that they were these.
    fn attributes(&self) -> Result<Map<String, Value>> {
        let mut line = Sha256::new();
        for part in
            std::iter::once(self.program).chain(self.arguments.iter().map(OsString::as_os_str))
        {
            line.update(part.as_bytes());
            line.update([0]);
        }
        let name = Path::new(self.program).file_name().unwrap_or(self.program);
        let mut attributes = Map::new();
        let mut set = |name: &str, value: Value| attributes.insert(name.to_owned(), value);
        set("process.executable.name", json!(name.to_string_lossy()));
        set(
            "process.executable.path",
            json!(self.path.to_string_lossy()),
        );
        set("audit.command.arguments", json!(self.arguments.len()));
        set("audit.command.sha256", json!(digest(line)));
        set(
            "audit.command.executable_sha256",
            json!(digest(of_file(&self.path)?)),
        );
        if let Ok(folder) = std::env::current_dir() {
            set("process.working_directory", json!(folder.to_string_lossy()));
        }
        Ok(attributes)
    }
}

fn digest(hash: Sha256) -> String {
    format!("sha256:{}", audit_core::hex::encode(&hash.finalize()))
}

fn of_file(path: &Path) -> Result<Sha256> {
    let failed = |e: &dyn std::error::Error| {
        CliError::because(format!("{} can't be read", path.display()), e).code(NOT_EXECUTABLE)
    };
    let mut file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let n = file.read(&mut piece).map_err(|e| failed(&e))?;
        if n == 0 {
            return Ok(hash);
        }
        hash.update(piece.get(..n).unwrap_or_default());
    }
}

/// Signals that are meant for the command.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    /// A terminal sends some of them to the command too, by itself.
    at_terminal: bool,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen =
            |kind| signal(kind).map_err(|e| CliError::because("signals can't be handled", &e));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            at_terminal: std::io::stdin().is_terminal(),
        })
    }

    /// Waits for the command's end, and passes on what is sent to this process.
    async fn wait(mut self, mut child: Child) -> std::io::Result<ExitStatus> {
        loop {
            let signal = tokio::select! {
                status = child.wait() => return status,
                _ = self.terminate.recv() => Signal::TERM,
                _ = self.hang_up.recv() => Signal::HUP,
                _ = self.interrupt.recv() => Signal::INT,
                _ = self.quit.recv() => Signal::QUIT,
            };
            if self.at_terminal && matches!(signal, Signal::INT | Signal::QUIT) {
                continue;
            }
            let pid = child
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .and_then(Pid::from_raw);
            if let Some(pid) = pid
                && let Err(error) = kill_process(pid, signal)
                && error != rustix::io::Errno::SRCH
            {
                output::note(&format!("warning: a signal can't be passed on: {error}"));
            }
        }
    }
}
