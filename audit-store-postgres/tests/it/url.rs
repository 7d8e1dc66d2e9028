//! URLs of stores.

use audit_core::ErrorKind;
use audit_store_postgres::PostgresUrl;

fn refused(url: &str) -> String {
    let error = url.parse::<PostgresUrl>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
    format!("{error} {error:?}")
}

#[test]
fn a_url_says_where_and_never_the_password() {
    for (url, shown) in [
        (
            "postgres://ann:hunter2@db.example/audit",
            "postgres://ann@db.example:5432/audit?schema=audit_trail",
        ),
        (
            "postgresql://ann:hunter2@db.example:6000/audit?schema=a_1",
            "postgres://ann@db.example:6000/audit?schema=a_1",
        ),
        (
            "postgres://ann:hunter2@[::1]:6000/audit",
            "postgres://ann@[::1]:6000/audit?schema=audit_trail",
        ),
        (
            "postgres://ann:hunter2@%2Frun%2Fx/audit?schema=s&sslmode=disable",
            "postgres://ann@/run/x/audit?schema=s",
        ),
        (
            "postgres://ann@db.example/audit?unsafe_server=allow",
            "postgres://ann@db.example:5432/audit?schema=audit_trail",
        ),
    ] {
        let parsed: PostgresUrl = url.parse().unwrap();
        assert_eq!(parsed.to_string(), shown);
        assert!(!format!("{parsed:?}").contains("hunter2"), "{parsed:?}");
    }
}

#[test]
fn a_url_that_is_wrong_is_refused_without_repeating_the_password() {
    for url in [
        "",
        "sqlite:log.db",
        "POSTGRES://ann:hunter2@db/audit",
        "postgres:ann:hunter2@db/audit",
        "postgres://ann:hunter2@db:port/audit",
        "postgres://ann:hunter2@db/audit?schema=",
        "postgres://ann:hunter2@db/audit?schema=Upper",
        "postgres://ann:hunter2@db/audit?schema=pg_catalog",
        "postgres://ann:hunter2@db/audit?schema=a-b",
        "postgres://ann:hunter2@db/audit?schema=a%20b",
        "postgres://ann:hunter2@db/audit?schema=1",
        "postgres://ann:hunter2@db/audit?password=hunter2",
        "postgres://ann:hunter2@db/audit?sslmode=sometimes",
        "postgres://ann:hunter2@db/audit?no_such_option=1",
        "postgres://ann:hunter2@db/audit?unsafe_server=yes",
        "postgres://ann:hunter2@db/audit?options=-c%20synchronous_commit%3Doff",
    ] {
        assert!(!refused(url).contains("hunter2"), "{}", refused(url));
    }
}

#[test]
fn tls_is_given_up_silently() {
    for mode in ["prefer", "allow"] {
        let said = refused(&format!("postgres://ann@db.example/audit?sslmode={mode}"));
        assert!(said.contains("verify-full"), "{said}");
        format!("postgres://ann@127.0.0.1/audit?sslmode={mode}")
            .parse::<PostgresUrl>()
            .unwrap();
    }
    for mode in ["verify-full", "verify-ca", "require", "disable"] {
        format!("postgres://ann@db.example/audit?sslmode={mode}")
            .parse::<PostgresUrl>()
            .unwrap();
    }
}
