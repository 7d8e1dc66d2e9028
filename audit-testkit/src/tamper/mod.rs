//! The tamper matrix: what somebody can do to a log who can write to its store, and that the verifier says so.
//!
//! Generic over the schema. Tables and columns come from the engine's own catalogue, so a table that is new is attacked
//! without being named here. A backend implements [`Backend`] and [`Tables`] in its tests and runs
//!
//! - [`cells`]: every column, in its first, middle and last row: bytes flipped, counted up and down, cut, appended, emptied,
//!   of another type, missing, taken from or exchanged with another row;
//! - [`rows`]: rows deleted, duplicated, exchanged, copied over one another;
//! - [`copies`]: every combination of tables from an older copy of the log, and from another log;
//! - [`attacks`]: what a forger does who knows what the tables mean: everything made to fit as far as the keys allow
//!   that he has;
//! - [`specials`]: what only this engine offers.
//!
//! The judge is the offline verifier with what a user has: the log's public key and the leaf hash of its first entry.
//! Where that can't be enough, the case says what is needed ([`Sees`]), and it is run without it as well, so that the
//! claim stays true. A change counts as detected if the verdict isn't 0 and something that it says names the place.

mod attacks;
mod generic;
mod memory;
mod sample;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use audit_core::Result;
use audit_core::store::ReadStore;
use audit_core::time::{Clock as _, System};
use audit_tlog::tile::{TILE_WIDTH, TileId};
use audit_verify::{Check, CheckResult, Outcome, Policy, Verdict, verify};
use tokio::runtime::Handle;

pub use attacks::attacks;
pub use generic::{cells, copies, rows};
pub use memory::{Memory, MemoryTables};
pub use sample::{SampleLog, load};

use crate::evidence::StoreEvidence;
use crate::memory::Contents;

/// What one column of one row holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the types that engines have")]
pub enum Value {
    /// Nothing.
    Null,
    /// A number.
    Integer(i64),
    /// Text; somebody who tampers needn't care for its encoding.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

/// One row: a value for each column.
pub type Record = Vec<Value>;

/// One table, as the engine's catalogue has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "backends make it")]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<Column>,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "backends make it")]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Whether it is part of what tells the rows of its table apart.
    pub key: bool,
}

/// How a verdict may name a place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a finding has an index and a text")]
pub enum Place {
    /// A finding at a leaf index in this range.
    At(Range<u64>),
    /// A text that holds this one.
    Says(String),
}

/// Who sees a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the three policies of the matrix")]
pub enum Sees {
    /// Whoever has the public key and the leaf hash of the first entry.
    Anybody,
    /// Only who carried checkpoints away as well.
    WhoRemembers,
    /// Only who has the auditor key as well.
    Auditor,
}

/// What a row's table loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "some or all")]
pub enum Loss {
    /// Some rows, and never the last.
    NotTheLast,
    /// The last row, or all.
    TheLast,
}

/// A copy of a log in a backend, with a way past every check of the engine.
pub trait Tables: Sized + Send + Sync {
    /// Another copy of it.
    #[must_use]
    fn duplicate(&self) -> Self;

    /// Every table, from the engine's own catalogue.
    fn tables(&self) -> Vec<Table>;

    /// Every row of a table, by its key.
    fn rows(&self, table: &Table) -> Vec<Record>;

    /// Takes rows out of a table and puts others in. `Err`: why the engine can't hold that, with no constraint in the way
    /// that somebody who tampers could take away.
    fn write(&mut self, table: &Table, remove: &[Record], insert: &[Record]) -> Result<(), String>;

    /// How a verdict may name this row, if something about it is wrong.
    fn places(&self, table: &Table, row: &Record) -> Vec<Place>;

    /// Who sees that rows are gone from a table, and how a verdict may name that beside the rows themselves.
    fn loss(&self, table: &Table, loss: Loss) -> (Sees, Vec<Place>);

    /// Opens it as a verifier does. An error is an answer too.
    fn open(&self) -> Result<Arc<dyn ReadStore>>;
}

/// Something that only this engine offers.
pub struct Special<T> {
    /// What is done.
    pub name: String,
    /// What the verdict, or the error when opening, must name.
    pub says: Vec<String>,
    /// Does it.
    #[expect(clippy::type_complexity, reason = "one closure")]
    pub change: Box<dyn Fn(&mut T) -> Result<(), String> + Send + Sync>,
}

impl<T> fmt::Debug for Special<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Special")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A storage engine.
pub trait Backend: Sync {
    /// A copy of a log in it.
    type Copy: Tables;

    /// A store that holds this, whatever it says.
    fn load(&self, contents: &Contents) -> Result<Self::Copy, String>;

    /// What only this engine offers.
    fn specials(&self, good: &Self::Copy) -> Vec<Special<Self::Copy>>;
}

/// One change, and what must be said of it.
struct Case<'a, T> {
    name: String,
    /// Table and column, where it is about one.
    target: Option<(String, String)>,
    /// One of these must be named; none: anything, as long as something is said.
    places: Vec<Place>,
    /// A check that must have failed.
    check: Option<Check>,
    sees: Sees,
    make: Box<dyn Fn() -> Result<T, Unmade> + Send + Sync + 'a>,
}

/// Why there is nothing to verify.
enum Unmade {
    /// The engine can't hold it.
    Refused(String),
    /// The change is none: the same rows as before.
    Identical,
}

/// What became of the changes.
#[derive(Debug, Default)]
pub struct Report {
    what: &'static str,
    contradicted: u64,
    undecided: u64,
    not_opened: u64,
    identical: u64,
    refused: Vec<String>,
    missed: Vec<String>,
    needs: BTreeMap<&'static str, u64>,
    targets: BTreeMap<(String, String), u64>,
    found_by: BTreeMap<&'static str, u64>,
}

impl Report {
    /// How many changes were judged.
    #[must_use]
    pub fn judged(&self) -> u64 {
        self.contradicted + self.undecided + self.not_opened + self.missed.len() as u64
    }

    /// Changes that the engine can't hold.
    #[must_use]
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// Fails with every change that was not detected, or whose place nobody named.
    pub fn assert_detected(&self) {
        assert!(
            self.missed.is_empty(),
            "{} of {} changes:\n{}",
            self.missed.len(),
            self.judged(),
            self.missed.join("\n")
        );
        assert!(self.judged() > 0, "{}: nothing was changed", self.what);
    }

    /// Fails unless every column of every table was changed at least `times` in a way that the engine can hold.
    pub fn assert_every_column(&self, tables: &[Table], times: u64) {
        for table in tables {
            for column in &table.columns {
                let target = (table.name.clone(), column.name.clone());
                let judged = self.targets.get(&target).copied().unwrap_or_default();
                assert!(
                    judged >= times,
                    "{}.{} was changed {judged} times: {:?}",
                    table.name,
                    column.name,
                    self.refused
                );
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} changes judged, {} contradicted, {} undecided, {} not opened, {} missed; {} can't be held by the \
             engine, {} changed nothing",
            self.what,
            self.judged(),
            self.contradicted,
            self.undecided,
            self.not_opened,
            self.missed.len(),
            self.refused.len(),
            self.identical
        )?;
        for (what, n) in &self.needs {
            writeln!(f, "  seen only {what}: {n}")?;
        }
        let found: Vec<String> = self
            .found_by
            .iter()
            .map(|(check, n)| format!("{check} {n}"))
            .collect();
        writeln!(f, "  found by {}", found.join(", "))?;
        for ((table, column), n) in &self.targets {
            writeln!(f, "  {table}.{column} {n}")?;
        }
        for refused in &self.refused {
            writeln!(f, "  the engine can't hold {refused}")?;
        }
        Ok(())
    }
}

/// What only the engine of `backend` offers.
#[must_use]
pub fn specials<B: Backend>(backend: &B, log: &SampleLog) -> Report {
    let good = load_good(backend, &log.contents);
    let specials = backend.specials(&good);
    let cases: Vec<_> = specials
        .iter()
        .map(|special| Case {
            name: special.name.clone(),
            target: None,
            places: special.says.iter().cloned().map(Place::Says).collect(),
            check: None,
            sees: Sees::Anybody,
            make: Box::new(|| {
                let mut copy = good.duplicate();
                (special.change)(&mut copy).map_err(Unmade::Refused)?;
                Ok(copy)
            }),
        })
        .collect();
    judge("specials", log, &good, &cases)
}

/// How a verdict may name a leaf index.
#[must_use]
pub fn index_places(index: &Value) -> Vec<Place> {
    match index {
        Value::Integer(n) => {
            let mut places = vec![
                Place::Says(format!("index {n}")),
                Place::Says(format!("entry {n}")),
            ];
            if let Ok(n) = u64::try_from(*n) {
                places.push(Place::At(n..n.saturating_add(1)));
            }
            places
        }
        _ => Vec::new(),
    }
}

/// How a verdict may name a tile: by the leaves under it, or by its level and index.
#[must_use]
pub fn tile_places(level: &Value, index: &Value) -> Vec<Place> {
    let (level, index) = match (level, index) {
        (Value::Integer(level), Value::Integer(index)) => (level, index),
        (Value::Integer(level), _) => return vec![Place::Says(format!("a tile of level {level}"))],
        _ => return Vec::new(),
    };
    let mut places = vec![Place::Says(format!("tile {level}/{index}"))];
    let (Ok(level), Ok(index)) = (u8::try_from(*level), u64::try_from(*index)) else {
        return places;
    };
    if let Ok(id) = TileId::new(level, index, TILE_WIDTH) {
        places.push(Place::Says(id.to_string()));
    }
    if let Some(leaves) = 256_u64.checked_pow(u32::from(level) + 1) {
        let from = index.saturating_mul(leaves);
        places.push(Place::At(from..from.saturating_add(leaves)));
    }
    places
}

/// How a verdict may name a checkpoint: by its size.
#[must_use]
pub fn checkpoint_places(size: &Value) -> Vec<Place> {
    match size {
        Value::Integer(size) => vec![Place::Says(format!("size {size}"))],
        _ => Vec::new(),
    }
}

/// Who sees that checkpoints are gone. Nothing commits to a checkpoint, and later ones prove what earlier ones did; but
/// where the last ones are gone, entries are without.
#[must_use]
pub fn checkpoint_loss(loss: Loss) -> (Sees, Vec<Place>) {
    match loss {
        Loss::NotTheLast => (Sees::WhoRemembers, Vec::new()),
        Loss::TheLast => (
            Sees::Anybody,
            [
                "no checkpoint commits to the entries from index",
                "no checkpoint signed by the policy's key commits to the entries",
            ]
            .map(|text| Place::Says(text.to_owned()))
            .to_vec(),
        ),
    }
}

/// How a verdict may name a data key: by its id, as far as it is one.
#[must_use]
pub fn key_places(id: &Value) -> Vec<Place> {
    match id {
        Value::Blob(bytes) => {
            let id = uuid::Uuid::from_slice(bytes).map(|id| id.to_string());
            vec![Place::Says(
                id.unwrap_or_else(|_| audit_core::hex::encode(bytes)),
            )]
        }
        _ => Vec::new(),
    }
}

fn load_good<B: Backend>(backend: &B, contents: &Contents) -> B::Copy {
    match backend.load(contents) {
        Ok(copy) => copy,
        Err(e) => no_sample(&e),
    }
}

#[expect(clippy::panic, reason = "in a test a panic is the report")]
fn no_sample(why: &str) -> ! {
    panic!("the backend can't hold an honest log: {why}")
}

/// What the verifier says of a copy.
enum Said {
    Verdict(Box<Verdict>),
    NotOpened(String),
    Panicked,
}

fn look<T: Tables>(copy: &T, log: &SampleLog, sees: Sees, runtime: &Handle) -> Said {
    let store = match copy.open() {
        Ok(store) => store,
        Err(e) => return Said::NotOpened(sample::refused(&e)),
    };
    let mut policy = Policy::public(log.ring.vkey(), System.now());
    policy.opened = Some(log.opened());
    match sees {
        Sees::Anybody => {}
        Sees::WhoRemembers => {
            policy.remembered = log.contents.checkpoints.values().cloned().collect();
        }
        Sees::Auditor => policy.auditor = Some(log.auditor.clone()),
    }
    let evidence = StoreEvidence::new(store, runtime.clone());
    match catch_unwind(AssertUnwindSafe(|| verify(&evidence, &policy, &mut ()))) {
        Ok(verdict) => Said::Verdict(Box::new(verdict)),
        Err(_) => Said::Panicked,
    }
}

impl Said {
    /// Whether something that is said names the place.
    fn names(&self, places: &[Place]) -> bool {
        let (texts, indexes): (Vec<String>, Vec<u64>) = match self {
            Self::NotOpened(message) => (vec![message.clone()], Vec::new()),
            Self::Panicked => return false,
            Self::Verdict(verdict) => (
                verdict
                    .findings()
                    .iter()
                    .map(|f| f.message.clone())
                    .chain(verdict.undecided().iter().cloned())
                    .collect(),
                verdict.findings().iter().filter_map(|f| f.index).collect(),
            ),
        };
        if places.is_empty() {
            return texts.iter().any(|text| !text.is_empty());
        }
        places.iter().any(|place| match place {
            Place::At(range) => indexes.iter().any(|index| range.contains(index)),
            Place::Says(words) => texts.iter().any(|text| text.contains(words.as_str())),
        })
    }

    fn text(&self) -> String {
        match self {
            Self::NotOpened(message) => format!("not opened: {message}"),
            Self::Panicked => "the verifier panicked".to_owned(),
            Self::Verdict(verdict) => {
                let said = verdict.findings().iter().map(ToString::to_string);
                let said: Vec<String> = said.chain(verdict.undecided().iter().cloned()).collect();
                format!("exit {}: {}", verdict.exit_code(), said.join("; "))
            }
        }
    }
}

/// Makes and judges every case, on as many threads as there are cores.
fn judge<T: Tables>(
    what: &'static str,
    log: &SampleLog,
    good: &T,
    cases: &[Case<'_, T>],
) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let handle = runtime.handle();
    for sees in [Sees::Anybody, Sees::WhoRemembers, Sees::Auditor] {
        let said = look(good, log, sees, handle);
        let held = matches!(&said, Said::Verdict(v) if v.outcome() == Outcome::Held);
        assert!(held, "the honest log: {}", said.text());
    }
    let report = Mutex::new(Report {
        what,
        ..Report::default()
    });
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let judged = case.judge(log, handle);
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    report.take(case, judged);
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.refused.sort();
    report.missed.sort();
    report
}

impl<T: Tables> Case<'_, T> {
    fn judge(&self, log: &SampleLog, runtime: &Handle) -> Result<(Said, Option<String>), Unmade> {
        let copy = (self.make)()?;
        let mut wrong = None;
        if self.sees != Sees::Anybody {
            // Who has less doesn't see it; else the case claims too much need.
            let less = look(&copy, log, Sees::Anybody, runtime);
            if !matches!(&less, Said::Verdict(v) if v.outcome() == Outcome::Held) {
                wrong = Some(format!("is seen by anybody: {}", less.text()));
            }
        }
        let said = look(&copy, log, self.sees, runtime);
        if let Said::Panicked = said {
            wrong = Some("panics".to_owned());
        }
        if let Said::Verdict(verdict) = &said {
            if verdict.outcome() == Outcome::Held {
                wrong = Some("leaves the verdict at 0".to_owned());
            }
            if let Some(check) = self.check
                && !matches!(verdict.check(check).result, CheckResult::Failed { .. })
            {
                wrong.get_or_insert_with(|| format!("is not found by {check}"));
            }
        }
        if wrong.is_none() && !said.names(&self.places) {
            wrong = Some(format!("is not named by one of {:?}", self.places));
        }
        Ok((said, wrong))
    }
}

impl Report {
    fn take<T>(&mut self, case: &Case<'_, T>, judged: Result<(Said, Option<String>), Unmade>) {
        let (said, wrong) = match judged {
            Err(Unmade::Identical) => {
                self.identical += 1;
                return;
            }
            Err(Unmade::Refused(why)) => {
                self.refused.push(format!("{}: {why}", case.name));
                return;
            }
            Ok(judged) => judged,
        };
        if let Some(target) = &case.target {
            *self.targets.entry(target.clone()).or_default() += 1;
        }
        let needs = match case.sees {
            Sees::Anybody => None,
            Sees::WhoRemembers => Some("by who remembers checkpoints"),
            Sees::Auditor => Some("with the auditor key"),
        };
        if let Some(needs) = needs {
            *self.needs.entry(needs).or_default() += 1;
        }
        if let Some(wrong) = wrong {
            self.missed
                .push(format!("{}: {wrong}\n    {}", case.name, said.text()));
            return;
        }
        match said {
            Said::Panicked => {}
            Said::NotOpened(_) => self.not_opened += 1,
            Said::Verdict(verdict) => {
                for finding in verdict.findings().iter().take(1) {
                    *self.found_by.entry(finding.check.as_str()).or_default() += 1;
                }
                if verdict.outcome() == Outcome::Contradicted {
                    self.contradicted += 1;
                } else {
                    self.undecided += 1;
                }
            }
        }
    }
}
