//! Tools of LXD's users: its modules of Ansible, and `lxd-benchmark`.

use std::path::Path;

use berth_tests::{Daemon, Run};

#[test]
fn ansible() {
    let daemon = Daemon::start();
    daemon.import_debian("debian").ok();
    let playbook = Path::new(env!("CARGO_MANIFEST_DIR")).join("ansible/life.yml");
    let server = format!("server=unix:{}/unix.socket", daemon.dir().display());
    let played = Run::new("ansible-playbook", [playbook.as_os_str(), "--extra-vars".as_ref(), server.as_ref()])
        .env("LXD_DIR", daemon.dir())
        .env("HOME", daemon.dir())
        .env("ANSIBLE_LOCALHOST_WARNING", "false")
        .env("ANSIBLE_INVENTORY_UNPARSED_WARNING", "false")
        .ok();
    assert!(played.contains("failed=0"), "{played}");
    daemon.finish();
}

/// One run of `lxd-benchmark`; it does not fail when an instance does, but tells.
fn benchmark(daemon: &Daemon, words: &str) -> String {
    let run = Run::new("lxd-benchmark", words.split(' ')).env("LXD_DIR", daemon.dir()).env("HOME", daemon.dir());
    let said = run.ok();
    assert!(!said.contains("Failed"), "{said}");
    said
}

#[test]
fn lxd_benchmark() {
    const COUNT: usize = 12;
    let daemon = Daemon::with_busybox();
    let states = || daemon.berth("list --format csv --columns s").ok();
    benchmark(&daemon, &format!("launch --count {COUNT} --parallel 4 busybox"));
    assert_eq!(states(), "RUNNING\n".repeat(COUNT));
    benchmark(&daemon, "stop --parallel 4");
    assert_eq!(states(), "STOPPED\n".repeat(COUNT));
    benchmark(&daemon, "start --parallel 4");
    assert_eq!(states(), "RUNNING\n".repeat(COUNT));
    benchmark(&daemon, "delete --parallel 4");
    assert_eq!(states(), "");
    daemon.finish();
}
