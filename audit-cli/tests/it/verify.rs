//! `verify`, `doctor`, `config` and `completions`, and that no command says a secret.

use std::fs;

use audit_tlog::note::{Ed25519Signer, NoteSigner as _};
use serde_json::{Value, json};

use crate::support::{Host, ORIGIN, PASSPHRASE, Run, chmod};

const AUDITOR: [&str; 2] = ["--auditor-key", "audit-trail-auditor.key"];

fn with_events() -> Host {
    let host = Host::with_log();
    host.emit_all(&[
        json!({"kind": "tool.call", "session_id": "s-1", "payloads": [{"name": "note", "text": "words"}]}),
        json!({"kind": "tool.result", "session_id": "s-1", "subject": "p-17"}),
    ]);
    host
}

/// The names of the checks by how they ended.
fn ended(verdict: &Value, result: &str) -> Vec<String> {
    let checks = verdict["checks"].as_array().unwrap().iter();
    checks
        .filter(|c| c["result"] == result)
        .map(|c| c["check"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn verify_says_what_it_was_not_given_and_did_not_check() {
    let host = with_events();
    let (run, plain) = host.verdict(&[]);
    run.exits(0);
    assert_eq!(plain["outcome"], "held");
    let not_checked = ["second_root", "mac", "content", "gaps", "fresh"];
    for check in not_checked {
        assert!(
            ended(&plain, "not_checked").contains(&check.to_owned()),
            "{check}"
        );
    }
    assert_eq!(ended(&plain, "failed"), [""; 0]);
    assert_eq!(ended(&plain, "empty"), [""; 0]);

    let everything = [
        &AUDITOR[..],
        &[
            "--content",
            "--full",
            "--gap-max",
            "1d",
            "--fresh-within",
            "1d",
        ],
    ]
    .concat();
    let (run, full) = host.verdict(&everything);
    run.exits(0);
    assert_eq!(ended(&full, "not_checked"), [""; 0]);
    assert_eq!(
        ended(&full, "held").len(),
        full["checks"].as_array().unwrap().len()
    );

    // The text says the same.
    let text = host.run(["verify"]).exits(0).text();
    assert!(text.starts_with("HELD"), "{text}");
    let (checked, rest) = text.split_once("\nnot checked\n").unwrap();
    for check in not_checked {
        assert!(!checked.contains(&format!("\n  {check} ")), "{text}");
        assert!(rest.contains(&format!("  {check:<12} ")), "{text}");
    }
}

/// `docs/verdict.md` §4.
#[test]
fn the_json_of_a_verdict_is_as_documented() {
    let host = with_events();
    let (run, verdict) = host.verdict(&AUDITOR);
    let run = run.exits(0);
    assert_eq!(run.err, "", "nobody watches");
    assert_eq!(run.text().lines().count(), 1);
    let members =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(
        members(&verdict),
        [
            "checkpoint",
            "checks",
            "counts",
            "exit",
            "findings",
            "findings_total",
            "notices",
            "open_runs",
            "open_runs_total",
            "origin",
            "outcome",
            "retention_lock",
            "schema",
            "size",
            "undecided",
            "unpublished",
            "vkey",
        ]
    );
    assert_eq!(
        members(&verdict["checkpoint"]),
        ["origin", "remembered", "root", "size"]
    );
    assert_eq!(
        members(&verdict["checks"][0]),
        [
            "check",
            "findings",
            "first_index",
            "not_checked",
            "population",
            "result",
            "unit"
        ]
    );
    assert_eq!(
        members(&verdict["counts"]),
        [
            "checkpoints",
            "entries",
            "epochs_closed",
            "erased",
            "keys",
            "keys_destroyed",
            "parts",
            "parts_bytes",
            "runs",
            "tiles",
            "token_rows",
        ]
    );
    let documented = include_str!("../../../docs/verdict.md");
    let (_, table) = documented.split_once("## 2. The checks").unwrap();
    let (table, _) = table.split_once("## 3.").unwrap();
    let order: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let checks: Vec<&Value> = verdict["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["check"])
        .collect();
    assert_eq!(checks, order.iter().collect::<Vec<_>>());
    for (member, value) in [
        ("schema", json!("audit-trail-verdict/1")),
        ("exit", json!(0)),
        ("outcome", json!("held")),
        ("origin", json!(ORIGIN)),
        ("vkey", json!(host.vkey().to_string())),
        ("size", json!(6)),
        ("unpublished", json!(0)),
        ("findings", json!([])),
        ("findings_total", json!(0)),
        ("undecided", json!([])),
        ("open_runs", json!([])),
    ] {
        assert_eq!(verdict[member], value, "{member}");
    }
    // The same verdict gives the same bytes.
    assert_eq!(host.verdict(&AUDITOR).0.out, run.out);
}

#[test]
fn a_limit_on_time_that_is_exceeded_fails() {
    let host = with_events();
    for (args, check) in [
        (&["--gap-max", "0s"][..], "gaps"),
        (&["--fresh-within", "0s"], "fresh"),
    ] {
        let (run, verdict) = host.verdict(args);
        run.exits(1);
        assert_eq!(ended(&verdict, "failed"), [check]);
        assert!(verdict["findings"][0]["index"].is_u64(), "{verdict}");
    }
    host.run(["verify", "--gap-max", "1d", "--fresh-within", "7d"])
        .exits(0);
    for bad in ["soon", "5", "-5s", "1w", "", "99999999999999999999d"] {
        for flag in ["--gap-max", "--fresh-within"] {
            host.run(["verify", &format!("{flag}={bad}")])
                .fails(2, "duration");
        }
    }
}

#[test]
fn verify_decides_nothing_without_what_it_needs() {
    let host = with_events();
    let other = Host::with_log();
    for name in ["audit-trail.key", "audit-trail-auditor.key"] {
        fs::copy(other.path(name), host.path(&format!("other-{name}"))).unwrap();
    }
    fs::write(host.path("garbage"), "garbage").unwrap();
    for (args, why) in [
        (&["--vkey", "garbage"][..], "--vkey"),
        (&["--vkey", "@garbage"], "garbage"),
        (&["--vkey", "@missing"], "missing"),
        (&["--auditor-key", "missing"], "missing"),
        (&["--auditor-key", "audit-trail.key"], "audit-trail.key"),
        (&["--content", "--key", "file:missing"], "missing"),
        (&["--content", "--key", "file:garbage"], "garbage"),
        (&["--checkpoint", "missing"], "missing"),
        (&["--store", "sqlite:missing"], "missing"),
        (&["--store", "sqlite:garbage"], "garbage"),
        (&["--config", "missing"], "missing"),
        (&["--config", "garbage"], "garbage"),
    ] {
        host.run(["verify"].iter().chain(args)).fails(2, why);
    }
    for args in [
        &["--checkpoint", "garbage"][..],
        &["--content", "--key", "file:other-audit-trail.key"],
    ] {
        let (run, verdict) = host.verdict(args);
        run.exits(2);
        assert_eq!(verdict["outcome"], "undecided", "{args:?}");
        assert_ne!(verdict["undecided"], json!([]), "{args:?}");
    }
    // The only auditor key that the log registers is another one: its sealed keys should have opened.
    let (run, verdict) = host.verdict(&["--auditor-key", "other-audit-trail-auditor.key"]);
    assert!(
        matches!(run.status.code(), Some(1 | 2)),
        "another auditor's key opens the runs"
    );
    assert_ne!(verdict["outcome"], "held");
    assert!(!ended(&verdict, "held").contains(&"mac".to_owned()));

    let nothing = Host::new();
    nothing
        .run(["verify"])
        .fails(2, "public key")
        .hints("--vkey");
    let vkey = host.vkey().to_string();
    nothing
        .run(["verify", "--vkey", &vkey])
        .fails(2, "no store")
        .hints("--store");
    // With store and public key alone, as an auditor has them.
    let store = format!("sqlite:{}", host.db().display());
    fs::write(nothing.path("vkey"), format!("{vkey}\n")).unwrap();
    let (run, verdict) = nothing.verdict(&["--store", &store, "--vkey", "@vkey"]);
    run.exits(0);
    assert!(ended(&verdict, "not_checked").contains(&"remembered".to_owned()));
}

#[test]
fn a_log_that_nobody_may_write_can_be_verified() {
    let host = with_events();
    let copy = Host::new();
    fs::copy(host.db(), copy.db()).unwrap();
    chmod(&copy.db(), 0o400);
    chmod(&copy.work(), 0o500);
    let vkey = host.vkey().to_string();
    let run = copy.run([
        "--store",
        "sqlite:audit-trail.db",
        "verify",
        "--vkey",
        &vkey,
    ]);
    let left = crate::support::names(&copy.work());
    chmod(&copy.work(), 0o700);
    run.exits(0);
    assert_eq!(left, ["audit-trail.db"], "reading made files");
}

#[test]
fn doctor_says_what_is_wrong() {
    let host = with_events();
    let doctor = |code: i32, says: &[&str]| {
        let run = host.run(["doctor"]).exits(code);
        for text in says {
            assert!(run.text().contains(text), "{text}: {}", run.text());
        }
        run
    };
    let healthy = doctor(
        0,
        &[
            "ok    keys",
            "ok    store",
            "ok    public key",
            "ok    state",
            "ok    clock",
        ],
    );
    assert!(!healthy.text().contains("FAIL"), "{}", healthy.text());
    assert!(healthy.err.contains("0 failed"), "{}", healthy.err);
    assert!(
        healthy.text().contains("warn  auditor key"),
        "{}",
        healthy.text()
    );
    fs::remove_file(host.path("audit-trail-auditor.key")).unwrap();
    let carried_away = doctor(0, &[]);
    assert!(
        !carried_away.text().contains("auditor key"),
        "{}",
        carried_away.text()
    );

    let key = host.path("audit-trail.key");
    chmod(&key, 0o644);
    doctor(1, &["FAIL  keys", "mode 0644", "hint:"]);
    chmod(&key, 0o600);
    chmod(&host.db(), 0o644);
    doctor(0, &["warn  permissions", "chmod 600"]);
    chmod(&host.db(), 0o600);
    fs::rename(&key, host.path("away")).unwrap();
    doctor(1, &["FAIL  keys", "isn't there"]);
    fs::rename(host.path("away"), &key).unwrap();

    let config = host.path("audit-trail.toml");
    let text = fs::read_to_string(&config).unwrap();
    let other = Ed25519Signer::from_seed(ORIGIN, &[7; 32]).unwrap();
    let swapped = text.replace(&host.vkey().to_string(), &other.verifier_key().to_string());
    fs::write(&config, swapped).unwrap();
    doctor(1, &["FAIL  public key", "swapped"]);
    let without: Vec<&str> = text.lines().filter(|l| !l.starts_with("vkey")).collect();
    fs::write(&config, without.join("\n")).unwrap();
    doctor(0, &["warn  public key"]);
    fs::write(&config, &text).unwrap();

    let old = fs::read(host.db()).unwrap();
    host.run(["emit", "tool.call"]).exits(0);
    let new = fs::read(host.db()).unwrap();
    fs::write(host.db(), old).unwrap();
    doctor(1, &["FAIL  state", "hint:"]);
    fs::write(host.db(), "no store").unwrap();
    doctor(1, &["FAIL  store"]);
    fs::write(host.db(), new).unwrap();
    let memory = host.state_file();
    fs::rename(&memory, host.path("memory")).unwrap();
    doctor(0, &["warn  state", "rollback is not checked"]);
    fs::rename(host.path("memory"), &memory).unwrap();
    doctor(0, &["ok    state"]);

    let nothing = Host::new();
    let run = nothing.run(["doctor"]).exits(1);
    assert!(run.text().contains("audit-trail init"), "{}", run.text());
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let host = Host::new();
    fs::write(
        host.path("audit-trail.toml"),
        "store = \"sqlite:file.db\"\nkey = \"file:file.key\"\nstate_dir = \"file-state\"\n\
         [serve]\nlisten = \"127.0.0.1:1\"\n[serve.upstreams]\nlocal = \"http://127.0.0.1:9\"\n",
    )
    .unwrap();
    let show = |flags: &[&str], environment: &[(&str, &str)]| -> Vec<String> {
        let mut command = host.command(flags.iter().chain(&["config", "show", "--origin"]));
        command.envs(environment.iter().copied());
        host.start(command)
            .end()
            .exits(0)
            .text()
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let environment = [
        ("AUDIT_TRAIL_STORE", "sqlite:env.db"),
        ("AUDIT_TRAIL_KEY", "file:env.key"),
        ("AUDIT_TRAIL_STATE_DIR", "env-state"),
    ];
    let flags = [
        "--store",
        "sqlite:flag.db",
        "--key",
        "file:flag.key",
        "--state-dir",
        "flag-state",
    ];
    let file = show(&[], &[]);
    assert_eq!(
        file[..3],
        [
            "store = \"sqlite:file.db\"  # file audit-trail.toml",
            "key = \"file:file.key\"  # file audit-trail.toml",
            "state_dir = \"file-state\"  # file audit-trail.toml",
        ]
    );
    for line in [
        "serve.listen = \"127.0.0.1:1\"  # file audit-trail.toml",
        "serve.upstreams.local = \"http://127.0.0.1:9\"  # file audit-trail.toml",
        "serve.upstreams.openai = \"https://api.openai.com\"  # default",
        "serve.upstreams.groq = \"https://api.groq.com\"  # default",
        "serve.upstreams.ollama = \"http://127.0.0.1:11434\"  # default",
    ] {
        assert!(file.iter().any(|l| l == line), "{line}: {file:?}");
    }
    assert_eq!(
        show(&[], &environment)[..3],
        [
            "store = \"sqlite:env.db\"  # environment AUDIT_TRAIL_STORE",
            "key = \"file:env.key\"  # environment AUDIT_TRAIL_KEY",
            "state_dir = \"env-state\"  # environment AUDIT_TRAIL_STATE_DIR",
        ]
    );
    assert_eq!(
        show(&flags, &environment)[..3],
        [
            "store = \"sqlite:flag.db\"  # flag --store",
            "key = \"file:flag.key\"  # flag --key",
            "state_dir = \"flag-state\"  # flag --state-dir",
        ]
    );
    // An empty variable is none.
    assert!(show(&[], &[("AUDIT_TRAIL_STORE", "")])[0].contains("file.db"));
    // The file itself: a flag, the environment, the folder, the home.
    for (name, store) in [("flag.toml", "by-flag"), ("env.toml", "by-env")] {
        fs::write(host.path(name), format!("store = \"sqlite:{store}\"\n")).unwrap();
    }
    let variable = [("AUDIT_TRAIL_CONFIG", "env.toml")];
    assert!(show(&[], &variable)[0].contains("by-env"));
    assert!(show(&["--config", "flag.toml"], &variable)[0].contains("by-flag"));
    fs::remove_file(host.path("audit-trail.toml")).unwrap();
    let home = host.home().join(".config/audit-trail");
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("config.toml"), "store = \"sqlite:by-home\"\n").unwrap();
    assert!(show(&[], &[])[0].contains("by-home"));

    // A word that means nothing is a mistake that somebody would like to hear of.
    fs::write(host.path("wrong.toml"), "stoer = \"sqlite:x\"\n").unwrap();
    host.run(["--config", "wrong.toml", "config", "show"])
        .fails(2, "stoer");
}

#[test]
fn every_shell_has_a_completion_script() {
    let host = Host::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = host.run(["completions", shell]).exits(0);
        assert_eq!(script.err, "");
        for word in ["audit-trail", "verify", "export", "--auditor-key"] {
            let word = if shell == "fish" {
                word.trim_start_matches("--")
            } else {
                word
            };
            assert!(script.text().contains(word), "{shell}: {word}");
        }
    }
    host.run(["completions", "tcsh"]).exits(2);
}

#[test]
fn a_call_that_can_t_be_understood_exits_with_2() {
    let host = Host::new();
    for args in [
        &[][..],
        &["frobnicate"],
        &["verify", "--frobnicate"],
        &["show"],
        &["log", "-n", "many"],
    ] {
        let run = host.run(args).exits(2);
        assert!(
            run.err.contains("Usage") || run.err.contains("error"),
            "{args:?}: {}",
            run.err
        );
        assert_eq!(run.text(), "", "{args:?}");
    }
    let help = host.run(["--help"]).exits(0).text();
    for word in ["init", "verify", "Exit codes"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    let version = host.run(["--version"]).exits(0).text();
    assert_eq!(
        version,
        concat!("audit-trail ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

/// [`Host::start`] looks for every key and the passphrase in both outputs of every command of every test; here with a
/// sealed ring, through every command, failing ones too.
#[test]
fn no_command_says_a_secret() {
    let host = Host::with_passphrase(PASSPHRASE);
    host.run(["init", "--origin", ORIGIN]).exits(0);
    host.keep_ring_secret();
    let words = "words of a patient";
    fs::write(host.path("words.txt"), words).unwrap();
    host.run([
        "emit",
        "tool.call",
        "--session",
        "s-1",
        "--payload",
        "words=words.txt",
    ])
    .exits(0);
    // Nor an error that quotes a file: here key files and passphrase are taken for other things.
    std::os::unix::fs::symlink(host.passphrase_file(), host.path("passphrase-link")).unwrap();
    let runs: Vec<Run> = [
        &["doctor"][..],
        &["config", "show", "--origin"],
        &[
            "verify",
            "--content",
            "--auditor-key",
            "audit-trail-auditor.key",
        ],
        &["verify", "--auditor-key", "audit-trail.key"],
        &["verify", "--vkey", "@audit-trail-auditor.key"],
        &["verify", "--vkey", "@audit-trail.key"],
        &["verify", "--checkpoint", "audit-trail-auditor.key"],
        &["--config", "audit-trail-auditor.key", "config", "show"],
        &["--config", "passphrase-link", "config", "show"],
        &["--key", "file:audit-trail-auditor.key", "log"],
        &["--store", "sqlite:audit-trail-auditor.key", "log"],
        &["checkpoint"],
        &["prove", "3"],
        &["export", "x.bundle"],
        &["log", "--kind", "writer.opened", "--json"],
    ]
    .iter()
    .map(|args| host.run(*args))
    .collect();
    for run in runs {
        assert!(!run.text().contains(words), "{} shows content", run.command);
    }
    for name in ["x.bundle", "audit-trail.db", "audit-trail.toml"] {
        let bytes = fs::read(host.path(name)).unwrap();
        for secret in [words, PASSPHRASE] {
            assert!(
                !bytes.windows(secret.len()).any(|w| w == secret.as_bytes()),
                "{name} holds {secret:?}"
            );
        }
    }
}
