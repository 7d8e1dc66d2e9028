//! A client that speaks HTTP/1.1 by hand, so that nothing between the wire and an assertion tidies up.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No test waits longer for a byte.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer as it was on the wire.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) reason: String,
    /// Names and values in their order and case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Lengths of the HTTP chunks.
    pub(crate) chunks: Vec<usize>,
    pub(crate) trailers: Vec<(String, String)>,
    /// Whether the message came to its end by its own framing.
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }

    /// Headers without those that frame the body.
    pub(crate) fn end_to_end(&self) -> Vec<(String, String)> {
        let framing = |n: &str| {
            ["transfer-encoding", "content-length", "connection"]
                .contains(&n.to_lowercase().as_str())
        };
        self.headers
            .iter()
            .filter(|(n, _)| !framing(n))
            .cloned()
            .collect()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The code of an answer of the gateway's own.
    pub(crate) fn code(&self) -> String {
        let body = self.json();
        assert_eq!(body["error"]["type"], "audit_gateway_error");
        let code = body["error"]["code"].as_str().unwrap().to_owned();
        assert_eq!(self.header("x-audit-error"), Some(code.as_str()));
        code
    }
}

/// A connection.
pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// A client on a connection that is there.
    pub(crate) fn over(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads more; `false` at the end or break of the connection.
    async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer))
            .await
            .expect("no byte for 20 s");
        read.is_ok_and(|n| n > 0)
    }

    /// Whether the connection ends without another byte.
    pub(crate) async fn ends(&mut self) -> bool {
        self.buffer.is_empty() && !self.more().await
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Some(line);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn header_lines(&mut self) -> Option<Vec<(String, String)>> {
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(headers);
            }
            let (name, value) = line.split_once(':').unwrap();
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// The head of an answer, or `None` if the connection ends before.
    pub(crate) async fn head(&mut self) -> Option<Answer> {
        let line = self.line().await?;
        let mut words = line.splitn(3, ' ');
        assert_eq!(words.next(), Some("HTTP/1.1"));
        let status = words.next().unwrap().parse().unwrap();
        let reason = words.next().unwrap_or_default().to_owned();
        Some(Answer {
            status,
            reason,
            headers: self.header_lines().await?,
            ..Answer::default()
        })
    }

    /// Exactly `n` bytes if they come.
    async fn exactly(&mut self, n: usize) -> (Vec<u8>, bool) {
        while self.buffer.len() < n {
            if !self.more().await {
                return (std::mem::take(&mut self.buffer), false);
            }
        }
        (self.buffer.drain(..n).collect(), true)
    }

    /// The next chunk; `None` at the last one or when the connection breaks, which `answer.whole` tells apart.
    pub(crate) async fn chunk(&mut self, answer: &mut Answer) -> Option<Vec<u8>> {
        let size = self.line().await?;
        let size = usize::from_str_radix(&size, 16).unwrap();
        if size == 0 {
            if let Some(trailers) = self.header_lines().await {
                answer.trailers = trailers;
                answer.whole = true;
            }
            return None;
        }
        let (data, all) = self.exactly(size).await;
        answer.chunks.push(data.len());
        answer.body.extend_from_slice(&data);
        if !all {
            return None;
        }
        self.exactly(2).await;
        Some(data)
    }

    /// The rest of an answer whose head is here.
    pub(crate) async fn rest(&mut self, answer: &mut Answer) {
        let chunked = answer
            .header("transfer-encoding")
            .is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
        if chunked {
            while self.chunk(answer).await.is_some() {}
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            let (body, all) = self.exactly(length).await;
            answer.body = body;
            answer.whole = all;
        } else {
            // Neither: only an answer that can't have a body.
            assert!(
                matches!(answer.status, 204 | 304),
                "an answer without framing: {answer:?}"
            );
            answer.whole = true;
        }
    }

    /// A whole answer, or `None` if the connection ends before its head.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let mut answer = self.head().await?;
        self.rest(&mut answer).await;
        Some(answer)
    }
}

/// Sends bytes on a connection of their own, and reads one answer.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut client = Client::connect(address).await;
    client.write(request).await;
    client
        .answer()
        .await
        .expect("the connection ended without an answer")
}

/// The bytes of a POST with a JSON body and further header lines.
pub(crate) fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: gateway.test\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}
