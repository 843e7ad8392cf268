//! Containers from a small image, through `berth`.

use std::path::Path;

use berth_tests::Daemon;

#[test]
fn a_life() {
    let daemon = Daemon::with_busybox();
    let said = daemon.berth("launch busybox c1").ok();
    assert!(said.contains("Creating c1") && said.contains("Starting c1"), "{said}");
    assert_eq!(daemon.berth("list --format csv --columns ns").ok(), "c1,RUNNING\n");
    assert_eq!(daemon.berth("exec c1 -- hostname").ok(), "c1\n");
    assert_eq!(daemon.instance("c1")["type"], "container");

    let first = daemon.instance_pid("c1");
    daemon.berth("restart --force c1").ok();
    assert_ne!(daemon.instance_pid("c1"), first);

    daemon.berth("pause c1").ok();
    assert_eq!(daemon.berth("list --format csv --columns ns").ok(), "c1,FROZEN\n");
    assert!(daemon.berth("exec c1 -- true").fails().contains("frozen"));
    daemon.berth("start c1").ok();
    assert_eq!(daemon.berth("list --format csv --columns ns").ok(), "c1,RUNNING\n");

    daemon.berth("stop --force c1").ok();
    assert_eq!(daemon.berth("list --format csv --columns ns").ok(), "c1,STOPPED\n");
    daemon.berth("rename c1 c2").ok();
    daemon.berth("start c2").ok();
    assert_eq!(daemon.berth("exec c2 -- hostname").ok(), "c2\n");
    assert!(daemon.berth("delete c2").fails().contains("running"));
    daemon.berth("delete --force c2").ok();
    assert_eq!(daemon.berth("list --format csv").ok(), "");
    daemon.finish();
}

#[test]
fn exec_passes_everything_on() {
    let daemon = Daemon::with_busybox();
    daemon.berth("launch busybox c1").ok();
    let status = |words: &str| daemon.berth(words).any().status;
    assert_eq!(status("exec c1 -- true"), 0);
    assert_eq!(daemon.berth_args(["exec", "c1", "--", "sh", "-c", "exit 7"]).any().status, 7);
    assert_eq!(daemon.berth_args(["exec", "c1", "--", "sh", "-c", "kill -9 $$"]).any().status, 137);
    assert_eq!(status("exec c1 -- /no/such/program"), 127);
    assert_eq!(status("exec c1 -- /etc/passwd"), 126);

    let output = daemon.berth_args(["exec", "c1", "--", "sh", "-c", "echo out; echo err >&2"]).any();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    let large = "0123456789abcdef\n".repeat(100_000);
    assert_eq!(daemon.berth("exec c1 -- cat").input(large.clone()).ok(), large);
    assert_eq!(daemon.berth("exec c1 --cwd /tmp -- pwd").ok(), "/tmp\n");
    assert_eq!(daemon.berth_args(["exec", "c1", "--env", "A=b c", "--", "sh", "-c", "echo $A"]).ok(), "b c\n");
    assert_eq!(daemon.berth("exec c1 --user 1000 --group 1000 -- id -u").ok(), "1000\n");
    assert!(daemon.berth("exec c1 -t -- tty").ok().starts_with("/dev/pts/"));
    // Nothing will be mounted over what a program sees that is quicker than the init.
    assert_eq!(daemon.berth_args(["exec", "c1", "--", "grep", "-c", " /run tmpfs ", "/proc/mounts"]).ok(), "1\n");

    // A program that is exec'd is as unprivileged as the container's own.
    let map = daemon.berth("exec c1 -- cat /proc/self/uid_map").ok();
    let base: u32 = map.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(base >= 1_000_000, "{map}");
    assert_eq!(map, daemon.berth("exec c1 -- cat /proc/1/uid_map").ok());
    let descriptors = daemon.berth("exec c1 -- ls /proc/self/fd").ok();
    assert_eq!(descriptors, "0\n1\n2\n3\n", "3 is the directory that ls reads");
    daemon.finish();
}

#[test]
fn files_go_in_and_out_whether_it_runs_or_not() {
    let daemon = Daemon::with_busybox();
    daemon.berth("launch busybox c1").ok();
    let work = tempfile::tempdir().unwrap();
    let tree = work.path().join("tree");
    std::fs::create_dir_all(tree.join("deep/er")).unwrap();
    std::fs::write(tree.join("deep/er/file"), vec![7; 3_000_000]).unwrap();
    std::os::unix::fs::symlink("deep/er/file", tree.join("link")).unwrap();
    for running in [true, false] {
        if !running {
            daemon.berth("stop --force c1").ok();
        }
        let back = work.path().join(format!("back-{running}"));
        std::fs::create_dir(&back).unwrap();
        daemon.berth_args(["file", "push", "-r", tree.to_str().unwrap(), "c1/root/"]).ok();
        daemon.berth_args(["file", "pull", "-r", "c1/root/tree", back.to_str().unwrap()]).ok();
        assert_eq!(std::fs::read(back.join("tree/deep/er/file")).unwrap(), vec![7; 3_000_000]);
        assert_eq!(std::fs::read_link(back.join("tree/link")).unwrap(), Path::new("deep/er/file"));
        daemon.berth("file push --mode 0640 --uid 1000 --gid 1000 - c1/root/stdin").input("piped").ok();
        assert_eq!(daemon.berth("file pull c1/root/stdin -").ok(), "piped");
        daemon.berth("file delete c1/root/stdin").ok();
        assert!(daemon.berth("file pull c1/root/stdin -").fails().contains("stdin"));
    }
    daemon.finish();
}

#[test]
fn a_link_never_leads_out_of_a_container() {
    let daemon = Daemon::with_busybox();
    let secret = daemon.dir().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    daemon.berth("launch busybox c1").ok();
    let target = secret.to_str().unwrap();
    for link in [target.to_owned(), format!("/../../../..{target}"), format!("/proc/1/root{target}")] {
        daemon.berth_args(["exec", "c1", "--", "ln", "-sf", &link, "/tmp/link"]).ok();
        for running in [true, false] {
            if !running {
                daemon.berth("stop --force c1").ok();
            }
            daemon.berth("file push - c1/tmp/link").input("from inside").any();
            let pulled = daemon.berth("file pull c1/tmp/link -").any();
            assert!(!pulled.stdout.contains("of the host"), "{link}: {pulled:?}");
            assert_eq!(std::fs::read_to_string(&secret).unwrap(), "of the host", "{link}");
        }
        daemon.berth("start c1").ok();
    }
    daemon.finish();
}

#[test]
fn a_killed_daemon_finds_its_instances_again() {
    let mut daemon = Daemon::with_busybox();
    daemon.berth("launch busybox c1").ok();
    daemon.berth("launch busybox c2").ok();
    let before = (daemon.instance_pid("c1"), daemon.instance_pid("c2"));
    daemon.kill();
    // One of them ends while no daemon is there.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(before.1 as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    daemon.spawn();
    assert_eq!(daemon.instance_pid("c1"), before.0);
    assert_eq!(daemon.berth("exec c1 -- echo still here").ok(), "still here\n");
    daemon.berth("stop --force c1").ok();
    daemon.finish();
}

#[test]
fn a_container_is_not_stopped_with_its_run_state() {
    let daemon = Daemon::with_busybox();
    daemon.berth("launch busybox c1").ok();
    let said = daemon.berth("stop c1 --stateful").fails();
    assert!(said.contains("container") && said.contains("--stateful"), "{said}");
    assert_eq!(daemon.berth("exec c1 -- echo it runs").ok(), "it runs\n");
    daemon.berth("stop c1 --force").ok();
    let body = r#"{"action":"start","stateful":true}"#;
    let said = daemon.berth_args(["query", "--wait", "-X", "PUT", "-d", body, "/1.0/instances/c1/state"]).fails();
    assert!(said.contains("no existing state"), "{said}");
    daemon.finish();
}

#[test]
fn limits_reach_the_cgroup() {
    let daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1 -c limits.memory=64MiB -c limits.processes=50 -c limits.cpu=1").ok();
    daemon.berth("start c1").ok();
    let path = daemon.berth("exec c1 -- cat /proc/self/status").ok();
    let cpus = path.lines().find(|line| line.starts_with("Cpus_allowed_list:")).unwrap();
    assert!(!cpus.contains(['-', ',']), "one CPU only: {cpus}");
    let bomb = "i=0; while [ $i -lt 100 ]; do sleep 5 & i=$((i+1)); done; wait";
    let output = daemon.berth_args(["exec", "c1", "--", "sh", "-c", bomb]).any();
    assert!(output.stderr.contains("fork"), "the number of processes is limited: {output:?}");
    let hog = "head -c 200000000 /dev/zero | tail -c 200000000 >/dev/null";
    let output = daemon.berth_args(["exec", "c1", "--", "busybox", "sh", "-c", hog]).any();
    assert_ne!(output.status, 0, "memory is limited: {output:?}");
    daemon.finish();
}
