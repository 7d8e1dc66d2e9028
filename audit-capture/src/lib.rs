//! Provider wire formats turned into facts for audit events.
//!
//! *In scope*: telling which API a request is for, reading what a request asks and what a response answers (whole or
//! streamed, plain or compressed), naming those facts as OpenTelemetry's `GenAI` conventions do, bringing an exchange into
//! one form whoever the provider is, and keeping credentials out of what is recorded.
//! *Out of scope*: moving bytes. This crate is synchronous, opens no connection, reads no clock, and never changes a
//! body: what is recorded is the bytes as they were on the wire, and these facts stand beside them.
//!
//! Nothing here fails. A body that can't be read yields the facts that are known, and a sentence in `unparsed` that says
//! why; the record is never lost for it. Nothing here trusts its input either: every parser has a stated limit.
//!
//! ```
//! use audit_capture::{Operation, Outcome, RequestHead, ResponseHead, ResponseParser, detect, request_facts};
//!
//! let head = RequestHead::new("POST", "/v1/chat/completions", vec![]);
//! let api = detect(Some("openai"), None, &head.method, &head.path_and_query);
//! assert_eq!(api.operation, Operation::Chat);
//!
//! let asked = request_facts(&api, &head, br#"{"model":"gpt-5","stream":true,"messages":[]}"#);
//! assert_eq!(asked.model.as_deref(), Some("gpt-5"));
//!
//! let headers = vec![("content-type".to_owned(), b"text/event-stream".to_vec())];
//! let mut parser = ResponseParser::new(&api, &ResponseHead::new(200, headers), asked.stream);
//! let text = b"data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}]}\n\n";
//! assert!(!parser.push(text).terminal);
//! // From `safe` on the gateway holds the bytes back until the record is durable.
//! let progress = parser.push(b"data: [DONE]\n\n");
//! assert!(progress.terminal);
//! assert_eq!(progress.safe, 0);
//!
//! let answered = parser.finish(Outcome::Complete);
//! assert!(answered.complete);
//! assert_eq!(answered.text(), "Hi");
//! assert_eq!(answered.attributes()["gen_ai.response.finish_reasons"][0], "stop");
//! ```
//!
//! Facts are few, and cheap enough to be read while an answer passes. [`exchange()`] makes a view of everything, from the
//! recorded bytes, when somebody wants to see it:
//!
//! ```
//! use audit_capture::{Part, RequestHead, ResponseHead, detect, exchange};
//!
//! let head = RequestHead::new("POST", "/v1beta/models/gemini-x:generateContent", vec![]);
//! let api = detect(Some("gemini"), None, &head.method, &head.path_and_query);
//! let asked = br#"{"contents":[{"role":"user","parts":[{"text":"Beds?"}]}]}"#;
//! let answered = br#"{"candidates":[{"content":{"parts":[{"text":"Twelve"}]},"finishReason":"STOP"}]}"#;
//! let view = exchange(&api, Some((&head, asked)), Some((&ResponseHead::new(200, vec![]), answered)));
//!
//! let message = &view.response.as_ref().unwrap().messages[0];
//! assert!(matches!(&message.parts[0], Part::Text { text, .. } if text == "Twelve"));
//! assert_eq!(view.to_json()["request"]["model"], "gemini-x");
//! ```

mod add;
mod api;
mod attributes;
pub mod credentials;
mod encoding;
mod exchange;
mod format;
mod framing;
mod head;
mod hosts;
mod json;
mod multipart;
mod passing;
mod provider;
pub mod redaction;
mod request;
mod response;

pub use add::add_facts;
pub use api::{Api, Operation, detect};
pub use encoding::DECODED_BYTES_MAX;
pub use exchange::{
    Answered, Asked, EXCHANGE_VERSION, Exchange, Media, Message, Part, Tokens, ToolDefinition,
    decoded_body, exchange,
};
pub use framing::{eventstream, json_array, ndjson, sse};
pub use head::{RequestHead, ResponseHead};
pub use hosts::provider_hosts;
pub use passing::{INLINE_BYTES_MAX, Reader, Recording, is_streamed, traceparent};
pub use provider::base_urls;
pub use request::{IDS_MAX, RequestFacts, ToolResult, request_facts};
pub use response::{
    ApiError, BODY_BYTES_MAX, Outcome, Progress, ResponseFacts, ResponseParser, TEXT_BYTES_MAX,
    ToolCall, ToolSide, Usage,
};
