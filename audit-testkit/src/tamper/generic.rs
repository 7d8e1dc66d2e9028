//! Changes that need to know nothing of what a table means.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Backend, Case, Loss, Place, Record, Report, SampleLog, Sees, Table, Tables, Unmade};
use super::{Value, judge, load_good};
use crate::memory::Contents;

/// A table with its rows.
struct Filled {
    table: Table,
    rows: Vec<Record>,
}

fn filled<T: Tables>(copy: &T) -> Vec<Arc<Filled>> {
    let tables = copy.tables().into_iter();
    tables
        .map(|table| {
            let rows = copy.rows(&table);
            Arc::new(Filled { table, rows })
        })
        .collect()
}

/// Takes out of two lists of rows what both have.
fn difference(remove: Vec<Record>, insert: Vec<Record>) -> (Vec<Record>, Vec<Record>) {
    let mut counts: BTreeMap<Record, i64> = BTreeMap::new();
    for row in remove {
        *counts.entry(row).or_default() -= 1;
    }
    for row in insert {
        *counts.entry(row).or_default() += 1;
    }
    let mut lists = (Vec::new(), Vec::new());
    for (row, count) in counts {
        let list = if count < 0 {
            &mut lists.0
        } else {
            &mut lists.1
        };
        list.extend(std::iter::repeat_n(
            row,
            usize::try_from(count.unsigned_abs()).unwrap_or_default(),
        ));
    }
    lists
}

/// A copy in which rows of one table were exchanged for others.
fn changed<T: Tables>(
    good: &T,
    table: &Table,
    remove: Vec<Record>,
    insert: Vec<Record>,
) -> Result<T, Unmade> {
    let (remove, insert) = difference(remove, insert);
    if remove.is_empty() && insert.is_empty() {
        return Err(Unmade::Identical);
    }
    let mut copy = good.duplicate();
    copy.write(table, &remove, &insert)
        .map_err(Unmade::Refused)?;
    // An engine may make of a value what was there before.
    if copy.rows(table) == good.rows(table) {
        return Err(Unmade::Identical);
    }
    Ok(copy)
}

/// A change of one table: rows by their place in it, and the rows that come instead.
struct Change {
    name: String,
    column: Option<usize>,
    remove: Vec<usize>,
    insert: Vec<Record>,
    sees: Sees,
    /// How a verdict may name it, beside the rows themselves.
    named: Vec<Place>,
}

fn case<'a, T: Tables>(good: &'a T, filled: &Arc<Filled>, change: Change) -> Case<'a, T> {
    let filled = Arc::clone(filled);
    let table = &filled.table;
    let touched = change.remove.iter().map(|row| &filled.rows[*row]);
    let places: Vec<Place> = touched
        .chain(&change.insert)
        .flat_map(|row| good.places(table, row))
        .chain(change.named)
        .collect();
    let target = change
        .column
        .map(|column| (table.name.clone(), table.columns[column].name.clone()));
    Case {
        name: format!("{}: {}", table.name, change.name),
        target,
        places,
        check: None,
        sees: change.sees,
        make: Box::new(move || {
            let remove = change.remove.iter().map(|row| filled.rows[*row].clone());
            changed(good, &filled.table, remove.collect(), change.insert.clone())
        }),
    }
}

/// First, middle and last of a list.
fn picks<X: Copy + PartialEq>(all: &[X]) -> Vec<X> {
    let mut picks: Vec<X> = Vec::new();
    for at in [0, all.len() / 2, all.len().saturating_sub(1)] {
        if let Some(x) = all.get(at)
            && !picks.contains(x)
        {
            picks.push(*x);
        }
    }
    picks
}

/// Changes every column of every table.
#[must_use]
pub fn cells<B: Backend>(backend: &B, log: &SampleLog) -> Report {
    let good = load_good(backend, &log.contents);
    let mut cases = Vec::new();
    for filled in filled(&good) {
        for (column, about) in filled.table.columns.iter().enumerate() {
            let of = |row: usize| &filled.rows[row][column];
            let (there, missing): (Vec<usize>, Vec<usize>) =
                (0..filled.rows.len()).partition(|row| *of(*row) != Value::Null);
            let missing = missing.get(missing.len() / 2).copied();
            let mut change = |name: String, rows: &[(usize, &Value)]| {
                let insert = rows.iter().map(|(row, value)| {
                    let mut record = filled.rows[*row].clone();
                    record[column] = (*value).clone();
                    record
                });
                cases.push(case(
                    &good,
                    &filled,
                    Change {
                        name: format!("{}, {name}", about.name),
                        column: Some(column),
                        remove: rows.iter().map(|(row, _)| *row).collect(),
                        insert: insert.collect(),
                        sees: Sees::Anybody,
                        named: Vec::new(),
                    },
                ));
            };
            let picked = picks(&there);
            for row in picked.iter().copied().chain(missing) {
                for (what, value) in variants(of(row)) {
                    change(format!("row {row}: {what}"), &[(row, &value)]);
                }
                // Another valid value: the nearest rows with one, and those picked.
                let other = there
                    .iter()
                    .copied()
                    .find(|r| *r > row && of(*r) != of(row));
                for other in picked.iter().copied().chain(other).filter(|r| *r != row) {
                    change(
                        format!("row {row}: that of row {other}"),
                        &[(row, of(other))],
                    );
                    change(
                        format!("rows {row} and {other}: exchanged"),
                        &[(row, of(other)), (other, of(row))],
                    );
                }
            }
        }
    }
    judge("cells", log, &good, &cases)
}

/// What a value can be changed to.
fn variants(value: &Value) -> Vec<(&'static str, Value)> {
    let mut all: Vec<(&'static str, Value)> = vec![("nothing", Value::Null)];
    match value {
        Value::Null => {
            all = vec![
                ("zero", Value::Integer(0)),
                ("no bytes", Value::Blob(Vec::new())),
                ("one byte", Value::Blob(vec![0])),
                ("16 bytes", Value::Blob(vec![7; 16])),
                ("60 bytes", Value::Blob(vec![7; 60])),
                ("text", Value::Text(b"x".to_vec())),
            ];
        }
        Value::Integer(n) => {
            for (what, n) in [
                ("plus one", n.wrapping_add(1)),
                ("minus one", n.wrapping_sub(1)),
                ("negated", n.wrapping_neg()),
                ("zero", 0),
                ("minus one, absolutely", -1),
                ("the smallest", i64::MIN),
                ("the greatest", i64::MAX),
            ] {
                all.push((what, Value::Integer(n)));
            }
            // Not the number's own text: an engine may make the number of it again.
            all.push(("text", Value::Text(format!("{n}?").into_bytes())));
            all.push(("bytes", Value::Blob(n.to_be_bytes().to_vec())));
        }
        Value::Text(bytes) => {
            all.extend(byte_variants(bytes).map(|(what, b)| (what, Value::Text(b))));
            all.push(("bytes", Value::Blob(bytes.clone())));
            all.push(("a number", Value::Integer(1)));
        }
        Value::Blob(bytes) => {
            all.extend(byte_variants(bytes).map(|(what, b)| (what, Value::Blob(b))));
            all.push(("text", Value::Text(bytes.clone())));
            all.push(("a number", Value::Integer(1)));
        }
    }
    all
}

fn byte_variants(bytes: &[u8]) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let at = |at: usize, change: fn(u8) -> u8| {
        let mut bytes = bytes.to_vec();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = change(*byte);
        }
        bytes
    };
    let last = bytes.len().saturating_sub(1);
    let mut twice = bytes.to_vec();
    twice.extend_from_slice(bytes);
    let mut appended = bytes.to_vec();
    appended.push(0);
    [
        ("first byte flipped", at(0, |b| !b)),
        ("first byte plus one", at(0, |b| b.wrapping_add(1))),
        ("first byte minus one", at(0, |b| b.wrapping_sub(1))),
        ("middle byte, one bit", at(bytes.len() / 2, |b| b ^ 1)),
        ("last byte flipped", at(last, |b| !b)),
        ("last byte plus one", at(last, |b| b.wrapping_add(1))),
        ("last byte minus one", at(last, |b| b.wrapping_sub(1))),
        ("without the last byte", bytes[..last].to_vec()),
        (
            "without the first byte",
            bytes.get(1..).unwrap_or_default().to_vec(),
        ),
        ("a zero byte more", appended),
        ("twice", twice),
        ("no bytes", Vec::new()),
    ]
    .into_iter()
}

/// Deletes, duplicates, exchanges and copies rows of every table.
#[must_use]
pub fn rows<B: Backend>(backend: &B, log: &SampleLog) -> Report {
    let good = load_good(backend, &log.contents);
    let mut cases = Vec::new();
    for filled in filled(&good) {
        let table = &filled.table;
        let n = filled.rows.len();
        if n == 0 {
            continue;
        }
        let all: Vec<usize> = (0..n).collect();
        let mut change = |name: String, remove: Vec<usize>, insert: Vec<Record>, (sees, named)| {
            let change = Change {
                name,
                column: None,
                remove,
                insert,
                sees,
                named,
            };
            cases.push(case(&good, &filled, change));
        };
        let anybody = || (Sees::Anybody, Vec::new());
        for (name, gone) in [
            ("the first row deleted", vec![0]),
            ("the middle row deleted", vec![n / 2]),
            ("the last row deleted", vec![n - 1]),
            ("the first half deleted", (0..n / 2).collect()),
            ("the last half deleted", (n / 2..n).collect()),
            ("every second row deleted", (0..n).step_by(2).collect()),
            ("all but the first deleted", (1..n).collect()),
            ("all rows deleted", all.clone()),
        ] {
            let loss = if gone.last() == Some(&(n - 1)) {
                Loss::TheLast
            } else {
                Loss::NotTheLast
            };
            if !gone.is_empty() {
                change(name.to_owned(), gone, Vec::new(), good.loss(table, loss));
            }
        }
        for row in picks(&all) {
            let copy = filled.rows[row].clone();
            change(
                format!("row {row} twice"),
                Vec::new(),
                vec![copy.clone()],
                anybody(),
            );
            for (column, about) in table.columns.iter().enumerate() {
                if !about.key {
                    continue;
                }
                for (what, value) in fresh(&filled.rows, column, row) {
                    let mut copy = copy.clone();
                    copy[column] = value;
                    // Where rows are counted, the first that is missing before it may be named as well.
                    let mut gap = copy.clone();
                    if let Value::Integer(n) = &mut gap[column] {
                        *n = greatest(&filled.rows, column).saturating_add(1);
                    }
                    change(
                        format!("row {row} again with {} {what}", about.name),
                        Vec::new(),
                        vec![copy],
                        (Sees::Anybody, good.places(table, &gap)),
                    );
                }
            }
        }
        // What tells rows apart stays where it is.
        let with_key_of = |key: usize, rest: usize| -> Record {
            let columns = table.columns.iter().enumerate();
            columns
                .map(|(at, column)| filled.rows[if column.key { key } else { rest }][at].clone())
                .collect()
        };
        for (a, b) in [(0, n - 1), (0, n / 2), (n / 2, n - 1), (n / 2, n / 2 + 1)] {
            if a == b || b >= n {
                continue;
            }
            let swapped = vec![with_key_of(a, b), with_key_of(b, a)];
            change(
                format!("rows {a} and {b} exchanged"),
                vec![a, b],
                swapped,
                anybody(),
            );
            let over = vec![with_key_of(b, a)];
            change(
                format!("row {a} copied over row {b}"),
                vec![b],
                over,
                anybody(),
            );
        }
    }
    judge("rows", log, &good, &cases)
}

fn greatest(rows: &[Record], column: usize) -> i64 {
    let numbers = rows.iter().filter_map(|row| match row[column] {
        Value::Integer(n) => Some(n),
        _ => None,
    });
    numbers.max().unwrap_or_default()
}

/// Values of a key column that no row has.
fn fresh(rows: &[Record], column: usize, row: usize) -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    match &rows[row][column] {
        Value::Integer(_) => {
            let numbers = rows.iter().filter_map(|row| match row[column] {
                Value::Integer(n) => Some(n),
                _ => None,
            });
            let most = greatest(rows, column);
            let least = numbers.min().unwrap_or_default();
            all.push(("one beyond the greatest", Value::Integer(most + 1)));
            all.push(("far beyond the greatest", Value::Integer(most + 1000)));
            all.push(("one below the least", Value::Integer(least - 1)));
        }
        Value::Blob(bytes) | Value::Text(bytes) => {
            let mut bytes = bytes.clone();
            if let Some(byte) = bytes.last_mut() {
                *byte = byte.wrapping_add(1);
            }
            let value = if matches!(rows[row][column], Value::Blob(_)) {
                Value::Blob(bytes)
            } else {
                Value::Text(bytes)
            };
            all.push(("one more", value));
        }
        Value::Null => {}
    }
    all
}

/// Puts every combination of tables from an older copy, and from another log, into the place of the present ones.
#[must_use]
pub fn copies<B: Backend>(backend: &B, log: &SampleLog, other: &SampleLog) -> Report {
    let good = load_good(backend, &log.contents);
    let sources: [(&str, &Contents, bool); 2] = [
        ("an older copy", &log.earlier, true),
        ("another log", &other.contents, false),
    ];
    let mut cases = Vec::new();
    for (whose, contents, older) in sources {
        let source = load_good(backend, contents);
        // Tables that are the same in both make no difference.
        let differing: Vec<(Arc<Filled>, Arc<Vec<Record>>)> = filled(&good)
            .into_iter()
            .map(|filled| {
                let rows = source.rows(&filled.table);
                (filled, Arc::new(rows))
            })
            .filter(|(filled, rows)| filled.rows != **rows)
            .collect();
        let all = (1_usize << differing.len()) - 1;
        for mask in 1..=all {
            let taken: Vec<_> = differing
                .iter()
                .enumerate()
                .filter(|(at, _)| mask & (1 << at) != 0)
                .map(|(_, (filled, rows))| (Arc::clone(filled), Arc::clone(rows)))
                .collect();
            let names: Vec<&str> = taken.iter().map(|(f, _)| f.table.name.as_str()).collect();
            let sees = if older && mask == all {
                Sees::WhoRemembers
            } else {
                Sees::Anybody
            };
            let good = &good;
            cases.push(Case {
                name: format!("from {whose}: {}", names.join(", ")),
                target: None,
                places: Vec::new(),
                check: None,
                sees,
                make: Box::new(move || {
                    let mut copy = good.duplicate();
                    for (filled, rows) in &taken {
                        let (remove, insert) = difference(filled.rows.clone(), rows.to_vec());
                        copy.write(&filled.table, &remove, &insert)
                            .map_err(Unmade::Refused)?;
                    }
                    Ok(copy)
                }),
            });
        }
    }
    judge("copies", log, &good, &cases)
}
