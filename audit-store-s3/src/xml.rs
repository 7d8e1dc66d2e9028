//! The little XML that S3 speaks.

use audit_core::{Error, Result};
use quick_xml::Reader;
use quick_xml::events::Event;

/// Answers are a thousand keys at most; this is far above them.
pub(crate) const XML_BYTES_MAX: usize = 16 * 1024 * 1024;
const DEPTH_MAX: usize = 16;

/// An element: its name without namespace, its text, and what is in it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Node {
    name: String,
    text: String,
    children: Vec<Self>,
}

impl Node {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = |how: String| Error::corrupt(format!("the server's answer {how}"));
        if bytes.len() > XML_BYTES_MAX {
            return Err(wrong(format!("has {} bytes", bytes.len())));
        }
        let text =
            std::str::from_utf8(bytes).map_err(|e| wrong("is not text".to_owned()).because(e))?;
        let mut reader = Reader::from_str(text);
        let mut open = vec![Self::default()];
        loop {
            match reader
                .read_event()
                .map_err(|e| wrong("is no XML".to_owned()).because(e))?
            {
                Event::Start(start) => {
                    if open.len() > DEPTH_MAX {
                        return Err(wrong("is nested too deep".to_owned()));
                    }
                    let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
                    open.push(Self {
                        name,
                        ..Self::default()
                    });
                }
                Event::Empty(empty) => {
                    let name = String::from_utf8_lossy(empty.local_name().as_ref()).into_owned();
                    if let Some(parent) = open.last_mut() {
                        parent.children.push(Self {
                            name,
                            ..Self::default()
                        });
                    }
                }
                Event::Text(part) => {
                    let part = part
                        .decode()
                        .map_err(|e| wrong("is no XML".to_owned()).because(e))?;
                    if let Some(node) = open.last_mut() {
                        node.text.push_str(&part);
                    }
                }
                Event::CData(part) => {
                    let part = part
                        .decode()
                        .map_err(|e| wrong("is no XML".to_owned()).because(e))?;
                    if let Some(node) = open.last_mut() {
                        node.text.push_str(&part);
                    }
                }
                Event::GeneralRef(reference) => {
                    let name = reference
                        .decode()
                        .map_err(|e| wrong("is no XML".to_owned()).because(e))?;
                    let resolved = match &*name {
                        "amp" => Some('&'),
                        "lt" => Some('<'),
                        "gt" => Some('>'),
                        "quot" => Some('"'),
                        "apos" => Some('\''),
                        _ => reference.resolve_char_ref().ok().flatten(),
                    };
                    let resolved =
                        resolved.ok_or_else(|| wrong(format!("has an entity {name:?}")))?;
                    if let Some(node) = open.last_mut() {
                        node.text.push(resolved);
                    }
                }
                Event::End(_) => {
                    let node = open.pop();
                    let parent = open.last_mut();
                    let (Some(node), Some(parent)) = (node, parent) else {
                        return Err(wrong("is no XML".to_owned()));
                    };
                    parent.children.push(node);
                }
                Event::Eof => break,
                _ => {}
            }
        }
        let root = open.pop().filter(|_| open.is_empty());
        root.and_then(|root| root.children.into_iter().next())
            .ok_or_else(|| wrong("is cut off".to_owned()))
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name
    }

    pub(crate) fn children(&self) -> &[Self] {
        &self.children
    }

    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of a child; empty if it isn't there.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.child(name).map_or("", |child| child.text.trim())
    }
}
