//! The log over a store in memory: what it acknowledges, and what it does when the store fails at each step.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use audit_core::chain::{AuditorKey, MacChain, verify_opening};
use audit_core::entry::kinds;
use audit_core::event::{Actor, ActorKind, Media};
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions, StateFile};
use audit_core::reader::{Filter, RecordContent};
use audit_core::store::Store;
use audit_core::time::{Clock as _, IdSource as _, System};
use audit_core::{Entry, ErrorKind, Event, Kind, Payload};
use audit_testkit::faulty::{Call, Fault, FaultyStore};
use audit_testkit::memory::MemoryStore;
use tempfile::TempDir;

struct Bench {
    memory: MemoryStore,
    faulty: FaultyStore,
    keys: Arc<KeyRing>,
    auditor: AuditorKey,
    state: TempDir,
}

impl Bench {
    fn new() -> Self {
        let auditor = AuditorKey::random(&System);
        let memory = MemoryStore::new();
        Self {
            faulty: FaultyStore::new(Arc::new(memory.clone())),
            memory,
            keys: Arc::new(
                KeyRing::generate("example.org/log", auditor.public(), &System).unwrap(),
            ),
            auditor,
            state: tempfile::tempdir().unwrap(),
        }
    }

    fn options(&self) -> LogOptions {
        let store: Arc<dyn Store> = Arc::new(self.faulty.clone());
        let mut options = LogOptions::new(store, Arc::clone(&self.keys));
        options.state_dir = Some(self.state.path().to_owned());
        options.publish = Duration::from_millis(10);
        options
    }

    async fn create(&self) -> Log {
        Log::create(self.options()).await.unwrap()
    }

    fn entries(&self) -> Vec<Entry> {
        self.memory
            .contents()
            .rows
            .iter()
            .map(|row| Entry::decode(&row.entry).unwrap())
            .collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.entries().iter().map(|e| e.kind.to_string()).collect()
    }

    /// Walks every run's MAC chain as an auditor does, and answers with the number of epochs of each run.
    fn audit(&self) -> Vec<u64> {
        let mut chains: HashMap<_, MacChain> = HashMap::new();
        let mut order = Vec::new();
        for entry in self.entries() {
            if entry.seq == 0 {
                let opening = verify_opening(&entry).unwrap();
                let k0 = self
                    .auditor
                    .open_run_key("example.org/log", entry.run, &opening.sealed)
                    .unwrap();
                chains.insert(entry.run, MacChain::start(entry.run, k0));
                order.push(entry.run);
            }
            let chain = chains
                .get_mut(&entry.run)
                .expect("a run begins with its opening");
            chain.verify(&entry).unwrap();
            if entry.kind.as_str() == kinds::EPOCH_CLOSED {
                chain.evolve();
            }
        }
        order.iter().map(|run| chains[run].epoch() + 1).collect()
    }
}

fn event(session: &str, n: usize) -> Event {
    let now = System.now();
    let mut event = Event::new(System.uuid_v7(now), now, Kind::new("llm.request").unwrap());
    event.session_id = Some(session.to_owned());
    event.actor = Some(Actor::new(ActorKind::Agent, "agent-1"));
    event.attributes.insert("n".into(), n.into());
    event.payloads.push(Payload::new(
        "request.body",
        Media::Json,
        format!("{{\"n\":{n}}}").into_bytes(),
    ));
    event
}

#[tokio::test]
async fn what_is_appended_is_read_back_decrypted_and_proven() {
    let bench = Bench::new();
    let log = bench.create().await;
    let sent = event("s1", 7);
    let receipt = log.append(sent.clone()).await.unwrap();
    assert_eq!(receipt.index, 1, "index 0 is the opening");
    let proof = receipt.published().await.unwrap();
    assert_eq!(proof.index, 1);

    let reader = log.reader();
    let record = reader.record(1).await.unwrap();
    let RecordContent::Open(opened) = record.content else {
        panic!("content is not open")
    };
    assert_eq!(opened.event, sent);

    let one = Filter {
        session: Some("s1".into()),
        ..Filter::default()
    };
    assert_eq!(
        reader.find(&one, 0..u64::MAX, false, 10).await.unwrap(),
        [1]
    );
    let other = Filter {
        session: Some("s2".into()),
        ..Filter::default()
    };
    assert!(
        reader
            .find(&other, 0..u64::MAX, false, 10)
            .await
            .unwrap()
            .is_empty()
    );
    log.close().await.unwrap();
    assert_eq!(
        bench.kinds(),
        ["log.opened", "llm.request", "writer.closed"]
    );
    assert_eq!(bench.audit(), [1]);
}

#[tokio::test]
async fn one_field_is_disclosed_and_proven_without_the_others() {
    let bench = Bench::new();
    let log = bench.create().await;
    let receipt = log.append(event("s1", 7)).await.unwrap();
    let record = log.reader().record(receipt.index).await.unwrap();
    let RecordContent::Open(opened) = record.content else {
        panic!("content is not open")
    };
    let content = record.entry.content.unwrap();
    for name in [
        "session_id",
        "actor",
        "attributes/n",
        "payloads/request.body",
    ] {
        let mut field = opened.disclose(name).unwrap();
        field.verify(&content).unwrap();
        field.value.push(b' ');
        assert!(
            field.verify(&content).is_err(),
            "{name} verifies with another value"
        );
        let mut field = opened.disclose(name).unwrap();
        field.position += 1;
        assert!(
            field.verify(&content).is_err(),
            "{name} verifies at another position"
        );
        let mut field = opened.disclose(name).unwrap();
        field.salt.0[0] ^= 1;
        assert!(
            field.verify(&content).is_err(),
            "{name} verifies under another salt"
        );
    }
    assert_eq!(
        opened.disclose("attributes/m").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_get_one_gapless_log() {
    let bench = Bench::new();
    let log = bench.create().await;
    let mut tasks = Vec::new();
    for task in 0..16 {
        let log = log.clone();
        tasks.push(tokio::spawn(async move {
            let mut indexes = Vec::new();
            for n in 0..50 {
                indexes.push(
                    log.append(event(&format!("s{task}"), n))
                        .await
                        .unwrap()
                        .index,
                );
            }
            assert!(indexes.is_sorted(), "one caller's events are out of order");
            indexes
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all.sort_unstable();
    assert!(
        all.iter().copied().eq(1..=800),
        "an index is missing or was given twice"
    );
    log.close().await.unwrap();
    assert_eq!(bench.memory.contents().rows.len(), 802);
    assert_eq!(bench.audit(), [1]);
    assert_eq!(
        bench.memory.contents().keys.len(),
        16,
        "one data key per session and run"
    );
}

#[tokio::test]
async fn every_run_names_the_one_before() {
    let bench = Bench::new();
    bench.create().await.close().await.unwrap();
    for _ in 0..2 {
        let log = Log::open(bench.options()).await.unwrap();
        log.append(event("s", 0)).await.unwrap();
        log.close().await.unwrap();
    }
    let openings: Vec<Entry> = bench.entries().into_iter().filter(|e| e.seq == 0).collect();
    assert_eq!(openings.len(), 3);
    let previous = |e: &Entry| e.log.as_ref().unwrap().opening.as_ref().unwrap().previous;
    assert_eq!(previous(&openings[0]), None);
    assert_eq!(previous(&openings[1]), Some(openings[0].run));
    assert_eq!(previous(&openings[2]), Some(openings[1].run));
    assert_eq!(bench.audit(), [1, 1, 1]);
}

#[tokio::test]
async fn epochs_close_under_traffic_and_an_idle_writer_gives_a_sign_of_life() {
    let bench = Bench::new();
    let mut options = bench.options();
    options.epoch = Duration::from_millis(30);
    options.heartbeat = Duration::from_millis(100);
    let log = Log::create(options).await.unwrap();
    log.append(event("s", 0)).await.unwrap();
    while !bench.kinds().iter().any(|k| k == kinds::HEARTBEAT) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    log.append(event("s", 1)).await.unwrap();
    log.close().await.unwrap();
    let kinds = bench.kinds();
    assert_eq!(
        kinds[..4],
        [
            "log.opened",
            "llm.request",
            "writer.epoch_closed",
            "writer.heartbeat"
        ]
    );
    assert!(bench.audit()[0] >= 2);
    let closing = &bench.entries()[2];
    assert_eq!(closing.log.as_ref().unwrap().entries, Some(3));
}

#[tokio::test]
async fn a_store_that_refuses_loses_nothing_and_leaves_no_gap() {
    let bench = Bench::new();
    let log = bench.create().await;
    for fault in [Fault::Before, Fault::Built] {
        bench
            .faulty
            .fail(Call::Append, fault, ErrorKind::Unavailable);
        let error = log.append(event("s", 0)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        log.append(event("s", 1)).await.unwrap();
    }
    log.close().await.unwrap();
    assert_eq!(bench.memory.contents().rows.len(), 4);
    assert_eq!(bench.audit(), [1]);
    // The data key was handed out before the first failure, and its record must still have been stored.
    assert_eq!(bench.memory.contents().keys.len(), 1);
}

#[tokio::test]
async fn an_unknown_outcome_is_resolved_before_anything_else_is_appended() {
    let bench = Bench::new();
    let log = bench.create().await;
    // Written, but the answer is lost: the caller is told that it is there.
    bench
        .faulty
        .fail(Call::Append, Fault::After, ErrorKind::Unknown);
    // The question itself fails twice before it is answered.
    bench
        .faulty
        .fail_times(Call::Position, 0, 2, Fault::Before, ErrorKind::Unavailable);
    let first = log.append(event("s", 0)).await.unwrap();
    assert_eq!(first.index, 1);
    // Not written: the caller is told so, and may try again.
    bench
        .faulty
        .fail(Call::Append, Fault::Built, ErrorKind::Unknown);
    let error = log.append(event("s", 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let third = log.append(event("s", 2)).await.unwrap();
    assert_eq!(third.index, 2);
    log.close().await.unwrap();
    assert_eq!(bench.audit(), [1]);
}

#[tokio::test]
async fn a_check_that_fails_behind_a_durable_batch_leaves_no_gap_and_is_made_up_for() {
    let bench = Bench::new();
    let mut options = bench.options();
    options.state_dir = None;
    let one = Log::create(options.clone()).await.unwrap();
    let other = Log::open(options).await.unwrap();
    for n in 0..6 {
        other.append(event("other", n)).await.unwrap();
        // The other run appended in between, so this run looks whether what it saw still stands, and can't.
        bench
            .faulty
            .fail(Call::Tile, Fault::Before, ErrorKind::Unavailable);
        one.append(event("one", n)).await.unwrap();
        bench.faulty.heal();
        one.append(event("one", n)).await.unwrap();
    }
    one.close().await.unwrap();
    other.close().await.unwrap();
    assert_eq!(bench.audit(), [1, 1]);
    assert!(bench.faulty.calls(Call::Tile) > 6, "nothing was looked at");
}

#[tokio::test]
async fn one_bad_event_of_a_batch_takes_no_other_with_it() {
    let bench = Bench::new();
    let log = bench.create().await;
    let known = event("s", 0);
    log.append(known.clone()).await.unwrap();
    let mut pending = Vec::new();
    for n in 0..5 {
        let one = if n == 2 { known.clone() } else { event("s", n) };
        pending.push(log.submit(one).await.unwrap());
    }
    let mut outcomes = Vec::new();
    for one in pending {
        outcomes.push(one.durable().await);
    }
    let error = outcomes.remove(2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains(&known.id.to_string()),
        "{error} doesn't name the event"
    );
    assert!(outcomes.iter().all(Result::is_ok));
    log.close().await.unwrap();
    assert_eq!(bench.audit(), [1]);
}

#[tokio::test]
async fn callers_cannot_write_in_the_log_s_own_name() {
    let bench = Bench::new();
    let log = bench.create().await;
    for kind in kinds::ALL {
        let mut forged = event("s", 0);
        forged.kind = Kind::new(kind).unwrap();
        assert_eq!(
            log.append(forged).await.unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
    log.close().await.unwrap();
    assert_eq!(bench.memory.contents().rows.len(), 2);
}

#[tokio::test]
async fn a_store_that_was_rolled_back_is_refused() {
    let bench = Bench::new();
    let log = bench.create().await;
    log.append(event("s", 0))
        .await
        .unwrap()
        .published()
        .await
        .unwrap();
    let old = bench.memory.contents();
    log.append(event("s", 1))
        .await
        .unwrap()
        .published()
        .await
        .unwrap();

    // Under a running writer: the head is behind what the run has seen.
    let new = bench.memory.contents();
    bench.memory.replace(old.clone());
    let error = log.append(event("s", 2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RolledBack);
    bench.memory.replace(new);
    // Nothing more is appended by this run, even if the newer store is put back.
    assert_eq!(
        log.append(event("s", 3)).await.unwrap_err().kind(),
        ErrorKind::RolledBack
    );
    drop(log.close().await);

    // At the next start: the store is behind the state file.
    bench.memory.replace(old.clone());
    let error = Log::open(bench.options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RolledBack, "{error}");

    // A store that grew another way from the same beginning.
    let other = Bench {
        state: tempfile::tempdir().unwrap(),
        ..bench
    };
    let log = Log::open(other.options()).await.unwrap();
    for n in 0..5 {
        log.append(event("s", n)).await.unwrap();
    }
    log.close().await.unwrap();
    // The second state file takes the first one's place after the older store was put back.
    let state = StateFile::new(other.state.path(), "example.org/log");
    let remembered = std::fs::read(state.path()).unwrap();
    other.memory.replace(old);
    std::fs::remove_file(state.path()).unwrap();
    let log = Log::open(other.options()).await.unwrap();
    for n in 0..9 {
        log.append(event("t", n)).await.unwrap();
    }
    log.close().await.unwrap();
    std::fs::write(state.path(), remembered).unwrap();
    let error = Log::open(other.options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RolledBack, "{error}");
}

#[tokio::test]
async fn a_store_that_was_changed_while_it_grew_is_neither_written_on_nor_signed() {
    let bench = Bench::new();
    let mut options = bench.options();
    // Nothing is signed meanwhile: this is the open second, in which no checkpoint protects an entry.
    options.publish = Duration::from_secs(3600);
    let log = Log::create(options).await.unwrap();
    log.append(event("s", 0)).await.unwrap();

    // Somebody with the store and no key changes an acknowledged entry, hides that behind a further row, and makes
    // the tiles fit.
    let mut contents = bench.memory.contents();
    let changed = String::from_utf8(contents.rows[1].entry.clone())
        .unwrap()
        .replace("llm.request", "llm.requess");
    contents.rows[1].entry = changed.into_bytes();
    contents.rows[1].columns.kind = Kind::new("llm.requess").unwrap();
    let mut noise = contents.rows[0].clone();
    noise.index = 2;
    noise.columns.event = System.uuid_v4();
    noise.entry = String::from_utf8(noise.entry)
        .unwrap()
        .replace(
            &contents.rows[0].columns.event.to_string(),
            &noise.columns.event.to_string(),
        )
        .into_bytes();
    contents.rows.push(noise);
    let mut edge = audit_tlog::tile::EdgeTiles::new();
    for row in &contents.rows {
        edge.push(audit_tlog::hash::leaf_hash(&row.entry));
    }
    contents.tiles = edge
        .take_changed()
        .into_iter()
        .map(|t| ((t.id.level, t.id.index), t.hashes))
        .collect();
    bench.memory.replace(contents);

    let error = log.append(event("s", 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RolledBack, "{error}");
    assert_eq!(
        log.append(event("s", 2)).await.unwrap_err().kind(),
        ErrorKind::RolledBack
    );
    assert_eq!(log.close().await.unwrap_err().kind(), ErrorKind::RolledBack);
    assert!(
        bench.memory.contents().checkpoints.is_empty(),
        "the changed log was signed"
    );
}

#[tokio::test]
async fn a_host_with_an_old_memory_doesn_t_sign_against_the_store_s_own_checkpoint() {
    let bench = Bench::new();
    let log = bench.create().await;
    log.append(event("s", 0)).await.unwrap();
    log.close().await.unwrap();
    let old = bench.memory.contents();
    // Another host, with a memory of its own, goes on; then somebody cuts what it appended, but not what it signed.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut options = bench.options();
    options.state_dir = Some(elsewhere.path().to_owned());
    let log = Log::open(options).await.unwrap();
    log.append(event("s", 1)).await.unwrap();
    log.close().await.unwrap();
    let checkpoints = bench.memory.contents().checkpoints;
    bench
        .memory
        .replace(audit_testkit::memory::Contents { checkpoints, ..old });
    let error = Log::open(bench.options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RolledBack, "{error}");
}

#[tokio::test]
async fn a_publisher_that_died_before_releasing_its_signature_releases_it_at_the_next_start() {
    let bench = Bench::new();
    let log = bench.create().await;
    log.append(event("s", 0))
        .await
        .unwrap()
        .published()
        .await
        .unwrap();
    bench.faulty.fail_times(
        Call::PutCheckpoint,
        0,
        1_000,
        Fault::Before,
        ErrorKind::Unavailable,
    );
    log.append(event("s", 1)).await.unwrap();
    drop(log.close().await.unwrap_err());
    bench.faulty.heal();

    let state = StateFile::new(bench.state.path(), "example.org/log");
    let (remembered, note) = state.checkpoint(&bench.keys.vkey()).unwrap().unwrap();
    assert!(
        !bench
            .memory
            .contents()
            .checkpoints
            .contains_key(&remembered.size)
    );

    let log = Log::open(bench.options()).await.unwrap();
    log.append(event("s", 2))
        .await
        .unwrap()
        .published()
        .await
        .unwrap();
    log.close().await.unwrap();
    // The log has grown since, but what was signed is released as it was: one that is missing was removed.
    let checkpoints = bench.memory.contents().checkpoints;
    assert_eq!(checkpoints.get(&remembered.size), Some(&note));
    assert!(checkpoints.keys().any(|size| *size > remembered.size));
    let again = Log::open(bench.options()).await.unwrap();
    again.close().await.unwrap();
}

#[tokio::test]
async fn erased_content_is_a_tombstone_and_its_proof_stays() {
    let bench = Bench::new();
    let log = bench.create().await;
    let receipt = log.append(event("s", 0)).await.unwrap();
    let kept = log.append(event("t", 0)).await.unwrap();
    let entry = log.reader().record(receipt.index).await.unwrap().entry;
    bench
        .memory
        .erase(&[entry.key.unwrap()], &[receipt.index])
        .await
        .unwrap();
    let reader = log.reader();
    assert!(matches!(
        reader.record(receipt.index).await.unwrap().content,
        RecordContent::Gone
    ));
    assert!(matches!(
        reader.record(kept.index).await.unwrap().content,
        RecordContent::Open(_)
    ));
    receipt.published().await.unwrap();
    log.close().await.unwrap();
}

#[tokio::test]
async fn a_closed_log_says_so() {
    let bench = Bench::new();
    let log = bench.create().await;
    let other = log.clone();
    log.close().await.unwrap();
    let error = other.append(event("s", 0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("closed"));
    other.close().await.unwrap();
}

#[tokio::test]
async fn keys_of_another_log_are_refused() {
    let bench = Bench::new();
    bench.create().await.close().await.unwrap();
    let other = Bench {
        memory: bench.memory.clone(),
        faulty: bench.faulty.clone(),
        ..Bench::new()
    };
    let mut options = other.options();
    options.keys =
        Arc::new(KeyRing::generate("example.org/other", other.auditor.public(), &System).unwrap());
    let error = Log::open(options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("example.org/other"), "{error}");
}
