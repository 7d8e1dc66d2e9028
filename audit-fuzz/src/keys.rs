//! Key files. A passphrase is never given, so that nothing is stretched: what is before and behind that is parsed.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;

use audit_core::keyring::{
    AuditorKeyFile, KeyRing, KeyUri, Passphrase, PassphraseSource, Protection,
};
use audit_core::time::System;
use audit_core::{Error, Result};

struct Given<'a>(&'a [u8]);

impl PassphraseSource for Given<'_> {
    fn passphrase(&self, what: &str) -> Result<Passphrase> {
        Err(Error::key(format!("no passphrase for {what}")))
    }

    fn variable(&self, _: &str) -> Option<OsString> {
        Some(OsString::from_vec(self.0.to_vec()))
    }
}

/// Key-ring files.
///
/// # Panics
///
/// If a ring that is accepted isn't written back as it was.
pub fn key_ring_file(data: &[u8]) {
    let uri = KeyUri::Env("RING".to_owned());
    if let Ok(ring) = KeyRing::load(&uri, &Given(data)) {
        let again = ring
            .to_file_bytes(&Protection::None, &System)
            .expect("a ring without a passphrase needs nothing");
        assert!(again.as_slice() == data, "a ring has two spellings");
    }
    if let Ok(text) = core::str::from_utf8(data) {
        drop(text.parse::<KeyUri>());
    }
}

/// A file of its own, readable by nobody else.
pub(crate) fn file(data: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    file.write_all(data)
        .expect("a temporary file can be written");
    file
}

/// Auditor key files, private and public.
///
/// # Panics
///
/// If they panic.
pub fn auditor_key_file(data: &[u8]) {
    let file = file(data);
    let path = file.path();
    drop(AuditorKeyFile::load_private(path, &Given(data)));
    drop(AuditorKeyFile::load_public(path));
}
