//! The conformance suite: each guarantee of the store contract as one function, which panics with what is wrong.
//!
//! A backend implements [`Backend`] in its tests and calls [`conformance_tests!`](crate::conformance_tests), which makes
//! a `#[tokio::test]` of each property, or [`run_all`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use audit_core::datakey::KeyRecord;
use audit_core::hex::Hex;
use audit_core::store::{Batch, Build, Head, Parts, Query, Row, Store};
use audit_core::time::Timestamp;
use audit_core::token::Token;
use audit_core::{Error, ErrorKind, Kind, Result};
use audit_tlog::Hash;
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::{EdgeTiles, TileId, tile_ids};
use uuid::Uuid;

use crate::sample::{self, KINDS, SESSIONS, START_MICROS, Sample};

/// How the suite gets at stores of a backend.
#[async_trait]
pub trait Backend: Send + Sync {
    /// A new store, on which no log has been created.
    async fn fresh(&self) -> Arc<dyn Store>;

    /// Another handle on the store that `fresh` made last, as another process would open it; earlier handles may still
    /// be in use.
    async fn reopen(&self) -> Arc<dyn Store>;
}

/// Makes a `#[tokio::test]` of each property; the expression makes a [`Backend`] for each. It stands in the body of the
/// test, so it may wait, and may return from it where there is no server to test with.
///
/// ```
/// # mod tests {
/// audit_testkit::conformance_tests!(audit_testkit::memory::MemoryBackend::default());
/// # }
/// ```
#[macro_export]
macro_rules! conformance_tests {
    (@list $how:ident $backend:expr) => {
        $crate::conformance_tests! { @$how $backend;
            a_log_is_created_once
            an_empty_log_answers_with_nothing
            what_was_appended_is_read_back
            a_range_is_read_from_its_start_without_a_gap
            large_parts_survive_and_are_read_in_pieces
            every_search_finds_what_a_scan_finds
            token_rows_are_walked_once_each
            tiles_are_those_of_the_tree
            a_narrow_tile_is_cut_from_a_wide_one
            build_sees_the_head_it_appends_to
            a_build_that_fails_writes_nothing
            a_batch_that_does_not_fit_is_refused
            a_known_event_is_refused
            a_data_key_is_stored_once
            concurrent_appends_lose_and_fork_nothing
            readers_beside_a_writer_see_whole_batches
            another_handle_reads_the_same
            a_checkpoint_is_never_replaced
            checkpoints_are_paged_by_size
            keys_are_found_by_id_and_by_scope
            rewrapping_is_all_or_nothing
            erasing_takes_content_and_leaves_proof
            what_was_erased_or_rewrapped_before_it_was_copied_is_appended_as_it_is
            one_holds_the_publisher_lease
            waiting_ends_when_the_log_grows
        }
    };
    (@tests $backend:expr; $($property:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $property() {
                $crate::conformance::$property(&$backend).await;
            }
        )*
    };
    (@run $backend:expr; $($property:ident)*) => {
        $( $crate::conformance::$property($backend).await; )*
    };
    (@names $backend:expr; $($property:ident)*) => {
        [$(stringify!($property)),*]
    };
    (@but $backend:expr; $($property:ident)*) => {
        $(
            if !$backend.1.contains(&stringify!($property)) {
                $crate::conformance::$property($backend.0).await;
            }
        )*
    };
    ($backend:expr) => {
        $crate::conformance_tests! { @list tests $backend }
    };
}

/// Runs every property, one after the other.
pub async fn run_all(backend: &dyn Backend) {
    crate::conformance_tests! { @list run backend }
}

/// Runs every property but those that are named: for a role that may not do all of it.
///
/// # Panics
///
/// Also if there is no property of such a name.
pub async fn run_all_but(left_out: &[&str], backend: &dyn Backend) {
    let names = crate::conformance_tests! { @list names () };
    for name in left_out {
        assert!(names.contains(name), "there is no property {name}");
    }
    let given = (backend, left_out);
    crate::conformance_tests! { @list but given }
}

const ORIGIN: &str = "example.com/conformance";

/// What was appended, as the suite remembers it.
#[derive(Default)]
struct Model {
    rows: Vec<Row>,
    keys: BTreeMap<Uuid, KeyRecord>,
}

impl Model {
    fn size(&self) -> u64 {
        self.rows.len() as u64
    }

    fn edge(&self) -> EdgeTiles {
        let mut edge = EdgeTiles::new();
        for row in &self.rows {
            edge.push(leaf_hash(&row.entry));
        }
        edge
    }

    /// The hashes of each tile of the tree over all entries.
    fn tiles(&self) -> BTreeMap<TileId, Vec<Hash>> {
        let mut edge = self.edge();
        edge.take_changed()
            .into_iter()
            .map(|tile| (tile.id, tile.hashes))
            .collect()
    }

    fn tokens(&self) -> BTreeSet<(Token, u64)> {
        let rows = self.rows.iter();
        rows.flat_map(|row| {
            let tokens = row.tokens.iter().flat_map(|set| &set.tokens);
            tokens.map(move |token| (*token, row.index))
        })
        .collect()
    }

    fn add(&mut self, batch: Batch) {
        self.rows.extend(batch.rows);
        self.keys
            .extend(batch.keys.into_iter().map(|key| (key.id, key)));
    }
}

fn ok<T>(doing: &str, result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(e) => {
            assert_eq!("no error", format!("{e:?}"), "{doing} failed");
            unreachable!("the texts differ")
        }
    }
}

fn fails<T: Debug>(doing: &str, kind: ErrorKind, result: Result<T>) -> Error {
    match result {
        Err(e) => {
            assert_eq!(e.kind(), kind, "{doing} failed otherwise: {e:?}");
            e
        }
        Ok(value) => {
            assert_eq!(
                format!("an error of kind {kind:?}"),
                format!("{value:?}"),
                "{doing} went through"
            );
            unreachable!("the texts differ")
        }
    }
}

async fn created(backend: &dyn Backend) -> Arc<dyn Store> {
    let store = backend.fresh().await;
    ok("creating", store.create(ORIGIN).await);
    store
}

/// Appends one batch of samples and remembers what it was.
async fn append(store: &dyn Store, sample: Sample) -> (Head, Batch) {
    let built = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&built);
    let head = store
        .append(Box::new(move |head| {
            let batch = sample.batch(head)?;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(batch.clone());
            Ok(batch)
        }))
        .await;
    let head = ok("appending", head);
    let batch = built.lock().unwrap_or_else(PoisonError::into_inner).take();
    (head, batch.expect("append called build"))
}

/// A log of batches of these sizes.
async fn filled(backend: &dyn Backend, sizes: &[usize]) -> (Arc<dyn Store>, Model) {
    let store = created(backend).await;
    let mut model = Model::default();
    for size in sizes {
        let (_, batch) = append(&*store, Sample::new(*size, 1)).await;
        model.add(batch);
    }
    (store, model)
}

async fn all_rows(store: &dyn Store, range: Range<u64>, parts: Parts) -> Vec<Row> {
    let mut out: Vec<Row> = Vec::new();
    let mut from = range.start;
    loop {
        let rows = ok("reading rows", store.rows(from..range.end, parts).await);
        if rows.is_empty() {
            return out;
        }
        from += rows.len() as u64;
        out.extend(rows);
    }
}

/// Fails unless the store holds exactly what the model says.
async fn holds(store: &dyn Store, model: &Model) {
    let head = ok("reading the head", store.head().await);
    assert_eq!(head.size, model.size(), "the size is wrong");
    assert_eq!(
        head.edge.size(),
        model.size(),
        "the edge is of another size"
    );
    assert_eq!(
        head.edge.root(),
        model.edge().root(),
        "the edge is of another tree"
    );
    let rows = all_rows(store, 0..u64::MAX, Parts::With).await;
    assert_eq!(rows.len(), model.rows.len(), "rows are missing or too many");
    for (found, expected) in rows.iter().zip(&model.rows) {
        assert!(found == expected, "row {} is not as expected", found.index);
    }
    let keys = ok("reading keys", store.keys(None, usize::MAX).await);
    let expected: Vec<KeyRecord> = model.keys.values().cloned().collect();
    assert!(keys == expected, "the data-key records are not as expected");
    let tokens = ok(
        "reading token rows",
        store.token_rows(None, usize::MAX).await,
    );
    let count = tokens.len();
    let tokens: BTreeSet<(Token, u64)> = tokens.into_iter().collect();
    assert_eq!(tokens.len(), count, "a token row came twice");
    assert!(tokens == model.tokens(), "token rows are not as expected");
    for (id, hashes) in model.tiles() {
        let found = ok("reading a tile", store.tile(id).await);
        assert!(found.as_ref() == Some(&hashes), "{id} is not as expected");
    }
}

/// A log can be created only once, and then has this origin.
pub async fn a_log_is_created_once(backend: &dyn Backend) {
    let store = backend.fresh().await;
    let before = ok("describing", store.description().await);
    assert_eq!(
        before, None,
        "a store is described before a log was created"
    );
    ok("creating", store.create(ORIGIN).await);
    fails(
        "creating again",
        ErrorKind::Invalid,
        store.create(ORIGIN).await,
    );
    fails(
        "creating another log",
        ErrorKind::Invalid,
        store.create("example.com/other").await,
    );
    let after = ok("describing", store.description().await);
    assert_eq!(after.map(|d| d.origin).as_deref(), Some(ORIGIN));
}

/// An empty log answers every question with nothing, and none with an error.
pub async fn an_empty_log_answers_with_nothing(backend: &dyn Backend) {
    let store = created(backend).await;
    holds(&*store, &Model::default()).await;
    let tile = TileId {
        level: 0,
        index: 0,
        width: 1,
    };
    assert_eq!(ok("position", store.position(Uuid::nil()).await), None);
    assert_eq!(ok("find", store.find(&Query::default()).await), [0; 0]);
    assert_eq!(ok("tile", store.tile(tile).await), None);
    assert_eq!(ok("tiles", store.tiles(0, None, 10).await), []);
    assert_eq!(ok("latest", store.latest_checkpoint().await), None);
    assert_eq!(ok("checkpoints", store.checkpoints(0, 10).await), []);
    assert_eq!(ok("key", store.key(Uuid::nil()).await), None);
    let scope = sample::session_token(0);
    assert_eq!(ok("scope", store.keys_of_scope(scope).await), []);
}

/// Rows, columns, tokens, parts, keys, tiles and positions come back as they were appended.
pub async fn what_was_appended_is_read_back(backend: &dyn Backend) {
    let (store, model) = filled(backend, &[1, 3, 251, 1, 256, 5]).await;
    holds(&*store, &model).await;
    let bare = all_rows(&*store, 0..u64::MAX, Parts::Without).await;
    assert_eq!(bare.len(), model.rows.len());
    for (found, expected) in bare.into_iter().zip(&model.rows) {
        assert_eq!(found.parts, None, "parts came that were not asked for");
        let expected = Row {
            parts: None,
            ..expected.clone()
        };
        assert!(found == expected, "row {} without parts", found.index);
    }
    for row in model.rows.iter().step_by(17) {
        let position = ok("position", store.position(row.columns.event).await);
        assert_eq!(position, Some(row.index), "an event is not where it is");
    }
    let unknown = ok("position", store.position(Uuid::max()).await);
    assert_eq!(
        unknown, None,
        "an event has a position and was not appended"
    );
}

/// A range starts at its start, has no gap, and is empty exactly when there is nothing.
pub async fn a_range_is_read_from_its_start_without_a_gap(backend: &dyn Backend) {
    let (store, model) = filled(backend, &[10, 20]).await;
    for (range, expected) in [
        (0..30, 0..30),
        (0..1, 0..1),
        (7..13, 7..13),
        (29..30, 29..30),
        (25..u64::MAX, 25..30),
        (30..40, 30..30),
        (u64::MAX - 1..u64::MAX, 0..0),
        (0..0, 0..0),
        (12..12, 0..0),
        #[expect(clippy::reversed_empty_ranges, reason = "it must be read as empty")]
        (20..10, 0..0),
    ] {
        for parts in [Parts::With, Parts::Without] {
            let rows = ok("rows", store.rows(range.clone(), parts).await);
            let found: Vec<u64> = rows.iter().map(|row| row.index).collect();
            assert_eq!(found, expected.clone().collect::<Vec<_>>(), "{range:?}");
        }
    }
    assert_eq!(model.size(), 30);
}

/// Parts of several MiB come back whole, and one call doesn't answer with all of them.
pub async fn large_parts_survive_and_are_read_in_pieces(backend: &dyn Backend) {
    let store = created(backend).await;
    let mut model = Model::default();
    for rows in [3, 2] {
        let sample = Sample::new(rows, 1).parts_bytes(5 << 20);
        model.add(append(&*store, sample).await.1);
    }
    let first = ok("rows", store.rows(0..5, Parts::With).await);
    assert_eq!(first.len(), 1, "one call collects more than about 4 MiB");
    let bare = ok("rows", store.rows(0..5, Parts::Without).await);
    assert_eq!(bare.len(), 5, "entries without parts are counted as with");
    holds(&*store, &model).await;
}

/// Searches by tokens, kind, time and indexes, alone and together, find what a scan of all entries finds.
pub async fn every_search_finds_what_a_scan_finds(backend: &dyn Backend) {
    let (store, model) = filled(backend, &[100, 1, 99]).await;
    let at = |seconds: i64| Timestamp::EPOCH.plus_micros(START_MICROS + seconds * 1_000_000);
    let (session, actor) = (sample::session_token(2), sample::actor_token());
    let kind = |name: &str| Some(Kind::new(name).expect("this is a kind"));
    let mut queries = Vec::new();
    for tokens in [
        vec![],
        vec![session],
        vec![actor],
        vec![session, actor],
        vec![actor, session, actor],
        vec![session, sample::session_token(3)],
        vec![sample::session_token(SESSIONS + 1)],
    ] {
        for kind in [None, kind(KINDS[1]), kind("nothing.like_this")] {
            for (from, until) in [
                (None, None),
                (Some(at(50)), None),
                (None, Some(at(120))),
                (Some(at(50)), Some(at(120))),
                (Some(at(120)), Some(at(50))),
                (Some(at(77)), Some(at(78))),
            ] {
                for indexes in [0..u64::MAX, 20..180, 60..60, 0..1, 199..u64::MAX] {
                    queries.push(Query {
                        tokens: tokens.clone(),
                        kind: kind.clone(),
                        from,
                        until,
                        indexes,
                        ..Query::default()
                    });
                }
            }
        }
    }
    for mut query in queries {
        let matching: Vec<u64> = model
            .rows
            .iter()
            .filter(|row| {
                let tokens = row.tokens.as_ref().map_or(&[][..], |set| &set.tokens);
                query.tokens.iter().all(|token| tokens.contains(token))
                    && query.kind.as_ref().is_none_or(|k| *k == row.columns.kind)
                    && query.from.is_none_or(|from| row.columns.time >= from)
                    && query.until.is_none_or(|until| row.columns.time < until)
                    && query.indexes.contains(&row.index)
            })
            .map(|row| row.index)
            .collect();
        for limit in [1000, 3] {
            for descending in [false, true] {
                query.limit = limit;
                query.descending = descending;
                let mut expected = matching.clone();
                if descending {
                    expected.reverse();
                }
                expected.truncate(limit);
                let found = ok("find", store.find(&query).await);
                assert_eq!(found, expected, "{query:?}");
            }
        }
    }
    let none = Query {
        limit: 0,
        ..Query::default()
    };
    assert_eq!(ok("find", store.find(&none).await), [0; 0]);
    let all = Query {
        limit: usize::MAX,
        ..Query::default()
    };
    assert_eq!(ok("find", store.find(&all).await).len(), 200);
}

/// Walking the token rows gives each row once, whatever the page size.
pub async fn token_rows_are_walked_once_each(backend: &dyn Backend) {
    let (store, model) = filled(backend, &[60]).await;
    for limit in [1, 7, 1000] {
        let mut seen = BTreeSet::new();
        let mut after = None;
        loop {
            let page = ok("token rows", store.token_rows(after, limit).await);
            assert!(page.len() <= limit, "a page is longer than its limit");
            let Some(last) = page.last() else { break };
            after = Some(*last);
            for row in page {
                assert!(seen.insert(row), "token row {row:?} came twice");
            }
        }
        assert_eq!(seen, model.tokens(), "pages of {limit}");
    }
}

/// The stored tiles are the tiles of the tree, one of each, at the width that the size gives them.
pub async fn tiles_are_those_of_the_tree(backend: &dyn Backend) {
    let (store, model) = filled(backend, &[200, 500, 1, 67, 300]).await;
    let mut found = BTreeMap::new();
    for level in 0..8 {
        let mut after = None;
        loop {
            let page = ok("tiles", store.tiles(level, after, 2).await);
            assert!(page.len() <= 2, "a page is longer than its limit");
            let Some(last) = page.last() else { break };
            after = Some(last.id.index);
            for tile in page {
                assert_eq!(tile.id.level, level, "a tile of another level");
                assert_eq!(tile.hashes.len(), usize::from(tile.id.width));
                let before = found.insert(tile.id, tile.hashes);
                assert_eq!(before, None, "{} came twice", tile.id);
            }
        }
    }
    let ids: Vec<TileId> = found.keys().copied().collect();
    let mut expected: Vec<TileId> = tile_ids(model.size()).collect();
    expected.sort_unstable();
    assert_eq!(ids, expected);
    assert_eq!(found, model.tiles());
}

/// Of a stored tile every narrower one can be read, and none that is wider.
pub async fn a_narrow_tile_is_cut_from_a_wide_one(backend: &dyn Backend) {
    let (store, model) = filled(backend, &[256 + 100]).await;
    let id = |level, index, width| TileId {
        level,
        index,
        width,
    };
    let leaves: Vec<Hash> = model.rows.iter().map(|row| leaf_hash(&row.entry)).collect();
    for width in 1..=256 {
        let first = ok("tile", store.tile(id(0, 0, width)).await);
        let wide = usize::from(width);
        assert_eq!(first.as_deref(), Some(&leaves[..wide]), "width {width}");
        let second = ok("tile", store.tile(id(0, 1, width)).await);
        let expected = (width <= 100).then(|| &leaves[256..256 + wide]);
        assert_eq!(second.as_deref(), expected, "width {width}");
    }
    for absent in [
        id(0, 2, 1),
        id(1, 0, 2),
        id(1, 1, 1),
        id(2, 0, 1),
        id(63, u64::MAX, 1),
    ] {
        let found = ok("tile", store.tile(absent).await);
        assert_eq!(found, None, "{absent} is not stored");
    }
}

/// `build` sees the head that its batch is appended to, with an edge that hashes on.
pub async fn build_sees_the_head_it_appends_to(backend: &dyn Backend) {
    let store = created(backend).await;
    let mut model = Model::default();
    for rows in [1, 255, 1, 300] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let slot = Arc::clone(&seen);
        let (size, root) = (model.size(), model.edge().root());
        let appended = store
            .append(Box::new(move |head| {
                let mut seen = slot.lock().unwrap_or_else(PoisonError::into_inner);
                seen.push((head.size, head.edge.size(), head.edge.root()));
                sample::batch(head, rows, 1)
            }))
            .await;
        let head = ok("appending", appended);
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert_eq!(
            seen.last(),
            Some(&(size, size, root)),
            "build saw another head"
        );
        let rows = all_rows(&*store, size..u64::MAX, Parts::With).await;
        model.rows.extend(rows);
        assert_eq!(head.size, model.size(), "the answer is not the new head");
        assert_eq!(head.edge.root(), model.edge().root(), "nor its edge");
    }
}

/// An error of `build` is passed on as it is, and nothing is written.
pub async fn a_build_that_fails_writes_nothing(backend: &dyn Backend) {
    let (store, model) = filled(backend, &[7]).await;
    for kind in [ErrorKind::Invalid, ErrorKind::RolledBack, ErrorKind::Key] {
        let refusing: Build = Box::new(move |_| Err(Error::new(kind, "no batch today").at(3)));
        let e = fails("append", kind, store.append(refusing).await);
        assert_eq!(e.to_string(), "no batch today (index 3)");
        assert_eq!(e.index(), Some(3), "the index of the error was lost");
    }
    holds(&*store, &model).await;
    let (head, _) = append(&*store, Sample::new(1, 2)).await;
    assert_eq!(head.size, 8, "the store is stuck after a build that failed");
}

/// A change that makes a batch unfit.
type Spoil = fn(&mut Batch);

/// A batch whose rows or tiles don't fit the head is refused, and nothing of it is written.
pub async fn a_batch_that_does_not_fit_is_refused(backend: &dyn Backend) {
    let (store, model) = filled(backend, &[250]).await;
    let spoiled: [(&str, Spoil); 9] = [
        ("no rows", |b| b.rows.clear()),
        ("nothing at all", |b| {
            *b = Batch {
                rows: vec![],
                tiles: vec![],
                keys: vec![],
            }
        }),
        ("a first index behind the head", |b| {
            b.rows.iter_mut().for_each(|row| row.index += 1);
        }),
        ("a first index before the head", |b| {
            b.rows.iter_mut().for_each(|row| row.index -= 1);
        }),
        ("a gap", |b| drop(b.rows.remove(3))),
        ("an index twice", |b| b.rows[4].index = b.rows[3].index),
        ("no tiles", |b| b.tiles.clear()),
        ("one tile missing", |b| drop(b.tiles.pop())),
        ("a tile with a hash too few", |b| {
            b.tiles[0].hashes.truncate(1);
        }),
    ];
    for (what, spoil) in spoiled {
        let build: Build = Box::new(move |head| {
            let mut batch = sample::batch(head, 20, 2)?;
            spoil(&mut batch);
            Ok(batch)
        });
        let doing = format!("appending a batch with {what}");
        fails(&doing, ErrorKind::Invalid, store.append(build).await);
        let head = ok("head", store.head().await);
        assert_eq!(head.size, 250, "{what}: something was written");
    }
    holds(&*store, &model).await;
}

/// An event id that is in the log, or twice in a batch, is refused by name, and nothing of the batch is written.
pub async fn a_known_event_is_refused(backend: &dyn Backend) {
    let (store, model) = filled(backend, &[5, 5]).await;
    let known = model.rows[3].columns.event;
    // Entry and column agree, as in a batch that a log retries.
    let rename = |batch: &mut Batch, at: usize, event: Uuid| {
        let mut entry =
            audit_core::Entry::decode(&batch.rows[at].entry).expect("samples are entries");
        entry.event = event;
        batch.rows[at].entry = entry.encode().expect("it is no longer than before");
        batch.rows[at].columns.event = event;
    };
    let rehash = |batch: &mut Batch, head: &Head| {
        let mut edge = head.edge.clone();
        drop(edge.take_changed());
        for row in &batch.rows {
            edge.push(leaf_hash(&row.entry));
        }
        batch.tiles = edge.take_changed();
    };
    let again: Build = Box::new(move |head| {
        let mut batch = sample::batch(head, 4, 2)?;
        rename(&mut batch, 2, known);
        rehash(&mut batch, head);
        Ok(batch)
    });
    let e = fails("append", ErrorKind::Invalid, store.append(again).await);
    let says = e.to_string();
    assert!(
        says.contains(&known.to_string()),
        "{says:?} doesn't name {known}"
    );
    let twice: Build = Box::new(move |head| {
        let mut batch = sample::batch(head, 4, 2)?;
        let first = batch.rows[0].columns.event;
        rename(&mut batch, 3, first);
        rehash(&mut batch, head);
        Ok(batch)
    });
    fails("append", ErrorKind::Invalid, store.append(twice).await);
    holds(&*store, &model).await;
}

/// A batch that brings a record for a data key that has one is refused, and nothing of it is written.
pub async fn a_data_key_is_stored_once(backend: &dyn Backend) {
    let (store, model) = filled(backend, &[5]).await;
    let known = model
        .keys
        .values()
        .next()
        .expect("samples have keys")
        .clone();
    let build: Build = Box::new(move |head| {
        let mut batch = sample::batch(head, 2, 2)?;
        batch.keys = vec![known.clone()];
        Ok(batch)
    });
    fails("append", ErrorKind::Invalid, store.append(build).await);
    holds(&*store, &model).await;
}

/// Appends from several tasks and handles at once give one log, in which every batch has its place.
pub async fn concurrent_appends_lose_and_fork_nothing(backend: &dyn Backend) {
    const TASKS: u64 = 6;
    const BATCHES: u64 = 8;
    let store = created(backend).await;
    let mut handles = vec![store];
    handles.push(backend.reopen().await);
    handles.push(backend.reopen().await);
    let mut tasks = Vec::new();
    for (seed, store) in (1..=TASKS).zip(handles.iter().cycle()) {
        let store = Arc::clone(store);
        tasks.push(tokio::spawn(async move {
            let mut rows = Vec::new();
            for batch in 0..BATCHES {
                let size = usize::try_from(1 + (seed + batch) % 5).unwrap_or(1);
                rows.extend(append(&*store, Sample::new(size, seed)).await.1.rows);
            }
            rows
        }));
    }
    let mut model = Model::default();
    for task in tasks {
        model.rows.extend(task.await.expect("no writer panics"));
    }
    model.rows.sort_unstable_by_key(|row| row.index);
    for (row, index) in model.rows.iter().zip(0..) {
        assert_eq!(row.index, index, "two appends got the same index, or none");
    }
    for store in &handles {
        for key in ok("keys", store.keys(None, usize::MAX).await) {
            model.keys.insert(key.id, key);
        }
        holds(&**store, &model).await;
    }
}

/// Who reads while another writes sees the log before or after a batch: head, edge and rows agree.
pub async fn readers_beside_a_writer_see_whole_batches(backend: &dyn Backend) {
    const BATCHES: u64 = 40;
    const ROWS: u64 = 7;
    let store = created(backend).await;
    let reader = backend.reopen().await;
    let writer = tokio::spawn(async move {
        for seed in 0..BATCHES {
            append(&*store, Sample::new(7, seed)).await;
        }
    });
    let mut size = 0;
    let mut edge = EdgeTiles::new();
    while size < BATCHES * ROWS {
        let head = ok("reading the head beside a writer", reader.head().await);
        assert!(head.size >= size, "the log became shorter");
        assert_eq!(head.size % ROWS, 0, "a part of a batch is seen");
        for row in all_rows(&*reader, size..head.size, Parts::Without).await {
            edge.push(leaf_hash(&row.entry));
        }
        assert_eq!(edge.size(), head.size, "the head is ahead of the rows");
        assert_eq!(edge.root(), head.edge.root(), "head and rows disagree");
        size = head.size;
        tokio::task::yield_now().await;
    }
    writer.await.expect("the writer doesn't panic");
}

/// Another handle, opened beside the first or after it is gone, reads the same.
pub async fn another_handle_reads_the_same(backend: &dyn Backend) {
    let (store, model) = filled(backend, &[100, 300]).await;
    ok(
        "checkpoint",
        store.put_checkpoint(400, b"four hundred").await,
    );
    holds(&*backend.reopen().await, &model).await;
    drop(store);
    let store = backend.reopen().await;
    let description = ok("describing", store.description().await);
    assert_eq!(description.map(|d| d.origin).as_deref(), Some(ORIGIN));
    holds(&*store, &model).await;
    let latest = ok("latest", store.latest_checkpoint().await);
    assert_eq!(latest.as_deref(), Some(&b"four hundred"[..]));
    let (head, _) = append(&*store, Sample::new(1, 2)).await;
    assert_eq!(
        head.size, 401,
        "a reopened log doesn't go on where it ended"
    );
}

/// A checkpoint can be written again with the same bytes, and with no others; none is ahead of the log.
pub async fn a_checkpoint_is_never_replaced(backend: &dyn Backend) {
    let (store, _) = filled(backend, &[10]).await;
    ok("writing", store.put_checkpoint(10, b"ten").await);
    ok(
        "writing the same again",
        store.put_checkpoint(10, b"ten").await,
    );
    fails(
        "writing another of the same size",
        ErrorKind::Invalid,
        store.put_checkpoint(10, b"TEN").await,
    );
    fails(
        "writing one beyond the log",
        ErrorKind::Invalid,
        store.put_checkpoint(11, b"eleven").await,
    );
    // Two publishers may come one behind the other.
    ok(
        "writing an earlier one",
        store.put_checkpoint(4, b"four").await,
    );
    let all = ok("checkpoints", store.checkpoints(0, 10).await);
    assert_eq!(all, [(4, b"four".to_vec()), (10, b"ten".to_vec())]);
    let latest = ok("latest", store.latest_checkpoint().await);
    assert_eq!(
        latest.as_deref(),
        Some(&b"ten"[..]),
        "size decides, not age"
    );
}

/// Checkpoints come by size, those above a size, page by page.
pub async fn checkpoints_are_paged_by_size(backend: &dyn Backend) {
    let (store, _) = filled(backend, &[20]).await;
    for size in [3, 20, 7, 11] {
        let note = format!("checkpoint {size}").into_bytes();
        ok("writing", store.put_checkpoint(size, &note).await);
    }
    for (after, limit, expected) in [
        (0, 10, vec![3, 7, 11, 20]),
        (0, 2, vec![3, 7]),
        (7, 2, vec![11, 20]),
        (8, 1, vec![11]),
        (20, 10, vec![]),
        (u64::MAX, 10, vec![]),
    ] {
        let page = ok("checkpoints", store.checkpoints(after, limit).await);
        let sizes: Vec<u64> = page.iter().map(|(size, _)| *size).collect();
        assert_eq!(sizes, expected, "after {after}, at most {limit}");
        for (size, note) in page {
            assert_eq!(note, format!("checkpoint {size}").into_bytes());
        }
    }
}

/// Records of data keys are found by id, by scope, and page by page.
pub async fn keys_are_found_by_id_and_by_scope(backend: &dyn Backend) {
    let (store, model) = filled(backend, &[8; 10]).await;
    assert_eq!(model.keys.len(), 10);
    for key in model.keys.values() {
        let found = ok("key", store.key(key.id).await);
        assert!(found.as_ref() == Some(key), "key {}", key.id);
        let mut scope = ok("scope", store.keys_of_scope(key.scope).await);
        scope.sort_unstable_by_key(|key| key.id);
        let expected = model.keys.values().filter(|k| k.scope == key.scope);
        assert!(scope.iter().eq(expected), "keys of scope {}", key.scope);
    }
    assert_eq!(ok("key", store.key(Uuid::nil()).await), None);
    let other = Hex([7; 16]);
    assert_eq!(ok("scope", store.keys_of_scope(other).await), []);
    for limit in [1, 3, 100] {
        let mut walked = Vec::new();
        let mut after = None;
        loop {
            let page = ok("keys", store.keys(after, limit).await);
            assert!(page.len() <= limit, "a page is longer than its limit");
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            walked.extend(page);
        }
        assert!(walked.iter().eq(model.keys.values()), "pages of {limit}");
    }
}

/// Records are replaced by those of the same ids; with one unknown id nothing is replaced.
pub async fn rewrapping_is_all_or_nothing(backend: &dyn Backend) {
    let (store, mut model) = filled(backend, &[4; 5]).await;
    let rewrapped = |key: &KeyRecord| KeyRecord {
        generation: 2,
        wrapped: [9; 60],
        ..key.clone()
    };
    let mut records: Vec<KeyRecord> = model.keys.values().take(3).map(rewrapped).collect();
    let mut with_unknown = records.clone();
    with_unknown.push(KeyRecord {
        id: Uuid::max(),
        ..records[0].clone()
    });
    fails(
        "rewrapping an unknown key",
        ErrorKind::Invalid,
        store.rewrap(&with_unknown).await,
    );
    holds(&*store, &model).await;
    ok("rewrapping", store.rewrap(&records).await);
    ok("rewrapping nothing", store.rewrap(&[]).await);
    for record in records.drain(..) {
        model.keys.insert(record.id, record);
    }
    holds(&*store, &model).await;
}

/// Erasing takes the records of the keys, and parts, tokens and token rows of the entries; it takes nothing else, and
/// what is gone already is no error.
pub async fn erasing_takes_content_and_leaves_proof(backend: &dyn Backend) {
    let (store, mut model) = filled(backend, &[20, 20]).await;
    ok("checkpoint", store.put_checkpoint(40, b"forty").await);
    let key = *model.keys.keys().next().expect("samples have keys");
    let indexes = [0, 1, 3, 4, 21, 39];
    let mut erased = model.rows.clone();
    for row in &mut erased {
        if indexes.contains(&row.index) {
            row.tokens = None;
            row.parts = None;
        }
    }
    let gone: Vec<Token> = model.rows[0]
        .tokens
        .iter()
        .flat_map(|s| s.tokens.clone())
        .collect();
    model.rows = erased;
    model.keys.remove(&key);
    for _ in 0..2 {
        ok("erasing", store.erase(&[key], &indexes).await);
        holds(&*store, &model).await;
        assert_eq!(
            ok("key", store.key(key).await),
            None,
            "the key is still there"
        );
    }
    let query = Query {
        tokens: gone,
        indexes: 0..2,
        ..Query::default()
    };
    let found = ok("find", store.find(&query).await);
    assert_eq!(found, [0; 0], "an erased entry is found by its tokens");
    ok("erasing nothing", store.erase(&[], &[]).await);
    ok(
        "erasing what never was",
        store.erase(&[Uuid::nil()], &[]).await,
    );
    let latest = ok("latest", store.latest_checkpoint().await);
    assert_eq!(latest.as_deref(), Some(&b"forty"[..]));
    append(&*store, Sample::new(3, 5)).await;
}

/// A copy of a log brings rows that were erased, without the record of their key, and records of later generations than
/// their entries name. They are taken as they are, and more is appended behind them.
pub async fn what_was_erased_or_rewrapped_before_it_was_copied_is_appended_as_it_is(
    backend: &dyn Backend,
) {
    let store = created(backend).await;
    let mut model = Model::default();
    for (seed, erased) in [(1, false), (2, true), (3, false)] {
        let built = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&built);
        let copied = store.append(Box::new(move |head| {
            let mut batch = Sample::new(12, seed).batch(head)?;
            if erased {
                batch.keys.clear();
                for row in batch.rows.iter_mut().filter(|row| row.parts.is_some()) {
                    row.parts = None;
                    row.tokens = None;
                }
            }
            for key in &mut batch.keys {
                key.generation = 3;
                key.wrapped = [5; 60];
            }
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(batch.clone());
            Ok(batch)
        }));
        ok("appending what was erased or rewrapped", copied.await);
        let batch = built.lock().unwrap_or_else(PoisonError::into_inner).take();
        let batch = batch.expect("append called build");
        assert!(erased == batch.keys.is_empty(), "the batch is no case");
        model.add(batch);
    }
    assert_eq!(model.keys.len(), 2);
    holds(&*store, &model).await;
    holds(&*backend.reopen().await, &model).await;
    // Those that are there can be erased and rewrapped as any other.
    let (first, second) = (model.rows[0].index, model.rows[13].index);
    let key = *model.keys.keys().next().expect("two are left");
    ok("erasing", store.erase(&[key], &[first, second]).await);
    model.keys.remove(&key);
    for index in [0, 13] {
        model.rows[index].tokens = None;
        model.rows[index].parts = None;
    }
    holds(&*store, &model).await;
    let (_, batch) = append(&*store, Sample::new(3, 5)).await;
    model.add(batch);
    holds(&*store, &model).await;
}

/// The lease has one holder at a time, over all handles, and is free again when its holder drops it.
pub async fn one_holds_the_publisher_lease(backend: &dyn Backend) {
    let store = created(backend).await;
    let other = backend.reopen().await;
    for _ in 0..2 {
        let lease = ok("taking the lease", store.publisher_lease().await);
        let lease = lease.expect("nobody holds the lease");
        assert!(ok("asking", lease.held().await), "a new lease isn't held");
        for handle in [&store, &other] {
            let second = ok("taking the lease", handle.publisher_lease().await);
            assert!(second.is_none(), "two hold the lease");
        }
        drop(lease);
        let second = ok("taking the lease", other.publisher_lease().await);
        assert!(second.is_some(), "a lease that was dropped is still held");
    }
}

/// Waiting for growth ends at once when there was some, soon after there is some, and after a while anyway.
pub async fn waiting_ends_when_the_log_grows(backend: &dyn Backend) {
    const LONG: Duration = Duration::from_secs(20);
    let (store, _) = filled(backend, &[5]).await;
    let reader = backend.reopen().await;
    for handle in [&store, &reader] {
        let waited = tokio::time::timeout(LONG, handle.wait_beyond(4)).await;
        ok(
            "waiting",
            waited.expect("the log is longer than that already"),
        );
        let waited = tokio::time::timeout(LONG, handle.wait_beyond(5)).await;
        ok("waiting", waited.expect("a wait ends after about a second"));
    }
    let waiting = tokio::spawn(async move {
        let mut waits = 0;
        while ok("head", reader.head().await).size == 5 {
            ok("waiting", reader.wait_beyond(5).await);
            waits += 1;
        }
        waits
    });
    append(&*store, Sample::new(1, 2)).await;
    let waits = tokio::time::timeout(LONG, waiting).await;
    let waits = waits
        .expect("growth ends the wait")
        .expect("it doesn't panic");
    assert!(waits <= 3, "{waits} waits ended before the growth was seen");
}
