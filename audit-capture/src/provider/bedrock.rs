//! AWS Bedrock's runtime.

use super::Provider;
use crate::api::{Operation, Route, on};
use crate::format::converse::Converse;
use crate::format::invoke::Invoke;
use crate::format::openai::OpenAi;

const MODELS: &[Route] = &[
    on("POST", "model/*/converse", Operation::Converse, &Converse),
    on(
        "POST",
        "model/*/converse-stream",
        Operation::Converse,
        &Converse,
    ),
    on("POST", "model/*/invoke", Operation::Invoke, &Invoke),
    on(
        "POST",
        "model/*/invoke-with-response-stream",
        Operation::Invoke,
        &Invoke,
    ),
    on(
        "POST",
        "model/*/count-tokens",
        Operation::CountTokens,
        &Converse,
    ),
];

const OPENAI: &[Route] = &[
    on("POST", "chat/completions", Operation::Chat, &OpenAi),
    on("POST", "responses", Operation::Responses, &OpenAi),
    on("GET", "models", Operation::Models, &OpenAi),
];

pub(crate) static BEDROCK: Provider = Provider {
    name: "aws.bedrock",
    aliases: &["bedrock", "aws-bedrock", "aws.bedrock"],
    hosts: &[
        "bedrock-runtime.*.amazonaws.com",
        "bedrock-runtime-fips.*.amazonaws.com",
        "bedrock-runtime.*.amazonaws.com.cn",
        "*.bedrock-runtime.*.vpce.amazonaws.com",
        "bedrock-mantle.*.api.aws",
    ],
    base_url: None,
    routes: &[MODELS, OPENAI],
    by_path: &[MODELS],
};
