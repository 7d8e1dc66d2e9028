//! What the operator decides.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use audit_core::event::{Actor, Guarantee, PAYLOAD_BYTES_MAX, SystemRef};
use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};

use crate::error::{Error, Result};
use crate::intercept::{HostPattern, Intercept};
use crate::report::Reporter;
use crate::spool::SpoolConfig;

/// What a gateway needs to run, besides a log.
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// Where clients connect. The gateway asks nobody who they are: on any other address than loopback, whoever
    /// reaches it can use it.
    pub listen: SocketAddr,
    /// Providers by the first segment of the path that leads to them.
    pub upstreams: BTreeMap<String, Upstream>,
    /// The system that is named in every event.
    pub system: Option<SystemRef>,
    /// Bounds and timeouts.
    pub limits: Limits,
    /// Whether the operating system's root certificates are trusted for upstreams.
    pub system_roots: bool,
    /// Further root certificates, in DER.
    pub extra_roots: Vec<Vec<u8>>,
    /// The intercepting proxy, if there is to be one.
    pub intercept: Option<Intercept>,
    /// Where records wait while the log can't be written; routes with [`Guarantee::Spool`] need it, and the others keep
    /// in it that an outage began.
    pub spool: Option<SpoolConfig>,
    /// What is recorded of requests that say nothing of it themselves.
    pub defaults: Defaults,
    /// Whether answers carry `x-audit-event: ID OF THE REQUEST'S EVENT`. Off, since it changes what clients see.
    pub event_header: bool,
    /// Who hears of trouble.
    pub reporter: Arc<dyn Reporter>,
}

impl Config {
    /// The defaults: every provider that serves everybody at one place
    /// ([`audit_capture::base_urls`]), on a free port of loopback.
    #[must_use]
    pub fn new(reporter: Arc<dyn Reporter>) -> Self {
        let known = |base: &str| Upstream::new(base).expect("the constant is a base URL");
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            upstreams: audit_capture::base_urls()
                .into_iter()
                .map(|(name, base)| (name.to_owned(), known(base)))
                .collect(),
            system: None,
            limits: Limits::default(),
            system_roots: true,
            extra_roots: Vec::new(),
            intercept: None,
            spool: None,
            defaults: Defaults::default(),
            event_header: false,
            reporter,
        }
    }

    /// Checks names and limits, as [`Gateway::bind`](crate::Gateway::bind) does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), naming what is wrong.
    pub fn check(&self) -> Result<()> {
        if self.upstreams.is_empty() {
            return Err(Error::invalid("no upstream is configured"));
        }
        for name in self.upstreams.keys() {
            let good =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
            // `-` alone is the gateway's own prefix.
            if !(1..=64).contains(&name.len()) || !name.bytes().all(good) || name.starts_with('-') {
                return Err(Error::invalid(format!(
                    "upstream name {name:?} is not of the form [a-z0-9_][a-z0-9_-]{{0,63}}"
                )));
            }
        }
        let mut hosts: Vec<&str> = self
            .upstreams
            .values()
            .flat_map(|upstream| upstream.hosts.iter().map(HostPattern::as_str))
            .collect();
        hosts.sort_unstable();
        if let Some(twice) = hosts
            .iter()
            .zip(hosts.iter().skip(1))
            .find_map(|(a, b)| (a == b).then_some(a))
        {
            return Err(Error::invalid(format!(
                "two upstreams have the virtual host {twice}"
            )));
        }
        if let Some(intercept) = &self.intercept {
            intercept.check()?;
        }
        let mut guarantees = self.upstreams.values().map(|u| u.on_audit_failure);
        let proxy = self.intercept.as_ref().map(|i| i.on_audit_failure);
        let spools = |g: Guarantee| g == Guarantee::Spool;
        if self.spool.is_none() && (guarantees.any(spools) || proxy.is_some_and(spools)) {
            return Err(Error::invalid(
                "a route is to spool what can't be recorded, and there is no folder for the spool",
            ));
        }
        self.limits.check()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("upstreams", &self.upstreams)
            .field("system", &self.system)
            .field("limits", &self.limits)
            .field("system_roots", &self.system_roots)
            .field("extra_roots", &self.extra_roots.len())
            .field("intercept", &self.intercept)
            .field("spool", &self.spool)
            .field("event_header", &self.event_header)
            .finish_non_exhaustive()
    }
}

/// What is recorded of requests that say nothing of it themselves, by a header of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Defaults {
    /// The session; without one, each connection is a session.
    pub session: Option<String>,
    /// Who acts.
    pub actor: Option<Actor>,
    /// For whom.
    pub on_behalf_of: Option<Actor>,
    /// The pseudonymous data subject.
    pub subject: Option<String>,
    /// Trace id and parent span of W3C trace context, in lower-case hexadecimal.
    pub trace: Option<(String, String)>,
}

/// Where one provider is.
#[derive(Clone, PartialEq, Eq)]
pub struct Upstream {
    pub(crate) scheme: Scheme,
    pub(crate) authority: Authority,
    /// Without a slash at its end.
    pub(crate) path: String,
    pub(crate) provider: Option<String>,
    /// Requests whose host header names one of these go here, whatever their path.
    pub(crate) hosts: Vec<HostPattern>,
    /// What becomes of calls that can't be recorded.
    pub(crate) on_audit_failure: Guarantee,
}

impl Upstream {
    /// From a base URL: `https://HOST[:PORT][/PATH]`, or `http` for servers on this machine or in this network.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for anything else; also for a user name, password, query or
    /// fragment, which would be secrets in a place where they don't belong, or be lost.
    pub fn new(base: &str) -> Result<Self> {
        // The URL isn't repeated in an error: it may hold a password.
        let uri: Uri = base.parse().map_err(|e: hyper::http::uri::InvalidUri| {
            Error::invalid("base URL can't be parsed").because(e)
        })?;
        let parts = uri.into_parts();
        let scheme = parts
            .scheme
            .filter(|s| *s == Scheme::HTTPS || *s == Scheme::HTTP)
            .ok_or_else(|| Error::invalid("base URL doesn't begin with https:// or http://"))?;
        let authority = parts
            .authority
            .ok_or_else(|| Error::invalid("base URL names no host"))?;
        if authority.as_str().contains('@') {
            return Err(Error::invalid("base URL holds a user name or password"));
        }
        if base.contains('#')
            || parts
                .path_and_query
                .as_ref()
                .is_some_and(|p| p.query().is_some())
        {
            return Err(Error::invalid("base URL holds a query or a fragment"));
        }
        let path = parts.path_and_query.as_ref().map_or("", PathAndQuery::path);
        Ok(Self {
            scheme,
            authority,
            path: path.trim_end_matches('/').to_owned(),
            provider: None,
            hosts: Vec::new(),
            on_audit_failure: Guarantee::Closed,
        })
    }

    /// The same upstream, whose wire format is that of `provider` (`openai`, `anthropic`, …) whatever its name.
    #[must_use]
    pub fn speaking(mut self, provider: impl Into<String>) -> Self {
        self.provider = Some(provider.into());
        self
    }

    /// The same upstream, which also gets the requests whose host header names one of these hosts, with their whole path.
    #[must_use]
    pub fn on_hosts(mut self, hosts: Vec<HostPattern>) -> Self {
        self.hosts = hosts;
        self
    }

    /// The same upstream, with another answer to a log that can't be written: `Closed` refuses calls before they leave,
    /// `Spool` records them later, `Open` lets them pass and records that they are missing. `Closed` unless said; so is
    /// `None`.
    #[must_use]
    pub fn on_audit_failure(mut self, guarantee: Guarantee) -> Self {
        self.on_audit_failure = guarantee;
        self
    }

    /// What becomes of calls that can't be recorded.
    #[must_use]
    pub fn guarantee(&self) -> Guarantee {
        self.on_audit_failure
    }

    /// A host that a client wants to reach by itself; `None` if that is no authority.
    pub(crate) fn of_host(scheme: Scheme, host: &str, port: u16) -> Option<Self> {
        let default = if scheme == Scheme::HTTPS { 443 } else { 80 };
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let authority = if port == default {
            host
        } else {
            format!("{host}:{port}")
        };
        Some(Self {
            scheme,
            authority: authority.parse().ok()?,
            path: String::new(),
            provider: None,
            hosts: Vec::new(),
            on_audit_failure: Guarantee::Closed,
        })
    }

    /// The host without the brackets that an address of version 6 has.
    pub(crate) fn host_name(&self) -> &str {
        self.authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
    }

    /// Whether it is reached by TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The host's name.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host()
    }

    /// The port, the scheme's own where none is named.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.authority
            .port_u16()
            .unwrap_or(if self.is_tls() { 443 } else { 80 })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.path)
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bounds and timeouts. Every byte and every wait that a peer decides about has one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections of clients at the same time; further ones wait in the listen queue. 1,024.
    pub connections_max: usize,
    /// Bytes of a request's head. 64 KiB; longer ones are answered with 431.
    pub request_head_bytes_max: usize,
    /// Header lines of a request, and of an answer. 128.
    pub headers_max: usize,
    /// Bytes of a request's body. 64 MiB; longer ones are answered with 413, and that is recorded.
    pub request_body_bytes_max: usize,
    /// Bytes of an answer's body that are recorded. 64 MiB; longer answers are passed on whole, and their record holds
    /// the first bytes, the length, and the SHA-256 of all of them.
    pub response_record_bytes_max: usize,
    /// Until a request's head has come, and how long a connection may be idle. 30 s.
    pub request_head_timeout: Duration,
    /// Between two pieces of a request's body. 30 s.
    pub request_idle_timeout: Duration,
    /// For a request's whole body. 10 minutes.
    pub request_body_timeout: Duration,
    /// Until an upstream is connected, TLS included. 10 s.
    pub connect_timeout: Duration,
    /// Until the head of an answer has come. 10 minutes: that is what models that don't stream take.
    pub response_head_timeout: Duration,
    /// Between two pieces of an answer. 5 minutes.
    pub response_idle_timeout: Duration,
    /// How long a client may take no byte of what is ready for it. 2 minutes.
    pub client_stall_timeout: Duration,
    /// After how much silence of a provider a client of a stream of events gets a comment, so that nobody between takes the
    /// stream for dead. Off: it adds bytes that the provider didn't send.
    pub keep_alive_comment: Option<Duration>,
    /// How long clients wait for the log. 30 s.
    pub append_timeout: Duration,
    /// How long a call waits for the log before it goes on without, where it may. 2 s.
    pub degrade_after: Duration,
    /// How long a stream is held open after the provider's last event, if the provider doesn't end it. 2 s.
    pub terminal_wait: Duration,
    /// How long the record of an answer is tried again in the background. 10 minutes.
    pub record_retry: Duration,
    /// How long open exchanges may go on after shutdown has begun. 30 s.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            request_head_bytes_max: 64 * 1024,
            headers_max: 128,
            request_body_bytes_max: 64 * 1024 * 1024,
            response_record_bytes_max: 64 * 1024 * 1024,
            request_head_timeout: Duration::from_secs(30),
            request_idle_timeout: Duration::from_secs(30),
            request_body_timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(10),
            response_head_timeout: Duration::from_secs(600),
            response_idle_timeout: Duration::from_secs(300),
            client_stall_timeout: Duration::from_secs(120),
            keep_alive_comment: None,
            append_timeout: Duration::from_secs(30),
            degrade_after: Duration::from_secs(2),
            terminal_wait: Duration::from_secs(2),
            record_retry: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// hyper doesn't take less for its buffer.
const HEAD_BYTES_MIN: usize = 8192;

impl Limits {
    fn check(&self) -> Result<()> {
        let within = |what: &str, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(Error::invalid(format!(
                    "{what} is {value}, allowed are {low} to {high}"
                )))
            }
        };
        within("connections_max", self.connections_max, 1, 1 << 20)?;
        within(
            "request_head_bytes_max",
            self.request_head_bytes_max,
            HEAD_BYTES_MIN,
            1 << 20,
        )?;
        within("headers_max", self.headers_max, 1, 4096)?;
        within(
            "request_body_bytes_max",
            self.request_body_bytes_max,
            0,
            PAYLOAD_BYTES_MAX,
        )?;
        within(
            "response_record_bytes_max",
            self.response_record_bytes_max,
            0,
            PAYLOAD_BYTES_MAX,
        )
    }
}
