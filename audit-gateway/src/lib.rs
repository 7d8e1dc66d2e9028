//! A reverse proxy that records every exchange with an LLM provider before it can be lost.
//!
//! A client takes `http://GATEWAY/NAME` for the provider's base URL; `/NAME/rest?query` goes to the upstream called
//! NAME. The request is in the log, durable, **before** it leaves; the end of the answer is released only when the
//! answer is in the log too. Bodies pass byte for byte: they are never decoded, re-serialised or, in answers, buffered
//! to their end.
//!
//! Beside that it is a proxy ([`Intercept`]): clients that ask for a tunnel to a provider's host get TLS with a
//! certificate of a local authority, and what comes in it goes the same way.
//!
//! *In scope*: HTTP/1.1 and HTTP/2 on both sides, TLS to upstreams, interception, streams, limits and timeouts on
//! everything that a peer decides, what becomes of calls while the log can't be written, credentials kept out of the
//! record.
//! *Out of scope*: web sockets, TLS towards clients of the reverse proxy, telling who a client is, MCP, OTLP. What the
//! bytes mean is `audit-capture`'s business, how they are stored `audit-core`'s.
//!
//! ```no_run
//! use std::sync::Arc;
//! use audit_gateway::{Config, Gateway, Notice, Upstream};
//! # async fn run(log: audit_core::log::Log) -> Result<(), audit_gateway::Error> {
//!
//! let mut config = Config::new(Arc::new(|notice: &Notice| tell_the_operator(notice.to_string())));
//! config.listen = ([127, 0, 0, 1], 8787).into();
//! config.upstreams.insert("local".into(), Upstream::new("http://127.0.0.1:11434")?.speaking("openai"));
//! let gateway = Gateway::bind(config, log.clone()).await?;
//! let summary = gateway.serve(async { /* until SIGTERM */ }).await?;
//! assert_eq!(summary.unrecorded, 0);
//! # Ok(()) }
//! # fn tell_the_operator(_: String) {}
//! ```
//!
//! # What is recorded
//!
//! Every `llm.request` in the log has one `llm.response`, also if the provider could not be reached, the client left,
//! or the gateway was stopped. Its attribute `audit.outcome` says how the exchange ended:
//!
//! | `audit.outcome` | |
//! |---|---|
//! | `complete` | the provider's answer came to its end, whatever its status; whether a stream had its last event is in `audit.response.complete`. With the reason `provider_kept_open` the last event came, and the connection then stayed open beyond [`Limits::terminal_wait`]: the client's answer was ended there |
//! | `cut_by_client` | the client left; what had come is recorded, though the client may not have got all of it |
//! | `cut_by_provider` | the provider's connection broke within the answer or fell silent; the client's was broken off too |
//! | `cut_by_gateway` | the gateway was stopped |
//! | `error` | no answer came; `audit.outcome.reason` says why |
//!
//! Pieces of a stream are passed on as they come, but for what holds the provider's last event: that waits for the
//! record. Of any other answer the last piece waits. An answer whose record can't be written is broken off without an
//! end, and its record is tried again in the background. Beyond [`Limits::response_record_bytes_max`] an answer still
//! passes whole, and the record holds its first bytes, its length, and the SHA-256 of all of it.
//!
//! A request without an answer in the log means that the gateway or its host died in between, or that the record was
//! given up after [`Limits::record_retry`]; the operator hears of that through the [`Reporter`], and the client's
//! answer had no end.
//!
//! A client speaks to the gateway in headers that go no further: `x-audit-session`, `x-audit-actor` (an agent),
//! `x-audit-on-behalf-of` (a person) and `x-audit-subject`, each 1 to 256 printable ASCII characters. A misspelt one is
//! refused. Answers of our own carry `x-audit-error: CODE`, which no provider can.
//!
//! # Who controls this
//!
//! Whoever controls a running gateway sees the credentials and the content of everything that passes, can alter it in
//! both directions, and can keep exchanges out of the log. They can't change what the log holds already, nor make the
//! provider's own counts agree. Whoever reaches its port can use it with credentials of their own, and claim any
//! session, actor or subject: those are claims of the client.

mod body;
mod config;
mod counters;
mod credentials;
mod error;
mod exchange;
mod facts;
mod front;
mod headers;
mod intercept;
mod keep_alive;
mod recorder;
mod recording;
mod refusal;
mod report;
mod server;
mod serving;
mod shared;
mod sink;
mod spool;
mod stall;
mod upstream;

pub use config::{Config, Defaults, Limits, Upstream};
pub use counters::Summary;
pub use error::{Error, ErrorKind, Result};
pub use intercept::{CertificateAuthority, HostPattern, Intercept, TunnelPolicy, provider_hosts};
pub use report::{Notice, Reporter, Severity};
pub use server::{Bound, Gateway, Health};
pub use spool::SpoolConfig;
