//! Which API a request is for.

use std::borrow::Cow;
use std::fmt;

use crate::provider::{self, Provider};

/// What is asked of a provider, named after its API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Chat completions, `OpenAI`'s and everybody's who speaks its format.
    Chat,
    /// `OpenAI`'s responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// Legacy completions of a prompt.
    TextCompletion,
    /// Embeddings.
    Embeddings,
    /// The list of models, or one of them.
    Models,
    /// Counting tokens without generating any.
    CountTokens,
    /// Anything else.
    Other,
}

impl Operation {
    /// The name in the attribute `audit.api`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::TextCompletion => "text_completion",
            Self::Embeddings => "embeddings",
            Self::Models => "models",
            Self::CountTokens => "count_tokens",
            Self::Other => "other",
        }
    }

    /// The value of `gen_ai.operation.name`: its predefined ones where one fits.
    #[must_use]
    pub fn otel_name(self) -> Option<&'static str> {
        match self {
            Self::Chat | Self::Responses | Self::Messages => Some("chat"),
            Self::Other => None,
            other => Some(other.as_str()),
        }
    }

    /// Whether a model answers with text of its own.
    #[must_use]
    pub fn generates(self) -> bool {
        matches!(
            self,
            Self::Chat | Self::Responses | Self::Messages | Self::TextCompletion
        )
    }
}

/// An API of a provider.
#[derive(Clone)]
#[non_exhaustive]
pub struct Api {
    /// The provider, as `gen_ai.provider.name` has it; for one that isn't known, the upstream's name or host; else
    /// empty.
    pub provider: String,
    /// What is asked.
    pub operation: Operation,
    /// Whether the wire format is known: if not, facts are few.
    pub known: bool,
    /// Who reads the wire format.
    pub(crate) format: &'static dyn Provider,
}

impl PartialEq for Api {
    fn eq(&self, other: &Self) -> bool {
        (&self.provider, self.operation, self.known)
            == (&other.provider, other.operation, other.known)
            && self.format.name() == other.format.name()
    }
}

impl Eq for Api {}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("provider", &self.provider)
            .field("operation", &self.operation)
            .field("known", &self.known)
            .field("format", &self.format.name())
            .finish()
    }
}

/// Tells the API of a request.
///
/// `provider_hint` is what the operator calls the upstream, such as `openai`; it wins over `host`, and both win over the
/// path, which alone decides for an upstream that isn't known: many servers speak a known format under a name of their
/// own. `path` may carry a query, a prefix (`/proxy/v1/messages`) or a whole URL.
#[must_use]
pub fn detect(provider_hint: Option<&str>, host: Option<&str>, method: &str, path: &str) -> Api {
    let (authority, path) = split_target(path);
    let host = host
        .map(host_name)
        .or_else(|| authority.map(host_name))
        .filter(|h| !h.is_empty());
    let hint = provider_hint.map(str::trim).filter(|h| !h.is_empty());
    let segments = segments(path);

    let named = hint
        .and_then(provider::by_alias)
        .or_else(|| host.as_deref().and_then(provider::by_host));
    if let Some(format) = named {
        let operation = route(format, method, &segments);
        return Api {
            provider: format.name().to_owned(),
            operation: operation.unwrap_or(Operation::Other),
            known: operation.is_some(),
            format,
        };
    }
    let name = hint.map(str::to_owned).or(host).unwrap_or_default();
    for format in provider::ALL {
        if let Some(operation) = route(*format, method, &segments) {
            return Api {
                provider: if name.is_empty() {
                    format.name().to_owned()
                } else {
                    name
                },
                operation,
                known: true,
                format: *format,
            };
        }
    }
    Api {
        provider: name,
        operation: Operation::Other,
        known: false,
        format: provider::UNKNOWN,
    }
}

/// A line of a provider's table.
#[derive(Debug)]
pub(crate) struct Route {
    /// `POST`
    pub(crate) method: &'static str,
    /// The path below the version, `*` for one segment: `models/*`.
    pub(crate) path: &'static str,
    pub(crate) operation: Operation,
}

fn route(format: &dyn Provider, method: &str, segments: &[Cow<'_, str>]) -> Option<Operation> {
    format
        .routes()
        .iter()
        .find(|route| {
            route.method.eq_ignore_ascii_case(method.trim()) && below_version(segments, route.path)
        })
        .map(|route| route.operation)
}

/// Whether `segments` end in `pattern`, right after a version (`v1`, `v1beta`) or from the start.
fn below_version(segments: &[Cow<'_, str>], pattern: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let Some(before) = segments.len().checked_sub(pattern.len()) else {
        return false;
    };
    let (prefix, rest) = segments.split_at(before);
    let same = rest
        .iter()
        .zip(&pattern)
        .all(|(segment, wanted)| *wanted == "*" || segment == wanted);
    same && prefix.last().is_none_or(|last| is_version(last))
}

fn is_version(segment: &str) -> bool {
    segment
        .strip_prefix('v')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The decoded segments of a path; empty ones don't count.
pub(crate) fn segments(path: &str) -> Vec<Cow<'_, str>> {
    path.split(['?', '#'])
        .next()
        .unwrap_or_default()
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(percent_decoded)
        .collect()
}

/// Authority and path of a request target: only a proxy sees the absolute form, with an authority.
pub(crate) fn split_target(target: &str) -> (Option<&str>, &str) {
    let Some((scheme, rest)) = target.split_once("://") else {
        return (None, target);
    };
    if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return (None, target);
    }
    match rest.find(['/', '?', '#']) {
        Some(end) => {
            let (authority, path) = rest.split_at(end);
            (Some(authority), path)
        }
        None => (Some(rest), ""),
    }
}

/// The host in lower case, without user, port and final dot.
fn host_name(authority: &str) -> String {
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    host.trim().trim_end_matches('.').to_ascii_lowercase()
}

/// `text` with `%41` decoded; what isn't a valid escape stays.
pub(crate) fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if let (b'%', Some(high), Some(low)) =
            (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2)))
        {
            decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
            at += 3;
        } else {
            decoded.push(byte);
            at += 1;
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}
