//! Images that are only a root file system, as virtual machines on the kernel beside the programs: Berth's own if
//! `cargo xtask kernel` built it, or else Debian's.

use std::fs::File;
use std::path::{Path, PathBuf};

use berth_tests::guests::{Events, sh, status, step, wait_booted};
use berth_tests::{Daemon, debian_image};

/// The image of the tests without its layer for virtual machines, as an image of LXD's for containers is.
fn container_image(dir: &Path) -> (PathBuf, PathBuf) {
    let (metadata, rootfs) = debian_image();
    let only = dir.join("metadata.tar");
    let mut archive = tar::Archive::new(File::open(metadata).expect("the image is there"));
    let mut made = tar::Builder::new(File::create(&only).expect("a file can be made"));
    for entry in archive.entries().expect("it is an archive") {
        let mut entry = entry.expect("it is whole");
        let mut header = entry.header().clone();
        let path = entry.path().expect("it has a name").into_owned();
        if !path.starts_with("vm") {
            made.append_data(&mut header, path, &mut entry).expect("it can be copied");
        }
    }
    made.finish().expect("it can be written");
    (only, rootfs)
}

#[test]
fn images_without_a_kernel_boot_as_virtual_machines() {
    let daemon = Daemon::with_busybox();
    let work = tempfile::tempdir().unwrap();
    let (metadata, rootfs) = container_image(work.path());
    let paths = [metadata.to_str().unwrap(), rootfs.to_str().unwrap()];
    daemon.berth_args(["image", "import", paths[0], paths[1], "--alias", "debian"]).ok();
    std::thread::scope(|scope| {
        let small = scope.spawn(|| {
            step("busybox, with its own init");
            daemon.berth("launch busybox v1 --vm --wait -c limits.memory=128MiB").ok();
        });
        step("debian, with its own init");
        daemon.berth("launch debian v2 --vm --wait -c limits.cpu=2").ok();
        wait_booted(&daemon, "v2");
        small.join().expect("busybox boots");
    });
    it_has_its_own_init(&daemon);
    debian_runs_well(&daemon);
    the_agent_serves_as_init(&daemon);
    the_real_lxc_takes_the_same_image_for_both(&daemon);
    daemon.finish();
}

fn it_has_its_own_init(daemon: &Daemon) {
    step("busybox has its own init");
    assert_eq!(sh(daemon, "v1", "readlink /proc/1/exe"), "/bin/busybox\n");
    assert_eq!(sh(daemon, "v1", "test -w / && echo yes"), "yes\n", "the root can be written");
    daemon.berth("stop v1").ok();
    assert_eq!(status(daemon, "v1"), "STOPPED");
}

fn debian_runs_well(daemon: &Daemon) {
    step("debian finds in the kernel what it needs");
    assert_eq!(sh(daemon, "v2", "nproc; hostname; findmnt -no FSTYPE / /sys/fs/cgroup"), "2\nv2\next4\ncgroup2\n");
    // Limits of services, name spaces, filters and BPF: what systemd uses for its own services.
    let unit = "systemd-run --quiet --wait --pipe -p MemoryMax=64M -p TasksMax=50 -p PrivateTmp=yes -p PrivateNetwork=yes \
                -p ProtectSystem=strict -p DynamicUser=yes -p SystemCallFilter=@system-service -p IPAddressDeny=any";
    assert_eq!(sh(daemon, "v2", &format!("{unit} -- echo confined")), "confined\n");
    let log = sh(daemon, "v2", "dmesg --level=emerg,alert,crit");
    assert_eq!(log, "", "the kernel has nothing to complain of");
    daemon.berth("delete --force v2").ok();
}

/// A root without an init, as most application images are.
fn the_agent_serves_as_init(daemon: &Daemon) {
    step("the agent serves as init");
    let events = Events::watch(daemon);
    daemon.berth("start v1").ok();
    events.wait_for("instance-ready", "v1");
    daemon.berth("exec v1 -- rm /sbin/init /etc/inittab").ok();
    daemon.berth("restart --force v1").ok();
    events.wait_for("instance-ready", "v1");
    assert_eq!(sh(daemon, "v1", "tr '\\0' '\\n' < /proc/1/cmdline"), "/berth-init\n");
    let mounts = sh(daemon, "v1", "cat /proc/mounts");
    for place in ["/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/shm", "/run"] {
        assert!(mounts.contains(&format!(" {place} ")), "{place}: {mounts}");
    }
    step("it has an address and finds names");
    // Nothing in this root tells that an address came.
    let script = "until ip -4 addr show eth0 | grep -q 'scope global'; do sleep 1; done; ping -c 1 -w 60 v1";
    let said = sh(daemon, "v1", script);
    assert!(said.contains(" 0% packet loss"), "{said}");
    assert!(sh(daemon, "v1", "cat /etc/resolv.conf").contains("nameserver "));
    step("it reaps orphans");
    sh(daemon, "v1", "for i in $(seq 50); do (true &); done");
    let processes = sh(daemon, "v1", "ps");
    // One that ended just now may be there still.
    assert!(processes.matches(" Z ").count() < 10, "orphans are left: {processes}");
    step("it restarts and goes down");
    let boot = sh(daemon, "v1", "cat /proc/sys/kernel/random/boot_id");
    sh(daemon, "v1", "echo kept > /root/kept");
    daemon.berth("restart v1").ok();
    events.wait_for("instance-ready", "v1");
    assert_ne!(sh(daemon, "v1", "cat /proc/sys/kernel/random/boot_id"), boot);
    assert_eq!(sh(daemon, "v1", "cat /root/kept"), "kept\n");
    daemon.berth("stop v1").ok();
    assert_eq!(status(daemon, "v1"), "STOPPED");
    let log = daemon.berth("console v1 --show-log").ok();
    assert!(log.contains("reboot: Power down"), "{log}");
    daemon.berth("delete v1").ok();
}

fn the_real_lxc_takes_the_same_image_for_both(daemon: &Daemon) {
    step("the real lxc takes the same image for both kinds");
    daemon.lxc("launch busybox l1").ok();
    daemon.lxc("init busybox/vm l2 --vm").ok();
    let list = daemon.lxc("list --format csv --columns nt").ok();
    assert_eq!(list, "l1,CONTAINER\nl2,VIRTUAL-MACHINE\n");
    daemon.lxc("delete --force l1 l2").ok();
}
