//! Index runs: a search through them finds what a scan of all rows finds, and they hold nothing that was erased.

use std::collections::BTreeSet;

use audit_core::ErrorKind;
use audit_core::Kind;
use audit_core::store::{Parts, Query, ReadStore as _, Row, Store as _};
use audit_core::time::Timestamp;
use audit_store_s3::S3Store;
use audit_testkit::sample::{self, KINDS, START_MICROS};
use http::{Method, StatusCode};

use crate::support::{Place, place};

const BATCHES: u64 = 135;
const ROWS: usize = 3;

/// A log of two runs and some batches behind them.
async fn with_runs() -> Option<(Place, S3Store)> {
    let place = place().await?;
    let store = place.store();
    store.create("example.com/runs").await.unwrap();
    for seed in 0..BATCHES {
        store
            .append(Box::new(move |head| sample::batch(head, ROWS, seed)))
            .await
            .unwrap();
    }
    publish(&store, 2).await;
    Some((place, store))
}

/// Each checkpoint makes one run.
async fn publish(store: &S3Store, times: u64) {
    let size = store.head().await.unwrap().size;
    for n in 0..times {
        let size = size - times + 1 + n;
        store
            .put_checkpoint(size, format!("a\n{size}\n\n").as_bytes())
            .await
            .unwrap();
    }
}

async fn runs(place: &Place) -> usize {
    place
        .keys()
        .await
        .iter()
        .filter(|key| key.contains("/run/1/"))
        .count()
}

async fn all_rows(store: &S3Store) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    loop {
        let more = store
            .rows(rows.len() as u64..u64::MAX, Parts::Without)
            .await
            .unwrap();
        if more.is_empty() {
            return rows;
        }
        rows.extend(more);
    }
}

async fn compare(store: &S3Store) {
    let rows = all_rows(store).await;
    let size = rows.len() as u64;
    let at = |seconds: i64| Timestamp::EPOCH.plus_micros(START_MICROS + seconds * 1_000_000);
    let session = sample::session_token(2);
    for tokens in [vec![], vec![session], vec![session, sample::actor_token()]] {
        for kind in [None, Some(Kind::new(KINDS[1]).unwrap())] {
            for (from, until) in [(None, None), (Some(at(150)), Some(at(260)))] {
                for indexes in [0..u64::MAX, 100..300, 190..194] {
                    for (limit, descending) in [(1000, false), (7, true), (7, false)] {
                        let query = Query {
                            tokens: tokens.clone(),
                            kind: kind.clone(),
                            from,
                            until,
                            indexes: indexes.clone(),
                            descending,
                            limit,
                        };
                        let mut expected: Vec<u64> = rows
                            .iter()
                            .filter(|row| {
                                let own = row.tokens.as_ref().map_or(&[][..], |set| &set.tokens);
                                query.tokens.iter().all(|token| own.contains(token))
                                    && query.kind.as_ref().is_none_or(|k| *k == row.columns.kind)
                                    && from.is_none_or(|from| row.columns.time >= from)
                                    && until.is_none_or(|until| row.columns.time < until)
                                    && indexes.contains(&row.index)
                            })
                            .map(|row| row.index)
                            .collect();
                        if descending {
                            expected.reverse();
                        }
                        expected.truncate(limit);
                        assert_eq!(store.find(&query).await.unwrap(), expected, "{query:?}");
                    }
                }
            }
        }
    }
    for row in rows.iter().step_by(29) {
        assert_eq!(
            store.position(row.columns.event).await.unwrap(),
            Some(row.index)
        );
    }
    let expected: BTreeSet<_> = rows
        .iter()
        .flat_map(|row| {
            row.tokens
                .iter()
                .flat_map(|set| &set.tokens)
                .map(|t| (*t, row.index))
        })
        .collect();
    let mut walked = Vec::new();
    let mut after = None;
    loop {
        let page = store.token_rows(after, 100).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(*last);
        walked.extend(page);
    }
    assert_eq!(walked.len(), expected.len(), "token rows of {size} entries");
    assert_eq!(walked.into_iter().collect::<BTreeSet<_>>(), expected);
    let all = store.keys(None, usize::MAX).await.unwrap();
    let mut walked = Vec::new();
    let mut after = None;
    loop {
        let page = store.keys(after, 10).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        walked.extend(page);
    }
    assert!(walked == all, "keys");
    for key in all.iter().step_by(17) {
        assert!(store.key(key.id).await.unwrap().as_ref() == Some(key));
        let scope = store.keys_of_scope(key.scope).await.unwrap();
        assert!(
            scope.iter().eq(all.iter().filter(|k| k.scope == key.scope)),
            "scope"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_through_runs_finds_what_a_scan_finds_before_and_after_erasing() {
    let Some((place, store)) = with_runs().await else {
        return;
    };
    assert_eq!(runs(&place).await, 2);
    compare(&place.store()).await;
    store.integrity().await.unwrap();
    // A known event is refused wherever it stands.
    let rows = all_rows(&store).await;
    let again = sample::batch(&audit_core::store::Head::empty(), ROWS, 0)
        .unwrap()
        .rows[1]
        .columns
        .event;
    assert_eq!(rows[1].columns.event, again);
    let fresh = place.store();
    let error = fresh
        .append(Box::new(move |head| {
            let mut batch = sample::batch(head, 1, 9999)?;
            batch.rows[0].columns.event = again;
            Ok(batch)
        }))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains(&again.to_string()), "{error}");

    let keys = store.keys(None, 3).await.unwrap();
    let ids: Vec<_> = keys.iter().map(|key| key.id).collect();
    let indexes = [0, 1, 2, 100, 300, 404];
    // Another process has the runs in memory.
    let other = place.store();
    compare(&other).await;
    store.erase(&ids, &indexes).await.unwrap();
    assert_eq!(
        runs(&place).await,
        0,
        "runs with erased tokens are still there"
    );
    for store in [&store, &other, &place.store()] {
        compare(store).await;
        for id in &ids {
            assert_eq!(store.key(*id).await.unwrap(), None);
        }
        let rows = all_rows(store).await;
        assert!(
            indexes
                .iter()
                .all(|at| rows[usize::try_from(*at).unwrap()].tokens.is_none())
        );
    }
    // The publisher makes them anew, a few entries later.
    for seed in 0..3 {
        store
            .append(Box::new(move |head| sample::batch(head, 1, 7000 + seed)))
            .await
            .unwrap();
        publish(&store, 1).await;
    }
    assert_eq!(runs(&place).await, 2);
    compare(&place.store()).await;
    place.store().integrity().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_run_is_found_and_one_that_is_gone_is_done_without() {
    let Some((place, _store)) = with_runs().await else {
        return;
    };
    let key = place
        .keys()
        .await
        .into_iter()
        .find(|key| key.contains("/run/1/"))
        .unwrap();
    let target = format!("/{}/{key}", place.bucket);
    let there = place.server.send(Method::GET, &target, &[], "").await;
    let good = there.into_body().bytes().await.unwrap();
    for at in [0, good.len() / 3, good.len() - 60, good.len() - 1] {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        place.server.send(Method::PUT, &target, &[], bad).await;
        let error = place.store().integrity().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
    }
    // Every version of it goes, as if it had never been made.
    let fresh = place.store();
    fresh.erase(&[], &[]).await.unwrap();
    let gone = place.server.send(Method::GET, &target, &[], "").await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    compare(&fresh).await;
    fresh.integrity().await.unwrap();
}
