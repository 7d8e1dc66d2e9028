//! Avian.

use super::Provider;
use crate::format::openai::COMPATIBLE;

pub(crate) static AVIAN: Provider = Provider {
    name: "avian",
    aliases: &["avian"],
    hosts: &["api.avian.io"],
    base_url: Some("https://api.avian.io"),
    routes: &[COMPATIBLE],
    by_path: &[],
};
