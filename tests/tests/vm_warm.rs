//! Virtual machines that go on from a warm image, as guests of their own.

use std::collections::BTreeSet;

use berth_tests::Daemon;
use berth_tests::guests::{Events, daemon_with_debian, sh, status, step, wait_booted};

const SHAPE: &str = "--vm -c limits.memory=256MiB";

#[test]
fn warm_machines_are_ready_at_once_and_strangers_to_each_other() {
    let mut daemon = daemon_with_debian();
    daemon.berth("image warm debian/12 -c limits.memory=256MiB").ok();
    it_can_be_seen_and_nothing_of_it_runs(&daemon);
    what_cannot_be_had_warm_is_told(&daemon);

    step("two go on from it");
    daemon.berth(&format!("launch debian/12 v1 {SHAPE} --warm --wait")).ok();
    daemon.berth(&format!("launch debian/12 v2 {SHAPE} --warm")).ok();
    // It is put on the network when it knows who it is, which is for the next daemon to see.
    daemon.kill();
    daemon.spawn();
    wait_ready(&daemon, "v2");
    assert_eq!(found(&daemon), 1, "both have used the one there was");
    assert_eq!(sh(&daemon, "v1", BOOT_ID), sh(&daemon, "v2", BOOT_ID), "neither has booted by itself");
    they_have_names_and_ids_of_their_own(&daemon);
    they_reach_each_other(&daemon);

    step("one boots like any other afterwards");
    daemon.berth("stop v1").ok();
    assert_eq!(daemon.instance("v1")["stateful"], false);
    daemon.berth("start v1 --wait").ok();
    assert_eq!(sh(&daemon, "v1", "hostname"), "v1\n");
    assert_ne!(sh(&daemon, "v1", BOOT_ID), sh(&daemon, "v2", BOOT_ID));
    daemon.berth("delete --force v1").ok();

    step("it lasts as long as its image, and machines longer");
    daemon.kill();
    daemon.spawn();
    assert_eq!(found(&daemon), 1);
    daemon.berth("image delete debian/12").ok();
    assert_eq!(sh(&daemon, "v2", "hostname"), "v2\n");
    daemon.berth("delete --force v2").ok();
    daemon.finish();
}

const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

/// Waits for the agent of an instance that runs.
fn wait_ready(daemon: &Daemon, name: &str) {
    let events = Events::watch(daemon);
    let state = daemon.berth(&format!("query /1.0/instances/{name}/state")).json();
    if state["processes"] == -1 {
        events.wait_for("instance-ready", name);
    }
}

/// How many warm images there are.
fn found(daemon: &Daemon) -> usize {
    daemon.berth("image warm debian/12 --list --format json").json().as_array().expect("a list").len()
}

fn it_can_be_seen_and_nothing_of_it_runs(daemon: &Daemon) {
    step("it can be seen, and nothing of it runs");
    let list = daemon.berth("image warm debian/12 --list --format csv").ok();
    assert!(list.starts_with("1,256.00MiB,10.00GiB,1,default,"), "{list}");
    assert_eq!(daemon.berth("list --format csv").ok(), "");
    let run = std::fs::read_dir(daemon.dir().join("run")).map(Iterator::count).unwrap_or(0);
    assert_eq!(run, 0, "a run directory is left");
    // Once more is no work.
    daemon.berth("image warm debian/12 -c limits.memory=256MiB").ok();
    assert_eq!(found(daemon), 1);
}

fn what_cannot_be_had_warm_is_told(daemon: &Daemon) {
    step("what cannot be had warm is told");
    let said =
        daemon.berth_args(["init", "debian/12", "x", "--vm", "--warm", "-c", "user.user-data=#cloud-config"]).fails();
    assert!(said.contains("cloud-init") && said.contains("without --warm"), "{said}");
    assert!(daemon.berth("init debian/12 x --warm").fails().contains("--vm"));
    assert_eq!(daemon.berth("list --format csv").ok(), "");
}

fn they_have_names_and_ids_of_their_own(daemon: &Daemon) {
    step("they have names, ids and addresses of their own");
    for name in ["v1", "v2"] {
        assert_eq!(sh(daemon, name, "hostname; cat /etc/hostname"), format!("{name}\n{name}\n"));
        let hwaddr = daemon.berth(&format!("config get {name} volatile.eth0.hwaddr")).ok();
        assert_eq!(sh(daemon, name, "cat /sys/class/net/eth0/address"), hwaddr);
        wait_booted(daemon, name);
    }
    for command in [
        "cat /etc/machine-id",
        "ip -4 addr show eth0 | grep -o 'inet [0-9.]*'",
        "ip -6 addr show eth0 scope link | grep -o 'inet6 [0-9a-f:]*'",
        "head -c 16 /dev/urandom | od -An -tx1",
        "cat /proc/sys/kernel/random/uuid",
    ] {
        let wait = "/lib/systemd/systemd-networkd-wait-online --ipv4 --operational-state=routable --timeout=300";
        let said: BTreeSet<_> =
            ["v1", "v2"].iter().map(|name| sh(daemon, name, &format!("{wait} && {command}"))).collect();
        assert_eq!(said.len(), 2, "{command}: {said:?}");
        assert!(said.iter().all(|text| !text.trim().is_empty()), "{command}: {said:?}");
    }
    assert_eq!(status(daemon, "v1"), "RUNNING");
}

fn they_reach_each_other(daemon: &Daemon) {
    step("they reach each other by name");
    for (from, to) in [("v1", "v2"), ("v2", "v1")] {
        let said = sh(daemon, from, &format!("ping -4 -c 2 -w 120 {to}"));
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
}
