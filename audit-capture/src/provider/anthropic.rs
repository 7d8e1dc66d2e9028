//! Anthropic: messages, their batches, counting tokens, legacy completions, and chat completions in `OpenAI`'s format.

use super::Provider;
use crate::api::{Operation, Route, on};
use crate::format::anthropic::Anthropic;
use crate::format::objects::Objects;
use crate::format::openai::OpenAi;

/// Also below other prefixes, such as Azure's `/anthropic`.
pub(super) const MESSAGES: &[Route] = &[
    on("POST", "messages", Operation::Messages, &Anthropic),
    on(
        "POST",
        "messages/count_tokens",
        Operation::CountTokens,
        &Anthropic,
    ),
    on("POST", "complete", Operation::TextCompletion, &Anthropic),
];

const MORE: &[Route] = &[
    on("POST", "messages/batches", Operation::Batches, &Objects),
    on("GET", "messages/batches", Operation::Batches, &Objects),
    on("GET", "messages/batches/*", Operation::Batches, &Objects),
    on(
        "POST",
        "messages/batches/*/cancel",
        Operation::Batches,
        &Objects,
    ),
    on("POST", "files", Operation::Files, &Objects),
    on("POST", "chat/completions", Operation::Chat, &OpenAi),
    on("GET", "models", Operation::Models, &OpenAi),
    on("GET", "models/*", Operation::Models, &OpenAi),
];

pub(crate) static ANTHROPIC: Provider = Provider {
    name: "anthropic",
    aliases: &["anthropic", "claude"],
    hosts: &["api.anthropic.com", "*.anthropic.com"],
    base_url: Some("https://api.anthropic.com"),
    routes: &[MESSAGES, MORE],
    by_path: &[MESSAGES],
};
