//! Brings exchanges into one form: a JSON object per line on standard input, and its view per line on standard output.
//!
//! ```json
//! {"request": {"method": "POST", "url": "https://api.openai.com/v1/chat/completions", "headers": [], "body": "{}"},
//!  "response": {"status": 200, "headers": [["content-type", "application/json"]], "body": "{}"}}
//! ```
//!
//! A body is text, or base64 where `body_encoding` says so.

use std::error::Error;
use std::io::{BufRead as _, Write as _};

use audit_capture::{RequestHead, ResponseHead, detect, exchange};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let recorded: Value = serde_json::from_str(&line?)?;
        writeln!(out, "{}", view(&recorded)?)?;
    }
    Ok(())
}

fn view(recorded: &Value) -> Result<Value, Box<dyn Error>> {
    let (request, response) = (&recorded["request"], &recorded["response"]);
    let method = request["method"].as_str().ok_or("no method")?;
    let url = request["url"].as_str().ok_or("no url")?;
    let status = response["status"].as_u64().ok_or("no status")?;
    let request_head = RequestHead::new(method, url, headers(request));
    let response_head = ResponseHead::new(u16::try_from(status)?, headers(response));
    let api = detect(None, None, method, url);
    Ok(exchange(
        &api,
        Some((&request_head, &body(request)?)),
        Some((&response_head, &body(response)?)),
    )
    .to_json())
}

fn headers(message: &Value) -> Vec<(String, Vec<u8>)> {
    let pairs = message["headers"].as_array().into_iter().flatten();
    pairs
        .filter_map(|pair| {
            let value = pair.get(1)?.as_str()?;
            Some((pair.get(0)?.as_str()?.to_owned(), value.as_bytes().to_vec()))
        })
        .collect()
}

fn body(message: &Value) -> Result<Vec<u8>, Box<dyn Error>> {
    let text = message["body"].as_str().unwrap_or_default();
    Ok(match message["body_encoding"].as_str() {
        Some("base64") => STANDARD.decode(text)?,
        _ => text.as_bytes().to_vec(),
    })
}
