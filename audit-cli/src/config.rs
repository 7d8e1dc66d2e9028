//! Settings: a flag wins over the environment, the environment over the file, the file over the default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use audit_capture::redaction::{Identities, RuleSet, Unreadable};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{CliError, Result};

/// Bytes of a configuration file.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// The file that is looked for in the current folder.
pub(crate) const CONFIG_NAME: &str = "audit-trail.toml";

/// The configuration file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vkey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) opened: Option<String>,
    #[serde(default, skip_serializing_if = "ServeFile::is_empty")]
    pub(crate) serve: ServeFile,
    #[serde(default, skip_serializing_if = "MirrorFile::is_empty")]
    pub(crate) mirror: MirrorFile,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) redaction: Option<RedactionFile>,
}

/// The section `redaction`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedactionFile {
    /// Built-in rule sets, `NAME@VERSION`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rule_sets: Vec<String>,
    /// Files with one rule set each, from the folder of the configuration file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) files: Vec<PathBuf>,
    #[serde(default)]
    pub(crate) unreadable: Unreadable,
    #[serde(default)]
    pub(crate) identities: Identities,
    /// Whose pseudonyms are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<String>,
    /// The same, from each event: `system`, `attribute:NAME` or `header:NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant_from: Option<String>,
    /// Rule sets that stand here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rule_set: Vec<RuleSet>,
}

/// The section `mirror`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MirrorFile {
    /// The store that follows the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
}

impl MirrorFile {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The section `serve`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServeFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_body_bytes_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_record_bytes_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connect_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_head_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_idle_timeout_ms: Option<u64>,
    /// Named as the system in every event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) system: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) upstreams: BTreeMap<String, UpstreamFile>,
    /// What becomes of calls that can't be recorded, unless their route says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) on_audit_failure: Option<OnAuditFailure>,
    #[serde(default, skip_serializing_if = "InterceptFile::is_empty")]
    pub(crate) intercept: InterceptFile,
    #[serde(default, skip_serializing_if = "SpoolFile::is_empty")]
    pub(crate) spool: SpoolFile,
    #[serde(default, skip_serializing_if = "LimitsFile::is_empty")]
    pub(crate) limits: LimitsFile,
}

/// The section `serve.limits`: bounds and timeouts that few have to change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connections_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_head_bytes_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) headers_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_head_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_idle_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_body_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_stall_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) append_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) degrade_after_ms: Option<u64>,
    /// Comments in silent streams; none unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keep_alive_comment_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) terminal_wait_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) record_retry_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drain_timeout_ms: Option<u64>,
}

impl LimitsFile {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Every setting with its name.
    pub(crate) fn all(&self) -> [(&'static str, Option<u64>); 13] {
        [
            ("connections_max", self.connections_max),
            ("request_head_bytes_max", self.request_head_bytes_max),
            ("headers_max", self.headers_max),
            ("request_head_timeout_ms", self.request_head_timeout_ms),
            ("request_idle_timeout_ms", self.request_idle_timeout_ms),
            ("request_body_timeout_ms", self.request_body_timeout_ms),
            ("client_stall_timeout_ms", self.client_stall_timeout_ms),
            ("append_timeout_ms", self.append_timeout_ms),
            ("degrade_after_ms", self.degrade_after_ms),
            ("keep_alive_comment_ms", self.keep_alive_comment_ms),
            ("terminal_wait_ms", self.terminal_wait_ms),
            ("record_retry_ms", self.record_retry_ms),
            ("drain_timeout_ms", self.drain_timeout_ms),
        ]
    }
}

/// What becomes of a call that can't be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnAuditFailure {
    /// It is refused before it leaves.
    Closed,
    /// It passes, and that it is missing is recorded.
    Open,
    /// Its record waits in the spool.
    Spool,
}

impl OnAuditFailure {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Spool => "spool",
        }
    }
}

/// The section `serve.spool`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SpoolFile {
    /// A folder of its own, on a local disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_max: Option<u64>,
}

impl SpoolFile {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An upstream: its base URL, or that and more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum UpstreamFile {
    Url(String),
    Table(UpstreamTable),
}

/// The section `serve.upstreams.NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpstreamTable {
    pub(crate) url: String,
    /// Whose wire format it speaks, whatever its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) provider: Option<String>,
    /// Virtual hosts: requests whose host header names one go here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hosts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) on_audit_failure: Option<OnAuditFailure>,
}

impl UpstreamFile {
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Url(url) => url,
            Self::Table(table) => &table.url,
        }
    }
}

impl From<&str> for UpstreamFile {
    fn from(url: &str) -> Self {
        Self::Url(url.to_owned())
    }
}

/// The section `serve.intercept`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InterceptFile {
    /// Whether `serve` intercepts without being told so by its flag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) enabled: Option<bool>,
    /// The file with the certificate authority's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// The hosts that are intercepted; without, those of all known providers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hosts: Option<Vec<String>>,
    /// What becomes of clients that ask for other hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) others: Option<OthersFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) on_audit_failure: Option<OnAuditFailure>,
}

/// What becomes of a tunnel to a host that isn't intercepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OthersFile {
    Tunnel,
    Refuse,
}

impl InterceptFile {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl ServeFile {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Flag(&'static str),
    Environment(&'static str),
    File(PathBuf),
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A setting and where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) source: Source,
}

/// What the flags say, for all commands alike.
#[derive(Debug, Clone, Default, clap::Args)]
#[expect(
    clippy::doc_markdown,
    reason = "these are the texts of --help, where backticks would be shown"
)]
pub(crate) struct GlobalFlags {
    /// Configuration file [env: AUDIT_TRAIL_CONFIG] [default: ./audit-trail.toml, then the user's configuration folder]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Store of the log: sqlite:PATH, postgres://USER@HOST/DATABASE?schema=NAME or s3://BUCKET/PREFIX, without a password
    /// [env: AUDIT_TRAIL_STORE]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Key ring of the log: file:PATH or keyring:SERVICE [env: AUDIT_TRAIL_KEY]
    #[arg(long, global = true, value_name = "URI")]
    pub(crate) key: Option<String>,
    /// Folder in which the publisher remembers what it signed; not where the store lies [env: AUDIT_TRAIL_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Refuse a store whose schema lacks migrations, instead of doing them; see `audit-trail migrate`
    #[arg(long, global = true)]
    pub(crate) no_auto_migrate: bool,
}

/// The environment, passed in.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// All settings.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The configuration file that was read.
    pub(crate) file: Option<PathBuf>,
    /// The configuration file that a flag or the environment names.
    pub(crate) named: Option<PathBuf>,
    pub(crate) store: Option<Setting<String>>,
    pub(crate) key: Option<Setting<String>>,
    pub(crate) state_dir: Setting<PathBuf>,
    pub(crate) vkey: Option<Setting<String>>,
    pub(crate) opened: Option<Setting<String>>,
    pub(crate) no_auto_migrate: bool,
    pub(crate) serve: ServeFile,
    pub(crate) mirror: MirrorFile,
    pub(crate) redaction: Option<RedactionFile>,
}

impl Settings {
    /// Settings from flags, environment and file. `existing`: a file that is named must be there.
    pub(crate) fn load(
        flags: &GlobalFlags,
        environment: Environment<'_>,
        existing: bool,
    ) -> Result<Self> {
        let (path, must_exist) = match (&flags.config, text(environment, "AUDIT_TRAIL_CONFIG")?) {
            (Some(path), _) => (Some(path.clone()), true),
            (None, Some(path)) => (Some(PathBuf::from(path)), true),
            (None, None) => (found(environment), false),
        };
        let file = match &path {
            Some(path) if (must_exist && existing) || path.exists() => read(path)?,
            _ => ConfigFile::default(),
        };
        let from_file = |value: Option<String>| {
            value.map(|value| Setting {
                value,
                source: Source::File(path.clone().unwrap_or_default()),
            })
        };
        let pick = |flag: Option<String>,
                    flag_name,
                    variable,
                    in_file|
         -> Result<Option<Setting<String>>> {
            Ok(match (flag, text(environment, variable)?) {
                (Some(value), _) => Some(Setting {
                    value,
                    source: Source::Flag(flag_name),
                }),
                (None, Some(value)) => Some(Setting {
                    value,
                    source: Source::Environment(variable),
                }),
                (None, None) => from_file(in_file),
            })
        };
        let store = pick(
            flags.store.clone(),
            "--store",
            "AUDIT_TRAIL_STORE",
            file.store,
        )?;
        let key = pick(flags.key.clone(), "--key", "AUDIT_TRAIL_KEY", file.key)?;
        let as_text = |path: &Path| path.to_string_lossy().into_owned();
        let state_dir = pick(
            flags.state_dir.as_deref().map(as_text),
            "--state-dir",
            "AUDIT_TRAIL_STATE_DIR",
            file.state_dir.as_deref().map(as_text),
        )?;
        let state_dir = match state_dir {
            Some(setting) => Setting {
                value: PathBuf::from(setting.value),
                source: setting.source,
            },
            None => Setting {
                value: default_state_dir(environment)?,
                source: Source::Default,
            },
        };
        Ok(Self {
            named: path.clone().filter(|_| must_exist),
            vkey: from_file(file.vkey),
            opened: from_file(file.opened),
            no_auto_migrate: flags.no_auto_migrate,
            file: path.filter(|p| p.exists()),
            store,
            key,
            state_dir,
            serve: file.serve,
            mirror: file.mirror,
            redaction: file.redaction,
        })
    }

    /// The store's URL.
    pub(crate) fn store(&self) -> Result<&str> {
        self.store
            .as_ref()
            .map(|s| s.value.as_str())
            .ok_or_else(|| missing("store", "--store URL"))
    }

    /// The key ring's URI.
    pub(crate) fn key(&self) -> Result<&str> {
        self.key
            .as_ref()
            .map(|s| s.value.as_str())
            .ok_or_else(|| missing("key ring", "--key URI"))
    }
}

fn missing(what: &str, flag: &str) -> CliError {
    CliError::usage(format!("no {what} is set")).hint(format!(
        "run `audit-trail init` first, go to the folder with {CONFIG_NAME}, or give {flag}"
    ))
}

fn text(environment: Environment<'_>, name: &str) -> Result<Option<String>> {
    environment(name)
        .filter(|value| !value.is_empty())
        .map(|value| {
            value
                .to_str()
                .map(str::to_owned)
                .ok_or_else(|| CliError::usage(format!("environment variable {name} is not UTF-8")))
        })
        .transpose()
}

/// The configuration file that is there without being named.
fn found(environment: Environment<'_>) -> Option<PathBuf> {
    let here = PathBuf::from(CONFIG_NAME);
    if here.exists() {
        return Some(here);
    }
    let folder = environment("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .or_else(|| environment("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(folder.join("audit-trail").join("config.toml")).filter(|p| p.exists())
}

/// `$XDG_STATE_HOME/audit-trail`, as the XDG base directory specification has it.
fn default_state_dir(environment: Environment<'_>) -> Result<PathBuf> {
    environment("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .or_else(|| environment("HOME").map(|home| PathBuf::from(home).join(".local/state")))
        .map(|folder| folder.join("audit-trail"))
        .ok_or_else(|| {
            CliError::usage("there is no folder for the publisher's state: neither XDG_STATE_HOME nor HOME is set")
                .hint("give --state-dir DIR")
        })
}

fn read(path: &Path) -> Result<ConfigFile> {
    read_toml(path, "configuration file")
}

/// Reads a file of settings; `what` it is, for errors.
pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path, what: &str) -> Result<T> {
    let shown = path.display();
    let unreadable = |e: &dyn std::error::Error| {
        CliError::because(format!("{what} {shown} can't be read"), e).code(2)
    };
    let length = std::fs::metadata(path).map_err(|e| unreadable(&e))?.len();
    if length > CONFIG_BYTES_MAX {
        return Err(CliError::usage(format!(
            "{what} {shown} has {length} bytes, allowed are {CONFIG_BYTES_MAX}"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(&e))?;
    toml::from_str(&text).map_err(|e| {
        // The line itself isn't shown: whoever names a key file by mistake must not find it on a screen or in a log.
        let place = e.span().map_or_else(String::new, |span| {
            let lines = text.bytes().take(span.start).filter(|b| *b == b'\n');
            format!(" at line {}", lines.count() + 1)
        });
        CliError::usage(format!("{what} {shown} is wrong{place}: {}", e.message()))
    })
}

impl ConfigFile {
    /// The file's text.
    pub(crate) fn to_text(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|e| CliError::because("the configuration can't be written", &e))
    }
}
