//! `OpenAI`.

use super::Provider;
use crate::api::{Operation, Route, on};
use crate::format::assistants::Threads;
use crate::format::objects::Objects;
use crate::format::openai::COMPATIBLE;

const MORE: &[Route] = &[
    on("POST", "files", Operation::Files, &Objects),
    on("GET", "files", Operation::Files, &Objects),
    on("GET", "files/*", Operation::Files, &Objects),
    on("DELETE", "files/*", Operation::Files, &Objects),
    on("POST", "batches", Operation::Batches, &Objects),
    on("GET", "batches", Operation::Batches, &Objects),
    on("GET", "batches/*", Operation::Batches, &Objects),
    on("POST", "batches/*/cancel", Operation::Batches, &Objects),
    on("POST", "assistants", Operation::Assistants, &Objects),
    on("GET", "assistants", Operation::Assistants, &Objects),
    on("GET", "assistants/*", Operation::Assistants, &Objects),
    on("POST", "assistants/*", Operation::Assistants, &Objects),
    on("DELETE", "assistants/*", Operation::Assistants, &Objects),
    on("POST", "threads", Operation::Threads, &Threads),
    on("POST", "threads/runs", Operation::Runs, &Threads),
    on("GET", "threads/*", Operation::Threads, &Threads),
    on("POST", "threads/*", Operation::Threads, &Threads),
    on("DELETE", "threads/*", Operation::Threads, &Threads),
    on("POST", "threads/*/messages", Operation::Threads, &Threads),
    on("GET", "threads/*/messages", Operation::Threads, &Threads),
    on("GET", "threads/*/messages/*", Operation::Threads, &Threads),
    on("POST", "threads/*/runs", Operation::Runs, &Threads),
    on(
        "POST",
        "threads/*/runs/*/submit_tool_outputs",
        Operation::Runs,
        &Threads,
    ),
];

pub(crate) static OPENAI: Provider = Provider {
    name: "openai",
    aliases: &["openai"],
    hosts: &["api.openai.com", "*.api.openai.com"],
    base_url: Some("https://api.openai.com"),
    routes: &[COMPATIBLE, MORE],
    by_path: &[COMPATIBLE],
};
