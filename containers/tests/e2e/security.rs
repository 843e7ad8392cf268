//! What a container must not be able to do.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use berth_containers::spec::{Device, Limits, MemoryLimit, Mount};

use crate::common::*;

/// Fails if any of the scripts succeeds.
fn assert_all_refused(container: &Running, scripts: &[&str]) {
    for script in scripts {
        let output = container.sh(script);
        assert_ne!(output.status, 0, "{script}: {output:?}");
    }
}

#[test]
fn the_host_cannot_be_touched_from_inside() {
    let place = Place::new();
    let container = Running::start(&place);
    assert_all_refused(
        &container,
        &[
            "mknod /tmp/disk b 254 0",
            "mknod /tmp/null c 1 3",
            "echo x > /proc/sys/kernel/core_pattern",
            "echo 1 > /proc/sys/vm/drop_caches",
            "echo b > /proc/sysrq-trigger",
            "echo x > /sys/kernel/uevent_helper",
            "echo 1 > /proc/sys/kernel/panic",
            "dmesg -c",
            "cat /proc/kcore",
            "cat /proc/kmsg",
            "echo -900 > /proc/self/oom_score_adj",
            "ulimit -H -n 2000000",
            "cat /dev/mem",
            "insmod /bin/busybox",
            "rmmod ext4",
            "umount -f /dev/shm",
            "ls /sys/kernel/debug/* 2>/dev/null",
        ],
    );
    // Its status tells nothing.
    assert!(container.sh("date -s 2001-01-01").err.contains("not permitted"));
    assert_eq!(container.text("grep CapEff /proc/self/status | cut -f2"), full_capabilities());
}

/// All capabilities this kernel has, as a container's root holds them in its own user namespace.
fn full_capabilities() -> String {
    let last: u32 = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
    format!("{:016x}", (1u64 << (last + 1)) - 1)
}

#[test]
fn file_systems_of_the_host_cannot_be_mounted() {
    let place = Place::new();
    let image = place.rootfs().join("disk");
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    assert!(std::process::Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&image).status().unwrap().success());
    let container = Running::start(&place);
    container.text("mkdir -p /mnt");
    assert_all_refused(
        &container,
        &["mount -t ext4 /disk /mnt", "mount -o loop /disk /mnt", "mount -t ext4 /dev/vda /mnt"],
    );
    // These are its own.
    container.text("mount -t tmpfs none /mnt && touch /mnt/x && umount /mnt");
}

#[test]
fn limits_cannot_be_raised_from_inside() {
    let place = Place::new();
    let mut spec = place.spec();
    spec.limits = Limits { memory: Some(MemoryLimit::Hard(256 << 20)), processes: Some(200), ..Limits::default() };
    let container = Running::start_spec(&place, spec);
    for controller in ["memory", "pids", "cpu", "cpuset", "freezer", "devices", "systemd"] {
        let script = format!("mkdir -p /tmp/cg; mount -t cgroup -o {controller} none /tmp/cg");
        let script =
            if controller == "systemd" { script.replace("-o systemd", "-o none,name=systemd") } else { script };
        if container.sh(&script).status != 0 {
            continue;
        }
        // The root of what it sees is its own payload; the limits lie above.
        let output = container.sh(
            "cd /tmp/cg; for f in memory.limit_in_bytes memory.max pids.max cpu.shares cpuset.cpus freezer.state \
             devices.allow release_agent notify_on_release cgroup.clone_children; do [ -e $f ] && echo 1 > $f && echo $f; \
             done; true",
        );
        assert_eq!(output.out, "", "{controller}");
        container.text("umount /tmp/cg");
    }
    // Version 2 is mounted already; its root belongs to the container, the limits do not.
    let files = "memory.max memory.high pids.max cpu.max cpu.weight cpuset.cpus cgroup.freeze cgroup.kill";
    let script = format!("cd /sys/fs/cgroup; for f in {files}; do [ -e $f ] && echo 1 > $f && echo $f; done; true");
    assert_eq!(container.sh(&script).out, "");
    let dir = cgroup_of(&container.spec, "memory");
    let limit =
        fs::read_to_string(dir.join("memory.limit_in_bytes")).or_else(|_| fs::read_to_string(dir.join("memory.max")));
    assert_eq!(limit.unwrap().trim(), (256 << 20).to_string());
}

#[test]
fn flags_of_mounts_from_the_host_are_locked() {
    let place = Place::new();
    let shared = place.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("file"), "text").unwrap();
    // A device node in an image: that of the host's null device would do no harm, but shows the way.
    let node = place.rootfs().join("node");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &node,
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).unwrap();
    let mut spec = place.spec();
    let readonly = |target: &str| Device::Mount(Mount { readonly: true, shift: true, ..mount(&shared, target) });
    spec.devices.insert("early".into(), readonly("/mnt"));
    let container = Running::start_spec(&place, spec.clone());
    spec.devices.insert("late".into(), readonly("/srv"));
    container.change(&spec).unwrap();
    assert_all_refused(
        &container,
        &[
            "mount -o remount,bind,rw /srv",
            "mount -o remount,rw /srv && echo x > /srv/x",
            "mount --bind /srv /tmp && mount -o remount,bind,rw /tmp",
            "echo x > /srv/file",
            "echo x > /node",
            "mount -o remount,bind,dev / && echo x > /node",
            "mount -o remount,dev / && echo x > /node",
            "mkdir -p /tmp/b; mount --bind / /tmp/b && mount -o remount,bind,dev /tmp/b",
            "mount -o remount,bind,rw /mnt",
            "mount -o remount,rw /mnt && echo x > /mnt/x",
            "mount --bind /mnt /tmp && mount -o remount,bind,rw /tmp",
            "echo x > /mnt/file",
        ],
    );
    assert!(!shared.join("x").exists());
}

#[test]
fn programs_inherit_nothing_but_their_streams() {
    let place = Place::new();
    let container = Running::start(&place);
    // The listing itself needs one more.
    assert_eq!(container.text("ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3");
    assert_eq!(container.text("ls /proc/1/fd | grep -v '^10$' | tr '\\n' ' '"), "0 1 2", "10 is the shell's script");
    assert_eq!(container.text("ls -l /proc/1/fd | grep -c console"), "3");
    assert!(!container.text("cat /proc/self/mountinfo").contains(place.path().join("run").to_str().unwrap()));
    assert_eq!(container.text("cat /proc/keys | wc -l; true").lines().count(), 1);
}

#[test]
fn the_runtimes_binary_cannot_be_reached() {
    let place = Place::new();
    let binary = env!("CARGO_BIN_EXE_berth-container");
    let before = fs::metadata(binary).unwrap();
    // A program of the container that makes whoever runs it run itself.
    for (name, text) in [("trap", "#!/proc/self/exe\n"), ("grab", "#!/bin/sh\nexec 3>/proc/$PPID/exe\n")] {
        let path = place.rootfs().join("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let container = Running::start(&place);
    if let Ok(output) = container.run(container.exec_spec(&["/bin/trap"])) {
        assert_ne!(output.status, 0);
    }
    assert_all_refused(&container, &["/bin/grab"]);
    let after = fs::metadata(binary).unwrap();
    assert_eq!((before.ino(), before.mtime(), before.len()), (after.ino(), after.mtime(), after.len()));
}

#[test]
fn a_nested_container_has_what_it_needs() {
    let place = Place::new();
    let mut spec = place.spec();
    spec.nesting = true;
    let container = Running::start_spec(&place, spec);
    let script = "unshare -Urpfm sh -c 'mkdir -p /tmp/p && mount -t proc none /tmp/p && cat /tmp/p/self/uid_map'";
    assert!(container.text(script).starts_with('0'));
    drop(container);
    let container = Running::start(&place);
    assert_all_refused(&container, &[script]);
}

#[test]
fn boot_ids_differ() {
    let place = Place::new();
    let container = Running::start(&place);
    let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let inside = container.text("cat /proc/sys/kernel/random/boot_id");
    assert_eq!(inside.len(), 36);
    assert_ne!(inside, host.trim());
}

#[test]
fn another_containers_files_and_processes_are_out_of_reach() {
    let (one, two) = (Place::new(), Place::new());
    let (first, second) = (Running::start(&one), Running::start(&two));
    assert_ne!(first.spec.idmap, second.spec.idmap);
    assert_eq!(first.text("ps | grep -c '[s]bin/init'"), "1");
    assert_ne!(first.sh(&format!("ls {}", two.rootfs().display())).status, 0);
    assert_ne!(first.sh(&format!("kill -0 {}", second.pid)).status, 0);
}
