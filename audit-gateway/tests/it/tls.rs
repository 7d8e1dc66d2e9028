//! TLS towards the provider.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use audit_gateway::{ErrorKind, Gateway, Upstream};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::client::{exchange, post};
use crate::support::Bench;

/// A provider with a certificate of its own making for `localhost`, which is answered with.
pub(crate) async fn provider() -> (SocketAddr, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let der = certificate.der().to_vec();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok() {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret";
                drop(stream.write_all(answer).await);
                drop(stream.flush().await);
            }
        }
    });
    (address, der)
}

fn base(address: SocketAddr) -> String {
    format!("https://localhost:{}", address.port())
}

#[tokio::test]
async fn an_upstream_with_a_trusted_certificate_is_reached() {
    let (address, root) = provider().await;
    let bench = Bench::with(&base(address), |c| {
        c.system_roots = false;
        c.extra_roots.push(root);
    })
    .await;
    let answer = exchange(bench.address, &post("/openai/x", "", b"{}")).await;
    assert_eq!(
        (answer.status, answer.body.as_slice()),
        (200, &b"secret"[..])
    );
    assert_eq!(bench.exchange().await.outcome(), ("complete", None));
}

#[tokio::test]
async fn an_upstream_with_another_certificate_gets_nothing() {
    let (address, _) = provider().await;
    let (_, other) = provider().await;
    let bench = Bench::with(&base(address), |c| {
        c.system_roots = false;
        c.extra_roots.push(other);
    })
    .await;
    let answer = exchange(bench.address, &post("/openai/x", "", b"{}")).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "upstream_unreachable")
    );
    assert_eq!(
        bench.exchange().await.outcome(),
        ("error", Some("upstream_unreachable"))
    );
}

#[tokio::test]
async fn an_upstream_that_never_finishes_its_handshake_is_a_504() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, root) = provider().await;
    let bench = Bench::with(&base(address), |c| {
        c.system_roots = false;
        c.extra_roots.push(root);
        c.limits.connect_timeout = Duration::from_millis(200);
    })
    .await;
    let answer = exchange(bench.address, &post("/openai/x", "", b"{}")).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (504, "upstream_timeout")
    );
    let recorded = bench.exchange().await;
    assert_eq!(
        recorded.outcome(),
        ("error", Some("upstream_connect_timeout"))
    );
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_before_anything_listens() {
    for bad in [
        "api.openai.com",
        "ftp://api.openai.com",
        "https://user:pass@api.openai.com",
        "https://api.openai.com/?key=1",
        "https://api.openai.com/#x",
        "",
    ] {
        assert_eq!(
            Upstream::new(bad).unwrap_err().kind(),
            ErrorKind::Invalid,
            "{bad:?}"
        );
    }
    let based = Upstream::new("https://example.org:8443/base/").unwrap();
    assert_eq!(based.to_string(), "https://example.org:8443/base");
    assert_eq!((based.host(), based.port()), ("example.org", 8443));

    let bench = Bench::start("http://127.0.0.1:9").await;
    let config = || audit_gateway::Config::new(Arc::new(|_: &audit_gateway::Notice| {}));
    let mut no_roots = config();
    no_roots.system_roots = false;
    let mut no_upstream = config();
    no_upstream.upstreams.clear();
    let mut bad_name = config();
    bad_name.upstreams.insert("-".to_owned(), based);
    let mut no_connections = config();
    no_connections.limits.connections_max = 0;
    for bad in [no_roots, no_upstream, bad_name, no_connections] {
        let error = Gateway::bind(bad, bench.log.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
