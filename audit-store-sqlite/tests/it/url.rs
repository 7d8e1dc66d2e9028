//! URLs of stores.

use std::path::Path;

use audit_core::ErrorKind;
use audit_store_sqlite::parse_url;

#[test]
fn a_url_is_a_scheme_and_a_path() {
    for (url, path) in [
        ("sqlite:log.db", "log.db"),
        ("sqlite:/var/lib/log.db", "/var/lib/log.db"),
        ("sqlite:///var/lib/log.db", "/var/lib/log.db"),
        ("sqlite:../a b%20c#d.db", "../a b%20c#d.db"),
    ] {
        assert_eq!(parse_url(url).unwrap(), Path::new(path), "{url}");
    }
    for url in [
        "",
        "log.db",
        "SQLITE:log.db",
        "postgres://host/log",
        "sqlite:",
        "sqlite://",
        "sqlite://host/log.db",
        "sqlite:log.db?mode=ro",
        "sqlite:log\0.db",
    ] {
        assert_eq!(
            parse_url(url).unwrap_err().kind(),
            ErrorKind::Invalid,
            "{url}"
        );
    }
}
