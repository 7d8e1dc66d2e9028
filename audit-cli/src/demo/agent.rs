//! A scripted agent: it knows nothing of the log but the gateway's address, and tells it of the tool that it used.

use std::net::SocketAddr;

use audit_core::event::{Actor, ActorKind, Capture, Event, Guarantee, Kind, Media, Payload};
use audit_core::log::Log;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::error::{CliError, Result};
use crate::output;

/// Words that must not be found in the raw files.
pub(super) const SECRET_PHRASE: &str = "patient P-17";

const SESSION: &str = "ward-7-morning-round";

pub(super) async fn run(gateway: SocketAddr, log: &Log) -> Result<()> {
    let question = json!({"role": "user", "content": format!("When is the next dose for {SECRET_PHRASE} due?")});
    let tools = json!([{"type": "function", "function": {"name": "medication_schedule",
        "parameters": {"type": "object", "properties": {"patient": {"type": "string"}}, "required": ["patient"]}}}]);
    let ask = |messages: Value| {
        json!({"model": "gpt-demo", "stream": true, "stream_options": {"include_usage": true},
            "messages": messages, "tools": tools})
    };

    output::note("   agent → openai: when is the next dose due?");
    let answer = post(
        gateway,
        "/openai/v1/chat/completions",
        &ask(json!([question])),
    )
    .await?;
    let arguments = joined(&answer, |delta| {
        delta["tool_calls"][0]["function"]["arguments"].as_str()
    });
    output::note(&format!(
        "   openai → agent: call medication_schedule({arguments})"
    ));

    let call = event(log, "tool.call", |event| {
        event
            .attributes
            .insert("gen_ai.tool.name".into(), json!("medication_schedule"));
        event
            .attributes
            .insert("gen_ai.tool.call.id".into(), json!("call_demo_1"));
        event.payloads.push(Payload::new(
            "arguments",
            Media::Json,
            arguments.clone().into_bytes(),
        ));
    })?;
    log.append(call).await?;
    let schedule = json!({"patient": "P-17", "next": "14:00", "drug": "demo 5 mg"}).to_string();
    let result = event(log, "tool.result", |event| {
        event
            .attributes
            .insert("gen_ai.tool.name".into(), json!("medication_schedule"));
        event
            .attributes
            .insert("gen_ai.tool.call.id".into(), json!("call_demo_1"));
        event.payloads.push(Payload::new(
            "result",
            Media::Json,
            schedule.clone().into_bytes(),
        ));
    })?;
    log.append(result).await?;
    output::note("   agent: looked it up");

    let messages = json!([question,
        {"role": "assistant", "tool_calls": [{"id": "call_demo_1", "type": "function",
            "function": {"name": "medication_schedule", "arguments": arguments}}]},
        {"role": "tool", "tool_call_id": "call_demo_1", "content": schedule}]);
    let answer = post(gateway, "/openai/v1/chat/completions", &ask(messages)).await?;
    let text = joined(&answer, |delta| delta["content"].as_str());
    output::note(&format!("   openai → agent: {text}"));

    let check = json!({"model": "claude-demo", "max_tokens": 64,
        "messages": [{"role": "user", "content": format!("Does this match the schedule {schedule}? {text}")}]});
    post(gateway, "/anthropic/v1/messages", &check).await?;
    output::note("   agent → anthropic: does that match? anthropic → agent: it does");

    let mut approval = event(log, "approval.granted", |event| {
        event.attributes.insert(
            "audit.reason".into(),
            json!("dose and time checked against the chart"),
        );
    })?;
    approval.actor = Some(Actor {
        display_name: Some("N. Nurse".into()),
        id: "nurse-4".into(),
        kind: ActorKind::Human,
    });
    log.append(approval).await?.published().await?;
    output::note("   nurse-4 approves; the approval is under a signed checkpoint");
    Ok(())
}

fn event(log: &Log, kind: &str, fill: impl FnOnce(&mut Event)) -> Result<Event> {
    let now = log.clock().now();
    let mut event = Event::new(log.ids().uuid_v7(now), now, Kind::new(kind)?);
    event.session_id = Some(SESSION.to_owned());
    event.actor = Some(Actor::new(ActorKind::Agent, "ward-assistant"));
    event.capture = Some(Capture {
        component: "audit-trail demo".into(),
        guarantee: Guarantee::None,
        version: env!("CARGO_PKG_VERSION").into(),
    });
    fill(&mut event);
    Ok(event)
}

async fn post(gateway: SocketAddr, path: &str, body: &Value) -> Result<String> {
    let failed = |e: hyper::Error| CliError::because("the gateway didn't answer", &e);
    let stream = TcpStream::connect(gateway).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let connection = tokio::spawn(connection);
    let request = Request::post(path)
        .header("host", gateway.to_string())
        .header("content-type", "application/json")
        .header("authorization", "Bearer sk-demo-never-stored")
        .header("x-audit-session", SESSION)
        .header("x-audit-actor", "ward-assistant")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|e| CliError::because("the request can't be made", &e))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status();
    let bytes = response
        .into_body()
        .collect()
        .await
        .map_err(failed)?
        .to_bytes();
    drop(sender);
    connection.abort();
    if !status.is_success() {
        return Err(CliError::new(format!("{path} was answered with {status}")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The pieces of a streamed answer, joined.
fn joined(answer: &str, pick: impl Fn(&Value) -> Option<&str>) -> String {
    answer
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter_map(|chunk| pick(&chunk["choices"][0]["delta"]).map(str::to_owned))
        .collect()
}
