//! Copies between stores: the same log at the end, whatever happened on the way, and nothing of a bad one.

use std::sync::{Arc, OnceLock};

use audit_core::copy::{Copied, Copier, CopyOptions, Until};
use audit_core::entry::{Entry, LogKeys, kinds};
use audit_core::log::{Log, LogOptions};
use audit_core::store::{ReadStore, Store};
use audit_core::time::{Clock as _, IdSource as _, System};
use audit_core::{Error, ErrorKind, Event, Kind, Result};
use audit_testkit::evidence::StoreEvidence;
use audit_testkit::faulty::{Call, Fault, FaultyStore};
use audit_testkit::ledger::StrictStore;
use audit_testkit::memory::{Contents, MemoryStore};
use audit_testkit::mortal::{Death, Life, MortalStore};
use audit_testkit::tamper::SampleLog;
use audit_verify::{Outcome, Policy, Verdict};

const ORIGIN: &str = "example.com/copied";

/// A log with runs that closed and one that died, an erased subject and rewrapped keys.
fn sample() -> &'static SampleLog {
    static SAMPLE: OnceLock<SampleLog> = OnceLock::new();
    SAMPLE.get_or_init(|| apart(|| SampleLog::new(ORIGIN)))
}

/// Samples are made in a runtime of their own.
fn apart<T: Send + 'static>(make: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(make).join().unwrap()
}

fn options(log: &SampleLog, rows: u64) -> CopyOptions {
    let mut options = CopyOptions::new(log.ring.vkey());
    options.opened = Some(log.opened());
    options.batch_rows_max = rows;
    options
}

fn holding(contents: &Contents) -> Arc<dyn ReadStore> {
    Arc::new(MemoryStore::tampered(contents.clone()))
}

async fn copy(
    source: &Arc<dyn ReadStore>,
    target: &Arc<dyn Store>,
    options: CopyOptions,
    until: Until,
) -> Result<Copied> {
    Copier::open(Arc::clone(source), Arc::clone(target), options)
        .await?
        .advance(until, &mut |_| {})
        .await
}

/// Everything that two stores hold is the same, but the token rows, which follow from the rows.
fn same(target: &MemoryStore, contents: &Contents) {
    let copied = target.contents();
    assert!(copied.rows == contents.rows, "the rows differ");
    assert!(copied.tiles == contents.tiles, "the tiles differ");
    assert!(
        copied.keys == contents.keys,
        "the records of data keys differ"
    );
    assert!(copied.tokens == contents.tokens, "the token rows differ");
    assert_eq!(copied.checkpoints, contents.checkpoints);
}

fn verdict(log: &SampleLog, store: Arc<dyn ReadStore>) -> Verdict {
    let evidence = StoreEvidence::new(store, tokio::runtime::Handle::current());
    let mut policy = Policy::public(log.ring.vkey(), System.now());
    policy.opened = Some(log.opened());
    policy.auditor = Some(log.auditor.clone());
    policy.operator = Some(&log.ring);
    tokio::task::block_in_place(|| audit_verify::verify(&evidence, &policy, &mut ()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_the_same_rows_tiles_checkpoints_and_keys() {
    let log = sample();
    for rows in [1, 7, 256, 4096] {
        let target = MemoryStore::new();
        let store: Arc<dyn Store> = Arc::new(StrictStore::strict(Arc::new(target.clone())));
        let source = holding(&log.contents);
        let done = copy(&source, &store, options(log, rows), Until::Head);
        let done = done.await.unwrap();
        same(&target, &log.contents);
        assert_eq!(done.entries, log.size());
        assert_eq!(done.size, log.size());
        assert_eq!(done.checkpoints, log.contents.checkpoints.len() as u64);
        assert_eq!(done.keys, log.contents.keys.len() as u64);
        assert_eq!(done.erased, log.erased.len() as u64);
        assert_eq!(done.published, log.size());
        // Again: nothing to do.
        let again = copy(&source, &store, options(log, rows), Until::Head);
        let again = again.await.unwrap();
        assert_eq!(
            (again.entries, again.bytes, again.checkpoints, again.keys),
            (0, 0, 0, 0)
        );
        assert_eq!(again.root, done.root);
        let judged = verdict(log, Arc::new(target));
        assert_eq!(judged.outcome(), Outcome::Held, "{judged}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_dies_at_any_call_is_finished_by_the_next() {
    let log = sample();
    let mut calls = 0;
    // Into an empty store, and into one with keys that are to be destroyed and rewrapped.
    for held in [Contents::default(), log.earlier.clone()] {
        for moment in [Fault::Before, Fault::Built, Fault::After] {
            for skip in 0.. {
                let target = MemoryStore::tampered(held.clone());
                let life = Arc::new(Life::default());
                life.die(Death {
                    call: None,
                    skip,
                    moment,
                });
                let mortal: Arc<dyn Store> =
                    Arc::new(MortalStore::new(Arc::new(target.clone()), &life));
                let source = holding(&log.contents);
                let dying = async { copy(&source, &mortal, options(log, 100), Until::Head).await };
                tokio::select! {
                    biased;
                    () = life.died() => {}
                    done = dying => {
                        done.unwrap();
                        break;
                    }
                }
                calls += 1;
                let store: Arc<dyn Store> = Arc::new(target.clone());
                let again = copy(&source, &store, options(log, 100), Until::Head).await;
                again.unwrap_or_else(|e| panic!("after {moment:?} call {skip}: {e:?}"));
                same(&target, &log.contents);
            }
        }
    }
    assert!(calls > 100, "only {calls} calls to die at");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_ends_the_copy_and_the_same_copier_finishes_it() {
    let log = sample();
    let mut failed = 0;
    for call in [
        Call::Append,
        Call::PutCheckpoint,
        Call::Head,
        Call::Rows,
        Call::Keys,
        Call::Erase,
        Call::Rewrap,
    ] {
        for (fault, kind) in [
            (Fault::Before, ErrorKind::Unavailable),
            (Fault::After, ErrorKind::Unavailable),
            (Fault::After, ErrorKind::Unknown),
            (Fault::Before, ErrorKind::Unknown),
        ] {
            // With the content that is erased later, so that there is something to erase and rewrap.
            let mut held = log.earlier.clone();
            held.checkpoints.pop_last();
            let target = MemoryStore::tampered(held);
            let faulty = FaultyStore::new(Arc::new(target.clone()));
            let store: Arc<dyn Store> = Arc::new(faulty.clone());
            faulty.fail(call, fault, kind);
            let mut copier =
                Copier::open(holding(&log.contents), Arc::clone(&store), options(log, 64))
                    .await
                    .unwrap();
            let first = copier.advance(Until::Head, &mut |_| {}).await;
            if first.is_err() {
                failed += 1;
                copier.advance(Until::Head, &mut |_| {}).await.unwrap();
            }
            same(&target, &log.contents);
        }
    }
    assert!(failed >= 10, "only {failed} copies failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_and_rewrapped_later_is_so_in_the_copy() {
    let log = sample();
    let target = MemoryStore::new();
    let store: Arc<dyn Store> = Arc::new(target.clone());
    copy(
        &holding(&log.earlier),
        &store,
        options(log, 100),
        Until::Head,
    )
    .await
    .unwrap();
    same(&target, &log.earlier);
    assert!(
        log.destroyed
            .iter()
            .all(|id| target.contents().keys.contains_key(id))
    );
    let done = copy(
        &holding(&log.contents),
        &store,
        options(log, 100),
        Until::Head,
    )
    .await
    .unwrap();
    same(&target, &log.contents);
    assert_eq!(done.destroyed, log.destroyed.len() as u64);
    assert_eq!(done.rewrapped, log.contents.keys.len() as u64);
    // And never back: an older source is refused.
    let older = copy(
        &holding(&log.earlier),
        &store,
        options(log, 100),
        Until::Head,
    )
    .await;
    assert_eq!(older.unwrap_err().kind(), ErrorKind::RolledBack);
    same(&target, &log.contents);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_key_that_the_source_still_has_is_destroyed_in_the_copy() {
    let log = sample();
    // The entry is there, the erasure isn't done yet.
    let mut unfinished = log.contents.clone();
    for (row, earlier) in unfinished.rows.iter_mut().zip(&log.earlier.rows) {
        row.tokens.clone_from(&earlier.tokens);
        row.parts.clone_from(&earlier.parts);
    }
    for id in &log.destroyed {
        unfinished.keys.insert(*id, log.earlier.keys[id].clone());
    }
    let target = MemoryStore::new();
    let store: Arc<dyn Store> = Arc::new(target.clone());
    copy(&holding(&unfinished), &store, options(log, 50), Until::Head)
        .await
        .unwrap();
    same(&target, &log.contents);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_rewrapped_behind_their_entry_follow_in_a_later_turn() {
    let log = sample();
    let source = MemoryStore::tampered(log.contents.clone());
    let mut old = log.contents.clone();
    for record in old.keys.values_mut() {
        *record = log.earlier.keys[&record.id].clone();
    }
    source.replace(old.clone());
    let target = MemoryStore::new();
    let mut copier = Copier::open(
        Arc::new(source.clone()),
        Arc::new(target.clone()),
        options(log, 90),
    )
    .await
    .unwrap();
    let first = copier.advance(Until::Head, &mut |_| {}).await.unwrap();
    assert!(target.contents().keys == old.keys);
    assert_eq!((first.unsettled, copier.is_settled()), (1, false));
    source.replace(log.contents.clone());
    let done = copier.advance(Until::Head, &mut |_| {}).await.unwrap();
    assert_eq!(done.rewrapped, log.contents.keys.len() as u64);
    same(&target, &log.contents);
}

/// The error of a copy from `bad`, and how many entries were copied before.
async fn refused(bad: &Contents) -> (Error, u64) {
    let log = sample();
    let target = MemoryStore::new();
    let store: Arc<dyn Store> = Arc::new(target.clone());
    let error = copy(&holding(bad), &store, options(log, 40), Until::Head)
        .await
        .unwrap_err();
    let copied = target.contents();
    // Whatever is there is the honest log's.
    let honest = &log.contents.rows[..copied.rows.len()];
    let entries = copied.rows.iter().map(|row| &row.entry);
    assert!(
        entries.eq(honest.iter().map(|row| &row.entry)),
        "bad entries were copied"
    );
    (error, copied.rows.len() as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_source_is_copied_up_to_the_first_bad_index() {
    let log = sample();
    let honest = &log.contents;
    let at = (50..200)
        .find(|i| honest.rows[*i].parts.is_some() && honest.rows[*i].tokens.is_some())
        .unwrap();
    let change = |change: &dyn Fn(&mut Contents)| {
        let mut bad = honest.clone();
        change(&mut bad);
        bad
    };
    let cases: Vec<(&str, Contents)> = vec![
        (
            "a flipped byte in an entry",
            change(&|c| {
                let last = c.rows[at].entry.len() - 10;
                c.rows[at].entry[last] ^= 1;
            }),
        ),
        (
            "another entry that decodes",
            change(&|c| {
                let mut entry = Entry::decode(&c.rows[at].entry).unwrap();
                entry.seq += 1;
                c.rows[at].entry = entry.encode().unwrap();
            }),
        ),
        (
            "a flipped byte in stored parts",
            change(&|c| {
                c.rows[at].parts.as_mut().unwrap()[3] ^= 1;
            }),
        ),
        (
            "parts that are missing",
            change(&|c| c.rows[at].parts = None),
        ),
        (
            "tokens that are missing",
            change(&|c| c.rows[at].tokens = None),
        ),
        (
            "another token",
            change(&|c| {
                c.rows[at].tokens.as_mut().unwrap().tokens[0].0[0] ^= 1;
            }),
        ),
        (
            "a column",
            change(&|c| c.rows[at].columns.kind = Kind::new("llm.other").unwrap()),
        ),
        (
            "a hash in a tile",
            change(&|c| {
                let hashes = c.tiles.get_mut(&(0, 0)).unwrap();
                let mut bytes = *hashes[at].as_bytes();
                bytes[0] ^= 1;
                hashes[at] = audit_tlog::Hash::from_bytes(bytes);
            }),
        ),
        ("a row removed", change(&|c| drop(c.rows.remove(at)))),
    ];
    for (what, bad) in cases {
        let (error, copied) = refused(&bad).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}");
        let index = error
            .index()
            .unwrap_or_else(|| panic!("{what}: no index: {error}"));
        assert!(copied <= at as u64, "{what}: {error}, {copied} copied");
        // A row that is gone shows by the end of the log before anything is looked at.
        assert!(
            index <= at as u64 || what.contains("removed"),
            "{what}: {error}"
        );
        if !what.contains("missing") && !what.contains("tile") && !what.contains("removed") {
            assert_eq!((index, copied), (at as u64, at as u64), "{what}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_rewritten_with_its_tiles_is_not_copied() {
    let log = sample();
    let mut bad = log.contents.clone();
    let at = 100;
    let mut entry = Entry::decode(&bad.rows[at].entry).unwrap();
    entry.seq += 1;
    bad.rows[at].entry = entry.encode().unwrap();
    let mut edge = audit_tlog::tile::EdgeTiles::new();
    for row in &bad.rows {
        edge.push(audit_tlog::hash::leaf_hash(&row.entry));
    }
    bad.tiles = edge
        .take_changed()
        .into_iter()
        .map(|t| ((t.id.level, t.id.index), t.hashes))
        .collect();
    let (error, copied) = refused(&bad).await;
    assert_eq!((error.kind(), copied), (ErrorKind::Corrupt, 0), "{error}");
    let good = log.contents.checkpoints.range(..=at as u64).next_back();
    assert_eq!(
        error.index(),
        Some(good.map_or(0, |(size, _)| *size)),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_checkpoints_that_nobody_explains_are_refused() {
    let log = sample();
    let change = |change: &dyn Fn(&mut Contents)| {
        let mut bad = log.contents.clone();
        change(&mut bad);
        bad
    };
    let first = *log.contents.keys.keys().next().unwrap();
    let checkpoint = *log.contents.checkpoints.keys().next().unwrap();
    for (what, bad) in [
        (
            "a record dropped",
            change(&|c| c.keys.retain(|id, _| *id != first)),
        ),
        (
            "a wrapped key changed",
            change(&|c| c.keys.get_mut(&first).unwrap().wrapped[9] ^= 1),
        ),
        (
            "a checkpoint's bytes changed",
            change(&|c| {
                c.checkpoints.get_mut(&checkpoint).unwrap()[3] ^= 1;
            }),
        ),
        (
            "a checkpoint under another size",
            change(&|c| {
                let note = c.checkpoints[&log.size()].clone();
                c.checkpoints.insert(checkpoint + 1, note);
            }),
        ),
        (
            "the end cut off",
            change(&|c| {
                c.rows.truncate(200);
                let mut edge = audit_tlog::tile::EdgeTiles::new();
                for row in &c.rows {
                    edge.push(audit_tlog::hash::leaf_hash(&row.entry));
                }
                let tiles = edge.take_changed().into_iter();
                c.tiles = tiles
                    .map(|t| ((t.id.level, t.id.index), t.hashes))
                    .collect();
            }),
        ),
    ] {
        let (error, _) = refused(&bad).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_destruction_destroys_nothing_in_the_copy() {
    let log = sample();
    // Somebody who can write to the source repeats the genuine entry for other keys: its signature doesn't fit.
    let mut bad = log.contents.clone();
    let index = bad
        .rows
        .iter()
        .position(|row| row.columns.kind.as_str() == kinds::KEY_DESTROYED)
        .unwrap();
    let mut entry = Entry::decode(&bad.rows[index].entry).unwrap();
    let other = *log.contents.keys.keys().next().unwrap();
    entry.log.as_mut().unwrap().keys = Some(LogKeys::Ids(vec![other]));
    bad.rows[index].entry = entry.encode().unwrap();
    let target = MemoryStore::new();
    let store: Arc<dyn Store> = Arc::new(target.clone());
    copy(
        &holding(&log.earlier),
        &store,
        options(log, 100),
        Until::Head,
    )
    .await
    .unwrap();
    let error = copy(&holding(&bad), &store, options(log, 100), Until::Head)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(error.index(), Some(index as u64));
    assert!(target.contents().keys.contains_key(&other));
    assert!(target.contents().rows[..log.earlier.rows.len()] == log.earlier.rows[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_another_log_or_another_history_is_left_alone() {
    let log = sample();
    let source = holding(&log.contents);
    let other = apart(|| SampleLog::small("example.com/another"));
    let target = MemoryStore::tampered(other.contents.clone());
    let store: Arc<dyn Store> = Arc::new(target.clone());
    let error = copy(&source, &store, options(log, 40), Until::Head)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    // The same origin, made anew: the histories differ from the first entry on.
    let other = apart(|| SampleLog::small(ORIGIN));
    let target = MemoryStore::tampered(other.contents.clone());
    let store: Arc<dyn Store> = Arc::new(target.clone());
    let error = copy(&source, &store, options(log, 40), Until::Head)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.index()),
        (ErrorKind::RolledBack, Some(0)),
        "{error}"
    );
    same(&target, &other.contents);
    // One entry differs in the middle.
    let target = MemoryStore::new();
    let store: Arc<dyn Store> = Arc::new(target.clone());
    copy(&source, &store, options(log, 40), Until::Head)
        .await
        .unwrap();
    let mut changed = target.contents();
    changed.rows.truncate(230);
    changed.rows[77].entry = changed.rows[78].entry.clone();
    let mut edge = audit_tlog::tile::EdgeTiles::new();
    for row in &changed.rows {
        edge.push(audit_tlog::hash::leaf_hash(&row.entry));
    }
    changed.tiles = edge
        .take_changed()
        .into_iter()
        .map(|t| ((t.id.level, t.id.index), t.hashes))
        .collect();
    changed.checkpoints.clear();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::tampered(changed));
    let error = copy(&source, &store, options(log, 40), Until::Head)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.index()),
        (ErrorKind::RolledBack, Some(77)),
        "{error}"
    );
    // The wrong public key.
    let mut wrong = options(log, 40);
    wrong.vkey = other.ring.vkey();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    copy(&source, &store, wrong, Until::Head).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_written_meanwhile_is_followed_and_goes_on_from_its_copy() {
    let origin = "example.com/written";
    let auditor = audit_core::chain::AuditorKey::random(&System);
    let ring = audit_core::keyring::KeyRing::generate(origin, auditor.public(), &System).unwrap();
    let ring = Arc::new(ring);
    let state = tempfile::tempdir().unwrap();
    let memory = MemoryStore::new();
    let mut settings = LogOptions::new(Arc::new(memory.clone()), Arc::clone(&ring));
    settings.state_dir = Some(state.path().to_owned());
    settings.publish = std::time::Duration::from_millis(5);
    let log = Log::create(settings.clone()).await.unwrap();
    let target = MemoryStore::new();
    let mut copier = Copier::open(
        Arc::new(memory.clone()),
        Arc::new(target.clone()),
        CopyOptions::new(ring.vkey()),
    )
    .await
    .unwrap();
    let event = |n: usize| {
        let mut event = Event::new(
            System.uuid_v7(System.now()),
            System.now(),
            Kind::new("tool.call").unwrap(),
        );
        event.session_id = Some(format!("session-{}", n % 5));
        event
    };
    let mut turns = Vec::new();
    for n in 0..200 {
        log.append(event(n)).await.unwrap();
        if n % 10 == 0 {
            let until = if n % 20 == 0 {
                Until::Published
            } else {
                Until::Head
            };
            turns.push(copier.advance(until, &mut |_| {}).await.unwrap());
        }
    }
    assert!(
        turns.iter().filter(|turn| turn.entries > 0).count() > 5,
        "{turns:?}"
    );
    log.close().await.unwrap();
    let done = copier.advance(Until::Published, &mut |_| {}).await.unwrap();
    same(&target, &memory.contents());
    assert_eq!(done.size, memory.contents().rows.len() as u64);
    // The first store is lost: the log goes on in the copy, under the same state file.
    settings.store = Arc::new(target.clone());
    let log = Log::open(settings).await.unwrap();
    log.append(event(0))
        .await
        .unwrap()
        .published()
        .await
        .unwrap();
    log.close().await.unwrap();
}
