//! What the server says of its own files.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use audit_core::Error;

use crate::failure::Found;

/// Rows where none can be, which no walk of the log comes by.
const MISPLACED: &str = "
  SELECT 'an entry with index ' || idx FROM (SELECT min(idx) AS idx FROM entry) m WHERE idx < 0
  UNION ALL
  SELECT 'a token row of index ' || idx FROM (SELECT idx FROM token WHERE idx < 0 LIMIT 1) m
  UNION ALL
  SELECT 'content of index ' || idx || ', which has no entry' FROM (
    SELECT idx FROM content c WHERE NOT EXISTS (SELECT FROM entry e WHERE e.idx = c.idx) LIMIT 1) m
  UNION ALL
  SELECT 'a tile ' || level || '/' || node / 256 FROM (
    SELECT level, node FROM tile WHERE node < 0 OR level NOT BETWEEN 0 AND 7 LIMIT 1) m
  UNION ALL
  SELECT 'a checkpoint of size ' || size FROM (SELECT min(size) AS size FROM checkpoint) m WHERE size < 1
  UNION ALL
  SELECT 'a row in meta that says which log this is and is not named origin' FROM (
    SELECT FROM meta WHERE name <> 'origin' LIMIT 1) m
  LIMIT 1";

pub(crate) async fn check(c: &mut PgConnection) -> Found<()> {
    let row = sqlx::query(MISPLACED).fetch_optional(c).await?;
    if let Some(row) = row {
        let what: String = row.try_get(0)?;
        return Err(Error::corrupt(format!("the store has {what}, where no row can be")).into());
    }
    Ok(())
}
