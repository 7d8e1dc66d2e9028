//! What `ARCHITECTURE.md` and `docs/events.md` say is so.

#![expect(
    clippy::panic,
    reason = "in a test a panic is the report, in its helpers too"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What a crate may depend on.
#[derive(Debug, PartialEq)]
enum Allowed {
    All,
    These(BTreeSet<String>),
}

impl Allowed {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(name),
        }
    }
}

#[test]
fn crates_depend_only_on_what_the_table_allows() {
    let table = crates_table(&read("ARCHITECTURE.md"));
    let members = members();
    assert_eq!(
        table.keys().collect::<Vec<_>>(),
        members.keys().collect::<Vec<_>>(),
        "the table in ARCHITECTURE.md (left) doesn't name the members of the workspace (right)"
    );
    let mut wrong = Vec::new();
    for (name, dependencies) in &members {
        for dependency in dependencies.iter().filter(|d| !table[name].has(d)) {
            wrong.push(format!("{name} -> {dependency}"));
        }
    }
    assert!(wrong.is_empty(), "ARCHITECTURE.md doesn't allow: {wrong:?}");
}

#[test]
fn the_table_of_crates_has_no_circle() {
    let mut table = crates_table(&read("ARCHITECTURE.md"));
    // Takes away what depends on nothing that is left, until nothing is left.
    loop {
        let left: BTreeSet<String> = table.keys().cloned().collect();
        table.retain(
            |_, allowed| matches!(allowed, Allowed::These(names) if !names.is_disjoint(&left)),
        );
        if table.len() == left.len() {
            assert!(table.is_empty(), "these may depend on each other: {left:?}");
            return;
        }
    }
}

#[test]
fn every_crate_that_a_row_allows_has_a_row() {
    let table = crates_table(&read("ARCHITECTURE.md"));
    for (name, allowed) in &table {
        let Allowed::These(names) = allowed else {
            continue;
        };
        let unknown: Vec<_> = names.iter().filter(|n| !table.contains_key(*n)).collect();
        assert!(
            unknown.is_empty(),
            "{name} may depend on {unknown:?}, which have no row"
        );
    }
}

/// The verifier must run where there is no network, and be small enough to be read: these crates would end that.
#[test]
fn the_verifier_has_no_runtime_network_or_database_in_its_tree() {
    let banned = [
        "async-io",
        "async-std",
        "h2",
        "hyper",
        "mio",
        "object_store",
        "reqwest",
        "rusqlite",
        "rustls",
        "smol",
        "sqlx",
        "tokio",
        "ureq",
    ];
    let tree = tree(&["-p", "audit-verify", "--all-features"]);
    assert!(
        tree.contains("audit-verify"),
        "cargo tree doesn't show the crate itself: {tree:?}"
    );
    let found: Vec<_> = banned
        .iter()
        .filter(|name| tree.contains(&name.replace('_', "-")))
        .collect();
    assert!(found.is_empty(), "audit-verify depends on {found:?}");
}

/// Every backend: its feature in the program and the facade, its crate, and the crates of its engine.
const BACKENDS: [(&str, &str, &[&str]); 3] = [
    (
        "sqlite",
        "audit-store-sqlite",
        &["rusqlite", "libsqlite3-sys"],
    ),
    (
        "postgres",
        "audit-store-postgres",
        &["sqlx", "sqlx-core", "sqlx-postgres"],
    ),
    ("s3", "audit-store-s3", &["object_store"]),
];

/// Engines and providers of cryptography that no build has.
const FOREIGN_ENGINES: [&str; 4] = ["aws-lc-rs", "aws-sdk-s3", "postgres", "tokio-postgres"];

#[test]
fn a_build_with_one_backend_has_no_other_engine_in_its_tree() {
    for package in ["audit-cli", "audit-tracer"] {
        for chosen in BACKENDS
            .iter()
            .map(|(feature, ..)| Some(*feature))
            .chain([None])
        {
            let mut arguments = vec!["-p", package, "--no-default-features"];
            if let Some(feature) = chosen {
                arguments.extend(["--features", feature]);
            }
            let tree = tree(&arguments);
            assert!(tree.contains(package), "{package} isn't in its own tree");
            for (feature, store, engine) in BACKENDS {
                for name in engine.iter().chain([&store]) {
                    assert_eq!(
                        tree.contains(&name.replace('_', "-")),
                        chosen == Some(feature),
                        "{package} with {chosen:?} alone: {name} is in its tree and should not be, or is not and should"
                    );
                }
            }
            let foreign: Vec<_> = FOREIGN_ENGINES
                .iter()
                .filter(|name| tree.contains(&name.replace('_', "-")))
                .collect();
            assert!(foreign.is_empty(), "{package} with {chosen:?}: {foreign:?}");
        }
    }
}

/// Recording clients and services is for those who ask for it.
#[test]
fn the_facade_has_http_only_with_the_features_for_it() {
    let all = [
        "async-openai",
        "axum",
        "http",
        "http-body",
        "hyper",
        "reqwest",
        "reqwest-middleware",
        "tower",
        "tower-layer",
        "tower-service",
    ];
    let layer = ["http", "http-body", "tower-layer", "tower-service"];
    let below = |features: &[&str]| -> Vec<&str> {
        let mut arguments = vec!["-p", "audit-tracer"];
        arguments.extend(features);
        let tree = tree(&arguments);
        assert!(tree.contains("audit-tracer"));
        all.into_iter()
            .filter(|name| tree.contains(*name))
            .collect()
    };
    assert!(below(&[]).is_empty(), "{:?}", below(&[]));
    assert_eq!(below(&["--features", "tower"]), layer);
    let with_client = below(&["--features", "reqwest"]);
    assert!(with_client.contains(&"reqwest-middleware"));
    assert!(!with_client.contains(&"axum") && !with_client.contains(&"async-openai"));
}

#[test]
fn the_program_and_the_facade_have_a_feature_for_each_backend() {
    for package in ["audit-cli", "audit-tracer"] {
        let metadata = metadata(&["--no-deps"]);
        let packages = metadata["packages"].as_array().expect("packages");
        let found = packages.iter().find(|p| p["name"] == package);
        let features = found.expect("a member")["features"]
            .as_object()
            .expect("features")
            .clone();
        let default = features["default"].as_array().expect("default").clone();
        for (feature, ..) in BACKENDS {
            assert!(features.contains_key(feature), "{package} has no {feature}");
            // A service takes the engine that it uses; the program has all of them.
            assert_eq!(
                default.contains(&Value::from(feature)),
                package == "audit-cli" || feature == "sqlite",
                "{package}: {feature} by default"
            );
        }
    }
    let stores: BTreeSet<String> = members()
        .into_keys()
        .filter(|name| name.starts_with("audit-store-"))
        .collect();
    let listed = BACKENDS.iter().map(|(_, store, _)| (*store).to_owned());
    assert_eq!(stores, listed.collect(), "backends without a row here");
}

/// What a crate's manifest says of the oldest Rust holds for its default features; a feature that needs a newer one says so
/// in a crate of its own, which cargo names.
#[test]
fn a_crate_promises_an_older_rust_than_what_it_depends_on_takes() {
    let version = |text: &str| -> Vec<u32> {
        let parts = text.split('.').map(|part| part.parse().expect("a number"));
        parts.chain([0]).take(3).collect()
    };
    let host = cargo(&["-vV"]);
    let host = host.lines().find_map(|line| line.strip_prefix("host: "));
    let all = metadata(&["--filter-platform", host.expect("cargo says its host")]);
    let packages = all["packages"].as_array().expect("packages");
    let needed: BTreeMap<String, Vec<u32>> = packages
        .iter()
        .filter_map(|p| {
            let name = format!("{} v{}", p["name"].as_str()?, p["version"].as_str()?);
            Some((name, version(p["rust_version"].as_str()?)))
        })
        .collect();
    for name in members().into_keys() {
        let lines = cargo(&tree_of(&["-p", &name], "normal,build"));
        let mut lines = lines.lines().map(|line| {
            let mut words = line.split_whitespace();
            let (name, version) = (words.next()?, words.next()?);
            Some(format!("{name} {version}"))
        });
        let own = lines.next().flatten().expect("its own line");
        let promised = needed.get(&own).expect("every crate says its Rust");
        for dependency in lines.flatten() {
            if let Some(needed) = needed.get(&dependency) {
                assert!(
                    needed <= promised,
                    "{name} promises {promised:?}, and {dependency} needs {needed:?}"
                );
            }
        }
    }
}

/// Only these choose a backend by name; everything else takes a store.
#[test]
fn only_the_facade_and_the_benches_name_a_concrete_store() {
    for (name, dependencies) in members() {
        let stores: Vec<_> = dependencies
            .iter()
            .filter(|d| d.starts_with("audit-store-"))
            .collect();
        assert!(
            stores.is_empty() || ["audit-tracer", "benches"].contains(&name.as_str()),
            "{name} depends on {stores:?}"
        );
    }
}

#[test]
fn every_kind_in_the_registry_is_a_kind_and_stands_there_once() {
    let mut seen = BTreeSet::new();
    for (kind, row) in kinds_table(&read("docs/events.md")) {
        assert!(
            audit_core::event::Kind::new(kind.clone()).is_ok(),
            "docs/events.md: {kind:?} is not of the form [a-z0-9_.]{{1,64}}"
        );
        assert!(
            seen.insert(kind.clone()),
            "docs/events.md lists {kind} twice"
        );
        assert!(
            row.iter().all(|cell| !cell.is_empty()),
            "docs/events.md: the row of {kind} has an empty cell"
        );
    }
    assert!(
        seen.len() > 100,
        "docs/events.md: only {} kinds were read",
        seen.len()
    );
}

#[test]
fn the_registry_says_which_kinds_the_log_the_gateway_and_the_facade_write() {
    let table: BTreeMap<String, Vec<String>> =
        kinds_table(&read("docs/events.md")).into_iter().collect();
    let emitted_by = |start: &str| -> BTreeSet<&str> {
        table
            .iter()
            .filter(|(_, row)| row[1].starts_with(start))
            .map(|(kind, _)| kind.as_str())
            .collect()
    };
    assert_eq!(
        emitted_by("the log"),
        audit_core::entry::kinds::ALL.into_iter().collect()
    );
    assert_eq!(
        emitted_by("`audit-gateway`"),
        [
            "llm.request",
            "llm.response",
            "log.capture_degraded",
            "network.tunnel_closed",
            "network.tunnel_opened"
        ]
        .into_iter()
        .collect()
    );
    assert_eq!(
        emitted_by("`audit-cli`"),
        ["agent.session.ended", "agent.session.started"]
            .into_iter()
            .collect()
    );
    let by_the_facade: BTreeSet<&str> = table
        .iter()
        .filter(|(_, row)| row[1].contains("`audit-tracer`"))
        .map(|(kind, _)| kind.as_str())
        .collect();
    assert_eq!(
        by_the_facade,
        [
            "http.request",
            "llm.request",
            "llm.response",
            "log.legal_hold_released",
            "log.legal_hold_set",
            "log.retention_applied",
            "session.closed",
            "session.opened"
        ]
        .into_iter()
        .collect()
    );
}

#[test]
fn rows_that_are_not_of_the_form_are_not_passed_over() {
    let table = crates_table(
        "## Crates\n\n| crate | what it is | may depend on |\n|---|---|---|\n| `a` | x | – |\n| `b` | y | `a`, `c` |\n| `d` | z | all |\n\n## Next\n| `e` | z | all |\n",
    );
    assert_eq!(table.len(), 3);
    assert_eq!(table["a"], Allowed::These(BTreeSet::new()));
    assert_eq!(
        table["b"],
        Allowed::These(["a".to_owned(), "c".to_owned()].into())
    );
    assert_eq!(table["d"], Allowed::All);
    for bad in [
        "| a | x | – |",
        "| `a` | x | a |",
        "| `a` | x |",
        "| `a` | x | `b` `c` |",
        "| `a` | x | |",
        "| `a` | – |\n| `a` | – |",
    ] {
        let text =
            format!("## Crates\n| crate | what it is | may depend on |\n|---|---|---|\n{bad}\n");
        assert!(
            std::panic::catch_unwind(|| crates_table(&text)).is_err(),
            "{bad:?} was read"
        );
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate's folder lies in the workspace's")
        .to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn cargo(arguments: &[&str]) -> String {
    let out = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo built this test");
    assert!(
        out.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).expect("cargo writes UTF-8")
}

/// Only what is downloaded already: a test needs no network.
fn metadata(arguments: &[&str]) -> Value {
    let mut all = vec!["metadata", "--format-version", "1"];
    all.extend(["--locked", "--offline"]);
    all.extend(arguments);
    let out = cargo(&all);
    serde_json::from_str(&out).expect("cargo metadata is JSON")
}

/// The names of all crates in a tree of normal dependencies, with hyphens.
fn tree(arguments: &[&str]) -> BTreeSet<String> {
    cargo(&tree_of(arguments, "normal"))
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|name| name.replace('_', "-"))
        .collect()
}

/// A tree as cargo writes it, a crate with its version in each line.
fn tree_of<'a>(arguments: &[&'a str], edges: &'a str) -> Vec<&'a str> {
    let mut all = vec!["tree"];
    all.extend(arguments);
    all.extend(["-e", edges, "--prefix", "none", "--format", "{p}"]);
    all.extend(["--locked", "--offline"]);
    all
}

/// Every member of the workspace, with the members that it has as normal or build dependencies.
fn members() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata(&["--no-deps"]);
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |v: &Value| v["name"].as_str().expect("a name").to_owned();
    let names: BTreeSet<String> = packages.iter().map(name).collect();
    let below = |package: &Value| {
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        // `kind` is null for a normal dependency. `name` is the package's, whatever the crate calls it.
        dependencies
            .iter()
            .filter(|d| d["kind"] != "dev")
            .map(name)
            .filter(|d| names.contains(d))
            .collect()
    };
    packages
        .iter()
        .map(|package| (name(package), below(package)))
        .collect()
}

/// The rows of the tables in `text` whose header is `header`: their cells, trimmed.
fn rows(text: &str, header: &[&str]) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Option<Vec<String>> {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(
            inner
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect(),
        )
    };
    let mut out = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if cells(line).is_some_and(|c| c == header) {
            assert!(
                lines.next().is_some_and(|l| l.starts_with("|-")),
                "the line below {line:?} doesn't end the header"
            );
            for row in lines.by_ref().map_while(cells) {
                assert_eq!(
                    row.len(),
                    header.len(),
                    "row {row:?} of the table {header:?}"
                );
                out.push(row);
            }
        }
    }
    out
}

fn quoted(cell: &str) -> String {
    let name = cell.strip_prefix('`').and_then(|c| c.strip_suffix('`'));
    name.filter(|n| !n.contains('`'))
        .unwrap_or_else(|| panic!("{cell:?} is not one name in backticks"))
        .to_owned()
}

/// The table under `## Crates`.
fn crates_table(text: &str) -> BTreeMap<String, Allowed> {
    let section = text
        .split("\n## ")
        .find(|s| s.trim_start_matches("## ").starts_with("Crates\n"))
        .expect("a section Crates");
    let mut table = BTreeMap::new();
    for row in rows(section, &["crate", "what it is", "may depend on"]) {
        let allowed = match row[2].as_str() {
            "all" => Allowed::All,
            "–" => Allowed::These(BTreeSet::new()),
            names => Allowed::These(names.split(", ").map(quoted).collect()),
        };
        let before = table.insert(quoted(&row[0]), allowed);
        assert!(before.is_none(), "{} has two rows", row[0]);
    }
    table
}

/// Every row of every table of kinds: the kind, and the cells `fields` and `emitted by`.
fn kinds_table(text: &str) -> Vec<(String, Vec<String>)> {
    let rows = rows(text, &["kind", "fields", "emitted by"]);
    rows.into_iter()
        .map(|row| (quoted(&row[0]), row[1..].to_vec()))
        .collect()
}
