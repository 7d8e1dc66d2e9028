//! A proxy in front of the server that loses answers, holds requests back, and answers by itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is carried out, and nobody is told.
    LoseAnswer,
    /// It is carried out, and this is answered instead.
    AnswerInstead(u16),
    /// It isn't carried out, and this is answered.
    Answer(u16),
    /// It isn't carried out, the connection breaks, and it may be let go later.
    Hold,
    /// The server is silent for ever.
    Silence,
}

type Rule = (String, Fault);

#[derive(Debug, Default)]
struct State {
    rules: VecDeque<Rule>,
    held: Vec<Vec<u8>>,
    seen: Vec<String>,
}

/// The proxy; it ends with its runtime.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    upstream: String,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    pub(crate) async fn before(endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            upstream: endpoint.trim_start_matches("http://").to_owned(),
            state: Arc::default(),
        };
        let serving = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let proxy = serving.clone();
                tokio::spawn(async move { proxy.serve(client).await });
            }
        });
        proxy
    }

    /// The next request whose first line holds `part` suffers `fault`; of rules that fit, the first one counts, once.
    pub(crate) fn next(&self, part: &str, fault: Fault) {
        self.times(1, part, fault);
    }

    pub(crate) fn times(&self, n: usize, part: &str, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        state
            .rules
            .extend(std::iter::repeat_n((part.to_owned(), fault), n));
    }

    /// Rules that no request met.
    pub(crate) fn left(&self) -> usize {
        self.state.lock().unwrap().rules.len()
    }

    pub(crate) fn clear(&self) {
        self.state.lock().unwrap().rules.clear();
    }

    /// How many requests had a first line with `part`.
    pub(crate) fn seen(&self, part: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.seen.iter().filter(|line| line.contains(part)).count()
    }

    /// Lets go what was held back; answers with the status lines.
    pub(crate) async fn release(&self) -> Vec<String> {
        let held = std::mem::take(&mut self.state.lock().unwrap().held);
        let mut said = Vec::new();
        for request in held {
            let answer = self.forward(&request).await;
            let text = String::from_utf8_lossy(&answer).into_owned();
            said.push(text.lines().next().unwrap_or_default().to_owned());
        }
        said
    }

    async fn forward(&self, request: &[u8]) -> Vec<u8> {
        let mut server = TcpStream::connect(&self.upstream).await.unwrap();
        server.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // What the server sent before it broke off is what it sent.
        drop(server.read_to_end(&mut answer).await);
        answer
    }

    async fn serve(self, mut client: TcpStream) {
        let Some((line, request)) = read_request(&mut client).await else {
            return;
        };
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.seen.push(line.clone());
            let at = state.rules.iter().position(|(part, _)| line.contains(part));
            at.and_then(|at| state.rules.remove(at))
                .map(|(_, fault)| fault)
        };
        let own = |status: u16| {
            format!("HTTP/1.1 {status} Fault\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        };
        let answer = match fault {
            None => self.forward(&request).await,
            Some(Fault::LoseAnswer) => {
                self.forward(&request).await;
                return;
            }
            Some(Fault::AnswerInstead(status)) => {
                self.forward(&request).await;
                own(status).into_bytes()
            }
            Some(Fault::Answer(status)) => own(status).into_bytes(),
            Some(Fault::Hold) => {
                self.state.lock().unwrap().held.push(request);
                return;
            }
            Some(Fault::Silence) => std::future::pending().await,
        };
        // A client that went away is no matter.
        drop(client.write_all(&answer).await);
        drop(client.shutdown().await);
    }
}

/// One request with its body; the connection is made to end with it.
async fn read_request(client: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        match client.read(&mut buffer).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let length = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap());
    while bytes.len() < head + 4 + length {
        match client.read(&mut buffer).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
    let line = text.lines().next().unwrap_or_default().to_owned();
    let mut request = text.into_bytes();
    request.extend_from_slice(b"\r\nconnection: close\r\n\r\n");
    request.extend_from_slice(&bytes[head + 4..]);
    Some((line, request))
}
