//! Which API a request is for.

use audit_capture::{Operation, detect};

#[test]
fn a_request_is_taken_for_the_wrong_api() {
    use Operation::{
        Chat, CountTokens, Embeddings, Messages, Models, Other, Responses, TextCompletion, Threads,
    };
    // hint, host, method, path; provider, operation, known
    let table = [
        (
            Some("openai"),
            None,
            "POST",
            "/v1/chat/completions",
            "openai",
            Chat,
            true,
        ),
        (
            Some("OpenAI"),
            None,
            "post",
            "/v1/chat/completions/",
            "openai",
            Chat,
            true,
        ),
        (
            Some("openai"),
            None,
            "POST",
            "/chat/completions",
            "openai",
            Chat,
            true,
        ),
        (
            Some("openai"),
            None,
            "POST",
            "//v1//responses?x=1",
            "openai",
            Responses,
            true,
        ),
        (
            Some("openai"),
            None,
            "POST",
            "/v1/responses/input_tokens",
            "openai",
            CountTokens,
            true,
        ),
        (
            Some("openai"),
            None,
            "GET",
            "/v1/responses/resp_1",
            "openai",
            Other,
            false,
        ),
        (
            Some("openai"),
            None,
            "POST",
            "/v1/threads/t/messages",
            "openai",
            Threads,
            true,
        ),
        (
            Some("openai"),
            None,
            "POST",
            "/v1/completions",
            "openai",
            TextCompletion,
            true,
        ),
        (
            Some("openai"),
            None,
            "POST",
            "/v1/embeddings",
            "openai",
            Embeddings,
            true,
        ),
        (
            Some("openai"),
            None,
            "GET",
            "/v1/models",
            "openai",
            Models,
            true,
        ),
        (
            Some("openai"),
            None,
            "GET",
            "/v1/models/gpt-5",
            "openai",
            Models,
            true,
        ),
        (
            Some("openai"),
            None,
            "DELETE",
            "/v1/models/ft",
            "openai",
            Other,
            false,
        ),
        (
            Some("openai"),
            None,
            "GET",
            "/v1/chat/completions",
            "openai",
            Other,
            false,
        ),
        (
            None,
            Some("api.openai.com"),
            "POST",
            "/v1/chat/completions",
            "openai",
            Chat,
            true,
        ),
        (
            None,
            Some("EU.API.OpenAI.com:443"),
            "POST",
            "/v1/responses",
            "openai",
            Responses,
            true,
        ),
        (
            None,
            Some("api.openai.com."),
            "POST",
            "/v1/responses",
            "openai",
            Responses,
            true,
        ),
        (
            None,
            Some("api.openai.com.evil.example"),
            "POST",
            "/v1/responses",
            "api.openai.com.evil.example",
            Responses,
            true,
        ),
        (
            None,
            None,
            "POST",
            "https://api.anthropic.com/v1/messages?beta=true",
            "anthropic",
            Messages,
            true,
        ),
        (
            None,
            Some("api.anthropic.com"),
            "POST",
            "/v1/messages/count_tokens",
            "anthropic",
            CountTokens,
            true,
        ),
        (
            None,
            Some("api.anthropic.com"),
            "POST",
            "/v1/complete",
            "anthropic",
            TextCompletion,
            true,
        ),
        (
            None,
            Some("api.anthropic.com"),
            "POST",
            "/v1/chat/completions",
            "anthropic",
            Chat,
            true,
        ),
        // The hint wins over the host: the operator knows what stands behind it.
        (
            Some("anthropic"),
            Some("10.0.0.7:8080"),
            "POST",
            "/proxy/v1/messages",
            "anthropic",
            Messages,
            true,
        ),
        // An unknown upstream speaks what its path says, under its own name.
        (
            Some("house-llm"),
            Some("llm.example"),
            "POST",
            "/v1/chat/completions",
            "house-llm",
            Chat,
            true,
        ),
        (
            None,
            Some("localhost:11434"),
            "POST",
            "/v1/chat/completions",
            "localhost",
            Chat,
            true,
        ),
        (
            None,
            Some("[::1]:8080"),
            "POST",
            "/v1/messages",
            "[::1]",
            Messages,
            true,
        ),
        (
            None,
            None,
            "POST",
            "/v1/messages",
            "anthropic",
            Messages,
            true,
        ),
        (
            None,
            None,
            "POST",
            "/v1/%6Dessages",
            "anthropic",
            Messages,
            true,
        ),
        (None, None, "POST", "/inbox/messages", "", Other, false),
        (None, None, "POST", "", "", Other, false),
        (None, None, "", "://", "", Other, false),
        (Some(" "), Some(""), "POST", "/%ff/%", "", Other, false),
    ];
    for (hint, host, method, path, provider, operation, known) in table {
        let api = detect(hint, host, method, path);
        assert_eq!(
            (api.provider.as_str(), api.operation, api.known),
            (provider, operation, known),
            "{hint:?} {host:?} {method} {path}"
        );
    }
}

/// Every provider by its host, with a path of each of its formats.
#[test]
fn a_provider_is_taken_for_another() {
    use Operation::{
        Assistants, Batches, Caches, Chat, Converse, CountTokens, Embeddings, Files,
        GenerateContent, Images, Invoke, Messages, Moderation, Other, Predictions, Rerank,
        Responses, Runs, Speech, TextCompletion, Transcription,
    };
    let vertex = "/v1/projects/p/locations/l/publishers";
    let table = [
        ("api.openai.com", "/v1/images/edits", "openai", Images),
        ("api.openai.com", "/v1/audio/speech", "openai", Speech),
        (
            "api.openai.com",
            "/v1/audio/transcriptions",
            "openai",
            Transcription,
        ),
        ("api.openai.com", "/v1/moderations", "openai", Moderation),
        ("api.openai.com", "/v1/batches", "openai", Batches),
        ("api.openai.com", "/v1/files", "openai", Files),
        ("api.openai.com", "/v1/assistants", "openai", Assistants),
        ("api.openai.com", "/v1/threads/runs", "openai", Runs),
        (
            "api.openai.com",
            "/v1/threads/t/runs/r/submit_tool_outputs",
            "openai",
            Runs,
        ),
        (
            "x.openai.azure.com",
            "/openai/deployments/d/chat/completions?api-version=1",
            "azure.ai.openai",
            Chat,
        ),
        (
            "x.openai.azure.com",
            "/openai/v1/responses",
            "azure.ai.openai",
            Responses,
        ),
        (
            "x.cognitiveservices.azure.com",
            "/openai/deployments/d/embeddings",
            "azure.ai.openai",
            Embeddings,
        ),
        (
            "x.services.ai.azure.com",
            "/openai/v1/chat/completions",
            "azure.ai.openai",
            Chat,
        ),
        (
            "x.services.ai.azure.com",
            "/models/chat/completions",
            "azure.ai.inference",
            Chat,
        ),
        (
            "x.services.ai.azure.com",
            "/anthropic/v1/messages",
            "azure.ai.inference",
            Messages,
        ),
        (
            "openai.azure.com",
            "/openai/v1/responses",
            "openai.azure.com",
            Responses,
        ),
        (
            "x.openai.azure.com.evil.example",
            "/openai/deployments/d/embeddings",
            "x.openai.azure.com.evil.example",
            Embeddings,
        ),
        (
            "api.anthropic.com",
            "/v1/messages/batches",
            "anthropic",
            Batches,
        ),
        (
            "generativelanguage.googleapis.com",
            "/v1beta/models/m:generateContent",
            "gcp.gemini",
            GenerateContent,
        ),
        (
            "generativelanguage.googleapis.com",
            "/v1beta/models/m:streamGenerateContent?alt=sse",
            "gcp.gemini",
            GenerateContent,
        ),
        (
            "generativelanguage.googleapis.com",
            "/v1beta/models/m:countTokens",
            "gcp.gemini",
            CountTokens,
        ),
        (
            "generativelanguage.googleapis.com",
            "/v1beta/models/m:batchEmbedContents",
            "gcp.gemini",
            Embeddings,
        ),
        (
            "generativelanguage.googleapis.com",
            "/v1beta/cachedContents",
            "gcp.gemini",
            Caches,
        ),
        (
            "generativelanguage.googleapis.com",
            "/v1beta/openai/chat/completions",
            "gcp.gemini",
            Chat,
        ),
        (
            "generativelanguage.googleapis.com",
            "/v1beta/models/:generateContent",
            "gcp.gemini",
            Other,
        ),
        (
            "us-east5-aiplatform.googleapis.com",
            &format!("{vertex}/google/models/m:generateContent"),
            "gcp.vertex_ai",
            GenerateContent,
        ),
        (
            "aiplatform.googleapis.com",
            &format!("{vertex}/google/models/m:predict"),
            "gcp.vertex_ai",
            Invoke,
        ),
        (
            "aiplatform.googleapis.com",
            &format!("{vertex}/anthropic/models/m:streamRawPredict"),
            "gcp.vertex_ai",
            Messages,
        ),
        (
            "aiplatform.googleapis.com",
            &format!("{vertex}/anthropic/models/count-tokens:rawPredict"),
            "gcp.vertex_ai",
            CountTokens,
        ),
        (
            "aiplatform.googleapis.com",
            &format!("{vertex}/mistralai/models/m:rawPredict"),
            "gcp.vertex_ai",
            Chat,
        ),
        (
            "aiplatform.googleapis.com",
            "/v1/projects/p/locations/l/endpoints/openapi/chat/completions",
            "gcp.vertex_ai",
            Chat,
        ),
        (
            "bedrock-runtime.eu-west-1.amazonaws.com",
            "/model/a.b-v1%3A0/converse",
            "aws.bedrock",
            Converse,
        ),
        (
            "bedrock-runtime.eu-west-1.amazonaws.com",
            "/model/arn%3Aaws%3Abedrock%3A%3A%3Ainference-profile%2Fx/converse-stream",
            "aws.bedrock",
            Converse,
        ),
        (
            "bedrock-runtime-fips.us-east-1.amazonaws.com",
            "/model/m/invoke-with-response-stream",
            "aws.bedrock",
            Invoke,
        ),
        (
            "bedrock-runtime.eu-west-1.amazonaws.com",
            "/model/m/count-tokens",
            "aws.bedrock",
            CountTokens,
        ),
        (
            "runtime.sagemaker.us-east-1.amazonaws.com",
            "/endpoints/e/invocations",
            "aws.sagemaker",
            Invoke,
        ),
        (
            "s3.eu-west-1.amazonaws.com",
            "/bucket/key",
            "s3.eu-west-1.amazonaws.com",
            Other,
        ),
        ("api.mistral.ai", "/v1/fim/completions", "mistral_ai", Chat),
        ("api.cohere.com", "/v2/chat", "cohere", Chat),
        ("api.cohere.ai", "/v1/generate", "cohere", TextCompletion),
        ("api.cohere.com", "/v2/rerank", "cohere", Rerank),
        (
            "api.cohere.com",
            "/compatibility/v1/chat/completions",
            "cohere",
            Chat,
        ),
        ("ollama.com", "/api/chat", "ollama", Chat),
        (
            "localhost:11434",
            "/api/generate",
            "localhost",
            TextCompletion,
        ),
        ("127.0.0.1:11434", "/api/embed", "127.0.0.1", Embeddings),
        ("api.groq.com", "/openai/v1/chat/completions", "groq", Chat),
        // An API that a provider isn't known for, in a format that is.
        ("api.groq.com", "/v1/messages", "groq", Messages),
        ("api.together.xyz", "/v1/files", "together", Other),
        ("api.x.ai", "/v1/responses", "x_ai", Responses),
        ("api.deepseek.com", "/chat/completions", "deepseek", Chat),
        (
            "api.deepseek.com",
            "/anthropic/v1/messages",
            "deepseek",
            Messages,
        ),
        ("openrouter.ai", "/api/v1/rerank", "openrouter", Rerank),
        (
            "api.together.xyz",
            "/v1/completions",
            "together",
            TextCompletion,
        ),
        ("api.perplexity.ai", "/chat/completions", "perplexity", Chat),
        (
            "router.huggingface.co",
            "/hf-inference/models/x/v1/chat/completions",
            "huggingface",
            Chat,
        ),
        (
            "api.replicate.com",
            "/v1/models/o/n/predictions",
            "replicate",
            Predictions,
        ),
        ("api.avian.io", "/v1/chat/completions", "avian", Chat),
        ("vllm.example", "/v1/embeddings", "vllm.example", Embeddings),
        ("vllm.example", "/v2/chat", "vllm.example", Other),
    ];
    for (host, path, provider, operation) in table {
        let api = detect(None, Some(host), "POST", path);
        assert_eq!(
            (api.provider.as_str(), api.operation, api.known),
            (provider, operation, operation != Other),
            "{host} {path}"
        );
    }
}

/// Names by which the gateway's default upstreams go; each leads to its provider, wherever that is.
#[test]
fn a_default_upstream_is_not_known_by_its_name() {
    let urls = audit_capture::base_urls();
    let names: Vec<&str> = urls.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "anthropic",
            "avian",
            "cohere",
            "deepseek",
            "gemini",
            "groq",
            "huggingface",
            "mistral",
            "ollama",
            "openai",
            "openrouter",
            "perplexity",
            "replicate",
            "together",
            "xai"
        ]
    );
    for (name, url) in urls {
        let by_name = detect(Some(name), Some("proxy.example"), "POST", "/x").provider;
        assert_ne!(by_name, "proxy.example");
        if name != "ollama" {
            let by_url = detect(None, None, "POST", &format!("{url}/x")).provider;
            assert_eq!(by_url, by_name);
        }
    }
}
