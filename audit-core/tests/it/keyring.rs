//! Key rings and auditor keys: in memory, in files, in the operating system's secret service.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use audit_core::chain::{AuditorKey, AuditorPublicKey};
use audit_core::entry::Role;
use audit_core::hex::{self, Hex};
use audit_core::keyring::{
    AuditorKeyFile, EnvironmentPassphrase, GENERATIONS_MAX, KdfCost, KeyRing, KeyUri, Passphrase,
    PassphraseSource, Protection, RING_BYTES_MAX,
};
use audit_core::secret::SecretKey;
use audit_core::time::System;
use audit_core::{Error, ErrorKind};
use tempfile::TempDir;

const ORIGIN: &str = "log.example/clinic";
const PASSPHRASE: &str = "a long enough passphrase";
const VECTOR_PASSPHRASE: &str = "correct horse ✓";

/// A ring file in the clear, made by another implementation from the text of the format.
const PLAIN: &str = concat!(
    r#"{"kdf":{"name":"none"},"ring":{"auditor":"675dd574ed7789310b3d2e7681f3790b466c773b1521fecf3657795837"#,
    r#"1ea52f","index":"0404040404040404040404040404040404040404040404040404040404040404","origin":"log.exa"#,
    r#"mple/\"a\\b\"","publisher":"0101010101010101010101010101010101010101010101010101010101010101","repor"#,
    r#"t":"0303030303030303030303030303030303030303030303030303030303030303","v":1,"wrapping":[{"generation"#,
    r#"":2,"key":"0505050505050505050505050505050505050505050505050505050505050505"},{"generation":42949672"#,
    r#"95,"key":"0606060606060606060606060606060606060606060606060606060606060606"}],"writer":"020202020202"#,
    r#"0202020202020202020202020202020202020202020202020202"},"v":1}"#,
);

/// The same ring, sealed with [`VECTOR_PASSPHRASE`].
const SEALED: &str = concat!(
    r#"{"kdf":{"m_kib":16,"name":"argon2id","p":2,"salt":"000102030405060708090a0b0c0d0e0f","t":2},"sealed""#,
    r#":"202122232425262728292a2b8bb2dce2e50da977c489b61d369011664d5e0c3cf3b1fd83f73e9ba892405b961ba6daaf21"#,
    r#"7a913ef937fb4b517566a99c877d4cfc0824bf057ce800800f86b9c1f729c59095f0498b95368518a76d3c0f4fb669c5614b"#,
    r#"a6988aabc04a9a25f4fa0954113ef5adf4ac9f9cf22092f483e707a59294522f9b8db9b758fc391c20349f227101be7758c6"#,
    r#"4ba36eb355c3021a82dd6816885d6eb30819a582882a6075bf3a423509ea22ce5972ecbeed0aae4e5384d9285620da7f006f"#,
    r#"3e93ae60fd3dbfdc018df33d8747f21bc567cc7b177ef6ed850f1f1f98c75e87275bf0b40c1e045791e03085581640630b17"#,
    r#"e8a2d533f2cd56f6acafeaf937a8db4fc4788627b2ef00cf35f8076f27dcd62f5ca59cd601629b117f11d4e7be1ce095f89f"#,
    r#"4469f246a0a8571f940a157281abc9050c9e4b37e3a970460d63b79062ff8ab3f8581572566993be6e7de9499c49cd65407a"#,
    r#"6f6cc391362152bb728c82dd4b8c20a64ac0cee38981fb2be630e755ed53c7f9df6255b2b86993660d480537f3f5efe148e8"#,
    r#"40209c03e6643492c1d2052f26be4905b87246eef128f09a5316346c4ac738c78d594a4576c34eadfd8556581aa6382fc27f"#,
    r#"3e5efe92c2f1d467eed0edecbf1e03b8d9620f8e0f2d9982ee300e4a37f357a09161cdfc47829af86d8b5a9187a93d6acea2"#,
    r#"0f07c4aca80c207e88d7031da377dc11564bd80cbcee51989da6f6b6cb01c613825d7bc3f31528d56b1d7caa41217d23245a"#,
    r#"52477e7359842aabd15903fce12cce284497497693adaef93e5539592ab9a6c51715599111343ec9b76511553ce53987175d"#,
    r#"68553fb708afa651f1de45b39c70d30455617a5956db232736b2838a4352599feeae8bde23177248f118e0da54cea30902cb"#,
    r#"c8a45f","v":1}"#,
);

/// An auditor key, sealed the same way.
const SEALED_AUDITOR: &str = concat!(
    r#"{"kdf":{"m_kib":16,"name":"argon2id","p":2,"salt":"000102030405060708090a0b0c0d0e0f","t":2},"kind":""#,
    r#"auditor-private","public":"675dd574ed7789310b3d2e7681f3790b466c773b1521fecf36577958371ea52f","sealed"#,
    r#"":"202122232425262728292a2b90f1dff4e501bb7fdec2e6546cca4a6d591a497be2a0bcc3b77ed2e2de5f168d92e6953ce"#,
    r#"56c777fc7128253346b243c","v":1}"#,
);

/// Hexadecimal of every secret in the vectors, each of which is one byte repeated, and of the auditor's.
fn vector_secrets() -> Vec<String> {
    let mut secrets: Vec<String> = (1..=6_u8).map(|b| hex::encode(&[b; 32])).collect();
    secrets.push(hex::encode(vector_auditor().expose().expose()));
    secrets
}

fn vector_auditor() -> AuditorKey {
    AuditorKey::new(SecretKey::new(std::array::from_fn(|i| {
        0x60 + u8::try_from(i).unwrap()
    })))
}

fn ring() -> KeyRing {
    let auditor = AuditorKey::random(&System).public();
    KeyRing::generate(ORIGIN, auditor, &System).unwrap()
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.as_bytes().to_vec()).unwrap()
}

/// An environment of given variables, without a prompt.
fn environment(variables: &[(&str, &str)]) -> EnvironmentPassphrase<'static> {
    let variables: BTreeMap<String, OsString> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.into()))
        .collect();
    EnvironmentPassphrase::new(move |name| variables.get(name).cloned())
}

/// A prompt that always gives the same answer.
fn typed(text: &'static str) -> EnvironmentPassphrase<'static> {
    environment(&[]).with_prompt(move |_| Passphrase::new(text.as_bytes().to_vec()))
}

/// A source that must not be asked.
fn unasked() -> EnvironmentPassphrase<'static> {
    environment(&[]).with_prompt(|what| panic!("asked for the passphrase of {what}"))
}

fn file_uri(path: &Path) -> KeyUri {
    KeyUri::File(path.to_owned())
}

fn write_private(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    chmod(path, 0o600);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Loads a ring file with these bytes.
fn load(bytes: &[u8], source: &dyn PassphraseSource) -> Result<KeyRing, Error> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ring");
    write_private(&path, bytes);
    KeyRing::load(&file_uri(&path), source)
}

/// The error with all its sources, as a log would show it, and as `Debug` does.
fn everything(error: &Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(e) = source {
        write!(text, " {e} {e:?}").unwrap();
        source = e.source();
    }
    text
}

/// All that can be compared of a ring: its canonical bytes, secrets included.
fn bytes(ring: &KeyRing) -> Vec<u8> {
    ring.to_file_bytes(&Protection::None, &System)
        .unwrap()
        .to_vec()
}

#[test]
fn the_vectors_of_another_implementation_are_read() {
    let plain = load(PLAIN.as_bytes(), &unasked()).unwrap();
    assert_eq!(plain.origin(), r#"log.example/"a\b""#);
    assert_eq!(plain.wrapping_key().generation, u32::MAX);
    assert_eq!(plain.wrapping_key().key.expose(), &[6; 32]);
    assert_eq!(
        plain.wrapping_key_of(2).unwrap().key.expose(),
        &[5; 32],
        "the older generation is another key"
    );
    assert!(plain.wrapping_key_of(1).is_none());
    assert_eq!(plain.auditor(), vector_auditor().public());
    assert_eq!(String::from_utf8(bytes(&plain)).unwrap(), PLAIN);
    let sealed = load(SEALED.as_bytes(), &typed(VECTOR_PASSPHRASE)).unwrap();
    assert_eq!(bytes(&sealed), bytes(&plain));

    let folder = TempDir::new().unwrap();
    let path = folder.path().join("auditor");
    write_private(&path, SEALED_AUDITOR.as_bytes());
    let key = AuditorKeyFile::load_private(&path, &typed(VECTOR_PASSPHRASE)).unwrap();
    assert_eq!(key.expose().expose(), vector_auditor().expose().expose());
}

#[test]
fn the_roles_of_a_ring_are_registered_in_order_and_are_its_keys() {
    let ring = ring();
    let keys = ring.public_keys();
    let roles: Vec<Role> = keys.iter().map(|k| k.role).collect();
    assert_eq!(
        roles,
        [Role::Auditor, Role::Publisher, Role::Report, Role::Writer]
    );
    let public: Vec<[u8; 32]> = keys.iter().map(|k| k.public.0).collect();
    assert_eq!(
        public,
        [
            ring.auditor().0.0,
            ring.publisher().public_key(),
            ring.report().public_key(),
            ring.writer().public_key(),
        ]
    );
    assert_eq!(ring.vkey().name(), ORIGIN);
    assert_eq!(ring.vkey().public_key(), ring.publisher().public_key());
    for (signer, public) in [
        (ring.publisher(), public[1]),
        (ring.report(), public[2]),
        (ring.writer(), public[3]),
    ] {
        let signature = signer.sign(b"message").unwrap();
        ed25519_dalek::VerifyingKey::from_bytes(&public)
            .unwrap()
            .verify_strict(b"message", &signature.into())
            .unwrap();
    }
}

#[test]
fn a_ring_is_not_made_for_a_bad_origin_or_auditor() {
    let auditor = AuditorKey::random(&System).public();
    for origin in ["", "two words", "a+b", "é", &"x".repeat(256)] {
        let error = KeyRing::generate(origin, auditor, &System).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{origin:?}");
    }
    // The point 0 has small order: every shared secret with it is zero.
    let zero = AuditorPublicKey(Hex([0; 32]));
    let error = KeyRing::generate(ORIGIN, zero, &System).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Key);
}

#[test]
fn generations_come_and_go_but_the_newest_stays() {
    let mut ring = ring();
    let first = ring.wrapping_key().key.expose().to_owned();
    assert_eq!(ring.add_wrapping_key(&System).unwrap().generation, 2);
    assert_ne!(ring.wrapping_key().key.expose(), &first);
    assert_eq!(ring.wrapping_key_of(1).unwrap().key.expose(), &first);
    let stored = load(&bytes(&ring), &unasked()).unwrap();
    assert_eq!(bytes(&stored), bytes(&ring), "both generations are stored");
    assert_eq!(ring.drop_wrapping_keys_before(2), 1);
    assert!(ring.wrapping_key_of(1).is_none());
    assert!(
        !String::from_utf8(bytes(&ring))
            .unwrap()
            .contains(&hex::encode(&first)),
        "a dropped key is stored"
    );
    assert_eq!(ring.drop_wrapping_keys_before(u32::MAX), 0);
    assert_eq!(ring.wrapping_key().generation, 2);
}

#[test]
fn a_full_ring_still_fits_its_file() {
    let auditor = AuditorKey::random(&System).public();
    let mut ring = KeyRing::generate(&"\"".repeat(255), auditor, &System).unwrap();
    while ring.add_wrapping_key(&System).is_ok() {}
    assert_eq!(
        ring.wrapping_key().generation as usize,
        GENERATIONS_MAX,
        "the ring is full at another count"
    );
    let passphrase = passphrase(PASSPHRASE);
    let protection = Protection::Passphrase(&passphrase, KdfCost::MIN);
    let sealed = ring.to_file_bytes(&protection, &System).unwrap();
    assert!(sealed.len() < RING_BYTES_MAX, "{}", sealed.len());
    assert_eq!(
        bytes(&load(&sealed, &typed(PASSPHRASE)).unwrap()),
        bytes(&ring)
    );
}

#[test]
fn a_stored_ring_comes_back_and_only_its_owner_has_access() {
    let folder = TempDir::new().unwrap();
    let (sealed, plain) = (folder.path().join("sealed"), folder.path().join("plain"));
    let ring = ring();
    let phrase = passphrase(PASSPHRASE);
    let protection = Protection::Passphrase(&phrase, KdfCost::MIN);
    ring.store_new(&file_uri(&sealed), &protection, &System)
        .unwrap();
    ring.store_new(&file_uri(&plain), &Protection::None, &System)
        .unwrap();
    for (path, source) in [(&sealed, typed(PASSPHRASE)), (&plain, unasked())] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o600);
        let loaded = KeyRing::load(&file_uri(path), &source).unwrap();
        assert_eq!(bytes(&loaded), bytes(&ring));
    }
    let sealed = fs::read_to_string(&sealed).unwrap();
    assert!(!sealed.contains(ORIGIN), "a sealed ring shows its origin");
    // Salt and nonce are drawn anew for each file.
    let again = ring.to_file_bytes(&protection, &System).unwrap();
    assert_ne!(sealed.as_bytes(), again.as_slice());
}

#[test]
fn a_ring_that_exists_is_never_overwritten() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ring");
    let first = ring();
    first
        .store_new(&file_uri(&path), &Protection::None, &System)
        .unwrap();
    let error = ring()
        .store_new(&file_uri(&path), &Protection::None, &System)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("exists already"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes(&first));
    // Nor through a link that leads nowhere.
    let link = folder.path().join("link");
    symlink(folder.path().join("nowhere"), &link).unwrap();
    assert!(
        ring()
            .store_new(&file_uri(&link), &Protection::None, &System)
            .is_err()
    );
    let error = ring()
        .store_new(
            &file_uri(&folder.path().join("no/folder")),
            &Protection::None,
            &System,
        )
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

/// A file is written beside its place and then given its name; what a crash leaves of that is in nobody's way.
#[test]
fn a_new_ring_leaves_no_other_file_and_passes_over_what_was_left() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ring");
    let left = folder
        .path()
        .join(format!(".ring.{}-0.new", std::process::id()));
    fs::write(&left, "torn").unwrap();
    let names = || fs::read_dir(folder.path()).unwrap().count();
    let store = || ring().store_new(&file_uri(&path), &Protection::None, &System);
    store().unwrap();
    assert_eq!(names(), 2, "something else than the ring was left");
    KeyRing::load(&file_uri(&path), &unasked()).unwrap();
    assert_eq!(store().unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(names(), 2, "a refused ring left something");
    assert_eq!(fs::read(&left).unwrap(), b"torn");
}

#[test]
fn files_that_others_may_use_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ring");
    write_private(&path, PLAIN.as_bytes());
    for mode in [
        0o644, 0o640, 0o604, 0o660, 0o606, 0o620, 0o602, 0o610, 0o601, 0o777,
    ] {
        chmod(&path, mode);
        let error = KeyRing::load(&file_uri(&path), &unasked()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key);
        assert!(
            error.to_string().contains(&format!("mode {mode:04o}")),
            "{error}"
        );
    }
    for mode in [0o600, 0o400, 0o700] {
        chmod(&path, mode);
        KeyRing::load(&file_uri(&path), &unasked()).unwrap();
    }
    // What counts for a link is the file at its end.
    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    KeyRing::load(&file_uri(&link), &unasked()).unwrap();
    chmod(&path, 0o640);
    KeyRing::load(&file_uri(&link), &unasked()).unwrap_err();
}

#[test]
fn what_is_no_regular_file_of_a_fitting_size_is_refused() {
    let folder = TempDir::new().unwrap();
    let refused = |path: &Path, why: &str| {
        let error = KeyRing::load(&file_uri(path), &unasked()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key);
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(folder.path(), "not a regular file");
    refused(Path::new("/dev/zero"), "not a regular file");
    refused(&folder.path().join("missing"), "isn't there");
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    refused(&pipe, "not a regular file");
    let large = folder.path().join("large");
    write_private(&large, &vec![b' '; 100 * 1024]);
    refused(&large, "has 102400 bytes or more, allowed are 65536");
    let empty = folder.path().join("empty");
    write_private(&empty, b"");
    refused(&empty, "is cut off");
}

#[test]
fn a_sealed_file_with_any_bit_flipped_or_any_byte_missing_is_refused() {
    // One flip per byte with the whole file, all flips where they change what is parsed: the part before the ciphertext.
    let head = SEALED.find("\"sealed\":\"").unwrap() + 10;
    let mut files = Vec::new();
    for position in 0..SEALED.len() {
        for bit in 0..8 {
            if position < head || bit == position % 8 {
                let mut file = SEALED.as_bytes().to_vec();
                file[position] ^= 1 << bit;
                files.push((format!("bit {bit} of byte {position} flipped"), file));
            }
        }
        files.push((
            format!("cut to {position} bytes"),
            SEALED.as_bytes()[..position].to_vec(),
        ));
    }
    for (name, file) in files {
        let error = load(&file, &typed(VECTOR_PASSPHRASE)).expect_err(&name);
        assert_eq!(error.kind(), ErrorKind::Key, "{name}: {error}");
    }
}

#[test]
fn a_wrong_passphrase_is_named_so() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ring");
    write_private(&path, SEALED.as_bytes());
    for wrong in ["correct horse", "correct horse ✓\n", "x"] {
        let error = KeyRing::load(&file_uri(&path), &typed(wrong)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key);
        assert_eq!(
            error.to_string(),
            format!("passphrase doesn't open key ring {}", path.display())
        );
    }
    let error = KeyRing::load(&file_uri(&path), &typed("")).unwrap_err();
    assert_eq!(error.to_string(), "the passphrase is empty");
}

/// Every mutation of a file in the clear, with what its error must name.
#[test]
fn malformed_rings_are_refused_with_the_reason_and_without_their_secrets() {
    let secret = |b: u8| hex::encode(&[b; 32]);
    let wrong = "wrong, missing or unknown members";
    let cases: Vec<(&str, String, &str)> = vec![
        ("version 2", PLAIN.replace(r#""v":1}"#, r#""v":2}"#), "version 2, this program reads 1"),
        ("ring of version 2", PLAIN.replace(r#""v":1,"#, r#""v":2,"#), "version 2, this program reads 1"),
        ("a newer file with new members", r#"{"new":[],"v":7}"#.into(), "version 7, this program reads 1"),
        ("no version", PLAIN.replace(r#","v":1}"#, "}"), wrong),
        ("version as text", PLAIN.replace(r#""v":1}"#, r#""v":"1"}"#), wrong),
        ("extra member", PLAIN.replace(r#""v":1}"#, r#""v":1,"w":0}"#), wrong),
        ("extra member of the ring", PLAIN.replace(r#""v":1,"#, r#""token":"x","v":1,"#), wrong),
        ("extra member of the kdf", PLAIN.replace(r#"{"name""#, r#"{"m":1,"name""#), wrong),
        ("duplicate member", PLAIN.replace(r#""v":1}"#, r#""v":1,"v":1}"#), wrong),
        ("duplicate secret", PLAIN.replace(r#""report""#, r#""publisher":"00","report""#), wrong),
        ("missing member", PLAIN.replace(&format!(r#""index":"{}","#, secret(4)), ""), wrong),
        ("null for a missing member", PLAIN.replace(r#","v":1}"#, r#","sealed":null,"v":1}"#), "not canonical"),
        ("a space", PLAIN.replace(r#""v":1}"#, r#""v": 1}"#), "not canonical"),
        ("a newline at the end", format!("{PLAIN}\n"), "not canonical"),
        ("text after the end", format!("{PLAIN}{{"), "not JSON"),
        ("members out of order", format!("{{\"v\":1,{}", PLAIN[1..].replace(r#","v":1}"#, "}")), "not canonical"),
        ("an escaped letter", PLAIN.replace("log.example", "l\\u006fg.example"), "not canonical"),
        ("upper case", PLAIN.replace("675dd", "675DD"), wrong),
        ("a secret too short", PLAIN.replace(&secret(4), &secret(4)[2..]), wrong),
        ("a secret too long", PLAIN.replace(&secret(4), &format!("{}00", secret(4))), wrong),
        ("a secret of other letters", PLAIN.replace(&secret(4), &"zz".repeat(32)), wrong),
        ("a secret that is a number", PLAIN.replace(&format!("\"{}\"", secret(4)), "4"), wrong),
        ("a secret in the place of a number", PLAIN.replace(r#""generation":2"#, &format!("\"generation\":\"{}\"", secret(4))), wrong),
        ("a secret as the name of a member", PLAIN.replace(r#""report""#, &format!("\"{}\"", secret(4))), wrong),
        ("two equal secrets", PLAIN.replace(&secret(3), &secret(1)), "can't be used"),
        ("index key and wrapping key equal", PLAIN.replace(&secret(4), &secret(6)), "can't be used"),
        ("generation 0", PLAIN.replace(r#""generation":2"#, r#""generation":0"#), "can't be used"),
        ("generations out of order", PLAIN.replace("4294967295", "1"), "can't be used"),
        ("generation twice", PLAIN.replace("4294967295", "2"), "can't be used"),
        ("generation beyond 32 bits", PLAIN.replace("4294967295", "4294967296"), wrong),
        ("origin with a space", PLAIN.replace("log.example", "log example"), "can't be used"),
        ("ring and kdf that don't fit", PLAIN.replace(r#""name":"none""#, r#""m_kib":16,"name":"argon2id","p":2,"salt":"000102030405060708090a0b0c0d0e0f","t":2"#), "don't fit its kdf"),
        ("costs without argon2id", PLAIN.replace(r#""name":"none""#, r#""name":"none","t":2"#), "can't be used"),
        ("unknown kdf", PLAIN.replace(r#""none""#, r#""scrypt""#), wrong),
        ("not JSON", "ring".into(), "not JSON"),
        ("an array", "[]".into(), wrong),
    ];
    for (name, file, why) in cases {
        assert_ne!(file, PLAIN, "{name} changes nothing");
        let error = load(file.as_bytes(), &unasked()).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Key, "{name}: {error}");
        assert!(error.to_string().contains(why), "{name}: {error}");
        let text = everything(&error);
        for secret in vector_secrets() {
            assert!(!text.contains(&secret[..16]), "{name}: {text}");
        }
    }
    let none = PLAIN.split_once(r#""wrapping":["#).unwrap().0.to_owned()
        + &format!(r#""wrapping":[],"writer":"{}"}},"v":1}}"#, secret(2));
    assert!(load(none.as_bytes(), &unasked()).is_err(), "no generation");
}

#[test]
fn a_file_that_asks_for_too_much_is_refused_before_the_passphrase_is_asked_for() {
    for (from, to) in [
        (r#""m_kib":16"#, r#""m_kib":1048577"#),
        (r#""m_kib":16"#, r#""m_kib":4294967295"#),
        (r#""m_kib":16"#, r#""m_kib":15"#),
        (r#""m_kib":16"#, r#""m_kib":0"#),
        (r#""t":2"#, r#""t":17"#),
        (r#""t":2"#, r#""t":4294967295"#),
        (r#""t":2"#, r#""t":0"#),
        (r#""p":2"#, r#""p":5"#),
        (r#""p":2"#, r#""p":0"#),
    ] {
        let file = SEALED.replace(from, to);
        assert_ne!(file, SEALED);
        let error = load(file.as_bytes(), &unasked()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key);
        assert!(everything(&error).contains("kdf."), "{to}: {error:?}");
    }
    for file in [
        SEALED.replace(r#","t":2"#, ""),
        SEALED.replace(r#""salt":"00"#, r#""salt":""#),
        SEALED.replace(r#""sealed":"20"#, r#""sealed":"2"#),
        SEALED.replace(r#""m_kib":16"#, r#""m_kib":-1"#),
    ] {
        assert_ne!(file, SEALED);
        assert_eq!(
            load(file.as_bytes(), &unasked()).unwrap_err().kind(),
            ErrorKind::Key
        );
    }
    let phrase = passphrase(PASSPHRASE);
    let costly = KdfCost {
        t: 17,
        ..KdfCost::MIN
    };
    let error = ring()
        .to_file_bytes(&Protection::Passphrase(&phrase, costly), &System)
        .unwrap_err();
    assert!(error.to_string().contains("kdf.t is 17"), "{error}");
}

#[test]
fn a_short_passphrase_seals_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ring");
    let short = passphrase("elevenbytes");
    let protection = Protection::Passphrase(&short, KdfCost::MIN);
    let error = ring()
        .store_new(&file_uri(&path), &protection, &System)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("at least 12"), "{error}");
    assert!(!path.exists());
    Passphrase::new(Vec::new()).unwrap_err();
    Passphrase::new(vec![b'x'; 1025]).unwrap_err();
    Passphrase::new(vec![b'x'; 1024]).unwrap();
}

#[test]
fn secrets_do_not_appear_in_debug() {
    let ring = load(PLAIN.as_bytes(), &unasked()).unwrap();
    let phrase = passphrase(PASSPHRASE);
    let texts = [
        format!("{ring:?}"),
        format!(
            "{:?} {:?} {:?}",
            ring.publisher(),
            ring.writer(),
            ring.report()
        ),
        format!("{:?} {:?}", ring.index_key(), ring.wrapping_key()),
        format!("{:?} {:?}", ring.checkpoint_signer(), vector_auditor()),
        format!("{phrase:?}"),
        format!("{:?}", Protection::Passphrase(&phrase, KdfCost::STANDARD)),
        format!("{:?}", typed(PASSPHRASE)),
    ];
    for text in texts {
        assert!(!text.contains(PASSPHRASE), "{text}");
        for secret in vector_secrets() {
            assert!(!text.contains(&secret), "{text}");
        }
        // A byte array would be written in decimal.
        for byte in 1..=6 {
            assert!(!text.contains(&format!("{byte}, {byte}, {byte}")), "{text}");
        }
    }
}

#[test]
fn the_passphrase_comes_from_the_first_place_that_is_there() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("passphrase");
    let credentials = folder.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let credential = credentials.join("audit-trail-passphrase");
    write_private(&file, format!("{VECTOR_PASSPHRASE}\n").as_bytes());
    write_private(&credential, b"from systemd");
    let (file_text, folder_text) = (
        file.to_str().unwrap().to_owned(),
        credentials.to_str().unwrap().to_owned(),
    );
    let opens = |source: &EnvironmentPassphrase<'_>| load(SEALED.as_bytes(), source).is_ok();
    let file_variable = ("AUDIT_TRAIL_PASSPHRASE_FILE", file_text.as_str());
    let folder_variable = ("CREDENTIALS_DIRECTORY", folder_text.as_str());

    assert!(opens(&environment(&[file_variable, folder_variable])));
    assert!(
        !opens(&environment(&[folder_variable])),
        "systemd's is another"
    );
    // For a service with its own user systemd's mask shows as group bits.
    write_private(&credential, VECTOR_PASSPHRASE.as_bytes());
    chmod(&credential, 0o440);
    assert!(opens(&environment(&[folder_variable])));
    // Only one line end is taken off, of either form.
    write_private(&file, format!("{VECTOR_PASSPHRASE}\r\n").as_bytes());
    assert!(opens(&environment(&[file_variable])));
    write_private(&file, format!("{VECTOR_PASSPHRASE}\n\n").as_bytes());
    assert!(!opens(&environment(&[file_variable])));
    // Without the credential the next place is asked, without the file it is not.
    fs::remove_file(&credential).unwrap();
    let asked = environment(&[folder_variable]).with_prompt(|what| {
        assert!(what.starts_with("key ring /"), "{what}");
        Passphrase::new(VECTOR_PASSPHRASE.as_bytes().to_vec())
    });
    assert!(opens(&asked));
    fs::remove_file(&file).unwrap();
    let source = environment(&[file_variable])
        .with_prompt(|_| Passphrase::new(VECTOR_PASSPHRASE.as_bytes().to_vec()));
    let error = load(SEALED.as_bytes(), &source).unwrap_err();
    assert!(error.to_string().contains("isn't there"), "{error}");

    let error = load(SEALED.as_bytes(), &environment(&[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Key);
    for name in ["AUDIT_TRAIL_PASSPHRASE_FILE", "audit-trail-passphrase"] {
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_passphrase_file_that_is_empty_large_or_open_to_others_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("passphrase");
    let variable = [("AUDIT_TRAIL_PASSPHRASE_FILE", path.to_str().unwrap())];
    let error_of = |text: &str, mode: u32| {
        write_private(&path, text.as_bytes());
        chmod(&path, mode);
        let error = load(SEALED.as_bytes(), &environment(&variable)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key);
        let text = everything(&error);
        assert!(!text.contains("correct horse"), "{text}");
        text
    };
    assert!(error_of(VECTOR_PASSPHRASE, 0o644).contains("mode 0644"));
    assert!(error_of("", 0o600).contains("the passphrase is empty"));
    assert!(error_of("\n", 0o600).contains("the passphrase is empty"));
    assert!(error_of(&"x".repeat(1025), 0o600).contains("has 1025 bytes"));
    assert!(error_of(&"x".repeat(5000), 0o600).contains("has 5000 bytes"));
    let unset = environment(&[("AUDIT_TRAIL_PASSPHRASE_FILE", "")]);
    load(SEALED.as_bytes(), &unset).unwrap_err();
}

#[test]
fn key_uris_are_read_and_written_and_others_name_what_is_accepted() {
    for (text, uri) in [
        ("file:/etc/x y", KeyUri::File(PathBuf::from("/etc/x y"))),
        ("file:ring:1", KeyUri::File(PathBuf::from("ring:1"))),
        ("keyring:audit", KeyUri::Keyring("audit".into())),
        ("env:RING_1", KeyUri::Env("RING_1".into())),
    ] {
        assert_eq!(text.parse::<KeyUri>().unwrap(), uri);
        assert_eq!(uri.to_string(), text);
    }
    for text in [
        "",
        "ring",
        "/etc/ring",
        "pkcs11:token=x",
        "FILE:/x",
        "hunter2 is secret:x",
        ":x",
    ] {
        let error = text.parse::<KeyUri>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        for scheme in ["file:PATH", "keyring:SERVICE", "env:NAME"] {
            assert!(error.to_string().contains(scheme), "{error}");
        }
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    for text in [
        "file:",
        "file:///etc/ring",
        "file://host/ring",
        "file:a\0b",
        "keyring:",
        "keyring:a\nb",
        "env:",
        "env:1A",
        "env:A-B",
        "env:A=B",
    ] {
        assert_eq!(
            text.parse::<KeyUri>().unwrap_err().kind(),
            ErrorKind::Invalid,
            "{text:?}"
        );
    }
    format!("keyring:{}", "x".repeat(256))
        .parse::<KeyUri>()
        .unwrap_err();
}

#[test]
fn a_ring_in_the_environment_is_read_and_never_written() {
    let uri: KeyUri = "env:RING".parse().unwrap();
    let plain = KeyRing::load(&uri, &environment(&[("RING", PLAIN)])).unwrap();
    let sealed = environment(&[("RING", SEALED)])
        .with_prompt(|_| Passphrase::new(VECTOR_PASSPHRASE.as_bytes().to_vec()));
    assert_eq!(bytes(&KeyRing::load(&uri, &sealed).unwrap()), bytes(&plain));
    let error = KeyRing::load(&uri, &environment(&[])).unwrap_err();
    assert_eq!(error.to_string(), "key ring env:RING isn't there");
    let error = plain
        .store_new(&uri, &Protection::None, &System)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn auditor_keys_come_back_from_either_file() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let key = AuditorKey::random(&System);
    let phrase = passphrase(PASSPHRASE);
    let sealed = Protection::Passphrase(&phrase, KdfCost::MIN);
    AuditorKeyFile::write_public(&path("public"), key.public()).unwrap();
    AuditorKeyFile::write_private(&path("private"), &key, &Protection::None, &System).unwrap();
    AuditorKeyFile::write_private(&path("sealed"), &key, &sealed, &System).unwrap();
    for name in ["public", "private", "sealed"] {
        assert_eq!(
            AuditorKeyFile::load_public(&path(name)).unwrap(),
            key.public(),
            "{name}"
        );
        let error = AuditorKeyFile::write_private(&path(name), &key, &Protection::None, &System);
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid, "{name}");
        let error = AuditorKeyFile::write_public(&path(name), key.public());
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid, "{name}");
    }
    for (name, source) in [("private", unasked()), ("sealed", typed(PASSPHRASE))] {
        assert_eq!(fs::metadata(path(name)).unwrap().mode() & 0o7777, 0o600);
        let loaded = AuditorKeyFile::load_private(&path(name), &source).unwrap();
        assert_eq!(loaded.expose().expose(), key.expose().expose(), "{name}");
        chmod(&path(name), 0o644);
        let error = AuditorKeyFile::load_private(&path(name), &source).unwrap_err();
        assert!(error.to_string().contains("mode 0644"), "{error}");
    }
    let error = AuditorKeyFile::load_public(&path("private")).unwrap_err();
    assert!(error.to_string().contains("mode 0644"), "{error}");
    let error = AuditorKeyFile::load_private(&path("public"), &unasked()).unwrap_err();
    assert!(error.to_string().contains("public half only"), "{error}");
}

#[test]
fn malformed_auditor_keys_are_refused_with_path_and_reason() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("auditor");
    let (private, public) = (
        hex::encode(vector_auditor().expose().expose()),
        vector_auditor().public().0.to_string(),
    );
    let good =
        format!(r#"{{"kind":"auditor-private","private":"{private}","public":"{public}","v":1}}"#);
    let cases: Vec<(&str, String, &str)> = vec![
        ("version 2", good.replace(r#""v":1"#, r#""v":2"#), "version 2"),
        ("unknown kind", good.replace("auditor-private", "auditor-secret"), "members"),
        ("private key in a public file", good.replace("auditor-private", "auditor-public"), "don't fit its kind"),
        ("no private key", good.replace(&format!(r#""private":"{private}","#), ""), "don't fit its kind"),
        ("no public key", good.replace(&format!(r#""public":"{public}","#), ""), "members"),
        ("another public key", good.replace(&public, &"42".repeat(32)), "don't belong together"),
        ("another private key", good.replace(&private, &"42".repeat(32)), "don't belong together"),
        ("private key as kind", good.replace("auditor-private", &private), "members"),
        ("extra member", good.replace(r#""v":1"#, r#""v":1,"w":1"#), "members"),
        ("duplicate member", good.replace(r#""v":1"#, r#""v":1,"v":1"#), "members"),
        ("cut off", good[..good.len() - 1].to_owned(), "cut off"),
        ("newline", format!("{good}\n"), "not canonical"),
        ("large", " ".repeat(4097), "allowed are 4096"),
        ("sealed with kdf none", SEALED_AUDITOR.replace(r#""m_kib":16,"name":"argon2id","p":2,"salt":"000102030405060708090a0b0c0d0e0f","t":2"#, r#""name":"none""#), "without a kdf"),
        ("sealed too short", SEALED_AUDITOR.replace(r#""sealed":"20"#, r#""sealed":""#), "members"),
        ("huge kdf", SEALED_AUDITOR.replace(r#""m_kib":16"#, r#""m_kib":4294967295"#), "can't be used"),
    ];
    for (name, file, why) in cases {
        assert!(file != good && file != SEALED_AUDITOR, "{name}");
        write_private(&path, file.as_bytes());
        let error = AuditorKeyFile::load_private(&path, &unasked()).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Key, "{name}: {error}");
        let text = everything(&error);
        assert!(text.contains(why), "{name}: {text}");
        assert!(text.contains(path.to_str().unwrap()), "{name}: {text}");
        assert!(!text.contains(&private[..16]), "{name}: {text}");
        assert!(AuditorKeyFile::load_public(&path).is_err(), "{name}");
    }
    for position in 0..SEALED_AUDITOR.len() {
        let mut file = SEALED_AUDITOR.as_bytes().to_vec();
        file[position] ^= 1 << (position % 8);
        write_private(&path, &file);
        let error = AuditorKeyFile::load_private(&path, &typed(VECTOR_PASSPHRASE))
            .expect_err(&format!("byte {position} flipped"));
        assert_eq!(error.kind(), ErrorKind::Key, "byte {position}: {error}");
    }
    write_private(&path, SEALED_AUDITOR.as_bytes());
    let error = AuditorKeyFile::load_private(&path, &typed("another one")).unwrap_err();
    assert!(
        error.to_string().starts_with("passphrase doesn't open"),
        "{error}"
    );
}

#[cfg(not(feature = "keyring"))]
#[test]
fn without_keyring_support_the_secret_service_is_refused_by_name() {
    let uri: KeyUri = "keyring:audit".parse().unwrap();
    for error in [
        KeyRing::load(&uri, &unasked()).unwrap_err(),
        ring()
            .store_new(&uri, &Protection::None, &System)
            .unwrap_err(),
    ] {
        assert!(
            error.to_string().contains("built without keyring support"),
            "{error}"
        );
    }
}

#[cfg(feature = "keyring")]
mod secret_service {
    use std::process::Command;

    use super::*;

    const INSIDE: &str = "AUDIT_TEST_INSIDE_BUS";
    const THIS: &str = "keyring::secret_service::inside_a_private_bus";

    /// Starts a D-Bus of its own with an unlocked secret service, and itself in there.
    #[test]
    fn a_ring_is_kept_in_a_secret_service() {
        let must_run = std::env::var_os("AUDIT_TEST_SERVICES").is_some_and(|v| v == "1");
        for tool in ["dbus-run-session", "gnome-keyring-daemon"] {
            if Command::new(tool).arg("--help").output().is_err() {
                assert!(!must_run, "{tool} is missing and AUDIT_TEST_SERVICES is 1");
                println!("skipped: {tool} is missing");
                return;
            }
        }
        let home = TempDir::new().unwrap();
        let runtime = home.path().join("run");
        fs::create_dir(&runtime).unwrap();
        chmod(&runtime, 0o700);
        // The daemon asks for the password of its keyring on standard input, and makes the keyring if there is none.
        let script = "printf unlocked | gnome-keyring-daemon --unlock --components=secrets >/dev/null && exec \"$@\"";
        let output = Command::new("dbus-run-session")
            .args(["--", "sh", "-c", script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", THIS, "--ignored", "--nocapture"])
            .env("HOME", home.path())
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("XDG_DATA_HOME", home.path().join("data"))
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY")
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{text}");
        assert!(text.contains("test result: ok. 1 passed"), "{text}");
    }

    /// Without a bus the error says so, and nothing waits.
    #[test]
    fn without_a_bus_the_service_is_unavailable() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "keyring::secret_service::inside_no_bus",
                "--ignored",
                "--nocapture",
            ])
            .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus")
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("test result: ok. 1 passed"), "{text}");
    }

    #[test]
    #[ignore = "run by without_a_bus_the_service_is_unavailable"]
    fn inside_no_bus() {
        if std::env::var_os(INSIDE).is_none() {
            return;
        }
        let uri: KeyUri = "keyring:audit-test".parse().unwrap();
        let error = KeyRing::load(&uri, &unasked()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    }

    #[test]
    #[ignore = "run by a_ring_is_kept_in_a_secret_service"]
    fn inside_a_private_bus() {
        if std::env::var_os(INSIDE).is_none() {
            return;
        }
        let uri: KeyUri = "keyring:audit-test".parse().unwrap();
        let other: KeyUri = "keyring:audit-other".parse().unwrap();
        let error = KeyRing::load(&uri, &unasked()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key);
        assert_eq!(error.to_string(), "key ring keyring:audit-test isn't there");

        let first = ring();
        first.store_new(&uri, &Protection::None, &System).unwrap();
        assert_eq!(
            bytes(&KeyRing::load(&uri, &unasked()).unwrap()),
            bytes(&first)
        );
        // Also from inside a runtime, where blocking calls of some libraries panic.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            assert_eq!(
                bytes(&KeyRing::load(&uri, &unasked()).unwrap()),
                bytes(&first)
            );
        });

        let error = ring()
            .store_new(&uri, &Protection::None, &System)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(
            bytes(&KeyRing::load(&uri, &unasked()).unwrap()),
            bytes(&first),
            "a ring was overwritten"
        );
        let phrase = passphrase(PASSPHRASE);
        let error = first
            .store_new(
                &other,
                &Protection::Passphrase(&phrase, KdfCost::MIN),
                &System,
            )
            .unwrap_err();
        assert!(error.to_string().contains("takes no passphrase"), "{error}");
        let error = KeyRing::load(&other, &unasked()).unwrap_err();
        assert!(error.to_string().contains("isn't there"), "{error}");
    }
}
