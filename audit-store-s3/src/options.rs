//! Which bucket, and how to get at it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use audit_core::time::{Clock, IdSource, System};
use audit_core::{Error, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, RetryConfig};
use std::time::Duration;

use crate::bucket::Bucket;
use crate::profile;
use crate::wire::Connector;

/// How long objects are locked where nothing else is said: half a year, the least that Article 19 of the EU's AI Act asks
/// of those who keep logs.
pub const RETAIN_DAYS: u32 = 183;
/// A hundred years.
const RETAIN_DAYS_MAX: u32 = 36_500;
const PREFIX_BYTES_MAX: usize = 512;

/// Which bucket, and how to get at it. Credentials come from the environment, never from here.
#[derive(Clone)]
#[non_exhaustive]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// What the keys of all objects begin with: letters, digits, `.`, `_`, `-`, and `/` between.
    pub prefix: String,
    /// The region, if it isn't that of the environment.
    pub region: Option<String>,
    /// Another server than AWS's, such as `https://storage.example.com`; the bucket becomes a part of the path. If there is
    /// none here, `AWS_ENDPOINT_URL_S3` and `AWS_ENDPOINT_URL` may name one.
    pub endpoint: Option<String>,
    /// Plain http to other machines than this one.
    pub allow_http: bool,
    /// A log made now does without Object Lock, and says so of itself.
    pub without_object_lock: bool,
    /// For how many days a log made now locks what it writes.
    pub retain_days: u32,
    /// How long a batch waits for company, because each one takes at least two requests; `None`: not at all. Several
    /// processes that write to one log without a pause give way to each other, which takes a request more for every fourth
    /// batch.
    pub linger: Option<Duration>,
    /// After how long the publisher's lease of a process that died can be taken by another.
    pub lease: Duration,
    /// How long the server may be silent in the middle of an answer.
    pub timeout: Duration,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub ids: Arc<dyn IdSource>,
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// The URL, without the options that say how the log is to be made.
impl fmt::Display for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)?;
        match &self.endpoint {
            Some(endpoint) => write!(f, "?endpoint={endpoint}"),
            None => Ok(()),
        }
    }
}

impl S3Options {
    /// The log below a prefix of a bucket.
    #[must_use]
    pub fn new(bucket: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: prefix.into(),
            region: None,
            endpoint: None,
            allow_http: false,
            without_object_lock: false,
            retain_days: RETAIN_DAYS,
            linger: Some(Duration::from_millis(250)),
            lease: Duration::from_secs(15),
            timeout: Duration::from_secs(20),
            clock: Arc::new(System),
            ids: Arc::new(System),
        }
    }

    /// Reads `s3://BUCKET/PREFIX?OPTION=VALUE&…`.
    ///
    /// Options: `region`; `endpoint`, a URL; `allow_http=yes`; `object_lock=no` and `retain_days=N`, for a log that is
    /// made now. There is none for credentials.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](audit_core::ErrorKind::Invalid) for anything else.
    pub fn parse_url(url: &str) -> Result<Self> {
        // What stands in a URL may be a secret that doesn't belong there, so nothing of it is repeated.
        let refuse = |what: &str| {
            Err(Error::invalid(format!(
                "the store URL {what}; hint: s3://BUCKET/PREFIX?region=…&endpoint=…"
            )))
        };
        let Some(rest) = url.strip_prefix("s3://") else {
            return refuse("doesn't begin with s3://");
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let Some((bucket, prefix)) = place.split_once('/') else {
            return refuse("has no prefix");
        };
        if bucket.contains('@') {
            return refuse("has credentials in it, which belong into the environment");
        }
        let mut options = Self::new(bucket, prefix.trim_end_matches('/'));
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (name, value) {
                ("region", _) => options.region = Some(value.to_owned()),
                ("endpoint", _) => options.endpoint = Some(decode(value)?),
                ("allow_http", "yes") => options.allow_http = true,
                ("object_lock", "no") => options.without_object_lock = true,
                ("object_lock", "yes") | ("allow_http", "no") => {}
                ("retain_days", _) => {
                    let days = value.parse().map_err(|e| {
                        Error::invalid("retain_days in the store URL is no number").because(e)
                    })?;
                    options.retain_days = days;
                }
                _ => {
                    return refuse(
                        "has an option that is not known, or a value that it can't have",
                    );
                }
            }
        }
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<()> {
        let refuse = |what: &str| Err(Error::invalid(what.to_owned()));
        let of = |text: &str, more: &[u8]| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        if !(3..=63).contains(&self.bucket.len()) || !of(&self.bucket, b".-_") {
            return refuse("the bucket's name has 3 to 63 letters, digits, `.`, `-`, `_`");
        }
        let parts = self.prefix.split('/');
        let dots = parts.clone().any(|part| matches!(part, "" | "." | ".."));
        if self.prefix.len() > PREFIX_BYTES_MAX || dots || !of(&self.prefix, b"._-/") {
            return refuse(
                "the prefix has 1 to 512 letters, digits, `.`, `_`, `-`, with single slashes between",
            );
        }
        if !(1..=RETAIN_DAYS_MAX).contains(&self.retain_days) {
            return refuse("retain_days is 1 to 36500");
        }
        if let Some(region) = &self.region
            && (region.is_empty() || !of(region, b"-"))
        {
            return refuse("the region has letters, digits and `-`");
        }
        match &self.endpoint {
            Some(endpoint) => self.check_endpoint(endpoint),
            None => Ok(()),
        }
    }

    fn check_endpoint(&self, endpoint: &str) -> Result<()> {
        let refuse = |what: &str| Err(Error::invalid(what.to_owned()));
        let uri: http::Uri = endpoint
            .parse()
            .map_err(|e| Error::invalid("the endpoint is no URL").because(e))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let here = host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        let plain = uri.scheme_str() == Some("http");
        if !plain && uri.scheme_str() != Some("https") {
            return refuse("the endpoint begins with https:// or http://");
        }
        if uri.authority().is_some_and(|a| a.as_str().contains('@'))
            || uri
                .path_and_query()
                .is_some_and(|path| path.as_str() != "/")
        {
            return refuse("the endpoint has a host and maybe a port, nothing else");
        }
        if plain && !here && !self.allow_http {
            return refuse(
                "the endpoint is plain http on another machine; hint: allow_http=yes if that network may be trusted",
            );
        }
        Ok(())
    }

    pub(crate) fn connect(&self) -> Result<Bucket> {
        self.check()?;
        let connector = Connector::new(Arc::clone(&self.clock), self.timeout)?;
        let mut builder = AmazonS3Builder::from_env();
        let profile = profile::read()?;
        if let Some((id, secret, token)) = profile.keys
            && std::env::var_os("AWS_ACCESS_KEY_ID").is_none()
            && std::env::var_os("AWS_WEB_IDENTITY_TOKEN_FILE").is_none()
        {
            builder = builder
                .with_access_key_id(id)
                .with_secret_access_key(secret);
            if let Some(token) = token {
                builder = builder.with_token(token);
            }
        }
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let region = self
            .region
            .clone()
            .or_else(|| set("AWS_REGION"))
            .or_else(|| set("AWS_DEFAULT_REGION"))
            .or(profile.region)
            .unwrap_or_else(|| "us-east-1".to_owned());
        // A bucket with a dot in its name has no certificate of its own.
        let named = self
            .endpoint
            .clone()
            .or_else(|| set("AWS_ENDPOINT_URL_S3"))
            .or_else(|| set("AWS_ENDPOINT_URL"));
        if let Some(endpoint) = &named {
            self.check_endpoint(endpoint)?;
        }
        let virtual_host = named.is_none() && !self.bucket.contains('.');
        let base = match &named {
            Some(endpoint) => format!("{}/{}", endpoint.trim_end_matches('/'), self.bucket),
            None if virtual_host => format!("https://{}.s3.{region}.amazonaws.com", self.bucket),
            None => format!("https://s3.{region}.amazonaws.com/{}", self.bucket),
        };
        let endpoint = if virtual_host {
            base.clone()
        } else {
            base.strip_suffix(&format!("/{}", self.bucket))
                .unwrap_or(&base)
                .to_owned()
        };
        let seen = Arc::clone(connector.seen());
        let http = connector.client();
        let store = builder
            .with_bucket_name(&self.bucket)
            .with_region(&region)
            .with_config(AmazonS3ConfigKey::S3Endpoint, endpoint)
            .with_virtual_hosted_style_request(virtual_host)
            .with_allow_http(true)
            .with_skip_signature(false)
            .with_retry(RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: 4,
                retry_timeout: Duration::from_secs(30),
            })
            .with_http_connector(connector)
            .build()
            .map_err(|e| Error::invalid("the bucket's client can't be made").because(e))?;
        Ok(Bucket {
            store,
            http,
            seen,
            base,
            region,
            name: self.bucket.clone(),
            prefix: format!("{}/", self.prefix),
        })
    }
}

/// Undoes the percent encoding that a URL in a URL may have.
fn decode(value: &str) -> Result<String> {
    let wrong = || Error::invalid("the endpoint in the store URL is malformed");
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits =
                [bytes.next(), bytes.next()].map(|d| d.and_then(|d| char::from(d).to_digit(16)));
            let [Some(high), Some(low)] = digits else {
                return Err(wrong());
            };
            out.push(u8::try_from(high * 16 + low).map_err(|e| wrong().because(e))?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).map_err(|e| wrong().because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_bucket_prefix_and_how_to_get_there() {
        let url = "s3://audit-logs/prod/eu?region=eu-central-1&retain_days=2557";
        let options = S3Options::parse_url(url).unwrap();
        assert_eq!(
            (&*options.bucket, &*options.prefix),
            ("audit-logs", "prod/eu")
        );
        assert_eq!(options.region.as_deref(), Some("eu-central-1"));
        assert_eq!(
            (options.retain_days, options.without_object_lock),
            (2557, false)
        );
        let url = "s3://bucket/log?endpoint=http%3A%2F%2F127.0.0.1%3A9000&object_lock=no";
        let options = S3Options::parse_url(url).unwrap();
        assert_eq!(options.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert!(options.without_object_lock);
    }

    #[test]
    fn what_is_no_such_url_is_refused_without_being_repeated() {
        for url in [
            "s3:bucket/log",
            "s3://bucket",
            "s3://bucket/",
            "s3://bucket//log",
            "s3://b/log",
            "s3://bucket/a/../log",
            "s3://bucket/log?hunter2=1",
            "s3://bucket/log?object_lock=hunter2",
            "s3://bucket/log?retain_days=0",
            "s3://bucket/log?retain_days=36501",
            "s3://bucket/log?endpoint=http://example.com",
            "s3://bucket/log?endpoint=ftp://127.0.0.1",
            "s3://bucket/log?endpoint=https://hunter2@example.com",
            "s3://bucket/log?endpoint=%zz",
            "s3://AKIA:hunter2@bucket/log",
            "s3://bucket/log hunter2",
        ] {
            let error = S3Options::parse_url(url).unwrap_err();
            assert_eq!(error.kind(), audit_core::ErrorKind::Invalid, "{url}");
            assert!(
                !format!("{error:?}").contains("hunter2"),
                "{url}: {error:?}"
            );
        }
    }
}
