//! What becomes of virtual machines when something breaks: each fault is told with its reason and the next step, and
//! leaves nothing behind.

use std::path::PathBuf;

use berth_tests::guests::{daemon_with_debian, sh, status, step, wait_booted};
use berth_tests::{Daemon, Terminal};

#[test]
fn faults_of_virtual_machines() {
    let mut daemon = daemon_with_debian();
    a_disk_without_a_kernel_is_refused(&daemon);
    daemon.berth("launch debian/12 v1 --vm --wait").ok();
    wait_booted(&daemon, "v1");
    a_killed_daemon_finds_its_machine_again(&mut daemon);
    daemon.berth("delete --force v1").ok();
    nothing_runs(&daemon);
    daemon.finish();
}

fn a_disk_without_a_kernel_is_refused(daemon: &Daemon) {
    step("a disk without a kernel is refused");
    daemon.berth("init e1 --empty --vm").ok();
    let said = daemon.berth("start e1").fails();
    assert!(said.contains("neither an ext4 file system nor a GPT") && said.contains("root.img"), "{said}");
    assert_eq!(status(daemon, "e1"), "STOPPED");
    nothing_runs(daemon);
    daemon.berth("delete e1").ok();
}

/// No run directory and no tap device.
fn nothing_runs(daemon: &Daemon) {
    let runs = std::fs::read_dir(daemon.dir().join("run")).into_iter().flatten().flatten();
    assert_eq!(runs.map(|entry| entry.path()).collect::<Vec<_>>(), Vec::<PathBuf>::new());
    assert_eq!(daemon.ports(), Vec::<String>::new());
}

fn a_killed_daemon_finds_its_machine_again(daemon: &mut Daemon) {
    step("a killed daemon finds its machine again");
    let before = daemon.instance_pid("v1");
    let mut console = Terminal::start(daemon.berth("exec v1 -- cat"));
    console.send("a\r");
    console.expect("a\r\na\r\n");
    daemon.kill();
    assert_ne!(console.end().0, 0, "the client is told that its daemon is gone");
    daemon.spawn();
    assert_eq!(daemon.instance_pid("v1"), before);
    assert_eq!(sh(daemon, "v1", "echo still here"), "still here\n");
    assert_eq!(status(daemon, "v1"), "RUNNING");
}
