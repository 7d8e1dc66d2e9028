//! What fuzzing starts from where a key is needed to make it. `AUDIT_BLESS=1` writes it into the corpora.

use std::fs;
use std::path::Path;

use audit_fuzz::TARGETS;
use audit_tlog::checkpoint::{self, Checkpoint};
use audit_tlog::cosignature;
use audit_tlog::hash::leaf_hash;
use audit_tlog::note::{Ed25519Signer, NoteSigner as _};
use audit_tlog::tlog_proof::TlogProof;

type Seed = (&'static str, &'static str, Vec<u8>);

fn seeds() -> Vec<Seed> {
    let log = Ed25519Signer::from_seed("example.com/log", &[1; 32]).unwrap();
    let witness = Ed25519Signer::cosigner_from_seed("example.com/witness", &[2; 32]).unwrap();
    let checkpoint = |size, extensions: &[&str]| Checkpoint {
        origin: "example.com/log".to_owned(),
        size,
        root: leaf_hash(b"root"),
        extensions: extensions.iter().map(|e| (*e).to_owned()).collect(),
    };
    let plain = checkpoint(1234, &[]);
    let extended = checkpoint(7, &["one", "two words"]);
    let signed = checkpoint::sign(&plain, &[&log]).unwrap();
    let cosigned = format!(
        "{}{}\n",
        checkpoint::sign(&extended, &[&log]).unwrap(),
        cosignature::sign(&extended.to_text(), 1_679_315_147, &witness).unwrap()
    );
    let proof = |extra: Option<&[u8]>, index, count: u8| TlogProof {
        extra: extra.map(<[u8]>::to_vec),
        index,
        hashes: (0..count).map(|n| leaf_hash(&[n])).collect(),
        checkpoint: signed.clone(),
    };
    let mut small = vec![0; 17];
    small[7] = 3;
    small[15] = 8;
    small.extend(leaf_hash(b"1").as_bytes());
    small.extend(leaf_hash(b"2").as_bytes());
    small.extend(leaf_hash(b"3").as_bytes());
    let bytes = |text: &str| text.as_bytes().to_vec();
    vec![
        ("checkpoint", "signed", bytes(&signed)),
        ("checkpoint", "cosigned", bytes(&cosigned)),
        ("checkpoint", "text", bytes(&plain.to_text())),
        ("checkpoint", "text-extended", bytes(&extended.to_text())),
        (
            "checkpoint",
            "empty-tree",
            bytes(&checkpoint(0, &[]).to_text()),
        ),
        ("note", "signed", bytes(&signed)),
        ("note", "cosigned", bytes(&cosigned)),
        ("note", "vkey", bytes(&log.verifier_key().to_string())),
        (
            "note",
            "vkey-cosigner",
            bytes(&witness.verifier_key().to_string()),
        ),
        ("note", "no-signature", bytes("text\n\n")),
        ("proof", "two-hashes", bytes(&proof(None, 5, 2).to_string())),
        (
            "proof",
            "extra",
            bytes(&proof(Some(b"extra"), 0, 1).to_string()),
        ),
        ("proof", "no-hashes", bytes(&proof(None, 0, 0).to_string())),
        ("proof", "inclusion-3-of-8", small.clone()),
        ("proof", "sizes-only", small[..17].to_vec()),
    ]
}

#[test]
fn what_fuzzing_starts_from_breaks_a_property() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, name, bytes) in seeds() {
        let run = TARGETS.iter().find(|t| t.name == target).unwrap().run;
        run(&bytes);
        let file = folder.join(target).join(name);
        if std::env::var_os("AUDIT_BLESS").is_some() {
            fs::create_dir_all(folder.join(target)).unwrap();
            fs::write(&file, &bytes).unwrap();
        }
        assert!(
            fs::read(&file).is_ok_and(|there| there == bytes),
            "{} is not what this test makes; AUDIT_BLESS=1 writes it anew",
            file.display()
        );
    }
}
