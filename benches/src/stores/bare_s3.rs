//! Objects of the same bytes, put as the store puts them, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use audit_core::packed;
use audit_core::store::Batch;
use audit_core::time::{Clock as _, System};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::http::header::{HeaderName, HeaderValue};
use hyper::http::{Method, Request, StatusCode};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpClient, HttpRequestBody};
use sha2::{Digest as _, Sha256};

use crate::Result;

/// A server, and how to sign for it.
#[derive(Clone)]
pub struct Server {
    /// Its URL.
    pub endpoint: String,
    credential: Arc<AwsCredential>,
    region: String,
    client: HttpClient,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// The server that the environment names, if it does.
    pub fn of_environment() -> Result<Option<Self>> {
        let Ok(endpoint) = std::env::var("AUDIT_TEST_S3_URL") else {
            return Ok(None);
        };
        let credential = AwsCredential {
            key_id: std::env::var("AWS_ACCESS_KEY_ID")?,
            secret_key: std::env::var("AWS_SECRET_ACCESS_KEY")?,
            token: None,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // For plain http on this machine: no certificates are asked for.
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .build()?;
        Ok(Some(Self {
            endpoint,
            credential: Arc::new(credential),
            region: std::env::var("AWS_REGION").unwrap_or_else(|_| "us-east-1".to_owned()),
            client: HttpClient::new(client),
        }))
    }

    /// Makes a bucket with Object Lock.
    pub async fn make_bucket(&self, name: &str) -> Result<()> {
        let lock = ("x-amz-bucket-object-lock-enabled", "true".to_owned());
        self.put(&format!("/{name}"), vec![lock], Bytes::new())
            .await
    }

    async fn put(
        &self,
        target: &str,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
    ) -> Result<()> {
        let digest = Sha256::digest(&body);
        let mut request = Request::builder()
            .method(Method::PUT)
            .uri(format!("{}{target}", self.endpoint))
            .header("content-length", body.len())
            .body(HttpRequestBody::from(body))?;
        for (name, value) in headers {
            request.headers_mut().insert(
                HeaderName::from_static(name),
                HeaderValue::from_str(&value)?,
            );
        }
        AwsAuthorizer::new(&self.credential, "s3", &self.region)
            .try_authorize(&mut request, Some(&digest))?;
        let answer = self.client.execute(request).await?;
        let (parts, body) = answer.into_parts();
        let body = body.bytes().await?;
        if parts.status == StatusCode::OK {
            return Ok(());
        }
        Err(format!(
            "{target}: {} {}",
            parts.status,
            String::from_utf8_lossy(&body)
        )
        .into())
    }
}

/// The objects of a batch: as many bytes as the store writes, to within a hundred or so.
#[derive(Debug)]
pub struct Objects {
    side: Bytes,
    batch: Bytes,
    events: usize,
}

impl Objects {
    /// Of a batch that a log made.
    #[must_use]
    pub fn new(batch: &Batch) -> Self {
        let (mut side, mut main) = (Vec::new(), Vec::new());
        let mut parts: Vec<u8> = Vec::new();
        for row in &batch.rows {
            side.extend(row.columns.event.as_bytes());
            side.extend(row.columns.time.as_micros().to_be_bytes());
            side.extend(row.columns.kind.as_str().as_bytes());
            if let Some(set) = &row.tokens {
                side.extend(set.salt.0);
                side.extend(set.tokens.iter().flat_map(|token| token.0));
            }
            let entry = packed::pack(&row.entry);
            main.extend((entry.len() as u64).to_be_bytes());
            main.extend(entry);
            parts.extend(row.parts.iter().flatten());
        }
        for key in &batch.keys {
            side.extend(key.id.as_bytes());
            side.extend(key.scope.0);
            side.extend(key.run.as_bytes());
            side.extend(&key.wrapped);
        }
        for hash in batch.tiles.iter().flat_map(|tile| &tile.hashes) {
            main.extend(hash.as_bytes());
        }
        main.extend(parts);
        Self {
            side: side.into(),
            batch: main.into(),
            events: batch.rows.len(),
        }
    }

    /// Events in it.
    #[must_use]
    pub fn events(&self) -> usize {
        self.events
    }
}

/// Puts objects one after the other.
#[derive(Debug)]
pub struct BareS3 {
    server: Server,
    base: String,
    next: u64,
}

impl BareS3 {
    /// Below a prefix of its own.
    #[must_use]
    pub fn new(server: Server, bucket: &str, prefix: &str) -> Self {
        Self {
            server,
            base: format!("/{bucket}/{prefix}"),
            next: 0,
        }
    }

    /// Puts the two objects of a batch: only if absent, the second one locked.
    pub async fn commit(&mut self, objects: &Objects) -> Result<()> {
        let number = self.next;
        self.next += 1;
        let headers = |body: &Bytes| {
            vec![
                ("if-none-match", "*".to_owned()),
                (
                    "x-amz-checksum-sha256",
                    STANDARD.encode(Sha256::digest(body)),
                ),
            ]
        };
        let target = format!("{}/side/{number:016}", self.base);
        self.server
            .put(&target, headers(&objects.side), objects.side.clone())
            .await?;
        let mut locked = headers(&objects.batch);
        let until = System
            .now()
            .plus_micros(i64::try_from(Duration::from_hours(24).as_micros())?);
        let until = until.to_string();
        let seconds = until.split('.').next().unwrap_or_default();
        locked.push(("x-amz-object-lock-mode", "COMPLIANCE".to_owned()));
        locked.push(("x-amz-object-lock-retain-until-date", format!("{seconds}Z")));
        let target = format!("{}/batch/{number:016}", self.base);
        self.server
            .put(&target, locked, objects.batch.clone())
            .await
    }
}
