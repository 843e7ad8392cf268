//! What distinguishes a Berth image from a freshly installed Debian.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Template of `/etc/hostname`.
pub const HOSTNAME_TEMPLATE: &str = "{{ container.name }}\n";
/// Template of `/etc/hosts`.
pub const HOSTS_TEMPLATE: &str = "127.0.0.1\tlocalhost\n127.0.1.1\t{{ container.name }}\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// The search domain that comes with the lease makes plain names of neighbours work. The lease follows the hardware
/// address, which Berth assigns, and not the machine id, which a copy might share.
const NETWORK: &str = "[Match]\nName=eth* en*\n\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\nLLMNR=no\nMulticastDNS=no\n\n\
    [DHCPv4]\nClientIdentifier=mac\nUseDomains=yes\nUseHostname=no\n\n\
    [DHCPv6]\nUseDomains=yes\nUseHostname=no\n\n[IPv6AcceptRA]\nUseDomains=yes\n";
/// Interfaces are called `eth0` and so on in virtual machines as in containers.
const LINK: &str = "[Match]\nDriver=virtio_net\n\n[Link]\nNamePolicy=keep\nMACAddressPolicy=none\n";
const RESOLVED: &str = "[Resolve]\nResolveUnicastSingleLabel=yes\nLLMNR=no\nMulticastDNS=no\n";

/// A small initial RAM disk with what virtual hardware needs; it is unpacked at every boot.
const INITRAMFS: &str = "MODULES=list\nCOMPRESS=zstd\n";
const INITRAMFS_MODULES: &str = "virtio_pci\nvirtio_blk\nvirtio_scsi\nsd_mod\nvirtio_net\nvirtio_rng\nvirtio_console\n\
    ext4\nvsock\nvmw_vsock_virtio_transport\n";
/// No check at boot: the journal repairs what a crash leaves.
const FSTAB: &str = "LABEL=root / ext4 errors=remount-ro 0 0\n";

fn write(root: &Path, path: &str, text: &str) -> io::Result<()> {
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)
}

/// Configures network and locale.
pub fn settle(root: &Path) -> io::Result<()> {
    write(root, "etc/systemd/network/80-ethernet.network", NETWORK)?;
    write(root, "etc/systemd/network/10-virtio.link", LINK)?;
    write(root, "etc/systemd/resolved.conf.d/berth.conf", RESOLVED)?;
    write(root, "etc/default/locale", "LANG=C.UTF-8\n")
}

/// Configures what the kernel's package needs when it is installed.
pub fn prepare_kernel(root: &Path) -> io::Result<()> {
    write(root, "etc/initramfs-tools/conf.d/berth", INITRAMFS)?;
    write(root, "usr/share/initramfs-tools/modules.d/berth", INITRAMFS_MODULES)?;
    write(root, "etc/fstab", FSTAB)
}

/// Removed whole, if there.
const REMOVE: &[&str] = &[
    "etc/.resolv.conf.systemd-resolved.bak",
    "etc/apt/apt.conf.d/00mmdebstrap",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "usr/sbin/policy-rc.d",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
];
/// Emptied.
const EMPTY: &[&str] = &[
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/cache/apt",
    "var/cache/ldconfig",
    "var/lib/apt/lists",
    "var/lib/initramfs-tools/tmp",
    "var/log/apt",
    "var/tmp",
];
/// Directories in which files with the given end are removed.
const REMOVE_ENDINGS: &[(&str, &str)] = &[
    ("etc/ssh", "_key"),
    ("etc/ssh", "_key.pub"),
    ("var/cache/debconf", "-old"),
    ("var/lib/dpkg", "-old"),
    ("var/log", ".log"),
    ("etc", "passwd-"),
    ("etc", "group-"),
    ("etc", "shadow-"),
];

/// Takes away what belongs to the build or must differ between instances.
pub fn clean(root: &Path, sources: &[String]) -> io::Result<()> {
    // While packages are installed, mmdebstrap keeps a stand-in here.
    let real = root.join("usr/sbin/start-stop-daemon.REAL");
    if real.exists() {
        fs::rename(real, root.join("usr/sbin/start-stop-daemon"))?;
    }
    for path in REMOVE {
        remove(&root.join(path))?;
    }
    for path in EMPTY {
        for entry in entries(&root.join(path))? {
            remove(&entry)?;
        }
    }
    for (directory, ending) in REMOVE_ENDINGS {
        for entry in entries(&root.join(directory))? {
            if entry.to_str().is_some_and(|path| path.ends_with(ending)) {
                remove(&entry)?;
            }
        }
    }
    // Empty means: make one up at first boot, and do nothing else that belongs to a first boot.
    write(root, "etc/machine-id", "")?;
    write(root, "etc/hostname", "")?;
    fs::create_dir_all(root.join("var/lib/dbus"))?;
    symlink("/etc/machine-id", root.join("var/lib/dbus/machine-id"))?;
    symlink("../run/systemd/resolve/stub-resolv.conf", root.join("etc/resolv.conf"))?;
    write(root, "etc/apt/sources.list", &format!("{}\n", sources.join("\n")))
}

fn entries(directory: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(info) if info.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_leaves_nothing_of_the_build() {
        let root = tempfile::tempdir().expect("tempdir");
        let root = root.path();
        for path in
            ["usr/sbin/policy-rc.d", "var/log/dpkg.log", "etc/ssh/ssh_host_rsa_key", "tmp/x/y", "etc/machine-id"]
        {
            write(root, path, "x").expect("write");
        }
        write(root, "usr/sbin/start-stop-daemon", "fake").expect("write");
        write(root, "usr/sbin/start-stop-daemon.REAL", "real").expect("write");
        fs::create_dir_all(root.join("etc/apt")).expect("mkdir");
        clean(root, &["deb x y main".to_owned()]).expect("clean");
        for path in ["usr/sbin/policy-rc.d", "var/log/dpkg.log", "etc/ssh/ssh_host_rsa_key", "tmp/x"] {
            assert!(!root.join(path).exists(), "{path}");
        }
        assert_eq!(fs::read_to_string(root.join("etc/machine-id")).expect("read"), "");
        assert_eq!(fs::read_to_string(root.join("usr/sbin/start-stop-daemon")).expect("read"), "real");
        assert!(fs::read_link(root.join("etc/resolv.conf")).expect("link").ends_with("stub-resolv.conf"));
    }
}
