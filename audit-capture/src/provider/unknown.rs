//! What can be said of an exchange in no known format.

use serde_json::Value;

use super::{Provider, Stream};
use crate::api::{Api, Route};
use crate::head::RequestHead;
use crate::request::RequestFacts;
use crate::response::{ResponseFacts, Room};
use crate::sse::Event;

/// No known provider.
#[derive(Debug)]
pub(crate) struct Unknown;

impl Provider for Unknown {
    fn name(&self) -> &'static str {
        "unknown"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }

    fn hosts(&self) -> &'static [&'static str] {
        &[]
    }

    fn routes(&self) -> &'static [Route] {
        &[]
    }

    fn request(&self, _: &Api, _: &RequestHead, _: &Value, _: &mut RequestFacts) {}

    fn response(&self, _: &Api, _: &Value, _: &[u8], _: &mut ResponseFacts) {}

    fn stream(&self, _: &Api) -> Box<dyn Stream> {
        Box::new(UnknownStream)
    }
}

/// Nothing is known of its events, except that `[DONE]` ends many a stream.
#[derive(Debug)]
pub(crate) struct UnknownStream;

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
