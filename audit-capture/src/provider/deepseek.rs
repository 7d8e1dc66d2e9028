//! `DeepSeek`: `reasoning_content` beside the content, and cached tokens as `prompt_cache_hit_tokens`.

use super::Provider;
use crate::api::{Operation, Route, on};
use crate::format::anthropic::Anthropic;
use crate::format::openai::{COMPATIBLE, OpenAi};

const MORE: &[Route] = &[
    on("POST", "beta/chat/completions", Operation::Chat, &OpenAi),
    on(
        "POST",
        "beta/completions",
        Operation::TextCompletion,
        &OpenAi,
    ),
    on(
        "POST",
        "anthropic/v1/messages",
        Operation::Messages,
        &Anthropic,
    ),
];

pub(crate) static DEEPSEEK: Provider = Provider {
    name: "deepseek",
    aliases: &["deepseek"],
    hosts: &["api.deepseek.com"],
    base_url: Some("https://api.deepseek.com"),
    routes: &[COMPATIBLE, MORE],
    by_path: &[],
};
