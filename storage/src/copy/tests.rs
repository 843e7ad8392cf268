use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use proptest::prelude::*;

use super::*;
use rustix::fs::XattrFlags;

fn copied(from: &Path, to: &Path) -> io::Result<u64> {
    std::fs::create_dir(to).unwrap();
    tree(from, to, &AtomicBool::new(false), &|_| {})
}

fn sides() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    (dir, from, to)
}

#[test]
fn all_that_a_file_has_is_copied() {
    let (_dir, from, to) = sides();
    std::fs::create_dir_all(from.join("a/b")).unwrap();
    std::fs::write(from.join("a/file"), "content").unwrap();
    std::os::unix::fs::chown(from.join("a/file"), Some(33), Some(34)).unwrap();
    std::fs::set_permissions(from.join("a/file"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    fs::setxattr(from.join("a/file"), "user.note", b"hello", XattrFlags::empty()).unwrap();
    // Capability `net_raw`, permitted and effective (linux/capability.h, version 2).
    let raw = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    fs::setxattr(from.join("a/file"), "security.capability", &raw, XattrFlags::empty()).unwrap();
    std::fs::hard_link(from.join("a/file"), from.join("a/b/same")).unwrap();
    symlink("/etc/shadow", from.join("link")).unwrap();
    std::os::unix::fs::lchown(from.join("link"), Some(1), Some(2)).unwrap();
    fs::mknodat(CWD, from.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    // A whiteout, the one device that a container can make.
    fs::mknodat(CWD, from.join("whiteout"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    std::fs::set_permissions(from.join("a"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::File::open(from.join("a")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();

    assert_eq!(copied(&from, &to).unwrap(), 7);
    let file = std::fs::metadata(to.join("a/file")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777, file.nlink()), (33, 34, 0o4755, 2));
    assert_eq!(file.ino(), std::fs::metadata(to.join("a/b/same")).unwrap().ino());
    let mut value = [0; 64];
    let length = fs::getxattr(to.join("a/file"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"hello");
    let length = fs::getxattr(to.join("a/file"), "security.capability", &mut value).unwrap();
    assert_eq!(&value[..length], raw);
    assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("/etc/shadow"));
    let link = std::fs::symlink_metadata(to.join("link")).unwrap();
    assert_eq!((link.uid(), link.gid()), (1, 2));
    assert_eq!(std::fs::metadata(to.join("fifo")).unwrap().mode(), 0o10640);
    assert_eq!(std::fs::metadata(to.join("whiteout")).unwrap().mode(), 0o20000);
    assert_eq!(std::fs::metadata(to.join("socket")).unwrap().mode() & 0o170000, 0o140000);
    let directory = std::fs::metadata(to.join("a")).unwrap();
    assert_eq!((directory.mode() & 0o7777, directory.mtime()), (0o1777, 0));
    let mut names: Vec<_> = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "fifo", "link", "socket", "whiteout"], "and nothing else");
}

#[test]
fn acls_are_copied() {
    let (_dir, from, to) = sides();
    std::fs::write(from.join("file"), "x").unwrap();
    // user::rw-, user:33:r--, group::r--, mask::r--, other::--- (linux/posix_acl_xattr.h, version 2).
    let entry =
        |tag: u16, perm: u16, id: u32| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let entries = [(1, 6, none), (2, 4, 33), (4, 4, none), (16, 4, none), (32, 0, none)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    acl.extend(entries.into_iter().flat_map(|(tag, perm, id)| entry(tag, perm, id)));
    fs::setxattr(from.join("file"), "system.posix_acl_access", &acl, XattrFlags::empty()).unwrap();
    copied(&from, &to).unwrap();
    let mut value = [0; 64];
    let length = fs::getxattr(to.join("file"), "system.posix_acl_access", &mut value).unwrap();
    assert_eq!(&value[..length], acl);
    assert_eq!(std::fs::metadata(to.join("file")).unwrap().mode() & 0o777, 0o640);
}

#[test]
fn depth_is_no_obstacle() {
    let (_dir, from, to) = sides();
    let mut at = open(CWD, &from).unwrap();
    // Deeper than paths are long and than descriptors go.
    for _ in 0..2000 {
        fs::mkdirat(&at, "deep", Mode::from_raw_mode(0o700)).unwrap();
        at = open(at.as_fd(), "deep").unwrap();
    }
    fs::mknodat(&at, "bottom", FileType::RegularFile, Mode::from_raw_mode(0o600), 0).unwrap();
    fs::linkat(&at, "bottom", open(CWD, &from).unwrap(), "top", AtFlags::empty()).unwrap();
    copied(&from, &to).unwrap();
    let mut at = open(CWD, &to).unwrap();
    for _ in 0..2000 {
        at = open(at.as_fd(), "deep").unwrap();
    }
    let bottom = fs::statat(&at, "bottom", AtFlags::SYMLINK_NOFOLLOW).unwrap();
    assert_eq!(bottom.st_ino, std::fs::metadata(to.join("top")).unwrap().ino());
    for side in [from, to] {
        crate::tree::empty(&side).unwrap();
    }
}

#[test]
fn a_cancelled_copy_ends() {
    let (_dir, from, to) = sides();
    std::fs::write(from.join("file"), "x").unwrap();
    std::fs::create_dir(&to).unwrap();
    let cancel = CancelOnDrop::default();
    let flag = cancel.flag();
    drop(cancel);
    assert_eq!(tree(&from, &to, &flag, &|_| {}).unwrap_err().kind(), io::ErrorKind::Interrupted);
}

#[test]
fn copies_between_file_systems() {
    let (_dir, from, _) = sides();
    let other = tempfile::Builder::new().tempdir_in("/dev/shm").unwrap();
    std::fs::write(from.join("file"), vec![7; 3 << 20]).unwrap();
    assert_ne!(std::fs::metadata(&from).unwrap().dev(), std::fs::metadata(other.path()).unwrap().dev());
    copied(&from, &other.path().join("to")).unwrap();
    assert_eq!(std::fs::read(other.path().join("to/file")).unwrap(), vec![7; 3 << 20]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_pattern_of_holes_is_copied(size in 0_u64..4 << 20, pieces in proptest::collection::vec((0_u64..4 << 20, 1..50_000_usize), 0..8)) {
        let (_dir, from, to) = sides();
        let file = std::fs::File::create(from.join("file")).unwrap();
        file.set_len(size).unwrap();
        for (at, length) in pieces {
            file.write_all_at(&vec![at as u8 | 1; length], at).unwrap();
        }
        file.sync_all().unwrap();
        copied(&from, &to).unwrap();
        prop_assert!(std::fs::read(from.join("file")).unwrap() == std::fs::read(to.join("file")).unwrap());
        std::fs::File::open(to.join("file")).unwrap().sync_all().unwrap();
        let blocks = |path: &Path| std::fs::metadata(path.join("file")).unwrap().blocks();
        prop_assert!(blocks(&to) <= blocks(&from) + 16, "holes stay holes");
    }
}

/// What a copy of a real tree looks like to a program that compares all of it.
#[test]
fn a_real_tree_is_the_same_by_tar() {
    let (_dir, _, to) = sides();
    let from = Path::new("/etc");
    copied(from, &to).unwrap();
    let listing = |dir: &Path| {
        let args = ["--create", "--sort=name", "--xattrs", "--acls", "--numeric-owner", "--format=posix"];
        let fixed = ["--pax-option=exthdr.name=%d/pax/%f,delete=atime,delete=ctime", "--directory"];
        let output = Command::new("tar").args(args).args(fixed).arg(dir).arg(".").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    assert!(listing(from) == listing(&to));
}
