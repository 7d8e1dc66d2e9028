//! A server of a test's own starts, crashes and recovers.

use std::net::TcpStream;

use audit_testkit::postgres::{PostgresServer, programs};

#[test]
fn a_server_of_its_own_comes_up_again_after_a_crash() {
    let Some(programs) = programs() else {
        let must_run = std::env::var_os("AUDIT_TEST_SERVICES").is_some_and(|v| v == "1");
        assert!(
            !must_run,
            "PostgreSQL is missing and AUDIT_TEST_SERVICES is 1"
        );
        println!("skipped: PostgreSQL is not installed");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut server = PostgresServer::new(dir.path(), programs, &["fsync=off"]).unwrap();
    server.start(None).unwrap();
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
