//! Google's Gemini API.

use super::Provider;
use crate::api::{Operation, Route, on};
use crate::format::gemini::Gemini;
use crate::format::openai::OpenAi;

/// Also Vertex AI's, below a project and a publisher.
pub(super) const CONTENT: &[Route] = &[
    on(
        "POST",
        "models/*:generateContent",
        Operation::GenerateContent,
        &Gemini,
    ),
    on(
        "POST",
        "models/*:streamGenerateContent",
        Operation::GenerateContent,
        &Gemini,
    ),
    on(
        "POST",
        "models/*:countTokens",
        Operation::CountTokens,
        &Gemini,
    ),
    on(
        "POST",
        "models/*:embedContent",
        Operation::Embeddings,
        &Gemini,
    ),
    on(
        "POST",
        "models/*:batchEmbedContents",
        Operation::Embeddings,
        &Gemini,
    ),
    on(
        "POST",
        "tunedModels/*:generateContent",
        Operation::GenerateContent,
        &Gemini,
    ),
    on(
        "POST",
        "tunedModels/*:streamGenerateContent",
        Operation::GenerateContent,
        &Gemini,
    ),
];

const CACHES: &[Route] = &[
    on("POST", "cachedContents", Operation::Caches, &Gemini),
    on("GET", "cachedContents", Operation::Caches, &Gemini),
    on("GET", "cachedContents/*", Operation::Caches, &Gemini),
    on("PATCH", "cachedContents/*", Operation::Caches, &Gemini),
    on("DELETE", "cachedContents/*", Operation::Caches, &Gemini),
    on("GET", "models", Operation::Models, &Gemini),
    on("GET", "models/*", Operation::Models, &Gemini),
];

const OPENAI: &[Route] = &[
    on("POST", "openai/chat/completions", Operation::Chat, &OpenAi),
    on("POST", "openai/embeddings", Operation::Embeddings, &OpenAi),
    on(
        "POST",
        "openai/images/generations",
        Operation::Images,
        &OpenAi,
    ),
    on("GET", "openai/models", Operation::Models, &OpenAi),
    on("GET", "openai/models/*", Operation::Models, &OpenAi),
];

pub(crate) static GEMINI: Provider = Provider {
    name: "gcp.gemini",
    aliases: &["gemini", "google", "google-gemini", "gcp.gemini"],
    hosts: &[
        "generativelanguage.googleapis.com",
        "*.generativelanguage.googleapis.com",
    ],
    base_url: Some("https://generativelanguage.googleapis.com"),
    routes: &[CONTENT, CACHES, OPENAI],
    by_path: &[CONTENT],
};
