//! What a response answers.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::api::Api;
use crate::encoding::Decoder;
use crate::exchange::is_binary;
use crate::format::{self, Stream};
use crate::framing::{Event, Framing, Parser};
use crate::head::{self, ResponseHead};
use crate::json;
use crate::request::{api_attributes, model_ref};

/// Decoded bytes of a body that is read whole; of a longer one no facts are read.
pub const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of text and tool arguments gathered from one stream; what follows is dropped, and the facts say `truncated`.
pub const TEXT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Tool calls of one response.
pub(crate) const CALLS_MAX: usize = 1024;

/// Choices of one response; `OpenAI` allows 128.
pub(crate) const CHOICES_MAX: usize = 128;

/// Leading white space after which a response that may be either is taken for a stream.
const WHITE_SPACE_BYTES_MAX: usize = 1024;

/// How the exchange ended, as the transport saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The upstream sent its body to the end.
    Complete,
    /// The upstream broke off: reset, timeout, or fewer bytes than announced.
    UpstreamCut,
    /// The client went away.
    ClientGone,
    /// The door stopped the exchange.
    Stopped,
}

impl Outcome {
    /// The name in the attribute `audit.outcome`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::UpstreamCut => "cut_by_provider",
            Self::ClientGone => "cut_by_client",
            Self::Stopped => "cut_by_gateway",
        }
    }
}

/// How far a response has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Whether the event that ends the stream has been seen, in this push or before. Always `false` for a body that is
    /// no stream: there the caller holds back the last piece by itself.
    ///
    /// A client that reads line by line acts before the blank line comes, so an event counts as seen when the line that
    /// makes it terminal is there.
    pub terminal: bool,
    /// Leading bytes of this push that stand before the event from which on bytes are held back: they can be passed on at
    /// once. All of them while there is none. With a content encoding, none of the push that completes it.
    ///
    /// That event is the terminal one, or one that may be: some formats have no event that ends a stream, only events
    /// after which nothing need follow. If another event comes, what was held back is released.
    pub safe: usize,
    /// Whether what was held back of earlier pushes can be passed on, before this push.
    pub release: bool,
}

/// Tokens, as the provider counted them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Input tokens as given.
    pub input: Option<u64>,
    /// Output tokens as given.
    pub output: Option<u64>,
    /// Input tokens read from the provider's cache.
    pub cache_read: Option<u64>,
    /// Input tokens written to the provider's cache.
    pub cache_creation: Option<u64>,
    /// Output tokens spent on reasoning.
    pub reasoning: Option<u64>,
    /// The total, if the provider gave one.
    pub total: Option<u64>,
    /// Whether [`input`](Self::input) leaves out what was read from and written to the cache.
    pub input_excludes_cache: bool,
    /// Whether [`output`](Self::output) leaves out the tokens of reasoning by the format's rules.
    pub output_excludes_reasoning: bool,
}

impl Usage {
    /// All input tokens, cached ones included, as `gen_ai.usage.input_tokens` wants them.
    #[must_use]
    pub fn input_total(&self) -> Option<u64> {
        let cached = if self.input_excludes_cache {
            self.cache_read
                .unwrap_or(0)
                .saturating_add(self.cache_creation.unwrap_or(0))
        } else {
            0
        };
        self.input.map(|input| input.saturating_add(cached))
    }

    /// All output tokens, those of reasoning included, as `gen_ai.usage.output_tokens` wants them.
    ///
    /// Some providers leave reasoning out and don't say so; then their total does.
    #[must_use]
    pub fn output_total(&self) -> Option<u64> {
        let output = self.output.or(self
            .output_excludes_reasoning
            .then_some(0)
            .filter(|_| self.reasoning.is_some()))?;
        let reasoning = self.reasoning.unwrap_or(0);
        let both = self
            .input_total()
            .and_then(|input| input.checked_add(output)?.checked_add(reasoning));
        let left_out = self.output_excludes_reasoning || (both.is_some() && both == self.total);
        Some(if left_out {
            output.saturating_add(reasoning)
        } else {
            output
        })
    }
}

/// Who carries out a tool call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ToolSide {
    /// The client, who hands the result back in a later request.
    Client,
    /// The provider, within the response: web search, code interpreter, remote MCP.
    Provider,
}

/// A tool call that the model made.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ToolCall {
    /// By which its result will name it.
    pub id: Option<String>,
    /// The tool.
    pub name: Option<String>,
    /// As the model wrote them: JSON as a rule, though nothing guarantees it. Only where a format gives an object in place
    /// of a text, and for the provider's own tools, it may be written anew.
    pub arguments: String,
    /// Who carries it out.
    pub side: ToolSide,
}

impl fmt::Debug for ToolCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolCall")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("arguments_bytes", &self.arguments.len())
            .field("side", &self.side)
            .finish()
    }
}

impl ToolCall {
    /// Attributes of an event about this call. The arguments aren't among them; they are a payload's business.
    #[must_use]
    pub fn attributes(&self) -> Map<String, Value> {
        let mut attributes = crate::attributes::Attributes::default();
        attributes.set("gen_ai.operation.name", Some("execute_tool"));
        attributes.set("gen_ai.tool.name", self.name.clone());
        attributes.set("gen_ai.tool.call.id", self.id.clone());
        let kind = match self.side {
            ToolSide::Client => "function",
            ToolSide::Provider => "extension",
        };
        attributes.set("gen_ai.tool.type", Some(kind));
        attributes.finish()
    }
}

/// The provider's error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ApiError {
    /// Its class, such as `invalid_request_error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// A code within the class, such as `model_not_found`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a response answers.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; no two exclude each other"
)]
pub struct ResponseFacts {
    /// The API.
    pub api: Api,
    /// The HTTP status.
    pub status: u16,
    /// How the exchange ended.
    pub outcome: Outcome,
    /// Whether it came as a stream of events.
    pub streamed: bool,
    /// Whether all of it came: the transport ended well, and a stream had its terminal event.
    pub complete: bool,
    /// The response's id.
    pub id: Option<String>,
    /// The model that answered.
    pub model: Option<String>,
    /// What the provider calls the request, from a header.
    pub provider_request_id: Option<String>,
    /// Tokens.
    pub usage: Usage,
    /// Tokens counted by an operation that only counts.
    pub counted_tokens: Option<u64>,
    /// Why the model stopped, per choice, in the provider's words. `OpenAI`'s responses have none: there it is the
    /// status, or the reason of an incomplete one.
    pub finish_reasons: Vec<String>,
    /// Whether the model refused, where the format says so apart from the text.
    pub refused: bool,
    /// Tool calls, in their order.
    pub tool_calls: Vec<ToolCall>,
    /// The text of each choice, reassembled.
    pub texts: Vec<String>,
    /// The service tier that answered.
    pub service_tier: Option<String>,
    /// `OpenAI`'s fingerprint of the backend.
    pub system_fingerprint: Option<String>,
    /// The provider's error.
    pub error: Option<ApiError>,
    /// Events that could not be read.
    pub unreadable_events: u64,
    /// Whether a limit was reached, so that text or tool calls are missing here (in the record they are not).
    pub truncated: bool,
    /// Why the body could not be read, or not in full.
    pub unparsed: Option<String>,
}

impl fmt::Debug for ResponseFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Text is content, and doesn't belong into debug output.
        f.debug_struct("ResponseFacts")
            .field("api", &self.api)
            .field("status", &self.status)
            .field("complete", &self.complete)
            .field("model", &self.model)
            .field("usage", &self.usage)
            .field("finish_reasons", &self.finish_reasons)
            .field("tool_calls", &self.tool_calls)
            .field("unparsed", &self.unparsed)
            .finish_non_exhaustive()
    }
}

impl ResponseFacts {
    /// The text of the first choice.
    #[must_use]
    pub fn text(&self) -> &str {
        self.texts.first().map_or("", String::as_str)
    }

    /// The facts as attributes, in OpenTelemetry's `GenAI` names where one exists.
    #[must_use]
    pub fn attributes(&self) -> Map<String, Value> {
        let mut attributes = api_attributes(&self.api);
        attributes.set("http.response.status_code", Some(self.status));
        attributes.set("audit.outcome", Some(self.outcome.as_str()));
        attributes.set("audit.response.complete", Some(self.complete));
        attributes.set("audit.response.streamed", self.streamed.then_some(true));
        attributes.set("gen_ai.response.id", self.id.clone());
        attributes.set("gen_ai.response.model", self.model.clone());
        attributes.set_list(
            "gen_ai.response.finish_reasons",
            texts(&self.finish_reasons),
        );
        let usage = &self.usage;
        attributes.set("gen_ai.usage.input_tokens", usage.input_total());
        attributes.set("gen_ai.usage.output_tokens", usage.output_total());
        attributes.set("gen_ai.usage.cache_read.input_tokens", usage.cache_read);
        attributes.set(
            "gen_ai.usage.cache_creation.input_tokens",
            usage.cache_creation,
        );
        attributes.set("gen_ai.usage.reasoning.output_tokens", usage.reasoning);
        attributes.set("audit.usage.total_tokens", usage.total);
        attributes.set("audit.response.counted_tokens", self.counted_tokens);
        attributes.set("audit.response.refused", self.refused.then_some(true));
        attributes.set_list(
            "audit.response.tool_calls",
            self.tool_calls
                .iter()
                .map(|call| {
                    let mut named = call.attributes();
                    // The event is about the answer; the call is carried out by whoever gets it.
                    named.remove("gen_ai.operation.name");
                    Value::Object(named)
                })
                .collect(),
        );
        if self.api.format.name() == "openai" {
            attributes.set("openai.response.service_tier", self.service_tier.clone());
            attributes.set(
                "openai.response.system_fingerprint",
                self.system_fingerprint.clone(),
            );
        }
        attributes.set("error.type", self.error_type());
        if let Some(error) = &self.error {
            attributes.set("audit.error.code", error.code.clone());
            attributes.set("audit.error.message", error.message.clone());
        }
        let unreadable = Some(self.unreadable_events).filter(|n| *n > 0);
        attributes.set("audit.response.unreadable_events", unreadable);
        attributes.set("audit.response.truncated", self.truncated.then_some(true));
        attributes.set("audit.response.unparsed", self.unparsed.clone());
        attributes.finish()
    }

    /// What the event refers to: `model_id`, the model that answered.
    #[must_use]
    pub fn refs(&self) -> BTreeMap<String, String> {
        model_ref(self.model.as_deref())
    }

    /// The provider's word for the error, else the status, else how the transport ended, else that the end is missing.
    fn error_type(&self) -> Option<String> {
        let given = self
            .error
            .as_ref()
            .and_then(|error| error.kind.clone().or_else(|| error.code.clone()));
        given
            .or_else(|| (self.status >= 400).then(|| self.status.to_string()))
            .or_else(|| self.error.is_some().then(|| "_OTHER".to_owned()))
            .or_else(|| {
                (self.outcome != Outcome::Complete).then(|| self.outcome.as_str().to_owned())
            })
            .or_else(|| (!self.complete).then(|| "incomplete".to_owned()))
    }

    /// Counts an event that could not be read.
    pub(crate) fn note_event(&mut self, event: &Event<'_>) {
        self.unreadable_events += 1;
        self.truncated |= event.oversize;
    }
}

fn texts(values: &[String]) -> Vec<Value> {
    values.iter().map(|v| Value::from(v.as_str())).collect()
}

/// What may still be gathered from a stream.
#[derive(Debug)]
pub(crate) struct Room {
    left: usize,
    /// Something was dropped.
    pub(crate) cut: bool,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            left: TEXT_BYTES_MAX,
            cut: false,
        }
    }
}

impl Room {
    /// Whether `length` more bytes may be kept; they are counted.
    pub(crate) fn take(&mut self, length: usize) -> bool {
        if self.cut || length > self.left {
            self.cut = true;
            return false;
        }
        self.left -= length;
        true
    }

    /// What was kept is gone.
    pub(crate) fn give(&mut self, length: usize) {
        self.left = self.left.saturating_add(length).min(TEXT_BYTES_MAX);
    }

    pub(crate) fn append(&mut self, target: &mut String, text: &str) {
        // Once cut, always cut: text after a hole would read as if it belonged together.
        if self.cut || text.len() > self.left {
            self.cut |= !text.is_empty();
            return;
        }
        self.left -= text.len();
        target.push_str(text);
    }
}

/// Reads a response as it comes.
///
/// Memory is bounded: [`BODY_BYTES_MAX`] for a body that is no stream, else [`TEXT_BYTES_MAX`] and two events of
/// [`EVENT_BYTES_MAX`](crate::sse::EVENT_BYTES_MAX). Beyond that it goes on without gathering, and never fails.
pub struct ResponseParser {
    decoder: Decoder,
    reading: Reading,
    /// Bytes pushed before.
    position: u64,
}

impl fmt::Debug for ResponseParser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseParser")
            .field("position", &self.position)
            .field("facts", &self.reading.facts)
            .finish_non_exhaustive()
    }
}

impl ResponseParser {
    /// A parser for the response with this head; `streaming` is what the request asked for.
    ///
    /// Whether it is a stream is decided by its content type, and in doubt by its first byte.
    #[must_use]
    pub fn new(api: &Api, head: &ResponseHead, streaming: bool) -> Self {
        let form = match head.content_type().as_deref().and_then(Framing::of) {
            // Some servers call an error a stream that isn't one.
            Some(Framing::Sse) if head.status >= 400 => Form::Undecided(Vec::new()),
            Some(framing) if api.known || framing == Framing::Sse => Form::stream(api, framing),
            _ if is_binary(head) || (!api.known && head.status < 400) => Form::Ignored,
            _ if streaming && head.status < 400 => Form::Undecided(Vec::new()),
            _ => Form::Body(Vec::new()),
        };
        let facts = ResponseFacts {
            api: api.clone(),
            status: head.status,
            outcome: Outcome::Stopped,
            streamed: false,
            complete: false,
            id: None,
            model: None,
            provider_request_id: ["x-request-id", "request-id", "x-amzn-requestid"]
                .iter()
                .find_map(|name| head.header(name))
                .map(|id| String::from_utf8_lossy(id).into_owned()),
            usage: Usage::default(),
            counted_tokens: None,
            finish_reasons: Vec::new(),
            refused: false,
            tool_calls: Vec::new(),
            texts: Vec::new(),
            service_tier: None,
            system_fingerprint: None,
            error: None,
            unreadable_events: 0,
            truncated: false,
            unparsed: None,
        };
        Self {
            decoder: Decoder::new(&head::list(&head.headers, "content-encoding")),
            reading: Reading {
                form,
                facts,
                room: Room::default(),
                hold: Hold::default(),
                ended: false,
            },
            position: 0,
        }
    }

    /// Takes the next bytes, as they were on the wire.
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        let before = self.reading.hold;
        let Self {
            decoder, reading, ..
        } = self;
        decoder.push(bytes, |decoded| reading.take(decoded));
        let hold = self.reading.hold;
        let (safe, release) = match hold.at() {
            None => (bytes.len(), true),
            Some(at) if before.at() == Some(at) => (0, false),
            // Encoded bytes can't be told apart, so the whole push waits.
            Some(_) if !self.decoder.is_identity() => (0, true),
            Some(at) => {
                let safe = usize::try_from(at.saturating_sub(self.position)).unwrap_or(usize::MAX);
                // The event began in an earlier push, of which nothing was held back: it didn't look like one yet.
                (safe, at >= self.position || before.at().is_none())
            }
        };
        self.position += bytes.len() as u64;
        Progress {
            terminal: hold.terminal.is_some(),
            safe: safe.min(bytes.len()),
            release,
        }
    }

    /// Ends the response and yields its facts.
    #[must_use]
    pub fn finish(self, outcome: Outcome) -> ResponseFacts {
        let Reading {
            form,
            mut facts,
            mut room,
            mut ended,
            ..
        } = self.reading;
        facts.outcome = outcome;
        facts.complete = outcome == Outcome::Complete;
        facts.truncated |= room.cut;
        if let Some(failure) = self.decoder.failure() {
            facts.unparsed = Some(failure.to_owned());
        }
        match form {
            Form::Stream(parser, mut reader) => {
                facts.streamed = true;
                if let Some(failure) = parser.failure() {
                    facts.unparsed.get_or_insert(failure);
                }
                // The standard drops an event without its blank line; many clients don't, so neither do the facts.
                if let Some(event) = parser.rest() {
                    ended |= reader.ends(&event) || reader.may_end(&event);
                    if json::any(&event.data).is_some() {
                        reader.event(&event, &mut facts, &mut room);
                        facts.truncated |= room.cut;
                    }
                }
                // What couldn't be decoded can't be judged by its events.
                if reader.has_end() && self.decoder.failure().is_none() {
                    facts.complete &= ended;
                }
                reader.finish(&mut facts);
            }
            Form::Body(body) if facts.unparsed.is_none() && !body.is_empty() => {
                read_body(&body, &mut facts);
            }
            Form::Body(_) | Form::Undecided(_) | Form::Ignored => {}
        }
        facts
    }
}

fn read_body(body: &[u8], facts: &mut ResponseFacts) {
    let (value, note) = json::top(body);
    facts.unparsed = note;
    let api = facts.api.clone();
    api.format.response(&api, &value, body, facts);
    if facts.error.is_none() && facts.status >= 400 {
        facts.error = format::error(&value).or_else(|| {
            ["message", "detail"]
                .iter()
                .find_map(|name| json::string(&value, name))
                .map(|message| ApiError {
                    message: Some(message),
                    ..ApiError::default()
                })
        });
    }
}

struct Reading {
    form: Form,
    facts: ResponseFacts,
    room: Room,
    hold: Hold,
    /// The terminal event has come whole.
    ended: bool,
}

/// Where in the decoded bytes the event starts from which on bytes are held back. What a client may act on is held back
/// as far as it has come, even if the rest of its line makes something else of it.
#[derive(Debug, Clone, Copy, Default)]
struct Hold {
    /// The terminal event.
    terminal: Option<u64>,
    /// An event that is the last one unless another follows.
    last: Option<u64>,
}

impl Hold {
    fn at(self) -> Option<u64> {
        match (self.terminal, self.last) {
            (Some(terminal), Some(last)) => Some(terminal.min(last)),
            (terminal, last) => terminal.or(last),
        }
    }
}

/// How the body of a response is framed, if it is a stream.
pub(crate) fn form_of(
    api: &Api,
    head: &ResponseHead,
    streaming: bool,
    body: &[u8],
) -> Option<Framing> {
    match head.content_type().as_deref().and_then(Framing::of) {
        Some(Framing::Sse) if head.status >= 400 => {}
        Some(framing) => return Some(framing),
        None if !streaming || head.status >= 400 || is_binary(head) => return None,
        None => {}
    }
    let first = body.iter().find(|b| !b.is_ascii_whitespace())?;
    api.format.framing(api, *first)
}

enum Form {
    /// A stream was asked for, and the content type doesn't say that it is one.
    ///
    /// Holds the white space that has come so far.
    Undecided(Vec<u8>),
    Stream(Parser, Box<dyn Stream>),
    Body(Vec<u8>),
    Ignored,
}

impl Form {
    fn stream(api: &Api, framing: Framing) -> Self {
        Self::Stream(framing.parser(), api.format.stream(api))
    }
}

impl Reading {
    fn take(&mut self, decoded: &[u8]) {
        if let Form::Undecided(held) = &mut self.form {
            held.extend_from_slice(decoded);
            let white = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
            let first = held.iter().find(|b| !white(b));
            let form = match first {
                None if held.len() <= WHITE_SPACE_BYTES_MAX => return,
                first => {
                    let api = &self.facts.api;
                    match api.format.framing(api, first.copied().unwrap_or_default()) {
                        Some(framing) => Form::stream(api, framing),
                        None => Form::Body(Vec::new()),
                    }
                }
            };
            let held = std::mem::take(held);
            self.form = form;
            return self.take(&held);
        }
        match &mut self.form {
            Form::Stream(parser, reader) => {
                let (facts, room, hold) = (&mut self.facts, &mut self.room, &mut self.hold);
                let ended = &mut self.ended;
                parser.push(decoded, |event| {
                    if reader.ends(event) {
                        *ended = true;
                        hold.terminal.get_or_insert(event.start);
                    }
                    hold.last = reader.may_end(event).then_some(event.start);
                    *ended |= hold.last.is_some();
                    facts.truncated |= event.oversize;
                    reader.event(event, facts, room);
                });
                if hold.terminal.is_none()
                    && let Some(event) = parser.pending()
                {
                    if reader.ends(&event) {
                        hold.terminal = Some(event.start);
                    } else if reader.may_end(&event) {
                        hold.last.get_or_insert(event.start);
                    }
                }
            }
            Form::Body(body) => {
                if body.len() + decoded.len() > BODY_BYTES_MAX {
                    self.facts.truncated = true;
                    self.facts.unparsed = Some(format!("body of more than {BODY_BYTES_MAX} bytes"));
                    self.form = Form::Ignored;
                } else {
                    body.extend_from_slice(decoded);
                }
            }
            Form::Undecided(_) | Form::Ignored => {}
        }
    }
}
