//! Entries, packed and not, the log export, evidence bundles and the configuration.

use std::io::Cursor;

use audit_core::Entry;
use audit_core::entry::ENTRY_BYTES_MAX;
use audit_core::packed::{pack, unpack};
use audit_core::time::Timestamp;
use audit_tlog::note::{Ed25519Signer, NoteSigner as _, VerifierKey};
use audit_verify::bundle::{Reader, export as write_export};
use audit_verify::evidence_bundle::{BundlePolicy, verify_bundle};
use audit_verify::{Policy, Verdict, verify};

/// Entries.
///
/// # Panics
///
/// If an entry has two spellings.
pub fn entry(data: &[u8]) {
    if let Ok(entry) = Entry::decode(data) {
        let again = entry.encode().expect("a decoded entry can be encoded");
        assert_eq!(again, data, "an entry has two spellings");
        // Whatever parts somebody puts beside it.
        drop(entry.split_parts(data));
    }
}

/// Packed entries, and any bytes to be packed.
///
/// # Panics
///
/// If packing loses something, or there are two packed forms of the same bytes.
pub fn packed(data: &[u8]) {
    if let Ok(entry) = unpack(data) {
        assert!(pack(&entry) == data, "an entry has two packed forms");
    }
    let packed = pack(data);
    match unpack(&packed) {
        Ok(again) => assert!(again == data, "packing lost something"),
        // No entry is empty.
        Err(e) => assert!(
            data.is_empty() || data.len() > ENTRY_BYTES_MAX,
            "packed and not unpacked: {e}"
        ),
    }
}

/// Evidence bundles.
///
/// # Panics
///
/// If a bundle is decided without a key from outside of it, or one that the key didn't sign is accepted.
pub fn evidence_bundle(data: &[u8]) {
    let trusting = verify_bundle(Cursor::new(data), &BundlePolicy::default());
    assert_ne!(trusting.exit_code(), 0, "decided without a key: {trusting}");
    let policy = BundlePolicy {
        vkey: Some(key()),
        ..BundlePolicy::default()
    };
    let verdict = verify_bundle(Cursor::new(data), &policy);
    assert_ne!(verdict.exit_code(), 0, "{verdict}");
}

/// A key with which nobody signed anything.
fn key() -> VerifierKey {
    Ed25519Signer::from_seed("example.com/fuzz", &[3; 32])
        .expect("the name is a valid key name")
        .verifier_key()
        .clone()
}

/// Log exports: read, verified, and written again.
///
/// # Panics
///
/// If an export has two spellings, or one that the key didn't sign is accepted.
pub fn export(data: &[u8]) {
    let policy = Policy::public(key(), Timestamp::EPOCH);
    let reader = match Reader::open(Cursor::new(data)) {
        Ok(reader) => reader,
        Err(e) => {
            assert_ne!(Verdict::unreadable(&policy, &e).exit_code(), 0);
            return;
        }
    };
    let verdict = verify(&reader, &policy, &mut ());
    assert_ne!(verdict.exit_code(), 0, "{verdict}");
    let parts = reader.header().parts;
    let mut again = Vec::new();
    if write_export(&reader, &mut again, parts).is_ok() {
        assert!(again == data, "an export has two spellings");
    }
}

/// The configuration file of the program.
///
/// # Panics
///
/// If it panics.
pub fn config(data: &[u8]) {
    let file = crate::keys::file(data);
    drop(audit_cli::check_config(file.path()));
}
