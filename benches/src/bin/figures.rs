//! Measures everything once and prints a table: each figure beside its baseline.

use std::fs;
use std::hint::black_box;
use std::io::{Write as _, stdout};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use audit_core::packed;
use audit_core::store::Batch;
use audit_tracer::StoreEvidence;
use benches::Result;
use benches::bare::{Bare, BareBatch, SyncedFile};
use benches::evidence::{Depth, Held, verify_at};
use benches::machine::{cores, cpu, file_system, median, peak_rss_kib, scratch, timed};
use benches::raw::{Cipher, hash_rows, hashes};
use benches::recorder::Recorder;
use benches::tree::{Tree, edge_tiles, frontier};
use benches::workload::{
    Events, Keys, Sealing, append_all, callers, create_log, open_store, published_log,
};
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

const BYTES: usize = 1024;
const LEAVES: u64 = 1_000_000;
const LONE: usize = 1000;
const CALLERS: usize = 256;
const EACH: usize = 8;
const ROUNDS: usize = 7;
const VERIFIED: usize = 20_000;
const PROOFS: u64 = 1000;
const SEALS: usize = 4000;
const PAIRS: u64 = 1000;
const TINY_BYTES: usize = 200;
/// Events of the logs that are verified in a process of their own; the last takes minutes to make.
const SHORT: usize = 10_000;
const LONG: usize = 1_000_000;

const USAGE: &str = "usage: figures [SECTION…] | long-memory | log DIR EVENTS | verify URL DEPTH
  SECTION       trees, sealing, lone, concurrent, verification, storage, memory; without one, all of them
  long-memory   verifying 1,000,000 events in a process of its own, which takes minutes
  log           makes a log of events of 1 KB
  verify        verifies it; prints microseconds and the peak RSS in KiB";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => figures(&[]),
        ["long-memory"] => {
            let dir = scratch()?;
            memory(&Runtime::new()?, &Keys::new()?, dir.path(), &[SHORT, LONG])
        }
        // For a profiler, which wants to see nothing else.
        ["log", dir, events] => {
            let url = Runtime::new()?.block_on(published_log(
                Path::new(dir),
                &Keys::new()?,
                events.parse()?,
                BYTES,
            ))?;
            print(&[url])
        }
        // Memory is measured in a process that did nothing else.
        ["verify", url, depth] => verify_alone(url, depth),
        ref wanted if wanted.iter().all(|name| SECTIONS.contains(name)) => figures(wanted),
        _ => Err(USAGE.into()),
    }
}

/// What can be measured alone.
const SECTIONS: [&str; 7] = [
    "trees",
    "sealing",
    "lone",
    "concurrent",
    "verification",
    "storage",
    "memory",
];

fn figures(wanted: &[&str]) -> Result<()> {
    let want = |section| wanted.is_empty() || wanted.contains(&section);
    let runtime = Runtime::new()?;
    let keys = Keys::new()?;
    let dir = scratch()?;
    let at = dir.path();
    print(&[
        format!("{} cores, {}", cores(), cpu()),
        format!("files on {}", file_system(&fs::canonicalize(at)?)),
        "medians; each figure and its baseline by turns".to_owned(),
    ])?;
    let mut table = Table::default();
    if want("trees") {
        trees(&mut table)?;
    }
    if want("sealing") {
        sealing(&mut table, &keys)?;
        packing(&mut table, &keys)?;
    }
    if want("lone") {
        lone(&mut table, &runtime, &keys, at)?;
    }
    if want("concurrent") {
        concurrent(&mut table, &runtime, &keys, at)?;
    }
    if want("verification") {
        verification(&mut table, &runtime, &keys, at)?;
    }
    table.print("figure", ["measured", "baseline", "ratio", "baseline is"])?;
    if want("storage") {
        storage(&runtime, &keys, at)?;
    }
    if want("memory") {
        memory(&runtime, &keys, at, &[SHORT, 10 * SHORT])?;
    }
    Ok(())
}

/// Lines that stand in columns.
#[derive(Default)]
struct Table(Vec<(String, Vec<String>)>);

impl Table {
    fn line(&mut self, name: impl Into<String>, cells: impl Into<Vec<String>>) {
        self.0.push((name.into(), cells.into()));
    }

    /// A time beside the time of a baseline, of `count` things each.
    fn times(
        &mut self,
        name: impl Into<String>,
        count: u64,
        (measured, baseline): (Duration, Duration),
        what: &str,
    ) {
        let ratio = measured.as_secs_f64() / baseline.as_secs_f64();
        self.line(
            name,
            [
                each(measured, count),
                each(baseline, count),
                format!("{ratio:.2}"),
                what.to_owned(),
            ],
        );
    }

    fn print<const N: usize>(&self, head: &str, columns: [&str; N]) -> Result<()> {
        let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
        let all =
            || std::iter::once((head, &columns)).chain(self.0.iter().map(|(n, c)| (n.as_str(), c)));
        let first = all().map(|(name, _)| name.len()).max().unwrap_or_default();
        let width = |at: usize| {
            all()
                .filter_map(|(_, cells)| cells.get(at))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let mut lines = vec![String::new()];
        for (name, cells) in all() {
            let mut line = format!("{name:first$}");
            for (at, cell) in cells.iter().enumerate() {
                let width = width(at);
                line.push_str("  ");
                // What a baseline is, is text; all else are numbers.
                let pad = if at == 3 {
                    0
                } else {
                    width - cell.chars().count()
                };
                line.extend(std::iter::repeat_n(' ', pad));
                line.push_str(cell);
            }
            lines.push(line);
        }
        print(&lines)
    }
}

fn print(lines: &[String]) -> Result<()> {
    let mut out = stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn each(time: Duration, count: u64) -> String {
    let nanos = time.as_secs_f64() * 1e9 / count as f64;
    match nanos {
        n if n < 10_000.0 => format!("{n:.0} ns"),
        n if n < 10_000_000.0 => format!("{:.1} µs", n / 1e3),
        n => format!("{:.1} ms", n / 1e6),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn rate(time: Duration, count: u64) -> String {
    format!("{:.0}/s", count as f64 / time.as_secs_f64())
}

/// The medians of two measurements that take turns.
fn by_turns(
    rounds: usize,
    mut measured: impl FnMut() -> Result<()>,
    mut baseline: impl FnMut() -> Result<()>,
) -> Result<(Duration, Duration)> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (time, done) = timed(&mut measured);
        done?;
        a.push(time);
        let (time, done) = timed(&mut baseline);
        done?;
        b.push(time);
    }
    Ok((median(a), median(b)))
}

fn trees(table: &mut Table) -> Result<()> {
    let raw = || {
        black_box(hashes(LEAVES, LEAVES - 1));
        Ok(())
    };
    let what = "1 leaf hash and 1 node hash, raw SHA-256";
    let frontier = || {
        black_box(frontier(LEAVES));
        Ok(())
    };
    let times = by_turns(ROUNDS, frontier, raw)?;
    table.times("frontier, append", LEAVES, times, what);
    let edge = || {
        black_box(edge_tiles(LEAVES, 256));
        Ok(())
    };
    let times = by_turns(ROUNDS, edge, raw)?;
    table.times("edge tiles, append", LEAVES, times, what);

    let tree = Tree::new(LEAVES);
    let (mut nodes, mut path) = (0, 0);
    let mut proofs = Vec::new();
    for index in tree.some(PROOFS) {
        nodes += tree.nodes_of_proof(index)?;
        let proof = tree.prove(index)?;
        path += proof.len() as u64;
        proofs.push((index, proof));
    }
    let raw = |leaves, nodes| {
        move || {
            black_box(hashes(leaves, nodes));
            Ok(())
        }
    };
    let prove = || {
        tree.some(PROOFS)
            .try_for_each(|index| tree.prove(index).map(|p| drop(black_box(p))))
    };
    let times = by_turns(ROUNDS, prove, raw(0, nodes))?;
    table.times(
        "inclusion proof from tiles",
        PROOFS,
        times,
        "hashing the tiles that it reads",
    );
    let verify = || {
        proofs
            .iter()
            .try_for_each(|(index, proof)| tree.verify(*index, proof))
    };
    let times = by_turns(ROUNDS, verify, raw(PROOFS, path))?;
    table.times(
        "inclusion proof, verify",
        PROOFS,
        times,
        "raw SHA-256 of as many hashes",
    );
    Ok(())
}

fn sealing(table: &mut Table, keys: &Keys) -> Result<()> {
    for (name, bytes) in [("1 KB", 1024), ("64 KB", 64 * 1024)] {
        let sealing = Sealing::new(keys, bytes)?;
        let cipher = Cipher::default();
        let count = SEALS * 1024 / bytes;
        let times = |n: usize| n as u64;
        let mut buffer = sealing.payload().to_vec();
        let seal = || {
            for _ in 0..count {
                black_box(sealing.seal()?);
            }
            Ok(())
        };
        let raw = || {
            for _ in 0..count {
                black_box(cipher.seal(&mut buffer)?);
            }
            Ok(())
        };
        let what = format!(
            "raw AES-256-GCM and SHA-256 of {name} (stored: {} bytes)",
            sealing.stored()
        );
        table.times(
            format!("seal {name}"),
            times(count),
            by_turns(ROUNDS, seal, raw)?,
            &what,
        );

        let mut sealed = sealing.payload().to_vec();
        let (tag, _) = cipher.seal(&mut sealed)?;
        let open = || {
            for _ in 0..count {
                black_box(sealing.open()?);
            }
            Ok(())
        };
        let raw = || {
            for _ in 0..count {
                // Decrypting in place needs a fresh copy, which is cheap beside it.
                let mut copy = sealed.clone();
                black_box(cipher.open(&mut copy, &tag)?);
            }
            Ok(())
        };
        table.times(
            format!("open {name}"),
            times(count),
            by_turns(ROUNDS, open, raw)?,
            "raw SHA-256 and AES-256-GCM of the same bytes",
        );
    }
    Ok(())
}

fn packing(table: &mut Table, keys: &Keys) -> Result<()> {
    let entry = Sealing::new(keys, BYTES)?.entry()?;
    let packed = packed::pack(&entry);
    let raw = || {
        for _ in 0..SEALS {
            black_box(Sha256::digest(black_box(&entry)));
        }
        Ok(())
    };
    let pack = || {
        for _ in 0..SEALS {
            black_box(packed::pack(black_box(&entry)));
        }
        Ok(())
    };
    let unpack = || {
        for _ in 0..SEALS {
            black_box(packed::unpack(black_box(&packed))?);
        }
        Ok(())
    };
    let what = format!(
        "raw SHA-256 of the entry ({} bytes, packed {})",
        entry.len(),
        packed.len()
    );
    let count = SEALS as u64;
    table.times("entry, pack", count, by_turns(ROUNDS, pack, raw)?, &what);
    let times = by_turns(ROUNDS, unpack, raw)?;
    table.times("entry, unpack and check", count, times, "the same");
    Ok(())
}

/// What a log commits while `work` appends to it.
fn recorded(
    runtime: &Runtime,
    keys: &Keys,
    path: &Path,
    mut work: impl FnMut(&audit_core::log::Log, &Recorder) -> Result<()>,
) -> Result<()> {
    let url = format!("sqlite:{}", path.display());
    let recorder = Arc::new(Recorder::new(open_store(&url)?));
    let store = Arc::clone(&recorder);
    let log = runtime.block_on(create_log(store, keys, None))?;
    work(&log, &recorder)?;
    Ok(runtime.block_on(log.close())?)
}

fn lone(table: &mut Table, runtime: &Runtime, keys: &Keys, dir: &Path) -> Result<()> {
    let mut events = Events::default();
    let mut batches: Vec<Batch> = Vec::new();
    recorded(
        runtime,
        keys,
        &dir.join("lone-recorded.db"),
        |log, recorder| {
            runtime.block_on(append_all(log, vec![events.events(LONE, BYTES)?]))?;
            batches = recorder.take();
            Ok(())
        },
    )?;
    let batches: Vec<BareBatch> = batches.iter().map(BareBatch::new).collect::<Result<_>>()?;
    let (opening, batches) = batches.split_first().ok_or("nothing was recorded")?;
    let bare = Bare::create(&dir.join("lone-bare.db"))?;
    bare.commit(opening)?;
    let mut floor = SyncedFile::create(&dir.join("synced"))?;
    let (mut by_log, mut by_bare, mut synced) = (Vec::new(), Vec::new(), Vec::new());
    recorded(runtime, keys, &dir.join("lone.db"), |log, _| {
        for (turn, batch) in batches.iter().enumerate() {
            let mut event = Some(events.event(BYTES)?);
            // What follows on what matters to a disk, so each goes first in its turn.
            for which in 0..3 {
                match (turn + which) % 3 {
                    0 => {
                        let event = event.take().ok_or("one event for each turn")?;
                        let (time, done) = timed(|| runtime.block_on(log.append(event)));
                        done?;
                        by_log.push(time);
                    }
                    1 => {
                        let (time, done) = timed(|| bare.commit(batch));
                        done?;
                        by_bare.push(time);
                    }
                    _ => {
                        let (time, done) = timed(|| floor.write(&[1; 4096]));
                        done?;
                        synced.push(time);
                    }
                }
            }
        }
        Ok(())
    })?;
    let (by_log, by_bare, synced) = (median(by_log), median(by_bare), median(synced));
    table.times(
        "lone durable append, 1 KB",
        1,
        (by_log, by_bare),
        "the same rows, bare SQLite",
    );
    table.times(
        "bare SQLite, 1 KB",
        1,
        (by_bare, synced),
        "overwriting 4 KiB and fdatasync",
    );
    Ok(())
}

fn concurrent(table: &mut Table, runtime: &Runtime, keys: &Keys, dir: &Path) -> Result<()> {
    let mut events = Events::default();
    let bare = Bare::create(&dir.join("many-bare.db"))?;
    let (mut by_log, mut by_bare) = (Vec::new(), Vec::new());
    let (mut batches_made, mut events_made) = (0, 0);
    recorded(runtime, keys, &dir.join("many.db"), |log, recorder| {
        for round in 0..=ROUNDS {
            let shares = callers(&mut events, CALLERS, EACH, BYTES)?;
            let (log_time, done) = timed(|| runtime.block_on(append_all(log, shares)));
            done?;
            let batches = recorder.take();
            let batches: Vec<BareBatch> =
                batches.iter().map(BareBatch::new).collect::<Result<_>>()?;
            let (bare_time, done) = timed(|| batches.iter().try_for_each(|b| bare.commit(b)));
            done?;
            // The first round opens the log and warms both up.
            if round > 0 {
                by_log.push(log_time);
                by_bare.push(bare_time);
                batches_made += batches.len();
                events_made += batches.iter().map(BareBatch::events).sum::<usize>();
            }
        }
        Ok(())
    })?;
    let count = (CALLERS * EACH) as u64;
    let (by_log, by_bare) = (median(by_log), median(by_bare));
    let what = format!(
        "the same batches (of {} on average), bare SQLite; {} against {}",
        events_made / batches_made.max(1),
        rate(by_log, count),
        rate(by_bare, count),
    );
    table.times(
        "256 callers, durable append, 1 KB",
        count,
        (by_log, by_bare),
        &what,
    );
    Ok(())
}

fn verification(table: &mut Table, runtime: &Runtime, keys: &Keys, dir: &Path) -> Result<()> {
    let url = runtime.block_on(published_log(dir, keys, VERIFIED, BYTES))?;
    let stored = {
        let _inside = runtime.enter();
        StoreEvidence::new(open_store(&url)?)
    };
    let held = Held::copy(&stored)?;
    let count = held.rows.len() as u64;
    for depth in Depth::ALL {
        let raw = || {
            black_box(hash_rows(&held.rows, depth.reads_parts()));
            Ok(())
        };
        let times = by_turns(ROUNDS, || verify_at(&held, keys, depth), raw)?;
        let what = |time| {
            format!(
                "raw SHA-256 of the same bytes; {} against {}",
                rate(time, count),
                rate(times.1, count)
            )
        };
        let name = depth.name();
        table.times(
            format!("verify from memory: {name}"),
            count,
            times,
            &what(times.0),
        );
        let times = by_turns(ROUNDS, || verify_at(&stored, keys, depth), raw)?;
        table.times(
            format!("verify from SQLite: {name}"),
            count,
            times,
            &what(times.0),
        );
    }
    Ok(())
}

fn storage(runtime: &Runtime, keys: &Keys, dir: &Path) -> Result<()> {
    let path = dir.join("tiny.db");
    let url = format!("sqlite:{}", path.display());
    let state = dir.join("tiny.state");
    fs::create_dir(&state)?;
    let log = runtime.block_on(create_log(open_store(&url)?, keys, Some(&state)))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(&path, flags)?;
    let pages = || {
        db.query_row(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
            [],
            |r| r.get::<_, i64>(0),
        )
    };
    let objects = || -> Result<Vec<(String, i64, i64)>> {
        let mut statement = db.prepare(
            "SELECT name, pgsize, payload FROM dbstat WHERE aggregate = TRUE ORDER BY name",
        )?;
        let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    };
    let lengths = || {
        db.query_row(
            "SELECT total(length(entry)), total(length(parts)), total(length(tokens) + length(token_salt)) FROM entry",
            [],
            |r| Ok([r.get::<_, f64>(0)?, r.get(1)?, r.get(2)?]),
        )
    };
    let (pages_before, objects_before, lengths_before) = (pages()?, objects()?, lengths()?);
    let mut events = Events::default();
    let all = events.events(usize::try_from(2 * PAIRS)?, TINY_BYTES)?;
    runtime.block_on(append_all(&log, vec![all]))?;
    let (grown, after, lengths_after) = (pages()? - pages_before, objects()?, lengths()?);
    runtime.block_on(log.close())?;

    let pairs = f64::from(u32::try_from(PAIRS)?);
    let per_pair = |bytes: f64| format!("{:.0}", bytes / pairs);
    let whole = |bytes: i64| -> Result<String> { Ok(per_pair(f64::from(i32::try_from(bytes)?))) };
    let mut table = Table::default();
    table.line("the file", [whole(grown)?, String::new()]);
    for (name, pages, payload) in after {
        let before = objects_before.iter().find(|(n, ..)| *n == name);
        let (pages_before, payload_before) = before.map_or((0, 0), |(_, p, b)| (*p, *b));
        if pages > pages_before {
            table.line(
                format!("  {name}"),
                [
                    whole(pages - pages_before)?,
                    whole(payload - payload_before)?,
                ],
            );
        }
        if name == "entry" {
            let columns = ["entries, packed", "parts", "tokens and salt"];
            for ((column, after), before) in columns.iter().zip(lengths_after).zip(lengths_before) {
                table.line(
                    format!("    {column}"),
                    [String::new(), per_pair(after - before)],
                );
            }
        }
    }
    let head = format!("bytes per llm.request and llm.response of {TINY_BYTES} bytes each");
    table.print(&head, ["pages", "content"])
}

fn memory(runtime: &Runtime, keys: &Keys, dir: &Path, sizes: &[usize]) -> Result<()> {
    let mut table = Table::default();
    for &events in sizes {
        let url = runtime.block_on(published_log(dir, keys, events, BYTES))?;
        for depth in Depth::ALL {
            let child = Command::new(std::env::current_exe()?)
                .args(["verify", &url, depth.name()])
                .output()?;
            if !child.status.success() {
                return Err(String::from_utf8_lossy(&child.stderr).into());
            }
            let text = String::from_utf8(child.stdout)?;
            let (micros, kib) = text
                .trim()
                .split_once(' ')
                .ok_or("the child said nothing")?;
            let time = Duration::from_micros(micros.parse()?);
            let mib = kib.parse::<u64>()? / 1024;
            table.line(
                format!("{events} events: {}", depth.name()),
                [rate(time, events as u64), format!("{mib} MiB")],
            );
        }
    }
    table.print(
        "verified from SQLite in a process of its own",
        ["events", "peak RSS"],
    )
}

fn verify_alone(url: &str, depth: &str) -> Result<()> {
    let depth = Depth::ALL
        .into_iter()
        .find(|d| d.name() == depth)
        .ok_or("no such depth")?;
    let runtime = Runtime::new()?;
    let keys = Keys::new()?;
    let stored = {
        let _inside = runtime.enter();
        StoreEvidence::new(open_store(url)?)
    };
    let (time, verified) = timed(|| verify_at(&stored, &keys, depth));
    verified?;
    let kib = peak_rss_kib().ok_or("this system doesn't tell the peak RSS")?;
    print(&[format!("{} {kib}", time.as_micros())])
}
