//! What the roles of `sql/roles.sql` may do, and what not.

use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use audit_core::ErrorKind;
use audit_core::store::{Parts, ReadStore as _, Store};
use audit_store_postgres::{Migrations, OpenOptions, PostgresStore, PostgresUrl};
use audit_testkit::conformance::{self, Backend};
use sqlx::AssertSqlSafe;

use crate::support::{Place, append, place_or_skip};

/// Stores that the owner made, opened as a role.
struct As {
    place: Place,
    role: &'static str,
}

fn user(place: &Place, role: &str) -> String {
    place.named(role)
}

/// The tests' URL with the user and password of a role.
fn url_of(place: &Place, role: &str) -> PostgresUrl {
    let (_, behind) = place.server().split_once('@').unwrap();
    place.url_as(&format!("postgres://{}:{role}@{behind}", user(place, role)))
}

/// Runs the script as an administrator would.
fn script(place: &Place) {
    let mut psql = Command::new("psql");
    psql.args(["-qX", "-v", &format!("schema={}", place.schema())]);
    for role in ["owner", "writer", "eraser", "reader"] {
        psql.args(["-v", &format!("{role}={}", user(place, role))]);
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/roles.sql");
    let done = psql.args(["-f", file, place.server()]).output().unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// The next schema, made by the owner, who may log in here, as the other roles may.
async fn made(place: &Place) {
    let first = place.made_so_far() == 0;
    drop(place.next());
    script(place);
    if first {
        let mut raw = crate::support::raw(place.server(), "public").await;
        for role in ["owner", "writer", "eraser", "reader"] {
            let user = user(place, role);
            let sql = format!("ALTER ROLE {user} LOGIN PASSWORD '{role}'");
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut raw)
                .await
                .unwrap();
            place.at_end(format!("DROP OWNED BY {user}; DROP ROLE {user}"));
        }
    }
    Migrations::up(&url_of(place, "owner")).await.unwrap();
    script(place);
    script(place);
}

#[async_trait]
impl Backend for As {
    async fn fresh(&self) -> Arc<dyn Store> {
        made(&self.place).await;
        let url = url_of(&self.place, self.role);
        Arc::new(PostgresStore::create(&url, false).await.unwrap())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        let url = url_of(&self.place, self.role);
        Arc::new(
            PostgresStore::open(&url, OpenOptions::read_write())
                .await
                .unwrap(),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_that_erases_holds_the_whole_contract() {
    let role = As {
        place: place_or_skip!(),
        role: "eraser",
    };
    conformance::run_all(&role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_that_writes_holds_the_contract_but_for_erasing() {
    let role = As {
        place: place_or_skip!(),
        role: "writer",
    };
    let erase = [
        "rewrapping_is_all_or_nothing",
        "erasing_takes_content_and_leaves_proof",
        "what_was_erased_or_rewrapped_before_it_was_copied_is_appended_as_it_is",
    ];
    conformance::run_all_but(&erase, &role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_that_writes_can_change_or_delete_what_is_written() {
    let place = place_or_skip!();
    made(&place).await;
    let url = url_of(&place, "writer");
    let store = PostgresStore::create(&url, false).await.unwrap();
    store.create("example.com/log").await.unwrap();
    append(&store, 300, 1).await;
    store.put_checkpoint(300, b"note").await.unwrap();
    let keys = store.keys(None, 10).await.unwrap();
    for error in [
        store.erase(&[], &[0]).await.unwrap_err(),
        store.erase(&[keys[0].id], &[]).await.unwrap_err(),
        store.rewrap(&keys).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.to_string().contains("roles.sql"), "{error}");
    }
    // Neither does SQL.
    let (_, behind) = place.server().split_once('@').unwrap();
    let server = format!("postgres://{}:writer@{behind}", user(&place, "writer"));
    let mut raw = crate::support::raw(&server, &place.schema()).await;
    for table in [
        "migration",
        "meta",
        "head",
        "entry",
        "content",
        "token",
        "tile",
        "checkpoint",
        "data_key",
    ] {
        let column = match table {
            "migration" | "meta" => "name",
            "head" => "one",
            "token" => "token",
            "tile" => "node",
            "checkpoint" => "size",
            "data_key" => "id",
            _ => "idx",
        };
        for sql in [
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("UPDATE {table} SET {column} = {column}"),
            format!("DROP TABLE {table}"),
            format!("ALTER TABLE {table} DISABLE TRIGGER ALL"),
            format!("CREATE INDEX ON {table} ({column})"),
            format!("SELECT * FROM {table} FOR UPDATE"),
        ] {
            let done = sqlx::raw_sql(AssertSqlSafe(sql.clone()))
                .execute(&mut raw)
                .await;
            let may = sql == "SELECT * FROM head FOR UPDATE";
            let code = done
                .err()
                .and_then(|e| Some(e.as_database_error()?.code()?.into_owned()));
            assert_eq!(code.as_deref(), (!may).then_some("42501"), "{sql}");
        }
    }
    sqlx::raw_sql("INSERT INTO migration VALUES (2, 'x')")
        .execute(&mut raw)
        .await
        .unwrap_err();
    sqlx::raw_sql("CREATE TABLE more (x int)")
        .execute(&mut raw)
        .await
        .unwrap_err();

    // The owner is stopped by the triggers, as far as he lets himself be.
    place.rows("SELECT 1").await;
    let mut owner = place.raw().await;
    for table in ["entry", "tile", "checkpoint"] {
        for sql in [format!("DELETE FROM {table}"), format!("TRUNCATE {table}")] {
            let done = sqlx::raw_sql(AssertSqlSafe(sql.clone()))
                .execute(&mut owner)
                .await;
            let error = done.unwrap_err().to_string();
            assert!(error.contains("never changed or deleted"), "{sql}: {error}");
        }
    }
    assert_eq!(store.rows(0..300, Parts::With).await.unwrap().len(), 300);

    let read = PostgresStore::open(&url_of(&place, "reader"), OpenOptions::read_only())
        .await
        .unwrap();
    assert_eq!(read.head().await.unwrap().size, 300);
    let read = PostgresStore::open(&url_of(&place, "reader"), OpenOptions::read_write())
        .await
        .unwrap();
    let error = read
        .append(Box::new(|head| audit_testkit::sample::batch(head, 1, 2)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.to_string().contains("roles.sql"), "{error}");
}
