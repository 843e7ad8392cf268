//! What a whole Debian does in a container.

use berth_tests::Daemon;
use berth_tests::guests::{daemon_with_debian, sh};

fn wait_online(daemon: &Daemon, name: &str) {
    daemon.wait_booted(name);
    sh(daemon, name, "/lib/systemd/systemd-networkd-wait-online --ipv4 --ipv6 --operational-state=routable");
}

#[test]
fn two_find_each_other_by_name_also_while_the_daemon_restarts() {
    let mut daemon = daemon_with_debian();
    for name in ["c1", "c2"] {
        daemon.berth_args(["launch", "debian/12", name]).ok();
    }
    for name in ["c1", "c2"] {
        wait_online(&daemon, name);
    }
    let list = daemon.berth("list --format csv --columns n46").ok();
    for line in list.lines() {
        let fields: Vec<_> = line.split(',').collect();
        assert!(fields[1].contains("10.") && fields[1].contains("(eth0)"), "{list}");
        assert!(fields[2].contains("fd42:") && fields[2].contains("(eth0)"), "{list}");
    }
    let leases = daemon.berth_args(["network", "list-leases", &daemon.networks()[0], "--format", "csv"]).ok();
    assert!(leases.contains("c1,") && leases.contains("c2,"), "{leases}");

    sh(&daemon, "c1", "ping -4 -c 1 -W 5 c2");
    let address = list.lines().find(|line| line.starts_with("c2,")).unwrap().split([',', ' ']).nth(3).unwrap();
    assert!(sh(&daemon, "c1", &format!("ping -c 1 -W 5 {address}")).contains(address));
    sh(&daemon, "c2", "ping -4 -c 1 -W 5 c1.lxd");
    assert!(sh(&daemon, "c1", "getent ahostsv4 c2").contains("10."));
    // Not one packet is lost while the daemon ends and starts again.
    sh(&daemon, "c1", "systemd-run --quiet --unit=pinger ping -i 0.05 -c 60 c2");
    daemon.stop();
    daemon.spawn();
    sh(&daemon, "c1", "ping -c 1 -W 5 c2");
    let told = sh(&daemon, "c1", "journalctl --unit=pinger --follow --lines=all | grep -m 1 'packets transmitted'");
    assert!(told.contains("60 packets transmitted, 60 received"), "{told}");
    daemon.finish();
}

#[test]
fn it_is_confined_and_yet_a_whole_system() {
    let daemon = daemon_with_debian();
    daemon.berth("launch debian/12 c1 --config limits.memory=512MiB --config limits.cpu=1").ok();
    daemon.wait_booted("c1");
    assert_eq!(sh(&daemon, "c1", "cat /proc/1/comm"), "systemd\n");
    assert_eq!(sh(&daemon, "c1", "nproc; cat /etc/hostname"), "1\nc1\n");
    assert_eq!(sh(&daemon, "c1", "systemd-detect-virt"), "lxc\n");
    // Its root is not the host's.
    let owner = std::fs::metadata(daemon.volume_dir("containers")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 0);
    for forbidden in [
        "mknod /tmp/disk b 8 0",
        "mount -t ext4 /dev/vda /mnt",
        "echo 1 > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "dmesg",
        "modprobe dummy",
    ] {
        let output = daemon.berth_args(["exec", "c1", "--", "sh", "-c", forbidden]).any();
        assert_ne!(output.status, 0, "{forbidden}: {output:?}");
    }
    // Users, services and packages work as in a machine of its own.
    sh(&daemon, "c1", "useradd --create-home someone && su someone -c 'touch ~/file' && stat -c %U /home/someone/file");
    sh(&daemon, "c1", "systemd-run --wait --quiet --property=DynamicUser=yes true");
    sh(&daemon, "c1", "systemctl restart systemd-journald && journalctl --boot --lines=1");
    // A reboot from inside is a reboot.
    let before = daemon.instance_pid("c1");
    let run_dir = berth_tests::Watch::on(daemon.run_dir("c1"));
    daemon.berth("exec c1 -- systemctl reboot").any();
    run_dir.gone();
    daemon.berth("config set c1 user.sync=1").ok();
    assert_ne!(daemon.instance_pid("c1"), before);
    daemon.wait_booted("c1");
    // And so is a shutdown.
    let run_dir = berth_tests::Watch::on(daemon.run_dir("c1"));
    daemon.berth("exec c1 -- systemctl poweroff").any();
    run_dir.gone();
    daemon.berth("config set c1 user.sync=2").ok();
    assert_eq!(daemon.berth("list --format csv --columns ns").ok(), "c1,STOPPED\n");
    daemon.finish();
}
