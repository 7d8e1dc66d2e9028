//! Logs that other implementations wrote, read from their files.

use std::path::Path;

use audit_tlog::checkpoint::{self, Checkpoint};
use audit_tlog::cosignature;
use audit_tlog::hash::{Hash, leaf_hash, root_of};
use audit_tlog::note::{Note, VerifierKey};
use audit_tlog::proof::{
    consistency_proof, inclusion_proof, root_from_tiles, verify_consistency, verify_inclusion,
};
use audit_tlog::tile::{
    EdgeTiles, Tile, TileId, TileReader, decode_entry_bundle, entries_path, tile_ids,
};

use crate::fixtures::{list, read, read_json, read_text, vectors};

/// A log in files; a tile is read at exactly the width asked for.
struct Files<'a>(&'a Path);

impl TileReader for Files<'_> {
    type Error = std::io::Error;

    fn tile(&self, id: TileId) -> Result<Vec<Hash>, Self::Error> {
        let bytes = std::fs::read(self.0.join(id.path()))?;
        Ok(Tile::decode(id, &bytes)
            .map_err(std::io::Error::other)?
            .hashes)
    }
}

#[test]
fn tessera_log() {
    const ORIGIN: &str = "example.com/log/testdata";
    const VKEY: &str =
        "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx";
    let Some(set) = vectors("tessera-log") else {
        return;
    };
    let log = set.join("log");
    let key: VerifierKey = VKEY.parse().unwrap();
    let open = |name: &str| {
        let (checkpoint, _) = checkpoint::open(&read(&log.join(name)), ORIGIN, &key).unwrap();
        checkpoint.into_inner()
    };
    let checkpoints: Vec<Checkpoint> = (0..16)
        .map(|size| open(&format!("checkpoint.{size}")))
        .collect();
    assert_eq!(open("checkpoint"), checkpoints[15]);
    let mut bundles = 0;
    for (size, checkpoint) in (0_u64..).zip(&checkpoints) {
        assert_eq!(checkpoint.size, size);
        assert_eq!(
            root_from_tiles(size, &Files(&log)).unwrap(),
            checkpoint.root
        );
        let Ok(width) = u16::try_from(size) else {
            unreachable!()
        };
        if width == 0 {
            continue;
        }
        let bundle = read(&log.join(entries_path(0, width)));
        let entries = decode_entry_bundle(&bundle, width).unwrap();
        let leaves: Vec<Hash> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        assert_eq!(root_of(&leaves), checkpoint.root);
        assert_eq!(
            tile_ids(size).collect::<Vec<_>>(),
            [TileId {
                level: 0,
                index: 0,
                width
            }]
        );
        let mut edge = EdgeTiles::new();
        for leaf in &leaves {
            edge.push(*leaf);
        }
        for tile in edge.changed() {
            assert_eq!(tile.encode(), read(&log.join(tile.id.path())));
        }
        for (index, leaf) in (0_u64..).zip(&leaves) {
            let proof = inclusion_proof(index, size, &Files(&log)).unwrap();
            assert_eq!(
                verify_inclusion(leaf, index, size, &proof, &checkpoint.root),
                Ok(())
            );
        }
        for old in &checkpoints[..usize::from(width)] {
            let proof = consistency_proof(old.size, size, &Files(&log)).unwrap();
            assert_eq!(
                verify_consistency(old.size, size, &old.root, &checkpoint.root, &proof),
                Ok(())
            );
        }
        bundles += 1;
    }
    assert_eq!((checkpoints.len(), bundles), (16, 15));
}

#[test]
fn sunlight_mirror() {
    let Some(set) = vectors("sunlight-mirror-300") else {
        return;
    };
    let key = |name: &str| -> VerifierKey {
        let file = read_json(&set.join(name));
        let keys = list(&file, "verifier_keys");
        assert_eq!(keys.len(), 1);
        let key: VerifierKey = keys[0].as_str().unwrap().parse().unwrap();
        assert_eq!(key.to_string(), keys[0].as_str().unwrap());
        key
    };
    let cosigned = |name: &str, key: &VerifierKey| {
        let text = read_text(&set.join(name));
        let note = Note::parse(text.as_bytes()).unwrap();
        assert_eq!(note.to_string(), text);
        let cosignature = cosignature::verify(&note, key).unwrap();
        assert_eq!(cosignature.timestamp, 0x6954_6780);
        (Checkpoint::parse(&note.text).unwrap(), note)
    };
    let (mirror, witness) = (key("mirror.v0.json"), key("witness.v0.json"));
    let (checkpoint, note) = cosigned("checkpoint", &mirror);
    assert_eq!(checkpoint.origin, "rome2026h1.example.org");
    assert!(
        cosignature::verify(&note, &witness).is_err(),
        "the witness didn't cosign this one"
    );

    let files = Files(&set);
    assert_eq!(root_from_tiles(300, &files).unwrap(), checkpoint.root);
    let paths: Vec<String> = tile_ids(300).map(|id| id.path()).collect();
    assert_eq!(paths, ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"]);
    let mut edge = EdgeTiles::new();
    for id in tile_ids(300).filter(|id| id.level == 0) {
        for leaf in files.tile(id).unwrap() {
            edge.push(leaf);
        }
    }
    let changed = edge.take_changed();
    assert_eq!(changed.len(), 3);
    for tile in changed {
        assert_eq!(tile.encode(), read(&set.join(tile.id.path())));
    }
    assert_eq!(edge.root(), checkpoint.root);
    assert_eq!(
        EdgeTiles::from_reader(300, &files).unwrap().root(),
        checkpoint.root
    );

    // This one is of other tiles. Its log signed with an algorithm that is unknown here, which is passed over.
    let (other, note) = cosigned("witness-cosigned-checkpoint", &witness);
    assert_eq!((other.size, note.signatures.len()), (300, 2));
    assert_ne!(other.root, checkpoint.root);
}
