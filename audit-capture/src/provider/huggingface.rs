//! Hugging Face's router to the providers of others, each below its own prefix.

use super::Provider;
use crate::format::openai::COMPATIBLE;

pub(crate) static HUGGINGFACE: Provider = Provider {
    name: "huggingface",
    aliases: &["huggingface", "hf"],
    hosts: &["router.huggingface.co", "*.endpoints.huggingface.cloud"],
    base_url: Some("https://router.huggingface.co"),
    routes: &[COMPATIBLE],
    by_path: &[],
};
