//! What `verify_strict` accepts, fixed with the edge cases of two collections.

use std::collections::BTreeSet;

use audit_tlog::note::{NoteError, VerifierKey};
use serde_json::Value;

use crate::fixtures::{hex, list, read_json, text, vectors};

fn key(text: &str) -> Result<VerifierKey, NoteError> {
    VerifierKey::ed25519("name", hex(text).try_into().unwrap())
}

/// Accepted are exactly the signatures that satisfy the equation without cofactor, with canonical encodings, and with
/// neither public key nor `R` of small order.
///
/// So a public key or an `R` may have a component of small order, as long as it leaves no residue: nobody but the holder of
/// the key can make either, and it gives no second signature to others.
#[test]
fn cctv_edge_cases() {
    let Some(set) = vectors("cctv") else { return };
    let cases = read_json(&set.join("ed25519vectors.json"));
    let tolerated: BTreeSet<&str> = ["low_order_component_A", "low_order_component_R"].into();
    let (mut accepted, mut refused_keys, mut refused_signatures) = (0, 0, 0);
    for case in cases.as_array().unwrap() {
        let flags: BTreeSet<&str> = list(case, "flags")
            .iter()
            .map(|flag| flag.as_str().unwrap())
            .collect();
        let signature: [u8; 64] = hex(text(case, "sig")).try_into().unwrap();
        match key(text(case, "key")) {
            Err(error) => {
                assert!(
                    matches!(error, NoteError::PublicKey { .. }),
                    "{case}: {error}"
                );
                assert!(
                    flags.contains("low_order_A") || flags.contains("non_canonical_A"),
                    "{case}: {error}"
                );
                refused_keys += 1;
            }
            Ok(key) => {
                assert!(
                    !flags.contains("low_order_A") && !flags.contains("non_canonical_A"),
                    "{case}"
                );
                let verdict = key.verify_ed25519(text(case, "msg").as_bytes(), &signature);
                assert_eq!(verdict.is_ok(), flags.is_subset(&tolerated), "{case}");
                *if verdict.is_ok() {
                    &mut accepted
                } else {
                    &mut refused_signatures
                } += 1;
            }
        }
    }
    assert_eq!(
        (accepted, refused_keys, refused_signatures),
        (43, 526, 345),
        "of 914"
    );
}

#[test]
fn wycheproof_cases() {
    let Some(set) = vectors("wycheproof") else {
        return;
    };
    let cases = read_json(&set.join("ed25519_test.json"));
    let (mut accepted, mut refused, mut other_lengths) = (0, 0, 0);
    for group in list(&cases, "testGroups") {
        let key = key(text(&group["publicKey"], "pk")).unwrap();
        for case in list(group, "tests") {
            let valid = match text(case, "result") {
                "valid" => true,
                "invalid" => false,
                other => panic!("unknown result {other}: {case}"),
            };
            let verdict = verify(&key, case);
            assert_eq!(verdict, Some(valid).filter(|_| verdict.is_some()), "{case}");
            match verdict {
                Some(true) => accepted += 1,
                Some(false) => refused += 1,
                None => {
                    assert!(!valid, "{case}");
                    other_lengths += 1;
                }
            }
        }
    }
    assert_eq!((accepted, refused, other_lengths), (88, 51, 12), "of 151");
}

/// The verdict, or `None` for a signature that has not 64 bytes and so never reaches the verifier.
fn verify(key: &VerifierKey, case: &Value) -> Option<bool> {
    let signature: [u8; 64] = hex(text(case, "sig")).try_into().ok()?;
    Some(
        key.verify_ed25519(&hex(text(case, "msg")), &signature)
            .is_ok(),
    )
}
