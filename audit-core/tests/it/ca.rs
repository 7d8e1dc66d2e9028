//! The key files of certificate authorities.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use audit_core::keyring::{
    CaKey, CaKeyFile, EnvironmentPassphrase, KdfCost, Passphrase, Protection,
};
use audit_core::time::{System, Timestamp};
use audit_core::{ErrorKind, with_causes};
use tempfile::TempDir;
use zeroize::Zeroizing;

/// Made by another implementation from the text of the format; its passphrase is [`PASSPHRASE`].
const SEALED: &str = concat!(
    r#"{"certificate":"3082aa","hosts":[".openai.azure.com","api.openai.com"],"kdf":{"m_kib":16,"name":"arg"#,
    r#"on2id","p":2,"salt":"000102030405060708090a0b0c0d0e0f","t":2},"kind":"intercept-ca","name":"Local CA"#,
    r#"","not_after":"2028-01-02T00:00:00.000000Z","origin":"log.example/\"a\\b\"","sealed":"20212223242526"#,
    r#"2728292a2bc01106c1b6e17f5f27d7d0b1a1e69bfb53b6c0","v":1}"#,
);
const PASSPHRASE: &str = "correct horse ✓";

fn key() -> CaKey {
    CaKey {
        origin: r#"log.example/"a\b""#.to_owned(),
        name: "Local CA".to_owned(),
        hosts: vec!["api.openai.com".to_owned(), ".openai.azure.com".to_owned()],
        not_after: Timestamp::parse("2028-01-02T00:00:00.000000Z").unwrap(),
        certificate: vec![0x30, 0x82, 0xaa],
        private: Zeroizing::new(vec![0x30, 0x81, 0xbb]),
    }
}

fn typed(text: &'static str) -> EnvironmentPassphrase<'static> {
    EnvironmentPassphrase::new(|_| None)
        .with_prompt(move |_| Passphrase::new(text.as_bytes().to_vec()))
}

fn unasked() -> EnvironmentPassphrase<'static> {
    EnvironmentPassphrase::new(|_| None).with_prompt(|what| panic!("asked for {what}"))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn assert_same(read: &CaKey) {
    let written = key();
    assert_eq!(read.origin, written.origin);
    assert_eq!(read.name, written.name);
    assert_eq!(read.hosts, [".openai.azure.com", "api.openai.com"]);
    assert_eq!(read.not_after, written.not_after);
    assert_eq!(read.certificate, written.certificate);
    assert_eq!(read.private, written.private);
}

#[test]
fn the_vector_of_another_implementation_is_not_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ca");
    write(&path, SEALED);
    assert_same(&CaKeyFile::load(&path, &typed(PASSPHRASE)).unwrap());
    let public = CaKeyFile::load_public(&path).unwrap();
    assert_eq!(public.certificate, key().certificate);
    assert_eq!(public.hosts, [".openai.azure.com", "api.openai.com"]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let open = CaKeyFile::load_public(&path).unwrap_err();
    assert_eq!(open.kind(), ErrorKind::Key, "others may read it");
}

#[test]
fn what_was_written_is_read_differently() {
    let folder = TempDir::new().unwrap();
    let sealing = Passphrase::new(b"a long enough passphrase".to_vec()).unwrap();
    for protection in [
        Protection::None,
        Protection::Passphrase(&sealing, KdfCost::MIN),
    ] {
        let sealed = matches!(protection, Protection::Passphrase(..));
        let path = folder.path().join(format!("ca-{sealed}"));
        CaKeyFile::create(&path, &key(), &protection, &System).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.contains("3081bb"),
            !sealed,
            "the key stands in the clear, or unsealed it isn't there"
        );
        let source = if sealed {
            typed("a long enough passphrase")
        } else {
            unasked()
        };
        assert_same(&CaKeyFile::load(&path, &source).unwrap());
        let again = CaKeyFile::create(&path, &key(), &protection, &System).unwrap_err();
        assert_eq!(
            again.kind(),
            ErrorKind::Invalid,
            "an authority was overwritten"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let open = CaKeyFile::load(&path, &source).unwrap_err();
        assert_eq!(open.kind(), ErrorKind::Key, "others may read it");
    }
}

/// Whoever can write the file could otherwise widen what the authority may issue, and keep its sealed key.
#[test]
fn a_member_that_was_changed_still_opens() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ca");
    for (from, to) in [
        (".openai.azure.com", ".openai.azure.con"),
        ("api.openai.com", "api.openai.org"),
        ("Local CA", "Local CB"),
        ("2028-01-02", "2029-01-02"),
        ("3082aa", "3082ab"),
        ("log.example", "log.exampla"),
    ] {
        write(&path, &SEALED.replace(from, to));
        let error = CaKeyFile::load(&path, &typed(PASSPHRASE)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key, "{from}");
        assert!(
            error.to_string().contains("doesn't open"),
            "{from}: {error}"
        );
    }
    write(&path, SEALED);
    let wrong = CaKeyFile::load(&path, &typed("another passphrase")).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Key);
}

#[test]
fn a_file_that_breaks_a_rule_is_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ca");
    let good = folder.path().join("good");
    CaKeyFile::create(&good, &key(), &Protection::None, &System).unwrap();
    let good = fs::read_to_string(good).unwrap();
    for (from, to) in [
        (r#"[".openai.azure.com","api.openai.com"]"#, "[]"),
        (
            r#"[".openai.azure.com","api.openai.com"]"#,
            r#"["b.org","a.org"]"#,
        ),
        (
            r#"[".openai.azure.com","api.openai.com"]"#,
            r#"["a.org","a.org"]"#,
        ),
        (r#"[".openai.azure.com","api.openai.com"]"#, r#"["a/b"]"#),
        (r#""name":"Local CA""#, r#""name":"""#),
        (r#""v":1"#, r#""v":2"#),
        (r#""kind":"intercept-ca""#, r#""kind":"auditor-public""#),
        (r#""private":"3081bb""#, r#""private":"3081b""#),
        (r#""private":"3081bb""#, r#""private":"""#),
        (r#""certificate":"3082aa""#, r#""certificate":"""#),
        ("2028-01-02T", "2028-13-02T"),
        ("}", ",\"x\":1}"),
        ("}", "}\n"),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from} isn't there");
        write(&path, &text);
        let error = CaKeyFile::load(&path, &unasked()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key, "{from} → {to}");
        assert!(
            !with_causes(&error).contains("3081b"),
            "an error shows the key: {error}"
        );
    }
    assert!(
        !format!("{:?}", key()).contains("187"),
        "debug output shows the key"
    );
}
