//! Vectors of the text formats: notes, verifier keys, checkpoints, proofs.

use audit_tlog::Hash;
use audit_tlog::checkpoint::{self, Checkpoint, CheckpointError};
use audit_tlog::hash::{HashError, leaf_hash};
use audit_tlog::note::{Note, NoteError, VerifierKey};
use audit_tlog::proof::verify_inclusion;
use audit_tlog::tlog_proof::{TlogProof, TlogProofError};
use serde_json::Value;

use crate::fixtures::{base64, hashes, list, number, read_json, read_text, text, vectors};

#[test]
fn note_of_the_specification() {
    let Some(set) = vectors("c2sp") else { return };
    let bytes = read_text(&set.join("signed-note-example.note"));
    let vkey = read_text(&set.join("signed-note-example.vkey"));
    let key: VerifierKey = vkey.trim_end().parse().unwrap();
    assert_eq!(key.to_string(), vkey.trim_end());
    let note = Note::parse(bytes.as_bytes()).unwrap();
    assert_eq!(note.text, "This is an example message.\n");
    assert_eq!(note.to_string(), bytes);
    assert_eq!(note.verify(std::slice::from_ref(&key)).unwrap(), [key]);
}

#[test]
fn golang_notes() {
    let Some(set) = vectors("golang-mod") else {
        return;
    };
    let cases = read_json(&set.join("note_cases.json"));
    let names = |case: &Value, field| -> Vec<VerifierKey> {
        let vkeys = list(case, field)
            .iter()
            .map(|name| text(&cases["vkeys"], name.as_str().unwrap()));
        vkeys.map(|vkey| vkey.parse().unwrap()).collect()
    };
    let open = |case| Note::parse(text(case, "note").as_bytes())?.verify(&names(case, "trusted"));
    let (good, bad, bad_vkeys) = (
        list(&cases, "ok"),
        list(&cases, "reject"),
        list(&cases, "bad_vkeys"),
    );
    for case in good {
        assert_eq!(open(case).unwrap(), names(case, "verified"));
    }
    for case in bad {
        let error = open(case).unwrap_err();
        let expected = match text(case, "why") {
            "no trusted key" => matches!(error, NoteError::Unsigned),
            "invalid signature of a known key" => matches!(error, NoteError::Signature { .. }),
            "no separator" => matches!(error, NoteError::Separator),
            "no signature" => matches!(error, NoteError::Signatures { found: 0 }),
            "no final newline" => matches!(error, NoteError::Newline),
            "control character" => matches!(error, NoteError::Control),
            "space in name" => matches!(error, NoteError::SignatureLine { number: 1 }),
            "stray line" => matches!(error, NoteError::SignatureLine { number: 2 }),
            "101 signatures" => matches!(error, NoteError::Signatures { found: 101 }),
            other => panic!("unknown case {other}"),
        };
        assert!(expected, "{}: {error}", text(case, "why"));
    }
    for vkey in bad_vkeys {
        let error = vkey.as_str().unwrap().parse::<VerifierKey>().unwrap_err();
        assert!(
            matches!(error, NoteError::VerifierKey { .. }),
            "{vkey}: {error}"
        );
    }
    assert_eq!((good.len(), bad.len(), bad_vkeys.len()), (2, 9, 2));
}

#[test]
fn proof_texts() {
    let Some(set) = vectors("tdev-formats") else {
        return;
    };
    let cases = read_json(&set.join("tlog_proof_cases.json"));
    let (good, bad) = (list(&cases, "marshal"), list(&cases, "reject"));
    for case in good {
        let proof = TlogProof {
            extra: case.get("extra").map(base64),
            index: number(case, "index"),
            hashes: hashes(list(case, "hashes")),
            checkpoint: text(case, "checkpoint").to_owned(),
        };
        assert_eq!(proof.to_string(), text(case, "want"));
        assert_eq!(
            TlogProof::parse(text(case, "want").as_bytes()).unwrap(),
            proof
        );
    }
    for case in bad {
        let error = TlogProof::parse(text(case, "proof").as_bytes()).unwrap_err();
        let expected = match text(case, "name") {
            "missing header" => matches!(error, TlogProofError::Header),
            "bad extra" => matches!(error, TlogProofError::Extra),
            "missing index" | "index not a number" | "negative index" => {
                matches!(error, TlogProofError::Index { .. })
            }
            "bad hash base64" => {
                matches!(
                    error,
                    TlogProofError::Hash {
                        position: 0,
                        source: HashError::Base64 { .. }
                    }
                )
            }
            "hash of 64 bytes" => {
                matches!(
                    error,
                    TlogProofError::Hash {
                        position: 0,
                        source: HashError::Length { found: 64 }
                    }
                )
            }
            other => panic!("unknown case {other}"),
        };
        assert!(expected, "{}: {error}", text(case, "name"));
    }
    assert_eq!((good.len(), bad.len()), (3, 7));
}

/// These test the text alone: their "root hashes" have not 32 bytes, which is where a good text is refused here.
#[test]
fn checkpoint_texts() {
    let Some(set) = vectors("tdev-formats") else {
        return;
    };
    let cases = read_json(&set.join("checkpoint_cases.json"));
    let (good, bad) = (list(&cases, "ok"), list(&cases, "reject"));
    for case in good {
        let error = Checkpoint::parse(text(case, "text")).unwrap_err();
        assert!(
            matches!(error, CheckpointError::Root(HashError::Length { .. })),
            "{error}"
        );
        let root = text(case, "text").lines().nth(2).unwrap();
        let root_of_length = leaf_hash(b"").to_base64();
        let read = Checkpoint::parse(&text(case, "text").replace(root, &root_of_length)).unwrap();
        assert_eq!(
            (read.origin.as_str(), read.size),
            (text(case, "origin"), number(case, "size"))
        );
    }
    let expected: [fn(&CheckpointError) -> bool; 7] = [
        |error| matches!(error, CheckpointError::Lines { found: 2 }),
        |error| matches!(error, CheckpointError::EmptyLine { number: 1 }),
        |error| matches!(error, CheckpointError::Newline),
        |error| matches!(error, CheckpointError::Size { .. }),
        |error| matches!(error, CheckpointError::Size { .. }),
        |error| matches!(error, CheckpointError::Size { .. }),
        |error| matches!(error, CheckpointError::Root(HashError::Base64 { .. })),
    ];
    assert_eq!((good.len(), bad.len()), (2, expected.len()));
    for (case, expected) in bad.iter().zip(expected) {
        let error = Checkpoint::parse(case.as_str().unwrap()).unwrap_err();
        assert!(expected(&error), "{case}: {error}");
    }
}

/// The checkpoints of a public log with one or several signatures, good and bad, and the inclusion proofs under them.
#[test]
fn rekor_checkpoints() {
    const ORIGIN: &str = "log2025-alpha1.rekor.sigstage.dev";
    let Some(set) = vectors("rekor2-bundles") else {
        return;
    };
    let index = read_json(&set.join("index.json"));
    let (mut accepted, mut refused, mut without) = (0, 0, 0);
    for name in index.as_object().unwrap().keys() {
        let roots = read_json(&set.join(name).join("trusted_root.json"));
        let log = list(&roots, "tlogs")
            .iter()
            .find(|log| text(log, "baseUrl").ends_with(ORIGIN))
            .unwrap();
        // An Ed25519 key in SPKI ends with its 32 bytes.
        let spki = base64(&log["publicKey"]["rawBytes"]);
        let key = VerifierKey::ed25519(ORIGIN, *spki.last_chunk().unwrap()).unwrap();
        assert_eq!(
            base64(&log["logId"]["keyId"])[..4],
            key.key_id().to_be_bytes(),
            "{name}"
        );
        let bundle = read_json(&set.join(name).join("bundle.sigstore.json"));
        let entry = &bundle["verificationMaterial"]["tlogEntries"][0];
        let Some(envelope) = entry["inclusionProof"]["checkpoint"]["envelope"].as_str() else {
            assert_eq!(name, "rekor2-no-inclusion-proof_fail");
            without += 1;
            continue;
        };
        let opened = checkpoint::open(envelope.as_bytes(), ORIGIN, &key);
        // Other bundles fail for their timestamps, which are none of this crate's business.
        let bad = name.starts_with("rekor2-checkpoint-") && name.ends_with("_fail");
        assert_eq!(opened.is_err(), bad, "{name}: {opened:?}");
        let Ok((checkpoint, _)) = opened else {
            refused += 1;
            continue;
        };
        accepted += 1;
        let proof: Vec<Hash> = hashes(list(&entry["inclusionProof"], "hashes"));
        let leaf_index = text(&entry["inclusionProof"], "logIndex").parse().unwrap();
        let leaf = leaf_hash(&base64(&entry["canonicalizedBody"]));
        let verdict =
            verify_inclusion(&leaf, leaf_index, checkpoint.size, &proof, &checkpoint.root);
        assert_eq!(verdict, Ok(()), "{name}");
    }
    assert_eq!((accepted, refused, without), (16, 5, 1), "of 22");
}
