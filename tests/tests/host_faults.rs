//! Faults: killed daemons, full disks, dead helpers. Afterwards things are done or undone, and nothing is left behind.

use std::fs;
use std::path::Path;

use berth_tests::{Daemon, Setup, SmallDisk, Terminal, Watch, processes, programs};
use rustix::process::{Pid, Signal, kill_process};

/// Names of all instances.
fn names(daemon: &Daemon) -> String {
    daemon.berth("list --format csv --columns n").ok()
}

/// The pool of a daemon.
fn pool(daemon: &Daemon) -> std::path::PathBuf {
    daemon.dir().join("storage-pools/default")
}

#[test]
fn killed_in_the_middle_of_a_creation() {
    let mut daemon = Daemon::start();
    daemon.import_debian("debian").ok();
    // While the image is unpacked, and when the volume has just got its place.
    for place in [pool(&daemon).join(".pending"), daemon.volume_dir("containers")] {
        let watch = Watch::on(&place);
        let client = Terminal::start(daemon.berth("init debian c1"));
        watch.entry();
        daemon.kill();
        assert_ne!(client.end().0, 0);
        daemon.spawn();
        if names(&daemon) == "c1\n" {
            daemon.berth("start c1").ok();
            daemon.berth("delete --force c1").ok();
        }
        assert_eq!(names(&daemon), "", "{}", place.display());
        assert_eq!(fs::read_dir(pool(&daemon).join(".pending")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(daemon.volume_dir("containers")).unwrap().count(), 0);
    }
    daemon.berth("init debian c1").ok();
    daemon.finish();
}

#[test]
fn killed_in_the_middle_of_a_start() {
    let mut daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1").ok();
    let run_dir = daemon.run_dir("c1");
    fs::create_dir_all(daemon.dir().join("run")).unwrap();
    // When its directory is made, and when its monitor has written something into it.
    for deep in [false, true] {
        let watch = Watch::on(daemon.dir().join("run"));
        let client = Terminal::start(daemon.berth("start c1"));
        watch.entry();
        if deep && run_dir.exists() {
            Watch::on(&run_dir).entry();
        }
        daemon.kill();
        client.end();
        daemon.spawn();
        // The daemon starts what ran when it was killed, or the monitor lives on.
        daemon.berth("config set c1 user.sync=1").ok();
        let state = daemon.berth("list --format csv --columns s").ok();
        match state.trim() {
            "RUNNING" => drop(daemon.berth("exec c1 -- true").ok()),
            "STOPPED" => drop(daemon.berth("start c1").ok()),
            other => panic!("neither done nor undone: {other}"),
        }
        daemon.berth("stop --force c1").ok();
    }
    daemon.finish();
}

#[test]
fn killed_in_the_middle_of_a_deletion() {
    let mut daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1").ok();
    let volume = daemon.run_dir("c1");
    let volume = volume.file_name().unwrap().to_str().unwrap();
    let watch = Watch::on(daemon.volume_dir("containers"));
    let client = Terminal::start(daemon.berth("delete c1"));
    watch.left(volume);
    daemon.kill();
    client.end();
    daemon.spawn();
    assert_eq!(names(&daemon), "", "a deletion that began is finished");
    daemon.berth("init busybox c1").ok();
    daemon.finish();
}

#[test]
fn a_full_disk() {
    let disk = SmallDisk::new("48m");
    let daemon = Setup::default().dir(disk.path().join("data")).start();
    daemon.import_busybox();
    let images = Watch::on(daemon.dir().join("images"));
    let said = daemon.import_debian("debian").fails();
    assert!(said.contains("disk is full") && said.contains("free space"), "{said}");
    let staging = images.entry();
    images.left(staging.file_name().unwrap().to_str().unwrap());
    // Space for the state, not for another root.
    let filler = disk.fill(800 * 1024);
    let said = daemon.berth("init busybox c1").fails();
    assert!(said.contains("disk") && said.contains("free some space"), "{said}");
    assert_eq!(names(&daemon), "");
    // Not even for the state.
    fs::remove_file(filler).unwrap();
    let filler = disk.fill(0);
    let said = daemon.berth("init busybox c1").fails();
    assert!(said.contains("full"), "{said}");
    let said = daemon.berth("profile create p1").fails();
    assert!(said.contains("full"), "{said}");
    assert_eq!(names(&daemon), "");
    fs::remove_file(filler).unwrap();
    daemon.berth("profile create p1").ok();
    daemon.berth("launch busybox c1").ok();
    assert_eq!(daemon.berth("exec c1 -- echo there").ok(), "there\n");
    // An instance that fills the disk harms itself.
    let said = daemon.berth("exec c1 -- dd if=/dev/zero of=/root/large bs=1M").fails();
    assert!(said.contains("No space left"), "{said}");
    daemon.berth("list").ok();
    daemon.berth("delete --force c1").ok();
    daemon.finish();
}

/// A directory with Berth's programs but for some.
fn programs_without(missing: &[&str]) -> tempfile::TempDir {
    // In the same file system, so that links will do.
    let dir = tempfile::Builder::new().prefix("programs").tempdir_in(programs()).unwrap();
    for name in ["berthd", "berth-container", "berth-image", "berth-vmm", "berth-agent"] {
        if !missing.contains(&name) {
            fs::hard_link(programs().join(name), dir.path().join(name)).unwrap();
        }
    }
    dir
}

#[test]
fn dead_helpers() {
    let dir = programs_without(&["berth-container", "berth-image"]);
    let daemon = Setup::default().programs(dir.path()).start();
    let work = tempfile::tempdir().unwrap();
    let image = berth_tests::busybox_image(work.path());
    let import = || daemon.berth_args(["image", "import", image.to_str().unwrap(), "--alias", "busybox"]);
    let said = import().fails();
    assert!(said.contains("berth-image") && said.contains("install"), "{said}");
    fs::hard_link(programs().join("berth-image"), dir.path().join("berth-image")).unwrap();
    import().ok();
    daemon.berth("init busybox c1").ok();
    let said = daemon.berth("start c1").fails();
    assert!(said.contains("berth-container") && said.contains("c1") && said.contains("beside berthd"), "{said}");
    assert!(daemon.ports().is_empty());
    // One that ends at once.
    let helper = dir.path().join("berth-container");
    fs::write(&helper, "#!/bin/sh\necho out of order >&2\nexit 3\n").unwrap();
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let said = daemon.berth("start c1").fails();
    assert!(said.contains("c1") && said.contains("exit status: 3") && said.contains("supervisor.log"), "{said}");
    assert_eq!(daemon.berth("list --format csv --columns ns").ok(), "c1,STOPPED\n");
    assert!(daemon.berth("info c1").ok().contains("Last error: "));
    fs::remove_file(&helper).unwrap();
    fs::hard_link(programs().join("berth-container"), &helper).unwrap();
    daemon.berth("start c1").ok();
    assert!(!daemon.berth("info c1").ok().contains("Last error"));
    daemon.finish();
}

/// The parent of a process, if that lives.
fn parent(pid: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned())
}

#[test]
fn a_helper_that_is_killed_at_work() {
    let daemon = Daemon::start();
    daemon.import_debian("debian").ok();
    let pending = pool(&daemon).join(".pending");
    let watch = Watch::on(&pending);
    let client = Terminal::start(daemon.berth("init debian c1"));
    let volume = watch.entry();
    // The helper itself makes what appears in the new volume.
    Watch::on(&volume).entry();
    // Its child does the work, confined. That one's children show the same command until they have executed another program.
    let found = processes(&volume);
    let is_below = |pid: &str, above: &str| parent(pid).as_deref() == Some(above);
    let first = found.iter().find(|(pid, _)| found.iter().all(|(other, _)| !is_below(pid, other)));
    let (first, _) = first.expect("the helper is at work");
    let (pid, command) = found.iter().find(|(pid, _)| is_below(pid, first)).expect("its child is at work");
    assert!(command.contains("berth-image"), "{command}");
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    let (status, said) = client.end();
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("signal") && said.contains("9"), "{said}");
    assert_eq!(names(&daemon), "");
    daemon.finish();
}

fn vm_does_not_start(script: &str, expected: &[&str]) {
    let daemon = Setup::default().in_own_mounts(script).start();
    daemon.import_debian("debian").ok();
    let said = daemon.berth("launch debian v1 --vm").fails();
    for part in expected {
        assert!(said.contains(part), "\"{part}\" is missing in: {said}");
    }
    assert_eq!(daemon.berth("list --format csv --columns ns").ok(), "v1,STOPPED\n");
    assert!(daemon.ports().is_empty(), "{:?}", daemon.ports());
    assert_eq!(fs::read_dir(daemon.dir().join("run")).unwrap().count(), 0);
    daemon.finish();
}

#[test]
fn no_kvm() {
    // /dev without kvm, over which an overlay lies.
    let script = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/upper /mnt/work
        mount -t overlay -o lowerdir=/dev,upperdir=/mnt/upper,workdir=/mnt/work overlay /dev
        rm -f /dev/kvm; exec \"$@\"";
    vm_does_not_start(script, &["v1", "/dev/kvm"]);
}

#[test]
fn a_kvm_that_is_none() {
    if !Path::new("/dev/kvm").exists() {
        // The other test has shown all there is.
        return;
    }
    vm_does_not_start("mount --bind /dev/null /dev/kvm; exec \"$@\"", &["v1", "/dev/kvm"]);
}
