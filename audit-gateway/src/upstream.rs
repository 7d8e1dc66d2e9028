//! Connections to providers: one pool, one crypto provider, one timeout over name, TCP and TLS.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tower_service::Service;

use crate::config::Config;
use crate::error::{Error, Result};

type BoxError = Box<dyn StdError + Send + Sync>;

/// The pool of connections to upstreams.
pub(crate) type Client = Pool<Timed, Full<Bytes>>;

/// How long an idle connection is kept; most servers keep theirs for a minute or more.
const POOL_IDLE: Duration = Duration::from_secs(45);

/// Idle connections per upstream.
const POOL_IDLE_MAX: usize = 64;

pub(crate) fn client(config: &Config) -> Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(Duration::from_secs(60)));
    // The provider is named, so that a second one in the tree can't make rustls panic.
    let tls =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::invalid("the crypto provider knows no TLS version").because(e))?
            .with_root_certificates(roots(config)?)
            .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Ok(Pool::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_IDLE_MAX)
        .http1_preserve_header_case(true)
        .http1_max_headers(config.limits.headers_max)
        // The host header is ours to set, with the case and place that the client gave it.
        .set_host(false)
        .build(Timed {
            inner: connector,
            timeout: config.limits.connect_timeout,
        }))
}

fn roots(config: &Config) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if !config
        .upstreams
        .values()
        .any(crate::config::Upstream::is_tls)
    {
        return Ok(roots);
    }
    for der in &config.extra_roots {
        roots
            .add(CertificateDer::from(der.clone()))
            .map_err(|e| Error::invalid("an extra root certificate can't be used").because(e))?;
    }
    if config.system_roots {
        // Some of the system's certificates may be unusable; what matters is that there are some.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(Error::invalid(
            "no root certificate to check upstreams with",
        ));
    }
    Ok(roots)
}

/// A connector that gives up after a time, whatever it waits for.
#[derive(Debug, Clone)]
pub(crate) struct Timed {
    inner: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

impl Service<Uri> for Timed {
    type Response = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.inner.call(uri);
        let timeout = self.timeout;
        Box::pin(async move {
            tokio::time::timeout(timeout, connecting)
                .await
                .map_err(|e| io::Error::new(io::ErrorKind::TimedOut, e))?
        })
    }
}

/// Whether an error, or one of its causes, is a timeout.
pub(crate) fn timed_out(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::TimedOut)
        {
            return true;
        }
        next = error.source();
    }
    false
}
