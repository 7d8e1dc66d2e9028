//! AWS `SageMaker`'s endpoints: a model's own format, which the path doesn't tell.

use super::Provider;
use crate::api::{Operation, Route, on};
use crate::format::invoke::Invoke;

const ENDPOINTS: &[Route] = &[
    on(
        "POST",
        "endpoints/*/invocations",
        Operation::Invoke,
        &Invoke,
    ),
    on(
        "POST",
        "endpoints/*/invocations-response-stream",
        Operation::Invoke,
        &Invoke,
    ),
];

pub(crate) static SAGEMAKER: Provider = Provider {
    name: "aws.sagemaker",
    aliases: &["sagemaker", "aws-sagemaker", "aws.sagemaker"],
    hosts: &[
        "runtime.sagemaker.*.amazonaws.com",
        "runtime-fips.sagemaker.*.amazonaws.com",
        "runtime.sagemaker.*.amazonaws.com.cn",
    ],
    base_url: None,
    routes: &[ENDPOINTS],
    by_path: &[],
};
