//! `OpenRouter`, below `/api/v1`. A stream that began with 200 may end with an `error`, and comment lines keep it open.

use super::Provider;
use super::anthropic::MESSAGES;
use crate::format::openai::COMPATIBLE;

pub(crate) static OPENROUTER: Provider = Provider {
    name: "openrouter",
    aliases: &["openrouter"],
    hosts: &["openrouter.ai"],
    base_url: Some("https://openrouter.ai"),
    routes: &[COMPATIBLE, MESSAGES],
    by_path: &[],
};
