//! A virtual machine of `debian/12` from its launch to its end, through `berth` and through the real `lxc`.
//!
//! A boot takes long where it is emulated, so each machine is used for much.

use std::path::Path;

use berth_tests::guests::{Events, daemon_with_debian, sh, status, step, wait_booted};
use berth_tests::{Daemon, Terminal};

#[test]
fn a_virtual_machine_lives_beside_a_container() {
    let daemon = daemon_with_debian();
    std::thread::scope(|scope| {
        // Both boot at once.
        let container = scope.spawn(|| {
            daemon.berth("launch debian/12 c1 --wait").ok();
            wait_booted(&daemon, "c1");
        });
        let said = daemon.berth("launch debian/12 v1 --vm --wait -c limits.cpu=2 -c limits.memory=768MiB").ok();
        assert!(said.contains("Creating v1") && said.contains("Starting v1"), "{said}");
        wait_booted(&daemon, "v1");
        container.join().expect("the container boots");
    });
    it_is_listed_with_its_state(&daemon);
    they_reach_each_other_by_name(&daemon);
    daemon.berth("delete --force c1").ok();
    it_has_its_limits(&daemon);
    its_process_is_confined(&daemon);
    exec_passes_everything_on(&daemon);
    a_terminal_is_a_terminal(&daemon);
    signals_reach_a_program(&daemon);
    files_go_in_and_out(&daemon);
    its_console_can_be_used(&daemon);
    it_is_paused_and_goes_on(&daemon);
    it_is_configured(&daemon);
    it_restarts_from_inside(&daemon);
    it_shuts_down_cleanly(&daemon);
    daemon.berth("delete v1").ok();
    the_real_lxc_works_with_it(&daemon);
    daemon.finish();
}

fn it_is_listed_with_its_state(daemon: &Daemon) {
    step("it is listed with its state");
    let row = daemon.berth("list v1 --format csv --columns nst4").ok();
    assert!(row.starts_with("v1,RUNNING,VIRTUAL-MACHINE,") && row.contains("(eth0)"), "{row}");
    let state = daemon.get("/1.0/instances/v1/state");
    let number = |path: &str| state.pointer(path).and_then(serde_json::Value::as_i64).unwrap_or_default();
    assert!(number("/processes") > 10, "{state}");
    assert!(number("/memory/usage") > 10 << 20, "{state}");
    assert!(number("/cpu/usage") > 0, "{state}");
    assert!(number("/pid") > 1, "{state}");
    let addresses = state.pointer("/network/eth0/addresses").and_then(|a| a.as_array()).expect("addresses");
    for family in ["inet", "inet6"] {
        let found = addresses.iter().any(|a| a["family"] == family && a["scope"] == "global");
        assert!(found, "no global address of {family}: {state}");
    }
    assert!(state["network"]["eth0"]["host_name"].as_str().is_some_and(|name| !name.is_empty()), "{state}");
    let info = daemon.berth("info v1").ok();
    assert!(info.contains("virtual-machine") && info.contains("RUNNING"), "{info}");
    assert_eq!(sh(daemon, "v1", "hostname; cat /etc/hostname"), "v1\nv1\n");
    assert!(sh(daemon, "v1", "cat /etc/os-release").contains("bookworm"));
}

fn they_reach_each_other_by_name(daemon: &Daemon) {
    step("they reach each other by name");
    for (from, to) in [("v1", "c1"), ("c1", "v1")] {
        let said = sh(daemon, from, &format!("ping -c 2 -w 60 {to}"));
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
}

fn it_has_its_limits(daemon: &Daemon) {
    step("it has its limits");
    assert_eq!(sh(daemon, "v1", "nproc"), "2\n");
    let kib: u64 = sh(daemon, "v1", "awk '/^MemTotal/ {print $2}' /proc/meminfo").trim().parse().unwrap();
    assert!((640 << 10..768 << 10).contains(&kib), "{kib} KiB");
}

fn its_process_is_confined(daemon: &Daemon) {
    step("its process is confined");
    let process = std::path::PathBuf::from(format!("/proc/{}", daemon.instance_pid("v1")));
    let mut names = Vec::new();
    for task in std::fs::read_dir(process.join("task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            line.unwrap_or_else(|| panic!("no {name} in {status}")).to_owned()
        };
        names.push(field("Name"));
        for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(capabilities), "0000000000000000", "{status}");
        }
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"), "{status}");
        for ids in [field("Uid"), field("Gid")] {
            let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert!(ids.iter().all(|id| *id >= 1_000_000 && *id == ids[0]), "{status}");
        }
        assert_eq!(field("Groups").trim(), "", "{status}");
    }
    for name in ["vcpu0", "vcpu1", "rng", "vsock", "net0", "blk0"] {
        assert!(names.iter().any(|thread| thread == name), "no thread {name} in {names:?}");
    }
    let own = Path::new("/proc/self");
    for namespace in ["mnt", "pid", "net", "ipc", "uts"] {
        let of = |process: &Path| std::fs::read_link(process.join("ns").join(namespace)).unwrap();
        assert_ne!(of(&process), of(own), "{namespace}");
    }
    let root = std::fs::read_dir(process.join("root")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(root.collect::<Vec<_>>(), ["vsock"]);
}

fn exec_passes_everything_on(daemon: &Daemon) {
    step("exec passes everything on");
    let status = |words: &str| daemon.berth(words).any().status;
    assert_eq!(status("exec v1 -- true"), 0);
    assert_eq!(daemon.berth_args(["exec", "v1", "--", "sh", "-c", "exit 7"]).any().status, 7);
    assert_eq!(daemon.berth_args(["exec", "v1", "--", "sh", "-c", "kill -9 $$"]).any().status, 137);
    assert_eq!(status("exec v1 -- /no/such/program"), 127);
    assert_eq!(status("exec v1 -- /etc/passwd"), 126);
    let output = daemon.berth_args(["exec", "v1", "--", "sh", "-c", "echo out; echo err >&2"]).any();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    let large = "0123456789abcde\n".repeat(65536);
    assert!(daemon.berth("exec v1 -- cat").input(large.clone()).ok() == large, "a megabyte comes back whole");
    assert_eq!(daemon.berth("exec v1 --cwd /tmp -- pwd").ok(), "/tmp\n");
    assert_eq!(daemon.berth_args(["exec", "v1", "--env", "A=b c", "--", "sh", "-c", "echo $A"]).ok(), "b c\n");
    let words = ["exec", "v1", "--user", "1000", "--group", "1001", "--", "sh", "-c", "id -u; id -g"];
    assert_eq!(daemon.berth_args(words).ok(), "1000\n1001\n");
}

fn a_terminal_is_a_terminal(daemon: &Daemon) {
    step("a terminal is a terminal");
    let script = "stty size; tty; trap 'stty size; exit 9' WINCH; echo ready; sleep 1000 & wait";
    let mut terminal = Terminal::start(daemon.berth_args(["exec", "v1", "--", "sh", "-c", script]));
    let shown = terminal.expect("ready");
    assert!(shown.contains("24 80") && shown.contains("/dev/pts/"), "{shown}");
    terminal.resize(120, 50);
    terminal.expect("50 120");
    assert_eq!(terminal.end().0, 9);

    let mut terminal = Terminal::start(daemon.berth("exec v1 -- cat"));
    terminal.send("typed\r");
    terminal.expect("typed\r\ntyped\r\n");
    terminal.send("\x03");
    assert_eq!(terminal.end().0, 130);
}

fn signals_reach_a_program(daemon: &Daemon) {
    step("signals reach a program");
    let script = "trap 'echo got; exit 5' INT; echo ready; sleep 1000 & wait";
    let words = ["exec", "--mode", "non-interactive", "v1", "--", "sh", "-c", script];
    let mut terminal = Terminal::start(daemon.berth_args(words));
    terminal.expect("ready");
    // The client's own terminal makes this a signal, which the client passes on.
    terminal.send("\x03");
    terminal.expect("got");
    assert_eq!(terminal.end().0, 5);
}

fn files_go_in_and_out(daemon: &Daemon) {
    step("files go in and out");
    let work = tempfile::tempdir().unwrap();
    let tree = work.path().join("tree");
    std::fs::create_dir_all(tree.join("deep/er")).unwrap();
    std::fs::write(tree.join("deep/er/file"), vec![7; 3_000_000]).unwrap();
    std::os::unix::fs::symlink("deep/er/file", tree.join("link")).unwrap();
    daemon.berth_args(["file", "push", "-r", tree.to_str().unwrap(), "v1/root/"]).ok();
    assert_eq!(sh(daemon, "v1", "readlink /root/tree/link; wc -c < /root/tree/link"), "deep/er/file\n3000000\n");
    daemon.berth_args(["file", "pull", "-r", "v1/root/tree", work.path().join("back").to_str().unwrap(), "-p"]).ok();
    let back = if work.path().join("back/tree").exists() { "back/tree" } else { "back" };
    let back = work.path().join(back);
    assert_eq!(std::fs::read(back.join("deep/er/file")).unwrap(), vec![7; 3_000_000]);
    assert_eq!(std::fs::read_link(back.join("link")).unwrap(), Path::new("deep/er/file"));
    daemon.berth("file push --mode 0640 --uid 1000 --gid 1000 - v1/root/stdin").input("piped").ok();
    assert_eq!(sh(daemon, "v1", "stat -c '%a %u %g' /root/stdin"), "640 1000 1000\n");
    assert_eq!(daemon.berth("file pull v1/root/stdin -").ok(), "piped");
    daemon.berth("file delete v1/root/stdin").ok();
    assert!(daemon.berth("file pull v1/root/stdin -").fails().contains("stdin"));
}

fn its_console_can_be_used(daemon: &Daemon) {
    step("its console can be used");
    let mut console = Terminal::start(daemon.berth("console v1"));
    console.expect("v1 login:");
    let busy = daemon.berth("console v1").fails();
    assert!(busy.contains("--force"), "{busy}");
    console.send("nobody-there\r");
    console.expect("Password:");
    console.send("\x01q");
    assert_eq!(console.end().0, 0);
    let log = daemon.berth("console v1 --show-log").ok();
    assert!(log.contains("v1 login:") && log.contains("Password:"), "{log}");
}

fn it_is_paused_and_goes_on(daemon: &Daemon) {
    step("it is paused and goes on");
    daemon.berth("pause v1").ok();
    assert_eq!(status(daemon, "v1"), "FROZEN");
    assert!(daemon.berth("exec v1 -- true").fails().contains("frozen"));
    daemon.berth("start v1").ok();
    assert_eq!(status(daemon, "v1"), "RUNNING");
    daemon.berth("exec v1 -- true").ok();
}

fn it_is_configured(daemon: &Daemon) {
    step("it is configured");
    daemon.berth("config set v1 user.note=kept").ok();
    assert_eq!(daemon.berth("config get v1 user.note").ok(), "kept\n");
    assert!(daemon.berth("config show v1").ok().contains("limits.memory: 768MiB"));
    assert!(daemon.berth("rename v1 v2").fails().contains("running"));
    assert!(daemon.berth("delete v1").fails().contains("running"));
}

fn it_restarts_from_inside(daemon: &Daemon) {
    step("it restarts from inside");
    let events = Events::watch(daemon);
    let boot = sh(daemon, "v1", "cat /proc/sys/kernel/random/boot_id");
    // It may go down before the answer is out.
    daemon.berth("exec v1 -- systemctl reboot").any();
    events.wait_for("instance-restarted", "v1");
    events.wait_for("instance-ready", "v1");
    assert_ne!(sh(daemon, "v1", "cat /proc/sys/kernel/random/boot_id"), boot);
    wait_booted(daemon, "v1");
    assert_eq!(sh(daemon, "v1", "stat -c %s /root/tree/deep/er/file"), "3000000\n", "its disk is the same");
}

fn it_shuts_down_cleanly(daemon: &Daemon) {
    step("it shuts down cleanly");
    daemon.berth("stop v1").ok();
    assert_eq!(status(daemon, "v1"), "STOPPED");
    let log = daemon.berth("console v1 --show-log").ok();
    assert!(log.contains("Reached target") && log.contains("reboot: Power down"), "systemd took it down: {log}");
    assert!(daemon.berth("stop v1").fails().contains("already stopped"));
    assert!(daemon.berth("file pull v1/etc/hostname -").fails().contains("start it first"));
}

/// LXD's client wants an image of the type of the instance; ours, which is both, has the alias `debian/12/vm` for it.
fn the_real_lxc_works_with_it(daemon: &Daemon) {
    step("the real lxc works with it");
    let events = Events::watch(daemon);
    daemon.lxc("launch debian/12/vm l1 --vm").ok();
    events.wait_for("instance-ready", "l1");
    wait_booted(daemon, "l1");
    let list = daemon.lxc("list --format csv --columns nst4").ok();
    assert!(list.starts_with("l1,RUNNING,VIRTUAL-MACHINE,") && list.contains("(eth0)"), "{list}");
    let info = daemon.lxc("info l1").ok();
    assert!(info.contains("Type: virtual-machine") && info.contains("eth0"), "{info}");
    let output = daemon.lxc_args(["exec", "l1", "--", "sh", "-c", "uname -s; cat; echo err >&2; exit 3"]).input("in");
    let output = output.any();
    assert_eq!((output.status, output.stdout.as_str(), output.stderr.as_str()), (3, "Linux\nin", "err\n"));
    assert!(daemon.lxc("console l1 --show-log").ok().contains("l1 login:"));
    let work = tempfile::tempdir().unwrap();
    std::fs::create_dir(work.path().join("tree")).unwrap();
    std::fs::write(work.path().join("tree/file"), "content").unwrap();
    daemon.lxc_args(["file", "push", "-r", work.path().join("tree").to_str().unwrap(), "l1/root/"]).ok();
    daemon.lxc_args(["file", "pull", "-r", "l1/root/tree", work.path().join("back").to_str().unwrap()]).ok();
    assert_eq!(daemon.lxc("file pull l1/root/tree/file -").ok(), "content");
    assert!(work.path().join("back").exists());
    daemon.lxc("stop l1").ok();
    assert_eq!(status(daemon, "l1"), "STOPPED");
    daemon.lxc("start l1").ok();
    events.wait_for("instance-started", "l1");
    events.wait_for("instance-ready", "l1");
    wait_booted(daemon, "l1");
    // Switched off from inside, it stays off.
    daemon.lxc("exec l1 -- systemctl poweroff").any();
    events.wait_for("instance-shutdown", "l1");
    assert_eq!(status(daemon, "l1"), "STOPPED");
    daemon.lxc("delete l1").ok();
    assert_eq!(daemon.lxc("list --format csv").ok(), "");
}
