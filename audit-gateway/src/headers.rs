//! Headers: which pass, which are ours, and which belong to one connection only.

use audit_core::event::{Actor, ActorKind, TEXT_BYTES_MAX};
use hyper::HeaderMap;
use hyper::header::{self, HeaderName, HeaderValue};

use crate::refusal::{Code, Refusal};

/// Headers with this prefix are between the client and us, in both directions.
pub(crate) const OURS: &str = "x-audit-";

/// What a client says about its request to us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AuditHeaders {
    pub(crate) session: Option<String>,
    pub(crate) actor: Option<Actor>,
    pub(crate) on_behalf_of: Option<Actor>,
    pub(crate) subject: Option<String>,
}

impl AuditHeaders {
    /// A name that we don't know is refused: a mistyped `x-audit-subject` would leave a person's data where no erasure
    /// finds it.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut ours = Self::default();
        for name in headers.keys().filter(|n| n.as_str().starts_with(OURS)) {
            let mut values = headers.get_all(name).iter();
            let value = values.next().and_then(text);
            let (Some(value), None) = (value, values.next()) else {
                return Err(Refusal::new(
                    Code::BadAuditHeader,
                    format!(
                        "{name} must be given once, with 1 to {TEXT_BYTES_MAX} printable ASCII characters"
                    ),
                ));
            };
            match name.as_str() {
                "x-audit-session" => ours.session = Some(value),
                "x-audit-actor" => ours.actor = Some(Actor::new(ActorKind::Agent, value)),
                "x-audit-on-behalf-of" => {
                    ours.on_behalf_of = Some(Actor::new(ActorKind::Human, value));
                }
                "x-audit-subject" => ours.subject = Some(value),
                _ => {
                    return Err(Refusal::new(
                        Code::BadAuditHeader,
                        "known are x-audit-session, x-audit-actor, x-audit-on-behalf-of and x-audit-subject",
                    ));
                }
            }
        }
        Ok(ours)
    }
}

impl AuditHeaders {
    /// What this says, and where it says nothing, what `other` does.
    pub(crate) fn or(self, other: &Self) -> Self {
        Self {
            session: self.session.or_else(|| other.session.clone()),
            actor: self.actor.or_else(|| other.actor.clone()),
            on_behalf_of: self.on_behalf_of.or_else(|| other.on_behalf_of.clone()),
            subject: self.subject.or_else(|| other.subject.clone()),
        }
    }
}

fn text(value: &HeaderValue) -> Option<String> {
    let bytes = value.as_bytes();
    let good = (1..=TEXT_BYTES_MAX).contains(&bytes.len())
        && bytes.iter().all(|b| (0x20..0x7f).contains(b));
    good.then(|| value.to_str().map(str::to_owned).ok())
        .flatten()
}

/// Trace id and parent span of a W3C `traceparent`; one that breaks the rules counts as absent, as the standard says.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<(String, String)> {
    let pairs: Vec<_> = headers
        .get_all("traceparent")
        .iter()
        .map(|value| ("traceparent".to_owned(), value.as_bytes().to_vec()))
        .collect();
    audit_capture::traceparent(&pairs)
}

/// Names that a `Connection` header calls hop-by-hop.
fn nominated(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect()
}

/// Whether a header belongs to one connection (RFC 9110 §7.6.1), or to a proxy (§11.7).
fn hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::TE
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::PROXY_AUTHORIZATION
            | header::PROXY_AUTHENTICATE
    ) || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

fn passes(name: &HeaderName, nominated: &[String]) -> bool {
    !hop_by_hop(name)
        && !name.as_str().starts_with(OURS)
        && !nominated.iter().any(|n| n == name.as_str())
}

/// Whether the client takes trailers.
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|v| v.trim().eq_ignore_ascii_case("trailers"))
}

/// The request's headers as they go to the upstream, in their order.
///
/// A new map, since removing from a `HeaderMap` moves another header into the gap.
pub(crate) fn to_upstream(headers: &HeaderMap, host: &HeaderValue, body_bytes: usize) -> HeaderMap {
    let nominated = nominated(headers);
    let mut out = HeaderMap::with_capacity(headers.len() + 2);
    if !headers.contains_key(header::HOST) {
        // From HTTP/2, where it is no header.
        out.insert(header::HOST, host.clone());
    }
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let split = crumbs.next().is_some() && crumbs.next().is_some();
    for (name, value) in headers {
        match *name {
            // RFC 9113 §8.2.3: what was split for compression is one field again.
            header::COOKIE if split && out.contains_key(header::COOKIE) => {}
            header::COOKIE if split => {
                out.insert(header::COOKIE, cookies(headers));
            }
            header::HOST => {
                out.insert(header::HOST, host.clone());
            }
            header::CONTENT_LENGTH => {
                out.insert(header::CONTENT_LENGTH, HeaderValue::from(body_bytes));
            }
            // The body is here in full, so there is nothing to wait for; it goes on with its length, which leaves no
            // place for trailers.
            header::EXPECT | header::TRAILER => {}
            _ if passes(name, &nominated) => {
                out.append(name.clone(), value.clone());
            }
            _ => {}
        }
    }
    if takes_trailers(headers) {
        out.insert(header::TE, HeaderValue::from_static("trailers"));
        out.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    out
}

fn cookies(headers: &HeaderMap) -> HeaderValue {
    let crumbs: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
        .expect("header values between semicolons are a header value")
}

/// The answer's headers as they go to the client, in their order.
pub(crate) fn to_client(headers: &HeaderMap) -> HeaderMap {
    let nominated = nominated(headers);
    let mut out = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if passes(name, &nominated) {
            out.append(name.clone(), value.clone());
        }
    }
    out
}

/// Names and values in their order, for the record.
pub(crate) fn pairs(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers
        .iter()
        .map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .fold(HeaderMap::new(), |mut map, (n, v)| {
                map.append(n, v);
                map
            })
    }

    #[test]
    fn headers_of_one_connection_and_ours_end_here() {
        let headers = map(&[
            ("host", "127.0.0.1:1"),
            ("connection", "x-hop, keep-alive"),
            ("a", "1"),
            ("x-hop", "h"),
            ("keep-alive", "5"),
            ("a", "2"),
            ("proxy-authorization", "Basic x"),
            ("x-audit-session", "s"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("z", "3"),
        ]);
        let out = to_upstream(&headers, &HeaderValue::from_static("api.example"), 3);
        let lines: Vec<_> = out
            .iter()
            .map(|(n, v)| (n.as_str(), v.to_str().unwrap()))
            .collect();
        assert_eq!(
            lines,
            [("host", "api.example"), ("a", "1"), ("a", "2"), ("z", "3")]
        );
        let out = to_client(&map(&[
            ("connection", "close"),
            ("x-audit-error", "spoofed"),
            ("b", "1"),
            ("b", "2"),
        ]));
        assert_eq!(
            out.len(),
            2,
            "a provider's x-audit-error reached the client"
        );
    }

    #[test]
    fn audit_headers_are_strict() {
        let good = AuditHeaders::of(&map(&[
            ("x-audit-session", "s 1"),
            ("x-audit-actor", "agent-7"),
            ("x-audit-on-behalf-of", "dr-who"),
            ("x-audit-subject", "patient-1"),
        ]))
        .unwrap();
        assert_eq!(good.session.as_deref(), Some("s 1"));
        assert_eq!(good.actor, Some(Actor::new(ActorKind::Agent, "agent-7")));
        assert_eq!(
            good.on_behalf_of,
            Some(Actor::new(ActorKind::Human, "dr-who"))
        );
        assert_eq!(good.subject.as_deref(), Some("patient-1"));
        for bad in [
            map(&[("x-audit-session", "")]),
            map(&[("x-audit-session", "a"), ("x-audit-session", "b")]),
            map(&[("x-audit-session", "a\tb")]),
            map(&[("x-audit-sesion", "a")]),
        ] {
            assert_eq!(
                AuditHeaders::of(&bad).unwrap_err().code,
                Code::BadAuditHeader
            );
        }
        let mut long = HeaderMap::new();
        long.insert(
            "x-audit-subject",
            HeaderValue::from_bytes(&[b'a'; 257]).unwrap(),
        );
        assert_eq!(
            AuditHeaders::of(&long).unwrap_err().code,
            Code::BadAuditHeader
        );
        long.insert(
            "x-audit-subject",
            HeaderValue::from_bytes("ü".as_bytes()).unwrap(),
        );
        assert_eq!(
            AuditHeaders::of(&long).unwrap_err().code,
            Code::BadAuditHeader
        );
    }

    #[test]
    fn traceparent_is_parsed_or_absent() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let good = traceparent(&map(&[(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )]));
        assert_eq!(
            good,
            Some((trace.to_owned(), "b7ad6b7169203331".to_owned()))
        );
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
        ] {
            assert_eq!(traceparent(&map(&[("traceparent", bad)])), None, "{bad:?}");
        }
    }
}
