//! Pools of the driver `btrfs`, as root on a kernel that has it.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_storage::{Config, Pools, StorageError, VolumeKind, VolumeRef};
use berth_store::ErrorKind;
use berth_store::mem::MemStore;
use tokio::sync::{Mutex, MutexGuard};

use VolumeKind::{Container, ContainerSnapshot, VirtualMachine};

const MIB: usize = 1 << 20;

/// One test at a time: a program that another one starts has copies of all descriptors of this process until it is
/// executed, which keep mounts and loop devices a little longer.
static ALONE: Mutex<()> = Mutex::const_new(());

struct Bench {
    _alone: MutexGuard<'static, ()>,
    dir: tempfile::TempDir,
    store: Arc<MemStore>,
    pools: Pools,
}

impl Bench {
    async fn new() -> Bench {
        let _alone = ALONE.lock().await;
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(MemStore::new());
        let pools = Pools::open(store.clone(), dir.path().to_owned()).await.unwrap();
        Bench { _alone, dir, store, pools }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("storage-pools/p")
    }

    async fn end(self) {
        for pool in self.pools.list().await.unwrap() {
            self.pools.delete_pool(&pool.name).await.unwrap();
        }
        assert_eq!(mounts(self.dir.path()), Vec::<String>::new());
        no_loops(self.dir.path());
        assert_eq!(std::fs::read_dir(self.dir.path().join("storage-pools")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(self.dir.path().join("disks")).map_or(0, Iterator::count), 0);
    }
}

/// After a failure: what is mounted would stay.
impl Drop for Bench {
    fn drop(&mut self) {
        for mount in mounts(self.dir.path()) {
            let _ = Command::new("umount").args(["--lazy", mount.split(' ').nth(4).unwrap_or("")]).status();
        }
    }
}

fn mounts(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter(|line| line.contains(dir.to_str().unwrap())).map(str::to_owned).collect()
}

fn loops(dir: &Path) -> Vec<String> {
    let devices = std::fs::read_dir("/sys/block").unwrap().flatten();
    let backing = devices.filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
    backing.filter(|file| file.contains(dir.to_str().unwrap())).collect()
}

/// Whoever makes a mount namespace has a copy of a mount for a while, which keeps its device.
fn while_copied(mut ended: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !ended() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it does not end");
        std::thread::yield_now();
    }
}

fn no_loops(dir: &Path) {
    while_copied(|| loops(dir).is_empty());
}

fn config(pairs: &[(&str, &str)]) -> Config {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn reference(pool: &str, kind: VolumeKind, name: &str) -> VolumeRef {
    VolumeRef { pool: pool.to_owned(), kind, name: name.to_owned() }
}

async fn copy(pools: &Pools, from: &VolumeRef, to: &VolumeRef) -> PathBuf {
    pools.copy(from, to, Arc::new(|_| {})).await.unwrap().commit().await.unwrap()
}

fn btrfs(args: &[&str], path: &Path) {
    let output = Command::new("btrfs").args(args).arg(path).output().unwrap();
    assert!(output.status.success(), "btrfs {args:?} {}: {output:?}", path.display());
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

#[tokio::test]
async fn a_pool_in_a_file_lives_its_life() {
    let bench = Bench::new().await;
    let pools = &bench.pools;
    let made = pools.create("p", "btrfs", "", config(&[("size", "256MiB")])).await.unwrap();
    let file = bench.dir.path().join("disks/p.img");
    assert_eq!((made.config["source"].as_str(), made.status.as_str()), (file.to_str().unwrap(), "Created"));
    assert!(std::fs::metadata(&file).unwrap().blocks() * 512 < 64 << 20, "the file is sparse");
    assert_eq!(pools.resources("p").await.unwrap().total, 256 << 20);
    let pending = pools.prepare("p", Container, "c1").await.unwrap();
    std::fs::write(pending.path().join("file"), "content").unwrap();
    let path = pending.commit().await.unwrap();
    assert_eq!(inode(&path), 256, "it is a subvolume");
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o711);
    // The disk of a virtual machine is written in place.
    let pending = pools.prepare("p", VirtualMachine, "v1").await.unwrap();
    std::fs::write(pending.path().join("root.img"), "disk").unwrap();
    let flags = rustix::fs::ioctl_getflags(std::fs::File::open(pending.path().join("root.img")).unwrap()).unwrap();
    assert!(flags.contains(rustix::fs::IFlags::NOCOW));
    drop(pending);
    // It is taken up again while it is mounted, and when it is not.
    let (dir, store) = (bench.dir.path().to_owned(), bench.store.clone());
    for unmount in [false, true] {
        if unmount {
            rustix::mount::unmount(bench.root(), rustix::mount::UnmountFlags::empty()).unwrap();
            no_loops(&dir);
        }
        let again = Pools::open(store.clone(), dir.clone()).await.unwrap();
        assert_eq!(again.get("p").await.unwrap().problem, None);
        assert_eq!(std::fs::read_to_string(path.join("file")).unwrap(), "content");
        assert_eq!(mounts(&dir).len(), 1);
        again.settle().await;
    }
    // It grows, and does not shrink.
    let grown = config(&[("size", "384MiB"), ("btrfs.mount_options", "user_subvol_rm_allowed,noatime")]);
    pools.update("p", "", grown, None).await.unwrap();
    assert_eq!(pools.resources("p").await.unwrap().total, 384 << 20);
    assert!(mounts(&dir)[0].contains("noatime"), "{:?}", mounts(&dir));
    let error = pools.update("p", "", config(&[("size", "256MiB")]), None).await.unwrap_err();
    assert!(error.to_string().contains("only grow"), "{error}");
    assert_eq!(pools.delete_pool("p").await.unwrap_err().kind(), ErrorKind::Busy);
    pools.delete("p", Container, "c1").await.unwrap();
    bench.end().await;
}

#[tokio::test]
async fn what_is_nested_is_copied_and_removed() {
    let bench = Bench::new().await;
    let pools = &bench.pools;
    pools.create("p", "btrfs", "", config(&[("size", "256MiB")])).await.unwrap();
    let outside = bench.root().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("precious"), "x").unwrap();
    let path = pools.prepare("p", Container, "c1").await.unwrap().commit().await.unwrap();
    std::fs::create_dir_all(path.join("a/b")).unwrap();
    let nested = path.join("a/b/nested");
    btrfs(&["subvolume", "create"], &nested);
    std::fs::write(nested.join("file"), "in it").unwrap();
    symlink(&outside, nested.join("link")).unwrap();
    std::fs::create_dir(nested.join("c")).unwrap();
    btrfs(&["subvolume", "create"], &nested.join("c/deep"));
    std::fs::write(nested.join("c/deep/file"), "deep in it").unwrap();
    // More than one answer of a search holds.
    for number in 0..150 {
        btrfs(&["subvolume", "create"], &path.join(format!("{number}-{}", "x".repeat(40))));
    }
    let ro = Command::new("btrfs").args(["property", "set"]).arg(&nested).args(["ro", "true"]).status().unwrap();
    assert!(ro.success());
    let before = std::fs::metadata(path.join("a/b")).unwrap().mtime_nsec();
    let copied = copy(pools, &reference("p", Container, "c1"), &reference("p", ContainerSnapshot, "s1")).await;
    assert_eq!(std::fs::metadata(copied.join("a/b")).unwrap().mtime_nsec(), before);
    let there = copied.join("a/b/nested");
    assert_eq!((inode(&there), inode(&there.join("c/deep"))), (256, 256));
    assert_eq!(std::fs::read_to_string(there.join("file")).unwrap(), "in it");
    assert_eq!(std::fs::read_to_string(there.join("c/deep/file")).unwrap(), "deep in it");
    assert_eq!(std::fs::read_dir(&copied).unwrap().count(), 151);
    let error = std::fs::write(there.join("other"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "it stays read-only");
    // To a pool of another driver and back goes the content.
    let elsewhere = copy(pools, &reference("p", Container, "c1"), &reference("default", Container, "c1")).await;
    assert_eq!(std::fs::read_to_string(elsewhere.join("a/b/nested/c/deep/file")).unwrap(), "deep in it");
    let back = copy(pools, &reference("default", Container, "c1"), &reference("p", Container, "c2")).await;
    assert_eq!(std::fs::read_to_string(back.join("a/b/nested/c/deep/file")).unwrap(), "deep in it");
    pools.delete("default", Container, "c1").await.unwrap();
    for (kind, name) in [(Container, "c1"), (ContainerSnapshot, "s1"), (Container, "c2")] {
        pools.delete("p", kind, name).await.unwrap();
    }
    pools.settle().await;
    assert_eq!(std::fs::read_dir(bench.root().join(".trash")).unwrap().count(), 0);
    let left = Command::new("btrfs").args(["subvolume", "list"]).arg(bench.root()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    assert!(outside.join("precious").exists());
    std::fs::remove_dir_all(outside).unwrap();
    bench.end().await;
}

#[tokio::test]
async fn volumes_are_limited_with_all_that_is_in_them() {
    let bench = Bench::new().await;
    let pools = &bench.pools;
    pools.create("p", "btrfs", "", config(&[("size", "256MiB")])).await.unwrap();
    let path = pools.prepare("p", Container, "c1").await.unwrap().commit().await.unwrap();
    let write = |at: PathBuf, mib: usize| {
        let file = std::fs::File::create(at).unwrap();
        (0..mib).try_for_each(|_| std::io::Write::write_all(&mut &file, &vec![7; MIB])).and_then(|()| file.sync_all())
    };
    pools.limit("p", Container, "c1", Some(30 << 20)).await.unwrap();
    write(path.join("one"), 20).unwrap();
    let usage = pools.usage("p", Container, "c1").await.unwrap();
    assert!((20 << 20..21 << 20).contains(&(usage as usize)), "{usage}");
    let error = write(path.join("two"), 20).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::QuotaExceeded);
    std::fs::remove_file(path.join("two")).unwrap();
    pools.limit("p", Container, "c1", Some(60 << 20)).await.unwrap();
    write(path.join("two"), 20).unwrap();
    // What its processes make a subvolume of counts too.
    btrfs(&["subvolume", "create"], &path.join("nested"));
    assert_eq!(write(path.join("nested/three"), 30).unwrap_err().kind(), std::io::ErrorKind::QuotaExceeded);
    pools.limit("p", Container, "c1", None).await.unwrap();
    write(path.join("nested/three"), 30).unwrap();
    // A copy has no limit until it is given one, and neither has it what was shared with it.
    let copied = copy(pools, &reference("p", Container, "c1"), &reference("p", Container, "c2")).await;
    pools.limit("p", Container, "c2", Some(10 << 20)).await.unwrap();
    assert_eq!(write(copied.join("nested/four"), 20).unwrap_err().kind(), std::io::ErrorKind::QuotaExceeded);
    pools.delete("p", Container, "c1").await.unwrap();
    pools.delete("p", Container, "c2").await.unwrap();
    pools.settle().await;
    let groups = Command::new("btrfs").args(["qgroup", "show"]).arg(bench.root()).output().unwrap();
    let groups = String::from_utf8_lossy(&groups.stdout).into_owned();
    assert!(!groups.lines().any(|line| line.starts_with("1/")), "{groups}");
    bench.end().await;
}

#[tokio::test]
async fn pools_in_directories_and_on_devices() {
    let bench = Bench::new().await;
    let pools = &bench.pools;
    pools.create("p", "btrfs", "", config(&[("size", "256MiB")])).await.unwrap();
    let host = bench.root();
    let (given, made) = (host.join("given"), host.join("made"));
    std::fs::create_dir(&given).unwrap();
    for (name, place) in [("given", &given), ("made", &made)] {
        pools.create(name, "btrfs", "", config(&[("source", place.to_str().unwrap())])).await.unwrap();
        let path = pools.prepare(name, Container, "c1").await.unwrap().commit().await.unwrap();
        assert_eq!((path.clone(), inode(&path)), (place.join("containers/c1"), 256));
        let again = Pools::open(bench.store.clone(), bench.dir.path().to_owned()).await.unwrap();
        assert_eq!(again.get(name).await.unwrap().problem, None);
        pools.delete(name, Container, "c1").await.unwrap();
        pools.delete_pool(name).await.unwrap();
    }
    assert!(given.exists() && !made.exists(), "a subvolume goes, a directory stays");
    std::fs::remove_dir(given).unwrap();
    let disk = bench.dir.path().join("disk");
    std::fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    let device = Command::new("losetup").args(["--find", "--show"]).arg(&disk).output().unwrap();
    let device = String::from_utf8(device.stdout).unwrap().trim().to_owned();
    let source = config(&[("source", &device)]);
    // What is on it is not lost: a file system is refused the second time, and removed with its pool.
    for _ in 0..2 {
        pools.create("d", "btrfs", "", source.clone()).await.unwrap();
        let path = pools.prepare("d", Container, "c1").await.unwrap().commit().await.unwrap();
        assert_eq!(inode(&path), 256);
        pools.delete("d", Container, "c1").await.unwrap();
        pools.settle().await;
        rustix::mount::unmount(bench.dir.path().join("storage-pools/d"), rustix::mount::UnmountFlags::empty()).unwrap();
        while_copied(|| std::fs::File::options().write(true).custom_flags(libc::O_EXCL).open(&device).is_ok());
        pools.delete_pool("d").await.unwrap();
    }
    assert!(Command::new("mkfs.btrfs").args(["--quiet", &device]).status().unwrap().success());
    let error = pools.create("d", "btrfs", "", source).await.unwrap_err();
    assert!(error.to_string().contains("wipefs"), "{error}");
    let kept = Command::new("blkid").args(["--probe", "--match-tag", "TYPE", &device]).output().unwrap();
    assert!(String::from_utf8_lossy(&kept.stdout).contains("btrfs"), "{kept:?}");
    assert!(Command::new("losetup").args(["--detach", &device]).status().unwrap().success());
    bench.end().await;
}

#[tokio::test]
async fn bad_requests_are_refused_by_name() {
    let bench = Bench::new().await;
    for (pairs, told) in [
        (&[("size", "1MiB")][..], "128MiB"),
        (&[("size", "big")], "not a size"),
        (&[("sise", "1GiB")], "did you mean \"size\"?"),
        (&[("btrfs.mount_options", "ro")], "leave it out"),
        (&[("source", "/dev/null")], "not a block device"),
        (&[("source", "relative")], "absolute"),
        (&[("source", "/dev/null"), ("size", "1GiB")], "together"),
        (&[("source", "/proc/nothing")], "not on a btrfs"),
    ] {
        let error = bench.pools.create("p", "btrfs", "", config(pairs)).await.unwrap_err();
        assert!(error.to_string().contains(told), "{pairs:?}: {error}");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    // The file system says no: nothing stays.
    let wrong = config(&[("size", "256MiB"), ("btrfs.mount_options", "no_such_option")]);
    let error = bench.pools.create("p", "btrfs", "", wrong).await.unwrap_err();
    assert!(matches!(error, StorageError::NotMade { .. }), "{error}");
    assert_eq!(bench.pools.get("p").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!bench.root().exists());
    bench.end().await;
}
