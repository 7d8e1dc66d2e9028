//! What went wrong, as the log's errors; nothing of a credential gets into them.

use audit_core::{Error, ErrorKind};
use http::StatusCode;

use crate::bucket::Reply;
use crate::wire::SKEW_MAX_SECONDS;
use crate::xml::Node;

/// The code that S3 names in the body of an error.
pub(crate) fn code(body: &[u8]) -> String {
    let node = Node::parse(body).ok().filter(|node| node.is("Error"));
    node.map(|node| node.text("Code").chars().take(64).collect())
        .unwrap_or_default()
}

/// An answer that isn't what was asked for.
pub(crate) fn refused(doing: &str, place: &str, reply: &Reply, skew_seconds: i64) -> Error {
    let code = code(&reply.body);
    let said = if code.is_empty() {
        reply.status.as_u16().to_string()
    } else {
        format!("{} {code}", reply.status.as_u16())
    };
    let (kind, hint) = match (reply.status, &*code) {
        _ if code == "RequestTimeTooSkewed" || skew_seconds.abs() > SKEW_MAX_SECONDS => (
            ErrorKind::Unavailable,
            format!(
                "; hint: this machine's clock is {} s {} the server's, more than 15 minutes are refused",
                skew_seconds.abs(),
                if skew_seconds > 0 {
                    "behind"
                } else {
                    "ahead of"
                },
            ),
        ),
        (StatusCode::NOT_FOUND, "NoSuchBucket") => (
            ErrorKind::NotFound,
            "; hint: make the bucket, with Object Lock, and check its name and region".to_owned(),
        ),
        (StatusCode::NOT_FOUND, _) => (ErrorKind::NotFound, String::new()),
        (
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED,
            "SignatureDoesNotMatch" | "InvalidAccessKeyId" | "ExpiredToken" | "InvalidToken",
        ) => (
            ErrorKind::Unavailable,
            "; hint: check the credentials and the region".to_owned(),
        ),
        (StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED, _) => (
            ErrorKind::Unavailable,
            "; hint: the credentials may not do this; docs/s3-layout.md lists the rights"
                .to_owned(),
        ),
        (status, _) if status.is_redirection() => (
            ErrorKind::Unavailable,
            "; hint: check the region".to_owned(),
        ),
        _ => (ErrorKind::Unavailable, String::new()),
    };
    Error::new(
        kind,
        format!("{doing} {place}: the server said {said}{hint}"),
    )
}

/// An error of `object_store`. Its texts hold the address and the server's answer, no credentials; a signature isn't in them.
pub(crate) fn store(doing: &str, place: &str, error: object_store::Error) -> Error {
    let kind = match &error {
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{doing} {place} failed")).because(error)
}

/// No credentials were found.
pub(crate) fn credentials(error: object_store::Error) -> Error {
    Error::unavailable(
        "no credentials for the bucket; hint: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run \
         where a role is attached",
    )
    .because(error)
}
