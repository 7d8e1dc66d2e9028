//! Cohere, versions 1 and 2 of its API.

use super::Provider;
use crate::api::{Operation, Route, on};
use crate::format::cohere::Cohere;
use crate::format::openai::OpenAi;

const API: &[Route] = &[
    on("POST", "chat", Operation::Chat, &Cohere),
    on("POST", "generate", Operation::TextCompletion, &Cohere),
    on("POST", "embed", Operation::Embeddings, &Cohere),
    on("POST", "rerank", Operation::Rerank, &Cohere),
    on("GET", "models", Operation::Models, &Cohere),
    on("GET", "models/*", Operation::Models, &Cohere),
];

const COMPATIBILITY: &[Route] = &[
    on("POST", "chat/completions", Operation::Chat, &OpenAi),
    on("POST", "embeddings", Operation::Embeddings, &OpenAi),
];

pub(crate) static COHERE: Provider = Provider {
    name: "cohere",
    aliases: &["cohere"],
    hosts: &[
        "api.cohere.com",
        "api.cohere.ai",
        "*.cohere.com",
        "*.cohere.ai",
    ],
    base_url: Some("https://api.cohere.com"),
    routes: &[COMPATIBILITY, API],
    by_path: &[],
};
