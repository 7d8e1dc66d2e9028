//! The program `audit-verify`.

use std::path::Path;
use std::process::{Command, Output};

use audit_core::keyring::{AuditorKeyFile, Protection};
use audit_core::time::System;
use audit_tlog::checkpoint::{self, Checkpoint};
use audit_tlog::proof::inclusion_proof;
use audit_tlog::tile::{Tile, TileId, TileMap};
use audit_tlog::tlog_proof::TlogProof;
use audit_verify::bundle::export;

use crate::world::{other, small};

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_audit-verify"))
        .args(args)
        .current_dir(dir)
        .env_clear()
        .output()
        .unwrap()
}

fn code(out: &Output) -> i32 {
    out.status.code().unwrap()
}

#[test]
fn the_exit_code_is_the_verdict() {
    let world = small();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    export(
        &world.log,
        std::fs::File::create(at("log.bundle")).unwrap(),
        true,
    )
    .unwrap();
    std::fs::write(at("vkey"), format!("{}\n", world.ring.vkey())).unwrap();
    std::fs::write(at("kept"), world.log.last_checkpoint()).unwrap();
    AuditorKeyFile::write_private(&at("auditor"), &world.auditor, &Protection::None, &System)
        .unwrap();
    let vkey = world.ring.vkey().to_string();
    let opened = world.log.opened().to_string();

    let out = run(dir.path(), &["log", "log.bundle", "--vkey", &vkey]);
    assert_eq!(code(&out), 0, "{}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stderr.is_empty());
    assert!(String::from_utf8(out.stdout).unwrap().starts_with("HELD"));
    let all = [
        "log",
        "log.bundle",
        "--vkey",
        "@vkey",
        "--auditor-key",
        "auditor",
        "--checkpoint",
        "kept",
        "--gap-max",
        "1h",
        "--fresh-within",
        "1d",
        "--unpublished-max",
        "1m",
        "--opened",
        &opened,
        "--full",
        "--json",
    ];
    let out = run(dir.path(), &all);
    assert_eq!(code(&out), 0, "{}", String::from_utf8_lossy(&out.stderr));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["exit"], 0);

    let other = other().ring.vkey().to_string();
    assert_eq!(
        code(&run(dir.path(), &["log", "log.bundle", "--vkey", &other])),
        2
    );
    let mut bytes = std::fs::read(at("log.bundle")).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(at("changed"), bytes).unwrap();
    assert_eq!(
        code(&run(dir.path(), &["log", "changed", "--vkey", &vkey])),
        1
    );
    let foreign = world.log.root(3).to_string();
    let args = ["log", "log.bundle", "--vkey", &vkey, "--opened", &foreign];
    assert_eq!(code(&run(dir.path(), &args)), 1);
    for wrong in [
        &["log", "log.bundle", "--vkey", &vkey, "--opened", "abc"][..],
        &["log", "log.bundle"],
        &["log", "nothing", "--vkey", &vkey],
        &["log", "log.bundle", "--vkey", "nonsense"],
        &["log", "log.bundle", "--vkey", &vkey, "--gap-max", "5"],
        &["what"],
        &[],
    ] {
        let out = run(dir.path(), wrong);
        assert_eq!(code(&out), 2, "{wrong:?}");
        assert!(out.stdout.is_empty() && !out.stderr.is_empty(), "{wrong:?}");
    }
}

#[test]
fn a_proof_holds_for_its_entry_alone() {
    let world = small();
    let dir = tempfile::tempdir().unwrap();
    let tiles: TileMap = world
        .log
        .tiles
        .iter()
        .map(|((level, index), hashes)| Tile {
            id: TileId::new(*level, *index, u16::try_from(hashes.len()).unwrap()).unwrap(),
            hashes: hashes.clone(),
        })
        .collect();
    let proof = TlogProof {
        extra: None,
        index: 4,
        hashes: inclusion_proof(4, world.log.size, &tiles).unwrap(),
        checkpoint: String::from_utf8(world.log.last_checkpoint()).unwrap(),
    };
    std::fs::write(dir.path().join("proof"), proof.to_string()).unwrap();
    std::fs::write(dir.path().join("four"), &world.log.rows[4].entry).unwrap();
    std::fs::write(dir.path().join("five"), &world.log.rows[5].entry).unwrap();
    let vkey = world.ring.vkey().to_string();
    assert_eq!(
        code(&run(
            dir.path(),
            &["proof", "proof", "--entry", "four", "--vkey", &vkey]
        )),
        0
    );
    assert_eq!(
        code(&run(
            dir.path(),
            &["proof", "proof", "--entry", "five", "--vkey", &vkey]
        )),
        1
    );
    let checkpoint = Checkpoint {
        origin: world.ring.origin().to_owned(),
        size: world.log.size,
        root: world.log.root(world.log.rows.len()),
        extensions: vec!["more".into()],
    };
    let extended = TlogProof {
        checkpoint: checkpoint::sign(&checkpoint, &[&world.ring.checkpoint_signer()]).unwrap(),
        ..proof
    };
    std::fs::write(dir.path().join("extended"), extended.to_string()).unwrap();
    let args = ["proof", "extended", "--entry", "four", "--vkey", &vkey];
    assert_eq!(code(&run(dir.path(), &args)), 1);
    let other = other().ring.vkey().to_string();
    assert_eq!(
        code(&run(
            dir.path(),
            &["proof", "proof", "--entry", "four", "--vkey", &other]
        )),
        2
    );
}

#[test]
fn a_key_pair_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let out = run(dir.path(), &["keygen", "private", "public"]);
    assert_eq!(code(&out), 2, "without a passphrase nothing is written");
    assert!(String::from_utf8(out.stderr).unwrap().contains("hint: "));
    assert!(!dir.path().join("private").exists());
    let args = ["keygen", "private", "public", "--no-passphrase"];
    assert_eq!(code(&run(dir.path(), &args)), 0);
    AuditorKeyFile::load_public(&dir.path().join("public")).unwrap();
    assert_eq!(
        code(&run(dir.path(), &args)),
        2,
        "a key is never overwritten"
    );
}
