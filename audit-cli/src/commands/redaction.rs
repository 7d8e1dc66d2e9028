//! `audit-trail redaction`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use audit_capture::redaction::{Options, Redactor, RuleSet, WITHHELD};
use audit_core::canonical;
use audit_core::event::{Event, Kind, Media, Payload};
use audit_core::ingest::{Ingest as _, IngestKeys, REDACTION, REDACTION_COMMITMENTS, commitment};
use audit_core::reader::RecordContent;
use audit_core::secret::SecretKey;
use audit_core::time::{IdSource as _, System};
use audit_core::token::IndexKey;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::RedactionCommand;
use crate::context::{Context, now};
use crate::error::{CliError, Result};
use crate::output;

/// Bytes of a file that is looked at; no payload may have more.
const FILE_BYTES_MAX: u64 = audit_core::event::PAYLOAD_BYTES_MAX as u64;

pub(crate) async fn run(context: &Context, command: RedactionCommand) -> Result<u8> {
    match command {
        RedactionCommand::Test {
            file,
            media,
            encoding,
            payload,
            rule_set,
            json,
        } => {
            let redactor = redactor(context, &rule_set)?;
            let media = media_of(media.as_deref(), file.as_deref());
            let bytes = read(file.as_deref())?;
            test(
                &redactor,
                Payload::new(payload, media, bytes),
                encoding,
                json,
            )
        }
        RedactionCommand::Rules { rule_set } => rules(context, &rule_set),
        RedactionCommand::Prove {
            id,
            field,
            original,
            print_salt,
        } => prove(context, &id, &field, original, print_salt).await,
    }
}

fn named(names: &[String]) -> Result<Vec<RuleSet>> {
    names
        .iter()
        .map(|name| RuleSet::built_in(name).map_err(|e| CliError::from(e).code(2)))
        .collect()
}

fn redactor(context: &Context, names: &[String]) -> Result<Redactor> {
    if !names.is_empty() {
        return Redactor::new(Options::new(named(names)?)).map_err(|e| CliError::from(e).code(2));
    }
    crate::redaction::redactor(&context.settings)?.ok_or_else(|| {
        CliError::usage("no rules are configured").hint(
            "give --rule-set personal-data@1, or add a section [redaction] to the configuration (docs/redaction.md)",
        )
    })
}

fn read(path: Option<&Path>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (shown, read) = if let Some(path) = path {
        let file = std::fs::File::open(path);
        let read = file.and_then(|f| f.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
        (path.display().to_string(), read)
    } else {
        let stdin = std::io::stdin().lock();
        let read = stdin.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
        ("stdin".to_owned(), read)
    };
    read.map_err(|e| CliError::because(format!("{shown} can't be read"), &e).code(2))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(CliError::usage(format!(
            "{shown} has more than {FILE_BYTES_MAX} bytes"
        )));
    }
    Ok(bytes)
}

fn media_of(given: Option<&str>, path: Option<&Path>) -> Media {
    if let Some(given) = given {
        return Media::of_content_type(given);
    }
    match path.and_then(Path::extension).and_then(|e| e.to_str()) {
        Some("json") | None => Media::Json,
        Some("jsonl" | "ndjson") => Media::NdJson,
        Some("sse") => Media::EventStream,
        Some("txt" | "md") => Media::Text,
        _ => Media::Bytes,
    }
}

fn test(
    redactor: &Redactor,
    payload: Payload,
    encoding: Option<String>,
    whole: bool,
) -> Result<u8> {
    let mut event = Event::new(
        System.uuid_v7(now()),
        now(),
        Kind::new("redaction.test").map_err(CliError::from)?,
    );
    // What the rules know a body's form by.
    let side = match payload.name.as_str() {
        "response.body" => "response",
        _ => "request",
    };
    let mut headers = vec![json!(["content-type", payload.media.as_str()])];
    headers.extend(encoding.map(|coding| json!(["content-encoding", coding])));
    event
        .attributes
        .insert(format!("http.{side}.header"), Value::Array(headers));
    let name = payload.name.clone();
    event.payloads.push(payload);
    event.check().map_err(|e| CliError::from(e).code(2))?;
    // Without a log there is no key: pseudonyms are others each time.
    let keys = IngestKeys::new(IndexKey::new(SecretKey::random(&System)));
    let recorded = redactor.ingest(event, &keys)?;
    if whole {
        let shown = json!({
            "attributes": recorded.attributes,
            "payloads": recorded.payloads.iter().map(|p| json!({
                "name": p.name, "media": p.media.as_str(), "text": String::from_utf8_lossy(&p.bytes),
            })).collect::<Vec<_>>(),
        });
        output::line(output::json_text(&shown.to_string()))?;
    } else if let Some(payload) = recorded.payloads.iter().find(|p| p.name == name) {
        output::bytes(&payload.bytes)?;
    }
    let items = |name: &str, inside: Option<&str>| -> Vec<Value> {
        let value = recorded.attributes.get(name);
        let value = inside.map_or(value, |inside| value.and_then(|v| v.get(inside)));
        value.and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let hits = items(REDACTION, Some("hits"));
    for hit in &hits {
        output::note(&format!(
            "{} {} by rule {} of {}: {}",
            hit["count"],
            text(&hit["found"]),
            text(&hit["rule"]),
            text(&hit["rule_set"]),
            text(&hit["action"])
        ));
    }
    let withheld = items(WITHHELD, None);
    for field in &withheld {
        output::note(&format!(
            "{} withheld: {}",
            output::printable(text(&field["field"])),
            text(&field["reason"])
        ));
    }
    if hits.is_empty() && withheld.is_empty() {
        output::note("no rule hits; it would be recorded as it is");
    }
    Ok(0)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn rules(context: &Context, names: &[String]) -> Result<u8> {
    /// As the settings have them.
    #[derive(Serialize)]
    struct Shown {
        rule_set: Vec<RuleSet>,
    }
    let rule_set = if names.is_empty() {
        crate::redaction::rule_sets(&context.settings)?
    } else {
        named(names)?
    };
    if rule_set.is_empty() {
        output::note("no rules are configured");
        return Ok(0);
    }
    for set in &rule_set {
        let digest = set.sha256()?;
        output::line(format_args!(
            "# {}@{} sha256:{digest}",
            set.name, set.version
        ))?;
    }
    let shown = toml::to_string(&Shown { rule_set })
        .map_err(|e| CliError::because("the rules can't be written", &e))?;
    output::line(shown.trim_end())?;
    Ok(0)
}

async fn prove(
    context: &Context,
    id: &str,
    field: &str,
    original: Option<PathBuf>,
    print_salt: bool,
) -> Result<u8> {
    let reader = context.reader().await?;
    let index = super::index_of(&reader, id).await?;
    let record = reader.record(index).await?;
    let event = record.entry.event;
    let RecordContent::Open(opened) = &record.content else {
        return Err(CliError::new(format!(
            "event {event} has no content that can be read"
        )));
    };
    let commitments = opened.event.attributes.get(REDACTION_COMMITMENTS);
    let told = commitments
        .and_then(|all| all.get(field))
        .and_then(Value::as_str);
    let Some(told) = told else {
        let fields: Vec<String> = commitments
            .and_then(Value::as_object)
            .map(|all| all.keys().map(|k| output::printable(k)).collect())
            .unwrap_or_default();
        return Err(CliError::new(format!(
            "event {event} has no commitment to the original of {:?}",
            output::cut(field, 60)
        ))
        .hint(if fields.is_empty() {
            "nothing of it was redacted".to_owned()
        } else {
            format!("it has one to: {}", fields.join(", "))
        }));
    };
    let salt = context.keys()?.index_key().redaction_salt(event, field);
    if print_salt {
        output::line(format_args!("salt {salt}"))?;
        output::line(format_args!("commitment {told}"))?;
    }
    let Some(path) = original else { return Ok(0) };
    let bytes = read(Some(&path))?;
    let matches = |bytes: &[u8]| commitment(&salt, bytes).to_string() == told;
    if matches(&bytes) {
        output::line("match: the file is what the field was")?;
        return Ok(0);
    }
    // The value of a field that is no payload is committed to as canonical JSON, which people don't write.
    if !field.starts_with("payloads/") {
        let value = std::str::from_utf8(&bytes).ok().map(str::trim_end);
        let as_text = value.and_then(|text| canonical::to_vec(&text).ok());
        let as_json = serde_json::from_slice::<Value>(&bytes).ok();
        let as_json = as_json.and_then(|value| canonical::to_vec(&value).ok());
        if [as_text, as_json].iter().flatten().any(|b| matches(b)) {
            output::line("match: the file's text, as canonical JSON, is what the field was")?;
            return Ok(0);
        }
    }
    output::line("no match: the file is not what the field was")?;
    Ok(1)
}
