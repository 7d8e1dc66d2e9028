//! What the server's own files say: damage to an index is found, by `amcheck` where it is installed, and without it.

use std::fs::OpenOptions as File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use audit_core::ErrorKind;
use audit_core::store::{ReadStore as _, Store as _};
use audit_store_postgres::{OpenOptions, PostgresStore, PostgresUrl};
use audit_testkit::network::{Fault, Network};
use audit_testkit::postgres::PostgresServer;
use sqlx::Row as _;

use crate::network::{address, by_way_of};
use crate::support::{append, place_or_skip, raw};

/// As the server makes them.
const PAGE: u64 = 8192;

/// Two entries of an index change places in its file: no byte is lost, and searches go astray.
#[tokio::test]
async fn an_index_out_of_order_on_the_disk_goes_unnoticed() {
    for extension in [true, false] {
        let Some(mut server) = PostgresServer::started(&[]).unwrap() else {
            return;
        };
        let url = server.url(server.address());
        let mut root = raw(&url, "audit_trail").await;
        if extension {
            let made = sqlx::raw_sql("CREATE EXTENSION amcheck SCHEMA public");
            made.execute(&mut root).await.unwrap();
        }
        let parsed: PostgresUrl = url.parse().unwrap();
        let store = PostgresStore::create(&parsed, true).await.unwrap();
        store.create("example.com/log").await.unwrap();
        append(&store, 50, 1).await;
        store.integrity().await.unwrap();
        let file = sqlx::query("SELECT pg_relation_filepath('entry_event')")
            .fetch_one(&mut root)
            .await
            .unwrap();
        let file: String = file.get(0);
        drop((store, root));
        server.stop().unwrap();
        let file = File::new()
            .read(true)
            .write(true)
            .open(server.data().join(file))
            .unwrap();
        // Behind the page of the index itself comes the only leaf: 24 bytes of header, then four for each entry.
        let mut pointers = [0; 8];
        file.read_exact_at(&mut pointers, PAGE + 24).unwrap();
        pointers.rotate_left(4);
        file.write_all_at(&pointers, PAGE + 24).unwrap();
        server.start(None).unwrap();

        let store = PostgresStore::open(&parsed, OpenOptions::read_only())
            .await
            .unwrap();
        let error = store.integrity().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        let text = error.to_string();
        assert!(text.contains("entry_event"), "{text}");
        let what = if extension {
            "item order invariant"
        } else {
            "out of order"
        };
        assert!(text.contains(what), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_whose_answer_is_lost_never_ends() {
    let place = place_or_skip!();
    drop(place.filled(3).await);
    let network = Network::to(address(&place)).unwrap();
    let url = by_way_of(&place, network.address());
    let store = PostgresStore::open(&url, OpenOptions::read_only())
        .await
        .unwrap();
    for fault in [Fault::Silence, Fault::SilentAnswer] {
        network.plan("enable_seqscan", 1, fault);
        // Long enough for any machine, and short of for ever.
        let checked = tokio::time::timeout(Duration::from_mins(5), store.integrity()).await;
        let error = checked.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    }
    store.integrity().await.unwrap();
}
