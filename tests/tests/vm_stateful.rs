//! A virtual machine that is stopped with its run state goes on where it was.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth_tests::Daemon;
use berth_tests::guests::{Events, daemon_with_debian, sh, status, step, wait_booted};

const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

#[test]
fn a_virtual_machine_goes_on_where_it_was_stopped() {
    let mut daemon = daemon_with_debian();
    daemon.berth("launch debian/12 v1 --vm --wait -c limits.cpu=2 -c limits.memory=512MiB").ok();
    wait_booted(&daemon, "v1");
    it_has_to_be_allowed(&daemon);
    its_disk_grows(&daemon);
    its_disk_and_nic_are_limited(&daemon);
    let boot_id = sh(&daemon, "v1", BOOT_ID);
    something_goes_on_in_it(&daemon);

    step("it is stopped with its state");
    let before = counted(&daemon);
    daemon.berth("stop v1 --stateful").ok();
    assert_eq!(status(&daemon, "v1"), "STOPPED");
    daemon.stop();
    daemon.spawn();
    assert_eq!(daemon.instance("v1")["stateful"], true);
    what_does_not_fit_is_refused(&daemon);
    daemon.lxc("config device set v1 root size=12GiB").ok();

    step("it goes on");
    daemon.berth("start v1 --wait").ok();
    assert_eq!(sh(&daemon, "v1", BOOT_ID), boot_id, "it was not booted");
    assert_eq!(sh(&daemon, "v1", "cat /dev/shm/kept"), "in memory\n");
    it_counts_on_from(&daemon, before);
    it_has_grown_to(&daemon, 12);
    its_clock_is_right(&daemon);
    its_network_works(&daemon);
    it_is_limited_as_before(&daemon);
    assert_eq!(daemon.instance("v1")["stateful"], false);
    assert!(!state(&daemon).exists(), "a state that was used is gone");

    step("it is stopped so again, and its state is discarded");
    let events = Events::watch(&daemon);
    daemon.lxc("stop v1 --stateful").ok();
    daemon.lxc("start v1").ok();
    events.wait_for("instance-ready", "v1");
    drop(events);
    assert_eq!(sh(&daemon, "v1", BOOT_ID), boot_id, "lxc goes on from the state too");
    daemon.berth("stop v1 --stateful").ok();
    daemon.berth("start v1 --stateless").ok();
    assert!(!state(&daemon).exists());
    assert_eq!(daemon.instance("v1")["stateful"], false);
    daemon.berth("delete v1 --force").ok();
    daemon.finish();
}

/// The saved state of the instance.
fn state(daemon: &Daemon) -> PathBuf {
    let uuid = daemon.run_dir("v1");
    let uuid = uuid.file_name().expect("it is named by its uuid");
    daemon.volume_dir("virtual-machines").join(uuid).join("state")
}

fn it_has_to_be_allowed(daemon: &Daemon) {
    step("it has to be allowed");
    let said = daemon.berth("stop v1 --stateful").fails();
    assert!(said.contains("migration.stateful"), "{said}");
    assert_eq!(status(daemon, "v1"), "RUNNING");
    daemon.berth("config set v1 migration.stateful=true").ok();
    let said =
        daemon.lxc("query -X PUT -d {\"action\":\"start\",\"stateful\":true} --wait /1.0/instances/v1/state").fails();
    assert!(said.contains("already running"), "{said}");
}

fn its_disk_grows(daemon: &Daemon) {
    step("its disk grows while it runs");
    daemon.lxc("config device override v1 root size=11GiB").ok();
    it_has_grown_to(daemon, 11);
    let said = daemon.lxc("config device set v1 root size=10GiB").fails();
    assert!(said.contains("cannot shrink"), "{said}");
    assert_eq!(daemon.lxc("config device get v1 root size").ok(), "11GiB\n");
}

/// Mebibytes that are moved under a limit, and per second at most.
const MOVED: u64 = 8;
const RATE: u64 = 4;

/// Limits what there is of disk and NIC, by the real `lxc`. Nothing is measured but that it takes as long as it must.
fn its_disk_and_nic_are_limited(daemon: &Daemon) {
    step("its disk and its NIC are limited while it runs");
    sh(daemon, "v1", &format!("head -c {MOVED}M /dev/urandom > /root/moved; sync"));
    daemon.lxc(&format!("config device set v1 root limits.read={RATE}MiB limits.write={}MiB", RATE * 2)).ok();
    takes_its_time(daemon, READ, MOVED / RATE);
    let write = format!("dd if=/dev/zero of=/root/written bs=1M count={MOVED} conv=fsync 2>&1");
    takes_its_time(daemon, &write, MOVED / (RATE * 2));
    let said = daemon.lxc("config device set v1 root limits.max=1MB").fails();
    assert!(said.contains("say either it or them"), "{said}");
    daemon.lxc("config device unset v1 root limits.write").ok();
    daemon
        .lxc(&format!("config device override v1 eth0 limits.ingress={0}Mibit limits.egress={0}Mibit", RATE * 8))
        .ok();
    let said = daemon.lxc("config device set v1 eth0 mtu=1400").fails();
    assert!(said.contains("stop it first"), "{said}");
    let address = sh(daemon, "v1", "ip route show default | cut -d ' ' -f 3");
    let host = std::net::TcpListener::bind((address.trim(), 0)).expect("the host has the bridge's address");
    let port = host.local_addr().expect("it is bound").port();
    let connect = format!("/dev/tcp/{}/{port}", address.trim());
    let there = std::thread::spawn(move || {
        let (mut from_guest, _) = host.accept().expect("the guest connects");
        std::io::copy(&mut from_guest, &mut std::io::sink()).expect("the guest sends");
        let (mut to_guest, _) = host.accept().expect("the guest connects again");
        std::io::copy(&mut std::io::repeat(0).take(MOVED << 20), &mut to_guest).expect("the guest receives")
    });
    takes_its_time(daemon, &format!("bash -c 'exec 3<>{connect}; head -c {MOVED}M /dev/zero >&3'"), MOVED / RATE);
    takes_its_time(daemon, &format!("bash -c 'exec 3<>{connect}; head -c {MOVED}M <&3 | wc -c'"), MOVED / RATE);
    assert_eq!(there.join().expect("the host's end works"), MOVED << 20);
    daemon.lxc("config device remove v1 eth0").ok();
}

/// Reads `/root/moved` from the disk.
const READ: &str = "dd if=/root/moved of=/dev/null bs=1M iflag=direct 2>&1";

/// Limits come from the configuration, not from what was saved.
fn it_is_limited_as_before(daemon: &Daemon) {
    takes_its_time(daemon, READ, MOVED / RATE);
    daemon.lxc("config device unset v1 root limits.read").ok();
}

/// Runs `script`, which may not take less than `seconds`, but for what may go at once after a pause.
fn takes_its_time(daemon: &Daemon, script: &str, seconds: u64) {
    let start = Instant::now();
    let said = sh(daemon, "v1", script);
    let took = start.elapsed();
    eprintln!("   {script}: {took:?}");
    assert!(took + Duration::from_millis(500) > Duration::from_secs(seconds), "only {took:?}: {said}");
}

/// Waits for the guest's root file system to have its new size.
fn it_has_grown_to(daemon: &Daemon, gib: u64) {
    // In blocks of 4 KiB.
    sh(daemon, "v1", &format!("grep -m 1 'resized filesystem to {}' /dev/kmsg", gib << 18));
    let size: u64 = sh(daemon, "v1", "df --block-size=1 --output=size / | tail -n 1").trim().parse().expect("a number");
    assert!(size > ((gib << 30) - (gib << 30) / 20), "{size} is far from {gib} GiB");
}

/// A program that counts with a file open, a file in memory, and a clock that is wrong.
fn something_goes_on_in_it(daemon: &Daemon) {
    let count = "i=0; while sleep 0.2; do i=$((i+1)); echo $i >&3; done";
    sh(
        daemon,
        "v1",
        &format!("echo in memory > /dev/shm/kept; setsid sh -c '{count}' 3>/root/count >/dev/null 2>&1 </dev/null &"),
    );
    sh(
        daemon,
        "v1",
        "until test -s /root/count; do sleep 0.1; done; systemctl stop systemd-timesyncd; date -s 2001-01-01",
    );
}

fn counted(daemon: &Daemon) -> u64 {
    sh(daemon, "v1", "tail -n 1 /root/count").trim().parse().expect("it counts")
}

fn it_counts_on_from(daemon: &Daemon, before: u64) {
    sh(daemon, "v1", &format!("until test $(tail -n 1 /root/count) -gt {}; do sleep 0.1; done", before + 5));
    let lines: Vec<u64> = sh(daemon, "v1", "cat /root/count").lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.iter().copied().eq(1..=lines.len() as u64), "each number is there once: {lines:?}");
}

fn its_clock_is_right(daemon: &Daemon) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let earliest = now();
    let seconds: u64 = sh(daemon, "v1", "date +%s").trim().parse().unwrap();
    assert!((earliest - 1..=now() + 1).contains(&seconds), "{seconds} is not about {earliest}");
}

fn its_network_works(daemon: &Daemon) {
    let said = sh(daemon, "v1", "ping -c 2 -w 60 $(ip route show default | cut -d ' ' -f 3)");
    assert!(said.contains(" 0% packet loss"), "{said}");
}

/// Starts that must fail with a text, and leave the state as it was.
fn what_does_not_fit_is_refused(daemon: &Daemon) {
    step("what does not fit is refused");
    let refused = |text: &str| {
        let said = daemon.berth("start v1").fails();
        assert!(said.contains(text) && said.contains("--stateless"), "{said}");
        assert_eq!(status(daemon, "v1"), "STOPPED");
        assert_eq!(daemon.instance("v1")["stateful"], true);
    };
    daemon.berth("config set v1 limits.memory=600MiB").ok();
    refused("limits.memory");
    daemon.berth("config set v1 limits.memory=512MiB").ok();
    daemon.berth("config set v1 limits.cpu=1").ok();
    refused("limits.cpu");
    daemon.berth("config set v1 limits.cpu=2").ok();

    let open = |name: &str| open(&state(daemon).join(name));
    let (machine, ram) = (open("machine"), open("ram"));
    let mut byte = [0];
    machine.read_exact_at(&mut byte, 1000).unwrap();
    machine.write_all_at(&[!byte[0]], 1000).unwrap();
    refused("checksum");
    machine.write_all_at(&byte, 1000).unwrap();
    machine.read_exact_at(&mut byte, 0).unwrap();
    machine.write_all_at(b"X", 0).unwrap();
    refused("not the saved state");
    machine.write_all_at(&byte, 0).unwrap();
    let length = ram.metadata().unwrap().len();
    ram.set_len(length + 4096).unwrap();
    refused("wrong length");
    ram.set_len(length).unwrap();
}

fn open(path: &Path) -> std::fs::File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}
