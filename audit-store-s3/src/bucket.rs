//! The verbs: plain ones through `object_store`; those for which it has no words (only-if-absent with a lock and with every
//! outcome told apart, versions, retention, legal hold) as requests of our own, over the same client and credentials.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use audit_core::time::Timestamp;
use audit_core::{Error, ErrorKind, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use object_store::aws::{AmazonS3, AwsAuthorizer};
use object_store::client::{HttpClient, HttpErrorKind, HttpRequestBody};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutPayload};
use sha2::{Digest as _, Sha256};

use crate::failure;
use crate::wire::Seen;
use crate::xml::Node;

/// Attempts of a write whose answer may have been lost.
const ATTEMPTS: u32 = 5;
/// Before the second attempt; doubled for each further one.
const PAUSE: Duration = Duration::from_millis(200);

/// A bucket and a prefix in it.
pub(crate) struct Bucket {
    pub(crate) store: AmazonS3,
    pub(crate) http: HttpClient,
    pub(crate) seen: Arc<Seen>,
    /// With the bucket in it, without a slash at the end.
    pub(crate) base: String,
    pub(crate) region: String,
    pub(crate) name: String,
    /// Empty, or with a slash at its end.
    pub(crate) prefix: String,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("base", &self.base)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// An answer of the server, whatever it says.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn etag(&self) -> Option<String> {
        self.header("etag").map(ToOwned::to_owned)
    }
}

/// No answer came.
#[derive(Debug)]
pub(crate) struct Silence {
    /// The request can have reached the server.
    pub(crate) maybe_done: bool,
    pub(crate) source: object_store::client::HttpError,
}

/// An object as it was read.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    pub(crate) etag: Option<String>,
}

/// What came of writing only if absent.
#[derive(Debug)]
pub(crate) enum Created {
    /// By this call, as far as one can know.
    Ours,
    /// Other bytes stand there.
    Theirs(Bytes),
}

/// A version that a listing names.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    /// Below the prefix.
    pub(crate) key: String,
    pub(crate) id: String,
    pub(crate) latest: bool,
    pub(crate) marker: bool,
}

/// A key that a listing names.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// Below the prefix.
    pub(crate) key: String,
}

/// Where a listing of versions goes on.
#[derive(Debug, Clone, Default)]
pub(crate) struct VersionMark {
    key: String,
    version: String,
}

impl Bucket {
    fn path(&self, key: &str) -> Path {
        // Prefix and keys have no character that would be written otherwise.
        Path::from(format!("{}{key}", self.prefix))
    }

    pub(crate) fn place(&self, key: &str) -> String {
        format!("s3://{}/{}{key}", self.name, self.prefix)
    }

    /// One request, signed and sent once.
    pub(crate) async fn send(
        &self,
        method: Method,
        key: Option<&str>,
        query: &[(&str, &str)],
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Result<Reply, Silence>> {
        let mut uri = self.base.clone();
        uri.push('/');
        if let Some(key) = key {
            uri.push_str(&self.prefix);
            uri.push_str(key);
        }
        for (n, (name, value)) in query.iter().enumerate() {
            uri.push(if n == 0 { '?' } else { '&' });
            uri.push_str(name);
            uri.push('=');
            encode(value, &mut uri);
        }
        let digest = Sha256::digest(&body);
        let wrong = |e: http::Error| Error::invalid("a request can't be made").because(e);
        let mut request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header(http::header::CONTENT_LENGTH, body.len())
            .body(HttpRequestBody::from(body))
            .map_err(wrong)?;
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|e| wrong(e.into()))?;
            request
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
        let credential = self
            .store
            .credentials()
            .get_credential()
            .await
            .map_err(failure::credentials)?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .try_authorize(&mut request, Some(&digest))
            .map_err(|e| failure::store("signing a request", &self.base, e))?;
        let silence = |source: object_store::client::HttpError| Silence {
            maybe_done: source.kind() != HttpErrorKind::Connect,
            source,
        };
        let response = match self.http.execute(request).await {
            Ok(response) => response,
            Err(e) => return Ok(Err(silence(e))),
        };
        let (parts, body) = response.into_parts();
        Ok(match body.bytes().await {
            Ok(body) => Ok(Reply {
                status: parts.status,
                headers: parts.headers,
                body,
            }),
            Err(e) => Err(silence(e)),
        })
    }

    /// A request that may be repeated; answers with whatever the server finally says.
    pub(crate) async fn ask(
        &self,
        doing: &str,
        method: Method,
        key: Option<&str>,
        query: &[(&str, &str)],
        headers: &[(&'static str, String)],
        body: &Bytes,
    ) -> Result<Reply> {
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            let sent = self
                .send(method.clone(), key, query, headers, body.clone())
                .await?;
            let last = attempt >= ATTEMPTS;
            match sent {
                Ok(reply) if !busy(reply.status) || last => return Ok(reply),
                Err(silence) if last => {
                    return Err(Error::unavailable(format!(
                        "{doing} {}: no answer",
                        self.place(key.unwrap_or_default())
                    ))
                    .because(silence.source));
                }
                _ => {}
            }
            attempt += 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Reads an object; `None` if there is none.
    ///
    /// # Errors
    ///
    /// `Corrupt` if what is there instead is a delete marker.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Object>> {
        let doing = "reading";
        let reply = self
            .ask(doing, Method::GET, Some(key), &[], &[], &Bytes::new())
            .await?;
        if reply.status.is_success() {
            let etag = reply.etag();
            return Ok(Some(Object {
                bytes: reply.body,
                etag,
            }));
        }
        self.absent(doing, key, &reply).map(|()| None)
    }

    /// `Ok` if the answer says that there is nothing and never was.
    fn absent(&self, doing: &str, key: &str, reply: &Reply) -> Result<()> {
        let gone = reply.status == StatusCode::NOT_FOUND;
        if gone && reply.header("x-amz-delete-marker") == Some("true") {
            return Err(Error::corrupt(format!(
                "{} was deleted: a delete marker stands there",
                self.place(key)
            )));
        }
        if gone && failure::code(&reply.body) != "NoSuchBucket" {
            return Ok(());
        }
        Err(self.refused(doing, key, reply))
    }

    pub(crate) fn refused(&self, doing: &str, key: &str, reply: &Reply) -> Error {
        failure::refused(doing, &self.place(key), reply, self.seen.skew_seconds())
    }

    /// As much of an object's beginning as it has; `None` if there is no object.
    pub(crate) async fn get_front(&self, key: &str, length: u64) -> Result<Option<Bytes>> {
        let doing = "reading";
        let range = [("range", format!("bytes=0-{}", length.saturating_sub(1)))];
        let reply = self
            .ask(doing, Method::GET, Some(key), &[], &range, &Bytes::new())
            .await?;
        if reply.status.is_success() {
            return Ok(Some(reply.body));
        }
        self.absent(doing, key, &reply).map(|()| None)
    }

    /// As much of an object's end as it has; `None` if there is no object.
    pub(crate) async fn get_tail(&self, key: &str, length: u64) -> Result<Option<Bytes>> {
        let doing = "reading";
        let range = [("range", format!("bytes=-{length}"))];
        let reply = self
            .ask(doing, Method::GET, Some(key), &[], &range, &Bytes::new())
            .await?;
        if reply.status.is_success() {
            return Ok(Some(reply.body));
        }
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Err(self.refused(doing, key, &reply))
    }

    /// A part of an object that is there.
    pub(crate) async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let failed = |e| failure::store("reading", &self.place(key), e);
        let got = self
            .store
            .get_opts(&self.path(key), options)
            .await
            .map_err(failed)?;
        got.bytes().await.map_err(failed)
    }

    /// Writes an object, whatever stood there.
    pub(crate) async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.store
            .put(&self.path(key), PutPayload::from(bytes))
            .await
            .map(drop)
            .map_err(|e| failure::store("writing", &self.place(key), e))
    }

    /// Writes an object only if there is none, locked until `lock`.
    ///
    /// # Errors
    ///
    /// `Unknown`: it may be there, or may still come to be. Anything else: it isn't there, and won't be.
    pub(crate) async fn create(
        &self,
        key: &str,
        bytes: Bytes,
        lock: Option<Timestamp>,
    ) -> Result<Created> {
        let doing = "writing";
        let mut headers = vec![
            ("if-none-match", "*".to_owned()),
            // S3 asks for a checksum with every lock.
            (
                "x-amz-checksum-sha256",
                STANDARD.encode(Sha256::digest(&bytes)),
            ),
        ];
        if let Some(until) = lock {
            headers.push(("x-amz-object-lock-mode", "COMPLIANCE".to_owned()));
            headers.push(("x-amz-object-lock-retain-until-date", whole_seconds(until)));
        }
        let mut maybe_done = false;
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS {
            let sent = self
                .send(Method::PUT, Some(key), &[], &headers, bytes.clone())
                .await;
            let why = match sent {
                Err(e) if maybe_done => Error::new(ErrorKind::Unknown, e.to_string()),
                Err(e) => return Err(e),
                Ok(Ok(reply)) if reply.status.is_success() => return Ok(Created::Ours),
                Ok(Ok(reply)) => {
                    let taken = matches!(
                        reply.status,
                        StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT
                    );
                    if taken {
                        // Ours, if the answer to an earlier attempt was lost. Nobody's, if two came at once (409) and
                        // neither went through.
                        match self.get(key).await {
                            Ok(Some(there)) if there.bytes == bytes => return Ok(Created::Ours),
                            Ok(Some(there)) => return Ok(Created::Theirs(there.bytes)),
                            Ok(None) => {}
                            Err(e) if e.kind() == ErrorKind::Unavailable => maybe_done = true,
                            Err(e) => return Err(e),
                        }
                    } else if !busy(reply.status) {
                        let refused = self.refused(doing, key, &reply);
                        if !maybe_done {
                            return Err(refused);
                        }
                        return Err(Error::new(ErrorKind::Unknown, refused.to_string()));
                    } else if reply.status != StatusCode::SERVICE_UNAVAILABLE
                        && reply.status != StatusCode::TOO_MANY_REQUESTS
                    {
                        // A server that failed (500, 502, 504) may have written; one that says 503 or 429 has not begun.
                        maybe_done = true;
                    }
                    self.refused(doing, key, &reply)
                }
                Ok(Err(silence)) => {
                    maybe_done |= silence.maybe_done;
                    Error::unavailable(format!("writing {}: no answer", self.place(key)))
                        .because(silence.source)
                }
            };
            if attempt == ATTEMPTS {
                return Err(if maybe_done {
                    Error::new(
                        ErrorKind::Unknown,
                        format!(
                            "writing {} was not answered, and may have happened",
                            self.place(key)
                        ),
                    )
                    .because(why)
                } else if why.kind() == ErrorKind::Unavailable {
                    why
                } else {
                    Error::unavailable(why.to_string())
                });
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(Error::unavailable("no attempt was made"))
    }

    /// Writes an object if it is still the one with `etag` (or still absent); `None` if it isn't. Answers with the new etag.
    ///
    /// The bytes must differ from all that were there before, or a lost answer couldn't be told from another's write.
    pub(crate) async fn swap(
        &self,
        key: &str,
        etag: Option<&str>,
        bytes: Bytes,
    ) -> Result<Option<String>> {
        let headers = [match etag {
            Some(etag) => ("if-match", etag.to_owned()),
            None => ("if-none-match", "*".to_owned()),
        }];
        let doing = "writing";
        let reply = self
            .ask(doing, Method::PUT, Some(key), &[], &headers, &bytes)
            .await?;
        if reply.status.is_success() {
            return Ok(reply.etag());
        }
        match reply.status {
            StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT | StatusCode::NOT_FOUND => {
                // Our own, if an answer was lost.
                let there = self.get(key).await?;
                Ok(there
                    .filter(|there| there.bytes == bytes)
                    .and_then(|there| there.etag))
            }
            _ => Err(self.refused(doing, key, &reply)),
        }
    }

    /// Keys with a beginning, after a key, in order; at most a thousand.
    pub(crate) async fn list(
        &self,
        beginning: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        let doing = "listing";
        let full = format!("{}{beginning}", self.prefix);
        let start = if after.is_empty() {
            String::new()
        } else {
            format!("{}{after}", self.prefix)
        };
        let limit = limit.clamp(1, 1000).to_string();
        let mut query = vec![
            ("list-type", "2"),
            ("max-keys", &*limit),
            ("prefix", &*full),
        ];
        if !start.is_empty() {
            query.push(("start-after", &*start));
        }
        let reply = self
            .ask(doing, Method::GET, None, &query, &[], &Bytes::new())
            .await?;
        if !reply.status.is_success() {
            return Err(self.refused(doing, beginning, &reply));
        }
        let root = Node::parse(&reply.body)?;
        let contents = root.children().iter().filter(|node| node.is("Contents"));
        contents
            .map(|node| {
                let key = self.below(node.text("Key"))?;
                Ok(Listed { key })
            })
            .collect()
    }

    /// A page of the versions of all keys with a beginning, newest first within a key; with where the next one begins.
    pub(crate) async fn versions(
        &self,
        beginning: &str,
        from: Option<&VersionMark>,
    ) -> Result<(Vec<Version>, Option<VersionMark>)> {
        let doing = "listing versions of";
        let full = format!("{}{beginning}", self.prefix);
        let mut query = vec![("versions", ""), ("max-keys", "1000"), ("prefix", &*full)];
        if let Some(mark) = from {
            query.push(("key-marker", &mark.key));
            if !mark.version.is_empty() {
                query.push(("version-id-marker", &mark.version));
            }
        }
        let reply = self
            .ask(doing, Method::GET, None, &query, &[], &Bytes::new())
            .await?;
        if !reply.status.is_success() {
            return Err(self.refused(doing, beginning, &reply));
        }
        let root = Node::parse(&reply.body)?;
        let mut out = Vec::new();
        for node in root.children() {
            let marker = node.is("DeleteMarker");
            if marker || node.is("Version") {
                out.push(Version {
                    key: self.below(node.text("Key"))?,
                    id: node.text("VersionId").to_owned(),
                    latest: node.text("IsLatest") == "true",
                    marker,
                });
            }
        }
        let more = root.text("IsTruncated") == "true";
        let next = more.then(|| VersionMark {
            key: root.text("NextKeyMarker").to_owned(),
            version: root.text("NextVersionIdMarker").to_owned(),
        });
        Ok((out, next))
    }

    /// Where a listing of versions begins behind a key.
    pub(crate) fn versions_after(&self, key: &str) -> VersionMark {
        VersionMark {
            key: format!("{}{key}", self.prefix),
            version: String::new(),
        }
    }

    fn below(&self, key: &str) -> Result<String> {
        key.strip_prefix(&self.prefix)
            .map(ToOwned::to_owned)
            .ok_or_else(|| Error::corrupt("the server lists a key that was not asked for"))
    }

    /// Deletes one version for good; without an id, whatever is there (leaving a marker where the bucket has versions).
    pub(crate) async fn delete(&self, key: &str, version: Option<&str>) -> Result<()> {
        let doing = "deleting";
        let query: Vec<(&str, &str)> = version.map(|id| ("versionId", id)).into_iter().collect();
        let reply = self
            .ask(doing, Method::DELETE, Some(key), &query, &[], &Bytes::new())
            .await?;
        if reply.status.is_success() || reply.status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(self.refused(doing, key, &reply))
    }
}

/// Whether the same request may go through a little later.
fn busy(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

/// A time as lock headers have it.
pub(crate) fn whole_seconds(time: Timestamp) -> String {
    let text = time.to_string();
    let seconds = text.split_once('.').map_or(&*text, |(seconds, _)| seconds);
    format!("{seconds}Z")
}

fn encode(value: &str, out: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
}
