//! What stands before a body.

use std::fmt;

use crate::credentials;

/// Method, path and headers of a request, as they were on the wire.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestHead {
    /// `POST`
    pub method: String,
    /// The request target: usually path and query.
    pub path_and_query: String,
    /// Names and values in their order, repeated names as they came.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl RequestHead {
    /// A head from its parts.
    #[must_use]
    pub fn new(
        method: impl Into<String>,
        path_and_query: impl Into<String>,
        headers: Vec<(String, Vec<u8>)>,
    ) -> Self {
        Self {
            method: method.into(),
            path_and_query: path_and_query.into(),
            headers,
        }
    }

    /// The first value of the header `name`, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        first(&self.headers, name)
    }
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field(
                "path_and_query",
                &credentials::split_query(&self.path_and_query).0,
            )
            .field("headers", &names(&self.headers))
            .finish()
    }
}

/// Status and headers of a response, as they were on the wire.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseHead {
    /// `200`
    pub status: u16,
    /// Names and values in their order, repeated names as they came.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl ResponseHead {
    /// A head from its parts.
    #[must_use]
    pub fn new(status: u16, headers: Vec<(String, Vec<u8>)>) -> Self {
        Self { status, headers }
    }

    /// The first value of the header `name`, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        first(&self.headers, name)
    }

    /// The content type in lower case, without parameters.
    pub(crate) fn content_type(&self) -> Option<String> {
        let value = String::from_utf8_lossy(self.header("content-type")?).to_ascii_lowercase();
        Some(
            value
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned(),
        )
    }
}

impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("status", &self.status)
            .field("headers", &names(&self.headers))
            .finish()
    }
}

fn first<'h>(headers: &'h [(String, Vec<u8>)], name: &str) -> Option<&'h [u8]> {
    headers
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_slice())
}

/// Every value of a header that is a comma-separated list, in lower case.
pub(crate) fn list(headers: &[(String, Vec<u8>)], name: &str) -> Vec<String> {
    headers
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .flat_map(|(_, value)| {
            String::from_utf8_lossy(value)
                .split(',')
                .map(|item| item.trim().to_ascii_lowercase())
                .collect::<Vec<_>>()
        })
        .filter(|item| !item.is_empty())
        .collect()
}

// Values may be credentials, so debug output has the names alone.
fn names(headers: &[(String, Vec<u8>)]) -> Vec<&str> {
    headers.iter().map(|(name, _)| name.as_str()).collect()
}
