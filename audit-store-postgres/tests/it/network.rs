//! A bad network between a log and its server: every answer that a caller got is so, whatever was lost on the way.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use audit_core::ErrorKind;
use audit_core::log::{Log, LogOptions};
use audit_core::store::{ReadStore as _, Store};
use audit_store_postgres::{OpenOptions, PostgresStore, PostgresUrl};
use audit_testkit::crash::{Host, Judge, Ledger, event};
use audit_testkit::network::{Fault, Network};

use crate::support::{Place, place_or_skip};

/// Longer than settling an outcome takes.
const LATE: Duration = Duration::from_millis(800);

/// The server's address, and the URL of the last store by way of `address` and without TLS, so that the network can read.
pub(crate) fn by_way_of(place: &Place, address: SocketAddr) -> PostgresUrl {
    let (user, rest) = place.server().split_once('@').unwrap();
    let database = rest.split_once('/').unwrap().1;
    let database = database.split('?').next().unwrap();
    place.url_as(&format!("{user}@{address}/{database}?sslmode=disable"))
}

pub(crate) fn address(place: &Place) -> SocketAddr {
    let (_, rest) = place.server().split_once('@').unwrap();
    let host = rest.split('/').next().unwrap();
    host.to_socket_addrs().unwrap().next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_lost_on_the_way_an_answer_is_so() {
    let place = place_or_skip!();
    drop(place.next());
    let network = Network::to(address(&place)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new(dir.path());
    host.make_dirs().unwrap();
    let keys = host.make_keys().unwrap();
    let direct = PostgresStore::create(&place.url(), true).await.unwrap();
    let options = |store: Arc<dyn Store>| {
        let mut options = LogOptions::new(store, Arc::clone(&keys));
        options.state_dir = Some(host.state_dir());
        options
    };
    Log::create(options(Arc::new(direct)))
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    let url = by_way_of(&place, network.address());
    let direct = place.opened().await;
    let mut ledger = Ledger::default();
    // What is lost, and how often in a row: the second time it meets the attempt to find out what became of the first.
    let faults = [
        (Fault::Lost, 1),
        (Fault::Torn, 1),
        (Fault::AnswerLost, 1),
        (Fault::Late(LATE), 1),
        (Fault::Delayed(LATE), 1),
        (Fault::Lost, 3),
        (Fault::AnswerLost, 3),
    ];
    let mut process = 0;
    let (mut kept, mut refused) = (0, 0);
    for (fault, times) in faults {
        // The second append of a run is one statement; the first one locks, and commits by a word of its own.
        for (nth, needle) in [(0, Some("COMMIT")), (1, None)] {
            process += 1;
            let what = format!("{fault:?}, {times} times, at append {nth}");
            let store = PostgresStore::open(&url, OpenOptions::read_write())
                .await
                .unwrap();
            let log = Log::open(options(Arc::new(store))).await.unwrap();
            let mut fates = Vec::new();
            for n in 0..4 {
                let event = event(process, 0, n).unwrap();
                let id = event.id;
                if n == nth {
                    match needle {
                        Some(word) => network.plan(word, times, fault.clone()),
                        None => network.plan(id.as_bytes().to_vec(), times, fault.clone()),
                    }
                }
                let answer = log.append(event).await;
                fates.push((id, answer.as_ref().err().map(audit_core::Error::kind)));
                match answer {
                    Ok(receipt) => {
                        let (id, index, leaf) = (receipt.event, receipt.index, receipt.leaf_hash);
                        ledger.hear(&format!("ack {id} {index} {leaf}")).unwrap();
                    }
                    // The judge wants a caller's events without a gap.
                    Err(_) => break,
                }
            }
            drop(log.close().await);
            network.heal();
            // What was on its way has arrived by now.
            tokio::time::sleep(2 * LATE).await;
            for (id, error) in fates {
                let there = direct.position(id).await.unwrap().is_some();
                match error {
                    None => {
                        assert!(there, "{what}: {id} was acknowledged and isn't there");
                        kept += 1;
                    }
                    Some(ErrorKind::Unknown) => {}
                    Some(_) => {
                        assert!(!there, "{what}: {id} was refused and is there");
                        refused += 1;
                    }
                }
            }
        }
    }
    println!(
        "{} faults, {kept} appends kept, {refused} refused",
        network.hits()
    );
    assert!(network.hits() >= 7, "hardly anything went wrong");
    let judge = Judge::new(&host).unwrap();
    let store: Arc<dyn Store> = Arc::new(place.opened().await);
    let contents = judge.recover(&store, 1000).await.unwrap();
    contents.keeps(&ledger).unwrap();
}
