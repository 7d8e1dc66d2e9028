//! The recorded traffic, and what it costs to keep.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use audit_testkit::time::TestIds;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;

use crate::Result;
use crate::load::client::{Call, Caller, Way};
use crate::load::latency::runtime;
use crate::load::process::{LogFiles, Running};
use crate::load::storage::Database;
use crate::load::table::{bytes, per, print};
use crate::load::ways::GATEWAY;

/// Interactions of the tiny kind, and bytes of their bodies.
const TINY: u64 = 1000;
const TINY_BYTES: usize = 200;
/// Calls of one tiny session.
const SESSION_CALLS: u64 = 5;

/// A recorded exchange.
#[derive(Debug)]
pub struct Recorded {
    /// Whose.
    pub provider: String,
    /// What was asked.
    pub call: Call,
    /// Whether the answer was 200, no stream, and of bytes as on the wire.
    pub plain_success: bool,
}

/// The folder that `AUDIT_FIXTURES` names.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    std::env::var_os("AUDIT_FIXTURES").map(PathBuf::from)
}

/// All of them, those of sessions under their session's name.
pub fn load(folder: &Path) -> Result<Vec<Recorded>> {
    let traffic = folder.join("llm-traffic");
    let mut files = Vec::new();
    for folder in fs::read_dir(traffic.join("exchanges"))? {
        for file in fs::read_dir(folder?.path())? {
            files.push(file?.path());
        }
    }
    for file in fs::read_dir(traffic.join("sessions"))? {
        files.push(file?.path());
    }
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let text = fs::read(&file)?;
        for exchange in serde_json::Deserializer::from_slice(&text).into_iter::<Value>() {
            all.push(recorded(&exchange?).map_err(|e| format!("{}: {e}", file.display()))?);
        }
    }
    Ok(all)
}

fn recorded(exchange: &Value) -> Result<Recorded> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let request = &exchange["request"];
    let body = text(&request["body"]).unwrap_or_default();
    let body = if request["body_encoding"] == "base64" {
        STANDARD.decode(body)?
    } else {
        body.into_bytes()
    };
    let url = text(&request["url"]).ok_or("no URL")?;
    let target = url.splitn(4, '/').nth(3).unwrap_or_default();
    let mut headers = HeaderMap::new();
    for pair in request["headers"].as_array().into_iter().flatten() {
        let part = |at: usize| pair[at].as_str().unwrap_or_default().as_bytes();
        headers.append(
            HeaderName::from_bytes(part(0))?,
            HeaderValue::from_bytes(part(1))?,
        );
    }
    let response = &exchange["response"];
    Ok(Recorded {
        provider: text(&exchange["provider"]).ok_or("no provider")?,
        call: Call {
            method: text(&request["method"]).ok_or("no method")?.parse()?,
            target: format!("/{target}"),
            headers,
            session: text(&exchange["session"]),
            body: Bytes::from(body),
        },
        plain_success: response["status"] == 200
            && exchange["streaming"] == false
            && request["body_fidelity"] == "exact"
            && response["body_fidelity"] == "exact",
    })
}

/// What an interaction costs to keep.
#[derive(Debug)]
pub struct Stored {
    /// Interactions.
    pub count: u64,
    /// Heads and bodies.
    pub raw: u64,
    /// What the database grew by.
    pub grown: u64,
}

/// Sends everything through the gateway, and prints what the database holds; `None` without the fixtures.
pub fn fixtures(dir: &Path) -> Result<Option<Stored>> {
    let Some(folder) = folder() else {
        print("AUDIT_FIXTURES is not set, so the recorded traffic was not measured.")?;
        return Ok(None);
    };
    let all = load(&folder)?;
    let provider = Running::recorded_provider(&folder)?;
    let names: BTreeSet<&str> = all.iter().map(|r| r.provider.as_str()).collect();
    let upstreams: Vec<_> = names.iter().map(|name| (*name, provider.address)).collect();
    let title = format!(
        "the whole recorded traffic: {} exchanges of {} providers",
        all.len(),
        names.len()
    );
    let stored = measure(dir, &title, &upstreams, async |gateway| {
        let mut sum = 0;
        for recorded in &all {
            let way = Way {
                name: GATEWAY,
                address: gateway,
                prefix: format!("/{}", recorded.provider),
            };
            // A connection of its own: single exchanges are sessions of their own, which costs the most.
            let answer = Caller::connect(&way).await?.call(&recorded.call).await?;
            if answer.missed {
                return Err(format!("the provider has no {}", recorded.call.target).into());
            }
            sum += recorded.call.raw_bytes() + answer.raw_bytes;
        }
        Ok((all.len() as u64, sum))
    })?;
    Ok(Some(stored))
}

/// The same for many tiny interactions.
pub fn tiny(dir: &Path) -> Result<Stored> {
    let provider = Running::own("provider", &["provider"])?;
    let title = format!(
        "{TINY} tiny interactions: bodies of {TINY_BYTES} bytes, {SESSION_CALLS} calls to a session"
    );
    measure(
        dir,
        &title,
        &[("openai", provider.address)],
        async |gateway| {
            let way = Way {
                name: GATEWAY,
                address: gateway,
                prefix: "/openai".to_owned(),
            };
            let text = TestIds::new(7);
            let mut caller = Caller::connect(&way).await?;
            let mut sum = 0;
            for number in 0..TINY {
                let mut call = Call::chat(&text, TINY_BYTES)?;
                call.session = Some(format!("session-{}", number / SESSION_CALLS));
                sum += call.raw_bytes() + caller.succeed(&call).await?.raw_bytes;
            }
            Ok((TINY, sum))
        },
    )
}

fn measure(
    dir: &Path,
    title: &str,
    upstreams: &[(&str, std::net::SocketAddr)],
    send: impl AsyncFnOnce(std::net::SocketAddr) -> Result<(u64, u64)>,
) -> Result<Stored> {
    let files = LogFiles::new(dir);
    files.init()?;
    let before = Database::read(&files.store)?;
    let gateway = Running::gateway(dir, upstreams)?;
    let (count, raw) = runtime()?.block_on(send(gateway.address))?;
    gateway.stop()?;
    let after = Database::read(&files.store)?;
    let grown = after.bytes - before.bytes;
    print(&format!(
        "\n## Storage of {title}\n\n{}\nraw bytes (request and response lines, headers, bodies): {}, {} per interaction\ndatabase: {} bytes in all, {} of them for these: {:.2} of the raw bytes: {}",
        after.table(&before, count),
        bytes(raw),
        bytes(raw / count),
        bytes(after.bytes),
        bytes(grown),
        per(grown, raw),
        if after.bytes < raw {
            "smaller"
        } else {
            "NOT smaller"
        },
    ))?;
    Ok(Stored { count, raw, grown })
}
