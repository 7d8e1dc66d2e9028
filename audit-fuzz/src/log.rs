//! Entries, the log export and the configuration.

use std::io::Cursor;

use audit_core::Entry;
use audit_core::time::Timestamp;
use audit_tlog::note::{Ed25519Signer, NoteSigner as _};
use audit_verify::bundle::{Reader, export as write_export};
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

/// Log exports: read, verified, and written again.
///
/// # Panics
///
/// If an export has two spellings, or one that the key didn't sign is accepted.
pub fn export(data: &[u8]) {
    let key = Ed25519Signer::from_seed("example.com/fuzz", &[3; 32])
        .expect("the name is a valid key name")
        .verifier_key()
        .clone();
    let policy = Policy::public(key, Timestamp::EPOCH);
    let reader = match Reader::open(Cursor::new(data)) {
        Ok(reader) => reader,
        Err(e) => {
            assert_ne!(Verdict::unreadable(&policy, &e).exit_code(), 0);
            return;
        }
    };
    // Nobody signed anything with this key.
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
