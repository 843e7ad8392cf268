//! What the SQLite driver does when things go wrong.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use berth_store::sqlite::SqliteStore;
use berth_store::{ErrorKind, Key, Store, StoreError, Txn, open};

/// Set in a process that a test started to be the other side.
const HELPER: &str = "BERTH_STORE_TEST_DIR";

fn key(i: usize) -> Key {
    Key::new(&["k", &i.to_string()])
}

/// The directory to work in, if this process is the helper of a test.
fn helper_dir() -> Option<PathBuf> {
    std::env::var_os(HELPER).map(PathBuf::from)
}

/// A command that runs one test of this file as a helper.
fn helper(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(HELPER, dir);
    command
}

#[tokio::test]
async fn files_are_private_and_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    store.txn(Txn::new().put(key(1), "x")).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("store")), 0o700);
    for entry in std::fs::read_dir(dir.path().join("store")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let health = store.health().await;
    assert!(health.size.unwrap() > 0 && health.free.is_some() && health.problem.is_none());
    drop(store);
    let store = open(dir.path()).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().value.as_ref(), b"x");
}

#[tokio::test]
async fn a_second_opener_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let _store = SqliteStore::open(dir.path()).await.unwrap();
    let error = SqliteStore::open(dir.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let text = error.to_string();
    assert!(text.contains(&dir.path().display().to_string()), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
}

#[tokio::test]
async fn leases_fall_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).await.unwrap();
    let lease = store.lease(Duration::from_secs(3600)).await.unwrap();
    store.txn(Txn::new().put_leased(key(1), "x", lease.id()).put(key(2), "y")).await.unwrap();
    drop(store);
    let store = SqliteStore::open(dir.path()).await.unwrap();
    let snapshot = store.snapshot(&Key::root()).await.unwrap();
    assert_eq!((snapshot.kvs.len(), snapshot.rev), (1, 2));
}

#[tokio::test]
async fn newer_and_foreign_databases_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(dir.path()).await.unwrap());
    let path = dir.path().join("state.db");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = SqliteStore::open(dir.path()).await.unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { found: 99, .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);

    for content in [&b"this is no database at all, but it is long enough to be looked at"[..], &[0xff; 8192]] {
        std::fs::write(&path, content).unwrap();
        let error = SqliteStore::open(dir.path()).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }

    std::fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE cats (name TEXT)").unwrap();
    let error = SqliteStore::open(dir.path()).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    if let Some(dir) = helper_dir() {
        let store = SqliteStore::open(&dir).await.unwrap();
        for i in 0.. {
            // Two keys in each transaction, so that a half-done one would show.
            store.txn(Txn::new().put(key(2 * i), "x").put(key(2 * i + 1), "x")).await.unwrap();
            println!("done {i}");
            std::io::stdout().flush().unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = helper("what_was_acknowledged_survives_a_kill", dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut acknowledged = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The harness may print on the same line before the first of ours.
        if let Some((_, number)) = line.rsplit_once("done ") {
            acknowledged = number.parse::<usize>().unwrap() + 1;
        }
        if acknowledged == 50 {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acknowledged >= 50);
    let store = SqliteStore::open(dir.path()).await.unwrap();
    for i in 0..2 * acknowledged {
        assert!(store.get(&key(i)).await.unwrap().is_some(), "{i} of {acknowledged} is lost");
    }
    assert_eq!(store.range(&Key::root()).await.unwrap().len() % 2, 0);
}

#[tokio::test]
async fn a_full_disk_loses_nothing() {
    if let Some(dir) = helper_dir() {
        return fill_the_disk(&dir).await;
    }
    // A small file system in a mount namespace of its own, which takes it along when the helper ends.
    let dir = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=2m none \"$0\" && exec \"$@\"";
    let test = helper("a_full_disk_loses_nothing", dir.path());
    let status = Command::new("unshare")
        .args(["--mount", "--", "sh", "-c", mount])
        .arg(dir.path())
        .arg(test.get_program())
        .args(test.get_args())
        .env(HELPER, dir.path())
        .stdin(Stdio::piped())
        .status();
    assert!(status.unwrap().success());
}

/// The helper's part of [`a_full_disk_loses_nothing`].
async fn fill_the_disk(dir: &Path) {
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![0; 512 * 1024]).unwrap();
    let store = SqliteStore::open(&dir.join("store")).await.unwrap();
    let mut kept = Vec::new();
    let mut failures = 0;
    for i in 0..40 {
        match store.txn(Txn::new().put(key(i), vec![7; 64 * 1024])).await {
            Ok(_) => kept.push(i),
            Err(error @ StoreError::Full { .. }) => {
                failures += 1;
                let text = error.to_string();
                assert!(text.contains("state.db") && text.contains("free some space"), "{text}");
                assert_eq!(store.health().await.problem, Some(text));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(failures > 0 && !kept.is_empty());
    // All at once, so that they make a group: whatever fails, those which succeed are there.
    let many =
        futures::future::join_all((100..108).map(|i| store.txn(Txn::new().put(key(i), vec![7; 16 * 1024])))).await;
    kept.extend((100..108).zip(&many).filter(|(_, result)| result.is_ok()).map(|(i, _)| i));
    let there = |kvs: Vec<berth_store::Kv>| -> Vec<usize> {
        let mut numbers: Vec<usize> = kvs.iter().map(|kv| kv.key.name().parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(there(store.range(&Key::root()).await.unwrap()), kept);
    std::fs::remove_file(&ballast).unwrap();
    store.txn(Txn::new().put(key(200), "room")).await.unwrap();
    kept.push(200);
    assert_eq!(store.health().await.problem, None);
    drop(store);
    let store = SqliteStore::open(&dir.join("store")).await.unwrap();
    assert_eq!(there(store.range(&Key::root()).await.unwrap()), kept);
}
