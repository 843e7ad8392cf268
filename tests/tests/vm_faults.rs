//! What becomes of virtual machines when something breaks: each fault is told with its reason and the next step, and
//! leaves nothing behind.

use std::path::{Path, PathBuf};

use berth_tests::guests::{Events, daemon_with_debian, sh, status, step, wait_booted};
use berth_tests::{Daemon, Run, Setup, Terminal};
use rustix::process::{Pid, Signal, kill_process};

/// Makes a `/dev` without `kvm` before the daemon starts.
const NO_KVM: &str = "dev=$(mktemp -d); mount -t tmpfs dev $dev; cp -a /dev/null /dev/zero /dev/full /dev/random \
                      /dev/urandom /dev/tty /dev/net $dev/; mount --move $dev /dev; rmdir $dev; exec \"$@\"";

#[test]
fn faults_of_virtual_machines() {
    let mut daemon = daemon_with_debian();
    a_disk_without_a_kernel_is_refused(&daemon);
    daemon.berth("launch debian/12 v1 --vm --wait").ok();
    wait_booted(&daemon, "v1");
    two_machines_cannot_write_one_disk(&daemon);
    a_killed_daemon_finds_its_machine_again(&mut daemon);
    a_killed_vmm_is_told_and_leaves_nothing(&daemon);
    a_killed_process_of_a_guest_is_told(&daemon);
    daemon.berth("start v1 --wait").ok();
    a_kernel_that_panics_is_told(&daemon);
    an_agent_that_never_comes_is_told(&daemon);
    a_guest_that_is_gone_early_ends_the_waiting(&daemon);
    without_kvm_nothing_starts(&mut daemon);
    daemon.finish();
}

fn a_disk_without_a_kernel_is_refused(daemon: &Daemon) {
    step("a disk without a kernel is refused");
    daemon.berth("init e1 --empty --vm").ok();
    let said = daemon.berth("start e1").fails();
    assert!(
        said.contains("neither an ext4 file system nor a table of partitions") && said.contains("root.img"),
        "{said}"
    );
    Run::new("mkfs.ext4", [Path::new("-q"), &disk_of(daemon, "e1")]).ok();
    let said = daemon.berth("start e1").fails();
    assert!(said.contains("neither a kernel") && said.contains("install a system"), "{said}");
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

fn two_machines_cannot_write_one_disk(daemon: &Daemon) {
    step("two machines cannot write one disk");
    daemon.berth("init e1 --empty --vm").ok();
    let disk = disk_of(daemon, "e1");
    std::fs::remove_file(&disk).unwrap();
    std::fs::hard_link(disk_of(daemon, "v1"), &disk).unwrap();
    let said = daemon.berth("start e1").fails();
    assert!(said.contains("another program") && said.contains("blk0"), "{said}");
    assert_eq!(status(daemon, "e1"), "STOPPED");
    daemon.berth("delete e1").ok();
    assert_eq!(sh(daemon, "v1", "echo still here"), "still here\n");
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

fn a_killed_vmm_is_told_and_leaves_nothing(daemon: &Daemon) {
    step("a killed vmm is told and leaves nothing");
    let events = Events::watch(daemon);
    kill_process(daemon.supervisor("v1"), Signal::KILL).unwrap();
    events.wait_for("instance-shutdown", "v1");
    assert_eq!(status(daemon, "v1"), "STOPPED");
    let info = daemon.berth("info v1").ok();
    assert!(info.contains("killed"), "{info}");
    nothing_runs(daemon);
}

fn a_killed_process_of_a_guest_is_told(daemon: &Daemon) {
    step("a killed process of a guest is told");
    daemon.berth("start v1").ok();
    let events = Events::watch(daemon);
    let process = Pid::from_raw(daemon.instance_pid("v1").try_into().unwrap()).unwrap();
    assert_ne!(process, daemon.supervisor("v1"));
    kill_process(process, Signal::KILL).unwrap();
    events.wait_for("instance-shutdown", "v1");
    assert_eq!(status(daemon, "v1"), "STOPPED");
    let info = daemon.berth("info v1").ok();
    assert!(info.contains("the VMM was killed, perhaps because memory ran out"), "{info}");
    nothing_runs(daemon);
}

fn a_kernel_that_panics_is_told(daemon: &Daemon) {
    step("a kernel that panics is told");
    let events = Events::watch(daemon);
    let script = "echo c > /proc/sysrq-trigger";
    let trigger = Terminal::start(daemon.berth_args(["exec", "v1", "--", "sh", "-c", script]));
    events.wait_for("instance-shutdown", "v1");
    assert_ne!(trigger.end().0, 0);
    assert_eq!(status(daemon, "v1"), "STOPPED");
    let info = daemon.berth("info v1").ok();
    assert!(info.contains("Kernel panic - not syncing: sysrq triggered crash"), "{info}");
    let log = daemon.berth("console v1 --show-log").ok();
    assert!(log.contains("Kernel panic - not syncing") && log.contains("Call Trace"), "{log}");
    nothing_runs(daemon);
}

/// The disk of a virtual machine.
fn disk_of(daemon: &Daemon, name: &str) -> PathBuf {
    let uuid = daemon.run_dir(name);
    daemon.volume_dir("virtual-machines").join(uuid.file_name().expect("it is named by its uuid")).join("root.img")
}

/// Gives the disk of a stopped virtual machine a boot loader entry for its kernel with these further lines.
fn set_boot_entry(daemon: &Daemon, name: &str, lines: &str) {
    let directory = tempfile::tempdir().unwrap();
    Run::new("mount", [Path::new("-oloop"), &disk_of(daemon, name), directory.path()]).ok();
    let boot = directory.path().join("boot");
    let find = |start: &str| {
        let names = std::fs::read_dir(&boot).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.into_iter().find(|name| name.starts_with(start)).unwrap()
    };
    let lines = lines.replace("INITRD", &find("initrd.img-"));
    std::fs::create_dir_all(boot.join("loader/entries")).unwrap();
    let entry = format!("linux /boot/{}\n{lines}\n", find("vmlinuz-"));
    std::fs::write(boot.join("loader/entries/test.conf"), entry).unwrap();
    Run::new("umount", [directory.path()]).ok();
}

fn an_agent_that_never_comes_is_told(daemon: &Daemon) {
    step("an agent that never comes is told");
    // Without them the guest has no vsock.
    let modules = "vsock,vmw_vsock_virtio_transport_common,vmw_vsock_virtio_transport";
    set_boot_entry(daemon, "v1", &format!("initrd /boot/INITRD\noptions module_blacklist={modules}"));
    let events = Events::watch(daemon);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| daemon.berth("start v1 --wait").any());
        events.wait_for("instance-started", "v1");
        let mut console = Terminal::start(daemon.berth("console v1"));
        console.expect("v1 login:");
        let said = daemon.berth("exec v1 -- true").fails();
        assert!(said.contains("agent") && said.contains("console"), "{said}");
        assert!(daemon.berth("file pull v1/etc/hostname -").fails().contains("agent"));
        assert!(daemon.instance_pid("v1") > 1);
        // The power button works without an agent.
        daemon.berth("stop v1").ok();
        let waited = waiter.join().unwrap();
        assert!(waited.status != 0 && waited.stderr.contains("stopped before it was ready"), "{waited:?}");
        console.end();
    });
    nothing_runs(daemon);
}

fn a_guest_that_is_gone_early_ends_the_waiting(daemon: &Daemon) {
    step("a guest that is gone early ends the waiting");
    // The disk's driver is in the initrd.
    set_boot_entry(daemon, "v1", "");
    let said = daemon.berth("start v1 --wait").fails();
    assert!(said.contains("stopped before it was ready") && said.contains("console"), "{said}");
    let info = daemon.berth("info v1").ok();
    assert!(info.contains("Kernel panic - not syncing: Attempted to kill init"), "{info}");
    nothing_runs(daemon);
}

fn without_kvm_nothing_starts(daemon: &mut Daemon) {
    step("without kvm nothing starts");
    daemon.stop();
    let mut blind = Setup::default().dir(daemon.dir()).in_own_mounts(NO_KVM).start();
    let said = blind.berth("start v1").fails();
    assert!(said.contains("/dev/kvm does not exist") && said.contains("enable"), "{said}");
    assert_eq!(status(&blind, "v1"), "STOPPED");
    nothing_runs(&blind);
    blind.stop();
    daemon.spawn();
}
