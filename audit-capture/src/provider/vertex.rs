//! Google's Vertex AI: Gemini, and the models of others in their own format.

use super::Provider;
use crate::api::{Operation, Route, on};
use crate::format::anthropic::Anthropic;
use crate::format::gemini::Gemini;
use crate::format::openai::OpenAi;

const MODELS: &[Route] = &[
    on(
        "POST",
        "projects/*/locations/*/publishers/anthropic/models/count-tokens:rawPredict",
        Operation::CountTokens,
        &Anthropic,
    ),
    on(
        "POST",
        "projects/*/locations/*/publishers/mistralai/models/*:rawPredict",
        Operation::Chat,
        &OpenAi,
    ),
    on(
        "POST",
        "projects/*/locations/*/publishers/mistralai/models/*:streamRawPredict",
        Operation::Chat,
        &OpenAi,
    ),
    on(
        "POST",
        "projects/*/locations/*/publishers/*/models/*:generateContent",
        Operation::GenerateContent,
        &Gemini,
    ),
    on(
        "POST",
        "projects/*/locations/*/publishers/*/models/*:streamGenerateContent",
        Operation::GenerateContent,
        &Gemini,
    ),
    on(
        "POST",
        "projects/*/locations/*/publishers/*/models/*:countTokens",
        Operation::CountTokens,
        &Gemini,
    ),
    on(
        "POST",
        "projects/*/locations/*/publishers/*/models/*:embedContent",
        Operation::Embeddings,
        &Gemini,
    ),
    on(
        "POST",
        "projects/*/locations/*/publishers/*/models/*:predict",
        Operation::Invoke,
        &Gemini,
    ),
    on(
        "POST",
        "projects/*/locations/*/publishers/anthropic/models/*:rawPredict",
        Operation::Messages,
        &Anthropic,
    ),
    on(
        "POST",
        "projects/*/locations/*/publishers/anthropic/models/*:streamRawPredict",
        Operation::Messages,
        &Anthropic,
    ),
    on(
        "POST",
        "publishers/*/models/*:generateContent",
        Operation::GenerateContent,
        &Gemini,
    ),
    on(
        "POST",
        "publishers/*/models/*:streamGenerateContent",
        Operation::GenerateContent,
        &Gemini,
    ),
    on(
        "POST",
        "publishers/*/models/*:countTokens",
        Operation::CountTokens,
        &Gemini,
    ),
    on(
        "POST",
        "publishers/*/models/*:embedContent",
        Operation::Embeddings,
        &Gemini,
    ),
    on(
        "POST",
        "publishers/*/models/*:predict",
        Operation::Invoke,
        &Gemini,
    ),
    on(
        "POST",
        "publishers/anthropic/models/*:rawPredict",
        Operation::Messages,
        &Anthropic,
    ),
    on(
        "POST",
        "publishers/anthropic/models/*:streamRawPredict",
        Operation::Messages,
        &Anthropic,
    ),
    on(
        "POST",
        "projects/*/locations/*/endpoints/*:generateContent",
        Operation::GenerateContent,
        &Gemini,
    ),
    on(
        "POST",
        "projects/*/locations/*/endpoints/*:streamGenerateContent",
        Operation::GenerateContent,
        &Gemini,
    ),
    on(
        "POST",
        "projects/*/locations/*/endpoints/*:countTokens",
        Operation::CountTokens,
        &Gemini,
    ),
    on(
        "POST",
        "projects/*/locations/*/endpoints/*:predict",
        Operation::Invoke,
        &Gemini,
    ),
    on(
        "POST",
        "projects/*/locations/*/endpoints/*/chat/completions",
        Operation::Chat,
        &OpenAi,
    ),
    on(
        "POST",
        "projects/*/locations/*/cachedContents",
        Operation::Caches,
        &Gemini,
    ),
    on(
        "GET",
        "projects/*/locations/*/cachedContents",
        Operation::Caches,
        &Gemini,
    ),
    on(
        "GET",
        "projects/*/locations/*/cachedContents/*",
        Operation::Caches,
        &Gemini,
    ),
];

pub(crate) static VERTEX: Provider = Provider {
    name: "gcp.vertex_ai",
    aliases: &["vertex", "google-vertex", "vertex-ai", "gcp.vertex_ai"],
    hosts: &[
        "aiplatform.googleapis.com",
        "*-aiplatform.googleapis.com",
        "aiplatform.*.rep.googleapis.com",
    ],
    base_url: None,
    routes: &[MODELS],
    by_path: &[MODELS],
};
