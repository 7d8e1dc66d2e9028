//! Objects that a provider keeps, such as files and batches: an id, maybe a model, and members of their own.

use serde_json::{Map, Value};

use super::chat::{self, parted};
use super::{Assembler, Format, parts_of, take_text};
use crate::api::Api;
use crate::exchange::{Answered, Asked};
use crate::head::RequestHead;

/// The format.
pub(crate) struct Objects;

impl Format for Objects {
    fn name(&self) -> &'static str {
        "objects"
    }

    fn asked(&self, _: &Api, _: &RequestHead, mut members: Map<String, Value>, asked: &mut Asked) {
        asked.model = take_text(&mut members, "model");
        if let Some(file) = members.remove("file") {
            asked.messages.push(parted(parts_of(file, chat::part)));
        }
        asked.tools = chat::tools(&mut members);
        if let Some(text) = take_text(&mut members, "instructions") {
            asked.instructions.push(super::text_part(text));
        }
        asked.other = members;
    }

    fn answered(&self, _: &Api, body: Value, answered: &mut Answered) {
        let Some(mut members) = super::members_of(body, answered) else {
            return;
        };
        answered.id = take_text(&mut members, "id");
        answered.model = take_text(&mut members, "model");
        answered.other = members;
    }

    fn assembler(&self, _: &Api) -> Box<dyn Assembler> {
        Box::new(super::unknown::NoStream)
    }
}
