//! The primitives as this crate uses them, against the cases of two collections.

use std::collections::BTreeSet;
use std::path::PathBuf;

use aes_gcm::aead::{Aead, AeadInOut as _, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use audit_core::secret::SecretKey;
use audit_core::signer::{Signer as _, SoftwareSigner};
use ed25519_dalek::{Signature, VerifyingKey};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

/// A file of vectors, or `None` when no fixtures are at hand, which then is said.
///
/// With `AUDIT_FIXTURES` set everything must be there: what is missing fails the test that needs it.
fn vectors(file: &str) -> Option<Value> {
    let Some(fixtures) = std::env::var_os("AUDIT_FIXTURES") else {
        println!("skipped: AUDIT_FIXTURES is not set");
        return None;
    };
    let path = PathBuf::from(fixtures).join("../vectors").join(file);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(serde_json::from_slice(&bytes).unwrap())
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("no text in field {field}: {value}"))
}

fn bytes(value: &Value, field: &str) -> Vec<u8> {
    audit_core::hex::decode(text(value, field)).unwrap()
}

fn valid(case: &Value) -> bool {
    match text(case, "result") {
        "valid" => true,
        "invalid" => false,
        other => panic!("unknown result {other}: {case}"),
    }
}

/// Every case of a Wycheproof file with its group.
fn cases(file: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    let groups = file["testGroups"].as_array().unwrap();
    groups
        .iter()
        .flat_map(|g| g["tests"].as_array().unwrap().iter().map(move |t| (g, t)))
}

/// How many cases were valid, invalid, and not about what this crate does.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    valid: u32,
    invalid: u32,
    out_of_scope: u32,
}

impl Count {
    fn add(&mut self, valid: bool) {
        *if valid {
            &mut self.valid
        } else {
            &mut self.invalid
        } += 1;
    }
}

#[test]
fn hmac_sha256() {
    let Some(file) = vectors("wycheproof/hmac_sha256_test.json") else {
        return;
    };
    let (mut whole, mut truncated) = (Count::default(), Count::default());
    for (group, case) in cases(&file) {
        let mut mac = Hmac::<Sha256>::new_from_slice(&bytes(case, "key")).unwrap();
        mac.update(&bytes(case, "msg"));
        let tag = bytes(case, "tag");
        match group["tagSize"].as_u64().unwrap() {
            // MACs of entries.
            256 => {
                assert_eq!(mac.verify_slice(&tag).is_ok(), valid(case), "{case}");
                whole.add(valid(case));
            }
            // Tokens are the first 16 bytes.
            128 => {
                assert_eq!(tag.len(), 16, "{case}");
                // A check for the whole tag must not take a part of it.
                assert!(mac.clone().verify_slice(&tag).is_err(), "{case}");
                let computed = mac.clone().finalize().into_bytes();
                assert_eq!(computed[..16] == tag, valid(case), "{case}");
                assert_eq!(
                    mac.verify_truncated_left(&tag).is_ok(),
                    valid(case),
                    "{case}"
                );
                truncated.add(valid(case));
            }
            other => panic!("tags of {other} bits: {case}"),
        }
    }
    let expected = || Count {
        valid: 33,
        invalid: 54,
        out_of_scope: 0,
    };
    assert_eq!((whole, truncated), (expected(), expected()), "of 174");
}

#[test]
fn hkdf_sha256() {
    let Some(file) = vectors("wycheproof/hkdf_sha256_test.json") else {
        return;
    };
    let (mut salted, mut empty_salt) = (Count::default(), Count::default());
    for (_, case) in cases(&file) {
        let salt = bytes(case, "salt");
        // An empty salt, as this crate has it, is passed as none.
        let hkdf = Hkdf::<Sha256>::new(
            Some(salt.as_slice()).filter(|s| !s.is_empty()),
            &bytes(case, "ikm"),
        );
        let mut okm = vec![0; usize::try_from(case["size"].as_u64().unwrap()).unwrap()];
        let made = hkdf.expand(&bytes(case, "info"), &mut okm).is_ok();
        assert_eq!(made, valid(case), "{case}");
        if made {
            assert_eq!(okm, bytes(case, "okm"), "{case}");
        }
        if salt.is_empty() {
            &mut empty_salt
        } else {
            &mut salted
        }
        .add(valid(case));
    }
    let count = |valid, invalid| Count {
        valid,
        invalid,
        out_of_scope: 0,
    };
    assert_eq!((salted, empty_salt), (count(60, 3), count(23, 0)), "of 86");
}

/// The types and calls of `aead.rs`: 256-bit keys, 96-bit nonces, 128-bit tags. No other sizes can be had there, so their
/// cases are out of scope.
#[test]
fn aes_256_gcm() {
    let Some(file) = vectors("wycheproof/aes_gcm_test.json") else {
        return;
    };
    let mut count = Count::default();
    for (group, case) in cases(&file) {
        let size = |name: &str| group[name].as_u64().unwrap();
        if (size("keySize"), size("ivSize"), size("tagSize")) != (256, 96, 128) {
            count.out_of_scope += 1;
            continue;
        }
        let key: [u8; 32] = bytes(case, "key").try_into().unwrap();
        let nonce: [u8; 12] = bytes(case, "iv").try_into().unwrap();
        let (ad, plain, ciphertext, tag) = (
            bytes(case, "aad"),
            bytes(case, "msg"),
            bytes(case, "ct"),
            bytes(case, "tag"),
        );
        let cipher = Aes256Gcm::new(&key.into());
        let sealed = [ciphertext.clone(), tag.clone()].concat();
        let payload = Payload {
            msg: &sealed,
            aad: &ad,
        };
        let opened = cipher.decrypt(&Nonce::from(nonce), payload).ok();
        assert_eq!(opened, valid(case).then(|| plain.clone()), "{case}");
        let mut buffer = plain;
        let made = cipher
            .encrypt_inout_detached(&Nonce::from(nonce), &ad, buffer.as_mut_slice().into())
            .unwrap();
        assert_eq!(
            (buffer == ciphertext) && (made.as_slice() == tag),
            valid(case),
            "{case}"
        );
        count.add(valid(case));
    }
    let expected = Count {
        valid: 39,
        invalid: 27,
        out_of_scope: 250,
    };
    assert_eq!(count, expected, "of 316");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    KeyRefused,
    SignatureRefused,
    /// It has not 64 bytes, and so can't be handed to the verifier.
    OtherLength,
}

/// What `chain::verify_opening` says, by the same types and calls.
fn verdict(key: &[u8], message: &[u8], signature: &[u8]) -> Verdict {
    let Ok(signature) = Signature::from_slice(signature) else {
        return Verdict::OtherLength;
    };
    let Ok(key) = VerifyingKey::from_bytes(key.try_into().unwrap()) else {
        return Verdict::KeyRefused;
    };
    match key.verify_strict(message, &signature) {
        Ok(()) => Verdict::Accepted,
        Err(_) => Verdict::SignatureRefused,
    }
}

#[test]
fn ed25519() {
    let Some(file) = vectors("wycheproof/ed25519_test.json") else {
        return;
    };
    let mut count = Count::default();
    for (group, case) in cases(&file) {
        let key = bytes(&group["publicKey"], "pk");
        let verdict = verdict(&key, &bytes(case, "msg"), &bytes(case, "sig"));
        assert_eq!(verdict == Verdict::Accepted, valid(case), "{case}");
        match verdict {
            Verdict::OtherLength => count.out_of_scope += 1,
            _ => count.add(valid(case)),
        }
    }
    let expected = Count {
        valid: 88,
        invalid: 51,
        out_of_scope: 12,
    };
    assert_eq!(count, expected, "of 151");
}

#[test]
fn a_software_signature_is_verified_strictly() {
    for seed in 0..=255_u8 {
        let signer = SoftwareSigner::new(&SecretKey::new([seed; 32]));
        let message = vec![seed; usize::from(seed)];
        let mut signature = signer.sign(&message).unwrap();
        let key = signer.public_key();
        assert_eq!(verdict(&key, &message, &signature), Verdict::Accepted);
        signature[usize::from(seed) % 64] ^= 1;
        assert_eq!(
            verdict(&key, &message, &signature),
            Verdict::SignatureRefused,
            "{seed}"
        );
    }
}

/// Accepted are exactly the signatures that satisfy the equation without cofactor, whose key and `R` are not of small
/// order, and whose `R` is canonical. A component of small order in a key that somebody made for themselves is tolerated,
/// as long as it leaves no residue: it gives no second signature to others.
#[test]
fn ed25519_edge_cases() {
    let Some(file) = vectors("cctv/ed25519vectors.json") else {
        return;
    };
    let tolerated: BTreeSet<&str> = ["low_order_component_A", "low_order_component_R"].into();
    let (mut accepted, mut refused_keys, mut refused_signatures) = (0, 0, 0);
    for case in file.as_array().unwrap() {
        let flags: BTreeSet<&str> = match &case["flags"] {
            // Go writes an empty list as null.
            Value::Null => BTreeSet::new(),
            flags => flags
                .as_array()
                .unwrap()
                .iter()
                .map(|f| f.as_str().unwrap())
                .collect(),
        };
        let verdict = verdict(
            &bytes(case, "key"),
            text(case, "msg").as_bytes(),
            &bytes(case, "sig"),
        );
        assert_eq!(
            verdict == Verdict::Accepted,
            flags.is_subset(&tolerated),
            "{case}"
        );
        match verdict {
            Verdict::Accepted => accepted += 1,
            Verdict::KeyRefused => refused_keys += 1,
            Verdict::SignatureRefused => refused_signatures += 1,
            Verdict::OtherLength => panic!("a signature of another length: {case}"),
        }
    }
    assert_eq!(
        (accepted, refused_keys, refused_signatures),
        (43, 0, 871),
        "of 914"
    );
}
