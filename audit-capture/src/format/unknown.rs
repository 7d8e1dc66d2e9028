//! What can be said of an exchange in no known format.

use serde_json::{Map, Value};

use super::{Assembler, Format, Room, Stream};
use crate::api::Api;
use crate::exchange::{Answered, Asked};
use crate::framing::Event;
use crate::head::RequestHead;
use crate::request::RequestFacts;
use crate::response::ResponseFacts;

/// No known format.
pub(crate) struct Unknown;

impl Format for Unknown {
    fn name(&self) -> &'static str {
        "unknown"
    }

    fn request(&self, _: &Api, _: &RequestHead, _: &Value, _: &mut RequestFacts) {}

    fn response(&self, _: &Api, _: &Value, _: &[u8], _: &mut ResponseFacts) {}

    fn stream(&self, _: &Api) -> Box<dyn Stream> {
        Box::new(UnknownStream)
    }

    fn asked(&self, _: &Api, _: &RequestHead, members: Map<String, Value>, asked: &mut Asked) {
        asked.other = members;
    }

    fn answered(&self, _: &Api, body: Value, answered: &mut Answered) {
        answered.other.insert("body".to_owned(), body);
    }

    fn assembler(&self, _: &Api) -> Box<dyn Assembler> {
        Box::new(NoStream)
    }
}

/// Nothing is known of its events, except that `[DONE]` ends many a stream.
struct UnknownStream;

impl Stream for UnknownStream {
    fn ends(&self, event: &Event<'_>) -> bool {
        event.data.trim() == "[DONE]"
    }

    fn event(&mut self, _: &Event<'_>, _: &mut ResponseFacts, _: &mut Room) {}

    fn finish(self: Box<Self>, _: &mut ResponseFacts) {}

    fn has_end(&self) -> bool {
        false
    }
}

/// For a format that has no streams: if one comes all the same, nothing is read of it.
pub(crate) struct NoStream;

impl Assembler for NoStream {
    fn ends(&self, event: &Event<'_>) -> bool {
        event.data.trim() == "[DONE]"
    }

    fn event(&mut self, _: &Event<'_>, _: &mut Room) -> bool {
        true
    }

    fn finish(self: Box<Self>) -> Value {
        Value::Null
    }
}
