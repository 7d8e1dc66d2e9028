//! Replicate: predictions, whose input and output are the model's own.

use super::Provider;
use crate::api::{Operation, Route, on};
use crate::format::replicate::Replicate;

const PREDICTIONS: &[Route] = &[
    on("POST", "predictions", Operation::Predictions, &Replicate),
    on("GET", "predictions/*", Operation::Predictions, &Replicate),
    on(
        "POST",
        "predictions/*/cancel",
        Operation::Predictions,
        &Replicate,
    ),
    on(
        "POST",
        "models/*/*/predictions",
        Operation::Predictions,
        &Replicate,
    ),
    on(
        "POST",
        "deployments/*/*/predictions",
        Operation::Predictions,
        &Replicate,
    ),
];

pub(crate) static REPLICATE: Provider = Provider {
    name: "replicate",
    aliases: &["replicate"],
    hosts: &["api.replicate.com"],
    base_url: Some("https://api.replicate.com"),
    routes: &[PREDICTIONS],
    by_path: &[],
};
