//! Answers of our own, told from the provider's by `x-audit-error`.

use bytes::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;
use uuid::Uuid;

use crate::body::Body;

/// Why the gateway answers instead of the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    UnknownUpstream,
    BadRequest,
    BadAuditHeader,
    VersionUnsupported,
    UpgradeUnsupported,
    ExpectationFailed,
    RequestTooLarge,
    RequestTimeout,
    LogUnavailable,
    RecordRefused,
    UpstreamUnreachable,
    UpstreamTimeout,
    UpstreamFailed,
    Stopping,
    Misdirected,
    HostNotAllowed,
    Loop,
}

impl Code {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::UnknownUpstream => "unknown_upstream",
            Self::BadRequest => "bad_request",
            Self::BadAuditHeader => "bad_audit_header",
            Self::VersionUnsupported => "http_version_unsupported",
            Self::UpgradeUnsupported => "upgrade_unsupported",
            Self::ExpectationFailed => "expectation_failed",
            Self::RequestTooLarge => "request_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::LogUnavailable => "audit_log_unavailable",
            Self::RecordRefused => "audit_record_refused",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamFailed => "upstream_failed",
            Self::Stopping => "gateway_stopped",
            Self::Misdirected => "misdirected",
            Self::HostNotAllowed => "host_not_allowed",
            Self::Loop => "loop",
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::UnknownUpstream => StatusCode::NOT_FOUND,
            Self::BadRequest | Self::BadAuditHeader => StatusCode::BAD_REQUEST,
            Self::VersionUnsupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::UpgradeUnsupported => StatusCode::NOT_IMPLEMENTED,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::LogUnavailable | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::RecordRefused => StatusCode::INTERNAL_SERVER_ERROR,
            Self::UpstreamUnreachable | Self::UpstreamFailed => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::HostNotAllowed => StatusCode::FORBIDDEN,
            Self::Loop => StatusCode::LOOP_DETECTED,
        }
    }
}

/// What a client is told: nothing of our insides, and nothing that it didn't send.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// The request's body was not read to its end, so the connection can't carry another request.
    pub(crate) close: bool,
}

impl Refusal {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            close: false,
        }
    }

    pub(crate) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    pub(crate) fn response(&self, request: Uuid) -> Response<Body> {
        let body = json!({
            "error": {
                "type": "audit_gateway_error",
                "code": self.code.as_str(),
                "message": self.message,
                "request_id": request.to_string(),
            }
        });
        let mut response = json_response(self.code.status(), &body);
        let headers = response.headers_mut();
        headers.insert(
            "x-audit-error",
            HeaderValue::from_static(self.code.as_str()),
        );
        if self.code.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

pub(crate) fn json_response(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
