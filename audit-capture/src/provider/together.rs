//! Together.

use super::Provider;
use crate::format::openai::COMPATIBLE;

pub(crate) static TOGETHER: Provider = Provider {
    name: "together",
    aliases: &["together"],
    hosts: &["api.together.xyz", "api.together.ai"],
    base_url: Some("https://api.together.xyz"),
    routes: &[COMPATIBLE],
    by_path: &[],
};
