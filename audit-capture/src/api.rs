//! Which API a request is for.

use std::borrow::Cow;
use std::fmt;

use crate::format::Format;
use crate::provider;

/// What is asked of a provider, named after its API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Chat completions, `OpenAI`'s and everybody's who speaks its format; Cohere's and Ollama's chat.
    Chat,
    /// `OpenAI`'s responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// Gemini's `generateContent` and `streamGenerateContent`.
    GenerateContent,
    /// Bedrock's `converse` and `converse-stream`.
    Converse,
    /// A model's own format: Bedrock's `invoke`, `SageMaker`'s `invocations`, Vertex AI's `predict`.
    Invoke,
    /// Completions of a prompt.
    TextCompletion,
    /// Embeddings.
    Embeddings,
    /// Ordering documents by relevance.
    Rerank,
    /// Judging content.
    Moderation,
    /// Making or changing images.
    Images,
    /// Speech from text.
    Speech,
    /// Text from speech.
    Transcription,
    /// Files that the provider keeps.
    Files,
    /// Requests that the provider works on later.
    Batches,
    /// `OpenAI`'s assistants.
    Assistants,
    /// `OpenAI`'s threads and their messages.
    Threads,
    /// Runs of an assistant on a thread.
    Runs,
    /// Content that the provider keeps for later requests.
    Caches,
    /// Replicate's predictions.
    Predictions,
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
            Self::GenerateContent => "generate_content",
            Self::Converse => "converse",
            Self::Invoke => "invoke",
            Self::TextCompletion => "text_completion",
            Self::Embeddings => "embeddings",
            Self::Rerank => "rerank",
            Self::Moderation => "moderation",
            Self::Images => "images",
            Self::Speech => "speech",
            Self::Transcription => "transcription",
            Self::Files => "files",
            Self::Batches => "batches",
            Self::Assistants => "assistants",
            Self::Threads => "threads",
            Self::Runs => "runs",
            Self::Caches => "caches",
            Self::Predictions => "predictions",
            Self::Models => "models",
            Self::CountTokens => "count_tokens",
            Self::Other => "other",
        }
    }

    /// The value of `gen_ai.operation.name`: its predefined ones where one fits. A model's own format may be chat or
    /// completion, which the API doesn't say.
    #[must_use]
    pub fn otel_name(self) -> Option<&'static str> {
        match self {
            Self::Chat | Self::Responses | Self::Messages | Self::Converse => Some("chat"),
            Self::Runs => Some("invoke_agent"),
            Self::Other | Self::Invoke | Self::Predictions | Self::Assistants => None,
            other => Some(other.as_str()),
        }
    }

    /// Whether a model answers with text of its own.
    #[must_use]
    pub fn generates(self) -> bool {
        matches!(
            self,
            Self::Chat
                | Self::Responses
                | Self::Messages
                | Self::GenerateContent
                | Self::Converse
                | Self::Invoke
                | Self::TextCompletion
                | Self::Transcription
                | Self::Runs
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
    pub(crate) format: &'static dyn Format,
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
/// `provider_hint` is what the operator calls the upstream, such as `openai`; it wins over `host`. Where neither is known, or
/// the provider isn't known for such a path, the path alone decides the format: many servers speak a known one. `path` may carry a query, a prefix (`/proxy/v1/messages`) or a whole URL.
#[must_use]
pub fn detect(provider_hint: Option<&str>, host: Option<&str>, method: &str, path: &str) -> Api {
    let (authority, path) = split_target(path);
    let host = host
        .map(host_name)
        .or_else(|| authority.map(host_name))
        .filter(|h| !h.is_empty());
    let hint = provider_hint.map(str::trim).filter(|h| !h.is_empty());
    let segments = segments(path);

    let mut named = hint.map(provider::by_alias).unwrap_or_default();
    if named.is_empty() {
        named = host.as_deref().map(provider::by_host).unwrap_or_default();
    }
    // A host may serve the APIs of several, such as Azure's: the first that knows the path counts.
    let of_its_own = named
        .iter()
        .find_map(|p| Some((p.name, route(p.routes, method, &segments)?)));
    if let Some((name, route)) = of_its_own {
        return api(name, Some(route));
    }
    let name = named
        .first()
        .map(|p| p.name.to_owned())
        .or_else(|| hint.map(str::to_owned))
        .or(host)
        .unwrap_or_default();
    for provider in provider::ALL {
        if let Some(route) = route(provider.by_path, method, &segments) {
            let name = if name.is_empty() {
                provider.name
            } else {
                &name
            };
            return api(name, Some(route));
        }
    }
    api(&name, None)
}

fn api(provider: &str, route: Option<&Route>) -> Api {
    Api {
        provider: provider.to_owned(),
        operation: route.map_or(Operation::Other, |route| route.operation),
        known: route.is_some(),
        format: route.map_or(&crate::format::unknown::Unknown, |route| route.format),
    }
}

/// A line of a provider's table.
pub(crate) struct Route {
    /// `POST`
    pub(crate) method: &'static str,
    /// The path below the version: `*` for one segment, `*:rawPredict` for one that ends so.
    pub(crate) path: &'static str,
    pub(crate) operation: Operation,
    pub(crate) format: &'static dyn Format,
}

/// A route.
pub(crate) const fn on(
    method: &'static str,
    path: &'static str,
    operation: Operation,
    format: &'static dyn Format,
) -> Route {
    Route {
        method,
        path,
        operation,
        format,
    }
}

fn route(
    tables: &[&'static [Route]],
    method: &str,
    segments: &[Cow<'_, str>],
) -> Option<&'static Route> {
    tables.iter().copied().flatten().find(|route| {
        route.method.eq_ignore_ascii_case(method.trim()) && below_version(segments, route.path)
    })
}

/// Whether `segments` end in `pattern`, right after a version (`v1`, `v1beta`) or from the start.
fn below_version(segments: &[Cow<'_, str>], pattern: &str) -> bool {
    let mut left = segments.iter().rev();
    let same = pattern.rsplit('/').all(|wanted| {
        left.next()
            .is_some_and(|segment| match wanted.strip_prefix('*') {
                Some(end) => segment.ends_with(end) && segment.len() > end.len(),
                None => segment == wanted,
            })
    });
    same && left.next().is_none_or(|last| is_version(last))
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
