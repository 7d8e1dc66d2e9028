//! No bytes make a parser panic, and what a parser takes it writes back as it was: one spelling for each value.

use audit_tlog::checkpoint::{self, Checkpoint};
use audit_tlog::cosignature;
use audit_tlog::hash::{Hash, leaf_hash};
use audit_tlog::note::{Ed25519Signer, Note, NoteSigner as _, VerifierKey};
use audit_tlog::tile::{
    Tile, TileId, decode_entry_bundle, encode_entry_bundle, entries_path, parse_entries_path,
};
use audit_tlog::tlog_proof::TlogProof;
use proptest::prelude::*;

fn signed_checkpoint() -> String {
    let log = Ed25519Signer::from_seed("example.com/log", &[1; 32]).unwrap();
    let witness = Ed25519Signer::cosigner_from_seed("example.com/witness", &[2; 32]).unwrap();
    let checkpoint = Checkpoint {
        origin: "example.com/log".to_owned(),
        size: 1234,
        root: leaf_hash(b"root"),
        extensions: vec!["extension".to_owned()],
    };
    let signed = checkpoint::sign(&checkpoint, &[&log]).unwrap();
    let cosigned = cosignature::sign(&checkpoint.to_text(), 1_679_315_147, &witness).unwrap();
    format!("{signed}{cosigned}\n")
}

fn proof() -> String {
    let hashes = vec![leaf_hash(b"1"), leaf_hash(b"2")];
    TlogProof {
        extra: Some(b"extra".to_vec()),
        index: 5,
        hashes,
        checkpoint: signed_checkpoint(),
    }
    .to_string()
}

fn vkey() -> String {
    Ed25519Signer::from_seed("example.com/log", &[1; 32])
        .unwrap()
        .verifier_key()
        .to_string()
}

/// Arbitrary bytes, and valid input with a few bytes overwritten, cut out or put in: only the latter get far.
fn hostile(valid: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte = || prop_oneof![any::<u8>(), prop::sample::select(b"\n\n 0=+-/x.A".to_vec())];
    let edit = (
        any::<prop::sample::Index>(),
        0_usize..3,
        proptest::collection::vec(byte(), 0..3),
    );
    prop_oneof![
        1 => proptest::collection::vec(any::<u8>(), 0..400),
        4 => (prop::sample::select(valid), proptest::collection::vec(edit, 0..4)).prop_map(|(mut bytes, edits)| {
            for (position, cut, put) in edits {
                let start = position.index(bytes.len() + 1);
                let end = (start + cut).min(bytes.len());
                drop(bytes.splice(start..end, put));
            }
            bytes
        }),
    ]
}

fn texts() -> impl Strategy<Value = Vec<u8>> {
    let note = signed_checkpoint();
    let (text, _) = note.rsplit_once("\n\n").unwrap();
    let tile = "tile/0/x001/234.p/5";
    let texts = [
        format!("{text}\n"),
        note.clone(),
        proof(),
        vkey(),
        tile.to_owned(),
        entries_path(1234, 5),
    ];
    hostile(texts.map(String::into_bytes).to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn texts_are_written_back_as_they_were(bytes in texts()) {
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(note) = Note::parse(&bytes) {
            prop_assert_eq!(note.to_string().into_bytes(), bytes.clone());
        }
        if let Ok(proof) = TlogProof::parse(&bytes) {
            prop_assert_eq!(proof.to_string().into_bytes(), bytes.clone());
        }
        if let Ok(checkpoint) = Checkpoint::parse(&text) {
            prop_assert_eq!(checkpoint.to_text(), text.as_ref());
        }
        if let Ok(key) = text.parse::<VerifierKey>() {
            prop_assert_eq!(key.to_string(), text.as_ref());
        }
        if let Ok(hash) = Hash::from_base64(&text) {
            prop_assert_eq!(hash.to_base64(), text.as_ref());
        }
        if let Ok(hash) = Hash::from_hex(&text) {
            prop_assert_eq!(hash.to_string(), text.as_ref());
        }
        if let Ok(id) = TileId::from_path(&text) {
            prop_assert_eq!(id.path(), text.as_ref());
        }
        if let Ok((index, width)) = parse_entries_path(&text) {
            prop_assert_eq!(entries_path(index, width), text.as_ref());
        }
    }

    /// One byte changed anywhere in what the log signed, in its signature line or in the witness's: never another verdict
    /// than an error, where the line changed is one that is looked at.
    #[test]
    fn an_edited_checkpoint_is_refused(position in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let valid = signed_checkpoint();
        let key: VerifierKey = vkey().parse().unwrap();
        let lines = valid.match_indices('\n').map(|(index, _)| index).collect::<Vec<_>>();
        // Up to the end of the log's signature line, the second from the last.
        let signed = lines[lines.len() - 2];
        let mut edited = valid.clone().into_bytes();
        let position = position.index(signed);
        prop_assume!(edited[position] != byte);
        edited[position] = byte;
        prop_assert!(checkpoint::open(&edited, "example.com/log", &key).is_err());
        prop_assert!(checkpoint::open(valid.as_bytes(), "example.com/log", &key).is_ok());
    }

    #[test]
    fn bundles_are_written_back_as_they_were(
        bytes in hostile(vec![encode_entry_bundle(&[b"", b"one", b"two"]).unwrap()]),
        width in 0_u16..=258,
    ) {
        for width in [width, 3] {
            if let Ok(entries) = decode_entry_bundle(&bytes, width) {
                prop_assert_eq!(entries.len(), usize::from(width));
                let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
                prop_assert_eq!(encode_entry_bundle(&entries).unwrap(), bytes.clone());
            }
        }
    }

    #[test]
    fn entries_survive_a_bundle(entries in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..=256)) {
        let borrowed: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        let bundle = encode_entry_bundle(&borrowed).unwrap();
        prop_assert_eq!(decode_entry_bundle(&bundle, u16::try_from(entries.len()).unwrap()).unwrap(), entries);
    }

    #[test]
    fn tiles_are_written_back_as_they_were(bytes in proptest::collection::vec(any::<u8>(), 0..200), width in 1_u16..8) {
        let id = TileId::new(0, 0, width).unwrap();
        let exact = bytes.len() == usize::from(width) * 32;
        match Tile::decode(id, &bytes) {
            Ok(tile) => prop_assert_eq!(tile.encode(), bytes),
            Err(_) => prop_assert!(!exact),
        }
    }

    #[test]
    fn paths_survive(level in 0_u8..64, index in any::<u64>(), width in 1_u16..=256) {
        let id = TileId::new(level, index, width).unwrap();
        prop_assert_eq!(TileId::from_path(&id.path()), Ok(id));
        prop_assert_eq!(parse_entries_path(&entries_path(index, width)), Ok((index, width)));
    }

    /// What can be signed is read back as what was signed.
    #[test]
    fn checkpoints_survive_signing(
        origin in "\\PC{0,20}",
        size in any::<u64>(),
        extensions in proptest::collection::vec("[^\u{0}]{0,10}", 0..3),
    ) {
        let signer = Ed25519Signer::from_seed("log", &[1; 32]).unwrap();
        let checkpoint = Checkpoint { origin, size, root: leaf_hash(b"root"), extensions };
        if let Ok(signed) = checkpoint::sign(&checkpoint, &[&signer]) {
            let (opened, _) = checkpoint::open(signed.as_bytes(), &checkpoint.origin, signer.verifier_key()).unwrap();
            prop_assert_eq!(opened.into_inner(), checkpoint);
        }
    }
}
