//! Passwords and certificates that a process finds around it: the environment can't be changed within one.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use audit_store_postgres::{OpenOptions, PostgresStore, PostgresUrl};

use crate::support::place_or_skip;

const URL: &str = "AUDIT_TEST_ENVIRONMENT_URL";

/// Prints whatever the driver logs, as a service might.
struct Said;

impl tracing::Subscriber for Said {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        println!("{span:?}");
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        println!("{values:?}");
    }
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        println!("{event:?}");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Opens the store that the environment names, in a process of its own.
#[tokio::test]
async fn a_process_that_connects() {
    let Ok(url) = std::env::var(URL) else { return };
    tracing::subscriber::set_global_default(Said).unwrap();
    tracing::warn!("is heard");
    let url: PostgresUrl = url.parse().unwrap();
    match PostgresStore::open(&url, OpenOptions::read_write()).await {
        Ok(_) => println!("opened"),
        Err(e) => println!("refused: {e} {e:?} {url:?}"),
    }
}

/// What such a process says in this environment.
pub(crate) fn connecting(url: &str, environment: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "password::a_process_that_connects",
            "--nocapture",
        ])
        .env_remove("PGPASSWORD")
        .env_remove("PGPASSFILE")
        .env("HOME", "/nonexistent")
        .env(URL, url)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn the_password_is_not_found_where_libpq_finds_it() {
    let place = place_or_skip!();
    drop(place.created().await);
    let (start, behind) = place.server().split_once('@').unwrap();
    let (scheme, user) = start.split_once("://").unwrap();
    let (user, password) = user.split_once(':').unwrap();
    let url = format!("{scheme}://{user}@{behind}?schema={}", place.schema());
    let (address, database) = behind.split_once('/').unwrap();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(".pgpass");
    let named = path.display().to_string();
    let write = |mode, text: &str| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    };
    let by_name = [("PGPASSFILE", named.as_str())];
    let by_home = [("HOME", home.path().to_str().unwrap())];
    let opens = |what: &str, environment: &[(&str, &str)]| {
        let said = connecting(&url, environment);
        assert!(said.contains("opened"), "{what}: {said}");
        assert!(
            said.contains("is heard") && !said.contains(password),
            "{said}"
        );
    };
    let refuses = |hint: &str, environment: &[(&str, &str)]| {
        let said = connecting(&url, environment);
        assert!(said.contains("refused") && said.contains(hint), "{said}");
        assert!(
            !said.contains(password) && !said.contains("not-it"),
            "{said}"
        );
    };
    for line in [
        format!("{address}:{database}:{user}:{password}"),
        format!("*:*:*:*:{password}"),
        format!(
            "# ours\n\nmalformed {password}\n*:*:other:*:not-it\n*:*:{database}:*:{password}\n"
        ),
    ] {
        write(0o600, &line);
        opens(&line, &by_name);
        opens(&line, &by_home);
    }
    opens("PGPASSWORD", &[("PGPASSWORD", password)]);

    for mode in [0o640, 0o604, 0o666] {
        write(mode, &format!("*:*:*:*:{password}"));
        for environment in [&by_name, &by_home] {
            refuses(&format!("mode {mode:o}"), environment);
            refuses(&format!("chmod 600 {named}"), environment);
        }
    }
    write(0o600, "*:*:*:*:not-it");
    refuses("PGPASSFILE", &by_name);
    refuses("PGPASSFILE", &[("PGPASSWORD", "not-it")]);
    refuses("No such file", &[("PGPASSFILE", "/nonexistent/file")]);
    refuses("PGPASSFILE", &[]);
}
