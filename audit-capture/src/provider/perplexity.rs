//! Perplexity, with or without a version in the path.

use super::Provider;
use crate::format::openai::COMPATIBLE;

pub(crate) static PERPLEXITY: Provider = Provider {
    name: "perplexity",
    aliases: &["perplexity"],
    hosts: &["api.perplexity.ai"],
    base_url: Some("https://api.perplexity.ai"),
    routes: &[COMPATIBLE],
    by_path: &[],
};
