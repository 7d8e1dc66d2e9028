//! HTTP/2, on both sides.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::time::{Clock as _, System};
use audit_gateway::{CertificateAuthority, Config, HostPattern, Intercept};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::client::Client;
use crate::scripted::{Scripted, Step, write};
use crate::support::{Bench, payload};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

type Sender = SendRequest<Full<Bytes>>;

/// Speaks HTTP/2 over what carries bytes.
async fn speak(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Sender {
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender
}

/// By prior knowledge, without TLS (RFC 9113 §3.3).
async fn connect(gateway: SocketAddr) -> Sender {
    speak(TcpStream::connect(gateway).await.unwrap()).await
}

fn post(gateway: SocketAddr, path: &str, body: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://{gateway}{path}"))
        .version(Version::HTTP_2)
        .header("content-type", "application/json")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap()
}

async fn exchange(sender: &mut Sender, request: Request<Full<Bytes>>) -> (u16, Bytes) {
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.version(), Version::HTTP_2);
    let status = answer.status().as_u16();
    (
        status,
        answer.into_body().collect().await.unwrap().to_bytes(),
    )
}

fn text<'e>(event: &'e audit_core::event::Event, name: &str) -> &'e str {
    event
        .attributes
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[tokio::test]
async fn a_client_of_http2_is_turned_away_or_changed() {
    let upstream = Scripted::start(vec![write(OK)]).await;
    let bench = Bench::start(&upstream.base()).await;
    let mut sender = connect(bench.address).await;
    let body = r#"{"model":"m"}"#;
    let answered = exchange(
        &mut sender,
        post(bench.address, "/openai/v1/responses?a=b", body),
    )
    .await;
    assert_eq!(answered, (200, Bytes::from_static(b"{}")));
    let recorded = bench.exchange().await;
    assert_eq!(text(&recorded.request, "network.protocol.version"), "2");
    assert_eq!(
        payload(&recorded.request, "request.body"),
        Some(body.as_bytes())
    );
    let seen = String::from_utf8(upstream.seen.lock().unwrap()[0].clone()).unwrap();
    let seen = seen.to_lowercase();
    assert!(
        seen.starts_with("post /v1/responses?a=b http/1.1\r\n"),
        "{seen}"
    );
    assert!(
        seen.contains(&format!("\r\nhost: {}\r\n", upstream.address)),
        "{seen}"
    );
    assert!(seen.contains("\r\ncookie: a=1; b=2\r\n"), "{seen}");
    assert!(seen.contains("\r\ncontent-length: 13\r\n"), "{seen}");

    // What is refused in HTTP/1.1 is refused here.
    for (path, status) in [("/unknown/x", 404), ("/openai/%2e%2e/x", 400)] {
        assert_eq!(
            exchange(&mut sender, post(bench.address, path, "{}"))
                .await
                .0,
            status
        );
    }
    let mut two = post(bench.address, "/openai/x", "{}");
    two.headers_mut()
        .insert("host", "other.example".parse().unwrap());
    assert_eq!(exchange(&mut sender, two).await.0, 400);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn streams_of_one_connection_wait_for_each_other() {
    let sse =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
    let done = "data: [DONE]\n\n";
    let chunk = |text: &str| write(&format!("{:x}\r\n{text}\r\n", text.len()));
    let go_on = Arc::new(tokio::sync::Notify::new());
    let script = vec![
        write(sse),
        chunk(event),
        Step::Wait(Arc::clone(&go_on)),
        chunk(done),
        write("0\r\n\r\n"),
    ];
    let upstream = Scripted::start(script).await;
    let bench = Bench::start(&upstream.base()).await;
    let mut sender = connect(bench.address).await;
    let mut answers = Vec::new();
    for _ in 0..20 {
        let request = post(
            bench.address,
            "/openai/v1/chat/completions",
            r#"{"stream":true}"#,
        );
        let mut answer = sender.send_request(request).await.unwrap();
        let first = answer
            .body_mut()
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap();
        assert_eq!(first, event, "an event is held back");
        answers.push(answer);
    }
    // One leaves, one doesn't read; the others come to their end.
    drop(answers.pop());
    let idle = answers.pop().unwrap();
    for _ in 0..20 {
        go_on.notify_one();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for answer in answers {
        let rest = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(rest, done);
    }
    drop(idle);
    let outcomes: Vec<String> = bench
        .exchanges(20)
        .await
        .iter()
        .map(|e| e.outcome().0.to_owned())
        .collect();
    let cut = outcomes.iter().filter(|o| *o == "cut_by_client").count();
    assert!((1..=2).contains(&cut), "{outcomes:?}");
    assert_eq!(
        outcomes.iter().filter(|o| *o == "complete").count(),
        20 - cut
    );
}

#[tokio::test]
async fn an_answer_that_is_cut_looks_whole() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 100\r\n\r\nsome";
    let upstream = Scripted::start(vec![write(head), Step::Close]).await;
    let bench = Bench::start(&upstream.base()).await;
    let mut sender = connect(bench.address).await;
    let answer = sender
        .send_request(post(bench.address, "/openai/x", "{}"))
        .await
        .unwrap();
    assert!(
        answer.into_body().collect().await.is_err(),
        "a cut answer has an end"
    );
    assert_eq!(bench.exchange().await.outcome().0, "cut_by_provider");
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_its_stream_for_ever() {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let piece = "x".repeat(64 * 1024);
    let mut script = vec![write(head)];
    for _ in 0..400 {
        script.push(write(&format!("{:x}\r\n{piece}\r\n", piece.len())));
    }
    let upstream = Scripted::start(script).await;
    let bench = Bench::with(&upstream.base(), |c| {
        c.limits.client_stall_timeout = Duration::from_millis(300);
    })
    .await;
    let mut sender = connect(bench.address).await;
    let answer = sender
        .send_request(post(bench.address, "/openai/x", "{}"))
        .await
        .unwrap();
    let recorded = bench.exchange().await;
    assert_eq!(
        recorded.outcome(),
        ("cut_by_client", Some("client_stalled"))
    );
    let got = recorded.body().len();
    assert!(
        got < 20 << 20,
        "{got} bytes were taken from the provider for a client that takes none"
    );
    drop(answer);
    // Its neighbours live.
    let (status, _) = exchange(&mut sender, post(bench.address, "/unknown/x", "{}")).await;
    assert_eq!(status, 404);
}

/// Version, target and host header of requests.
type Seen = Arc<Mutex<Vec<(Version, String, Option<String>)>>>;

/// A provider that speaks HTTP/2 alone, with a certificate for `localhost`: its address, certificate, and what it saw.
struct Provider {
    address: SocketAddr,
    root: Vec<u8>,
    seen: Seen,
    connections: Arc<AtomicUsize>,
}

async fn provider() -> Provider {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let connections = Arc::new(AtomicUsize::new(0));
    let (told, counted) = (Arc::clone(&seen), Arc::clone(&connections));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, told) = (acceptor.clone(), Arc::clone(&told));
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |request: Request<Incoming>| {
                    let told = Arc::clone(&told);
                    async move {
                        let host = request
                            .headers()
                            .get("host")
                            .map(|h| h.to_str().unwrap().to_owned());
                        let uri = request.uri().to_string();
                        told.lock().unwrap().push((request.version(), uri, host));
                        let body = request.into_body().collect().await?.to_bytes();
                        Ok::<_, hyper::Error>(Response::new(Full::new(body)))
                    }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                drop(
                    builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        }
    });
    Provider {
        address,
        root: certificate.der().to_vec(),
        seen,
        connections,
    }
}

async fn intercepting(
    root: Vec<u8>,
    change: impl FnOnce(&mut Config),
) -> (Bench, Arc<CertificateAuthority>) {
    let hosts: Vec<HostPattern> = vec!["localhost".parse().unwrap()];
    let key = CertificateAuthority::generate("o/g", &hosts, System.now()).unwrap();
    let authority = Arc::new(CertificateAuthority::open(key, System.now()).unwrap());
    let intercept = Intercept::new(Arc::clone(&authority), hosts);
    let bench = Bench::with("http://127.0.0.1:9", |c| {
        c.system_roots = false;
        c.extra_roots.push(root);
        c.intercept = Some(intercept);
        change(c);
    })
    .await;
    (bench, authority)
}

/// Through the proxy, as a client that offers HTTP/2.
async fn through(bench: &Bench, authority: &CertificateAuthority, to: &str) -> Sender {
    let mut client = Client::connect(bench.address).await;
    client
        .write(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes())
        .await;
    assert_eq!(client.head().await.unwrap().status, 200);
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(authority.certificate().to_vec()))
        .unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), client.stream)
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    speak(stream).await
}

#[tokio::test]
async fn http2_ends_at_the_proxy_or_needs_a_connection_for_each_call() {
    let provider = provider().await;
    let (bench, authority) = intercepting(provider.root.clone(), |_| {}).await;
    let to = format!("localhost:{}", provider.address.port());
    let mut sender = through(&bench, &authority, &to).await;
    // One after the other first, so that there is a connection.
    let ask = |n: usize| {
        Request::post(format!("https://{to}/v1/responses?n={n}"))
            .version(Version::HTTP_2)
            .body(Full::new(Bytes::from(format!("{{\"n\":{n}}}"))))
            .unwrap()
    };
    assert_eq!(
        exchange(&mut sender, ask(0)).await,
        (200, Bytes::from("{\"n\":0}"))
    );
    let asked: Vec<_> = (1..=30).map(|n| sender.send_request(ask(n))).collect();
    for (n, answer) in asked.into_iter().enumerate() {
        let body = answer
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(body, format!("{{\"n\":{}}}", n + 1));
    }
    let seen = provider.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 31);
    for (version, uri, host) in &seen {
        assert_eq!(*version, Version::HTTP_2);
        assert!(
            uri.starts_with(&format!("https://{to}/v1/responses?n=")),
            "{uri}"
        );
        assert_eq!(*host, None, "a host header beside the authority");
    }
    assert_eq!(provider.connections.load(Ordering::Relaxed), 1);
    let recorded = bench.exchanges(31).await;
    for exchange in &recorded {
        assert_eq!(text(&exchange.request, "network.protocol.version"), "2");
        assert_eq!(
            text(&exchange.request, "audit.capture.point"),
            "intercepting_proxy"
        );
        assert_eq!(
            payload(&exchange.request, "request.body").unwrap(),
            exchange.body()
        );
    }
    // Another host within the connection.
    let other = Request::get("https://api.openai.com/v1/models")
        .version(Version::HTTP_2)
        .body(Full::default())
        .unwrap();
    assert_eq!(exchange(&mut sender, other).await.0, 421);
}

#[tokio::test]
async fn an_open_stream_does_not_end_with_the_gateway() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let upstream = Scripted::start(vec![write(head), Step::Hang]).await;
    let mut bench = Bench::with(&upstream.base(), |c| {
        c.limits.drain_timeout = Duration::from_millis(100);
    })
    .await;
    let mut sender = connect(bench.address).await;
    let mut answer = sender
        .send_request(post(bench.address, "/openai/x", "{}"))
        .await
        .unwrap();
    let first = answer
        .body_mut()
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();
    assert_eq!(first, "hello");
    bench.begin_shutdown();
    let log = bench.log.clone();
    timeout(Duration::from_secs(20), bench.shutdown())
        .await
        .expect("it ends");
    assert!(
        answer.into_body().collect().await.is_err(),
        "a cut stream has an end"
    );
    let records = log.reader().records(0..100).await.unwrap();
    let outcome = records.into_iter().find_map(|record| match record.content {
        audit_core::reader::RecordContent::Open(opened) => {
            opened.event.attributes.get("audit.outcome").cloned()
        }
        _ => None,
    });
    assert_eq!(outcome, Some(json!("cut_by_gateway")));
}

/// The preface may come in pieces; half of one is nobody.
#[tokio::test]
async fn a_preface_in_pieces_is_taken_for_a_request() {
    let upstream = Scripted::start(vec![write(OK)]).await;
    let bench = Bench::with(&upstream.base(), |c| {
        c.limits.request_head_timeout = Duration::from_millis(500);
    })
    .await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let mut client = Client::connect(bench.address).await;
    for piece in preface.chunks(3) {
        client.write(piece).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A SETTINGS frame comes back, not an answer in HTTP/1.1.
    let mut back = [0; 9];
    tokio::io::AsyncReadExt::read_exact(&mut client.stream, &mut back)
        .await
        .unwrap();
    assert_eq!(back[3], 4, "{back:?}");
    let mut half = Client::connect(bench.address).await;
    half.write(b"PRI * HT").await;
    let ended = timeout(Duration::from_secs(10), half.ends()).await;
    assert!(ended.expect("half a preface holds a connection for ever"));
}
