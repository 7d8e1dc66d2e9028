//! A log that succeeds another says so in its first entry, and only there.

use std::sync::Arc;

use audit_core::ErrorKind;
use audit_core::chain::AuditorKey;
use audit_core::entry::{Entry, FORMAT, FORMAT_2, TreeHead, kinds};
use audit_core::event::{Actor, ActorKind};
use audit_core::hex::Hex;
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions, Succession};
use audit_core::reader::RecordContent;
use audit_core::time::{Clock as _, System};
use audit_testkit::evidence::StoreEvidence;
use audit_testkit::memory::MemoryStore;
use audit_verify::{Outcome, Policy};

const REASON: &str = "both disks of the pair failed";

async fn log(origin: &str, succession: Option<Succession>) -> (MemoryStore, Arc<KeyRing>) {
    let auditor = AuditorKey::random(&System);
    let keys = Arc::new(KeyRing::generate(origin, auditor.public(), &System).unwrap());
    let store = MemoryStore::new();
    let state = tempfile::tempdir().unwrap();
    let mut options = LogOptions::new(Arc::new(store.clone()), Arc::clone(&keys));
    options.state_dir = Some(state.path().to_owned());
    options.succession = succession;
    Log::create(options).await.unwrap().close().await.unwrap();
    (store, keys)
}

fn survives(size: u64) -> TreeHead {
    TreeHead {
        root: Hex([3; 32]),
        size,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_entry_names_the_lost_log_and_keeps_reason_and_person_sealed() {
    let (old, old_keys) = log("example.com/first", None).await;
    let (size, note) = old.contents().checkpoints.pop_last().unwrap();
    let vkey = old_keys.vkey();
    let by = Actor::new(ActorKind::Human, "u-17");
    let succession = Succession::new(&note, &vkey, survives(1), REASON, by.clone()).unwrap();
    let (store, keys) = log("example.com/second", Some(succession)).await;
    let rows = store.contents().rows;
    let entry = Entry::decode(&rows[0].entry).unwrap();
    assert_eq!(
        (entry.v, entry.kind.as_str()),
        (FORMAT_2, kinds::LOG_OPENED)
    );
    assert!(
        rows[1..]
            .iter()
            .all(|row| Entry::decode(&row.entry).unwrap().v == FORMAT)
    );
    let predecessor = entry.log.clone().unwrap().predecessor.unwrap();
    assert_eq!(predecessor.origin, "example.com/first");
    assert_eq!(
        (predecessor.lost.size, predecessor.survives.size),
        (size, 1)
    );
    let text = String::from_utf8(rows[0].entry.clone()).unwrap();
    assert!(!text.contains(REASON) && !text.contains("u-17"), "{text}");
    let reader = audit_core::reader::LogReader::new(Arc::new(store.clone()), Arc::clone(&keys));
    let RecordContent::Open(opened) = reader.record(0).await.unwrap().content else {
        panic!("the first entry has no content");
    };
    assert_eq!(opened.event.actor, Some(by.clone()));
    assert_eq!(opened.event.attributes["audit.rollback.reason"], REASON);
    assert_eq!(opened.event.payloads[0].bytes, note);

    let evidence = StoreEvidence::new(Arc::new(store), tokio::runtime::Handle::current());
    let mut policy = Policy::public(keys.vkey(), System.now());
    policy.operator = Some(&keys);
    let verdict = tokio::task::block_in_place(|| audit_verify::verify(&evidence, &policy, &mut ()));
    assert_eq!(verdict.outcome(), Outcome::Held, "{verdict}");
    let said = |text: &str| verdict.notices().iter().any(|notice| notice.contains(text));
    assert!(said("succeeds \"example.com/first\""), "{verdict}");

    // The format allows it nowhere else, and in no other shape.
    let change = |change: &dyn Fn(&mut Entry)| {
        let mut other = entry.clone();
        change(&mut other);
        Entry::decode(&other.encode().unwrap()).unwrap_err()
    };
    for (what, error) in [
        ("version 1", change(&|e| e.v = FORMAT)),
        ("version 3", change(&|e| e.v = 3)),
        (
            "version 2 without it",
            change(&|e| e.log.as_mut().unwrap().predecessor = None),
        ),
        (
            "its own predecessor",
            change(&|e| {
                let log = e.log.as_mut().unwrap();
                log.predecessor.as_mut().unwrap().origin = "example.com/second".into();
            }),
        ),
        (
            "nothing lost",
            change(&|e| {
                let predecessor = e.log.as_mut().unwrap().predecessor.as_mut().unwrap();
                predecessor.survives = predecessor.lost;
            }),
        ),
        (
            "an empty tree lost",
            change(&|e| {
                e.log
                    .as_mut()
                    .unwrap()
                    .predecessor
                    .as_mut()
                    .unwrap()
                    .lost
                    .size = 0;
            }),
        ),
        (
            "no content",
            change(&|e| {
                (e.content, e.key, e.payloads) = (None, None, None);
            }),
        ),
        (
            "another kind",
            change(&|e| {
                e.kind = audit_core::Kind::new(kinds::WRITER_OPENED).unwrap();
                let log = e.log.as_mut().unwrap();
                (log.keys, log.origin) = (None, None);
            }),
        ),
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
    }

    // A loss is accepted only with what shows it.
    let lost = TreeHead {
        root: predecessor.lost.root,
        size,
    };
    for (note, vkey, survives, reason) in [
        (&note, keys.vkey(), survives(1), REASON),
        (&note, vkey.clone(), lost, REASON),
        (&note, vkey.clone(), survives(1), " "),
        (&b"no note".to_vec(), vkey.clone(), survives(1), REASON),
    ] {
        let refused = Succession::new(note, &vkey, survives, reason, by.clone());
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    }
}
