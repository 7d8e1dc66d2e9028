//! Opening: what is wrong is said, with what to do about it.

use audit_core::store::{ReadStore as _, Store as _};
use audit_core::{Error, ErrorKind};
use audit_store_postgres::{Migrations, OpenOptions, PostgresStore, PostgresUrl};
use audit_testkit::postgres::PostgresServer;
use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::password::connecting;
use crate::support::{append, place_or_skip};

async fn refused(url: &str) -> Error {
    let url: PostgresUrl = url.parse().unwrap();
    PostgresStore::open(&url, OpenOptions::read_write())
        .await
        .unwrap_err()
}

fn says(error: &Error, kind: ErrorKind, what: &str) {
    assert_eq!(error.kind(), kind, "{error:?}");
    let text = error.to_string();
    assert!(text.contains(what), "{text:?} doesn't say {what:?}");
}

/// The server under another name for the same address, with options.
fn by_name(server: &PostgresServer, name: &str, options: &str) -> String {
    let port = server.address().port();
    format!("{}?{options}", server.url(format!("{name}:{port}")))
}

/// The parts of the tests' URL: before the password, the password, and behind it.
fn parts(server: &str) -> (String, String, String) {
    let (user, rest) = server.split_once("//").unwrap().1.split_once(':').unwrap();
    let (password, behind) = rest.split_once('@').unwrap();
    (user.to_owned(), password.to_owned(), behind.to_owned())
}

#[tokio::test]
async fn what_is_wrong_with_a_url_or_a_server_is_said_without_the_password() {
    let place = place_or_skip!();
    let (user, password, behind) = parts(place.server());
    let (host, _) = behind.split_once('/').unwrap();
    for (url, kind, what) in [
        (
            format!("postgres://{user}:{password}@no-such-host.invalid/audit"),
            ErrorKind::Unavailable,
            "can't be resolved",
        ),
        (
            format!("postgres://{user}:{password}@127.0.0.1:1/audit"),
            ErrorKind::Unavailable,
            "nothing listens there",
        ),
        (
            format!("postgres://{user}:not-{password}@{behind}"),
            ErrorKind::Unavailable,
            "password",
        ),
        (
            format!("postgres://nobody_at_all:{password}@{behind}"),
            ErrorKind::Unavailable,
            "password",
        ),
        (
            format!("postgres://{user}:{password}@{host}/no_such_database"),
            ErrorKind::NotFound,
            "no such database",
        ),
        (
            format!(
                "postgres://{user}:{password}@{behind}?schema={}",
                place.named("none")
            ),
            ErrorKind::NotFound,
            "holds no store",
        ),
    ] {
        let error = refused(&url).await;
        says(&error, kind, what);
        let all = format!("{error} {error:?}");
        assert!(!all.contains(&password), "{all}");
    }
}

#[tokio::test]
async fn a_store_is_made_once_and_a_schema_that_is_not_ours_is_refused() {
    let place = place_or_skip!();
    let store = place.filled(2).await;
    let again = PostgresStore::create(&place.url(), true).await.unwrap_err();
    says(
        &again,
        ErrorKind::Invalid,
        "already is the store of the log \"example.com/log\"",
    );
    let read = PostgresStore::open(&place.url(), OpenOptions::read_only())
        .await
        .unwrap();
    let error = read.create("example.com/other").await.unwrap_err();
    says(&error, ErrorKind::Invalid, "read only");
    drop(store);
    place.sql("CREATE VIEW extra AS SELECT 1 AS x").await;
    let error = PostgresStore::open(&place.url(), OpenOptions::read_only())
        .await
        .unwrap_err();
    says(&error, ErrorKind::Corrupt, "extra");
}

#[tokio::test]
async fn a_schema_of_another_version_is_refused_or_migrated() {
    let place = place_or_skip!();
    let url = place.next();
    assert_eq!(Migrations::status(&url).await.unwrap().version, None);
    let without = PostgresStore::create(&url, false).await.unwrap_err();
    says(&without, ErrorKind::NotFound, "migrate up");
    // Three at once: one does it.
    let (a, b, c) = tokio::join!(
        Migrations::up(&url),
        Migrations::up(&url),
        Migrations::up(&url)
    );
    let done: Vec<usize> = [a, b, c]
        .into_iter()
        .map(|done| done.unwrap().len())
        .collect();
    assert_eq!(done.iter().sum::<usize>(), 1, "{done:?}");
    let status = Migrations::status(&url).await.unwrap();
    assert_eq!((status.version, status.pending.len()), (Some(1), 0));
    PostgresStore::create(&url, false)
        .await
        .unwrap()
        .create("example.com/log")
        .await
        .unwrap();

    place.sql("INSERT INTO migration VALUES (2, 'later')").await;
    let error = PostgresStore::open(&url, OpenOptions::read_write())
        .await
        .unwrap_err();
    says(&error, ErrorKind::Invalid, "schema version 2");
    place
        .sql("UPDATE migration SET name = 'other' WHERE version = 1")
        .await;
    let error = PostgresStore::open(&url, OpenOptions::read_write())
        .await
        .unwrap_err();
    says(&error, ErrorKind::Corrupt, "migration 1");
}

fn pem(what: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {what}-----\n{}\n-----END {what}-----\n",
        lines.join("\n")
    )
}

#[tokio::test]
async fn tls_is_verified_against_the_authority_and_the_name() {
    let Some(mut server) = PostgresServer::started(&[]).unwrap() else {
        return;
    };
    for mode in ["verify-full", "require"] {
        let error = refused(&by_name(&server, "localhost", &format!("sslmode={mode}"))).await;
        says(&error, ErrorKind::Unavailable, "no TLS");
    }
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate, Issuer::new(params, key))
    };
    let ((trusted, issuer), (other, _)) = (authority("ours"), authority("another"));
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    for (name, text) in [
        ("server.crt", pem("CERTIFICATE", certificate.der())),
        ("server.key", pem("PRIVATE KEY", key.serialized_der())),
        (
            "pg_hba.conf",
            "hostssl all all 127.0.0.1/32 scram-sha-256\n".to_owned(),
        ),
    ] {
        server.write_file(name, &text).unwrap();
    }
    server.restart(&["ssl=on"]).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, der: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem("CERTIFICATE", der)).unwrap();
        path.display().to_string()
    };
    let (trusted, other) = (
        file("trusted.pem", trusted.der()),
        file("other.pem", other.der()),
    );
    let good = by_name(
        &server,
        "localhost",
        &format!("sslmode=verify-full&sslrootcert={trusted}"),
    );
    let url: PostgresUrl = good.parse().unwrap();
    let store = PostgresStore::create(&url, true).await.unwrap();
    store.create("example.com/log").await.unwrap();
    assert_eq!(append(&store, 3, 1).await.size, 3);
    assert!(store.publisher_lease().await.unwrap().is_some());

    for (host, options, what) in [
        (
            "localhost",
            "sslmode=verify-full".to_owned(),
            "not signed by anyone",
        ),
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={other}"),
            "not signed by anyone",
        ),
        (
            "127.0.0.1",
            format!("sslmode=verify-full&sslrootcert={trusted}"),
            "for another name",
        ),
        (
            "localhost",
            "sslmode=verify-full&sslrootcert=/no/such/file".to_owned(),
            "no such socket or file",
        ),
        ("localhost", "sslmode=disable".to_owned(), "without TLS"),
    ] {
        let error = refused(&by_name(&server, host, &options)).await;
        says(&error, ErrorKind::Unavailable, what);
    }
    // The same by libpq's environment.
    let trusts = |file| ("PGSSLROOTCERT", file);
    for (host, environment, what) in [
        (
            "localhost",
            [("PGSSLMODE", "verify-full"), trusts(trusted.as_str())],
            "opened",
        ),
        (
            "localhost",
            [("PGSSLMODE", "verify-full"), trusts(other.as_str())],
            "not signed by anyone",
        ),
        (
            "127.0.0.1",
            [("PGSSLMODE", "verify-full"), trusts(trusted.as_str())],
            "for another name",
        ),
        (
            "127.0.0.1",
            [("PGSSLMODE", "verify-ca"), trusts(trusted.as_str())],
            "opened",
        ),
        (
            "localhost",
            [("PGSSLMODE", "disable"), trusts(trusted.as_str())],
            "without TLS",
        ),
        (
            "localhost",
            [("PGSSLMODE", "verify-full"), trusts("/no/such/file")],
            "no such socket or file",
        ),
    ] {
        let said = connecting(&by_name(&server, host, ""), &environment);
        assert!(said.contains(what), "{environment:?}: {said}");
        assert!(
            !said.contains("of this test alone") && !said.contains("of%20this"),
            "{said}"
        );
    }
    // The name isn't asked for, or nothing is.
    for options in [
        format!("sslmode=verify-ca&sslrootcert={trusted}"),
        "sslmode=require".to_owned(),
        "sslmode=prefer".to_owned(),
    ] {
        let url: PostgresUrl = by_name(&server, "127.0.0.1", &options).parse().unwrap();
        PostgresStore::open(&url, OpenOptions::read_only())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_server_that_loses_commits_is_taken() {
    let Some(mut server) = PostgresServer::started(&["fsync=off"]).unwrap() else {
        return;
    };
    let url = server.url(server.address());
    says(&refused(&url).await, ErrorKind::Unavailable, "fsync = off");
    let allowed: PostgresUrl = format!("{url}?unsafe_server=allow").parse().unwrap();
    PostgresStore::create(&allowed, true)
        .await
        .unwrap()
        .create("example.com/log")
        .await
        .unwrap();
    server.restart(&["full_page_writes=off"]).unwrap();
    says(
        &refused(&url).await,
        ErrorKind::Unavailable,
        "full_page_writes = off",
    );
    let read: PostgresUrl = url.parse().unwrap();
    PostgresStore::open(&read, OpenOptions::read_only())
        .await
        .unwrap();
    // What the server or a role says by default makes no commit less durable.
    server
        .restart(&[
            "synchronous_commit=off",
            "default_transaction_isolation=serializable",
        ])
        .unwrap();
    let store = PostgresStore::open(&read, OpenOptions::read_write())
        .await
        .unwrap();
    append(&store, 3, 1).await;
    // A server that is started again, in between, is found again.
    server.restart(&[]).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(append(&store, 3, 2).await.size, 6);
    server.crash().unwrap();
    let error = store.head().await.unwrap_err();
    says(&error, ErrorKind::Unavailable, "");
}
