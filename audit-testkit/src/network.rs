//! A bad network between a client and a server that really runs.
//!
//! A [`Network`] is a TCP proxy on loopback. It passes bytes on until the client sends something that a planned
//! [`Fault`] waits for (`COMMIT`, `PUT /bucket/batch/`), and then does to that connection what networks do.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use memchr::memmem;

/// How long a client may pause within one message.
const QUIET: Duration = Duration::from_millis(150);
/// How long a server may take for an answer that is waited for only to lose it.
const ANSWER: Duration = Duration::from_secs(30);
const CHUNK: usize = 64 * 1024;

/// What happens to a connection once the client has sent what a plan waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests name them")]
pub enum Fault {
    /// The message is lost and both ends see the connection end.
    Lost,
    /// The server gets the first half of it; both ends see the connection end.
    Torn,
    /// The server gets it and answers; the client sees the connection end instead of the answer.
    AnswerLost,
    /// The client sees the connection end; the server gets the message so much later.
    Late(Duration),
    /// The message is lost, and nobody is told: the connection stays open and nothing passes any more.
    Silence,
    /// The server gets the message, and nothing passes from then on; nobody is told.
    SilentAnswer,
    /// The message waits so long, and all goes on.
    Delayed(Duration),
    /// The client gets this instead; the server gets nothing.
    AnsweredInstead(Vec<u8>),
    /// The server gets it and answers; the client gets this instead of the answer.
    AnswerReplaced(Vec<u8>),
}

struct Planned {
    needle: Vec<u8>,
    skip: u64,
    times: u64,
    fault: Fault,
}

#[derive(Default)]
struct Plan {
    faults: Vec<Planned>,
    hits: u64,
    connections: u64,
    refusing: bool,
    /// Both ends of every connection, to cut them.
    open: Vec<(TcpStream, TcpStream)>,
}

#[derive(Default)]
struct Shared {
    plan: Mutex<Plan>,
    ended: AtomicBool,
}

impl Shared {
    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault that begins with these bytes; `tail` is what came before them, as far as a needle may reach.
    fn next(&self, tail: &mut Vec<u8>, bytes: &[u8]) -> Option<Fault> {
        let mut plan = self.plan();
        let before = tail.len();
        tail.extend_from_slice(bytes);
        let mut found = None;
        for planned in &mut plan.faults {
            // Found only if it ends in what is new.
            let from = before.saturating_sub(planned.needle.len().saturating_sub(1));
            let times = memmem::find_iter(tail.get(from..).unwrap_or_default(), &planned.needle);
            for _ in times {
                if planned.skip > 0 {
                    planned.skip -= 1;
                } else if planned.times > 0 && found.is_none() {
                    planned.times -= 1;
                    found = Some(planned.fault.clone());
                }
            }
        }
        plan.faults.retain(|planned| planned.times > 0);
        plan.hits += u64::from(found.is_some());
        let keep = plan.faults.iter().map(|p| p.needle.len()).max();
        let gone = tail.len().saturating_sub(keep.unwrap_or(0));
        tail.drain(..gone);
        found
    }
}

/// How the answers of one connection are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Pass,
    /// Dropped; the first one is told to whoever waits.
    Swallow,
    Swallowed,
    Ended,
}

struct Answering {
    state: Mutex<Answers>,
    changed: Condvar,
}

impl Answering {
    fn set(&self, answers: Answers) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = answers;
        self.changed.notify_all();
    }

    /// Waits until the server has answered, ended, or taken too long.
    fn wait(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.changed
                .wait_timeout_while(state, ANSWER, |state| *state == Answers::Swallow),
        );
    }
}

/// A TCP proxy in front of one server, with faults on demand. Ends when it is dropped.
pub struct Network {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Network {
    /// Listens on a free port of loopback, for connections to `server`.
    ///
    /// # Errors
    ///
    /// No port could be had.
    pub fn to(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if serving.ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                let refusing = serving.plan().refusing;
                if !refusing {
                    // A server that is away is as good as a refusal.
                    drop(connect(&serving, client, server));
                }
            }
        });
        Ok(Self { address, shared })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next `times` times that a client sends `needle`, `fault` happens to its connection.
    pub fn plan(&self, needle: impl Into<Vec<u8>>, times: u64, fault: Fault) {
        self.plan_after(needle, 0, times, fault);
    }

    /// As [`Network::plan`], after `skip` times that pass.
    pub fn plan_after(&self, needle: impl Into<Vec<u8>>, skip: u64, times: u64, fault: Fault) {
        self.shared.plan().faults.push(Planned {
            needle: needle.into(),
            skip,
            times,
            fault,
        });
    }

    /// Cuts every connection, and every new one at once, until [`Network::heal`].
    pub fn cut(&self) {
        let open = {
            let mut plan = self.shared.plan();
            plan.refusing = true;
            std::mem::take(&mut plan.open)
        };
        for (client, server) in open {
            end(&client);
            end(&server);
        }
    }

    /// Forgets every plan and lets connections through. Those that are silent stay so.
    pub fn heal(&self) {
        let mut plan = self.shared.plan();
        plan.refusing = false;
        plan.faults.clear();
    }

    /// How many faults have happened.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.shared.plan().hits
    }

    /// How many connections there have been.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.plan().connections
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.cut();
        // The thread that accepts looks up once more.
        drop(TcpStream::connect(self.address));
    }
}

fn end(stream: &TcpStream) {
    // It may have ended by itself.
    drop(stream.shutdown(Shutdown::Both));
}

fn connect(shared: &Arc<Shared>, client: TcpStream, server: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    {
        let mut plan = shared.plan();
        plan.connections += 1;
        plan.open.push((client.try_clone()?, server.try_clone()?));
    }
    let answering = Arc::new(Answering {
        state: Mutex::new(Answers::Pass),
        changed: Condvar::new(),
    });
    let back = (
        server.try_clone()?,
        client.try_clone()?,
        Arc::clone(&answering),
    );
    std::thread::spawn(move || {
        let (server, client, answering) = back;
        answers(server, client, &answering);
        answering.set(Answers::Ended);
    });
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        // An error is an end of the connection, which both ends are told below.
        drop(messages(&shared, &client, &server, &answering));
        end(&client);
        end(&server);
    });
    Ok(())
}

fn answers(mut server: TcpStream, mut client: TcpStream, answering: &Answering) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = match server.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        let state = *answering
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match state {
            Answers::Pass => {
                if client
                    .write_all(buffer.get(..n).unwrap_or_default())
                    .is_err()
                {
                    break;
                }
            }
            Answers::Swallow => answering.set(Answers::Swallowed),
            Answers::Swallowed | Answers::Ended => {}
        }
    }
    let state = *answering
        .state
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if state == Answers::Pass {
        end(&client);
    }
}

/// The rest of a message: what the client sends until it pauses.
fn rest(client: &TcpStream, message: &mut Vec<u8>) -> io::Result<()> {
    client.set_read_timeout(Some(QUIET))?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match (&*client).read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => message.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                break;
            }
            Err(e) => return Err(e),
        }
    }
    client.set_read_timeout(None)
}

/// Reads and drops what the client still sends, until it gives up.
fn ignore(client: &TcpStream) {
    let mut buffer = vec![0; CHUNK];
    while matches!((&*client).read(&mut buffer), Ok(n) if n > 0) {}
}

fn messages(
    shared: &Shared,
    client: &TcpStream,
    server: &TcpStream,
    answering: &Answering,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut tail = Vec::new();
    loop {
        let n = (&*client).read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        let mut message = buffer.get(..n).unwrap_or_default().to_vec();
        let Some(fault) = shared.next(&mut tail, &message) else {
            (&*server).write_all(&message)?;
            continue;
        };
        match fault {
            Fault::Delayed(time) => {
                crate::crash::pause(time);
                (&*server).write_all(&message)?;
            }
            Fault::Lost => return Ok(()),
            Fault::Torn => {
                rest(client, &mut message)?;
                let half = message.len() / 2;
                return (&*server).write_all(message.get(..half).unwrap_or_default());
            }
            Fault::AnswerLost => {
                answering.set(Answers::Swallow);
                rest(client, &mut message)?;
                (&*server).write_all(&message)?;
                answering.wait();
                return Ok(());
            }
            Fault::Late(time) => {
                answering.set(Answers::Swallow);
                rest(client, &mut message)?;
                end(client);
                crate::crash::pause(time);
                (&*server).write_all(&message)?;
                answering.wait();
                return Ok(());
            }
            Fault::Silence => {
                answering.set(Answers::Swallowed);
                ignore(client);
                return Ok(());
            }
            Fault::SilentAnswer => {
                answering.set(Answers::Swallowed);
                (&*server).write_all(&message)?;
                // The server gets the whole message, and then nothing: not even that the client is gone.
                message.clear();
                rest(client, &mut message)?;
                (&*server).write_all(&message)?;
                ignore(client);
                return Ok(());
            }
            Fault::AnsweredInstead(answer) => {
                answering.set(Answers::Swallowed);
                rest(client, &mut message)?;
                return (&*client).write_all(&answer);
            }
            Fault::AnswerReplaced(answer) => {
                answering.set(Answers::Swallow);
                rest(client, &mut message)?;
                (&*server).write_all(&message)?;
                answering.wait();
                return (&*client).write_all(&answer);
            }
        }
    }
}
