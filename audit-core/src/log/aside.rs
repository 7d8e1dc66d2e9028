//! Events that wait outside of the log until it can be written (`docs/format.md` §14).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Log, Receipt, Shared, check_callers};
use crate::aead;
use crate::canonical;
use crate::error::{Error, Result};
use crate::event::{Content, Event, Kind, Media, PAYLOAD_BYTES_MAX, Payload};
use crate::label::{label, lp};
use crate::secret::SecretKey;
use crate::time::Timestamp;

/// What stands before the payloads' bytes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    content: Content,
    event: Uuid,
    kind: Kind,
    payloads: Vec<PayloadHead>,
    time: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PayloadHead {
    bytes: usize,
    media: Media,
    name: String,
}

impl Log {
    /// Seals an event as it would be recorded, for a place outside of the log; [`restore`](Self::restore) records it
    /// later. `context` is bound to it: whoever keeps several gives each its own, so that none stands for another.
    ///
    /// It may take long for a large event, so it belongs on a thread that may be busy.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for what [`append`](Self::append) would refuse as that.
    pub fn set_aside(&self, event: Arc<Event>, context: &[u8]) -> Result<Vec<u8>> {
        check_callers(&event)?;
        let event = self.shared.filtered(event)?;
        let head = canonical::to_vec(&Head {
            content: Content::of(&event),
            event: event.id,
            kind: event.kind.clone(),
            payloads: event
                .payloads
                .iter()
                .map(|payload| PayloadHead {
                    bytes: payload.bytes.len(),
                    media: payload.media,
                    name: payload.name.clone(),
                })
                .collect(),
            time: event.time.to_string(),
        })?;
        let length = u32::try_from(head.len())
            .map_err(|e| Error::invalid("the event has too much content").because(e))?;
        let payloads = event.payloads.iter().map(|p| p.bytes.len()).sum::<usize>();
        let mut plain = Vec::with_capacity(4 + head.len() + payloads);
        plain.extend_from_slice(&length.to_be_bytes());
        plain.extend_from_slice(&head);
        for payload in &event.payloads {
            plain.extend_from_slice(&payload.bytes);
        }
        let shared = &self.shared;
        let ad = associated_data(shared.keys.origin(), context);
        Ok(aead::seal(&self.aside_key(), &ad, plain, &*shared.ids))
    }

    /// The id of an event that was set aside in this context.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if it isn't that: other bytes, another context, another log.
    pub fn set_aside_id(&self, sealed: &[u8], context: &[u8]) -> Result<Uuid> {
        self.taken_back(sealed, context).map(|event| event.id)
    }

    /// Records an event that was set aside in this context. One that is in the log already is no error: its position is
    /// known, and nothing is written.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if the bytes are not what was set aside; else as
    /// [`append`](Self::append).
    pub async fn restore(&self, sealed: &[u8], context: &[u8]) -> Result<Option<Receipt>> {
        let event = Arc::new(self.taken_back(sealed, context)?);
        // An append whose outcome was lost may have been durable all the same.
        if self.reader().position(event.id).await?.is_some() {
            return Ok(None);
        }
        // The filter has seen it.
        let as_it_is = |shared: &Shared, event: Arc<Event>| shared.draft(&event);
        let (draft, room) = self.sealed_by(Arc::clone(&event), false, as_it_is).await?;
        match self.hand_in(draft, room).await?.durable().await {
            Ok(receipt) => Ok(Some(receipt)),
            // It landed in between.
            Err(_) if matches!(self.reader().position(event.id).await, Ok(Some(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn taken_back(&self, sealed: &[u8], context: &[u8]) -> Result<Event> {
        let ad = associated_data(self.shared.keys.origin(), context);
        let wrong = |why: &str| Error::corrupt(format!("what was set aside {why}"));
        let plain = aead::open(&self.aside_key(), &ad, sealed)
            .ok_or_else(|| wrong("was changed, or belongs elsewhere"))?;
        let (length, rest) = plain
            .split_first_chunk::<4>()
            .ok_or_else(|| wrong("is cut off"))?;
        let length = usize::try_from(u32::from_be_bytes(*length))
            .ok()
            .filter(|n| *n <= rest.len())
            .ok_or_else(|| wrong("is cut off"))?;
        let (head, mut rest) = rest.split_at(length);
        // The parser's error isn't its source: it may quote content.
        let head: Head = serde_json::from_slice(head).map_err(|_e| wrong("can't be read"))?;
        let time = Timestamp::parse(&head.time)?;
        let mut event = Event::new(head.event, time, head.kind);
        for payload in head.payloads {
            let bytes = Some(payload.bytes)
                .filter(|n| *n <= PAYLOAD_BYTES_MAX)
                .and_then(|n| rest.split_at_checked(n));
            let (bytes, behind) = bytes.ok_or_else(|| wrong("is cut off"))?;
            rest = behind;
            event
                .payloads
                .push(Payload::new(payload.name, payload.media, bytes.to_vec()));
        }
        if !rest.is_empty() {
            return Err(wrong("is longer than it says"));
        }
        event.actor = head.content.actor;
        event.attributes = head.content.attributes;
        event.capture = head.content.capture;
        event.correlation = head.content.correlation;
        event.on_behalf_of = head.content.on_behalf_of;
        event.refs = head.content.refs;
        event.session_id = head.content.session_id;
        event.subject = head.content.subject;
        event.system = head.content.system;
        event.check()?;
        Ok(event)
    }

    fn aside_key(&self) -> SecretKey {
        self.shared.keys.index_key().aside_key()
    }
}

fn associated_data(origin: &str, context: &[u8]) -> Vec<u8> {
    let mut ad = label("set-aside");
    ad.extend_from_slice(&lp(origin.as_bytes()));
    ad.extend_from_slice(context);
    ad
}
