//! The gateway as a proxy that intercepts TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use audit_core::time::Clock as _;
use audit_core::time::{System, Timestamp};
use audit_gateway::{
    CertificateAuthority, Config, ErrorKind, HostPattern, Intercept, TunnelPolicy,
};
use audit_testkit::faulty::{Call, Fault};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{Client, exchange, post};
use crate::scripted::{Scripted, write};
use crate::support::{Bench, payload};
use crate::tls::provider;

fn pattern(text: &str) -> HostPattern {
    text.parse().unwrap()
}

fn authority(hosts: &[&str]) -> Arc<CertificateAuthority> {
    let hosts: Vec<HostPattern> = hosts.iter().map(|h| pattern(h)).collect();
    let key = CertificateAuthority::generate("example.org/gateway", &hosts, System.now()).unwrap();
    Arc::new(CertificateAuthority::open(key, System.now()).unwrap())
}

/// A gateway that intercepts `localhost`, and trusts the provider's certificate.
async fn intercepting(
    root: Vec<u8>,
    change: impl FnOnce(&mut Config),
) -> (Bench, Arc<CertificateAuthority>) {
    let authority = authority(&["localhost"]);
    let intercept = Intercept::new(Arc::clone(&authority), vec![pattern("localhost")]);
    let bench = Bench::with("http://127.0.0.1:9", |c| {
        c.system_roots = false;
        c.extra_roots.push(root);
        c.intercept = Some(intercept);
        change(c);
    })
    .await;
    (bench, authority)
}

/// Asks the proxy for a connection, and gives it back with the status.
pub(crate) async fn connect(proxy: SocketAddr, to: &str, headers: &str) -> (Client, u16) {
    let mut client = Client::connect(proxy).await;
    client
        .write(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{headers}\r\n").as_bytes())
        .await;
    let mut answer = client.head().await.expect("an answer to CONNECT");
    if answer.status != 200 {
        client.rest(&mut answer).await;
    }
    (client, answer.status)
}

/// Speaks TLS as a client that trusts `root`, and asks for `name`.
pub(crate) async fn tls(
    stream: TcpStream,
    root: &[u8],
    name: &str,
) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(root.to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map(Client::over)
}

fn text<'e>(event: &'e audit_core::event::Event, name: &str) -> &'e str {
    event
        .attributes
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[tokio::test]
async fn a_call_through_the_proxy_is_not_recorded() {
    let (address, root) = provider().await;
    let (bench, authority) = intercepting(root, |_| {}).await;
    let to = format!("localhost:{}", address.port());
    let (client, status) = connect(bench.address, &to, "x-audit-session: from the proxy\r\n").await;
    assert_eq!(status, 200);
    let mut client = tls(client.stream, authority.certificate(), "localhost")
        .await
        .unwrap();
    let request = post(
        "/v1/chat/completions?a=%2e%2e",
        "",
        br#"{"model":"gpt-5","messages":[]}"#,
    );
    let request = String::from_utf8(request)
        .unwrap()
        .replace("gateway.test", &to);
    client.write(request.as_bytes()).await;
    let answer = client.answer().await.unwrap();
    assert_eq!(
        (answer.status, answer.body.as_slice()),
        (200, &b"secret"[..])
    );

    let recorded = bench.exchange().await;
    let request = &recorded.request;
    assert_eq!(text(request, "audit.capture.point"), "intercepting_proxy");
    assert_eq!(
        text(&recorded.response, "audit.capture.point"),
        "intercepting_proxy"
    );
    assert_eq!(text(request, "server.address"), "localhost");
    assert_eq!(request.attributes["server.port"], json!(address.port()));
    assert_eq!(text(request, "url.path"), "/v1/chat/completions");
    assert_eq!(request.session_id.as_deref(), Some("from the proxy"));
    assert_eq!(
        payload(request, "request.body").unwrap(),
        br#"{"model":"gpt-5","messages":[]}"#
    );
    assert_eq!(recorded.body(), b"secret");
    drop(client);
    assert_eq!(bench.shutdown().await.tunnels, 0);
}

/// Python's `http.client`, and with it `requests`, asks for its tunnels so.
#[tokio::test]
async fn a_tunnel_that_is_asked_for_in_http_1_0_is_refused() {
    let (address, root) = provider().await;
    let (bench, authority) = intercepting(root, |_| {}).await;
    let mut client = Client::connect(bench.address).await;
    let to = format!("localhost:{}", address.port());
    client
        .write(format!("CONNECT {to} HTTP/1.0\r\n\r\n").as_bytes())
        .await;
    let mut head = [0; 12];
    client.stream.read_exact(&mut head).await.unwrap();
    assert!(
        head.ends_with(b" 200"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    let mut end = [0; 1];
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        client.stream.read_exact(&mut end).await.unwrap();
        seen.extend_from_slice(&end);
    }
    let mut client = tls(client.stream, authority.certificate(), "localhost")
        .await
        .unwrap();
    let request = format!("GET /v1/models HTTP/1.1\r\nHost: {to}\r\n\r\n");
    client.write(request.as_bytes()).await;
    assert_eq!(client.answer().await.unwrap().body, b"secret");
}

#[tokio::test]
async fn several_calls_on_one_intercepted_connection_are_lost() {
    let upstream = Scripted::start(vec![write(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )])
    .await;
    let (_, root) = provider().await;
    let (bench, _) = intercepting(root, |c| {
        c.intercept.as_mut().unwrap().hosts = vec![pattern("localhost")];
    })
    .await;
    // Without TLS, in absolute form.
    let to = format!("localhost:{}", upstream.address.port());
    let mut client = Client::connect(bench.address).await;
    for _ in 0..3 {
        client
            .write(
                format!("GET http://{to}/v1/models HTTP/1.1\r\nHost: ignored\r\n\r\n").as_bytes(),
            )
            .await;
        assert_eq!(client.answer().await.unwrap().body, b"ok");
    }
    let recorded = bench.exchanges(3).await;
    assert!(
        recorded
            .iter()
            .all(|e| text(&e.request, "server.address") == "localhost")
    );
    let seen = upstream.seen.lock().unwrap()[0].clone();
    let seen = String::from_utf8(seen).unwrap().to_lowercase();
    assert!(seen.starts_with("get /v1/models http/1.1\r\n"), "{seen}");
    assert!(seen.contains(&format!("host: {to}\r\n")), "{seen}");
}

#[tokio::test]
async fn a_host_that_is_not_listed_is_looked_into() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"\x16\x03hi\x00", "the bytes were changed");
        stream.write_all(b"anything").await.unwrap();
        // The other side's end reaches us.
        assert_eq!(stream.read(&mut bytes).await.unwrap(), 0);
    });
    let (_, root) = provider().await;
    let (bench, _) = intercepting(root, |_| {}).await;
    let (mut client, status) = connect(bench.address, &address.to_string(), "").await;
    assert_eq!(status, 200);
    client.write(b"\x16\x03hi\x00").await;
    let mut back = [0; 8];
    client.stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"anything");
    drop(client);
    let log = bench.log.clone();
    assert_eq!(bench.shutdown().await.tunnels, 1);
    let (opened, closed) = tunnel(&log).await;
    assert_eq!(text(&opened, "server.address"), "127.0.0.1");
    assert_eq!(text(&opened, "audit.capture.point"), "tunnel");
    assert_eq!(
        closed.correlation.as_ref().unwrap().parent_event,
        Some(opened.id)
    );
    assert_eq!(closed.attributes["audit.tunnel.sent_bytes"], json!(5));
    assert_eq!(closed.attributes["audit.tunnel.received_bytes"], json!(8));
    assert_eq!(text(&closed, "audit.outcome"), "complete");
}

/// The events of the one tunnel.
async fn tunnel(
    log: &audit_core::log::Log,
) -> (audit_core::event::Event, audit_core::event::Event) {
    let reader = log.reader();
    let records = reader.records(0..1000).await.unwrap();
    let mut events: Vec<_> = records
        .into_iter()
        .filter_map(|record| match record.content {
            audit_core::reader::RecordContent::Open(opened) => Some(opened.event),
            _ => None,
        })
        .filter(|e| e.kind.as_str().starts_with("network."))
        .collect();
    assert_eq!(events.len(), 2, "{events:?}");
    let closed = events.pop().unwrap();
    let opened = events.pop().unwrap();
    assert_eq!(opened.kind.as_str(), "network.tunnel_opened");
    assert_eq!(closed.kind.as_str(), "network.tunnel_closed");
    (opened, closed)
}

#[tokio::test]
async fn a_tunnel_outlives_the_gateway_without_a_record() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, root) = provider().await;
    let (mut bench, _) = intercepting(root, |c| {
        c.limits.drain_timeout = Duration::from_millis(100);
    })
    .await;
    let (mut client, _) = connect(bench.address, &address.to_string(), "").await;
    client.write(b"abc").await;
    let (mut server, _) = listener.accept().await.unwrap();
    let mut bytes = [0; 3];
    server.read_exact(&mut bytes).await.unwrap();
    let log = bench.log.clone();
    bench.begin_shutdown();
    bench.shutdown().await;
    let (_, closed) = tunnel(&log).await;
    assert_eq!(text(&closed, "audit.outcome"), "cut_by_gateway");
    assert_eq!(closed.attributes["audit.tunnel.sent_bytes"], json!(3));
}

#[tokio::test]
async fn a_tunnel_opens_although_it_cannot_be_recorded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let (_, root) = provider().await;
    let (bench, _) = intercepting(root, |_| {}).await;
    bench.faulty.fail_times(
        Call::Append,
        0,
        1000,
        Fault::Before,
        audit_core::ErrorKind::Unavailable,
    );
    let (_, status) = connect(bench.address, &to, "").await;
    assert_eq!(status, 503);
    bench.faulty.heal();
    assert_eq!(bench.health.summary().tunnels, 0);
}

#[tokio::test]
async fn a_proxy_goes_where_it_must_not() {
    let (_, root) = provider().await;
    let (bench, authority) = intercepting(root, |c| {
        c.intercept.as_mut().unwrap().others = TunnelPolicy::Refuse;
    })
    .await;
    let (_, status) = connect(bench.address, "example.org:443", "").await;
    assert_eq!(status, 403, "a tunnel that is not allowed");
    for bad in [
        "localhost",
        "localhost:0",
        "user@localhost:1",
        ":443",
        "a b:1",
    ] {
        let mut client = Client::connect(bench.address).await;
        client
            .write(format!("CONNECT {bad} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .await;
        let status = client.answer().await.map(|a| a.status);
        assert_eq!(status, Some(400), "{bad:?}");
    }
    let (_, status) = connect(bench.address, "localhost:1", "Content-Length: 3\r\n").await;
    assert_eq!(status, 400, "a CONNECT with a body");
    let plain = b"GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n";
    assert_eq!(
        exchange(bench.address, plain).await.code(),
        "host_not_allowed"
    );

    // One host in CONNECT, another in the handshake or in the request.
    let (client, _) = connect(bench.address, "localhost:1", "").await;
    assert!(
        tls(client.stream, authority.certificate(), "example.org")
            .await
            .is_err(),
        "a certificate for another host"
    );
    let (client, _) = connect(bench.address, "localhost:1", "").await;
    let mut client = tls(client.stream, authority.certificate(), "localhost")
        .await
        .unwrap();
    client
        .write(b"GET / HTTP/1.1\r\nHost: api.openai.com\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.unwrap().code(), "misdirected");
    client
        .write(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        .await;
    drop(client.answer().await);
    assert!(bench.exchanges(0).await.is_empty());
}

#[tokio::test]
async fn a_tunnel_leads_to_the_gateway_itself() {
    let (_, root) = provider().await;
    let (bench, _) = intercepting(root, |_| {}).await;
    let (_, status) = connect(bench.address, &bench.address.to_string(), "").await;
    assert_eq!(status, 508);
}

#[tokio::test]
async fn without_intercept_a_tunnel_is_made() {
    let bench = Bench::start("http://127.0.0.1:9").await;
    let (_, status) = connect(bench.address, "api.openai.com:443", "").await;
    assert_eq!(status, 501);
}

#[tokio::test]
async fn a_virtual_host_leads_elsewhere_than_its_upstream() {
    let upstream = Scripted::start(vec![write(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )])
    .await;
    let base = format!("{}/base", upstream.base());
    let bench = Bench::with("http://127.0.0.1:9", |c| {
        let upstream = audit_gateway::Upstream::new(&base)
            .unwrap()
            .speaking("openai")
            .on_hosts(vec![pattern("llm.clinic.example")]);
        c.upstreams.insert("local".to_owned(), upstream);
    })
    .await;
    let request = b"GET /v1/models HTTP/1.1\r\nHost: LLM.clinic.example:8484\r\n\r\n";
    assert_eq!(exchange(bench.address, request).await.body, b"ok");
    let recorded = bench.exchange().await;
    assert_eq!(text(&recorded.request, "audit.upstream"), "local");
    let seen = upstream.seen.lock().unwrap()[0].clone();
    assert!(seen.starts_with(b"GET /base/v1/models HTTP/1.1\r\n"));
    let climbing = b"GET /../x HTTP/1.1\r\nHost: llm.clinic.example\r\n\r\n";
    assert_eq!(
        exchange(bench.address, climbing).await.code(),
        "bad_request"
    );
}

/// Whoever steals the key must not be able to speak for other hosts among those who trust the certificate.
#[tokio::test]
async fn the_authority_may_speak_for_other_hosts() {
    let narrow = authority(&[
        "api.openai.com",
        ".openai.azure.com",
        "bedrock-runtime.*.amazonaws.com",
    ]);
    for (host, allowed) in [
        ("api.openai.com", true),
        ("x.api.openai.com", true),
        ("openai.com", false),
        ("evil.org", false),
        ("clinic.openai.azure.com", true),
        ("bedrock-runtime.eu-central-1.amazonaws.com", true),
        ("127.0.0.1", false),
    ] {
        assert_eq!(narrow.allows(&pattern(host)), allowed, "{host}");
    }
    let over = Intercept::new(Arc::clone(&narrow), vec![pattern("evil.org")]);
    let mut config = Config::new(Arc::new(|_: &audit_gateway::Notice| {}));
    config.intercept = Some(over);
    assert_eq!(config.check().unwrap_err().kind(), ErrorKind::Invalid);

    // The constraint in the certificate itself, as a client sees it: an authority for one host, used for another.
    let (_, root) = provider().await;
    let key =
        CertificateAuthority::generate("o/g", &[pattern("example.org")], System.now()).unwrap();
    let stolen = audit_core::keyring::CaKey {
        hosts: vec!["localhost".to_owned()],
        ..key
    };
    let stolen = Arc::new(CertificateAuthority::open(stolen, System.now()).unwrap());
    let (bench, _) = intercepting(root, |c| {
        c.intercept = Some(Intercept::new(
            Arc::clone(&stolen),
            vec![pattern("localhost")],
        ));
    })
    .await;
    let (client, status) = connect(bench.address, "localhost:1", "").await;
    assert_eq!(status, 200);
    let refused = tls(client.stream, stolen.certificate(), "localhost")
        .await
        .err();
    let refused = refused
        .expect("the name constraint does not bind")
        .to_string();
    assert!(refused.contains("certificate"), "{refused}");
}

#[test]
fn an_authority_is_used_beyond_its_time_or_with_another_key() {
    let now = System.now();
    let make = || CertificateAuthority::generate("o/g", &[pattern("example.org")], now).unwrap();
    let key = make();
    let end = key.not_after;
    CertificateAuthority::open(key.clone(), end.plus_micros(-1)).unwrap();
    assert_eq!(
        CertificateAuthority::open(key.clone(), end)
            .unwrap_err()
            .kind(),
        ErrorKind::Invalid
    );
    let mixed = audit_core::keyring::CaKey {
        private: make().private,
        ..key.clone()
    };
    assert_eq!(
        CertificateAuthority::open(mixed, now).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    let torn = audit_core::keyring::CaKey {
        private: zeroize::Zeroizing::new(vec![1, 2, 3]),
        ..key
    };
    assert_eq!(
        CertificateAuthority::open(torn, now).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    let none = CertificateAuthority::generate(
        "o/g",
        &[],
        Timestamp::parse("2026-01-02T03:04:05.000006Z").unwrap(),
    );
    assert_eq!(none.unwrap_err().kind(), ErrorKind::Invalid);
}
