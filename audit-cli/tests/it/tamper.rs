//! What somebody with `sqlite3` and no key can do to a log, and that `verify` says so, with the first bad index. The whole
//! matrix of changes runs in the store's own tests; here is what the command adds: exit codes, the state file, its settings.

use std::fs;
use std::path::PathBuf;

use audit_tlog::checkpoint::{self, Checkpoint};
use audit_tlog::note::{Ed25519Signer, NoteSigner as _, VerifierKey};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::{Host, ORIGIN, Run, packing};

/// Events of the first and larger run: more than one tile.
const EVENTS: u64 = 270;
/// Behind them, with the entries that open and close runs; where the older copy ends.
const OLD_SIZE: u64 = EVENTS + 4;
/// An opening, one event and a closing more.
const SIZE: u64 = OLD_SIZE + 3;

/// A log that was built once, to be copied for each change, and what it was before its last run.
struct Original {
    host: Host,
    old: PathBuf,
}

impl Original {
    fn new() -> Self {
        let host = Host::with_log();
        let events: Vec<Value> = (0..EVENTS)
            .map(|n| {
                json!({
                    "kind": if n % 2 == 0 { "tool.call" } else { "tool.cell" },
                    "session_id": format!("session {}", n % 7),
                    "subject": format!("subject {}", n % 5),
                    "attributes": {"n": n},
                    "payloads": [{"name": "note", "text": format!("note {n}")}],
                })
            })
            .collect();
        let answers = host.emit_all(&events);
        assert_eq!(answers[0]["index"], 3);
        let old = host.path("old.db");
        fs::copy(host.db(), &old).unwrap();
        host.run(["emit", "approval.granted", "--actor", "nurse"])
            .exits(0);
        let (run, verdict) = host.verdict(&[]);
        run.exits(0);
        assert_eq!(verdict["size"], SIZE);
        Self { host, old }
    }

    /// Changes a copy and verifies it.
    fn verify_changed(
        &self,
        from: &std::path::Path,
        change: impl FnOnce(&Connection),
        args: &[&str],
    ) -> (Run, Value) {
        let copy = self.host.path("copy.db");
        drop(fs::remove_file(&copy));
        fs::copy(from, &copy).unwrap();
        let db = Connection::open(&copy).unwrap();
        // Whoever tampers isn't held up by constraints.
        db.pragma_update(None, "foreign_keys", false).unwrap();
        db.pragma_update(None, "ignore_check_constraints", true)
            .unwrap();
        packing(&db);
        change(&db);
        db.close().unwrap();
        let store = format!("sqlite:{}", copy.display());
        let mut all = vec!["--store", &store];
        all.extend_from_slice(args);
        self.host.verdict(&all)
    }
}

/// A check that must have failed, and its first bad index.
type Found = (&'static str, Option<u64>);

/// A change, and what must be found: at least these, and nothing at a lower index.
struct Case {
    name: &'static str,
    sql: &'static str,
    found: &'static [Found],
}

/// Runs every case, and only then fails, with all that went wrong.
fn all_are_found(cases: &[Case]) {
    let original = Original::new();
    let mut wrong = Vec::new();
    for case in cases {
        let (run, verdict) = original.verify_changed(
            &original.host.db(),
            |db| {
                db.execute_batch(case.sql)
                    .unwrap_or_else(|e| panic!("{}: {e}", case.name));
                assert!(db.total_changes() > 0, "{}: changes nothing", case.name);
            },
            &[],
        );
        let code = run.status.code();
        let found = failed(&verdict);
        let named = case
            .found
            .iter()
            .all(|(check, index)| found.contains(&((*check).to_owned(), *index)));
        // What follows from the change may be found as well, but nothing before it.
        let first = |indexes: &mut dyn Iterator<Item = Option<u64>>| indexes.flatten().min();
        let wanted = first(&mut case.found.iter().map(|(_, index)| *index));
        let first = first(&mut found.iter().map(|(_, index)| *index));
        if code != Some(1) || verdict["exit"] != 1 || !named || first != wanted {
            wrong.push(format!(
                "{}: exit code {code:?}, found {found:?}, not {:?}\n{}{}",
                case.name, case.found, verdict["findings"], run.err
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The checks that failed, each with its first bad index.
fn failed(verdict: &Value) -> Vec<(String, Option<u64>)> {
    verdict["checks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|check| check["result"] == "failed")
        .map(|check| {
            (
                check["check"].as_str().unwrap().to_owned(),
                check["first_index"].as_u64(),
            )
        })
        .collect()
}

/// One change of each table: that the rest is found as well is for the store's own matrix to show.
#[test]
fn a_change_of_any_table_fails_the_command_with_its_first_bad_index() {
    all_are_found(&[
        Case {
            name: "an entry",
            sql: "UPDATE entry SET kind = 'tool.kall', entry =
                  packed(replace(unpacked(entry), 'tool.call', 'tool.kall')) WHERE idx = 101",
            found: &[
                ("tiles", Some(101)),
                ("root", Some(101)),
                ("remembered", Some(101)),
            ],
        },
        Case {
            name: "an entry deleted in the middle",
            sql: "DELETE FROM entry WHERE idx = 101",
            found: &[("index", Some(101))],
        },
        Case {
            name: "the last three entries deleted, the tiles cut, later checkpoints deleted",
            sql: "DELETE FROM token WHERE idx >= 274; DELETE FROM entry WHERE idx >= 274;
                  UPDATE tile SET hashes = substr(hashes, 1, 18 * 32) WHERE level = 0 AND idx = 1;
                  DELETE FROM checkpoint WHERE size > 274",
            found: &[("remembered", Some(274))],
        },
        Case {
            name: "the token rows of an entry dropped",
            sql: "DELETE FROM token WHERE idx = 101",
            found: &[("token_rows", Some(101))],
        },
        Case {
            name: "a wrapped data key dropped",
            sql: "DELETE FROM data_key WHERE run = (SELECT max(run) FROM data_key)",
            found: &[("keys", Some(275))],
        },
        Case {
            name: "a leaf hash in the partial tile changed",
            sql: "UPDATE tile SET hashes = CAST(substr(hashes, 1, 4 * 32) || randomblob(32) ||
                  substr(hashes, 5 * 32 + 1) AS BLOB) WHERE level = 0 AND idx = 1",
            found: &[("tiles", Some(260))],
        },
        Case {
            name: "a checkpoint kept for another size",
            sql: "UPDATE checkpoint SET size = 200 WHERE size = 274",
            found: &[("checkpoints", None)],
        },
        Case {
            name: "another origin",
            sql: "UPDATE meta SET value = 'log.example/ward-8' WHERE name = 'origin'",
            found: &[("identity", None)],
        },
        Case {
            name: "an entry before the first",
            sql: "INSERT INTO entry SELECT -1, randomblob(16), kind, time, entry, token_salt, tokens, parts
                  FROM entry WHERE idx = 101",
            found: &[("engine", None)],
        },
    ]);
}

/// How `check` ended, and its reasons for not being done.
fn check<'a>(verdict: &'a Value, name: &str) -> &'a Value {
    verdict["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["check"] == name)
        .unwrap()
}

#[test]
fn a_store_that_was_rolled_back_is_found_and_not_written_to() {
    let original = Original::new();
    let host = &original.host;
    let kept = host.run(["checkpoint"]).exits(0).out;
    fs::write(host.path("kept.checkpoint"), kept).unwrap();

    // The publisher's memory is enough.
    let (run, verdict) = original.verify_changed(&original.old, |_| {}, &[]);
    run.exits(1);
    assert_eq!(
        failed(&verdict),
        [("remembered".to_owned(), Some(OLD_SIZE))]
    );
    assert_eq!(verdict["findings"][0]["index"], OLD_SIZE);

    // Without it, everything in the old copy holds, and the verdict says what it didn't check.
    let nowhere = ["--state-dir", "nowhere"];
    let (run, verdict) = original.verify_changed(&original.old, |_| {}, &nowhere);
    run.exits(0);
    assert_eq!(verdict["size"], OLD_SIZE);
    let remembered = check(&verdict, "remembered");
    assert_eq!(remembered["result"], "not_checked");
    assert_eq!(remembered["population"], 0);
    let text = host
        .run([
            "--state-dir",
            "nowhere",
            "--store",
            "sqlite:copy.db",
            "verify",
        ])
        .exits(0)
        .text();
    assert!(text.contains("rollback"), "{text}");

    // A checkpoint that was carried away does as well.
    let (run, verdict) = original.verify_changed(
        &original.old,
        |_| {},
        &[&nowhere[..], &["--checkpoint", "kept.checkpoint"]].concat(),
    );
    run.exits(1);
    assert_eq!(
        failed(&verdict),
        [("remembered".to_owned(), Some(OLD_SIZE))]
    );

    // And nothing is signed on top of it.
    fs::copy(&original.old, host.db()).unwrap();
    host.run(["emit", "tool.call"])
        .fails(1, "")
        .hints("restore the newest copy");
    host.run(["serve", "--listen", "127.0.0.1:0"])
        .fails(1, "")
        .hints("restore the newest copy");
    let doctor = host.run(["doctor"]).exits(1).text();
    assert!(doctor.contains("FAIL  state"), "{doctor}");
}

#[test]
fn a_log_that_went_on_differently_after_a_restore_is_found() {
    let original = Original::new();
    let host = &original.host;
    // The old copy, a host without memory, other events: another history from there on, signed by the same key.
    let fork = host.path("fork.db");
    fs::copy(&original.old, &fork).unwrap();
    host.run([
        "--store",
        "sqlite:fork.db",
        "--state-dir",
        "elsewhere",
        "emit",
        "approval.refused",
        "--actor",
        "nurse",
    ])
    .exits(0);
    let (run, verdict) = original.verify_changed(&fork, |_| {}, &[]);
    run.exits(1);
    // Sizes are equal, every signature is right; which of the entries is the first one, nobody can say from roots.
    assert_eq!(verdict["size"], SIZE);
    let found = failed(&verdict);
    assert_eq!(found.len(), 1, "{verdict}");
    assert_eq!(found[0].0, "remembered");
}

#[test]
fn no_key_is_taken_from_what_is_verified() {
    let original = Original::new();
    let host = &original.host;
    let attacker = Ed25519Signer::from_seed(ORIGIN, &[7; 32]).unwrap();
    let attackers = attacker.verifier_key().to_string();
    let resign = |db: &Connection| {
        let all: Vec<(i64, Vec<u8>)> = db
            .prepare("SELECT size, note FROM checkpoint")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for (size, note) in all {
            let (checkpoint, _) = checkpoint::open(&note, ORIGIN, &host.vkey()).unwrap();
            let note = checkpoint::sign(&checkpoint, &[&attacker]).unwrap();
            db.execute(
                "UPDATE checkpoint SET note = ?2 WHERE size = ?1",
                (size, note.as_bytes()),
            )
            .unwrap();
        }
    };
    // The attacker signs every checkpoint anew. The first entry says whose log it is, and whose key is missing.
    for nowhere in [&[][..], &["--state-dir", "nowhere"]] {
        let (run, verdict) = original.verify_changed(&host.db(), resign, nowhere);
        run.exits(1);
        assert!(
            failed(&verdict).contains(&("checkpoints".to_owned(), None)),
            "{verdict}"
        );
    }
    // He also gets his key to the verifier: then the first entry contradicts it.
    let (run, verdict) = original.verify_changed(
        &host.db(),
        resign,
        &["--state-dir", "nowhere", "--vkey", &attackers],
    );
    run.exits(1);
    assert!(
        failed(&verdict).contains(&("identity".to_owned(), Some(0))),
        "{verdict}"
    );
    // One checkpoint for a tree that he made up, under the log's name.
    let forged = |db: &Connection| {
        let checkpoint = Checkpoint {
            origin: ORIGIN.to_owned(),
            size: SIZE - 1,
            root: audit_tlog::Hash::from_bytes([1; 32]),
            extensions: Vec::new(),
        };
        let note = checkpoint::sign(&checkpoint, &[&attacker]).unwrap();
        db.execute(
            "INSERT INTO checkpoint VALUES (?1, ?2)",
            (SIZE.cast_signed() - 1, note.as_bytes()),
        )
        .unwrap();
    };
    let (run, verdict) = original.verify_changed(&host.db(), forged, &[]);
    run.exits(1);
    assert_eq!(failed(&verdict), [("checkpoints".to_owned(), None)]);

    // The key of a log that has nothing to do with this one decides nothing.
    let other: VerifierKey = Ed25519Signer::from_seed("log.example/other", &[8; 32])
        .unwrap()
        .verifier_key()
        .clone();
    for vkey in [attackers, other.to_string()] {
        let (run, verdict) = host.verdict(&["--vkey", &vkey]);
        run.exits(2);
        assert_eq!(verdict["outcome"], "undecided");
        assert_eq!(verdict["checkpoint"], Value::Null);
        assert_eq!(verdict["findings_total"], 0);
        assert_ne!(verdict["undecided"], json!([]));
    }
    // The same when it stands in the configuration.
    let config = host.path("audit-trail.toml");
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace(&host.vkey().to_string(), &other.to_string());
    fs::write(&config, text).unwrap();
    host.verdict(&[]).0.exits(2);
    let doctor = host.run(["doctor"]).exits(1).text();
    assert!(doctor.contains("FAIL  public key"), "{doctor}");
}

#[test]
fn a_log_without_checkpoints_is_undecided() {
    let original = Original::new();
    let drop_all = |db: &Connection| {
        db.execute("DELETE FROM checkpoint", []).unwrap();
    };
    let nowhere = ["--state-dir", "nowhere"];
    let (run, verdict) = original.verify_changed(&original.host.db(), drop_all, &nowhere);
    run.exits(2);
    assert_eq!(verdict["outcome"], "undecided");
    assert_eq!(verdict["checkpoint"], Value::Null);
    assert_eq!(verdict["unpublished"], SIZE);
    // The remembered one commits to every entry: what is missing is not needed, and the verdict says which it used.
    let (run, verdict) = original.verify_changed(&original.host.db(), drop_all, &[]);
    run.exits(0);
    assert_eq!(verdict["checkpoint"]["remembered"], true);
    assert_eq!(check(&verdict, "checkpoints")["result"], "empty");
}

#[test]
fn what_is_no_store_of_ours_gets_no_verdict() {
    let original = Original::new();
    let host = &original.host;
    let refused = |what: &str, change: &dyn Fn(&Connection)| {
        let (run, verdict) = original.verify_changed(&host.db(), change, &[]);
        let run = run.fails(2, "");
        assert_eq!(verdict, Value::Null, "{what}: {}", run.err);
    };
    refused("a later layout", &|db| {
        db.pragma_update(None, "user_version", 3).unwrap();
    });
    refused("an earlier layout", &|db| {
        db.pragma_update(None, "user_version", 0).unwrap();
    });
    refused("another program's file", &|db| {
        db.pragma_update(None, "application_id", 1).unwrap();
    });
    refused("a trigger that could lie", &|db| {
        db.execute_batch(
            "CREATE TRIGGER forget AFTER INSERT ON entry BEGIN DELETE FROM token; END",
        )
        .unwrap();
    });
    refused("a further table", &|db| {
        db.execute_batch("CREATE TABLE more (x)").unwrap();
    });
    for (name, bytes) in [("text", &b"no store"[..]), ("empty", b"")] {
        fs::write(host.path(name), bytes).unwrap();
        let store = format!("sqlite:{name}");
        host.run(["--store", &store, "verify", "--json"])
            .fails(2, "store");
    }
    fs::create_dir(host.path("folder")).unwrap();
    for store in ["sqlite:folder", "sqlite:missing.db"] {
        host.run(["--store", store, "verify", "--json"])
            .fails(2, "store");
    }
    // A file that was cut in the middle is ours, and damaged.
    let bytes = fs::read(host.db()).unwrap();
    fs::write(host.path("cut.db"), &bytes[..bytes.len() / 2]).unwrap();
    let cut = host.run(["--store", "sqlite:cut.db", "verify", "--json"]);
    assert!(
        matches!(cut.status.code(), Some(1 | 2)),
        "a damaged file passes: {}",
        cut.text()
    );
}

#[test]
fn a_manipulated_event_is_shown_with_a_wrong_proof() {
    let host = Host::with_log();
    host.run(["emit", "approval.granted", "--actor", "nurse"])
        .exits(0);
    let db = Connection::open(host.db()).unwrap();
    packing(&db);
    db.execute(
        "UPDATE entry SET kind = 'approval.refused', entry =
         packed(replace(unpacked(entry), 'approval.granted', 'approval.refused')) WHERE idx = 3",
        [],
    )
    .unwrap();
    db.close().unwrap();
    let shown = host.run(["show", "3"]).exits(0).json();
    assert_eq!(shown["proof"]["state"], "wrong", "{shown}");
    host.run(["prove", "3"]).fails(1, "");
    let text = host.run(["verify"]).exits(1).text();
    assert!(text.starts_with("CONTRADICTED"), "{text}");
    assert!(text.contains("at index 3"), "{text}");
    // Nobody has to read the verdict to be told.
    let mut verify = host.command(["verify"]).spawn().unwrap();
    drop(verify.stdout.take());
    let output = verify.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
