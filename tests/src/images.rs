//! Images for tests.

use std::fs::File;
use std::path::{Path, PathBuf};

const METADATA: &str = "architecture: x86_64
creation_date: 1700000000
properties:
  os: busybox
  description: A busybox for tests
";

/// Init of the busybox image: halts on SIGRTMIN+3 or SIGPWR, as an init of a system container must.
const INITTAB: &str = "::sysinit:/bin/true\n::respawn:/bin/sleep 86400\n::shutdown:/bin/true\n";

const NAMES: &[&str] = &[
    "sh", "cat", "echo", "ls", "id", "env", "sleep", "true", "false", "mount", "umount", "hostname", "ip", "ping",
    "udhcpc", "ps", "kill", "stty", "mkdir", "rm", "touch", "test", "head", "readlink", "ln", "mkfifo", "mknod", "dd",
    "nslookup", "tty", "pwd", "grep", "tr", "seq", "yes", "wc",
];

/// Of a file that root owns.
fn header() -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// A unified image tarball with a static busybox, written to `dir`.
pub fn busybox_image(dir: &Path) -> PathBuf {
    let path = dir.join("busybox.tar");
    let mut tar = tar::Builder::new(File::create(&path).expect("the image can be made"));
    let mut add = |name: &str, mode: u32, content: &[u8]| {
        let mut header = header();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).expect("the image can be written");
    };
    add("metadata.yaml", 0o644, METADATA.as_bytes());
    add("rootfs/bin/busybox", 0o755, &std::fs::read("/bin/busybox").expect("busybox-static is installed"));
    add("rootfs/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n");
    add("rootfs/etc/group", 0o644, b"root:x:0:\nuser:x:1000:\nextra:x:2000:user\n");
    add("rootfs/etc/inittab", 0o644, INITTAB.as_bytes());
    for name in ["dev", "proc", "sys", "run", "tmp", "root", "home/user", "sbin", "mnt"] {
        let mut header = header();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if name == "tmp" { 0o1777 } else { 0o755 });
        header.set_size(0);
        tar.append_data(&mut header, format!("rootfs/{name}"), std::io::empty()).expect("the image can be written");
    }
    let mut link = |name: String, target: &str| {
        let mut header = header();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, name, target).expect("the image can be written");
    };
    for name in NAMES {
        link(format!("rootfs/bin/{name}"), "busybox");
    }
    link("rootfs/sbin/init".to_owned(), "../bin/busybox");
    tar.finish().expect("the image can be written");
    path
}

/// Metadata and root file system of `debian/12`, which `cargo xtask test` builds before the tests.
pub fn debian_image() -> (PathBuf, PathBuf) {
    let dir = std::env::var_os("BERTH_TEST_IMAGE").map(PathBuf::from).unwrap_or_else(|| {
        panic!("BERTH_TEST_IMAGE names no directory with the image debian/12; run the tests by `cargo xtask test`")
    });
    let find = |wanted: &str| {
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("cannot read {}: {e}", dir.display()));
        let mut paths = entries.flatten().map(|entry| entry.path());
        paths
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(wanted)))
            .unwrap_or_else(|| panic!("{} has no {wanted}", dir.display()))
    };
    (find("metadata"), find("rootfs"))
}
