//! Which hosts are meant.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Bytes of a pattern: those of the longest host name.
const PATTERN_BYTES_MAX: usize = 253;

/// Hosts by name: `api.example.com` is one host, `.example.com` every host below, and `*` stands for one or more
/// characters within a label, as in `bedrock-runtime.*.amazonaws.com`. An address is written as it is, without brackets.
///
/// Ports don't count: whoever may speak for a host may do so on all of its ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern(String);

impl HostPattern {
    /// Whether it means this host, which is in lower case and has neither brackets nor a final dot.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        if let Some(below) = self.0.strip_prefix('.') {
            let mut labels = host.split('.').rev();
            let same = below
                .split('.')
                .rev()
                .all(|wanted| labels.next().is_some_and(|label| fits(label, wanted)));
            // Something must stand before the suffix.
            return same && labels.next().is_some_and(|label| !label.is_empty());
        }
        let (mut labels, mut wanted) = (host.split('.'), self.0.split('.'));
        loop {
            match (labels.next(), wanted.next()) {
                (None, None) => return true,
                (Some(label), Some(wanted)) if fits(label, wanted) => {}
                _ => return false,
            }
        }
    }

    /// As it was written, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, if it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.0.parse().ok()
    }

    /// The name below which all hosts lie that it means: what stands behind the last label with a `*`.
    #[must_use]
    pub fn domain(&self) -> &str {
        let behind = match self.0.rfind('*') {
            Some(star) => self
                .0
                .get(star..)
                .and_then(|rest| rest.split_once('.'))
                .map_or("", |(_, rest)| rest),
            None => &self.0,
        };
        behind.trim_start_matches('.')
    }
}

/// Whether a label is what a pattern's label says.
fn fits(label: &str, wanted: &str) -> bool {
    let Some((start, mut rest)) = wanted.split_once('*') else {
        return label == wanted;
    };
    let Some(mut label) = label.strip_prefix(start) else {
        return false;
    };
    // Each star takes at least one character; the shortest match of each piece leaves most for the next.
    while let Some((piece, behind)) = rest.split_once('*') {
        let Some(at) = label.get(1..).and_then(|tail| tail.find(piece)) else {
            return false;
        };
        label = label.get(1 + at + piece.len()..).unwrap_or_default();
        rest = behind;
    }
    label.len() > rest.len() && label.ends_with(rest)
}

impl FromStr for HostPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::invalid(format!(
                "host pattern {:?} {why}",
                text.chars().take(80).collect::<String>()
            ))
        };
        let lower = text.to_ascii_lowercase();
        if lower.parse::<IpAddr>().is_ok() {
            return Ok(Self(lower));
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._*".contains(&b);
        if lower.is_empty() || lower.len() > PATTERN_BYTES_MAX || !lower.bytes().all(plain) {
            return Err(wrong("is not a host name, with . before it or * within it"));
        }
        let name = lower.strip_prefix('.').unwrap_or(&lower);
        if name
            .split('.')
            .any(|label| label.is_empty() || label.len() > 63)
        {
            return Err(wrong(
                "has a label that is empty or longer than 63 characters",
            ));
        }
        let pattern = Self(lower);
        let broad = pattern.0.starts_with('.') || pattern.0.contains('*');
        // `.com` or `*.com`: nobody means every host of a top-level domain.
        if broad && !pattern.domain().contains('.') {
            return Err(wrong("means too many hosts"));
        }
        Ok(pattern)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host as patterns compare it: in lower case, without brackets and final dot. `None` if it isn't one.
pub(crate) fn host_name(host: &str) -> Option<String> {
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None => host,
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    let good = (1..=PATTERN_BYTES_MAX).contains(&host.len())
        && host.bytes().all(plain)
        && (!host.contains(':') || host.parse::<IpAddr>().is_ok());
    good.then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_pattern_means_another_host() {
        for (text, host, means) in [
            ("api.openai.com", "api.openai.com", true),
            ("API.OpenAI.com", "api.openai.com", true),
            ("api.openai.com", "xapi.openai.com", false),
            ("api.openai.com", "api.openai.com.evil.org", false),
            (".openai.azure.com", "clinic.openai.azure.com", true),
            (".openai.azure.com", "a.b.openai.azure.com", true),
            (".openai.azure.com", "openai.azure.com", false),
            (".openai.azure.com", "evilopenai.azure.com", false),
            (
                "bedrock-runtime.*.amazonaws.com",
                "bedrock-runtime.eu-central-1.amazonaws.com",
                true,
            ),
            (
                "bedrock-runtime.*.amazonaws.com",
                "bedrock-runtime..amazonaws.com",
                false,
            ),
            (
                "bedrock-runtime.*.amazonaws.com",
                "bedrock-runtime.a.b.amazonaws.com",
                false,
            ),
            (
                "*-aiplatform.googleapis.com",
                "us-central1-aiplatform.googleapis.com",
                true,
            ),
            (
                "*-aiplatform.googleapis.com",
                "-aiplatform.googleapis.com",
                false,
            ),
            ("a*b*c.example.com", "axbyc.example.com", true),
            ("a*b*c.example.com", "abbc.example.com", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("::1", "::1", true),
        ] {
            assert_eq!(pattern(text).matches(host), means, "{text} {host}");
        }
    }

    #[test]
    fn a_pattern_that_means_too_much_or_nothing_is_taken() {
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            ".com",
            "*",
            "*.com",
            "a.*",
            "a b",
            "a/b",
            "https://a.b",
            "a:443",
            "ä.com",
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad:?}");
        }
        for long in ["a".repeat(254), format!("{}.com", "a".repeat(64))] {
            assert!(long.parse::<HostPattern>().is_err(), "{long}");
        }
    }

    #[test]
    fn the_domain_holds_every_host_that_is_meant() {
        for (text, domain) in [
            ("api.openai.com", "api.openai.com"),
            (".openai.azure.com", "openai.azure.com"),
            ("bedrock-runtime.*.amazonaws.com", "amazonaws.com"),
            ("*-aiplatform.googleapis.com", "googleapis.com"),
        ] {
            assert_eq!(pattern(text).domain(), domain);
        }
    }

    #[test]
    fn a_host_has_one_spelling() {
        assert_eq!(
            host_name("API.openai.com.").as_deref(),
            Some("api.openai.com")
        );
        assert_eq!(host_name("[::1]").as_deref(), Some("::1"));
        for bad in ["", "[::1", "a b", "a:b", "user@host", "a/b"] {
            assert_eq!(host_name(bad), None, "{bad:?}");
        }
    }
}
