//! Both events of an exchange, in one form.

use audit_capture::credentials::kept_bytes;
use audit_capture::{RequestHead, ResponseHead, detect};
use audit_core::event::{Event, Kind};
use audit_core::reader::{Filter, LogReader, Record, RecordContent};
use serde_json::{Value, json};

use crate::error::{CliError, Result};

const REQUEST: &str = "llm.request";
const RESPONSE: &str = "llm.response";

/// Answers looked at, one page after the other.
const PAGE: usize = 256;

/// The exchange that a request or an answer belongs to; the other one is found through the answer's parent event.
pub(super) async fn of(reader: &LogReader, record: &Record) -> Result<Value> {
    let event = open(record)?;
    let (request, response) = match event.kind.as_str() {
        REQUEST => {
            let answer = answer_to(reader, event, record.index).await?;
            (Some(event.clone()), answer)
        }
        RESPONSE => (request_of(reader, event).await?, Some(event.clone())),
        other => {
            return Err(
                CliError::new(format!("event {} is of the kind {other}", event.id)).hint(format!(
                    "an exchange has the kinds {REQUEST} and {RESPONSE}"
                )),
            );
        }
    };
    Ok(view(request.as_ref(), response.as_ref()))
}

fn open(record: &Record) -> Result<&Event> {
    match &record.content {
        RecordContent::Open(opened) => Ok(&opened.event),
        _ => Err(CliError::new(format!(
            "event {} has no content that can be read",
            record.entry.event
        ))),
    }
}

async fn request_of(reader: &LogReader, answer: &Event) -> Result<Option<Event>> {
    let parent = answer.correlation.as_ref().and_then(|c| c.parent_event);
    let Some(parent) = parent else {
        return Ok(None);
    };
    let Some(index) = reader.position(parent).await? else {
        return Ok(None);
    };
    // Its content may have been erased; the answer is shown without it then.
    Ok(open(&reader.record(index).await?).ok().cloned())
}

async fn answer_to(reader: &LogReader, request: &Event, index: u64) -> Result<Option<Event>> {
    let size = reader.size().await?;
    let filter = Filter {
        session: request.session_id.clone(),
        kind: Some(Kind::new(RESPONSE)?),
        ..Filter::default()
    };
    let mut from = index + 1;
    loop {
        let found = reader.find(&filter, from..size, false, PAGE).await?;
        for at in &found {
            let record = reader.record(*at).await?;
            if let Ok(event) = open(&record)
                && event.correlation.as_ref().and_then(|c| c.parent_event) == Some(request.id)
            {
                return Ok(Some(event.clone()));
            }
        }
        match found.last() {
            Some(last) if found.len() == PAGE => from = last + 1,
            _ => return Ok(None),
        }
    }
}

fn view(request: Option<&Event>, response: Option<&Event>) -> Value {
    let text = |event: Option<&Event>, name: &str| -> Option<String> {
        Some(event?.attributes.get(name)?.as_str()?.to_owned())
    };
    let method = text(request, "http.request.method");
    let mut target = text(request, "url.path").unwrap_or_default();
    if let Some(query) = text(request, "url.query") {
        target = format!("{target}?{query}");
    }
    // What the request was taken for when it was recorded; and what its upstream is called, for a provider that wasn't
    // known then.
    let provider = text(request, "gen_ai.provider.name")
        .or_else(|| text(response, "gen_ai.provider.name"))
        .or_else(|| text(request, "audit.upstream"));
    let api = detect(
        provider.as_deref(),
        text(request, "server.address").as_deref(),
        method.as_deref().unwrap_or_default(),
        &target,
    );
    let asked = request.map(|event| {
        let head = RequestHead::new(
            method.unwrap_or_default(),
            target,
            headers(event, "http.request.header"),
        );
        (head, body(event, "request.body"))
    });
    let status = response
        .and_then(|event| event.attributes.get("http.response.status_code")?.as_u64())
        .and_then(|status| u16::try_from(status).ok());
    let answered = response.zip(status).map(|(event, status)| {
        let head = ResponseHead::new(status, headers(event, "http.response.header"));
        (head, body(event, "response.body"))
    });
    let mut shown = audit_capture::exchange(
        &api,
        asked.as_ref().map(|(head, body)| (head, *body)),
        answered.as_ref().map(|(head, body)| (head, *body)),
    )
    .to_json();
    let event = |event: Option<&Event>| {
        event.map(|event| {
            json!({
                "id": event.id,
                "time": event.time,
                "outcome": event.attributes.get("audit.outcome"),
                "body_truncated": event.attributes.get("audit.response.body_truncated"),
            })
        })
    };
    shown["events"] = json!({ "request": event(request), "response": event(response) });
    shown
}

/// The headers that say how a recorded body is to be read.
pub(super) fn headers(event: &Event, name: &str) -> Vec<(String, Vec<u8>)> {
    let body = match name {
        "http.request.header" => "payloads/request.body",
        _ => "payloads/response.body",
    };
    // Where redaction found something in a compressed body, it is recorded decoded; the header still says what was sent.
    let decoded = event.attributes.get("audit.redaction.decoded");
    let decoded = decoded
        .and_then(Value::as_array)
        .is_some_and(|fields| fields.iter().any(|field| field == body));
    let pairs = event.attributes.get(name).and_then(Value::as_array);
    pairs
        .into_iter()
        .flatten()
        .filter_map(|pair| {
            let name = pair.get(0)?.as_str()?.to_owned();
            Some((name, kept_bytes(pair.get(1)?.as_str()?)))
        })
        .filter(|(name, _)| !(decoded && name.eq_ignore_ascii_case("content-encoding")))
        .collect()
}

fn body<'e>(event: &'e Event, name: &str) -> &'e [u8] {
    event
        .payloads
        .iter()
        .find(|payload| payload.name == name)
        .map(|payload| payload.bytes.as_slice())
        .unwrap_or_default()
}
