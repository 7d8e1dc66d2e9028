//! The tamper matrix on a bucket: what its operator does, who writes every object anew as he likes, and that the verifier says
//! so. A copy is a prefix; objects are rows, one table for each kind of them.
//!
//! `lease` and `changes` are left out: they hold nothing of the log. So are partial tiles of earlier sizes, which the tile
//! format allows to be deleted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use audit_core::store::ReadStore;
use audit_store_s3::S3Store;
use audit_testkit::memory::Contents;
use audit_testkit::tamper::{
    self, Backend, Column, Loss, Place as Named, Record, SampleLog, Sees, Special, Table, Tables,
    Value,
};
use audit_tlog::tile::{TileId, parse_entries_path};
use http::{Method, StatusCode};
use tokio::runtime::Runtime;

use crate::support::{Place, fresh_name, place};

const ORIGIN: &str = "log.example/clinic";
const KINDS: [&str; 7] = [
    "log",
    "batch",
    "side",
    "checkpoints",
    "tile",
    "entries",
    "checkpoint",
];

/// What drives the requests of this test, whoever asks for them.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

/// Runs to its end on a thread of its own, which may not be one of a runtime's.
fn wait<T: Send>(work: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| runtime().block_on(work)).join().unwrap())
}

struct Buckets(Arc<Place>);

#[derive(Clone)]
struct Copied {
    place: Arc<Place>,
    /// By key, below the prefix.
    objects: BTreeMap<String, Vec<u8>>,
}

fn kind_of(key: &str) -> &str {
    if key.starts_with("tile/entries/") {
        return "entries";
    }
    key.split('/').next().unwrap_or_default()
}

/// A key in a URL: a key that was changed may hold any character.
fn encoded(key: &str) -> String {
    let mut target = String::new();
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            target.push(char::from(byte));
        } else {
            write!(target, "%{byte:02X}").expect("a string takes everything");
        }
    }
    target
}

impl Copied {
    /// Writes it below a prefix of its own.
    async fn write_out(&self) -> Result<S3Store, String> {
        let prefix = fresh_name("t");
        let until = "2099-01-01T00:00:00Z";
        let lock = [
            ("x-amz-object-lock-mode", "COMPLIANCE"),
            ("x-amz-object-lock-retain-until-date", until),
        ];
        for (key, bytes) in &self.objects {
            let fixed = matches!(kind_of(key), "log" | "batch" | "checkpoints" | "payload");
            let target = format!("/{}/{prefix}/{}", self.place.bucket, encoded(key));
            let headers = if fixed { &lock[..] } else { &[] };
            let put = self
                .place
                .server
                .send(Method::PUT, &target, headers, bytes.clone())
                .await;
            if put.status() != StatusCode::OK {
                return Err(format!("{key}: {}", put.status()));
            }
        }
        let options = self.place.server.options(&self.place.bucket, &prefix);
        S3Store::new(&options).map_err(|e| e.to_string())
    }
}

fn key_of(record: &Record) -> Result<String, String> {
    let Value::Text(key) = &record[0] else {
        return Err("no name".to_owned());
    };
    let key = String::from_utf8(key.clone()).map_err(|e| e.to_string())?;
    let plain = key
        .bytes()
        .all(|b| b.is_ascii_graphic() && b != b'#' && b != b'%' && b != b'"' && b != b'\\');
    let parts = key.split('/');
    // Names that an HTTP client would write otherwise.
    if !plain || parts.clone().any(|part| matches!(part, "" | "." | "..")) || key.len() > 400 {
        return Err(format!("no name for an object: {key:?}"));
    }
    Ok(key)
}

impl Tables for Copied {
    fn duplicate(&self) -> Self {
        self.clone()
    }

    fn tables(&self) -> Vec<Table> {
        let column = |name: &str, key| Column {
            name: name.to_owned(),
            key,
        };
        KINDS
            .iter()
            .map(|name| Table {
                name: (*name).to_owned(),
                columns: vec![column("key", true), column("bytes", false)],
            })
            .collect()
    }

    fn rows(&self, table: &Table) -> Vec<Record> {
        let objects = self.objects.iter();
        objects
            .filter(|(key, _)| {
                kind_of(key) == table.name || !KINDS.contains(&kind_of(key)) && table.name == "log"
            })
            .map(|(key, bytes)| {
                vec![
                    Value::Text(key.clone().into_bytes()),
                    Value::Blob(bytes.clone()),
                ]
            })
            .collect()
    }

    fn write(&mut self, _: &Table, remove: &[Record], insert: &[Record]) -> Result<(), String> {
        for record in remove {
            self.objects.remove(&key_of(record)?);
        }
        for record in insert {
            let bytes = match &record[1] {
                Value::Blob(bytes) | Value::Text(bytes) => bytes.clone(),
                other => return Err(format!("an object has bytes, not {other:?}")),
            };
            let key = key_of(record)?;
            // A server that keeps objects as files can't have one below another either.
            let below =
                |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
            if self
                .objects
                .keys()
                .any(|there| below(there, &key) || below(&key, there))
            {
                return Err(format!("{key} lies above or below another object"));
            }
            // As a writer leaves it that died or lost a race: no batch names it.
            if let Some((batch, _)) = key.split_once('-')
                && batch.starts_with("side/")
                && self.objects.keys().any(|there| {
                    *there != key && there.split_once('-').is_some_and(|(b, _)| b == batch)
                })
            {
                return Err(format!("{key} is an orphan, which changes nothing"));
            }
            if self.objects.insert(key.clone(), bytes).is_some() {
                return Err(format!(
                    "two objects are called {key}; versions are another test"
                ));
            }
        }
        Ok(())
    }

    fn places(&self, _: &Table, _: &Record) -> Vec<Named> {
        // Objects hold many entries each; which one is named is up to what was hit.
        Vec::new()
    }

    fn loss(&self, table: &Table, loss: Loss) -> (Sees, Vec<Named>) {
        match (&*table.name, loss) {
            ("checkpoints", Loss::NotTheLast) => (Sees::WhoRemembers, Vec::new()),
            _ => (Sees::Anybody, Vec::new()),
        }
    }

    fn open(&self) -> audit_core::Result<Arc<dyn ReadStore>> {
        let store = wait(self.write_out()).map_err(audit_core::Error::corrupt)?;
        Ok(Arc::new(store))
    }
}

impl Backend for Buckets {
    type Copy = Copied;

    fn load(&self, contents: &Contents) -> Result<Copied, String> {
        wait(async {
            let prefix = fresh_name("l");
            let options = self.0.server.options(&self.0.bucket, &prefix);
            let store = S3Store::new(&options).map_err(|e| e.to_string())?;
            let mut contents = contents.clone();
            let origin = contents.origin.is_some();
            contents.origin.get_or_insert_with(|| ORIGIN.to_owned());
            let beyond = tamper::load(&contents, &store)
                .await
                .map_err(|e| format!("{e:?}"))?;
            let size = store.head().await.map_err(|e| e.to_string())?.size;
            let latest = contents
                .checkpoints
                .keys()
                .copied()
                .filter(|s| *s <= size)
                .max();
            let mut objects = BTreeMap::new();
            for key in self.0.keys_below(&prefix).await {
                let stale = |id: TileId| {
                    TileId::in_tree(id.level, id.index, latest.unwrap_or(0)) != Some(id)
                };
                let entries = parse_entries_path(&key).ok();
                let tile = entries.map(|(index, width)| TileId {
                    level: 0,
                    index,
                    width,
                });
                if matches!(&*key, "lease" | "changes")
                    || tile
                        .or_else(|| TileId::from_path(&key).ok())
                        .is_some_and(stale)
                {
                    continue;
                }
                let target = format!("/{}/{prefix}/{key}", self.0.bucket);
                let object = self.0.server.send(Method::GET, &target, &[], "").await;
                objects.insert(key, object.into_body().bytes().await.unwrap().to_vec());
            }
            for (size, note) in beyond {
                objects.insert(format!("checkpoints/{size:020}"), note);
            }
            if !origin {
                objects.remove("log");
            }
            Ok(Copied {
                place: Arc::clone(&self.0),
                objects,
            })
        })
    }

    fn specials(&self, _: &Copied) -> Vec<Special<Copied>> {
        Vec::new()
    }
}

fn buckets() -> Option<Buckets> {
    wait(place()).map(|place| Buckets(Arc::new(place)))
}

fn log() -> SampleLog {
    if std::env::var_os("AUDIT_TEST_LONG").is_some() {
        SampleLog::new(ORIGIN)
    } else {
        SampleLog::small(ORIGIN)
    }
}

#[test]
fn every_changed_object_is_found() {
    let Some(buckets) = buckets() else { return };
    let report = tamper::cells(&buckets, &log());
    println!("{report}");
    report.assert_detected();
}

#[test]
fn every_deleted_added_or_moved_object_is_found() {
    let Some(buckets) = buckets() else { return };
    let report = tamper::rows(&buckets, &log());
    println!("{report}");
    report.assert_detected();
}

#[test]
fn every_attack_is_found_by_whom_it_says() {
    let Some(buckets) = buckets() else { return };
    // A forger's attacks need a log with full tiles.
    let (log, other) = (
        SampleLog::new(ORIGIN),
        SampleLog::small("log.example/other"),
    );
    let report = tamper::attacks(&buckets, &log, &other);
    println!("{report}");
    report.assert_detected();
}
