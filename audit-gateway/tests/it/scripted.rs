//! An upstream that does what a test tells it, byte by byte.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

/// What the upstream does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Write(Vec<u8>),
    Sleep(Duration),
    /// Until the test says so.
    Wait(Arc<Notify>),
    Close,
    /// Until the peer closes.
    Hang,
}

pub(crate) fn write(text: &str) -> Step {
    Step::Write(text.as_bytes().to_vec())
}

pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    /// Requests as they were on the wire.
    pub(crate) requests: mpsc::UnboundedReceiver<Vec<u8>>,
    /// A word whenever a connection is closed by the peer while a script runs or waits.
    pub(crate) closed: Arc<Notify>,
    pub(crate) seen: Arc<Mutex<Vec<Vec<u8>>>>,
    connections: Arc<AtomicUsize>,
}

impl Scripted {
    /// Every request is answered by the same script.
    pub(crate) async fn start(script: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sent, requests) = mpsc::unbounded_channel();
        let closed = Arc::new(Notify::new());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let (noticed, collected) = (Arc::clone(&closed), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(
                    stream,
                    script.clone(),
                    sent.clone(),
                    Arc::clone(&noticed),
                    Arc::clone(&collected),
                ));
            }
        });
        Self {
            address,
            requests,
            closed,
            seen,
            connections,
        }
    }

    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

async fn serve(
    mut stream: TcpStream,
    script: Vec<Step>,
    sent: mpsc::UnboundedSender<Vec<u8>>,
    closed: Arc<Notify>,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
) {
    loop {
        let Some(request) = read_request(&mut stream).await else {
            return;
        };
        seen.lock().unwrap().push(request.clone());
        drop(sent.send(request));
        for step in &script {
            match step {
                Step::Write(bytes) => {
                    if stream.write_all(bytes).await.is_err() {
                        closed.notify_one();
                        return;
                    }
                }
                Step::Sleep(time) => tokio::time::sleep(*time).await,
                Step::Wait(word) => word.notified().await,
                Step::Close => return,
                Step::Hang => {
                    let mut byte = [0];
                    while stream.read(&mut byte).await.is_ok_and(|n| n > 0) {}
                    closed.notify_one();
                    return;
                }
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        if let Some(at) = request.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..at]).to_lowercase();
            let length: usize = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length:"))
                .map_or(0, |l| l.trim().parse().unwrap());
            if request.len() >= at + 4 + length {
                assert_eq!(
                    request.len(),
                    at + 4 + length,
                    "bytes behind a request: smuggled"
                );
                return Some(request);
            }
        }
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
}
