//! `audit-trail show`.

use audit_core::reader::RecordContent;
use serde_json::{Value, json};

use crate::cli::ShowArgs;
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output;

mod exchange;

pub(crate) async fn run(context: &Context, args: &ShowArgs) -> Result<u8> {
    let reader = context.reader().await?;
    let index = super::index_of(&reader, &args.id).await?;
    let record = reader.record(index).await?;
    if args.entry {
        output::bytes(&record.bytes)?;
        return Ok(0);
    }
    if let Some(name) = &args.payload {
        let RecordContent::Open(opened) = &record.content else {
            return Err(CliError::new(format!(
                "event {} has no content that can be read",
                record.entry.event
            )));
        };
        let payload = opened
            .event
            .payloads
            .iter()
            .find(|p| p.name == *name)
            .ok_or_else(|| {
                let names: Vec<&str> = opened
                    .event
                    .payloads
                    .iter()
                    .map(|p| p.name.as_str())
                    .collect();
                CliError::new(format!(
                    "event {} has no payload {name:?}",
                    record.entry.event
                ))
                .hint(format!(
                    "it has: {}",
                    if names.is_empty() {
                        "none".to_owned()
                    } else {
                        names.join(", ")
                    }
                ))
            })?;
        if !args.decoded {
            output::bytes(&payload.bytes)?;
            return Ok(0);
        }
        let place = match name.as_str() {
            "request.body" => "http.request.header",
            _ => "http.response.header",
        };
        let headers = exchange::headers(&opened.event, place);
        let (decoded, why) = audit_capture::decoded_body(&headers, &payload.bytes);
        output::bytes(&decoded)?;
        return match why {
            None => Ok(0),
            Some(why) => Err(CliError::new(format!(
                "not all of it can be decoded: {why}"
            ))),
        };
    }
    if args.exchange {
        let found = exchange::of(&reader, &record).await?;
        return print(&found);
    }
    let mut shown = super::log::to_json(&record);
    shown["proof"] = proof_state(&reader, index, &record.bytes, context).await?;
    print(&shown)
}

fn print(shown: &Value) -> Result<u8> {
    let text = serde_json::to_string_pretty(shown)
        .map_err(|e| CliError::because("the event can't be written", &e))?;
    output::line(output::json_text(&text))?;
    Ok(0)
}

async fn proof_state(
    reader: &audit_core::reader::LogReader,
    index: u64,
    bytes: &[u8],
    context: &Context,
) -> Result<Value> {
    match reader.prove(index).await {
        Ok(proof) => {
            let leaf = audit_tlog::hash::leaf_hash(bytes);
            let vkey = context.vkey(None)?;
            Ok(match proof.verify(&leaf, vkey.name(), &vkey) {
                Ok(checkpoint) => json!({
                    "state": "published",
                    "tree_size": checkpoint.size,
                    "root_hash": checkpoint.root.to_string(),
                    "key": vkey.to_string(),
                }),
                Err(e) => json!({"state": "wrong", "error": crate::error::chain(&e)}),
            })
        }
        Err(e) if e.kind() == audit_core::ErrorKind::NotFound => Ok(json!({"state": "sequenced"})),
        Err(e) => Ok(json!({"state": "wrong", "error": crate::error::chain(&e)})),
    }
}
