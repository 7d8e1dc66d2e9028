//! The prefix, served as static files, is a log for a client that knows nothing of this project.

use std::sync::Arc;

use audit_core::chain::AuditorKey;
use audit_core::event::{Event, Kind};
use audit_core::keyring::KeyRing;
use audit_core::log::{Log, LogOptions};
use audit_core::store::ReadStore as _;
use audit_core::time::{IdSource as _, System};
use http::{Method, StatusCode};
use tlog_tiles::{Tile, TileHashReader, TileReader};
use tokio::runtime::Handle;

use crate::support::{Place, place};

/// Reads tiles by their paths, and nothing else.
#[derive(Debug)]
struct Files {
    place: Place,
    runtime: Handle,
}

impl Files {
    fn get(&self, path: &str) -> Option<Vec<u8>> {
        let target = format!("/{}/{}/{path}", self.place.bucket, self.place.prefix());
        tokio::task::block_in_place(|| {
            self.runtime.block_on(async {
                let reply = self.place.server.send(Method::GET, &target, &[], "").await;
                (reply.status() == StatusCode::OK).then_some(())?;
                Some(reply.into_body().bytes().await.unwrap().to_vec())
            })
        })
    }
}

impl TileReader for Files {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        tiles
            .iter()
            .map(|tile| {
                // That crate follows the older path of Go's tlog, with the height in it; C2SP's has none.
                let path = tile.path().replacen("tile/8/", "tile/", 1);
                Ok(self
                    .get(&path)
                    .unwrap_or_else(|| panic!("{path} is missing")))
            })
            .collect()
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_client_recomputes_the_root_from_tiles_and_entries() {
    let Some(place) = place().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let auditor = AuditorKey::random(&System);
    let keys = KeyRing::generate("example.com/log", auditor.public(), &System).unwrap();
    let mut options = LogOptions::new(Arc::new(place.store()), Arc::new(keys));
    options.state_dir = Some(dir.path().join("state"));
    let log = Log::create(options).await.unwrap();
    for round in 0..3 {
        let mut pending = Vec::new();
        for _ in 0..150 + round * 60 {
            let now = log.clock().now();
            let event = Event::new(System.uuid_v7(now), now, Kind::new("tool.call").unwrap());
            pending.push(log.submit(event).await.unwrap());
        }
        for one in pending {
            let receipt = one.durable().await.unwrap();
            if receipt.index % 200 == 0 {
                receipt.published().await.unwrap();
            }
        }
    }
    log.close().await.unwrap();
    let entries = place.store().head().await.unwrap().size;
    place.store().integrity().await.unwrap();

    let files = Files {
        place,
        runtime: Handle::current(),
    };
    let note = String::from_utf8(files.get("checkpoint").unwrap()).unwrap();
    let lines: Vec<&str> = note.lines().collect();
    assert_eq!(lines[0], "example.com/log");
    let size: u64 = lines[1].parse().unwrap();
    assert_eq!(size, entries, "the last checkpoint covers the run's end");
    assert!(size > 512, "the log has two full tiles");
    let root = tlog_tiles::Hash::parse_hash(lines[2]).unwrap();
    let reader = TileHashReader::new(size, root, &files);
    // The reader checks every tile that it uses against the root.
    assert!(tlog_tiles::tree_hash(size, &reader).unwrap() == root);
    let mut index = 0;
    while index < size {
        let width = (size - index).min(256);
        let bundle = index / 256;
        let path = match width {
            256 => format!("tile/entries/{bundle:03}"),
            width => format!("tile/entries/{bundle:03}.p/{width}"),
        };
        let bytes = files.get(&path).unwrap();
        let mut rest = &bytes[..];
        for _ in 0..width {
            let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
            let entry = &rest[2..2 + length];
            rest = &rest[2 + length..];
            let hash = tlog_tiles::record_hash(entry);
            if index % 37 == 0 || index + 1 == size {
                let proof = tlog_tiles::prove_record(size, index, &reader).unwrap();
                tlog_tiles::check_record(&proof, size, root, index, hash).unwrap();
            }
            // A stranger reads an entry with any JSON reader.
            let value: serde_json::Value = serde_json::from_slice(entry).unwrap();
            assert_eq!(value["v"], 1);
            index += 1;
        }
        assert!(rest.is_empty());
    }
}
