//! One HTTP client for everything: what `object_store` sends, and what is sent here. Counts requests and looks at clocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use audit_core::time::{Clock, Timestamp};
use audit_core::{Error, Result};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService,
};
use rustls::{ClientConfig, RootCertStore};

/// Connecting, name and TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// AWS refuses a request whose time differs from its own by more.
pub(crate) const SKEW_MAX_SECONDS: i64 = 15 * 60;

/// What was seen of the server.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    requests: AtomicU64,
    /// The server's clock less ours, in seconds, when it answered last.
    skew: AtomicI64,
}

impl Seen {
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn skew_seconds(&self) -> i64 {
        self.skew.load(Ordering::Relaxed)
    }
}

/// Makes the client that `object_store` uses too.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    client: reqwest::Client,
    seen: Arc<Seen>,
    clock: Arc<dyn Clock>,
}

impl Connector {
    pub(crate) fn new(clock: Arc<dyn Clock>, timeout: Duration) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        // Some of the system's certificates may be unusable; where none is left, TLS fails and says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        // The provider is named, so that a second one in the tree can't make rustls panic.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::invalid("the crypto provider knows no TLS version").because(e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(CONNECT)
            .read_timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Error::invalid("the HTTP client can't be made").because(e))?;
        Ok(Self {
            client,
            seen: Arc::default(),
            clock,
        })
    }

    pub(crate) fn seen(&self) -> &Arc<Seen> {
        &self.seen
    }

    pub(crate) fn client(&self) -> HttpClient {
        HttpClient::new(self.clone())
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.client())
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.seen.requests.fetch_add(1, Ordering::Relaxed);
        let response = self.client.call(request).await?;
        let date = response.headers().get(http::header::DATE);
        if let Some(theirs) = date.and_then(|date| date.to_str().ok()).and_then(http_date) {
            let micros = theirs.as_micros() - self.clock.now().as_micros();
            self.seen.skew.store(micros / 1_000_000, Ordering::Relaxed);
        }
        Ok(response)
    }
}

/// The time of a `Date` header, such as `Sun, 22 Nov 2026 10:44:21 GMT`.
pub(crate) fn http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = text.split_once(", ")?.1.split(' ');
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    if words.next() != Some("GMT") || words.next().is_some() {
        return None;
    }
    Timestamp::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_a_server_is_read() {
        let date = http_date("Sun, 22 Nov 2026 10:44:21 GMT").unwrap();
        assert_eq!(date.to_string(), "2026-11-22T10:44:21.000000Z");
        for other in [
            "",
            "Sun, 22 Nov 2026 10:44:21",
            "Sun, 22 Foo 2026 10:44:21 GMT",
            "now",
        ] {
            assert_eq!(http_date(other), None, "{other}");
        }
    }
}
