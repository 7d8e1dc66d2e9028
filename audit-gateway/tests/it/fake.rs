//! The recorded provider, run from the fixtures that `AUDIT_FIXTURES` names.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::client;

/// The folder of the fixtures; says that it skips when there is none.
pub(crate) fn fixtures() -> Option<PathBuf> {
    let folder = std::env::var_os("AUDIT_FIXTURES").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: AUDIT_FIXTURES is not set");
    }
    folder
}

/// A running provider; it ends with this.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    _process: Child,
}

impl Fake {
    pub(crate) async fn start(fixtures: &Path, options: &[&str]) -> Self {
        let mut process = Command::new("python3")
            .arg(fixtures.join("fake_provider.py"))
            .arg("--tag")
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("python3 runs the fake provider");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines
            .next_line()
            .await
            .unwrap()
            .expect("the fake provider says where it listens");
        let address = line.rsplit("//").next().unwrap().parse().unwrap();
        Self {
            address,
            _process: process,
        }
    }

    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Takes turns from the start again.
    pub(crate) async fn reset(&self) {
        let request = b"POST /__fake__/reset HTTP/1.1\r\nHost: f\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(client::exchange(self.address, request).await.status, 200);
    }

    pub(crate) async fn stats(&self) -> Value {
        client::exchange(
            self.address,
            b"GET /__fake__/stats HTTP/1.1\r\nHost: f\r\n\r\n",
        )
        .await
        .json()
    }
}

/// A recorded exchange, as far as it is replayed.
#[derive(Debug, Clone)]
pub(crate) struct Fixture {
    pub(crate) id: String,
    pub(crate) provider: String,
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) streaming: bool,
    /// Whether the content type says that the answer comes in pieces.
    pub(crate) pieces: bool,
}

impl Fixture {
    /// The request's bytes, with the path below `prefix` and further header lines.
    pub(crate) fn request(&self, prefix: &str, more: &str) -> Vec<u8> {
        // One host in both ways: the provider chooses by it among recordings of equal requests.
        let mut lines = vec![
            format!("{} {prefix}{} HTTP/1.1\r\n", self.method, self.target),
            "Host: fixture.test\r\n".to_owned(),
        ];
        lines.extend(self.headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")));
        lines.push(more.to_owned());
        if !self.body.is_empty() || self.method == "POST" {
            lines.push(format!("Content-Length: {}\r\n", self.body.len()));
        }
        let mut request = lines.concat();
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(&self.body);
        request
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    entries.sort();
    entries
}

/// Every exchange: single ones and those of sessions.
pub(crate) fn load(fixtures: &Path) -> Vec<Fixture> {
    let traffic = fixtures.join("llm-traffic");
    let mut files: Vec<PathBuf> = entries(&traffic.join("exchanges"))
        .iter()
        .flat_map(|folder| entries(folder))
        .collect();
    files.extend(entries(&traffic.join("sessions")));
    let mut loaded = Vec::new();
    let exchanges = files.iter().flat_map(|file| {
        let bytes = std::fs::read(file).unwrap();
        serde_json::Deserializer::from_slice(&bytes)
            .into_iter::<Value>()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    });
    for exchange in exchanges {
        let (request, response) = (&exchange["request"], &exchange["response"]);
        let body = request["body"].as_str().unwrap_or_default();
        let body = match request["body_encoding"].as_str() {
            Some("base64") => decode_base64(body),
            _ => body.as_bytes().to_vec(),
        };
        let url = request["url"].as_str().unwrap();
        let target = url.splitn(4, '/').nth(3).unwrap();
        let headers = request["headers"].as_array().unwrap();
        loaded.push(Fixture {
            id: exchange["id"].as_str().unwrap().to_owned(),
            provider: exchange["provider"].as_str().unwrap().to_owned(),
            method: request["method"].as_str().unwrap().to_owned(),
            target: format!("/{target}"),
            headers: headers
                .iter()
                .map(|h| {
                    (
                        h[0].as_str().unwrap().to_owned(),
                        h[1].as_str().unwrap().to_owned(),
                    )
                })
                .collect(),
            body,
            streaming: exchange["streaming"].as_bool().unwrap(),
            pieces: response["headers"].as_array().unwrap().iter().any(|h| {
                let value = h[1].as_str().unwrap();
                h[0].as_str().unwrap().eq_ignore_ascii_case("content-type")
                    && ["event-stream", "ndjson", "amazon.eventstream"]
                        .iter()
                        .any(|kind| value.contains(kind))
            }),
        });
    }
    loaded
}

fn decode_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut n) = (Vec::new(), 0_u32, 0);
    for b in text.bytes().filter(|b| *b != b'=') {
        let value = ALPHABET
            .iter()
            .position(|a| *a == b)
            .expect("the fixture is base64");
        bits = bits << 6 | u32::try_from(value).unwrap();
        n += 6;
        if n >= 8 {
            n -= 8;
            out.push((bits >> n & 0xff) as u8);
        }
    }
    out
}
