//! Mistral: `OpenAI`'s format, whose content may be parts with reasoning among them.

use super::Provider;
use crate::api::{Operation, Route, on};
use crate::format::objects::Objects;
use crate::format::openai::{COMPATIBLE, OpenAi};

const MORE: &[Route] = &[
    on("POST", "fim/completions", Operation::Chat, &OpenAi),
    on("POST", "agents/completions", Operation::Chat, &OpenAi),
    on("POST", "files", Operation::Files, &Objects),
    on("POST", "batch/jobs", Operation::Batches, &Objects),
];

pub(crate) static MISTRAL: Provider = Provider {
    name: "mistral_ai",
    aliases: &["mistral", "mistralai", "mistral_ai"],
    hosts: &["api.mistral.ai", "*.mistral.ai"],
    base_url: Some("https://api.mistral.ai"),
    routes: &[COMPATIBLE, MORE],
    by_path: &[],
};
