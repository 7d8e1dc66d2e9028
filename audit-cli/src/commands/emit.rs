//! `audit-trail emit`.

use std::collections::VecDeque;

use audit_core::EVENT_JSON_BYTES_MAX;
use audit_core::entry::kinds;
use audit_core::event::{
    Actor, ActorKind, Capture, Event, Guarantee, Kind, Media, Payload, SystemRef,
};
use audit_core::log::{Log, Pending};
use audit_core::time::{IdSource as _, System, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::cli::{ActorSort, EmitArgs};
use crate::context::{Context, now};
use crate::error::{CliError, Result, chain};
use crate::output;

/// Events that wait for their acknowledgement at a time.
const WINDOW: usize = 256;

pub(crate) async fn run(context: &Context, args: EmitArgs) -> Result<u8> {
    if args.kind == "-" {
        let log = context.log().await?;
        let outcome = lines(&log).await;
        let closed = log.close().await;
        let code = outcome?;
        closed?;
        return Ok(code);
    }
    // The event is checked before the log is opened: a wrong call leaves no run behind.
    let event = event(args)?;
    let log = context.log().await?;
    let appended = log.append(event).await;
    let answer = match &appended {
        Ok(receipt) => output::line(json!({
            "event": receipt.event, "index": receipt.index, "leaf_hash": receipt.leaf_hash,
        })),
        Err(_) => Ok(()),
    };
    let closed = log.close().await;
    appended?;
    answer?;
    closed?;
    Ok(0)
}

fn event(args: EmitArgs) -> Result<Event> {
    let usage = |e: audit_core::Error| CliError::from(e).code(2);
    let time = args
        .time
        .as_deref()
        .map_or_else(|| Ok(now()), Timestamp::parse_rfc3339)
        .map_err(usage)?;
    let mut event = Event::new(
        System.uuid_v7(now()),
        time,
        Kind::new(args.kind).map_err(usage)?,
    );
    let kind = match args.actor_kind {
        ActorSort::Human => ActorKind::Human,
        ActorSort::Agent => ActorKind::Agent,
        ActorSort::Service => ActorKind::Service,
    };
    event.actor = args.actor.map(|id| Actor::new(kind, id));
    event.on_behalf_of = args.on_behalf_of.map(|id| Actor::new(ActorKind::Human, id));
    event.session_id = args.session;
    event.subject = args.subject;
    event.system = args.system.map(|id| SystemRef { id, version: None });
    event.capture = Some(Capture {
        component: "audit-trail emit".into(),
        guarantee: Guarantee::None,
        version: env!("CARGO_PKG_VERSION").into(),
    });
    for text in &args.refs {
        let (name, value) = super::pair("--ref", text)?;
        event.refs.insert(name.to_owned(), value.to_owned());
    }
    for text in &args.attributes {
        let (name, value) = super::pair("--attr", text)?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        event.attributes.insert(name.to_owned(), value);
    }
    for text in &args.payloads {
        let (name, path) = super::pair("--payload", text)?;
        let bytes = std::fs::read(path)
            .map_err(|e| CliError::because(format!("{path} can't be read"), &e).code(2))?;
        let media = match std::path::Path::new(path)
            .extension()
            .and_then(|e| e.to_str())
        {
            Some("json") => Media::Json,
            Some("jsonl" | "ndjson") => Media::NdJson,
            Some("txt" | "md") => Media::Text,
            _ => Media::Bytes,
        };
        event.payloads.push(Payload::new(name, media, bytes));
    }
    if kinds::ALL.contains(&event.kind.as_str()) {
        return Err(CliError::usage(format!(
            "kind {} is written by the log itself",
            event.kind
        )));
    }
    event.check().map_err(usage)?;
    Ok(event)
}

/// Every line is answered by one line, in order: a receipt, or what is wrong with it.
async fn lines(log: &Log) -> Result<u8> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut waiting: VecDeque<(u64, Result<Pending, audit_core::Error>)> = VecDeque::new();
    let mut failed = 0_u64;
    let mut number = 0_u64;
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = EVENT_JSON_BYTES_MAX as u64 + 1;
        // Whoever waits for an answer before writing the next line gets it before the next line is waited for.
        let read = {
            let mut limited = (&mut input).take(limit);
            let next = limited.read_until(b'\n', &mut line);
            tokio::pin!(next);
            loop {
                tokio::select! {
                    biased;
                    read = &mut next => break read,
                    answered = answer_first(&mut waiting), if !waiting.is_empty() => failed += answered?,
                }
            }
        };
        let read = read.map_err(|e| CliError::because("stdin can't be read", &e))?;
        if read == 0 {
            break;
        }
        number += 1;
        if line.len() > EVENT_JSON_BYTES_MAX && !line.ends_with(b"\n") {
            // The rest of the line can't be told from a next event.
            while !waiting.is_empty() {
                answer_first(&mut waiting).await?;
            }
            return Err(CliError::new(format!(
                "line {number} has more than {EVENT_JSON_BYTES_MAX} bytes"
            )));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let submitted =
            match Event::from_json(line.trim_ascii(), log.clock().as_ref(), log.ids().as_ref()) {
                Ok(event) => log.submit(event).await,
                Err(e) => Err(e),
            };
        waiting.push_back((number, submitted));
        while waiting.len() >= WINDOW {
            failed += answer_first(&mut waiting).await?;
        }
    }
    while !waiting.is_empty() {
        failed += answer_first(&mut waiting).await?;
    }
    if failed > 0 {
        return Err(
            CliError::new(format!("{failed} of {number} lines were not recorded"))
                .hint("their answers on stdout say why"),
        );
    }
    Ok(0)
}

/// Waits for the oldest line's outcome and prints its answer; 1 if it failed.
///
/// Safe to be dropped while it waits: the line stays the oldest until its outcome is there.
async fn answer_first(
    waiting: &mut VecDeque<(u64, Result<Pending, audit_core::Error>)>,
) -> Result<u64> {
    let Some((number, submitted)) = waiting.front_mut() else {
        return Ok(0);
    };
    let outcome = match submitted {
        Ok(pending) => pending.outcome().await,
        Err(e) => Err(audit_core::Error::new(e.kind(), chain(e))),
    };
    let number = *number;
    waiting.pop_front();
    match outcome {
        Ok(receipt) => {
            output::line(json!({
                "line": number, "event": receipt.event, "index": receipt.index, "leaf_hash": receipt.leaf_hash,
            }))?;
            Ok(0)
        }
        Err(e) => {
            output::line(json!({"line": number, "error": chain(&e)}))?;
            Ok(1)
        }
    }
}
