//! No statement that a log makes again and again walks a table.

use audit_core::Kind;
use audit_core::hex::Hex;
use audit_core::store::{Query, ReadStore as _, Store as _};
use audit_core::time::Timestamp;
use audit_testkit::sample::{KINDS, START_MICROS, actor_token, session_token};
use sqlx::Row as _;

use crate::support::{append, place_or_skip};

const ROWS: usize = 100_000;

/// How often each table was read from its beginning to its end, by the server's own count.
async fn walks(place: &crate::support::Place) -> Vec<(String, i64)> {
    let sql = format!(
        "SELECT relname::text, seq_scan FROM pg_stat_user_tables WHERE schemaname = '{}'
           AND relname NOT IN ('head', 'meta', 'migration') ORDER BY 1",
        place.schema()
    );
    let rows = place.rows(&sql).await;
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn a_statement_walks_a_table() {
    let place = place_or_skip!();
    let store = place.created().await;
    // As large batches would be slow to make, most rows are copies, which no verifier would take.
    append(&store, 1000, 1).await;
    store.put_checkpoint(1000, b"note").await.unwrap();
    let copies = ROWS / 1000;
    place
        .sql(&format!(
            "INSERT INTO entry SELECT e.idx + 1000 * n, substring(sha256(e.event || int4send(n)) FROM 1 FOR 16), e.kind,
               e.time + 1000000000::bigint * n, e.entry FROM entry e, generate_series(1, {copies}) n;
             INSERT INTO content SELECT c.idx + 1000 * n, c.token_salt, c.tokens, c.parts
               FROM content c, generate_series(1, {copies}) n;
             INSERT INTO token SELECT t.token, t.idx + 1000 * n FROM token t, generate_series(1, {copies}) n;
             INSERT INTO tile SELECT 0, n + 100000, substring(hashes FROM 1 FOR 32)
               FROM tile, generate_series(1, 20000) n WHERE level = 0 AND node = 0;
             INSERT INTO checkpoint SELECT n, note FROM checkpoint, generate_series(1001, 20000) n;
             INSERT INTO data_key SELECT substring(sha256(id || int4send(n)) FROM 1 FOR 16),
               substring(sha256(scope || int4send(n)) FROM 1 FOR 16), run, generation, wrapped
               FROM data_key, generate_series(1, 20000) n;
             UPDATE head SET size = m.idx + 1, last = m.event FROM (SELECT idx, event FROM entry ORDER BY idx DESC LIMIT 1) m"
        ))
        .await;
    let mut raw = place.raw().await;
    for table in [
        "entry",
        "content",
        "token",
        "tile",
        "checkpoint",
        "data_key",
    ] {
        let sql = format!("VACUUM ANALYZE {table}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut raw)
            .await
            .unwrap();
    }
    let before = walks(&place).await;
    let store = place.opened().await;
    // Often enough that the server may have turned to plans that don't know the parameters.
    for round in 0..8 {
        let kind = |n: usize| Some(Kind::new(KINDS[n]).unwrap());
        let at =
            |seconds: i64| Some(Timestamp::EPOCH.plus_micros(START_MICROS + seconds * 1_000_000));
        for tokens in [
            vec![],
            vec![session_token(1)],
            vec![session_token(1), actor_token()],
            vec![Hex([9; 16])],
        ] {
            for kind in [None, kind(1), Some(Kind::new("nothing.like_this").unwrap())] {
                for (from, until) in [
                    (None, None),
                    (at(500), at(510)),
                    (at(99_000), None),
                    (None, at(50)),
                ] {
                    for descending in [false, true] {
                        let query = Query {
                            tokens: tokens.clone(),
                            kind: kind.clone(),
                            from,
                            until,
                            descending,
                            limit: 20,
                            ..Query::default()
                        };
                        drop(store.find(&query).await.unwrap());
                    }
                }
            }
        }
        for start in [0, 50_000, 100_000] {
            drop(
                store
                    .rows(start..u64::MAX, audit_core::store::Parts::With)
                    .await
                    .unwrap(),
            );
            drop(
                store
                    .rows(start..start + 1, audit_core::store::Parts::Without)
                    .await
                    .unwrap(),
            );
            drop(
                store
                    .token_rows(Some((actor_token(), start)), 10)
                    .await
                    .unwrap(),
            );
            drop(store.checkpoints(start, 10).await.unwrap());
            let id = audit_tlog::tile::TileId::new(0, 1 + round, 3).unwrap();
            drop(store.tile(id).await.unwrap());
        }
        assert_eq!(store.position(uuid::Uuid::max()).await.unwrap(), None);
        drop(store.latest_checkpoint().await.unwrap());
        assert!(store.key(uuid::Uuid::max()).await.unwrap().is_none());
        drop(store.keys(Some(uuid::Uuid::nil()), 10).await.unwrap());
        drop(store.keys_of_scope(session_token(1)).await.unwrap());
        drop(store.tiles(0, Some(0), 10).await);
        // The tiles don't fit the rows, which it says after it has read them.
        drop(store.head().await);
    }
    // The server counts a session's reading when it is idle, or at an end.
    drop(store);
    let mut after = walks(&place).await;
    for _ in 0..50 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let sql = format!(
            "SELECT sum(idx_scan)::bigint FROM pg_stat_user_tables WHERE schemaname = '{}' AND relname = 'data_key'",
            place.schema()
        );
        let counted: Option<i64> = place.rows(&sql).await[0].get(0);
        after = walks(&place).await;
        if counted.unwrap_or_default() >= 8 * 3 {
            break;
        }
    }
    assert_eq!(
        before, after,
        "a table was read from its beginning to its end"
    );
}
