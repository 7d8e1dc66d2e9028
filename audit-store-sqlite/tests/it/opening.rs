//! Opening: what isn't a store is refused by name, nothing is made or written, and modes are private.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use audit_core::store::{Parts, ReadStore as _, Row, Store as _};
use audit_core::{Entry, ErrorKind};
use audit_store_sqlite::{OpenMode, SqliteStore};
use audit_tlog::hash::leaf_hash;
use audit_tlog::tile::EdgeTiles;
use rusqlite::Connection;

use crate::support::{Place, append};

/// Names and contents of a directory's files.
fn listing(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    files
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

fn refused(path: &Path, kind: ErrorKind, says: &str) {
    let before = listing(path.parent().unwrap());
    for mode in [OpenMode::ReadOnly, OpenMode::ReadWrite] {
        let error = SqliteStore::open(path, mode).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{mode:?}: {text}");
        assert!(
            text.contains(says),
            "{mode:?}: {text:?} doesn't say {says:?}"
        );
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            text.contains(name),
            "{mode:?}: {text:?} doesn't name the file"
        );
    }
    let after = listing(path.parent().unwrap());
    assert!(before == after, "opening changed {:?}", after.keys());
}

#[test]
fn what_is_not_a_store_is_refused_and_left_alone() {
    let place = Place::new();
    let path = place.dir().join("log.db");
    refused(&path, ErrorKind::NotFound, "no such file");
    fs::create_dir(&path).unwrap();
    refused(&path, ErrorKind::Invalid, "a directory");
    fs::remove_dir(&path).unwrap();
    fs::write(&path, "").unwrap();
    refused(&path, ErrorKind::Invalid, "is empty");
    fs::write(&path, "SQLite").unwrap();
    refused(&path, ErrorKind::Invalid, "not a SQLite file");
    fs::write(&path, vec![b'x'; 5000]).unwrap();
    refused(&path, ErrorKind::Invalid, "not a SQLite file");
    fs::write(&path, b"SQLite format 3\0").unwrap();
    refused(&path, ErrorKind::Corrupt, "cut off");
    fs::remove_file(&path).unwrap();
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE t (x)")
        .unwrap();
    refused(&path, ErrorKind::Invalid, "not an LLMAuditTrail store");
}

#[tokio::test]
async fn another_version_is_named_and_refused() {
    let place = Place::new();
    drop(place.filled(3).await);
    let raw = Connection::open(place.path()).unwrap();
    raw.execute_batch("PRAGMA user_version = 7").unwrap();
    drop(raw);
    refused(
        &place.path(),
        ErrorKind::Invalid,
        "schema version 7, this program reads 1 to 2",
    );
}

#[tokio::test]
async fn a_file_of_layout_1_is_not_read_or_gets_a_packed_entry() {
    let place = Place::new();
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/layout-1/log.db");
    let path = place.dir().join("layout-1.db");
    fs::write(&path, fs::read(old).unwrap()).unwrap();
    let store = SqliteStore::open(&path, OpenMode::ReadWrite).unwrap();
    assert_eq!(store.description().await.unwrap().unwrap().layout, 1);
    let before = store.rows(0..35, Parts::With).await.unwrap();
    assert_eq!(before.len(), 35);
    let root = |rows: &[Row]| {
        let mut edge = EdgeTiles::new();
        for row in rows {
            Entry::decode(&row.entry).unwrap();
            edge.push(leaf_hash(&row.entry));
        }
        edge.root()
    };
    assert_eq!(root(&before), store.head().await.unwrap().edge.root());

    let head = append(&store, 3, 1).await;
    assert_eq!(head.size, 38);
    let after = store.rows(0..38, Parts::With).await.unwrap();
    assert!(before == after[..35]);
    assert_eq!(root(&after), head.edge.root());
    let raw = Connection::open(&path).unwrap();
    let plain: i64 = raw
        .query_row(
            "SELECT count(*) FROM entry WHERE substr(entry, 1, 1) = x'7b'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(plain, 38, "entries of layout 1 begin with a brace");
}

#[tokio::test]
async fn a_version_that_was_rolled_back_is_accepted() {
    let place = Place::new();
    drop(place.filled(3).await);
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/layout-1/log.db");
    let copy = place.dir().join("layout-1.db");
    fs::write(&copy, fs::read(old).unwrap()).unwrap();
    for (path, version) in [(place.path(), 1), (copy, 2)] {
        let raw = Connection::open(&path).unwrap();
        raw.pragma_update(None, "user_version", version).unwrap();
        drop(raw);
        let says = format!("\"entry\" is not as schema version {version} has it");
        refused(&path, ErrorKind::Corrupt, &says);
    }
}

#[tokio::test]
async fn a_file_that_is_cut_off_is_refused() {
    let place = Place::new();
    drop(place.filled(300).await);
    let whole = fs::read(place.path()).unwrap();
    fs::write(place.path(), &whole[..whole.len() / 2]).unwrap();
    refused(&place.path(), ErrorKind::Corrupt, "cut off");
}

#[tokio::test]
async fn other_things_in_the_schema_are_refused() {
    for sql in [
        "CREATE TRIGGER t AFTER INSERT ON entry BEGIN DELETE FROM token; END",
        "CREATE VIEW v AS SELECT * FROM entry",
        "CREATE TABLE more (x)",
        "DROP INDEX entry_time",
        "DROP TABLE token",
        "DROP TABLE checkpoint; CREATE TABLE checkpoint (size INTEGER PRIMARY KEY, note BLOB)",
    ] {
        let place = Place::new();
        drop(place.filled(3).await);
        let raw = Connection::open(place.path()).unwrap();
        raw.execute_batch(sql).unwrap();
        drop(raw);
        refused(
            &place.path(),
            ErrorKind::Corrupt,
            "is not as schema version 2 has it",
        );
    }
    let place = Place::new();
    drop(place.filled(3).await);
    let raw = Connection::open(place.path()).unwrap();
    raw.execute_batch("ANALYZE").unwrap();
    drop(raw);
    SqliteStore::open(place.path(), OpenMode::ReadWrite).expect("statistics are no danger");
}

#[tokio::test]
async fn a_file_is_made_only_where_none_is() {
    let place = Place::new();
    drop(place.filled(3).await);
    let again = SqliteStore::create_file(place.path()).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Invalid, "{again}");
    let missing = place.dir().join("missing/log.db");
    let error = SqliteStore::create_file(missing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let store = SqliteStore::open(place.path(), OpenMode::ReadOnly).unwrap();
    assert_eq!(
        store.head().await.unwrap().size,
        3,
        "a refused create changed the file"
    );
}

#[tokio::test]
async fn files_belong_to_their_owner_alone() {
    let place = Place::new();
    let store = place.filled(3).await;
    let _lease = store.publisher_lease().await.unwrap().unwrap();
    let files = listing(place.dir());
    assert_eq!(files.len(), 6, "{:?}", files.keys());
    for file in files.keys() {
        let mode = fs::metadata(file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn a_copy_is_read_without_writing_and_follows_a_writer() {
    let place = Place::new();
    let store = place.filled(300).await;
    drop(store);
    let before = listing(place.dir());
    let reader = SqliteStore::open(place.path(), OpenMode::ReadOnly).unwrap();
    assert_eq!(reader.head().await.unwrap().size, 300);
    assert_eq!(reader.rows(299..301, Parts::With).await.unwrap().len(), 1);
    assert!(before == listing(place.dir()), "reading wrote something");
    let write = reader.put_checkpoint(1, b"one").await.unwrap_err();
    assert_eq!(write.kind(), ErrorKind::Invalid, "{write}");

    // A writer comes and goes, and comes to stay: the reader sees all of it.
    for size in [310, 320] {
        let store = SqliteStore::open(place.path(), OpenMode::ReadWrite).unwrap();
        append(&store, 10, size).await;
        assert_eq!(reader.head().await.unwrap().size, size);
        drop(store);
        assert_eq!(reader.head().await.unwrap().size, size);
    }
}

/// Set in a copy of this process that runs as nobody: permissions hold no one who is root.
const AS_NOBODY: &str = "AUDIT_TEST_AS_NOBODY";

#[tokio::test]
async fn what_may_not_be_written_or_read_is_said() {
    let place = Place::new();
    if fs::metadata(place.dir()).unwrap().permissions().mode() != 0
        && std::os::unix::fs::MetadataExt::uid(&fs::metadata(place.dir()).unwrap()) == 0
    {
        let dir = place.dir().join("nobody");
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(65534), Some(65534)).unwrap();
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o711)).unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "opening::what_may_not_be_written_or_read_is_said",
            ])
            .env(AS_NOBODY, &dir)
            .env("TMPDIR", &dir)
            .current_dir(&dir)
            .uid(65534)
            .gid(65534)
            .status()
            .unwrap();
        assert!(status.success(), "the copy that runs as nobody failed");
        return;
    }
    drop(place.filled(3).await);
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let unavailable = |how| {
        let error = SqliteStore::open(place.path(), how).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        error.to_string()
    };
    mode(&place.path(), 0o400);
    mode(place.dir(), 0o500);
    let reader = SqliteStore::open(place.path(), OpenMode::ReadOnly).unwrap();
    assert_eq!(
        reader.head().await.unwrap().size,
        3,
        "a read-only directory"
    );
    let says = unavailable(OpenMode::ReadWrite);
    assert!(says.contains("can't be written"), "{says}");
    let made = SqliteStore::create_file(place.dir().join("new.db")).unwrap_err();
    assert_eq!(made.kind(), ErrorKind::Unavailable, "{made}");
    mode(&place.path(), 0o600);
    unavailable(OpenMode::ReadWrite);
    mode(&place.path(), 0o000);
    let says = unavailable(OpenMode::ReadOnly);
    assert!(says.contains("permission denied"), "{says}");
    mode(place.dir(), 0o700);
}
