//! A server whose every byte, and every pause between bytes, the test decides about.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use audit_core::reader::LogReader;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::events;

/// What the server does next.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Send(Vec<u8>),
    /// Until the test says so.
    Wait(Arc<Notify>),
    /// For ever.
    Hang,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Every request, head and body.
    pub(crate) requests: Vec<Vec<u8>>,
    /// Kinds in the log when a request had come.
    pub(crate) kinds: Vec<Vec<String>>,
}

/// Answers every connection alike, and then closes it.
pub(crate) struct Provider {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Provider {
    pub(crate) async fn start(reader: LogReader, script: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let task = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (reader, script, seen) =
                        (reader.clone(), script.clone(), Arc::clone(&seen));
                    tokio::spawn(async move { answer(stream, &reader, script, &seen).await });
                }
            }
        });
        Self {
            address,
            seen,
            task,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.lock().unwrap().requests.len()
    }
}

async fn answer(mut stream: TcpStream, reader: &LogReader, script: Vec<Step>, seen: &Mutex<Seen>) {
    let Some(request) = request(&mut stream).await else {
        return;
    };
    let kinds = events(reader).await;
    let kinds = kinds.iter().map(|e| e.kind.as_str().to_owned()).collect();
    {
        let mut seen = seen.lock().unwrap();
        seen.requests.push(request);
        seen.kinds.push(kinds);
    }
    for step in script {
        match step {
            Step::Send(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Step::Wait(notify) => notify.notified().await,
            Step::Hang => std::future::pending().await,
        }
    }
    drop(stream.shutdown().await);
}

async fn request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    stream.set_nodelay(true).unwrap();
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&piece[..n]);
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .map_or(0, |value| value.trim().parse().unwrap());
        if bytes.len() >= end + 4 + length {
            return Some(bytes);
        }
    }
}

/// What stands behind the head of a message.
pub(crate) fn body_of(message: &[u8]) -> &[u8] {
    let end = message.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    &message[end + 4..]
}

/// A whole answer.
pub(crate) fn whole(content_type: &str, body: &[u8]) -> Vec<Step> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nx-request-id: req-7\r\nset-cookie: secret=1\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    vec![Step::Send([head.as_bytes(), body].concat())]
}

/// The head of a stream, in chunked coding.
pub(crate) fn stream_head() -> Step {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    Step::Send(head.as_bytes().to_vec())
}

pub(crate) fn chunk(bytes: &[u8]) -> Step {
    let head = format!("{:x}\r\n", bytes.len());
    Step::Send([head.as_bytes(), bytes, b"\r\n"].concat())
}

pub(crate) fn last_chunk() -> Step {
    Step::Send(b"0\r\n\r\n".to_vec())
}
