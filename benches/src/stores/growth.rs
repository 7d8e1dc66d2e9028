//! What a log of millions costs to append to, to search and to read, in time and in pages that the server looks at.

use std::sync::Arc;
use std::time::Duration;

use audit_core::store::{Parts, Query, ReadStore as _, Store as _};
use audit_core::token::Token;
use audit_store_postgres::{OpenOptions, PostgresStore, PostgresUrl};
use audit_testkit::sample::{Sample, session_token};
use audit_testkit::time::TestIds;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use crate::Result;
use crate::load::table::{Table, per, print, time};
use crate::load::times::{Timer, Times};
use crate::stores::engine::{Engine, Place};

/// Entries of one session.
const SESSION: u64 = 10;
/// Other tokens: of actors, and of models.
const ACTORS: u64 = 500;
const MODELS: u64 = 5;
const BATCH: usize = 2000;
/// How often each operation is measured.
const TIMES: u64 = 400;
const RANGE: u64 = 256;

/// Time and pages of one kind of operation.
struct Cost {
    /// In places that were not looked at before.
    first: Duration,
    /// In the same places again.
    again: Duration,
    pages: u64,
}

/// Fills a log on PostgreSQL up to each of `sizes`, and measures there.
pub async fn grow(engine: &Engine, sizes: &[u64]) -> Result<()> {
    let place = engine.place();
    let url: PostgresUrl = place.url.parse()?;
    let store = PostgresStore::create(&url, true).await?;
    store.create("bench.example/growth").await?;
    let mut raw = PgConnection::connect(engine.server_url()?).await?;
    let mut table = Table::new([
        "entries",
        "loaded in",
        "tables",
        "append 1",
        "append 100",
        "find by token",
        "read 256",
        "position",
    ]);
    let mut first: Option<Vec<Cost>> = None;
    for size in sizes {
        let timer = Timer::start(Duration::MAX);
        fill(&store, *size).await?;
        let loaded = timer.elapsed();
        let sql = format!(
            "SET search_path = {}; VACUUM (ANALYZE); CHECKPOINT",
            place.name()
        );
        for statement in sql.split("; ") {
            sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
                .execute(&mut raw)
                .await?;
        }
        let costs = measure(&url, &place, &mut raw, *size).await?;
        let cell = |at: usize| {
            let cost = &costs[at];
            let base = first.as_ref().map_or(cost, |first| &first[at]);
            let times = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
            format!(
                "{} (×{:.2}), again {} (×{:.2}), {} pages (×{:.2})",
                time(cost.first),
                times(cost.first, base.first),
                time(cost.again),
                times(cost.again, base.again),
                cost.pages,
                per(cost.pages, base.pages.max(1)),
            )
        };
        table.row([
            size.to_string(),
            time(loaded),
            tables(&mut raw, &place).await?,
            cell(0),
            cell(1),
            cell(2),
            cell(3),
            cell(4),
        ]);
        first.get_or_insert(costs);
    }
    print(&table.to_string())
}

/// Appends until the log has `size` entries.
async fn fill(store: &PostgresStore, size: u64) -> Result<()> {
    loop {
        let there = store.head().await?.size;
        let left = usize::try_from(size.saturating_sub(there))?;
        if left == 0 {
            return Ok(());
        }
        // The head is read once per round, not per batch.
        for number in 0..left.div_ceil(BATCH).min(64) {
            let rows = left.saturating_sub(number * BATCH).min(BATCH);
            append(store, rows).await?;
        }
    }
}

async fn append(store: &PostgresStore, rows: usize) -> Result<()> {
    store
        .append(Box::new(move |head| {
            let mut batch = Sample::new(rows, 7).batch(head)?;
            for row in &mut batch.rows {
                if let Some(set) = &mut row.tokens {
                    set.tokens = tokens(row.index);
                }
            }
            Ok(batch)
        }))
        .await?;
    Ok(())
}

/// The tokens of an entry: of its session, which has ten entries, its actor and its model.
fn tokens(index: u64) -> Vec<Token> {
    let session = index / SESSION;
    let mut tokens = vec![
        session_token(1000 + session),
        session_token(100 + session % ACTORS),
        session_token(session % MODELS),
    ];
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

async fn measure(
    url: &PostgresUrl,
    place: &Place,
    raw: &mut PgConnection,
    size: u64,
) -> Result<Vec<Cost>> {
    still(raw).await?;
    let mut costs = Vec::new();
    for operation in 0..5 {
        let store = Arc::new(PostgresStore::open(url, OpenOptions::read_write()).await?);
        let events: Vec<_> = {
            let rows = store.rows(size / 2..size / 2 + 100, Parts::Without).await?;
            rows.iter().map(|row| row.columns.event).collect()
        };
        // What is done once per connection, such as planning, is behind it.
        let ids = TestIds::new(size);
        for _ in 0..20 {
            once(&store, operation, &ids, size, &events).await?;
        }
        let before = pages(raw, place).await?;
        // The same places twice: the first time most of a large log's pages aren't in the server's memory.
        let mut passes = [Times::default(), Times::default()];
        for times in &mut passes {
            let ids = TestIds::new(size + operation + 1);
            for _ in 0..TIMES {
                let timer = Timer::start(Duration::MAX);
                once(&store, operation, &ids, size, &events).await?;
                times.push(timer.elapsed());
            }
        }
        // A session's counts are seen when it has ended.
        drop(store);
        let after = pages(raw, place).await?;
        costs.push(Cost {
            first: passes[0].median(),
            again: passes[1].median(),
            pages: after.saturating_sub(before) / (2 * TIMES),
        });
    }
    Ok(costs)
}

/// Waits for the server's own vacuuming, whose pages would be counted too.
async fn still(raw: &mut PgConnection) -> Result<()> {
    for _ in 0..600 {
        let workers: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'",
        )
        .fetch_one(&mut *raw)
        .await?;
        if workers == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Err("the server goes on vacuuming".into())
}

async fn once(
    store: &PostgresStore,
    operation: u64,
    ids: &TestIds,
    size: u64,
    events: &[uuid::Uuid],
) -> Result<()> {
    match operation {
        0 => append(store, 1).await,
        1 => append(store, 100).await,
        2 => {
            let session = ids.number() % (size / SESSION);
            let query = Query {
                tokens: vec![session_token(1000 + session)],
                limit: 50,
                ..Query::default()
            };
            let found = store.find(&query).await?;
            if found.len() < 5 {
                return Err(format!("session {session} has {} entries", found.len()).into());
            }
            Ok(())
        }
        3 => {
            let start = ids.number() % (size - RANGE);
            let rows = store.rows(start..start + RANGE, Parts::With).await?;
            if rows.len() as u64 != RANGE {
                return Err(format!("{} rows", rows.len()).into());
            }
            Ok(())
        }
        _ => {
            let at = usize::try_from(ids.number())? % events.len();
            match store.position(events[at]).await? {
                Some(_) => Ok(()),
                None => Err("an event isn't found".into()),
            }
        }
    }
}

/// Pages of tables and indexes that the server has looked at for this log, once its count stands still.
async fn pages(raw: &mut PgConnection, place: &Place) -> Result<u64> {
    let sql = format!(
        "SELECT sum(coalesce(heap_blks_hit, 0) + coalesce(heap_blks_read, 0) + coalesce(idx_blks_hit, 0)
           + coalesce(idx_blks_read, 0) + coalesce(toast_blks_hit, 0) + coalesce(toast_blks_read, 0)
           + coalesce(tidx_blks_hit, 0) + coalesce(tidx_blks_read, 0))::bigint
         FROM pg_statio_user_tables WHERE schemaname = '{}'",
        place.name()
    );
    let mut last = -1;
    let mut same = 0;
    // A session tells its counts at its end, or at most every second, and at the latest after ten seconds idle.
    for _ in 0..60 {
        let row = sqlx::query(AssertSqlSafe(sql.clone()))
            .fetch_one(&mut *raw)
            .await?;
        let now: i64 = row.try_get(0)?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same == 6 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(u64::try_from(last)?)
}

async fn tables(raw: &mut PgConnection, place: &Place) -> Result<String> {
    let sql = format!(
        "SELECT pg_size_pretty(sum(pg_total_relation_size(c.oid))) FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = '{}' AND c.relkind = 'r'",
        place.name()
    );
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(raw).await?;
    Ok(row.try_get(0)?)
}
