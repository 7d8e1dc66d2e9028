//! Groq, below `/openai/v1`. Its streams repeat the usage in `x_groq`.

use super::Provider;
use crate::format::openai::COMPATIBLE;

pub(crate) static GROQ: Provider = Provider {
    name: "groq",
    aliases: &["groq"],
    hosts: &["api.groq.com"],
    base_url: Some("https://api.groq.com"),
    routes: &[COMPATIBLE],
    by_path: &[],
};
