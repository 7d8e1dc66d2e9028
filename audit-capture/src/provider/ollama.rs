//! Ollama, on the own machine or in its cloud: its own API in lines of JSON, and `OpenAI`'s and Anthropic's formats.

use super::Provider;
use super::anthropic::MESSAGES;
use crate::api::{Operation, Route, on};
use crate::format::ollama::Ollama;
use crate::format::openai::COMPATIBLE;

const API: &[Route] = &[
    on("POST", "api/chat", Operation::Chat, &Ollama),
    on("POST", "api/generate", Operation::TextCompletion, &Ollama),
    on("POST", "api/embed", Operation::Embeddings, &Ollama),
    on("POST", "api/embeddings", Operation::Embeddings, &Ollama),
    on("GET", "api/tags", Operation::Models, &Ollama),
    on("POST", "api/show", Operation::Models, &Ollama),
];

pub(crate) static OLLAMA: Provider = Provider {
    name: "ollama",
    aliases: &["ollama"],
    hosts: &["ollama.com", "*.ollama.com"],
    base_url: Some("http://127.0.0.1:11434"),
    routes: &[API, COMPATIBLE, MESSAGES],
    by_path: &[API],
};
