//! What a request asks.

use std::collections::BTreeMap;

use audit_core::event::TEXT_BYTES_MAX;
use serde_json::{Map, Value};

use crate::api::{Api, Operation};
use crate::attributes::Attributes;
use crate::encoding::Decoder;
use crate::exchange::request_members;
use crate::head::{self, RequestHead};
use crate::response::BODY_BYTES_MAX;

/// Tool results named in one request; later ones are kept, earlier ones dropped, since the last turn is the new one.
pub const IDS_MAX: usize = 1024;

/// What a request asks; big content stays in the recorded body.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RequestFacts {
    /// The API.
    pub api: Api,
    /// The model that is asked for.
    pub model: Option<String>,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// Sampling and other parameters, under their attribute names.
    pub parameters: Map<String, Value>,
    /// Messages, or input items.
    pub messages: Option<u64>,
    /// Whether there are system instructions.
    pub system: bool,
    /// Tools that the model may call.
    pub tools: Option<u64>,
    /// Tool results that the request hands to the model.
    pub tool_results: Vec<ToolResult>,
    /// The conversation that the provider keeps.
    pub conversation: Option<String>,
    /// The response that this request continues.
    pub previous_response: Option<String>,
    /// Why the body could not be read, or not in full.
    pub unparsed: Option<String>,
}

/// A tool's result, handed to the model.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ToolResult {
    /// The id of the call that it answers.
    pub call_id: String,
    /// Whether it came after the model's last turn. Most APIs repeat the whole history in every request, so the others
    /// were handed over before.
    pub latest: bool,
}

impl ToolResult {
    pub(crate) fn new(call_id: String) -> Self {
        Self {
            call_id,
            latest: true,
        }
    }

    /// After another turn of the model, what came before isn't the latest any more.
    pub(crate) fn age(results: &mut [Self]) {
        for result in results {
            result.latest = false;
        }
    }
}

/// Reads a request. `body` is as it was on the wire, compressed or not.
#[must_use]
pub fn request_facts(api: &Api, head: &RequestHead, body: &[u8]) -> RequestFacts {
    let mut facts = RequestFacts {
        api: api.clone(),
        model: None,
        stream: false,
        parameters: Map::new(),
        messages: None,
        system: false,
        tools: None,
        tool_results: Vec::new(),
        conversation: None,
        previous_response: None,
        unparsed: None,
    };
    if !api.known {
        return facts;
    }
    let mut decoder = Decoder::new(&head::list(&head.headers, "content-encoding"));
    let mut decoded = Vec::new();
    let text = if decoder.is_identity() {
        body
    } else {
        decoder.push(body, |piece| {
            if decoded.len() <= BODY_BYTES_MAX {
                decoded.extend_from_slice(piece);
            }
        });
        decoded.as_slice()
    };
    let mut value = Value::Object(Map::new());
    if let Some(failure) = decoder.failure() {
        facts.unparsed = Some(failure.to_owned());
    } else if text.len() > BODY_BYTES_MAX {
        facts.unparsed = Some(format!("body of more than {BODY_BYTES_MAX} bytes"));
    } else if !text.is_empty() {
        let (members, note) = request_members(head, text);
        facts.unparsed = note;
        value = Value::Object(members);
    }
    api.format.request(api, head, &value, &mut facts);
    let surplus = facts.tool_results.len().saturating_sub(IDS_MAX);
    facts.tool_results.drain(..surplus);
    facts
}

impl RequestFacts {
    /// The facts as attributes, in OpenTelemetry's `GenAI` names where one exists.
    #[must_use]
    pub fn attributes(&self) -> Map<String, Value> {
        let mut attributes = api_attributes(&self.api);
        for (name, value) in &self.parameters {
            attributes.set(name, Some(value.clone()));
        }
        attributes.set("gen_ai.request.model", self.model.clone());
        attributes.set("gen_ai.request.stream", self.stream.then_some(true));
        attributes.set("gen_ai.conversation.id", self.conversation.clone());
        attributes.set(
            "audit.request.previous_response_id",
            self.previous_response.clone(),
        );
        attributes.set("audit.request.messages", self.messages);
        attributes.set("audit.request.system", self.system.then_some(true));
        attributes.set("audit.request.tools", self.tools);
        attributes.set_list(
            "audit.request.tool_results",
            self.tool_results
                .iter()
                .filter(|result| result.latest)
                .map(|result| Value::from(result.call_id.as_str()))
                .collect(),
        );
        attributes.set("audit.request.unparsed", self.unparsed.clone());
        attributes.finish()
    }

    /// What the event refers to: `model_id`, the model that was asked for.
    #[must_use]
    pub fn refs(&self) -> BTreeMap<String, String> {
        model_ref(self.model.as_deref())
    }
}

pub(crate) fn api_attributes(api: &Api) -> Attributes {
    let mut attributes = Attributes::default();
    attributes.set("audit.api", Some(api.operation.as_str()));
    attributes.set("gen_ai.operation.name", api.operation.otel_name());
    let provider = Some(api.provider.as_str()).filter(|name| !name.is_empty());
    attributes.set("gen_ai.provider.name", provider);
    if api.provider == "openai" {
        let kind = match api.operation {
            Operation::Chat => Some("chat_completions"),
            Operation::Responses => Some("responses"),
            _ => None,
        };
        attributes.set("openai.api.type", kind);
    }
    attributes
}

/// A name that is too long for a reference is left out, not cut: a cut one would be another model.
pub(crate) fn model_ref(model: Option<&str>) -> BTreeMap<String, String> {
    model
        .filter(|model| (1..=TEXT_BYTES_MAX).contains(&model.len()))
        .map(|model| ("model_id".to_owned(), model.to_owned()))
        .into_iter()
        .collect()
}
