//! The bad network does what its faults say.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use audit_testkit::network::{Fault, Network};

/// A server that tells what lines it got, and answers each with `got LINE`.
fn server() -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, tell) = (stream.unwrap(), tell.clone());
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                loop {
                    let mut line = String::new();
                    match lines.read_line(&mut line) {
                        Ok(0) | Err(_) => break,
                        Ok(_) => {}
                    }
                    drop(tell.send(line.clone()));
                    if line.ends_with('\n') {
                        drop((&stream).write_all(format!("got {line}").as_bytes()));
                    }
                }
                drop(tell.send("end".to_owned()));
            });
        }
    });
    (address, told)
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn to(network: &Network) -> Self {
        let stream = TcpStream::connect(network.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self(BufReader::new(stream))
    }

    fn ask(&mut self, line: &str) -> String {
        // A connection that has ended may take bytes or not.
        drop(self.0.get_mut().write_all(line.as_bytes()));
        let mut answer = String::new();
        let ended = match self.0.read_line(&mut answer) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => true,
            read => read.unwrap() == 0,
        };
        if ended { "end".to_owned() } else { answer }
    }
}

fn told(told: &Receiver<String>) -> String {
    told.recv_timeout(Duration::from_secs(20)).unwrap()
}

#[test]
fn what_is_not_planned_passes() {
    let (address, server) = server();
    let network = Network::to(address).unwrap();
    let mut client = Client::to(&network);
    network.plan_after("commit", 1, 1, Fault::Lost);
    assert_eq!(client.ask("begin\n"), "got begin\n");
    assert_eq!(client.ask("commit\n"), "got commit\n");
    assert_eq!(network.hits(), 0);
    assert_eq!(client.ask("commit\n"), "end");
    assert_eq!((network.hits(), network.connections()), (1, 1));
    assert_eq!(told(&server), "begin\n");
    assert_eq!(told(&server), "commit\n");
    assert_eq!(told(&server), "end");
    // Once was planned.
    let mut client = Client::to(&network);
    assert_eq!(client.ask("commit\n"), "got commit\n");
}

#[test]
fn a_needle_is_found_across_pieces() {
    let (address, _server) = server();
    let network = Network::to(address).unwrap();
    network.plan("commit", 1, Fault::Lost);
    let mut client = Client::to(&network);
    for piece in ["be com", "m", "i"] {
        client.0.get_mut().write_all(piece.as_bytes()).unwrap();
        audit_testkit::crash::pause(Duration::from_millis(30));
    }
    assert_eq!(client.ask("t\n"), "end");
    assert_eq!(network.hits(), 1);
}

#[test]
fn each_fault_tells_both_ends_what_it_says() {
    let late = Duration::from_millis(300);
    // What the client is answered, and what the server hears.
    let cases = [
        (Fault::Lost, "end", vec!["end"]),
        (Fault::Torn, "end", vec!["com", "end"]),
        (Fault::AnswerLost, "end", vec!["commit\n", "end"]),
        (Fault::Late(late), "end", vec!["commit\n", "end"]),
        (Fault::Delayed(late), "got commit\n", vec!["commit\n"]),
        (
            Fault::AnsweredInstead(b"503\n".to_vec()),
            "503\n",
            vec!["end"],
        ),
        (
            Fault::AnswerReplaced(b"500\n".to_vec()),
            "500\n",
            vec!["commit\n", "end"],
        ),
    ];
    for (fault, answer, heard) in cases {
        let (address, server) = server();
        let network = Network::to(address).unwrap();
        network.plan("commit", 1, fault.clone());
        let mut client = Client::to(&network);
        assert_eq!(client.ask("commit\n"), answer, "{fault:?}");
        for line in heard {
            assert_eq!(told(&server), line, "{fault:?}");
        }
    }
}

#[test]
fn silence_tells_nobody() {
    for (fault, heard) in [
        (Fault::Silence, None),
        (Fault::SilentAnswer, Some("commit\n")),
    ] {
        let (address, server) = server();
        let network = Network::to(address).unwrap();
        network.plan("commit", 1, fault);
        let client = Client::to(&network);
        let stream = client.0.into_inner();
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        (&stream).write_all(b"commit\n").unwrap();
        let read = (&stream).read(&mut [0; 16]).unwrap_err();
        assert_eq!(read.kind(), io::ErrorKind::WouldBlock);
        let got = server.recv_timeout(Duration::from_millis(300)).ok();
        assert_eq!(got.as_deref(), heard);
        // New connections are as before.
        assert_eq!(Client::to(&network).ask("commit\n"), "got commit\n");
    }
}

#[test]
fn a_cut_network_refuses_until_it_is_healed() {
    let (address, _server) = server();
    let network = Network::to(address).unwrap();
    let mut client = Client::to(&network);
    assert_eq!(client.ask("one\n"), "got one\n");
    network.cut();
    assert_eq!(client.ask("two\n"), "end");
    assert_eq!(Client::to(&network).ask("three\n"), "end");
    network.heal();
    assert_eq!(Client::to(&network).ask("four\n"), "got four\n");
}
