//! What a log's database consists of.

use std::collections::BTreeMap;
use std::path::Path;

use audit_core::entry::Entry;
use audit_core::packed::unpack;
use rusqlite::{Connection, OpenFlags};

use crate::Result;
use crate::load::table::{Table, bytes};

/// Bytes of one table or index: its pages, and what its rows hold.
#[derive(Debug, Clone, Copy, Default)]
pub struct Object {
    /// Of its pages.
    pub pages: u64,
    /// Of its rows.
    pub rows: u64,
}

/// Bytes of one part, under all its events.
#[derive(Debug, Clone, Copy, Default)]
pub struct Part {
    /// How many.
    pub count: u64,
    /// As it came.
    pub plain: u64,
    /// As it is stored.
    pub stored: u64,
}

/// A database, taken apart.
#[derive(Debug, Default)]
pub struct Database {
    /// Of the file.
    pub bytes: u64,
    /// Tables and indexes.
    pub objects: BTreeMap<String, Object>,
    /// Columns of the table `entry`.
    pub columns: BTreeMap<&'static str, u64>,
    /// By kind of event and name of part.
    pub parts: BTreeMap<(String, String), Part>,
}

impl Database {
    /// Takes a closed log's file apart.
    pub fn read(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        let mut database = Self {
            bytes: std::fs::metadata(path)?.len(),
            ..Self::default()
        };
        let mut statement =
            db.prepare("SELECT name, pgsize, payload FROM dbstat WHERE aggregate = TRUE")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let object = Object {
                pages: u64::try_from(row.get::<_, i64>(1)?)?,
                rows: u64::try_from(row.get::<_, i64>(2)?)?,
            };
            database.objects.insert(row.get(0)?, object);
        }
        let mut statement = db.prepare(
            "SELECT entry, length(parts), length(tokens) + length(token_salt) FROM entry",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let encoded: Vec<u8> = row.get(0)?;
            let length = |at| -> Result<u64> {
                Ok(u64::try_from(row.get::<_, Option<i64>>(at)?.unwrap_or(0))?)
            };
            let columns = [
                ("entries, packed", encoded.len() as u64),
                ("sealed parts", length(1)?),
                ("tokens and their salt", length(2)?),
            ];
            for (name, bytes) in columns {
                *database.columns.entry(name).or_default() += bytes;
            }
            database.add_parts(&Entry::decode(&unpack(&encoded)?)?);
        }
        Ok(database)
    }

    fn add_parts(&mut self, entry: &Entry) {
        let content = entry
            .content
            .iter()
            .map(|part| ("content".to_owned(), part.length, part.stored));
        let payloads = entry
            .payloads
            .iter()
            .flatten()
            .map(|part| (part.name.clone(), part.length, part.stored));
        for (name, plain, stored) in content.chain(payloads) {
            let key = (entry.kind.as_str().to_owned(), name);
            let part = self.parts.entry(key).or_default();
            part.count += 1;
            part.plain += plain;
            part.stored += stored;
        }
    }

    /// What it has more than `before`, for `count` interactions.
    #[must_use]
    pub fn table(&self, before: &Self, count: u64) -> String {
        let mut table = Table::new(["part of the database", "bytes", "per interaction"]);
        let mut row = |name: String, now: u64, then: u64| {
            let more = now.saturating_sub(then);
            table.row([name, bytes(more), bytes(more / count.max(1))]);
        };
        row("the file".to_owned(), self.bytes, before.bytes);
        for (name, object) in &self.objects {
            let then = before.objects.get(name).copied().unwrap_or_default();
            if object.pages > then.pages {
                row(format!("· {name}: pages"), object.pages, then.pages);
            }
            if name == "entry" {
                for (column, length) in &self.columns {
                    let then = before.columns.get(column).copied().unwrap_or_default();
                    row(format!("· · {column}"), *length, then);
                }
            }
        }
        let mut parts = Table::new([
            "sealed part",
            "count",
            "as it came",
            "stored",
            "stored of 100",
        ]);
        for ((kind, name), part) in &self.parts {
            parts.row([
                format!("{kind} {name}"),
                bytes(part.count),
                bytes(part.plain),
                bytes(part.stored),
                bytes(part.stored * 100 / part.plain.max(1)),
            ]);
        }
        format!("{table}\n{parts}")
    }
}
