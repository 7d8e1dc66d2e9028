//! `audit-trail log`.

use std::collections::BTreeMap;

use audit_core::event::{Event, Kind};
use audit_core::reader::{Filter, LogReader, Record, RecordContent};
use serde_json::{Value, json};

use crate::cli::LogArgs;
use crate::context::{Context, time};
use crate::error::{CliError, Result};
use crate::output;

pub(crate) async fn run(context: &Context, args: &LogArgs) -> Result<u8> {
    let reader = context.reader().await?;
    let filter = filter(args)?;
    let size = reader.size().await?;
    let mut indexes = reader.find(&filter, 0..size, true, args.limit).await?;
    indexes.reverse();
    if !args.json {
        output::line(header())?;
    }
    for index in &indexes {
        print(&reader, *index, args.json).await?;
    }
    if !args.json && indexes.is_empty() {
        output::note("no event matches");
    } else if indexes.len() == args.limit && !args.follow {
        output::note(&format!(
            "the latest {} that match; --limit N shows more",
            args.limit
        ));
    }
    if !args.follow {
        return Ok(0);
    }
    let mut next = size;
    // Asked for once: a signal that comes while events are printed isn't lost.
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        let size = reader.size().await?;
        while next < size {
            let found = reader.find(&filter, next..size, false, 1000).await?;
            let full = found.len() == 1000;
            for index in &found {
                print(&reader, *index, args.json).await?;
            }
            next = if full {
                found.last().map_or(size, |last| last + 1)
            } else {
                size
            };
        }
        tokio::select! {
            grown = reader.store().wait_beyond(next) => grown?,
            _ = &mut interrupt => return Ok(0),
        }
    }
}

fn filter(args: &LogArgs) -> Result<Filter> {
    let usage = |e: audit_core::Error| CliError::from(e).code(2);
    let mut refs = BTreeMap::new();
    for text in &args.refs {
        let (name, value) = super::pair("--ref", text)?;
        refs.insert(name.to_owned(), value.to_owned());
    }
    Ok(Filter {
        session: args.session.clone(),
        actor: args.actor.clone(),
        subject: args.subject.clone(),
        refs,
        kind: args
            .kind
            .clone()
            .map(Kind::new)
            .transpose()
            .map_err(usage)?,
        from: args.since.as_deref().map(time).transpose()?,
        until: args.until.as_deref().map(time).transpose()?,
    })
}

async fn print(reader: &LogReader, index: u64, as_json: bool) -> Result<()> {
    let record = reader.record(index).await?;
    if as_json {
        output::line(output::json_text(&to_json(&record).to_string()))
    } else {
        output::line(row(&record))
    }
}

/// A record as one JSON object.
pub(crate) fn to_json(record: &Record) -> Value {
    let event = match &record.content {
        RecordContent::Open(opened) => opened.event.to_json(),
        _ => {
            json!({"id": record.entry.event, "time": record.entry.time, "kind": record.entry.kind})
        }
    };
    json!({
        "index": record.index,
        "leaf_hash": audit_tlog::hash::leaf_hash(&record.bytes).to_string(),
        "recorded": record.entry.recorded,
        "run": record.entry.run,
        "seq": record.entry.seq,
        "content": state(record),
        "log": record.entry.log,
        "event": event,
    })
}

/// What is left of the content, in a word.
pub(crate) fn state(record: &Record) -> &'static str {
    match record.content {
        RecordContent::Open(_) => "open",
        RecordContent::None => "none",
        _ => "gone",
    }
}

pub(crate) fn header() -> String {
    format!(
        "{:>7}  {:<19}  {:<16}  {:<22}  {:<14}  {}",
        "INDEX", "TIME (UTC)", "KIND", "SESSION", "ACTOR", "SUMMARY"
    )
}

/// A record as a row of the table.
pub(crate) fn row(record: &Record) -> String {
    let time = record.entry.time.to_string().replace('T', " ");
    let time: String = time.chars().take(19).collect();
    let (session, actor, summary) = match &record.content {
        RecordContent::Open(opened) => {
            let event = &opened.event;
            (
                event.session_id.clone().unwrap_or_default(),
                event
                    .actor
                    .as_ref()
                    .map(|a| a.id.clone())
                    .unwrap_or_default(),
                summary(event),
            )
        }
        RecordContent::None => (String::new(), String::new(), own_summary(record)),
        _ => (String::new(), String::new(), "content is gone".to_owned()),
    };
    let text = format!(
        "{:>7}  {time:<19}  {:<16}  {:<22}  {:<14}  {}",
        record.index,
        output::cut(record.entry.kind.as_str(), 16),
        output::cut(&session, 22),
        output::cut(&actor, 14),
        output::cut(&summary, 80)
    );
    text.trim_end().to_owned()
}

fn own_summary(record: &Record) -> String {
    let Some(log) = &record.entry.log else {
        return String::new();
    };
    if let Some(origin) = &log.origin {
        return origin.clone();
    }
    if let Some(opening) = &log.opening {
        return opening.build.clone();
    }
    match (log.entries, log.head.map(|head| head.size)) {
        (Some(n), _) => format!("{n} entries"),
        (_, Some(n)) => format!("tree size {n}"),
        _ => String::new(),
    }
}

/// The few attributes that tell a reader what happened.
fn summary(event: &Event) -> String {
    let text = |name: &str| match event.attributes.get(name) {
        Some(Value::String(s)) => Some(s.clone()),
        Some(Value::Array(items)) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            (!items.is_empty()).then(|| items.join(","))
        }
        Some(Value::Null) | None => None,
        Some(other) => Some(other.to_string()),
    };
    let mut parts = Vec::new();
    parts.extend(text("gen_ai.response.model").or_else(|| text("gen_ai.request.model")));
    parts.extend(text("gen_ai.operation.name"));
    parts.extend(text("http.response.status_code"));
    parts.extend(text("audit.outcome"));
    parts.extend(text("gen_ai.response.finish_reasons"));
    if let (Some(input), Some(output)) = (
        text("gen_ai.usage.input_tokens"),
        text("gen_ai.usage.output_tokens"),
    ) {
        parts.push(format!("{input}→{output} tokens"));
    }
    parts.extend(text("gen_ai.tool.name"));
    parts.extend(text("error.type"));
    parts.extend(text("process.executable.name"));
    for (name, word) in [
        ("process.exit.code", "exit code"),
        ("audit.command.signal", "signal"),
        ("audit.count.missed", "missed"),
        ("audit.count.refused", "refused"),
        ("audit.count.spooled", "spooled"),
    ] {
        parts.extend(text(name).map(|value| format!("{word} {value}")));
    }
    if event.kind.as_str().starts_with("network.") {
        parts.extend(text("server.address"));
    }
    if parts.is_empty() {
        parts.extend(event.attributes.iter().map(|(name, value)| match value {
            Value::String(s) => format!("{name}={s}"),
            other => format!("{name}={other}"),
        }));
    }
    parts.join("  ")
}
