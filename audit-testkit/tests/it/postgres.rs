//! A server of a test's own starts, crashes and recovers.

use std::net::TcpStream;

use audit_testkit::postgres::PostgresServer;

#[test]
fn a_server_of_its_own_comes_up_again_after_a_crash() {
    let Some(mut server) = PostgresServer::started(&["fsync=off"]).unwrap() else {
        return;
    };
    TcpStream::connect(server.address()).unwrap();
    server.crash().unwrap();
    TcpStream::connect(server.address()).unwrap_err();
    server.start(None).unwrap();
    let log = std::fs::read_to_string(server.log()).unwrap();
    assert!(log.contains("was interrupted"), "{log}");
    server.stop().unwrap();
    server.start(None).unwrap();
    let log = std::fs::read_to_string(server.log()).unwrap();
    assert!(log.contains("was shut down"), "{log}");
}
