//! xAI. Its completion tokens leave out those of reasoning.

use super::Provider;
use super::anthropic::MESSAGES;
use crate::format::openai::COMPATIBLE;

pub(crate) static XAI: Provider = Provider {
    name: "x_ai",
    aliases: &["xai", "x_ai", "grok"],
    hosts: &["api.x.ai", "*.api.x.ai"],
    base_url: Some("https://api.x.ai"),
    routes: &[COMPATIBLE, MESSAGES],
    by_path: &[],
};
