//! Notes, checkpoints, proofs and tiles.

use audit_tlog::checkpoint::{self as checkpoints, Checkpoint};
use audit_tlog::cosignature;
use audit_tlog::hash::{Hash, leaf_hash};
use audit_tlog::note::{Ed25519Signer, Note, NoteSigner as _, VerifierKey};
use audit_tlog::proof::{verify_consistency, verify_inclusion};
use audit_tlog::tile::{
    Tile, TileId, decode_entry_bundle, encode_entry_bundle, entries_path, parse_entries_path,
};
use audit_tlog::tlog_proof::TlogProof;

/// The name of the log whose key the targets hold.
pub(crate) const ORIGIN: &str = "example.com/log";

fn key() -> VerifierKey {
    signer().verifier_key().clone()
}

fn witness_key() -> VerifierKey {
    witness().verifier_key().clone()
}

fn signer() -> Ed25519Signer {
    Ed25519Signer::from_seed(ORIGIN, &[1; 32]).expect("the name is a valid key name")
}

fn witness() -> Ed25519Signer {
    Ed25519Signer::cosigner_from_seed("example.com/witness", &[2; 32])
        .expect("the name is a valid key name")
}

/// Signed notes and verifier keys.
///
/// # Panics
///
/// If what is accepted isn't written back as it was.
pub fn note(data: &[u8]) {
    if let Ok(note) = Note::parse(data) {
        assert_eq!(note.to_string().as_bytes(), data, "note");
        // Whatever it says of a cosignature, it says it without a panic.
        drop(cosignature::verify(&note, &witness_key()));
        drop(note.verify(&[key(), witness_key()]));
    }
    if let Ok(text) = core::str::from_utf8(data)
        && let Ok(key) = text.parse::<VerifierKey>()
    {
        assert_eq!(key.to_string(), text, "verifier key");
    }
}

/// Checkpoints, bare, signed as they are by the log's key, and as the whole signed note.
///
/// # Panics
///
/// If what is accepted isn't written back as it was, or a note that the key didn't sign is accepted.
pub fn checkpoint(data: &[u8]) {
    let key = key();
    if let Ok((verified, note)) = checkpoints::open(data, ORIGIN, &key) {
        assert_eq!(verified.to_text(), note.text, "signed checkpoint");
        assert_eq!(note.to_string().as_bytes(), data, "signed note");
        assert_eq!(verified.origin, ORIGIN);
    }
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert_eq!(checkpoint.to_text(), text, "checkpoint");
        // Whatever can be read can be signed, and opens again as what it was.
        let signed = checkpoints::sign(&checkpoint, &[&signer()]);
        if checkpoint.origin == ORIGIN {
            let signed = signed.expect("a parsed checkpoint of this origin can be signed");
            let (opened, _) = checkpoints::open(signed.as_bytes(), ORIGIN, &key)
                .expect("what was signed verifies");
            assert_eq!(*opened, checkpoint);
        }
    }
}

/// C2SP tlog-proofs, and inclusion and consistency proofs of any sizes and hashes.
///
/// # Panics
///
/// If what is accepted isn't written back as it was, or hashes that nobody computed prove anything.
pub fn proof(data: &[u8]) {
    if let Ok(proof) = TlogProof::parse(data) {
        assert_eq!(proof.to_string().as_bytes(), data, "tlog-proof");
        drop(proof.verify(&leaf_hash(b"fuzz"), ORIGIN, &key()));
    }
    let Some((numbers, rest)) = data.split_first_chunk::<17>() else {
        return;
    };
    let number = |at: usize| {
        let bytes = numbers.get(at..at + 8).unwrap_or_default();
        bytes.iter().fold(0, |n: u64, b| n << 8 | u64::from(*b))
    };
    // Half of the time small sizes, where proofs have the right length more often.
    let shift = u32::from(numbers[16]) % 64;
    let (a, b) = (number(0) >> shift, number(8) >> shift);
    let (chunks, _) = rest.as_chunks::<{ Hash::LEN }>();
    let hashes: Vec<Hash> = chunks.iter().copied().map(Hash::from_bytes).collect();
    let root = leaf_hash(b"a root that no hashes of the input lead to");
    let other = leaf_hash(b"another");
    assert!(
        verify_inclusion(&other, a, b, &hashes, &root).is_err(),
        "inclusion of {a} in {b} under a root that isn't computed"
    );
    assert!(
        verify_consistency(a, b, &other, &root, &hashes).is_err(),
        "consistency of {a} with {b} under roots that aren't computed"
    );
}

/// Tiles, their paths, and entry bundles.
///
/// # Panics
///
/// If what is accepted isn't written back as it was.
pub fn tile(data: &[u8]) {
    if let Ok(text) = core::str::from_utf8(data) {
        if let Ok(id) = TileId::from_path(text) {
            assert_eq!(id.path(), text, "path of a tile");
        }
        if let Ok((index, width)) = parse_entries_path(text) {
            assert_eq!(entries_path(index, width), text, "path of an entry bundle");
        }
        if let Ok(hash) = Hash::from_base64(text) {
            assert_eq!(hash.to_base64(), text, "hash in base64");
        }
        if let Ok(hash) = Hash::from_hex(text) {
            assert_eq!(hash.to_string(), text, "hash in hex");
        }
    }
    let (width, bytes) = crate::choice(data);
    let width = u16::try_from(width + 1).unwrap_or(1);
    if let Ok(entries) = decode_entry_bundle(bytes, width) {
        assert_eq!(entries.len(), usize::from(width));
        let again = encode_entry_bundle(&entries.iter().map(Vec::as_slice).collect::<Vec<_>>())
            .expect("what was decoded can be encoded");
        assert_eq!(again, bytes, "entry bundle");
    }
    if let Some(id) = TileId::in_tree(0, 0, u64::from(width))
        && let Ok(tile) = Tile::decode(id, bytes)
    {
        assert_eq!(tile.encode(), bytes, "tile");
    }
}
