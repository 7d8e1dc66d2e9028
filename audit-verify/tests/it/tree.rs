//! What the verifier is linked with.

use std::process::Command;

#[test]
fn no_network_no_async_and_no_database_is_in_the_tree() {
    let out = Command::new(env!("CARGO"))
        .args([
            "tree",
            "-p",
            "audit-verify",
            "-e",
            "normal,build",
            "--prefix",
            "none",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let tree = String::from_utf8(out.stdout).unwrap();
    let names: Vec<&str> = tree
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert!(
        names.contains(&"audit-core") && names.contains(&"rs_merkle"),
        "{tree}"
    );
    for banned in [
        "tokio",
        "async-trait",
        "async-std",
        "smol",
        "futures",
        "futures-util",
        "mio",
        "socket2",
        "hyper",
        "http",
        "reqwest",
        "ureq",
        "curl",
        "rustls",
        "native-tls",
        "openssl",
        "ring",
        "aws-lc-rs",
        "rusqlite",
        "libsqlite3-sys",
        "sqlx",
        "sqlx-core",
        "postgres",
        "object_store",
        "clap",
    ] {
        assert!(
            !names.contains(&banned),
            "{banned} is in the verifier's tree:\n{tree}"
        );
    }
}
