//! Devices of the host in a container, given at its start and later.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use berth_containers::spec::{ContainerSpec, Device, Mount, Node, NodeKind, NodeSource, Propagation};

use crate::common::*;

/// A directory of the host with a file in it.
fn shared(place: &Place) -> std::path::PathBuf {
    let shared = place.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("file"), "text").unwrap();
    shared
}

fn node(source: NodeSource, target: &str) -> Device {
    Device::Node(Node {
        kind: NodeKind::Char,
        source,
        target: target.into(),
        mode: 0o640,
        uid: 1000,
        gid: 29,
        required: true,
    })
}

/// Starts with the devices or gets them when it runs; both must look alike.
fn with_devices(place: &Place, live: bool, spec: &ContainerSpec) -> Running {
    if !live {
        return Running::start_spec(place, spec.clone());
    }
    let without = ContainerSpec { devices: Default::default(), ..spec.clone() };
    let container = Running::start_spec(place, without);
    container.change(spec).unwrap();
    container
}

#[test]
fn devices_are_the_same_early_and_late() {
    let place = Place::new();
    let shared = shared(&place);
    for live in [false, true] {
        let mut spec = place.spec();
        let plain = mount(&shared, "/mnt/plain");
        let none = mount(&place.path().join("none"), "/mnt/none");
        spec.devices = [
            ("plain", Device::Mount(plain.clone())),
            ("shifted", Device::Mount(Mount { shift: true, ..mount(&shared, "/mnt/shifted") })),
            ("readonly", Device::Mount(Mount { readonly: true, shift: true, ..mount(&shared, "mnt/readonly") })),
            ("file", Device::Mount(mount(&shared.join("file"), "/etc/file"))),
            ("none", Device::Mount(Mount { required: false, ..none.clone() })),
            ("null", node(NodeSource::Path("/dev/null".into()), "/dev/deep/er/null")),
            ("zero", node(NodeSource::Numbers { major: 1, minor: 5 }, "/dev/zero2")),
        ]
        .map(|(name, device)| (name.to_owned(), device))
        .into();
        let container = with_devices(&place, live, &spec);
        assert_eq!(container.text("stat -c %u /mnt/plain/file /mnt/shifted/file"), "65534\n0");
        assert_eq!(container.text("echo new > /mnt/shifted/new; cat /etc/file"), "text");
        assert_eq!(fs::read_to_string(shared.join("new")).unwrap(), "new\n");
        assert_ne!(container.sh("echo x > /mnt/readonly/x").status, 0);
        assert_ne!(container.sh("test -e /mnt/none").status, 0);
        assert_eq!(
            container.text("stat -c '%F %a %u %g %t %T' /dev/deep/er/null"),
            "character special file 640 1000 29 1 3"
        );
        assert_eq!(container.text("head -c 3 /dev/zero2 | od -An -tx1"), "00 00 00");
        assert_eq!(container.text("head -c 3 /dev/deep/er/null | wc -c"), "0");

        // All or nothing: with one that cannot be, the others are not touched.
        let good = spec.clone();
        spec.devices.remove("plain");
        spec.devices.insert("null".into(), node(NodeSource::Path("/dev/null".into()), "/dev/elsewhere"));
        spec.devices.insert("missing".into(), Device::Mount(none));
        let message = container.change(&spec).unwrap_err();
        assert!(message.contains("\"missing\"") && message.contains("none"), "{message}");
        container.text("test -e /mnt/plain/file -a -e /dev/deep/er/null -a ! -e /dev/elsewhere");
        spec.devices.remove("missing");
        // Its target is a file inside, so it fails when the others are done already.
        spec.devices.insert("zz".into(), Device::Mount(mount(&shared, "/sbin/init")));
        container.change(&spec).unwrap_err();
        container.text("test -e /mnt/plain/file -a -e /dev/deep/er/null");
        assert_eq!(container.sh("grep elsewhere /proc/self/mountinfo").out, "");
        container.change(&good).unwrap();

        spec.devices.clear();
        container.change(&spec).unwrap();
        assert_ne!(container.sh("grep -E ' /(mnt|etc/file|dev/deep|dev/zero2)' /proc/self/mountinfo").status, 0);
        container.text("test ! -e /dev/zero2 -a ! -e /dev/deep/er/null");
        container.kill();
    }
}

#[test]
fn a_start_without_what_is_required_fails() {
    let place = Place::new();
    let mut spec = place.spec();
    spec.devices.insert("gone".into(), Device::Mount(mount(&place.path().join("none"), "/mnt")));
    let message = Starting::new(&place, spec).created().unwrap_err();
    assert!(message.contains("\"gone\"") && message.contains("none"), "{message}");
}

#[test]
fn a_container_cannot_lead_its_devices_astray() {
    let place = Place::new();
    let shared = shared(&place);
    let outside = place.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, place.rootfs().join("link")).unwrap();
    symlink("/proc/1/root", place.rootfs().join("magic")).unwrap();
    let mut spec = place.spec();
    let container = Running::start_spec(&place, spec.clone());
    spec.devices.insert("link".into(), Device::Mount(mount(&shared, "/link/made")));
    let _ = container.change(&spec);
    spec.devices.insert("link".into(), Device::Mount(mount(&shared, "/magic/made")));
    let _ = container.change(&spec);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(outside.to_str().unwrap()));

    // It unmounts, moves and covers what it was given; the device can be taken away or is told of.
    spec.devices.clear();
    container.change(&spec).unwrap();
    let mut given = spec.clone();
    given.devices.insert("d".into(), Device::Mount(mount(&shared, "/mnt")));
    for script in ["umount /mnt", "mkdir -p /m2; mount --move /mnt /m2", "true"] {
        container.change(&given).unwrap();
        container.text(script);
        container.change(&spec).unwrap();
        assert_ne!(container.sh("grep -qE ' /(mnt|m2) ' /proc/self/mountinfo").status, 0, "{script}");
    }
    container.change(&given).unwrap();
    container.text("mount -t tmpfs none /mnt");
    let message = container.change(&spec).unwrap_err();
    assert!(message.contains("hides it at /mnt"), "{message}");
    container.text("umount /mnt; umount /mnt; true");
}

#[test]
fn mounts_of_the_host_spread_as_told() {
    let place = Place::new();
    let host = place.path().join("host");
    fs::create_dir_all(host.join("sub")).unwrap();
    let sh = |script: &str| assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success(), "{script}");
    let path = host.to_str().unwrap();
    sh(&format!("mount -t tmpfs none {path}; mount --make-shared {path}; mkdir {path}/sub"));
    let mut spec = place.spec();
    let device = |target: &str, propagation| Device::Mount(Mount { propagation, shift: true, ..mount(&host, target) });
    let kinds = [("private", Propagation::Private), ("slave", Propagation::Slave), ("stuck", Propagation::Unbindable)];
    for (name, propagation) in kinds {
        spec.devices.insert(name.into(), device(&format!("/mnt/{name}"), propagation));
    }
    let container = Running::start_spec(&place, spec);
    sh(&format!("mount -t tmpfs none {path}/sub; touch {path}/sub/seen"));
    let seen = container.text("cd /mnt; ls */sub/seen; true");
    let stuck = container.sh("mkdir -p /tmp/x; mount --bind /mnt/stuck /tmp/x").status;
    sh(&format!("umount -l {path}/sub {path}"));
    assert_eq!(seen, "slave/sub/seen");
    assert_ne!(stuck, 0);
}
