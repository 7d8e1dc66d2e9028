//! The providers, one file each: their names, hosts and paths, and the table that finds them.
//!
//! What a path answers is read by a [`Format`](crate::format::Format); many providers share one.

mod anthropic;
mod avian;
mod azure;
mod bedrock;
mod cohere;
mod deepseek;
mod gemini;
mod groq;
mod huggingface;
mod mistral;
mod ollama;
mod openai;
mod openrouter;
mod perplexity;
mod replicate;
mod sagemaker;
mod together;
mod vertex;
mod xai;

use crate::api::Route;

/// A provider's names, hosts and paths.
pub(crate) struct Provider {
    /// The value of `gen_ai.provider.name`.
    pub(crate) name: &'static str,
    /// Names that an operator may give it, in lower case. The first is its short name.
    pub(crate) aliases: &'static [&'static str],
    /// Its hosts, in lower case; `*` stands for anything.
    pub(crate) hosts: &'static [&'static str],
    /// Where it serves everybody, if there is one such place.
    pub(crate) base_url: Option<&'static str>,
    /// Its paths; the first that fits counts.
    pub(crate) routes: &'static [&'static [Route]],
    /// Those of them that tell its format on a host that nobody knows.
    pub(crate) by_path: &'static [&'static [Route]],
}

/// In the order in which hosts and paths are tried.
pub(crate) const ALL: &[&Provider] = &[
    &openai::OPENAI,
    &anthropic::ANTHROPIC,
    &azure::OPENAI,
    &azure::INFERENCE,
    &gemini::GEMINI,
    &vertex::VERTEX,
    &bedrock::BEDROCK,
    &sagemaker::SAGEMAKER,
    &mistral::MISTRAL,
    &cohere::COHERE,
    &ollama::OLLAMA,
    &groq::GROQ,
    &xai::XAI,
    &deepseek::DEEPSEEK,
    &openrouter::OPENROUTER,
    &together::TOGETHER,
    &perplexity::PERPLEXITY,
    &huggingface::HUGGINGFACE,
    &replicate::REPLICATE,
    &avian::AVIAN,
];

pub(crate) fn by_alias(hint: &str) -> Vec<&'static Provider> {
    choose(|p| p.aliases.iter().any(|a| a.eq_ignore_ascii_case(hint)))
}

pub(crate) fn by_host(host: &str) -> Vec<&'static Provider> {
    choose(|p| p.hosts.iter().any(|pattern| matches(pattern, host)))
}

fn choose(fits: impl Fn(&Provider) -> bool) -> Vec<&'static Provider> {
    ALL.iter().copied().filter(|p| fits(p)).collect()
}

/// Whether `text` is what `pattern` describes, in which `*` stands for one or more bytes.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(start) else {
        return false;
    };
    text.char_indices()
        .skip(1)
        .map(|(at, _)| at)
        .chain((!text.is_empty()).then_some(text.len()))
        .any(|at| {
            text.split_at_checked(at)
                .is_some_and(|(_, tail)| matches(rest, tail))
        })
}

/// The providers that serve everybody at one place: short name and base URL.
///
/// The others (Azure, Bedrock, `SageMaker`, Vertex AI) have a host per resource or region.
#[must_use]
pub fn base_urls() -> Vec<(&'static str, &'static str)> {
    let mut urls: Vec<_> = ALL
        .iter()
        .filter_map(|p| Some((*p.aliases.first()?, p.base_url?)))
        .collect();
    urls.sort_unstable();
    urls
}
