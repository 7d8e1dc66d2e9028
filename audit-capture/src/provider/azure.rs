//! Azure: `OpenAI`'s models by deployment or in the `v1` form, and the inference API for the models of others.
//!
//! One host serves both, so the path tells which it is.

use super::Provider;
use super::anthropic::MESSAGES;
use crate::api::{Operation, Route, on};
use crate::format::objects::Objects;
use crate::format::openai::{COMPATIBLE, OpenAi};

const DEPLOYMENTS: &[Route] = &[
    on(
        "POST",
        "openai/deployments/*/chat/completions",
        Operation::Chat,
        &OpenAi,
    ),
    on(
        "POST",
        "openai/deployments/*/completions",
        Operation::TextCompletion,
        &OpenAi,
    ),
    on(
        "POST",
        "openai/deployments/*/embeddings",
        Operation::Embeddings,
        &OpenAi,
    ),
    on(
        "POST",
        "openai/deployments/*/images/generations",
        Operation::Images,
        &OpenAi,
    ),
    on(
        "POST",
        "openai/deployments/*/images/edits",
        Operation::Images,
        &OpenAi,
    ),
    on(
        "POST",
        "openai/deployments/*/audio/speech",
        Operation::Speech,
        &OpenAi,
    ),
    on(
        "POST",
        "openai/deployments/*/audio/transcriptions",
        Operation::Transcription,
        &OpenAi,
    ),
    on(
        "POST",
        "openai/deployments/*/audio/translations",
        Operation::Transcription,
        &OpenAi,
    ),
    on("POST", "openai/responses", Operation::Responses, &OpenAi),
    on("GET", "openai/models", Operation::Models, &OpenAi),
    on("POST", "openai/files", Operation::Files, &Objects),
    on("POST", "openai/batches", Operation::Batches, &Objects),
];

const MODELS: &[Route] = &[
    on("POST", "models/chat/completions", Operation::Chat, &OpenAi),
    on("POST", "chat/completions", Operation::Chat, &OpenAi),
    on("POST", "models/embeddings", Operation::Embeddings, &OpenAi),
    on(
        "POST",
        "models/images/embeddings",
        Operation::Embeddings,
        &OpenAi,
    ),
    on("GET", "info", Operation::Models, &OpenAi),
];

pub(crate) static OPENAI: Provider = Provider {
    name: "azure.ai.openai",
    aliases: &["azure", "azure-openai", "azure.ai.openai"],
    hosts: &[
        "*.openai.azure.com",
        "*.cognitiveservices.azure.com",
        "*.services.ai.azure.com",
    ],
    base_url: None,
    routes: &[DEPLOYMENTS, COMPATIBLE],
    by_path: &[DEPLOYMENTS],
};

pub(crate) static INFERENCE: Provider = Provider {
    name: "azure.ai.inference",
    aliases: &["azure", "azure-inference", "azure.ai.inference"],
    hosts: &[
        "*.services.ai.azure.com",
        "*.models.ai.azure.com",
        "*.inference.ai.azure.com",
    ],
    base_url: None,
    routes: &[MODELS, MESSAGES],
    by_path: &[],
};
