//! One exchange in one form, whoever the provider is: a view that is computed from the recorded bytes.
//!
//! The bytes stay what counts. `docs/exchange.md` describes the JSON form.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::api::Api;
use crate::encoding::Decoder;
use crate::format::{self, Room};
use crate::framing::Event;
use crate::head::{self, RequestHead, ResponseHead};
use crate::json;
use crate::multipart;
use crate::response::{ApiError, BODY_BYTES_MAX, Usage, form_of};

/// The version of the JSON form. A new one may add members; what a member means never changes.
pub const EXCHANGE_VERSION: u32 = 1;

/// A request and its answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Exchange {
    /// [`EXCHANGE_VERSION`].
    pub version: u32,
    /// The provider, as `gen_ai.provider.name` has it.
    pub provider: String,
    /// The API, as `audit.api` has it.
    pub api: &'static str,
    /// Whether the wire format is known. If not, there are no messages.
    pub known: bool,
    /// What was asked.
    pub request: Option<Asked>,
    /// What was answered.
    pub response: Option<Answered>,
}

/// What a request asks.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Asked {
    /// The model that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// Sampling and other parameters, under their attribute names.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    /// Instructions that stand apart from the messages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instructions: Vec<Part>,
    /// Messages, or input items, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// Tools that the model may call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolDefinition>,
    /// The conversation that the provider keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// The response that this request continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_response: Option<String>,
    /// The members that have no place above, as they came.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub other: Map<String, Value>,
    /// Why the body could not be read, or not in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unparsed: Option<String>,
}

/// What a response answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// Whether it came as a stream of events.
    pub streamed: bool,
    /// Whether a stream had its terminal event. `true` for a body that is no stream: whether all of it came is in the
    /// record.
    pub complete: bool,
    /// The response's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The model that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The output, one message per choice.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// Tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Tokens>,
    /// Tokens counted by an operation that only counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted_tokens: Option<u64>,
    /// The provider's error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
    /// The members that have no place above, as they came.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub other: Map<String, Value>,
    /// Events that could not be read.
    #[serde(skip_serializing_if = "is_zero")]
    pub unreadable_events: u64,
    /// Whether a limit was reached, so that something is missing here.
    #[serde(skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// Why the body could not be read, or not in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unparsed: Option<String>,
    /// The provider's own words for the usage.
    #[serde(skip)]
    pub(crate) counts: Usage,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Tokens, in one meaning for every provider.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Tokens {
    /// All input tokens, cached ones included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<u64>,
    /// All output tokens, those of reasoning included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<u64>,
    /// Input tokens read from the provider's cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<u64>,
    /// Input tokens written to the provider's cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_creation: Option<u64>,
    /// Output tokens spent on reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<u64>,
    /// The total, if the provider gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// What the provider gave, as it came.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub given: Value,
}

/// A message.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks, in the provider's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What is said.
    pub parts: Vec<Part>,
    /// Why the model stopped, in the provider's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    /// The members that have no place above, as they came.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub other: Map<String, Value>,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
        /// The members that have no place above, as they came.
        #[serde(skip_serializing_if = "Map::is_empty")]
        other: Map<String, Value>,
    },
    /// What the model wrote for itself.
    Reasoning {
        /// The text; empty where the provider gives none that can be read.
        text: String,
        /// The members that have no place above, as they came.
        #[serde(skip_serializing_if = "Map::is_empty")]
        other: Map<String, Value>,
    },
    /// A refusal that the format tells apart from text.
    Refusal {
        /// The text.
        text: String,
    },
    /// An image.
    Image(Media),
    /// Sound.
    Audio(Media),
    /// A film.
    Video(Media),
    /// A document, or a file of another kind.
    Document(Media),
    /// A call of a tool, by the model.
    ToolCall {
        /// By which its result will name it.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// The tool.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The text that the model wrote, JSON as a rule. Where the format gives an object instead of a text, that object,
        /// written anew.
        arguments: String,
        /// Whether the provider carries it out.
        #[serde(skip_serializing_if = "is_false")]
        by_provider: bool,
        /// The members that have no place above, as they came.
        #[serde(skip_serializing_if = "Map::is_empty")]
        other: Map<String, Value>,
    },
    /// The result of a tool.
    ToolResult {
        /// The call that it answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// The tool.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// What it yielded.
        parts: Vec<Self>,
        /// Whether the tool failed, if that is said.
        #[serde(skip_serializing_if = "Option::is_none")]
        is_error: Option<bool>,
        /// The members that have no place above, as they came.
        #[serde(skip_serializing_if = "Map::is_empty")]
        other: Map<String, Value>,
    },
    /// What has no place above, as it came.
    Other {
        /// The part.
        raw: Value,
    },
}

/// Something that isn't text. Its bytes are in the record, not here.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Media {
    /// As given: `image/png`, or a short form such as `png` where the provider uses one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Its length when decoded, if it is in the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Where it is, if it isn't in the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// By which the provider knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_id: Option<String>,
    /// A file name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The members that have no place above, as they came.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub other: Map<String, Value>,
}

/// A tool that the model may call.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ToolDefinition {
    /// The tool; for one of the provider's own without a name, its type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// The members that have no place above, as they came.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub other: Map<String, Value>,
}

impl Exchange {
    /// The JSON form.
    #[must_use]
    pub fn to_json(&self) -> Value {
        // Maps have text keys and numbers are JSON's own, so nothing of it can fail.
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Brings a request and its answer into one form. Either may be missing. Bodies are as they were on the wire, compressed
/// or not, streamed or not.
///
/// Nothing here fails: what can't be read is said in `unparsed`, and the rest is there. The same bytes always give the
/// same view. Of a body of more than 32 MiB nothing is read; of a stream up to 16 MiB of text.
#[must_use]
pub fn exchange(
    api: &Api,
    request: Option<(&RequestHead, &[u8])>,
    response: Option<(&ResponseHead, &[u8])>,
) -> Exchange {
    let request = request.map(|(head, body)| asked(api, head, body));
    let streaming = request.as_ref().is_some_and(|asked| asked.stream);
    Exchange {
        version: EXCHANGE_VERSION,
        provider: api.provider.clone(),
        api: api.operation.as_str(),
        known: api.known,
        response: response.map(|(head, body)| answered(api, head, body, streaming)),
        request,
    }
}

/// A whole body as it was before its `Content-Encoding`. The answer is empty where nothing can be read, and says why where
/// not all of it can.
///
/// What is recorded is the body as it was sent; this is for whoever reads it. At most [`BODY_BYTES_MAX`] bytes.
#[must_use]
pub fn decoded_body(headers: &[(String, Vec<u8>)], body: &[u8]) -> (Vec<u8>, Option<String>) {
    decoded(headers, body)
}

/// Undoes the content encoding of a whole body.
fn decoded(headers: &[(String, Vec<u8>)], body: &[u8]) -> (Vec<u8>, Option<String>) {
    let mut decoder = Decoder::new(&head::list(headers, "content-encoding"));
    let mut decoded = Vec::new();
    let mut long = false;
    decoder.push(body, |piece| {
        long |= decoded.len() + piece.len() > BODY_BYTES_MAX;
        if !long {
            decoded.extend_from_slice(piece);
        }
    });
    let note = decoder
        .failure()
        .map(str::to_owned)
        .or_else(|| long.then(|| format!("body of more than {BODY_BYTES_MAX} bytes")));
    (decoded, note)
}

fn asked(api: &Api, head: &RequestHead, body: &[u8]) -> Asked {
    let mut asked = Asked::default();
    if !api.known {
        asked.unparsed = Some("the API is not known".to_owned());
        return asked;
    }
    let (text, note) = decoded(&head.headers, body);
    let (members, note) = match note {
        Some(_) => (Map::new(), note),
        None => request_members(head, &text),
    };
    asked.unparsed = note;
    api.format.asked(api, head, members, &mut asked);
    asked.other.retain(|_, value| !value.is_null());
    asked
}

/// The members of a request's body: of its JSON object, or the fields of its form.
pub(crate) fn request_members(
    head: &RequestHead,
    text: &[u8],
) -> (Map<String, Value>, Option<String>) {
    if text.is_empty() {
        return (Map::new(), None);
    }
    if let Some(boundary) = multipart::boundary(head) {
        return multipart::members(text, &boundary);
    }
    let document = json::document(text);
    (document.members, document.note)
}

fn answered(api: &Api, head: &ResponseHead, body: &[u8], streaming: bool) -> Answered {
    let mut answered = Answered {
        status: head.status,
        complete: true,
        ..Answered::default()
    };
    if !api.known {
        answered.unparsed = Some("the API is not known".to_owned());
        return answered;
    }
    let (text, note) = decoded(&head.headers, body);
    if let Some(note) = note {
        answered.unparsed = Some(note);
        answered.complete = false;
        return answered;
    }
    match form_of(api, head, streaming, &text) {
        Some(framing) => {
            answered.streamed = true;
            let mut assembler = api.format.assembler(api);
            let mut room = Room::default();
            let mut ended = false;
            let mut parser = framing.parser();
            let mut take = |event: &Event<'_>| {
                ended |= assembler.ends(event) || assembler.may_end(event);
                answered.truncated |= event.oversize;
                if !assembler.event(event, &mut room) {
                    answered.unreadable_events += 1;
                }
            };
            parser.push(&text, &mut take);
            if let Some(event) = parser.rest()
                && json::any(&event.data).is_some()
            {
                take(&event);
            }
            answered.complete = ended;
            answered.truncated |= room.cut;
            answered.unparsed = parser.failure();
            let whole = assembler.finish();
            api.format.answered(api, whole, &mut answered);
        }
        None => match json::top(&text) {
            _ if text.is_empty() => {}
            _ if is_binary(head) => {
                answered.messages.push(Message {
                    parts: vec![format::media_part(binary(head, text.len()))],
                    ..Message::default()
                });
            }
            (value, note) => {
                answered.unparsed = note;
                api.format.answered(api, value, &mut answered);
            }
        },
    }
    format::count(&mut answered);
    if answered.error.is_none() && answered.status >= 400 {
        answered.error = ["message", "detail"]
            .iter()
            .find_map(|name| format::take_text(&mut answered.other, name))
            .map(|message| ApiError {
                message: Some(message),
                ..ApiError::default()
            });
    }
    answered.other.retain(|_, value| !value.is_null());
    answered
}

/// Whether a body is no text at all.
pub(crate) fn is_binary(head: &ResponseHead) -> bool {
    let kind = head.content_type().unwrap_or_default();
    ["audio/", "image/", "video/"]
        .iter()
        .any(|start| kind.starts_with(start))
        || matches!(
            kind.as_str(),
            "application/octet-stream" | "application/pdf"
        )
}

fn binary(head: &ResponseHead, length: usize) -> Media {
    Media {
        media_type: head.content_type(),
        bytes: Some(length as u64),
        ..Media::default()
    }
}
