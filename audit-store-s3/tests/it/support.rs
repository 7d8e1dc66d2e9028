//! A bucket with Object Lock on the server that the environment names, and a prefix in it for each store.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use audit_core::time::{IdSource as _, System};
use audit_store_s3::{S3Options, S3Store};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpClient, HttpRequestBody, HttpResponse};
use tokio::sync::OnceCell;

/// The bucket of this test process; one for all, since each takes the server a volume.
static BUCKET: OnceCell<String> = OnceCell::const_new();
static PREFIXES: AtomicU64 = AtomicU64::new(0);

/// Where the server is.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) endpoint: String,
    key: String,
    secret: String,
    region: String,
}

/// The server of the environment; without one the tests say that they skip.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub(crate) fn server() -> Option<Server> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(endpoint) = set("AUDIT_TEST_S3_URL") else {
        assert!(
            set("AUDIT_TEST_SERVICES").is_none(),
            "AUDIT_TEST_S3_URL is not set, and with AUDIT_TEST_SERVICES nothing may be skipped"
        );
        println!("skipped: AUDIT_TEST_S3_URL names no server");
        return None;
    };
    Some(Server {
        endpoint,
        key: set("AWS_ACCESS_KEY_ID").expect("AWS_ACCESS_KEY_ID is set with AUDIT_TEST_S3_URL"),
        secret: set("AWS_SECRET_ACCESS_KEY").expect("AWS_SECRET_ACCESS_KEY too"),
        region: set("AWS_REGION").unwrap_or_else(|| "us-east-1".to_owned()),
    })
}

/// A new name that sorts by nothing.
pub(crate) fn fresh_name(what: &str) -> String {
    format!("{what}-{}", System.uuid_v4().simple())
}

impl Server {
    /// One request, signed, whatever comes back. `target` is what stands behind the server's name.
    pub(crate) async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<Bytes>,
    ) -> HttpResponse {
        let body: Bytes = body.into();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{target}", self.endpoint))
            .header("content-length", body.len())
            .body(HttpRequestBody::from(body))
            .unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let credential = AwsCredential {
            key_id: self.key.clone(),
            secret_key: self.secret.clone(),
            token: None,
        };
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .try_authorize(&mut request, None)
            .unwrap();
        client().execute(request).await.unwrap()
    }

    /// Writes past the S3 server, to the one behind it.
    pub(crate) async fn raw_put(&self, url: &str, bytes: Vec<u8>) -> StatusCode {
        let request = Request::builder()
            .method(Method::PUT)
            .uri(url)
            .header("content-length", bytes.len())
            .body(HttpRequestBody::from(bytes))
            .unwrap();
        client().execute(request).await.unwrap().status()
    }

    /// Makes a bucket, with Object Lock or without.
    pub(crate) async fn make_bucket(&self, name: &str, lock: bool) {
        let lock = (
            "x-amz-bucket-object-lock-enabled",
            if lock { "true" } else { "false" },
        );
        let made = self
            .send(Method::PUT, &format!("/{name}"), &[lock], "")
            .await;
        assert_eq!(
            made.status(),
            StatusCode::OK,
            "the bucket {name} was not made"
        );
    }

    /// A bucket with Object Lock, the same for all tests of this process.
    pub(crate) async fn bucket(&self) -> String {
        let make = async || {
            let name = fresh_name("test");
            self.make_bucket(&name, true).await;
            name
        };
        BUCKET.get_or_init(make).await.clone()
    }

    pub(crate) fn options(&self, bucket: &str, prefix: &str) -> S3Options {
        let mut options = S3Options::new(bucket, prefix);
        options.endpoint = Some(self.endpoint.clone());
        options.retain_days = 1;
        options
    }
}

fn client() -> HttpClient {
    // Plain http on this machine: no certificates are asked for.
    let tls = rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(rustls::RootCertStore::empty())
    .with_no_client_auth();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls);
    HttpClient::new(client.build().unwrap())
}

/// A prefix of the tests' bucket, and the next one when a fresh store is asked for.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) server: Server,
    pub(crate) bucket: String,
    prefix: Mutex<String>,
}

pub(crate) async fn place() -> Option<Place> {
    let server = server()?;
    let bucket = server.bucket().await;
    let place = Place {
        server,
        bucket,
        prefix: Mutex::default(),
    };
    place.next();
    Some(place)
}

impl Place {
    /// Goes on to a new prefix.
    pub(crate) fn next(&self) {
        let n = PREFIXES.fetch_add(1, Ordering::SeqCst);
        *self.prefix.lock().unwrap() = format!("{}/{n}", fresh_name("p"));
    }

    pub(crate) fn prefix(&self) -> String {
        self.prefix.lock().unwrap().clone()
    }

    pub(crate) fn options(&self) -> S3Options {
        self.server.options(&self.bucket, &self.prefix())
    }

    pub(crate) fn store(&self) -> S3Store {
        S3Store::new(&self.options()).unwrap()
    }

    /// The keys of all objects below the prefix, with it.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let prefix = self.prefix();
        let below = self.keys_below(&prefix).await;
        below
            .into_iter()
            .map(|key| format!("{prefix}/{key}"))
            .collect()
    }

    /// The keys of all objects below another prefix, without it.
    pub(crate) async fn keys_below(&self, prefix: &str) -> Vec<String> {
        let query = format!(
            "/{}?list-type=2&prefix={}%2F",
            self.bucket,
            prefix.replace('/', "%2F")
        );
        let reply = self.server.send(Method::GET, &query, &[], "").await;
        let text = reply.into_body().bytes().await.unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(
            !text.contains("<IsTruncated>true"),
            "more than a page of keys"
        );
        let keys = text.split("<Key>").skip(1);
        keys.map(|rest| rest.split('<').next().unwrap())
            .map(|key| key.strip_prefix(&format!("{prefix}/")).unwrap().to_owned())
            .collect()
    }
}
